//! A connection to QEMU's monitor. It knows no schema, so that QEMUs newer or older than this program work: replies are
//! matched by id, events are handed on as they are, and every waiter wakes when the connection ends.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::fault;
use crate::outside::outside;

/// How long QEMU may take to answer: it does nothing long in its monitor.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Events that wait for the driver, which does nothing but take them.
const EVENTS_MAX: usize = 256;

/// Why a command to QEMU gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("QEMU refused {command}: {desc}")]
    Refused { command: String, desc: String },
    #[error("can't talk to QEMU: {0}")]
    Io(#[from] std::io::Error),
    #[error("QEMU sent something that is not its protocol")]
    Protocol,
    #[error("QEMU closed its monitor")]
    Closed,
    #[error("QEMU did not answer {0} in time")]
    Timeout(String),
}

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

type Reply = oneshot::Sender<Result<Value, QmpError>>;
/// Commands under way; `None` once the connection has ended.
type Pending = Arc<Mutex<Option<HashMap<u64, (String, Reply)>>>>;

/// A connection; commands may be given from several places at once.
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Pending,
    next_id: AtomicU64,
    reader: JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects and shakes hands. The receiver yields events and ends with the connection.
    pub(crate) async fn connect(path: &Path) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let limited = tokio::time::timeout(ANSWER_LIMIT, Self::greet(path)).await;
        limited.unwrap_or_else(|_| Err(QmpError::Timeout("the greeting".into())))
    }

    async fn greet(path: &Path) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let (read, write) = UnixStream::connect(path).await?.into_split();
        let mut read = BufReader::new(read);
        let mut greeting = String::new();
        if read.read_line(&mut greeting).await? == 0 {
            return Err(QmpError::Closed);
        }
        let greeting: Value = serde_json::from_str(&greeting).map_err(|_| QmpError::Protocol)?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Protocol);
        }
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let reader = tokio::spawn(read_all(read, pending.clone(), events_tx));
        let writer = tokio::sync::Mutex::new(write);
        let qmp = Self { writer, pending, next_id: AtomicU64::new(1), reader };
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok((qmp, events))
    }

    /// Gives a command and waits for its result.
    pub(crate) async fn run(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let changes = !command.starts_with("query-");
        if changes {
            fault::point(&format!("before QEMU is told {command}"));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        match lock(&self.pending).as_mut() {
            Some(pending) => pending.insert(id, (command.to_owned(), tx)),
            None => return Err(QmpError::Closed),
        };
        let mut message = Map::new();
        message.insert("execute".into(), command.into());
        message.insert("id".into(), id.into());
        message.insert("arguments".into(), arguments);
        let mut line = Value::Object(message).to_string();
        line.push('\n');
        let exchange = async {
            self.writer.lock().await.write_all(line.as_bytes()).await?;
            rx.await.unwrap_or(Err(QmpError::Closed))
        };
        match outside(command, tokio::time::timeout(ANSWER_LIMIT, exchange)).await {
            Ok(result) => {
                if changes {
                    fault::point(&format!("after QEMU was told {command}"));
                }
                result
            }
            Err(_) => {
                if let Some(pending) = lock(&self.pending).as_mut() {
                    pending.remove(&id);
                }
                Err(QmpError::Timeout(command.to_owned()))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_all(read: BufReader<OwnedReadHalf>, pending: Pending, events: mpsc::Sender<Event>) {
    let mut lines = read.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(mut message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            let data = message.get_mut("data").map_or(Value::Null, Value::take);
            if events.send(Event { name, data }).await.is_err() {
                // Nobody listens any more; replies still matter.
                continue;
            }
        } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
            let waiter = lock(&pending).as_mut().and_then(|pending| pending.remove(&id));
            let Some((command, reply)) = waiter else { continue };
            let result = match message.get("error") {
                Some(error) => {
                    let desc = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                    Err(QmpError::Refused { command, desc: desc.to_owned() })
                }
                None => Ok(message.get_mut("return").map_or(Value::Null, Value::take)),
            };
            // Whoever asked may have gone.
            let _ = reply.send(result);
        }
    }
    // Dropping the senders wakes every waiter with `Closed`.
    lock(&pending).take();
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A monitor that answers what a script says.
    async fn serve(listener: UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\": {\"version\": {}}}\r\n").await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            let message: Value = serde_json::from_str(&line).unwrap();
            let id = &message["id"];
            let answer = match message["execute"].as_str().unwrap() {
                "qmp_capabilities" => json!({"return": {}, "id": id}),
                "query-status" => {
                    let event = json!({"event": "NEW_IN_QEMU_99", "data": {"a": 1}});
                    write.write_all(format!("{event}\r\n").as_bytes()).await.unwrap();
                    json!({"return": {"status": "running"}, "id": id})
                }
                "quit" => return,
                _ => json!({"error": {"class": "GenericError", "desc": "no such"}, "id": id}),
            };
            write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn commands_events_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let server = tokio::spawn(serve(UnixListener::bind(&path).unwrap()));
        let (qmp, mut events) = Qmp::connect(&path).await.unwrap();
        let status = qmp.run("query-status", json!({})).await.unwrap();
        assert_eq!(status, json!({"status": "running"}));
        assert_eq!(events.recv().await.unwrap().name, "NEW_IN_QEMU_99");
        let error = qmp.run("nope", json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused nope: no such");
        let error = qmp.run("quit", json!({})).await.unwrap_err();
        assert!(matches!(error, QmpError::Closed | QmpError::Io(_)), "{error}");
        assert_eq!(events.recv().await, None);
        assert!(qmp.run("query-status", json!({})).await.is_err());
        server.await.unwrap();
    }
}
