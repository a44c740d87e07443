//! A picture with its indexes, and placing on it. What is placed is remembered, so that the next sees it.

use std::collections::{BTreeMap, HashMap, HashSet};

use model::units::natural_cmp;

use crate::group::{AllocPolicy, Group};
use crate::instance::{AdminState, DiskTemplate, Load, Mirror};
use crate::node::{Capacity, Figures, Node, State};
use crate::picture::{Allocation, Options, Picture};
use crate::redundancy::Redundancy;
use crate::score::{Change, Counts, Tally};
use crate::search::{Choice, Search, Statistics};

/// A picture or a request that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// The request names an instance that is not there.
    #[error("Unknown instance '{0}'")]
    UnknownInstance(String),
    #[error("Unknown node '{0}'")]
    UnknownNode(String),
    #[error("Unknown group '{0}'")]
    UnknownGroup(String),
}

/// Why something was not placed; the text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Nodes that were found for an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Names: the primary, then the secondary if there is one.
    pub nodes: Vec<String>,
    /// Name of the group.
    pub group: String,
    /// The score of the cluster with the instance in it.
    pub score: f64,
    /// What was tried, in words.
    pub info: String,
}

/// An instance at work.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) primary: usize,
    pub(crate) secondary: Option<usize>,
}

/// A cluster with the indexes that make placing cheap: node to primaries and secondaries, memory reserved per node and
/// failing node, exclusion tags per node. Its size is linear in that of the picture.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) groups: Vec<Group>,
    pub(crate) nodes: Vec<State>,
    pub(crate) members: Vec<Member>,
    pub(crate) loads: Vec<Load>,
    pub(crate) options: Options,
    /// Nodes of each group, by rank.
    group_nodes: Vec<Vec<usize>>,
    node_index: HashMap<String, usize>,
    instance_index: HashMap<String, usize>,
    exclusions: Exclusions,
}

/// Which instance tags exclude each other, as numbers.
#[derive(Clone, Debug, Default)]
struct Exclusions {
    prefixes: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Exclusions {
    fn new(cluster_tags: &[String]) -> Self {
        let prefixes = cluster_tags
            .iter()
            .filter_map(|tag| tag.strip_prefix("htools:iextags:"))
            .map(|prefix| format!("{prefix}:"))
            .collect();
        Self { prefixes, numbers: HashMap::new() }
    }

    fn numbers(&mut self, tags: &[String]) -> Vec<u32> {
        let mut numbers = Vec::new();
        for tag in tags {
            if self.prefixes.iter().any(|prefix| tag.starts_with(prefix)) {
                let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
                numbers.push(*self.numbers.entry(tag.clone()).or_insert(next));
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

impl Cluster {
    /// Indexes a picture.
    pub fn new(picture: &Picture, options: Options) -> Result<Self, PictureError> {
        let mut groups = picture.groups.clone();
        groups.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        let by_uuid: HashMap<&str, usize> =
            groups.iter().enumerate().map(|(at, group)| (group.uuid.as_str(), at)).collect();
        let mut ordered: Vec<&Node> = picture.nodes.iter().collect();
        ordered.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        let mut nodes = Vec::with_capacity(ordered.len());
        let mut group_nodes = vec![Vec::new(); groups.len()];
        let mut node_index = HashMap::with_capacity(ordered.len());
        for (rank, node) in ordered.into_iter().enumerate() {
            let group = *by_uuid
                .get(node.group.as_str())
                .ok_or_else(|| PictureError::UnknownGroup(node.group.clone()))?;
            nodes.push(state(node, rank, group, &groups[group]));
            group_nodes[group].push(rank);
            node_index.insert(node.name.clone(), rank);
        }
        let mut cluster = Self {
            groups,
            nodes,
            members: Vec::with_capacity(picture.instances.len()),
            loads: Vec::with_capacity(picture.instances.len()),
            options,
            group_nodes,
            node_index,
            instance_index: HashMap::with_capacity(picture.instances.len()),
            exclusions: Exclusions::new(&picture.cluster_tags),
        };
        for instance in &picture.instances {
            let load = Load::of_instance(instance, cluster.exclusions.numbers(&instance.tags));
            let primary = cluster.node(&instance.primary)?;
            let secondary =
                instance.secondary.as_deref().map(|name| cluster.node(name)).transpose()?;
            cluster.count_known(&load, primary, secondary);
            cluster.remember(&instance.name, load, primary, secondary);
        }
        Ok(cluster)
    }

    /// The balance score; the smaller the better.
    pub fn score(&self) -> f64 {
        self.tally(None).score(&Change::default(), None)
    }

    /// Finds nodes for a new instance and takes it in.
    pub fn allocate(&mut self, allocation: &Allocation) -> Result<Placement, Refusal> {
        let load = Load::of_allocation(allocation, self.exclusions.numbers(&allocation.tags));
        let groups: Vec<usize> = match &allocation.group_name {
            Some(name) => vec![self.group(name).map_err(|error| Refusal(error.to_string()))?],
            None => (0..self.groups.len()).collect(),
        };
        let allowed: Option<HashSet<usize>> =
            allocation.restrict_to_nodes.as_deref().map(|names| {
                names.iter().filter_map(|name| self.node_index.get(name).copied()).collect()
            });
        let named = allocation.group_name.is_some();
        let tries: Vec<Try> = groups
            .iter()
            .map(|group| self.try_group(*group, named, allocation, &load, allowed.as_ref()))
            .collect();
        let best = tries
            .iter()
            .filter(|attempt| named || attempt.policy != AllocPolicy::Unallocable)
            .filter_map(|attempt| Some((attempt, attempt.choice?)))
            .min_by(|(a, x), (b, y)| {
                a.policy.cmp(&b.policy).then_with(|| x.score.total_cmp(&y.score))
            });
        let mut parts: Vec<String> = tries.iter().map(|attempt| attempt.text.clone()).collect();
        let Some((attempt, choice)) = best else { return Err(Refusal(parts.join(", "))) };
        let group = self.groups[attempt.group].name.clone();
        if !named {
            parts.insert(0, format!("Selected group: {group}"));
        }
        self.remember(&allocation.name, load, choice.primary, choice.secondary);
        let nodes = self.names(choice);
        Ok(Placement { nodes, group, score: choice.score, info: parts.join(", ") })
    }

    /// Finds a secondary for an instance without one, which becomes drbd.
    pub fn allocate_secondary(&mut self, name: &str) -> Result<Placement, Refusal> {
        let index = self.instance(name).map_err(|error| Refusal(error.to_string()))?;
        if self.members[index].secondary.is_some() {
            return Err(Refusal(format!("Instance '{name}' has a secondary node already")));
        }
        let primary = self.members[index].primary;
        let before = self.loads[index].clone();
        let mut load = before.clone();
        load.set_template(DiskTemplate::Drbd);
        self.nodes[primary].remove_primary(index, &before);
        self.nodes[primary].add_primary(index, &load);
        let candidates = self.candidates(self.nodes[primary].group, &[primary]);
        let outcome =
            self.with_search(None, false, &load, &candidates, |search| search.secondary(primary));
        let Some(choice) = outcome.best else {
            self.nodes[primary].remove_primary(index, &load);
            self.nodes[primary].add_primary(index, &before);
            return Err(Refusal(no_solution(&outcome.statistics)));
        };
        let secondary = choice.secondary.unwrap_or(primary);
        self.nodes[secondary].add_secondary(index, &load, primary);
        self.members[index].secondary = Some(secondary);
        self.loads[index] = load;
        let group = self.groups[self.nodes[primary].group].name.clone();
        let info = self.solution(choice, &outcome.statistics);
        let nodes = vec![self.nodes[secondary].name.clone()];
        Ok(Placement { nodes, group, score: choice.score, info })
    }

    /// Moves an instance off the named node: drbd's secondary, or the primary of an externally mirrored one.
    pub fn relocate(&mut self, name: &str, from: &[String]) -> Result<Placement, Refusal> {
        let index = self.instance(name).map_err(|error| Refusal(error.to_string()))?;
        let member = &self.members[index];
        let leaves = match self.loads[index].template.mirror() {
            Mirror::None => {
                return Err(Refusal("Can't relocate non-mirrored instances".to_owned()));
            }
            Mirror::Internal => member.secondary,
            Mirror::External => Some(member.primary),
        };
        let expected: Vec<&str> =
            leaves.into_iter().map(|node| self.nodes[node].name.as_str()).collect();
        if expected != from.iter().map(String::as_str).collect::<Vec<_>>() {
            return Err(Refusal(format!(
                "Unsupported request: excluded nodes not equal to instance's secondary or primary \
                 ({} versus {})",
                expected.join(", "),
                from.join(", ")
            )));
        }
        let group = self.nodes[member.primary].group;
        let candidates = self.candidates(group, &[member.primary]);
        let choice = if member.secondary.is_some() {
            self.move_secondary(index, &candidates)?
        } else {
            self.move_primary(index, &candidates, None)
                .map_err(|statistics| no_good_node(&statistics))?
        };
        let node = choice.secondary.unwrap_or(choice.primary);
        Ok(Placement {
            nodes: vec![self.nodes[node].name.clone()],
            group: self.groups[group].name.clone(),
            score: choice.score,
            info: "success".to_owned(),
        })
    }

    /// Gives a drbd instance another secondary among the candidates.
    pub(crate) fn move_secondary(
        &mut self,
        index: usize,
        candidates: &[usize],
    ) -> Result<Choice, Refusal> {
        let Member { primary, secondary, .. } = self.members[index].clone();
        let load = self.loads[index].clone();
        let candidates: Vec<usize> =
            candidates.iter().copied().filter(|node| Some(*node) != secondary).collect();
        if let Some(old) = secondary {
            self.nodes[old].remove_secondary(index, &load, primary);
        }
        let outcome =
            self.with_search(None, false, &load, &candidates, |search| search.secondary(primary));
        let place = outcome.best.and_then(|choice| choice.secondary).or(secondary);
        if let Some(node) = place {
            self.nodes[node].add_secondary(index, &load, primary);
        }
        self.members[index].secondary = place;
        outcome.best.ok_or_else(|| no_good_node(&outcome.statistics))
    }

    /// Moves an instance that can run anywhere to another of the candidates. The group that it enters, if any, must
    /// stay redundant.
    pub(crate) fn move_primary(
        &mut self,
        index: usize,
        candidates: &[usize],
        entered: Option<usize>,
    ) -> Result<Choice, Statistics> {
        let primary = self.members[index].primary;
        let load = self.loads[index].clone();
        self.nodes[primary].remove_primary(index, &load);
        let mut redundancy = self.redundancy(entered.unwrap_or(0), &load, entered.is_some());
        let hopeless = redundancy.hopeless();
        let outcome = self.with_search(None, hopeless, &load, candidates, |search| {
            search.single(&mut |primary, secondary| redundancy.holds_with(primary, secondary))
        });
        let place = outcome.best.map_or(primary, |choice| choice.primary);
        self.nodes[place].add_primary(index, &load);
        self.members[index].primary = place;
        outcome.best.ok_or(outcome.statistics)
    }

    /// Gives a drbd instance two new nodes among the candidates, likewise.
    pub(crate) fn move_both(
        &mut self,
        index: usize,
        candidates: &[usize],
        entered: Option<usize>,
    ) -> Result<Choice, Statistics> {
        let home = (self.members[index].primary, self.members[index].secondary);
        let load = self.loads[index].clone();
        self.lift(index, &load);
        let mut redundancy = self.redundancy(entered.unwrap_or(0), &load, entered.is_some());
        let hopeless = redundancy.hopeless();
        let outcome = self.with_search(None, hopeless, &load, candidates, |search| {
            search.pair(&mut |primary, secondary| redundancy.holds_with(primary, secondary))
        });
        let place = outcome.best.map_or(home, |choice| (choice.primary, choice.secondary));
        self.set_down(index, &load, place.0, place.1);
        outcome.best.ok_or(outcome.statistics)
    }

    /// Puts an instance on these nodes, without asking.
    pub(crate) fn put(&mut self, index: usize, primary: usize, secondary: Option<usize>) {
        let load = self.loads[index].clone();
        self.lift(index, &load);
        self.set_down(index, &load, primary, secondary);
    }

    /// Takes an instance off its nodes.
    fn lift(&mut self, index: usize, load: &Load) {
        let Member { primary, secondary, .. } = self.members[index];
        self.nodes[primary].remove_primary(index, load);
        if let Some(node) = secondary {
            self.nodes[node].remove_secondary(index, load, primary);
        }
    }

    /// Puts an instance that was lifted on nodes again.
    fn set_down(&mut self, index: usize, load: &Load, primary: usize, secondary: Option<usize>) {
        self.nodes[primary].add_primary(index, load);
        if let Some(node) = secondary {
            self.nodes[node].add_secondary(index, load, primary);
        }
        (self.members[index].primary, self.members[index].secondary) = (primary, secondary);
    }

    /// Swaps the roles of a drbd instance's nodes.
    pub(crate) fn fail_over(&mut self, index: usize) -> Result<(), Refusal> {
        let Member { name, primary, secondary, .. } = self.members[index].clone();
        let Some(secondary) = secondary else {
            return Err(Refusal(format!("Instance '{name}' has no secondary node")));
        };
        if self.nodes[secondary].offline {
            return Err(Refusal(format!("Node '{}' is offline", self.nodes[secondary].name)));
        }
        let load = self.loads[index].clone();
        self.lift(index, &load);
        let mut verdict = self.nodes[secondary].fits_primary(&load, self.options);
        let home = &self.nodes[primary];
        if verdict.is_ok() && !home.offline {
            // The old primary keeps memory for it from now on; one that is offline has none to keep.
            let after = home.with_secondary(&load, Some(secondary));
            verdict = home.fits_secondary(&load, &after, self.options);
        }
        let (new, old) = if verdict.is_ok() { (secondary, primary) } else { (primary, secondary) };
        self.set_down(index, &load, new, Some(old));
        verdict.map_err(|fail| Refusal(fail.as_str().to_owned()))
    }

    /// Usable nodes of a group, but for the excluded.
    pub(crate) fn candidates(&self, group: usize, excluded: &[usize]) -> Vec<usize> {
        self.group_nodes[group]
            .iter()
            .copied()
            .filter(|node| self.nodes[*node].usable && !excluded.contains(node))
            .collect()
    }

    /// Finds a group by name or UUID.
    pub(crate) fn group(&self, name: &str) -> Result<usize, PictureError> {
        self.groups
            .iter()
            .position(|group| group.name == name || group.uuid == name)
            .ok_or_else(|| PictureError::UnknownGroup(name.to_owned()))
    }

    pub(crate) fn instance(&self, name: &str) -> Result<usize, PictureError> {
        self.instance_index
            .get(name)
            .copied()
            .ok_or_else(|| PictureError::UnknownInstance(name.to_owned()))
    }

    fn node(&self, name: &str) -> Result<usize, PictureError> {
        self.node_index.get(name).copied().ok_or_else(|| PictureError::UnknownNode(name.to_owned()))
    }

    /// The trial of redundancy for a load that enters a group, if it is asked for.
    fn redundancy<'a>(&self, group: usize, load: &'a Load, asked: bool) -> Redundancy<'a> {
        let active = asked && self.options.capacity_checks && !self.options.ignore_soft_errors;
        let usable = if active { self.candidates(group, &[]) } else { Vec::new() };
        Redundancy::new(&self.nodes, &self.members, &self.loads, &usable, load, active)
    }

    /// Runs a search, with the score of the whole cluster or of one group.
    fn with_search<T>(
        &self,
        scored: Option<usize>,
        hopeless: bool,
        load: &Load,
        candidates: &[usize],
        run: impl FnOnce(&Search<'_>) -> T,
    ) -> T {
        let tally = self.tally(scored);
        let search = Search {
            nodes: &self.nodes,
            tally: &tally,
            load,
            candidates,
            options: self.options,
            hopeless,
        };
        run(&search)
    }

    /// The sums over the usable nodes of the cluster, or of one group. Ganeti: 3.0.2's hail, too, scores the whole
    /// cluster unless the request names the group.
    pub(crate) fn tally(&self, group: Option<usize>) -> Tally {
        let mut values = Vec::new();
        let mut counts = Counts::default();
        for state in self.nodes.iter().filter(|state| group.is_none_or(|at| state.group == at)) {
            let conflicts: i64 = state.tags.values().map(|count| i64::from(*count) - 1).sum();
            counts.tag_conflicts += conflicts;
            if state.usable {
                values.push(state.metrics(&state.figures));
                counts.n1 += i64::from(state.figures.fails_n1());
            } else {
                counts.offline_roles += state.figures.roles;
                counts.offline_primaries += state.figures.primaries;
            }
        }
        Tally::new(&values, counts)
    }

    fn try_group(
        &self,
        group: usize,
        named: bool,
        allocation: &Allocation,
        load: &Load,
        allowed: Option<&HashSet<usize>>,
    ) -> Try {
        let Group { name, alloc_policy, policy, networks, .. } = &self.groups[group];
        let refused = |text: String| Try { group, policy: *alloc_policy, choice: None, text };
        let connected = allocation
            .nics
            .iter()
            .filter_map(|nic| nic.network.as_ref())
            .all(|net| networks.contains(net));
        if !connected {
            return refused(format!(
                "group {name} is not connected to a network required by instance {}",
                allocation.name
            ));
        }
        let mut candidates = self.candidates(group, &[]);
        candidates.retain(|node| allowed.is_none_or(|allowed| allowed.contains(node)));
        let pair = load.template.mirror() == Mirror::Internal;
        if candidates.is_empty() || (pair && candidates.len() < 2) {
            return refused(format!("Group {name}: error Not enough online nodes"));
        }
        let text = |what: String| format!("Group {name} ({}): {what}", alloc_policy.as_str());
        if let Err(fail) = policy.admits(load) {
            let nodes = candidates.len() as u64;
            let mut statistics = Statistics::default();
            statistics.fail(fail, if pair { nodes * (nodes - 1) } else { nodes });
            return refused(text(no_solution(&statistics)));
        }
        let mut redundancy = self.redundancy(group, load, true);
        let scored = named.then_some(group);
        let hopeless = redundancy.hopeless();
        let outcome = self.with_search(scored, hopeless, load, &candidates, |search| {
            let accept = &mut |primary, secondary| redundancy.holds_with(primary, secondary);
            if pair { search.pair(accept) } else { search.single(accept) }
        });
        let Some(choice) = outcome.best else {
            return refused(text(no_solution(&outcome.statistics)));
        };
        let text = text(self.solution(choice, &outcome.statistics));
        Try { group, policy: *alloc_policy, choice: Some(choice), text }
    }

    /// A choice in the words of the information text.
    fn solution(&self, choice: Choice, statistics: &Statistics) -> String {
        format!(
            "score: {:.8}, successes {}, failures {} ({}) for node(s) {}",
            choice.score,
            statistics.successes,
            statistics.failed(),
            reasons(statistics),
            self.names(choice).join("/")
        )
    }

    pub(crate) fn names(&self, choice: Choice) -> Vec<String> {
        let name = |node: usize| self.nodes[node].name.clone();
        std::iter::once(choice.primary).chain(choice.secondary).map(name).collect()
    }

    /// Takes an instance of the picture in, whose memory and disks are in the nodes' figures already: running ones in
    /// the free memory, all in the free space.
    fn count_known(&mut self, load: &Load, primary: usize, secondary: Option<usize>) {
        let state = &mut self.nodes[primary];
        state.figures.disk_free += load.disk;
        state.figures.spindles_free += load.spindles;
        if load.state == AdminState::Up {
            state.figures.memory_free += load.memory;
            state.figures.memory_free_all += load.memory;
        }
        if let Some(node) = secondary {
            self.nodes[node].figures.disk_free += load.disk;
            self.nodes[node].figures.spindles_free += load.spindles;
        }
    }

    /// Takes an instance in that was not there.
    fn remember(&mut self, name: &str, load: Load, primary: usize, secondary: Option<usize>) {
        let index = self.members.len();
        self.nodes[primary].add_primary(index, &load);
        if let Some(node) = secondary {
            self.nodes[node].add_secondary(index, &load, primary);
        }
        self.members.push(Member { name: name.to_owned(), primary, secondary });
        self.loads.push(load);
        self.instance_index.insert(name.to_owned(), index);
    }
}

/// What came of one group.
struct Try {
    group: usize,
    policy: AllocPolicy,
    choice: Option<Choice>,
    text: String,
}

/// The failures, most frequent first.
fn reasons(statistics: &Statistics) -> String {
    let mut failures: Vec<_> = statistics.failures.iter().collect();
    failures.sort_by_key(|(fail, count)| (std::cmp::Reverse(**count), fail.as_str()));
    let texts: Vec<String> =
        failures.iter().map(|(fail, count)| format!("{}: {count}", fail.as_str())).collect();
    texts.join(", ")
}

pub(crate) fn no_solution(statistics: &Statistics) -> String {
    let reasons = reasons(statistics);
    let reasons = if reasons.is_empty() { "unknown reasons" } else { &reasons };
    format!("No valid allocation solutions, failure reasons: {reasons}")
}

pub(crate) fn no_good_node(statistics: &Statistics) -> Refusal {
    Refusal(format!("Can't find any good node: {}", reasons(statistics)))
}

fn state(node: &Node, rank: usize, group: usize, of: &Group) -> State {
    let exclusive = node.params.exclusive_storage;
    let spindles = if exclusive { node.spindles_total } else { node.params.spindle_count };
    let ratio = if exclusive { 1.0 } else { of.policy.spindle_ratio };
    State {
        name: node.name.clone(),
        rank,
        group,
        usable: !node.offline && !node.drained && node.vm_capable,
        offline: node.offline,
        capacity: Capacity {
            memory: node.memory_total_mib as f64,
            disk: node.disk_total_mib as f64,
            cpu_power: node.cpus_total as f64 * node.params.cpu_speed,
            vcpus_max: node.cpus_total as f64 * of.policy.vcpu_ratio,
            spindle_use_max: spindles as f64 * ratio,
            exclusive,
        },
        figures: Figures {
            memory_free: node.memory_free_mib,
            memory_free_all: node.memory_free_mib,
            disk_free: node.disk_free_mib,
            vcpus: node.cpus_reserved,
            spindles_free: node.spindles_free,
            ..Figures::default()
        },
        primaries: Vec::new(),
        secondaries: Vec::new(),
        reserved_for: BTreeMap::new(),
        tags: BTreeMap::new(),
    }
}
