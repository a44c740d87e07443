//! The fields of jobs.

use model::compat::Compat;
use model::error::{ErrorClass, GanetiError, Result};
use model::job::{Job, JobOp};
use model::name::JobId;
use model::opcode::Audience;
use model::query::filter::{FilterValue, Mode};
use model::query::{Cell, FieldKind};
use model::units::Timestamp;
use serde_json::Value;

use super::Request;
use super::field::{normal, subject};

/// A job; `None` when there is none of that id.
pub(super) struct Cx<'a> {
    id: JobId,
    job: Option<&'a Job>,
    compat: Compat,
}

impl<'a> Cx<'a> {
    pub(super) fn new(id: JobId, job: Option<&'a Job>, compat: Compat) -> Self {
        Self { id, job, compat }
    }

    fn value(&self, value: impl Fn(&Job) -> Value) -> Cell {
        self.job.map_or(Cell::Unavailable, |job| Cell::Normal(value(job)))
    }

    fn time(&self, time: impl Fn(&Job) -> Option<Timestamp>) -> Cell {
        self.job.and_then(time).map_or(Cell::Unavailable, |time| Cell::Normal(time.to_value()))
    }

    fn ops(&self, value: impl Fn(&JobOp) -> Value) -> Cell {
        self.value(|job| job.ops.iter().map(&value).collect())
    }

    fn op_times(&self, time: impl Fn(&JobOp) -> Option<Timestamp>) -> Cell {
        self.ops(|op| time(op).map_or(Value::Null, Timestamp::to_value))
    }
}

/// Which jobs a query needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobsWanted {
    /// Those with these ids, archived or not, known or not.
    Ids(Vec<JobId>),
    /// All that are not archived, by id.
    Open,
    /// All, by id.
    All,
}

impl JobsWanted {
    /// Reads it off the query: a filter of nothing but ids, else all; archived ones when the field of that name is asked for.
    pub(crate) fn of(request: &Request) -> Result<Self> {
        let named = request.filter.names("id").unwrap_or_default();
        let mut ids: Vec<JobId> = Vec::new();
        for value in named {
            let id = job_id(value)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(match ids.is_empty() {
            false => Self::Ids(ids),
            true if request.fields.iter().any(|name| name == "archived") => Self::All,
            true => Self::Open,
        })
    }
}

fn job_id(value: &FilterValue) -> Result<JobId> {
    let refuse = |text: String| Err(GanetiError::new(ErrorClass::GenericError, text));
    match value {
        FilterValue::Text(text) => match text.parse() {
            Ok(id) => Ok(JobId(id)),
            Err(_) => refuse(format!("parsing job id: cannot parse string '{text}'")),
        },
        FilterValue::Number(number) => match u64::try_from(*number) {
            Ok(id) => Ok(JobId(id)),
            // Ganeti: the blank is its own (3.0.2, asked).
            Err(_) => refuse(format!("Invalid value for job ID ' {number}'")),
        },
    }
}

subject!(
    /// Jobs.
    Jobs, Cx<'a>, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::{Bool, Number, Other, Text};
    vec![
        row("id", "ID", Number, "Job ID", |cx| normal(cx.id.0)),
        row("status", "Status", Text, "Job status", |cx| cx.value(|job| job.status().as_str().into())),
        row("priority", "Priority", Number, "Current job priority (19 to -20)",
            |cx| cx.value(|job| job.priority().into())),
        row("archived", "Archived", Bool, "Whether job is archived", |cx| cx.value(|job| job.archived.into())),
        row("ops", "OpCodes", Other, "List of all opcodes",
            |cx| cx.ops(|op| op.input.to_wire(Audience::Client, cx.compat).into())),
        row("opresult", "OpCode_result", Other, "List of opcodes results", |cx| cx.ops(|op| op.result.clone())),
        row("opstatus", "OpCode_status", Other, "List of opcodes status", |cx| cx.ops(|op| op.status.as_str().into())),
        row("oplog", "OpCode_log", Other, "List of opcode output logs",
            |cx| cx.ops(|op| op.log.iter().map(model::job::LogEntry::to_value).collect())),
        row("opstart", "OpCode_start", Other, "List of opcode start timestamps (before acquiring locks)",
            |cx| cx.op_times(|op| op.start)),
        row("opexec", "OpCode_exec", Other, "List of opcode execution start timestamps (after acquiring locks)",
            |cx| cx.op_times(|op| op.exec)),
        row("opend", "OpCode_end", Other, "List of opcode execution end timestamps", |cx| cx.op_times(|op| op.end)),
        row("oppriority", "OpCode_prio", Other, "List of opcode priorities", |cx| cx.ops(|op| op.priority.into())),
        row("summary", "Summary", Other, "List of per-opcode summaries", |cx| cx.ops(|op| op.input.summary(cx.compat).into())),
        row("received_ts", "Received", Other,
            "Timestamp of when job was received (tuple containing seconds and microseconds)",
            |cx| cx.time(|job| Some(job.received))).mode(Mode::Timestamp),
        row("start_ts", "Start", Other, "Timestamp of job start (tuple containing seconds and microseconds)",
            |cx| cx.time(|job| job.start)).mode(Mode::Timestamp),
        row("end_ts", "End", Other, "Timestamp of job end (tuple containing seconds and microseconds)",
            |cx| cx.time(|job| job.end)).mode(Mode::Timestamp),
    ]
}
