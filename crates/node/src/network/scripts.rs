//! What the scripts are told that an administrator may have for the interfaces of instances (Ganeti 3.0, `hv_base`
//! `ConfigureNIC`).

use crate::process::PATH;
use crate::spec::{InstanceSpec, NicSpec};

/// A script's variables.
pub(crate) fn environment(
    spec: &InstanceSpec,
    index: usize,
    nic: &NicSpec,
    tap: &str,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
    set("PATH", PATH);
    set("INSTANCE", &spec.name);
    set("MAC", &nic.mac);
    set("MODE", &nic.mode);
    set("INTERFACE", tap);
    set("INTERFACE_INDEX", &index.to_string());
    set("INTERFACE_UUID", nic.uuid.as_str());
    set("TAGS", &spec.tags.join(" "));
    set("VLAN", &nic.vlan);
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let optional =
        [("IP", nic.ip.clone()), ("INTERFACE_NAME", nic.name.clone()), ("LINK", some(&nic.link))];
    for (name, value) in optional {
        if let Some(value) = value {
            set(name, &value);
        }
    }
    if nic.mode == "bridged" {
        set("BRIDGE", &nic.link);
    }
    let Some(network) = &nic.network else { return env };
    set("NETWORK_NAME", &network.name);
    set("NETWORK_UUID", network.uuid.as_str());
    set("NETWORK_TAGS", &network.tags.join(" "));
    let optional = [
        ("NETWORK_SUBNET", Some(&network.subnet).filter(|subnet| !subnet.is_empty())),
        ("NETWORK_GATEWAY", network.gateway.as_ref()),
        ("NETWORK_SUBNET6", network.subnet6.as_ref()),
        ("NETWORK_GATEWAY6", network.gateway6.as_ref()),
        ("NETWORK_MAC_PREFIX", network.mac_prefix.as_ref()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            set(name, value);
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::super::testing::{instance, network};
    use super::*;

    #[test]
    fn variables() {
        let text = |spec: &InstanceSpec| {
            let env = environment(spec, 1, &spec.nics[0], "tap1");
            env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n")
        };
        let mut spec = instance("routed", "");
        insta::assert_snapshot!("routed", text(&spec));
        spec = instance("bridged", "br0");
        spec.tags = vec!["a".into(), "b".into()];
        spec.nics[0].vlan = ".10".into();
        spec.nics[0].name = Some("front".into());
        spec.nics[0].network = Some(network(&["public", "mac-filtered"]));
        insta::assert_snapshot!("on_a_network", text(&spec));
    }
}
