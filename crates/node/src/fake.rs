//! A node that behaves like one without being one: it has memory, disks and hypervisors, mirrors sync, and things go wrong
//! when they are ordered to ([`FakeNode::inject`]). What it plays is in the [`World`] that it shares with the other nodes of
//! its cluster; scripts (operating system definitions, hooks, allocators) are really run.
//!
//! It plays every hypervisor and disk template alike. It is stricter than it needs to be where that finds mistakes: an
//! instance starts only on disks that are up on the node, and a migration goes only to a node that has accepted it.

#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::param::{Dict, DiskTemplate, Hypervisor, RebootType, StorageType};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::crypto::Crypto;
use crate::exports::Exports;
use crate::os::{self, Definition, scripts::Scripts, split_name};
use crate::storage::providers;
use crate::transfer::{self, Receiving};
use crate::{
    Awaited, Console, Device, DiskSpec, DiskStatus, ExtProviderInfo, Feedback, HookPhase,
    HookResult, Hotplug, InstanceRun, InstanceSpec, Node, NodeError, NodeState, OsInfo, OsParams,
    Result, RunState, Sending, StorageRow,
};
use crate::{hooks, iallocator};
use world::{NodeCell, Side, SideData, device_path, drbd_minor, is_shared, volume_key};

pub use world::{FakeSizes, World, WorldSetup};

/// The first port of VNC displays.
const VNC_BASE_PORT: u16 = 5900;

/// The storage types that nodes report on.
const REPORTED: &[StorageType] = &[
    StorageType::File,
    StorageType::Gluster,
    StorageType::LvmPv,
    StorageType::LvmVg,
    StorageType::Sharedfile,
];

/// What a node can be asked to do, as faults name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Ping,
    CreateDisk,
    RemoveDisk,
    AssembleDisk,
    ShutdownDisk,
    GrowDisk,
    WipeDisk,
    CopyDisk,
    RenameDisk,
    DiskStatus,
    DiskSize,
    ConnectDisk,
    DisconnectDisk,
    DetachStorage,
    AttachStorage,
    StartInstance,
    StopInstance,
    RebootInstance,
    BalloonInstance,
    AcceptInstance,
    MigrateInstance,
    FinalizeMigration,
    Hotplug,
    CanHotplug,
    ValidateHvparams,
    ListOs,
    ValidateOs,
    CreateOs,
    RenameOs,
    ExportDisk,
    FinalizeExport,
    ListExports,
    ExportInfo,
    RemoveExport,
    ImportDisk,
    SnapshotDisks,
    RemoveSnapshot,
    CreateCertificate,
    RemoveCertificate,
    SendDisk,
    ReceiveDisk,
    StorageList,
    StorageModify,
    StorageRepair,
    ExtProviders,
    RunHooks,
    Powercycle,
    RunIallocator,
}

/// Something that goes wrong on order.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub verb: Verb,
    /// Only for this instance.
    pub instance: Option<String>,
    /// How many times it happens.
    pub times: u32,
    pub error: NodeError,
}

/// A simulated node.
#[derive(Debug)]
pub struct FakeNode {
    name: String,
    world: Arc<World>,
    cell: Arc<NodeCell>,
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

impl FakeNode {
    fn new(name: &str, world: Arc<World>, cell: Arc<NodeCell>) -> Self {
        Self { name: name.to_owned(), world, cell }
    }

    /// The world that the node is part of.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Makes something go wrong the next times it is asked for.
    pub fn inject(&self, fault: Fault) {
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            body.faults.push(fault);
        }
    }

    /// Makes every answer take this long.
    pub fn delay(&self, delay: Duration) {
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            body.delay = delay;
        }
    }

    /// Cuts the node off, or connects it again. What runs on it runs on.
    pub fn unreachable(&self, unreachable: bool) {
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            body.unreachable = unreachable;
            body.publish();
        }
    }

    /// Makes the node report another version of its hypervisor.
    pub fn set_hypervisor_version(&self, version: &str) {
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            body.set_hypervisor_version(version);
        }
    }

    /// Ends an instance as if it had crashed.
    pub fn crash_instance(&self, instance: &str) {
        self.world.truth().stop(&self.name, instance);
    }

    /// Ends an instance as if its guest had shut itself down: it is still known, as ended.
    pub fn end_instance(&self, instance: &str) {
        let mut truth = self.world.truth();
        let Some(body) = truth.nodes.get(&self.name) else { return };
        if let Some(run) = body.state().instances.get(instance).cloned() {
            truth.run(&self.name, instance, &InstanceRun { state: RunState::Shutdown, ..run });
        }
    }

    /// What comes before anything the node does: is it there, how slow is it, is it to fail.
    async fn enter(&self, verb: Verb, instance: Option<&str>) -> Result<()> {
        let (delay, verdict) = {
            let mut truth = self.world.truth();
            let Some(body) = truth.nodes.get_mut(&self.name) else {
                return Err(self.no_answer());
            };
            let hit = |fault: &Fault| {
                fault.verb == verb && fault.instance.as_deref().is_none_or(|i| Some(i) == instance)
            };
            let verdict = if body.unreachable {
                Err(self.no_answer())
            } else if let Some(at) = body.faults.iter().position(hit) {
                let fault = &mut body.faults[at];
                let error = fault.error.clone();
                fault.times = fault.times.saturating_sub(1);
                if fault.times == 0 {
                    body.faults.remove(at);
                }
                Err(error)
            } else {
                Ok(())
            };
            (body.delay, verdict)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        verdict
    }

    fn no_answer(&self) -> NodeError {
        let name = &self.name;
        NodeError::Unreachable(format!(
            "Connection failed (7: Failed to connect to {name} port 1811: No route to host)"
        ))
    }

    /// Where a disk's storage is: on this node, or with everybody.
    fn place(&self, disk: &DiskSpec) -> Option<&str> {
        (!is_shared(disk.dev_type)).then_some(self.name.as_str())
    }

    fn create(&self, disk: &DiskSpec) -> Result<()> {
        for child in &disk.children {
            if self.world.truth().volume(&self.name, child).is_none() {
                self.create(child)?;
            }
        }
        let mut truth = self.world.truth();
        let key = volume_key(disk);
        let path = device_path(disk, &self.name).unwrap_or_default();
        match disk.dev_type {
            DiskTemplate::Diskless => return Ok(()),
            DiskTemplate::Blockdev => {
                let is_device = path.starts_with("/dev/");
                let text = || failed(format!("Can't find device {path}"));
                return is_device.then_some(()).ok_or_else(text);
            }
            DiskTemplate::Drbd => {
                let sides = truth.mirrors.entry(disk.uuid.to_string()).or_default();
                let side = Side { data: SideData::Stale, connected: true };
                sides.insert(self.name.clone(), side);
            }
            DiskTemplate::Plain => {
                let group = disk.logical_id.first().and_then(Value::as_str).unwrap_or_default();
                let body = truth.nodes.get(&self.name).ok_or_else(|| self.no_answer())?;
                let size = disk.size_mib;
                match body.free_in_group(group) {
                    None => {
                        return Err(failed(format!(
                            "Can't create block device: Can't compute PV info for vg {group}"
                        )));
                    }
                    Some(free) if free < size => {
                        return Err(failed(format!(
                            "Can't create block device: Not enough free space: required {size}, \
                             available {free}"
                        )));
                    }
                    Some(_) => {}
                }
            }
            DiskTemplate::File
            | DiskTemplate::Sharedfile
            | DiskTemplate::Gluster
            | DiskTemplate::Rbd
            | DiskTemplate::Ext => {}
        }
        if truth.volume(&self.name, disk).is_some() && disk.dev_type != DiskTemplate::Drbd {
            let why = match disk.dev_type {
                DiskTemplate::Plain => "File exists".to_owned(),
                _ => format!("can't create: [Errno 17] File exists: '{path}'"),
            };
            return Err(failed(format!("Can't create block device: {path}: {why}")));
        }
        truth.put_volume(self.place(disk), &key, disk.size_mib);
        Ok(())
    }

    fn remove(&self, disk: &DiskSpec) {
        {
            let mut truth = self.world.truth();
            let key = volume_key(disk);
            truth.set_up(&self.name, &key, false);
            if truth.volume(&self.name, disk).is_some() {
                truth.drop_volume(self.place(disk), &key);
            }
            if let Some(sides) = truth.mirrors.get_mut(disk.uuid.as_str()) {
                sides.remove(&self.name);
                if sides.is_empty() {
                    truth.mirrors.remove(disk.uuid.as_str());
                }
            }
        }
        for child in &disk.children {
            self.remove(child);
        }
    }

    fn assemble(&self, disk: &DiskSpec, primary: bool) -> Result<()> {
        for child in &disk.children {
            self.assemble(child, primary)?;
        }
        let mut truth = self.world.truth();
        let key = volume_key(disk);
        let path = device_path(disk, &self.name).unwrap_or_default();
        // A mirror's own state is on the volumes below it.
        let exists = match disk.dev_type {
            DiskTemplate::Drbd => {
                !disk.children.is_empty() || truth.volume(&self.name, disk).is_some()
            }
            DiskTemplate::Diskless => true,
            _ => truth.volume(&self.name, disk).is_some(),
        };
        if !exists {
            let why = match disk.dev_type {
                DiskTemplate::Plain => {
                    format!("Can't activate lv {path}: Failed to find logical volume")
                }
                _ => format!("{path}: No such file"),
            };
            return Err(failed(format!("Error while assembling disk: {why}")));
        }
        truth.set_up(&self.name, &key, true);
        if disk.dev_type == DiskTemplate::Drbd {
            let sides = truth.mirrors.entry(disk.uuid.to_string()).or_default();
            let somebody_has_it = sides.values().any(|side| side.data == SideData::Synced);
            let side = sides
                .entry(self.name.clone())
                .or_insert(Side { data: SideData::Synced, connected: true });
            if primary && !somebody_has_it {
                side.data = SideData::Synced;
            }
            let speed = self.world.setup().sync_mib_per_second;
            truth.sync(disk, Instant::now(), speed);
        }
        Ok(())
    }

    fn take_down(&self, disk: &DiskSpec) {
        self.world.truth().set_up(&self.name, &volume_key(disk), false);
        for child in &disk.children {
            self.take_down(child);
        }
    }

    fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()> {
        if let Some(child) = disk.children.first() {
            self.grow(child, amount_mib, dry_run)?;
        }
        let mut truth = self.world.truth();
        let path = device_path(disk, &self.name).unwrap_or_default();
        let volume = truth
            .volume(&self.name, disk)
            .ok_or_else(|| failed(format!("Cannot find block device {path}")))?;
        if disk.dev_type == DiskTemplate::Blockdev {
            let text = "Grow is not supported for PersistentBlockDev storage";
            return Err(failed(format!("Failed to grow block device: {text}")));
        }
        if disk.dev_type == DiskTemplate::Plain {
            let group = disk.logical_id.first().and_then(Value::as_str).unwrap_or_default();
            let body = truth.nodes.get(&self.name).ok_or_else(|| self.no_answer())?;
            let free = body.free_in_group(group).unwrap_or(0);
            if free < amount_mib {
                return Err(failed(format!(
                    "Failed to grow block device: Not enough free space to grow {path}: \
                     {amount_mib} MiB required, {free} available"
                )));
            }
        }
        if !dry_run {
            truth.put_volume(self.place(disk), &volume_key(disk), volume.size_mib + amount_mib);
        }
        Ok(())
    }

    fn set_connected(&self, disk: &DiskSpec, connected: bool) -> Result<()> {
        let mut truth = self.world.truth();
        let key = volume_key(disk);
        let is_up = truth.nodes.get(&self.name).is_some_and(|body| body.up.contains_key(&key));
        if !is_up {
            return Err(failed(format!("Can't find device {}", disk.iv_name)));
        }
        let sides = truth.mirrors.entry(disk.uuid.to_string()).or_default();
        let side = Side { data: SideData::Synced, connected };
        sides.entry(self.name.clone()).or_insert(side).connected = connected;
        truth.sync(disk, Instant::now(), self.world.setup().sync_mib_per_second);
        Ok(())
    }

    /// Says what this side of a mirror has, and lets it sync from there.
    fn set_data(&self, disk: &DiskSpec, data: SideData) -> Result<()> {
        let mut truth = self.world.truth();
        let side = truth.mirrors.get_mut(disk.uuid.as_str()).and_then(|s| s.get_mut(&self.name));
        side.ok_or_else(|| failed(format!("Can't find device {}", disk.iv_name)))?.data = data;
        truth.sync(disk, Instant::now(), self.world.setup().sync_mib_per_second);
        Ok(())
    }

    fn mirror_status(&self, disk: &DiskSpec, now: Instant) -> DiskStatus {
        let speed = self.world.setup().sync_mib_per_second;
        let mut truth = self.world.truth();
        truth.sync(disk, now, speed);
        let mut sides = truth.mirrors.get(disk.uuid.as_str()).cloned().unwrap_or_default();
        // A side that was left behind when the mirror moved is none of this one's.
        let is_side = |name: &str| disk.logical_id.iter().take(2).any(|id| id == name);
        sides.retain(|name, _| is_side(name));
        let key = volume_key(disk);
        let reached = |name: &String, side: &Side| {
            let body = truth.nodes.get(name);
            side.connected
                && body.is_some_and(|body| !body.unreachable && body.up.contains_key(&key))
        };
        let whole = sides.len() >= 2 && sides.iter().all(|(name, side)| reached(name, side));
        let own = sides.get(&self.name).map_or(SideData::Synced, |side| side.data);
        let syncing = sides.values().find_map(|side| match side.data {
            SideData::SyncingSince(since) => Some(since),
            SideData::Synced | SideData::Stale | SideData::Detached => None,
        });
        let percent = syncing.map(|since| world::sync_percent(disk, since, now, speed));
        let rest = percent.zip(speed).map(|(percent, speed)| {
            #[expect(clippy::cast_precision_loss, reason = "sizes of disks fit 53 bits")]
            let (size, speed) = (disk.size_mib as f64, speed.max(1) as f64);
            size * (100.0 - percent) / 100.0 / speed
        });
        DiskStatus {
            dev_path: device_path(disk, &self.name),
            major: Some(147),
            minor: Some(drbd_minor(disk, &self.name)),
            sync_percent: percent,
            estimated_time: rest.map(f64::ceil),
            is_degraded: !whole || syncing.is_some() || own != SideData::Synced,
            ldisk_status: match own {
                SideData::Synced => 1,
                SideData::Stale | SideData::Detached => 3,
                SideData::SyncingSince(_) => 4,
            },
        }
    }

    /// Where the node keeps the exports that it received.
    fn exports(&self) -> Exports {
        Exports { dir: self.world.exports_dir(&self.name) }
    }

    fn crypto(&self) -> Crypto {
        Crypto { dir: self.world.crypto_dir(&self.name) }
    }

    /// What the scripts of an instance's operating system need.
    fn stage(&self, instance: &InstanceSpec, params: &OsParams) -> Result<Stage> {
        let os = match instance.os.as_str() {
            "" => None,
            name => Some(self.definition(name)?),
        };
        let dir = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let mut disks = Vec::new();
        for index in 0..instance.disks.len() {
            let path = dir.path().join(format!("disk{index}"));
            File::create(&path).map_err(|error| failed(error.to_string()))?;
            disks.push(path);
        }
        let (spec, params) = (instance.clone(), params.clone());
        let scripts = Scripts { os, spec, params, disks, log_dir: self.world.os_log_dir() };
        Ok(Stage { scripts, _dir: dir })
    }

    fn definition(&self, os: &str) -> Result<Definition> {
        os::read(split_name(os).0, &self.world.setup().os_search_path).map_err(failed)
    }

    fn storage_units(&self, kind: StorageType) -> Vec<StorageRow> {
        let truth = self.world.truth();
        let Some(body) = truth.nodes.get(&self.name) else { return Vec::new() };
        let of_kind = match kind {
            StorageType::LvmPv => StorageType::LvmVg,
            other => other,
        };
        let units = body.state().storage.iter().filter(|unit| unit.kind == of_kind);
        let row = |(at, unit): (usize, &crate::StorageUnit)| {
            let name = if kind == StorageType::LvmPv {
                format!("/dev/fake{at}")
            } else {
                unit.key.clone()
            };
            StorageRow {
                kind,
                allocatable: !body.unallocatable.contains_key(&name),
                name,
                size_mib: unit.total_mib,
                used_mib: unit.total_mib - unit.free_mib,
                free_mib: unit.free_mib,
            }
        };
        units.enumerate().map(row).collect()
    }

    fn is_running(&self, instance: &str) -> bool {
        let truth = self.world.truth();
        let body = truth.nodes.get(&self.name);
        let run = body.and_then(|body| body.state().instances.get(instance));
        run.is_some_and(|run| run.state != RunState::Shutdown)
    }
}

/// What scripts are run with, and disks for them to work on: empty files, as long as the scripts run.
struct Stage {
    scripts: Scripts,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// The file of a disk, or of the copy of one.
    fn device(&self, index: usize) -> Result<PathBuf> {
        let device = self.scripts.disks.get(index).cloned();
        device.ok_or_else(|| failed(format!("there is no disk {index} to work on")))
    }
}

/// Templates whose disks can be copied in a moment (Ganeti 3.0, `objects.Disk.SupportsSnapshots`).
const SNAPSHOTS: &[DiskTemplate] = &[DiskTemplate::Plain, DiskTemplate::Drbd, DiskTemplate::Ext];

/// How a simulated console would be reached.
fn console(instance: &InstanceSpec) -> Console {
    let name = &instance.name;
    match instance.hypervisor {
        Hypervisor::Fake => Console::Message("Console not available for fake hypervisor".into()),
        Hypervisor::Kvm if instance.hv_flag("serial_console") => {
            let control = "/var/run/ganeti/kvm-hypervisor/ctrl";
            Console::Ssh {
                host: instance.primary_node.clone(),
                port: Some(22),
                user: "root".into(),
                command: vec![
                    "/usr/lib/ganeti/tools/kvm-console-wrapper".into(),
                    "/usr/bin/socat".into(),
                    name.clone(),
                    format!("{control}/{name}.monitor"),
                    "STDIO,raw,echo=0,escape=0x1d".into(),
                    format!("UNIX-CONNECT:{control}/{name}.serial"),
                ],
            }
        }
        Hypervisor::Kvm | Hypervisor::XenHvm => {
            let port = instance.network_port.unwrap_or(0);
            let (vnc, spice) = (instance.hv("vnc_bind_address"), instance.hv("spice_bind"));
            if !vnc.is_empty() && port > VNC_BASE_PORT {
                Console::Vnc { host: vnc.to_owned(), port }
            } else if !spice.is_empty() {
                Console::Spice { host: spice.to_owned(), port }
            } else {
                Console::Message(format!("No serial shell for instance {name}"))
            }
        }
        Hypervisor::XenPvm => Console::Ssh {
            host: instance.primary_node.clone(),
            port: Some(22),
            user: "root".into(),
            command: ["/usr/lib/ganeti/tools/xen-console-wrapper", "xl", name]
                .map(Into::into)
                .into(),
        },
        Hypervisor::Lxc => Console::Ssh {
            host: instance.primary_node.clone(),
            port: Some(22),
            user: "root".into(),
            command: ["lxc-console", "-n", name].map(Into::into).into(),
        },
        Hypervisor::Chroot => Console::Message(format!("No serial shell for instance {name}")),
    }
}

#[async_trait]
impl Node for FakeNode {
    fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> Arc<NodeState> {
        Arc::clone(&self.cell.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.cell.changes.subscribe()
    }

    async fn ping(&self) -> Result<()> {
        self.enter(Verb::Ping, None).await
    }

    fn hypervisors(&self) -> Vec<Hypervisor> {
        Hypervisor::ALL.to_vec()
    }

    async fn create_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::CreateDisk, Some(&instance.name)).await?;
        self.create(disk)
    }

    async fn remove_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::RemoveDisk, Some(&instance.name)).await?;
        self.remove(disk);
        Ok(())
    }

    async fn assemble_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        primary: bool,
    ) -> Result<Option<String>> {
        self.enter(Verb::AssembleDisk, Some(&instance.name)).await?;
        self.assemble(disk, primary)?;
        Ok(device_path(disk, &self.name))
    }

    async fn shutdown_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::ShutdownDisk, Some(&instance.name)).await?;
        self.take_down(disk);
        Ok(())
    }

    async fn grow_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        amount_mib: u64,
        dry_run: bool,
    ) -> Result<()> {
        self.enter(Verb::GrowDisk, Some(&instance.name)).await?;
        self.grow(disk, amount_mib, dry_run)
    }

    async fn wipe_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        offset_mib: u64,
        size_mib: u64,
    ) -> Result<()> {
        self.enter(Verb::WipeDisk, Some(&instance.name)).await?;
        let volume = self.world.truth().volume(&self.name, disk);
        let volume = volume.ok_or_else(|| {
            failed(format!("Cannot wipe device {}: device not found", disk.iv_name))
        })?;
        if offset_mib + size_mib > volume.size_mib {
            return Err(failed("Wipe offset and size are bigger than device size"));
        }
        Ok(())
    }

    async fn copy_disk(
        &self,
        instance: &InstanceSpec,
        from: &DiskSpec,
        to: &DiskSpec,
    ) -> Result<()> {
        self.enter(Verb::CopyDisk, Some(&instance.name)).await?;
        let truth = self.world.truth();
        for (disk, way) in [(from, "from"), (to, "to")] {
            if truth.volume(&self.name, disk).is_none() {
                let uuid = &disk.uuid;
                return Err(failed(format!("Cannot copy {way} device '{uuid}': device not found")));
            }
        }
        Ok(())
    }

    async fn rename_disk(&self, from: &DiskSpec, to: &DiskSpec) -> Result<()> {
        self.enter(Verb::RenameDisk, None).await?;
        let mut truth = self.world.truth();
        let Some(volume) = truth.volume(&self.name, from) else {
            return Err(failed(format!("Can't find device {} in rename", from.iv_name)));
        };
        let (old, new) = (volume_key(from), volume_key(to));
        if old == new {
            return Ok(());
        }
        if truth.volume(&self.name, to).is_some() {
            let path = device_path(to, &self.name).unwrap_or_default();
            return Err(failed(format!("{path}: File exists")));
        }
        let was_up = truth.nodes.get(&self.name).is_some_and(|body| body.up.contains_key(&old));
        truth.set_up(&self.name, &old, false);
        truth.drop_volume(self.place(from), &old);
        truth.put_volume(self.place(to), &new, volume.size_mib);
        truth.set_up(&self.name, &new, was_up);
        Ok(())
    }

    async fn disk_status(&self, disk: &DiskSpec) -> Result<Option<DiskStatus>> {
        self.enter(Verb::DiskStatus, None).await?;
        let is_there = {
            let truth = self.world.truth();
            match disk.dev_type {
                // A file is found where it lies.
                DiskTemplate::File | DiskTemplate::Sharedfile | DiskTemplate::Gluster => {
                    truth.volume(&self.name, disk).is_some()
                }
                _ => {
                    let body = truth.nodes.get(&self.name);
                    body.is_some_and(|body| body.up.contains_key(&volume_key(disk)))
                }
            }
        };
        if !is_there {
            return Ok(None);
        }
        if disk.dev_type == DiskTemplate::Drbd {
            return Ok(Some(self.mirror_status(disk, Instant::now())));
        }
        Ok(Some(DiskStatus {
            dev_path: device_path(disk, &self.name),
            major: None,
            minor: None,
            sync_percent: None,
            estimated_time: None,
            is_degraded: false,
            ldisk_status: 1,
        }))
    }

    async fn disk_size(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        self.enter(Verb::DiskSize, None).await?;
        Ok(self.world.truth().volume(&self.name, disk).map(|volume| volume.size_mib))
    }

    async fn connect_disk(&self, disk: &DiskSpec, _multi_primary: bool) -> Result<()> {
        self.enter(Verb::ConnectDisk, None).await?;
        self.set_connected(disk, true)
    }

    async fn disconnect_disk(&self, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::DisconnectDisk, None).await?;
        self.set_connected(disk, false)
    }

    async fn detach_storage(&self, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::DetachStorage, None).await?;
        self.set_data(disk, SideData::Detached)?;
        let mut truth = self.world.truth();
        for child in &disk.children {
            truth.set_up(&self.name, &volume_key(child), false);
        }
        Ok(())
    }

    async fn attach_storage(&self, disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::AttachStorage, None).await?;
        for child in &disk.children {
            self.assemble(child, false)?;
        }
        self.set_data(disk, SideData::Stale)
    }

    async fn start_instance(&self, instance: &InstanceSpec, paused: bool) -> Result<()> {
        self.enter(Verb::StartInstance, Some(&instance.name)).await?;
        let name = &instance.name;
        if self.is_running(name) {
            return Ok(());
        }
        let mut truth = self.world.truth();
        let body = truth.nodes.get(&self.name).ok_or_else(|| self.no_answer())?;
        for disk in &instance.disks {
            if !body.up.contains_key(&volume_key(disk)) {
                return Err(failed(format!(
                    "Block device error: Block device '{}' is not set up.",
                    disk.iv_name
                )));
            }
        }
        let state = if paused { RunState::Paused } else { RunState::Running };
        let (memory_mib, vcpus) = (instance.be("maxmem"), instance.be("vcpus"));
        let free = body.state().memory_free_mib;
        // As much as there is, down to the least that it can do with.
        let memory_mib = memory_mib.min(free).max(instance.be("minmem"));
        truth.run(&self.name, name, &InstanceRun { state, memory_mib, vcpus, cpu_seconds: 0.0 });
        Ok(())
    }

    async fn stop_instance(
        &self,
        instance: &InstanceSpec,
        _timeout: Duration,
        _reason: &str,
    ) -> Result<()> {
        self.enter(Verb::StopInstance, Some(&instance.name)).await?;
        self.world.truth().stop(&self.name, &instance.name);
        Ok(())
    }

    async fn reboot_instance(
        &self,
        instance: &InstanceSpec,
        _how: RebootType,
        _timeout: Duration,
    ) -> Result<()> {
        self.enter(Verb::RebootInstance, Some(&instance.name)).await?;
        let name = &instance.name;
        if self.is_running(name) {
            return Ok(());
        }
        Err(failed(format!("Cannot reboot instance '{name}' that is not running")))
    }

    async fn balloon_instance(&self, instance: &InstanceSpec, memory_mib: u64) -> Result<()> {
        self.enter(Verb::BalloonInstance, Some(&instance.name)).await?;
        let mut truth = self.world.truth();
        let body = truth.nodes.get(&self.name).ok_or_else(|| self.no_answer())?;
        let Some(run) = body.state().instances.get(&instance.name).cloned() else {
            let name = &instance.name;
            tracing::info!(instance.name = name, "not running, cannot balloon memory");
            return Ok(());
        };
        truth.run(&self.name, &instance.name, &InstanceRun { memory_mib, ..run });
        Ok(())
    }

    async fn accept_instance(&self, instance: &InstanceSpec) -> Result<()> {
        self.enter(Verb::AcceptInstance, Some(&instance.name)).await?;
        if self.is_running(&instance.name) {
            let text = "Failed to accept instance: Can't accept instance, already running";
            return Err(failed(text));
        }
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            body.accepted.insert(instance.name.clone(), ());
        }
        Ok(())
    }

    async fn migrate_instance(
        &self,
        instance: &InstanceSpec,
        target: &str,
        _live: bool,
    ) -> Result<()> {
        self.enter(Verb::MigrateInstance, Some(&instance.name)).await?;
        let name = &instance.name;
        let mut truth = self.world.truth();
        let run = truth.nodes.get(&self.name).and_then(|b| b.state().instances.get(name)).cloned();
        let run = run.ok_or_else(|| {
            failed(format!("Failed to migrate instance: Instance {name} is not running"))
        })?;
        let ready = truth
            .nodes
            .get(target)
            .is_some_and(|body| !body.unreachable && body.accepted.contains_key(name));
        if !ready {
            return Err(failed(format!(
                "Failed to migrate instance: node {target} does not listen for instance {name}"
            )));
        }
        truth.stop(&self.name, name);
        truth.run(target, name, &run);
        Ok(())
    }

    async fn finalize_migration(
        &self,
        instance: &InstanceSpec,
        source: bool,
        success: bool,
    ) -> Result<()> {
        self.enter(Verb::FinalizeMigration, Some(&instance.name)).await?;
        let mut truth = self.world.truth();
        if !source && let Some(body) = truth.nodes.get_mut(&self.name) {
            body.accepted.remove(&instance.name);
        }
        // One of the two sides ends what it has of the instance.
        if source == success {
            truth.stop(&self.name, &instance.name);
        }
        Ok(())
    }

    async fn hotplug(
        &self,
        instance: &InstanceSpec,
        _action: Hotplug,
        _device: &Device,
        _index: usize,
    ) -> Result<()> {
        self.enter(Verb::Hotplug, Some(&instance.name)).await?;
        self.can_hotplug(instance).await
    }

    /// It has the bridges that the cluster's own settings name.
    async fn missing_bridges(&self, wanted: &[String], named: &[String]) -> Result<Vec<String>> {
        Ok(wanted.iter().filter(|bridge| !named.contains(bridge)).cloned().collect())
    }

    async fn can_hotplug(&self, instance: &InstanceSpec) -> Result<()> {
        self.enter(Verb::CanHotplug, Some(&instance.name)).await?;
        if instance.hypervisor == Hypervisor::Kvm {
            return Ok(());
        }
        let text = "Hotplug is not supported: Hotplug is not supported by this hypervisor: Hotplug is not supported: Hotplug is not \
             supported by this hypervisor";
        Err(NodeError::Unsupported(text.into()))
    }

    fn console(&self, instance: &InstanceSpec) -> Console {
        console(instance)
    }

    async fn validate_hvparams(&self, _hypervisor: Hypervisor, _hvparams: &Dict) -> Result<()> {
        self.enter(Verb::ValidateHvparams, None).await
    }

    async fn list_os(&self) -> Result<Vec<OsInfo>> {
        self.enter(Verb::ListOs, None).await?;
        Ok(os::list(&self.world.setup().os_search_path))
    }

    async fn validate_os(&self, os: &str, params: &OsParams, force_variant: bool) -> Result<()> {
        self.enter(Verb::ValidateOs, None).await?;
        os::scripts::validate(&self.definition(os)?, os, params, force_variant).await
    }

    async fn create_os(
        &self,
        instance: &InstanceSpec,
        reinstall: bool,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        self.enter(Verb::CreateOs, Some(&instance.name)).await?;
        self.stage(instance, params)?.scripts.create(reinstall, out).await
    }

    async fn rename_os(
        &self,
        instance: &InstanceSpec,
        old_name: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        self.enter(Verb::RenameOs, Some(&instance.name)).await?;
        self.stage(instance, params)?.scripts.rename(old_name, out).await
    }

    /// Nothing is copied: disks here have no content.
    async fn snapshot_disks(&self, instance: &InstanceSpec) -> Result<Option<Vec<DiskSpec>>> {
        self.enter(Verb::SnapshotDisks, Some(&instance.name)).await?;
        let can = instance.disks.iter().all(|disk| SNAPSHOTS.contains(&disk.dev_type));
        let copy = |disk: &DiskSpec| DiskSpec {
            uuid: model::name::Uuid::new(uuid::Uuid::new_v4().to_string()),
            name: None,
            ..disk.clone()
        };
        Ok(can.then(|| instance.disks.iter().map(copy).collect()))
    }

    async fn remove_snapshot(&self, instance: &InstanceSpec, _disk: &DiskSpec) -> Result<()> {
        self.enter(Verb::RemoveSnapshot, Some(&instance.name)).await
    }

    async fn export_disk(
        &self,
        instance: &InstanceSpec,
        index: usize,
        disk: &DiskSpec,
        target: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        self.enter(Verb::ExportDisk, Some(&instance.name)).await?;
        let stage = self.stage(instance, params)?;
        let dump = self.exports().new_dump(target, disk.uuid.as_str())?;
        stage.scripts.export(index, &stage.device(index)?, dump, out).await
    }

    async fn finalize_export(
        &self,
        instance: &InstanceSpec,
        target: &str,
        config: &str,
    ) -> Result<()> {
        self.enter(Verb::FinalizeExport, Some(&instance.name)).await?;
        self.exports().finalize(target, config)
    }

    async fn list_exports(&self) -> Result<Vec<String>> {
        self.enter(Verb::ListExports, None).await?;
        Ok(self.exports().list())
    }

    async fn export_info(&self, path: &str) -> Result<String> {
        self.enter(Verb::ExportInfo, None).await?;
        self.exports().info(path)
    }

    async fn remove_export(&self, name: &str) -> Result<()> {
        self.enter(Verb::RemoveExport, None).await?;
        self.exports().remove(name)
    }

    async fn import_disk(
        &self,
        instance: &InstanceSpec,
        index: usize,
        source: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        self.enter(Verb::ImportDisk, Some(&instance.name)).await?;
        let stage = self.stage(instance, params)?;
        stage.scripts.import(index, self.exports().open_dump(source)?, out).await
    }

    async fn create_certificate(&self, validity: Duration) -> Result<(String, String)> {
        self.enter(Verb::CreateCertificate, None).await?;
        self.crypto().create(validity)
    }

    async fn remove_certificate(&self, name: &str) -> Result<()> {
        self.enter(Verb::RemoveCertificate, None).await?;
        self.crypto().remove(name)
    }

    async fn send_disk(&self, sending: Sending<'_>, out: Feedback) -> Result<()> {
        let Sending { instance, index, destination, options, params, connected, .. } = sending;
        self.enter(Verb::SendDisk, Some(&instance.name)).await?;
        let stage = self.stage(instance, params)?;
        let (identity, device) = (self.crypto().load(&options.key_name)?, stage.device(index)?);
        let what = (&stage.scripts, index, device.as_path());
        transfer::send(identity, options, destination, what, connected, out).await
    }

    /// The transfer is real, whatever address the node plays to have: it is this machine that is reached.
    async fn receive_disk(&self, awaited: Awaited<'_>, out: Feedback) -> Result<Receiving> {
        let Awaited { instance, index, options, limit, params, connected, .. } = awaited;
        self.enter(Verb::ReceiveDisk, Some(&instance.name)).await?;
        let (stage, options) = (self.stage(instance, params)?, options.clone());
        let identity = self.crypto().load(&options.key_name)?;
        let host = transfer::reachable(Ipv4Addr::LOCALHOST.into());
        let (listener, port) = transfer::listen(host).await?;
        let done = Box::pin(async move {
            let what = (&stage.scripts, index);
            transfer::receive(listener, identity, &options, limit, what, connected, out).await
        });
        Ok(Receiving { host, port, done })
    }

    async fn storage_list(&self, kind: StorageType, names: &[String]) -> Result<Vec<StorageRow>> {
        self.enter(Verb::StorageList, None).await?;
        if !REPORTED.contains(&kind) {
            return Err(failed(format!(
                "Error while executing backend function: Unknown storage type: '{kind}'"
            )));
        }
        let rows = self.storage_units(kind);
        let wanted = |row: &StorageRow| names.is_empty() || names.contains(&row.name);
        Ok(rows.into_iter().filter(wanted).collect())
    }

    async fn storage_modify(&self, kind: StorageType, name: &str, changes: &Dict) -> Result<()> {
        self.enter(Verb::StorageModify, None).await?;
        if !self.storage_units(kind).iter().any(|row| row.name == name) {
            return Err(failed(format!("Failed to find storage unit {name}")));
        }
        let allocatable = changes.get("allocatable").and_then(Value::as_bool);
        if let Some(body) = self.world.truth().nodes.get_mut(&self.name) {
            match allocatable {
                Some(true) => {
                    body.unallocatable.remove(name);
                }
                Some(false) => {
                    body.unallocatable.insert(name.to_owned(), ());
                }
                None => {}
            }
        }
        Ok(())
    }

    async fn storage_repair(&self, _kind: StorageType, _name: &str) -> Result<()> {
        self.enter(Verb::StorageRepair, None).await
    }

    async fn ext_providers(&self) -> Result<Vec<ExtProviderInfo>> {
        self.enter(Verb::ExtProviders, None).await?;
        Ok(providers(&self.world.setup().ext_search_path))
    }

    async fn run_hooks(
        &self,
        path: &str,
        phase: HookPhase,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<HookResult>> {
        self.enter(Verb::RunHooks, None).await?;
        let setup = self.world.setup();
        let Some(base) = &setup.hooks_dir else { return Ok(Vec::new()) };
        Ok(hooks::run(base, path, phase, env).await)
    }

    async fn powercycle(&self, _hypervisor: Hypervisor) -> Result<String> {
        self.enter(Verb::Powercycle, None).await?;
        self.world.truth().reboot(&self.name);
        Ok("Reboot scheduled in 5 seconds".into())
    }

    async fn run_iallocator(
        &self,
        name: &str,
        options: &[String],
        request: &Value,
    ) -> Result<String> {
        self.enter(Verb::RunIallocator, None).await?;
        let setup = self.world.setup();
        iallocator::run(&setup.iallocator_search_path, name, options, request).await
    }
}
