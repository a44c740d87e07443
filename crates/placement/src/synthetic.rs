//! Clusters made up from a seed, for benchmarks and tests.

use crate::group::Group;
use crate::instance::{AdminState, Disk, DiskTemplate, Instance};
use crate::node::{Node, NodeParams};
use crate::picture::{Allocation, Picture};

/// The UUID of the one group of [`synthetic_cluster`].
pub const GROUP_UUID: &str = "00000000-0000-4000-8000-000000000001";

/// A small generator (`xorshift*`): the same seed gives the same cluster on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        let value = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit;
        usize::try_from(value).unwrap_or(0)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// One group of `nodes` nodes of a few kinds with `instances` drbd instances spread over them; a tenth of them stopped.
pub fn synthetic_cluster(nodes: usize, instances: usize, seed: u64) -> Picture {
    let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1);
    let mut picture = Picture {
        cluster_name: "cluster.example.com".to_owned(),
        enabled_hypervisors: vec!["fake".to_owned()],
        groups: vec![Group {
            uuid: GROUP_UUID.to_owned(),
            name: "default".to_owned(),
            ..Group::default()
        }],
        ..Picture::default()
    };
    for number in 1..=nodes {
        let memory = dice.one_of(&[65_536, 131_072, 262_144]);
        let disk = dice.one_of(&[2_000_000, 4_000_000]);
        picture.nodes.push(Node {
            uuid: format!("00000000-0000-4000-8000-1{number:011}"),
            name: format!("node{number}.example.com"),
            group: GROUP_UUID.to_owned(),
            master_capable: true,
            vm_capable: true,
            params: NodeParams { spindle_count: 4, ..NodeParams::default() },
            memory_total_mib: memory,
            memory_reserved_mib: 1024,
            memory_free_mib: memory - 1024,
            disk_total_mib: disk,
            disk_free_mib: disk,
            cpus_total: dice.one_of(&[32, 64]),
            cpus_reserved: 1,
            ..Node::default()
        });
    }
    if nodes < 2 {
        return picture;
    }
    for number in 1..=instances {
        let primary = dice.below(nodes);
        let secondary = (primary + 1 + dice.below(nodes - 1)) % nodes;
        let memory = dice.one_of(&[512, 1024, 2048, 4096]);
        let state = if dice.below(10) == 0 { AdminState::Down } else { AdminState::Up };
        let size = dice.one_of(&[5_120, 10_240, 20_480]);
        let disk = Disk { size_mib: size, mode: "rw".to_owned(), spindles: None };
        for node in [primary, secondary] {
            picture.nodes[node].disk_free_mib -= DiskTemplate::Drbd.space_mib(size);
        }
        if state == AdminState::Up {
            picture.nodes[primary].memory_free_mib -= memory;
        }
        picture.instances.push(Instance {
            name: format!("instance{number}.example.com"),
            uuid: format!("00000000-0000-4000-8000-2{number:011}"),
            admin_state: state,
            memory_mib: memory,
            vcpus: dice.one_of(&[1, 2, 4]),
            spindle_use: 1,
            disk_template: DiskTemplate::Drbd,
            disks: vec![disk],
            disks_active: state == AdminState::Up,
            primary: picture.nodes[primary].name.clone(),
            secondary: Some(picture.nodes[secondary].name.clone()),
            auto_balance: true,
            ..Instance::default()
        });
    }
    picture
}

/// A drbd instance to place on such a cluster.
pub fn synthetic_allocation() -> Allocation {
    Allocation {
        name: "new.example.com".to_owned(),
        disk_template: DiskTemplate::Drbd,
        memory_mib: 2048,
        vcpus: 2,
        spindle_use: 1,
        disks: vec![Disk { size_mib: 10_240, mode: "rw".to_owned(), spindles: None }],
        ..Allocation::default()
    }
}
