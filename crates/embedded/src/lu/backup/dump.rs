//! Moving the disks of an instance out: into an export on a node, or to another cluster. An instance that is to run on is
//! dumped from copies of its disks as they were at one moment, where nodes can make them (Ganeti 3.0, `ExportInstanceHelper`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use model::config::Instance;
use model::error::{GanetiError, Result};
use model::opcode::BackupExport;
use model::param::{AdminState, Dict};
use node::{DiskSpec, InstanceSpec, Node, OsParams, Sending, TransferOptions};

use super::ExportPlan;
use super::describe::describe;
use crate::lu::Cx;
use crate::lu::cx::exec_error;
use crate::lu::instance::{again, disks, os_params, spec_of};
use crate::lu::remote::Receivers;

/// Whether all was put in place, and for each disk whether it was dumped.
pub(super) type Dumped = (bool, Vec<bool>);

/// What is dumped.
struct Source<'a> {
    cx: &'a Cx,
    instance: Arc<Instance>,
    told: InstanceSpec,
    /// The primary node.
    node: Arc<dyn Node>,
    params: OsParams,
    /// The disks, or copies of them.
    disks: Vec<DiskSpec>,
    are_copies: bool,
    /// Copies that are removed already.
    forgotten: Mutex<BTreeSet<usize>>,
}

/// Dumps the disks; starts the instance again that was shut down for it.
pub(super) async fn run(op: &BackupExport, cx: &Cx, plan: &ExportPlan) -> Result<Dumped> {
    let instance = again(cx, &plan.instance.meta.uuid)?;
    let was_up = plan.instance.admin_state == AdminState::Up && !op.remove_instance;
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let params =
        os_params(cx, &instance.os, &instance.osparams, &instance.osparams_private, &Dict::new())?;
    let told = spec_of(cx, &instance);
    let disks = told.disks.clone();
    let (are_copies, forgotten) = (false, Mutex::default());
    let mut source = Source { cx, instance, told, node, params, disks, are_copies, forgotten };
    if was_up {
        source.copy().await;
        if !source.are_copies {
            check_downtime(op)?;
        }
    }
    let is_restarted = op.shutdown && was_up;
    let done = source.move_out(op, plan, is_restarted).await;
    for at in 0..source.disks.len() {
        source.forget_copy(at).await;
    }
    done
}

/// What an instance is refused for that would have to stay down while it is dumped.
fn check_downtime(op: &BackupExport) -> Result<()> {
    if !op.shutdown {
        return Err(GanetiError::exec(
            "Not all disks could be snapshotted, and you requested a live export; aborting",
        ));
    }
    if !op.long_sleep {
        return Err(GanetiError::exec(
            "Not all disks could be snapshotted, and you did not allow the instance to remain offline for a longer time \
             through the --long-sleep option; aborting",
        ));
    }
    Ok(())
}

impl Source<'_> {
    /// Has the node copy the disks, if it can.
    async fn copy(&mut self) {
        let node = self.node.name().to_owned();
        match self.node.snapshot_disks(&self.told).await {
            Ok(Some(copies)) => {
                for at in 0..copies.len() {
                    self.cx.log(&format!("Creating a snapshot of disk/{at} on node {node}"));
                }
                self.disks = copies;
                self.are_copies = true;
            }
            Ok(None) => {}
            Err(error) => {
                let count = self.told.disks.len();
                let all: Vec<String> = (0..count).map(|at| format!("disk/{at}")).collect();
                self.cx.warn(&format!(
                    "Could not snapshot {} on node {node}: {error}",
                    all.join(", ")
                ));
            }
        }
    }

    async fn move_out(
        &self,
        op: &BackupExport,
        plan: &ExportPlan,
        is_restarted: bool,
    ) -> Result<Dumped> {
        if is_restarted && self.are_copies {
            self.start().await?;
        }
        let dumped = match &plan.remote {
            None => self.to_node(plan).await?,
            Some(receivers) => (true, self.to_cluster(op, receivers).await),
        };
        if is_restarted && !self.are_copies {
            self.start().await?;
        }
        Ok(dumped)
    }

    /// Into an export on a node of this cluster.
    async fn to_node(&self, plan: &ExportPlan) -> Result<Dumped> {
        let cx = self.cx;
        let config = cx.config();
        let name = &self.instance.name;
        let target_name = config.node_name(&plan.target).to_owned();
        let target = cx.node(&plan.target).await.map_err(|error| exec_error(&error))?;
        let mut dumped = Vec::new();
        for (at, disk) in self.disks.iter().enumerate() {
            let label =
                if self.are_copies { format!("snapshot/{at}") } else { format!("disk/{at}") };
            cx.log(&format!("Exporting {label} from {} to {target_name}", self.node.name()));
            cx.log(&format!("{label} is now listening, starting export"));
            let answer = target
                .export_disk(&self.told, at, disk, name, &self.params, cx.script_output())
                .await;
            match &answer {
                Ok(()) => {
                    cx.log(&format!("{label} finished receiving data"));
                    cx.log(&format!("{label} finished sending data"));
                }
                Err(error) => cx.log(&format!("{label} failed to send data: {error}")),
            }
            dumped.push(answer.is_ok());
            self.forget_copy(at).await;
        }
        if dumped.contains(&false) {
            cx.warn(&format!(
                "Some disk exports have failed; there may be leftover data for instance {name} on node {target_name}"
            ));
            return Ok((false, dumped));
        }
        cx.log(&format!("Finalizing export on {target_name}"));
        let text = describe(cx, &config, &self.instance, &self.told, &self.disks).render();
        let finalized = match target.finalize_export(&self.told, name, &text).await {
            Ok(()) => true,
            Err(error) => {
                cx.warn(&format!(
                    "Could not finalize export for instance {name} on node {target_name}: {error}"
                ));
                false
            }
        };
        Ok((finalized, dumped))
    }

    /// To another cluster, all disks at the same time: the other side waits for all of them.
    async fn to_cluster(&self, op: &BackupExport, receivers: &Receivers) -> Vec<bool> {
        let sent = self.disks.iter().zip(&receivers.disks).enumerate();
        let sent = sent.map(async |(at, (disk, (destination, magic)))| {
            let say = self.cx.script_output();
            say(&format!("Sending disk {at} to {}:{}", destination.host, destination.port));
            let options = TransferOptions {
                key_name: receivers.key_name.clone(),
                peer: receivers.certificate.clone(),
                magic: magic.clone(),
                compress: op.compress.to_string(),
            };
            let told = say.clone();
            let sending = Sending {
                instance: &self.told,
                index: at,
                disk,
                destination,
                options: &options,
                params: &self.params,
                connected: Box::new(move || told(&format!("Disk {at} is now sending data"))),
            };
            let answer = self.node.send_disk(sending, say.clone()).await;
            match &answer {
                Ok(()) => say(&format!("Disk {at} finished sending data")),
                Err(error) => say(&format!("Disk {at} failed to send data: {error}")),
            }
            self.forget_copy(at).await;
            answer.is_ok()
        });
        join_all(sent).await
    }

    /// Starts the instance again.
    async fn start(&self) -> Result<()> {
        let cx = self.cx;
        cx.log(&format!("Starting instance {}", self.instance.name));
        if let Err(error) = self.node.start_instance(&self.told, false).await {
            cx.log(&format!("Failed to start instance: {error}"));
            disks::shutdown(cx, &self.instance.meta.uuid, None, false).await?;
            return Err(GanetiError::exec(format!("Could not start instance: {error}")));
        }
        Ok(())
    }

    /// Removes the copy of a disk, once.
    async fn forget_copy(&self, at: usize) {
        let Some(disk) = self.disks.get(at).filter(|_| self.are_copies) else { return };
        if !self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).insert(at) {
            return;
        }
        let node = self.node.name();
        self.cx.log(&format!("Removing snapshot of disk/{at} on node {node}"));
        if let Err(error) = self.node.remove_snapshot(&self.told, disk).await {
            self.cx.warn(&format!(
                "Could not remove snapshot for disk/{at} from node {node}: {error}"
            ));
        }
    }
}
