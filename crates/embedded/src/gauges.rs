//! Numbers for monitoring.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::engine::Gauge;
use model::job::{Job, Status};

use crate::lu::cx::Shared;
use crate::queue::Queue;
use crate::store::Store;
use crate::watcher::Watcher;
use crate::watcher::findings::Kind;

/// A count as the exposition format wants it.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

struct Gauges(Vec<Gauge>);

impl Gauges {
    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Vec<(&'static str, String)>,
        value: u64,
        counter: bool,
    ) {
        self.0.push(Gauge { name, help, labels, value: float(value), counter });
    }
}

/// All of them.
pub(crate) fn gauges(
    shared: &Arc<Shared>,
    queue: &Queue,
    store: &Store,
    watcher: &Watcher,
) -> Vec<Gauge> {
    let mut gauges = Gauges(Vec::new());
    jobs(queue, &mut gauges);
    objects(shared, &mut gauges);
    watched(watcher, &mut gauges);
    gauges.add(
        "store_commits_total",
        "Transactions of the store.",
        Vec::new(),
        store.counters.commits.load(Ordering::Relaxed),
        true,
    );
    gauges.add(
        "store_writes_total",
        "Writes that the store's transactions held.",
        Vec::new(),
        store.counters.writes.load(Ordering::Relaxed),
        true,
    );
    gauges.add(
        "store_writable",
        "Whether the store can be written.",
        Vec::new(),
        u64::from(store.check().is_ok()),
        false,
    );
    gauges.0
}

fn watched(watcher: &Watcher, gauges: &mut Gauges) {
    let counters = [
        ("watcher_passes_total", "How often the watcher looked.", &watcher.passes, true),
        ("watcher_restarts_total", "Instances that the watcher started.", &watcher.restarts, true),
        (
            "watcher_cleanups_total",
            "Instances that the watcher noted to be stopped by their users.",
            &watcher.cleanups,
            true,
        ),
        (
            "watcher_given_up",
            "Instances that the watcher starts no more.",
            &watcher.given_up,
            false,
        ),
    ];
    for (name, help, value, counter) in counters {
        gauges.add(name, help, Vec::new(), value.load(Ordering::Relaxed), counter);
    }
    let found = watcher.found();
    for kind in Kind::ALL {
        let count = found.iter().filter(|finding| finding.kind == *kind).count() as u64;
        let labels = vec![("kind", kind.as_str().to_owned())];
        let help = "What runs and should not, or should and does not, as the watcher saw it last.";
        gauges.add("watcher_findings", help, labels, count, false);
    }
}

fn jobs(queue: &Queue, gauges: &mut Gauges) {
    let mut by_status: BTreeMap<Status, u64> = BTreeMap::new();
    for status in [Status::Queued, Status::Waiting, Status::Canceling, Status::Running] {
        by_status.insert(status, 0);
    }
    for cell in queue.cells() {
        let status = cell.look(Job::status);
        if !status.is_final() {
            *by_status.entry(status).or_default() += 1;
        }
    }
    for (status, count) in by_status {
        let labels = vec![("status", status.as_str().to_owned())];
        gauges.add("jobs", "Jobs that are not final, by status.", labels, count, false);
    }
    let mut ended: BTreeMap<Status, u64> = BTreeMap::new();
    for status in [Status::Success, Status::Error, Status::Canceled] {
        ended.insert(status, 0);
    }
    ended.extend(queue.ended_counts());
    for (status, count) in ended {
        let labels = vec![("status", status.as_str().to_owned())];
        gauges.add("jobs_ended_total", "Jobs that ended, by status.", labels, count, true);
    }
    let (queued, _) = queue.lengths();
    let queued = queued as u64;
    gauges.add("job_queue_length", "Jobs that wait to be started.", Vec::new(), queued, false);
}

fn objects(shared: &Shared, gauges: &mut Gauges) {
    let config = shared.config.snapshot();
    let mut instances: BTreeMap<&str, u64> = BTreeMap::new();
    for instance in config.instances.values() {
        *instances.entry(instance.admin_state.as_str()).or_default() += 1;
    }
    for (state, count) in instances {
        let labels = vec![("admin_state", state.to_owned())];
        gauges.add("instances", "Instances, by desired state.", labels, count, false);
    }
    let mut running = 0;
    let (mut total, mut free) = (0, 0);
    let mut nodes: BTreeMap<&str, u64> = BTreeMap::new();
    for node in config.nodes.values() {
        let role = match (node.offline, node.drained, node.master_candidate) {
            _ if node.meta.uuid == config.cluster.master_node => "master",
            (true, ..) => "offline",
            (_, true, _) => "drained",
            (.., true) => "candidate",
            _ => "regular",
        };
        *nodes.entry(role).or_default() += 1;
        if let Some(state) = shared.nodes.state(&node.meta.uuid) {
            running +=
                state.instances.values().filter(|run| run.state == node::RunState::Running).count()
                    as u64;
            total += state.memory_total_mib;
            free += state.memory_free_mib;
        }
    }
    for (role, count) in nodes {
        let labels = vec![("role", role.to_owned())];
        gauges.add("nodes", "Nodes, by role.", labels, count, false);
    }
    gauges.add("instances_running", "Instances that run.", Vec::new(), running, false);
    gauges.add("node_memory_mib", "Memory of all nodes.", Vec::new(), total, false);
    gauges.add("node_memory_free_mib", "Free memory of all nodes.", Vec::new(), free, false);
}
