//! What is asked of the cluster itself: its information, single values, tags.

use model::compat::Compat;
use model::config::Config;
use model::error::Result;
use model::param::{Dict, TagKind};
use model::params::{be, disk, hv, ipolicy, nd, nic};
use model::units::number;
use serde_json::{Value, json};

use super::lookup::{Noun, find};

/// Ganeti's `constants.OS_API_V20` and `EXPORT_VERSION`.
const OS_API_VERSION: u64 = 20;
const EXPORT_VERSION: u64 = 0;

/// The object behind `/2/info`, without the door's aliases.
pub(crate) fn cluster_info(config: &Config, compat: Compat) -> Value {
    let cluster = &*config.cluster;
    let collector = |key: &str| -> Dict {
        let each = |(name, of): (&String, &Value)| {
            (name.clone(), of.get(key).cloned().unwrap_or_default())
        };
        cluster.data_collectors.iter().map(each).collect()
    };
    let grouped = |values: Dict| json!({"default": values});
    let none = Dict::new();
    let mut info = Dict::new();
    let mut put = |name: &str, value: Value| {
        info.insert(name.to_owned(), value);
    };
    put("software_version", json!(compat.software_version()));
    put("protocol_version", json!(compat.protocol_version()));
    put("config_version", json!(compat.protocol_version()));
    put("os_api_version", json!(OS_API_VERSION));
    put("export_version", json!(EXPORT_VERSION));
    put("vcs_version", json!(concat!("(rapid) version ", env!("CARGO_PKG_VERSION"))));
    put("architecture", json!([format!("{}bits", usize::BITS), std::env::consts::ARCH]));
    put("name", json!(cluster.cluster_name));
    put("master", json!(config.node_name(&cluster.master_node)));
    put("default_hypervisor", json!(cluster.enabled_hypervisors.first()));
    put("enabled_hypervisors", json!(cluster.enabled_hypervisors));
    put("hvparams", json!(hv::fill_all(cluster, compat)));
    put("os_hvp", json!(cluster.os_hvp));
    put("beparams", grouped(be::fill(cluster, &none)));
    put("osparams", json!(cluster.osparams));
    put("ipolicy", json!(ipolicy::fill_cluster(cluster)));
    put("nicparams", grouped(nic::fill(cluster, &none)));
    put("ndparams", json!(nd::fill_cluster(cluster)));
    put("diskparams", json!(disk::fill(cluster, None)));
    put("candidate_pool_size", json!(cluster.candidate_pool_size));
    put("max_running_jobs", json!(cluster.max_running_jobs));
    put("max_tracked_jobs", json!(cluster.max_tracked_jobs));
    put("mac_prefix", json!(cluster.mac_prefix));
    put("master_netdev", json!(cluster.master_netdev));
    put("master_netmask", json!(cluster.master_netmask));
    put("use_external_mip_script", json!(cluster.use_external_mip_script));
    put("volume_group_name", json!(cluster.volume_group_name));
    put("drbd_usermode_helper", json!(cluster.drbd_usermode_helper));
    put("file_storage_dir", json!(cluster.file_storage_dir));
    put("shared_file_storage_dir", json!(cluster.shared_file_storage_dir));
    put("gluster_storage_dir", json!(cluster.gluster_storage_dir));
    put("maintain_node_health", json!(cluster.maintain_node_health));
    put("ctime", number(cluster.meta.ctime));
    put("mtime", number(cluster.meta.mtime));
    put("uuid", Value::from(&cluster.meta.uuid));
    put("tags", cluster.tags.iter().map(String::as_str).collect());
    put("uid_pool", json!(cluster.uid_pool));
    put("default_iallocator", json!(cluster.default_iallocator));
    put("default_iallocator_params", json!(cluster.default_iallocator_params));
    put("reserved_lvs", json!(cluster.reserved_lvs));
    put("primary_ip_version", json!(cluster.primary_ip_version));
    put("prealloc_wipe_disks", json!(cluster.prealloc_wipe_disks));
    put("hidden_os", json!(cluster.hidden_os));
    put("blacklisted_os", json!(cluster.blacklisted_os));
    put("enabled_disk_templates", json!(cluster.enabled_disk_templates));
    put("install_image", json!(cluster.install_image));
    put("instance_communication_network", json!(cluster.instance_communication_network));
    put("zeroing_image", json!(cluster.zeroing_image));
    put("compression_tools", json!(cluster.compression_tools));
    put("enabled_user_shutdown", json!(cluster.enabled_user_shutdown));
    put("enabled_data_collectors", json!(collector("active")));
    put("data_collector_interval", json!(collector("interval")));
    put("modify_ssh_setup", json!(cluster.modify_ssh_setup));
    put("ssh_key_type", json!(cluster.ssh_key_type));
    put("ssh_key_bits", json!(cluster.ssh_key_bits));
    Value::Object(info)
}

/// One configuration value by name (LUXI's `QueryConfigValues`), as far as it is configuration; null for any other name. The
/// drain flag and the watcher's pause are the engine's to add.
pub(crate) fn config_value(config: &Config, name: &str) -> Value {
    let cluster = &*config.cluster;
    match name {
        "cluster_name" => json!(cluster.cluster_name),
        "master_node" => json!(config.node_name(&cluster.master_node)),
        "modify_ssh_setup" => json!(cluster.modify_ssh_setup),
        "ssh_key_type" => json!(cluster.ssh_key_type),
        "ssh_key_bits" => json!(cluster.ssh_key_bits),
        _ => Value::Null,
    }
}

/// The tags of an object, sorted; the name does not matter for the cluster.
pub(crate) fn tags(config: &Config, kind: TagKind, name: &str) -> Result<Vec<String>> {
    let found = |noun| find(config, noun, name);
    let tags = match kind {
        TagKind::Cluster => Some(&config.cluster.tags),
        TagKind::Instance => {
            config.instances.get(&found(Noun::Instance)?).map(|object| &object.tags)
        }
        TagKind::Node => config.nodes.get(&found(Noun::Node)?).map(|object| &object.tags),
        TagKind::Nodegroup => config.groups.get(&found(Noun::Group)?).map(|object| &object.tags),
        TagKind::Network => config.networks.get(&found(Noun::Network)?).map(|object| &object.tags),
    };
    Ok(tags.into_iter().flatten().cloned().collect())
}
