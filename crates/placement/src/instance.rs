//! Instances, and what one asks of a node.

use serde::{Deserialize, Serialize};

use crate::picture::Allocation;

/// How the disks of a template survive the loss of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// They live on one node.
    None,
    /// On a primary and a secondary node.
    Internal,
    /// Outside the nodes: any node can run the instance.
    External,
}

/// A disk template.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DiskTemplate {
    #[default]
    Diskless,
    File,
    Sharedfile,
    Plain,
    Blockdev,
    Drbd,
    Rbd,
    Ext,
    Gluster,
}

impl DiskTemplate {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Diskless,
        Self::File,
        Self::Sharedfile,
        Self::Plain,
        Self::Blockdev,
        Self::Drbd,
        Self::Rbd,
        Self::Ext,
        Self::Gluster,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Diskless => "diskless",
            Self::File => "file",
            Self::Sharedfile => "sharedfile",
            Self::Plain => "plain",
            Self::Blockdev => "blockdev",
            Self::Drbd => "drbd",
            Self::Rbd => "rbd",
            Self::Ext => "ext",
            Self::Gluster => "gluster",
        }
    }

    /// The template of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.as_str() == name)
    }

    /// What its disks need to survive a node. Diskless counts as externally mirrored: any node can run it.
    pub fn mirror(self) -> Mirror {
        match self {
            Self::Drbd => Mirror::Internal,
            Self::Plain | Self::File => Mirror::None,
            Self::Diskless
            | Self::Sharedfile
            | Self::Blockdev
            | Self::Rbd
            | Self::Ext
            | Self::Gluster => Mirror::External,
        }
    }

    /// How many nodes an instance of it has.
    pub fn nodes_required(self) -> usize {
        if self.mirror() == Mirror::Internal { 2 } else { 1 }
    }

    /// Whether its disks take space and spindles of the node's volume group.
    /// Ganeti: 3.0.2's hail leaves `file` out, so its space is not checked.
    pub fn uses_volume_group(self) -> bool {
        matches!(self, Self::Plain | Self::Drbd)
    }

    /// The space that a disk of this size takes, in the allocator's accounts (`ComputeDiskSize`).
    pub fn space_mib(self, size_mib: i64) -> i64 {
        match self {
            Self::Diskless | Self::Blockdev => 0,
            Self::Drbd => size_mib + DRBD_META_MIB,
            Self::File | Self::Sharedfile | Self::Plain | Self::Rbd | Self::Ext | Self::Gluster => {
                size_mib
            }
        }
    }
}

/// What drbd keeps beside each disk.
const DRBD_META_MIB: i64 = 128;

/// The state an instance is meant to be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    #[default]
    Up,
    Down,
    Offline,
}

impl AdminState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Offline => "offline",
        }
    }
}

/// A disk, as far as space is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub size_mib: i64,
    /// `rw` or `ro` of an instance's disk; a request says `rw`, `ro` or `w`.
    pub mode: String,
    /// Spindles it takes where storage is exclusive.
    pub spindles: Option<i64>,
}

/// A NIC: its network matters for the choice of a group, the rest is carried to external scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// UUID of its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// An instance of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    pub name: String,
    pub uuid: String,
    pub tags: Vec<String>,
    pub admin_state: AdminState,
    /// The maximal memory.
    pub memory_mib: i64,
    pub vcpus: i64,
    pub spindle_use: i64,
    pub os: String,
    pub hypervisor: String,
    pub disk_template: DiskTemplate,
    pub disks: Vec<Disk>,
    pub disks_active: bool,
    pub nics: Vec<Nic>,
    /// Name of the primary node.
    pub primary: String,
    /// Name of the secondary node.
    pub secondary: Option<String>,
    /// Whether its memory is reserved on the secondary. Not in the iallocator's JSON, where all of them count.
    pub auto_balance: bool,
}

/// What an instance asks of the nodes that hold it: the figures of arithmetic, in MiB and pieces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) template: DiskTemplate,
    pub(crate) state: AdminState,
    pub(crate) memory: i64,
    pub(crate) vcpus: i64,
    pub(crate) spindle_use: i64,
    /// Space in the volume group; nothing for templates that live elsewhere.
    pub(crate) disk: i64,
    pub(crate) disk_sizes: Vec<i64>,
    /// Spindles taken where storage is exclusive.
    pub(crate) spindles: i64,
    /// Exclusion tags, as numbers given out by the cluster.
    pub(crate) tags: Vec<u32>,
    pub(crate) auto_balance: bool,
}

impl Load {
    pub(crate) fn of_instance(instance: &Instance, tags: Vec<u32>) -> Self {
        let figures = (instance.memory_mib, instance.vcpus, instance.spindle_use);
        let mut load = Self::new(instance.disk_template, figures, &instance.disks, tags);
        load.state = instance.admin_state;
        load.auto_balance = instance.auto_balance;
        load
    }

    pub(crate) fn of_allocation(allocation: &Allocation, tags: Vec<u32>) -> Self {
        let figures = (allocation.memory_mib, allocation.vcpus, allocation.spindle_use);
        Self::new(allocation.disk_template, figures, &allocation.disks, tags)
    }

    fn new(
        template: DiskTemplate,
        (memory, vcpus, spindle_use): (i64, i64, i64),
        disks: &[Disk],
        tags: Vec<u32>,
    ) -> Self {
        let mut load = Self {
            template,
            state: AdminState::Up,
            memory,
            vcpus,
            spindle_use,
            disk: 0,
            disk_sizes: disks.iter().map(|disk| disk.size_mib).collect(),
            spindles: 0,
            tags,
            auto_balance: true,
        };
        load.set_template(template);
        load.spindles = if template.uses_volume_group() {
            disks.iter().filter_map(|disk| disk.spindles).sum()
        } else {
            0
        };
        load
    }

    /// The same instance with another disk template: a plain one that becomes drbd.
    pub(crate) fn set_template(&mut self, template: DiskTemplate) {
        self.template = template;
        self.disk = if template.uses_volume_group() {
            self.disk_sizes.iter().map(|size| template.space_mib(*size)).sum()
        } else {
            0
        };
    }

    /// The memory its secondary must keep for it.
    pub(crate) fn reserve(&self) -> i64 {
        if self.auto_balance && self.state != AdminState::Offline { self.memory } else { 0 }
    }
}
