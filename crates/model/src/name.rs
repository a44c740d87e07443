//! Identifiers: checked once, trusted after.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The UUID of a configuration object, lower-case RFC 4122 text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uuid(String);

impl Uuid {
    /// Takes a text as it is; the configuration's own UUIDs are made by the engine's environment.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text has the form of a UUID: 8-4-4-4-12 hexadecimal digits, lower case.
    pub fn is_form(text: &str) -> bool {
        text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            })
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Uuid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Uuid {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&Uuid> for serde_json::Value {
    fn from(uuid: &Uuid) -> Self {
        Self::String(uuid.0.clone())
    }
}

/// The number of a job: counted up from 1, never used again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Whether a text may name an instance, node, group or network in the API: letters, digits, `-`, `_`, `.`.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether `wanted` names `full`: equal, or a prefix of it that ends at a dot (`web` for `web.example.com`).
pub fn matches_dotted_prefix(wanted: &str, full: &str) -> bool {
    full.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What looking a name up among many gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    Found(&'a str),
    Unknown,
    Ambiguous,
}

/// Looks a name up among the sorted `names`: the equal one, else the single one it is a dotted prefix of.
/// Ganeti's rule for nodes and instances (3.1, `MatchNameComponent`); callers normalise case beforehand.
pub fn lookup<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Lookup<'a> {
    let mut found = None;
    let mut several = false;
    for name in names {
        if name == wanted {
            return Lookup::Found(name);
        }
        if matches_dotted_prefix(wanted, name) {
            several = found.is_some();
            found = Some(name);
        }
    }
    match (found, several) {
        (Some(_), true) => Lookup::Ambiguous,
        (Some(name), false) => Lookup::Found(name),
        (None, _) => Lookup::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_prefix() {
        let names = ["web.example.com", "web1.example.com", "web1.example.org"];
        let find = |wanted| lookup(wanted, names.iter().copied());
        assert_eq!(find("web"), Lookup::Found("web.example.com"));
        assert_eq!(find("web1"), Lookup::Ambiguous);
        assert_eq!(find("web1.example.com"), Lookup::Found("web1.example.com"));
        assert_eq!(find("we"), Lookup::Unknown);
    }

    #[test]
    fn uuids_have_one_form() {
        assert!(Uuid::is_form("2f7b2a0e-5c1d-4f6a-9a66-000000000001"));
        assert!(!Uuid::is_form("2F7b2a0e-5c1d-4f6a-9a66-000000000001"));
        assert!(!Uuid::is_form("node1"));
    }
}
