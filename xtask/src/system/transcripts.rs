//! The proof that our daemon answers as the real ganeti-rapi does: the program is started with a simulated cluster like the
//! one that the recordings were made with, and each section of the crate `transcript` is run against it. Differences that
//! are not in that crate's list of accepted ones fail. `differential` does the same beside real clusters.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use transcript::check;
use transcript::report::Daemon;

use crate::server::{self, Place};
use crate::{machine, transcripts};

/// The nodes of the recorded cluster.
const NODES: &str = "node1.gnt.example,node2.gnt.example,node3.gnt.example,node4.gnt.example";
/// Its instance policy's bounds.
const BOUNDS: &str = "min:disk-size=0,cpu-count=1,disk-count=0,memory-size=1,nic-count=0,spindle-use=0\
    /max:disk-size=1048576,cpu-count=8,disk-count=16,memory-size=32768,nic-count=8,spindle-use=12";
/// Its users: the hash is that of hashed's password `hashpw`.
pub(crate) const USERS: &str = "reader readpw\nreader2 readpw2 read\nwriter writepw write\n\
    cleartext {cleartext}clearpw write\nhashed {HA1}726c32816ccfab687bc4789fad1a18ec write\n\
    both bothpw read,write\n";

/// Compares with what was recorded, without a real cluster.
pub(crate) fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sections = check::sections(&[])?;
    let sections: Vec<&str> = sections.iter().map(|section| section.name.as_str()).collect();
    record(&sections, dir.path())?;
    transcripts::compare_recordings(Daemon::Embedded, &[], &check::recorded(), dir.path(), false)
}

/// Runs each section on a fresh cluster, since what one leaves behind is nothing to the next, and writes down the answers.
pub(crate) fn record(sections: &[&str], dir: &Path) -> Result<()> {
    sections
        .iter()
        .try_for_each(|section| record_section(section, dir).with_context(|| (*section).to_owned()))
}

/// Starts the server, and writes down what it answers to one section.
fn record_section(section: &str, dir: &Path) -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    os_definitions(&place.path("os"))?;
    fs::write(place.path("users"), USERS)?;
    fs::create_dir_all(place.data_dir())?;
    fs::write(place.data_dir().join("hosts"), hosts())?;
    for name in ["storage/file", "storage/shared"] {
        fs::create_dir_all(place.path(name))?;
    }
    let path = |name: &str| place.path(name).display().to_string();
    place.init(&[
        "--no-etc-hosts",
        "--no-ssh-init",
        "--master-netdev",
        "gnt0",
        "--master-netmask",
        "32",
        "--simulate-nodes",
        NODES,
        "--enabled-hypervisors",
        "fake,kvm",
        "--enabled-disk-templates",
        "diskless,file,sharedfile",
        "--nic-parameters",
        "mode=bridged,link=gnt0",
        "--file-storage-dir",
        &path("storage/file"),
        "--shared-file-storage-dir",
        &path("storage/shared"),
        "--os-search-path",
        &path("os"),
        "-H",
        "kvm:kernel_path=,vnc_bind_address=127.0.0.1,serial_console=false",
        "--ipolicy-bounds-specs",
        BOUNDS,
        "--compat",
        "3.0",
        "cluster.gnt.example",
    ])?;
    let runtime = server::runtime()?;
    let server = runtime.block_on(place.start(&["--compat", "3.0"]))?;
    let here = base.path().to_str().context("no UTF-8")?.to_owned();
    let places = [transcripts::Place(here, "/srv/gnt".to_owned())];
    let (address, section) = (&server.address, &[section.to_owned()]);
    let recorded = transcripts::record(address, section, &places, "rapid, embedded", dir);
    runtime.block_on(server.stop())?;
    recorded
}

/// The names that the recorded cluster's machine knew.
fn hosts() -> String {
    let mut hosts = String::from("10.77.0.1 cluster.gnt.example cluster\n");
    for node in 1..=4 {
        hosts += &format!("10.77.0.{} node{node}.gnt.example node{node}\n", 10 + node);
    }
    for instance in 1..=250 {
        hosts += &format!("10.77.1.{instance} inst{instance}.gnt.example inst{instance}\n");
        hosts += &format!("10.77.2.{instance} bulk{instance}.gnt.example bulk{instance}\n");
    }
    hosts
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The OS definitions of the recorded cluster: noop, gl-var with variants and parameters, gl-fail that refuses.
fn os_definitions(dir: &Path) -> Result<()> {
    for os in ["noop", "gl-var", "gl-fail"] {
        let dir = dir.join(os);
        fs::create_dir_all(&dir)?;
        // Debian's package ganeti-os-noop declares the older versions.
        let versions = if os == "noop" { "5\n10\n" } else { "20\n" };
        fs::write(dir.join("ganeti_api_version"), versions)?;
        for name in ["create", "import", "export", "rename", "verify"] {
            script(&dir.join(name), "exit 0\n")?;
        }
        if os != "noop" {
            fs::write(dir.join("variants.list"), "default\nminimal\n")?;
            let parameters = "root_size Size of root\nmirror Mirror to use\n";
            fs::write(dir.join("parameters.list"), parameters)?;
        }
    }
    script(&dir.join("gl-fail/create"), "echo 'gl-fail: refusing to install' >&2\nexit 1\n")?;
    script(&dir.join("gl-var/export"), "echo dummy-export-data\n")?;
    script(&dir.join("gl-var/import"), "cat >/dev/null\n")
}
