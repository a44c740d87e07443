//! A master daemon that is not there, goes, hangs or talks nonsense: callers hear of it as Ganeti's clients do, in bounded time, and are
//! served again as soon as it is well. No job is submitted twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use luxi::client::engine::LuxiEngine;
use luxi::client::options::Options;
use model::compat::Compat;
use model::engine::Engine;
use model::error::{ErrorClass, GanetiError};
use model::opcode::{InstanceStartup, Op, OpId};
use model::param::TagKind;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use serde_json::json;

use crate::fake::{Fake, Fault};

fn startup() -> Vec<Op> {
    let params = json!({"instance_name": "web1"});
    let id = <InstanceStartup as model::opcode::Opcode>::ID;
    vec![OpId::read(id, params.as_object().unwrap(), Compat::V30).unwrap()]
}

async fn tags(engine: &LuxiEngine) -> Result<Vec<String>, GanetiError> {
    engine.query_tags(TagKind::Cluster, "").await
}

async fn gauge(engine: &LuxiEngine, name: &str) -> f64 {
    engine.gauges().await.iter().find(|gauge| gauge.name == name).unwrap().value
}

/// Waits, not for ever, until something holds.
async fn until(holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came to hold");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn timed_out(text: &str) -> GanetiError {
    GanetiError::new(ErrorClass::TimeoutError, text)
}

fn protocol(text: &str) -> GanetiError {
    GanetiError::new(ErrorClass::ProtocolError, text)
}

#[tokio::test]
async fn a_master_daemon_that_is_not_there_is_waited_for_and_served_when_it_comes() {
    let mut fake = Fake::new();
    let engine = fake.engine().await;
    let begun = Instant::now();
    assert_eq!(tags(&engine).await, Err(timed_out("Connect timed out")));
    assert_eq!(engine.submit_job(startup()).await, Err(timed_out("Connect timed out")));
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!(gauge(&engine, "luxi_up").await, 0.0);
    let (answer, ()) = tokio::join!(tags(&engine), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.start();
    });
    assert_eq!(answer, Ok(vec!["a".to_owned(), "b".to_owned()]));
    until(async || gauge(&engine, "luxi_up").await == 1.0).await;
    assert_eq!(fake.asked("SubmitJob"), 0);
}

#[tokio::test]
async fn a_machine_that_is_not_the_master_does_not_wait() {
    let fake = Fake::new();
    let mut options = fake.options();
    options.is_master = Arc::new(|| false);
    options.connect_time = Duration::from_secs(600);
    let engine = LuxiEngine::start(options).await;
    let socket = fake.socket().display().to_string();
    let no_master = GanetiError::new(ErrorClass::NoMasterError, socket);
    assert_eq!(tags(&engine).await, Err(no_master.clone()));
    assert_eq!(engine.submit_job(startup()).await, Err(no_master));
}

#[tokio::test]
async fn a_restart_goes_unnoticed_but_for_the_release() {
    let mut fake = Fake::running();
    let engine = fake.engine().await;
    assert_eq!(engine.compat(), Compat::V30);
    tags(&engine).await.unwrap();
    fake.stop().await;
    fake.set_release("3.1.1");
    fake.start();
    tags(&engine).await.unwrap();
    engine.submit_job(startup()).await.unwrap();
    until(async || engine.compat() == Compat::V31).await;
    // The idle connection was seen to be closed before anything was sent on it.
    assert_eq!(gauge(&engine, "luxi_repeated_total").await, 0.0);
    assert_eq!((fake.asked("QueryTags"), fake.asked("SubmitJob")), (2, 1));
}

#[tokio::test]
async fn silence_has_an_end() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    fake.spoil(&[Fault::Silence, Fault::Silence]);
    let begun = Instant::now();
    assert_eq!(engine.submit_job(startup()).await, Err(timed_out("Receive timeout: timed out")));
    assert_eq!(tags(&engine).await, Err(timed_out("Receive timeout: timed out")));
    assert!(begun.elapsed() >= Duration::from_millis(800), "{:?}", begun.elapsed());
    assert_eq!((fake.asked("QueryTags"), fake.asked("SubmitJob")), (1, 1));
    tags(&engine).await.unwrap();
    engine.submit_job(startup()).await.unwrap();
}

#[tokio::test]
async fn while_all_places_are_taken_others_are_refused_in_time() {
    let fake = Fake::running();
    let mut options = fake.options();
    options.queries_max = 1;
    options.io_time = Duration::from_secs(600);
    let engine = LuxiEngine::start(options).await;
    fake.spoil(&[Fault::Silence]);
    let stuck = tokio::spawn({
        let engine = engine.clone();
        async move { tags(&engine).await }
    });
    until(async || fake.asked("QueryTags") == 1).await;
    assert_eq!(tags(&engine).await, Err(timed_out("Connect timed out")));
    // Whoever gives up leaves nothing behind that others would find.
    stuck.abort();
    tags(&engine).await.unwrap();
}

#[tokio::test]
async fn a_job_is_submitted_once_whatever_breaks() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    let closed = Err(protocol("Connection closed while reading"));
    for (at, fault) in [Fault::Close, Fault::CloseAmid].into_iter().enumerate() {
        fake.spoil(&[fault]);
        assert_eq!(engine.submit_job(startup()).await, closed, "{fault:?}");
        assert_eq!(fake.asked("SubmitJob"), at + 1, "{fault:?}");
    }
    fake.spoil(&[Fault::Close]);
    assert_eq!(engine.cancel_job(model::name::JobId(1)).await.err(), closed.err());
    assert_eq!(fake.asked("CancelJob"), 1);
    engine.submit_job(startup()).await.unwrap();
    assert_eq!(fake.asked("SubmitJob"), 3);
}

#[tokio::test]
async fn a_question_is_asked_again_a_few_times() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    fake.spoil(&[Fault::Close, Fault::CloseAmid]);
    tags(&engine).await.unwrap();
    assert_eq!(fake.asked("QueryTags"), 3);
    let tries = fake.options().tries_max as usize;
    fake.spoil(&vec![Fault::CloseAmid; tries]);
    assert_eq!(tags(&engine).await, Err(protocol("Connection closed while reading")));
    assert_eq!(fake.asked("QueryTags"), 3 + tries);
    tags(&engine).await.unwrap();
}

#[tokio::test]
async fn connections_are_used_again_unless_the_daemon_closes_them() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    for _ in 0..5 {
        tags(&engine).await.unwrap();
    }
    assert_eq!(gauge(&engine, "luxi_connections_total").await, 1.0);
    fake.spoil(&[Fault::CloseAfter; 5]);
    for _ in 0..5 {
        tags(&engine).await.unwrap();
    }
    assert_eq!(fake.asked("QueryTags"), 10);
    // What may not be repeated goes out on a new connection, which others then use.
    engine.submit_job(startup()).await.unwrap();
    let made = gauge(&engine, "luxi_connections_total").await;
    engine.submit_job(startup()).await.unwrap();
    assert_eq!(gauge(&engine, "luxi_connections_total").await, made + 1.0);
    tags(&engine).await.unwrap();
    assert_eq!(gauge(&engine, "luxi_connections_total").await, made + 1.0);
}

#[tokio::test]
async fn idle_connections_are_closed_after_a_while() {
    let fake = Fake::running();
    let engine = LuxiEngine::start(Options { idle_time: Duration::ZERO, ..fake.options() }).await;
    tags(&engine).await.unwrap();
    let idle = async || gauge(&engine, "luxi_connections").await; // the first of them counts the idle ones
    until(async || idle().await == 0.0).await;
}

#[tokio::test]
async fn nonsense_is_no_answer() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    fake.spoil(&[Fault::Garbage, Fault::Nonsense, Fault::Garbage]);
    let error = tags(&engine).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::ProtocolError);
    assert!(error.to_string().starts_with("Error while deserializing response: "), "{error}");
    assert_eq!(tags(&engine).await, Err(protocol("Invalid response from server: [1]")));
    let error = engine.submit_job(startup()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::ProtocolError);
    assert_eq!((fake.asked("QueryTags"), fake.asked("SubmitJob")), (2, 1));
    tags(&engine).await.unwrap();
}

#[tokio::test]
async fn an_answer_has_a_limit() {
    let fake = Fake::running();
    let mut options = fake.options();
    options.answer_bytes_max = 8 << 20;
    options.io_time = Duration::from_secs(60);
    let engine = LuxiEngine::start(options).await;
    fake.spoil(&[Fault::Huge(4 << 20), Fault::Huge(16 << 20)]);
    assert_eq!(tags(&engine).await.unwrap()[0].len(), 4 << 20);
    let too_long = "The answer has more than 8388608 bytes";
    assert_eq!(tags(&engine).await, Err(protocol(too_long)));
    tags(&engine).await.unwrap();
}

#[tokio::test]
async fn opcodes_go_out_with_a_reason_and_without_defaults() {
    let fake = Fake::running();
    let engine = fake.engine().await;
    engine.submit_job(startup()).await.unwrap();
    let sent = json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "web1", "reason": []});
    assert_eq!(fake.last_args(), json!([[sent]]));
}

#[tokio::test]
async fn a_daemon_that_is_behind_with_accepting_is_not_hurried() {
    let fake = Fake::new();
    // Nobody accepts, and few may wait.
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(fake.socket()).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::net::UnixStream::connect(fake.socket()).await {
        waiting.push(stream);
    }
    let engine = LuxiEngine::start(fake.options()).await;
    let begun = Instant::now();
    assert_eq!(engine.submit_job(startup()).await, Err(timed_out("Connect timed out")));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop((listener, waiting));
}
