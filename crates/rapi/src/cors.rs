//! Which web pages of other origins may use the API: those that are named, and with the user's credentials.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method};

/// The origins that are named.
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
}

impl Cors {
    /// Takes origins as `https://console.example.com:8443`; `Err` is the first that is none.
    pub(crate) fn new(origins: &[String]) -> Result<Self, String> {
        let origin = |text: &String| {
            let trimmed = text.trim_end_matches('/').to_ascii_lowercase();
            let host = trimmed.split_once("://").map_or("", |(_, host)| host);
            let good = !host.is_empty() && !host.contains(['/', '*', ' ', ',']);
            let value = good.then(|| HeaderValue::from_str(&trimmed).ok()).flatten();
            value.ok_or_else(|| text.clone())
        };
        Ok(Self { origins: origins.iter().map(origin).collect::<Result<_, _>>()? })
    }

    /// The origin of a request, when it is one of those named.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Option<&HeaderValue> {
        let given = headers.get(ORIGIN)?;
        self.origins.iter().find(|origin| origin.as_bytes().eq_ignore_ascii_case(given.as_bytes()))
    }

    /// Whether a browser only asks if its page may send a request.
    pub(crate) fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && self.origin(headers).is_some()
    }

    /// What a page may send.
    pub(crate) fn allow(&self, response: &mut HeaderMap) {
        let mut set = |name, value| response.insert(name, HeaderValue::from_static(value));
        set(ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT, POST, DELETE");
        set(ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type");
        set(ACCESS_CONTROL_MAX_AGE, "600");
    }

    /// Lets a page of that origin read the response.
    pub(crate) fn mark(&self, origin: Option<HeaderValue>, response: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        response.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_origins_can_be_named() {
        let check = |text: &str, good: bool| {
            assert_eq!(Cors::new(&[text.to_owned()]).is_ok(), good, "{text}");
        };
        check("https://console.example.com", true);
        check("http://localhost:8080/", true);
        check("*", false);
        check("https://*.example.com", false);
        check("console.example.com", false);
        check("https://console.example.com/path", false);
        check("", false);
    }
}
