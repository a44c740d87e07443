//! `cargo xtask oracle luxi`: asks a real luxid what the fixture of `crates/rapid/tests/luxi.rs` holds, row by row, and writes what it
//! answers now. The rows take jobs 1 to 4 for those that making the cluster took.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::machine::root;

/// Where the socket of the cluster is that `cargo xtask oracle up` makes.
pub(crate) const SOCKET: &str =
    "/var/tmp/rapid-oracle/vc/node1.gnt.example/var/run/ganeti/socket/ganeti-query";
/// What ends a message.
const END: u8 = 3;
/// How long one answer, and the end of one job, may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long is looked whether a connection gets closed.
const CLOSING: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(100);

fn fixture() -> PathBuf {
    root().join("crates/rapid/tests/fixtures/luxid-3.0.2.jsonl")
}

pub(crate) fn run(socket: &Path) -> Result<()> {
    let path = fixture();
    let mut rows = String::new();
    for line in fs::read_to_string(&path)?.lines() {
        let mut row: Value = serde_json::from_str(line)?;
        if let Some(job) = row["wait"].as_u64() {
            wait(socket, job)?;
        } else {
            let requests = row["send"].as_array().cloned().context("a row sends nothing")?;
            let (answers, closed) = ask(socket, &requests)?;
            row["answers"] = json!(answers);
            row["closed"] = json!(closed);
        }
        rows.push_str(&row.to_string());
        rows.push('\n');
    }
    fs::write(&path, rows).with_context(|| path.display().to_string())
}

/// Sends requests one after the other on one connection; the answers, and whether it was closed then.
fn ask(socket: &Path, requests: &[Value]) -> Result<(Vec<String>, bool)> {
    let stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(&stream);
    let mut answers = Vec::new();
    for request in requests {
        let mut text = request.as_str().context("a request is a text")?.as_bytes().to_vec();
        text.push(END);
        (&stream).write_all(&text)?;
        let mut answer = Vec::new();
        reader.read_until(END, &mut answer)?;
        ensure!(answer.pop() == Some(END), "the connection was closed amid an answer");
        answers.push(String::from_utf8(answer)?);
    }
    stream.set_read_timeout(Some(CLOSING))?;
    let closed = matches!(reader.read(&mut [0]), Ok(0));
    Ok((answers, closed))
}

#[expect(clippy::disallowed_methods, reason = "nothing else runs on this thread")]
fn wait(socket: &Path, job: u64) -> Result<()> {
    let begun = Instant::now();
    let request = json!({"method": "QueryJobs", "args": [[job], ["status"]]}).to_string();
    while begun.elapsed() < LIMIT {
        let (answers, _) = ask(socket, &[json!(request)])?;
        let status: Value = serde_json::from_str(&answers[0])?;
        let status = &status["result"][0][0];
        if ["success", "error", "canceled"].iter().any(|end| status == *end) {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    bail!("job {job} does not end")
}
