//! Bringing an instance's disks up and down, and removing them (Ganeti 3.0, `cmdlib/instance_storage.py`).

use std::sync::Arc;
use std::time::Duration;

use model::config::{Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::param::DiskTemplate;
use node::{DiskSpec, InstanceSpec};
use serde_json::Value;

use super::layout::NewDisk;
use super::{again, mark_disks, spec_of};
use crate::lu::Cx;
use crate::lu::cx::exec_error;
use crate::spec;

/// How often a mirror that is not in sync is looked at, at least and at most.
const SYNC_LOOK: Duration = Duration::from_secs(1);
const SYNC_LOOK_MAX: Duration = Duration::from_secs(60);
/// How often a degraded mirror that does not sync is looked at again, a second apart, before it is believed.
const DEGRADED_TRIES: u32 = 10;

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
            draft.mark_addresses(uuid, |network| {
                network.reservations.remove(&offset);
            });
        }
    }
}

fn chosen(disks: &[Arc<Disk>], only: Option<&[usize]>) -> Vec<Arc<Disk>> {
    match only {
        None => disks.to_vec(),
        Some(indices) => indices.iter().filter_map(|at| disks.get(*at)).cloned().collect(),
    }
}

/// Makes disks on all nodes that hold them, the primary first; when one fails those made are removed again. Disks that are
/// taken over get the name they are to have from the one they are adopted by.
pub(crate) async fn create(
    cx: &Cx,
    told: &InstanceSpec,
    instance: &Instance,
    disks: &[Disk],
    adopted: Option<&[NewDisk]>,
) -> Result<()> {
    let config = cx.config();
    let mut made: Vec<(Uuid, DiskSpec)> = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        let mut disk_spec = spec::disk(&config, instance, disk);
        if let Some(source) = adopted.and_then(|disks| disks.get(at))
            && disk.dev_type == DiskTemplate::Plain
        {
            let mut from = disk_spec.clone();
            from.logical_id[1] = serde_json::json!(source.adopt);
            let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
            let renamed = node.rename_disk(&from, &disk_spec).await;
            renamed.map_err(|error| {
                GanetiError::exec(format!("Failed to rename adoped LVs: {error}"))
            })?;
            continue;
        }
        if let Some(source) = adopted.and_then(|disks| disks.get(at)) {
            disk_spec.size_mib = source.size_mib;
        }
        let mut nodes = nodes_for(instance, disk);
        nodes.reverse();
        for uuid in nodes {
            let answer = match cx.node(&uuid).await {
                Ok(node) => node.create_disk(told, &disk_spec).await,
                Err(error) => Err(error),
            };
            if let Err(error) = answer {
                for (uuid, disk_spec) in made.iter().rev() {
                    // What cannot be removed now is told; the creation has failed anyway.
                    if let Ok(node) = cx.node(uuid).await
                        && let Err(error) = node.remove_disk(told, disk_spec).await
                    {
                        cx.warn(&format!(
                            "Failed to remove newly-created disk {}: {error}",
                            disk_spec.iv_name
                        ));
                    }
                }
                let name = config.node_name(&uuid);
                return Err(GanetiError::exec(format!(
                    "Can't create block device {} on node {name} for instance {}: {error}",
                    python_repr(&disk_spec),
                    instance.name
                )));
            }
            made.push((uuid, disk_spec.clone()));
        }
    }
    Ok(())
}

/// A disk as Ganeti's error texts show it (3.0, `objects.Disk.__str__`).
pub(crate) fn python_repr(disk: &DiskSpec) -> String {
    let part = |at: usize| disk.logical_id.get(at).map(model::python::str).unwrap_or_default();
    let children: Vec<String> = disk.children.iter().map(python_repr).collect();
    let mut text = match disk.dev_type {
        DiskTemplate::Plain => format!("<LogicalVolume(/dev/{}/{}", part(0), part(1)),
        DiskTemplate::Drbd => {
            let below = match children.as_slice() {
                [data, meta] => format!("backend={data}, metadev={meta}"),
                _ => "no local storage".to_owned(),
            };
            let (hosts, port) = ([part(0), part(3), part(1), part(4)], part(2));
            let [first, first_minor, second, second_minor] = hosts;
            format!(
                "<DRBD8(hosts={first}/{first_minor}-{second}/{second_minor}, port={port}, {below}"
            )
        }
        template => {
            let id: Vec<String> = disk.logical_id.iter().map(model::python::repr).collect();
            let (id, children) = (id.join(", "), children.join(", "));
            format!("<Disk(type={template}, logical_id=({id}), children=[{children}]")
        }
    };
    text += &match disk.iv_name.as_str() {
        "" => ", not visible".to_owned(),
        name => format!(", visible as /dev/{name}"),
    };
    if let Some(spindles) = disk.spindles {
        text += &format!(", spindles={spindles}");
    }
    text + &format!(", size={}m)>", disk.size_mib)
}

/// Waits until mirrored disks are in sync; with `once` only looks. Answers whether none is degraded (Ganeti 3.0,
/// `WaitForSync`).
pub(crate) async fn wait_for_sync(
    cx: &Cx,
    instance: &Instance,
    only: Option<&[usize]>,
    once: bool,
) -> Result<bool> {
    let config = cx.config();
    let all = config.instance_disks(instance);
    if all.is_empty() || only.is_some_and(<[usize]>::is_empty) {
        return Ok(true);
    }
    if !once {
        cx.info(&format!("Waiting for instance {} to sync disks", instance.name));
    }
    let mirrored: Vec<Arc<Disk>> =
        chosen(&all, only).into_iter().filter(|disk| disk.dev_type == DiskTemplate::Drbd).collect();
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let mut patience = DEGRADED_TRIES;
    let mut degraded;
    let mut done;
    loop {
        (done, degraded) = (true, false);
        let mut longest = SYNC_LOOK;
        for disk in &mirrored {
            let status = node.disk_status(&spec::disk(&config, instance, disk)).await;
            let Some(status) = status.map_err(|error| exec_error(&error))? else {
                cx.warn(&format!("Can't compute data for node {}/{}", node.name(), disk.iv_name));
                continue;
            };
            degraded |= status.is_degraded && status.sync_percent.is_none();
            if let Some(percent) = status.sync_percent {
                done = false;
                let left = match status.estimated_time {
                    Some(seconds) => {
                        longest = Duration::from_secs_f64(
                            seconds.clamp(0.0, SYNC_LOOK_MAX.as_secs_f64()),
                        );
                        format!("{} remaining (estimated)", format_seconds(seconds))
                    }
                    None => "no time estimate".to_owned(),
                };
                cx.info(&format!("- device {}: {percent:5.2}% done, {left}", disk.iv_name));
            }
        }
        if (done || once) && degraded && patience > 0 {
            patience -= 1;
            tokio::time::sleep(SYNC_LOOK).await;
            continue;
        }
        if done || once {
            break;
        }
        tokio::time::sleep(longest.clamp(SYNC_LOOK, SYNC_LOOK_MAX)).await;
    }
    if done {
        cx.info(&format!("Instance {}'s disks are in sync", instance.name));
    }
    Ok(!degraded)
}

/// A span of time for people, as Ganeti writes it: `1h 2m 3s` (3.0, `utils.FormatSeconds`).
pub(crate) fn format_seconds(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "a time for people")]
    let mut left = seconds.round() as i64;
    let mut parts = Vec::new();
    for (unit, length) in [("d", 86400), ("h", 3600), ("m", 60)] {
        if left >= length || !parts.is_empty() {
            parts.push(format!("{}{unit}", left / length));
            left %= length;
        }
    }
    parts.push(format!("{left}s"));
    parts.join(" ")
}
