//! The store over a real database file.

use std::time::Duration;

use model::compat::Compat;
use model::job::{Job, LogEntry, LogKind, Status};
use model::name::JobId;
use model::opcode::Op;
use model::units::Timestamp;
use serde_json::json;

use super::row::{JobRow, StateRow};
use super::{Store, StoreError, Write, sqlite};

fn job(id: u64, tag: &str) -> Job {
    let wire = json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": [tag], "name": null, "priority": -10});
    let op = Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap();
    Job::new(JobId(id), vec![op], Timestamp(1, 2))
}

fn new(job: &Job) -> Write {
    Write::Job(Box::new(JobRow::of(job, Compat::V31)))
}

fn ended(job: &mut Job, at: i64) -> Write {
    job.ops[0].status = Status::Success;
    job.ops[0].result = json!({"x": [1]});
    job.end = Some(Timestamp(at, 0));
    Write::State(StateRow::of(job))
}

#[tokio::test]
async fn what_is_written_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut one = job(1, "a");
    let entry =
        LogEntry { serial: 1, time: Timestamp(5, 6), kind: LogKind::Message, payload: json!("hi") };
    {
        let (backend, reader) = sqlite::open(&path).unwrap();
        let store = Store::start(backend, reader).unwrap();
        store.offer_and_wait(vec![new(&one), new(&job(2, "b"))]).await.unwrap();
        store.write_lazily(vec![Write::Log { job: JobId(1), op: 0, entry: entry.clone() }]);
        store.write_and_wait(vec![ended(&mut one, 10)]).await.unwrap();
        one.ops[0].log.push(entry);
    }
    let (backend, reader) = sqlite::open(&path).unwrap();
    let store = Store::start(backend, reader).unwrap();
    assert_eq!(store.read(|reader| reader.job(JobId(1))).unwrap(), Some(one.clone()));
    assert_eq!(store.read(|reader| reader.job(JobId(3))).unwrap(), None);
    assert_eq!(store.read(|reader| reader.unfinished()).unwrap(), [job(2, "b")]);
    assert_eq!(store.read(|reader| reader.archivable(None, 9)).unwrap(), [JobId(1)]);
    assert_eq!(store.read(|reader| reader.archivable(Some(5_000_000), 9)).unwrap(), []);
    store.write_and_wait(vec![Write::Archive(vec![JobId(1)])]).await.unwrap();
    assert_eq!(store.read(|reader| reader.listed()).unwrap(), [JobId(2)]);
    assert_eq!(store.read(|reader| reader.jobs(true)).unwrap().len(), 2);
}

#[tokio::test]
async fn ids_of_forgotten_jobs_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (backend, reader) = sqlite::open(&dir.path().join("db")).unwrap();
    let store = Store::start(backend, reader).unwrap();
    let ids: Vec<JobId> = (1..=4).map(JobId).collect();
    for id in 1..=4 {
        let mut job = job(id, "a");
        store.write(vec![new(&job), ended(&mut job, 10 + i64::try_from(id).unwrap())]);
    }
    store.write_and_wait(vec![Write::Archive(ids)]).await.unwrap();
    let forgettable =
        |keep, before| store.read(|reader| reader.forgettable(keep, before, 100)).unwrap();
    assert_eq!(forgettable(3, 0), [JobId(1)]);
    assert_eq!(forgettable(9, 12_500_000), [JobId(1), JobId(2)]);
    let all = forgettable(0, 0);
    assert_eq!(all.len(), 4);
    store.write_and_wait(vec![Write::Forget(all)]).await.unwrap();
    assert_eq!(store.read(|reader| reader.last_id()).unwrap(), 4);
}

#[tokio::test]
async fn a_full_disk_refuses_new_jobs_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (backend, reader) = sqlite::open(&path).unwrap();
    backend.limit_pages(40);
    let store = Store::start(backend, reader).unwrap();
    let mut first = job(1, "a");
    store.offer_and_wait(vec![new(&first)]).await.unwrap();
    let big = "x".repeat(60_000);
    let mut accepted = vec![JobId(1)];
    let mut refused = None;
    for id in 2..100 {
        match store.offer_and_wait(vec![new(&job(id, &big))]).await {
            Ok(()) => accepted.push(JobId(id)),
            Err(error) => {
                refused = Some(error.to_string());
                break;
            }
        }
    }
    assert_eq!(refused.as_deref(), Some("database or disk is full"));
    // What is small still fits, and goes on.
    store.write_and_wait(vec![ended(&mut first, 10)]).await.unwrap();
    // What does not fit is kept until there is room: space comes back as old jobs are forgotten.
    let mut large = job(1, "a");
    large.ops[0].result = json!(big.repeat(4));
    large.end = Some(Timestamp(11, 0));
    assert!(store.write_and_wait(vec![Write::State(StateRow::of(&large))]).await.is_err());
    assert!(store.check().is_err());
    drop(store);
    let (backend, reader) = sqlite::open(&path).unwrap();
    let store = Store::start(backend, reader).unwrap();
    let listed = store.read(|reader| reader.listed()).unwrap();
    assert_eq!(listed, accepted);
    tokio::time::timeout(Duration::from_secs(5), store.barrier()).await.unwrap().unwrap();
}

#[test]
fn newer_data_is_refused_and_older_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    drop(sqlite::open(&path).unwrap());
    drop(sqlite::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let Err(error @ StoreError::Newer { .. }) = sqlite::open(&path).map(|_| ()) else {
        panic!("newer data was opened");
    };
    let text = error.to_string();
    assert!(text.contains("schema version 99, this program knows up to 1"), "{text}");
}
