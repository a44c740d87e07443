//! `OP_NODE_QUERYVOLS`: the logical volumes of nodes, as far as instances have them. `OP_EXT_STORAGE_DIAGNOSE`: the providers of
//! external storage, of which nodes here have none.

use model::config::{Config, Disk, Node};
use model::error::{GanetiError, Result};
use model::opcode::{ExtStorageDiagnose, NodeQueryvols};
use model::param::{DiskTemplate, NonEmpty, StorageType};
use model::python;
use model::units::natural_cmp;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::lu::{Cx, Level, Locks, LogicalUnit, expand};

const FIELDS: &[&str] = &["node", "phys", "vg", "name", "size", "instance"];
/// Ganeti 3.0, `query.py`, `_BuildExtStorageFields`.
const PROVIDER_FIELDS: &[&str] = &["name", "node_status", "nodegroup_status", "parameters"];

/// Refuses fields that are not known.
fn check_fields(given: &[NonEmpty], known: &[&str], separator: &str) -> Result<()> {
    let given = given.iter().map(NonEmpty::as_str);
    let unknown: Vec<&str> = given.filter(|field| !known.contains(field)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let text = format!("Unknown output fields selected: {}", unknown.join(separator));
    Err(GanetiError::wrong_input(text))
}

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

impl LogicalUnit for NodeQueryvols {
    type Plan = Vec<Arc<Node>>;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        check_fields(&self.output_fields, FIELDS, ",")
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
            let units = match cx.node(&node.meta.uuid).await {
                Ok(asked) => asked.storage_list(StorageType::LvmPv, &[]).await,
                Err(error) => Err(error),
            };
            // Volumes lie on the first device that the node has for them.
            let device = match units {
                Ok(units) => units.first().map(|unit| unit.name.clone()),
                Err(node::NodeError::Unsupported(_)) => continue,
                Err(error) => {
                    cx.warn(&format!("Can't compute volume data on node {}: {error}", node.name));
                    continue;
                }
            };
            let uuid = &node.meta.uuid;
            for instance in config.primaries(uuid).chain(config.secondaries(uuid)) {
                for disk in config.instance_disks(instance) {
                    for volume in volumes(&disk) {
                        let cell = |field: &NonEmpty| match field.as_str() {
                            "node" => json!(node.name),
                            "phys" => json!(device.as_deref().unwrap_or("-")),
                            "vg" => json!(volume.logical_id.first().map(python::str)),
                            "name" => json!(volume.logical_id.get(1).map(python::str)),
                            "size" => json!(volume.size_mib.to_string()),
                            "instance" => json!(instance.name),
                            _ => Value::Null,
                        };
                        rows.push(self.output_fields.iter().map(cell).collect::<Value>());
                    }
                }
            }
        }
        Ok(Value::Array(rows))
    }
}

impl LogicalUnit for ExtStorageDiagnose {
    type Plan = ();

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        check_fields(&self.output_fields, PROVIDER_FIELDS, ", ")
    }

    async fn exec(&self, _cx: &Cx, _plan: ()) -> Result<Value> {
        Ok(json!([]))
    }
}
