//! The server's side: Ganeti's own tools, and its remote API daemon, reach an engine by LUXI.
//!
//! ```text
//!   connection ──> frame ──> request ──> answer (read: the arguments; opcode: those that are opcodes) ──> engine
//! ```
//!
//! A connection carries one request after the other. One that cannot be read is answered, then the connection is closed.

mod answer;
mod opcode;
mod read;
mod request;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::engine::Engine;
use model::error::ErrorClass;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::{frame, message};

/// The longest request. A job with thousands of opcodes is a few MiB.
const REQUEST_BYTES: usize = 64 << 20;

/// Open connections; the others wait for their turn in the kernel.
const CONNECTIONS: usize = 512;

/// The pause after a connection that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests at work may take once the server ends.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The socket's rights: its owner, and the group of Ganeti's daemons.
const MODE: u32 = 0o660;

/// A socket on which LUXI is spoken.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at a path. A socket that nobody listens at any more is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens there"));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until `stop` resolves. Requests that are at work are then finished, but for those that wait for jobs longer
    /// than [`STOP_LIMIT`].
    pub async fn run(self, engine: Arc<dyn Engine>, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let place = places.clone().acquire_owned();
            let accepted = async {
                let place = place.await;
                (self.listener.accept().await, place)
            };
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                (accepted, place) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let (engine, stopped) = (engine.clone(), stopped.clone());
                        connections.spawn(async move {
                            serve(stream, &*engine, stopped).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a LUXI connection could not be taken");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        stopping.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
            tracing::debug!("some LUXI requests were left unanswered");
        }
        // The next daemon makes its own.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the LUXI socket could not be removed");
        }
    }
}

/// Answers one connection until its other side, a request that cannot be read, or the server's end closes it.
async fn serve(stream: UnixStream, engine: &dyn Engine, mut stopped: watch::Receiver<bool>) {
    let (mut input, mut output) = stream.into_split();
    let mut reader = frame::Reader::new();
    loop {
        let next = tokio::select! {
            next = reader.next(&mut input, REQUEST_BYTES) => next,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let request = match next {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a LUXI connection broke");
                return;
            }
        };
        let result = answer::answer(engine, &request).await;
        let close = result.as_ref().is_err_and(|error| error.class == ErrorClass::RequestError);
        if let Err(error) = frame::send(&mut output, message::response(&result)).await {
            tracing::debug!(%error, "a LUXI answer could not be sent");
            return;
        }
        if close {
            return;
        }
    }
}
