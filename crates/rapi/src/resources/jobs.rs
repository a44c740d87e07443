//! Jobs: list, show, cancel, wait.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use model::engine::Engine;
use model::name::JobId;
use model::python;
use model::query::rows::Rows;

use crate::error::HttpError;
use crate::fill;
use crate::input::Input;
use crate::pieces;
use crate::resources::{json, zip};
use crate::route::Answering;

/// The fields of a job in the bulk list.
pub(crate) const BULK_FIELDS: &[&str] =
    &["id", "ops", "status", "summary", "opstatus", "received_ts", "start_ts", "end_ts"];

/// The fields of a single job.
pub(crate) const FIELDS: &[&str] = &[
    "id",
    "ops",
    "status",
    "summary",
    "opstatus",
    "received_ts",
    "start_ts",
    "end_ts",
    "oplog",
    "opresult",
];

/// How long `/wait` waits.
const WAIT: Duration = Duration::from_secs(10);

/// Ganeti: the master daemon reads a job's id into 64 bits, and says so when what is left is below zero (3.0.2).
/// `refused` says it of the call at hand.
fn job_id(input: &Input, refused: impl Fn(&str, &str) -> HttpError) -> Result<JobId, HttpError> {
    let text = input.path_var("job_id").unwrap_or_default();
    let digits = text.bytes().map(|byte| i64::from(byte.saturating_sub(b'0')));
    let id = digits.fold(0i64, |id, digit| id.wrapping_mul(10).wrapping_add(digit));
    match u64::try_from(id) {
        Ok(id) => Ok(JobId(id)),
        Err(_) => Err(refused(text, &format!("Invalid value for job ID ' {id}'"))),
    }
}

fn unreadable(text: &str) -> HttpError {
    HttpError::new(502, format!("Failed to parse request: {text}"))
}

/// GET of all jobs.
pub(crate) fn list<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        if input.flag("bulk")? {
            let whole = |row| zip(BULK_FIELDS, row);
            return match engine.query_jobs(None, BULK_FIELDS).await? {
                Rows::Made(rows) => json(rows.into_iter().flatten().map(whole).collect::<Value>()),
                Rows::Text(rows) => pieces::reply(rows, b"[".to_vec(), b"]\n".to_vec(), whole),
            };
        }
        let rows = engine.query_jobs(None, &["id"]).await?.made()?;
        let mut ids: Vec<u64> =
            rows.iter().flatten().filter_map(|row| row.first()?.as_u64()).collect();
        ids.sort_unstable();
        json(
            ids.iter()
                .map(|id| json!({"id": id, "uri": format!("/2/jobs/{id}")}))
                .collect::<Value>(),
        )
    })
}

/// GET of a job. Ganeti: one that is not known has null everywhere (3.0.2).
pub(crate) fn show<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let id = job_id(input, |id, why| {
            unreadable(&format!("Cannot convert value '[\"{id}\"]', error: {why}"))
        })?;
        let rows = engine.query_jobs(Some(&[id]), FIELDS).await?.made()?;
        json(match rows.into_iter().next().flatten() {
            Some(row) => zip(FIELDS, row),
            None => {
                let mut nothing = vec![Value::Null; FIELDS.len()];
                nothing[0] = json!(id.0);
                zip(FIELDS, nothing)
            }
        })
    })
}

/// DELETE of a job.
pub(crate) fn cancel<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let id = job_id(input, |id, why| {
            let call = format!("Cannot convert value '[{id}, false]', error:");
            unreadable(&format!("{call} {why}; {call} Unable to read 1 tuple"))
        })?;
        let (done, text) = engine.cancel_job(id).await?;
        json(json!([done, text]))
    })
}

/// Waits for a job to change.
pub(crate) fn wait<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let asked = Asked::read(fill::body(input))?;
        let id = job_id(input, |_, why| {
            unreadable(&format!("Parsing WaitForJobChange message: {why}"))
        })?;
        let fields = asked.fields.iter().map(|field| field.as_str().map(str::to_owned));
        let Some(fields) = fields.collect::<Option<Vec<String>>>() else {
            let text = "Parsing WaitForJobChange message: Unable to read String";
            return Err(unreadable(text));
        };
        let previous = asked.previous.map(Vec::as_slice);
        let change = engine.wait_for_job_change(id, &fields, previous, asked.serial, WAIT).await?;
        json(match change {
            Some(change) => {
                json!({"job_info": change.job_info, "log_entries": change.log_entries})
            }
            None => Value::Null,
        })
    })
}

/// What a waiting client saw, and what it wants to see.
struct Asked<'a> {
    fields: &'a Vec<Value>,
    previous: Option<&'a Vec<Value>>,
    serial: Option<u64>,
}

impl<'a> Asked<'a> {
    fn read(body: &'a Value) -> Result<Self, HttpError> {
        let Value::Object(body) = body else { return Err(fill::not_a_dict(body)) };
        let bad = |text: &str| Err(HttpError::bad_request(text));
        let fields = match body.get("fields") {
            None => return bad("Required parameter 'fields' is missing"),
            Some(Value::Array(fields)) => fields,
            Some(_) => return bad("The 'fields' parameter should be a list"),
        };
        let previous = match body.get("previous_job_info") {
            None | Some(Value::Null) => None,
            Some(Value::Array(previous)) => Some(previous),
            Some(_) => return bad("The 'previous_job_info' parameter should be a list"),
        };
        let serial = match body.get("previous_log_serial") {
            None | Some(Value::Null) => None,
            // Python takes a boolean for an integer.
            Some(Value::Bool(flag)) => Some(u64::from(*flag)),
            Some(number @ Value::Number(_)) if python::type_name(number) == "int" => {
                // Entries count from 1, so a negative serial is as good as none.
                number.as_u64()
            }
            Some(_) => return bad("The 'previous_log_serial' parameter should be a number"),
        };
        Ok(Self { fields, previous, serial })
    }
}

/// The body of a wait.
pub(crate) fn wait_schema() -> Value {
    json!({"type": "object", "required": ["fields"], "properties": {
        "fields": {"type": "array", "items": {"type": "string"}, "description": "The job's fields to look at, such as `status`."},
        "previous_job_info": {"type": ["array", "null"], "description": "Their values as the client saw them last."},
        "previous_log_serial": {"type": ["integer", "null"], "description": "The serial of the newest log entry that the client saw."},
    }})
}
