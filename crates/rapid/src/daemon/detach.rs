//! Leaving the terminal. Threads do not survive a fork, so the program starts itself again instead, twice:
//!
//! ```text
//! starter ── session ── daemon         each is /proc/self/exe with the same arguments; STAGE tells which it is
//!    │          │          ├─ started, or why not, through a pipe that is its standard output and error
//!    │          └─ makes a session without a terminal and ends, so that the daemon can never get one
//!    └─ ends when the daemon answers requests, or could not start
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// The environment variable that tells a stage.
const STAGE: &str = "RAPID_DAEMON_STAGE";
/// What the daemon says last, when it serves. Error texts do not end so.
const READY: &[u8] = b"\0";
/// Bytes of an error text that are read; Ganeti's limit.
const TEXT_BYTES: u64 = 100 << 10;

/// Which of the processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starter,
    Session,
    Daemon,
}

impl Stage {
    pub(super) fn now() -> Self {
        match std::env::var(STAGE).as_deref() {
            Ok("session") => Self::Session,
            Ok("daemon") => Self::Daemon,
            _ => Self::Starter,
        }
    }
}

/// This program again, with the same name and arguments.
fn again(stage: &str) -> Command {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| OsString::from(super::NAME));
    // Whatever lies at the program's path by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(words).env(STAGE, stage).stdin(Stdio::null());
    command
}

/// Starts the daemon and waits until it serves; otherwise says why not.
pub(super) fn start() -> io::Result<Result<(), String>> {
    close_inherited();
    let (mut from_daemon, to_starter) = io::pipe()?;
    let mut command = again("session");
    command.stdout(to_starter.try_clone()?).stderr(to_starter);
    let mut session = command.spawn()?;
    drop(command); // and with it our own ends of the pipe
    let mut said = Vec::new();
    from_daemon.by_ref().take(TEXT_BYTES).read_to_end(&mut said)?;
    session.wait()?;
    Ok(verdict(&said))
}

fn verdict(said: &[u8]) -> Result<(), String> {
    if said.ends_with(READY) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(said);
    match text.trim() {
        "" => Err("it ended without a word".to_owned()),
        text => Err(text.to_owned()),
    }
}

/// Files that whoever started us left open. Only called before there is one of our own.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // That of the directory is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// Makes the session and starts the daemon in it.
pub(super) fn session() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Not waited for: it is to outlive us.
    again("daemon").spawn().map(drop)
}

/// Tells the starter that requests are answered, and lets go of it.
pub(super) fn ready(log: &File) -> io::Result<()> {
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    redirect(log)
}

/// Standard input is nothing, output and errors go to the log.
pub(super) fn redirect(log: &File) -> io::Result<()> {
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(log)?;
    dup2_stderr(log)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_ready_when_it_says_so_last() {
        assert_eq!(verdict(b"\0"), Ok(()));
        assert_eq!(verdict(b"a warning\n\0"), Ok(()));
        assert_eq!(verdict(b"the port is in use\n"), Err("the port is in use".to_owned()));
        assert_eq!(verdict(b""), Err("it ended without a word".to_owned()));
    }
}
