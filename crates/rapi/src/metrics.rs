//! What the door counts. Counters are plain atomic numbers: counting waits for nobody.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::route::Route;
use crate::table::ROUTES;

/// The statuses that are counted apart; any other is counted as 0.
const STATUSES: [u16; 16] =
    [200, 204, 400, 401, 403, 404, 408, 413, 415, 500, 501, 502, 503, 504, 505, 0];

/// The upper ends of the latency histogram's buckets, in microseconds; one more is for what takes longer.
const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// Where a request went.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Route(&'static Route),
    /// What the program serves beside the API.
    Extra,
    /// Nowhere.
    Unknown,
}

/// The door's counters.
pub struct Metrics {
    /// By row of the route table; then what is beside the API, then the rest.
    places: Vec<Counters>,
    connections_open: AtomicU64,
    connections: AtomicU64,
    handshakes_failed: AtomicU64,
    requests_at_work: AtomicU64,
    requests_waiting: AtomicU64,
    requests_queued: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

struct Counters {
    statuses: [AtomicU64; STATUSES.len()],
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    micros: AtomicU64,
}

/// The counters at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub requests: Vec<Requests>,
    pub latencies: Vec<Latency>,
    pub connections_open: u64,
    /// Since the start.
    pub connections: u64,
    pub handshakes_failed: u64,
    /// Requests that hold one of the `--max-clients` slots.
    pub requests_at_work: u64,
    /// Requests that wait for a job to change.
    pub requests_waiting: u64,
    /// Requests that wait for a slot.
    pub requests_queued: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

/// How many requests a route answered with a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    /// The route's path with its variables; `extra` is what is served beside the API, `other` what no route has.
    pub route: &'static str,
    /// Empty where there is no route.
    pub method: &'static str,
    /// 0 stands for any that is not counted apart.
    pub status: u16,
    pub count: u64,
}

/// How long a route's requests took.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    pub route: &'static str,
    pub method: &'static str,
    /// Requests that took no longer than so many seconds, those of the buckets before included; the last is infinite.
    pub buckets: Vec<(f64, u64)>,
    pub sum_s: f64,
    pub count: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let counters = || Counters {
            statuses: array::from_fn(|_| AtomicU64::new(0)),
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            micros: AtomicU64::new(0),
        };
        Self {
            places: (0..ROUTES.len() + 2).map(|_| counters()).collect(),
            connections_open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            requests_at_work: AtomicU64::new(0),
            requests_waiting: AtomicU64::new(0),
            requests_queued: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
        }
    }
}

/// Something that is going on, counted until it is dropped.
pub(crate) struct Going<'a>(&'a AtomicU64);

impl<'a> Going<'a> {
    fn on(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn answered(&self, place: Place, status: u16, took: Duration) {
        let counters = &self.places[index(place)];
        let at = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        counters.statuses[at].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|end| *end < micros);
        counters.buckets[bucket].fetch_add(1, Relaxed);
        counters.micros.fetch_add(micros, Relaxed);
    }

    pub(crate) fn connected(&self) -> Going<'_> {
        self.connections.fetch_add(1, Relaxed);
        Going::on(&self.connections_open)
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn at_work(&self) -> Going<'_> {
        Going::on(&self.requests_at_work)
    }

    pub(crate) fn waiting(&self) -> Going<'_> {
        Going::on(&self.requests_waiting)
    }

    pub(crate) fn queued(&self) -> Going<'_> {
        Going::on(&self.requests_queued)
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    /// The counters as they are now; routes that nobody asked for are left out.
    pub fn snapshot(&self) -> Snapshot {
        let mut requests = Vec::new();
        let mut latencies = Vec::new();
        for (at, counters) in self.places.iter().enumerate() {
            let (route, method) = match ROUTES.get(at) {
                Some(route) => (route.path, route.method.as_str()),
                None if at == ROUTES.len() => ("extra", ""),
                None => ("other", ""),
            };
            for (status, count) in STATUSES.iter().zip(&counters.statuses) {
                let count = count.load(Relaxed);
                if count > 0 {
                    requests.push(Requests { route, method, status: *status, count });
                }
            }
            let mut count = 0;
            let ends = BUCKETS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]);
            let add = |(end, bucket): (f64, &AtomicU64)| {
                count += bucket.load(Relaxed);
                (end, count)
            };
            let buckets: Vec<_> = ends.zip(&counters.buckets).map(add).collect();
            if count > 0 {
                let sum_s = seconds(counters.micros.load(Relaxed));
                latencies.push(Latency { route, method, buckets, sum_s, count });
            }
        }
        Snapshot {
            requests,
            latencies,
            connections_open: self.connections_open.load(Relaxed),
            connections: self.connections.load(Relaxed),
            handshakes_failed: self.handshakes_failed.load(Relaxed),
            requests_at_work: self.requests_at_work.load(Relaxed),
            requests_waiting: self.requests_waiting.load(Relaxed),
            requests_queued: self.requests_queued.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
        }
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// The row of a place. Routes lie in the table, so where one lies says which it is.
fn index(place: Place) -> usize {
    match place {
        Place::Route(route) => {
            let offset = std::ptr::from_ref(route).addr().wrapping_sub(ROUTES.as_ptr().addr());
            (offset / size_of::<Route>()).min(ROUTES.len() + 1)
        }
        Place::Extra => ROUTES.len(),
        Place::Unknown => ROUTES.len() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let metrics = Metrics::default();
        metrics.answered(Place::Route(&ROUTES[3]), 200, Duration::from_micros(100));
        metrics.answered(Place::Route(&ROUTES[3]), 200, Duration::from_secs(100));
        metrics.answered(Place::Unknown, 404, Duration::ZERO);
        metrics.answered(Place::Extra, 418, Duration::ZERO);
        let snapshot = metrics.snapshot();
        let requests = |route, method, status, count| Requests { route, method, status, count };
        let expected = [
            requests(ROUTES[3].path, ROUTES[3].method.as_str(), 200, 2),
            requests("extra", "", 0, 1),
            requests("other", "", 404, 1),
        ];
        assert_eq!(snapshot.requests, expected);
        let latency = &snapshot.latencies[0];
        assert_eq!((latency.buckets[0], latency.count), ((0.0001, 1), 2));
        assert_eq!(latency.buckets.last(), Some(&(f64::INFINITY, 2)));
        assert!((latency.sum_s - 100.0001).abs() < 1e-9);
    }
}
