//! Ganeti's iallocator protocol, version 2: one JSON document to a script's standard input file, one back.
//!
//! Both directions of both: [`input`] and [`parse_reply`] when a script answers us, [`parse_input`] and [`answer`] when
//! we answer somebody else. Error texts are those of 3.0.2's `masterd/iallocator.py`. What a script is sent may grow
//! keys over time, so unknown ones are not refused here.

use std::collections::BTreeSet;

use model::error::{ErrorClass, GanetiError};
use model::python;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Found, Reply, solve};
use crate::cluster::Refusal;
use crate::evacuate::Moved;
use crate::group::{AllocPolicy, Group, InstancePolicy};
use crate::instance::{AdminState, Disk, DiskTemplate, Instance, Nic};
use crate::node::{Node, NodeParams};
use crate::picture::{Allocation, EvacuationMode, Options, Picture, Request};

/// The version of the protocol.
pub const VERSION: u64 = 2;

/// An input document that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("iallocator input does not parse")]
    Json(#[from] serde_json::Error),
    #[error("iallocator input of version {0}, expected 2")]
    Version(u64),
    #[error("invalid request type '{0}'")]
    RequestType(String),
    #[error("instance '{0}' has no nodes")]
    NoNodes(String),
}

/// The input document for a script.
pub fn input(picture: &Picture, request: &Request) -> Value {
    let named = |entries: Vec<(String, Value)>| Value::Object(entries.into_iter().collect());
    json!({
        "version": VERSION,
        "cluster_name": picture.cluster_name,
        "cluster_tags": picture.cluster_tags,
        "enabled_hypervisors": picture.enabled_hypervisors,
        "ipolicy": picture.policy,
        "nodegroups": named(
            picture.groups.iter().map(|group| (group.uuid.clone(), group_value(group))).collect()
        ),
        "nodes": named(node_values(picture)),
        "instances": named(
            picture
                .instances
                .iter()
                .map(|instance| (instance.name.clone(), instance_value(instance)))
                .collect()
        ),
        "request": request_value(picture, request),
    })
}

fn group_value(group: &Group) -> Value {
    json!({
        "name": group.name,
        "alloc_policy": group.alloc_policy.as_str(),
        "networks": group.networks,
        "ipolicy": group.policy,
        "tags": group.tags,
    })
}

fn node_values(picture: &Picture) -> Vec<(String, Value)> {
    let mut memory: std::collections::HashMap<&str, (i64, i64)> = std::collections::HashMap::new();
    for instance in &picture.instances {
        let (all, up) = memory.entry(instance.primary.as_str()).or_default();
        *all += instance.memory_mib;
        if instance.admin_state == AdminState::Up {
            *up += instance.memory_mib;
        }
    }
    let value = |node: &Node| {
        let (all, up) = memory.get(node.name.as_str()).copied().unwrap_or_default();
        let mut value = json!({
            "tags": node.tags,
            "primary_ip": node.primary_ip,
            "secondary_ip": node.secondary_ip,
            "offline": node.offline,
            "drained": node.drained,
            "master_candidate": node.master_candidate,
            "group": node.group,
            "master_capable": node.master_capable,
            "vm_capable": node.vm_capable,
            "ndparams": node.params,
        });
        if !node.offline && node.vm_capable {
            for (key, amount) in [
                ("total_memory", node.memory_total_mib),
                ("reserved_memory", node.memory_reserved_mib),
                ("free_memory", node.memory_free_mib),
                ("total_disk", node.disk_total_mib),
                ("free_disk", node.disk_free_mib),
                ("total_spindles", node.spindles_total),
                ("free_spindles", node.spindles_free),
                ("total_cpus", node.cpus_total),
                ("reserved_cpus", node.cpus_reserved),
                ("i_pri_memory", all),
                ("i_pri_up_memory", up),
            ] {
                value[key] = json!(amount);
            }
        }
        value
    };
    picture.nodes.iter().map(|node| (node.name.clone(), value(node))).collect()
}

fn disks_value(disks: &[Disk], template: DiskTemplate) -> Value {
    disks
        .iter()
        .map(|disk| {
            json!({
                "type": template.as_str(),
                "size": disk.size_mib,
                "mode": disk.mode,
                "spindles": disk.spindles,
            })
        })
        .collect()
}

fn space(disks: &[Disk], template: DiskTemplate) -> i64 {
    disks.iter().map(|disk| template.space_mib(disk.size_mib)).sum()
}

fn instance_value(instance: &Instance) -> Value {
    let nic = |nic: &Nic| {
        let mut value = json!({"mac": nic.mac, "ip": nic.ip, "mode": nic.mode, "link": nic.link});
        if nic.mode.as_deref() == Some("bridged") {
            value["bridge"] = json!(nic.link);
        }
        value
    };
    let template = instance.disk_template;
    json!({
        "tags": instance.tags,
        "admin_state": instance.admin_state.as_str(),
        "vcpus": instance.vcpus,
        "memory": instance.memory_mib,
        "spindle_use": instance.spindle_use,
        "os": instance.os,
        "nodes": std::iter::once(&instance.primary).chain(&instance.secondary).collect::<Vec<_>>(),
        "nics": instance.nics.iter().map(nic).collect::<Vec<_>>(),
        "disks": disks_value(&instance.disks, template),
        "disk_template": template.as_str(),
        "disks_active": instance.disks_active,
        "hypervisor": instance.hypervisor,
        "disk_space_total": space(&instance.disks, template),
    })
}

fn allocation_value(allocation: &Allocation) -> Value {
    let template = allocation.disk_template;
    json!({
        "name": allocation.name,
        "disk_template": template.as_str(),
        "group_name": allocation.group_name,
        "tags": allocation.tags,
        "os": allocation.os,
        "vcpus": allocation.vcpus,
        "memory": allocation.memory_mib,
        "spindle_use": allocation.spindle_use,
        "disks": disks_value(&allocation.disks, template),
        "disk_space_total": space(&allocation.disks, template),
        "nics": allocation.nics,
        "required_nodes": template.nodes_required(),
        "hypervisor": allocation.hypervisor,
    })
}

fn request_value(picture: &Picture, request: &Request) -> Value {
    match request {
        Request::Allocate(allocation) => {
            let mut value = allocation_value(allocation);
            value["type"] = json!("allocate");
            if let Some(nodes) = &allocation.restrict_to_nodes {
                value["restrict-to-nodes"] = json!(nodes);
            }
            value
        }
        Request::AllocateSecondary { name } => json!({"name": name, "type": "allocate-secondary"}),
        Request::Relocate { name, relocate_from } => {
            let instance = picture.instances.iter().find(|instance| instance.name == *name);
            let space =
                instance.map_or(0, |instance| space(&instance.disks, instance.disk_template));
            json!({
                "name": name,
                "disk_space_total": space,
                "required_nodes": 1,
                "relocate_from": relocate_from,
                "type": "relocate",
            })
        }
        Request::MultiAllocate(allocations) => json!({
            "instances": allocations.iter().map(allocation_value).collect::<Vec<_>>(),
            "type": "multi-allocate",
        }),
        Request::NodeEvacuate { instances, mode } => json!({
            "instances": instances,
            "evac_mode": mode.as_str(),
            "type": "node-evacuate",
        }),
        Request::ChangeGroup { instances, target_groups } => json!({
            "instances": instances,
            "target_groups": target_groups,
            "type": "change-group",
        }),
    }
}

#[derive(Deserialize)]
struct WireInput {
    version: u64,
    #[serde(default)]
    cluster_name: String,
    #[serde(default)]
    cluster_tags: Vec<String>,
    #[serde(default)]
    enabled_hypervisors: Vec<String>,
    #[serde(default)]
    ipolicy: Option<InstancePolicy>,
    nodegroups: Map<String, Value>,
    nodes: Map<String, Value>,
    instances: Map<String, Value>,
    request: Value,
}

#[derive(Deserialize)]
struct WireGroup {
    name: String,
    alloc_policy: AllocPolicy,
    #[serde(default)]
    networks: Vec<String>,
    ipolicy: InstancePolicy,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct WireNode {
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    primary_ip: String,
    #[serde(default)]
    secondary_ip: String,
    #[serde(default)]
    offline: bool,
    #[serde(default)]
    drained: bool,
    #[serde(default)]
    master_candidate: bool,
    #[serde(default = "yes")]
    master_capable: bool,
    #[serde(default = "yes")]
    vm_capable: bool,
    group: String,
    #[serde(default)]
    ndparams: NodeParams,
    #[serde(default)]
    total_memory: i64,
    #[serde(default)]
    reserved_memory: i64,
    #[serde(default)]
    free_memory: i64,
    #[serde(default)]
    total_disk: i64,
    #[serde(default)]
    free_disk: i64,
    #[serde(default)]
    total_spindles: i64,
    #[serde(default)]
    free_spindles: i64,
    #[serde(default)]
    total_cpus: i64,
    #[serde(default)]
    reserved_cpus: i64,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct WireDisk {
    size: i64,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    spindles: Option<i64>,
}

impl From<WireDisk> for Disk {
    fn from(wire: WireDisk) -> Self {
        let mode = wire.mode.unwrap_or_else(|| "rw".to_owned());
        Self { size_mib: wire.size, mode, spindles: wire.spindles }
    }
}

#[derive(Deserialize)]
struct WireInstance {
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    admin_state: AdminState,
    vcpus: i64,
    memory: i64,
    #[serde(default = "one")]
    spindle_use: i64,
    #[serde(default)]
    os: String,
    nodes: Vec<String>,
    #[serde(default)]
    nics: Vec<Nic>,
    #[serde(default)]
    disks: Vec<WireDisk>,
    disk_template: DiskTemplate,
    #[serde(default)]
    disks_active: bool,
    #[serde(default)]
    hypervisor: String,
}

fn one() -> i64 {
    1
}

#[derive(Deserialize)]
struct WireAllocation {
    name: String,
    disk_template: DiskTemplate,
    #[serde(default)]
    group_name: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    os: String,
    memory: i64,
    vcpus: i64,
    #[serde(default = "one")]
    spindle_use: i64,
    #[serde(default)]
    disks: Vec<WireDisk>,
    #[serde(default)]
    nics: Vec<Nic>,
    #[serde(default)]
    hypervisor: String,
    #[serde(default, rename = "restrict-to-nodes")]
    restrict_to_nodes: Option<Vec<String>>,
}

impl From<WireAllocation> for Allocation {
    fn from(wire: WireAllocation) -> Self {
        Self {
            name: wire.name,
            disk_template: wire.disk_template,
            group_name: wire.group_name,
            tags: wire.tags,
            os: wire.os,
            memory_mib: wire.memory,
            vcpus: wire.vcpus,
            spindle_use: wire.spindle_use,
            disks: wire.disks.into_iter().map(Disk::from).collect(),
            nics: wire.nics,
            hypervisor: wire.hypervisor,
            restrict_to_nodes: wire.restrict_to_nodes,
        }
    }
}

#[derive(Deserialize)]
struct WireName {
    name: String,
}

#[derive(Deserialize)]
struct WireRelocation {
    name: String,
    relocate_from: Vec<String>,
}

#[derive(Deserialize)]
struct WireAllocations {
    instances: Vec<WireAllocation>,
}

#[derive(Deserialize)]
struct WireEvacuation {
    instances: Vec<String>,
    evac_mode: String,
}

#[derive(Deserialize)]
struct WireGroupChange {
    instances: Vec<String>,
    target_groups: Vec<String>,
}

/// Reads an input document.
pub fn parse_input(document: &Value) -> Result<(Picture, Request), InputError> {
    let wire = WireInput::deserialize(document)?;
    if wire.version != VERSION {
        return Err(InputError::Version(wire.version));
    }
    let mut picture = Picture {
        cluster_name: wire.cluster_name,
        cluster_tags: wire.cluster_tags,
        enabled_hypervisors: wire.enabled_hypervisors,
        policy: wire.ipolicy.unwrap_or_default(),
        ..Picture::default()
    };
    for (uuid, value) in wire.nodegroups {
        let WireGroup { name, alloc_policy, networks, ipolicy: policy, tags } =
            serde_json::from_value(value)?;
        picture.groups.push(Group { uuid, name, alloc_policy, policy, tags, networks });
    }
    for (name, value) in wire.nodes {
        picture.nodes.push(node(name, serde_json::from_value(value)?));
    }
    for (name, value) in wire.instances {
        picture.instances.push(instance(name, serde_json::from_value(value)?)?);
    }
    Ok((picture, request(wire.request)?))
}

fn node(name: String, wire: WireNode) -> Node {
    Node {
        uuid: String::new(),
        name,
        group: wire.group,
        tags: wire.tags,
        primary_ip: wire.primary_ip,
        secondary_ip: wire.secondary_ip,
        offline: wire.offline,
        drained: wire.drained,
        master_candidate: wire.master_candidate,
        master_capable: wire.master_capable,
        vm_capable: wire.vm_capable,
        params: wire.ndparams,
        memory_total_mib: wire.total_memory,
        memory_reserved_mib: wire.reserved_memory,
        memory_free_mib: wire.free_memory,
        disk_total_mib: wire.total_disk,
        disk_free_mib: wire.free_disk,
        cpus_total: wire.total_cpus,
        cpus_reserved: wire.reserved_cpus,
        spindles_total: wire.total_spindles,
        spindles_free: wire.free_spindles,
    }
}

fn instance(name: String, wire: WireInstance) -> Result<Instance, InputError> {
    let mut nodes = wire.nodes.into_iter();
    let Some(primary) = nodes.next() else { return Err(InputError::NoNodes(name)) };
    Ok(Instance {
        name,
        uuid: String::new(),
        tags: wire.tags,
        admin_state: wire.admin_state,
        memory_mib: wire.memory,
        vcpus: wire.vcpus,
        spindle_use: wire.spindle_use,
        os: wire.os,
        hypervisor: wire.hypervisor,
        disk_template: wire.disk_template,
        disks: wire.disks.into_iter().map(Disk::from).collect(),
        disks_active: wire.disks_active,
        nics: wire.nics,
        primary,
        secondary: nodes.next(),
        auto_balance: true,
    })
}

fn request(value: Value) -> Result<Request, InputError> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(match kind.as_str() {
        "allocate" => Request::Allocate(serde_json::from_value::<WireAllocation>(value)?.into()),
        "allocate-secondary" => {
            Request::AllocateSecondary { name: serde_json::from_value::<WireName>(value)?.name }
        }
        "relocate" => {
            let WireRelocation { name, relocate_from } = serde_json::from_value(value)?;
            Request::Relocate { name, relocate_from }
        }
        "multi-allocate" => {
            let WireAllocations { instances } = serde_json::from_value(value)?;
            Request::MultiAllocate(instances.into_iter().map(Allocation::from).collect())
        }
        "node-evacuate" => {
            let WireEvacuation { instances, evac_mode } = serde_json::from_value(value)?;
            let mode = EvacuationMode::parse(&evac_mode)
                .ok_or_else(|| InputError::RequestType(evac_mode.clone()))?;
            Request::NodeEvacuate { instances, mode }
        }
        "change-group" => {
            let WireGroupChange { instances, target_groups } = serde_json::from_value(value)?;
            Request::ChangeGroup { instances, target_groups }
        }
        _ => return Err(InputError::RequestType(kind)),
    })
}

/// Answers an input document as the built-in allocator: `hail` as a function.
pub fn answer(document: &Value, options: Options) -> Value {
    let reply = match parse_input(document) {
        Ok((picture, request)) => solve(&picture, &request, options),
        Err(error) => Refusal(match &error {
            InputError::Json(source) => format!("{error}: {source}"),
            other => other.to_string(),
        })
        .into(),
    };
    reply.to_value()
}

impl Reply {
    /// The output document.
    pub fn to_value(&self) -> Value {
        json!({
            "success": self.result.is_some(),
            "info": self.info,
            "result": self.result.as_ref().map_or_else(|| json!([]), Found::to_value),
        })
    }
}

impl Found {
    /// The `result` of the output document.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Nodes(nodes) => json!(nodes),
            Self::Node(node) => json!(node),
            Self::Placements { placed, failed } => json!([placed, failed]),
            Self::Moves { moved, failed, jobs } => {
                let moved: Vec<_> =
                    moved.iter().map(|one| json!([one.name, one.group, one.nodes])).collect();
                json!([moved, failed, jobs])
            }
        }
    }
}

/// Reads and checks what a script has written, against what it was asked.
pub fn parse_reply(text: &str, picture: &Picture, request: &Request) -> Result<Reply, GanetiError> {
    let unreadable =
        |why: String| GanetiError::exec(format!("Can't parse iallocator results: {why}"));
    let document: Value =
        serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    let Value::Object(mut fields) = document else {
        return Err(unreadable("not a dict".to_owned()));
    };
    // Ganeti: scripts of protocol version 1 said `nodes` (3.0.2 still takes it).
    if !fields.contains_key("result")
        && let Some(nodes) = fields.remove("nodes")
    {
        fields.insert("result".to_owned(), nodes);
    }
    let mut field =
        |key: &str| fields.remove(key).ok_or_else(|| unreadable(format!("missing key '{key}'")));
    let (success, info, result) = (field("success")?, field("info")?, field("result")?);
    let info = python::str(&info);
    if !python::truthy(&success) {
        return Ok(Reply { info, result: None });
    }
    let found = read_result(&result, request).ok_or_else(|| {
        invalid(format!(
            "iallocator returned invalid result, expected {}, got {}",
            expected(request),
            python::str(&result)
        ))
    })?;
    check_result(&found, picture, request)?;
    Ok(Reply { info, result: Some(found) })
}

fn invalid(text: String) -> GanetiError {
    GanetiError::new(ErrorClass::ResultValidationError, text)
}

/// Ganeti's description of the result of a request.
fn expected(request: &Request) -> &'static str {
    match request {
        Request::Allocate(_) | Request::Relocate { .. } => "List",
        Request::AllocateSecondary { .. } => "String",
        Request::MultiAllocate(_) => {
            "List and (Length 2) and (Item 0 is (List of ((Length 2) and (Item 0 is \
             NonEmptyString, item 1 is (List of NonEmptyString)))), item 1 is (List of \
             NonEmptyString))"
        }
        Request::NodeEvacuate { .. } | Request::ChangeGroup { .. } => {
            "(Length 3) and (Item 0 is (List of ((Length 3) and (Item 0 is NonEmptyString, item \
             1 is NonEmptyString, item 2 is (List of NonEmptyString)))), item 1 is (List of \
             ((Length 2) and (Item 0 is NonEmptyString, item 1 is (None or NonEmptyString)))), \
             item 2 is (List of (List of (Dictionary containing required key \"OP_ID\" (value \
             OneOf OP_INSTANCE_FAILOVER, OP_INSTANCE_MIGRATE, OP_INSTANCE_REPLACE_DISKS)))))"
        }
    }
}

fn read_result(result: &Value, request: &Request) -> Option<Found> {
    match request {
        Request::Allocate(_) | Request::Relocate { .. } => strings(result).map(Found::Nodes),
        Request::AllocateSecondary { .. } => Some(Found::Node(result.as_str()?.to_owned())),
        Request::MultiAllocate(_) => {
            let [placed, failed] = result.as_array()?.as_slice() else { return None };
            let placed = list(placed, |item| {
                let [name, nodes] = item.as_array()?.as_slice() else { return None };
                Some((string(name)?, strings(nodes)?))
            })?;
            Some(Found::Placements { placed, failed: strings(failed)? })
        }
        Request::NodeEvacuate { .. } | Request::ChangeGroup { .. } => read_moves(result),
    }
}

fn read_moves(result: &Value) -> Option<Found> {
    let [moved, failed, jobs] = result.as_array()?.as_slice() else { return None };
    let moved = list(moved, |item| {
        let [name, group, nodes] = item.as_array()?.as_slice() else { return None };
        Some(Moved { name: string(name)?, group: string(group)?, nodes: strings(nodes)? })
    })?;
    let failed = list(failed, |item| {
        let [name, reason] = item.as_array()?.as_slice() else { return None };
        match reason {
            Value::Null => Some((string(name)?, None)),
            other => Some((string(name)?, Some(other.as_str()?.to_owned()))),
        }
    })?;
    let jobs = list(jobs, |job| {
        list(job, |opcode| {
            let id = opcode.get("OP_ID")?.as_str()?;
            let known =
                ["OP_INSTANCE_FAILOVER", "OP_INSTANCE_MIGRATE", "OP_INSTANCE_REPLACE_DISKS"];
            known.contains(&id).then(|| opcode.clone())
        })
    })?;
    Some(Found::Moves { moved, failed, jobs })
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(item).collect()
}

fn strings(value: &Value) -> Option<Vec<String>> {
    list(value, string)
}

fn string(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn check_result(found: &Found, picture: &Picture, request: &Request) -> Result<(), GanetiError> {
    match (found, request) {
        (Found::Nodes(nodes), Request::Allocate(allocation)) => {
            let required = allocation.disk_template.nodes_required();
            if nodes.len() != required {
                return Err(invalid(format!(
                    "iallocator returned invalid number of nodes ({}), required {required}",
                    nodes.len()
                )));
            }
            Ok(())
        }
        (Found::Nodes(nodes), Request::Relocate { name, relocate_from }) => {
            let instance = picture.instances.iter().find(|instance| instance.name == *name);
            let primary = instance.map(|instance| &instance.primary);
            let asked = group_names(picture, relocate_from.iter().chain(primary));
            let answered = group_names(picture, nodes.iter().chain(primary));
            if answered.is_subset(&asked) {
                return Ok(());
            }
            let join = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
            Err(invalid(format!(
                "Groups of nodes returned by iallocator ({}) differ from original groups ({})",
                join(answered),
                join(asked)
            )))
        }
        _ => Ok(()),
    }
}

/// Names of the groups that the nodes are in; unknown nodes are in none.
fn group_names<'p>(
    picture: &'p Picture,
    names: impl Iterator<Item = &'p String>,
) -> BTreeSet<&'p str> {
    names
        .filter_map(|name| picture.nodes.iter().find(|node| node.name == *name))
        .map(|node| {
            let group = picture.groups.iter().find(|group| group.uuid == node.group);
            group.map_or(node.group.as_str(), |group| group.name.as_str())
        })
        .collect()
}
