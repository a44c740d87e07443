//! The bridge to an instance allocator: the configuration and what the nodes say become a picture, which our own allocator
//! (`hail`) or a script answers. What running jobs have set aside is part of the picture, so that two allocations at once do
//! not take the same memory.

use model::config::{Config, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{AllocPolicy, DiskTemplate};
use model::params;
use node::NodeState;
use placement::answer::{Found, Reply, solve};
use placement::picture::{Options, Picture, Request};
use placement::{group, instance, node as placed};
use serde_json::Value;
use std::sync::Arc;

use crate::config::Reservations;
use crate::lu::Cx;
use crate::nodes::Nodes;

/// The allocator that is built in.
pub(crate) const BUILT_IN: &str = "hail";

/// Asks an allocator. A refusal is an answer without a result; an error means that it could not be asked.
pub(crate) async fn ask(cx: &Cx, name: &str, request: &Request) -> Result<Reply> {
    ask_with(cx, name, request, Options::default()).await
}

/// The same with knobs, which only the built-in allocator has.
pub(crate) async fn ask_with(
    cx: &Cx,
    name: &str,
    request: &Request,
    options: Options,
) -> Result<Reply> {
    let config = cx.config();
    let picture = picture(&config, cx.nodes(), &cx.config_store().reservations());
    if name == BUILT_IN {
        let request = request.clone();
        let solved = tokio::task::spawn_blocking(move || solve(&picture, &request, options));
        return solved
            .await
            .map_err(|error| GanetiError::exec(format!("the allocator failed: {error}")));
    }
    let master = cx.node(&config.cluster.master_node).await;
    let input = placement::iallocator::input(&picture, request);
    let options: Vec<String> = config
        .cluster
        .default_iallocator_params
        .iter()
        .map(|(name, value)| format!("--{name}={}", model::python::str(value)))
        .collect();
    let answer = match master {
        Ok(master) => master.run_iallocator(name, &options, &input).await,
        Err(error) => Err(error),
    };
    let text = answer.map_err(|error| {
        GanetiError::exec(format!("Failure while running the iallocator script: {error}"))
    })?;
    placement::iallocator::parse_reply(&text, &picture, request)
}

/// The allocator of an opcode: the one it names (`.` is the default), or the cluster's default.
pub(crate) fn chosen(config: &Config, named: Option<&str>) -> Result<String> {
    let default = &config.cluster.default_iallocator;
    match named.filter(|name| *name != ".") {
        Some(name) => Ok(name.to_owned()),
        None if !default.is_empty() => Ok(default.clone()),
        None => Err(GanetiError::wrong_input(
            "No iallocator was specified, neither in the opcode nor as a cluster-wide default",
        )),
    }
}

/// The nodes that an allocator chose for one instance, by UUID.
pub(crate) fn nodes_found(config: &Config, allocator: &str, reply: Reply) -> Result<Vec<Uuid>> {
    match reply.result {
        Some(Found::Nodes(names)) => names
            .iter()
            .map(|name| {
                crate::lu::expand::node(config, name, None).map(|node| node.meta.uuid.clone())
            })
            .collect(),
        _ => Err(GanetiError::prereq(
            format!("Can't compute nodes using iallocator '{allocator}': {}", reply.info),
            ErrorCode::InsufficientResources,
        )),
    }
}

/// The cluster as an allocator sees it.
pub(crate) fn picture(config: &Config, nodes: &Nodes, reserved: &Reservations) -> Picture {
    let cluster = &config.cluster;
    Picture {
        cluster_name: cluster.cluster_name.clone(),
        cluster_tags: cluster.tags.iter().cloned().collect(),
        enabled_hypervisors: cluster
            .enabled_hypervisors
            .iter()
            .map(|hv| hv.as_str().to_owned())
            .collect(),
        policy: policy(&params::ipolicy::fill_cluster(cluster)),
        groups: config.groups.values().map(|group| picture_group(config, group)).collect(),
        nodes: config
            .nodes
            .values()
            .map(|node| picture_node(config, node, nodes.state(&node.meta.uuid), reserved))
            .collect(),
        instances: config
            .instances
            .values()
            .map(|instance| picture_instance(config, instance))
            .collect(),
    }
}

/// A policy in the allocator's types. The stored one was checked when it was written, so a value that does not read means
/// the built-in policy.
fn policy(filled: &model::param::Dict) -> group::InstancePolicy {
    serde_json::from_value(Value::Object(filled.clone())).unwrap_or_default()
}

fn picture_group(config: &Config, subject: &model::config::NodeGroup) -> group::Group {
    group::Group {
        uuid: subject.meta.uuid.to_string(),
        name: subject.name.clone(),
        alloc_policy: match subject.alloc_policy {
            AllocPolicy::Preferred => group::AllocPolicy::Preferred,
            AllocPolicy::LastResort => group::AllocPolicy::LastResort,
            AllocPolicy::Unallocable => group::AllocPolicy::Unallocable,
        },
        policy: policy(&params::ipolicy::fill(&config.cluster, subject)),
        tags: subject.tags.iter().cloned().collect(),
        networks: subject.networks.keys().map(Uuid::to_string).collect(),
    }
}

fn picture_node(
    config: &Config,
    node: &model::config::Node,
    state: Option<Arc<NodeState>>,
    reserved: &Reservations,
) -> placed::Node {
    let group = config.groups.get(&node.group);
    let filled = params::nd::fill(&config.cluster, group.map(|group| &**group), node);
    let mut pictured = placed::Node {
        uuid: node.meta.uuid.to_string(),
        name: node.name.clone(),
        group: node.group.to_string(),
        tags: node.tags.iter().cloned().collect(),
        primary_ip: node.primary_ip.clone(),
        secondary_ip: node.secondary_ip.clone(),
        offline: node.offline,
        drained: node.drained,
        master_candidate: node.master_candidate,
        master_capable: node.master_capable,
        vm_capable: node.vm_capable,
        params: serde_json::from_value(Value::Object(filled)).unwrap_or_default(),
        ..placed::Node::default()
    };
    let Some(state) = state.filter(|state| state.reachable) else {
        // Ganeti: a node that gives no data cannot take anything; to the allocator it is offline.
        pictured.offline = true;
        return pictured;
    };
    let mib = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    pictured.memory_total_mib = mib(state.memory_total_mib);
    pictured.memory_reserved_mib = mib(state.memory_host_mib);
    pictured.memory_free_mib = mib(state.memory_free_mib) - memory_to_come(config, node, &state);
    pictured.cpus_total = mib(state.cpu_total);
    pictured.cpus_reserved = mib(state.cpu_host);
    if let Some(unit) = state.storage.first() {
        pictured.disk_total_mib = mib(unit.total_mib);
        pictured.disk_free_mib = mib(unit.free_mib);
    }
    for (name, placement) in reserved.placements() {
        // Once it is in the configuration it is counted as an instance.
        let at = placement.nodes.iter().position(|uuid| *uuid == node.meta.uuid);
        if let Some(at) = at.filter(|_| config.instance_by_name(name).is_none()) {
            pictured.disk_free_mib -= mib(placement.disk_mib);
            if at == 0 {
                pictured.memory_free_mib -= mib(placement.memory_mib);
            }
        }
    }
    pictured
}

/// Memory that primary instances of a node are entitled to and do not use now, in MiB (Ganeti 3.0, `iallocator.py`,
/// `_ComputeInstanceDataInst`): what is meant to run counts with its maximum.
fn memory_to_come(config: &Config, node: &model::config::Node, state: &NodeState) -> i64 {
    let entitled = |instance: &Arc<Instance>| {
        let filled = params::be::fill(&config.cluster, &instance.beparams);
        let maximum = params::be::number(&filled, "maxmem");
        let used = state.instances.get(&instance.name).map_or(0, |run| run.memory_mib);
        let is_up = instance.admin_state == model::param::AdminState::Up;
        if is_up { maximum.saturating_sub(used) } else { 0 }
    };
    let total: u64 = config.primaries(&node.meta.uuid).map(entitled).sum();
    i64::try_from(total).unwrap_or(i64::MAX)
}

/// A disk template in the allocator's types.
pub(crate) fn template(template: DiskTemplate) -> instance::DiskTemplate {
    instance::DiskTemplate::parse(template.as_str()).unwrap_or_default()
}

fn picture_instance(config: &Config, subject: &Instance) -> instance::Instance {
    let filled = params::be::fill(&config.cluster, &subject.beparams);
    let number = |name: &str| i64::try_from(params::be::number(&filled, name)).unwrap_or(i64::MAX);
    let disks = config.instance_disks(subject);
    let nic_of = |nic: &model::config::Nic| instance::Nic {
        mac: Some(nic.mac.clone()),
        ip: nic.ip.clone(),
        mode: None,
        link: None,
        network: nic.network.as_ref().map(Uuid::to_string),
    };
    instance::Instance {
        name: subject.name.clone(),
        uuid: subject.meta.uuid.to_string(),
        tags: subject.tags.iter().cloned().collect(),
        admin_state: match subject.admin_state {
            model::param::AdminState::Up => instance::AdminState::Up,
            model::param::AdminState::Down => instance::AdminState::Down,
            model::param::AdminState::Offline => instance::AdminState::Offline,
        },
        memory_mib: number("maxmem"),
        vcpus: number("vcpus"),
        spindle_use: number("spindle_use"),
        os: subject.os.clone(),
        hypervisor: subject.hypervisor.as_str().to_owned(),
        disk_template: template(disks.first().map_or(subject.disk_template, |disk| disk.dev_type)),
        disks: disks
            .iter()
            .map(|disk| instance::Disk {
                size_mib: i64::try_from(disk.size_mib).unwrap_or(i64::MAX),
                mode: disk.mode.clone(),
                spindles: disk.spindles.and_then(|count| i64::try_from(count).ok()),
            })
            .collect(),
        disks_active: subject.disks_active,
        nics: subject.nics.iter().map(nic_of).collect(),
        primary: config.node_name(&subject.primary_node).to_owned(),
        secondary: config
            .secondary_nodes(subject)
            .first()
            .map(|uuid| config.node_name(uuid).to_owned()),
        auto_balance: filled.get("auto_balance").and_then(Value::as_bool).unwrap_or(true),
    }
}
