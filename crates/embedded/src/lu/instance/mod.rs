//! The opcodes on instances. What several of them share is here and in the files named for it: `checks` refuses, `disks`
//! brings disks up and down, `hook_env` describes an instance to hooks.

pub(crate) mod activate;
pub(crate) mod checks;
pub(crate) mod create;
pub(crate) mod disks;
pub(crate) mod grow_disk;
pub(crate) mod hook_env;
pub(crate) mod import;
pub(crate) mod layout;
pub(crate) mod migrate;
pub(crate) mod multi_alloc;
pub(crate) mod naming;
pub(crate) mod nics;
pub(crate) mod query_data;
pub(crate) mod reboot;
pub(crate) mod recreate_disks;
pub(crate) mod reinstall;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod replace_disks;
pub(crate) mod set_params;
pub(crate) mod shutdown;
pub(crate) mod startup;
pub(crate) mod wipe;

use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::param::{AdminState, AdminStateSource, Dict, DiskTemplate};
use model::{params, python};
use node::{InstanceSpec, OsParams};

use super::{Cx, Level, Locks, expand};
use crate::config::Draft;
use crate::spec;

/// The instance that an opcode names, in the newest configuration.
pub(crate) fn find(cx: &Cx, name: &str, uuid: Option<&str>) -> Result<Arc<Instance>> {
    expand::instance(&cx.config(), name, uuid).cloned()
}

/// The instance again, by its UUID: after changes.
pub(crate) fn again(cx: &Cx, uuid: &Uuid) -> Result<Arc<Instance>> {
    cx.config().instances.get(uuid).cloned().ok_or_else(|| {
        GanetiError::exec(format!("Instance {uuid} disappeared from the configuration"))
    })
}

/// What a node is told about the instance as it is configured now.
pub(crate) fn spec_of(cx: &Cx, instance: &Instance) -> InstanceSpec {
    spec::instance(&cx.config(), cx.compat(), instance)
}

/// All parameters of an operating system, for a run of its scripts.
pub(crate) fn os_params(
    cx: &Cx,
    os: &str,
    public: &Dict,
    private: &Dict,
    secret: &Dict,
) -> Result<OsParams> {
    let config = cx.config();
    let values = params::os::fill_all(&config.cluster, os, public, private, secret)?;
    let private = params::os::fill_private(&config.cluster, os, private);
    let hidden = private.values().chain(secret.values()).map(python::str).collect();
    Ok(OsParams { values, debug_level: cx.debug_level(), hidden })
}

/// The instance that an opcode names, refused while it is only planned.
pub(crate) fn real<'a>(
    config: &'a Config,
    name: &str,
    uuid: Option<&str>,
) -> Result<&'a Arc<Instance>> {
    let instance = expand::instance(config, name, uuid)?;
    if instance.forthcoming {
        let text = "forthcoming instances not supported for this operation";
        return Err(GanetiError::prereq_plain(text));
    }
    Ok(instance)
}

/// The disk of that index, with Ganeti's text for one that is not there.
pub(crate) fn find_disk(config: &Config, instance: &Instance, index: u64) -> Result<Arc<Disk>> {
    let at = usize::try_from(index).ok();
    let uuid = at.and_then(|at| instance.disks.get(at));
    uuid.and_then(|uuid| config.disks.get(uuid)).cloned().ok_or_else(|| {
        // Ganeti: neither a closing parenthesis nor a second "n" (3.0, objects.py `FindDisk`); with no disks at all
        // it says "0 to -1".
        let last = i64::try_from(instance.disks.len()).unwrap_or(i64::MAX) - 1;
        GanetiError::wrong_input(format!(
            "Invalid disk index: {index} (instace has disks 0 to {last}"
        ))
    })
}

/// Nodes and their resources, exclusively, beside the locks there are.
pub(crate) fn lock_nodes(mut locks: Locks, nodes: &[Uuid]) -> Locks {
    for uuid in nodes {
        locks = locks.exclusive(Level::Node, uuid).exclusive(Level::NodeRes, uuid);
    }
    locks
}

/// The instance alone.
pub(crate) fn lock_instance(config: &Config, name: &str, uuid: Option<&str>) -> Result<Locks> {
    let instance = expand::instance(config, name, uuid)?;
    Ok(Locks::new().exclusive(Level::Instance, &instance.name))
}

/// The instance, and the resources of all its nodes or of its primary alone.
pub(crate) fn lock_with_resources(
    config: &Config,
    name: &str,
    uuid: Option<&str>,
    primary_only: bool,
) -> Result<Locks> {
    let instance = expand::instance(config, name, uuid)?;
    let mut locks = Locks::new().exclusive(Level::Instance, &instance.name);
    for node in nodes_of(config, instance) {
        if !primary_only || node == instance.primary_node {
            locks = locks.exclusive(Level::NodeRes, &node);
        }
    }
    Ok(locks)
}

/// Its primary and secondary nodes.
pub(crate) fn nodes_of(config: &Config, instance: &Instance) -> Vec<Uuid> {
    let mut nodes = vec![instance.primary_node.clone()];
    nodes.extend(config.secondary_nodes(instance));
    nodes
}

/// The disk template that its disks have; diskless without disks (Ganeti 3.0, `utils.GetDiskTemplate`).
pub(crate) fn disk_template(config: &Config, instance: &Instance) -> DiskTemplate {
    config.instance_disks(instance).first().map_or(DiskTemplate::Diskless, |disk| disk.dev_type)
}

/// Notes what the instance is meant to be, and with it whether its disks are up; nothing is written when it is that already.
pub(crate) async fn mark(
    cx: &Cx,
    uuid: &Uuid,
    state: AdminState,
    source: AdminStateSource,
) -> Result<()> {
    cx.commit(|draft| {
        mark_in(draft, uuid, state, source);
        Ok(())
    })
    .await
}

fn mark_in(draft: &mut Draft<'_>, uuid: &Uuid, state: AdminState, source: AdminStateSource) {
    let disks_active = match state {
        AdminState::Up => Some(true),
        AdminState::Down => None,
        AdminState::Offline => Some(false),
    };
    let same = |instance: &Arc<Instance>| {
        instance.admin_state == state
            && instance.admin_state_source == source
            && disks_active.is_none_or(|active| instance.disks_active == active)
    };
    if draft.instances.get(uuid).is_some_and(same) {
        return;
    }
    draft.edit_instance(uuid, |instance| {
        instance.admin_state = state;
        instance.admin_state_source = source;
        instance.disks_active = disks_active.unwrap_or(instance.disks_active);
    });
}

/// Notes whether its disks are up; nothing is written when that is known.
pub(crate) async fn mark_disks(cx: &Cx, uuid: &Uuid, active: bool) -> Result<()> {
    cx.commit(|draft| {
        if draft.instances.get(uuid).is_some_and(|instance| instance.disks_active != active) {
            draft.edit_instance(uuid, |instance| instance.disks_active = active);
        }
        Ok(())
    })
    .await
}
