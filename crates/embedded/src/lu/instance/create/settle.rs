//! What a creation will do, settled from the configuration and what nodes say.

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{Dict, DiskTemplate, FileDriver, Hypervisor, NicSpec, NonEmpty, Private};
use model::params;
use node::NodeError;
use placement::picture::Request;
use serde_json::{Value, json};

use super::allocation::{allocation, full_beparams};
use super::arguments::{adopts, allocator, shown, template};
use super::{Plan, lock_nodes, planned_disk, secrets};
use crate::allocate;
use crate::config::Placement;
use crate::lu::instance::{checks, import, layout, naming, nics, os_params};
use crate::lu::{Cx, Locks, expand, tags};

/// Where devices that are taken over must lie.
const ADOPTABLE_ROOT: &str = "/dev/disk/";

/// Everything that can be said before nodes are looked at.
pub(super) async fn settle(
    op: &mut InstanceCreate,
    cx: &Cx,
    config: &Config,
    commit: Option<Arc<Instance>>,
    file_dir: Option<String>,
    source: Option<import::Source>,
) -> Result<Plan> {
    let cluster = &config.cluster;
    let template = template(op);
    if cluster.volume_group_name.is_none() && layout::LVM.contains(&template) {
        return Err(GanetiError::wrong_state("Cluster does not support lvm-based instances"));
    }
    let hypervisor = match op.hypervisor {
        Some(hypervisor) => hypervisor,
        None => *cluster.enabled_hypervisors.first().unwrap_or(&Hypervisor::Fake),
    };
    if !cluster.enabled_hypervisors.contains(&hypervisor) {
        let enabled: Vec<&str> = cluster.enabled_hypervisors.iter().map(|hv| hv.as_str()).collect();
        return Err(GanetiError::wrong_state(format!(
            "Selected hypervisor ({hypervisor}) not enabled in the cluster ({})",
            enabled.join(",")
        )));
    }
    op.hypervisor = Some(hypervisor);
    cx.show(shown(op));
    for tag in &op.tags {
        tags::check_tag(tag)?;
    }
    let os = op.os_type.as_deref().unwrap_or_default().to_owned();
    params::hv::force(&mut op.hvparams, cx.compat(), false)?;
    let hv_full = params::hv::fill(cluster, hypervisor, &os, &op.hvparams, cx.compat());
    params::hv::check_syntax(hypervisor, &hv_full, cx.compat())?;
    params::hv::check_instance_level(&op.hvparams, cx.compat())?;
    let be_full = full_beparams(config, &mut op.beparams);
    cx.show(shown(op));
    let be_full = be_full?;
    let private = op.osparams_private.get_or_insert_default().0.clone();
    op.osparams_secret.get_or_insert_default();
    cx.show(shown(op));
    let os_params = os_params(cx, &os, &op.osparams, &private, &secrets(op))?;
    let mut private = private;
    if op.identify_defaults {
        revert_to_defaults(op, cx, config, hypervisor, &os, &mut private);
    }
    let needs_ip = op.nics.iter().any(|nic| {
        nic.get("ip").and_then(Value::as_str).is_some_and(|ip| ip.eq_ignore_ascii_case("auto"))
    });
    let host = match op.name_check && (op.ip_check || needs_ip) {
        true => Some(cx.names().resolve(&op.instance_name).await?),
        false => None,
    };
    let name_ip = host.as_ref().map(|host| host.ip.to_string());
    let mut made_nics = nics::compute(cx, &op.nics, name_ip.as_deref())?;
    let specs: Vec<Dict> = op.disks.iter().map(|disk| disk.0.clone()).collect();
    let new_disks = layout::compute(&specs, template, cluster.volume_group_name.as_deref())?;
    if let Some(source) = &source {
        source.keep_macs(&op.instance_name, &mut made_nics);
    }
    if let Some(host) = host.filter(|_| op.ip_check) {
        naming::check_unused(cx, &host, &op.instance_name).await?;
    }
    for nic in &mut made_nics {
        if ["auto", "generate"].contains(&nic.mac.as_str()) {
            nic.mac = nics::reserve_mac(cx, None, nic.network.as_ref())?;
        }
    }
    Ok(Plan {
        name: op.instance_name.clone(),
        primary: Uuid::default(),
        secondary: None,
        template,
        file_dir,
        file_driver: op.file_driver.unwrap_or(FileDriver::Loop).as_str().to_owned(),
        disks: new_disks,
        adopt: adopts(op),
        nics: made_nics,
        hypervisor,
        hvparams: op.hvparams.clone(),
        hv_full,
        beparams: op.beparams.clone(),
        be_full,
        os,
        osparams: op.osparams.clone(),
        osparams_private: private,
        os_params,
        tags: op.tags.iter().map(|tag| tag.to_string()).collect(),
        start: op.start,
        commit,
        source,
    })
}

/// Takes out what equals the defaults (`identify_defaults`).
pub(super) fn revert_to_defaults(
    op: &mut InstanceCreate,
    cx: &Cx,
    config: &Config,
    hypervisor: Hypervisor,
    os: &str,
    private: &mut Dict,
) {
    let cluster = &config.cluster;
    let none = Dict::new();
    let revert = |own: &mut Dict, defaults: &Dict| {
        own.retain(|name, value| defaults.get(name) != Some(value));
    };
    revert(&mut op.hvparams, &params::hv::fill(cluster, hypervisor, os, &none, cx.compat()));
    revert(&mut op.beparams, &params::be::fill(cluster, &none));
    let nic_defaults = params::nic::fill(cluster, &none);
    for NicSpec(nic) in &mut op.nics {
        revert(nic, &nic_defaults);
    }
    revert(&mut op.osparams, &params::os::fill(cluster, os, &none));
    revert(private, &params::os::fill_private(cluster, os, &none));
    op.osparams_private = Some(Private(private.clone()));
}

/// Chooses the nodes and checks them.
pub(super) async fn check_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    mut plan: Plan,
) -> Result<Plan> {
    let chosen = choose_nodes(op, cx, config, &plan).await?;
    plan.primary = chosen.first().cloned().unwrap_or_default();
    plan.secondary = chosen.get(1).cloned().filter(|_| plan.template == DiskTemplate::Drbd);
    let primary = config.nodes.get(&plan.primary).cloned().ok_or_else(|| {
        GanetiError::exec(format!("Cannot retrieve locked node {}", plan.primary))
    })?;
    if op.iallocator.is_some() {
        let name = |uuid: &Uuid| NonEmpty::new(config.node_name(uuid));
        let secondary = plan.secondary.as_ref();
        cx.show(InstanceCreate {
            pnode: name(&plan.primary),
            pnode_uuid: NonEmpty::new(plan.primary.as_str()),
            snode: secondary.and_then(name),
            snode_uuid: secondary.and_then(|uuid| NonEmpty::new(uuid.as_str())),
            ..shown(op)
        });
    }
    let refusals = [
        (primary.offline, "offline"),
        (primary.drained, "drained"),
        (!primary.vm_capable, "non-vm_capable"),
    ];
    if let Some((_, what)) = refusals.iter().find(|(refused, _)| *refused) {
        let text = format!("Cannot use {what} primary node '{}'", primary.name);
        return Err(GanetiError::wrong_state(text));
    }
    nics::settle(cx, &mut plan.nics, &plan.primary, op.conflicts_check)?;
    if let Some(secondary) = &plan.secondary {
        if *secondary == plan.primary {
            return Err(GanetiError::wrong_input("The secondary node cannot be the primary node"));
        }
        checks::node_online(config, secondary)?;
        checks::node_not_drained(config, secondary)?;
        checks::node_vm_capable(config, secondary)?;
        if config.nodes.get(secondary).is_some_and(|node| node.group != primary.group) {
            cx.warn(
                "The primary and secondary nodes are in two different node groups; the disk parameters from the first \
                 disk's node group will be used",
            );
        }
    }
    let nodes: Vec<Uuid> =
        std::iter::once(plan.primary.clone()).chain(plan.secondary.clone()).collect();
    check_storage(cx, config, &mut plan, &nodes).await?;
    check_policy(op, config, &plan)?;
    check_on_nodes(op, cx, config, &plan, &nodes).await?;
    if op.start {
        let reason = format!("creating instance {}", plan.name);
        let wanted = params::be::number(&plan.be_full, "maxmem");
        checks::free_memory(cx, &plan.primary, &reason, wanted)?;
    }
    Ok(plan)
}

/// The nodes named, those of the forthcoming instance, or an allocator's choice. The choice is made in turn with those of
/// other jobs, and set aside at once.
pub(super) async fn choose_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    plan: &Plan,
) -> Result<Vec<Uuid>> {
    if let Some(instance) = &plan.commit {
        let nodes = crate::lu::instance::nodes_of(config, instance);
        if op.iallocator.is_some() {
            let names: Vec<String> =
                nodes.iter().map(|uuid| model::python::repr_str(config.node_name(uuid))).collect();
            cx.info(&format!("Nodes of instance {}: [{}]", instance.name, names.join(", ")));
        }
        return Ok(nodes);
    }
    let Some(allocator) = allocator(op) else {
        let mut nodes = Vec::new();
        for (name, uuid) in [(&op.pnode, &op.pnode_uuid), (&op.snode, &op.snode_uuid)] {
            if let Some(name) = name {
                nodes.push(expand::node(config, name, uuid.as_deref())?.meta.uuid.clone());
            }
        }
        return Ok(nodes);
    };
    let turn = cx.allocation_turn().await;
    let request = Request::Allocate(allocation(op, plan));
    let reply = allocate::ask(cx, allocator, &request).await?;
    if reply.result.is_none() && op.opportunistic_locking {
        cx.info(&format!(
            "IAllocator '{allocator}' failed on opportunistically acquired nodes: {}",
            reply.info
        ));
    }
    let nodes = allocate::nodes_found(config, allocator, reply)?;
    let total: u64 = plan.disks.iter().map(|disk| disk.size_mib).sum();
    let placement = Placement {
        nodes: nodes.clone(),
        memory_mib: params::be::number(&plan.be_full, "maxmem"),
        disk_mib: if layout::LVM.contains(&plan.template) { total } else { 0 },
        vcpus: params::be::number(&plan.be_full, "vcpus"),
        spindle_use: params::be::number(&plan.be_full, "spindle_use"),
    };
    let job = cx.job_id();
    cx.config_store().reserve(|_, reservations| {
        reservations.of(job).placements.insert(plan.name.clone(), placement);
        Ok(())
    })?;
    drop(turn);
    let names: Vec<&str> = nodes.iter().map(|uuid| config.node_name(uuid)).collect();
    cx.info(&format!(
        "Selected nodes for instance {} via iallocator {allocator}: {}",
        plan.name,
        names.join(", ")
    ));
    // The groups come before the nodes in the order of levels, and nothing above the instance is held yet.
    cx.port().acquire(&lock_nodes(config, Locks::none(), &nodes)).await?;
    Ok(nodes)
}

pub(super) async fn check_storage(
    cx: &Cx,
    config: &Config,
    plan: &mut Plan,
    nodes: &[Uuid],
) -> Result<()> {
    let exclusive = nodes.iter().any(|uuid| checks::exclusive_storage(config, uuid));
    if exclusive && !matches!(plan.template, DiskTemplate::Plain | DiskTemplate::Diskless) {
        return Err(GanetiError::wrong_state(format!(
            "Disk template {} not supported with exclusive storage",
            plan.template
        )));
    }
    for disk in &plan.disks {
        checks::check_spindles(disk.spindles.is_some(), exclusive)?;
    }
    if plan.adopt {
        check_adoption(cx, plan).await?;
    } else if layout::LVM.contains(&plan.template) {
        let group = config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group));
        let defaults = params::disk::fill_template(
            &config.cluster,
            group.map(|group| &**group),
            DiskTemplate::Drbd,
        );
        let metavg = defaults.get("metavg").and_then(Value::as_str).unwrap_or_default().to_owned();
        let sizes = layout::size_per_vg(plan.template, &plan.disks, &metavg);
        checks::free_space(cx, nodes, &sizes)?;
    }
    Ok(())
}

pub(super) async fn check_adoption(cx: &Cx, plan: &mut Plan) -> Result<()> {
    let adopted: Vec<String> = plan
        .disks
        .iter()
        .map(|disk| {
            let name = disk.adopt.clone().unwrap_or_default();
            match plan.template {
                DiskTemplate::Plain => {
                    format!("{}/{name}", disk.vg.clone().unwrap_or_default())
                }
                _ => name,
            }
        })
        .collect();
    let mut unique = adopted.clone();
    unique.sort();
    unique.dedup();
    let is_plain = plan.template == DiskTemplate::Plain;
    if unique.len() != adopted.len() {
        let what = if is_plain { "volume" } else { "disk" };
        let text = format!("Duplicate {what} names given for adoption");
        return Err(GanetiError::wrong_input(text));
    }
    if !is_plain {
        let outside: Vec<String> =
            unique.iter().filter(|path| !path.starts_with(ADOPTABLE_ROOT)).cloned().collect();
        if !outside.is_empty() {
            return Err(GanetiError::wrong_input(format!(
                "Device node(s) {} lie outside {ADOPTABLE_ROOT} and cannot be adopted",
                outside.join(", ")
            )));
        }
    }
    let config = cx.config();
    let used = |name: &String| {
        is_plain
            && config.disks.values().any(|disk| {
                let id =
                    |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
                disk.dev_type == DiskTemplate::Plain && format!("{}/{}", id(0), id(1)) == *name
            })
    };
    if let Some(name) = unique.iter().find(|name| used(name)) {
        return Err(GanetiError::prereq(
            format!("LV named {name} used by another instance"),
            ErrorCode::ResourceNotUnique,
        ));
    }
    let node = cx.node(&plan.primary).await.map_err(|error| environment(&error))?;
    let mut missing = Vec::new();
    for disk in &mut plan.disks {
        let mut probe = planned_disk(plan.template, disk);
        let adopt = json!(disk.adopt);
        probe.logical_id =
            if is_plain { vec![json!(disk.vg), adopt] } else { vec![json!("manual"), adopt] };
        match node.disk_size(&probe).await.map_err(|error| environment(&error))? {
            Some(size_mib) => disk.size_mib = size_mib,
            None => missing.push(disk.adopt.clone().unwrap_or_default()),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = if is_plain { "logical volume(s)" } else { "block device(s)" };
    Err(GanetiError::wrong_input(format!("Missing {what}: {}", missing.join(", "))))
}

pub(super) fn check_policy(op: &InstanceCreate, config: &Config, plan: &Plan) -> Result<()> {
    let Some(group) =
        config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group))
    else {
        return Ok(());
    };
    let policy = params::ipolicy::fill(&config.cluster, group);
    let number = |name: &str| Some(params::be::number(&plan.be_full, name));
    let spec = params::ipolicy::Spec {
        memory_mib: number("maxmem"),
        cpus: number("vcpus"),
        nics: Some(plan.nics.len() as u64),
        spindle_use: number("spindle_use"),
        disk_sizes_mib: plan.disks.iter().map(|disk| disk.size_mib).collect(),
        disk_types: plan.disks.iter().map(|_| plan.template).collect(),
    };
    let violations = params::ipolicy::violations(&policy, &spec);
    if op.ignore_ipolicy || violations.is_empty() {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "Instance allocation to group {} ({}) violates policy: {}",
        group.meta.uuid,
        group.name,
        violations.join(", ")
    )))
}

/// What the nodes themselves say: hypervisor and OS parameters.
pub(super) async fn check_on_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    plan: &Plan,
    nodes: &[Uuid],
) -> Result<()> {
    checks::hvparams(cx, nodes, plan.hypervisor, &plan.hv_full).await?;
    checks::osparams(cx, nodes, &plan.os, &plan.os_params, op.force_variant).await?;
    checks::nic_bridges(cx, &plan.primary, &plan.nics).await?;
    checks::compression(config, &op.compress)
}

pub(super) fn environment(error: &NodeError) -> GanetiError {
    GanetiError::prereq(error.to_string(), ErrorCode::EnvironmentError)
}
