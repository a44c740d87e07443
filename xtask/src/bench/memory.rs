//! What a daemon and its children take, shared pages by parts.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often is looked for a peak.
const LOOK: Duration = Duration::from_millis(100);

/// The memory of a process in MiB.
pub(crate) fn pss_mib(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("Pss")?;
    Ok(kib / 1024.0)
}

/// The memory of a process and of all that it started, and how many these are.
fn tree_pss_mib(pid: u32) -> Result<(f64, usize)> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")?
        .filter_map(|entry| {
            let child = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            // The name in parentheses may have anything in it; the state and the parent follow.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((child, parent))
        })
        .collect();
    let mut tree = vec![pid];
    let mut at = 0;
    while let Some(parent) = tree.get(at).copied() {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| child));
        at += 1;
    }
    // Children may have ended meanwhile.
    let sizes: Vec<f64> = tree.iter().filter_map(|pid| pss_mib(*pid).ok()).collect();
    Ok((sizes.iter().sum(), sizes.len()))
}

/// Looks again and again, until it is asked for the most that was seen.
pub(crate) struct Peak(JoinHandle<()>, std::sync::mpsc::Receiver<(f64, usize)>);

impl Peak {
    pub(crate) fn of(pid: u32) -> Self {
        let (tx, rx) = std::sync::mpsc::channel();
        let task = tokio::spawn(async move {
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let seen = tokio::task::spawn_blocking(move || tree_pss_mib(pid)).await;
                let Ok(Ok(seen)) = seen else { continue };
                if tx.send(seen).is_err() {
                    return;
                }
            }
        });
        Self(task, rx)
    }

    /// The most memory in MiB, and of how many processes.
    pub(crate) fn end(self) -> Result<(f64, usize)> {
        self.0.abort();
        self.1.try_iter().max_by(|a, b| a.0.total_cmp(&b.0)).context("no process was seen")
    }
}
