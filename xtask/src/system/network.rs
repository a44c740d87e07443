//! Networks through the remote API, in a network namespace of the test's own: an address from a pool that the guest has, a
//! filter that holds it to that, a NIC that comes and goes while it runs, and nothing left behind.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};

use crate::guest::{Viewer, first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place};

const NAME: &str = "web.example.com";
const PATH: &str = "/2/instances/web.example.com";
/// Where the part that runs inside the namespace finds the cluster.
const INSIDE: &str = "RAPID_TEST_PLACE";
const PING: &str = "ping -q -c 3 -W 2 -w 20";

/// A network namespace that ends with the test.
struct Namespace(String);

impl Namespace {
    fn make() -> Result<Self> {
        let name = format!("rapid-network-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.0]) {
            println!("{error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    machine::run(Command::new("ip").args(arguments))
}

fn taps() -> Result<usize> {
    let names = fs::read_dir("/sys/class/net")?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with("tap")).count())
}

/// Makes a cluster of this machine; the rest is done by this program again, inside the namespace.
pub(crate) fn run() -> Result<()> {
    if let Some(base) = std::env::var_os(INSIDE) {
        let place = Place { program: machine::rapid("debug")?, dir: base.into() };
        return server::runtime()?.block_on(lives(&place));
    }
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    place.init(&["network.example.com"])?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(place.data_dir()))?;
    let namespace = Namespace::make()?;
    let me = std::env::current_exe().context("this program is nowhere")?;
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &namespace.0]).arg(me).args(["test", "--prepared", "network"]);
    machine::run(inside.env(INSIDE, base.path()))
}

async fn lives(place: &Place) -> Result<()> {
    let mut clock = Clock(Instant::now());
    let data_dir = place.data_dir();
    for arguments in [
        "link set lo up",
        "link add br0 type bridge",
        "addr add 192.0.2.1/28 dev br0",
        "link set br0 up",
        "link add br1 type bridge",
        "addr add 203.0.113.1/24 dev br1",
        "link set br1 up",
    ] {
        ip(&arguments.split(' ').collect::<Vec<_>>())?;
    }
    let mut server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    let node = first_node(&client).await?;
    let network = json!({
        "network_name": "lab", "network": "192.0.2.0/28", "gateway": "192.0.2.1",
        "add_reserved_ips": ["192.0.2.2"], "tags": ["ip-filtered"], "conflicts_check": false,
    });
    let job = client.submit(Method::Post, "/2/networks", &[], Some(&network)).await?;
    succeed(&client, job, |_| {}).await?;
    let connection =
        json!({"group_name": "default", "network_mode": "bridged", "network_link": "br0"});
    let connect = "/2/networks/lab/connect";
    let job = client.submit(Method::Put, connect, &[], Some(&connection)).await?;
    succeed(&client, job, |_| {}).await?;

    // A bridge that is not there is refused before anything is made.
    let mut asked = request(NAME, &node, "Hello from the pool");
    asked["nics"] = json!([{"mode": "bridged", "link": "br7"}]);
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    let refused = client.wait(job, |_| {}).await?;
    let text = refused["opresult"].to_string();
    ensure!(refused["status"] == "error" && text.contains("Missing bridges br7"), "{text}");

    asked["nics"] = json!([{"network": "lab", "ip": "pool"}]);
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    succeed(&client, job, |_| {}).await?;
    let instance = client.call(Method::Get, PATH, &[], None).await?;
    ensure!(instance["nic.ips"] == json!(["192.0.2.3"]), "its address: {}", instance["nic.ips"]);
    ensure!(taps()? == 1, "it has one tap device");
    let mut viewer = Viewer::attach(&data_dir, NAME, |_| {}).await?;
    let up = viewer.wait("GUEST-UP web.example.com").await?;
    ensure!(up.contains("address=192.0.2.3/28"), "its address: {up}");
    sees(&mut viewer, &format!("{PING} 192.0.2.1"), "3 packets received").await?;
    viewer.line("ip addr add 192.0.2.9/28 dev eth0").await?;
    sees(&mut viewer, &format!("{PING} -I 192.0.2.9 192.0.2.1"), "100% packet loss").await?;
    clock.lap("a guest has its address from the pool, and no other");

    let result = modify(&client, json!([["add", {"mode": "bridged", "link": "br1"}]])).await?;
    ensure!(result.to_string().contains("hotplug:done"), "it is plugged in: {result}");
    ensure!(taps()? == 2, "it has two tap devices");
    let seen = "for i in $(seq 100); do [ -e /sys/class/net/eth1 ] && break; sleep 0.1; done";
    let set = "ip addr add 203.0.113.3/24 dev eth1; ip link set eth1 up";
    let pinged = format!("{seen}; {set}; {PING} 203.0.113.1");
    sees(&mut viewer, &pinged, "3 packets received").await?;
    clock.lap("a NIC came while it ran");

    server.kill()?;
    server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    let result = modify(&client, json!([["remove", {}]])).await?;
    ensure!(result.to_string().contains("hotplug:done"), "it is pulled out: {result}");
    ensure!(taps()? == 1, "it has one tap device again");
    clock.lap("another server took it out");

    let job =
        client.submit(Method::Delete, PATH, &[], Some(&json!({"shutdown_timeout": 0}))).await?;
    succeed(&client, job, |_| {}).await?;
    ensure!(taps()? == 0, "a tap device is left");
    let lab = client.call(Method::Get, "/2/networks/lab", &[], None).await?;
    ensure!(lab["free_count"] == 12, "its address is free again: {lab}");
    clock.lap("nothing was left");
    server.stop().await
}

async fn modify(client: &Client, nics: Value) -> Result<Value> {
    let path = format!("{PATH}/modify");
    let asked = json!({"nics": nics, "hotplug": true});
    let job = client.submit(Method::Put, &path, &[], Some(&asked)).await?;
    let job = succeed(client, job, |_| {}).await?;
    Ok(job["opresult"].clone())
}

async fn sees(viewer: &mut Viewer, command: &str, text: &str) -> Result<()> {
    viewer.line(command).await?;
    viewer.wait(text).await?;
    Ok(())
}

/// Says how long each part took.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:6.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
