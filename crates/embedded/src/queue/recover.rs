//! What a restart does to each job that was not final: one that was only queued is queued again; one that was waiting or
//! running ends in error, with Ganeti's words. Nothing is resumed in the middle, and nothing is run without the secrets that
//! it had: they are not stored.

use model::job::{Job, Status};
use serde_json::Value;

use super::Queue;
use super::cell::{end_dead, end_unfinished};
use crate::store::row::StateRow;
use crate::store::{StoreError, Write};

/// Whether anything happened to a job yet.
fn is_untouched(job: &Job) -> bool {
    job.start.is_none() && job.ops.iter().all(|op| op.status == Status::Queued)
}

impl Queue {
    /// Puts the store's jobs in order; durable when it returns. Jobs start with [`Queue::pump`].
    pub(crate) async fn recover(&self) -> Result<Recovered, StoreError> {
        let unfinished = self.store.read(|reader| reader.unfinished())?;
        let now = self.shared.env.now();
        let mut dead = Vec::new();
        let mut queued = Vec::new();
        for mut job in unfinished {
            let lost = job.ops.iter().any(|op| op.input.has_lost_secrets());
            if is_untouched(&job) && lost {
                tracing::warn!(job.id = job.id.0, "the secrets of job {} are lost", job.id);
                let text = format!("the secret parameters of job {} were not kept", job.id);
                end_unfinished(&mut job, Status::Error, &Value::from(text), now);
                dead.push(Write::State(StateRow::of(&job)));
            } else if is_untouched(&job) {
                queued.push(job);
            } else {
                tracing::warn!(job.id = job.id.0, "detected death of job {}", job.id);
                end_dead(&mut job, now);
                dead.push(Write::State(StateRow::of(&job)));
            }
        }
        let recovered = Recovered { queued: queued.len(), dead: dead.len() };
        self.store.offer_and_wait(dead).await?;
        queued.into_iter().for_each(|job| self.admit(job));
        Ok(recovered)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) queued: usize,
    pub(crate) dead: usize,
}
