//! What an instance does, and the word for it, from what it is meant to do and what the nodes say.

use ::node::{InstanceRun, RunState};
use model::config::Instance;
use model::param::{AdminState, AdminStateSource};

use super::Live;

/// Whether the primary node can say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primary {
    Answers,
    /// It does not answer.
    Down,
    /// It is marked offline, and not asked.
    Offline,
}

/// An instance that was found on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) state: RunState,
    pub(super) memory_mib: u64,
    pub(super) vcpus: u64,
    pub(super) on_primary: bool,
}

/// What the nodes say about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) primary: Primary,
    pub(super) found: Option<Found>,
}

/// Asks the states of all nodes, the primary first.
pub(super) fn see(live: &Live<'_>, instance: &Instance) -> Seen {
    let offline = live.config.nodes.get(&instance.primary_node).is_some_and(|node| node.offline);
    let state = live.state(&instance.primary_node);
    let primary = match (&state, offline) {
        (_, true) => Primary::Offline,
        (Some(_), _) => Primary::Answers,
        (None, _) => Primary::Down,
    };
    let found = |run: &InstanceRun, on_primary| Found {
        state: run.state,
        memory_mib: run.memory_mib,
        vcpus: run.vcpus,
        on_primary,
    };
    if let Some(run) = state.as_ref().and_then(|state| state.instances.get(&instance.name)) {
        return Seen { primary, found: Some(found(run, true)) };
    }
    let others = live.config.nodes.keys().filter(|uuid| **uuid != instance.primary_node);
    let elsewhere = others
        .filter_map(|uuid| {
            live.state(uuid)?.instances.get(&instance.name).map(|run| found(run, false))
        })
        .next();
    Seen { primary, found: elsewhere }
}

/// What is said to the user about shutdowns from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserShutdown {
    /// The cluster reports them.
    pub(super) reported: bool,
    /// This instance's hypervisor lets them happen.
    pub(super) possible: bool,
}

/// The status of an instance.
pub(super) fn status(
    admin: AdminState,
    source: AdminStateSource,
    seen: Seen,
    user_shutdown: UserShutdown,
) -> &'static str {
    match (seen.primary, seen.found) {
        (Primary::Offline, _) => "ERROR_nodeoffline",
        (_, Some(Found { on_primary: false, .. })) => "ERROR_wrongnode",
        (_, Some(found)) => match (found.state, admin) {
            (RunState::Running | RunState::Paused, AdminState::Up) => "running",
            (RunState::Running | RunState::Paused, AdminState::Down | AdminState::Offline) => {
                "ERROR_up"
            }
            (RunState::Shutdown, AdminState::Up) => {
                if user_shutdown.reported && user_shutdown.possible {
                    "USER_down"
                } else {
                    "ERROR_down"
                }
            }
            (RunState::Shutdown, AdminState::Down | AdminState::Offline) => "ADMIN_down",
        },
        (Primary::Down, None) => "ERROR_nodedown",
        (Primary::Answers, None) => match admin {
            AdminState::Up => "ERROR_down",
            AdminState::Down if source == AdminStateSource::User && user_shutdown.reported => {
                "USER_down"
            }
            AdminState::Down => "ADMIN_down",
            AdminState::Offline => "ADMIN_offline",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_word() {
        use AdminState::{Down, Offline, Up};
        let found = |state, on_primary| Some(Found { state, memory_mib: 1, vcpus: 1, on_primary });
        let running = found(RunState::Running, true);
        let shutdown = found(RunState::Shutdown, true);
        let silent = UserShutdown { reported: false, possible: true };
        let check = |admin, primary, found, user_shutdown, expected| {
            let seen = Seen { primary, found };
            assert_eq!(status(admin, AdminStateSource::Admin, seen, user_shutdown), expected);
        };
        check(Up, Primary::Answers, running, silent, "running");
        check(Up, Primary::Answers, found(RunState::Paused, true), silent, "running");
        check(Down, Primary::Answers, running, silent, "ERROR_up");
        check(Offline, Primary::Answers, running, silent, "ERROR_up");
        check(Up, Primary::Answers, None, silent, "ERROR_down");
        check(Down, Primary::Answers, None, silent, "ADMIN_down");
        check(Offline, Primary::Answers, None, silent, "ADMIN_offline");
        check(Up, Primary::Answers, found(RunState::Running, false), silent, "ERROR_wrongnode");
        check(Up, Primary::Down, found(RunState::Running, false), silent, "ERROR_wrongnode");
        check(Up, Primary::Down, None, silent, "ERROR_nodedown");
        check(Up, Primary::Offline, running, silent, "ERROR_nodeoffline");
        check(Up, Primary::Answers, shutdown, silent, "ERROR_down");
        check(Down, Primary::Answers, shutdown, silent, "ADMIN_down");
        let told = UserShutdown { reported: true, possible: true };
        check(Up, Primary::Answers, shutdown, told, "USER_down");
        let never = UserShutdown { reported: true, possible: false };
        check(Up, Primary::Answers, shutdown, never, "ERROR_down");
        let seen = Seen { primary: Primary::Answers, found: None };
        assert_eq!(status(Down, AdminStateSource::User, seen, told), "USER_down");
        assert_eq!(status(Down, AdminStateSource::User, seen, silent), "ADMIN_down");
    }
}
