//! `cargo xtask deb`: the Debian packages, by dpkg-deb from one table of files. `rapid` is the program with its service;
//! `rapid-ganeti-rapi` puts it into the place of Ganeti's daemon.

#![expect(clippy::print_stdout, reason = "people want to know where the packages are")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::machine::{self, cargo, root, run};

/// Build the Debian packages.
#[derive(Args)]
pub(crate) struct Deb {
    /// Where they are put.
    #[arg(long, value_name = "DIR", default_value = "target/deb")]
    into: PathBuf,
}

/// The packages, in the order in which they are installed.
pub(crate) const PACKAGES: &[&str] = &["rapid", "rapid-ganeti-rapi"];

/// A file of a package.
struct File {
    package: &'static str,
    path: &'static str,
    from: From,
}

/// What a file is made from.
enum From {
    /// The built program, without what only debuggers read.
    Program,
    /// A file of the project.
    Project(&'static str),
    Link(&'static str),
}

/// Everything that is installed.
const FILES: &[File] = &[
    File { package: "rapid", path: "usr/bin/rapid", from: From::Program },
    File {
        package: "rapid",
        path: "usr/lib/systemd/system/rapid.service",
        from: From::Project("packaging/rapid/rapid.service"),
    },
    File {
        package: "rapid",
        path: "usr/lib/sysusers.d/rapid.conf",
        from: From::Project("packaging/rapid/sysusers.conf"),
    },
    File {
        package: "rapid",
        path: "etc/default/rapid",
        from: From::Project("packaging/rapid/default"),
    },
    File {
        package: "rapid",
        path: "usr/share/doc/rapid/copyright",
        from: From::Project("LICENSE"),
    },
    File {
        package: "rapid",
        path: "usr/share/doc/rapid/README.md",
        from: From::Project("README.md"),
    },
    File {
        package: "rapid",
        path: "usr/share/doc/rapid/api.md",
        from: From::Project("docs/api.md"),
    },
    File {
        package: "rapid",
        path: "usr/share/doc/rapid/compatibility.md",
        from: From::Project("docs/compatibility.md"),
    },
    File {
        package: "rapid-ganeti-rapi",
        path: "usr/sbin/ganeti-rapi",
        from: From::Link("../bin/rapid"),
    },
    File {
        package: "rapid-ganeti-rapi",
        path: "usr/share/doc/rapid-ganeti-rapi/copyright",
        from: From::Project("LICENSE"),
    },
    File {
        package: "rapid-ganeti-rapi",
        path: "usr/share/doc/rapid-ganeti-rapi/drop-in.md",
        from: From::Project("docs/drop-in.md"),
    },
];

/// What dpkg runs and reads, each where packaging/PACKAGE has it, with its mode.
const CONTROL: &[(&str, u32)] = &[
    ("conffiles", 0o644),
    ("preinst", 0o755),
    ("postinst", 0o755),
    ("prerm", 0o755),
    ("postrm", 0o755),
];

impl Deb {
    /// Builds the program, and the packages from it.
    pub(crate) fn run(&self) -> Result<()> {
        run(cargo().args(["build", "--release", "--package", "rapid"]))?;
        for package in build(&machine::rapid("release")?, &root().join(&self.into))? {
            println!("{}", package.display());
        }
        Ok(())
    }
}

/// Packs the program: the packages, in the order in which they are installed.
pub(crate) fn build(program: &Path, into: &Path) -> Result<Vec<PathBuf>> {
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    let libc = said(Command::new("dpkg-query").args(["-W", "-f=${Version}", "libc6"]))?;
    // Without Debian's own count.
    let libc = libc.rsplit_once('-').map_or(libc.as_str(), |(version, _)| version);
    let version = env!("CARGO_PKG_VERSION");
    let fields =
        [("@VERSION@", version), ("@ARCHITECTURE@", architecture.as_str()), ("@LIBC@", libc)];
    fs::create_dir_all(into).with_context(|| into.display().to_string())?;
    let pack = |package: &&str| {
        let tree = tempfile::tempdir()?;
        lay_out(package, program, tree.path())?;
        let source = root().join("packaging").join(package);
        let mut control = read(&source.join("control"))?;
        for (field, value) in fields {
            control = control.replace(field, value);
        }
        put(&tree.path().join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        for (name, mode) in CONTROL {
            let file = source.join(name);
            if file.exists() {
                put(&tree.path().join("DEBIAN").join(name), read(&file)?.as_bytes(), *mode)?;
            }
        }
        open_up(tree.path())?;
        let deb = into.join(format!("{package}_{version}_{architecture}.deb"));
        let mut dpkg = Command::new("dpkg-deb");
        said(dpkg.args(["--root-owner-group", "--build"]).arg(tree.path()).arg(&deb))?;
        Ok(deb)
    };
    PACKAGES.iter().map(pack).collect()
}

/// A package's files below a directory.
fn lay_out(package: &str, program: &Path, tree: &Path) -> Result<()> {
    for file in FILES.iter().filter(|file| file.package == package) {
        let path = tree.join(file.path);
        match file.from {
            From::Program => {
                put(&path, b"", 0o755)?;
                said(Command::new("strip").arg("-o").arg(&path).arg(program))?;
            }
            From::Project(from) => put(&path, read(&root().join(from))?.as_bytes(), 0o644)?,
            From::Link(to) => {
                make_parents(&path)?;
                symlink(to, &path)?;
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Writes a file with that mode, whatever the umask is.
fn put(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    make_parents(path)?;
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn make_parents(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file has no directory")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())
}

/// Directories of a package are for everyone to look into, whatever the umask is.
fn open_up(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Runs a command: what it says.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let said = command.output().with_context(|| format!("cannot run {name}"))?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{name}: {}: {}", said.status, error.trim());
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}
