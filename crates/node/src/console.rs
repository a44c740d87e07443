//! The serial console of an instance, shared. QEMU serves one client and forgets what is printed while there is none, so
//! one task owns its socket, keeps the last output, and serves any number of viewers on a socket of its own.
//!
//! A viewer speaks plain bytes both ways: it is sent what was kept, then what comes; what it sends is typed. QEMU itself
//! writes the log file, so that nothing is lost while nobody is connected; the task keeps that file within its limit.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::fd::watchable;

/// What a new viewer is shown of the past.
const KEPT_BYTES: usize = 64 << 10;
/// When the log file is longer, its older part moves to a second file, which replaces the one before.
const LOG_MAX_BYTES: u64 = 1 << 20;
/// How often, in printed bytes, the log file's length is looked at.
const LOG_CHECK_BYTES: usize = 64 << 10;
/// What viewers typed and the guest did not take yet; more is dropped, as by a real line.
const TYPED_MAX_BYTES: usize = 16 << 10;
/// Chunks that a slow viewer may lag behind.
const LAG_MAX: usize = 1024;
/// Viewers at once.
const VIEWERS_MAX: usize = 32;
/// Ctrl-] leaves the console.
const LEAVE: u8 = 0x1d;

/// What the owner of a console is told.
enum Command {
    /// A QEMU to listen to, instead of the one before.
    Attach(UnixStream),
    /// The end.
    Close,
}

/// The owner of a console.
pub(crate) struct Hub {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hub {
    /// Serves viewers at `socket`. Output that was logged before is kept when `resume` is set.
    pub(crate) fn open(socket: &Path, log: &Path, resume: bool) -> io::Result<Self> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let kept =
            if resume { tail(log, KEPT_BYTES).unwrap_or_default().into() } else { VecDeque::new() };
        // Attach and Close only.
        let (commands, inbox) = mpsc::channel(4);
        let log = log.to_owned();
        let task = tokio::spawn(Owner::new(kept, log).run(listener, inbox));
        Ok(Self { commands, task })
    }

    pub(crate) async fn attach(&self, serial: UnixStream) {
        // It ends only when it is told to, and then nobody attaches.
        let _ = self.commands.send(Command::Attach(serial)).await;
    }

    pub(crate) async fn close(&self) {
        let _ = self.commands.send(Command::Close).await;
    }
}

struct Owner {
    kept: VecDeque<u8>,
    log: PathBuf,
    unchecked: usize,
    output: broadcast::Sender<Arc<[u8]>>,
    typed: VecDeque<u8>,
}

impl Owner {
    fn new(kept: VecDeque<u8>, log: PathBuf) -> Self {
        Self {
            kept,
            log,
            unchecked: 0,
            output: broadcast::channel(LAG_MAX).0,
            typed: VecDeque::new(),
        }
    }

    async fn run(mut self, listener: UnixListener, mut inbox: mpsc::Receiver<Command>) {
        // Small: what viewers type comes in chunks of a few bytes.
        let (typed_tx, mut typed_rx) = mpsc::channel::<Vec<u8>>(64);
        let mut viewers = JoinSet::new();
        let mut serial: Option<UnixStream> = None;
        let mut chunk = vec![0; 16 << 10];
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Attach(stream)) => serial = Some(stream),
                    Some(Command::Close) | None => return,
                },
                accepted = listener.accept(), if viewers.len() < VIEWERS_MAX => {
                    if let Ok((stream, _)) = accepted {
                        let kept: Vec<u8> = self.kept.iter().copied().collect();
                        let output = self.output.subscribe();
                        viewers.spawn(serve_viewer(stream, kept, output, typed_tx.clone()));
                    }
                }
                _ = viewers.join_next(), if !viewers.is_empty() => {}
                Some(bytes) = typed_rx.recv() => {
                    let room = TYPED_MAX_BYTES.saturating_sub(self.typed.len());
                    self.typed.extend(bytes.into_iter().take(room));
                }
                ready = ready(serial.as_ref(), !self.typed.is_empty()) => {
                    if !self.exchange(serial.as_ref(), &mut chunk, ready) {
                        serial = None;
                    }
                }
            }
        }
    }

    /// Reads and writes what goes; answers whether the line is still there.
    fn exchange(&mut self, serial: Option<&UnixStream>, chunk: &mut [u8], ready: Ready) -> bool {
        let Some(stream) = serial else { return false };
        if ready.readable {
            match stream.try_read(chunk) {
                Ok(0) => return false,
                Ok(count) => self.printed(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        if ready.writable && !self.typed.is_empty() {
            match stream.try_write(self.typed.make_contiguous()) {
                Ok(count) => drop(self.typed.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn printed(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let surplus = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..surplus);
        // No viewer is no error.
        let _ = self.output.send(bytes.into());
        self.unchecked += bytes.len();
        if self.unchecked >= LOG_CHECK_BYTES {
            self.unchecked = 0;
            if let Err(error) = limit_log(&self.log) {
                tracing::warn!(path = %self.log.display(), %error, "can't shorten a console log");
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Ready {
    readable: bool,
    writable: bool,
}

/// Waits until the line can be read, or written if there is something to write.
async fn ready(serial: Option<&UnixStream>, write: bool) -> Ready {
    let Some(stream) = serial else { return std::future::pending().await };
    let interest = if write {
        tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE
    } else {
        tokio::io::Interest::READABLE
    };
    match stream.ready(interest).await {
        Ok(ready) => Ready { readable: ready.is_readable(), writable: ready.is_writable() },
        // Reading tells what is wrong.
        Err(_) => Ready { readable: true, writable: false },
    }
}

async fn serve_viewer(
    stream: UnixStream,
    kept: Vec<u8>,
    mut output: broadcast::Receiver<Arc<[u8]>>,
    typed: mpsc::Sender<Vec<u8>>,
) {
    let (mut read, mut write) = stream.into_split();
    let show = async {
        write.write_all(&kept).await?;
        loop {
            match output.recv().await {
                Ok(bytes) => write.write_all(&bytes).await?,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    write.write_all(b"\r\n[some output was skipped]\r\n").await?;
                }
                Err(broadcast::error::RecvError::Closed) => return io::Result::Ok(()),
            }
        }
    };
    let take = async {
        let mut chunk = [0; 1024];
        loop {
            let count = read.read(&mut chunk).await?;
            if count == 0 || typed.send(chunk[..count].to_vec()).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    // Either side's end is the viewer's end; why does not matter.
    tokio::select! { _ = show => {}, _ = take => {} }
}

/// The last bytes of a file.
pub(crate) fn tail(path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let count = length.min(u64::try_from(bytes).unwrap_or(u64::MAX));
    file.seek(SeekFrom::Start(length - count))?;
    let mut text = Vec::new();
    file.take(count).read_to_end(&mut text)?;
    Ok(text)
}

/// Moves the content of a log that is too long to a second file. QEMU appends, so cutting its file to nothing is safe;
/// what it prints between the copy and the cut is lost from the file (viewers still saw it).
fn limit_log(log: &Path) -> io::Result<()> {
    if log.metadata()?.len() <= LOG_MAX_BYTES {
        return Ok(());
    }
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    fs::copy(log, older)?;
    File::options().write(true).open(log)?.set_len(0)
}

/// The socket of an instance's console, found in a server's data directory; `None` when the instance does not run, or has
/// no serial console.
pub fn find(data_dir: &Path, instance: &str) -> Option<PathBuf> {
    crate::hypervisor::kvm::console_socket(data_dir, instance)
}

/// How a viewer's session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The viewer left, by Ctrl-] or the end of its input.
    Left,
    /// The instance stopped, or its server did.
    Closed,
}

/// Puts the terminal back as it was.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nothing better to do about a terminal that went away.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// This process's standard input. It is waited for, not read in a thread: a thread would keep the process from ending
/// until one more key is pressed.
enum Input {
    Waited(AsyncFd<OwnedFd>),
    /// A file or the like, which is always ready.
    Ready(OwnedFd),
}

impl Input {
    fn open() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let spare = stdin.try_clone()?;
        Ok(watchable(stdin).map_or(Self::Ready(spare), Self::Waited))
    }

    async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Waited(fd) => {
                let mut ready = fd.readable().await?;
                let count = rustix::io::read(fd.get_ref(), bytes)?;
                // The executor is told of new input only, so what is left must be asked for.
                let mut left = [PollFd::new(fd.get_ref(), PollFlags::IN)];
                if rustix::event::poll(&mut left, Some(&Timespec::default()))? == 0 {
                    ready.clear_ready();
                }
                Ok(count)
            }
            Self::Ready(fd) => Ok(rustix::io::read(fd, bytes)?),
        }
    }
}

/// Connects this process's terminal to a console's socket until one side leaves. Ctrl-] leaves. When the input is no
/// terminal, its end only ends the typing.
pub async fn attach(socket: &Path) -> io::Result<Attached> {
    let (mut read, mut write) = UnixStream::connect(socket).await?.into_split();
    let terminal = RawTerminal::enter()?;
    let show = async {
        let mut chunk = vec![0; 16 << 10];
        loop {
            let count = read.read(&mut chunk).await?;
            if count == 0 {
                return io::Result::Ok(Attached::Closed);
            }
            let mut stdout = io::stdout().lock();
            stdout.write_all(&chunk[..count])?;
            stdout.flush()?;
        }
    };
    let interactive = terminal.is_some();
    let take = async {
        let input = Input::open()?;
        let mut chunk = [0; 1024];
        loop {
            let count = input.read(&mut chunk).await?;
            let bytes = &chunk[..count];
            if count == 0 {
                if interactive {
                    return io::Result::Ok(Attached::Left);
                }
                return std::future::pending().await;
            }
            let leave = bytes.iter().position(|byte| interactive && *byte == LEAVE);
            write.write_all(&bytes[..leave.unwrap_or(count)]).await?;
            if leave.is_some() {
                return Ok(Attached::Left);
            }
        }
    };
    let ended = tokio::select! { ended = show => ended, ended = take => ended };
    drop(terminal);
    ended
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn read_until(stream: &mut UnixStream, wanted: &str) -> String {
        let mut seen = Vec::new();
        let mut chunk = [0; 256];
        let reading = async {
            while !String::from_utf8_lossy(&seen).contains(wanted) {
                let count = stream.read(&mut chunk).await.unwrap();
                assert!(count > 0, "the end after {seen:?}");
                seen.extend_from_slice(&chunk[..count]);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
        String::from_utf8_lossy(&seen).into_owned()
    }

    #[tokio::test]
    async fn several_viewers_share_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, log) = (dir.path().join("console"), dir.path().join("log"));
        std::fs::write(&log, "from before\n").unwrap();
        let hub = Hub::open(&socket, &log, true).unwrap();
        let (serial, mut guest) = UnixStream::pair().unwrap();
        hub.attach(serial).await;
        guest.write_all(b"boot\n").await.unwrap();
        let mut one = UnixStream::connect(&socket).await.unwrap();
        read_until(&mut one, "from before\nboot\n").await;
        let mut two = UnixStream::connect(&socket).await.unwrap();
        read_until(&mut two, "from before\nboot\n").await;
        one.write_all(b"ls\r").await.unwrap();
        read_until(&mut guest, "ls\r").await;
        guest.write_all(b"files\n").await.unwrap();
        assert_eq!(read_until(&mut one, "files\n").await, "files\n");
        assert_eq!(read_until(&mut two, "files\n").await, "files\n");

        // The guest restarts: viewers stay.
        drop(guest);
        let (serial, mut guest) = UnixStream::pair().unwrap();
        hub.attach(serial).await;
        guest.write_all(b"again\n").await.unwrap();
        read_until(&mut two, "again\n").await;
        hub.close().await;
        assert_eq!(two.read(&mut [0; 16]).await.unwrap(), 0);
    }

    #[test]
    fn a_log_stays_within_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, vec![b'x'; 100]).unwrap();
        limit_log(&log).unwrap();
        assert_eq!(log.metadata().unwrap().len(), 100);
        let long = usize::try_from(LOG_MAX_BYTES).unwrap() + 1;
        std::fs::write(&log, vec![b'x'; long]).unwrap();
        limit_log(&log).unwrap();
        assert_eq!(log.metadata().unwrap().len(), 0);
        assert_eq!(dir.path().join("log.1").metadata().unwrap().len(), LOG_MAX_BYTES + 1);
        assert_eq!(tail(&dir.path().join("log.1"), 3).unwrap(), b"xxx");
    }
}
