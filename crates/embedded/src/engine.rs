//! [`EmbeddedEngine`]: opens a data directory, puts the parts together, and answers each verb of the seam by one call into
//! them.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::compat::Compat;
use model::config::{Config, Filter};
use model::engine::{Engine, FilterRule, Gauge, JobChange, Screenshot};
use model::error::{ErrorClass, GanetiError, Result};
use model::job::Job;
use model::name::{JobId, Uuid};
use model::opcode::Op;
use model::param::TagKind;
use model::query::rows::Rows;
use model::query::{Answer, Cell, FieldDef, Item, Resource, Row};
use node::{Node, NodeError, RunState};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::config::{Change, ConfigStore};
use crate::env::Env;
use crate::lu::cx::Shared;
use crate::names::Names;
use crate::nodes::Nodes;
use crate::query::{self, JobsWanted, Queries, Request};
use crate::queue::{Queue, rules};
use crate::readable;
use crate::store::{Backend, Reader, Store, StoreError, StoreJournal, Write, sqlite};
use crate::verify::verify;
use crate::watcher::Watcher;

/// The database's name in the data directory.
const DATABASE: &str = "rapid.db";

/// The file that is locked while a daemon uses the data directory.
const LOCK: &str = "lock";

/// How often and with which pauses the lock is tried.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The setting that holds the end of the watcher's pause.
const WATCHER_PAUSE: &str = "watcher_pause";

/// How often the watcher looks unless it is told otherwise.
const WATCHER_EVERY: Duration = Duration::from_secs(60);

/// How many jobs are archived or forgotten in one transaction.
const CHORE_JOBS_MAX: usize = 500;

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    pub compat: Compat,
    /// How many archived jobs are kept.
    pub archived_jobs_max: u64,
    /// How long archived jobs are kept.
    pub archived_age_max: Duration,
    /// How long after their end jobs are archived (the watcher's six hours).
    pub auto_archive_age: Duration,
    /// How often old jobs are looked for.
    pub chores_every: Duration,
    /// How often the watcher looks; zero is never. By default each minute, and never on simulated clusters.
    pub watcher_every: Option<Duration>,
    /// How long a shutdown waits for running jobs.
    pub shutdown_limit: Duration,
    /// Whether a real node holds instances within their memory and virtual processors by control groups.
    pub limit_instances: bool,
}

impl Options {
    /// The usual ones.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            compat: Compat::default(),
            archived_jobs_max: 100_000,
            archived_age_max: Duration::from_secs(21 * 24 * 3600),
            auto_archive_age: Duration::from_secs(6 * 3600),
            chores_every: Duration::from_secs(300),
            watcher_every: None,
            shutdown_limit: Duration::from_secs(30),
            limit_instances: false,
        }
    }
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the data directory {0} is used by another daemon")]
    Locked(PathBuf),
    #[error("the store")]
    Store(#[from] StoreError),
    #[error("there is no cluster in {0}")]
    NoCluster(PathBuf),
    #[error("there is a cluster in {0} already")]
    Exists(PathBuf),
    #[error("the node")]
    Node(#[from] node::NodeError),
    #[error("the configuration is broken: {}", .0.join("; "))]
    Broken(Vec<String>),
}

/// A cluster of our own.
pub struct EmbeddedEngine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<Store>,
    pub(crate) queue: Arc<Queue>,
    queries: Queries,
    options: Options,
    pub(crate) watcher: Watcher,
    /// What is done again and again.
    chores: std::sync::Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the data directory is used.
    _lock: File,
}

/// Takes a data directory for oneself; made when there is none.
fn lock_directory(path: &Path) -> Result<File, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    std::fs::create_dir_all(path).map_err(failed(path))?;
    let lock = path.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(failed(&lock))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(path.to_owned())),
        Err(error) => Err(failed(&lock)(error.into())),
    }
}

/// The same with a little patience: a program that a killed daemon was just starting holds the lock until it runs.
async fn wait_for_directory(path: &Path) -> Result<File, OpenError> {
    for _ in 0..LOCK_TRIES {
        match lock_directory(path) {
            Err(OpenError::Locked(_)) => tokio::time::sleep(LOCK_PAUSE).await,
            done => return done,
        }
    }
    lock_directory(path)
}

impl EmbeddedEngine {
    /// Whether there is a cluster in a data directory.
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join(DATABASE).exists()
    }

    /// Puts a new cluster into a data directory that has none.
    pub fn create(data_dir: &Path, config: &Config) -> Result<(), OpenError> {
        let _lock = lock_directory(data_dir)?;
        let (mut backend, reader) = sqlite::open(&data_dir.join(DATABASE))?;
        if reader.config()?.is_some() {
            return Err(OpenError::Exists(data_dir.to_owned()));
        }
        let problems = verify(config);
        if !problems.is_empty() {
            return Err(OpenError::Broken(problems));
        }
        backend.commit(&[Write::Config(all_objects(config))])?;
        Ok(())
    }

    /// Opens the cluster of a data directory and goes on with its jobs.
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let lock = wait_for_directory(&options.data_dir).await?;
        if !Self::exists(&options.data_dir) {
            return Err(OpenError::NoCluster(options.data_dir));
        }
        let (backend, reader) = sqlite::open(&options.data_dir.join(DATABASE))?;
        let store = Store::start(backend, reader)?;
        let config = store.read(|reader| reader.config())?;
        let config = config.ok_or_else(|| OpenError::NoCluster(options.data_dir.clone()))?;
        let problems = verify(&config);
        if !problems.is_empty() {
            return Err(OpenError::Broken(problems));
        }
        let env = Arc::new(Env::system());
        let nodes = Nodes::default();
        crate::nodes::open(&nodes, &config, &options).await?;
        let names =
            Names::with_table(&host_table(&config, &options.data_dir), config.cluster.simulated);
        let shared = Arc::new(Shared {
            config: ConfigStore::new(config, Arc::new(StoreJournal(store.clone())), env.clone()),
            nodes,
            env,
            names,
            allocation: tokio::sync::Mutex::new(()),
            compat: options.compat,
            data_dir: options.data_dir.clone(),
        });
        let queue = Queue::open(shared.clone(), store.clone())?;
        let found = queue.recover().await?;
        tracing::info!(queued = found.queued, dead = found.dead, "the job queue is open");
        queue.pump();
        let engine = Arc::new(Self {
            shared,
            store,
            queue,
            queries: Queries::default(),
            options,
            watcher: Watcher::default(),
            chores: std::sync::Mutex::default(),
            _lock: lock,
        });
        engine.start_chores();
        engine.start_watcher();
        Ok(engine)
    }

    /// Stops starting jobs, lets the running ones finish within the limit, and writes everything down.
    pub async fn shutdown(&self) {
        for chore in self.chores().drain(..) {
            chore.abort();
        }
        self.queue.shut_down(self.options.shutdown_limit).await;
    }

    /// The newest configuration.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.snapshot()
    }

    /// Tells whenever there is a newer configuration.
    pub fn config_versions(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.config.versions()
    }

    fn start_chores(self: &Arc<Self>) {
        let every = self.options.chores_every;
        let engine = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(engine) = engine.upgrade() else { break };
                if let Err(error) = engine.put_away().await {
                    tracing::warn!(%error, "old jobs could not be put away");
                }
            }
        });
        self.chores().push(task);
    }

    fn chores(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.chores.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn start_watcher(self: &Arc<Self>) {
        let simulated = self.config().cluster.simulated;
        let usual = if simulated { Duration::ZERO } else { WATCHER_EVERY };
        let every = self.options.watcher_every.unwrap_or(usual);
        if every.is_zero() {
            return;
        }
        if let Err(error) = self.compare(&self.config()) {
            tracing::warn!(%error, "what is there can't be compared with what should be");
        }
        let engine = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(engine) = engine.upgrade() else { break };
                if let Err(error) = engine.watch().await {
                    tracing::warn!(%error, "the watcher could not do all that it should");
                }
            }
        });
        self.chores().push(task);
    }

    /// What Ganeti's watcher does beside watching: old jobs are archived; and archived ones are forgotten beyond the limits.
    async fn put_away(&self) -> Result<()> {
        if self.watcher_pause()?.is_none() {
            let age = self.options.auto_archive_age;
            self.auto_archive_jobs(Some(age), Duration::from_secs(30)).await?;
        }
        let keep = self.options.archived_jobs_max;
        let now = self.shared.env.now().as_micros();
        let before = now.saturating_sub(micros(self.options.archived_age_max));
        loop {
            let read = move |reader: &dyn Reader| reader.forgettable(keep, before, CHORE_JOBS_MAX);
            let ids = self.read(read).await?;
            let count = ids.len();
            if count > 0 {
                self.store.offer_and_wait(vec![Write::Forget(ids)]).await?;
            }
            if count < CHORE_JOBS_MAX {
                return Ok(());
            }
        }
    }

    /// Reads from the store where blocking is fine.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        let task = tokio::task::spawn_blocking(move || store.read(read));
        let result = task.await.map_err(|error| GanetiError::exec(error.to_string()))?;
        result.map_err(Into::into)
    }

    /// A job, from memory or from the store, shown to `look`.
    pub(crate) fn look_at_job<T>(
        &self,
        id: JobId,
        look: impl FnOnce(&Job) -> T,
    ) -> Result<Option<T>> {
        if let Some(cell) = self.queue.cell(id) {
            return Ok(Some(cell.look(look)));
        }
        Ok(self.store.read(|reader| reader.job(id))?.as_ref().map(look))
    }

    /// All jobs, those in memory as they are there; by id.
    async fn all_jobs(&self, with_archived: bool) -> Result<Vec<Job>> {
        let mut jobs = self.read(move |reader| reader.jobs(with_archived)).await?;
        for job in &mut jobs {
            if let Some(cell) = self.queue.cell(job.id) {
                *job = cell.look(Job::clone);
            }
        }
        Ok(jobs)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The hosts of a cluster's own table: its nodes, and what the file `hosts` in the data directory says.
fn host_table(config: &Config, data_dir: &Path) -> String {
    // The file is there only where somebody wants it.
    let mut table = std::fs::read_to_string(data_dir.join("hosts")).unwrap_or_default();
    let cluster = &config.cluster;
    table.push_str(&format!("\n{} {}\n", cluster.master_ip, cluster.cluster_name));
    for node in config.nodes.values() {
        table.push_str(&format!("{} {}\n", node.primary_ip, node.name));
    }
    table
}

/// Every object of a configuration, to be written.
fn all_objects(config: &Config) -> Vec<Change> {
    let mut changes = vec![Change::Cluster(config.cluster.clone())];
    changes.extend(config.groups.values().cloned().map(Change::PutGroup));
    changes.extend(config.nodes.values().cloned().map(Change::PutNode));
    changes.extend(config.networks.values().cloned().map(Change::PutNetwork));
    changes.extend(config.disks.values().cloned().map(Change::PutDisk));
    changes.extend(config.instances.values().cloned().map(Change::PutInstance));
    changes.extend(config.filters.values().cloned().map(Change::PutFilter));
    changes
}

/// Refuses filter rules that mean nothing, as LUXI's parser does.
fn check_rule(uuid: Option<&str>, rule: &FilterRule) -> Result<()> {
    let is_uuid = |text: &str| {
        text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    if uuid.is_some_and(|uuid| !is_uuid(uuid)) {
        return Err(GanetiError::new(ErrorClass::GenericError, "Unable to parse UUID"));
    }
    let refuse = |why: String| {
        let request =
            serde_json::json!([uuid, rule.priority, rule.predicates, rule.action, rule.reason]);
        let request = model::query::filter::pretty(&request);
        let text =
            format!("Failed to parse request: Cannot convert value '{request}', error: {why}");
        Err(GanetiError::new(ErrorClass::RequestError, text))
    };
    if !rules::is_action(&rule.action) {
        let is_rate = rule.action.get(0).is_some_and(|name| name == "RATE_LIMIT");
        return refuse(match is_rate {
            true => "RATE_LIMIT argument must be a positive integer".to_owned(),
            false => format!("malformed FilterAction JSON: {}", rule.action),
        });
    }
    for predicate in rule.predicates.as_array().into_iter().flatten() {
        let (name, rest) = match predicate.as_array().and_then(|parts| parts.split_first()) {
            Some((Value::String(name), rest)) => (name.as_str(), rest),
            _ => return refuse(format!("malformed FilterPredicate: {predicate}")),
        };
        let [expression] = rest else {
            let rest = Value::from(rest);
            return refuse(format!(
                "malformed FilterPredicate: bad parameter list for '{name}' predicate: {rest}"
            ));
        };
        if !["jobid", "opcode", "reason"].contains(&name) {
            let rest = Value::from(rest);
            return refuse(format!(
                "malformed FilterPredicate: bad parameter list for '{name}' predicate: {rest}"
            ));
        }
        if let Err(error) = model::query::filter::parse("filter", &[], expression) {
            let text = error.to_string();
            let why = text.rsplit_once("', error: ").map_or(text.as_str(), |(_, why)| why);
            return refuse(why.to_owned());
        }
    }
    Ok(())
}

/// Predicates as they are kept: equality is spelled `==` (Ganeti 3.0, qlang.hs), whichever way it was given.
fn spelled(value: &Value) -> Value {
    let Some(parts) = value.as_array() else { return value.clone() };
    let spell = |(at, part): (usize, &Value)| match part.as_str() {
        Some("=") if at == 0 => Value::from("=="),
        _ => spelled(part),
    };
    parts.iter().enumerate().map(spell).collect()
}

#[async_trait]
impl Engine for EmbeddedEngine {
    fn compat(&self) -> Compat {
        self.shared.compat
    }

    async fn submit_job(&self, mut ops: Vec<Op>) -> Result<JobId> {
        readable::read(&mut ops)?;
        self.queue.submit(ops).await
    }

    async fn submit_job_to_drained_queue(&self, mut ops: Vec<Op>) -> Result<JobId> {
        readable::read(&mut ops)?;
        self.queue.submit_even_drained(ops).await
    }

    async fn submit_many_jobs(&self, jobs: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        self.queue.submit_many(jobs, None).await
    }

    async fn wait_for_job_change(
        &self,
        id: JobId,
        fields: &[String],
        previous: Option<&[Value]>,
        serial: Option<u64>,
        timeout: Duration,
    ) -> Result<Option<JobChange>> {
        let compat = self.shared.compat;
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let values = |job: &Job| Ok(query::job_values_seen(job, &fields, compat));
        self.queue.wait_for_change(id, values, previous, serial, timeout).await
    }

    async fn cancel_job(&self, id: JobId) -> Result<(bool, String)> {
        Ok(self.queue.cancel(id).await)
    }

    async fn change_job_priority(&self, id: JobId, priority: i64) -> Result<(bool, String)> {
        Ok(self.queue.change_priority(id, priority).await)
    }

    async fn archive_job(&self, id: JobId) -> Result<bool> {
        let archivable =
            self.look_at_job(id, |job| job.status().is_final() && !job.archived)?.unwrap_or(false);
        if archivable {
            self.queue.archive(vec![id]).await?;
        }
        Ok(archivable)
    }

    async fn auto_archive_jobs(
        &self,
        age: Option<Duration>,
        timeout: Duration,
    ) -> Result<(u64, u64)> {
        let until = Instant::now() + timeout;
        let now = self.shared.env.now().as_micros();
        let before = age.map(|age| now.saturating_sub(micros(age)));
        let mut archived = 0;
        loop {
            let ids = self.read(move |reader| reader.archivable(before, CHORE_JOBS_MAX)).await?;
            let count = ids.len();
            if count > 0 && Instant::now() > until {
                let left = self.read(move |reader| reader.archivable(before, usize::MAX)).await?;
                return Ok((archived, left.len() as u64));
            }
            if count > 0 {
                self.queue.archive(ids).await?;
                archived += count as u64;
            }
            if count < CHORE_JOBS_MAX {
                return Ok((archived, 0));
            }
        }
    }

    async fn query_jobs(
        &self,
        ids: Option<&[JobId]>,
        fields: &[&str],
    ) -> Result<Rows<Option<Vec<Value>>>> {
        let compat = self.shared.compat;
        let row = |job: &Job| query::job_values(job, fields, compat);
        let rows: Result<Vec<_>> = match ids {
            Some(ids) => ids.iter().map(|id| self.look_at_job(*id, row)?.transpose()).collect(),
            None if fields == ["id"] => {
                let ids = self.read(|reader| reader.listed()).await?;
                Ok(ids.into_iter().map(|id| Some(vec![json!(id)])).collect())
            }
            None => self.all_jobs(false).await?.iter().map(|job| row(job).map(Some)).collect(),
        };
        rows.map(Rows::Made)
    }

    async fn query(
        &self,
        resource: &str,
        fields: &[String],
        filter: &Value,
    ) -> Result<Answer<Rows<Vec<Cell>>>> {
        let request = Request::parse(resource, fields, filter)?;
        let answer = match request.resource {
            Resource::Job => self.job_query(&request).await,
            Resource::Lock => query::query_locks(&request, &self.lock_rows()),
            Resource::Export => {
                let nodes = query::export_nodes(&self.config(), &request)?;
                query::query_exports(&request, &self.exports(&nodes).await)
            }
            Resource::Filter
            | Resource::Group
            | Resource::Instance
            | Resource::Network
            | Resource::Node => self.with_live(|live| self.queries.query(live, &request)),
        };
        answer.map(Answer::into)
    }

    async fn query_fields(
        &self,
        resource: &str,
        fields: Option<&[String]>,
    ) -> Result<Vec<FieldDef>> {
        query::fields(resource, fields)
    }

    async fn query_items(
        &self,
        item: Item,
        names: &[String],
        fields: &[&str],
        lock: bool,
    ) -> Result<Rows<Row>> {
        if lock {
            return Err(query::locked_queries_refused());
        }
        self.with_live(|live| self.queries.items(live, item, names, fields)).map(Rows::Made)
    }

    async fn query_exports(&self, nodes: &[String]) -> Result<Vec<Row>> {
        let fields = ["node", "export"].map(str::to_owned);
        let filter = match nodes {
            [] => Value::Null,
            names => {
                let names = names.iter().map(|name| json!(["=", "node", name]));
                std::iter::once(json!("|")).chain(names).collect()
            }
        };
        let request = Request::parse("export", &fields, &filter)?;
        let found = query::export_nodes(&self.config(), &request)?;
        let answer = query::query_exports(&request, &self.exports(&found).await)?;
        let plain = |row: Vec<model::query::Cell>| {
            Arc::new(row.into_iter().map(model::query::Cell::into_plain).collect::<Vec<_>>())
        };
        Ok(answer.rows.into_iter().map(plain).collect())
    }

    async fn query_filters(&self, uuids: Option<&[String]>, fields: &[&str]) -> Result<Vec<Row>> {
        query::filter_rows(&self.config(), uuids, fields)
    }

    async fn replace_filter(&self, uuid: Option<String>, rule: FilterRule) -> Result<Uuid> {
        check_rule(uuid.as_deref(), &rule)?;
        let watermark = self.queue.last_id();
        let mut trail = rule.reason.as_array().cloned().unwrap_or_default();
        trail.push(json!(["luxid", "", self.shared.env.now().as_nanos()]));
        let put = |draft: &mut crate::config::Draft<'_>| {
            let uuid = uuid.map_or_else(|| draft.env().uuid(), Uuid::new);
            draft.put_filter(Filter {
                uuid: uuid.clone(),
                watermark,
                priority: rule.priority,
                predicates: spelled(&rule.predicates),
                action: rule.action,
                reason_trail: Value::Array(trail),
            });
            Ok(uuid)
        };
        let uuid = self.shared.config.commit(put).await?;
        self.queue.judge_again();
        Ok(uuid)
    }

    async fn delete_filter(&self, uuid: &str) -> Result<()> {
        let drop = |draft: &mut crate::config::Draft<'_>| {
            let uuid = Uuid::new(uuid);
            if !draft.filters.contains_key(&uuid) {
                let text = format!("Filter rule with UUID {uuid} does not exist");
                return Err(GanetiError::new(ErrorClass::GenericError, text));
            }
            draft.drop_filter(&uuid);
            Ok(())
        };
        self.shared.config.commit(drop).await?;
        self.queue.judge_again();
        Ok(())
    }

    async fn query_tags(&self, kind: TagKind, name: &str) -> Result<Vec<String>> {
        query::tags(&self.config(), kind, name)
    }

    async fn query_cluster_info(&self) -> Result<Value> {
        Ok(query::cluster_info(&self.config(), self.shared.compat))
    }

    async fn query_config_values(&self, names: &[&str]) -> Result<Vec<Value>> {
        let config = self.config();
        let value = |name: &&str| -> Result<Value> {
            Ok(match *name {
                "drain_flag" => json!(self.queue.is_drained()),
                "watcher_pause" => json!(self.watcher_pause()?),
                name => query::config_value(&config, name),
            })
        };
        names.iter().map(value).collect()
    }

    async fn set_drain_flag(&self, drained: bool) -> Result<()> {
        self.queue.set_drained(drained).await
    }

    async fn set_watcher_pause(&self, until: Option<f64>) -> Result<Option<f64>> {
        let value = until.map(|until| until.to_string());
        self.store.offer_and_wait(vec![Write::Setting(WATCHER_PAUSE, value)]).await?;
        Ok(until)
    }

    async fn screenshot(&self, instance: &str) -> Result<Screenshot> {
        let config = self.config();
        let Some(instance) = config.instance_by_name(instance) else {
            return Ok(Screenshot::Unknown);
        };
        let offline = config.nodes.get(&instance.primary_node).is_none_or(|node| node.offline);
        let node = self.shared.nodes.get(&instance.primary_node).filter(|_| !offline);
        let runs = |node: &Arc<dyn Node>| {
            let state = node.state();
            let run = state.instances.get(&instance.name).filter(|_| state.reachable);
            run.is_some_and(|run| run.state != RunState::Shutdown)
        };
        let Some(node) = node.filter(runs) else { return Ok(Screenshot::NotRunning) };
        let told = crate::spec::instance(&config, self.shared.compat, instance);
        match node.screenshot(&told).await {
            Ok(png) => Ok(Screenshot::Png(png)),
            Err(NodeError::Unsupported(why)) => Ok(Screenshot::Unsupported(why)),
            Err(error) => Err(GanetiError::exec(error.to_string())),
        }
    }

    async fn gauges(&self) -> Vec<Gauge> {
        crate::gauges::gauges(&self.shared, &self.queue, &self.store, &self.watcher)
    }
}

impl EmbeddedEngine {
    /// Hands what fields are computed from to a query.
    pub(crate) fn with_live<T>(
        &self,
        ask: impl FnOnce(&query::Live<'_>) -> Result<T>,
    ) -> Result<T> {
        let config = self.config();
        let compat = self.shared.compat;
        let console = |instance: &model::config::Instance| {
            let node = self.shared.nodes.get(&instance.primary_node)?;
            Some(node.console(&crate::spec::instance(&config, compat, instance)))
        };
        ask(&query::Live {
            config: &config,
            nodes: &|uuid| self.shared.nodes.state(uuid),
            console: &console,
            compat,
        })
    }

    async fn job_query(&self, request: &Request) -> Result<Answer> {
        let jobs = match JobsWanted::of(request)? {
            JobsWanted::Ids(ids) => {
                let job = |id: &JobId| Ok((*id, self.look_at_job(*id, Job::clone)?.map(Arc::new)));
                ids.iter().map(job).collect::<Result<Vec<_>>>()?
            }
            JobsWanted::Open => listed(self.all_jobs(false).await?),
            JobsWanted::All => listed(self.all_jobs(true).await?),
        };
        query::query_jobs(request, &jobs, self.shared.compat)
    }

    fn lock_rows(&self) -> Vec<query::LockRow> {
        let rows = self.queue.locks.snapshot().into_iter().map(|row| query::LockRow {
            name: row.lock.full_name(),
            mode: row.mode.map(crate::locks::Mode::as_str),
            owners: row.owners.iter().map(|owner| owner.0).collect(),
            pending: row.pending.iter().map(|(mode, owner)| (mode.as_str(), owner.0)).collect(),
        });
        rows.collect()
    }

    /// Asks nodes for their exports.
    async fn exports(&self, nodes: &[Uuid]) -> Vec<query::NodeExports> {
        let config = self.config();
        let mut all = Vec::new();
        for uuid in nodes {
            let offline = config.nodes.get(uuid).is_none_or(|node| node.offline);
            let exports = match self.shared.nodes.get(uuid).filter(|_| !offline) {
                // What is wrong with a node shows in its own row.
                Some(node) => node.list_exports().await.ok(),
                None => None,
            };
            all.push(query::NodeExports {
                node: config.node_name(uuid).to_owned(),
                exports,
                offline,
            });
        }
        all
    }

    /// Until when the watcher pauses, in seconds since the epoch; `None` once that is over.
    pub(crate) fn watcher_pause(&self) -> Result<Option<f64>> {
        let until = self.store.read(|reader| reader.setting(WATCHER_PAUSE))?;
        // Ganeti: whole seconds are told (3.0.2, asked).
        let until = until.and_then(|text| text.parse::<f64>().ok()).map(f64::trunc);
        Ok(until.filter(|until| *until > self.shared.env.now_seconds()))
    }
}

fn listed(jobs: Vec<Job>) -> Vec<(JobId, Option<Arc<Job>>)> {
    jobs.into_iter().map(|job| (job.id, Some(Arc::new(job)))).collect()
}
