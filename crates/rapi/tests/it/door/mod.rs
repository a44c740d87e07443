//! The door from outside: a server on a loopback port, with an engine that stands in for a cluster.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong here fails a test")]

mod client;
mod engine;
mod http1;
mod http2;
mod limits;
mod users;
