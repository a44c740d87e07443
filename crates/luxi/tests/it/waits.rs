//! Waiting for jobs: who waits for the same shares one call, and nobody who waits keeps others from asking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use luxi::client::engine::LuxiEngine;
use luxi::client::options::Options;
use model::engine::{Engine, JobChange};
use model::error::Result;
use model::name::JobId;
use model::param::TagKind;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::{Fake, Fault};

const TIME: Duration = Duration::from_secs(10);

type Waiting = JoinHandle<Result<Option<JobChange>>>;

fn wait(engine: &Arc<LuxiEngine>, id: u64, seen: &str, time: Duration) -> Waiting {
    let (engine, seen) = (engine.clone(), vec![json!(seen)]);
    tokio::spawn(async move {
        let fields = ["status".to_owned()];
        engine.wait_for_job_change(JobId(id), &fields, Some(&seen), None, time).await
    })
}

fn changed(status: &str) -> JobChange {
    JobChange { job_info: vec![json!(status)], log_entries: Vec::<Value>::new() }
}

async fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn options(fake: &Fake) -> Options {
    Options { io_time: Duration::from_secs(60), ..fake.options() }
}

#[tokio::test]
async fn many_clients_share_one_wait() {
    let fake = Fake::running();
    let engine = LuxiEngine::start(options(&fake)).await;
    let clients: Vec<Waiting> = (0..50).map(|_| wait(&engine, 7, "queued", TIME)).collect();
    let other = wait(&engine, 8, "queued", TIME);
    until(|| fake.asked("WaitForJobChange") == 2).await;
    fake.set_job("success");
    for seen in join_all(clients).await {
        assert_eq!(seen.unwrap().unwrap(), Some(changed("success")));
    }
    assert_eq!(other.await.unwrap().unwrap(), Some(changed("success")));
    assert_eq!(fake.asked("WaitForJobChange"), 2);
    // A wait that is over is not joined: what it saw may be old.
    let late = wait(&engine, 7, "queued", TIME).await.unwrap().unwrap();
    assert_eq!((late, fake.asked("WaitForJobChange")), (Some(changed("success")), 3));
}

#[tokio::test]
async fn waits_of_clients_that_left_end() {
    let fake = Fake::running();
    let engine = LuxiEngine::start(Options { waits_max: 1, ..options(&fake) }).await;
    let (first, second) = (wait(&engine, 7, "queued", TIME), wait(&engine, 7, "queued", TIME));
    until(|| fake.asked("WaitForJobChange") == 1).await;
    first.abort();
    let third = wait(&engine, 8, "queued", TIME);
    second.abort();
    // The one place is free again.
    until(|| fake.asked("WaitForJobChange") == 2).await;
    fake.set_job("running");
    assert_eq!(third.await.unwrap().unwrap(), Some(changed("running")));
}

#[tokio::test]
async fn waits_never_keep_others_from_asking_and_have_their_time() {
    let fake = Fake::running();
    let options = Options { waits_max: 2, queries_max: 2, ..options(&fake) };
    let engine = LuxiEngine::start(options).await;
    let time = Duration::from_secs(2);
    let begun = Instant::now();
    let waits: Vec<Waiting> = (0..6).map(|id| wait(&engine, id, "queued", time)).collect();
    until(|| fake.asked("WaitForJobChange") == 2).await;
    for _ in 0..20 {
        engine.query_tags(TagKind::Cluster, "").await.unwrap();
    }
    assert!(begun.elapsed() < time, "the queries waited");
    // Those without a place see how the job is when their time is over.
    for seen in join_all(waits).await {
        assert_eq!(seen.unwrap().unwrap(), Some(changed("queued")));
    }
    assert!((time / 2..time * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_wait_whose_connection_breaks_goes_on_for_all_of_them() {
    let fake = Fake::running();
    let engine = LuxiEngine::start(options(&fake)).await;
    fake.spoil(&[Fault::Close]);
    let clients: Vec<Waiting> = (0..5).map(|_| wait(&engine, 7, "running", TIME)).collect();
    for seen in join_all(clients).await {
        assert_eq!(seen.unwrap().unwrap(), Some(changed("queued")));
    }
    assert_eq!(fake.asked("WaitForJobChange"), 2);
}

#[tokio::test]
async fn a_client_that_joined_late_waits_its_own_time() {
    let fake = Fake::running();
    let engine = LuxiEngine::start(options(&fake)).await;
    let first = wait(&engine, 7, "queued", Duration::from_secs(2));
    until(|| fake.asked("WaitForJobChange") == 1).await;
    let late = wait(&engine, 7, "queued", TIME);
    assert_eq!(first.await.unwrap().unwrap(), Some(changed("queued")));
    // The call that it joined is over, and its time is not.
    until(|| fake.asked("WaitForJobChange") == 2).await;
    fake.set_job("success");
    assert_eq!(late.await.unwrap().unwrap(), Some(changed("success")));
}
