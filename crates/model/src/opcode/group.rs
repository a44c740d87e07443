//! The opcodes on node groups.

use crate::param::{AllocPolicy, Dict, DiskParams, IPolicySpec, NonEmpty};

opcodes! {
    /// Adds a node group.
    GroupAdd "OP_GROUP_ADD" hooks("group-add") summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether new instances may go to the group.
        alloc_policy: Option<AllocPolicy> = None,
        /// Node parameters.
        ndparams: Option<Dict> = None,
        /// Disk parameters by disk template.
        diskparams: Option<DiskParams> = None,
        /// What is assumed about the hypervisors of nodes.
        hv_state: Option<Dict> = None,
        /// What is assumed about the storage of nodes.
        disk_state: Option<Dict> = None,
        /// The instance policy.
        ipolicy: Option<IPolicySpec> = None,
    }
    /// Moves nodes to a node group.
    GroupAssignNodes "OP_GROUP_ASSIGN_NODES" hooks() summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// The nodes.
        nodes: Vec<NonEmpty>,
        /// The UUIDs of the nodes.
        node_uuids: Option<Vec<NonEmpty>> = None,
    }
    /// Removes an empty node group.
    GroupRemove "OP_GROUP_REMOVE" hooks("group-remove") summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
    }
    /// Renames a node group.
    GroupRename "OP_GROUP_RENAME" hooks("group-rename") summary() {
        /// The node group.
        group_name: NonEmpty,
        /// The new name.
        new_name: NonEmpty,
    }
    /// Changes parameters of a node group.
    GroupSetParams "OP_GROUP_SET_PARAMS" hooks("group-modify") summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether new instances may go to the group.
        alloc_policy: Option<AllocPolicy> = None,
        /// Node parameters.
        ndparams: Option<Dict> = None,
        /// Disk parameters by disk template.
        diskparams: Option<DiskParams> = None,
        /// What is assumed about the hypervisors of nodes.
        hv_state: Option<Dict> = None,
        /// What is assumed about the storage of nodes.
        disk_state: Option<Dict> = None,
        /// The instance policy.
        ipolicy: Option<IPolicySpec> = None,
    }
}
