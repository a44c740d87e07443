//! `OP_INSTANCE_QUERY_DATA`: everything about instances, their disks and what the hypervisor says.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::config::{Config, Disk, Instance, Network, Nic};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceQueryData;
use model::param::{AdminState, AdminStateSource, Dict, DiskTemplate, Hypervisor};
use model::units::{natural_cmp, number};
use model::{params, python};
use node::{DiskStatus, RunState};
use serde_json::{Value, json};

use super::{checks, disk_template, nodes_of};
use crate::locks::Mode;
use crate::lu::{Cx, Level, Locks, LogicalUnit, expand};
use crate::{pool, spec};

impl LogicalUnit for InstanceQueryData {
    type Plan = Vec<Arc<Instance>>;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        if !(self.r#static || self.use_locking) {
            cx.warn("Non-static data requested, locks need to be acquired");
            self.use_locking = true;
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instances = wanted(self, config)?;
        if !self.use_locking {
            return Ok(Locks::new());
        }
        let mut locks = Locks::new();
        if self.instances.is_empty() {
            locks = locks.all(Level::Instance, Mode::Shared);
        }
        for instance in &instances {
            locks = locks.shared(Level::Instance, &instance.name);
            for uuid in nodes_of(config, instance) {
                locks = locks.shared(Level::Node, &uuid);
                if let Some(node) = config.nodes.get(&uuid) {
                    locks = locks.shared(Level::NodeGroup, &node.group);
                }
            }
            for network in instance.nics.iter().filter_map(|nic| nic.network.as_ref()) {
                locks = locks.shared(Level::Network, network);
            }
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Arc<Instance>>> {
        wanted(self, &cx.config())
    }

    async fn exec(&self, cx: &Cx, instances: Vec<Arc<Instance>>) -> Result<Value> {
        let config = cx.config();
        let mut answer = Dict::new();
        for instance in &instances {
            let described = describe(self, cx, &config, instance).await?;
            answer.insert(instance.name.clone(), described);
        }
        Ok(Value::Object(answer))
    }
}

/// The instances that are named, each once; all of them, in the order of names, when none is.
fn wanted(op: &InstanceQueryData, config: &Config) -> Result<Vec<Arc<Instance>>> {
    if op.instances.is_empty() {
        let mut all: Vec<Arc<Instance>> = config.instances.values().cloned().collect();
        all.sort_by(|left, right| natural_cmp(&left.name, &right.name));
        return Ok(all);
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for name in &op.instances {
        let instance = expand::instance(config, name, None)?;
        if seen.insert(instance.meta.uuid.clone()) {
            found.push(instance.clone());
        }
    }
    Ok(found)
}

async fn describe(
    op: &InstanceQueryData,
    cx: &Cx,
    config: &Config,
    instance: &Instance,
) -> Result<Value> {
    let cluster = &config.cluster;
    let hv_actual = params::hv::fill_without_globals(
        cluster,
        instance.hypervisor,
        &instance.os,
        &instance.hvparams,
        cx.compat(),
    );
    let run_state = run_state(op, cx, config, instance, &hv_actual)?;
    let all = config.instance_disks(instance);
    let mut disks = Vec::new();
    for disk in &all {
        disks.push(describe_disk(op, cx, config, instance, None, disk).await?);
    }
    let group_of = |uuid: &Uuid| config.nodes.get(uuid).map(|node| &node.group);
    let group_name = |uuid: &Uuid| {
        group_of(uuid).and_then(|group| config.groups.get(group)).map(|group| group.name.clone())
    };
    let primary = &instance.primary_node;
    let secondaries = config.secondary_nodes(instance);
    let each = |value: &dyn Fn(&Uuid) -> Value| secondaries.iter().map(value).collect::<Value>();
    Ok(json!({
        "name": instance.name,
        "config_state": instance.admin_state.as_str(),
        "run_state": run_state,
        "pnode": config.node_name(primary),
        "pnode_group_uuid": group_of(primary).map(Uuid::as_str),
        "pnode_group_name": group_name(primary),
        "snodes": each(&|uuid| json!(config.node_name(uuid))),
        "snodes_group_uuids": each(&|uuid| json!(group_of(uuid).map(Uuid::as_str))),
        "snodes_group_names": each(&|uuid| json!(group_name(uuid))),
        "os": instance.os,
        "nics": instance.nics.iter().map(|nic| describe_nic(config, nic)).collect::<Value>(),
        "disk_template": disk_template(config, instance).as_str(),
        "disks": disks,
        "hypervisor": instance.hypervisor.as_str(),
        "network_port": instance.network_port,
        "hv_instance": instance.hvparams,
        "hv_actual": hv_actual,
        "be_instance": instance.beparams,
        "be_actual": params::be::fill(cluster, &instance.beparams),
        "os_instance": instance.osparams,
        "os_actual": params::os::fill(cluster, &instance.os, &instance.osparams),
        "serial_no": instance.meta.serial_no,
        "mtime": instance.meta.mtime,
        "ctime": instance.meta.ctime,
        "uuid": instance.meta.uuid.as_str(),
    }))
}

/// What the instance does: `None` where nobody was asked.
fn run_state(
    op: &InstanceQueryData,
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    hv_actual: &Dict,
) -> Result<Option<&'static str>> {
    let primary = &instance.primary_node;
    let name = config.node_name(primary);
    if config.nodes.get(primary).is_some_and(|node| node.offline) {
        cx.warn(&format!(
            "Primary node {name} is marked offline, returning static information only for instance {}",
            instance.name
        ));
        return Ok(None);
    }
    if op.r#static {
        return Ok(None);
    }
    let run = checks::running_on(cx, primary, instance)
        .map_err(|error| GanetiError::exec(format!("Error checking node {name}: {error}")))?;
    let by_user = config.cluster.enabled_user_shutdown
        && (instance.hypervisor != Hypervisor::Kvm
            || hv_actual.get("user_shutdown").is_some_and(python::truthy));
    Ok(Some(match (run.map(|run| run.state), instance.admin_state) {
        (Some(RunState::Shutdown), _) if by_user => "user down",
        (Some(RunState::Shutdown), _) => "down",
        (Some(RunState::Running | RunState::Paused), _) => "up",
        (None, AdminState::Up) => "down",
        (None, AdminState::Down) => match instance.admin_state_source {
            AdminStateSource::User => "user down",
            AdminStateSource::Admin => "down",
        },
        (None, AdminState::Offline) => "offline",
    }))
}

fn describe_nic(config: &Config, nic: &Nic) -> Value {
    let told = spec::nic(config, nic);
    let network = nic.network.as_ref().and_then(|uuid| config.networks.get(uuid));
    json!([
        nic.name,
        nic.uuid.as_str(),
        nic.ip,
        nic.mac,
        told.mode,
        told.link,
        told.vlan,
        nic.network.as_ref().map(Uuid::as_str),
        network.map(|network| describe_network(network)),
    ])
}

/// A network as it is stored: what it has not is left out, and addresses are a digit each.
fn describe_network(network: &Network) -> Value {
    let size = pool::range(network).map_or(0, |(_, size)| size);
    let digits = |set: &imbl::OrdSet<u32>| -> String {
        (0..size).map(|offset| if set.contains(&offset) { '1' } else { '0' }).collect()
    };
    let mut described = json!({
        "name": network.name,
        "serial_no": network.meta.serial_no,
        "network": network.network,
        "reservations": digits(&network.reservations),
        "ext_reservations": digits(&network.ext_reservations),
        "ctime": network.meta.ctime,
        "mtime": network.meta.mtime,
        "uuid": network.meta.uuid.as_str(),
        "tags": network.tags.iter().collect::<Vec<_>>(),
    });
    for (name, value) in [
        ("gateway", &network.gateway),
        ("network6", &network.network6),
        ("gateway6", &network.gateway6),
        ("mac_prefix", &network.mac_prefix),
    ] {
        if let Some(value) = value {
            described[name] = json!(value);
        }
    }
    described
}

/// A disk with those below it; `secondary` is where the mirror that it is part of has its other half.
async fn describe_disk(
    op: &InstanceQueryData,
    cx: &Cx,
    config: &Config,
    instance: &Instance,
    secondary: Option<&Uuid>,
    disk: &Disk,
) -> Result<Value> {
    let mirror = Mirror::of(instance, disk);
    let mut logical_id = disk.logical_id.clone();
    let mut drbd_info = Value::Null;
    if let Some(mirror) = &mirror {
        drbd_info = json!({
            "primary_node": config.node_name(&instance.primary_node),
            "primary_minor": mirror.primary_minor,
            "secondary_node": config.node_name(&mirror.secondary),
            "secondary_minor": mirror.secondary_minor,
            "port": disk.logical_id.get(2),
        });
        if let Some(secret) = logical_id.last_mut() {
            *secret = Value::Null;
        }
    }
    let secondary = mirror.as_ref().map(|mirror| &mirror.secondary).or(secondary);
    let on_primary = status(op, cx, instance, Some(&instance.primary_node), disk).await?;
    let on_secondary = status(op, cx, instance, secondary, disk).await?;
    let mut children = Vec::new();
    for child in &disk.children {
        let child = describe_disk(op, cx, config, instance, secondary, child);
        children.push(Box::pin(child).await?);
    }
    let part = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    Ok(json!({
        "iv_name": part(&disk.iv_name),
        "dev_type": disk.dev_type.as_str(),
        "logical_id": logical_id,
        "drbd_info": drbd_info,
        "pstatus": on_primary,
        "sstatus": on_secondary,
        "children": children,
        "mode": part(&disk.mode),
        "size": disk.size_mib,
        "spindles": disk.spindles,
        "name": disk.name,
        "uuid": part(disk.meta.uuid.as_str()),
    }))
}

/// What a drbd disk's id says, seen from the instance.
struct Mirror {
    secondary: Uuid,
    primary_minor: Value,
    secondary_minor: Value,
}

impl Mirror {
    fn of(instance: &Instance, disk: &Disk) -> Option<Self> {
        if disk.dev_type != DiskTemplate::Drbd {
            return None;
        }
        let [first, second, _, first_minor, second_minor, ..] = disk.logical_id.as_slice() else {
            return None;
        };
        let (secondary, primary_minor, secondary_minor) =
            if first.as_str() == Some(instance.primary_node.as_str()) {
                (second, first_minor, second_minor)
            } else {
                (first, second_minor, first_minor)
            };
        Some(Self {
            secondary: Uuid::new(secondary.as_str()?),
            primary_minor: primary_minor.clone(),
            secondary_minor: secondary_minor.clone(),
        })
    }
}

/// What a node says of a disk; null where it was not asked, is offline, or does not have the disk up.
async fn status(
    op: &InstanceQueryData,
    cx: &Cx,
    instance: &Instance,
    node: Option<&Uuid>,
    disk: &Disk,
) -> Result<Value> {
    let Some(node) = node.filter(|_| !op.r#static) else { return Ok(Value::Null) };
    let config = cx.config();
    if config.nodes.get(node).is_some_and(|node| node.offline) {
        return Ok(Value::Null);
    }
    let found = match cx.node(node).await {
        Ok(node) => node.disk_status(&spec::disk(&config, instance, disk)).await,
        Err(error) => Err(error),
    };
    let found = found.map_err(|error| {
        GanetiError::exec(format!("Can't compute disk status for {}: {error}", instance.name))
    })?;
    Ok(found.map_or(Value::Null, |status| as_list(&status)))
}

fn as_list(status: &DiskStatus) -> Value {
    json!([
        status.dev_path,
        status.major,
        status.minor,
        status.sync_percent,
        status.estimated_time.map(number),
        status.is_degraded,
        status.ldisk_status,
    ])
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use node::Verb;
    use serde_json::{Value, json};

    const WEB1: &str = "web1.example.com";
    const ASKED: &str = " - WARNING: Non-static data requested, locks need to be acquired";

    fn query(more: &Value) -> Value {
        let mut op = json!({"OP_ID": "OP_INSTANCE_QUERY_DATA", "instances": [WEB1]});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    async fn bench() -> Bench {
        let bench = Bench::new(2);
        let disks = json!([{"size": 1024, "name": "root"}]);
        let more = json!({
            "disk_template": "drbd", "disks": disks, "snode": "node2.example.com", "nics": [{"name": "eth0"}],
        });
        bench.make(WEB1, more).await;
        bench.make("web2.example.com", json!({"start": false})).await;
        bench
    }

    #[tokio::test]
    async fn everything_is_told() {
        let bench = bench().await;
        let outcome = bench.run(query(&json!({}))).await;
        assert_eq!(outcome.log, [ASKED]);
        let result = outcome.result.unwrap();
        let web1 = &result[WEB1];
        let config = bench.config();
        let instance = config.instance_by_name(WEB1).unwrap();
        let disk = &config.instance_disks(instance)[0];
        let nic = &instance.nics[0];
        assert_eq!(web1["run_state"], "up");
        assert_eq!(web1["snodes"], json!(["node2.example.com"]));
        assert_eq!(web1["snodes_group_names"], json!(["default"]));
        assert_eq!(
            web1["nics"],
            json!([[
                "eth0",
                nic.uuid.as_str(),
                null,
                nic.mac,
                "bridged",
                "xen-br0",
                "",
                null,
                null
            ]])
        );
        assert_eq!(web1["hv_actual"], json!({}));
        assert_eq!(web1["be_actual"]["maxmem"], 128);
        let told = &web1["disks"][0];
        let mut id = disk.logical_id.clone();
        id[5] = json!(null);
        assert_eq!(told["logical_id"], json!(id));
        assert_eq!(
            told["drbd_info"],
            json!({
                "primary_node": "node1.example.com", "primary_minor": 0, "secondary_node": "node2.example.com",
                "secondary_minor": 0, "port": disk.logical_id[2],
            })
        );
        assert_eq!(told["pstatus"], json!(["/dev/drbd0", 147, 0, null, null, false, 1]));
        assert_eq!(told["sstatus"], told["pstatus"]);
        assert_eq!((&told["iv_name"], &told["name"]), (&json!("disk/0"), &json!("root")));
        assert_eq!(told["children"].as_array().unwrap().len(), 2);
        assert_eq!(told["children"][1]["size"], 128);
        let members = web1.as_object().unwrap().len();
        assert_eq!(members, 25);
    }

    #[tokio::test]
    async fn without_names_all_are_told() {
        let bench = bench().await;
        let result =
            bench.run(query(&json!({"instances": [], "static": true}))).await.result.unwrap();
        assert!(result.as_object().unwrap().keys().eq([WEB1, "web2.example.com"]));
        assert_eq!(result["web2.example.com"]["disk_template"], "diskless");
        assert_eq!(result[WEB1]["run_state"], json!(null));
        assert_eq!(result[WEB1]["disks"][0]["pstatus"], json!(null));
    }

    #[tokio::test]
    async fn states_are_what_hypervisor_and_configuration_say() {
        let bench = bench().await;
        let state =
            async || bench.run(query(&json!({}))).await.result.unwrap()[WEB1]["run_state"].clone();
        bench.world.node("node1.example.com").end_instance(WEB1);
        assert_eq!(state().await, "down");
        bench.world.node("node1.example.com").crash_instance(WEB1);
        assert_eq!(state().await, "down");
        bench.set_offline("node1.example.com", true).await;
        let outcome = bench.run(query(&json!({}))).await;
        assert_eq!(outcome.result.unwrap()[WEB1]["run_state"], json!(null));
        assert_eq!(
            outcome.log[1],
            " - WARNING: Primary node node1.example.com is marked offline, returning static information only for instance \
             web1.example.com"
        );
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench().await;
        let unknown = bench.run(query(&json!({"instances": ["nosuch"]}))).await.result;
        assert_eq!(unknown, Err(GanetiError::unknown_entity("Instance 'nosuch' not known")));
        bench.fault(WEB1, Verb::DiskStatus, "no").await;
        let text = "Can't compute disk status for web1.example.com: no";
        assert_eq!(bench.run(query(&json!({}))).await.result, Err(GanetiError::exec(text)));
        bench.world.node("node1.example.com").unreachable(true);
        let text = "Error checking node node1.example.com: the node does not answer";
        assert_eq!(bench.run(query(&json!({}))).await.result, Err(GanetiError::exec(text)));
    }
}
