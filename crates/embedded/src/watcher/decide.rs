//! What the watcher does about what it sees. Pure: notes and a picture in, notes and duties out.
//!
//! Ganeti (3.0, `watcher/`): an instance that is down and should not be is started again, at most five times in a row; one that its
//! user powered off is noted to be down; disks whose other half was on a node that rebooted are brought up again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How often an instance is started before it is left alone (Ganeti 3.0, `MAXTRIES`).
pub(crate) const TRIES_MAX: u32 = 5;
/// When attempts are forgotten, in seconds after the last (Ganeti 3.0, `RETRY_EXPIRATION`).
const FORGET_AFTER_S: f64 = 8.0 * 3600.0;

/// What an instance looks like when it should run and does not.
const BAD: &str = "ERROR_down";
/// What it looks like when its guest powered itself off.
const BY_USER: &str = "USER_down";
/// States that nothing can be done about.
const HELPLESS: &[&str] = &["ERROR_nodedown", "ERROR_nodeoffline"];

/// An instance as the watcher sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InstanceSeen {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    /// It is noted to be down already.
    pub(crate) admin_down: bool,
    pub(crate) disks_active: bool,
    pub(crate) secondaries: Vec<String>,
    /// A job is at work on it.
    pub(crate) locked: bool,
}

/// A node as the watcher sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeSeen {
    pub(crate) name: String,
    /// `None` when it does not answer.
    pub(crate) boot_id: Option<String>,
}

/// What is remembered from pass to pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notes {
    instances: BTreeMap<String, Attempts>,
    boot_ids: BTreeMap<String, String>,
}

/// What was tried with an instance, and when last, in seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Attempts {
    restarts: u32,
    cleanups: u32,
    last: f64,
}

/// Something to be done by a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Start an instance, for the how manieth time.
    Restart(String, u32),
    /// Note that the user stopped an instance.
    CleanUp(String),
    /// Bring the disks of an instance up.
    ActivateDisks(String),
}

/// Something to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It was tried often enough, and that is said once.
    GaveUp(String),
    /// It runs again.
    Recovered(String),
    /// It could not be noted that the user stopped it.
    CleanupGaveUp(String),
}

/// What a pass comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) duties: Vec<Duty>,
    pub(crate) words: Vec<Word>,
}

impl Notes {
    /// How many instances are left alone after too many attempts.
    pub(crate) fn given_up(&self) -> usize {
        self.instances.values().filter(|attempts| attempts.restarts > TRIES_MAX).count()
    }

    /// How a cleanup ended.
    pub(crate) fn cleaned_up(&mut self, name: &str, well: bool, now: f64) {
        if well {
            self.instances.remove(name);
        } else {
            let attempts = self.instances.entry(name.to_owned()).or_default();
            attempts.cleanups += 1;
            attempts.last = now;
        }
    }

    /// Forgets instances that are no more and attempts that are long ago.
    fn keep_only(&mut self, names: &BTreeSet<&str>, now: f64) {
        self.instances.retain(|name, attempts| {
            names.contains(name.as_str()) && attempts.last >= now - FORGET_AFTER_S
        });
    }
}

/// Decides what to do, and notes the attempts that it decides on.
pub(crate) fn decide(
    notes: &mut Notes,
    instances: &[InstanceSeen],
    nodes: &[NodeSeen],
    now: f64,
) -> Decision {
    let names = instances.iter().map(|instance| instance.name.as_str()).collect();
    notes.keep_only(&names, now);
    let mut decision = Decision::default();
    for instance in instances {
        look_at(notes, instance, now, &mut decision);
    }
    let rebooted = rebooted(notes, nodes);
    for instance in instances {
        let other_half = instance.secondaries.iter().any(|node| rebooted.contains(node));
        let started =
            |duty: &Duty| matches!(duty, Duty::Restart(name, _) if *name == instance.name);
        if other_half && instance.disks_active && !decision.duties.iter().any(started) {
            decision.duties.push(Duty::ActivateDisks(instance.name.clone()));
        }
    }
    decision
}

fn look_at(notes: &mut Notes, instance: &InstanceSeen, now: f64, decision: &mut Decision) {
    let name = &instance.name;
    match instance.status {
        BY_USER if !instance.admin_down => {
            let tried = notes.instances.get(name).map_or(0, |attempts| attempts.cleanups);
            if tried > TRIES_MAX {
                decision.words.push(Word::CleanupGaveUp(name.clone()));
            } else if !instance.locked {
                decision.duties.push(Duty::CleanUp(name.clone()));
            }
        }
        // A job at work on it may be why it is down.
        BAD if instance.locked => {}
        BAD => {
            let attempts = notes.instances.entry(name.clone()).or_default();
            if attempts.restarts > TRIES_MAX {
                return;
            }
            attempts.restarts += 1;
            attempts.last = now;
            match attempts.restarts {
                tried if tried > TRIES_MAX => decision.words.push(Word::GaveUp(name.clone())),
                tried => decision.duties.push(Duty::Restart(name.clone(), tried)),
            }
        }
        status => {
            let restarted = notes.instances.get(name).is_some_and(|tried| tried.restarts > 0);
            if restarted {
                notes.instances.remove(name);
                if !HELPLESS.contains(&status) {
                    decision.words.push(Word::Recovered(name.clone()));
                }
            }
        }
    }
}

/// The nodes that have another boot id than before, or are seen for the first time; their ids are noted.
fn rebooted(notes: &mut Notes, nodes: &[NodeSeen]) -> BTreeSet<String> {
    let mut rebooted = BTreeSet::new();
    for node in nodes {
        let Some(boot_id) = node.boot_id.as_ref().filter(|id| !id.is_empty()) else { continue };
        if notes.boot_ids.get(&node.name) != Some(boot_id) {
            notes.boot_ids.insert(node.name.clone(), boot_id.clone());
            rebooted.insert(node.name.clone());
        }
    }
    rebooted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(status: &'static str) -> InstanceSeen {
        InstanceSeen {
            name: "web".into(),
            status,
            admin_down: false,
            disks_active: true,
            secondaries: vec!["node2".into()],
            locked: false,
        }
    }

    /// A pass with one instance and no nodes.
    fn pass(notes: &mut Notes, seen: &InstanceSeen, now: f64) -> Decision {
        decide(notes, std::slice::from_ref(seen), &[], now)
    }

    fn duty(duty: Duty) -> Decision {
        Decision { duties: vec![duty], words: vec![] }
    }

    fn word(word: Word) -> Decision {
        Decision { duties: vec![], words: vec![word] }
    }

    #[test]
    fn an_instance_is_started_five_times_and_then_left_alone() {
        let mut notes = Notes::default();
        let down = instance("ERROR_down");
        for attempt in 1..=TRIES_MAX {
            let now = 1000.0 + 60.0 * f64::from(attempt);
            assert_eq!(pass(&mut notes, &down, now), duty(Duty::Restart("web".into(), attempt)));
            assert_eq!(notes.given_up(), 0);
        }
        assert_eq!(pass(&mut notes, &down, 1400.0), word(Word::GaveUp("web".into())));
        assert_eq!(pass(&mut notes, &down, 1460.0), Decision::default());
        assert_eq!(notes.given_up(), 1);
        // Eight hours after the last attempt it begins anew.
        let later = 1400.0 + FORGET_AFTER_S;
        assert_eq!(pass(&mut notes, &down, later), Decision::default());
        assert_eq!(pass(&mut notes, &down, later + 1.0), duty(Duty::Restart("web".into(), 1)));
    }

    #[test]
    fn one_that_runs_again_begins_anew() {
        let mut notes = Notes::default();
        pass(&mut notes, &instance("ERROR_down"), 1.0);
        pass(&mut notes, &instance("ERROR_down"), 2.0);
        assert_eq!(
            pass(&mut notes, &instance("running"), 3.0),
            word(Word::Recovered("web".into()))
        );
        assert_eq!(pass(&mut notes, &instance("running"), 4.0), Decision::default());
        assert_eq!(
            pass(&mut notes, &instance("ERROR_down"), 5.0),
            duty(Duty::Restart("web".into(), 1))
        );
        // On a node that does not answer nothing succeeded.
        assert_eq!(pass(&mut notes, &instance("ERROR_nodedown"), 6.0), Decision::default());
        assert_eq!(notes, Notes::default());
    }

    #[test]
    fn what_the_user_stopped_is_noted_and_not_started() {
        let mut notes = Notes::default();
        let down = instance("USER_down");
        assert_eq!(pass(&mut notes, &down, 1.0), duty(Duty::CleanUp("web".into())));
        let noted = InstanceSeen { admin_down: true, ..down.clone() };
        assert_eq!(pass(&mut notes, &noted, 2.0), Decision::default());
        for at in 0..=TRIES_MAX {
            notes.cleaned_up("web", false, f64::from(at));
        }
        assert_eq!(pass(&mut notes, &down, 9.0), word(Word::CleanupGaveUp("web".into())));
        notes.cleaned_up("web", true, 10.0);
        assert_eq!(pass(&mut notes, &down, 11.0), duty(Duty::CleanUp("web".into())));
    }

    #[test]
    fn what_a_job_works_on_is_left_to_it() {
        let mut notes = Notes::default();
        for status in ["ERROR_down", "USER_down"] {
            let busy = InstanceSeen { locked: true, ..instance(status) };
            assert_eq!(pass(&mut notes, &busy, 1.0), Decision::default());
        }
        assert_eq!(notes, Notes::default());
    }

    #[test]
    fn other_states_are_nobodys_duty() {
        for status in ["running", "ERROR_up", "ADMIN_down", "ADMIN_offline", "ERROR_wrongnode"] {
            assert_eq!(pass(&mut Notes::default(), &instance(status), 1.0), Decision::default());
        }
    }

    #[test]
    fn disks_come_up_after_the_other_node_was_away() {
        let mut notes = Notes::default();
        let seen = [instance("running"), InstanceSeen { disks_active: false, ..instance("x") }];
        let node =
            |id: Option<&str>| NodeSeen { name: "node2".into(), boot_id: id.map(Into::into) };
        let mut look = |id| decide(&mut notes, &seen, &[node(id)], 1.0);
        let activate = duty(Duty::ActivateDisks("web".into()));
        assert_eq!(look(Some("a")), activate);
        assert_eq!(look(Some("a")), Decision::default());
        assert_eq!(look(None), Decision::default());
        assert_eq!(look(Some("b")), activate);
        // One that is started gets its disks by that.
        let down = decide(&mut notes, &[instance("ERROR_down")], &[node(Some("c"))], 1.0);
        assert_eq!(down, duty(Duty::Restart("web".into(), 1)));
    }
}
