//! `OP_CLUSTER_VERIFY_DISKS`, `OP_GROUP_VERIFY_DISKS` and `OP_CLUSTER_REPAIR_DISK_SIZES`: whether disks are where and as large as
//! they are said to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::Result;
use model::name::Uuid;
use model::opcode::{ClusterRepairDiskSizes, ClusterVerifyDisks, GroupVerifyDisks, Op};
use model::param::{DiskTemplate, NonEmpty};
use model::units::natural_cmp;
use node::DiskSpec;
use serde_json::{Value, json};

use crate::lu::instance::{nodes_of, spec_of};
use crate::lu::{Cx, Level, Locks, LogicalUnit, expand, shared_checks};

impl LogicalUnit for ClusterVerifyDisks {
    type Plan = ();

    fn locks(&self, config: &Config) -> Result<Locks> {
        let groups: Vec<Uuid> = match &self.group_name {
            Some(name) => vec![expand::group(config, name)?.meta.uuid.clone()],
            None => config.groups.keys().cloned().collect(),
        };
        Ok(groups.iter().fold(Locks::new(), |locks, uuid| locks.shared(Level::NodeGroup, uuid)))
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let config = cx.config();
        let mut names: Vec<&str> = match &self.group_name {
            Some(name) => vec![&expand::group(&config, name)?.name],
            None => config.groups.values().map(|group| group.name.as_str()).collect(),
        };
        names.sort_by(|a, b| natural_cmp(a, b));
        let job = |name: &str| -> Option<Vec<Op>> {
            let group_name = NonEmpty::new(name)?;
            Some(vec![GroupVerifyDisks { group_name, is_strict: self.is_strict }.into()])
        };
        let jobs = names.into_iter().filter_map(job).collect();
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

/// The instances that have a node in the group.
fn instances(op: &GroupVerifyDisks, config: &Config) -> Result<(Uuid, Vec<Arc<Instance>>)> {
    let group = expand::group(config, &op.group_name)?.meta.uuid.clone();
    let found = shared_checks::instances_of_group(config, &group).into_iter().cloned().collect();
    Ok((group, found))
}

impl LogicalUnit for GroupVerifyDisks {
    type Plan = Vec<Arc<Instance>>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let (group, instances) = instances(self, config)?;
        let mut locks = Locks::new().shared(Level::NodeGroup, &group);
        for node in config.members(&group) {
            locks = locks.shared(Level::Node, &node.meta.uuid);
        }
        for instance in instances {
            locks = locks.shared(Level::Instance, &instance.name);
            for node in nodes_of(config, &instance) {
                locks = locks.shared(Level::Node, &node);
                if let Some(node) = config.nodes.get(&node) {
                    locks = locks.shared(Level::NodeGroup, &node.group);
                }
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Arc<Instance>>> {
        Ok(instances(self, &cx.config())?.1)
    }

    /// Ganeti: nodes that cannot say by UUID, instances with disks that are not up, and volumes that are not there at all
    /// (3.0, cmdlib/group.py).
    async fn exec(&self, cx: &Cx, instances: Vec<Arc<Instance>>) -> Result<Value> {
        let config = cx.config();
        let mut broken: BTreeMap<String, String> = BTreeMap::new();
        let mut inactive: Vec<&str> = Vec::new();
        let mut missing: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for instance in instances.iter().filter(|instance| instance.disks_active) {
            for (uuid, disk) in held(cx, &config, instance) {
                let Ok(node) = cx.node(&uuid).await else { continue };
                let seen = match node.disk_status(&disk).await {
                    Ok(None) => Some(node.disk_size(&disk).await),
                    Ok(Some(_)) => None,
                    Err(error) => Some(Err(error)),
                };
                match seen {
                    None => {}
                    Some(Ok(Some(_))) => inactive.push(&instance.name),
                    Some(Ok(None)) => {
                        let lost = volumes(&disk).into_iter().map(|name| json!([uuid, name]));
                        missing.entry(&instance.name).or_default().extend(lost);
                    }
                    Some(Err(error)) => {
                        broken.insert(uuid.to_string(), error.to_string());
                    }
                }
            }
        }
        inactive.sort_by(|a, b| natural_cmp(a, b));
        inactive.dedup();
        Ok(json!([broken, inactive, missing]))
    }
}

/// Disks on volumes, with each node that holds them.
fn held(cx: &Cx, config: &Config, instance: &Instance) -> Vec<(Uuid, DiskSpec)> {
    let on_volumes =
        |disk: &DiskSpec| matches!(disk.dev_type, DiskTemplate::Plain | DiskTemplate::Drbd);
    let disks: Vec<DiskSpec> = spec_of(cx, instance).disks.into_iter().filter(on_volumes).collect();
    let of_node = |uuid: Uuid| disks.iter().map(move |disk| (uuid.clone(), disk.clone()));
    nodes_of(config, instance).into_iter().flat_map(of_node).collect()
}

/// The names of a disk's volumes, `group/volume`.
fn volumes(disk: &DiskSpec) -> Vec<String> {
    if !disk.children.is_empty() {
        return disk.children.iter().flat_map(volumes).collect();
    }
    let parts: Vec<String> = disk.logical_id.iter().map(model::python::str).collect();
    vec![parts.join("/")]
}

/// The instances whose disks are measured.
fn measured(op: &ClusterRepairDiskSizes, config: &Config) -> Result<Vec<Arc<Instance>>> {
    if op.instances.is_empty() {
        return Ok(config.instances.values().cloned().collect());
    }
    op.instances.iter().map(|name| expand::instance(config, name, None).cloned()).collect()
}

impl LogicalUnit for ClusterRepairDiskSizes {
    type Plan = Vec<Arc<Instance>>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = Locks::new();
        for instance in measured(self, config)? {
            locks = locks
                .shared(Level::Instance, &instance.name)
                .exclusive(Level::NodeRes, &instance.primary_node);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Arc<Instance>>> {
        measured(self, &cx.config())
    }

    async fn exec(&self, cx: &Cx, instances: Vec<Arc<Instance>>) -> Result<Value> {
        let mut changed = Vec::new();
        for instance in instances {
            let Ok(node) = cx.node(&instance.primary_node).await else {
                let name = cx.config().node_name(&instance.primary_node).to_owned();
                cx.warn(&format!(
                    "Failure in blockdev_getdimensions call to node {name}, ignoring"
                ));
                continue;
            };
            for (at, (uuid, disk)) in
                instance.disks.iter().zip(spec_of(cx, &instance).disks).enumerate()
            {
                let Ok(Some(size)) = node.disk_size(&disk).await else {
                    cx.warn(&format!(
                        "Disk {at} of instance {} did not return size information, ignoring",
                        instance.name
                    ));
                    continue;
                };
                if size == disk.size_mib {
                    continue;
                }
                cx.info(&format!(
                    "Disk {at} of instance {} has mismatched size, correcting: recorded {}, actual {size}",
                    instance.name, disk.size_mib
                ));
                cx.commit(|draft| {
                    draft.edit_disk(uuid, &instance.meta.uuid, |disk| {
                        disk.size_mib = size;
                        // A mirror's data is as large as the mirror; its metadata stays.
                        disk.children.iter_mut().take(1).for_each(|child| child.size_mib = size);
                    });
                    Ok(())
                })
                .await?;
                changed.push(json!([instance.name, at, "size", size]));
            }
        }
        Ok(Value::Array(changed))
    }
}
