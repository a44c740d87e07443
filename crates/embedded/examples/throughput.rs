//! Measures the engine without a door: finished jobs per second by clients that each add tags to an instance of their own,
//! the turn-around of one job, memory, and the time from opening to the first answer.
//!
//! `cargo run --release -p embedded --example throughput -- [DIRECTORY [CLIENTS [SECONDS]]]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use embedded::{EmbeddedEngine, Options};
use model::compat::Compat;
use model::config::{Config, Instance, Meta, Nic};
use model::engine::Engine;
use model::opcode::Op;
use model::param::{AdminState, AdminStateSource, Dict, DiskTemplate, Hypervisor};
use serde_json::json;

/// How many instances the cluster has.
const INSTANCES: usize = 1000;

fn instance(env: &Env, config: &Config, at: usize) -> Instance {
    let nic = Nic {
        uuid: env.uuid(),
        name: None,
        mac: format!("aa:00:00:00:{:02x}:{:02x}", at / 256, at % 256),
        ip: None,
        network: None,
        nicparams: Dict::new(),
    };
    Instance {
        meta: Meta::new(env.uuid(), 1.0),
        tags: Default::default(),
        name: format!("inst{at}.example.com"),
        primary_node: config.cluster.master_node.clone(),
        os: "noop".to_owned(),
        hypervisor: Hypervisor::Fake,
        hvparams: Dict::new(),
        beparams: Dict::new(),
        osparams: Dict::new(),
        osparams_private: Dict::new(),
        admin_state: AdminState::Down,
        admin_state_source: AdminStateSource::Admin,
        nics: vec![nic],
        disks: Vec::new(),
        disks_active: false,
        network_port: None,
        forthcoming: false,
        disk_template: DiskTemplate::Diskless,
    }
}

fn create(dir: &Path) -> Result<(), Box<dyn Error>> {
    let env = Env::system();
    let names = (1..=4).map(|at| format!("node{at}.example.com")).collect();
    let options = InitOptions::new("cluster.example.com", NodeKind::Simulated(names));
    let mut config = new_cluster(&options, &env)?;
    for at in 0..INSTANCES {
        let instance = instance(&env, &config, at);
        config.put_instance(Arc::new(instance));
    }
    EmbeddedEngine::create(dir, &config)?;
    Ok(())
}

fn tag(instance: usize, tag: u64) -> Result<Op, Box<dyn Error + Send + Sync>> {
    let wire = json!({
        "OP_ID": "OP_TAGS_SET", "kind": "instance", "name": format!("inst{instance}.example.com"),
        "tags": [format!("tag{}", tag % 10)],
    });
    let wire = wire.as_object().cloned().unwrap_or_default();
    Op::from_wire(wire, Compat::V31).map_err(|error| error.python_text().into())
}

/// Submits a job and waits for its end.
async fn job(
    engine: &EmbeddedEngine,
    at: usize,
    turn: u64,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let id = engine.submit_job(vec![tag(at, turn)?]).await?;
    let fields = ["status".to_owned()];
    let mut previous = Some(vec![json!("queued")]);
    loop {
        let limit = Duration::from_secs(10);
        let seen = engine
            .wait_for_job_change(id, &fields, previous.as_deref(), Some(u64::MAX), limit)
            .await?;
        match seen.map(|change| change.job_info) {
            Some(info) if info[0] == json!("success") => return Ok(()),
            Some(info) if info[0] == json!("error") => return Err("a job failed".into()),
            seen => previous = seen.or(previous),
        }
    }
}

/// Processor time used by this process, in clock ticks of 10 ms.
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn pss_kib() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a measurement is printed")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let clients: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(64);
    let seconds: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let dir = tempfile::tempdir_in(parent)?;
    create(dir.path()).map_err(|error| error.to_string())?;

    let start = Instant::now();
    let engine = EmbeddedEngine::open(Options::new(dir.path())).await?;
    engine.query_cluster_info().await?;
    println!("open to first answer     {:?}", start.elapsed());

    let start = Instant::now();
    let turns = 200;
    for turn in 0..turns {
        job(&engine, 0, turn).await?;
    }
    println!("turn-around of one job   {:?}", start.elapsed() / u32::try_from(turns)?);

    let ticks = cpu_ticks();
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..clients {
        let engine = engine.clone();
        tasks.spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < Duration::from_secs(seconds) {
                job(&engine, at, done).await?;
                done += 1;
            }
            Ok::<u64, Box<dyn Error + Send + Sync>>(done)
        });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        done += result??;
    }
    let elapsed = start.elapsed().as_millis().max(1);
    println!("finished jobs per second {}", u128::from(done) * 1000 / elapsed);
    if let (Some(before), Some(after)) = (ticks, cpu_ticks()) {
        println!("processor time per job   {} us", (after - before) * 10_000 / done.max(1));
    }
    for gauge in engine.gauges().await.iter().filter(|gauge| gauge.name == "store_commits_total") {
        println!("transactions             {}", gauge.value);
    }
    if let Some(pss) = pss_kib() {
        println!("memory (PSS)             {} KiB", pss);
    }
    engine.shutdown().await;
    Ok(())
}
