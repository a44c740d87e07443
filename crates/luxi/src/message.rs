//! What is in a message: a request names a call and its arguments, a response has its result or its failure.

use model::error::{ErrorClass, GanetiError, Result};
use serde::Deserialize;
use serde_json::{Value, json};

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

#[derive(Deserialize)]
struct Response {
    success: bool,
    #[serde(default)]
    result: Value,
}

/// Reads a response: its result, or the failure that it names. What is no response is a `ProtocolError`. A version in it is not
/// looked at: the messages are the same in all of 3.x.
pub fn read_response(text: &[u8]) -> Result<Value> {
    let protocol = |text: String| GanetiError::new(ErrorClass::ProtocolError, text);
    let response: Response = serde_json::from_slice(text)
        .map_err(|error| protocol(format!("Error while deserializing response: {error}")))?;
    if response.success { Ok(response.result) } else { Err(failure(&response.result)) }
}

/// The exception that a failure stands for. Ganeti: one of its own is raised as itself, anything else as `RequestError`
/// (3.0.2, `rpc/transport`, `luxi`).
fn failure(result: &Value) -> GanetiError {
    GanetiError::from_value(result).unwrap_or_else(|| GanetiError {
        class: ErrorClass::RequestError,
        args: vec![result.clone()],
    })
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
        assert_eq!(read("nonsense").class, ErrorClass::ProtocolError);
        assert_eq!(read("[]").class, ErrorClass::ProtocolError);
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
