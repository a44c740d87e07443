//! The server and the cluster as a whole: the lists of resources, version, features, information, operating systems.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use model::compat::Compat;
use model::engine::Engine;
use model::error::{ErrorClass, GanetiError};
use model::job::Status;
use model::name::JobId;
use model::opcode::{Op, OsDiagnose};
use model::param::NonEmpty;
use model::python;

use crate::error::HttpError;
use crate::fill::{self, Filling};
use crate::input::Input;
use crate::resources::{json, submit};
use crate::route::{Answering, Reply};
use crate::table::ROUTES;

/// The parameter that the remote API may not set.
const FORBIDDEN: &str = "compression_tools";

/// How long one look at the job of `/2/os` waits.
const OS_WAIT: Duration = Duration::from_secs(60);

/// `/`: lists the resources at the top.
pub(crate) fn root<'a>(_: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async { json(children("/")) })
}

/// `/2`: lists the resources of version 2.
pub(crate) fn root_2<'a>(_: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async { json(children("/2/")) })
}

/// The words that follow a path, each once. Ganeti answered this list until 2.4, and null since.
fn children(above: &str) -> Value {
    let below = ROUTES.iter().filter_map(|route| route.path.strip_prefix(above));
    let words = below.filter_map(|rest| rest.split('/').next());
    let mut words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words.dedup();
    words.iter().map(|word| json!({"name": word, "uri": format!("{above}{word}")})).collect()
}

/// `/version`.
pub(crate) fn version<'a>(_: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async { json(2) })
}

/// `/2/features`.
pub(crate) fn features<'a>(_: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async {
        json(json!([
            "instance-create-reqv1",
            "instance-reinstall-reqv1",
            "node-migrate-reqv1",
            "node-evac-res1",
        ]))
    })
}

/// `/2/info`.
pub(crate) fn info<'a>(engine: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let mut info = engine.query_cluster_info().await?;
        if let Value::Object(info) = &mut info {
            let aliases =
                [("volume_group_name", "vg_name"), ("drbd_usermode_helper", "drbd_helper")];
            for (name, alias) in aliases {
                if let Some(value) = info.get(name).cloned() {
                    info.insert(alias.to_owned(), value);
                }
            }
        }
        json(info)
    })
}

/// `/2/modify`: what is forbidden is looked for in query and body before anything else.
pub(crate) fn modify(input: &Input, _: Compat) -> Result<Filling, HttpError> {
    let body = fill::body(input);
    let mut forbidden = input.query.iter().any(|(name, _)| name == FORBIDDEN);
    match body {
        Value::Object(params) => forbidden |= params.contains_key(FORBIDDEN),
        // Ganeti: the names are looked up before the body is known to be an object (3.0.2, `InspectParams`).
        Value::Array(items) if !forbidden => {
            for item in items {
                if item.is_array() || item.is_object() {
                    let found = python::type_name(item);
                    return Err(HttpError::internal(format!("unhashable type: '{found}'")));
                }
                if item.as_str() == Some(FORBIDDEN) {
                    forbidden = true;
                    break;
                }
            }
        }
        Value::Array(_) | Value::String(_) => {}
        Value::Null | Value::Bool(_) | Value::Number(_) if !forbidden => {
            return Err(fill::not_iterable(body));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    if forbidden {
        let message = format!("The parameter {FORBIDDEN} cannot be set via RAPI");
        return Err(HttpError::new(403, message));
    }
    Ok(Filling { free: body.clone(), fixed: Vec::new() })
}

/// `/2/os`: a job finds them out, and the request waits for it.
pub(crate) fn os<'a>(engine: &'a Arc<dyn Engine>, _: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let output_fields = ["name", "variants"].into_iter().filter_map(NonEmpty::new).collect();
        let op = Op::from(OsDiagnose { output_fields, names: Vec::new() });
        let id = submit(engine, vec![op]).await?;
        let mut asker = Asker { engine, id, waits: true };
        let results = job_results(engine, id).await;
        asker.waits = false;
        let results = results?;
        let Some(Value::Array(rows)) = results.first() else {
            return Err(HttpError::new(502, "Can't get OS list"));
        };
        Ok(Reply::Json(rows.iter().flat_map(os_names).collect()))
    })
}

/// A client that waits for a job.
struct Asker<'a> {
    engine: &'a Arc<dyn Engine>,
    id: JobId,
    waits: bool,
}

/// Ganeti: when the client goes away, nobody wants the job any more (3.0.2, `rapi/rlib2.py`).
impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.waits {
            let (engine, id) = (self.engine.clone(), self.id);
            // Nobody is left to hear whether it worked; the cancellation itself is short.
            runtime.spawn(async move { drop(engine.cancel_job(id).await) });
        }
    }
}

/// The names under which one operating system, `[name, [variant, …]]`, can be installed.
fn os_names(row: &Value) -> Vec<Value> {
    let name = row[0].as_str().unwrap_or_default();
    match row[1].as_array() {
        Some(variants) if !variants.is_empty() => {
            let variants = variants.iter().filter_map(Value::as_str);
            variants.map(|variant| json!(format!("{name}+{variant}"))).collect()
        }
        _ => vec![json!(name)],
    }
}

/// Waits for the end of a job and takes the results of its opcodes, or the first error among them.
async fn job_results(engine: &Arc<dyn Engine>, id: JobId) -> Result<Vec<Value>, GanetiError> {
    let fields = ["status".to_owned(), "opresult".to_owned()];
    let mut seen: Option<Vec<Value>> = None;
    loop {
        let change =
            engine.wait_for_job_change(id, &fields, seen.as_deref(), None, OS_WAIT).await?;
        let Some(change) = change else { continue };
        let status = change.job_info.first().and_then(Value::as_str).and_then(Status::parse);
        let results = change.job_info.get(1).and_then(Value::as_array).cloned().unwrap_or_default();
        match status {
            Some(Status::Success) => return Ok(results),
            Some(Status::Canceled) => {
                return Err(GanetiError::new(ErrorClass::JobCanceled, "Job was canceled"));
            }
            Some(Status::Error) => {
                let error = results.iter().find_map(GanetiError::from_value);
                return Err(error.unwrap_or_else(|| {
                    let text = results.first().map(python::str).unwrap_or_default();
                    GanetiError::new(ErrorClass::OpExecError, text)
                }));
            }
            Some(Status::Queued | Status::Waiting | Status::Canceling | Status::Running) => {
                seen = Some(change.job_info);
            }
            None => {
                return Err(GanetiError::new(
                    ErrorClass::JobLost,
                    format!("Job with id {id} lost"),
                ));
            }
        }
    }
}
