//! Running commands: the only file that starts any. Each has a time limit, a process group of its own and a limit on what
//! is kept of its output; nothing outlives the call that started it, except what makes itself a daemon (QEMU).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::outside::outside;
use crate::{Feedback, fault};

/// How much of a command's output is kept; what is more is dropped from the front.
const OUTPUT_MAX_BYTES: usize = 4 << 20;
/// The longest line that is handed on; longer ones are cut into several.
const LINE_MAX_BYTES: usize = 4096;
/// How long output is waited for after the command ended: something it left behind may hold the pipe.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// What commands find others in.
pub(crate) const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin";

/// Why a command could not be run, or what it ended with.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("can't run {program}: {source}")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("waiting for {program} failed: {source}")]
    Wait {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} did not end within {}s and was killed", limit.as_secs())]
    Timeout { program: String, limit: Duration },
    #[error("{program} failed ({reason}): {output}")]
    Failed { program: String, reason: String, output: String },
}

/// A command to run. Its environment is empty but for a search path and what is added.
pub(crate) struct Process {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
    stdin: Option<File>,
    stdout: Option<File>,
    limit: Duration,
    lines: Option<Feedback>,
    nice: bool,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Both outputs together when lines were streamed, else the standard one.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Finished {
    /// Why it failed, in Ganeti's words; `None` when it did not.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.status.success() {
            return None;
        }
        Some(match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exited with exit code {code}"),
            (None, signal) => format!("terminated by signal {}", signal.unwrap_or(0)),
        })
    }

    /// Both outputs as one text.
    pub(crate) fn output(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&self.stderr));
        text
    }

    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Ends a whole process group when dropped before the command was waited for.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    pub(crate) fn new(program: impl AsRef<OsStr>, limit: Duration) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: vec![("PATH".into(), PATH.into()), ("LC_ALL".into(), "C".into())],
            cwd: None,
            stdin: None,
            stdout: None,
            limit,
            lines: None,
            nice: false,
        }
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Gives it these variables and no others.
    pub(crate) fn env_only(mut self, env: Vec<(String, String)>) -> Self {
        self.env = env;
        self
    }

    pub(crate) fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = Some(dir.to_owned());
        self
    }

    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    /// Sends the standard output to a file instead of keeping it.
    pub(crate) fn stdout(mut self, file: File) -> Self {
        self.stdout = Some(file);
        self
    }

    /// Hands each line of output on as it comes.
    pub(crate) fn lines(mut self, lines: Feedback) -> Self {
        self.lines = Some(lines);
        self
    }

    /// Runs it with the lowest priority.
    pub(crate) fn nice(mut self) -> Self {
        self.nice = true;
        self
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    fn command(&self, program: &OsStr, args: &[OsString]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        command.process_group(0).kill_on_drop(true).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end and answers what it did; an exit code other than 0 is no error.
    pub(crate) async fn run(self) -> Result<Finished, ProcessError> {
        outside(&self.name(), self.run_it()).await
    }

    async fn run_it(mut self) -> Result<Finished, ProcessError> {
        let limit = self.limit;
        let name = self.name();
        let start = |source| ProcessError::Start { program: name.clone(), source };

        let (program, args) = if self.nice {
            let mut args = vec!["-n".into(), "19".into(), self.program.clone()];
            args.extend(self.args.iter().cloned());
            ("nice".into(), args)
        } else {
            (self.program.clone(), self.args.clone())
        };

        let mut command = self.command(&program, &args);
        if let Some(file) = self.stdin.take() {
            command.stdin(file);
        }
        match self.stdout.take() {
            Some(file) => command.stdout(file),
            None => command.stdout(Stdio::piped()),
        };

        fault::point(&format!("before {name}"));
        let mut child = command.spawn().map_err(start)?;
        // The ends of pipes that the command has now must not stay open here.
        drop(command);
        let mut group = Group::of(&child);
        let finished = tokio::time::timeout(limit, gather(&mut child, self.lines.clone())).await;
        let Ok(finished) = finished else {
            group.kill();
            // Killed just now: it ends at once.
            let _ = child.wait().await;
            return Err(ProcessError::Timeout { program: name, limit });
        };
        // It has been waited for: its number may belong to another group from now on.
        group.0 = None;
        fault::point(&format!("after {name}"));
        finished.map_err(|source| ProcessError::Wait { program: name.clone(), source })
    }

    /// Runs it to its end; an exit code other than 0 is an error that shows its output.
    pub(crate) async fn check(self) -> Result<Finished, ProcessError> {
        let program = self.name();
        let finished = self.run().await?;
        match finished.failure() {
            None => Ok(finished),
            Some(reason) => {
                let output = finished.output().trim().to_owned();
                Err(ProcessError::Failed { program, reason, output })
            }
        }
    }
}

async fn gather(child: &mut Child, lines: Option<Feedback>) -> std::io::Result<Finished> {
    let (mut stdout, mut stderr) = (Output::new(lines.clone()), Output::new(lines));
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let status = {
        let mut read = std::pin::pin!(async {
            tokio::join!(stdout.read(&mut out), stderr.read(&mut err));
        });
        tokio::select! {
            status = child.wait() => {
                // Whatever is still in the pipes comes at once.
                let _ = tokio::time::timeout(DRAIN_LIMIT, read).await;
                status?
            }
            () = &mut read => child.wait().await?,
        }
    };
    Ok(Finished { status, stdout: stdout.end(), stderr: stderr.end() })
}

/// One output of a command: keeps its end, hands on its lines.
struct Output {
    kept: Vec<u8>,
    line: Vec<u8>,
    lines: Option<Feedback>,
}

impl Output {
    fn new(lines: Option<Feedback>) -> Self {
        Self { kept: Vec::new(), line: Vec::new(), lines }
    }

    async fn read(&mut self, pipe: &mut Option<impl AsyncRead + Unpin>) {
        let Some(pipe) = pipe else { return };
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            self.take(&chunk[..count]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() > 2 * OUTPUT_MAX_BYTES {
            self.kept.drain(..self.kept.len() - OUTPUT_MAX_BYTES);
        }
        if self.lines.is_none() {
            return;
        }
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= LINE_MAX_BYTES {
                self.hand_on();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    fn hand_on(&mut self) {
        if let Some(lines) = &self.lines {
            lines(String::from_utf8_lossy(&self.line).trim_end());
        }
        self.line.clear();
    }

    fn end(mut self) -> Vec<u8> {
        if !self.line.is_empty() {
            self.hand_on();
        }
        let surplus = self.kept.len().saturating_sub(OUTPUT_MAX_BYTES);
        self.kept.drain(..surplus);
        self.kept
    }
}

/// Where a program is in the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let dirs = PATH.split(':').chain(["/usr/local/bin"]);
    dirs.map(|dir| Path::new(dir).join(name)).find(|path| is_executable(path))
}

/// Whether a path is a regular file that somebody may run.
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str, limit: Duration) -> Process {
        Process::new("sh", limit).args(["-c", script])
    }

    #[tokio::test]
    async fn output_and_end_are_told() {
        let done = shell("echo out; echo err >&2; exit 3", LIMIT).run().await.unwrap();
        assert_eq!(done.failure().as_deref(), Some("exited with exit code 3"));
        assert_eq!(
            (done.stdout.as_slice(), done.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        let done = shell("kill -9 $$", LIMIT).run().await.unwrap();
        assert_eq!(done.failure().as_deref(), Some("terminated by signal 9"));
        let error = shell("echo no; exit 1", LIMIT).check().await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exited with exit code 1): no");
    }

    #[tokio::test]
    async fn lines_come_as_they_are_printed() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let lines: Feedback = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
        shell("echo one; printf 'two\\nthree'", LIMIT).lines(lines).run().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn too_long_is_killed_with_its_children() {
        let limit = Duration::from_millis(200);
        let error = shell("sleep 60 & sleep 60", limit).run().await.unwrap_err();
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let done = Process::new("/usr/bin/env", LIMIT)
            .env_only(vec![("A".to_owned(), "b".to_owned())])
            .run()
            .await
            .unwrap();
        assert_eq!(done.stdout_text(), "A=b\n");
    }

    #[tokio::test]
    async fn files_are_read_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        shell("echo data", LIMIT).stdout(File::create(&path).unwrap()).check().await.unwrap();
        let done = Process::new("cat", LIMIT).stdin(File::open(&path).unwrap());
        assert_eq!(done.check().await.unwrap().stdout, b"data\n");
    }
}
