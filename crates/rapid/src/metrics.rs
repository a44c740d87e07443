//! `/metrics`: the engine's and the door's numbers in Prometheus' text format (version 0.0.4). This file names them.

use std::fmt::Write;

use model::engine::Gauge;
use rapi::metrics::Snapshot;

/// Everything as one text.
pub(crate) fn render(gauges: &[Gauge], door: &Snapshot) -> String {
    let mut out = String::new();
    let mut described: Vec<&str> = Vec::new();
    for gauge in gauges {
        let name = format!("rapid_{}", gauge.name);
        if !described.contains(&gauge.name) {
            described.push(gauge.name);
            describe(&mut out, &name, gauge.help, if gauge.counter { "counter" } else { "gauge" });
        }
        let labels: Vec<(&str, &str)> =
            gauge.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        sample(&mut out, &name, &labels, gauge.value);
    }
    render_door(&mut out, door);
    out
}

fn render_door(out: &mut String, door: &Snapshot) {
    let name = "rapid_http_requests_total";
    describe(out, name, "Requests answered, by route, method and status.", "counter");
    for request in &door.requests {
        let status = request.status.to_string();
        let labels = [("route", request.route), ("method", request.method), ("status", &status)];
        sample(out, name, &labels, count(request.count));
    }
    let name = "rapid_http_request_duration_seconds";
    describe(
        out,
        name,
        "How long requests took, from their head to the end of the answer.",
        "histogram",
    );
    for latency in &door.latencies {
        let labels = [("route", latency.route), ("method", latency.method)];
        for (end, requests) in &latency.buckets {
            let end = if end.is_infinite() { "+Inf".to_owned() } else { end.to_string() };
            let labels = [labels[0], labels[1], ("le", end.as_str())];
            sample(out, &format!("{name}_bucket"), &labels, count(*requests));
        }
        sample(out, &format!("{name}_sum"), &labels, latency.sum_s);
        sample(out, &format!("{name}_count"), &labels, count(latency.count));
    }
    let single = [
        ("http_connections_open", "Connections that are open.", "gauge", door.connections_open),
        ("http_connections_total", "Connections accepted.", "counter", door.connections),
        (
            "http_handshakes_failed_total",
            "TLS handshakes that failed.",
            "counter",
            door.handshakes_failed,
        ),
        (
            "http_requests_at_work",
            "Requests that hold a slot of --max-clients.",
            "gauge",
            door.requests_at_work,
        ),
        (
            "http_requests_waiting",
            "Requests that wait for a job to change.",
            "gauge",
            door.requests_waiting,
        ),
        ("http_requests_queued", "Requests that wait for a slot.", "gauge", door.requests_queued),
        ("http_received_bytes_total", "Bytes of request bodies.", "counter", door.bytes_received),
        ("http_sent_bytes_total", "Bytes of response bodies.", "counter", door.bytes_sent),
    ];
    for (name, help, kind, value) in single {
        let name = format!("rapid_{name}");
        describe(out, &name, help, kind);
        sample(out, &name, &[], count(value));
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' samples are floats")]
fn count(value: u64) -> f64 {
    value as f64
}

fn describe(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    let braces =
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(out, "{name}{braces} {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_described_once() {
        let gauge = |status: &str, value| Gauge {
            name: "jobs",
            help: "Jobs that are not archived, by status.",
            labels: vec![("status", status.to_owned())],
            value,
            counter: false,
        };
        let door = rapi::metrics::Metrics::default().snapshot();
        let text = render(&[gauge("queued", 2.0), gauge("a\"b", 1.0)], &door);
        assert_eq!(text.matches("# TYPE rapid_jobs gauge").count(), 1);
        assert!(text.contains("rapid_jobs{status=\"queued\"} 2\n"), "{text}");
        assert!(text.contains("rapid_jobs{status=\"a\\\"b\"} 1\n"), "{text}");
    }
}
