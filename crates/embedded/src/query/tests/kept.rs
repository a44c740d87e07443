//! Lists that are kept: the same allocations while nothing changed, the right rows whatever changed.

use std::sync::Arc;

use model::config::{Cluster, Instance};
use model::param::AdminState;
use model::query::{Item, Row};
use proptest::prelude::*;
use serde_json::json;

use super::{World, disk, instance, run, uuid};

/// What of a list was kept.
fn same(a: &[Row], b: &[Row]) -> Vec<bool> {
    a.iter().zip(b).map(|(a, b)| Arc::ptr_eq(a, b)).collect()
}

#[test]
fn rows_are_kept_until_they_change() {
    let mut world = World::new();
    let fields = ["name", "status", "disk.sizes", "tags", "nic.networks.names"];
    let first = world.list(Item::Instance, &fields);
    assert_eq!(same(&first, &world.list(Item::Instance, &fields)), [true, true]);

    world.edit_instance("params1", |instance| {
        instance.tags.insert("new".into());
    });
    let second = world.list(Item::Instance, &fields);
    assert_eq!(same(&first, &second), [false, true]);

    world.edit_state("node1", |state| state.memory_free_mib -= 1);
    assert_eq!(same(&second, &world.list(Item::Instance, &fields)), [true, true]);
    world.edit_state("node1", |state| state.instances.clear());
    let third = world.list(Item::Instance, &fields);
    assert_eq!(same(&second, &third), [false, true]);
    assert_eq!(third[0][1], "ERROR_down");

    world.config.put_disk(Arc::new(disk("disk0", 32, None)), Some(&uuid("params10")));
    let fourth = world.list(Item::Instance, &fields);
    assert_eq!(same(&third, &fourth), [true, false]);
    assert_eq!(fourth[1][2], json!([32, 20]));

    let mut cluster = Cluster::clone(&world.config.cluster);
    cluster.meta.touch(2000.0);
    world.config.cluster = Arc::new(cluster);
    assert_eq!(same(&fourth, &world.list(Item::Instance, &fields)), [true, true]);

    let nodes = world.list(Item::Node, &["name", "mfree"]);
    world.edit_state("node2", |state| state.memory_free_mib = 1);
    assert_eq!(same(&nodes, &world.list(Item::Node, &["name", "mfree"])), [true, false, true]);
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize, bool),
    Drop(usize),
    Rename(usize, usize),
    Tag(usize),
    Disk(usize, u64),
    Run(usize, usize, bool),
    Reach(usize, bool),
    Offline(usize, bool),
    Ask,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12usize, 0..3usize, any::<bool>()).prop_map(|(i, n, up)| Step::Put(i, n, up)),
        1 => (0..12usize).prop_map(Step::Drop),
        1 => (0..12usize, 0..12usize).prop_map(|(a, b)| Step::Rename(a, b)),
        1 => (0..12usize).prop_map(Step::Tag),
        2 => (0..12usize, 1..4u64).prop_map(|(i, size)| Step::Disk(i, size)),
        1 => (0..12usize, 0..3usize, any::<bool>()).prop_map(|(i, n, on)| Step::Run(i, n, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(n, on)| Step::Reach(n, on)),
        1 => (0..3usize, any::<bool>()).prop_map(|(n, on)| Step::Offline(n, on)),
        3 => Just(Step::Ask),
    ]
}

const NODES: [&str; 3] = ["node1", "node2", "node10"];

fn apply(world: &mut World, step: &Step) {
    let name = |index: &usize| format!("i{index}");
    match step {
        Step::Put(i, n, up) => {
            let admin = if *up { AdminState::Up } else { AdminState::Down };
            let new = instance(&name(i), NODES[*n], admin);
            // A name that another took by renaming stays with it.
            let owner = world.config.index.instance_by_name.get(&new.name);
            if owner.is_none_or(|owner| *owner == new.meta.uuid) {
                world.config.put_instance(Arc::new(new));
            }
        }
        Step::Drop(i) => world.config.drop_instance(&uuid(&name(i))),
        Step::Rename(a, b) => {
            let (a, b) = (uuid(&name(a)), uuid(&name(b)));
            let (Some(one), Some(other)) =
                (world.config.instances.get(&a), world.config.instances.get(&b))
            else {
                return;
            };
            // They swap names.
            let (mut one, mut other) = (Instance::clone(one), Instance::clone(other));
            if a != b {
                std::mem::swap(&mut one.name, &mut other.name);
                world.config.drop_instance(&a);
                world.config.drop_instance(&b);
                world.config.put_instance(Arc::new(one));
                world.config.put_instance(Arc::new(other));
            }
        }
        Step::Tag(i) => {
            if world.config.instances.contains_key(&uuid(&name(i))) {
                world.edit_instance(&name(i), |instance| {
                    instance.tags.insert("tag".into());
                });
            }
        }
        Step::Disk(i, size) => {
            let (owner, name) = (uuid(&name(i)), format!("disk-i{i}"));
            let has =
                world.config.instances.get(&owner).map(|one| one.disks.contains(&uuid(&name)));
            let new = Arc::new(disk(&name, *size, None));
            match has {
                Some(true) => world.config.put_disk(new, Some(&owner)),
                Some(false) => {
                    world.config.put_disk(new, None);
                    world.edit_instance(owner.as_str(), |one| one.disks.push(uuid(&name)));
                }
                None => {}
            }
        }
        Step::Run(i, n, on) => {
            let full = format!("{}.gnt.example", name(i));
            world.edit_state(NODES[*n], |state| {
                if *on {
                    state.instances.insert(full, run(128));
                } else {
                    state.instances.remove(&full);
                }
            });
        }
        Step::Reach(n, on) => world.edit_state(NODES[*n], |state| state.reachable = *on),
        Step::Offline(n, on) => world.edit_node(NODES[*n], |node| node.offline = *on),
        Step::Ask => {}
    }
}

proptest! {
    #[test]
    fn kept_lists_equal_fresh_ones(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        let fields = ["name", "status", "tags", "oper_ram", "pnode", "disk.sizes", "uuid"];
        for step in &steps {
            apply(&mut world, step);
            if matches!(step, Step::Ask) {
                prop_assert_eq!(world.list(Item::Instance, &fields), world.fresh(Item::Instance, &fields));
                prop_assert_eq!(world.list(Item::Node, &["name", "pinst_list", "mfree"]),
                                world.fresh(Item::Node, &["name", "pinst_list", "mfree"]));
            }
        }
        prop_assert_eq!(world.list(Item::Instance, &fields), world.fresh(Item::Instance, &fields));
    }
}
