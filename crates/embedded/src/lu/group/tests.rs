//! Node groups: each refusal, and what a change leaves in the configuration.

use model::error::GanetiError;
use serde_json::{Value, json};

use crate::lu::testing::{Bench, Outcome};

async fn run(bench: &Bench, id: &str, mut params: Value) -> Outcome {
    params["OP_ID"] = json!(id);
    bench.run(params).await
}

/// Runs an opcode that is refused.
async fn refused(bench: &Bench, id: &str, params: Value, expected: Value) {
    let error = run(bench, id, params.clone()).await.result.unwrap_err();
    assert_eq!(error.to_value(), expected, "{params}");
}

async fn add(bench: &Bench, name: &str) {
    let added = run(bench, "OP_GROUP_ADD", json!({"group_name": name})).await;
    assert_eq!(added.result, Ok(Value::Null));
}

/// A cluster whose own policy allows what it has enabled.
async fn bench(nodes: usize) -> Bench {
    let bench = Bench::new(nodes);
    let change = bench.shared.config.commit(|draft| {
        draft.edit_cluster(|cluster| {
            let mut policy = model::params::ipolicy::defaults();
            let enabled = &cluster.enabled_disk_templates;
            model::params::cluster::restrict_templates(&mut policy, enabled);
            cluster.ipolicy = policy;
        });
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
    bench
}

#[tokio::test]
async fn groups_are_added() {
    let bench = bench(1).await;
    let params = json!({
        "group_name": "g2", "ndparams": {"spindle_count": "2"}, "ipolicy": {"vcpu-ratio": 5.5},
        "hv_state": {"kvm": {"mem_node": 5}}, "diskparams": {"drbd": {"protocol": "A"}},
    });
    assert_eq!(run(&bench, "OP_GROUP_ADD", params).await.result, Ok(Value::Null));
    let config = bench.config();
    let group = config.group_by_name("g2").unwrap();
    assert_eq!(Value::Object(group.ndparams.clone()), json!({"spindle_count": 2}));
    assert_eq!(Value::Object(group.ipolicy.clone()), json!({"vcpu-ratio": 5.5}));
    assert_eq!(Value::Object(group.diskparams.clone()), json!({"drbd": {"protocol": "A"}}));
    assert_eq!((group.meta.serial_no, group.alloc_policy.as_str()), (1, "preferred"));

    let dry = json!({"group_name": "g3", "dry_run": true});
    let outcome = run(&bench, "OP_GROUP_ADD", dry).await;
    assert_eq!(outcome.result, Ok(Value::Null));
    let text = " - INFO: dry-run mode requested, not actually executing the operation";
    assert_eq!(outcome.log, [text]);
    assert!(bench.config().group_by_name("g3").is_none());

    let uuid = &group.meta.uuid;
    let exists = format!("Desired group name 'g2' already exists as a node group (UUID: {uuid})");
    let prereq = |text: &str, code: &str| json!(["OpPrereqError", [text, code]]);
    let cases = [
        (json!({"group_name": "g2"}), prereq(&exists, "already_exists")),
        (
            json!({"group_name": "x", "ndparams": {"bogus": 1}}),
            json!(["TypeEnforcementError", ["Unknown parameter 'bogus'"]]),
        ),
        (
            json!({"group_name": "x", "hv_state": {"bogus": {}}}),
            prereq("Invalid hypervisor(s) in hypervisor state: bogus", "wrong_input"),
        ),
        (
            json!({"group_name": "x", "disk_state": {"bogus": {}}}),
            prereq("Invalid storage type(s) in disk state: bogus", "wrong_input"),
        ),
        (
            json!({"group_name": "x", "diskparams": {"plain": {"protocol": "A"}}}),
            prereq(
                "While verify diskparams options: ('Provided option keys not supported: plain/protocol', 'wrong_input')",
                "wrong_input",
            ),
        ),
        (
            json!({"group_name": "x", "ipolicy": {"bogus": 1}}),
            prereq("Invalid instance policy: Invalid keys in ipolicy: bogus", "wrong_input"),
        ),
        (
            json!({"group_name": "x", "ipolicy": {"disk-templates": ["rbd"]}}),
            prereq(
                "The following disk templates are allowed by the ipolicy, but not enabled on the cluster: rbd",
                "wrong_input",
            ),
        ),
    ];
    for (params, expected) in cases {
        refused(&bench, "OP_GROUP_ADD", params, expected).await;
    }
}

#[tokio::test]
async fn a_new_group_gets_the_communication_network() {
    let bench = bench(1).await;
    let net = json!({"network_name": "com", "network": "169.254.0.0/16"});
    run(&bench, "OP_NETWORK_ADD", net).await.result.unwrap();
    let change = bench.shared.config.commit(|draft| {
        draft.edit_cluster(|cluster| cluster.instance_communication_network = "com".into());
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
    let outcome = run(&bench, "OP_GROUP_ADD", json!({"group_name": "g2"})).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})));
    let uuid = bench.config().group_by_name("g2").unwrap().meta.uuid.clone();
    assert_eq!(outcome.jobs[0][0].summary(model::compat::Compat::V31), "NETWORK_CONNECT(com)");
    let wire =
        outcome.jobs[0][0].to_wire(model::opcode::Audience::Client, model::compat::Compat::V31);
    assert_eq!((&wire["group_name"], &wire["network_mode"]), (&json!(uuid), &json!("routed")));
}

#[tokio::test]
async fn groups_are_changed() {
    let bench = bench(1).await;
    add(&bench, "g2").await;
    let id = "OP_GROUP_SET_PARAMS";
    let change = async |params: Value, expected: Value| {
        let mut params = params;
        params["group_name"] = json!("g2");
        assert_eq!(run(&bench, id, params).await.result, Ok(expected));
    };
    change(json!({"alloc_policy": "unallocable"}), json!([])).await;
    change(json!({"ndparams": {"ssh_port": 22}}), json!([["ndparams", "{'ssh_port': 22}"]])).await;
    change(
        json!({"diskparams": {"plain": {"stripes": 2}}}),
        json!([["diskparams", "{'plain': {'stripes': 2}}"]]),
    )
    .await;
    change(json!({"ipolicy": {"vcpu-ratio": 3}}), json!([])).await;
    change(json!({"hv_state": {"kvm": {"cpu_node": 1}}}), json!([])).await;
    change(json!({"disk_state": {"plain": {"vg": {"disk_total": 1}}}}), json!([])).await;
    let config = bench.config();
    let group = config.group_by_name("g2").unwrap();
    assert_eq!((group.meta.serial_no, group.alloc_policy.as_str()), (7, "unallocable"));
    assert_eq!(Value::Object(group.ipolicy.clone()), json!({"vcpu-ratio": 3}));
    change(json!({"ndparams": {"ssh_port": "default"}}), json!([["ndparams", "{}"]])).await;
    change(json!({"ipolicy": {"vcpu-ratio": "default"}}), json!([])).await;
    let config = bench.config();
    let group = config.group_by_name("g2").unwrap();
    assert!(group.ndparams.is_empty() && group.ipolicy.is_empty());

    let prereq = |text: &str| json!(["OpPrereqError", [text, "wrong_input"]]);
    let cases = [
        (json!({}), prereq("Please pass at least one modification")),
        (
            json!({"diskparams": {"rbd": {"access": "pink"}}}),
            json!([
                "OpPrereqError",
                ["Invalid value of 'rbd:access': 'pink' (expected one of kernelspace, userspace)"]
            ]),
        ),
        (
            json!({"ipolicy": {"std": {"cpu-count": 1}}}),
            prereq("std cannot appear in group instance specs"),
        ),
        (
            json!({"diskparams": {"plain": {"protocol": "A"}}}),
            prereq(
                "While verify diskparams options: ('Provided option keys not supported: plain/protocol', 'wrong_input')",
            ),
        ),
    ];
    for (mut params, expected) in cases {
        params["group_name"] = json!("g2");
        refused(&bench, id, params, expected).await;
    }
    let unknown = json!(["OpPrereqError", ["Node group 'no' not found", "unknown_entity"]]);
    refused(&bench, id, json!({"group_name": "no", "ndparams": {}}), unknown).await;
}

#[tokio::test]
async fn nodes_change_groups() {
    let bench = bench(2).await;
    add(&bench, "g2").await;
    let nodes = json!(["node2"]);
    let params = json!({"group_name": "g2", "nodes": nodes});
    let id = "OP_GROUP_ASSIGN_NODES";
    assert_eq!(run(&bench, id, params).await.result, Ok(Value::Null));
    let config = bench.config();
    let group = config.group_by_name("g2").unwrap();
    assert_eq!(config.members(&group.meta.uuid).count(), 1);
    let uuid = config.node_by_name("node2.example.com").unwrap().meta.uuid.clone();
    let text = format!("Group 'g2' not empty, has the following nodes: {uuid}");
    let not_empty = json!(["OpPrereqError", [text, "wrong_state"]]);
    refused(&bench, "OP_GROUP_REMOVE", json!({"group_name": "g2"}), not_empty).await;
    let unknown = json!(["OpPrereqError", ["Node 'no' not known", "unknown_entity"]]);
    refused(&bench, id, json!({"group_name": "g2", "nodes": ["no"]}), unknown).await;
    // No names mean all nodes.
    let back = json!({"group_name": "default", "nodes": []});
    assert_eq!(run(&bench, id, back).await.result, Ok(Value::Null));
    assert_eq!(
        run(&bench, "OP_GROUP_REMOVE", json!({"group_name": "g2"})).await.result,
        Ok(Value::Null)
    );
    assert_eq!(bench.config().groups.len(), 1);
}

#[tokio::test]
async fn the_only_group_stays() {
    let bench = bench(0).await;
    let text = "Group 'default' is the only group, cannot be removed";
    let expected = json!(["OpPrereqError", [text, "wrong_state"]]);
    refused(&bench, "OP_GROUP_REMOVE", json!({"group_name": "default"}), expected).await;
}

#[tokio::test]
async fn groups_are_renamed() {
    let bench = bench(1).await;
    add(&bench, "g2").await;
    let id = "OP_GROUP_RENAME";
    let renamed = run(&bench, id, json!({"group_name": "g2", "new_name": "g3"})).await;
    assert_eq!(renamed.result, Ok(json!("g3")));
    let config = bench.config();
    assert!(config.group_by_name("g2").is_none());
    let uuid = &config.group_by_name("g3").unwrap().meta.uuid;
    let text = format!("Desired new name 'g3' clashes with existing node group (UUID: {uuid})");
    let clash = json!(["OpPrereqError", [text, "already_exists"]]);
    refused(&bench, id, json!({"group_name": "default", "new_name": "g3"}), clash).await;
}
