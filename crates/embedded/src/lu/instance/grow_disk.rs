//! `OP_INSTANCE_GROW_DISK`.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceGrowDisk;
use model::param::DiskTemplate;
use model::params;
use serde_json::{Value, json};

use super::{
    again, checks, disks, find, find_disk, hook_env, layout, nodes_of, real, spec_of, wipe,
};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};
use crate::spec;

/// Templates whose disks can grow.
const GROWABLE: &[DiskTemplate] = &[
    DiskTemplate::Drbd,
    DiskTemplate::Ext,
    DiskTemplate::File,
    DiskTemplate::Gluster,
    DiskTemplate::Plain,
    DiskTemplate::Rbd,
    DiskTemplate::Sharedfile,
];

pub(crate) struct Plan {
    instance: Arc<Instance>,
    disk: Arc<Disk>,
    /// The disk's place among the instance's.
    at: usize,
    nodes: Vec<Uuid>,
    /// In MiB.
    growth: u64,
    target: u64,
}

impl LogicalUnit for InstanceGrowDisk {
    type Plan = Plan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance = real(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let locks = Locks::new().exclusive(Level::Instance, &instance.name);
        Ok(super::lock_nodes(locks, &nodes_of(config, instance)))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let nodes = nodes_of(&config, &instance);
        for node in &nodes {
            checks::node_online(&config, node)?;
        }
        let disk = find_disk(&config, &instance, self.disk.0)?;
        if !GROWABLE.contains(&disk.dev_type) {
            let text = format!("Instance's disk layout {} does not support growing", disk.dev_type);
            return Err(GanetiError::wrong_input(text));
        }
        let (growth, target) = if self.absolute {
            let growth = self.amount.checked_sub(disk.size_mib).ok_or_else(|| {
                GanetiError::wrong_state(format!(
                    "Requested size ({}) is smaller than current disk size ({})",
                    layout::format_mib(self.amount),
                    layout::format_mib(disk.size_mib)
                ))
            })?;
            (growth, self.amount)
        } else {
            (self.amount, disk.size_mib.saturating_add(self.amount))
        };
        if !nodes.iter().any(|node| checks::exclusive_storage(&config, node)) {
            checks::free_space(cx, &nodes, &space_needed(&disk, growth))?;
        }
        let at = usize::try_from(self.disk.0).unwrap_or(usize::MAX);
        let plan = Plan { at, instance, disk, nodes, growth, target };
        check_policy(self, cx, &config, &plan)?;
        Ok(plan)
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        Some(hook_env::hooks(cx, &plan.instance, &own_env(self)))
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        let config = cx.config();
        let instance = expand::instance(&config, &self.instance_name, None).ok()?;
        hook_env::after(cx, &instance.name, &own_env(self))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let uuid = &plan.instance.meta.uuid;
        let only = [plan.at];
        let (all_well, _) = disks::assemble(cx, uuid, Some(&only), false).await?;
        if !all_well {
            return Err(GanetiError::exec("Cannot activate block device to grow"));
        }
        cx.log(&format!(
            "Growing disk {} of instance '{}' by {} to {}",
            plan.at,
            plan.instance.name,
            layout::format_mib(plan.growth),
            layout::format_mib(plan.target)
        ));
        grow(cx, &plan, true).await?;
        let wipe_from = if cx.config().cluster.prealloc_wipe_disks {
            Some(size_now(cx, &plan).await?)
        } else {
            None
        };
        grow(cx, &plan, false).await?;
        cx.commit(|draft| {
            draft.edit_disk(&plan.disk.meta.uuid, uuid, |disk| record(disk, plan.growth));
            draft.edit_instance(uuid, |_| ());
            Ok(())
        })
        .await?;
        if let Some(from) = wipe_from {
            let instance = again(cx, uuid)?;
            wipe::one(cx, &instance, plan.at, from).await?;
        }
        settle(self, cx, &plan).await?;
        Ok(Value::Null)
    }
}

/// What is told to hooks beside the instance.
fn own_env(op: &InstanceGrowDisk) -> [(&'static str, Value); 3] {
    [("DISK", json!(op.disk.0)), ("AMOUNT", json!(op.amount)), ("ABSOLUTE", json!(op.absolute))]
}

/// What growing takes from volume groups, in MiB.
fn space_needed(disk: &Disk, growth: u64) -> BTreeMap<String, u64> {
    match disk.dev_type {
        DiskTemplate::Plain => {
            let vg = disk.logical_id.first().and_then(Value::as_str).unwrap_or_default();
            BTreeMap::from([(vg.to_owned(), growth)])
        }
        DiskTemplate::Drbd => {
            disk.children.first().map(|data| space_needed(data, growth)).unwrap_or_default()
        }
        DiskTemplate::Blockdev
        | DiskTemplate::Diskless
        | DiskTemplate::Ext
        | DiskTemplate::File
        | DiskTemplate::Gluster
        | DiskTemplate::Rbd
        | DiskTemplate::Sharedfile => BTreeMap::new(),
    }
}

/// The policy of the primary node's group, as far as it is about disks.
fn check_policy(op: &InstanceGrowDisk, cx: &Cx, config: &Config, plan: &Plan) -> Result<()> {
    let group = config.nodes.get(&plan.instance.primary_node);
    let Some(group) = group.and_then(|node| config.groups.get(&node.group)) else {
        return Ok(());
    };
    let all = config.instance_disks(&plan.instance);
    let size = |disk: &Arc<Disk>| {
        if disk.meta.uuid == plan.disk.meta.uuid { plan.target } else { disk.size_mib }
    };
    let spec = params::ipolicy::Spec {
        disk_sizes_mib: all.iter().map(size).collect(),
        disk_types: all.iter().map(|disk| disk.dev_type).collect(),
        ..params::ipolicy::Spec::default()
    };
    let broken = params::ipolicy::violations(&params::ipolicy::fill(&config.cluster, group), &spec);
    if broken.is_empty() {
        return Ok(());
    }
    let text = format!("Growing disk {} violates policy: {}", op.disk.0, broken.join(", "));
    if op.ignore_ipolicy {
        cx.warn(&text);
        return Ok(());
    }
    Err(GanetiError::wrong_input(text))
}

/// Grows what the disk lies on, on each node; or only asks whether that would go.
async fn grow(cx: &Cx, plan: &Plan, dry_run: bool) -> Result<()> {
    let config = cx.config();
    let told = spec_of(cx, &plan.instance);
    let disk = spec::disk(&config, &plan.instance, &plan.disk);
    for uuid in &plan.nodes {
        let grown = match cx.node(uuid).await {
            Ok(node) => node.grow_disk(&told, &disk, plan.growth, dry_run).await,
            Err(error) => Err(error),
        };
        grown.map_err(|error| {
            let what = if dry_run { "Dry-run grow" } else { "Grow" };
            let name = config.node_name(uuid);
            GanetiError::exec(format!("{what} request failed to node {name}: {error}"))
        })?;
    }
    Ok(())
}

/// How large the disk really is before it grows, in MiB: only what comes behind that is wiped.
async fn size_now(cx: &Cx, plan: &Plan) -> Result<u64> {
    let primary = &plan.instance.primary_node;
    let disk = spec::disk(&cx.config(), &plan.instance, &plan.disk);
    let size = match cx.node(primary).await {
        Ok(node) => node.disk_size(&disk).await,
        Err(error) => Err(error),
    };
    // Ganeti: it names the node by its UUID here (3.0, cmdlib/instance_storage.py).
    let size = size.map_err(|error| {
        GanetiError::exec(format!("Failed to retrieve disk size from node '{primary}': {error}"))
    })?;
    size.ok_or_else(|| {
        let text = format!("Failed to retrieve disk size from primary node '{primary}'");
        GanetiError::exec(text)
    })
}

/// Notes the growth, in a mirror's data too.
fn record(disk: &mut Disk, growth: u64) {
    disk.size_mib += growth;
    if disk.dev_type == DiskTemplate::Drbd
        && let Some(data) = disk.children.first_mut()
    {
        data.size_mib += growth;
    }
}

/// Waits for the mirror, and takes the disk down again where the instance does not need it.
async fn settle(op: &InstanceGrowDisk, cx: &Cx, plan: &Plan) -> Result<()> {
    let was_active = plan.instance.disks_active;
    if !op.wait_for_sync {
        if !was_active {
            cx.warn(
                "Not shutting down the disk even if the instance is not supposed to be running because no wait for sync \
                 mode was requested",
            );
        }
        return Ok(());
    }
    let only = [plan.at];
    if !disks::wait_for_sync(cx, &plan.instance, Some(&only), false).await? {
        cx.warn("Disk syncing has not returned a good status; check the instance");
    }
    if !was_active {
        checks::state(cx, &plan.instance, checks::DOWN, Some("cannot shutdown disks"))?;
        disks::shutdown(cx, &plan.instance.meta.uuid, Some(&only), false).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use node::{Node, Verb};
    use serde_json::{Value, json};

    const WEB1: &str = "web1.example.com";

    fn grow(amount: u64, more: &Value) -> Value {
        let mut op = json!({"OP_ID": "OP_INSTANCE_GROW_DISK", "instance_name": WEB1, "disk": 0, "amount": amount});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    async fn bench(template: &str) -> Bench {
        let bench = Bench::new(2);
        let disks = json!([{"size": 1024}, {"size": 512}]);
        let mut more = json!({"disk_template": template, "disks": disks, "start": false});
        if template == "drbd" {
            more["snode"] = json!("node2.example.com");
        }
        bench.make(WEB1, more).await;
        let down = json!({"OP_ID": "OP_INSTANCE_DEACTIVATE_DISKS", "instance_name": WEB1});
        assert_eq!(bench.run(down).await.result, Ok(json!(null)));
        bench
    }

    fn sizes(bench: &Bench) -> Vec<u64> {
        let config = bench.config();
        let disks = config.instance_disks(config.instance_by_name(WEB1).unwrap());
        let children =
            disks.iter().flat_map(|disk| disk.children.iter().map(|child| child.size_mib));
        disks.iter().map(|disk| disk.size_mib).chain(children).collect()
    }

    #[tokio::test]
    async fn a_file_grows_by_an_amount_and_to_a_size() {
        let bench = bench("file").await;
        let outcome = bench.run(grow(8, &json!({}))).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert_eq!(
            outcome.log,
            [
                "Growing disk 0 of instance 'web1.example.com' by 8M to 1.0G",
                " - INFO: Waiting for instance web1.example.com to sync disks",
                " - INFO: Instance web1.example.com's disks are in sync",
            ]
        );
        assert_eq!(sizes(&bench), [1032, 512]);
        let absolute = json!({"absolute": true, "disk": 1, "wait_for_sync": false});
        let outcome = bench.run(grow(516, &absolute)).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert_eq!(
            outcome.log,
            [
                "Growing disk 1 of instance 'web1.example.com' by 4M to 516M",
                " - WARNING: Not shutting down the disk even if the instance is not supposed to be running because no wait \
                 for sync mode was requested",
            ]
        );
        assert_eq!(sizes(&bench), [1032, 516]);
    }

    #[tokio::test]
    async fn a_mirror_grows_on_both_nodes() {
        let bench = bench("drbd").await;
        bench.start(WEB1).await;
        let free = |node: &str| bench.world.node(node).state().storage[0].free_mib;
        let before = (free("node1.example.com"), free("node2.example.com"));
        assert_eq!(bench.run(grow(100, &json!({}))).await.result, Ok(json!(null)));
        assert_eq!(sizes(&bench), [1124, 512, 1124, 128, 512, 128]);
        assert_eq!(before, (free("node1.example.com") + 100, free("node2.example.com") + 100));
        assert!(bench.config().instance_by_name(WEB1).unwrap().disks_active);
    }

    #[tokio::test]
    async fn nodes_that_fail_fail_it() {
        let bench = bench("plain").await;
        for (verb, text) in [
            (Verb::AssembleDisk, "Cannot activate block device to grow"),
            (Verb::GrowDisk, "Dry-run grow request failed to node node1.example.com: no"),
        ] {
            bench.fault(WEB1, verb, "no").await;
            let refused = bench.run(grow(8, &json!({}))).await.result;
            assert_eq!(refused, Err(GanetiError::exec(text)));
        }
        assert_eq!(sizes(&bench), [1024, 512]);
        bench.wipe_new_disks().await;
        bench.fault(WEB1, Verb::DiskSize, "no").await;
        let primary = bench.config().instance_by_name(WEB1).unwrap().primary_node.clone();
        let text = format!("Failed to retrieve disk size from node '{primary}': no");
        assert_eq!(bench.run(grow(8, &json!({}))).await.result, Err(GanetiError::exec(text)));
        let outcome = bench.run(grow(8, &json!({}))).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert_eq!(outcome.log[1], " - INFO: * Wiping disk 0 (from 1.0G to 1.0G)");
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench("plain").await;
        let check = async |op: Value, text: &str, code: &str| {
            let refused = bench.run(op).await.result.map_err(|error: GanetiError| error.to_value());
            assert_eq!(refused, Err(json!(["OpPrereqError", [text, code]])));
        };
        check(
            grow(4, &json!({"disk": 9})),
            "Invalid disk index: 9 (instace has disks 0 to 1",
            "wrong_input",
        )
        .await;
        check(
            grow(2, &json!({"absolute": true})),
            "Requested size (2M) is smaller than current disk size (1.0G)",
            "wrong_state",
        )
        .await;
        check(
            grow(4_000_000_000, &json!({})),
            "Not enough disk space on target node node1.example.com vg xenvg: required 4000000000 MiB, available 4192768 \
             MiB",
            "insufficient_resources",
        )
        .await;
        check(
            grow(1_048_576, &json!({})),
            "Growing disk 0 violates policy: disk-size/0 value 1049600 is not in range [0, 1048576]",
            "wrong_input",
        )
        .await;
        let outcome = bench.run(grow(1_048_576, &json!({"ignore_ipolicy": true}))).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert!(outcome.log[0].starts_with(" - WARNING: Growing disk 0 violates policy: "));
        bench.set_offline("node1.example.com", true).await;
        check(grow(4, &json!({})), "Can't use offline node: node1.example.com", "wrong_state")
            .await;
    }

    #[tokio::test]
    async fn the_number_of_disks_may_be_none() {
        let bench = Bench::new(1);
        bench.make(WEB1, json!({})).await;
        let text = "Invalid disk index: 0 (instace has disks 0 to -1";
        assert_eq!(
            bench.run(grow(4, &json!({}))).await.result,
            Err(GanetiError::wrong_input(text))
        );
    }
}
