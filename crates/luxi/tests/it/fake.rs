//! A master daemon of few words: it answers what it is told to, spoils the answers that it is told to spoil, and remembers all it was
//! asked.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use luxi::client::engine::LuxiEngine;
use luxi::client::options::Options;
use luxi::frame::{self, Reader};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It is never answered.
    Silence,
    /// The connection is closed when it has been read.
    Close,
    /// The connection is closed amid the answer.
    CloseAmid,
    /// The connection is closed after the answer.
    CloseAfter,
    /// The answer is no message.
    Garbage,
    /// The answer is JSON and no response.
    Nonsense,
    /// The answer is a text of so many bytes.
    Huge(usize),
}

/// What the daemon knows and has seen.
#[derive(Default)]
struct State {
    faults: VecDeque<Fault>,
    /// All requests but those for the cluster's release, with which the client looks after the daemon.
    asked: Vec<(String, Value)>,
    release: String,
}

/// A place for a daemon.
pub(crate) struct Fake {
    dir: TempDir,
    state: Arc<Mutex<State>>,
    /// The status of every job.
    job: watch::Sender<&'static str>,
    running: Option<JoinSet<()>>,
}

impl Fake {
    /// A place where no daemon runs yet.
    pub(crate) fn new() -> Self {
        let state = State { release: "3.0.2".to_owned(), ..State::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            state: Arc::new(Mutex::new(state)),
            job: watch::channel("queued").0,
            running: None,
        }
    }

    pub(crate) fn running() -> Self {
        let mut fake = Self::new();
        fake.start();
        fake
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("ganeti-query")
    }

    pub(crate) fn start(&mut self) {
        remove(&self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, self.state.clone(), self.job.subscribe()));
        self.running = Some(tasks);
    }

    /// Closes the socket and all connections.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut tasks) = self.running.take() {
            tasks.shutdown().await;
        }
        remove(&self.socket());
    }

    /// Spoils the next answers, one each.
    pub(crate) fn spoil(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub(crate) fn set_release(&self, release: &str) {
        release.clone_into(&mut self.state.lock().unwrap().release);
    }

    pub(crate) fn set_job(&self, status: &'static str) {
        self.job.send_replace(status);
    }

    /// How often a method was asked for.
    pub(crate) fn asked(&self, method: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|(asked, _)| asked == method).count()
    }

    /// The arguments of the last request.
    pub(crate) fn last_args(&self) -> Value {
        self.state.lock().unwrap().asked.last().unwrap().1.clone()
    }

    /// Options for a client of this daemon, whose times are those of a test.
    pub(crate) fn options(&self) -> Options {
        Options {
            connect_time: Duration::from_millis(400),
            connect_pause: Duration::from_millis(20),
            io_time: Duration::from_millis(400),
            retry_pause: Duration::from_millis(10),
            ..Options::new(self.socket())
        }
    }

    pub(crate) async fn engine(&self) -> Arc<LuxiEngine> {
        LuxiEngine::start(self.options()).await
    }
}

fn remove(socket: &Path) {
    if socket.exists() {
        std::fs::remove_file(socket).unwrap();
    }
}

async fn accept(
    listener: UnixListener,
    state: Arc<Mutex<State>>,
    job: watch::Receiver<&'static str>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(converse(stream, state.clone(), job.clone()));
    }
}

/// Answers the requests of a connection until one side has enough.
async fn converse(
    mut stream: UnixStream,
    state: Arc<Mutex<State>>,
    mut job: watch::Receiver<&'static str>,
) {
    let mut reader = Reader::new();
    while let Ok(Some(message)) = reader.next(&mut stream, 1 << 30).await {
        let request: Value = serde_json::from_slice(&message).unwrap();
        let (method, args) = (request["method"].as_str().unwrap(), &request["args"]);
        let fault = note(&mut state.lock().unwrap(), method, args);
        let answer = match method {
            "QueryClusterInfo" => json!({"software_version": state.lock().unwrap().release}),
            "SubmitJob" => json!(state.lock().unwrap().asked.len()),
            "WaitForJobChange" => changed(args, &mut job).await,
            "QueryInstances" => json!([["web1"], ["web2"]]),
            _ => json!(["a", "b"]),
        };
        let answer = json!({"success": true, "result": answer}).to_string().into_bytes();
        match fault {
            None | Some(Fault::CloseAfter) => frame::send(&mut stream, answer).await.unwrap(),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Close) => {}
            Some(Fault::CloseAmid) => stream.write_all(&answer[..answer.len() / 2]).await.unwrap(),
            Some(Fault::Garbage) => frame::send(&mut stream, b"<html>".to_vec()).await.unwrap(),
            Some(Fault::Nonsense) => frame::send(&mut stream, b"[1]".to_vec()).await.unwrap(),
            Some(Fault::Huge(bytes)) => {
                let text = "x".repeat(bytes);
                let answer = json!({"success": true, "result": [text]}).to_string();
                // The client may have enough before it is through.
                let _ = frame::send(&mut stream, answer.into_bytes()).await;
            }
        }
        if matches!(fault, Some(Fault::Close | Fault::CloseAmid | Fault::CloseAfter)) {
            return;
        }
    }
}

/// Remembers a request, and says how its answer is to be spoiled.
fn note(state: &mut State, method: &str, args: &Value) -> Option<Fault> {
    if method == "QueryClusterInfo" {
        return None;
    }
    state.asked.push((method.to_owned(), args.clone()));
    state.faults.pop_front()
}

/// Waits until the job is other than it was seen, or the time is over.
async fn changed(args: &Value, job: &mut watch::Receiver<&'static str>) -> Value {
    let seconds = Duration::from_secs(args[4].as_u64().unwrap());
    let other = job.wait_for(|status| args[2] != json!([status]));
    // What it is when the time is over is an answer as well.
    let _ = tokio::time::timeout(seconds, other).await;
    json!([[*job.borrow()], []])
}
