//! Jobs: what was submitted, how far it is, what it said. The status of a job is computed from its opcodes', never stored.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::name::JobId;
use crate::opcode::Op;
use crate::param::Param;
use crate::units::Timestamp;

/// How far an opcode, and so a job, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not looked at yet.
    Queued,
    /// For locks, or for the jobs it depends on.
    Waiting,
    /// A cancellation was asked for and is not carried out yet.
    Canceling,
    Running,
    Canceled,
    Success,
    Error,
}

impl Status {
    pub const ALL: &'static [Self] = &[
        Self::Queued,
        Self::Waiting,
        Self::Canceling,
        Self::Running,
        Self::Canceled,
        Self::Success,
        Self::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Canceling => "canceling",
            Self::Running => "running",
            Self::Canceled => "canceled",
            Self::Success => "success",
            Self::Error => "error",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.as_str() == text)
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::Success | Self::Error)
    }
}

/// The status of a job from those of its opcodes, in order: the first that failed, was or is being cancelled
/// decides; else the last that waits or runs; all successful is success; anything else is queued.
pub fn job_status(opcodes: impl IntoIterator<Item = Status>) -> Status {
    let mut status = Status::Queued;
    let mut all_success = true;
    for op in opcodes {
        match op {
            Status::Success => continue,
            Status::Queued => {}
            Status::Waiting | Status::Running => status = op,
            Status::Canceling | Status::Error | Status::Canceled => return op,
        }
        all_success = false;
    }
    if all_success { Status::Success } else { status }
}

/// A job that must have ended before another may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depend {
    /// The other job's id; a negative number counts back from the dependent job's own.
    pub job: i64,
    /// The final statuses that are fine; none means any.
    pub statuses: Vec<Status>,
}

impl Param for Depend {
    fn read(value: &Value) -> Option<Self> {
        let [job, statuses] = value.as_array()?.as_slice() else { return None };
        let job = match job {
            Value::String(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok()?
            }
            other => other.as_i64()?,
        };
        let status =
            |value: &Value| Status::parse(value.as_str()?).filter(|status| status.is_final());
        let statuses = statuses.as_array()?.iter().map(status).collect::<Option<_>>()?;
        Some(Self { job, statuses })
    }
    fn write(&self) -> Value {
        let statuses: Vec<&str> = self.statuses.iter().map(|status| status.as_str()).collect();
        json!([self.job, statuses])
    }
    fn schema() -> Value {
        json!({"type": "array", "minItems": 2, "maxItems": 2})
    }
}

/// One entry of a reason trail: who, why, and when in nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonEntry(pub String, pub String, pub i64);

impl Param for ReasonEntry {
    fn read(value: &Value) -> Option<Self> {
        match value.as_array()?.as_slice() {
            [source, text, time] => {
                Some(Self(source.as_str()?.to_owned(), text.as_str()?.to_owned(), time.as_i64()?))
            }
            _ => None,
        }
    }
    fn write(&self) -> Value {
        json!([self.0, self.1, self.2])
    }
    fn schema() -> Value {
        json!({"type": "array", "minItems": 3, "maxItems": 3})
    }
}

/// What kind of thing a log entry carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKind {
    /// A text.
    Message,
    /// The receiving ends of a remote import.
    RemoteImport,
    JqueueTest,
    DelayTest,
}

impl LogKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::RemoteImport => "remote-import",
            Self::JqueueTest => "jqueue-test",
            Self::DelayTest => "delay-test",
        }
    }
}

/// An entry of a job's log; serials count through the whole job, from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    pub serial: u64,
    pub time: Timestamp,
    pub kind: LogKind,
    pub payload: Value,
}

impl LogEntry {
    /// `[serial, [s, us], kind, payload]`.
    pub fn to_value(&self) -> Value {
        json!([self.serial, self.time.to_value(), self.kind.as_str(), self.payload])
    }
}

/// One opcode of a job and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOp {
    pub input: Op,
    pub status: Status,
    /// The result, or the error as `[class, args]`; null until there is one.
    pub result: Value,
    pub log: Vec<LogEntry>,
    /// Before its locks were asked for.
    pub start: Option<Timestamp>,
    /// Once they were granted.
    pub exec: Option<Timestamp>,
    pub end: Option<Timestamp>,
    /// -20 (first) to 19.
    pub priority: i64,
}

impl JobOp {
    /// An opcode that waits to be run.
    pub fn queued(input: Op) -> Self {
        let priority = input.common.priority;
        Self {
            input,
            status: Status::Queued,
            result: Value::Null,
            log: Vec::new(),
            start: None,
            exec: None,
            end: None,
            priority,
        }
    }
}

/// A job: opcodes that run one after the other; the first failure ends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub ops: Vec<JobOp>,
    pub received: Timestamp,
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub archived: bool,
}

impl Job {
    /// A job as it is when it was just accepted.
    pub fn new(id: JobId, ops: Vec<Op>, received: Timestamp) -> Self {
        let ops = ops.into_iter().map(JobOp::queued).collect();
        Self { id, ops, received, start: None, end: None, archived: false }
    }

    pub fn status(&self) -> Status {
        job_status(self.ops.iter().map(|op| op.status))
    }

    /// The most urgent priority among opcodes that are not done; 0 when all are.
    pub fn priority(&self) -> i64 {
        let open = self.ops.iter().filter(|op| !op.status.is_final());
        open.map(|op| op.priority).min().unwrap_or(0)
    }

    /// The serial that the next log entry gets.
    pub fn next_serial(&self) -> u64 {
        self.ops.iter().flat_map(|op| &op.log).map(|entry| entry.serial).max().unwrap_or(0) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_status_follows_from_its_opcodes() {
        use Status::{Canceled, Canceling, Error, Queued, Running, Success, Waiting};
        let check = |ops: &[Status], expected| {
            assert_eq!(job_status(ops.iter().copied()), expected, "{ops:?}")
        };
        check(&[], Success);
        check(&[Queued, Queued], Queued);
        check(&[Success, Queued], Queued);
        check(&[Success, Running, Queued], Running);
        check(&[Success, Waiting], Waiting);
        check(&[Success, Error, Error], Error);
        check(&[Canceling, Error], Canceling);
        check(&[Success, Canceled], Canceled);
        check(&[Success, Success], Success);
    }
}
