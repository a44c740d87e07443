//! Runs one job: its opcodes one after the other, each waiting (dependencies, locks), running, done. The first failure ends
//! the job, and a panic in a logical unit costs this one job.
//!
//! Marks of progress are handed to the store in order without waiting; only [`JobPort::sync`], which comes before the world
//! outside is touched, waits until the running mark is durable.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use model::error::{ErrorClass, GanetiError, Result};
use model::job::{Job, LogKind, Status};
use model::name::JobId;
use model::opcode::{Op, OpCode};
use serde_json::Value;

use super::cell::{JobCell, cancelled, end_unfinished};
use super::{Parent, Queue};
use crate::locks::Locks;
use crate::lu::cx::{Cx, JobPort};
use crate::lu::execute;
use crate::store::Write;
use crate::store::row::{JobRow, StateRow};

/// How long a job waits for locks before it is made more urgent by one.
const LOCK_ROUND: Duration = Duration::from_secs(1800);

/// The most urgent priority.
const PRIORITY_FIRST: i64 = -20;

/// How an opcode ended.
enum End {
    Success(Value),
    Error(Value),
    Canceled,
}

/// Runs a job that has a slot, to its end.
pub(super) async fn run(queue: Arc<Queue>, cell: Arc<JobCell>) {
    let count = cell.look(|job| job.ops.len());
    let mut ending = None;
    for index in 0..count {
        if !begin(&queue, &cell, index) {
            ending = Some((index, End::Canceled));
            break;
        }
        let end = step(&queue, &cell, index).await;
        queue.locks.release(cell.id);
        queue.shared.config.release(cell.id);
        match end {
            End::Success(value) if index + 1 < count => {
                let now = queue.shared.env.now();
                cell.change(|job| {
                    let op = &mut job.ops[index];
                    (op.status, op.result, op.end) = (Status::Success, value, Some(now));
                });
            }
            end => {
                ending = Some((index, end));
                break;
            }
        }
    }
    let mut job = cell.look(Job::clone);
    conclude(&mut job, ending, queue.shared.env.now());
    queue.finish(&cell, job);
}

/// Writes the end into a copy of the job, which is shown once it is durable.
fn conclude(job: &mut Job, ending: Option<(usize, End)>, now: model::units::Timestamp) {
    match ending {
        Some((index, End::Success(value))) => {
            let op = &mut job.ops[index];
            (op.status, op.result, op.end) = (Status::Success, value, Some(now));
        }
        Some((index, End::Error(value))) => {
            let op = &mut job.ops[index];
            (op.status, op.result, op.end) = (Status::Error, value, Some(now));
            let rest = GanetiError::exec("Preceding opcode failed").to_value();
            end_unfinished(job, Status::Error, &rest, now);
        }
        Some((_, End::Canceled)) => {
            end_unfinished(job, Status::Canceled, &Value::from("Job canceled by request"), now);
        }
        // A job without opcodes.
        None => {}
    }
    job.end = Some(now);
}

/// Marks an opcode as waiting; false when the job is to be cancelled instead.
fn begin(queue: &Queue, cell: &JobCell, index: usize) -> bool {
    if cell.is_cancelled() {
        return false;
    }
    let now = queue.shared.env.now();
    let state = cell.change(|job| {
        job.start.get_or_insert(now);
        let op = &mut job.ops[index];
        if op.status == Status::Queued {
            op.status = Status::Waiting;
        }
        op.start = Some(now);
        StateRow::of(job)
    });
    queue.store.write_lazily(vec![Write::State(state)]);
    true
}

/// One opcode: dependencies, then the logical unit.
async fn step(queue: &Arc<Queue>, cell: &Arc<JobCell>, index: usize) -> End {
    let input: Op = cell.look(|job| job.ops[index].input.clone());
    for depend in input.common.depends.iter().flatten() {
        match queue.check_dependency(cell.id, depend) {
            Dependency::Fine => {}
            Dependency::Cancel => return End::Canceled,
            Dependency::Error(text) => return End::Error(GanetiError::exec(text).to_value()),
        }
    }
    let port = Arc::new(Port { queue: queue.clone(), cell: cell.clone(), index });
    let reason = input.common.reason.clone();
    let cx = Cx::new(queue.shared.clone(), port, reason);
    let run = AssertUnwindSafe(execute(&input.code, &input.common, &cx)).catch_unwind();
    match run.await {
        Ok(Ok(value)) => End::Success(value),
        Ok(Err(error)) if error.class == ErrorClass::JobCanceled && cell.is_cancelled() => {
            End::Canceled
        }
        Ok(Err(error)) => End::Error(error.to_value()),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            tracing::error!(job.id = cell.id.0, "a logical unit panicked: {text}");
            End::Error(GanetiError::exec(format!("Internal error: {text}")).to_value())
        }
    }
}

/// What a dependency means for the job that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dependency {
    Fine,
    Cancel,
    Error(String),
}

/// Judges a dependency on a job that ended with this status, or that is not known.
pub(super) fn judge_dependency(
    own: JobId,
    depend: &model::job::Depend,
    status: Option<Status>,
) -> Dependency {
    let id = depend.job;
    if i64::try_from(own.0) == Ok(id) {
        return Dependency::Error("Job can't depend on itself".to_owned());
    }
    let Some(status) = status else {
        return Dependency::Error(format!("Dependency error: Job {id} not found"));
    };
    if status == Status::Canceled && !depend.statuses.contains(&Status::Canceled) {
        return Dependency::Cancel;
    }
    if depend.statuses.is_empty() || depend.statuses.contains(&status) {
        return Dependency::Fine;
    }
    let wanted: Vec<&str> = depend.statuses.iter().map(|status| status.as_str()).collect();
    Dependency::Error(format!(
        "Dependency job {id} finished with status '{}', not one of '{}' as required",
        status.as_str(),
        wanted.join(", ")
    ))
}

/// What a logical unit sees of its job.
struct Port {
    queue: Arc<Queue>,
    cell: Arc<JobCell>,
    index: usize,
}

impl Port {
    /// Notes that the locks are held.
    fn mark_running(&self) {
        let now = self.queue.shared.env.now();
        let state = self.cell.change(|job| {
            let op = &mut job.ops[self.index];
            if op.exec.is_some() {
                return None;
            }
            op.status = Status::Running;
            op.exec = Some(now);
            Some(StateRow::of(job))
        });
        if let Some(state) = state {
            self.queue.store.write_lazily(vec![Write::State(state)]);
        }
    }

    fn priority(&self) -> i64 {
        self.cell.look(|job| job.ops[self.index].priority)
    }

    fn raise_priority(&self) {
        let (priority, state) = self.cell.change(|job| {
            let op = &mut job.ops[self.index];
            op.priority = (op.priority - 1).max(PRIORITY_FIRST);
            (op.priority, StateRow::of(job))
        });
        self.queue.store.write_lazily(vec![Write::State(state)]);
        self.queue.locks.set_priority(self.cell.id, priority);
    }
}

#[async_trait]
impl JobPort for Port {
    fn job_id(&self) -> JobId {
        self.cell.id
    }

    fn log(&self, kind: LogKind, payload: Value) {
        let now = self.queue.shared.env.now();
        if let Some(entry) = self.cell.log(self.index, now, kind, payload) {
            let job = self.cell.id;
            self.queue.store.write_lazily(vec![Write::Log { job, op: self.index, entry }]);
        }
    }

    async fn acquire(&self, locks: &Locks) -> Result<()> {
        if self.cell.is_cancelled() {
            return Err(cancelled());
        }
        let owner = self.cell.id;
        if let Some(mut granted) = self.queue.locks.request(owner, self.priority(), locks) {
            loop {
                tokio::select! {
                    biased;
                    () = self.cell.cancel.notified() => {
                        self.queue.locks.cancel(owner);
                        return Err(cancelled());
                    }
                    _ = &mut granted => break,
                    () = tokio::time::sleep(LOCK_ROUND) => {
                        tracing::info!(job.id = owner.0, blockers = ?self.queue.locks.blockers(owner), "waits long for locks");
                        self.raise_priority();
                    }
                }
            }
        }
        self.mark_running();
        Ok(())
    }

    fn release(&self) {
        self.queue.locks.release(self.cell.id);
    }

    fn rewrite(&self, code: OpCode) {
        let compat = self.queue.shared.compat;
        if self.cell.look(|job| job.ops[self.index].input.code == code) {
            return;
        }
        let writes = self.cell.change(|job| {
            job.ops[self.index].input.code = code;
            let mut row = JobRow::of(job, compat);
            row.state = StateRow::of(job);
            vec![Write::Job(Box::new(row))]
        });
        self.queue.store.write_lazily(writes);
    }

    async fn sync(&self) -> Result<()> {
        if self.cell.is_synced(self.index) {
            return Ok(());
        }
        self.mark_running();
        self.queue.store.barrier().await?;
        self.cell.set_synced(self.index);
        Ok(())
    }

    async fn submit(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        let parent = self.cell.look(|job| {
            let op = &job.ops[self.index];
            Parent {
                id: op.input.code.id(),
                priority: op.input.common.priority,
                reason: op.input.common.reason.clone(),
            }
        });
        self.queue.submit_many(jobs, Some(&parent)).await
    }
}
