//! Queries against a small cluster: what a real one of Ganeti 3.0.2 answered about the same objects.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use ::node::{Console, InstanceRun, NodeState, RunState, StorageUnit};
use model::compat::Compat;
use model::config::{
    Cluster, Config, Disk, Filter, Instance, Meta, NetworkLink, Nic, Node, NodeGroup,
};
use model::job::Job;
use model::name::{JobId, Uuid};
use model::param::{
    AdminState, AdminStateSource, AllocPolicy, Dict, DiskTemplate, Hypervisor, StorageType, TagKind,
};
use model::query::{Item, Row};
use model::units::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{JobsWanted, Live, LockRow, NodeExports, Queries, Request};

/// A cluster and what its nodes say.
struct World {
    config: Config,
    states: BTreeMap<Uuid, Arc<NodeState>>,
    queries: Queries,
}

fn uuid(text: &str) -> Uuid {
    Uuid::new(text)
}

fn meta(text: &str) -> Meta {
    Meta::new(uuid(text), 1000.5)
}

fn dict(value: Value) -> Dict {
    match value {
        Value::Object(dict) => dict,
        other => panic!("{other}"),
    }
}

fn node(name: &str) -> Node {
    Node {
        meta: meta(name),
        tags: Default::default(),
        name: format!("{name}.gnt.example"),
        primary_ip: "10.77.0.11".into(),
        secondary_ip: "10.77.0.11".into(),
        master_candidate: true,
        offline: false,
        drained: false,
        master_capable: true,
        vm_capable: true,
        group: uuid("group"),
        ndparams: Dict::new(),
        powered: true,
        hv_state_static: Dict::new(),
        disk_state_static: Dict::new(),
    }
}

fn state() -> NodeState {
    NodeState {
        version: 1,
        reachable: true,
        boot_id: "boot".into(),
        memory_total_mib: 24105,
        memory_host_mib: 551,
        memory_free_mib: 23306,
        cpu_total: 2,
        cpu_sockets: 1,
        cpu_nodes: 1,
        cpu_host: 2,
        storage: vec![StorageUnit {
            kind: StorageType::File,
            key: "/srv".into(),
            total_mib: 258_019,
            free_mib: 72512,
        }],
        instances: Default::default(),
        hypervisor_version: String::new(),
    }
}

fn nic(index: usize, params: Value, name: Option<&str>, ip: Option<&str>) -> Nic {
    Nic {
        uuid: uuid(&format!("nic{index}")),
        name: name.map(str::to_owned),
        mac: format!("aa:00:00:00:00:0{index}"),
        ip: ip.map(str::to_owned),
        network: None,
        nicparams: dict(params),
    }
}

fn instance(name: &str, primary: &str, admin_state: AdminState) -> Instance {
    Instance {
        meta: meta(name),
        tags: Default::default(),
        name: format!("{name}.gnt.example"),
        primary_node: uuid(primary),
        os: "noop".into(),
        hypervisor: Hypervisor::Fake,
        hvparams: Dict::new(),
        beparams: Dict::new(),
        osparams: Dict::new(),
        osparams_private: Dict::new(),
        admin_state,
        admin_state_source: AdminStateSource::Admin,
        nics: Vec::new(),
        disks: Vec::new(),
        disks_active: admin_state == AdminState::Up,
        network_port: None,
        forthcoming: false,
        disk_template: DiskTemplate::Diskless,
    }
}

fn disk(name: &str, size_mib: u64, label: Option<&str>) -> Disk {
    Disk {
        meta: meta(name),
        dev_type: DiskTemplate::File,
        logical_id: Vec::new(),
        children: Vec::new(),
        nodes: vec![uuid("node2")],
        iv_name: "disk/0".into(),
        size_mib,
        mode: "rw".into(),
        name: label.map(str::to_owned),
        spindles: None,
        params: Dict::new(),
    }
}

fn run(memory_mib: u64) -> InstanceRun {
    InstanceRun { state: RunState::Running, memory_mib, vcpus: 1, cpu_seconds: 0.0 }
}

impl World {
    fn new() -> Self {
        let mut cluster = Cluster::new(
            meta("cluster"),
            "cluster.gnt.example",
            uuid("node1"),
            "10.77.0.1",
            vec![Hypervisor::Fake, Hypervisor::Kvm],
            vec![DiskTemplate::Diskless, DiskTemplate::File, DiskTemplate::Sharedfile],
        );
        cluster.nicparams =
            dict(json!({"default": {"mode": "bridged", "link": "gnt0", "vlan": ""}}));
        let mut config = Config::new(cluster);
        let group = NodeGroup {
            meta: meta("group"),
            tags: Default::default(),
            name: "default".into(),
            alloc_policy: AllocPolicy::Preferred,
            ndparams: Dict::new(),
            ipolicy: Dict::new(),
            diskparams: Dict::new(),
            hv_state_static: Dict::new(),
            disk_state_static: Dict::new(),
            networks: Default::default(),
        };
        config.put_group(Arc::new(group));
        let mut states = BTreeMap::new();
        for name in ["node1", "node2", "node10"] {
            config.put_node(Arc::new(node(name)));
            states.insert(uuid(name), Arc::new(state()));
        }
        let mut world = Self { config, states, queries: Queries::default() };

        let mut one = instance("params1", "node1", AdminState::Up);
        one.beparams = dict(json!({"maxmem": 256, "minmem": 128}));
        one.nics = vec![
            nic(0, json!({}), None, None),
            nic(1, json!({"mode": "routed"}), None, Some("10.1.1.1")),
        ];
        world.config.put_instance(Arc::new(one));
        world.start("node1", "params1", 256);
        let mut ten = instance("params10", "node2", AdminState::Down);
        ten.nics = vec![nic(2, json!({"vlan": ".3"}), Some("eth"), None)];
        ten.tags = ["b", "a"].map(str::to_owned).into_iter().collect();
        for (name, size, label) in [("disk0", 16, None), ("disk1", 20, Some("data"))] {
            world.config.put_disk(Arc::new(disk(name, size, label)), None);
            ten.disks.push(uuid(name));
        }
        world.config.put_instance(Arc::new(ten));
        world
    }

    fn start(&mut self, node: &str, name: &str, memory_mib: u64) {
        self.edit_state(node, |state| {
            state.instances.insert(format!("{name}.gnt.example"), run(memory_mib));
        });
    }

    fn edit_state(&mut self, node: &str, edit: impl FnOnce(&mut NodeState)) {
        let mut state = NodeState::clone(&self.states[&uuid(node)]);
        state.version += 1;
        edit(&mut state);
        self.states.insert(uuid(node), Arc::new(state));
    }

    fn edit_instance(&mut self, name: &str, edit: impl FnOnce(&mut Instance)) {
        let mut instance = Instance::clone(&self.config.instances[&uuid(name)]);
        edit(&mut instance);
        self.config.put_instance(Arc::new(instance));
        self.config.version += 1;
    }

    fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let mut node = Node::clone(&self.config.nodes[&uuid(name)]);
        edit(&mut node);
        self.config.put_node(Arc::new(node));
    }

    fn live<T>(&self, ask: impl FnOnce(&Live<'_>) -> T) -> T {
        ask(&Live {
            config: &self.config,
            nodes: &|uuid| self.states.get(uuid).cloned(),
            console: &|_| {
                Some(Console::Message("Console not available for fake hypervisor".into()))
            },
            compat: Compat::V30,
        })
    }

    fn ask(&self, resource: &str, filter: &Value, fields: &[&str]) -> Result<Value, String> {
        let fields: Vec<String> = fields.iter().map(|name| (*name).to_owned()).collect();
        let answer = Request::parse(resource, &fields, filter)
            .and_then(|request| self.live(|live| self.queries.query(live, &request)));
        let answer = answer.map_err(|error| error.to_string())?;
        Ok(answer
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| cell.to_value()).collect::<Value>())
            .collect())
    }

    fn list(&self, item: Item, fields: &[&str]) -> Vec<Row> {
        self.live(|live| self.queries.items(live, item, &[], fields)).unwrap()
    }

    /// The list as it is when nothing is kept.
    fn fresh(&self, item: Item, fields: &[&str]) -> Vec<Row> {
        self.live(|live| Queries::default().items(live, item, &[], fields)).unwrap()
    }
}

#[test]
fn fields_are_described_as_ganeti_describes_them() {
    let mut described = String::new();
    let mut count = 0;
    for resource in ["instance", "node", "group", "network", "job", "lock", "export", "filter"] {
        for field in super::fields(resource, None).unwrap() {
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
        described.lines().zip(include_str!("../../tests/fixtures/fields-3.0.2.txt").lines())
    {
        assert_eq!(ours, theirs);
    }
    let unknown = super::fields("lock", Some(&["name".into(), "bogus".into()])).unwrap();
    assert_eq!(
        unknown[1].to_value(),
        json!({"name": "bogus", "title": "bogus", "kind": "unknown", "doc": "Unknown field 'bogus'"})
    );
    assert!(super::fields("bogus", None).is_err());
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
    let answer = super::query_jobs(&request(&fields, Value::Null), &jobs, Compat::V31).unwrap();
    let rows: Vec<Value> =
        answer.rows.iter().map(|row| row.iter().map(|cell| cell.to_value()).collect()).collect();
    assert_eq!(
        json!(rows),
        json!([
            [[0, 1], [0, "success"], [0, [100, 5]], [3, null], [1, null]],
            [[0, 9], [3, null], [3, null], [3, null], [1, null]],
        ])
    );
    let filtered =
        super::query_jobs(&request(&["id"], json!([">", "received_ts", 100])), &jobs, Compat::V31);
    assert_eq!(filtered.unwrap().rows.len(), 1, "the unknown job has no data, and so passes");
    assert_eq!(
        super::job_values(&job, &["id", "end_ts"], Compat::V31),
        Ok(vec![json!(1), Value::Null])
    );
    let error = super::job_values(&job, &["id", "x", "y"], Compat::V31).unwrap_err();
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
    let answer = super::query_locks(&request, &locks).unwrap();
    let row: Vec<Value> = answer.rows[0].iter().map(|cell| cell.to_value()).collect();
    assert_eq!(
        json!(row),
        json!([[0, "instance/web1"], [0, "exclusive"], [0, ["7"]], [0, [["shared", ["8"]]]]])
    );

    let mut world = World::new();
    let fields = ["node", "export"].map(str::to_owned);
    let request = Request::parse("export", &fields, &json!(["==", "node", "node2"])).unwrap();
    assert_eq!(super::export_nodes(&world.config, &request), Ok(vec![uuid("node2")]));
    let of = |exports: Option<&[&str]>, offline| NodeExports {
        node: "node2.gnt.example".into(),
        exports: exports.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        offline,
    };
    let exports =
        [of(Some(&["a", "b"]), false), of(Some(&[]), false), of(None, true), of(None, false)];
    let answer = super::query_exports(&request, &exports).unwrap();
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
    let rows = super::filter_rows(&world.config, None, &["uuid", "action", "watermark"]).unwrap();
    assert_eq!(*rows[0], vec![json!("rule"), json!("REJECT"), json!(3)]);
    let unknown = ["nosuch".to_owned()];
    assert_eq!(super::filter_rows(&world.config, Some(&unknown), &["uuid"]), Ok(Vec::new()));
}

#[test]
fn the_cluster_describes_itself() {
    let world = World::new();
    let info = super::cluster_info(&world.config, Compat::V30);
    let recorded: Value =
        serde_json::from_str(include_str!("../../../model/tests/fixtures/info-3.0.2.json"))
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
    assert_eq!(super::config_value(&world.config, "cluster_name"), "cluster.gnt.example");
    assert_eq!(super::config_value(&world.config, "bogus"), Value::Null);

    let tags =
        |kind, name| super::tags(&world.config, kind, name).map_err(|error| error.to_string());
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

/// What of a list was kept.
fn same(a: &[Row], b: &[Row]) -> Vec<bool> {
    a.iter().zip(b).map(|(a, b)| Arc::ptr_eq(a, b)).collect()
}

#[test]
fn rows_are_kept_until_they_change() {
    let mut world = World::new();
    let fields = ["name", "status", "disk.sizes", "tags", "nic.networks.names"];
    let first = world.list(Item::Instance, &fields);
    assert_eq!(same(&first, &world.list(Item::Instance, &fields)), [true, true]);

    world.edit_instance("params1", |instance| {
        instance.tags.insert("new".into());
    });
    let second = world.list(Item::Instance, &fields);
    assert_eq!(same(&first, &second), [false, true]);

    world.edit_state("node1", |state| state.memory_free_mib -= 1);
    assert_eq!(same(&second, &world.list(Item::Instance, &fields)), [true, true]);
    world.edit_state("node1", |state| state.instances.clear());
    let third = world.list(Item::Instance, &fields);
    assert_eq!(same(&second, &third), [false, true]);
    assert_eq!(third[0][1], "ERROR_down");

    world.config.put_disk(Arc::new(disk("disk0", 32, None)), Some(&uuid("params10")));
    let fourth = world.list(Item::Instance, &fields);
    assert_eq!(same(&third, &fourth), [true, false]);
    assert_eq!(fourth[1][2], json!([32, 20]));

    let mut cluster = Cluster::clone(&world.config.cluster);
    cluster.meta.touch(2000.0);
    world.config.cluster = Arc::new(cluster);
    assert_eq!(same(&fourth, &world.list(Item::Instance, &fields)), [true, true]);

    let nodes = world.list(Item::Node, &["name", "mfree"]);
    world.edit_state("node2", |state| state.memory_free_mib = 1);
    assert_eq!(same(&nodes, &world.list(Item::Node, &["name", "mfree"])), [true, false, true]);
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, bool),
    Drop(usize),
    Rename(usize, usize),
    Tag(usize),
    Run(usize, usize, bool),
    Reach(usize, bool),
    Offline(usize, bool),
    Ask,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12usize, 0..3usize, any::<bool>()).prop_map(|(i, n, up)| Step::Put(i, n, up)),
        1 => (0..12usize).prop_map(Step::Drop),
        1 => (0..12usize, 0..12usize).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => (0..12usize).prop_map(Step::Tag),
        1 => (0..12usize, 0..3usize, any::<bool>()).prop_map(|(i, n, on)| Step::Run(i, n, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(n, on)| Step::Reach(n, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(n, on)| Step::Offline(n, on)),
        3 => Just(Step::Ask),
    ]
}

const NODES: [&str; 3] = ["node1", "node2", "node10"];

fn apply(world: &mut World, step: &Step) {
    let name = |index: &usize| format!("i{index}");
    match step {
        Step::Put(i, n, up) => {
            let admin = if *up { AdminState::Up } else { AdminState::Down };
            let new = instance(&name(i), NODES[*n], admin);
            // A name that another took by renaming stays with it.
            let owner = world.config.index.instance_by_name.get(&new.name);
            if owner.is_none_or(|owner| *owner == new.meta.uuid) {
                world.config.put_instance(Arc::new(new));
            }
        }
        Step::Drop(i) => world.config.drop_instance(&uuid(&name(i))),
        Step::Rename(a, b) => {
            let (a, b) = (uuid(&name(a)), uuid(&name(b)));
            let (Some(one), Some(other)) =
                (world.config.instances.get(&a), world.config.instances.get(&b))
            else {
                return;
            };
            // They swap names.
            let (mut one, mut other) = (Instance::clone(one), Instance::clone(other));
            if a != b {
                std::mem::swap(&mut one.name, &mut other.name);
                world.config.drop_instance(&a);
                world.config.drop_instance(&b);
                world.config.put_instance(Arc::new(one));
                world.config.put_instance(Arc::new(other));
            }
        }
        Step::Tag(i) => {
            if world.config.instances.contains_key(&uuid(&name(i))) {
                world.edit_instance(&name(i), |instance| {
                    instance.tags.insert("tag".into());
                });
            }
        }
        Step::Run(i, n, on) => {
            let full = format!("{}.gnt.example", name(i));
            world.edit_state(NODES[*n], |state| {
                if *on {
                    state.instances.insert(full, run(128));
                } else {
                    state.instances.remove(&full);
                }
            });
        }
        Step::Reach(n, on) => world.edit_state(NODES[*n], |state| state.reachable = *on),
        Step::Offline(n, on) => world.edit_node(NODES[*n], |node| node.offline = *on),
        Step::Ask => {}
    }
}

proptest! {
    #[test]
    fn kept_lists_equal_fresh_ones(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        let fields = ["name", "status", "tags", "oper_ram", "pnode", "snodes", "uuid"];
        for step in &steps {
            apply(&mut world, step);
            if matches!(step, Step::Ask) {
                prop_assert_eq!(world.list(Item::Instance, &fields), world.fresh(Item::Instance, &fields));
                prop_assert_eq!(world.list(Item::Node, &["name", "pinst_list", "mfree"]),
                                world.fresh(Item::Node, &["name", "pinst_list", "mfree"]));
            }
        }
        prop_assert_eq!(world.list(Item::Instance, &fields), world.fresh(Item::Instance, &fields));
    }
}
