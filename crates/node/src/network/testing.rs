//! An instance with one NIC, for tests of plans.

use model::name::Uuid;
use model::param::{Dict, Hypervisor};

use crate::spec::{InstanceSpec, NetworkSpec, NicSpec};

pub(super) fn instance(mode: &str, link: &str) -> InstanceSpec {
    InstanceSpec {
        name: "web.example.com".into(),
        uuid: Uuid::new("11111111-2222-4333-8444-555555555555"),
        ctime: 0.0,
        mtime: 0.0,
        tags: vec![],
        primary_node: "node1".into(),
        secondary_nodes: vec![],
        os: "tiny".into(),
        hypervisor: Hypervisor::Kvm,
        hvparams: Dict::new(),
        beparams: Dict::new(),
        osparams: Dict::new(),
        nics: vec![NicSpec {
            uuid: Uuid::new("a1c00000-0000-4000-8000-000000000000"),
            name: None,
            mac: "aa:00:00:12:34:56".into(),
            ip: Some("192.0.2.10".into()),
            mode: mode.into(),
            link: link.into(),
            vlan: String::new(),
            network: None,
        }],
        disks: vec![],
        network_port: None,
    }
}

pub(super) fn network(tags: &[&str]) -> NetworkSpec {
    NetworkSpec {
        uuid: Uuid::new("0e700000-0000-4000-8000-000000000000"),
        name: "lab".into(),
        subnet: "192.0.2.0/24".into(),
        gateway: Some("192.0.2.1".into()),
        subnet6: Some("2001:db8:1::/64".into()),
        gateway6: None,
        mac_prefix: None,
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}
