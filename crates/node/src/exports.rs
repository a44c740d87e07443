//! Exports on this node: one directory per instance, with a dump per disk and a description. A new export grows beside
//! the old one and takes its place at the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use crate::storage::is_straight;
use crate::{NodeError, Result};

/// What describes an export.
const CONFIG: &str = "config.ini";

/// The directory of exports.
pub(crate) struct Exports {
    pub(crate) dir: PathBuf,
}

fn failed(path: &Path, error: &io::Error) -> NodeError {
    NodeError::Failed(format!("{}: {error}", path.display()))
}

/// A name is one part of a path.
pub(crate) fn plain(name: &str) -> Result<&str> {
    match Path::new(name).components().collect::<Vec<_>>().as_slice() {
        [Component::Normal(only)] if **only == *name => Ok(name),
        _ => Err(NodeError::Failed(format!("'{name}' is no name of an export"))),
    }
}

impl Exports {
    /// The export as it grows.
    fn growing(&self, name: &str) -> Result<PathBuf> {
        Ok(self.dir.join(format!("{}.new", plain(name)?)))
    }

    /// What is read: by its name here, or by a path, which may lie anywhere, as Ganeti allows.
    fn locate(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if is_straight(&path) {
            return Ok(path);
        }
        Err(NodeError::Failed(format!("'{name}' is no name of an export")))
    }

    /// Makes the file of a dump in an instance's new export.
    pub(crate) fn new_dump(&self, instance: &str, dump: &str) -> Result<File> {
        let dir = self.growing(instance)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&dir);
        made.map_err(|error| failed(&dir, &error))?;
        let path = dir.join(plain(dump)?);
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.map_err(|error| failed(&path, &error))
    }

    /// Writes the description and puts the new export in place of the old one.
    pub(crate) fn finalize(&self, instance: &str, config: &str) -> Result<()> {
        let (new, target) = (self.growing(instance)?, self.dir.join(plain(instance)?));
        let path = new.join(CONFIG);
        let work = || {
            // An instance without disks has no dump that made the directory.
            fs::DirBuilder::new().recursive(true).mode(0o750).create(&new)?;
            // It tells private parameters.
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&path)?;
            file.write_all(config.as_bytes())?;
            file.sync_all()?;
            if target.exists() {
                fs::remove_dir_all(&target)?;
            }
            fs::rename(&new, &target)
        };
        work().map_err(|error| failed(&path, &error))
    }

    /// The names of all complete exports.
    pub(crate) fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let complete = entries.filter(|entry| entry.path().join(CONFIG).is_file());
        let mut names: Vec<String> =
            complete.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.ends_with(".new"));
        names.sort();
        names
    }

    pub(crate) fn info(&self, name: &str) -> Result<String> {
        let path = self.locate(name)?.join(CONFIG);
        // Ganeti's words (3.0, `backend.py` ExportInfo).
        let missing =
            || NodeError::Failed("Export info file doesn't have the required fields".into());
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
        let complete = text.contains("[export]") && text.contains("[instance]");
        if complete { Ok(text) } else { Err(missing()) }
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(plain(name)?);
        // Ganeti's words (3.0, `backend.py` RemoveExport).
        fs::remove_dir_all(&path)
            .map_err(|error| NodeError::Failed(format!("Error while removing the export: {error}")))
    }

    /// Opens a dump.
    pub(crate) fn open_dump(&self, source: &str) -> Result<File> {
        let path = self.locate(source)?;
        File::open(&path).map_err(|error| failed(&path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_replaces_the_one_before() {
        let root = tempfile::tempdir().unwrap();
        let exports = Exports { dir: root.path().to_owned() };
        for text in ["one", "two"] {
            exports.new_dump("web", "disk0").unwrap().write_all(text.as_bytes()).unwrap();
            let before = if text == "one" { 0 } else { 1 };
            assert_eq!(exports.list().len(), before);
            exports.finalize("web", "[export]\n[instance]\n").unwrap();
        }
        assert_eq!(exports.list(), ["web"]);
        assert!(exports.info("web").unwrap().contains("[export]"));
        let dump = exports.dir.join("web/disk0").display().to_string();
        assert_eq!(io::read_to_string(exports.open_dump(&dump).unwrap()).unwrap(), "two");
        assert!(exports.open_dump("../x").is_err());
        assert!(exports.remove("../x").is_err());
        exports.remove("web").unwrap();
        assert!(exports.list().is_empty());
    }
}
