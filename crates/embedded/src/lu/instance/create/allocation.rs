//! What an allocator is asked for a new instance.

use model::config::{Config, Nic};
use model::error::Result;
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{Dict, Hypervisor};
use model::params;
use placement::picture::Allocation;
use serde_json::Value;

use super::Plan;
use super::arguments::template;
use crate::allocate;
use crate::lu::instance::layout::NewDisk;

/// Filled backend parameters; values of `auto` become the cluster's, and the opcode's own are forced to their types
/// (Ganeti 3.0, `ComputeFullBeParams`).
pub(crate) fn full_beparams(config: &Config, own: &mut Dict) -> Result<Dict> {
    let defaults = params::be::fill(&config.cluster, &Dict::new());
    for (name, value) in own.iter_mut() {
        if value.as_str() == Some("auto") {
            *value = defaults.get(name).cloned().unwrap_or(Value::Null);
        }
    }
    params::be::upgrade(own);
    params::be::force(own, false)?;
    Ok(params::be::fill(&config.cluster, own))
}

/// What an allocator is asked for a new instance.
pub(crate) fn allocation(op: &InstanceCreate, plan: &Plan) -> Allocation {
    allocation_of(op, &plan.disks, &plan.nics, &plan.be_full, plan.hypervisor)
}

/// The same from its parts.
pub(crate) fn allocation_of(
    op: &InstanceCreate,
    disks: &[NewDisk],
    nics: &[Nic],
    be_full: &Dict,
    hypervisor: Hypervisor,
) -> Allocation {
    let number = |name: &str| i64::try_from(params::be::number(be_full, name)).unwrap_or(i64::MAX);
    Allocation {
        name: op.instance_name.clone(),
        disk_template: allocate::template(template(op)),
        group_name: op.group_name.as_ref().map(ToString::to_string),
        tags: op.tags.iter().map(ToString::to_string).collect(),
        os: op.os_type.as_deref().unwrap_or_default().to_owned(),
        memory_mib: number("maxmem"),
        vcpus: number("vcpus"),
        spindle_use: number("spindle_use"),
        disks: disks
            .iter()
            .map(|disk| placement::instance::Disk {
                size_mib: i64::try_from(disk.size_mib).unwrap_or(i64::MAX),
                mode: disk.mode.clone(),
                spindles: disk.spindles.and_then(|count| i64::try_from(count).ok()),
            })
            .collect(),
        nics: nics
            .iter()
            .map(|nic| placement::instance::Nic {
                mac: Some(nic.mac.clone()),
                ip: nic.ip.clone(),
                mode: None,
                link: None,
                network: nic.network.as_ref().map(Uuid::to_string),
            })
            .collect(),
        hypervisor: hypervisor.as_str().to_owned(),
        restrict_to_nodes: None,
    }
}
