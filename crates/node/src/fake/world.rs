//! What all simulated nodes of a cluster share: who there is, what runs where, which disks exist.
//!
//! The world outlives the daemon as real nodes do. Each change is a line appended to a log in the world's directory, written
//! without waiting for the disk: the page cache survives the death of the process, which is what is simulated here. When the
//! world is opened the log is played back and written anew, without what has cancelled out since.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use imbl::OrdMap;
use model::param::{DiskTemplate, StorageType};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{FakeNode, Fault};
use crate::spec::DiskSpec;
use crate::state::{InstanceRun, NodeState, RunState, StorageUnit};

/// The log's name in the world's directory.
const LOG: &str = "world.log";

/// How large a simulated node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeSizes {
    pub memory_mib: u64,
    /// What the host itself uses.
    pub memory_host_mib: u64,
    pub cpus: u64,
    pub cpu_sockets: u64,
    /// NUMA nodes.
    pub cpu_nodes: u64,
    /// CPUs that the host itself uses.
    pub cpu_host: u64,
    pub disk_mib: u64,
}

impl Default for FakeSizes {
    fn default() -> Self {
        Self {
            memory_mib: 128 * 1024,
            memory_host_mib: 1024,
            cpus: 32,
            cpu_sockets: 2,
            cpu_nodes: 2,
            cpu_host: 1,
            disk_mib: 4 * 1024 * 1024,
        }
    }
}

/// How the simulated nodes of a cluster are set up.
#[derive(Clone, Debug, PartialEq)]
pub struct WorldSetup {
    pub sizes: FakeSizes,
    /// The storage units that nodes report, the default one first.
    pub storage: Vec<(StorageType, String)>,
    /// Where operating system definitions are looked for.
    pub os_search_path: Vec<PathBuf>,
    /// Where providers of external storage are looked for.
    pub ext_search_path: Vec<PathBuf>,
    /// Where external instance allocators are looked for.
    pub iallocator_search_path: Vec<PathBuf>,
    /// Where the directories of hooks are; none means that there are no hooks.
    pub hooks_dir: Option<PathBuf>,
    /// How fast mirrors sync; none means at once.
    pub sync_mib_per_second: Option<u64>,
}

impl Default for WorldSetup {
    fn default() -> Self {
        Self {
            sizes: FakeSizes::default(),
            storage: vec![(StorageType::LvmVg, "xenvg".into())],
            os_search_path: Vec::new(),
            ext_search_path: Vec::new(),
            iallocator_search_path: Vec::new(),
            hooks_dir: None,
            sync_mib_per_second: None,
        }
    }
}

/// All simulated nodes of a cluster, and what they share.
#[derive(Debug)]
pub struct World {
    dir: PathBuf,
    /// Holds the directory of a world that nobody wants to keep.
    _temporary: Option<tempfile::TempDir>,
    setup: RwLock<Arc<WorldSetup>>,
    truth: Mutex<Truth>,
}

/// A disk, or a part of one, that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) size_mib: u64,
}

/// One side of a mirror.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Side {
    pub(super) data: SideData,
    pub(super) connected: bool,
}

/// Whether one side of a mirror has the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SideData {
    Synced,
    SyncingSince(Instant),
    Stale,
    /// There is no storage below it.
    Detached,
}

/// Everything that is true of the world at a moment.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) nodes: BTreeMap<String, Body>,
    /// Disks on storage that all nodes reach.
    pub(super) shared: BTreeMap<String, Volume>,
    /// Mirrors by the disk's UUID, then the node's name.
    pub(super) mirrors: BTreeMap<String, BTreeMap<String, Side>>,
    log: File,
}

/// What is true of one node.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) cell: Arc<NodeCell>,
    state: NodeState,
    /// Disks on the node's own storage.
    pub(super) volumes: BTreeMap<String, Volume>,
    /// Disks that are up on the node, own and shared ones.
    pub(super) up: BTreeMap<String, ()>,
    /// Instances that the node has accepted to receive.
    pub(super) accepted: BTreeMap<String, ()>,
    pub(super) faults: Vec<Fault>,
    pub(super) delay: Duration,
    pub(super) unreachable: bool,
    /// Physical volumes that take no more data.
    pub(super) unallocatable: BTreeMap<String, ()>,
}

/// What others see of a node.
#[derive(Debug)]
pub(super) struct NodeCell {
    pub(super) state: RwLock<Arc<NodeState>>,
    pub(super) changes: watch::Sender<u64>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    Boot {
        node: String,
        boot_id: String,
    },
    Run {
        node: String,
        instance: String,
        memory_mib: u64,
        vcpus: u64,
        paused: bool,
        /// Its guest ended it.
        #[serde(default)]
        ended: bool,
    },
    Stop {
        node: String,
        instance: String,
    },
    /// A disk is there with this size; without a node it is on storage that all reach.
    Volume {
        node: Option<String>,
        key: String,
        size_mib: u64,
    },
    NoVolume {
        node: Option<String>,
        key: String,
    },
    Up {
        node: String,
        key: String,
    },
    Down {
        node: String,
        key: String,
    },
    Leave {
        node: String,
    },
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Opens the world that is kept in a directory; a new one when there is none yet.
    pub fn open(dir: &Path, setup: WorldSetup) -> io::Result<Arc<Self>> {
        Self::open_in(dir.to_owned(), None, setup)
    }

    /// A world that ends with the process.
    pub fn temporary(setup: WorldSetup) -> io::Result<Arc<Self>> {
        let dir = tempfile::tempdir()?;
        Self::open_in(dir.path().to_owned(), Some(dir), setup)
    }

    fn open_in(
        dir: PathBuf,
        temporary: Option<tempfile::TempDir>,
        setup: WorldSetup,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&dir)?;
        let events = read_log(&dir.join(LOG))?;
        let new_log = dir.join("world.log.new");
        let mut truth = Truth {
            nodes: BTreeMap::new(),
            shared: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            log: File::create(&new_log)?,
        };
        for event in events {
            truth.replay(&event, &setup);
        }
        let mut text = Vec::new();
        for event in truth.history() {
            serde_json::to_writer(&mut text, &event)?;
            text.push(b'\n');
        }
        truth.log.write_all(&text)?;
        fs::rename(&new_log, dir.join(LOG))?;
        truth.log = OpenOptions::new().append(true).open(dir.join(LOG))?;
        for body in truth.nodes.values_mut() {
            body.publish();
        }
        let setup = RwLock::new(Arc::new(setup));
        Ok(Arc::new(Self { dir, _temporary: temporary, setup, truth: Mutex::new(truth) }))
    }

    /// The node of that name, made when there is none.
    pub fn node(self: &Arc<Self>, name: &str) -> Arc<FakeNode> {
        self.sized_node(name, None)
    }

    /// The node of that name with sizes of its own.
    pub fn node_with(self: &Arc<Self>, name: &str, sizes: FakeSizes) -> Arc<FakeNode> {
        self.sized_node(name, Some(sizes))
    }

    fn sized_node(self: &Arc<Self>, name: &str, sizes: Option<FakeSizes>) -> Arc<FakeNode> {
        let setup = self.setup();
        let mut truth = locked(&self.truth);
        if !truth.nodes.contains_key(name) {
            let body = Body::new(&setup, new_boot_id());
            let boot_id = body.state.boot_id.clone();
            truth.nodes.insert(name.to_owned(), body);
            truth.note(&Event::Boot { node: name.to_owned(), boot_id });
        }
        let body = truth.nodes.get_mut(name).expect("it was put there just now");
        if let Some(sizes) = sizes {
            body.resize(&setup, sizes);
        }
        body.publish();
        Arc::new(FakeNode::new(name, Arc::clone(self), Arc::clone(&body.cell)))
    }

    /// The names of the nodes that there are.
    pub fn node_names(&self) -> Vec<String> {
        locked(&self.truth).nodes.keys().cloned().collect()
    }

    /// Forgets a node with everything on it.
    pub fn remove_node(&self, name: &str) {
        let mut truth = locked(&self.truth);
        if truth.nodes.remove(name).is_some() {
            truth.note(&Event::Leave { node: name.to_owned() });
        }
    }

    /// How nodes are set up now.
    pub fn setup(&self) -> Arc<WorldSetup> {
        Arc::clone(&self.setup.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets nodes up otherwise: other directories, another volume group. Sizes of nodes that exist stay.
    pub fn configure(&self, setup: WorldSetup) {
        let mut truth = locked(&self.truth);
        for body in truth.nodes.values_mut() {
            let total = body.state.storage.first().map_or(setup.sizes.disk_mib, |u| u.total_mib);
            body.state.storage = units(&setup, total);
            body.account();
            body.publish();
        }
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
    }

    /// Puts a logical volume on a node that no instance owns, to be adopted.
    pub fn add_volume(&self, node: &str, group: &str, name: &str, size_mib: u64) {
        let mut truth = locked(&self.truth);
        truth.put_volume(Some(node), &format!("plain:{group}/{name}"), size_mib);
    }

    /// Where a node keeps the exports that it received.
    pub(super) fn exports_dir(&self, node: &str) -> PathBuf {
        self.dir.join("exports").join(node)
    }

    /// Where a node keeps its keys for transfers.
    pub(super) fn crypto_dir(&self, node: &str) -> PathBuf {
        self.dir.join("crypto").join(node)
    }

    /// Where the output of operating systems' scripts is kept.
    pub(super) fn os_log_dir(&self) -> PathBuf {
        self.dir.join("log").join("os")
    }

    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        locked(&self.truth)
    }
}

/// Reads the log up to the first line that is not whole: what a crash of the machine left behind it cannot be told.
fn read_log(path: &Path) -> io::Result<Vec<Event>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut events = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        match serde_json::from_slice(&line?) {
            Ok(event) => events.push(event),
            Err(error) => {
                tracing::warn!(%error, "the simulated nodes' log ends with a broken line");
                break;
            }
        }
    }
    Ok(events)
}

fn new_boot_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// What a disk is called on its storage. A mirror has its own identity; what it lies on has names.
pub(super) fn volume_key(disk: &DiskSpec) -> String {
    let part = |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
    let kind = disk.dev_type.as_str();
    match disk.dev_type {
        DiskTemplate::Drbd | DiskTemplate::Diskless => format!("{kind}:{}", disk.uuid),
        DiskTemplate::Plain | DiskTemplate::Rbd | DiskTemplate::Ext => {
            format!("{kind}:{}/{}", part(0), part(1))
        }
        DiskTemplate::File
        | DiskTemplate::Sharedfile
        | DiskTemplate::Gluster
        | DiskTemplate::Blockdev => format!("{kind}:{}", part(1)),
    }
}

/// Whether all nodes reach the storage of such disks.
pub(super) fn is_shared(template: DiskTemplate) -> bool {
    match template {
        DiskTemplate::Sharedfile
        | DiskTemplate::Gluster
        | DiskTemplate::Rbd
        | DiskTemplate::Ext
        | DiskTemplate::Blockdev => true,
        DiskTemplate::Plain | DiskTemplate::Drbd | DiskTemplate::File | DiskTemplate::Diskless => {
            false
        }
    }
}

/// The device or file of a disk that is up on a node.
pub(super) fn device_path(disk: &DiskSpec, node: &str) -> Option<String> {
    let part = |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
    match disk.dev_type {
        DiskTemplate::Diskless => None,
        DiskTemplate::Drbd => Some(format!("/dev/drbd{}", drbd_minor(disk, node))),
        DiskTemplate::Plain | DiskTemplate::Ext => Some(format!("/dev/{}/{}", part(0), part(1))),
        DiskTemplate::Rbd => Some(format!("/dev/rbd/{}", part(1))),
        DiskTemplate::File
        | DiskTemplate::Sharedfile
        | DiskTemplate::Gluster
        | DiskTemplate::Blockdev => Some(part(1).to_owned()),
    }
}

/// The minor of a mirror on a node, from its logical id `[node, node, port, minor, minor, secret]`.
pub(super) fn drbd_minor(disk: &DiskSpec, node: &str) -> u32 {
    let first = disk.logical_id.first().and_then(Value::as_str) == Some(node);
    let minor = disk.logical_id.get(if first { 3 } else { 4 }).and_then(Value::as_u64);
    minor.and_then(|minor| u32::try_from(minor).ok()).unwrap_or(0)
}

fn units(setup: &WorldSetup, total_mib: u64) -> Vec<StorageUnit> {
    let unit = |(kind, key): &(StorageType, String)| StorageUnit {
        kind: *kind,
        key: key.clone(),
        total_mib,
        free_mib: total_mib,
    };
    setup.storage.iter().map(unit).collect()
}

impl Body {
    fn new(setup: &WorldSetup, boot_id: String) -> Self {
        let state = NodeState {
            version: 0,
            reachable: true,
            boot_id,
            memory_total_mib: 0,
            memory_host_mib: 0,
            memory_free_mib: 0,
            cpu_total: 0,
            cpu_sockets: 0,
            cpu_nodes: 0,
            cpu_host: 0,
            storage: Vec::new(),
            instances: OrdMap::new(),
            hypervisor_version: "fake".into(),
        };
        let cell = NodeCell {
            state: RwLock::new(Arc::new(state.clone())),
            changes: watch::Sender::new(0),
        };
        let mut body = Self {
            cell: Arc::new(cell),
            state,
            volumes: BTreeMap::new(),
            up: BTreeMap::new(),
            accepted: BTreeMap::new(),
            faults: Vec::new(),
            delay: Duration::ZERO,
            unreachable: false,
            unallocatable: BTreeMap::new(),
        };
        body.resize(setup, setup.sizes);
        body
    }

    fn resize(&mut self, setup: &WorldSetup, sizes: FakeSizes) {
        self.state.memory_total_mib = sizes.memory_mib;
        self.state.memory_host_mib = sizes.memory_host_mib;
        self.state.cpu_total = sizes.cpus;
        self.state.cpu_sockets = sizes.cpu_sockets;
        self.state.cpu_nodes = sizes.cpu_nodes;
        self.state.cpu_host = sizes.cpu_host;
        self.state.storage = units(setup, sizes.disk_mib);
        self.account();
    }

    pub(super) fn state(&self) -> &NodeState {
        &self.state
    }

    pub(super) fn set_hypervisor_version(&mut self, version: &str) {
        version.clone_into(&mut self.state.hypervisor_version);
        self.publish();
    }

    /// Computes anew what is free. Storage that all nodes share is not counted against one of them.
    fn account(&mut self) {
        let used: u64 = self.state.instances.values().map(|run| run.memory_mib).sum();
        let taken = self.state.memory_host_mib + used;
        self.state.memory_free_mib = self.state.memory_total_mib.saturating_sub(taken);
        for unit in &mut self.state.storage {
            let prefix = match unit.kind {
                StorageType::LvmVg | StorageType::LvmPv => format!("plain:{}/", unit.key),
                StorageType::File => "file:".to_owned(),
                StorageType::Blockdev
                | StorageType::Diskless
                | StorageType::Ext
                | StorageType::Gluster
                | StorageType::Rados
                | StorageType::Sharedfile => continue,
            };
            let volumes = self.volumes.range(prefix.clone()..);
            let own = volumes.take_while(|(key, _)| key.starts_with(&prefix));
            let used: u64 = own.map(|(_, volume)| volume.size_mib).sum();
            unit.free_mib = unit.total_mib.saturating_sub(used);
        }
    }

    /// Shows others what is true now.
    pub(super) fn publish(&mut self) {
        self.state.version += 1;
        self.state.reachable = !self.unreachable;
        let state = Arc::new(self.state.clone());
        *self.cell.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.cell.changes.send_replace(self.state.version);
    }

    /// Free space in a volume group.
    pub(super) fn free_in_group(&self, group: &str) -> Option<u64> {
        let unit = |unit: &&StorageUnit| unit.kind == StorageType::LvmVg && unit.key == group;
        self.state.storage.iter().find(unit).map(|unit| unit.free_mib)
    }
}

impl Truth {
    /// Appends to the log. A simulation goes on without it, and says so.
    fn note(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        if let Err(error) = self.log.write_all(&line) {
            tracing::error!(%error, "cannot write the simulated nodes' log");
        }
    }

    /// Carries out an event of the log, without noting it again.
    fn replay(&mut self, event: &Event, setup: &WorldSetup) {
        let name = match event {
            Event::Boot { node, .. }
            | Event::Run { node, .. }
            | Event::Stop { node, .. }
            | Event::Up { node, .. }
            | Event::Down { node, .. }
            | Event::Leave { node } => Some(node.clone()),
            Event::Volume { node, .. } | Event::NoVolume { node, .. } => node.clone(),
        };
        if let Some(name) = name {
            let fresh = || Body::new(setup, new_boot_id());
            self.nodes.entry(name).or_insert_with(fresh);
        }
        if let Event::Boot { node, boot_id } = event
            && let Some(body) = self.nodes.get_mut(node)
        {
            body.state.boot_id.clone_from(boot_id);
        }
        self.apply(event);
    }

    /// The events that lead to what is true now.
    fn history(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (key, volume) in &self.shared {
            let size_mib = volume.size_mib;
            events.push(Event::Volume { node: None, key: key.clone(), size_mib });
        }
        for (name, body) in &self.nodes {
            let node = name.clone();
            events.push(Event::Boot { node, boot_id: body.state.boot_id.clone() });
            for (key, volume) in &body.volumes {
                let (node, size_mib) = (Some(name.clone()), volume.size_mib);
                events.push(Event::Volume { node, key: key.clone(), size_mib });
            }
            for key in body.up.keys() {
                events.push(Event::Up { node: name.clone(), key: key.clone() });
            }
            for (instance, run) in &body.state.instances {
                events.push(run_event(name, instance, run));
            }
        }
        events
    }

    /// Carries out an event.
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Boot { .. } => {}
            Event::Leave { node } => {
                self.nodes.remove(node);
            }
            Event::Run { node, instance, memory_mib, vcpus, paused, ended } => {
                let Some(body) = self.nodes.get_mut(node) else { return };
                let run = InstanceRun {
                    state: match (paused, ended) {
                        (_, true) => RunState::Shutdown,
                        (true, false) => RunState::Paused,
                        (false, false) => RunState::Running,
                    },
                    memory_mib: *memory_mib,
                    vcpus: *vcpus,
                    cpu_seconds: 0.0,
                };
                body.state.instances.insert(instance.clone(), run);
                body.account();
            }
            Event::Stop { node, instance } => {
                let Some(body) = self.nodes.get_mut(node) else { return };
                body.state.instances.remove(instance);
                body.account();
            }
            Event::Volume { node, key, size_mib } => {
                let volume = Volume { size_mib: *size_mib };
                match node.as_ref().map(|node| self.nodes.get_mut(node)) {
                    None => {
                        self.shared.insert(key.clone(), volume);
                    }
                    Some(Some(body)) => {
                        body.volumes.insert(key.clone(), volume);
                        body.account();
                    }
                    Some(None) => {}
                }
            }
            Event::NoVolume { node, key } => match node.as_ref().map(|n| self.nodes.get_mut(n)) {
                None => {
                    self.shared.remove(key);
                }
                Some(Some(body)) => {
                    body.volumes.remove(key);
                    body.account();
                }
                Some(None) => {}
            },
            Event::Up { node, key } => {
                if let Some(body) = self.nodes.get_mut(node) {
                    body.up.insert(key.clone(), ());
                }
            }
            Event::Down { node, key } => {
                if let Some(body) = self.nodes.get_mut(node) {
                    body.up.remove(key);
                }
            }
        }
    }

    /// Carries out an event, notes it, and shows the node's new state where that changed.
    fn happen(&mut self, event: &Event) {
        self.apply(event);
        self.note(event);
        let node = match event {
            Event::Boot { node, .. } | Event::Run { node, .. } | Event::Stop { node, .. } => node,
            Event::Volume { node: Some(node), .. } | Event::NoVolume { node: Some(node), .. } => {
                node
            }
            Event::Volume { node: None, .. }
            | Event::NoVolume { node: None, .. }
            | Event::Up { .. }
            | Event::Down { .. }
            | Event::Leave { .. } => return,
        };
        if let Some(body) = self.nodes.get_mut(node) {
            body.publish();
        }
    }

    pub(super) fn volume(&self, node: &str, disk: &DiskSpec) -> Option<Volume> {
        if disk.dev_type == DiskTemplate::Blockdev {
            return Some(Volume { size_mib: disk.size_mib });
        }
        let key = volume_key(disk);
        if is_shared(disk.dev_type) {
            return self.shared.get(&key).copied();
        }
        self.nodes.get(node)?.volumes.get(&key).copied()
    }

    pub(super) fn put_volume(&mut self, node: Option<&str>, key: &str, size_mib: u64) {
        let node = node.map(str::to_owned);
        self.happen(&Event::Volume { node, key: key.to_owned(), size_mib });
    }

    pub(super) fn drop_volume(&mut self, node: Option<&str>, key: &str) {
        let node = node.map(str::to_owned);
        self.happen(&Event::NoVolume { node, key: key.to_owned() });
    }

    /// Notes that a disk is up, or not, on a node.
    pub(super) fn set_up(&mut self, node: &str, key: &str, up: bool) {
        let is_up = self.nodes.get(node).is_some_and(|body| body.up.contains_key(key));
        if is_up != up {
            let (node, key) = (node.to_owned(), key.to_owned());
            let event = if up { Event::Up { node, key } } else { Event::Down { node, key } };
            self.happen(&event);
        }
    }

    pub(super) fn run(&mut self, node: &str, instance: &str, run: &InstanceRun) {
        self.happen(&run_event(node, instance, run));
    }

    pub(super) fn stop(&mut self, node: &str, instance: &str) {
        let runs = |body: &Body| body.state.instances.contains_key(instance);
        if self.nodes.get(node).is_some_and(runs) {
            let (node, instance) = (node.to_owned(), instance.to_owned());
            self.happen(&Event::Stop { node, instance });
        }
    }

    /// Takes everything on a node down, as a reboot does.
    pub(super) fn reboot(&mut self, node: &str) {
        let Some(body) = self.nodes.get_mut(node) else { return };
        let boot_id = new_boot_id();
        body.state.boot_id.clone_from(&boot_id);
        let runs: Vec<String> = body.state.instances.keys().cloned().collect();
        let up: Vec<String> = body.up.keys().cloned().collect();
        for instance in runs {
            self.stop(node, &instance);
        }
        for key in up {
            self.set_up(node, &key, false);
        }
        self.happen(&Event::Boot { node: node.to_owned(), boot_id });
    }

    /// Brings the sides of a mirror forward to `now`: sides that are up and connected sync from one that has the data.
    pub(super) fn sync(&mut self, disk: &DiskSpec, now: Instant, speed: Option<u64>) {
        let key = volume_key(disk);
        let Some(sides) = self.mirrors.get_mut(disk.uuid.as_str()) else { return };
        let nodes = &self.nodes;
        let reached = |name: &str, side: &Side| {
            side.connected && nodes.get(name).is_some_and(|body| body.up.contains_key(&key))
        };
        let has_source =
            sides.iter().any(|(name, s)| s.data == SideData::Synced && reached(name, s));
        for (name, side) in sides.iter_mut() {
            if side.data == SideData::Stale && has_source && reached(name, side) {
                side.data = SideData::SyncingSince(now);
            }
            if let SideData::SyncingSince(since) = side.data
                && sync_percent(disk, since, now, speed) >= 100.0
            {
                side.data = SideData::Synced;
            }
        }
    }
}

/// How far a sync is, in percent.
pub(super) fn sync_percent(
    disk: &DiskSpec,
    since: Instant,
    now: Instant,
    speed: Option<u64>,
) -> f64 {
    let Some(speed) = speed else { return 100.0 };
    if disk.size_mib == 0 {
        return 100.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes of disks fit 53 bits")]
    let (speed, size) = (speed as f64, disk.size_mib as f64);
    (now.duration_since(since).as_secs_f64() * speed / size * 100.0).min(100.0)
}

fn run_event(node: &str, instance: &str, run: &InstanceRun) -> Event {
    Event::Run {
        node: node.to_owned(),
        instance: instance.to_owned(),
        memory_mib: run.memory_mib,
        vcpus: run.vcpus,
        paused: run.state == RunState::Paused,
        ended: run.state == RunState::Shutdown,
    }
}
