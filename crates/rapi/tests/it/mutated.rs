//! Requests that a real daemon saw, changed here and there: none makes a route panic, and each is answered or refused.
//!
//! `RAPID_MUTATE_SECONDS` says how long to go on, by default a second; `RAPID_MUTATE_SEED` where to begin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use model::engine::JobChange;
use rapi::input::Method;

use crate::fake::{FakeEngine, ask};

pub(crate) fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Requests to begin with: method, target, body.
fn requests() -> Vec<(Method, String, Value)> {
    let lines = include_str!("../fixtures/submitted.jsonl")
        .lines()
        .chain(include_str!("../fixtures/refused.jsonl").lines());
    let read = |line: &str| -> Option<_> {
        let case: Value = serde_json::from_str(line).ok()?;
        let method = Method::parse(case["method"].as_str()?)?;
        Some((method, case["path"].as_str()?.to_owned(), case["body"].clone()))
    };
    lines.filter_map(read).collect()
}

/// All values inside a value, the value itself first.
pub(crate) fn parts<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| parts(item, into)),
        Value::Object(members) => members.values().for_each(|item| parts(item, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn odd(rng: &mut StdRng) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("a"),
        json!("\u{0}\u{e9}\u{1f600}"),
        json!("1,2,"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"": {}}),
        json!([[-1, ["success"]]]),
        json!("x".repeat(5000)),
    ];
    odd.choose(rng).cloned().unwrap_or_default()
}

/// Changes one place of a value.
pub(crate) fn mutate(value: &mut Value, pool: &[Value], rng: &mut StdRng) {
    let deeper = rng.random_bool(0.7);
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let at = rng.random_range(0..members.len());
            let key = members.keys().nth(at).cloned().unwrap_or_default();
            match rng.random_range(0..5) {
                0 => drop(members.remove(&key)),
                1 => {
                    let inner = members.remove(&key).unwrap_or_default();
                    members.insert(format!("{key}x"), inner);
                }
                2 => drop(members.insert("depends".into(), odd(rng))),
                _ => {
                    if let Some(inner) = members.get_mut(&key) {
                        mutate(inner, pool, rng);
                    }
                }
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..4) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => mutate(&mut items[at], pool, rng),
            }
        }
        other if rng.random_bool(0.5) => *other = pool.choose(rng).cloned().unwrap_or_default(),
        other => *other = odd(rng),
    }
}

/// Changes the query of a target; its path stays, so that the route is found.
fn mutate_target(target: &str, pool: &[&str], rng: &mut StdRng) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    match rng.random_range(0..3) {
        0 if !pairs.is_empty() => drop(pairs.remove(rng.random_range(0..pairs.len()))),
        1 => pairs.extend(pool.choose(rng).copied()),
        _ => {}
    }
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[test]
fn changed_requests_are_answered_or_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let requests = requests();
    let mut pool = Vec::new();
    requests.iter().for_each(|(_, _, body)| parts(body, &mut pool));
    let pool: Vec<Value> = pool.into_iter().cloned().collect();
    let queries = requests.iter().filter_map(|(_, target, _)| target.split_once('?'));
    let mut pairs: Vec<&str> = queries.flat_map(|(_, query)| query.split('&')).collect();
    pairs.extend(["bulk=1", "lock=1", "dry-run=x", "force=%FF%", "reason=%C3%A9", "live=2"]);
    let change = JobChange { job_info: vec![json!("success"), json!([[]])], log_entries: vec![] };
    let engine = Arc::new(FakeEngine { change: Some(change), ..FakeEngine::default() });

    let mut seed = from_environment("RAPID_MUTATE_SEED", 1);
    let end = Instant::now() + Duration::from_secs(from_environment("RAPID_MUTATE_SECONDS", 1));
    let mut answered = 0;
    while Instant::now() < end {
        seed += 1;
        let mut rng = StdRng::seed_from_u64(seed);
        let Some((method, target, body)) = requests.choose(&mut rng) else { break };
        let mut body = body.clone();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut body, &pool, &mut rng);
        }
        let target = mutate_target(target, &pairs, &mut rng);
        let ask = std::panic::AssertUnwindSafe(|| {
            runtime.block_on(ask(&engine, *method, &target, Some(body.clone())))
        });
        match std::panic::catch_unwind(ask) {
            Ok(Ok(_)) => answered += 1,
            Ok(Err(error)) => assert!((400..600).contains(&error.status), "seed {seed}: {error:?}"),
            Err(_) => panic!("seed {seed}: {method:?} {target} {body}"),
        }
        engine.submitted.lock().unwrap().clear();
        engine.asked.lock().unwrap().clear();
    }
    assert!(answered > 0, "nothing was answered, so nothing was tried");
}
