//! The store's twin in memory, for tests: what it keeps outlives the engine when its handle is kept, and it fails on order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use model::config::Config;
use model::job::{Job, LogEntry};
use model::name::JobId;

use super::row::{JobRow, Stored};
use super::{Backend, Reader, StoreError, Write};
use crate::config::Change;

#[derive(Default)]
struct Tables {
    jobs: BTreeMap<JobId, (JobRow, bool)>,
    log: BTreeMap<JobId, Vec<(usize, LogEntry)>>,
    config: Option<Config>,
    settings: BTreeMap<String, String>,
    last_id: u64,
    failure: Option<String>,
}

/// The tables; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Tables>>);

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on commits fail with this text, or work again.
    pub(crate) fn fail(&self, text: Option<&str>) {
        self.tables().failure = text.map(str::to_owned);
    }
}

impl Backend for Memory {
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if let Some(text) = &tables.failure {
            return Err(StoreError::Failed(text.clone()));
        }
        writes.iter().for_each(|write| tables.apply(write));
        Ok(())
    }
}

impl Tables {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Job(row) => {
                self.last_id = self.last_id.max(row.state.id.0);
                self.jobs.insert(row.state.id, (JobRow::clone(row), false));
            }
            Write::State(state) => {
                if let Some((row, _)) = self.jobs.get_mut(&state.id) {
                    row.state = state.clone();
                }
            }
            Write::Log { job, op, entry } => {
                self.log.entry(*job).or_default().push((*op, entry.clone()));
            }
            Write::Archive(ids) => {
                for id in ids {
                    if let Some((_, archived)) = self.jobs.get_mut(id) {
                        *archived = true;
                    }
                }
            }
            Write::Forget(ids) => {
                for id in ids {
                    self.jobs.remove(id);
                    self.log.remove(id);
                }
            }
            Write::Config(changes) => {
                if let Some(config) = &mut self.config {
                    changes.iter().for_each(|change| change.apply(config));
                } else if let Some(Change::Cluster(cluster)) = changes.first() {
                    let mut config = Config::new((**cluster).clone());
                    changes.iter().for_each(|change| change.apply(&mut config));
                    self.config = Some(config);
                }
            }
            Write::Setting(name, Some(value)) => {
                self.settings.insert((*name).to_owned(), value.clone());
            }
            Write::Setting(name, None) => {
                self.settings.remove(*name);
            }
        }
    }

    fn stored(&self, id: JobId) -> Option<Stored> {
        let (row, archived) = self.jobs.get(&id)?;
        Some(Stored {
            id,
            archived: *archived,
            received: row.received,
            start: row.state.start,
            end: row.state.end,
            ops: row.ops.clone(),
            states: row.state.ops.clone(),
            log: self.log.get(&id).cloned().unwrap_or_default(),
        })
    }

    fn pick(&self, wanted: impl Fn(&JobRow, bool) -> bool) -> Vec<JobId> {
        let jobs = self.jobs.iter().filter(|(_, (row, archived))| wanted(row, *archived));
        jobs.map(|(id, _)| *id).collect()
    }

    fn read(&self, ids: Vec<JobId>) -> Result<Vec<Job>, StoreError> {
        ids.into_iter().filter_map(|id| self.stored(id)).map(Stored::into_job).collect()
    }
}

impl Reader for Memory {
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.tables().stored(id).map(Stored::into_job).transpose()
    }

    fn jobs(&self, with_archived: bool) -> Result<Vec<Job>, StoreError> {
        let tables = self.tables();
        tables.read(tables.pick(|_, archived| with_archived || !archived))
    }

    fn listed(&self) -> Result<Vec<JobId>, StoreError> {
        Ok(self.tables().pick(|_, archived| !archived))
    }

    fn unfinished(&self) -> Result<Vec<Job>, StoreError> {
        let tables = self.tables();
        tables.read(tables.pick(|row, _| row.state.end.is_none()))
    }

    fn archivable(&self, before: Option<i64>, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let before = before.unwrap_or(i64::MAX);
        let ended = |row: &JobRow| row.state.end.is_some_and(|end| end.as_micros() < before);
        let mut ids = self.tables().pick(|row, archived| !archived && ended(row));
        ids.truncate(limit);
        Ok(ids)
    }

    fn forgettable(&self, keep: u64, before: i64, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let tables = self.tables();
        let archived = tables.pick(|_, archived| archived);
        let surplus = archived.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        let is_old = |id: &JobId| {
            let (row, _) = &tables.jobs[id];
            row.state.end.is_some_and(|end| end.as_micros() < before)
        };
        let ids = archived.iter().enumerate().filter(|(at, id)| *at < surplus || is_old(id));
        Ok(ids.map(|(_, id)| *id).take(limit).collect())
    }

    fn last_id(&self) -> Result<u64, StoreError> {
        Ok(self.tables().last_id)
    }

    fn config(&self) -> Result<Option<Config>, StoreError> {
        Ok(self.tables().config.clone().map(|mut config| {
            // Disks came and went without their owners being indexed anew.
            for instance in config.instances.clone().values() {
                config.put_instance(instance.clone());
            }
            config
        }))
    }

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.tables().settings.get(name).cloned())
    }
}
