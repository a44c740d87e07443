//! What is not a plain row about instances: creation and its request data version, several at once, reinstallation in one job
//! of several opcodes, the older forms of replacing disks, consoles.

use std::sync::Arc;

use serde_json::{Value, json};

use model::compat::Compat;
use model::engine::Engine;
use model::opcode::{Audience, InstanceReinstall, Op, OpId};
use model::param::{Dict, NonEmpty};
use model::python;
use model::query::Item;

use crate::error::HttpError;
use crate::fill::{self, Filling};
use crate::input::Input;
use crate::resources::{json, submit};
use crate::route::Answering;

/// The member of a creation's body that says in which form it is.
const VERSION: &str = "__version__";

/// The older names in a creation.
const CREATE_RENAMES: &[(&str, &str)] = &[("os", "os_type"), ("name", "instance_name")];

fn instance_name(input: &Input) -> &str {
    input.path_var("instance_name").unwrap_or_default()
}

/// Creation.
pub(crate) fn create(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let body = fill::body(input);
    let Value::Object(params) = body else {
        return Err(fill::wrong_type("Body contents", body, "dict"));
    };
    let mut params = params.clone();
    // Python finds `true` and `1.0` equal to 1, and `false` and `0.0` to 0.
    let version = params.shift_remove(VERSION).unwrap_or_else(|| json!(0));
    let number = match &version {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        other => other.as_f64(),
    };
    if number == Some(0.0) {
        return Err(HttpError::bad_request(
            "Instance creation request version 0 is no longer supported: send '__version__': 1 with 'mode', \
             'instance_name', 'disks', 'nics' and what else the instance has",
        ));
    }
    if number != Some(1.0) {
        let version = python::str(&version);
        return Err(HttpError::bad_request(format!("Unsupported request data version {version}")));
    }
    convert_usb_devices(&mut params)?;
    let fixed = vec![("dry_run", json!(input.flag("dry-run")?))];
    Ok(Filling { free: Value::Object(params), fixed })
}

/// Ganeti: USB devices may be given with blanks between, and are kept with commas (3.0.2, `rapi/rlib2.py`).
fn convert_usb_devices(params: &mut Dict) -> Result<(), HttpError> {
    let devices = match params.get_mut("hvparams") {
        None => return Ok(()),
        Some(Value::Object(hvparams)) => hvparams.get_mut("usb_devices"),
        Some(other) => return Err(fill::not_a_dict(other)),
    };
    match devices {
        None => Ok(()),
        Some(Value::String(devices)) => {
            *devices = devices.replace(' ', ",");
            Ok(())
        }
        Some(other) => Err(fill::no_attribute(other, "replace")),
    }
}

/// Several creations at once: each is filled as an opcode of its own.
pub(crate) fn multi_alloc(input: &Input, compat: Compat) -> Result<Filling, HttpError> {
    let body = fill::body(input);
    let missing =
        || HttpError::bad_request("Request is missing required 'instances' field in body");
    let mut params = match body {
        Value::Object(params) => params.clone(),
        // Ganeti: whether the member is there is asked before the body is known to be an object (3.0.2).
        Value::Array(items) if items.iter().any(|item| item == "instances") => {
            return Err(fill::not_a_dict(body));
        }
        Value::String(text) if text.contains("instances") => return Err(fill::not_a_dict(body)),
        Value::Array(_) | Value::String(_) => return Err(missing()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let found = python::type_name(body);
            return Err(HttpError::internal(format!("argument of type '{found}' is not iterable")));
        }
    };
    let instances = match params.get("instances").ok_or_else(missing)? {
        Value::Array(items) => items.clone(),
        Value::String(text) => text.chars().map(|c| json!(c.to_string())).collect(),
        Value::Object(items) => items.keys().map(|key| json!(key)).collect(),
        other => return Err(fill::not_iterable(other)),
    };
    let fill_one = |instance: Value| {
        let op = OpId::InstanceCreate;
        let op = fill::fill_op(op, instance, Vec::new(), CREATE_RENAMES, compat)?;
        Ok(Value::Object(op.to_wire(Audience::Engine, compat)))
    };
    let instances: Vec<Value> =
        instances.into_iter().map(fill_one).collect::<Result<_, HttpError>>()?;
    params.insert("instances".to_owned(), Value::Array(instances));
    let fixed = vec![("dry_run", json!(input.flag("dry-run")?))];
    Ok(Filling { free: Value::Object(params), fixed })
}

/// Removal.
pub(crate) fn remove(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let fixed = vec![
        ("instance_name", json!(instance_name(input))),
        ("ignore_failures", json!(false)),
        ("dry_run", json!(input.flag("dry-run")?)),
    ];
    Ok(Filling { free: fill::body(input).clone(), fixed })
}

/// The job that finds out all about an instance.
pub(crate) fn info(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let fixed = vec![
        ("instances", json!([instance_name(input)])),
        ("static", json!(input.flag("static")?)),
    ];
    Ok(Filling { free: json!({}), fixed })
}

/// Modification.
pub(crate) fn modify(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let mut free = fill::body(input).clone();
    match &mut free {
        Value::Object(params) => convert_usb_devices(params)?,
        // Ganeti: the body is copied and looked into before it is known to be an object (3.0.2).
        Value::Array(_) => return Err(fill::not_a_dict(&free)),
        other => return Err(fill::no_attribute(other, "copy")),
    }
    Ok(Filling { free, fixed: vec![("instance_name", json!(instance_name(input)))] })
}

/// Replacement of disks: a body that is not empty counts, else the arguments of Ganeti 2.1 to 2.4.
pub(crate) fn replace_disks(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let body = fill::body(input);
    let mut params = match body {
        Value::Object(params) if !params.is_empty() => params.clone(),
        body if !python::truthy(body) => legacy_replace_disks(input),
        Value::Array(_) => {
            return Err(HttpError::internal("'str' object cannot be interpreted as an integer"));
        }
        other => return Err(fill::no_attribute(other, "pop")),
    };
    match params.shift_remove("disks") {
        Some(disks) if python::truthy(&disks) => {
            params.insert("disks".to_owned(), disk_indices(disks)?);
        }
        _ => {}
    }
    let fixed = vec![("instance_name", json!(instance_name(input)))];
    Ok(Filling { free: Value::Object(params), fixed })
}

fn legacy_replace_disks(input: &Input) -> Dict {
    if input.query.is_empty() {
        return Dict::new();
    }
    let names = ["remote_node", "mode", "disks", "iallocator"];
    names.iter().map(|name| ((*name).to_owned(), json!(input.first(name)))).collect()
}

/// Indices of disks: a list of integers, or a text with commas between them.
fn disk_indices(disks: Value) -> Result<Value, HttpError> {
    match &disks {
        Value::Array(items) if items.iter().all(|item| item.is_i64() || item.is_u64()) => Ok(disks),
        Value::String(text) => {
            let index = |part: &str| match python::int(part) {
                Some(index) => Ok(json!(i64::try_from(index).unwrap_or(i64::MAX))),
                None => Err(HttpError::bad_request(format!(
                    "Invalid disk index passed: invalid literal for int() with base 10: {}",
                    python::repr_str(part)
                ))),
            };
            text.split(',').map(index).collect()
        }
        other => Err(fill::no_attribute(other, "split")),
    }
}

/// Reinstallation: a job that stops the instance, installs, and starts it again.
pub(crate) fn reinstall<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let ops = reinstall_ops(input, engine.compat())?;
        json(submit(engine, ops).await?.0)
    })
}

fn reinstall_ops(input: &Input, compat: Compat) -> Result<Vec<Op>, HttpError> {
    let body = fill::body(input);
    let mut params = Dict::new();
    if python::truthy(body) {
        if !input.query.is_empty() {
            return Err(HttpError::bad_request("Can't combine query and body parameters"));
        }
        let Value::Object(given) = body else {
            return Err(HttpError::bad_request("Invalid body contents, not a dictionary"));
        };
        params.clone_from(given);
    } else if !input.query.is_empty() {
        params.insert("os".to_owned(), json!(input.first("os")));
        params.insert("start".to_owned(), json!(!input.flag("nostartup")?));
    }
    let start = match params.get("start") {
        None => true,
        Some(Value::Bool(start)) => *start,
        Some(other) => return Err(fill::wrong_type("'start' parameter", other, "bool")),
    };
    let reinstall = reinstall_op(instance_name(input), &params)?;
    let stop = named(OpId::InstanceShutdown, instance_name(input), compat)?;
    let mut ops = vec![stop, reinstall];
    if start {
        ops.push(named(OpId::InstanceStartup, instance_name(input), compat)?);
    }
    Ok(ops)
}

/// An opcode with nothing but the instance's name given.
fn named(op: OpId, name: &str, compat: Compat) -> Result<Op, HttpError> {
    let fixed = vec![("instance_name", json!(name))];
    fill::fill_op(op, Value::Null, fixed, &[], compat)
}

/// Ganeti: these parameters are only checked by the master daemon, in its own words (3.0.2, `rapi/rlib2.py`).
fn reinstall_op(name: &str, params: &Dict) -> Result<Op, HttpError> {
    let unreadable = |param: &str, expected: &str| {
        let text = format!(
            "Failed to parse request: SubmitJob: Can't parse value for '{param}': {expected}"
        );
        Err(HttpError::new(502, text))
    };
    let os_type = match params.get("os") {
        None | Some(Value::Null) => None,
        Some(Value::String(os)) => match NonEmpty::new(os.as_str()) {
            Some(os) => Some(os),
            None => return unreadable("os_type", "Received empty value for non-empty list"),
        },
        // Haskell: a text is a list of characters.
        Some(Value::Array(none)) if none.is_empty() => {
            return unreadable("os_type", "Received empty value for non-empty list");
        }
        Some(_) => return unreadable("os_type", "Unable to read String"),
    };
    let osparams = match params.get("osparams") {
        None | Some(Value::Null) => None,
        Some(Value::Object(osparams)) => Some(osparams.clone()),
        Some(_) => return unreadable("osparams", "Unable to read JSObject"),
    };
    Ok(Op::from(InstanceReinstall {
        instance_name: name.to_owned(),
        instance_uuid: None,
        force_variant: false,
        os_type,
        osparams,
        osparams_private: None,
        osparams_secret: None,
    }))
}

/// The body of a reinstallation.
pub(crate) fn reinstall_schema() -> Value {
    json!({"type": "object", "properties": {
        "os": {"type": ["string", "null"], "description": "The operating system; by default the one that the instance has."},
        "start": {"type": "boolean", "default": true, "description": "Whether the instance is started afterwards."},
        "osparams": {"type": ["object", "null"], "description": "Parameters for the scripts of the operating system."},
    }})
}

/// GET of a console.
pub(crate) fn console<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let names = [instance_name(input).to_owned()];
        let fields = ["console", "oper_state"];
        let rows = engine.query_items(Item::Instance, &names, &fields, false).await?.made()?;
        // Ganeti: an instance that is not known is Python's error here, not a 404 (3.0.2, `rapi/rlib2.py`).
        let row = rows.first().ok_or_else(|| HttpError::internal("list index out of range"))?;
        match row.as_slice() {
            [Value::Object(console), state] if python::truthy(state) => {
                let given = console.iter().filter(|(_, value)| !value.is_null());
                json(Value::Object(given.map(|(k, v)| (k.clone(), v.clone())).collect()))
            }
            // Ganeti: an instance that runs has a console, else Python's assertion fails (3.0.2). luxid cannot read all it hears of.
            [_, state] if python::truthy(state) => Err(HttpError::plain(500)),
            _ => Err(HttpError::new(503, "Instance console unavailable")),
        }
    })
}
