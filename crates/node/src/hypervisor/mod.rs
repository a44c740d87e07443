//! What runs instances on this node. Two do: QEMU, and one that only notes what would run.

pub(crate) mod fake;
pub(crate) mod kvm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use model::param::{Dict, Hypervisor, RebootType};

use crate::spec::InstanceSpec;
use crate::{Console, Device, Hotplug, Result};

/// A hypervisor of this node. `disks` are the files of the instance's disks, in order. What runs is published into the
/// node's state by the hypervisor itself.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    async fn start(&self, spec: &InstanceSpec, disks: &[PathBuf], paused: bool) -> Result<()>;
    async fn stop(&self, spec: &InstanceSpec, timeout: Duration) -> Result<()>;
    async fn reboot(
        &self,
        spec: &InstanceSpec,
        disks: &[PathBuf],
        how: RebootType,
        timeout: Duration,
    ) -> Result<()>;
    async fn balloon(&self, spec: &InstanceSpec, memory_mib: u64) -> Result<()>;
    /// Whether devices of the instance as it runs can be changed.
    async fn can_hotplug(&self, spec: &InstanceSpec) -> Result<()>;
    /// Changes a device of a running instance; a disk that is added is at `path`.
    async fn hotplug(
        &self,
        spec: &InstanceSpec,
        action: Hotplug,
        device: &Device,
        path: Option<&Path>,
        index: usize,
    ) -> Result<()>;
    fn console(&self, spec: &InstanceSpec) -> Console;
    /// A picture of what the instance shows, as PNG.
    async fn screenshot(&self, spec: &InstanceSpec) -> Result<Vec<u8>>;
    /// Checks parameters that depend on this machine.
    async fn validate(&self, hvparams: &Dict) -> Result<()>;
}

/// The hypervisors that a new cluster of this machine can have, the best first: `kvm` where QEMU is installed, and
/// `fake`, which runs nothing, where it is not.
pub fn detect() -> Vec<Hypervisor> {
    match kvm::find_qemu() {
        Some(_) => vec![Hypervisor::Kvm],
        None => vec![Hypervisor::Fake],
    }
}
