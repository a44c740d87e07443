//! One node: what the master may ask of it. The only crate that runs commands, touches devices or talks to QEMU.
//!
//! [`Node`] is Ganeti's node daemon protocol, as far as the logical units need it. There are two kinds: `LocalNode`, this
//! machine, and `FakeNode`, which behaves like a node without being one. What a node is told about an instance is already
//! filled: parameters hold all values, names stand instead of UUIDs.

mod cell;
mod cgroup;
pub mod console;
mod crypto;
pub mod debian;
mod exports;
pub mod fake;
mod fault;
mod fd;
mod hooks;
mod host;
mod hypervisor;
mod iallocator;
mod image;
pub mod local;
mod network;
mod os;
mod outside;
mod process;
pub mod screen;
mod snapshot;
pub mod spec;
pub mod state;
mod storage;
pub mod stray;
pub mod tiny;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::param::{Dict, Hypervisor, RebootType, StorageType};
use serde_json::Value;
use tokio::sync::watch;

pub use fake::{FakeNode, FakeSizes, Fault, Verb, World, WorldSetup};
pub use hypervisor::detect;
pub use local::{LocalNode, LocalOptions};
pub use process::ProcessError;
pub use spec::{DiskSpec, InstanceSpec, NetworkSpec, NicSpec};
pub use state::{InstanceRun, NodeState, RunState, StorageUnit};
pub use stray::{Stray, StrayKind};
pub use transfer::{Connected, Destination, Receiving, TransferOptions};

/// Why a node did not do what it was asked; the text is what clients see inside the job's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The node does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It was tried, and failed.
    #[error("{0}")]
    Failed(String),
    /// This kind of node cannot do it.
    #[error("{0}")]
    Unsupported(String),
}

pub type Result<T, E = NodeError> = std::result::Result<T, E>;

/// Takes the lines that a script prints, as they come.
pub type Feedback = Arc<dyn Fn(&str) + Send + Sync>;

/// An operating system definition as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsInfo {
    pub name: String,
    /// The directory.
    pub path: String,
    /// Whether it is usable; `diagnose` says why not.
    pub valid: bool,
    pub diagnose: String,
    pub variants: Vec<String>,
    /// Name and description of each parameter.
    pub parameters: Vec<(String, String)>,
    pub api_versions: Vec<i64>,
    /// Whether its create script may run on the node itself.
    pub trusted: bool,
}

/// A provider of external storage as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtProviderInfo {
    pub name: String,
    /// The directory.
    pub path: String,
    /// Whether it is usable; `diagnose` says why not.
    pub valid: bool,
    pub diagnose: String,
    /// Name and description of each parameter.
    pub parameters: Vec<(String, String)>,
}

/// What happened to one hook script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookStatus {
    Success,
    Failed,
    Skipped,
}

/// One hook script's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookResult {
    /// `HPATH-PHASE.d/NAME`.
    pub script: String,
    pub status: HookStatus,
    pub output: String,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPhase {
    Pre,
    Post,
}

impl HookPhase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
        }
    }
}

/// What is known about a disk that is up.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskStatus {
    pub dev_path: Option<String>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of a mirror that is not in sync: how far it is, in percent.
    pub sync_percent: Option<f64>,
    /// Until it is in sync, in seconds.
    pub estimated_time: Option<f64>,
    pub is_degraded: bool,
    /// `okay`, `unknown`, `faulty` or `sync` of the local data, as Ganeti counts them: 1, 2, 3, 4.
    pub ldisk_status: u8,
}

/// A device to plug into or pull out of a running instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Device {
    Disk(DiskSpec),
    Nic(NicSpec),
}

/// What is done with a device of a running instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hotplug {
    Add,
    Modify,
    Remove,
}

/// How to reach an instance's console; the door's `/console` object without the instance's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    Ssh { host: String, port: Option<u16>, user: String, command: Vec<String> },
    Vnc { host: String, port: u16 },
    Spice { host: String, port: u16 },
    Message(String),
}

/// What the scripts of an operating system are run with beside the instance itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OsParams {
    /// Public, private and secret parameters, merged.
    pub values: Dict,
    /// How talkative the scripts are.
    pub debug_level: u64,
    /// The values of private and secret ones: they are masked in what scripts print.
    pub hidden: Vec<String>,
}

/// Shorter values are not masked: they would be found everywhere.
const MASKED_MIN_BYTES: usize = 4;

impl OsParams {
    /// A text without the values that nobody is to see.
    pub fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let mut hidden: Vec<&String> = self.hidden.iter().collect();
        // One value may be a part of another.
        hidden.sort_by_key(|value| std::cmp::Reverse(value.len()));
        for value in hidden.into_iter().filter(|value| value.len() >= MASKED_MIN_BYTES) {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), "<redacted>");
            }
        }
        text
    }
}

/// A disk that goes to a node of another cluster.
pub struct Sending<'a> {
    pub instance: &'a InstanceSpec,
    pub index: usize,
    /// The disk, or a copy of it.
    pub disk: &'a DiskSpec,
    pub destination: &'a Destination,
    pub options: &'a TransferOptions,
    pub params: &'a OsParams,
    pub connected: Connected,
}

/// A disk that comes from a node of another cluster.
pub struct Awaited<'a> {
    pub instance: &'a InstanceSpec,
    pub index: usize,
    pub options: &'a TransferOptions,
    /// The receiving node's own.
    pub address: &'a str,
    /// How long the sender is waited for.
    pub limit: Duration,
    pub params: &'a OsParams,
    pub connected: Connected,
}

/// One storage unit of a node, as `/2/nodes/{n}/storage` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageRow {
    pub kind: StorageType,
    pub name: String,
    pub size_mib: u64,
    pub used_mib: u64,
    pub free_mib: u64,
    pub allocatable: bool,
}

/// A logical volume, as far as it lies on one device.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeRow {
    pub group: String,
    pub name: String,
    pub size_mib: u64,
    pub device: String,
}

/// A node, as the master sees it.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    fn name(&self) -> &str;

    /// What is known about the node now, without asking it: resources, and what runs. Cheap.
    fn state(&self) -> Arc<NodeState>;

    /// What is on the node, looks like ours and belongs to nothing, as it was found last. Cheap.
    fn strays(&self) -> Vec<Stray> {
        Vec::new()
    }

    /// The files below the directories of file-based disks, where the node can list them.
    fn disk_files(&self) -> Option<Vec<String>> {
        None
    }

    /// Counts the changes of [`Node::state`].
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether it answers.
    async fn ping(&self) -> Result<()>;

    /// Which hypervisors it could run.
    fn hypervisors(&self) -> Vec<Hypervisor>;

    // Disks. `primary` is whether the instance runs, or is to run, on this node.

    /// Makes a disk; for one that is adopted, checks that it can be taken.
    async fn create_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()>;
    async fn remove_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()>;
    /// Brings a disk up and answers the device or file to use.
    async fn assemble_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        primary: bool,
    ) -> Result<Option<String>>;
    async fn shutdown_disk(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()>;
    /// Grows by MiB; only checks when it is a dry run.
    async fn grow_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        amount_mib: u64,
        dry_run: bool,
    ) -> Result<()>;
    /// Overwrites a part, in MiB.
    async fn wipe_disk(
        &self,
        instance: &InstanceSpec,
        disk: &DiskSpec,
        offset_mib: u64,
        size_mib: u64,
    ) -> Result<()>;
    /// Copies a disk's content from another disk that is up on this node.
    async fn copy_disk(
        &self,
        instance: &InstanceSpec,
        from: &DiskSpec,
        to: &DiskSpec,
    ) -> Result<()>;
    /// Gives a disk another logical id (rename of a file or volume).
    async fn rename_disk(&self, from: &DiskSpec, to: &DiskSpec) -> Result<()>;
    /// Notes at a disk whose it is, where there is a place for that.
    async fn set_disk_owner(&self, _instance: &InstanceSpec, _disk: &DiskSpec) -> Result<()> {
        Ok(())
    }
    async fn disk_status(&self, disk: &DiskSpec) -> Result<Option<DiskStatus>>;
    /// The size of what a disk is now, in MiB.
    async fn disk_size(&self, disk: &DiskSpec) -> Result<Option<u64>>;
    /// drbd: connects to the peer (or goes on alone), then both sides sync.
    async fn connect_disk(&self, disk: &DiskSpec, multi_primary: bool) -> Result<()>;
    async fn disconnect_disk(&self, disk: &DiskSpec) -> Result<()>;
    /// drbd: takes the local storage off a disk that is up; it goes on with the other side's data.
    async fn detach_storage(&self, disk: &DiskSpec) -> Result<()> {
        Err(NodeError::Unsupported(format!("{} cannot be detached from its storage", disk.iv_name)))
    }
    /// drbd: puts local storage, which is taken for empty, below a disk that has none.
    async fn attach_storage(&self, disk: &DiskSpec) -> Result<()> {
        Err(NodeError::Unsupported(format!("{} cannot be attached to storage", disk.iv_name)))
    }

    // Instances.

    async fn start_instance(&self, instance: &InstanceSpec, paused: bool) -> Result<()>;
    /// Stops gently for at most `timeout`, then by force; stopping what does not run is no error.
    async fn stop_instance(
        &self,
        instance: &InstanceSpec,
        timeout: Duration,
        reason: &str,
    ) -> Result<()>;
    async fn reboot_instance(
        &self,
        instance: &InstanceSpec,
        how: RebootType,
        timeout: Duration,
    ) -> Result<()>;
    /// Sets the memory of a running instance.
    async fn balloon_instance(&self, instance: &InstanceSpec, memory_mib: u64) -> Result<()>;
    /// Prepares to receive a migration.
    async fn accept_instance(&self, instance: &InstanceSpec) -> Result<()>;
    /// Moves a running instance to the node of that name, which accepted it.
    async fn migrate_instance(
        &self,
        instance: &InstanceSpec,
        target: &str,
        live: bool,
    ) -> Result<()>;
    /// Ends a migration on one side: the source forgets, the target keeps, or the other way round.
    async fn finalize_migration(
        &self,
        instance: &InstanceSpec,
        source: bool,
        success: bool,
    ) -> Result<()>;
    async fn hotplug(
        &self,
        instance: &InstanceSpec,
        action: Hotplug,
        device: &Device,
        index: usize,
    ) -> Result<()>;
    /// Which of these bridges the node lacks; `named` are those that the cluster's own settings name.
    async fn missing_bridges(&self, wanted: &[String], named: &[String]) -> Result<Vec<String>>;
    /// Whether devices of the instance as it runs can be changed.
    async fn can_hotplug(&self, instance: &InstanceSpec) -> Result<()>;
    fn console(&self, instance: &InstanceSpec) -> Console;
    /// A picture of what the instance shows, as PNG.
    async fn screenshot(&self, instance: &InstanceSpec) -> Result<Vec<u8>> {
        let text =
            format!("instance {} runs on a simulated node, which has no screen", instance.name);
        Err(NodeError::Unsupported(text))
    }
    /// The hypervisor parameters that a new instance is to have of its own, so that its machine stays what it is when the node's
    /// programs are upgraded.
    async fn lasting_hvparams(&self, _hypervisor: Hypervisor, _hvparams: &Dict) -> Dict {
        Dict::new()
    }
    /// Checks hypervisor parameters that depend on the node: that files they name exist, and so on.
    async fn validate_hvparams(&self, hypervisor: Hypervisor, hvparams: &Dict) -> Result<()>;

    // Operating systems.

    async fn list_os(&self) -> Result<Vec<OsInfo>>;
    /// Runs the definition's `verify` on parameters.
    async fn validate_os(&self, os: &str, params: &OsParams, force_variant: bool) -> Result<()>;
    async fn create_os(
        &self,
        instance: &InstanceSpec,
        reinstall: bool,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()>;
    async fn rename_os(
        &self,
        instance: &InstanceSpec,
        old_name: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()>;

    // Exports on this node.

    /// Copies of all disks as they are at this moment, to be dumped instead of them while the instance runs on; `None` where
    /// that cannot be.
    async fn snapshot_disks(&self, instance: &InstanceSpec) -> Result<Option<Vec<DiskSpec>>>;
    /// Removes one of these copies.
    async fn remove_snapshot(&self, instance: &InstanceSpec, disk: &DiskSpec) -> Result<()>;
    /// Dumps one disk, or a copy of it, into this node's export of the instance, through the export script.
    async fn export_disk(
        &self,
        instance: &InstanceSpec,
        index: usize,
        disk: &DiskSpec,
        target: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()>;
    /// Writes the export's description and puts it in place of an older one.
    async fn finalize_export(
        &self,
        instance: &InstanceSpec,
        target: &str,
        config: &str,
    ) -> Result<()>;
    async fn list_exports(&self) -> Result<Vec<String>>;
    /// The text of `config.ini` of an export, by instance name or path.
    async fn export_info(&self, path: &str) -> Result<String>;
    async fn remove_export(&self, name: &str) -> Result<()>;
    async fn import_disk(
        &self,
        instance: &InstanceSpec,
        index: usize,
        source: &str,
        params: &OsParams,
        out: Feedback,
    ) -> Result<()>;

    // Transfers to and from nodes of other clusters.

    /// Makes a key pair that holds for so long: its name here, and the certificate as PEM.
    async fn create_certificate(&self, validity: Duration) -> Result<(String, String)>;
    async fn remove_certificate(&self, name: &str) -> Result<()>;
    /// Dumps one disk, or a copy of it, to a node that waits for it.
    async fn send_disk(&self, sending: Sending<'_>, out: Feedback) -> Result<()>;
    /// Begins to wait for a dump that fills one disk.
    async fn receive_disk(&self, awaited: Awaited<'_>, out: Feedback) -> Result<Receiving>;

    // The node itself.

    async fn storage_list(&self, kind: StorageType, names: &[String]) -> Result<Vec<StorageRow>>;
    async fn storage_modify(&self, kind: StorageType, name: &str, changes: &Dict) -> Result<()>;
    async fn storage_repair(&self, kind: StorageType, name: &str) -> Result<()>;
    /// The logical volumes that LVM finds; `None` where there is no LVM to ask.
    async fn volumes(&self) -> Result<Option<Vec<VolumeRow>>> {
        Ok(None)
    }
    /// The providers of external storage that it has.
    async fn ext_providers(&self) -> Result<Vec<ExtProviderInfo>> {
        Ok(Vec::new())
    }
    /// Runs the hook scripts of a path and phase with this environment (without the `GANETI_` prefix added).
    async fn run_hooks(
        &self,
        path: &str,
        phase: HookPhase,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<HookResult>>;
    /// Reboots the node and answers what is said about it.
    async fn powercycle(&self, hypervisor: Hypervisor) -> Result<String>;
    /// Runs an external instance allocator on a request and answers what it printed.
    async fn run_iallocator(
        &self,
        name: &str,
        options: &[String],
        request: &Value,
    ) -> Result<String>;
}
