//! `OP_NODE_EVACUATE`: submits jobs that take instances off a node, to nodes that an allocator chooses or, for secondaries,
//! to one that is named.

use std::collections::BTreeSet;

use model::compat::Compat;
use model::config::Config;
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::{NodeEvacuate, Op, OpId, ParamError};
use model::param::{Dict, EvacuateMode, NonEmpty};
use model::python;
use model::units::natural_cmp;
use placement::answer::{Found, Reply};
use placement::evacuate::Moved;
use placement::picture::{EvacuationMode, Options, Request};
use serde_json::{Value, json};

use crate::allocate;
use crate::lu::{Cx, Level, Locks, LogicalUnit, expand};

/// Who says where to.
pub(crate) enum Way {
    Allocator(String),
    Secondary(String),
}

pub(crate) struct Plan {
    way: Way,
    /// By name, in natural order.
    instances: Vec<String>,
}

/// The node, and the one that is to become the secondary.
fn nodes(op: &NodeEvacuate, config: &Config) -> Result<(Uuid, Option<Uuid>)> {
    let node = &expand::node(config, &op.node_name, op.node_uuid.as_deref())?.meta.uuid;
    let Some(remote) = &op.remote_node else { return Ok((node.clone(), None)) };
    let remote = &expand::node(config, remote, op.remote_node_uuid.as_deref())?.meta.uuid;
    if remote == node {
        let text = "Can not use evacuated node as a new secondary node";
        return Err(GanetiError::wrong_input(text));
    }
    if op.mode != EvacuateMode::SecondaryOnly {
        let text = "Without the use of an iallocator only secondary instances can be evacuated";
        return Err(GanetiError::wrong_input(text));
    }
    Ok((node.clone(), Some(remote.clone())))
}

/// The instances that are to leave the node.
fn instances(op: &NodeEvacuate, config: &Config, node: &Uuid) -> Result<Vec<String>> {
    let mut names: Vec<String> = match op.mode {
        EvacuateMode::PrimaryOnly => config.primaries(node).map(|i| i.name.clone()).collect(),
        EvacuateMode::SecondaryOnly => config.secondaries(node).map(|i| i.name.clone()).collect(),
        EvacuateMode::All => {
            return Err(GanetiError::wrong_input(
                "Due to an issue with the iallocator interface it is not possible to evacuate all instances at once; \
                 specify explicitly whether to evacuate primary or secondary instances",
            ));
        }
    };
    names.sort_by(|a, b| natural_cmp(a, b));
    Ok(names)
}

/// The allocator, unless a node is named: the opcode's, or the cluster's (Ganeti 3.0, `CheckIAllocatorOrNode`).
fn way(op: &NodeEvacuate, config: &Config, remote: Option<&Uuid>) -> Result<Way> {
    let default = &config.cluster.default_iallocator;
    match (&op.iallocator, remote) {
        (Some(_), Some(_)) => {
            Err(GanetiError::wrong_input("Do not specify both, iallocator and node"))
        }
        (None, Some(remote)) => Ok(Way::Secondary(config.node_name(remote).to_owned())),
        (Some(name), None) if name.as_str() != "." => Ok(Way::Allocator(name.to_string())),
        (Some(_) | None, None) if !default.is_empty() => Ok(Way::Allocator(default.clone())),
        (Some(_) | None, None) => Err(GanetiError::wrong_input(
            "No iallocator or node given and no cluster-wide default iallocator found; please specify either an \
             iallocator or a node, or set a cluster-wide default iallocator",
        )),
    }
}

impl LogicalUnit for NodeEvacuate {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        // What is said about allocator and node is looked at before any name is.
        let named = self.remote_node.as_ref().map(|_| Uuid::default());
        if let Way::Allocator(name) = way(self, &cx.config(), named.as_ref())? {
            self.iallocator = NonEmpty::new(name);
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let (node, remote) = nodes(self, config)?;
        let mut locks = Locks::new();
        for name in instances(self, config, &node)? {
            locks = locks.shared(Level::Instance, name);
        }
        let mut wanted = BTreeSet::from([node.clone()]);
        match remote {
            Some(remote) => {
                wanted.insert(remote);
            }
            None => {
                let group = config.nodes.get(&node).map(|node| &node.group);
                let members = group.into_iter().flat_map(|group| config.members(group));
                wanted.extend(members.map(|node| node.meta.uuid.clone()));
            }
        }
        for uuid in &wanted {
            locks = locks.shared(Level::Node, uuid);
            if let Some(node) = config.nodes.get(uuid) {
                locks = locks.shared(Level::NodeGroup, &node.group);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let config = cx.config();
        let (node, remote) = nodes(self, &config)?;
        let instances = instances(self, &config, &node)?;
        let node = config.node_name(&node);
        if instances.is_empty() {
            cx.info(&format!("No instances to evacuate from node '{node}'"));
        } else {
            let names = instances.join(", ");
            cx.info(&format!("Evacuating instances from node '{node}': {names}"));
        }
        if let Some(remote) = &remote {
            for name in &instances {
                let primary = config.instance_by_name(name).map(|i| &i.primary_node);
                if primary == Some(remote) {
                    return Err(GanetiError::wrong_input(format!(
                        "Node {} is the primary node of instance {name}, cannot use it as secondary",
                        config.node_name(remote)
                    )));
                }
            }
        }
        Ok(Plan { way: way(self, &config, remote.as_ref())?, instances })
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        if plan.instances.is_empty() {
            return Ok(json!({"jobs": []}));
        }
        let jobs = match &plan.way {
            Way::Allocator(name) => allocated(self, cx, name, plan.instances).await?,
            Way::Secondary(node) => {
                let replace = |name: &String| {
                    let params = json!({
                        "instance_name": name, "remote_node": node, "disks": [],
                        "mode": "replace_new_secondary", "early_release": self.early_release,
                    });
                    let params = params.as_object().cloned().unwrap_or_default();
                    Ok(vec![read_op(OpId::InstanceReplaceDisks, &params, cx.compat())?])
                };
                plan.instances.iter().map(replace).collect::<Result<Vec<_>>>()?
            }
        };
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

/// The jobs that an allocator says.
async fn allocated(
    op: &NodeEvacuate,
    cx: &Cx,
    allocator: &str,
    instances: Vec<String>,
) -> Result<Vec<Vec<Op>>> {
    let mode = match op.mode {
        EvacuateMode::PrimaryOnly => EvacuationMode::PrimaryOnly,
        EvacuateMode::SecondaryOnly => EvacuationMode::SecondaryOnly,
        EvacuateMode::All => EvacuationMode::All,
    };
    let options = Options {
        ignore_soft_errors: op.ignore_soft_errors.unwrap_or(false),
        ..Options::default()
    };
    let request = Request::NodeEvacuate { instances, mode };
    let reply = allocate::ask_with(cx, allocator, &request, options).await?;
    let what = format!("Can't compute node evacuation using iallocator '{allocator}'");
    moves(cx, reply, &what, op.early_release, |moved| moved.nodes.join(", "))
}

/// The jobs of an allocator's moves, which the log names by where they go; what cannot move refuses all (Ganeti 3.0,
/// `LoadNodeEvacResult`).
pub(crate) fn moves(
    cx: &Cx,
    reply: Reply,
    failure: &str,
    early_release: bool,
    place: impl Fn(&Moved) -> String,
) -> Result<Vec<Vec<Op>>> {
    let Some(Found::Moves { moved, failed, jobs }) = reply.result else {
        let text = format!("{failure}: {}", reply.info);
        return Err(GanetiError::prereq(text, ErrorCode::InsufficientResources));
    };
    if !failed.is_empty() {
        let reason = |(name, reason): &(String, Option<String>)| {
            format!("{name} ({})", reason.as_deref().unwrap_or("None"))
        };
        let text = format!(
            "Unable to evacuate instances {}",
            failed.iter().map(reason).collect::<Vec<_>>().join(", ")
        );
        cx.warn(&text);
        return Err(GanetiError::exec(text));
    }
    if !moved.is_empty() {
        let moves: Vec<String> =
            moved.iter().map(|moved| format!("{} (to {})", moved.name, place(moved))).collect();
        cx.info(&format!("Instances to be moved: {}", moves.join(", ")));
    }
    let read = |step: &Value| {
        let mut params = step.as_object().cloned().unwrap_or_default();
        let id = params.shift_remove("OP_ID").unwrap_or_default();
        let id = id.as_str().and_then(OpId::parse).ok_or_else(|| {
            let text = ParamError::UnknownOpcode(python::str(&id)).to_string();
            GanetiError::exec(text)
        })?;
        if id == OpId::InstanceReplaceDisks {
            params.insert("early_release".to_owned(), json!(early_release));
        }
        read_op(id, &params, cx.compat())
    };
    jobs.iter().map(|job| job.iter().map(read).collect()).collect()
}

/// Makes an opcode of parameters.
pub(crate) fn read_op(id: OpId, params: &Dict, compat: Compat) -> Result<Op> {
    id.read(params, compat).map_err(|error| GanetiError::wrong_input(error.python_text()))
}
