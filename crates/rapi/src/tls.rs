//! TLS: the certificate and its key, made on first use, and read again when their files change.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use model::x509;
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{ProducesTickets, ServerConfig};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, CertificateError, InconsistentKeys, version};

use crate::limits;
use crate::replace::replace;
use crate::users::Stamp;

/// How long a certificate that is made here is valid.
const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM; may be the same file.
    pub key: PathBuf,
    /// Further certificates between the server's and one that clients know, as PEM.
    pub chain: Option<PathBuf>,
}

impl TlsFiles {
    /// Certificate and key in one file, as Ganeti's `rapi.pem`.
    pub fn one(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { certificate: path.clone(), key: path, chain: None }
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let files = [Some(&self.certificate), Some(&self.key), self.chain.as_ref()];
        let stamp = |path: &PathBuf| fs::metadata(path).ok().map(|m: Metadata| Stamp::of(&m));
        files.into_iter().flatten().map(stamp).collect()
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot access {0}")]
    Access(PathBuf, #[source] io::Error),
    #[error("{0} holds no {1} as PEM")]
    Pem(PathBuf, &'static str, #[source] pem::Error),
    #[error("certificate and key cannot be used")]
    Use(#[source] rustls::Error),
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
}

/// The TLS configuration for new connections.
pub(crate) struct Tls {
    files: TlsFiles,
    tickets: Option<Arc<dyn ProducesTickets>>,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// What the files were when they were looked at last.
struct Seen {
    at: Instant,
    stamps: Vec<Option<Stamp>>,
}

impl Tls {
    pub(crate) fn new(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let tickets = ring::Ticketer::new().ok();
        let config = load(&files, tickets.clone())?;
        let seen = Mutex::new(Seen { at: Instant::now(), stamps });
        Ok(Self { files, tickets, current: RwLock::new(Arc::new(config)), seen })
    }

    /// The configuration as the files have it, looked at once a second at most. Files that cannot be used change nothing.
    pub(crate) fn current(&self, now: Instant) -> Arc<ServerConfig> {
        if let Ok(mut seen) = self.seen.try_lock()
            && now.saturating_duration_since(seen.at) >= limits::CERTIFICATE_AGE
        {
            seen.at = now;
            let stamps = self.files.stamps();
            if stamps != seen.stamps {
                seen.stamps = stamps;
                self.reload();
            }
        }
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reload(&self) {
        let file = self.files.certificate.display();
        match load(&self.files, self.tickets.clone()) {
            Ok(config) => {
                tracing::info!("read the certificate in {file} again");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
                let why = why.unwrap_or_default();
                tracing::error!("the changed certificate in {file} is not used: {error}{why}");
            }
        }
    }
}

fn load(
    files: &TlsFiles,
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<ServerConfig, TlsError> {
    let mut certificates = certificates(&files.certificate)?;
    if let Some(chain) = &files.chain {
        certificates.extend(self::certificates(chain)?);
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| TlsError::Pem(files.key.clone(), "private key", error))?;
    let certified = certified(certificates, key).map_err(TlsError::Use)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(TlsError::Use)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Ok(config)
}

/// Certificates with the key that belongs to the first of them.
fn certified(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key = ring::default_provider().key_provider.load_private_key(key)?;
    let certificate = certificates.first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let public = x509::public_key(certificate).ok_or(CertificateError::BadEncoding)?;
    // Keys that cannot tell their public half are taken as they are.
    if key.public_key().is_some_and(|key| key.as_ref() != public) {
        return Err(InconsistentKeys::KeyMismatch.into());
    }
    Ok(CertifiedKey::new(certificates, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let missing = |error| TlsError::Pem(path.into(), "certificate", error);
    let certificates = certificates.map_err(missing)?;
    if certificates.is_empty() {
        return Err(missing(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Access(path.into(), error))
}

/// Makes a certificate that vouches for itself, with its key in the same file, unless the file is there: whether it did.
pub fn ensure_certificate(path: &Path) -> Result<bool, TlsError> {
    let access = |error| TlsError::Access(path.into(), error);
    if fs::exists(path).map_err(access)? {
        return Ok(false);
    }
    let text = self_signed().map_err(TlsError::Make)?;
    replace(path, text.as_bytes(), 0o600).map_err(access)?;
    Ok(true)
}

/// A key and a certificate of its own for this machine, as PEM.
fn self_signed() -> Result<String, rcgen::Error> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !host.is_empty() && host.is_ascii() && !names.contains(&host) {
        names.push(host.clone());
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, host);
    let now = SystemTime::now();
    // A day earlier, for clients whose clock is behind.
    params.not_before = (now - Duration::from_secs(24 * 3600)).into();
    params.not_after = (now + VALID).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_read_again_and_a_broken_one_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rapi.pem");
        assert!(ensure_certificate(&path).unwrap());
        assert!(!ensure_certificate(&path).unwrap(), "it is there");
        let tls = Tls::new(TlsFiles::one(&path)).unwrap();
        let begin = Instant::now();
        let first = tls.current(begin);
        let at = |seconds| begin + Duration::from_secs(seconds);
        let is_same = |a: &Arc<ServerConfig>, b: &Arc<ServerConfig>| Arc::ptr_eq(a, b);

        fs::remove_file(&path).unwrap();
        ensure_certificate(&path).unwrap();
        assert!(is_same(&first, &tls.current(begin)), "it was looked at just now");
        let second = tls.current(at(2));
        assert!(!is_same(&first, &second));
        for (seconds, broken) in [(4, "nothing"), (6, "-----BEGIN CERTIFICATE-----\nAAAA\n")] {
            replace(&path, broken.as_bytes(), 0o600).unwrap();
            assert!(is_same(&second, &tls.current(at(seconds))), "{broken}");
        }
        fs::remove_file(&path).unwrap();
        assert!(is_same(&second, &tls.current(at(8))));
        ensure_certificate(&path).unwrap();
        assert!(!is_same(&second, &tls.current(at(10))));
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one.pem"), directory.path().join("other.pem"));
        ensure_certificate(&one).unwrap();
        ensure_certificate(&other).unwrap();
        let files = |key: &Path, chain: Option<&Path>| TlsFiles {
            certificate: one.clone(),
            key: key.into(),
            chain: chain.map(Path::to_owned),
        };
        assert!(Tls::new(files(&one, Some(&other))).is_ok());
        assert!(matches!(Tls::new(files(&other, None)), Err(TlsError::Use(_))));
        let missing = directory.path().join("missing.pem");
        assert!(matches!(Tls::new(files(&missing, None)), Err(TlsError::Access(..))));
    }

    /// As Ganeti makes its own: `openssl x509` says "Version: 1 (0x0)".
    const VERSION_1: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgrw4aGSWvuH1MoxLc
Si9kufevDOpC15lh/m2SjrnHqOOhRANCAAT/C1832NUU6QKMOh5YPisRfqPpDd5T
epO0sZZzYGryI9AlWMbuV1FbZIGfrMFrd4gUF8gXcF9qG/ousmWmIcYG
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBNzCB3QIUFjFpP8rLxWlSEw7SeywFfoHvi0cwCgYIKoZIzj0EAwIwHTEbMBkG
A1UEAwwSZ2FuZXRpLmV4YW1wbGUuY29tMCAXDTI2MTEyMzEwMzk1MloYDzIxMjYx
MDMwMTAzOTUyWjAdMRswGQYDVQQDDBJnYW5ldGkuZXhhbXBsZS5jb20wWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAT/C1832NUU6QKMOh5YPisRfqPpDd5TepO0sZZz
YGryI9AlWMbuV1FbZIGfrMFrd4gUF8gXcF9qG/ousmWmIcYGMAoGCCqGSM49BAMC
A0kAMEYCIQD45JLeftk2fpn5cDZF3wjo22rxKRX0EvvYmq4QjobT5AIhAKpMjVv2
sDBg9/HW0adxVGYvRHvv0S7oc+mD/dH8x7P1
-----END CERTIFICATE-----
";

    #[test]
    fn a_certificate_of_version_1_as_ganeti_makes_them_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let (ganeti, other) = (directory.path().join("rapi.pem"), directory.path().join("o.pem"));
        fs::write(&ganeti, VERSION_1).unwrap();
        ensure_certificate(&other).unwrap();
        let files = |certificate: &Path, key: &Path| TlsFiles {
            certificate: certificate.into(),
            key: key.into(),
            chain: None,
        };
        assert!(Tls::new(files(&ganeti, &ganeti)).is_ok());
        for (certificate, key) in [(&ganeti, &other), (&other, &ganeti)] {
            assert!(matches!(Tls::new(files(certificate, key)), Err(TlsError::Use(_))));
        }
    }
}
