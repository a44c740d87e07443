//! Where Ganeti keeps its files on this machine, and what they say. In a virtual cluster all of them are below a node's own
//! directory, which the environment names.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use dns_lookup::{getaddrinfo, lookup_addr};
use luxi::client::options::Options;
use model::compat::Compat;

/// The environment of a virtual cluster: the directory of this node, and its name.
const ROOT: &str = "GANETI_ROOTDIR";
const HOSTNAME: &str = "GANETI_HOSTNAME";
/// The machine's table of names.
const HOSTS: &str = "/etc/hosts";

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
        Self {
            root: variable(ROOT).map_or_else(|| PathBuf::from("/"), PathBuf::from),
            hostname: variable(HOSTNAME)
                .map_or_else(full_name, |name| name.to_string_lossy().into_owned()),
        }
    }

    /// What this machine is called in the cluster.
    pub(crate) fn hostname(&self) -> &str {
        &self.hostname
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
        let text = fs::read_to_string(self.file(&format!("var/lib/ganeti/ssconf_{name}"))).ok()?;
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

/// This machine's full name, found as Python's `socket.getfqdn` does.
fn full_name() -> String {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let ip = getaddrinfo(Some(&own), None, None).ok();
    let ip = ip.and_then(|mut found| found.find_map(Result::ok)).map(|found| found.sockaddr.ip());
    let first = ip.and_then(|ip| lookup_addr(&ip).ok());
    let others = match (ip, fs::read_to_string(HOSTS)) {
        (Some(ip), Ok(hosts)) => names_in(&hosts, ip),
        _ => Vec::new(),
    };
    fullest(first, others, own).to_lowercase()
}

/// All names that a table in the format of `/etc/hosts` has for an address.
fn names_in(hosts: &str, ip: IpAddr) -> Vec<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.map(str::split_whitespace).find_map(|mut words| {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address == ip).then_some(words)
    });
    words.into_iter().flatten().map(str::to_owned).collect()
}

/// The first name with a domain, else the first of all, else our own.
fn fullest(first: Option<String>, others: Vec<String>, own: String) -> String {
    let Some(first) = first else { return own };
    let all: Vec<String> = std::iter::once(first).chain(others).collect();
    let full = all.iter().position(|name| name.contains('.')).unwrap_or(0);
    all.into_iter().nth(full).unwrap_or(own)
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
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("ssconf_master_node"), "node1.example.com\n").unwrap();
        fs::write(data.join("ssconf_release_version"), "3.0.2\n").unwrap();
        assert!(ganeti.is_master());
        let options = ganeti.luxi(None);
        assert_eq!(options.compat, Compat::V30);
        assert_eq!(options.socket, dir.path().join("var/run/ganeti/socket/ganeti-query"));
    }

    #[test]
    fn names_with_a_domain_are_preferred() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 no\n10.0.0.1 a a.example.com b # c\n::1 six\n";
        let check = |ip: &str, expected: &[&str]| {
            assert_eq!(names_in(hosts, ip.parse().unwrap()), expected, "{ip}");
        };
        check("10.0.0.1", &["a", "a.example.com", "b"]);
        check("::1", &["six"]);
        check("10.0.0.2", &[]);
        let check = |first: Option<&str>, others: &[&str], expected| {
            let others = others.iter().map(|name| (*name).to_owned()).collect();
            let got = fullest(first.map(str::to_owned), others, "own".to_owned());
            assert_eq!(got, expected);
        };
        check(None, &[], "own");
        check(Some("a"), &[], "a");
        check(Some("a"), &["a", "a.example.com"], "a.example.com");
        check(Some("a.x"), &["b.x"], "a.x");
    }
}
