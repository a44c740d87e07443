//! How long others took: commands, QEMU, guests. Whoever wants to know what is our own time subtracts it: `cargo xtask bench --guests`
//! reads these lines with `RAPID_LOG=outside=debug`.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

/// Has others do some work, and tells from when to when that was, in microseconds since 1970.
pub(crate) async fn outside<F: Future>(what: &str, work: F) -> F::Output {
    let from = now();
    let done = work.await;
    tracing::debug!(target: "outside", from, to = now(), "outside: {what}");
    done
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros())
}
