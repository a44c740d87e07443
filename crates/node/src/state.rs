//! What is known about a node at a moment.

use imbl::OrdMap;
use model::param::StorageType;

/// What an instance that the hypervisor knows does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Running,
    Paused,
    /// It ended by itself and is still held, so that this can be told.
    Shutdown,
}

/// An instance that the hypervisor knows.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRun {
    pub state: RunState,
    pub memory_mib: u64,
    pub vcpus: u64,
    /// CPU time used, in seconds.
    pub cpu_seconds: f64,
}

/// Storage that instances can use.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageUnit {
    pub kind: StorageType,
    /// A directory or a volume group.
    pub key: String,
    pub total_mib: u64,
    pub free_mib: u64,
}

/// Everything the lists show of a node without asking it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    /// Counts changes.
    pub version: u64,
    /// Whether it answers; what follows is the last that was known.
    pub reachable: bool,
    pub boot_id: String,
    pub memory_total_mib: u64,
    /// What the host itself uses.
    pub memory_host_mib: u64,
    pub memory_free_mib: u64,
    pub cpu_total: u64,
    pub cpu_sockets: u64,
    /// NUMA nodes.
    pub cpu_nodes: u64,
    /// CPUs that the host itself uses.
    pub cpu_host: u64,
    /// By disk template's storage, the default one first.
    pub storage: Vec<StorageUnit>,
    /// By instance name.
    pub instances: OrdMap<String, InstanceRun>,
    /// The hypervisor's version, for migrations.
    pub hypervisor_version: String,
}
