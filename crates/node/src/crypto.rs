//! Keys and certificates for transfers between clusters: each pair has a directory of its own, and the key never leaves the
//! node. One side's certificate is told to the other in advance; nobody else vouches for it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::x509;
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::exports::plain;
use crate::{NodeError, Result};

const KEY: &str = "key";
const CERTIFICATE: &str = "cert";
/// What clients of Ganeti expect a node's certificate to be for (Ganeti 3.0, `X509_CERT_CN`).
pub(crate) const COMMON_NAME: &str = "ganeti.example.com";
/// The longest that a certificate may hold (Ganeti 3.0, `_MAX_SSL_CERT_VALIDITY`).
const VALIDITY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The directory of key pairs.
pub(crate) struct Crypto {
    pub(crate) dir: PathBuf,
}

/// A certificate and the key that belongs to it.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

fn failed(what: &str, why: impl std::fmt::Display) -> NodeError {
    NodeError::Failed(format!("{what}: {why}"))
}

/// The certificate in a text.
pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| failed("no certificate", error))
}

impl Crypto {
    /// Makes a pair: its name and the certificate. Pairs whose time is over are removed.
    pub(crate) fn create(&self, validity: Duration) -> Result<(String, String)> {
        let made = |error: rcgen::Error| failed("can't make a certificate", error);
        let now = SystemTime::now();
        self.sweep(now);
        let key = KeyPair::generate().map_err(made)?;
        let mut wanted = CertificateParams::new(vec![COMMON_NAME.to_owned()]).map_err(made)?;
        wanted.distinguished_name.push(DnType::CommonName, COMMON_NAME);
        wanted.not_before = now.into();
        wanted.not_after = (now + validity.min(VALIDITY_MAX)).into();
        let pem = wanted.self_signed(&key).map_err(made)?.pem();
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let name = format!("x509-{since}-{}", uuid::Uuid::new_v4().simple());
        let dir = self.dir.join(&name);
        let io = |error: io::Error| failed(&dir.display().to_string(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let write = |file: &str, text: &str| {
            let new =
                OpenOptions::new().write(true).create_new(true).mode(0o400).open(dir.join(file));
            new.and_then(|mut file| file.write_all(text.as_bytes()))
        };
        write(KEY, &key.serialize_pem()).and_then(|()| write(CERTIFICATE, &pem)).map_err(
            |error| {
                // The first error is the one to tell.
                let _ = fs::remove_dir_all(&dir);
                io(error)
            },
        )?;
        Ok((name, pem))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let dir = self.dir.join(plain(name)?);
        fs::remove_dir_all(&dir).map_err(|error| {
            failed(&format!("Cannot remove certificate directory '{}'", dir.display()), error)
        })
    }

    pub(crate) fn load(&self, name: &str) -> Result<Identity> {
        let dir = self.dir.join(plain(name)?);
        let read = |file: &str| -> Result<String> {
            let path = dir.join(file);
            fs::read_to_string(&path).map_err(|error| failed(&path.display().to_string(), error))
        };
        let key = PrivateKeyDer::from_pem_slice(read(KEY)?.as_bytes())
            .map_err(|error| failed("no private key", error))?;
        Ok(Identity { certificate: certificate(&read(CERTIFICATE)?)?, key })
    }

    /// Removes what holds no longer: nobody can use it.
    fn sweep(&self, now: SystemTime) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if is_over(&entry.path(), now) {
                // Another may be at it; the next one tries again.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn is_over(dir: &Path, now: SystemTime) -> bool {
    let text = fs::read_to_string(dir.join(CERTIFICATE)).unwrap_or_default();
    let end = certificate(&text).ok().and_then(|der| Some(x509::validity(&der)?.1));
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    end.is_some_and(|end| u64::try_from(end).unwrap_or(0) < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_made_found_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let crypto = Crypto { dir: root.path().join("crypto") };
        let day = Duration::from_secs(86_400);
        let (name, pem) = crypto.create(day).unwrap();
        let identity = crypto.load(&name).unwrap();
        assert_eq!(identity.certificate, certificate(&pem).unwrap());
        let (from, to) = x509::validity(&identity.certificate).unwrap();
        assert_eq!(to - from, 86_400);
        assert!(crypto.load("../crypto").is_err());
        // One whose time is over goes when the next one comes.
        let (over, _) = crypto.create(Duration::ZERO).unwrap();
        crypto.sweep(SystemTime::now() + Duration::from_secs(5));
        assert!(crypto.load(&over).is_err());
        crypto.remove(&name).unwrap();
        assert!(crypto.load(&name).is_err());
    }
}
