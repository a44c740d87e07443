//! Which job runs next: a pure value.
//!
//! A job that is queued is in one place:
//!
//! ```text
//!            needs end            verdict is not PAUSE         a slot is free        the slot is given back
//!   Blocked ───────────> Paused ───────────────────> Ready ────────────────> Running ───────────> (gone)
//!                                                    │   ^
//!                                 its bucket is full v   │ room in the bucket
//!                                                   Parked
//! ```
//!
//! Ready jobs start by priority, then id. A bucket is what a rate limit counts: the jobs of a filter rule, or those that
//! carry the same label. Nothing here walks over all jobs but a change of the filter rules.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use model::name::{JobId, Uuid};

/// What a rate limit counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Bucket {
    /// The jobs that a filter rule of action `RATE_LIMIT` applies to.
    Filter(Uuid),
    /// The jobs with a reason `rate-limit:<n>:<label>`.
    Label(String),
}

/// What the filter rules and the job itself say about starting it. A rejected job never comes here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) paused: bool,
    /// Fewer than so many may run when it starts.
    pub(crate) limits: Vec<(Bucket, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Blocked,
    Paused,
    Ready,
    Parked(Bucket, u64),
    Running,
}

#[derive(Clone, Debug)]
struct Entry {
    priority: i64,
    needs: HashSet<JobId>,
    verdict: Verdict,
    place: Place,
}

/// A job's rank: who is smaller starts first.
type Rank = (i64, JobId);

/// All jobs that are queued or hold a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    entries: HashMap<JobId, Entry>,
    ready: BTreeSet<Rank>,
    /// By what is full, then by how many of it may run.
    parked: HashMap<Bucket, BTreeMap<u64, BTreeSet<Rank>>>,
    used: HashMap<Bucket, u64>,
    /// Job to those that wait for its end.
    dependents: HashMap<JobId, Vec<JobId>>,
    running: usize,
}

impl Schedule {
    /// Adds a queued job; `needs` are the jobs that have not ended and that it depends on.
    pub(crate) fn add(
        &mut self,
        id: JobId,
        priority: i64,
        needs: impl IntoIterator<Item = JobId>,
        verdict: Verdict,
    ) {
        let needs: HashSet<JobId> = needs.into_iter().filter(|need| *need != id).collect();
        for need in &needs {
            self.dependents.entry(*need).or_default().push(id);
        }
        self.entries.insert(id, Entry { priority, needs, verdict, place: Place::Blocked });
        self.place(id);
    }

    /// The next job to start, which then holds a slot; `max_running` is how many may hold one.
    pub(crate) fn next(&mut self, max_running: usize) -> Option<JobId> {
        while self.running < max_running {
            let (_, id) = self.ready.pop_first()?;
            let entry = self.entries.get_mut(&id)?;
            let full = entry
                .verdict
                .limits
                .iter()
                .find(|(bucket, limit)| self.used.get(bucket).copied().unwrap_or(0) >= *limit);
            if let Some((bucket, limit)) = full {
                let (bucket, limit) = (bucket.clone(), *limit);
                let others = entry.verdict.limits.clone();
                entry.place = Place::Parked(bucket.clone(), limit);
                let lines = self.parked.entry(bucket.clone()).or_default();
                lines.entry(limit).or_default().insert((entry.priority, id));
                // It came out of another bucket's line perhaps: the next of that line has its turn.
                for (other, _) in others {
                    if other != bucket {
                        self.unpark(&other);
                    }
                }
                continue;
            }
            entry.place = Place::Running;
            for (bucket, _) in &entry.verdict.limits {
                *self.used.entry(bucket.clone()).or_default() += 1;
            }
            self.running += 1;
            return Some(id);
        }
        None
    }

    /// A running job gives its slot back; or a queued one is taken out.
    pub(crate) fn remove(&mut self, id: JobId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.unplace(id, &entry);
        if entry.place == Place::Running {
            self.running -= 1;
            for (bucket, _) in &entry.verdict.limits {
                if let Some(used) = self.used.get_mut(bucket) {
                    *used -= 1;
                    if *used == 0 {
                        self.used.remove(bucket);
                    }
                }
                self.unpark(bucket);
            }
        }
    }

    /// A job has ended: who depends on it need not wait for it any more.
    pub(crate) fn ended(&mut self, id: JobId) {
        for dependent in self.dependents.remove(&id).unwrap_or_default() {
            if let Some(entry) = self.entries.get_mut(&dependent) {
                entry.needs.remove(&id);
                if entry.needs.is_empty() && entry.place == Place::Blocked {
                    self.place(dependent);
                }
            }
        }
    }

    /// Gives a queued job another priority.
    pub(crate) fn set_priority(&mut self, id: JobId, priority: i64) {
        self.change(id, |entry| entry.priority = priority);
    }

    /// Judges a queued job anew, after a change of the filter rules.
    pub(crate) fn set_verdict(&mut self, id: JobId, verdict: Verdict) {
        self.change(id, |entry| entry.verdict = verdict);
    }

    /// The jobs that hold no slot, in no order.
    pub(crate) fn queued(&self) -> Vec<JobId> {
        let queued = self.entries.iter().filter(|(_, entry)| entry.place != Place::Running);
        queued.map(|(id, _)| *id).collect()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Queued and running ones.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Entry)) {
        let Some(mut entry) = self.entries.remove(&id) else { return };
        if entry.place == Place::Running {
            // What counts for a running job was settled when it started.
            self.entries.insert(id, entry);
            return;
        }
        self.unplace(id, &entry);
        change(&mut entry);
        self.entries.insert(id, entry);
        self.place(id);
    }

    /// Puts an entry where it belongs.
    fn place(&mut self, id: JobId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.place = if !entry.needs.is_empty() {
            Place::Blocked
        } else if entry.verdict.paused {
            Place::Paused
        } else {
            self.ready.insert((entry.priority, id));
            Place::Ready
        };
    }

    fn unplace(&mut self, id: JobId, entry: &Entry) {
        let rank = (entry.priority, id);
        match &entry.place {
            Place::Ready => {
                self.ready.remove(&rank);
                // Perhaps it was called out of a line: the next one has its turn.
                for (bucket, _) in &entry.verdict.limits {
                    self.unpark(bucket);
                }
            }
            Place::Parked(bucket, limit) => {
                if let Some(line) = self.parked.get_mut(bucket).and_then(|l| l.get_mut(limit)) {
                    line.remove(&rank);
                }
                self.sweep(bucket);
            }
            Place::Blocked | Place::Paused | Place::Running => {}
        }
    }

    /// Calls the first of each of a bucket's lines that has room.
    fn unpark(&mut self, bucket: &Bucket) {
        let used = self.used.get(bucket).copied().unwrap_or(0);
        let Some(lines) = self.parked.get_mut(bucket) else { return };
        for (limit, line) in lines.iter_mut() {
            if used < *limit
                && let Some((priority, id)) = line.pop_first()
            {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.place = Place::Ready;
                }
                self.ready.insert((priority, id));
            }
        }
        self.sweep(bucket);
    }

    /// Leaves no empty lines behind.
    fn sweep(&mut self, bucket: &Bucket) {
        if let Some(lines) = self.parked.get_mut(bucket) {
            lines.retain(|_, line| !line.is_empty());
            if lines.is_empty() {
                self.parked.remove(bucket);
            }
        }
    }
}
