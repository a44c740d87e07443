//! Changes of an instance's disks.

use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceSetParams;
use model::param::{Dict, DiskTemplate, ItemChange};
use model::{params, python};
use node::{Device, Hotplug};
use serde_json::{Value, json};

use super::changes::{check_empty, find, place};
use super::{Done, Plan, driver, file_dir, plug};
use crate::lu::instance::layout::{self, Layout, NewDisk};
use crate::lu::instance::{again, checks, disks, nodes_of, spec_of, wipe};
use crate::lu::{Cx, cx::exec_error};
use crate::spec;

/// The most disks an instance has.
const MAX_DISKS: usize = 16;

/// Turns names and UUIDs of disks into indices.
pub(super) fn look_up(
    config: &Config,
    instance: &Instance,
    changes: &[ItemChange],
) -> Result<Vec<ItemChange>> {
    let disks = config.instance_disks(instance);
    let resolve = |change: &ItemChange| {
        let mut change = change.clone();
        if let Value::String(name) = &change.identifier {
            let index = match python::int(name) {
                Some(index) => json!(i64::try_from(index).unwrap_or(i64::MAX)),
                None => {
                    let named = |disk: &Arc<Disk>| {
                        disk.name.as_deref() == Some(name) || disk.meta.uuid.as_str() == name
                    };
                    let at = disks.iter().position(named).ok_or_else(|| {
                        let shown = python::repr_str(name);
                        GanetiError::prereq_plain(format!("Lookup of disk {shown} failed"))
                    })?;
                    json!(at)
                }
            };
            change.identifier = index;
        }
        Ok(change)
    };
    changes.iter().map(resolve).collect()
}

/// Checks the changes against the instance as it is, and brings them into form.
pub(super) fn check(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    changes: &mut [ItemChange],
    hotplug: bool,
) -> Result<()> {
    let config = cx.config();
    let exclusive =
        nodes_of(&config, instance).iter().any(|uuid| checks::exclusive_storage(&config, uuid));
    for change in &mut *changes {
        check_empty("disk", change)?;
        check_one(cx, op, &config, instance, change, exclusive, hotplug)?;
    }
    let mut names: Vec<Option<String>> =
        config.instance_disks(instance).iter().map(|disk| disk.name.clone()).collect();
    let mut now = config.instance_disks(instance);
    for change in changes.iter() {
        match change.action.as_str() {
            "add" | "attach" => {
                let at = place("disk", &change.identifier, now.len())?;
                names.insert(
                    at,
                    change.params.get("name").and_then(Value::as_str).map(str::to_owned),
                );
                if let Some(some) = config.disks.values().next().or(now.first()).cloned() {
                    now.insert(at, some); // stands for the one to come: only the count matters
                }
            }
            "modify" => {
                let at = find("disk", &change.identifier, &now)?;
                if let Some(name) = change.params.get("name") {
                    names[at] = name.as_str().map(str::to_owned);
                }
            }
            _ => {
                let at = find("disk", &change.identifier, &now)?;
                now.remove(at);
                names.remove(at);
            }
        }
    }
    layout::check_names("disk", names.iter().map(Option::as_deref), &[])?;
    if names.len() > MAX_DISKS {
        return Err(GanetiError::wrong_state(format!(
            "Instance has too many disks ({MAX_DISKS}), cannot add more"
        )));
    }
    Ok(())
}

/// The changes as a job shows them: a new disk with its type, nothing that has no value.
pub(super) fn shown(
    config: &Config,
    instance: &Instance,
    changes: &[ItemChange],
) -> Vec<ItemChange> {
    let template = super::super::disk_template(config, instance);
    let mut changes = changes.to_vec();
    for change in &mut changes {
        change.params.retain(|_, value| !value.is_null());
        if change.action == "add" && !change.params.contains_key("dev_type") {
            change.params.insert("dev_type".to_owned(), json!(template.as_str()));
        }
    }
    changes
}

fn check_one(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    change: &mut ItemChange,
    exclusive: bool,
    hotplug: bool,
) -> Result<()> {
    let template = super::super::disk_template(config, instance);
    match change.action.as_str() {
        "add" => check_add(&mut change.params, template)?,
        "modify" => check_modify(config, instance, &mut change.params)?,
        "remove" if !hotplug => {
            let message = "can't remove volume from a running instance without using hotplug";
            checks::state(cx, instance, checks::NOT_RUNNING, Some(message))?;
        }
        _ => {}
    }
    if ["add", "attach"].contains(&change.action.as_str()) {
        checks::check_spindles(change.params.contains_key("spindles"), exclusive)?;
        let kind = if change.action == "add" { template } else { DiskTemplate::Diskless };
        if change.action == "add" {
            layout::check_provider(change.params.contains_key("provider"), kind)?;
        }
        if !op.wait_for_sync && !instance.disks_active {
            return Err(GanetiError::wrong_input(format!(
                "Can't {} a disk to an instance with deactivated disks and --no-wait-for-sync given",
                change.action
            )));
        }
    }
    if change.action == "attach" {
        let known = change.params.len() == 1
            && (change.params.contains_key("uuid") || change.params.contains_key("name"));
        if !known {
            return Err(GanetiError::wrong_input(
                "Only one argument is permitted in attach op, either name or uuid",
            ));
        }
        check_attach(config, instance, &change.params, template)?;
    }
    Ok(())
}

fn check_add(params: &mut Dict, template: DiskTemplate) -> Result<()> {
    if template == DiskTemplate::Diskless {
        return Err(GanetiError::wrong_input("Must specify disk type on diskless instance"));
    }
    if template != DiskTemplate::Ext {
        layout::force(params)?;
    }
    let mode = params.entry("mode").or_insert_with(|| json!("rw")).clone();
    if !["ro", "rw"].contains(&mode.as_str().unwrap_or_default()) {
        let text = format!("Invalid disk access mode '{}'", python::str(&mode));
        return Err(GanetiError::wrong_input(text));
    }
    let size = params.get("size").filter(|size| !size.is_null());
    let size =
        size.ok_or_else(|| GanetiError::wrong_input("Required disk parameter 'size' missing"))?;
    let size = size.as_u64().or_else(|| u64::try_from(python::int(size.as_str()?)?).ok());
    let size = size.ok_or_else(|| GanetiError::exec("invalid literal for int() with base 10"))?;
    params.insert("size".to_owned(), json!(size));
    clear_none(params);
    Ok(())
}

fn check_modify(config: &Config, instance: &Instance, params: &mut Dict) -> Result<()> {
    if params.contains_key("size") {
        return Err(GanetiError::wrong_input("Disk size change not possible, use grow-disk"));
    }
    let all = config.instance_disks(instance);
    let all_ext = !all.is_empty() && all.iter().all(|disk| disk.dev_type == DiskTemplate::Ext);
    if all_ext {
        for name in ["access", "provider"] {
            if params.contains_key(name) {
                let text = format!("Disk '{name}' parameter change is not possible");
                return Err(GanetiError::wrong_input(text));
            }
        }
    } else {
        let kind = |name: &str| match name {
            "mode" => Some(params::Kind::Text),
            "name" => Some(params::Kind::MaybeText),
            _ => None,
        };
        params::force_types(params, kind, &[])?;
    }
    clear_none(params);
    Ok(())
}

fn clear_none(params: &mut Dict) {
    if params
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|name| name.eq_ignore_ascii_case("none"))
    {
        params.insert("name".to_owned(), Value::Null);
    }
}

/// A disk that no instance has, by UUID or name.
fn detached<'a>(config: &'a Config, params: &Dict) -> Result<&'a Arc<Disk>> {
    if let Some(uuid) = params.get("uuid").and_then(Value::as_str) {
        return config.disks.get(uuid).ok_or_else(|| {
            GanetiError::wrong_input(format!("No disk was found with this UUID: {uuid}"))
        });
    }
    let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
    let found = config.disks.values().find(|disk| disk.name.as_deref() == Some(name));
    found.ok_or_else(|| {
        GanetiError::wrong_input(format!("No disk was found with this name: {name}"))
    })
}

fn check_attach(
    config: &Config,
    instance: &Instance,
    params: &Dict,
    template: DiskTemplate,
) -> Result<()> {
    let disk = detached(config, params)?;
    if config.instances.values().any(|owner| owner.disks.contains(&disk.meta.uuid)) {
        return Err(GanetiError::wrong_input(format!(
            "Disk {} is already attached to an instance",
            disk.meta.uuid
        )));
    }
    if disk.dev_type != template && template != DiskTemplate::Diskless {
        return Err(GanetiError::wrong_input(format!(
            "Instance has '{template}' template while disk has '{}' template",
            disk.dev_type
        )));
    }
    let nodes = nodes_of(config, instance);
    if !disk.nodes.is_empty() && !nodes.iter().all(|node| disk.nodes.contains(node)) {
        let list = |nodes: &[Uuid]| {
            let names: Vec<String> =
                nodes.iter().map(|uuid| python::repr_str(uuid.as_str())).collect();
            format!("[{}]", names.join(", "))
        };
        return Err(GanetiError::wrong_input(format!(
            "Disk nodes are {} while the instance's nodes are {}",
            list(&disk.nodes),
            list(&nodes)
        )));
    }
    Ok(())
}

/// Carries the changes out, one after the other.
pub(super) async fn apply(
    cx: &Cx,
    op: &InstanceSetParams,
    plan: &Plan,
    done: &mut Done,
) -> Result<()> {
    let uuid = &plan.instance.meta.uuid;
    for change in &plan.disks {
        let instance = again(cx, uuid)?;
        let now = cx.config().instance_disks(&instance);
        match change.action.as_str() {
            "add" => {
                let at = place("disk", &change.identifier, now.len())?;
                add(cx, op, plan, &instance, at, &change.params, done).await?;
            }
            "attach" => {
                let at = place("disk", &change.identifier, now.len())?;
                attach(cx, op, plan, &instance, at, &change.params, done).await?;
            }
            "modify" => {
                let at = find("disk", &change.identifier, &now)?;
                modify(cx, &instance, &now[at], at, &change.params, done).await?;
            }
            action => {
                let at = find("disk", &change.identifier, &now)?;
                take_out(cx, plan, &instance, &now[at], at, action, done).await?;
            }
        }
    }
    Ok(())
}

async fn add(
    cx: &Cx,
    op: &InstanceSetParams,
    plan: &Plan,
    instance: &Instance,
    at: usize,
    params: &Dict,
    done: &mut Done,
) -> Result<()> {
    let config = cx.config();
    let template = super::super::disk_template(&config, instance);
    let vg = config.cluster.volume_group_name.as_deref();
    let wanted: Vec<NewDisk> = layout::compute(std::slice::from_ref(params), template, vg)?;
    let secondaries = config.secondary_nodes(instance);
    let dir = file_dir(op, &config, instance, template)?;
    let made = layout::generate(
        cx,
        &Layout {
            template,
            instance: &instance.meta.uuid,
            primary: &instance.primary_node,
            secondary: secondaries.first(),
            disks: &wanted,
            file_dir: dir.as_deref(),
            file_driver: driver(op),
            first: at,
            group: None,
        },
    )?;
    disks::create(cx, &spec_of(cx, instance), instance, &made, None).await?;
    let Some(disk) = made.into_iter().next() else { return Ok(()) };
    let (size, mode) = (disk.size_mib, disk.mode.clone());
    insert(cx, instance, disk, at).await?;
    let instance = again(cx, &instance.meta.uuid)?;
    if config.cluster.prealloc_wipe_disks {
        wipe::one(cx, &instance, at, 0).await?;
    }
    done.push(json!([format!("disk/{at}"), format!("add:size={size},mode={mode}")]));
    if plan.hotplug {
        let (well, _) = disks::assemble(cx, &instance.meta.uuid, Some(&[at]), false).await?;
        let note =
            if well { plug_disk(cx, &instance, Hotplug::Add, at).await } else { "assemble:failed" };
        done.push(json!([format!("disk/{at}"), note]));
    } else if instance.disks_active {
        // Ganeti: a device is up once it is made, and stays so beside the others (3.0, backend.py `BlockdevCreate`).
        disks::assemble(cx, &instance.meta.uuid, Some(&[at]), false).await?;
    }
    if !disks::wait_for_sync(cx, &instance, Some(&[at]), !op.wait_for_sync).await? {
        return Err(GanetiError::exec(format!("Failed to sync disks of {}", instance.name)));
    }
    if !instance.disks_active {
        disks::shutdown(cx, &instance.meta.uuid, Some(&[at]), false).await?;
    }
    Ok(())
}

/// Puts a disk into the configuration at its place, and gives those behind it their new names.
async fn insert(cx: &Cx, instance: &Instance, disk: Disk, at: usize) -> Result<()> {
    let owner = instance.meta.uuid.clone();
    cx.commit(|draft| {
        if disk.dev_type == DiskTemplate::Drbd
            && let Some(port) = disk.logical_id.get(2).and_then(Value::as_u64)
        {
            layout::use_port(draft, u16::try_from(port).unwrap_or_default());
        }
        let uuid = disk.meta.uuid.clone();
        draft.put_disk(disk, None);
        draft.edit_instance(&owner, |instance| instance.disks.insert(at, uuid));
        renumber(draft, &owner);
        Ok(())
    })
    .await
}

/// Names the disks of an instance by their places (Ganeti 3.0, `_UpdateIvNames`).
pub(super) fn renumber(draft: &mut crate::config::Draft<'_>, owner: &Uuid) {
    let Some(instance) = draft.instances.get(owner).cloned() else { return };
    for (at, uuid) in instance.disks.iter().enumerate() {
        let name = format!("disk/{at}");
        if draft.disks.get(uuid).is_some_and(|disk| disk.iv_name != name) {
            draft.edit_disk(uuid, owner, |disk| disk.iv_name = name);
        }
    }
}

async fn plug_disk(cx: &Cx, instance: &Instance, action: Hotplug, at: usize) -> &'static str {
    let config = cx.config();
    match config.instance_disks(instance).get(at) {
        Some(disk) => {
            let device = Device::Disk(spec::disk(&config, instance, disk));
            plug(cx, instance, action, &device, at).await
        }
        None => "hotplug:failed",
    }
}

async fn attach(
    cx: &Cx,
    op: &InstanceSetParams,
    plan: &Plan,
    instance: &Instance,
    at: usize,
    params: &Dict,
    done: &mut Done,
) -> Result<()> {
    let config = cx.config();
    let mut disk = Disk::clone(detached(&config, params)?);
    if matches!(disk.dev_type, DiskTemplate::File | DiskTemplate::Sharedfile) {
        let dir = file_dir(op, &config, instance, disk.dev_type)?.unwrap_or_default();
        let path = disk.logical_id.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let before = spec::disk(&config, instance, &disk);
        disk.logical_id = vec![json!(driver(op)), json!(format!("{dir}/{name}"))];
        let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
        let renamed = node.rename_disk(&before, &spec::disk(&config, instance, &disk)).await;
        renamed.map_err(|error| GanetiError::exec(format!("Failed before attach: {error}")))?;
    }
    disk.meta.touch(cx.env().now_seconds());
    done.push(json!([
        format!("disk/{at}"),
        format!("attach:size={},mode={}", disk.size_mib, disk.mode)
    ]));
    insert(cx, instance, disk, at).await?;
    let instance = again(cx, &instance.meta.uuid)?;
    let (well, _) = disks::assemble(cx, &instance.meta.uuid, Some(&[at]), false).await?;
    if !well {
        done.push(json!([format!("disk/{at}"), "assemble:failed"]));
    } else if plan.hotplug {
        let note = plug_disk(cx, &instance, Hotplug::Add, at).await;
        done.push(json!([format!("disk/{at}"), note]));
    }
    if !instance.disks_active {
        disks::shutdown(cx, &instance.meta.uuid, Some(&[at]), false).await?;
    }
    Ok(())
}

async fn modify(
    cx: &Cx,
    instance: &Instance,
    disk: &Disk,
    at: usize,
    changes: &Dict,
    done: &mut Done,
) -> Result<()> {
    if let Some(mode) = changes.get("mode") {
        done.push(json!([format!("disk.mode/{at}"), mode]));
    }
    if let Some(name) = changes.get("name") {
        done.push(json!([format!("disk.name/{at}"), name]));
    }
    let free = |name: &String| {
        disk.dev_type == DiskTemplate::Ext && !["mode", "name"].contains(&name.as_str())
    };
    for (name, value) in changes.iter().filter(|(name, _)| free(name)) {
        done.push(json!([format!("disk.params:{name}/{at}"), value]));
    }
    cx.commit(|draft| {
        draft.edit_disk(&disk.meta.uuid, &instance.meta.uuid, |disk| {
            if let Some(mode) = changes.get("mode").and_then(Value::as_str) {
                disk.mode = mode.to_owned();
            }
            if let Some(name) = changes.get("name") {
                disk.name = name.as_str().map(str::to_owned);
            }
            for (name, value) in changes.iter().filter(|(name, _)| free(name)) {
                if value.as_str() == Some(params::VALUE_DEFAULT) {
                    disk.params.shift_remove(name);
                } else {
                    disk.params.insert(name.clone(), value.clone());
                }
            }
        });
        Ok(())
    })
    .await
}

/// Removes a disk, or detaches it, which keeps it in the configuration without an owner.
async fn take_out(
    cx: &Cx,
    plan: &Plan,
    instance: &Instance,
    disk: &Arc<Disk>,
    at: usize,
    action: &str,
    done: &mut Done,
) -> Result<()> {
    let owner = instance.meta.uuid.clone();
    done.push(json!([format!("disk/{at}"), action]));
    if plan.hotplug {
        let note = plug_disk(cx, instance, Hotplug::Remove, at).await;
        done.push(json!([format!("disk/{at}"), note]));
    }
    if plan.hotplug || action == "detach" {
        disks::shutdown(cx, &owner, Some(&[at]), false).await?;
    }
    let mut kept = None;
    if action == "remove" {
        disks::remove(cx, instance, std::slice::from_ref(disk), false).await?;
    } else {
        let mut disk = Disk::clone(disk);
        if matches!(disk.dev_type, DiskTemplate::File | DiskTemplate::Sharedfile) {
            // Out of the instance's directory: DIR/INSTANCE/NAME becomes DIR/NAME.
            let path =
                disk.logical_id.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut steps: Vec<&str> = path.split('/').collect();
            if steps.len() > 2 {
                steps.remove(steps.len() - 2);
            }
            let config = cx.config();
            let before = spec::disk(&config, instance, &disk);
            disk.logical_id[1] = json!(steps.join("/"));
            let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
            let renamed = node.rename_disk(&before, &spec::disk(&config, instance, &disk)).await;
            renamed.map_err(|error| GanetiError::exec(format!("Failed before detach: {error}")))?;
        }
        disk.meta.touch(cx.env().now_seconds());
        kept = Some(disk);
    }
    let uuid = disk.meta.uuid.clone();
    cx.commit(|draft| {
        draft.edit_instance(&owner, |instance| instance.disks.retain(|other| *other != uuid));
        match kept {
            Some(disk) => draft.put_disk(disk, None),
            None => draft.drop_disk(&uuid),
        }
        renumber(draft, &owner);
        Ok(())
    })
    .await
}
