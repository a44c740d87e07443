//! Names of hosts: what the name service says, after a table of our own. A simulated cluster's instances have names that no
//! name service knows; the table stands in for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, getaddrinfo};
use model::error::{ErrorCode, GanetiError, Result};

/// How long a host may take to refuse or accept a connection before it is taken for absent, and the port that is tried:
/// the node daemon's (Ganeti 3.0, `netutils.TcpPing` with `DEFAULT_NODED_PORT`).
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const PING_PORT: u16 = 1811;

/// A name as the name service writes it in full, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub ip: IpAddr,
}

/// Looks names up.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// By each of a host's names.
    table: BTreeMap<String, Host>,
    /// Whether only the table is asked about who answers at an address.
    simulated: bool,
}

impl Names {
    /// A table in the format of `/etc/hosts`: address, full name, other names.
    pub fn with_table(text: &str, simulated: bool) -> Self {
        let mut table = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(ip) = words.next().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
            let names: Vec<&str> = words.collect();
            for name in &names {
                table.insert((*name).to_owned(), Host { name: names[0].to_owned(), ip });
            }
        }
        Self { table, simulated }
    }

    /// The address that the table has for a name.
    pub(crate) fn address(&self, name: &str) -> Option<String> {
        self.table.get(name).map(|host| host.ip.to_string())
    }

    /// The full name and address of a name; the text of a refusal is Ganeti's (3.0, `netutils.Hostname`).
    pub async fn resolve(&self, name: &str) -> Result<Host> {
        if let Some(host) = self.table.get(name) {
            return Ok(host.clone());
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Host { name: name.to_owned(), ip });
        }
        let wanted = name.to_owned();
        let found = tokio::task::spawn_blocking(move || ask(&wanted)).await.ok().flatten();
        found.ok_or_else(|| {
            GanetiError::prereq(
                format!("The given name ({name}) does not resolve: Name or service not known"),
                ErrorCode::ResolverError,
            )
        })
    }

    /// Whether something answers at an address.
    pub async fn answers(&self, ip: IpAddr, known: impl Iterator<Item = String>) -> bool {
        if self.simulated {
            return known.into_iter().any(|known| known.parse() == Ok(ip));
        }
        let connect = tokio::net::TcpStream::connect(SocketAddr::new(ip, PING_PORT));
        match tokio::time::timeout(PING_TIMEOUT, connect).await {
            Ok(Ok(_)) => true,
            // Somebody is there to refuse.
            Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            Err(_) => false,
        }
    }
}

/// Asks the system's resolver, for an IPv4 address first.
fn ask(name: &str) -> Option<Host> {
    const CANONICAL: i32 = 2; // AI_CANONNAME
    let hints = AddrInfoHints { flags: CANONICAL, ..AddrInfoHints::default() };
    let found: Vec<_> =
        getaddrinfo(Some(name), None, Some(hints)).ok()?.filter_map(std::io::Result::ok).collect();
    let full =
        found.iter().find_map(|info| info.canonname.clone()).unwrap_or_else(|| name.to_owned());
    let first = found.iter().find(|info| info.sockaddr.is_ipv4()).or(found.first())?;
    let ip = match first.sockaddr.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    Some(Host { name: full, ip })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_table_comes_first() {
        let names =
            Names::with_table("192.0.2.1 inst1.example.com inst1 # one\n\n#192.0.2.2 x\n", true);
        let host = names.resolve("inst1").await.unwrap();
        assert_eq!(
            (host.name.as_str(), host.ip.to_string().as_str()),
            ("inst1.example.com", "192.0.2.1")
        );
        let unknown = names.resolve("nosuchname.invalid").await.unwrap_err();
        assert_eq!(unknown.code(), Some("resolver_error"));
        assert!(names.answers(host.ip, ["192.0.2.1".to_owned()].into_iter()).await);
    }
}
