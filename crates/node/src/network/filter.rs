//! What an instance may send, where filtering is asked for by a tag of the instance or of its network: a table of nft's
//! for the tap device, in front of everything that the node does with its frames.
//!
//! `mac-filtered`: only from the NIC's MAC address. `ip-filtered`: from its IP address, too; nothing else than IP, ARP and
//! the search for neighbours, and the request for an address by DHCP, gets through. What is dropped is counted.

use std::net::{IpAddr, Ipv6Addr};

use crate::spec::{InstanceSpec, NicSpec};

/// The tags, on an instance or on a network.
pub(crate) const MAC_FILTERED: &str = "mac-filtered";
pub(crate) const IP_FILTERED: &str = "ip-filtered";

/// The name of a tap device's table.
fn table(tap: &str) -> String {
    format!("rapid-{tap}")
}

/// What `nft` is told so that no table is there for a tap device; it is no error that there was none.
pub(crate) fn removal(tap: &str) -> String {
    let table = table(tap);
    format!("table netdev {table}\ndelete table netdev {table}\n")
}

/// What `nft` is told of a tap device, in place of what it was told before; `None` where no filter is asked for.
pub(crate) fn rules(
    spec: &InstanceSpec,
    nic: &NicSpec,
    tap: &str,
) -> Result<Option<String>, String> {
    let network = nic.network.iter().flat_map(|network| &network.tags);
    let tags: Vec<&str> = spec.tags.iter().chain(network).map(String::as_str).collect();
    let by_ip = tags.contains(&IP_FILTERED);
    if !by_ip && !tags.contains(&MAC_FILTERED) {
        return Ok(None);
    }
    let mac = &nic.mac;
    let mut rules = vec![
        format!("ether saddr != {mac} counter drop"),
        format!("arp saddr ether != {mac} counter drop"),
    ];
    if by_ip {
        rules.extend(by_address(nic)?);
        rules.push("counter drop".to_owned());
    }
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    Ok(Some(format!(
        "{}table netdev {} {{\n\tchain from-guest {{\n\t\ttype filter hook ingress device \"{tap}\" priority 0; policy accept;\n{rules}\t}}\n}}\n",
        removal(tap),
        table(tap),
    )))
}

fn by_address(nic: &NicSpec) -> Result<Vec<String>, String> {
    let ip = nic.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| format!("{IP_FILTERED} NIC but no IP address specified"))?;
    // It looks for a free address with the one that stands for none.
    let mut own6 = vec![Ipv6Addr::UNSPECIFIED];
    own6.extend(by_mac("fe80::", &nic.mac));
    let subnet6 = nic.network.as_ref().and_then(|network| network.subnet6.as_deref());
    own6.extend(subnet6.and_then(|subnet| by_mac(subnet.strip_suffix("/64")?, &nic.mac)));
    let mut rules = Vec::new();
    match ip {
        IpAddr::V4(ip) => {
            rules.push(format!("arp saddr ip {{ 0.0.0.0, {ip} }} accept"));
            rules.push(format!("ip saddr {ip} accept"));
        }
        IpAddr::V6(ip) => own6.push(ip),
    }
    rules.push("ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept".into());
    let own6: Vec<String> = own6.iter().map(Ipv6Addr::to_string).collect();
    rules.push(format!("ip6 saddr {{ {} }} accept", own6.join(", ")));
    Ok(rules)
}

/// The address that a guest gives itself in a network of 64 bits (RFC 4291).
fn by_mac(subnet: &str, mac: &str) -> Option<Ipv6Addr> {
    let subnet: Ipv6Addr = subnet.parse().ok()?;
    let octets: Vec<u8> =
        mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, e, f] = octets.try_into().ok()?;
    let mut address = subnet.octets();
    address[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Some(address.into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{instance, network};
    use super::*;

    #[test]
    fn filters_are_asked_for_by_tags() {
        let check = |instance_tags: &[&str], network_tags: &[&str], expected: &[&str]| {
            let mut spec = instance("bridged", "br0");
            spec.tags = instance_tags.iter().map(|tag| (*tag).to_owned()).collect();
            spec.nics[0].network = Some(network(network_tags));
            let text = rules(&spec, &spec.nics[0], "tap1").unwrap().unwrap_or_default();
            let has = |part: &&str| text.contains(*part);
            let all = ["ether saddr != aa:00:00:12:34:56", "ip saddr 192.0.2.10 accept"];
            let found: Vec<&str> = all.into_iter().filter(has).collect();
            assert_eq!(found, expected, "{text}");
        };
        let (mac, ip) = ("ether saddr != aa:00:00:12:34:56", "ip saddr 192.0.2.10 accept");
        check(&[], &[], &[]);
        check(&["mac-filtered-not"], &["other"], &[]);
        check(&["mac-filtered"], &[], &[mac]);
        check(&[], &["mac-filtered"], &[mac]);
        check(&["ip-filtered"], &[], &[mac, ip]);
        check(&["mac-filtered"], &["ip-filtered"], &[mac, ip]);
    }

    #[test]
    fn tables() {
        let mut spec = instance("bridged", "br0");
        spec.tags = vec!["mac-filtered".into()];
        insta::assert_snapshot!("mac", rules(&spec, &spec.nics[0], "tap1").unwrap().unwrap());
        spec.nics[0].network = Some(network(&["ip-filtered"]));
        insta::assert_snapshot!("ip", rules(&spec, &spec.nics[0], "tap1").unwrap().unwrap());
        spec.nics[0].ip = Some("2001:db8::1".into());
        insta::assert_snapshot!("ip6", rules(&spec, &spec.nics[0], "tap1").unwrap().unwrap());
        spec.nics[0].ip = None;
        let error = rules(&spec, &spec.nics[0], "tap1").unwrap_err();
        assert_eq!(error, "ip-filtered NIC but no IP address specified");
    }

    #[test]
    fn addresses_made_of_macs() {
        let check = |subnet, mac, expected: Option<&str>| {
            let address = by_mac(subnet, mac).map(|address| address.to_string());
            assert_eq!(address.as_deref(), expected);
        };
        check("fe80::", "aa:00:00:12:34:56", Some("fe80::a800:ff:fe12:3456"));
        check("2001:db8:1::", "52:54:00:ab:cd:ef", Some("2001:db8:1:0:5054:ff:feab:cdef"));
        check("fe80::", "aa:00:00:12:34", None);
    }
}
