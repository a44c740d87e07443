//! Disks on this machine: one driver per disk template, chosen in one table. `diskless` instances have none, so nothing
//! stands for them here.

mod device;
mod ext;
mod file;
mod lvm;

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use model::param::{DiskTemplate, StorageType};
use serde_json::Value;

use crate::spec::DiskSpec;
use crate::state::StorageUnit;
use crate::{DiskStatus, ExtProviderInfo, NodeError, Result, StorageRow, host};

use self::device::Adopted;
use self::ext::Ext;
use self::file::Files;
use self::lvm::Lvm;

pub(crate) use ext::providers;
pub(crate) use file::{copy, wipe};
pub(crate) use lvm::volumes;

/// What a disk template is made of. A disk that is up is a file or device of this machine.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    /// Makes a disk; one that is adopted must be there.
    async fn create(&self, disk: &DiskSpec) -> Result<()>;
    /// Removes a disk; one that is not there is no error.
    async fn remove(&self, disk: &DiskSpec) -> Result<()>;
    /// Brings a disk up and answers where it is. What is up stays so.
    async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf>;
    async fn shutdown(&self, disk: &DiskSpec) -> Result<()>;
    /// Where a disk is, if it is there.
    async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>>;
    /// Makes a disk larger; with `dry_run` only looks whether it could be.
    async fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()>;
    /// Gives a disk another id.
    async fn rename(&self, disk: &DiskSpec, new: &DiskSpec) -> Result<()>;
    /// Notes at the disk itself whose it is, where there is a place for that.
    async fn set_info(&self, _disk: &DiskSpec, _info: &str) -> Result<()> {
        Ok(())
    }
    /// Whether a disk is there only in name.
    async fn is_lost(&self, _disk: &DiskSpec) -> Result<bool> {
        Ok(false)
    }
    async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>>;
}

/// Where disks may lie, and what is known of the space there.
pub(crate) struct Storage {
    files: Files,
    shared_files: Files,
    lvm: Lvm,
    ext: Ext,
    /// The types that the cluster uses, the default one first.
    types: Vec<StorageType>,
    /// Volume groups as last looked at: LVM is too slow to be asked each time.
    groups: Mutex<Vec<StorageUnit>>,
}

/// What a [`Storage`] is made from.
#[derive(Clone, Debug)]
pub(crate) struct StorageOptions {
    pub(crate) file_dir: PathBuf,
    pub(crate) shared_file_dir: PathBuf,
    pub(crate) types: Vec<StorageType>,
    pub(crate) ext_search_path: Vec<PathBuf>,
    pub(crate) log_dir: PathBuf,
}

impl Storage {
    pub(crate) fn new(options: StorageOptions) -> Arc<Self> {
        Arc::new(Self {
            files: Files { dir: options.file_dir },
            shared_files: Files { dir: options.shared_file_dir },
            lvm: Lvm,
            ext: Ext { search_path: options.ext_search_path, log_dir: options.log_dir },
            types: options.types,
            groups: Mutex::new(Vec::new()),
        })
    }

    /// Who makes the disks of a template.
    fn driver(&self, template: DiskTemplate) -> Result<&dyn Driver> {
        match template {
            DiskTemplate::File => Ok(&self.files),
            DiskTemplate::Sharedfile => Ok(&self.shared_files),
            DiskTemplate::Blockdev => Ok(&Adopted),
            DiskTemplate::Plain => Ok(&self.lvm),
            DiskTemplate::Ext => Ok(&self.ext),
            DiskTemplate::Diskless
            | DiskTemplate::Drbd
            | DiskTemplate::Gluster
            | DiskTemplate::Rbd => Err(NodeError::Unsupported(format!(
                "disk template '{template}' is not there yet on a real node; use 'file', 'sharedfile', 'plain', \
                 'blockdev', 'ext' or 'diskless'"
            ))),
        }
    }

    /// Makes a disk for an instance and brings it up.
    pub(crate) async fn create(&self, disk: &DiskSpec, instance: &str) -> Result<()> {
        let driver = self.driver(disk.dev_type)?;
        driver.create(disk).await.map_err(|error| within("Can't create block device", &error))?;
        driver.assemble(disk).await.map_err(|error| {
            within("Can't assemble device after creation, unusual event", &error)
        })?;
        self.set_owner(disk, instance).await?;
        self.measure_for(disk).await;
        Ok(())
    }

    /// Notes at a disk which instance it was made for.
    pub(crate) async fn set_owner(&self, disk: &DiskSpec, instance: &str) -> Result<()> {
        let info = format!("originstname+{instance}");
        let noted = self.driver(disk.dev_type)?.set_info(disk, &info).await;
        noted.map_err(|error| within("Failed to set information on block device", &error))
    }

    pub(crate) async fn remove(&self, disk: &DiskSpec) -> Result<()> {
        self.driver(disk.dev_type)?.remove(disk).await?;
        self.measure_for(disk).await;
        Ok(())
    }

    pub(crate) async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let assembled = self.driver(disk.dev_type)?.assemble(disk).await;
        assembled.map_err(|error| within("Error while assembling disk", &error))
    }

    pub(crate) async fn shutdown(&self, disk: &DiskSpec) -> Result<()> {
        self.driver(disk.dev_type)?.shutdown(disk).await
    }

    /// Where a disk is; one that is not there is an error.
    pub(crate) async fn path(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let found = self.driver(disk.dev_type)?.find(disk).await?;
        found.ok_or_else(|| {
            NodeError::Failed(format!(
                "Block device error: Block device '{}' is not set up.",
                disk.iv_name
            ))
        })
    }

    pub(crate) async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        self.driver(disk.dev_type)?.find(disk).await
    }

    /// What a disk is copied from: another disk, or an image that lies anywhere on this machine, as Ganeti allows.
    pub(crate) async fn source(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        let text = disk.logical_id.get(1).and_then(Value::as_str).unwrap_or_default();
        let path = PathBuf::from(text);
        match self.find(disk).await {
            Err(NodeError::Failed(_))
                if disk.dev_type == DiskTemplate::File && is_straight(&path) && path.exists() =>
            {
                Ok(Some(path))
            }
            found => found,
        }
    }

    pub(crate) async fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()> {
        let grown = self.driver(disk.dev_type)?.grow(disk, amount_mib, dry_run).await;
        grown.map_err(|error| within("Failed to grow block device", &error))?;
        self.measure_for(disk).await;
        Ok(())
    }

    pub(crate) async fn rename(&self, disk: &DiskSpec, new: &DiskSpec) -> Result<()> {
        if disk.logical_id == new.logical_id {
            return Ok(());
        }
        self.driver(disk.dev_type)?.rename(disk, new).await
    }

    pub(crate) async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        self.driver(disk.dev_type)?.size_bytes(disk).await
    }

    /// What is known of a disk; `None` when it is not there.
    pub(crate) async fn status(&self, disk: &DiskSpec) -> Result<Option<DiskStatus>> {
        use std::os::unix::fs::MetadataExt;
        let driver = self.driver(disk.dev_type)?;
        let found = driver.find(disk).await;
        let found = found.map_err(|error| within("Failed to find device", &error))?;
        let Some(path) = found else { return Ok(None) };
        let numbers = path.metadata().ok().filter(|_| device::is_block_device(&path));
        let numbers = numbers.map(|meta| meta.rdev());
        let lost = driver.is_lost(disk).await?;
        Ok(Some(DiskStatus {
            dev_path: Some(path.display().to_string()),
            major: numbers.map(rustix::fs::major),
            minor: numbers.map(rustix::fs::minor),
            sync_percent: None,
            estimated_time: None,
            is_degraded: lost,
            // Ganeti: okay, or faulty.
            ldisk_status: if lost { 3 } else { 1 },
        }))
    }

    /// Looks at the space that only LVM can tell.
    pub(crate) async fn measure(&self) {
        let groups = lvm::groups().await;
        *self.groups.lock().unwrap_or_else(PoisonError::into_inner) = groups;
    }

    async fn measure_for(&self, disk: &DiskSpec) {
        if disk.dev_type == DiskTemplate::Plain {
            self.measure().await;
        }
    }

    /// What the node's state tells about storage: directories and volume groups, those that the cluster uses first.
    pub(crate) fn units(&self) -> Vec<StorageUnit> {
        let directory = |kind, dir: &Path| {
            let (total_mib, free_mib) = host::space(dir)?;
            Some(StorageUnit { kind, key: dir.display().to_string(), total_mib, free_mib })
        };
        let mut units: Vec<StorageUnit> = [
            directory(StorageType::File, &self.files.dir),
            directory(StorageType::Sharedfile, &self.shared_files.dir),
        ]
        .into_iter()
        .flatten()
        .collect();
        units.extend(self.groups.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let place = |unit: &StorageUnit| self.types.iter().position(|kind| *kind == unit.kind);
        units.sort_by_key(|unit| place(unit).unwrap_or(usize::MAX));
        units
    }

    /// The storage units of a kind, as `/2/nodes/{n}/storage` lists them.
    pub(crate) async fn rows(
        &self,
        kind: StorageType,
        names: &[String],
    ) -> Result<Vec<StorageRow>> {
        let dir = match kind {
            StorageType::File => &self.files.dir,
            StorageType::Sharedfile => &self.shared_files.dir,
            StorageType::LvmPv | StorageType::LvmVg => return lvm::storage_rows(kind, names).await,
            StorageType::Diskless => return Ok(Vec::new()),
            StorageType::Blockdev
            | StorageType::Ext
            | StorageType::Gluster
            | StorageType::Rados => return Err(unknown(kind)),
        };
        let name = dir.display().to_string();
        if !names.is_empty() && !names.contains(&name) {
            return Ok(Vec::new());
        }
        let (dir, space) = (dir.clone(), host::space(dir).unwrap_or_default());
        let used_mib = file::blocking(move || Ok(file::used_mib(&dir))).await?;
        let (size_mib, free_mib) = space;
        Ok(vec![StorageRow { kind, name, size_mib, used_mib, free_mib, allocatable: true }])
    }

    /// Changes what can be changed of a storage unit: whether volumes may be made on a physical one.
    pub(crate) async fn modify(
        &self,
        kind: StorageType,
        name: &str,
        allocatable: Option<bool>,
    ) -> Result<()> {
        let done = match (kind, allocatable) {
            (_, None) => Ok(()),
            (StorageType::LvmPv, Some(allocatable)) => {
                lvm::set_allocatable(name, allocatable).await
            }
            (_, Some(_)) => Err(NodeError::Failed(
                "Unable to modify the followingfields: ['allocatable']".into(),
            )),
        };
        done.map_err(|error| within("Error while executing backend function", &error))
    }

    /// Makes a volume group whole again after devices were lost.
    pub(crate) async fn repair(&self, kind: StorageType, name: &str) -> Result<()> {
        match kind {
            StorageType::LvmVg => {
                let done = lvm::repair(name).await;
                done.map_err(|error| within("Error while executing backend function", &error))
            }
            _ => Err(unknown(kind)),
        }
    }

    pub(crate) fn providers(&self) -> Vec<ExtProviderInfo> {
        providers(&self.ext.search_path)
    }
}

fn unknown(kind: StorageType) -> NodeError {
    let text = format!("Error while executing backend function: Unknown storage type: '{kind}'");
    NodeError::Failed(text)
}

/// An error with what it happened in; what is not there yet is said as it is.
fn within(what: &str, error: &NodeError) -> NodeError {
    match error {
        NodeError::Failed(text) => NodeError::Failed(format!("{what}: {text}")),
        NodeError::Unreachable(_) | NodeError::Unsupported(_) => error.clone(),
    }
}

/// Whether a path is absolute and without detours.
pub(crate) fn is_straight(path: &Path) -> bool {
    let mut parts = path.components();
    path.is_absolute()
        && parts.all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}
