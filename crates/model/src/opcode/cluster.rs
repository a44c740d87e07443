//! The opcodes on the cluster as a whole.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use crate::param::{
    Dict, DiskParams, DiskTemplate, Hypervisor, IPolicySpec, NicSpec, NonEmpty, OsListChange,
    Private, UidRange, VerifyCheck,
};

opcodes! {
    /// Writes the cluster configuration to all nodes again.
    ClusterRedistConf "OP_CLUSTER_REDIST_CONF" hooks() summary() {
    }
    /// Compares the sizes of disks with those recorded, and records what they are.
    ClusterRepairDiskSizes "OP_CLUSTER_REPAIR_DISK_SIZES" hooks() summary() {
        /// The instances; none means all.
        instances: Vec<NonEmpty> = Default::default(),
    }
    /// Changes parameters of the cluster.
    ClusterSetParams "OP_CLUSTER_SET_PARAMS" hooks("cluster-modify") summary() {
        /// Whether to go on where a check would refuse.
        force: bool = false,
        /// What is assumed about the hypervisors of nodes.
        hv_state: Option<Dict> = None,
        /// What is assumed about the storage of nodes.
        disk_state: Option<Dict> = None,
        /// The volume group.
        vg_name: Option<String> = None,
        /// The hypervisors that instances may use; the first is the default.
        enabled_hypervisors: Option<Vec<Hypervisor>> = None,
        /// Hypervisor parameters.
        hvparams: Option<BTreeMap<String, Dict>> = None,
        /// Backend parameters: minmem, maxmem, vcpus, …
        beparams: Option<Dict> = None,
        /// Hypervisor parameters by operating system.
        os_hvp: Option<BTreeMap<String, Dict>> = None,
        /// Parameters for the scripts of the operating system.
        osparams: Option<BTreeMap<String, Dict>> = None,
        /// Private parameters by operating system.
        osparams_private_cluster: Option<Private> = None,
        /// Disk parameters by disk template.
        diskparams: Option<DiskParams> = None,
        /// How many master candidates there should be.
        candidate_pool_size: Option<NonZeroU64> = None,
        /// How many jobs run at once.
        max_running_jobs: Option<NonZeroU64> = None,
        /// How many running jobs are watched for changes.
        max_tracked_jobs: Option<NonZeroU64> = None,
        /// The ranges of user ids that guests may run as.
        uid_pool: Option<Vec<UidRange>> = None,
        /// Ranges of user ids to add to the pool.
        add_uids: Option<Vec<UidRange>> = None,
        /// Ranges of user ids to take out of the pool.
        remove_uids: Option<Vec<UidRange>> = None,
        /// Whether the watcher stops what runs on nodes that are offline.
        maintain_node_health: Option<bool> = None,
        /// Whether new disks are overwritten before use.
        prealloc_wipe_disks: Option<bool> = None,
        /// The default parameters of NICs.
        nicparams: Option<NicSpec> = None,
        /// Node parameters.
        ndparams: Option<Dict> = None,
        /// The instance policy.
        ipolicy: Option<IPolicySpec> = None,
        /// The usermode helper that DRBD runs.
        drbd_helper: Option<String> = None,
        /// The instance allocator that is used where none is named.
        default_iallocator: Option<String> = None,
        /// Options for the default instance allocator.
        default_iallocator_params: Option<Dict> = None,
        /// The first three octets of the MAC addresses that are made.
        mac_prefix: Option<NonEmpty> = None,
        /// The network device of the cluster's address.
        master_netdev: Option<String> = None,
        /// The netmask of the cluster's address, as a length.
        master_netmask: Option<u64> = None,
        /// Patterns of logical volumes that are not the cluster's.
        reserved_lvs: Option<Vec<NonEmpty>> = None,
        /// Changes of the list of operating systems that are not listed.
        hidden_os: Option<Vec<OsListChange>> = None,
        /// Changes of the list of operating systems that may not be installed.
        blacklisted_os: Option<Vec<OsListChange>> = None,
        /// Whether an external script sets up the cluster's address.
        use_external_mip_script: Option<bool> = None,
        /// The disk templates that instances may use; the first is the default.
        enabled_disk_templates: Option<Vec<DiskTemplate>> = None,
        /// Whether /etc/hosts of nodes is kept.
        modify_etc_hosts: Option<bool> = None,
        /// The directory of file-based disks.
        file_storage_dir: Option<String> = None,
        /// The directory of disks in files that all nodes share.
        shared_file_storage_dir: Option<String> = None,
        /// Where gluster volumes are mounted.
        gluster_storage_dir: Option<String> = None,
        /// The image that untrusted create scripts run in.
        install_image: Option<String> = None,
        /// The network by which instances reach the metadata daemon.
        instance_communication_network: Option<String> = None,
        /// The image that fills free space with zeros.
        zeroing_image: Option<String> = None,
        /// The programs that may be asked for by `compress`.
        compression_tools: Option<Vec<NonEmpty>> = None,
        /// Whether a shutdown by the guest itself is told apart from a crash.
        enabled_user_shutdown: Option<bool> = None,
        /// Which data collectors run.
        enabled_data_collectors: Option<BTreeMap<String, bool>> = None,
        /// How often each data collector runs, in microseconds.
        data_collector_interval: Option<BTreeMap<String, i64>> = None,
    }
    /// Submits the jobs that verify the cluster: its configuration, then each node group.
    ClusterVerify "OP_CLUSTER_VERIFY" hooks() summary() {
        /// Whether every check fails, for tests of what follows.
        debug_simulate_errors: bool = false,
        /// Whether findings are told in a form for programs.
        error_codes: bool = false,
        /// Checks that are left out.
        skip_checks: Vec<VerifyCheck> = Default::default(),
        /// Codes of findings that are only warned about.
        ignore_errors: Vec<NonEmpty> = Default::default(),
        /// Whether to tell more.
        verbose: bool = false,
        /// The node group, if it is to be only one.
        group_name: Option<NonEmpty> = None,
        /// Whether what lies about without being needed is told.
        verify_clutter: bool = false,
    }
    /// Verifies the cluster's configuration.
    ClusterVerifyConfig "OP_CLUSTER_VERIFY_CONFIG" hooks() summary() {
        /// Whether every check fails, for tests of what follows.
        debug_simulate_errors: bool = false,
        /// Whether findings are told in a form for programs.
        error_codes: bool = false,
        /// Codes of findings that are only warned about.
        ignore_errors: Vec<NonEmpty> = Default::default(),
        /// Whether to tell more.
        verbose: bool = false,
    }
    /// Submits the jobs that look for disks which need activation, one for each node group.
    ClusterVerifyDisks "OP_CLUSTER_VERIFY_DISKS" hooks() summary() {
        /// The node group, if it is to be only one.
        group_name: Option<NonEmpty> = None,
        /// Whether a disk that cannot be looked at counts as one that needs activation.
        is_strict: bool = true,
    }
    /// Verifies the nodes of a group and their instances.
    ClusterVerifyGroup "OP_CLUSTER_VERIFY_GROUP" hooks("cluster-verify") summary(group_name) {
        /// The node group.
        group_name: NonEmpty,
        /// Whether every check fails, for tests of what follows.
        debug_simulate_errors: bool = false,
        /// Whether findings are told in a form for programs.
        error_codes: bool = false,
        /// Checks that are left out.
        skip_checks: Vec<VerifyCheck> = Default::default(),
        /// Codes of findings that are only warned about.
        ignore_errors: Vec<NonEmpty> = Default::default(),
        /// Whether to tell more.
        verbose: bool = false,
        /// Whether what lies about without being needed is told.
        verify_clutter: bool = false,
    }
    /// Lists the providers of external storage that the nodes have.
    ExtStorageDiagnose "OP_EXT_STORAGE_DIAGNOSE" hooks() summary() {
        /// The columns of the answer.
        output_fields: Vec<NonEmpty>,
        /// Which; none means all.
        names: Vec<NonEmpty> = Default::default(),
    }
    /// Lists the operating system definitions that the nodes have.
    OsDiagnose "OP_OS_DIAGNOSE" hooks() summary() {
        /// The columns of the answer.
        output_fields: Vec<NonEmpty>,
        /// Which; none means all.
        names: Vec<NonEmpty> = Default::default(),
    }
}
