//! `cargo xtask bench`: how fast the server is, over TLS, with a thousand instances, on this machine. Bars are printed beside
//! what was measured, and never asserted. What sends the requests shares the machine's cores with the server, and so does
//! what sends them to the static answers that stand beside.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

mod fixed;
mod guests;
pub(crate) mod load;
mod memory;
mod peer;
mod table;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::fixed::Fixed;
use self::load::{Connection, Measured, Request, measure};
use self::memory::pss_mib;
use self::table::{Bar, Table};
use crate::guest::succeed;
use crate::machine::{self, cargo};
use crate::server::{self, Place, Server};

const NODES: usize = 20;
/// Who use the API at the same time where one number of them is enough.
const CLIENTS: usize = 8;
const JOB_CLIENTS: usize = 64;
/// How many turn-arounds are measured.
const TURNS: usize = 500;
const CHANGES_PER_SECOND: u32 = 100;
const STARTS: usize = 5;
/// How long the last job may take.
const JOBS_LIMIT: Duration = Duration::from_secs(120);

/// Measure the server, and print a table.
#[derive(Args)]
pub(crate) struct Bench {
    /// How long each measurement takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// How many instances there are in the end; by default 1000, and 200 on a real cluster.
    #[arg(long, value_name = "N")]
    instances: Option<usize>,
    /// Measure beside another daemon on one cluster instead: ganeti, which makes a real Ganeti cluster (as root).
    #[arg(long, value_name = "NAME", value_parser = ["ganeti"])]
    peer: Option<String>,
    /// Measure what is done with real guests on this machine instead.
    #[arg(long)]
    guests: bool,
    /// Programs as they are while one works on them, to see that this command works.
    #[arg(long, hide = true)]
    unoptimised: bool,
    /// Serve a file's bytes, as a measure for the server.
    #[arg(long, hide = true, requires = "certificate")]
    fixed: Option<PathBuf>,
    #[arg(long, hide = true)]
    certificate: Option<PathBuf>,
}

impl Bench {
    /// Measures, with programs built for speed.
    pub(crate) fn run(&self) -> Result<()> {
        if let (Some(file), Some(certificate)) = (&self.fixed, &self.certificate) {
            return fixed::serve(file, certificate);
        }
        if cfg!(debug_assertions) && !self.unoptimised {
            machine::run(cargo().args(["build", "--release", "-p", "rapid", "-p", "xtask"]))?;
            let mut again = Command::new(machine::xtask("release")?);
            return machine::run(again.args(std::env::args_os().skip(1)));
        }
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if self.peer.is_some() {
            return peer::run(machine::rapid(profile)?, self.time(), self.instances.unwrap_or(200));
        }
        if self.guests {
            return guests::run(machine::rapid(profile)?);
        }
        let base = tempfile::tempdir()?;
        let place = Place::new(machine::rapid(profile)?, base.path())?;
        let mut table = Table::new(table::machine(table::BESIDE_STATIC));
        placement(&mut table)?;
        server::runtime()?.block_on(self.measure(&place, &mut table))?;
        println!("{}", table.text());
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances.unwrap_or(1000)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    async fn measure(&self, place: &Place, table: &mut Table) -> Result<()> {
        let nodes: Vec<String> = (1..=NODES).map(|at| format!("node{at}.example.com")).collect();
        place.init(&[
            "--simulate-nodes",
            &nodes.join(","),
            "--enabled-hypervisors",
            "fake",
            "--enabled-disk-templates",
            "plain,drbd,diskless",
            "bench.example.com",
        ])?;
        let server = place.start::<&str>(&[]).await?;
        println!("making {} instances …", self.instances());
        let made = instances(&server, self.instances(), &nodes).await?;
        table.row("creation of an instance, 16 at a time", &format!("{made:.0}/s"), "", None);
        self.requests(place, &server, table).await?;
        let pss = pss_mib(server.pid())?;
        table.row(
            "memory (PSS) with the instances, after the reads",
            &format!("{pss:.1} MiB"),
            "",
            Some(&Bar { text: "under 64 MiB", met: pss < 64.0 }),
        );
        self.jobs(&server, table).await?;
        let (pss, jobs) = (pss_mib(server.pid())?, jobs(&server).await?);
        let title = format!("memory (PSS) with {jobs} jobs, too");
        table.row(&title, &format!("{pss:.1} MiB"), "", None);
        server.stop().await?;
        let mut first = Vec::new();
        for _ in 0..STARTS {
            let begun = Instant::now();
            let server = place.start::<&str>(&[]).await?;
            server.client()?.call(Method::Get, "/version", &[], None).await?;
            first.push(begun.elapsed());
            let pss = pss_mib(server.pid())?;
            server.client()?.raw(Method::Get, "/2/instances", &[("bulk", "1")], None).await?;
            if first.len() == STARTS {
                table.row("memory (PSS) after a start", &format!("{pss:.1} MiB"), "", None);
            }
            server.stop().await?;
        }
        first.sort();
        let median = first[first.len() / 2];
        table.row(
            "start to first answer, median of 5",
            &format!("{:.0} ms", load::ms(median)),
            "",
            Some(&Bar { text: "under 200 ms", met: median < Duration::from_millis(200) }),
        );
        Ok(())
    }

    /// Reads, each beside the same bytes from a server that knows nothing else.
    async fn requests(&self, place: &Place, server: &Server, table: &mut Table) -> Result<()> {
        let time = self.time();
        let client = server.client()?;
        let bulk = Request::get("/2/instances?bulk=1");
        let certificate = place.data_dir().join("rapi.pem");
        for (name, request) in [
            ("/version", Request::get("/version")),
            ("one instance", Request::get("/2/instances/inst0.example.com")),
            ("/2/instances?bulk=1", bulk.clone()),
        ] {
            let (status, body) = client.raw(request.method, &request.target, &[], None).await?;
            ensure!(status == 200, "{name}: {status}");
            let fixed = Fixed::start(place, &body, &certificate).await?;
            for (kind, connection) in [("kept", Connection::Kept), ("new", Connection::Resumed)] {
                let mine = measure(&server.target(), CLIENTS, connection, time, &request).await?;
                let other = fixed.target();
                let other = measure(&other, CLIENTS, connection, time, &Request::get("/")).await?;
                let title = format!("{name}, {} B, {kind} connections", body.len());
                beside(table, &title, &mine, &other, None);
            }
            fixed.stop()?;
        }
        let (_, body) = client.raw(bulk.method, &bulk.target, &[], None).await?;
        let fixed = Fixed::start(place, &body, &certificate).await?;
        let changing = tokio::spawn(change(server.client()?));
        let kept = Connection::Kept;
        let mine = measure(&server.target(), CLIENTS, kept, time, &bulk).await?;
        let other = measure(&fixed.target(), CLIENTS, kept, time, &Request::get("/")).await?;
        changing.abort();
        let ratio = mine.per_second() / other.per_second();
        let bar = Bar { text: "at least 0.7 of static", met: ratio >= 0.7 };
        beside(table, "bulk list, 100 changes/s, kept connections", &mine, &other, Some(&bar));
        fixed.stop()
    }

    async fn jobs(&self, server: &Server, table: &mut Table) -> Result<()> {
        let turns = turn_arounds(&server.client()?).await?;
        let median = turns.quantile(0.5);
        table.row(
            "turn-around of a job, by /wait, one client",
            &format!("{:.0}/s", turns.per_second()),
            &turns.latencies(),
            Some(&Bar { text: "under 5 ms", met: median < Duration::from_millis(5) }),
        );
        let (submitted, finished) = many_jobs(server, self.time() * 2, self.instances()).await?;
        let submissions = format!("submission of a job, {JOB_CLIENTS} clients");
        table.row(
            &submissions,
            &format!("{:.0}/s", submitted.per_second()),
            &submitted.latencies(),
            None,
        );
        table.row(
            &format!("finished jobs, durable, {JOB_CLIENTS} clients"),
            &format!("{finished:.0}/s"),
            "",
            Some(&Bar { text: "3,000/s", met: finished >= 3000.0 }),
        );
        Ok(())
    }
}

fn beside(table: &mut Table, name: &str, mine: &Measured, other: &Measured, bar: Option<&Bar>) {
    let ratio = mine.per_second() / other.per_second();
    let rate = format!("{:.0}/s", mine.per_second());
    let beside =
        format!("{}; static {:.0}/s, {ratio:.2} of it", mine.latencies(), other.per_second());
    table.row(name, &rate, &beside, bar);
}

/// Makes the instances, and says how many in a second.
async fn instances(server: &Server, count: usize, nodes: &[String]) -> Result<f64> {
    let begun = Instant::now();
    let client = Arc::new(server.client()?);
    let mut workers = JoinSet::new();
    for worker in 0..16 {
        let (client, nodes) = (client.clone(), nodes.to_vec());
        workers.spawn(async move {
            for at in (worker..count).step_by(16) {
                let node = &nodes[at % nodes.len()];
                let asked = json!({
                    "__version__": 1, "mode": "create", "instance_name": format!("inst{at}.example.com"),
                    "name_check": false, "ip_check": false, "disk_template": "plain", "no_install": true,
                    "os_type": "noop", "disks": [{"size": 1024}], "nics": [{}], "pnode": node,
                    "beparams": {"maxmem": 128, "minmem": 128}, "wait_for_sync": false,
                });
                let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
                succeed(&client, job, |_| {}).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let rate = 1.0 / begun.elapsed().as_secs_f64();
    let count = u32::try_from(count).context("too many instances")?;
    Ok(rate * f64::from(count))
}

/// Changes an instance again and again, as often as said.
async fn change(client: Client) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u64.. {
        ticks.tick().await;
        let path = format!("/2/instances/inst{}.example.com/tags", number % 100);
        let tag = format!("c{}", number / 100);
        client.submit(Method::Put, &path, &[("tag", &tag)], None).await?;
    }
    Ok(())
}

/// Submits a job and waits for its end, one after the other.
async fn turn_arounds(client: &Client) -> Result<Measured> {
    let mut measured = Measured::new();
    for turn in 0..TURNS {
        let (path, tag) = ("/2/instances/inst0.example.com/tags", format!("turn{turn}"));
        let begun = Instant::now();
        let job = client.submit(Method::Put, path, &[("tag", &tag)], None).await?;
        wait(client, job).await?;
        measured.add(begun.elapsed());
    }
    Ok(measured.done())
}

/// Waits for the end of a job, as a client with `/wait` does that needs no more than its status.
async fn wait(client: &Client, job: u64) -> Result<()> {
    let path = format!("/2/jobs/{job}/wait");
    let mut asked =
        json!({"fields": ["status"], "previous_job_info": null, "previous_log_serial": null});
    let begun = Instant::now();
    while begun.elapsed() < JOBS_LIMIT {
        let seen = client.call(Method::Get, &path, &[], Some(&asked)).await?;
        match seen["job_info"][0].as_str() {
            Some("success") => return Ok(()),
            Some("error" | "canceled") => anyhow::bail!("job {job} failed"),
            _ if seen.is_null() => {}
            _ => asked["previous_job_info"] = seen["job_info"].clone(),
        }
    }
    anyhow::bail!("job {job} does not end")
}

/// Clients that add tags to instances of their own: submissions, and finished jobs per second up to the last one's end.
async fn many_jobs(server: &Server, time: Duration, instances: usize) -> Result<(Measured, f64)> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..JOB_CLIENTS {
        let client = server.client()?;
        clients.spawn(async move {
            let mine: Vec<usize> = (number..instances).step_by(JOB_CLIENTS).collect();
            ensure!(!mine.is_empty(), "fewer instances than clients");
            let (mut measured, mut last) = (Measured::new(), 0);
            for round in 0_usize.. {
                if begun.elapsed() > time {
                    break;
                }
                let instance = mine[round % mine.len()];
                let path = format!("/2/instances/inst{instance}.example.com/tags");
                let tag = format!("j{}", round / mine.len());
                let sent = Instant::now();
                last = client.submit(Method::Put, &path, &[("tag", &tag)], None).await?;
                measured.add(sent.elapsed());
            }
            let measured = measured.done();
            wait(&client, last).await?;
            Ok::<_, anyhow::Error>(measured)
        });
    }
    let mut all = Measured::new();
    while let Some(measured) = clients.join_next().await {
        all.join(measured??);
    }
    let client = server.client()?;
    // Jobs of the same client can end in another order; nothing may be left.
    loop {
        let jobs: Value = client
            .call(Method::Put, "/2/query/job", &[], Some(&json!({
                "fields": ["id"], "filter": ["|", ["=", "status", "queued"], ["=", "status", "waiting"],
                    ["=", "status", "running"]]
            })))
            .await?;
        if jobs["data"].as_array().is_none_or(Vec::is_empty) {
            break;
        }
        ensure!(begun.elapsed() < time + JOBS_LIMIT, "jobs do not end");
    }
    let seconds = begun.elapsed().as_secs_f64();
    let finished = all.count() / seconds;
    Ok((all, finished))
}

/// How many jobs the server has.
async fn jobs(server: &Server) -> Result<usize> {
    let jobs = server.client()?.call(Method::Get, "/2/jobs", &[], None).await?;
    Ok(jobs.as_array().map_or(0, Vec::len))
}

/// Where a mirrored instance goes among many.
fn placement(table: &mut Table) -> Result<()> {
    use placement::cluster::Cluster;
    use placement::picture::Options;
    use placement::synthetic::{synthetic_allocation, synthetic_cluster};
    let picture = synthetic_cluster(1000, 10_000, 1);
    let mut measured = Measured::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let mut cluster = Cluster::new(&picture, Options::default())?;
        let placed = cluster.allocate(&synthetic_allocation());
        ensure!(placed.is_ok(), "no place in the synthetic cluster");
        measured.add(begun.elapsed());
    }
    let measured = measured.done();
    let rate = format!("{:.1}/s", measured.per_second());
    table.row(
        "placement: a drbd instance, 1,000 nodes, 10,000 instances",
        &rate,
        &measured.latencies(),
        None,
    );
    Ok(())
}
