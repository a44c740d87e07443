//! What is remembered on disk of each started instance, so that a restarted server finds its QEMU again.
//!
//! The file is written before QEMU is started and completed after, so that a QEMU never runs unknown.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::command_line::Files;
use crate::spec::{DiskSpec, InstanceSpec};
use crate::{fault, host};

/// How the names of files begin that are being written.
const UNFINISHED: &str = ".runtime";

/// A started instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Runtime {
    /// As it was started, with the devices that it has now.
    pub(crate) spec: InstanceSpec,
    /// The files or devices of its disks, in order.
    #[serde(default)]
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) argv: Vec<String>,
    /// Where its sockets are.
    pub(crate) run_dir: PathBuf,
    pub(crate) console_log: PathBuf,
    #[serde(default)]
    pub(crate) data_dir: PathBuf,
    /// Known once QEMU has started.
    pub(crate) process: Option<ProcessId>,
    /// Whether it was started to wait.
    pub(crate) paused: bool,
    /// The memory it was given last.
    pub(crate) memory_mib: u64,
    /// The guest powered itself off, and this is still to be told.
    pub(crate) guest_shutdown: bool,
    /// It was asked to stop: that it ends is no news.
    #[serde(default)]
    pub(crate) stopping: bool,
}

/// Names a process for ever: numbers are used again, but not with the same start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// The process of that number, as it is now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start_time: host::process_facts(pid)?.start_time })
    }
}

impl Runtime {
    pub(crate) fn files(&self) -> Files {
        Files {
            run: self.run_dir.clone(),
            console_log: self.console_log.clone(),
            data_dir: self.data_dir.clone(),
        }
    }

    /// Notes a disk that was plugged in at a place.
    pub(crate) fn add_disk(&mut self, index: usize, disk: &DiskSpec, path: &Path) {
        // A runtime file from before disks were noted has none of them.
        let at = index.min(self.spec.disks.len()).min(self.disks.len());
        self.spec.disks.insert(at, disk.clone());
        self.disks.insert(at, path.to_owned());
    }

    /// Notes that the disk at a place went.
    pub(crate) fn forget_disk(&mut self, at: usize) {
        self.spec.disks.remove(at);
        if at < self.disks.len() {
            self.disks.remove(at);
        }
    }

    fn path(dir: &Path, uuid: &str) -> PathBuf {
        dir.join(format!("{uuid}.json"))
    }

    /// Writes it in place of an older one.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.as_file().sync_all()?;
        fault::point("before the runtime file is written");
        file.persist(Self::path(dir, self.spec.uuid.as_str()))?;
        fault::point("after the runtime file was written");
        Ok(())
    }

    /// Forgets an instance; one that is not known is no error.
    pub(crate) fn forget(dir: &Path, uuid: &str) {
        let path = Self::path(dir, uuid);
        fault::point("before the runtime file is removed");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "can't remove a runtime file");
            }
            _ => {}
        }
    }

    /// Takes away what a crash left half written. Only for the program that writes them, before it does.
    pub(crate) fn remove_unfinished(dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && let Err(error) = fs::remove_file(entry.path())
            {
                let path = entry.path();
                tracing::warn!(path = %path.display(), %error, "can't remove a runtime file");
            }
        }
    }

    /// All that are remembered; what cannot be read is told and left out.
    pub(crate) fn load_all(dir: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            match read {
                Ok(runtime) => found.push(runtime),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "can't read a runtime file");
                }
            }
        }
        found
    }

    /// The QEMU that this is about, if it lives: by the process id noted, else by the one QEMU wrote, and in each case only
    /// if the process carries the instance's UUID on its command line.
    pub(crate) fn living(&self) -> Option<ProcessId> {
        let noted = self.process.filter(|id| ProcessId::of(id.pid) == Some(*id));
        let process = match (noted, self.process) {
            (Some(id), _) => id,
            (None, Some(_)) => return None,
            (None, None) => {
                let text = fs::read_to_string(self.files().pid()).ok()?;
                ProcessId::of(text.trim().parse().ok()?)?
            }
        };
        let uuid = self.spec.uuid.as_str();
        host::command_line(process.pid).iter().any(|arg| arg == uuid).then_some(process)
    }
}
