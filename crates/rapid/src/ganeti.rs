//! Where Ganeti keeps its files on this machine, and what they say. In a virtual cluster all of them are below a node's own
//! directory, which the environment names.

use std::path::PathBuf;

use luxi::client::options::Options;
use model::compat::Compat;

/// The environment of a virtual cluster: the directory of this node, and its name.
const ROOT: &str = "GANETI_ROOTDIR";
const HOSTNAME: &str = "GANETI_HOSTNAME";

/// Ganeti on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Ganeti {
    /// `/`, or a virtual node's own directory.
    root: PathBuf,
    /// What this machine is called in the cluster.
    hostname: String,
}

impl Ganeti {
    /// As the environment has it.
    pub(crate) fn here() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            root: variable(ROOT).map_or_else(|| PathBuf::from("/"), PathBuf::from),
            hostname: variable(HOSTNAME)
                .map_or_else(own, |name| name.to_string_lossy().into_owned()),
        }
    }

    /// A file of Ganeti's, named from the root on.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The master daemon's socket.
    pub(crate) fn luxi_socket(&self) -> PathBuf {
        self.file("var/run/ganeti/socket/ganeti-query")
    }

    /// The users of the remote API.
    pub(crate) fn users_file(&self) -> PathBuf {
        self.file("var/lib/ganeti/rapi/users")
    }

    /// The certificate and key of the remote API.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.file("var/lib/ganeti/rapi.pem")
    }

    /// One of the values that each node has a copy of; `None` where it cannot be read.
    pub(crate) fn ssconf(&self, name: &str) -> Option<String> {
        let text =
            std::fs::read_to_string(self.file(&format!("var/lib/ganeti/ssconf_{name}"))).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Whether this machine is the cluster's master.
    pub(crate) fn is_master(&self) -> bool {
        self.ssconf("master_node").is_some_and(|master| is_name_of(&self.hostname, &master))
    }

    /// How its master daemon is spoken to.
    pub(crate) fn luxi(&self, socket: Option<PathBuf>) -> Options {
        let mut options = Options::new(socket.unwrap_or_else(|| self.luxi_socket()));
        let here = self.clone();
        options.is_master = std::sync::Arc::new(move || here.is_master());
        if let Some(release) = self.ssconf("release_version") {
            options.compat = Compat::of_release(&release);
        }
        options
    }
}

/// Whether a machine that calls itself `hostname`, with or without its domain, is the one of that full name.
fn is_name_of(hostname: &str, name: &str) -> bool {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let short = name.split('.').next().unwrap_or_default();
    same(hostname, name) || (!hostname.contains('.') && same(hostname, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_knows_its_name_with_and_without_its_domain() {
        let check = |hostname, name, expected| assert_eq!(is_name_of(hostname, name), expected);
        check("node1.example.com", "node1.example.com", true);
        check("Node1", "node1.example.com", true);
        check("node1.example.org", "node1.example.com", false);
        check("node1", "node10.example.com", false);
        check("", "node1.example.com", false);
    }

    #[test]
    fn the_files_of_a_virtual_node_are_below_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let ganeti = Ganeti { root: dir.path().to_owned(), hostname: "node1".to_owned() };
        assert!(!ganeti.is_master());
        let data = dir.path().join("var/lib/ganeti");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("ssconf_master_node"), "node1.example.com\n").unwrap();
        std::fs::write(data.join("ssconf_release_version"), "3.0.2\n").unwrap();
        assert!(ganeti.is_master());
        let options = ganeti.luxi(None);
        assert_eq!(options.compat, Compat::V30);
        assert_eq!(options.socket, dir.path().join("var/run/ganeti/socket/ganeti-query"));
    }
}
