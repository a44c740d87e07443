//! The program as Ganeti's daemon `ganeti-rapi`: called by that name it takes Ganeti's arguments, keeps Ganeti's files, and
//! ends with Ganeti's exit codes, in front of the Ganeti cluster whose master this machine is.
//!
//! ```text
//! arguments, files, user, master ──no──> a text and an exit code
//!      │ yes
//!      ├─ -f ──────────────────────────┐
//!      └─ detach.rs: starter, session, daemon ──> log, pid file, door; then the starter ends
//! ```

mod account;
mod detach;
mod log;
mod node;
mod options;
mod pid_file;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use luxi::client::engine::LuxiEngine;
use rapi::serve::{Options, Server};
use rapi::tls::TlsFiles;
use rapi::users::Users;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Syslog;
use crate::extra;
use crate::ganeti::Ganeti;

use detach::Stage;
use log::LogFile;
use options::{Arguments, Family};
use pid_file::PidFile;

/// The daemon's name in Ganeti.
pub(crate) const NAME: &str = "ganeti-rapi";

/// Why the daemon does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    Failed(String),
    /// Said only to those who debug: on other nodes Ganeti tries this each time it starts its daemons.
    NotMaster {
        debug: bool,
    },
    /// There is no cluster here.
    NotSetUp(String),
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Failed(text) | Self::NotSetUp(text) => text.clone(),
            Self::NotMaster { debug: true } => "Not master, exiting.".to_owned(),
            Self::NotMaster { debug: false } => String::new(),
        }
    }

    /// Ganeti's exit codes (3.0.2, `_constants.py`).
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::NotMaster { .. } => 11,
            Self::NotSetUp(_) => 12,
        }
    }

    /// Says why, where Ganeti says it.
    #[expect(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "it is who started us that reads it"
    )]
    fn say(&self) -> ExitCode {
        match (self, self.text().as_str()) {
            (_, "") => {}
            (Self::NotSetUp(_), text) => println!("{text}"),
            (_, text) => eprintln!("{text}"),
        }
        ExitCode::from(self.code())
    }
}

/// What was asked for, found to be possible.
struct Settings {
    ganeti: Ganeti,
    listen: SocketAddr,
    tls: Option<TlsFiles>,
    max_clients: usize,
    require_authentication: bool,
    foreground: bool,
    debug: bool,
    syslog: Syslog,
}

/// Runs as the daemon, or starts it.
pub(crate) fn run() -> ExitCode {
    let done = match Stage::now() {
        Stage::Session => detach::session().map_err(|error| Refusal::Failed(error.to_string())),
        stage => Settings::check(Arguments::parse()).and_then(|settings| match stage {
            Stage::Starter if !settings.foreground => start(),
            _ => serve(&settings),
        }),
    };
    done.map_or_else(|refusal| refusal.say(), |()| ExitCode::SUCCESS)
}

/// Ganeti says an error of the daemon as Python shows bytes.
fn start() -> Result<(), Refusal> {
    let started = detach::start().unwrap_or_else(|error| Err(error.to_string()));
    started.map_err(|text| {
        let text = model::python::repr_str(&text);
        Refusal::Failed(format!("Error when starting daemon process: b{text}"))
    })
}

impl Settings {
    /// Looks at everything that can be wrong, in Ganeti's order; afterwards we are the right user.
    fn check(arguments: Arguments) -> Result<Self, Refusal> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (root, hostname) = (variable("GANETI_ROOTDIR"), variable("GANETI_HOSTNAME"));
        node::check_environment(root.as_deref(), hostname.as_deref())?;
        let ganeti = Ganeti::here();
        let family = Family::of(ganeti.ssconf("primary_ip_family").as_deref());
        let ip = arguments.ip(family, interface_addresses)?;
        let tls = arguments.certificate_and_key(&ganeti.certificate())?;
        account::settle()?;
        let program = std::env::args().next().unwrap_or_else(|| NAME.to_owned());
        let max_clients = arguments.max_clients(&program)?;
        let master_node = ganeti.file("var/lib/ganeti/ssconf_master_node");
        node::check_master(&master_node, ganeti.hostname(), arguments.debug)?;
        Ok(Self {
            listen: SocketAddr::new(ip, arguments.port(node::service_port())),
            tls: tls.map(|(certificate, key)| TlsFiles {
                certificate: absolute(certificate),
                key: absolute(key),
                chain: arguments.ssl_chain.map(absolute),
            }),
            max_clients,
            require_authentication: arguments.require_authentication,
            foreground: arguments.foreground,
            debug: arguments.debug,
            syslog: arguments.syslog,
            ganeti,
        })
    }
}

/// The daemon's working directory is another than the one that it was started in.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn interface_addresses(name: &str) -> Vec<IpAddr> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    all.iter().filter(|interface| interface.name == name).map(if_addrs::Interface::ip).collect()
}

/// Serves until a signal says to stop. Errors are in the log, and what started us is told.
fn serve(settings: &Settings) -> Result<(), Refusal> {
    let served = open_log(settings).and_then(|log| {
        log::start(log.clone(), settings.foreground, settings.debug, settings.syslog);
        let done = with_pid_file(settings, log);
        done.inspect_err(|error| tracing::error!("{error:#}"))
    });
    served.map_err(|error| Refusal::Failed(format!("{error:#}")))
}

/// Without a log file only those go on whose messages go elsewhere, too.
fn open_log(settings: &Settings) -> Result<Option<Arc<LogFile>>> {
    let path = settings.ganeti.file("var/log/ganeti/rapi-daemon.log");
    match LogFile::open(path.clone()) {
        Ok(log) => Ok(Some(Arc::new(log))),
        Err(_) if settings.foreground || settings.syslog != Syslog::No => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
    }
}

fn with_pid_file(settings: &Settings, log: Option<Arc<LogFile>>) -> Result<()> {
    // The name that start-stop-daemon looks for, however the program's file is called.
    rustix::thread::set_name(c"ganeti-rapi")?;
    if !settings.foreground {
        rustix::process::chdir("/")?;
    }
    let _pid_file = PidFile::take(&settings.ganeti.file("var/run/ganeti/ganeti-rapi.pid"))?;
    tracing::info!("{NAME} daemon startup");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(answer(settings, log))
}

async fn answer(settings: &Settings, log: Option<Arc<LogFile>>) -> Result<()> {
    let hangups = signal(SignalKind::hangup())?;
    let stops = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut luxi = settings.ganeti.luxi(None);
    luxi.queries_max = luxi.queries_max.max(settings.max_clients);
    let engine = LuxiEngine::start(luxi).await;
    let users = Arc::new(Users::new(Some(settings.ganeti.users_file())));
    let mut options = Options::new(settings.tls.clone(), users.clone());
    options.listen = vec![settings.listen];
    options.require_authentication = settings.require_authentication;
    options.max_clients = settings.max_clients;
    options.extra = extra::router(engine.clone(), options.metrics.clone());
    let server = Server::bind(engine.clone(), options)?;
    let log = Log { file: log, detached: !settings.foreground };
    if log.detached {
        detach::ready(&log.output()?)?;
    }
    let reopening = tokio::spawn(log.reopen_on(hangups, users));
    server.run(stop(stops)).await;
    reopening.abort();
    engine.shutdown().await;
    Ok(())
}

/// Where the daemon writes.
struct Log {
    file: Option<Arc<LogFile>>,
    /// Whether standard output and error go there, too.
    detached: bool,
}

impl Log {
    fn output(&self) -> std::io::Result<std::fs::File> {
        match &self.file {
            Some(file) => file.file(),
            None => std::fs::OpenOptions::new().write(true).open("/dev/null"),
        }
    }

    /// Begins new files, and reads the users again, at each SIGHUP.
    async fn reopen_on(self, mut hangups: Signal, users: Arc<Users>) {
        while hangups.recv().await.is_some() {
            tracing::info!("Reopening log files after receiving SIGHUP");
            if let Err(error) = self.reopen() {
                tracing::error!("cannot reopen the log: {error}");
            }
            users.reload();
        }
    }

    fn reopen(&self) -> std::io::Result<()> {
        if let Some(file) = &self.file {
            file.reopen()?;
        }
        if self.detached { detach::redirect(&self.output()?) } else { Ok(()) }
    }
}

/// Resolves at the first SIGTERM or SIGINT.
async fn stop((mut terminate, mut interrupt): (Signal, Signal)) {
    let number = tokio::select! {
        _ = terminate.recv() => 15,
        _ = interrupt.recv() => 2,
    };
    tracing::info!("Received signal {number} asking for shutdown");
}
