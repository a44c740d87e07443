//! Nodes: what they have, what is used of it, and the arithmetic of adding and removing an instance.
//!
//! All amounts are signed: what is free may be overdrawn in the picture that we are given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::instance::{AdminState, Load};
use crate::picture::Options;
use crate::score::{self, METRICS};

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub uuid: String,
    pub name: String,
    /// UUID of its group.
    pub group: String,
    pub tags: Vec<String>,
    pub primary_ip: String,
    pub secondary_ip: String,
    pub offline: bool,
    pub drained: bool,
    pub master_candidate: bool,
    pub master_capable: bool,
    pub vm_capable: bool,
    pub params: NodeParams,
    pub memory_total_mib: i64,
    /// What the node itself uses.
    pub memory_reserved_mib: i64,
    /// What is left when each instance that is to run uses its maximal memory.
    pub memory_free_mib: i64,
    pub disk_total_mib: i64,
    pub disk_free_mib: i64,
    pub cpus_total: i64,
    pub cpus_reserved: i64,
    pub spindles_total: i64,
    pub spindles_free: i64,
}

/// The node parameters, filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeParams {
    pub oob_program: String,
    pub spindle_count: i64,
    pub exclusive_storage: bool,
    pub ovs: bool,
    pub ovs_name: String,
    pub ovs_link: String,
    pub ssh_port: i64,
    pub cpu_speed: f64,
}

impl Default for NodeParams {
    fn default() -> Self {
        Self {
            oob_program: String::new(),
            spindle_count: 1,
            exclusive_storage: false,
            ovs: false,
            ovs_name: "switch1".to_owned(),
            ovs_link: String::new(),
            ssh_port: 22,
            cpu_speed: 1.0,
        }
    }
}

/// Why a node cannot take an instance; the names are htools'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fail {
    Mem,
    Disk,
    Cpu,
    N1,
    Tags,
    DiskCount,
    Spindles,
}

impl Fail {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mem => "FailMem",
            Self::Disk => "FailDisk",
            Self::Cpu => "FailCPU",
            Self::N1 => "FailN1",
            Self::Tags => "FailTags",
            Self::DiskCount => "FailDiskCount",
            Self::Spindles => "FailSpindles",
        }
    }
}

/// What does not change while instances come and go.
#[derive(Clone, Debug)]
pub(crate) struct Capacity {
    pub(crate) memory: f64,
    pub(crate) disk: f64,
    /// Physical CPUs times their speed: what the balance of CPU load is measured by.
    pub(crate) cpu_power: f64,
    pub(crate) vcpus_max: f64,
    pub(crate) spindle_use_max: f64,
    pub(crate) exclusive: bool,
}

/// What does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) memory_free: i64,
    /// Free memory were all stopped and offline instances started, too.
    pub(crate) memory_free_all: i64,
    pub(crate) disk_free: i64,
    pub(crate) vcpus: i64,
    pub(crate) spindle_use: i64,
    pub(crate) spindles_free: i64,
    /// How many instances run here, and how many have a disk here.
    pub(crate) primaries: i64,
    pub(crate) roles: i64,
    /// The most memory that the loss of one other node would call for.
    pub(crate) reserved: i64,
}

impl Figures {
    fn take_disk(&mut self, load: &Load, exclusive: bool, sign: i64) {
        self.roles += sign;
        self.disk_free -= sign * load.disk;
        self.spindles_free -= sign * load.spindles;
        if load.template.uses_volume_group() {
            self.spindle_use += sign * if exclusive { load.spindles } else { load.spindle_use };
        }
    }

    /// Adds (`sign` 1) or removes (-1) an instance as primary.
    pub(crate) fn primary(&mut self, load: &Load, exclusive: bool, sign: i64) {
        self.take_disk(load, exclusive, sign);
        self.primaries += sign;
        self.memory_free_all -= sign * load.memory;
        if load.state == AdminState::Up {
            self.memory_free -= sign * load.memory;
        }
        if load.state != AdminState::Offline {
            self.vcpus += sign * load.vcpus;
        }
    }

    /// The same as secondary; the reserve is the caller's to set.
    pub(crate) fn secondary(&mut self, load: &Load, exclusive: bool, sign: i64) {
        self.take_disk(load, exclusive, sign);
    }

    /// Whether the memory would not do if the worst other node were lost.
    pub(crate) fn fails_n1(&self) -> bool {
        self.reserved >= self.memory_free
    }
}

/// A node at work.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    /// Place in the natural order of names.
    pub(crate) rank: usize,
    pub(crate) group: usize,
    /// May get instances: neither offline nor drained, and capable.
    pub(crate) usable: bool,
    pub(crate) offline: bool,
    pub(crate) capacity: Capacity,
    pub(crate) figures: Figures,
    pub(crate) primaries: Vec<usize>,
    pub(crate) secondaries: Vec<usize>,
    /// Memory to keep for each node whose instances have their secondary here.
    pub(crate) reserved_for: BTreeMap<usize, i64>,
    /// Exclusion tags of the primaries, counted.
    pub(crate) tags: BTreeMap<u32, u32>,
}

impl State {
    /// The values that the balance score is made of, for these figures.
    pub(crate) fn metrics(&self, figures: &Figures) -> [f64; METRICS] {
        score::metrics(&self.capacity, figures)
    }

    /// The figures with one more primary.
    pub(crate) fn with_primary(&self, load: &Load) -> Figures {
        let mut figures = self.figures;
        figures.primary(load, self.capacity.exclusive, 1);
        figures
    }

    /// The figures with one more secondary whose primary is `peer`; without a peer the reserve is the least possible.
    pub(crate) fn with_secondary(&self, load: &Load, peer: Option<usize>) -> Figures {
        let mut figures = self.figures;
        figures.secondary(load, self.capacity.exclusive, 1);
        let before = peer.and_then(|peer| self.reserved_for.get(&peer)).copied().unwrap_or(0);
        figures.reserved = figures.reserved.max(before + load.reserve());
        figures
    }

    /// Whether the instance fits as primary.
    pub(crate) fn fits_primary(&self, load: &Load, options: Options) -> Result<(), Fail> {
        let after = self.with_primary(load);
        let hard = !options.ignore_soft_errors;
        let running = load.state == AdminState::Up;
        if after.memory_free_all <= 0 || (running && after.memory_free <= 0) {
            return Err(Fail::Mem);
        }
        self.fits_disk(load, &after, hard)?;
        if hard && running && after.fails_n1() {
            return Err(Fail::Mem);
        }
        if hard && load.vcpus > 0 && after.vcpus as f64 > self.capacity.vcpus_max {
            return Err(Fail::Cpu);
        }
        if load.tags.iter().any(|tag| self.tags.contains_key(tag)) {
            return Err(Fail::Tags);
        }
        Ok(())
    }

    /// Whether the instance fits as secondary, for figures made by [`State::with_secondary`].
    pub(crate) fn fits_secondary(
        &self,
        load: &Load,
        after: &Figures,
        options: Options,
    ) -> Result<(), Fail> {
        let hard = !options.ignore_soft_errors;
        self.fits_disk(load, after, hard)?;
        let reserve = load.reserve();
        if hard && reserve > 0 && (reserve >= after.memory_free_all || after.fails_n1()) {
            return Err(Fail::Mem);
        }
        Ok(())
    }

    fn fits_disk(&self, load: &Load, after: &Figures, hard: bool) -> Result<(), Fail> {
        if !load.template.uses_volume_group() {
            return Ok(());
        }
        if load.disk > 0 && after.disk_free < 0 {
            return Err(Fail::Disk);
        }
        if self.capacity.exclusive && after.spindles_free < 0 {
            return Err(Fail::Spindles);
        }
        // Ganeti: 3.0.2's hail calls an exceeded spindle ratio FailDisk.
        if hard && after.spindle_use as f64 > self.capacity.spindle_use_max {
            return Err(Fail::Disk);
        }
        Ok(())
    }

    /// Takes the instance `index` in as primary.
    pub(crate) fn add_primary(&mut self, index: usize, load: &Load) {
        self.figures.primary(load, self.capacity.exclusive, 1);
        self.primaries.push(index);
        for tag in &load.tags {
            *self.tags.entry(*tag).or_default() += 1;
        }
    }

    /// Gives it away again.
    pub(crate) fn remove_primary(&mut self, index: usize, load: &Load) {
        self.figures.primary(load, self.capacity.exclusive, -1);
        self.primaries.retain(|other| *other != index);
        for tag in &load.tags {
            if let Some(count) = self.tags.get_mut(tag) {
                *count -= 1;
                if *count == 0 {
                    self.tags.remove(tag);
                }
            }
        }
    }

    /// Takes the instance in as secondary of `peer`.
    pub(crate) fn add_secondary(&mut self, index: usize, load: &Load, peer: usize) {
        self.figures.secondary(load, self.capacity.exclusive, 1);
        self.secondaries.push(index);
        let reserve = load.reserve();
        if reserve > 0 {
            let amount = self.reserved_for.entry(peer).or_default();
            *amount += reserve;
            self.figures.reserved = self.figures.reserved.max(*amount);
        }
    }

    /// Gives it away again.
    pub(crate) fn remove_secondary(&mut self, index: usize, load: &Load, peer: usize) {
        self.figures.secondary(load, self.capacity.exclusive, -1);
        self.secondaries.retain(|other| *other != index);
        let reserve = load.reserve();
        if let Some(amount) = self.reserved_for.get_mut(&peer)
            && reserve > 0
        {
            let top = *amount == self.figures.reserved;
            *amount -= reserve;
            if *amount == 0 {
                self.reserved_for.remove(&peer);
            }
            if top {
                self.figures.reserved = self.reserved_for.values().copied().max().unwrap_or(0);
            }
        }
    }
}
