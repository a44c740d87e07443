//! What each call does: its arguments are read, an engine is asked, the answer is written.

use std::time::Duration;

use model::compat::Compat;
use model::engine::{Engine, FilterRule, JobChange};
use model::error::{ErrorClass, GanetiError, Result};
use model::name::JobId;
use model::opcode::Op;
use model::param::TagKind;
use model::query::{Answer, FieldDef, Item, Row};
use serde_json::{Value, json};

use super::opcode::{self, Refused};
use super::read::{Read, convert};
use super::request;
use crate::message::UNREADABLE;
use crate::method::Method;

/// The longest that one call waits for a job. Ganeti: `LUXI_WFJC_TIMEOUT` (3.0.2).
const WAIT_MAX: Duration = Duration::from_secs(89);

/// Answers a request. What cannot be read is a `RequestError`.
pub(super) async fn answer(engine: &dyn Engine, text: &[u8]) -> Result<Value> {
    let (method, args) = request::read(text).map_err(unreadable)?;
    tracing::debug!(%method, "a call");
    call(engine, method, &args).await
}

fn unreadable(why: impl std::fmt::Display) -> GanetiError {
    GanetiError::new(ErrorClass::RequestError, format!("{UNREADABLE}{why}"))
}

fn args<T: Read>(value: &Value) -> Result<T> {
    convert(value).map_err(unreadable)
}

/// Where luxid's own source wants exactly one argument, which its refusals name (3.0.2, asked).
fn place(method: Method) -> &'static str {
    match method {
        Method::DeleteFilter => "250:15-20",
        Method::SubmitJob => "282:15-20",
        Method::SubmitJobToDrainedQueue => "286:15-20",
        Method::SubmitManyJobs => "290:15-20",
        Method::PickupJob => "309:15-19",
        Method::ArchiveJob => "312:15-19",
        Method::QueryConfigValues => "321:15-22",
        Method::SetDrainFlag => "335:15-20",
        other => other.as_str(),
    }
}

/// The one argument of a call.
fn one<T: Read>(method: Method, value: &Value) -> Result<T> {
    let mut items: Vec<T> = args(value)?;
    match (items.pop(), items.is_empty()) {
        (Some(item), true) => Ok(item),
        _ => Err(unreadable(format!(
            "Pattern match failure in do expression at src/Ganeti/Luxi.hs:{}",
            place(method)
        ))),
    }
}

/// Names, or `None` for all of them, which null and an empty list stand for.
fn some<T: Read>(value: &Value) -> Result<Option<Vec<T>>> {
    let names: Option<Vec<T>> = args(value)?;
    Ok(names.filter(|names| !names.is_empty()))
}

fn opcodes(method: Method, ops: &[Value], compat: Compat) -> Result<Vec<Op>> {
    let refuse = |refused| match refused {
        Refused::Unread(why) => unreadable(format!("{method}: {why}")),
        Refused::Table(error) => error,
    };
    ops.iter().map(|op| opcode::read(op, compat).map_err(refuse)).collect()
}

fn jobs(method: Method, jobs: &[Value], compat: Compat) -> Result<Vec<Vec<Op>>> {
    let job = |job: &Value| {
        let ops: Vec<Value> =
            Read::read(job).map_err(|why| unreadable(format!("{method}: {why}")))?;
        opcodes(method, &ops, compat)
    };
    jobs.iter().map(job).collect()
}

fn texts(fields: &[String]) -> Vec<&str> {
    fields.iter().map(String::as_str).collect()
}

fn rows(rows: &[Row]) -> Value {
    rows.iter().map(|row| Value::from(row.as_slice())).collect()
}

fn field_list(fields: &[FieldDef]) -> Value {
    fields.iter().map(FieldDef::to_value).collect()
}

fn answered(answer: Answer) -> Value {
    let row = |row: Vec<model::query::Cell>| -> Value {
        row.iter().map(model::query::Cell::to_value).collect()
    };
    let data: Value = answer.rows.into_iter().map(row).collect();
    json!({"fields": field_list(&answer.fields), "data": data})
}

async fn call(engine: &dyn Engine, method: Method, given: &Value) -> Result<Value> {
    let compat = engine.compat();
    Ok(match method {
        Method::SubmitJob => {
            let ops: Vec<Value> = one(method, given)?;
            json!(engine.submit_job(opcodes(method, &ops, compat)?).await?)
        }
        Method::SubmitJobToDrainedQueue => {
            let ops: Vec<Value> = one(method, given)?;
            json!(engine.submit_job_to_drained_queue(opcodes(method, &ops, compat)?).await?)
        }
        Method::SubmitManyJobs => {
            let all: Vec<Value> = one(method, given)?;
            let answers = engine.submit_many_jobs(jobs(method, &all, compat)?).await?;
            let answer = |answer: Result<JobId, String>| match answer {
                Ok(id) => json!([true, id]),
                Err(why) => json!([false, why]),
            };
            answers.into_iter().map(answer).collect()
        }
        Method::PickupJob => {
            let _: JobId = one(method, given)?;
            let text = "Luxi call 'PickupJob' is for internal use only";
            return Err(GanetiError::new(ErrorClass::GenericError, text));
        }
        Method::WaitForJobChange => wait(engine, given).await?,
        Method::CancelJob => {
            // Ganeti: the older form has the id alone. Jobs are no processes here that could be killed.
            let with_kill = convert::<(JobId, bool)>(given).map(|(id, _)| id);
            let id = with_kill.or_else(|first| {
                let alone = convert::<(JobId,)>(given);
                alone.map(|(id,)| id).map_err(|second| unreadable(format!("{first}; {second}")))
            })?;
            json!(engine.cancel_job(id).await?)
        }
        Method::ChangeJobPriority => {
            let (id, priority) = args(given)?;
            json!(engine.change_job_priority(id, priority).await?)
        }
        Method::ArchiveJob => json!(engine.archive_job(one(method, given)?).await?),
        Method::AutoArchiveJobs => {
            let (age, timeout): (i64, i64) = args(given)?;
            let age = u64::try_from(age).ok().map(Duration::from_secs);
            let timeout = Duration::from_secs(u64::try_from(timeout).unwrap_or(0));
            json!(engine.auto_archive_jobs(age, timeout).await?)
        }
        Method::QueryJobs => {
            let (ids, fields): (Value, Vec<String>) = args(given)?;
            query_jobs(engine, some(&ids)?, &texts(&fields)).await?
        }
        Method::Query => {
            let (what, fields, filter): (Value, Vec<String>, Value) = args(given)?;
            let what = resource(given, &what)?;
            answered(engine.query(what, &fields, &filter).await?.made()?)
        }
        Method::QueryFields => {
            let (what, fields): (Value, Value) = args(given)?;
            let what = resource(given, &what)?;
            let fields = engine.query_fields(what, some(&fields)?.as_deref()).await?;
            json!({"fields": field_list(&fields)})
        }
        Method::QueryNodes => items(engine, Item::Node, given).await?,
        Method::QueryInstances => items(engine, Item::Instance, given).await?,
        Method::QueryGroups => items(engine, Item::Group, given).await?,
        Method::QueryNetworks => items(engine, Item::Network, given).await?,
        Method::QueryExports => {
            let (nodes, lock): (Vec<String>, bool) = args(given)?;
            if lock {
                return Err(GanetiError::wrong_input("Sync queries are not allowed"));
            }
            rows(&engine.query_exports(&nodes).await?)
        }
        Method::QueryFilters => {
            let (uuids, fields): (Value, Vec<String>) = args(given)?;
            rows(&engine.query_filters(some(&uuids)?.as_deref(), &texts(&fields)).await?)
        }
        Method::ReplaceFilter => replace_filter(engine, given).await?,
        Method::DeleteFilter => {
            let uuid: String = one(method, given)?;
            engine.delete_filter(&uuid).await?;
            Value::Null
        }
        Method::QueryTags => {
            let (kind, name): (TagKind, String) = args(given)?;
            json!(engine.query_tags(kind, &name).await?)
        }
        Method::QueryClusterInfo => engine.query_cluster_info().await?,
        Method::QueryConfigValues => {
            let names: Vec<String> = one(method, given)?;
            json!(engine.query_config_values(&texts(&names)).await?)
        }
        Method::SetDrainFlag => {
            engine.set_drain_flag(one(method, given)?).await?;
            json!(true)
        }
        Method::SetWatcherPause => {
            // Ganeti: whatever is not one number ends the pause (3.0.2, asked).
            let until = match given.as_array().map(Vec::as_slice) {
                Some([until]) => until.as_f64(),
                _ => None,
            };
            json!(engine.set_watcher_pause(until).await?)
        }
    })
}

fn resource<'a>(given: &Value, what: &'a Value) -> Result<&'a str> {
    what.as_str().ok_or_else(|| {
        let why = format!("Invalid value '{what}for query type");
        let given = model::query::filter::pretty(given);
        unreadable(format!("Cannot convert value '{given}', error: {why}"))
    })
}

async fn items(engine: &dyn Engine, item: Item, given: &Value) -> Result<Value> {
    let (names, fields, lock): (Vec<String>, Vec<String>, bool) = args(given)?;
    Ok(rows(&engine.query_items(item, &names, &texts(&fields), lock).await?.made()?))
}

/// Jobs that are not known have no values but their ids (3.0.2, asked).
async fn query_jobs(
    engine: &dyn Engine,
    ids: Option<Vec<JobId>>,
    fields: &[&str],
) -> Result<Value> {
    let found = engine.query_jobs(ids.as_deref(), fields).await?.made()?;
    let asked = ids.unwrap_or_default();
    let row = |(at, row): (usize, Option<Vec<Value>>)| {
        row.unwrap_or_else(|| {
            let id = json!(asked.get(at));
            fields
                .iter()
                .map(|field| if *field == "id" { id.clone() } else { Value::Null })
                .collect()
        })
    };
    Ok(found.into_iter().enumerate().map(row).collect())
}

async fn replace_filter(engine: &dyn Engine, given: &Value) -> Result<Value> {
    type Given = (Option<String>, u64, Vec<Value>, Value, Vec<Value>);
    let (uuid, priority, predicates, action, reason): Given = args(given)?;
    let (predicates, reason) = (Value::from(predicates), Value::from(reason));
    let rule = FilterRule { priority, predicates, action, reason };
    Ok(json!(engine.replace_filter(uuid, rule).await?))
}

/// Ganeti: when nothing changed in time, the values are told all the same (3.0.2, asked).
async fn wait(engine: &dyn Engine, given: &Value) -> Result<Value> {
    let failed = |why: String| unreadable(format!("Parsing WaitForJobChange message: {why}"));
    type Given = (JobId, Vec<String>, Value, Value, i64);
    let is_whole = given.as_array().is_some_and(|values| values.len() == 5);
    if !is_whole {
        return Err(failed("Not enough values".to_owned()));
    }
    let (id, fields, previous, serial, timeout) = Given::read(given).map_err(failed)?;
    let previous = previous.as_array().map(Vec::as_slice);
    let timeout = Duration::from_secs(u64::try_from(timeout).unwrap_or(0)).min(WAIT_MAX);
    let changed =
        engine.wait_for_job_change(id, &fields, previous, serial.as_u64(), timeout).await?;
    let JobChange { job_info, log_entries } = match changed {
        Some(change) => change,
        None => {
            let now = engine.wait_for_job_change(id, &fields, None, Some(u64::MAX), Duration::ZERO);
            let lost = || GanetiError::new(ErrorClass::JobLost, "Can't load job file");
            now.await?.ok_or_else(lost)?
        }
    };
    Ok(json!([job_info, log_entries]))
}
