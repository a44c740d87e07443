//! What instances are refused for, by more than one opcode. The texts are Ganeti's (3.0, `cmdlib/common.py` and
//! `cmdlib/instance_utils.py`).

use std::collections::BTreeMap;

use model::config::{Cluster, Config, Disk, Instance, Nic};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{AdminState, Dict, DiskTemplate, Hypervisor, NonEmpty, StorageType};
use model::params;
use node::{InstanceRun, NodeError, OsParams, RunState};
use serde_json::Value;

use crate::lu::Cx;

/// What a node says of a disk whose own data is there, and of one whose data is lost (Ganeti 3.0, `LDS_OKAY`, `LDS_FAULTY`).
pub(crate) const LDISK_OKAY: u8 = 1;
pub(crate) const LDISK_FAULTY: u8 = 3;

/// States in which an instance may run.
pub(crate) const ONLINE: &[AdminState] = &[AdminState::Down, AdminState::Up];
/// The state in which it does not run and may.
pub(crate) const DOWN: &[AdminState] = &[AdminState::Down];
/// States in which it does not run.
pub(crate) const NOT_RUNNING: &[AdminState] = &[AdminState::Down, AdminState::Offline];

/// Refuses an instance that is not meant to be in one of the states, or that runs although none of them is `up`.
/// `message` says what it was wanted for.
pub(crate) fn state(
    cx: &Cx,
    instance: &Instance,
    states: &[AdminState],
    message: Option<&str>,
) -> Result<()> {
    let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let default = format!("can't use instance from outside {} states", names.join(", "));
    let message = message.unwrap_or(&default);
    if !states.contains(&instance.admin_state) {
        return Err(GanetiError::wrong_state(format!(
            "Instance '{}' is marked to be {}, {message}",
            instance.name, instance.admin_state
        )));
    }
    if states.contains(&AdminState::Up) {
        return Ok(());
    }
    let config = cx.config();
    if config.nodes.get(&instance.primary_node).is_some_and(|node| node.offline) {
        cx.warn("Primary node offline, ignoring check that instance is down");
        return Ok(());
    }
    // One that ended by itself and is still told of does not run (Ganeti 3.0, `hv_kvm` ListInstances).
    if running(cx, instance)?.is_some_and(|run| run.state != RunState::Shutdown) {
        let text = format!("Instance {} is running, {message}", instance.name);
        return Err(GanetiError::wrong_state(text));
    }
    Ok(())
}

/// What the instance's primary node says of it; `None` when it does not run there.
pub(crate) fn running(cx: &Cx, instance: &Instance) -> Result<Option<InstanceRun>> {
    running_on(cx, &instance.primary_node, instance).map_err(|error| {
        let node = cx.config().node_name(&instance.primary_node).to_owned();
        GanetiError::prereq(
            format!("Can't retrieve instance information from node {node}: {error}"),
            ErrorCode::EnvironmentError,
        )
    })
}

/// Whether the guest powered itself off, and that is still to be noted (Ganeti 3.0, `_IsInstanceUserDown`).
pub(crate) fn user_down(cx: &Cx, instance: &Instance, run: Option<&InstanceRun>) -> bool {
    let told = || {
        let hvparams = crate::spec::hvparams(&cx.config(), cx.compat(), instance);
        hvparams.get("user_shutdown") == Some(&Value::Bool(true))
    };
    run.is_some_and(|run| run.state == RunState::Shutdown)
        && (instance.hypervisor != Hypervisor::Kvm || told())
}

/// What a node says of the instance.
pub(crate) fn running_on(
    cx: &Cx,
    node: &Uuid,
    instance: &Instance,
) -> std::result::Result<Option<InstanceRun>, NodeError> {
    let state = cx.nodes().state(node).filter(|state| state.reachable);
    let state =
        state.ok_or_else(|| NodeError::Unreachable("the node does not answer".to_owned()))?;
    Ok(state.instances.get(&instance.name).cloned())
}

/// Refuses an image of an operating system that is neither a path nor a URL; answers the image, where there is one.
pub(crate) fn os_image(osparams: Option<&Dict>) -> Result<Option<&str>> {
    let image = osparams.and_then(|params| params.get("os-image")).and_then(Value::as_str);
    match image {
        Some(image) if !(image.starts_with('/') || image.contains("://")) => {
            Err(GanetiError::prereq_plain("OS image must be an absolute path or a URL"))
        }
        image => Ok(image),
    }
}

/// Refuses a node of another group whose policy the instance breaks; only warns when that is to be ignored (Ganeti 3.0,
/// `CheckTargetNodeIPolicy`).
pub(crate) fn target_policy(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    target: &Uuid,
    ignore: bool,
) -> Result<()> {
    let group_of = |uuid: &Uuid| config.nodes.get(uuid).map(|node| &node.group);
    let Some(group) = group_of(target)
        .filter(|group| group_of(&instance.primary_node) != Some(*group))
        .and_then(|uuid| config.groups.get(uuid))
    else {
        return Ok(());
    };
    let filled = params::be::fill(&config.cluster, &instance.beparams);
    let disks = config.instance_disks(instance);
    let spec = params::ipolicy::Spec {
        memory_mib: Some(params::be::number(&filled, "maxmem")),
        cpus: Some(params::be::number(&filled, "vcpus")),
        nics: Some(instance.nics.len() as u64),
        spindle_use: Some(params::be::number(&filled, "spindle_use")),
        disk_sizes_mib: disks.iter().map(|disk| disk.size_mib).collect(),
        disk_types: disks.iter().map(|disk| disk.dev_type).collect(),
    };
    let broken = params::ipolicy::violations(&params::ipolicy::fill(&config.cluster, group), &spec);
    if broken.is_empty() {
        return Ok(());
    }
    let text = format!(
        "Instance does not meet target node group's ({}) instance policy: {}",
        group.meta.uuid,
        broken.join(", ")
    );
    if ignore {
        cx.warn(&text);
        return Ok(());
    }
    Err(GanetiError::wrong_input(text))
}

/// Refuses a node that is marked offline.
pub(crate) fn node_online(config: &Config, node: &Uuid) -> Result<()> {
    node_online_for(config, node, "Can't use offline node")
}

/// The same with other words.
pub(crate) fn node_online_for(config: &Config, node: &Uuid, message: &str) -> Result<()> {
    match config.nodes.get(node) {
        Some(found) if found.offline => {
            Err(GanetiError::wrong_state(format!("{message}: {}", found.name)))
        }
        _ => Ok(()),
    }
}

/// Refuses a drained node.
pub(crate) fn node_not_drained(config: &Config, node: &Uuid) -> Result<()> {
    match config.nodes.get(node) {
        Some(found) if found.drained => {
            Err(GanetiError::wrong_state(format!("Can't use drained node {}", found.name)))
        }
        _ => Ok(()),
    }
}

/// Refuses a node that cannot hold instances.
pub(crate) fn node_vm_capable(config: &Config, node: &Uuid) -> Result<()> {
    match config.nodes.get(node) {
        Some(found) if !found.vm_capable => {
            Err(GanetiError::wrong_state(format!("Can't use non-vm_capable node {node}")))
        }
        _ => Ok(()),
    }
}

/// Refuses NICs whose bridges the node does not have (Ganeti 3.0, `CheckNicsBridgesExist`).
pub(crate) async fn nic_bridges(cx: &Cx, node: &Uuid, nics: &[Nic]) -> Result<()> {
    let config = cx.config();
    let wanted: Vec<String> = nics
        .iter()
        .filter_map(|nic| bridge(&params::nic::fill(&config.cluster, &nic.nicparams)))
        .collect();
    missing_bridges(cx, node, &wanted).await.map_err(|text| {
        let name = config.node_name(node);
        let text = format!("Error checking bridges on destination node '{name}': {text}");
        GanetiError::prereq(text, ErrorCode::EnvironmentError)
    })
}

/// The bridge that filled NIC parameters name.
pub(crate) fn bridge(filled: &Dict) -> Option<String> {
    let text = |name: &str| filled.get(name).and_then(Value::as_str);
    (text("mode") == Some("bridged")).then(|| text("link").unwrap_or_default().to_owned())
}

/// Asks a node for bridges; why not all of them are there.
pub(crate) async fn missing_bridges(
    cx: &Cx,
    node: &Uuid,
    wanted: &[String],
) -> std::result::Result<(), String> {
    if wanted.is_empty() {
        return Ok(());
    }
    match lacking_bridges(cx, node, wanted).await {
        Ok(missing) if missing.is_empty() => Ok(()),
        Ok(missing) => Err(format!("Missing bridges {}", missing.join(", "))),
        Err(error) => Err(error.to_string()),
    }
}

/// Which of these bridges a node does not have.
pub(crate) async fn lacking_bridges(
    cx: &Cx,
    node: &Uuid,
    wanted: &[String],
) -> std::result::Result<Vec<String>, NodeError> {
    let config = cx.config();
    let links = config.groups.values().flat_map(|group| group.networks.values());
    let named: Vec<String> = links
        .filter(|link| link.mode == "bridged")
        .map(|link| link.link.clone())
        .chain(default_bridge(&config.cluster))
        .collect();
    cx.node(node).await?.missing_bridges(wanted, &named).await
}

/// The bridge that NICs are on of which nothing else is said.
pub(crate) fn default_bridge(cluster: &Cluster) -> Option<String> {
    bridge(&params::nic::fill(cluster, &Dict::new()))
}

/// Refuses a node with less free memory than asked for; answers what is free, in MiB.
pub(crate) fn free_memory(cx: &Cx, node: &Uuid, reason: &str, wanted_mib: u64) -> Result<u64> {
    let config = cx.config();
    let name = config.node_name(node);
    let state = cx.nodes().state(node).filter(|state| state.reachable).ok_or_else(|| {
        GanetiError::prereq(
            format!("Can't get data from node {name}: the node does not answer"),
            ErrorCode::EnvironmentError,
        )
    })?;
    let free = state.memory_free_mib;
    if wanted_mib > free {
        return Err(GanetiError::prereq(
            format!(
                "Not enough memory on node {name} for {reason}: needed {wanted_mib} MiB, available {free} MiB"
            ),
            ErrorCode::InsufficientResources,
        ));
    }
    Ok(free)
}

/// Whether a disk is whole on a node, with what it lies on; `local` looks at the node's own data alone. What is only up on
/// the primary is not asked about elsewhere. Warns of disks that are not found (Ganeti 3.0, `CheckDiskConsistency`).
pub(crate) async fn consistent(
    cx: &Cx,
    instance: &Instance,
    disk: &Disk,
    node: &Uuid,
    on_primary: bool,
    local: bool,
) -> bool {
    let config = cx.config();
    let name = config.node_name(node);
    let mut whole = true;
    if on_primary || disk.dev_type == DiskTemplate::Drbd {
        let status = match cx.node(node).await {
            Ok(node) => node.disk_status(&crate::spec::disk(&config, instance, disk)).await,
            Err(error) => Err(error),
        };
        whole = match status {
            Ok(Some(status)) if local => status.ldisk_status == LDISK_OKAY,
            Ok(Some(status)) => !status.is_degraded,
            Ok(None) => {
                cx.warn(&format!("Can't find disk on node {name}"));
                false
            }
            Err(error) => {
                cx.warn(&format!("Can't find disk on node {name}: {error}"));
                false
            }
        };
    }
    for child in &disk.children {
        whole = whole && Box::pin(consistent(cx, instance, child, node, on_primary, false)).await;
    }
    whole
}

/// Refuses nodes whose volume groups have less space than asked for, in MiB by volume group (Ganeti 3.0,
/// `CheckNodesFreeDiskPerVG`).
pub(crate) fn free_space(cx: &Cx, nodes: &[Uuid], wanted: &BTreeMap<String, u64>) -> Result<()> {
    let config = cx.config();
    for uuid in nodes {
        let name = config.node_name(uuid);
        let state = cx.nodes().state(uuid).filter(|state| state.reachable).ok_or_else(|| {
            GanetiError::prereq(
                format!(
                    "Cannot get current information from node {name}: the node does not answer"
                ),
                ErrorCode::EnvironmentError,
            )
        })?;
        for (vg, required) in wanted {
            let unit = state
                .storage
                .iter()
                .find(|unit| unit.kind == StorageType::LvmVg && unit.key == *vg);
            let free = unit.map(|unit| unit.free_mib).ok_or_else(|| {
                GanetiError::prereq(
                    format!("Can't compute free disk space on node {name} for vg {vg}, result was 'None'"),
                    ErrorCode::EnvironmentError,
                )
            })?;
            if *required > free {
                return Err(GanetiError::prereq(
                    format!(
                        "Not enough disk space on target node {name} vg {vg}: required {required} MiB, available {free} MiB"
                    ),
                    ErrorCode::InsufficientResources,
                ));
            }
        }
    }
    Ok(())
}

/// Has the nodes check hypervisor parameters; offline ones are passed over (Ganeti 3.0, `CheckHVParams`).
pub(crate) async fn hvparams(
    cx: &Cx,
    nodes: &[Uuid],
    hypervisor: Hypervisor,
    filled: &Dict,
) -> Result<()> {
    let config = cx.config();
    for uuid in nodes.iter().filter(|uuid| can_hold(&config, uuid)) {
        if config.nodes.get(uuid).is_some_and(|node| node.offline) {
            continue;
        }
        let answer = match cx.node(uuid).await {
            Ok(node) => node.validate_hvparams(hypervisor, filled).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| {
            let name = config.node_name(uuid);
            GanetiError::exec(format!(
                "Hypervisor parameter validation failed on node {name}: {error}"
            ))
        })?;
    }
    Ok(())
}

/// Has the nodes check parameters of an operating system; nothing to check without one (Ganeti 3.0, `CheckOSParams`).
pub(crate) async fn osparams(
    cx: &Cx,
    nodes: &[Uuid],
    os: &str,
    filled: &OsParams,
    force_variant: bool,
) -> Result<()> {
    if os.is_empty() {
        return Ok(());
    }
    let config = cx.config();
    for uuid in nodes.iter().filter(|uuid| can_hold(&config, uuid)) {
        let answer = match cx.node(uuid).await {
            Ok(node) => node.validate_os(os, filled, force_variant).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| {
            let name = config.node_name(uuid);
            GanetiError::exec(format!("OS Parameters validation failed on node {name}: {error}"))
        })?;
    }
    Ok(())
}

fn can_hold(config: &Config, uuid: &Uuid) -> bool {
    config.nodes.get(uuid).is_some_and(|node| node.vm_capable)
}

/// Refuses compression by programs that are not allowed (Ganeti 3.0, `CheckCompressionTool`).
pub(crate) fn compression(config: &Config, tool: &str) -> Result<()> {
    let allowed = &config.cluster.compression_tools;
    if tool == "none" || allowed.iter().any(|name| name == tool) {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "Compression tool not allowed, tools allowed are [{}]",
        allowed.join(", ")
    )))
}

/// Takes the cluster's allocator where neither a node nor an allocator is named (Ganeti 3.0, `CheckIAllocatorOrNode`).
pub(crate) fn iallocator_or_node(
    cx: &Cx,
    named: Option<NonEmpty>,
    node: bool,
) -> Result<Option<NonEmpty>> {
    if node && named.is_some() {
        return Err(GanetiError::wrong_input("Do not specify both, iallocator and node"));
    }
    let is_default = named.as_deref().is_none_or(|name| name == ".");
    if node || !is_default {
        return Ok(named);
    }
    NonEmpty::new(cx.config().cluster.default_iallocator.clone()).map(Some).ok_or_else(|| {
        GanetiError::wrong_input(
            "No iallocator or node given and no cluster-wide default iallocator found; please specify either an iallocator \
             or a node, or set a cluster-wide default iallocator",
        )
    })
}

/// Opportunistic locking is for allocators (Ganeti 3.0, `CheckOpportunisticLocking`).
pub(crate) fn opportunistic(wanted: bool, allocator: bool) -> Result<()> {
    if wanted && !allocator {
        return Err(GanetiError::wrong_input(
            "Opportunistic locking is only available in combination with an instance allocator",
        ));
    }
    Ok(())
}

/// Whether a node's storage is exclusive.
pub(crate) fn exclusive_storage(config: &Config, uuid: &Uuid) -> bool {
    config.nodes.get(uuid).is_some_and(|node| {
        let group = config.groups.get(&node.group);
        let filled = params::nd::fill(&config.cluster, group.map(|group| &**group), node);
        filled.get("exclusive_storage").and_then(Value::as_bool).unwrap_or(false)
    })
}

/// Spindles go with exclusive storage, and are needed there (Ganeti 3.0, `CheckSpindlesExclusiveStorage`).
pub(crate) fn check_spindles(given: bool, exclusive: bool) -> Result<()> {
    match (given, exclusive) {
        (true, false) => Err(GanetiError::wrong_input(
            "Spindles in instance disks cannot be specified when exclusive storage is not active",
        )),
        (false, true) => Err(GanetiError::wrong_input(
            "You must specify spindles in instance disks when exclusive storage is active",
        )),
        _ => Ok(()),
    }
}
