//! Parameters in layers: tables of names, types and defaults, and how the layers are filled into what holds.
//!
//! A parameter is one row of its family's table. Types are forced as Ganeti forces them (3.0, `utils.ForceDictType`), so
//! that `"true"`, `"2g"` or `"4"` are taken where a flag, a size or a number is wanted, with Ganeti's error texts.

pub mod be;
pub mod cluster;
pub mod disk;
pub mod hv;
pub mod ipolicy;
pub mod nd;
pub mod nic;
pub mod os;

use serde_json::{Value, json};

use crate::error::{ErrorClass, GanetiError, Result};
use crate::param::Dict;
use crate::python;
use crate::units::{UnitError, number, parse_unit};

/// The value that puts a parameter back to what the layer below says.
pub const VALUE_DEFAULT: &str = "default";

/// The type that a parameter's value is forced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A text, or null.
    MaybeText,
    Bool,
    /// MiB; texts with units are taken.
    Size,
    Int,
    Float,
}

impl Kind {
    /// The JSON Schema of the stored value.
    pub fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::MaybeText => json!({"type": ["string", "null"]}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Size | Self::Int => json!({"type": "integer"}),
            Self::Float => json!({"type": "number"}),
        }
    }
}

/// A default value, as a table can hold it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lit {
    Text(&'static str),
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl Lit {
    pub fn to_value(self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Bool(flag) => json!(flag),
            Self::Int(value) => json!(value),
            Self::Float(value) => number(value),
        }
    }
}

/// A parameter: name, type, default and what it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Lit,
    pub doc: &'static str,
}

impl Row {
    pub const fn new(name: &'static str, kind: Kind, default: Lit, doc: &'static str) -> Self {
        Self { name, kind, default, doc }
    }
}

/// The row of that name.
pub fn row<'a>(table: &'a [Row], name: &str) -> Option<&'a Row> {
    table.iter().find(|row| row.name == name)
}

/// The defaults of a table, in its order.
pub fn defaults(table: &[Row]) -> Dict {
    table.iter().map(|row| (row.name.to_owned(), row.default.to_value())).collect()
}

/// Lays `over` over `base`: names of `base` first, then those only `over` has.
pub fn fill(base: &Dict, over: &Dict) -> Dict {
    let mut filled = base.clone();
    for (name, value) in over {
        filled.insert(name.clone(), value.clone());
    }
    filled
}

/// A dictionary inside another; `None` when it is not there.
pub fn inner<'a>(dict: &'a Dict, name: &str) -> Option<&'a Dict> {
    dict.get(name).and_then(Value::as_object)
}

/// Lays the dictionary `over[name]`, if there is one, over `base`.
pub(crate) fn overlay(base: &mut Dict, over: &Dict, name: &str) {
    for (key, value) in inner(over, name).into_iter().flatten() {
        base.insert(key.clone(), value.clone());
    }
}

/// Changes a layer of parameters (Ganeti 3.0, `cmdlib/common.py` `GetUpdatedParams`): a value of `default`, if `use_default`,
/// and of null, if `use_none`, takes the parameter out of the layer; any other is set.
pub fn updated(old: &Dict, changes: &Dict, use_default: bool, use_none: bool) -> Dict {
    let mut new = old.clone();
    for (name, value) in changes {
        if (use_default && value == VALUE_DEFAULT) || (use_none && value.is_null()) {
            new.shift_remove(name);
        } else {
            new.insert(name.clone(), value.clone());
        }
    }
    new
}

/// Forces values to their parameters' types, in place; values in `allowed` stay as they are (Ganeti 3.0,
/// `utils.ForceDictType`).
pub fn force_types(
    target: &mut Dict,
    kind_of: impl Fn(&str) -> Option<Kind>,
    allowed: &[&str],
) -> Result<()> {
    for (name, value) in target.iter_mut() {
        let Some(kind) = kind_of(name) else {
            return Err(type_error(format!("Unknown parameter '{name}'")));
        };
        if value.as_str().is_some_and(|text| allowed.contains(&text)) {
            continue;
        }
        *value = force(name, value, kind)?;
    }
    Ok(())
}

fn type_error(text: String) -> GanetiError {
    GanetiError::new(ErrorClass::TypeEnforcementError, text)
}

fn force(name: &str, value: &Value, kind: Kind) -> Result<Value> {
    let refuse = |what: &str| {
        type_error(format!("'{name}' (value {}) is not a valid {what}", python::str(value)))
    };
    match kind {
        Kind::Text | Kind::MaybeText => match value {
            Value::String(_) => Ok(value.clone()),
            Value::Null if kind == Kind::MaybeText => Ok(Value::Null),
            // Ganeti: false stands for no text (3.0, utils/__init__.py).
            Value::Bool(false) => Ok(json!("")),
            _ => Err(refuse("string")),
        },
        Kind::Bool => match value {
            Value::String(text) if !text.is_empty() => match text.to_lowercase().as_str() {
                "true" => Ok(json!(true)),
                "false" => Ok(json!(false)),
                _ => Err(refuse("boolean")),
            },
            other => Ok(json!(python::truthy(other))),
        },
        Kind::Size => match parse_unit(&python::str(value)) {
            Ok(mib) => Ok(json!(mib)),
            Err(error @ (UnitError::Format | UnitError::Unit(_))) => Err(type_error(format!(
                "'{name}' (value {}) is not a valid size. error: {error}",
                python::str(value)
            ))),
        },
        Kind::Int => as_int(value).map(|int| json!(int)).ok_or_else(|| refuse("integer")),
        Kind::Float => as_float(value).map(number).ok_or_else(|| refuse("float")),
    }
}

/// Python's `int(value)`, as far as the number fits.
fn as_int(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
            (float.abs() < 9e15).then_some(float as i64)
        }),
        Value::String(text) => i64::try_from(python::int(text)?).ok(),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Python's `float(value)`, finite values only.
pub(crate) fn as_float(value: &Value) -> Option<f64> {
    let float = match value {
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    float.is_finite().then_some(float)
}

/// Refuses parameters that only a higher level may set (Ganeti 3.0, `cmdlib/common.py` `CheckParamsNotGlobal`).
pub fn check_not_global(
    params: &Dict,
    globals: &[&str],
    kind: &str,
    bad_levels: &str,
    good_levels: &str,
) -> Result<()> {
    let used: Vec<&str> =
        globals.iter().copied().filter(|name| params.contains_key(*name)).collect();
    if used.is_empty() {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "The following {kind} parameters are global and cannot be customized at {bad_levels} level, please modify them at \
         {good_levels} level: {}",
        used.join(", ")
    )))
}

/// Whether a path is absolute and written in its shortest form (Ganeti 3.0, `utils.IsNormAbsPath`).
pub fn is_norm_abs_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    // Python's normpath keeps exactly two leading slashes.
    let rest = rest.strip_prefix('/').filter(|rest| !rest.starts_with('/')).unwrap_or(rest);
    rest.is_empty() || rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(value: Value) -> Dict {
        match value {
            Value::Object(dict) => dict,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn values_are_forced_to_their_types() {
        let check = |kind, value: Value, expected: Result<Value, &str>| {
            let mut target = dict(json!({"p": value}));
            let got = force_types(&mut target, |name| (name == "p").then_some(kind), &["default"]);
            match expected {
                Ok(value) => assert_eq!((got, &target["p"]), (Ok(()), &value)),
                Err(text) => assert_eq!(got.unwrap_err().to_string(), text),
            }
        };
        check(Kind::Bool, json!("True"), Ok(json!(true)));
        check(Kind::Bool, json!(""), Ok(json!(false)));
        check(Kind::Bool, json!([0]), Ok(json!(true)));
        check(Kind::Bool, json!("yes"), Err("'p' (value yes) is not a valid boolean"));
        check(Kind::Text, json!(false), Ok(json!("")));
        check(Kind::Text, json!(1), Err("'p' (value 1) is not a valid string"));
        check(Kind::Text, json!(null), Err("'p' (value None) is not a valid string"));
        check(Kind::MaybeText, json!(null), Ok(json!(null)));
        check(Kind::Size, json!("1.5g"), Ok(json!(1536)));
        check(Kind::Size, json!(129), Ok(json!(132)));
        check(
            Kind::Size,
            json!("x"),
            Err("'p' (value x) is not a valid size. error: Invalid format"),
        );
        check(
            Kind::Size,
            json!("1k"),
            Err("'p' (value 1k) is not a valid size. error: Unknown unit: k"),
        );
        check(Kind::Int, json!(" 4 "), Ok(json!(4)));
        check(Kind::Int, json!(4.9), Ok(json!(4)));
        check(Kind::Int, json!("4.9"), Err("'p' (value 4.9) is not a valid integer"));
        check(Kind::Float, json!("1.5"), Ok(json!(1.5)));
        check(Kind::Float, json!(2.0), Ok(json!(2)));
        check(Kind::Int, json!("default"), Ok(json!("default")));
    }

    #[test]
    fn unknown_parameters_are_refused() {
        let mut target = dict(json!({"bogus": 1}));
        let error = force_types(&mut target, |_| None, &[]).unwrap_err();
        assert_eq!(
            error,
            GanetiError::new(ErrorClass::TypeEnforcementError, "Unknown parameter 'bogus'")
        );
    }

    #[test]
    fn a_layer_changes() {
        let old = dict(json!({"a": 1, "b": 2, "c": 3}));
        let changes = dict(json!({"a": "default", "b": null, "d": 4, "e": "default"}));
        let check = |use_default, use_none, expected: Value| {
            assert_eq!(Value::Object(updated(&old, &changes, use_default, use_none)), expected);
        };
        check(true, true, json!({"c": 3, "d": 4}));
        check(true, false, json!({"b": null, "c": 3, "d": 4}));
        check(false, true, json!({"a": "default", "c": 3, "d": 4, "e": "default"}));
    }

    #[test]
    fn paths_are_normal() {
        for path in ["/", "/a", "/a/b.c", "//a"] {
            assert!(is_norm_abs_path(path), "{path}");
        }
        for path in ["", "a", "/a/", "/a/../b", "/a//b", "/./a", "///a"] {
            assert!(!is_norm_abs_path(path), "{path}");
        }
    }
}
