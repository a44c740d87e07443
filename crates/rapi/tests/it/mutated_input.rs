//! Users files, query filters and opcodes, changed here and there: what reads them answers or refuses, and never panics.
//!
//! `RAPID_MUTATE_SECONDS` says how long to go on, by default a second; `RAPID_MUTATE_SEED` where to begin.

#![expect(clippy::panic, reason = "a test says so loudly")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use model::compat::Compat;
use model::opcode::Op;
use model::query::filter;
use rapi::users::Users;
use rapi::users_file;

use crate::mutated::{from_environment, mutate, parts};

const USERS: &str = "# users\nreader readpw\nwriter writepw write\n\nclear {cleartext}clearpw write\n\
    hashed {HA1}726c32816ccfab687bc4789fad1a18ec write\nboth bothpw read,write\n\
    strong {argon2}$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$hD2ZyY5C4JgjzN1q8pmPXxwXYiNhhZlEmVVRh0RGHyo read\n";

/// Tries inputs made from a seed each, until the time is over. Whether one was accepted is what a try gives.
fn try_all(mut one: impl FnMut(&mut StdRng) -> (String, Box<dyn FnOnce() -> bool>)) {
    let mut seed = from_environment("RAPID_MUTATE_SEED", 1);
    let end = Instant::now() + Duration::from_secs(from_environment("RAPID_MUTATE_SECONDS", 1));
    let (mut tried, mut accepted) = (0, 0);
    while Instant::now() < end {
        seed += 1;
        let (shown, attempt) = one(&mut StdRng::seed_from_u64(seed));
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(attempt)) {
            Ok(taken) => accepted += usize::from(taken),
            Err(_) => panic!("seed {seed}: {shown}"),
        }
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "seed {seed} took {took:?}: {shown}");
        tried += 1;
    }
    assert!(accepted > 0 && accepted < tried, "{accepted} of {tried} were accepted");
}

/// Changes a few bytes of a text.
fn changed_bytes(text: &str, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        let end = bytes.len().min(at + rng.random_range(0..12));
        match rng.random_range(0..4) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.insert(at, rng.random()),
            2 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let odd: [&[u8]; 6] = [b"\n", b" ", b"{", b"}", b"{argon2}$", b"\xff\xfe"];
                let piece = odd.choose(rng).copied().unwrap_or_default();
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn changed_users_files_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    try_all(|rng| {
        let bytes = changed_bytes(USERS, rng);
        let (shown, path) = (String::from_utf8_lossy(&bytes).into_owned(), path.clone());
        let attempt = move || {
            std::fs::write(&path, bytes).unwrap();
            Users::new(Some(path.clone())).reload();
            let listed = users_file::list(&path);
            if let Ok(users) = &listed
                && let Some(user) = users.first()
            {
                // It may be refused; it must not make another file than it says.
                let removed = users_file::remove(&path, &user.name).is_ok();
                let left = users_file::list(&path).unwrap();
                assert!(!removed || left.iter().all(|one| one.name != user.name));
            }
            listed.is_ok_and(|users| users.len() > 4)
        };
        (shown, Box::new(attempt))
    });
}

#[test]
fn changed_filters_are_read_or_refused() {
    let filters = [
        json!(["=", "name", "inst1.example.com"]),
        json!([
            "|",
            ["=", "name", "a"],
            ["&", ["?", "oper_state"], ["!", ["=", "status", "running"]]]
        ]),
        json!(["&", [">", "be/maxmem", 128], ["<=", "disk.count", 3]]),
        json!(["=~", "name", "^inst[0-9]+\\.example"]),
        json!(["=[]", "tags", "web"]),
        json!(["*", "name", "inst*.example.???"]),
    ];
    let mut pool = Vec::new();
    filters.iter().for_each(|filter| parts(filter, &mut pool));
    let mut pool: Vec<Value> = pool.into_iter().cloned().collect();
    pool.extend(["(", "[a-", "(a*)*b", "\\", "*", "=~", "!=", "=*", "nosuch"].map(Value::from));
    let fields = ["name".to_owned(), "status".to_owned()];
    try_all(|rng| {
        let mut filter = filters.choose(rng).cloned().unwrap_or_default();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut filter, &pool, rng);
        }
        let (shown, fields) = (filter.to_string(), fields.clone());
        (shown, Box::new(move || filter::parse("instance", &fields, &filter).is_ok()))
    });
}

#[test]
fn changed_opcodes_are_read_or_refused() {
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["ops"].clone();
    let ops: Vec<Value> = include_str!("../fixtures/submitted.jsonl").lines().map(line).collect();
    let ops: Vec<Map<String, Value>> = ops
        .iter()
        .flat_map(|ops| ops.as_array().into_iter().flatten())
        .filter_map(|op| op.as_object().cloned())
        .collect();
    let whole: Vec<Value> = ops.iter().cloned().map(Value::from).collect();
    let mut pool = Vec::new();
    whole.iter().for_each(|op| parts(op, &mut pool));
    let pool: Vec<Value> = pool.into_iter().cloned().collect();
    try_all(|rng| {
        let mut op = whole.choose(rng).cloned().unwrap_or_default();
        for _ in 0..rng.random_range(0..4) {
            mutate(&mut op, &pool, rng);
        }
        let shown = op.to_string();
        let attempt = move || {
            let Value::Object(op) = op else { return false };
            Op::from_wire(op, Compat::V30).is_ok()
        };
        (shown, Box::new(attempt))
    });
}
