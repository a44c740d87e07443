//! Opcodes on nodes: roles and their refusals, emptying nodes, storage.

use std::sync::Arc;

use model::error::GanetiError;
use node::{FakeNode, Node, NodeError, Verb};
use serde_json::{Value, json};

use crate::lu::testing::{Bench, Outcome};

/// A cluster with its simulated nodes.
struct Simulated {
    bench: Bench,
}

impl Simulated {
    fn new(nodes: usize) -> Self {
        Self { bench: Bench::new(nodes) }
    }

    fn fake(&self, at: usize) -> Arc<FakeNode> {
        self.bench.world.node(&name(at))
    }

    async fn run(&self, id: &str, mut params: Value) -> Outcome {
        params["OP_ID"] = json!(id);
        self.bench.run(params).await
    }

    async fn set(&self, at: usize, mut params: Value) -> Outcome {
        params["node_name"] = json!(name(at));
        self.run("OP_NODE_SET_PARAMS", params).await
    }

    /// Changes a node's parameters and expects what the result and the log say.
    async fn sets(&self, at: usize, params: Value, result: Value, log: &[&str]) {
        let outcome = self.set(at, params.clone()).await;
        assert_eq!(outcome.result, Ok(result), "{params}");
        assert_eq!(outcome.log, log, "{params}");
    }

    async fn refuses(&self, id: &str, params: Value, expected: Value) {
        let error = self.run(id, params.clone()).await.result.unwrap_err();
        assert_eq!(error.to_value(), expected, "{params}");
    }

    async fn refuses_set(&self, at: usize, mut params: Value, text: &str, code: &str) {
        params["node_name"] = json!(name(at));
        let expected = json!(["OpPrereqError", [text, code]]);
        self.refuses("OP_NODE_SET_PARAMS", params, expected).await;
    }

    async fn edit_cluster(&self, edit: impl FnOnce(&mut model::config::Cluster)) {
        let change = self.bench.shared.config.commit(|draft| {
            draft.edit_cluster(edit);
            Ok::<_, GanetiError>(())
        });
        change.await.unwrap();
    }

    /// Puts an instance with one disk, drbd if it has a secondary.
    async fn put_instance(&self, name: &str, primary: usize, secondary: Option<usize>) {
        let config = self.bench.config();
        let uuid = |at: usize| config.node_by_name(&self::name(at)).unwrap().meta.uuid.clone();
        let mut nodes = vec![uuid(primary)];
        nodes.extend(secondary.map(uuid));
        let dev_type = if secondary.is_some() { "drbd" } else { "sharedfile" };
        let logical_id = match nodes.as_slice() {
            [one, two] => json!([one, two, 11000, 0, 1, "secret"]),
            _ => json!(["loop", format!("/shared/{name}")]),
        };
        let meta = |uuid: &str| json!({"uuid": uuid, "serial_no": 1, "ctime": 1.0, "mtime": 1.0});
        let mut disk = meta(&format!("d-{name}"));
        let rest = json!({
            "dev_type": dev_type, "logical_id": logical_id, "children": [], "nodes": nodes,
            "iv_name": "disk/0", "size_mib": 1024, "mode": "rw", "name": null, "spindles": null, "params": {},
        });
        disk.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let mut instance = meta(&format!("i-{name}"));
        let rest = json!({
            "tags": [], "name": name, "primary_node": nodes[0], "os": "", "hypervisor": "fake", "hvparams": {},
            "beparams": {}, "osparams": {}, "osparams_private": {}, "admin_state": "up",
            "admin_state_source": "admin", "nics": [], "disks": [format!("d-{name}")], "disks_active": true,
            "network_port": null, "forthcoming": false, "disk_template": dev_type,
        });
        instance.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let change = self.bench.shared.config.commit(|draft| {
            draft.put_disk(serde_json::from_value(disk).unwrap(), None);
            draft.put_instance(serde_json::from_value(instance).unwrap());
            Ok::<_, GanetiError>(())
        });
        change.await.unwrap();
    }
}

fn name(at: usize) -> String {
    format!("node{at}.example.com")
}

fn prereq(text: &str, code: &str) -> Value {
    json!(["OpPrereqError", [text, code]])
}

const MASTER: &str = " - INFO: Ignoring request to unset flag master_candidate, already unset";
const SHORT: &str =
    "Configuration data is not consistent: Not enough master candidates: actual 2, target 3";

#[tokio::test]
async fn roles_change() {
    let all = Simulated::new(3);
    // Losing a candidate makes the pool short only if the node could still be one.
    let drained = json!([["master_candidate", "False"], ["drained", "True"]]);
    all.sets(3, json!({"drained": true, "force": true}), drained, &[]).await;
    let back = json!([["master_candidate", "True"], ["drained", "False"]]);
    let flags = json!({"master_candidate": false, "offline": false, "drained": false});
    all.sets(
        3,
        flags,
        back,
        &[
            MASTER,
            " - INFO: Ignoring request to unset flag offline, already unset",
            " - INFO: Auto-promoting node to master candidate",
        ],
    )
    .await;
    let offline = json!([["master_candidate", "False"], ["offline", "True"]]);
    let text = format!("Failed to stop KVM daemon on node '{}': Node is marked offline", name(3));
    all.sets(3, json!({"offline": true}), offline, &[&text]).await;
    let warning = " - WARNING: Transitioning node from offline to online state without using re-add. Please make sure \
                   the node is healthy!";
    let online = json!([["master_candidate", "True"], ["offline", "False"]]);
    all.sets(3, json!({"master_candidate": true}), online, &[warning]).await;
    let config = all.bench.config();
    let node = config.node_by_name(&name(3)).unwrap();
    assert_eq!((node.master_candidate, node.drained, node.offline), (true, false, false));
    assert_eq!(node.meta.serial_no, 9);
}

#[tokio::test]
async fn candidates_are_kept() {
    let all = Simulated::new(3);
    let short = "Not enough master candidates, please pass auto promote option to allow promotion (--auto-promote or \
                 RAPI auto_promote=True)";
    all.edit_cluster(|cluster| cluster.candidate_pool_size = 2).await;
    let regular = json!([["master_candidate", "False"]]);
    all.sets(3, json!({"master_candidate": false}), regular.clone(), &[]).await;
    all.refuses_set(2, json!({"master_candidate": false}), short, "wrong_state").await;
    let promoted = format!(" - INFO: Promoted nodes to master candidate role: {}", name(3));
    let demote = json!({"master_candidate": false, "auto_promote": true});
    let short =
        "Configuration data is not consistent: Not enough master candidates: actual 1, target 2";
    all.sets(2, demote, regular.clone(), &[short, &promoted]).await;
    assert!(all.bench.config().node_by_name(&name(3)).unwrap().master_candidate);
    all.edit_cluster(|cluster| cluster.candidate_pool_size = 3).await;
    let capable = json!({"master_capable": false});
    let result = json!([["master_capable", "False"]]);
    all.sets(2, capable, result, &[]).await;
    let text = format!("Node {} is not master capable, cannot make it a master candidate", name(2));
    all.refuses_set(2, json!({"master_candidate": true}), &text, "wrong_state").await;
    let result = json!([["master_capable", "True"], ["master_candidate", "True"]]);
    let log = [" - INFO: Auto-promoting node to master candidate", SHORT];
    all.sets(2, json!({"master_capable": true}), result, &log).await;
}

#[tokio::test]
async fn changes_of_a_node_are_refused() {
    let all = Simulated::new(2);
    let text = "The master role can be changed only via master-failover";
    all.refuses_set(1, json!({"drained": true}), text, "wrong_input").await;
    all.refuses_set(
        1,
        json!({"master_capable": false}),
        "Master must remain master capable",
        "wrong_state",
    )
    .await;
    all.refuses_set(2, json!({}), "Please pass at least one modification", "wrong_input").await;
    let text = "Can't set the node into more than one state at the same time";
    all.refuses_set(2, json!({"drained": true, "offline": true}), text, "wrong_input").await;
    let text = "Secondary IP (x) needs to be a valid IPv4 address";
    all.refuses_set(2, json!({"secondary_ip": "x"}), text, "wrong_input").await;
    let text = "Changing the secondary ip on a single-homed cluster requires the --force option to be passed, and the \
                target node to be the master";
    all.refuses_set(2, json!({"secondary_ip": "198.51.100.2"}), text, "wrong_input").await;
    let text = format!(
        "Unable to change powered state for node {} as it does not support out-of-band handling",
        name(2)
    );
    all.refuses_set(2, json!({"powered": true, "vm_capable": true}), &text, "wrong_state").await;
    let text = "The following node parameters are global and cannot be customized at node level, please modify them at \
                cluster or group level: exclusive_storage";
    all.refuses_set(2, json!({"ndparams": {"exclusive_storage": true}}), text, "wrong_input").await;
    all.put_instance("web1.example.com", 2, None).await;
    let text = format!("Node {} hosts instances, cannot unset the vm_capable flag", name(2));
    all.refuses_set(2, json!({"vm_capable": false}), &text, "wrong_state").await;
    let unknown = prereq("Node 'no' not known", "unknown_entity");
    let op = json!({"node_name": "no", "drained": true});
    all.refuses("OP_NODE_SET_PARAMS", op, unknown).await;
    all.set(2, json!({"offline": true})).await.result.unwrap();
    all.fake(2).unreachable(true);
    let outcome = all.set(2, json!({"offline": false})).await;
    let text = outcome.result.unwrap_err().args[0].as_str().unwrap().to_owned();
    let start = format!("Node {} is being de-offlined but fails to report its version: ", name(2));
    assert!(text.starts_with(&start), "{text}");
    let unpowered = json!({"ndparams": {"oob_program": "/bin/oob"}});
    all.sets(
        2,
        unpowered,
        json!([]),
        &[&format!("Failed to stop KVM daemon on node '{}': Node is marked offline", name(2))],
    )
    .await;
    all.set(2, json!({"powered": false, "vm_capable": true})).await.result.unwrap();
    let text =
        format!("Node {} needs to be turned on before its offline status can be reset", name(2));
    all.refuses_set(2, json!({"offline": false}), &text, "wrong_state").await;
}

#[tokio::test]
async fn the_secondary_address_changes() {
    let all = Simulated::new(2);
    let params = json!({"secondary_ip": "198.51.100.1", "force": true});
    let result = json!([["secondary_ip", "198.51.100.1"]]);
    let warning = " - WARNING: Transitioning from single-homed to multi-homed cluster; all nodes will require a \
                   secondary IP address";
    all.sets(1, params, result, &[warning]).await;
    let text = "Cannot set the secondary IP to be the same as the primary IP on a multi-homed cluster, unless the \
                --force option is passed, and the target node is the master";
    all.refuses_set(2, json!({"secondary_ip": "192.0.2.12"}), text, "wrong_input").await;
    all.put_instance("db1.example.com", 2, Some(1)).await;
    let text = "Instance 'db1.example.com' is marked to be up, cannot change secondary ip";
    all.refuses_set(2, json!({"secondary_ip": "198.51.100.2"}), text, "wrong_state").await;
    all.set(2, json!({"offline": true})).await.result.unwrap();
    let text = "Cannot change secondary IP address: offline node has instances (db1.example.com) configured to use it";
    all.refuses_set(2, json!({"secondary_ip": "198.51.100.2"}), text, "wrong_state").await;
}

#[tokio::test]
async fn instances_are_migrated_off_a_node() {
    let all = Simulated::new(2);
    let op = json!({"node_name": name(1)});
    let outcome = all.run("OP_NODE_MIGRATE", op).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": []})));
    all.put_instance("db10", 1, Some(2)).await;
    all.put_instance("db9", 1, Some(2)).await;
    let op = json!({"node_name": name(1), "mode": "live", "ignore_ipolicy": true});
    let outcome = all.run("OP_NODE_MIGRATE", op).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2], [true, 3]]})));
    let summaries: Vec<String> =
        outcome.jobs.iter().map(|job| job[0].summary(model::compat::Compat::V31)).collect();
    assert_eq!(summaries, ["INSTANCE_MIGRATE(db9)", "INSTANCE_MIGRATE(db10)"]);
    let wire =
        outcome.jobs[0][0].to_wire(model::opcode::Audience::Client, model::compat::Compat::V31);
    assert_eq!((&wire["mode"], &wire["ignore_ipolicy"]), (&json!("live"), &json!(true)));
}

#[tokio::test]
async fn nodes_are_evacuated() {
    let all = Simulated::new(3);
    let id = "OP_NODE_EVACUATE";
    let op = |params: Value| {
        let mut params = params;
        params["node_name"] = json!(name(1));
        params
    };
    let secondary = |params: Value| {
        let mut params = op(params);
        params["mode"] = json!("secondary-only");
        params
    };
    let nothing = all.run(id, secondary(json!({}))).await;
    assert_eq!(nothing.result, Ok(json!({"jobs": []})));
    let text = format!(" - INFO: No instances to evacuate from node '{}'", name(1));
    assert_eq!(nothing.log, [text]);

    all.put_instance("db1", 2, Some(1)).await;
    let outcome =
        all.run(id, secondary(json!({"remote_node": "node3", "early_release": true}))).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})));
    let wire =
        outcome.jobs[0][0].to_wire(model::opcode::Audience::Client, model::compat::Compat::V31);
    assert_eq!(wire["OP_ID"], "OP_INSTANCE_REPLACE_DISKS");
    assert_eq!((&wire["remote_node"], &wire["early_release"]), (&json!(name(3)), &json!(true)));

    let outcome = all.run(id, secondary(json!({}))).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})), "{:?}", outcome.log);
    let log = format!(" - INFO: Evacuating instances from node '{}': db1", name(1));
    assert_eq!(outcome.log[0], log);
    assert!(
        outcome.log[1].starts_with(" - INFO: Instances to be moved: db1 (to "),
        "{:?}",
        outcome.log
    );
    assert_eq!(outcome.jobs[0][0].code.id().as_str(), "OP_INSTANCE_REPLACE_DISKS");

    let wrong = |text: &str| prereq(text, "wrong_input");
    let both = json!({"remote_node": "no", "iallocator": "hail"});
    all.refuses(id, secondary(both), wrong("Do not specify both, iallocator and node")).await;
    let same = wrong("Can not use evacuated node as a new secondary node");
    all.refuses(id, secondary(json!({"remote_node": "node1"})), same).await;
    let text = "Without the use of an iallocator only secondary instances can be evacuated";
    let primary = op(json!({"remote_node": "node2", "mode": "primary-only"}));
    all.refuses(id, primary, wrong(text)).await;
    let text = "Due to an issue with the iallocator interface it is not possible to evacuate all instances at once; \
                specify explicitly whether to evacuate primary or secondary instances";
    all.refuses(id, op(json!({"mode": "all"})), wrong(text)).await;
    let text =
        format!("Node {} is the primary node of instance db1, cannot use it as secondary", name(2));
    all.refuses(id, secondary(json!({"remote_node": "node2"})), wrong(&text)).await;
    let text = "Failure while running the iallocator script: iallocator module 'x' not found in the search path";
    let script = secondary(json!({"iallocator": "x"}));
    all.refuses(id, script, json!(["OpExecError", [text]])).await;
    all.edit_cluster(|cluster| cluster.default_iallocator = String::new()).await;
    let text = "No iallocator or node given and no cluster-wide default iallocator found; please specify either an \
                iallocator or a node, or set a cluster-wide default iallocator";
    all.refuses(id, secondary(json!({})), wrong(text)).await;
}

#[tokio::test]
async fn an_evacuation_can_have_nowhere_to_go() {
    let all = Simulated::new(2);
    all.put_instance("db1", 2, Some(1)).await;
    let op = json!({"node_name": name(1), "mode": "secondary-only"});
    let error = all.run("OP_NODE_EVACUATE", op).await.result.unwrap_err();
    let text = error.args[0].as_str().unwrap();
    assert!(text.starts_with("Unable to evacuate instances db1 ("), "{error}");
}

#[tokio::test]
async fn storage_is_listed() {
    let all = Simulated::new(2);
    let id = "OP_NODE_QUERY_STORAGE";
    let fields = json!(["node", "type", "name", "size", "used", "free", "allocatable"]);
    let op = json!({"output_fields": fields, "nodes": ["node2"], "storage_type": "lvm-vg"});
    let row = json!([name(2), "lvm-vg", "xenvg", 4_194_304, 0, 4_194_304, true]);
    assert_eq!(all.run(id, op).await.result, Ok(json!([row])));
    let op = json!({"output_fields": ["node"]});
    assert_eq!(all.run(id, op).await.result, Ok(json!([[name(1)], [name(2)]])));
    let text = "Unknown output fields selected: x,y";
    let op = json!({"output_fields": ["x", "y", "name"]});
    all.refuses(id, op, prereq(text, "wrong_input")).await;
    let few = vec![model::param::DiskTemplate::Plain, model::param::DiskTemplate::File];
    all.edit_cluster(|cluster| cluster.enabled_disk_templates = few).await;
    let text = "No disk template of storage type 'rados' is enabled in this cluster. Enabled disk templates are: \
                plain,file";
    let op = json!({"output_fields": ["name"], "storage_type": "rados"});
    all.refuses(id, op, json!(["OpPrereqError", [text]])).await;
    all.fake(2).unreachable(true);
    let op = json!({"output_fields": ["node"]});
    let outcome = all.run(id, op).await;
    assert_eq!(outcome.result, Ok(json!([[name(1)]])));
    assert!(
        outcome.log[0]
            .starts_with(&format!(" - WARNING: Can't get storage data from node {}", name(2)))
    );
    let diskless = vec![model::param::DiskTemplate::Diskless];
    all.edit_cluster(|cluster| cluster.enabled_disk_templates = diskless).await;
    let error = all.run(id, json!({"output_fields": ["node"]})).await.result.unwrap_err();
    let text = "Storage reporting for storage type 'diskless' is not supported. ";
    assert!(error.args[0].as_str().unwrap().starts_with(text), "{error}");
}

#[tokio::test]
async fn storage_is_changed_and_repaired() {
    let all = Simulated::new(2);
    let id = "OP_NODE_MODIFY_STORAGE";
    let op = |kind: &str, name: &str, changes: Value| json!({"node_name": "node2", "storage_type": kind, "name": name, "changes": changes});
    let done = all.run(id, op("lvm-pv", "/dev/fake0", json!({"allocatable": false}))).await;
    assert_eq!(done.result, Ok(Value::Null));
    let listed =
        json!({"output_fields": ["allocatable"], "nodes": ["node2"], "storage_type": "lvm-pv"});
    assert_eq!(all.run("OP_NODE_QUERY_STORAGE", listed).await.result, Ok(json!([[false]])));
    let text = "Storage units of type 'file' can not be modified";
    all.refuses(id, op("file", "x", json!({})), prereq(text, "wrong_input")).await;
    let text =
        "The following fields can not be modified for storage units of type 'lvm-pv': ['size']";
    all.refuses(id, op("lvm-pv", "x", json!({"size": 1})), prereq(text, "wrong_input")).await;
    let text =
        format!("Failed to modify storage unit 'x' on {}: Failed to find storage unit x", name(2));
    all.refuses(id, op("lvm-pv", "x", json!({})), json!(["OpExecError", [text]])).await;

    let id = "OP_REPAIR_NODE_STORAGE";
    let op = |kind: &str| json!({"node_name": "node2", "storage_type": kind, "name": "xenvg"});
    let done = all.run(id, op("lvm-vg")).await;
    assert_eq!(done.result, Ok(Value::Null));
    assert_eq!(done.log, [format!("Repairing storage unit 'xenvg' on {} ...", name(2))]);
    let text = "Storage units of type 'lvm-pv' can not be repaired";
    all.refuses(id, op("lvm-pv"), prereq(text, "wrong_input")).await;
    let error = NodeError::Failed("no".into());
    all.fake(2).inject(node::Fault { verb: Verb::StorageRepair, instance: None, times: 1, error });
    let text = format!("Failed to repair storage unit 'xenvg' on {}: no", name(2));
    all.refuses(id, op("lvm-vg"), json!(["OpExecError", [text]])).await;
    let file = vec![model::param::DiskTemplate::File];
    all.edit_cluster(|cluster| cluster.enabled_disk_templates = file).await;
    let text = "No disk template of storage type 'lvm-vg' is enabled in this cluster. Enabled disk templates are: file";
    all.refuses(id, op("lvm-vg"), json!(["OpPrereqError", [text]])).await;
}

#[tokio::test]
async fn a_faulty_mirror_stops_a_repair() {
    let all = Simulated::new(2);
    all.put_instance("db1", 2, Some(1)).await;
    let fault = || node::Fault {
        verb: Verb::DiskStatus,
        instance: None,
        times: 1,
        error: NodeError::Failed("no".into()),
    };
    all.fake(1).inject(fault());
    let mut op = json!({"node_name": "node2", "storage_type": "lvm-vg", "name": "xenvg"});
    let text = format!("Failed to get disk status from node {}: no", name(1));
    let id = "OP_REPAIR_NODE_STORAGE";
    all.refuses(id, op.clone(), prereq(&text, "environment_error")).await;
    all.fake(1).inject(fault());
    op["ignore_consistency"] = json!(true);
    let done = all.run(id, op).await;
    assert_eq!((done.result, &done.log[0]), (Ok(Value::Null), &format!(" - WARNING: {text}")));
}

#[tokio::test]
async fn nodes_are_powercycled() {
    let all = Simulated::new(2);
    let id = "OP_NODE_POWERCYCLE";
    let before = all.fake(2).state().boot_id.clone();
    let done = all.run(id, json!({"node_name": "node2"})).await;
    assert_eq!(done.result, Ok(json!("Reboot scheduled in 5 seconds")));
    assert_ne!(all.fake(2).state().boot_id, before);
    let text = "The node is the master and the force parameter was not set";
    all.refuses(id, json!({"node_name": "node1"}), prereq(text, "wrong_input")).await;
    let forced = all.run(id, json!({"node_name": "node1", "force": true})).await;
    assert!(forced.result.is_ok());
    let change = all.set(2, json!({"offline": true})).await;
    change.result.unwrap();
    let text = "Failed to schedule the reboot: Node is marked offline";
    all.refuses(id, json!({"node_name": "node2"}), json!(["OpExecError", [text]])).await;
    let dry = all.run(id, json!({"node_name": "node2", "dry_run": true})).await;
    assert_eq!(dry.result, Ok(Value::Null));
}

#[tokio::test]
async fn lost_data_on_another_node_stops_a_repair() {
    let all = Simulated::new(2);
    all.put_instance("db1", 2, Some(1)).await;
    let config = all.bench.config();
    let instance = config.instance_by_name("db1").unwrap();
    let told = crate::spec::instance(&config, model::compat::Compat::V31, instance);
    // A side that is up and has never seen the data.
    all.fake(1).create_disk(&told, &told.disks[0]).await.unwrap();
    all.fake(1).assemble_disk(&told, &told.disks[0], false).await.unwrap();
    let mut op = json!({"node_name": "node2", "storage_type": "lvm-vg", "name": "xenvg"});
    let text = format!("Instance 'db1' has faulty disks on node '{}'", name(1));
    all.refuses("OP_REPAIR_NODE_STORAGE", op.clone(), prereq(&text, "wrong_state")).await;
    op["ignore_consistency"] = json!(true);
    let done = all.run("OP_REPAIR_NODE_STORAGE", op).await;
    assert_eq!((done.result, &done.log[0]), (Ok(Value::Null), &format!(" - WARNING: {text}")));
}

#[tokio::test]
async fn an_external_allocator_can_refuse() {
    use std::os::unix::fs::PermissionsExt;
    let all = Simulated::new(2);
    all.put_instance("db1", 2, Some(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("mine");
    let answer = json!({"success": false, "info": "no luck", "result": []});
    std::fs::write(&script, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut setup = node::WorldSetup::clone(&all.bench.world.setup());
    setup.iallocator_search_path = vec![dir.path().to_owned()];
    all.bench.world.configure(setup);
    let op = json!({"node_name": name(1), "mode": "secondary-only", "iallocator": "mine"});
    let text = "Can't compute node evacuation using iallocator 'mine': no luck";
    all.refuses("OP_NODE_EVACUATE", op, prereq(text, "insufficient_resources")).await;
}

#[tokio::test]
async fn mirrors_are_not_split_over_groups_unasked() {
    let all = Simulated::new(3);
    all.put_instance("db1", 1, Some(2)).await;
    let added = all.run("OP_GROUP_ADD", json!({"group_name": "g2"})).await;
    // The bench's cluster has no policy of its own, so a group's is not looked at.
    added.result.unwrap();
    let id = "OP_GROUP_ASSIGN_NODES";
    let mut op = json!({"group_name": "g2", "nodes": ["node2"]});
    let text = "The following instances get split by this change and --force was not given: db1";
    all.refuses(id, op.clone(), json!(["OpExecError", [text]])).await;
    op["force"] = json!(true);
    let forced = all.run(id, op).await;
    let text = " - WARNING: This operation will split the following instances: db1";
    assert_eq!((forced.result, forced.log), (Ok(Value::Null), vec![text.to_owned()]));
    // What is split already is told only beside what is split anew.
    all.put_instance("db2", 1, Some(3)).await;
    let op = json!({"group_name": "g2", "nodes": ["node3"], "force": true});
    let forced = all.run(id, op).await;
    assert_eq!(
        forced.log,
        [
            " - WARNING: This operation will split the following instances: db2",
            " - WARNING: In addition, these already-split instances continue to be split across groups: db1",
        ]
    );
}
