//! The Debian packages: installed below a directory of their own, over a package that stands for Debian's ganeti, and taken away
//! again.

#![expect(clippy::print_stdout, reason = "a test says what it found")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::deb::{self, said};
use crate::machine;

/// Where Ganeti's daemon lies, and where it is set aside.
const DAEMON: &str = "usr/sbin/ganeti-rapi";
const ASIDE: &str = "usr/sbin/ganeti-rapi.ganeti";
/// What those are in Debian's package, and in ours.
const GANETIS: &str = "../share/ganeti/default/ganeti-rapi";
const OURS: &str = "../bin/rapid";

/// The packages go in and out; Ganeti's daemon is where it has to be after each step.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let packages = deb::build(&machine::rapid("debug")?, &base.path().join("deb"))?;
    let ganeti = |version| ganeti(base.path(), version);
    let machine = Machine::new(base.path().join("root"))?;

    machine.dpkg("--install", &[ganeti("3.0.2-3")?])?;
    machine.has(GANETIS, None)?;
    machine.dpkg("--install", &packages)?;
    machine.has(OURS, Some(GANETIS))?;
    machine.works()?;
    println!("installed: {}", deb::PACKAGES.join(", "));

    // Again, and a newer Ganeti: neither moves anything.
    machine.dpkg("--install", &packages)?;
    machine.has(OURS, Some(GANETIS))?;
    machine.dpkg("--install", &[ganeti("3.0.2-4")?])?;
    machine.has(OURS, Some(GANETIS))?;

    machine.dpkg("--remove", &["rapid-ganeti-rapi".into()])?;
    machine.has(GANETIS, None)?;
    println!("removed: Ganeti's daemon is back");
    machine.dpkg("--install", &packages[1..])?;
    machine.has(OURS, Some(GANETIS))?;
    fs::write(machine.path("var/lib/rapid/users"), "")?;
    machine.dpkg("--purge", &["rapid-ganeti-rapi".into(), "rapid".into()])?;
    machine.has(GANETIS, None)?;
    for gone in ["usr/bin/rapid", "etc/default/rapid", "usr/lib/systemd/system/rapid.service"] {
        ensure!(!machine.path(gone).exists(), "/{gone} is still there");
    }
    ensure!(machine.path("var/lib/rapid/users").exists(), "the cluster's data is gone");
    println!("purged: nothing is left but the cluster's data");
    Ok(())
}

/// A package with what matters of Debian's ganeti.
fn ganeti(base: &Path, version: &str) -> Result<PathBuf> {
    let tree = base.join(format!("ganeti-{version}"));
    for directory in ["DEBIAN", "usr/sbin", "usr/share/ganeti/default"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    let control = format!(
        "Package: ganeti\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@localhost>\n\
         Description: stands for the real one\n"
    );
    fs::write(tree.join("DEBIAN/control"), control)?;
    let program = tree.join("usr/share/ganeti/default/ganeti-rapi");
    fs::write(&program, "#!/bin/sh\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    symlink(GANETIS, tree.join(DAEMON))?;
    let deb = base.join(format!("ganeti_{version}_all.deb"));
    said(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(tree).arg(&deb))?;
    Ok(deb)
}

/// A directory that is a machine to dpkg.
struct Machine(PathBuf);

impl Machine {
    fn new(root: PathBuf) -> Result<Self> {
        for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/rapid", "etc"] {
            fs::create_dir_all(root.join(directory))?;
        }
        for file in ["status", "available"] {
            fs::write(root.join("var/lib/dpkg").join(file), "")?;
        }
        Ok(Self(root))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Runs dpkg there; scripts run here and are told where. Only libc6 and the like are missing there, so that is no error.
    fn dpkg(&self, verb: &str, what: &[PathBuf]) -> Result<()> {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("--root").arg(&self.0).args(["--force-script-chrootless", "--force-depends"]);
        said(dpkg.args(["--force-confold", verb]).args(what)).map(drop)
    }

    /// Ganeti's daemon is that link, and what was set aside is that.
    fn has(&self, daemon: &str, aside: Option<&str>) -> Result<()> {
        let link = |path| fs::read_link(self.path(path)).ok();
        let found = (link(DAEMON), link(ASIDE));
        let expected = (Some(PathBuf::from(daemon)), aside.map(PathBuf::from));
        ensure!(found == expected, "{found:?} is not {expected:?}");
        let diverted = said(Command::new("dpkg-divert").arg("--root").arg(&self.0).arg("--list"))?;
        ensure!(diverted.contains(DAEMON) == aside.is_some(), "diversions: {diverted}");
        Ok(())
    }

    /// The program runs, by both names; its user is there; systemd understands its service.
    fn works(&self) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        for (program, expected) in [
            ("usr/bin/rapid", format!("rapid {version}")),
            (DAEMON, format!("ganeti-rapi (rapid) {version}")),
        ] {
            let says = said(Command::new(self.path(program)).arg("--version"))?;
            ensure!(says == expected, "/{program} says {says}");
        }
        let users = fs::read_to_string(self.path("etc/passwd")).context("no users")?;
        ensure!(users.contains("_rapid:"), "there is no user _rapid: {users}");
        let groups = fs::read_to_string(self.path("etc/group"))?;
        ensure!(groups.contains("_rapid"), "{groups}");
        let unit = self.path("usr/lib/systemd/system/rapid.service");
        let text = fs::read_to_string(&unit)?;
        // Checked as a unit of the machine that it is installed on: there the program lies where it names it.
        let checked = self.path("rapid.service");
        let program = self.path("usr/bin/rapid");
        fs::write(&checked, text.replace("/usr/bin/rapid", &program.display().to_string()))?;
        let mut verify = Command::new("systemd-analyze");
        let verified = verify.args(["verify", "--man=no"]).arg(&checked).output()?;
        let complaints = String::from_utf8_lossy(&verified.stderr);
        let own = complaints.lines().find(|line| line.contains("rapid.service"));
        ensure!(verified.status.success() && own.is_none(), "systemd-analyze: {complaints}");
        Ok(())
    }
}
