//! Devices that come and go while QEMU runs: what it is told, as data, and the carrying out.
//!
//! A server that was killed in the middle may be asked for the same again: what is as it should be already is no error.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::devices::{disk_backend, disk_device, disk_id, disk_node};
use super::qmp::{Qmp, QmpError};
use crate::spec::{DiskSpec, InstanceSpec};
use crate::{Device, NodeError, Result};

/// How long a guest may take to let a device go; one that boots cannot.
const UNPLUG_LIMIT: Duration = Duration::from_secs(10);

/// Types that Ganeti changes in a running instance (3.0, `hv_kvm` `_HOTPLUGGABLE_DEVICE_TYPES`). `scsi` is no device of
/// QEMU's any more; here it is `scsi-hd`.
const DISK_TYPES: &[&str] =
    &["", "paravirtual", "scsi", "scsi-hd", "scsi-cd", "scsi-block", "scsi-generic"];
const NIC_TYPES: &[&str] =
    &["", "paravirtual", "e1000", "i82551", "i82557b", "i82559er", "ne2k_pci", "pcnet", "rtl8139"];

/// Commands, and what QEMU says when there is nothing left to do.
const ALREADY_SO: &[(&str, &str)] = &[
    ("blockdev-add", "Duplicate nodes with node-name"),
    ("blockdev-del", "Failed to find node"),
    ("device_add", "Duplicate device ID"),
    ("netdev_add", "Duplicate ID"),
    ("netdev_del", "not found"),
];

/// A command for QEMU.
pub(crate) type Command = (&'static str, Value);

/// One thing that is done to a running QEMU.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A command, and the one that takes it back when a later step fails.
    Run(Command, Option<Command>),
    /// The guest is asked to let the device of that name go, and it is waited until it has.
    Unplug(String),
}

/// Refuses devices of a type that cannot be changed while the instance runs, in Ganeti's words.
pub(crate) fn check_type(spec: &InstanceSpec, device: &Device) -> Result<()> {
    let (kind, known) = match device {
        Device::Disk(_) => (spec.hv("disk_type"), DISK_TYPES),
        Device::Nic(_) => (spec.hv("nic_type"), NIC_TYPES),
    };
    if known.contains(&kind) {
        return Ok(());
    }
    Err(NodeError::Unsupported(format!(
        "Error while executing backend function: Hotplug is not supported for device type {kind}"
    )))
}

/// What makes a disk appear in a guest. `spec` is the instance as it was started.
pub(crate) fn add_disk(spec: &InstanceSpec, disk: &DiskSpec, path: &Path) -> Result<Vec<Step>> {
    let node = json!({"node-name": disk_node(disk)});
    Ok(vec![
        Step::Run(("blockdev-add", disk_backend(spec, disk, path)?), Some(("blockdev-del", node))),
        Step::Run(("device_add", disk_device(spec, disk)?.arguments()), None),
    ])
}

/// What takes a disk out of a guest.
pub(crate) fn remove_disk(disk: &DiskSpec) -> Vec<Step> {
    vec![
        Step::Unplug(disk_id(disk)),
        Step::Run(("blockdev-del", json!({"node-name": disk_node(disk)})), None),
    ]
}

/// Carries steps out; when one fails those before it are taken back. `gone` yields the names of devices that guests have
/// let go. Answers whether a device that was to go was there.
pub(crate) async fn carry_out(
    qmp: &Qmp,
    gone: &Receiver<String>,
    steps: &[Step],
) -> Result<bool, String> {
    let mut found = true;
    for (at, step) in steps.iter().enumerate() {
        let done = match step {
            Step::Run((command, arguments), _) => {
                run(qmp, command, arguments).await.map_err(|error| error.to_string())
            }
            Step::Unplug(id) => unplug(qmp, gone.resubscribe(), id).await.map(|was| found = was),
        };
        if let Err(error) = done {
            for step in steps[..at].iter().rev() {
                if let Step::Run(_, Some((command, arguments))) = step
                    && let Err(error) = run(qmp, command, arguments).await
                {
                    tracing::error!(%error, command, "a failed change of a device can't be undone");
                }
            }
            return Err(error);
        }
    }
    Ok(found)
}

async fn run(qmp: &Qmp, command: &str, arguments: &Value) -> Result<(), QmpError> {
    match qmp.run(command, arguments.clone()).await {
        Err(QmpError::Refused { desc, .. })
            if ALREADY_SO.iter().any(|(name, text)| *name == command && desc.contains(text)) =>
        {
            tracing::info!(command, "nothing to do: {desc}");
            Ok(())
        }
        result => result.map(drop),
    }
}

/// Answers whether the device was there.
async fn unplug(qmp: &Qmp, mut gone: Receiver<String>, id: &str) -> Result<bool, String> {
    match qmp.run("device_del", json!({"id": id})).await {
        Ok(_) => {}
        Err(QmpError::Refused { desc, .. }) if desc.contains("not found") => return Ok(false),
        // Asked before; the guest may hear it now.
        Err(QmpError::Refused { desc, .. }) if desc.contains("in the process of unplug") => {}
        Err(error) => return Err(error.to_string()),
    }
    let mut heard = std::pin::pin!(async {
        loop {
            match gone.recv().await {
                Ok(name) if name == id => return true,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return false,
            }
        }
    });
    match tokio::time::timeout(UNPLUG_LIMIT, &mut heard).await {
        Ok(true) => Ok(true),
        Ok(false) => Err("QEMU ended meanwhile".to_owned()),
        Err(_) => Err(format!("Device {id} should have been removed but is still there")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;
    use tokio::sync::broadcast;

    use super::super::command_line::tests::instance;
    use super::*;

    #[test]
    fn a_disk_is_told_of_as_on_the_command_line() {
        let spec = instance(json!({"disk_cache": "writethrough"}));
        let steps = add_disk(&spec, &spec.disks[0], Path::new("/srv/a,b")).unwrap();
        insta::assert_debug_snapshot!(steps);
        let expected = [
            Step::Unplug("hd-0d15c000000040008000".into()),
            Step::Run(("blockdev-del", json!({"node-name": "disk-0d15c000000040008000"})), None),
        ];
        assert_eq!(remove_disk(&spec.disks[0]), expected);
    }

    #[test]
    fn some_types_cannot_be_changed() {
        let check = |changes, expected: Option<&str>| {
            let spec = instance(changes);
            let devices = [Device::Disk(spec.disks[0].clone()), Device::Nic(spec.nics[0].clone())];
            let texts = devices.iter().find_map(|device| check_type(&spec, device).err());
            assert_eq!(texts.map(|error| error.to_string()).as_deref(), expected);
        };
        check(json!({}), None);
        check(json!({"disk_type": "scsi-hd", "nic_type": "e1000"}), None);
        let text = |kind: &str| {
            format!(
                "Error while executing backend function: Hotplug is not supported for device type {kind}"
            )
        };
        check(json!({"disk_type": "ide"}), Some(&text("ide")));
        check(json!({"nic_type": "ne2k_isa"}), Some(&text("ne2k_isa")));
    }

    /// A monitor that answers each command by a table of refusals, and lets devices go at once.
    async fn monitor(
        refusals: &'static [(&'static str, &'static str)],
    ) -> (Qmp, Receiver<String>, Arc<Mutex<Vec<String>>>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, (tx, rx)) = (said.clone(), broadcast::channel(4));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let message: Value = serde_json::from_str(&line).unwrap();
                let command = message["execute"].as_str().unwrap().to_owned();
                let refusal = refusals.iter().find(|(name, _)| *name == command);
                let answer = match refusal {
                    Some((_, desc)) => json!({"id": message["id"], "error": {"desc": desc}}),
                    None => json!({"id": message["id"], "return": {}}),
                };
                if command == "device_del" && refusal.is_none() {
                    tx.send("other".into()).unwrap();
                    tx.send(message["arguments"]["id"].as_str().unwrap().into()).unwrap();
                }
                log.lock().unwrap().push(command);
                write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        });
        let (qmp, _) = Qmp::connect(&path).await.unwrap();
        (qmp, rx, said, dir)
    }

    async fn check(
        refusals: &'static [(&'static str, &'static str)],
        add: bool,
        expected: Result<bool, &str>,
        commands: &[&str],
    ) {
        let (qmp, gone, said, _dir) = monitor(refusals).await;
        let spec = instance(json!({}));
        let steps = match add {
            true => add_disk(&spec, &spec.disks[0], Path::new("/x")).unwrap(),
            false => remove_disk(&spec.disks[0]),
        };
        let result = carry_out(&qmp, &gone, &steps).await;
        assert_eq!(result.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e));
        assert_eq!(said.lock().unwrap()[1..], *commands);
    }

    #[tokio::test]
    async fn what_fails_is_taken_back_and_what_is_done_stays() {
        check(&[], true, Ok(true), &["blockdev-add", "device_add"]).await;
        check(
            &[("device_add", "PCI: no slot/function available")],
            true,
            Err("QEMU refused device_add: PCI: no slot/function available"),
            &["blockdev-add", "device_add", "blockdev-del"],
        )
        .await;
        check(
            &[("blockdev-add", "Could not open '/x'")],
            true,
            Err("QEMU refused blockdev-add: Could not open '/x'"),
            &["blockdev-add"],
        )
        .await;
        let again = &[
            ("blockdev-add", "Duplicate nodes with node-name='disk-1'"),
            ("device_add", "Duplicate device ID 'hd-1'"),
        ];
        check(again, true, Ok(true), &["blockdev-add", "device_add"]).await;
        check(&[], false, Ok(true), &["device_del", "blockdev-del"]).await;
        let gone = &[
            ("device_del", "Device 'hd-1' not found"),
            ("blockdev-del", "Failed to find node with node-name='disk-1'"),
        ];
        check(gone, false, Ok(false), &["device_del", "blockdev-del"]).await;
        check(
            &[("blockdev-del", "Node disk-1 is in use")],
            false,
            Err("QEMU refused blockdev-del: Node disk-1 is in use"),
            &["device_del", "blockdev-del"],
        )
        .await;
    }
}
