//! Whether a configuration is whole: references lead somewhere, names and addresses are unique, disks have owners, pools and
//! indexes agree with the objects. Pure; the empty list means that all is well.

use std::collections::{BTreeMap, BTreeSet};

use model::config::{Config, Disk};
use model::param::DiskTemplate;

/// Everything that is wrong with a configuration, one sentence each.
pub fn verify(config: &Config) -> Vec<String> {
    let mut report = Report::default();
    uuids(config, &mut report);
    cluster(config, &mut report);
    names(config, &mut report);
    nodes(config, &mut report);
    groups(config, &mut report);
    instances(config, &mut report);
    disks(config, &mut report);
    networks(config, &mut report);
    index(config, &mut report);
    report.0
}

#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn say(&mut self, text: String) {
        self.0.push(text);
    }

    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(text());
        }
    }
}

fn uuids(config: &Config, report: &mut Report) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut note = |kind: &'static str, key: &str, uuid: &'_ str| {
        if key != uuid {
            report.say(format!("{kind} {uuid} is kept under the UUID {key}"));
        }
    };
    for (key, object) in &config.nodes {
        note("node", key.as_str(), object.meta.uuid.as_str());
    }
    for (key, object) in &config.groups {
        note("node group", key.as_str(), object.meta.uuid.as_str());
    }
    for (key, object) in &config.instances {
        note("instance", key.as_str(), object.meta.uuid.as_str());
    }
    for (key, object) in &config.disks {
        note("disk", key.as_str(), object.meta.uuid.as_str());
    }
    for (key, object) in &config.networks {
        note("network", key.as_str(), object.meta.uuid.as_str());
    }
    let nics = config.instances.values().flat_map(|instance| &instance.nics);
    let all = std::iter::once(("cluster", config.cluster.meta.uuid.as_str()))
        .chain(config.nodes.keys().map(|uuid| ("node", uuid.as_str())))
        .chain(config.groups.keys().map(|uuid| ("node group", uuid.as_str())))
        .chain(config.instances.keys().map(|uuid| ("instance", uuid.as_str())))
        .chain(config.disks.keys().map(|uuid| ("disk", uuid.as_str())))
        .chain(config.networks.keys().map(|uuid| ("network", uuid.as_str())))
        .chain(nics.map(|nic| ("NIC", nic.uuid.as_str())));
    for (kind, uuid) in all {
        if let Some(other) = seen.insert(uuid, kind) {
            report.say(format!("UUID {uuid} is used by a {other} and a {kind}"));
        }
    }
}

fn cluster(config: &Config, report: &mut Report) {
    let cluster = &config.cluster;
    report.unless(config.nodes.contains_key(&cluster.master_node), || {
        format!("the master node {} does not exist", cluster.master_node)
    });
    report.unless(!cluster.enabled_hypervisors.is_empty(), || "no hypervisor is enabled".into());
    report.unless(!cluster.enabled_disk_templates.is_empty(), || {
        "no disk template is enabled".into()
    });
    for port in &cluster.tcpudp_port_pool {
        report.unless(*port <= cluster.highest_used_port, || {
            format!("port {port} was given back, but never handed out")
        });
    }
}

fn names(config: &Config, report: &mut Report) {
    fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a str>, report: &mut Report) {
        let mut seen = BTreeSet::new();
        for name in names {
            report.unless(seen.insert(name), || format!("two {kind} are called {name}"));
        }
    }
    unique("nodes", config.nodes.values().map(|node| node.name.as_str()), report);
    unique("node groups", config.groups.values().map(|group| group.name.as_str()), report);
    let instances = config.instances.values().map(|instance| instance.name.as_str());
    unique("instances", instances, report);
    unique("networks", config.networks.values().map(|network| network.name.as_str()), report);
}

fn nodes(config: &Config, report: &mut Report) {
    for node in config.nodes.values() {
        let name = &node.name;
        report.unless(config.groups.contains_key(&node.group), || {
            format!("node {name} is in the group {}, which does not exist", node.group)
        });
        let roles = [node.master_candidate, node.drained, node.offline];
        report.unless(roles.iter().filter(|role| **role).count() <= 1, || {
            format!("node {name} has several roles at once")
        });
    }
}

fn groups(config: &Config, report: &mut Report) {
    for group in config.groups.values() {
        for network in group.networks.keys() {
            report.unless(config.networks.contains_key(network), || {
                format!("node group {} has the network {network}, which does not exist", group.name)
            });
        }
    }
}

fn instances(config: &Config, report: &mut Report) {
    let mut macs = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for instance in config.instances.values() {
        let name = &instance.name;
        report.unless(config.nodes.contains_key(&instance.primary_node), || {
            format!(
                "instance {name} is on the node {}, which does not exist",
                instance.primary_node
            )
        });
        for disk in &instance.disks {
            report.unless(config.disks.contains_key(disk), || {
                format!("instance {name} has the disk {disk}, which does not exist")
            });
        }
        if let Some(port) = instance.network_port {
            report.unless(ports.insert(port), || format!("port {port} is used twice"));
            report.unless(!config.cluster.tcpudp_port_pool.contains(&port), || {
                format!("port {port} of instance {name} counts as given back")
            });
        }
        for nic in &instance.nics {
            report
                .unless(macs.insert(&nic.mac), || format!("MAC address {} is used twice", nic.mac));
            let Some(network) = &nic.network else { continue };
            let Some(network) = config.networks.get(network) else {
                report.say(format!(
                    "instance {name} is on the network {network}, which does not exist"
                ));
                continue;
            };
            if let Some(ip) = &nic.ip {
                report.unless(addresses.insert((&network.meta.uuid, ip)), || {
                    format!("address {ip} of network {} is used twice", network.name)
                });
            }
        }
    }
}

fn disks(config: &Config, report: &mut Report) {
    let mut owners: BTreeMap<&str, u32> = BTreeMap::new();
    for disk in config.instances.values().flat_map(|instance| &instance.disks) {
        *owners.entry(disk.as_str()).or_default() += 1;
    }
    let mut minors = BTreeSet::new();
    for disk in config.disks.values() {
        let uuid = &disk.meta.uuid;
        match owners.get(uuid.as_str()) {
            None => report.say(format!("disk {uuid} belongs to no instance")),
            Some(1) => {}
            Some(_) => report.say(format!("disk {uuid} belongs to several instances")),
        }
        for node in &disk.nodes {
            report.unless(config.nodes.contains_key(node), || {
                format!("disk {uuid} is on the node {node}, which does not exist")
            });
        }
        for minor in drbd_minors(disk) {
            report.unless(minors.insert(minor.clone()), || {
                format!("drbd minor {} of node {} is used twice", minor.1, minor.0)
            });
        }
    }
}

/// Node and minor of both sides.
fn drbd_minors(disk: &Disk) -> Vec<(String, u64)> {
    if disk.dev_type != DiskTemplate::Drbd {
        return Vec::new();
    }
    let text = |at: usize| disk.logical_id.get(at).and_then(|part| part.as_str());
    let number = |at: usize| disk.logical_id.get(at).and_then(serde_json::Value::as_u64);
    let sides = [(text(0), number(3)), (text(1), number(4))];
    sides.into_iter().filter_map(|(node, minor)| Some((node?.to_owned(), minor?))).collect()
}

fn networks(config: &Config, report: &mut Report) {
    for network in config.networks.values() {
        let Some(first) = first_address(&network.network) else {
            report.say(format!("network {} has no readable address range", network.name));
            continue;
        };
        let used =
            config.instances.values().flat_map(|instance| &instance.nics).filter_map(|nic| {
                let is_here = nic.network.as_ref() == Some(&network.meta.uuid);
                let ip: std::net::Ipv4Addr = nic.ip.as_ref().filter(|_| is_here)?.parse().ok()?;
                u32::from(ip).checked_sub(first)
            });
        let used: BTreeSet<u32> = used.collect();
        for offset in &used {
            report.unless(network.reservations.contains(offset), || {
                format!(
                    "address {offset} of network {} is used, but free in its pool",
                    network.name
                )
            });
        }
        for offset in &network.reservations {
            report.unless(used.contains(offset), || {
                format!("address {offset} of network {} is reserved for no instance", network.name)
            });
        }
    }
}

/// The first address of `a.b.c.d/len`.
fn first_address(network: &str) -> Option<u32> {
    let (address, length) = network.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some(u32::from(address) & mask)
}

/// The indexes are what they would be if they were made anew.
fn index(config: &Config, report: &mut Report) {
    let mut fresh = Config::new((*config.cluster).clone());
    config.groups.values().for_each(|object| fresh.put_group(object.clone()));
    config.nodes.values().for_each(|object| fresh.put_node(object.clone()));
    config.networks.values().for_each(|object| fresh.put_network(object.clone()));
    config.disks.values().for_each(|object| fresh.put_disk(object.clone(), None));
    config.instances.values().for_each(|object| fresh.put_instance(object.clone()));
    report.unless(fresh.index == config.index, || "the indexes do not fit the objects".into());
}
