//! The watcher over a simulated cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::compat::Compat;
use model::engine::Engine;
use model::name::JobId;
use model::opcode::Op;
use model::param::{DiskTemplate, Hypervisor};
use node::{FakeNode, Fault, Node, NodeError, Verb};
use serde_json::{Value, json};

use super::findings::Kind;
use crate::env::Env;
use crate::init::{InitOptions, NodeKind, new_cluster};
use crate::{EmbeddedEngine, Options};

const WEB: &str = "web.example.com";

struct Setup {
    engine: Arc<EmbeddedEngine>,
    node: Arc<FakeNode>,
    _dir: tempfile::TempDir,
}

async fn open(dir: &Path) -> (Arc<EmbeddedEngine>, Arc<FakeNode>) {
    let engine = EmbeddedEngine::open(Options::new(dir)).await.unwrap();
    let node = engine.shared.nodes.simulated("node1.example.com").unwrap();
    (engine, node)
}

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

impl Setup {
    /// A cluster of one node with one instance that runs, without disks.
    async fn new() -> Self {
        Self::with(DiskTemplate::Diskless, &json!([])).await
    }

    async fn with(template: DiskTemplate, disks: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = vec!["node1.example.com".to_owned()];
        let mut options = InitOptions::new("cluster.example.com", NodeKind::Simulated(names));
        options.user_shutdown = Some(true);
        options.os_search_path = vec![noop(dir.path())];
        options.enabled_disk_templates = Some(vec![template]);
        options.enabled_hypervisors = Some(vec![Hypervisor::Kvm]);
        options.hypervisor_parameters = vec!["kvm:kernel_path=,user_shutdown=true".into()];
        let config = new_cluster(&options, &Env::seeded(1, 1_700_000_000)).unwrap();
        EmbeddedEngine::create(dir.path(), &config).unwrap();
        let (engine, node) = open(dir.path()).await;
        let setup = Self { engine, node, _dir: dir };
        setup
            .done(json!({
                "OP_ID": "OP_INSTANCE_CREATE", "instance_name": WEB, "mode": "create",
                "disk_template": template.as_str(), "disks": disks, "nics": [], "pnode": "node1.example.com",
                "os_type": "noop+default", "start": true, "name_check": false, "ip_check": false, "ignore_ipolicy": true,
                "beparams": {"minmem": 128, "maxmem": 128},
            }))
            .await;
        assert_eq!(setup.status(), json!(["running", "up", "admin"]));
        setup
    }

    async fn done(&self, wire: Value) {
        let op = Op::from_wire(wire.as_object().unwrap().clone(), Compat::V31).unwrap();
        let id = self.engine.submit_job(vec![op]).await.unwrap();
        let status = self.engine.end_of(id).await.unwrap();
        let shown = self.engine.look_at_job(id, |job| format!("{:?}", job.ops[0].result)).unwrap();
        assert_eq!(status.as_str(), "success", "{shown:?}");
    }

    fn status(&self) -> Value {
        let fields = ["status", "admin_state", "admin_state_source"];
        let rows = self.engine.with_live(|live| {
            crate::query::Queries::default().items(
                live,
                model::query::Item::Instance,
                &[WEB.to_owned()],
                &fields,
            )
        });
        json!(rows.unwrap()[0])
    }

    fn count(&self, kind: Kind) -> usize {
        self.engine.watcher.found().iter().filter(|finding| finding.kind == kind).count()
    }

    fn last_job(&self) -> u64 {
        self.engine.queue.last_id()
    }

    /// What the last job was, and why.
    fn last(&self) -> (String, String, String) {
        let id = JobId(self.last_job());
        let look = |job: &model::job::Job| {
            let op = &job.ops[0].input;
            let reason = &op.common.reason[0];
            (op.code.id().as_str().to_owned(), reason.0.clone(), reason.1.clone())
        };
        self.engine.look_at_job(id, look).unwrap().unwrap()
    }
}

#[tokio::test]
async fn what_crashed_is_started_again() {
    let setup = Setup::new().await;
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.last().0, "OP_INSTANCE_CREATE", "there was nothing to do");
    setup.node.crash_instance(WEB);
    assert_eq!(setup.status(), json!(["ERROR_down", "up", "admin"]));
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.status(), json!(["running", "up", "admin"]));
    let expected = ("OP_INSTANCE_STARTUP", "gnt:watcher", "Restarting instance web.example.com");
    assert_eq!(setup.last(), (expected.0.into(), expected.1.into(), expected.2.into()));
    assert_eq!(setup.count(Kind::Down), 1, "it was down when it was looked at");
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.count(Kind::Down), 0);
    assert_eq!(setup.engine.watcher.restarts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn one_that_cannot_be_started_is_left_alone_after_five_attempts() {
    let setup = Setup::new().await;
    setup.node.crash_instance(WEB);
    setup.node.inject(Fault {
        verb: Verb::StartInstance,
        instance: None,
        times: 99,
        error: NodeError::Failed("no".into()),
    });
    let before = setup.last_job();
    for _ in 0..8 {
        setup.engine.watch().await.unwrap();
    }
    assert_eq!(setup.last_job(), before + 5);
    assert_eq!(setup.engine.watcher.given_up.load(Ordering::Relaxed), 1);
    // A server that comes after remembers.
    setup.engine.shutdown().await;
    let Setup { engine, _dir: dir, .. } = setup;
    drop(engine);
    let (engine, _node) = open(dir.path()).await;
    engine.watch().await.unwrap();
    assert_eq!(engine.queue.last_id(), before + 5);
}

#[tokio::test]
async fn what_the_user_stopped_is_noted() {
    let setup = Setup::new().await;
    setup.node.end_instance(WEB);
    assert_eq!(setup.status(), json!(["USER_down", "up", "admin"]));
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.status(), json!(["USER_down", "down", "user"]));
    assert_eq!(setup.last().2, "Cleaning up instance web.example.com");
    let before = setup.last_job();
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.last_job(), before);
    // Started again while it is only seen, not noted: what is left goes first.
    setup.done(json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": WEB})).await;
    setup.node.end_instance(WEB);
    setup.done(json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": WEB})).await;
    assert_eq!(setup.status(), json!(["running", "up", "admin"]));
}

#[tokio::test]
async fn a_pause_and_a_closed_queue_hold_it_back() {
    let setup = Setup::new().await;
    setup.node.crash_instance(WEB);
    let before = setup.last_job();
    let later = setup.engine.shared.env.now_seconds() + 1000.0;
    setup.engine.set_watcher_pause(Some(later)).await.unwrap();
    setup.engine.watch().await.unwrap();
    setup.engine.set_watcher_pause(None).await.unwrap();
    setup.engine.set_drain_flag(true).await.unwrap();
    setup.engine.watch().await.unwrap();
    assert_eq!((setup.last_job(), setup.count(Kind::Down)), (before, 1), "it looks all the same");
    setup.engine.set_drain_flag(false).await.unwrap();
    setup.engine.watch().await.unwrap();
    assert_eq!(setup.last_job(), before + 1);
}

#[tokio::test]
async fn volumes_that_are_down_are_brought_up() {
    let setup = Setup::with(DiskTemplate::Plain, &json!([{"size": 1024}])).await;
    let engine = &setup.engine;
    let before = setup.last_job();
    engine.watch().await.unwrap();
    assert_eq!(setup.last_job(), before + 1, "they were looked at, and there was nothing to do");
    let verified = engine.archive_job(JobId(before + 1)).await.unwrap();
    assert!(!verified, "the look is archived already");
    let config = engine.config();
    let instance = config.instance_by_name(WEB).unwrap();
    let told = crate::spec::instance(&config, Compat::V31, instance);
    let node: &dyn Node = &*setup.node;
    node.shutdown_disk(&told, &told.disks[0]).await.unwrap();
    assert_eq!(node.disk_status(&told.disks[0]).await, Ok(None));
    engine.watch().await.unwrap();
    assert!(node.disk_status(&told.disks[0]).await.unwrap().is_some());
    let expected = ("OP_INSTANCE_ACTIVATE_DISKS", "Activating disks for instance web.example.com");
    let (id, source, reason) = setup.last();
    assert_eq!((id.as_str(), reason.as_str()), expected);
    assert_eq!(source, "gnt:watcher");
}
