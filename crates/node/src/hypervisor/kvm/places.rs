//! Where the hypervisor keeps its things. Sockets need short paths, so theirs may be elsewhere than the rest.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::{NodeError, Result};

/// The longest path of a socket, in bytes, with the end that C wants.
const SOCKET_PATH_MAX: usize = 107;
/// What follows the directory of sockets in a socket's path: a UUID and a name.
const SOCKET_NAME_MAX: usize = 1 + 36 + 1 + "console".len();

/// Where the hypervisor keeps its things, and what it tells clients.
#[derive(Clone, Debug)]
pub(crate) struct KvmPlaces {
    pub(crate) node_name: String,
    pub(crate) data_dir: PathBuf,
    /// Where sockets should lie; another place is taken when the path is too long for them.
    pub(crate) run_dir: PathBuf,
    /// This program, for the command that clients are told to run.
    pub(crate) rapid_binary: PathBuf,
    /// Whether instances are held within their memory and processors by control groups.
    pub(crate) limit_instances: bool,
    /// Where a kernel to try `/dev/kvm` with may be found.
    pub(crate) os_search_path: Vec<PathBuf>,
}

/// The directory of sockets: the one wanted, or a short one that follows from it, private to this user.
pub(crate) fn socket_dir(places: &KvmPlaces) -> Result<PathBuf> {
    let fail = |path: &Path, error: std::io::Error| {
        NodeError::Failed(format!("can't make the run directory {}: {error}", path.display()))
    };
    let wanted = places.run_dir.join("sockets");
    make_private_dir(&wanted).map_err(|error| fail(&wanted, error))?;
    let wanted = wanted.canonicalize().map_err(|error| fail(&wanted, error))?;
    if wanted.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX {
        return Ok(wanted);
    }
    let hash = fnv1a(wanted.as_os_str().as_encoded_bytes());
    let user = rustix::process::getuid();
    let short = match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if dir.is_dir() && dir.as_os_str().len() < 40 => {
            dir.join(format!("rapid-{hash:016x}"))
        }
        _ => PathBuf::from(format!("/tmp/rapid-{}-{hash:016x}", user.as_raw())),
    };
    make_private_dir(&short).map_err(|error| fail(&short, error))?;
    // Anybody could have made it in /tmp.
    let meta = fs::symlink_metadata(&short).map_err(|error| fail(&short, error))?;
    if !meta.is_dir() || meta.uid() != user.as_raw() || meta.mode() & 0o077 != 0 {
        let text = format!("{} is not a private directory of this user", short.display());
        return Err(NodeError::Failed(text));
    }
    Ok(short)
}

/// A short number for a path; it must be the same in every version of this program.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Makes a directory that others cannot enter.
pub(crate) fn make_private_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn places(dir: &Path) -> KvmPlaces {
        KvmPlaces {
            node_name: "here".into(),
            data_dir: dir.to_owned(),
            run_dir: dir.join("run"),
            rapid_binary: "/usr/bin/rapid".into(),
            limit_instances: false,
            os_search_path: vec![],
        }
    }

    #[test]
    fn sockets_lie_where_their_paths_are_short_enough() {
        let root = tempfile::tempdir().unwrap();
        let near = socket_dir(&places(root.path())).unwrap();
        assert_eq!(near, root.path().canonicalize().unwrap().join("run/sockets"));

        let deep = root.path().join("a-long-name".repeat(8));
        let far = socket_dir(&places(&deep)).unwrap();
        assert!(far.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX, "{}", far.display());
        assert_eq!(far.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(socket_dir(&places(&deep)).unwrap(), far, "it is found again");
        // What others could enter is not used.
        fs::set_permissions(&far, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(socket_dir(&places(&deep)).is_err());
        fs::remove_dir(far).unwrap();
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(fnv1a(b"/srv/rapid"), 0xad30_8330_09ce_49ce);
    }
}
