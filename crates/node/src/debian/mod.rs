//! The bundled operating system `debian`: a Debian made by debootstrap when an instance is created. It boots with the kernel
//! and the first file system of `tiny`, so that no boot loader has to be put onto the disk.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use model::param::Dict;

use crate::{Feedback, tiny};

/// The name of the definition.
pub const NAME: &str = "debian";

const SCRIPTS: &[(&str, &str)] = &[
    ("create", include_str!("create")),
    ("export", include_str!("../tiny/os/export")),
    ("import", include_str!("../tiny/os/import")),
    ("rename", include_str!("../tiny/os/rename")),
    ("verify", include_str!("verify")),
];
const LISTS: &[(&str, &str)] =
    &[("ganeti_api_version", "20\n"), ("parameters.list", include_str!("parameters.list"))];

/// The hypervisor parameters that its instances boot with.
pub fn hvparams(os_dir: &Path) -> Dict {
    tiny::hvparams(os_dir)
}

/// Makes `debian` in a directory of definitions, and `tiny` where it is not there; `progress` is told each step.
pub async fn install(os_dir: &Path, progress: Feedback) -> Result<(), tiny::TinyError> {
    if !tiny::is_installed(os_dir) {
        tiny::install(os_dir, progress.clone()).await?;
    }
    let dir = os_dir.join(NAME);
    let wrong = |source| tiny::TinyError::File { path: dir.display().to_string(), source };
    write(&dir).map_err(wrong)?;
    progress(&format!("debian is in {}; it needs debootstrap when it is installed", dir.display()));
    Ok(())
}

fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (files, mode) in [(SCRIPTS, 0o755), (LISTS, 0o644)] {
        for (name, text) in files {
            fs::write(dir.join(name), text)?;
            fs::set_permissions(dir.join(name), Permissions::from_mode(mode))?;
        }
    }
    for name in ["kernel", "initrd"] {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("../tiny").join(name), link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_one() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join(NAME)).unwrap();
        write(&root.path().join(NAME)).unwrap();
        let os = crate::os::read(NAME, &[root.path().to_owned()]).unwrap();
        assert!(os.has_create && os.parameters.iter().any(|(name, _)| name == "suite"));
    }
}
