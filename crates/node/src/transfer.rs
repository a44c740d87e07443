//! Disks on their way between clusters, as Ganeti's import-export daemons move them (3.0, `impexpd`): the receiving side
//! listens, the sending side connects by TLS, and each knows the other's one certificate in advance. What goes over the
//! wire is a magic text and then the dump, compressed together where that was agreed on.
//!
//! ```text
//!   export script ─▶ magic + dump ─▶ compressor ─▶ TLS ──▶ TLS ─▶ decompressor ─▶ magic? ─▶ import script
//! ```
//! The dump ends with TLS's own farewell: without it the receiver takes nothing for complete. The receiver answers with its
//! own once the disk is filled, so that a sender knows whether it may remove what it sent.

use std::fs::File;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use model::x509;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::crypto::{COMMON_NAME, Identity, certificate};
use crate::os::scripts::{DUMP_LIMIT, Scripts};
use crate::process::Process;
use crate::{Feedback, NodeError, Result};

/// How long one attempt to connect may take, how many there are, and how far apart (Ganeti 3.0, `RIE_CONNECT_*`).
const ATTEMPT_LIMIT: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// How long the other side may take to say who it is once it is connected, and to send the magic text.
const GREETING_LIMIT: Duration = Duration::from_secs(20);
/// How long the other side may take to fill the disk after it has all of the dump.
const FILL_LIMIT: Duration = Duration::from_secs(3600);
/// How much is moved at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What both sides of a disk's transfer have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// The name of this side's key on this node.
    pub key_name: String,
    /// The other side's certificate, as PEM.
    pub peer: String,
    /// What the dump begins with.
    pub magic: String,
    /// The way of compression; `none` for none.
    pub compress: String,
}

/// Where a disk is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: String,
    pub port: u16,
}

/// Told when the other side is there.
pub type Connected = Box<dyn FnOnce() + Send>;

/// A node that waits for a disk.
pub struct Receiving {
    /// Where the sender reaches it.
    pub host: IpAddr,
    pub port: u16,
    /// Receives the disk; nothing happens unless it is awaited.
    pub done: BoxFuture<'static, Result<()>>,
}

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// Takes one certificate and no other. Names, times and authorities are of no interest: which certificate it is was signed
/// with the secret that the clusters share.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Only {
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        match *presented == self.certificate {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// Ganeti's certificates are of version 1, of which only the key can be read.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = x509::public_key(certificate).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(key);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

fn only(peer: &str) -> Result<(Arc<Only>, Arc<CryptoProvider>)> {
    let provider = Arc::new(ring::default_provider());
    let certificate = certificate(peer)?;
    Ok((Arc::new(Only { certificate, provider: provider.clone() }), provider))
}

fn tls(error: &Error) -> NodeError {
    failed(format!("can't set TLS up: {error}"))
}

fn acceptor(identity: Identity, peer: &str) -> Result<TlsAcceptor> {
    let (only, provider) = only(peer)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(only)
        .with_single_cert(vec![identity.certificate], identity.key)
        .map_err(|error| tls(&error))?;
    // A sender may never read, and what it leaves unread would cut its connection off before the end.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(identity: Identity, peer: &str) -> Result<TlsConnector> {
    let (only, provider) = only(peer)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| tls(&error))?
        .dangerous()
        .with_custom_certificate_verifier(only)
        .with_client_auth_cert(vec![identity.certificate], identity.key)
        .map_err(|error| tls(&error))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The command for a way of compression. Ganeti: any other tool is one that takes `-d` (3.0, `impexpd`).
fn compressor(name: &str, back: bool) -> Result<Option<Process>> {
    let (tool, level) = match name {
        "" | "none" => return Ok(None),
        "gzip" | "gzip-fast" => ("gzip", Some("-1")),
        "gzip-slow" => ("gzip", None),
        other if crate::hooks::is_plugin_name(other) => (other, None),
        other => return Err(failed(format!("'{other}' is no name of a compression tool"))),
    };
    let writes_files = matches!(tool, "gzip" | "lzop").then_some("-c");
    let args = writes_files.into_iter().chain(if back { Some("-d") } else { level });
    Ok(Some(Process::new(tool, DUMP_LIMIT).args(args)))
}

/// What the dump begins with on the wire.
fn magic_text(magic: &str) -> String {
    format!("M={magic}")
}

/// The address under which this machine is reached by others, when a node's own is a loopback one.
pub(crate) fn reachable(address: IpAddr) -> IpAddr {
    if !address.is_loopback() {
        return address;
    }
    // Nothing is sent: the kernel only chooses the address that it would send from.
    let chosen = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    chosen.map_or(address, |chosen| chosen.ip())
}

pub(crate) async fn listen(host: IpAddr) -> Result<(TcpListener, u16)> {
    let bound = async {
        let listener = TcpListener::bind((host, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    };
    bound.await.map_err(|error: io::Error| failed(format!("can't listen on {host}: {error}")))
}

/// Both ends notice when the other's machine is gone (Ganeti 3.0, `SOCAT_TCP_OPTS`).
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 5)?;
    Ok(())
}

/// Waits for the sender; whoever is not it is sent away.
async fn accept(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
) -> io::Result<server::TlsStream<TcpStream>> {
    loop {
        let (stream, from) = listener.accept().await?;
        keep_alive(&stream)?;
        match timeout(GREETING_LIMIT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => tracing::warn!(%from, %error, "a sender of a disk was sent away"),
            Err(_) => tracing::warn!(%from, "a sender of a disk did not say who it is"),
        }
    }
}

async fn connect(
    destination: &Destination,
    connector: &TlsConnector,
) -> Result<client::TlsStream<TcpStream>> {
    let Destination { host, port } = destination;
    let name = ServerName::try_from(COMMON_NAME).map_err(|error| failed(error.to_string()))?;
    let attempt = async || -> io::Result<client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        keep_alive(&stream)?;
        connector.connect(name.clone(), stream).await
    };
    let mut last = String::new();
    for at in 0..ATTEMPTS {
        if at > 0 {
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
        last = match timeout(ATTEMPT_LIMIT, attempt()).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {}s", ATTEMPT_LIMIT.as_secs()),
        };
    }
    Err(failed(format!("can't connect to {host}:{port}: {last}")))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Moves everything. Where the taker has enough, which its own end tells whether that is right, the rest is passed over.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut takes = true;
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return if takes { to.flush().await } else { Ok(()) };
        }
        if takes {
            match to.write_all(&chunk[..count]).await {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => takes = false,
                written => written?,
            }
        }
    }
}

fn lost(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |error| failed(format!("{what}: {error}"))
}

/// Reads the magic text.
async fn check_magic(from: &mut (impl AsyncRead + Unpin), magic: &str) -> Result<()> {
    let expected = magic_text(magic);
    let mut text = vec![0; expected.len()];
    match timeout(GREETING_LIMIT, from.read_exact(&mut text)).await {
        Ok(Ok(_)) if text == expected.as_bytes() => Ok(()),
        Ok(Ok(_)) => Err(failed("Magic value mismatch")),
        Ok(Err(error)) => Err(lost("the dump did not begin")(error)),
        Err(_) => Err(failed("the dump did not begin in time")),
    }
}

/// Checks the magic text and hands the rest to the import script.
async fn fill(
    from: &mut (impl AsyncRead + Unpin),
    magic: &str,
    scripts: &Scripts,
    index: usize,
    out: Feedback,
) -> Result<()> {
    check_magic(from, magic).await?;
    let (reader, writer) = pipe().map_err(lost("can't make a pipe"))?;
    let feed = async move {
        let mut writer = pipe::Sender::from_owned_fd(writer)?;
        pump(from, &mut writer).await
    };
    let feed = async { feed.await.map_err(lost("the dump broke off")) };
    tokio::try_join!(feed, scripts.import(index, File::from(reader), out)).map(drop)
}

/// Waits for a sender, at most so long, and fills a disk with what it sends.
pub(crate) async fn receive(
    listener: TcpListener,
    identity: Identity,
    options: &TransferOptions,
    limit: Duration,
    (scripts, index): (&Scripts, usize),
    connected: Connected,
    out: Feedback,
) -> Result<()> {
    let acceptor = acceptor(identity, &options.peer)?;
    let decompressor = compressor(&options.compress, true)?;
    let deadline = Instant::now() + limit;
    let accepted = timeout_at(deadline, accept(&listener, &acceptor)).await;
    // Ganeti's words (3.0, `masterd/instance.py`).
    let late = |_| failed(format!("Not connected after {} seconds", limit.as_secs()));
    let stream = accepted.map_err(late)?.map_err(lost("can't wait for a sender"))?;
    drop(listener);
    connected();
    let mut stream = BufReader::with_capacity(CHUNK_BYTES, stream);
    match decompressor {
        None => fill(&mut stream, &options.magic, scripts, index, out).await?,
        Some(tool) => {
            let (tool_in, writer) = pipe().map_err(lost("can't make a pipe"))?;
            let (reader, tool_out) = pipe().map_err(lost("can't make a pipe"))?;
            let tool = tool.stdin(File::from(tool_in)).stdout(File::from(tool_out)).check();
            let tool = async { tool.await.map_err(|error| failed(error.to_string())) };
            let source = &mut stream;
            let feed = async move {
                let mut writer = pipe::Sender::from_owned_fd(writer)?;
                pump(source, &mut writer).await
            };
            let feed = async { feed.await.map_err(lost("the dump broke off")) };
            let fill = async {
                let reader = pipe::Receiver::from_owned_fd(reader);
                let mut reader = reader.map_err(lost("can't read from a pipe"))?;
                fill(&mut reader, &options.magic, scripts, index, out).await
            };
            tokio::try_join!(feed, tool, fill).map(drop)?;
        }
    }
    // A sender that does not wait for it may be gone.
    let _ = stream.get_mut().shutdown().await;
    Ok(())
}

/// Sends a dump of a device, and waits until the other side has put it away.
pub(crate) async fn send(
    identity: Identity,
    options: &TransferOptions,
    destination: &Destination,
    (scripts, index, device): (&Scripts, usize, &Path),
    connected: Connected,
    out: Feedback,
) -> Result<()> {
    let connector = connector(identity, &options.peer)?;
    let compressor = compressor(&options.compress, false)?;
    let mut stream = connect(destination, &connector).await?;
    connected();
    let magic = magic_text(&options.magic);
    let (dump, into) = pipe().map_err(lost("can't make a pipe"))?;
    let export = scripts.export(index, device, File::from(into), out);
    let wire = &mut stream;
    match compressor {
        None => {
            let feed = async move {
                let mut dump = pipe::Receiver::from_owned_fd(dump)?;
                wire.write_all(magic.as_bytes()).await?;
                pump_out(&mut dump, wire).await
            };
            let feed = async { feed.await.map_err(lost("can't send")) };
            tokio::try_join!(feed, export).map(drop)?;
        }
        Some(tool) => {
            let (tool_in, writer) = pipe().map_err(lost("can't make a pipe"))?;
            let (reader, tool_out) = pipe().map_err(lost("can't make a pipe"))?;
            let tool = tool.stdin(File::from(tool_in)).stdout(File::from(tool_out)).check();
            let tool = async { tool.await.map_err(|error| failed(error.to_string())) };
            let feed = async move {
                let mut dump = pipe::Receiver::from_owned_fd(dump)?;
                let mut writer = pipe::Sender::from_owned_fd(writer)?;
                writer.write_all(magic.as_bytes()).await?;
                pump(&mut dump, &mut writer).await
            };
            let feed = async { feed.await.map_err(lost("can't compress")) };
            let send = async move {
                let mut reader = pipe::Receiver::from_owned_fd(reader)?;
                pump_out(&mut reader, wire).await
            };
            let send = async { send.await.map_err(lost("can't send")) };
            tokio::try_join!(send, feed, tool, export).map(drop)?;
        }
    }
    stream.shutdown().await.map_err(lost("can't send"))?;
    let mut rest = [0; 1];
    match timeout(FILL_LIMIT, stream.read(&mut rest)).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(_)) => Err(failed("the other side sent something")),
        Ok(Err(_)) => Err(failed("the other side did not take the disk")),
        Err(_) => Err(failed("the other side does not say that it took the disk")),
    }
}

/// Moves everything to the other side; that it takes no more is an error here.
async fn pump_out(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(CHUNK_BYTES, from);
    tokio::io::copy_buf(&mut from, to).await?;
    to.flush().await
}

#[cfg(test)]
mod tests;
