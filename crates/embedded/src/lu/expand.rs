//! Names as clients write them, looked up in the configuration: full names, unique dotted prefixes, UUIDs. The texts are
//! Ganeti's (3.1, `cmdlib/common.py`).

use std::sync::Arc;

use model::config::{Config, Instance, Network, Node, NodeGroup};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::{Lookup, Uuid, lookup};

/// The instance of a name, case folded; or of a UUID, if one is given it must fit.
pub(crate) fn instance<'a>(
    config: &'a Config,
    name: &str,
    uuid: Option<&str>,
) -> Result<&'a Arc<Instance>> {
    let found =
        find(&name.to_lowercase(), config.index.instance_by_name.keys().map(String::as_str))
            .and_then(|full| config.instance_by_name(full))
            .or_else(|| config.instances.get(name))
            .ok_or_else(|| GanetiError::unknown_entity(format!("Instance '{name}' not known")))?;
    check_uuid("instances", "instance", &found.meta.uuid, uuid, &found.name)?;
    Ok(found)
}

/// The node of a name, case folded; or of a UUID, if one is given it must fit.
pub(crate) fn node<'a>(
    config: &'a Config,
    name: &str,
    uuid: Option<&str>,
) -> Result<&'a Arc<Node>> {
    let found = find(&name.to_lowercase(), config.index.node_by_name.keys().map(String::as_str))
        .and_then(|full| config.node_by_name(full))
        .or_else(|| config.nodes.get(name))
        .ok_or_else(|| GanetiError::unknown_entity(format!("Node '{name}' not known")))?;
    check_uuid("nodes", "node", &found.meta.uuid, uuid, &found.name)?;
    Ok(found)
}

/// The node group of a name or UUID.
pub(crate) fn group<'a>(config: &'a Config, name: &str) -> Result<&'a Arc<NodeGroup>> {
    config
        .group_by_name(name)
        .or_else(|| config.groups.get(name))
        .ok_or_else(|| GanetiError::unknown_entity(format!("Node group '{name}' not found")))
}

/// The network of a name or UUID.
pub(crate) fn network<'a>(config: &'a Config, name: &str) -> Result<&'a Arc<Network>> {
    config
        .network_by_name(name)
        .or_else(|| config.networks.get(name))
        .ok_or_else(|| GanetiError::unknown_entity(format!("Network '{name}' not found")))
}

fn find<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    match lookup(wanted, names) {
        Lookup::Found(name) => Some(name),
        Lookup::Unknown | Lookup::Ambiguous => None,
    }
}

fn check_uuid(
    kinds: &str,
    kind: &str,
    uuid: &Uuid,
    expected: Option<&str>,
    name: &str,
) -> Result<()> {
    match expected {
        Some(expected) if expected != uuid.as_str() => Err(GanetiError::prereq(
            format!(
                "The {kinds} UUID '{uuid}' does not match the expected UUID '{expected}' for {kind} '{name}'. \
                 Maybe the {kind} changed since you submitted this job."
            ),
            ErrorCode::ResourceNotUnique,
        )),
        _ => Ok(()),
    }
}
