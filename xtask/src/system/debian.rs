//! A whole Debian: installed by debootstrap, booted, logged in with the password that only its create script was told, and
//! powered down. It takes minutes, so it is run by `cargo xtask test --long` only.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use rapi::input::Method;
use serde_json::json;

use crate::guest::{Viewer, first_node, succeed};
use crate::machine;
use crate::server::{self, Place};

const NAME: &str = "deb.example.com";
const PASSWORD: &str = "secret-of-root-77";

pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    place.init(&["debian.example.com"])?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "debian", "--data-dir"]).arg(place.data_dir()))?;
    server::runtime()?.block_on(lives(&place))
}

async fn lives(place: &Place) -> Result<()> {
    let begun = Instant::now();
    let lap = |what: &str| println!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    let server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    let node = first_node(&client).await?;
    let asked = json!({
        "__version__": 1, "mode": "create", "instance_name": NAME, "pnode": node, "name_check": false,
        "ip_check": false, "os_type": "debian", "osparams": {"suite": "bookworm"}, "osparams_secret": {"password": PASSWORD},
        "hypervisor": "kvm", "beparams": {"maxmem": 256, "minmem": 256, "vcpus": 1},
        "disk_template": "file", "disks": [{"size": 1024}], "nics": [{"mode": "user"}],
    });
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    succeed(&client, job, |_| {}).await?;
    lap("Debian was installed and started");
    let mut viewer = Viewer::attach(&place.data_dir(), NAME, |_| {}).await?;
    viewer.prompt("login: ").await?;
    lap("it asks who is there");
    viewer.line("root").await?;
    viewer.prompt("Password: ").await?;
    viewer.line(PASSWORD).await?;
    viewer.prompt("# ").await?;
    viewer.line("grep ^ID= /etc/os-release; hostname; ip -4 -o addr show scope global; echo is-$((1 + 1))").await?;
    viewer.wait("ID=debian").await?;
    viewer.wait(NAME).await?;
    viewer.wait("is-2").await?;
    lap("root is logged in");
    let path = format!("/2/instances/{NAME}");
    let job = client.submit(Method::Put, &format!("{path}/shutdown"), &[], None).await?;
    succeed(&client, job, |_| {}).await?;
    lap("it powered down");
    let job = client.submit(Method::Delete, &path, &[], None).await?;
    succeed(&client, job, |_| {}).await?;
    server.stop().await
}
