//! The seam between the remote API and a cluster: the vocabulary of LUXI, Ganeti's protocol between the remote API daemon
//! and its master daemon. An engine is a cluster of our own or the wire to a real one; the door knows only this.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::compat::Compat;
use crate::error::Result;
use crate::name::{JobId, Uuid};
use crate::opcode::Op;
use crate::param::TagKind;
use crate::query::rows::Rows;
use crate::query::{Answer, Cell, FieldDef, Item, Row};

/// The text of the time-out of who could not even connect to the master daemon. Ganeti: `rpc/transport.py` (3.0.2).
pub const CONNECT_TIMED_OUT: &str = "Connect timed out";

/// What [`Engine::wait_for_job_change`] saw.
#[derive(Clone, Debug, PartialEq)]
pub struct JobChange {
    /// The values of the fields asked for.
    pub job_info: Vec<Value>,
    /// Log entries newer than the serial given, `[serial, [s, us], kind, payload]` each.
    pub log_entries: Vec<Value>,
}

/// What a job filter rule says (`ReplaceFilter`); see `model::job` for its statuses.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterRule {
    pub priority: u64,
    /// `[[name, expression], …]`.
    pub predicates: Value,
    /// `"ACCEPT"`, `"PAUSE"`, `"REJECT"`, `"CONTINUE"` or `["RATE_LIMIT", n]`.
    pub action: Value,
    /// `[[source, text, nanoseconds], …]`.
    pub reason: Value,
}

/// A cluster, as the door sees it. Each call is one of LUXI's; what it may fail with is Ganeti's exception.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The release whose fields, defaults and texts this cluster has.
    fn compat(&self) -> Compat;

    /// Accepts a job. Its id is answered only once the job would survive a crash.
    async fn submit_job(&self, ops: Vec<Op>) -> Result<JobId>;

    /// Accepts a job even while the queue is closed for submissions.
    async fn submit_job_to_drained_queue(&self, ops: Vec<Op>) -> Result<JobId>;

    /// Accepts several jobs with consecutive ids; for each its id or why it was refused.
    async fn submit_many_jobs(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>>;

    /// Waits until the job differs from what the caller saw, it is final, or the time is over (`None`).
    /// `previous` and `serial` are what was seen: the values of `fields`, and the newest log entry's serial.
    async fn wait_for_job_change(
        &self,
        id: JobId,
        fields: &[String],
        previous: Option<&[Value]>,
        serial: Option<u64>,
        timeout: Duration,
    ) -> Result<Option<JobChange>>;

    /// Cancels a job: whether it worked, and a text that says more.
    async fn cancel_job(&self, id: JobId) -> Result<(bool, String)>;

    /// Changes the priority of a job's opcodes that are not done: whether it worked, and a text.
    async fn change_job_priority(&self, id: JobId, priority: i64) -> Result<(bool, String)>;

    /// Archives a job; false when it is unknown or not final.
    async fn archive_job(&self, id: JobId) -> Result<bool>;

    /// Archives jobs that ended longer ago than `age` (`None`: all that ended) for at most `timeout`: how many were archived,
    /// how many are left to look at.
    async fn auto_archive_jobs(
        &self,
        age: Option<Duration>,
        timeout: Duration,
    ) -> Result<(u64, u64)>;

    /// Jobs in the order of ids; all that are not archived when `ids` is `None`. A job that is not known gives a row of `None`.
    async fn query_jobs(
        &self,
        ids: Option<&[JobId]>,
        fields: &[&str],
    ) -> Result<Rows<Option<Vec<Value>>>>;

    /// The query language: `resource` and `filter` as the client wrote them.
    async fn query(
        &self,
        resource: &str,
        fields: &[String],
        filter: &Value,
    ) -> Result<Answer<Rows<Vec<Cell>>>>;

    /// Which fields a resource has; with `fields`, these in their order.
    async fn query_fields(
        &self,
        resource: &str,
        fields: Option<&[String]>,
    ) -> Result<Vec<FieldDef>>;

    /// The lists: objects by name (none: all, in natural order), plain values. An unknown name gives no row.
    async fn query_items(
        &self,
        item: Item,
        names: &[String],
        fields: &[&str],
        lock: bool,
    ) -> Result<Rows<Row>>;

    /// `[node, export]` for each export on these nodes (none: all).
    async fn query_exports(&self, nodes: &[String]) -> Result<Vec<Row>>;

    /// Filter rules by UUID (`None`: all); an unknown UUID gives no row.
    async fn query_filters(&self, uuids: Option<&[String]>, fields: &[&str]) -> Result<Vec<Row>>;

    /// Adds a filter rule, or replaces the one of that UUID.
    async fn replace_filter(&self, uuid: Option<String>, rule: FilterRule) -> Result<Uuid>;

    async fn delete_filter(&self, uuid: &str) -> Result<()>;

    /// The tags of an object, sorted; `name` is empty for the cluster.
    async fn query_tags(&self, kind: TagKind, name: &str) -> Result<Vec<String>>;

    /// The object behind `/2/info`, without the door's aliases.
    async fn query_cluster_info(&self) -> Result<Value>;

    /// Single configuration values by name; unknown ones are null.
    async fn query_config_values(&self, names: &[&str]) -> Result<Vec<Value>>;

    /// Closes or opens the queue for submissions.
    async fn set_drain_flag(&self, drained: bool) -> Result<()>;

    /// Pauses the watcher until a time (seconds since the epoch), or ends the pause.
    async fn set_watcher_pause(&self, until: Option<f64>) -> Result<Option<f64>>;

    /// A picture of what an instance shows. LUXI has no word for it.
    async fn screenshot(&self, _instance: &str) -> Result<Screenshot> {
        let text = "the master daemon of a real cluster can't show the screens of instances";
        Ok(Screenshot::Unsupported(text.to_owned()))
    }

    /// Numbers for monitoring: `(name, labels, value)`; the program names and prints them.
    async fn gauges(&self) -> Vec<Gauge>;
}

/// What came of the wish for a picture of an instance's screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screenshot {
    /// The picture.
    Png(Vec<u8>),
    /// There is no instance of that name.
    Unknown,
    /// It does not run.
    NotRunning,
    /// It has no screen, or none that can be shown; with why.
    Unsupported(String),
}

/// One number for monitoring.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
    /// Whether it only grows.
    pub counter: bool,
}
