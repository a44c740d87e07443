//! `OP_GROUP_EVACUATE` and `OP_INSTANCE_CHANGE_GROUP`: submit the jobs by which instances go to other node groups, as an
//! allocator says.

use std::collections::BTreeSet;

use model::config::Config;
use model::error::{GanetiError, Result};
use model::job::{Depend, Status};
use model::name::Uuid;
use model::opcode::{GroupEvacuate, InstanceChangeGroup, InstanceFailover, Op, OpCode, OpId};
use model::param::{Dict, NonEmpty};
use model::units::natural_cmp;
use placement::picture::Request;
use serde_json::{Value, json};

use super::instance::{hook_env, nodes_of};
use super::nodes::evacuate::{moves, read_op};
use super::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks, shared_checks};
use crate::allocate;

/// The groups that an opcode names as targets.
fn named(config: &Config, targets: Option<&[NonEmpty]>) -> Result<Vec<Uuid>> {
    let group = |name: &NonEmpty| expand::group(config, name).map(|group| group.meta.uuid.clone());
    targets.unwrap_or_default().iter().map(group).collect()
}

/// Shared locks on groups and their nodes, and on instances.
fn locks_of<'a>(
    config: &Config,
    groups: impl IntoIterator<Item = &'a Uuid>,
    instances: &[String],
) -> Locks {
    let mut locks = Locks::new();
    for name in instances {
        locks = locks.shared(Level::Instance, name);
    }
    for group in groups {
        locks = locks.shared(Level::NodeGroup, group);
        for node in config.members(group) {
            locks = locks.shared(Level::Node, &node.meta.uuid);
        }
    }
    locks
}

/// The groups that an instance's nodes are in.
fn groups_of(config: &Config, instance: &model::config::Instance) -> BTreeSet<Uuid> {
    let nodes = nodes_of(config, instance);
    nodes.iter().filter_map(|uuid| config.nodes.get(uuid)).map(|node| node.group.clone()).collect()
}

fn no_targets() -> GanetiError {
    GanetiError::wrong_input("There are no possible target groups")
}

fn texts(uuids: &[Uuid]) -> Vec<String> {
    uuids.iter().map(Uuid::to_string).collect()
}

/// Asks the allocator for the moves, as jobs.
async fn allocated(
    cx: &Cx,
    allocator: &str,
    instances: Vec<String>,
    targets: &[Uuid],
    failure: &str,
    early_release: bool,
) -> Result<Vec<Vec<Op>>> {
    let request = Request::ChangeGroup { instances, target_groups: texts(targets) };
    let reply = allocate::ask(cx, allocator, &request).await?;
    moves(cx, reply, failure, early_release, |moved| moved.group.clone())
}

/// The allocator is settled before anything is looked up.
fn settle(cx: &Cx, iallocator: &mut Option<NonEmpty>) -> Result<()> {
    let chosen = allocate::chosen(&cx.config(), iallocator.as_deref())?;
    *iallocator = NonEmpty::new(chosen);
    Ok(())
}

fn evacuated(op: &GroupEvacuate, config: &Config) -> Result<(Uuid, Vec<String>, Vec<Uuid>)> {
    let group = expand::group(config, &op.group_name)?.meta.uuid.clone();
    let targets = named(config, op.target_groups.as_deref())?;
    if targets.contains(&group) {
        return Err(GanetiError::wrong_input(format!(
            "Group to be evacuated ({group}) can not be used as a target group (targets are {})",
            texts(&targets).join(", ")
        )));
    }
    let instances = shared_checks::instances_of_group(config, &group);
    let mut names: Vec<String> = instances.iter().map(|instance| instance.name.clone()).collect();
    names.sort_by(|a, b| natural_cmp(a, b));
    let others = || config.groups.keys().filter(|uuid| **uuid != group).cloned().collect();
    let targets = if targets.is_empty() { others() } else { targets };
    Ok((group, names, targets))
}

/// What an evacuation of a group does: the group, its instances, where they may go.
pub(crate) struct Evacuated {
    group: Uuid,
    instances: Vec<String>,
    targets: Vec<Uuid>,
}

impl LogicalUnit for GroupEvacuate {
    type Plan = Evacuated;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        evacuated(self, &cx.config())?;
        settle(cx, &mut self.iallocator)
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let (group, instances, targets) = evacuated(self, config)?;
        Ok(locks_of(config, std::iter::once(&group).chain(&targets), &instances))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Evacuated> {
        let (group, instances, targets) = evacuated(self, &cx.config())?;
        if targets.is_empty() {
            return Err(no_targets());
        }
        Ok(Evacuated { group, instances, targets })
    }

    fn hooks(&self, cx: &Cx, plan: &Evacuated) -> Option<Hooks> {
        let config = cx.config();
        let nodes = plain_hooks::on_master_and_groups(&config, [&plan.group]);
        let variables = [
            ("GROUP_NAME", self.group_name.to_string()),
            ("TARGET_GROUPS", texts(&plan.targets).join(" ")),
        ];
        Some(plain_hooks::hooks("GROUP", &self.group_name, variables, nodes))
    }

    async fn exec(&self, cx: &Cx, plan: Evacuated) -> Result<Value> {
        let allocator = self.iallocator.as_deref().map_or("", |name| name);
        let failure = format!("Can't compute group evacuation using iallocator '{allocator}'");
        let instances = plan.instances;
        let mut jobs =
            allocated(cx, allocator, instances, &plan.targets, &failure, self.early_release)
                .await?;
        let count = jobs.len();
        let group = &self.group_name;
        cx.info(&format!("Iallocator returned {count} job(s) for evacuating node group {group}"));
        if self.force_failover {
            cx.info("Will insist on failovers");
            for op in jobs.iter_mut().flatten() {
                if let OpCode::InstanceMigrate(migrate) = &op.code {
                    op.code = failover(cx, migrate)?.into();
                }
            }
        }
        if self.sequential {
            cx.info("Jobs will be submitted to run sequentially");
            let before = Depend { job: -1, statuses: vec![Status::Error, Status::Success] };
            for op in jobs.iter_mut().skip(1).flatten() {
                op.common.depends = Some(vec![before.clone()]);
            }
        }
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

/// The failover that goes where a migration would.
fn failover(cx: &Cx, migrate: &model::opcode::InstanceMigrate) -> Result<InstanceFailover> {
    let params = json!({
        "instance_name": migrate.instance_name,
        "instance_uuid": migrate.instance_uuid.as_deref(),
        "target_node": migrate.target_node.as_deref(),
        "target_node_uuid": migrate.target_node_uuid.as_deref(),
        "ignore_ipolicy": migrate.ignore_ipolicy,
        "cleanup": migrate.cleanup,
    });
    let params: Dict = params.as_object().cloned().unwrap_or_default();
    match read_op(OpId::InstanceFailover, &params, cx.compat())?.code {
        OpCode::InstanceFailover(op) => Ok(*op),
        other => Err(GanetiError::exec(format!("{} is no failover", other.id().as_str()))),
    }
}

/// The groups that an instance may go to.
fn targets_of(op: &InstanceChangeGroup, config: &Config) -> Result<Vec<Uuid>> {
    let instance = expand::instance(config, &op.instance_name, op.instance_uuid.as_deref())?;
    let own = groups_of(config, instance);
    let targets = named(config, op.target_groups.as_deref())?;
    if targets.is_empty() {
        return Ok(config.groups.keys().filter(|uuid| !own.contains(*uuid)).cloned().collect());
    }
    let conflicts: Vec<String> =
        targets.iter().filter(|uuid| own.contains(*uuid)).map(Uuid::to_string).collect();
    if conflicts.is_empty() {
        return Ok(targets);
    }
    Err(GanetiError::wrong_input(format!(
        "Can't use group(s) '{}' as targets, they are used by the instance '{}'",
        conflicts.join(", "),
        instance.name
    )))
}

impl LogicalUnit for InstanceChangeGroup {
    type Plan = Vec<Uuid>;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        let config = cx.config();
        expand::instance(&config, &self.instance_name, self.instance_uuid.as_deref())?;
        named(&config, self.target_groups.as_deref())?;
        settle(cx, &mut self.iallocator)
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance =
            expand::instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let mut groups = groups_of(config, instance);
        groups.extend(targets_of(self, config)?);
        Ok(locks_of(config, &groups, std::slice::from_ref(&instance.name)))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Uuid>> {
        let targets = targets_of(self, &cx.config())?;
        if targets.is_empty() { Err(no_targets()) } else { Ok(targets) }
    }

    fn hooks(&self, cx: &Cx, plan: &Vec<Uuid>) -> Option<Hooks> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None).ok()?;
        let mut env = hook_env::of(cx, &config, instance);
        env.insert("TARGET_GROUPS".to_owned(), texts(plan).join(" "));
        let nodes = plain_hooks::on_master(&config);
        Some(Hooks { post_env: env.clone(), env, pre_nodes: nodes.clone(), post_nodes: nodes })
    }

    async fn exec(&self, cx: &Cx, targets: Vec<Uuid>) -> Result<Value> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None)?.name.clone();
        let allocator = self.iallocator.as_deref().map_or("", |name| name);
        let failure = format!(
            "Can't compute solution for changing group of instance '{instance}' using iallocator '{allocator}'"
        );
        let names = vec![instance.clone()];
        let jobs = allocated(cx, allocator, names, &targets, &failure, self.early_release).await?;
        let count = jobs.len();
        cx.info(&format!(
            "Iallocator returned {count} job(s) for changing group of instance '{instance}'"
        ));
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::lu::testing::Bench;

    async fn bench() -> Bench {
        let bench = Bench::new(4);
        for node in ["node3.example.com", "node4.example.com"] {
            let add = json!({"OP_ID": "OP_GROUP_ADD", "group_name": "far"});
            if bench.config().group_by_name("far").is_none() {
                assert_eq!(bench.run(add).await.result, Ok(Value::Null));
            }
            let assign =
                json!({"OP_ID": "OP_GROUP_ASSIGN_NODES", "group_name": "far", "nodes": [node]});
            assert_eq!(bench.run(assign).await.result, Ok(Value::Null));
        }
        let shared = json!({"disk_template": "sharedfile", "disks": [{"size": 64}]});
        bench.make("web1.example.com", shared).await;
        bench
    }

    #[tokio::test]
    async fn instances_go_to_another_group() {
        let bench = bench().await;
        let change = json!({"OP_ID": "OP_INSTANCE_CHANGE_GROUP", "instance_name": "web1", "iallocator": "hail"});
        let outcome = bench.run(change).await;
        assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})), "{:?}", outcome.log);
        assert_eq!(
            outcome.jobs[0][0].summary(model::compat::Compat::V31),
            "INSTANCE_MIGRATE(web1.example.com)"
        );
        let last = outcome.log.last().unwrap();
        let text = " - INFO: Iallocator returned 1 job(s) for changing group of instance 'web1.example.com'";
        assert_eq!(last, text);
    }

    #[tokio::test]
    async fn a_group_is_evacuated() {
        let bench = bench().await;
        let mut evacuate = json!({"OP_ID": "OP_GROUP_EVACUATE", "group_name": "default", "iallocator": "hail",
            "force_failover": true, "sequential": true});
        let outcome = bench.run(evacuate.clone()).await;
        assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})), "{:?}", outcome.log);
        assert_eq!(
            outcome.jobs[0][0].summary(model::compat::Compat::V31),
            "INSTANCE_FAILOVER(web1.example.com)"
        );
        evacuate["target_groups"] = json!(["default"]);
        let refused = bench.run(evacuate).await.result.unwrap_err();
        assert!(refused.to_string().contains("can not be used as a target group"), "{refused}");
    }

    #[tokio::test]
    async fn there_must_be_another_group() {
        let bench = Bench::new(2);
        bench.make("web1.example.com", json!({})).await;
        for op in [
            json!({"OP_ID": "OP_GROUP_EVACUATE", "group_name": "default", "iallocator": "hail"}),
            json!({"OP_ID": "OP_INSTANCE_CHANGE_GROUP", "instance_name": "web1", "iallocator": "hail"}),
        ] {
            let refused = bench.run(op).await.result.unwrap_err();
            assert_eq!(refused.args[0], json!("There are no possible target groups"));
        }
    }
}
