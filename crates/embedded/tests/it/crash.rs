//! Two hundred seeded kills under load. The test's own binary, run again as a child, is the daemon; it is killed at a seeded
//! moment, and what it accepted is looked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use embedded::verify::verify;
use embedded::{EmbeddedEngine, Options};
use model::compat::Compat;
use model::engine::Engine;
use model::name::JobId;
use model::opcode::Op;
use serde_json::{Value, json};

/// How many daemons are killed, and in how many data directories at a time.
const KILLS: u64 = 200;
const DIRECTORIES: u64 = 4;

/// Tells a child that it is one, with its data directory and seed.
const CHILD_DIR: &str = "RAPID_CRASH_DIR";
const CHILD_SEED: &str = "RAPID_CRASH_SEED";

/// How many tasks submit jobs in a child.
const CLIENTS: u64 = 8;

fn op(wire: &Value) -> Op {
    Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap()
}

/// A job by chance: tags mostly, instances that come and go on simulated nodes, waits, dependencies.
fn random_job(env: &Env, client: u64, turn: u64) -> Vec<Op> {
    let name = format!("inst{}-{}.example.com", client, env.below(4));
    match env.below(10) {
        0 | 1 => vec![op(&json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "mode": "create", "disk_template": "diskless",
            "disks": [], "nics": [{}], "os_type": "noop", "pnode": "node1.example.com", "start": true,
            "beparams": {"minmem": 16, "maxmem": 16}, "force_variant": true, "no_install": true,
        }))],
        2 => vec![op(
            &json!({"OP_ID": "OP_INSTANCE_REMOVE", "instance_name": name, "shutdown_timeout": 0}),
        )],
        3 => {
            vec![op(&json!({"OP_ID": "OP_INSTANCE_SHUTDOWN", "instance_name": name, "timeout": 0}))]
        }
        4 => vec![op(&json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.05}))],
        5 => vec![op(&json!({
            "OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": ["depends"], "name": null, "depends": [[-1, []]],
        }))],
        6 => vec![
            op(&json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.01})),
            op(&json!({"OP_ID": "OP_TAGS_SET", "kind": "node", "tags": ["two"], "name": "node1"})),
        ],
        _ => vec![op(&json!({
            "OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null,
            "tags": [format!("t{}", (client * 1000 + turn) % 600)],
        }))],
    }
}

/// The daemon: opens, says so, takes jobs and prints their ids, until it is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let seed: u64 = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let engine = EmbeddedEngine::open(Options::new(dir)).await.unwrap();
        println!("\nready");
        for client in 0..CLIENTS {
            let engine = engine.clone();
            tokio::spawn(async move {
                let env = Env::seeded(seed * CLIENTS + client, 1);
                for turn in 0.. {
                    let ops = random_job(&env, client, turn);
                    let tag = ops.first().map(|op| op.summary(Compat::V31)).unwrap_or_default();
                    match engine.submit_job(ops).await {
                        Ok(id) => println!("ok {id} {tag}"),
                        Err(error) => println!("refused {error}"),
                    }
                    // Jobs are not outrun by submissions without end.
                    if turn % 8 == 7 {
                        tokio::time::sleep(Duration::from_millis(env.below(40))).await;
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
}

fn spawn(dir: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// What a child said before it was killed.
fn run_and_kill(dir: &Path, seed: u64, after: Duration) -> Vec<JobId> {
    let mut child = spawn(dir, seed);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tx, rx) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            tx.send(line).unwrap();
        }
    });
    let mut accepted = Vec::new();
    let mut ready = false;
    let mut until = Instant::now() + Duration::from_secs(30);
    while let Ok(line) = rx.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if line == "ready" {
            ready = true;
            until = Instant::now() + after;
        }
        accepted.extend(accepted_id(&line));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    accepted.extend(rx.iter().filter_map(|line| accepted_id(&line)));
    assert!(ready, "seed {seed}: the daemon did not open {}", dir.display());
    accepted
}

fn accepted_id(line: &str) -> Option<JobId> {
    // A line that the kill cut off ends in no name of an opcode.
    let (id, rest) = line.strip_prefix("ok ")?.split_once(' ')?;
    rest.contains(|c: char| c.is_ascii_uppercase()).then(|| id.parse().ok())?
}

/// The jobs as the kill left them: status, and whether anything had begun.
fn left_behind(dir: &Path) -> BTreeMap<JobId, (String, bool)> {
    let connection = rusqlite::Connection::open(dir.join("rapid.db")).unwrap();
    let mut select = connection.prepare("SELECT id, status, start IS NOT NULL FROM job").unwrap();
    let rows = select.query_map([], |row| {
        let id: i64 = row.get(0)?;
        Ok((JobId(u64::try_from(id).unwrap()), (row.get(1)?, row.get(2)?)))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

async fn ended(engine: &EmbeddedEngine, id: JobId) -> Vec<Value> {
    let fields = ["status", "opresult", "end_ts"].map(str::to_owned);
    let mut previous: Option<Vec<Value>> = None;
    for _ in 0..100 {
        let limit = Duration::from_secs(20);
        let wait =
            engine.wait_for_job_change(id, &fields, previous.as_deref(), Some(u64::MAX), limit);
        let seen = wait.await.unwrap().unwrap_or_else(|| panic!("job {id} stands still")).job_info;
        if !seen[2].is_null() {
            return seen;
        }
        previous = Some(seen);
    }
    panic!("job {id} does not end");
}

/// Opens what a kill left behind and checks it.
async fn check(dir: &Path, accepted: &BTreeSet<JobId>, seed: u64) -> (usize, usize) {
    let before = left_behind(dir);
    for id in accepted {
        assert!(before.contains_key(id), "seed {seed}: accepted job {id} is lost");
    }
    let engine = EmbeddedEngine::open(Options::new(dir)).await.unwrap();
    let (mut queued, mut dead) = (0, 0);
    for (id, (status, begun)) in &before {
        match (status.as_str(), begun) {
            ("success" | "error" | "canceled", _) => {
                let row =
                    engine.query_jobs(Some(&[*id]), &["status"]).await.unwrap().made().unwrap();
                assert_eq!(row[0].as_ref().unwrap()[0], json!(status), "seed {seed}: job {id}");
            }
            ("queued", false) => {
                let seen = ended(&engine, *id).await;
                let text = seen[1].to_string();
                assert!(!text.contains("detected death"), "seed {seed}: queued job {id}: {text}");
                queued += 1;
            }
            (status, _) => {
                let seen = ended(&engine, *id).await;
                assert_eq!(seen[0], json!("error"), "seed {seed}: job {id} was {status}");
                let text = json!(format!("detected death of job {id}"));
                let results = seen[1].as_array().unwrap();
                assert!(results.contains(&text), "seed {seed}: job {id}: {results:?}");
                dead += 1;
            }
        }
    }
    let problems = verify(&engine.config());
    assert!(problems.is_empty(), "seed {seed}: {problems:?}");
    engine.shutdown().await;
    (queued, dead)
}

fn create(dir: &Path) {
    let names = ["node1.example.com", "node2.example.com"].map(str::to_owned).to_vec();
    let mut options = InitOptions::new("cluster.example.com", NodeKind::Simulated(names));
    options.enabled_disk_templates = Some(vec![model::param::DiskTemplate::Diskless]);
    options.ipolicy_bounds_specs = Some(
        "min:memory-size=1,cpu-count=1,disk-count=0,disk-size=0,nic-count=0,spindle-use=0/\
         max:memory-size=32768,cpu-count=8,disk-count=16,disk-size=1048576,nic-count=8,spindle-use=12"
            .to_owned(),
    );
    let config = new_cluster(&options, &Env::system()).unwrap();
    EmbeddedEngine::create(dir, &config).unwrap();
}

/// One data directory through its share of the kills.
fn torture(dir: &Path, lane: u64) -> (usize, usize, usize) {
    create(dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut all: BTreeSet<JobId> = BTreeSet::new();
    let mut totals = (0, 0, 0);
    for round in 0..KILLS / DIRECTORIES {
        let seed = lane * 1_000 + round;
        let env = Env::seeded(seed, 1);
        let after = Duration::from_millis(env.below(150));
        let accepted = run_and_kill(dir, seed, after);
        let newest = all.last().copied().unwrap_or_default();
        for id in &accepted {
            assert!(*id > newest, "seed {seed}: id {id} was used before");
            assert!(all.insert(*id), "seed {seed}: id {id} was given twice");
        }
        let recent: BTreeSet<JobId> = accepted.into_iter().collect();
        let (queued, dead) = runtime.block_on(check(dir, &recent, seed));
        totals = (totals.0 + recent.len(), totals.1 + queued, totals.2 + dead);
    }
    totals
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let root = Arc::new(tempfile::tempdir().unwrap());
    let lanes: Vec<_> = (0..DIRECTORIES)
        .map(|lane| {
            let root = root.clone();
            std::thread::spawn(move || torture(&root.path().join(lane.to_string()), lane))
        })
        .collect();
    let mut totals = (0, 0, 0);
    for lane in lanes {
        let (accepted, queued, dead) = lane.join().unwrap();
        totals = (totals.0 + accepted, totals.1 + queued, totals.2 + dead);
    }
    let (accepted, queued, dead) = totals;
    let mut out = std::io::stdout();
    writeln!(out, "{KILLS} kills: {accepted} jobs accepted, {queued} went on, {dead} died")
        .unwrap();
    assert!(accepted > 1_000 && queued > 50 && dead > 50, "{accepted} {queued} {dead}");
}
