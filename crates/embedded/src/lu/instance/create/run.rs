//! A creation carried out.

use std::sync::Arc;

use model::config::{Config, Disk, Instance, Meta};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{AdminState, AdminStateSource, CreateMode, Dict, DiskTemplate, Hypervisor};
use model::params;
use node::InstanceSpec;
use serde_json::Value;

use super::Plan;
use crate::lu::instance::layout::{self, Layout};
use crate::lu::instance::{disks, mark, naming, nics, spec_of};
use crate::lu::{Cx, remote};

/// Hypervisors whose instances get a port for their console.
const NEED_PORT: &[Hypervisor] = &[Hypervisor::Kvm, Hypervisor::XenHvm];

/// Makes the disks and writes the instance into the configuration.
pub(super) async fn add(op: &InstanceCreate, cx: &Cx, plan: &Plan) -> Result<Arc<Instance>> {
    let config = cx.config();
    let uuid = match &plan.commit {
        Some(instance) => instance.meta.uuid.clone(),
        None => cx.env().uuid(),
    };
    let port = match NEED_PORT.contains(&plan.hypervisor) {
        true => Some(layout::reserve_port(cx)?),
        false => None,
    };
    let group = config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group));
    let made = match &plan.commit {
        Some(instance) => {
            config.instance_disks(instance).iter().map(|disk| Disk::clone(disk)).collect()
        }
        None => layout::generate(
            cx,
            &Layout {
                template: plan.template,
                instance: &uuid,
                primary: &plan.primary,
                secondary: plan.secondary.as_ref(),
                disks: &plan.disks,
                file_dir: plan.file_dir.as_deref(),
                file_driver: &plan.file_driver,
                first: 0,
                group: group.map(|group| &**group),
            },
        )?,
    };
    if op.forthcoming {
        cx.log("Instance is forthcoming, not creating disks");
    } else {
        make_disks(cx, plan, &uuid, &made).await?;
    }
    let lasting = lasting(cx, plan).await;
    cx.log(&format!("adding instance {} to cluster config", plan.name));
    cx.log("adding disks to cluster config");
    cx.commit(|draft| {
        if plan.commit.is_none() {
            naming::check_new_name(draft, &plan.name)?;
        }
        let mut instance = plan.instance(&uuid, port);
        instance.meta = Meta::new(uuid.clone(), draft.now());
        // Ganeti: each disk that is added counts as a change (3.0, `AddInstanceDisk`).
        instance.meta.serial_no += made.len() as u64;
        instance.forthcoming = op.forthcoming;
        instance.hvparams.extend(lasting);
        instance.disks = made.iter().map(|disk| disk.meta.uuid.clone()).collect();
        for disk in &made {
            draft.put_disk(disk.clone(), None);
            if disk.dev_type == DiskTemplate::Drbd
                && let Some(port) = disk.logical_id.get(2).and_then(Value::as_u64)
            {
                layout::use_port(draft, u16::try_from(port).unwrap_or_default());
            }
        }
        if let Some(port) = port {
            layout::use_port(draft, port);
        }
        nics::use_addresses(draft, &instance.nics);
        draft.put_instance(instance);
        draft.touch_cluster();
        Ok(())
    })
    .await?;
    crate::lu::instance::again(cx, &uuid)
}

/// What the instance is to keep of the machine that it would get now, whatever the node's programs become.
async fn lasting(cx: &Cx, plan: &Plan) -> Dict {
    match cx.node(&plan.primary).await {
        Ok(node) => node.lasting_hvparams(plan.hypervisor, &plan.hv_full).await,
        // It gets what there is at its first start.
        Err(_) => Dict::new(),
    }
}

/// Makes the disks on all nodes that hold them; what was made is removed again when one fails.
pub(super) async fn make_disks(cx: &Cx, plan: &Plan, uuid: &Uuid, made: &[Disk]) -> Result<()> {
    if !plan.adopt {
        cx.log("* creating instance disks...");
    }
    let config = cx.config();
    let mut told = told(plan, &config, made);
    told.uuid = uuid.clone();
    let instance = plan.instance(uuid, None);
    let created =
        disks::create(cx, &told, &instance, made, plan.adopt.then_some(&plan.disks[..])).await;
    if created.is_err() && !plan.adopt {
        cx.warn("Device creation failed");
    }
    created
}

pub(super) async fn wait_for_disks(op: &InstanceCreate, cx: &Cx, uuid: &Uuid) -> Result<()> {
    let instance = crate::lu::instance::again(cx, uuid)?;
    let mirrored =
        crate::lu::instance::disk_template(&cx.config(), &instance) == DiskTemplate::Drbd;
    let in_sync = if op.wait_for_sync {
        disks::wait_for_sync(cx, &instance, None, false).await?
    } else if mirrored {
        cx.log("* checking mirrors status");
        disks::wait_for_sync(cx, &instance, None, true).await?
    } else {
        true
    };
    if in_sync { Ok(()) } else { give_up(cx, uuid).await.map(|_: Value| ()) }
}

/// Removes an instance whose disks are no good.
pub(super) async fn give_up(cx: &Cx, uuid: &Uuid) -> Result<Value> {
    disks::remove_instance(cx, uuid, true).await?;
    Err(GanetiError::exec("There are some degraded disks for this instance"))
}

/// Fills the disks: by the scripts of the operating system, from an export, or from another cluster.
pub(super) async fn install(op: &InstanceCreate, cx: &Cx, plan: &Plan, uuid: &Uuid) -> Result<()> {
    let instance = crate::lu::instance::again(cx, uuid)?;
    let node =
        cx.node(&plan.primary).await.map_err(|error| GanetiError::exec(error.to_string()))?;
    if !instance.os.is_empty() {
        let known = node.list_os().await.map_err(|error| {
            GanetiError::exec(format!("Failed to get OS '{}': {error}", instance.os))
        })?;
        let wanted = params::os::base_name(&instance.os);
        if !known.iter().any(|os| os.name == wanted) {
            return Err(GanetiError::prereq_plain(format!(
                "OS '{}' is not available in node '{}'",
                instance.os, instance.primary_node
            )));
        }
    }
    if instance.disks.is_empty() || plan.adopt {
        return Ok(());
    }
    if op.mode == CreateMode::RemoteImport {
        return remote::receive(cx, op, &instance, &plan.os_params).await;
    }
    if let Some(source) = &plan.source {
        return source.run(cx, &instance, &plan.os_params).await;
    }
    let imaged = plan.osparams.contains_key("os-image");
    if instance.os.is_empty() || op.no_install == Some(true) || imaged {
        return Ok(());
    }
    cx.log("* running the instance OS create scripts...");
    // Ganeti: they are up from their creation on, and known to be once the instance is started (3.0, instance_create.py).
    let all: Vec<usize> = (0..instance.disks.len()).collect();
    disks::assemble(cx, uuid, Some(&all), false).await?;
    let told = spec_of(cx, &instance);
    let answer = node.create_os(&told, false, &plan.os_params, cx.script_output()).await;
    answer.map_err(|error| {
        GanetiError::exec(format!(
            "Could not add os for instance {} on node {}: {error}",
            instance.name,
            cx.config().node_name(&plan.primary)
        ))
    })
}

pub(super) async fn power_on(cx: &Cx, uuid: &Uuid) -> Result<()> {
    mark(cx, uuid, AdminState::Up, AdminStateSource::Admin).await?;
    cx.log("* starting instance...");
    disks::assemble(cx, uuid, None, false).await?;
    let instance = crate::lu::instance::again(cx, uuid)?;
    let told = spec_of(cx, &instance);
    let started = match cx.node(&instance.primary_node).await {
        Ok(node) => node.start_instance(&told, false).await,
        Err(error) => Err(error),
    };
    started.map_err(|error| GanetiError::exec(format!("Could not start instance: {error}")))
}

/// What nodes are told of the instance while it is being made.
fn told(plan: &Plan, config: &Config, disks: &[Disk]) -> InstanceSpec {
    let instance = plan.instance(&Uuid::default(), None);
    let name = |uuid: &Uuid| config.node_name(uuid).to_owned();
    InstanceSpec {
        name: plan.name.clone(),
        uuid: Uuid::default(),
        ctime: 0.0,
        mtime: 0.0,
        tags: plan.tags.clone(),
        primary_node: name(&plan.primary),
        secondary_nodes: plan.secondary.iter().map(name).collect(),
        os: plan.os.clone(),
        hypervisor: plan.hypervisor,
        hvparams: plan.hv_full.clone(),
        beparams: plan.be_full.clone(),
        osparams: params::os::fill(&config.cluster, &plan.os, &plan.osparams),
        nics: plan.nics.iter().map(|nic| crate::spec::nic(config, nic)).collect(),
        disks: disks.iter().map(|disk| crate::spec::disk(config, &instance, disk)).collect(),
        network_port: None,
    }
}
