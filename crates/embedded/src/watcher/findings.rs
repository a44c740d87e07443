//! What runs and what should run, compared: everything that does not fit is told, once when it appears and once when it goes.
//! Nothing is done about it here.

use std::collections::BTreeSet;

use model::config::Config;
use node::RunState;

use crate::nodes::Nodes;

/// How something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It runs, and the cluster knows no such instance.
    Unknown,
    /// It runs on another node than its primary one.
    WrongNode,
    /// It runs and should not.
    Up,
    /// It should run and does not.
    Down,
    /// Something on a node that looks like ours and belongs to no instance that is known there.
    Stray,
}

impl Kind {
    pub(crate) const ALL: &[Self] =
        &[Self::Unknown, Self::WrongNode, Self::Up, Self::Down, Self::Stray];

    /// The word for it in the numbers for monitoring.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::WrongNode => "wrong_node",
            Self::Up => "up",
            Self::Down => "down",
            Self::Stray => "stray",
        }
    }
}

/// Something that does not fit; ordered, so that two looks can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// All that does not fit now. `status` says what each instance's status is.
pub(crate) fn look(
    config: &Config,
    nodes: &Nodes,
    status: impl Fn(&model::config::Instance) -> &'static str,
) -> BTreeSet<Finding> {
    let mut found = BTreeSet::new();
    let mut add = |kind, text| {
        found.insert(Finding { kind, text });
    };
    for node in config.nodes.values().filter(|node| !node.offline) {
        let Some(asked) = nodes.get(&node.meta.uuid) else { continue };
        let state = asked.state();
        if !state.reachable {
            continue;
        }
        let runs = state.instances.iter().filter(|(_, run)| run.state != RunState::Shutdown);
        for (name, _) in runs {
            match config.instance_by_name(name) {
                Some(instance) if instance.primary_node == node.meta.uuid => {}
                Some(_) => add(Kind::WrongNode, format!("{name} should not run on {}", node.name)),
                None => {
                    add(Kind::Unknown, format!("{} runs {name}, which is no instance", node.name))
                }
            }
        }
        for stray in asked.strays() {
            add(Kind::Stray, format!("{}: {}", node.name, stray.text));
        }
    }
    for instance in config.instances.values().filter(|instance| !instance.forthcoming) {
        match status(instance) {
            "ERROR_up" => add(Kind::Up, format!("{} runs and should not", instance.name)),
            "ERROR_down" => add(Kind::Down, format!("{} should run and does not", instance.name)),
            _ => {}
        }
    }
    found
}

/// Tells what is new and what is gone.
pub(crate) fn tell(before: &BTreeSet<Finding>, now: &BTreeSet<Finding>) {
    for finding in now.difference(before) {
        tracing::warn!(kind = finding.kind.as_str(), "found: {}", finding.text);
    }
    for finding in before.difference(now) {
        tracing::info!(kind = finding.kind.as_str(), "no longer so: {}", finding.text);
    }
}
