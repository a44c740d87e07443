//! Changes of an instance's NICs.

use std::net::IpAddr;

use model::config::{Config, Instance, Nic};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceSetParams;
use model::param::{Dict, ItemChange};
use model::{params, python};
use node::Hotplug;
use serde_json::{Value, json};

use super::changes::{find, place};
use crate::config::Draft;
use crate::lu::instance::{layout, nics};
use crate::lu::{Cx, expand};
use crate::pool;

/// The most NICs an instance has.
const MAX_NICS: usize = 8;

/// One change as it will be carried out.
pub(super) struct Step {
    pub(super) action: Hotplug,
    /// The NIC as it will be, or was.
    pub(super) nic: Nic,
    pub(super) index: usize,
    /// What the result says of it.
    pub(super) notes: Vec<Value>,
    /// The name under which the result of plugging is noted.
    pub(super) key: String,
}

/// The NICs as they will be, and the way there.
pub(super) struct Planned {
    pub(super) nics: Vec<Nic>,
    pub(super) steps: Vec<Step>,
}

/// Checks one change by itself, and brings `none` and what is left open into form.
pub(super) fn check(change: &mut ItemChange) -> Result<()> {
    if !["add", "modify"].contains(&change.action.as_str()) {
        return Ok(());
    }
    let is_add = change.action == "add";
    let dict = &mut change.params;
    let is_none = |dict: &Dict, name: &str| {
        dict.get(name).and_then(Value::as_str).is_some_and(|text| text.eq_ignore_ascii_case("none"))
    };
    if is_none(dict, "name") {
        dict.insert("name".to_owned(), Value::Null);
    }
    let given = |dict: &Dict, name: &str| dict.get(name).is_some_and(|value| !value.is_null());
    if is_none(dict, "network") {
        dict.insert("network".to_owned(), Value::Null);
    } else if given(dict, "network") && (given(dict, "link") || given(dict, "mode")) {
        return Err(GanetiError::wrong_input("If network is given mode or link should not"));
    }
    if is_add && !given(dict, "mac") {
        dict.insert("mac".to_owned(), json!("auto"));
    }
    if is_none(dict, "ip") {
        dict.insert("ip".to_owned(), Value::Null);
    } else if let Some(ip) = dict.get("ip").and_then(Value::as_str) {
        if ip.eq_ignore_ascii_case("pool") {
            if is_add && !given(dict, "network") {
                return Err(GanetiError::wrong_input(
                    "If ip=pool, parameter network cannot be none",
                ));
            }
        } else if ip.parse::<IpAddr>().is_err() {
            return Err(GanetiError::wrong_input(format!("Invalid IP address '{ip}'")));
        }
    }
    if let Some(mac) = dict.get("mac").and_then(Value::as_str) {
        if !["auto", "generate"].contains(&mac) {
            let mac = nics::normalise_mac(mac)?;
            dict.insert("mac".to_owned(), json!(mac));
        } else if !is_add && mac == "auto" {
            return Err(GanetiError::wrong_input(
                "'auto' is not a valid MAC address when modifying an existing NIC",
            ));
        }
    }
    if let Some(vlan) = dict.get("vlan").and_then(Value::as_str) {
        let vlan = params::nic::normalise_vlan(vlan)?;
        dict.insert("vlan".to_owned(), json!(vlan));
    }
    Ok(())
}

/// Carries the changes out on a copy; `None` when there are none.
pub(super) fn plan(
    cx: &Cx,
    op: &InstanceSetParams,
    instance: &Instance,
    communication: Option<ItemChange>,
    told: &mut [ItemChange],
) -> Result<Option<Planned>> {
    let changes: Vec<ItemChange> = op.nics.iter().cloned().chain(communication).collect();
    if changes.is_empty() {
        return Ok(None);
    }
    let config = cx.config();
    let mut now = instance.nics.clone();
    let mut steps = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        let told = told.get_mut(at).map(|change| &mut change.params);
        let step = match change.action.as_str() {
            "add" => {
                let at = place("NIC", &change.identifier, now.len())?;
                let step = add(cx, op, &config, instance, (change, told), at)?;
                now.insert(at, step.nic.clone());
                step
            }
            "modify" => {
                let at = find("NIC", &change.identifier, &now)?;
                let step = modify(cx, op, &config, instance, (change, told), at, &now[at])?;
                now[at] = step.nic.clone();
                step
            }
            "remove" => {
                let at = find("NIC", &change.identifier, &now)?;
                let key = format!("NIC/{at}");
                let notes = vec![json!([key, "remove"])];
                Step { action: Hotplug::Remove, nic: now.remove(at), index: at, notes, key }
            }
            "attach" => {
                let text = "Attach operation is not supported for NICs";
                return Err(GanetiError::wrong_input(text));
            }
            _ => {
                let text = "Detach operation is not supported for NICs";
                return Err(GanetiError::wrong_input(text));
            }
        };
        steps.push(step);
    }
    if now.len() > MAX_NICS {
        return Err(GanetiError::wrong_state(format!(
            "Instance has too many network interfaces ({MAX_NICS}), cannot add more"
        )));
    }
    layout::check_names("NIC", now.iter().map(|nic| nic.name.as_deref()), &[])?;
    Ok(Some(Planned { nics: now, steps }))
}

fn add(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    (change, told): (&ItemChange, Option<&mut Dict>),
    at: usize,
) -> Result<Step> {
    let blank = Nic {
        uuid: cx.env().uuid(),
        name: None,
        mac: String::new(),
        ip: None,
        network: None,
        nicparams: Dict::new(),
    };
    let settled = settle(cx, op, config, instance, (&change.params, told), &blank)?;
    let mut nic = settled.nic;
    nic.name = change.params.get("name").and_then(Value::as_str).map(str::to_owned);
    nic.nicparams = settled.filled.clone();
    let text = |name: &str| settled.filled.get(name).map(python::str).unwrap_or_default();
    let network = change.params.get("network").map_or_else(|| "None".to_owned(), python::str);
    let note = format!(
        "add:mac={},ip={},mode={},link={},network={network}",
        nic.mac,
        nic.ip.as_deref().unwrap_or("None"),
        text("mode"),
        text("link"),
    );
    let key = format!("nic.{at}");
    Ok(Step { action: Hotplug::Add, index: at, notes: vec![json!([key, note])], key, nic })
}

fn modify(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    (change, told): (&ItemChange, Option<&mut Dict>),
    at: usize,
    old: &Nic,
) -> Result<Step> {
    let settled = settle(cx, op, config, instance, (&change.params, told), old)?;
    let mut nic = settled.nic;
    let mut notes = Vec::new();
    if change.params.contains_key("mac") || nic.mac != old.mac {
        notes.push(json!([format!("nic.mac/{at}"), nic.mac]));
    }
    if change.params.contains_key("ip") {
        notes.push(json!([format!("nic.ip/{at}"), nic.ip]));
    }
    if let Some(name) = change.params.get("name") {
        nic.name = name.as_str().map(str::to_owned);
        notes.push(json!([format!("nic.name/{at}"), nic.name]));
    }
    if nic.network != old.network {
        let shown = change.params.get("network").cloned().unwrap_or_default();
        notes.push(json!([format!("nic.network/{at}"), shown]));
    }
    nic.nicparams = settled.filled;
    // Ganeti: in the order of their names (3.0, `ApplyNicMods`).
    let mut params: Vec<_> = nic.nicparams.iter().collect();
    params.sort_by_key(|(name, _)| *name);
    for (name, value) in params {
        notes.push(json!([format!("nic.{name}/{at}"), value]));
    }
    Ok(Step { action: Hotplug::Modify, index: at, notes, key: format!("nic/{at}"), nic })
}

struct Settled {
    nic: Nic,
    /// All parameters, filled: Ganeti stores them so once a NIC was changed.
    filled: Dict,
}

/// What a change makes of a NIC: its network, parameters, MAC and address (Ganeti 3.0, `_PrepareNicModification`). The
/// addresses are noted in what is told of the change, as far as it comes.
fn settle(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    instance: &Instance,
    (change, told): (&Dict, Option<&mut Dict>),
    old: &Nic,
) -> Result<Settled> {
    let mut untold = Dict::new();
    let told = told.unwrap_or(&mut untold);
    let primary = &instance.primary_node;
    let network = match change.get("network") {
        None => old.network.clone(),
        Some(Value::String(name)) => Some(expand::network(config, name)?.meta.uuid.clone()),
        Some(_) => None,
    };
    let asked = |name: &str| change.get(name).is_some_and(|value| !value.is_null());
    let own = match &network {
        Some(uuid) => {
            nics::connection(config, uuid, primary).map(nics::link_params).ok_or_else(|| {
                let name = config
                    .networks
                    .get(uuid)
                    .map(|network| network.name.clone())
                    .unwrap_or_default();
                let text =
                    format!("No netparams found for the network {name}, probably not connected");
                GanetiError::wrong_input(text)
            })?
        }
        None => {
            let names = ["mode", "link", "vlan"];
            let given = change.iter().filter(|(name, _)| names.contains(&name.as_str()));
            let given: Dict = given.map(|(name, value)| (name.clone(), value.clone())).collect();
            params::updated(&old.nicparams, &given, true, false)
        }
    };
    let mut own = own;
    params::nic::force(&mut own, false)?;
    let filled = params::nic::fill(&config.cluster, &own);
    params::nic::check_syntax(&filled)?;
    let mut nic = old.clone();
    let new_ip = match change.get("ip") {
        None => old.ip.clone(),
        Some(ip) => ip.as_str().map(str::to_owned),
    };
    match filled.get("mode").and_then(Value::as_str) {
        Some("routed") if new_ip.is_none() && network.is_none() => {
            return Err(GanetiError::wrong_input(
                "Cannot set the NIC IP address to None on a routed NIC if not attached to a network",
            ));
        }
        Some("openvswitch") => cx.info("OVS links are currently not checked for correctness"),
        _ => {}
    }
    nic.mac = settle_mac(cx, config, change, old, network.as_ref())?;
    if change.contains_key("mac") || nic.mac != old.mac {
        told.insert("mac".to_owned(), json!(nic.mac));
    }
    nic.ip = settle_ip(
        cx,
        op,
        config,
        old,
        network.as_ref(),
        new_ip,
        primary,
        asked("link") || asked("mode"),
    )?;
    if nic.ip.is_some() && change.contains_key("ip") {
        told.insert("ip".to_owned(), json!(nic.ip));
    }
    nic.network = network;
    Ok(Settled { nic, filled })
}

fn settle_mac(
    cx: &Cx,
    config: &Config,
    change: &Dict,
    old: &Nic,
    network: Option<&Uuid>,
) -> Result<String> {
    match change.get("mac") {
        Some(Value::Null) => Err(GanetiError::wrong_input("Cannot unset the NIC MAC address")),
        Some(Value::String(mac)) if ["auto", "generate"].contains(&mac.as_str()) => {
            nics::reserve_mac(cx, None, network)
        }
        Some(Value::String(mac)) => nics::reserve_mac(cx, Some(mac), None).map_err(|_| {
            GanetiError::prereq(
                format!("MAC address '{mac}' already in use in cluster"),
                ErrorCode::ResourceNotUnique,
            )
        }),
        _ => {
            let prefix = |uuid: Option<&Uuid>| config.networks.get(uuid?)?.mac_prefix.clone();
            if network != old.network.as_ref() && prefix(network) != prefix(old.network.as_ref()) {
                nics::reserve_mac(cx, None, network)
            } else {
                Ok(old.mac.clone())
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "what an address depends on")]
fn settle_ip(
    cx: &Cx,
    op: &InstanceSetParams,
    config: &Config,
    old: &Nic,
    network: Option<&Uuid>,
    new_ip: Option<String>,
    primary: &Uuid,
    relinked: bool,
) -> Result<Option<String>> {
    if (new_ip.as_ref(), network) == (old.ip.as_ref(), old.network.as_ref()) {
        if old.network.is_some() && relinked {
            return Err(GanetiError::wrong_input(
                "Not allowed to change link or mode of a NIC that is connected to a network",
            ));
        }
        return Ok(new_ip);
    }
    let Some(ip) = new_ip else { return Ok(None) };
    let name = |uuid: &Uuid| {
        config.networks.get(uuid).map(|network| network.name.clone()).unwrap_or_default()
    };
    if ip.eq_ignore_ascii_case("pool") {
        let Some(uuid) = network else {
            return Err(GanetiError::wrong_input("ip=pool, but no network found"));
        };
        let chosen = nics::reserve_ip(cx, uuid, None, true).ok_or_else(|| {
            GanetiError::wrong_state("Unable to get a free IP from the address pool")
        })?;
        cx.info(&format!("Chose IP {chosen} from network {}", name(uuid)));
        return Ok(Some(chosen));
    }
    if let Some(uuid) = network {
        let reserved = nics::reserve_ip(cx, uuid, Some(&ip), op.conflicts_check);
        reserved.ok_or_else(|| {
            GanetiError::prereq(
                format!("IP {ip} not available in network {}", name(uuid)),
                ErrorCode::ResourceNotUnique,
            )
        })?;
        cx.info(&format!("Reserving IP {ip} in network {}", name(uuid)));
    } else if op.conflicts_check {
        nics::conflicting_ip(config, Some(&ip), primary)?;
    }
    Ok(Some(ip))
}

/// Gives back the addresses that are no longer used and marks those that are: part of the commit that changes the NICs.
pub(super) fn move_addresses(draft: &mut Draft<'_>, old: &[Nic], new: &[Nic]) {
    for nic in old {
        let (Some(uuid), Some(ip)) = (&nic.network, &nic.ip) else { continue };
        let kept = new
            .iter()
            .any(|other| other.network.as_ref() == Some(uuid) && other.ip.as_ref() == Some(ip));
        let Some(network) = draft.networks.get(uuid).cloned().filter(|_| !kept) else { continue };
        if let Some(offset) = pool::offset(&network, ip) {
            draft.mark_addresses(uuid, |network| {
                network.reservations.remove(&offset);
            });
        }
    }
    let fresh: Vec<Nic> = new
        .iter()
        .filter(|nic| !old.iter().any(|other| other.network == nic.network && other.ip == nic.ip))
        .cloned()
        .collect();
    nics::use_addresses(draft, &fresh);
}
