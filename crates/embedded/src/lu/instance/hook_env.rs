//! How an instance is described to hooks (Ganeti 3.0, `BuildInstanceHookEnv`).

use std::collections::BTreeMap;

use model::config::{Config, Instance};
use model::param::Dict;
use model::python;
use node::{DiskSpec, NicSpec};
use serde_json::Value;

use super::nodes_of;
use crate::lu::{Cx, Hooks};
use crate::spec;

/// Variables by name, without the `GANETI_` prefix.
pub(crate) type Env = BTreeMap<String, String>;

/// What is told of an instance, as one value: an instance that is only planned has it too.
pub(crate) struct Described<'a> {
    pub(crate) name: &'a str,
    pub(crate) primary: &'a str,
    pub(crate) secondaries: &'a [String],
    pub(crate) os: &'a str,
    pub(crate) status: &'a str,
    pub(crate) disk_template: &'a str,
    pub(crate) hypervisor: &'a str,
    pub(crate) nics: &'a [NicSpec],
    pub(crate) disks: &'a [DiskSpec],
    /// Filled.
    pub(crate) beparams: &'a Dict,
    /// Filled.
    pub(crate) hvparams: &'a Dict,
    pub(crate) tags: &'a [String],
}

/// The variables of a description.
pub(crate) fn describe(what: &Described<'_>) -> Env {
    let be = |name: &str| what.beparams.get(name).map(python::str).unwrap_or_default();
    let mut env = Env::new();
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    set("OP_TARGET", what.name.to_owned());
    set("OBJECT_TYPE", "INSTANCE".to_owned());
    set("INSTANCE_NAME", what.name.to_owned());
    set("INSTANCE_PRIMARY", what.primary.to_owned());
    set("INSTANCE_SECONDARIES", what.secondaries.join(" "));
    set("INSTANCE_OS_TYPE", what.os.to_owned());
    set("INSTANCE_STATUS", what.status.to_owned());
    set("INSTANCE_MINMEM", be("minmem"));
    set("INSTANCE_MAXMEM", be("maxmem"));
    set("INSTANCE_MEMORY", be("maxmem"));
    set("INSTANCE_VCPUS", be("vcpus"));
    set("INSTANCE_DISK_TEMPLATE", what.disk_template.to_owned());
    set("INSTANCE_HYPERVISOR", what.hypervisor.to_owned());
    set("INSTANCE_NIC_COUNT", what.nics.len().to_string());
    set("INSTANCE_DISK_COUNT", what.disks.len().to_string());
    set("INSTANCE_TAGS", what.tags.join(" "));
    for (kind, params) in [("BE", what.beparams), ("HV", what.hvparams)] {
        for (name, value) in params {
            set(&format!("INSTANCE_{kind}_{name}"), python::str(value));
        }
    }
    for (at, nic) in what.nics.iter().enumerate() {
        describe_nic(&mut env, at, nic);
    }
    for (at, disk) in what.disks.iter().enumerate() {
        describe_disk(&mut env, at, disk);
    }
    env
}

fn describe_nic(env: &mut Env, at: usize, nic: &NicSpec) {
    let mut set = |name: &str, value: String| {
        env.insert(format!("INSTANCE_NIC{at}_{name}"), value);
    };
    if let Some(name) = &nic.name {
        set("NAME", name.clone());
    }
    set("UUID", nic.uuid.to_string());
    set("IP", nic.ip.clone().unwrap_or_default());
    set("MAC", nic.mac.clone());
    set("MODE", nic.mode.clone());
    set("LINK", nic.link.clone());
    set("VLAN", nic.vlan.clone());
    if ["bridged", "openvswitch"].contains(&nic.mode.as_str()) {
        set("BRIDGE", nic.link.clone());
    }
    if let Some(network) = &nic.network {
        set("NETWORK_NAME", network.name.clone());
        set("NETWORK_UUID", network.uuid.to_string());
        set("NETWORK_TAGS", network.tags.join(" "));
        let optional = [
            ("NETWORK_SUBNET", Some(&network.subnet)),
            ("NETWORK_GATEWAY", network.gateway.as_ref()),
            ("NETWORK_SUBNET6", network.subnet6.as_ref()),
            ("NETWORK_GATEWAY6", network.gateway6.as_ref()),
            ("NETWORK_MAC_PREFIX", network.mac_prefix.as_ref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                set(name, value.clone());
            }
        }
    }
}

fn describe_disk(env: &mut Env, at: usize, disk: &DiskSpec) {
    let mut set = |name: &str, value: String| {
        env.insert(format!("INSTANCE_DISK{at}_{name}"), value);
    };
    set("NAME", disk.name.clone().unwrap_or_default());
    set("UUID", disk.uuid.to_string());
    set("SIZE", disk.size_mib.to_string());
    set("MODE", disk.mode.clone());
    set("DEV_TYPE", disk.dev_type.as_str().to_owned());
    let id = |at: usize| disk.logical_id.get(at).map(python::str).unwrap_or_default();
    match disk.dev_type.as_str() {
        "plain" => {
            set("VG", id(0));
            set("LV", id(1));
        }
        "file" | "sharedfile" | "gluster" => {
            set("DRIVER", id(0));
            set("PATH", id(1));
        }
        "blockdev" => set("PATH", id(1)),
        "rbd" | "ext" => {
            set("PROVIDER", id(0));
            set("NAME_ON_PROVIDER", id(1));
        }
        _ => {}
    }
}

/// The variables of an instance as it is configured.
pub(crate) fn of(cx: &Cx, config: &Config, instance: &Instance) -> Env {
    let spec = spec::instance(config, cx.compat(), instance);
    describe(&Described {
        name: &spec.name,
        primary: &spec.primary_node,
        secondaries: &spec.secondary_nodes,
        os: &spec.os,
        status: instance.admin_state.as_str(),
        disk_template: super::disk_template(config, instance).as_str(),
        hypervisor: spec.hypervisor.as_str(),
        nics: &spec.nics,
        disks: &spec.disks,
        beparams: &spec.beparams,
        hvparams: &spec.hvparams,
        tags: &spec.tags,
    })
}

/// The variables after the work: the instance as it is now, and some of the opcode's own.
pub(crate) fn after(cx: &Cx, name: &str, own: &[(&str, Value)]) -> Option<Env> {
    let config = cx.config();
    let instance = crate::lu::expand::instance(&config, name, None).ok()?;
    let mut env = of(cx, &config, instance);
    env.extend(own.iter().map(|(name, value)| ((*name).to_owned(), python::str(value))));
    Some(env)
}

/// Hooks of an opcode on one instance: its variables and some of the opcode's own, on the master and the instance's nodes.
pub(crate) fn hooks(cx: &Cx, instance: &Instance, own: &[(&str, Value)]) -> Hooks {
    let config = cx.config();
    let mut env = of(cx, &config, instance);
    for (name, value) in own {
        env.insert((*name).to_owned(), python::str(value));
    }
    let mut nodes = vec![config.cluster.master_node.clone()];
    nodes.extend(
        nodes_of(&config, instance).into_iter().filter(|uuid| *uuid != config.cluster.master_node),
    );
    Hooks { post_env: env.clone(), env, pre_nodes: nodes.clone(), post_nodes: nodes }
}
