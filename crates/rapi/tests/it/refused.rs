//! What Ganeti's daemon refuses before it asks its master, it refuses in these words: recorded from, and asked of, 3.0.2.

use std::sync::Arc;

use serde_json::Value;

use model::compat::Compat;
use rapi::input::Method;

use crate::fake::{FakeEngine, ask};

#[tokio::test]
async fn refusals_equal_the_daemons() {
    let mut wrong = Vec::new();
    for line in include_str!("../fixtures/refused.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let engine = Arc::new(FakeEngine { compat: Compat::V30, ..FakeEngine::default() });
        let method = Method::parse(case["method"].as_str().unwrap()).unwrap();
        let path = case["path"].as_str().unwrap();
        let got = ask(&engine, method, path, Some(case["body"].clone())).await;
        let expected = (case["status"].as_u64().unwrap(), case["message"].as_str().unwrap());
        let got = match &got {
            Ok(value) => (200, value.to_string()),
            Err(error) => {
                let document: Value = serde_json::from_str(&error.document()).unwrap();
                let message = document["message"].as_str().unwrap();
                (u64::from(error.status), error.message.clone().unwrap_or(message.to_owned()))
            }
        };
        if (got.0, got.1.as_str()) != expected {
            wrong.push(format!("{line}\n    got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
