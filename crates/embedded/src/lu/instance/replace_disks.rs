//! `OP_INSTANCE_REPLACE_DISKS`: new storage for one side of mirrors, on the node where it is or on another. Here is what it is
//! refused for; `run` does the work.

mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceReplaceDisks;
use model::param::{DiskTemplate, ReplaceMode};
use placement::picture::Request;
use serde_json::{Value, json};

use super::{checks, find, find_disk, hook_env, lock_nodes, nodes_of};
use crate::allocate;
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};
use crate::spec;

pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// The disks' places among the instance's; none means that there is nothing to do.
    disks: Vec<usize>,
    work: Option<Work>,
    early_release: bool,
}

/// What is replaced.
#[derive(Clone, Debug, PartialEq)]
enum Work {
    /// The storage of the mirror's side on `target`; `other` has the data.
    Storage { target: Uuid, other: Uuid },
    /// The whole side on `old`, by one on `new`; the primary has the data.
    Secondary { old: Uuid, new: Uuid },
}

impl LogicalUnit for InstanceReplaceDisks {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        if self.mode == ReplaceMode::NewSecondary {
            if self.remote_node.is_none() && self.iallocator.is_none() {
                return Err(GanetiError::wrong_input(
                    "When changing the secondary either an iallocator script must be used or the new node given",
                ));
            }
            let named = self.iallocator.clone();
            self.iallocator = checks::iallocator_or_node(cx, named, self.remote_node.is_some())?;
        } else if self.remote_node.is_some() || self.iallocator.is_some() {
            return Err(GanetiError::wrong_input(
                "The iallocator and new node options can only be used when changing the secondary node",
            ));
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance =
            expand::instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let remote = remote_node(self, config)?;
        let locks = Locks::new().exclusive(Level::Instance, &instance.name);
        if self.iallocator.is_some() {
            // The allocator's choice is locked once it is made, and the instance's nodes with it.
            return Ok(locks);
        }
        let mut nodes = nodes_of(config, instance);
        nodes.extend(remote);
        Ok(lock_nodes(locks, &nodes))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let secondaries = config.secondary_nodes(&instance);
        let [secondary] = secondaries.as_slice() else {
            return Err(GanetiError::prereq(
                format!(
                    "The instance has a strange layout, expected one secondary but found {}",
                    secondaries.len()
                ),
                ErrorCode::InternalError,
            ));
        };
        let remote = match &self.iallocator {
            Some(allocator) => Some(choose(cx, &config, &instance, secondary, allocator).await?),
            None => remote_node(self, &config)?,
        };
        if remote.as_ref() == Some(&instance.primary_node) {
            return Err(GanetiError::wrong_input(
                "The specified node is the primary node of the instance",
            ));
        }
        if remote.as_ref() == Some(secondary) {
            return Err(GanetiError::wrong_input(
                "The specified node is already the secondary node of the instance",
            ));
        }
        let mut plan = plan(self, cx, &config, &instance, secondary, remote.as_ref()).await?;
        check_layout(&config, &instance)?;
        if let Some(remote) = &remote {
            checks::target_policy(cx, &config, &instance, remote, self.ignore_ipolicy)?;
        }
        let working = match &plan.work {
            None => Vec::new(),
            Some(Work::Storage { target, other }) => vec![target, other],
            Some(Work::Secondary { new, .. }) => vec![new, &instance.primary_node],
        };
        for node in working {
            checks::node_online(&config, node)?;
        }
        if plan.disks.is_empty() && !self.disks.is_empty() {
            plan.disks =
                self.disks.iter().filter_map(|disk| usize::try_from(disk.0).ok()).collect();
        }
        for disk in &self.disks {
            find_disk(&config, &instance, disk.0)?;
        }
        Ok(plan)
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let config = cx.config();
        let mut hooks =
            hook_env::hooks(cx, &plan.instance, &own_env(self, &config, &plan.instance));
        let mut nodes = vec![config.cluster.master_node.clone()];
        let named = remote_node(self, &config).ok().flatten();
        for uuid in std::iter::once(&plan.instance.primary_node).chain(&named) {
            if !nodes.contains(uuid) {
                nodes.push(uuid.clone());
            }
        }
        hooks.pre_nodes.clone_from(&nodes);
        hooks.post_nodes = nodes;
        Some(hooks)
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None).ok()?;
        hook_env::after(cx, &instance.name, &own_env(self, &config, instance))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        run::run(cx, &plan).await.map(|()| Value::Null)
    }
}

fn own_env(
    op: &InstanceReplaceDisks,
    config: &Config,
    instance: &Instance,
) -> [(&'static str, Value); 3] {
    let old =
        config.secondary_nodes(instance).first().map(|uuid| config.node_name(uuid).to_owned());
    let new = remote_node(op, config).ok().flatten();
    [
        ("MODE", json!(op.mode.as_str())),
        ("NEW_SECONDARY", json!(new.map(|uuid| config.node_name(&uuid).to_owned()))),
        ("OLD_SECONDARY", json!(old)),
    ]
}

/// The node that is named as the new secondary.
fn remote_node(op: &InstanceReplaceDisks, config: &Config) -> Result<Option<Uuid>> {
    let Some(name) = &op.remote_node else { return Ok(None) };
    let uuid = op.remote_node_uuid.as_deref();
    Ok(Some(expand::node(config, name, uuid)?.meta.uuid.clone()))
}

/// Asks an allocator for another secondary node, and locks it with the instance's nodes.
async fn choose(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    secondary: &Uuid,
    allocator: &str,
) -> Result<Uuid> {
    let request = Request::Relocate {
        name: instance.name.clone(),
        relocate_from: vec![config.node_name(secondary).to_owned()],
    };
    let turn = cx.allocation_turn().await;
    let reply = allocate::ask(cx, allocator, &request).await?;
    drop(turn);
    let name = match &reply.result {
        Some(placement::answer::Found::Nodes(names)) => names.first().cloned(),
        _ => None,
    };
    let Some(name) = name else {
        return Err(GanetiError::prereq(
            format!("Can't compute nodes using iallocator '{allocator}': {}", reply.info),
            ErrorCode::InsufficientResources,
        ));
    };
    let Some(node) = config.node_by_name(&name) else {
        let text = format!("Node {name} not found in configuration");
        return Err(GanetiError::unknown_entity(text));
    };
    // Ganeti: it names the instance by its UUID here (3.0, cmdlib/instance_storage.py).
    cx.info(&format!("Selected new secondary for instance '{}': {name}", instance.meta.uuid));
    let mut nodes = nodes_of(config, instance);
    nodes.push(node.meta.uuid.clone());
    cx.port().acquire(&lock_nodes(Locks::none(), &nodes)).await?;
    Ok(node.meta.uuid.clone())
}

fn check_layout(config: &Config, instance: &Instance) -> Result<()> {
    let disks = config.instance_disks(instance);
    if disks.is_empty() || disks.iter().any(|disk| disk.dev_type != DiskTemplate::Drbd) {
        let text = "Can only run replace disks for DRBD8-based instances";
        return Err(GanetiError::wrong_input(text));
    }
    Ok(())
}

/// Which disks of which side are replaced.
async fn plan(
    op: &InstanceReplaceDisks,
    cx: &Cx,
    config: &Config,
    instance: &Arc<Instance>,
    secondary: &Uuid,
    remote: Option<&Uuid>,
) -> Result<Plan> {
    if !op.disks.is_empty() && matches!(op.mode, ReplaceMode::Auto | ReplaceMode::NewSecondary) {
        return Err(GanetiError::wrong_input("Cannot specify disks to be replaced"));
    }
    let primary = &instance.primary_node;
    let on_primary = || Work::Storage { target: primary.clone(), other: secondary.clone() };
    let on_secondary = || Work::Storage { target: secondary.clone(), other: primary.clone() };
    let mut early_release = op.early_release;
    let mut disks: Vec<usize> =
        op.disks.iter().filter_map(|disk| usize::try_from(disk.0).ok()).collect();
    let work = match (op.mode, remote) {
        (ReplaceMode::Auto, _) => {
            let (faulty_primary, faulty_secondary) =
                faulty_sides(cx, config, instance, secondary).await?;
            let (work, faulty) = if !faulty_primary.is_empty() {
                (Some(on_primary()), faulty_primary)
            } else if !faulty_secondary.is_empty() {
                (Some(on_secondary()), faulty_secondary)
            } else {
                (None, Vec::new())
            };
            return Ok(Plan { instance: instance.clone(), disks: faulty, work, early_release });
        }
        (ReplaceMode::OnPrimary, _) => on_primary(),
        (ReplaceMode::OnSecondary, _) => on_secondary(),
        (ReplaceMode::NewSecondary, Some(new)) => {
            checks::node_not_drained(config, new)?;
            checks::node_vm_capable(config, new)?;
            let lost = config.nodes.get(secondary).is_some_and(|node| node.offline);
            if lost && !early_release {
                early_release = true;
                cx.info(&format!(
                    "Old secondary {secondary} is offline, automatically enabling early-release mode"
                ));
            }
            Work::Secondary { old: secondary.clone(), new: new.clone() }
        }
        (ReplaceMode::NewSecondary, None) => {
            return Err(GanetiError::exec("neither a node nor an allocator is there"));
        }
    };
    if disks.is_empty() {
        disks = (0..instance.disks.len()).collect();
    }
    Ok(Plan { instance: instance.clone(), disks, work: Some(work), early_release })
}

/// The disks whose data is lost, on the primary and on the secondary: only one of the two may have some.
async fn faulty_sides(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    secondary: &Uuid,
) -> Result<(Vec<usize>, Vec<usize>)> {
    if !are_up(cx, config, instance).await {
        return Err(GanetiError::wrong_state(format!(
            "Please run activate-disks on instance {} first",
            instance.name
        )));
    }
    let on_primary = faulty(cx, config, instance, &instance.primary_node).await?;
    let on_secondary = faulty(cx, config, instance, secondary).await?;
    if !on_primary.is_empty() && !on_secondary.is_empty() {
        return Err(GanetiError::wrong_state(format!(
            "Instance {} has faulty disks on more than one node and can not be repaired automatically",
            instance.name
        )));
    }
    Ok((on_primary, on_secondary))
}

/// Whether the disks are up on all their nodes, offline ones apart.
async fn are_up(cx: &Cx, config: &Config, instance: &Instance) -> bool {
    for (at, disk) in config.instance_disks(instance).iter().enumerate() {
        let disk = spec::disk(config, instance, disk);
        for uuid in nodes_of(config, instance) {
            cx.info(&format!("Checking disk/{at} on {}", config.node_name(&uuid)));
            if config.nodes.get(&uuid).is_some_and(|node| node.offline) {
                continue;
            }
            let status = match cx.node(&uuid).await {
                Ok(node) => node.disk_status(&disk).await,
                Err(error) => Err(error),
            };
            if !matches!(status, Ok(Some(_))) {
                return false;
            }
        }
    }
    true
}

/// The disks whose data on a node is lost.
async fn faulty(cx: &Cx, config: &Config, instance: &Instance, uuid: &Uuid) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for (at, disk) in config.instance_disks(instance).iter().enumerate() {
        let status = match cx.node(uuid).await {
            Ok(node) => node.disk_status(&spec::disk(config, instance, disk)).await,
            Err(error) => Err(error),
        };
        let status = status.map_err(|error| {
            let name = config.node_name(uuid);
            GanetiError::prereq(
                format!("Failed to get disk status from node {name}: {error}"),
                ErrorCode::EnvironmentError,
            )
        })?;
        if status.is_some_and(|status| status.ldisk_status == checks::LDISK_FAULTY) {
            found.push(at);
        }
    }
    Ok(found)
}
