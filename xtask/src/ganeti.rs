//! A real Ganeti cluster for as long as it is held. xtask/oracle/ganeti.sh makes it, and takes it away again once this process
//! lets go of it, or ends in whatever way.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::machine::root;

/// The Debian packages that it is made of.
pub(crate) const PACKAGES: &[&str] = &[
    "ganeti",
    "ganeti-os-noop",
    "openssh-server",
    "openssh-client",
    "iproute2",
    "iputils-arping",
    "curl",
];

const SOCKET: &str = "var/run/ganeti/socket/ganeti-query";

/// The script, for more arguments.
pub(crate) fn script() -> Command {
    let mut command = Command::new("bash");
    command.arg(root().join("xtask/oracle/ganeti.sh"));
    command
}

/// The directory of the cluster in whose namespace this process is, or would be.
pub(crate) fn dir() -> PathBuf {
    let dir = std::env::var_os("ORACLE_DIR");
    dir.map_or_else(|| PathBuf::from("/var/tmp/rapid-oracle"), PathBuf::from)
}

/// The directory that a node of a cluster takes for its root.
fn root_of(cluster: &Path, node: u8) -> PathBuf {
    cluster.join(format!("vc/node{node}.gnt.example"))
}

/// The LUXI socket of that cluster.
pub(crate) fn socket() -> PathBuf {
    root_of(&dir(), 1).join(SOCKET)
}

/// The certificate and key of its real daemon.
pub(crate) fn certificate() -> PathBuf {
    root_of(&dir(), 1).join("var/lib/ganeti/rapi.pem")
}

/// Where its real daemon says what process it is.
pub(crate) fn pid_file() -> PathBuf {
    root_of(&dir(), 1).join("var/run/ganeti/ganeti-rapi.pid")
}

/// A cluster of this process; gone when it is dropped.
pub(crate) struct Ganeti {
    name: String,
    dir: PathBuf,
    /// Takes the cluster away when its standard input ends.
    keeper: Child,
}

impl Ganeti {
    /// Makes a cluster and waits until its daemons answer. The name, a short word, tells it from others of this process.
    pub(crate) fn up(name: &str) -> Result<Self> {
        let name = format!("gnt-{name}-{}", std::process::id());
        let dir = Path::new("/var/tmp").join(&name);
        let mut keeper = script();
        let keeper = keeper.arg("hold").env("ORACLE_NS", &name).env("ORACLE_DIR", &dir);
        // Not in the group of processes that a terminal interrupts: it has to tidy up then.
        let keeper = keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().context("cannot run bash")?;
        let output = keeper.stdout.take().context("no standard output")?;
        let cluster = Self { name, dir, keeper };
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "ready\n", "the cluster {} did not come up", cluster.name);
        Ok(cluster)
    }

    /// A command that runs this program inside the cluster's namespace, as the very process that is started.
    pub(crate) fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = script();
        command.arg("exec").arg(program);
        command.env("ORACLE_NS", &self.name).env("ORACLE_DIR", &self.dir);
        command
    }

    /// The LUXI socket of its master.
    pub(crate) fn socket(&self) -> PathBuf {
        self.node(1).join(SOCKET)
    }

    /// The directory that a node, counted from one, takes for its root.
    pub(crate) fn node(&self, number: u8) -> PathBuf {
        root_of(&self.dir, number)
    }
}

impl Drop for Ganeti {
    fn drop(&mut self) {
        // Ends its standard input. What goes wrong with tidying up stands in its own output.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
