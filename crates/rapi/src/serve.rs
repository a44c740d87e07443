//! The server: listens, accepts, speaks TLS and HTTP, stops. What a request is answered with is in `door.rs`.
//!
//! ```text
//! run ─┬─ accept (one task per address) ─┬─ converse (one task per connection)
//!      │                                 └─ …
//!      └─ stop: no more connections; idle ones close, busy ones after their answer, all after SHUTDOWN_TIME
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::HeaderValue;
use hyper::body::{Frame, SizeHint};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use model::engine::Engine;

use crate::cors::Cors;
pub use crate::door::{ACCESS_LOG, Caller};
use crate::door::{Body, Door};
use crate::limits;
use crate::metrics::Metrics;
use crate::stream::Stream;
use crate::tls::{Tls, TlsError, TlsFiles};
use crate::users::Users;

/// The port of Ganeti's remote API.
pub const PORT: u16 = 5080;

/// How a server is to be.
pub struct Options {
    /// The addresses to listen on. With port 0 the kernel chooses one, the same for all.
    pub listen: Vec<SocketAddr>,
    /// The certificate; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    pub users: Arc<Users>,
    /// Whether every request needs credentials.
    pub require_authentication: bool,
    /// How many requests are at work at the same time.
    pub max_clients: usize,
    /// Origins whose web pages may use the API.
    pub cors_origins: Vec<String>,
    /// The bytes that a body may have.
    pub body_bytes: usize,
    /// The time in which a body must have come.
    pub body_time: Duration,
    /// The time in which the head of a request must have come.
    pub head_time: Duration,
    /// How long a connection without a request is kept.
    pub idle_time: Duration,
    /// How many connections may be open; fewer when the process may not open as many files.
    pub connections: usize,
    /// What is served under `/rapid/1/`, `/metrics` and `/openapi.json`; a request has a [`Caller`].
    pub extra: Router,
    pub metrics: Arc<Metrics>,
}

impl Options {
    /// Loopback, Ganeti's port and limits, nothing beside the API.
    pub fn new(tls: Option<TlsFiles>, users: Arc<Users>) -> Self {
        Self {
            listen: vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), PORT),
            ],
            tls,
            users,
            require_authentication: false,
            max_clients: limits::REQUESTS_AT_WORK,
            cors_origins: Vec::new(),
            body_bytes: limits::BODY_BYTES,
            body_time: limits::BODY_TIME,
            head_time: limits::HEAD_TIME,
            idle_time: limits::IDLE_TIME,
            connections: limits::CONNECTIONS,
            extra: Router::new(),
            metrics: Arc::default(),
        }
    }

    /// Whether others than this machine can reach an address, and need no credentials to read.
    pub fn is_wide_open(&self) -> bool {
        !self.require_authentication
            && self.listen.iter().any(|address| !address.ip().is_loopback())
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no address to listen on")]
    NoAddress,
    #[error("{0} is in use: another server listens there")]
    InUse(SocketAddr),
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("'{0}' is no origin; one is like https://console.example.com")]
    Origin(String),
    #[error("the number of clients must be at least 1")]
    NoClients,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A server that listens and does not answer yet.
pub struct Server {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

/// What all connections share.
struct Shared {
    door: Door,
    tls: Option<Tls>,
    http: auto::Builder<TokioExecutor>,
    idle_time: Duration,
    /// One for each connection that may be open.
    connections: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Server {
    /// Listens on the addresses.
    pub fn bind(engine: Arc<dyn Engine>, options: Options) -> Result<Self, StartError> {
        if options.max_clients == 0 {
            return Err(StartError::NoClients);
        }
        let cors = Cors::new(&options.cors_origins).map_err(StartError::Origin)?;
        let tls = options.tls.map(Tls::new).transpose()?;
        let listeners = listen(&options.listen)?;
        let addresses =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let (stop, stopped) = watch::channel(false);
        let server = format!("Ganeti {}", engine.compat().software_version());
        let door = Door {
            engine,
            users: options.users,
            require_authentication: options.require_authentication,
            cors,
            slots: Semaphore::new(options.max_clients.min(Semaphore::MAX_PERMITS)),
            body_bytes: options.body_bytes,
            body_time: options.body_time,
            extra: options.extra,
            metrics: options.metrics,
            server: HeaderValue::try_from(server).unwrap_or(HeaderValue::from_static("Ganeti")),
            stop: stopped.clone(),
        };
        let connections = options.connections.min(files_for_connections()).max(1);
        let shared = Shared {
            door,
            tls,
            http: http(options.head_time),
            idle_time: options.idle_time,
            connections: Arc::new(Semaphore::new(connections)),
            stop: stopped,
        };
        Ok(Self { listeners, addresses, shared: Arc::new(shared), stop })
    }

    /// The addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers requests until `shutdown` is there, and then those that are at work.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, self.shared.clone()));
        }
        shutdown.await;
        self.stop.send_replace(true);
        let ended = async { while accepting.join_next().await.is_some() {} };
        if timeout(limits::SHUTDOWN_TIME, ended).await.is_err() {
            tracing::warn!("requests that did not end in time were given up");
        }
        accepting.shutdown().await;
    }
}

/// How HTTP is spoken: versions 1 and 2.
fn http(head_time: Duration) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_buf_size(limits::HEAD_BYTES)
        // Clients may say that they send no more and still read the answer.
        .half_close(true);
    let header_bytes = u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::WRITE_TIME)
        .keep_alive_timeout(limits::WRITE_TIME)
        .max_concurrent_streams(limits::STREAMS)
        .max_header_list_size(header_bytes);
    http
}

/// How many of the files that the process may open can be connections.
fn files_for_connections() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    files.saturating_sub(limits::OTHER_FILES).max(files / 4)
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let fail = |address: SocketAddr, error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse(address),
        _ => StartError::Listen(address, error),
    };
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut chosen = None;
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(chosen.unwrap_or(0));
        }
        match listen_on(address, addresses) {
            Ok(listener) => {
                chosen = chosen.or(listener.local_addr().ok().map(|address| address.port()));
                listeners.push(listener);
            }
            // Machines without IPv6 have no second loopback address; the first is enough then.
            Err(error) if is_second_loopback(address, addresses) && is_missing(&error) => {
                tracing::info!("{address} is not there, as this machine has no IPv6");
            }
            Err(error) => return Err(fail(address, error)),
        }
    }
    if listeners.is_empty() { Err(StartError::NoAddress) } else { Ok(listeners) }
}

fn listen_on(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        if all.iter().any(SocketAddr::is_ipv4) {
            rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        }
        socket
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

fn is_second_loopback(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.is_ipv6() && address.ip().is_loopback() && all.iter().any(SocketAddr::is_ipv4)
}

fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable
        || errno == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Accepts the connections of an address until the server stops, and waits for their ends.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut stop = shared.stop.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept_one(&listener, &shared) => match accepted {
                Ok((stream, peer, permit)) => {
                    connections.spawn(connection(stream, peer, permit, shared.clone()));
                }
                // The client was gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn accept_one(
    listener: &TcpListener,
    shared: &Shared,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = shared.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is as good.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Serves a connection until it ends.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
) {
    let _connected = shared.door.metrics.connected();
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("cannot set TCP_NODELAY: {error}");
    }
    let stream = Stream::new(stream, shared.door.metrics.clone());
    let Some(tls) = &shared.tls else {
        return converse(TokioIo::new(stream), peer, &shared).await;
    };
    let acceptor = TlsAcceptor::from(tls.current(std::time::Instant::now()));
    match timeout(limits::HANDSHAKE_TIME, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => converse(TokioIo::new(stream), peer, &shared).await,
        Ok(Err(error)) => {
            shared.door.metrics.handshake_failed();
            tracing::debug!("a TLS handshake failed: {error}");
        }
        Err(_) => shared.door.metrics.handshake_failed(),
    }
}

/// Answers the requests of a connection.
async fn converse(
    io: impl Read + Write + Unpin + Send + 'static,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) {
    let activity = Arc::new(Activity::new());
    let service = service_fn(|request| {
        let (shared, busy) = (shared.clone(), Busy::new(activity.clone()));
        async move {
            let response = shared.door.handle(request, peer).await;
            Ok::<_, Infallible>(response.map(|body| Sending { body, _busy: busy }))
        }
    });
    let mut conversation = pin!(shared.http.serve_connection(io, service));
    let mut stop = shared.stop.clone();
    let mut look = interval((shared.idle_time / 2).max(Duration::from_millis(1)));
    let mut ending = false;
    loop {
        tokio::select! {
            ended = conversation.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended: {error}");
                }
                return;
            }
            () = stopped(&mut stop), if !ending => {
                ending = true;
                conversation.as_mut().graceful_shutdown();
            }
            _ = look.tick() => match activity.is_idle_for(shared.idle_time) {
                // An HTTP/2 client was asked to end, and does not answer.
                true if ending => return,
                true => {
                    ending = true;
                    conversation.as_mut().graceful_shutdown();
                }
                false => {}
            },
        }
    }
}

/// Whether something happens on a connection.
struct Activity {
    began: Instant,
    requests: AtomicU64,
    /// When the last request began or ended, in milliseconds after `began`.
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), requests: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Relaxed);
    }

    fn is_idle_for(&self, time: Duration) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Relaxed));
        self.requests.load(Relaxed) == 0 && self.began.elapsed().saturating_sub(last) >= time
    }
}

/// A request on a connection, until it is dropped.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Relaxed);
        activity.touch();
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
        self.0.touch();
    }
}

/// A response's body: its request is over when it is sent.
struct Sending {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
