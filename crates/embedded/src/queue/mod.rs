//! The job queue: accepts jobs durably, decides which runs, tells who waits.
//!
//! ```text
//!   submit ──> store (durable) ──> schedule ──> worker: waiting ──> running ──> store (durable) ──> shown as ended
//!     │ refused: drained, full        │ cancelled, rejected                         │ dependents may start
//!     v                               v                                             v
//! ```
//!
//! What decides is pure ([`schedule`], [`rules`]) and lives behind one lock that is held for a few lines. A job is known
//! here from the moment it is durable until a while after its end; older ones are read from the store.

pub(crate) mod cell;
pub(crate) mod recover;
pub(crate) mod rules;
pub(crate) mod schedule;
#[cfg(test)]
mod tests;
mod wait;
mod worker;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use model::error::{ErrorClass, GanetiError, Result};
use model::job::{Depend, Job, ReasonEntry, Status};
use model::name::JobId;
use model::opcode::{Op, OpId};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::locks::waiting::LockTable;
use crate::lu::cx::Shared;
use crate::store::row::{JobRow, StateRow};
use crate::store::{Store, StoreError, Write};
use cell::{JobCell, end_dead, end_unfinished};
use rules::Judgement;
use schedule::Schedule;

/// The most jobs that may be unfinished at once.
const UNFINISHED_JOBS_MAX: usize = 50_000;

/// How many jobs that ended are kept in memory.
const RECENT_JOBS_MAX: usize = 256;

/// How long a cancellation of a waiting job is watched.
const CANCEL_WATCH: Duration = Duration::from_secs(44);

/// The setting that keeps the queue closed over a restart.
const DRAINED: &str = "drained";

/// The job on whose behalf others are submitted.
pub(crate) struct Parent {
    pub(crate) id: OpId,
    pub(crate) priority: i64,
    pub(crate) reason: Vec<ReasonEntry>,
}

/// The queue.
pub(crate) struct Queue {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<Store>,
    pub(crate) locks: LockTable,
    inner: Mutex<Inner>,
    /// The last id that was given. Held while a submission is handed over, so that ids become durable in their order.
    last_id: Mutex<u64>,
    runtime: Handle,
    /// Told whenever a worker has ended.
    idle: Notify,
    myself: Weak<Self>,
}

#[derive(Default)]
struct Inner {
    schedule: Schedule,
    cells: HashMap<JobId, Arc<JobCell>>,
    /// Jobs that ended, the oldest first.
    recent: VecDeque<JobId>,
    workers: JoinSet<()>,
    drained: bool,
    stopping: bool,
    /// Jobs that ended since the start, by status.
    ended: HashMap<Status, u64>,
}

impl Queue {
    /// A queue with the jobs that a store holds; call [`Queue::recover`] and [`Queue::pump`] when everything else is in place.
    pub(crate) fn open(shared: Arc<Shared>, store: Arc<Store>) -> Result<Arc<Self>, StoreError> {
        let last_id = store.read(|reader| reader.last_id())?;
        let drained = store.read(|reader| reader.setting(DRAINED))?.is_some();
        let queue = Arc::new_cyclic(|myself| Self {
            shared,
            store,
            locks: LockTable::default(),
            inner: Mutex::new(Inner { drained, ..Inner::default() }),
            last_id: Mutex::new(last_id),
            runtime: Handle::current(),
            idle: Notify::new(),
            myself: myself.clone(),
        });
        let weak = queue.myself.clone();
        queue.store.call_after_batch(move || {
            if let Some(queue) = weak.upgrade() {
                queue.pump();
            }
        });
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("the schedule's invariants hold, or the queue is lost")
    }

    /// A job that is in memory.
    pub(crate) fn cell(&self, id: JobId) -> Option<Arc<JobCell>> {
        self.lock().cells.get(&id).cloned()
    }

    /// All that are in memory.
    pub(crate) fn cells(&self) -> Vec<Arc<JobCell>> {
        self.lock().cells.values().cloned().collect()
    }

    /// Queued and running jobs.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.schedule.len() - inner.schedule.running(), inner.schedule.running())
    }

    /// How many jobs ended since the start, by status.
    pub(crate) fn ended_counts(&self) -> Vec<(Status, u64)> {
        self.lock().ended.iter().map(|(status, count)| (*status, *count)).collect()
    }

    /// The highest id that was given.
    pub(crate) fn last_id(&self) -> u64 {
        *self.last_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    // Submission.

    /// Accepts one job; its id is answered once it is durable.
    pub(crate) async fn submit(&self, ops: Vec<Op>) -> Result<JobId> {
        self.check_open()?;
        self.submit_even_drained(ops).await
    }

    /// The same while the queue is closed for submissions.
    pub(crate) async fn submit_even_drained(&self, ops: Vec<Op>) -> Result<JobId> {
        let mut answers = self.hand_over(vec![ops], None)?;
        let (id, answer) = answers.pop().expect("one job was handed over");
        answer.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(id)
    }

    fn check_open(&self) -> Result<()> {
        if self.is_drained() {
            return Err(GanetiError::new(ErrorClass::GenericError, "Queue drained"));
        }
        Ok(())
    }

    /// Accepts several with consecutive ids.
    pub(crate) async fn submit_many(
        &self,
        jobs: Vec<Vec<Op>>,
        parent: Option<&Parent>,
    ) -> Result<Vec<Result<JobId, String>>> {
        self.check_open()?;
        let mut ids = Vec::with_capacity(jobs.len());
        for (id, answer) in self.hand_over(jobs, parent)? {
            let answer = answer.await.unwrap_or_else(|_| Err(gone()));
            ids.push(answer.map(|()| id).map_err(|error| GanetiError::from(error).to_string()));
        }
        Ok(ids)
    }

    #[expect(clippy::type_complexity, reason = "an id and its answer, for each job")]
    fn hand_over(
        &self,
        jobs: Vec<Vec<Op>>,
        parent: Option<&Parent>,
    ) -> Result<Vec<(JobId, oneshot::Receiver<Result<(), StoreError>>)>> {
        {
            let inner = self.lock();
            if inner.stopping {
                return Err(GanetiError::new(ErrorClass::JobQueueError, "Queue is shutting down"));
            }
            if inner.schedule.len() + jobs.len() > UNFINISHED_JOBS_MAX {
                return Err(GanetiError::new(ErrorClass::JobQueueFull, "Job queue is full"));
            }
        }
        self.store.check()?;
        let now = self.shared.env.now();
        let mut last_id = self.last_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut answers = Vec::with_capacity(jobs.len());
        for mut ops in jobs {
            *last_id += 1;
            let id = JobId(*last_id);
            for (index, op) in ops.iter_mut().enumerate() {
                complete(op, id, index, now.as_nanos(), parent);
            }
            let job = Job::new(id, ops, now);
            let row = JobRow::of(&job, self.shared.compat);
            let (tx, rx) = oneshot::channel();
            let myself = self.myself.clone();
            // The job enters the schedule whether or not whoever submitted it still listens.
            self.store.offer(vec![Write::Job(Box::new(row))], move |result| {
                if result.is_ok()
                    && let Some(queue) = myself.upgrade()
                {
                    queue.admit(job);
                }
                let _ = tx.send(result);
            });
            answers.push((id, rx));
        }
        Ok(answers)
    }

    /// Takes a durable job into the schedule.
    pub(crate) fn admit(&self, job: Job) {
        let rules = self.rules();
        let judgement = rules::judge(&rules, &job, self.shared.compat);
        let cell = Arc::new(JobCell::new(job));
        let mut inner = self.lock();
        inner.cells.insert(cell.id, cell.clone());
        match judgement {
            Judgement::Keep(verdict) => {
                let (priority, needs) = cell.look(|job| (job.priority(), dependencies(job)));
                let needs = needs.into_iter().filter(|need| inner.is_unfinished(*need));
                let needs: Vec<JobId> = needs.collect();
                inner.schedule.add(cell.id, priority, needs, verdict);
            }
            Judgement::Reject => {
                drop(inner);
                self.end_queued(&cell);
            }
        }
    }

    fn rules(&self) -> Vec<Arc<model::config::Filter>> {
        self.shared.config.snapshot().filters.values().cloned().collect()
    }

    /// Judges all queued jobs anew, after a change of the filter rules.
    pub(crate) fn judge_again(&self) {
        let rules = self.rules();
        let queued = self.lock().schedule.queued();
        let mut rejected = Vec::new();
        for id in queued {
            let Some(cell) = self.cell(id) else { continue };
            match cell.look(|job| rules::judge(&rules, job, self.shared.compat)) {
                Judgement::Keep(verdict) => self.lock().schedule.set_verdict(id, verdict),
                Judgement::Reject => rejected.push(cell),
            }
        }
        for cell in rejected {
            self.take_queued(&cell);
        }
        self.pump();
    }

    // Running.

    /// Starts what may start now.
    pub(crate) fn pump(&self) {
        let Some(myself) = self.myself.upgrade() else { return };
        let mut guard = self.lock();
        let inner = &mut *guard;
        while inner.workers.try_join_next().is_some() {}
        if inner.stopping || self.store.check().is_err() {
            return;
        }
        let max = self.shared.config.snapshot().cluster.max_running_jobs;
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        while let Some(id) = inner.schedule.next(max) {
            let Some(cell) = inner.cells.get(&id).cloned() else {
                inner.schedule.remove(id);
                continue;
            };
            cell.set_started();
            inner.workers.spawn_on(worker::run(myself.clone(), cell), &self.runtime);
        }
    }

    /// A worker has ended its job: `job` is how it is to be shown once that is durable.
    fn finish(&self, cell: &Arc<JobCell>, job: Job) {
        let state = StateRow::of(&job);
        let myself = self.myself.clone();
        let cell = cell.clone();
        self.store.write_then(vec![Write::State(state)], move |result| {
            if let Err(error) = result {
                tracing::error!(job.id = job.id.0, %error, "the end of a job is not recorded yet");
            }
            if let Some(queue) = myself.upgrade() {
                queue.show_end(&cell, job);
                queue.idle.notify_waiters();
            }
        });
    }

    /// Shows a job as ended, and lets those go on that waited for it.
    fn show_end(&self, cell: &JobCell, job: Job) {
        let status = job.status();
        cell.change(|shown| *shown = job);
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.schedule.remove(cell.id);
        inner.schedule.ended(cell.id);
        *inner.ended.entry(status).or_default() += 1;
        inner.recent.push_back(cell.id);
        while inner.recent.len() > RECENT_JOBS_MAX
            && let Some(oldest) = inner.recent.pop_front()
        {
            inner.cells.remove(&oldest);
        }
    }

    /// What a dependency means now.
    fn check_dependency(&self, own: JobId, depend: &Depend) -> worker::Dependency {
        let status = u64::try_from(depend.job).ok().and_then(|id| self.status(JobId(id)));
        worker::judge_dependency(own, depend, status)
    }

    fn status(&self, id: JobId) -> Option<Status> {
        if let Some(cell) = self.cell(id) {
            return Some(cell.look(Job::status));
        }
        match self.store.read(|reader| reader.job(id)) {
            Ok(job) => job.map(|job| job.status()),
            Err(error) => {
                tracing::error!(job.id = id.0, %error, "a job cannot be read");
                None
            }
        }
    }

    // Cancelling and priorities.

    /// Cancels a job: whether it worked, and a text.
    pub(crate) async fn cancel(&self, id: JobId) -> (bool, String) {
        let not_found = (false, format!("Job {id} not found in queue"));
        let Some(cell) = self.cell(id) else { return not_found };
        if let Some(durable) = self.take_queued(&cell) {
            return match durable.await {
                Ok(Ok(())) => (true, format!("Dequeued job {id}")),
                Ok(Err(error)) => {
                    (false, format!("Dequeued job {id}, but failed to mark as cancelled: {error}"))
                }
                Err(_) => (true, format!("Dequeued job {id}")),
            };
        }
        match cell.look(Job::status) {
            Status::Canceled | Status::Success | Status::Error => return not_found,
            Status::Running => {
                cell.ask_to_cancel();
                let text = "Job no longer waiting, can't cancel (informed it anyway)";
                return (false, text.to_owned());
            }
            Status::Queued | Status::Waiting | Status::Canceling => {}
        }
        cell.change(|job| {
            for op in &mut job.ops {
                if matches!(op.status, Status::Queued | Status::Waiting) {
                    op.status = Status::Canceling;
                }
            }
        });
        cell.ask_to_cancel();
        self.watch_cancel(&cell).await
    }

    async fn watch_cancel(&self, cell: &JobCell) -> (bool, String) {
        let mut changes = cell.subscribe();
        let ended = async {
            while !cell.look(|job| job.status().is_final()) {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(CANCEL_WATCH, ended).await.is_ok();
        let status = cell.look(Job::status);
        let name = format!("JOB_STATUS_{}", status.as_str().to_uppercase());
        match (in_time, status) {
            (true, Status::Canceled) => (true, "Job successfully cancelled".to_owned()),
            (true, _) => {
                (false, format!("Job exited before it could have been canceled, status {name}"))
            }
            (false, _) => (false, format!("Job could not be canceled, status {name}")),
        }
    }

    /// Takes a job that has no worker yet out of the queue and ends it as cancelled; `None` when it has one.
    fn take_queued(
        &self,
        cell: &Arc<JobCell>,
    ) -> Option<oneshot::Receiver<Result<(), StoreError>>> {
        {
            let mut inner = self.lock();
            if cell.is_started() || cell.look(|job| job.status().is_final()) {
                return None;
            }
            // From here on nobody else takes it.
            cell.set_started();
            inner.schedule.remove(cell.id);
        }
        Some(self.end_queued(cell))
    }

    fn end_queued(&self, cell: &Arc<JobCell>) -> oneshot::Receiver<Result<(), StoreError>> {
        let mut job = cell.look(Job::clone);
        end_unfinished(&mut job, Status::Canceled, &Value::Null, self.shared.env.now());
        let (tx, rx) = oneshot::channel();
        let myself = self.myself.clone();
        let (state, shown) = (StateRow::of(&job), cell.clone());
        self.store.write_then(vec![Write::State(state)], move |result| {
            if let Some(queue) = myself.upgrade() {
                queue.show_end(&shown, job);
            }
            // Whoever cancelled may have gone.
            let _ = tx.send(result);
        });
        rx
    }

    /// Gives the opcodes that are not done another priority: whether it worked, and a text.
    pub(crate) async fn change_priority(&self, id: JobId, priority: i64) -> (bool, String) {
        let Some(cell) = self.cell(id) else {
            return (false, format!("Job {id} not found in queue"));
        };
        let state = cell.change(|job| match job.status() {
            Status::Canceled | Status::Success | Status::Error => {
                Err(format!("Job {id} not found in queue"))
            }
            Status::Canceling => Err(format!("Job {id} is cancelling")),
            Status::Queued | Status::Waiting | Status::Running => {
                let open = |status| matches!(status, Status::Queued | Status::Waiting);
                let mut changed = false;
                for op in job.ops.iter_mut().filter(|op| open(op.status)) {
                    op.priority = priority;
                    changed = true;
                }
                if changed {
                    Ok(StateRow::of(job))
                } else {
                    Err(format!("Job {id} had no pending opcodes"))
                }
            }
        });
        let state = match state {
            Ok(state) => state,
            Err(text) => return (false, text),
        };
        self.lock().schedule.set_priority(id, priority);
        self.locks.set_priority(id, priority);
        match self.store.write_and_wait(vec![Write::State(state)]).await {
            Ok(()) => (
                true,
                format!(
                    "Priorities of pending opcodes for job {id} have been changed to {priority}"
                ),
            ),
            Err(error) => (false, error.to_string()),
        }
    }

    // The queue as a whole.

    /// Closes or opens the queue for submissions.
    pub(crate) async fn set_drained(&self, drained: bool) -> Result<()> {
        let value = drained.then(|| "1".to_owned());
        self.store.offer_and_wait(vec![Write::Setting(DRAINED, value)]).await?;
        self.lock().drained = drained;
        Ok(())
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.lock().drained
    }

    /// Archives jobs that are final; how many were.
    pub(crate) async fn archive(&self, ids: Vec<JobId>) -> Result<()> {
        let cells: Vec<_> = ids.iter().filter_map(|id| self.cell(*id)).collect();
        self.store.offer_and_wait(vec![Write::Archive(ids)]).await?;
        for cell in cells {
            cell.change(|job| job.archived = true);
        }
        Ok(())
    }

    /// Stops starting jobs and waits for the running ones, at most `limit`; what still runs then is ended as dead.
    pub(crate) async fn shut_down(&self, limit: Duration) {
        self.lock().stopping = true;
        let drained = async {
            loop {
                let told = self.idle.notified();
                tokio::pin!(told);
                told.as_mut().enable();
                if self.lock().schedule.running() == 0 {
                    break;
                }
                told.await;
            }
        };
        if tokio::time::timeout(limit, drained).await.is_err() {
            let mut workers = std::mem::take(&mut self.lock().workers);
            workers.shutdown().await;
            let now = self.shared.env.now();
            for cell in self.cells() {
                if cell.is_started() && !cell.look(|job| job.status().is_final()) {
                    let state = cell.change(|job| {
                        end_dead(job, now);
                        StateRow::of(job)
                    });
                    tracing::warn!(job.id = cell.id.0, "ended by the shutdown");
                    self.store.write(vec![Write::State(state)]);
                }
            }
        }
        if let Err(error) = self.store.barrier().await {
            tracing::error!(%error, "the last changes could not be written");
        }
    }
}

impl Inner {
    fn is_unfinished(&self, id: JobId) -> bool {
        self.cells.get(&id).is_some_and(|cell| cell.look(|job| !job.status().is_final()))
    }
}

fn gone() -> StoreError {
    StoreError::Failed("the store's writer has ended".to_owned())
}

/// All jobs that a job depends on.
fn dependencies(job: &Job) -> Vec<JobId> {
    let depends = job.ops.iter().flat_map(|op| op.input.common.depends.iter().flatten());
    depends.filter_map(|depend| u64::try_from(depend.job).ok().map(JobId)).collect()
}

/// What a submission adds to an opcode: who it was submitted for, absolute dependencies, the reason trail.
fn complete(op: &mut Op, id: JobId, index: usize, nanos: i64, parent: Option<&Parent>) {
    let common = &mut op.common;
    if let Some(parent) = parent {
        if common.priority == 0 {
            common.priority = parent.priority;
        }
        if common.comment.as_deref().is_none_or(str::is_empty) {
            common.comment = Some(format!("Submitted by {}", parent.id.as_str()));
        }
        common.reason.extend(parent.reason.iter().cloned());
    }
    for depend in common.depends.iter_mut().flatten() {
        if depend.job < 0 {
            depend.job = i64::try_from(id.0).unwrap_or(i64::MAX).saturating_add(depend.job);
        }
    }
    let name = op.code.id().as_str();
    let name = name.strip_prefix("OP_").unwrap_or(name).to_lowercase();
    let text = format!("job={id};index={index}");
    common.reason.push(ReasonEntry(format!("gnt:opcode:{name}"), text, nanos));
}
