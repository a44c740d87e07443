//! Instances move, or say why not: as opcodes on a simulated cluster.

use crate::lu::testing::{Bench, Outcome};
use model::error::{ErrorClass, GanetiError};
use node::{Node, Verb};
use serde_json::{Value, json};

const WEB1: &str = "web1.example.com";
const NODE1: &str = "node1.example.com";
const NODE2: &str = "node2.example.com";
const NODE3: &str = "node3.example.com";

fn op(id: &str, more: &Value) -> Value {
    let mut op = json!({"OP_ID": id, "instance_name": WEB1});
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}

fn migrate(more: &Value) -> Value {
    op("OP_INSTANCE_MIGRATE", more)
}

fn failover(more: &Value) -> Value {
    op("OP_INSTANCE_FAILOVER", more)
}

/// Three nodes, and an instance of that template that runs on the first.
async fn bench(template: &str) -> Bench {
    let bench = Bench::new(3);
    let mut more = json!({"disk_template": template, "disks": [{"size": 1024}, {"size": 1024, "name": "two"}]});
    match template {
        "drbd" => more["snode"] = json!(NODE2),
        "ext" => more["disks"] = json!([{"size": 1024, "provider": "p", "name": "one"}]),
        "diskless" => more["disks"] = json!([]),
        _ => {}
    }
    bench.make(WEB1, more).await;
    bench
}

fn primary(bench: &Bench) -> String {
    let config = bench.config();
    config.node_name(&config.instance_by_name(WEB1).unwrap().primary_node).to_owned()
}

fn runs_on(bench: &Bench) -> Vec<&'static str> {
    let runs = |name: &&str| bench.world.node(name).state().instances.contains_key(WEB1);
    [NODE1, NODE2, NODE3].into_iter().filter(runs).collect()
}

fn went(outcome: &Outcome) {
    assert_eq!(outcome.result, Ok(json!(null)), "{:?}", outcome.log);
}

fn exec_error(outcome: &Outcome, text: &str) {
    assert_eq!(outcome.result, Err(GanetiError::exec(text)), "{:?}", outcome.log);
}

#[tokio::test]
async fn a_mirrored_instance_migrates_to_its_other_node() {
    let bench = bench("drbd").await;
    let before = bench.config();
    let outcome = bench.run(migrate(&json!({}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            "Migrating instance web1.example.com",
            "* checking disk consistency between source and target",
            "* closing instance disks on node node2.example.com",
            "* changing into standalone mode",
            "* changing disks into dual-master mode",
            "* wait until resync is done",
            "* opening instance disks on node node1.example.com in shared mode",
            "* opening instance disks on node node2.example.com in shared mode",
            "* preparing node2.example.com to accept the instance",
            "* migrating instance to node2.example.com",
            "* starting memory transfer",
            "* memory transfer complete",
            "* closing instance disks on node node1.example.com",
            "* wait until resync is done",
            "* changing into standalone mode",
            "* changing disks into single-master mode",
            "* wait until resync is done",
            "* done",
        ]
    );
    assert_eq!((primary(&bench), runs_on(&bench)), (NODE2.to_owned(), vec![NODE2]));
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    let old = before.instance_by_name(WEB1).unwrap();
    assert_eq!(config.secondary_nodes(instance), std::slice::from_ref(&old.primary_node));
    assert_eq!(config.instance_disks(instance), before.instance_disks(old));
    // Ganeti: another primary counts as no change (3.0, `SetInstancePrimaryNode`).
    assert_eq!(instance.meta.serial_no, old.meta.serial_no);
    let node1 = &old.primary_node;
    assert!(config.secondaries(node1).any(|found| found.name == WEB1));
    went(&bench.run(migrate(&json!({"target_node": NODE1, "mode": "non-live"}))).await);
    assert_eq!(runs_on(&bench), [NODE1]);
}

#[tokio::test]
async fn what_all_nodes_reach_migrates_where_one_says() {
    let bench = bench("sharedfile").await;
    let outcome = bench.run(migrate(&json!({"target_node": "node3"}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            "Migrating instance web1.example.com",
            "* checking disk consistency between source and target",
            "* closing instance disks on node node3.example.com",
            "* opening instance disks on node node1.example.com in shared mode",
            "* opening instance disks on node node3.example.com in shared mode",
            "* preparing node3.example.com to accept the instance",
            "* migrating instance to node3.example.com",
            "* starting memory transfer",
            "* memory transfer complete",
            "* closing instance disks on node node1.example.com",
            "* opening instance disks on node node3.example.com in exclusive mode",
            "* done",
        ]
    );
    assert_eq!((primary(&bench), runs_on(&bench)), (NODE3.to_owned(), vec![NODE3]));
    let outcome = bench.run(migrate(&json!({"iallocator": "hail"}))).await;
    went(&outcome);
    let chosen = primary(&bench);
    assert_ne!(chosen, NODE3);
    let line = format!(" - INFO: Selected nodes for instance {WEB1} via iallocator hail: {chosen}");
    assert_eq!(outcome.log[0], line);
}

#[tokio::test]
async fn mapped_devices_are_unmapped() {
    let bench = bench("ext").await;
    let outcome = bench.run(migrate(&json!({"target_node": NODE2}))).await;
    went(&outcome);
    let line = "* unmapping instance's disks one from node1.example.com";
    assert!(outcome.log.iter().any(|text| text == line), "{:?}", outcome.log);
}

#[tokio::test]
async fn failover_stops_and_starts() {
    let bench = bench("sharedfile").await;
    let more = json!({"target_node": NODE2, "ignore_consistency": true});
    let outcome = bench.run(failover(&more)).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            "Failover instance web1.example.com",
            "* checking disk consistency between source and target",
            "* shutting down instance on source node",
            "* closing instance disks on node node1.example.com",
            "* deactivating the instance's disks on source node",
            "* activating the instance's disks on target node node2.example.com",
            "* starting the instance on the target node node2.example.com",
        ]
    );
    assert_eq!((primary(&bench), runs_on(&bench)), (NODE2.to_owned(), vec![NODE2]));
}

#[tokio::test]
async fn a_stopped_instance_is_failed_over_without_a_start() {
    let bench = bench("drbd").await;
    let stop = op("OP_INSTANCE_SHUTDOWN", &json!({}));
    went(&bench.run(stop).await);
    let outcome = bench.run(failover(&json!({}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            " - INFO: Not checking memory on the secondary node as instance will not be started",
            "Failover instance web1.example.com",
            "* not checking disk consistency as instance is not running",
            "* shutting down instance on source node",
            "* deactivating the instance's disks on source node",
        ]
    );
    assert_eq!((primary(&bench), runs_on(&bench)), (NODE2.to_owned(), vec![]));
    let back = bench.run(migrate(&json!({"allow_failover": true}))).await;
    went(&back);
    let line =
        " - INFO: Instance is marked down or offline, fallback allowed, switching to failover";
    assert_eq!(back.log[0], line);
    assert_eq!(primary(&bench), NODE1);
}

#[tokio::test]
async fn a_lost_primary_is_left_behind() {
    let bench = bench("drbd").await;
    bench.world.node(NODE1).unreachable(true);
    let outcome = bench.run(failover(&json!({}))).await;
    exec_error(&outcome, "Disk 0 is degraded on target node, aborting failover");
    bench.set_offline(NODE1, true).await;
    let outcome = bench.run(failover(&json!({}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log[1..5],
        [
            "* checking disk consistency between source and target",
            "Node node1.example.com is offline, ignoring degraded disk 0 on target node node2.example.com",
            "Node node1.example.com is offline, ignoring degraded disk 1 on target node node2.example.com",
            "* shutting down instance on source node",
        ]
    );
    assert_eq!(
        outcome.log[5],
        " - WARNING: Could not shutdown instance web1.example.com on node node1.example.com, proceeding anyway; please \
         make sure node node1.example.com is down; error details: Node is marked offline"
    );
    assert_eq!(primary(&bench), NODE2);
    assert!(runs_on(&bench).contains(&NODE2));
}

#[tokio::test]
async fn failing_steps_fail_a_failover() {
    for (node, verb, text) in [
        (
            NODE1,
            Verb::StopInstance,
            "Could not shutdown instance web1.example.com on node node1.example.com: no",
        ),
        (NODE2, Verb::ShutdownDisk, "Can't shut down the instance's disks"),
        (NODE2, Verb::AssembleDisk, "Can't activate the instance's disks"),
        (
            NODE2,
            Verb::StartInstance,
            "Could not start instance web1.example.com on node node2.example.com: no",
        ),
    ] {
        let bench = bench("drbd").await;
        bench.fault_on(node, verb, "no");
        exec_error(&bench.run(failover(&json!({}))).await, text);
    }
    let bench = bench("sharedfile").await;
    bench.fault_on(NODE1, Verb::Ping, "no");
    let outcome = bench.run(failover(&json!({"target_node": NODE2}))).await;
    exec_error(&outcome, "Cannot close instance disks on node node1.example.com: no");
    bench.fault_on(NODE1, Verb::Ping, "no");
    let outcome =
        bench.run(failover(&json!({"target_node": NODE2, "ignore_consistency": true}))).await;
    went(&outcome);
    let line =
        " - WARNING: Could not close instance disks on node node1.example.com, proceeding anyway";
    assert!(outcome.log.iter().any(|text| text == line), "{:?}", outcome.log);
}

#[tokio::test]
async fn failing_steps_fail_a_migration_and_the_disks_are_put_back() {
    for (node, verb, text, reverts) in [
        (
            NODE1,
            Verb::Ping,
            "Failed fetching source migration information from node1.example.com: no",
            false,
        ),
        (NODE2, Verb::Ping, "Cannot close instance disks on node node2.example.com: no", false),
        (NODE1, Verb::DisconnectDisk, "Cannot disconnect disks node node1.example.com: no", false),
        (
            NODE2,
            Verb::ConnectDisk,
            "Cannot change disks config on node node2.example.com: no",
            false,
        ),
        (NODE2, Verb::AcceptInstance, "Could not pre-migrate instance web1.example.com: no", true),
        (NODE1, Verb::MigrateInstance, "Could not migrate instance web1.example.com: no", true),
    ] {
        let bench = bench("drbd").await;
        bench.fault_on(node, verb, "no");
        let outcome = bench.run(migrate(&json!({}))).await;
        exec_error(&outcome, text);
        assert_eq!((primary(&bench), runs_on(&bench)), (NODE1.to_owned(), vec![NODE1]), "{verb:?}");
        let reverted = outcome.log.ends_with(&[
            "* closing instance disks on node node2.example.com".to_owned(),
            "* changing into standalone mode".to_owned(),
            "* changing disks into single-master mode".to_owned(),
            "* wait until resync is done".to_owned(),
        ]);
        assert_eq!(reverted, reverts, "{:?}", outcome.log);
        if reverts {
            went(&bench.run(migrate(&json!({}))).await);
        }
    }
    let bench = bench("sharedfile").await;
    bench.fault_on(NODE2, Verb::AcceptInstance, "no");
    let outcome = bench.run(migrate(&json!({"target_node": NODE2}))).await;
    exec_error(&outcome, "Could not pre-migrate instance web1.example.com: no");
    assert_eq!(
        outcome.log[6..],
        [
            "Pre-migration failed, aborting",
            "* closing instance disks on node node2.example.com",
            "* opening instance disks on node node1.example.com in exclusive mode",
        ]
    );
}

#[tokio::test]
async fn a_migration_that_is_not_finalized_is_cleaned_up() {
    let bench = bench("drbd").await;
    bench.fault_on(NODE1, Verb::FinalizeMigration, "stuck");
    let outcome = bench.run(migrate(&json!({}))).await;
    exec_error(&outcome, "Could not finalize instance migration: node1.example.com: stuck");
    assert_eq!((primary(&bench), runs_on(&bench)), (NODE1.to_owned(), vec![NODE2]));
    let outcome = bench.run(migrate(&json!({"cleanup": true}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log,
        [
            " - INFO: Not checking memory on the secondary node as instance will not be started",
            "Migrating instance web1.example.com",
            "* checking where the instance actually runs (if this hangs, the hypervisor might be in a bad state)",
            "* instance running on: node2.example.com",
            "* instance running on secondary node (node2.example.com), updating config",
            "* closing instance disks on node node1.example.com",
            "* wait until resync is done",
            "* changing into standalone mode",
            "* changing disks into single-master mode",
            "* wait until resync is done",
            "* done",
        ]
    );
    assert_eq!(primary(&bench), NODE2);
}

#[tokio::test]
async fn cleanup_finds_the_instance() {
    let bench = bench("sharedfile").await;
    let cleanup = migrate(&json!({"cleanup": true, "target_node": NODE2}));
    let outcome = bench.run(cleanup.clone()).await;
    went(&outcome);
    assert_eq!(
        outcome.log[3..],
        [
            "* instance running on: node1.example.com",
            "* instance confirmed to be running on its primary node (node1.example.com)",
            "* closing instance disks on node node2.example.com",
            "* opening instance disks on node node1.example.com in exclusive mode",
            "* done",
        ]
    );
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    let told = crate::spec::instance(&config, bench.shared.compat, instance);
    let start_on = async |name: &str| {
        let node = bench.world.node(name);
        for disk in &told.disks {
            node.assemble_disk(&told, disk, true).await.unwrap();
        }
        node.start_instance(&told, false).await.unwrap();
    };
    start_on(NODE2).await;
    bench.fault_on(NODE1, Verb::FinalizeMigration, "no");
    exec_error(&bench.run(cleanup.clone()).await, "Instance migration cleanup failed: ,no");
    start_on(NODE2).await;
    let outcome = bench.run(cleanup.clone()).await;
    went(&outcome);
    assert_eq!(outcome.log[4], "Trying to cleanup after failed migration");
    assert_eq!(runs_on(&bench), [NODE1]);
    bench.world.node(NODE1).crash_instance(WEB1);
    start_on(NODE3).await;
    let outcome = bench.run(cleanup.clone()).await;
    went(&outcome);
    let line =
        "* instance running on unexpected node (node3.example.com), updating as the new secondary";
    assert_eq!(outcome.log[4], line);
    assert_eq!(primary(&bench), NODE3);
    bench.world.node(NODE3).crash_instance(WEB1);
    exec_error(
        &bench.run(cleanup.clone()).await,
        "Instance does not seem to be running at all; in this case it's safer to repair by running 'gnt-instance stop' to \
         ensure disk shutdown, and then restarting it",
    );
    bench.world.node(NODE1).unreachable(true);
    exec_error(
        &bench.run(cleanup).await,
        "Can't contact node node1.example.com: the node does not answer",
    );
}

#[tokio::test]
async fn memory_is_taken_where_the_target_has_less() {
    let bench = Bench::new(3);
    let be = json!({"minmem": 256, "maxmem": 2048});
    bench.make(WEB1, json!({"beparams": be})).await;
    let filler =
        json!({"beparams": {"memory": 127 * 1024 - 1024}, "pnode": NODE2, "ignore_ipolicy": true});
    bench.make("filler.example.com", filler).await;
    let outcome =
        bench.run(migrate(&json!({"target_node": NODE2, "allow_runtime_changes": false}))).await;
    exec_error(
        &outcome,
        "Memory ballooning not allowed and not enough free memory to fit instance web1.example.com on target node \
         node2.example.com (have 1024MB, need 2048MB)",
    );
    bench.fault_on(NODE1, Verb::BalloonInstance, "no");
    let outcome = bench.run(migrate(&json!({"target_node": NODE2}))).await;
    exec_error(&outcome, "Cannot modify instance runtime memory: no");
    let outcome = bench.run(migrate(&json!({"target_node": NODE2}))).await;
    went(&outcome);
    assert_eq!(outcome.log[2], "* setting instance memory to 1024");
    assert_eq!(bench.world.node(NODE2).state().instances[WEB1].memory_mib, 1024);
    let modest = json!({"beparams": {"memory": 2048}, "pnode": NODE1});
    bench.make("web2.example.com", modest).await;
    let refused = bench
        .run(json!({"OP_ID": "OP_INSTANCE_MIGRATE", "instance_name": "web2", "target_node": NODE2}))
        .await;
    let text = "Not enough memory on node node2.example.com for migrating instance web2.example.com: needed 2048 MiB, \
                available 0 MiB";
    let expected = GanetiError::prereq(text, model::error::ErrorCode::InsufficientResources);
    assert_eq!(refused.result, Err(expected));
}

#[tokio::test]
async fn versions_of_the_hypervisor_must_fit() {
    let bench = bench("drbd").await;
    bench.world.node(NODE2).set_hypervisor_version("7");
    let outcome = bench.run(migrate(&json!({}))).await;
    exec_error(&outcome, "Unsupported migration between hypervisor versions (fake to 7)");
    assert_eq!(
        outcome.log[1..],
        [
            "* warning: hypervisor version mismatch between source (fake) and target (7) node",
            "  migrating from hypervisor version fake to 7 is likely unsupported",
        ]
    );
    let outcome = bench.run(migrate(&json!({"ignore_hvversions": true}))).await;
    went(&outcome);
    assert_eq!(outcome.log[3], "  continuing anyway (told to ignore version mismatch)");
}

#[tokio::test]
async fn a_degraded_mirror_does_not_migrate() {
    let bench = bench("drbd").await;
    let config = bench.config();
    let instance = config.instance_by_name(WEB1).unwrap();
    let disk = crate::spec::disk(&config, instance, &config.instance_disks(instance)[1]);
    bench.world.node(NODE2).detach_storage(&disk).await.unwrap();
    exec_error(
        &bench.run(migrate(&json!({}))).await,
        "Disk 1 is degraded or not fully synchronized on target node, aborting migration",
    );
}

#[tokio::test]
async fn always_failover_means_failover() {
    let bench = Bench::new(2);
    bench.make(WEB1, json!({"beparams": {"always_failover": true}})).await;
    let outcome = bench.run(migrate(&json!({"target_node": NODE2}))).await;
    went(&outcome);
    assert_eq!(
        outcome.log[..2],
        [
            " - INFO: Instance configured to always failover; fallback to failover",
            "Failover instance web1.example.com",
        ]
    );
    bench.world.node(NODE2).crash_instance(WEB1);
    let cleanup = bench.run(failover(&json!({"target_node": NODE1, "cleanup": true}))).await;
    assert_eq!(cleanup.result.unwrap_err().class, ErrorClass::OpExecError);
}

#[tokio::test]
async fn refusals_are_ganetis() {
    let check = async |bench: &Bench, op: Value, text: &str, code: &str| {
        let refused = bench.run(op).await.result.map_err(|error| error.to_value());
        assert_eq!(refused, Err(json!(["OpPrereqError", [text, code]])));
    };
    let shared = bench("sharedfile").await;
    let to = |node: &str| migrate(&json!({"target_node": node}));
    check(&shared, to("nosuch"), "Node 'nosuch' not known", "unknown_entity").await;
    check(
        &shared,
        to(NODE1),
        "Cannot migrate instance web1.example.com to its primary (node1.example.com)",
        "wrong_state",
    )
    .await;
    check(
        &shared,
        migrate(&json!({"target_node": NODE2, "iallocator": "hail"})),
        "Do not specify both, iallocator and node",
        "wrong_input",
    )
    .await;
    check(
        &shared,
        migrate(&json!({"target_node": NODE2, "live": true, "mode": "live"})),
        "Only one of the 'live' and 'mode' parameters are accepted",
        "wrong_input",
    )
    .await;
    shared.drain(NODE2).await;
    check(&shared, to(NODE2), "Can't use drained node node2.example.com", "wrong_state").await;
    shared.world.node(NODE1).crash_instance(WEB1);
    check(
        &shared,
        to(NODE3),
        "Can't migrate, please use failover: Instance web1.example.com is not running",
        "wrong_state",
    )
    .await;
    let outcome = shared.run(migrate(&json!({"target_node": NODE3, "allow_failover": true}))).await;
    went(&outcome);
    assert_eq!(outcome.log[0], " - INFO: Can't migrate, instance offline, fallback to failover");

    let file = bench("file").await;
    let text = "Instance's disk layout 'file' does not allow migrations";
    check(&file, migrate(&json!({})), text, "wrong_state").await;
    let text = "Instance's disk layout 'file' does not allow failovers";
    check(&file, failover(&json!({})), text, "wrong_state").await;

    let mirrored = bench("drbd").await;
    for (op, what) in [
        (migrate(&json!({"target_node": NODE3})), "migrated"),
        (failover(&json!({"iallocator": "hail"})), "failed over"),
    ] {
        let text = format!(
            "Instances with disk types drbd cannot be {what} to arbitrary nodes (neither an iallocator nor a target node \
             can be passed)"
        );
        check(&mirrored, op, &text, "wrong_input").await;
    }
}

#[tokio::test]
async fn the_policy_of_the_group_it_goes_to_counts() {
    for (template, target) in [("sharedfile", json!({"target_node": NODE2})), ("drbd", json!({}))] {
        let bench = bench(template).await;
        let group = bench.exile(NODE2, 1024).await;
        let text = format!(
            "Instance does not meet target node group's ({group}) instance policy: memory-size value 128 is not in range \
             [1024, 32768]"
        );
        let refused = bench.run(migrate(&target)).await.result;
        assert_eq!(refused, Err(GanetiError::wrong_input(text.clone())));
        let mut ignoring = migrate(&target);
        ignoring["ignore_ipolicy"] = json!(true);
        let outcome = bench.run(ignoring).await;
        went(&outcome);
        assert_eq!(outcome.log[0], format!(" - WARNING: {text}"));
    }
}

#[tokio::test]
async fn strange_layouts_are_refused() {
    let bench = bench("drbd").await;
    bench.edit_disk(WEB1, 1, |disk| disk.dev_type = model::param::DiskTemplate::Sharedfile).await;
    let text = "Instance mixes internal and external mirroring. This is not currently supported.";
    let refused = bench.run(migrate(&json!({}))).await.result;
    assert_eq!(refused, Err(GanetiError::prereq_plain(text)));
    bench.edit_disk(WEB1, 1, |disk| disk.dev_type = model::param::DiskTemplate::Drbd).await;
    for at in [0, 1] {
        bench.edit_disk(WEB1, at, |disk| disk.nodes.truncate(1)).await;
    }
    let text = "No secondary node but using drbd disk types";
    let refused = bench.run(failover(&json!({}))).await.result;
    assert_eq!(refused, Err(GanetiError::new(ErrorClass::ConfigurationError, text)));
}

#[tokio::test]
async fn an_instance_that_is_only_planned_is_failed_over_on_paper() {
    let bench = Bench::new(2);
    bench.make(WEB1, json!({"forthcoming": true, "start": false})).await;
    let text = "forthcoming instances not supported for this operation";
    let refused = bench.run(migrate(&json!({"target_node": NODE2}))).await.result;
    assert_eq!(refused, Err(GanetiError::prereq_plain(text)));
    let outcome = bench.run(failover(&json!({"target_node": NODE2}))).await;
    went(&outcome);
    assert_eq!(outcome.log[2], "Instance is forthcoming, just updating the  configuration");
    assert_eq!(primary(&bench), NODE2);
}

#[tokio::test]
async fn hooks_are_told_of_the_move() {
    let bench = bench("drbd").await;
    let moves = ["OLD_PRIMARY", "NEW_PRIMARY", "OLD_SECONDARY", "NEW_SECONDARY"];
    let told = "OLD_PRIMARY=node1.example.com\nNEW_PRIMARY=node2.example.com\nOLD_SECONDARY=node2.example.com\n\
                NEW_SECONDARY=node1.example.com\n";
    for (op, path, own, said, nodes) in [
        (
            migrate(&json!({})),
            "instance-migrate",
            ["MIGRATE_LIVE", "MIGRATE_CLEANUP", "ALLOW_RUNTIME_CHANGES"],
            "MIGRATE_LIVE=True\nMIGRATE_CLEANUP=False\nALLOW_RUNTIME_CHANGES=True",
            vec![NODE1, NODE2],
        ),
        (
            failover(&json!({})),
            "instance-failover",
            ["IGNORE_CONSISTENCY", "SHUTDOWN_TIMEOUT", "FAILOVER_CLEANUP"],
            "IGNORE_CONSISTENCY=False\nSHUTDOWN_TIMEOUT=120\nFAILOVER_CLEANUP=False",
            vec![NODE1, NODE2],
        ),
    ] {
        bench.failing_hook(path, &[&moves[..], &own[..]].concat());
        let error = bench.run(op).await.result.unwrap_err();
        assert_eq!(error.class, ErrorClass::HooksAbort);
        let script = format!("{path}-pre.d/tell");
        let rows: Vec<Value> =
            nodes.iter().map(|node| json!([node, script, format!("{told}{said}")])).collect();
        let got: Vec<Value> = error.args[0].as_array().unwrap().iter().map(trimmed).collect();
        assert_eq!(got, rows);
    }
}

/// A row of a hook's failure without the end of its last line.
fn trimmed(row: &Value) -> Value {
    json!([row[0], row[1], row[2].as_str().unwrap().trim_end()])
}
