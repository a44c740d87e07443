//! Checks that opcodes on the cluster, on groups and on nodes have in common. Texts are Ganeti's (3.0, `cmdlib/common.py`).

use std::collections::BTreeSet;

use model::config::{Config, Instance};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{Dict, DiskTemplate, Hypervisor};
use model::params::ipolicy::Spec;
use model::params::{self, Kind};
use model::python;
use node::OsParams;
use serde_json::Value;

use super::Cx;

/// What is assumed about the hypervisor of a node.
const HV_STATE: &[&str] = &["cpu_node", "cpu_total", "mem_hv", "mem_node", "mem_total"];
/// What is assumed about the storage of a node.
const DISK_STATE: &[&str] = &["disk_overhead", "disk_reserved", "disk_total"];
/// The storage types that can be assumed anything about.
const DISK_STATE_TYPES: &[&str] = &["plain"];

/// Lays the changes of one dictionary per key over the old ones; values are whole numbers.
fn update_each(old: &Dict, changes: &Dict, known: &[&str]) -> Result<Dict> {
    let mut new = old.clone();
    let none = Dict::new();
    for (key, change) in changes {
        let below = params::inner(old, key).unwrap_or(&none);
        let change = change.as_object().unwrap_or(&none);
        let mut updated = params::updated(below, change, true, false);
        params::force_types(&mut updated, |name| known.contains(&name).then_some(Kind::Int), &[])?;
        new.insert(key.clone(), Value::Object(updated));
    }
    Ok(new)
}

fn unknown_keys(changes: &Dict, known: impl Fn(&str) -> bool) -> Option<String> {
    let unknown: Vec<&str> = changes.keys().map(String::as_str).filter(|key| !known(key)).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

/// What is assumed about hypervisors after a change.
pub(crate) fn merge_hv_state(old: &Dict, changes: &Dict) -> Result<Dict> {
    if let Some(unknown) = unknown_keys(changes, |name| Hypervisor::parse(name).is_some()) {
        let text = format!("Invalid hypervisor(s) in hypervisor state: {unknown}");
        return Err(GanetiError::wrong_input(text));
    }
    update_each(old, changes, HV_STATE)
}

/// What is assumed about storage after a change.
pub(crate) fn merge_disk_state(old: &Dict, changes: &Dict) -> Result<Dict> {
    if let Some(unknown) = unknown_keys(changes, |name| DISK_STATE_TYPES.contains(&name)) {
        let text = format!("Invalid storage type(s) in disk state: {unknown}");
        return Err(GanetiError::wrong_input(text));
    }
    let none = Dict::new();
    let mut new = Dict::new();
    for (kind, change) in changes {
        let below = params::inner(old, kind).unwrap_or(&none);
        let change = change.as_object().unwrap_or(&none);
        new.insert(kind.clone(), Value::Object(update_each(below, change, DISK_STATE)?));
    }
    Ok(new)
}

/// Checks the first three octets of a MAC address and writes them in lower case.
pub(crate) fn mac_prefix(prefix: &str) -> Result<String> {
    let octets: Vec<&str> = prefix.split(':').collect();
    let is_octet = |octet: &&str| octet.len() == 2 && octet.bytes().all(|b| b.is_ascii_hexdigit());
    if octets.len() == 3 && octets.iter().all(is_octet) {
        return Ok(prefix.to_lowercase());
    }
    Err(GanetiError::wrong_input(format!("Invalid MAC address prefix '{prefix}'")))
}

/// The instances with a node in a group, by name.
pub(crate) fn instances_of_group<'a>(
    config: &'a Config,
    group: &Uuid,
) -> Vec<&'a std::sync::Arc<Instance>> {
    let mut found = std::collections::BTreeMap::new();
    for node in config.members(group) {
        let uuid = &node.meta.uuid;
        for instance in config.primaries(uuid).chain(config.secondaries(uuid)) {
            found.insert(&instance.name, instance);
        }
    }
    found.into_values().collect()
}

/// What an instance needs, as policies measure it (Ganeti 3.0, `ComputeIPolicyInstanceViolation`).
pub(crate) fn instance_spec(config: &Config, instance: &Instance) -> Spec {
    let filled = params::be::fill(&config.cluster, &instance.beparams);
    let number = |name: &str| Some(params::be::number(&filled, name));
    let disks = config.instance_disks(instance);
    let group = config.nodes.get(&instance.primary_node).and_then(|node| {
        let group = config.groups.get(&node.group).map(|group| &**group);
        params::nd::fill(&config.cluster, group, node).get("exclusive_storage").cloned()
    });
    let exclusive = group.and_then(|value| value.as_bool()).unwrap_or(false);
    let spindles = disks.iter().map(|disk| disk.spindles).sum::<Option<u64>>();
    Spec {
        memory_mib: number("maxmem"),
        cpus: number("vcpus"),
        nics: Some(instance.nics.len() as u64),
        spindle_use: if exclusive { spindles } else { number("spindle_use") },
        disk_sizes_mib: disks.iter().map(|disk| disk.size_mib).collect(),
        disk_types: disks.iter().map(|disk| disk.dev_type).collect(),
    }
}

/// The instances that keep to the old policy and break the new one, sorted.
pub(crate) fn new_violations<'a>(
    config: &Config,
    old: &Dict,
    new: &Dict,
    instances: impl IntoIterator<Item = &'a std::sync::Arc<Instance>>,
) -> BTreeSet<String> {
    let breaks = |policy: &Dict, spec: &Spec| !params::ipolicy::violations(policy, spec).is_empty();
    let mut found = BTreeSet::new();
    for instance in instances {
        let spec = instance_spec(config, instance);
        if breaks(new, &spec) && !breaks(old, &spec) {
            found.insert(instance.name.clone());
        }
    }
    found
}

/// Refuses disk parameters that instances which exist cannot use: storage reached from user space needs kvm.
pub(crate) fn disk_access(config: &Config, diskparams: &Dict, group: Option<&Uuid>) -> Result<()> {
    params::disk::check_access(diskparams)?;
    let instances: Vec<_> = match group {
        Some(group) => instances_of_group(config, group),
        None => config.instances.values().collect(),
    };
    for (template, of_template) in diskparams {
        let access = of_template.get("access").and_then(Value::as_str).unwrap_or("kernelspace");
        let template = DiskTemplate::parse(template);
        let reachable = |template| params::disk::HAVE_ACCESS.contains(&template);
        let Some(template) = template.filter(|template| reachable(*template)) else { continue };
        for instance in &instances {
            let used = config.instance_disks(instance).iter().any(|disk| disk.dev_type == template);
            if used && access != "kernelspace" && instance.hypervisor != Hypervisor::Kvm {
                return Err(GanetiError::prereq_plain(format!(
                    "Instance {}: cannot use '{access}' access setting with {} hypervisor and {template} disk type.",
                    instance.name, instance.hypervisor
                )));
            }
        }
    }
    Ok(())
}

/// How many master candidates there are and how many there should be, without some nodes.
pub(crate) fn candidates(config: &Config, without: &[Uuid]) -> (u64, u64) {
    let counted = config.nodes.values().filter(|node| !without.contains(&node.meta.uuid));
    let (mut now, mut possible) = (0, 0);
    for node in counted {
        now += u64::from(node.master_candidate);
        possible += u64::from(!node.offline && !node.drained && node.master_capable);
    }
    (now, possible.min(config.cluster.candidate_pool_size))
}

/// Promotes nodes, chosen at random, until there are as many master candidates as there should be, and says so.
pub(crate) async fn fill_candidate_pool(cx: &Cx, without: &[Uuid]) -> Result<()> {
    let promoted = cx
        .commit(|draft| {
            let (mut now, should) = candidates(draft, without);
            let able = draft.nodes.values().filter(|node| {
                !node.master_candidate
                    && !node.offline
                    && !node.drained
                    && node.master_capable
                    && !without.contains(&node.meta.uuid)
            });
            let mut able: Vec<(Uuid, String)> =
                able.map(|node| (node.meta.uuid.clone(), node.name.clone())).collect();
            let mut promoted = Vec::new();
            while now < should && !able.is_empty() {
                let at = cx.env().below(able.len() as u64);
                let (uuid, name) = able.swap_remove(usize::try_from(at).unwrap_or(0));
                draft.edit_node(&uuid, |node| node.master_candidate = true);
                promoted.push(name);
                now += 1;
            }
            if !promoted.is_empty() {
                draft.touch_cluster();
            }
            Ok(promoted)
        })
        .await?;
    if !promoted.is_empty() {
        cx.info(&format!("Promoted nodes to master candidate role: {}", promoted.join(", ")));
    }
    let (now, should) = candidates(&cx.config(), without);
    if now > should {
        cx.info(&format!("Note: more nodes are candidates ({now}) than desired ({should})"));
    }
    Ok(())
}

/// Ganeti: after some changes it says that the configuration lacks master candidates, without doing anything about it
/// (3.0, `config/__init__.py`, `VerifyConfigAndLog`).
pub(crate) fn tell_shortage(cx: &Cx) {
    let (now, should) = candidates(&cx.config(), &[]);
    if now < should {
        cx.log(&format!(
            "Configuration data is not consistent: Not enough master candidates: actual {now}, target {should}"
        ));
    }
}

/// Refuses a storage type that no enabled disk template has.
pub(crate) fn storage_type_enabled(
    config: &Config,
    storage_type: model::param::StorageType,
) -> Result<()> {
    use model::param::StorageType;
    let wanted = match storage_type {
        // Ganeti: physical volumes are there when volume groups are.
        StorageType::LvmPv => StorageType::LvmVg,
        other => other,
    };
    let enabled = &config.cluster.enabled_disk_templates;
    if enabled.iter().any(|template| storage_type_of(*template) == wanted) {
        return Ok(());
    }
    let names: Vec<&str> = enabled.iter().map(|template| template.as_str()).collect();
    Err(GanetiError::prereq_plain(format!(
        "No disk template of storage type '{wanted}' is enabled in this cluster. Enabled disk templates are: {}",
        names.join(",")
    )))
}

/// Where the disks of a template lie.
pub(crate) fn storage_type_of(template: DiskTemplate) -> model::param::StorageType {
    use model::param::StorageType;
    match template {
        DiskTemplate::Blockdev => StorageType::Blockdev,
        DiskTemplate::Diskless => StorageType::Diskless,
        DiskTemplate::Drbd | DiskTemplate::Plain => StorageType::LvmVg,
        DiskTemplate::Ext => StorageType::Ext,
        DiskTemplate::File => StorageType::File,
        DiskTemplate::Gluster => StorageType::Gluster,
        DiskTemplate::Rbd => StorageType::Rados,
        DiskTemplate::Sharedfile => StorageType::Sharedfile,
    }
}

/// Asks a node whether parameters of an operating system are fine; a definition that it does not have is passed over.
pub(crate) async fn osparams_on_node(
    cx: &Cx,
    node: &Uuid,
    os: &str,
    filled: &OsParams,
) -> Result<()> {
    let config = cx.config();
    let name = config.node_name(node);
    let failed = |error: node::NodeError| {
        GanetiError::exec(format!("OS Parameters validation failed on node {name}: {error}"))
    };
    let asked = cx.node(node).await.map_err(failed)?;
    let base = params::os::base_name(os);
    let known = asked.list_os().await.map_err(failed)?;
    if !known.iter().any(|info| info.valid && info.name == base) {
        cx.info(&format!("OS {os} not found on node {name}, validation skipped"));
        return Ok(());
    }
    asked.validate_os(os, filled, false).await.map_err(failed)
}

/// The texts of values that went through Python's `str`.
pub(crate) fn python_str(value: Option<bool>) -> String {
    value.map_or_else(|| "None".to_owned(), |flag| python::str(&Value::Bool(flag)))
}

/// A refusal because something about the machine is not as it should be.
pub(crate) fn environment(text: impl Into<String>) -> GanetiError {
    GanetiError::prereq(text, ErrorCode::EnvironmentError)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mac_prefixes_have_three_octets() {
        assert_eq!(mac_prefix("AA:0b:ff"), Ok("aa:0b:ff".to_owned()));
        for wrong in ["aa:bb", "aa:bb:cc:dd", "aa:bb:zz", "a:bb:cc"] {
            let error = mac_prefix(wrong).unwrap_err();
            assert_eq!(error.args[0], json!(format!("Invalid MAC address prefix '{wrong}'")));
        }
    }

    #[test]
    fn states_merge_key_by_key() {
        let dict = |value: Value| value.as_object().unwrap().clone();
        let old = dict(json!({"kvm": {"mem_total": 5, "mem_node": 1}}));
        let merged = merge_hv_state(&old, &dict(json!({"kvm": {"mem_total": "7"}}))).unwrap();
        assert_eq!(Value::Object(merged), json!({"kvm": {"mem_total": 7, "mem_node": 1}}));
        let error = merge_hv_state(&old, &dict(json!({"hyper-v": {}}))).unwrap_err();
        assert_eq!(error.args[0], json!("Invalid hypervisor(s) in hypervisor state: hyper-v"));
        let error = merge_disk_state(&old, &dict(json!({"drbd": {}}))).unwrap_err();
        assert_eq!(error.args[0], json!("Invalid storage type(s) in disk state: drbd"));
        let error = merge_hv_state(&old, &dict(json!({"kvm": {"x": 1}}))).unwrap_err();
        assert_eq!(error.args[0], json!("Unknown parameter 'x'"));
        let new = dict(json!({"plain": {"xenvg": {"disk_total": 3}}}));
        assert_eq!(merge_disk_state(&Dict::new(), &new).unwrap(), new);
    }
}
