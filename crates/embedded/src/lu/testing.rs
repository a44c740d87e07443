//! A cluster small enough to run one opcode on: for tests of logical units.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use model::compat::Compat;
use model::config::{Cluster, Config, Meta};
use model::error::{GanetiError, Result};
use model::job::LogKind;
use model::name::{JobId, Uuid};
use model::opcode::Op;
use model::param::{DiskTemplate, Hypervisor};
use node::fake::{World, WorldSetup};
use serde_json::Value;

use super::cx::JobPort;
use super::{Cx, execute};
use crate::config::{ConfigStore, Forgetful};
use crate::env::Env;
use crate::locks::Locks;
use crate::lu::cx::Shared;
use crate::nodes::Nodes;

/// A cluster without a queue: an opcode is run at once.
pub(crate) struct Bench {
    pub(crate) shared: Arc<Shared>,
    /// What its nodes live in: for faults on order.
    pub(crate) world: Arc<World>,
    os_dir: tempfile::TempDir,
}

/// What became of an opcode.
pub(crate) struct Outcome {
    pub(crate) result: Result<Value>,
    /// The texts of its log.
    pub(crate) log: Vec<String>,
    /// The jobs that it submitted.
    pub(crate) jobs: Vec<Vec<Op>>,
}

#[derive(Default)]
struct Port {
    log: Mutex<Vec<String>>,
    jobs: Mutex<Vec<Vec<Op>>>,
    /// Who is told what is no text.
    told: Option<tokio::sync::mpsc::UnboundedSender<Value>>,
}

#[async_trait]
impl JobPort for Port {
    fn job_id(&self) -> JobId {
        JobId(1)
    }

    fn log(&self, kind: LogKind, payload: Value) {
        if let (Some(told), true) = (&self.told, kind != LogKind::Message) {
            // Whoever listened may have had enough.
            let _ = told.send(payload.clone());
        }
        self.log.lock().unwrap().push(model::python::str(&payload));
    }

    async fn acquire(&self, _locks: &Locks) -> Result<()> {
        Ok(())
    }

    fn release(&self) {}

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    async fn submit(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        let mut all = self.jobs.lock().unwrap();
        let first = 2 + all.len() as u64;
        let ids = (first..).take(jobs.len()).map(|id| Ok(JobId(id))).collect();
        all.extend(jobs);
        Ok(ids)
    }
}

/// A cluster's settings: every disk template that simulated nodes play, and a policy that small instances keep to.
fn cluster(env: &Env) -> Cluster {
    let mut cluster = Cluster::new(
        Meta::new(env.uuid(), 1.0),
        "cluster.example.com",
        Uuid::default(),
        "192.0.2.1",
        vec![Hypervisor::Fake, Hypervisor::Kvm],
        vec![
            DiskTemplate::Drbd,
            DiskTemplate::Plain,
            DiskTemplate::File,
            DiskTemplate::Sharedfile,
            DiskTemplate::Diskless,
            DiskTemplate::Ext,
        ],
    );
    let least = serde_json::json!({
        "memory-size": 1, "cpu-count": 1, "disk-count": 0, "disk-size": 0, "nic-count": 0, "spindle-use": 0
    });
    cluster.ipolicy["minmax"][0]["min"] = least;
    cluster.simulated = true;
    cluster
}

/// An operating system definition whose scripts do nothing.
fn noop(dir: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir).unwrap();
    for script in ["create", "import", "export", "rename", "verify"] {
        let path = dir.join(script);
        std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(dir.join("ganeti_api_version"), "20\n").unwrap();
    std::fs::write(dir.join("parameters.list"), "").unwrap();
}

impl Bench {
    /// A cluster with this many simulated nodes, `node1.example.com` and so on, the first one the master.
    pub(crate) fn new(nodes: usize) -> Self {
        Self::at(nodes, 1_700_000_000)
    }

    /// One whose clock is right, as the nodes' are: they make certificates, which hold for a time.
    pub(crate) fn today(nodes: usize) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Self::at(nodes, i64::try_from(since.as_secs()).unwrap())
    }

    fn at(nodes: usize, seconds: i64) -> Self {
        let env = Arc::new(Env::seeded(1, seconds));
        let mut config = Config::new(cluster(&env));
        let group = model::config::NodeGroup {
            meta: model::config::Meta::new(env.uuid(), 1.0),
            tags: Default::default(),
            name: "default".to_owned(),
            alloc_policy: model::param::AllocPolicy::Preferred,
            ndparams: Default::default(),
            ipolicy: Default::default(),
            diskparams: Default::default(),
            hv_state_static: Default::default(),
            disk_state_static: Default::default(),
            networks: Default::default(),
        };
        let group_uuid = group.meta.uuid.clone();
        config.put_group(Arc::new(group));
        for at in 1..=nodes {
            let node = model::config::Node {
                meta: model::config::Meta::new(env.uuid(), 1.0),
                tags: Default::default(),
                name: format!("node{at}.example.com"),
                primary_ip: format!("192.0.2.{}", at + 10),
                secondary_ip: format!("192.0.2.{}", at + 10),
                master_candidate: true,
                offline: false,
                drained: false,
                master_capable: true,
                vm_capable: true,
                group: group_uuid.clone(),
                ndparams: Default::default(),
                powered: true,
                hv_state_static: Default::default(),
                disk_state_static: Default::default(),
            };
            if at == 1 {
                Arc::make_mut(&mut config.cluster).master_node = node.meta.uuid.clone();
            }
            config.put_node(Arc::new(node));
        }
        let os_dir = tempfile::tempdir().unwrap();
        noop(&os_dir.path().join("noop"));
        let setup =
            WorldSetup { os_search_path: vec![os_dir.path().to_owned()], ..WorldSetup::default() };
        let world = World::temporary(setup).unwrap();
        let nodes = Nodes::default();
        for node in config.nodes.values() {
            nodes.insert(node.meta.uuid.clone(), world.node(&node.name));
        }
        let shared = Shared {
            config: ConfigStore::new(config, Arc::new(Forgetful), env.clone()),
            nodes,
            env,
            names: crate::names::Names::with_table("", true),
            allocation: tokio::sync::Mutex::new(()),
            compat: Compat::V31,
            data_dir: os_dir.path().to_owned(),
        };
        Self { shared: Arc::new(shared), world, os_dir }
    }

    /// The newest configuration.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.shared.config.snapshot()
    }

    /// Runs one opcode, given in its wire form.
    pub(crate) async fn run(&self, wire: Value) -> Outcome {
        self.run_telling(wire, None).await
    }

    /// Runs one opcode, and hands on what it says that is no text.
    pub(crate) async fn run_telling(
        &self,
        wire: Value,
        told: Option<tokio::sync::mpsc::UnboundedSender<Value>>,
    ) -> Outcome {
        let port = Arc::new(Port { told, ..Port::default() });
        let params = wire.as_object().unwrap().clone();
        let op = Op::from_wire(params, self.shared.compat)
            .map_err(|error| GanetiError::wrong_input(error.python_text()));
        let result = match op {
            Ok(op) => {
                let cx = Cx::new(self.shared.clone(), port.clone(), Vec::new());
                execute(&op.code, &op.common, &cx).await
            }
            Err(error) => Err(error),
        };
        self.shared.config.release(JobId(1));
        let log = port.log.lock().unwrap().clone();
        let jobs = port.jobs.lock().unwrap().clone();
        Outcome { result, log, jobs }
    }

    /// Makes an instance through its opcode, diskless on the first node and running unless told otherwise.
    pub(crate) async fn make(&self, name: &str, more: Value) {
        let mut op = serde_json::json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "mode": "create", "disks": [], "nics": [],
            "disk_template": "diskless", "os_type": "noop", "no_install": null, "name_check": false,
            "ip_check": false, "pnode": "node1.example.com",
        });
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let outcome = self.run(op).await;
        assert!(outcome.result.is_ok(), "{:?} {:?}", outcome.result, outcome.log);
    }

    /// Gives a script of the operating system `noop` another text.
    pub(crate) fn script(&self, name: &str, text: &str) {
        std::fs::write(self.os_dir.path().join("noop").join(name), text).unwrap();
    }

    /// Where it keeps its files.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.os_dir.path()
    }

    /// Starts an instance.
    pub(crate) async fn start(&self, name: &str) {
        let op = serde_json::json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": name});
        assert_eq!(self.run(op).await.result, Ok(Value::Null));
    }

    /// Marks a node offline, or online again.
    pub(crate) async fn set_offline(&self, node: &str, offline: bool) {
        let uuid = self.config().node_by_name(node).unwrap().meta.uuid.clone();
        let marked = self.shared.config.commit(|draft| {
            draft.edit_node(&uuid, |node| node.offline = offline);
            Ok(())
        });
        marked.await.unwrap();
    }

    /// Gives the operating system `noop` parameters of these names.
    pub(crate) fn os_parameters(&self, names: &[&str]) {
        let lines: Vec<String> = names.iter().map(|name| format!("{name} one of them\n")).collect();
        std::fs::write(self.os_dir.path().join("noop/parameters.list"), lines.concat()).unwrap();
    }

    /// Drains a node.
    pub(crate) async fn drain(&self, node: &str) {
        let uuid = self.config().node_by_name(node).unwrap().meta.uuid.clone();
        let drained = self.shared.config.commit(|draft| {
            draft.edit_node(&uuid, |node| node.drained = true);
            Ok(())
        });
        drained.await.unwrap();
    }

    /// Has new disks wiped.
    pub(crate) async fn wipe_new_disks(&self) {
        let set = self.shared.config.commit(|draft| {
            draft.edit_cluster(|cluster| cluster.prealloc_wipe_disks = true);
            Ok(())
        });
        set.await.unwrap();
    }

    /// Makes the primary node of an instance fail once at something, with that text.
    pub(crate) async fn fault(&self, instance: &str, verb: node::Verb, text: &str) {
        let config = self.config();
        let primary = &config.instance_by_name(instance).unwrap().primary_node;
        self.fault_on(config.node_name(primary), verb, text);
    }

    /// Makes a node fail once at something, with that text.
    pub(crate) fn fault_on(&self, node: &str, verb: node::Verb, text: &str) {
        let error = node::NodeError::Failed(text.to_owned());
        self.world.node(node).inject(node::Fault { verb, instance: None, times: 1, error });
    }

    /// Puts a node into a group of its own, whose policy takes no instance with less memory than that. Answers its UUID.
    pub(crate) async fn exile(&self, node: &str, memory_min_mib: u64) -> Uuid {
        let config = self.config();
        let node = config.node_by_name(node).unwrap();
        let mut group = model::config::NodeGroup::clone(&config.groups[&node.group]);
        group.meta = Meta::new(self.shared.env.uuid(), 1.0);
        group.name = "exile".to_owned();
        let mut policy = model::params::ipolicy::fill_cluster(&config.cluster);
        policy["minmax"][0]["min"]["memory-size"] = memory_min_mib.into();
        group.ipolicy.insert("minmax".to_owned(), policy["minmax"].clone());
        let uuid = group.meta.uuid.clone();
        let moved = self.shared.config.commit(|draft| {
            draft.put_group(group);
            draft.edit_node(&node.meta.uuid, |node| node.group = uuid.clone());
            Ok(())
        });
        moved.await.unwrap();
        uuid
    }

    /// Changes a disk of an instance in the configuration alone.
    pub(crate) async fn edit_disk(
        &self,
        instance: &str,
        at: usize,
        edit: impl FnOnce(&mut model::config::Disk),
    ) {
        let config = self.config();
        let instance = config.instance_by_name(instance).unwrap();
        let edited = self.shared.config.commit(|draft| {
            draft.edit_disk(&instance.disks[at], &instance.meta.uuid, edit);
            Ok(())
        });
        edited.await.unwrap();
    }

    /// Has a script run before the opcodes of a hooks path that prints these variables and fails. The opcode's error tells
    /// what it printed, and where.
    pub(crate) fn failing_hook(&self, path: &str, variables: &[&str]) {
        use std::os::unix::fs::PermissionsExt;
        let hooks = self.os_dir.path().join("hooks");
        let dir = hooks.join(format!("{path}-pre.d"));
        std::fs::create_dir_all(&dir).unwrap();
        let lines: Vec<String> =
            variables.iter().map(|name| format!("echo {name}=$GANETI_{name}\n")).collect();
        let script = dir.join("tell");
        std::fs::write(&script, format!("#!/bin/sh\n{}exit 1\n", lines.concat())).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let setup = WorldSetup { hooks_dir: Some(hooks), ..WorldSetup::clone(&self.world.setup()) };
        self.world.configure(setup);
    }
}
