//! A cluster small enough to run one opcode on: for tests of logical units.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use model::compat::Compat;
use model::config::Config;
use model::error::{GanetiError, Result};
use model::job::LogKind;
use model::name::JobId;
use model::opcode::Op;
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
}

#[async_trait]
impl JobPort for Port {
    fn job_id(&self) -> JobId {
        JobId(1)
    }

    fn log(&self, _kind: LogKind, payload: Value) {
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

/// A cluster's settings with nothing special about them.
fn cluster() -> model::config::Cluster {
    serde_json::from_str(
        r#"{"uuid": "00000000-0000-4000-8000-000000000001", "serial_no": 1, "ctime": 1.0, "mtime": 1.0, "tags": [],
        "cluster_name": "cluster.example.com", "master_node": "", "master_ip": "192.0.2.1", "master_netdev": "lo",
        "master_netmask": 32, "primary_ip_version": 4, "use_external_mip_script": false, "mac_prefix": "aa:00:00",
        "volume_group_name": "xenvg", "reserved_lvs": [], "drbd_usermode_helper": "/bin/true",
        "enabled_hypervisors": ["fake", "kvm"],
        "enabled_disk_templates": ["drbd", "plain", "file", "sharedfile", "diskless"],
        "hvparams": {}, "os_hvp": {},
        "beparams": {"default": {"always_failover": false, "auto_balance": true, "maxmem": 128, "minmem": 128,
            "spindle_use": 1, "vcpus": 1}},
        "nicparams": {"default": {"mode": "bridged", "link": "br0", "vlan": ""}},
        "ndparams": {"oob_program": "", "spindle_count": 1, "exclusive_storage": false, "ovs": false,
            "ovs_name": "switch1", "ovs_link": "", "ssh_port": 22, "cpu_speed": 1.0},
        "diskparams": {}, "ipolicy": {}, "osparams": {}, "osparams_private_cluster": {}, "hv_state_static": {},
        "disk_state_static": {}, "candidate_pool_size": 10, "modify_etc_hosts": true, "modify_ssh_setup": true,
        "ssh_key_type": "rsa", "ssh_key_bits": 2048, "maintain_node_health": false, "uid_pool": [],
        "default_iallocator": "hail", "default_iallocator_params": {}, "hidden_os": [], "blacklisted_os": [],
        "prealloc_wipe_disks": false, "file_storage_dir": "/srv/file", "shared_file_storage_dir": "/srv/shared",
        "gluster_storage_dir": "/srv/gluster", "max_running_jobs": 20, "max_tracked_jobs": 25, "install_image": "",
        "zeroing_image": "", "instance_communication_network": "", "compression_tools": ["gzip"],
        "enabled_user_shutdown": false, "data_collectors": {}, "tcpudp_port_pool": [], "highest_used_port": 11000,
        "simulated": true, "os_search_path": [], "iallocator_search_path": []}"#,
    )
    .unwrap()
}

impl Bench {
    /// A cluster with this many simulated nodes, `node1.example.com` and so on, the first one the master.
    pub(crate) fn new(nodes: usize) -> Self {
        let env = Arc::new(Env::seeded(1, 1_700_000_000));
        let mut config = Config::new(cluster());
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
        let shared = Shared {
            config: ConfigStore::new(config, Arc::new(Forgetful), env.clone()),
            nodes: Nodes::default(),
            env,
            compat: Compat::V31,
            data_dir: std::env::temp_dir(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The newest configuration.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.shared.config.snapshot()
    }

    /// Runs one opcode, given in its wire form.
    pub(crate) async fn run(&self, wire: Value) -> Outcome {
        let port = Arc::new(Port::default());
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
}
