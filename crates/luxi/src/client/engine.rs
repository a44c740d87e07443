//! [`LuxiEngine`]: a real cluster behind the seam. Each verb is one call of LUXI; what the master daemon says is what is answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::compat::Compat;
use model::engine::{Engine, FilterRule, Gauge, JobChange};
use model::error::Result;
use model::name::{JobId, Uuid};
use model::opcode::Op;
use model::param::TagKind;
use model::query::rows::{Rows, TextRows};
use model::query::{Answer, Cell, FieldDef, Item, Row};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::client::answer::{QueryAnswer, QueryFields};
use crate::client::connection::{Broken, Connection};
use crate::client::options::Options;
use crate::client::pool::Pool;
use crate::client::wait::{Waits, Wanted};
use crate::client::{gauges, wire};
use crate::message::{self, read_as, read_result};
use crate::method::Method;

/// How long a start waits for the cluster to say its release.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// How often idle connections are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// A real cluster, over its master daemon's socket.
pub struct LuxiEngine {
    pool: Arc<Pool>,
    waits: Waits,
    seen: Arc<Seen>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What is known of the master daemon.
#[derive(Default)]
pub(crate) struct Seen {
    /// Whether it answers.
    pub(crate) is_up: AtomicBool,
    /// Its release, as a [`Compat`].
    release: AtomicU8,
}

impl Seen {
    fn compat(&self) -> Compat {
        if self.release.load(Relaxed) == 0 { Compat::V30 } else { Compat::V31 }
    }

    fn set_compat(&self, compat: Compat) {
        self.release.store(u8::from(compat != Compat::V30), Relaxed);
    }
}

impl LuxiEngine {
    /// Asks the cluster for its release, if it answers now, and keeps an eye on it from then on. A master daemon that is not there
    /// is no failure: calls will wait for it and say so.
    pub async fn start(options: Options) -> Arc<Self> {
        let seen = Arc::new(Seen::default());
        seen.set_compat(options.compat);
        let pool = Arc::new(Pool::new(options));
        let look = Connection::open_once(&pool.options);
        let first = match timeout(FIRST_LOOK, look).await {
            Ok(Ok(mut connection)) => {
                let learned = timeout(FIRST_LOOK, learn(&mut connection, &pool, &seen)).await;
                learned.is_ok_and(|learned| learned.is_ok()).then_some(connection)
            }
            Ok(Err(_)) | Err(_) => None,
        };
        if first.is_none() {
            let socket = pool.options.socket.display();
            tracing::warn!("the master daemon does not answer at {socket} yet");
        }
        let keeper = tokio::spawn(keep(first, pool.clone(), seen.clone()));
        Arc::new(Self { pool, waits: Waits::default(), seen, keeper: Mutex::new(Some(keeper)) })
    }

    /// Closes the idle connections and stops looking after the master daemon.
    pub async fn shutdown(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            keeper.abort();
            // It was told to stop, so how it ended says nothing.
            let _ = keeper.await;
        }
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, args: Value) -> Result<T> {
        let answer = self.pool.call(method, &args).await?;
        read_as(read_result(&answer)?.get())
    }

    /// Asks for rows of so many cells, which stay the text in which they come.
    async fn rows<T>(&self, method: Method, args: Value, cells: usize) -> Result<Rows<T>> {
        let message = self.pool.call(method, &args).await?;
        TextRows::find(&message, read_result(&message)?, cells).map(Rows::Text)
    }
}

/// Holds a connection of its own, so as to notice when the master daemon goes: the next one may be of another release.
async fn keep(first: Option<Connection>, pool: Arc<Pool>, seen: Arc<Seen>) {
    let mut first = first;
    loop {
        if let Some(connection) = watched(first.take(), &pool, &seen).await {
            seen.is_up.store(true, Relaxed);
            loop {
                tokio::select! {
                    () = connection.gone() => break,
                    () = sleep(TIDY_EVERY) => pool.close_idle(),
                }
            }
            tracing::info!("the master daemon has closed the connection");
        }
        seen.is_up.store(false, Relaxed);
        pool.close_idle();
        sleep(pool.options.connect_pause).await;
    }
}

async fn watched(first: Option<Connection>, pool: &Pool, seen: &Seen) -> Option<Connection> {
    if first.is_some() {
        return first;
    }
    let mut connection = Connection::open_once(&pool.options).await.ok()?;
    // What is wrong with it shows in the calls that somebody wants.
    learn(&mut connection, pool, seen).await.ok()?;
    Some(connection)
}

/// Asks for the cluster's release.
async fn learn(connection: &mut Connection, pool: &Pool, seen: &Seen) -> Result<(), Broken> {
    let request = message::framed(Method::QueryClusterInfo, &json!([]));
    let answer = connection.call(&request, &pool.options).await?;
    let info = read_result(&answer).and_then(|info| read_as::<HashMap<String, Value>>(info.get()));
    let info = info.map_err(|_| Broken::Closed)?;
    let version = info.get("software_version").and_then(Value::as_str).unwrap_or_default();
    let compat = Compat::of_release(version);
    if compat != seen.compat() || !seen.is_up.load(Relaxed) {
        tracing::info!(version, "the master daemon answers");
    }
    seen.set_compat(compat);
    Ok(())
}

fn method_of(item: Item) -> Method {
    match item {
        Item::Instance => Method::QueryInstances,
        Item::Node => Method::QueryNodes,
        Item::Group => Method::QueryGroups,
        Item::Network => Method::QueryNetworks,
    }
}

#[async_trait]
impl Engine for LuxiEngine {
    fn compat(&self) -> Compat {
        self.seen.compat()
    }

    async fn submit_job(&self, ops: Vec<Op>) -> Result<JobId> {
        let job = wire::job(&ops, self.compat());
        self.ask(Method::SubmitJob, json!([job])).await
    }

    async fn submit_job_to_drained_queue(&self, ops: Vec<Op>) -> Result<JobId> {
        let job = wire::job(&ops, self.compat());
        self.ask(Method::SubmitJobToDrainedQueue, json!([job])).await
    }

    async fn submit_many_jobs(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        let jobs: Value = jobs.iter().map(|job| wire::job(job, self.compat())).collect();
        let done: Vec<(bool, Value)> = self.ask(Method::SubmitManyJobs, json!([jobs])).await?;
        let outcome = |(done, value): (bool, Value)| match (done, value.as_u64()) {
            (true, Some(id)) => Ok(JobId(id)),
            _ => Err(model::python::str(&value)),
        };
        Ok(done.into_iter().map(outcome).collect())
    }

    async fn wait_for_job_change(
        &self,
        id: JobId,
        fields: &[String],
        previous: Option<&[Value]>,
        serial: Option<u64>,
        timeout: Duration,
    ) -> Result<Option<JobChange>> {
        let (fields, previous) = (fields.to_vec(), previous.map(<[Value]>::to_vec));
        self.waits.wait(&self.pool, Wanted { id, fields, previous, serial }, timeout).await
    }

    async fn cancel_job(&self, id: JobId) -> Result<(bool, String)> {
        self.ask(Method::CancelJob, json!([id.0, false])).await
    }

    async fn change_job_priority(&self, id: JobId, priority: i64) -> Result<(bool, String)> {
        self.ask(Method::ChangeJobPriority, json!([id.0, priority])).await
    }

    async fn archive_job(&self, id: JobId) -> Result<bool> {
        self.ask(Method::ArchiveJob, json!([id.0])).await
    }

    async fn auto_archive_jobs(
        &self,
        age: Option<Duration>,
        timeout: Duration,
    ) -> Result<(u64, u64)> {
        let age = age.map_or(json!(-1), |age| json!(age.as_secs()));
        self.ask(Method::AutoArchiveJobs, json!([age, timeout.as_secs()])).await
    }

    async fn query_jobs(
        &self,
        ids: Option<&[JobId]>,
        fields: &[&str],
    ) -> Result<Rows<Option<Vec<Value>>>> {
        let ids = ids.map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>());
        self.rows(Method::QueryJobs, json!([ids, fields]), fields.len()).await
    }

    async fn query(
        &self,
        resource: &str,
        fields: &[String],
        filter: &Value,
    ) -> Result<Answer<Rows<Vec<Cell>>>> {
        let message = self.pool.call(Method::Query, &json!([resource, fields, filter])).await?;
        let answer: QueryAnswer<'_> = read_as(read_result(&message)?.get())?;
        let fields: Vec<FieldDef> = answer.fields.into_iter().map(FieldDef::from).collect();
        let rows = TextRows::find(&message, answer.data, fields.len())?;
        Ok(Answer { fields, rows: Rows::Text(rows) })
    }

    async fn query_fields(
        &self,
        resource: &str,
        fields: Option<&[String]>,
    ) -> Result<Vec<FieldDef>> {
        let answer: QueryFields = self.ask(Method::QueryFields, json!([resource, fields])).await?;
        Ok(answer.fields.into_iter().map(FieldDef::from).collect())
    }

    async fn query_items(
        &self,
        item: Item,
        names: &[String],
        fields: &[&str],
        lock: bool,
    ) -> Result<Rows<Row>> {
        self.rows(method_of(item), json!([names, fields, lock]), fields.len()).await
    }

    async fn query_exports(&self, nodes: &[String]) -> Result<Vec<Row>> {
        self.ask(Method::QueryExports, json!([nodes, false])).await
    }

    async fn query_filters(&self, uuids: Option<&[String]>, fields: &[&str]) -> Result<Vec<Row>> {
        self.ask(Method::QueryFilters, json!([uuids, fields])).await
    }

    async fn replace_filter(&self, uuid: Option<String>, rule: FilterRule) -> Result<Uuid> {
        let FilterRule { priority, predicates, action, reason } = rule;
        self.ask(Method::ReplaceFilter, json!([uuid, priority, predicates, action, reason])).await
    }

    async fn delete_filter(&self, uuid: &str) -> Result<()> {
        self.ask(Method::DeleteFilter, json!([uuid])).await
    }

    async fn query_tags(&self, kind: TagKind, name: &str) -> Result<Vec<String>> {
        self.ask(Method::QueryTags, json!([kind.as_str(), name])).await
    }

    async fn query_cluster_info(&self) -> Result<Value> {
        self.ask(Method::QueryClusterInfo, json!([])).await
    }

    async fn query_config_values(&self, names: &[&str]) -> Result<Vec<Value>> {
        self.ask(Method::QueryConfigValues, json!([names])).await
    }

    async fn set_drain_flag(&self, drained: bool) -> Result<()> {
        self.ask::<bool>(Method::SetDrainFlag, json!([drained])).await.map(drop)
    }

    async fn set_watcher_pause(&self, until: Option<f64>) -> Result<Option<f64>> {
        self.ask(Method::SetWatcherPause, json!([until])).await
    }

    async fn gauges(&self) -> Vec<Gauge> {
        gauges::gauges(&self.pool, &self.waits, &self.seen)
    }
}

impl Drop for LuxiEngine {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
    }
}
