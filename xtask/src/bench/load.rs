//! Clients that ask the same thing again and again, and how long that took.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rapi::client::{Client, Trust};
use rapi::input::Method;
use tokio::task::JoinSet;

/// How long a connection may take to be made: some servers take few at a time.
const CONNECT_TIME: Duration = Duration::from_secs(120);

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) target: String,
}

impl Request {
    pub(crate) fn get(target: &str) -> Self {
        Self { method: Method::Get, target: target.to_owned() }
    }
}

/// What becomes of a client's connection after each request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It is kept.
    Kept,
    /// The next one is new, and goes on with the TLS session of the one before.
    Resumed,
    /// The next one is new, and nothing is known of the one before.
    New,
}

/// Something that can be asked.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) user: (&'static str, &'static str),
}

impl Target {
    /// A client of it, without a connection.
    pub(crate) fn client(&self) -> Result<Client> {
        let (name, password) = self.user;
        let client = Client::new(&self.address, &Trust::Any)?.user(name, password);
        Ok(client.connect_time(CONNECT_TIME))
    }
}

/// How long each request took, and all of them.
pub(crate) struct Measured {
    begun: Instant,
    took: Duration,
    each: Vec<Duration>,
}

impl Measured {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), took: Duration::ZERO, each: Vec::new() }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.each.push(time);
    }

    /// The end of the measurement.
    pub(crate) fn done(mut self) -> Self {
        self.took = self.begun.elapsed();
        self.each.sort_unstable();
        self
    }

    /// Adds one that ran after it.
    pub(crate) fn then(&mut self, other: Self) {
        self.took += other.took;
        self.each.extend(other.each);
        self.each.sort_unstable();
    }

    /// Adds one that ran at the same time.
    pub(crate) fn join(&mut self, other: Self) {
        self.took = self.took.max(other.took);
        self.each.extend(other.each);
        self.each.sort_unstable();
    }

    pub(crate) fn count(&self) -> f64 {
        f64::from(u32::try_from(self.each.len()).unwrap_or(u32::MAX))
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.count() / self.took.as_secs_f64()
    }

    /// The time within which this part of the requests was answered.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let wanted = self.count() * part;
        let at = (0_u32..).zip(&self.each).find(|(at, _)| f64::from(*at) >= wanted.floor());
        at.map(|(_, time)| *time).or(self.each.last().copied()).unwrap_or_default()
    }

    /// The middle and the slow end.
    pub(crate) fn latencies(&self) -> String {
        let (p50, p99) = (ms(self.quantile(0.5)), ms(self.quantile(0.99)));
        format!("p50 {p50:.2} ms, p99 {p99:.2} ms")
    }
}

/// A time in milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Asks with so many clients for so long.
pub(crate) async fn measure(
    target: &Target,
    clients: usize,
    connection: Connection,
    time: Duration,
    request: &Request,
) -> Result<Measured> {
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..clients {
        let (target, request) = (target.clone(), request.clone());
        let mut client = target.client()?;
        tasks.spawn(async move {
            let mut measured = Measured::new();
            while begun.elapsed() < time {
                let sent = Instant::now();
                let (status, _) = client.raw(request.method, &request.target, &[], None).await?;
                measured.add(sent.elapsed());
                ensure!(status == 200, "{}: {status}", request.target);
                match connection {
                    Connection::Kept => {}
                    Connection::Resumed => client.close(),
                    Connection::New => client = target.client()?,
                }
            }
            Ok::<_, anyhow::Error>(measured.done())
        });
    }
    let mut all = Measured::new();
    while let Some(measured) = tasks.join_next().await {
        all.join(measured??);
    }
    Ok(all)
}
