//! Disk template `blockdev`: devices of this machine that were there before and stay. Also what any block device is asked.

use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::Value;

use super::Driver;
use super::file::blocking;
use crate::spec::DiskSpec;
use crate::{NodeError, Result};

/// Where devices must lie, links followed.
const ROOT: &str = "/dev";

/// Adopted devices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adopted;

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// Whether a path is a block device now.
pub(crate) fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.file_type().is_block_device())
}

/// The size of a device or file; `None` when it cannot be opened because it is not there.
pub(crate) async fn size_bytes(path: PathBuf) -> Result<Option<u64>> {
    blocking(move || {
        let sought = std::fs::File::open(&path).and_then(|mut file| file.seek(SeekFrom::End(0)));
        match sought {
            Ok(size) => Ok(Some(size)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(format!("{}: can't find its size: {error}", path.display()))),
        }
    })
    .await
}

/// The device of a disk, whether it is there or not.
fn path(disk: &DiskSpec) -> Result<PathBuf> {
    let part = |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
    if part(0) != "manual" {
        return Err(failed(format!("Got persistent block device of invalid type: {}", part(0))));
    }
    let path = PathBuf::from(part(1));
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    if !super::is_straight(&path) || !real.starts_with(ROOT) {
        return Err(failed(format!("Full path '{}' lies outside {ROOT}", real.display())));
    }
    Ok(path)
}

#[async_trait]
impl Driver for Adopted {
    async fn create(&self, disk: &DiskSpec) -> Result<()> {
        self.assemble(disk).await.map(drop)
    }

    async fn remove(&self, _disk: &DiskSpec) -> Result<()> {
        // It was not made here.
        Ok(())
    }

    async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let path = path(disk)?;
        match is_block_device(&path) {
            true => Ok(path),
            false => Err(failed(format!("{} is not a block device", path.display()))),
        }
    }

    async fn shutdown(&self, _disk: &DiskSpec) -> Result<()> {
        Ok(())
    }

    async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        Ok(Some(path(disk)?).filter(|path| is_block_device(path)))
    }

    async fn grow(&self, _disk: &DiskSpec, _amount_mib: u64, _dry_run: bool) -> Result<()> {
        Err(failed("Grow is not supported for PersistentBlockDev storage"))
    }

    async fn rename(&self, _disk: &DiskSpec, _new: &DiskSpec) -> Result<()> {
        Err(failed("Rename is not supported for PersistentBlockDev storage"))
    }

    async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        match self.find(disk).await? {
            Some(path) => size_bytes(path).await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn disk(kind: &str, path: &str) -> DiskSpec {
        serde_json::from_value(json!({
            "uuid": "u", "name": null, "iv_name": "disk/0", "dev_type": "blockdev",
            "logical_id": [kind, path], "size_mib": 8, "mode": "rw", "spindles": null,
            "nodes": [], "params": {}, "children": [],
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn only_devices_below_dev_are_taken() {
        let check = async |kind: &str, path: &str, expected: &str| {
            let error = Adopted.create(&disk(kind, path)).await.unwrap_err().to_string();
            assert_eq!(error, expected);
        };
        check("loop", "/dev/x", "Got persistent block device of invalid type: loop").await;
        check("manual", "/etc/passwd", "Full path '/etc/passwd' lies outside /dev").await;
        check("manual", "/dev/../etc/passwd", "Full path '/etc/passwd' lies outside /dev").await;
        check("manual", "/dev/null", "/dev/null is not a block device").await;
        check("manual", "/dev/none-such", "/dev/none-such is not a block device").await;
        assert_eq!(Adopted.size_bytes(&disk("manual", "/dev/none-such")).await.unwrap(), None);
        let error = Adopted.grow(&disk("manual", "/dev/null"), 1, true).await.unwrap_err();
        assert_eq!(error.to_string(), "Grow is not supported for PersistentBlockDev storage");
    }
}
