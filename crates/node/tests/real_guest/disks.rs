//! Disks of a real guest that come, grow and go while it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use model::param::RebootType;
use node::{Device, DiskSpec, Hotplug, InstanceSpec, LocalNode, LocalOptions, Node, OsParams};
use serde_json::{Value, json};

use crate::guest::{Clock, Leftovers, STEP, Viewer, spec, tiny_dir};

/// One more disk of an instance.
fn disk(number: u64, template: &str, logical_id: Value, changes: Value) -> DiskSpec {
    let mut disk = json!({
        "uuid": format!("{number:08}-0000-4000-8000-000000000001"), "name": null,
        "iv_name": format!("disk/{number}"), "dev_type": template, "logical_id": logical_id,
        "size_mib": 16, "mode": "rw", "spindles": null, "nodes": ["here"], "params": {},
        "children": [],
    });
    disk.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(disk).unwrap()
}

/// A node with a guest that runs `tiny`, and a viewer at its prompt.
async fn boot(root: &Path, changes: Value) -> (LocalOptions, LocalNode, InstanceSpec, Viewer) {
    let tiny = tiny_dir().await;
    let mut options = LocalOptions::new("here", root);
    options.os_search_path.insert(0, tiny.clone());
    let node = LocalNode::open(options.clone()).await.unwrap();
    let mut web = spec(&options, "web.example.com", "5b6c7d8e-0000-4000-8000-00000000d15c");
    web.hvparams.extend(node::tiny::hvparams(&tiny));
    web.hvparams.extend(changes.as_object().unwrap().clone());
    node.create_disk(&web, &web.disks[0]).await.unwrap();
    node.create_os(&web, false, &OsParams::default(), std::sync::Arc::new(|_| {})).await.unwrap();
    node.start_instance(&web, false).await.unwrap();
    let viewer = prompt(&options).await;
    (options, node, web, viewer)
}

async fn prompt(options: &LocalOptions) -> Viewer {
    let mut viewer = Viewer::connect(&options.data_dir, "web.example.com").await;
    viewer.wait("GUEST-UP web.example.com").await;
    viewer.wait("# ").await;
    viewer
}

async fn plug(
    node: &LocalNode,
    instance: &InstanceSpec,
    action: Hotplug,
    disk: &DiskSpec,
    index: usize,
) -> Result<Duration, String> {
    let begun = Instant::now();
    let done = node.hotplug(instance, action, &Device::Disk(disk.clone()), index).await;
    done.map(|()| begun.elapsed()).map_err(|error| error.to_string())
}

/// Waits in the guest until a device is there, or is not.
const WAIT: &str = "for i in $(seq 100); do [ -e /dev/vdb ] && there=yes || there=no; [ $there = $want ] && break; sleep 0.1; done";

#[tokio::test]
async fn disks_come_and_go_while_a_guest_runs() {
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let (options, node, mut web, mut viewer) = boot(root.path(), json!({})).await;
    clock.lap("a guest was up");
    node.can_hotplug(&web).await.unwrap();

    // A disk appears in the guest, which writes to it.
    let path = options.file_storage_dir.join("web.example.com/disk1");
    let data = disk(1, "file", json!(["loop", path]), json!({}));
    node.create_disk(&web, &data).await.unwrap();
    node.assemble_disk(&web, &data, true).await.unwrap();
    let took = plug(&node, &web, Hotplug::Add, &data, 1).await.unwrap();
    println!("{:6.3}s a disk was plugged in", took.as_secs_f64());
    viewer.run(&format!("want=yes; {WAIT}; echo vdb=$there"), "vdb=yes").await;
    viewer.run("echo written > /dev/vdb; sync; echo done-$((1 + 1))", "done-2").await;
    assert_eq!(std::fs::read(&path).unwrap()[..8], *b"written\n");

    // It grows under the guest.
    node.grow_disk(&web, &data, 8, false).await.unwrap();
    viewer.run("echo sectors=$(cat /sys/class/block/vdb/size)", "sectors=49152").await;
    assert_eq!(node.disk_size(&data).await.unwrap(), Some(24));

    // Asked for again it is there already: a server that was killed may not know.
    plug(&node, &web, Hotplug::Add, &data, 1).await.unwrap();

    // The next server knows of it, as does a soft reboot.
    drop((node, viewer));
    let node = LocalNode::open(options.clone()).await.unwrap();
    let mut as_started = web.clone();
    as_started.disks.truncate(1);
    node.reboot_instance(&as_started, RebootType::Soft, STEP).await.unwrap();
    let mut viewer = Viewer::connect(&options.data_dir, "web.example.com").await;
    viewer.wait("GUEST-DOWN web.example.com").await;
    viewer.wait("GUEST-UP web.example.com").await;
    viewer.wait("# ").await;
    viewer.run("echo first=$(head -n 1 /dev/vdb)", "first=written").await;
    clock.lap("it grew, and outlived a server and a soft reboot");

    // It goes; what was never there is said so.
    let took = plug(&node, &web, Hotplug::Remove, &data, 1).await.unwrap();
    println!("{:6.3}s a disk was pulled out", took.as_secs_f64());
    viewer.run(&format!("want=no; {WAIT}; echo vdb=$there"), "vdb=no").await;
    let error = plug(&node, &web, Hotplug::Remove, &data, 1).await.unwrap_err();
    assert!(error.ends_with(&format!("Cannot find runtime info for disk with UUID {}", data.uuid)));
    node.remove_disk(&web, &data).await.unwrap();

    // A disk that is not there is refused, and nothing of it stays in the way.
    let error = plug(&node, &web, Hotplug::Add, &data, 1).await.unwrap_err();
    assert!(error.contains("No such file"), "{error}");
    node.create_disk(&web, &data).await.unwrap();
    let locked = disk(1, "file", json!(["loop", path]), json!({"mode": "ro"}));
    plug(&node, &web, Hotplug::Add, &locked, 1).await.unwrap();
    viewer.run(&format!("want=yes; {WAIT}; echo again=$there"), "again=yes").await;
    viewer.run("echo x > /dev/vdb; echo ro=$(cat /sys/class/block/vdb/ro)", "ro=1").await;
    plug(&node, &web, Hotplug::Remove, &locked, 1).await.unwrap();
    clock.lap("it was pulled out, and came back to be read only");

    // What does not run cannot be changed.
    web.disks.truncate(1);
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
    let error = node.can_hotplug(&web).await.unwrap_err().to_string();
    assert_eq!(error, "Hotplug is not supported: Instance is probably down");
}
