//! The change of an instance's disk template: between plain and drbd in place, all others by copying.

use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceSetParams;
use model::param::{Dict, DiskTemplate};
use model::params;
use placement::answer::Found;
use placement::picture::Request;
use serde_json::{Value, json};

use super::{driver, file_dir};
use crate::allocate;
use crate::config::Draft;
use crate::lu::instance::layout::{self, Layout, NewDisk};
use crate::lu::instance::{again, checks, disks, spec_of};
use crate::lu::{Cx, cx::exec_error, expand};
use crate::spec;

/// What the checks found out about the change.
pub(super) struct Conversion {
    pub(super) template: DiskTemplate,
    from: DiskTemplate,
    /// The disks as they are to be made.
    disks: Vec<NewDisk>,
    /// The secondary that was named.
    secondary: Option<Uuid>,
    /// The template with its provider, for the log.
    shown: String,
}

/// Checks whether the change can be made (Ganeti 3.0, `_PreCheckDiskTemplate`).
pub(super) async fn check(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    template: DiskTemplate,
) -> Result<Conversion> {
    let config = cx.config();
    let old = config.instance_disks(instance);
    let from = old.first().map_or(DiskTemplate::Diskless, |disk| disk.dev_type);
    if old.iter().any(|disk| disk.dev_type != from) {
        return Err(GanetiError::prereq_plain("Conversion from mixed is not yet supported."));
    }
    if from == DiskTemplate::Diskless && old.is_empty() && template == from {
        let text = format!("Conversion to the '{template}' disk template is not supported");
        return Err(GanetiError::wrong_input(text));
    }
    if old.is_empty() || from == DiskTemplate::Diskless {
        let text = format!("Conversion from the '{from}' disk template is not supported");
        return Err(GanetiError::wrong_input(text));
    }
    if matches!(template, DiskTemplate::Diskless | DiskTemplate::Blockdev) {
        let text = format!("Conversion to the '{template}' disk template is not supported");
        return Err(GanetiError::wrong_input(text));
    }
    if template != DiskTemplate::Ext && from == template {
        return Err(GanetiError::wrong_input(format!(
            "Instance already has disk template {template}"
        )));
    }
    let enabled = &config.cluster.enabled_disk_templates;
    if !enabled.contains(&template) {
        let names: Vec<&str> = enabled.iter().map(|template| template.as_str()).collect();
        return Err(GanetiError::wrong_state(format!(
            "Disk template '{template}' is not enabled for this cluster (enabled templates: {})",
            names.join(", ")
        )));
    }
    let vg = config.cluster.volume_group_name.as_deref();
    if vg.is_none() && layout::LVM.contains(&template) {
        return Err(GanetiError::wrong_state(
            "Disk template conversions to lvm-based instances are not supported by the cluster",
        ));
    }
    checks::state(cx, instance, checks::DOWN, Some("cannot change disk template"))?;
    let wanted = new_disks(&old, template, vg, op)?;
    let secondary = check_secondary(cx, op, &config, instance, template)?;
    check_group(op, &config, instance, template, from, secondary.as_ref())?;
    check_space(cx, &config, instance, template, from, secondary.as_ref(), &wanted)?;
    let provider = op.ext_params.get("provider").and_then(Value::as_str);
    let shown = match provider.filter(|_| template == DiskTemplate::Ext) {
        Some(provider) => format!("{template}:{provider}"),
        None => template.to_string(),
    };
    Ok(Conversion { template, from, disks: wanted, secondary, shown })
}

/// The descriptions of the new disks: as the old ones, with what external storage is told (Ganeti 3.0, `ComputeDisksInfo`).
fn new_disks(
    old: &[Arc<Disk>],
    template: DiskTemplate,
    vg: Option<&str>,
    op: &InstanceSetParams,
) -> Result<Vec<NewDisk>> {
    let describe = |disk: &Arc<Disk>| {
        let mut spec = Dict::new();
        spec.insert("size".to_owned(), json!(disk.size_mib));
        spec.insert("mode".to_owned(), json!(disk.mode));
        spec.insert("name".to_owned(), json!(disk.name));
        if template == DiskTemplate::Ext {
            spec.extend(op.ext_params.clone());
        }
        spec
    };
    let specs: Vec<Dict> = old.iter().map(describe).collect();
    let mut made = layout::compute(&specs, template, vg)?;
    for (disk, new) in old.iter().zip(&mut made) {
        let provider = disk.params.get("provider").and_then(Value::as_str);
        if disk.dev_type == template
            && template == DiskTemplate::Ext
            && new.provider.as_deref() == provider
        {
            return Err(GanetiError::wrong_input(format!(
                "Not converting, '{}' of type ExtStorage already using provider '{}'",
                disk.iv_name,
                provider.unwrap_or("None")
            )));
        }
        if layout::LVM.contains(&template) {
            let volume = match disk.dev_type {
                DiskTemplate::Plain => disk.logical_id.first(),
                DiskTemplate::Drbd => {
                    disk.children.first().and_then(|data| data.logical_id.first())
                }
                _ => None,
            };
            if let Some(group) = volume.and_then(Value::as_str) {
                new.vg = Some(group.to_owned());
            }
        }
    }
    Ok(made)
}

fn check_secondary(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    template: DiskTemplate,
) -> Result<Option<Uuid>> {
    let Some(name) = op.remote_node.as_ref().filter(|_| template == DiskTemplate::Drbd) else {
        return Ok(None);
    };
    let node = expand::node(config, name, op.remote_node_uuid.as_deref())?;
    let uuid = node.meta.uuid.clone();
    if uuid == instance.primary_node {
        return Err(GanetiError::wrong_state(format!(
            "Given new secondary node {} is the same as the primary node of the instance",
            node.name
        )));
    }
    checks::node_online(config, &uuid)?;
    checks::node_not_drained(config, &uuid)?;
    checks::node_vm_capable(config, &uuid)?;
    if config.nodes.get(&instance.primary_node).is_some_and(|primary| primary.group != node.group) {
        cx.warn(
            "The primary and secondary nodes are in two different node groups; the disk parameters from the first disk's node \
             group will be used",
        );
    }
    Ok(Some(uuid))
}

fn check_group(
    _op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    template: DiskTemplate,
    from: DiskTemplate,
    secondary: Option<&Uuid>,
) -> Result<()> {
    let group =
        config.nodes.get(&instance.primary_node).and_then(|node| config.groups.get(&node.group));
    if let Some(group) = group {
        let policy = params::ipolicy::fill(&config.cluster, group);
        let allowed: Vec<&str> = policy
            .get("disk-templates")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !allowed.contains(&template.as_str()) {
            return Err(GanetiError::wrong_state(format!(
                "Disk template '{template}' in not allowed (allowed templates: {})",
                allowed.join(", ")
            )));
        }
    }
    let nodes = std::iter::once(&instance.primary_node).chain(secondary);
    let exclusive = nodes.into_iter().any(|uuid| checks::exclusive_storage(config, uuid));
    if exclusive && template != DiskTemplate::Plain {
        return Err(GanetiError::wrong_state(format!(
            "Cannot convert disk template from {from} to {template} when exclusive storage is enabled"
        )));
    }
    Ok(())
}

fn check_space(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    template: DiskTemplate,
    from: DiskTemplate,
    secondary: Option<&Uuid>,
    wanted: &[NewDisk],
) -> Result<()> {
    if !layout::LVM.contains(&template)
        || (template, from) == (DiskTemplate::Plain, DiskTemplate::Drbd)
    {
        return Ok(());
    }
    let mut nodes: Vec<Uuid> = secondary.cloned().into_iter().collect();
    if (template, from) != (DiskTemplate::Drbd, DiskTemplate::Plain) {
        nodes.insert(0, instance.primary_node.clone());
    }
    let group =
        config.nodes.get(&instance.primary_node).and_then(|node| config.groups.get(&node.group));
    let defaults = params::disk::fill_template(
        &config.cluster,
        group.map(|group| &**group),
        DiskTemplate::Drbd,
    );
    let metavg = defaults.get("metavg").and_then(Value::as_str).unwrap_or_default();
    checks::free_space(cx, &nodes, &layout::size_per_vg(template, wanted, metavg))
}

/// Makes the change.
pub(super) async fn run(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    conversion: &Conversion,
) -> Result<()> {
    if !disks::shutdown(cx, &instance.meta.uuid, None, false).await? {
        return Err(GanetiError::exec(
            "Cannot shutdown instance disks, unable to proceed with disk template conversion",
        ));
    }
    let instance = again(cx, &instance.meta.uuid)?;
    match (conversion.from, conversion.template) {
        (DiskTemplate::Plain, DiskTemplate::Drbd) => {
            plain_to_drbd(cx, op, &instance, conversion).await
        }
        (DiskTemplate::Drbd, DiskTemplate::Plain) => drbd_to_plain(cx, &instance).await,
        _ => copy(cx, op, &instance, conversion).await,
    }
}

/// Puts other disks in the place of an instance's.
async fn exchange(
    cx: &Cx,
    instance: &Uuid,
    old: &[Arc<Disk>],
    new: &[Disk],
    template: DiskTemplate,
) -> Result<()> {
    cx.commit(|draft: &mut Draft<'_>| {
        for disk in new {
            draft.put_disk(disk.clone(), None);
            if disk.dev_type == DiskTemplate::Drbd
                && let Some(port) = disk.logical_id.get(2).and_then(Value::as_u64)
            {
                layout::use_port(draft, u16::try_from(port).unwrap_or_default());
            }
        }
        draft.edit_instance(instance, |instance| {
            instance.disks = new.iter().map(|disk| disk.meta.uuid.clone()).collect();
            instance.disk_template = template;
            // Ganeti: each disk that goes or comes counts as a change (3.0, `RemoveInstanceDisk`, `AddInstanceDisk`).
            instance.meta.serial_no += (old.len() + new.len()).saturating_sub(1) as u64;
        });
        let kept = |uuid: &Uuid| new.iter().any(|disk| disk.meta.uuid == *uuid);
        for disk in old.iter().filter(|disk| !kept(&disk.meta.uuid)) {
            draft.drop_disk(&disk.meta.uuid);
        }
        Ok(())
    })
    .await
}

async fn copy(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    conversion: &Conversion,
) -> Result<()> {
    let config = cx.config();
    let (from, shown) = (conversion.from, &conversion.shown);
    cx.log(&format!("Converting disk template from '{from}' to '{shown}'"));
    let secondary = match (&conversion.secondary, conversion.template) {
        (None, DiskTemplate::Drbd) => Some(choose_secondary(cx, op, instance).await?),
        (named, _) => named.clone(),
    };
    let old = config.instance_disks(instance);
    cx.log(&format!("Generating new '{shown}' disk template..."));
    let dir = file_dir(op, &config, instance, conversion.template)?;
    let made = layout::generate(
        cx,
        &Layout {
            template: conversion.template,
            instance: &instance.meta.uuid,
            primary: &instance.primary_node,
            secondary: secondary.as_ref(),
            disks: &conversion.disks,
            file_dir: dir.as_deref(),
            file_driver: driver(op),
            first: 0,
            group: None,
        },
    )?;
    let told = spec_of(cx, instance);
    cx.log(&format!("Creating new empty disks of type '{shown}'..."));
    if let Err(error) = disks::create(cx, &told, instance, &made, None).await {
        cx.warn("Device creation failed");
        return Err(error);
    }
    cx.log(&format!("Populating the new empty disks of type '{shown}'..."));
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    for (at, (old, new)) in old.iter().zip(&made).enumerate() {
        let size = layout::format_mib(new.size_mib);
        cx.log(&format!(" - copying data from disk {at} ({}), size {size}", old.dev_type));
        let source = spec::disk(&config, instance, old);
        let target = spec::disk(&config, instance, new);
        if let Err(error) = node.copy_disk(&told, &source, &target).await {
            cx.log(&format!(
                " - ERROR: Could not copy disk '{}' to '{}'",
                source.iv_name, target.iv_name
            ));
            cx.info("Some disks failed to copy");
            cx.info("The instance will not be affected, aborting operation");
            cx.info(&format!("Removing newly created disks of type '{shown}'..."));
            let made: Vec<Arc<Disk>> = made.into_iter().map(Arc::new).collect();
            if disks::remove(cx, instance, &made, false).await? {
                cx.info("Newly created disks removed successfully");
            }
            let text = format!("Error while converting the instance's template: {error}");
            return Err(GanetiError::exec(text));
        }
    }
    cx.log(&format!(
        "Detaching old disks ({from}) from the instance and removing them from cluster config"
    ));
    cx.log(&format!(
        "Adding new disks ({shown}) to cluster config and attaching them to the instance"
    ));
    exchange(cx, &instance.meta.uuid, &old, &made, conversion.template).await?;
    let after = again(cx, &instance.meta.uuid)?;
    in_sync(cx, op, &after).await?;
    cx.log(&format!("Removing old block devices of type '{from}'..."));
    // The old disks are the old instance's: their nodes follow from it.
    disks::remove(cx, instance, &old, false).await?;
    Ok(())
}

async fn in_sync(cx: &Cx, op: &InstanceSetParams, instance: &Instance) -> Result<()> {
    if disks::wait_for_sync(cx, instance, None, !op.wait_for_sync).await? {
        return Ok(());
    }
    Err(GanetiError::exec(
        "There are some degraded disks for this instance, please cleanup manually",
    ))
}

/// Asks the allocator for a secondary.
async fn choose_secondary(cx: &Cx, op: &InstanceSetParams, instance: &Instance) -> Result<Uuid> {
    let config = cx.config();
    let allocator = allocate::chosen(&config, op.iallocator.as_deref())?;
    cx.log(&format!("Using {allocator} to choose new secondary"));
    let turn = cx.allocation_turn().await;
    let request = Request::AllocateSecondary { name: instance.name.clone() };
    let reply = allocate::ask(cx, &allocator, &request).await?;
    drop(turn);
    let Some(Found::Node(name)) = reply.result else {
        return Err(GanetiError::prereq(
            format!("Can's find secondary node using iallocator {allocator}: {}", reply.info),
            ErrorCode::InsufficientResources,
        ));
    };
    cx.log(&format!("{allocator} choose {name} as new secondary"));
    expand::node(&config, &name, None).map(|node| node.meta.uuid.clone())
}

async fn plain_to_drbd(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    conversion: &Conversion,
) -> Result<()> {
    cx.log("Converting disk template from 'plain' to 'drbd'");
    let config = cx.config();
    let secondary = match &conversion.secondary {
        Some(uuid) => uuid.clone(),
        None => choose_secondary(cx, op, instance).await?,
    };
    let old = config.instance_disks(instance);
    let group =
        config.nodes.get(&instance.primary_node).and_then(|node| config.groups.get(&node.group));
    let made = layout::generate(
        cx,
        &Layout {
            template: DiskTemplate::Drbd,
            instance: &instance.meta.uuid,
            primary: &instance.primary_node,
            secondary: Some(&secondary),
            disks: &conversion.disks,
            file_dir: None,
            file_driver: driver(op),
            first: 0,
            group: group.map(|group| &**group),
        },
    )?;
    let told = spec_of(cx, instance);
    let primary = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let other = cx.node(&secondary).await.map_err(|error| exec_error(&error))?;
    cx.log("Creating additional volumes...");
    for disk in &made {
        let parts: Vec<_> =
            disk.children.iter().map(|part| spec::disk(&config, instance, part)).collect();
        let failed = |error: node::NodeError| {
            GanetiError::exec(format!("Can't create block device: {error}"))
        };
        if let Some(meta) = parts.get(1) {
            primary.create_disk(&told, meta).await.map_err(failed)?;
        }
        for part in &parts {
            other.create_disk(&told, part).await.map_err(failed)?;
        }
    }
    cx.log("Renaming original volumes...");
    for (old, new) in old.iter().zip(&made) {
        let Some(data) = new.children.first() else { continue };
        let (before, after) =
            (spec::disk(&config, instance, old), spec::disk(&config, instance, data));
        let renamed = primary.rename_disk(&before, &after).await;
        renamed.map_err(|error| {
            GanetiError::exec(format!("Failed to rename original LVs: {error}"))
        })?;
    }
    cx.log("Initializing DRBD devices...");
    for disk in &made {
        let whole = spec::disk(&config, instance, disk);
        for node in [&primary, &other] {
            if let Err(error) = node.create_disk(&told, &whole).await {
                cx.log("Initializing of DRBD devices failed; renaming back original volumes...");
                for (old, new) in old.iter().zip(&made) {
                    let Some(data) = new.children.first() else { continue };
                    let (before, after) =
                        (spec::disk(&config, instance, data), spec::disk(&config, instance, old));
                    primary.rename_disk(&before, &after).await.map_err(|back| {
                        GanetiError::exec(format!(
                            "Failed to rename LVs back after error {error}: {back}"
                        ))
                    })?;
                }
                return Err(GanetiError::exec(error.to_string()));
            }
        }
    }
    exchange(cx, &instance.meta.uuid, &old, &made, DiskTemplate::Drbd).await?;
    in_sync(cx, op, &*again(cx, &instance.meta.uuid)?).await
}

async fn drbd_to_plain(cx: &Cx, instance: &Instance) -> Result<()> {
    cx.log("Converting disk template from 'drbd' to 'plain'");
    let config = cx.config();
    let old = config.instance_disks(instance);
    let secondaries = config.secondary_nodes(instance);
    let keep = |disk: &Arc<Disk>| {
        let mut data = disk.children.first()?.clone();
        data.size_mib = disk.size_mib;
        data.mode = disk.mode.clone();
        data.name = disk.name.clone();
        data.iv_name = disk.iv_name.clone();
        data.nodes = vec![instance.primary_node.clone()];
        Some(data)
    };
    let made: Vec<Disk> = old.iter().filter_map(keep).collect();
    exchange(cx, &instance.meta.uuid, &old, &made, DiskTemplate::Plain).await?;
    let ports: Vec<u16> = old
        .iter()
        .filter_map(|disk| u16::try_from(disk.logical_id.get(2)?.as_u64()?).ok())
        .collect();
    cx.commit(|draft| {
        draft.edit_cluster(|cluster| cluster.tcpudp_port_pool.extend(ports));
        Ok(())
    })
    .await?;
    let told = spec_of(cx, instance);
    cx.log("Removing volumes on the secondary node...");
    let remove = async |node: &Uuid, disk: &Disk| {
        let name = config.node_name(node).to_owned();
        let answer = match cx.node(node).await {
            Ok(node) => node.remove_disk(&told, &spec::disk(&config, instance, disk)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = answer {
            let disk = &disk.iv_name;
            cx.warn(&format!(
                "Could not remove disk {disk} on node {name}, continuing anyway: {error}"
            ));
        }
    };
    for node in &secondaries {
        for disk in &old {
            remove(node, disk).await;
        }
    }
    cx.log("Removing unneeded volumes on the primary node...");
    for disk in &old {
        if let Some(meta) = disk.children.get(1) {
            remove(&instance.primary_node, meta).await;
        }
    }
    Ok(())
}
