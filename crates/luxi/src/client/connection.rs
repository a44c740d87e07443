//! One connection to the master daemon: made within a time, one call after the other, and never used again once a call on it
//! has failed or was given up.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use model::error::{ErrorClass, GanetiError};
use rustix::net::{RecvFlags, recv};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::client::options::Options;
use crate::frame::Reader;

/// How long a daemon is left alone that has as many connections waiting for it as may: luxid lets five wait (3.0.2).
const BEHIND_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no answer. The texts are those of Ganeti's client (3.0.2, `rpc/transport.py`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{0}")]
    NoMaster(String),
    #[error("{0}")]
    NoPermission(String),
    #[error("{}", model::engine::CONNECT_TIMED_OUT)]
    ConnectTime,
    #[error("Sending timeout: timed out")]
    SendTime,
    #[error("Receive timeout: timed out")]
    ReceiveTime,
    #[error("Extended receive timeout")]
    ExtendedReceiveTime,
    #[error("The answer has more than {0} bytes")]
    TooLong(usize),
    #[error("Connection closed while reading")]
    Closed,
    /// The request did not get through, so nothing was done.
    #[error("Connection closed while sending")]
    Unsent,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Broken {
    /// The exception that a caller sees.
    pub(crate) fn to_error(&self) -> GanetiError {
        let class = match self {
            Self::NoMaster(_) => ErrorClass::NoMasterError,
            Self::NoPermission(_) => ErrorClass::PermissionError,
            Self::ConnectTime | Self::SendTime | Self::ReceiveTime | Self::ExtendedReceiveTime => {
                ErrorClass::TimeoutError
            }
            Self::TooLong(_) | Self::Closed | Self::Unsent | Self::Io(_) => {
                ErrorClass::ProtocolError
            }
        };
        GanetiError::new(class, self.to_string())
    }
}

/// A connection, with what came of the next message.
pub(crate) struct Connection {
    stream: UnixStream,
    reader: Reader,
    pub(crate) used: Instant,
}

impl Connection {
    /// Connects, and tries again until the time is over while this is the master: its daemon may be about to start.
    pub(crate) async fn open(options: &Options) -> Result<Self, Broken> {
        let end = Instant::now() + options.connect_time;
        loop {
            let pause = match timeout_at(end, Self::open_once(options)).await {
                Err(_) => return Err(Broken::ConnectTime),
                Ok(Err(Broken::Io(error))) => match pause(&error, options) {
                    Some(pause) if Instant::now() < end => pause,
                    Some(_) => return Err(Broken::ConnectTime),
                    None => return Err(error.into()),
                },
                Ok(done) => return done,
            };
            sleep_until(end.min(Instant::now() + pause)).await;
        }
    }

    /// Tries once.
    pub(crate) async fn open_once(options: &Options) -> Result<Self, Broken> {
        match UnixStream::connect(&options.socket).await {
            Ok(stream) => Ok(Self { stream, reader: Reader::new(), used: Instant::now() }),
            Err(error) => Err(unconnected(error, options)),
        }
    }

    /// Whether the daemon still holds its end, and said nothing that it was not asked.
    pub(crate) fn is_good(&self) -> bool {
        let looked = recv(&self.stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !self.reader.is_amid() && matches!(looked, Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Resolves when the daemon has closed its end, or speaks unasked.
    pub(crate) async fn gone(&self) {
        while self.stream.readable().await.is_ok() && self.is_good() {
            // The readiness was an old one; reading nothing clears it.
            let _ = self.stream.try_read(&mut [0_u8; 1]);
        }
    }

    /// Sends a request, its end included, and waits for the answer. A failure other than [`Broken::Unsent`] leaves open whether
    /// the daemon did what it was asked.
    pub(crate) async fn call(
        &mut self,
        request: &[u8],
        options: &Options,
    ) -> Result<Bytes, Broken> {
        match timeout(options.io_time, self.stream.write_all(request)).await {
            // Without its last byte the request is none.
            Ok(sent) => sent.map_err(|_| Broken::Unsent)?,
            Err(_) => return Err(Broken::SendTime),
        }
        let end = Instant::now() + options.io_time;
        loop {
            if let Some(message) = self.reader.take() {
                self.used = Instant::now();
                return Ok(message.freeze());
            }
            if self.reader.waiting_bytes() > options.answer_bytes_max {
                return Err(Broken::TooLong(options.answer_bytes_max));
            }
            if Instant::now() > end {
                return Err(Broken::ExtendedReceiveTime);
            }
            match timeout(options.io_time, self.reader.fill(&mut self.stream)).await {
                Err(_) => return Err(Broken::ReceiveTime),
                Ok(Ok(0) | Err(_)) => return Err(Broken::Closed),
                Ok(Ok(_)) => {}
            }
        }
    }
}

/// What a failure to connect means. Whether this machine is the master is only asked where the daemon is not there.
fn unconnected(error: io::Error, options: &Options) -> Broken {
    let socket = || options.socket.display().to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Broken::NoPermission(socket()),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if !(options.is_master)() => {
            Broken::NoMaster(socket())
        }
        _ => Broken::Io(error),
    }
}

/// How soon another try makes sense: the socket is not there yet, or nobody listens yet, or the daemon is behind with accepting,
/// which passes quickly. `None` where it does not.
fn pause(error: &io::Error, options: &Options) -> Option<Duration> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(options.connect_pause),
        io::ErrorKind::WouldBlock => Some(options.connect_pause.min(BEHIND_PAUSE)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_failure_to_connect_means() {
        let check = |kind: io::ErrorKind, master: bool, expected: ErrorClass, passing: bool| {
            let options = Options { is_master: Arc::new(move || master), ..Options::new("/s") };
            let broken = unconnected(kind.into(), &options);
            assert_eq!(broken.to_error().class, expected, "{kind}");
            let again = matches!(&broken, Broken::Io(error) if pause(error, &options).is_some());
            assert_eq!(again, passing, "{kind}");
        };
        for master in [true, false] {
            check(io::ErrorKind::PermissionDenied, master, ErrorClass::PermissionError, false);
            check(io::ErrorKind::WouldBlock, master, ErrorClass::ProtocolError, true);
            check(io::ErrorKind::OutOfMemory, master, ErrorClass::ProtocolError, false);
        }
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            check(kind, true, ErrorClass::ProtocolError, true);
            check(kind, false, ErrorClass::NoMasterError, false);
        }
    }
}
