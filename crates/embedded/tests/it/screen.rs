//! What is answered to the wish for a picture of a screen that nobody can show.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use embedded::{EmbeddedEngine, Options};
use model::compat::Compat;
use model::engine::{Engine, Screenshot};
use model::opcode::Op;
use model::param::DiskTemplate;
use serde_json::{Value, json};

const WEB: &str = "web.example.com";

/// The definition of an operating system that does nothing.
fn noop(dir: &Path) -> String {
    let noop = dir.join("os").join("noop");
    std::fs::create_dir_all(&noop).unwrap();
    std::fs::write(noop.join("ganeti_api_version"), "20\n").unwrap();
    std::fs::write(noop.join("variants.list"), "default\n").unwrap();
    std::fs::write(noop.join("parameters.list"), "").unwrap();
    for name in ["create", "import", "export", "rename", "verify"] {
        let script = noop.join(name);
        std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir.join("os").to_str().unwrap().to_owned()
}

async fn done(engine: &EmbeddedEngine, wire: Value) {
    let op = Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap();
    let id = engine.submit_job(vec![op]).await.unwrap();
    let fields = ["status", "opresult"].map(str::to_owned);
    let mut seen: Option<Vec<Value>> = None;
    for _ in 0..20 {
        let limit = Duration::from_secs(10);
        let change =
            engine.wait_for_job_change(id, &fields, seen.as_deref(), Some(u64::MAX), limit).await;
        let info = change.unwrap().unwrap().job_info;
        match info[0].as_str().unwrap() {
            "success" => return,
            "error" | "canceled" => panic!("{}", info[1]),
            _ => seen = Some(info),
        }
    }
    panic!("the job does not end");
}

#[tokio::test]
async fn a_screen_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = NodeKind::Simulated(vec!["node1.example.com".into()]);
    let mut options = InitOptions::new("cluster.example.com", nodes);
    options.enabled_disk_templates = Some(vec![DiskTemplate::Diskless]);
    options.os_search_path = vec![noop(dir.path())];
    let config = new_cluster(&options, &Env::seeded(1, 1_700_000_000)).unwrap();
    EmbeddedEngine::create(dir.path(), &config).unwrap();
    let engine = EmbeddedEngine::open(Options::new(dir.path())).await.unwrap();
    assert_eq!(engine.screenshot(WEB).await, Ok(Screenshot::Unknown));
    let create = json!({
        "OP_ID": "OP_INSTANCE_CREATE", "instance_name": WEB, "mode": "create", "disk_template": "diskless",
        "disks": [], "nics": [], "pnode": "node1.example.com", "os_type": "noop+default", "no_install": true,
        "start": false, "name_check": false, "ip_check": false, "ignore_ipolicy": true,
    });
    done(&engine, create).await;
    assert_eq!(engine.screenshot(WEB).await, Ok(Screenshot::NotRunning));
    done(&engine, json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": WEB})).await;
    let text = format!("instance {WEB} runs on a simulated node, which has no screen");
    assert_eq!(engine.screenshot(WEB).await, Ok(Screenshot::Unsupported(text)));
}
