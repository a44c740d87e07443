//! What a change of the cluster's disk templates, volume group and storage directories may be. Texts are Ganeti's (3.0,
//! `cmdlib/cluster/__init__.py`).

use model::config::{Config, Disk};
use model::error::{GanetiError, Result};
use model::opcode::ClusterSetParams;
use model::param::{DiskTemplate, StorageType};
use model::python;
use serde_json::Value;

use crate::lu::Cx;
use crate::lu::shared_checks::environment;

/// The smallest volume group that is taken, in MiB.
const VOLUME_GROUP_MIN_MIB: u64 = 20480;

/// The templates that use the volume group.
const LVM: &[DiskTemplate] = &[DiskTemplate::Drbd, DiskTemplate::Plain];

/// The disk templates after the change, and what of them is new and gone.
pub(super) struct Templates {
    pub(super) enabled: Vec<DiskTemplate>,
    added: Vec<DiskTemplate>,
    dropped: Vec<DiskTemplate>,
}

impl Templates {
    pub(super) fn new(op: &ClusterSetParams, config: &Config) -> Self {
        let old = &config.cluster.enabled_disk_templates;
        let given = op.enabled_disk_templates.as_ref().filter(|given| !given.is_empty());
        let Some(new) = given else {
            return Self { enabled: old.clone(), added: Vec::new(), dropped: Vec::new() };
        };
        let without = |list: &[DiskTemplate], other: &[DiskTemplate]| {
            list.iter().copied().filter(|template| !other.contains(template)).collect()
        };
        Self { enabled: new.clone(), added: without(new, old), dropped: without(old, new) }
    }

    fn lvm_enabled(&self) -> bool {
        self.enabled.iter().any(|template| LVM.contains(template))
    }

    /// Whether the volume group is used after the change and was not before.
    fn lvm_gets_enabled(&self) -> bool {
        let kept = self.enabled.iter().filter(|template| !self.added.contains(template));
        self.lvm_enabled() && !kept.into_iter().any(|template| LVM.contains(template))
    }

    /// Refuses to give templates up that are in use.
    pub(super) fn check_dropped(&self, config: &Config) -> Result<()> {
        for template in &self.dropped {
            let uses: Vec<String> = config
                .instances
                .values()
                .flat_map(|instance| {
                    let disks = config.instance_disks(instance);
                    let of_type = disks.into_iter().filter(|disk| disk.dev_type == *template);
                    of_type
                        .map(|disk| format!("{} (on {})", describe(&disk), instance.name))
                        .collect::<Vec<_>>()
                })
                .collect();
            if !uses.is_empty() {
                return Err(GanetiError::wrong_state(format!(
                    "Cannot disable disk template '{template}', because there is at least one disk using it:\n * {}",
                    uses.join("\n * ")
                )));
            }
        }
        if self.dropped.contains(&DiskTemplate::Diskless)
            && let Some(diskless) = config.instances.values().find(|i| i.disks.is_empty())
        {
            return Err(GanetiError::wrong_state(format!(
                "Cannot disable disk template 'diskless', because there is at least one instance using it:\n * {}",
                diskless.name
            )));
        }
        Ok(())
    }

    /// Whether the volume group can be what it is to be.
    pub(super) fn check_volume_group(&self, op: &ClusterSetParams, cx: &Cx) -> Result<()> {
        let config = cx.config();
        let current = config.cluster.volume_group_name.as_deref();
        let given = op.vg_name.as_deref();
        if given == Some("") && self.lvm_enabled() {
            let text = "Cannot unset volume group if lvm-based disk templates are or get enabled.";
            return Err(GanetiError::wrong_input(text));
        }
        if given.is_none() && current.is_none() && self.lvm_enabled() {
            let text = "Please specify a volume group when enabling lvm-based disk-templates.";
            return Err(GanetiError::wrong_input(text));
        }
        if given == Some("") && in_use(&config, DiskTemplate::Plain) {
            let text = "Cannot disable lvm storage while lvm-based instances exist";
            return Err(GanetiError::wrong_input(text));
        }
        let looks = (given.is_some() && self.lvm_enabled())
            || (current.is_some() && self.lvm_gets_enabled());
        // Ganeti: the nodes are asked for the name that was given, even if none was (3.0, cmdlib/cluster/__init__.py).
        if looks { volume_group_on_nodes(cx, given.unwrap_or("None")) } else { Ok(()) }
    }

    /// Whether the helper of drbd can be what it is to be. A simulated node has each.
    pub(super) fn check_drbd_helper(&self, op: &ClusterSetParams, config: &Config) -> Result<()> {
        let drbd = self.enabled.contains(&DiskTemplate::Drbd);
        let helper = op.drbd_helper.as_deref();
        if helper == Some("") {
            if drbd {
                let text = "Cannot disable drbd helper while DRBD is enabled.";
                return Err(GanetiError::wrong_state(text));
            }
            if in_use(config, DiskTemplate::Drbd) {
                let text = "Cannot disable drbd helper while drbd-based instances exist";
                return Err(GanetiError::wrong_input(text));
            }
            return Ok(());
        }
        let asked = helper.is_some() && drbd;
        let gets_enabled = self.added.contains(&DiskTemplate::Drbd);
        if !asked && gets_enabled && config.cluster.drbd_usermode_helper.is_none() {
            let text = "Cannot enable DRBD without a DRBD usermode helper set.";
            return Err(GanetiError::wrong_state(text));
        }
        Ok(())
    }

    /// Whether a directory of file-based disks can be what it is to be.
    pub(super) fn check_directory(
        &self,
        cx: &Cx,
        directory: Option<&str>,
        template: DiskTemplate,
    ) -> Result<()> {
        let Some(directory) = directory else { return Ok(()) };
        let enabled = self.enabled.contains(&template);
        if directory.is_empty() && enabled {
            return Err(GanetiError::wrong_input(format!(
                "Unsetting the '{template}' storage directory while having '{template}' storage enabled is not permitted."
            )));
        }
        if !directory.is_empty() && !enabled {
            cx.warn(&format!(
                "Specified a {template} storage directory, although {template} storage is not enabled."
            ));
        }
        Ok(())
    }
}

fn in_use(config: &Config, template: DiskTemplate) -> bool {
    config.disks.values().any(|disk| {
        disk.dev_type == template || disk.children.iter().any(|child| child.dev_type == template)
    })
}

/// How Ganeti prints a disk in messages.
fn describe(disk: &Disk) -> String {
    let part = |at: usize| disk.logical_id.get(at).map(python::str).unwrap_or_default();
    match disk.dev_type {
        DiskTemplate::Plain => {
            format!(
                "<LogicalVolume(/dev/{}/{}, visible as /{}, size={}m)>",
                part(0),
                part(1),
                disk.iv_name,
                disk.size_mib
            )
        }
        DiskTemplate::Drbd => {
            format!(
                "<DRBD8(port={}, configured as {}:{}, visible as /{}, size={}m)>",
                part(2),
                part(3),
                part(4),
                disk.iv_name,
                disk.size_mib
            )
        }
        DiskTemplate::Blockdev
        | DiskTemplate::Diskless
        | DiskTemplate::Ext
        | DiskTemplate::File
        | DiskTemplate::Gluster
        | DiskTemplate::Rbd
        | DiskTemplate::Sharedfile => {
            let id = Value::Array(disk.logical_id.clone());
            format!(
                "<Disk(type={}, logical_id: {}, visible as /{}, size={}m)>",
                disk.dev_type,
                python::repr(&id),
                disk.iv_name,
                disk.size_mib
            )
        }
    }
}

/// Refuses a volume group that a node does not have, or that is too small.
fn volume_group_on_nodes(cx: &Cx, group: &str) -> Result<()> {
    let config = cx.config();
    for node in config.nodes.values().filter(|node| node.vm_capable) {
        let name = &node.name;
        let state = cx.nodes().state(&node.meta.uuid);
        let Some(state) = state.filter(|state| state.reachable && !node.offline) else {
            let why =
                if node.offline { "Node is marked offline" } else { "the node does not answer" };
            cx.warn(&format!("Error while gathering data on node {name} (ignoring node): {why}"));
            continue;
        };
        let unit =
            state.storage.iter().find(|unit| unit.kind == StorageType::LvmVg && unit.key == group);
        let wrong = match unit {
            None => format!("volume group '{group}' missing"),
            Some(unit) if unit.total_mib < VOLUME_GROUP_MIN_MIB => format!(
                "volume group '{group}' too small ({VOLUME_GROUP_MIN_MIB} MiB required, {} MiB found)",
                unit.total_mib
            ),
            Some(_) => continue,
        };
        return Err(environment(format!("Error on node '{name}': {wrong}")));
    }
    Ok(())
}
