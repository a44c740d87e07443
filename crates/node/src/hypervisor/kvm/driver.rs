//! One running QEMU: a task owns its events and watches its process.
//!
//! ```text
//!   start ──▶ running ⇄ paused ──▶ halted ──▶ ended (guest-shutdown | quit | signal | crash)
//!     adopt ──▶┘──────────────────────┘
//! ```
//! A guest that powers itself off leaves its QEMU halted (`-no-shutdown`), so that this can be read by a server that was away
//! meanwhile; then QEMU is told to quit.
//!
//! The end is seen on the process itself (a pidfd), never by the monitor's end: QEMU removes its files after it closed the
//! monitor. What is published is published before the end is announced, so that whoever waited for it reads the truth.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use super::hotplug::{self, Step};
use super::qmp::{Event, Qmp, QmpError};
use super::runtime::{ProcessId, Runtime};
use crate::cell::StateCell;
use crate::cgroup::Groups;
use crate::console::Hub;
use crate::fd::watchable;
use crate::network::Network;
use crate::outside::outside;
use crate::state::{InstanceRun, RunState};

/// How often a guest that does not power down is asked again: early in its boot it cannot hear.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long QEMU may take to quit when told to, before it is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(5);
/// How long a QEMU whose guest has halted may take to put everything away, before it is killed.
const HALTED_LIMIT: Duration = Duration::from_secs(30);
/// How long a killed process may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Devices that went, which whoever waits for one takes at once.
const GONE_MAX: usize = 64;

/// How a QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest powered itself off (or was asked to and did).
    GuestShutdown,
    /// It was told to quit.
    Quit,
    /// It was terminated from outside.
    Signal,
    /// It went without a word, or its guest broke down.
    Crash,
}

/// Why QEMU says that it ends (the event `SHUTDOWN`). A guest that reboots where that means to exit has ended itself too.
fn ending(reason: Option<&str>) -> Ending {
    match reason {
        Some("guest-shutdown" | "guest-reset") => Ending::GuestShutdown,
        Some("host-signal") => Ending::Signal,
        Some("guest-panic" | "host-error") => Ending::Crash,
        _ => Ending::Quit,
    }
}

/// What is wanted of a guest that is about to end.
#[derive(Default)]
struct Intent {
    /// It was asked to stop: its end is no news.
    stopping: AtomicBool,
    /// It will be started again: viewers of its console stay.
    restarting: AtomicBool,
}

/// What a QEMU is doing when it is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Running,
    Paused,
    /// Its guest powered itself off, and nobody was there to see it.
    Halted,
}

/// A running QEMU.
pub(crate) struct Guest {
    home: Home,
    pub(crate) runtime: Arc<Mutex<Runtime>>,
    qmp: Option<Arc<Qmp>>,
    process: Arc<AsyncFd<OwnedFd>>,
    pid: u32,
    ended: watch::Receiver<Option<Ending>>,
    /// Names of devices that the guest has let go.
    gone: broadcast::Receiver<String>,
    intent: Arc<Intent>,
    pub(crate) hub: Option<Arc<Hub>>,
    task: JoinHandle<()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // QEMU goes on; only the watching ends.
        self.task.abort();
    }
}

/// What the driver needs of the hypervisor that it belongs to.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) state: Arc<StateCell>,
    /// Where runtime files are.
    pub(crate) runtime_dir: PathBuf,
    pub(crate) network: Network,
    pub(crate) groups: Arc<Groups>,
}

impl Guest {
    /// Takes a living QEMU over. Without a monitor it can still be watched and killed.
    pub(crate) fn watch(
        home: Home,
        runtime: Runtime,
        process: ProcessId,
        monitor: Option<(Qmp, mpsc::Receiver<Event>)>,
        hub: Option<Arc<Hub>>,
        found: Found,
    ) -> std::io::Result<Self> {
        let raw = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        let pidfd = Arc::new(watchable(pidfd_open(pid, PidfdFlags::empty())?)?);
        let (ended_tx, ended) = watch::channel(None);
        let (gone_tx, gone) = broadcast::channel(GONE_MAX);
        let intent = Arc::new(Intent::default());
        let (qmp, events) = match monitor {
            Some((qmp, events)) => (Some(Arc::new(qmp)), Some(events)),
            None => (None, None),
        };
        let run = InstanceRun {
            state: if found == Found::Paused { RunState::Paused } else { RunState::Running },
            memory_mib: runtime.memory_mib,
            vcpus: runtime.spec.be("vcpus"),
            cpu_seconds: 0.0,
        };
        let name = runtime.spec.name.clone();
        intent.stopping.store(runtime.stopping, Ordering::SeqCst);
        let runtime = Arc::new(Mutex::new(runtime));
        home.state.put_instance(name.clone(), run);
        let driver = Driver {
            home: home.clone(),
            name,
            runtime: runtime.clone(),
            gone: gone_tx,
            process: pidfd.clone(),
            qmp: qmp.clone(),
            intent: intent.clone(),
            hub: hub.clone(),
            shutdown: (found == Found::Halted).then_some(Ending::GuestShutdown),
        };
        let task = tokio::spawn(driver.run(events, ended_tx));
        let pid = process.pid;
        Ok(Self { home, runtime, qmp, process: pidfd, pid, ended, gone, intent, hub, task })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended.borrow().is_none()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives QEMU a command.
    pub(crate) async fn qmp(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        match &self.qmp {
            Some(qmp) => qmp.run(command, arguments).await,
            None => Err(QmpError::Closed),
        }
    }

    /// Changes its devices; answers whether one that was to go was there.
    pub(crate) async fn change_devices(&self, steps: &[Step]) -> Result<bool, String> {
        match &self.qmp {
            Some(qmp) => hotplug::carry_out(qmp, &self.gone, steps).await,
            None => Err(QmpError::Closed.to_string()),
        }
    }

    /// Changes what is remembered of it, on disk too.
    pub(crate) fn remember(&self, dir: &Path, change: impl FnOnce(&mut Runtime)) -> io::Result<()> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut runtime);
        runtime.save(dir)
    }

    /// Keeps the viewers of its console when it ends.
    pub(crate) fn expect_restart(&self) {
        self.intent.restarting.store(true, Ordering::SeqCst);
    }

    /// Waits for its end, for at most `limit`.
    pub(crate) async fn wait_ended(&self, limit: Duration) -> Option<Ending> {
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(limit, ended.wait_for(Option::is_some));
        let waited = outside("the end of a guest", waited).await;
        waited.ok().and_then(|ended| ended.map_or(Some(Ending::Crash), |ended| *ended))
    }

    /// A server that comes after this one must not take the end that was asked for for the guest's own.
    fn note_stopping(&self) {
        // One that has ended meanwhile is forgotten or noted already.
        if !self.is_running() {
            return;
        }
        let noted = self.remember(&self.home.runtime_dir, |runtime| runtime.stopping = true);
        if let Err(error) = noted {
            let name = self.runtime().spec.name;
            tracing::warn!(instance.name = %name, %error, "can't note that an instance is stopped");
        }
    }

    /// Ends it: asks the guest for at most `limit` (not at all when that is zero), then tells QEMU, then kills it.
    pub(crate) async fn stop(&self, limit: Duration) -> Result<Ending, String> {
        self.intent.stopping.store(true, Ordering::SeqCst);
        self.note_stopping();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() || !self.is_running() {
                break;
            }
            if let Err(error) = self.qmp("system_powerdown", json!({})).await {
                tracing::debug!(%error, "a guest can't be asked to power down");
                if self.wait_ended(QUIT_LIMIT.min(left)).await.is_none() {
                    break;
                }
            }
            if let Some(ending) = self.wait_ended(ASK_AGAIN.min(left)).await {
                return Ok(ending);
            }
        }
        // Whether it answers or just goes, the wait tells.
        let _ = self.qmp("quit", json!({})).await;
        if let Some(ending) = self.wait_ended(QUIT_LIMIT).await {
            return Ok(ending);
        }
        // It may be gone by now.
        let _ = pidfd_send_signal(self.process.get_ref(), Signal::KILL);
        let killed = self.wait_ended(KILL_LIMIT).await;
        killed.ok_or_else(|| format!("process {} does not go away when killed", self.pid))
    }
}

/// The task's side.
struct Driver {
    home: Home,
    name: String,
    runtime: Arc<Mutex<Runtime>>,
    gone: broadcast::Sender<String>,
    process: Arc<AsyncFd<OwnedFd>>,
    qmp: Option<Arc<Qmp>>,
    intent: Arc<Intent>,
    hub: Option<Arc<Hub>>,
    /// Why QEMU said that it ends.
    shutdown: Option<Ending>,
}

impl Driver {
    async fn run(
        mut self,
        mut events: Option<mpsc::Receiver<Event>>,
        ended: watch::Sender<Option<Ending>>,
    ) {
        let process = self.process.clone();
        if self.is_halted() {
            self.let_go().await;
        }
        loop {
            tokio::select! {
                event = next(&mut events) => match event {
                    Some(event) => {
                        self.event(&event);
                        if event.name == "SHUTDOWN" && self.is_halted() {
                            self.let_go().await;
                        }
                    }
                    // The monitor ended: the process will, or another must be asked; only its end counts.
                    None => events = None,
                },
                _ = process.readable() => break,
            }
        }
        // Events that were sent before the end are still to be read.
        while let Some(event) = events.as_mut().and_then(|events| events.try_recv().ok()) {
            self.event(&event);
        }
        let ending = self.end().await;
        ended.send_replace(Some(ending));
    }

    fn event(&mut self, event: &Event) {
        let name = &self.name;
        tracing::debug!(instance.name = %name, event = %event.name, data = %event.data, "QEMU event");
        match event.name.as_str() {
            // One that has halted is no paused one.
            "STOP" if self.shutdown.is_none() => self.publish(RunState::Paused),
            "RESUME" => {
                self.shutdown = None;
                self.publish(RunState::Running);
            }
            "DEVICE_DELETED" => {
                if let Some(device) = event.data.get("device").and_then(Value::as_str) {
                    // Whoever asked for it may have given up.
                    let _ = self.gone.send(device.to_owned());
                }
            }
            // The first counts: that a halted QEMU then quits is our own doing.
            "SHUTDOWN" => {
                let why = ending(event.data.get("reason").and_then(Value::as_str));
                self.shutdown.get_or_insert(why);
            }
            _ => {}
        }
    }

    /// Whether its guest came to an end by itself; QEMU goes on then, and waits.
    fn is_halted(&self) -> bool {
        matches!(self.shutdown, Some(Ending::GuestShutdown | Ending::Crash))
    }

    /// Ends a QEMU whose guest has halted. That the guest did it is noted first: what comes after this server reads it there.
    async fn let_go(&self) {
        if self.is_told(self.shutdown.unwrap_or(Ending::Quit)) {
            self.note_guest_shutdown();
        }
        if let Some(qmp) = &self.qmp {
            // Whether it answers or just goes, its end tells.
            let _ = qmp.run("quit", json!({})).await;
        }
        let gone = tokio::time::timeout(HALTED_LIMIT, self.process.readable()).await;
        if gone.is_err() {
            // It may be gone by now.
            let _ = pidfd_send_signal(self.process.get_ref(), Signal::KILL);
        }
    }

    /// Whether the user is told that the guest powered itself off: nobody asked for it, and the instance wants it told.
    fn is_told(&self, ending: Ending) -> bool {
        ending == Ending::GuestShutdown
            && !self.intent.stopping.load(Ordering::SeqCst)
            && self.runtime().spec.hv_flag("user_shutdown")
    }

    fn runtime(&self) -> MutexGuard<'_, Runtime> {
        // It is only ever held to read or set a field.
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_guest_shutdown(&self) {
        let saved = {
            let mut runtime = self.runtime();
            runtime.guest_shutdown = true;
            runtime.save(&self.home.runtime_dir)
        };
        if let Err(error) = saved {
            let name = &self.name;
            tracing::warn!(instance.name = %name, %error, "can't note that a guest powered off");
        }
    }

    fn publish(&self, run_state: RunState) {
        self.home.state.update(|state| {
            if let Some(run) = state.instances.get_mut(&self.name) {
                run.state = run_state;
            }
        });
    }

    /// Cleans up after QEMU, and says what happened.
    async fn end(&mut self) -> Ending {
        let ending = self.shutdown.unwrap_or(Ending::Crash);
        let stopping = self.intent.stopping.load(Ordering::SeqCst);
        let restarting = self.intent.restarting.load(Ordering::SeqCst);
        let name = self.name.clone();
        let runtime = self.runtime().clone();
        let files = runtime.files();
        for path in files.leftovers() {
            if restarting && path == files.console() {
                continue;
            }
            // QEMU removes most of them itself.
            let _ = std::fs::remove_file(path);
        }
        if !restarting {
            if let Some(hub) = &self.hub {
                hub.close().await;
            }
            // Empty now; if not, something unknown is in it and stays.
            let _ = std::fs::remove_dir(files.chroot());
            let _ = std::fs::remove_dir(&files.run);
        }
        self.home.network.down_all(&runtime.spec).await;
        self.home.groups.release(runtime.spec.uuid.as_str()).await;
        let told = self.is_told(ending);
        if told {
            self.note_guest_shutdown();
        } else {
            Runtime::forget(&self.home.runtime_dir, runtime.spec.uuid.as_str());
        }
        self.home.state.update(|state| match told {
            true => {
                if let Some(run) = state.instances.get_mut(&name) {
                    run.state = RunState::Shutdown;
                    run.memory_mib = 0;
                }
            }
            false => drop(state.instances.remove(&name)),
        });
        match (stopping, ending) {
            (true, _) => tracing::info!(instance.name = %name, ?ending, "instance {name} stopped"),
            (false, Ending::GuestShutdown) => {
                tracing::info!(instance.name = %name, "instance {name} powered itself off");
            }
            (false, Ending::Quit | Ending::Signal) => {
                tracing::warn!(instance.name = %name, ?ending, "instance {name} was ended by somebody else");
            }
            (false, Ending::Crash) => {
                tracing::error!(instance.name = %name, "QEMU of instance {name} crashed or was killed");
            }
        }
        ending
    }
}

async fn next(events: &mut Option<mpsc::Receiver<Event>>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_apart() {
        let check = |reason, expected| assert_eq!(ending(reason), expected, "{reason:?}");
        check(Some("guest-shutdown"), Ending::GuestShutdown);
        check(Some("guest-reset"), Ending::GuestShutdown);
        check(Some("guest-panic"), Ending::Crash);
        check(Some("host-signal"), Ending::Signal);
        check(Some("host-qmp-quit"), Ending::Quit);
        check(None, Ending::Quit);
    }
}
