//! What is not a plain row about nodes: roles, evacuation and migration in their older forms, storage.

use std::sync::Arc;

use serde_json::{Value, json};

use model::compat::Compat;
use model::engine::Engine;
use model::param::Dict;
use model::python;
use model::query::Item;

use crate::error::HttpError;
use crate::fill::{self, Filling};
use crate::input::Input;
use crate::resources::json;
use crate::route::Answering;

fn node_name(input: &Input) -> Value {
    json!(input.path_var("node_name"))
}

/// GET of a role.
pub(crate) fn role<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let lock = input.flag("lock")?;
        let name = input.path_var("node_name").unwrap_or_default().to_owned();
        let rows = engine.query_items(Item::Node, &[name], &["role"], lock).await?.made()?;
        // Ganeti: a node that is not known is Python's error here, not a 404 (3.0.2, `rapi/rlib2.py`).
        let row = rows.first().ok_or_else(|| HttpError::internal("list index out of range"))?;
        let letter = row.first().cloned().unwrap_or_default();
        json(match letter.as_str() {
            Some("M") => "master",
            Some("C") => "master-candidate",
            Some("D") => "drained",
            Some("O") => "offline",
            Some("R") => "regular",
            _ => return Err(HttpError::internal(python::repr(&letter))),
        })
    })
}

/// PUT of a role: the body is its name.
pub(crate) fn set_role(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let body = fill::body(input);
    let Value::String(role) = body else {
        return Err(fill::wrong_type("Body contents", body, "str"));
    };
    let (candidate, offline, drained) = match role.as_str() {
        "regular" => (Some(false), Some(false), Some(false)),
        "master-candidate" => (Some(true), None, None),
        "drained" => (None, None, Some(true)),
        "offline" => (None, Some(true), None),
        _ => return Err(HttpError::bad_request(format!("Can't set '{role}' role"))),
    };
    let fixed = vec![
        ("node_name", node_name(input)),
        ("master_candidate", json!(candidate)),
        ("offline", json!(offline)),
        ("drained", json!(drained)),
        ("force", json!(input.flag("force")?)),
        ("auto_promote", json!(input.flag("auto-promote")?)),
    ];
    Ok(Filling { free: json!({}), fixed })
}

/// The body of PUT of a role.
pub(crate) fn role_schema() -> Value {
    json!({"type": "string", "enum": ["regular", "master-candidate", "drained", "offline"]})
}

/// Evacuation. Without a body the arguments of Ganeti 2.1 to 2.4 count: they moved the secondaries, which is now a mode; the
/// daemon ignores them and misses the mode (3.0.2).
pub(crate) fn evacuate(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let mut free = fill::body(input).clone();
    let names = ["iallocator", "remote_node"];
    if !python::truthy(&free) && names.iter().any(|name| input.first(name).is_some()) {
        let mut params = Dict::new();
        params.insert("mode".to_owned(), json!("secondary-only"));
        for name in names {
            if let Some(value) = input.first(name) {
                params.insert(name.to_owned(), json!(value));
            }
        }
        if input.first("early_release").is_some() {
            params.insert("early_release".to_owned(), json!(input.flag("early_release")?));
        }
        free = Value::Object(params);
    }
    let fixed = vec![("node_name", node_name(input)), ("dry_run", json!(input.flag("dry-run")?))];
    Ok(Filling { free, fixed })
}

/// Migration. Ganeti: any query argument at all means the older form, and the body is not looked at (3.0.2).
pub(crate) fn migrate(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let fixed = vec![("node_name", node_name(input))];
    if input.query.is_empty() {
        return Ok(Filling { free: fill::body(input).clone(), fixed });
    }
    let mode = match (input.int("live"), input.first("mode")) {
        (Ok(None), mode) => mode,
        (_, Some(_)) => {
            return Err(HttpError::bad_request("Only one of 'live' and 'mode' should be passed"));
        }
        (live, None) => Some(if live? == Some(0) { "non-live" } else { "live" }),
    };
    Ok(Filling { free: json!({"mode": mode}), fixed })
}

/// Lists storage units.
pub(crate) fn storage(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let Some(output_fields) = input.first("output_fields") else {
        return Err(HttpError::bad_request("Missing the required 'output_fields' parameter"));
    };
    let fixed = vec![
        ("nodes", json!([node_name(input)])),
        ("storage_type", json!(input.first("storage_type"))),
        ("output_fields", output_fields.split(',').collect()),
    ];
    Ok(Filling { free: json!({}), fixed })
}

/// Changes a storage unit.
pub(crate) fn storage_modify(input: &Input, compat: Compat) -> Result<Filling, HttpError> {
    let mut filling = storage_repair(input, compat)?;
    let mut changes = Dict::new();
    if input.first("allocatable").is_some() {
        changes.insert("allocatable".to_owned(), json!(input.flag("allocatable")?));
    }
    filling.fixed.push(("changes", Value::Object(changes)));
    Ok(filling)
}

/// Repairs a storage unit.
pub(crate) fn storage_repair(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let Some(name) = input.first("name") else {
        return Err(HttpError::bad_request("Missing the required 'name' parameter"));
    };
    let fixed = vec![
        ("node_name", node_name(input)),
        ("storage_type", json!(input.first("storage_type"))),
        ("name", json!(name)),
    ];
    Ok(Filling { free: json!({}), fixed })
}
