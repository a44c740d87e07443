//! What answers a request: the rows that submit and list, and by noun what is not a plain row.

pub mod cluster;
pub mod filters;
pub mod instances;
pub mod jobs;
pub mod lists;
pub mod nodes;
pub mod query;
pub mod tags;

use std::sync::Arc;

use serde_json::Value;

use model::engine::{CONNECT_TIMED_OUT, Engine};
use model::error::ErrorClass;
use model::name::JobId;
use model::opcode::Op;

use crate::error::HttpError;
use crate::fill;
use crate::input::Input;
use crate::route::{Action, Reply, Route};

/// Answers a request that the door has let in.
pub async fn answer(
    engine: &Arc<dyn Engine>,
    route: &'static Route,
    input: Input,
) -> Result<Reply, HttpError> {
    match route.action {
        Action::Submit(op) | Action::Build(op, _) => {
            let op = fill::fill(route, op, &input, engine.compat())?;
            let id = submit(engine, vec![op]).await?;
            Ok(Reply::Json(Value::from(id.0)))
        }
        Action::List(item) => lists::list(engine, item, &input).await,
        Action::Show(item) => lists::show(engine, item, &input).await,
        Action::Call(call) => call(engine, &input).await,
    }
}

/// Submits a job. Ganeti: some failures have words of their own here (3.0.2, `rapi/baserlib.py`).
pub(crate) async fn submit(engine: &Arc<dyn Engine>, ops: Vec<Op>) -> Result<JobId, HttpError> {
    engine.submit_job(ops).await.map_err(|error| {
        let message = match error.class {
            ErrorClass::JobQueueFull => "Job queue is full, needs archiving".to_owned(),
            ErrorClass::JobQueueDrainError => "Job queue is drained, cannot submit".to_owned(),
            // Connecting comes before submitting: its time-out has no words.
            ErrorClass::TimeoutError if error.to_string() != CONNECT_TIMED_OUT => {
                format!("Timeout while talking to the master daemon: {error}")
            }
            _ => return HttpError::from(error),
        };
        HttpError { message: Some(message), ..HttpError::from(error) }
    })
}

/// A reply of JSON.
pub(crate) fn json(value: impl Into<Value>) -> Result<Reply, HttpError> {
    Ok(Reply::Json(value.into()))
}

/// An object from names and values.
pub(crate) fn zip(fields: &[&str], values: Vec<Value>) -> Value {
    let pairs = fields.iter().zip(values);
    Value::Object(pairs.map(|(field, value)| ((*field).to_owned(), value)).collect())
}
