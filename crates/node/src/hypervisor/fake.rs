//! The `fake` hypervisor on a real node: an instance "runs" when a file says so. For machines without QEMU.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::param::{Dict, RebootType};
use serde_json::{Value, json};

use super::Backend;
use crate::cell::StateCell;
use crate::spec::InstanceSpec;
use crate::state::{InstanceRun, RunState};
use crate::{Console, Device, Hotplug, NodeError, Result};

/// Ganeti's words, which repeat themselves on their way up (3.0, `hv_base`, `backend.py` `HotplugSupported`).
const NO_HOTPLUG: &str = "Hotplug is not supported: Hotplug is not supported by this hypervisor: Hotplug is not supported: \
    Hotplug is not supported by this hypervisor";

pub(crate) struct Fake {
    /// One file per instance that runs.
    dir: PathBuf,
    state: Arc<StateCell>,
}

impl Fake {
    /// Reads what runs.
    pub(crate) fn open(data_dir: &Path, state: Arc<StateCell>) -> Self {
        let fake = Self { dir: data_dir.join("run").join("fake"), state };
        for entry in fs::read_dir(&fake.dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let text = fs::read(entry.path()).unwrap_or_default();
            let note: Value = serde_json::from_slice(&text).unwrap_or_default();
            if name.starts_with('.') || !note.is_object() {
                continue;
            }
            let number = |key: &str| note.get(key).and_then(Value::as_u64).unwrap_or(0);
            fake.publish(&name, number("memory"), number("vcpus"));
        }
        fake
    }

    fn publish(&self, name: &str, memory_mib: u64, vcpus: u64) {
        let run = InstanceRun { state: RunState::Running, memory_mib, vcpus, cpu_seconds: 0.0 };
        self.state.put_instance(name.to_owned(), run);
    }

    fn note(&self, name: &str, memory_mib: u64, vcpus: u64) -> Result<()> {
        let write = || {
            fs::create_dir_all(&self.dir)?;
            let mut file = tempfile::Builder::new().prefix(".note").tempfile_in(&self.dir)?;
            file.write_all(json!({"memory": memory_mib, "vcpus": vcpus}).to_string().as_bytes())?;
            file.persist(self.dir.join(name))?;
            std::io::Result::Ok(())
        };
        write().map_err(|error| {
            NodeError::Failed(format!("Failed to start instance {name}: {error}"))
        })?;
        self.publish(name, memory_mib, vcpus);
        Ok(())
    }

    fn vcpus_of(&self, name: &str) -> Option<u64> {
        self.state.get().instances.get(name).map(|run| run.vcpus)
    }
}

#[async_trait]
impl Backend for Fake {
    async fn start(&self, spec: &InstanceSpec, _disks: &[PathBuf], _paused: bool) -> Result<()> {
        self.note(&spec.name, spec.be("maxmem"), spec.be("vcpus"))
    }

    async fn stop(&self, spec: &InstanceSpec, _timeout: Duration) -> Result<()> {
        match fs::remove_file(self.dir.join(&spec.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let text = format!("Failed to stop instance {}: {error}", spec.name);
                return Err(NodeError::Failed(text));
            }
            _ => {}
        }
        self.state.drop_instance(&spec.name);
        Ok(())
    }

    async fn reboot(
        &self,
        spec: &InstanceSpec,
        disks: &[PathBuf],
        _how: RebootType,
        timeout: Duration,
    ) -> Result<()> {
        self.stop(spec, timeout).await?;
        self.start(spec, disks, false).await
    }

    async fn balloon(&self, spec: &InstanceSpec, memory_mib: u64) -> Result<()> {
        match self.vcpus_of(&spec.name) {
            Some(vcpus) => self.note(&spec.name, memory_mib, vcpus),
            None => Err(NodeError::Failed(format!("instance {} is not running", spec.name))),
        }
    }

    async fn can_hotplug(&self, _spec: &InstanceSpec) -> Result<()> {
        Err(NodeError::Unsupported(NO_HOTPLUG.into()))
    }

    async fn hotplug(
        &self,
        spec: &InstanceSpec,
        _action: Hotplug,
        _device: &Device,
        _path: Option<&Path>,
        _index: usize,
    ) -> Result<()> {
        self.can_hotplug(spec).await
    }

    fn console(&self, _spec: &InstanceSpec) -> Console {
        // Ganeti's words (3.0, `hv_fake`).
        Console::Message("Console not available for fake hypervisor".into())
    }

    async fn screenshot(&self, spec: &InstanceSpec) -> Result<Vec<u8>> {
        Err(NodeError::Unsupported(format!("instance {} runs on no screen", spec.name)))
    }

    async fn validate(&self, _hvparams: &Dict) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InstanceSpec {
        serde_json::from_value(json!({
            "name": "web", "uuid": "u", "ctime": 0.0, "mtime": 0.0, "tags": [], "primary_node": "n",
            "secondary_nodes": [], "os": "", "hypervisor": "fake", "hvparams": {},
            "beparams": {"vcpus": 2, "maxmem": 512}, "osparams": {}, "nics": [], "disks": [],
            "network_port": null,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn what_runs_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        let options = crate::LocalOptions::new("n", root.path());
        let open = async || crate::LocalNode::open(options.clone()).await.unwrap();
        use crate::Node;
        let node = open().await;
        node.start_instance(&spec(), false).await.unwrap();
        node.balloon_instance(&spec(), 256).await.unwrap();
        drop(node);
        let node = open().await;
        let run = node.state().instances["web"].clone();
        assert_eq!((run.state, run.memory_mib, run.vcpus), (RunState::Running, 256, 2));
        let expected = Console::Message("Console not available for fake hypervisor".into());
        assert_eq!(node.console(&spec()), expected);
        node.stop_instance(&spec(), Duration::ZERO, "").await.unwrap();
        assert!(node.state().instances.is_empty());
        assert!(node.balloon_instance(&spec(), 256).await.is_err());
        assert!(open().await.state().instances.is_empty());
    }
}
