//! Hooks of the opcodes whose environment is a few variables: those on node groups, networks, nodes and the cluster.

use model::config::Config;
use model::name::Uuid;

use super::Hooks;

/// Hooks with these variables on these nodes, before and after; those after the work see the same values.
pub(crate) fn hooks(
    object: &str,
    target: &str,
    variables: impl IntoIterator<Item = (&'static str, String)>,
    nodes: Vec<Uuid>,
) -> Hooks {
    let mut env: std::collections::BTreeMap<String, String> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    env.insert("OBJECT_TYPE".to_owned(), object.to_owned());
    if !target.is_empty() {
        env.insert("OP_TARGET".to_owned(), target.to_owned());
    }
    Hooks { post_env: env.clone(), env, pre_nodes: nodes.clone(), post_nodes: nodes }
}

/// The master alone.
pub(crate) fn on_master(config: &Config) -> Vec<Uuid> {
    vec![config.cluster.master_node.clone()]
}

/// The master and the nodes of some groups.
pub(crate) fn on_master_and_groups<'a>(
    config: &Config,
    groups: impl IntoIterator<Item = &'a Uuid>,
) -> Vec<Uuid> {
    let mut nodes = on_master(config);
    for node in groups.into_iter().flat_map(|group| config.members(group)) {
        if !nodes.contains(&node.meta.uuid) {
            nodes.push(node.meta.uuid.clone());
        }
    }
    nodes
}
