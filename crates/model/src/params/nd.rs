//! Node parameters. Layers: cluster, node group, node.

use super::{
    Kind, Lit, Row, check_not_global, defaults as table_defaults, fill as lay, force_types, row,
};
use crate::config::{Cluster, Node, NodeGroup};
use crate::error::Result;
use crate::param::Dict;

/// The parameters, in the order in which they are shown.
pub const TABLE: &[Row] = &[
    Row::new(
        "oob_program",
        Kind::Text,
        Lit::Text(""),
        "Command that reaches the node when it is off",
    ),
    Row::new("spindle_count", Kind::Int, Lit::Int(1), "Number of disk spindles"),
    Row::new(
        "exclusive_storage",
        Kind::Bool,
        Lit::Bool(false),
        "Whether instances get whole physical volumes for themselves",
    ),
    Row::new("ovs", Kind::Bool, Lit::Bool(false), "Whether Open vSwitch is set up"),
    Row::new("ovs_name", Kind::MaybeText, Lit::Text("switch1"), "Name of the virtual switch"),
    Row::new(
        "ovs_link",
        Kind::MaybeText,
        Lit::Text(""),
        "Interface that the virtual switch is linked to",
    ),
    Row::new("ssh_port", Kind::Int, Lit::Int(22), "Port of the SSH server"),
    Row::new("cpu_speed", Kind::Float, Lit::Float(1.0), "Speed of a CPU relative to other nodes'"),
];

/// What a single node may not set.
pub const GLOBALS: &[&str] = &["exclusive_storage"];

/// The built-in defaults.
pub fn defaults() -> Dict {
    table_defaults(TABLE)
}

/// The parameters in the order of the table, which is that of Ganeti's configuration file.
pub fn in_order(params: &Dict) -> Dict {
    let known = |row: &Row| Some((row.name.to_owned(), params.get(row.name)?.clone()));
    TABLE.iter().filter_map(known).collect()
}

/// Cluster < group < node (Ganeti 3.0, `objects.py` `Cluster.FillND`).
pub fn fill(cluster: &Cluster, group: Option<&NodeGroup>, node: &Node) -> Dict {
    let base = match group {
        Some(group) => fill_group(cluster, group),
        None => fill_cluster(cluster),
    };
    lay(&base, &node.ndparams)
}

/// Cluster < group (Ganeti 3.0, `objects.py` `Cluster.FillNDGroup`).
pub fn fill_group(cluster: &Cluster, group: &NodeGroup) -> Dict {
    lay(&fill_cluster(cluster), &group.ndparams)
}

/// Built-in < cluster.
pub fn fill_cluster(cluster: &Cluster) -> Dict {
    lay(&defaults(), &cluster.ndparams)
}

/// Forces types; with `allow_default`, values of `default` stay.
pub fn force(params: &mut Dict, allow_default: bool) -> Result<()> {
    let allowed: &[&str] = if allow_default { &[super::VALUE_DEFAULT] } else { &[] };
    force_types(params, |name| row(TABLE, name).map(|row| row.kind), allowed)
}

/// Refuses what only a group or the cluster may set.
pub fn check_node_level(params: &Dict) -> Result<()> {
    check_not_global(params, GLOBALS, "node", "node", "cluster or group")
}
