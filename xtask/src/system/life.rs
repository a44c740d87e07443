//! The life of a real guest, beside what it is asked for: it powers itself off, its QEMU is killed, the watcher starts it again and
//! gives up when that does not work; its screen, its console, its memory and its limits.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rapi::client::Client;
use rapi::input::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::guest::{STEP, Viewer, first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place, Server};

const NAME: &str = "life.example.com";
const PATH: &str = "/2/instances/life.example.com";
/// How often the watcher looks here.
const WATCHER: &[&str] = &["--watcher-interval", "2", "--limit-instances"];
/// The watcher that never looks.
const NO_WATCHER: &[&str] = &["--watcher-interval", "0", "--limit-instances"];
/// How often something is looked at again.
const LOOK: Duration = Duration::from_millis(100);

/// Makes a cluster of this machine, and a guest on it.
pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    let mut clock = Clock(Instant::now());
    let user_shutdown = ["-H", "kvm:user_shutdown=true", "--enabled-user-shutdown"];
    place.init(&[&user_shutdown[..], &["life.example.org"]].concat())?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(place.data_dir()))?;
    clock.lap("tiny was built");
    server::runtime()?.block_on(async {
        let server = place.start(NO_WATCHER).await?;
        created(&server.client()?, &mut clock).await?;
        seen(&place, &server.client()?, &mut clock).await?;
        alone(&place, &mut clock)?;
        let server = ended_by_itself(&place, server, &mut clock).await?;
        let server = killed(&place, server, &mut clock).await?;
        removed(&place, &server.client()?).await?;
        server.stop().await
    })
}

async fn created(client: &Client, clock: &mut Clock) -> Result<()> {
    let node = first_node(client).await?;
    let mut asked = request(NAME, &node, "Hello");
    asked["beparams"] = json!({"maxmem": 160, "minmem": 96, "vcpus": 1});
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    succeed(client, job, |_| {}).await?;
    clock.lap("the guest was created");
    Ok(())
}

/// Its console, screen, memory and limits.
async fn seen(place: &Place, client: &Client, clock: &mut Clock) -> Result<()> {
    let data_dir = place.data_dir();
    let mut one = Viewer::attach(&data_dir, NAME, |_| {}).await?;
    one.wait("GUEST-UP life.example.com").await?;
    let mut two = Viewer::attach(&data_dir, NAME, |_| {}).await?;
    two.wait("GUEST-UP life.example.com").await?;
    two.line("echo shared-$((40 + 2))").await?;
    one.wait("shared-42").await?;
    two.wait("shared-42").await?;
    clock.lap("two viewers shared its console, and what was on it before");

    let path = format!("/rapid/1/instances/{NAME}/screenshot");
    let (answered, png) = client.raw(Method::Get, &path, &[], None).await?;
    ensure!(answered == 200, "the screenshot is answered {answered}");
    let size = png_size(&png)?;
    let file = place.path("screen.png");
    let mut command = Command::new(&place.program);
    command.args(["screenshot", "--data-dir"]).arg(&data_dir).arg(NAME).arg(&file);
    machine::run(&mut command)?;
    let again = png_size(&fs::read(&file)?)?;
    ensure!(size == again && size.0 >= 640 && size.1 >= 350, "screens of {size:?} and {again:?}");
    let (unknown, _) =
        client.raw(Method::Get, "/rapid/1/instances/x/screenshot", &[], None).await?;
    ensure!(unknown == 404, "an unknown instance's screen is answered {unknown}");
    clock.lap(&format!("its screen was seen, {} x {}", size.0, size.1));

    let before = guest_memory(&mut one, "before").await?;
    let job = client
        .submit(Method::Put, &format!("{PATH}/modify"), &[], Some(&json!({"runtime_mem": 112})))
        .await?;
    succeed(client, job, |_| {}).await?;
    let begun = Instant::now();
    let mut at = 0;
    let after = loop {
        at += 1;
        let now = guest_memory(&mut one, &format!("after-{at}")).await?;
        if before - now >= 40 << 10 || begun.elapsed() > STEP {
            break now;
        }
    };
    ensure!(before - after >= 40 << 10, "the guest had {before} KiB and has {after}");
    let refused = client
        .submit(Method::Put, &format!("{PATH}/modify"), &[], Some(&json!({"runtime_mem": 64})))
        .await?;
    let refused = client.wait(refused, |_| {}).await?;
    ensure!(refused["status"] == "error", "less than minmem is refused: {refused}");
    ensure!(field(client, "oper_ram").await? == 112, "its memory is told");
    clock.lap("it gave memory back");

    let pid = qemu(&data_dir)?.0;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    if limited(&groups) {
        println!("         it is held by control groups");
    } else {
        ensure!(!there_are_groups()?, "it is not held by control groups: {groups}");
        println!("         there are no control groups here to hold it");
    }
    Ok(())
}

/// A second server does not get the data directory.
fn alone(place: &Place, clock: &mut Clock) -> Result<()> {
    let mut second = Command::new(&place.program);
    second.args(["serve", "--port", "0", "--data-dir"]).arg(place.data_dir());
    let said = second.arg("--users-file").arg(place.path("users")).output()?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(!said.status.success(), "a second server started");
    ensure!(text.contains("is used by another daemon"), "a second server said: {text}");
    clock.lap("a second server was refused");
    Ok(())
}

/// The guest powers itself off: while the server looks on, and while it is away.
async fn ended_by_itself(place: &Place, server: Server, clock: &mut Clock) -> Result<Server> {
    let client = server.client()?;
    power_off(place).await?;
    status(&client, "USER_down").await?;
    ensure!(field(&client, "admin_state").await? == "up", "it is not noted yet");
    start(&client).await?;
    status(&client, "running").await?;
    clock.lap("it powered itself off, was told of, and was started again");

    let mut viewer = Viewer::attach(&place.data_dir(), NAME, |_| {}).await?;
    viewer.wait("GUEST-UP life.example.com").await?;
    let mut server = server;
    server.kill()?;
    drop(viewer);
    let (pid, run_dir) = qemu(&place.data_dir())?;
    power_button(&run_dir).await?;
    let server = place.start(WATCHER).await?;
    let client = server.client()?;
    status(&client, "USER_down").await?;
    // Its number may be there until somebody has asked how it ended.
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    ensure!(line.is_empty(), "its QEMU is still there");
    let begun = Instant::now();
    while field(&client, "admin_state").await? != "down" {
        ensure!(begun.elapsed() < STEP, "the watcher did not note that the user stopped it");
        tokio::time::sleep(LOOK).await;
    }
    ensure!(field(&client, "admin_state_source").await? == "user", "the user stopped it");
    status(&client, "USER_down").await?;
    clock.lap("it powered itself off while the server was away, and the watcher noted that");
    Ok(server)
}

/// Its QEMU is killed: the watcher starts it again, and gives up in the end when that cannot be.
async fn killed(place: &Place, server: Server, clock: &mut Clock) -> Result<Server> {
    let client = server.client()?;
    start(&client).await?;
    let (pid, _) = qemu(&place.data_dir())?;
    kill(pid)?;
    let begun = Instant::now();
    let next = loop {
        match qemu(&place.data_dir()) {
            Ok((now, _)) if now != pid => break now,
            _ if begun.elapsed() > STEP => bail!("the watcher did not start it again"),
            _ => tokio::time::sleep(LOOK).await,
        }
    };
    status(&client, "running").await?;
    clock.lap("its QEMU was killed, and the watcher started it again");
    // It begins to count anew once it has seen that the instance runs.
    let passes = gauge(&client, "rapid_watcher_passes_total").await?;
    let begun = Instant::now();
    while gauge(&client, "rapid_watcher_passes_total").await? < passes + 2.0 {
        ensure!(begun.elapsed() < STEP, "the watcher does not look again");
        tokio::time::sleep(LOOK).await;
    }

    let disks = place.data_dir().join("file-storage").join(NAME);
    let away = place.path("away");
    fs::rename(&disks, &away)?;
    kill(next)?;
    let begun = Instant::now();
    while gauge(&client, "rapid_watcher_given_up").await? != 1.0 {
        ensure!(begun.elapsed() < STEP, "the watcher does not give up");
        tokio::time::sleep(LOOK).await;
    }
    status(&client, "ERROR_down").await?;
    ensure!(gauge(&client, "rapid_watcher_restarts_total").await? == 6.0, "it tried five times");
    ensure!(gauge(&client, "rapid_watcher_findings{kind=\"down\"}").await? == 1.0, "it is told");
    fs::rename(&away, &disks)?;
    clock.lap("without its disk it was left alone after five attempts");
    Ok(server)
}

async fn removed(place: &Place, client: &Client) -> Result<()> {
    let body = json!({"shutdown_timeout": 0});
    let job = client.submit(Method::Delete, PATH, &[], Some(&body)).await?;
    succeed(client, job, |_| {}).await?;
    let notes = fs::read_dir(place.data_dir().join("run/instances"))?.count();
    ensure!(notes == 0, "{notes} notes are left");
    Ok(())
}

async fn start(client: &Client) -> Result<()> {
    let job = client.submit(Method::Put, &format!("{PATH}/startup"), &[], None).await?;
    succeed(client, job, |_| {}).await.map(drop)
}

async fn power_off(place: &Place) -> Result<()> {
    let mut viewer = Viewer::attach(&place.data_dir(), NAME, |_| {}).await?;
    viewer.line("poweroff").await?;
    viewer.wait("GUEST-DOWN life.example.com").await?;
    Ok(())
}

/// Has the guest power itself off by its own console, which no server listens to, and waits until it has halted.
async fn power_button(run_dir: &Path) -> Result<()> {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut serial = tokio::net::UnixStream::connect(run_dir.join("serial")).await?;
    serial.write_all(b"\rpoweroff\r").await?;
    let monitor = tokio::net::UnixStream::connect(run_dir.join("qmp2")).await?;
    let mut lines = BufReader::new(monitor).lines();
    let halted = async {
        lines.get_mut().write_all(b"{\"execute\": \"qmp_capabilities\"}\n").await?;
        loop {
            lines.get_mut().write_all(b"{\"execute\": \"query-status\"}\n").await?;
            while let Some(line) = lines.next_line().await? {
                if line.contains("\"shutdown\"") {
                    return anyhow::Ok(());
                }
                if line.contains("\"status\"") {
                    break;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(STEP, halted).await.context("the guest does not halt")?
}

fn kill(pid: i32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid).context("no pid")?, Signal::KILL)?)
}

/// The process id and the directory of sockets of the one QEMU.
fn qemu(data_dir: &Path) -> Result<(i32, std::path::PathBuf)> {
    let mut notes = fs::read_dir(data_dir.join("run/instances"))?;
    let note = notes.next().context("nothing runs")??;
    let note: Value = serde_json::from_slice(&fs::read(note.path())?)?;
    let pid = note["process"]["pid"].as_i64().context("it does not run yet")?;
    let run_dir = note["run_dir"].as_str().context("it has no directory")?;
    Ok((i32::try_from(pid)?, run_dir.into()))
}

/// Whether a process is in groups of ours.
fn limited(groups: &str) -> bool {
    groups.lines().any(|line| line.contains("/rapid-"))
}

/// Whether there are control groups for cpu or memory that we may write.
fn there_are_groups() -> Result<bool> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let v1 = own.lines().any(|line| {
        line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == "memory"))
    });
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Ok(v1 || v2.contains("memory"))
}

async fn field(client: &Client, name: &str) -> Result<Value> {
    let filter = json!({"fields": [name], "qfilter": ["=", "name", NAME]});
    let answer = client.call(Method::Put, "/2/query/instance", &[], Some(&filter)).await?;
    Ok(answer["data"][0][0][1].clone())
}

/// Waits until the instance has a status.
async fn status(client: &Client, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = field(client, "status").await?;
        if now == wanted {
            return Ok(());
        }
        ensure!(begun.elapsed() < STEP, "it is {now} and not {wanted}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn gauge(client: &Client, name: &str) -> Result<f64> {
    let (_, text) = client.raw(Method::Get, "/metrics", &[], None).await?;
    let text = String::from_utf8(text.to_vec())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("there is no {name}"))?.parse()?)
}

/// Width and height of a PNG.
fn png_size(bytes: &[u8]) -> Result<(u32, u32)> {
    ensure!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "it is no PNG");
    let number = |at: usize| -> Result<u32> {
        let four = bytes.get(at..at + 4).context("the PNG is cut off")?;
        Ok(u32::from_be_bytes(four.try_into()?))
    };
    Ok((number(16)?, number(20)?))
}

/// The guest's memory in KiB, as it says itself.
async fn guest_memory(viewer: &mut Viewer, word: &str) -> Result<i64> {
    viewer.line(&format!("echo mem-{word}=$(awk '/MemTotal/ {{print $2}}' /proc/meminfo)")).await?;
    viewer.wait(&format!("\nmem-{word}=")).await?.trim().parse().context("the guest's memory")
}

/// Says how long each part took.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:6.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
