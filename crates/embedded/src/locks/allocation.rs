//! Who holds which lock: a pure value. A request is granted whole or not at all; one that is not granted can be told which
//! owners block it. What always holds: no two owners hold the same lock unless both share it, and the whole of a level
//! conflicts with its members as if they were all held.
//!
//! Each level is a small hierarchy of two floors: who asks for one member announces that on the level's own entry
//! (`Intent`), so a whole-level request meets all members in one place and no request walks a level.
//! Waiting is not here: see [`super::waiting`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::name::JobId;

use super::{Level, Lock, Locks, Mode};

/// How an entry is held. The announcements of members exist on whole levels only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Hold {
    /// Some member is shared.
    IntentShared,
    /// Some member is held alone.
    IntentExclusive,
    Shared,
    Exclusive,
}

impl Hold {
    pub(super) const ALL: [Self; 4] =
        [Self::IntentShared, Self::IntentExclusive, Self::Shared, Self::Exclusive];

    pub(super) fn index(self) -> usize {
        match self {
            Self::IntentShared => 0,
            Self::IntentExclusive => 1,
            Self::Shared => 2,
            Self::Exclusive => 3,
        }
    }

    /// Whether two owners cannot hold an entry in these ways at once.
    pub(super) fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Exclusive, _) | (_, Self::Exclusive) => true,
            (Self::Shared, Self::IntentExclusive) | (Self::IntentExclusive, Self::Shared) => true,
            (Self::IntentShared | Self::IntentExclusive | Self::Shared, _) => false,
        }
    }

    fn of(mode: Mode) -> Self {
        match mode {
            Mode::Shared => Self::Shared,
            Mode::Exclusive => Self::Exclusive,
        }
    }

    fn announced(mode: Mode) -> Self {
        match mode {
            Mode::Shared => Self::IntentShared,
            Mode::Exclusive => Self::IntentExclusive,
        }
    }
}

/// What a request means entry by entry: its own locks, and the announcements on their levels.
pub(super) type Demand = Vec<(Lock, Hold)>;

/// Works out a request's entries.
pub(super) fn demand(locks: &Locks) -> Demand {
    let mut entries = Demand::with_capacity(8);
    let mut announced: Option<(Level, Mode)> = None;
    let announce = |entries: &mut Demand, announced: &mut Option<(Level, Mode)>| {
        if let Some((level, mode)) = announced.take() {
            entries.push((Lock { level, name: None }, Hold::announced(mode)));
        }
    };
    for (lock, mode) in locks.iter() {
        if announced.is_some_and(|(level, _)| level != lock.level) {
            announce(&mut entries, &mut announced);
        }
        if lock.name.is_some() && lock.level != Level::Cluster {
            let strongest = announced.map_or(mode, |(_, seen)| seen.max(mode));
            announced = Some((lock.level, strongest));
        }
        entries.push((lock.clone(), Hold::of(mode)));
    }
    announce(&mut entries, &mut announced);
    entries
}

/// How an entry is held, and by whom.
#[derive(Clone, Debug, Default)]
struct Held {
    owners: BTreeMap<JobId, Vec<Hold>>,
    counts: [u32; 4],
}

impl Held {
    fn add(&mut self, owner: JobId, hold: Hold) {
        self.owners.entry(owner).or_default().push(hold);
        self.counts[hold.index()] += 1;
    }

    fn take(&mut self, owner: JobId, hold: Hold) {
        let Some(holds) = self.owners.get_mut(&owner) else { return };
        if let Some(at) = holds.iter().position(|held| *held == hold) {
            holds.swap_remove(at);
            self.counts[hold.index()] -= 1;
        }
        if holds.is_empty() {
            self.owners.remove(&owner);
        }
    }

    /// Whether an owner could hold it so, beside what it holds itself.
    fn allows(&self, owner: JobId, hold: Hold) -> bool {
        let conflicting = || Hold::ALL.into_iter().filter(|other| hold.conflicts(*other));
        if conflicting().all(|other| self.counts[other.index()] == 0) {
            return true;
        }
        let Some(own) = self.owners.get(&owner) else { return false };
        conflicting().all(|other| {
            let mine = own.iter().filter(|held| **held == other).count();
            self.counts[other.index()] as usize == mine
        })
    }

    fn blockers(&self, owner: JobId, hold: Hold, into: &mut BTreeSet<JobId>) {
        for (other, holds) in &self.owners {
            if *other != owner && holds.iter().any(|held| hold.conflicts(*held)) {
                into.insert(*other);
            }
        }
    }
}

/// All that is held.
#[derive(Clone, Debug, Default)]
pub(super) struct Allocation {
    entries: HashMap<Lock, Held>,
    owners: HashMap<JobId, Demand>,
}

impl Allocation {
    /// Whether nothing that is held stands in the way.
    pub(super) fn allows(&self, owner: JobId, demand: &Demand) -> bool {
        demand
            .iter()
            .all(|(lock, hold)| self.entries.get(lock).is_none_or(|held| held.allows(owner, *hold)))
    }

    /// The owners that hold something in the way.
    pub(super) fn blockers(&self, owner: JobId, demand: &Demand) -> BTreeSet<JobId> {
        let mut found = BTreeSet::new();
        for (lock, hold) in demand {
            if let Some(held) = self.entries.get(lock) {
                held.blockers(owner, *hold, &mut found);
            }
        }
        found
    }

    /// Whether an owner holds anything.
    pub(super) fn holds_any(&self, owner: JobId) -> bool {
        self.owners.contains_key(&owner)
    }

    /// Grants a request that [`Allocation::allows`].
    pub(super) fn grant(&mut self, owner: JobId, demand: Demand) {
        assert!(self.allows(owner, &demand), "a lock is granted only when it is free");
        if demand.is_empty() {
            return;
        }
        for (lock, hold) in &demand {
            match self.entries.get_mut(lock) {
                Some(held) => held.add(owner, *hold),
                None => self.entries.entry(lock.clone()).or_default().add(owner, *hold),
            }
        }
        self.owners.entry(owner).or_default().extend(demand);
    }

    /// Takes everything back; what became freer.
    pub(super) fn release(&mut self, owner: JobId) -> Demand {
        let freed = self.owners.remove(&owner).unwrap_or_default();
        for (lock, hold) in &freed {
            self.take(owner, lock, *hold);
        }
        freed
    }

    /// Turns what an owner holds alone into something shared; what became freer.
    #[cfg_attr(not(test), expect(dead_code, reason = "no unit gives up half a lock yet"))]
    pub(super) fn downgrade(&mut self, owner: JobId) -> Demand {
        let held = self.release(owner);
        let freed: Demand = held
            .iter()
            .filter(|(_, hold)| matches!(hold, Hold::Exclusive | Hold::IntentExclusive))
            .cloned()
            .collect();
        let softened = held.into_iter().map(|(lock, hold)| {
            let hold = match hold {
                Hold::Exclusive | Hold::Shared => Hold::Shared,
                Hold::IntentExclusive | Hold::IntentShared => Hold::IntentShared,
            };
            (lock, hold)
        });
        let softened = softened.collect();
        self.grant(owner, softened);
        freed
    }

    fn take(&mut self, owner: JobId, lock: &Lock, hold: Hold) {
        if let Some(held) = self.entries.get_mut(lock) {
            held.take(owner, hold);
            if held.owners.is_empty() {
                self.entries.remove(lock);
            }
        }
    }

    /// Each lock that is held, how, and by whom; announcements are not locks.
    pub(super) fn snapshot(&self) -> BTreeMap<Lock, (Mode, Vec<JobId>)> {
        let mut rows = BTreeMap::new();
        for (lock, held) in &self.entries {
            let mut mode = Mode::Shared;
            let mut owners = Vec::new();
            for (owner, holds) in &held.owners {
                if holds.contains(&Hold::Exclusive) {
                    mode = Mode::Exclusive;
                    owners.push(*owner);
                } else if holds.contains(&Hold::Shared) {
                    owners.push(*owner);
                }
            }
            if !owners.is_empty() {
                rows.insert(lock.clone(), (mode, owners));
            }
        }
        rows
    }
}
