//! The table of Ganeti's command line tools, `xtask/tools.txt`: which of their subcommands are run on a cluster of ours and what
//! must be seen, and which do not work. The system test runs it, `docs/tools.md` is made of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

/// The table as it is written.
const TABLE: &str = include_str!("../tools.txt");

/// What must be seen of a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// The command line, with `{names}` that stand for what was kept.
    pub(crate) command: String,
    pub(crate) fails: bool,
    pub(crate) says: Vec<String>,
    pub(crate) lacks: Vec<String>,
    /// The name that the first number or UUID of the output gets.
    pub(crate) keep: Option<String>,
}

/// One row: a command, and other looks at what it did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) look: Look,
    pub(crate) then: Vec<Look>,
}

/// A subcommand that does not work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) tool: String,
    pub(crate) subcommand: String,
    pub(crate) why: String,
}

/// The whole table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) steps: Vec<Step>,
    pub(crate) missing: Vec<Missing>,
}

/// The tool and the subcommand of a command line; none where the tool has no subcommands.
pub(crate) fn subcommand(command: &str) -> (&str, &str) {
    let mut words = command.split_whitespace();
    let tool = words.next().unwrap_or_default();
    let next = words.next().unwrap_or_default();
    (tool, if next.starts_with('-') { "" } else { next })
}

impl Table {
    /// The project's table.
    pub(crate) fn read() -> Result<Self> {
        Self::parse(TABLE)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for (at, line) in text.lines().enumerate() {
            table.line(line).with_context(|| format!("tools.txt:{}: {line}", at + 1))?;
        }
        Ok(table)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(missing) = line.strip_prefix("- ") {
            let (command, why) = missing.split_once(": ").context("there is no reason")?;
            let (tool, subcommand) = subcommand(command);
            self.missing.push(Missing {
                tool: tool.to_owned(),
                subcommand: subcommand.to_owned(),
                why: why.to_owned(),
            });
            return Ok(());
        }
        let Some(more) = line.strip_prefix("  ") else {
            let look = Look { command: line.to_owned(), ..Look::default() };
            self.steps.push(Step { look, then: Vec::new() });
            return Ok(());
        };
        let step = self.steps.last_mut().context("there is no command above")?;
        let (word, rest) = more.split_once(' ').unwrap_or((more, ""));
        if word == "then" {
            step.then.push(Look { command: rest.to_owned(), ..Look::default() });
            return Ok(());
        }
        let look = step.then.last_mut().unwrap_or(&mut step.look);
        match word {
            "fails" => look.fails = true,
            "says" => look.says.push(rest.to_owned()),
            "lacks" => look.lacks.push(rest.to_owned()),
            "keep" => look.keep = Some(rest.to_owned()),
            _ => bail!("what is '{word}'?"),
        }
        ensure!(word == "fails" || !rest.is_empty(), "'{word}' of what?");
        Ok(())
    }

    /// What works: by tool and subcommand, the command lines that are run.
    fn working(&self) -> BTreeMap<&str, BTreeMap<&str, Vec<&str>>> {
        let mut tools: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
        for step in &self.steps {
            let (tool, subcommand) = subcommand(&step.look.command);
            let lines = tools.entry(tool).or_default().entry(subcommand).or_default();
            lines.push(&step.look.command);
        }
        tools
    }

    /// The tools that have subcommands, each with those that the table names.
    pub(crate) fn named(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut tools: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tool, subcommands) in self.working() {
            let with = subcommands.keys().copied().filter(|name| !name.is_empty());
            tools.entry(tool).or_default().extend(with);
        }
        for missing in &self.missing {
            tools.entry(&missing.tool).or_default().push(&missing.subcommand);
        }
        tools.retain(|_, subcommands| !subcommands.is_empty());
        tools
    }

    /// The document.
    pub(crate) fn document(&self) -> String {
        let mut text = String::from(HEAD);
        let mut say = |line: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        };
        for (tool, subcommands) in self.working() {
            say(&format!("\n## {tool}\n"));
            if let Some(lines) = subcommands.get("") {
                say(&format!("Works: {}.", code(lines)));
                continue;
            }
            say("| subcommand | works | tested as |");
            say("|---|---|---|");
            let mut rows: BTreeMap<&str, String> = BTreeMap::new();
            for (subcommand, lines) in subcommands {
                rows.insert(subcommand, format!("yes | {}", code(&lines)));
            }
            for missing in self.missing.iter().filter(|missing| missing.tool == tool) {
                rows.insert(&missing.subcommand, format!("no | {}", missing.why));
            }
            for (subcommand, row) in rows {
                say(&format!("| `{subcommand}` | {row} |"));
            }
        }
        text
    }
}

/// Command lines in the document.
fn code(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| format!("`{}`", line.replace('|', "\\|")));
    lines.collect::<Vec<_>>().join("<br>")
}

const HEAD: &str = "\
# Ganeti's own tools

`rapid serve --compat 3.0 --ganeti-root DIR/NODE` lets the command line tools of Ganeti 3.0.2, as Debian 12 packages them, work on a
cluster of ours: they find what they look for below that directory, whose last part is the master node's name. Tell them so:

```sh
export GANETI_ROOTDIR=DIR/NODE GANETI_HOSTNAME=NODE
gnt-instance list
```

Debian's Python daemon `ganeti-rapi` runs there as well.

This page is made by `cargo xtask docs` from the table that the system test runs (`xtask/tools.txt`): each command line that stands
here is run there, and what it says and does is looked at. A subcommand that is not listed does not exist in 3.0.2.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = Table::parse(
            "# a\n\ngnt-job list\n  says ID\n  then gnt-job info 5\n  fails\n  lacks x\nhbal -L\n- gnt-job wait: no\n",
        )
        .unwrap();
        let [list, hbal] = table.steps.as_slice() else { panic!("{:?}", table.steps) };
        assert_eq!(list.look.says, ["ID"]);
        assert_eq!((list.then[0].fails, list.then[0].lacks.len()), (true, 1));
        assert_eq!(subcommand(&hbal.look.command), ("hbal", ""));
        let job = vec!["list", "wait"];
        assert_eq!(table.named(), BTreeMap::from([("gnt-job", job)]));
        assert!(table.document().contains("| `wait` | no | no |"));
        assert!(Table::parse("  says x").is_err());
        assert!(Table::parse("gnt-job list\n  shows x").is_err());
    }

    #[test]
    fn nothing_works_and_does_not() {
        let table = Table::read().unwrap();
        for missing in &table.missing {
            let works = |step: &Step| {
                subcommand(&step.look.command) == (&missing.tool, &missing.subcommand)
            };
            assert!(!table.steps.iter().any(works), "{} {}", missing.tool, missing.subcommand);
        }
    }
}
