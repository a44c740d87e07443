//! What a refused request is answered with. Nothing else in the project decides the HTTP status of an error, and nothing
//! else writes an error document.

use model::error::{ErrorClass, GanetiError};

/// A refusal: a status, and a message where there is more to say than the status does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    pub status: u16,
    /// As plain text; the document shows it HTML-escaped. `None` stands for the status' own phrase.
    pub message: Option<String>,
}

impl HttpError {
    /// A refusal with the status' own phrase.
    pub fn plain(status: u16) -> Self {
        Self { status, message: None }
    }

    /// A refusal that says why.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: Some(message.into()) }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub fn not_found() -> Self {
        Self::plain(404)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// The error document: `{"code", "message", "explain"}` and a line end.
    pub fn document(&self) -> String {
        let (phrase, explain) = words(self.status);
        let message = html_escape(self.message.as_deref().unwrap_or(phrase));
        let document = serde_json::json!({
            "code": self.status,
            "message": message,
            "explain": explain,
        });
        crate::json::to_string(&document)
    }
}

/// Ganeti: the remote API gives a status to few exceptions and 500 to the rest (3.0.2, `rapi/baserlib.py`).
impl From<GanetiError> for HttpError {
    fn from(error: GanetiError) -> Self {
        let status = match error.class {
            ErrorClass::JobQueueFull | ErrorClass::JobQueueDrainError => 503,
            ErrorClass::NoMasterError | ErrorClass::RequestError | ErrorClass::ProtocolError => 502,
            ErrorClass::TimeoutError => 504,
            _ => 500,
        };
        let message = match error.class {
            ErrorClass::PermissionError => {
                "Internal error: no permission to connect to the master daemon".to_owned()
            }
            ErrorClass::NoMasterError => format!("Can't connect to master daemon: {error}"),
            ErrorClass::TimeoutError => String::new(),
            _ => error.to_string(),
        };
        Self { status, message: (!message.is_empty()).then_some(message) }
    }
}

/// The reason phrase of a status and what Ganeti explains about it. 413 is our own: Ganeti 3.0.2 takes bodies of any size.
fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("Bad Request", "Bad request syntax or unsupported method"),
        401 => ("Unauthorized", "No permission -- see authorization schemes"),
        403 => ("Forbidden", "Request forbidden -- authorization will not help"),
        404 => ("Not Found", "Nothing matches the given URI"),
        408 => ("Request Timeout", "Request timed out; try again later"),
        413 => ("Request Entity Too Large", "Entity is too large"),
        415 => ("Unsupported Media Type", "Entity body in unsupported format"),
        501 => ("Not Implemented", "Server does not support this operation"),
        502 => ("Bad Gateway", "Invalid responses from another server/proxy"),
        503 => ("Service Unavailable", "The server cannot process the request due to a high load"),
        504 => ("Gateway Timeout", "The gateway server did not receive a timely response"),
        505 => ("HTTP Version Not Supported", "Cannot fulfill request"),
        _ => ("Internal Server Error", "Server got itself in trouble"),
    }
}

/// Python's `html.escape(text)`, quotes included.
fn html_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_read_as_ganetis() {
        let check = |error: HttpError, expected: &str| assert_eq!(error.document(), expected);
        check(
            HttpError::not_found(),
            "{\"code\": 404, \"message\": \"Not Found\", \"explain\": \"Nothing matches the given URI\"}\n",
        );
        check(
            GanetiError::unknown_entity("Node name x not found").into(),
            "{\"code\": 500, \"message\": \"(&#x27;Node name x not found&#x27;, &#x27;unknown_entity&#x27;)\", \
             \"explain\": \"Server got itself in trouble\"}\n",
        );
        check(
            HttpError::bad_request("<a> & \"b\" \u{e9}"),
            "{\"code\": 400, \"message\": \"&lt;a&gt; &amp; &quot;b&quot; \\u00e9\", \
             \"explain\": \"Bad request syntax or unsupported method\"}\n",
        );
    }

    #[test]
    fn classes_have_their_status() {
        let check = |class, status, message: Option<&str>| {
            let error = HttpError::from(GanetiError::new(class, "text"));
            assert_eq!(error.status, status, "{class:?}");
            assert_eq!(error.message.as_deref(), message, "{class:?}");
        };
        check(ErrorClass::JobQueueFull, 503, Some("text"));
        check(ErrorClass::JobQueueDrainError, 503, Some("text"));
        check(ErrorClass::NoMasterError, 502, Some("Can't connect to master daemon: text"));
        check(ErrorClass::RequestError, 502, Some("text"));
        check(ErrorClass::ProtocolError, 502, Some("text"));
        check(ErrorClass::TimeoutError, 504, None);
        check(ErrorClass::GenericError, 500, Some("text"));
        check(
            ErrorClass::PermissionError,
            500,
            Some("Internal error: no permission to connect to the master daemon"),
        );
    }
}
