//! Whose process this is. Ganeti's daemon runs as its own user where there is one, and as root otherwise.

use std::ffi::CString;

use nix::unistd::{Uid, User, getuid, initgroups, setgid, setuid};

use super::{NAME, Refusal};

/// The user that packages of Ganeti make for this daemon.
const USER: &str = "gnt-rapi";

/// What is to be done about the user that we were started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    /// Root can become whom it wants.
    Change,
    Wrong,
}

fn verdict(running: Uid, expected: Uid) -> Verdict {
    if running == expected {
        Verdict::Right
    } else if running.is_root() {
        Verdict::Change
    } else {
        Verdict::Wrong
    }
}

/// Becomes Ganeti's user with its groups, if we are not yet; whoever cannot is refused.
pub(super) fn settle() -> Result<(), Refusal> {
    let user = User::from_name(USER)
        .map_err(|error| Refusal::Failed(format!("Cannot look up user {USER}: {error}")))?;
    let (running, expected) = (getuid(), user.as_ref().map_or(Uid::from_raw(0), |user| user.uid));
    match (verdict(running, expected), user) {
        (Verdict::Change, Some(user)) => become_user(&user)
            .map_err(|error| Refusal::Failed(format!("{NAME} cannot run as user {USER}: {error}"))),
        (Verdict::Right | Verdict::Change, _) => Ok(()),
        (Verdict::Wrong, _) => Err(Refusal::Failed(format!(
            "{NAME} started using wrong user ID ({running}), expected {expected}"
        ))),
    }
}

/// The groups first: afterwards we may not change them any more.
fn become_user(user: &User) -> nix::Result<()> {
    let name = CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_becomes_the_expected_user_and_others_are_refused() {
        let check = |running, expected, verdict_expected| {
            let got = verdict(Uid::from_raw(running), Uid::from_raw(expected));
            assert_eq!(got, verdict_expected, "{running} for {expected}");
        };
        check(106, 106, Verdict::Right);
        check(0, 0, Verdict::Right);
        check(0, 106, Verdict::Change);
        check(103, 106, Verdict::Wrong);
        check(103, 0, Verdict::Wrong);
    }
}
