//! Simulated nodes behave: memory and disks are counted, mirrors sync, instances move, and all of it outlives the daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::name::Uuid;
use serde_json::json;

use super::*;

fn disk(uuid: &str, template: DiskTemplate, logical_id: &Value, size_mib: u64) -> DiskSpec {
    DiskSpec {
        uuid: Uuid::new(uuid),
        name: None,
        iv_name: "disk/0".into(),
        dev_type: template,
        logical_id: serde_json::from_value(logical_id.clone()).unwrap(),
        size_mib,
        mode: "rw".into(),
        spindles: None,
        nodes: vec!["node1".into()],
        params: Dict::new(),
        children: Vec::new(),
    }
}

fn plain(size_mib: u64) -> DiskSpec {
    disk("d-plain", DiskTemplate::Plain, &json!(["xenvg", "a.disk0"]), size_mib)
}

fn drbd(size_mib: u64) -> DiskSpec {
    let id = json!(["node1", "node2", 11000, 0, 3, "secret"]);
    let mut drbd = disk("d-drbd", DiskTemplate::Drbd, &id, size_mib);
    let data = json!(["xenvg", "a.disk0_data"]);
    let meta = json!(["xenvg", "a.disk0_meta"]);
    drbd.children = vec![
        disk("d-data", DiskTemplate::Plain, &data, size_mib),
        disk("d-meta", DiskTemplate::Plain, &meta, 128),
    ];
    drbd
}

fn instance(disks: Vec<DiskSpec>) -> InstanceSpec {
    let be = json!({"maxmem": 1024, "minmem": 512, "vcpus": 2});
    InstanceSpec {
        name: "web1".into(),
        uuid: Uuid::new("i-web1"),
        ctime: 0.0,
        mtime: 0.0,
        tags: Vec::new(),
        primary_node: "node1".into(),
        secondary_nodes: Vec::new(),
        os: "noop".into(),
        hypervisor: Hypervisor::Fake,
        hvparams: Dict::new(),
        beparams: be.as_object().unwrap().clone(),
        osparams: Dict::new(),
        nics: Vec::new(),
        disks,
        network_port: None,
    }
}

fn world(setup: WorldSetup) -> (Arc<World>, Arc<FakeNode>, Arc<FakeNode>) {
    let world = World::temporary(setup).unwrap();
    let (one, two) = (world.node("node1"), world.node("node2"));
    (world, one, two)
}

fn free_mib(node: &FakeNode) -> u64 {
    node.state().storage[0].free_mib
}

#[tokio::test]
async fn memory_and_disks_are_counted() {
    let (_world, node, _) = world(WorldSetup::default());
    let (disk, web1) = (plain(1024), instance(vec![plain(1024)]));
    let (before, space) = (node.state(), free_mib(&node));
    node.create_disk(&web1, &disk).await.unwrap();
    assert_eq!(free_mib(&node), space - 1024);
    let error = node.start_instance(&web1, false).await.unwrap_err();
    assert_eq!(error.to_string(), "Block device error: Block device 'disk/0' is not set up.");
    let path = node.assemble_disk(&web1, &disk, true).await.unwrap();
    assert_eq!(path.as_deref(), Some("/dev/xenvg/a.disk0"));
    node.start_instance(&web1, false).await.unwrap();
    assert_eq!(node.state().memory_free_mib, before.memory_free_mib - 1024);
    node.balloon_instance(&web1, 512).await.unwrap();
    assert_eq!(node.state().memory_free_mib, before.memory_free_mib - 512);
    node.grow_disk(&web1, &disk, 100, true).await.unwrap();
    node.grow_disk(&web1, &disk, 100, false).await.unwrap();
    assert_eq!(node.disk_size(&disk).await, Ok(Some(1124)));
    node.stop_instance(&web1, Duration::ZERO, "").await.unwrap();
    let error = node.reboot_instance(&web1, RebootType::Hard, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.to_string(), "Cannot reboot instance 'web1' that is not running");
    node.remove_disk(&web1, &disk).await.unwrap();
    assert_eq!((node.state().memory_free_mib, free_mib(&node)), (before.memory_free_mib, space));
}

#[tokio::test]
async fn a_volume_group_fills_up() {
    let sizes = FakeSizes { disk_mib: 1000, ..FakeSizes::default() };
    let (_world, node, _) = world(WorldSetup { sizes, ..WorldSetup::default() });
    let error = node.create_disk(&instance(vec![]), &plain(1024)).await.unwrap_err();
    let text = "Can't create block device: Not enough free space: required 1024, available 1000";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn mirrors_sync_at_their_speed() {
    let setup = WorldSetup { sync_mib_per_second: Some(100), ..WorldSetup::default() };
    let (_world, one, two) = world(setup);
    let (disk, web1) = (drbd(1000), instance(vec![drbd(1000)]));
    for node in [&two, &one] {
        node.create_disk(&web1, &disk).await.unwrap();
    }
    two.assemble_disk(&web1, &disk, false).await.unwrap();
    one.assemble_disk(&web1, &disk, true).await.unwrap();
    let start = match one.world().truth().mirrors["d-drbd"]["node2"].data {
        SideData::SyncingSince(start) => start,
        other => panic!("{other:?}"),
    };
    let status = one.mirror_status(&disk, start + Duration::from_secs(4));
    assert_eq!((status.sync_percent, status.is_degraded), (Some(40.0), true));
    assert_eq!((status.estimated_time, status.minor), (Some(6.0), Some(0)));
    assert_eq!(two.mirror_status(&disk, start + Duration::from_secs(4)).ldisk_status, 4);
    let status = two.mirror_status(&disk, start + Duration::from_secs(10));
    assert_eq!((status.is_degraded, status.ldisk_status, status.minor), (false, 1, Some(3)));
    two.disconnect_disk(&disk).await.unwrap();
    assert!(one.disk_status(&disk).await.unwrap().unwrap().is_degraded);
    two.connect_disk(&disk, true).await.unwrap();
    assert!(!one.disk_status(&disk).await.unwrap().unwrap().is_degraded);
}

#[tokio::test]
async fn instances_move_to_nodes_that_accept_them() {
    let shared = || disk("d", DiskTemplate::Sharedfile, &json!(["loop", "/shared/a"]), 1024);
    let (_world, one, two) = world(WorldSetup::default());
    let web1 = instance(vec![shared()]);
    one.create_disk(&web1, &shared()).await.unwrap();
    one.assemble_disk(&web1, &shared(), true).await.unwrap();
    one.start_instance(&web1, false).await.unwrap();
    let error = one.migrate_instance(&web1, "node2", true).await.unwrap_err();
    assert!(error.to_string().starts_with("Failed to migrate instance"), "{error}");
    two.assemble_disk(&web1, &shared(), false).await.unwrap();
    two.accept_instance(&web1).await.unwrap();
    one.migrate_instance(&web1, "node2", true).await.unwrap();
    two.finalize_migration(&web1, false, true).await.unwrap();
    assert!(one.state().instances.is_empty());
    assert_eq!(two.state().instances["web1"].memory_mib, 1024);
    two.powercycle(Hypervisor::Fake).await.unwrap();
    assert!(two.state().instances.is_empty());
}

#[tokio::test]
async fn faults_come_on_order() {
    let (_world, node, _) = world(WorldSetup::default());
    let error = NodeError::Failed("no luck".into());
    let (verb, instance_name) = (Verb::StartInstance, Some("web1".to_owned()));
    node.inject(Fault { verb, instance: instance_name, times: 1, error: error.clone() });
    let mut other = instance(vec![]);
    other.name = "web2".into();
    node.start_instance(&other, false).await.unwrap();
    assert_eq!(node.start_instance(&instance(vec![]), false).await, Err(error));
    node.start_instance(&instance(vec![]), false).await.unwrap();
    let changes = node.changes();
    node.unreachable(true);
    assert!(changes.has_changed().unwrap() && !node.state().reachable);
    assert!(matches!(node.ping().await, Err(NodeError::Unreachable(_))));
    assert_eq!(node.state().instances.len(), 2);
}

#[tokio::test]
async fn what_was_true_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let web1 = instance(vec![plain(1024)]);
    let before = {
        let node = World::open(dir.path(), WorldSetup::default()).unwrap().node("node1");
        node.create_disk(&web1, &plain(1024)).await.unwrap();
        node.assemble_disk(&web1, &plain(1024), true).await.unwrap();
        node.start_instance(&web1, false).await.unwrap();
        node.state()
    };
    // What is left of a line that was being written when the machine went down.
    let log = dir.path().join("world.log");
    let mut text = std::fs::read(&log).unwrap();
    text.extend(b"{\"event\":\"sto");
    std::fs::write(&log, text).unwrap();
    let node = World::open(dir.path(), WorldSetup::default()).unwrap().node("node1");
    let after = node.state();
    assert_eq!(after.instances, before.instances);
    assert_eq!(after.boot_id, before.boot_id);
    assert_eq!(after.storage, before.storage);
    assert!(node.disk_status(&plain(1024)).await.unwrap().is_some());
    node.stop_instance(&web1, Duration::ZERO, "").await.unwrap();
    assert!(node.state().instances.is_empty());
}

fn put_script(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn quiet() -> Feedback {
    Arc::new(|_| {})
}

#[tokio::test]
async fn scripts_are_really_run() {
    let dir = tempfile::tempdir().unwrap();
    let (os, hooks) = (dir.path().join("os/test"), dir.path().join("hooks"));
    put_script(
        &os.join("create"),
        "echo creating $INSTANCE_NAME $DISK_COUNT\n[ \"$OSP_MODE\" != bad ]",
    );
    put_script(&os.join("export"), "echo dump of $EXPORT_INDEX");
    put_script(&os.join("import"), "read line; [ \"$line\" = 'dump of 0' ]");
    put_script(&os.join("rename"), "echo $OLD_INSTANCE_NAME");
    put_script(&os.join("verify"), "[ \"$1\" = parameters ]");
    std::fs::write(os.join("ganeti_api_version"), "20\n").unwrap();
    std::fs::write(os.join("parameters.list"), "mode how\n").unwrap();
    std::fs::write(os.join("variants.list"), "small\n# none\nbig\n").unwrap();
    std::fs::create_dir_all(dir.path().join("os/broken")).unwrap();
    put_script(&hooks.join("instance-add-pre.d/10-ok"), "echo $GANETI_OP_CODE");
    put_script(&hooks.join("instance-add-pre.d/20-no"), "echo refused >&2; exit 1");
    put_script(&hooks.join("instance-add-pre.d/30.skipped"), "exit 1");
    put_script(&dir.path().join("alloc/mine"), "grep -q allocate $1 && echo \"$2\"");
    let setup = WorldSetup {
        os_search_path: vec![dir.path().join("os")],
        hooks_dir: Some(hooks),
        iallocator_search_path: vec![dir.path().join("alloc")],
        ..WorldSetup::default()
    };
    let (_world, node, _) = world(setup);

    let found = node.list_os().await.unwrap();
    let seen: Vec<_> = found.iter().map(|os| (os.name.as_str(), os.valid)).collect();
    assert_eq!(seen, [("broken", false), ("test", true)]);
    assert_eq!(found[1].variants, ["small", "big"]);
    assert_eq!(found[1].parameters, [("mode".into(), "how".into())]);

    let refused = async |os: &str, params: Value, expected: &str| {
        let params = params.as_object().unwrap().clone();
        let error = node
            .validate_os(os, &OsParams { values: params, ..OsParams::default() }, false)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    refused("none", json!({}), "Directory for OS none not found in search path").await;
    refused("test", json!({}), "OS name 'test' must include a variant").await;
    refused("test+x", json!({}), "OS 'test' does not support variant 'x'").await;
    let text = "The following parameters are not supported by the OS test: x";
    refused("test+big", json!({"x": "1"}), text).await;

    let mut web1 = instance(vec![plain(4)]);
    web1.os = "test+big".into();
    let mut params = OsParams::default();
    node.create_os(&web1, false, &params, quiet()).await.unwrap();
    params.values.insert("mode".into(), json!("bad"));
    let error = node.create_os(&web1, false, &params, quiet()).await.unwrap_err();
    let text = "OS create script failed (exited with exit code 1), last lines in the log file:\n\
                creating web1 1";
    assert_eq!(error.to_string(), text);

    node.export_disk(&web1, 0, &web1.disks[0], "web1", &params, quiet()).await.unwrap();
    node.finalize_export(&web1, "web1", "[export]\n[instance]\n").await.unwrap();
    assert_eq!(node.list_exports().await.unwrap(), ["web1"]);
    assert_eq!(node.export_info("web1").await.unwrap(), "[export]\n[instance]\n");
    let dump = node.exports().dir.join("web1/d-plain").display().to_string();
    node.import_disk(&web1, 0, &dump, &params, quiet()).await.unwrap();
    node.remove_export("web1").await.unwrap();
    assert!(node.remove_export("web1").await.is_err());

    let env = BTreeMap::from([("GANETI_OP_CODE".to_owned(), "OP_X".to_owned())]);
    let results = node.run_hooks("instance-add", HookPhase::Pre, &env).await.unwrap();
    let seen: Vec<_> =
        results.iter().map(|r| (r.script.as_str(), r.status, r.output.as_str())).collect();
    use crate::HookStatus::{Failed, Skipped, Success};
    assert_eq!(
        seen,
        [
            ("instance-add-pre.d/10-ok", Success, "OP_X"),
            ("instance-add-pre.d/20-no", Failed, "refused"),
            ("instance-add-pre.d/30.skipped", Skipped, ""),
        ]
    );

    let request = json!({"type": "allocate"});
    let answer = node.run_iallocator("mine", &["--x=1".into()], &request).await;
    assert_eq!(answer, Ok("--x=1\n".into()));
    let error = node.run_iallocator("other", &[], &request).await.unwrap_err();
    assert_eq!(error.to_string(), "iallocator module 'other' not found in the search path");
}
