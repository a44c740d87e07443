//! `cargo xtask check`: everything that needs no installed system part.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::time::Instant;

use anyhow::{Context, Result};

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

/// Does all steps; the first that fails ends it.
pub(crate) fn all() -> Result<()> {
    for (name, step) in STEPS {
        let start = Instant::now();
        step().with_context(|| format!("check: {name}"))?;
        println!("check: {name} ok, {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
