//! Whether a group could lose any one node: the instances that run there would have to find memory on the others.
//!
//! drbd's running instances fail over to their secondaries, all others are started anew: the largest first, each on the node with the most free memory (and room in the volume group, if it needs it).
//! Ganeti's hail makes the same trial after each allocation that it considers, by a search of its own. A group with a
//! single usable node cannot be redundant at all; hail refuses every allocation there, we skip the trial.

use std::collections::{BTreeMap, HashMap};

use crate::cluster::Member;
use crate::instance::{AdminState, Load, Mirror};
use crate::node::State;

/// A limit on trials of one search, against groups where nothing can be right: past it everything is refused.
const TRIALS_MAX: usize = 4096;

/// What one instance would have to find elsewhere.
#[derive(Clone, Copy)]
struct Mover {
    memory: i64,
    disk: i64,
}

/// A place to restart in.
#[derive(Clone, Copy)]
struct Place {
    node: usize,
    memory: i64,
    disk: i64,
}

/// The trial for one group, as it is before the allocation.
pub(crate) struct Redundancy<'a> {
    load: &'a Load,
    /// Instances to restart, by node.
    movers: Vec<(usize, Vec<Mover>)>,
    /// Usable nodes, most free memory first.
    places: Vec<Place>,
    /// For each node the secondaries of its running drbd instances, and the memory these need there.
    failovers: HashMap<usize, Vec<(usize, i64)>>,
    disks_matter: bool,
    verdicts: HashMap<(usize, Option<usize>), bool>,
    /// Whether the trial is passed before anything is added; if not, nothing that is added can mend it.
    holds_now: bool,
    active: bool,
}

impl<'a> Redundancy<'a> {
    pub(crate) fn new(
        nodes: &[State],
        members: &[Member],
        loads: &[Load],
        group_nodes: &[usize],
        load: &'a Load,
        active: bool,
    ) -> Self {
        let mut redundancy = Self {
            load,
            movers: Vec::new(),
            places: Vec::new(),
            failovers: HashMap::new(),
            disks_matter: false,
            verdicts: HashMap::new(),
            holds_now: true,
            active: active && group_nodes.len() > 1,
        };
        if !redundancy.active {
            return redundancy;
        }
        for &node in group_nodes {
            let state = &nodes[node];
            let figures = &state.figures;
            redundancy.places.push(Place {
                node,
                memory: figures.memory_free,
                disk: figures.disk_free,
            });
            let drbd = state.primaries.iter().filter(|index| {
                let load = &loads[**index];
                load.state == AdminState::Up && load.template.mirror() == Mirror::Internal
            });
            let mut needed: BTreeMap<usize, i64> = BTreeMap::new();
            for index in drbd {
                // An instance without a living secondary is as good as lost with its primary.
                match members[*index].secondary.filter(|secondary| !nodes[*secondary].offline) {
                    Some(secondary) => {
                        *needed.entry(secondary).or_default() += loads[*index].memory;
                    }
                    None => redundancy.holds_now = false,
                }
            }
            for (secondary, memory) in &needed {
                if *memory >= nodes[*secondary].figures.memory_free {
                    redundancy.holds_now = false;
                }
            }
            redundancy.failovers.insert(node, needed.into_iter().collect());
            let mut movers: Vec<Mover> =
                state.primaries.iter().filter_map(|index| mover(&loads[*index])).collect();
            movers.sort_by_key(|mover| -mover.memory);
            redundancy.movers.push((node, movers));
        }
        redundancy.places.sort_by_key(|place| (-place.memory, nodes[place.node].rank));
        redundancy.disks_matter = mover(load).is_some_and(|mover| mover.disk > 0)
            || redundancy.movers.iter().flat_map(|(_, movers)| movers).any(|mover| mover.disk > 0);
        redundancy.holds_now = redundancy.holds_now && redundancy.passes(None);
        redundancy
    }

    /// Whether nothing could be placed in the group at all.
    pub(crate) fn hopeless(&self) -> bool {
        self.active && !self.holds_now
    }

    /// Whether the group could still lose any node with the instance on these nodes.
    pub(crate) fn holds_with(&mut self, primary: usize, secondary: Option<usize>) -> bool {
        if !self.active {
            return true;
        }
        if !self.holds_now {
            return false;
        }
        let key = (primary, secondary.filter(|_| self.disks_matter));
        if let Some(verdict) = self.verdicts.get(&key) {
            return *verdict;
        }
        if self.verdicts.len() >= TRIALS_MAX {
            return false;
        }
        let verdict = self.passes(Some((primary, secondary)));
        self.verdicts.insert(key, verdict);
        verdict
    }

    fn passes(&self, added: Option<(usize, Option<usize>)>) -> bool {
        self.movers.iter().all(|(node, movers)| {
            let new = added.filter(|(primary, _)| primary == node).and_then(|_| mover(self.load));
            if movers.is_empty() && new.is_none() {
                return true;
            }
            self.survives(*node, movers, new, added)
        })
    }

    /// Whether the instances of `lost` find places.
    fn survives(
        &self,
        lost: usize,
        movers: &[Mover],
        new: Option<Mover>,
        added: Option<(usize, Option<usize>)>,
    ) -> bool {
        let failovers = self.failovers.get(&lost).map_or(&[][..], Vec::as_slice);
        // Of the places only so many with the most memory can matter; more are looked at when disks are short.
        let enough = movers.len() + failovers.len() + 4;
        let mut places: Vec<Place> = Vec::with_capacity(enough);
        let others = self.places.iter().filter(|place| place.node != lost);
        places.extend(others.take(enough).map(|place| self.place(*place, failovers, added)));
        let whole = places.len() + 1 >= self.places.len();
        let mut all = movers.to_vec();
        if let Some(new) = new {
            let at = all.partition_point(|mover| mover.memory >= new.memory);
            all.insert(at, new);
        }
        if restart(&all, &mut places) {
            return true;
        }
        if whole || !self.disks_matter {
            return false;
        }
        let others = self.places.iter().filter(|place| place.node != lost);
        let mut places: Vec<Place> =
            others.map(|place| self.place(*place, failovers, added)).collect();
        restart(&all, &mut places)
    }

    /// A place as it is after the failovers from the lost node and the allocation.
    fn place(
        &self,
        mut place: Place,
        failovers: &[(usize, i64)],
        added: Option<(usize, Option<usize>)>,
    ) -> Place {
        for (node, memory) in failovers {
            if *node == place.node {
                place.memory -= memory;
            }
        }
        if let Some((primary, secondary)) = added {
            if primary == place.node {
                place.memory -= self.load.memory;
            }
            if primary == place.node || secondary == Some(place.node) {
                place.disk -= self.load.disk;
            }
        }
        place
    }
}

/// What a running instance that has no secondary asks for.
fn mover(load: &Load) -> Option<Mover> {
    (load.state == AdminState::Up && load.template.mirror() != Mirror::Internal)
        .then_some(Mover { memory: load.memory, disk: load.disk })
}

/// Puts each mover on the place with the most free memory that has the disk space.
fn restart(movers: &[Mover], places: &mut [Place]) -> bool {
    movers.iter().all(|mover| {
        let roomiest = places
            .iter_mut()
            .filter(|place| {
                place.memory > mover.memory && (mover.disk == 0 || place.disk >= mover.disk)
            })
            .max_by_key(|place| place.memory);
        match roomiest {
            Some(place) => {
                place.memory -= mover.memory;
                place.disk -= mover.disk;
                true
            }
            None => false,
        }
    })
}
