//! The client beside a master daemon that does what a test wants: the engine, its failures, and what it keeps and shares.

#![expect(clippy::unwrap_used, reason = "this is a test")]

mod fake;
mod faults;
mod waits;
