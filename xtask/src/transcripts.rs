//! `cargo xtask transcripts`: runs the scenarios of the crate `transcript` against a daemon and says where its answers
//! differ from those that a real ganeti-rapi gave.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command is for")]

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::bail;
use clap::Args;
use transcript::check;
use transcript::mask::Places;
use transcript::report::{Daemon, Report};
use transcript::scenario::{Section, Step};

/// Compare a daemon's answers with the recordings of a real one. Its cluster must be a fresh one like the one that
/// `cargo xtask oracle up` makes.
#[derive(Args)]
pub(crate) struct Transcripts {
    /// The daemon's address, as in `https://127.0.0.1:5080`.
    #[arg(long, required_unless_present = "answers")]
    address: Option<String>,
    /// A directory of answers that were written down already, as in target/system/differential/luxi.
    #[arg(long, value_name = "DIR", conflicts_with = "address")]
    answers: Option<PathBuf>,
    /// What to compare with: another such directory instead of the recordings.
    #[arg(long, value_name = "DIR", requires = "answers")]
    with: Option<PathBuf>,
    /// What the daemon is: embedded, luxi or ganeti. Differences are accepted accordingly.
    #[arg(long, default_value = "embedded", value_parser = daemon)]
    daemon: Daemon,
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
        if let Some(answers) = &self.answers {
            let with = self.with.clone().unwrap_or_else(check::recorded);
            return compare_recordings(self.daemon, &self.section, &with, answers, self.verbose);
        }
        let address = self.address.as_deref().unwrap_or_default();
        compare(address, self.daemon, &self.section, &self.places, self.verbose)
    }
}

fn daemon(name: &str) -> Result<Daemon, &'static str> {
    match name {
        "embedded" => Ok(Daemon::Embedded),
        "luxi" => Ok(Daemon::Luxi),
        "ganeti" => Ok(Daemon::Ganeti),
        _ => Err("not one of embedded, luxi, ganeti"),
    }
}

fn masks(places: &[Place]) -> Places {
    Places(places.iter().map(|Place(place, name)| (place.clone(), name.clone())).collect())
}

/// Shows which step of a section is being sent.
fn progress(section: &Section) -> impl FnMut(usize, &Step) {
    let (name, count) = (section.name.clone(), section.steps.len());
    let watched = std::io::stderr().is_terminal();
    move |index, step| {
        if !watched {
            return;
        }
        let text: String = step.name.chars().take(90).collect();
        eprint!("\r\x1b[K{name} {}/{count} {text}", index + 1);
        // A progress line that does not show is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

fn done(section: &Section, start: Instant) {
    let (name, count) = (&section.name, section.steps.len());
    let line = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    eprintln!("{line}{name}: {count} steps in {:.0} s", start.elapsed().as_secs_f64());
}

/// Runs sections against a daemon and writes down what it answered, in this directory.
pub(crate) fn record(
    address: &str,
    wanted: &[String],
    places: &[Place],
    daemon: &str,
    dir: &Path,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for section in check::sections(wanted)? {
        let start = Instant::now();
        let places = masks(places);
        let run = check::record(address, &section, &places, daemon, dir, progress(&section));
        let silent = runtime.block_on(run)?;
        done(&section, start);
        if !silent.is_empty() {
            eprintln!("{}: no answer to {}", section.name, silent.join(", "));
        }
    }
    Ok(())
}

/// Runs sections against a daemon and prints where it differs from their recordings.
pub(crate) fn compare(
    address: &str,
    daemon: Daemon,
    wanted: &[String],
    places: &[Place],
    verbose: bool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = check::report(daemon)?;
    for section in check::sections(wanted)? {
        let start = Instant::now();
        let places = masks(places);
        let run = check::check(address, &section, &places, &mut report, progress(&section));
        runtime.block_on(run)?;
        done(&section, start);
    }
    say(&report, wanted.is_empty(), verbose)
}

/// Prints where what a daemon answered to sections differs from what is in another directory.
pub(crate) fn compare_recordings(
    daemon: Daemon,
    wanted: &[String],
    expected: &Path,
    got: &Path,
    verbose: bool,
) -> anyhow::Result<()> {
    let mut report = check::report(daemon)?;
    for section in check::sections(wanted)? {
        check::compare(&section, expected, got, &mut report)?;
    }
    say(&report, wanted.is_empty(), verbose)
}

/// Prints a report; with all sections in it, accepted differences that were not met are told. That others were met is an
/// error.
fn say(report: &Report, whole: bool, verbose: bool) -> anyhow::Result<()> {
    println!("{}", report.text(verbose));
    for row in report.unused().filter(|_| whole) {
        let (section, step, path) = (&row.section, &row.step, &row.path);
        println!("accepted difference never seen: {section} {step} {path}: {}", row.reason);
    }
    if report.different > 0 {
        bail!("{} exchanges differ", report.different);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use model::compat::Compat;
    use rapi::route::Route;
    use transcript::check;
    use transcript::recording::Exchange;
    use transcript::scenario::{Action, Ask};

    /// What no scenario can show succeeding on the recorded cluster: it has no LVM and no DRBD, its nodes share one
    /// directory for files, and none may lose its power.
    const NEVER_SUCCEED: &[&str] = &[
        "/2/nodes/{node_name}/powercycle",
        "/2/nodes/{node_name}/storage/modify",
        "/2/nodes/{node_name}/storage/repair",
        "/2/instances/{instance_name}/replace-disks",
        "/2/instances/{instance_name}/recreate-disks",
    ];

    fn asks(ask: &Ask, route: &Route) -> bool {
        let path = ask.path.split('?').next().unwrap_or_default();
        let fits = |(part, given): (&str, &str)| part.starts_with('{') || part == given;
        ask.method == route.method.as_str()
            && path.split('/').count() == route.path.split('/').count()
            && route.path.split('/').zip(path.split('/')).all(fits)
    }

    fn outcome(exchange: &Exchange) -> &'static str {
        let success = exchange.jobs.iter().all(|job| job["status"] == "success");
        if exchange.status == 200 && success { "success" } else { "refusal" }
    }

    fn asker(ask: &Ask) -> &'static str {
        match ask.user.as_deref().and_then(|user| user.split_once(':')) {
            None => "anonymous",
            Some((_, "wrong")) => "wrong password",
            Some(("reader", _)) => "no option",
            Some(("reader2", _)) => "read",
            Some(_) => "write",
        }
    }

    #[test]
    fn each_route_succeeds_is_refused_and_is_asked_by_each_kind_of_user() {
        let mut recorded = Vec::new();
        for section in check::sections(&[]).unwrap() {
            let exchanges = check::recording(&section).unwrap().exchanges;
            recorded.extend(section.steps.into_iter().zip(exchanges));
        }
        let mut missing = Vec::new();
        for route in rapi::table::ROUTES.iter().filter(|route| route.first <= Compat::V30) {
            let mut seen = HashSet::new();
            for (step, exchange) in &recorded {
                if let Action::Ask(ask) = &step.action
                    && asks(ask, route)
                {
                    seen.extend([outcome(exchange), asker(ask)]);
                }
            }
            let all =
                ["success", "refusal", "anonymous", "wrong password", "no option", "read", "write"];
            let wanted = all
                .iter()
                .filter(|what| **what != "success" || !NEVER_SUCCEED.contains(&route.path));
            for what in wanted.filter(|what| !seen.contains(*what)) {
                missing.push(format!("{} {}: {what}", route.method.as_str(), route.path));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
