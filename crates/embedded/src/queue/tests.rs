//! The queue: the schedule against a naive one, and whole jobs over a store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::compat::Compat;
use model::error::ErrorClass;
use model::job::{Job, Status};
use model::name::{JobId, Uuid};
use model::opcode::Op;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Queue;
use super::schedule::{Bucket, Schedule, Verdict};
use crate::locks::Locks;
use crate::lu::testing::Bench;
use crate::store::Store;
use crate::store::memory::Memory;

// The schedule.

#[derive(Clone, Debug)]
enum Step {
    Add { priority: i64, needs: Vec<u64>, limits: Vec<(u8, u64)>, paused: bool },
    Next,
    End(usize),
    Cancel(usize),
    Priority(usize, i64),
    Unpause(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let limits = proptest::collection::vec((0..3_u8, 1..3_u64), 0..3);
    let needs = proptest::collection::vec(1..4_u64, 0..2);
    prop_oneof![
        4 => (-2..2_i64, needs, limits, proptest::bool::weighted(0.1)).prop_map(
            |(priority, needs, limits, paused)| Step::Add { priority, needs, limits, paused }
        ),
        5 => Just(Step::Next),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (any::<usize>(), -3..3_i64).prop_map(|(at, priority)| Step::Priority(at, priority)),
        1 => any::<usize>().prop_map(Step::Unpause),
    ]
}

struct Naive {
    priority: i64,
    needs: BTreeSet<JobId>,
    verdict: Verdict,
    running: bool,
}

fn verdict(limits: &[(u8, u64)], paused: bool) -> Verdict {
    let mut named = BTreeMap::new();
    for (label, limit) in limits {
        named.insert(Bucket::Label(label.to_string()), *limit);
    }
    Verdict { paused, limits: named.into_iter().collect() }
}

fn expected(jobs: &BTreeMap<JobId, Naive>, max: usize) -> Option<JobId> {
    if jobs.values().filter(|job| job.running).count() >= max {
        return None;
    }
    let used = |bucket: &Bucket| {
        let has = |job: &&Naive| job.verdict.limits.iter().any(|(other, _)| other == bucket);
        jobs.values().filter(|job| job.running).filter(has).count() as u64
    };
    let may = |job: &Naive| {
        !job.running
            && job.needs.is_empty()
            && !job.verdict.paused
            && job.verdict.limits.iter().all(|(bucket, limit)| used(bucket) < *limit)
    };
    let eligible = jobs.iter().filter(|(_, job)| may(job));
    eligible.map(|(id, job)| (job.priority, *id)).min().map(|(_, id)| id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_schedule_is_what_a_walk_over_all_jobs_gives(
        steps in proptest::collection::vec(step(), 1..120),
        max in 1..5_usize,
    ) {
        let mut real = Schedule::default();
        let mut jobs: BTreeMap<JobId, Naive> = BTreeMap::new();
        let mut last = 0;
        for step in steps {
            let pick = |at: usize, running: bool| {
                let ids: Vec<JobId> =
                    jobs.iter().filter(|(_, job)| job.running == running).map(|(id, _)| *id).collect();
                (!ids.is_empty()).then(|| ids[at % ids.len()])
            };
            match step {
                Step::Add { priority, needs, limits, paused } => {
                    last += 1;
                    let id = JobId(last);
                    let needs: BTreeSet<JobId> = needs
                        .into_iter()
                        .filter_map(|back| last.checked_sub(back).map(JobId))
                        .filter(|need| jobs.contains_key(need))
                        .collect();
                    let verdict = verdict(&limits, paused);
                    real.add(id, priority, needs.iter().copied(), verdict.clone());
                    jobs.insert(id, Naive { priority, needs, verdict, running: false });
                }
                Step::Next => {
                    let found = expected(&jobs, max);
                    prop_assert_eq!(real.next(max), found);
                    if let Some(id) = found {
                        jobs.get_mut(&id).unwrap().running = true;
                    }
                }
                Step::End(at) | Step::Cancel(at) => {
                    let Some(id) = pick(at, matches!(step, Step::End(_))) else { continue };
                    real.remove(id);
                    real.ended(id);
                    jobs.remove(&id);
                    jobs.values_mut().for_each(|job| { job.needs.remove(&id); });
                }
                Step::Priority(at, priority) => {
                    let Some(id) = pick(at, false) else { continue };
                    real.set_priority(id, priority);
                    jobs.get_mut(&id).unwrap().priority = priority;
                }
                Step::Unpause(at) => {
                    let Some(id) = pick(at, false) else { continue };
                    let job = jobs.get_mut(&id).unwrap();
                    job.verdict.paused = !job.verdict.paused;
                    real.set_verdict(id, job.verdict.clone());
                }
            }
            prop_assert_eq!(real.len(), jobs.len());
        }
    }
}

// Whole jobs.

struct Rig {
    queue: Arc<Queue>,
    memory: Memory,
}

fn rig() -> Rig {
    let memory = Memory::default();
    let queue = open(&memory);
    Rig { queue, memory }
}

fn open(memory: &Memory) -> Arc<Queue> {
    let store = Store::start(memory.clone(), memory.clone()).unwrap();
    Queue::open(Bench::new(2).shared, store).unwrap()
}

fn op(wire: &Value) -> Op {
    Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap()
}

fn tag() -> Value {
    json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": ["t"], "name": null})
}

/// A job that runs until it is stopped.
fn long() -> Value {
    json!({"OP_ID": "OP_TEST_DELAY", "duration": 100_000.0})
}

/// A job that fails.
fn failing() -> Value {
    json!({"OP_ID": "OP_TAGS_DEL", "kind": "cluster", "tags": ["absent"], "name": null})
}

fn with(mut wire: Value, key: &str, value: Value) -> Value {
    wire[key] = value;
    wire
}

impl Rig {
    async fn submit(&self, wire: Value) -> JobId {
        self.queue.submit(vec![op(&wire)]).await.unwrap()
    }

    /// Waits until a job is in a state.
    async fn until(&self, id: JobId, wanted: Status) -> Job {
        let cell = self.queue.cell(id).expect("it is in memory");
        let mut changes = cell.subscribe();
        let reached = async {
            while cell.look(Job::status) != wanted {
                changes.changed().await.unwrap();
            }
            cell.look(Job::clone)
        };
        let limit = Duration::from_secs(20);
        match tokio::time::timeout(limit, reached).await {
            Ok(job) => job,
            Err(_) => panic!("job {id} is {:?}, not {wanted:?}", cell.look(Job::status)),
        }
    }

    async fn limit_running(&self, max: u64) {
        let change = |draft: &mut crate::config::Draft<'_>| {
            draft.edit_cluster(|cluster| cluster.max_running_jobs = max);
            Ok(())
        };
        self.queue.shared.config.commit(change).await.unwrap();
    }

    async fn rule(&self, priority: u64, predicates: Value, action: Value) -> Uuid {
        let watermark = self.queue.last_id();
        let put = |draft: &mut crate::config::Draft<'_>| {
            let uuid = draft.env().uuid();
            draft.put_filter(model::config::Filter {
                uuid: uuid.clone(),
                watermark,
                priority,
                predicates,
                action,
                reason_trail: json!([]),
            });
            Ok(uuid)
        };
        let uuid = self.queue.shared.config.commit(put).await.unwrap();
        self.queue.judge_again();
        uuid
    }

    async fn drop_rule(&self, uuid: &Uuid) {
        let drop = |draft: &mut crate::config::Draft<'_>| {
            draft.drop_filter(uuid);
            Ok(())
        };
        self.queue.shared.config.commit(drop).await.unwrap();
        self.queue.judge_again();
    }

    fn status(&self, id: JobId) -> Status {
        self.queue.cell(id).unwrap().look(Job::status)
    }
}

#[tokio::test]
async fn a_job_is_cancelled_in_every_state() {
    let rig = rig();
    rig.limit_running(2).await;
    let running = rig.submit(long()).await;
    rig.until(running, Status::Running).await;
    let not_waiting =
        (false, "Job no longer waiting, can't cancel (informed it anyway)".to_owned());
    assert_eq!(rig.queue.cancel(running).await, not_waiting);

    let holder = JobId(9_999);
    let all = Locks::none().all(crate::locks::Level::NodeGroup, crate::locks::Mode::Exclusive);
    assert!(rig.queue.locks.request(holder, 0, &all).is_none());
    let node =
        json!({"OP_ID": "OP_TAGS_SET", "kind": "nodegroup", "tags": ["t"], "name": "default"});
    let waiting = rig.submit(node).await;
    rig.until(waiting, Status::Waiting).await;
    let queued = rig.submit(tag()).await;
    assert_eq!(rig.status(queued), Status::Queued);
    assert_eq!(rig.queue.cancel(queued).await, (true, format!("Dequeued job {queued}")));
    let job = rig.until(queued, Status::Canceled).await;
    assert_eq!((&job.ops[0].result, job.start), (&Value::Null, None));

    let done = (true, "Job successfully cancelled".to_owned());
    assert_eq!(rig.queue.cancel(waiting).await, done);
    let job = rig.until(waiting, Status::Canceled).await;
    assert_eq!(job.ops[0].result, json!("Job canceled by request"));
    for id in [waiting, JobId(77)] {
        let not_found = (false, format!("Job {id} not found in queue"));
        assert_eq!(rig.queue.cancel(id).await, not_found);
    }
    assert!(rig.queue.locks.blockers(waiting).is_empty());
}

#[tokio::test]
async fn failures_end_a_job_and_serials_run_through_it() {
    let rig = rig();
    let ops = vec![op(&tag()), op(&failing()), op(&tag())];
    let id = rig.queue.submit(ops).await.unwrap();
    let job = rig.until(id, Status::Error).await;
    let status: Vec<Status> = job.ops.iter().map(|op| op.status).collect();
    assert_eq!(status, [Status::Success, Status::Error, Status::Error]);
    assert_eq!(
        job.ops[1].result,
        json!(["OpPrereqError", ["Tag(s) 'absent' not found", "unknown_entity"]])
    );
    assert_eq!(job.ops[2].result, json!(["OpExecError", ["Preceding opcode failed"]]));
    assert!(job.start.is_some() && job.end.is_some());
}

#[tokio::test]
async fn dependencies_have_their_outcomes() {
    let rig = rig();
    let failed = rig.submit(failing()).await;
    rig.until(failed, Status::Error).await;
    let depends = |id: i64, statuses: Value| with(tag(), "depends", json!([[id, statuses]]));
    let text = |job: &Job| job.ops[0].result[1][0].as_str().unwrap_or_default().to_owned();

    let wrong = rig.submit(depends(1, json!(["success", "canceled"]))).await;
    let job = rig.until(wrong, Status::Error).await;
    assert_eq!(
        text(&job),
        "Dependency job 1 finished with status 'error', not one of 'success, canceled' as required"
    );
    let fine = rig.submit(depends(1, json!(["error"]))).await;
    rig.until(fine, Status::Success).await;
    let any = rig.submit(depends(1, json!([]))).await;
    rig.until(any, Status::Success).await;
    let lost = rig.submit(depends(4_000, json!([]))).await;
    let job = rig.until(lost, Status::Error).await;
    assert_eq!(text(&job), "Dependency error: Job 4000 not found");
    let own = i64::try_from(lost.0).unwrap() + 1;
    let own = rig.submit(depends(own, json!([]))).await;
    let job = rig.until(own, Status::Error).await;
    assert_eq!(text(&job), "Job can't depend on itself");

    let first = rig.submit(long()).await;
    let second = rig.submit(depends(-1, json!(["success"]))).await;
    rig.until(first, Status::Running).await;
    assert_eq!(rig.status(second), Status::Queued);
    let absolute = i64::try_from(first.0).unwrap();
    let shown = rig.queue.cell(second).unwrap().look(Job::clone);
    assert_eq!(shown.ops[0].input.common.depends.as_ref().unwrap()[0].job, absolute);
    let third = rig.submit(depends(-1, json!(["success"]))).await;
    rig.queue.cancel(second).await;
    let job = rig.until(third, Status::Canceled).await;
    assert_eq!(job.ops[0].result, json!("Job canceled by request"));
}

#[tokio::test]
async fn filter_rules_hold_jobs_back() {
    let rig = rig();
    let tags = json!([["opcode", ["=", "OP_ID", "OP_TAGS_SET"]]]);
    let pause = rig.rule(5, tags.clone(), json!("PAUSE")).await;
    let paused = rig.submit(tag()).await;
    let other = rig.submit(failing()).await;
    rig.until(other, Status::Error).await;
    assert_eq!(rig.status(paused), Status::Queued);
    // An earlier rule that goes on changes nothing; one that accepts does.
    rig.rule(1, json!([]), json!("CONTINUE")).await;
    assert_eq!(rig.status(paused), Status::Queued);
    let old = json!([["jobid", ["<=", "id", "watermark"]]]);
    let accept = rig.rule(2, old, json!("ACCEPT")).await;
    rig.until(paused, Status::Success).await;
    rig.drop_rule(&accept).await;
    rig.drop_rule(&pause).await;

    let named = json!([["reason", ["=~", "reason", "^night"]]]);
    rig.rule(5, named, json!("REJECT")).await;
    let reasons = json!([["gnt:user", "nightly", 1]]);
    let rejected = rig.submit(with(tag(), "reason", reasons)).await;
    rig.until(rejected, Status::Canceled).await;

    let delays = json!([["opcode", ["=", "OP_ID", "OP_TEST_DELAY"]]]);
    rig.rule(6, delays, json!(["RATE_LIMIT", 1])).await;
    let first = rig.submit(long()).await;
    let second = rig.submit(long()).await;
    rig.until(first, Status::Running).await;
    let after = rig.submit(tag()).await;
    rig.until(after, Status::Success).await;
    assert_eq!(rig.status(second), Status::Queued);
}

#[tokio::test]
async fn labels_limit_how_many_run() {
    let rig = rig();
    let limited = || with(long(), "reason", json!([["gnt:user", "rate-limit:1:backup", 1]]));
    let first = rig.submit(limited()).await;
    let second = rig.submit(limited()).await;
    rig.until(first, Status::Running).await;
    let after = rig.submit(tag()).await;
    rig.until(after, Status::Success).await;
    assert_eq!(rig.status(second), Status::Queued);
}

#[tokio::test]
async fn urgent_jobs_start_first_and_priorities_change() {
    let rig = rig();
    rig.limit_running(0).await;
    let slow = rig.submit(with(tag(), "priority", json!(10))).await;
    let plain = rig.submit(tag()).await;
    let fast = rig.submit(with(tag(), "priority", json!(-10))).await;
    let (changed, text) = rig.queue.change_priority(slow, -10).await;
    let expected = format!("Priorities of pending opcodes for job {slow} have been changed to -10");
    assert_eq!((changed, text), (true, expected));
    rig.limit_running(1).await;
    rig.queue.pump();
    let mut started = Vec::new();
    for id in [slow, plain, fast] {
        let job = rig.until(id, Status::Success).await;
        started.push((job.start, id));
    }
    started.sort();
    let order: Vec<JobId> = started.into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, [slow, fast, plain]);
    let gone = (false, format!("Job {slow} not found in queue"));
    assert_eq!(rig.queue.change_priority(slow, 0).await, gone);
}

#[tokio::test]
async fn a_drained_queue_refuses_and_stays_so() {
    let rig = rig();
    rig.queue.set_drained(true).await.unwrap();
    let refused = rig.queue.submit(vec![op(&tag())]).await.unwrap_err();
    assert_eq!(refused.to_value(), json!(["GenericError", ["Queue drained"]]));
    drop(rig.queue);
    let queue = open(&rig.memory);
    assert!(queue.is_drained());
    queue.set_drained(false).await.unwrap();
    assert_eq!(queue.submit(vec![op(&tag())]).await.unwrap(), JobId(1));
}

#[tokio::test]
async fn a_store_that_cannot_be_written_refuses_jobs_and_recovers() {
    let rig = rig();
    let running = rig.submit(long()).await;
    rig.until(running, Status::Running).await;
    // The job waits for its running mark to be durable before it acts; it is past that here.
    rig.queue.store.barrier().await.unwrap();
    rig.memory.fail(Some("database or disk is full"));
    let refused = rig.queue.submit(vec![op(&tag())]).await.unwrap_err();
    assert_eq!(refused.class, ErrorClass::JobQueueError);
    assert_eq!(refused.to_string(), "Can't write to the store: database or disk is full");
    // Something that must not get lost fails too, and from then on the store is known to be full.
    rig.queue.cancel(running).await;
    assert!(
        rig.queue.store.write_and_wait(vec![crate::store::Write::Archive(vec![])]).await.is_err()
    );
    assert!(rig.queue.store.check().is_err());
    assert!(rig.queue.submit(vec![op(&tag())]).await.is_err());
    assert_eq!(rig.status(running), Status::Running);
    rig.memory.fail(None);
    let mut accepted = None;
    for _ in 0..200 {
        accepted = rig.queue.submit(vec![op(&tag())]).await.ok();
        if accepted.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = accepted.expect("the store is tried again");
    rig.until(id, Status::Success).await;
}

#[tokio::test]
async fn a_restart_runs_what_was_queued_and_ends_what_had_begun() {
    let rig = rig();
    rig.limit_running(1).await;
    let running = rig.submit(long()).await;
    let queued = rig.submit(tag()).await;
    rig.until(running, Status::Running).await;
    rig.queue.store.barrier().await.unwrap();
    let queue = open(&rig.memory);
    let found = queue.recover().await.unwrap();
    assert_eq!((found.queued, found.dead), (1, 1));
    queue.pump();
    let again = Rig { queue, memory: rig.memory.clone() };
    again.until(queued, Status::Success).await;
    let dead = again.queue.store.read(|reader| reader.job(running)).unwrap().unwrap();
    assert_eq!(dead.ops[0].result, json!(format!("detected death of job {running}")));
    assert_eq!(dead.status(), Status::Error);
    assert_eq!(again.submit(tag()).await, JobId(3));
}

#[tokio::test]
async fn a_restart_runs_nothing_without_its_secrets() {
    let rig = rig();
    rig.limit_running(0).await;
    let reinstall = json!({
        "OP_ID": "OP_INSTANCE_REINSTALL", "instance_name": "a", "osparams_secret": {"password": "hush-hush"},
    });
    let lost = rig.submit(reinstall).await;
    let queued = rig.submit(tag()).await;
    rig.queue.store.barrier().await.unwrap();
    let queue = open(&rig.memory);
    let found = queue.recover().await.unwrap();
    assert_eq!((found.queued, found.dead), (1, 1));
    queue.pump();
    let again = Rig { queue, memory: rig.memory.clone() };
    again.until(queued, Status::Success).await;
    let dead = again.queue.store.read(|reader| reader.job(lost)).unwrap().unwrap();
    let text = format!("the secret parameters of job {lost} were not kept");
    assert_eq!(dead.ops[0].result, json!(text));
}

#[tokio::test]
async fn ten_thousand_wait_for_one_job() {
    let rig = rig();
    rig.limit_running(0).await;
    let id = rig.submit(tag()).await;
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let queue = rig.queue.clone();
        waiters.spawn(async move {
            let values = |job: &Job| Ok(vec![json!(job.status().as_str())]);
            let seen = [json!("queued")];
            let limit = Duration::from_secs(80);
            queue.wait_for_change(id, values, Some(&seen), None, limit).await
        });
    }
    tokio::task::yield_now().await;
    rig.limit_running(1).await;
    rig.queue.pump();
    while let Some(answer) = waiters.join_next().await {
        let change = answer.unwrap().unwrap().expect("it changed");
        assert_ne!(change.job_info, [json!("queued")]);
    }
}

#[tokio::test]
async fn children_inherit_and_say_whose_they_are() {
    let rig = rig();
    rig.limit_running(0).await;
    let parent = super::Parent {
        id: model::opcode::OpId::NodeEvacuate,
        priority: -10,
        reason: vec![model::job::ReasonEntry("gnt:user".into(), "because".into(), 5)],
    };
    let jobs = vec![vec![op(&tag())], vec![op(&tag())]];
    let ids = rig.queue.submit_many(jobs, Some(&parent)).await.unwrap();
    assert_eq!(ids, [Ok(JobId(1)), Ok(JobId(2))]);
    let job = rig.queue.cell(JobId(2)).unwrap().look(Job::clone);
    let common = &job.ops[0].input.common;
    assert_eq!(
        (job.priority(), common.comment.as_deref()),
        (-10, Some("Submitted by OP_NODE_EVACUATE"))
    );
    let sources: Vec<(&str, &str)> =
        common.reason.iter().map(|entry| (entry.0.as_str(), entry.1.as_str())).collect();
    assert_eq!(sources, [("gnt:user", "because"), ("gnt:opcode:tags_set", "job=2;index=0")]);
}
