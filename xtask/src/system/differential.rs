//! The scenarios three times, each on a fresh cluster: the real ganeti-rapi, and ours with the engine `luxi`, each on a real
//! Ganeti cluster of its own; ours with its own cluster of simulated nodes. The real daemon must answer as it was recorded, and
//! ours as the real one. A difference that no row of differences.json accepts of that daemon fails; a row that fits
//! nothing is told.

#![expect(clippy::print_stdout, reason = "a test says what it found")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::time::timeout;
use transcript::check;
use transcript::report::Daemon;

use super::transcripts::{self as embedded, USERS};
use crate::ganeti::Ganeti;
use crate::machine::{self, root};
use crate::server::{self, Place};
use crate::{oracle, transcripts};

/// On how many clusters each daemon runs: sections are independent, and a cluster mostly waits.
const LANES: usize = 2;
/// How long the sections may take on one cluster.
const LANE_LIMIT: Duration = Duration::from_secs(3600);

/// The answers of one daemon, and what they are measured by.
struct Pass {
    title: &'static str,
    daemon: Daemon,
    /// Where its recordings go.
    dir: PathBuf,
    /// What records these sections there.
    record: fn(lane: usize, sections: &[&str], dir: &Path) -> Result<()>,
    lanes: usize,
}

/// Records each daemon's answers at the same time, and compares.
pub(crate) fn run() -> Result<()> {
    let all = check::sections(&[])?;
    let sections: Vec<&str> = all.iter().map(|section| section.name.as_str()).collect();
    let passes = [
        pass("ganeti-rapi, as recorded", Daemon::Ganeti, record_ganeti, LANES)?,
        pass("rapid --engine luxi, as ganeti-rapi", Daemon::Luxi, record_luxi, LANES)?,
        pass("rapid with its own cluster, as ganeti-rapi", Daemon::Embedded, record_embedded, 1)?,
    ];
    let recorded = thread::scope(|scope| {
        let begun = passes.each_ref().map(|pass| pass.begin(scope, &sections));
        begun.map(|lanes| lanes.into_iter().try_for_each(joined))
    });
    let [ganeti, ..] = &passes;
    let mut failed = 0;
    for (pass, recorded) in passes.iter().zip(recorded) {
        let expected = match pass.daemon {
            Daemon::Ganeti => check::recorded(),
            Daemon::Luxi | Daemon::Embedded => ganeti.dir.clone(),
        };
        println!("\n{}:", pass.title);
        let compare =
            || transcripts::compare_recordings(pass.daemon, &[], &expected, &pass.dir, false);
        if let Err(error) = recorded.and_then(|()| compare()) {
            println!("{}: {error:#}", pass.title);
            failed += 1;
        }
    }
    ensure!(failed == 0, "{failed} of {} comparisons failed", passes.len());
    Ok(())
}

fn pass(
    title: &'static str,
    daemon: Daemon,
    record: fn(usize, &[&str], &Path) -> Result<()>,
    lanes: usize,
) -> Result<Pass> {
    let dir = root().join(format!("target/system/differential/{daemon:?}").to_lowercase());
    // Nothing of an earlier run is taken for this one's.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(Pass { title, daemon, dir, record, lanes })
}

impl Pass {
    /// Begins its lanes, to which the sections are dealt.
    fn begin<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        sections: &'scope [&str],
    ) -> Vec<ScopedJoinHandle<'scope, Result<()>>> {
        let lane = |lane: usize| {
            let mine: Vec<&str> = sections.iter().skip(lane).step_by(self.lanes).copied().collect();
            scope.spawn(move || (self.record)(lane, &mine, &self.dir))
        };
        (0..self.lanes).map(lane).collect()
    }
}

fn joined(lane: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    lane.join().map_err(|_| anyhow!("a recording panicked"))?
}

/// The real daemon on a cluster of its own.
fn record_ganeti(lane: usize, sections: &[&str], dir: &Path) -> Result<()> {
    let cluster = Ganeti::up(&format!("real{lane}"))?;
    let recorder = oracle::recorder(&cluster, oracle::ADDRESS, "ganeti-rapi", sections, dir)?;
    server::runtime()?.block_on(ended(recorder))
}

/// Ours on a real cluster of its own.
fn record_luxi(lane: usize, sections: &[&str], dir: &Path) -> Result<()> {
    let cluster = Ganeti::up(&format!("luxi{lane}"))?;
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    fs::write(place.path("users"), USERS)?;
    let socket = cluster.socket().display().to_string();
    let certificate = cluster.node(1).join("var/lib/ganeti/rapi.pem").display().to_string();
    server::runtime()?.block_on(async {
        let program = cluster.inside(&place.program);
        let engine = ["--engine", "luxi", "--luxi-socket", &socket, "--ssl-cert", &certificate];
        let server = place.start_by(program, &engine).await?;
        ended(oracle::recorder(&cluster, &server.address, "rapid, luxi", sections, dir)?).await?;
        server.stop().await
    })
}

fn record_embedded(_lane: usize, sections: &[&str], dir: &Path) -> Result<()> {
    embedded::record(sections, dir)
}

/// Runs a command to its end, which comes in time.
async fn ended(command: Command) -> Result<()> {
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let status = timeout(LANE_LIMIT, child.wait()).await.context("recording takes too long")??;
    ensure!(status.success(), "recording: {status}");
    Ok(())
}
