//! An engine that remembers what it was asked and answers what it was told to; and a way to ask a route.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use model::compat::Compat;
use model::engine::{Engine, FilterRule, Gauge, JobChange};
use model::error::{ErrorClass, GanetiError, Result};
use model::name::{JobId, Uuid};
use model::opcode::Op;
use model::param::{Dict, TagKind};
use model::query::rows::{Rows, TextRows};
use model::query::{Answer, Cell, FieldDef, Item, Row};
use rapi::error::HttpError;
use rapi::input::{Input, Method};
use rapi::resources::answer;
use rapi::route::{Reply, find_in};

/// When every request comes.
pub(crate) const NOW: i64 = 1_700_000_000_000_000_000;

/// What one request asked the engine for, beside jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Cancel(u64),
    Wait(u64, Vec<String>, Option<Vec<Value>>, Option<u64>),
    Query(String, Vec<String>, Value),
    Replace(Option<String>, u64, Value, Value, Value),
    Tags(TagKind, String),
}

/// The engine. What it answers is public and set by the test.
#[derive(Default)]
pub(crate) struct FakeEngine {
    pub(crate) compat: Compat,
    pub(crate) submitted: Mutex<Vec<Vec<Op>>>,
    pub(crate) asked: Mutex<Vec<Asked>>,
    /// Objects of the lists.
    pub(crate) items: Vec<(Item, Dict)>,
    /// Known jobs, with all their fields.
    pub(crate) jobs: Vec<Dict>,
    pub(crate) rules: Vec<Dict>,
    pub(crate) refuse: Option<GanetiError>,
    pub(crate) change: Option<JobChange>,
    /// Whether rows are handed out as text, as they come from a master daemon.
    pub(crate) text: bool,
}

fn pick(object: &Dict, fields: &[&str]) -> Vec<Value> {
    fields.iter().map(|field| object.get(*field).cloned().unwrap_or_default()).collect()
}

impl FakeEngine {
    fn remember(&self, asked: Asked) {
        self.asked.lock().unwrap().push(asked);
    }

    /// Rows in the form that the test wants.
    fn rows<T: serde::Serialize>(&self, rows: Vec<T>) -> Rows<T> {
        if !self.text {
            return rows.into();
        }
        let text = serde_json::to_string(&rows).unwrap();
        let cells = serde_json::from_str::<Vec<Option<Vec<Value>>>>(&text).unwrap();
        let cells = cells.iter().flatten().map(Vec::len).next().unwrap_or(0);
        let text = text.into_bytes().into();
        Rows::Text(TextRows::find(&text, serde_json::from_slice(&text).unwrap(), cells).unwrap())
    }

    fn refused(&self) -> Result<()> {
        self.refuse.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Engine for FakeEngine {
    fn compat(&self) -> Compat {
        self.compat
    }

    async fn submit_job(&self, ops: Vec<Op>) -> Result<JobId> {
        self.refused()?;
        let mut submitted = self.submitted.lock().unwrap();
        submitted.push(ops);
        Ok(JobId(u64::try_from(submitted.len()).unwrap()))
    }

    async fn submit_job_to_drained_queue(&self, ops: Vec<Op>) -> Result<JobId> {
        self.submit_job(ops).await
    }

    async fn submit_many_jobs(&self, _: Vec<Vec<Op>>) -> Result<Vec<Result<JobId, String>>> {
        Ok(Vec::new())
    }

    async fn wait_for_job_change(
        &self,
        id: JobId,
        fields: &[String],
        previous: Option<&[Value]>,
        serial: Option<u64>,
        _: Duration,
    ) -> Result<Option<JobChange>> {
        self.refused()?;
        self.remember(Asked::Wait(id.0, fields.to_vec(), previous.map(<[Value]>::to_vec), serial));
        Ok(self.change.clone())
    }

    async fn cancel_job(&self, id: JobId) -> Result<(bool, String)> {
        self.remember(Asked::Cancel(id.0));
        Ok((false, format!("Job {id} not found in queue")))
    }

    async fn change_job_priority(&self, _: JobId, _: i64) -> Result<(bool, String)> {
        Ok((false, String::new()))
    }

    async fn archive_job(&self, _: JobId) -> Result<bool> {
        Ok(false)
    }

    async fn auto_archive_jobs(&self, _: Option<Duration>, _: Duration) -> Result<(u64, u64)> {
        Ok((0, 0))
    }

    async fn query_jobs(
        &self,
        ids: Option<&[JobId]>,
        fields: &[&str],
    ) -> Result<Rows<Option<Vec<Value>>>> {
        Ok(self.rows(match ids {
            None => self.jobs.iter().map(|job| Some(pick(job, fields))).collect(),
            Some(ids) => {
                let job = |id: &JobId| self.jobs.iter().find(|job| job["id"] == json!(id.0));
                ids.iter().map(|id| job(id).map(|job| pick(job, fields))).collect()
            }
        }))
    }

    async fn query(
        &self,
        resource: &str,
        fields: &[String],
        filter: &Value,
    ) -> Result<Answer<Rows<Vec<Cell>>>> {
        self.remember(Asked::Query(resource.to_owned(), fields.to_vec(), filter.clone()));
        let fields = fields.iter().map(|field| FieldDef::unknown(field)).collect();
        Ok(Answer { fields, rows: Vec::new().into() })
    }

    async fn query_fields(&self, _: &str, fields: Option<&[String]>) -> Result<Vec<FieldDef>> {
        Ok(fields.unwrap_or_default().iter().map(|field| FieldDef::unknown(field)).collect())
    }

    async fn query_items(
        &self,
        item: Item,
        names: &[String],
        fields: &[&str],
        lock: bool,
    ) -> Result<Rows<Row>> {
        self.refused()?;
        if lock {
            return Err(GanetiError::wrong_input("Sync queries are not allowed"));
        }
        let wanted = |object: &&(Item, Dict)| {
            let name = object.1["name"].as_str().unwrap();
            object.0 == item && (names.is_empty() || names.iter().any(|wanted| wanted == name))
        };
        let objects = self.items.iter().filter(wanted);
        Ok(self.rows(objects.map(|(_, object)| Arc::new(pick(object, fields))).collect()))
    }

    async fn query_exports(&self, _: &[String]) -> Result<Vec<Row>> {
        Ok(Vec::new())
    }

    async fn query_filters(&self, uuids: Option<&[String]>, fields: &[&str]) -> Result<Vec<Row>> {
        let wanted = |rule: &&Dict| {
            uuids.is_none_or(|uuids| uuids.iter().any(|uuid| rule["uuid"] == json!(uuid)))
        };
        Ok(self.rules.iter().filter(wanted).map(|rule| Arc::new(pick(rule, fields))).collect())
    }

    async fn replace_filter(&self, uuid: Option<String>, rule: FilterRule) -> Result<Uuid> {
        let FilterRule { priority, predicates, action, reason } = rule;
        self.remember(Asked::Replace(uuid, priority, predicates, action, reason));
        Ok(Uuid::new("6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
    }

    async fn delete_filter(&self, uuid: &str) -> Result<()> {
        let text = format!("Filter rule with UUID {uuid} does not exist");
        Err(GanetiError::new(ErrorClass::GenericError, text))
    }

    async fn query_tags(&self, kind: TagKind, name: &str) -> Result<Vec<String>> {
        self.refused()?;
        self.remember(Asked::Tags(kind, name.to_owned()));
        Ok(vec!["a".into(), "b".into()])
    }

    async fn query_cluster_info(&self) -> Result<Value> {
        Ok(json!({"name": "cluster", "volume_group_name": "xenvg", "drbd_usermode_helper": null}))
    }

    async fn query_config_values(&self, names: &[&str]) -> Result<Vec<Value>> {
        Ok(vec![Value::Null; names.len()])
    }

    async fn set_drain_flag(&self, _: bool) -> Result<()> {
        Ok(())
    }

    async fn set_watcher_pause(&self, until: Option<f64>) -> Result<Option<f64>> {
        Ok(until)
    }

    async fn gauges(&self) -> Vec<Gauge> {
        Vec::new()
    }
}

/// Asks for a target as the door does once it has let a request in.
pub(crate) async fn ask(
    engine: &Arc<FakeEngine>,
    method: Method,
    target: &str,
    body: Option<Value>,
) -> Result<Value, HttpError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let found = find_in(path, engine.compat).ok_or_else(HttpError::not_found)?;
    let route = found.method(method).ok_or_else(|| HttpError::plain(501))?;
    let input = Input {
        method,
        path: path.to_owned(),
        path_vars: found.path_vars,
        target: target.to_owned(),
        query: pairs(query),
        body: body.filter(|body| !body.is_null()),
        user: None,
        now_nanos: NOW,
    };
    let engine: Arc<dyn Engine> = engine.clone();
    match answer(&engine, route, input).await? {
        Reply::Json(value) => Ok(value),
        Reply::Text(text) => Ok(serde_json::from_slice(&text).unwrap()),
        Reply::Pieces(pieces) => {
            let pieces: Result<Vec<_>, _> = pieces.collect();
            Ok(serde_json::from_slice(&pieces.unwrap().concat()).unwrap())
        }
    }
}

/// The arguments of a query, without empty values.
fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.map(|(name, value)| (decode(name), decode(value)));
    pairs.filter(|(_, value)| !value.is_empty()).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match hex() {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                }
                None => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
