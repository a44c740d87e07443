//! Taking a request apart: its path, its query, its body. What each of them may be is Ganeti's, and a little more.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde_json::Value;
use tokio::time::timeout;

use crate::error::HttpError;
use crate::json;
use crate::limits;

/// The path of a request, decoded; `None` when no route can match it: it is not a path, or a name in it would have a slash.
pub(crate) fn path(parts: &Parts) -> Option<String> {
    // Ganeti: a target with scheme and host is no path (3.0.2). In HTTP/2 each request has them.
    if parts.uri.scheme().is_some() && parts.version < Version::HTTP_2 {
        return None;
    }
    let path = parts.uri.path();
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let mut decoded = String::with_capacity(path.len());
    for (at, segment) in path.split('/').enumerate() {
        if at > 0 {
            decoded.push('/');
        }
        let segment = String::from_utf8(percent_decode(segment.as_bytes(), true)?).ok()?;
        if segment.contains('/') {
            return None;
        }
        decoded.push_str(&segment);
    }
    Some(decoded)
}

/// The target of a request as it was sent.
pub(crate) fn target(parts: &Parts) -> String {
    match parts.uri.path_and_query() {
        Some(target) if parts.uri.scheme().is_none() || parts.version >= Version::HTTP_2 => {
            target.as_str().to_owned()
        }
        _ => parts.uri.to_string(),
    }
}

/// The arguments of a query: Python's `parse_qs` without what is empty.
pub(crate) fn query(text: Option<&str>) -> Vec<(String, String)> {
    let pairs = text.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.filter(|(_, value)| !value.is_empty());
    pairs.map(|(name, value)| (form_decode(name), form_decode(value))).collect()
}

fn form_decode(text: &str) -> String {
    let bytes: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    let decoded = percent_decode(&bytes, false).unwrap_or_default(); // is there when it need not be strict
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Decodes `%XX`. Where that is malformed: `None` when strict, else it stands for itself.
fn percent_decode(text: &[u8], strict: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match after {
            [high, low, after @ ..] if digit(high).is_some() && digit(low).is_some() => {
                out.push(digit(high)? << 4 | digit(low)?);
                rest = after;
            }
            _ if strict => return None,
            _ => out.push(b'%'),
        }
    }
    Some(out)
}

/// Reads the body as JSON; `None` when there is none.
pub(crate) async fn body(
    headers: &HeaderMap,
    incoming: &mut Incoming,
    bytes_max: usize,
    time: Duration,
) -> Result<Option<Value>, HttpError> {
    if incoming.is_end_stream() {
        return Ok(None);
    }
    let read = timeout(time, read(incoming, bytes_max)).await;
    let bytes = read.map_err(|_| HttpError::plain(408))??;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(headers) {
        return Err(HttpError::plain(415));
    }
    json::parse(&bytes).map(Some)
}

async fn read(incoming: &mut Incoming, bytes_max: usize) -> Result<Bytes, HttpError> {
    let too_large = || {
        HttpError::new(
            413,
            format!("The body has more than the {bytes_max} bytes that are accepted"),
        )
    };
    let announced = incoming.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large());
    }
    let mut whole = Bytes::new();
    let mut gathered: Vec<u8> = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| HttpError::bad_request("Unable to read the request body"))?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        if whole.len() + gathered.len() + data.len() > bytes_max {
            return Err(too_large());
        }
        if whole.is_empty() && gathered.is_empty() {
            whole = data; // most often all there is
        } else {
            gathered.extend_from_slice(&std::mem::take(&mut whole));
            gathered.extend_from_slice(&data);
        }
    }
    Ok(if gathered.is_empty() { whole } else { gathered.into() })
}

/// Reads on what nobody wants, within limits: a client that is still sending would not see the answer otherwise.
pub(crate) async fn discard(headers: &HeaderMap, incoming: &mut Incoming) {
    if incoming.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > limits::DISCARD_BYTES {
                break;
            }
        }
    };
    let _ = timeout(limits::DISCARD_TIME, reading).await; // then the connection is closed
}

/// Whether the body is said to be JSON. Ganeti: nothing else is taken (3.0.2); it may say its charset here.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    json && parts.all(|part| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            ["utf-8", "utf8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(value))
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn paths_are_decoded_piece_by_piece() {
        let check = |target: &str, expected: Option<&str>| {
            let (parts, ()) = Request::get(target).body(()).unwrap().into_parts();
            assert_eq!(path(&parts).as_deref(), expected, "{target}");
        };
        check("/2/info?a=%2F", Some("/2/info"));
        check("/2/instances/web%31", Some("/2/instances/web1"));
        check("/2/instances/a%2fb", None);
        check("/2/instances/%C3%BC", Some("/2/instances/\u{fc}"));
        check("/2/instances/%ff", None);
        check("/2/instances/%zz", None);
        check("/2/instances/%2", None);
        check("http://host/2/info", None);
    }

    #[test]
    fn queries_are_read_as_python_reads_them() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let query = query(Some(text));
            let query: Vec<_> = query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(query, expected, "{text}");
        };
        check("", &[]);
        check("bulk=1&x", &[("bulk", "1")]);
        check("bulk=&lock=0", &[("lock", "0")]);
        check("tag=a%2Cb&tag=c+d", &[("tag", "a,b"), ("tag", "c d")]);
        check("a=b=c&%61=%zz%4", &[("a", "b=c"), ("a", "%zz%4")]);
        check("a=%ff&b=%C3%A4", &[("a", "\u{fffd}"), ("b", "\u{e4}")]);
        assert_eq!(query(None), []);
    }

    #[test]
    fn content_types() {
        let check = |text: &'static str, good: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(text));
            assert_eq!(is_json(&headers), good, "{text}");
        };
        check("application/json", true);
        check("Application/JSON", true);
        check("application/json; charset=utf-8", true);
        check("application/json;charset=\"UTF-8\"", true);
        check("application/json; charset=latin-1", false);
        check("text/plain", false);
        check("application/jsonx", false);
        assert!(!is_json(&HeaderMap::new()));
    }
}
