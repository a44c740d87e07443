//! What the tests of real guests share: an instance, a viewer of its console, and what cleans up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use node::{InstanceSpec, LocalNode, LocalOptions, Node, RunState, console, tiny};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

/// No step of a guest takes longer than this, on a slow and busy machine.
pub(crate) const STEP: Duration = Duration::from_secs(120);

pub(crate) fn spec(options: &LocalOptions, name: &str, uuid: &str) -> InstanceSpec {
    let mut hvparams = json!({
        "acpi": true, "boot_order": "disk", "disk_type": "paravirtual", "nic_type": "paravirtual",
        "disk_cache": "default", "serial_console": true, "serial_speed": 38400, "kvm_path": "/usr/bin/kvm",
        "cpu_mask": "all", "security_model": "none", "kvm_flag": "disabled",
    });
    hvparams.as_object_mut().unwrap().extend(tiny::hvparams(&options.os_dir()));
    let path = options.file_storage_dir.join(name).join("disk0");
    serde_json::from_value(json!({
        "name": name, "uuid": uuid, "ctime": 0.0, "mtime": 0.0, "tags": [], "primary_node": "here",
        "secondary_nodes": [], "os": "tiny", "hypervisor": "kvm", "hvparams": hvparams,
        "beparams": {"vcpus": 1, "minmem": 128, "maxmem": 128}, "osparams": {},
        "nics": [{"uuid": "3f0c5b1e-0000-4000-8000-000000000001", "name": null, "mac": "aa:00:00:00:00:01",
                  "ip": null, "mode": "user", "link": "", "vlan": "", "network": null}],
        "disks": [{"uuid": "7d1a2b3c-0000-4000-8000-000000000001", "name": null, "iv_name": "disk/0",
                   "dev_type": "file", "logical_id": ["loop", path], "size_mib": 64, "mode": "rw",
                   "spindles": null, "nodes": ["here"], "params": {}, "children": []}],
        "network_port": null,
    }))
    .unwrap()
}

/// A viewer of the console.
pub(crate) struct Viewer {
    stream: UnixStream,
    seen: String,
}

impl Viewer {
    pub(crate) async fn connect(data_dir: &Path, name: &str) -> Self {
        let socket = console::find(data_dir, name).expect("a running instance has a console");
        Self { stream: UnixStream::connect(socket).await.unwrap(), seen: String::new() }
    }

    /// Reads until a text has come, and forgets what came before its end.
    pub(crate) async fn wait(&mut self, text: &str) {
        let mut chunk = [0; 4096];
        let begun = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = STEP.saturating_sub(begun.elapsed());
            let read = tokio::time::timeout(left, self.stream.read(&mut chunk)).await;
            match read {
                Ok(Ok(count @ 1..)) => {
                    self.seen.push_str(&String::from_utf8_lossy(&chunk[..count]))
                }
                Ok(end) => panic!("the console ended ({end:?}) before {text:?}: {}", self.seen),
                Err(_) => panic!("{text:?} did not come in {STEP:?}: {}", self.seen),
            }
        }
    }

    /// Runs a command and waits until it has printed a text; the command itself, which the console echoes, must not hold it.
    pub(crate) async fn run(&mut self, command: &str, text: &str) {
        self.line(command).await;
        self.wait(text).await;
    }

    pub(crate) async fn line(&mut self, text: &str) {
        self.stream.write_all(format!("{text}\r").as_bytes()).await.unwrap();
    }
}

/// Ends what a failed test leaves running: instances outlive everything else.
pub(crate) struct Leftovers(pub(crate) PathBuf);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for note in std::fs::read_dir(self.0.join("run/instances")).into_iter().flatten().flatten()
        {
            let text = std::fs::read(note.path()).unwrap_or_default();
            let runtime: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let pid = runtime["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Says how long each part took, for whoever reads the test's output.
pub(crate) struct Clock(pub(crate) Instant);

impl Clock {
    pub(crate) fn lap(&mut self, what: &str) {
        println!("{:6.2}s {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

pub(crate) fn run_state(node: &LocalNode, name: &str) -> Option<RunState> {
    node.state().instances.get(name).map(|run| run.state)
}

/// The directory of the system `tiny`, built once for all tests that only use it.
pub(crate) async fn tiny_dir() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("os");
        // What an earlier run built may be another system by now.
        let _ = std::fs::remove_dir_all(&dir);
        tiny::install(&dir, Arc::new(|_| {})).await.unwrap();
        dir
    };
    BUILT.get_or_init(build).await.clone()
}
