//! A `rapid serve` of our own: made, started, asked, stopped, killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rapi::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::bench::load::Target;

/// How long a server may take until it says where it listens.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often is looked whether it has got there.
const LOOK: Duration = Duration::from_millis(2);

/// The user that these servers have.
pub(crate) const USER: (&str, &str) = ("tester", "tester-password");

/// Where a server of ours keeps its things.
pub(crate) struct Place {
    pub(crate) program: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Place {
    /// A place for the program below a directory, with a user.
    pub(crate) fn new(program: PathBuf, dir: &Path) -> Result<Self> {
        let place = Self { program, dir: dir.to_owned() };
        let (name, password) = USER;
        let users = place.path("users");
        fs::write(&users, format!("{name} {password} read,write\n"))
            .with_context(|| users.display().to_string())?;
        Ok(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Makes the cluster.
    pub(crate) fn init<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<()> {
        let said = Command::new(&self.program)
            .args(["cluster", "init", "--data-dir"])
            .arg(self.data_dir())
            .args(arguments)
            .output()
            .context("cannot run rapid")?;
        let text = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "rapid cluster init: {}", text.trim());
        Ok(())
    }

    /// Starts the server and waits until it listens.
    pub(crate) async fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Server> {
        self.start_by(Command::new(&self.program), arguments).await
    }

    /// Starts the server by a command that runs it somewhere else.
    pub(crate) async fn start_by<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        arguments: &[S],
    ) -> Result<Server> {
        let log = self.path("log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        command.args(["serve", "--bind", "127.0.0.1", "--port", "0", "--data-dir"]);
        command.arg(self.data_dir()).arg("--users-file").arg(self.path("users")).args(arguments);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let begun = Instant::now();
        let child = command.spawn().context("cannot start rapid serve")?;
        let mut server = Server { child, address: String::new(), log };
        server.address = server.listening(begun).await?;
        Ok(server)
    }

    /// Definitions of an operating system that does nothing, as Ganeti's `noop`, below `os`.
    pub(crate) fn noop(&self) -> Result<PathBuf> {
        let all = self.path("os");
        let dir = all.join("noop");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("ganeti_api_version"), "20\n")?;
        for name in ["create", "import", "export", "rename", "verify"] {
            let text = if name == "import" { "cat > /dev/null\n" } else { "" };
            fs::write(dir.join(name), format!("#!/bin/sh\n{text}exit 0\n"))?;
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755))?;
        }
        for (name, text) in [("variants.list", "default\n"), ("parameters.list", "size The size\n")]
        {
            fs::write(dir.join(name), text)?;
        }
        Ok(all)
    }
}

/// A running server; killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    log: PathBuf,
}

impl Server {
    async fn listening(&mut self, begun: Instant) -> Result<String> {
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(address) = address(&said) {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("rapid serve ended, {status}: {}", said.trim());
            }
            if begun.elapsed() > START_LIMIT {
                bail!("rapid serve does not say where it listens: {}", said.trim());
            }
            sleep(LOOK).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Itself, as what a measurement asks.
    pub(crate) fn target(&self) -> Target {
        Target { address: self.address.clone(), user: USER }
    }

    /// A client with the user of these servers.
    pub(crate) fn client(&self) -> Result<Client> {
        self.target().client()
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it ends by itself within a time.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(true);
            }
            if begun.elapsed() > limit {
                return Ok(false);
            }
            sleep(LOOK).await;
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::TERM)?;
        let begun = Instant::now();
        while begun.elapsed() < STOP_LIMIT {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "rapid serve ended, {status}: {}", self.said().trim());
                return Ok(());
            }
            sleep(LOOK).await;
        }
        bail!("rapid serve does not stop: {}", self.said().trim())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in what a server said.
pub(crate) fn address(said: &str) -> Option<String> {
    let at = said.find("the remote API is at ")?;
    let rest = &said[at + "the remote API is at ".len()..];
    // The line may not be there as a whole yet.
    let line = &rest[..rest.find('\n')?];
    line.split_whitespace().next().map(str::to_owned)
}

/// A runtime with two workers, as CI has cores.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no async runtime")
}
