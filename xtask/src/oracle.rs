//! `cargo xtask oracle`: brings a real Ganeti cluster up on this machine and records what its daemon answers to the
//! scenarios of the crate `transcript`. For developers on Debian 12, as root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};

use crate::transcripts::{self, Place};

/// The environment variable that says that this process already runs inside the cluster's network namespace.
const INSIDE: &str = "RAPID_ORACLE_INSIDE";
/// Where the daemon listens, inside the namespace.
const ADDRESS: &str = "https://127.0.0.1:5080";

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
        /// Only sections whose name contains this; all of them by default.
        #[arg(long)]
        section: Vec<String>,
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
            Verb::Record { section } if is_inside() => {
                transcripts::record(ADDRESS, section, &places(), "ganeti-rapi 3.0.2 (Debian 12)")
            }
            Verb::Compare { section, verbose } if is_inside() => {
                transcripts::compare(ADDRESS, section, &places(), *verbose)
            }
            Verb::Record { .. } | Verb::Compare { .. } => again_inside(),
        }
    }
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn script_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("oracle/ganeti.sh")
}

fn script(arguments: &[&str]) -> anyhow::Result<()> {
    let status =
        Command::new("bash").arg(script_path()).args(arguments).status().context("bash")?;
    ensure!(status.success(), "ganeti.sh {} failed: {status}", arguments.join(" "));
    Ok(())
}

/// Runs this very command inside the namespace.
fn again_inside() -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let status = Command::new("bash")
        .arg(script_path())
        .arg("exec")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .context("bash")?;
    ensure!(status.success(), "inside the namespace: {status}");
    Ok(())
}

/// Where this cluster keeps its files. Its nodes' own roots vanish, as if each node were a machine.
fn places() -> Vec<Place> {
    let base = std::env::var("ORACLE_DIR").unwrap_or_else(|_| "/var/tmp/rapid-oracle".to_owned());
    let mut places: Vec<Place> = (1..=4)
        .map(|node| Place(format!("{base}/vc/node{node}.gnt.example"), String::new()))
        .collect();
    places.push(Place(base, "/srv/gnt".to_owned()));
    places
}
