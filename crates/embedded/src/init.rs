//! Makes a cluster: what `gnt-cluster init` and `gnt-node add` do, as one pure step to a configuration. The options are
//! called as Ganeti's.

use std::str::FromStr;
use std::sync::Arc;

use model::config::{Cluster, Config, Meta, Node, NodeGroup};
use model::name::is_name;
use model::param::{AllocPolicy, Dict, DiskTemplate, Hypervisor};
use serde_json::{Map, Value};

use crate::env::Env;
use crate::names::Names;

/// Which nodes a cluster has; chosen when it is made and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// This machine, by its name and address.
    Local { name: String, address: String },
    /// Simulated ones, by their names; the first is the master.
    Simulated(Vec<String>),
}

/// What is said about a new cluster. What is `None` has Ganeti's default. Texts of parameters are those of `gnt-cluster init`.
#[derive(Clone, Debug)]
pub struct InitOptions {
    pub name: String,
    pub nodes: NodeKind,
    /// The first is the default.
    pub enabled_hypervisors: Option<Vec<Hypervisor>>,
    /// The first is the default.
    pub enabled_disk_templates: Option<Vec<DiskTemplate>>,
    /// `mode=bridged,link=br0`
    pub nic_parameters: Option<String>,
    /// `maxmem=512,vcpus=2`
    pub backend_parameters: Option<String>,
    /// `kvm:kernel_path=,serial_console=false`, one for each hypervisor.
    pub hypervisor_parameters: Vec<String>,
    /// `drbd:metavg=xenvg`, one for each disk template.
    pub disk_parameters: Vec<String>,
    /// `spindle_count=2`
    pub node_parameters: Option<String>,
    /// `min:disk-size=0,…/max:disk-size=1048576,…`, several pairs after `//`.
    pub ipolicy_bounds_specs: Option<String>,
    /// `disk-size=1024,…`
    pub ipolicy_std_specs: Option<String>,
    pub ipolicy_disk_templates: Option<Vec<DiskTemplate>>,
    pub ipolicy_vcpu_ratio: Option<f64>,
    pub ipolicy_spindle_ratio: Option<f64>,
    pub file_storage_dir: Option<String>,
    pub shared_file_storage_dir: Option<String>,
    pub gluster_storage_dir: Option<String>,
    pub vg_name: Option<String>,
    pub drbd_usermode_helper: Option<String>,
    pub mac_prefix: Option<String>,
    pub master_netdev: Option<String>,
    pub master_netmask: Option<u64>,
    pub primary_ip_version: Option<u64>,
    pub candidate_pool_size: Option<u64>,
    pub default_iallocator: Option<String>,
    /// `option=value,…`
    pub default_iallocator_params: Option<String>,
    pub maintain_node_health: Option<bool>,
    pub prealloc_wipe_disks: Option<bool>,
    pub use_external_mip_script: Option<bool>,
    pub user_shutdown: Option<bool>,
    pub install_image: Option<String>,
    pub zeroing_image: Option<String>,
    pub compression_tools: Option<Vec<String>>,
    /// `1000-1999,5000`
    pub uid_pool: Option<String>,
    pub ssh_key_type: Option<String>,
    pub ssh_key_bits: Option<u64>,
    pub no_etc_hosts: bool,
    pub no_ssh_init: bool,
    /// A table of hosts in the format of `/etc/hosts`: the cluster and simulated nodes that it knows have its addresses.
    pub hosts: String,
    /// Where operating system definitions and allocators are looked for before Ganeti's own places.
    pub os_search_path: Vec<String>,
    pub iallocator_search_path: Vec<String>,
}

impl InitOptions {
    /// A cluster of that name with nothing else said.
    pub fn new(name: impl Into<String>, nodes: NodeKind) -> Self {
        Self {
            name: name.into(),
            nodes,
            enabled_hypervisors: None,
            enabled_disk_templates: None,
            nic_parameters: None,
            backend_parameters: None,
            hypervisor_parameters: Vec::new(),
            disk_parameters: Vec::new(),
            node_parameters: None,
            ipolicy_bounds_specs: None,
            ipolicy_std_specs: None,
            ipolicy_disk_templates: None,
            ipolicy_vcpu_ratio: None,
            ipolicy_spindle_ratio: None,
            file_storage_dir: None,
            shared_file_storage_dir: None,
            gluster_storage_dir: None,
            vg_name: None,
            drbd_usermode_helper: None,
            mac_prefix: None,
            master_netdev: None,
            master_netmask: None,
            primary_ip_version: None,
            candidate_pool_size: None,
            default_iallocator: None,
            default_iallocator_params: None,
            maintain_node_health: None,
            prealloc_wipe_disks: None,
            use_external_mip_script: None,
            user_shutdown: None,
            install_image: None,
            zeroing_image: None,
            compression_tools: None,
            uid_pool: None,
            ssh_key_type: None,
            ssh_key_bits: None,
            no_etc_hosts: false,
            no_ssh_init: false,
            hosts: String::new(),
            os_search_path: Vec::new(),
            iallocator_search_path: Vec::new(),
        }
    }
}

/// Why a cluster cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    #[error("'{0}' is not a name: letters, digits, '-', '_' and '.' only")]
    Name(String),
    #[error("a cluster needs at least one node")]
    NoNodes,
    #[error("two nodes are called {0}")]
    SameName(String),
    #[error("--{option}: {text}")]
    Option { option: &'static str, text: String },
}

fn wrong(option: &'static str, text: impl std::fmt::Display) -> InitError {
    InitError::Option { option, text: text.to_string() }
}

/// Makes the configuration of a new cluster.
pub fn new_cluster(options: &InitOptions, env: &Env) -> Result<Config, InitError> {
    let nodes = node_list(options)?;
    if !is_name(&options.name) {
        return Err(InitError::Name(options.name.clone()));
    }
    let now = env.now_seconds();
    // Ganeti: this group has no time of making (3.0.2, seen in a new cluster).
    let group = new_group(Meta { ctime: 0.0, ..Meta::new(env.uuid(), now) });
    let group_uuid = group.meta.uuid.clone();
    let pool = options.candidate_pool_size.unwrap_or(10);
    let made: Vec<Node> = nodes
        .into_iter()
        .zip(0_u64..)
        .map(|((name, address), at)| {
            let meta = Meta::new(env.uuid(), now);
            new_node(meta, name, address, group_uuid.clone(), at < pool)
        })
        .collect();
    let master = made.first().ok_or(InitError::NoNodes)?;
    let cluster = cluster_settings(options, Meta::new(env.uuid(), now), master)?;
    let mut config = Config::new(cluster);
    config.put_group(Arc::new(group));
    made.into_iter().for_each(|node| config.put_node(Arc::new(node)));
    Ok(config)
}

/// Names and addresses, the master first.
fn node_list(options: &InitOptions) -> Result<Vec<(String, String)>, InitError> {
    let hosts = Names::with_table(&options.hosts, true);
    let nodes = match &options.nodes {
        NodeKind::Local { name, address } => vec![(name.to_lowercase(), address.clone())],
        NodeKind::Simulated(names) => names
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let name = name.to_lowercase();
                let address = hosts.address(&name).unwrap_or_else(|| simulated_address(at));
                (name, address)
            })
            .collect(),
    };
    let mut seen = std::collections::BTreeSet::new();
    for (name, _) in &nodes {
        if !is_name(name) {
            return Err(InitError::Name(name.clone()));
        }
        if !seen.insert(name) {
            return Err(InitError::SameName(name.clone()));
        }
    }
    Ok(nodes)
}

/// Addresses of simulated nodes come from a range that is nobody's (RFC 5737, and RFC 2544 for large clusters).
fn simulated_address(at: usize) -> String {
    match at + 11 {
        last @ 0..=254 => format!("192.0.2.{last}"),
        more => format!("198.18.{}.{}", more / 256, more % 256),
    }
}

fn new_group(meta: Meta) -> NodeGroup {
    NodeGroup {
        meta,
        tags: Default::default(),
        name: "default".to_owned(),
        alloc_policy: AllocPolicy::Preferred,
        ndparams: Dict::new(),
        ipolicy: Dict::new(),
        diskparams: Dict::new(),
        hv_state_static: Dict::new(),
        disk_state_static: Dict::new(),
        networks: Default::default(),
    }
}

fn new_node(
    meta: Meta,
    name: String,
    address: String,
    group: model::name::Uuid,
    master_candidate: bool,
) -> Node {
    Node {
        meta,
        tags: Default::default(),
        name,
        primary_ip: address.clone(),
        secondary_ip: address,
        master_candidate,
        offline: false,
        drained: false,
        master_capable: true,
        vm_capable: true,
        group,
        ndparams: Dict::new(),
        powered: true,
        hv_state_static: Dict::new(),
        disk_state_static: Dict::new(),
    }
}

fn cluster_settings(
    options: &InitOptions,
    meta: Meta,
    master: &Node,
) -> Result<Cluster, InitError> {
    let simulated = matches!(options.nodes, NodeKind::Simulated(_));
    let hypervisors = options.enabled_hypervisors.clone().unwrap_or_else(|| vec![Hypervisor::Fake]);
    let templates = options.enabled_disk_templates.clone().unwrap_or_else(|| {
        if simulated {
            vec![DiskTemplate::Drbd, DiskTemplate::Plain]
        } else {
            vec![DiskTemplate::File, DiskTemplate::Diskless]
        }
    });
    if hypervisors.is_empty() {
        return Err(wrong("enabled-hypervisors", "at least one is needed"));
    }
    if templates.is_empty() {
        return Err(wrong("enabled-disk-templates", "at least one is needed"));
    }
    let uuid = master.meta.uuid.clone();
    let hosts = Names::with_table(&options.hosts, simulated);
    let master_ip = match hosts.address(&options.name.to_lowercase()) {
        Some(address) => address,
        None if simulated => "192.0.2.1".to_owned(),
        None => master.primary_ip.clone(),
    };
    let mut cluster =
        Cluster::new(meta, options.name.to_lowercase(), uuid, master_ip, hypervisors, templates);
    cluster.simulated = simulated;
    plain_settings(options, &mut cluster);
    parameters(options, &mut cluster)?;
    policy(options, &mut cluster)?;
    Ok(cluster)
}

/// The settings that are taken as they are.
fn plain_settings(options: &InitOptions, cluster: &mut Cluster) {
    fn set<T: Clone>(place: &mut T, value: &Option<T>) {
        if let Some(value) = value {
            *place = value.clone();
        }
    }
    set(&mut cluster.file_storage_dir, &options.file_storage_dir);
    set(&mut cluster.shared_file_storage_dir, &options.shared_file_storage_dir);
    set(&mut cluster.gluster_storage_dir, &options.gluster_storage_dir);
    set(&mut cluster.mac_prefix, &options.mac_prefix);
    set(&mut cluster.master_netdev, &options.master_netdev);
    set(&mut cluster.master_netmask, &options.master_netmask);
    set(&mut cluster.primary_ip_version, &options.primary_ip_version);
    set(&mut cluster.candidate_pool_size, &options.candidate_pool_size);
    set(&mut cluster.default_iallocator, &options.default_iallocator);
    set(&mut cluster.maintain_node_health, &options.maintain_node_health);
    set(&mut cluster.prealloc_wipe_disks, &options.prealloc_wipe_disks);
    set(&mut cluster.use_external_mip_script, &options.use_external_mip_script);
    set(&mut cluster.enabled_user_shutdown, &options.user_shutdown);
    set(&mut cluster.install_image, &options.install_image);
    set(&mut cluster.zeroing_image, &options.zeroing_image);
    set(&mut cluster.compression_tools, &options.compression_tools);
    set(&mut cluster.ssh_key_type, &options.ssh_key_type);
    set(&mut cluster.ssh_key_bits, &options.ssh_key_bits);
    if options.vg_name.is_some() {
        cluster.volume_group_name = options.vg_name.clone();
    }
    if options.drbd_usermode_helper.is_some() {
        cluster.drbd_usermode_helper = options.drbd_usermode_helper.clone();
    }
    cluster.modify_etc_hosts = !options.no_etc_hosts;
    cluster.modify_ssh_setup = !options.no_ssh_init;
    cluster.os_search_path.splice(0..0, options.os_search_path.iter().cloned());
    cluster.iallocator_search_path.splice(0..0, options.iallocator_search_path.iter().cloned());
}

/// The parameters of NICs, backends, hypervisors, disks, nodes and the allocator.
fn parameters(options: &InitOptions, cluster: &mut Cluster) -> Result<(), InitError> {
    use model::params::{be, disk, hv, nd, nic};
    let compat = model::compat::Compat::V31;
    if let Some(text) = &options.nic_parameters {
        let mut given = key_values(text);
        nic::force(&mut given, true).map_err(|error| wrong("nic-parameters", error))?;
        merge_default(&mut cluster.nicparams, given);
        let filled = cluster.nicparams.get("default").and_then(Value::as_object);
        nic::check_syntax(filled.unwrap_or(&Map::new()))
            .map_err(|error| wrong("nic-parameters", error))?;
    }
    if let Some(text) = &options.backend_parameters {
        let mut given = key_values(text);
        be::upgrade(&mut given);
        be::force(&mut given, true).map_err(|error| wrong("backend-parameters", error))?;
        merge_default(&mut cluster.beparams, given);
    }
    for text in &options.hypervisor_parameters {
        let (name, mut given) = ident_key_values(text);
        let hypervisor = Hypervisor::parse(&name).ok_or_else(|| {
            wrong("hypervisor-parameters", format!("unknown hypervisor '{name}'"))
        })?;
        hv::force(&mut given, compat, true)
            .map_err(|error| wrong("hypervisor-parameters", error))?;
        merge_named(&mut cluster.hvparams, &name, given);
        let filled = hv::fill_cluster(cluster, hypervisor, compat);
        hv::check_syntax(hypervisor, &filled, compat)
            .map_err(|error| wrong("hypervisor-parameters", error))?;
    }
    for text in &options.disk_parameters {
        let (name, mut given) = ident_key_values(text);
        disk::force(&mut given, true).map_err(|error| wrong("disk-parameters", error))?;
        merge_named(&mut cluster.diskparams, &name, given);
    }
    if let Some(text) = &options.node_parameters {
        let mut given = key_values(text);
        nd::force(&mut given, true).map_err(|error| wrong("node-parameters", error))?;
        cluster.ndparams = model::params::fill(&cluster.ndparams, &given);
    }
    if let Some(text) = &options.default_iallocator_params {
        cluster.default_iallocator_params = key_values(text);
    }
    if let Some(text) = &options.uid_pool {
        cluster.uid_pool = uid_pool(text)?;
    }
    Ok(())
}

/// The instance policy.
fn policy(options: &InitOptions, cluster: &mut Cluster) -> Result<(), InitError> {
    let policy = &mut cluster.ipolicy;
    if let Some(text) = &options.ipolicy_bounds_specs {
        let pairs = text.split("//").map(bounds).collect::<Result<Vec<_>, _>>()?;
        policy.insert("minmax".to_owned(), Value::Array(pairs));
        // Ganeti: the standard values follow the first pair's lower bounds unless they are given.
        if options.ipolicy_std_specs.is_none()
            && let Some(least) = policy["minmax"].get(0).and_then(|pair| pair.get("min")).cloned()
            && std_is_outside(policy)
        {
            policy.insert("std".to_owned(), least);
        }
    }
    if let Some(text) = &options.ipolicy_std_specs {
        policy.insert("std".to_owned(), Value::Object(specs("ipolicy-std-specs", text)?));
    }
    if let Some(templates) = &options.ipolicy_disk_templates {
        let names = templates.iter().map(|template| Value::from(template.as_str())).collect();
        policy.insert("disk-templates".to_owned(), names);
    }
    for (name, ratio) in [
        ("vcpu-ratio", options.ipolicy_vcpu_ratio),
        ("spindle-ratio", options.ipolicy_spindle_ratio),
    ] {
        if let Some(ratio) = ratio {
            policy.insert(name.to_owned(), model::units::number(ratio));
        }
    }
    Ok(())
}

/// Whether the standard values fit no pair of bounds.
fn std_is_outside(policy: &Dict) -> bool {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
    let Some(standard) = policy.get("std").and_then(Value::as_object) else { return true };
    let pairs = policy.get("minmax").and_then(Value::as_array).into_iter().flatten();
    let mut pairs = pairs;
    !pairs.any(|pair| {
        standard.iter().all(|(name, value)| {
            let value = number(Some(value));
            let bound = |side: &str| number(pair.get(side).and_then(|specs| specs.get(name)));
            bound("min") <= value && value <= bound("max")
        })
    })
}

/// `min:…/max:…`
fn bounds(text: &str) -> Result<Value, InitError> {
    let option = "ipolicy-bounds-specs";
    let mut pair = Map::new();
    for side in text.split('/') {
        let (name, values) = side
            .split_once(':')
            .filter(|(name, _)| ["min", "max"].contains(name))
            .ok_or_else(|| wrong(option, format!("'{side}' is neither min:… nor max:…")))?;
        pair.insert(name.to_owned(), Value::Object(specs(option, values)?));
    }
    if pair.len() == 2 {
        Ok(Value::Object(pair))
    } else {
        Err(wrong(option, "both min and max are needed"))
    }
}

/// `disk-size=0,cpu-count=1,…`, all six.
fn specs(option: &'static str, text: &str) -> Result<Dict, InitError> {
    const NAMES: [&str; 6] =
        ["memory-size", "cpu-count", "disk-count", "disk-size", "nic-count", "spindle-use"];
    let given = key_values(text);
    if let Some(name) = given.keys().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(wrong(option, format!("unknown value '{name}'")));
    }
    let read = |name: &str| -> Result<(String, Value), InitError> {
        let text = given.get(name).and_then(Value::as_str);
        let text = text.ok_or_else(|| wrong(option, format!("'{name}' is missing")))?;
        // Sizes are rounded up as Ganeti rounds them.
        let number = if name.ends_with("-size") {
            model::units::parse_unit(text).map_err(|error| wrong(option, error))?
        } else {
            u64::from_str(text).map_err(|error| wrong(option, error))?
        };
        Ok((name.to_owned(), Value::from(number)))
    };
    NAMES.into_iter().map(read).collect()
}

/// `a=b,c=d`; `no_a` is false, a name alone is true, `-a` is the default. A comma after a backslash is part of the value.
fn key_values(text: &str) -> Dict {
    let mut parts: Vec<String> = Vec::new();
    let mut escaped = false;
    let mut current = String::new();
    for c in text.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            ',' if !escaped => parts.push(std::mem::take(&mut current)),
            c => {
                if escaped && c != ',' && c != '\\' {
                    current.push('\\');
                }
                current.push(c);
                escaped = false;
            }
        }
    }
    parts.push(current);
    let mut dict = Dict::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((name, value)) => dict.insert(name.to_owned(), Value::from(value)),
            None => match (part.strip_prefix("no_"), part.strip_prefix('-')) {
                (Some(name), _) => dict.insert(name.to_owned(), Value::from(false)),
                (None, Some(name)) => dict.insert(name.to_owned(), Value::from("default")),
                (None, None) => dict.insert(part.clone(), Value::from(true)),
            },
        };
    }
    dict
}

/// `name:a=b,…`
fn ident_key_values(text: &str) -> (String, Dict) {
    match text.split_once(':') {
        Some((name, values)) => (name.to_owned(), key_values(values)),
        None => (text.to_owned(), Dict::new()),
    }
}

fn merge_default(dict: &mut Dict, given: Dict) {
    merge_named(dict, "default", given);
}

fn merge_named(dict: &mut Dict, name: &str, mut given: Dict) {
    given.retain(|_, value| value.as_str() != Some("default"));
    let base = dict.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    dict.insert(name.to_owned(), Value::Object(model::params::fill(&base, &given)));
}

/// `1000-1999,5000`
fn uid_pool(text: &str) -> Result<Vec<(i64, i64)>, InitError> {
    let number = |text: &str| i64::from_str(text).map_err(|error| wrong("uid-pool", error));
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(part).map(|uid| (uid, uid)),
    };
    text.split(',').filter(|part| !part.is_empty()).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_hosts_table() {
        let names = ["node1.gnt.example", "node2.gnt.example"].map(str::to_owned).to_vec();
        let mut options = InitOptions::new("cluster.gnt.example", NodeKind::Simulated(names));
        options.hosts = "10.77.0.1 cluster.gnt.example\n10.77.0.11 node1.gnt.example\n".to_owned();
        let config = new_cluster(&options, &Env::seeded(1, 1_700_000_000)).unwrap();
        let address = |name| config.node_by_name(name).unwrap().primary_ip.as_str();
        assert_eq!(config.cluster.master_ip, "10.77.0.1");
        assert_eq!(address("node1.gnt.example"), "10.77.0.11");
        assert_eq!(address("node2.gnt.example"), "192.0.2.12");
    }

    #[test]
    fn sizes_of_a_policy_are_rounded_up() {
        let text = "memory-size=1,cpu-count=1,disk-count=0,disk-size=1g,nic-count=0,spindle-use=0";
        let read = specs("ipolicy-std-specs", text).unwrap();
        assert_eq!(
            (&read["memory-size"], &read["disk-size"]),
            (&Value::from(4), &Value::from(1024))
        );
        assert_eq!(read["cpu-count"], 1);
    }
}
