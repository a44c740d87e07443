//! `OP_INSTANCE_MULTI_ALLOC`.

use model::config::Config;
use model::error::{ErrorCode, GanetiError, Result};
use model::opcode::{InstanceCreate, InstanceMultiAlloc, Op, OpCode, OpId, Opcode};
use model::param::{Dict, DiskTemplate, Hypervisor, NonEmpty};
use placement::answer::Found;
use placement::picture::{Allocation, Request};
use serde_json::{Value, json};

use super::checks::opportunistic;
use super::create::allocation::{allocation_of, full_beparams};
use super::{layout, nics};
use crate::allocate;
use crate::lu::{Cx, Locks, LogicalUnit, expand};

/// What is to be created where.
pub(crate) struct Plan {
    ops: Vec<InstanceCreate>,
    failed: Vec<String>,
}

/// Reads the creation opcodes that the opcode carries.
fn creations(cx: &Cx, instances: &[Dict]) -> Result<Vec<InstanceCreate>> {
    let read = |params: &Dict| {
        let mut params = params.clone();
        params.remove("OP_ID");
        let op = OpId::InstanceCreate.read(&params, cx.compat());
        match op.map_err(|error| GanetiError::wrong_input(error.python_text()))?.code {
            OpCode::InstanceCreate(op) => Ok(*op),
            other => {
                Err(GanetiError::wrong_input(format!("{} is not a creation", other.id().as_str())))
            }
        }
    };
    instances.iter().map(read).collect()
}

impl LogicalUnit for InstanceMultiAlloc {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        let ops = creations(cx, &self.instances)?;
        let mut given = Vec::new();
        for op in &ops {
            if op.iallocator.is_some() {
                let text = "iallocator are not allowed to be set on instance objects";
                return Err(GanetiError::wrong_input(text));
            }
            given.push(op.pnode.is_some());
            if op.disk_template == Some(DiskTemplate::Drbd) {
                given.push(op.snode.is_some());
            }
        }
        let any = given.contains(&true);
        // Ganeti: no instances at all count as instances with nodes on one side and without on the other.
        if given.iter().all(|given| *given) != any {
            return Err(GanetiError::wrong_input(
                "There are instance objects providing pnode/snode while others do not",
            ));
        }
        if !any && self.iallocator.is_none() {
            let default = NonEmpty::new(cx.config().cluster.default_iallocator.clone());
            self.iallocator = Some(default.ok_or_else(|| {
                GanetiError::wrong_input(
                    "No iallocator or nodes on the instances given and no cluster-wide default iallocator found; please \
                     specify either an iallocator or nodes on the instances or set a cluster-wide default iallocator",
                )
            })?);
        }
        opportunistic(self.opportunistic_locking, self.iallocator.is_some())?;
        let mut names: Vec<&str> = ops.iter().map(|op| op.instance_name.as_str()).collect();
        names.sort_unstable();
        let mut twice: Vec<&str> =
            names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        twice.dedup();
        if twice.is_empty() {
            Ok(())
        } else {
            let text = format!("There are duplicate instance names: {}", twice.join(", "));
            Err(GanetiError::wrong_input(text))
        }
    }

    /// None but the cluster's: nodes are chosen in view of what is set aside, and the creations lock what they use.
    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let mut ops = creations(cx, &self.instances)?;
        let Some(allocator) = self.iallocator.as_deref() else {
            return Ok(Plan { ops, failed: Vec::new() });
        };
        let requests: Vec<Allocation> =
            ops.iter_mut().map(|op| request(cx, op)).collect::<Result<_>>()?;
        let turn = cx.allocation_turn().await;
        let allocator = allocate::chosen(&cx.config(), Some(allocator))?;
        let reply = allocate::ask(cx, &allocator, &Request::MultiAllocate(requests)).await?;
        drop(turn);
        let Some(Found::Placements { placed, failed }) = reply.result else {
            return Err(GanetiError::prereq(
                format!("Can't compute nodes using iallocator '{allocator}': {}", reply.info),
                ErrorCode::InsufficientResources,
            ));
        };
        let mut chosen = Vec::new();
        for (name, nodes) in placed {
            let Some(at) = ops.iter().position(|op| op.instance_name == name) else { continue };
            let mut op = ops.swap_remove(at);
            op.pnode = nodes.first().and_then(NonEmpty::new);
            op.snode = nodes.get(1).and_then(NonEmpty::new);
            chosen.push(op);
        }
        Ok(Plan { ops: chosen, failed })
    }

    fn dry_run(&self, _cx: &Cx, plan: &Plan) -> Value {
        let mut result = partial(plan);
        result.insert("jobs".to_owned(), json!([]));
        Value::Object(result)
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let mut result = partial(&plan);
        tell(self, cx, &plan.ops);
        let jobs = plan.ops.into_iter().map(|op| vec![Op::from(op)]).collect();
        result.insert("jobs".to_owned(), cx.submit(jobs).await?);
        Ok(Value::Object(result))
    }
}

/// Has the job show the creations as they are submitted.
fn tell(op: &InstanceMultiAlloc, cx: &Cx, submitted: &[InstanceCreate]) {
    let config = cx.config();
    let mut told = op.clone();
    for params in &mut told.instances {
        let name = params.get("instance_name").and_then(Value::as_str);
        let Some(creation) = submitted.iter().find(|op| Some(op.instance_name.as_str()) == name)
        else {
            continue;
        };
        let nodes =
            [("pnode", "pnode_uuid", &creation.pnode), ("snode", "snode_uuid", &creation.snode)];
        for (param, uuid, node) in nodes {
            let Some(node) = node else { continue };
            params.insert(param.to_owned(), json!(node.as_str()));
            if let Ok(node) = expand::node(&config, node, None) {
                params.insert(uuid.to_owned(), json!(node.meta.uuid.as_str()));
            }
        }
        let comment = format!("Submitted by {}", InstanceMultiAlloc::DEF.id);
        params.insert("comment".to_owned(), json!(comment));
        params.insert("reason".to_owned(), serde_json::to_value(cx.reason()).unwrap_or_default());
    }
    cx.show(told);
}

fn partial(plan: &Plan) -> Dict {
    let names: Vec<&str> = plan.ops.iter().map(|op| op.instance_name.as_str()).collect();
    let mut result = Dict::new();
    result.insert("allocatable".to_owned(), json!(names));
    result.insert("failed".to_owned(), json!(plan.failed));
    result
}

/// What the allocator is asked for one of the instances.
fn request(cx: &Cx, op: &mut InstanceCreate) -> Result<Allocation> {
    let config = cx.config();
    let template = *op.disk_template.get_or_insert_with(|| {
        *config.cluster.enabled_disk_templates.first().unwrap_or(&DiskTemplate::Diskless)
    });
    let mut specs: Vec<Dict> = op.disks.iter().map(|disk| disk.0.clone()).collect();
    for spec in specs.iter_mut().filter(|_| template != DiskTemplate::Ext) {
        layout::force(spec)?;
    }
    let disks = layout::compute(&specs, template, config.cluster.volume_group_name.as_deref())?;
    let made_nics = nics::compute(cx, &op.nics, None)?;
    let be_full = full_beparams(&config, &mut op.beparams.clone())?;
    let hypervisor = op.hypervisor.or(config.cluster.enabled_hypervisors.first().copied());
    Ok(allocation_of(op, &disks, &made_nics, &be_full, hypervisor.unwrap_or(Hypervisor::Fake)))
}
