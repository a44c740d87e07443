//! The cluster domain secret, and what is signed with it: two clusters that share it may move instances between each other
//! (Ganeti 3.0, `masterd/instance.py`, `utils/x509.py`).

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use model::error::{GanetiError, Result};
use model::python;
use node::Destination;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::env::Env;

/// The file of the secret in the data directory.
const FILE: &str = "cluster-domain-secret";
/// What both sides of an export say, and its version.
const HANDSHAKE_VERSION: u64 = 0;
const HANDSHAKE_TEXT: &str = "Hi, I'm Ganeti";
/// The line before a signed certificate.
const SIGNATURE_HEADER: &str = "X-Ganeti-Signature";

/// Random bytes in hexadecimal: secrets have 20, salts 8.
pub(crate) fn generate(env: &Env, bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    env.fill(&mut buffer);
    hex(&buffer)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The secret of the cluster, made at its first use.
pub(crate) fn domain_secret(data_dir: &Path, env: &Env) -> Result<String> {
    let path = data_dir.join(FILE);
    let failed = |error: std::io::Error| {
        GanetiError::exec(format!(
            "Can't read the cluster domain secret {}: {error}",
            path.display()
        ))
    };
    match fs::read_to_string(&path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let secret = generate(env, 20);
    put(data_dir, &secret).map_err(failed)?;
    Ok(secret)
}

/// Writes a secret to a file under another name, then puts it in place at once: a crash leaves no half of one.
fn put(data_dir: &Path, secret: &str) -> std::io::Result<()> {
    let fresh = data_dir.join(format!("{FILE}.new"));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(format!("{secret}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, data_dir.join(FILE))
}

/// Why a cluster domain secret was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum DomainSecretError {
    #[error("the cluster domain secret has to be the one line of its file")]
    Form,
    #[error("cannot write the cluster domain secret")]
    Write(#[source] std::io::Error),
}

/// Gives the cluster of a data directory another domain secret: the given one, or a new one. A server that runs uses it from
/// then on.
pub fn renew_domain_secret(data_dir: &Path, given: Option<&str>) -> Result<(), DomainSecretError> {
    let secret = match given {
        Some(text) => {
            let mut lines = text.lines().map(str::trim_end);
            match (lines.next(), lines.next()) {
                (Some(line), None) if !line.is_empty() => line.to_owned(),
                _ => return Err(DomainSecretError::Form),
            }
        }
        None => generate(&Env::system(), 20),
    };
    put(data_dir, &secret).map_err(DomainSecretError::Write)
}

/// The HMAC-SHA1 of a salted text, in hexadecimal (Ganeti 3.0, `utils.Sha1Hmac`).
pub(crate) fn sign(secret: &str, text: &str, salt: &str) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(salt.as_bytes());
    mac.update(text.as_bytes());
    hex(&mac.finalize().into_bytes())
}

/// Whether a signature is right; takes the same time whichever it is.
pub(crate) fn verify(secret: &str, text: &str, digest: &str, salt: &str) -> bool {
    let expected = sign(secret, text, salt);
    let same_length = expected.len() == digest.len();
    let differs =
        expected.bytes().zip(digest.to_lowercase().bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    same_length && differs == 0
}

/// `[version, signature, salt]`.
pub(crate) fn handshake(secret: &str, env: &Env) -> Value {
    let salt = generate(env, 8);
    let text = format!("{HANDSHAKE_VERSION}:{HANDSHAKE_TEXT}");
    json!([HANDSHAKE_VERSION, sign(secret, &text, &salt), salt])
}

/// What is wrong with another cluster's handshake; nothing when it fits.
pub(crate) fn handshake_error(secret: &str, handshake: &[Value]) -> Option<String> {
    let [version, digest, salt] = handshake else {
        return Some(format!(
            "Invalid data: not enough values to unpack (expected 3, got {})",
            handshake.len()
        ));
    };
    let text = |value: &Value| model::python::str(value);
    let message = format!("{}:{HANDSHAKE_TEXT}", text(version));
    if !verify(secret, &message, &text(digest), &text(salt)) {
        return Some("Hash didn't match, clusters don't share the same domain secret".to_owned());
    }
    (version.as_u64() != Some(HANDSHAKE_VERSION)).then(|| {
        format!(
            "Clusters don't have the same remote import/export protocol (local={HANDSHAKE_VERSION}, remote={})",
            text(version)
        )
    })
}

/// What a disk's dump begins with: both sides compute it, or are told it (Ganeti 3.0, `_GetInstDiskMagic`).
pub(crate) fn magic(base: &str, instance: &str, at: usize) -> String {
    let mut hash = Sha1::new();
    for part in [&HANDSHAKE_VERSION.to_string(), base, instance, &at.to_string()] {
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

fn disk_text(at: usize, host: &str, port: &str, magic: &str) -> String {
    format!("{at}:{host}:{port}:{magic}")
}

/// Where a disk is waited for, as the other cluster is told: `[host, port, magic, signature, salt]`.
pub(crate) fn sign_disk(
    secret: &str,
    salt: &str,
    at: usize,
    (host, port, magic): (&str, u16, &str),
) -> Value {
    let digest = sign(secret, &disk_text(at, host, &port.to_string(), magic), salt);
    json!([host, port, magic, digest, salt])
}

/// Where the other cluster waits for a disk, and the magic; the error is what Ganeti says (3.0, `CheckRemoteExportDiskInfo`).
pub(crate) fn check_disk(
    secret: &str,
    at: usize,
    told: &Value,
) -> std::result::Result<(Destination, String), String> {
    let Some([host, port, magic, digest, salt]) = told.as_array().map(Vec::as_slice) else {
        let found = told.as_array().map_or(0, Vec::len);
        let which = if found > 5 {
            "too many values to unpack (expected 5)".to_owned()
        } else {
            format!("not enough values to unpack (expected 5, got {found})")
        };
        return Err(format!("Invalid data: {which}"));
    };
    if [host, port, magic].into_iter().any(|part| !python::truthy(part)) {
        return Err("Missing destination host, port or magic".to_owned());
    }
    let [host, port, magic, digest, salt] = [host, port, magic, digest, salt].map(python::str);
    if !verify(secret, &disk_text(at, &host, &port, &magic), &digest, &salt) {
        return Err("HMAC is wrong".to_owned());
    }
    let port = port.parse().map_err(|_| format!("Invalid service name '{port}'"))?;
    Ok((Destination { host, port }, magic))
}

/// A certificate with its signature before it.
pub(crate) fn sign_certificate(secret: &str, pem: &str, salt: &str) -> String {
    format!("{SIGNATURE_HEADER}: {salt}/{}\n\n{pem}", sign(secret, pem, salt))
}

/// The certificate of a signed text; the error is what Ganeti's says.
pub(crate) fn signed_certificate(
    secret: &str,
    text: &str,
) -> std::result::Result<String, &'static str> {
    let start = text.find("-----BEGIN CERTIFICATE-----").ok_or("Could not find certificate")?;
    let header =
        text.lines().find_map(|line| line.strip_prefix(SIGNATURE_HEADER)?.trim().strip_prefix(':'));
    let (salt, digest) = header
        .and_then(|rest| rest.trim().split_once('/'))
        .ok_or("Couldn't find salt signature")?;
    let pem = &text[start..];
    if verify(secret, pem, digest, salt) {
        Ok(pem.to_owned())
    } else {
        Err("Signature does not match data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_ganeti() {
        // What Python's hmac module says of the same key and salted text.
        assert_eq!(sign("secret", "text", "salt"), "2d26dd965839d731b9a206afae8dd2193726922d");
        assert!(verify("secret", "text", &sign("secret", "text", "s").to_uppercase(), "s"));
        assert!(!verify("secret", "text", &sign("secret", "other", "s"), "s"));
    }

    #[test]
    fn handshakes_need_the_same_secret() {
        let env = Env::seeded(1, 0);
        let hands = handshake("a", &env);
        let hands = hands.as_array().unwrap();
        assert_eq!(handshake_error("a", hands), None);
        let text = "Hash didn't match, clusters don't share the same domain secret";
        assert_eq!(handshake_error("b", hands).as_deref(), Some(text));
    }

    #[test]
    fn disks_are_signed_by_their_place() {
        // What Python's hashlib says of "0", the base, the name and the index.
        let magic = magic("abc", "web.example.com", 1);
        assert_eq!(magic, "c2b95512c0539f4d6a4f0f00b53571feee883de0");
        let told = sign_disk("s", "salt", 1, ("192.0.2.1", 4000, &magic));
        let destination = Destination { host: "192.0.2.1".to_owned(), port: 4000 };
        assert_eq!(check_disk("s", 1, &told), Ok((destination, magic)));
        let wrong = |told: &Value, at| check_disk("s", at, told).unwrap_err();
        assert_eq!(wrong(&told, 0), "HMAC is wrong");
        assert_eq!(
            wrong(&json!(["h", 0, "m", "d", "s"]), 0),
            "Missing destination host, port or magic"
        );
        let few = "Invalid data: not enough values to unpack (expected 5, got 1)";
        assert_eq!(wrong(&json!(["h"]), 0), few);
    }

    #[test]
    fn a_secret_is_one_line() {
        let root = tempfile::tempdir().unwrap();
        let env = Env::seeded(1, 0);
        let first = domain_secret(root.path(), &env).unwrap();
        renew_domain_secret(root.path(), Some("shared between us\n")).unwrap();
        assert_eq!(domain_secret(root.path(), &env).unwrap(), "shared between us");
        for bad in ["", "\n", "one\ntwo\n"] {
            assert!(renew_domain_secret(root.path(), Some(bad)).is_err(), "{bad:?}");
        }
        renew_domain_secret(root.path(), None).unwrap();
        let third = domain_secret(root.path(), &env).unwrap();
        assert!(third != first && third.len() == 40, "{third}");
    }

    #[test]
    fn certificates_carry_their_signature() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let signed = sign_certificate("a", pem, "salt");
        assert_eq!(signed_certificate("a", &signed).as_deref(), Ok(pem));
        assert_eq!(signed_certificate("b", &signed), Err("Signature does not match data"));
    }
}
