//! The door from outside: a server on a loopback port, with an engine that stands in for a cluster.

mod client;
mod engine;
mod http1;
mod http2;
mod limits;
mod users;
