//! The command line of `ganeti-rapi`: Ganeti's options with Ganeti's defaults, checked with its texts and in its order
//! (3.0.2, `daemon.py` and `server/rapi.py`).

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser};

use super::Refusal;
use crate::args::Syslog;

/// The Ganeti remote API, served by Rapid.
#[derive(Parser, Debug)]
#[command(
    name = "ganeti-rapi",
    version = concat!("(rapid) ", env!("CARGO_PKG_VERSION")),
    infer_long_args = true,
    args_override_self = true,
    max_term_width = 100
)]
pub(super) struct Arguments {
    /// Do not detach from the terminal.
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Log more.
    #[arg(short, long)]
    pub(super) debug: bool,
    /// Log to the system log (except debug messages): not, too, or only.
    #[arg(long, value_name = "WHERE", default_value = "no")]
    pub(super) syslog: Syslog,
    /// The TCP port; by default that of the service `ganeti-rapi`, or 5080.
    #[arg(short, long)]
    port: Option<u16>,
    /// The address to listen on; by default all addresses.
    #[arg(short, long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// The network interface whose first address is listened on.
    #[arg(short, long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// Speak plain HTTP.
    #[arg(long = "no-ssl", action = ArgAction::SetFalse)]
    ssl: bool,
    /// The TLS key, as PEM; by default the cluster's.
    #[arg(short = 'K', long, value_name = "FILE")]
    ssl_key: Option<PathBuf>,
    /// The TLS certificate, as PEM; by default the cluster's.
    #[arg(short = 'C', long, value_name = "FILE")]
    ssl_cert: Option<PathBuf>,
    /// Certificates between ours and one that clients know, as PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) ssl_chain: Option<PathBuf>,
    /// Refuse every request without valid credentials.
    #[arg(long)]
    pub(super) require_authentication: bool,
    /// How many requests are at work at the same time.
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true)]
    max_clients: i64,
    /// There are none, which Ganeti says in words of its own.
    #[arg(hide = true)]
    rest: Vec<OsString>,
}

/// The cluster's family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// As `ssconf_primary_ip_family` has it, in the numbers of Linux; clusters without that file speak IPv4.
    pub(super) fn of(ssconf: Option<&str>) -> Self {
        if ssconf == Some("10") { Self::V6 } else { Self::V4 }
    }

    fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv6() == (self == Self::V6)
    }
}

impl Arguments {
    /// The address to listen on; `of_interface` knows the addresses of an interface.
    pub(super) fn ip(
        &self,
        family: Family,
        of_interface: impl Fn(&str) -> Vec<IpAddr>,
    ) -> Result<IpAddr, Refusal> {
        let any = family.any().to_string();
        let bind = self.bind.as_deref().unwrap_or(&any);
        let Some(interface) = &self.interface else {
            let failed = || Refusal::Failed(format!("Invalid bind address '{bind}'"));
            return bind.parse().map_err(|_| failed());
        };
        if bind != any {
            return Err(Refusal::Failed(format!(
                "Can't specify both, bind address ({bind}) and bind interface ({interface})"
            )));
        }
        let found = of_interface(interface).into_iter().find(|ip| family.has(*ip));
        found.ok_or_else(|| Refusal::Failed(format!("Failed to find IP for interface {interface}")))
    }

    /// The port; `service` is what the services database says.
    pub(super) fn port(&self, service: Option<u16>) -> u16 {
        self.port.or(service).unwrap_or(rapi::serve::PORT)
    }

    /// Certificate and key, both from the cluster's file unless named; `None` is plain HTTP.
    pub(super) fn certificate_and_key(
        &self,
        own: &Path,
    ) -> Result<Option<(PathBuf, PathBuf)>, Refusal> {
        if !self.ssl {
            return Ok(None);
        }
        let path = |given: &Option<PathBuf>| given.clone().unwrap_or_else(|| own.to_owned());
        let (certificate, key) = (path(&self.ssl_cert), path(&self.ssl_key));
        for (name, path) in [("certificate", &certificate), ("key", &key)] {
            if !path.is_file() {
                let path = path.display();
                return Err(Refusal::Failed(format!("SSL {name} file '{path}' was not found")));
            }
        }
        Ok(Some((certificate, key)))
    }

    /// How many requests are at work at the same time; `program` is how we were called.
    pub(super) fn max_clients(&self, program: &str) -> Result<usize, Refusal> {
        if !self.rest.is_empty() {
            let usage = format!("Usage: {program} [-f] [-d] [-p port] [-b ADDRESS]");
            return Err(Refusal::Failed(usage));
        }
        let refused = || format!("{program} --max-clients argument must be >= 1");
        let count = usize::try_from(self.max_clients).ok().filter(|count| *count > 0);
        count.ok_or_else(|| Refusal::Failed(refused()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        let words = std::iter::once("ganeti-rapi").chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap()
    }

    fn addresses(name: &str) -> Vec<IpAddr> {
        let text: &[&str] = if name == "eth0" { &["fe80::1", "10.0.0.5", "10.0.0.6"] } else { &[] };
        text.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn options_are_those_of_optparse() {
        let check = |line: &str| format!("{:?}", parse(line));
        assert_eq!(check("-p 1 --port=5 -fd"), check("--debug --fore --port 5"));
        assert_eq!(check("--req --max-c 3"), check("--max-clients=3 --require-authentication"));
        assert_eq!(check("-b::1 -C a -K b"), check("--bind ::1 --ssl-cert a --ssl-key=b"));
        for wrong in ["--ssl x", "--nope", "--syslog maybe", "--max-clients x", "-p"] {
            let words = std::iter::once("ganeti-rapi").chain(wrong.split_whitespace());
            let error = Arguments::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
        assert_eq!(
            Arguments::try_parse_from(["x", "--version"]).unwrap_err().to_string(),
            concat!("ganeti-rapi (rapid) ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }

    #[test]
    fn an_address_is_found_for_each_family_or_refused() {
        let check = |line: &str, family, expected: Result<&str, &str>| {
            let got = parse(line).ip(family, addresses).map_err(|refusal| refusal.text());
            let expected = expected.map(|ip| ip.parse().unwrap()).map_err(str::to_owned);
            assert_eq!(got, expected, "{line}");
        };
        check("", Family::V4, Ok("0.0.0.0"));
        check("", Family::V6, Ok("::"));
        check("-b 127.0.0.1", Family::V4, Ok("127.0.0.1"));
        check("-b ::1", Family::V4, Ok("::1"));
        check("-i eth0", Family::V4, Ok("10.0.0.5"));
        check("-i eth0", Family::V6, Ok("fe80::1"));
        check("-i eth0 -b 0.0.0.0", Family::V4, Ok("10.0.0.5"));
        check(
            "-i eth0 -b ::1",
            Family::V6,
            Err("Can't specify both, bind address (::1) and bind interface (eth0)"),
        );
        check("-i eth1", Family::V4, Err("Failed to find IP for interface eth1"));
        check("-b here", Family::V4, Err("Invalid bind address 'here'"));
        assert_eq!(Family::of(Some("10")), Family::V6);
        assert_eq!([Family::of(Some("2")), Family::of(None)], [Family::V4; 2]);
    }

    #[test]
    fn a_port_is_given_or_a_service_or_ganetis() {
        assert_eq!(parse("-p 1").port(Some(2)), 1);
        assert_eq!(parse("").port(Some(2)), 2);
        assert_eq!(parse("").port(None), 5080);
    }

    #[test]
    fn certificate_and_key_must_be_files() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("rapi.pem");
        let check = |line: &str| {
            let files = parse(line).certificate_and_key(&own);
            files.map_err(|refusal| refusal.text())
        };
        let missing = format!("SSL certificate file '{}' was not found", own.display());
        assert_eq!(check(""), Err(missing));
        assert_eq!(check("--no-ssl"), Ok(None));
        std::fs::write(&own, "").unwrap();
        assert_eq!(check(""), Ok(Some((own.clone(), own.clone()))));
        assert_eq!(check("-K /"), Err("SSL key file '/' was not found".to_owned()));
        assert_eq!(check("-C /nope"), Err("SSL certificate file '/nope' was not found".to_owned()));
    }

    #[test]
    fn too_few_clients_and_too_many_words_are_refused() {
        let check = |line: &str| parse(line).max_clients("x").map_err(|refusal| refusal.text());
        let few = Err("x --max-clients argument must be >= 1".to_owned());
        assert_eq!(check(""), Ok(20));
        assert_eq!(check("--max-clients 1"), Ok(1));
        assert_eq!(check("--max-clients 0"), few);
        assert_eq!(check("--max-clients -1"), few);
        let usage = Err("Usage: x [-f] [-d] [-p port] [-b ADDRESS]".to_owned());
        assert_eq!(check("foo"), usage);
        assert_eq!(check("--max-clients 0 foo"), usage);
    }
}
