//! A small HTTPS client: one connection per request, as Ganeti's stock client does it, no check of certificates, and
//! nothing added to a request that the scenario did not ask for, so that odd requests stay odd.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, SignatureScheme};

/// How long one request may take, the daemon's own ten seconds of `/wait` and its blocking `/2/os` included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// A request as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The request target.
    pub target: String,
    /// All headers but Host and Content-Length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The Content-Type header.
    pub content_type: Option<String>,
    /// The WWW-Authenticate header.
    pub www_authenticate: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not `http://host:port` or `https://host:port`.
    #[error("{0}: not an address like https://127.0.0.1:5080")]
    Address(String),
    /// The connection could not be made or broke.
    #[error("connection to {address}")]
    Connection {
        /// Where to.
        address: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be written as HTTP.
    #[error("request {target}")]
    Request {
        /// The request target.
        target: String,
        /// Why not.
        #[source]
        source: hyper::http::Error,
    },
    /// The answer is not HTTP.
    #[error("exchange with {address}")]
    Exchange {
        /// Where to.
        address: String,
        /// What happened.
        #[source]
        source: hyper::Error,
    },
    /// Nothing came in time.
    #[error("no answer from {0} in time")]
    Timeout(String),
    /// TLS could not be set up.
    #[error("TLS setup")]
    Tls(#[source] rustls::Error),
}

/// A daemon's address, and how to speak to it.
#[derive(Clone)]
pub struct Client {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Client({}:{})", self.host, self.port)
    }
}

impl Client {
    /// A client of the daemon at `https://host:port` or `http://host:port`.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Address(address.to_owned());
        let (scheme, rest) = address.split_once("://").ok_or_else(bad)?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let tls = match scheme {
            "http" => None,
            "https" => {
                let provider = Arc::new(ring::default_provider());
                let config = ClientConfig::builder_with_provider(provider.clone())
                    .with_safe_default_protocol_versions()
                    .map_err(ClientError::Tls)?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                    .with_no_client_auth();
                Some(TlsConnector::from(Arc::new(config)))
            }
            _ => return Err(bad()),
        };
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port, tls })
    }

    /// Sends one request over a new connection.
    pub async fn send(&self, request: &Request) -> Result<Answer, ClientError> {
        tokio::time::timeout(REQUEST_TIMEOUT, self.connect_and_send(request))
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout(self.address())))
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn connect_and_send(&self, request: &Request) -> Result<Answer, ClientError> {
        let failed = |source| ClientError::Connection { address: self.address(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return self.exchange(stream, request).await };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| ClientError::Address(self.address()))?;
        let stream = tls.connect(name, stream).await.map_err(failed)?;
        self.exchange(stream, request).await
    }

    async fn exchange<S>(&self, stream: S, request: &Request) -> Result<Answer, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |source| ClientError::Exchange { address: self.address(), source };
        let bad = |source| ClientError::Request { target: request.target.clone(), source };
        let mut builder = hyper::Request::builder()
            .method(request.method.as_str())
            .uri(request.target.as_str())
            .header("Host", self.address());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let body = Full::new(Bytes::from(request.body.clone().unwrap_or_default()));
        let request = builder.body(body).map_err(bad)?;

        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let talk = async {
            let answer = sender.send_request(request).await?;
            let header = |name: &str| {
                answer
                    .headers()
                    .get(name)
                    .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            let (status, content_type, www_authenticate) =
                (answer.status().as_u16(), header("content-type"), header("www-authenticate"));
            let body = answer.into_body().collect().await?.to_bytes();
            Ok(Answer { status, content_type, www_authenticate, body })
        };
        tokio::pin!(talk, connection);
        // The connection's future only moves bytes; when it ends first, the other one says how the exchange went.
        tokio::select! {
            answer = &mut talk => answer.map_err(failed),
            ended = &mut connection => {
                match ended {
                    Ok(()) => talk.await.map_err(failed),
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }
}

/// Accepts every certificate: these daemons sign their own, and this client only ever speaks to test clusters.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Not even the signature: Ganeti's certificates are of X.509 version 1, which rustls does not read.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(Client::new("https://127.0.0.1:5080").unwrap().address(), "127.0.0.1:5080");
        assert_eq!(Client::new("http://[::1]:80/").unwrap().address(), "::1:80");
        for address in ["127.0.0.1:5080", "ftp://x:1", "https://x", "https://x:y"] {
            assert!(Client::new(address).is_err(), "{address}");
        }
    }
}
