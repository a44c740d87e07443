//! `cargo xtask check`: everything that needs no installed system part.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::deps;
use crate::docs::Docs;
use crate::machine::{cargo, run};
use crate::system;

/// A step: its name, and what it does.
type Step = (&'static str, fn() -> Result<()>);

/// In an order in which quick ones fail first.
const STEPS: &[Step] = &[
    ("form", || run(cargo().args(["fmt", "--all", "--check"]))),
    ("dependencies", deps::run),
    ("documents", || Docs { check: true }.run()),
    ("lints", || {
        let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        run(cargo().args(lints))
    }),
    ("build", || run(cargo().args(["build", "--quiet", "--workspace", "--all-targets"]))),
    ("tests", || run(cargo().args(["test", "--quiet", "--workspace"]))),
    // What a real daemon answered, before now.
    ("transcripts", system::transcripts::run),
    ("manual", || {
        let doc = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
        run(cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))
    }),
];

/// Do everything, or the named steps alone.
#[derive(Args)]
pub(crate) struct Check {
    /// form, dependencies, documents, lints, build, tests, transcripts, manual; all of them by default.
    names: Vec<String>,
}

impl Check {
    /// Does the steps; the first that fails ends it.
    pub(crate) fn run(&self) -> Result<()> {
        if let Some(name) =
            self.names.iter().find(|name| !STEPS.iter().any(|(step, _)| step == name))
        {
            bail!("there is no step '{name}'");
        }
        let wanted =
            |step: &str| self.names.is_empty() || self.names.iter().any(|name| name == step);
        for (name, step) in STEPS.iter().filter(|(name, _)| wanted(name)) {
            let start = Instant::now();
            step().with_context(|| format!("check: {name}"))?;
            println!("check: {name} ok, {:.0} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    }
}

/// Does all steps.
pub(crate) fn all() -> Result<()> {
    Check { names: Vec::new() }.run()
}
