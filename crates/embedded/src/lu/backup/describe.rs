//! The file `config.ini` of an export.

use model::config::{Config, Instance};
use model::{params, python};
use node::{DiskSpec, InstanceSpec};

use crate::lu::Cx;
use crate::lu::instance::disk_template;
use crate::lu::instance::import::{EXPORT_VERSION, Ini};

/// The description that goes with an export (Ganeti 3.0, `backend.FinalizeExport`).
pub(super) fn describe(
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    told: &InstanceSpec,
    dumped: &[DiskSpec],
) -> Ini {
    let mut ini = Ini::default();
    let mut set = |section: &str, name: &str, value: String| ini.set(section, name, value);
    set("export", "version", EXPORT_VERSION.to_owned());
    set("export", "timestamp", cx.env().now().0.to_string());
    set("export", "source", instance.primary_node.to_string());
    set("export", "os", instance.os.clone());
    set("export", "compression", "none".to_owned());
    let be = |name: &str| params::be::number(&told.beparams, name).to_string();
    set("instance", "name", instance.name.clone());
    set("instance", "maxmem", be("maxmem"));
    set("instance", "minmem", be("minmem"));
    set("instance", "memory", be("maxmem"));
    set("instance", "vcpus", be("vcpus"));
    set("instance", "disk_template", disk_template(config, instance).to_string());
    set("instance", "hypervisor", instance.hypervisor.to_string());
    set("instance", "tags", told.tags.join(" "));
    let none = || "None".to_owned();
    for (at, nic) in told.nics.iter().enumerate() {
        set("instance", &format!("nic{at}_mac"), nic.mac.clone());
        set("instance", &format!("nic{at}_ip"), nic.ip.clone().unwrap_or_else(none));
        let network = nic.network.as_ref().map(|network| network.uuid.to_string());
        set("instance", &format!("nic{at}_network"), network.unwrap_or_else(none));
        set("instance", &format!("nic{at}_name"), nic.name.clone().unwrap_or_else(none));
        set("instance", &format!("nic{at}_mode"), nic.mode.clone());
        set("instance", &format!("nic{at}_link"), nic.link.clone());
        set("instance", &format!("nic{at}_vlan"), nic.vlan.clone());
    }
    set("instance", "nic_count", told.nics.len().to_string());
    for (at, disk) in dumped.iter().enumerate() {
        set("instance", &format!("disk{at}_ivname"), disk.iv_name.clone());
        set("instance", &format!("disk{at}_dump"), disk.uuid.to_string());
        set("instance", &format!("disk{at}_size"), disk.size_mib.to_string());
        let name = told.disks.get(at).and_then(|disk| disk.name.clone());
        set("instance", &format!("disk{at}_name"), name.unwrap_or_else(none));
    }
    set("instance", "disk_count", dumped.len().to_string());
    let globals = params::hv::globals(cx.compat());
    for (name, value) in told.hvparams.iter().filter(|(name, _)| !globals.contains(&name.as_str()))
    {
        set("hypervisor", name, python::str(value));
    }
    for (name, value) in &told.beparams {
        set("backend", name, python::str(value));
    }
    for (name, value) in &told.osparams {
        set("os", name, python::str(value));
    }
    let private =
        params::os::fill_private(&config.cluster, &instance.os, &instance.osparams_private);
    for (name, value) in &private {
        set("os_private", name, python::str(value));
    }
    for section in ["hypervisor", "backend", "os", "os_private"] {
        ini.section(section);
    }
    ini
}
