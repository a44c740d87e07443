//! What a creation is asked, checked by itself.

use std::path::Path;

use model::config::Config;
use model::error::{GanetiError, Result};
use model::opcode::InstanceCreate;
use model::param::{CreateMode, DiskTemplate, NicSpec, NonEmpty};
use model::params;
use serde_json::{Value, json};

use crate::lu::instance::{checks, layout};
use crate::lu::{Cx, remote};

/// Templates that take disks over that are there already, and the one that does nothing else.
const MAY_ADOPT: &[DiskTemplate] = &[DiskTemplate::Plain, DiskTemplate::Blockdev];
/// Where exports lie on a node, as clients are told (Ganeti 3.0, `pathutils.EXPORT_DIR`).
const EXPORT_DIR: &str = "/var/lib/ganeti/export";

/// The disk template, which [`LogicalUnit::prepare`](crate::lu::LogicalUnit::prepare) has settled.
pub(super) fn template(op: &InstanceCreate) -> DiskTemplate {
    op.disk_template.unwrap_or(DiskTemplate::Diskless)
}

pub(super) fn adopts(op: &InstanceCreate) -> bool {
    op.disks.iter().any(|disk| disk.contains_key("adopt"))
}

pub(super) fn allocator(op: &InstanceCreate) -> Option<&str> {
    op.iallocator.as_deref()
}

pub(super) fn check_disks(op: &mut InstanceCreate, config: &Config) -> Result<()> {
    let names = op.disks.iter().map(|disk| disk.get("name").and_then(Value::as_str));
    layout::check_names("disk", names, &[])?;
    let template = match op.disk_template {
        Some(template) => template,
        None => *config.cluster.enabled_disk_templates.first().unwrap_or(&DiskTemplate::Diskless),
    };
    op.disk_template = Some(template);
    layout::check_enabled(config, template)?;
    if template != DiskTemplate::Ext {
        for disk in &mut op.disks {
            layout::force(&mut disk.0)?;
        }
    }
    let adopted = op.disks.iter().filter(|disk| disk.contains_key("adopt")).count();
    if adopted > 0 && adopted < op.disks.len() {
        return Err(GanetiError::wrong_input("Either all disks are adopted or none is"));
    }
    if adopted == 0 {
        if template == DiskTemplate::Blockdev {
            return Err(GanetiError::wrong_input(format!(
                "Disk template {template} requires disk adoption, but no 'adopt' parameter given"
            )));
        }
        return Ok(());
    }
    if !MAY_ADOPT.contains(&template) {
        let text = format!("Disk adoption is not supported for the '{template}' disk template");
        return Err(GanetiError::wrong_input(text));
    }
    if op.iallocator.is_some() {
        return Err(GanetiError::wrong_input(
            "Disk adoption not allowed with an iallocator script",
        ));
    }
    if op.mode == CreateMode::Import {
        return Err(GanetiError::wrong_input("Disk adoption not allowed for instance import"));
    }
    Ok(())
}

/// Adds the NIC on the communication network, unless it is there already.
pub(super) fn add_communication(op: &mut InstanceCreate, config: &Config) {
    let name = format!("ganeti:communication:{}", op.instance_name);
    if op.nics.iter().any(|nic| nic.get("name").and_then(Value::as_str) == Some(&name)) {
        return;
    }
    let network = &config.cluster.instance_communication_network;
    let nic = json!({"name": name, "mac": "generate", "ip": "pool", "network": network});
    if let Value::Object(nic) = nic {
        op.nics.push(NicSpec(nic));
    }
}

/// The opcode as a job shows it, with the place of the export that is imported.
pub(super) fn shown(op: &InstanceCreate) -> InstanceCreate {
    let mut op = op.clone();
    if op.mode == CreateMode::Import {
        let path = op.src_path.as_deref().unwrap_or(&op.instance_name).to_owned();
        let path = match op.src_node.is_some() && !Path::new(&path).is_absolute() {
            true => format!("{EXPORT_DIR}/{path}"),
            false => path,
        };
        op.src_path = NonEmpty::new(path);
    }
    op
}

pub(super) fn check_nics(op: &mut InstanceCreate) -> Result<()> {
    let names = op.nics.iter().map(|nic| nic.get("name").and_then(Value::as_str));
    layout::check_names("NIC", names, &[])?;
    for NicSpec(nic) in &mut op.nics {
        if let Some(vlan) = nic.get("vlan").and_then(Value::as_str) {
            let vlan = params::nic::normalise_vlan(vlan)?;
            nic.insert("vlan".to_owned(), json!(vlan));
        }
    }
    Ok(())
}

/// Either nodes are named, or an allocator is: the cluster's where none is.
pub(super) fn check_allocator(op: &mut InstanceCreate, cx: &Cx) -> Result<()> {
    op.iallocator = checks::iallocator_or_node(cx, op.iallocator.clone(), op.pnode.is_some())?;
    if op.pnode.is_some() {
        if template(op) == DiskTemplate::Drbd {
            if op.snode.is_none() {
                let text = "The networked disk templates need a mirror node";
                return Err(GanetiError::wrong_input(text));
            }
        } else if op.snode.is_some() {
            cx.warn("Secondary node will be ignored on non-mirrored disk template");
            op.snode = None;
        }
    }
    checks::opportunistic(op.opportunistic_locking, op.iallocator.is_some())
}

pub(super) fn check_mode(op: &mut InstanceCreate, cx: &Cx) -> Result<()> {
    let image = op.osparams.get("os-image").and_then(Value::as_str);
    match op.mode {
        CreateMode::Create => {
            if let Some(image) = image
                && !(image.starts_with('/') || image.contains("://"))
            {
                return Err(GanetiError::prereq_plain(
                    "OS image must be an absolute path or a URL",
                ));
            }
            let Some(os) = &op.os_type else {
                if image.is_some() {
                    return Ok(());
                }
                return Err(GanetiError::wrong_input("No guest OS or OS image specified"));
            };
            if cx.config().cluster.blacklisted_os.iter().any(|name| name == os.as_str()) {
                let text = format!("Guest OS '{os}' is not allowed for installation");
                return Err(GanetiError::wrong_state(text));
            }
            Ok(())
        }
        CreateMode::Import => {
            // A variant that was forced when it was installed must work again.
            op.force_variant = true;
            if op.no_install == Some(true) {
                cx.info("No-installation mode has no effect during import");
            }
            if image.is_some() {
                cx.info("OS image has no effect during import");
            }
            Ok(())
        }
        CreateMode::RemoteImport => {
            if image.is_some() {
                cx.info("OS image has no effect during import");
            }
            remote::check_import(cx, op)
        }
    }
}
