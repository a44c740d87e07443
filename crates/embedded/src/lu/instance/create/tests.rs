use crate::lu::testing::Bench;
use model::error::GanetiError;
use model::param::AdminState;
use serde_json::{Value, json};

fn create(name: &str, more: &Value) -> Value {
    let mut op = json!({
        "OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "mode": "create", "disks": [], "nics": [],
        "disk_template": "diskless", "os_type": "noop", "no_install": true, "name_check": false,
    });
    let members = op.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    op
}

#[tokio::test]
async fn an_instance_is_created_where_it_is_wanted() {
    let bench = Bench::new(3);
    let os_less = json!({"pnode": "node2", "no_install": null});
    let outcome = bench.run(create("Web1.example.com", &os_less)).await;
    assert_eq!(outcome.result, Ok(json!(["node2.example.com"])));
    let config = bench.config();
    let instance = config.instance_by_name("web1.example.com").unwrap();
    assert_eq!(instance.admin_state, AdminState::Up);
    let node = bench.shared.nodes.get(&instance.primary_node).unwrap();
    assert!(node.state().instances.contains_key("web1.example.com"));
    let texts: Vec<&str> = outcome.log.iter().map(String::as_str).collect();
    assert!(texts.ends_with(&["* starting instance..."]), "{texts:?}");
}

#[tokio::test]
async fn mirrored_disks_get_two_nodes_ports_and_minors() {
    let bench = Bench::new(3);
    let more = json!({
        "disk_template": "drbd", "disks": [{"size": "1g"}, {"size": 512}], "no_install": true,
    });
    let outcome = bench.run(create("db1", &more)).await;
    assert_eq!(
        outcome.result.map(|nodes| nodes.as_array().unwrap().len()),
        Ok(2),
        "{:?}",
        outcome.log
    );
    let config = bench.config();
    let disks = config.instance_disks(config.instance_by_name("db1").unwrap());
    assert_eq!(disks.iter().map(|disk| disk.size_mib).collect::<Vec<_>>(), [1024, 512]);
    assert_ne!(disks[0].logical_id[2], disks[1].logical_id[2]);
    assert_ne!(disks[0].logical_id[3], disks[1].logical_id[3]);
}

#[tokio::test]
async fn refusals_are_ganetis() {
    let bench = Bench::new(2);
    let check = async |more: Value, expected: Value| {
        let outcome = bench.run(create("inst1.example.com", &more)).await;
        assert_eq!(outcome.result.map_err(|error: GanetiError| error.to_value()), Err(expected));
    };
    let prereq = |text: &str, code: &str| json!(["OpPrereqError", [text, code]]);
    check(
        json!({"pnode": "node1", "iallocator": "hail"}),
        prereq("Do not specify both, iallocator and node", "wrong_input"),
    )
    .await;
    check(json!({"pnode": "nosuch"}), prereq("Node 'nosuch' not known", "unknown_entity")).await;
    check(
        json!({"pnode": "node1", "os_type": null, "no_install": true}),
        prereq("No guest OS or OS image specified", "wrong_input"),
    )
    .await;
    check(
        json!({"pnode": "node1", "disk_template": "rbd", "disks": [{"size": 4}]}),
        json!([
            "OpPrereqError",
            ["Disk template 'rbd' is not enabled in cluster. Enabled disk templates are: \
            drbd,plain,file,sharedfile,diskless,ext"]
        ]),
    )
    .await;
    check(
        json!({"pnode": "node1", "disk_template": "drbd", "disks": [{"size": 4}]}),
        prereq("The networked disk templates need a mirror node", "wrong_input"),
    )
    .await;
    check(
        json!({"pnode": "node1", "nics": [{"mac": "nonsense"}]}),
        prereq("Invalid MAC address 'nonsense'", "wrong_input"),
    )
    .await;
    check(
        json!({"pnode": "node1", "nics": [{"ip": "300.1.1.1"}]}),
        prereq("Invalid IP address '300.1.1.1'", "wrong_input"),
    )
    .await;
    check(
        json!({"pnode": "node1", "nics": [{"network": "nosuch"}]}),
        prereq("Network 'nosuch' not found", "unknown_entity"),
    )
    .await;
    check(
        json!({"pnode": "node1", "hypervisor": "xen-pvm"}),
        prereq(
            "Selected hypervisor (xen-pvm) not enabled in the cluster (fake,kvm)",
            "wrong_state",
        ),
    )
    .await;
}
