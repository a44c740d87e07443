//! The engine from outside: whole clusters over real data directories and simulated nodes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are tests; clippy knows only functions marked so"
)]

mod crash;
mod engine;
mod screen;
