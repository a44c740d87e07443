//! Disks on this machine: which template is kept where. What a template's disk is made of lies in a file of its own;
//! `diskless` instances have none, so nothing stands for them here.

mod file;

use std::path::{Component, Path, PathBuf};

use model::param::{DiskTemplate, StorageType};

use crate::spec::DiskSpec;
use crate::state::StorageUnit;
use crate::{NodeError, Result, StorageRow, host};

pub(crate) use file::{copy, create, grow, remove, rename, size_mib, wipe};

/// The directories that disks may lie in.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) file_dir: PathBuf,
    pub(crate) shared_file_dir: PathBuf,
}

impl Storage {
    /// The file that is a disk.
    pub(crate) fn path(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let dir = match disk.dev_type {
            DiskTemplate::File => &self.file_dir,
            DiskTemplate::Sharedfile => &self.shared_file_dir,
            DiskTemplate::Blockdev
            | DiskTemplate::Diskless
            | DiskTemplate::Drbd
            | DiskTemplate::Ext
            | DiskTemplate::Gluster
            | DiskTemplate::Plain
            | DiskTemplate::Rbd => {
                return Err(NodeError::Unsupported(format!(
                    "disk template '{}' is not there yet on a real node; use 'file', 'sharedfile' or 'diskless'",
                    disk.dev_type
                )));
            }
        };
        let text = disk.logical_id.get(1).and_then(serde_json::Value::as_str).unwrap_or("");
        let path = PathBuf::from(text);
        if !is_below(dir, &path) {
            return Err(NodeError::Failed(format!(
                "Path '{text}' is not acceptable for file storage: it is not below {}",
                dir.display()
            )));
        }
        Ok(path)
    }

    /// What a disk is copied from: another disk, or an image that lies anywhere on this machine, as Ganeti allows.
    pub(crate) fn source(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let text = disk.logical_id.get(1).and_then(serde_json::Value::as_str).unwrap_or("");
        match self.path(disk) {
            Err(NodeError::Failed(_)) if is_straight(Path::new(text)) => Ok(PathBuf::from(text)),
            path => path,
        }
    }

    /// What the node's state tells about storage.
    pub(crate) fn units(&self) -> Vec<StorageUnit> {
        let unit = |kind, dir: &Path| {
            let (total_mib, free_mib) = host::space(dir)?;
            Some(StorageUnit { kind, key: dir.display().to_string(), total_mib, free_mib })
        };
        let units = [
            unit(StorageType::File, &self.file_dir),
            unit(StorageType::Sharedfile, &self.shared_file_dir),
        ];
        units.into_iter().flatten().collect()
    }

    /// The storage units of a kind, as `/2/nodes/{n}/storage` lists them.
    pub(crate) fn rows(&self, kind: StorageType, names: &[String]) -> Result<Vec<StorageRow>> {
        match kind {
            StorageType::File | StorageType::Sharedfile => {
                let units = self.units().into_iter().filter(|unit| unit.kind == kind);
                let wanted = units.filter(|unit| names.is_empty() || names.contains(&unit.key));
                let row = |unit: StorageUnit| StorageRow {
                    kind,
                    used_mib: unit.total_mib.saturating_sub(unit.free_mib),
                    name: unit.key,
                    size_mib: unit.total_mib,
                    free_mib: unit.free_mib,
                    allocatable: true,
                };
                Ok(wanted.map(row).collect())
            }
            StorageType::Diskless => Ok(Vec::new()),
            StorageType::Blockdev
            | StorageType::Ext
            | StorageType::Gluster
            | StorageType::LvmPv
            | StorageType::LvmVg
            | StorageType::Rados => Err(NodeError::Unsupported(format!(
                "storage type '{kind}' is not there yet on a real node"
            ))),
        }
    }
}

/// Whether a path is absolute and without detours.
pub(crate) fn is_straight(path: &Path) -> bool {
    let mut parts = path.components();
    path.is_absolute()
        && parts.all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Whether a path is absolute, without detours, and truly below a directory.
fn is_below(dir: &Path, path: &Path) -> bool {
    is_straight(path) && path != dir && path.starts_with(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_must_lie_below_their_directory() {
        let check =
            |path, expected| assert_eq!(is_below(Path::new("/srv/f"), Path::new(path)), expected);
        check("/srv/f/web/disk0", true);
        check("/srv/f", false);
        check("/srv/f/../g/disk0", false);
        check("/srv/fx/disk0", false);
        check("srv/f/disk0", false);
    }
}
