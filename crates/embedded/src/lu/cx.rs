//! What a logical unit is given: the configuration, the nodes, a way to speak, and the job it runs in.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use model::compat::Compat;
use model::config::Config;
use model::error::{GanetiError, Result};
use model::job::{LogKind, ReasonEntry};
use model::name::{JobId, Uuid};
use model::opcode::{Op, OpCode, Opcode};
use node::{Feedback, Node, NodeError};
use serde_json::{Value, json};

use crate::config::{ConfigStore, Draft};
use crate::env::Env;
use crate::locks::Locks;
use crate::names::Names;
use crate::nodes::Nodes;

/// What the job that runs an opcode offers to it: the queue implements this, and tests have a twin.
#[async_trait]
pub(crate) trait JobPort: Send + Sync {
    fn job_id(&self) -> JobId;

    /// Adds to the opcode's log.
    fn log(&self, kind: LogKind, payload: Value);

    /// Takes locks beside those held. While none are held any may be asked for; afterwards only of higher levels
    /// than all that are held, which keeps the order of levels.
    async fn acquire(&self, locks: &Locks) -> Result<()>;

    /// Gives all locks back.
    fn release(&self);

    /// Shows the opcode otherwise from now on: with full names and UUIDs, and with what it was filled in.
    fn rewrite(&self, _code: OpCode) {}

    /// Makes the job's state durable: called before the world outside is touched for the first time.
    async fn sync(&self) -> Result<()>;

    /// Submits jobs on behalf of this one; they inherit its priority and reason. For each its id or why it was refused.
    async fn submit(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>>;
}

/// What all jobs share.
pub(crate) struct Shared {
    pub(crate) config: ConfigStore,
    pub(crate) nodes: Nodes,
    pub(crate) env: Arc<Env>,
    pub(crate) names: Names,
    /// Whose turn it is to choose nodes.
    pub(crate) allocation: tokio::sync::Mutex<()>,
    pub(crate) compat: Compat,
    /// Where the cluster keeps its files.
    pub(crate) data_dir: PathBuf,
}

/// What a logical unit is given.
pub(crate) struct Cx {
    shared: Arc<Shared>,
    port: Arc<dyn JobPort>,
    reason: Vec<ReasonEntry>,
    debug_level: AtomicU64,
}

impl Cx {
    pub(crate) fn new(
        shared: Arc<Shared>,
        port: Arc<dyn JobPort>,
        reason: Vec<ReasonEntry>,
    ) -> Self {
        Self { shared, port, reason, debug_level: AtomicU64::new(0) }
    }

    /// How talkative scripts are to be.
    pub(crate) fn set_debug_level(&self, level: u64) {
        self.debug_level.store(level, Ordering::Relaxed);
    }

    pub(crate) fn debug_level(&self) -> u64 {
        self.debug_level.load(Ordering::Relaxed)
    }

    /// The newest snapshot of the configuration.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.shared.config.snapshot()
    }

    /// Changes the configuration; durable when it returns.
    pub(crate) async fn commit<T>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        self.shared.config.commit(change).await
    }

    /// Changes the configuration as the very last thing that an opcode does: it becomes durable with the opcode's end, and
    /// the job waits only once.
    pub(crate) fn commit_last<T>(
        &self,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        self.shared.config.commit_last(change)
    }

    /// The configuration's owner: for setting things aside.
    pub(crate) fn config_store(&self) -> &ConfigStore {
        &self.shared.config
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }

    pub(crate) fn env(&self) -> &Env {
        &self.shared.env
    }

    /// Host names.
    pub(crate) fn names(&self) -> &Names {
        &self.shared.names
    }

    pub(crate) fn compat(&self) -> Compat {
        self.shared.compat
    }

    pub(crate) fn data_dir(&self) -> &str {
        self.shared.data_dir.to_str().unwrap_or(".")
    }

    pub(crate) fn port(&self) -> &dyn JobPort {
        &*self.port
    }

    /// Has the job show an opcode as it is now, with full names and UUIDs.
    pub(crate) fn show<L: Opcode + Into<OpCode>>(&self, op: L) {
        let told = super::expand::told(&op, &self.config(), self.compat());
        self.port.rewrite(told.unwrap_or(op).into());
    }

    pub(crate) fn job_id(&self) -> JobId {
        self.port.job_id()
    }

    /// Who asked for this and why.
    pub(crate) fn reason(&self) -> &[ReasonEntry] {
        &self.reason
    }

    /// A node to be asked. One that is marked offline does not answer.
    pub(crate) async fn node(&self, uuid: &Uuid) -> Result<Arc<dyn Node>, NodeError> {
        let config = self.config();
        let offline = config.nodes.get(uuid).is_none_or(|node| node.offline);
        if offline {
            return Err(NodeError::Unreachable("Node is marked offline".to_owned()));
        }
        self.port.sync().await.map_err(|error| NodeError::Failed(error.to_string()))?;
        self.shared.nodes.get(uuid).ok_or_else(|| {
            NodeError::Unreachable(format!("Node {} is not there", config.node_name(uuid)))
        })
    }

    /// Waits for one's turn to choose nodes: choices are made one after the other, each in view of what the ones before have
    /// set aside. Held for the choice only.
    pub(crate) async fn allocation_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.allocation.lock().await
    }

    /// Takes the output of a script into the log, line by line, as it comes.
    pub(crate) fn script_output(&self) -> Feedback {
        let port = self.port.clone();
        Arc::new(move |line: &str| port.log(LogKind::Message, json!(line)))
    }

    /// Says something of another kind than a text.
    pub(crate) fn tell(&self, kind: LogKind, payload: Value) {
        self.port.log(kind, payload);
    }

    /// A line of the log.
    pub(crate) fn log(&self, text: &str) {
        self.port.log(LogKind::Message, json!(text));
    }

    /// ` - INFO: …`
    pub(crate) fn info(&self, text: &str) {
        self.log(&format!(" - INFO: {text}"));
    }

    /// ` - WARNING: …`
    pub(crate) fn warn(&self, text: &str) {
        self.log(&format!(" - WARNING: {text}"));
    }

    /// A warning with what to do about it.
    pub(crate) fn warn_hint(&self, text: &str, hint: &str) {
        self.warn(text);
        self.log(&format!("      Hint: {hint}"));
    }

    /// `STEP n/m …`
    pub(crate) fn step(&self, at: u64, of: u64, text: &str) {
        self.log(&format!("STEP {at}/{of} {text}"));
    }

    /// Submits jobs on behalf of this one and answers `[[true, id] or [false, text], …]`, the value of a result's `jobs`.
    pub(crate) async fn submit(&self, jobs: Vec<Vec<Op>>) -> Result<Value> {
        let submitted = self.port.submit(jobs).await?;
        let row = |result| match result {
            Ok(JobId(id)) => json!([true, id]),
            Err(text) => json!([false, text]),
        };
        Ok(submitted.into_iter().map(row).collect())
    }
}

/// An error of a node inside a job's work.
pub(crate) fn exec_error(error: &NodeError) -> GanetiError {
    GanetiError::exec(error.to_string())
}
