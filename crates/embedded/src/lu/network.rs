//! The opcodes on networks: their address pools, and what groups they are connected to.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use model::config::{Config, Instance, Meta, Network, NetworkLink, Nic};
use model::error::{ErrorClass, GanetiError, Result};
use model::name::Uuid;
use model::opcode::{
    NetworkAdd, NetworkConnect, NetworkDisconnect, NetworkRemove, NetworkRename, NetworkSetParams,
};
use model::param::{Dict, Ip4};
use model::params;
use model::units::natural_cmp;
use serde_json::{Value, json};

use super::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks, shared_checks, tags};
use crate::pool;

/// The value that unsets a parameter.
const VALUE_NONE: &str = "none";

/// What a network is described to hooks with; what is empty is left out.
fn hook_env(network: &Network) -> Vec<(&'static str, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let tags: Vec<&str> = network.tags.iter().map(String::as_str).collect();
    let all = [
        ("NETWORK_NAME", network.name.clone()),
        ("NETWORK_SUBNET", network.network.clone()),
        ("NETWORK_GATEWAY", text(&network.gateway)),
        ("NETWORK_SUBNET6", text(&network.network6)),
        ("NETWORK_GATEWAY6", text(&network.gateway6)),
        ("NETWORK_MAC_PREFIX", text(&network.mac_prefix)),
        ("NETWORK_TAGS", tags.join(" ")),
    ];
    all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn pool_error(text: String) -> GanetiError {
    GanetiError::new(ErrorClass::AddressPoolError, text)
}

/// Whether an address is reserved from outside, or the error that it is not in the network.
fn offset_of(network: &Network, ip: &str) -> Result<u32> {
    pool::offset(network, ip)
        .ok_or_else(|| pool_error(format!("{} does not contain {ip}", network.network)))
}

/// Reserves an address from outside.
fn reserve(network: &mut Network, ip: &str) -> Result<()> {
    let offset = offset_of(network, ip)?;
    if network.ext_reservations.insert(offset).is_some() {
        return Err(pool_error(format!("IP {ip} is already externally reserved")));
    }
    Ok(())
}

/// Gives an address back that was reserved from outside.
fn release(network: &mut Network, ip: &str) -> Result<()> {
    let offset = offset_of(network, ip)?;
    if network.ext_reservations.remove(&offset).is_none() {
        return Err(pool_error(format!("IP {ip} is not externally reserved")));
    }
    Ok(())
}

/// Sets an empty pool up: its size is bounded; the first, the last and the gateway's address are reserved.
fn initialise(network: &mut Network) -> Result<()> {
    if !network.network.contains('/') {
        // Python takes an address without a length for the network of that one address.
        network.network.push_str("/32");
    }
    let (_, size) = pool::range(network)
        .filter(|(_, size)| *size <= 1 << 16)
        .ok_or_else(|| {
            let bits = network.network.rsplit('/').next().and_then(|len| len.parse::<u32>().ok());
            let hosts = 1u64 << (32 - bits.unwrap_or(0).min(32));
            pool_error(format!(
                "A big network with {hosts} host(s) is currently not supported. please specify at most a /16 network"
            ))
        })?;
    if size < 4 {
        return Err(pool_error(format!(
            "A network with only {size} host(s) is too small, please specify at least a /30 network"
        )));
    }
    network.ext_reservations.insert(0);
    network.ext_reservations.insert(size - 1);
    if let Some(gateway) = network.gateway.clone() {
        reserve(network, &gateway)?;
    }
    Ok(())
}

/// Whether an IPv6 gateway can be reached on its network.
fn gateway6_fits(network: &Network) -> bool {
    let (Some(network6), Some(gateway)) = (&network.network6, &network.gateway6) else {
        return true;
    };
    let Some((base, length)) = network6.split_once('/') else { return true };
    let (Ok(base), Ok(length), Ok(gateway)) =
        (base.parse::<Ipv6Addr>(), length.parse::<u32>(), gateway.parse::<Ipv6Addr>())
    else {
        return true;
    };
    let shift = 128 - length.min(128);
    let of = |address: Ipv6Addr| u128::from(address).checked_shr(shift).unwrap_or(0);
    of(base) == of(gateway) || gateway.is_unicast_link_local()
}

// Adding

fn check_new(op: &NetworkAdd, config: &Config) -> Result<()> {
    let name = &op.network_name;
    match expand::network(config, name) {
        Err(_) => Ok(()),
        Ok(existing) => Err(GanetiError::already_exists(format!(
            "Desired network name '{name}' already exists as a network (UUID: {})",
            existing.meta.uuid
        ))),
    }
}

fn network(op: &NetworkAdd, meta: Meta) -> Network {
    Network {
        meta,
        tags: op.tags.iter().map(ToString::to_string).collect(),
        name: op.network_name.to_string(),
        network: op.network.to_string(),
        gateway: op.gateway.as_ref().map(ToString::to_string),
        network6: op.network6.as_ref().map(ToString::to_string),
        gateway6: op.gateway6.as_ref().map(ToString::to_string),
        mac_prefix: op.mac_prefix.as_ref().map(|prefix| prefix.to_lowercase()),
        reservations: Default::default(),
        ext_reservations: Default::default(),
    }
}

/// Reserves what the cluster itself uses: no instance could work with these addresses.
fn reserve_own(cx: &Cx, network: &mut Network) {
    let config = cx.config();
    let nodes = config.index.node_by_name.values().filter_map(|uuid| config.nodes.get(uuid));
    for node in nodes {
        for ip in [&node.primary_ip, &node.secondary_ip] {
            if pool::offset(network, ip).is_none() {
                continue;
            }
            let name = &node.name;
            match reserve(network, ip) {
                Ok(()) => cx.info(&format!("Reserved IP address of node '{name}' ({ip})")),
                Err(error) => {
                    cx.warn(&format!("Cannot reserve IP address '{ip}' of node '{name}': {error}"))
                }
            }
        }
    }
    let ip = &config.cluster.master_ip;
    if pool::offset(network, ip).is_none() {
        return;
    }
    match reserve(network, ip) {
        Ok(()) => cx.info(&format!("Reserved cluster master IP address ({ip})")),
        Err(error) => {
            cx.warn(&format!("Cannot reserve cluster master IP address ({ip}): {error}"));
        }
    }
}

impl LogicalUnit for NetworkAdd {
    type Plan = ();

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        self.mac_prefix.as_ref().map(|prefix| shared_checks::mac_prefix(prefix)).transpose()?;
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = Locks::new();
        if self.conflicts_check {
            for uuid in config.nodes.keys() {
                locks = locks.shared(Level::Node, uuid);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<()> {
        check_new(self, &cx.config())?;
        self.tags.iter().try_for_each(|tag| tags::check_tag(tag))
    }

    fn hooks(&self, cx: &Cx, _plan: &()) -> Option<Hooks> {
        let env = hook_env(&network(self, Meta::default()));
        Some(plain_hooks::hooks("NETWORK", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let name = &self.network_name;
        let mut network = network(self, Meta::new(cx.env().uuid(), cx.env().now_seconds()));
        initialise(&mut network).map_err(|error| {
            GanetiError::exec(format!(
                "Cannot create IP address pool for network '{name}': {error}"
            ))
        })?;
        if !gateway6_fits(&network) {
            // Ganeti: an assertion fails, which has no text (3.0, network.py, `Validate`).
            return Err(GanetiError::exec(""));
        }
        if self.conflicts_check {
            reserve_own(cx, &mut network);
        }
        for ip in self.add_reserved_ips.iter().flatten() {
            reserve(&mut network, ip).map_err(|error| {
                GanetiError::exec(format!("Cannot reserve IP address '{ip}': {error}"))
            })?;
        }
        cx.commit(|draft| {
            check_new(self, draft)?;
            draft.put_network(network);
            draft.touch_cluster();
            Ok(Value::Null)
        })
        .await
    }
}

// Changing

/// What a network has after the change, but for reservations.
pub(crate) struct SetPlan {
    uuid: Uuid,
    changed: Network,
}

/// Changes the gateway and reservations; answers what to warn of.
fn change_reservations(
    op: &NetworkSetParams,
    network: &mut Network,
    gateway: Option<&str>,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if op.gateway.is_some() {
        let old = network.gateway.clone();
        if old.as_deref() == gateway {
            warnings.push(format!("Gateway is already {}", gateway.unwrap_or("None")));
        } else {
            if let Some(gateway) = gateway {
                reserve(network, gateway)?;
            }
            if let Some(old) = old {
                release(network, &old)?;
            }
            network.gateway = gateway.map(str::to_owned);
        }
    }
    for ip in op.add_reserved_ips.iter().flatten() {
        if let Err(error) = reserve(network, ip) {
            warnings.push(format!("Cannot reserve IP address {ip}: {error}"));
        }
    }
    for ip in op.remove_reserved_ips.iter().flatten() {
        if network.gateway.as_deref() == Some(ip.as_str()) {
            warnings.push("Cannot unreserve Gateway's IP".to_owned());
        } else if let Err(error) = release(network, ip) {
            warnings.push(format!("Cannot release IP address {ip}: {error}"));
        }
    }
    Ok(warnings)
}

impl LogicalUnit for NetworkSetParams {
    type Plan = SetPlan;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        let has = |ips: &Option<Vec<Ip4>>| ips.as_ref().is_some_and(|ips| !ips.is_empty());
        if self.gateway.is_some() && (has(&self.add_reserved_ips) || has(&self.remove_reserved_ips))
        {
            let text = "Cannot modify gateway and reserved ips at once";
            return Err(GanetiError::wrong_input(text));
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let network = expand::network(config, &self.network_name)?;
        Ok(Locks::new().exclusive(Level::Network, &network.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<SetPlan> {
        let config = cx.config();
        let network = expand::network(&config, &self.network_name)?;
        let mut changed = Network::clone(network);
        if let Some(gateway) = &self.gateway {
            let offset = offset_of(network, gateway)?;
            if network.reservations.contains(&offset) {
                let text = format!("Gateway IP address '{gateway}' is already reserved");
                return Err(GanetiError::wrong_state(text));
            }
            changed.gateway = Some(gateway.to_string());
        }
        if let Some(prefix) = &self.mac_prefix {
            changed.mac_prefix = match prefix.as_str() {
                VALUE_NONE => None,
                prefix => Some(shared_checks::mac_prefix(prefix)?),
            };
        }
        if let Some(gateway6) = &self.gateway6 {
            changed.gateway6 = Some(gateway6.to_string());
        }
        if let Some(network6) = &self.network6 {
            changed.network6 = Some(network6.to_string());
        }
        Ok(SetPlan { uuid: network.meta.uuid.clone(), changed })
    }

    fn hooks(&self, cx: &Cx, plan: &SetPlan) -> Option<Hooks> {
        let env = hook_env(&plan.changed);
        Some(plain_hooks::hooks("NETWORK", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, plan: SetPlan) -> Result<Value> {
        let SetPlan { uuid, changed } = plan;
        let warnings = cx
            .commit(|draft| {
                let Some(current) = draft.networks.get(&uuid) else {
                    let text = format!("Could not retrieve network '{}'", self.network_name);
                    return Err(GanetiError::exec(text));
                };
                // Instances may have come and gone since the checks: the pool is the newest.
                let mut network = Network::clone(current);
                let warnings = change_reservations(self, &mut network, changed.gateway.as_deref())?;
                draft.edit_network(&uuid, |stored| {
                    stored.gateway = network.gateway;
                    stored.ext_reservations = network.ext_reservations;
                    stored.mac_prefix = changed.mac_prefix;
                    stored.gateway6 = changed.gateway6;
                    stored.network6 = changed.network6;
                });
                Ok(warnings)
            })
            .await?;
        for warning in warnings {
            cx.warn(&warning);
        }
        shared_checks::tell_shortage(cx);
        Ok(Value::Null)
    }
}

// Connecting

pub(crate) struct ConnectPlan {
    network: Uuid,
    group: Uuid,
    /// How the network is connected to the group already.
    link: Option<NetworkLink>,
}

/// Refuses when NICs of these instances would be cut off or collide.
fn conflict_check(
    cx: &Cx,
    (network, group): (&str, &str),
    action: &str,
    instances: &[&std::sync::Arc<Instance>],
    collides: impl Fn(&Nic) -> bool,
) -> Result<()> {
    let mut conflicts = Vec::new();
    for instance in instances {
        let nics = instance.nics.iter().enumerate().filter(|(_, nic)| collides(nic));
        let nics: Vec<String> = nics
            .map(|(at, nic)| format!("nic{at}/{}", nic.ip.as_deref().unwrap_or("None")))
            .collect();
        if !nics.is_empty() {
            conflicts.push(format!("{}: {}", instance.name, nics.join(", ")));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    cx.warn(&format!(
        "IP addresses from network '{network}', which is about to {action} node group '{group}', are in use: {}",
        conflicts.join(", ")
    ));
    Err(GanetiError::wrong_state(
        "Conflicting IP addresses found;  remove/modify the corresponding network interfaces",
    ))
}

fn link(op: &NetworkConnect) -> NetworkLink {
    NetworkLink {
        mode: op.network_mode.to_string(),
        link: op.network_link.to_string(),
        vlan: op.network_vlan.clone(),
    }
}

impl LogicalUnit for NetworkConnect {
    type Plan = ConnectPlan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let network = expand::network(config, &self.network_name)?;
        let group = expand::group(config, &self.group_name)?;
        let mut locks = Locks::new().exclusive(Level::NodeGroup, &group.meta.uuid);
        if self.conflicts_check {
            locks = locks.shared(Level::Network, &network.meta.uuid);
            for instance in shared_checks::instances_of_group(config, &group.meta.uuid) {
                locks = locks.shared(Level::Instance, &instance.name);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<ConnectPlan> {
        let config = cx.config();
        let network = expand::network(&config, &self.network_name)?;
        let group = expand::group(&config, &self.group_name)?;
        let NetworkLink { mode, link, vlan } = link(self);
        let params = Dict::from_iter([
            ("mode".to_owned(), json!(mode)),
            ("link".to_owned(), json!(link)),
            ("vlan".to_owned(), json!(vlan)),
        ]);
        params::nic::check_syntax(&params)?;
        let link = group.networks.get(&network.meta.uuid).cloned();
        if link.is_some() {
            cx.warn(&format!(
                "Network '{}' is already mapped to group '{}'",
                self.network_name, group.name
            ));
        } else if self.conflicts_check {
            let instances = shared_checks::instances_of_group(&config, &group.meta.uuid);
            let names = (self.network_name.as_str(), group.name.as_str());
            conflict_check(cx, names, "connect to", &instances, |nic| {
                nic.ip.as_deref().is_some_and(|ip| pool::offset(network, ip).is_some())
            })?;
        }
        Ok(ConnectPlan { network: network.meta.uuid.clone(), group: group.meta.uuid.clone(), link })
    }

    fn hooks(&self, cx: &Cx, plan: &ConnectPlan) -> Option<Hooks> {
        let env = [
            ("GROUP_NAME", self.group_name.to_string()),
            ("GROUP_NETWORK_MODE", self.network_mode.to_string()),
            ("GROUP_NETWORK_LINK", self.network_link.to_string()),
            ("GROUP_NETWORK_VLAN", self.network_vlan.clone()),
        ];
        Some(plain_hooks::hooks("NETWORK", "", env, members(&cx.config(), &plan.group)))
    }

    async fn exec(&self, cx: &Cx, plan: ConnectPlan) -> Result<Value> {
        if plan.link.is_none() {
            cx.commit(|draft| {
                let link = link(self);
                draft.edit_group(&plan.group, |group| {
                    group.networks.insert(plan.network, link);
                });
                Ok(())
            })
            .await?;
            shared_checks::tell_shortage(cx);
        }
        Ok(Value::Null)
    }
}

/// The nodes of a group: hooks of a connection run there (Ganeti 3.0; the master only if it is one of them).
fn members(config: &Config, group: &Uuid) -> Vec<Uuid> {
    config.members(group).map(|node| node.meta.uuid.clone()).collect()
}

impl LogicalUnit for NetworkDisconnect {
    type Plan = ConnectPlan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        expand::network(config, &self.network_name)?;
        let group = expand::group(config, &self.group_name)?;
        let mut locks = Locks::new().exclusive(Level::NodeGroup, &group.meta.uuid);
        for instance in shared_checks::instances_of_group(config, &group.meta.uuid) {
            locks = locks.shared(Level::Instance, &instance.name);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<ConnectPlan> {
        let config = cx.config();
        let network = &expand::network(&config, &self.network_name)?.meta.uuid;
        let group = expand::group(&config, &self.group_name)?;
        let link = group.networks.get(network).cloned();
        if link.is_none() {
            cx.warn(&format!(
                "Network '{}' is not mapped to group '{}'",
                self.network_name, group.name
            ));
        } else {
            let instances = shared_checks::instances_of_group(&config, &group.meta.uuid);
            let names = (self.network_name.as_str(), group.name.as_str());
            conflict_check(cx, names, "disconnect from", &instances, |nic| {
                nic.network.as_ref() == Some(network)
            })?;
        }
        Ok(ConnectPlan { network: network.clone(), group: group.meta.uuid.clone(), link })
    }

    fn hooks(&self, cx: &Cx, plan: &ConnectPlan) -> Option<Hooks> {
        let mut env = vec![("GROUP_NAME", self.group_name.to_string())];
        if let Some(link) = &plan.link {
            env.push(("GROUP_NETWORK_MODE", link.mode.clone()));
            env.push(("GROUP_NETWORK_LINK", link.link.clone()));
            env.push(("GROUP_NETWORK_VLAN", link.vlan.clone()));
        }
        Some(plain_hooks::hooks("NETWORK", "", env, members(&cx.config(), &plan.group)))
    }

    async fn exec(&self, cx: &Cx, plan: ConnectPlan) -> Result<Value> {
        if plan.link.is_some() {
            cx.commit(|draft| {
                draft.edit_group(&plan.group, |group| {
                    group.networks.remove(&plan.network);
                });
                Ok(())
            })
            .await?;
            shared_checks::tell_shortage(cx);
        }
        Ok(Value::Null)
    }
}

// Removing

impl LogicalUnit for NetworkRemove {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let network = expand::network(config, &self.network_name)?;
        let mut locks = Locks::new().exclusive(Level::Network, &network.meta.uuid);
        for group in config.groups.keys() {
            locks = locks.shared(Level::NodeGroup, group);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        let network = &expand::network(&config, &self.network_name)?.meta.uuid;
        let connected = config.groups.values().filter(|group| group.networks.contains_key(network));
        let mut groups: Vec<&str> = connected.map(|group| group.name.as_str()).collect();
        groups.sort_by(|a, b| natural_cmp(a, b));
        if groups.is_empty() {
            return Ok(network.clone());
        }
        cx.warn(&format!(
            "Network '{}' is connected to the following node groups: {}",
            self.network_name,
            groups.join(", ")
        ));
        Err(GanetiError::wrong_state("Network still connected"))
    }

    fn hooks(&self, cx: &Cx, _network: &Uuid) -> Option<Hooks> {
        let env = [("NETWORK_NAME", self.network_name.to_string())];
        Some(plain_hooks::hooks("NETWORK", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, network: Uuid) -> Result<Value> {
        cx.commit(|draft| {
            if !draft.networks.contains_key(&network) {
                let name = &self.network_name;
                let text = format!("Network '{name}' with UUID {network} disappeared");
                return Err(GanetiError::exec(text));
            }
            draft.drop_network(&network);
            draft.touch_cluster();
            Ok(Value::Null)
        })
        .await
    }
}

// Renaming

impl LogicalUnit for NetworkRename {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let network = expand::network(config, &self.network_name)?;
        Ok(Locks::new().exclusive(Level::Network, &network.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        if let Ok(existing) = expand::network(&config, &self.new_name) {
            return Err(GanetiError::already_exists(format!(
                "Desired new name '{}' clashes with existing network (UUID: {})",
                self.new_name, existing.meta.uuid
            )));
        }
        expand::network(&config, &self.network_name).map(|network| network.meta.uuid.clone())
    }

    fn hooks(&self, cx: &Cx, network: &Uuid) -> Option<Hooks> {
        let config = cx.config();
        let groups: BTreeSet<&Uuid> = config
            .groups
            .values()
            .filter(|group| group.networks.contains_key(network))
            .map(|group| &group.meta.uuid)
            .collect();
        let env =
            [("OLD_NAME", self.network_name.to_string()), ("NEW_NAME", self.new_name.to_string())];
        let nodes = plain_hooks::on_master_and_groups(&config, groups);
        Some(plain_hooks::hooks("NETWORK", "", env, nodes))
    }

    async fn exec(&self, cx: &Cx, network: Uuid) -> Result<Value> {
        cx.commit(|draft| {
            if let Ok(existing) = expand::network(draft, &self.new_name) {
                return Err(GanetiError::exec(format!(
                    "Desired new name '{}' clashes with existing network (UUID: {})",
                    self.new_name, existing.meta.uuid
                )));
            }
            let renamed =
                draft.edit_network(&network, |object| object.name = self.new_name.to_string());
            renamed.ok_or_else(|| {
                let name = &self.network_name;
                GanetiError::exec(format!("Could not retrieve network '{name}' (UUID: {network})"))
            })
        })
        .await?;
        shared_checks::tell_shortage(cx);
        Ok(json!(self.new_name.as_str()))
    }
}

#[cfg(test)]
mod tests;
