//! Node groups and instance policies.

use serde::{Deserialize, Serialize};

use crate::instance::{DiskTemplate, Load};
use crate::node::Fail;

/// How gladly a group takes new instances; in order of preference.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum AllocPolicy {
    #[default]
    Preferred,
    LastResort,
    Unallocable,
}

impl AllocPolicy {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::LastResort => "last_resort",
            Self::Unallocable => "unallocable",
        }
    }
}

/// A node group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub uuid: String,
    pub name: String,
    pub alloc_policy: AllocPolicy,
    /// The policy as it applies: the cluster's, overlaid with the group's own.
    pub policy: InstancePolicy,
    pub tags: Vec<String>,
    /// UUIDs of the networks the group is connected to.
    pub networks: Vec<String>,
}

/// The size of an instance, as policies bound it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Spec {
    pub memory_size: i64,
    pub cpu_count: i64,
    pub disk_count: i64,
    pub disk_size: i64,
    pub nic_count: i64,
    pub spindle_use: i64,
}

/// One range of allowed sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinMax {
    pub min: Spec,
    pub max: Spec,
}

/// What a group allows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InstancePolicy {
    /// An instance must lie in at least one of these ranges.
    pub minmax: Vec<MinMax>,
    pub std: Spec,
    pub disk_templates: Vec<DiskTemplate>,
    /// Virtual CPUs per physical one.
    pub vcpu_ratio: f64,
    /// Spindle use per spindle; of no weight with exclusive storage.
    pub spindle_ratio: f64,
}

impl Default for InstancePolicy {
    /// Ganeti's default policy.
    fn default() -> Self {
        let min = Spec {
            memory_size: 128,
            cpu_count: 1,
            disk_count: 1,
            disk_size: 1024,
            nic_count: 1,
            spindle_use: 1,
        };
        let max = Spec {
            memory_size: 32768,
            cpu_count: 8,
            disk_count: 16,
            disk_size: 1_048_576,
            nic_count: 8,
            spindle_use: 12,
        };
        Self {
            minmax: vec![MinMax { min, max }],
            std: min,
            disk_templates: DiskTemplate::ALL.to_vec(),
            vcpu_ratio: 4.0,
            spindle_ratio: 32.0,
        }
    }
}

impl InstancePolicy {
    /// Whether an instance of this size may live in the group. As in hail the number of NICs is not looked at, and of
    /// a diskless instance nothing about disks; the logical units check both before they ask.
    pub(crate) fn admits(&self, load: &Load) -> Result<(), Fail> {
        if !self.disk_templates.contains(&load.template) {
            return Err(Fail::Disk);
        }
        let mut verdict = Ok(());
        for MinMax { min, max } in &self.minmax {
            verdict = admits_range(load, min, max);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }
}

fn admits_range(load: &Load, min: &Spec, max: &Spec) -> Result<(), Fail> {
    let within = |low: i64, value: i64, high: i64, fail: Fail| {
        if (low..=high).contains(&value) { Ok(()) } else { Err(fail) }
    };
    within(min.memory_size, load.memory, max.memory_size, Fail::Mem)?;
    within(min.cpu_count, load.vcpus, max.cpu_count, Fail::Cpu)?;
    within(min.spindle_use, load.spindle_use, max.spindle_use, Fail::Spindles)?;
    if load.template == DiskTemplate::Diskless {
        return Ok(());
    }
    let count = i64::try_from(load.disk_sizes.len()).unwrap_or(i64::MAX);
    within(min.disk_count, count, max.disk_count, Fail::DiskCount)?;
    load.disk_sizes
        .iter()
        .try_for_each(|size| within(min.disk_size, *size, max.disk_size, Fail::Disk))
}
