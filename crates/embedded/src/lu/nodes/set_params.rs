//! `OP_NODE_SET_PARAMS`: the role of a node and its parameters. The roles:
//!
//! ```text
//!             master candidate  <──>  regular  <──>  drained
//!                      │                 │              │
//!                      └────────────> offline <─────────┘
//! ```
//!
//! A node has one of them; each can follow each. A node that comes back from drained or offline becomes a candidate by itself
//! when there are too few, and losing a candidate is refused when too few would remain, unless others may be promoted.

use std::net::Ipv4Addr;
use std::sync::Arc;

use model::config::{Config, Instance, Node};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::NodeSetParams;
use model::param::{Dict, DiskTemplate, Hypervisor};
use model::params;
use serde_json::{Value, json};

use crate::lu::instance::checks;
use crate::lu::shared_checks::{
    candidates, fill_candidate_pool, merge_disk_state, merge_hv_state, python_str, tell_shortage,
};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Candidate,
    Drained,
    Offline,
    Regular,
}

impl Role {
    fn of(node: &Node) -> Self {
        match (node.master_candidate, node.drained, node.offline) {
            (true, _, _) => Self::Candidate,
            (false, true, _) => Self::Drained,
            (false, false, true) => Self::Offline,
            (false, false, false) => Self::Regular,
        }
    }

    /// Its flags, in the order of results.
    fn flags(self) -> [(&'static str, bool); 3] {
        [
            ("master_candidate", self == Self::Candidate),
            ("drained", self == Self::Drained),
            ("offline", self == Self::Offline),
        ]
    }
}

/// What the node will have.
pub(crate) struct Plan {
    uuid: Uuid,
    old_role: Role,
    new_role: Role,
    ndparams: Option<Dict>,
    hv_state: Option<Dict>,
    disk_state: Option<Dict>,
}

/// The flags that were asked for, as they change while they are looked at.
struct Wanted {
    master_candidate: Option<bool>,
    drained: Option<bool>,
    offline: Option<bool>,
}

impl Wanted {
    fn role(&self, old: Role) -> Role {
        let flags = [self.master_candidate, self.drained, self.offline];
        match flags {
            [Some(true), _, _] => Role::Candidate,
            [_, Some(true), _] => Role::Drained,
            [_, _, Some(true)] => Role::Offline,
            _ if flags.contains(&Some(false)) => Role::Regular,
            _ => old,
        }
    }
}

/// Whether the node may stop being a master candidate.
fn might_demote(op: &NodeSetParams) -> bool {
    op.master_candidate == Some(false)
        || op.offline == Some(true)
        || op.drained == Some(true)
        || op.master_capable == Some(false)
}

/// Whether other nodes may be promoted: then all are locked.
fn lock_all(op: &NodeSetParams) -> bool {
    op.auto_promote && might_demote(op)
}

/// The mirrored instances that use the node's secondary address.
fn affected<'a>(config: &'a Config, node: &Uuid) -> Vec<&'a Arc<Instance>> {
    let mirrored = |instance: &&Arc<Instance>| {
        config.instance_disks(instance).iter().any(|disk| disk.dev_type == DiskTemplate::Drbd)
    };
    let mut found: Vec<_> =
        config.primaries(node).chain(config.secondaries(node)).filter(mirrored).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the node has a command by which it is reached when it is off.
fn supports_oob(config: &Config, node: &Node) -> bool {
    let group = config.groups.get(&node.group).map(|group| &**group);
    let filled = params::nd::fill(&config.cluster, group, node);
    filled.get("oob_program").and_then(Value::as_str).is_some_and(|program| !program.is_empty())
}

fn check_role(op: &NodeSetParams, config: &Config, node: &Node) -> Result<()> {
    let changes_role =
        op.master_candidate.is_some() || op.drained.is_some() || op.offline.is_some();
    if changes_role && node.meta.uuid == config.cluster.master_node {
        let text = "The master role can be changed only via master-failover";
        return Err(GanetiError::wrong_input(text));
    }
    let name = &node.name;
    if op.master_candidate == Some(true) && !node.master_capable {
        let text = format!("Node {name} is not master capable, cannot make it a master candidate");
        return Err(GanetiError::wrong_state(text));
    }
    let uuid = &node.meta.uuid;
    let hosts = config.primaries(uuid).next().or_else(|| config.secondaries(uuid).next()).is_some();
    if op.vm_capable == Some(false) && hosts {
        let text = format!("Node {name} hosts instances, cannot unset the vm_capable flag");
        return Err(GanetiError::wrong_state(text));
    }
    if node.master_candidate && might_demote(op) && !lock_all(op) {
        let (remaining, should) = candidates(config, std::slice::from_ref(uuid));
        if remaining < should {
            return Err(GanetiError::wrong_state(
                "Not enough master candidates, please pass auto promote option to allow promotion \
                 (--auto-promote or RAPI auto_promote=True)",
            ));
        }
    }
    Ok(())
}

fn check_powered(op: &NodeSetParams, config: &Config, node: &Node) -> Result<()> {
    let name = &node.name;
    if supports_oob(config, node) {
        if op.offline == Some(false) && !(node.powered || op.powered == Some(true)) {
            return Err(GanetiError::wrong_state(format!(
                "Node {name} needs to be turned on before its offline status can be reset"
            )));
        }
    } else if op.powered.is_some() {
        return Err(GanetiError::wrong_state(format!(
            "Unable to change powered state for node {name} as it does not support out-of-band handling"
        )));
    }
    Ok(())
}

/// The role that the node will have; what is decided on the way is told.
fn new_role(op: &NodeSetParams, cx: &Cx, config: &Config, node: &Node) -> Result<Role> {
    let mut wanted =
        Wanted { master_candidate: op.master_candidate, drained: op.drained, offline: op.offline };
    for (flag, is, name) in [
        (&mut wanted.master_candidate, node.master_candidate, "master_candidate"),
        (&mut wanted.drained, node.drained, "drained"),
        (&mut wanted.offline, node.offline, "offline"),
    ] {
        if *flag == Some(false) && !is {
            cx.info(&format!("Ignoring request to unset flag {name}, already unset"));
            *flag = None;
        }
    }
    check_powered(op, config, node)?;
    let comes_back = wanted.drained == Some(false) || wanted.offline == Some(false);
    if comes_back || (op.master_capable == Some(true) && !node.master_capable) {
        let (now, should) = candidates(config, &[]);
        // The node itself will count as one more that could be.
        if now < (should + 1).min(config.cluster.candidate_pool_size) {
            wanted.master_candidate = Some(true);
            cx.info("Auto-promoting node to master candidate");
        }
    }
    if op.master_capable == Some(false) && node.master_candidate {
        if node.meta.uuid == config.cluster.master_node {
            return Err(GanetiError::wrong_state("Master must remain master capable"));
        }
        cx.info("Demoting from master candidate");
        wanted.master_candidate = Some(false);
    }
    cx.show(NodeSetParams {
        master_candidate: wanted.master_candidate,
        drained: wanted.drained,
        offline: wanted.offline,
        ..op.clone()
    });
    Ok(wanted.role(Role::of(node)))
}

async fn check_secondary_ip(
    op: &NodeSetParams,
    cx: &Cx,
    config: &Config,
    node: &Node,
    secondary_ip: &str,
) -> Result<()> {
    let Some(master) = config.nodes.get(&config.cluster.master_node) else { return Ok(()) };
    let forced = op.force && node.meta.uuid == master.meta.uuid;
    let singlehomed = master.secondary_ip == master.primary_ip;
    if singlehomed && secondary_ip != node.primary_ip {
        if !forced {
            return Err(GanetiError::wrong_input(
                "Changing the secondary ip on a single-homed cluster requires the --force option to be passed, and \
                 the target node to be the master",
            ));
        }
        cx.warn(
            "Transitioning from single-homed to multi-homed cluster; all nodes will require a secondary IP address",
        );
    } else if !singlehomed && secondary_ip == node.primary_ip {
        if !forced {
            return Err(GanetiError::wrong_input(
                "Cannot set the secondary IP to be the same as the primary IP on a multi-homed cluster, unless the \
                 --force option is passed, and the target node is the master",
            ));
        }
        cx.warn(
            "Transitioning from multi-homed to single-homed cluster; secondary IP addresses will have to be removed",
        );
    }
    let affected = affected(config, &node.meta.uuid);
    if node.offline {
        if !affected.is_empty() {
            let names: Vec<&str> = affected.iter().map(|i| i.name.as_str()).collect();
            return Err(GanetiError::wrong_state(format!(
                "Cannot change secondary IP address: offline node has instances ({}) configured to use it",
                names.join(", ")
            )));
        }
        return Ok(());
    }
    for instance in affected {
        checks::state(cx, instance, checks::DOWN, Some("cannot change secondary ip"))?;
    }
    Ok(())
}

impl LogicalUnit for NodeSetParams {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        expand::node(&cx.config(), &self.node_name, self.node_uuid.as_deref())?;
        let flags = [
            self.offline,
            self.master_candidate,
            self.drained,
            self.master_capable,
            self.vm_capable,
        ];
        let others = self.secondary_ip.is_some()
            || self.ndparams.is_some()
            || self.hv_state.is_some()
            || self.disk_state.is_some();
        if flags.iter().all(Option::is_none) && !others {
            return Err(GanetiError::wrong_input("Please pass at least one modification"));
        }
        if flags.iter().filter(|flag| **flag == Some(true)).count() > 1 {
            let text = "Can't set the node into more than one state at the same time";
            return Err(GanetiError::wrong_input(text));
        }
        match &self.secondary_ip {
            Some(ip) if ip.parse::<Ipv4Addr>().is_err() => Err(GanetiError::wrong_input(format!(
                "Secondary IP ({ip}) needs to be a valid IPv4 address"
            ))),
            _ => Ok(()),
        }
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let node = &expand::node(config, &self.node_name, self.node_uuid.as_deref())?.meta.uuid;
        let mut locks = Locks::new();
        let all: Vec<&Uuid> =
            if lock_all(self) { config.nodes.keys().collect() } else { vec![node] };
        for uuid in all {
            locks = locks.exclusive(Level::Node, uuid).exclusive(Level::NodeRes, uuid);
        }
        if self.secondary_ip.is_some() {
            for instance in affected(config, node) {
                locks = locks.shared(Level::Instance, &instance.name);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let config = cx.config();
        let node = expand::node(&config, &self.node_name, self.node_uuid.as_deref())?;
        check_role(self, &config, node)?;
        let old_role = Role::of(node);
        let new_role = new_role(self, cx, &config, node)?;
        if old_role == Role::Offline && new_role != old_role {
            let answers = match cx.nodes().get(&node.meta.uuid) {
                Some(asked) => asked.ping().await.map_err(|error| error.to_string()),
                None => Err("the node is not there".to_owned()),
            };
            answers.map_err(|error| {
                GanetiError::wrong_state(format!(
                    "Node {} is being de-offlined but fails to report its version: {error}",
                    node.name
                ))
            })?;
            cx.warn(
                "Transitioning node from offline to online state without using re-add. Please make sure the node is \
                 healthy!",
            );
        }
        if let Some(ip) = &self.secondary_ip {
            check_secondary_ip(self, cx, &config, node, ip).await?;
        }
        let given = |dict: &'_ Option<Dict>| dict.clone().filter(|dict| !dict.is_empty());
        let ndparams = match given(&self.ndparams) {
            Some(changes) => {
                let mut new = params::updated(&node.ndparams, &changes, true, false);
                params::nd::force(&mut new, false)?;
                params::nd::check_node_level(&changes)?;
                Some(new)
            }
            None => None,
        };
        let hv_state = given(&self.hv_state)
            .map(|changes| merge_hv_state(&node.hv_state_static, &changes))
            .transpose()?;
        let disk_state = given(&self.disk_state)
            .map(|changes| merge_disk_state(&node.disk_state_static, &changes))
            .transpose()?;
        let uuid = node.meta.uuid.clone();
        Ok(Plan { uuid, old_role, new_role, ndparams, hv_state, disk_state })
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let config = cx.config();
        let env = [
            ("MASTER_CANDIDATE", python_str(self.master_candidate)),
            ("OFFLINE", python_str(self.offline)),
            ("DRAINED", python_str(self.drained)),
            ("MASTER_CAPABLE", python_str(self.master_capable)),
            ("VM_CAPABLE", python_str(self.vm_capable)),
        ];
        let mut nodes = plain_hooks::on_master(&config);
        if !nodes.contains(&plan.uuid) {
            nodes.push(plan.uuid.clone());
        }
        let name = config.node_name(&plan.uuid);
        Some(plain_hooks::hooks("NODE", name, env, nodes))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let mut result = Vec::new();
        for (name, value) in
            [("master_capable", self.master_capable), ("vm_capable", self.vm_capable)]
        {
            if value.is_some() {
                result.push(json!([name, python_str(value)]));
            }
        }
        if let Some(ip) = &self.secondary_ip {
            result.push(json!(["secondary_ip", ip.as_str()]));
        }
        let Plan { uuid, old_role, new_role, ndparams, hv_state, disk_state } = plan;
        cx.commit(|draft| {
            draft.edit_node(&uuid, |node| {
                node.ndparams = ndparams.unwrap_or_else(|| node.ndparams.clone());
                node.hv_state_static = hv_state.unwrap_or_else(|| node.hv_state_static.clone());
                node.disk_state_static =
                    disk_state.unwrap_or_else(|| node.disk_state_static.clone());
                node.powered = self.powered.unwrap_or(node.powered);
                node.master_capable = self.master_capable.unwrap_or(node.master_capable);
                node.vm_capable = self.vm_capable.unwrap_or(node.vm_capable);
                if let Some(ip) = &self.secondary_ip {
                    node.secondary_ip = ip.to_string();
                }
            });
            Ok(())
        })
        .await?;
        tell_shortage(cx);
        if new_role != old_role {
            for ((name, new), (_, old)) in new_role.flags().into_iter().zip(old_role.flags()) {
                if new != old {
                    result.push(json!([name, python_str(Some(new))]));
                }
            }
            cx.commit(|draft| {
                let [(_, candidate), (_, drained), (_, offline)] = new_role.flags();
                draft.edit_node(&uuid, |node| {
                    node.master_candidate = candidate;
                    node.drained = drained;
                    node.offline = offline;
                });
                Ok(())
            })
            .await?;
            tell_shortage(cx);
            if lock_all(self) {
                fill_candidate_pool(cx, std::slice::from_ref(&uuid)).await?;
            }
        }
        tell_daemons(cx, &uuid);
        Ok(Value::Array(result))
    }
}

/// Ganeti: after the change the node is told to run or to stop the daemon that watches kvm; one that is offline cannot be
/// told, which is said (3.0, `EnsureKvmdOnNodes`).
fn tell_daemons(cx: &Cx, uuid: &Uuid) {
    let config = cx.config();
    let cluster = &config.cluster;
    let Some(node) = config.nodes.get(uuid).filter(|node| node.offline) else { return };
    if !cluster.enabled_hypervisors.contains(&Hypervisor::Kvm) {
        return;
    }
    let verb = if cluster.enabled_user_shutdown && node.vm_capable { "start" } else { "stop" };
    let name = &node.name;
    cx.log(&format!("Failed to {verb} KVM daemon on node '{name}': Node is marked offline"));
}
