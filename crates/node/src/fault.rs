//! A crash on order: tests end the program at any place where it touches the world, as `kill -9` would.
//!
//! `RAPID_KILL_AT` names a file. While it is there and holds a number, each place that is passed is noted beside it in
//! `FILE.points` and counts the number down; at one, the program is gone. Without the variable a place costs a comparison.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

static ORDER: OnceLock<Option<Mutex<PathBuf>>> = OnceLock::new();

/// Something is about to be done to the world, or has just been.
pub(crate) fn point(what: &str) {
    let order =
        ORDER.get_or_init(|| std::env::var_os("RAPID_KILL_AT").map(|file| Mutex::new(file.into())));
    let Some(order) = order else { return };
    let file = order.lock().unwrap_or_else(PoisonError::into_inner);
    match pass(&file, what) {
        Ok(false) => {}
        Ok(true) => {
            // It does not come back from this.
            let _ = kill_process(getpid(), Signal::KILL);
        }
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "the order to crash can't be read")
        }
    }
}

/// Notes that a place was passed, and answers whether it is the one.
fn pass(file: &Path, what: &str) -> io::Result<bool> {
    let left = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Ok(left) = left.trim().parse::<u64>() else { return Ok(false) };
    let mut points = file.as_os_str().to_owned();
    points.push(".points");
    writeln!(OpenOptions::new().create(true).append(true).open(points)?, "{what}")?;
    fs::write(file, left.saturating_sub(1).to_string())?;
    Ok(left == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_that_was_ordered_is_met_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kill-at");
        assert!(!pass(&file, "nothing is ordered").unwrap());
        fs::write(&file, "2").unwrap();
        let met: Vec<bool> = ["one", "two", "three"].map(|what| pass(&file, what).unwrap()).into();
        assert_eq!(met, [false, true, false]);
        assert_eq!(
            fs::read_to_string(dir.path().join("kill-at.points")).unwrap(),
            "one\ntwo\nthree\n"
        );
    }
}
