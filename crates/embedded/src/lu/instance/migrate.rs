//! `OP_INSTANCE_FAILOVER` and `OP_INSTANCE_MIGRATE`: one is the other with the instance stopped in between, and a migration
//! may become a failover. Here is what the opcodes want and what they are refused for; `run` does the work.
//!
//! Mirrored disks go to their other node and nowhere else; disks that all nodes reach go where one says, or an allocator.

mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{ErrorClass, GanetiError, Result};
use model::name::Uuid;
use model::opcode::{InstanceFailover, InstanceMigrate};
use model::param::{AdminState, DiskTemplate, MigrationMode, NonEmpty};
use model::params;
use placement::picture::Request;
use serde_json::{Value, json};

use super::{checks, find, hook_env, layout, lock_nodes, nodes_of, real, spec_of};
use crate::allocate;
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};

/// How long a guest may take to stop when a migration becomes a failover, in seconds (Ganeti 3.0,
/// `DEFAULT_SHUTDOWN_TIMEOUT`).
const SHUTDOWN_TIMEOUT_S: u64 = 120;

/// What both opcodes want, in one form.
struct Wanted<'a> {
    instance_name: &'a str,
    instance_uuid: Option<&'a str>,
    target_node: Option<&'a NonEmpty>,
    target_node_uuid: Option<&'a NonEmpty>,
    iallocator: Option<&'a NonEmpty>,
    /// The opcode is the failover.
    failover: bool,
    allow_failover: bool,
    cleanup: bool,
    ignore_consistency: bool,
    ignore_ipolicy: bool,
    ignore_hvversions: bool,
    allow_runtime_changes: bool,
    shutdown_timeout_s: u64,
    live: Option<bool>,
    mode: Option<MigrationMode>,
}

impl<'a> From<&'a InstanceFailover> for Wanted<'a> {
    fn from(op: &'a InstanceFailover) -> Self {
        Self {
            instance_name: &op.instance_name,
            instance_uuid: op.instance_uuid.as_deref(),
            target_node: op.target_node.as_ref(),
            target_node_uuid: op.target_node_uuid.as_ref(),
            iallocator: op.iallocator.as_ref(),
            failover: true,
            allow_failover: false,
            cleanup: op.cleanup,
            ignore_consistency: op.ignore_consistency,
            ignore_ipolicy: op.ignore_ipolicy,
            ignore_hvversions: true,
            allow_runtime_changes: true,
            shutdown_timeout_s: op.shutdown_timeout,
            live: None,
            mode: None,
        }
    }
}

impl<'a> From<&'a InstanceMigrate> for Wanted<'a> {
    fn from(op: &'a InstanceMigrate) -> Self {
        Self {
            instance_name: &op.instance_name,
            instance_uuid: op.instance_uuid.as_deref(),
            target_node: op.target_node.as_ref(),
            target_node_uuid: op.target_node_uuid.as_ref(),
            iallocator: op.iallocator.as_ref(),
            failover: false,
            allow_failover: op.allow_failover,
            cleanup: op.cleanup,
            ignore_consistency: false,
            ignore_ipolicy: op.ignore_ipolicy,
            ignore_hvversions: op.ignore_hvversions,
            allow_runtime_changes: op.allow_runtime_changes,
            shutdown_timeout_s: SHUTDOWN_TIMEOUT_S,
            live: op.live,
            mode: op.mode,
        }
    }
}

/// What is done, once everything is decided.
pub(crate) struct Plan {
    instance: Arc<Instance>,
    target: Uuid,
    how: How,
    ignore_consistency: bool,
    shutdown_timeout_s: u64,
}

/// In which way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Failover,
    Migrate(Migration),
    /// Repairs what a migration left behind.
    Cleanup,
}

/// What a migration needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Migration {
    live: bool,
    ignore_hvversions: bool,
    allow_runtime_changes: bool,
    /// What the instance uses now, and what the target has free.
    memory_mib: u64,
    target_free_mib: u64,
}

/// The disks by how they can be reached from another node. An instance without disks counts as reachable.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// From all nodes.
    Everywhere,
    /// From the two that mirror them.
    Mirrored,
    Mixed,
}

fn reach(disks: &[Arc<Disk>]) -> Reach {
    let everywhere = |disk: &Arc<Disk>| layout::EXTERNALLY_MIRRORED.contains(&disk.dev_type);
    if disks.iter().all(everywhere) {
        Reach::Everywhere
    } else if disks.iter().all(|disk| disk.dev_type == DiskTemplate::Drbd) {
        Reach::Mirrored
    } else {
        Reach::Mixed
    }
}

/// The templates of disks, each once, as Ganeti lists them.
fn templates<'a>(disks: impl Iterator<Item = &'a Arc<Disk>>) -> String {
    let mut names: Vec<&str> = disks.map(|disk| disk.dev_type.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn locks(wanted: &Wanted<'_>, config: &Config) -> Result<Locks> {
    let instance = if wanted.failover {
        expand::instance(config, wanted.instance_name, wanted.instance_uuid)?
    } else {
        real(config, wanted.instance_name, wanted.instance_uuid)?
    };
    let target = named_target(wanted, config)?;
    let locks = Locks::new().exclusive(Level::Instance, &instance.name);
    let disks = config.instance_disks(instance);
    let external = reach(&disks) == Reach::Everywhere
        || disks.iter().any(|disk| layout::EXTERNALLY_MIRRORED.contains(&disk.dev_type));
    Ok(match (external, target) {
        (true, Some(target)) => lock_nodes(locks, &[instance.primary_node.clone(), target]),
        // The allocator's choice is locked once it is made.
        (true, None) => locks,
        (false, _) => lock_nodes(locks, &nodes_of(config, instance)),
    })
}

fn named_target(wanted: &Wanted<'_>, config: &Config) -> Result<Option<Uuid>> {
    let Some(name) = wanted.target_node else { return Ok(None) };
    let uuid = wanted.target_node_uuid.map(|uuid| uuid.as_str());
    Ok(Some(expand::node(config, name, uuid)?.meta.uuid.clone()))
}

async fn check(wanted: &Wanted<'_>, cx: &Cx) -> Result<Plan> {
    let instance = find(cx, wanted.instance_name, wanted.instance_uuid)?;
    let config = cx.config();
    let mut failover = wanted.failover;
    let is_up = instance.admin_state == AdminState::Up;
    if !wanted.cleanup && !is_up && !failover && wanted.allow_failover {
        cx.info("Instance is marked down or offline, fallback allowed, switching to failover");
        failover = true;
    }
    let target = target(wanted, cx, &config, &instance, failover).await?;
    let be = params::be::fill(&config.cluster, &instance.beparams);
    let mut target_free_mib = 0;
    if !wanted.cleanup && (!failover || is_up) {
        let reason = format!("migrating instance {}", instance.name);
        let least = params::be::number(&be, "minmem");
        target_free_mib = checks::free_memory(cx, &target, &reason, least)?;
    } else {
        cx.info("Not checking memory on the secondary node as instance will not be started");
    }
    let always = be.get("always_failover").and_then(Value::as_bool).unwrap_or(false);
    if !wanted.cleanup && !failover && always {
        cx.info("Instance configured to always failover; fallback to failover");
        failover = true;
    }
    checks::nic_bridges(cx, &target, &instance.nics).await?;
    if !wanted.cleanup {
        checks::node_not_drained(&config, &target)?;
        if !failover {
            failover = !can_migrate(wanted, cx, &instance)?;
        }
    }
    let how = match (failover, wanted.cleanup) {
        // Ganeti: an assertion without a text fails here (3.0, cmdlib/instance_migration.py).
        (true, true) => {
            return Err(GanetiError::exec("cleanup is for migrations, not for failovers"));
        }
        (true, false) => How::Failover,
        (false, cleanup) => {
            let live = live(wanted, cx, &instance)?;
            if cleanup {
                How::Cleanup
            } else {
                let run = checks::running(cx, &instance)?;
                How::Migrate(Migration {
                    live,
                    ignore_hvversions: wanted.ignore_hvversions,
                    allow_runtime_changes: wanted.allow_runtime_changes,
                    memory_mib: run.map_or(0, |run| run.memory_mib),
                    target_free_mib,
                })
            }
        }
    };
    let (ignore_consistency, shutdown_timeout_s) =
        (wanted.ignore_consistency, wanted.shutdown_timeout_s);
    Ok(Plan { instance, target, how, ignore_consistency, shutdown_timeout_s })
}

/// Where the instance is to go.
async fn target(
    wanted: &Wanted<'_>,
    cx: &Cx,
    config: &Config,
    instance: &Arc<Instance>,
    failover: bool,
) -> Result<Uuid> {
    let disks = config.instance_disks(instance);
    let movable = |disk: &&Arc<Disk>| {
        disk.dev_type == DiskTemplate::Drbd || layout::EXTERNALLY_MIRRORED.contains(&disk.dev_type)
    };
    if !disks.iter().all(|disk| movable(&disk)) {
        return Err(GanetiError::wrong_state(format!(
            "Instance's disk layout '{}' does not allow {}",
            templates(disks.iter().filter(|disk| !movable(disk))),
            if failover { "failovers" } else { "migrations" }
        )));
    }
    match reach(&disks) {
        Reach::Everywhere => target_anywhere(wanted, cx, config, instance).await,
        Reach::Mirrored => target_mirror(wanted, cx, config, instance, &disks, failover),
        Reach::Mixed => Err(GanetiError::prereq_plain(
            "Instance mixes internal and external mirroring. This is not currently supported.",
        )),
    }
}

/// The node that is named, or that an allocator chooses.
async fn target_anywhere(
    wanted: &Wanted<'_>,
    cx: &Cx,
    config: &Config,
    instance: &Arc<Instance>,
) -> Result<Uuid> {
    let named = named_target(wanted, config)?;
    let allocator = checks::iallocator_or_node(cx, wanted.iallocator.cloned(), named.is_some())?;
    let target = match (allocator, named) {
        (None, Some(node)) => node,
        (Some(allocator), _) => choose(cx, config, instance, &allocator).await?,
        (None, None) => return Err(GanetiError::exec("neither a node nor an allocator is there")),
    };
    checks::target_policy(cx, config, instance, &target, wanted.ignore_ipolicy)?;
    if target == instance.primary_node {
        return Err(GanetiError::wrong_state(format!(
            "Cannot migrate instance {} to its primary ({})",
            instance.name,
            config.node_name(&target)
        )));
    }
    Ok(target)
}

/// The allocator that will be asked: the cluster's where neither one nor a node is named and the disks can go anywhere.
fn allocator_used(wanted: &Wanted<'_>, cx: &Cx) -> Option<NonEmpty> {
    let given = wanted.iallocator.cloned();
    let Ok(instance) = find(cx, wanted.instance_name, wanted.instance_uuid) else { return given };
    if reach(&cx.config().instance_disks(&instance)) != Reach::Everywhere {
        return given;
    }
    let named = wanted.target_node.is_some();
    checks::iallocator_or_node(cx, given.clone(), named).unwrap_or(given)
}

/// Asks an allocator for another primary node, and locks both.
async fn choose(cx: &Cx, config: &Config, instance: &Instance, allocator: &str) -> Result<Uuid> {
    let request = Request::Relocate {
        name: instance.name.clone(),
        relocate_from: vec![config.node_name(&instance.primary_node).to_owned()],
    };
    let turn = cx.allocation_turn().await;
    let reply = allocate::ask(cx, allocator, &request).await?;
    drop(turn);
    let nodes = allocate::nodes_found(config, allocator, reply)?;
    let names: Vec<&str> = nodes.iter().map(|uuid| config.node_name(uuid)).collect();
    cx.info(&format!(
        "Selected nodes for instance {} via iallocator {allocator}: {}",
        instance.name,
        names.join(", ")
    ));
    let target = nodes
        .into_iter()
        .next()
        .ok_or_else(|| GanetiError::exec(format!("iallocator '{allocator}' chose no node")))?;
    let both = [instance.primary_node.clone(), target.clone()];
    cx.port().acquire(&lock_nodes(Locks::none(), &both)).await?;
    Ok(target)
}

/// The other node of a mirror.
fn target_mirror(
    wanted: &Wanted<'_>,
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    disks: &[Arc<Disk>],
    failover: bool,
) -> Result<Uuid> {
    let Some(target) = config.secondary_nodes(instance).into_iter().next() else {
        let text = format!("No secondary node but using {} disk types", templates(disks.iter()));
        return Err(GanetiError::new(ErrorClass::ConfigurationError, text));
    };
    let named = named_target(wanted, config)?;
    if wanted.iallocator.is_some() || named.is_some_and(|named| named != target) {
        return Err(GanetiError::wrong_input(format!(
            "Instances with disk types {} cannot be {} to arbitrary nodes (neither an iallocator nor a target node can be \
             passed)",
            templates(disks.iter()),
            if failover { "failed over" } else { "migrated" }
        )));
    }
    checks::target_policy(cx, config, instance, &target, wanted.ignore_ipolicy)?;
    Ok(target)
}

/// Whether the instance runs where it should; where it does not, that is refused unless it may be failed over instead.
fn can_migrate(wanted: &Wanted<'_>, cx: &Cx, instance: &Instance) -> Result<bool> {
    let offline = cx.config().nodes.get(&instance.primary_node).is_some_and(|node| node.offline);
    let why = if offline {
        Some("Node is marked offline".to_owned())
    } else {
        match checks::running_on(cx, &instance.primary_node, instance) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("Instance {} is not running", instance.name)),
            Err(error) => Some(error.to_string()),
        }
    };
    match why {
        None => Ok(true),
        Some(_) if wanted.allow_failover => {
            cx.info("Can't migrate, instance offline, fallback to failover");
            Ok(false)
        }
        Some(why) => {
            Err(GanetiError::wrong_state(format!("Can't migrate, please use failover: {why}")))
        }
    }
}

/// Whether the instance runs on while its memory moves.
fn live(wanted: &Wanted<'_>, cx: &Cx, instance: &Instance) -> Result<bool> {
    match (wanted.live, wanted.mode) {
        (Some(_), Some(_)) => Err(GanetiError::wrong_input(
            "Only one of the 'live' and 'mode' parameters are accepted",
        )),
        (Some(live), None) => Ok(live),
        (None, Some(mode)) => Ok(mode == MigrationMode::Live),
        (None, None) => Ok(spec_of(cx, instance).hv("migration_mode") == "live"),
    }
}

/// What hooks are told of the move: `source` and `target` are where it goes from and to.
fn moves(
    config: &Config,
    instance: &Instance,
    source: &Uuid,
    target: &Uuid,
) -> Vec<(&'static str, Value)> {
    let secondaries = config.secondary_nodes(instance);
    let (old, new) = match secondaries.first() {
        Some(secondary) => (config.node_name(secondary), config.node_name(source)),
        None => ("", ""),
    };
    vec![
        ("OLD_PRIMARY", json!(config.node_name(source))),
        ("NEW_PRIMARY", json!(config.node_name(target))),
        ("OLD_SECONDARY", json!(old)),
        ("NEW_SECONDARY", json!(new)),
    ]
}

fn hooks(cx: &Cx, plan: &Plan, mut own: Vec<(&'static str, Value)>) -> Hooks {
    let config = cx.config();
    let instance = &plan.instance;
    own.extend(moves(&config, instance, &instance.primary_node, &plan.target));
    let mut hooks = hook_env::hooks(cx, instance, &own);
    let mut nodes = vec![config.cluster.master_node.clone()];
    let mut add = |uuid: &Uuid| {
        if !nodes.contains(uuid) {
            nodes.push(uuid.clone());
        }
    };
    config.secondary_nodes(instance).iter().for_each(&mut add);
    add(&plan.target);
    hooks.pre_nodes = nodes;
    hooks
}

/// The variables afterwards. Ganeti (3.0) computes them anew, so that the old primary is the new one too.
fn post_env(cx: &Cx, name: &str, mut own: Vec<(&'static str, Value)>) -> Option<hook_env::Env> {
    let config = cx.config();
    let instance = expand::instance(&config, name, None).ok()?;
    let primary = &instance.primary_node;
    own.extend(moves(&config, instance, primary, primary));
    hook_env::after(cx, &instance.name, &own)
}

impl LogicalUnit for InstanceFailover {
    type Plan = Plan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        locks(&self.into(), config)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let mut told = self.clone();
        told.iallocator = allocator_used(&self.into(), cx);
        if told != *self {
            cx.show(told.clone());
        }
        check(&self.into(), cx).await
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let mut hooks = hooks(cx, plan, failover_env(self));
        hooks.post_nodes = hooks.pre_nodes.clone();
        if !hooks.post_nodes.contains(&plan.instance.primary_node) {
            hooks.post_nodes.push(plan.instance.primary_node.clone());
        }
        Some(hooks)
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        post_env(cx, &self.instance_name, failover_env(self))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        run::run(cx, &plan).await.map(|()| Value::Null)
    }
}

fn failover_env(op: &InstanceFailover) -> Vec<(&'static str, Value)> {
    vec![
        ("IGNORE_CONSISTENCY", json!(op.ignore_consistency)),
        ("SHUTDOWN_TIMEOUT", json!(op.shutdown_timeout)),
        ("FAILOVER_CLEANUP", json!(op.cleanup)),
    ]
}

impl LogicalUnit for InstanceMigrate {
    type Plan = Plan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        locks(&self.into(), config)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let mut told = self.clone();
        told.iallocator = allocator_used(&self.into(), cx);
        if told != *self {
            cx.show(told.clone());
        }
        let plan = check(&self.into(), cx).await?;
        let live = match plan.how {
            How::Failover => return Ok(plan),
            How::Migrate(migration) => migration.live,
            How::Cleanup => live(&self.into(), cx, &plan.instance)?,
        };
        told.live = None;
        told.mode = Some(if live { MigrationMode::Live } else { MigrationMode::NonLive });
        cx.show(told);
        Ok(plan)
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let live = match plan.how {
            How::Migrate(migration) => migration.live,
            How::Cleanup => live(&self.into(), cx, &plan.instance).unwrap_or(false),
            How::Failover => false,
        };
        let mut own = migrate_env(self);
        own.push(("MIGRATE_LIVE", json!(live)));
        let mut hooks = hooks(cx, plan, own);
        if !hooks.pre_nodes.contains(&plan.instance.primary_node) {
            hooks.pre_nodes.push(plan.instance.primary_node.clone());
        }
        hooks.post_nodes = hooks.pre_nodes.clone();
        Some(hooks)
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None).ok()?;
        let mut own = migrate_env(self);
        own.push(("MIGRATE_LIVE", json!(live(&self.into(), cx, instance).unwrap_or(false))));
        post_env(cx, &self.instance_name, own)
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        run::run(cx, &plan).await.map(|()| Value::Null)
    }
}

fn migrate_env(op: &InstanceMigrate) -> Vec<(&'static str, Value)> {
    vec![
        ("MIGRATE_CLEANUP", json!(op.cleanup)),
        ("ALLOW_RUNTIME_CHANGES", json!(op.allow_runtime_changes)),
    ]
}
