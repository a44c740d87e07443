//! A real guest, from packages to power-down: `tiny` is built, an instance is made, booted under QEMU, spoken to on its
//! console, taken over by a second node, rebooted, exported and stopped.
//!
//! It needs QEMU, e2fsprogs and Debian's packages; `cargo xtask test` installs them, and what is missing is a failure.
#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "it is a test")]

mod disks;
mod guest;
mod killed;
mod network;
mod switch;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::param::{Hypervisor, RebootType};
use node::{Console, Feedback, LocalNode, LocalOptions, Node, OsParams, RunState, console, tiny};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use guest::{Clock, Leftovers, STEP, Viewer, run_state, spec};

#[tokio::test]
async fn a_real_guest_lives() {
    assert_eq!(
        node::detect(),
        [Hypervisor::Kvm],
        "QEMU is missing: apt-get install --no-install-recommends qemu-system-x86 e2fsprogs"
    );
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let options = LocalOptions::new("here", root.path());
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = said.clone();
    let out: Feedback = Arc::new(move |line| sink.lock().unwrap().push(line.to_owned()));
    tiny::install(&options.os_dir(), out.clone()).await.unwrap();
    clock.lap("tiny was built");

    let node = LocalNode::open(options.clone()).await.unwrap();
    let os = node.list_os().await.unwrap();
    let found = os.iter().find(|os| os.name == "tiny").unwrap();
    assert!(found.valid, "{}", found.diagnose);
    let web = spec(&options, "web.example.com", "5b6c7d8e-0000-4000-8000-000000000001");
    node.validate_hvparams(Hypervisor::Kvm, &web.hvparams).await.unwrap();
    node.create_disk(&web, &web.disks[0]).await.unwrap();
    let mut params = OsParams::default();
    params.values.insert("greeting".into(), json!("Hello from tiny"));
    node.validate_os("tiny", &params, false).await.unwrap();
    node.create_os(&web, false, &params, out.clone()).await.unwrap();
    assert!(said.lock().unwrap().iter().any(|line| line.starts_with("tiny: installed")));
    clock.lap("the system was installed on a disk");

    // It boots, tells its name and address, and answers.
    node.start_instance(&web, false).await.unwrap();
    node.start_instance(&web, false).await.unwrap();
    assert_eq!(run_state(&node, "web.example.com"), Some(RunState::Running));
    let Console::Ssh { command, .. } = node.console(&web) else { panic!("no serial console") };
    assert_eq!(command[1..3], ["console", "--data-dir"]);
    let mut viewer = Viewer::connect(&options.data_dir, "web.example.com").await;
    clock.lap("QEMU was started");
    viewer.wait("Hello from tiny").await;
    viewer.wait("GUEST-UP web.example.com address=10.0.2.15").await;
    viewer.wait("# ").await;
    viewer.line("echo sum=$((40 + 2))").await;
    viewer.wait("sum=42").await;
    viewer.line("echo kept > /root/kept; sync; echo is-$((1 + 1))").await;
    viewer.wait("is-2").await;
    clock.lap("the guest was up and answered");

    // The server goes, the guest stays: another finds it, with what the console showed before.
    let pid = std::fs::read_dir(root.path().join("run/instances")).unwrap().count();
    assert_eq!(pid, 1);
    drop((node, viewer));
    let begun = Instant::now();
    let node = LocalNode::open(options.clone()).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "taking over took {took:?}");
    assert_eq!(run_state(&node, "web.example.com"), Some(RunState::Running));
    let mut viewer = Viewer::connect(&options.data_dir, "web.example.com").await;
    viewer.wait("sum=42").await;
    viewer.line("echo still-$((2 + 3))").await;
    viewer.wait("still-5").await;
    clock.lap("it was taken over by another server");

    // A reboot keeps the viewer and the disk.
    node.reboot_instance(&web, RebootType::Hard, STEP).await.unwrap();
    viewer.wait("GUEST-DOWN web.example.com").await;
    viewer.wait("GUEST-UP web.example.com").await;
    viewer.line("cat /root/kept").await;
    viewer.wait("kept").await;
    assert_eq!(run_state(&node, "web.example.com"), Some(RunState::Running));

    clock.lap("it was rebooted");

    // Its disk grows while it runs.
    node.grow_disk(&web, &web.disks[0], 32, false).await.unwrap();
    assert_eq!(node.disk_size(&web.disks[0]).await.unwrap(), Some(96));
    viewer.line("echo sectors=$(cat /sys/class/block/vda/size)").await;
    viewer.wait("sectors=196608").await;

    // It powers down when asked; nothing is left behind.
    let begun = Instant::now();
    node.stop_instance(&web, STEP, "test").await.unwrap();
    assert!(begun.elapsed() < STEP, "it obeyed");
    viewer.wait("GUEST-DOWN web.example.com").await;
    assert_eq!(run_state(&node, "web.example.com"), None);
    assert!(console::find(&options.data_dir, "web.example.com").is_none());
    assert_eq!(std::fs::read_dir(root.path().join("run/instances")).unwrap().count(), 0);
    node.stop_instance(&web, STEP, "test").await.unwrap();

    clock.lap("it powered down");

    // Another name, a dump and its way back.
    let mail = spec(&options, "mail.example.com", "5b6c7d8e-0000-4000-8000-000000000001");
    node.rename_disk(&web.disks[0], &mail.disks[0]).await.unwrap();
    node.rename_os(&mail, "web.example.com", &params, out.clone()).await.unwrap();
    let disk = &mail.disks[0];
    node.export_disk(&mail, 0, disk, "mail.example.com", &params, out.clone()).await.unwrap();
    node.finalize_export(&mail, "mail.example.com", "[export]\n[instance]\n").await.unwrap();
    node.remove_disk(&mail, &mail.disks[0]).await.unwrap();
    let mut fresh = mail.clone();
    fresh.disks[0].size_mib = 96;
    node.create_disk(&fresh, &fresh.disks[0]).await.unwrap();
    let dump = options.export_dir.join("mail.example.com").join(mail.disks[0].uuid.as_str());
    let dump = dump.display().to_string();
    node.import_disk(&fresh, 0, &dump, &params, out).await.unwrap();

    clock.lap("it was renamed, dumped and brought back");

    // The guest that came back boots under its new name, ends itself, and is found ended. A stop by force works on it too.
    fresh.hvparams.insert("user_shutdown".into(), json!(true));
    node.start_instance(&fresh, false).await.unwrap();
    let mut viewer = Viewer::connect(&options.data_dir, "mail.example.com").await;
    viewer.wait("GUEST-UP mail.example.com").await;
    let mut changes = node.changes();
    viewer.line("poweroff").await;
    let ended = async {
        while run_state(&node, "mail.example.com") != Some(RunState::Shutdown) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(STEP, ended).await.unwrap();
    clock.lap("it booted again and powered itself off");
    node.start_instance(&fresh, false).await.unwrap();
    let begun = Instant::now();
    node.stop_instance(&fresh, Duration::ZERO, "test").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(run_state(&node, "mail.example.com"), None);

    clock.lap("it was started and stopped by force");

    // QEMU is killed: that is seen at once, and does not stand in the way of a new start.
    node.start_instance(&fresh, true).await.unwrap();
    assert_eq!(run_state(&node, "mail.example.com"), Some(RunState::Paused));
    let runtime =
        std::fs::read(root.path().join("run/instances").join(format!("{}.json", fresh.uuid)));
    let runtime: serde_json::Value = serde_json::from_slice(&runtime.unwrap()).unwrap();
    let pid = i32::try_from(runtime["process"]["pid"].as_i64().unwrap()).unwrap();
    let mut changes = node.changes();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let ended = async {
        while run_state(&node, "mail.example.com").is_some() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(STEP, ended).await.unwrap();
    node.start_instance(&fresh, true).await.unwrap();
    drop(node);
    let node = LocalNode::open(options.clone()).await.unwrap();
    assert_eq!(run_state(&node, "mail.example.com"), Some(RunState::Paused));
    node.stop_instance(&fresh, Duration::ZERO, "test").await.unwrap();
    clock.lap("it was killed and started again");

    // A bridge that is not there is missed.
    fresh.nics[0].mode = "bridged".into();
    fresh.nics[0].link = "nowhere0".into();
    let error = node.start_instance(&fresh, false).await.unwrap_err().to_string();
    assert!(error.contains("Failed to configure interface tap3f0c5b1e0000"), "{error}");
    node.remove_disk(&fresh, &fresh.disks[0]).await.unwrap();

    // Where there is /dev/kvm, it is tried meanwhile, from each opening of the node on; the verdict is kept, whatever it is.
    let verdict = root.path().join("kvm-verdict.json");
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        let begun = Instant::now();
        while !verdict.exists() && begun.elapsed() < STEP {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let text = std::fs::read_to_string(&verdict).expect("a verdict on /dev/kvm");
        println!("{text}");
    }
}

/// QEMU itself accepts every shape of command line; the guests never run.
#[tokio::test]
async fn qemu_takes_what_it_is_told() {
    assert_eq!(node::detect(), [Hypervisor::Kvm], "QEMU is missing");
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let options = LocalOptions::new("here", root.path());
    let node = LocalNode::open(options.clone()).await.unwrap();
    let mut web = spec(&options, "web.example.com", "5b6c7d8e-0000-4000-8000-000000000002");
    web.network_port = Some(11_037);
    web.hvparams.insert("kernel_path".into(), json!(""));
    node.create_disk(&web, &web.disks[0]).await.unwrap();
    let file = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (iso, password) = (file("disk,1.iso", &"x".repeat(4096)), file("password", "secret"));
    let floppy = file("floppy", &"\0".repeat(1_474_560));
    let vnc_dir = root.path().display().to_string();
    for change in [
        json!({}),
        json!({"disk_type": "ide", "nic_type": "e1000"}),
        json!({"disk_type": "scsi", "scsi_controller_type": "lsi", "nic_type": "rtl8139"}),
        json!({"disk_type": "scsi-hd", "scsi_controller_type": "virtio-scsi-pci", "nic_type": "pcnet"}),
        json!({"disk_type": "scsi-hd", "scsi_controller_type": "megasas", "nic_type": "ne2k_pci"}),
        json!({"boot_order": "cdrom", "cdrom_image_path": iso, "cdrom2_image_path": iso}),
        json!({"boot_order": "cdrom", "cdrom_image_path": iso, "cdrom_disk_type": "scsi-cd"}),
        json!({"boot_order": "floppy", "floppy_image_path": floppy}),
        json!({"boot_order": "network"}),
        json!({"serial_console": false, "vnc_bind_address": "127.0.0.1", "vnc_password_file": password}),
        json!({"vnc_bind_address": vnc_dir, "vga": "cirrus", "usb_mouse": "mouse", "keymap": "de"}),
        json!({"disk_cache": "none", "disk_aio": "native", "disk_discard": "unmap"}),
        json!({"disk_cache": "writethrough", "disk_aio": "io_uring"}),
        json!({"cpu_mask": "0", "cpu_type": "max", "cpu_sockets": 1, "cpu_cores": 1, "cpu_threads": 1}),
        json!({"cpu_mask": "0:0"}),
        json!({"acpi": false, "use_localtime": true, "reboot_behavior": "exit", "machine_version": "q35"}),
        json!({"kvm_extra": "-smbios 'type=1,serial=a b'", "machine_version": "pc-i440fx-7.2"}),
    ] {
        let mut changed = web.clone();
        changed.hvparams.extend(change.as_object().unwrap().clone());
        changed
            .beparams
            .insert("vcpus".into(), json!(if change["cpu_mask"] == "0:0" { 2 } else { 1 }));
        let started = node.start_instance(&changed, true).await;
        started.unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_eq!(run_state(&node, "web.example.com"), Some(RunState::Paused), "{change}");
        node.stop_instance(&changed, Duration::ZERO, "test").await.unwrap();
    }

    // A start that was cut off before the guest ran is undone by the next server: nobody was told that it runs.
    node.start_instance(&web, true).await.unwrap();
    drop(node);
    let note = root.path().join("run/instances").join(format!("{}.json", web.uuid));
    let mut runtime: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
    runtime["paused"] = json!(false);
    runtime["process"] = json!(null);
    std::fs::write(&note, runtime.to_string()).unwrap();
    let node = LocalNode::open(options.clone()).await.unwrap();
    assert_eq!(run_state(&node, "web.example.com"), None);
    assert!(!note.exists());

    // What QEMU says against it is told.
    web.hvparams.insert("machine_version".into(), json!("none-such"));
    let error = node.start_instance(&web, true).await.unwrap_err().to_string();
    assert!(
        error.starts_with("Failed to start instance web.example.com: exited with exit code 1 ("),
        "{error}"
    );
    assert!(error.contains("machine type"), "{error}");
    assert_eq!(std::fs::read_dir(root.path().join("run/instances")).unwrap().count(), 0);
}
