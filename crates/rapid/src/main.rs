//! The program `rapid`. Wiring and presentation: the work is done in the crates.

mod args;
mod cluster_init;
mod commands;
mod daemon;
mod extra;
mod first_start;
mod ganeti;
mod ganeti_root;
mod logging;
mod metrics;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, ClusterCommand, Command};

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&name).file_name().is_some_and(|name| name == daemon::NAME) {
        return daemon::run();
    }
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rapid: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(options) => serve::run(&options),
        Command::Cluster { command: ClusterCommand::Init(options) } => {
            cluster_init::run(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Cluster { command: ClusterCommand::RenewCrypto(options) } => {
            commands::renew_crypto(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::User { command } => commands::user(&command).map(|()| ExitCode::SUCCESS),
        Command::Os { command } => commands::os(&command).map(|()| ExitCode::SUCCESS),
        Command::Console(options) => commands::console(&options).map(|()| ExitCode::SUCCESS),
        Command::Screenshot(options) => commands::screenshot(&options).map(|()| ExitCode::SUCCESS),
    }
}
