//! `OP_TEST_DELAY`: waits, on the master and on nodes, for tests of the queue.

use std::time::Duration;

use model::config::Config;
use model::error::{GanetiError, Result};
use model::job::LogKind;
use model::name::Uuid;
use model::opcode::TestDelay;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::{Cx, Level, Locks, LogicalUnit, expand};

/// The longest wait: a year. What is longer is as good as that.
const LONGEST_S: f64 = 366.0 * 86400.0;

/// The nodes that wait, the master among them if it is to.
fn waiting(op: &TestDelay, config: &Config) -> Result<Vec<Uuid>> {
    let mut nodes = Vec::new();
    for name in &op.on_nodes {
        nodes.push(expand::node(config, name, None)?.meta.uuid.clone());
    }
    let master = &config.cluster.master_node;
    if op.on_master && !nodes.contains(master) {
        nodes.push(master.clone());
    }
    Ok(nodes)
}

impl LogicalUnit for TestDelay {
    type Plan = Vec<Uuid>;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        if self.duration > 0.0 {
            return Ok(());
        }
        Err(GanetiError::prereq_plain("Duration must be greater than zero"))
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        // Ganeti: `no_locks` is not looked at in the end, the nodes are locked all the same (3.0, cmdlib/test.py).
        let exclusive = |locks: Locks, uuid: Uuid| locks.exclusive(Level::Node, uuid);
        Ok(waiting(self, config)?.into_iter().fold(Locks::new(), exclusive))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Uuid>> {
        waiting(self, &cx.config())
    }

    async fn exec(&self, cx: &Cx, nodes: Vec<Uuid>) -> Result<Value> {
        let rounds = self.repeat.max(1);
        for at in 0..rounds {
            if self.repeat > 0 {
                cx.info(&format!("Test delay iteration {at}/{}", self.repeat - 1));
            }
            if wait(self, cx, &nodes).await? {
                break;
            }
        }
        Ok(Value::Null)
    }
}

/// One wait; whether it was interrupted.
async fn wait(op: &TestDelay, cx: &Cx, nodes: &[Uuid]) -> Result<bool> {
    let end = Instant::now() + Duration::from_secs_f64(op.duration.min(LONGEST_S));
    if op.interruptible {
        return interruptible(cx, end).await;
    }
    for uuid in nodes {
        let answer = match cx.node(uuid).await {
            Ok(node) => node.ping().await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| {
            let name = cx.config().node_name(uuid).to_owned();
            GanetiError::exec(format!("Failure during rpc call to node {name}: {error}"))
        })?;
    }
    tokio::time::sleep_until(end).await;
    Ok(false)
}

/// Waits until somebody connects to a socket, whose path the log tells, and sends a byte or goes away.
async fn interruptible(cx: &Cx, end: Instant) -> Result<bool> {
    let start = Instant::now();
    let broken = |error: std::io::Error| GanetiError::exec(error.to_string());
    let dir = tempfile::tempdir().map_err(broken)?;
    let path = dir.path().join("sock");
    let listener = tokio::net::UnixListener::bind(&path).map_err(broken)?;
    cx.port().log(LogKind::DelayTest, json!([path.to_string_lossy()]));
    let Ok(accepted) = timeout_at(end, listener.accept()).await else { return Ok(false) };
    let (mut connection, _) = accepted.map_err(broken)?;
    let rest = end.saturating_duration_since(Instant::now()).as_secs();
    cx.log(&format!("Received connection, time to go is {rest}"));
    let mut byte = [0];
    if timeout_at(end, connection.read(&mut byte)).await.is_err() {
        return Ok(false);
    }
    cx.log(&format!("Interrupted, time spent waiting: {}", start.elapsed().as_secs()));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::lu::testing::Bench;

    #[tokio::test]
    async fn waits_and_refusals() {
        let bench = Bench::new(0);
        let run = async |mut params: Value| {
            params["OP_ID"] = json!("OP_TEST_DELAY");
            bench.run(params).await
        };
        let waited = run(json!({"duration": 0.001, "on_master": false, "repeat": 2})).await;
        assert_eq!(waited.result, Ok(Value::Null));
        let log = [" - INFO: Test delay iteration 0/1", " - INFO: Test delay iteration 1/1"];
        assert_eq!(waited.log, log);
        let refused = run(json!({"duration": 0})).await.result.unwrap_err();
        let text = json!(["OpPrereqError", ["Duration must be greater than zero"]]);
        assert_eq!(refused.to_value(), text);
        let refused = run(json!({"duration": 1, "on_nodes": ["x"]})).await.result.unwrap_err();
        let text = json!(["OpPrereqError", ["Node 'x' not known", "unknown_entity"]]);
        assert_eq!(refused.to_value(), text);
        let missing = run(json!({"duration": 1})).await.result.unwrap_err();
        assert!(missing.to_string().starts_with("Failure during rpc call to node "), "{missing}");
    }

    #[tokio::test]
    async fn a_socket_ends_the_wait() {
        let bench = std::sync::Arc::new(Bench::new(0));
        let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.01, "interruptible": true, "on_master": false});
        let outcome = bench.run(op).await;
        assert_eq!(outcome.result, Ok(Value::Null));
        assert!(outcome.log[0].contains("/sock"), "{:?}", outcome.log);
    }
}
