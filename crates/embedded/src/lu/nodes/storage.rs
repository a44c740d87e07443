//! `OP_NODE_QUERY_STORAGE`, `OP_NODE_MODIFY_STORAGE` and `OP_REPAIR_NODE_STORAGE`.

use model::config::{Cluster, Config};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::{NodeModifyStorage, NodeQueryStorage, RepairNodeStorage};
use model::param::{NonEmpty, StorageType};
use model::python;
use model::units::natural_cmp;
use node::{NodeError, StorageRow};
use serde_json::{Value, json};

use crate::lu::instance::nodes_of;
use crate::lu::shared_checks::{environment, storage_type_enabled, storage_type_of};
use crate::lu::{Cx, Level, Locks, LogicalUnit, expand};
use crate::spec;

/// What can be asked of a storage unit.
const FIELDS: &[&str] = &["allocatable", "free", "name", "node", "size", "type", "used"];

/// The types that nodes report on, as Ganeti lists them.
const REPORTED: &[StorageType] = &[
    StorageType::Sharedfile,
    StorageType::File,
    StorageType::LvmPv,
    StorageType::LvmVg,
    StorageType::Gluster,
];

/// The state of a disk's local data that means that it is lost.
const DISK_FAULTY: u8 = 3;

/// The directory of a file-based storage type: nodes report on this one.
fn directories(cluster: &Cluster, storage_type: StorageType) -> Vec<String> {
    match storage_type {
        StorageType::File => vec![cluster.file_storage_dir.clone()],
        StorageType::Sharedfile => vec![cluster.shared_file_storage_dir.clone()],
        StorageType::Gluster => vec![cluster.gluster_storage_dir.clone()],
        StorageType::Blockdev
        | StorageType::Diskless
        | StorageType::Ext
        | StorageType::LvmPv
        | StorageType::LvmVg
        | StorageType::Rados => Vec::new(),
    }
}

// Listing

/// The nodes that are asked; none named means all.
fn wanted(op: &NodeQueryStorage, config: &Config) -> Result<Vec<Uuid>> {
    if op.nodes.is_empty() {
        return Ok(config.nodes.keys().cloned().collect());
    }
    let expand = |name: &NonEmpty| expand::node(config, name, None).map(|n| n.meta.uuid.clone());
    op.nodes.iter().map(expand).collect()
}

impl LogicalUnit for NodeQueryStorage {
    type Plan = StorageType;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        let unknown: Vec<&str> = self
            .output_fields
            .iter()
            .map(NonEmpty::as_str)
            .filter(|field| !FIELDS.contains(field))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let text = format!("Unknown output fields selected: {}", unknown.join(","));
        Err(GanetiError::wrong_input(text))
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = Locks::new();
        for uuid in wanted(self, config)? {
            locks = locks.shared(Level::Node, &uuid);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<StorageType> {
        let config = cx.config();
        if let Some(storage_type) = self.storage_type {
            storage_type_enabled(&config, storage_type)?;
            return Ok(storage_type);
        }
        let default = config.cluster.enabled_disk_templates.first().copied();
        let default = default.map_or(StorageType::Diskless, storage_type_of);
        if REPORTED.contains(&default) {
            return Ok(default);
        }
        let names: Vec<&str> = REPORTED.iter().map(|one| one.as_str()).collect();
        Err(GanetiError::prereq_plain(format!(
            "Storage reporting for storage type '{default}' is not supported. Please use the --storage-type option to \
             specify one of the supported storage types ({}) or set the default disk template to one that supports \
             storage reporting.",
            names.join(", ")
        )))
    }

    async fn exec(&self, cx: &Cx, storage_type: StorageType) -> Result<Value> {
        let config = cx.config();
        let names: Vec<String> = match &self.name {
            Some(name) => vec![name.to_string()],
            None => directories(&config.cluster, storage_type),
        };
        let mut nodes: Vec<_> = wanted(self, &config)?
            .into_iter()
            .filter_map(|uuid| config.nodes.get(&uuid))
            .filter(|node| !node.offline)
            .collect();
        nodes.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        let mut result = Vec::new();
        for node in nodes {
            let listed = match cx.node(&node.meta.uuid).await {
                Ok(asked) => asked.storage_list(storage_type, &names).await,
                Err(error) => Err(error),
            };
            let mut rows = match listed {
                Ok(rows) => rows,
                Err(error) => {
                    let name = &node.name;
                    cx.warn(&format!("Can't get storage data from node {name}: {error}"));
                    continue;
                }
            };
            rows.sort_by(|a, b| natural_cmp(&a.name, &b.name));
            for row in rows {
                let cell = |field: &NonEmpty| cell(field, &node.name, &row);
                result.push(Value::Array(self.output_fields.iter().map(cell).collect()));
            }
        }
        Ok(Value::Array(result))
    }
}

fn cell(field: &str, node: &str, row: &StorageRow) -> Value {
    match field {
        "node" => json!(node),
        "type" => json!(row.kind.as_str()),
        "name" => json!(row.name),
        "size" => json!(row.size_mib),
        "used" => json!(row.used_mib),
        "free" => json!(row.free_mib),
        "allocatable" => json!(row.allocatable),
        _ => Value::Null,
    }
}

// Changing

/// What of a type's units can be changed.
fn modifiable(storage_type: StorageType) -> Option<&'static [&'static str]> {
    (storage_type == StorageType::LvmPv).then_some(&["allocatable"])
}

impl LogicalUnit for NodeModifyStorage {
    type Plan = Uuid;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        expand::node(&cx.config(), &self.node_name, self.node_uuid.as_deref())?;
        let storage_type = self.storage_type;
        let fields = modifiable(storage_type).ok_or_else(|| {
            let text = format!("Storage units of type '{storage_type}' can not be modified");
            GanetiError::wrong_input(text)
        })?;
        let unknown: Value =
            self.changes.keys().filter(|key| !fields.contains(&key.as_str())).cloned().collect();
        if unknown.as_array().is_some_and(|list| !list.is_empty()) {
            return Err(GanetiError::wrong_input(format!(
                "The following fields can not be modified for storage units of type '{storage_type}': {}",
                python::repr(&unknown)
            )));
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let node = expand::node(config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(Locks::new().exclusive(Level::Node, &node.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        storage_type_enabled(&config, self.storage_type)?;
        let node = expand::node(&config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(node.meta.uuid.clone())
    }

    async fn exec(&self, cx: &Cx, uuid: Uuid) -> Result<Value> {
        let name = self.name.as_ref().map_or("None", NonEmpty::as_str);
        let done = match cx.node(&uuid).await {
            Ok(node) => node.storage_modify(self.storage_type, name, &self.changes).await,
            Err(error) => Err(error),
        };
        done.map(|()| Value::Null).map_err(|error| {
            let node = cx.config().node_name(&uuid).to_owned();
            GanetiError::exec(format!("Failed to modify storage unit '{name}' on {node}: {error}"))
        })
    }
}

// Repairing

/// Refuses while a mirror that the node is part of lost its data on another node: repairing could take the last copy.
async fn check_faulty(op: &RepairNodeStorage, cx: &Cx, node: &Uuid) -> Result<()> {
    let config = cx.config();
    for instance in config.primaries(node).chain(config.secondaries(node)) {
        if !instance.disks_active {
            continue;
        }
        for other in nodes_of(&config, instance).into_iter().filter(|other| other != node) {
            let name = config.node_name(&other);
            let mut faulty = false;
            for disk in config.instance_disks(instance) {
                let told = spec::disk(&config, instance, &disk);
                let status = match cx.node(&other).await {
                    Ok(asked) => asked.disk_status(&told).await,
                    Err(error) => Err(error),
                };
                let status = status.map_err(|error: NodeError| {
                    environment(format!("Failed to get disk status from node {name}: {error}"))
                });
                match status {
                    Ok(status) => faulty |= status.is_some_and(|s| s.ldisk_status == DISK_FAULTY),
                    Err(error) if op.ignore_consistency => {
                        cx.warn(error.args.first().and_then(Value::as_str).unwrap_or_default());
                    }
                    Err(error) => return Err(error),
                }
            }
            if faulty {
                let text =
                    format!("Instance '{}' has faulty disks on node '{name}'", instance.name);
                if !op.ignore_consistency {
                    return Err(GanetiError::wrong_state(text));
                }
                cx.warn(&text);
            }
        }
    }
    Ok(())
}

impl LogicalUnit for RepairNodeStorage {
    type Plan = Uuid;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        expand::node(&cx.config(), &self.node_name, self.node_uuid.as_deref())?;
        if self.storage_type == StorageType::LvmVg {
            return Ok(());
        }
        let text = format!("Storage units of type '{}' can not be repaired", self.storage_type);
        Err(GanetiError::wrong_input(text))
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let node = expand::node(config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(Locks::new().exclusive(Level::Node, &node.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        storage_type_enabled(&config, self.storage_type)?;
        let node = expand::node(&config, &self.node_name, self.node_uuid.as_deref())?;
        check_faulty(self, cx, &node.meta.uuid).await?;
        Ok(node.meta.uuid.clone())
    }

    async fn exec(&self, cx: &Cx, uuid: Uuid) -> Result<Value> {
        let name = self.name.as_ref().map_or("None", NonEmpty::as_str);
        let node_name = cx.config().node_name(&uuid).to_owned();
        cx.log(&format!("Repairing storage unit '{name}' on {node_name} ..."));
        let done = match cx.node(&uuid).await {
            Ok(node) => node.storage_repair(self.storage_type, name).await,
            Err(error) => Err(error),
        };
        done.map(|()| Value::Null).map_err(|error| {
            let text = format!("Failed to repair storage unit '{name}' on {node_name}: {error}");
            GanetiError::exec(text)
        })
    }
}
