//! What a new QEMU is given before its guest runs: a directory to be confined to, processors, passwords, memory.

use std::fs;
use std::os::unix::fs::chown;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

use super::command_line::{self, Files};
use super::failed;
use super::places::make_private_dir;
use super::qmp::Qmp;
use crate::spec::InstanceSpec;
use crate::{Result, host};

/// Makes the empty directory that a confined QEMU sees, its own where it runs as another user.
pub(super) fn confine(spec: &InstanceSpec, files: &Files) -> std::io::Result<()> {
    if !spec.hv_flag("use_chroot") {
        return Ok(());
    }
    make_private_dir(&files.chroot())?;
    match spec.hv("security_model") {
        "user" => {
            let name = spec.hv("security_domain");
            let Some((user, group)) = host::user(name) else {
                return Err(std::io::Error::other(format!("there is no user {name}")));
            };
            chown(files.chroot(), Some(user), Some(group))
        }
        _ => Ok(()),
    }
}

/// Binds a new QEMU's threads to processors, as `cpu_mask` says.
pub(super) async fn pin(spec: &InstanceSpec, pid: u32, qmp: &Qmp) -> Result<()> {
    let masks = command_line::parse_cpu_mask(spec.hv("cpu_mask"))?;
    let set_of = |cpus: &[usize]| {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        set
    };
    let bind = |thread: u64, set: &CpuSet| {
        let thread = i32::try_from(thread).ok().and_then(Pid::from_raw);
        sched_setaffinity(thread, set).map_err(|error| {
            let mask = spec.hv("cpu_mask");
            failed(format!("Failed to apply cpu_mask '{mask}': {error}"))
        })
    };
    match masks.as_slice() {
        [None] => Ok(()),
        [Some(cpus)] => {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            for task in tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()) {
                bind(task, &set_of(cpus))?;
            }
            Ok(())
        }
        each => {
            let cpus = qmp.run("query-cpus-fast", json!({})).await;
            let cpus = cpus.map_err(|error| failed(error.to_string()))?;
            let threads = cpus.as_array().into_iter().flatten();
            for (thread, mask) in threads.filter_map(|cpu| cpu["thread-id"].as_u64()).zip(each) {
                if let Some(mask) = mask {
                    bind(thread, &set_of(mask))?;
                }
            }
            Ok(())
        }
    }
}

/// The passwords of the instance's viewers, by protocol.
pub(super) fn passwords(spec: &InstanceSpec) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for (protocol, name) in [("VNC", "vnc"), ("SPICE", "spice")] {
        let path = spec.hv(&format!("{name}_password_file"));
        let bound = ["bind_address", "bind"]
            .iter()
            .any(|end| !spec.hv(&format!("{name}_{end}")).is_empty());
        if path.is_empty() || !bound {
            continue;
        }
        let text = fs::read_to_string(path).map_err(|error| {
            failed(format!("Failed to open {protocol} password file {path}: {error}"))
        })?;
        found.push((name, text.trim_end_matches('\n').to_owned()));
    }
    Ok(found)
}

/// The memory that an instance begins with: as much as there is, between its bounds (Ganeti 3.0, `_InstanceStartupMemory`).
pub(super) fn startup_memory(spec: &InstanceSpec, free_mib: u64) -> u64 {
    spec.be("maxmem").min(free_mib).max(spec.be("minmem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(hvparams: &serde_json::Value) -> InstanceSpec {
        serde_json::from_value(json!({
            "name": "web", "uuid": "u", "ctime": 0.0, "mtime": 0.0, "tags": [], "primary_node": "n",
            "secondary_nodes": [], "os": "", "hypervisor": "kvm", "hvparams": hvparams,
            "beparams": {"minmem": 128, "maxmem": 512}, "osparams": {}, "nics": [], "disks": [],
            "network_port": null,
        }))
        .unwrap()
    }

    #[test]
    fn memory_is_what_there_is_between_the_bounds() {
        let check = |free, expected| assert_eq!(startup_memory(&spec(&json!({})), free), expected);
        check(4096, 512);
        check(300, 300);
        check(100, 128);
    }

    #[test]
    fn passwords_are_read_for_viewers_that_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "secret\n").unwrap();
        let check = |hvparams: serde_json::Value, expected: &[(&'static str, String)]| {
            assert_eq!(passwords(&spec(&hvparams)).unwrap(), expected, "{hvparams}");
        };
        check(json!({"vnc_password_file": file}), &[]);
        let bound = json!({"vnc_password_file": file, "vnc_bind_address": "::1"});
        check(bound, &[("vnc", "secret".to_owned())]);
        let bound = json!({"spice_password_file": file, "spice_bind": "::1"});
        check(bound, &[("spice", "secret".to_owned())]);
        let gone = json!({"spice_password_file": "/no/such/file", "spice_bind": "::1"});
        let error = passwords(&spec(&gone)).unwrap_err().to_string();
        assert!(error.starts_with("Failed to open SPICE password file /no/such/file: "), "{error}");
    }
}
