//! The nodes of the cluster as objects that can be asked: by UUID, in step with the configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock};

use model::config::Config;
use model::name::Uuid;
use model::param::{DiskTemplate, StorageType};
use node::fake::{World, WorldSetup};
use node::local::{LocalNode, LocalOptions};
use node::{Node, NodeState};

use crate::engine::Options;
use crate::lu::shared_checks::storage_type_of;

/// The nodes that can be asked. Filled when the engine starts; a cluster keeps its nodes.
#[derive(Default)]
pub(crate) struct Nodes {
    by_uuid: RwLock<HashMap<Uuid, Arc<dyn Node>>>,
    /// What simulated nodes share, and the directory that their setup speaks of.
    world: OnceLock<(Arc<World>, PathBuf)>,
}

impl Nodes {
    pub(crate) fn insert(&self, uuid: Uuid, node: Arc<dyn Node>) {
        self.by_uuid.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(uuid, node);
    }

    pub(crate) fn get(&self, uuid: &Uuid) -> Option<Arc<dyn Node>> {
        self.by_uuid.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(uuid).cloned()
    }

    /// What is known about a node now.
    pub(crate) fn state(&self, uuid: &Uuid) -> Option<Arc<NodeState>> {
        self.get(uuid).map(|node| node.state())
    }
}

impl Nodes {
    /// The simulated node of that name, to be made to fail.
    #[cfg(test)]
    pub(crate) fn simulated(&self, name: &str) -> Option<Arc<node::FakeNode>> {
        self.world.get().map(|(world, _)| world.node(name))
    }

    /// Sets simulated nodes up as the cluster's settings are now: other directories, another volume group. A real node reads
    /// them when it is opened.
    pub(crate) fn follow(&self, config: &Config) {
        if let Some((world, data_dir)) = self.world.get() {
            world.configure(world_setup(config, data_dir));
        }
    }
}

/// Opens the nodes of a cluster: simulated ones keep what runs on them in the data directory.
pub(crate) async fn open(nodes: &Nodes, config: &Config, options: &Options) -> node::Result<()> {
    let data_dir = options.data_dir.as_path();
    if config.cluster.simulated {
        let world = World::open(&data_dir.join("nodes"), world_setup(config, data_dir))
            .map_err(|error| node::NodeError::Failed(format!("the simulated nodes: {error}")))?;
        for node in config.nodes.values() {
            nodes.insert(node.meta.uuid.clone(), world.node(&node.name));
        }
        // Nodes are opened once; a second world would be the same.
        nodes.world.get_or_init(|| (world, data_dir.to_owned()));
    } else {
        for node in config.nodes.values() {
            let mut settings = local_options(config, data_dir, &node.name);
            settings.limit_instances = options.limit_instances;
            let local = LocalNode::open(settings).await?;
            for (hypervisor, why) in local.missing_hypervisors() {
                tracing::warn!(
                    "{hypervisor} is enabled and not there, its instances cannot run: {why}"
                );
            }
            nodes.insert(node.meta.uuid.clone(), Arc::new(local));
        }
    }
    Ok(())
}

/// Where the real node keeps its things: as the cluster says.
fn local_options(config: &Config, data_dir: &Path, name: &str) -> LocalOptions {
    let cluster = &config.cluster;
    let mut options = LocalOptions::new(name, data_dir);
    let paths = |paths: &[String], options: &mut Vec<PathBuf>| {
        for path in paths.iter().map(PathBuf::from) {
            if !options.contains(&path) {
                options.push(path);
            }
        }
    };
    paths(&cluster.os_search_path, &mut options.os_search_path);
    paths(&cluster.iallocator_search_path, &mut options.iallocator_search_path);
    options.file_storage_dir = data_dir.join(&cluster.file_storage_dir);
    options.shared_file_storage_dir = data_dir.join(&cluster.shared_file_storage_dir);
    let types = cluster.enabled_disk_templates.iter().map(|one| storage_type_of(*one));
    options.storage_types = types.collect();
    options.hypervisors = cluster.enabled_hypervisors.clone();
    options
}

/// How the simulated nodes of a cluster are set up: storage by its templates, its directories.
fn world_setup(config: &Config, data_dir: &Path) -> WorldSetup {
    let cluster = &config.cluster;
    let mut storage = Vec::new();
    for template in &cluster.enabled_disk_templates {
        let unit = match template {
            DiskTemplate::Plain | DiskTemplate::Drbd => {
                cluster.volume_group_name.clone().map(|group| (StorageType::LvmVg, group))
            }
            DiskTemplate::File => Some((StorageType::File, cluster.file_storage_dir.clone())),
            DiskTemplate::Sharedfile => {
                Some((StorageType::Sharedfile, cluster.shared_file_storage_dir.clone()))
            }
            DiskTemplate::Gluster => {
                Some((StorageType::Gluster, cluster.gluster_storage_dir.clone()))
            }
            DiskTemplate::Blockdev
            | DiskTemplate::Diskless
            | DiskTemplate::Ext
            | DiskTemplate::Rbd => None,
        };
        storage.extend(unit.filter(|unit| !storage.contains(unit)));
    }
    let paths = |paths: &[String]| paths.iter().map(PathBuf::from).collect();
    WorldSetup {
        storage,
        os_search_path: paths(&cluster.os_search_path),
        iallocator_search_path: paths(&cluster.iallocator_search_path),
        hooks_dir: Some(data_dir.join("hooks")),
        ..WorldSetup::default()
    }
}
