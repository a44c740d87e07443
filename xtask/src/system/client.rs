//! Ganeti's own Python client, unmodified: each of its public methods is called, and what comes of it is asserted, in
//! `compat/stock_client.py`.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::machine;
use crate::server::{self, Place, USER};

/// Debian's own Python, which its packages are for.
const PYTHON: &str = "/usr/bin/python3";

/// Starts a server on simulated nodes with all disk templates, and lets the script drive it.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    let os = place.noop()?.display().to_string();
    let mut hosts = String::from("10.88.0.1 cluster.example.com cluster\n");
    for at in 1..=5 {
        hosts += &format!("10.88.0.{} node{at}.example.com node{at}\n", 10 + at);
    }
    for name in ["plain", "moved", "drbd", "renamed", "shared", "file", "less", "one", "two"] {
        hosts += &format!("10.88.1.{} {name}.example.com {name}\n", hosts.lines().count());
    }
    fs::create_dir_all(place.data_dir())?;
    fs::write(place.data_dir().join("hosts"), hosts)?;
    let path = |name: &str| place.path(name).display().to_string();
    place.init(&[
        "--simulate-nodes",
        "node1.example.com,node2.example.com,node3.example.com,node4.example.com,node5.example.com",
        "--enabled-hypervisors",
        "kvm,fake",
        "--enabled-disk-templates",
        "drbd,plain,file,sharedfile,diskless",
        "--file-storage-dir",
        &path("file"),
        "--shared-file-storage-dir",
        &path("shared"),
        "--os-search-path",
        &os,
        "-H",
        "kvm:kernel_path=",
        "cluster.example.com",
    ])?;
    let runtime = server::runtime()?;
    let server = runtime.block_on(place.start::<&str>(&[]))?;
    let script = machine::root().join("compat/stock_client.py");
    let driven =
        machine::run(Command::new(PYTHON).arg(script).args([&server.address, USER.0, USER.1]));
    runtime.block_on(server.stop())?;
    driven
}
