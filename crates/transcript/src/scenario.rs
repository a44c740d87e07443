//! Scenarios: text files of requests, one step a line, read from top to bottom against a fresh cluster.
//!
//! ```text
//! # a comment
//! let g = /2/groups/g1          from here on {g} stands for this text
//! writer PUT /2/groups/g1/modify {"alloc_policy": "preferred"}
//!     name: plain text              another name for the step, for where differences are accepted by name
//!     type: text/plain          another Content-Type for the body (`none`: no such header)
//!     header: Accept: text/x    one more header
//!     raw: {broken              the body, where it does not fit on the step's line
//!     save: g                   keep the answer (a bare string or number) for later steps, as {g}
//!     save: n /pnode            keep what lies at this JSON pointer of the answer
//!     queued: j                 keep the job id as {j} and do not wait for the job
//!     mask: job.opresult*       do not compare what lies at paths like this one
//!     mask: nodes               compare with each node's name replaced (where placement is a matter of live figures)
//! wait {j}                      wait until this job is final and look at it
//! until {j} running             wait until this job has one of these statuses
//! ```
//!
//! A step's first word says who asks: `anon`, one of the users of the cluster's users file by name, or `name:password`. A
//! step that answers a job id waits for the job and looks at it, and at the jobs that its result submitted, unless it says
//! `queued`. Each file is a section of its own: it creates what it uses and removes it again.

use std::path::{Path, PathBuf};

/// Users of the cluster that scenarios are written for, with their passwords.
const USERS: &[(&str, &str)] = &[
    ("reader", "readpw"),
    ("reader2", "readpw2"),
    ("writer", "writepw"),
    ("cleartext", "clearpw"),
    ("hashed", "hashpw"),
    ("both", "bothpw"),
];

/// One scenario file.
#[derive(Debug, Clone)]
pub struct Section {
    /// The file's name without its extension.
    pub name: String,
    /// What to do, in this order.
    pub steps: Vec<Step>,
}

/// One line of a scenario, with the lines indented under it.
#[derive(Debug, Clone)]
pub struct Step {
    /// The step's name, unique in its section and stable when other steps come and go.
    pub name: String,
    /// Where it stands in the file.
    pub line: usize,
    /// What to do.
    pub action: Action,
    /// Paths of the exchange that are not compared, `*` standing for anything.
    pub masks: Vec<String>,
    /// Whether each node's name is replaced before comparing.
    pub any_node: bool,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send a request and record the answer.
    Ask(Ask),
    /// Wait until a job is final, and record it.
    Wait {
        /// The job id, with names of saved values in braces.
        job: String,
    },
    /// Wait until a job has one of the given statuses; records nothing but that it came true.
    Until {
        /// The job id, with names of saved values in braces.
        job: String,
        /// Statuses, any of which ends the wait.
        statuses: Vec<String>,
    },
}

/// A request, with names of saved values in braces.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `name:password`, or nothing for an anonymous request.
    pub user: Option<String>,
    /// The method as it is sent.
    pub method: String,
    /// The request target.
    pub path: String,
    /// The body as it is sent.
    pub body: Option<String>,
    /// The Content-Type, when the step chose one; an empty one means none.
    pub content_type: Option<String>,
    /// More headers, in order.
    pub headers: Vec<(String, String)>,
    /// Values to keep: a name and the JSON pointer in the answer.
    pub saves: Vec<(String, String)>,
    /// The name under which the job id is kept, when the step does not wait.
    pub queued: Option<String>,
}

/// Why a scenario could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file or directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A line does not follow the grammar.
    #[error("{section}:{line}: {what}")]
    Line {
        /// The section's name.
        section: String,
        /// The line's number.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads all scenario files of a directory, in the order of their names.
pub fn load(dir: &Path) -> Result<Vec<Section>, ScenarioError> {
    let read = |source| ScenarioError::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            files.push(path);
        }
    }
    files.sort();
    files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ScenarioError::Read { path: path.clone(), source })?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            parse(&name, &text)
        })
        .collect()
}

/// Reads one scenario.
pub fn parse(section: &str, text: &str) -> Result<Section, ScenarioError> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lets: Vec<(String, String)> = Vec::new();
    for (index, raw) in text.lines().enumerate() {
        let number = index + 1;
        let fail = |what: &str| ScenarioError::Line {
            section: section.to_owned(),
            line: number,
            what: what.to_owned(),
        };
        let raw =
            lets.iter().rev().fold(raw.to_owned(), |raw, (name, text)| raw.replace(name, text));
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix("let ") {
            let (name, text) =
                rest.split_once('=').ok_or_else(|| fail("let needs an equals sign"))?;
            lets.push((format!("{{{}}}", name.trim()), text.trim().to_owned()));
            continue;
        }
        if raw.starts_with(char::is_whitespace) {
            let step =
                steps.last_mut().ok_or_else(|| fail("an indented line needs a step above it"))?;
            attribute(step, line).map_err(|what| fail(&what))?;
            continue;
        }
        let action = action(line).map_err(|what| fail(&what))?;
        let base = match &action {
            Action::Ask(ask) => {
                let user = line.split_whitespace().next().unwrap_or_default();
                format!("{user} {} {}", ask.method, ask.path)
            }
            Action::Wait { .. } | Action::Until { .. } => line.to_owned(),
        };
        let earlier = steps.iter().filter(|step| bare_name(&step.name) == base).count();
        let name = if earlier == 0 { base } else { format!("{base} #{}", earlier + 1) };
        steps.push(Step { name, line: number, action, masks: Vec::new(), any_node: false });
    }
    Ok(Section { name: section.to_owned(), steps })
}

/// The name without the number that tells repeated requests apart.
fn bare_name(name: &str) -> &str {
    match name.rsplit_once(" #") {
        Some((base, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => base,
        _ => name,
    }
}

fn action(line: &str) -> Result<Action, String> {
    let (first, rest) =
        line.split_once(char::is_whitespace).ok_or("a step needs a method and a path")?;
    let rest = rest.trim();
    match first {
        "wait" => return Ok(Action::Wait { job: rest.to_owned() }),
        "until" => {
            let (job, statuses) = rest.split_once(' ').ok_or("until needs a job and statuses")?;
            let statuses = statuses.split(',').map(|status| status.trim().to_owned()).collect();
            return Ok(Action::Until { job: job.to_owned(), statuses });
        }
        _ => {}
    }
    let user = match first {
        "anon" => None,
        name if name.contains(':') => Some(name.to_owned()),
        name => {
            let known = USERS.iter().find(|(user, _)| *user == name);
            let (user, password) = known.ok_or_else(|| format!("nobody is called {name}"))?;
            Some(format!("{user}:{password}"))
        }
    };
    let (method, rest) = rest.split_once(char::is_whitespace).ok_or("a step needs a path")?;
    let rest = rest.trim();
    let (path, body) = match rest.split_once(char::is_whitespace) {
        Some((path, body)) => (path, Some(body.trim().to_owned())),
        None => (rest, None),
    };
    Ok(Action::Ask(Ask {
        user,
        method: method.to_owned(),
        path: path.to_owned(),
        body,
        content_type: None,
        headers: Vec::new(),
        saves: Vec::new(),
        queued: None,
    }))
}

fn attribute(step: &mut Step, line: &str) -> Result<(), String> {
    let (key, value) = line.split_once(':').ok_or("an attribute needs a colon")?;
    let value = value.trim();
    if key == "name" {
        step.name = value.to_owned();
        return Ok(());
    }
    if key == "mask" {
        match value {
            "nodes" => step.any_node = true,
            path => step.masks.push(path.to_owned()),
        }
        return Ok(());
    }
    let Action::Ask(ask) = &mut step.action else {
        return Err("only requests take this attribute".to_owned());
    };
    match key {
        "type" => ask.content_type = Some(if value == "none" { "" } else { value }.to_owned()),
        "header" => {
            let (name, value) = value.split_once(':').ok_or("a header needs a colon")?;
            ask.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        "raw" => ask.body = Some(value.to_owned()),
        "save" => {
            let (name, pointer) = value.split_once(' ').unwrap_or((value, ""));
            ask.saves.push((name.to_owned(), pointer.trim().to_owned()));
        }
        "queued" => ask.queued = Some(value.to_owned()),
        _ => return Err(format!("unknown attribute {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_with_what_is_indented_under_them() {
        let section = parse(
            "s",
            "# c\nlet b = {\"a\": 1}\nanon GET /2/info\nwriter PUT /2/tags?tag=x {b}\n    queued: j\n    mask: job.ops*\n\
             anon GET /2/info\nwait {j}\nuntil {j} queued, waiting\n",
        )
        .unwrap();
        let names: Vec<_> = section.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "anon GET /2/info",
                "writer PUT /2/tags?tag=x",
                "anon GET /2/info #2",
                "wait {j}",
                "until {j} queued, waiting"
            ]
        );
        let Action::Ask(ask) = &section.steps[1].action else { panic!("a request") };
        assert_eq!(ask.user.as_deref(), Some("writer:writepw"));
        assert_eq!(ask.body.as_deref(), Some("{\"a\": 1}"));
        assert_eq!(ask.queued.as_deref(), Some("j"));
        assert_eq!(section.steps[1].masks, ["job.ops*"]);
    }

    #[test]
    fn wrong_lines_are_named() {
        for text in ["nobody GET /2", "writer GET", "    mask: x", "anon GET /2\n    bogus: 1"] {
            assert!(parse("s", text).unwrap_err().to_string().starts_with("s:"), "{text}");
        }
    }
}
