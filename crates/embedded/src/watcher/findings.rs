//! What runs and what should run, compared: everything that does not fit is told, once when it appears and once when it goes.
//! Nothing is done about it here.

use std::collections::BTreeSet;

use model::config::{Config, Node};
use model::param::DiskTemplate;
use node::RunState;
use serde_json::Value;

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
    /// A disk of an instance is not there.
    Lost,
    /// A file where disks lie, and no disk.
    File,
    /// Something on a node that looks like ours and belongs to no instance that is known there.
    Stray,
}

impl Kind {
    pub(crate) const ALL: &[Self] = &[
        Self::Unknown,
        Self::WrongNode,
        Self::Up,
        Self::Down,
        Self::Lost,
        Self::File,
        Self::Stray,
    ];

    /// The word for it in the numbers for monitoring.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::WrongNode => "wrong_node",
            Self::Up => "up",
            Self::Down => "down",
            Self::Lost => "lost",
            Self::File => "file",
            Self::Stray => "stray",
        }
    }

    /// Whether it looks like that, too, while a job is at work: then it has to be seen twice.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Lost | Self::File)
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
        if let Some(files) = asked.disk_files() {
            disks(config, node, &files, &mut add);
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

/// The files of a node's disks, compared with those that should be there.
fn disks(config: &Config, node: &Node, files: &[String], add: &mut impl FnMut(Kind, String)) {
    let files: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    for instance in config.primaries(&node.meta.uuid) {
        for (at, disk) in config.instance_disks(instance).into_iter().enumerate() {
            if !matches!(disk.dev_type, DiskTemplate::File | DiskTemplate::Sharedfile) {
                continue;
            }
            let Some(path) = disk.logical_id.get(1).and_then(Value::as_str) else { continue };
            if !files.contains(path) {
                let name = &instance.name;
                add(Kind::Lost, format!("disk {at} of {name} is not on {}: {path}", node.name));
            }
        }
    }
    // Those of no instance, too.
    let known: BTreeSet<&str> =
        config.disks.values().filter_map(|disk| disk.logical_id.get(1)?.as_str()).collect();
    for file in files.difference(&known) {
        add(Kind::File, format!("{}: {file} is no disk of any instance", node.name));
    }
}

/// Leaves out what may pass and was not seen before. At the first look nothing is at work.
pub(crate) fn confirmed(
    before: Option<&BTreeSet<Finding>>,
    now: &BTreeSet<Finding>,
) -> BTreeSet<Finding> {
    let seen = |finding: &Finding| before.is_none_or(|before| before.contains(finding));
    now.iter().filter(|finding| !finding.kind.may_pass() || seen(finding)).cloned().collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_may_be_at_is_seen_twice() {
        let finding = |kind, text: &str| Finding { kind, text: text.to_owned() };
        let (file, down) = (finding(Kind::File, "a"), finding(Kind::Down, "b"));
        let now: BTreeSet<Finding> = [file.clone(), down.clone()].into();
        assert_eq!(confirmed(None, &now), now, "nothing is at work at a start");
        assert_eq!(confirmed(Some(&BTreeSet::new()), &now), [down].into());
        assert_eq!(confirmed(Some(&[file].into()), &now), now);
    }
}
