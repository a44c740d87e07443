//! The one place that holds what is known about this node: replaced as a whole, read without waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::state::{InstanceRun, NodeState};

/// Holds a [`NodeState`] and counts its changes.
pub(crate) struct StateCell {
    current: Mutex<Arc<NodeState>>,
    version: watch::Sender<u64>,
}

impl StateCell {
    pub(crate) fn new(state: NodeState) -> Self {
        let version = watch::Sender::new(state.version);
        Self { current: Mutex::new(Arc::new(state)), version }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<NodeState>> {
        // Nothing panics while it is held; and a state is replaced as a whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Arc<NodeState> {
        self.lock().clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Publishes an instance.
    pub(crate) fn put_instance(&self, name: String, run: InstanceRun) {
        self.update(|state| {
            state.instances.insert(name, run);
        });
    }

    /// Publishes that an instance is no more.
    pub(crate) fn drop_instance(&self, name: &str) {
        self.update(|state| {
            state.instances.remove(name);
        });
    }

    /// Changes the state; when nothing changed, nobody is told.
    pub(crate) fn update(&self, change: impl FnOnce(&mut NodeState)) {
        let mut current = self.lock();
        let mut next = NodeState::clone(&current);
        change(&mut next);
        if next != **current {
            next.version += 1;
            let version = next.version;
            *current = Arc::new(next);
            self.version.send_replace(version);
        }
    }
}
