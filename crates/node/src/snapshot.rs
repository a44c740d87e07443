//! Copies of an instance's disks as they are at one moment, to be dumped while the instance runs on. QEMU makes them of a
//! running instance, all disks at the same moment; files of a stopped one are cloned where the file system can do that.
//! They are files below the node's own directory, and none outlives the program.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::param::DiskTemplate;
use rustix::io::Errno;
use serde_json::json;

use crate::hypervisor::kvm::Kvm;
use crate::spec::{DiskSpec, InstanceSpec};
use crate::{NodeError, Result, fault};

fn failed(path: &Path, error: &io::Error) -> NodeError {
    NodeError::Failed(format!("{}: {error}", path.display()))
}

/// Copies all disks; `None` where that cannot be done in a moment.
pub(crate) async fn take(
    dir: &Path,
    kvm: &Kvm,
    instance: &InstanceSpec,
    sources: &[PathBuf],
) -> Result<Option<Vec<DiskSpec>>> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| failed(dir, &error))?;
    let copies: Vec<DiskSpec> = instance.disks.iter().map(|disk| copy_of(dir, disk)).collect();
    let targets: Vec<PathBuf> = copies.iter().map(|copy| path_of(dir, copy)).collect();
    let taken = match kvm.copy_disks(&instance.name, &instance.disks, &targets).await {
        Ok(true) => Ok(true),
        Ok(false) => clone_all(sources, &targets),
        Err(error) => Err(error),
    };
    if !matches!(taken, Ok(true)) {
        for target in &targets {
            // What was not made cannot be removed.
            let _ = fs::remove_file(target);
        }
    }
    Ok(taken?.then_some(copies))
}

/// What a copy is: a file of its own.
fn copy_of(dir: &Path, disk: &DiskSpec) -> DiskSpec {
    let uuid = uuid::Uuid::new_v4().to_string();
    DiskSpec {
        dev_type: DiskTemplate::File,
        logical_id: vec![json!("loop"), json!(dir.join(&uuid).display().to_string())],
        uuid: model::name::Uuid::new(uuid),
        name: None,
        children: Vec::new(),
        ..disk.clone()
    }
}

fn path_of(dir: &Path, copy: &DiskSpec) -> PathBuf {
    dir.join(copy.uuid.as_str())
}

/// Makes an empty file for a copy.
pub(crate) fn make(target: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)
}

/// Clones files, which share their blocks until one is written to; answers whether the file system can do that.
fn clone_all(sources: &[PathBuf], targets: &[PathBuf]) -> Result<bool> {
    fault::point("before disks are cloned");
    for (source, target) in sources.iter().zip(targets) {
        let from = File::open(source).map_err(|error| failed(source, &error))?;
        let to = make(target).map_err(|error| failed(target, &error))?;
        match rustix::fs::ioctl_ficlone(&to, &from) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL) => return Ok(false),
            Err(error) => return Err(failed(target, &error.into())),
        }
    }
    fault::point("after disks were cloned");
    Ok(true)
}

pub(crate) fn remove(dir: &Path, copy: &DiskSpec) -> Result<()> {
    let path = path_of(dir, copy);
    fs::remove_file(&path).map_err(|error| failed(&path, &error))
}

/// Removes what an earlier program left: nobody dumps it any more.
pub(crate) fn forget_all(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "old copies of disks can't be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_whole_or_not_made() {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (root.path().join("a"), root.path().join("b"));
        fs::write(&source, b"content").unwrap();
        match clone_all(std::slice::from_ref(&source), std::slice::from_ref(&target)).unwrap() {
            true => assert_eq!(fs::read(&target).unwrap(), b"content"),
            false => assert_eq!(fs::read(&target).unwrap(), b""),
        }
        let nothing = root.path().join("c");
        assert!(clone_all(&[nothing], &[root.path().join("d")]).is_err());
    }
}
