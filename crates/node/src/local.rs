//! This machine as a node: ties hypervisors, disks, operating systems and scripts together, and keeps the node's state
//! fresh. What is not there yet is refused here with a sentence that names it, never left undone in silence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::param::{Dict, DiskTemplate, Hypervisor, RebootType, StorageType};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cell::StateCell;
use crate::crypto::Crypto;
use crate::exports::Exports;
use crate::hypervisor::Backend;
use crate::hypervisor::fake::Fake;
use crate::hypervisor::kvm::{self, Kvm, KvmPlaces};
use crate::network;
use crate::os::{self, scripts::Scripts};
use crate::spec::{DiskSpec, InstanceSpec};
use crate::state::NodeState;
use crate::storage::{self, Storage, StorageOptions};
use crate::{
    Awaited, Console, Device, DiskStatus, ExtProviderInfo, Feedback, HookPhase, HookResult,
    Hotplug, Node, NodeError, OsInfo, OsParams, Receiving, Result, Sending, StorageRow, Stray,
    VolumeRow, hooks, host, iallocator, image, snapshot, transfer,
};

/// How often memory, free space and processor times are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// How often what runs is compared with what is known, and LVM is asked for its space.
const VERIFY_EVERY: Duration = Duration::from_secs(60);

/// Where a local node keeps its things.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The node's name.
    pub name: String,
    pub data_dir: PathBuf,
    /// Sockets of running instances; where the path is too long for sockets, a short one is made elsewhere.
    pub run_dir: PathBuf,
    pub file_storage_dir: PathBuf,
    pub shared_file_storage_dir: PathBuf,
    /// Where the cluster's disks lie, the default first.
    pub storage_types: Vec<StorageType>,
    pub os_search_path: Vec<PathBuf>,
    /// Where providers of external storage are looked for.
    pub ext_search_path: Vec<PathBuf>,
    pub iallocator_search_path: Vec<PathBuf>,
    pub hooks_dir: PathBuf,
    /// Where the scripts are that connect NICs in place of this program.
    pub network_script_dirs: Vec<PathBuf>,
    pub export_dir: PathBuf,
    /// This program, for the command that attaches to a console.
    pub rapid_binary: PathBuf,
    /// What the cluster runs instances with.
    pub hypervisors: Vec<Hypervisor>,
    /// Whether instances are held within their memory and virtual processors by control groups.
    pub limit_instances: bool,
}

impl LocalOptions {
    /// Everything below one data directory, beside the places where Ganeti looks for definitions and allocators.
    pub fn new(name: &str, data_dir: &Path) -> Self {
        let absolute = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let below = |name: &str| absolute.join(name);
        let mut os_search_path = vec![below("os")];
        let ganeti = [
            "/srv/ganeti/os",
            "/usr/local/lib/ganeti/os",
            "/usr/lib/ganeti/os",
            "/usr/share/ganeti/os",
        ];
        os_search_path.extend(ganeti.map(PathBuf::from));
        let mut ext_search_path = vec![below("extstorage")];
        let ganeti = [
            "/srv/ganeti/extstorage",
            "/usr/local/lib/ganeti/extstorage",
            "/usr/lib/ganeti/extstorage",
            "/usr/share/ganeti/extstorage",
        ];
        ext_search_path.extend(ganeti.map(PathBuf::from));
        let mut iallocator_search_path = vec![below("iallocators")];
        let ganeti = ["/usr/local/lib/ganeti/iallocators", "/usr/lib/ganeti/iallocators"];
        iallocator_search_path.extend(ganeti.map(PathBuf::from));
        Self {
            name: name.to_owned(),
            run_dir: below("run"),
            file_storage_dir: below("file-storage"),
            shared_file_storage_dir: below("shared-file-storage"),
            storage_types: vec![StorageType::File, StorageType::Sharedfile],
            os_search_path,
            ext_search_path,
            iallocator_search_path,
            hooks_dir: below("hooks"),
            network_script_dirs: vec![below("network"), "/etc/ganeti".into()],
            export_dir: below("export"),
            rapid_binary: std::env::current_exe().unwrap_or_else(|_| "rapid".into()),
            hypervisors: crate::hypervisor::detect(),
            limit_instances: false,
            data_dir: absolute,
        }
    }

    /// The directory that `rapid os install` puts definitions into.
    pub fn os_dir(&self) -> PathBuf {
        self.data_dir.join("os")
    }
}

/// This machine.
pub struct LocalNode {
    options: LocalOptions,
    state: Arc<StateCell>,
    storage: Arc<Storage>,
    kvm: Arc<Kvm>,
    fake: Fake,
    exports: Exports,
    crypto: Crypto,
    sampler: JoinHandle<()>,
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        // Instances run on; the next server takes them over.
        self.sampler.abort();
    }
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

fn later(what: &str) -> NodeError {
    NodeError::Unsupported(format!("{what} is not there yet on a real node"))
}

impl LocalNode {
    /// Makes the node's directories, takes over what runs and begins to watch the machine.
    pub async fn open(options: LocalOptions) -> Result<Self> {
        fs::create_dir_all(&options.data_dir).map_err(|error| {
            failed(format!("can't make the data directory {}: {error}", options.data_dir.display()))
        })?;
        let storage = Storage::new(StorageOptions {
            file_dir: options.file_storage_dir.clone(),
            shared_file_dir: options.shared_file_storage_dir.clone(),
            types: options.storage_types.clone(),
            ext_search_path: options.ext_search_path.clone(),
            log_dir: options.data_dir.join("log").join("extstorage"),
        });
        storage.measure().await;
        let state = Arc::new(StateCell::new(first_state(&storage)));
        let places = KvmPlaces {
            node_name: options.name.clone(),
            data_dir: options.data_dir.clone(),
            run_dir: options.run_dir.clone(),
            rapid_binary: options.rapid_binary.clone(),
            limit_instances: options.limit_instances,
            os_search_path: options.os_search_path.clone(),
        };
        let kvm = Arc::new(Kvm::open(places, state.clone(), &options.network_script_dirs).await?);
        let fake = Fake::open(&options.data_dir, state.clone());
        let exports = Exports { dir: options.export_dir.clone() };
        let crypto = Crypto { dir: options.data_dir.join("crypto") };
        snapshot::forget_all(&options.data_dir.join("snapshots"));
        let (watched, cell, disks) = (kvm.clone(), state.clone(), storage.clone());
        let sampler = tokio::spawn(async move {
            let version = kvm::version().await;
            cell.update(|state| state.hypervisor_version = version);
            let mut verified = Instant::now();
            loop {
                sample(&watched, &cell, &disks);
                if verified.elapsed() >= VERIFY_EVERY {
                    verified = Instant::now();
                    watched.verify();
                    disks.measure().await;
                }
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
        });
        Ok(Self { options, state, storage, kvm, fake, exports, crypto, sampler })
    }

    /// Which of the cluster's hypervisors cannot run here, each with what to do about it.
    pub fn missing_hypervisors(&self) -> Vec<(Hypervisor, String)> {
        let check = |hypervisor: &Hypervisor| match hypervisor {
            Hypervisor::Fake => None,
            Hypervisor::Kvm if kvm::find_qemu().is_some() => None,
            Hypervisor::Kvm => {
                Some("QEMU is not installed; on Debian: apt install qemu-system-x86".to_owned())
            }
            Hypervisor::Chroot | Hypervisor::Lxc | Hypervisor::XenHvm | Hypervisor::XenPvm => {
                Some("this hypervisor is not there yet on a real node".to_owned())
            }
        };
        let missing = |hypervisor: &Hypervisor| Some((*hypervisor, check(hypervisor)?));
        self.options.hypervisors.iter().filter_map(missing).collect()
    }

    fn backend(&self, hypervisor: Hypervisor) -> Result<&dyn Backend> {
        match hypervisor {
            Hypervisor::Kvm => Ok(&*self.kvm),
            Hypervisor::Fake => Ok(&self.fake),
            Hypervisor::Chroot | Hypervisor::Lxc | Hypervisor::XenHvm | Hypervisor::XenPvm => {
                Err(later(&format!("hypervisor {hypervisor}")))
            }
        }
    }

    /// The files or devices of an instance's disks, in order.
    async fn disk_paths(&self, instance: &InstanceSpec) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::with_capacity(instance.disks.len());
        for disk in &instance.disks {
            paths.push(self.storage.path(disk).await?);
        }
        Ok(paths)
    }

    /// The definition of an instance's operating system.
    fn definition(&self, os: &str) -> Result<os::Definition> {
        os::read(os::split_name(os).0, &self.options.os_search_path).map_err(failed)
    }

    /// What the scripts of an instance's operating system need.
    async fn scripts(&self, instance: &InstanceSpec, params: &OsParams) -> Result<Scripts> {
        let os = match instance.os.as_str() {
            "" => None,
            name => Some(self.definition(name)?),
        };
        Ok(Scripts {
            os,
            spec: instance.clone(),
            params: params.clone(),
            disks: self.disk_paths(instance).await?,
            log_dir: self.options.data_dir.join("log").join("os"),
        })
    }

    /// What is dumped: a disk, or a copy of one.
    async fn device(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let device = self.storage.source(disk).await?;
        device.ok_or_else(|| failed(format!("disk '{}' is not there", disk.uuid)))
    }

    /// Where copies of disks are while they are dumped.
    fn snapshots_dir(&self) -> PathBuf {
        self.options.data_dir.join("snapshots")
    }

    /// After something that changed memory or disks.
    fn refresh(&self) {
        sample(&self.kvm, &self.state, &self.storage);
    }
}

/// The files of a directory of disks: in it, or in a directory for each instance.
fn files_below(dir: &Path) -> Vec<String> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let within = entries(dir).flat_map(|entry| {
        let path = entry.path();
        let below: Vec<PathBuf> = entries(&path).map(|entry| entry.path()).collect();
        std::iter::once(path).chain(below)
    });
    within.filter(|path| path.is_file()).map(|path| path.display().to_string()).collect()
}

fn first_state(storage: &Storage) -> NodeState {
    let (memory, cpus) = (host::memory(), host::processors());
    NodeState {
        version: 1,
        reachable: true,
        boot_id: host::boot_id(),
        memory_total_mib: memory.total_mib,
        memory_host_mib: memory.total_mib.saturating_sub(memory.free_mib),
        memory_free_mib: memory.free_mib,
        cpu_total: cpus.total,
        cpu_sockets: cpus.sockets,
        cpu_nodes: cpus.numa_nodes,
        cpu_host: 1,
        storage: storage.units(),
        instances: imbl::OrdMap::new(),
        hypervisor_version: String::new(),
    }
}

fn sample(kvm: &Kvm, cell: &StateCell, storage: &Storage) {
    let guests_mib = kvm::sample(&kvm.processes(), cell);
    let (memory, units) = (host::memory(), storage.units());
    cell.update(|state| {
        state.memory_total_mib = memory.total_mib;
        state.memory_free_mib = memory.free_mib;
        let used = memory.total_mib.saturating_sub(memory.free_mib);
        state.memory_host_mib = used.saturating_sub(guests_mib);
        state.storage = units;
    });
}

#[async_trait]
impl Node for LocalNode {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn state(&self) -> Arc<NodeState> {
        self.state.get()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.state.changes()
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn hypervisors(&self) -> Vec<Hypervisor> {
        let kvm = kvm::find_qemu().map(|_| Hypervisor::Kvm);
        kvm.into_iter().chain([Hypervisor::Fake]).collect()
    }

    async fn create_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.storage.create(disk, &instance.name).await?;
        self.refresh();
        Ok(())
    }

    async fn remove_disk(&self, _instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.storage.remove(disk).await?;
        self.refresh();
        Ok(())
    }

    async fn assemble_disk(
        &self,
        _instance: &InstanceSpec,
        disk: &DiskSpec,
        _primary: bool,
    ) -> Result<Option<String>> {
        let path = self.storage.assemble(disk).await?;
        Ok(Some(path.display().to_string()))
    }

    async fn shutdown_disk(&self, _instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.storage.shutdown(disk).await
    }

    async fn grow_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        amount_mib: u64,
        dry_run: bool,
    ) -> Result<()> {
        let is_there = self.storage.find(disk).await?.is_some();
        if !is_there {
            return Err(failed(format!("Cannot find block device {}", disk.iv_name)));
        }
        self.storage.grow(disk, amount_mib, dry_run).await?;
        if !dry_run && let Some(bytes) = self.storage.size_bytes(disk).await? {
            // A running guest is told.
            self.kvm.grow_disk(&instance.name, disk, bytes).await?;
        }
        self.refresh();
        Ok(())
    }

    async fn wipe_disk(
        &self,
        _instance: &InstanceSpec,
        disk: &DiskSpec,
        offset_mib: u64,
        size_mib: u64,
    ) -> Result<()> {
        let Some(path) = self.storage.find(disk).await? else {
            return Err(failed(format!("Cannot wipe device {}: device not found", disk.iv_name)));
        };
        let size = self.storage.size_bytes(disk).await?.unwrap_or_default() >> 20;
        if offset_mib + size_mib > size {
            return Err(failed("Wipe offset and size are bigger than device size"));
        }
        storage::wipe(path, offset_mib, size_mib).await
    }

    async fn copy_disk(
        &self,
        _instance: &InstanceSpec,
        from: &DiskSpec,
        to: &DiskSpec,
    ) -> Result<()> {
        let missing = |way: &str, disk: &DiskSpec| {
            failed(format!("Cannot copy {way} device '{}': device not found", disk.uuid))
        };
        let address = from.logical_id.get(1).and_then(Value::as_str).unwrap_or("");
        if image::is_url(address) {
            let target = self.storage.find(to).await?.ok_or_else(|| missing("to", to))?;
            return image::download(address, &target).await;
        }
        let source = self.storage.source(from).await?;
        let source = source.ok_or_else(|| missing("from", from))?;
        let target = self.storage.find(to).await?.ok_or_else(|| missing("to", to))?;
        if to.dev_type == DiskTemplate::Blockdev {
            // Ganeti 3.0, `storage/bdev.py` PersistentBlockDevice.Import.
            return Err(failed(
                "Importing data is not supported for the PersistentBlockDevice template",
            ));
        }
        // An image, which is no disk of its own, is copied whole or not at all.
        let limit = (from.uuid != to.uuid).then_some(from.size_mib << 20);
        storage::copy(source, target, limit).await
    }

    async fn rename_disk(&self, from: &DiskSpec, to: &DiskSpec) -> Result<()> {
        self.storage.rename(from, to).await
    }

    async fn set_disk_owner(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        self.storage.set_owner(disk, &instance.name).await
    }

    async fn disk_status(&self, disk: &DiskSpec) -> Result<Option<DiskStatus>> {
        self.storage.status(disk).await
    }

    async fn disk_size(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        Ok(self.storage.size_bytes(disk).await?.map(|bytes| bytes >> 20))
    }

    async fn connect_disk(&self, _disk: &DiskSpec, _multi_primary: bool) -> Result<()> {
        Err(later("disk replication"))
    }

    async fn disconnect_disk(&self, _disk: &DiskSpec) -> Result<()> {
        Err(later("disk replication"))
    }

    async fn start_instance(&self, instance: &InstanceSpec, paused: bool) -> Result<()> {
        let disks = self.disk_paths(instance).await?;
        self.backend(instance.hypervisor)?.start(instance, &disks, paused).await?;
        self.refresh();
        Ok(())
    }

    async fn stop_instance(
        &self,
        instance: &InstanceSpec,
        timeout: Duration,
        reason: &str,
    ) -> Result<()> {
        tracing::info!(instance.name = %instance.name, reason, "stopping instance {}", instance.name);
        self.backend(instance.hypervisor)?.stop(instance, timeout).await?;
        self.refresh();
        Ok(())
    }

    async fn reboot_instance(
        &self,
        instance: &InstanceSpec,
        how: RebootType,
        timeout: Duration,
    ) -> Result<()> {
        let disks = self.disk_paths(instance).await?;
        self.backend(instance.hypervisor)?.reboot(instance, &disks, how, timeout).await
    }

    async fn balloon_instance(&self, instance: &InstanceSpec, memory_mib: u64) -> Result<()> {
        self.backend(instance.hypervisor)?.balloon(instance, memory_mib).await
    }

    async fn accept_instance(&self, _instance: &InstanceSpec) -> Result<()> {
        Err(later("migration"))
    }

    async fn migrate_instance(
        &self,
        _instance: &InstanceSpec,
        _target: &str,
        _live: bool,
    ) -> Result<()> {
        Err(later("migration"))
    }

    async fn finalize_migration(
        &self,
        _instance: &InstanceSpec,
        _source: bool,
        _success: bool,
    ) -> Result<()> {
        Err(later("migration"))
    }

    async fn hotplug(
        &self,
        instance: &InstanceSpec,
        action: Hotplug,
        device: &Device,
        index: usize,
    ) -> Result<()> {
        let path = match (device, action) {
            (Device::Disk(disk), Hotplug::Add) => Some(self.storage.path(disk).await?),
            _ => None,
        };
        let backend = self.backend(instance.hypervisor)?;
        backend.hotplug(instance, action, device, path.as_deref(), index).await
    }

    async fn missing_bridges(&self, wanted: &[String], _named: &[String]) -> Result<Vec<String>> {
        Ok(network::missing_bridges(wanted))
    }

    async fn can_hotplug(&self, instance: &InstanceSpec) -> Result<()> {
        self.backend(instance.hypervisor)?.can_hotplug(instance).await
    }

    fn strays(&self) -> Vec<Stray> {
        self.kvm.strays()
    }

    fn disk_files(&self) -> Option<Vec<String>> {
        let dirs = [&self.options.file_storage_dir, &self.options.shared_file_storage_dir];
        Some(dirs.into_iter().flat_map(|dir| files_below(dir)).collect())
    }

    async fn screenshot(&self, instance: &InstanceSpec) -> Result<Vec<u8>> {
        self.backend(instance.hypervisor)?.screenshot(instance).await
    }

    fn console(&self, instance: &InstanceSpec) -> Console {
        match self.backend(instance.hypervisor) {
            Ok(backend) => backend.console(instance),
            Err(error) => Console::Message(error.to_string()),
        }
    }

    async fn lasting_hvparams(&self, hypervisor: Hypervisor, hvparams: &Dict) -> Dict {
        if hypervisor == Hypervisor::Kvm {
            kvm::validate::lasting_machine(hvparams).await
        } else {
            Dict::new()
        }
    }

    async fn validate_hvparams(&self, hypervisor: Hypervisor, hvparams: &Dict) -> Result<()> {
        self.backend(hypervisor)?.validate(hvparams).await
    }

    async fn list_os(&self) -> Result<Vec<OsInfo>> {
        Ok(os::list(&self.options.os_search_path))
    }

    async fn validate_os(&self, os: &str, params: &OsParams, force_variant: bool) -> Result<()> {
        let definition = self.definition(os)?;
        os::scripts::validate(&definition, os, params, force_variant).await
    }

    async fn create_os(
        &self,
        instance: &InstanceSpec,
        reinstall: bool,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        let scripts = self.scripts(instance, params).await?;
        if let Some(os) = &scripts.os
            && (os.untrusted || !os.has_create)
        {
            return Err(later(&format!(
                "OS '{}' has a create_untrusted script; running it in a helper instance",
                os.name
            )));
        }
        scripts.create(reinstall, out).await
    }

    async fn rename_os(
        &self,
        instance: &InstanceSpec,
        old_name: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        self.scripts(instance, params).await?.rename(old_name, out).await
    }

    async fn snapshot_disks(&self, instance: &InstanceSpec) -> Result<Option<Vec<DiskSpec>>> {
        let sources = self.disk_paths(instance).await?;
        snapshot::take(&self.snapshots_dir(), &self.kvm, instance, &sources).await
    }

    async fn remove_snapshot(&self, _instance: &InstanceSpec, disk: &DiskSpec) -> Result<()> {
        snapshot::remove(&self.snapshots_dir(), disk)
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
        let (scripts, device) = (self.scripts(instance, params).await?, self.device(disk).await?);
        let file = self.exports.new_dump(target, disk.uuid.as_str())?;
        scripts.export(index, &device, file, out).await
    }

    async fn finalize_export(
        &self,
        _instance: &InstanceSpec,
        target: &str,
        config: &str,
    ) -> Result<()> {
        self.exports.finalize(target, config)
    }

    async fn list_exports(&self) -> Result<Vec<String>> {
        Ok(self.exports.list())
    }

    async fn export_info(&self, path: &str) -> Result<String> {
        self.exports.info(path)
    }

    async fn remove_export(&self, name: &str) -> Result<()> {
        self.exports.remove(name)
    }

    async fn import_disk(
        &self,
        instance: &InstanceSpec,
        index: usize,
        source: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()> {
        let scripts = self.scripts(instance, params).await?;
        scripts.import(index, self.exports.open_dump(source)?, out).await
    }

    async fn create_certificate(&self, validity: Duration) -> Result<(String, String)> {
        self.crypto.create(validity)
    }

    async fn remove_certificate(&self, name: &str) -> Result<()> {
        self.crypto.remove(name)
    }

    async fn send_disk(&self, sending: Sending<'_>, out: Feedback) -> Result<()> {
        let Sending { instance, index, disk, destination, options, params, connected } = sending;
        let (scripts, device) = (self.scripts(instance, params).await?, self.device(disk).await?);
        let identity = self.crypto.load(&options.key_name)?;
        let what = (&scripts, index, device.as_path());
        transfer::send(identity, options, destination, what, connected, out).await
    }

    async fn receive_disk(&self, awaited: Awaited<'_>, out: Feedback) -> Result<Receiving> {
        let Awaited { instance, index, options, address, limit, params, connected } = awaited;
        let (scripts, options) = (self.scripts(instance, params).await?, options.clone());
        let identity = self.crypto.load(&options.key_name)?;
        let own = address.parse().map_err(|_| failed(format!("'{address}' is no address")))?;
        let host = transfer::reachable(own);
        let (listener, port) = transfer::listen(host).await?;
        let done = Box::pin(async move {
            let what = (&scripts, index);
            transfer::receive(listener, identity, &options, limit, what, connected, out).await
        });
        Ok(Receiving { host, port, done })
    }

    async fn storage_list(&self, kind: StorageType, names: &[String]) -> Result<Vec<StorageRow>> {
        self.storage.rows(kind, names).await
    }

    async fn storage_modify(&self, kind: StorageType, name: &str, changes: &Dict) -> Result<()> {
        let allocatable = changes.get("allocatable").and_then(Value::as_bool);
        self.storage.modify(kind, name, allocatable).await
    }

    async fn storage_repair(&self, kind: StorageType, name: &str) -> Result<()> {
        self.storage.repair(kind, name).await
    }

    async fn volumes(&self) -> Result<Option<Vec<VolumeRow>>> {
        storage::volumes().await.map(Some)
    }

    async fn ext_providers(&self) -> Result<Vec<ExtProviderInfo>> {
        Ok(self.storage.providers())
    }

    async fn run_hooks(
        &self,
        path: &str,
        phase: HookPhase,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<HookResult>> {
        Ok(hooks::run(&self.options.hooks_dir, path, phase, env).await)
    }

    async fn powercycle(&self, _hypervisor: Hypervisor) -> Result<String> {
        Err(later("rebooting the machine that the server itself runs on"))
    }

    async fn run_iallocator(
        &self,
        name: &str,
        options: &[String],
        request: &Value,
    ) -> Result<String> {
        iallocator::run(&self.options.iallocator_search_path, name, options, request).await
    }
}
