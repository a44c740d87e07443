//! The classic lists, kept between requests. A client that polls `/2/instances?bulk=1` pays for what changed since anybody
//! last asked for the same fields, not for the list.
//!
//! A list remembers what it was computed from: the configuration's maps, which share their structure from snapshot to
//! snapshot, and the nodes' states. As long as these are the same allocations, it is the answer. Otherwise the instances
//! that differ are found by comparing the maps where they do not share, and only their rows are computed anew; a row that
//! comes out the same stays the same allocation. What all instances share (cluster parameters, node and network names) is
//! compared by value, since it is small and its objects change for many other reasons.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ::node::{InstanceRun, NodeState};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use model::compat::Compat;
use model::config::{Config, Disk, Instance};
use model::error::Result;
use model::name::Uuid;
use model::query::{Item, Row};
use model::units::natural_cmp;

use super::field::{Field, Reads, plain_row};
use super::{Live, group, instance, lookup, network, node};

/// How many different lists (kinds of object and fields) are kept; the one unused longest makes room.
const LISTS_MAX: usize = 16;

/// The lists that are kept.
#[derive(Default)]
pub(super) struct Lists(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Counts requests, to know which list was used last.
    clock: u64,
    instances: Vec<Kept<InstanceList>>,
    others: Vec<Kept<SmallList>>,
}

/// A list, whose it is, and when it was used.
struct Kept<T> {
    item: Item,
    fields: Vec<String>,
    used: u64,
    list: T,
}

/// The list of that kind and fields, made if it is not there.
fn kept<'a, T>(
    lists: &'a mut Vec<Kept<T>>,
    clock: u64,
    item: Item,
    fields: &[&str],
    make: impl FnOnce() -> Result<T>,
) -> Result<&'a mut T> {
    let found = lists.iter().position(|kept| kept.item == item && kept.fields == fields);
    let at = match found {
        Some(at) => at,
        None => {
            let list = make()?;
            if lists.len() >= LISTS_MAX {
                let oldest = (0..lists.len()).min_by_key(|at| lists[*at].used).unwrap_or(0);
                lists.swap_remove(oldest);
            }
            let fields = fields.iter().map(|name| (*name).to_owned()).collect();
            lists.push(Kept { item, fields, used: clock, list });
            lists.len() - 1
        }
    };
    lists[at].used = clock;
    Ok(&mut lists[at].list)
}

impl Lists {
    /// A whole list.
    pub(super) fn all(&self, live: &Live<'_>, item: Item, fields: &[&str]) -> Result<Vec<Row>> {
        // Held while rows are computed: two requests for the same list would do the same work.
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        if item == Item::Instance {
            let make = || InstanceList::new(fields);
            let list = kept(&mut inner.instances, clock, item, fields, make)?;
            list.refresh(live);
            return Ok(list.rows.clone());
        }
        let make = || SmallList::new(item, fields);
        let list = kept(&mut inner.others, clock, item, fields, make)?;
        list.refresh(live, item, fields)?;
        Ok(list.rows.iter().map(|(_, row)| row.clone()).collect())
    }

    /// All instances in natural order.
    pub(super) fn instances(&self, live: &Live<'_>) -> Vec<Arc<Instance>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clock += 1;
        let clock = inner.clock;
        let make = || InstanceList::new(&[]);
        match kept(&mut inner.instances, clock, Item::Instance, &[], make) {
            Ok(list) => {
                list.refresh(live);
                list.instances.clone()
            }
            // No fields, so none is unknown.
            Err(_) => Vec::new(),
        }
    }
}

/// A node, and its state if it answers.
type NodeSeen = (Uuid, Option<Arc<NodeState>>);

/// What a list was computed from.
struct Sources {
    compat: Compat,
    config: Config,
    /// In the order of the configuration's nodes; empty for a list that does not read them.
    states: Vec<NodeSeen>,
}

impl Sources {
    fn of(live: &Live<'_>, reads_live: bool) -> Self {
        let state = |uuid: &Uuid| (uuid.clone(), live.state(uuid));
        let states =
            if reads_live { live.config.nodes.keys().map(state).collect() } else { Vec::new() };
        Self { compat: live.compat, config: live.config.clone(), states }
    }

    fn same_states(&self, other: &Self) -> bool {
        let same =
            |(a, b): (&NodeSeen, &NodeSeen)| a.0 == b.0 && same_state(a.1.as_ref(), b.1.as_ref());
        self.states.len() == other.states.len() && self.states.iter().zip(&other.states).all(same)
    }

    fn same(&self, other: &Self) -> bool {
        self.compat == other.compat
            && same_shared_objects(&self.config, &other.config)
            && self.config.instances.ptr_eq(&other.config.instances)
            && self.config.disks.ptr_eq(&other.config.disks)
            && self.same_states(other)
    }
}

fn same_state(a: Option<&Arc<NodeState>>, b: Option<&Arc<NodeState>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn same_shared_objects(a: &Config, b: &Config) -> bool {
    Arc::ptr_eq(&a.cluster, &b.cluster)
        && a.nodes.ptr_eq(&b.nodes)
        && a.groups.ptr_eq(&b.groups)
        && a.networks.ptr_eq(&b.networks)
}

/// Whether what instances show of objects that they share is the same.
fn same_shared(a: &Config, b: &Config) -> bool {
    let params = Arc::ptr_eq(&a.cluster, &b.cluster)
        || (a.cluster.hvparams == b.cluster.hvparams
            && a.cluster.os_hvp == b.cluster.os_hvp
            && a.cluster.beparams == b.cluster.beparams
            && a.cluster.nicparams == b.cluster.nicparams
            && a.cluster.osparams == b.cluster.osparams
            && a.cluster.enabled_user_shutdown == b.cluster.enabled_user_shutdown);
    params
        && same_by(&a.nodes, &b.nodes, |a, b| {
            (&a.name, &a.group, a.offline) == (&b.name, &b.group, b.offline)
        })
        && same_by(&a.groups, &b.groups, |a, b| a.name == b.name)
        && same_by(&a.networks, &b.networks, |a, b| a.name == b.name)
}

fn same_by<T>(
    a: &OrdMap<Uuid, Arc<T>>,
    b: &OrdMap<Uuid, Arc<T>>,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    a.ptr_eq(b)
        || (a.len() == b.len()
            && a.iter().zip(b.iter()).all(|((key_a, a), (key_b, b))| {
                key_a == key_b && (Arc::ptr_eq(a, b) || same(a, b))
            }))
}

type Instances = OrdMap<Uuid, Arc<Instance>>;
type Disks = OrdMap<Uuid, Arc<Disk>>;

/// A list of all instances.
struct InstanceList {
    fields: Vec<&'static Field<instance::Instances>>,
    reads: Reads,
    reads_disks: bool,
    sources: Option<Sources>,
    /// In natural order.
    instances: Vec<Arc<Instance>>,
    /// Beside the instances.
    rows: Vec<Row>,
    /// Disk to instance; empty for a list that does not read disks.
    owners: HashMap<Uuid, Uuid>,
}

impl InstanceList {
    fn new(fields: &[&str]) -> Result<Self> {
        let fields = instance::table().select(fields)?;
        let reads = fields.iter().map(|field| field.reads).max().unwrap_or(Reads::Config);
        let reads_disks = fields.iter().any(|field| field.reads == Reads::Disks);
        let sources = None;
        let (instances, rows) = (Vec::new(), Vec::new());
        Ok(Self { fields, reads, reads_disks, sources, instances, rows, owners: HashMap::new() })
    }

    fn refresh(&mut self, live: &Live<'_>) {
        let sources = Sources::of(live, self.reads >= Reads::Live);
        match self.sources.take() {
            // What a node says changes without a sign.
            Some(_) | None if self.reads == Reads::Node => self.rebuild(live),
            Some(old) if old.same(&sources) => {}
            Some(old)
                if old.compat == sources.compat
                    && (same_shared_objects(&old.config, &sources.config)
                        || same_shared(&old.config, &sources.config)) =>
            {
                self.update(live, &old, &sources);
            }
            Some(_) | None => self.rebuild(live),
        }
        self.sources = Some(sources);
    }

    fn row(&self, live: &Live<'_>, instance: &Instance) -> Row {
        plain_row(&self.fields, &instance::Cx::new(live, instance))
    }

    fn rebuild(&mut self, live: &Live<'_>) {
        let uuids = self.instances.iter().map(|instance| instance.meta.uuid.clone());
        let old: HashMap<Uuid, Row> = uuids.zip(std::mem::take(&mut self.rows)).collect();
        self.instances = live.config.instances.values().cloned().collect();
        self.instances.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        let rows = self.instances.iter().map(|instance| {
            let row = self.row(live, instance);
            old.get(&instance.meta.uuid).filter(|old| **old == row).cloned().unwrap_or(row)
        });
        self.rows = rows.collect();
        self.owners.clear();
        for instance in self.instances.clone() {
            self.own_disks(&instance);
        }
    }

    fn own_disks(&mut self, instance: &Instance) {
        if self.reads_disks {
            let owned =
                instance.disks.iter().map(|disk| (disk.clone(), instance.meta.uuid.clone()));
            self.owners.extend(owned);
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.instances.binary_search_by(|instance| natural_cmp(&instance.name, name))
    }

    /// Brings the list from one state of things to the next.
    fn update(&mut self, live: &Live<'_>, old: &Sources, new: &Sources) {
        if !old.config.instances.ptr_eq(&new.config.instances) {
            self.update_instances(live, &old.config.instances, &new.config.instances);
        }
        if self.reads_disks && !old.config.disks.ptr_eq(&new.config.disks) {
            self.update_disks(live, &old.config.disks, &new.config.disks);
        }
        for ((uuid, before), (_, after)) in old.states.iter().zip(&new.states) {
            if !same_state(before.as_ref(), after.as_ref()) {
                self.update_runs(live, uuid, before.as_deref(), after.as_deref());
            }
        }
    }

    /// Takes out what is gone or renamed, computes anew what changed, puts in what is new or renamed; in this order, since
    /// names can change hands.
    fn update_instances(&mut self, live: &Live<'_>, before: &Instances, after: &Instances) {
        let mut changed: Vec<&Arc<Instance>> = Vec::new();
        let mut added: Vec<&Arc<Instance>> = Vec::new();
        for item in before.diff(after) {
            let gone = match item {
                DiffItem::Add(_, new) => {
                    added.push(new);
                    continue;
                }
                DiffItem::Update { old: (_, old), new: (_, new) } if old.name == new.name => {
                    changed.push(new);
                    continue;
                }
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    added.push(new);
                    old
                }
                DiffItem::Remove(_, old) => old,
            };
            if let Ok(at) = self.find(&gone.name) {
                self.instances.remove(at);
                self.rows.remove(at);
            }
            for disk in &gone.disks {
                self.owners.remove(disk);
            }
        }
        for instance in changed {
            if let Ok(at) = self.find(&instance.name) {
                self.instances[at] = instance.clone();
                self.recompute(live, at);
            }
            self.own_disks(instance);
        }
        for instance in added {
            let (Ok(at) | Err(at)) = self.find(&instance.name);
            let row = self.row(live, instance);
            self.instances.insert(at, instance.clone());
            self.rows.insert(at, row);
            self.own_disks(instance);
        }
    }

    fn recompute(&mut self, live: &Live<'_>, at: usize) {
        let row = self.row(live, &self.instances[at]);
        if *self.rows[at] != *row {
            self.rows[at] = row;
        }
    }

    fn update_disks(&mut self, live: &Live<'_>, before: &Disks, after: &Disks) {
        for item in before.diff(after) {
            let (DiffItem::Add(disk, _)
            | DiffItem::Remove(disk, _)
            | DiffItem::Update { new: (disk, _), .. }) = item;
            let owner = self.owners.get(disk).and_then(|owner| live.config.instances.get(owner));
            if let Some(Ok(at)) = owner.map(|owner| self.find(&owner.name)) {
                self.recompute(live, at);
            }
        }
    }

    /// Looks at the instances whose running differs between two states of a node, wherever they should run.
    fn update_runs(
        &mut self,
        live: &Live<'_>,
        node: &Uuid,
        before: Option<&NodeState>,
        after: Option<&NodeState>,
    ) {
        let nothing = OrdMap::new();
        let runs_before = before.map_or(&nothing, |state| &state.instances);
        let runs_after = after.map_or(&nothing, |state| &state.instances);
        for item in runs_before.diff(runs_after) {
            let name = match item {
                DiffItem::Update { old: (_, old), new: (_, new) } if same_run(old, new) => continue,
                DiffItem::Update { new: (name, _), .. } => name,
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
            };
            if let Ok(at) = self.find(name) {
                self.recompute(live, at);
            }
        }
        if before.is_some() != after.is_some() {
            for at in 0..self.instances.len() {
                if self.instances[at].primary_node == *node {
                    self.recompute(live, at);
                }
            }
        }
    }
}

/// Whether two runs show the same.
fn same_run(a: &InstanceRun, b: &InstanceRun) -> bool {
    (a.state, a.memory_mib, a.vcpus) == (b.state, b.memory_mib, b.vcpus)
}

/// A list of nodes, groups or networks: few, so that any change computes them all.
struct SmallList {
    reads_live: bool,
    sources: Option<Sources>,
    rows: Vec<(Uuid, Row)>,
}

impl SmallList {
    fn new(item: Item, fields: &[&str]) -> Result<Self> {
        let reads_live = match item {
            Item::Node => {
                node::table().select(fields)?.iter().any(|field| field.reads == Reads::Live)
            }
            Item::Instance | Item::Group | Item::Network => false,
        };
        Ok(Self { reads_live, sources: None, rows: Vec::new() })
    }

    fn refresh(&mut self, live: &Live<'_>, item: Item, fields: &[&str]) -> Result<()> {
        let sources = Sources::of(live, self.reads_live);
        if self.sources.as_ref().is_some_and(|old| old.same(&sources)) {
            return Ok(());
        }
        let mut rows: Vec<(Uuid, Row)> = match item {
            Item::Instance => Vec::new(),
            Item::Node => {
                let fields = node::table().select(fields)?;
                let row = |item: &_| plain_row(&fields, &node::Cx::new(live, item));
                let items = lookup::all_nodes(live.config);
                items.iter().map(|item| (item.meta.uuid.clone(), row(item))).collect()
            }
            Item::Group => {
                let fields = group::table().select(fields)?;
                let row = |item: &_| plain_row(&fields, &group::Cx::new(live, item));
                let items = lookup::all_groups(live.config);
                items.iter().map(|item| (item.meta.uuid.clone(), row(item))).collect()
            }
            Item::Network => {
                let fields = network::table().select(fields)?;
                let row = |item: &_| plain_row(&fields, &network::Cx::new(live, item));
                let items = lookup::all_networks(live.config);
                items.iter().map(|item| (item.meta.uuid.clone(), row(item))).collect()
            }
        };
        let old: HashMap<&Uuid, &Row> = self.rows.iter().map(|(uuid, row)| (uuid, row)).collect();
        for (uuid, row) in &mut rows {
            if let Some(same) = old.get(uuid).filter(|old| ***old == *row) {
                *row = (*same).clone();
            }
        }
        self.rows = rows;
        self.sources = Some(sources);
        Ok(())
    }
}
