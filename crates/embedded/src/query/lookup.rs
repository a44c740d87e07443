//! Finding objects by the names that clients use: the name, a UUID, or what the name starts with up to a dot.

use std::sync::Arc;

use imbl::OrdMap;
use model::config::{self, Config, Network, Node, NodeGroup};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::query::filter::{Filter, FilterValue};
use model::units::natural_cmp;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noun {
    Instance,
    Node,
    Group,
    Network,
}

impl Noun {
    /// How Ganeti's master daemon calls it in error texts.
    fn label(self) -> &'static str {
        match self {
            Self::Instance => "Instance",
            Self::Node => "Node",
            Self::Group => "NodeGroup",
            Self::Network => "Network",
        }
    }

    fn names(self, config: &Config) -> &OrdMap<String, Uuid> {
        match self {
            Self::Instance => &config.index.instance_by_name,
            Self::Node => &config.index.node_by_name,
            Self::Group => &config.index.group_by_name,
            Self::Network => &config.index.network_by_name,
        }
    }

    fn has(self, config: &Config, uuid: &str) -> bool {
        match self {
            Self::Instance => config.instances.contains_key(uuid),
            Self::Node => config.nodes.contains_key(uuid),
            Self::Group => config.groups.contains_key(uuid),
            Self::Network => config.networks.contains_key(uuid),
        }
    }
}

/// Looks one up (Ganeti 3.0.2: case matters here, unlike in jobs).
pub(super) fn find(config: &Config, noun: Noun, name: &str) -> Result<Uuid> {
    let names = noun.names(config);
    if let Some(uuid) = names.get(name) {
        return Ok(uuid.clone());
    }
    if noun.has(config, name) {
        return Ok(Uuid::new(name));
    }
    // All names that go on with a dot: `/` is the character after it.
    let mut longer = names.range(format!("{name}.")..format!("{name}/"));
    let refuse = |what: &str| {
        Err(GanetiError::unknown_entity(format!("{} name {name} {what}", noun.label())))
    };
    match (longer.next(), longer.next()) {
        (Some((_, uuid)), None) => Ok(uuid.clone()),
        (None, _) => refuse("not found"),
        (Some(_), Some(_)) => refuse("has multiple matches"),
    }
}

/// Those of the names that there are, in order.
pub(super) fn known(config: &Config, noun: Noun, names: &[String]) -> Vec<Uuid> {
    names.iter().filter_map(|name| find(config, noun, name).ok()).collect()
}

/// The objects of these UUIDs.
pub(super) fn objects<T>(map: &OrdMap<Uuid, Arc<T>>, uuids: &[Uuid]) -> Vec<Arc<T>> {
    uuids.iter().filter_map(|uuid| map.get(uuid)).cloned().collect()
}

/// What a filter of nothing but names asks for; `None` when everything is to be looked at. A name that is not known is an
/// error.
pub(super) fn select(
    config: &Config,
    noun: Noun,
    filter: &Filter,
    name_field: &str,
) -> Result<Option<Vec<Uuid>>> {
    let texts: Vec<&str> = filter
        .names(name_field)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|value| match value {
            FilterValue::Text(text) => Some(text.as_str()),
            FilterValue::Number(_) => None,
        })
        .collect();
    if texts.is_empty() {
        return Ok(None);
    }
    texts.into_iter().map(|name| find(config, noun, name)).collect::<Result<_>>().map(Some)
}

fn sorted<T>(map: &OrdMap<Uuid, Arc<T>>, name: impl Fn(&T) -> &str) -> Vec<Arc<T>> {
    let mut items: Vec<Arc<T>> = map.values().cloned().collect();
    items.sort_by(|a, b| natural_cmp(name(a), name(b)));
    items
}

/// All nodes, in natural order.
pub(super) fn all_nodes(config: &Config) -> Vec<Arc<Node>> {
    sorted(&config.nodes, |node| &node.name)
}

/// All groups, in natural order.
pub(super) fn all_groups(config: &Config) -> Vec<Arc<NodeGroup>> {
    sorted(&config.groups, |group| &group.name)
}

/// All networks, in natural order.
pub(super) fn all_networks(config: &Config) -> Vec<Arc<Network>> {
    sorted(&config.networks, |network| &network.name)
}

/// All job filter rules, by UUID in natural order.
pub(super) fn all_filters(config: &Config) -> Vec<&config::Filter> {
    let mut rules: Vec<&config::Filter> = config.filters.values().map(|rule| &**rule).collect();
    rules.sort_by(|a, b| natural_cmp(a.uuid.as_str(), b.uuid.as_str()));
    rules
}

/// The nodes that a filter asks for by name, or all.
pub(super) fn nodes(config: &Config, filter: &Filter, name_field: &str) -> Result<Vec<Arc<Node>>> {
    Ok(match select(config, Noun::Node, filter, name_field)? {
        Some(uuids) => objects(&config.nodes, &uuids),
        None => all_nodes(config),
    })
}

/// The groups that a filter asks for by name, or all.
pub(super) fn groups(config: &Config, filter: &Filter) -> Result<Vec<Arc<NodeGroup>>> {
    Ok(match select(config, Noun::Group, filter, "name")? {
        Some(uuids) => objects(&config.groups, &uuids),
        None => all_groups(config),
    })
}

/// The networks that a filter asks for by name, or all.
pub(super) fn networks(config: &Config, filter: &Filter) -> Result<Vec<Arc<Network>>> {
    Ok(match select(config, Noun::Network, filter, "name")? {
        Some(uuids) => objects(&config.networks, &uuids),
        None => all_networks(config),
    })
}
