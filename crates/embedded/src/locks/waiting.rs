//! Waiting for locks: a pure value with queues ([`Waiting`]), and the thin shell that jobs wait on ([`LockTable`]).
//!
//! Fairness. A request of an owner that holds nothing waits for whoever holds what it wants, and behind every earlier
//! request (more urgent, or of the same priority and older) that conflicts with it: a stream of newcomers cannot starve
//! anybody. Who waits too long is made more urgent by the worker, one step a round.
//!
//! No deadlock. A request is granted whole. An owner that holds something asks for higher levels only, and waits for
//! holders only, not behind requests: along such waiting the levels rise. Newcomers hold nothing, so nobody who holds
//! waits for them. Hence no circle.
//!
//! A release looks at requests that conflict with what was freed, in their order, and stops at the first that keeps all
//! further ones waiting: a thousand waiters for one lock cost one look each time it is given back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

use model::name::JobId;
use tokio::sync::oneshot;

use super::allocation::{Allocation, Demand, Hold, demand};
use super::{Lock, Locks, Mode};

/// A place in the queue: newcomers after owners that hold something already, then priority, then age.
type Place = (bool, i64, u64);

#[derive(Clone, Debug)]
struct Request {
    place: Place,
    demand: Demand,
}

/// The requests at one entry, by how they want it.
#[derive(Clone, Debug, Default)]
struct Line([BTreeMap<Place, JobId>; 4]);

impl Line {
    fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }

    /// Whether a conflicting request stands before a place.
    fn is_behind(&self, place: Place, hold: Hold) -> bool {
        Hold::ALL.into_iter().filter(|other| hold.conflicts(*other)).any(|other| {
            self.0[other.index()].first_key_value().is_some_and(|(first, _)| *first < place)
        })
    }

    /// The next request after a place that conflicts with one of `freed` and with none of `barrier`.
    fn next(
        &self,
        after: Option<Place>,
        freed: &[bool; 4],
        barrier: &[bool; 4],
    ) -> Option<(Place, JobId, Hold)> {
        let conflicts = |hold: Hold, with: &[bool; 4]| {
            Hold::ALL.into_iter().any(|other| with[other.index()] && hold.conflicts(other))
        };
        let mut best: Option<(Place, JobId, Hold)> = None;
        for hold in Hold::ALL {
            if !conflicts(hold, freed) || conflicts(hold, barrier) {
                continue;
            }
            let line = &self.0[hold.index()];
            let found = match after {
                None => line.first_key_value(),
                Some(after) => {
                    let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
                    line.range(range).next()
                }
            };
            if let Some((place, owner)) = found
                && best.is_none_or(|(first, ..)| *place < first)
            {
                best = Some((*place, *owner, hold));
            }
        }
        best
    }
}

/// Locks held and requests waiting, without a clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    allocation: Allocation,
    requests: HashMap<JobId, Request>,
    lines: HashMap<Lock, Line>,
    counter: u64,
}

impl Waiting {
    /// Asks for locks beside those held: granted now, or waiting.
    pub(super) fn request(&mut self, owner: JobId, priority: i64, locks: &Locks) -> bool {
        debug_assert!(
            !self.requests.contains_key(&owner),
            "an owner waits for one thing at a time"
        );
        let demand = demand(locks);
        self.counter += 1;
        let place = (!self.allocation.holds_any(owner), priority, self.counter);
        if self.is_free(owner, place, &demand) {
            self.allocation.grant(owner, demand);
            return true;
        }
        self.enqueue(owner, Request { place, demand });
        false
    }

    fn is_free(&self, owner: JobId, place: Place, demand: &Demand) -> bool {
        let (newcomer, ..) = place;
        self.allocation.allows(owner, demand)
            && !(newcomer
                && demand.iter().any(|(lock, hold)| {
                    self.lines.get(lock).is_some_and(|line| line.is_behind(place, *hold))
                }))
    }

    fn enqueue(&mut self, owner: JobId, request: Request) {
        for (lock, hold) in &request.demand {
            let line = self.lines.entry(lock.clone()).or_default();
            line.0[hold.index()].insert(request.place, owner);
        }
        self.requests.insert(owner, request);
    }

    fn dequeue(&mut self, owner: JobId) -> Option<Request> {
        let request = self.requests.remove(&owner)?;
        for (lock, hold) in &request.demand {
            if let Some(line) = self.lines.get_mut(lock) {
                line.0[hold.index()].remove(&request.place);
                if line.is_empty() {
                    self.lines.remove(lock);
                }
            }
        }
        Some(request)
    }

    /// Gives back everything an owner holds; who got what they waited for.
    pub(super) fn release(&mut self, owner: JobId) -> Vec<JobId> {
        let freed = self.allocation.release(owner);
        self.serve(freed)
    }

    /// Takes a request back; who got what they waited for.
    pub(super) fn cancel(&mut self, owner: JobId) -> Vec<JobId> {
        let freed = self.dequeue(owner).map(|request| request.demand).unwrap_or_default();
        self.serve(freed)
    }

    /// Gives a request another priority, keeping its age; who got what they waited for.
    pub(super) fn set_priority(&mut self, owner: JobId, priority: i64) -> Vec<JobId> {
        let Some(mut request) = self.dequeue(owner) else { return Vec::new() };
        let freed = request.demand.clone();
        request.place.1 = priority;
        let mut granted = Vec::new();
        if self.is_free(owner, request.place, &request.demand) {
            self.allocation.grant(owner, request.demand);
            granted.push(owner);
        } else {
            self.enqueue(owner, request);
        }
        granted.extend(self.serve(freed));
        granted
    }

    /// The owners that stand in a waiting owner's way.
    pub(super) fn blockers(&self, owner: JobId) -> BTreeSet<JobId> {
        let Some(request) = self.requests.get(&owner) else { return BTreeSet::new() };
        self.allocation.blockers(owner, &request.demand)
    }

    /// Grants what became possible by entries becoming freer.
    fn serve(&mut self, freed: Demand) -> Vec<JobId> {
        let mut by_lock: BTreeMap<Lock, [bool; 4]> = BTreeMap::new();
        for (lock, hold) in freed {
            if self.lines.contains_key(&lock) {
                by_lock.entry(lock).or_default()[hold.index()] = true;
            }
        }
        let mut granted = Vec::new();
        for (lock, freed) in by_lock {
            // What newcomers may not pass, and what only they may not pass.
            let (mut barrier, mut soft) = ([false; 4], [false; 4]);
            let mut after = None;
            while let Some(line) = self.lines.get(&lock)
                && let Some((place, owner, hold)) = line.next(after, &freed, &barrier)
            {
                let (newcomer, ..) = place;
                if newcomer && soft.contains(&true) {
                    for (hard, soft) in barrier.iter_mut().zip(std::mem::take(&mut soft)) {
                        *hard |= soft;
                    }
                    continue;
                }
                after = Some(place);
                let request = &self.requests[&owner];
                if self.is_free(owner, place, &request.demand)
                    && let Some(request) = self.dequeue(owner)
                {
                    self.allocation.grant(owner, request.demand);
                    granted.push(owner);
                    barrier[hold.index()] = true;
                } else if newcomer {
                    barrier[hold.index()] = true;
                } else {
                    soft[hold.index()] = true;
                }
            }
        }
        granted
    }

    /// Each lock that is held or wanted: how it is held, by whom, and who waits in which order.
    pub(super) fn snapshot(&self) -> Vec<LockRow> {
        let held = self.allocation.snapshot();
        let mut rows: BTreeMap<Lock, LockRow> = BTreeMap::new();
        for (lock, (mode, owners)) in held {
            let row = LockRow { lock: lock.clone(), mode: Some(mode), owners, pending: Vec::new() };
            rows.insert(lock, row);
        }
        let mut waiting: Vec<_> = self.requests.iter().collect();
        waiting.sort_by_key(|(_, request)| request.place);
        for (owner, request) in waiting {
            for (lock, hold) in &request.demand {
                let mode = match hold {
                    Hold::Shared => Mode::Shared,
                    Hold::Exclusive => Mode::Exclusive,
                    Hold::IntentShared | Hold::IntentExclusive => continue,
                };
                let row = rows.entry(lock.clone()).or_insert_with(|| LockRow {
                    lock: lock.clone(),
                    mode: None,
                    owners: Vec::new(),
                    pending: Vec::new(),
                });
                row.pending.push((mode, *owner));
            }
        }
        rows.into_values().collect()
    }
}

/// One row of a lock query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LockRow {
    pub(crate) lock: Lock,
    /// `None` when it is only waited for.
    pub(crate) mode: Option<Mode>,
    pub(crate) owners: Vec<JobId>,
    /// In the order in which they will get it.
    pub(crate) pending: Vec<(Mode, JobId)>,
}

#[derive(Default)]
struct Inner {
    waiting: Waiting,
    wakers: HashMap<JobId, oneshot::Sender<()>>,
}

impl Inner {
    fn wake(&mut self, granted: &[JobId]) {
        for owner in granted {
            if let Some(waker) = self.wakers.remove(owner) {
                // Who stopped waiting cancels the request, which gives back what was granted meanwhile.
                let _ = waker.send(());
            }
        }
    }
}

/// The locks of a cluster, to be waited for.
#[derive(Default)]
pub(crate) struct LockTable(Mutex<Inner>);

impl LockTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("the pure value's invariants hold, or all locks are lost")
    }

    /// Asks for locks; `None` when they are granted at once, else what resolves when they are.
    pub(crate) fn request(
        &self,
        owner: JobId,
        priority: i64,
        locks: &Locks,
    ) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.lock();
        if inner.waiting.request(owner, priority, locks) {
            return None;
        }
        let (tx, rx) = oneshot::channel();
        inner.wakers.insert(owner, tx);
        Some(rx)
    }

    /// Gives back all that an owner holds, and takes back what it waits for.
    pub(crate) fn release(&self, owner: JobId) {
        let mut inner = self.lock();
        inner.wakers.remove(&owner);
        let mut granted = inner.waiting.cancel(owner);
        granted.extend(inner.waiting.release(owner));
        inner.wake(&granted);
    }

    /// Takes back what an owner waits for; it keeps what it holds.
    pub(crate) fn cancel(&self, owner: JobId) {
        let mut inner = self.lock();
        inner.wakers.remove(&owner);
        let granted = inner.waiting.cancel(owner);
        inner.wake(&granted);
    }

    /// Makes a waiting owner more or less urgent.
    pub(crate) fn set_priority(&self, owner: JobId, priority: i64) {
        let mut inner = self.lock();
        let granted = inner.waiting.set_priority(owner, priority);
        inner.wake(&granted);
    }

    /// The owners that stand in a waiting owner's way.
    pub(crate) fn blockers(&self, owner: JobId) -> BTreeSet<JobId> {
        self.lock().waiting.blockers(owner)
    }

    /// What lock queries show.
    pub(crate) fn snapshot(&self) -> Vec<LockRow> {
        self.lock().waiting.snapshot()
    }
}
