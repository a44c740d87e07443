//! The tags of the cluster, of node groups, nodes, instances and networks.

use std::sync::Arc;

use serde_json::{Value, json};

use model::compat::Compat;
use model::engine::Engine;
use model::param::TagKind;

use crate::error::HttpError;
use crate::fill::{self, Filling};
use crate::input::Input;
use crate::resources::json;
use crate::route::Answering;

/// Whose tags a request is about.
fn object(input: &Input) -> (TagKind, Option<&str>) {
    let kind = match input.path_vars.first() {
        None => return (TagKind::Cluster, None),
        Some(("instance_name", _)) => TagKind::Instance,
        Some(("node_name", _)) => TagKind::Node,
        Some(("network_name", _)) => TagKind::Network,
        Some(_) => TagKind::Nodegroup,
    };
    (kind, input.path_vars.first().map(|(_, name)| name.as_str()))
}

/// GET of tags.
pub(crate) fn get<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let (kind, name) = object(input);
        json(engine.query_tags(kind, name.unwrap_or_default()).await?)
    })
}

/// PUT of tags: those in the query, and those in a body that is a list, as Ganeti's documents have it; its daemon only
/// looks at the query (3.0.2, `rapi/rlib2.py`).
pub(crate) fn set(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let listed = fill::body(input).as_array().cloned().unwrap_or_default();
    filling(input, listed)
}

/// DELETE of tags: those in the query.
pub(crate) fn delete(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    filling(input, Vec::new())
}

fn filling(input: &Input, listed: Vec<Value>) -> Result<Filling, HttpError> {
    let (kind, name) = object(input);
    let tags: Vec<Value> = input.all("tag").map(Value::from).chain(listed).collect();
    let fixed = vec![
        ("kind", json!(kind.as_str())),
        ("name", json!(name)),
        ("tags", json!(tags)),
        ("dry_run", json!(input.flag("dry-run")?)),
    ];
    Ok(Filling { free: json!({}), fixed })
}

/// The body of PUT.
pub(crate) fn schema() -> Value {
    json!({
        "type": "array",
        "items": {"type": "string"},
        "description": "Tags beside those in the query.",
    })
}
