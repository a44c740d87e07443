//! Disks as files: raw, sparse, readable by their owner alone. The same for `file` and `sharedfile`. Also what is done to
//! the content of any disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::FallocateFlags;
use serde_json::Value;

use super::{Driver, device, is_straight};
use crate::spec::DiskSpec;

use crate::{NodeError, Result, fault};

const MIB: u64 = 1 << 20;

/// Files below a directory of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
}

impl Files {
    /// The file that is a disk, whether it is there or not.
    fn path(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let text = disk.logical_id.get(1).and_then(Value::as_str).unwrap_or_default();
        let path = PathBuf::from(text);
        if is_straight(&path) && path != self.dir && path.starts_with(&self.dir) {
            return Ok(path);
        }
        Err(NodeError::Failed(format!(
            "Path '{text}' is not acceptable for file storage: it is not below {}",
            self.dir.display()
        )))
    }
}

#[async_trait]
impl Driver for Files {
    async fn create(&self, disk: &DiskSpec) -> Result<()> {
        create(self.path(disk)?, disk.size_mib).await
    }

    async fn remove(&self, disk: &DiskSpec) -> Result<()> {
        remove(self.path(disk)?, self.dir.clone()).await
    }

    async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let path = self.path(disk)?;
        match size_mib(&path)? {
            Some(_) => Ok(path),
            None => Err(NodeError::Failed(format!("{}: No such file", path.display()))),
        }
    }

    async fn shutdown(&self, disk: &DiskSpec) -> Result<()> {
        // A file is never up.
        self.path(disk).map(drop)
    }

    async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        let path = self.path(disk)?;
        Ok(size_mib(&path)?.map(|_| path))
    }

    async fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()> {
        let path = self.assemble(disk).await?;
        if dry_run { Ok(()) } else { grow(path, amount_mib).await.map(drop) }
    }

    async fn rename(&self, disk: &DiskSpec, new: &DiskSpec) -> Result<()> {
        rename(self.path(disk)?, self.path(new)?, self.dir.clone()).await
    }

    async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        match self.find(disk).await? {
            Some(path) => device::size_bytes(path).await,
            None => Ok(None),
        }
    }
}

/// How long all files below a directory are together, in MiB. Ganeti: holes count (3.0, `utils.CalculateDirectorySize`).
pub(crate) fn used_mib(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            match meta.is_dir() {
                true => dirs.push(entry.path()),
                false => bytes += meta.len(),
            }
        }
    }
    (bytes + MIB / 2) / MIB
}

/// Runs blocking work away from the executor.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    fault::point("before work on a disk's file");
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => {
            fault::point("after work on a disk's file");
            result
        }
        Err(error) => Err(NodeError::Failed(format!("disk work was interrupted: {error}"))),
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> NodeError {
    NodeError::Failed(format!("{}: {what}: {error}", path.display()))
}

/// Makes the directory that a disk's file lies in.
fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(parent);
    made.map_err(|error| failed(path, "can't create", &error))
}

/// Makes the file of a disk, with nothing in it.
pub(crate) async fn create(path: PathBuf, size_mib: u64) -> Result<()> {
    blocking(move || {
        make_parent(&path)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failed(&path, "can't create", &error))?;
        file.set_len(size_mib * MIB).and_then(|()| file.sync_all()).map_err(|error| {
            // The first error is the one to tell.
            let _ = fs::remove_file(&path);
            failed(&path, "can't create", &error)
        })
    })
    .await
}

/// Takes the file away, and its directory when nothing else is in it. What is not there is no error.
pub(crate) async fn remove(path: PathBuf, keep: PathBuf) -> Result<()> {
    blocking(move || {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, "can't remove", &error)),
        }
        if let Some(parent) = path.parent().filter(|parent| *parent != keep) {
            // Other disks may be in it.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    })
    .await
}

/// The size of the file, rounded down; `None` when there is none.
pub(crate) fn size_mib(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Some(meta.len() / MIB)),
        Ok(_) => Err(NodeError::Failed(format!("{}: not a regular file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "can't stat", &error)),
    }
}

/// Makes the file longer by an amount and answers its new length in bytes.
pub(crate) async fn grow(path: PathBuf, amount_mib: u64) -> Result<u64> {
    blocking(move || {
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|error| failed(&path, "can't grow", &error))?;
        let work = || {
            let length = file.metadata()?.len() + amount_mib * MIB;
            file.set_len(length)?;
            file.sync_all()?;
            Ok(length)
        };
        work().map_err(|error| failed(&path, "can't grow", &error))
    })
    .await
}

/// Overwrites a part of a file or device with zeros; what would lie behind its end is left out.
pub(crate) async fn wipe(path: PathBuf, offset_mib: u64, count_mib: u64) -> Result<()> {
    blocking(move || {
        let work = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            let length = file.seek(SeekFrom::End(0))?;
            let start = (offset_mib * MIB).min(length);
            let end = ((offset_mib + count_mib) * MIB).min(length);
            file.seek(SeekFrom::Start(start))?;
            io::copy(&mut io::repeat(0).take(end - start), &mut file)?;
            file.sync_all()
        };
        work().map_err(|error| failed(&path, "can't wipe", &error))
    })
    .await
}

/// Copies the content of one disk, or so many bytes of it, to another that is at least as large; what is zero takes no
/// space in the copy.
pub(crate) async fn copy(from: PathBuf, to: PathBuf, limit: Option<u64>) -> Result<()> {
    blocking(move || {
        let work = || {
            let mut source = File::open(&from)?;
            let mut target = OpenOptions::new().write(true).open(&to)?;
            // A device tells its length in no other way.
            let length = source.seek(SeekFrom::End(0))?;
            let length = limit.map_or(length, |limit| limit.min(length));
            source.rewind()?;
            if target.seek(SeekFrom::End(0))? < length {
                let text = format!("{} is smaller than what is copied to it", to.display());
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            copy_blocks(&mut source.take(length), &target)?;
            target.sync_all()
        };
        work().map_err(|error| failed(&from, "can't copy", &error))
    })
    .await
}

fn copy_blocks(source: &mut impl Read, mut target: &File) -> io::Result<()> {
    let mut block = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match source.read(&mut block[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        let length = u64::try_from(filled).expect("a block's length fits 64 bits");
        let data = &block[..filled];
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let hole = data.iter().all(|byte| *byte == 0)
            && rustix::fs::fallocate(target, flags, offset, length).is_ok();
        if !hole {
            target.seek(SeekFrom::Start(offset))?;
            target.write_all(data)?;
        }
        offset += length;
    }
}

/// Gives the file another name, and takes its old directory away when nothing else is in it.
pub(crate) async fn rename(from: PathBuf, to: PathBuf, keep: PathBuf) -> Result<()> {
    blocking(move || {
        match (from.exists(), to.exists()) {
            (_, false) => {}
            (true, true) => {
                return Err(NodeError::Failed(format!("{}: File exists", to.display())));
            }
            // Whoever renamed it could not say so any more.
            (false, true) => return Ok(()),
        }
        make_parent(&to)?;
        let what = format!("can't rename to {}", to.display());
        fs::rename(&from, &to).map_err(|error| failed(&from, &what, &error))?;
        if let Some(parent) = from.parent().filter(|parent| *parent != keep) {
            // Other disks may be in it.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn files_lie_below_their_directory() {
        let files = Files { dir: "/srv/f".into() };
        let check = |path: &str, expected: bool| {
            let disk: DiskSpec = serde_json::from_value(serde_json::json!({
                "uuid": "u", "name": null, "iv_name": "disk/0", "dev_type": "file",
                "logical_id": ["loop", path], "size_mib": 8, "mode": "rw", "spindles": null,
                "nodes": [], "params": {}, "children": [],
            }))
            .unwrap();
            assert_eq!(files.path(&disk).is_ok(), expected, "{path}");
        };
        check("/srv/f/web/disk0", true);
        check("/srv/f", false);
        check("/srv/f/../g/disk0", false);
        check("/srv/fx/disk0", false);
        check("srv/f/disk0", false);
    }

    #[tokio::test]
    async fn a_disk_lives() {
        let root = tempfile::tempdir().unwrap();
        let keep = root.path().to_owned();
        let path = keep.join("web/disk0");
        create(path.clone(), 8).await.unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (8 * MIB, 0o600));
        assert!(meta.blocks() < 64, "it is sparse");
        let again = create(path.clone(), 8).await.unwrap_err().to_string();
        assert!(again.contains("can't create: File exists"), "{again}");

        assert_eq!(grow(path.clone(), 4).await.unwrap(), 12 * MIB);
        assert_eq!(size_mib(&path).unwrap(), Some(12));
        let mut content = vec![7; 2 << 20];
        content.resize(12 << 20, 0);
        std::fs::write(&path, &content).unwrap();
        let other = keep.join("web/disk1");
        create(other.clone(), 12).await.unwrap();
        copy(path.clone(), other.clone(), None).await.unwrap();
        assert!(std::fs::read(&other).unwrap() == content);
        assert!(other.metadata().unwrap().blocks() * 512 < 4 * MIB, "zeros take no space");

        let short = keep.join("web/short");
        create(short.clone(), 2).await.unwrap();
        let error = copy(path.clone(), short.clone(), None).await.unwrap_err().to_string();
        assert!(error.ends_with("short is smaller than what is copied to it"), "{error}");
        copy(path.clone(), short.clone(), Some(2 * MIB)).await.unwrap();
        assert!(std::fs::read(&short).unwrap() == content[..2 << 20]);
        std::fs::remove_file(short).unwrap();
        assert_eq!(used_mib(&keep), 24);
        wipe(other.clone(), 0, 1).await.unwrap();
        let wiped = std::fs::read(&other).unwrap();
        assert_eq!((wiped[0], wiped[(1 << 20) - 1], wiped[1 << 20]), (0, 0, 7));

        wipe(other.clone(), 11, 9).await.unwrap();
        assert_eq!(size_mib(&other).unwrap(), Some(12), "nothing is added at its end");

        let moved = keep.join("mail/disk1");
        rename(other.clone(), moved.clone(), keep.clone()).await.unwrap();
        assert_eq!((size_mib(&other).unwrap(), size_mib(&moved).unwrap()), (None, Some(12)));
        remove(moved.clone(), keep.clone()).await.unwrap();
        remove(moved, keep.clone()).await.unwrap();
        remove(path, keep.clone()).await.unwrap();
        assert_eq!(std::fs::read_dir(&keep).unwrap().count(), 0);
    }
}
