//! Log lines: for people or as JSON, to standard error, to the system log, or both.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use rapi::serve::ACCESS_LOG;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{LogFormat, Syslog};

/// The system log's socket.
const SYSLOG: &str = "/dev/log";
/// Facility daemon (3), severity info (6).
const PRIORITY: u8 = 3 * 8 + 6;

/// Starts logging. What is logged is set by `RAPID_LOG`, else by `debug`.
pub(crate) fn start(format: LogFormat, syslog: Syslog, debug: bool) {
    // Each request leaves a line with --debug only.
    let default = if debug {
        "debug,hyper=info,h2=info,rustls=info".to_owned()
    } else {
        format!("info,{ACCESS_LOG}=warn")
    };
    let filter = EnvFilter::try_from_env("RAPID_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let to_terminal = syslog != Syslog::Only;
    let text = (to_terminal && format == LogFormat::Text).then(|| {
        let colour = rustix::termios::isatty(io::stderr());
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(colour)
            .with_target(false)
    });
    let json = (to_terminal && format == LogFormat::Json).then(|| {
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr)
    });
    let system = (syslog != Syslog::No).then(|| {
        let layer =
            tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_target(false);
        layer.with_writer(SystemLog)
    });
    // A second start in one process (a test) keeps the first.
    let _ =
        tracing_subscriber::registry().with(filter).with(text).with(json).with(system).try_init();
}

/// Writes each line as a datagram to the system log.
struct SystemLog;

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = SystemLine;

    fn make_writer(&'a self) -> SystemLine {
        SystemLine(Vec::new())
    }
}

/// A line that is sent when it is complete.
struct SystemLine(Vec<u8>);

impl Write for SystemLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SystemLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        let message =
            format!("<{PRIORITY}>ganeti-rapi[{}]: {}", std::process::id(), text.trim_end());
        // Without a system log there is nobody to tell that there is none.
        let _ =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(message.as_bytes(), SYSLOG));
    }
}
