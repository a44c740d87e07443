//! Jobs as the store keeps them: what was submitted is written once, what changes is written beside it.

use model::compat::Compat;
use model::job::{Job, JobOp, LogEntry, Status};
use model::name::JobId;
use model::opcode::{Audience, Op, OpId};
use model::param::Dict;
use model::units::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoreError;

/// A new job.
#[derive(Clone, Debug)]
pub(crate) struct JobRow {
    pub(crate) state: StateRow,
    pub(crate) received: Timestamp,
    /// Its opcodes in their wire form, a JSON list.
    pub(crate) ops: String,
}

/// How far a job is.
#[derive(Clone, Debug)]
pub(crate) struct StateRow {
    pub(crate) id: JobId,
    pub(crate) status: Status,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
    /// What became of each opcode, a JSON list; empty for a job that nothing happened to.
    pub(crate) ops: String,
}

#[derive(Serialize, Deserialize)]
struct OpState<'a>(
    Status,
    std::borrow::Cow<'a, Value>,
    Option<Timestamp>,
    Option<Timestamp>,
    Option<Timestamp>,
    i64,
);

impl JobRow {
    pub(crate) fn of(job: &Job, compat: Compat) -> Self {
        let ops: Vec<Dict> =
            job.ops.iter().map(|op| op.input.to_wire(Audience::Store, compat)).collect();
        let ops = serde_json::to_string(&ops).expect("JSON values can be written");
        let state = StateRow {
            id: job.id,
            status: job.status(),
            start: None,
            end: None,
            ops: String::new(),
        };
        Self { state, received: job.received, ops }
    }
}

impl StateRow {
    pub(crate) fn of(job: &Job) -> Self {
        let ops: Vec<OpState<'_>> = job
            .ops
            .iter()
            .map(|op| {
                let result = std::borrow::Cow::Borrowed(&op.result);
                OpState(op.status, result, op.start, op.exec, op.end, op.priority)
            })
            .collect();
        Self {
            id: job.id,
            status: job.status(),
            start: job.start,
            end: job.end,
            ops: serde_json::to_string(&ops).expect("JSON values can be written"),
        }
    }
}

/// What is read of a job.
pub(crate) struct Stored {
    pub(crate) id: JobId,
    pub(crate) archived: bool,
    pub(crate) received: Timestamp,
    pub(crate) start: Option<Timestamp>,
    pub(crate) end: Option<Timestamp>,
    pub(crate) ops: String,
    pub(crate) states: String,
    /// By opcode.
    pub(crate) log: Vec<(usize, LogEntry)>,
}

/// Reads an opcode that was accepted before. It is not judged again; the older release has every parameter.
fn read_op(mut params: Dict) -> Result<Op, StoreError> {
    let id = params.remove("OP_ID").unwrap_or_default();
    let id = id
        .as_str()
        .and_then(OpId::parse)
        .ok_or_else(|| StoreError::Failed(format!("unknown opcode {id}")))?;
    id.read(&params, Compat::V30).map_err(|error| StoreError::Failed(error.python_text()))
}

impl Stored {
    pub(crate) fn into_job(self) -> Result<Job, StoreError> {
        let ops: Vec<Dict> = serde_json::from_str(&self.ops).map_err(StoreError::failed)?;
        let states: Vec<OpState<'_>> = if self.states.is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&self.states).map_err(StoreError::failed)?
        };
        let mut states = states.into_iter();
        let mut ops: Vec<JobOp> = ops
            .into_iter()
            .map(|params| {
                let mut op = JobOp::queued(read_op(params)?);
                if let Some(OpState(status, result, start, exec, end, priority)) = states.next() {
                    op.status = status;
                    op.result = result.into_owned();
                    (op.start, op.exec, op.end) = (start, exec, end);
                    op.priority = priority;
                }
                Ok(op)
            })
            .collect::<Result<_, StoreError>>()?;
        for (at, entry) in self.log {
            if let Some(op) = ops.get_mut(at) {
                op.log.push(entry);
            }
        }
        Ok(Job {
            id: self.id,
            ops,
            received: self.received,
            start: self.start,
            end: self.end,
            archived: self.archived,
        })
    }
}
