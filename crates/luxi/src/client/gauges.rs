//! Numbers for monitoring: how it goes between this daemon and the master daemon.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::engine::Gauge;

use crate::client::engine::Seen;
use crate::client::pool::Pool;
use crate::client::wait::Waits;
use crate::method::Method;

/// All of them.
pub(crate) fn gauges(pool: &Pool, waits: &Waits, seen: &Seen) -> Vec<Gauge> {
    let counts = &pool.counts;
    let [idle, queries, waiting] = pool.connections();
    let mut gauges = vec![
        Gauge {
            name: "luxi_up",
            help: "Whether the master daemon answers.",
            labels: Vec::new(),
            value: if seen.is_up.load(Relaxed) { 1.0 } else { 0.0 },
            counter: false,
        },
        counter(
            "luxi_connections_total",
            "Connections made to the master daemon.",
            &counts.connections,
        ),
        counter("luxi_repeated_total", "Calls sent again on another connection.", &counts.repeated),
        counter(
            "luxi_unanswered_total",
            "Calls that the master daemon did not answer.",
            &counts.broken,
        ),
        counter(
            "luxi_waits_joined_total",
            "Waits for a job that joined another's call.",
            &waits.joined,
        ),
    ];
    for (state, number) in [("idle", idle), ("query", queries), ("wait", waiting)] {
        gauges.push(Gauge {
            name: "luxi_connections",
            help: "Connections to the master daemon, by what they do.",
            labels: vec![("state", state.to_owned())],
            value: float(number as u64),
            counter: false,
        });
    }
    for method in Method::ALL {
        let number = counts.calls[*method as usize].load(Relaxed);
        if number > 0 {
            gauges.push(Gauge {
                name: "luxi_calls_total",
                help: "Calls to the master daemon, by method.",
                labels: vec![("method", method.as_str().to_owned())],
                value: float(number),
                counter: true,
            });
        }
    }
    gauges
}

fn counter(name: &'static str, help: &'static str, number: &AtomicU64) -> Gauge {
    Gauge { name, help, labels: Vec::new(), value: float(number.load(Relaxed)), counter: true }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' samples are floats")]
fn float(number: u64) -> f64 {
    number as f64
}
