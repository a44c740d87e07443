//! What a first start makes: a cluster, a user. Each is printed once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use embedded::engine::EmbeddedEngine;
use embedded::init::{InitOptions, NodeKind};
use rapi::users_file;

use crate::args::Serve;
use crate::cluster_init;

/// The user that is made when there are none.
const ADMIN: &str = "admin";
/// Letters of a password; none that look alike.
const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const PASSWORD_LENGTH: usize = 20;

/// A user that was made, to be shown once.
pub(crate) struct NewUser {
    pub(crate) name: &'static str,
    pub(crate) password: String,
}

/// Makes a cluster if there is none.
pub(crate) fn cluster(options: &Serve) -> Result<()> {
    let data_dir = &options.data.data_dir;
    if EmbeddedEngine::exists(data_dir) {
        if options.simulate_nodes.is_some() {
            tracing::info!(
                "--simulate-nodes is left aside: there is a cluster in {}",
                data_dir.display()
            );
        }
        return Ok(());
    }
    let init = match options.simulate_nodes {
        Some(0) => bail!("a simulated cluster has at least one node"),
        Some(count) => {
            let names = (1..=count).map(|at| format!("node{at}.example.com")).collect();
            InitOptions::new("cluster.example.com", NodeKind::Simulated(names))
        }
        None => {
            let node = cluster_init::local_node();
            let NodeKind::Local { name, .. } = &node else { bail!("this machine has no name") };
            let mut init = InitOptions::new(format!("{name}-cluster"), node);
            cluster_init::settle_local(&mut init, data_dir)?;
            init
        }
    };
    cluster_init::make(data_dir, &init)?;
    tracing::info!("made cluster {} in {}", init.name, data_dir.display());
    Ok(())
}

/// The users file; when none is named and there is none yet, it is made with an administrator.
pub(crate) fn users(options: &Serve) -> Result<(PathBuf, Option<NewUser>)> {
    if let Some(path) = &options.users_file {
        return Ok((path.clone(), None));
    }
    let path = options.data.data_dir.join("users");
    if path.exists() {
        return Ok((path, None));
    }
    let password = password();
    add_admin(&path, &password)?;
    Ok((path, Some(NewUser { name: ADMIN, password })))
}

fn add_admin(path: &Path, password: &str) -> Result<()> {
    users_file::add(path, ADMIN, password, &["read", "write"])
        .with_context(|| format!("cannot make {}", path.display()))
}

fn password() -> String {
    let letter = |_| {
        let at = rand::random_range(0..LETTERS.len());
        char::from(LETTERS[at])
    };
    (0..PASSWORD_LENGTH).map(letter).collect()
}
