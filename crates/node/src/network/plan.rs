//! How a NIC is connected to the node and taken off again, as commands: pure functions of the NIC and of what the node's
//! bridge is like. What the modes mean is Ganeti's (3.0, `net-common`).
//!
//! ```text
//!   bridged       the tap device is a port of the bridge LINK, with the VLANs of a bridge that filters them
//!   routed        the node routes the NIC's address to the tap device, by the routing table LINK if there is one
//!   openvswitch   the tap device is a port of the switch LINK, with its VLANs
//!   user          QEMU itself is the network: there is no tap device
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use model::param::NicMode;
use serde_json::Value;

use crate::spec::{InstanceSpec, NicSpec};

/// Names of NICs that are for the talk between an instance and its node begin so.
const COMMUNICATION: &str = "ganeti:communication:";
/// The VLANs of a port are filtered by numbers below this.
const VLANS: u16 = 4095;

/// How much of an instance's name is said at its devices; the kernel keeps 255 bytes.
const OWNER_MAX: usize = 200;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A command that has to succeed.
    Run(Vec<String>),
    /// A setting of the kernel's; one that is not there is left alone.
    Set(PathBuf, &'static str),
}

impl Step {
    pub(crate) fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(|word| (*word).to_owned()).collect())
    }
}

/// What is to be known of a bridge before a NIC becomes a port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) mtu: u32,
    /// Whether it tells VLANs apart.
    pub(crate) vlan_filtering: bool,
    /// The VLAN that new ports are on; 0 is none.
    pub(crate) default_pvid: u16,
    /// Its ports that are no instances'.
    pub(crate) uplinks: Vec<String>,
    /// VLANs that an interface of their own takes off an uplink: the number, and the uplink.
    pub(crate) taken_vlans: Vec<(u16, String)>,
}

/// Whether a NIC is for the talk between an instance and its node.
pub(crate) fn is_communication(nic: &NicSpec) -> bool {
    nic.mode == NicMode::Routed.as_str()
        && nic.name.as_deref().is_some_and(|name| name.starts_with(COMMUNICATION))
}

/// The name of a NIC's tap device; `None` for a mode that needs none. It follows from the NIC alone, so that whoever knows
/// the NIC can take the device away. Ganeti's begin the same, with a number behind it (3.0, `hv_kvm` `_GenerateKvmTapName`).
pub(crate) fn tap_name(nic: &NicSpec) -> Option<String> {
    match NicMode::parse(&nic.mode)? {
        NicMode::Bridged | NicMode::Openvswitch | NicMode::Routed => {}
        NicMode::Pool | NicMode::User => return None,
    }
    let digits = nic.uuid.as_str().chars().filter(char::is_ascii_alphanumeric);
    // The kernel's names have at most 15 characters.
    Some(match is_communication(nic) {
        true => digits.take(7).fold("gnt.com.".to_owned(), |name, digit| name + &digit.to_string()),
        false => digits.take(12).fold("tap".to_owned(), |name, digit| name + &digit.to_string()),
    })
}

/// What a tap device and QEMU's end of it have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Packets keep their virtio header.
    pub(crate) vnet_hdr: bool,
    /// The kernel carries the packets.
    pub(crate) vhost: bool,
    pub(crate) queues: u64,
}

/// Ganeti: only a paravirtual card has them, and several queues only with `vhost_net` (3.0, `hv_kvm`
/// `_GetNetworkDeviceFeatures`).
pub(crate) fn features(spec: &InstanceSpec) -> Features {
    let paravirtual = matches!(spec.hv("nic_type"), "" | "paravirtual");
    let flag = |name: &str| paravirtual && spec.hv_flag(name);
    let vhost = flag("vhost_net");
    let queues = spec.hvparams.get("virtio_net_queues").and_then(Value::as_u64).unwrap_or(1);
    Features { vnet_hdr: flag("vnet_hdr"), vhost, queues: if vhost { queues.max(1) } else { 1 } }
}

/// Makes a tap device, for a user of its own if QEMU runs as one, and says at it whose it is: `family` names the server.
pub(crate) fn create(spec: &InstanceSpec, index: usize, tap: &str, family: &str) -> Vec<Step> {
    let features = features(spec);
    let mut words = vec!["ip", "tuntap", "add", "dev", tap, "mode", "tap"];
    if features.vnet_hdr {
        words.push("vnet_hdr");
    }
    if features.queues > 1 {
        words.push("multi_queue");
    }
    if spec.hv("security_model") == "user" && !spec.hv("security_domain").is_empty() {
        words.extend(["user", spec.hv("security_domain")]);
    }
    let owner: String = spec.name.chars().take(OWNER_MAX).collect();
    let alias = format!("{family}: nic {index} of instance {owner}");
    vec![Step::run(&words), Step::run(&["ip", "link", "set", "dev", tap, "alias", &alias])]
}

/// Connects a tap device that is there. `bridge` is what LINK is, of a NIC in mode `bridged`; what cannot be done is told.
pub(crate) fn connect(
    instance: &str,
    index: usize,
    nic: &NicSpec,
    tap: &str,
    bridge: Option<&Bridge>,
) -> Result<Vec<Step>, String> {
    if nic.link.starts_with('-') {
        return Err(format!("link '{}' would be taken for an option", nic.link));
    }
    match NicMode::parse(&nic.mode) {
        Some(NicMode::Bridged) => {
            let link = &nic.link;
            let bridge = bridge.ok_or_else(|| format!("there is no bridge {link}"))?;
            bridged(instance, index, nic, tap, bridge)
        }
        // Ganeti: what a script of the administrator's does not set up stays alone (3.0, `kvm-ifup`).
        Some(NicMode::Routed) if is_communication(nic) => {
            Ok(vec![Step::run(&["ip", "link", "set", "dev", tap, "up"])])
        }
        Some(NicMode::Routed) => routed(nic, tap),
        Some(NicMode::Openvswitch) => Ok(openvswitch(nic, tap)),
        Some(NicMode::Pool | NicMode::User) | None => Ok(Vec::new()),
    }
}

/// Takes a tap device off and away; each step is tried whatever came of those before.
pub(crate) fn disconnect(nic: &NicSpec, tap: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    match NicMode::parse(&nic.mode) {
        // A rule outlives its device, and waits for the next one of that name.
        Some(NicMode::Routed) if !nic.link.is_empty() && !is_communication(nic) => {
            let rule = ["ip", family(nic), "rule", "del", "dev", tap, "table", &nic.link];
            steps.push(Step::run(&rule));
        }
        // So does a port in the switch's database.
        Some(NicMode::Openvswitch) => {
            steps.push(Step::Run(vsctl(&["--if-exists", "del-port", tap])))
        }
        _ => {}
    }
    steps.push(Step::run(&["ip", "link", "del", "dev", tap]));
    steps
}

fn bridged(
    instance: &str,
    index: usize,
    nic: &NicSpec,
    tap: &str,
    bridge: &Bridge,
) -> Result<Vec<Step>, String> {
    // Ganeti: a bridge takes the lowest address of its ports for its own; this one is above all (3.0, `fix_mac`).
    let address = format!("fe{}", nic.mac.get(2..).unwrap_or_default());
    let mtu = bridge.mtu.to_string();
    let mut steps = vec![Step::run(&[
        "ip", "link", "set", "dev", tap, "address", &address, "mtu", &mtu, "master", &nic.link,
        "up",
    ])];
    let vlans = Vlans::parse(&nic.vlan)?;
    if vlans == Vlans::default() {
        return Ok(steps);
    }
    if !bridge.vlan_filtering {
        return Err(format!(
            "Instance {instance} NIC {index} configured for VLAN support, but bridge {} has VLAN filtering disabled",
            nic.link
        ));
    }
    let vlan = |action: &str, port: &str, vid: u16, flags: &[&str]| {
        let vid = vid.to_string();
        let words = ["bridge", "vlan", action, "dev", port, "vid", &vid];
        Step::run(&[&words, flags, &["master"]].concat())
    };
    for vid in vlans.all() {
        if let Some((vid, uplink)) = bridge.taken_vlans.iter().find(|(taken, _)| *taken == vid) {
            return Err(format!("VLAN {vid} is in use by lower interface {uplink}"));
        }
        let untagged = vlans.untagged == Some(vid);
        let flags: &[&str] = if untagged { &["pvid", "untagged"] } else { &[] };
        steps.push(vlan("add", tap, vid, flags));
        steps.extend(bridge.uplinks.iter().map(|uplink| vlan("add", uplink, vid, &[])));
    }
    let default = bridge.default_pvid;
    if vlans.untagged.is_some() && default != 0 && !vlans.all().any(|vid| vid == default) {
        // Or what is sent to everybody on the bridge's own VLAN would reach it.
        steps.push(vlan("del", tap, default, &[]));
    }
    Ok(steps)
}

/// The option of `ip` for a NIC's address.
fn family(nic: &NicSpec) -> &'static str {
    match nic.ip.as_deref().map(str::parse) {
        Some(Ok(IpAddr::V6(_))) => "-6",
        _ => "-4",
    }
}

fn routed(nic: &NicSpec, tap: &str) -> Result<Vec<Step>, String> {
    let ip = nic.ip.as_deref().filter(|ip| !ip.is_empty());
    let ip = ip.ok_or("Routed NIC but no IP address specified")?;
    let option = family(nic);
    let mut steps = vec![Step::run(&["ip", "link", "set", "dev", tap, "up"])];
    let mut route = vec!["ip", option, "route", "replace", ip];
    if !nic.link.is_empty() {
        steps.push(Step::run(&["ip", option, "rule", "add", "dev", tap, "table", &nic.link]));
        route.extend(["table", &nic.link]);
    }
    route.extend(["proto", "static", "dev", tap]);
    steps.push(Step::run(&route));
    for (family, proxy) in [("ipv4", "proxy_arp"), ("ipv6", "proxy_ndp")] {
        let dir = PathBuf::from("/proc/sys/net").join(family).join("conf").join(tap);
        steps.push(Step::Set(dir.join(proxy), "1"));
        steps.push(Step::Set(dir.join("forwarding"), "1"));
    }
    Ok(steps)
}

fn vsctl(words: &[&str]) -> Vec<String> {
    // It would wait for ever for a switch that does not run.
    ["ovs-vsctl", "--timeout=10"].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

fn openvswitch(nic: &NicSpec, tap: &str) -> Vec<Step> {
    // The switch takes the numbers as they are, and says what it thinks of them.
    let access = nic.vlan.strip_prefix('.').unwrap_or(&nic.vlan);
    let (tag, trunks) = access.split_once(':').unwrap_or((access, ""));
    let mut words: Vec<String> = ["--if-exists", "del-port", tap, "--", "add-port", &nic.link, tap]
        .map(str::to_owned)
        .into();
    if !tag.is_empty() {
        words.push(format!("tag={tag}"));
    }
    if !trunks.is_empty() {
        words.push(format!("trunks={}", trunks.replace(':', ",")));
    }
    if !tag.is_empty() && !trunks.is_empty() {
        // By itself a port with a tag ignores its trunks.
        words.push("vlan_mode=native-untagged".to_owned());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    vec![Step::run(&["ip", "link", "set", "dev", tap, "up"]), Step::Run(vsctl(&words))]
}

/// The parameter `vlan`: `.N` untagged, `:N:M` tagged, `.N:M` both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vlans {
    untagged: Option<u16>,
    tagged: Vec<u16>,
}

impl Vlans {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("Specified VLAN parameter is invalid : {text}");
        let number = |part: &str| {
            let vid: u16 = part.parse().map_err(|_| wrong())?;
            if (1..VLANS).contains(&vid) { Ok(vid) } else { Err(wrong()) }
        };
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut parts = text.strip_prefix('.').unwrap_or(text).split(':');
        let untagged = match parts.next() {
            None | Some("") => None,
            Some(part) => Some(number(part)?),
        };
        Ok(Self { untagged, tagged: parts.map(number).collect::<Result<_, _>>()? })
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        self.untagged.into_iter().chain(self.tagged.iter().copied())
    }
}

/// VLANs that have interfaces of their own, from the kernel's table of them: the number, and the interface below.
pub(crate) fn vlan_interfaces(table: &str) -> Vec<(u16, String)> {
    let row = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (_, vid, below) = (columns.next()?, columns.next()?, columns.next()?);
        Some((vid.parse().ok()?, below.to_owned()))
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
