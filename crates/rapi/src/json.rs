//! JSON as Python's `json.dumps` writes it, because clients compare and parse what Ganeti's daemon sends: a blank after
//! `,` and `:`, and nothing but ASCII.

use std::io::{self, Write};

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use serde_json::{Map, Value};

use crate::error::HttpError;

/// The JSON text of a reply, with the line end that Ganeti puts after it.
pub fn to_bytes(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value);
    Bytes::from(out)
}

/// As [`to_bytes`], for those who want text.
pub fn to_string(value: &Value) -> String {
    String::from_utf8(to_bytes(value).into()).unwrap_or_default() // it is ASCII
}

/// Writes the text of anything that is JSON, with the line end.
pub fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    write_bare(out, value);
    out.push(b'\n');
}

/// Writes the text of anything that is JSON, without a line end: a part of a larger text.
pub fn write_bare(out: &mut Vec<u8>, value: &impl Serialize) {
    let mut serializer = Serializer::with_formatter(out, Python);
    // A vector takes all bytes, and a `Value` has text keys only.
    if let Err(error) = value.serialize(&mut serializer) {
        tracing::error!(%error, "a reply could not be written as JSON");
    }
}

/// Reads a request's body. Ganeti's parser also knows `NaN` and `Infinity`; they are refused here.
pub fn parse(body: &[u8]) -> Result<Value, HttpError> {
    let read = serde_json::from_slice(body).ok();
    let wrapped = read.and_then(|mut value| wrap_private(&mut value).then_some(value));
    wrapped.ok_or_else(|| HttpError::bad_request("Unable to parse JSON data"))
}

/// Brings private parameters into the form of an object wherever they are; false where that cannot be. Ganeti does this
/// while it parses a body (3.0, `serializer.py` `WrapPrivateValues`).
fn wrap_private(value: &mut Value) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().all(wrap_private),
        Value::Object(object) => object.iter_mut().all(|(name, value)| match name.as_str() {
            "osparams_private" | "osparams_secret" => as_object(value),
            "osparams_private_cluster" => match value {
                Value::Object(each) => each.values_mut().all(as_object),
                Value::Null => true,
                Value::Array(none) => none.is_empty(),
                Value::String(none) => none.is_empty(),
                Value::Bool(_) | Value::Number(_) => false,
            },
            _ => wrap_private(value),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// What Python makes a dictionary of: nothing, an object, a list of pairs.
fn as_object(value: &mut Value) -> bool {
    let object = match value {
        Value::Object(_) => return true,
        Value::Null => Some(Map::new()),
        Value::String(text) => text.is_empty().then(Map::new),
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([Value::String(name), value]) => Some((name.clone(), value.clone())),
                _ => None,
            })
            .collect(),
        Value::Bool(_) | Value::Number(_) => None,
    };
    match object {
        Some(object) => {
            *value = Value::Object(object);
            true
        }
        None => false,
    }
}

/// `json.dumps` with its default separators and `ensure_ascii`.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly all text is ASCII.
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0u16; 2];
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        let text: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04x}"),
        };
        writer.write_all(text)
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }
}

/// Python's `repr(float)`: the shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        if let Some((mantissa, exponent)) = text.split_once('e') {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            return format!("{mantissa}e{sign}{digits:0>2}");
        }
        return text;
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_python_text() {
        let check = |value: Value, expected: &str| assert_eq!(to_string(&value), expected);
        check(json!(null), "null\n");
        check(json!([]), "[]\n");
        check(json!({}), "{}\n");
        check(
            json!([1, "a", {"b": [true, 1.5], "c": {}}]),
            "[1, \"a\", {\"b\": [true, 1.5], \"c\": {}}]\n",
        );
        check(json!("\u{e9}\u{1f600}/\u{7f}"), "\"\\u00e9\\ud83d\\ude00/\u{7f}\"\n");
        check(json!("\"\\\n\t\r\u{8}\u{c}\u{1}"), "\"\\\"\\\\\\n\\t\\r\\b\\f\\u0001\"\n");
    }

    #[test]
    fn private_parameters_become_objects_while_they_are_read() {
        let check = |body: &Value, expected: Option<Value>| {
            assert_eq!(parse(body.to_string().as_bytes()).ok(), expected, "{body}");
        };
        let private = |value: Value| json!({"instances": [{"osparams_private": value}]});
        check(&private(json!({"a": 1})), Some(private(json!({"a": 1}))));
        check(&private(json!(null)), Some(private(json!({}))));
        check(&private(json!([])), Some(private(json!({}))));
        check(&private(json!([["a", 1]])), Some(private(json!({"a": 1}))));
        check(&private(json!("x")), None);
        check(&private(json!(5)), None);
        check(&private(json!([1])), None);
        let cluster = |value: Value| json!({"osparams_private_cluster": value});
        check(&cluster(json!({"os": []})), Some(cluster(json!({"os": {}}))));
        check(&cluster(json!({"os": "x"})), None);
        check(&cluster(json!("x")), None);
        check(&cluster(json!([])), Some(cluster(json!([]))));
    }

    #[test]
    fn floats_are_python_floats() {
        let check = |value: f64, expected: &str| assert_eq!(float(value), expected);
        check(1.0, "1.0");
        check(-0.0, "-0.0");
        check(1_700_000_000.123, "1700000000.123");
        check(1e16, "1e+16");
        check(1.5e-5, "1.5e-05");
        check(0.0001, "0.0001");
        check(123_456_789_012_345.0, "123456789012345.0");
        check(1e100, "1e+100");
    }

    #[test]
    fn bodies_that_are_not_json_are_refused() {
        let check = |body: &[u8], good: bool| {
            let parsed = parse(body);
            assert_eq!(parsed.is_ok(), good, "{body:?}");
            if let Err(error) = parsed {
                assert_eq!(error, HttpError::bad_request("Unable to parse JSON data"));
            }
        };
        check(b"null", true);
        check(b" {\"a\": 1} ", true);
        check(b"{", false);
        check(b"\"\xff\"", false);
        check(b"NaN", false);
        check(b"", false);
    }
}
