//! The remote API against an engine that only remembers, and against what Ganeti's own daemon was seen to do.

mod client;
mod door;
mod fake;
mod mutated;
mod mutated_input;
mod refused;
mod replies;
mod submitted;
mod table;
mod wild;
