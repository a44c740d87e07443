//! What a request becomes as opcodes: compared with the jobs that Ganeti 3.0.2 made of the same requests.

use std::sync::Arc;

use serde_json::{Value, json};

use model::compat::Compat;
use model::opcode::Audience;
use rapi::input::Method;

use crate::fake::{FakeEngine, ask};

/// Whether a difference is the job's doing, which fills in what nobody chose and writes down what it found out.
fn is_the_jobs(path: &str, key: &str, ours: &Value, theirs: &Value) -> bool {
    match key {
        "reason" => true,
        // Live data is read under locks, an import checks no variant, and what is not installed is not started.
        "use_locking" | "force_variant" | "start" => true,
        // What a role changes is asked of the node.
        "offline" | "drained" | "master_candidate" => path.ends_with("/role"),
        // No nodes to assign means all.
        "nodes" => *ours == json!([]),
        // Disks without changes are written shorter here.
        "disks" => *ours == json!([0, 1]) && *theirs == json!([[0, {}], [1, {}]]),
        "nics" => theirs.to_string().contains("<MAC>"),
        // The daemon does not look at a body of tags; its documents, and we, do.
        "tags" => *ours == json!(["bodytag"]),
        _ => false,
    }
}

/// Source and text of the entries of a reason trail that come from the remote API.
fn trail(reason: &Value) -> Vec<(String, String)> {
    let text = |entry: &Value, at: usize| entry[at].as_str().unwrap_or_default().to_owned();
    let entries = reason.as_array().into_iter().flatten();
    let entries = entries.map(|entry| (text(entry, 0), text(entry, 1)));
    entries.filter(|(source, _)| !source.starts_with("gnt:opcode:")).collect()
}

#[tokio::test]
async fn requests_become_the_opcodes_that_they_became() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("../fixtures/submitted.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let engine = Arc::new(FakeEngine { compat: Compat::V30, ..FakeEngine::default() });
        let method = Method::parse(case["method"].as_str().unwrap()).unwrap();
        let path = case["path"].as_str().unwrap();
        let answer = ask(&engine, method, path, Some(case["body"].clone())).await;
        let request = format!("{method:?} {path} {}", case["body"]);
        if answer != Ok(json!(1)) {
            wrong.push(format!("{request}: {answer:?}"));
            continue;
        }
        let submitted = engine.submitted.lock().unwrap();
        let ops = case["ops"].as_array().unwrap();
        assert_eq!(submitted[0].len(), ops.len(), "{request}");
        for (ours, theirs) in submitted[0].iter().zip(ops) {
            count += 1;
            let ours = ours.to_wire(Audience::Client, Compat::V30);
            if trail(&ours["reason"]) != trail(&theirs["reason"]) {
                wrong.push(format!("{request}: {} is not {}", ours["reason"], theirs["reason"]));
            }
            for (key, value) in ours {
                let theirs = theirs.get(&key).unwrap_or(&Value::Null);
                let chosen = !value.is_null() && *theirs != value;
                if chosen && !is_the_jobs(path, &key, &value, theirs) {
                    wrong.push(format!("{request}: {key} is {value}, not {theirs}"));
                }
            }
        }
    }
    assert!(count > 150, "{count}");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
