//! Moving an instance: failover, migration, and repairing what a migration left behind (Ganeti 3.0,
//! `cmdlib/instance_migration.py`).
//!
//! ```text
//! migration   consistent? ── memory ── both sides writable ── accept ── transfer ── finalize ── primary is the target
//!                                        │ fails               │          │                       │
//!                                        └─────────────────────┴── abort ─┴── one side writable ──┴── done
//! failover    consistent? ── stop ── disks down ── primary is the target ── (meant to be up) disks up ── start
//! ```

use std::sync::Arc;
use std::time::Duration;

use model::config::{Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::param::{AdminState, DiskTemplate, Hypervisor};
use node::{InstanceSpec, NodeError};

use super::{How, Migration, Plan, Reach, reach};
use crate::lu::Cx;
use crate::lu::instance::{again, checks, disks, spec_of};
use crate::spec;

/// How often mirrors are looked at while they sync.
const SYNC_LOOK: Duration = Duration::from_secs(2);
/// Templates whose devices are mapped on the node that uses them.
const MAPPED: &[DiskTemplate] = &[DiskTemplate::Rbd, DiskTemplate::Ext];

/// Carries the plan out.
pub(super) async fn run(cx: &Cx, plan: &Plan) -> Result<()> {
    let mover = Mover {
        cx,
        plan,
        source: plan.instance.primary_node.clone(),
        disks: cx.config().instance_disks(&plan.instance),
    };
    let name = &plan.instance.name;
    match plan.how {
        How::Failover => {
            cx.log(&format!("Failover instance {name}"));
            mover.fail_over().await
        }
        How::Migrate(migration) => {
            cx.log(&format!("Migrating instance {name}"));
            mover.migrate(&migration).await
        }
        How::Cleanup => {
            cx.log(&format!("Migrating instance {name}"));
            mover.clean_up().await
        }
    }
}

/// Whether the sides of a mirror are in touch, and whether both may write.
#[derive(Clone, Copy)]
enum Link {
    Down,
    Up { both_write: bool },
}

struct Mover<'a> {
    cx: &'a Cx,
    plan: &'a Plan,
    source: Uuid,
    disks: Vec<Arc<Disk>>,
}

impl Mover<'_> {
    fn instance(&self) -> &Instance {
        &self.plan.instance
    }

    fn name_of(&self, node: &Uuid) -> String {
        self.cx.config().node_name(node).to_owned()
    }

    fn told(&self) -> InstanceSpec {
        spec_of(self.cx, self.instance())
    }

    fn mirrored(&self) -> bool {
        reach(&self.disks) == Reach::Mirrored
    }

    fn is_offline(&self, node: &Uuid) -> bool {
        self.cx.config().nodes.get(node).is_some_and(|node| node.offline)
    }

    /// Whether a node answers.
    async fn ping(&self, node: &Uuid) -> Result<(), NodeError> {
        self.cx.node(node).await?.ping().await
    }

    /// Gives the disks on a node up for others; what all nodes reach is taken down there.
    async fn close(&self, node: &Uuid) -> Result<()> {
        let name = self.name_of(node);
        self.cx.log(&format!("* closing instance disks on node {name}"));
        let Err(error) = self.try_close(node).await else { return Ok(()) };
        if self.plan.ignore_consistency || self.is_offline(node) {
            self.cx
                .warn(&format!("Could not close instance disks on node {name}, proceeding anyway"));
            return Ok(());
        }
        Err(GanetiError::exec(format!("Cannot close instance disks on node {name}: {error}")))
    }

    async fn try_close(&self, node: &Uuid) -> Result<(), NodeError> {
        self.ping(node).await?;
        if !self.mirrored() {
            let (answering, told) = (self.cx.node(node).await?, self.told());
            for disk in &told.disks {
                answering.shutdown_disk(&told, disk).await?;
            }
        }
        Ok(())
    }

    /// Makes the disks on a node usable, for it alone or beside others.
    async fn open(&self, node: &Uuid, exclusive: bool) -> Result<()> {
        let name = self.name_of(node);
        let how = if exclusive { "exclusive" } else { "shared" };
        self.cx.log(&format!("* opening instance disks on node {name} in {how} mode"));
        self.try_open(node).await.map_err(|error| {
            GanetiError::exec(format!("Cannot open instance disks on node {name}: {error}"))
        })
    }

    async fn try_open(&self, node: &Uuid) -> Result<(), NodeError> {
        self.ping(node).await?;
        if !self.mirrored() {
            let (answering, told) = (self.cx.node(node).await?, self.told());
            for disk in &told.disks {
                answering.assemble_disk(&told, disk, true).await?;
            }
        }
        Ok(())
    }

    /// The sides of the mirrors go on alone.
    async fn stand_alone(&self) -> Result<()> {
        self.cx.log("* changing into standalone mode");
        self.on_both(Link::Down).await
    }

    /// The sides of the mirrors find each other again; both may write, or only the primary's.
    async fn reconnect(&self, both_write: bool) -> Result<()> {
        let how = if both_write { "dual-master" } else { "single-master" };
        self.cx.log(&format!("* changing disks into {how} mode"));
        self.on_both(Link::Up { both_write }).await
    }

    async fn on_both(&self, link: Link) -> Result<()> {
        for uuid in [&self.source, &self.plan.target] {
            self.set_link(uuid, link).await.map_err(|error| {
                let message = match link {
                    Link::Down => "Cannot disconnect disks node",
                    Link::Up { .. } => "Cannot change disks config on node",
                };
                GanetiError::exec(format!("{message} {}: {error}", self.name_of(uuid)))
            })?;
        }
        Ok(())
    }

    async fn set_link(&self, node: &Uuid, link: Link) -> Result<(), NodeError> {
        let (told, node) = (self.told(), self.cx.node(node).await?);
        for disk in &told.disks {
            match link {
                Link::Down => node.disconnect_disk(disk).await?,
                Link::Up { both_write } => node.connect_disk(disk, both_write).await?,
            }
        }
        Ok(())
    }

    /// Waits until neither side of a mirror lags behind.
    async fn wait_until_sync(&self) -> Result<()> {
        self.cx.log("* wait until resync is done");
        let told = self.told();
        loop {
            let mut least: Option<f64> = None;
            for uuid in [&self.source, &self.plan.target] {
                let percent = async {
                    let node = self.cx.node(uuid).await?;
                    let mut least: Option<f64> = None;
                    for disk in &told.disks {
                        let status = node.disk_status(disk).await?.ok_or_else(|| {
                            NodeError::Failed(format!("Can't find device {}", disk.iv_name))
                        })?;
                        least = lesser(least, status.sync_percent);
                    }
                    Ok::<_, NodeError>(least)
                };
                let percent = percent.await.map_err(|error| {
                    let name = self.name_of(uuid);
                    GanetiError::exec(format!("Cannot resync disks on node {name}: {error}"))
                })?;
                least = lesser(least, percent);
            }
            let Some(percent) = least else { return Ok(()) };
            if percent < 100.0 {
                self.cx.log(&format!("   - progress: {percent:.1}%"));
            }
            tokio::time::sleep(SYNC_LOOK).await;
        }
    }

    /// Writes down that the target is the primary now.
    async fn hand_over(&self, target: &Uuid) -> Result<()> {
        let uuid = &self.instance().meta.uuid;
        self.cx
            .commit(|draft| {
                draft.move_instance(uuid, target.clone());
                Ok(())
            })
            .await
    }

    async fn fail_over(&self) -> Result<()> {
        let (cx, plan, instance) = (self.cx, self.plan, self.instance());
        let uuid = &instance.meta.uuid;
        if instance.forthcoming {
            // Ganeti: the second space is its own (3.0, cmdlib/instance_migration.py).
            cx.log("Instance is forthcoming, just updating the  configuration");
            return self.hand_over(&plan.target).await;
        }
        let (source, target) = (self.name_of(&self.source), self.name_of(&plan.target));
        if instance.disks_active {
            cx.log("* checking disk consistency between source and target");
            for (at, disk) in self.disks.iter().enumerate() {
                if checks::consistent(cx, instance, disk, &plan.target, false, false).await {
                    continue;
                }
                if self.is_offline(&self.source) {
                    cx.log(&format!(
                        "Node {source} is offline, ignoring degraded disk {at} on target node {target}"
                    ));
                } else if !plan.ignore_consistency {
                    return Err(GanetiError::exec(format!(
                        "Disk {at} is degraded on target node, aborting failover"
                    )));
                }
            }
        } else {
            cx.log("* not checking disk consistency as instance is not running");
        }
        self.stop_on_source(&source).await?;
        if !self.mirrored() {
            self.close(&self.source).await?;
        }
        cx.log("* deactivating the instance's disks on source node");
        if !disks::shutdown(cx, uuid, None, true).await? {
            return Err(GanetiError::exec("Can't shut down the instance's disks"));
        }
        self.hand_over(&plan.target).await?;
        let instance = again(cx, uuid)?;
        if instance.admin_state == AdminState::Up {
            self.start_on_target(&instance, &target).await?;
        }
        Ok(())
    }

    async fn stop_on_source(&self, source: &str) -> Result<()> {
        let instance = self.instance();
        self.cx.log("* shutting down instance on source node");
        let timeout = Duration::from_secs(self.plan.shutdown_timeout_s);
        let told = self.told();
        let stopped = match self.cx.node(&self.source).await {
            Ok(node) => node.stop_instance(&told, timeout, "failover").await,
            Err(error) => Err(error),
        };
        let Err(error) = stopped else { return Ok(()) };
        let name = &instance.name;
        if self.plan.ignore_consistency || self.is_offline(&self.source) {
            self.cx.warn(&format!(
                "Could not shutdown instance {name} on node {source}, proceeding anyway; please make sure node {source} is \
                 down; error details: {error}"
            ));
            return Ok(());
        }
        Err(GanetiError::exec(format!(
            "Could not shutdown instance {name} on node {source}: {error}"
        )))
    }

    async fn start_on_target(&self, instance: &Instance, target: &str) -> Result<()> {
        let (cx, uuid) = (self.cx, &instance.meta.uuid);
        cx.log(&format!("* activating the instance's disks on target node {target}"));
        let (all_well, _) = disks::assemble(cx, uuid, None, true).await?;
        if !all_well {
            disks::shutdown(cx, uuid, None, false).await?;
            return Err(GanetiError::exec("Can't activate the instance's disks"));
        }
        cx.log(&format!("* starting the instance on the target node {target}"));
        let told = spec_of(cx, instance);
        let started = match cx.node(&instance.primary_node).await {
            Ok(node) => node.start_instance(&told, false).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            disks::shutdown(cx, uuid, None, false).await?;
            return Err(GanetiError::exec(format!(
                "Could not start instance {} on node {target}: {error}",
                instance.name
            )));
        }
        Ok(())
    }

    async fn migrate(&self, migration: &Migration) -> Result<()> {
        let (cx, instance, to) = (self.cx, self.instance(), &self.plan.target);
        self.check_versions(migration)?;
        cx.log("* checking disk consistency between source and target");
        for (at, disk) in self.disks.iter().enumerate() {
            if !checks::consistent(cx, instance, disk, to, false, false).await {
                return Err(GanetiError::exec(format!(
                    "Disk {at} is degraded or not fully synchronized on target node, aborting migration"
                )));
            }
        }
        self.fit_memory(migration).await?;
        if let Err(error) = self.ping(&self.source).await {
            return Err(GanetiError::exec(format!(
                "Failed fetching source migration information from {}: {error}",
                self.name_of(&self.source)
            )));
        }
        self.close(to).await?;
        if self.mirrored() {
            self.stand_alone().await?;
            self.reconnect(true).await?;
            self.wait_until_sync().await?;
        }
        self.open(&self.source, false).await?;
        self.open(to, false).await?;
        self.transfer(migration).await?;
        self.finish_transfer().await?;
        // Only now: while either side may still fail, the configuration says where it came from.
        self.hand_over(to).await?;
        self.close(&self.source).await?;
        if self.mirrored() {
            self.wait_until_sync().await?;
            self.stand_alone().await?;
            self.reconnect(false).await?;
            self.wait_until_sync().await?;
        } else {
            self.open(to, true).await?;
        }
        self.unmap(&self.source).await;
        cx.log("* done");
        Ok(())
    }

    fn check_versions(&self, migration: &Migration) -> Result<()> {
        let version = |uuid: &Uuid| {
            let state = self.cx.nodes().state(uuid).filter(|state| state.reachable);
            state.map(|state| state.hypervisor_version.clone()).ok_or_else(|| {
                let name = self.name_of(uuid);
                GanetiError::exec(format!(
                    "Unable to retrieve node information from node '{name}': the node does not answer"
                ))
            })
        };
        let (source, target) = (version(&self.source)?, version(&self.plan.target)?);
        if source == target {
            return Ok(());
        }
        let cx = self.cx;
        cx.log(&format!(
            "* warning: hypervisor version mismatch between source ({source}) and target ({target}) node"
        ));
        if self.instance().hypervisor == Hypervisor::Kvm {
            cx.log(&format!(
                "  migrating from hypervisor version {source} to {target} should be safe"
            ));
            return Ok(());
        }
        cx.log(&format!(
            "  migrating from hypervisor version {source} to {target} is likely unsupported"
        ));
        if migration.ignore_hvversions {
            cx.log("  continuing anyway (told to ignore version mismatch)");
            return Ok(());
        }
        Err(GanetiError::exec(format!(
            "Unsupported migration between hypervisor versions ({source} to {target})"
        )))
    }

    /// Takes memory from the instance where the target has not enough for what it uses now.
    async fn fit_memory(&self, migration: &Migration) -> Result<()> {
        let (have, need) = (migration.target_free_mib, migration.memory_mib);
        if need <= have {
            return Ok(());
        }
        if !migration.allow_runtime_changes {
            return Err(GanetiError::exec(format!(
                "Memory ballooning not allowed and not enough free memory to fit instance {} on target node {} (have \
                 {have}MB, need {need}MB)",
                self.instance().name,
                self.name_of(&self.plan.target)
            )));
        }
        self.cx.log(&format!("* setting instance memory to {have}"));
        let told = self.told();
        let set = match self.cx.node(&self.source).await {
            Ok(node) => node.balloon_instance(&told, have).await,
            Err(error) => Err(error),
        };
        set.map_err(|error| {
            GanetiError::exec(format!("Cannot modify instance runtime memory: {error}"))
        })
    }

    /// The target accepts, the source sends.
    async fn transfer(&self, migration: &Migration) -> Result<()> {
        let (cx, target) = (self.cx, self.name_of(&self.plan.target));
        let (told, name) = (self.told(), &self.instance().name);
        cx.log(&format!("* preparing {target} to accept the instance"));
        let accepted = match cx.node(&self.plan.target).await {
            Ok(node) => node.accept_instance(&told).await,
            Err(error) => Err(error),
        };
        if let Err(error) = accepted {
            cx.log("Pre-migration failed, aborting");
            self.revert().await?;
            let text = format!("Could not pre-migrate instance {name}: {error}");
            return Err(GanetiError::exec(text));
        }
        cx.log(&format!("* migrating instance to {target}"));
        let migrated = match cx.node(&self.source).await {
            Ok(node) => node.migrate_instance(&told, &target, migration.live).await,
            Err(error) => Err(error),
        };
        if let Err(error) = migrated {
            cx.log("Migration failed, aborting");
            self.revert().await?;
            let text = format!("Could not migrate instance {name}: {error}");
            return Err(GanetiError::exec(text));
        }
        cx.log("* starting memory transfer");
        cx.log("* memory transfer complete");
        Ok(())
    }

    /// Both sides are told that it went well; each is, whatever the other says.
    async fn finish_transfer(&self) -> Result<()> {
        let failures: Vec<String> = [
            (&self.source, self.finalize(&self.source, true, true).await),
            (&self.plan.target, self.finalize(&self.plan.target, false, true).await),
        ]
        .into_iter()
        .filter_map(|(node, done)| Some(format!("{}: {}", self.name_of(node), done.err()?)))
        .collect();
        if failures.is_empty() {
            return Ok(());
        }
        let text = format!("Could not finalize instance migration: {}", failures.join(" "));
        Err(GanetiError::exec(text))
    }

    async fn finalize(&self, node: &Uuid, source: bool, success: bool) -> Result<(), NodeError> {
        let told = self.told();
        self.cx.node(node).await?.finalize_migration(&told, source, success).await
    }

    /// Both sides are told that it failed. Answers what the target and the source said.
    async fn abort(&self) -> [Result<(), NodeError>; 2] {
        let sides = [(&self.plan.target, false), (&self.source, true)];
        let mut answers = [Ok(()), Ok(())];
        for (answer, (node, source)) in answers.iter_mut().zip(sides) {
            *answer = self.finalize(node, source, false).await;
            if let Err(error) = answer {
                let (job, node) = (self.cx.job_id(), self.name_of(node));
                tracing::error!(job.id = %job, node, %error, "aborting a migration failed");
            }
        }
        answers
    }

    /// Puts everything back to where only the source uses the disks.
    async fn revert(&self) -> Result<()> {
        // What the sides say has been logged; the disks are put back in any case.
        let _ = self.abort().await;
        self.close(&self.plan.target).await?;
        self.unmap(&self.plan.target).await;
        if !self.mirrored() {
            return self.open(&self.source, true).await;
        }
        let reconnected = async {
            self.stand_alone().await?;
            self.reconnect(false).await?;
            self.wait_until_sync().await
        };
        if let Err(error) = reconnected.await {
            self.cx.warn(&format!(
                "Migration failed and I can't reconnect the drives, please try to recover the instance manually; error \
                 '{error}'"
            ));
        }
        Ok(())
    }

    /// Takes devices that are mapped where they are used down on a node; failures are for the operator of the node.
    async fn unmap(&self, node: &Uuid) {
        let mapped: Vec<&Arc<Disk>> =
            self.disks.iter().filter(|disk| MAPPED.contains(&disk.dev_type)).collect();
        if mapped.is_empty() {
            return;
        }
        let names: Vec<&str> =
            mapped.iter().map(|disk| disk.name.as_deref().unwrap_or("None")).collect();
        let name = self.name_of(node);
        self.cx.log(&format!("* unmapping instance's disks {} from {name}", names.join(", ")));
        let (config, told) = (self.cx.config(), self.told());
        for disk in mapped {
            let disk = spec::disk(&config, self.instance(), disk);
            let unmapped = match self.cx.node(node).await {
                Ok(node) => node.shutdown_disk(&told, &disk).await,
                Err(error) => Err(error),
            };
            if let Err(error) = unmapped {
                let iv_name = &disk.iv_name;
                tracing::error!(node = name, iv_name, %error, "a device must be unmapped manually");
            }
        }
    }

    /// The nodes that the instance runs on.
    fn locations(&self) -> Result<Vec<Uuid>> {
        let cx = self.cx;
        cx.log(
            "* checking where the instance actually runs (if this hangs, the hypervisor might be in a bad state)",
        );
        let config = cx.config();
        let mut found = Vec::new();
        let mut nodes: Vec<_> = config.nodes.values().filter(|node| !node.offline).collect();
        nodes.sort_by(|left, right| left.name.cmp(&right.name));
        for node in nodes {
            let uuid = &node.meta.uuid;
            let run = checks::running_on(cx, uuid, self.instance()).map_err(|error| {
                GanetiError::exec(format!("Can't contact node {}: {error}", node.name))
            })?;
            if run.is_some() {
                found.push(uuid.clone());
            }
        }
        let names: Vec<&str> = found.iter().map(|uuid| config.node_name(uuid)).collect();
        cx.log(&format!("* instance running on: {}", names.join(",")));
        Ok(found)
    }

    async fn clean_up(&self) -> Result<()> {
        let cx = self.cx;
        let mut found = self.locations()?;
        let on_both =
            |found: &[Uuid]| found.contains(&self.source) && found.contains(&self.plan.target);
        if on_both(&found) {
            cx.log("Trying to cleanup after failed migration");
            if let Err(error) = self.ping(&self.source).await {
                return Err(GanetiError::exec(format!(
                    "Failed fetching source migration information from {}: {error}",
                    self.name_of(&self.source)
                )));
            }
            let answers = self.abort().await;
            if answers.iter().any(Result::is_err) {
                let texts: Vec<String> = answers
                    .into_iter()
                    .map(|answer| answer.err().map(|error| error.to_string()).unwrap_or_default())
                    .collect();
                let text = format!("Instance migration cleanup failed: {}", texts.join(","));
                return Err(GanetiError::exec(text));
            }
            found = self.locations()?;
        }
        if on_both(&found) {
            return Err(GanetiError::exec(
                "Instance seems to be running on two nodes, or the hypervisor is confused; you will have to ensure manually \
                 that it runs only on one and restart this operation",
            ));
        }
        let primary = self.settle_on(&found).await?;
        let demoted = if primary == self.source { &self.plan.target } else { &self.source };
        self.close(demoted).await?;
        if self.mirrored() {
            if let Err(error) = self.wait_until_sync().await {
                // A side that stands alone cannot sync before it is connected, which is what comes next.
                tracing::info!(instance.name = self.instance().name, %error, "not in sync yet");
            }
            self.stand_alone().await?;
            self.reconnect(false).await?;
            self.wait_until_sync().await?;
        } else {
            self.open(&primary, true).await?;
        }
        cx.log("* done");
        Ok(())
    }

    /// Writes down where the instance runs; answers that node.
    async fn settle_on(&self, found: &[Uuid]) -> Result<Uuid> {
        let cx = self.cx;
        let target = if found.contains(&self.source) {
            None
        } else if found.contains(&self.plan.target) {
            Some(&self.plan.target)
        } else if let [only] = found {
            cx.log(&format!(
                "* instance running on unexpected node ({}), updating as the new secondary",
                self.name_of(only)
            ));
            Some(only)
        } else {
            return Err(GanetiError::exec(
                "Instance does not seem to be running at all; in this case it's safer to repair by running 'gnt-instance \
                 stop' to ensure disk shutdown, and then restarting it",
            ));
        };
        let Some(target) = target else {
            cx.log(&format!(
                "* instance confirmed to be running on its primary node ({})",
                self.name_of(&self.source)
            ));
            return Ok(self.source.clone());
        };
        cx.log(&format!(
            "* instance running on secondary node ({}), updating config",
            self.name_of(target)
        ));
        self.hand_over(target).await?;
        Ok(target.clone())
    }
}

fn lesser(left: Option<f64>, right: Option<f64>) -> Option<f64> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}
