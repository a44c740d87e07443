//! `OP_INSTANCE_RECREATE_DISKS`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceRecreateDisks;
use model::param::{Dict, DiskTemplate};
use model::params;
use placement::picture::{Allocation, Request};
use serde_json::{Value, json};

use super::{
    again, checks, disk_template, disks, find, hook_env, layout, lock_nodes, nodes_of, real,
    spec_of, wipe,
};
use crate::allocate;
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};
use crate::spec;

/// What may be changed about a disk that is made again.
const MODIFIABLE: &[&str] = &["size", "mode", "spindles"];

pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// The nodes to go to, the primary first, where they change.
    nodes: Option<Vec<Uuid>>,
    /// By the disk's place among the instance's.
    changes: BTreeMap<usize, Dict>,
}

impl LogicalUnit for InstanceRecreateDisks {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for (index, _) in self.disks.iter() {
            if !seen.insert(*index) {
                twice.insert(index.to_string());
            }
        }
        if !twice.is_empty() {
            let twice: Vec<String> = twice.into_iter().collect();
            let text =
                format!("Some disks have been specified more than once: {}", twice.join(", "));
            return Err(GanetiError::wrong_input(text));
        }
        // Where neither is given the disks stay where they are, whatever the cluster's allocator is.
        if self.iallocator.is_some() || !self.nodes.is_empty() {
            let named = self.iallocator.clone();
            self.iallocator = checks::iallocator_or_node(cx, named, !self.nodes.is_empty())?;
        }
        for (index, changes) in &mut self.disks.0 {
            layout::force(changes)?;
            let other: Vec<&str> = changes
                .keys()
                .map(String::as_str)
                .filter(|name| !MODIFIABLE.contains(name))
                .collect();
            if !other.is_empty() {
                return Err(GanetiError::wrong_input(format!(
                    "Parameters for disk {index} try to change unmodifyable parameter(s): {}",
                    other.join(", ")
                )));
            }
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance = real(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let named = named_nodes(self, config)?;
        let locks = Locks::new().exclusive(Level::Instance, &instance.name);
        Ok(match (named, &self.iallocator) {
            (Some(nodes), _) => lock_nodes(locks, &nodes),
            // The allocator's choice is locked once it is made.
            (None, Some(_)) => locks,
            (None, None) => lock_nodes(locks, &nodes_of(config, instance)),
        })
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let mut nodes = named_nodes(self, &config)?;
        if let Some(nodes) = &nodes {
            let count = nodes_of(&config, &instance).len();
            if nodes.len() != count {
                return Err(GanetiError::wrong_input(format!(
                    "Instance {} currently has {count} nodes, but {} replacement nodes were specified",
                    instance.name,
                    nodes.len()
                )));
            }
        }
        if self.iallocator.is_none() {
            let primary = nodes.as_ref().and_then(|nodes| nodes.first());
            checks::node_online(&config, primary.unwrap_or(&instance.primary_node))?;
        }
        if instance.disks.is_empty() {
            let text = format!("Instance '{}' has no disks", instance.name);
            return Err(GanetiError::wrong_input(text));
        }
        let moves = self.iallocator.is_some() || nodes.is_some();
        let lost = config.nodes.get(&instance.primary_node).is_some_and(|node| node.offline);
        if !(moves && lost) {
            let message = Some("cannot recreate disks");
            checks::state(cx, &instance, checks::NOT_RUNNING, message)?;
        }
        let changes = wanted(self, &instance)?;
        if moves && changes.len() != instance.disks.len() {
            return Err(GanetiError::wrong_input(
                "Can't recreate disks partially and change the nodes at the same time",
            ));
        }
        if let Some(allocator) = &self.iallocator {
            nodes = Some(choose(cx, &config, &instance, allocator).await?);
        }
        let all = nodes.clone().unwrap_or_else(|| nodes_of(&config, &instance));
        let exclusive = all.iter().any(|node| checks::exclusive_storage(&config, node));
        for changes in changes.values() {
            if changes.contains_key("spindles") {
                checks::check_spindles(true, exclusive)?;
            }
        }
        Ok(Plan { instance, nodes, changes })
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        Some(hook_env::hooks(cx, &plan.instance, &[]))
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None).ok()?;
        hook_env::after(cx, &instance.name, &[])
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        write(cx, &plan).await?;
        let instance = again(cx, &plan.instance.meta.uuid)?;
        let config = cx.config();
        layout::check_enabled(&config, disk_template(&config, &instance))?;
        let all = config.instance_disks(&instance);
        let made: Vec<Disk> = plan
            .changes
            .keys()
            .filter_map(|at| all.get(*at))
            .map(|disk| Disk::clone(disk))
            .collect();
        disks::create(cx, &spec_of(cx, &instance), &instance, &made, None).await?;
        if config.cluster.prealloc_wipe_disks {
            for at in plan.changes.keys() {
                if let Err(error) = wipe::one(cx, &instance, *at, 0).await {
                    remove_again(cx, &config, &instance, &made).await;
                    return Err(error);
                }
            }
        }
        Ok(Value::Null)
    }
}

/// The nodes that are named, in their order.
fn named_nodes(op: &InstanceRecreateDisks, config: &Config) -> Result<Option<Vec<Uuid>>> {
    if op.nodes.is_empty() {
        return Ok(None);
    }
    let uuid = |name| expand::node(config, name, None).map(|node| node.meta.uuid.clone());
    op.nodes.iter().map(|name| uuid(name)).collect::<Result<_>>().map(Some)
}

/// The disks to make and what changes about them.
fn wanted(op: &InstanceRecreateDisks, instance: &Instance) -> Result<BTreeMap<usize, Dict>> {
    if op.disks.is_empty() {
        return Ok((0..instance.disks.len()).map(|at| (at, Dict::new())).collect());
    }
    let last = op.disks.iter().map(|(index, _)| *index).max().unwrap_or(0);
    let inside = usize::try_from(last).is_ok_and(|last| last < instance.disks.len());
    if !inside {
        return Err(GanetiError::wrong_input(format!("Invalid disk index '{last}'")));
    }
    let each =
        |(index, changes): &(u64, Dict)| Some((usize::try_from(*index).ok()?, changes.clone()));
    Ok(op.disks.iter().filter_map(each).collect())
}

/// Asks an allocator for nodes as for a new instance of this shape, and locks them with those of now.
async fn choose(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    allocator: &str,
) -> Result<Vec<Uuid>> {
    let request = Request::Allocate(allocation(config, instance));
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
    cx.port().acquire(&lock_nodes(Locks::none(), &nodes)).await?;
    Ok(nodes)
}

fn allocation(config: &Config, instance: &Instance) -> Allocation {
    let filled = params::be::fill(&config.cluster, &instance.beparams);
    let number = |name: &str| i64::try_from(params::be::number(&filled, name)).unwrap_or(i64::MAX);
    let disks = config.instance_disks(instance);
    Allocation {
        name: instance.name.clone(),
        disk_template: allocate::template(disk_template(config, instance)),
        group_name: None,
        tags: instance.tags.iter().cloned().collect(),
        os: instance.os.clone(),
        memory_mib: number("maxmem"),
        vcpus: number("vcpus"),
        spindle_use: number("spindle_use"),
        disks: disks
            .iter()
            .map(|disk| placement::instance::Disk {
                size_mib: i64::try_from(disk.size_mib).unwrap_or(i64::MAX),
                mode: disk.mode.clone(),
                spindles: disk.spindles.and_then(|count| i64::try_from(count).ok()),
            })
            .collect(),
        nics: vec![placement::instance::Nic {
            mac: None,
            ip: None,
            mode: None,
            link: None,
            network: None,
        }],
        hypervisor: instance.hypervisor.as_str().to_owned(),
        restrict_to_nodes: None,
    }
}

/// Writes down what the disks will be and where, all at once.
async fn write(cx: &Cx, plan: &Plan) -> Result<()> {
    let config = cx.config();
    let all = config.instance_disks(&plan.instance);
    let uuid = &plan.instance.meta.uuid;
    let mut ids = BTreeMap::new();
    for (at, disk) in all.iter().enumerate() {
        if let (Some([primary, secondary]), DiskTemplate::Drbd) =
            (plan.nodes.as_deref(), disk.dev_type)
        {
            let mut id = disk.logical_id.clone();
            let minors =
                [layout::reserve_minor(cx, primary)?, layout::reserve_minor(cx, secondary)?];
            // The port and the secret stay.
            for (place, value) in [
                (0, Value::from(primary)),
                (1, Value::from(secondary)),
                (3, json!(minors[0])),
                (4, json!(minors[1])),
            ] {
                if let Some(part) = id.get_mut(place) {
                    *part = value;
                }
            }
            ids.insert(at, id);
        }
    }
    if plan.nodes.is_some() {
        cx.warn(
            "Changing the instance's nodes, you will have to remove any disks left on the older nodes manually",
        );
    }
    cx.commit(|draft| {
        if let Some(primary) = plan.nodes.as_ref().and_then(|nodes| nodes.first()) {
            draft.edit_instance(uuid, |instance| instance.primary_node = primary.clone());
        }
        for (at, disk) in all.iter().enumerate() {
            let changes = plan.changes.get(&at);
            if changes.is_none() && plan.nodes.is_none() {
                continue;
            }
            draft.edit_disk(&disk.meta.uuid, uuid, |disk| {
                if let Some(id) = ids.remove(&at) {
                    disk.logical_id = id;
                }
                if let Some(nodes) = &plan.nodes {
                    place(disk, nodes);
                }
                if let Some(changes) = changes {
                    apply(disk, changes);
                }
            });
        }
        Ok(())
    })
    .await
}

/// Notes the nodes of a disk and of what it lies on; disks that all nodes reach have none.
fn place(disk: &mut Disk, nodes: &[Uuid]) {
    if !disk.nodes.is_empty() {
        disk.nodes = nodes.to_vec();
    }
    for child in &mut disk.children {
        place(child, nodes);
    }
}

fn apply(disk: &mut Disk, changes: &Dict) {
    if let Some(size_mib) = changes.get("size").and_then(Value::as_u64) {
        disk.size_mib = size_mib;
        if disk.dev_type == DiskTemplate::Drbd
            && let Some(data) = disk.children.first_mut()
        {
            data.size_mib = size_mib;
        }
    }
    if let Some(mode) = changes.get("mode").and_then(Value::as_str) {
        disk.mode = mode.to_owned();
    }
    if let Some(spindles) = changes.get("spindles").and_then(Value::as_u64) {
        disk.spindles = Some(spindles);
    }
}

/// Removes what was made, after wiping it failed; what stays is told.
async fn remove_again(cx: &Cx, config: &Config, instance: &Instance, made: &[Disk]) {
    let told = spec_of(cx, instance);
    for disk in made {
        let disk_spec = spec::disk(config, instance, disk);
        let holders = if disk.nodes.is_empty() {
            std::slice::from_ref(&instance.primary_node)
        } else {
            &disk.nodes
        };
        for uuid in holders {
            let removed = match cx.node(uuid).await {
                Ok(node) => node.remove_disk(&told, &disk_spec).await,
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                let node = config.node_name(uuid);
                cx.warn(&format!(
                    "Failed to remove newly-created disk {} on node {node}: {error}",
                    disk.iv_name
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use node::{Node, Verb};
    use serde_json::{Value, json};

    const WEB1: &str = "web1.example.com";
    const NODE1: &str = "node1.example.com";
    const NODE2: &str = "node2.example.com";
    const NODE3: &str = "node3.example.com";

    fn recreate(more: &Value) -> Value {
        let mut op = json!({"OP_ID": "OP_INSTANCE_RECREATE_DISKS", "instance_name": WEB1});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    async fn bench(template: &str) -> Bench {
        let bench = Bench::new(3);
        let disks = json!([{"size": 1024}, {"size": 512}]);
        let mut more = json!({"disk_template": template, "disks": disks, "start": false});
        if template == "drbd" {
            more["snode"] = json!(NODE2);
        }
        bench.make(WEB1, more).await;
        bench
    }

    /// Loses a disk of the instance on its nodes.
    async fn lose(bench: &Bench, at: usize) {
        let config = bench.config();
        let instance = config.instance_by_name(WEB1).unwrap();
        let told = crate::spec::instance(&config, bench.shared.compat, instance);
        for name in &told.disks[at].nodes {
            bench.world.node(name).remove_disk(&told, &told.disks[at]).await.unwrap();
        }
    }

    fn starts(bench: &Bench) -> impl Future<Output = ()> + '_ {
        bench.start(WEB1)
    }

    #[tokio::test]
    async fn a_lost_disk_is_made_again() {
        let bench = bench("plain").await;
        lose(&bench, 1).await;
        let outcome =
            bench.run(recreate(&json!({"disks": [[1, {"size": "1g", "mode": "ro"}]]}))).await;
        assert_eq!((outcome.result, outcome.log), (Ok(json!(null)), vec![]));
        let config = bench.config();
        let disks = config.instance_disks(config.instance_by_name(WEB1).unwrap());
        assert_eq!((disks[1].size_mib, disks[1].mode.as_str()), (1024, "ro"));
        assert_eq!(disks[0].meta.serial_no, 1);
        starts(&bench).await;
    }

    #[tokio::test]
    async fn disks_that_are_there_are_in_the_way() {
        let bench = bench("file").await;
        let error = bench.run(recreate(&json!({}))).await.result.unwrap_err().to_string();
        assert!(error.starts_with("Can't create block device <Disk(type=file, "), "{error}");
        assert!(error.contains("[Errno 17] File exists: '"), "{error}");
    }

    #[tokio::test]
    async fn a_mirror_moves_to_nodes_that_are_named() {
        let bench = bench("drbd").await;
        bench.set_offline(NODE1, true).await;
        let before = bench.config();
        let outcome = bench.run(recreate(&json!({"nodes": [NODE2, NODE3]}))).await;
        assert_eq!(outcome.result, Ok(json!(null)), "{:?}", outcome.log);
        assert_eq!(
            outcome.log,
            [
                " - WARNING: Changing the instance's nodes, you will have to remove any disks left on the older nodes manually"
            ]
        );
        let config = bench.config();
        let instance = config.instance_by_name(WEB1).unwrap();
        let names: Vec<&str> = super::nodes_of(&config, instance)
            .iter()
            .map(|uuid| config.nodes[uuid].name.as_str())
            .collect();
        assert_eq!(names, [NODE2, NODE3]);
        let old = before.instance_disks(before.instance_by_name(WEB1).unwrap());
        for (disk, old) in config.instance_disks(instance).iter().zip(old) {
            assert_eq!(disk.logical_id[2], old.logical_id[2]);
            assert_eq!(disk.logical_id[5], old.logical_id[5]);
            assert_eq!(disk.logical_id[0], json!(instance.primary_node.as_str()));
        }
        starts(&bench).await;
    }

    #[tokio::test]
    async fn an_allocator_chooses_nodes() {
        let bench = bench("plain").await;
        bench.set_offline(NODE1, true).await;
        let outcome = bench.run(recreate(&json!({"iallocator": "hail"}))).await;
        assert_eq!(outcome.result, Ok(json!(null)), "{:?}", outcome.log);
        let config = bench.config();
        let primary =
            config.node_name(&config.instance_by_name(WEB1).unwrap().primary_node).to_owned();
        assert_ne!(primary, NODE1);
        let line =
            format!(" - INFO: Selected nodes for instance {WEB1} via iallocator hail: {primary}");
        assert_eq!(outcome.log[0], line);
    }

    #[tokio::test]
    async fn what_cannot_be_wiped_is_removed_again() {
        let bench = bench("plain").await;
        bench.wipe_new_disks().await;
        for at in [0, 1] {
            lose(&bench, at).await;
        }
        bench.fault(WEB1, Verb::WipeDisk, "no").await;
        let refused = bench.run(recreate(&json!({}))).await.result;
        let text = "Could not wipe disk 0 at offset 0 for size 102: no";
        assert_eq!(refused, Err(GanetiError::exec(text)));
        assert_eq!(bench.run(recreate(&json!({}))).await.result, Ok(json!(null)));
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench("file").await;
        let check = async |more: Value, text: &str| {
            let refused = bench.run(recreate(&more)).await.result;
            assert_eq!(refused, Err(GanetiError::wrong_input(text)));
        };
        check(
            json!({"disks": [[0, {}], [0, {}]]}),
            "Some disks have been specified more than once: 0",
        )
        .await;
        check(
            json!({"nodes": [NODE2], "iallocator": "hail"}),
            "Do not specify both, iallocator and node",
        )
        .await;
        check(
            json!({"nodes": [NODE2, NODE3]}),
            "Instance web1.example.com currently has 1 nodes, but 2 replacement nodes were specified",
        )
        .await;
        check(json!({"disks": [5]}), "Invalid disk index '5'").await;
        check(
            json!({"nodes": [NODE2], "disks": [0]}),
            "Can't recreate disks partially and change the nodes at the same time",
        )
        .await;
        check(
            json!({"disks": [[0, {"vg": "xenvg"}]]}),
            "Parameters for disk 0 try to change unmodifyable parameter(s): vg",
        )
        .await;
        check(
            json!({"disks": [[0, {"spindles": 2}]]}),
            "Spindles in instance disks cannot be specified when exclusive storage is not active",
        )
        .await;
        bench.start(WEB1).await;
        let text = "Instance 'web1.example.com' is marked to be up, cannot recreate disks";
        assert_eq!(
            bench.run(recreate(&json!({}))).await.result,
            Err(GanetiError::wrong_state(text))
        );
        bench.make("web2.example.com", json!({"start": false})).await;
        let op = json!({"OP_ID": "OP_INSTANCE_RECREATE_DISKS", "instance_name": "web2"});
        let text = "Instance 'web2.example.com' has no disks";
        assert_eq!(bench.run(op).await.result, Err(GanetiError::wrong_input(text)));
        bench.set_offline(NODE1, true).await;
        let text = "Can't use offline node: node1.example.com";
        assert_eq!(
            bench.run(recreate(&json!({}))).await.result,
            Err(GanetiError::wrong_state(text))
        );
    }
}
