//! `OP_INSTANCE_SET_PARAMS`: everything about an instance that can be changed in place (Ganeti 3.0,
//! `cmdlib/instance_set_params.py`). NICs, disks and the change of the disk template have files of their own; this one holds
//! the parameters and the order of things.

mod changes;
mod convert;
mod disk_changes;
mod nic_changes;

use std::sync::Arc;

use model::compat::Compat;
use model::config::{Config, Instance, Nic};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceSetParams;
use model::param::{AdminState, AdminStateSource, Dict, DiskTemplate, FileDriver, ItemChange};
use model::{params, python};
use node::{Device, Hotplug, OsParams};
use serde_json::{Value, json};

use super::{checks, disk_template, find, hook_env, mark, nodes_of, spec_of};
use crate::lu::instance::layout;
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};

/// Entries of the job's result, in the order of the work.
type Done = Vec<Value>;

/// What the checks found out.
pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// Warnings that are told when the work begins.
    warnings: Vec<String>,
    /// Whether changes of devices reach the running instance.
    hotplug: bool,
    disks: Vec<ItemChange>,
    conversion: Option<convert::Conversion>,
    nics: Option<nic_changes::Planned>,
    /// The overrides as they will be; `None` where nothing changes.
    hvparams: Option<Dict>,
    beparams: Option<Dict>,
    osparams: Option<Dict>,
    osparams_private: Option<Dict>,
    /// What the filled backend parameters will be, for hooks.
    be_new: Dict,
}

impl LogicalUnit for InstanceSetParams {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        let private = self.osparams_private.as_ref().is_some_and(|private| !private.is_empty());
        let anything = !self.nics.is_empty()
            || !self.disks.is_empty()
            || self.disk_template.is_some()
            || !self.hvparams.is_empty()
            || !self.beparams.is_empty()
            || self.os_name.is_some()
            || !self.osparams.is_empty()
            || private
            || self.offline.is_some()
            || self.runtime_mem.is_some()
            || self.pnode.is_some()
            || self.instance_communication.is_some();
        if !anything {
            return Err(GanetiError::wrong_input("No changes submitted"));
        }
        params::hv::check_instance_level(&self.hvparams, cx.compat())?;
        changes::check_legacy("disk", &self.disks)?;
        changes::check_legacy("NIC", &self.nics)?;
        if let Some(template) = self.disk_template {
            if !self.disks.is_empty() {
                return Err(GanetiError::wrong_input(
                    "Disk template conversion and other disk changes not supported at the same time",
                ));
            }
            if template == DiskTemplate::Drbd {
                self.iallocator = checks::iallocator_or_node(
                    cx,
                    self.iallocator.clone(),
                    self.remote_node.is_some(),
                )?;
            } else if self.remote_node.take().is_some() {
                cx.warn(
                    "Changing the disk template to a non-mirrored one, the secondary node will be ignored",
                );
            }
        }
        for change in self.nics.0.iter_mut().chain(&mut self.disks.0) {
            change.legacy = false;
        }
        let file_based = self.disk_template.is_some_and(|to| layout::FILE_BASED.contains(&to));
        if self.file_driver.is_none() && file_based {
            self.file_driver = Some(FileDriver::Loop);
        }
        // Ganeti: the new primary is looked up before the instance is (3.0, `CheckArguments`).
        if let Some(name) = &self.pnode {
            expand::node(&cx.config(), name, self.pnode_uuid.as_deref())?;
        }
        for change in &mut self.nics.0 {
            changes::check_empty("NIC", change)?;
            nic_changes::check(change)?;
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance =
            expand::instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let mut locks = Locks::new().exclusive(Level::Instance, &instance.name);
        let mut nodes = nodes_of(config, instance);
        if self.disk_template.is_some()
            && let Some(name) = &self.remote_node
        {
            nodes.push(
                expand::node(config, name, self.remote_node_uuid.as_deref())?.meta.uuid.clone(),
            );
        } else if self.disk_template == Some(DiskTemplate::Drbd) {
            // The secondary is yet to be chosen: among the primary's group.
            let group = config.nodes.get(&instance.primary_node).map(|node| node.group.clone());
            let members = group.iter().flat_map(|group| config.members(group));
            nodes.extend(members.map(|node| node.meta.uuid.clone()));
        }
        for uuid in &nodes {
            locks = locks.exclusive(Level::Node, uuid);
            if self.disk_template.is_some() {
                locks = locks.exclusive(Level::NodeRes, uuid);
            }
            if let Some(node) = config.nodes.get(uuid) {
                locks = locks.shared(Level::NodeGroup, &node.group);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let mut disk_mods = disk_changes::look_up(&config, &instance, &self.disks)?;
        let mut told = self.clone();
        check_primary(self, cx, &config, &instance)?;
        let hotplug = check_hotplug(self, cx, &instance).await?;
        let conversion = match self.disk_template {
            Some(template) => Some(convert::check(cx, self, &instance, template).await?),
            None => None,
        };
        let checked = disk_changes::check(cx, self, &instance, &mut disk_mods, hotplug);
        told.disks.0 = disk_changes::shown(&config, &instance, &disk_mods);
        cx.show(told.clone());
        checked?;
        check_offline(self, cx, &instance)?;
        let nodes = nodes_of(&config, &instance);
        let mut plan = Plan {
            hotplug,
            disks: disk_mods,
            conversion,
            nics: None,
            hvparams: None,
            beparams: None,
            osparams: None,
            osparams_private: None,
            be_new: params::be::fill(&config.cluster, &instance.beparams),
            warnings: Vec::new(),
            instance,
        };
        let be_old = plan.be_new.clone();
        let hv_proposed = plan_hvparams(self, cx, &config, &mut plan, &nodes).await?;
        plan_beparams(self, &config, &mut plan)?;
        check_cpus(self, cx, &config, &plan, &hv_proposed)?;
        plan_osparams(self, cx, &mut plan, &nodes).await?;
        check_memory(self, cx, &config, &mut plan, &be_old)?;
        let communication = communication_change(self, &config, &plan.instance);
        // Made-up and reserved addresses take the place of the words that asked for them, unless a bridge is missing.
        let nics = &mut told.nics.0;
        let planned = nic_changes::plan(cx, self, &plan.instance, communication, nics);
        if planned.is_err() && told.nics != self.nics {
            cx.show(told.clone());
        }
        plan.nics = planned?;
        check_bridges(self, cx, &mut plan).await?;
        if told.nics != self.nics {
            cx.show(told.clone());
        }
        check_policy(self, &config, &plan)?;
        let on_files = layout::FILE_BASED.contains(&disk_template(&config, &plan.instance));
        if told.file_driver.is_none() && on_files && plan.disks.iter().any(|c| c.action == "add") {
            told.file_driver = Some(FileDriver::Loop);
            cx.show(told);
        }
        Ok(plan)
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let mut own = Vec::new();
        if let Some(template) = self.disk_template {
            own.push(("NEW_DISK_TEMPLATE", json!(template.as_str())));
        }
        if let Some(memory) = self.runtime_mem {
            own.push(("RUNTIME_MEMORY", json!(memory.get())));
        }
        for (variable, name) in [
            ("INSTANCE_MINMEM", "minmem"),
            ("INSTANCE_MAXMEM", "maxmem"),
            ("INSTANCE_MEMORY", "maxmem"),
            ("INSTANCE_VCPUS", "vcpus"),
        ] {
            own.push((variable, plan.be_new.get(name).cloned().unwrap_or_default()));
        }
        Some(hook_env::hooks(cx, &plan.instance, &own))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        for warning in &plan.warnings {
            cx.log(&format!("WARNING: {warning}"));
        }
        let uuid = plan.instance.meta.uuid.clone();
        let mut done = Done::new();
        if let Some(name) = &self.pnode {
            let node =
                expand::node(&cx.config(), name, self.pnode_uuid.as_deref())?.meta.uuid.clone();
            cx.commit(|draft| {
                draft.edit_instance(&uuid, |instance| instance.primary_node = node);
                Ok(())
            })
            .await?;
        }
        if let Some(memory) = self.runtime_mem {
            balloon(cx, &plan.instance, memory.get()).await?;
            done.push(json!(["runtime_memory", memory.get()]));
        }
        disk_changes::apply(cx, self, &plan, &mut done).await?;
        if let Some(conversion) = &plan.conversion {
            convert::run(cx, self, &plan.instance, conversion).await?;
            done.push(json!(["disk_template", conversion.template.as_str()]));
        }
        if let Some(nics) = &plan.nics {
            plug_nics(cx, &plan, nics, &mut done).await?;
        }
        note_params(self, &mut done);
        write(self, cx, &uuid, &plan).await?;
        if let Some(offline) = self.offline {
            let state = if offline { AdminState::Offline } else { AdminState::Down };
            mark(cx, &uuid, state, AdminStateSource::Admin).await?;
            done.push(json!(["admin_state", state.as_str()]));
        }
        Ok(Value::Array(done))
    }
}

/// Refuses another primary while the instance runs.
fn check_primary(
    op: &InstanceSetParams,
    cx: &Cx,
    config: &Config,
    instance: &Instance,
) -> Result<()> {
    let Some(name) = &op.pnode else { return Ok(()) };
    let node = expand::node(config, name, op.pnode_uuid.as_deref())?;
    if node.meta.uuid == instance.primary_node || op.force {
        return Ok(());
    }
    if checks::running(cx, instance)?.is_some() {
        let primary = config.node_name(&instance.primary_node);
        return Err(GanetiError::wrong_state(format!("Instance is still running on {primary}")));
    }
    Ok(())
}

/// Whether devices are changed in the running instance. In 3.0 who asks for it is refused where it is not possible; since 3.1
/// it is tried by default, and what cannot be done takes effect at the next start.
async fn check_hotplug(op: &InstanceSetParams, cx: &Cx, instance: &Instance) -> Result<bool> {
    if !op.hotplug && !op.hotplug_if_possible {
        return Ok(false);
    }
    let by_default = cx.compat() != Compat::V30;
    if by_default
        && (op.nics.is_empty() && op.disks.is_empty() || checks::running(cx, instance)?.is_none())
    {
        return Ok(false);
    }
    let told = spec_of(cx, instance);
    let answer = match cx.node(&instance.primary_node).await {
        Ok(node) => node.can_hotplug(&told).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(()) => Ok(true),
        Err(error) if op.hotplug && !by_default => {
            Err(GanetiError::wrong_state(format!("Hotplug is not possible: {error}")))
        }
        Err(error) => {
            cx.warn(&error.to_string());
            cx.info("Modification will take place without hotplugging.");
            Ok(false)
        }
    }
}

/// Refuses, or with `force` warns of, NICs on bridges that the primary does not have.
async fn check_bridges(op: &InstanceSetParams, cx: &Cx, plan: &mut Plan) -> Result<()> {
    let primary = &plan.instance.primary_node;
    let steps = plan.nics.iter().flat_map(|nics| &nics.steps);
    for step in steps.filter(|step| matches!(step.action, Hotplug::Add | Hotplug::Modify)) {
        let Some(bridge) = checks::bridge(&step.nic.nicparams) else { continue };
        if let Err(text) = checks::missing_bridges(cx, primary, &[bridge]).await {
            let name = cx.config().node_name(primary).to_owned();
            let text = format!("Error checking bridges on node '{name}': {text}");
            if !op.force {
                return Err(GanetiError::prereq(text, ErrorCode::EnvironmentError));
            }
            plan.warnings.push(text);
        }
    }
    Ok(())
}

fn check_offline(op: &InstanceSetParams, cx: &Cx, instance: &Instance) -> Result<()> {
    let Some(offline) = op.offline else { return Ok(()) };
    let message = if offline {
        "can't change to offline without being down first"
    } else {
        "can't change to online (down) without being offline first"
    };
    checks::state(cx, instance, checks::NOT_RUNNING, Some(message))
}

async fn plan_hvparams(
    op: &InstanceSetParams,
    cx: &Cx,
    config: &Config,
    plan: &mut Plan,
    nodes: &[Uuid],
) -> Result<Dict> {
    let instance = &plan.instance;
    let fill = |own: &Dict| {
        params::hv::fill(&config.cluster, instance.hypervisor, &instance.os, own, cx.compat())
    };
    if op.hvparams.is_empty() {
        return Ok(fill(&instance.hvparams));
    }
    let mut own = params::updated(&instance.hvparams, &op.hvparams, true, false);
    params::hv::force(&mut own, cx.compat(), false)?;
    let filled = fill(&own);
    params::hv::check_syntax(instance.hypervisor, &filled, cx.compat())?;
    checks::hvparams(cx, nodes, instance.hypervisor, &filled).await?;
    plan.hvparams = Some(own);
    Ok(filled)
}

fn plan_beparams(op: &InstanceSetParams, config: &Config, plan: &mut Plan) -> Result<()> {
    if op.beparams.is_empty() {
        return Ok(());
    }
    let mut own = params::updated(&plan.instance.beparams, &op.beparams, true, true);
    params::be::upgrade(&mut own);
    params::be::force(&mut own, false)?;
    plan.be_new = params::be::fill(&config.cluster, &own);
    plan.beparams = Some(own);
    Ok(())
}

/// The largest CPU number of a mask, and how many virtual CPUs it names one by one (Ganeti 3.0, `ParseMultiCpuMask`).
fn parse_mask(mask: &str) -> (Option<u64>, usize) {
    let parts: Vec<&str> = mask.split(':').collect();
    let numbers =
        mask.split([':', ',', '-']).filter_map(|number| number.trim().parse::<u64>().ok());
    (numbers.max(), parts.len())
}

fn check_cpus(
    op: &InstanceSetParams,
    cx: &Cx,
    config: &Config,
    plan: &Plan,
    hv_proposed: &Dict,
) -> Result<()> {
    let Some(mask) = hv_proposed.get("cpu_mask").and_then(Value::as_str) else { return Ok(()) };
    let (largest, named) = parse_mask(mask);
    let vcpus = params::be::number(&plan.be_new, "vcpus");
    if named > 1 && named as u64 != vcpus {
        return Err(GanetiError::wrong_input(format!(
            "Number of vCPUs [{vcpus}] does not match the CPU mask [{mask}]"
        )));
    }
    let Some(largest) = largest.filter(|_| op.hvparams.contains_key("cpu_mask")) else {
        return Ok(());
    };
    for uuid in nodes_of(config, &plan.instance) {
        let Some(state) = cx.nodes().state(&uuid) else { continue };
        if largest + 1 > state.cpu_total {
            return Err(GanetiError::prereq(
                format!(
                    "Node {} has {} physical CPUs, but {} are required",
                    config.node_name(&uuid),
                    state.cpu_total,
                    largest + 1
                ),
                ErrorCode::InsufficientResources,
            ));
        }
    }
    Ok(())
}

async fn plan_osparams(
    op: &InstanceSetParams,
    cx: &Cx,
    plan: &mut Plan,
    nodes: &[Uuid],
) -> Result<()> {
    let public = op.osparams.clone();
    let private = op.osparams_private.clone().unwrap_or_default().0;
    if public.is_empty() && private.is_empty() {
        return Ok(());
    }
    let twice: Vec<&str> =
        public.keys().filter(|name| private.contains_key(*name)).map(String::as_str).collect();
    if !twice.is_empty() {
        return Err(GanetiError::prereq_plain(format!(
            "OS parameters repeated multiple times: {}",
            twice.join(", ")
        )));
    }
    let instance = &plan.instance;
    let os = match &op.os_name {
        Some(name) if !op.force => name.to_string(),
        _ => instance.os.clone(),
    };
    let own = params::updated(&instance.osparams, &public, true, false);
    let own_private = params::updated(&instance.osparams_private, &private, true, false);
    let filled = OsParams {
        values: params::fill(&own, &own_private),
        hidden: own_private.values().map(python::str).collect(),
        ..OsParams::default()
    };
    checks::osparams(cx, nodes, &os, &filled, op.force_variant).await?;
    plan.osparams = Some(own);
    plan.osparams_private = Some(own_private);
    Ok(())
}

/// Memory: what the change asks of the nodes, and what a running instance may be set to.
fn check_memory(
    op: &InstanceSetParams,
    cx: &Cx,
    config: &Config,
    plan: &mut Plan,
    be_old: &Dict,
) -> Result<()> {
    let maximum = params::be::number(&plan.be_new, "maxmem");
    let grows = maximum > params::be::number(be_old, "maxmem");
    let named = op.beparams.contains_key("maxmem") || op.beparams.contains_key("memory");
    if named && grows && !op.force {
        let primary = &plan.instance.primary_node;
        let reachable = cx.nodes().state(primary).filter(|state| state.reachable);
        match reachable {
            None => plan.warnings.push(format!(
                "Can't get info from primary node {}: the node does not answer",
                config.node_name(primary)
            )),
            Some(state) => {
                let used = state.instances.get(&plan.instance.name).map_or(0, |run| run.memory_mib);
                let missing = maximum.saturating_sub(used).saturating_sub(state.memory_free_mib);
                if missing > 0 {
                    return Err(GanetiError::prereq(
                        format!(
                            "This change will prevent the instance from starting, due to {missing} MB of memory missing on \
                             its primary node"
                        ),
                        ErrorCode::InsufficientResources,
                    ));
                }
            }
        }
        let balanced = plan.be_new.get("auto_balance").and_then(Value::as_bool).unwrap_or(true);
        for uuid in config.secondary_nodes(&plan.instance).into_iter().filter(|_| balanced) {
            let name = config.node_name(&uuid);
            let state =
                cx.nodes().state(&uuid).filter(|state| state.reachable).ok_or_else(|| {
                    let text = format!(
                        "Can't get info from secondary node {name}: the node does not answer"
                    );
                    GanetiError::wrong_state(text)
                })?;
            if maximum > state.memory_free_mib {
                return Err(GanetiError::wrong_state(format!(
                    "This change will prevent the instance from failover to its secondary node {name}, due to not enough \
                     memory"
                )));
            }
        }
    }
    let Some(wanted) = op.runtime_mem.map(std::num::NonZeroU64::get) else { return Ok(()) };
    let Some(run) = checks::running(cx, &plan.instance)? else {
        return Err(GanetiError::wrong_state(format!(
            "Instance {} is not running",
            plan.instance.name
        )));
    };
    let minimum = params::be::number(&plan.be_new, "minmem");
    if !op.force && !(minimum..=maximum).contains(&wanted) {
        return Err(GanetiError::wrong_input(format!(
            "Instance {} must have memory between {minimum} and {maximum} MB of memory unless --force is given",
            plan.instance.name
        )));
    }
    if wanted > run.memory_mib {
        let reason = format!("ballooning memory for instance {}", plan.instance.name);
        checks::free_memory(cx, &plan.instance.primary_node, &reason, wanted - run.memory_mib)?;
    }
    Ok(())
}

/// The NIC on the communication network comes or goes.
fn communication_change(
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
) -> Option<ItemChange> {
    let wanted = op.instance_communication?;
    let name = format!("ganeti:communication:{}", instance.name);
    let there = instance.nics.iter().any(|nic| nic.name.as_deref() == Some(&name));
    let (action, members) = match (wanted, there) {
        (true, false) => (
            "add",
            json!({
                "name": name, "mac": "generate", "ip": "pool",
                "network": config.cluster.instance_communication_network,
            }),
        ),
        (false, true) => ("remove", json!({})),
        _ => return None,
    };
    Some(ItemChange {
        action: action.to_owned(),
        identifier: if action == "add" { json!(-1) } else { json!(name) },
        params: members.as_object().cloned().unwrap_or_default(),
        legacy: false,
    })
}

/// Holds the instance as it will be against the policy of its group, with most and with least memory.
fn check_policy(op: &InstanceSetParams, config: &Config, plan: &Plan) -> Result<()> {
    let instance = &plan.instance;
    let node = config.nodes.get(&instance.primary_node);
    let Some(group) = node.and_then(|node| config.groups.get(&node.group)) else { return Ok(()) };
    if op.ignore_ipolicy {
        return Ok(());
    }
    let policy = params::ipolicy::fill(&config.cluster, group);
    let old = config.instance_disks(instance);
    let added = plan.disks.iter().filter(|change| change.action == "add");
    let mut sizes: Vec<u64> = old.iter().map(|disk| disk.size_mib).collect();
    sizes.extend(added.filter_map(|change| change.params.get("size").and_then(Value::as_u64)));
    let current = super::disk_template(config, instance);
    let types = match op.disk_template {
        Some(template) => vec![template; sizes.len()],
        None => {
            let mut types: Vec<DiskTemplate> = old.iter().map(|disk| disk.dev_type).collect();
            types.resize(sizes.len(), current);
            types
        }
    };
    // Ganeti: what the opcode does not touch is not looked at.
    let changed = plan.beparams.is_some();
    let number = |name: &str| changed.then(|| params::be::number(&plan.be_new, name));
    let nics = plan.nics.as_ref().map_or(instance.nics.len(), |planned| planned.nics.len());
    let with_memory = |name: &str| {
        let spec = params::ipolicy::Spec {
            memory_mib: number(name),
            cpus: number("vcpus"),
            nics: Some(nics as u64),
            spindle_use: number("spindle_use"),
            disk_sizes_mib: sizes.clone(),
            disk_types: types.clone(),
        };
        params::ipolicy::violations(&policy, &spec)
    };
    let mut found = with_memory("maxmem");
    found.extend(with_memory("minmem"));
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "Instance allocation to group {} ({}) violates policy: {}",
        group.meta.uuid,
        group.name,
        found.join(", ")
    )))
}

async fn balloon(cx: &Cx, instance: &Instance, memory_mib: u64) -> Result<()> {
    let told = spec_of(cx, instance);
    let answer = match cx.node(&instance.primary_node).await {
        Ok(node) => node.balloon_instance(&told, memory_mib).await,
        Err(error) => Err(error),
    };
    answer.map_err(|error| {
        GanetiError::exec(format!("Cannot modify instance runtime memory: {error}"))
    })
}

/// Tries to change a device of the running instance; answers what is noted of it (Ganeti 3.0, `_HotplugDevice`).
async fn plug(
    cx: &Cx,
    instance: &Instance,
    action: Hotplug,
    device: &Device,
    index: usize,
) -> &'static str {
    cx.info("Trying to hotplug device...");
    let told = spec_of(cx, instance);
    let answer = match cx.node(&instance.primary_node).await {
        Ok(node) => node.hotplug(&told, action, device, index).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(()) => {
            cx.info("Hotplug done.");
            "hotplug:done"
        }
        Err(error) => {
            cx.warn(&format!("Could not hotplug device: {error}"));
            cx.info("Continuing execution..");
            "hotplug:failed"
        }
    }
}

async fn plug_nics(
    cx: &Cx,
    plan: &Plan,
    planned: &nic_changes::Planned,
    done: &mut Done,
) -> Result<()> {
    for step in &planned.steps {
        done.extend(step.notes.iter().cloned());
        if plan.hotplug {
            let told = crate::spec::nic(&cx.config(), &step.nic);
            let result =
                plug(cx, &plan.instance, step.action, &Device::Nic(told), step.index).await;
            done.push(json!([step.key, result]));
        }
    }
    Ok(())
}

/// What the result says of parameters: each as it was given.
fn note_params(op: &InstanceSetParams, done: &mut Done) {
    let mut note = |kind: &str, own: &Dict| {
        done.extend(own.iter().map(|(name, value)| json!([format!("{kind}/{name}"), value])));
    };
    note("hv", &op.hvparams);
    note("be", &op.beparams);
    note("os", &op.osparams);
    if let Some(private) = &op.osparams_private {
        for name in private.keys() {
            let shown = format!("Private(?, {})", python::repr_str("<redacted>"));
            done.push(json!([format!("os_private/{name}"), shown]));
        }
    }
}

/// Writes what changed into the configuration.
async fn write(op: &InstanceSetParams, cx: &Cx, uuid: &Uuid, plan: &Plan) -> Result<()> {
    cx.commit(|draft| {
        if let Some(planned) = &plan.nics {
            let old: Vec<Nic> = plan.instance.nics.clone();
            nic_changes::move_addresses(draft, &old, &planned.nics);
        }
        draft.edit_instance(uuid, |instance| {
            if let Some(planned) = &plan.nics {
                instance.nics = planned.nics.clone();
            }
            if let Some(own) = &plan.hvparams {
                instance.hvparams = own.clone();
            }
            if let Some(own) = &plan.beparams {
                instance.beparams = own.clone();
            }
            if let Some(name) = &op.os_name {
                instance.os = name.to_string();
            }
            if let Some(own) = &plan.osparams {
                instance.osparams = own.clone();
            }
            if let Some(own) = &plan.osparams_private {
                instance.osparams_private = own.clone();
            }
        });
        Ok(())
    })
    .await
}

/// The driver of file-based disks; settled by [`LogicalUnit::prepare`].
fn driver(op: &InstanceSetParams) -> &'static str {
    op.file_driver.unwrap_or(FileDriver::Loop).as_str()
}

/// Where file-based disks of a template go.
fn file_dir(
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    template: DiskTemplate,
) -> Result<Option<String>> {
    layout::file_dir(config, template, &instance.name, op.file_storage_dir.as_deref())
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::{Bench, Outcome};
    use model::param::AdminState;
    use serde_json::{Value, json};

    async fn bench() -> Bench {
        let bench = Bench::new(3);
        let create = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web1.example.com", "mode": "create",
            "disks": [{"size": 128, "name": "root"}], "nics": [{"mac": "aa:00:00:00:00:01"}], "disk_template": "file",
            "os_type": "noop", "pnode": "node1", "start": false,
        });
        assert_eq!(bench.run(create).await.result, Ok(json!(["node1.example.com"])));
        bench
    }

    async fn modify(bench: &Bench, changes: &Value) -> Outcome {
        let mut op =
            json!({"OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": "web1", "hotplug": false});
        op.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        bench.run(op).await
    }

    #[tokio::test]
    async fn parameters_change_and_go_back() {
        let bench = bench().await;
        let outcome = modify(&bench, &json!({"beparams": {"vcpus": 2, "memory": "256"}})).await;
        assert_eq!(outcome.result, Ok(json!([["be/vcpus", 2], ["be/memory", "256"]])));
        let stored =
            || bench.config().instance_by_name("web1.example.com").unwrap().beparams.clone();
        assert_eq!(stored()["maxmem"], json!(256));
        let outcome = modify(&bench, &json!({"beparams": {"vcpus": "default"}})).await;
        assert_eq!(outcome.result, Ok(json!([["be/vcpus", "default"]])));
        assert!(!stored().contains_key("vcpus"));
        let outcome = modify(&bench, &json!({"offline": true})).await;
        assert_eq!(outcome.result, Ok(json!([["admin_state", "offline"]])));
        let instance = bench.config().instance_by_name("web1.example.com").unwrap().clone();
        assert_eq!(instance.admin_state, AdminState::Offline);
    }

    #[tokio::test]
    async fn devices_come_and_go() {
        let bench = bench().await;
        let change = json!({"nics": [["add", -1, {"mac": "aa:00:00:00:00:02", "name": "eth1"}]]});
        let note = "add:mac=aa:00:00:00:00:02,ip=None,mode=bridged,link=xen-br0,network=None";
        assert_eq!(modify(&bench, &change).await.result, Ok(json!([["nic.1", note]])));
        let change =
            json!({"disks": [["add", -1, {"size": "64"}], ["modify", "root", {"mode": "ro"}]]});
        let expected = json!([["disk/1", "add:size=64,mode=rw"], ["disk.mode/0", "ro"]]);
        assert_eq!(modify(&bench, &change).await.result, Ok(expected));
        let change = json!({"disks": [["remove", 0, {}]], "nics": [["remove", "eth1", {}]]});
        let expected = json!([["disk/0", "remove"], ["NIC/1", "remove"]]);
        assert_eq!(modify(&bench, &change).await.result, Ok(expected));
        let config = bench.config();
        let disks = config.instance_disks(config.instance_by_name("web1.example.com").unwrap());
        assert_eq!(disks.iter().map(|disk| disk.iv_name.as_str()).collect::<Vec<_>>(), ["disk/0"]);
        assert_eq!(config.disks.len(), 1);
    }

    #[tokio::test]
    async fn detached_disks_can_be_attached_again() {
        let bench = bench().await;
        let change = json!({"disks": [["add", -1, {"size": 64, "name": "data"}]]});
        modify(&bench, &change).await.result.unwrap();
        let detached = modify(&bench, &json!({"disks": [["detach", "data", {}]]})).await.result;
        assert_eq!(detached, Ok(json!([["disk/1", "detach"]])));
        assert_eq!(bench.config().disks.len(), 2);
        let attached =
            modify(&bench, &json!({"disks": [["attach", -1, {"name": "data"}]]})).await.result;
        assert_eq!(attached, Ok(json!([["disk/1", "attach:size=64,mode=rw"]])));
    }

    #[tokio::test]
    async fn templates_are_converted() {
        let bench = bench().await;
        for template in ["sharedfile", "plain", "drbd", "plain", "file"] {
            let outcome = modify(&bench, &json!({"disk_template": template})).await;
            assert_eq!(
                outcome.result,
                Ok(json!([["disk_template", template]])),
                "{:?}",
                outcome.log
            );
            let config = bench.config();
            let instance = config.instance_by_name("web1.example.com").unwrap();
            assert_eq!(super::super::disk_template(&config, instance).as_str(), template);
            assert_eq!(config.disks.len(), 1);
        }
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench().await;
        let check = async |change: Value, expected: Value| {
            let result = modify(&bench, &change).await.result;
            assert_eq!(result.map_err(|error| error.to_value()), Err(expected), "{change}");
        };
        let prereq = |text: &str, code: &str| json!(["OpPrereqError", [text, code]]);
        check(json!({}), prereq("No changes submitted", "wrong_input")).await;
        check(
            json!({"nics": [["remove", 7, {}]]}),
            json!(["OpExecError", ["Got NIC index 7, but there are only 1"]]),
        )
        .await;
        check(
            json!({"disks": [["modify", 0, {"size": 5}]]}),
            prereq("Disk size change not possible, use grow-disk", "wrong_input"),
        )
        .await;
        check(
            json!({"disks": [["modify", "nosuch", {"mode": "ro"}]]}),
            json!(["OpPrereqError", ["Lookup of disk 'nosuch' failed"]]),
        )
        .await;
        check(
            json!({"disk_template": "file"}),
            prereq("Instance already has disk template file", "wrong_input"),
        )
        .await;
        check(
            json!({"nics": [["modify", 0, {"mac": "auto"}]]}),
            prereq(
                "'auto' is not a valid MAC address when modifying an existing NIC",
                "wrong_input",
            ),
        )
        .await;
        check(
            json!({"runtime_mem": 128}),
            prereq("Instance web1.example.com is not running", "wrong_state"),
        )
        .await;
        check(
            json!({"beparams": {"vcpus": 100}}),
            prereq(
                &format!(
                    "Instance allocation to group {} (default) violates policy: cpu-count value 100 is not in range [1, 8]",
                    bench.config().groups.keys().next().unwrap()
                ),
                "wrong_input",
            ),
        )
        .await;
    }
}
