//! The `kvm` hypervisor: QEMU, one process per running instance, which outlives this program.

mod addresses;
mod backup;
pub(crate) mod command_line;
mod devices;
mod display;
mod driver;
mod hotplug;
mod nics;
mod places;
mod prepare;
mod qmp;
pub(crate) mod runtime;
pub(crate) mod screen;
mod strays;
mod trial;
pub(crate) mod validate;

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::param::{Dict, RebootType};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use self::command_line::{Accel, Files};
use self::driver::{Ending, Found, Guest, Home};
pub(crate) use self::places::KvmPlaces;
use self::places::{make_private_dir, socket_dir};
use self::qmp::Qmp;
use self::runtime::{ProcessId, Runtime};
use self::trial::Trial;
use super::Backend;
use crate::cell::StateCell;
use crate::cgroup::{Groups, Hierarchy, Limits};
use crate::console::Hub;
use crate::network::{self, Network};
use crate::process::Process;
use crate::spec::{DiskSpec, InstanceSpec};
use crate::state::{InstanceRun, RunState};
use crate::stray::Stray;
use crate::{Console, Device, Hotplug, NodeError, Result, host};

/// How long QEMU may take until it has made itself a daemon.
const START_LIMIT: Duration = Duration::from_secs(60);
pub(crate) struct Kvm {
    places: KvmPlaces,
    /// Where sockets do lie.
    sockets: PathBuf,
    home: Home,
    guests: Mutex<HashMap<String, Arc<Guest>>>,
    trial: Trial,
    strays: Mutex<Strays>,
}

/// What belongs to nothing.
#[derive(Default)]
struct Strays {
    /// Seen at the last look; `None` before the first.
    suspects: Option<Vec<Stray>>,
    found: Vec<Stray>,
}

/// QEMU as it is found on this machine.
pub(crate) fn find_qemu() -> Option<PathBuf> {
    ["qemu-system-x86_64", "kvm"].iter().find_map(|name| crate::process::find_program(name))
}

/// Where the runtime files of a data directory are.
fn runtime_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("instances")
}

/// The socket of an instance's console, if the instance runs.
pub(crate) fn console_socket(data_dir: &Path, name: &str) -> Option<PathBuf> {
    let mut all = Runtime::load_all(&runtime_dir(data_dir)).into_iter();
    let runtime = all.find(|runtime| runtime.spec.name == name)?;
    Some(runtime.files().console()).filter(|socket| socket.exists())
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

impl Kvm {
    /// Makes the directories and takes over every QEMU that survived.
    pub(crate) async fn open(
        places: KvmPlaces,
        state: Arc<StateCell>,
        network_script_dirs: &[PathBuf],
    ) -> Result<Self> {
        let sockets = socket_dir(&places)?;
        let runtime_dir = runtime_dir(&places.data_dir);
        Runtime::remove_unfinished(&runtime_dir);
        let trial = Trial::new(&places.data_dir, places.os_search_path.clone());
        let family = family(&places.data_dir);
        let network = Network::new(network_script_dirs, &family);
        let groups = Arc::new(Groups::new(Hierarchy::here(), family, places.limit_instances));
        let home = Home { state, runtime_dir, network, groups };
        let guests = Mutex::default();
        let strays = Mutex::default();
        let kvm = Self { places, sockets, home, guests, trial, strays };
        kvm.adopt_all().await;
        kvm.verify();
        kvm.trial.begin();
        Ok(kvm)
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<String, Arc<Guest>>> {
        // It is only ever held to look up or to insert.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guest(&self, name: &str) -> Option<Arc<Guest>> {
        self.guests().get(name).filter(|guest| guest.is_running()).cloned()
    }

    fn running(&self, name: &str) -> Result<Arc<Guest>> {
        self.guest(name).ok_or_else(|| failed(format!("instance {name} is not running")))
    }

    async fn adopt_all(&self) {
        let mut adoptions = JoinSet::new();
        for runtime in Runtime::load_all(&self.home.runtime_dir) {
            let home = self.home.clone();
            adoptions.spawn(async move {
                let name = runtime.spec.name.clone();
                let adopted = adopt(home, runtime).await;
                if let Ok(Some(guest)) = &adopted {
                    backup::forget(guest).await;
                }
                (name, adopted)
            });
        }
        while let Some(adopted) = adoptions.join_next().await {
            match adopted {
                Ok((name, Ok(Some(guest)))) => {
                    tracing::info!(instance.name = %name, pid = guest.pid(), "instance {name} runs on");
                    self.guests().insert(name, Arc::new(guest));
                }
                Ok((_, Ok(None))) => {}
                Ok((name, Err(error))) => {
                    tracing::error!(instance.name = %name, %error, "can't take instance {name} over");
                }
                Err(error) => tracing::error!(%error, "taking an instance over failed"),
            }
        }
    }

    fn program(&self, spec: &InstanceSpec) -> Result<PathBuf> {
        let wanted = Path::new(spec.hv("kvm_path"));
        if crate::process::is_executable(wanted) {
            return Ok(wanted.to_owned());
        }
        find_qemu().ok_or_else(|| {
            failed("QEMU is not installed on this node; on Debian: apt install qemu-system-x86")
        })
    }

    /// Compares what is on the machine with what runs here. What belongs to nothing is told once, and kept. What is just being
    /// started or stopped looks like that for a moment, so it must be seen twice; at the first look nothing is.
    pub(crate) fn verify(&self) {
        let groups = self.home.groups.all();
        let taps = self.home.network.taps();
        let picture = strays::look(&self.sockets, &self.home.runtime_dir, groups, taps);
        let mut known = strays::Known::default();
        for guest in self.guests().values() {
            let spec = guest.runtime().spec;
            known.uuids.insert(spec.uuid.to_string());
            known.taps.extend(spec.nics.iter().filter_map(network::tap_name));
            known.pids.insert(guest.pid());
        }
        let noted = Runtime::load_all(&self.home.runtime_dir).into_iter();
        let told = noted.filter(|runtime| runtime.guest_shutdown);
        known.uuids.extend(told.map(|runtime| runtime.spec.uuid.to_string()));
        let seen = strays::judge(&picture, &known, &self.sockets);
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        let Strays { suspects, found } = &mut *strays;
        let before = suspects.replace(seen.clone()).unwrap_or_else(|| seen.clone());
        let now: Vec<Stray> = seen.into_iter().filter(|stray| before.contains(stray)).collect();
        for stray in now.iter().filter(|stray| !found.contains(stray)) {
            tracing::warn!("found: {}", stray.text);
        }
        *found = now;
    }

    /// What belonged to nothing when it was looked last.
    pub(crate) fn strays(&self) -> Vec<Stray> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }

    /// A picture of the instance's screen, as PNG.
    pub(crate) async fn screenshot(&self, spec: &InstanceSpec) -> Result<Vec<u8>> {
        let guest = self.running(&spec.name)?;
        let runtime = guest.runtime();
        let run = async |command, arguments| guest.qmp(command, arguments).await;
        screen::take(&runtime.spec, &runtime.files(), run).await
    }

    /// Ganeti's `kvm_flag` decides when it is set; otherwise `/dev/kvm` is used once it has proved itself.
    fn accel(&self, spec: &InstanceSpec) -> Accel {
        match spec.hv("kvm_flag") {
            "enabled" => Accel::Kvm,
            "disabled" => Accel::Tcg,
            _ => match self.trial.usable() {
                true => Accel::Kvm,
                false => Accel::Tcg,
            },
        }
    }

    async fn launch(
        &self,
        spec: &InstanceSpec,
        disks: &[PathBuf],
        paused: bool,
        hub: Option<Arc<Hub>>,
    ) -> Result<()> {
        let spec = &network::fitted(spec);
        let name = &spec.name;
        let run_dir = self.sockets.join(spec.uuid.as_str());
        let log_dir = self.places.data_dir.join("log").join("console");
        let files = Files {
            run: run_dir.clone(),
            console_log: log_dir.join(format!("{name}.log")),
            data_dir: self.places.data_dir.clone(),
        };
        let program = self.program(spec)?;
        let placed = addresses::resolved(spec)?;
        let argv = command_line::command_line(&program, &placed, self.accel(spec), &files, disks)?;
        let io = |what: &str, error: std::io::Error| {
            failed(format!("Failed to start instance {name}: {what}: {error}"))
        };
        make_private_dir(&run_dir).map_err(|error| io("can't make its run directory", error))?;
        make_private_dir(&log_dir).map_err(|error| io("can't make its log directory", error))?;
        prepare::confine(spec, &files)
            .map_err(|error| io("can't make its root directory", error))?;
        for path in files.leftovers() {
            if hub.is_none() || path != files.console() {
                // Nothing runs, so whatever is there is stale.
                let _ = fs::remove_file(path);
            }
        }
        let mut runtime = Runtime {
            spec: spec.clone(),
            disks: disks.to_vec(),
            argv,
            run_dir,
            console_log: files.console_log.clone(),
            data_dir: files.data_dir.clone(),
            process: None,
            paused,
            memory_mib: spec.be("maxmem"),
            guest_shutdown: false,
            stopping: false,
        };
        let save = |runtime: &Runtime| {
            let saved = runtime.save(&self.home.runtime_dir);
            saved.map_err(|error| io("can't write its runtime file", error))
        };
        save(&runtime)?;
        let connected = self.home.network.up_all(spec).await;
        let begun = match connected {
            Ok(()) => self.begin(&mut runtime, &files, hub).await,
            Err(error) => Err(failed(format!("Hypervisor error: {error}"))),
        };
        let saved = begun.and_then(|guest| save(&runtime).map(|()| guest));
        let guest = match saved {
            Ok(guest) => guest,
            Err(error) => {
                abandon(&runtime, &self.home).await;
                Runtime::forget(&self.home.runtime_dir, spec.uuid.as_str());
                self.home.state.drop_instance(name);
                return Err(error);
            }
        };
        self.guests().insert(name.clone(), Arc::new(guest));
        Ok(())
    }

    /// Starts the process, connects to it and lets it run.
    async fn begin(
        &self,
        runtime: &mut Runtime,
        files: &Files,
        hub: Option<Arc<Hub>>,
    ) -> Result<Guest> {
        let spec = runtime.spec.clone();
        let name = &spec.name;
        let wrong = |why: String| failed(format!("Failed to start instance {name}: {why}"));
        let (program, args) =
            runtime.argv.split_first().expect("a command line begins with its program");
        let started = Process::new(program, START_LIMIT).args(args).cwd(Path::new("/")).run().await;
        let started = started.map_err(|error| wrong(error.to_string()))?;
        if let Some(reason) = started.failure() {
            return Err(wrong(format!("{reason} ({})", started.output().trim())));
        }
        let process = runtime.living();
        let process = process.ok_or_else(|| wrong("QEMU ended right after its start".into()))?;
        runtime.process = Some(process);
        let monitor = Qmp::connect(&files.qmp()).await.map_err(|error| wrong(error.to_string()))?;
        let hub = connect_console(&spec, files, hub, false).await;
        let hub = hub.map_err(|error| wrong(format!("its serial console: {error}")))?;
        let paused = runtime.paused;
        let qmp_failed = |error: qmp::QmpError| wrong(error.to_string());
        let limits = Limits { memory_mib: spec.be("maxmem"), vcpus: spec.be("vcpus") };
        let held = self.home.groups.hold(spec.uuid.as_str(), limits, process.pid);
        held.map_err(|error| wrong(format!("its control group: {error}")))?;
        prepare::pin(&spec, process.pid, &monitor.0).await?;
        for (protocol, password) in prepare::passwords(&spec)? {
            let arguments = json!({"protocol": protocol, "password": password});
            monitor.0.run("set_password", arguments).await.map_err(qmp_failed)?;
        }
        let memory_mib = prepare::startup_memory(&spec, host::memory().free_mib);
        if memory_mib < spec.be("maxmem") {
            let arguments = json!({"value": memory_mib << 20});
            monitor.0.run("balloon", arguments).await.map_err(qmp_failed)?;
            runtime.memory_mib = memory_mib;
        }
        if !paused {
            monitor.0.run("cont", json!({})).await.map_err(qmp_failed)?;
        }
        let home = self.home.clone();
        let found = if paused { Found::Paused } else { Found::Running };
        Guest::watch(home, runtime.clone(), process, Some(monitor), hub, found)
            .map_err(|error| wrong(error.to_string()))
    }

    /// Makes an open file of the guest longer, if the instance runs; answers whether it did.
    pub(crate) async fn grow_disk(&self, name: &str, disk: &DiskSpec, bytes: u64) -> Result<bool> {
        let Some(guest) = self.guest(name) else { return Ok(false) };
        let arguments = json!({"node-name": devices::disk_node(disk), "size": bytes});
        let resized = guest.qmp("block_resize", arguments).await;
        resized.map_err(|error| failed(error.to_string()))?;
        Ok(true)
    }

    async fn hotplug_disk(
        &self,
        guest: &Guest,
        action: Hotplug,
        disk: &DiskSpec,
        path: Option<&Path>,
        index: usize,
    ) -> Result<()> {
        let known = |runtime: &Runtime| runtime.spec.disks.iter().position(|d| d.uuid == disk.uuid);
        let runtime_dir = &self.home.runtime_dir;
        let noted = match (action, path) {
            // Ganeti: only NICs are changed in place (3.0, `hv_kvm` HotModDevice).
            (Hotplug::Modify, _) => return Ok(()),
            (Hotplug::Add, None) => {
                return Err(failed("a disk that is not up can't be plugged in"));
            }
            (Hotplug::Add, Some(path)) => {
                let steps = hotplug::add_disk(&guest.runtime().spec, disk, path)?;
                guest.change_devices(&steps).await.map_err(failed)?;
                guest.remember(runtime_dir, |runtime| {
                    if let Some(at) = known(runtime) {
                        // Plugged in before a server that was killed could tell.
                        runtime.forget_disk(at);
                    }
                    runtime.add_disk(index, disk, path);
                })
            }
            (Hotplug::Remove, _) => {
                let steps = hotplug::remove_disk(disk);
                let found = guest.change_devices(&steps).await.map_err(failed)?;
                let at = known(&guest.runtime());
                if !found && at.is_none() {
                    return Err(failed(format!(
                        "Error while executing backend function: Cannot find runtime info for disk with UUID {}",
                        disk.uuid
                    )));
                }
                guest.remember(runtime_dir, |runtime| {
                    at.into_iter().for_each(|at| runtime.forget_disk(at))
                })
            }
        };
        noted.map_err(|error| failed(format!("can't note a changed disk: {error}")))
    }

    /// The processes of all running instances, by name.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let guests = self.guests();
        let running = guests.iter().filter(|(_, guest)| guest.is_running());
        running.map(|(name, guest)| (name.clone(), guest.pid())).collect()
    }
}

#[async_trait]
impl Backend for Kvm {
    async fn start(&self, spec: &InstanceSpec, disks: &[PathBuf], paused: bool) -> Result<()> {
        if self.guest(&spec.name).is_some() {
            // Ganeti: starting what runs is no error (3.0, `backend.py` StartInstance).
            tracing::info!(instance.name = %spec.name, "instance {} already runs", spec.name);
            return Ok(());
        }
        self.trial.begin();
        self.launch(spec, disks, paused, None).await
    }

    async fn stop(&self, spec: &InstanceSpec, timeout: Duration) -> Result<()> {
        if let Some(guest) = self.guest(&spec.name) {
            // Ganeti: without ACPI the guest cannot be asked (3.0, `hv_kvm` StopInstance).
            let deaf = guest.runtime().spec.hvparams.get("acpi") == Some(&Value::Bool(false));
            let timeout = if deaf { Duration::ZERO } else { timeout };
            let stopped = guest.stop(timeout).await;
            let ending = stopped
                .map_err(|why| failed(format!("Failed to stop instance {}: {why}", spec.name)))?;
            if ending != Ending::GuestShutdown && !timeout.is_zero() {
                tracing::warn!(instance.name = %spec.name, "instance {} did not power down in time and was ended", spec.name);
            }
        }
        self.guests().remove(&spec.name);
        // One that powered itself off was still told.
        Runtime::forget(&self.home.runtime_dir, spec.uuid.as_str());
        self.home.state.drop_instance(&spec.name);
        Ok(())
    }

    async fn reboot(
        &self,
        spec: &InstanceSpec,
        disks: &[PathBuf],
        how: RebootType,
        timeout: Duration,
    ) -> Result<()> {
        let guest = self.guest(&spec.name).ok_or_else(|| {
            // Ganeti's words (3.0, `backend.py` InstanceReboot).
            failed(format!("Cannot reboot instance {} that is not running", spec.name))
        })?;
        // Ganeti: a soft reboot starts the instance as it was, the others as it is now (3.0, `hv_kvm` RebootInstance).
        let (again, disks) = match how {
            RebootType::Soft => {
                let runtime = guest.runtime();
                // A runtime file from before disks were noted has none.
                let noted = runtime.disks.len() == runtime.spec.disks.len();
                (runtime.spec, if noted { runtime.disks } else { disks.to_vec() })
            }
            RebootType::Hard | RebootType::Full => (spec.clone(), disks.to_vec()),
        };
        guest.expect_restart();
        let hub = guest.hub.clone();
        let stopped = guest.stop(timeout).await;
        stopped.map_err(|why| failed(format!("Failed to reboot instance {}: {why}", spec.name)))?;
        self.guests().remove(&spec.name);
        let launched = self.launch(&again, &disks, false, hub.clone()).await;
        if let (Err(_), Some(hub)) = (&launched, hub) {
            hub.close().await;
        }
        launched
    }

    async fn balloon(&self, spec: &InstanceSpec, memory_mib: u64) -> Result<()> {
        let guest = self.running(&spec.name)?;
        let arguments = json!({"value": memory_mib << 20});
        let ballooned = guest.qmp("balloon", arguments).await;
        ballooned.map_err(|error| failed(error.to_string()))?;
        let noted =
            guest.remember(&self.home.runtime_dir, |runtime| runtime.memory_mib = memory_mib);
        if let Err(error) = noted {
            tracing::warn!(instance.name = %spec.name, %error, "can't note an instance's memory");
        }
        self.home.state.update(|state| {
            if let Some(run) = state.instances.get_mut(&spec.name) {
                run.memory_mib = memory_mib;
            }
        });
        Ok(())
    }

    async fn can_hotplug(&self, spec: &InstanceSpec) -> Result<()> {
        // Ganeti asks the monitor for a version (3.0, `hv_kvm` HotplugSupported).
        let guest = self.guest(&spec.name);
        let asked = match &guest {
            Some(guest) => guest.qmp("query-version", json!({})).await.is_ok(),
            None => false,
        };
        let down = "Hotplug is not supported: Instance is probably down";
        asked.then_some(()).ok_or_else(|| failed(down))
    }

    async fn hotplug(
        &self,
        spec: &InstanceSpec,
        action: Hotplug,
        device: &Device,
        path: Option<&Path>,
        index: usize,
    ) -> Result<()> {
        let guest = self.running(&spec.name)?;
        hotplug::check_type(&guest.runtime().spec, device)?;
        match device {
            Device::Disk(disk) => self.hotplug_disk(&guest, action, disk, path, index).await,
            Device::Nic(nic) => {
                let plugged = nics::hotplug(&self.home, &guest, &spec.tags, action, nic, index);
                // Ganeti's words for whatever goes wrong there (3.0, `noded`).
                plugged
                    .await
                    .map_err(|why| failed(format!("Error while executing backend function: {why}")))
            }
        }
    }

    fn console(&self, spec: &InstanceSpec) -> Console {
        if spec.hv_flag("serial_console") {
            let data_dir = self.places.data_dir.to_string_lossy().into_owned();
            let program = self.places.rapid_binary.to_string_lossy().into_owned();
            let command =
                vec![program, "console".into(), "--data-dir".into(), data_dir, spec.name.clone()];
            let host = self.places.node_name.clone();
            return Console::Ssh { host, port: None, user: "root".into(), command };
        }
        // Where addresses can't be told, the name of the interface is what there is to say.
        let placed = addresses::resolved(spec).unwrap_or_else(|_| spec.clone());
        let bind = spec.hv("vnc_bind_address");
        // Bound to every address, it is reached by the node's name.
        let host = |address: IpAddr| match address.is_unspecified() {
            true => self.places.node_name.clone(),
            false => address.to_string(),
        };
        let spice = placed.hv("spice_bind").parse::<IpAddr>().ok();
        match (display::vnc_address(&placed), spice, spec.network_port) {
            (Some(address), _, Some(port)) => Console::Vnc { host: host(address), port },
            (_, Some(address), Some(port)) => Console::Spice { host: host(address), port },
            _ if !bind.is_empty() => {
                let socket = Path::new(bind).join(format!("{}.vnc", spec.name));
                Console::Message(format!("VNC server on the socket {}", socket.display()))
            }
            _ => Console::Message(format!("No serial shell for instance {}", spec.name)),
        }
    }

    async fn validate(&self, hvparams: &Dict) -> Result<()> {
        validate::validate(hvparams, find_qemu().as_deref()).await
    }

    async fn screenshot(&self, spec: &InstanceSpec) -> Result<Vec<u8>> {
        self.screenshot(spec).await
    }
}

/// Finds a QEMU again that was started by a server before this one.
async fn adopt(home: Home, runtime: Runtime) -> Result<Option<Guest>> {
    let uuid = runtime.spec.uuid.clone();
    let name = runtime.spec.name.clone();
    let files = runtime.files();
    let Some(process) = runtime.living() else {
        for path in files.leftovers() {
            // Left behind by a QEMU that crashed or by a machine that went down.
            let _ = fs::remove_file(path);
        }
        // Empty now, or there is something unknown in it.
        let _ = fs::remove_dir(files.chroot());
        let _ = fs::remove_dir(&files.run);
        home.network.down_all(&runtime.spec).await;
        home.groups.release(uuid.as_str()).await;
        if runtime.guest_shutdown && !runtime.stopping {
            let vcpus = runtime.spec.be("vcpus");
            let state = RunState::Shutdown;
            let run = InstanceRun { state, memory_mib: 0, vcpus, cpu_seconds: 0.0 };
            home.state.put_instance(name, run);
        } else {
            Runtime::forget(&home.runtime_dir, uuid.as_str());
        }
        return Ok(None);
    };
    let mut runtime = runtime;
    let news = runtime.process.replace(process) != Some(process);
    let mut monitor = Qmp::connect(&files.qmp()).await;
    if monitor.is_err() {
        monitor = Qmp::connect(&files.qmp_debug()).await;
    }
    let status = match &monitor {
        Ok((qmp, _)) => qmp.run("query-status", json!({})).await.unwrap_or_default(),
        Err(error) => {
            tracing::error!(instance.name = %name, %error, "QEMU's monitor does not answer; the instance can only be killed");
            Value::Null
        }
    };
    let status = status.get("status").and_then(Value::as_str).unwrap_or("running");
    if status == "prelaunch" && !runtime.paused {
        // Its start was cut off: whoever asked for it has been told that it failed.
        abandon(&runtime, &home).await;
        Runtime::forget(&home.runtime_dir, uuid.as_str());
        return Ok(None);
    }
    let cards = runtime.spec.nics.len();
    if let Ok((qmp, _)) = &monitor {
        nics::settle(&home.network, &mut runtime, qmp).await;
    }
    let news = news || runtime.spec.nics.len() != cards;
    let hub = match connect_console(&runtime.spec, &files, None, true).await {
        Ok(hub) => hub,
        Err(error) => {
            tracing::warn!(instance.name = %name, %error, "can't take a serial console over");
            None
        }
    };
    let found = match status {
        "shutdown" => Found::Halted,
        "paused" | "prelaunch" => Found::Paused,
        _ => Found::Running,
    };
    if news && let Err(error) = runtime.save(&home.runtime_dir) {
        tracing::warn!(instance.name = %name, %error, "can't write a runtime file");
    }
    let guest = Guest::watch(home, runtime, process, monitor.ok(), hub, found);
    let guest = guest.map_err(|error| failed(error.to_string()))?;
    if found == Found::Halted {
        // Until it is gone, and it is told what it was, nobody is to read anything else.
        guest.wait_ended(START_LIMIT).await;
        return Ok(None);
    }
    Ok(Some(guest))
}

/// Kills a QEMU that nobody will know, and what it left.
async fn abandon(runtime: &Runtime, home: &Home) {
    let pid = runtime.living().and_then(|ProcessId { pid, .. }| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may just have gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let files = runtime.files();
    for path in files.leftovers() {
        // Whatever was made.
        let _ = fs::remove_file(path);
    }
    // Empty now; if not, something unknown is in it and stays.
    let _ = fs::remove_dir(files.chroot());
    let _ = fs::remove_dir(&files.run);
    home.network.down_all(&runtime.spec).await;
    home.groups.release(runtime.spec.uuid.as_str()).await;
}

/// Connects the serial console to its owner; makes one when there is none yet.
async fn connect_console(
    spec: &InstanceSpec,
    files: &Files,
    hub: Option<Arc<Hub>>,
    resume: bool,
) -> std::io::Result<Option<Arc<Hub>>> {
    if !spec.hv_flag("serial_console") {
        return Ok(None);
    }
    let serial = UnixStream::connect(files.serial()).await?;
    let hub = match hub {
        Some(hub) => hub,
        None => Arc::new(Hub::open(&files.console(), &files.console_log, resume)?),
    };
    hub.attach(serial).await;
    Ok(Some(hub))
}

/// The name of the control groups and network devices of all instances of a server: the same for the same data directory.
fn family(data_dir: &Path) -> String {
    format!("rapid-{:016x}", places::fnv1a(data_dir.as_os_str().as_encoded_bytes()))
}

/// QEMU's version, as it says itself.
pub(crate) async fn version() -> String {
    let Some(program) = find_qemu() else { return String::new() };
    let said = Process::new(program, Duration::from_secs(10)).args(["--version"]).run().await;
    let text = said.map(|said| said.stdout_text()).unwrap_or_default();
    let mut words = text.split_whitespace().skip_while(|word| *word != "version");
    words.nth(1).unwrap_or("").to_owned()
}

/// Fills in how much processor time each instance took, and what memory all have.
pub(crate) fn sample(processes: &[(String, u32)], state: &StateCell) -> u64 {
    let facts: Vec<_> = processes
        .iter()
        .filter_map(|(name, pid)| Some((name, host::process_facts(*pid)?)))
        .collect();
    let resident = facts.iter().map(|(_, facts)| facts.resident_mib).sum();
    state.update(|state| {
        for (name, facts) in &facts {
            if let Some(run) = state.instances.get_mut(*name) {
                run.cpu_seconds = facts.cpu_seconds;
            }
        }
    });
    resident
}
