//! The watcher: once a minute it compares what runs with what should run, tells the difference, and submits the jobs that
//! Ganeti's `ganeti-watcher` would. What it decides is in [`decide()`], what it tells in [`findings`]; here it looks and acts.
//!
//! While the watcher is paused, or the queue is closed, it only looks.

mod decide;
pub(crate) mod findings;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::config::{Config, Instance};
use model::engine::Engine;
use model::error::{GanetiError, Result};
use model::job::{ReasonEntry, Status};
use model::name::{JobId, Uuid};
use model::opcode::{Op, OpId};
use model::param::{AdminState, DiskTemplate};
use serde_json::{Value, json};

use self::decide::{Decision, Duty, InstanceSeen, NodeSeen, Notes, TRIES_MAX, Word, decide};
use self::findings::Finding;
use crate::engine::EmbeddedEngine;
use crate::query;
use crate::store::Write;

/// The setting that holds the watcher's notes.
const NOTES: &str = "watcher";
/// Who asks for the watcher's jobs (Ganeti 3.0, `OPCODE_REASON_SRC_WATCHER`).
const REASON_SOURCE: &str = "gnt:watcher";
/// How long a pass waits for its jobs; they go on afterwards.
const JOBS_LIMIT: Duration = Duration::from_secs(600);
/// The priority of looking after disks (Ganeti 3.0, `OP_PRIO_LOW`).
const PRIORITY_LOW: i64 = 10;

/// What the watcher did and saw, for monitoring.
#[derive(Default)]
pub(crate) struct Watcher {
    pub(crate) passes: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) cleanups: AtomicU64,
    pub(crate) given_up: AtomicU64,
    found: Mutex<BTreeSet<Finding>>,
    /// All that was seen when it was looked last, confirmed or not.
    seen: Mutex<Option<BTreeSet<Finding>>>,
}

impl Watcher {
    /// What did not fit when it was looked last.
    pub(crate) fn found(&self) -> BTreeSet<Finding> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl EmbeddedEngine {
    /// One pass of the watcher.
    pub(crate) async fn watch(&self) -> Result<()> {
        self.watcher.passes.fetch_add(1, Ordering::Relaxed);
        let config = self.config();
        self.compare(&config)?;
        if self.watcher_pause()?.is_some() {
            tracing::debug!("the watcher is paused");
            return Ok(());
        }
        if self.queue.is_drained() {
            tracing::debug!("the queue is closed: the watcher starts no jobs");
            return Ok(());
        }
        let mut notes = self.notes()?;
        let known = notes.clone();
        let instances = self.instances_seen(&config)?;
        let nodes = self.nodes_seen(&config);
        let decision = decide(&mut notes, &instances, &nodes, self.shared.env.now_seconds());
        self.watcher.given_up.store(notes.given_up() as u64, Ordering::Relaxed);
        // What is about to be tried counts, whatever becomes of this server meanwhile.
        self.keep(&known, &notes).await?;
        tell(&decision);
        let before = notes.clone();
        self.act(decision, &mut notes).await?;
        self.keep(&before, &notes).await?;
        self.verify_disks(&config).await
    }

    /// Tells what does not fit.
    pub(crate) fn compare(&self, config: &Config) -> Result<()> {
        let seen = self.with_live(|live| {
            let status = |instance: &Instance| query::instance_status(live, instance);
            Ok(findings::look(config, &self.shared.nodes, status))
        })?;
        let mut before = self.watcher.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = findings::confirmed(before.as_ref(), &seen);
        *before = Some(seen);
        let mut found = self.watcher.found.lock().unwrap_or_else(PoisonError::into_inner);
        findings::tell(&found, &now);
        *found = now;
        Ok(())
    }

    fn notes(&self) -> Result<Notes> {
        let text = self.store.read(|reader| reader.setting(NOTES))?;
        // Notes of another version are as good as none.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    async fn keep(&self, before: &Notes, notes: &Notes) -> Result<()> {
        if before == notes {
            return Ok(());
        }
        let text = json!(notes).to_string();
        Ok(self.store.offer_and_wait(vec![Write::Setting(NOTES, Some(text))]).await?)
    }

    fn instances_seen(&self, config: &Config) -> Result<Vec<InstanceSeen>> {
        let locks = self.queue.locks.snapshot();
        let locked: BTreeSet<String> = locks
            .into_iter()
            .filter(|row| row.mode.is_some())
            .map(|row| row.lock.full_name())
            .collect();
        self.with_live(|live| {
            let known = config.instances.values().filter(|instance| !instance.forthcoming);
            Ok(known
                .filter(|instance| !is_split(config, instance))
                .map(|instance| InstanceSeen {
                    name: instance.name.clone(),
                    status: query::instance_status(live, instance),
                    admin_down: instance.admin_state == AdminState::Down,
                    disks_active: instance.disks_active,
                    secondaries: config
                        .secondary_nodes(instance)
                        .iter()
                        .map(|uuid| config.node_name(uuid).to_owned())
                        .collect(),
                    locked: locked.contains(&format!("instance/{}", instance.name)),
                })
                .collect())
        })
    }

    fn nodes_seen(&self, config: &Config) -> Vec<NodeSeen> {
        let seen = config.nodes.values().map(|node| {
            let state = self.shared.nodes.state(&node.meta.uuid);
            let state = state.filter(|state| state.reachable && !node.offline);
            NodeSeen { name: node.name.clone(), boot_id: state.map(|state| state.boot_id.clone()) }
        });
        seen.collect()
    }

    /// Submits what is to be done and waits for it.
    async fn act(&self, decision: Decision, notes: &mut Notes) -> Result<()> {
        let mut jobs = Vec::new();
        for duty in decision.duties {
            let submitted = self.submit_job(vec![self.duty_op(&duty)?]).await;
            match submitted {
                Ok(id) => jobs.push((id, duty)),
                Err(error) => {
                    tracing::error!(%error, "the watcher can't submit a job");
                    if let Duty::CleanUp(name) = &duty {
                        notes.cleaned_up(name, false, self.shared.env.now_seconds());
                    }
                }
            }
        }
        let deadline = tokio::time::Instant::now() + JOBS_LIMIT;
        for (id, duty) in jobs {
            let ended = tokio::time::timeout_at(deadline, self.end_of(id)).await;
            let status = ended.unwrap_or(Ok(Status::Running))?;
            self.done(&duty, id, status, notes);
        }
        Ok(())
    }

    fn done(&self, duty: &Duty, id: JobId, status: Status, notes: &mut Notes) {
        let well = status == Status::Success;
        match duty {
            Duty::Restart(name, _) => {
                self.watcher.restarts.fetch_add(1, Ordering::Relaxed);
                if !well {
                    tracing::error!(job.id = id.0, instance.name = %name, "instance {name} was not started again: its job is {}", status.as_str());
                }
            }
            Duty::CleanUp(name) => {
                self.watcher.cleanups.fetch_add(1, Ordering::Relaxed);
                notes.cleaned_up(name, well, self.shared.env.now_seconds());
            }
            Duty::ActivateDisks(name) if !well => {
                tracing::error!(job.id = id.0, instance.name = %name, "the disks of instance {name} did not come up: the job is {}", status.as_str());
            }
            Duty::ActivateDisks(_) => {}
        }
    }

    /// The job's last status.
    async fn end_of(&self, id: JobId) -> Result<Status> {
        let fields = ["status".to_owned()];
        let mut seen: Option<Vec<Value>> = None;
        loop {
            // Log entries are no news here.
            let changed = self
                .wait_for_job_change(id, &fields, seen.as_deref(), Some(u64::MAX), JOBS_LIMIT)
                .await?;
            let Some(change) = changed else { continue };
            let status = change.job_info.first().and_then(Value::as_str).and_then(Status::parse);
            match status {
                Some(status) if !status.is_final() => seen = Some(change.job_info),
                // Archived already, or ended.
                status => return Ok(status.unwrap_or(Status::Success)),
            }
        }
    }

    /// Has volumes looked after, group by group, and brings up those that are not; other disks are never down.
    async fn verify_disks(&self, config: &Config) -> Result<()> {
        for group in config.groups.values() {
            let on_volumes = |instance: &Instance| {
                let disks = config.instance_disks(instance);
                disks
                    .iter()
                    .any(|disk| matches!(disk.dev_type, DiskTemplate::Plain | DiskTemplate::Drbd))
            };
            let mut members = config.members(&group.meta.uuid);
            let any = members.any(|node| {
                let mut primaries = config.primaries(&node.meta.uuid);
                primaries.any(|instance| instance.disks_active && on_volumes(instance))
            });
            if any {
                self.verify_group(config, &group.name).await?;
            }
        }
        Ok(())
    }

    async fn verify_group(&self, config: &Config, group: &str) -> Result<()> {
        let reason = format!("Verifying disks of group {group}");
        let wire = json!({"group_name": group, "priority": PRIORITY_LOW});
        let id = self.submit_job(vec![self.op(OpId::GroupVerifyDisks, &wire, reason)?]).await?;
        let ended = tokio::time::timeout(JOBS_LIMIT, self.end_of(id)).await;
        if !matches!(ended, Ok(Ok(Status::Success))) {
            tracing::warn!(job.id = id.0, "the disks of group {group} could not be verified");
            return Ok(());
        }
        let result = self.look_at_job(id, |job| job.ops.first().map(|op| op.result.clone()))?;
        self.archive_job(id).await?;
        // Ganeti: one job for all, which fails with the first (3.0, `_VerifyDisks`).
        let inactive = result.flatten().and_then(|result| result.get(1).cloned());
        let mut ops = Vec::new();
        for name in inactive.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let instance = name.as_str().and_then(|name| config.instance_by_name(name));
            if let Some(instance) = instance.filter(|instance| self.is_helpable(config, instance)) {
                ops.push(self.activation(&instance.name)?);
            }
        }
        if !ops.is_empty() {
            let id = self.submit_job(ops).await?;
            let ended = tokio::time::timeout(JOBS_LIMIT, self.end_of(id)).await;
            if !matches!(ended, Ok(Ok(Status::Success))) {
                tracing::error!(job.id = id.0, "not all disks of group {group} came up");
            }
        }
        Ok(())
    }

    /// Whether all its nodes answer.
    fn is_helpable(&self, config: &Config, instance: &Instance) -> bool {
        let answers = |uuid: &Uuid| {
            let offline = config.nodes.get(uuid).is_none_or(|node| node.offline);
            !offline && self.shared.nodes.state(uuid).is_some_and(|state| state.reachable)
        };
        answers(&instance.primary_node) && config.secondary_nodes(instance).iter().all(answers)
    }

    fn activation(&self, name: &str) -> Result<Op> {
        let reason = format!("Activating disks for instance {name}");
        self.op(OpId::InstanceActivateDisks, &json!({"instance_name": name}), reason)
    }

    fn duty_op(&self, duty: &Duty) -> Result<Op> {
        match duty {
            Duty::Restart(name, _) => {
                let reason = format!("Restarting instance {name}");
                self.op(OpId::InstanceStartup, &json!({"instance_name": name}), reason)
            }
            Duty::CleanUp(name) => {
                let wire = json!({"instance_name": name, "admin_state_source": "user"});
                let reason = format!("Cleaning up instance {name}");
                self.op(OpId::InstanceShutdown, &wire, reason)
            }
            Duty::ActivateDisks(name) => self.activation(name),
        }
    }

    /// An opcode with the watcher's reason (the texts are Ganeti's).
    fn op(&self, id: OpId, wire: &Value, reason: String) -> Result<Op> {
        let params = wire.as_object().cloned().unwrap_or_default();
        let op = id.read(&params, self.shared.compat);
        let mut op = op.map_err(|error| GanetiError::exec(error.to_string()))?;
        let now = self.shared.env.now().as_nanos();
        op.common.reason = vec![ReasonEntry(REASON_SOURCE.to_owned(), reason, now)];
        Ok(op)
    }
}

/// Whether the instance lies in several groups: Ganeti's watcher leaves those alone.
fn is_split(config: &Config, instance: &Instance) -> bool {
    let group = |uuid: &Uuid| config.nodes.get(uuid).map(|node| &node.group);
    let own = group(&instance.primary_node);
    config.secondary_nodes(instance).iter().any(|uuid| group(uuid) != own)
}

/// The log's part of a decision.
fn tell(decision: &Decision) {
    for word in &decision.words {
        match word {
            Word::GaveUp(name) => {
                tracing::error!(instance.name = %name, "instance {name} could not be started again in {TRIES_MAX} attempts and is left alone");
            }
            Word::Recovered(name) => {
                tracing::info!(instance.name = %name, "instance {name} runs again");
            }
            Word::CleanupGaveUp(name) => {
                tracing::warn!(instance.name = %name, "that its user stopped instance {name} could not be noted");
            }
        }
    }
    for duty in &decision.duties {
        match duty {
            Duty::Restart(name, attempt) => {
                tracing::warn!(instance.name = %name, "instance {name} is down and should run: starting it again (attempt {attempt})");
            }
            Duty::CleanUp(name) => {
                tracing::info!(instance.name = %name, "instance {name} was stopped by its user: noting that");
            }
            Duty::ActivateDisks(name) => {
                tracing::info!(instance.name = %name, "bringing the disks of instance {name} up");
            }
        }
    }
}
