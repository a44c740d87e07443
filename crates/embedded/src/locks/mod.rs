//! Locks: what there is to lock, and what an opcode asks for. Granting is a pure value in [`allocation`];
//! waiting for it is the queue's business.

mod allocation;
#[cfg(test)]
mod tests;
pub(crate) mod waiting;

use std::collections::BTreeMap;

/// The levels, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// The one lock that nearly everything shares.
    Cluster,
    /// By name.
    Instance,
    /// By UUID, as all that follow.
    NodeGroup,
    Node,
    NodeRes,
    Network,
}

impl Level {
    #[cfg(test)]
    pub(crate) const ALL: &'static [Self] =
        &[Self::Cluster, Self::Instance, Self::NodeGroup, Self::Node, Self::NodeRes, Self::Network];

    /// The first part of a lock's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Instance => "instance",
            Self::NodeGroup => "nodegroup",
            Self::Node => "node",
            Self::NodeRes => "node-res",
            Self::Network => "network",
        }
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

/// One lock: a single thing of a level, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lock {
    pub(crate) level: Level,
    /// `None` is the whole level, `[lockset]`.
    pub(crate) name: Option<String>,
}

impl Lock {
    /// The name in lock queries: `instance/web1.example.com`, `node/[lockset]`, `cluster/BGL`.
    pub(crate) fn full_name(&self) -> String {
        let name = self.name.as_deref().unwrap_or("[lockset]");
        format!("{}/{name}", self.level.as_str())
    }
}

/// What an opcode asks for. The cluster's lock is always part of it, shared unless asked for otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locks(BTreeMap<Lock, Mode>);

impl Default for Locks {
    fn default() -> Self {
        Self::new()
    }
}

impl Locks {
    /// The cluster's lock, shared.
    pub(crate) fn new() -> Self {
        let none = Self(BTreeMap::new());
        none.with(Level::Cluster, Some("BGL"), Mode::Shared)
    }

    /// No lock at all.
    pub(crate) fn none() -> Self {
        Self(BTreeMap::new())
    }

    fn with(mut self, level: Level, name: Option<&str>, mode: Mode) -> Self {
        let lock = Lock { level, name: name.map(str::to_owned) };
        let held = self.0.entry(lock).or_insert(mode);
        *held = mode.max(*held);
        self
    }

    pub(crate) fn shared(self, level: Level, name: impl AsRef<str>) -> Self {
        self.with(level, Some(name.as_ref()), Mode::Shared)
    }

    pub(crate) fn exclusive(self, level: Level, name: impl AsRef<str>) -> Self {
        self.with(level, Some(name.as_ref()), Mode::Exclusive)
    }

    /// Everything of a level.
    pub(crate) fn all(self, level: Level, mode: Mode) -> Self {
        self.with(level, None, mode)
    }

    /// The cluster's lock alone for oneself; no opcode that a route submits wants it.
    #[cfg(test)]
    pub(crate) fn exclusive_cluster(self) -> Self {
        self.with(Level::Cluster, Some("BGL"), Mode::Exclusive)
    }

    /// The locks in the order in which they are taken.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Lock, Mode)> {
        self.0.iter().map(|(lock, mode)| (lock, *mode))
    }

    /// Whether holding these is holding `wanted` too: the same or stronger, each or the whole level.
    pub(crate) fn covers(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(lock, mode)| {
            let held = |lock: &Lock| self.0.get(lock).is_some_and(|held| *held >= mode);
            held(lock) || held(&Lock { level: lock.level, name: None })
        })
    }

    /// Both together.
    pub(crate) fn join(mut self, other: &Self) -> Self {
        for (lock, mode) in other.iter() {
            self = self.with(lock.level, lock.name.as_deref(), mode);
        }
        self
    }
}
