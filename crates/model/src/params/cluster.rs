//! A new cluster, with Ganeti's defaults (`gnt-cluster init`).

use serde_json::{Value, json};

use super::{be, disk, ipolicy, nd, nic};
use crate::config::{Cluster, Meta};
use crate::name::Uuid;
use crate::param::{Dict, DiskTemplate, Hypervisor};

/// The first port that is handed out for drbd and consoles (Ganeti 3.0, `constants.FIRST_DRBD_PORT`).
pub const FIRST_PORT: u16 = 11000;
/// What the collectors of a cluster are called.
const COLLECTORS: &[&str] =
    &["cpu-avg-load", "diskstats", "drbd", "inst-status-xen", "lv", "xen-cpu-avg-load"];

/// A dictionary with the one entry `default`.
pub fn grouped(values: Dict) -> Dict {
    Dict::from_iter([(super::VALUE_DEFAULT.to_owned(), Value::Object(values))])
}

/// Takes the disk templates out of a policy that the cluster has not enabled; those left keep their order.
pub fn restrict_templates(policy: &mut Dict, enabled: &[DiskTemplate]) {
    if let Some(Value::Array(templates)) = policy.get_mut("disk-templates") {
        templates.retain(|name| enabled.iter().any(|template| name == template.as_str()));
    }
}

impl Cluster {
    /// A cluster as Ganeti makes one when nothing else is said; every field can be set before it is used.
    pub fn new(
        meta: Meta,
        name: impl Into<String>,
        master_node: Uuid,
        master_ip: impl Into<String>,
        enabled_hypervisors: Vec<Hypervisor>,
        enabled_disk_templates: Vec<DiskTemplate>,
    ) -> Self {
        let lvm = [DiskTemplate::Plain, DiskTemplate::Drbd];
        let uses_lvm = enabled_disk_templates.iter().any(|template| lvm.contains(template));
        let uses_drbd = enabled_disk_templates.contains(&DiskTemplate::Drbd);
        let mut policy = ipolicy::defaults();
        restrict_templates(&mut policy, &enabled_disk_templates);
        let collector = json!({"active": true, "interval": 5_000_000});
        Self {
            meta,
            tags: Default::default(),
            cluster_name: name.into(),
            master_node,
            master_ip: master_ip.into(),
            master_netdev: "lo".to_owned(),
            master_netmask: 32,
            primary_ip_version: 4,
            use_external_mip_script: false,
            mac_prefix: "aa:00:00".to_owned(),
            volume_group_name: uses_lvm.then(|| "xenvg".to_owned()),
            reserved_lvs: Vec::new(),
            drbd_usermode_helper: uses_drbd.then(|| "/bin/true".to_owned()),
            enabled_hypervisors,
            enabled_disk_templates,
            hvparams: Dict::new(),
            os_hvp: Dict::new(),
            beparams: grouped(be::defaults()),
            nicparams: grouped(nic::defaults()),
            ndparams: nd::defaults(),
            diskparams: disk::defaults(),
            ipolicy: policy,
            osparams: Dict::new(),
            osparams_private_cluster: Dict::new(),
            hv_state_static: Dict::new(),
            disk_state_static: Dict::new(),
            candidate_pool_size: 10,
            modify_etc_hosts: true,
            modify_ssh_setup: true,
            ssh_key_type: "rsa".to_owned(),
            ssh_key_bits: 2048,
            maintain_node_health: false,
            uid_pool: Vec::new(),
            default_iallocator: "hail".to_owned(),
            default_iallocator_params: Dict::new(),
            hidden_os: Vec::new(),
            blacklisted_os: Vec::new(),
            prealloc_wipe_disks: false,
            file_storage_dir: "/srv/ganeti/file-storage".to_owned(),
            shared_file_storage_dir: "/srv/ganeti/shared-file-storage".to_owned(),
            gluster_storage_dir: "/var/run/ganeti/gluster".to_owned(),
            max_running_jobs: 20,
            max_tracked_jobs: 25,
            install_image: String::new(),
            zeroing_image: String::new(),
            instance_communication_network: String::new(),
            compression_tools: ["gzip", "gzip-fast", "gzip-slow"].map(str::to_owned).to_vec(),
            enabled_user_shutdown: false,
            data_collectors: COLLECTORS
                .iter()
                .map(|name| ((*name).to_owned(), collector.clone()))
                .collect(),
            tcpudp_port_pool: Default::default(),
            highest_used_port: FIRST_PORT - 1,
            simulated: false,
            os_search_path: [
                "/srv/ganeti/os",
                "/usr/local/lib/ganeti/os",
                "/usr/lib/ganeti/os",
                "/usr/share/ganeti/os",
            ]
            .map(str::to_owned)
            .to_vec(),
            iallocator_search_path: [
                "/usr/local/lib/ganeti/iallocators",
                "/usr/lib/ganeti/iallocators",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}
