//! The laws of locks, on random histories.

use std::collections::{BTreeMap, BTreeSet};

use model::name::JobId;
use proptest::prelude::*;

use super::waiting::Waiting;
use super::{Level, Lock, Locks, Mode};

#[derive(Clone, Debug)]
enum Step {
    Ask { owner: u64, locks: Vec<(usize, Option<usize>, bool)>, priority: i64 },
    Release(u64),
    Cancel(u64),
    Raise(u64, i64),
}

fn step() -> impl Strategy<Value = Step> {
    let lock = (0..6_usize, proptest::option::weighted(0.85, 0..3_usize), any::<bool>());
    let locks = proptest::collection::vec(lock, 0..5);
    prop_oneof![
        5 => (0..12_u64, locks, -2..2_i64)
            .prop_map(|(owner, locks, priority)| Step::Ask { owner, locks, priority }),
        4 => (0..12_u64).prop_map(Step::Release),
        1 => (0..12_u64).prop_map(Step::Cancel),
        1 => (0..12_u64, -20..20_i64).prop_map(|(owner, priority)| Step::Raise(owner, priority)),
    ]
}

/// What a history says should be true.
#[derive(Default)]
struct Model {
    held: BTreeMap<JobId, Locks>,
    waiting: BTreeMap<JobId, Locks>,
}

/// Whether two owners cannot hold these at once, thought out lock by lock.
fn conflict(a: &Locks, b: &Locks) -> bool {
    a.iter().any(|(one, mode)| {
        b.iter().any(|(other, held)| {
            let meet = one.level == other.level
                && (one.name == other.name
                    || one.level != Level::Cluster && (one.name.is_none() || other.name.is_none()));
            meet && (mode == Mode::Exclusive || held == Mode::Exclusive)
        })
    })
}

impl Model {
    fn grant(&mut self, granted: Vec<JobId>) {
        for owner in granted {
            let locks = self.waiting.remove(&owner).expect("only who waits is granted");
            let held = self.held.remove(&owner).unwrap_or_else(Locks::none);
            self.held.insert(owner, held.join(&locks));
        }
    }

    fn check(&self, real: &Waiting) {
        for (owner, locks) in &self.held {
            for (other, theirs) in self.held.range(JobId(owner.0 + 1)..) {
                assert!(
                    !conflict(locks, theirs),
                    "{owner} and {other} hold {locks:?} and {theirs:?}"
                );
            }
        }
        for (owner, locks) in &self.waiting {
            let by_holder =
                self.held.iter().any(|(other, theirs)| other != owner && conflict(locks, theirs));
            let by_request = !self.held.contains_key(owner)
                && self
                    .waiting
                    .iter()
                    .any(|(other, wanted)| other != owner && conflict(locks, wanted));
            assert!(by_holder || by_request, "{owner} waits for nothing");
            let blockers = real.blockers(*owner);
            let expected: BTreeSet<JobId> = self
                .held
                .iter()
                .filter(|(other, theirs)| *other != owner && conflict(locks, theirs))
                .map(|(other, _)| *other)
                .collect();
            assert_eq!(blockers, expected);
        }
        let mut shown: BTreeMap<Lock, BTreeSet<JobId>> = BTreeMap::new();
        for (owner, locks) in &self.held {
            for (lock, _) in locks.iter() {
                shown.entry(lock.clone()).or_default().insert(*owner);
            }
        }
        let rows = real.snapshot();
        let real: BTreeMap<Lock, BTreeSet<JobId>> = rows
            .into_iter()
            .filter(|row| !row.owners.is_empty())
            .map(|row| (row.lock, row.owners.into_iter().collect()))
            .collect();
        assert_eq!(real, shown);
    }

    /// The locks of a step that its owner may ask for now.
    fn legal(&self, owner: JobId, wanted: &[(usize, Option<usize>, bool)]) -> Option<Locks> {
        if self.waiting.contains_key(&owner) {
            return None;
        }
        let held = self.held.get(&owner);
        let floor = held.and_then(|locks| locks.iter().map(|(lock, _)| lock.level).max());
        let mut locks = if held.is_some() { Locks::none() } else { Locks::new() };
        for (level, name, exclusive) in wanted {
            let level = Level::ALL[*level];
            let mode = if *exclusive { Mode::Exclusive } else { Mode::Shared };
            if floor.is_some_and(|floor| level <= floor) {
                continue;
            }
            locks = match (level, name) {
                (Level::Cluster, _) if *exclusive => locks.exclusive_cluster(),
                (Level::Cluster, _) => locks,
                (level, None) => locks.all(level, mode),
                (level, Some(name)) if *exclusive => locks.exclusive(level, name.to_string()),
                (level, Some(name)) => locks.shared(level, name.to_string()),
            };
        }
        (locks != Locks::none()).then_some(locks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn exclusive_means_alone_and_everybody_is_served(steps in proptest::collection::vec(step(), 1..80)) {
        let mut real = Waiting::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Ask { owner, locks, priority } => {
                    let owner = JobId(owner);
                    let Some(locks) = model.legal(owner, &locks) else { continue };
                    model.waiting.insert(owner, locks.clone());
                    if real.request(owner, priority, &locks) {
                        model.grant(vec![owner]);
                    }
                }
                Step::Release(owner) => {
                    let owner = JobId(owner);
                    if model.waiting.contains_key(&owner) {
                        continue;
                    }
                    model.held.remove(&owner);
                    model.grant(real.release(owner));
                }
                Step::Cancel(owner) => {
                    model.waiting.remove(&JobId(owner));
                    model.grant(real.cancel(JobId(owner)));
                }
                Step::Raise(owner, priority) => model.grant(real.set_priority(JobId(owner), priority)),
            }
            model.check(&real);
        }
        // Whoever holds and does not wait gives back: then everybody gets what they wait for.
        for _ in 0..100 {
            let done = model.held.keys().find(|owner| !model.waiting.contains_key(owner)).copied();
            let Some(owner) = done else { break };
            model.held.remove(&owner);
            model.grant(real.release(owner));
            model.check(&real);
        }
        prop_assert!(model.waiting.is_empty() && model.held.is_empty(), "somebody waits for ever");
        prop_assert!(real.snapshot().is_empty());
    }
}

fn instance(name: &str) -> Locks {
    Locks::new().exclusive(Level::Instance, name)
}

#[test]
fn newcomers_do_not_overtake() {
    let mut locks = Waiting::default();
    let shared = Locks::new().shared(Level::Node, "n");
    assert!(locks.request(JobId(1), 0, &shared));
    assert!(!locks.request(JobId(2), 0, &Locks::new().exclusive(Level::Node, "n")));
    assert!(
        !locks.request(JobId(3), 0, &shared),
        "a shared request waits behind an older exclusive one"
    );
    assert_eq!(locks.release(JobId(1)), [JobId(2)]);
    assert_eq!(locks.release(JobId(2)), [JobId(3)]);
}

#[test]
fn the_more_urgent_is_first() {
    let mut locks = Waiting::default();
    assert!(locks.request(JobId(1), 0, &instance("a")));
    for (id, priority) in [(2, 0), (3, 0), (4, -1)] {
        assert!(!locks.request(JobId(id), priority, &instance("a")));
    }
    assert_eq!(locks.set_priority(JobId(3), -2), []);
    assert_eq!(locks.release(JobId(1)), [JobId(3)]);
    assert_eq!(locks.release(JobId(3)), [JobId(4)]);
    assert_eq!(locks.cancel(JobId(2)), []);
    assert_eq!(locks.release(JobId(4)), []);
}

#[test]
fn who_holds_something_does_not_wait_behind_newcomers() {
    let mut locks = Waiting::default();
    assert!(locks.request(JobId(1), 0, &instance("a")));
    let both = instance("a").exclusive(Level::Node, "n");
    assert!(!locks.request(JobId(2), -20, &both));
    assert!(locks.request(JobId(1), 0, &Locks::none().exclusive(Level::Node, "n")));
    assert_eq!(locks.release(JobId(1)), [JobId(2)]);
}

#[test]
fn half_a_lock_can_be_given_up() {
    let mut allocation = super::allocation::Allocation::default();
    let demand = super::allocation::demand;
    allocation.grant(JobId(1), demand(&instance("a")));
    let shared = demand(&Locks::new().shared(Level::Instance, "a"));
    assert!(!allocation.allows(JobId(2), &shared));
    allocation.downgrade(JobId(1));
    assert!(allocation.allows(JobId(2), &shared));
}

/// A thousand waiters for one lock: each release looks at a few of them, not at all.
#[test]
fn many_waiters_are_cheap() {
    let mut locks = Waiting::default();
    let count = 20_000;
    for id in 0..count {
        assert_eq!(locks.request(JobId(id), 0, &instance("a")), id == 0);
    }
    for id in 0..count - 1 {
        assert_eq!(locks.release(JobId(id)), [JobId(id + 1)]);
    }
}
