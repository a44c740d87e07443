//! A small client of the remote API, for the command line, the tests and the tools: HTTPS with keep-alive, one call for any
//! route of the table, and the wait for a job.

use std::fmt;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};

use model::job::Status;

use crate::input::Method;
use crate::table::ROUTES;

/// How long making a connection may take, unless told otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take; `/wait` takes ten seconds, operating systems as long as their job.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// How many idle connections are kept.
const IDLE_MAX: usize = 8;

/// Which server's certificate is trusted.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Any: for a server on this machine, and for tests.
    Any,
    /// One of these, in PEM, or one that is signed by one of these.
    Pem(Vec<u8>),
}

/// Why there is no answer to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// The HTTP status; 0 when the server did not answer.
    pub code: u16,
    /// What is wrong, as plain text.
    pub message: String,
    /// What the status means.
    pub explain: String,
}

impl ClientError {
    fn unreachable(message: impl fmt::Display) -> Self {
        Self { code: 0, message: message.to_string(), explain: String::new() }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => f.write_str(&self.message),
            code => write!(f, "{code} {}: {}", self.message, self.explain),
        }
    }
}

impl std::error::Error for ClientError {}

/// The path of a route with its variables filled in, in their order.
pub fn path(template: &str, values: &[&str]) -> Result<String, ClientError> {
    let known = ROUTES.iter().any(|route| route.path == template);
    let mut values = values.iter();
    let mut path = String::new();
    for part in template.split('/').skip(1) {
        path.push('/');
        if part.starts_with('{') {
            let missing = || ClientError::unreachable(format!("{template} lacks a value"));
            encode(&mut path, values.next().ok_or_else(missing)?);
        } else {
            path.push_str(part);
        }
    }
    match (known, values.next()) {
        (true, None) => Ok(path),
        (false, _) => Err(ClientError::unreachable(format!("{template} is no route"))),
        (true, Some(_)) => Err(ClientError::unreachable(format!("{template} takes fewer values"))),
    }
}

/// A client of one server. Calls may be made at the same time; each uses a connection of its own.
pub struct Client {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    authorization: Option<String>,
    connect_time: Duration,
    idle: Mutex<Vec<Connection>>,
}

/// A connection and the task that moves its bytes, which ends with it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// A client of the server at `https://HOST:PORT` or, without TLS, `http://HOST:PORT`.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, ClientError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| ClientError::unreachable(format!("{url} is no address")))?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| ClientError::unreachable("no such port"))?;
                (host, port)
            }
            _ => (authority, 5080),
        };
        let tls = match scheme {
            "https" => Some(connector(trust).map_err(ClientError::unreachable)?),
            "http" => None,
            other => return Err(ClientError::unreachable(format!("{other} is not spoken"))),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let connect_time = CONNECT_TIMEOUT;
        let (authorization, idle) = (None, Mutex::default());
        Ok(Self { host, port, tls, authorization, connect_time, idle })
    }

    /// The same client for a user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.authorization = Some(format!("Basic {}", BASE64.encode(format!("{name}:{password}"))));
        self
    }

    /// The same client, with so much time for making a connection.
    #[must_use]
    pub fn connect_time(mut self, time: Duration) -> Self {
        self.connect_time = time;
        self
    }

    /// Closes the connections that are idle; the next call makes a new one.
    pub fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Calls a path with query arguments and a body, and takes the JSON that it answers.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let (status, bytes) = self.raw(method, path, query, body).await?;
        let answer = serde_json::from_slice::<Value>(&bytes);
        if status == 200 {
            return answer.map_err(|error| ClientError::unreachable(format!("no JSON: {error}")));
        }
        let document = answer.unwrap_or_default();
        let text = |name: &str| unescape(document[name].as_str().unwrap_or_default());
        Err(ClientError { code: status, message: text("message"), explain: text("explain") })
    }

    /// Calls a path, and takes whatever it answers.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<(u16, Bytes), ClientError> {
        let mut target = path.to_owned();
        for (at, (name, value)) in query.iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            encode(&mut target, name);
            target.push('=');
            encode(&mut target, value);
        }
        let body = body.map(|body| Bytes::from(body.to_string()));
        let request = self.request(method, &target, body)?;
        let answered = timeout(ANSWER_TIMEOUT, self.exchange(request));
        let (status, bytes, connection) = answered
            .await
            .map_err(|_| ClientError::unreachable("the server does not answer in time"))??;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push(connection);
        }
        Ok((status, bytes))
    }

    /// Sends a request on a connection that was idle, or else on a new one. The server may have closed the idle one by now; only
    /// what was not sent is sent again, so nothing is done twice.
    async fn exchange(
        &self,
        mut request: http::Request<Full<Bytes>>,
    ) -> Result<(u16, Bytes, Connection), ClientError> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                None => timeout(self.connect_time, self.connect()).await.map_err(|_| {
                    ClientError::unreachable("the server cannot be reached in time")
                })??,
            };
            let response = match connection.sender.try_send_request(request).await {
                Ok(response) => response,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(ClientError::unreachable(error.into_error())),
                },
            };
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(ClientError::unreachable)?;
            return Ok((status, body.to_bytes(), connection));
        }
    }

    /// Submits a job: as [`Client::call`], for routes that answer a job's id.
    pub async fn submit(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<u64, ClientError> {
        let answer = self.call(method, path, query, body).await?;
        answer.as_u64().ok_or_else(|| ClientError::unreachable(format!("{answer} is no job's id")))
    }

    /// Waits for the end of a job and shows it; `log` is given each entry of its log as it comes.
    pub async fn wait(&self, job: u64, mut log: impl FnMut(&Value)) -> Result<Value, ClientError> {
        let path = format!("/2/jobs/{job}");
        let wait = format!("{path}/wait");
        let mut asked = json!({"fields": ["status"]});
        loop {
            let seen = self.call(Method::Get, &wait, &[], Some(&asked)).await?;
            for entry in seen["log_entries"].as_array().into_iter().flatten() {
                log(entry);
                asked["previous_log_serial"] = entry[0].clone();
            }
            let status = seen["job_info"][0].as_str().and_then(Status::parse);
            if status.is_some_and(Status::is_final) {
                return self.call(Method::Get, &path, &[], None).await;
            }
            // Nothing is answered when nothing changed.
            if !seen.is_null() {
                asked["previous_job_info"] = seen["job_info"].clone();
            }
        }
    }

    fn request(
        &self,
        method: Method,
        target: &str,
        body: Option<Bytes>,
    ) -> Result<http::Request<Full<Bytes>>, ClientError> {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = http::Request::builder()
            .method(method.as_str())
            .uri(target)
            .header(HOST, format!("{host}:{}", self.port));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body.unwrap_or_default())).map_err(ClientError::unreachable)
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| {
                ClientError::unreachable(format!("{}:{}: {error}", self.host, self.port))
            })?;
        stream.set_nodelay(true).map_err(ClientError::unreachable)?;
        let Some(tls) = &self.tls else {
            return start(stream).await;
        };
        let name = ServerName::try_from(self.host.clone()).map_err(ClientError::unreachable)?;
        start(tls.connect(name, stream).await.map_err(ClientError::unreachable)?).await
    }
}

async fn start<S>(stream: S) -> Result<Connection, ClientError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(ClientError::unreachable)?;
    // What goes wrong is told to the sender too.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, task })
}

fn connector(trust: &Trust) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier::new(trust, provider.clone())?);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Checks the server's certificate. One that is trusted itself needs no name in it: Ganeti's own have none that clients use.
#[derive(Debug)]
struct Verifier {
    any: bool,
    trusted: Vec<CertificateDer<'static>>,
    chains: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: &Trust, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let Trust::Pem(pem) = trust else {
            return Ok(Self { any: true, trusted: Vec::new(), chains: None, provider });
        };
        let bad =
            |error: &dyn fmt::Display| TlsError::General(format!("the certificates: {error}"));
        let trusted: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| bad(&error))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let chains = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            Some(builder.build().map_err(|error| bad(&error))?)
        };
        Ok(Self { any: false, trusted, chains, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.any || self.trusted.iter().any(|trusted| trusted == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        // Who trusts any certificate learns nothing from its key, and Ganeti's cannot be read: they are of X.509 version 1.
        if self.any {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if self.any {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Percent-encodes everything but letters, digits and a few marks.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
}

/// Undoes the HTML escapes of error messages.
fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&amp;", "&")];
    pairs.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_routes() {
        let check = |template: &str, values: &[&str], expected: Option<&str>| {
            assert_eq!(path(template, values).ok().as_deref(), expected, "{template}");
        };
        let startup = "/2/instances/{instance_name}/startup";
        check(startup, &["web1"], Some("/2/instances/web1/startup"));
        check(startup, &["a/b c"], Some("/2/instances/a%2Fb%20c/startup"));
        check(startup, &[], None);
        check(startup, &["a", "b"], None);
        check("/2/nonsense", &[], None);
        check("/", &[], Some("/"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        let check = |url: &str, expected: Option<(&str, u16)>| {
            let client = Client::new(url, &Trust::Any);
            let found = client.as_ref().ok().map(|client| (client.host.as_str(), client.port));
            assert_eq!(found, expected, "{url}");
        };
        check("https://localhost:5080", Some(("localhost", 5080)));
        check("http://[::1]:1234/", Some(("::1", 1234)));
        check("https://[::1]", Some(("::1", 5080)));
        check("https://cluster", Some(("cluster", 5080)));
        check("cluster", None);
        check("ftp://cluster", None);
    }

    #[test]
    fn messages_are_plain_again() {
        assert_eq!(unescape("Can&#x27;t &lt;&amp;lt;"), "Can't <&lt;");
    }
}
