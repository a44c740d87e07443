//! NICs of new instances, and what their descriptions are refused for (Ganeti 3.0, `ComputeNics` and the NIC part of
//! `LUInstanceCreate.CheckPrereq`).

use std::net::IpAddr;

use model::config::{Cluster, Config, NetworkLink, Nic};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{Dict, NicSpec};
use model::params;
use serde_json::{Value, json};

use crate::config::Reservations;
use crate::lu::{Cx, expand};
use crate::pool;

/// Tries at a free MAC address before giving up, as Ganeti's `_EnsureUnique` does.
const MAC_TRIES: usize = 64;

/// A text of a description; `none` (in any case) is as if it were not given.
pub(crate) fn text<'a>(spec: &'a Dict, name: &str) -> Option<&'a str> {
    spec.get(name).and_then(Value::as_str).filter(|text| !text.eq_ignore_ascii_case("none"))
}

/// Checks a MAC address and writes it in lower case.
pub(crate) fn normalise_mac(mac: &str) -> Result<String> {
    let parts: Vec<&str> = mac.split(':').collect();
    let octet = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(octet) {
        Ok(mac.to_lowercase())
    } else {
        Err(GanetiError::wrong_input(format!("Invalid MAC address '{mac}'")))
    }
}

/// Reserves a MAC address for a job: the one that is wanted, or a new one with the network's or cluster's prefix.
pub(crate) fn reserve_mac(cx: &Cx, wanted: Option<&str>, network: Option<&Uuid>) -> Result<String> {
    let job = cx.job_id();
    cx.config_store().reserve(|config, reservations| {
        let taken = |mac: &str, reservations: &Reservations| {
            config.index.macs.contains_key(mac) || reservations.has_mac(mac)
        };
        if let Some(mac) = wanted {
            if taken(mac, reservations) {
                return Err(GanetiError::prereq(
                    format!("MAC address {mac} already in use in cluster"),
                    ErrorCode::ResourceNotUnique,
                ));
            }
            reservations.of(job).macs.insert(mac.to_owned());
            return Ok(mac.to_owned());
        }
        let own = network.and_then(|uuid| config.networks.get(uuid)?.mac_prefix.clone());
        let prefix = own.unwrap_or_else(|| config.cluster.mac_prefix.clone());
        for _ in 0..MAC_TRIES {
            let mut bytes = [0; 3];
            cx.env().fill(&mut bytes);
            let mac = format!("{prefix}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2]);
            if !taken(&mac, reservations) {
                reservations.of(job).macs.insert(mac.clone());
                return Ok(mac);
            }
        }
        Err(GanetiError::exec("Can't generate unique MAC"))
    })
}

/// Reserves an address of a network for a job: the one that is wanted, or the lowest that is free. `None`: it is not to be
/// had. With `check` an address that is reserved from outside is not to be had either.
pub(crate) fn reserve_ip(
    cx: &Cx,
    network: &Uuid,
    wanted: Option<&str>,
    check: bool,
) -> Option<String> {
    let job = cx.job_id();
    let reserved = cx.config_store().reserve(|config, reservations| {
        let found = (|| {
            let object = config.networks.get(network)?;
            let offset = match wanted {
                Some(ip) => pool::offset(object, ip).filter(|offset| {
                    let outside = check && object.ext_reservations.contains(offset);
                    !outside
                        && !object.reservations.contains(offset)
                        && !reservations.has_ip(network, *offset)
                })?,
                None => {
                    let (_, size) = pool::range(object)?;
                    (0..size).find(|offset| {
                        !pool::is_taken(object, *offset) && !reservations.has_ip(network, *offset)
                    })?
                }
            };
            reservations.of(job).ips.insert((network.clone(), offset));
            pool::address(object, offset)
        })();
        Ok(found)
    });
    reserved.ok().flatten()
}

/// How a network is connected to the group of a node.
pub(crate) fn connection<'a>(
    config: &'a Config,
    network: &Uuid,
    node: &Uuid,
) -> Option<&'a NetworkLink> {
    let node = config.nodes.get(node)?;
    config.groups.get(&node.group)?.networks.get(network)
}

/// Refuses an address of a known network for a NIC that is not on it (Ganeti 3.0, `CheckForConflictingIp`).
pub(crate) fn conflicting_ip(config: &Config, ip: Option<&str>, node: &Uuid) -> Result<()> {
    let Some(ip) = ip else { return Ok(()) };
    let connected = config.nodes.get(node).and_then(|node| config.groups.get(&node.group));
    let networks = connected.into_iter().flat_map(|group| group.networks.keys());
    for uuid in networks {
        let Some(network) = config.networks.get(uuid) else { continue };
        if pool::offset(network, ip).is_some() {
            return Err(GanetiError::wrong_state(format!(
                "The requested IP address ({ip}) belongs to network {}, but the target NIC does not.",
                network.name
            )));
        }
    }
    Ok(())
}

/// Builds the NICs of a new instance. `name_ip` is the address that the instance's name resolves to, where it was looked up.
/// MAC addresses are reserved; those to be made, and addresses from a pool, are filled in later.
pub(crate) fn compute(cx: &Cx, specs: &[NicSpec], name_ip: Option<&str>) -> Result<Vec<Nic>> {
    specs.iter().map(|spec| compute_one(cx, spec, name_ip)).collect()
}

fn compute_one(cx: &Cx, spec: &NicSpec, name_ip: Option<&str>) -> Result<Nic> {
    let config = cx.config();
    let cluster = &config.cluster;
    let mode_given = spec.get("mode").and_then(Value::as_str);
    let link = spec.get("link").or_else(|| spec.get("bridge")).and_then(Value::as_str);
    let network = text(spec, "network");
    if network.is_some() && (mode_given.is_some() || link.is_some()) {
        return Err(GanetiError::wrong_input(
            "If network is given, no mode or link is allowed to be passed",
        ));
    }
    let mode = mode_given
        .filter(|mode| *mode != "auto")
        .map_or_else(|| default_mode(cluster), str::to_owned);
    let ip = match text(spec, "ip") {
        None => None,
        Some(ip) if ip.eq_ignore_ascii_case("auto") => match name_ip {
            Some(ip) => Some(ip.to_owned()),
            None => {
                return Err(GanetiError::wrong_input(
                    "IP address set to auto but name checks have been skipped",
                ));
            }
        },
        Some(ip) if ip.eq_ignore_ascii_case("pool") => {
            if network.is_none() {
                return Err(GanetiError::wrong_input(
                    "if ip=pool, parameter network must be passed too",
                ));
            }
            Some(ip.to_owned())
        }
        Some(ip) if ip.parse::<IpAddr>().is_ok() => Some(ip.to_owned()),
        Some(ip) => return Err(GanetiError::wrong_input(format!("Invalid IP address '{ip}'"))),
    };
    if mode == "routed" && ip.is_none() && network.is_none() {
        return Err(GanetiError::wrong_input(
            "Routed nic mode requires an ip address if not attached to a network",
        ));
    }
    let mac = match spec.get("mac").and_then(Value::as_str).unwrap_or("auto") {
        made @ ("auto" | "generate") => made.to_owned(),
        given => reserve_mac(cx, Some(&normalise_mac(given)?), None)?,
    };
    let mut nicparams = Dict::new();
    if mode_given.is_some_and(|mode| !mode.is_empty()) {
        nicparams.insert("mode".to_owned(), json!(mode));
    }
    if let Some(link) = link.filter(|link| !link.is_empty()) {
        nicparams.insert("link".to_owned(), json!(link));
    }
    if let Some(vlan) = spec.get("vlan").and_then(Value::as_str).filter(|vlan| !vlan.is_empty()) {
        nicparams.insert("vlan".to_owned(), json!(params::nic::normalise_vlan(vlan)?));
    }
    params::nic::check_syntax(&params::nic::fill(cluster, &nicparams))?;
    let network =
        network.map(|name| expand::network(&config, name).map(|found| found.meta.uuid.clone()));
    Ok(Nic {
        uuid: cx.env().uuid(),
        name: text(spec, "name").map(str::to_owned),
        mac,
        ip,
        network: network.transpose()?,
        nicparams,
    })
}

fn default_mode(cluster: &Cluster) -> String {
    let filled = params::nic::fill(cluster, &Dict::new());
    filled.get("mode").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Fills in what depends on the node: parameters of the network's connection, addresses from pools.
pub(crate) fn settle(cx: &Cx, nics: &mut [Nic], node: &Uuid, conflicts_check: bool) -> Result<()> {
    let config = cx.config();
    for (at, nic) in nics.iter_mut().enumerate() {
        let Some(uuid) = nic.network.clone() else {
            if conflicts_check {
                conflicting_ip(&config, nic.ip.as_deref(), node)?;
            }
            continue;
        };
        let name =
            config.networks.get(&uuid).map(|network| network.name.clone()).unwrap_or_default();
        let Some(link) = connection(&config, &uuid, node) else {
            return Err(GanetiError::wrong_input(format!(
                "No netparams found for network {name}. Probably not connected to node's {} nodegroup",
                config.node_name(node)
            )));
        };
        let values =
            [&link.link, &link.mode, &link.vlan].map(|value| model::python::repr_str(value));
        cx.info(&format!("NIC/{at} inherits netparams [{}]", values.join(", ")));
        nic.nicparams = link_params(link);
        match nic.ip.clone() {
            None => {}
            Some(ip) if ip.eq_ignore_ascii_case("pool") => {
                let chosen = reserve_ip(cx, &uuid, None, true).ok_or_else(|| {
                    let text =
                        format!("Unable to get a free IP for NIC {at} from the address pool");
                    GanetiError::wrong_state(text)
                })?;
                cx.info(&format!("Chose IP {chosen} from network {name}"));
                nic.ip = Some(chosen);
            }
            Some(ip) => {
                reserve_ip(cx, &uuid, Some(&ip), conflicts_check).ok_or_else(|| {
                    GanetiError::prereq(
                        format!(
                            "IP address {ip} already in use or does not belong to network {name}"
                        ),
                        ErrorCode::ResourceNotUnique,
                    )
                })?;
            }
        }
    }
    Ok(())
}

/// A connection's parameters as a NIC carries them.
pub(crate) fn link_params(link: &NetworkLink) -> Dict {
    let pairs = [("mode", &link.mode), ("link", &link.link), ("vlan", &link.vlan)];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// Marks the addresses that NICs have as used in their networks: part of the commit that adds them.
pub(crate) fn use_addresses(draft: &mut crate::config::Draft<'_>, nics: &[Nic]) {
    for nic in nics {
        let (Some(uuid), Some(ip)) = (&nic.network, &nic.ip) else { continue };
        let Some(network) = draft.networks.get(uuid).cloned() else { continue };
        if let Some(offset) = pool::offset(&network, ip) {
            draft.mark_addresses(uuid, |network| {
                network.reservations.insert(offset);
            });
        }
    }
}
