//! Disks are replaced, or not: as opcodes on a simulated cluster.

use std::sync::Arc;

use crate::lu::testing::{Bench, Outcome};
use model::config::Disk;
use model::error::{ErrorCode, GanetiError};
use node::{DiskSpec, Node, Verb};
use serde_json::{Value, json};

const WEB1: &str = "web1.example.com";
const NODE1: &str = "node1.example.com";
const NODE2: &str = "node2.example.com";
const NODE3: &str = "node3.example.com";

fn replace(mode: &str, more: &Value) -> Value {
    let mode = format!("replace_{mode}");
    let mut op = json!({"OP_ID": "OP_INSTANCE_REPLACE_DISKS", "instance_name": WEB1, "mode": mode});
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}

fn to(node: &str) -> Value {
    replace("new_secondary", &json!({"remote_node": node}))
}

/// Three nodes, and an instance with two mirrored disks on the first two.
async fn bench() -> Bench {
    let bench = Bench::new(3);
    let disks = json!([{"size": 1024}, {"size": 512}]);
    bench.make(WEB1, json!({"disk_template": "drbd", "disks": disks, "snode": NODE2})).await;
    bench
}

fn disks(bench: &Bench) -> Vec<Arc<Disk>> {
    let config = bench.config();
    config.instance_disks(config.instance_by_name(WEB1).unwrap())
}

fn spec(bench: &Bench, at: usize) -> DiskSpec {
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    crate::spec::disk(&config, instance, &disks(bench)[at])
}

fn secondary(bench: &Bench) -> String {
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    config.node_name(&config.secondary_nodes(instance)[0]).to_owned()
}

fn free(bench: &Bench, node: &str) -> u64 {
    bench.world.node(node).state().storage[0].free_mib
}

fn went(outcome: &Outcome) {
    assert_eq!(outcome.result, Ok(json!(null)), "{:?}", outcome.log);
}

fn failed(outcome: &Outcome, text: &str) {
    assert_eq!(outcome.result, Err(GanetiError::exec(text)), "{:?}", outcome.log);
}

#[tokio::test]
async fn storage_is_replaced_where_it_is() {
    let bench = bench().await;
    let before = (disks(&bench), free(&bench, NODE1), free(&bench, NODE2));
    let outcome = bench.run(replace("on_secondary", &json!({"disks": [1]}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            "Replacing disk(s) 1 for instance 'web1.example.com'",
            "Current primary node: node1.example.com",
            "Current secondary node: node2.example.com",
            "STEP 1/6 Check device existence",
            " - INFO: Checking disk/1 on node1.example.com",
            " - INFO: Checking disk/1 on node2.example.com",
            " - INFO: Checking volume groups",
            "STEP 2/6 Check peer consistency",
            " - INFO: Checking disk/1 consistency on node node1.example.com",
            "STEP 3/6 Allocate new storage",
            " - INFO: Adding storage on node2.example.com for disk/1",
            "STEP 4/6 Changing drbd configuration",
            " - INFO: Detaching disk/1 drbd from local storage",
            " - INFO: Renaming the old LVs on the target node",
            " - INFO: Renaming the new LVs on the target node",
            " - INFO: Adding new mirror component on node2.example.com",
            "STEP 5/6 Sync devices",
            " - INFO: Waiting for instance web1.example.com to sync disks",
            " - INFO: Instance web1.example.com's disks are in sync",
            "STEP 6/6 Removing old storage",
            " - INFO: Remove logical volumes for disk/1",
        ]
    );
    assert_eq!((disks(&bench), free(&bench, NODE1), free(&bench, NODE2)), before);
    let outcome = bench.run(replace("on_primary", &json!({"early_release": true}))).await;
    went(&outcome);
    let steps: Vec<&String> = outcome.log.iter().filter(|line| line.starts_with("STEP ")).collect();
    assert_eq!(steps[4..], ["STEP 5/6 Removing old storage", "STEP 6/6 Sync devices"]);
    assert_eq!((disks(&bench), free(&bench, NODE1), free(&bench, NODE2)), before);
}

#[tokio::test]
async fn what_is_lost_is_found_by_itself() {
    let bench = bench().await;
    let outcome = bench.run(replace("auto", &json!({}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            " - INFO: Checking disk/0 on node1.example.com",
            " - INFO: Checking disk/0 on node2.example.com",
            " - INFO: Checking disk/1 on node1.example.com",
            " - INFO: Checking disk/1 on node2.example.com",
            "No disks need replacement for instance 'web1.example.com'",
        ]
    );
    bench.world.node(NODE2).detach_storage(&spec(&bench, 0)).await.unwrap();
    let outcome = bench.run(replace("auto", &json!({}))).await;
    went(&outcome);
    assert_eq!(outcome.log[4], "Replacing disk(s) 0 for instance 'web1.example.com'");
    let status = bench.world.node(NODE2).disk_status(&spec(&bench, 0)).await.unwrap().unwrap();
    assert_eq!((status.is_degraded, status.ldisk_status), (false, 1));
    bench.world.node(NODE2).detach_storage(&spec(&bench, 0)).await.unwrap();
    bench.world.node(NODE1).detach_storage(&spec(&bench, 1)).await.unwrap();
    let text = "Instance web1.example.com has faulty disks on more than one node and can not be repaired automatically";
    assert_eq!(
        bench.run(replace("auto", &json!({}))).await.result,
        Err(GanetiError::wrong_state(text))
    );
}

#[tokio::test]
async fn the_secondary_moves_to_a_node_that_is_named() {
    let bench = bench().await;
    let before = disks(&bench);
    let full = free(&bench, NODE3);
    let outcome = bench.run(to("node3")).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            "Replacing disk(s) 0, 1 for instance 'web1.example.com'",
            "Current primary node: node1.example.com",
            "Current secondary node: node2.example.com",
            "STEP 1/6 Check device existence",
            " - INFO: Checking disk/0 on node1.example.com",
            " - INFO: Checking disk/1 on node1.example.com",
            " - INFO: Checking volume groups",
            "STEP 2/6 Check peer consistency",
            " - INFO: Checking disk/0 consistency on node node1.example.com",
            " - INFO: Checking disk/1 consistency on node node1.example.com",
            "STEP 3/6 Allocate new storage",
            " - INFO: Adding new local storage on node3.example.com for disk/0",
            " - INFO: Adding new local storage on node3.example.com for disk/1",
            "STEP 4/6 Changing drbd configuration",
            " - INFO: activating a new drbd on node3.example.com for disk/0",
            " - INFO: activating a new drbd on node3.example.com for disk/1",
            " - INFO: Shutting down drbd for disk/0 on old node",
            " - INFO: Shutting down drbd for disk/1 on old node",
            " - INFO: Detaching primary drbds from the network (=> standalone)",
            " - INFO: Updating instance configuration",
            " - INFO: Attaching primary drbds to new secondary (standalone => connected)",
            "STEP 5/6 Sync devices",
            " - INFO: Waiting for instance web1.example.com to sync disks",
            " - INFO: Instance web1.example.com's disks are in sync",
            "STEP 6/6 Removing old storage",
            " - INFO: Remove logical volumes for 0",
            " - INFO: Remove logical volumes for 1",
        ]
    );
    assert_eq!(secondary(&bench), NODE3);
    assert_eq!(free(&bench, NODE2), full);
    assert_eq!(free(&bench, NODE3), full - 1024 - 512 - 2 * 128);
    let config = bench.config();
    let node2 = config.node_by_name(NODE2).unwrap();
    let node3 = config.node_by_name(NODE3).unwrap();
    assert_eq!(config.secondaries(&node2.meta.uuid).count(), 0);
    for (at, (now, old)) in disks(&bench).iter().zip(before).enumerate() {
        let mut id = old.logical_id.clone();
        id[1] = json!(node3.meta.uuid.as_str());
        id[4] = json!(at);
        assert_eq!(now.logical_id, id);
        assert_eq!(now.meta.serial_no, old.meta.serial_no + 1);
    }
    let migrate = json!({"OP_ID": "OP_INSTANCE_MIGRATE", "instance_name": WEB1});
    went(&bench.run(migrate).await);
}

#[tokio::test]
async fn an_allocator_chooses_the_secondary() {
    let bench = bench().await;
    let outcome = bench.run(replace("new_secondary", &json!({"iallocator": "."}))).await;
    went(&outcome);
    let uuid = bench.config().instance_by_name(WEB1).unwrap().meta.uuid.clone();
    let line = format!(" - INFO: Selected new secondary for instance '{uuid}': {NODE3}");
    assert_eq!(outcome.log[0], line);
    assert_eq!(secondary(&bench), NODE3);
    bench.set_offline(NODE2, true).await;
    let refused = bench.run(replace("new_secondary", &json!({"iallocator": "hail"}))).await;
    let error = refused.result.unwrap_err();
    assert_eq!(error.code(), Some("insufficient_resources"), "{error}");
    assert!(
        error.args[0]
            .as_str()
            .unwrap()
            .starts_with("Can't compute nodes using iallocator 'hail': ")
    );
}

#[tokio::test]
async fn a_lost_secondary_is_left_behind() {
    let bench = bench().await;
    let node2 = bench.config().node_by_name(NODE2).unwrap().meta.uuid.clone();
    bench.set_offline(NODE2, true).await;
    let outcome = bench.run(to(NODE3)).await;
    went(&outcome);
    let line = format!(
        " - INFO: Old secondary {node2} is offline, automatically enabling early-release mode"
    );
    assert_eq!(outcome.log[0], line);
    let has = |line: &str| assert!(outcome.log.iter().any(|l| l == line), "{:?}", outcome.log);
    has(" - WARNING: Failed to shutdown drbd for disk/0 on oldnode: Node is marked offline");
    has("      Hint: Please cleanup this device manually as soon as possible");
    has(" - WARNING: Can't remove old LV: Node is marked offline");
    has("      Hint: remove unused LVs manually");
    assert_eq!(secondary(&bench), NODE3);
}

#[tokio::test]
async fn disks_of_a_stopped_instance_are_up_for_that_time() {
    let bench = bench().await;
    let stop = json!({"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": WEB1});
    went(&bench.run(stop).await);
    let text = "Please run activate-disks on instance web1.example.com first";
    assert_eq!(
        bench.run(replace("auto", &json!({}))).await.result,
        Err(GanetiError::wrong_state(text))
    );
    went(&bench.run(to(NODE3)).await);
    assert!(!bench.config().instance_by_name(WEB1).unwrap().disks_active);
    assert!(bench.world.node(NODE3).disk_status(&spec(&bench, 0)).await.unwrap().is_none());
    bench.start(WEB1).await;
}

#[tokio::test]
async fn failing_steps_fail_it() {
    for (op, node, verb, text) in [
        (
            replace("on_secondary", &json!({})),
            NODE1,
            Verb::DiskStatus,
            "Can't find disk/0 on node node1.example.com: no",
        ),
        (
            replace("on_secondary", &json!({})),
            NODE2,
            Verb::DetachStorage,
            "Can't detach drbd from local storage on node node2.example.com for device disk/0: no",
        ),
        (
            replace("on_secondary", &json!({})),
            NODE2,
            Verb::RenameDisk,
            "Can't rename old LVs on node node2.example.com: no",
        ),
        (
            replace("on_secondary", &json!({})),
            NODE2,
            Verb::AttachStorage,
            "Can't add local storage to drbd: no",
        ),
        (
            to(NODE3),
            NODE1,
            Verb::DisconnectDisk,
            "Can't detach the disks from the network on old node: no",
        ),
        (
            to(NODE3),
            NODE3,
            Verb::ConnectDisk,
            "Can't attach drbd disks on node node3.example.com: no (please do a gnt-instance info web1.example.com to see \
             the status of disks)",
        ),
    ] {
        let bench = bench().await;
        bench.fault_on(node, verb, "no");
        failed(&bench.run(op).await, text);
    }
    let bench = bench().await;
    bench.fault_on(NODE3, Verb::CreateDisk, "no");
    let error = bench.run(to(NODE3)).await.result.unwrap_err().to_string();
    assert!(
        error.starts_with("Can't create block device: Can't create block device <LogicalVolume("),
        "{error}"
    );
    assert!(
        error.ends_with("> on node node3.example.com for instance web1.example.com: no"),
        "{error}"
    );
    assert_eq!(secondary(&bench), NODE2);
}

#[tokio::test]
async fn the_side_with_the_data_must_be_whole() {
    let bench = bench().await;
    bench.world.node(NODE1).detach_storage(&spec(&bench, 0)).await.unwrap();
    failed(
        &bench.run(replace("on_secondary", &json!({}))).await,
        "Node node1.example.com has degraded storage, unsafe to replace disks for instance web1.example.com",
    );
    let told = spec(&bench, 1);
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    let instance = crate::spec::instance(&config, bench.shared.compat, instance);
    bench.world.node(NODE2).shutdown_disk(&instance, &told).await.unwrap();
    failed(
        &bench.run(replace("on_primary", &json!({"disks": [1]}))).await,
        "Can't find disk/1 on node node2.example.com: disk not found\nDisks seem to be not properly activated. Try running \
         activate-disks on the instance before using replace-disks.",
    );
}

#[tokio::test]
async fn refusals_are_ganetis() {
    let bench = bench().await;
    let check = async |op: Value, text: &str| {
        assert_eq!(bench.run(op).await.result, Err(GanetiError::wrong_input(text)));
    };
    check(
        replace("new_secondary", &json!({})),
        "When changing the secondary either an iallocator script must be used or the new node given",
    )
    .await;
    check(
        replace("new_secondary", &json!({"remote_node": NODE3, "iallocator": "hail"})),
        "Do not specify both, iallocator and node",
    )
    .await;
    check(
        replace("auto", &json!({"remote_node": NODE3})),
        "The iallocator and new node options can only be used when changing the secondary node",
    )
    .await;
    check(to(NODE1), "The specified node is the primary node of the instance").await;
    check(to(NODE2), "The specified node is already the secondary node of the instance").await;
    check(replace("auto", &json!({"disks": [0]})), "Cannot specify disks to be replaced").await;
    check(
        replace("on_primary", &json!({"disks": [7]})),
        "Invalid disk index: 7 (instace has disks 0 to 1",
    )
    .await;
    let unknown = bench.run(to("nosuch")).await.result;
    assert_eq!(unknown, Err(GanetiError::unknown_entity("Node 'nosuch' not known")));
    bench.drain(NODE3).await;
    let text = "Can't use drained node node3.example.com";
    assert_eq!(bench.run(to(NODE3)).await.result, Err(GanetiError::wrong_state(text)));
    bench.set_offline(NODE2, true).await;
    let text = "Can't use offline node: node2.example.com";
    let refused = bench.run(replace("on_secondary", &json!({}))).await.result;
    assert_eq!(refused, Err(GanetiError::wrong_state(text)));
    bench.make("web2.example.com", json!({})).await;
    let mut op = replace("auto", &json!({}));
    op["instance_name"] = json!("web2");
    let text = "The instance has a strange layout, expected one secondary but found 0";
    let expected = GanetiError::prereq(text, ErrorCode::InternalError);
    assert_eq!(bench.run(op).await.result, Err(expected));
}

#[tokio::test]
async fn the_volume_group_must_be_there() {
    let bench = bench().await;
    let renamed = bench.shared.config.commit(|draft| {
        draft.edit_cluster(|cluster| cluster.volume_group_name = Some("other".to_owned()));
        Ok(())
    });
    renamed.await.unwrap();
    failed(
        &bench.run(replace("on_secondary", &json!({}))).await,
        "Volume group 'other' not found on node node2.example.com",
    );
}

#[tokio::test]
async fn the_policy_of_the_new_group_counts() {
    let bench = bench().await;
    let group = bench.exile(NODE3, 1024).await;
    let text = format!(
        "Instance does not meet target node group's ({group}) instance policy: memory-size value 128 is not in range \
         [1024, 32768]"
    );
    assert_eq!(bench.run(to(NODE3)).await.result, Err(GanetiError::wrong_input(text)));
    let more = json!({"remote_node": NODE3, "ignore_ipolicy": true});
    went(&bench.run(replace("new_secondary", &more)).await);
}

#[tokio::test]
async fn disks_that_are_not_all_mirrors_are_not_replaced() {
    let bench = bench().await;
    bench.edit_disk(WEB1, 1, |disk| disk.dev_type = model::param::DiskTemplate::File).await;
    let text = "Can only run replace disks for DRBD8-based instances";
    let refused = bench.run(replace("on_primary", &json!({}))).await.result;
    assert_eq!(refused, Err(GanetiError::wrong_input(text)));
}

#[tokio::test]
async fn a_planned_secondary_moves_on_paper() {
    let bench = Bench::new(3);
    let more = json!({
        "disk_template": "drbd", "disks": [{"size": 1024}], "snode": NODE2, "forthcoming": true, "start": false,
    });
    bench.make(WEB1, more).await;
    let outcome = bench.run(to(NODE3)).await;
    went(&outcome);
    assert_eq!(
        outcome.log[3..],
        [
            "Instance fortcoming, will only update the configuration",
            " - INFO: Updating instance configuration",
        ]
    );
    assert_eq!(secondary(&bench), NODE3);
    let outcome = bench.run(replace("on_primary", &json!({}))).await;
    went(&outcome);
    assert_eq!(outcome.log[3], "Instance forthcoming, not touching disks");
}
