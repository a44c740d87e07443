//! Whether `/dev/kvm` may be used. That it is there means little: inside some virtual machines a guest under it crawls or
//! dies. So a kernel is booted under it once, in the background, with a time limit, and the verdict is kept. Until there
//! is one, and when there is nothing to boot, guests are emulated.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::find_qemu;
use crate::process::Process;
use crate::tiny;

/// How long the kernel may take to its first program. Where KVM works this is below two seconds.
const TRIAL_LIMIT: Duration = Duration::from_secs(15);

/// What a trial showed, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Verdict {
    usable: bool,
    reason: String,
    /// The verdict holds for this kernel and this QEMU only.
    kernel: String,
    qemu_version: String,
}

#[derive(Default)]
struct Known {
    usable: bool,
    running: Option<JoinHandle<()>>,
}

pub(crate) struct Trial {
    file: PathBuf,
    os_search_path: Vec<PathBuf>,
    known: Arc<Mutex<Known>>,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.known).running.take() {
            task.abort();
        }
    }
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    // It is only ever held to read or set a field.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trial {
    pub(crate) fn new(data_dir: &Path, os_search_path: Vec<PathBuf>) -> Self {
        Self { file: data_dir.join("kvm-verdict.json"), os_search_path, known: Arc::default() }
    }

    pub(crate) fn usable(&self) -> bool {
        lock(&self.known).usable
    }

    /// Reads the verdict, or begins a trial if there is none and something to boot. Does nothing while one runs.
    pub(crate) fn begin(&self) {
        let mut known = lock(&self.known);
        if known.usable || known.running.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let image = self.os_search_path.iter().find_map(|dir| tiny::boot_files(dir));
        let (Ok(_), Some((kernel, initrd))) = (device, image) else { return };
        let (file, shared) = (self.file.clone(), self.known.clone());
        known.running = Some(tokio::spawn(async move {
            let verdict = judge(&file, &kernel, &initrd).await;
            lock(&shared).usable = verdict.usable;
        }));
    }
}

/// The verdict that is kept, or a new one.
async fn judge(file: &Path, kernel: &Path, initrd: &Path) -> Verdict {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    let qemu_version = super::version().await;
    let kept = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Verdict>(&text).ok());
    if let Some(kept) =
        kept.filter(|kept| kept.kernel == release && kept.qemu_version == qemu_version)
    {
        return kept;
    }
    let begun = Instant::now();
    let (usable, reason) = boot(kernel, initrd).await;
    let verdict = Verdict { usable, reason, kernel: release, qemu_version };
    if usable {
        let seconds = begun.elapsed().as_secs_f64();
        tracing::info!("/dev/kvm works: a guest booted in {seconds:.1}s, instances will use it");
    } else {
        tracing::warn!(reason = %verdict.reason, "/dev/kvm is there but does not work well enough, so instances are emulated; remove {} and restart to try again", file.display());
    }
    if let Err(error) = keep(file, &verdict) {
        tracing::warn!(%error, "can't keep the verdict on /dev/kvm");
    }
    verdict
}

async fn boot(kernel: &Path, initrd: &Path) -> (bool, String) {
    let Some(program) = find_qemu() else { return (false, "QEMU is not installed".into()) };
    let append = format!("console=ttyS0 quiet panic=-1 {}", tiny::TRIAL_FLAG);
    // A daemon that is killed must not leave a guest behind that never ends: `timeout` lives on and ends it.
    let seconds = (TRIAL_LIMIT * 2).as_secs().to_string();
    let said = Process::new("timeout", TRIAL_LIMIT)
        .args(["--foreground", "--signal=KILL", &seconds])
        .args([&program])
        .args(["-nodefaults", "-no-user-config", "-machine", "pc", "-accel", "kvm", "-m", "128"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
        .args([Path::new("-kernel"), kernel, Path::new("-initrd"), initrd])
        .args(["-append", &append])
        .nice()
        .run()
        .await;
    match said {
        Ok(said) if said.stdout_text().contains(tiny::TRIAL_ANSWER) => {
            (true, "a guest booted".into())
        }
        Ok(said) => {
            let text = said.output();
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            (false, format!("the guest ended early, its last line was: {}", last.trim()))
        }
        Err(error) => (false, error.to_string()),
    }
}

fn keep(file: &Path, verdict: &Verdict) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut temp = tempfile::Builder::new().prefix(".verdict").tempfile_in(dir)?;
    temp.write_all(&serde_json::to_vec_pretty(verdict)?)?;
    temp.persist(file)?;
    Ok(())
}
