//! The server is killed again and again while jobs come in, at moments that a seed chooses. After each start every accepted
//! job is there and ends; one that was waiting or running when the server died ends in `error` and says so; what a
//! successful job did is there. That the configuration is whole is checked by the server itself when it starts.
//!
//! `RAPID_CRASH_KILLS` says how often, by default 200 times; `RAPID_CRASH_SEED` where to begin.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::guest::succeed;
use crate::machine;
use crate::server::{self, Place, Server};

const KILLS: u64 = 200;
/// Who send jobs at the same time, each to an instance of its own.
const CLIENTS: usize = 8;
/// The longest life of a server after it answered, in microseconds.
const LIFE_MAX_US: u64 = 150_000;
/// How long a job may take to end after a restart.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// What a job that died with the server says.
const DEATH: &str = "detected death of job";
/// Over TLS everything takes longer and nothing is proved by it.
const PLAIN: &[&str] = &["--no-ssl"];

/// A job that the server took, and what it does.
struct Taken {
    id: u64,
    work: Work,
}

enum Work {
    /// Sets a tag, which nothing may stop.
    Tag { instance: usize, tag: String },
    /// Something that may be refused, as others do the same.
    Other,
}

/// What was seen in all.
#[derive(Default)]
struct Seen {
    jobs: usize,
    died: usize,
    refused: usize,
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn name(instance: usize) -> String {
    format!("inst{instance}.example.com")
}

/// Kills and looks.
pub(crate) fn run() -> Result<()> {
    let (kills, seed) =
        (from_environment("RAPID_CRASH_KILLS", KILLS), from_environment("RAPID_CRASH_SEED", 1));
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    let nodes = "node1.example.com,node2.example.com,node3.example.com";
    let templates = "--enabled-disk-templates=diskless,plain,drbd";
    place.init(&[
        "--simulate-nodes",
        nodes,
        "--enabled-hypervisors=fake",
        templates,
        "c.example.com",
    ])?;
    let seen = server::runtime()?.block_on(killed(&place, kills, seed))?;
    let Seen { jobs, died, refused } = seen;
    println!(
        "{kills} kills: {jobs} jobs were accepted and are there; {died} died, {refused} were refused later"
    );
    ensure!(died > 0, "no job was running at any kill, so nothing was proved");
    Ok(())
}

async fn killed(place: &Place, kills: u64, seed: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    let server = place.start(PLAIN).await?;
    let client = server.client()?;
    for instance in 0..CLIENTS {
        create(&client, &name(instance)).await?;
    }
    server.stop().await?;
    let serial = Arc::new(AtomicU64::new(0));
    let mut taken = Vec::new();
    for kill in 0..=kills {
        let mut server = place.start(PLAIN).await.with_context(|| format!("after kill {kill}"))?;
        let look = verify(&server, std::mem::take(&mut taken), &mut seen);
        look.await.with_context(|| format!("seed {seed}, kill {kill}"))?;
        if kill == kills {
            server.stop().await?;
            break;
        }
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(kill));
        let mut clients = tokio::task::JoinSet::new();
        for instance in 0..CLIENTS {
            let rng = StdRng::seed_from_u64(rng.random());
            clients.spawn(load(server.client()?, instance, rng, serial.clone()));
        }
        sleep(Duration::from_micros(rng.random_range(0..LIFE_MAX_US))).await;
        server.kill()?;
        while let Some(mine) = clients.join_next().await {
            taken.extend(mine?);
        }
        if (kill + 1) % 25 == 0 {
            println!("{} kills, {} jobs", kill + 1, seen.jobs);
        }
    }
    Ok(seen)
}

async fn create(client: &Client, name: &str) -> Result<()> {
    let asked = json!({
        "__version__": 1, "mode": "create", "instance_name": name, "name_check": false, "ip_check": false,
        "disk_template": "diskless", "disks": [], "nics": [{}], "pnode": "node1.example.com",
        "no_install": true, "os_type": "noop", "beparams": {"maxmem": 128, "minmem": 128},
    });
    let job = client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?;
    succeed(client, job, |_| {}).await?;
    Ok(())
}

/// Sends jobs until the server is gone.
async fn load(
    client: Client,
    instance: usize,
    mut rng: StdRng,
    serial: Arc<AtomicU64>,
) -> Vec<Taken> {
    let mut taken: Vec<Taken> = Vec::new();
    let path = format!("/2/instances/{}", name(instance));
    loop {
        let number = serial.fetch_add(1, Relaxed);
        let tag = format!("t{number}");
        let after = taken.last().map(|last| json!([[last.id, ["success", "error", "canceled"]]]));
        let (submitted, work) = match rng.random_range(0..10) {
            0 => {
                let body = json!({"beparams": {"maxmem": 128 + number % 100}, "depends": after});
                let path = format!("{path}/modify");
                (client.submit(Method::Put, &path, &[], Some(&body)).await, Work::Other)
            }
            1 => {
                let path = format!("{path}/shutdown");
                let body = json!({"timeout": 0});
                (client.submit(Method::Put, &path, &[], Some(&body)).await, Work::Other)
            }
            2 => {
                let path = format!("{path}/startup");
                (client.submit(Method::Put, &path, &[], None).await, Work::Other)
            }
            3 => {
                let body = json!({
                    "__version__": 1, "mode": "create", "instance_name": format!("x{instance}.example.com"),
                    "name_check": false, "ip_check": false, "disk_template": "drbd", "no_install": true,
                    "disks": [{"size": 1024}], "nics": [{}], "iallocator": "hail", "os_type": "noop",
                    "beparams": {"maxmem": 128, "minmem": 128},
                });
                (client.submit(Method::Post, "/2/instances", &[], Some(&body)).await, Work::Other)
            }
            4 => {
                let path = format!("/2/instances/x{instance}.example.com");
                (client.submit(Method::Delete, &path, &[], None).await, Work::Other)
            }
            _ => {
                let path = format!("{path}/tags");
                let query = [("tag", tag.as_str())];
                let submitted = client.submit(Method::Put, &path, &query, None).await;
                (submitted, Work::Tag { instance, tag })
            }
        };
        match submitted {
            Ok(id) => taken.push(Taken { id, work }),
            // What is not there cannot be deleted.
            Err(error) if error.code == 404 => {}
            Err(_) => return taken,
        }
    }
}

/// Each job that was taken is there and ends as it may; what it did is there. Then the tags are removed.
async fn verify(server: &Server, taken: Vec<Taken>, seen: &mut Seen) -> Result<()> {
    let client = server.client()?;
    let mut wanted: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for Taken { id, work } in taken {
        let job = timeout(JOB_LIMIT, client.wait(id, |_| {}));
        let job = job.await.with_context(|| format!("job {id} does not end"))?;
        let job = job.with_context(|| format!("job {id} was accepted"))?;
        seen.jobs += 1;
        let died = job["opresult"].to_string().contains(DEATH);
        seen.died += usize::from(died);
        match (job["status"].as_str(), work) {
            (Some("success"), Work::Tag { instance, tag }) => {
                wanted.entry(instance).or_default().insert(tag);
            }
            (Some("success"), Work::Other) => {}
            (Some("error"), _) if died => {}
            (Some("error"), Work::Other) => seen.refused += 1,
            (status, _) => bail!("job {id} ended as {status:?}: {}", job["opresult"]),
        }
    }
    for instance in 0..CLIENTS {
        let path = format!("/2/instances/{}/tags", name(instance));
        let tags: Value = client.call(Method::Get, &path, &[], None).await?;
        let tags: Vec<&str> =
            tags.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let lost = wanted.remove(&instance).unwrap_or_default();
        let lost: Vec<String> =
            lost.into_iter().filter(|tag| !tags.contains(&tag.as_str())).collect();
        ensure!(lost.is_empty(), "set by successful jobs and not there: {lost:?}");
        if !tags.is_empty() {
            let query: Vec<(&str, &str)> = tags.iter().map(|tag| ("tag", *tag)).collect();
            let job = client.submit(Method::Delete, &path, &query, None).await?;
            succeed(&client, job, |_| {}).await?;
            seen.jobs += 1;
        }
    }
    Ok(())
}
