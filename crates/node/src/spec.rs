//! What a node is told about an instance: everything filled in, nothing to look up.

use model::name::Uuid;
use model::param::{Dict, DiskTemplate, Hypervisor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An instance with all its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub name: String,
    pub uuid: Uuid,
    pub ctime: f64,
    pub mtime: f64,
    pub tags: Vec<String>,
    pub primary_node: String,
    pub secondary_nodes: Vec<String>,
    /// With the variant after a `+`; empty when there is none.
    pub os: String,
    pub hypervisor: Hypervisor,
    /// Filled.
    pub hvparams: Dict,
    /// Filled: minmem, maxmem, vcpus, …
    pub beparams: Dict,
    /// Filled, public ones only.
    pub osparams: Dict,
    pub nics: Vec<NicSpec>,
    pub disks: Vec<DiskSpec>,
    pub network_port: Option<u16>,
}

/// A NIC with all its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicSpec {
    pub uuid: Uuid,
    pub name: Option<String>,
    pub mac: String,
    pub ip: Option<String>,
    pub mode: String,
    pub link: String,
    pub vlan: String,
    pub network: Option<NetworkSpec>,
}

/// The network a NIC is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub uuid: Uuid,
    pub name: String,
    pub subnet: String,
    pub gateway: Option<String>,
    pub subnet6: Option<String>,
    pub gateway6: Option<String>,
    pub mac_prefix: Option<String>,
    pub tags: Vec<String>,
}

/// A disk with all its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskSpec {
    pub uuid: Uuid,
    pub name: Option<String>,
    /// `disk/N`.
    pub iv_name: String,
    pub dev_type: DiskTemplate,
    pub logical_id: Vec<Value>,
    pub size_mib: u64,
    /// `rw` or `ro`.
    pub mode: String,
    pub spindles: Option<u64>,
    /// The names of the nodes that hold it.
    pub nodes: Vec<String>,
    /// Filled disk parameters of the template, and those of external storage.
    pub params: Dict,
    pub children: Vec<DiskSpec>,
}

impl InstanceSpec {
    /// A number among the backend parameters; 0 when it is not there.
    pub fn be(&self, name: &str) -> u64 {
        self.beparams.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A text among the hypervisor parameters; empty when it is not there.
    pub fn hv(&self, name: &str) -> &str {
        self.hvparams.get(name).and_then(Value::as_str).unwrap_or("")
    }

    /// A flag among the hypervisor parameters; false when it is not there.
    pub fn hv_flag(&self, name: &str) -> bool {
        self.hvparams.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}
