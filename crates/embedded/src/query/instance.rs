//! The fields of instances.

use std::cell::OnceCell;
use std::sync::Arc;

use ::node::Console;
use model::config::{Disk, Instance, Network, Nic, Node, NodeGroup};
use model::name::Uuid;
use model::param::{AdminState, Dict, DiskTemplate, Hypervisor};
use model::params::{be, hv, nic, os};
use model::query::filter::Mode;
use model::query::{Cell, FieldKind};
use serde_json::{Value, json};

use super::Live;
use super::field::{META, Reads, list, normal, or_no_data, or_unavailable, subject};
use super::status::{Primary, Seen, UserShutdown, see, status};

/// Ganeti's limits (3.0, `constants.MAX_DISKS`, `MAX_NICS`).
const DISKS_MAX: usize = 16;
const NICS_MAX: usize = 8;
/// What a drbd disk takes beside its data, in MiB.
const DRBD_META_MIB: u64 = 128;
/// The port of VNC's display 0.
const VNC_BASE_PORT: u16 = 5900;

/// An instance and what its fields need; what several fields need is computed once.
pub(super) struct Cx<'a> {
    live: &'a Live<'a>,
    instance: &'a Instance,
    disks: OnceCell<Vec<Arc<Disk>>>,
    hvparams: OnceCell<Dict>,
    beparams: OnceCell<Dict>,
    /// Of each NIC, filled.
    nicparams: OnceCell<Vec<Dict>>,
    seen: OnceCell<Seen>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(live: &'a Live<'a>, instance: &'a Instance) -> Self {
        Self {
            live,
            instance,
            disks: OnceCell::new(),
            hvparams: OnceCell::new(),
            beparams: OnceCell::new(),
            nicparams: OnceCell::new(),
            seen: OnceCell::new(),
        }
    }

    fn disks(&self) -> &[Arc<Disk>] {
        self.disks.get_or_init(|| self.live.config.instance_disks(self.instance))
    }

    fn hvparams(&self) -> &Dict {
        let Self { live, instance, .. } = self;
        let cluster = &live.config.cluster;
        self.hvparams.get_or_init(|| {
            let (os, own) = (&instance.os, &instance.hvparams);
            hv::fill_without_globals(cluster, instance.hypervisor, os, own, live.compat)
        })
    }

    fn beparams(&self) -> &Dict {
        let cluster = &self.live.config.cluster;
        self.beparams.get_or_init(|| be::fill(cluster, &self.instance.beparams))
    }

    fn seen(&self) -> Seen {
        *self.seen.get_or_init(|| see(self.live, self.instance))
    }

    fn primary(&self) -> Option<&Node> {
        self.live.config.nodes.get(&self.instance.primary_node).map(|node| &**node)
    }

    fn primary_group(&self) -> Option<&NodeGroup> {
        self.live.config.groups.get(&self.primary()?.group).map(|group| &**group)
    }

    fn secondaries(&self) -> Vec<&Node> {
        let uuids = self.live.config.secondary_nodes(self.instance);
        uuids
            .iter()
            .filter_map(|uuid| self.live.config.nodes.get(uuid))
            .map(|node| &**node)
            .collect()
    }

    fn secondary_groups(&self) -> Vec<&NodeGroup> {
        let groups = &self.live.config.groups;
        let nodes = self.secondaries();
        nodes.iter().filter_map(|node| groups.get(&node.group)).map(|group| &**group).collect()
    }

    fn nic(&self, index: usize) -> Option<&Nic> {
        self.instance.nics.get(index)
    }

    fn network(&self, nic: &Nic) -> Option<&Network> {
        self.live.config.networks.get(nic.network.as_ref()?).map(|network| &**network)
    }

    /// A filled parameter of a NIC; the VLAN means something with Open vSwitch only, the bridge with a bridge only.
    fn nic_param(&self, index: usize, what: NicParam) -> Option<&str> {
        let cluster = &self.live.config.cluster;
        let filled = self.nicparams.get_or_init(|| {
            self.instance.nics.iter().map(|nic| nic::fill(cluster, &nic.nicparams)).collect()
        });
        let filled = filled.get(index)?;
        let text = |name: &str| filled.get(name).and_then(Value::as_str).unwrap_or("");
        match what {
            NicParam::Mode => Some(text("mode")),
            NicParam::Link => Some(text("link")),
            NicParam::Vlan => (text("mode") == "openvswitch").then(|| text("vlan")),
            NicParam::Bridge => (text("mode") == "bridged").then(|| text("link")),
        }
    }

    /// That parameter of all NICs.
    fn nic_params(&self, what: NicParam) -> Cell {
        list(0..self.instance.nics.len(), |at| self.nic_param(at, what))
    }

    fn status(&self) -> &'static str {
        let reported = self.live.config.cluster.enabled_user_shutdown;
        let possible = self.instance.hypervisor != Hypervisor::Kvm
            || self.hvparams().get("user_shutdown") == Some(&Value::Bool(true));
        let Instance { admin_state, admin_state_source, .. } = self.instance;
        let user_shutdown = UserShutdown { reported, possible: reported && possible };
        status(*admin_state, *admin_state_source, self.seen(), user_shutdown)
    }

    /// A value of the instance as it runs.
    fn running(&self, value: fn(&super::status::Found) -> u64) -> Cell {
        match self.seen() {
            Seen { found: Some(found), .. } => normal(value(&found)),
            Seen { primary: Primary::Answers, .. } => Cell::Unavailable,
            Seen { primary: Primary::Offline, .. } => Cell::Offline,
            Seen { primary: Primary::Down, .. } => Cell::NoData,
        }
    }

    fn console(&self) -> Cell {
        match self.seen() {
            Seen { found: None, primary: Primary::Offline } => return Cell::Offline,
            Seen { found: None, primary: Primary::Down } => return Cell::NoData,
            Seen { .. } => {}
        }
        let console = (self.live.console)(self.instance);
        or_no_data(console.map(|console| console_value(&self.instance.name, &console)))
    }
}

/// The word for what an instance does.
pub(crate) fn instance_status(live: &Live<'_>, instance: &Instance) -> &'static str {
    Cx::new(live, instance).status()
}

/// The object that says how to reach a console; what is not known is left out.
fn console_value(instance: &str, console: &Console) -> Value {
    let mut value = match console {
        Console::Ssh { host, port, user, command } => json!({
            "instance": instance, "kind": "ssh", "host": host, "port": port, "user": user, "command": command,
        }),
        Console::Vnc { host, port } => json!({
            "instance": instance, "kind": "vnc", "host": host, "port": port,
            "display": port.checked_sub(VNC_BASE_PORT),
        }),
        Console::Spice { host, port } => json!({
            "instance": instance, "kind": "spice", "host": host, "port": port,
        }),
        Console::Message(text) => json!({"instance": instance, "kind": "msg", "message": text}),
    };
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

#[derive(Clone, Copy)]
enum NicParam {
    Mode,
    Link,
    Vlan,
    Bridge,
}

/// What the disks take of each of the instance's nodes, in MiB.
fn disk_usage(disks: &[Arc<Disk>]) -> u64 {
    let one = |disk: &Arc<Disk>| match disk.dev_type {
        DiskTemplate::Drbd => disk.size_mib + DRBD_META_MIB,
        DiskTemplate::Diskless | DiskTemplate::Blockdev => 0,
        DiskTemplate::Ext
        | DiskTemplate::File
        | DiskTemplate::Gluster
        | DiskTemplate::Plain
        | DiskTemplate::Rbd
        | DiskTemplate::Sharedfile => disk.size_mib,
    };
    disks.iter().map(one).sum()
}

/// The disk template as it was when an instance had one.
fn disk_template(disks: &[Arc<Disk>]) -> &'static str {
    match disks {
        [] => DiskTemplate::Diskless.as_str(),
        [first, rest @ ..] if rest.iter().all(|disk| disk.dev_type == first.dev_type) => {
            first.dev_type.as_str()
        }
        _ => "mixed",
    }
}

const ALIASES: &[(&str, &str)] = &[
    ("vcpus", "be/vcpus"),
    ("be/memory", "be/maxmem"),
    ("sda_size", "disk.size/0"),
    ("sdb_size", "disk.size/1"),
    ("ip", "nic.ip/0"),
    ("mac", "nic.mac/0"),
    ("bridge", "nic.bridge/0"),
    ("nic_mode", "nic.mode/0"),
    ("nic_link", "nic.link/0"),
    ("nic_network", "nic.network/0"),
];

subject!(
    /// Instances.
    Instances, Cx<'a>, rows, ALIASES
);

fn rows() -> Vec<Field> {
    let mut rows = plain_rows();
    rows.extend(disk_rows());
    rows.extend(nic_rows());
    rows.extend(live_rows());
    rows.extend(param_rows());
    for (name, title, kind, doc, value) in META {
        rows.push(row(name, title, *kind, &doc.replace('%', "Instance"), |cx: &Cx<'_>| {
            normal(value(&cx.instance.meta))
        }));
    }
    rows
}

#[rustfmt::skip]
fn plain_rows() -> Vec<Field> {
    use FieldKind::{Bool, Other, Text};
    vec![
        row("admin_state", "InstanceState", Text, "Desired state of instance",
            |cx| normal(cx.instance.admin_state.as_str())),
        row("admin_state_source", "InstanceStateSource", Text, "Who last changed the desired state of the instance",
            |cx| normal(cx.instance.admin_state_source.as_str())),
        row("admin_up", "Autostart", Bool, "Desired state of instance",
            |cx| normal(cx.instance.admin_state == AdminState::Up)),
        row("disks_active", "DisksActive", Bool, "Desired state of instance disks",
            |cx| normal(cx.instance.disks_active)),
        row("name", "Instance", Text, "Instance name", |cx| normal(cx.instance.name.as_str())).mode(Mode::Hostname),
        row("hypervisor", "Hypervisor", Text, "Hypervisor name", |cx| normal(cx.instance.hypervisor.as_str())),
        row("network_port", "Network_port", Other, "Instance network port if available (e.g. for VNC console)",
            |cx| or_unavailable(cx.instance.network_port)),
        row("os", "OS", Text, "Operating system", |cx| normal(cx.instance.os.as_str())),
        row("pnode", "Primary_node", Text, "Primary node",
            |cx| or_no_data(cx.primary().map(|node| node.name.as_str()))).mode(Mode::Hostname),
        row("pnode.group", "PrimaryNodeGroup", Text, "Primary node's group",
            |cx| or_no_data(cx.primary_group().map(|group| group.name.as_str()))),
        row("pnode.group.uuid", "PrimaryNodeGroupUUID", Text, "Primary node's group UUID",
            |cx| or_no_data(cx.primary_group().map(|group| &group.meta.uuid))),
        row("snodes", "Secondary_Nodes", Other, "Secondary nodes; usually this will just be one node",
            |cx| list(cx.secondaries(), |node| node.name.as_str())).reads(Reads::Disks),
        row("snodes.group", "SecondaryNodesGroups", Other, "Node groups of secondary nodes",
            |cx| list(cx.secondary_groups(), |group| group.name.as_str())).reads(Reads::Disks),
        row("snodes.group.uuid", "SecondaryNodesGroupsUUID", Other, "Node group UUIDs of secondary nodes",
            |cx| list(cx.secondary_groups(), |group| &group.meta.uuid)).reads(Reads::Disks),
        row("hvparams", "HypervisorParameters", Other, "Hypervisor parameters (merged)",
            |cx| normal(cx.hvparams().clone())),
        row("beparams", "BackendParameters", Other, "Backend parameters (merged)",
            |cx| normal(cx.beparams().clone())),
        row("osparams", "OpSysParameters", Other, "Operating system parameters (merged)",
            |cx| normal(os::fill(&cx.live.config.cluster, &cx.instance.os, &cx.instance.osparams))),
        row("custom_hvparams", "CustomHypervisorParameters", Other, "Custom hypervisor parameters",
            |cx| normal(cx.instance.hvparams.clone())),
        row("custom_beparams", "CustomBackendParameters", Other, "Custom backend parameters",
            |cx| normal(cx.instance.beparams.clone())),
        row("custom_osparams", "CustomOpSysParameters", Other, "Custom operating system parameters",
            |cx| normal(cx.instance.osparams.clone())),
        row("custom_nicparams", "CustomNicParameters", Other, "Custom network interface parameters",
            |cx| list(&cx.instance.nics, |nic| nic.nicparams.clone())),
        row("forthcoming", "Forthcoming", Bool, "whether the Instance is forthcoming",
            |cx| normal(cx.instance.forthcoming)),
        row("tags", "Tags", Other, "Tags", |cx| list(&cx.instance.tags, |tag| tag.as_str())),
    ]
}

/// `1st`, `2nd`, …
fn ordinal(number: usize) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[rustfmt::skip]
fn disk_rows() -> Vec<Field> {
    use FieldKind::{Number, Other, Text, Unit};
    let mut rows = vec![
        row("disk_usage", "DiskUsage", Unit,
            "Total disk space used by instance on each of its nodes; this is not the disk size visible to the instance, \
             but the usage on the node",
            |cx| normal(disk_usage(cx.disks()))),
        row("disk.count", "Disks", Number, "Number of disks", |cx| normal(cx.instance.disks.len())),
        row("disk.sizes", "Disk_sizes", Other, "List of disk sizes", |cx| list(cx.disks(), |disk| disk.size_mib)),
        row("disk.spindles", "Disk_spindles", Other, "List of disk spindles",
            |cx| list(cx.disks(), |disk| disk.spindles)),
        row("disk.names", "Disk_names", Other, "List of disk names", |cx| list(cx.disks(), |disk| disk.name.clone())),
        row("disk.uuids", "Disk_UUIDs", Other, "List of disk UUIDs", |cx| list(cx.disks(), |disk| &disk.meta.uuid)),
        row("disk_template", "Disk_template", Text, "Instance disk template",
            |cx| normal(disk_template(cx.disks()))),
    ];
    for at in 0..DISKS_MAX {
        let which = ordinal(at + 1);
        rows.push(row(&format!("disk.size/{at}"), &format!("Disk/{at}"), Unit, &format!("Disk size of {which} disk"),
            move |cx| or_unavailable(cx.disks().get(at).map(|disk| disk.size_mib))));
        rows.push(row(&format!("disk.spindles/{at}"), &format!("DiskSpindles/{at}"), Number,
            &format!("Spindles of {which} disk"),
            move |cx| or_unavailable(cx.disks().get(at).and_then(|disk| disk.spindles))));
        rows.push(row(&format!("disk.name/{at}"), &format!("DiskName/{at}"), Text, &format!("Name of {which} disk"),
            move |cx| or_unavailable(cx.disks().get(at).and_then(|disk| disk.name.clone()))));
        rows.push(row(&format!("disk.uuid/{at}"), &format!("DiskUUID/{at}"), Text, &format!("UUID of {which} disk"),
            move |cx| or_unavailable(cx.disks().get(at).map(|disk| &disk.meta.uuid))));
    }
    rows.into_iter().map(|row| row.reads(Reads::Disks)).collect()
}

/// A field of each NIC by index: `(name, title, what of it, value)`.
type NicRow = (
    &'static str,
    &'static str,
    &'static str,
    for<'a> fn(&'a Cx<'_>, usize, &'a Nic) -> Option<&'a str>,
);

#[rustfmt::skip]
const NIC_ROWS: &[NicRow] = &[
    ("ip", "NicIP", "IP address", |_, _, nic| nic.ip.as_deref()),
    ("uuid", "NicUUID", "UUID address", |_, _, nic| Some(nic.uuid.as_str())),
    ("mac", "NicMAC", "MAC address", |_, _, nic| Some(nic.mac.as_str())),
    ("name", "NicName", "Name address", |_, _, nic| nic.name.as_deref()),
    ("network", "NicNetwork", "Network", |_, _, nic| nic.network.as_ref().map(Uuid::as_str)),
    ("mode", "NicMode", "Mode", |cx, at, _| cx.nic_param(at, NicParam::Mode)),
    ("link", "NicLink", "Link", |cx, at, _| cx.nic_param(at, NicParam::Link)),
    ("vlan", "NicVLAN", "VLAN", |cx, at, _| cx.nic_param(at, NicParam::Vlan)),
    ("network.name", "NicNetworkName", "Network name",
        |cx, _, nic| cx.network(nic).map(|network| network.name.as_str())),
    ("bridge", "NicBridge", "Bridge", |cx, at, _| cx.nic_param(at, NicParam::Bridge)),
];

#[rustfmt::skip]
fn nic_rows() -> Vec<Field> {
    use FieldKind::{Number, Other, Text};
    let mut rows = vec![
        row("nic.count", "NICs", Number, "Number of network interfaces", |cx| normal(cx.instance.nics.len())),
        row("nic.macs", "NIC_MACs", Other, "List containing each network interface's MAC address",
            |cx| list(&cx.instance.nics, |nic| nic.mac.as_str())),
        row("nic.ips", "NIC_IPs", Other, "List containing each network interface's IP address",
            |cx| list(&cx.instance.nics, |nic| nic.ip.clone())),
        row("nic.names", "NIC_Names", Other, "List containing each network interface's name",
            |cx| list(&cx.instance.nics, |nic| nic.name.clone())),
        row("nic.uuids", "NIC_UUIDs", Other, "List containing each network interface's UUID",
            |cx| list(&cx.instance.nics, |nic| &nic.uuid)),
        row("nic.modes", "NIC_modes", Other, "List containing each network interface's mode",
            |cx| cx.nic_params(NicParam::Mode)),
        row("nic.vlans", "NIC_VLANs", Other, "List containing each network interface's VLAN",
            |cx| cx.nic_params(NicParam::Vlan)),
        row("nic.bridges", "NIC_bridges", Other, "List containing each network interface's bridge",
            |cx| cx.nic_params(NicParam::Bridge)),
        row("nic.links", "NIC_links", Other, "List containing each network interface's link",
            |cx| cx.nic_params(NicParam::Link)),
        row("nic.networks", "NIC_networks", Other, "List containing each interface's network",
            |cx| list(&cx.instance.nics, |nic| nic.network.as_ref().map(Uuid::to_string))),
        row("nic.networks.names", "NIC_networks_names", Other,
            "List containing the name of each interface's network",
            |cx| list(&cx.instance.nics, |nic| cx.network(nic).map(|network| network.name.clone()))),
    ];
    for at in 0..NICS_MAX {
        for (name, title, what, value) in NIC_ROWS {
            let doc = format!("{what} of {} network interface", ordinal(at + 1));
            rows.push(row(&format!("nic.{name}/{at}"), &format!("{title}/{at}"), Text, &doc,
                move |cx| or_unavailable(cx.nic(at).and_then(|nic| value(cx, at, nic)))));
        }
    }
    rows
}

const STATUS_DOC: &str = "Instance status; \"running\" if instance is set to be running and actually is, \"ADMIN_down\" \
    if instance is stopped and is not running, \"ERROR_wrongnode\" if instance running, but not on its designated primary \
    node, \"ERROR_up\" if instance should be stopped, but is actually running, \"ERROR_down\" if instance should run, but \
    doesn't, \"ERROR_nodedown\" if instance's primary node is down, \"ERROR_nodeoffline\" if instance's primary node is \
    marked offline, \"ADMIN_offline\" if instance is offline and does not use dynamic resources";

#[rustfmt::skip]
fn live_rows() -> Vec<Field> {
    use FieldKind::{Bool, Number, Other, Text, Unit};
    vec![
        row("status", "Status", Text, STATUS_DOC, |cx| normal(cx.status())).reads(Reads::Live),
        row("oper_state", "Running", Bool, "Actual state of instance", |cx| match cx.seen() {
            Seen { found: Some(_), .. } => normal(true),
            Seen { primary: Primary::Answers, .. } => normal(false),
            Seen { primary: Primary::Down | Primary::Offline, .. } => Cell::NoData,
        }).reads(Reads::Live),
        row("oper_ram", "Memory", Unit, "Actual memory usage as seen by hypervisor",
            |cx| cx.running(|found| found.memory_mib)).reads(Reads::Live),
        row("oper_vcpus", "VCPUs", Number, "Actual number of VCPUs as seen by hypervisor",
            |cx| cx.running(|found| found.vcpus)).reads(Reads::Live),
        row("console", "Console", Other, "Instance console information", |cx| cx.console()).reads(Reads::Node),
    ]
}

/// The titles of parameters that have one other than their name (Ganeti 3.0, `HVS_PARAMETER_TITLES` and its siblings).
const TITLES: &[(&str, &str)] = &[
    ("be/auto_balance", "Auto_balance"),
    ("be/maxmem", "ConfigMaxMem"),
    ("be/minmem", "ConfigMinMem"),
    ("be/vcpus", "ConfigVCPUs"),
    ("hv/acpi", "ACPI"),
    ("hv/boot_order", "Boot_order"),
    ("hv/cdrom_image_path", "CDROM_image_path"),
    ("hv/cpu_type", "cpu_type"),
    ("hv/disk_type", "Disk_type"),
    ("hv/initrd_path", "Initrd_path"),
    ("hv/kernel_path", "Kernel_path"),
    ("hv/nic_type", "NIC_type"),
    ("hv/pae", "PAE"),
    ("hv/pci_pass", "pci_pass"),
    ("hv/vnc_bind_address", "VNC_bind_address"),
];

fn param_rows() -> Vec<Field> {
    let title = |name: &str| {
        let found = TITLES.iter().find(|(titled, _)| *titled == name);
        found.map_or_else(|| name.to_owned(), |(_, title)| (*title).to_owned())
    };
    let mut rows = Vec::new();
    for param in be::TABLE {
        let name = format!("be/{}", param.name);
        let doc = format!("The \"{}\" backend parameter", param.name);
        let kind = super::node::param_kind(param.kind);
        rows.push(row(&name, &title(&name), kind, &doc, |cx: &Cx<'_>| {
            or_no_data(cx.beparams().get(param.name).cloned())
        }));
    }
    // Every release has the same fields: what 3.1 dropped was not shown before either.
    let compat = model::compat::Compat::V31;
    let globals = hv::globals(compat);
    for (param, kind) in hv::all_kinds(compat) {
        if globals.contains(&param) {
            continue;
        }
        let name = format!("hv/{param}");
        let doc = format!("The \"{param}\" hypervisor parameter");
        let kind = super::node::param_kind(kind);
        rows.push(row(&name, &title(&name), kind, &doc, move |cx: &Cx<'_>| {
            or_unavailable(cx.hvparams().get(param).cloned())
        }));
    }
    rows
}
