//! The balance of a cluster as one number: the smaller the better.
//!
//! It is the number of Ganeti's htools (checked against 3.0.2's `hail` by the fixtures): for each metric the standard
//! deviation over the usable nodes, weighted, plus a share of all reserved memory, plus counts of what should
//! not be at all: nodes that fail N+1, instances on nodes that are offline or drained, exclusion tags that meet. A
//! deviation needs the sum and the sum of squares alone, so a placement changes it in constant time ([`Tally`]).
//! Left out: location tags and measured load, which the remote API knows nothing of.

use crate::node::{Capacity, Figures};

/// How many metrics deviate.
pub(crate) const METRICS: usize = 8;

/// Free memory now, and were all instances started.
pub(crate) const FREE_MEMORY: usize = 0;
pub(crate) const FREE_MEMORY_ALL: usize = 1;
/// Free disk space.
pub(crate) const FREE_DISK: usize = 2;
/// Memory reserved for the loss of another node.
pub(crate) const RESERVED: usize = 3;
/// Virtual CPUs per physical one.
pub(crate) const VCPUS: usize = 4;
/// How many primaries.
pub(crate) const PRIMARIES: usize = 5;
/// How many instances in any role.
pub(crate) const ROLES: usize = 6;
/// Use of the spindles.
pub(crate) const SPINDLES: usize = 7;

/// Free memory is weighed in two halves; primaries stand for load of CPU, memory and network, hence the three.
const WEIGHTS: [f64; METRICS] = {
    let mut weights = [1.0; METRICS];
    weights[FREE_MEMORY] = 0.5;
    weights[FREE_MEMORY_ALL] = 0.5;
    weights[PRIMARIES] = 3.0;
    weights
};

/// The relative error of a variance, generously: below it counts as none. Scores are exact to about 1e-7.
const NOISE: f64 = 1e-14;

const RESERVED_TOTAL_WEIGHT: f64 = 0.25;
const N1_WEIGHT: f64 = 1.0;
const OFFLINE_ROLE_WEIGHT: f64 = 4.0;
const OFFLINE_PRIMARY_WEIGHT: f64 = 16.0;
const TAG_WEIGHT: f64 = 2.0;

/// The values of one node.
pub(crate) fn metrics(capacity: &Capacity, figures: &Figures) -> [f64; METRICS] {
    let share = |part: i64, whole: f64| if whole > 0.0 { part as f64 / whole } else { 0.0 };
    let mut values = [0.0; METRICS];
    values[FREE_MEMORY] = share(figures.memory_free, capacity.memory);
    values[FREE_MEMORY_ALL] = share(figures.memory_free_all, capacity.memory);
    values[FREE_DISK] = share(figures.disk_free, capacity.disk);
    values[RESERVED] = share(figures.reserved, capacity.memory);
    values[VCPUS] = share(figures.vcpus, capacity.cpu_power);
    values[PRIMARIES] = figures.primaries as f64;
    values[ROLES] = figures.roles as f64;
    values[SPINDLES] = share(figures.spindle_use, capacity.spindle_use_max);
    values
}

/// What a change of one node adds to the sums of one metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Delta {
    pub(crate) sum: f64,
    pub(crate) squares: f64,
}

impl Delta {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { sum: self.sum + other.sum, squares: self.squares + other.squares }
    }
}

/// The changes of one node in all metrics, and in the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Change {
    pub(crate) metrics: [Delta; METRICS],
    pub(crate) reserved: f64,
    pub(crate) n1: f64,
}

/// The sums over all usable nodes. Values are taken relative to their mean at the start, so that squares of large values do
/// not swallow small deviations and equal nodes give a deviation of exactly nothing.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    nodes: f64,
    origin: [f64; METRICS],
    sums: [Delta; METRICS],
    reserved: f64,
    n1: f64,
    /// The part that no placement on usable nodes changes.
    fixed: f64,
}

/// Counts beside the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) n1: i64,
    pub(crate) offline_roles: i64,
    pub(crate) offline_primaries: i64,
    pub(crate) tag_conflicts: i64,
}

impl Tally {
    pub(crate) fn new(values: &[[f64; METRICS]], counts: Counts) -> Self {
        let nodes = values.len().max(1) as f64;
        let mut origin = [0.0; METRICS];
        let mut sums = [Delta::default(); METRICS];
        for metric in 0..METRICS {
            let first = values.first().map_or(0.0, |value| value[metric]);
            let sum: f64 = values.iter().map(|value| value[metric] - first).sum();
            origin[metric] = first + sum / nodes;
            for value in values {
                let off = value[metric] - origin[metric];
                sums[metric].sum += off;
                sums[metric].squares += off * off;
            }
        }
        let fixed = OFFLINE_ROLE_WEIGHT * counts.offline_roles as f64
            + OFFLINE_PRIMARY_WEIGHT * counts.offline_primaries as f64
            + TAG_WEIGHT * counts.tag_conflicts as f64;
        let reserved = values.iter().map(|value| value[RESERVED]).sum();
        Self { nodes, origin, sums, reserved, n1: counts.n1 as f64, fixed }
    }

    pub(crate) fn nodes(&self) -> f64 {
        self.nodes
    }

    /// What replacing a node's values changes.
    pub(crate) fn change(
        &self,
        before: &[f64; METRICS],
        after: &[f64; METRICS],
        n1: (bool, bool),
    ) -> Change {
        let mut change = Change::default();
        for metric in 0..METRICS {
            if before[metric] != after[metric] {
                let (old, new) =
                    (before[metric] - self.origin[metric], after[metric] - self.origin[metric]);
                change.metrics[metric] = Delta { sum: new - old, squares: new * new - old * old };
            }
        }
        change.reserved = after[RESERVED] - before[RESERVED];
        change.n1 = f64::from(u8::from(n1.1)) - f64::from(u8::from(n1.0));
        change
    }

    /// The variance of a metric after a change.
    pub(crate) fn variance(&self, metric: usize, delta: Delta) -> f64 {
        let after = self.sums[metric].plus(delta);
        let mean = after.sum / self.nodes;
        let squares = after.squares / self.nodes;
        let variance = squares - mean * mean;
        // What is left of a difference of equals is noise, and the root would blow it up.
        if variance > NOISE * squares { variance } else { 0.0 }
    }

    /// The part of a change in the variance that belongs to it alone; two changes of different nodes together give
    /// the sum of theirs minus `2 · sum₁ · sum₂ / nodes²`.
    pub(crate) fn own_variance(&self, metric: usize, delta: Delta) -> f64 {
        let nodes = self.nodes;
        delta.squares / nodes
            - (2.0 * self.sums[metric].sum + delta.sum) * delta.sum / (nodes * nodes)
    }

    /// The weighted deviation of a metric after a change.
    pub(crate) fn deviation(&self, metric: usize, delta: Delta) -> f64 {
        WEIGHTS[metric] * self.variance(metric, delta).sqrt()
    }

    pub(crate) fn weight(metric: usize) -> f64 {
        WEIGHTS[metric]
    }

    /// The counted part of the score after a change of reserve and N+1 failures.
    pub(crate) fn counted(&self, reserved: f64, n1: f64) -> f64 {
        self.fixed + RESERVED_TOTAL_WEIGHT * (self.reserved + reserved) + N1_WEIGHT * (self.n1 + n1)
    }

    /// The score after changing one node, or two different ones.
    pub(crate) fn score(&self, first: &Change, second: Option<&Change>) -> f64 {
        let none = Change::default();
        let second = second.unwrap_or(&none);
        let deviations: f64 = (0..METRICS)
            .map(|metric| {
                self.deviation(metric, first.metrics[metric].plus(second.metrics[metric]))
            })
            .sum();
        deviations + self.counted(first.reserved + second.reserved, first.n1 + second.n1)
    }
}
