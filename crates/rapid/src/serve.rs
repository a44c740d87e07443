//! `rapid serve`: puts the parts together, in order, and takes them apart again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use embedded::engine::{self, EmbeddedEngine};
use luxi::client::engine::LuxiEngine;
use model::engine::Engine;
use rapi::serve::{Options, Server};
use rapi::tls::{TlsFiles, ensure_certificate};
use rapi::users::Users;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Behind, Serve};
use crate::first_start::{self, NewUser};
use crate::ganeti::Ganeti;
use crate::{extra, ganeti_root, logging};

/// The file of certificate and key in the data directory.
const CERTIFICATE: &str = "rapi.pem";

/// Serves until a signal says to stop.
pub(crate) fn run(options: &Serve) -> Result<ExitCode> {
    logging::start(options.log_format, options.syslog, options.debug);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &Serve) -> Result<()> {
    let (behind, users_path, new_user) = match args.engine {
        Behind::Embedded => embedded(args).await?,
        Behind::Luxi => luxi(args).await,
    };
    let engine = behind.engine();
    let users = Arc::new(Users::new(Some(users_path)));
    let mut options = Options::new(tls(args)?, users.clone());
    options.listen = addresses(args)?;
    options.require_authentication = args.require_authentication;
    options.max_clients = args.max_clients;
    options.cors_origins.clone_from(&args.cors_origin);
    options.extra = extra::router(engine.clone(), options.metrics.clone());
    if options.is_wide_open() {
        tracing::warn!(
            "others than this machine can read without credentials; --require-authentication refuses them"
        );
    }
    let secure = options.tls.is_some();
    let ganeti_root = match (&args.ganeti_root, &behind) {
        (Some(dir), Opened::Embedded(engine)) => Some(ganeti_root::start(dir, engine)?),
        (Some(_), Opened::Luxi(_)) => bail!("--ganeti-root is for a cluster of our own"),
        (None, _) => None,
    };
    let server = Server::bind(engine, options)?;
    announce(args, &server, secure, new_user.as_ref());
    let reloading = tokio::spawn(reload_on_hangup(users));
    server.run(stop_signal()).await;
    reloading.abort();
    if let Some(ganeti_root) = ganeti_root {
        ganeti_root.stop().await;
    }
    behind.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// What is behind the door.
enum Opened {
    Embedded(Arc<EmbeddedEngine>),
    Luxi(Arc<LuxiEngine>),
}

impl Opened {
    fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Embedded(engine) => engine.clone(),
            Self::Luxi(engine) => engine.clone(),
        }
    }

    async fn shutdown(&self) {
        match self {
            Self::Embedded(engine) => {
                tracing::info!("finishing running jobs");
                engine.shutdown().await;
            }
            Self::Luxi(engine) => engine.shutdown().await,
        }
    }
}

/// A cluster of our own, made if there is none, and its users.
async fn embedded(args: &Serve) -> Result<(Opened, PathBuf, Option<NewUser>)> {
    first_start::cluster(args)?;
    let (users, new_user) = first_start::users(args)?;
    let mut settings = engine::Options::new(&args.data.data_dir);
    settings.compat = args.compat;
    settings.watcher_every = args.watcher_interval.map(Duration::from_secs);
    settings.limit_instances = args.limit_instances;
    let engine = EmbeddedEngine::open(settings).await?;
    Ok((Opened::Embedded(engine), users, new_user))
}

/// The cluster of this machine's Ganeti, and its users.
async fn luxi(args: &Serve) -> (Opened, PathBuf, Option<NewUser>) {
    let ganeti = Ganeti::here();
    let mut settings = ganeti.luxi(args.luxi_socket.clone());
    settings.queries_max = settings.queries_max.max(args.max_clients);
    let engine = LuxiEngine::start(settings).await;
    let users = args.users_file.clone().unwrap_or_else(|| ganeti.users_file());
    (Opened::Luxi(engine), users, None)
}

fn tls(args: &Serve) -> Result<Option<TlsFiles>> {
    if args.no_ssl {
        return Ok(None);
    }
    let ganetis = Some(Ganeti::here().certificate());
    let ganetis = ganetis.filter(|path| args.engine == Behind::Luxi && path.exists());
    let certificate = match args.ssl_cert.clone().or(ganetis) {
        Some(path) => path,
        None => {
            let own = args.data.data_dir.join(CERTIFICATE);
            if ensure_certificate(&own)? {
                tracing::info!("made a self-signed certificate, {}", own.display());
            }
            own
        }
    };
    let key: PathBuf = args.ssl_key.clone().unwrap_or_else(|| certificate.clone());
    Ok(Some(TlsFiles { certificate, key, chain: args.ssl_chain.clone() }))
}

fn addresses(args: &Serve) -> Result<Vec<SocketAddr>> {
    let address = |ip: IpAddr| SocketAddr::new(ip, args.port);
    if let Some(ip) = args.bind {
        return Ok(vec![address(ip)]);
    }
    let Some(wanted) = &args.interface else {
        return Ok([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
            .map(address)
            .to_vec());
    };
    let interfaces = if_addrs::get_if_addrs().context("cannot list network interfaces")?;
    let mut found: Vec<IpAddr> = interfaces
        .iter()
        .filter(|interface| interface.name == *wanted)
        .map(if_addrs::Interface::ip)
        .collect();
    found.sort_by_key(IpAddr::is_ipv6);
    match found.first() {
        Some(ip) => Ok(vec![address(*ip)]),
        None => bail!("network interface {wanted} is not there or has no address"),
    }
}

/// Says where the server is, and once who may use it.
#[expect(clippy::print_stdout, reason = "the password is shown once and never logged")]
fn announce(args: &Serve, server: &Server, secure: bool, new_user: Option<&NewUser>) {
    let scheme = if secure { "https" } else { "http" };
    for address in server.addresses() {
        tracing::info!("the remote API is at {scheme}://{address}");
    }
    if let (Some(user), Some(address)) = (new_user, server.addresses().first()) {
        println!();
        println!("  A user was made; this password is not shown again:");
        println!();
        println!("    user      {}", user.name);
        println!("    password  {}", user.password);
        println!();
        println!("  Try: curl -k -u {}:{} {scheme}://{address}/2/info", user.name, user.password);
        println!("  More users: rapid user add --data-dir {} NAME", args.data.data_dir.display());
        println!();
    }
}

async fn reload_on_hangup(users: Arc<Users>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        tracing::info!("reading the users file again");
        users.reload();
    }
}

/// Resolves at the first SIGTERM or SIGINT.
async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: running requests are finished first");
}
