//! The project's automation: what people type as `cargo xtask NAME`.

mod bench;
mod check;
mod deb;
mod demo;
mod deps;
mod docs;
mod ganeti;
mod guest;
mod luxi_record;
mod machine;
mod oracle;
mod server;
mod system;
mod test;
mod tools;
mod transcripts;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Rapid's automation")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that needs no more than cargo, clippy and rustfmt: form, lints, tests, recorded answers, documents,
    /// dependencies. With names, only these steps.
    Check(check::Check),
    /// What CI runs: installs what is missing, then `check`, then the system tests. With names, only these.
    Test(test::Test),
    /// Boot a real guest through the remote API, on this machine.
    Demo(demo::Demo),
    /// Measure the server, and print a table.
    Bench(bench::Bench),
    /// Build the Debian packages.
    Deb(deb::Deb),
    /// Check which crate depends on which, and the licences of what is not ours.
    Deps,
    /// Write docs/api.md, docs/openapi.json, docs/access.txt and docs/tools.md from the tables.
    Docs(docs::Docs),
    /// A real Ganeti cluster on this machine, and recordings of what it answers.
    Oracle(oracle::Oracle),
    /// Compare a daemon's answers with the recordings of a real one.
    Transcripts(transcripts::Transcripts),
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Check(check) => check.run(),
        Task::Test(test) => test.run(),
        Task::Demo(demo) => demo.run(),
        Task::Bench(bench) => bench.run(),
        Task::Deb(deb) => deb.run(),
        Task::Deps => deps::run(),
        Task::Docs(docs) => docs.run(),
        Task::Oracle(oracle) => oracle.run(),
        Task::Transcripts(transcripts) => transcripts.run(),
    }
}
