//! The daemon's log: lines as Ganeti's daemons write them, in a file that can be moved away while it is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Zoned;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{self, FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use super::NAME;
use crate::args::Syslog;
use crate::logging::SystemLog;

/// A file that is appended to, line by line.
pub(super) struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = Mutex::new(append(&path)?);
        Ok(Self { path, file })
    }

    /// Goes on in a new file where the old one was moved away.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    /// The file as it is now.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).try_clone()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for &LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging. Ganeti: standard error gets lines in the foreground with `-d` only, and the system log never those for
/// debugging (3.0.2, `utils/log.py`).
pub(super) fn start(file: Option<Arc<LogFile>>, foreground: bool, debug: bool, syslog: Syslog) {
    let level = if debug { "debug,hyper=info,h2=info,rustls=info" } else { "info" };
    let filter = EnvFilter::try_from_env("RAPID_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    let here = Line { place: debug, to: To::File };
    if let Some(file) = file.filter(|_| syslog != Syslog::Only) {
        layers.push(fmt::layer().with_ansi(false).event_format(here).with_writer(file).boxed());
    }
    if foreground && debug {
        let layer = fmt::layer().with_ansi(false).event_format(here);
        layers.push(layer.with_writer(io::stderr).boxed());
    }
    if syslog != Syslog::No {
        let layer = fmt::layer().with_ansi(false);
        let layer = layer.event_format(Line { place: false, to: To::System });
        let layer = layer.with_writer(SystemLog { program: NAME });
        layers.push(layer.with_filter(LevelFilter::INFO).boxed());
    }
    // A second start in one process (a test) keeps the first.
    let _ = tracing_subscriber::registry().with(layers).with(filter).try_init();
}

/// How a line is written.
#[derive(Clone, Copy)]
struct Line {
    /// Whether it says where in the program it is from.
    place: bool,
    to: To,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    File,
    /// Which puts time, name and process before it.
    System,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        if self.to == To::File {
            let now = Zoned::now();
            let (time, pid) = (now.strftime("%Y-%m-%d %H:%M:%S,%3f"), std::process::id());
            write!(writer, "{time}: {NAME} pid={pid}")?;
            if self.place {
                let from = event.metadata();
                let module = from.module_path().and_then(|path| path.rsplit("::").next());
                write!(writer, " {}:{}", module.unwrap_or_default(), from.line().unwrap_or(0))?;
            }
            writer.write_char(' ')?;
        }
        write!(writer, "{} ", word(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Python's words for levels.
fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written to the file when something is logged.
    fn lines(place: bool, log: impl FnOnce()) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = Arc::new(LogFile::open(path.clone()).unwrap());
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(Line { place, to: To::File })
            .with_writer(file);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_as_ganetis_daemons_write_them() {
        let text = lines(false, || tracing::warn!("no users file at {}", "/x"));
        let (time, rest) = text.split_once(": ").unwrap();
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00 00:00:00,000");
        let pid = std::process::id();
        assert_eq!(rest, format!("ganeti-rapi pid={pid} WARNING no users file at /x\n"));
        let text = lines(true, || tracing::debug!("looked"));
        let (_, rest) = text.split_once(&format!("pid={pid} ")).unwrap();
        let (place, rest) = rest.split_once(' ').unwrap();
        let (module, line) = place.split_once(':').unwrap();
        assert_eq!((module, rest), ("tests", "DEBUG looked\n"));
        assert!(line.parse::<u32>().unwrap() > 0);
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let log = LogFile::open(path.clone()).unwrap();
        (&log).write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        (&log).write_all(b"two\n").unwrap();
        log.reopen().unwrap();
        (&log).write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }
}
