//! A cluster that does nothing: it counts jobs, and lets a test hold it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use model::compat::Compat;
use model::engine::{Engine, FilterRule, Gauge, JobChange};
use model::error::{ErrorClass, GanetiError, Result};
use model::name::{JobId, Uuid};
use model::opcode::Op;
use model::param::TagKind;
use model::query::rows::Rows;
use model::query::{Answer, Cell, FieldDef, Item, Row};

/// The stand-in.
pub(crate) struct StandIn {
    jobs: AtomicU64,
    /// A submission takes one of these, so a test can let them through one by one.
    pub(crate) gate: Semaphore,
    /// What has come in.
    pub(crate) submissions: Semaphore,
    pub(crate) waits: Semaphore,
}

impl StandIn {
    /// It lets everything through.
    pub(crate) fn open() -> Arc<Self> {
        Self::with_gate(Semaphore::MAX_PERMITS)
    }

    /// It holds submissions up.
    pub(crate) fn closed() -> Arc<Self> {
        Self::with_gate(0)
    }

    fn with_gate(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            jobs: AtomicU64::new(0),
            gate: Semaphore::new(permits),
            submissions: Semaphore::new(0),
            waits: Semaphore::new(0),
        })
    }
}

fn no<T>() -> Result<T> {
    Err(GanetiError::new(ErrorClass::OpPrereqError, "this is a stand-in"))
}

#[async_trait]
impl Engine for StandIn {
    fn compat(&self) -> Compat {
        Compat::V31
    }

    async fn submit_job(&self, _ops: Vec<Op>) -> Result<JobId> {
        self.submissions.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        Ok(JobId(self.jobs.fetch_add(1, Ordering::Relaxed) + 1))
    }

    async fn submit_job_to_drained_queue(&self, _ops: Vec<Op>) -> Result<JobId> {
        no()
    }

    async fn submit_many_jobs(&self, _jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        no()
    }

    async fn wait_for_job_change(
        &self,
        _id: JobId,
        _fields: &[String],
        _previous: Option<&[Value]>,
        _serial: Option<u64>,
        _timeout: Duration,
    ) -> Result<Option<JobChange>> {
        self.waits.add_permits(1);
        std::future::pending().await
    }

    async fn cancel_job(&self, _id: JobId) -> Result<(bool, String)> {
        panic!("a bug, as a test wants it")
    }

    async fn change_job_priority(&self, _id: JobId, _priority: i64) -> Result<(bool, String)> {
        no()
    }

    async fn archive_job(&self, _id: JobId) -> Result<bool> {
        no()
    }

    async fn auto_archive_jobs(
        &self,
        _age: Option<Duration>,
        _for: Duration,
    ) -> Result<(u64, u64)> {
        no()
    }

    async fn query_jobs(
        &self,
        _ids: Option<&[JobId]>,
        _fields: &[&str],
    ) -> Result<Rows<Option<Vec<Value>>>> {
        no()
    }

    async fn query(
        &self,
        _resource: &str,
        _fields: &[String],
        _filter: &Value,
    ) -> Result<Answer<Rows<Vec<Cell>>>> {
        no()
    }

    async fn query_fields(
        &self,
        _resource: &str,
        _fields: Option<&[String]>,
    ) -> Result<Vec<FieldDef>> {
        no()
    }

    async fn query_items(
        &self,
        _item: Item,
        _names: &[String],
        _fields: &[&str],
        _lock: bool,
    ) -> Result<Rows<Row>> {
        no()
    }

    async fn query_exports(&self, _nodes: &[String]) -> Result<Vec<Row>> {
        no()
    }

    async fn query_filters(&self, _uuids: Option<&[String]>, _fields: &[&str]) -> Result<Vec<Row>> {
        no()
    }

    async fn replace_filter(&self, _uuid: Option<String>, _rule: FilterRule) -> Result<Uuid> {
        no()
    }

    async fn delete_filter(&self, _uuid: &str) -> Result<()> {
        no()
    }

    async fn query_tags(&self, _kind: TagKind, _name: &str) -> Result<Vec<String>> {
        Ok(vec!["t\u{e4}g".into()])
    }

    async fn query_cluster_info(&self) -> Result<Value> {
        Ok(json!({"name": "cluster.example.com", "padding": "x".repeat(1 << 20)}))
    }

    async fn query_config_values(&self, _names: &[&str]) -> Result<Vec<Value>> {
        no()
    }

    async fn set_drain_flag(&self, _drained: bool) -> Result<()> {
        no()
    }

    async fn set_watcher_pause(&self, _until: Option<f64>) -> Result<Option<f64>> {
        no()
    }

    async fn gauges(&self) -> Vec<Gauge> {
        Vec::new()
    }
}
