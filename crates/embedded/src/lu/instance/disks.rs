//! Bringing an instance's disks up and down, and removing them (Ganeti 3.0, `cmdlib/instance_storage.py`).

use std::sync::Arc;

use model::config::{Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::param::DiskTemplate;
use serde_json::Value;

use super::{again, mark_disks, spec_of};
use crate::lu::Cx;
use crate::spec;

/// Disks that are up, as `activate-disks` answers them: node, name in the instance, device on the node.
pub(crate) type Mapping = Vec<(String, String, Option<String>)>;

/// The nodes that a disk is brought up on, the primary last: a mirror's other half comes first.
fn nodes_for(instance: &Instance, disk: &Disk) -> Vec<Uuid> {
    let mut nodes: Vec<Uuid> =
        disk.nodes.iter().filter(|node| **node != instance.primary_node).cloned().collect();
    if disk.dev_type != DiskTemplate::Drbd {
        nodes.clear();
    }
    nodes.push(instance.primary_node.clone());
    nodes
}

/// Brings disks up on all nodes that hold them; `only` limits it to some. Answers whether all went well, and what is where.
pub(crate) async fn assemble(
    cx: &Cx,
    instance: &Uuid,
    only: Option<&[usize]>,
    ignore_secondaries: bool,
) -> Result<(bool, Mapping)> {
    if only.is_none() {
        mark_disks(cx, instance, true).await?;
    }
    let instance = again(cx, instance)?;
    let config = cx.config();
    let told = spec_of(cx, &instance);
    let mut all_well = true;
    let mut mapping = Vec::new();
    let disks = chosen(&config.instance_disks(&instance), only);
    for (pass, is_primary) in [(1, false), (2, true)] {
        for disk in &disks {
            let disk_spec = spec::disk(&config, &instance, disk);
            let mut device = None;
            for node in nodes_for(&instance, disk) {
                let on_primary = node == instance.primary_node;
                // What is not mirrored is brought up once, in the second pass.
                if on_primary != is_primary {
                    continue;
                }
                let answer = match cx.node(&node).await {
                    Ok(found) => found.assemble_disk(&told, &disk_spec, is_primary).await,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(path) => device = path,
                    Err(error) => {
                        let name = config.node_name(&node);
                        let python_bool = if is_primary { "True" } else { "False" };
                        cx.warn(&format!(
                            "Could not prepare block device {} on node {name} (is_primary={python_bool}, pass={pass}): \
                             {error}",
                            disk.iv_name
                        ));
                        let offline = config.nodes.get(&node).is_some_and(|node| node.offline);
                        if is_primary || !(ignore_secondaries || offline) {
                            all_well = false;
                        }
                    }
                }
            }
            if is_primary {
                let primary = config.node_name(&instance.primary_node).to_owned();
                mapping.push((primary, disk.iv_name.clone(), device));
            }
        }
    }
    if !all_well {
        mark_disks(cx, &instance.meta.uuid, false).await?;
    }
    Ok((all_well, mapping))
}

/// Brings all disks up for a start. `force` is what the caller said to failures on secondary nodes; `None`: nothing to say.
pub(crate) async fn start(cx: &Cx, instance: &Uuid, force: Option<bool>) -> Result<()> {
    let (all_well, _) = assemble(cx, instance, None, force == Some(true)).await?;
    if all_well {
        return Ok(());
    }
    shutdown(cx, instance, None, false).await?;
    if force == Some(false) {
        cx.warn_hint(
            "",
            "If the message above refers to a secondary node, you can retry the operation using '--force'",
        );
    }
    Err(GanetiError::exec("Disk consistency error"))
}

/// Takes disks down on all their nodes. Answers whether all went well; failures are told, and on the primary only count
/// when `ignore_primary` is off.
pub(crate) async fn shutdown(
    cx: &Cx,
    instance: &Uuid,
    only: Option<&[usize]>,
    ignore_primary: bool,
) -> Result<bool> {
    if only.is_none() {
        mark_disks(cx, instance, false).await?;
    }
    let instance = again(cx, instance)?;
    let config = cx.config();
    let told = spec_of(cx, &instance);
    let mut all_well = true;
    for disk in chosen(&config.instance_disks(&instance), only) {
        let disk_spec = spec::disk(&config, &instance, &disk);
        for node in nodes_for(&instance, &disk) {
            let answer = match cx.node(&node).await {
                Ok(found) => found.shutdown_disk(&told, &disk_spec).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                let name = config.node_name(&node);
                cx.warn(&format!(
                    "Could not shutdown block device {} on node {name}: {error}",
                    disk.iv_name
                ));
                let offline = config.nodes.get(&node).is_some_and(|node| node.offline);
                let on_primary = node == instance.primary_node;
                if (on_primary && !ignore_primary) || (!on_primary && !offline) {
                    all_well = false;
                }
            }
        }
    }
    Ok(all_well)
}

/// Removes disks from all their nodes, and gives their ports back. Goes on after failures, which are told; answers whether
/// there were none. The configuration keeps the disks.
pub(crate) async fn remove(
    cx: &Cx,
    instance: &Instance,
    disks: &[Arc<Disk>],
    ignore_failures: bool,
) -> Result<bool> {
    let config = cx.config();
    let told = spec_of(cx, instance);
    let mut all_well = true;
    let mut ports = Vec::new();
    for disk in disks {
        let disk_spec = spec::disk(&config, instance, disk);
        let at = instance.disks.iter().position(|uuid| *uuid == disk.meta.uuid);
        for node in nodes_for(instance, disk) {
            let answer = match cx.node(&node).await {
                Ok(found) => found.remove_disk(&told, &disk_spec).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                let name = config.node_name(&node);
                let at = at.map_or_else(|| "None".to_owned(), |at| at.to_string());
                cx.warn(&format!(
                    "Could not remove disk {at} on node {name}, continuing anyway: {error}"
                ));
                let offline = config.nodes.get(&node).is_some_and(|node| node.offline);
                if !offline || node == instance.primary_node {
                    all_well = false;
                }
            }
        }
        if disk.dev_type == DiskTemplate::Drbd {
            ports.extend(
                disk.logical_id
                    .get(2)
                    .and_then(Value::as_u64)
                    .and_then(|port| u16::try_from(port).ok()),
            );
        }
    }
    if (all_well || ignore_failures) && !ports.is_empty() {
        cx.commit(|draft| {
            draft.edit_cluster(|cluster| cluster.tcpudp_port_pool.extend(ports.iter().copied()));
            Ok(())
        })
        .await?;
    }
    Ok(all_well)
}

/// Removes an instance's disks, and the instance and its disks from the configuration.
pub(crate) async fn remove_instance(cx: &Cx, uuid: &Uuid, ignore_failures: bool) -> Result<()> {
    let instance = again(cx, uuid)?;
    let disks = cx.config().instance_disks(&instance);
    if !instance.forthcoming && !remove(cx, &instance, &disks, ignore_failures).await? {
        if !ignore_failures {
            return Err(GanetiError::exec("Can't remove instance's disks"));
        }
        cx.log("Warning: can't remove instance's disks");
    }
    cx.commit(|draft| {
        let Some(instance) = draft.instances.get(uuid).cloned() else { return Ok(()) };
        release_addresses(draft, &instance);
        draft.drop_instance(uuid);
        for disk in &instance.disks {
            draft.drop_disk(disk);
        }
        draft.edit_cluster(|cluster| {
            if let Some(port) = instance.network_port {
                cluster.tcpudp_port_pool.insert(port);
            }
        });
        Ok(())
    })
    .await
}

/// Gives the addresses of an instance's NICs back to their networks.
fn release_addresses(draft: &mut crate::config::Draft<'_>, instance: &Instance) {
    for nic in &instance.nics {
        let (Some(uuid), Some(ip)) = (&nic.network, &nic.ip) else { continue };
        let Some(network) = draft.networks.get(uuid).cloned() else { continue };
        if let Some(offset) = crate::pool::offset(&network, ip) {
            draft.edit_network(uuid, |network| network.reservations.remove(&offset));
        }
    }
}

fn chosen(disks: &[Arc<Disk>], only: Option<&[usize]>) -> Vec<Arc<Disk>> {
    match only {
        None => disks.to_vec(),
        Some(indices) => indices.iter().filter_map(|at| disks.get(*at)).cloned().collect(),
    }
}
