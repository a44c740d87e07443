//! One job in memory: its state behind a lock, and who is told when it changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use model::error::{ErrorClass, GanetiError};
use model::job::{Job, LogEntry, LogKind, Status};
use model::name::JobId;
use model::units::Timestamp;
use serde_json::Value;
use tokio::sync::{Notify, watch};

/// The most log entries that one job keeps; what is said after that is left out.
const LOG_ENTRIES_MAX: u64 = 20_000;

/// A job that is not final, or ended a short while ago.
pub(crate) struct JobCell {
    pub(crate) id: JobId,
    state: Mutex<State>,
    /// Counts changes.
    changed: watch::Sender<u64>,
    /// Tells the worker of a cancellation; keeps one until it listens.
    pub(crate) cancel: Notify,
    cancelled: AtomicBool,
    /// The opcode whose running mark is durable, counted from 1.
    synced: AtomicUsize,
}

struct State {
    job: Job,
    serial: u64,
    /// Whether the job has a slot: its worker decides what becomes of it.
    started: bool,
}

impl JobCell {
    pub(crate) fn new(job: Job) -> Self {
        let serial = job.next_serial();
        Self {
            id: job.id,
            state: Mutex::new(State { job, serial, started: false }),
            changed: watch::Sender::new(0),
            cancel: Notify::new(),
            cancelled: AtomicBool::new(false),
            synced: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Looks at the job.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Job) -> T) -> T {
        look(&self.lock().job)
    }

    /// Changes the job and tells those who wait.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Job) -> T) -> T {
        let value = change(&mut self.lock().job);
        self.tell();
        value
    }

    /// Counts the changes from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Marks the job as handed to its worker.
    pub(crate) fn set_started(&self) {
        self.lock().started = true;
    }

    pub(crate) fn is_started(&self) -> bool {
        self.lock().started
    }

    /// Adds to the log of an opcode.
    pub(crate) fn log(
        &self,
        op: usize,
        time: Timestamp,
        kind: LogKind,
        payload: Value,
    ) -> Option<LogEntry> {
        let mut state = self.lock();
        let serial = state.serial;
        let payload = match serial.cmp(&LOG_ENTRIES_MAX) {
            std::cmp::Ordering::Less => payload,
            std::cmp::Ordering::Equal => Value::from("further messages are left out"),
            std::cmp::Ordering::Greater => return None,
        };
        let entry = LogEntry { serial, time, kind, payload };
        state.serial += 1;
        state.job.ops.get_mut(op)?.log.push(entry.clone());
        drop(state);
        self.tell();
        Some(entry)
    }

    /// Asks the worker to cancel.
    pub(crate) fn ask_to_cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.cancel.notify_one();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether an opcode's running mark is known to be durable.
    pub(crate) fn is_synced(&self, op: usize) -> bool {
        self.synced.load(Ordering::Acquire) > op
    }

    pub(crate) fn set_synced(&self, op: usize) {
        self.synced.fetch_max(op + 1, Ordering::Release);
    }
}

/// What a worker is told when its job is to be cancelled.
pub(crate) fn cancelled() -> GanetiError {
    GanetiError::new(ErrorClass::JobCanceled, "Job canceled by request")
}

/// Marks the opcodes that are not done, as the end of a job does.
pub(crate) fn end_unfinished(job: &mut Job, status: Status, result: &Value, now: Timestamp) {
    for op in job.ops.iter_mut().filter(|op| !op.status.is_final()) {
        op.status = status;
        op.result = result.clone();
        op.end = Some(now);
    }
    job.end = Some(now);
}

/// Ends a job whose worker is gone (Ganeti 3.1, `detected death of job N`).
pub(crate) fn end_dead(job: &mut Job, now: Timestamp) {
    let text = format!("detected death of job {}", job.id);
    end_unfinished(job, Status::Error, &Value::from(text), now);
}
