//! The nouns of a Ganeti cluster: names, units, errors, parameters, configuration objects, opcodes, jobs, queries, and
//! the seam between the remote API and an engine. Pure data: nothing here does I/O.

pub mod compat;
pub mod error;
pub mod name;
pub mod python;
pub mod units;
