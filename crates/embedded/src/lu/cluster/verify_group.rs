//! `OP_CLUSTER_VERIFY_GROUP`: whether the nodes of a group answer, and whether their instances are as they are meant to be. The
//! texts are Ganeti's (3.0, `cmdlib/cluster/verify.py`).
//!
//! Not here: what Ganeti checks of its own installation on nodes, such as files, programs, times and networks between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::config::{Config, Instance, Nic, Node};
use model::error::Result;
use model::name::Uuid;
use model::opcode::ClusterVerifyGroup;
use model::param::{AdminState, DiskTemplate, VerifyCheck};
use model::params::{self, be, ipolicy};
use model::units::natural_cmp;
use node::{DiskStatus, NodeState, StrayKind};
use serde_json::{Value, json};

use super::verify::{Findings, Kind};
use crate::lu::instance::{checks, nodes_of, spec_of};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks, shared_checks};

const RPC: Kind = Kind("node", "ENODERPC");
const NETWORK: Kind = Kind("node", "ENODENET");
const ORPHAN: Kind = Kind("node", "ENODEORPHANINSTANCE");
const MEMORY: Kind = Kind("node", "ENODEN1");
const TAGS: Kind = Kind("node", "EEXTAGS");
const WRONG_NODE: Kind = Kind("instance", "EINSTANCEWRONGNODE");
const POLICY: Kind = Kind("instance", "EINSTANCEPOLICY");
const DOWN: Kind = Kind("instance", "EINSTANCEDOWN");
const BAD_NODE: Kind = Kind("instance", "EINSTANCEBADNODE");
const FAULTY_DISK: Kind = Kind("instance", "EINSTANCEFAULTYDISK");
const SPLIT: Kind = Kind("instance", "EINSTANCESPLITGROUPS");

/// What the cluster's tags of this form name: prefixes of tags that no two instances on a node may share.
const EXCLUSION: &str = "htools:iextags:";

/// The states of a disk's local data, by Ganeti's numbers.
const LOCAL_STATES: &[&str] = &["", "ok", "unknown", "faulty", "synchronizing"];
/// Those with which a degraded disk is only warned about.
const ACCEPTED: &[u8] = &[1, 4];

/// The group, its nodes and the instances that are primary on them, by name.
pub(crate) struct Plan {
    name: String,
    uuid: Uuid,
    nodes: Vec<Arc<Node>>,
    instances: Vec<Arc<Instance>>,
}

fn plan(op: &ClusterVerifyGroup, config: &Config) -> Result<Plan> {
    let group = expand::group(config, &op.group_name)?;
    let uuid = group.meta.uuid.clone();
    let mut nodes: Vec<Arc<Node>> = config.members(&uuid).cloned().collect();
    nodes.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    let mut instances: Vec<Arc<Instance>> =
        nodes.iter().flat_map(|node| config.primaries(&node.meta.uuid)).cloned().collect();
    instances.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    Ok(Plan { name: group.name.clone(), uuid, nodes, instances })
}

impl LogicalUnit for ClusterVerifyGroup {
    type Plan = Plan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let plan = plan(self, config)?;
        let mut locks = Locks::new().shared(Level::NodeGroup, &plan.uuid);
        for node in &plan.nodes {
            locks = locks.shared(Level::Node, &node.meta.uuid);
        }
        for instance in &plan.instances {
            locks = locks.shared(Level::Instance, &instance.name);
            for node in config.secondary_nodes(instance) {
                locks = locks.shared(Level::Node, &node);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        plan(self, &cx.config())
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let tags = cx.config().cluster.tags.iter().cloned().collect::<Vec<_>>().join(" ");
        let nodes = plan.nodes.iter().map(|node| node.meta.uuid.clone()).collect();
        let target = &cx.config().cluster.cluster_name;
        let hooks = plain_hooks::hooks("CLUSTER", target, [("CLUSTER_TAGS", tags)], nodes);
        Some(Hooks { pre_nodes: Vec::new(), ..hooks })
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        cx.log(&format!("* Verifying group '{}'", plan.name));
        if plan.nodes.is_empty() {
            cx.log("* Empty node group, skipping verification");
            return Ok(json!(true));
        }
        let mut seen = Seen {
            op: self,
            config: cx.config(),
            findings: Findings::new(cx, self.error_codes, &self.ignore_errors),
            answered: BTreeMap::new(),
            bridges: bridges(&cx.config(), &plan),
        };
        let count = plan.nodes.len();
        cx.log(&format!("* Gathering data ({count} nodes)"));
        cx.log(&format!("* Gathering information about nodes ({count} nodes)"));
        cx.log(&format!("* Gathering disk information ({count} nodes)"));
        cx.log("* Verifying node status");
        for node in &plan.nodes {
            seen.node(cx, node).await;
        }
        cx.log("* Verifying instance status");
        for instance in &plan.instances {
            seen.instance(cx, instance).await;
        }
        if !self.skip_checks.contains(&VerifyCheck::NPlusOneMem) {
            cx.log("* Verifying N+1 Memory redundancy");
            plan.nodes.iter().for_each(|node| seen.memory(node));
        }
        notes(cx, &seen.config, &plan);
        Ok(json!(!seen.findings.bad))
    }
}

/// What is being found out.
struct Seen<'a> {
    op: &'a ClusterVerifyGroup,
    config: Arc<Config>,
    findings: Findings<'a>,
    /// Nodes that answered, and what they said.
    answered: BTreeMap<Uuid, Arc<NodeState>>,
    /// The bridges that each node should have.
    bridges: Vec<String>,
}

/// Ganeti: that of the default NIC, and those that any instance of the group is on, in the order of their names.
fn bridges(config: &Config, plan: &Plan) -> Vec<String> {
    let filled = |nic: &Nic| params::nic::fill(&config.cluster, &nic.nicparams);
    let nics = plan.instances.iter().flat_map(|instance| &instance.nics);
    let used = nics.filter_map(|nic| checks::bridge(&filled(nic)));
    let all: BTreeSet<String> = used.chain(checks::default_bridge(&config.cluster)).collect();
    all.into_iter().collect()
}

impl Seen<'_> {
    async fn node(&mut self, cx: &Cx, node: &Node) {
        let uuid = &node.meta.uuid;
        if node.offline {
            if self.op.verbose {
                cx.log(&format!("* Skipping offline node {}", node.name));
            }
            return;
        }
        if self.op.verbose {
            cx.log(&format!("* Verifying node {} ({})", node.name, role(node, &self.config)));
        }
        let answer = match cx.node(uuid).await {
            Ok(asked) => asked.ping().await.map(|()| (asked.state(), asked.strays())),
            Err(error) => Err(error),
        };
        let (state, strays) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let text = format!("while contacting node: {error}");
                return self.findings.error(RPC, Some(&node.name), &text);
            }
        };
        match checks::lacking_bridges(cx, uuid, &self.bridges).await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                let text = format!("missing bridges: {}", missing.join(", "));
                self.findings.error(NETWORK, Some(&node.name), &text);
            }
            Err(error) => {
                tracing::warn!(node.name = %node.name, %error, "a node does not tell its bridges");
                let text = "did not return valid bridge information";
                self.findings.error(NETWORK, Some(&node.name), text);
            }
        }
        for name in state.instances.keys() {
            match self.config.instance_by_name(name) {
                Some(instance) if instance.primary_node == *uuid => {}
                Some(_) => {
                    let text = format!("instance should not run on node {}", node.name);
                    self.findings.error(WRONG_NODE, Some(name), &text);
                }
                None => {
                    let text = format!("node is running unknown instance {name}");
                    self.findings.error(ORPHAN, Some(&node.name), &text);
                }
            }
        }
        for stray in strays.iter().filter(|stray| stray.kind == StrayKind::Process) {
            let text = format!("node is running unknown instance {}", stray.name);
            self.findings.error(ORPHAN, Some(&node.name), &text);
        }
        self.answered.insert(uuid.clone(), state);
        self.exclusion_tags(node);
    }

    /// Instances with the same exclusion tag are not to be on one node.
    fn exclusion_tags(&mut self, node: &Node) {
        let tags = &self.config.cluster.tags;
        let prefixes: Vec<String> = tags
            .iter()
            .filter_map(|tag| tag.strip_prefix(EXCLUSION))
            .map(|tag| format!("{tag}:"))
            .collect();
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        for instance in self.config.primaries(&node.meta.uuid) {
            for tag in
                instance.tags.iter().filter(|tag| prefixes.iter().any(|p| tag.starts_with(p)))
            {
                if !seen.insert(tag.clone()) {
                    twice.insert(tag.clone());
                }
            }
        }
        if !twice.is_empty() {
            let twice: Value = twice.iter().map(String::as_str).collect();
            let text = format!(
                "Tags where there is more than one instance: {}",
                model::python::repr(&twice)
            );
            self.findings.warning(TAGS, Some(&node.name), &text);
        }
    }

    async fn instance(&mut self, cx: &Cx, instance: &Instance) {
        let config = self.config.clone();
        let name = Some(instance.name.as_str());
        if self.op.verbose {
            cx.log(&format!("* Verifying instance {}", instance.name));
        }
        let primary = config.nodes.get(&instance.primary_node);
        if let Some(group) = primary.and_then(|node| config.groups.get(&node.group)) {
            let spec = shared_checks::instance_spec(&config, instance);
            let broken = ipolicy::violations(&ipolicy::fill(&config.cluster, group), &spec);
            if !broken.is_empty() {
                self.findings.warning(POLICY, name, &broken.join(", "));
            }
        }
        let node = config.node_name(&instance.primary_node);
        if instance.admin_state == AdminState::Up {
            let state = self.answered.get(&instance.primary_node);
            if primary.is_some_and(|node| node.offline) {
                let text =
                    format!("instance is marked as running and lives on offline node {node}");
                self.findings.error(BAD_NODE, name, &text);
            } else if state.is_none_or(|state| !state.instances.contains_key(&instance.name)) {
                let text = format!("instance not running on its primary node {node}");
                self.findings.error(DOWN, name, &text);
            }
        }
        if instance.disks_active {
            self.disks(cx, instance).await;
        }
        self.nodes(instance);
    }

    async fn disks(&mut self, cx: &Cx, instance: &Instance) {
        let told = spec_of(cx, instance);
        for uuid in nodes_of(&self.config, instance) {
            // What lies on a node that does not answer is not asked for.
            if !self.answered.contains_key(&uuid) {
                continue;
            }
            let node = self.config.node_name(&uuid).to_owned();
            for (at, disk) in told.disks.iter().enumerate() {
                let status = match cx.node(&uuid).await {
                    Ok(asked) => asked.disk_status(disk).await,
                    Err(error) => Err(error),
                };
                let why = match status {
                    Ok(Some(status)) => {
                        self.degraded(instance, at, &node, &status);
                        continue;
                    }
                    Ok(None) => "the disk is not there".to_owned(),
                    Err(error) => error.to_string(),
                };
                let text = format!("couldn't retrieve status for disk/{at} on {node}: {why}");
                self.findings.error(FAULTY_DISK, Some(&instance.name), &text);
            }
        }
    }

    fn degraded(&mut self, instance: &Instance, at: usize, node: &str, status: &DiskStatus) {
        if !status.is_degraded {
            return;
        }
        let local =
            LOCAL_STATES.get(usize::from(status.ldisk_status)).copied().unwrap_or("unknown");
        let text = format!("disk/{at} on {node} is degraded; local disk state is '{local}'");
        if ACCEPTED.contains(&status.ldisk_status) {
            self.findings.warning(FAULTY_DISK, Some(&instance.name), &text);
        } else {
            self.findings.error(FAULTY_DISK, Some(&instance.name), &text);
        }
    }

    /// Where an instance lives.
    fn nodes(&mut self, instance: &Instance) {
        let config = &self.config;
        let name = Some(instance.name.as_str());
        let held = nodes_of(config, instance);
        let mut groups: Vec<(&Uuid, Vec<&str>)> = Vec::new();
        for node in held.iter().filter_map(|uuid| config.nodes.get(uuid)) {
            match groups.iter_mut().find(|(group, _)| **group == node.group) {
                Some((_, names)) => names.push(&node.name),
                None => groups.push((&node.group, vec![&node.name])),
            }
        }
        if groups.len() > 1 {
            let shown = |(group, names): &(&Uuid, Vec<&str>)| {
                let group = config.groups.get(*group).map_or("?", |group| group.name.as_str());
                format!("{} (group {group})", names.join(", "))
            };
            let shown: Vec<String> = groups.iter().map(shown).collect();
            let text = format!(
                "instance has primary and secondary nodes in different groups: {}",
                shown.join(", ")
            );
            self.findings.warning(SPLIT, name, &text);
        }
        let secondaries = held.iter().skip(1).filter_map(|uuid| config.nodes.get(uuid));
        let offline: Vec<&str> =
            secondaries.filter(|node| node.offline).map(|node| node.name.as_str()).collect();
        if !offline.is_empty() {
            let text = format!("instance has offline secondary node(s) {}", offline.join(", "));
            self.findings.error(BAD_NODE, name, &text);
        }
        for node in held.iter().filter_map(|uuid| config.nodes.get(uuid)) {
            if !node.vm_capable {
                let text = format!("instance lives on non-vm_capable node {}", node.name);
                self.findings.error(BAD_NODE, name, &text);
            }
        }
    }

    /// Whether a node could take over the instances that any single other node would leave to it.
    fn memory(&mut self, node: &Node) {
        let Some(state) = self.answered.get(&node.meta.uuid) else { return };
        let mut needed: BTreeMap<&Uuid, u64> = BTreeMap::new();
        for instance in self.config.secondaries(&node.meta.uuid) {
            let filled = be::fill(&self.config.cluster, &instance.beparams);
            if filled.get("auto_balance") == Some(&Value::Bool(true)) {
                *needed.entry(&instance.primary_node).or_default() += be::number(&filled, "minmem");
            }
        }
        let free = state.memory_free_mib;
        for (primary, needed) in needed.into_iter().filter(|(_, needed)| *needed > free) {
            let text = format!(
                "not enough memory to accomodate instance failovers should node {} fail ({needed}MiB needed, {free}MiB \
                 available)",
                self.config.node_name(primary)
            );
            self.findings.error(MEMORY, Some(&node.name), &text);
        }
    }
}

fn role(node: &Node, config: &Config) -> &'static str {
    if node.meta.uuid == config.cluster.master_node {
        "master"
    } else if node.master_candidate {
        "master candidate"
    } else if node.drained {
        "drained"
    } else {
        "regular"
    }
}

fn notes(cx: &Cx, config: &Config, plan: &Plan) {
    cx.log("* Other Notes");
    let mirrored = |template: DiskTemplate| {
        placement::instance::DiskTemplate::parse(template.as_str())
            .is_some_and(|template| template.mirror() != placement::instance::Mirror::None)
    };
    let redundant = |instance: &Instance| {
        config.instance_disks(instance).iter().all(|disk| mirrored(disk.dev_type))
    };
    let balanced = |instance: &Instance| {
        let filled = be::fill(&config.cluster, &instance.beparams);
        filled.get("auto_balance") == Some(&Value::Bool(true))
    };
    let instances = |wanted: &dyn Fn(&Instance) -> bool| {
        plan.instances.iter().filter(|instance| wanted(instance)).count()
    };
    let nodes = |wanted: fn(&Node) -> bool| plan.nodes.iter().filter(|node| wanted(node)).count();
    let notes = [
        (instances(&|instance| !redundant(instance)), "non-redundant instance(s)"),
        (instances(&|instance| !balanced(instance)), "non-auto-balanced instance(s)"),
        (instances(&|instance| instance.admin_state == AdminState::Offline), "offline instance(s)"),
        (nodes(|node| node.offline), "offline node(s)"),
        (nodes(|node| node.drained), "drained node(s)"),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        cx.log(&format!("  - NOTICE: {count} {what} found."));
    }
}

#[cfg(test)]
mod tests {
    use node::Node;
    use serde_json::{Value, json};

    use crate::lu::testing::{Bench, Outcome};

    const WEB1: &str = "web1.example.com";
    const NODE2: &str = "node2.example.com";

    async fn bench() -> Bench {
        let bench = Bench::new(3);
        let disks = json!([{"size": 1024}]);
        bench.make(WEB1, json!({"disk_template": "drbd", "disks": disks, "snode": NODE2})).await;
        bench
    }

    async fn verify(bench: &Bench, more: Value) -> Outcome {
        let mut op = json!({"OP_ID": "OP_CLUSTER_VERIFY_GROUP", "group_name": "default"});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run(op).await
    }

    fn found(outcome: &Outcome, expected: &[&str]) {
        let marks = ["  - ERROR", "  - WARNING"];
        let is_finding = |line: &&String| marks.iter().any(|mark| line.starts_with(mark));
        let found: Vec<&String> = outcome.log.iter().filter(is_finding).collect();
        assert_eq!(found, expected);
        let is_good = !expected.iter().any(|line| line.starts_with("  - ERROR"));
        assert_eq!(outcome.result, Ok(json!(is_good)));
    }

    #[tokio::test]
    async fn what_is_well_is_not_told() {
        let bench = bench().await;
        let outcome = verify(&bench, json!({"verbose": true})).await;
        found(&outcome, &[]);
        assert_eq!(outcome.log[0], "* Verifying group 'default'");
        assert!(outcome.log.contains(&"* Verifying node node1.example.com (master)".to_owned()));
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_in_ganetis_words() {
        let bench = bench().await;
        bench.world.node("node1.example.com").crash_instance(WEB1);
        let down = "  - ERROR: instance web1.example.com: instance not running on its primary node node1.example.com";
        found(&verify(&bench, json!({})).await, &[down]);
        let outcome =
            verify(&bench, json!({"ignore_errors": ["EINSTANCEDOWN"], "error_codes": true})).await;
        let warned = "  - WARNING:EINSTANCEDOWN:instance:web1.example.com:instance not running on its primary node \
            node1.example.com";
        found(&outcome, &[warned]);
        bench.start(WEB1).await;
        bench.world.node(NODE2).unreachable(true);
        let silent = "  - ERROR: node node2.example.com: while contacting node: Connection failed (7: Failed to connect to \
            node2.example.com port 1811: No route to host)";
        let degraded = "  - WARNING: instance web1.example.com: disk/0 on node1.example.com is degraded; local disk \
            state is 'ok'";
        found(&verify(&bench, json!({})).await, &[silent, degraded]);
        bench.world.node(NODE2).unreachable(false);
        bench.set_offline(NODE2, true).await;
        let outcome = verify(&bench, json!({})).await;
        let offline = "  - ERROR: instance web1.example.com: instance has offline secondary node(s) node2.example.com";
        found(&outcome, &[offline]);
        assert!(outcome.log.contains(&"  - NOTICE: 1 offline node(s) found.".to_owned()));
    }

    #[tokio::test]
    async fn bridges_are_missed() {
        let bench = bench().await;
        let nics = json!([["add", -1, {"link": "br7"}]]);
        let astray = json!({
            "OP_ID": "OP_INSTANCE_SET_PARAMS", "instance_name": WEB1, "nics": nics, "force": true,
        });
        bench.run(astray).await.result.unwrap();
        let missed = ["node1", "node2", "node3"]
            .map(|node| format!("  - ERROR: node {node}.example.com: missing bridges: br7"));
        found(&verify(&bench, json!({})).await, &missed.each_ref().map(String::as_str));
    }

    #[tokio::test]
    async fn the_jobs_follow_the_configurations() {
        let bench = bench().await;
        let outcome = bench.run(json!({"OP_ID": "OP_CLUSTER_VERIFY"})).await;
        assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2], [true, 3]]})));
        assert_eq!(outcome.jobs[1][0].common.depends.as_ref().unwrap()[0].job, -1);
        let outcome = bench.run(json!({"OP_ID": "OP_CLUSTER_VERIFY_CONFIG"})).await;
        assert_eq!(outcome.result, Ok(json!(true)), "{:?}", outcome.log);
    }

    #[tokio::test]
    async fn disks_are_looked_for_and_measured() {
        let bench = bench().await;
        let look = json!({"OP_ID": "OP_GROUP_VERIFY_DISKS", "group_name": "default"});
        assert_eq!(bench.run(look.clone()).await.result, Ok(json!([{}, [], {}])));
        let config = bench.config();
        let instance = config.instance_by_name(WEB1).unwrap().clone();
        let disk = crate::spec::disk(&config, &instance, &config.instance_disks(&instance)[0]);
        let told = crate::spec::instance(&config, model::compat::Compat::V31, &instance);
        let node1 = bench.world.node("node1.example.com");
        node1.crash_instance(WEB1);
        node1.shutdown_disk(&told, &disk).await.unwrap();
        assert_eq!(bench.run(look).await.result, Ok(json!([{}, [WEB1], {}])));
        let measure = json!({"OP_ID": "OP_CLUSTER_REPAIR_DISK_SIZES"});
        assert_eq!(bench.run(measure.clone()).await.result, Ok(json!([])));
        bench.edit_disk(WEB1, 0, |disk| disk.size_mib = 1000).await;
        let outcome = bench.run(measure).await;
        assert_eq!(outcome.result, Ok(json!([[WEB1, 0, "size", 1024]])), "{:?}", outcome.log);
        let all =
            json!({"OP_ID": "OP_NODE_QUERYVOLS", "output_fields": ["node", "size", "instance"]});
        let volumes = bench.run(all).await.result.unwrap();
        assert_eq!(volumes[0], json!(["node1.example.com", "1024", WEB1]));
        assert_eq!(volumes.as_array().unwrap().len(), 4);
    }
}
