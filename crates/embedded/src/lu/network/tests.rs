//! Networks: pools, reservations, connections, and each refusal.

use model::error::GanetiError;
use model::name::Uuid;
use serde_json::{Value, json};

use crate::lu::testing::{Bench, Outcome};

async fn run(bench: &Bench, id: &str, mut params: Value) -> Outcome {
    params["OP_ID"] = json!(id);
    bench.run(params).await
}

async fn refused(bench: &Bench, id: &str, params: Value, class: &str, args: Value) -> Vec<String> {
    let outcome = run(bench, id, params.clone()).await;
    assert_eq!(outcome.result.unwrap_err().to_value(), json!([class, args]), "{params}");
    outcome.log
}

async fn add(bench: &Bench, name: &str, network: &str) {
    let params = json!({"network_name": name, "network": network, "conflicts_check": false});
    assert_eq!(run(bench, "OP_NETWORK_ADD", params).await.result, Ok(Value::Null));
}

fn reserved(bench: &Bench, name: &str) -> Vec<u32> {
    bench.config().network_by_name(name).unwrap().ext_reservations.iter().copied().collect()
}

#[tokio::test]
async fn networks_are_added() {
    let bench = Bench::new(2);
    let params = json!({
        "network_name": "net1", "network": "192.0.2.0/28", "gateway": "192.0.2.1", "mac_prefix": "AA:01:02",
        "add_reserved_ips": ["192.0.2.5"], "tags": ["b", "a"], "network6": "fd00::/64", "gateway6": "fe80::1",
    });
    let outcome = run(&bench, "OP_NETWORK_ADD", params).await;
    assert_eq!(outcome.result, Ok(Value::Null));
    // The nodes' addresses are 192.0.2.11 and .12; the cluster's is the gateway's.
    assert_eq!(reserved(&bench, "net1"), [0, 1, 5, 11, 12, 15]);
    assert_eq!(
        outcome.log,
        [
            " - INFO: Reserved IP address of node 'node1.example.com' (192.0.2.11)",
            " - WARNING: Cannot reserve IP address '192.0.2.11' of node 'node1.example.com': IP 192.0.2.11 is already externally reserved",
            " - INFO: Reserved IP address of node 'node2.example.com' (192.0.2.12)",
            " - WARNING: Cannot reserve IP address '192.0.2.12' of node 'node2.example.com': IP 192.0.2.12 is already externally reserved",
            " - WARNING: Cannot reserve cluster master IP address (192.0.2.1): IP 192.0.2.1 is already externally reserved",
        ]
    );
    let config = bench.config();
    let network = config.network_by_name("net1").unwrap();
    assert_eq!(network.mac_prefix.as_deref(), Some("aa:01:02"));
    assert!(network.tags.iter().eq(["a", "b"]));
    let uuid = &network.meta.uuid;

    let id = "OP_NETWORK_ADD";
    let exists = format!("Desired network name 'net1' already exists as a network (UUID: {uuid})");
    let again = json!({"network_name": "net1", "network": "10.0.0.0/24"});
    refused(&bench, id, again, "OpPrereqError", json!([exists, "already_exists"])).await;
    let pool = async |params: Value, text: &str| {
        let mut params = params;
        params["network_name"] = json!("n");
        refused(&bench, id, params, "OpExecError", json!([text])).await;
    };
    pool(
        json!({"network": "10.0.0.0/31"}),
        "Cannot create IP address pool for network 'n': A network with only 2 host(s) is too small, please specify at least a /30 network",
    )
    .await;
    pool(
        json!({"network": "10.0.0.0"}),
        "Cannot create IP address pool for network 'n': A network with only 1 host(s) is too small, please specify at least a /30 network",
    )
    .await;
    pool(
        json!({"network": "10.0.0.0/8"}),
        "Cannot create IP address pool for network 'n': A big network with 16777216 host(s) is currently not supported. please specify at most a /16 network",
    )
    .await;
    pool(
        json!({"network": "10.77.6.0/24", "gateway": "10.1.1.1"}),
        "Cannot create IP address pool for network 'n': 10.77.6.0/24 does not contain 10.1.1.1",
    )
    .await;
    pool(
        json!({"network": "10.77.6.0/24", "add_reserved_ips": ["10.77.6.0"]}),
        "Cannot reserve IP address '10.77.6.0': IP 10.77.6.0 is already externally reserved",
    )
    .await;
    pool(json!({"network": "10.77.6.0/24", "network6": "fd00::/64", "gateway6": "fd01::1"}), "")
        .await;
    let prefix = json!({"network_name": "n", "network": "10.0.0.0/24", "mac_prefix": "zz"});
    let text = "Invalid MAC address prefix 'zz'";
    refused(&bench, id, prefix, "OpPrereqError", json!([text, "wrong_input"])).await;
    let tag = json!({"network_name": "n", "network": "10.0.0.0/24", "tags": ["a b"]});
    refused(&bench, id, tag, "TagError", json!(["Tag contains invalid characters"])).await;
}

#[tokio::test]
async fn networks_are_changed() {
    let bench = Bench::new(1);
    add(&bench, "net1", "10.77.8.0/28").await;
    let id = "OP_NETWORK_SET_PARAMS";
    let change = async |params: Value, log: &[&str], after: &[u32]| {
        let mut params = params;
        params["network_name"] = json!("net1");
        let outcome = run(&bench, id, params).await;
        assert_eq!((outcome.result, reserved(&bench, "net1").as_slice()), (Ok(Value::Null), after));
        assert_eq!(outcome.log, log);
    };
    change(json!({"gateway": "10.77.8.1"}), &[], &[0, 1, 15]).await;
    change(
        json!({"gateway": "10.77.8.1"}),
        &[" - WARNING: Gateway is already 10.77.8.1"],
        &[0, 1, 15],
    )
    .await;
    change(json!({"gateway": "10.77.8.2"}), &[], &[0, 2, 15]).await;
    change(json!({"add_reserved_ips": ["10.77.8.9"]}), &[], &[0, 2, 9, 15]).await;
    change(
        json!({"add_reserved_ips": ["10.9.9.9", "10.77.8.9"]}),
        &[
            " - WARNING: Cannot reserve IP address 10.9.9.9: 10.77.8.0/28 does not contain 10.9.9.9",
            " - WARNING: Cannot reserve IP address 10.77.8.9: IP 10.77.8.9 is already externally reserved",
        ],
        &[0, 2, 9, 15],
    )
    .await;
    change(
        json!({"remove_reserved_ips": ["10.77.8.9", "10.77.8.2", "10.77.8.3"]}),
        &[
            " - WARNING: Cannot unreserve Gateway's IP",
            " - WARNING: Cannot release IP address 10.77.8.3: IP 10.77.8.3 is not externally reserved",
        ],
        &[0, 2, 15],
    )
    .await;
    change(json!({"mac_prefix": "aa:02:03", "network6": "fd00::/64"}), &[], &[0, 2, 15]).await;
    assert_eq!(
        bench.config().network_by_name("net1").unwrap().mac_prefix.as_deref(),
        Some("aa:02:03")
    );
    change(json!({"mac_prefix": "none"}), &[], &[0, 2, 15]).await;
    let config = bench.config();
    let network = config.network_by_name("net1").unwrap();
    assert_eq!((network.mac_prefix.as_deref(), network.meta.serial_no), (None, 9));

    let both =
        json!({"network_name": "net1", "gateway": "10.77.8.3", "add_reserved_ips": ["10.77.8.4"]});
    let text = "Cannot modify gateway and reserved ips at once";
    refused(&bench, id, both, "OpPrereqError", json!([text, "wrong_input"])).await;
    let outside = json!({"network_name": "net1", "gateway": "10.1.1.1"});
    let text = "10.77.8.0/28 does not contain 10.1.1.1";
    refused(&bench, id, outside, "AddressPoolError", json!([text])).await;
    let uuid = network.meta.uuid.clone();
    let change = bench.shared.config.commit(|draft| {
        draft.edit_network(&uuid, |network| network.reservations.insert(7));
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
    let used = json!({"network_name": "net1", "gateway": "10.77.8.7"});
    let text = "Gateway IP address '10.77.8.7' is already reserved";
    refused(&bench, id, used, "OpPrereqError", json!([text, "wrong_state"])).await;
    let unknown = json!({"network_name": "no", "gateway": "10.77.8.7"});
    let text = "Network 'no' not found";
    refused(&bench, id, unknown, "OpPrereqError", json!([text, "unknown_entity"])).await;
}

/// An instance with a NIC, written into the configuration as it is.
async fn put_instance(bench: &Bench, nic: Value) {
    let node = bench.config().cluster.master_node.clone();
    let mut nic = nic;
    for (name, value) in [
        ("uuid", json!("n")),
        ("name", Value::Null),
        ("mac", json!("aa:00:00:00:00:01")),
        ("nicparams", json!({})),
    ] {
        nic[name] = value;
    }
    let instance = json!({
        "uuid": "i1", "serial_no": 1, "ctime": 1.0, "mtime": 1.0, "tags": [], "name": "inst1.example.com",
        "primary_node": node, "os": "", "hypervisor": "fake", "hvparams": {}, "beparams": {}, "osparams": {},
        "osparams_private": {}, "admin_state": "down", "admin_state_source": "admin", "nics": [nic], "disks": [],
        "disks_active": false, "network_port": null, "forthcoming": false, "disk_template": "diskless",
    });
    let instance: model::config::Instance = serde_json::from_value(instance).unwrap();
    let change = bench.shared.config.commit(|draft| {
        draft.put_instance(instance);
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
}

#[tokio::test]
async fn networks_are_connected_and_disconnected() {
    let bench = Bench::new(1);
    add(&bench, "net1", "10.77.8.0/28").await;
    let uuid: Uuid = bench.config().network_by_name("net1").unwrap().meta.uuid.clone();
    let connect = json!({"network_name": "net1", "group_name": "default", "network_mode": "bridged",
        "network_link": "br0"});
    let gone = json!({"network_name": "net1", "group_name": "default"});
    let (id, away) = ("OP_NETWORK_CONNECT", "OP_NETWORK_DISCONNECT");
    let outcome = run(&bench, away, gone.clone()).await;
    assert_eq!(outcome.log, [" - WARNING: Network 'net1' is not mapped to group 'default'"]);
    assert_eq!(run(&bench, id, connect.clone()).await.result, Ok(Value::Null));
    let config = bench.config();
    let link = &config.group_by_name("default").unwrap().networks[&uuid];
    assert_eq!(
        (link.mode.as_str(), link.link.as_str(), link.vlan.as_str()),
        ("bridged", "br0", "")
    );
    let again = run(&bench, id, connect.clone()).await;
    assert_eq!(again.log, [" - WARNING: Network 'net1' is already mapped to group 'default'"]);

    let remove = json!({"network_name": "net1"});
    let args = json!(["Network still connected", "wrong_state"]);
    let log = refused(&bench, "OP_NETWORK_REMOVE", remove.clone(), "OpPrereqError", args).await;
    let text = " - WARNING: Network 'net1' is connected to the following node groups: default";
    assert_eq!(log, [text]);

    put_instance(&bench, json!({"ip": "10.77.8.2", "network": uuid})).await;
    let text =
        "Conflicting IP addresses found;  remove/modify the corresponding network interfaces";
    let args = json!([text, "wrong_state"]);
    let log = refused(&bench, away, gone.clone(), "OpPrereqError", args.clone()).await;
    assert_eq!(
        log,
        [
            " - WARNING: IP addresses from network 'net1', which is about to disconnect from node group 'default', are in use: inst1.example.com: nic0/10.77.8.2"
        ]
    );
    put_instance(&bench, json!({"ip": "10.77.8.2", "network": null})).await;
    assert_eq!(run(&bench, away, gone).await.result, Ok(Value::Null));
    let log = refused(&bench, id, connect.clone(), "OpPrereqError", args).await;
    assert_eq!(
        log,
        [
            " - WARNING: IP addresses from network 'net1', which is about to connect to node group 'default', are in use: inst1.example.com: nic0/10.77.8.2"
        ]
    );
    let mut unchecked = connect.clone();
    unchecked["conflicts_check"] = json!(false);
    assert_eq!(run(&bench, id, unchecked).await.result, Ok(Value::Null));
    let mut unknown = connect;
    unknown["group_name"] = json!("no");
    let args = json!(["Node group 'no' not found", "unknown_entity"]);
    refused(&bench, id, unknown, "OpPrereqError", args).await;
}

#[tokio::test]
async fn networks_are_renamed_and_removed() {
    let bench = Bench::new(1);
    add(&bench, "net1", "10.77.8.0/28").await;
    add(&bench, "net2", "10.77.9.0/28").await;
    let id = "OP_NETWORK_RENAME";
    let uuid = bench.config().network_by_name("net2").unwrap().meta.uuid.clone();
    let clash = json!({"network_name": "net1", "new_name": "net2"});
    let text = format!("Desired new name 'net2' clashes with existing network (UUID: {uuid})");
    refused(&bench, id, clash, "OpPrereqError", json!([text, "already_exists"])).await;
    let rename = json!({"network_name": "net1", "new_name": "net3"});
    assert_eq!(run(&bench, id, rename).await.result, Ok(json!("net3")));
    let remove = json!({"network_name": "net3"});
    assert_eq!(run(&bench, "OP_NETWORK_REMOVE", remove).await.result, Ok(Value::Null));
    let config = bench.config();
    let names: Vec<&str> = config.index.network_by_name.keys().map(String::as_str).collect();
    assert_eq!(names, ["net2"]);
}
