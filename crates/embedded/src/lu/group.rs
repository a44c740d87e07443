//! The opcodes on node groups: adding, changing, renaming, removing them, and giving them nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::config::{Config, Meta, NodeGroup};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::{
    GroupAdd, GroupAssignNodes, GroupRemove, GroupRename, GroupSetParams, NetworkConnect,
};
use model::param::{AllocPolicy, Dict, DiskTemplate, NicMode, NonEmpty};
use model::params;
use model::python;
use model::units::natural_cmp;
use serde_json::{Value, json};

use super::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks, shared_checks};

/// Disk parameters as the objects keep them.
fn diskparams_dict(given: &std::collections::BTreeMap<String, Dict>) -> Dict {
    given.iter().map(|(name, params)| (name.clone(), Value::Object(params.clone()))).collect()
}

/// Ganeti's text for disk parameters that cannot be (3.0, `cmdlib/group.py`).
fn diskparams_error(error: &GanetiError) -> GanetiError {
    GanetiError::wrong_input(format!("While verify diskparams options: {error}"))
}

/// The opcode that connects a group to the network by which instances reach the metadata daemon (Ganeti 3.0,
/// `cmdlib/common.py`, `ConnectInstanceCommunicationNetworkOp`).
pub(crate) fn connect_communication_network(group: &Uuid, network: &str) -> Option<NetworkConnect> {
    Some(NetworkConnect {
        group_name: NonEmpty::new(group.as_str())?,
        network_name: NonEmpty::new(network)?,
        network_mode: NicMode::Routed,
        network_link: NonEmpty::new("communication_rt")?,
        network_vlan: String::new(),
        conflicts_check: true,
    })
}

fn disappeared(name: &str, uuid: &Uuid) -> GanetiError {
    GanetiError::exec(format!("Could not retrieve group '{name}' (UUID: {uuid})"))
}

// Adding

pub(crate) struct AddPlan {
    ndparams: Dict,
    diskparams: Dict,
    hv_state: Dict,
    disk_state: Dict,
}

fn check_new(op: &GroupAdd, config: &Config) -> Result<()> {
    let name = &op.group_name;
    match expand::group(config, name) {
        Err(_) => Ok(()),
        Ok(existing) => Err(GanetiError::already_exists(format!(
            "Desired group name '{name}' already exists as a node group (UUID: {})",
            existing.meta.uuid
        ))),
    }
}

fn check_policy(op: &GroupAdd, config: &Config) -> Result<()> {
    let Some(given) = op.ipolicy.as_ref().filter(|policy| !policy.is_empty()) else {
        return Ok(());
    };
    let cluster = &config.cluster;
    let mut full = params::ipolicy::fill_over(&params::ipolicy::fill_cluster(cluster), given);
    // Filling keeps the keys of a policy only; one that is not must be seen by the check.
    for (key, value) in given.iter() {
        full.entry(key.clone()).or_insert_with(|| value.clone());
    }
    params::ipolicy::check_syntax(&full, false)
        .map_err(|error| GanetiError::wrong_input(format!("Invalid instance policy: {error}")))?;
    params::ipolicy::check_templates_enabled(&full, &cluster.enabled_disk_templates)?;
    Ok(())
}

impl LogicalUnit for GroupAdd {
    type Plan = AddPlan;

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<AddPlan> {
        let config = cx.config();
        check_new(self, &config)?;
        let mut ndparams = self.ndparams.clone().unwrap_or_default();
        params::nd::force(&mut ndparams, false)?;
        let ndparams = params::nd::in_order(&ndparams);
        let none = Dict::new();
        let merge_hv = |given: &Dict| shared_checks::merge_hv_state(&none, given);
        let merge_disk = |given: &Dict| shared_checks::merge_disk_state(&none, given);
        let hv_state = self.hv_state.as_ref().map(merge_hv).transpose()?;
        let disk_state = self.disk_state.as_ref().map(merge_disk).transpose()?;
        let mut diskparams = self.diskparams.as_deref().map(diskparams_dict).unwrap_or_default();
        params::disk::force(&mut diskparams, false)?;
        // The text is put around what went wrong by the check itself.
        params::disk::check(&diskparams, false)?;
        check_policy(self, &config)?;
        let (hv_state, disk_state) = (hv_state.unwrap_or_default(), disk_state.unwrap_or_default());
        Ok(AddPlan { ndparams, diskparams, hv_state, disk_state })
    }

    fn hooks(&self, cx: &Cx, _plan: &AddPlan) -> Option<Hooks> {
        let env = [("GROUP_NAME", self.group_name.to_string())];
        Some(plain_hooks::hooks("GROUP", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, plan: AddPlan) -> Result<Value> {
        let group = NodeGroup {
            meta: Meta::new(cx.env().uuid(), cx.env().now_seconds()),
            tags: Default::default(),
            name: self.group_name.to_string(),
            alloc_policy: self.alloc_policy.unwrap_or(AllocPolicy::Preferred),
            ndparams: plan.ndparams,
            ipolicy: self.ipolicy.clone().unwrap_or_default().0,
            diskparams: plan.diskparams,
            hv_state_static: plan.hv_state,
            disk_state_static: plan.disk_state,
            networks: Default::default(),
        };
        let uuid = group.meta.uuid.clone();
        cx.commit(|draft| {
            check_new(self, draft)?;
            draft.put_group(group);
            draft.touch_cluster();
            Ok(())
        })
        .await?;
        let config = cx.config();
        let network = &config.cluster.instance_communication_network;
        if network.is_empty() || expand::network(&config, network).is_err() {
            return Ok(Value::Null);
        }
        let Some(connect) = connect_communication_network(&uuid, network) else {
            return Ok(Value::Null);
        };
        Ok(json!({"jobs": cx.submit(vec![vec![connect.into()]]).await?}))
    }
}

// Giving nodes

pub(crate) struct AssignPlan {
    group: Uuid,
    nodes: Vec<Uuid>,
}

fn node_uuids(op: &GroupAssignNodes, config: &Config) -> Result<Vec<Uuid>> {
    if op.nodes.is_empty() {
        return Ok(config.nodes.keys().cloned().collect());
    }
    let expand = |name: &NonEmpty| expand::node(config, name, None).map(|n| n.meta.uuid.clone());
    op.nodes.iter().map(expand).collect()
}

/// The mirrored instances that would be spread over several groups with these nodes in that group: those that are not yet,
/// and those that are and stay so. By name, in natural order.
fn splits(config: &Config, nodes: &[Uuid], group: &Uuid) -> (Vec<String>, Vec<String>) {
    let (mut fresh, mut stay) = (Vec::new(), Vec::new());
    for instance in config.instances.values() {
        let disks = config.instance_disks(instance);
        if !disks.iter().any(|disk| disk.dev_type == DiskTemplate::Drbd) {
            continue;
        }
        let of = |after: bool| -> BTreeSet<&Uuid> {
            let group_of = |uuid: &Uuid| {
                let node = config.nodes.get(uuid)?;
                Some(if after && nodes.contains(uuid) { group } else { &node.group })
            };
            let mut held = config.secondary_nodes(instance);
            held.push(instance.primary_node.clone());
            held.iter().filter_map(group_of).collect()
        };
        match (of(true).len() > 1, of(false).len() > 1) {
            (true, false) => fresh.push(instance.name.clone()),
            (true, true) => stay.push(instance.name.clone()),
            (false, _) => {}
        }
    }
    for names in [&mut fresh, &mut stay] {
        names.sort_by(|a, b| natural_cmp(a, b));
    }
    (fresh, stay)
}

impl LogicalUnit for GroupAssignNodes {
    type Plan = AssignPlan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let group = expand::group(config, &self.group_name)?;
        let mut locks = Locks::new().exclusive(Level::NodeGroup, &group.meta.uuid);
        for uuid in node_uuids(self, config)? {
            locks = locks.exclusive(Level::Node, &uuid);
            if let Some(node) = config.nodes.get(&uuid) {
                locks = locks.exclusive(Level::NodeGroup, &node.group);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<AssignPlan> {
        let config = cx.config();
        let group = expand::group(&config, &self.group_name)?.meta.uuid.clone();
        let nodes = node_uuids(self, &config)?;
        let (fresh, stay) = splits(&config, &nodes, &group);
        if !fresh.is_empty() {
            let names = fresh.join(", ");
            if !self.force {
                return Err(GanetiError::exec(format!(
                    "The following instances get split by this change and --force was not given: {names}"
                )));
            }
            cx.warn(&format!("This operation will split the following instances: {names}"));
            if !stay.is_empty() {
                cx.warn(&format!(
                    "In addition, these already-split instances continue to be split across groups: {}",
                    stay.join(", ")
                ));
            }
        }
        Ok(AssignPlan { group, nodes })
    }

    async fn exec(&self, cx: &Cx, plan: AssignPlan) -> Result<Value> {
        cx.commit(|draft| {
            let mut touched = BTreeSet::new();
            for uuid in &plan.nodes {
                let old = draft.nodes.get(uuid).map(|node| node.group.clone());
                if old.as_ref().is_none_or(|old| *old == plan.group) {
                    continue;
                }
                touched.extend(old);
                touched.insert(plan.group.clone());
                draft.edit_node(uuid, |node| node.group = plan.group.clone());
            }
            for group in &touched {
                draft.edit_group(group, |_| ());
            }
            if !touched.is_empty() {
                draft.touch_cluster();
            }
            Ok(Value::Null)
        })
        .await
    }
}

// Changing

pub(crate) struct SetPlan {
    group: Uuid,
    ndparams: Option<Dict>,
    diskparams: Option<Dict>,
    hv_state: Option<Dict>,
    disk_state: Option<Dict>,
    ipolicy: Option<Dict>,
}

/// A dictionary that was given and is not empty.
fn given(dict: Option<&Dict>) -> Option<&Dict> {
    dict.filter(|dict| !dict.is_empty())
}

fn new_diskparams(op: &GroupSetParams, config: &Config, group: &NodeGroup) -> Result<Option<Dict>> {
    let Some(changes) = op.diskparams.as_ref().filter(|changes| !changes.is_empty()) else {
        return Ok(None);
    };
    let none = Dict::new();
    let mut new = group.diskparams.clone();
    for template in DiskTemplate::ALL {
        let Some(change) = changes.get(template.as_str()) else { continue };
        let old = params::inner(&group.diskparams, template.as_str()).unwrap_or(&none);
        let updated = params::updated(old, change, true, false);
        let mut forced = Dict::from_iter([(template.as_str().to_owned(), Value::Object(updated))]);
        params::disk::force(&mut forced, false)?;
        new.extend(forced);
    }
    params::disk::check(&new, true)?;
    shared_checks::disk_access(config, &new, Some(&group.meta.uuid))
        .map_err(|error| diskparams_error(&error))?;
    Ok(Some(new))
}

fn new_ipolicy(
    op: &GroupSetParams,
    cx: &Cx,
    config: &Config,
    group: &NodeGroup,
) -> Result<Option<Dict>> {
    let Some(changes) = given(op.ipolicy.as_ref().map(|policy| &policy.0)) else {
        return Ok(None);
    };
    let cluster = &config.cluster;
    let new = params::ipolicy::updated(&group.ipolicy, changes, true)?;
    let filled = params::ipolicy::fill_over(&params::ipolicy::fill_cluster(cluster), &new);
    params::ipolicy::check_templates_enabled(&filled, &cluster.enabled_disk_templates)?;
    let old = params::ipolicy::fill(cluster, group);
    let instances = shared_checks::instances_of_group(config, &group.meta.uuid);
    let broken = shared_checks::new_violations(config, &old, &filled, instances);
    if !broken.is_empty() {
        let names: Vec<&str> = broken.iter().map(String::as_str).collect();
        cx.warn(&format!(
            "After the ipolicy change the following instances violate them: {}",
            names.join(", ")
        ));
    }
    Ok(Some(new))
}

impl LogicalUnit for GroupSetParams {
    type Plan = SetPlan;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        let nothing = self.ndparams.is_none()
            && self.diskparams.is_none()
            && self.alloc_policy.is_none()
            && self.hv_state.is_none()
            && self.disk_state.is_none()
            && self.ipolicy.is_none();
        if nothing {
            return Err(GanetiError::wrong_input("Please pass at least one modification"));
        }
        match self.diskparams.as_deref() {
            Some(diskparams) => params::disk::check_access(&diskparams_dict(diskparams)),
            None => Ok(()),
        }
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let group = &expand::group(config, &self.group_name)?.meta.uuid;
        let mut locks = Locks::new().exclusive(Level::NodeGroup, group);
        for instance in shared_checks::instances_of_group(config, group) {
            locks = locks.shared(Level::Instance, &instance.name);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<SetPlan> {
        let config = cx.config();
        let group: &Arc<NodeGroup> = expand::group(&config, &self.group_name)?;
        let ndparams = match given(self.ndparams.as_ref()) {
            Some(changes) => {
                let mut new = params::updated(&group.ndparams, changes, true, false);
                params::nd::force(&mut new, false)?;
                Some(new)
            }
            None => None,
        };
        let diskparams = new_diskparams(self, &config, group)?;
        let hv_state = given(self.hv_state.as_ref())
            .map(|changes| shared_checks::merge_hv_state(&group.hv_state_static, changes));
        let hv_state = hv_state.transpose()?;
        let disk_state = given(self.disk_state.as_ref())
            .map(|changes| shared_checks::merge_disk_state(&group.disk_state_static, changes));
        let disk_state = disk_state.transpose()?;
        let ipolicy = new_ipolicy(self, cx, &config, group)?;
        let group = group.meta.uuid.clone();
        Ok(SetPlan { group, ndparams, diskparams, hv_state, disk_state, ipolicy })
    }

    fn hooks(&self, cx: &Cx, _plan: &SetPlan) -> Option<Hooks> {
        let policy = self.alloc_policy.map_or("None", AllocPolicy::as_str);
        let env =
            [("GROUP_NAME", self.group_name.to_string()), ("NEW_ALLOC_POLICY", policy.to_owned())];
        Some(plain_hooks::hooks("GROUP", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, plan: SetPlan) -> Result<Value> {
        let mut result = Vec::new();
        let shown = |dict: &Dict| python::repr(&Value::Object(dict.clone()));
        if let Some(ndparams) = &plan.ndparams {
            result.push(json!(["ndparams", shown(ndparams)]));
        }
        if let Some(diskparams) = &plan.diskparams {
            result.push(json!(["diskparams", shown(diskparams)]));
        }
        cx.commit(|draft| {
            let changed = draft.edit_group(&plan.group, |group| {
                if let Some(ndparams) = &plan.ndparams {
                    group.ndparams = params::nd::in_order(ndparams);
                }
                group.diskparams = plan.diskparams.unwrap_or_else(|| group.diskparams.clone());
                group.hv_state_static =
                    plan.hv_state.unwrap_or_else(|| group.hv_state_static.clone());
                group.disk_state_static =
                    plan.disk_state.unwrap_or_else(|| group.disk_state_static.clone());
                group.ipolicy = plan.ipolicy.unwrap_or_else(|| group.ipolicy.clone());
                group.alloc_policy = self.alloc_policy.unwrap_or(group.alloc_policy);
            });
            changed.ok_or_else(|| disappeared(&self.group_name, &plan.group))
        })
        .await?;
        shared_checks::tell_shortage(cx);
        Ok(Value::Array(result))
    }
}

// Removing

impl LogicalUnit for GroupRemove {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let group = expand::group(config, &self.group_name)?;
        Ok(Locks::new().exclusive(Level::NodeGroup, &group.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        let (name, group) = (&self.group_name, expand::group(&config, &self.group_name)?);
        // Ganeti: the nodes are listed by their UUIDs (3.0, cmdlib/group.py).
        let mut nodes: Vec<&str> =
            config.members(&group.meta.uuid).map(|node| node.meta.uuid.as_str()).collect();
        nodes.sort_by(|a, b| natural_cmp(a, b));
        if !nodes.is_empty() {
            return Err(GanetiError::wrong_state(format!(
                "Group '{name}' not empty, has the following nodes: {}",
                nodes.join(", ")
            )));
        }
        if config.groups.len() == 1 {
            return Err(GanetiError::wrong_state(format!(
                "Group '{name}' is the only group, cannot be removed"
            )));
        }
        Ok(group.meta.uuid.clone())
    }

    fn hooks(&self, cx: &Cx, _group: &Uuid) -> Option<Hooks> {
        let env = [("GROUP_NAME", self.group_name.to_string())];
        Some(plain_hooks::hooks("GROUP", "", env, plain_hooks::on_master(&cx.config())))
    }

    async fn exec(&self, cx: &Cx, group: Uuid) -> Result<Value> {
        cx.commit(|draft| {
            if !draft.groups.contains_key(&group) {
                let name = &self.group_name;
                let text = format!("Group '{name}' with UUID {group} disappeared");
                return Err(GanetiError::exec(text));
            }
            draft.drop_group(&group);
            draft.touch_cluster();
            Ok(Value::Null)
        })
        .await
    }
}

// Renaming

impl LogicalUnit for GroupRename {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let group = expand::group(config, &self.group_name)?;
        Ok(Locks::new().exclusive(Level::NodeGroup, &group.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        if let Ok(existing) = expand::group(&config, &self.new_name) {
            return Err(GanetiError::already_exists(format!(
                "Desired new name '{}' clashes with existing node group (UUID: {})",
                self.new_name, existing.meta.uuid
            )));
        }
        expand::group(&config, &self.group_name).map(|group| group.meta.uuid.clone())
    }

    fn hooks(&self, cx: &Cx, group: &Uuid) -> Option<Hooks> {
        let env =
            [("OLD_NAME", self.group_name.to_string()), ("NEW_NAME", self.new_name.to_string())];
        let nodes = plain_hooks::on_master_and_groups(&cx.config(), [group]);
        Some(plain_hooks::hooks("GROUP", "", env, nodes))
    }

    async fn exec(&self, cx: &Cx, group: Uuid) -> Result<Value> {
        cx.commit(|draft| {
            if let Ok(existing) = expand::group(draft, &self.new_name) {
                return Err(GanetiError::exec(format!(
                    "Desired new name '{}' clashes with existing node group (UUID: {})",
                    self.new_name, existing.meta.uuid
                )));
            }
            let renamed = draft.edit_group(&group, |group| group.name = self.new_name.to_string());
            renamed.ok_or_else(|| disappeared(&self.group_name, &group))
        })
        .await?;
        shared_checks::tell_shortage(cx);
        Ok(json!(self.new_name.as_str()))
    }
}

#[cfg(test)]
mod tests;
