//! Runs a section against a daemon: sends each step, waits for the jobs it submitted, keeps values for later steps.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::client::{Answer, Client, ClientError, Request};
use crate::recording::Exchange;
use crate::scenario::{Action, Ask, Section, Step};

/// How long a job may take until it is final.
const JOB_TIMEOUT: Duration = Duration::from_secs(180);
/// The pause between two looks at a job, at first and at most, and how it grows: our own jobs take milliseconds, those of a real
/// cluster about a second, and there a look costs as much as a twentieth of a job.
const POLL_FIRST: Duration = Duration::from_millis(10);
const POLL_MOST: Duration = Duration::from_millis(500);
const POLL_GROWTH: u32 = 4;
/// How many jobs are followed from one step.
const JOBS_MOST: usize = 32;
/// Who looks at jobs.
const POLLER: &str = "writer:writepw";

/// Sends a section's steps in order; `progress` hears each step before it is sent.
pub async fn run(
    client: &Client,
    section: &Section,
    mut progress: impl FnMut(usize, &Step),
) -> Vec<Exchange> {
    let mut saved: Vec<(String, String)> = Vec::new();
    let mut exchanges = Vec::with_capacity(section.steps.len());
    for (index, step) in section.steps.iter().enumerate() {
        progress(index, step);
        let exchange = match &step.action {
            Action::Ask(ask) => ask_once(client, &step.name, ask, &mut saved).await,
            Action::Wait { job } => {
                let job = fill(job, &saved);
                let mut exchange = look(client, &step.name, &job, is_final).await;
                exchange.jobs.push(exchange.body.take());
                exchange
            }
            Action::Until { job, statuses } => {
                let job = fill(job, &saved);
                let wanted = |status: &str| statuses.iter().any(|each| each == status);
                let mut exchange = look(client, &step.name, &job, wanted).await;
                exchange.body = exchange.body.get("status").cloned().unwrap_or_default();
                exchange
            }
        };
        exchanges.push(exchange);
    }
    exchanges
}

/// Whether a job with this status changes no more.
fn is_final(status: &str) -> bool {
    matches!(status, "success" | "error" | "canceled")
}

/// Replaces the names of saved values, in braces, by the values.
fn fill(text: &str, saved: &[(String, String)]) -> String {
    saved
        .iter()
        .rev()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

async fn ask_once(
    client: &Client,
    step: &str,
    ask: &Ask,
    saved: &mut Vec<(String, String)>,
) -> Exchange {
    let body = ask.body.as_ref().map(|body| fill(body, saved));
    let mut headers = Vec::new();
    if let Some(user) = &ask.user {
        headers.push(("Authorization".to_owned(), format!("Basic {}", STANDARD.encode(user))));
    }
    match &ask.content_type {
        Some(content_type) if content_type.is_empty() => {}
        Some(content_type) => headers.push(("Content-Type".to_owned(), content_type.clone())),
        None if body.is_some() => {
            headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        None => {}
    }
    headers.extend(ask.headers.iter().cloned());
    let target = fill(&ask.path, saved);
    let request = Request { method: ask.method.clone(), target, headers, body };
    let mut exchange = exchange(step, client.send(&request).await);
    let is_version = ask.path.split('?').next() == Some("/version");
    exchange.submitted = exchange.status == 200 && exchange.body.is_u64() && !is_version;
    for (name, pointer) in &ask.saves {
        let value = exchange.body.pointer(pointer).map(plain).unwrap_or_default();
        saved.push((name.clone(), value));
    }
    if exchange.submitted {
        match &ask.queued {
            Some(name) => saved.push((name.clone(), plain(&exchange.body))),
            None => exchange.jobs = follow(client, plain(&exchange.body)).await,
        }
    }
    exchange
}

/// A scalar as it stands in a path.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Waits for a job, then for the jobs that its results submitted, and so on.
async fn follow(client: &Client, first: String) -> Vec<Value> {
    let mut waiting = vec![first];
    let mut jobs = Vec::new();
    while let (Some(id), true) = (waiting.pop(), jobs.len() < JOBS_MOST) {
        let job = look(client, "", &id, is_final).await.body;
        let results = job["opresult"].as_array().into_iter().flatten();
        let submitted = results.filter_map(|result| result.get("jobs")?.as_array()).flatten();
        let mut more: Vec<String> =
            submitted.filter_map(|pair| pair.get(1).filter(|id| id.is_u64()).map(plain)).collect();
        more.reverse();
        waiting.extend(more);
        jobs.push(job);
    }
    jobs
}

/// Looks at a job until its status is wanted or final, or time is out; the exchange is the last look.
async fn look(client: &Client, step: &str, id: &str, wanted: impl Fn(&str) -> bool) -> Exchange {
    let request = Request {
        method: "GET".to_owned(),
        target: format!("/2/jobs/{id}"),
        headers: vec![("Authorization".to_owned(), format!("Basic {}", STANDARD.encode(POLLER)))],
        body: None,
    };
    let start = Instant::now();
    let mut pause = POLL_FIRST;
    loop {
        let seen = exchange(step, client.send(&request).await);
        let status = seen.body["status"].as_str().unwrap_or_default();
        if seen.status != 200
            || wanted(status)
            || is_final(status)
            || seen.body["status"].is_null()
            || start.elapsed() > JOB_TIMEOUT
        {
            return seen;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * POLL_GROWTH).min(POLL_MOST);
    }
}

fn exchange(step: &str, answer: Result<Answer, ClientError>) -> Exchange {
    let mut exchange = Exchange {
        step: step.to_owned(),
        status: 0,
        content_type: None,
        www_authenticate: None,
        body_form: None,
        body: Value::Null,
        submitted: false,
        jobs: Vec::new(),
    };
    match answer {
        Ok(answer) => {
            exchange.status = answer.status;
            exchange.content_type = answer.content_type;
            exchange.www_authenticate = answer.www_authenticate;
            match serde_json::from_slice(&answer.body) {
                Ok(value) => {
                    exchange.body = value;
                    let newlines =
                        answer.body.iter().rev().take_while(|byte| **byte == b'\n').count();
                    if newlines != 1 {
                        exchange.body_form = Some(format!("JSON and {newlines} newlines"));
                    }
                }
                Err(_) if answer.body.is_empty() => exchange.body_form = Some("empty".to_owned()),
                Err(_) => {
                    exchange.body_form = Some("text".to_owned());
                    exchange.body = Value::from(String::from_utf8_lossy(&answer.body).into_owned());
                }
            }
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                text += &format!(": {error}");
                source = error.source();
            }
            exchange.body_form = Some("no answer".to_owned());
            exchange.body = Value::from(text);
        }
    }
    exchange
}
