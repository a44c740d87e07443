//! Our own cluster: a durable job queue, the configuration with its one writer, locks, logical units and queries, over nodes
//! that are real or simulated. The only crate with locks, jobs and configuration writes.

pub(crate) mod allocate;
pub mod config;
pub mod engine;
pub mod env;
pub(crate) mod gauges;
pub mod init;
pub(crate) mod locks;
pub(crate) mod lu;
pub mod names;
pub(crate) mod nodes;
pub(crate) mod pool;
pub(crate) mod query;
pub(crate) mod queue;
pub(crate) mod readable;
pub mod secret;
pub(crate) mod spec;
pub mod ssconf;
pub(crate) mod store;
pub mod verify;
pub(crate) mod watcher;

pub use engine::{EmbeddedEngine, OpenError, Options};
pub use store::StoreError;
