//! The client: a real cluster as an engine.
//!
//! ```text
//! LuxiEngine ── a verb is a call ──> Pool ── a place, a connection, the rules of repetition ──> Connection ──> luxid
//!      │                               ^
//!      └── Waits ── who waits for the same shares one call
//! ```

pub mod engine;
pub mod options;

mod answer;
mod connection;
mod gauges;
mod pool;
mod wait;
mod wire;
