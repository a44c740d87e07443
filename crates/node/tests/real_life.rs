//! Real QEMUs whose guests never run: what they take on their command lines, what is told of their screens and groups, what is found
//! that belongs to nothing, and many of them taken over at once.
//!
//! It needs QEMU; `cargo xtask test` installs it, and what is missing is a failure.
#![expect(clippy::unwrap_used, reason = "it is a test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::param::{Dict, Hypervisor};
use node::{InstanceSpec, LocalNode, LocalOptions, Node, NodeError, RunState, StrayKind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How many are taken over at once.
const MANY: u64 = 50;

fn spec(name: &str, number: u64, changes: &Value) -> InstanceSpec {
    let mut hvparams = json!({
        "acpi": true, "boot_order": "disk", "disk_type": "paravirtual", "nic_type": "paravirtual",
        "disk_cache": "default", "serial_console": true, "serial_speed": 38400, "kvm_path": "/usr/bin/kvm",
        "cpu_mask": "all", "security_model": "none", "kvm_flag": "disabled",
    });
    hvparams.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "name": name, "uuid": format!("5b6c7d8e-0000-4000-8000-{number:012}"), "ctime": 0.0, "mtime": 0.0,
        "tags": [], "primary_node": "here", "secondary_nodes": [], "os": "", "hypervisor": "kvm",
        "hvparams": hvparams, "beparams": {"vcpus": 1, "minmem": 32, "maxmem": 32}, "osparams": {},
        "nics": [], "disks": [], "network_port": 11_100,
    }))
    .unwrap()
}

/// The note on each QEMU that was started.
fn notes(root: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(root.join("run/instances")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read(entry.path()).ok());
    texts.map(|text| serde_json::from_slice(&text).unwrap_or_default()).collect()
}

fn pid(note: &Value) -> Option<Pid> {
    note["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
}

/// Ends what a failed test leaves running: instances outlive everything else.
struct Leftovers(PathBuf, Vec<Pid>);

impl Leftovers {
    /// Forgets nothing of what runs now.
    fn note(&mut self) {
        self.1.extend(notes(&self.0).iter().filter_map(pid));
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        self.1.extend(notes(&self.0).iter().filter_map(pid));
        for pid in &self.1 {
            let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
            // The number may be another process's by now.
            if line.contains("5b6c7d8e-0000-4000-8000-") {
                let _ = kill_process(*pid, Signal::KILL);
            }
        }
    }
}

fn run_state(node: &LocalNode, name: &str) -> Option<RunState> {
    node.state().instances.get(name).map(|run| run.state)
}

#[tokio::test]
async fn qemu_takes_what_shows_and_confines() {
    assert_eq!(node::detect(), [Hypervisor::Kvm], "QEMU is missing");
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned(), vec![]);
    let node = LocalNode::open(LocalOptions::new("here", root.path())).await.unwrap();
    let password = root.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    for (changes, screen) in [
        (json!({}), true),
        (json!({"vga": "none"}), false),
        (json!({"soundhw": "hda,ac97,es1370,sb16,gus"}), true),
        (json!({"usb_devices": "keyboard,mouse,tablet,wacom-tablet"}), true),
        (json!({"use_guest_agent": true}), true),
        (json!({"use_chroot": true}), true),
        (json!({"use_chroot": true, "security_model": "user", "security_domain": "nobody"}), true),
        (json!({"vnc_bind_address": "lo", "vnc_tls": true, "vnc_password_file": password}), true),
        (
            json!({"spice_bind": "lo", "spice_password_file": password, "spice_use_vdagent": true,
                   "spice_image_compression": "auto_lz", "spice_jpeg_wan_compression": "auto",
                   "spice_zlib_glz_wan_compression": "always", "spice_streaming_video": "filter",
                   "spice_playback_compression": true, "spice_ip_version": 4, "soundhw": "hda"}),
            true,
        ),
    ] {
        let web = spec("web.example.com", 1, &changes);
        node.validate_hvparams(Hypervisor::Kvm, &web.hvparams).await.unwrap();
        let started = node.start_instance(&web, true).await;
        assert_eq!(started, Ok(()), "{changes}");
        assert_eq!(run_state(&node, &web.name), Some(RunState::Paused), "{changes}");
        let seen = node.screenshot(&web).await;
        match screen {
            true => assert!(seen.unwrap().starts_with(b"\x89PNG\r\n\x1a\n"), "{changes}"),
            false => {
                let text = "instance web.example.com has no screen".to_owned();
                assert_eq!(seen, Err(NodeError::Unsupported(text)), "{changes}");
            }
        }
        let beside = node::screen::take(root.path(), &web.name).await;
        assert_eq!(beside.is_ok(), screen, "{changes}");
        node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
        assert!(node.screenshot(&web).await.is_err(), "{changes}");
    }
    let sockets = std::fs::read_dir(root.path().join("run/sockets"));
    assert_eq!(sockets.map_or(0, Iterator::count), 0, "nothing is left");
    let wrong = dict(&json!({"machine_version": "none-such"}));
    let error = node.validate_hvparams(Hypervisor::Kvm, &wrong).await.unwrap_err().to_string();
    assert_eq!(error, "Unsupported machine version: none-such");
    let lasting = node.lasting_hvparams(Hypervisor::Kvm, &Dict::new()).await;
    let machine = lasting["machine_version"].as_str().unwrap();
    assert!(machine.starts_with("pc-i440fx-"), "{machine}");
    assert_eq!(node.lasting_hvparams(Hypervisor::Kvm, &lasting).await, Dict::new());
}

fn dict(value: &Value) -> Dict {
    value.as_object().unwrap().clone()
}

#[tokio::test]
async fn an_instance_is_held_by_control_groups() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned(), vec![]);
    let mut options = LocalOptions::new("here", root.path());
    options.limit_instances = true;
    let node = LocalNode::open(options).await.unwrap();
    let web = spec("web.example.com", 2, &json!({}));
    node.start_instance(&web, true).await.unwrap();
    let pid = pid(&notes(root.path())[0]).unwrap().as_raw_nonzero();
    let held = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = held.lines().filter(|line| line.ends_with(web.uuid.as_str())).count();
    let v1 = own.lines().any(|line| line.contains(":memory:") || line.contains(":cpu"));
    println!("{group} groups hold it: {held}");
    assert!(group > 0 || !v1, "it is in no group: {held}");
    for line in held.lines().filter(|line| line.contains(":memory:")) {
        let path = line.rsplit(':').next().unwrap();
        let limit = format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes");
        if let Ok(limit) = std::fs::read_to_string(limit) {
            assert_eq!(limit.trim(), ((32_u64 + 256) << 20).to_string());
        }
    }
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
    drop(node);
    let node = LocalNode::open(LocalOptions::new("here", root.path())).await.unwrap();
    assert_eq!(node.strays(), [], "its groups are gone");
}

#[tokio::test]
async fn what_belongs_to_nothing_is_told_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut leftovers = Leftovers(root.path().to_owned(), vec![]);
    let options = LocalOptions::new("here", root.path());
    let node = LocalNode::open(options.clone()).await.unwrap();
    let web = spec("web.example.com", 3, &json!({}));
    node.start_instance(&web, true).await.unwrap();
    leftovers.note();
    drop(node);
    // Its note is lost: it runs, and nobody can say what it is.
    let note = root.path().join("run/instances").join(format!("{}.json", web.uuid));
    std::fs::rename(&note, root.path().join("note")).unwrap();
    let node = LocalNode::open(options.clone()).await.unwrap();
    let strays = node.strays();
    let kinds: Vec<(StrayKind, &str)> =
        strays.iter().map(|stray| (stray.kind, stray.name.as_str())).collect();
    assert_eq!(
        kinds,
        [(StrayKind::Process, "web.example.com"), (StrayKind::File, web.uuid.as_str())]
    );
    let pid = leftovers.1[0].as_raw_nonzero();
    assert!(Path::new(&format!("/proc/{pid}/exe")).exists(), "it still runs");
    drop(node);
    std::fs::rename(root.path().join("note"), &note).unwrap();
    let node = LocalNode::open(options).await.unwrap();
    assert_eq!(node.strays(), []);
    assert_eq!(run_state(&node, &web.name), Some(RunState::Paused));
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
}

#[tokio::test]
async fn many_are_taken_over_at_once() {
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned(), vec![]);
    let options = LocalOptions::new("here", root.path());
    let node = LocalNode::open(options.clone()).await.unwrap();
    let all: Vec<InstanceSpec> =
        (0..MANY).map(|at| spec(&format!("web{at}.example.com"), 100 + at, &json!({}))).collect();
    for web in &all {
        node.start_instance(web, true).await.unwrap();
    }
    drop(node);
    let begun = Instant::now();
    let node = LocalNode::open(options).await.unwrap();
    println!("{MANY} were taken over in {:.3} s", begun.elapsed().as_secs_f64());
    for web in &all {
        assert_eq!(run_state(&node, &web.name), Some(RunState::Paused), "{}", web.name);
    }
    assert_eq!(node.strays(), []);
    for web in &all {
        node.stop_instance(web, Duration::ZERO, "test").await.unwrap();
    }
}
