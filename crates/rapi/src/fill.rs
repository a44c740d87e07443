//! How a request is poured into an opcode: what the client may choose, what path and query fix, and Ganeti's texts for what
//! it refuses (3.0.2, `rapi/baserlib.py`).
//!
//! A body is read as Python reads it there, so that a body of the wrong kind is refused in the same words; the small functions
//! at the end say what Python says of a value that cannot do what it is asked to.

use serde_json::{Value, json};

use model::compat::Compat;
use model::opcode::{Op, OpId, ParamError};
use model::param::Dict;
use model::python;

use crate::error::HttpError;
use crate::input::Input;
use crate::route::{Action, ArgKind, Body, Route};

/// What goes into an opcode.
pub struct Filling {
    /// What the client chose; null or an object, or else it is refused.
    pub free: Value,
    /// What path and query fix: the client may not choose it.
    pub fixed: Vec<(&'static str, Value)>,
}

/// Priorities that a submission may ask for.
const PRIORITIES: [i64; 3] = [-10, 0, 10];

/// Fills the opcode of a route that submits one.
pub fn fill(route: &Route, op: OpId, input: &Input, compat: Compat) -> Result<Op, HttpError> {
    let Filling { mut free, mut fixed } = match route.action {
        Action::Build(_, build) => build(input, compat)?,
        Action::Submit(_) | Action::List(_) | Action::Show(_) | Action::Call(_) => {
            plain(route, input)?
        }
    };
    if let (Value::Object(free), Some(depends)) = (&mut free, depends(input)) {
        free.insert("depends".to_owned(), depends.clone());
    }
    fixed.insert(0, ("reason", reason(route, input)));
    let renames = match route.body {
        Body::Params(renames) => renames,
        Body::Unused | Body::Depends | Body::Own(_) => &[],
    };
    fill_op(op, free, fixed, renames, compat)
}

/// Fills an opcode: older names first, then what is fixed, then the checks of the opcode itself.
pub fn fill_op(
    op: OpId,
    free: Value,
    fixed: Vec<(&'static str, Value)>,
    renames: &[(&str, &str)],
    compat: Compat,
) -> Result<Op, HttpError> {
    let mut params = match free {
        Value::Null => Dict::new(),
        Value::Object(params) => params,
        other => return Err(wrong_type("Body contents", &other, "dict")),
    };
    for (old, new) in renames {
        if params.contains_key(*old) && params.contains_key(*new) {
            return Err(HttpError::bad_request(format!(
                "Parameter '{old}' was renamed to '{new}', but both are specified"
            )));
        }
        if let Some(value) = params.shift_remove(*old) {
            params.insert((*new).to_owned(), value);
        }
    }
    let mut taken: Vec<&str> =
        fixed.iter().map(|(name, _)| *name).filter(|name| params.contains_key(*name)).collect();
    if !taken.is_empty() {
        // Ganeti shows a Python set here, whose order differs from one start of the daemon to the next.
        taken.sort_unstable();
        let names: Vec<String> = taken.iter().map(|name| python::repr_str(name)).collect();
        return Err(HttpError::bad_request(format!(
            "Can't overwrite static parameters {{{}}}",
            names.join(", ")
        )));
    }
    params.extend(fixed.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let filled = op.read(&params, compat).map_err(|error| refused(op, &params, &error))?;
    if !PRIORITIES.contains(&filled.common.priority) {
        let error = ParamError::Invalid { id: op.as_str(), param: "priority" };
        return Err(refused(op, &params, &error));
    }
    if !params.values().any(has_whole_float) {
        return Ok(filled);
    }
    // Ganeti's master daemon keeps 12.0 as 12; the checks above are about what was sent.
    params.values_mut().for_each(shorten_floats);
    op.read(&params, compat).map_err(|error| refused(op, &params, &error))
}

fn refused(op: OpId, params: &Dict, error: &ParamError) -> HttpError {
    let text = match error {
        ParamError::Invalid { param, .. } => unhashable(op, param, params.get(*param)),
        ParamError::Unknown { .. } | ParamError::UnknownOpcode(_) => None,
    };
    let text = text.unwrap_or_else(|| error.python_text());
    HttpError::bad_request(format!("Invalid body parameters: {text}"))
}

/// Ganeti: a list or dictionary is looked up among the values of an enumeration, where Python stops (3.0.2, `ht.py`).
fn unhashable(op: OpId, param: &str, value: Option<&Value>) -> Option<String> {
    let value = value.filter(|value| value.is_array() || value.is_object())?;
    let own = op.def().params.iter().find(|def| def.name == param);
    let of_some = own.is_some_and(|def| {
        let schema = (def.schema)();
        !schema["enum"].is_null() || !schema["anyOf"][0]["enum"].is_null()
    });
    (of_some || param == "priority")
        .then(|| format!("unhashable type: '{}'", python::type_name(value)))
}

fn has_whole_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() && number.as_f64().is_some_and(|float| float.fract() == 0.0)
        }
        Value::Array(items) => items.iter().any(has_whole_float),
        Value::Object(members) => members.values().any(has_whole_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn shorten_floats(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64() {
                *value = model::units::number(float);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten_floats),
        Value::Object(members) => members.values_mut().for_each(shorten_floats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What a row fixes by itself: the variables of its path, and the query arguments that fill a parameter.
pub fn fixed(route: &Route, input: &Input) -> Result<Vec<(&'static str, Value)>, HttpError> {
    let mut fixed = Vec::new();
    for (name, text) in &input.path_vars {
        fixed.push(match *name {
            "disk_index" => ("disk", text.parse::<u64>().map_or(Value::Null, Value::from)),
            other => (other, json!(text)),
        });
    }
    for arg in route.query {
        let Some(param) = arg.fills else { continue };
        let value = match arg.kind {
            ArgKind::Flag => json!(input.flag(arg.name)?),
            ArgKind::Text(default) => json!(input.first(arg.name).or(default)),
            ArgKind::Texts => json!(input.all(arg.name).collect::<Vec<_>>()),
        };
        fixed.push((param, value));
    }
    Ok(fixed)
}

fn plain(route: &Route, input: &Input) -> Result<Filling, HttpError> {
    let free = match route.body {
        Body::Params(_) => body(input).clone(),
        Body::Unused | Body::Depends | Body::Own(_) => json!({}),
    };
    Ok(Filling { free, fixed: fixed(route, input)? })
}

/// The body; null when there is none.
pub fn body(input: &Input) -> &Value {
    input.body.as_ref().unwrap_or(&Value::Null)
}

/// Ganeti: a `depends` in any body that is an object counts, also where nothing else of it does.
fn depends(input: &Input) -> Option<&Value> {
    body(input).as_object()?.get("depends").filter(|depends| python::truthy(depends))
}

/// Who asked for it and why.
fn reason(route: &Route, input: &Input) -> Value {
    let source = format!("gnt:library:rlib2:{}", route.resource());
    let source = json!([source, "", input.now_nanos]);
    match input.first("reason") {
        Some(text) => json!([["gnt:user", text, input.now_nanos], source]),
        None => json!([source]),
    }
}

/// A value of the wrong type, as Ganeti's `CheckType` refuses it.
pub fn wrong_type(what: &str, value: &Value, expected: &str) -> HttpError {
    let found = python::type_name(value);
    HttpError::bad_request(format!("{what}: Type is '{found}', but '{expected}' is expected"))
}

/// Python's `value[key]` for a text key, where the value is not a dictionary: what it says then.
pub fn not_a_dict(value: &Value) -> HttpError {
    HttpError::internal(match value {
        Value::Array(_) => "list indices must be integers or slices, not str".to_owned(),
        Value::String(_) => "string indices must be integers, not 'str'".to_owned(),
        other => format!("'{}' object is not subscriptable", python::type_name(other)),
    })
}

/// What Python says of a method that a value does not have.
pub fn no_attribute(value: &Value, name: &str) -> HttpError {
    HttpError::internal(format!("'{}' object has no attribute '{name}'", python::type_name(value)))
}

/// What Python says of a value that cannot be gone through.
pub fn not_iterable(value: &Value) -> HttpError {
    HttpError::internal(format!("'{}' object is not iterable", python::type_name(value)))
}

/// What the master daemon says of a call whose arguments it cannot read (3.0.2, `Ganeti.Luxi`).
pub fn unreadable(args: &Value, why: &str) -> HttpError {
    let mut text = Vec::new();
    crate::json::write_bare(&mut text, args);
    let text = String::from_utf8_lossy(&text);
    HttpError::new(
        502,
        format!("Failed to parse request: Cannot convert value '{text}', error: {why}"),
    )
}
