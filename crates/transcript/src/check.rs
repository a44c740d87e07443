//! The whole of it: sections run against a daemon, masked, compared with their recordings, and reported. Scenarios,
//! recordings and accepted differences are this crate's own files.

use std::path::{Path, PathBuf};

use crate::client::{Client, ClientError};
use crate::mask::{Places, mask};
use crate::recording::{self, Exchange, Header, Recording, RecordingError};
use crate::report::{AcceptedError, Daemon, Report, load_accepted};
use crate::scenario::{self, ScenarioError, Section, Step};
use crate::{compare, run};

/// Why sections could not be run or compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A scenario is not readable.
    #[error("scenarios")]
    Scenario(#[from] ScenarioError),
    /// A recording is not readable.
    #[error("recordings")]
    Recording(#[from] RecordingError),
    /// The accepted differences are not readable.
    #[error("accepted differences")]
    Accepted(#[from] AcceptedError),
    /// The address is wrong.
    #[error("client")]
    Client(#[from] ClientError),
    /// No section has such a name.
    #[error("no section is called {0}")]
    NoSection(String),
}

/// Where this crate keeps its files.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The sections whose name contains one of the given words; all of them when none is given.
pub fn sections(wanted: &[String]) -> Result<Vec<Section>, CheckError> {
    let mut sections = scenario::load(&home().join("scenarios"))?;
    sections.retain(|section| {
        wanted.is_empty() || wanted.iter().any(|word| section.name.contains(word))
    });
    if sections.is_empty() {
        return Err(CheckError::NoSection(wanted.join(" or ")));
    }
    Ok(sections)
}

/// The directory with what the real daemon answered.
pub fn recorded() -> PathBuf {
    home().join("recorded")
}

/// What the real daemon answered to a section.
pub fn recording(section: &Section) -> Result<Recording, CheckError> {
    Ok(recording::load(&recording::path(&recorded(), &section.name))?)
}

/// Runs one section against a daemon and writes down what it answered, in this directory. Gives the steps that got no
/// answer.
pub async fn record(
    address: &str,
    section: &Section,
    places: &Places,
    daemon: &str,
    dir: &Path,
    progress: impl FnMut(usize, &Step),
) -> Result<Vec<String>, CheckError> {
    let exchanges = run::run(&Client::new(address)?, section, progress).await;
    let exchanges = mask(section, places, &exchanges);
    let silent: Vec<&Exchange> = exchanges.iter().filter(|exchange| exchange.status == 0).collect();
    let silent = silent.iter().map(|exchange| exchange.step.clone()).collect();
    let header = Header { section: section.name.clone(), daemon: daemon.to_owned() };
    let file = recording::path(dir, &section.name);
    recording::store(&file, &Recording { header, exchanges })?;
    Ok(silent)
}

/// An empty report that knows the differences that are accepted of this daemon.
pub fn report(daemon: Daemon) -> Result<Report, CheckError> {
    Ok(Report::new(load_accepted(&home().join("differences.json"))?, daemon))
}

/// Runs one section against a daemon and adds to the report where it differs from the recording.
pub async fn check(
    address: &str,
    section: &Section,
    places: &Places,
    report: &mut Report,
    progress: impl FnMut(usize, &Step),
) -> Result<(), CheckError> {
    let expected = recording(section)?.exchanges;
    let exchanges = run::run(&Client::new(address)?, section, progress).await;
    let expected = mask(section, places, &expected);
    let got = mask(section, places, &exchanges);
    report.add(section, compare::compare(section, &expected, &got));
    Ok(())
}

/// Adds to the report where one directory's recording of a section differs from another's.
pub fn compare(
    section: &Section,
    expected: &Path,
    got: &Path,
    report: &mut Report,
) -> Result<(), CheckError> {
    let load = |dir: &Path| -> Result<Vec<Exchange>, CheckError> {
        let exchanges = recording::load(&recording::path(dir, &section.name))?.exchanges;
        // Masks may have changed since it was written.
        Ok(mask(section, &Places::default(), &exchanges))
    };
    report.add(section, compare::compare(section, &load(expected)?, &load(got)?));
    Ok(())
}
