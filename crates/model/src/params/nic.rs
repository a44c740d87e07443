//! NIC parameters: how a network card is connected. Layers: cluster, NIC; a network's connection stands above both.

use super::{Kind, Lit, Row, defaults as table_defaults, fill as lay, force_types, overlay, row};
use crate::config::Cluster;
use crate::error::{ErrorClass, GanetiError, Result};
use crate::param::{Dict, NicMode};
use serde_json::Value;

/// The parameters, in the order in which they are shown.
pub const TABLE: &[Row] = &[
    Row::new("mode", Kind::Text, Lit::Text("bridged"), "bridged, routed, openvswitch, or user"),
    Row::new("link", Kind::Text, Lit::Text("xen-br0"), "Bridge, routing table or virtual switch"),
    Row::new("vlan", Kind::Text, Lit::Text(""), "VLANs: .N untagged, :N:M tagged, .N:M both"),
];

/// The built-in defaults.
pub fn defaults() -> Dict {
    table_defaults(TABLE)
}

/// Cluster < NIC (Ganeti 3.0, `objects.py` `Cluster.SimpleFillNIC`).
pub fn fill(cluster: &Cluster, overrides: &Dict) -> Dict {
    let mut filled = defaults();
    overlay(&mut filled, &cluster.nicparams, super::VALUE_DEFAULT);
    lay(&filled, overrides)
}

/// Forces types; with `allow_default`, values of `default` stay.
pub fn force(params: &mut Dict, allow_default: bool) -> Result<()> {
    let allowed: &[&str] = if allow_default { &[super::VALUE_DEFAULT] } else { &[] };
    force_types(params, |name| row(TABLE, name).map(|row| row.kind), allowed)
}

/// Checks filled parameters (Ganeti 3.0, `objects.py` `NIC.CheckParameterSyntax`).
pub fn check_syntax(filled: &Dict) -> Result<()> {
    let text = |name: &str| filled.get(name).and_then(Value::as_str).unwrap_or("");
    let refuse = |text: String| Err(GanetiError::new(ErrorClass::ConfigurationError, text));
    let mode = text("mode");
    if NicMode::parse(mode).is_none() && mode != "auto" {
        return refuse(format!("Invalid NIC mode '{mode}'"));
    }
    if mode == NicMode::Bridged.as_str() && text("link").is_empty() {
        return refuse("Missing bridged NIC link".to_owned());
    }
    Ok(())
}

/// Writes a VLAN as it is stored: a bare number is an untagged access port, `.N` (Ganeti 3.0, `cmdlib/instance_create.py`
/// `_CheckVLANArguments`).
pub fn normalise_vlan(vlan: &str) -> Result<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match vlan.as_bytes().first() {
        None => Ok(String::new()),
        Some(b'.' | b':') if vlan[1..].split(':').all(digits) => Ok(vlan.to_owned()),
        Some(b'0'..=b'9') if digits(vlan) => Ok(format!(".{vlan}")),
        Some(_) => {
            Err(GanetiError::wrong_input(format!("Specified VLAN parameter is invalid : {vlan}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn vlans_have_one_form() {
        let check = |vlan: &str, expected: Option<&str>| {
            assert_eq!(normalise_vlan(vlan).ok().as_deref(), expected, "{vlan}");
        };
        check("", Some(""));
        check("12", Some(".12"));
        check(".12", Some(".12"));
        check(".12:1:2", Some(".12:1:2"));
        check(":1:2", Some(":1:2"));
        check("x", None);
        check(":", None);
        check(".1:", None);
    }

    #[test]
    fn modes_are_known() {
        let check = |mode: &str, link: &str, expected: Result<(), &str>| {
            let filled = json!({"mode": mode, "link": link, "vlan": ""});
            let got = check_syntax(filled.as_object().unwrap());
            assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
        };
        check("bridged", "br0", Ok(()));
        check("user", "", Ok(()));
        check("bridged", "", Err("Missing bridged NIC link"));
        check("odd", "", Err("Invalid NIC mode 'odd'"));
    }
}
