//! A real guest, for the demo and for its test: how it is asked for, and what its console shows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// How long a guest may take for a step, on a slow and busy machine.
pub(crate) const STEP: Duration = Duration::from_secs(240);
/// How long the console may take to be there.
const CONSOLE_LIMIT: Duration = Duration::from_secs(10);

/// The request for an instance with the bundled operating system, on the one node.
pub(crate) fn request(name: &str, node: &str, greeting: &str) -> Value {
    json!({
        "__version__": 1, "mode": "create", "instance_name": name, "pnode": node, "name_check": false,
        "ip_check": false, "os_type": "tiny", "osparams": {"greeting": greeting},
        "hypervisor": "kvm", "beparams": {"maxmem": 128, "minmem": 128, "vcpus": 1},
        "disk_template": "file", "disks": [{"size": 128}], "nics": [{"mode": "user"}],
    })
}

/// The name of the first node.
pub(crate) async fn first_node(client: &Client) -> Result<String> {
    let nodes = client.call(Method::Get, "/2/nodes", &[], None).await?;
    match nodes[0]["id"].as_str() {
        Some(node) => Ok(node.to_owned()),
        None => bail!("the cluster has no node: {nodes}"),
    }
}

/// Waits for the end of a job that has to succeed.
pub(crate) async fn succeed(client: &Client, job: u64, log: impl FnMut(&Value)) -> Result<Value> {
    let job = client.wait(job, log).await?;
    if job["status"] != "success" {
        let (id, summary, status) = (&job["id"], &job["summary"][0], &job["status"]);
        bail!("job {id} {summary}: {status}: {}", job["opresult"]);
    }
    Ok(job)
}

/// A viewer of a console.
pub(crate) struct Viewer {
    stream: UnixStream,
    seen: String,
    show: fn(&str),
}

impl Viewer {
    /// Attaches to the console of an instance; what comes is given to `show`, too.
    pub(crate) async fn attach(data_dir: &Path, name: &str, show: fn(&str)) -> Result<Self> {
        let begun = Instant::now();
        loop {
            if let Some(socket) = node::console::find(data_dir, name)
                && let Ok(stream) = UnixStream::connect(&socket).await
            {
                return Ok(Self { stream, seen: String::new(), show });
            }
            if begun.elapsed() > CONSOLE_LIMIT {
                bail!("{name} has no console");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads until a text has come and its line is complete, and forgets what came before its end. Gives the line's rest.
    pub(crate) async fn wait(&mut self, text: &str) -> Result<String> {
        let begun = Instant::now();
        let mut chunk = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                let from = at + text.len();
                let end = self.seen[from..].find('\n').map(|length| from + length);
                if let Some(end) = end.or(text.ends_with("# ").then_some(from)) {
                    let rest = self.seen[from..end].trim().to_owned();
                    self.seen.drain(..end);
                    return Ok(rest);
                }
            }
            let left = STEP.saturating_sub(begun.elapsed());
            match timeout(left, self.stream.read(&mut chunk)).await {
                Ok(Ok(count @ 1..)) => {
                    let text = String::from_utf8_lossy(&chunk[..count]).into_owned();
                    (self.show)(&text);
                    self.seen.push_str(&text);
                }
                Ok(_) => bail!("the console ended before {text:?} came: {}", self.seen),
                Err(_) => bail!("{text:?} did not come in {STEP:?}: {}", self.seen),
            }
        }
    }

    /// Reads until a prompt has come, which no end of line follows.
    pub(crate) async fn prompt(&mut self, text: &str) -> Result<()> {
        let begun = Instant::now();
        let mut chunk = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let left = STEP.saturating_sub(begun.elapsed());
            match timeout(left, self.stream.read(&mut chunk)).await {
                Ok(Ok(count @ 1..)) => {
                    self.seen.push_str(&String::from_utf8_lossy(&chunk[..count]));
                }
                Ok(_) => bail!("the console ended before {text:?} came: {}", self.seen),
                Err(_) => bail!("{text:?} did not come in {STEP:?}: {}", self.seen),
            }
        }
    }

    /// Types a line.
    pub(crate) async fn line(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(format!("{text}\r").as_bytes()).await?;
        Ok(())
    }
}
