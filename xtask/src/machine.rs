//! This machine: where the project lies, its programs, its packages.

#![expect(clippy::print_stdout, reason = "people want to know what is installed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The project's directory.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that started this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; that it fails is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// A command as it would be typed.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The directory that cargo puts programs of this kind into, beside this one.
fn built(profile: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let target = me.parent().and_then(Path::parent).context("this program lies at the root")?;
    Ok(target.join(profile))
}

/// The program `rapid` that was built in the same target directory.
pub(crate) fn rapid(profile: &str) -> Result<PathBuf> {
    let program = built(profile)?.join("rapid");
    ensure!(program.exists(), "{} is not built", program.display());
    Ok(program)
}

/// This automation, built that way.
pub(crate) fn xtask(profile: &str) -> Result<PathBuf> {
    Ok(built(profile)?.join("xtask"))
}

fn is_installed(package: &str) -> bool {
    let said = Command::new("dpkg-query")
        .args(["-W", "-f=${Status}", package])
        .stderr(Stdio::null())
        .output();
    said.is_ok_and(|said| said.stdout == b"install ok installed")
}

/// Installs the Debian packages that are missing.
pub(crate) fn packages(wanted: &[&str]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let has_apt = Command::new("apt-get").arg("--version").output().is_ok();
    ensure!(has_apt, "this needs the Debian packages {list}, and this machine has no apt-get");
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing, and only root can install them: \
             sudo apt-get install --no-install-recommends {list}"
        );
    }
    println!("Installing {list} …");
    let install = || apt(&["install", "--yes", "--no-install-recommends"], &missing);
    // The lists may be there and fit; else they are fetched.
    if install().is_err() {
        apt(&["update"], &[])?;
        install()?;
    }
    Ok(())
}

fn apt(arguments: &[&str], packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]);
    command.args(arguments).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    let said = command.output().context("cannot run apt-get")?;
    let text = String::from_utf8_lossy(&said.stderr);
    let text = text.trim();
    ensure!(said.status.success(), "apt-get {} failed:\n{text}", arguments[0]);
    Ok(())
}
