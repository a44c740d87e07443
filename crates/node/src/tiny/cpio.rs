//! Archives in the form the kernel unpacks as its first file system (`newc` cpio).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive that is being written; everything in it belongs to root.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.inode += 1;
        let length = |count: usize| u32::try_from(count).expect("files in it are small");
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length(data.len()),
            0,
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    pub(crate) fn character_device(&mut self, name: &str, mode: u32, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | mode, &[], (major, minor));
    }

    /// Adds what is in a directory, in the order of names.
    pub(crate) fn tree(&mut self, root: &Path) -> io::Result<()> {
        self.directory(root, "")
    }

    fn directory(&mut self, dir: &Path, prefix: &str) -> io::Result<()> {
        let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let (kind, path) = (entry.file_type()?, entry.path());
            let mode = fs::symlink_metadata(&path)?.permissions().mode() & 0o777;
            if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                let target = target.as_os_str().as_encoded_bytes();
                self.entry(&name, SYMLINK | 0o777, target, (0, 0));
            } else if kind.is_dir() {
                self.entry(&name, DIRECTORY | mode, &[], (0, 0));
                self.directory(&path, &format!("{name}/"))?;
            } else {
                self.entry(&name, REGULAR | mode, &fs::read(&path)?, (0, 0));
            }
        }
        Ok(())
    }

    /// Ends the archive and answers its bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_kernels_form() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "hi").unwrap();
        fs::set_permissions(root.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut archive = Archive::default();
        archive.tree(root.path()).unwrap();
        archive.character_device("console", 0o600, 5, 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let expected = "07070100000001000081ED000000000000000000000001000000000000000200000000000000000000000000000000000000020000000\
                        0a\0hi\0\0";
        assert!(text.starts_with(expected), "{text:?}");
        assert!(text.contains("00002180"), "{text:?}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
