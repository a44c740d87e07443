//! The configuration: what a cluster is meant to be. Plain objects with Ganeti's fields, kept in persistent maps, so that a
//! snapshot costs nothing and a change copies only what it touches. Who may write it is the engine's business.
//!
//! Overrides are stored, never filled values: filling is `params`' job, at the point where a value is shown or used.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::Uuid;
use crate::param::{AdminState, AdminStateSource, AllocPolicy, Dict, DiskTemplate, Hypervisor};

/// What every configuration object carries. Times are seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    pub uuid: Uuid,
    /// 1 at creation, one more with each change.
    pub serial_no: u64,
    pub ctime: f64,
    pub mtime: f64,
}

impl Meta {
    pub fn new(uuid: Uuid, now: f64) -> Self {
        Self { uuid, serial_no: 1, ctime: now, mtime: now }
    }

    /// Notes a change.
    pub fn touch(&mut self, now: f64) {
        self.serial_no += 1;
        self.mtime = now;
    }
}

/// The cluster's own settings. Parameters are the cluster level of each layering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    #[serde(flatten)]
    pub meta: Meta,
    pub tags: OrdSet<String>,
    pub cluster_name: String,
    pub master_node: Uuid,
    pub master_ip: String,
    pub master_netdev: String,
    pub master_netmask: u64,
    /// 4 or 6.
    pub primary_ip_version: u64,
    pub use_external_mip_script: bool,
    pub mac_prefix: String,
    pub volume_group_name: Option<String>,
    pub reserved_lvs: Vec<String>,
    pub drbd_usermode_helper: Option<String>,
    /// The first is the default.
    pub enabled_hypervisors: Vec<Hypervisor>,
    /// The first is the default.
    pub enabled_disk_templates: Vec<DiskTemplate>,
    /// By hypervisor; overrides of the built-in defaults.
    pub hvparams: Dict,
    /// By operating system, then hypervisor.
    pub os_hvp: Dict,
    /// `{"default": {…}}`, all values.
    pub beparams: Dict,
    /// `{"default": {…}}`, all values.
    pub nicparams: Dict,
    /// All values.
    pub ndparams: Dict,
    /// By disk template, all values.
    pub diskparams: Dict,
    /// All values.
    pub ipolicy: Dict,
    /// By operating system.
    pub osparams: Dict,
    pub osparams_private_cluster: Dict,
    pub hv_state_static: Dict,
    pub disk_state_static: Dict,
    pub candidate_pool_size: u64,
    pub modify_etc_hosts: bool,
    pub modify_ssh_setup: bool,
    pub ssh_key_type: String,
    pub ssh_key_bits: u64,
    pub maintain_node_health: bool,
    pub uid_pool: Vec<(i64, i64)>,
    pub default_iallocator: String,
    pub default_iallocator_params: Dict,
    pub hidden_os: Vec<String>,
    pub blacklisted_os: Vec<String>,
    pub prealloc_wipe_disks: bool,
    pub file_storage_dir: String,
    pub shared_file_storage_dir: String,
    pub gluster_storage_dir: String,
    pub max_running_jobs: u64,
    pub max_tracked_jobs: u64,
    pub install_image: String,
    pub zeroing_image: String,
    pub instance_communication_network: String,
    pub compression_tools: Vec<String>,
    pub enabled_user_shutdown: bool,
    /// `{name: {"active": bool, "interval": microseconds}}`.
    pub data_collectors: Dict,
    /// Ports that were given back, to be used again first.
    pub tcpudp_port_pool: OrdSet<u16>,
    pub highest_used_port: u16,
    /// Whether nodes are simulated; chosen when the cluster is made.
    pub simulated: bool,
    /// Where operating system definitions are looked for, in order.
    pub os_search_path: Vec<String>,
    /// Where external instance allocators are looked for, in order.
    pub iallocator_search_path: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    #[serde(flatten)]
    pub meta: Meta,
    pub tags: OrdSet<String>,
    pub name: String,
    pub primary_ip: String,
    pub secondary_ip: String,
    pub master_candidate: bool,
    pub offline: bool,
    pub drained: bool,
    pub master_capable: bool,
    pub vm_capable: bool,
    /// The node group's UUID.
    pub group: Uuid,
    pub ndparams: Dict,
    pub powered: bool,
    pub hv_state_static: Dict,
    pub disk_state_static: Dict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeGroup {
    #[serde(flatten)]
    pub meta: Meta,
    pub tags: OrdSet<String>,
    pub name: String,
    pub alloc_policy: AllocPolicy,
    pub ndparams: Dict,
    /// Overrides of the cluster's.
    pub ipolicy: Dict,
    pub diskparams: Dict,
    pub hv_state_static: Dict,
    pub disk_state_static: Dict,
    /// The networks connected, by UUID.
    pub networks: OrdMap<Uuid, NetworkLink>,
}

/// How a network is connected to a node group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLink {
    pub mode: String,
    pub link: String,
    pub vlan: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    #[serde(flatten)]
    pub meta: Meta,
    pub tags: OrdSet<String>,
    pub name: String,
    pub primary_node: Uuid,
    /// With the variant after a `+`; empty when there is none.
    pub os: String,
    pub hypervisor: Hypervisor,
    pub hvparams: Dict,
    pub beparams: Dict,
    pub osparams: Dict,
    pub osparams_private: Dict,
    pub admin_state: AdminState,
    pub admin_state_source: AdminStateSource,
    pub nics: Vec<Nic>,
    /// UUIDs of its disks, in order.
    pub disks: Vec<Uuid>,
    pub disks_active: bool,
    /// For VNC or SPICE.
    pub network_port: Option<u16>,
    pub forthcoming: bool,
    /// What it was asked for: matters while it has no disks.
    pub disk_template: DiskTemplate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nic {
    pub uuid: Uuid,
    pub name: Option<String>,
    pub mac: String,
    pub ip: Option<String>,
    /// A network's UUID.
    pub network: Option<Uuid>,
    /// Overrides: mode, link, vlan.
    pub nicparams: Dict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    #[serde(flatten)]
    pub meta: Meta,
    pub dev_type: DiskTemplate,
    /// By template: plain `[vg, lv]`, file `[driver, path]`, drbd `[node, node, port, minor, minor, secret]`, …
    pub logical_id: Vec<Value>,
    /// drbd: data and meta.
    pub children: Vec<Disk>,
    /// The nodes that hold it.
    pub nodes: Vec<Uuid>,
    /// `disk/N`.
    pub iv_name: String,
    pub size_mib: u64,
    /// `rw` or `ro`.
    pub mode: String,
    pub name: Option<String>,
    pub spindles: Option<u64>,
    pub params: Dict,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    #[serde(flatten)]
    pub meta: Meta,
    pub tags: OrdSet<String>,
    pub name: String,
    /// `a.b.c.d/len`.
    pub network: String,
    pub gateway: Option<String>,
    pub network6: Option<String>,
    pub gateway6: Option<String>,
    pub mac_prefix: Option<String>,
    /// Addresses (as offsets from the network's) that instances use.
    pub reservations: OrdSet<u32>,
    /// Addresses that are reserved from outside, the network's own among them.
    pub ext_reservations: OrdSet<u32>,
}

/// A job filter rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    pub uuid: Uuid,
    /// The highest job id when it was added or replaced.
    pub watermark: u64,
    pub priority: u64,
    pub predicates: Value,
    pub action: Value,
    pub reason_trail: Value,
}

/// A snapshot of the whole configuration. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Config {
    /// Counts every commit.
    pub version: u64,
    pub cluster: Arc<Cluster>,
    pub nodes: OrdMap<Uuid, Arc<Node>>,
    pub groups: OrdMap<Uuid, Arc<NodeGroup>>,
    pub instances: OrdMap<Uuid, Arc<Instance>>,
    pub disks: OrdMap<Uuid, Arc<Disk>>,
    pub networks: OrdMap<Uuid, Arc<Network>>,
    pub filters: OrdMap<Uuid, Arc<Filter>>,
    /// Names to UUIDs, and what hangs on what: kept in step by [`Config`]'s own methods.
    pub index: Index,
}

/// What is looked up often; follows from the objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    pub node_by_name: OrdMap<String, Uuid>,
    pub group_by_name: OrdMap<String, Uuid>,
    pub instance_by_name: OrdMap<String, Uuid>,
    pub network_by_name: OrdMap<String, Uuid>,
    /// Node to the instances it is primary of.
    pub primaries: OrdMap<Uuid, OrdSet<Uuid>>,
    /// Node to the instances it is secondary of.
    pub secondaries: OrdMap<Uuid, OrdSet<Uuid>>,
    /// Instance to the secondary nodes that it is listed under, as they were when it was put.
    pub secondaries_of: OrdMap<Uuid, Vec<Uuid>>,
    /// Node group to its nodes.
    pub members: OrdMap<Uuid, OrdSet<Uuid>>,
    /// MAC address to how many NICs have it.
    pub macs: OrdMap<String, u32>,
}

fn link(map: &mut OrdMap<Uuid, OrdSet<Uuid>>, from: &Uuid, to: &Uuid) {
    let mut set = map.get(from).cloned().unwrap_or_default();
    set.insert(to.clone());
    map.insert(from.clone(), set);
}

fn unlink(map: &mut OrdMap<Uuid, OrdSet<Uuid>>, from: &Uuid, to: &Uuid) {
    if let Some(mut set) = map.get(from).cloned() {
        set.remove(to);
        if set.is_empty() {
            map.remove(from);
        } else {
            map.insert(from.clone(), set);
        }
    }
}

impl Config {
    /// A configuration with a cluster and nothing in it.
    pub fn new(cluster: Cluster) -> Self {
        Self {
            version: 1,
            cluster: Arc::new(cluster),
            nodes: OrdMap::new(),
            groups: OrdMap::new(),
            instances: OrdMap::new(),
            disks: OrdMap::new(),
            networks: OrdMap::new(),
            filters: OrdMap::new(),
            index: Index::default(),
        }
    }

    pub fn put_node(&mut self, node: Arc<Node>) {
        self.drop_node(&node.meta.uuid.clone());
        let uuid = node.meta.uuid.clone();
        self.index.node_by_name.insert(node.name.clone(), uuid.clone());
        link(&mut self.index.members, &node.group, &uuid);
        self.nodes.insert(uuid, node);
    }

    pub fn drop_node(&mut self, uuid: &Uuid) {
        if let Some(old) = self.nodes.remove(uuid) {
            self.index.node_by_name.remove(&old.name);
            unlink(&mut self.index.members, &old.group, uuid);
        }
    }

    pub fn put_group(&mut self, group: Arc<NodeGroup>) {
        self.drop_group(&group.meta.uuid.clone());
        self.index.group_by_name.insert(group.name.clone(), group.meta.uuid.clone());
        self.groups.insert(group.meta.uuid.clone(), group);
    }

    pub fn drop_group(&mut self, uuid: &Uuid) {
        if let Some(old) = self.groups.remove(uuid) {
            self.index.group_by_name.remove(&old.name);
        }
    }

    pub fn put_network(&mut self, network: Arc<Network>) {
        self.drop_network(&network.meta.uuid.clone());
        self.index.network_by_name.insert(network.name.clone(), network.meta.uuid.clone());
        self.networks.insert(network.meta.uuid.clone(), network);
    }

    pub fn drop_network(&mut self, uuid: &Uuid) {
        if let Some(old) = self.networks.remove(uuid) {
            self.index.network_by_name.remove(&old.name);
        }
    }

    /// Puts or replaces an instance. Its disks must be there before: the secondary index reads them.
    pub fn put_instance(&mut self, instance: Arc<Instance>) {
        self.drop_instance(&instance.meta.uuid.clone());
        let uuid = instance.meta.uuid.clone();
        self.index.instance_by_name.insert(instance.name.clone(), uuid.clone());
        link(&mut self.index.primaries, &instance.primary_node, &uuid);
        let secondaries = self.secondary_nodes(&instance);
        for node in &secondaries {
            link(&mut self.index.secondaries, node, &uuid);
        }
        if !secondaries.is_empty() {
            self.index.secondaries_of.insert(uuid.clone(), secondaries);
        }
        for nic in &instance.nics {
            let count = self.index.macs.get(&nic.mac).copied().unwrap_or(0) + 1;
            self.index.macs.insert(nic.mac.clone(), count);
        }
        self.instances.insert(uuid, instance);
    }

    /// Takes an instance out; its disks stay.
    pub fn drop_instance(&mut self, uuid: &Uuid) {
        let Some(old) = self.instances.remove(uuid) else { return };
        self.index.instance_by_name.remove(&old.name);
        unlink(&mut self.index.primaries, &old.primary_node, uuid);
        for node in self.index.secondaries_of.remove(uuid).unwrap_or_default() {
            unlink(&mut self.index.secondaries, &node, uuid);
        }
        for nic in &old.nics {
            match self.index.macs.get(&nic.mac).copied() {
                Some(count) if count > 1 => {
                    self.index.macs.insert(nic.mac.clone(), count - 1);
                }
                _ => {
                    self.index.macs.remove(&nic.mac);
                }
            }
        }
    }

    /// Puts or replaces a disk. `owner`'s secondaries are indexed anew, since they follow from its disks.
    pub fn put_disk(&mut self, disk: Arc<Disk>, owner: Option<&Uuid>) {
        let instance = owner.and_then(|uuid| self.instances.get(uuid)).cloned();
        if let Some(instance) = &instance {
            self.drop_instance(&instance.meta.uuid);
        }
        self.disks.insert(disk.meta.uuid.clone(), disk);
        if let Some(instance) = instance {
            self.put_instance(instance);
        }
    }

    /// The disks of an instance, in order.
    pub fn instance_disks(&self, instance: &Instance) -> Vec<Arc<Disk>> {
        instance.disks.iter().filter_map(|uuid| self.disks.get(uuid)).cloned().collect()
    }

    /// The nodes that hold its disks beside the primary, in the order in which the disks name them.
    pub fn secondary_nodes(&self, instance: &Instance) -> Vec<Uuid> {
        let mut nodes: Vec<Uuid> = Vec::new();
        for disk in instance.disks.iter().filter_map(|uuid| self.disks.get(uuid)) {
            if disk.dev_type != DiskTemplate::Drbd {
                continue;
            }
            for node in &disk.nodes {
                if *node != instance.primary_node && !nodes.contains(node) {
                    nodes.push(node.clone());
                }
            }
        }
        nodes
    }

    pub fn node_by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(self.index.node_by_name.get(name)?)
    }

    pub fn group_by_name(&self, name: &str) -> Option<&Arc<NodeGroup>> {
        self.groups.get(self.index.group_by_name.get(name)?)
    }

    pub fn instance_by_name(&self, name: &str) -> Option<&Arc<Instance>> {
        self.instances.get(self.index.instance_by_name.get(name)?)
    }

    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.get(self.index.network_by_name.get(name)?)
    }

    /// The name of a node; its UUID when there is none (which `verify` would report).
    pub fn node_name<'a>(&'a self, uuid: &'a Uuid) -> &'a str {
        self.nodes.get(uuid).map_or(uuid.as_str(), |node| &node.name)
    }

    /// The instances that have this node as primary.
    pub fn primaries(&self, node: &Uuid) -> impl Iterator<Item = &Arc<Instance>> {
        let set = self.index.primaries.get(node).into_iter().flatten();
        set.filter_map(|uuid| self.instances.get(uuid))
    }

    /// The instances that have this node as secondary.
    pub fn secondaries(&self, node: &Uuid) -> impl Iterator<Item = &Arc<Instance>> {
        let set = self.index.secondaries.get(node).into_iter().flatten();
        set.filter_map(|uuid| self.instances.get(uuid))
    }

    /// The nodes of a group.
    pub fn members(&self, group: &Uuid) -> impl Iterator<Item = &Arc<Node>> {
        let set = self.index.members.get(group).into_iter().flatten();
        set.filter_map(|uuid| self.nodes.get(uuid))
    }
}
