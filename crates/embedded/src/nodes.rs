//! The nodes of the cluster as objects that can be asked: by UUID, in step with the configuration.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use model::name::Uuid;
use node::{Node, NodeState};

/// The nodes that can be asked. Filled when the engine starts; a cluster keeps its nodes.
#[derive(Default)]
pub struct Nodes(RwLock<HashMap<Uuid, Arc<dyn Node>>>);

impl Nodes {
    pub fn insert(&self, uuid: Uuid, node: Arc<dyn Node>) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(uuid, node);
    }

    pub fn get(&self, uuid: &Uuid) -> Option<Arc<dyn Node>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(uuid).cloned()
    }

    /// What is known about a node now.
    pub fn state(&self, uuid: &Uuid) -> Option<Arc<NodeState>> {
        self.get(uuid).map(|node| node.state())
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<(Uuid, Arc<dyn Node>)> {
        let map = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        map.iter().map(|(uuid, node)| (uuid.clone(), node.clone())).collect()
    }
}
