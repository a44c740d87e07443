//! How a client behaves: where the master daemon is, how long it is waited for, how many connections there may be. The
//! times are Ganeti's (3.0.2, `luxi.py`, `rpc/transport.py`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::compat::Compat;

/// How many requests are with the master daemon at the same time.
const QUERIES: usize = 20;
/// How many waits for job changes are; they last, and so have a share of their own.
const WAITS: usize = 64;
/// How long an answer may be.
const ANSWER_BYTES: usize = 1 << 30;

/// Says whether this machine is the cluster's master, so that waiting for the master daemon makes sense.
pub type IsMaster = Arc<dyn Fn() -> bool + Send + Sync>;

/// How a client behaves.
#[derive(Clone)]
pub struct Options {
    /// The master daemon's socket.
    pub socket: PathBuf,
    pub is_master: IsMaster,
    /// The release to speak until the cluster has said which one it is.
    pub compat: Compat,
    /// How many connections there may be for all but waiting.
    pub queries_max: usize,
    /// How many connections may wait for job changes.
    pub waits_max: usize,
    /// How long a connection is tried for.
    pub connect_time: Duration,
    /// How long after one try the next comes.
    pub connect_pause: Duration,
    /// How long sending a request, or waiting for more of an answer, may take.
    pub io_time: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle_time: Duration,
    /// How often a call is sent in all when its connection breaks, if it may be repeated. Ganeti: 15, which is ten minutes.
    pub tries_max: u32,
    /// The pause before the second repetition; each one after it is longer by as much.
    pub retry_pause: Duration,
    pub answer_bytes_max: usize,
}

impl Options {
    /// Ganeti's times; this machine counts as the master.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            is_master: Arc::new(|| true),
            compat: Compat::default(),
            queries_max: QUERIES,
            waits_max: WAITS,
            connect_time: Duration::from_secs(30),
            connect_pause: Duration::from_secs(1),
            io_time: Duration::from_secs(180),
            idle_time: Duration::from_secs(60),
            tries_max: 4,
            retry_pause: Duration::from_secs(5),
            answer_bytes_max: ANSWER_BYTES,
        }
    }
}
