//! Waiting for job changes: all who saw the same of a job and want to see the same of it wait by one call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use model::engine::JobChange;
use model::error::Result;
use model::name::JobId;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::client::pool::Pool;
use crate::message::{read_as, read_result};
use crate::method::Method;

/// What a job that did not change is answered with by Ganeti before 3.0.
const UNCHANGED: &str = "nochange";

/// The longest time that the master daemon waits. Ganeti: `constants.LUXI_WFJC_TIMEOUT` (3.0.2).
const WAIT_MAX: Duration = Duration::from_secs(89);

/// The master daemon waits for whole seconds: so much more or less is as good as the time asked for.
const GRACE: Duration = Duration::from_secs(1);

/// Nothing changed: `None`.
type Seen = Result<Option<Arc<JobChange>>>;
type Call = BoxFuture<'static, Seen>;

/// The waits that are with the master daemon, by what they are for.
#[derive(Default)]
pub(crate) struct Waits {
    calls: Mutex<HashMap<String, WeakShared<Call>>>,
    /// How many waits joined another's call.
    pub(crate) joined: AtomicU64,
}

/// What somebody waits for: the values of `fields`, and log entries, other than those they saw.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) id: JobId,
    pub(crate) fields: Vec<String>,
    pub(crate) previous: Option<Vec<Value>>,
    pub(crate) serial: Option<u64>,
}

impl Wanted {
    fn args(&self, seconds: u64) -> Value {
        json!([self.id.0, self.fields, self.previous, self.serial, seconds])
    }

    fn is_unchanged(&self, change: &JobChange) -> bool {
        self.previous.as_ref() == Some(&change.job_info) && change.log_entries.is_empty()
    }
}

impl Waits {
    /// Waits for a change. When the time is over the answer is how the job is then, as the master daemon gives it.
    pub(crate) async fn wait(
        &self,
        pool: &Arc<Pool>,
        wanted: Wanted,
        time: Duration,
    ) -> Result<Option<JobChange>> {
        let end = Instant::now() + time;
        loop {
            let seen = match timeout_at(end + GRACE, self.join(pool, &wanted, end)).await {
                Ok(seen) => seen?,
                // Who began that call waits for longer than we do.
                Err(_) => look(pool, &wanted).await?,
            };
            let changed = seen.as_deref().is_some_and(|change| !wanted.is_unchanged(change));
            // A call that somebody else began may be over before our time is.
            if changed || Instant::now() + GRACE > end {
                return Ok(seen.map(Arc::unwrap_or_clone));
            }
        }
    }

    /// The call for what is wanted: one that is under way, or a new one that waits until then.
    fn join(&self, pool: &Arc<Pool>, wanted: &Wanted, end: Instant) -> Shared<Call> {
        let key = wanted.args(0).to_string();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let running = calls.get(&key).and_then(WeakShared::upgrade);
        if let Some(running) = running.filter(|call| call.peek().is_none()) {
            self.joined.fetch_add(1, Relaxed);
            return running;
        }
        calls.retain(|_, call| call.upgrade().is_some());
        let call = ask(pool.clone(), wanted.clone(), end).boxed().shared();
        calls.extend(call.downgrade().map(|weak| (key, weak)));
        call
    }
}

async fn ask(pool: Arc<Pool>, wanted: Wanted, end: Instant) -> Seen {
    match pool.place_to_wait(end).await {
        Some(_place) => {
            let left = end.saturating_duration_since(Instant::now()).min(WAIT_MAX);
            let seconds = left.as_millis().div_ceil(1000);
            let args = wanted.args(u64::try_from(seconds).unwrap_or_default());
            read(&pool.call_now(Method::WaitForJobChange, &args).await?)
        }
        // All places were taken until the time was over.
        None => look(&pool, &wanted).await,
    }
}

/// How the job is now.
async fn look(pool: &Pool, wanted: &Wanted) -> Seen {
    read(&pool.call(Method::WaitForJobChange, &wanted.args(0)).await?)
}

fn read(answer: &[u8]) -> Seen {
    let result = read_result(answer)?.get();
    if serde_json::from_str::<&str>(result).is_ok_and(|text| text == UNCHANGED) {
        return Ok(None);
    }
    let (job_info, log_entries) = read_as::<(Vec<Value>, Vec<Value>)>(result)?;
    Ok(Some(Arc::new(JobChange { job_info, log_entries })))
}
