//! What is in a message: a request names a call and its arguments, a response has its result or its failure.

use model::error::{ErrorClass, GanetiError, Result};
use model::python;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::frame::END;
use crate::method::Method;

/// Ganeti's failures that are no exception of its own begin so: luxid could not read the request (3.0.2).
pub const UNREADABLE: &str = "Failed to parse request: ";

/// The text of a request. `version` is the protocol's: 3010000 stands for 3.1.0.
pub fn request(method: Method, args: &Value, version: Option<u32>) -> Vec<u8> {
    let mut request = json!({"method": method.as_str(), "args": args});
    if let Some(version) = version {
        request["version"] = version.into();
    }
    request.to_string().into_bytes()
}

/// The bytes of a request, with the end that frames it.
pub fn framed(method: Method, args: &Value) -> Vec<u8> {
    let mut request = request(method, args, None);
    request.push(END);
    request
}

#[derive(Deserialize)]
struct Response<'a> {
    success: bool,
    #[serde(borrow)]
    result: &'a RawValue,
}

/// Reads a response: its result, or the failure that it names.
pub fn read_response(text: &[u8]) -> Result<Value> {
    read_as(read_result(text)?.get())
}

/// Reads a response as far as the text of its result, or the failure that it names. What is no response is a `ProtocolError`. A
/// version in it is not looked at: the messages are the same in all of 3.x.
pub fn read_result(text: &[u8]) -> Result<&RawValue> {
    match serde_json::from_slice::<Response<'_>>(text) {
        Ok(Response { success: true, result }) => Ok(result),
        Ok(Response { success: false, result }) => Err(failure(read_as(result.get())?)),
        Err(error) => Err(match serde_json::from_slice::<Value>(text) {
            Ok(other) => invalid(&other),
            Err(_) => protocol(format!("Error while deserializing response: {error}")),
        }),
    }
}

/// Reads a result as what it must be.
pub fn read_as<'a, T: Deserialize<'a>>(result: &'a str) -> Result<T> {
    serde_json::from_str(result).map_err(|error| match serde_json::from_str::<Value>(result) {
        Ok(other) => invalid(&other),
        Err(_) => protocol(format!("Error while deserializing response: {error}")),
    })
}

/// How much of an answer that nobody understands is shown.
const SHOWN_CHARS: usize = 200;

/// What is said of a message that is something else than it should be (3.0.2, `rpc/client.py`).
fn invalid(value: &Value) -> GanetiError {
    let shown: String = python::repr(value).chars().take(SHOWN_CHARS).collect();
    protocol(format!("Invalid response from server: {shown}"))
}

fn protocol(text: String) -> GanetiError {
    GanetiError::new(ErrorClass::ProtocolError, text)
}

/// The exception that a failure stands for. Ganeti: one of its own is raised as itself, anything else as `RequestError`
/// (3.0.2, `rpc/client.py`, `errors.py`).
fn failure(result: Value) -> GanetiError {
    match GanetiError::from_value(&result) {
        Some(error) if error.class.is_raised_by_clients() => error,
        _ => GanetiError { class: ErrorClass::RequestError, args: vec![result] },
    }
}

/// The text of a response. Ganeti: `RequestError` is what clients make of a plain text, so it goes out as that (3.0.2).
pub fn response(result: &Result<Value>) -> Vec<u8> {
    let response = match result {
        Ok(result) => json!({"success": true, "result": result}),
        Err(error) if error.class == ErrorClass::RequestError => {
            json!({"success": false, "result": error.to_string()})
        }
        Err(error) => json!({"success": false, "result": error.to_value()}),
    };
    response.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_ganetis_exceptions() {
        let read = |text: &str| read_response(text.as_bytes()).unwrap_err();
        let error = read(r#"{"success":false,"result":["JobLost",["Can't load job file"]]}"#);
        assert_eq!(error, GanetiError::new(ErrorClass::JobLost, "Can't load job file"));
        let error = read(r#"{"success":false,"result":"Failed to parse request: x"}"#);
        assert_eq!(error, GanetiError::new(ErrorClass::RequestError, "Failed to parse request: x"));
        let check = |text: &str, expected: &str| {
            assert_eq!(read(text), GanetiError::new(ErrorClass::ProtocolError, expected));
        };
        check("[]", "Invalid response from server: []");
        check("{\"result\":5}", "Invalid response from server: {'result': 5}");
        let error = read("nonsense");
        assert_eq!(error.class, ErrorClass::ProtocolError);
        assert!(error.to_string().starts_with("Error while deserializing response: "), "{error}");
        let error = read(r#"{"success":false,"result":["Nonsense",["a"]]}"#);
        assert_eq!(error.class, ErrorClass::RequestError);
        assert_eq!(error.to_string(), "['Nonsense', ['a']]");
        let error = read(r#"{"success":false,"result":["TimeoutError",["a"]]}"#);
        assert_eq!(error.class, ErrorClass::RequestError);
    }

    #[test]
    fn responses_come_back() {
        for result in [
            Ok(json!([1, "a", null])),
            Err(GanetiError::new(ErrorClass::RequestError, "Failed to parse request: x")),
            Err(GanetiError::wrong_input("Sync queries are not allowed")),
        ] {
            assert_eq!(read_response(&response(&result)), result);
        }
    }
}
