//! The rules that hold jobs back, refuse them or let them pass.

use std::sync::Arc;

use serde_json::{Value, json};

use model::engine::{Engine, FilterRule};

use crate::error::HttpError;
use crate::fill;
use crate::input::Input;
use crate::resources::{json, zip};
use crate::route::Answering;

const FIELDS: &[&str] = &["watermark", "priority", "predicates", "action", "reason_trail", "uuid"];

fn uuid(input: &Input) -> String {
    input.path_var("filter_uuid").unwrap_or_default().to_owned()
}

/// GET of all rules.
pub(crate) fn list<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        if input.flag("bulk")? {
            let rows = engine.query_filters(None, FIELDS).await?;
            return json(
                rows.into_iter()
                    .map(|row| zip(FIELDS, Arc::unwrap_or_clone(row)))
                    .collect::<Value>(),
            );
        }
        let rows = engine.query_filters(None, &["uuid"]).await?;
        let mut uuids: Vec<&str> = rows.iter().filter_map(|row| row.first()?.as_str()).collect();
        uuids.sort_unstable();
        let entry = |uuid: &&str| json!({"uuid": uuid, "uri": format!("/2/filters/{uuid}")});
        json(uuids.iter().map(entry).collect::<Value>())
    })
}

/// POST of a rule.
pub(crate) fn add<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let rule = read_rule(fill::body(input), None)?;
        json(engine.replace_filter(None, rule).await?.as_str())
    })
}

/// GET of a rule.
pub(crate) fn show<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let rows = engine.query_filters(Some(&[uuid(input)]), FIELDS).await?;
        let row = rows.into_iter().next().ok_or_else(HttpError::not_found)?;
        json(zip(FIELDS, Arc::unwrap_or_clone(row)))
    })
}

/// PUT of a rule.
pub(crate) fn replace<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let uuid = uuid(input);
        let rule = read_rule(fill::body(input), Some(&uuid))?;
        json(engine.replace_filter(Some(uuid), rule).await?.as_str())
    })
}

/// DELETE of a rule.
pub(crate) fn delete<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        engine.delete_filter(&uuid(input)).await?;
        json(Value::Null)
    })
}

/// Reads a rule; what lies deeper in it is the engine's to judge.
fn read_rule(body: &Value, uuid: Option<&str>) -> Result<FilterRule, HttpError> {
    let Value::Object(body) = body else {
        return Err(HttpError::bad_request("Invalid body contents, not a dictionary"));
    };
    let known = ["priority", "predicates", "action", "reason"];
    if let Some(other) = body.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(HttpError::bad_request(format!(
            "Invalid body parameters: filter rule doesn't support the parameter '{other}'"
        )));
    }
    let list = |name: &str| match body.get(name) {
        None => Ok(json!([])),
        Some(list @ Value::Array(_)) => Ok(list.clone()),
        Some(other) => Err(fill::wrong_type(&format!("'{name}' parameter"), other, "list")),
    };
    let priority = match body.get("priority") {
        None => json!(0),
        // Python takes a boolean for an integer, and the master daemon does not.
        Some(value @ (Value::Number(_) | Value::Bool(_))) if !value.is_f64() => value.clone(),
        Some(other) => return Err(fill::wrong_type("'priority' parameter", other, "int")),
    };
    let predicates = list("predicates")?;
    let action = body.get("action").cloned().unwrap_or_else(|| json!("CONTINUE"));
    let reason = list("reason")?;
    let Some(number) = priority.as_u64() else {
        let why = match &priority {
            Value::Number(number) => format!("Invalid value for non-negative type '{number}'"),
            _ => "Unable to read Int".to_owned(),
        };
        return Err(fill::unreadable(&json!([uuid, priority, predicates, action, reason]), &why));
    };
    Ok(FilterRule { priority: number, predicates, action, reason })
}

/// The body of POST and PUT.
pub(crate) fn schema() -> Value {
    json!({"type": "object", "properties": {
        "priority": {"type": "integer", "minimum": 0, "default": 0, "description": "Rules of a lower number are looked at first."},
        "predicates": {"type": "array", "default": [], "description": "`[[name, expression], …]`, all of which must hold: `jobid`, `opcode` or `reason`."},
        "action": {"default": "CONTINUE", "description": "`ACCEPT`, `PAUSE`, `REJECT`, `CONTINUE`, or `[\"RATE_LIMIT\", n]`."},
        "reason": {"type": "array", "default": [], "description": "Why: `[[source, text, nanoseconds], …]`."},
    }})
}
