//! The fields of locks.

use model::query::FieldKind;
use serde_json::{Value, json};

use super::field::{list, normal, subject};

/// A lock that is held or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockRow {
    /// `instance/web1.example.com`, `node/[lockset]`, …
    pub(crate) name: String,
    /// `exclusive` or `shared`; `None` when nobody holds it.
    pub(crate) mode: Option<&'static str>,
    /// Who holds it: numbers of jobs.
    pub(crate) owners: Vec<u64>,
    /// Who waits for it, and in which mode.
    pub(crate) pending: Vec<(&'static str, u64)>,
}

subject!(
    /// Locks.
    Locks, &'a LockRow, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    use FieldKind::Other;
    vec![
        row("name", "Name", Other, "Lock name", |lock| normal(lock.name.as_str())),
        row("mode", "Mode", Other, "Mode in which the lock is currently acquired (exclusive or shared)",
            |lock| normal(lock.mode.map_or(Value::Null, Value::from))),
        // Ganeti: owners are JSON in a text (3.0, Query/Locks.hs).
        row("owner", "Owner", Other, "Current lock owner(s)", |lock| list(&lock.owners, u64::to_string)),
        row("pending", "Pending", Other, "Jobs waiting for the lock",
            |lock| list(&lock.pending, |(mode, job)| json!([mode, [job.to_string()]]))),
    ]
}
