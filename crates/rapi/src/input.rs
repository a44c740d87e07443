//! A request as the routes see it: taken apart, decoded and checked by the door, with nothing of HTTP left in it.

use serde_json::Value;

use crate::error::HttpError;
use model::python;

/// The methods that Ganeti's remote API has; a request with any other is refused before a route sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    pub const ALL: &'static [Self] = &[Self::Get, Self::Put, Self::Post, Self::Delete];

    /// The method as it is written in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }

    /// The method of that name. Ganeti: the case does not matter (3.0.2, `http/server.py`).
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.as_str().eq_ignore_ascii_case(text))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Input {
    pub method: Method,
    /// The path, percent-decoded, without the query.
    pub path: String,
    /// What the route's variables stand for, decoded, in the order of the path.
    pub path_vars: Vec<(&'static str, String)>,
    /// The target as it was sent: path and query.
    pub target: String,
    /// The query arguments, decoded, in the order sent; those with an empty value are left out.
    pub query: Vec<(String, String)>,
    /// The body; `None` when there was none.
    pub body: Option<Value>,
    /// Who asks, when credentials were sent; they were right then.
    pub user: Option<String>,
    /// When the request came, in nanoseconds since the epoch.
    pub now_nanos: i64,
}

impl Input {
    /// The value of a path variable of the route.
    pub fn path_var(&self, name: &str) -> Option<&str> {
        self.path_vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a query argument: the one that counts when it is repeated.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a query argument, in the order sent.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// An integer argument; `None` when it was not sent.
    pub fn int(&self, name: &str) -> Result<Option<i128>, HttpError> {
        let Some(text) = self.first(name) else { return Ok(None) };
        match python::int(text) {
            Some(value) => Ok(Some(value)),
            None => {
                Err(HttpError::bad_request(format!("Invalid value for the '{name}' parameter")))
            }
        }
    }

    /// A boolean argument: an integer, true unless it is zero; false when it was not sent.
    pub fn flag(&self, name: &str) -> Result<bool, HttpError> {
        Ok(self.int(name)?.is_some_and(|value| value != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(query: &[(&str, &str)]) -> Input {
        Input {
            method: Method::Get,
            path: "/2/nodes".into(),
            path_vars: vec![("node", "node1".into())],
            target: "/2/nodes".into(),
            query: query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            body: None,
            user: None,
            now_nanos: 0,
        }
    }

    #[test]
    fn flags_are_python_integers() {
        let check = |text: &str, expected: Option<bool>| {
            assert_eq!(input(&[("bulk", text)]).flag("bulk").ok(), expected, "{text}");
        };
        check("1", Some(true));
        check("0", Some(false));
        check("-1", Some(true));
        check(" 1", Some(true));
        check("1_0", Some(true));
        check("true", None);
        check("1.0", None);
        assert_eq!(input(&[]).flag("bulk").ok(), Some(false));
        let error = input(&[("bulk", "yes")]).flag("bulk").unwrap_err();
        assert_eq!(error.status, 400);
        assert_eq!(error.message.as_deref(), Some("Invalid value for the 'bulk' parameter"));
    }

    #[test]
    fn the_first_of_repeated_arguments_counts_and_all_are_there() {
        let input = input(&[("tag", "b"), ("bulk", "0"), ("tag", "a")]);
        assert_eq!(input.first("tag"), Some("b"));
        assert_eq!(input.all("tag").collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(input.first("none"), None);
        assert_eq!(input.path_var("node"), Some("node1"));
    }

    #[test]
    fn methods_are_found_in_any_case() {
        assert_eq!(Method::parse("get"), Some(Method::Get));
        assert_eq!(Method::parse("Delete"), Some(Method::Delete));
        assert_eq!(Method::parse("PATCH"), None);
    }
}
