//! The engine as a whole, over its SQLite store and simulated nodes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use embedded::{EmbeddedEngine, OpenError, Options};
use model::compat::Compat;
use model::engine::Engine;
use model::name::JobId;
use model::opcode::Op;
use serde_json::{Value, json};

fn create(dir: &Path) {
    let names = ["node1.example.com", "node2.example.com"].map(str::to_owned).to_vec();
    let options = InitOptions::new("cluster.example.com", NodeKind::Simulated(names));
    let config = new_cluster(&options, &Env::seeded(1, 1_700_000_000)).unwrap();
    EmbeddedEngine::create(dir, &config).unwrap();
}

async fn open(dir: &Path) -> Arc<EmbeddedEngine> {
    EmbeddedEngine::open(Options::new(dir)).await.unwrap()
}

fn op(wire: &Value) -> Op {
    Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap()
}

fn tag(tag: &str) -> Op {
    op(&json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": [tag], "name": null}))
}

async fn ended(engine: &EmbeddedEngine, id: JobId) -> Vec<Value> {
    let fields = ["status", "opresult", "ops", "start_ts", "end_ts"].map(str::to_owned);
    let mut previous: Option<Vec<Value>> = None;
    for _ in 0..100 {
        let limit = Duration::from_secs(10);
        let seen =
            engine.wait_for_job_change(id, &fields, previous.as_deref(), Some(u64::MAX), limit);
        let seen = seen.await.unwrap().unwrap().job_info;
        if ["success", "error", "canceled"].contains(&seen[0].as_str().unwrap()) {
            return seen;
        }
        previous = Some(seen);
    }
    panic!("job {id} does not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_and_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path());
    let engine = open(dir.path()).await;
    assert!(matches!(
        EmbeddedEngine::open(Options::new(dir.path())).await,
        Err(OpenError::Locked(_))
    ));
    let id = engine.submit_job(vec![tag("a"), tag("b")]).await.unwrap();
    let seen = ended(&engine, id).await;
    assert_eq!(seen[..2], [json!("success"), json!([null, null])]);
    assert_eq!(seen[2][1]["reason"][0][0], json!("gnt:opcode:tags_set"));
    assert_eq!(seen[2][1]["reason"][0][1], json!("job=1;index=1"));
    assert!(engine.config().cluster.tags.iter().eq(["a", "b"]));
    engine.shutdown().await;
    drop(engine);
    let engine = open(dir.path()).await;
    assert!(engine.config().cluster.tags.iter().eq(["a", "b"]));
    let seen =
        engine.query_jobs(Some(&[id, JobId(99)]), &["id", "status"]).await.unwrap().made().unwrap();
    assert_eq!(seen, [Some(vec![json!(1), json!("success")]), None]);
    assert_eq!(engine.submit_job(vec![tag("c")]).await.unwrap(), JobId(2));
}
