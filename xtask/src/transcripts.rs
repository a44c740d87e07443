//! `cargo xtask transcripts`: runs the scenarios of the crate `transcript` against a daemon and says where its answers
//! differ from those that a real ganeti-rapi gave.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command is for")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use transcript::client::Client;
use transcript::mask::Places;
use transcript::recording::{Exchange, Header, Recording};
use transcript::report::Report;
use transcript::scenario::Section;
use transcript::{compare, mask, recording, report, run, scenario};

/// Compare a daemon's answers with the recordings of a real one. Its cluster must be fresh and made as
/// docs of the scenarios say.
#[derive(Args)]
pub(crate) struct Transcripts {
    /// The daemon's address, as in https://127.0.0.1:5080.
    #[arg(long)]
    address: String,
    /// Only sections whose name contains this; all of them by default.
    #[arg(long)]
    section: Vec<String>,
    /// A directory of this daemon and what stands for it in the recordings, as in /tmp/x/storage=/srv/gnt/storage.
    #[arg(long = "place", value_name = "DIR=NAME")]
    places: Vec<Place>,
    /// Show every difference in full.
    #[arg(long)]
    verbose: bool,
}

/// A directory and what stands for it.
#[derive(Debug, Clone)]
pub(crate) struct Place(pub(crate) String, pub(crate) String);

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, name) = text.split_once('=').ok_or("not of the form DIR=NAME")?;
        Ok(Self(place.to_owned(), name.to_owned()))
    }
}

impl Transcripts {
    /// Does what was asked.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        compare(&self.address, &self.section, &self.places, self.verbose)
    }
}

/// Where the crate `transcript` keeps its files.
fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/transcript")
}

/// The sections whose name contains one of the given words.
fn sections(wanted: &[String]) -> anyhow::Result<Vec<Section>> {
    let mut sections = scenario::load(&home().join("scenarios"))?;
    sections.retain(|section| {
        wanted.is_empty() || wanted.iter().any(|word| section.name.contains(word))
    });
    ensure!(!sections.is_empty(), "no section is called {}", wanted.join(" or "));
    Ok(sections)
}

fn masks(places: &[Place]) -> Places {
    Places(places.iter().map(|Place(place, name)| (place.clone(), name.clone())).collect())
}

/// Runs a section, telling where it is.
fn answers(client: &Client, section: &Section) -> anyhow::Result<Vec<Exchange>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let count = section.steps.len();
    let exchanges = runtime.block_on(run::run(client, section, |index, step| {
        let text: String = step.name.chars().take(90).collect();
        eprint!("\r\x1b[K{} {}/{count} {text}", section.name, index + 1);
        // A progress line that does not show is no reason to stop.
        let _ = std::io::stderr().flush();
    }));
    eprintln!("\r\x1b[K{}: {count} steps in {:.0} s", section.name, start.elapsed().as_secs_f64());
    Ok(exchanges)
}

/// Runs sections against a real daemon and writes down what it answered.
pub(crate) fn record(
    address: &str,
    wanted: &[String],
    places: &[Place],
    daemon: &str,
) -> anyhow::Result<()> {
    let client = Client::new(address)?;
    for section in sections(wanted)? {
        let exchanges = mask::mask(&section, &masks(places), &answers(&client, &section)?);
        let silent: Vec<&str> = exchanges
            .iter()
            .filter(|exchange| exchange.status == 0)
            .map(|exchange| exchange.step.as_str())
            .collect();
        if !silent.is_empty() {
            eprintln!("{}: no answer to {}", section.name, silent.join(", "));
        }
        let header = Header { section: section.name.clone(), daemon: daemon.to_owned() };
        let file = recording::path(&home().join("recorded"), &section.name);
        recording::store(&file, &Recording { header, exchanges })?;
    }
    Ok(())
}

/// Runs sections against a daemon and prints where it differs from their recordings.
pub(crate) fn compare(
    address: &str,
    wanted: &[String],
    places: &[Place],
    verbose: bool,
) -> anyhow::Result<()> {
    let client = Client::new(address)?;
    let places = masks(places);
    let mut report = Report::new(report::load_accepted(&home().join("differences.json"))?);
    for section in sections(wanted)? {
        let file = recording::path(&home().join("recorded"), &section.name);
        let recorded =
            recording::load(&file).context("record it with `cargo xtask oracle record`")?;
        let expected = mask::mask(&section, &places, &recorded.exchanges);
        let got = mask::mask(&section, &places, &answers(&client, &section)?);
        report.add(&section, compare::compare(&section, &expected, &got));
    }
    println!("{}", report.text(verbose));
    if wanted.is_empty() {
        for row in report.unused() {
            println!(
                "accepted difference never seen: {} {} {}: {}",
                row.section, row.step, row.path, row.reason
            );
        }
    }
    if report.different > 0 {
        bail!("{} exchanges differ", report.different);
    }
    Ok(())
}
