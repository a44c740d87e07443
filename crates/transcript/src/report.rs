//! Which differences are accepted, and the report of a comparison. An accepted difference is a row of `differences.json`
//! that says where, why, and which line of docs/compatibility.md tells the users of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::compare::{Difference, matches};
use crate::scenario::{Action, Section};

/// How many characters of a value a report shows, unless all are asked for.
const VALUE_CHARS: usize = 220;
/// How many differences of one step a report shows, unless all are asked for.
const STEP_DIFFERENCES: usize = 6;

/// Whose answers are compared with those of the real daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Daemon {
    /// The real daemon itself, once more.
    Ganeti,
    /// Ours, with the engine for real clusters.
    Luxi,
    /// Ours, with its own cluster.
    #[default]
    Embedded,
}

/// Of whom a difference is accepted, in the words of docs/compatibility.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// Of ours, with every engine.
    Door,
    /// Of ours, with its own cluster only.
    Embedded,
    /// Of ours, with the engine for real clusters only.
    Luxi,
    /// Of everybody: the real daemon does not answer the same twice.
    Noise,
}

impl Holds {
    fn of(self, daemon: Daemon) -> bool {
        match self {
            Self::Door => daemon != Daemon::Ganeti,
            Self::Embedded => daemon == Daemon::Embedded,
            Self::Luxi => daemon == Daemon::Luxi,
            Self::Noise => true,
        }
    }
}

/// A difference that is known, meant and documented. `*` stands for any text in each pattern.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Of whom.
    pub holds: Holds,
    /// The section; any when absent.
    #[serde(default = "any")]
    pub section: String,
    /// The step's name.
    #[serde(default = "any")]
    pub step: String,
    /// Where in the exchange.
    pub path: String,
    /// What the real daemon says there, as JSON text or bare string; anything when absent.
    #[serde(default = "any")]
    pub expected: String,
    /// What we say there, as JSON text or bare string; anything when absent.
    #[serde(default = "any")]
    pub got: String,
    /// Why this is right.
    pub reason: String,
    /// Words that stand in the line of docs/compatibility.md that documents it.
    pub documented: String,
}

fn any() -> String {
    "*".to_owned()
}

/// Why the accepted differences could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AcceptedError {
    /// The file could not be read.
    #[error("{0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not a list of rows.
    #[error("{0}")]
    Parse(PathBuf, #[source] serde_json::Error),
}

/// Reads the accepted differences.
pub fn load_accepted(file: &Path) -> Result<Vec<Accepted>, AcceptedError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| AcceptedError::Read(file.to_owned(), error))?;
    serde_json::from_str(&text).map_err(|error| AcceptedError::Parse(file.to_owned(), error))
}

impl Accepted {
    fn covers(&self, difference: &Difference) -> bool {
        matches(&self.section, &difference.section)
            && matches(&self.step, &difference.step)
            && matches(&self.path, &difference.path)
            && matches(&self.expected, &show(difference.expected.as_ref(), true))
            && matches(&self.got, &show(difference.got.as_ref(), true))
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps compared.
    pub exchanges: usize,
    /// Steps without any difference.
    pub equal: usize,
    /// Steps whose differences are all accepted.
    pub documented: usize,
    /// Steps with other differences.
    pub different: usize,
    /// Those other differences, by section and step in order of the run.
    pub differences: Vec<Difference>,
    /// For each section: exchanges, equal, documented, different.
    pub sections: BTreeMap<String, [usize; 4]>,
    /// What the report says of each step beside its name: its line and its body.
    asked: BTreeMap<(String, String), String>,
    /// How often each row of the accepted differences was used.
    used: Vec<usize>,
    accepted: Vec<Accepted>,
    daemon: Daemon,
}

impl Report {
    /// A report that knows which differences are accepted of this daemon.
    pub fn new(mut accepted: Vec<Accepted>, daemon: Daemon) -> Self {
        accepted.retain(|row| row.holds.of(daemon));
        Self { used: vec![0; accepted.len()], accepted, daemon, ..Self::default() }
    }

    /// Takes in what `compare` found in one section.
    pub fn add(&mut self, section: &Section, steps: Vec<Vec<Difference>>) {
        for step in &section.steps {
            let body = match &step.action {
                Action::Ask(ask) => ask.body.as_deref().unwrap_or_default(),
                Action::Wait { .. } | Action::Until { .. } => "",
            };
            let asked = format!("line {} {body}", step.line);
            self.asked.insert((section.name.clone(), step.name.clone()), asked.trim().to_owned());
        }
        let counts = self.sections.entry(section.name.clone()).or_default();
        for step in steps {
            let had_any = !step.is_empty();
            let mut open = Vec::new();
            for difference in step {
                let row = self.accepted.iter().position(|row| row.covers(&difference));
                match row {
                    Some(row) => self.used[row] += 1,
                    None => open.push(difference),
                }
            }
            let kind = match (had_any, open.is_empty()) {
                (false, _) => &mut self.equal,
                (true, true) => &mut self.documented,
                (true, false) => &mut self.different,
            };
            *kind += 1;
            self.exchanges += 1;
            counts[0] += 1;
            counts[if !had_any {
                1
            } else if open.is_empty() {
                2
            } else {
                3
            }] += 1;
            self.differences.append(&mut open);
        }
    }

    /// Rows of the accepted differences that fitted nothing. Noise is looked for in the real daemon's own answers only: the
    /// others may be spared it.
    pub fn unused(&self) -> impl Iterator<Item = &Accepted> {
        let unused = self.accepted.iter().zip(&self.used).filter(|(_, used)| **used == 0);
        let is_noise = |row: &Accepted| row.holds == Holds::Noise && self.daemon != Daemon::Ganeti;
        unused.map(|(row, _)| row).filter(move |row| !is_noise(row))
    }

    /// The report as text. `whole` shows every difference and every value in full.
    pub fn text(&self, whole: bool) -> String {
        let mut text = String::new();
        let mut last = ("", "");
        let mut shown = 0;
        // Writing to a string cannot fail, hence the ignored results.
        for difference in &self.differences {
            let step = (difference.section.as_str(), difference.step.as_str());
            if step != last {
                let all = self.differences.iter();
                let count =
                    all.filter(|each| (each.section.as_str(), each.step.as_str()) == step).count();
                let _ = writeln!(text, "\n{}: {} ({count})", step.0, step.1);
                if let Some(asked) = self.asked.get(&(step.0.to_owned(), step.1.to_owned())) {
                    let _ = writeln!(text, "  {asked}");
                }
                (last, shown) = (step, 0);
            }
            shown += 1;
            if shown > STEP_DIFFERENCES && !whole {
                if shown == STEP_DIFFERENCES + 1 {
                    let _ = writeln!(text, "  …");
                }
                continue;
            }
            let _ = writeln!(text, "  {}", difference.path);
            let _ = writeln!(text, "    expected {}", show(difference.expected.as_ref(), whole));
            let _ = writeln!(text, "    got      {}", show(difference.got.as_ref(), whole));
        }
        let _ = writeln!(text, "\n{:24} exchanges  equal  documented  different", "section");
        for (section, [exchanges, equal, documented, different]) in &self.sections {
            let _ = writeln!(
                text,
                "{section:24} {exchanges:9} {equal:6} {documented:11} {different:10}"
            );
        }
        let (exchanges, equal, documented, different) =
            (self.exchanges, self.equal, self.documented, self.different);
        let _ =
            writeln!(text, "{:24} {exchanges:9} {equal:6} {documented:11} {different:10}", "all");
        text
    }
}

fn show(value: Option<&Value>, whole: bool) -> String {
    let text = match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) if !whole => format!("{text:?}"),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    if whole || text.chars().count() <= VALUE_CHARS {
        return text;
    }
    let start: String = text.chars().take(VALUE_CHARS).collect();
    format!("{start}… ({} characters)", text.chars().count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn difference(step: &str, path: &str) -> Difference {
        Difference {
            section: "s".to_owned(),
            step: step.to_owned(),
            path: path.to_owned(),
            expected: Some(json!(null)),
            got: Some(json!([])),
        }
    }

    #[test]
    fn rows_hold_of_whom_they_say() {
        let holds = |holds: Holds| {
            [Daemon::Ganeti, Daemon::Luxi, Daemon::Embedded].map(|daemon| holds.of(daemon))
        };
        assert_eq!(holds(Holds::Door), [false, true, true]);
        assert_eq!(holds(Holds::Luxi), [false, true, false]);
        assert_eq!(holds(Holds::Embedded), [false, false, true]);
        assert_eq!(holds(Holds::Noise), [true, true, true]);
    }

    #[test]
    fn accepted_differences_are_counted_apart() {
        let row = json!([
            {"holds": "door", "step": "anon GET /", "path": "body", "expected": "null", "reason": "r", "documented": "d"},
            {"holds": "embedded", "step": "never", "path": "*", "reason": "r", "documented": "d"},
            {"holds": "noise", "step": "never", "path": "*", "reason": "r", "documented": "d"},
            {"holds": "luxi", "step": "*", "path": "*", "reason": "r", "documented": "d"}
        ]);
        let mut report = Report::new(serde_json::from_value(row).unwrap(), Daemon::Embedded);
        let section = crate::scenario::parse("s", "anon GET /\nwriter POST /2/groups {}").unwrap();
        report.add(
            &section,
            vec![
                vec![],
                vec![difference("anon GET /", "body")],
                vec![difference("writer POST /2/groups", "status"), difference("x", "body")],
            ],
        );
        assert_eq!(
            (report.exchanges, report.equal, report.documented, report.different),
            (3, 1, 1, 1)
        );
        assert_eq!(report.differences.len(), 2);
        assert_eq!(report.unused().count(), 1, "rows of other daemons are none of this one");
        let text = report.text(false);
        assert!(text.contains("expected null") && text.contains("line 2 {}"), "{text}");
    }
}
