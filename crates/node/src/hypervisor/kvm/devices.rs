//! Devices as QEMU is told of them: the same parts on its command line and while it runs.
//!
//! A disk is two things there, a block node that reads and writes the file or device, and a device that the guest sees.
//! Their names follow from the disk alone, so that they are the same after others came and went.

use std::path::Path;

use model::param::DiskTemplate;
use serde_json::{Map, Value, json};

use crate::spec::{DiskSpec, InstanceSpec};
use crate::{NodeError, Result};

/// Templates whose disks other nodes can reach. They bypass the page cache, or a migration would lose what is in it.
const SHARED: &[DiskTemplate] = &[
    DiskTemplate::Blockdev,
    DiskTemplate::Ext,
    DiskTemplate::Gluster,
    DiskTemplate::Rbd,
    DiskTemplate::Sharedfile,
];

/// QEMU's names hold at most 31 characters.
pub(crate) fn short_name(kind: &str, uuid: &str) -> String {
    let digits: String = uuid.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
    format!("{kind}-{digits}")
}

/// The name of a disk's block node.
pub(crate) fn disk_node(disk: &DiskSpec) -> String {
    short_name("disk", disk.uuid.as_str())
}

/// The name of the device that a disk is for the guest.
pub(crate) fn disk_id(disk: &DiskSpec) -> String {
    short_name("hd", disk.uuid.as_str())
}

/// A device: its driver and its properties, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceArgs {
    driver: String,
    properties: Vec<(&'static str, Value)>,
}

impl DeviceArgs {
    pub(crate) fn new(driver: &str) -> Self {
        Self { driver: driver.to_owned(), properties: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.properties.push((name, value.into()));
        self
    }

    /// As `-device` takes it.
    pub(crate) fn option(&self) -> String {
        let mut text = self.driver.clone();
        for (name, value) in &self.properties {
            let value = match value {
                Value::String(value) => value.replace(',', ",,"),
                Value::Bool(value) => (if *value { "on" } else { "off" }).to_owned(),
                other => other.to_string(),
            };
            text.push_str(&format!(",{name}={value}"));
        }
        text
    }

    /// As `device_add` takes it.
    pub(crate) fn arguments(&self) -> Value {
        let mut arguments = Map::new();
        arguments.insert("driver".into(), self.driver.clone().into());
        arguments
            .extend(self.properties.iter().map(|(name, value)| ((*name).into(), value.clone())));
        Value::Object(arguments)
    }
}

fn unsupported(text: impl Into<String>) -> NodeError {
    NodeError::Unsupported(text.into())
}

pub(crate) fn is_scsi(disk_type: &str) -> bool {
    disk_type.starts_with("scsi")
}

/// The device driver of the instance's `disk_type`.
fn disk_driver(spec: &InstanceSpec) -> Result<&'static str> {
    match spec.hv("disk_type") {
        "" | "paravirtual" => Ok("virtio-blk-pci"),
        "ide" => Ok("ide-hd"),
        "scsi" | "scsi-hd" => Ok("scsi-hd"),
        "scsi-cd" => Ok("scsi-cd"),
        "scsi-block" => Ok("scsi-block"),
        other => Err(unsupported(format!(
            "disk_type '{other}' is not there yet; use paravirtual, ide, scsi, scsi-hd or scsi-block"
        ))),
    }
}

/// How a disk is read and written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cache {
    /// Without the page cache.
    direct: bool,
    /// Each write reaches the disk before it is acknowledged.
    through: bool,
    aio: &'static str,
}

/// What `disk_cache` and `disk_aio` come to for a disk. Ganeti: `native` works without the page cache only and takes it
/// away, as shared storage does (3.0, `hv_kvm` `_GenerateDiskAioCacheParameters`).
fn cache(spec: &InstanceSpec, disk: &DiskSpec) -> Result<Cache> {
    let aio = match spec.hv("disk_aio") {
        "" | "threads" => "threads",
        "native" => "native",
        "io_uring" => "io_uring",
        other => return Err(unsupported(format!("disk_aio '{other}' is not known"))),
    };
    let wanted = spec.hv("disk_cache");
    let forced = aio == "native" || SHARED.contains(&disk.dev_type);
    match wanted {
        "" | "default" | "none" | "writeback" | "writethrough" => {}
        other => return Err(unsupported(format!("disk_cache '{other}' is not known"))),
    }
    Ok(Cache {
        direct: forced || wanted == "none",
        through: !forced && wanted == "writethrough",
        aio,
    })
}

/// The block node of a disk that is this file or device, as `-blockdev` and `blockdev-add` take it.
pub(crate) fn disk_backend(spec: &InstanceSpec, disk: &DiskSpec, path: &Path) -> Result<Value> {
    let cache = cache(spec, disk)?;
    let discard = if spec.hv("disk_discard") == "unmap" { "unmap" } else { "ignore" };
    let driver = match disk.dev_type {
        DiskTemplate::Blockdev
        | DiskTemplate::Drbd
        | DiskTemplate::Ext
        | DiskTemplate::Plain
        | DiskTemplate::Rbd => "host_device",
        DiskTemplate::Diskless
        | DiskTemplate::File
        | DiskTemplate::Gluster
        | DiskTemplate::Sharedfile => "file",
    };
    Ok(json!({
        "driver": "raw",
        "node-name": disk_node(disk),
        "read-only": disk.mode == "ro",
        "discard": discard,
        "cache": {"direct": cache.direct, "no-flush": false},
        "file": {"driver": driver, "filename": path.to_string_lossy(), "aio": cache.aio, "discard": discard},
    }))
}

/// The device of a disk; the command line adds its place in the boot order.
pub(crate) fn disk_device(spec: &InstanceSpec, disk: &DiskSpec) -> Result<DeviceArgs> {
    let driver = disk_driver(spec)?;
    let device = DeviceArgs::new(driver).with("drive", disk_node(disk)).with("id", disk_id(disk));
    Ok(match cache(spec, disk)?.through && driver != "scsi-block" {
        true => device.with("write-cache", "off"),
        false => device,
    })
}

#[cfg(test)]
mod tests {
    use super::super::command_line::tests::instance;
    use super::*;

    #[test]
    fn caches_are_ganetis() {
        let check = |template, hvparams: Value, direct: bool, aio: &str, through: bool| {
            let mut spec = instance(hvparams);
            spec.disks[0].dev_type = template;
            let backend = disk_backend(&spec, &spec.disks[0], Path::new("/x")).unwrap();
            let device = disk_device(&spec, &spec.disks[0]).unwrap().option();
            assert_eq!(backend["cache"]["direct"], json!(direct), "{backend}");
            assert_eq!(backend["file"]["aio"], json!(aio), "{backend}");
            assert_eq!(device.contains("write-cache=off"), through, "{device}");
        };
        check(DiskTemplate::File, json!({}), false, "threads", false);
        check(DiskTemplate::File, json!({"disk_cache": "none"}), true, "threads", false);
        check(DiskTemplate::Plain, json!({"disk_cache": "writeback"}), false, "threads", false);
        check(DiskTemplate::Plain, json!({"disk_cache": "writethrough"}), false, "threads", true);
        check(DiskTemplate::File, json!({"disk_aio": "native"}), true, "native", false);
        check(DiskTemplate::File, json!({"disk_aio": "io_uring"}), false, "io_uring", false);
        let through = json!({"disk_cache": "writethrough"});
        check(DiskTemplate::Sharedfile, through, true, "threads", false);
        check(DiskTemplate::Blockdev, json!({}), true, "threads", false);
        let odd = instance(json!({"disk_cache": "unsafe"}));
        let error = disk_backend(&odd, &odd.disks[0], Path::new("/x")).unwrap_err();
        assert_eq!(error.to_string(), "disk_cache 'unsafe' is not known");
    }

    #[test]
    fn devices_are_opened_as_devices() {
        let check = |template, driver: &str| {
            let mut spec = instance(json!({}));
            spec.disks[0].dev_type = template;
            let backend = disk_backend(&spec, &spec.disks[0], Path::new("/dev/vg/a")).unwrap();
            assert_eq!(backend["file"]["driver"], json!(driver));
        };
        check(DiskTemplate::File, "file");
        check(DiskTemplate::Sharedfile, "file");
        check(DiskTemplate::Plain, "host_device");
        check(DiskTemplate::Blockdev, "host_device");
        check(DiskTemplate::Ext, "host_device");
    }

    #[test]
    fn a_device_has_two_forms() {
        let device =
            DeviceArgs::new("x").with("id", "a,b").with("on", true).with("n", 3).with("e", "");
        assert_eq!(device.option(), "x,id=a,,b,on=on,n=3,e=");
        let arguments = json!({"driver": "x", "id": "a,b", "on": true, "n": 3, "e": ""});
        assert_eq!(device.arguments(), arguments);
    }
}
