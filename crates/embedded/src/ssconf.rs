//! What every node of a Ganeti cluster knows without asking anybody: small files, one value or one line per object each,
//! which Ganeti's tools read. A pure function of the configuration. Ganeti: `ssconf_*` (3.0.2, `config/__init__.py`,
//! `_UnlockedGetSsconfValues`).

use model::compat::Compat;
use model::config::{Config, Node};
use model::param::Hypervisor;
use model::params::{hv, nd};
use model::python;
use model::units::natural_cmp;

/// What the files' names begin with.
pub const PREFIX: &str = "ssconf_";

/// Where nodes are reached by SSH; only a node without parameters does not say so itself.
const SSH_PORT: u64 = 22;

/// The files by name, without the prefix, with their contents.
pub fn files(config: &Config, compat: Compat) -> Vec<(String, String)> {
    let cluster = &*config.cluster;
    let mut nodes: Vec<&Node> = config.nodes.values().map(|node| &**node).collect();
    nodes.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    let named = |wanted: fn(&Node) -> bool| {
        lines(nodes.iter().filter(|node| wanted(node)).map(|node| node.name.clone()))
    };
    let of_each = |line: &dyn Fn(&Node) -> String| lines(nodes.iter().map(|node| line(node)));
    let candidates = nodes.iter().filter(|node| node.master_candidate);
    let names = |all: Vec<String>| {
        let mut all = all;
        all.sort_by(|a, b| natural_cmp(a, b));
        lines(all)
    };
    let truth = |flag: bool| python::str(&flag.into());
    let family = if cluster.primary_ip_version == 6 { 10 } else { 2 };
    let files: Vec<(&str, String)> = vec![
        ("cluster_name", lines([cluster.cluster_name.clone()])),
        ("cluster_tags", lines(cluster.tags.iter().cloned())),
        ("enabled_user_shutdown", lines([truth(cluster.enabled_user_shutdown)])),
        ("file_storage_dir", lines([cluster.file_storage_dir.clone()])),
        ("gluster_storage_dir", lines([cluster.gluster_storage_dir.clone()])),
        ("hypervisor_list", lines(cluster.enabled_hypervisors.iter().map(ToString::to_string))),
        ("instance_list", names(config.index.instance_by_name.keys().cloned().collect())),
        ("maintain_node_health", lines([truth(cluster.maintain_node_health)])),
        ("master_candidates", named(|node| node.master_candidate)),
        // Nodes here do not speak to each other with certificates of their own.
        ("master_candidates_certs", String::new()),
        ("master_candidates_ips", lines(candidates.map(|node| node.primary_ip.clone()))),
        ("master_ip", lines([cluster.master_ip.clone()])),
        ("master_netdev", lines([cluster.master_netdev.clone()])),
        ("master_netmask", lines([cluster.master_netmask.to_string()])),
        ("master_node", lines([config.node_name(&cluster.master_node).to_owned()])),
        ("networks", {
            let network = |(name, uuid)| format!("{uuid} {name}");
            lines(config.index.network_by_name.iter().map(network))
        }),
        ("node_list", named(|_| true)),
        ("node_primary_ips", of_each(&|node| format!("{} {}", node.name, node.primary_ip))),
        ("node_secondary_ips", of_each(&|node| format!("{} {}", node.name, node.secondary_ip))),
        ("node_vm_capable", of_each(&|node| format!("{}={}", node.name, truth(node.vm_capable)))),
        ("nodegroups", {
            let group = |(name, uuid)| format!("{uuid} {name}");
            lines(config.index.group_by_name.iter().map(group))
        }),
        ("offline_nodes", named(|node| node.offline)),
        ("online_nodes", named(|node| !node.offline)),
        ("primary_ip_family", lines([family.to_string()])),
        ("release_version", lines([compat.software_version().to_owned()])),
        ("shared_file_storage_dir", lines([cluster.shared_file_storage_dir.clone()])),
        ("ssh_ports", of_each(&|node| format!("{}={}", node.name, ssh_port(config, node)))),
        ("uid_pool", lines(cluster.uid_pool.iter().map(range))),
    ];
    let mut files: Vec<(String, String)> =
        files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    files.extend(Hypervisor::ALL.iter().map(|hypervisor| {
        let filled = hv::fill_cluster(cluster, *hypervisor, compat);
        let line =
            |(name, value): (&String, &serde_json::Value)| format!("{name}={}", python::str(value));
        (format!("hvparams_{hypervisor}"), lines(filled.iter().map(line)))
    }));
    files
}

fn lines(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().filter(|item| !item.is_empty()).map(|item| item + "\n").collect()
}

fn ssh_port(config: &Config, node: &Node) -> u64 {
    let group = config.groups.get(&node.group).map(|group| &**group);
    let filled = nd::fill(&config.cluster, group, node);
    filled.get("ssh_port").and_then(serde_json::Value::as_u64).unwrap_or(SSH_PORT)
}

fn range((low, high): &(i64, i64)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}
