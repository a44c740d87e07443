//! Names as clients write them, looked up in the configuration: full names, unique dotted prefixes, UUIDs. The texts are
//! Ganeti's (3.1, `cmdlib/common.py`).

use std::sync::Arc;

use model::compat::Compat;
use model::config::{Config, Instance, Network, Node, NodeGroup};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::{Lookup, Uuid, lookup};
use model::opcode::{Audience, OpId, Opcode};
use serde_json::Value;

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

/// Parameters that name an instance or a node, and those beside them that hold its UUID.
const NAMED: &[(&str, &str)] = &[
    ("instance_name", "instance_uuid"),
    ("node_name", "node_uuid"),
    ("remote_node", "remote_node_uuid"),
    ("target_node", "target_node_uuid"),
    ("pnode", "pnode_uuid"),
    ("snode", "snode_uuid"),
    ("src_node", "src_node_uuid"),
];

/// The same for lists of nodes.
const LISTED: &[(&str, &str)] = &[("nodes", "node_uuids"), ("on_nodes", "on_node_uuids")];

/// The opcode as the job shows it once it was looked at: full names, and UUIDs beside them. `None` when it names nothing
/// of the kind, or nothing that is known.
pub(crate) fn told<L: Opcode>(op: &L, config: &Config, compat: Compat) -> Option<L> {
    let has = |name: &str| L::DEF.params.iter().any(|param| param.name == name);
    let both = |pair: &&(&str, &str)| has(pair.0) && has(pair.1);
    // Ganeti: the node that a node's instances migrate to is handed on as it was written (3.0, cmdlib/node.py).
    let handed_on = |name: &str| L::ID == OpId::NodeMigrate && name == "target_node";
    let (named, listed) = (NAMED.iter().filter(both), LISTED.iter().filter(both));
    let named: Vec<_> = named.filter(|pair| !handed_on(pair.0)).collect();
    let listed: Vec<_> = listed.collect();
    if named.is_empty() && listed.is_empty() {
        return None;
    }
    let known = |param: &str, name: &str| match param {
        "instance_name" => {
            instance(config, name, None).ok().map(|found| (found.name.clone(), &found.meta.uuid))
        }
        _ => node(config, name, None).ok().map(|found| (found.name.clone(), &found.meta.uuid)),
    };
    let mut dict = op.write(Audience::Engine);
    if L::ID == OpId::GroupAssignNodes {
        let name = dict.get("group_name").and_then(Value::as_str).unwrap_or_default();
        group(config, name).ok()?;
    }
    // The instance comes first: when it is not known, no other name is looked up.
    if let Some(("instance_name", _)) = named.first()
        && let Some(name) = dict.get("instance_name").and_then(Value::as_str)
        && known("instance_name", name).is_none()
    {
        return None;
    }
    // Ganeti: a name that is taken is refused before nodes are looked up (3.0, instance_create.py `ExpandNames`).
    if L::ID == OpId::InstanceCreate
        && dict.get("commit") != Some(&Value::Bool(true))
        && let Some(name) = dict.get("instance_name").and_then(Value::as_str)
        && config.instance_by_name(name).is_some()
    {
        return None;
    }
    let mut changed = false;
    for (param, uuid) in named {
        let name = dict.get(*param).and_then(Value::as_str);
        if let Some((name, found)) = name.and_then(|name| known(param, name)) {
            let found = Value::from(found);
            dict.insert((*param).to_owned(), name.into());
            dict.insert((*uuid).to_owned(), found);
            changed = true;
        }
    }
    for (param, uuid) in listed {
        let mut names = dict.get(*param).and_then(Value::as_array).cloned().unwrap_or_default();
        // Ganeti: no names stand for all nodes here (3.0, `GetWantedNodes`).
        if names.is_empty() && L::ID == OpId::GroupAssignNodes {
            names = config.nodes.values().map(|node| Value::from(node.name.as_str())).collect();
        }
        let found: Option<Vec<_>> = names.iter().map(|name| known(param, name.as_str()?)).collect();
        if let Some(found) = found.filter(|found| !found.is_empty()) {
            let (names, uuids): (Vec<String>, Vec<&Uuid>) = found.into_iter().unzip();
            dict.insert((*param).to_owned(), names.into());
            dict.insert((*uuid).to_owned(), uuids.into_iter().map(Value::from).collect());
            changed = true;
        }
    }
    changed.then(|| L::read(&dict, compat).ok()).flatten()
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

#[cfg(test)]
mod tests {
    use model::opcode::{GroupAssignNodes, NodeMigrate, TagsSet};
    use serde_json::json;

    use super::*;
    use crate::lu::testing::Bench;

    fn check<L: Opcode>(config: &Config, params: &Value, expected: Option<&[(&str, Value)]>) {
        let read = |params: &Value| L::read(params.as_object().unwrap(), Compat::V31).unwrap();
        let told = told(&read(params), config, Compat::V31).map(|op| op.write(Audience::Engine));
        assert_eq!(told.is_some(), expected.is_some(), "{params}");
        for (name, value) in expected.into_iter().flatten() {
            assert_eq!(told.as_ref().unwrap()[*name], *value, "{params}");
        }
    }

    #[tokio::test]
    async fn jobs_show_full_names_and_uuids() {
        let config = Bench::new(2).config();
        let full = |at: usize| format!("node{at}.example.com");
        let uuid = |at: usize| json!(config.node_by_name(&full(at)).unwrap().meta.uuid);
        let migrate = json!({"node_name": "node1", "target_node": "node2"});
        let shown = [
            ("node_name", json!(full(1))),
            ("node_uuid", uuid(1)),
            ("target_node", json!("node2")),
            ("target_node_uuid", Value::Null),
        ];
        check::<NodeMigrate>(&config, &migrate, Some(&shown));
        check::<NodeMigrate>(&config, &json!({"node_name": "no"}), None);
        let assign = json!({"group_name": "default", "nodes": ["node2", "node1"]});
        let shown =
            [("nodes", json!([full(2), full(1)])), ("node_uuids", json!([uuid(2), uuid(1)]))];
        check::<GroupAssignNodes>(&config, &assign, Some(&shown));
        check::<TagsSet>(&config, &json!({"kind": "node", "tags": [], "name": "node1"}), None);
    }
}
