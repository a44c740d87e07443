//! Waiting for a job to change: each waiter listens to the job's own counter; nothing polls.

use std::time::Duration;

use model::engine::JobChange;
use model::error::{ErrorClass, GanetiError, Result};
use model::job::Job;
use model::name::JobId;
use serde_json::Value;

use super::Queue;

/// The longest that one call waits.
const WAIT_MAX: Duration = Duration::from_secs(89);

impl Queue {
    /// Answers once the job differs from what was seen, is final, or the time is over (`None`).
    pub(crate) async fn wait_for_change(
        &self,
        id: JobId,
        values: impl Fn(&Job) -> Result<Vec<Value>> + Send + Sync,
        previous: Option<&[Value]>,
        serial: Option<u64>,
        timeout: Duration,
    ) -> Result<Option<JobChange>> {
        let seen = |job: &Job| {
            let job_info = values(job)?;
            let log_entries: Vec<Value> = job
                .ops
                .iter()
                .flat_map(|op| &op.log)
                .filter(|entry| serial.is_none_or(|serial| entry.serial > serial))
                .map(model::job::LogEntry::to_value)
                .collect();
            let is_new = previous != Some(job_info.as_slice()) || !log_entries.is_empty();
            let wanted = is_new || job.status().is_final();
            Ok(wanted.then_some(JobChange { job_info, log_entries }))
        };
        let Some(cell) = self.cell(id) else {
            let job = self.store.read(|reader| reader.job(id))?;
            let lost = || GanetiError::new(ErrorClass::JobLost, "Can't load job file");
            return seen(&job.ok_or_else(lost)?);
        };
        let mut changes = cell.subscribe();
        let wait = async {
            loop {
                if let Some(change) = cell.look(seen)? {
                    return Ok(Some(change));
                }
                if changes.changed().await.is_err() {
                    return Ok(None);
                }
            }
        };
        tokio::time::timeout(timeout.min(WAIT_MAX), wait).await.unwrap_or(Ok(None))
    }
}
