//! What a caller says about a cluster, and what it may ask. Plain data; nothing here is checked before
//! [`crate::cluster::Cluster::new`].

use crate::group::{Group, InstancePolicy};
use crate::instance::{Disk, DiskTemplate, Instance, Nic};
use crate::node::Node;

/// A cluster as the allocator sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    pub cluster_name: String,
    /// Cluster tags; `htools:iextags:PREFIX` makes instance tags `PREFIX:…` exclude each other.
    pub cluster_tags: Vec<String>,
    pub enabled_hypervisors: Vec<String>,
    /// The cluster's own policy: only carried to external scripts, placing uses the groups' filled ones.
    pub policy: InstancePolicy,
    pub groups: Vec<Group>,
    pub nodes: Vec<Node>,
    pub instances: Vec<Instance>,
}

/// A new instance that wants nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    pub name: String,
    pub disk_template: DiskTemplate,
    /// Only this group (name or UUID), whatever its allocation policy.
    pub group_name: Option<String>,
    pub tags: Vec<String>,
    pub os: String,
    /// The maximal memory.
    pub memory_mib: i64,
    pub vcpus: i64,
    pub spindle_use: i64,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    pub hypervisor: String,
    /// Only these nodes (names); the opportunistic locking of an instance's creation asks so.
    pub restrict_to_nodes: Option<Vec<String>>,
}

/// Which role of its instances is to leave a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvacuationMode {
    PrimaryOnly,
    SecondaryOnly,
    All,
}

impl EvacuationMode {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PrimaryOnly => "primary-only",
            Self::SecondaryOnly => "secondary-only",
            Self::All => "all",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::PrimaryOnly, Self::SecondaryOnly, Self::All]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// What an allocator may be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Nodes for a new instance.
    Allocate(Allocation),
    /// A secondary for an instance that has none, which is about to become a drbd one.
    AllocateSecondary { name: String },
    /// Another secondary (drbd) or primary (externally mirrored) in place of the ones named.
    Relocate { name: String, relocate_from: Vec<String> },
    /// Nodes for many new instances, each placed in view of the ones before.
    MultiAllocate(Vec<Allocation>),
    /// Moves that take these instances off the nodes where they have the role that the mode names.
    NodeEvacuate { instances: Vec<String>, mode: EvacuationMode },
    /// Moves to other groups: the named (by UUID), or any if none is named.
    ChangeGroup { instances: Vec<String>, target_groups: Vec<String> },
}

/// Knobs of the built-in allocator, called as hail's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// An allocation must leave each node of the group replaceable: were it lost, all its running instances would
    /// find memory elsewhere. `false` is hail's `--no-capacity-checks`: only drbd's secondaries are looked at.
    pub capacity_checks: bool,
    /// Ignore the policy's ratios and the N+1 reserve (`--ignore-soft-errors`).
    pub ignore_soft_errors: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { capacity_checks: true, ignore_soft_errors: false }
    }
}
