//! What Ganeti's own tools look for, below a directory: small files that say what the cluster is, and the LUXI socket.
//!
//! With `GANETI_ROOTDIR` and `GANETI_HOSTNAME` set to the directory and the master's name, Ganeti's tools take it for a node of
//! a virtual cluster; they want the directory to be called as the node.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use embedded::EmbeddedEngine;
use embedded::ssconf;
use luxi::server::Server;
use model::config::Config;
use model::engine::Engine;
use tokio::task::JoinHandle;

/// Where Ganeti keeps what it knows; a configuration of its own there means that the directory is a real node's.
const DATA: &str = "var/lib/ganeti";
const CONFIG: &str = "var/lib/ganeti/config.data";
const SOCKETS: &str = "var/run/ganeti/socket";
/// The socket that tools connect to, and its older name.
const QUERY: &str = "ganeti-query";
const MASTER: &str = "ganeti-master";
/// Who may speak LUXI beside root.
const DAEMONS: &str = "gnt-daemons";
const FILE_MODE: u32 = 0o444;

/// A directory that tools expect.
struct Directory {
    name: &'static str,
    mode: u32,
    /// Whether it belongs to the daemons' group.
    shared: bool,
}

const DIRECTORIES: &[Directory] = &[
    Directory { name: DATA, mode: 0o755, shared: false },
    Directory { name: "var/lib/ganeti/rapi", mode: 0o755, shared: false },
    Directory { name: "var/lock", mode: 0o755, shared: false },
    Directory { name: "var/log/ganeti", mode: 0o770, shared: true },
    Directory { name: "var/run/ganeti", mode: 0o775, shared: true },
    Directory { name: SOCKETS, mode: 0o770, shared: true },
    Directory { name: "etc/ganeti", mode: 0o755, shared: false },
];

/// The running side of it.
pub(crate) struct GanetiRoot {
    tasks: Vec<JoinHandle<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// Lays everything out and answers LUXI there.
pub(crate) fn start(dir: &Path, engine: &Arc<EmbeddedEngine>) -> Result<GanetiRoot> {
    let config = engine.config();
    let dir = checked(dir, &config)?;
    let group = group_id(DAEMONS);
    for Directory { name, mode, shared } in DIRECTORIES {
        let path = dir.join(name);
        if path.is_dir() {
            continue;
        }
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(*mode)))
            .with_context(|| shown(&path))?;
        give(&path, group.filter(|_| *shared))?;
    }
    write(&dir, engine)?;
    let socket = dir.join(SOCKETS).join(QUERY);
    let server = Server::bind(&socket).with_context(|| shown(&socket))?;
    give(&socket, group)?;
    let older = dir.join(SOCKETS).join(MASTER);
    match symlink(QUERY, &older) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| shown(&older));
        }
        _ => {}
    }
    tracing::info!("LUXI is spoken at {}", socket.display());
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let answering = server.run(engine.clone() as Arc<dyn Engine>, async {
        // Whether it was told or dropped, it ends.
        let _ = stopped.await;
    });
    let tasks = vec![tokio::spawn(answering), tokio::spawn(keep(dir, engine.clone()))];
    Ok(GanetiRoot { tasks, stop })
}

impl GanetiRoot {
    /// Ends answering; the files stay.
    pub(crate) async fn stop(self) {
        // Nobody listens when the server has ended by itself.
        let _ = self.stop.send(());
        let mut tasks = self.tasks.into_iter();
        if let Some(answering) = tasks.next()
            && let Err(error) = answering.await
        {
            tracing::error!(%error, "the LUXI server ended badly");
        }
        tasks.for_each(|task| task.abort());
    }
}

/// The directory as tools will see it, if it fits.
fn checked(dir: &Path, config: &Config) -> Result<PathBuf> {
    let dir = std::path::absolute(dir)?;
    let master = config.node_name(&config.cluster.master_node);
    let fits = dir.file_name().is_none_or(|name| name == master);
    ensure!(
        fits,
        "Ganeti's tools want the directory to be called as the master node: {}",
        dir.join(master).display()
    );
    if dir.join(CONFIG).exists() {
        bail!("{} is the node of a real Ganeti cluster", dir.display());
    }
    Ok(dir)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Gives a path to the group of Ganeti's daemons, where there is one and we may.
fn give(path: &Path, group: Option<u32>) -> Result<()> {
    let Some(group) = group.filter(|_| rustix::process::geteuid().is_root()) else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group)).with_context(|| shown(path))
}

/// The number of a group of this machine.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Writes the files that are not as they should be.
fn write(dir: &Path, engine: &EmbeddedEngine) -> Result<()> {
    for (name, text) in ssconf::files(&engine.config(), engine.compat()) {
        let path = dir.join(DATA).join(format!("{}{name}", ssconf::PREFIX));
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        // Readers see the old file or the new one.
        let new = path.with_extension("new");
        let written = fs::write(&new, text)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(FILE_MODE)))
            .and_then(|()| fs::rename(&new, &path));
        written.with_context(|| shown(&path))?;
    }
    Ok(())
}

/// Keeps the files in step with the configuration.
async fn keep(dir: PathBuf, engine: Arc<EmbeddedEngine>) {
    let mut versions = engine.config_versions();
    loop {
        let (dir, told) = (dir.clone(), engine.clone());
        let written = tokio::task::spawn_blocking(move || write(&dir, &told)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the files for Ganeti's tools: {error:#}"),
            Err(error) => tracing::error!(%error, "the files for Ganeti's tools"),
        }
        if versions.changed().await.is_err() {
            return;
        }
    }
}
