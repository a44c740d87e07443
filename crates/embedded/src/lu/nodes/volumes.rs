//! `OP_NODE_QUERYVOLS`: the logical volumes of nodes, as far as instances have them.

use model::config::{Config, Disk, Node};
use model::error::{GanetiError, Result};
use model::opcode::NodeQueryvols;
use model::param::{DiskTemplate, NonEmpty, StorageType};
use model::python;
use model::units::natural_cmp;
use node::{NodeError, VolumeRow};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::lu::{Cx, Level, Locks, LogicalUnit, expand};

const FIELDS: &[&str] = &["node", "phys", "vg", "name", "size", "instance"];

fn wanted(op: &NodeQueryvols, config: &Config) -> Result<Vec<Arc<Node>>> {
    let mut nodes: Vec<Arc<Node>> = if op.nodes.is_empty() {
        config.nodes.values().cloned().collect()
    } else {
        let node = |name: &NonEmpty| expand::node(config, name, None).cloned();
        op.nodes.iter().map(node).collect::<Result<_>>()?
    };
    nodes.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    Ok(nodes)
}

/// The volumes of a disk: itself, or what it is made of.
fn volumes(disk: &Disk) -> Vec<&Disk> {
    if disk.dev_type == DiskTemplate::Plain {
        return vec![disk];
    }
    disk.children.iter().flat_map(volumes).collect()
}

/// The volumes of a node, each with the instance that it belongs to.
async fn rows_of(
    cx: &Cx,
    config: &Config,
    node: &Node,
) -> Result<Vec<(VolumeRow, String)>, NodeError> {
    let uuid = &node.meta.uuid;
    let asked = cx.node(uuid).await?;
    let mut owned = Vec::new();
    for instance in config.primaries(uuid).chain(config.secondaries(uuid)) {
        for disk in config.instance_disks(instance) {
            let part = |volume: &Disk, at: usize| {
                volume.logical_id.get(at).map(python::str).unwrap_or_default()
            };
            let row = |volume: &Disk| VolumeRow {
                group: part(volume, 0),
                name: part(volume, 1),
                size_mib: volume.size_mib,
                device: String::new(),
            };
            owned.extend(volumes(&disk).into_iter().map(|one| (row(one), instance.name.clone())));
        }
    }
    if let Some(mut found) = asked.volumes().await? {
        found.sort_by(|a, b| a.device.cmp(&b.device));
        let owner = |row: &VolumeRow| {
            let same = |(own, _): &&(VolumeRow, String)| {
                (&own.group, &own.name) == (&row.group, &row.name)
            };
            owned.iter().find(same).map_or_else(|| "-".to_owned(), |(_, name)| name.clone())
        };
        return Ok(found.into_iter().map(|row| (row.clone(), owner(&row))).collect());
    }
    // A simulated node's volumes are those that it should have, on the first device that it has for them.
    let units = asked.storage_list(StorageType::LvmPv, &[]).await?;
    let device = units.first().map_or_else(|| "-".to_owned(), |unit| unit.name.clone());
    for (row, _) in &mut owned {
        row.device.clone_from(&device);
    }
    Ok(owned)
}

fn cells(op: &NodeQueryvols, node: &str, (row, instance): &(VolumeRow, String)) -> Value {
    let cell = |field: &NonEmpty| match field.as_str() {
        "node" => json!(node),
        "phys" => json!(row.device),
        "vg" => json!(row.group),
        "name" => json!(row.name),
        "size" => json!(row.size_mib.to_string()),
        "instance" => json!(instance),
        _ => Value::Null,
    };
    op.output_fields.iter().map(cell).collect()
}

impl LogicalUnit for NodeQueryvols {
    type Plan = Vec<Arc<Node>>;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        let given = self.output_fields.iter().map(NonEmpty::as_str);
        let unknown: Vec<&str> = given.filter(|field| !FIELDS.contains(field)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let text = format!("Unknown output fields selected: {}", unknown.join(","));
        Err(GanetiError::wrong_input(text))
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let nodes = wanted(self, config)?;
        Ok(nodes
            .iter()
            .fold(Locks::new(), |locks, node| locks.shared(Level::Node, &node.meta.uuid)))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Vec<Arc<Node>>> {
        wanted(self, &cx.config())
    }

    async fn exec(&self, cx: &Cx, nodes: Vec<Arc<Node>>) -> Result<Value> {
        let config = cx.config();
        let mut rows = Vec::new();
        for node in nodes.iter().filter(|node| !node.offline) {
            match rows_of(cx, &config, node).await {
                Ok(found) => rows.extend(found.iter().map(|row| cells(self, &node.name, row))),
                Err(NodeError::Unsupported(_)) => {}
                Err(error) => {
                    cx.warn(&format!("Can't compute volume data on node {}: {error}", node.name));
                }
            }
        }
        Ok(Value::Array(rows))
    }
}
