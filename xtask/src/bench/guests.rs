//! `cargo xtask bench --guests`: operations on real guests of this machine. What QEMU, the scripts of the operating system and the
//! guests take is told by the server (`outside` in its log) and subtracted: the rest is our own time. That ten guests come up
//! together is measured beside ten plain QEMU processes that boot the same.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::load::{Measured, ms};
use super::memory::pss_mib;
use super::table::{self, Bar, Table};
use crate::guest::{first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place, Server};

/// How often each operation is measured.
const ROUNDS: usize = 5;
/// How many guests come up together.
const TOGETHER: usize = 10;
/// How many are taken over at a start.
const ADOPTED: usize = 50;
/// How long guests may take to be up.
const UP_LIMIT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(10);

const HOW: &str = "Release build; real guests of QEMU under emulation, which share the cores with the server. \"Own\" is what is left of a \
    job's\ntime, from the request to the news of its end, without what commands, scripts, QEMU and guests took.";

/// Makes guests and measures.
pub(crate) fn run(program: PathBuf) -> Result<()> {
    machine::packages(crate::test::QEMU)?;
    let base = tempfile::tempdir()?;
    let place = Place::new(program, base.path())?;
    place.init(&["bench.example.com"])?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(place.data_dir()))?;
    let mut table = Table::new(table::machine(HOW));
    server::runtime()?.block_on(async {
        let mut bench = Guests { place: &place, server: start(&place).await?, read: 0 };
        bench.operations(&mut table).await?;
        bench.together(&mut table).await?;
        bench.adopted(&mut table).await
    })?;
    println!("{}", table.text());
    Ok(())
}

async fn start(place: &Place) -> Result<Server> {
    let mut command = Command::new(&place.program);
    command.env("RAPID_LOG", "info,access=warn,outside=debug");
    place.start_by(command, &["--no-ssl"]).await
}

struct Guests<'a> {
    place: &'a Place,
    server: Server,
    /// How much of the server's log was read.
    read: usize,
}

/// One operation: its name, the call, and what our own time should be under.
struct Operation {
    name: &'static str,
    method: Method,
    path: &'static str,
    body: Value,
    bar: (&'static str, Duration),
}

const NAME: &str = "web.example.com";
const CREATE_BAR: (&str, Duration) = ("own under 1.0 s", Duration::from_secs(1));
const OTHER_BAR: (&str, Duration) = ("own under 0.3 s", Duration::from_millis(300));

impl Guests<'_> {
    fn client(&self) -> Result<Client> {
        self.server.client()
    }

    /// Makes a call, waits for its job, and answers the whole time and what others took of it.
    async fn timed(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(Duration, Duration)> {
        let client = self.client()?;
        self.read = self.server.said().len();
        let begun = Instant::now();
        let job = client.submit(method, path, &[], Some(body)).await?;
        succeed(&client, job, |_| {}).await?;
        let took = begun.elapsed();
        Ok((took, outside(&self.server.said()[self.read..])?))
    }

    async fn operations(&mut self, table: &mut Table) -> Result<()> {
        let node = first_node(&self.client()?).await?;
        let instance =
            |name, method, path, body| Operation { name, method, path, body, bar: OTHER_BAR };
        let (put, post) = (Method::Put, Method::Post);
        let operations = [
            Operation {
                name: "create, prebuilt image",
                method: post,
                path: "/2/instances",
                body: request(NAME, &node, "bench"),
                bar: CREATE_BAR,
            },
            instance(
                "grow, running",
                post,
                "/2/instances/web.example.com/disk/0/grow",
                json!({"amount": 16}),
            ),
            instance(
                "hotplug of a disk",
                put,
                "/2/instances/web.example.com/modify",
                json!({"disks": [["add", -1, {"size": 16}]], "hotplug": true}),
            ),
            instance(
                "unplug of a disk",
                put,
                "/2/instances/web.example.com/modify",
                json!({"disks": [["remove", -1, {}]], "hotplug": true}),
            ),
            instance("stop", put, "/2/instances/web.example.com/shutdown", json!({})),
            instance("start", put, "/2/instances/web.example.com/startup", json!({})),
            instance(
                "remove",
                Method::Delete,
                "/2/instances/web.example.com",
                json!({"shutdown_timeout": 0}),
            ),
        ];
        let mut times: Vec<(Measured, Measured)> =
            operations.iter().map(|_| (Measured::new(), Measured::new())).collect();
        for _ in 0..ROUNDS {
            for (operation, (whole, own)) in operations.iter().zip(&mut times) {
                let timed = self.timed(operation.method, operation.path, &operation.body).await;
                let (took, others) = timed.with_context(|| operation.name)?;
                whole.add(took);
                own.add(took.saturating_sub(others));
                if operation.method == Method::Post && operation.path == "/2/instances" {
                    // Devices come and go once somebody is there.
                    up(&self.place.data_dir(), &[NAME.to_owned()]).await?;
                }
            }
        }
        for (operation, (whole, own)) in operations.iter().zip(times) {
            let (whole, own) = (whole.done(), own.done());
            let worst = own.quantile(1.0);
            let (text, limit) = operation.bar;
            table.row(
                operation.name,
                &format!("own p50 {:.1} ms", ms(own.quantile(0.5))),
                &format!(
                    "own at most {:.1} ms; whole p50 {:.0} ms",
                    ms(worst),
                    ms(whole.quantile(0.5))
                ),
                Some(&Bar { text, met: worst < limit }),
            );
        }
        Ok(())
    }

    /// Ten at the same time: through the API, and as plain processes of the same command lines.
    async fn together(&mut self, table: &mut Table) -> Result<()> {
        let client = self.client()?;
        let node = first_node(&client).await?;
        let names: Vec<String> = (0..TOGETHER).map(|at| format!("ten{at}.example.com")).collect();
        let begun = Instant::now();
        let mut jobs = Vec::new();
        for name in &names {
            let asked = request(name, &node, "bench");
            jobs.push(client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?);
        }
        for job in jobs {
            succeed(&client, job, |_| {}).await?;
        }
        let ended = begun.elapsed();
        up(&self.place.data_dir(), &names).await?;
        let ours = begun.elapsed();
        let lines = command_lines(&self.place.data_dir())?;
        ensure!(lines.len() == TOGETHER, "{} command lines", lines.len());
        for name in &names {
            let path = format!("/2/instances/{name}/shutdown");
            let job = client.submit(Method::Put, &path, &[], Some(&json!({"timeout": 0}))).await?;
            succeed(&client, job, |_| {}).await?;
        }
        let plain = plain(&lines).await?;
        let ratio = ours.as_secs_f64() / plain.as_secs_f64();
        table.row(
            "ten creates together, until all guests are up",
            &format!("{:.1} s", ours.as_secs_f64()),
            &format!(
                "jobs ended after {:.1} s; ten plain QEMU processes {:.1} s: {ratio:.2} times",
                ended.as_secs_f64(),
                plain.as_secs_f64()
            ),
            Some(&Bar { text: "at most 1.3 times", met: ratio <= 1.3 }),
        );
        for name in &names {
            let job =
                client.submit(Method::Delete, &format!("/2/instances/{name}"), &[], None).await?;
            succeed(&client, job, |_| {}).await?;
        }
        Ok(())
    }

    /// A killed server's guests, at the start of the next.
    async fn adopted(mut self, table: &mut Table) -> Result<()> {
        let client = self.client()?;
        let node = first_node(&client).await?;
        let mut jobs = Vec::new();
        for at in 0..ADOPTED {
            // Nothing to boot from: what is measured needs no guest that works.
            let mut asked = request(&format!("many{at}.example.com"), &node, "bench");
            asked["hvparams"] = json!({"kernel_path": "", "initrd_path": ""});
            jobs.push(client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?);
        }
        for job in jobs {
            succeed(&client, job, |_| {}).await?;
        }
        self.server.kill()?;
        let begun = Instant::now();
        self.server = start(self.place).await?;
        let client = self.client()?;
        let all = client.call(Method::Get, "/2/instances", &[("bulk", "1")], None).await?;
        let took = begun.elapsed();
        let running =
            all.as_array().into_iter().flatten().filter(|one| one["status"] == "running").count();
        ensure!(running == ADOPTED, "{running} of {ADOPTED} run");
        table.row(
            "start with 50 running guests, until all are told to run",
            &format!("{:.0} ms", ms(took)),
            &format!("memory (PSS) of the server {:.1} MiB", pss_mib(self.server.pid())?),
            Some(&Bar { text: "under 2 s", met: took < Duration::from_secs(2) }),
        );
        let mut jobs = Vec::new();
        for at in 0..ADOPTED {
            let path = format!("/2/instances/many{at}.example.com");
            let body = json!({"shutdown_timeout": 0});
            jobs.push(client.submit(Method::Delete, &path, &[], Some(&body)).await?);
        }
        for job in jobs {
            succeed(&client, job, |_| {}).await?;
        }
        self.server.stop().await
    }
}

/// What others took, by the server's log: the time in which at least one of them was at work.
fn outside(log: &str) -> Result<Duration> {
    let number = |line: &str, name: &str| -> Result<u64> {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no {name} in {line}"))
    };
    let mut spans = Vec::new();
    for line in log.lines().filter(|line| line.contains(" outside: ")) {
        spans.push((number(line, "from=")?, number(line, "to=")?));
    }
    spans.sort_unstable();
    let (mut sum, mut seen) = (0, 0);
    for (from, to) in spans {
        sum += to.saturating_sub(from.max(seen));
        seen = seen.max(to);
    }
    Ok(Duration::from_micros(sum))
}

/// Waits until guests have said on their consoles that they are up.
async fn up(data_dir: &Path, names: &[String]) -> Result<()> {
    let begun = Instant::now();
    for name in names {
        let log = data_dir.join("log/console").join(format!("{name}.log"));
        said(&log, &format!("GUEST-UP {name}"), begun).await?;
    }
    Ok(())
}

async fn said(log: &Path, text: &str, begun: Instant) -> Result<()> {
    loop {
        let said = fs::read(log).unwrap_or_default();
        if String::from_utf8_lossy(&said).contains(text) {
            return Ok(());
        }
        if begun.elapsed() > UP_LIMIT {
            bail!("'{text}' does not come");
        }
        sleep(LOOK).await;
    }
}

/// The command lines by which the server runs its guests.
fn command_lines(data_dir: &Path) -> Result<Vec<Vec<String>>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(data_dir.join("run/instances"))? {
        let runtime: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
        lines.push(serde_json::from_value(runtime["argv"].clone())?);
    }
    Ok(lines)
}

/// Starts the same command lines in a loop, without waiting to be told to go, and answers how long until all guests are up.
async fn plain(lines: &[Vec<String>]) -> Result<Duration> {
    let dir = tempfile::tempdir()?;
    let mut logs = Vec::new();
    let mut pids = Vec::new();
    let mut changed = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let run = Path::new(option(line, "-pidfile")?).parent().context("no directory")?;
        let run = run.display().to_string();
        let here = dir.path().join(at.to_string());
        fs::create_dir(&here)?;
        let console = line.iter().find_map(|arg| arg.split("logfile=").nth(1)?.split(',').next());
        let console = console.context("no log of the console")?.to_owned();
        let log = here.join("log");
        let arguments: Vec<String> = line
            .iter()
            .filter(|arg| *arg != "-S")
            .map(|arg| arg.replace(&console, &log.display().to_string()))
            .map(|arg| arg.replace(&run, &here.display().to_string()))
            .collect();
        let name = option(line, "-name")?.split(',').find_map(|part| part.strip_prefix("guest="));
        logs.push((log, format!("GUEST-UP {}", name.context("no name")?)));
        pids.push(here.join("pid"));
        changed.push(arguments);
    }
    let begun = Instant::now();
    let mut started = Vec::new();
    for arguments in &changed {
        let (program, rest) = arguments.split_first().context("an empty command line")?;
        started.push(Command::new(program).args(rest).spawn()?);
    }
    for mut child in started {
        ensure!(child.wait()?.success(), "QEMU does not start");
    }
    let mut came = Ok(());
    for (log, text) in &logs {
        came = came.and(said(log, text, begun).await);
    }
    let took = begun.elapsed();
    for pid in pids {
        let pid = fs::read_to_string(pid)?.trim().parse::<i32>()?;
        let pid = rustix::process::Pid::from_raw(pid).context("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    came.map(|()| took)
}

fn option<'a>(line: &'a [String], name: &str) -> Result<&'a str> {
    let at = line.iter().position(|arg| arg == name).with_context(|| format!("no {name}"))?;
    line.get(at + 1).map(String::as_str).with_context(|| format!("{name} has no value"))
}
