//! The project's automation: what people type as `cargo xtask NAME`.

mod docs;
mod oracle;
mod transcripts;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Rapid's automation")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write docs/api.md, docs/openapi.json and docs/access.txt from the tables.
    Docs(docs::Docs),
    /// A real Ganeti cluster on this machine, and recordings of what it answers.
    Oracle(oracle::Oracle),
    /// Compare a daemon's answers with the recordings of a real one.
    Transcripts(transcripts::Transcripts),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Docs(docs) => docs.run(),
        Task::Oracle(oracle) => oracle.run(),
        Task::Transcripts(transcripts) => transcripts.run(),
    }
}
