//! The file that says which process is the daemon. It is locked for as long as the daemon runs, so a file that a crash left
//! behind holds nobody up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A locked pid file; removed when it is dropped.
pub(super) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

/// Why there is none. The texts are Ganeti's (3.0.2, `utils/io.py`).
#[derive(Debug, thiserror::Error)]
pub(super) enum PidFileError {
    #[error(
        "Error while locking PID file:\nPID file '{0}' is already locked by another process{1}"
    )]
    Locked(PathBuf, String),
    #[error("cannot write PID file '{0}'")]
    Write(PathBuf, #[source] io::Error),
}

impl PidFile {
    /// Locks the file and writes this process's number into it.
    pub(super) fn take(path: &Path) -> Result<Self, PidFileError> {
        let failed = |error| PidFileError::Write(path.to_owned(), error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let owner = owner(&mut file).map(|pid| format!(", PID read from file is {pid}"));
                return Err(PidFileError::Locked(path.to_owned(), owner.unwrap_or_default()));
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _file: file })
    }
}

fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(100).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_one_daemons_and_gone_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ganeti-rapi.pid");
        // As a crash left it.
        fs::write(&path, "4194304999\n").unwrap();
        let pid = std::process::id();
        let held = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        let Err(refused) = PidFile::take(&path) else { panic!("it was taken twice") };
        let file = path.display();
        assert_eq!(
            refused.to_string(),
            format!(
                "Error while locking PID file:\nPID file '{file}' is already locked by another \
                 process, PID read from file is {pid}"
            )
        );
        drop(held);
        assert!(!path.exists());
        drop(PidFile::take(&path).unwrap());
        let nowhere = PidFile::take(&directory.path().join("no/pid"));
        assert!(matches!(nowhere, Err(PidFileError::Write(..))));
    }
}
