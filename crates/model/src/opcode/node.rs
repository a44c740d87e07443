//! The opcodes on nodes.

use crate::param::{Dict, EvacuateMode, MigrationMode, NonEmpty, StorageType};

opcodes! {
    /// Submits jobs that move the instances of a node elsewhere.
    NodeEvacuate "OP_NODE_EVACUATE" hooks() summary(node_name) {
        /// Whether locks of nodes that are done with are given up before the disks are in sync.
        early_release: bool = false,
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// The new secondary node.
        remote_node: Option<NonEmpty> = None,
        /// The UUID of the new secondary node.
        remote_node_uuid: Option<NonEmpty> = None,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// In which way.
        mode: EvacuateMode,
        /// Whether the allocator may go beyond soft limits.
        ignore_soft_errors: Option<bool> = None,
    }
    /// Submits jobs that migrate the primary instances of a node elsewhere.
    NodeMigrate "OP_NODE_MIGRATE" hooks("node-migrate") summary(node_name) {
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// In which way.
        mode: Option<MigrationMode> = None,
        /// The older form of `mode`: true is live.
        live: Option<bool> = None,
        /// The node to go to.
        target_node: Option<NonEmpty> = None,
        /// The UUID of the node to go to.
        target_node_uuid: Option<NonEmpty> = None,
        /// Whether memory may be taken from the running instance to fit it on the target.
        allow_runtime_changes: bool = true,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
    }
    /// Changes a storage unit of a node.
    NodeModifyStorage "OP_NODE_MODIFY_STORAGE" hooks() summary(node_name) {
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// The kind of storage.
        storage_type: StorageType,
        /// The name.
        name: Option<NonEmpty> = None,
        /// The storage unit's new properties.
        changes: Dict,
    }
    /// Reboots a node at once.
    NodePowercycle "OP_NODE_POWERCYCLE" hooks() summary(node_name) {
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
    }
    /// Lists the storage units of nodes.
    NodeQueryStorage "OP_NODE_QUERY_STORAGE" hooks() summary() {
        /// The columns of the answer.
        output_fields: Vec<NonEmpty>,
        /// The kind of storage.
        storage_type: Option<StorageType> = None,
        /// The nodes.
        nodes: Vec<NonEmpty> = Default::default(),
        /// The name.
        name: Option<NonEmpty> = None,
    }
    /// Lists the logical volumes of nodes.
    NodeQueryvols "OP_NODE_QUERYVOLS" hooks() summary() {
        /// The columns of the answer.
        output_fields: Vec<NonEmpty>,
        /// The nodes; none means all.
        nodes: Vec<NonEmpty> = Default::default(),
    }
    /// Changes the role and the parameters of a node.
    NodeSetParams "OP_NODE_SET_PARAMS" hooks("node-modify") summary(node_name) {
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// What is assumed about the hypervisors of nodes.
        hv_state: Option<Dict> = None,
        /// What is assumed about the storage of nodes.
        disk_state: Option<Dict> = None,
        /// Whether the node is a master candidate.
        master_candidate: Option<bool> = None,
        /// Whether it is offline.
        offline: Option<bool> = None,
        /// Whether the node takes no new instances.
        drained: Option<bool> = None,
        /// Whether other nodes are promoted when too few master candidates would remain.
        auto_promote: bool = false,
        /// Whether the node can become master candidate.
        master_capable: Option<bool> = None,
        /// Whether the node can hold instances.
        vm_capable: Option<bool> = None,
        /// The secondary address.
        secondary_ip: Option<NonEmpty> = None,
        /// Node parameters.
        ndparams: Option<Dict> = None,
        /// Whether the node is taken for powered on.
        powered: Option<bool> = None,
    }
    /// Repairs a storage unit of a node.
    RepairNodeStorage "OP_REPAIR_NODE_STORAGE" hooks() summary(node_name) {
        /// The node.
        node_name: NonEmpty,
        /// The UUID that the node must have.
        node_uuid: Option<NonEmpty> = None,
        /// The kind of storage.
        storage_type: StorageType,
        /// The name.
        name: Option<NonEmpty> = None,
        /// Whether to go on when the disks on the other node are not known to be consistent.
        ignore_consistency: bool = false,
    }
}
