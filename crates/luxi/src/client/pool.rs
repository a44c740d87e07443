//! The connections to the master daemon and the rules by which calls are spread over them.
//!
//! What always holds: a call that may not be repeated goes out on a new connection and is sent at most once; a connection whose
//! call failed or was given up is closed; waits for job changes have a share of their own and never keep other calls waiting.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use model::error::{GanetiError, Result};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::connection::{Broken, Connection};
use crate::client::options::Options;
use crate::message;
use crate::method::Method;

/// The connections.
pub(crate) struct Pool {
    pub(crate) options: Options,
    queries: Semaphore,
    waits: Semaphore,
    /// Those nobody uses, the last used at the end.
    idle: Mutex<Vec<Connection>>,
    pub(crate) counts: Counts,
}

/// What was counted since the start.
#[derive(Default)]
pub(crate) struct Counts {
    /// Calls, by [`Method::ALL`].
    pub(crate) calls: [AtomicU64; Method::ALL.len()],
    pub(crate) connections: AtomicU64,
    pub(crate) broken: AtomicU64,
    pub(crate) repeated: AtomicU64,
}

impl Pool {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            queries: Semaphore::new(options.queries_max),
            waits: Semaphore::new(options.waits_max),
            idle: Mutex::default(),
            counts: Counts::default(),
            options,
        }
    }

    /// Makes a call that is no wait, when it is its turn, and gives the message that answers it.
    pub(crate) async fn call(&self, method: Method, args: &Value) -> Result<Bytes> {
        let turn = timeout(self.options.connect_time, self.queries.acquire()).await;
        let Ok(Ok(_place)) = turn else { return Err(self.give_up(method, &Broken::ConnectTime)) };
        self.call_now(method, args).await
    }

    /// A place to wait for job changes; `None` when there was none until then.
    pub(crate) async fn place_to_wait(&self, end: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(end, self.waits.acquire()).await.ok()?.ok()
    }

    /// Makes a call for which the caller has a place.
    pub(crate) async fn call_now(&self, method: Method, args: &Value) -> Result<Bytes> {
        self.counts.calls[method as usize].fetch_add(1, Relaxed);
        let request = message::framed(method, args);
        let mut tries = 1;
        loop {
            match self.try_call(method, &request).await {
                Ok(answer) => return Ok(answer),
                Err(Broken::Closed) if method.is_repeatable() && tries < self.options.tries_max => {
                    self.counts.repeated.fetch_add(1, Relaxed);
                    sleep(self.options.retry_pause * (tries - 1)).await;
                    tries += 1;
                }
                Err(Broken::Unsent) if tries < self.options.tries_max => tries += 1,
                Err(broken) => return Err(self.give_up(method, &broken)),
            }
        }
    }

    async fn try_call(&self, method: Method, request: &[u8]) -> Result<Bytes, Broken> {
        let kept = if method.is_repeatable() { self.take_idle() } else { None };
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.options).await?;
                self.counts.connections.fetch_add(1, Relaxed);
                connection
            }
        };
        let answer = connection.call(request, &self.options).await?;
        self.keep(connection);
        Ok(answer)
    }

    fn give_up(&self, method: Method, broken: &Broken) -> GanetiError {
        self.counts.broken.fetch_add(1, Relaxed);
        tracing::warn!(%method, error = ?broken, "the master daemon did not answer");
        broken.to_error()
    }

    /// The connection used last that is still good.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(Connection::is_good)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= self.options.queries_max {
            idle.remove(0);
        }
        idle.push(connection);
    }

    /// Closes connections that nobody used for long, or that the daemon has left.
    pub(crate) fn close_idle(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| {
            connection.used.elapsed() < self.options.idle_time && connection.is_good()
        });
    }

    /// How many connections are idle, with calls, and with waits.
    pub(crate) fn connections(&self) -> [usize; 3] {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        [
            idle,
            self.options.queries_max - self.queries.available_permits(),
            self.options.waits_max - self.waits.available_permits(),
        ]
    }
}
