//! The configuration's one owner. Readers take a snapshot; a writer gets a [`Draft`] of it under a lock held for the closure
//! only, and what it changed is made durable before [`ConfigStore::commit`] returns. A draft whose closure fails is dropped.
//!
//! Serial numbers and times of changed objects are kept here and nowhere else. What running jobs have set aside
//! (addresses, ports, names, placements) is kept beside the snapshot in [`Reservations`] and ends with the job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use model::config::{Cluster, Config, Disk, Filter, Instance, Network, Node, NodeGroup};
use model::error::Result;
use model::name::{JobId, Uuid};
use tokio::sync::watch;

use crate::env::Env;

/// A configuration object that a commit wrote or removed, for the store.
#[derive(Clone, Debug)]
pub enum Change {
    Cluster(Arc<Cluster>),
    PutNode(Arc<Node>),
    DropNode(Uuid),
    PutGroup(Arc<NodeGroup>),
    DropGroup(Uuid),
    PutInstance(Arc<Instance>),
    DropInstance(Uuid),
    PutDisk(Arc<Disk>),
    DropDisk(Uuid),
    PutNetwork(Arc<Network>),
    DropNetwork(Uuid),
    PutFilter(Arc<Filter>),
    DropFilter(Uuid),
}

#[cfg(test)]
impl Change {
    /// Makes the change in a configuration; an instance's index follows when the instance itself is put.
    pub(crate) fn apply(&self, config: &mut Config) {
        match self {
            Self::Cluster(object) => config.cluster = object.clone(),
            Self::PutNode(object) => config.put_node(object.clone()),
            Self::DropNode(uuid) => config.drop_node(uuid),
            Self::PutGroup(object) => config.put_group(object.clone()),
            Self::DropGroup(uuid) => config.drop_group(uuid),
            Self::PutInstance(object) => config.put_instance(object.clone()),
            Self::DropInstance(uuid) => config.drop_instance(uuid),
            Self::PutDisk(object) => config.put_disk(object.clone(), None),
            Self::DropDisk(uuid) => {
                config.disks.remove(uuid);
            }
            Self::PutNetwork(object) => config.put_network(object.clone()),
            Self::DropNetwork(uuid) => config.drop_network(uuid),
            Self::PutFilter(object) => {
                config.filters.insert(object.uuid.clone(), object.clone());
            }
            Self::DropFilter(uuid) => {
                config.filters.remove(uuid);
            }
        }
    }
}

/// Where commits go. They arrive in the order in which they were made.
pub trait Journal: Send + Sync + 'static {
    /// Hands a commit over; cheap, and called in the order of commits. The answer resolves once it is durable.
    fn write(&self, changes: Vec<Change>) -> Durable;

    /// Whether a commit could be made durable, as far as is known.
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// Resolves once a commit is durable.
pub type Durable = futures::future::BoxFuture<'static, Result<()>>;

/// What a running job has set aside.
#[derive(Clone, Debug, Default)]
pub struct Reserved {
    pub macs: BTreeSet<String>,
    /// Network UUID and offset.
    pub ips: BTreeSet<(Uuid, u32)>,
    pub ports: BTreeSet<u16>,
    /// drbd minors: node and number.
    pub minors: BTreeSet<(Uuid, u64)>,
    /// Instances that are being created: what they will take, by instance name.
    pub placements: BTreeMap<String, Placement>,
}

/// What an instance that is being created will take from its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub nodes: Vec<Uuid>,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub vcpus: u64,
    pub spindle_use: u64,
}

/// What all running jobs have set aside.
#[derive(Clone, Debug, Default)]
pub struct Reservations(BTreeMap<JobId, Reserved>);

impl Reservations {
    /// A job's own, made if it had none.
    pub fn of(&mut self, job: JobId) -> &mut Reserved {
        self.0.entry(job).or_default()
    }

    pub fn has_mac(&self, mac: &str) -> bool {
        self.0.values().any(|reserved| reserved.macs.contains(mac))
    }

    pub fn has_ip(&self, network: &Uuid, offset: u32) -> bool {
        self.0.values().any(|reserved| reserved.ips.contains(&(network.clone(), offset)))
    }

    pub fn has_port(&self, port: u16) -> bool {
        self.0.values().any(|reserved| reserved.ports.contains(&port))
    }

    pub fn has_minor(&self, node: &Uuid, minor: u64) -> bool {
        self.0.values().any(|reserved| reserved.minors.contains(&(node.clone(), minor)))
    }

    /// Every placement that is under way.
    pub fn placements(&self) -> impl Iterator<Item = (&String, &Placement)> {
        self.0.values().flat_map(|reserved| &reserved.placements)
    }
}

struct Inner {
    config: Arc<Config>,
    reservations: Reservations,
}

/// The owner of the configuration.
pub struct ConfigStore {
    inner: Mutex<Inner>,
    journal: Arc<dyn Journal>,
    env: Arc<Env>,
    /// The newest version, for those who keep something in step.
    version: watch::Sender<u64>,
}

impl ConfigStore {
    pub fn new(config: Config, journal: Arc<dyn Journal>, env: Arc<Env>) -> Self {
        let version = watch::Sender::new(config.version);
        let inner = Inner { config: Arc::new(config), reservations: Reservations::default() };
        Self { inner: Mutex::new(inner), journal, env, version }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A closure that panicked left its draft behind and the snapshot as it was.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Config> {
        self.lock().config.clone()
    }

    /// Tells whenever there is a newer snapshot.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes the configuration. The closure sees the newest one; when it succeeds its changes become the next snapshot, and
    /// are durable when this returns.
    pub async fn commit<T>(&self, change: impl FnOnce(&mut Draft<'_>) -> Result<T>) -> Result<T> {
        let (value, durable) = self.apply(change)?;
        durable.await?;
        Ok(value)
    }

    /// Changes the configuration without waiting for it to be durable: for the last change of a job, whose end is written
    /// after it and so is never durable without it.
    pub fn commit_last<T>(&self, change: impl FnOnce(&mut Draft<'_>) -> Result<T>) -> Result<T> {
        self.apply(change).map(|(value, _)| value)
    }

    fn apply<T>(&self, change: impl FnOnce(&mut Draft<'_>) -> Result<T>) -> Result<(T, Durable)> {
        self.journal.check()?;
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut draft = Draft {
            config: Config::clone(&inner.config),
            reservations: &mut inner.reservations,
            changes: Vec::new(),
            now: self.env.now_seconds(),
            env: &self.env,
        };
        let value = change(&mut draft)?;
        let Draft { mut config, changes, .. } = draft;
        if changes.is_empty() {
            return Ok((value, Box::pin(async { Ok(()) })));
        }
        config.version += 1;
        self.version.send_replace(config.version);
        inner.config = Arc::new(config);
        // Under the lock, so that the journal sees commits in their order.
        Ok((value, self.journal.write(changes)))
    }

    /// Sets something aside for a job, judged on the newest snapshot. Nothing is written.
    pub fn reserve<T>(
        &self,
        set_aside: impl FnOnce(&Config, &mut Reservations) -> Result<T>,
    ) -> Result<T> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        set_aside(&inner.config, &mut inner.reservations)
    }

    /// A look at what is set aside.
    pub fn reservations(&self) -> Reservations {
        self.lock().reservations.clone()
    }

    /// Ends what a job has set aside.
    pub fn release(&self, job: JobId) {
        self.lock().reservations.0.remove(&job);
    }
}

/// A configuration being changed. Reading goes through `Deref`; each writing method keeps serial numbers, times, indexes and
/// the list of changes.
pub struct Draft<'a> {
    config: Config,
    pub reservations: &'a mut Reservations,
    changes: Vec<Change>,
    now: f64,
    env: &'a Env,
}

impl std::ops::Deref for Draft<'_> {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

/// One method per noun: changes an object that is there, or puts a new one.
macro_rules! draft_methods {
    ($($edit:ident $put:ident $drop:ident $map:ident $Object:ident $put_config:ident $drop_config:ident $Put:ident $Drop:ident;)*) => {
        impl Draft<'_> {$(
            /// Changes the object of that UUID and notes the change; `None` when there is none.
            pub fn $edit<T>(&mut self, uuid: &Uuid, edit: impl FnOnce(&mut $Object) -> T) -> Option<T> {
                let mut object = $Object::clone(self.config.$map.get(uuid)?);
                let value = edit(&mut object);
                object.meta.touch(self.now);
                let object = Arc::new(object);
                self.config.$put_config(object.clone());
                self.changes.push(Change::$Put(object));
                Some(value)
            }

            /// Puts an object, new (its serial number stays 1) or in place of an older one.
            pub fn $put(&mut self, object: $Object) {
                let object = Arc::new(object);
                self.config.$put_config(object.clone());
                self.changes.push(Change::$Put(object));
            }

            /// Takes an object out.
            pub fn $drop(&mut self, uuid: &Uuid) {
                self.config.$drop_config(uuid);
                self.changes.push(Change::$Drop(uuid.clone()));
            }
        )*}
    };
}

draft_methods! {
    edit_node put_node drop_node nodes Node put_node drop_node PutNode DropNode;
    edit_group put_group drop_group groups NodeGroup put_group drop_group PutGroup DropGroup;
    edit_instance put_instance drop_instance instances Instance put_instance drop_instance PutInstance DropInstance;
    edit_network put_network drop_network networks Network put_network drop_network PutNetwork DropNetwork;
}

impl Draft<'_> {
    /// The time of this commit, in seconds since the epoch.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Randomness and new identifiers.
    pub fn env(&self) -> &Env {
        self.env
    }

    /// Changes the cluster's settings and notes the change.
    pub fn edit_cluster<T>(&mut self, edit: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = Cluster::clone(&self.config.cluster);
        let value = edit(&mut cluster);
        cluster.meta.touch(self.now);
        self.config.cluster = Arc::new(cluster);
        self.changes.push(Change::Cluster(self.config.cluster.clone()));
        value
    }

    /// Gives an instance another primary node. Ganeti: this counts as no change of the instance (3.0,
    /// `SetInstancePrimaryNode`).
    pub fn move_instance(&mut self, uuid: &Uuid, primary: Uuid) {
        let Some(instance) = self.config.instances.get(uuid) else { return };
        let mut instance = Instance::clone(instance);
        instance.primary_node = primary;
        self.put_instance(instance);
    }

    /// Gives an instance another name. Ganeti: this counts as no change of the instance (3.0, `RenameInstance`).
    pub fn rename_instance(&mut self, uuid: &Uuid, name: &str) {
        let Some(instance) = self.config.instances.get(uuid) else { return };
        let mut instance = Instance::clone(instance);
        name.clone_into(&mut instance.name);
        self.put_instance(instance);
    }

    /// Notes that a child of the cluster was added or removed.
    pub fn touch_cluster(&mut self) {
        self.edit_cluster(|_| ());
    }

    /// Changes the addresses that are in use in a network. Ganeti: its serial number does not count this (3.0, seen in
    /// transcripts).
    pub fn mark_addresses(&mut self, uuid: &Uuid, mark: impl FnOnce(&mut Network)) {
        let Some(network) = self.config.networks.get(uuid) else { return };
        let mut network = Network::clone(network);
        mark(&mut network);
        self.put_network(network);
    }

    /// Puts a disk; `owner` is the instance that has it already.
    pub fn put_disk(&mut self, disk: Disk, owner: Option<&Uuid>) {
        let disk = Arc::new(disk);
        self.config.put_disk(disk.clone(), owner);
        self.changes.push(Change::PutDisk(disk));
    }

    /// Changes a disk of an instance and notes the change; `None` when there is none.
    pub fn edit_disk<T>(
        &mut self,
        uuid: &Uuid,
        owner: &Uuid,
        edit: impl FnOnce(&mut Disk) -> T,
    ) -> Option<T> {
        let mut disk = Disk::clone(self.config.disks.get(uuid)?);
        let value = edit(&mut disk);
        disk.meta.touch(self.now);
        self.put_disk(disk, Some(owner));
        Some(value)
    }

    /// Takes a disk out; take it out of its instance before.
    pub fn drop_disk(&mut self, uuid: &Uuid) {
        self.config.disks.remove(uuid);
        self.changes.push(Change::DropDisk(uuid.clone()));
    }

    pub fn put_filter(&mut self, filter: Filter) {
        let filter = Arc::new(filter);
        self.config.filters.insert(filter.uuid.clone(), filter.clone());
        self.changes.push(Change::PutFilter(filter));
    }

    pub fn drop_filter(&mut self, uuid: &Uuid) {
        self.config.filters.remove(uuid);
        self.changes.push(Change::DropFilter(uuid.clone()));
    }
}

/// A journal that forgets: for tests of what does not need a store.
pub struct Forgetful;

impl Journal for Forgetful {
    fn write(&self, _changes: Vec<Change>) -> Durable {
        Box::pin(async { Ok(()) })
    }
}
