//! Queries against a small cluster.

mod answers;
mod kept;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::node::{Console, InstanceRun, NodeState, RunState, StorageUnit};
use model::compat::Compat;
use model::config::{Cluster, Config, Disk, Instance, Meta, Nic, Node, NodeGroup};
use model::name::Uuid;
use model::param::{
    AdminState, AdminStateSource, AllocPolicy, Dict, DiskTemplate, Hypervisor, StorageType,
};
use model::query::{Item, Row};
use serde_json::{Value, json};

use super::{Live, Queries, Request};

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
