//! The fields of nodes.

use std::cell::OnceCell;
use std::sync::Arc;

use ::node::NodeState;
use model::config::{Instance, Node, NodeGroup};
use model::param::{Dict, StorageType};
use model::params::{Kind, nd};
use model::query::filter::Mode;
use model::query::{Cell, FieldKind};
use model::units::natural_cmp;
use serde_json::Value;

use super::Live;
use super::field::{META, Reads, list, normal, or_no_data, or_unavailable, subject};

/// A node and what its fields need.
pub(super) struct Cx<'a> {
    live: &'a Live<'a>,
    node: &'a Node,
    ndparams: OnceCell<Option<Dict>>,
    state: OnceCell<Option<Arc<NodeState>>>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(live: &'a Live<'a>, node: &'a Node) -> Self {
        Self { live, node, ndparams: OnceCell::new(), state: OnceCell::new() }
    }

    fn group(&self) -> Option<&NodeGroup> {
        self.live.config.groups.get(&self.node.group).map(|group| &**group)
    }

    fn ndparams(&self) -> Option<&Dict> {
        let filled = self.ndparams.get_or_init(|| {
            Some(nd::fill(&self.live.config.cluster, Some(self.group()?), self.node))
        });
        filled.as_ref()
    }

    /// A value of the node's state.
    fn live(&self, value: impl Fn(&NodeState) -> Option<Value>) -> Cell {
        if self.node.offline {
            return Cell::Offline;
        }
        let state = self.state.get_or_init(|| self.live.state(&self.node.meta.uuid));
        or_no_data(state.as_ref().and_then(|state| value(state)))
    }

    fn is_master(&self) -> bool {
        self.live.config.cluster.master_node == self.node.meta.uuid
    }

    fn powered(&self) -> Cell {
        match self.ndparams() {
            None => Cell::NoData,
            Some(filled) => {
                let program = filled.get("oob_program").and_then(Value::as_str);
                let has_oob = program.is_some_and(|program| !program.is_empty());
                or_unavailable(has_oob.then_some(self.node.powered))
            }
        }
    }
}

/// The letter of a node's role; the first that holds counts.
fn role(node: &Node, is_master: bool) -> &'static str {
    match node {
        _ if is_master => "M",
        Node { master_candidate: true, .. } => "C",
        Node { drained: true, .. } => "D",
        Node { offline: true, .. } => "O",
        Node { .. } => "R",
    }
}

/// The names of instances, in natural order.
pub(super) fn instance_names<'a>(instances: impl Iterator<Item = &'a Arc<Instance>>) -> Cell {
    let mut names: Vec<&str> = instances.map(|instance| instance.name.as_str()).collect();
    names.sort_by(|a, b| natural_cmp(a, b));
    normal(names)
}

/// The storage that is shown: the first that is no physical volume; or the physical volumes.
fn storage(state: &NodeState, physical: bool) -> Option<&::node::StorageUnit> {
    state.storage.iter().find(|unit| (unit.kind == StorageType::LvmPv) == physical)
}

/// The kind of field that a parameter's type makes.
pub(super) fn param_kind(kind: Kind) -> FieldKind {
    match kind {
        Kind::Text | Kind::MaybeText => FieldKind::Other,
        Kind::Bool => FieldKind::Bool,
        Kind::Size => FieldKind::Unit,
        Kind::Int => FieldKind::Number,
        Kind::Float => FieldKind::Float,
    }
}

/// Name, title, kind and description of the node parameters' fields, for nodes and groups.
pub(super) fn nd_params() -> impl Iterator<Item = (&'static str, String, String, FieldKind, String)>
{
    const TITLES: &[(&str, &str)] = &[
        ("exclusive_storage", "ExclusiveStorage"),
        ("oob_program", "OutOfBandProgram"),
        ("ovs", "OpenvSwitch"),
        ("ovs_link", "OpenvSwitchLink"),
        ("ovs_name", "OpenvSwitchName"),
        ("spindle_count", "SpindleCount"),
    ];
    nd::TABLE.iter().map(|param| {
        let name = format!("ndp/{}", param.name);
        let title = TITLES.iter().find(|(titled, _)| *titled == param.name);
        let title = title.map_or_else(|| name.clone(), |(_, title)| (*title).to_owned());
        let doc = format!("The \"{}\" node parameter", param.name);
        (param.name, name, title, param_kind(param.kind), doc)
    })
}

subject!(
    /// Nodes.
    Nodes, Cx<'a>, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::{Bool, Number, Other, Text};
    let mut rows = vec![
        row("drained", "Drained", Bool, "Whether node is drained", |cx| normal(cx.node.drained)),
        row("master_candidate", "MasterC", Bool, "Whether node is a master candidate",
            |cx| normal(cx.node.master_candidate)),
        row("master_capable", "MasterCapable", Bool, "Whether node can become a master candidate",
            |cx| normal(cx.node.master_capable)),
        row("name", "Node", Text, "Node name", |cx| normal(cx.node.name.as_str())).mode(Mode::Hostname),
        row("offline", "Offline", Bool, "Whether node is marked offline", |cx| normal(cx.node.offline)),
        row("vm_capable", "VMCapable", Bool, "Whether node can host instances", |cx| normal(cx.node.vm_capable)),
        row("pip", "PrimaryIP", Text, "Primary IP address", |cx| normal(cx.node.primary_ip.as_str())),
        row("sip", "SecondaryIP", Text, "Secondary IP address", |cx| normal(cx.node.secondary_ip.as_str())),
        row("master", "IsMaster", Bool, "Whether node is master", |cx| normal(cx.is_master())),
        row("group", "Group", Text, "Node group", |cx| or_no_data(cx.group().map(|group| group.name.as_str()))),
        row("group.uuid", "GroupUUID", Text, "UUID of node group", |cx| normal(&cx.node.group)),
        row("ndparams", "NodeParameters", Other, "Merged node parameters", |cx| or_no_data(cx.ndparams().cloned())),
        row("custom_ndparams", "CustomNodeParameters", Other, "Custom node parameters",
            |cx| normal(cx.node.ndparams.clone())),
        row("pinst_cnt", "Pinst", Number, "Number of instances with this node as primary",
            |cx| normal(cx.live.config.primaries(&cx.node.meta.uuid).count())),
        row("sinst_cnt", "Sinst", Number, "Number of instances with this node as secondary",
            |cx| normal(cx.live.config.secondaries(&cx.node.meta.uuid).count())),
        row("pinst_list", "PriInstances", Other, "List of instances with this node as primary",
            |cx| instance_names(cx.live.config.primaries(&cx.node.meta.uuid))),
        row("sinst_list", "SecInstances", Other, "List of instances with this node as secondary",
            |cx| instance_names(cx.live.config.secondaries(&cx.node.meta.uuid))),
        row("role", "Role", Text,
            "Node role; \"M\" for master, \"C\" for master candidate, \"R\" for regular, \"D\" for drained, \"O\" for \
             offline",
            |cx| normal(role(cx.node, cx.is_master()))),
        row("powered", "Powered", Bool, "Whether node is thought to be powered on", |cx| cx.powered()),
        // Ganeti: declared, and never there (3.0, Query/Node.hs).
        row("hv_state", "HypervisorState", Other, "Hypervisor state", |_| Cell::Unavailable),
        row("disk_state", "DiskState", Other, "Disk state", |_| Cell::Unavailable),
        row("tags", "Tags", Other, "Tags", |cx| list(&cx.node.tags, |tag| tag.as_str())),
    ];
    rows.extend(live_rows());
    for (param, name, title, kind, doc) in nd_params() {
        rows.push(row(&name, &title, kind, &doc, move |cx: &Cx<'_>| {
            or_no_data(cx.ndparams().and_then(|filled| filled.get(param).cloned()))
        }));
    }
    for (name, title, kind, doc, value) in META {
        rows.push(row(name, title, *kind, &doc.replace('%', "Node"), |cx: &Cx<'_>| normal(value(&cx.node.meta))));
    }
    rows
}

#[rustfmt::skip]
fn live_rows() -> Vec<Field> {
    use FieldKind::{Number, Text, Unit};
    let rows = vec![
        row("bootid", "BootID", Text,
            "Random UUID renewed for each system reboot, can be used for detecting reboots by tracking changes",
            |cx| cx.live(|state| Some(state.boot_id.as_str().into()))),
        row("cnodes", "CNodes", Number, "Number of NUMA domains on node (if exported by hypervisor)",
            |cx| cx.live(|state| Some(state.cpu_nodes.into()))),
        row("cnos", "CNOs", Number, "Number of logical processors used by the node OS (dom0 for Xen)",
            |cx| cx.live(|state| Some(state.cpu_host.into()))),
        row("csockets", "CSockets", Number, "Number of physical CPU sockets (if exported by hypervisor)",
            |cx| cx.live(|state| Some(state.cpu_sockets.into()))),
        row("ctotal", "CTotal", Number, "Number of logical processors",
            |cx| cx.live(|state| Some(state.cpu_total.into()))),
        row("dfree", "DFree", Unit, "Available storage space on storage unit",
            |cx| cx.live(|state| storage(state, false).map(|unit| unit.free_mib.into()))),
        row("dtotal", "DTotal", Unit, "Total storage space on storage unit for instance disk allocation",
            |cx| cx.live(|state| storage(state, false).map(|unit| unit.total_mib.into()))),
        row("spfree", "SpFree", Number, "Available spindles in volume group (exclusive storage only)",
            |cx| cx.live(|state| storage(state, true).map(|unit| unit.free_mib.into()))),
        row("sptotal", "SpTotal", Number, "Total spindles in volume group (exclusive storage only)",
            |cx| cx.live(|state| storage(state, true).map(|unit| unit.total_mib.into()))),
        row("mfree", "MFree", Unit, "Memory available for instance allocations",
            |cx| cx.live(|state| Some(state.memory_free_mib.into()))),
        row("mnode", "MNode", Unit, "Amount of memory used by node (dom0 for Xen)",
            |cx| cx.live(|state| Some(state.memory_host_mib.into()))),
        row("mtotal", "MTotal", Unit, "Total amount of memory of physical machine",
            |cx| cx.live(|state| Some(state.memory_total_mib.into()))),
    ];
    rows.into_iter().map(|row| row.reads(Reads::Live)).collect()
}
