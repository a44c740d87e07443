//! The comparison of two masked runs of one section, value by value. Numbered names (`<uuid1>`) are paired as they
//! are met: the same name on one side must always meet the same name on the other.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::recording::Exchange;
use crate::scenario::Section;

static NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"<(?:uuid|mac|job)\d+>").expect("a regular expression"));

/// Something that two daemons answered differently.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The section.
    pub section: String,
    /// The step's name.
    pub step: String,
    /// Where in the exchange, as `body.a[0].b` or `jobs[0].oplog[0][2][3]`.
    pub path: String,
    /// What the recording says; nothing when it has nothing there.
    pub expected: Option<Value>,
    /// What the daemon said; nothing when it has nothing there.
    pub got: Option<Value>,
}

/// Compares a section's run with its recording, both masked. Each step's differences are at its place.
pub fn compare(section: &Section, expected: &[Exchange], got: &[Exchange]) -> Vec<Vec<Difference>> {
    let mut names = Names::default();
    let mut all = Vec::new();
    for (index, step) in section.steps.iter().enumerate() {
        let mut found = Found { names: &mut names, masks: &step.masks, list: Vec::new() };
        match (expected.get(index), got.get(index)) {
            (Some(expected), Some(got)) if expected.step == step.name => {
                found.exchange(expected, got)
            }
            (expected, _) => {
                let recorded = expected.map(|exchange| Value::from(exchange.step.as_str()));
                let wanted = Some(Value::from(step.name.as_str()));
                found.list.push(("step (record the section again)".to_owned(), recorded, wanted));
            }
        }
        let differences = found
            .list
            .into_iter()
            .map(|(path, expected, got)| Difference {
                section: section.name.clone(),
                step: step.name.clone(),
                path,
                expected,
                got,
            })
            .collect();
        all.push(differences);
    }
    all
}

/// Whether a pattern, in which `*` stands for any text, fits the whole of a text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    true
}

/// Which numbered name of one side is which of the other.
#[derive(Default)]
struct Names {
    to_got: HashMap<String, String>,
    to_expected: HashMap<String, String>,
}

impl Names {
    fn pair(&mut self, expected: &str, got: &str) -> bool {
        match (self.to_got.get(expected), self.to_expected.get(got)) {
            (Some(known), _) => known == got,
            (None, Some(_)) => false,
            (None, None) => {
                self.to_got.insert(expected.to_owned(), got.to_owned());
                self.to_expected.insert(got.to_owned(), expected.to_owned());
                true
            }
        }
    }

    fn text(&mut self, expected: &str, got: &str) -> bool {
        if NAME.replace_all(expected, "<>") != NAME.replace_all(got, "<>") {
            return false;
        }
        let names =
            |text| NAME.find_iter(text).map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let (expected, got) = (names(expected), names(got));
        // Ganeti joins sets in no order: then names that are known must be on both sides, and the others new on both.
        let known: Vec<_> = expected.iter().filter_map(|name| self.to_got.get(name)).collect();
        let mut rest = got.clone();
        let found = known.iter().all(|name| {
            let at = rest.iter().position(|other| other == *name);
            at.map(|at| rest.remove(at)).is_some()
        });
        if got.len() > 1
            && !known.is_empty()
            && got.len() == expected.len()
            && found
            && !rest.iter().any(|name| self.to_expected.contains_key(name))
        {
            return true;
        }
        expected
            .iter()
            .zip(&got)
            .fold(true, |fits, (expected, got)| self.pair(expected, got) && fits)
    }
}

/// The place of a difference, what was expected there and what was found.
type Place = (String, Option<Value>, Option<Value>);

struct Found<'a> {
    names: &'a mut Names,
    /// Paths that are not looked at: names that are met there are not paired either.
    masks: &'a [String],
    list: Vec<Place>,
}

impl Found<'_> {
    fn exchange(&mut self, expected: &Exchange, got: &Exchange) {
        let text = |value: &Option<String>| value.as_deref().map_or(Value::Null, Value::from);
        self.value("status", &Value::from(expected.status), &Value::from(got.status));
        self.value("content_type", &text(&expected.content_type), &text(&got.content_type));
        self.value(
            "www_authenticate",
            &text(&expected.www_authenticate),
            &text(&got.www_authenticate),
        );
        self.value("body_form", &text(&expected.body_form), &text(&got.body_form));
        self.value("body", &expected.body, &got.body);
        for index in 0..expected.jobs.len().max(got.jobs.len()) {
            let path = if index == 0 { "job".to_owned() } else { format!("job+{index}") };
            self.option(&path, expected.jobs.get(index), got.jobs.get(index));
        }
    }

    fn is_masked(&self, path: &str) -> bool {
        self.masks.iter().any(|mask| matches(mask, path))
    }

    fn option(&mut self, path: &str, expected: Option<&Value>, got: Option<&Value>) {
        match (expected, got) {
            (Some(expected), Some(got)) => self.value(path, expected, got),
            (None, None) => {}
            _ if self.is_masked(path) => {}
            (expected, got) => {
                self.list.push((path.to_owned(), expected.cloned(), got.cloned()));
            }
        }
    }

    fn value(&mut self, path: &str, expected: &Value, got: &Value) {
        if self.is_masked(path) {
            return;
        }
        match (expected, got) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, expected) in a {
                    self.option(&format!("{path}.{key}"), Some(expected), b.get(key));
                }
                for (key, got) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                    self.option(&format!("{path}.{key}"), None, Some(got));
                }
            }
            (Value::Array(a), Value::Array(b)) => {
                for index in 0..a.len().max(b.len()) {
                    self.option(&format!("{path}[{index}]"), a.get(index), b.get(index));
                }
            }
            (Value::String(a), Value::String(b)) if self.names.text(a, b) => {}
            (expected, got) if expected == got => {}
            (expected, got) => {
                self.list.push((path.to_owned(), Some(expected.clone()), Some(got.clone())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(expected: &Value, got: &Value, paths: &[&str]) {
        let mut names = Names::default();
        let mut found = Found { names: &mut names, masks: &[], list: Vec::new() };
        found.value("body", expected, got);
        let found: Vec<_> = found.list.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(found, paths);
    }

    #[test]
    fn differences_are_named_by_their_place() {
        check(&json!({"a": [1, 2], "b": null}), &json!({"b": null, "a": [1, 2]}), &[]);
        check(&json!({"a": [1, 2]}), &json!({"a": [1, 3, 4]}), &["body.a[1]", "body.a[2]"]);
        check(&json!({"a": 1}), &json!({"b": 1}), &["body.a", "body.b"]);
        check(&json!(1), &json!(1.0), &["body"]);
        check(&json!(1), &json!("1"), &["body"]);
    }

    #[test]
    fn numbered_names_are_paired() {
        check(
            &json!(["<uuid1>", "<uuid2>", "<uuid1>"]),
            &json!(["<uuid5>", "<uuid1>", "<uuid5>"]),
            &[],
        );
        check(&json!(["<uuid1>", "<uuid1>"]), &json!(["<uuid1>", "<uuid2>"]), &["body[1]"]);
        check(&json!(["<uuid1>", "<uuid2>"]), &json!(["<uuid1>", "<uuid1>"]), &["body[1]"]);
        check(
            &json!(["<uuid1>", "<uuid2>", "<uuid1>, <uuid2>"]),
            &json!(["<uuid1>", "<uuid2>", "<uuid2>, <uuid1>"]),
            &[],
        );
        // A set of which only one is known: the others may be any that were not met.
        let (one, set) = ("<uuid1>", "<uuid1>, <uuid2>, <uuid3>");
        check(&json!([one, set]), &json!(["<uuid7>", "<uuid8>, <uuid7>, <uuid9>"]), &[]);
        check(&json!([one, set]), &json!(["<uuid7>", "<uuid8>, <uuid9>, <uuid5>"]), &["body[1]"]);
        check(&json!([one, set]), &json!(["<uuid7>", "<uuid8>, <uuid7>"]), &["body[1]"]);
        check(&json!("job=<job1>"), &json!("job=<job2>"), &[]);
        check(&json!("<job1> ends"), &json!("<job1> end"), &["body"]);
    }

    #[test]
    fn names_that_are_masked_are_not_paired() {
        let section =
            crate::scenario::parse("s", "anon GET /x\n    mask: body.a\nanon GET /y").unwrap();
        let run = |first: &str, second: &str| {
            let exchange = |step: &str, body: Value| {
                let value = json!({"step": step, "status": 200, "body": body});
                serde_json::from_value::<Exchange>(value).unwrap()
            };
            [exchange("anon GET /x", json!({"a": first})), exchange("anon GET /y", json!([second]))]
        };
        let other = run("<uuid1>", "<uuid2>");
        assert!(compare(&section, &run("<uuid1>", "<uuid1>"), &other).concat().is_empty());
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("body.a", "body.a", true),
            ("body.a", "body.ab", false),
            ("body.*", "body.a[0]", true),
            ("*[0].x", "job.a[0].x", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
