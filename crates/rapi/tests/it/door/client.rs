//! A server to talk to, and a client that sends what a test writes, byte for byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use rapi::metrics::Metrics;
use rapi::serve::{Options, Server};
use rapi::tls::{TlsFiles, ensure_certificate};
use rapi::users::Users;

use super::engine::StandIn;

/// No step of a test takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Who may log in to the servers of these tests: `writer`, `reader` and `plain`, the password is `pw`.
pub(crate) const USERS: &str = "writer pw write\nreader pw read\nplain pw\n";

/// `Authorization` headers of these.
pub(crate) const WRITER: &str = "Authorization: Basic d3JpdGVyOnB3\r\n";
pub(crate) const READER: &str = "Authorization: Basic cmVhZGVyOnB3\r\n";
pub(crate) const PLAIN: &str = "Authorization: Basic cGxhaW46cHc=\r\n";
/// Right name, wrong password.
pub(crate) const WRONG: &str = "Authorization: Basic d3JpdGVyOng=\r\n";

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) engine: Arc<StandIn>,
    pub(crate) metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    directory: TempDir,
}

/// Starts a server without TLS.
pub(crate) fn start(change: impl FnOnce(&mut Options)) -> Running {
    start_with(StandIn::open(), false, change)
}

/// Starts a server with TLS and a certificate of its own.
pub(crate) fn start_tls(change: impl FnOnce(&mut Options)) -> Running {
    start_with(StandIn::open(), true, change)
}

pub(crate) fn start_with(
    engine: Arc<StandIn>,
    tls: bool,
    change: impl FnOnce(&mut Options),
) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, USERS).unwrap();
    let pem = directory.path().join("rapi.pem");
    let tls = tls.then(|| {
        assert!(ensure_certificate(&pem).unwrap());
        TlsFiles::one(&pem)
    });
    let mut options = Options::new(tls, Arc::new(Users::new(Some(users))));
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    change(&mut options);
    let metrics = options.metrics.clone();
    let server = Server::bind(engine.clone(), options).unwrap();
    let addresses = server.addresses().to_vec();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { address: addresses[0], addresses, engine, metrics, stop: Some(stop), task, directory }
}

impl Running {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends a request on a connection of its own.
    pub(crate) async fn send(&self, request: &str) -> Response {
        let mut client = self.connect().await;
        client.send(request).await;
        client.response().await
    }

    /// Asks for a path, with further header lines.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")).await
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has.
    pub(crate) async fn ended(self) {
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }

    /// Waits until the server's counters are as wanted.
    pub(crate) async fn until(&self, is: impl Fn(&rapi::metrics::Snapshot) -> bool) {
        let looking = async {
            while !is(&self.metrics.snapshot()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, looking).await.unwrap();
    }
}

/// A TLS connection that trusts what is in a PEM file.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    pem: &Path,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// One connection.
pub(crate) struct Client<S> {
    stream: BufReader<S>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn message(&self) -> String {
        let document: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["code"], self.status);
        document["message"].as_str().unwrap().to_owned()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        timeout(LIMIT, self.stream.write_all(text.as_bytes())).await.unwrap().unwrap();
    }

    /// Reads a response whose length is given.
    pub(crate) async fn response(&mut self) -> Response {
        let (version, status, headers) = self.head().await;
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        timeout(LIMIT, self.stream.read_exact(&mut body)).await.unwrap().unwrap();
        Response { version, status, headers, body: String::from_utf8(body).unwrap() }
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> (String, u16, HashMap<String, String>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(LIMIT, self.stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let (version, rest) = lines.next().unwrap().split_once(' ').unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers =
            headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        (version.to_owned(), rest[..3].parse().unwrap(), headers)
    }

    /// Whether the server closes the connection, and says nothing before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.unwrap();
        rest.is_empty()
    }
}
