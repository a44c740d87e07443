//! Log lines: for people or as JSON, to standard error, to the system log, or both.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use rapi::serve::ACCESS_LOG;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{LogFormat, Syslog};

/// The system log's socket.
const SYSLOG: &str = "/dev/log";
/// The facility `daemon`; the severity is added.
const FACILITY: u8 = 3 << 3;

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
        layer.with_writer(SystemLog { program: "rapid" })
    });
    // A second start in one process (a test) keeps the first.
    let _ =
        tracing_subscriber::registry().with(filter).with(text).with(json).with(system).try_init();
}

/// Writes each line as a datagram to the system log, under a program's name.
pub(crate) struct SystemLog {
    pub(crate) program: &'static str,
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = SystemLine;

    fn make_writer(&'a self) -> SystemLine {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, from: &Metadata<'_>) -> SystemLine {
        self.line(*from.level())
    }
}

impl SystemLog {
    fn line(&self, level: Level) -> SystemLine {
        let priority = FACILITY + severity(level);
        let text = format!("<{priority}>{}[{}]: ", self.program, std::process::id());
        SystemLine(text.into_bytes())
    }
}

/// As syslog counts it.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A line that is sent when it is complete.
pub(crate) struct SystemLine(Vec<u8>);

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
        // Without a system log there is nobody to tell that there is none.
        let _ = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(self.0.trim_ascii_end(), SYSLOG));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_the_system_log_has_its_priority_and_its_program() {
        let log = SystemLog { program: "ganeti-rapi" };
        let pid = std::process::id();
        for (level, priority) in
            [(Level::ERROR, 27), (Level::WARN, 28), (Level::INFO, 30), (Level::DEBUG, 31)]
        {
            let line = String::from_utf8(log.line(level).0.clone()).unwrap();
            assert_eq!(line, format!("<{priority}>ganeti-rapi[{pid}]: "));
        }
    }
}
