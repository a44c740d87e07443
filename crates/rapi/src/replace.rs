//! Replacing a file as a whole: readers see the old one or the new one, and after a crash there is one of the two.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Writes a file. One that is there is replaced and stays with its owner; a new one of root's is its directory's owner's, whose
/// server is to read it.
pub(crate) fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let directory = directory_of(path);
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?);
    name.push(format!(".{}.{:08x}", std::process::id(), rand::random::<u32>()));
    let temporary = directory.join(name);
    let written = write(&temporary, path, text, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // it may not even have been made
    }
    written?;
    File::open(&directory)?.sync_all()
}

fn write(temporary: &Path, path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?; // whatever the umask is
    let like = match fs::metadata(path) {
        Err(_) if geteuid().is_root() => fs::metadata(directory_of(path)),
        like => like,
    };
    if let Ok(old) = like {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
    }
    file.write_all(text)?;
    file.sync_all()
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
