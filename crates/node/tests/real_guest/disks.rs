//! Disks of a real guest that come, grow and go while it runs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use model::param::{RebootType, StorageType};
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

/// A loop device over a new file, until it is dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path, size_mib: u64) -> Self {
        std::fs::File::create(file).unwrap().set_len(size_mib << 20).unwrap();
        Self(command("losetup", &["-f", "--show", &file.display().to_string()]).trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // After a failure something may still have it open.
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Runs a command that must succeed and answers what it printed.
fn command(program: &str, args: &[&str]) -> String {
    let said = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8(said.stdout).unwrap()
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
    assert_eq!(error, "Block device error: Block device 'disk/1' is not set up.");
    node.create_disk(&web, &data).await.unwrap();
    let locked = disk(1, "file", json!(["loop", path]), json!({"mode": "ro"}));
    plug(&node, &web, Hotplug::Add, &locked, 1).await.unwrap();
    viewer.run(&format!("want=yes; {WAIT}; echo again=$there"), "again=yes").await;
    viewer.run("echo x > /dev/vdb; echo ro=$(cat /sys/class/block/vdb/ro)", "ro=1").await;
    plug(&node, &web, Hotplug::Remove, &locked, 1).await.unwrap();
    clock.lap("it was pulled out, and came back to be read only");

    // A device of the machine is plugged in as one.
    let backing = root.path().join("device");
    let device = LoopDevice::new(&backing, 16);
    let adopted = disk(2, "blockdev", json!(["manual", device.0]), json!({}));
    node.create_disk(&web, &adopted).await.unwrap();
    assert_eq!(node.disk_size(&adopted).await.unwrap(), Some(16));
    let status = node.disk_status(&adopted).await.unwrap().unwrap();
    assert_eq!((status.major, status.is_degraded), (Some(7), false));
    plug(&node, &web, Hotplug::Add, &adopted, 1).await.unwrap();
    viewer.run(&format!("want=yes; {WAIT}; echo device=$there"), "device=yes").await;
    viewer.run("echo straight > /dev/vdb; sync; echo out-$((1 + 2))", "out-3").await;
    plug(&node, &web, Hotplug::Remove, &adopted, 1).await.unwrap();
    node.remove_disk(&web, &adopted).await.unwrap();
    assert_eq!(std::fs::read(&backing).unwrap()[..9], *b"straight\n");
    clock.lap("a loop device was written by the guest");

    // What does not run cannot be changed.
    web.disks.truncate(1);
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
    let error = node.can_hotplug(&web).await.unwrap_err().to_string();
    assert_eq!(error, "Hotplug is not supported: Instance is probably down");
}

/// Disks of every type that Ganeti changes in a running instance; the guests never run.
#[tokio::test]
async fn each_type_is_plugged_in_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let options = LocalOptions::new("here", root.path());
    let node = LocalNode::open(options.clone()).await.unwrap();
    let mut web = spec(&options, "web.example.com", "5b6c7d8e-0000-4000-8000-00000000d15e");
    web.hvparams.insert("kernel_path".into(), json!(""));
    node.create_disk(&web, &web.disks[0]).await.unwrap();
    let path = options.file_storage_dir.join("web.example.com/disk1");
    let data = disk(1, "file", json!(["loop", path]), json!({}));
    node.create_disk(&web, &data).await.unwrap();
    for (disk_type, controller) in
        [("scsi-hd", "virtio-scsi-pci"), ("scsi", "lsi"), ("scsi-hd", "megasas"), ("ide", "lsi")]
    {
        web.hvparams.insert("disk_type".into(), json!(disk_type));
        web.hvparams.insert("scsi_controller_type".into(), json!(controller));
        web.hvparams.insert("disk_cache".into(), json!("writethrough"));
        node.start_instance(&web, true).await.unwrap();
        let added = plug(&node, &web, Hotplug::Add, &data, 1).await;
        if disk_type == "ide" {
            let text = "Error while executing backend function: Hotplug is not supported for device type ide";
            assert_eq!(added.unwrap_err(), text);
        } else {
            added.unwrap_or_else(|error| panic!("{disk_type} on {controller}: {error}"));
            let removed = plug(&node, &web, Hotplug::Remove, &data, 1).await;
            removed.unwrap_or_else(|error| panic!("{disk_type} on {controller}: {error}"));
        }
        node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
    }
}

/// A volume group of its own, until it is dropped.
struct VolumeGroup(String, LoopDevice);

impl Drop for VolumeGroup {
    fn drop(&mut self) {
        for (program, args) in [("vgremove", ["-f", &self.0]), ("pvremove", ["-f", &self.1.0])] {
            // What remains goes with the file behind it.
            let _ = Command::new(program).args(args).output();
        }
    }
}

/// LVM's own tools are asked. Where the kernel has no device mapper, the refusal is LVM's.
#[tokio::test]
async fn volumes_are_made_where_there_is_a_device_mapper() {
    let root = tempfile::tempdir().unwrap();
    let device = LoopDevice::new(&root.path().join("device"), 64);
    let name = format!("rapid-test-{}", std::process::id());
    command("pvcreate", &[&device.0]);
    command("vgcreate", &[&name, &device.0]);
    let group = VolumeGroup(name.clone(), device);
    let options = LocalOptions::new("here", root.path());
    let node = LocalNode::open(options.clone()).await.unwrap();

    // The space is LVM's, in the state and in the lists.
    let state = node.state();
    let unit = state.storage.iter().find(|unit| unit.key == name).unwrap();
    assert_eq!((unit.kind, unit.total_mib, unit.free_mib), (StorageType::LvmVg, 60, 60));
    let rows = node.storage_list(StorageType::LvmVg, &[name.clone()]).await.unwrap();
    assert_eq!((rows.len(), rows[0].size_mib, rows[0].used_mib), (1, 60, 0));
    let pvs = async || node.storage_list(StorageType::LvmPv, &[group.1.0.clone()]).await.unwrap();
    assert!(pvs().await[0].allocatable);
    let change = |yes: bool| json!({"allocatable": yes}).as_object().unwrap().clone();
    for yes in [false, true] {
        let changes = change(yes).into_iter().collect();
        node.storage_modify(StorageType::LvmPv, &group.1.0, &changes).await.unwrap();
        assert_eq!(pvs().await[0].allocatable, yes);
    }
    node.storage_repair(StorageType::LvmVg, &name).await.unwrap();
    let error = node.storage_repair(StorageType::LvmVg, "no-such-group").await.unwrap_err();
    assert!(error.to_string().contains("still not consistent"), "{error}");

    let web = spec(&options, "web.example.com", "5b6c7d8e-0000-4000-8000-00000000d15d");
    let volume = |name_in: &str| disk(1, "plain", json!([name, name_in]), json!({}));
    let too_large = disk(1, "plain", json!([name, "big"]), json!({"size_mib": 1000}));
    let error = node.create_disk(&web, &too_large).await.unwrap_err().to_string();
    let text = "Can't create block device: Not enough free space: required 1000, available 60.0";
    assert_eq!(error, text);
    match node.create_disk(&web, &volume("one")).await {
        Err(error) => {
            let error = error.to_string();
            let begins = "Can't create block device: LV create failed (exited with exit code ";
            assert!(error.starts_with(begins) && error.contains("device-mapper"), "{error}");
            let kernel = std::fs::read_to_string("/proc/misc").unwrap();
            assert!(!kernel.contains("device-mapper"), "{error}");
        }
        Ok(()) => {
            let free = || node.state().storage.iter().find(|u| u.key == name).unwrap().free_mib;
            assert_eq!((node.disk_size(&volume("one")).await.unwrap(), free()), (Some(16), 44));
            node.grow_disk(&web, &volume("one"), 5, false).await.unwrap();
            assert_eq!(node.disk_size(&volume("one")).await.unwrap(), Some(24));
            node.rename_disk(&volume("one"), &volume("two")).await.unwrap();
            node.wipe_disk(&web, &volume("two"), 0, 16).await.unwrap();
            node.remove_disk(&web, &volume("two")).await.unwrap();
            assert_eq!(free(), 60);
        }
    }
    // What is not there can be removed, and cannot be found.
    node.remove_disk(&web, &volume("none")).await.unwrap();
    assert_eq!(node.disk_status(&volume("none")).await.unwrap(), None);
}
