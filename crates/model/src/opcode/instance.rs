//! The opcodes on instances.

use std::num::NonZeroU64;

use serde_json::Value;

use crate::param::{
    AdminStateSource, CreateMode, Dict, DiskChanges, DiskIndex, DiskSpec, DiskTemplate, FileDriver,
    Hypervisor, MigrationMode, NicChanges, NicSpec, NonEmpty, Private, RebootType, RecreateDisks,
    ReplaceMode, Secret,
};

opcodes! {
    /// Brings an instance's disks up without starting it.
    InstanceActivateDisks "OP_INSTANCE_ACTIVATE_DISKS" hooks() summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether recorded disk sizes are ignored.
        ignore_size: bool = false,
        /// Whether to wait until mirrored disks are in sync.
        wait_for_sync: bool = false,
    }
    /// Submits jobs that move an instance to another node group.
    InstanceChangeGroup "OP_INSTANCE_CHANGE_GROUP" hooks("instance-change-group") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether locks of nodes that are done with are given up before the disks are in sync.
        early_release: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// The groups to go to; by default any other.
        target_groups: Option<Vec<NonEmpty>> = None,
    }
    /// Creates an instance.
    InstanceCreate "OP_INSTANCE_CREATE" hooks("instance-add") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// Whether a variant that the operating system does not declare is accepted.
        force_variant: bool = false,
        /// Whether to wait until mirrored disks are in sync.
        wait_for_sync: bool = true,
        /// Whether the instance's name must resolve (true by default until Ganeti 3.0).
        name_check: bool = false,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
        /// Whether the allocator only sees the nodes whose locks are free.
        opportunistic_locking: bool = false,
        /// Backend parameters: minmem, maxmem, vcpus, …
        beparams: Dict = Default::default(),
        /// The disks to make: size in MiB or with a unit, mode, name, …
        disks: Vec<DiskSpec>,
        /// The disk template.
        disk_template: Option<DiskTemplate> = None,
        /// The node group.
        group_name: Option<NonEmpty> = None,
        /// How file-based disks are handed to the hypervisor.
        file_driver: Option<FileDriver> = None,
        /// The directory of file-based disks, relative to that of the cluster.
        file_storage_dir: Option<NonEmpty> = None,
        /// Hypervisor parameters.
        hvparams: Dict = Default::default(),
        /// The hypervisor; by default the first that the cluster enables.
        hypervisor: Option<Hypervisor> = None,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// Whether values that equal the defaults are taken for them when importing.
        identify_defaults: bool = false,
        /// Whether the instance's address must not answer yet (true by default until Ganeti 3.0).
        ip_check: bool = false,
        /// Whether addresses are checked against those of known networks.
        conflicts_check: bool = true,
        /// In which way.
        mode: CreateMode,
        /// The NICs.
        nics: Vec<NicSpec>,
        /// Whether the create scripts are left out.
        no_install: Option<bool> = None,
        /// Parameters for the scripts of the operating system.
        osparams: Dict = Default::default(),
        /// Parameters for these scripts that are stored but not shown.
        osparams_private: Option<Private> = None,
        /// Parameters for these scripts that are neither stored nor shown.
        osparams_secret: Option<Secret> = None,
        /// The operating system, with its variant after a `+`.
        os_type: Option<NonEmpty> = None,
        /// The primary node.
        pnode: Option<NonEmpty> = None,
        /// The UUID of the primary node.
        pnode_uuid: Option<NonEmpty> = None,
        /// The secondary node.
        snode: Option<NonEmpty> = None,
        /// The UUID of the secondary node.
        snode_uuid: Option<NonEmpty> = None,
        /// The signed handshake of the cluster that sends.
        source_handshake: Option<Vec<Value>> = None,
        /// The name of the instance in the cluster that sends.
        source_instance_name: Option<NonEmpty> = None,
        /// How long the source may take to stop, in seconds.
        source_shutdown_timeout: u64 = 120,
        /// The signed certificate of the cluster that sends.
        source_x509_ca: Option<NonEmpty> = None,
        /// The node that holds the export.
        src_node: Option<NonEmpty> = None,
        /// The UUID of the node that holds the export.
        src_node_uuid: Option<NonEmpty> = None,
        /// The directory of the export.
        src_path: Option<NonEmpty> = None,
        /// How disk contents are compressed on their way.
        compress: String = "none".into(),
        /// Whether the instance is started once it is there.
        start: bool = true,
        /// Whether the instance is only planned: resources are reserved, nothing is made.
        forthcoming: bool = false,
        /// Whether to turn a forthcoming instance of this name into a real one.
        commit: bool = false,
        /// The tags.
        tags: Vec<NonEmpty> = Default::default(),
        /// Whether the instance gets a NIC on the communication network.
        instance_communication: bool = false,
        /// How long the helper instance may take to start, in seconds.
        helper_startup_timeout: Option<i64> = None,
        /// How long the helper instance may take to stop, in seconds.
        helper_shutdown_timeout: Option<i64> = None,
    }
    /// Takes the disks of a stopped instance down.
    InstanceDeactivateDisks "OP_INSTANCE_DEACTIVATE_DISKS" hooks() summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
    }
    /// Stops an instance and starts it on its other node, or on any where its disks can be reached from all.
    InstanceFailover "OP_INSTANCE_FAILOVER" hooks("instance-failover") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// How long the guest may take to stop, in seconds.
        shutdown_timeout: u64 = 120,
        /// Whether to go on when the disks on the other node are not known to be consistent.
        ignore_consistency: bool = false,
        /// The node to go to.
        target_node: Option<NonEmpty> = None,
        /// The UUID of the node to go to.
        target_node_uuid: Option<NonEmpty> = None,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
        /// Whether this repairs what an earlier migration that failed left behind.
        cleanup: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
    }
    /// Makes a disk of an instance larger.
    InstanceGrowDisk "OP_INSTANCE_GROW_DISK" hooks("disk-grow") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether to wait until mirrored disks are in sync.
        wait_for_sync: bool = true,
        /// The index of the disk.
        disk: DiskIndex,
        /// The growth, or with `absolute` the new size, in MiB.
        amount: u64,
        /// Whether `amount` is the new size and not the growth.
        absolute: bool = false,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
    }
    /// Moves a running instance to its other node, or to any where its disks can be reached from all.
    InstanceMigrate "OP_INSTANCE_MIGRATE" hooks("instance-migrate") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
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
        /// Whether this repairs what an earlier migration that failed left behind.
        cleanup: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// Whether to fall back to a failover where a migration is not possible.
        allow_failover: bool = false,
        /// Whether to migrate between versions of a hypervisor that do not fit.
        ignore_hvversions: bool = false,
    }
    /// Places several new instances at once and submits a job to create each.
    InstanceMultiAlloc "OP_INSTANCE_MULTI_ALLOC" hooks() summary() {
        /// Whether the allocator only sees the nodes whose locks are free.
        opportunistic_locking: bool = false,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// The instances.
        instances: Vec<Dict> = Default::default(),
    }
    /// Answers the details of instances, their disks and what the hypervisor says.
    InstanceQueryData "OP_INSTANCE_QUERY_DATA" hooks() summary() {
        /// Whether locks are taken for the query.
        use_locking: bool = false,
        /// The instances.
        instances: Vec<NonEmpty> = Default::default(),
        /// Whether to answer from the configuration alone.
        r#static: bool = false,
    }
    /// Reboots an instance.
    InstanceReboot "OP_INSTANCE_REBOOT" hooks("instance-reboot") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// How long the guest may take to stop, in seconds.
        shutdown_timeout: u64 = 120,
        /// Whether to go on when disks fail on secondary nodes.
        ignore_secondaries: bool = false,
        /// How hard the reboot is.
        reboot_type: RebootType,
    }
    /// Makes the disks of a stopped instance again, empty, perhaps on other nodes.
    InstanceRecreateDisks "OP_INSTANCE_RECREATE_DISKS" hooks("instance-recreate-disks") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Which disks, perhaps with other sizes; none means all.
        disks: RecreateDisks = Default::default(),
        /// The nodes.
        nodes: Vec<NonEmpty> = Default::default(),
        /// The UUIDs of the nodes.
        node_uuids: Option<Vec<NonEmpty>> = None,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
    }
    /// Runs the create scripts of an operating system on the disks of a stopped instance again.
    InstanceReinstall "OP_INSTANCE_REINSTALL" hooks("instance-reinstall") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether a variant that the operating system does not declare is accepted.
        force_variant: bool = false,
        /// The operating system, with its variant after a `+`.
        os_type: Option<NonEmpty> = None,
        /// Parameters for the scripts of the operating system.
        osparams: Option<Dict> = None,
        /// Parameters for these scripts that are stored but not shown.
        osparams_private: Option<Private> = None,
        /// Parameters for these scripts that are neither stored nor shown.
        osparams_secret: Option<Secret> = None,
    }
    /// Removes an instance and its disks.
    InstanceRemove "OP_INSTANCE_REMOVE" hooks("instance-remove") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// How long the guest may take to stop, in seconds.
        shutdown_timeout: u64 = 120,
        /// Whether to go on when parts of the removal fail.
        ignore_failures: bool = false,
    }
    /// Renames a stopped instance.
    InstanceRename "OP_INSTANCE_RENAME" hooks("instance-rename") summary() {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// The new name.
        new_name: NonEmpty,
        /// Whether the instance's name must resolve (true by default until Ganeti 3.0).
        name_check: bool = false,
        /// Whether the instance's address must not answer yet (true by default until Ganeti 3.0).
        ip_check: bool = false,
    }
    /// Replaces the disks of a mirrored instance on one of its nodes, or moves its secondary.
    InstanceReplaceDisks "OP_INSTANCE_REPLACE_DISKS" hooks("mirrors-replace") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether locks of nodes that are done with are given up before the disks are in sync.
        early_release: bool = false,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
        /// In which way.
        mode: ReplaceMode,
        /// Which disks; none means all.
        disks: Vec<DiskIndex> = Default::default(),
        /// The new secondary node.
        remote_node: Option<NonEmpty> = None,
        /// The UUID of the new secondary node.
        remote_node_uuid: Option<NonEmpty> = None,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
    }
    /// Changes an instance: its parameters, disks, NICs, node or disk template.
    InstanceSetParams "OP_INSTANCE_SET_PARAMS" hooks("instance-modify") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// Whether a variant that the operating system does not declare is accepted.
        force_variant: bool = false,
        /// Whether violations of the instance policy are only warned about.
        ignore_ipolicy: bool = false,
        /// Changes of the NICs.
        nics: NicChanges = Default::default(),
        /// Changes of the disks.
        disks: DiskChanges = Default::default(),
        /// Backend parameters: minmem, maxmem, vcpus, …
        beparams: Dict = Default::default(),
        /// Memory that the running instance is set to, in MiB.
        runtime_mem: Option<NonZeroU64> = None,
        /// Hypervisor parameters.
        hvparams: Dict = Default::default(),
        /// The disk template.
        disk_template: Option<DiskTemplate> = None,
        /// Parameters of external storage for a change of the disk template.
        ext_params: Dict = Default::default(),
        /// How file-based disks are handed to the hypervisor.
        file_driver: Option<FileDriver> = None,
        /// The directory of file-based disks, relative to that of the cluster.
        file_storage_dir: Option<NonEmpty> = None,
        /// The primary node.
        pnode: Option<NonEmpty> = None,
        /// The UUID of the primary node.
        pnode_uuid: Option<NonEmpty> = None,
        /// The new secondary node.
        remote_node: Option<NonEmpty> = None,
        /// The UUID of the new secondary node.
        remote_node_uuid: Option<NonEmpty> = None,
        /// The instance allocator that chooses nodes.
        iallocator: Option<NonEmpty> = None,
        /// The operating system the instance has from now on; nothing is installed.
        os_name: Option<NonEmpty> = None,
        /// Parameters for the scripts of the operating system.
        osparams: Dict = Default::default(),
        /// Parameters for these scripts that are stored but not shown.
        osparams_private: Option<Private> = None,
        /// Whether to wait until mirrored disks are in sync.
        wait_for_sync: bool = true,
        /// Whether it is offline.
        offline: Option<bool> = None,
        /// Whether addresses are checked against those of known networks.
        conflicts_check: bool = true,
        /// Whether changes of disks and NICs reach the running instance at once.
        hotplug: bool = true,
        /// Like `hotplug`, where the hypervisor can do it (until Ganeti 3.0).
        hotplug_if_possible: bool = false,
        /// Whether the instance gets a NIC on the communication network.
        instance_communication: Option<bool> = None,
    }
    /// Stops an instance.
    InstanceShutdown "OP_INSTANCE_SHUTDOWN" hooks("instance-stop") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// Whether to mark the instance although its primary node is offline.
        ignore_offline_nodes: bool = false,
        /// How long the guest may take to stop, in seconds.
        timeout: u64 = 120,
        /// Whether the instance's desired state stays as it is.
        no_remember: bool = false,
        /// Who wants the instance stopped; kept with its state.
        admin_state_source: Option<AdminStateSource> = None,
    }
    /// Starts an instance.
    InstanceStartup "OP_INSTANCE_STARTUP" hooks("instance-start") summary(instance_name) {
        /// The instance.
        instance_name: String,
        /// The UUID that the instance must have.
        instance_uuid: Option<NonEmpty> = None,
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// Whether to mark the instance although its primary node is offline.
        ignore_offline_nodes: bool = false,
        /// Hypervisor parameters.
        hvparams: Dict = Default::default(),
        /// Backend parameters: minmem, maxmem, vcpus, …
        beparams: Dict = Default::default(),
        /// Whether the instance's desired state stays as it is.
        no_remember: bool = false,
        /// Whether the instance is started paused.
        startup_paused: bool = false,
        /// How long the guest may take to stop, in seconds.
        shutdown_timeout: u64 = 120,
    }
}
