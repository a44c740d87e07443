//! `cargo xtask oracle`: brings a real Ganeti cluster up on this machine and records what its daemon answers to the
//! scenarios of the crate `transcript`. For developers on Debian 12, as root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use transcript::check;
use transcript::report::Daemon;

use crate::ganeti::{self, Ganeti};
use crate::luxi_record;
use crate::transcripts::{self, Place};

/// The environment variable that says that this process already runs inside the cluster's network namespace.
const INSIDE: &str = "RAPID_ORACLE_INSIDE";
/// Where the real daemon listens, inside the namespace.
pub(crate) const ADDRESS: &str = "https://127.0.0.1:5080";

/// A real Ganeti cluster.
#[derive(Args)]
pub(crate) struct Oracle {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make the cluster and start it.
    Up,
    /// Stop and remove it.
    Down,
    /// Run the scenarios against it and write what it answered to crates/transcript/recorded.
    Record {
        /// Another daemon of this cluster, by its address inside the namespace.
        #[arg(long, default_value = ADDRESS)]
        address: String,
        /// What it is.
        #[arg(long, default_value = "ganeti-rapi 3.0.2 (Debian 12)")]
        daemon: String,
        /// Another directory to write to.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        /// Only sections whose name contains this; all of them by default.
        #[arg(long)]
        section: Vec<String>,
    },
    /// Ask its master daemon, on a cluster that was just made, what crates/rapid/tests/fixtures has, and write what it answered.
    Luxi {
        /// Its socket.
        #[arg(long, value_name = "PATH", default_value = luxi_record::SOCKET)]
        socket: PathBuf,
    },
    /// Run the scenarios against it and compare with what it answered before, which proves the masks.
    Compare {
        /// Only sections whose name contains this; all of them by default.
        #[arg(long)]
        section: Vec<String>,
        /// Show every difference in full.
        #[arg(long)]
        verbose: bool,
    },
}

impl Oracle {
    /// Does what was asked.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match &self.verb {
            Verb::Up => script(&["up"]),
            Verb::Down => script(&["down"]),
            Verb::Luxi { socket } => luxi_record::run(socket),
            Verb::Record { address, daemon, into, section } if is_inside() => {
                let into = into.clone().unwrap_or_else(check::recorded);
                transcripts::record(address, section, &places(), daemon, &into)
            }
            Verb::Compare { section, verbose } if is_inside() => {
                transcripts::compare(ADDRESS, Daemon::Ganeti, section, &places(), *verbose)
            }
            Verb::Record { .. } | Verb::Compare { .. } => again_inside(),
        }
    }
}

pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Says to a command that runs this program that it will be inside.
pub(crate) fn mark_inside(command: &mut Command) -> &mut Command {
    command.env(INSIDE, "1")
}

fn script(arguments: &[&str]) -> anyhow::Result<()> {
    let status = ganeti::script().args(arguments).status().context("bash")?;
    ensure!(status.success(), "ganeti.sh {} failed: {status}", arguments.join(" "));
    Ok(())
}

/// Runs this very command inside the namespace.
fn again_inside() -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let mut command = ganeti::script();
    command.arg("exec").arg(program).args(std::env::args_os().skip(1));
    let status = mark_inside(&mut command).status().context("bash")?;
    ensure!(status.success(), "inside the namespace: {status}");
    Ok(())
}

/// What records the answers of a daemon that listens inside this cluster's namespace.
pub(crate) fn recorder(
    cluster: &Ganeti,
    address: &str,
    daemon: &str,
    sections: &[&str],
    into: &Path,
) -> anyhow::Result<Command> {
    let mut command = cluster.inside(std::env::current_exe()?);
    command.args(["oracle", "record", "--address", address, "--daemon", daemon, "--into"]);
    mark_inside(command.arg(into));
    command.args(sections.iter().flat_map(|section| ["--section", section]));
    Ok(command)
}

/// Where this cluster keeps its files. Its nodes' own roots vanish, as if each node were a machine.
fn places() -> Vec<Place> {
    let base = ganeti::dir().display().to_string();
    let mut places: Vec<Place> = (1..=4)
        .map(|node| Place(format!("{base}/vc/node{node}.gnt.example"), String::new()))
        .collect();
    places.push(Place(base, "/srv/gnt".to_owned()));
    places
}
