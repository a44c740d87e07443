//! Turns what the configuration says of an instance into what a node is told: parameters filled, names for UUIDs.

use model::compat::Compat;
use model::config::{Config, Disk, Instance, Network, Nic};
use model::param::{Dict, DiskTemplate};
use model::params;
use node::{DiskSpec, InstanceSpec, NetworkSpec, NicSpec};
use serde_json::{Value, json};

/// Everything about an instance.
pub(crate) fn instance(config: &Config, compat: Compat, instance: &Instance) -> InstanceSpec {
    let disks = config.instance_disks(instance);
    let secondaries = config.secondary_nodes(instance);
    InstanceSpec {
        name: instance.name.clone(),
        uuid: instance.meta.uuid.clone(),
        ctime: instance.meta.ctime,
        mtime: instance.meta.mtime,
        tags: instance.tags.iter().cloned().collect(),
        primary_node: config.node_name(&instance.primary_node).to_owned(),
        secondary_nodes: secondaries.iter().map(|uuid| config.node_name(uuid).to_owned()).collect(),
        os: instance.os.clone(),
        hypervisor: instance.hypervisor,
        hvparams: hvparams(config, compat, instance),
        beparams: params::be::fill(&config.cluster, &instance.beparams),
        osparams: params::os::fill(&config.cluster, &instance.os, &instance.osparams),
        nics: instance.nics.iter().map(|item| nic(config, item)).collect(),
        disks: disks.iter().map(|item| disk(config, instance, item)).collect(),
        network_port: instance.network_port,
    }
}

/// An instance's hypervisor parameters, filled.
pub(crate) fn hvparams(config: &Config, compat: Compat, instance: &Instance) -> Dict {
    params::hv::fill(&config.cluster, instance.hypervisor, &instance.os, &instance.hvparams, compat)
}

/// A NIC with the parameters of its network's connection or the cluster's defaults. The connection's were copied into the
/// NIC when it was attached (Ganeti does so too), hence filling is enough.
pub(crate) fn nic(config: &Config, nic: &Nic) -> NicSpec {
    let filled = params::nic::fill(&config.cluster, &nic.nicparams);
    let text = |name: &str| filled.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    NicSpec {
        uuid: nic.uuid.clone(),
        name: nic.name.clone(),
        mac: nic.mac.clone(),
        ip: nic.ip.clone(),
        mode: text("mode"),
        link: text("link"),
        vlan: text("vlan"),
        network: nic
            .network
            .as_ref()
            .and_then(|uuid| config.networks.get(uuid))
            .map(|found| network(found)),
    }
}

fn network(network: &Network) -> NetworkSpec {
    NetworkSpec {
        uuid: network.meta.uuid.clone(),
        name: network.name.clone(),
        subnet: network.network.clone(),
        gateway: network.gateway.clone(),
        subnet6: network.network6.clone(),
        gateway6: network.gateway6.clone(),
        mac_prefix: network.mac_prefix.clone(),
        tags: network.tags.iter().cloned().collect(),
    }
}

/// A disk with its template's parameters filled for the group of the instance's primary node.
pub(crate) fn disk(config: &Config, instance: &Instance, disk: &Disk) -> DiskSpec {
    let group =
        config.nodes.get(&instance.primary_node).and_then(|node| config.groups.get(&node.group));
    let filled =
        params::disk::fill_template(&config.cluster, group.map(|group| &**group), disk.dev_type);
    DiskSpec {
        uuid: disk.meta.uuid.clone(),
        name: disk.name.clone(),
        iv_name: disk.iv_name.clone(),
        dev_type: disk.dev_type,
        logical_id: logical_id(config, disk),
        size_mib: disk.size_mib,
        mode: disk.mode.clone(),
        spindles: disk.spindles,
        nodes: disk.nodes.iter().map(|uuid| config.node_name(uuid).to_owned()).collect(),
        params: params::fill(&filled, &disk.params),
        children: disk.children.iter().map(|child| self::disk(config, instance, child)).collect(),
    }
}

/// A disk's id with names for the UUIDs of nodes.
fn logical_id(config: &Config, disk: &Disk) -> Vec<Value> {
    let mut id = disk.logical_id.clone();
    if disk.dev_type == DiskTemplate::Drbd {
        for part in id.iter_mut().take(2) {
            let name = part.as_str().and_then(|uuid| config.nodes.get(uuid)).map(|node| &node.name);
            if let Some(name) = name {
                *part = json!(name);
            }
        }
    }
    id
}
