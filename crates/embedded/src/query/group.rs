//! The fields of node groups.

use std::sync::Arc;

use model::config::{Instance, NodeGroup};
use model::param::Dict;
use model::params::{disk, ipolicy, nd};
use model::query::FieldKind;

use super::Live;
use super::field::{META, list, normal, or_no_data, subject};
use super::node::{instance_names, nd_params};

/// A group and what its fields need.
pub(super) struct Cx<'a> {
    live: &'a Live<'a>,
    group: &'a NodeGroup,
}

impl<'a> Cx<'a> {
    pub(super) fn new(live: &'a Live<'a>, group: &'a NodeGroup) -> Self {
        Self { live, group }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        let config = self.live.config;
        config.members(&self.group.meta.uuid).flat_map(|node| config.primaries(&node.meta.uuid))
    }
}

subject!(
    /// Node groups.
    Groups, Cx<'a>, rows, &[]
);

/// Ganeti: here a group's parameters of a template take the place of all of the cluster's, though disks get them one by one
/// (3.0.2, `Query/Group.hs`).
fn shown_diskparams(cx: &Cx<'_>) -> Dict {
    let mut shown = disk::fill(&cx.live.config.cluster, None);
    for (template, own) in &cx.group.diskparams {
        shown.insert(template.clone(), own.clone());
    }
    shown
}

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::{Number, Other, Text};
    let mut rows = vec![
        row("alloc_policy", "AllocPolicy", Text, "Allocation policy for group",
            |cx| normal(cx.group.alloc_policy.as_str())),
        row("custom_diskparams", "CustomDiskParameters", Other, "Custom disk parameters",
            |cx| normal(cx.group.diskparams.clone())),
        row("custom_ipolicy", "CustomInstancePolicy", Other, "Custom instance policy limitations",
            |cx| normal(cx.group.ipolicy.clone())),
        row("custom_ndparams", "CustomNDParams", Other, "Custom node parameters",
            |cx| normal(cx.group.ndparams.clone())),
        row("diskparams", "DiskParameters", Other, "Disk parameters (merged)",
            |cx| normal(shown_diskparams(cx))),
        row("ipolicy", "InstancePolicy", Other, "Instance policy limitations (merged)",
            |cx| normal(ipolicy::fill(&cx.live.config.cluster, cx.group))),
        row("name", "Group", Text, "Group name", |cx| normal(cx.group.name.as_str())),
        row("ndparams", "NDParams", Other, "Node parameters",
            |cx| normal(nd::fill_group(&cx.live.config.cluster, cx.group))),
        row("node_cnt", "Nodes", Number, "Number of nodes",
            |cx| normal(cx.live.config.members(&cx.group.meta.uuid).count())),
        row("node_list", "NodeList", Other, "List of nodes",
            |cx| list(cx.live.config.members(&cx.group.meta.uuid), |node| node.name.as_str())),
        row("pinst_cnt", "Instances", Number, "Number of primary instances", |cx| normal(cx.instances().count())),
        row("pinst_list", "InstanceList", Other, "List of primary instances", |cx| instance_names(cx.instances())),
        row("tags", "Tags", Other, "Tags", |cx| list(&cx.group.tags, |tag| tag.as_str())),
    ];
    for (param, name, title, kind, doc) in nd_params() {
        rows.push(row(&name, &title, kind, &doc, move |cx: &Cx<'_>| {
            or_no_data(nd::fill_group(&cx.live.config.cluster, cx.group).remove(param))
        }));
    }
    for (name, title, kind, doc, value) in META {
        rows.push(row(name, title, *kind, &doc.replace('%', "Group"), |cx: &Cx<'_>| normal(value(&cx.group.meta))));
    }
    rows
}
