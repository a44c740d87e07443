//! What a real cluster of Ganeti 3.0.2 answered about the same objects.

use std::sync::Arc;

use model::compat::Compat;
use model::config::{Filter, NetworkLink, NodeGroup};
use model::job::Job;
use model::name::JobId;
use model::param::TagKind;
use model::query::Item;
use model::units::Timestamp;
use serde_json::{Value, json};

use super::{World, meta, uuid};
use crate::query::{JobsWanted, LockRow, NodeExports, Request};

#[test]
fn fields_are_described_as_ganeti_describes_them() {
    let mut described = String::new();
    let mut count = 0;
    for resource in ["instance", "node", "group", "network", "job", "lock", "export", "filter"] {
        for field in crate::query::fields(resource, None).unwrap() {
            let kind = field.kind.as_str();
            described += &format!(
                "{resource} | {} | {} | {kind} | {}\n",
                field.name, field.title, field.doc
            );
            count += 1;
        }
    }
    assert_eq!(count, 410);
    for (ours, theirs) in
        described.lines().zip(include_str!("../../../tests/fixtures/fields-3.0.2.txt").lines())
    {
        assert_eq!(ours, theirs);
    }
    let unknown = crate::query::fields("lock", Some(&["name".into(), "bogus".into()])).unwrap();
    assert_eq!(
        unknown[1].to_value(),
        json!({"name": "bogus", "title": "bogus", "kind": "unknown", "doc": "Unknown field 'bogus'"})
    );
    assert!(crate::query::fields("bogus", None).is_err());
}

#[test]
fn instances_answer_as_ganetis_did() {
    let fields = [
        "name",
        "network_port",
        "oper_state",
        "oper_ram",
        "oper_vcpus",
        "status",
        "console",
        "nic.vlan/0",
        "nic.bridge/1",
        "nic.bridges",
        "nic.vlans",
        "disk.name/0",
        "disk.name/1",
        "disk.size/2",
        "snodes.group",
        "disk_usage",
        "custom_nicparams",
        "osparams",
        "forthcoming",
        "hv/acpi",
        "hv/migration_mode",
        "be/memory",
        "disk_template",
        "admin_state_source",
        "nic.network.name/0",
        "bogus",
        "nic.ip/0",
        "beparams",
        "hvparams",
        "custom_hvparams",
        "disks_active",
    ];
    let console = |name: &str| json!({"instance": name, "kind": "msg", "message": "Console not available for fake hypervisor"});
    let be = |maxmem| {
        json!({"minmem": 128, "maxmem": maxmem, "vcpus": 1, "auto_balance": true, "always_failover": false,
               "spindle_use": 1})
    };
    // Recorded from the real daemon.
    let expected = json!([
        [[0, "params1.gnt.example"], [3, null], [0, true], [0, 256], [0, 1], [0, "running"],
         [0, console("params1.gnt.example")], [3, null], [3, null], [0, ["gnt0", null]], [0, [null, null]], [3, null],
         [3, null], [3, null], [0, []], [0, 0], [0, [{}, {"mode": "routed"}]], [0, {}], [0, false], [3, null],
         [1, null], [0, 256], [0, "diskless"], [0, "admin"], [3, null], [1, null], [3, null], [0, be(256)], [0, {}],
         [0, {}], [0, true]],
        [[0, "params10.gnt.example"], [3, null], [0, false], [3, null], [3, null], [0, "ADMIN_down"],
         [0, console("params10.gnt.example")], [3, null], [3, null], [0, ["gnt0"]], [0, [null]], [3, null],
         [0, "data"], [3, null], [0, []], [0, 36], [0, [{"vlan": ".3"}]], [0, {}], [0, false], [3, null], [1, null],
         [0, 128], [0, "file"], [0, "admin"], [3, null], [1, null], [3, null], [0, be(128)], [0, {}], [0, {}],
         [0, false]],
    ]);
    assert_eq!(World::new().ask("instance", &Value::Null, &fields), Ok(expected));
}

#[test]
fn the_list_has_ganetis_values() {
    let fields = [
        "name",
        "admin_state",
        "os",
        "pnode",
        "snodes",
        "disk_template",
        "nic.ips",
        "nic.modes",
        "nic.names",
        "nic.links",
        "nic.networks",
        "nic.networks.names",
        "nic.bridges",
        "network_port",
        "disk.sizes",
        "disk.spindles",
        "disk_usage",
        "disk.names",
        "oper_state",
        "oper_ram",
        "oper_vcpus",
        "status",
        "custom_beparams",
        "ctime",
        "serial_no",
        "tags",
    ];
    let rows = World::new().list(Item::Instance, &fields);
    // Recorded from the real daemon, but for the times.
    assert_eq!(
        json!(*rows[1]),
        json!([
            "params10.gnt.example",
            "down",
            "noop",
            "node2.gnt.example",
            [],
            "file",
            [null],
            ["bridged"],
            ["eth"],
            ["gnt0"],
            [null],
            [null],
            ["gnt0"],
            null,
            [16, 20],
            [null, null],
            36,
            [null, "data"],
            false,
            null,
            null,
            "ADMIN_down",
            {},
            1000.5,
            1,
            ["a", "b"],
        ])
    );
}

#[test]
fn filters_choose_and_refuse_as_ganetis_did() {
    let world = World::new();
    let check = |filter: Value, expected: Result<&[&str], &str>| {
        let got = world.ask("instance", &filter, &["name"]);
        let expected = expected.map_err(str::to_owned).map(|names| {
            names.iter().map(|name| json!([[0, format!("{name}.gnt.example")]])).collect::<Value>()
        });
        assert_eq!(got, expected, "{filter}");
    };
    let both: Result<&[&str], &str> = Ok(&["params1", "params10"]);
    check(json!(["==", "name", "params1"]), Ok(&["params1"]));
    check(
        json!(["==", "name", "nosuch"]),
        Err("('Instance name nosuch not found', 'unknown_entity')"),
    );
    check(
        json!(["==", "name", "PARAMS1"]),
        Err("('Instance name PARAMS1 not found', 'unknown_entity')"),
    );
    check(
        json!(["|", ["==", "name", "params10"], ["==", "name", "params1.gnt.example"]]),
        Ok(&["params10", "params1"]),
    );
    check(
        json!(["|", ["==", "name", 5], ["==", "name", "params1"]]),
        Err(
            "Invalid types in comparison, trying to compare \"params1.gnt.example\" with 'NumericValue 5'",
        ),
    );
    check(json!(["!=", "name", "params1"]), Ok(&["params10"]));
    check(json!(["==", "pnode", "node2"]), Ok(&["params10"]));
    check(json!(["<", "name", "params10"]), Ok(&["params1"]));
    check(json!(["==", "disk.count", 2]), Ok(&["params10"]));
    check(json!(["?", "admin_up"]), Ok(&["params1"]));
    check(json!(["=[]", "tags", "a"]), Ok(&["params10"]));
    check(json!(["=[]", "disk.sizes", 16]), Ok(&["params10"]));
    check(json!(["==", "nic.ip/0", "x"]), both);
    check(json!(["!", ["==", "nic.ip/1", "x"]]), Ok(&["params1"]));
    check(json!(["==", "oper_ram", 256]), both);
    check(json!(["==", "status", "running"]), Ok(&["params1"]));
    check(json!(["==", "uuid", "x"]), Ok(&[]));
    check(json!(["|"]), Ok(&[]));
    check(json!(["&"]), both);
    check(json!(["?", "nosuch"]), Err("Can't find field named 'nosuch'"));
    check(
        json!(["==", "hvparams", "x"]),
        Err("Invalid types in comparison, trying to compare {} with 'QuotedString \"x\"'"),
    );
}

#[test]
fn other_nouns_answer_as_ganetis_did() {
    let mut world = World::new();
    let fields = [
        "name",
        "powered",
        "hv_state",
        "sptotal",
        "group",
        "ndp/cpu_speed",
        "dtotal",
        "master",
        "role",
        "pinst_list",
    ];
    let rows = world.ask("node", &json!(["==", "name", "node1"]), &fields).unwrap();
    let expected = json!([[
        [0, "node1.gnt.example"],
        [3, null],
        [3, null],
        [2, null],
        [0, "default"],
        [0, 1],
        [0, 258_019],
        [0, true],
        [0, "M"],
        [0, ["params1.gnt.example"]],
    ]]);
    assert_eq!(rows, expected);
    let rows = world.ask("node", &Value::Null, &["name"]).unwrap();
    assert_eq!(rows[2][0][1], "node10.gnt.example", "natural order");
    let check = |resource, text: &str| {
        let got = world.ask(resource, &json!(["==", "name", "nosuch"]), &["name"]);
        assert_eq!(got, Err(format!("('{text} name nosuch not found', 'unknown_entity')")));
    };
    check("node", "Node");
    check("group", "NodeGroup");
    check("network", "Network");
    let rows = world
        .ask("group", &Value::Null, &["name", "pinst_list", "pinst_cnt", "ndp/ssh_port"])
        .unwrap();
    let names = ["params1.gnt.example", "params10.gnt.example"];
    assert_eq!(rows, json!([[[0, "default"], [0, names], [0, 2], [0, 22]]]));
    assert!(
        world
            .ask("bogus", &Value::Null, &["name"])
            .unwrap_err()
            .starts_with("Failed to parse request: ")
    );

    world.edit_node("node1", |node| node.offline = true);
    let rows =
        world.ask("node", &json!(["==", "name", "node1"]), &["mfree", "role", "dtotal"]).unwrap();
    assert_eq!(rows, json!([[[4, null], [0, "M"], [4, null]]]));
    let rows = world.ask(
        "instance",
        &json!(["==", "name", "params1"]),
        &["status", "oper_state", "oper_ram"],
    );
    assert_eq!(rows, Ok(json!([[[0, "ERROR_nodeoffline"], [2, null], [4, null]]])));
    world.edit_node("node1", |node| node.offline = false);
    world.edit_state("node1", |state| state.reachable = false);
    let rows = world.ask(
        "instance",
        &json!(["==", "name", "params1"]),
        &["status", "oper_state", "oper_ram"],
    );
    assert_eq!(rows, Ok(json!([[[0, "ERROR_nodedown"], [2, null], [2, null]]])));
}

#[test]
fn networks_show_their_addresses() {
    let mut world = World::new();
    let network = model::config::Network {
        meta: meta("net"),
        tags: Default::default(),
        name: "net1".into(),
        network: "10.9.0.0/29".into(),
        gateway: Some("10.9.0.1".into()),
        network6: None,
        gateway6: None,
        mac_prefix: None,
        reservations: [2u32].into_iter().collect(),
        ext_reservations: [0u32, 1, 7].into_iter().collect(),
    };
    world.config.put_network(Arc::new(network));
    let mut group = NodeGroup::clone(&world.config.groups[&uuid("group")]);
    let link = NetworkLink { mode: "bridged".into(), link: "gnt0".into(), vlan: String::new() };
    group.networks.insert(uuid("net"), link);
    world.config.put_group(Arc::new(group));
    world.edit_instance("params1", |instance| instance.nics[0].network = Some(uuid("net")));
    let fields = [
        "name",
        "map",
        "free_count",
        "reserved_count",
        "group_list",
        "inst_list",
        "external_reservations",
        "network6",
    ];
    let rows = world.ask("network", &Value::Null, &fields).unwrap();
    let expected = json!([[
        [0, "net1"],
        [0, "XXX....X"],
        [0, 4],
        [0, 4],
        [0, [["default", "bridged", "gnt0", ""]]],
        [0, ["params1.gnt.example"]],
        [0, "10.9.0.0, 10.9.0.1, 10.9.0.7"],
        [3, null],
    ]]);
    assert_eq!(rows, expected);
    let rows = world.ask("instance", &json!(["==", "name", "params1"]), &["nic.networks.names"]);
    assert_eq!(rows, Ok(json!([[[0, ["net1", null]]]])));
}

#[test]
fn jobs_are_found_by_id() {
    let request = |fields: &[&str], filter: Value| {
        let fields: Vec<String> = fields.iter().map(|name| (*name).to_owned()).collect();
        Request::parse("job", &fields, &filter).unwrap()
    };
    let check = |fields: &[&str], filter: Value, expected: Result<JobsWanted, &str>| {
        let got = JobsWanted::of(&request(fields, filter)).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned));
    };
    let ids = |ids: &[u64]| Ok(JobsWanted::Ids(ids.iter().copied().map(JobId).collect()));
    check(&["id"], json!(["|", ["==", "id", 2], ["==", "id", "1"], ["==", "id", 2]]), ids(&[2, 1]));
    check(&["id"], json!(["==", "status", "error"]), Ok(JobsWanted::Open));
    check(&["id", "archived"], Value::Null, Ok(JobsWanted::All));
    check(&["id"], json!(["==", "id", "x"]), Err("parsing job id: cannot parse string 'x'"));
    check(&["id"], json!(["==", "id", -1]), Err("Invalid value for job ID ' -1'"));

    let job = Arc::new(Job::new(JobId(1), Vec::new(), Timestamp(100, 5)));
    let jobs = [(JobId(1), Some(job.clone())), (JobId(9), None)];
    let fields = ["id", "status", "received_ts", "start_ts", "bogus"];
    let answer =
        crate::query::query_jobs(&request(&fields, Value::Null), &jobs, Compat::V31).unwrap();
    let rows: Vec<Value> =
        answer.rows.iter().map(|row| row.iter().map(|cell| cell.to_value()).collect()).collect();
    assert_eq!(
        json!(rows),
        json!([
            [[0, 1], [0, "success"], [0, [100, 5]], [3, null], [1, null]],
            [[0, 9], [3, null], [3, null], [3, null], [1, null]],
        ])
    );
    let filtered = crate::query::query_jobs(
        &request(&["id"], json!([">", "received_ts", 100])),
        &jobs,
        Compat::V31,
    );
    assert_eq!(filtered.unwrap().rows.len(), 1, "the unknown job has no data, and so passes");
    assert_eq!(
        crate::query::job_values(&job, &["id", "end_ts"], Compat::V31),
        Ok(vec![json!(1), Value::Null])
    );
    let error = crate::query::job_values(&job, &["id", "x", "y"], Compat::V31).unwrap_err();
    assert_eq!(error.to_string(), "('Unknown output fields selected: x, y', 'wrong_input')");
}

#[test]
fn locks_exports_and_rules_have_rows() {
    let locks = [LockRow {
        name: "instance/web1".into(),
        mode: Some("exclusive"),
        owners: vec![7],
        pending: vec![("shared", 8)],
    }];
    let fields = ["name", "mode", "owner", "pending"].map(str::to_owned);
    let request = Request::parse("lock", &fields, &Value::Null).unwrap();
    let answer = crate::query::query_locks(&request, &locks).unwrap();
    let row: Vec<Value> = answer.rows[0].iter().map(|cell| cell.to_value()).collect();
    assert_eq!(
        json!(row),
        json!([[0, "instance/web1"], [0, "exclusive"], [0, ["7"]], [0, [["shared", ["8"]]]]])
    );

    let mut world = World::new();
    let fields = ["node", "export"].map(str::to_owned);
    let request = Request::parse("export", &fields, &json!(["==", "node", "node2"])).unwrap();
    assert_eq!(crate::query::export_nodes(&world.config, &request), Ok(vec![uuid("node2")]));
    let of = |exports: Option<&[&str]>, offline| NodeExports {
        node: "node2.gnt.example".into(),
        exports: exports.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        offline,
    };
    let exports =
        [of(Some(&["a", "b"]), false), of(Some(&[]), false), of(None, true), of(None, false)];
    let answer = crate::query::query_exports(&request, &exports).unwrap();
    let cells: Vec<Value> = answer.rows.iter().map(|row| row[1].to_value()).collect();
    assert_eq!(json!(cells), json!([[0, "a"], [0, "b"], [4, null], [2, null]]));

    let rule = Filter {
        uuid: uuid("rule"),
        watermark: 3,
        priority: 1,
        predicates: json!([]),
        action: json!("REJECT"),
        reason_trail: json!([]),
    };
    world.config.filters.insert(uuid("rule"), Arc::new(rule));
    let rows =
        crate::query::filter_rows(&world.config, None, &["uuid", "action", "watermark"]).unwrap();
    assert_eq!(*rows[0], vec![json!("rule"), json!("REJECT"), json!(3)]);
    let unknown = ["nosuch".to_owned()];
    assert_eq!(crate::query::filter_rows(&world.config, Some(&unknown), &["uuid"]), Ok(Vec::new()));
}

#[test]
fn the_cluster_describes_itself() {
    let world = World::new();
    let info = crate::query::cluster_info(&world.config, Compat::V30);
    let recorded: Value =
        serde_json::from_str(include_str!("../../../../model/tests/fixtures/info-3.0.2.json"))
            .unwrap();
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut expected = keys(&recorded);
    expected.retain(|key| key != "vg_name" && key != "drbd_helper");
    assert_eq!(keys(&info), expected, "the same keys in the same order");
    assert_eq!(info["master"], "node1.gnt.example");
    assert_eq!(info["software_version"], "3.0.2");
    for key in [
        "beparams",
        "nicparams",
        "ndparams",
        "diskparams",
        "enabled_data_collectors",
        "data_collector_interval",
    ] {
        assert_eq!(info[key], recorded[key], "{key}");
    }
    assert_eq!(crate::query::config_value(&world.config, "cluster_name"), "cluster.gnt.example");
    assert_eq!(crate::query::config_value(&world.config, "bogus"), Value::Null);

    let tags = |kind, name| {
        crate::query::tags(&world.config, kind, name).map_err(|error| error.to_string())
    };
    assert_eq!(tags(TagKind::Instance, "params10"), Ok(vec!["a".into(), "b".into()]));
    assert_eq!(tags(TagKind::Cluster, ""), Ok(vec![]));
    assert_eq!(tags(TagKind::Node, "x"), Err("('Node name x not found', 'unknown_entity')".into()));
}

#[test]
fn names_choose_rows_and_unknown_ones_give_none() {
    let world = World::new();
    let names = ["params10", "nosuch", "params1"].map(str::to_owned);
    let rows =
        world.live(|live| world.queries.items(live, Item::Instance, &names, &["name"])).unwrap();
    assert_eq!(
        rows,
        [vec![json!("params10.gnt.example")].into(), vec![json!("params1.gnt.example")].into()]
    );
    let error =
        world.live(|live| world.queries.items(live, Item::Node, &[], &["name", "x"])).unwrap_err();
    assert_eq!(error.to_string(), "('Unknown output fields selected: x', 'wrong_input')");
}
