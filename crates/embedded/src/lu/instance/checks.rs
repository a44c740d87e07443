//! What instances are refused for, by more than one opcode. The texts are Ganeti's (3.0, `cmdlib/common.py` and
//! `cmdlib/instance_utils.py`).

use std::collections::BTreeMap;

use model::config::{Config, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{AdminState, Dict, Hypervisor, StorageType};
use node::{InstanceRun, NodeError};

use crate::lu::Cx;

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
    if running(cx, instance)?.is_some() {
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
    filled: &Dict,
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
