//! What the real luxid answered, request by request: ours answers the same. Recorded on Ganeti 3.0.2 (Debian 12) right after a
//! cluster of four nodes was made: `cargo xtask oracle up`, then `cargo xtask oracle luxi`.

#![expect(clippy::unwrap_used, reason = "a test; clippy knows only functions marked so")]

use std::path::Path;
use std::sync::Arc;

use embedded::engine::{EmbeddedEngine, Options};
use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use luxi::frame;
use luxi::server::Server;
use model::compat::Compat;
use model::engine::Engine;
use model::job::Status;
use model::name::JobId;
use model::opcode::{Op, OpId};
use model::param::{DiskTemplate, Hypervisor};
use serde_json::{Value, json};
use tokio::net::UnixStream;

const RECORDED: &str = include_str!("fixtures/luxid-3.0.2.jsonl");
const LIMIT: usize = 1 << 20;

/// The cluster that the recording was made on.
async fn engine(dir: &Path) -> Arc<EmbeddedEngine> {
    let nodes = (1..=4).map(|at| format!("node{at}.gnt.example")).collect();
    let mut init = InitOptions::new("cluster.gnt.example", NodeKind::Simulated(nodes));
    init.enabled_hypervisors = Some(vec![Hypervisor::Fake, Hypervisor::Kvm]);
    let templates = [DiskTemplate::Diskless, DiskTemplate::File, DiskTemplate::Sharedfile];
    init.enabled_disk_templates = Some(templates.to_vec());
    init.no_ssh_init = true;
    init.hosts = String::from("10.77.0.1 cluster.gnt.example\n");
    for at in 1..=4 {
        init.hosts += &format!("10.77.0.{} node{at}.gnt.example\n", 10 + at);
    }
    EmbeddedEngine::create(dir, &new_cluster(&init, &Env::system()).unwrap()).unwrap();
    let options = Options { compat: Compat::V30, ..Options::new(dir) };
    let engine = EmbeddedEngine::open(options).await.unwrap();
    // Making the real cluster took four jobs.
    for id in 1..=4 {
        let delay = json!({"duration": 0.001, "on_master": false});
        let op: Op = OpId::TestDelay.read(delay.as_object().unwrap(), Compat::V30).unwrap();
        assert_eq!(engine.submit_job(vec![op]).await, Ok(JobId(id)));
        wait(&*engine, id).await;
    }
    engine
}

async fn wait(engine: &dyn Engine, id: u64) {
    let mut seen: Option<Vec<Value>> = None;
    loop {
        let fields = ["status".to_owned()];
        let limit = std::time::Duration::from_secs(30);
        let change =
            engine.wait_for_job_change(JobId(id), &fields, seen.as_deref(), Some(1 << 40), limit);
        let info = change.await.unwrap().expect("the job ends in time").job_info;
        if Status::parse(info[0].as_str().unwrap()).unwrap().is_final() {
            return;
        }
        seen = Some(info);
    }
}

/// An answer with what differs from run to run left out: identifiers and times.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) if model::name::Uuid::is_form(text) => json!("UUID"),
        Value::Number(number) if number.as_f64().is_some_and(|number| number > 1e12) => {
            json!("TIME")
        }
        // luxid tells 4.0e9 for 4000000000.
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, item)| (key.clone(), masked(item))).collect())
        }
        other => other.clone(),
    }
}

/// Sends requests on one connection; the answers. Then the connection is closed, or takes another request.
async fn ask(socket: &Path, requests: &[Value], closed: bool) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let mut reader = frame::Reader::new();
    let mut answers = Vec::new();
    for request in requests {
        let text = request.as_str().unwrap().as_bytes().to_vec();
        frame::send(&mut stream, text).await.unwrap();
        let answer = reader.next(&mut stream, LIMIT).await.unwrap();
        let answer = answer.expect("each request is answered");
        answers.push(masked(&serde_json::from_slice(&answer).unwrap()));
    }
    let another = json!({"method": "QueryConfigValues", "args": [[]]}).to_string();
    // It may be closed before this is sent.
    let sent = frame::send(&mut stream, another.into_bytes()).await;
    let next = reader.next(&mut stream, LIMIT).await;
    let is_closed = sent.is_err() || next.is_err() || next.is_ok_and(|next| next.is_none());
    assert_eq!(is_closed, closed, "{requests:?}");
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn luxid_and_ours_answer_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(&dir.path().join("data")).await;
    let socket = dir.path().join("socket");
    let server = Server::bind(&socket).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(engine.clone(), async {
        let _ = stopped.await;
    }));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for line in RECORDED.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        if let Some(id) = row["wait"].as_u64() {
            wait(&*engine, id).await;
            continue;
        }
        let requests = row["send"].as_array().unwrap();
        let answers = ask(&socket, requests, row["closed"] == true).await;
        let theirs: Vec<Value> = row["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| masked(&serde_json::from_str(text.as_str().unwrap()).unwrap()))
            .collect();
        count += 1;
        if answers != theirs {
            wrong.push(format!("{requests:?}\n  luxid {theirs:?}\n  ours  {answers:?}"));
        }
    }
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(!socket.exists(), "the socket is left behind");
    engine.shutdown().await;
    assert!(count > 200, "only {count} are compared");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
