//! Instances that go to another cluster, or come from one: both share a secret, by which each knows that what it is told
//! comes from the other (Ganeti 3.0, `masterd/instance.py`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use model::config::Instance;
use model::error::{GanetiError, Result};
use model::job::LogKind;
use model::opcode::{BackupExport, InstanceCreate};
use model::{python, x509};
use node::{Awaited, Destination, OsParams, Receiving, TransferOptions};
use serde_json::{Value, json};

use super::Cx;
use super::cx::exec_error;
use super::instance::{disks, import, spec_of};
use crate::secret;

/// How long a certificate made for a transfer holds (Ganeti 3.0, `RIE_CERT_VALIDITY`).
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// How long the other side may take to connect (Ganeti 3.0, `RIE_CONNECT_TIMEOUT`).
const CONNECT_LIMIT: Duration = Duration::from_secs(180);
/// How far the clocks of clusters may be apart, in seconds (Ganeti 3.0, `NODE_MAX_CLOCK_SKEW`).
const CLOCK_SKEW: i64 = 150;

/// Where the disks of an instance go to.
pub(crate) struct Receivers {
    /// Who waits for each disk, and what its dump begins with.
    pub(crate) disks: Vec<(Destination, String)>,
    /// Who they are.
    pub(crate) certificate: String,
    /// The key that was made for them.
    pub(crate) key_name: String,
}

fn domain_secret(cx: &Cx) -> Result<String> {
    secret::domain_secret(Path::new(cx.data_dir()), cx.env())
}

/// Makes a key for an export, and what the other cluster is told of it.
pub(crate) async fn prepare(cx: &Cx, instance: &Instance) -> Result<Value> {
    let domain = domain_secret(cx)?;
    let salt = secret::generate(cx.env(), 8);
    let node = cx.config().node_name(&instance.primary_node).to_owned();
    cx.log(&format!("Generating X509 certificate on {node}"));
    let (name, pem) = make_certificate(cx, instance).await?;
    Ok(json!({
        "handshake": secret::handshake(&domain, cx.env()),
        "x509_key_name": [name, secret::sign(&domain, &name, &salt), salt],
        "x509_ca": secret::sign_certificate(&domain, &pem, &salt),
    }))
}

async fn make_certificate(cx: &Cx, instance: &Instance) -> Result<(String, String)> {
    let made = match cx.node(&instance.primary_node).await {
        Ok(node) => node.create_certificate(CERTIFICATE_VALIDITY).await,
        Err(error) => Err(error),
    };
    made.map_err(|error| {
        let node = cx.config().node_name(&instance.primary_node).to_owned();
        GanetiError::exec(format!("Can't create X509 key and certificate on {node}: {error}"))
    })
}

/// The certificate in a signed text, as long as it holds; `whose` is named in what is refused.
fn signed_certificate(cx: &Cx, domain: &str, text: &str, whose: &str) -> Result<String> {
    let refused = |what: &str, why: &str| {
        Err(GanetiError::wrong_input(format!("{what} {whose} X509 CA ({why})")))
    };
    let pem = match secret::signed_certificate(domain, text) {
        Ok(pem) => pem,
        Err(error) => return refused("Unable to load", error),
    };
    let Some((from, to)) = validity(&pem) else {
        return refused("Unable to load", "Could not find certificate");
    };
    let now = cx.env().now().0;
    if now > to {
        return refused("Invalid", "Certificate is expired");
    }
    if now < from - CLOCK_SKEW {
        return refused("Invalid", "Certificate not yet valid");
    }
    Ok(pem)
}

/// From when to when a certificate holds.
fn validity(pem: &str) -> Option<(i64, i64)> {
    use base64::Engine as _;
    let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let text: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    x509::validity(&der)
}

/// What an export to another cluster is refused for; then where it goes.
pub(crate) fn check_export(cx: &Cx, op: &BackupExport, instance: &Instance) -> Result<Receivers> {
    let told = op.target_node.as_array().map(Vec::as_slice).unwrap_or_default();
    if told.len() != instance.disks.len() {
        return Err(GanetiError::wrong_input(format!(
            "Received destination information for {} disks, but instance {} has {} disks",
            told.len(),
            op.instance_name,
            instance.disks.len()
        )));
    }
    let domain = domain_secret(cx)?;
    let key = op.x509_key_name.clone().unwrap_or_default();
    let [name, digest, salt] = key.as_slice() else {
        return Err(GanetiError::wrong_input(format!(
            "Invalid data for X509 key name: not enough values to unpack (expected 3, got {})",
            key.len()
        )));
    };
    let [key_name, digest, salt] = [name, digest, salt].map(python::str);
    if !secret::verify(&domain, &key_name, &digest, &salt) {
        return Err(GanetiError::wrong_input("HMAC for X509 key name is wrong"));
    }
    let signed = op.destination_x509_ca.as_deref().unwrap_or_default();
    let certificate = signed_certificate(cx, &domain, signed, "destination")?;
    let disk = |(at, told): (usize, &Value)| {
        secret::check_disk(&domain, at, told)
            .map_err(|why| GanetiError::wrong_input(format!("Target info for disk {at}: {why}")))
    };
    let disks = told.iter().enumerate().map(disk).collect::<Result<_>>()?;
    Ok(Receivers { disks, certificate, key_name })
}

/// What an import from another cluster is refused for before anything is looked at.
pub(crate) fn check_import(cx: &Cx, op: &InstanceCreate) -> Result<()> {
    let domain = domain_secret(cx)?;
    let handshake = op.source_handshake.clone().unwrap_or_default();
    if handshake.is_empty() {
        return Err(GanetiError::wrong_input("Missing source handshake"));
    }
    if let Some(error) = secret::handshake_error(&domain, &handshake) {
        return Err(GanetiError::wrong_input(format!("Invalid handshake: {error}")));
    }
    let Some(ca) = &op.source_x509_ca else {
        return Err(GanetiError::wrong_input("Missing source X509 CA"));
    };
    signed_certificate(cx, &domain, ca, "source")?;
    if op.source_instance_name.is_none() {
        return Err(GanetiError::wrong_input("Missing source instance name"));
    }
    Ok(())
}

/// Waits for the disks of an instance from the other cluster, and fills them.
pub(crate) async fn receive(
    cx: &Cx,
    op: &InstanceCreate,
    instance: &Arc<Instance>,
    params: &OsParams,
) -> Result<()> {
    cx.log("* preparing remote import...");
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let all: Vec<usize> = (0..instance.disks.len()).collect();
    disks::assemble(cx, &instance.meta.uuid, Some(&all), false).await?;
    let (key_name, pem) = make_certificate(cx, instance).await?;
    let results = receive_all(cx, op, instance, params, (&key_name, &pem)).await;
    let removed = node.remove_certificate(&key_name).await;
    let results = results?;
    removed.map_err(|error| {
        let node = node.name();
        GanetiError::exec(format!("Can't remove X509 key and certificate on {node}: {error}"))
    })?;
    if results.contains(&false) {
        cx.warn(&format!(
            "Some disks for instance {} on node {} were not imported successfully",
            instance.name,
            node.name()
        ));
    }
    if !instance.os.is_empty() {
        let old_name = op.source_instance_name.as_deref().unwrap_or_default();
        import::rename(cx, node.as_ref(), instance, old_name, params).await;
    }
    Ok(())
}

/// Lets all disks be waited for, tells where, and answers which were filled.
async fn receive_all(
    cx: &Cx,
    op: &InstanceCreate,
    instance: &Arc<Instance>,
    params: &OsParams,
    (key_name, pem): (&str, &str),
) -> Result<Vec<bool>> {
    let domain = domain_secret(cx)?;
    let signed = op.source_x509_ca.as_deref().unwrap_or_default();
    let peer = signed_certificate(cx, &domain, signed, "source")?;
    let config = cx.config();
    let node = cx.node(&instance.primary_node).await.map_err(|error| exec_error(&error))?;
    let address = config.nodes.get(&instance.primary_node);
    let address = address.map(|node| node.primary_ip.clone()).unwrap_or_default();
    // Ganeti: the source shuts the instance down before it connects, which may take its time (3.0, instance_create.py).
    let limit = CONNECT_LIMIT + Duration::from_secs(op.source_shutdown_timeout);
    let base = secret::generate(cx.env(), 6);
    let told = spec_of(cx, instance);
    let mut waiting = Vec::new();
    for at in 0..told.disks.len() {
        let options = TransferOptions {
            key_name: key_name.to_owned(),
            peer: peer.clone(),
            magic: secret::magic(&base, &instance.name, at),
            compress: op.compress.to_string(),
        };
        let say = cx.script_output();
        let awaited = Awaited {
            instance: &told,
            index: at,
            options: &options,
            address: &address,
            limit,
            params,
            connected: Box::new(move || say(&format!("Disk {at} is now receiving data"))),
        };
        let begun = node.receive_disk(awaited, cx.script_output()).await;
        let receiving = begun.map_err(|error| {
            let node = node.name();
            GanetiError::exec(format!("Failed to start import on {node}: {error}"))
        })?;
        cx.log(&format!("Disk {at} is now listening"));
        waiting.push((options.magic, receiving));
    }
    let salt = secret::generate(cx.env(), 8);
    let disk = |(at, (magic, receiving)): (usize, &(String, Receiving))| {
        let host = receiving.host.to_string();
        secret::sign_disk(&domain, &salt, at, (&host, receiving.port, magic))
    };
    let disks: Vec<Value> = waiting.iter().enumerate().map(disk).collect();
    let signed = secret::sign_certificate(&domain, pem, &secret::generate(cx.env(), 8));
    cx.tell(LogKind::RemoteImport, json!({"disks": disks, "x509_ca": signed}));
    let results = waiting.into_iter().enumerate().map(async |(at, (_, receiving))| {
        let answer = receiving.done.await;
        match &answer {
            Ok(()) => cx.log(&format!("Disk {at} finished receiving data")),
            Err(error) => cx.log(&format!("Disk {at} failed to receive data: {error}")),
        }
        answer.is_ok()
    });
    Ok(join_all(results).await)
}
