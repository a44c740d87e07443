//! Where this daemon may run: on the master node of a cluster, which may be a virtual one.

use std::fs;
use std::io;
use std::path::Path;

use dns_lookup::{AddrInfoHints, SockType, getaddrinfo};

use super::{NAME, Refusal};

/// Refuses an environment that describes no virtual node: its directory must have the node's name (3.0.2, `vcluster.py`).
pub(super) fn check_environment(root: Option<&str>, hostname: Option<&str>) -> Result<(), Refusal> {
    let failed = |text: String| Err(Refusal::Failed(text));
    let (root, hostname) = match (root, hostname) {
        (None, None) => return Ok(()),
        (Some(root), _) if !root.starts_with('/') => {
            return failed(format!("Root directory in 'GANETI_ROOTDIR' must be absolute: {root}"));
        }
        (Some(root), Some(hostname)) => (root, hostname),
        (Some(_), None) | (None, Some(_)) => {
            return failed(
                "Both root directory and hostname must be specified using the environment \
                 variables GANETI_ROOTDIR and GANETI_HOSTNAME"
                    .to_owned(),
            );
        }
    };
    if Path::new(root).file_name().is_none_or(|last| last != hostname) {
        return failed(format!(
            "Last component of root directory ('{root}') must match hostname ('{hostname}')"
        ));
    }
    Ok(())
}

/// Refuses nodes that are not the master. `master_node` is the file that names it, `me` this node's name.
pub(super) fn check_master(master_node: &Path, me: &str, debug: bool) -> Result<(), Refusal> {
    match fs::read_to_string(master_node) {
        Ok(name) if name.trim_end_matches('\n') == me => Ok(()),
        Ok(_) => Err(Refusal::NotMaster { debug }),
        Err(error) => {
            let path = master_node.display();
            Err(Refusal::NotSetUp(format!(
                "Cluster configuration incomplete: 'Can't read ssconf file {path}: {}: '{path}''",
                python_text(&error)
            )))
        }
    }
}

/// An error of the system as Python writes it.
fn python_text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("[Errno {number}] {text}")
}

/// The port that the services database has for this daemon.
pub(super) fn service_port() -> Option<u16> {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = getaddrinfo(None, Some(NAME), Some(hints)).ok()?;
    found.into_iter().find_map(|found| found.ok().map(|found| found.sockaddr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_node_has_a_directory_of_its_name() {
        let check = |root, hostname, expected: Option<&str>| {
            let got = check_environment(root, hostname).err().map(|refusal| refusal.text());
            assert_eq!(got.as_deref(), expected, "{root:?} {hostname:?}");
        };
        let both = "Both root directory and hostname must be specified using the environment \
                    variables GANETI_ROOTDIR and GANETI_HOSTNAME";
        check(None, None, None);
        check(Some("/vc/node1.x"), Some("node1.x"), None);
        check(Some("/vc/node1.x/"), Some("node1.x"), None);
        check(Some("/vc/node1.x"), None, Some(both));
        check(None, Some("node1.x"), Some(both));
        let relative = "Root directory in 'GANETI_ROOTDIR' must be absolute: vc/a";
        check(Some("vc/a"), Some("a"), Some(relative));
        let other = "Last component of root directory ('/vc/a') must match hostname ('b')";
        check(Some("/vc/a"), Some("b"), Some(other));
    }

    #[test]
    fn only_the_master_is_let_through() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssconf_master_node");
        let missing = check_master(&path, "a.x", false).unwrap_err();
        let file = path.display();
        assert_eq!(
            missing.text(),
            format!(
                "Cluster configuration incomplete: 'Can't read ssconf file {file}: [Errno 2] \
                 No such file or directory: '{file}''"
            )
        );
        assert_eq!(missing.code(), 12);
        fs::write(&path, "a.x\n").unwrap();
        assert!(check_master(&path, "a.x", false).is_ok());
        for (debug, text) in [(false, ""), (true, "Not master, exiting.")] {
            let other = check_master(&path, "b.x", debug).unwrap_err();
            assert_eq!((other.code(), other.text().as_str()), (11, text));
        }
    }
}
