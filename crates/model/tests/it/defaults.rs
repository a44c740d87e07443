//! The parameters' defaults: as snapshots per release, and beside what Ganeti 3.0.2 answered on `/2/info`.

use model::compat::Compat;
use model::config::{Cluster, Meta};
use model::name::Uuid;
use model::param::{Dict, DiskTemplate, Hypervisor};
use model::params::{be, disk, hv, ipolicy, nd, nic};
use serde_json::{Value, json};

/// A cluster such as the one that the recorded answer comes from was at the start.
fn cluster() -> Cluster {
    Cluster::new(
        Meta::new(Uuid::new("cluster"), 0.0),
        "cluster.gnt.example",
        Uuid::new("node1"),
        "10.77.0.1",
        vec![Hypervisor::Fake, Hypervisor::Kvm],
        vec![DiskTemplate::Diskless, DiskTemplate::File, DiskTemplate::Sharedfile],
    )
}

fn all(compat: Compat) -> Value {
    let hvparams: Dict = Hypervisor::ALL
        .iter()
        .map(|hypervisor| {
            (hypervisor.as_str().to_owned(), Value::Object(hv::defaults(*hypervisor, compat)))
        })
        .collect();
    json!({
        "hvparams": hvparams,
        "beparams": be::defaults(),
        "nicparams": nic::defaults(),
        "ndparams": nd::defaults(),
        "diskparams": disk::defaults(),
        "ipolicy": ipolicy::defaults(),
    })
}

#[test]
fn defaults_of_3_0() {
    insta::assert_json_snapshot!(all(Compat::V30));
}

#[test]
fn defaults_of_3_1() {
    insta::assert_json_snapshot!(all(Compat::V31));
}

#[test]
fn filled_as_ganeti_3_0_2_answered() {
    let recorded: Value =
        serde_json::from_str(include_str!("../fixtures/info-3.0.2.json")).unwrap();
    let mut cluster = cluster();
    let set = |value: Value| value.as_object().cloned().unwrap();
    // What that cluster was made with.
    cluster.hvparams = set(json!({
        "kvm": {"kernel_path": "", "serial_console": false, "vnc_bind_address": "127.0.0.1"},
        "xen-hvm": {"vnc_password_file": recorded["hvparams"]["xen-hvm"]["vnc_password_file"]},
    }));
    cluster.nicparams = set(json!({"default": {"link": "gnt0"}}));
    let bounds = &recorded["ipolicy"]["minmax"];
    cluster.ipolicy.insert("minmax".to_owned(), bounds.clone());

    assert_eq!(Value::Object(hv::fill_all(&cluster, Compat::V30)), recorded["hvparams"]);
    assert_eq!(Value::Object(be::fill(&cluster, &Dict::new())), recorded["beparams"]["default"]);
    assert_eq!(Value::Object(nic::fill(&cluster, &Dict::new())), recorded["nicparams"]["default"]);
    assert_eq!(Value::Object(nd::fill_cluster(&cluster)), recorded["ndparams"]);
    assert_eq!(Value::Object(disk::fill(&cluster, None)), recorded["diskparams"]);
    let mut policy = ipolicy::fill_cluster(&cluster);
    let mut expected = recorded["ipolicy"].clone();
    // Sets: their order means nothing.
    for policy in [&mut policy, expected.as_object_mut().unwrap()] {
        let templates = policy["disk-templates"].as_array_mut().unwrap();
        templates.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    assert_eq!(Value::Object(policy), expected);

    let simple = [
        ("candidate_pool_size", json!(cluster.candidate_pool_size)),
        ("max_running_jobs", json!(cluster.max_running_jobs)),
        ("max_tracked_jobs", json!(cluster.max_tracked_jobs)),
        ("mac_prefix", json!(cluster.mac_prefix)),
        ("default_iallocator", json!(cluster.default_iallocator)),
        ("compression_tools", json!(cluster.compression_tools)),
        ("volume_group_name", json!(cluster.volume_group_name)),
        ("ssh_key_type", json!(cluster.ssh_key_type)),
    ];
    for (name, value) in simple {
        assert_eq!(value, recorded[name], "{name}");
    }
}
