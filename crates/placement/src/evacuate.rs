//! Taking instances off their nodes, and into other groups: each is moved in turn, and sees the moves before it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PictureError, Refusal, no_good_node, no_solution};
use crate::group::AllocPolicy;
use crate::instance::Mirror;
use crate::picture::EvacuationMode;

/// One opcode of a job that carries moves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Migrate, or fail over if it does not run: to the secondary, or to the target if there is one.
    Migrate { instance: String, target: Option<String> },
    /// Give the instance this secondary.
    ReplaceSecondary { instance: String, node: String },
}

impl Step {
    /// The opcode as an allocator writes it (hail of 3.0.2, key for key).
    pub fn to_value(&self) -> Value {
        match self {
            Self::Migrate { instance, target } => {
                let mut value = json!({"OP_ID": "OP_INSTANCE_MIGRATE", "instance_name": instance});
                if let Some(target) = target {
                    value["target_node"] = json!(target);
                }
                value["allow_runtime_changes"] = json!(false);
                value["ignore_ipolicy"] = json!(false);
                value["cleanup"] = json!(false);
                value["allow_failover"] = json!(true);
                value["ignore_hvversions"] = json!(true);
                value
            }
            Self::ReplaceSecondary { instance, node } => json!({
                "OP_ID": "OP_INSTANCE_REPLACE_DISKS",
                "instance_name": instance,
                "early_release": false,
                "ignore_ipolicy": false,
                "mode": "replace_new_secondary",
                "disks": [],
                "remote_node": node,
            }),
        }
    }
}

/// An instance that is to move: its new group and nodes, the primary first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub name: String,
    pub group: String,
    pub nodes: Vec<String>,
}

/// The plan of an evacuation: what moves, what cannot and why, and a job for each that moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evacuation {
    pub moved: Vec<Moved>,
    pub failed: Vec<(String, String)>,
    pub jobs: Vec<Vec<Step>>,
}

impl Evacuation {
    /// The plan in one sentence.
    pub fn info(&self) -> String {
        format!(
            "{} instances failed to move and {} were moved successfully",
            self.failed.len(),
            self.moved.len()
        )
    }

    fn record(&mut self, cluster: &Cluster, index: usize, outcome: Result<Vec<Step>, Refusal>) {
        let member = &cluster.members[index];
        match outcome {
            Ok(steps) => {
                let node = |at: usize| cluster.nodes[at].name.clone();
                let group = cluster.nodes[member.primary].group;
                self.moved.push(Moved {
                    name: member.name.clone(),
                    group: cluster.groups[group].name.clone(),
                    nodes: std::iter::once(member.primary)
                        .chain(member.secondary)
                        .map(node)
                        .collect(),
                });
                self.jobs.push(steps);
            }
            Err(Refusal(reason)) => self.failed.push((member.name.clone(), reason)),
        }
    }
}

/// A way into another group.
struct Entry {
    policy: AllocPolicy,
    score: f64,
    /// Primary and secondary there.
    place: (usize, Option<usize>),
    steps: Vec<Step>,
}

impl Cluster {
    /// Plans the moves that take the instances off the nodes where they have the role of the mode. All nodes that lose
    /// one of these roles are left out as targets, for they are about to be emptied.
    pub fn evacuate(
        &mut self,
        instances: &[String],
        mode: EvacuationMode,
    ) -> Result<Evacuation, PictureError> {
        let indexes = self.indexes(instances)?;
        let mut left = BTreeSet::new();
        for index in &indexes {
            let member = &self.members[*index];
            if mode != EvacuationMode::SecondaryOnly {
                left.insert(member.primary);
            }
            if mode != EvacuationMode::PrimaryOnly {
                left.extend(member.secondary);
            }
        }
        let left: Vec<usize> = left.into_iter().collect();
        let mut plan = Evacuation::default();
        for index in indexes {
            let group = self.nodes[self.members[index].primary].group;
            let candidates = self.candidates(group, &left);
            let outcome = self.evacuate_one(index, mode, candidates);
            plan.record(self, index, outcome);
        }
        Ok(plan)
    }

    /// Plans the moves of the instances to other groups: the named ones (name or UUID), else any that takes instances.
    pub fn change_group(
        &mut self,
        instances: &[String],
        target_groups: &[String],
    ) -> Result<Evacuation, PictureError> {
        let indexes = self.indexes(instances)?;
        let sources: BTreeSet<usize> =
            indexes.iter().map(|index| self.nodes[self.members[*index].primary].group).collect();
        let mut targets = if target_groups.is_empty() {
            (0..self.groups.len())
                .filter(|group| self.groups[*group].alloc_policy != AllocPolicy::Unallocable)
                .collect()
        } else {
            target_groups.iter().map(|name| self.group(name)).collect::<Result<Vec<_>, _>>()?
        };
        targets.retain(|group| !sources.contains(group));
        let mut plan = Evacuation::default();
        for index in indexes {
            let outcome = self.change_group_of(index, &targets);
            plan.record(self, index, outcome);
        }
        Ok(plan)
    }

    fn indexes(&self, instances: &[String]) -> Result<Vec<usize>, PictureError> {
        instances.iter().map(|name| self.instance(name)).collect()
    }

    fn evacuate_one(
        &mut self,
        index: usize,
        mode: EvacuationMode,
        candidates: Vec<usize>,
    ) -> Result<Vec<Step>, Refusal> {
        let template = self.loads[index].template;
        let primary = self.members[index].primary;
        let mut candidates = candidates;
        match (template.mirror(), mode) {
            (Mirror::None, _) => Err(immovable(template.as_str())),
            (Mirror::External, EvacuationMode::SecondaryOnly) => Err(Refusal(format!(
                "Instances with disk template '{}' can't execute change secondary",
                template.as_str()
            ))),
            (Mirror::External, EvacuationMode::PrimaryOnly | EvacuationMode::All) => {
                candidates.retain(|node| *node != primary);
                let choice = self
                    .move_primary(index, &candidates, None)
                    .map_err(|statistics| no_good_node(&statistics))?;
                Ok(vec![self.migrate(index, Some(choice.primary))])
            }
            (Mirror::Internal, EvacuationMode::PrimaryOnly) => {
                self.fail_over(index)?;
                Ok(vec![self.migrate(index, None)])
            }
            (Mirror::Internal, EvacuationMode::SecondaryOnly) => {
                candidates.retain(|node| *node != primary);
                let choice = self.move_secondary(index, &candidates)?;
                Ok(vec![self.replace(index, choice.secondary.unwrap_or(primary))])
            }
            (Mirror::Internal, EvacuationMode::All) => {
                self.move_to(index, &candidates, None).map_err(|reason| {
                    Refusal(format!("Can't find any good nodes for relocation: {reason}"))
                })
            }
        }
    }

    /// Moves both nodes of a drbd instance: the new primary comes in as secondary first.
    fn move_to(
        &mut self,
        index: usize,
        candidates: &[usize],
        entered: Option<usize>,
    ) -> Result<Vec<Step>, String> {
        if candidates.len() < 2 {
            return Err("no nodes available".to_owned());
        }
        let old = self.members[index].primary;
        let choice = self
            .move_both(index, candidates, entered)
            .map_err(|statistics| no_solution(&statistics))?;
        let secondary = choice.secondary.unwrap_or(choice.primary);
        let mut steps = vec![
            self.replace(index, choice.primary),
            self.migrate(index, None),
            self.replace(index, secondary),
        ];
        if self.nodes[old].offline {
            // An offline primary cannot feed a new secondary: the old secondary takes over first.
            steps.insert(0, self.migrate(index, None));
        }
        Ok(steps)
    }

    fn change_group_of(&mut self, index: usize, targets: &[usize]) -> Result<Vec<Step>, Refusal> {
        let template = self.loads[index].template;
        if template.mirror() == Mirror::None {
            return Err(immovable(template.as_str()));
        }
        if targets.is_empty() {
            return Err(Refusal("no groups for evacuation".to_owned()));
        }
        let home = (self.members[index].primary, self.members[index].secondary);
        let mut best: Option<Entry> = None;
        let mut reasons = Vec::new();
        for &group in targets {
            let policy = self.groups[group].alloc_policy;
            match self.enter_group(index, group) {
                Ok((score, steps)) => {
                    let better = best.as_ref().is_none_or(|best| {
                        policy.cmp(&best.policy).then_with(|| score.total_cmp(&best.score)).is_lt()
                    });
                    if better {
                        let place = (self.members[index].primary, self.members[index].secondary);
                        best = Some(Entry { policy, score, place, steps });
                    }
                    self.put(index, home.0, home.1);
                }
                Err(reason) => {
                    let name = &self.groups[group].name;
                    reasons.push(format!("Group {name} ({}): {reason}", policy.as_str()));
                }
            }
        }
        let Entry { place, steps, .. } = best.ok_or_else(|| Refusal(reasons.join(", ")))?;
        self.put(index, place.0, place.1);
        Ok(steps)
    }

    /// Tries a group; on success the instance stands there, with the score that the cluster then has.
    fn enter_group(&mut self, index: usize, group: usize) -> Result<(f64, Vec<Step>), String> {
        let candidates = self.candidates(group, &[]);
        if let Err(fail) = self.groups[group].policy.admits(&self.loads[index]) {
            return Err(format!(
                "No valid allocation solutions, failure reasons: {}",
                fail.as_str()
            ));
        }
        let steps = if self.loads[index].template.mirror() == Mirror::Internal {
            self.move_to(index, &candidates, Some(group))?
        } else {
            let choice = self
                .move_primary(index, &candidates, Some(group))
                .map_err(|statistics| no_solution(&statistics))?;
            vec![self.migrate(index, Some(choice.primary))]
        };
        Ok((self.score(), steps))
    }

    fn migrate(&self, index: usize, target: Option<usize>) -> Step {
        Step::Migrate {
            instance: self.members[index].name.clone(),
            target: target.map(|node| self.nodes[node].name.clone()),
        }
    }

    fn replace(&self, index: usize, node: usize) -> Step {
        Step::ReplaceSecondary {
            instance: self.members[index].name.clone(),
            node: self.nodes[node].name.clone(),
        }
    }
}

fn immovable(template: &str) -> Refusal {
    Refusal(format!("Instances of type {template} cannot be relocated"))
}
