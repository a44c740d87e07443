//! The fields of networks.

use std::sync::Arc;

use model::config::{Instance, Network};
use model::query::{Cell, FieldKind};
use serde_json::json;

use super::Live;
use super::field::{META, list, normal, or_unavailable, subject};
use crate::pool;

/// A network and what its fields need.
pub(super) struct Cx<'a> {
    live: &'a Live<'a>,
    network: &'a Network,
}

impl<'a> Cx<'a> {
    pub(super) fn new(live: &'a Live<'a>, network: &'a Network) -> Self {
        Self { live, network }
    }

    fn size(&self) -> u32 {
        pool::range(self.network).map_or(0, |(_, size)| size)
    }

    fn taken(&self) -> u32 {
        let all = self.network.reservations.clone().union(self.network.ext_reservations.clone());
        u32::try_from(all.len()).unwrap_or(u32::MAX)
    }

    /// One character per address.
    fn map(&self) -> String {
        let mut map = vec![b'.'; self.size() as usize];
        for offset in self.network.reservations.iter().chain(&self.network.ext_reservations) {
            if let Some(place) = map.get_mut(*offset as usize) {
                *place = b'X';
            }
        }
        String::from_utf8_lossy(&map).into_owned()
    }

    fn groups(&self) -> Cell {
        let groups = self.live.config.groups.values().filter_map(|group| {
            let link = group.networks.get(&self.network.meta.uuid)?;
            Some(json!([group.name, link.mode, link.link, link.vlan]))
        });
        Cell::Normal(groups.collect())
    }

    fn group_count(&self) -> usize {
        let uuid = &self.network.meta.uuid;
        self.live.config.groups.values().filter(|group| group.networks.contains_key(uuid)).count()
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        let uuid = Some(&self.network.meta.uuid);
        let on_it = move |instance: &&Arc<Instance>| {
            instance.nics.iter().any(|nic| nic.network.as_ref() == uuid)
        };
        self.live.config.instances.values().filter(on_it)
    }

    fn external(&self) -> String {
        let address = |offset: &u32| pool::address(self.network, *offset);
        let addresses: Vec<String> =
            self.network.ext_reservations.iter().filter_map(address).collect();
        addresses.join(", ")
    }
}

subject!(
    /// Networks.
    Networks, Cx<'a>, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::{Number, Other, Text};
    let mut rows = vec![
        row("name", "Network", Text, "Name", |cx| normal(cx.network.name.as_str())),
        row("network", "Subnet", Text, "IPv4 subnet", |cx| normal(cx.network.network.as_str())),
        row("gateway", "Gateway", Other, "IPv4 gateway", |cx| or_unavailable(cx.network.gateway.clone())),
        row("network6", "IPv6Subnet", Other, "IPv6 subnet", |cx| or_unavailable(cx.network.network6.clone())),
        row("gateway6", "IPv6Gateway", Other, "IPv6 gateway", |cx| or_unavailable(cx.network.gateway6.clone())),
        row("mac_prefix", "MacPrefix", Other, "MAC address prefix",
            |cx| or_unavailable(cx.network.mac_prefix.clone())),
        row("free_count", "FreeCount", Number, "Number of available addresses",
            |cx| normal(cx.size().saturating_sub(cx.taken()))),
        row("map", "Map", Text, "Actual mapping", |cx| normal(cx.map())),
        row("reserved_count", "ReservedCount", Number, "Number of reserved addresses", |cx| normal(cx.taken())),
        row("group_list", "GroupList", Other, "List of nodegroups (group name, NIC mode, NIC link)",
            |cx| cx.groups()),
        row("group_cnt", "NodeGroups", Number, "Number of nodegroups", |cx| normal(cx.group_count())),
        row("inst_list", "InstanceList", Other, "List of instances",
            |cx| list(cx.instances(), |instance| instance.name.as_str())),
        row("inst_cnt", "Instances", Number, "Number of instances", |cx| normal(cx.instances().count())),
        row("external_reservations", "ExternalReservations", Text, "External reservations",
            |cx| normal(cx.external())),
        row("tags", "Tags", Other, "Tags", |cx| list(&cx.network.tags, |tag| tag.as_str())),
    ];
    for (name, title, kind, doc, value) in META {
        rows.push(row(name, title, *kind, &doc.replace('%', "Network"), |cx: &Cx<'_>| {
            normal(value(&cx.network.meta))
        }));
    }
    rows
}
