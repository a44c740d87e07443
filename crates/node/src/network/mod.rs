//! The NICs of instances on this node: a tap device is made before QEMU opens it, filtered where that is asked for, connected
//! as the NIC's mode says, and taken away when the instance ends or the NIC is pulled.
//!
//! Scripts of the administrator's replace what is done here, as with Ganeti: `kvm-vif-bridge` connects, and
//! `kvm-ifdown-custom` is told before a device goes. The name of a device follows from its NIC, so that it is found after a
//! crash: whoever knows the NIC, from the runtime file, takes it away. Commands are planned in `plan` and `filter`; here
//! they are only run.

mod filter;
mod plan;
mod scripts;
#[cfg(test)]
mod testing;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use self::plan::{Bridge, Step};
pub(crate) use self::plan::{features, tap_name};
use crate::process::{Process, find_program, is_executable};
use crate::spec::{InstanceSpec, NicSpec};
use crate::{NodeError, Result};

/// How long one command of ours may take.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// How long a script of the administrator's may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// What connects NICs in place of this program.
const IFUP: &str = "kvm-vif-bridge";
/// What is told before a NIC's device goes.
const IFDOWN: &str = "kvm-ifdown-custom";
/// What sets up the talk between an instance and its node.
const IFUP_OS: &str = "kvm-ifup-os";

/// The node's side of NICs.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Where scripts of the administrator's are looked for, in order.
    script_dirs: Arc<[PathBuf]>,
    /// What is said at the devices of this server's.
    family: Arc<str>,
}

impl Network {
    pub(crate) fn new(script_dirs: &[PathBuf], family: &str) -> Self {
        Self { script_dirs: script_dirs.into(), family: family.into() }
    }

    /// The tap devices of this server's that are there, and what is said at each.
    pub(crate) fn taps(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let ours = |entry: fs::DirEntry| {
            let alias = fs::read_to_string(entry.path().join("ifalias")).ok()?;
            let said = alias.trim().strip_prefix(&*self.family)?.strip_prefix(": ")?;
            Some((entry.file_name().into_string().ok()?, said.to_owned()))
        };
        entries.filter_map(ours).collect()
    }

    fn script(&self, name: &str) -> Option<PathBuf> {
        self.script_dirs.iter().map(|dir| dir.join(name)).find(|path| is_executable(path))
    }

    /// Makes and connects the device of a NIC; nothing is left of it when that fails.
    pub(crate) async fn up(&self, spec: &InstanceSpec, index: usize, nic: &NicSpec) -> Result<()> {
        let Some(tap) = tap_name(nic) else { return Ok(()) };
        if exists(&tap) {
            tracing::warn!(nic.tap = %tap, "{tap} was left behind and is made anew");
            self.down(spec, index, nic).await;
        }
        let made = self.make(spec, index, nic, &tap).await;
        if made.is_err() {
            self.down(spec, index, nic).await;
        }
        made.map_err(|why| NodeError::Failed(format!("Failed to configure interface {tap}: {why}")))
    }

    async fn make(
        &self,
        spec: &InstanceSpec,
        index: usize,
        nic: &NicSpec,
        tap: &str,
    ) -> std::result::Result<(), String> {
        for step in plan::create(spec, index, tap, &self.family) {
            run(&step).await?;
        }
        let scripts =
            [self.script(IFUP_OS).filter(|_| plan::is_communication(nic)), self.script(IFUP)];
        let replaced = scripts[1].is_some();
        for script in scripts.into_iter().flatten() {
            run_script(&script, spec, index, nic, tap).await?;
        }
        if replaced {
            return Ok(());
        }
        if let Some(rules) = filter::rules(spec, nic, tap)? {
            run(&Step::run(&["nft", &rules])).await?;
        }
        for step in plan::connect(&spec.name, index, nic, tap, bridge(&nic.link).as_ref())? {
            run(&step).await?;
        }
        Ok(())
    }

    /// Takes the device of a NIC away, if there is one. What goes wrong is told and does not stop the rest.
    pub(crate) async fn down(&self, spec: &InstanceSpec, index: usize, nic: &NicSpec) {
        let Some(tap) = tap_name(nic).filter(|tap| exists(tap)) else { return };
        if let Some(script) = self.script(IFDOWN)
            && let Err(why) = run_script(&script, spec, index, nic, &tap).await
        {
            tracing::warn!(nic.tap = %tap, "{}: {why}", script.display());
        }
        let mut steps = plan::disconnect(nic, &tap);
        if find_program("nft").is_some() {
            steps.insert(0, Step::run(&["nft", &filter::removal(&tap)]));
        }
        for step in &steps {
            if let Err(why) = run(step).await {
                tracing::warn!(nic.tap = %tap, "taking {tap} away: {why}");
            }
        }
    }

    /// Makes and connects the devices of all NICs, or none.
    pub(crate) async fn up_all(&self, spec: &InstanceSpec) -> Result<()> {
        for (index, nic) in spec.nics.iter().enumerate() {
            if let Err(error) = self.up(spec, index, nic).await {
                self.down_all(spec).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the devices of all NICs away.
    pub(crate) async fn down_all(&self, spec: &InstanceSpec) {
        for (index, nic) in spec.nics.iter().enumerate() {
            self.down(spec, index, nic).await;
        }
    }
}

/// An instance as it can be started here: without `vhost_net`, and thereby with one queue, where the kernel has none, since
/// it is the default.
pub(crate) fn fitted(spec: &InstanceSpec) -> InstanceSpec {
    let mut spec = spec.clone();
    if spec.hv_flag("vhost_net") && !Path::new("/dev/vhost-net").exists() {
        tracing::info!(instance.name = %spec.name, "this kernel has no /dev/vhost-net: vhost_net is left out");
        spec.hvparams.insert("vhost_net".into(), json!(false));
    }
    spec
}

/// Which of these bridges are not there.
pub(crate) fn missing_bridges(wanted: &[String]) -> Vec<String> {
    wanted.iter().filter(|name| !is_bridge(name)).cloned().collect()
}

/// The kernel's directory of an interface; the name of none has a slash in it.
fn directory(interface: &str) -> Option<PathBuf> {
    let is_name = !interface.is_empty() && !interface.contains('/') && !interface.starts_with('.');
    is_name.then(|| Path::new("/sys/class/net").join(interface))
}

fn exists(interface: &str) -> bool {
    directory(interface).is_some_and(|dir| dir.exists())
}

fn is_bridge(name: &str) -> bool {
    directory(name).is_some_and(|dir| dir.join("bridge").is_dir())
}

/// What the kernel says of a bridge, if it is one.
fn bridge(name: &str) -> Option<Bridge> {
    let dir = directory(name).filter(|_| is_bridge(name))?;
    let text = |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_default();
    let number = |path: &str| text(path).trim().parse().ok();
    let lower = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.strip_prefix("lower_")?.to_owned();
        Some(name).filter(|name| !name.starts_with("tap"))
    };
    let entries = fs::read_dir(&dir).ok()?.flatten();
    let mut uplinks: Vec<String> = entries.filter_map(lower).collect();
    uplinks.sort();
    let table = fs::read_to_string("/proc/net/vlan/config").unwrap_or_default();
    let mut taken_vlans = plan::vlan_interfaces(&table);
    taken_vlans.retain(|(_, below)| uplinks.contains(below));
    Some(Bridge {
        mtu: number("mtu").unwrap_or(1500),
        vlan_filtering: number("bridge/vlan_filtering") == Some(1),
        default_pvid: number("bridge/default_pvid")
            .and_then(|vid| vid.try_into().ok())
            .unwrap_or(0),
        uplinks,
        taken_vlans,
    })
}

async fn run(step: &Step) -> std::result::Result<(), String> {
    match step {
        Step::Run(words) => {
            let Some((program, args)) = words.split_first() else { return Ok(()) };
            let process = Process::new(program, STEP_LIMIT).args(args).cwd(Path::new("/"));
            finish(process, &words.join(" ")).await
        }
        Step::Set(path, value) if path.exists() => {
            fs::write(path, value).map_err(|error| format!("{}: {error}", path.display()))
        }
        Step::Set(..) => Ok(()),
    }
}

async fn run_script(
    script: &Path,
    spec: &InstanceSpec,
    index: usize,
    nic: &NicSpec,
    tap: &str,
) -> std::result::Result<(), String> {
    let env = scripts::environment(spec, index, nic, tap);
    let process = Process::new(script, SCRIPT_LIMIT).args([tap]).cwd(Path::new("/")).env_only(env);
    finish(process, &script.display().to_string()).await
}

async fn finish(process: Process, what: &str) -> std::result::Result<(), String> {
    tracing::debug!("running {what}");
    let done = process.run().await.map_err(|error| error.to_string())?;
    match done.failure() {
        None => Ok(()),
        // Ganeti's words (3.0, `hv_base` `ConfigureNIC`), and which command it was.
        Some(reason) => {
            let output = done.output();
            Err(format!(
                "{reason}; network configuration script output: {} ({what})",
                output.trim()
            ))
        }
    }
}
