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
    /// Submits jobs that move all instances of a node group to others.
    GroupEvacuate "OP_GROUP_EVACUATE" hooks("group-evacuate") summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether locks of nodes that are done with are given up before the disks are in sync.
        early_release: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// The groups to go to; by default any other.
        target_groups: Option<Vec<NonEmpty>> = None,
        /// Whether the jobs run one after the other.
        sequential: bool = false,
        /// Whether running instances are stopped for it instead of migrated.
        force_failover: bool = false,
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
    }    /// Looks for disks of a node group's instances that need activation.
    GroupVerifyDisks "OP_GROUP_VERIFY_DISKS" hooks() summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether a disk that cannot be looked at counts as one that needs activation.
        is_strict: bool = true,
    }
}
