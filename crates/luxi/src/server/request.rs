//! Requests as they come: JSON text with a call and its arguments, or luxid's words for what is none. Ganeti: 3.0.2, asked.

use model::param::Dict;
use serde_json::{Value, json};

use crate::method::Method;

/// Reads a request.
pub(super) fn read(text: &[u8]) -> Result<(Method, Value), String> {
    let request = object(text).map_err(|why| format!("parsing top-level JSON message: {why}"))?;
    let part = |key: &str| {
        let keys: Vec<&String> = request.keys().collect();
        let found = request.get(key).cloned();
        found.ok_or_else(|| format!("key '{key}' not found, object contains only {}", json!(keys)))
    };
    let (method, args) = (part("method")?, part("args")?);
    let unknown = |why: String| Err(format!("Unable to parse LUXI request method: {why}"));
    let Some(name) = method.as_str() else {
        return unknown("Can't parse value for 'LuxiReq': Unable to read String".to_owned());
    };
    match Method::parse(name) {
        Some(method) => Ok((method, args)),
        None => unknown(format!("Invalid string value for type LuxiReq: {method}")),
    }
}

fn object(text: &[u8]) -> Result<Dict, String> {
    const NEITHER: &str =
        "Invalid JSON: a JSON text a serialized object or array at the top level.";
    let text = str::from_utf8(text).map_err(|_| NEITHER)?;
    if !text.trim_start().starts_with(['{', '[']) {
        return Err(NEITHER.to_owned());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(request)) => Ok(request),
        Ok(_) => Err("Unable to read JSObject".to_owned()),
        Err(error) => Err(malformed(text, &error)),
    }
}

/// What is said of text that is no JSON: what was expected, and all that follows.
fn malformed(text: &str, error: &serde_json::Error) -> String {
    let before: usize = text.split_inclusive('\n').take(error.line() - 1).map(str::len).sum();
    let at = before + error.column().saturating_sub(1);
    let rest = text.get(at.min(text.len())..).unwrap_or_default();
    let said = error.to_string();
    if said.starts_with("trailing characters") {
        return format!("Invalid tokens at end of JSON string: {rest:?}");
    }
    if said.starts_with("key must be") || said.starts_with("trailing comma") {
        return format!("Malformed JSON: expecting string: {rest}");
    }
    if said.starts_with("expected `:`") {
        let blanks = &text[text[..text.len() - rest.len()].trim_end().len()..];
        return format!("Malformed JSON labelled field: {blanks}");
    }
    format!("Malformed JSON: invalid token in this context {rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_refused_in_luxids_words() {
        let check = |text: &str, expected: &str| {
            assert_eq!(read(text.as_bytes()).unwrap_err(), expected, "{text}");
        };
        let top = "parsing top-level JSON message: ";
        let neither = "Invalid JSON: a JSON text a serialized object or array at the top level.";
        for text in ["", "5", "nope"] {
            check(text, &format!("{top}{neither}"));
        }
        check("{\"a\" 1}", &format!("{top}Malformed JSON labelled field:  1}}"));
        check("{nope", &format!("{top}Malformed JSON: expecting string: nope"));
        check("{\"a\":1,}", &format!("{top}Malformed JSON: expecting string: }}"));
        check("{\"a\":[}", &format!("{top}Malformed JSON: invalid token in this context }}"));
        check("{} x", &format!("{top}Invalid tokens at end of JSON string: \"x\""));
        check("{\"args\":[]}", "key 'method' not found, object contains only [\"args\"]");
        let unknown =
            "Unable to parse LUXI request method: Invalid string value for type LuxiReq: \"Nope\"";
        check("{\"method\":\"Nope\",\"args\":[]}", unknown);
    }
}
