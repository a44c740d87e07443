//! Servers of screens may be bound to a network interface by its name: it stands for the interface's first address.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::spec::InstanceSpec;
use crate::{NodeError, Result};

/// The parameters that may name an interface.
const PARAMETERS: &[&str] = &["vnc_bind_address", "spice_bind"];

/// What is in a parameter that says where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bind {
    /// Nothing, an address or a directory.
    Plain,
    /// The name of an interface.
    Interface,
}

fn kind(text: &str) -> Bind {
    let plain = text.is_empty() || text.starts_with('/') || text.parse::<IpAddr>().is_ok();
    if plain { Bind::Plain } else { Bind::Interface }
}

/// The first address of the wanted family (4, 6, or 0 for either, the older first).
fn choose(name: &str, family: u64, found: &[(String, IpAddr)]) -> Option<IpAddr> {
    let own = found.iter().filter(|(interface, _)| interface == name).map(|(_, address)| *address);
    let mut fit: Vec<IpAddr> = own
        .filter(|address| match family {
            4 => address.is_ipv4(),
            6 => address.is_ipv6(),
            _ => true,
        })
        .collect();
    fit.sort_by_key(IpAddr::is_ipv6);
    fit.first().copied()
}

/// The instance with addresses in place of interfaces' names.
pub(crate) fn resolved(spec: &InstanceSpec) -> Result<InstanceSpec> {
    let mut spec = spec.clone();
    if PARAMETERS.iter().all(|name| kind(spec.hv(name)) == Bind::Plain) {
        return Ok(spec);
    }
    let found = if_addrs::get_if_addrs()
        .map_err(|error| NodeError::Failed(format!("can't list network interfaces: {error}")))?;
    let found: Vec<(String, IpAddr)> =
        found.into_iter().map(|interface| (interface.name.clone(), interface.ip())).collect();
    for name in PARAMETERS {
        let bind = spec.hv(name).to_owned();
        if kind(&bind) == Bind::Plain {
            continue;
        }
        let family = match *name {
            // Ganeti: of VNC the address is one of version 4 (3.0, `hv_kvm`).
            "vnc_bind_address" => 4,
            _ => spec.hvparams.get("spice_ip_version").and_then(Value::as_u64).unwrap_or(0),
        };
        if let Some(address) = choose(&bind, family, &found) {
            spec.hvparams.insert((*name).to_owned(), json!(address.to_string()));
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_the_family_is_taken() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = [
            ("eth0".to_owned(), address("fe80::1")),
            ("eth0".to_owned(), address("192.0.2.1")),
            ("lo".to_owned(), address("127.0.0.1")),
        ];
        assert_eq!(choose("eth0", 0, &found), Some(address("192.0.2.1")));
        assert_eq!(choose("eth0", 6, &found), Some(address("fe80::1")));
        assert_eq!(choose("lo", 6, &found), None);
        assert_eq!(choose("eth1", 0, &found), None);
        assert_eq!([kind(""), kind("/run"), kind("::1"), kind("lo")], {
            use Bind::{Interface, Plain};
            [Plain, Plain, Plain, Interface]
        });
    }
}
