//! Opcodes in requests: read against their table in luxid's order of checks, refused in its words. Ganeti: 3.0.2, asked.
//!
//! What the table takes and luxid's reading does not say is left to the table: a value that only the table refuses gets the
//! error that the job would end with.

use model::compat::Compat;
use model::error::{GanetiError, Result};
use model::opcode::{COMMON_PARAMS, Op, OpId, ParamDef, ParamError};
use model::param::{
    AdminState, AdminStateSource, AllocPolicy, CreateMode, Dict, DiskTemplate, EvacuateMode,
    ExportMode, FileDriver, Hypervisor, ListChange, MigrationMode, NicMode, NonEmpty, Param,
    RebootType, ReplaceMode, StorageType, TagKind,
};
use model::query::filter::pretty;
use serde_json::{Value, json};

use super::read::{member, no_member, whole};

/// A closed set of texts: luxid's name for it, and the schema of its members.
type Set = (&'static str, fn() -> Value);

const SETS: &[Set] = &[
    ("AdminState", AdminState::schema),
    ("AdminStateSource", AdminStateSource::schema),
    ("AllocPolicy", AllocPolicy::schema),
    ("DdmSimple", ListChange::schema),
    ("DiskTemplate", DiskTemplate::schema),
    ("EvacMode", EvacuateMode::schema),
    ("ExportMode", ExportMode::schema),
    ("FileDriver", FileDriver::schema),
    ("Hypervisor", Hypervisor::schema),
    ("InstCreateMode", CreateMode::schema),
    ("MigrationMode", MigrationMode::schema),
    ("NICMode", NicMode::schema),
    ("RebootType", RebootType::schema),
    ("ReplaceDisksMode", ReplaceMode::schema),
    ("StorageType", StorageType::schema),
    ("TagKind", TagKind::schema),
];

/// Why an opcode was not read: it is none in luxid's eyes, or the table refuses a value.
pub(super) enum Refused {
    Unread(String),
    Table(GanetiError),
}

/// Reads an opcode of a request.
pub(super) fn read(value: &Value, compat: Compat) -> Result<Op, Refused> {
    let given = value.as_object().ok_or_else(|| unread("Unable to read JSObject"))?;
    let mut taken = Dict::new();
    for param in COMMON_PARAMS {
        take(param, param.name == "reason", given, &mut taken)?;
    }
    let id = match given.get("OP_ID") {
        None => return Err(missing("OP_ID", given)),
        Some(Value::String(id)) => id,
        Some(_) => return Err(unread("key 'OP_ID': Unable to read String")),
    };
    let known = OpId::parse(id).ok_or_else(|| unread(format!("Unknown opcode {id}")))?;
    for param in known.params(compat) {
        take(param, param.required, given, &mut taken)?;
    }
    superfluous(known, given, compat)?;
    taken.insert("OP_ID".to_owned(), json!(id));
    Op::from_wire(taken, compat).map_err(|error| Refused::Table(verdict(&error)))
}

/// What the job would end with.
fn verdict(error: &ParamError) -> GanetiError {
    match error {
        ParamError::Invalid { id, param } => {
            GanetiError::wrong_input(format!("Parameter '{id}.{param}' fails validation"))
        }
        other => GanetiError::wrong_input(other.to_string()),
    }
}

fn unread(text: impl Into<String>) -> Refused {
    Refused::Unread(text.into())
}

fn missing(key: &str, given: &Dict) -> Refused {
    let keys: Vec<&String> = given.keys().collect();
    unread(format!("key '{key}' not found, object contains only {}", json!(keys)))
}

/// Takes one parameter over. Ganeti: null stands for the default, and a fraction is rounded where a whole number is wanted.
fn take(param: &ParamDef, required: bool, given: &Dict, taken: &mut Dict) -> Result<(), Refused> {
    let Some(value) = given.get(param.name) else {
        return if required { Err(missing(param.name, given)) } else { Ok(()) };
    };
    if value.is_null() && !required {
        if (param.check)(value) {
            taken.insert(param.name.to_owned(), Value::Null);
        }
        return Ok(());
    }
    let schema = (param.schema)();
    let value = rounded(&schema, value);
    let is_fine = (param.check)(&value)
        && (param.name != "priority" || [-10, 0, 10].iter().any(|known| value == *known));
    if !is_fine
        && let Some(why) = special(param.name, &value).or_else(|| unreadable(&schema, &value))
    {
        return Err(unread(format!("Can't parse value for '{}': {why}", param.name)));
    }
    taken.insert(param.name.to_owned(), value);
    Ok(())
}

fn superfluous(id: OpId, given: &Dict, compat: Compat) -> Result<(), Refused> {
    let own = id.params(compat).map(|param| param.name);
    let mut known: Vec<&str> = COMMON_PARAMS.iter().map(|param| param.name).chain(own).collect();
    known.push("OP_ID");
    known.sort_unstable();
    only(given, &known).map_or(Ok(()), |text| Err(unread(text)))
}

/// What is said of an object with other keys than the `known`, which are sorted.
fn only(given: &Dict, known: &[&str]) -> Option<String> {
    let mut others: Vec<&String> =
        given.keys().filter(|key| !known.contains(&key.as_str())).collect();
    if others.is_empty() {
        return None;
    }
    others.sort();
    Some(format!(
        "Superfluous dictionary keys: {}, but only {} allowed.",
        json!(others),
        json!(known)
    ))
}

fn is_whole(schema: &Value) -> bool {
    schema["type"] == "integer"
        || schema["anyOf"].as_array().is_some_and(|kinds| kinds.iter().any(is_whole))
}

fn rounded(schema: &Value, value: &Value) -> Value {
    match whole(value).filter(|_| value.is_f64() && is_whole(schema)) {
        Some(number) => json!(number),
        None => value.clone(),
    }
}

/// What is said of parameters that luxid reads in more detail than their schemas tell.
fn special(name: &str, value: &Value) -> Option<String> {
    match name {
        "priority" => Some(match whole(value) {
            None => "Can't parse value for 'OpSubmitPriority': Unable to read Int".to_owned(),
            Some(_) => no_member("OpSubmitPriority", value),
        }),
        "depends" => {
            let is_pair = |depend: &Value| depend.as_array().is_some_and(|parts| parts.len() == 2);
            if !value.as_array()?.iter().all(is_pair) {
                return Some("Unable to read Pair".to_owned());
            }
            let statuses = value.as_array()?.iter().flat_map(|depend| depend[1].as_array());
            let known = ["canceled", "success", "error"];
            let wrong =
                statuses.flatten().find(|status| !known.iter().any(|known| *status == known))?;
            Some(no_member("FinalizedJobStatus", wrong))
        }
        "hidden_os" | "blacklisted_os" => {
            let change = |change: &Value| {
                unreadable(&ListChange::schema(), &change[0])
                    .or_else(|| unreadable(&NonEmpty::schema(), &change[1]))
            };
            value.as_array()?.iter().find_map(change)
        }
        "reason" => {
            let entries = value.as_array()?;
            let is_triple = |entry: &Value| entry.as_array().is_some_and(|parts| parts.len() == 3);
            if !entries.iter().all(is_triple) {
                return Some("Unable to read Triple".to_owned());
            }
            let is_text = |entry: &Value| entry[0].is_string() && entry[1].is_string();
            let kind = if entries.iter().all(is_text) { "Integer" } else { "String" };
            Some(format!("Unable to read {kind}"))
        }
        _ => None,
    }
}

/// Why a value is none of a schema's; `None` when it is, as far as the schema says.
fn unreadable(schema: &Value, value: &Value) -> Option<String> {
    let wanted = |kind: &str| Some(format!("Unable to read {kind}"));
    if let Some(kinds) = schema["anyOf"].as_array() {
        let fits = kinds.iter().any(|kind| unreadable(kind, value).is_none());
        return if fits { None } else { unreadable(kinds.first()?, value) };
    }
    if schema.get("enum").is_some() {
        let (name, _) = SETS.iter().find(|(_, set)| set() == *schema)?;
        return match member(name, value) {
            Err(text) => Some(text),
            Ok(text) => {
                let members = schema["enum"].as_array()?;
                (!members.iter().any(|member| member == text)).then(|| no_member(name, value))
            }
        };
    }
    match schema["type"].as_str()? {
        "string" => match value.as_str() {
            None => wanted("String"),
            Some("") if schema["minLength"] == 1 => {
                Some("Received empty value for non-empty list".to_owned())
            }
            Some(_) => None,
        },
        "boolean" if !value.is_boolean() => wanted("Bool"),
        "number" if !value.is_number() => wanted("Double"),
        "integer" => match (whole(value), schema["minimum"].as_i64()) {
            (None, _) => wanted("Int"),
            (Some(number), Some(0)) if number < 0 => {
                Some(format!("Invalid value for non-negative type '{number}'"))
            }
            (Some(number), Some(1)) if number < 1 => {
                Some(format!("Invalid value for positive type '{number}'"))
            }
            (Some(_), _) => None,
        },
        "array" => unreadable_list(schema, value),
        "object" => unreadable_object(schema, value),
        "null" if !value.is_null() => wanted("null"),
        _ => None,
    }
}

fn unreadable_list(schema: &Value, value: &Value) -> Option<String> {
    let Some(items) = value.as_array() else {
        return Some("Unable to read list".to_owned());
    };
    if schema["minItems"] == 2 && schema["maxItems"] == 2 && items.len() != 2 {
        return Some("Unable to read Pair".to_owned());
    }
    let item = schema.get("items")?;
    items.iter().find_map(|value| unreadable(item, value))
}

fn unreadable_object(schema: &Value, value: &Value) -> Option<String> {
    let of_each = schema.get("additionalProperties").filter(|each| each.is_object());
    let Some(members) = value.as_object() else {
        return Some(match of_each.filter(|each| each["type"] == "object") {
            Some(_) => {
                format!("Failed to load container, expected object but got {}", pretty(value))
            }
            None => "Unable to read JSObject".to_owned(),
        });
    };
    if let Some(names) = schema.get("propertyNames")
        && let Some(why) = members.keys().find_map(|key| unreadable(names, &json!(key)))
    {
        return Some(why);
    }
    if let Some(own) = schema["properties"].as_object()
        && schema["additionalProperties"] == false
    {
        let mut known: Vec<&str> = own.keys().map(String::as_str).collect();
        known.sort_unstable();
        let wrong = |(key, value): (&String, &Value)| {
            (!value.is_null() && !value.is_string())
                .then(|| format!("Can't parse value for '{key}': Unable to read String"))
        };
        return members
            .iter()
            .filter(|(key, _)| own.contains_key(*key))
            .find_map(wrong)
            .or_else(|| only(members, &known));
    }
    let of_each = of_each?;
    members
        .iter()
        .find_map(|(key, value)| Some(format!("key '{key}': {}", unreadable(of_each, value)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut op: Value, expected: Option<&str>) {
        op["reason"] = json!([]);
        let found = match read(&op, Compat::V30) {
            Ok(_) => None,
            Err(Refused::Unread(text)) => Some(text),
            Err(Refused::Table(error)) => Some(error.to_string()),
        };
        assert_eq!(found.as_deref(), expected, "{op}");
    }

    #[test]
    fn what_luxid_takes_is_taken() {
        let delay =
            json!({"OP_ID": "OP_TEST_DELAY", "duration": 1, "repeat": 1.5, "on_nodes": null});
        check(delay, None);
        check(json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "a", "force": null}), None);
    }

    #[test]
    fn what_the_table_alone_refuses_ends_as_its_job_would() {
        let op = json!({"OP_ID": "OP_NETWORK_ADD", "network_name": "a", "network": "x"});
        check(op, Some("(\"Parameter 'OP_NETWORK_ADD.network' fails validation\", 'wrong_input')"));
    }
}
