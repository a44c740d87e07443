//! The durable store: jobs, their logs, the configuration, settings. One thread writes; whatever has gathered when it looks
//! is committed in one transaction, and everybody who waited for a part of it is told together.
//!
//! Writes are made durable in the order in which they are handed over. So a job's end that is handed over after a change of
//! the configuration is never durable without it.
//!
//! When the store cannot write (a full disk above all), new jobs are refused, and everything else is kept and tried again
//! until it succeeds; whoever waits for it is told of the failure at once.

#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod row;
pub(crate) mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use model::config::Config;
use model::error::{ErrorClass, GanetiError, Result};
use model::job::{Job, LogEntry};
use model::name::JobId;
use tokio::sync::oneshot;

use crate::config::{Change, Durable, Journal};
use row::{JobRow, StateRow};

/// The most writes that one transaction takes.
const BATCH_MAX: usize = 4096;

/// How long marks of progress wait for company.
const LAZY: Duration = Duration::from_millis(3);

/// How long to wait before what could not be written is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Why the store could not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Failed(String),
    /// The data was written by a later version of this program.
    #[error(
        "the data in {path} has schema version {found}, this program knows up to {known}: use the newer program"
    )]
    Newer { path: String, found: i64, known: i64 },
}

impl StoreError {
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What clients see of it.
impl From<StoreError> for GanetiError {
    fn from(error: StoreError) -> Self {
        GanetiError::new(ErrorClass::JobQueueError, format!("Can't write to the store: {error}"))
    }
}

/// One thing to be written.
#[derive(Debug)]
pub(crate) enum Write {
    /// A job that is new.
    Job(Box<JobRow>),
    /// How far a job is now, in place of what was said before.
    State(StateRow),
    Log {
        job: JobId,
        op: usize,
        entry: LogEntry,
    },
    Archive(Vec<JobId>),
    /// Forgets jobs for good; their ids are not used again.
    Forget(Vec<JobId>),
    Config(Vec<Change>),
    Setting(&'static str, Option<String>),
}

/// Told once when its writes are durable, or cannot be made so now.
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Writes that belong together.
struct Item {
    writes: Vec<Write>,
    /// Whether they may be refused when the store cannot write; otherwise they are kept and tried again.
    refusable: bool,
    /// Whether it may wait a little for others to share its transaction.
    lazy: bool,
    done: Option<Done>,
}

/// What a store is made of: something that commits.
pub(crate) trait Backend: Send + 'static {
    /// Writes all or nothing.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;
}

/// What can be read back; sees what is durable.
pub(crate) trait Reader: Send + 'static {
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;
    /// All jobs that are not archived or, if asked for, archived ones too; by id.
    fn jobs(&self, with_archived: bool) -> Result<Vec<Job>, StoreError>;
    /// The ids of those that are not archived; in order.
    fn listed(&self) -> Result<Vec<JobId>, StoreError>;
    /// Jobs that are not final; by id.
    fn unfinished(&self) -> Result<Vec<Job>, StoreError>;
    /// Finished jobs that are not archived and ended before a time (microseconds; `None`: all); by id.
    fn archivable(&self, before: Option<i64>, limit: usize) -> Result<Vec<JobId>, StoreError>;
    /// Archived jobs beyond the newest `keep`, or that ended before a time; by id.
    fn forgettable(&self, keep: u64, before: i64, limit: usize) -> Result<Vec<JobId>, StoreError>;
    /// The highest job id ever used.
    fn last_id(&self) -> Result<u64, StoreError>;
    fn config(&self) -> Result<Option<Config>, StoreError>;
    fn setting(&self, name: &str) -> Result<Option<String>, StoreError>;
}

/// What the writer does and how it fares, for monitoring.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) writes: AtomicU64,
}

/// The state that the writer shows.
#[derive(Default)]
struct Health {
    /// Why nothing can be written now.
    failure: Mutex<Option<StoreError>>,
}

impl Health {
    fn get(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The store's handle. Dropping the last one lets the writer finish what it has and end.
pub(crate) struct Store {
    tx: Option<Sender<Item>>,
    reader: Mutex<Box<dyn Reader>>,
    health: Arc<Health>,
    pub(crate) counters: Arc<Counters>,
    after: Arc<OnceLock<AfterBatch>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

type AfterBatch = Box<dyn Fn() + Send + Sync>;

impl Store {
    /// Starts the writer.
    pub(crate) fn start(
        backend: impl Backend,
        reader: impl Reader,
    ) -> Result<Arc<Self>, StoreError> {
        // Not bounded: who submits waits for the answer, and what a running job adds is bounded by the limit on running jobs.
        let (tx, rx) = channel();
        let health = Arc::new(Health::default());
        let counters = Arc::new(Counters::default());
        let after = Arc::new(OnceLock::new());
        let writer = Writer {
            backend: Box::new(backend),
            rx,
            health: health.clone(),
            counters: counters.clone(),
            after: after.clone(),
            backlog: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(StoreError::failed)?;
        Ok(Arc::new(Self {
            tx: Some(tx),
            reader: Mutex::new(Box::new(reader)),
            health,
            counters,
            after,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Sets what is called after each transaction whose waiters were told, and when writing works again.
    pub(crate) fn call_after_batch(&self, call: impl Fn() + Send + Sync + 'static) {
        // Set once, when the engine is put together.
        let _ = self.after.set(Box::new(call));
    }

    fn send(&self, item: Item) {
        if let Some(tx) = &self.tx
            && let Err(returned) = tx.send(item)
            && let Some(done) = returned.0.done
        {
            done(Err(StoreError::Failed("the store's writer has ended".to_owned())));
        }
    }

    /// Hands over what must not get lost.
    pub(crate) fn write(&self, writes: Vec<Write>) {
        self.send(Item { writes, refusable: false, lazy: false, done: None });
    }

    /// The same, in no hurry: a mark of progress that another will soon replace.
    pub(crate) fn write_lazily(&self, writes: Vec<Write>) {
        self.send(Item { writes, refusable: false, lazy: true, done: None });
    }

    /// The same, told when it is durable.
    pub(crate) fn write_then(
        &self,
        writes: Vec<Write>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.send(Item { writes, refusable: false, lazy: false, done: Some(Box::new(done)) });
    }

    /// Hands over what is dropped when it cannot be written now.
    pub(crate) fn offer(
        &self,
        writes: Vec<Write>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.send(Item { writes, refusable: true, lazy: false, done: Some(Box::new(done)) });
    }

    /// Resolves once everything handed over before is durable.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        self.write_and_wait(Vec::new()).await
    }

    /// Hands over and waits.
    pub(crate) async fn write_and_wait(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (tx, rx) = oneshot::channel();
        self.write_then(writes, move |result| {
            // Whoever asked may have gone.
            let _ = tx.send(result);
        });
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Hands over what may be refused, and waits.
    pub(crate) async fn offer_and_wait(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (tx, rx) = oneshot::channel();
        self.offer(writes, move |result| {
            // Whoever asked may have gone.
            let _ = tx.send(result);
        });
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Whether writing works, as far as is known.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.health.get().clone().map_or(Ok(()), Err)
    }

    /// Reads; for more than a few rows call it where blocking is fine.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        read(&**reader)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.tx = None;
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

fn ended() -> StoreError {
    StoreError::Failed("the store's writer has ended".to_owned())
}

/// The configuration's journal is the same ordered stream.
pub(crate) struct StoreJournal(pub(crate) Arc<Store>);

impl Journal for StoreJournal {
    fn write(&self, changes: Vec<Change>) -> Durable {
        let (tx, rx) = oneshot::channel();
        self.0.write_then(vec![Write::Config(changes)], move |result| {
            // A job that was ended meanwhile does not wait for it.
            let _ = tx.send(result);
        });
        Box::pin(async move { rx.await.unwrap_or_else(|_| Err(ended())).map_err(Into::into) })
    }

    fn check(&self) -> Result<()> {
        self.0.check().map_err(Into::into)
    }
}

struct Writer {
    backend: Box<dyn Backend>,
    rx: Receiver<Item>,
    health: Arc<Health>,
    counters: Arc<Counters>,
    after: Arc<OnceLock<AfterBatch>>,
    /// What could not be written yet and must not get lost.
    backlog: Vec<Write>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let first = if self.backlog.is_empty() {
                match self.rx.recv() {
                    Ok(item) => Some(item),
                    Err(_) => return,
                }
            } else {
                match self.rx.recv_timeout(RETRY) {
                    Ok(item) => Some(item),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.retry();
                        if !self.backlog.is_empty() {
                            tracing::error!("some changes could not be written before the end");
                        }
                        return;
                    }
                }
            };
            match first {
                None => self.retry(),
                Some(first) => {
                    let items = self.gather(first);
                    self.batch(items);
                }
            }
        }
    }

    /// Takes what has gathered; while that is only marks of progress, waits a little for more.
    fn gather(&self, first: Item) -> Vec<Item> {
        let mut urgent = !first.lazy;
        let mut count = first.writes.len();
        let mut items = vec![first];
        let until = std::time::Instant::now() + LAZY;
        while count < BATCH_MAX {
            let item = if urgent {
                self.rx.try_recv().ok()
            } else {
                let left = until.saturating_duration_since(std::time::Instant::now());
                self.rx.recv_timeout(left).ok()
            };
            let Some(item) = item else { break };
            urgent |= !item.lazy;
            count += item.writes.len();
            items.push(item);
        }
        items
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.backend.commit(writes)?;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.writes.fetch_add(writes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn batch(&mut self, items: Vec<Item>) {
        if !self.backlog.is_empty() {
            self.retry();
        }
        let mut dones = Vec::with_capacity(items.len());
        let mut kept = Vec::new();
        let mut refusable = Vec::new();
        for item in items {
            let place = if item.refusable { &mut refusable } else { &mut kept };
            place.extend(item.writes);
            dones.extend(item.done.map(|done| (item.refusable, done)));
        }
        let known = self.health.get().clone();
        if let Some(error) = known {
            self.backlog.extend(kept);
            return self.tell(dones, &Err(error.clone()), &Err(error));
        }
        // New jobs never depend on what else is in the batch, so they may go last.
        let only_kept = kept.len();
        kept.extend(refusable);
        let mut writes = coalesce(kept, only_kept);
        match self.commit(&writes.all) {
            Ok(()) => self.tell(dones, &Ok(()), &Ok(())),
            Err(error) => {
                writes.all.truncate(writes.kept);
                let kept = self.commit(&writes.all);
                if let Err(error) = &kept {
                    tracing::error!(%error, "the store cannot be written; new jobs are refused");
                    *self.health.get() = Some(error.clone());
                    self.backlog = writes.all;
                } else {
                    tracing::error!(%error, "the store refused new jobs");
                }
                self.tell(dones, &kept, &Err(error));
            }
        }
    }

    fn tell(
        &self,
        dones: Vec<(bool, Done)>,
        kept: &Result<(), StoreError>,
        refusable: &Result<(), StoreError>,
    ) {
        if dones.is_empty() {
            return;
        }
        for (may_refuse, done) in dones {
            done(if may_refuse { refusable.clone() } else { kept.clone() });
        }
        if let Some(after) = self.after.get() {
            after();
        }
    }

    fn retry(&mut self) {
        let writes = std::mem::take(&mut self.backlog);
        match self.commit(&writes) {
            Ok(()) => {
                *self.health.get() = None;
                tracing::info!("the store can be written again");
                if let Some(after) = self.after.get() {
                    after();
                }
            }
            Err(error) => {
                *self.health.get() = Some(error);
                self.backlog = writes;
            }
        }
    }
}

struct Coalesced {
    all: Vec<Write>,
    /// How many of them come first and must not get lost.
    kept: usize,
}

/// Leaves out what a later write of the same transaction replaces.
fn coalesce(writes: Vec<Write>, kept: usize) -> Coalesced {
    let mut last: HashMap<JobId, usize> = HashMap::new();
    for (at, write) in writes.iter().enumerate() {
        if let Write::State(state) = write {
            last.insert(state.id, at);
        }
    }
    let mut result = Coalesced { all: Vec::with_capacity(writes.len()), kept: 0 };
    for (at, write) in writes.into_iter().enumerate() {
        if at == kept {
            result.kept = result.all.len();
        }
        match &write {
            Write::State(state) if last.get(&state.id) != Some(&at) => {}
            _ => result.all.push(write),
        }
    }
    if kept >= result.all.len() && result.kept == 0 {
        result.kept = result.all.len();
    }
    result
}
