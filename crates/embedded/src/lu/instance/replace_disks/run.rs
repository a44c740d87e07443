//! Replacing disks in six steps (Ganeti 3.0, `TLReplaceDisks`): look, look at the side that has the data, make new storage,
//! change the mirrors, let them sync, remove the old storage. The last two change places with an early release.

use std::sync::Arc;

use model::config::{Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::param::StorageType;
use node::{DiskSpec, InstanceSpec, NodeError};
use serde_json::{Value, json};

use super::{Plan, Work, are_up};
use crate::lu::Cx;
use crate::lu::instance::{again, checks, disks, layout, spec_of};
use crate::spec;

const STEPS: u64 = 6;

/// A disk of a mirror whose storage is replaced.
struct Replaced {
    disk: Arc<Disk>,
    /// What is removed in the end.
    old: Vec<DiskSpec>,
}

/// Carries the plan out.
pub(super) async fn run(cx: &Cx, plan: &Plan) -> Result<()> {
    let (instance, config) = (&plan.instance, cx.config());
    let Some(work) = plan.work.as_ref().filter(|_| !plan.disks.is_empty()) else {
        cx.log(&format!("No disks need replacement for instance '{}'", instance.name));
        return Ok(());
    };
    let names: Vec<String> = plan.disks.iter().map(ToString::to_string).collect();
    cx.log(&format!("Replacing disk(s) {} for instance '{}'", names.join(", "), instance.name));
    cx.log(&format!("Current primary node: {}", config.node_name(&instance.primary_node)));
    let secondaries = config.secondary_nodes(instance);
    let secondaries: Vec<&str> = secondaries.iter().map(|uuid| config.node_name(uuid)).collect();
    cx.log(&format!("Current secondary node: {}", secondaries.join(", ")));

    let uuid = &instance.meta.uuid;
    let activate = !instance.disks_active && !instance.forthcoming;
    if activate {
        disks::start(cx, uuid, Some(true)).await?;
    }
    let replacer = Replacer { cx, plan, instance: again(cx, uuid)? };
    let done = match work {
        Work::Storage { target, other } => replacer.storage(target, other).await,
        Work::Secondary { old, new } => replacer.secondary(old, new).await,
    };
    if activate {
        let instance = again(cx, uuid)?;
        checks::state(cx, &instance, checks::NOT_RUNNING, Some("cannot shutdown disks"))?;
        disks::shutdown(cx, uuid, None, false).await?;
    }
    done
}

struct Replacer<'a> {
    cx: &'a Cx,
    plan: &'a Plan,
    instance: Arc<Instance>,
}

impl Replacer<'_> {
    fn name_of(&self, node: &Uuid) -> String {
        self.cx.config().node_name(node).to_owned()
    }

    fn told(&self) -> InstanceSpec {
        spec_of(self.cx, &self.instance)
    }

    fn spec(&self, disk: &Disk) -> DiskSpec {
        spec::disk(&self.cx.config(), &self.instance, disk)
    }

    /// The disks that are replaced, with their places.
    fn chosen(&self) -> Vec<(usize, Arc<Disk>)> {
        let all = self.cx.config().instance_disks(&self.instance);
        let chosen = |(at, _): &(usize, Arc<Disk>)| self.plan.disks.contains(at);
        all.into_iter().enumerate().filter(chosen).collect()
    }

    async fn check_existence(&self, nodes: &[&Uuid]) -> Result<()> {
        for (at, disk) in self.chosen() {
            for uuid in nodes {
                let name = self.name_of(uuid);
                self.cx.info(&format!("Checking disk/{at} on {name}"));
                let missing = match self.status(uuid, &disk).await {
                    Ok(Some(_)) => continue,
                    Ok(None) => "disk not found".to_owned(),
                    Err(error) => error.to_string(),
                };
                let hint = if are_up(self.cx, &self.cx.config(), &self.instance).await {
                    ""
                } else {
                    "\nDisks seem to be not properly activated. Try running activate-disks on the instance before using \
                     replace-disks."
                };
                return Err(GanetiError::exec(format!(
                    "Can't find disk/{at} on node {name}: {missing}{hint}"
                )));
            }
        }
        Ok(())
    }

    async fn status(
        &self,
        node: &Uuid,
        disk: &Disk,
    ) -> Result<Option<node::DiskStatus>, NodeError> {
        self.cx.node(node).await?.disk_status(&self.spec(disk)).await
    }

    fn check_volume_group(&self, nodes: &[&Uuid]) -> Result<()> {
        self.cx.info("Checking volume groups");
        let config = self.cx.config();
        let vg = config.cluster.volume_group_name.clone().unwrap_or_default();
        for uuid in nodes {
            let name = config.node_name(uuid);
            let state = self.cx.nodes().state(uuid).filter(|state| state.reachable);
            let state = state.ok_or_else(|| {
                GanetiError::exec(format!("Error checking node {name}: the node does not answer"))
            })?;
            let has =
                state.storage.iter().any(|unit| unit.kind == StorageType::LvmVg && unit.key == vg);
            if !has {
                let text = format!("Volume group '{vg}' not found on node {name}");
                return Err(GanetiError::exec(text));
            }
        }
        Ok(())
    }

    async fn check_consistency(&self, node: &Uuid, local: bool) -> Result<()> {
        let on_primary = *node == self.instance.primary_node;
        for (at, disk) in self.chosen() {
            let name = self.name_of(node);
            self.cx.info(&format!("Checking disk/{at} consistency on node {name}"));
            let instance = &self.instance;
            if !checks::consistent(self.cx, instance, &disk, node, on_primary, local).await {
                return Err(GanetiError::exec(format!(
                    "Node {name} has degraded storage, unsafe to replace disks for instance {}",
                    instance.name
                )));
            }
        }
        Ok(())
    }

    /// New storage below one side of the mirrors.
    async fn storage(&self, target: &Uuid, other: &Uuid) -> Result<()> {
        let cx = self.cx;
        if self.instance.forthcoming {
            cx.log("Instance forthcoming, not touching disks");
            return Ok(());
        }
        cx.step(1, STEPS, "Check device existence");
        self.check_existence(&[other, target]).await?;
        self.check_volume_group(&[target, other])?;
        cx.step(2, STEPS, "Check peer consistency");
        self.check_consistency(other, false).await?;
        cx.step(3, STEPS, "Allocate new storage");
        let mut fresh = Vec::new();
        for (at, disk) in self.chosen() {
            fresh.push((disk.clone(), self.new_volumes(target, at, &disk).await?));
        }
        cx.step(4, STEPS, "Changing drbd configuration");
        let mut replaced = Vec::new();
        for (disk, new) in fresh {
            let old = self.exchange(target, &disk, new).await?;
            replaced.push(Replaced { disk, old });
        }
        self.finish(target, &replaced).await
    }

    /// Makes volumes that take the place of a disk's, under names of their own for now.
    async fn new_volumes(&self, target: &Uuid, at: usize, disk: &Disk) -> Result<Vec<DiskSpec>> {
        let (cx, name) = (self.cx, self.name_of(target));
        cx.info(&format!("Adding storage on {name} for disk/{at}"));
        let mut new = self.spec(disk).children;
        for (volume, suffix) in new.iter_mut().zip(["data", "meta"]) {
            volume.uuid = cx.env().uuid();
            if let Some(name) = volume.logical_id.get_mut(1) {
                *name = json!(format!("{}.disk{at}_{suffix}", cx.env().uuid()));
            }
        }
        self.make(target, &new).await?;
        Ok(new)
    }

    async fn make(&self, node: &Uuid, volumes: &[DiskSpec]) -> Result<()> {
        let told = self.told();
        for volume in volumes {
            let made = match self.cx.node(node).await {
                Ok(node) => node.create_disk(&told, volume).await,
                Err(error) => Err(error),
            };
            made.map_err(|error| {
                GanetiError::exec(format!(
                    "Can't create block device: Can't create block device {} on node {} for instance {}: {error}",
                    disks::python_repr(volume),
                    self.name_of(node),
                    self.instance.name
                ))
            })?;
        }
        Ok(())
    }

    /// Puts new volumes in the place of a disk's: the old ones get other names, the new ones theirs. Answers the old ones.
    async fn exchange(
        &self,
        target: &Uuid,
        disk: &Disk,
        new: Vec<DiskSpec>,
    ) -> Result<Vec<DiskSpec>> {
        let (cx, name) = (self.cx, self.name_of(target));
        let whole = self.spec(disk);
        cx.info(&format!("Detaching {} drbd from local storage", disk.iv_name));
        let detached = match cx.node(target).await {
            Ok(node) => node.detach_storage(&whole).await,
            Err(error) => Err(error),
        };
        detached.map_err(|error| {
            GanetiError::exec(format!(
                "Can't detach drbd from local storage on node {name} for device {}: {error}",
                disk.iv_name
            ))
        })?;
        let at = cx.env().now().as_micros() / 1_000_000;
        let mut old = whole.children.clone();
        for volume in &mut old {
            if let Some(name) = volume.logical_id.get_mut(1) {
                let before = name.as_str().unwrap_or_default();
                *name = json!(format!("{before}_replaced-{at}"));
            }
        }
        cx.info("Renaming the old LVs on the target node");
        for (from, to) in whole.children.iter().zip(&old) {
            // What is lost cannot be renamed, and need not be.
            if self.exists(target, from).await {
                self.rename(target, from, to).await.map_err(|error| {
                    GanetiError::exec(format!("Can't rename old LVs on node {name}: {error}"))
                })?;
            }
        }
        cx.info("Renaming the new LVs on the target node");
        for (from, to) in new.iter().zip(&whole.children) {
            self.rename(target, from, to).await.map_err(|error| {
                GanetiError::exec(format!("Can't rename new LVs on node {name}: {error}"))
            })?;
        }
        cx.info(&format!("Adding new mirror component on {name}"));
        let attached = match cx.node(target).await {
            Ok(node) => node.attach_storage(&whole).await,
            Err(error) => Err(error),
        };
        if let Err(error) = attached {
            for volume in &whole.children {
                if let Err(error) = self.remove(target, volume).await {
                    cx.warn_hint(
                        &format!("Can't rollback device {}: {error}", disk.iv_name),
                        // Ganeti: the missing space is its own (3.0, cmdlib/instance_storage.py).
                        "cleanup manually the unused logicalvolumes",
                    );
                }
            }
            return Err(GanetiError::exec(format!("Can't add local storage to drbd: {error}")));
        }
        Ok(old)
    }

    async fn exists(&self, node: &Uuid, volume: &DiskSpec) -> bool {
        match self.cx.node(node).await {
            Ok(node) => matches!(node.disk_size(volume).await, Ok(Some(_))),
            Err(_) => false,
        }
    }

    async fn rename(&self, node: &Uuid, from: &DiskSpec, to: &DiskSpec) -> Result<(), NodeError> {
        self.cx.node(node).await?.rename_disk(from, to).await
    }

    async fn remove(&self, node: &Uuid, volume: &DiskSpec) -> Result<(), NodeError> {
        self.cx.node(node).await?.remove_disk(&self.told(), volume).await
    }

    /// The last two steps.
    async fn finish(&self, target: &Uuid, replaced: &[Replaced]) -> Result<()> {
        let cx = self.cx;
        let [sync, removal] = if self.plan.early_release { [6, 5] } else { [5, 6] };
        if self.plan.early_release {
            cx.step(removal, STEPS, "Removing old storage");
            self.remove_old(target, replaced).await;
        }
        cx.step(sync, STEPS, "Sync devices");
        // What it says is about all disks; those that were replaced are looked at next.
        disks::wait_for_sync(cx, &self.instance, None, false).await?;
        self.check_devices(replaced).await?;
        if !self.plan.early_release {
            cx.step(removal, STEPS, "Removing old storage");
            self.remove_old(target, replaced).await;
        }
        Ok(())
    }

    async fn check_devices(&self, replaced: &[Replaced]) -> Result<()> {
        let by_index = matches!(self.plan.work, Some(Work::Secondary { .. }));
        for (at, Replaced { disk, .. }) in replaced.iter().enumerate() {
            // Ganeti: a disk is called by its index when the secondary changes (3.0, cmdlib/instance_storage.py).
            let name = if by_index { at.to_string() } else { disk.iv_name.clone() };
            let config = self.cx.config();
            let disk = config.disks.get(&disk.meta.uuid).unwrap_or(disk);
            let status = match self.status(&self.instance.primary_node, disk).await {
                Ok(Some(status)) => status,
                Ok(None) => {
                    let text = format!("Can't find DRBD device {name}: disk not found");
                    return Err(GanetiError::exec(text));
                }
                Err(error) => {
                    return Err(GanetiError::exec(format!(
                        "Can't find DRBD device {name}: {error}"
                    )));
                }
            };
            if status.is_degraded {
                return Err(GanetiError::exec(format!("DRBD device {name} is degraded!")));
            }
        }
        Ok(())
    }

    async fn remove_old(&self, target: &Uuid, replaced: &[Replaced]) {
        let by_index = matches!(self.plan.work, Some(Work::Secondary { .. }));
        for (at, Replaced { disk, old }) in replaced.iter().enumerate() {
            let name = if by_index { at.to_string() } else { disk.iv_name.clone() };
            self.cx.info(&format!("Remove logical volumes for {name}"));
            for volume in old {
                if let Err(error) = self.remove(target, volume).await {
                    self.cx.warn_hint(
                        &format!("Can't remove old LV: {error}"),
                        "remove unused LVs manually",
                    );
                }
            }
        }
    }

    /// Another node for one side of the mirrors.
    async fn secondary(&self, old: &Uuid, new: &Uuid) -> Result<()> {
        let cx = self.cx;
        let primary = &self.instance.primary_node;
        if self.instance.forthcoming {
            // Ganeti: the spelling is its own (3.0, cmdlib/instance_storage.py).
            cx.log("Instance fortcoming, will only update the configuration");
            let moved = self.moved(new)?;
            return self.write(&moved).await;
        }
        cx.step(1, STEPS, "Check device existence");
        self.check_existence(&[primary]).await?;
        self.check_volume_group(&[primary])?;
        cx.step(2, STEPS, "Check peer consistency");
        self.check_consistency(primary, true).await?;
        cx.step(3, STEPS, "Allocate new storage");
        let new_name = self.name_of(new);
        let before = self.chosen();
        for (at, disk) in &before {
            cx.info(&format!("Adding new local storage on {new_name} for disk/{at}"));
            self.make(new, &self.spec(disk).children).await?;
        }
        cx.step(4, STEPS, "Changing drbd configuration");
        let moved = self.moved(new)?;
        for (at, disk) in moved.iter().enumerate() {
            cx.info(&format!("activating a new drbd on {new_name} for disk/{at}"));
            self.bring_up(new, disk).await?;
        }
        self.leave(old, &before).await;
        self.detach_primary(&before).await?;
        self.write(&moved).await?;
        self.attach(new, &moved).await?;
        let replaced: Vec<Replaced> = before
            .into_iter()
            .map(|(_, disk)| Replaced { old: vec![self.spec(&disk)], disk })
            .collect();
        self.finish(old, &replaced).await
    }

    /// The disks as they are with their other half on another node.
    fn moved(&self, new: &Uuid) -> Result<Vec<Disk>> {
        let primary = &self.instance.primary_node;
        let nodes = [primary.clone(), new.clone()];
        let each = |(_, disk): (usize, Arc<Disk>)| {
            let minor = layout::reserve_minor(self.cx, new)?;
            let mut disk = Disk::clone(&disk);
            let id = &mut disk.logical_id;
            let own =
                if id.first().and_then(Value::as_str) == Some(primary.as_str()) { 3 } else { 4 };
            let part = |at: usize| id.get(at).cloned().unwrap_or(Value::Null);
            *id = vec![
                Value::from(primary),
                Value::from(new),
                part(2),
                part(own),
                json!(minor),
                part(5),
            ];
            disk.nodes = nodes.to_vec();
            for child in &mut disk.children {
                child.nodes = nodes.to_vec();
            }
            Ok(disk)
        };
        self.chosen().into_iter().map(each).collect()
    }

    /// Makes the new half of a mirror and brings it up.
    async fn bring_up(&self, new: &Uuid, disk: &Disk) -> Result<()> {
        let (told, disk_spec) = (self.told(), self.spec(disk));
        let up = async {
            let node = self.cx.node(new).await?;
            node.create_disk(&told, &disk_spec).await?;
            node.assemble_disk(&told, &disk_spec, false).await
        };
        up.await.map(drop).map_err(|error| {
            GanetiError::exec(format!(
                "Can't create block device {} on node {} for instance {}: {error}",
                disks::python_repr(&disk_spec),
                self.name_of(new),
                self.instance.name
            ))
        })
    }

    /// Takes the old half down. It may be lost; then somebody has to see to it.
    async fn leave(&self, old: &Uuid, disks: &[(usize, Arc<Disk>)]) {
        let told = self.told();
        for (at, disk) in disks {
            self.cx.info(&format!("Shutting down drbd for disk/{at} on old node"));
            let down = match self.cx.node(old).await {
                Ok(node) => node.shutdown_disk(&told, &self.spec(disk)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = down {
                // Ganeti: the missing space is its own (3.0, cmdlib/instance_storage.py).
                self.cx.warn_hint(
                    &format!("Failed to shutdown drbd for disk/{at} on oldnode: {error}"),
                    "Please cleanup this device manually as soon as possible",
                );
            }
        }
    }

    async fn detach_primary(&self, disks: &[(usize, Arc<Disk>)]) -> Result<()> {
        self.cx.info("Detaching primary drbds from the network (=> standalone)");
        for (_, disk) in disks {
            let detached = match self.cx.node(&self.instance.primary_node).await {
                Ok(node) => node.disconnect_disk(&self.spec(disk)).await,
                Err(error) => Err(error),
            };
            detached.map_err(|error| {
                GanetiError::exec(format!(
                    "Can't detach the disks from the network on old node: {error}"
                ))
            })?;
        }
        Ok(())
    }

    async fn attach(&self, new: &Uuid, disks: &[Disk]) -> Result<()> {
        self.cx.info("Attaching primary drbds to new secondary (standalone => connected)");
        for uuid in [&self.instance.primary_node, new] {
            for disk in disks {
                let attached = match self.cx.node(uuid).await {
                    Ok(node) => node.connect_disk(&self.spec(disk), false).await,
                    Err(error) => Err(error),
                };
                attached.map_err(|error| {
                    GanetiError::exec(format!(
                        "Can't attach drbd disks on node {}: {error} (please do a gnt-instance info {} to see the status \
                         of disks)",
                        self.name_of(uuid),
                        self.instance.name
                    ))
                })?;
            }
        }
        Ok(())
    }

    /// Writes the moved disks down.
    async fn write(&self, moved: &[Disk]) -> Result<()> {
        self.cx.info("Updating instance configuration");
        let uuid = &self.instance.meta.uuid;
        self.cx
            .commit(|draft| {
                for disk in moved {
                    draft.edit_disk(&disk.meta.uuid, uuid, |object| {
                        object.logical_id.clone_from(&disk.logical_id);
                        object.nodes.clone_from(&disk.nodes);
                        object.children.clone_from(&disk.children);
                    });
                }
                draft.edit_instance(uuid, |_| ());
                Ok(())
            })
            .await
    }
}
