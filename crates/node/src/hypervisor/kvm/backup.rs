//! Copying the disks of a running instance, all as they are at the same moment: QEMU's `blockdev-backup` keeps what the guest
//! overwrites until it is copied. The instance runs on meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::driver::Guest;
use super::qmp::QmpError;
use super::{Kvm, devices, failed};
use crate::spec::DiskSpec;
use crate::{NodeError, Result, snapshot};

/// How often is looked how far the copies are: at first, and at most.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);
/// How long nothing at all may be copied before it is given up.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// What QEMU's names of these jobs and of their targets begin with.
const MARK: &str = "rapid-backup-";

fn name_of(at: usize) -> String {
    format!("{MARK}{at}")
}

fn refused(error: &QmpError) -> NodeError {
    failed(error.to_string())
}

/// Opens a file as the target of a copy; parts that are zero stay holes.
fn open_target(at: usize, target: &str) -> Value {
    json!({
        "driver": "raw", "node-name": name_of(at), "discard": "unmap", "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": target},
    })
}

/// Begins to copy all disks at the same moment; one that fails ends them all.
fn begin(nodes: &[String]) -> Value {
    let action = |(at, node): (usize, &String)| {
        let data = json!({
            "job-id": name_of(at), "device": node, "target": name_of(at), "sync": "full", "auto-dismiss": false,
        });
        json!({"type": "blockdev-backup", "data": data})
    };
    let actions: Value = nodes.iter().enumerate().map(action).collect();
    json!({"actions": actions, "properties": {"completion-mode": "grouped"}})
}

/// How our jobs are, as `query-jobs` tells it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Of those that are not over.
    running: usize,
    copied_bytes: u64,
    error: Option<String>,
}

impl Progress {
    fn of(jobs: &Value) -> Self {
        let mut progress = Self::default();
        for job in own(jobs) {
            progress.copied_bytes += job["current-progress"].as_u64().unwrap_or(0);
            if job["status"] != "concluded" {
                progress.running += 1;
            }
            // Those that were ended because of another one say so after it.
            let error = job["error"].as_str();
            if let Some(error) = error.filter(|_| progress.error.is_none()) {
                progress.error = Some(error.to_owned());
            }
        }
        progress
    }
}

/// Our jobs among all.
fn own(jobs: &Value) -> impl Iterator<Item = &Value> {
    let is_own = |job: &&Value| job["id"].as_str().is_some_and(|id| id.starts_with(MARK));
    jobs.as_array().into_iter().flatten().filter(is_own)
}

/// The length in bytes of what a node of QEMU's holds.
fn length(named: &Value, node: &str) -> Option<u64> {
    let mut nodes = named.as_array()?.iter();
    let found = nodes.find(|found| found["node-name"] == node)?;
    found["image"]["virtual-size"].as_u64()
}

impl Kvm {
    /// Copies the disks of an instance into new files; answers whether it runs, so that it could be done.
    pub(crate) async fn copy_disks(
        &self,
        name: &str,
        disks: &[DiskSpec],
        targets: &[PathBuf],
    ) -> Result<bool> {
        let Some(guest) = self.guest(name) else { return Ok(false) };
        clear(&guest).await?;
        let copied = copy(&guest, disks, targets).await;
        let cleared = clear(&guest).await;
        copied.and(cleared).map(|()| true)
    }
}

/// Ends what an earlier program copied: nobody waits for it any more.
pub(super) async fn forget(guest: &Guest) {
    if let Err(error) = clear(guest).await {
        tracing::debug!(%error, pid = guest.pid(), "copies of disks can't be ended");
    }
}

async fn copy(guest: &Guest, disks: &[DiskSpec], targets: &[PathBuf]) -> Result<()> {
    let named = guest.qmp("query-named-block-nodes", json!({"flat": true})).await;
    let named = named.map_err(|error| refused(&error))?;
    let nodes: Vec<String> = disks.iter().map(devices::disk_node).collect();
    for (at, (node, target)) in nodes.iter().zip(targets).enumerate() {
        let bytes = length(&named, node)
            .ok_or_else(|| failed(format!("the running instance has no disk {at}")))?;
        let sized = snapshot::make(target).and_then(|file| file.set_len(bytes));
        sized.map_err(|error| failed(format!("{}: {error}", target.display())))?;
        let target = target.display().to_string();
        guest
            .qmp("blockdev-add", open_target(at, &target))
            .await
            .map_err(|error| refused(&error))?;
    }
    guest.qmp("transaction", begin(&nodes)).await.map_err(|error| refused(&error))?;
    wait(guest).await
}

/// Waits until all jobs are over.
async fn wait(guest: &Guest) -> Result<()> {
    let (mut pause, mut moved, mut copied_bytes) = (LOOK, Instant::now(), 0);
    loop {
        let jobs = guest.qmp("query-jobs", json!({})).await.map_err(|error| refused(&error))?;
        let progress = Progress::of(&jobs);
        if progress.running == 0 {
            let error = progress.error;
            return error.map_or(Ok(()), |error| Err(failed(format!("copying failed: {error}"))));
        }
        if progress.copied_bytes != copied_bytes {
            (copied_bytes, moved) = (progress.copied_bytes, Instant::now());
        } else if moved.elapsed() > STALL_LIMIT {
            let limit = STALL_LIMIT.as_secs();
            return Err(failed(format!("nothing was copied for {limit}s")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Ends what is left of copies, also of those that an earlier program began, and closes their targets.
async fn clear(guest: &Guest) -> Result<()> {
    let jobs = guest.qmp("query-jobs", json!({})).await.map_err(|error| refused(&error))?;
    for job in own(&jobs) {
        if job["status"] != "concluded" {
            // It may be over by now.
            let _ = guest.qmp("job-cancel", json!({"id": job["id"]})).await;
        }
    }
    if own(&jobs).next().is_some() {
        // How they end does not matter any more.
        let _ = wait(guest).await;
        for job in own(&jobs) {
            guest
                .qmp("job-dismiss", json!({"id": job["id"]}))
                .await
                .map_err(|error| refused(&error))?;
        }
    }
    let named = guest.qmp("query-named-block-nodes", json!({"flat": true})).await;
    let named = named.map_err(|error| refused(&error))?;
    for node in named.as_array().into_iter().flatten() {
        let name = node["node-name"].as_str().unwrap_or_default();
        if name.starts_with(MARK) {
            let arguments = json!({"node-name": name});
            guest.qmp("blockdev-del", arguments).await.map_err(|error| refused(&error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_disks_are_copied_in_one_transaction() {
        insta::assert_json_snapshot!(begin(&["disk-a".to_owned(), "disk-b".to_owned()]), @r#"
        {
          "actions": [
            {
              "type": "blockdev-backup",
              "data": {
                "job-id": "rapid-backup-0",
                "device": "disk-a",
                "target": "rapid-backup-0",
                "sync": "full",
                "auto-dismiss": false
              }
            },
            {
              "type": "blockdev-backup",
              "data": {
                "job-id": "rapid-backup-1",
                "device": "disk-b",
                "target": "rapid-backup-1",
                "sync": "full",
                "auto-dismiss": false
              }
            }
          ],
          "properties": {
            "completion-mode": "grouped"
          }
        }
        "#);
        assert!(open_target(0, "/x")["node-name"].as_str().unwrap().len() <= 31);
    }

    #[test]
    fn progress_is_of_our_jobs() {
        let check = |jobs: Value, running: usize, copied_bytes: u64, error: Option<&str>| {
            let error = error.map(str::to_owned);
            assert_eq!(Progress::of(&jobs), Progress { running, copied_bytes, error });
        };
        check(json!([]), 0, 0, None);
        let other = json!({"id": "mirror", "status": "running", "current-progress": 9});
        let done = json!({"id": "rapid-backup-0", "status": "concluded", "current-progress": 5});
        let busy = json!({"id": "rapid-backup-1", "status": "waiting", "current-progress": 2});
        check(json!([other, done, busy]), 1, 7, None);
        let bad = json!({"id": "rapid-backup-0", "status": "concluded", "error": "No space left"});
        check(json!([bad, done]), 0, 5, Some("No space left"));
        let nodes = json!([{"node-name": "disk-a", "image": {"virtual-size": 512}}]);
        assert_eq!((length(&nodes, "disk-a"), length(&nodes, "disk-b")), (Some(512), None));
    }
}
