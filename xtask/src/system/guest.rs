//! A real guest through the remote API: made, seen to answer on its console, there after its server was killed, rebooted,
//! stopped, removed.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};

use crate::guest::{Viewer, first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place};

const NAME: &str = "web.example.com";
const PATH: &str = "/2/instances/web.example.com";

/// Makes a cluster of this machine, and a guest on it.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    let mut clock = Clock(Instant::now());
    place.init(&["guest.example.com"])?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(place.data_dir()))?;
    clock.lap("tiny was built");
    server::runtime()?.block_on(lives(&place, &mut clock))
}

async fn lives(place: &Place, clock: &mut Clock) -> Result<()> {
    let data_dir = place.data_dir();
    let mut server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    let node = first_node(&client).await?;
    let asked = request(NAME, &node, "Hello from the test");
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    succeed(&client, job, |_| {}).await?;
    ensure!(status(&client).await? == "running", "it runs");
    clock.lap("the guest was created");
    let mut viewer = Viewer::attach(&data_dir, NAME, |_| {}).await?;
    viewer.wait("Hello from the test").await?;
    let up = viewer.wait("GUEST-UP web.example.com").await?;
    ensure!(up.contains("address=10.0.2.15"), "its address: {up}");
    answers(&mut viewer, "first").await?;
    clock.lap("it answered on its console");

    server.kill()?;
    server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    ensure!(status(&client).await? == "running", "it runs without its server");
    let mut viewer = Viewer::attach(&data_dir, NAME, |_| {}).await?;
    viewer.wait("answer-first-42").await?;
    answers(&mut viewer, "second").await?;
    clock.lap("its server was killed, and another found it");

    let console = client.call(Method::Get, &format!("{PATH}/console"), &[], None).await?;
    ensure!(console["kind"] == "ssh" && console["instance"] == NAME, "the console: {console}");
    let job = client.submit(Method::Post, &format!("{PATH}/reboot"), &[], None).await?;
    succeed(&client, job, |_| {}).await?;
    viewer.wait("GUEST-UP web.example.com").await?;
    answers(&mut viewer, "third").await?;
    clock.lap("it was rebooted");

    let job = client.submit(Method::Put, &format!("{PATH}/shutdown"), &[], None).await?;
    succeed(&client, job, |_| {}).await?;
    ensure!(status(&client).await? == "ADMIN_down", "it is down");
    viewer.wait("GUEST-DOWN web.example.com").await?;
    clock.lap("it was stopped");
    let job = client.submit(Method::Put, &format!("{PATH}/startup"), &[], None).await?;
    succeed(&client, job, |_| {}).await?;
    let job =
        client.submit(Method::Delete, PATH, &[], Some(&json!({"shutdown_timeout": 0}))).await?;
    succeed(&client, job, |_| {}).await?;
    let names = client.call(Method::Get, "/2/instances", &[], None).await?;
    ensure!(names == json!([]), "nothing is left: {names}");
    let disks = data_dir.join("file-storage").join(NAME);
    ensure!(!disks.exists(), "{} is left", disks.display());
    clock.lap("it was started again and removed by force");
    server.stop().await
}

async fn answers(viewer: &mut Viewer, word: &str) -> Result<()> {
    viewer.line(&format!("echo answer-{word}-$((40 + 2))")).await?;
    viewer.wait(&format!("answer-{word}-42")).await?;
    Ok(())
}

async fn status(client: &Client) -> Result<String> {
    let instance: Value = client.call(Method::Get, PATH, &[], None).await?;
    Ok(instance["status"].as_str().unwrap_or_default().to_owned())
}

/// Says how long each part took.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:6.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
