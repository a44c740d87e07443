//! The nouns of a Ganeti cluster: names, units, errors, parameters, configuration objects, opcodes, jobs, queries, and
//! the seam between the remote API and an engine. Pure data: nothing here does I/O.

pub mod compat;
pub mod config;
pub mod engine;
pub mod error;
pub mod job;
pub mod name;
pub mod opcode;
pub mod param;
pub mod params;
pub mod python;
pub mod query;
pub mod units;
pub mod x509;
