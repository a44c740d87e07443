//! The cluster's settings: what changes, what is said, each refusal.

use std::sync::Arc;

use model::error::GanetiError;
use model::param::{DiskTemplate, Hypervisor};
use node::{NodeError, Verb, World, WorldSetup};
use serde_json::{Value, json};

use crate::lu::testing::{Bench, Outcome};

const ID: &str = "OP_CLUSTER_SET_PARAMS";

/// A cluster with simulated nodes, whose own policy allows what it has enabled.
async fn bench(nodes: usize) -> (Bench, Arc<World>) {
    let bench = Bench::new(nodes);
    let world = bench.world.clone();
    edit(&bench, |cluster| {
        let mut policy = model::params::ipolicy::defaults();
        let enabled = &cluster.enabled_disk_templates;
        model::params::cluster::restrict_templates(&mut policy, enabled);
        cluster.ipolicy = policy;
        let collector = json!({"active": true, "interval": 5_000_000});
        cluster.data_collectors.insert("drbd".into(), collector);
    })
    .await;
    (bench, world)
}

async fn edit(bench: &Bench, edit: impl FnOnce(&mut model::config::Cluster)) {
    let change = bench.shared.config.commit(|draft| {
        draft.edit_cluster(edit);
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
}

async fn run(bench: &Bench, mut params: Value) -> Outcome {
    params["OP_ID"] = json!(ID);
    bench.run(params).await
}

/// Changes settings, and expects this to be said.
async fn sets(bench: &Bench, params: Value, log: &[&str]) {
    let outcome = run(bench, params.clone()).await;
    assert_eq!(outcome.result, Ok(Value::Null), "{params}");
    assert_eq!(outcome.log, log, "{params}");
}

async fn refuses(bench: &Bench, params: Value, class: &str, args: Value) {
    let error = run(bench, params.clone()).await.result.unwrap_err();
    assert_eq!(error.to_value(), json!([class, args]), "{params}");
}

async fn wrong(bench: &Bench, params: Value, text: &str) {
    refuses(bench, params, "OpPrereqError", json!([text, "wrong_input"])).await;
}

#[tokio::test]
async fn parameters_are_laid_over_the_old_ones() {
    let (bench, _world) = bench(1).await;
    sets(&bench, json!({}), &[]).await;
    sets(&bench, json!({"beparams": {"memory": "1g", "vcpus": "2"}}), &[]).await;
    sets(&bench, json!({"ndparams": {"spindle_count": 3}}), &[]).await;
    sets(&bench, json!({"nicparams": {"link": "br1"}}), &[]).await;
    sets(&bench, json!({"hvparams": {"kvm": {"kernel_path": ""}}}), &[]).await;
    sets(&bench, json!({"os_hvp": {"noop": {"kvm": {"acpi": false}}}}), &[]).await;
    let log = [" - INFO: OS gone not found on node node1.example.com, validation skipped"];
    sets(&bench, json!({"osparams": {"gone": {"a": "1", "b": "2"}}}), &log).await;
    sets(&bench, json!({"osparams": {"gone": {"a": "default", "b": null}}}), &[]).await;
    sets(&bench, json!({"diskparams": {"plain": {"stripes": "2"}}}), &[]).await;
    sets(&bench, json!({"ipolicy": {"vcpu-ratio": 2}}), &[]).await;
    sets(&bench, json!({"hv_state": {"kvm": {"cpu_node": 2}}}), &[]).await;
    sets(&bench, json!({"disk_state": {"plain": {"xenvg": {"disk_total": 2}}}}), &[]).await;
    let config = bench.config();
    let cluster = &config.cluster;
    let be = &cluster.beparams["default"];
    assert_eq!(
        (&be["maxmem"], &be["minmem"], &be["vcpus"]),
        (&json!(1024), &json!(1024), &json!(2))
    );
    assert_eq!(cluster.ndparams["spindle_count"], 3);
    assert_eq!(cluster.nicparams["default"], json!({"mode": "bridged", "link": "br1", "vlan": ""}));
    assert_eq!(Value::Object(cluster.hvparams.clone()), json!({"kvm": {"kernel_path": ""}}));
    assert_eq!(Value::Object(cluster.os_hvp.clone()), json!({"noop": {"kvm": {"acpi": false}}}));
    assert!(cluster.osparams.is_empty());
    assert_eq!(cluster.diskparams["plain"], json!({"stripes": 2}));
    assert_eq!(cluster.ipolicy["vcpu-ratio"], 2);
    assert_eq!(cluster.hv_state_static["kvm"], json!({"cpu_node": 2}));
    sets(&bench, json!({"os_hvp": {"noop": {"kvm": null}}}), &[]).await;
    assert!(bench.config().cluster.os_hvp.is_empty());
}

#[tokio::test]
async fn settings_are_replaced() {
    let (bench, _world) = bench(1).await;
    let change = json!({
        "max_running_jobs": 5, "max_tracked_jobs": 6, "maintain_node_health": true, "mac_prefix": "AA:01:02",
        "reserved_lvs": ["x"], "enabled_user_shutdown": true, "prealloc_wipe_disks": true,
        "default_iallocator": "hail", "default_iallocator_params": {"a": 1}, "modify_etc_hosts": false,
        "use_external_mip_script": true, "enabled_hypervisors": ["kvm", "fake"], "zeroing_image": "/z",
        "install_image": "http://x/y", "compression_tools": ["gzip", "lzop"],
        "data_collector_interval": {"drbd": 7}, "enabled_data_collectors": {"drbd": false},
        "hidden_os": [["add", "noop"]], "add_uids": [[5, 6], [1, 2]], "vg_name": "xenvg",
        "file_storage_dir": "/srv/f2",
    });
    let same = "Cluster LVM configuration already in desired state, not changing";
    sets(&bench, change, &[same]).await;
    let config = bench.config();
    let cluster = &config.cluster;
    assert_eq!((cluster.max_running_jobs, cluster.max_tracked_jobs), (5, 6));
    assert_eq!(
        (cluster.mac_prefix.as_str(), cluster.file_storage_dir.as_str()),
        ("aa:01:02", "/srv/f2")
    );
    assert_eq!(cluster.enabled_hypervisors, [Hypervisor::Kvm, Hypervisor::Fake]);
    assert_eq!(cluster.data_collectors["drbd"], json!({"active": false, "interval": 7}));
    assert_eq!(cluster.uid_pool, [(1, 2), (5, 6)]);
    assert_eq!((cluster.hidden_os.len(), cluster.compression_tools.len()), (1, 2));

    sets(
        &bench,
        json!({"hidden_os": [["add", "noop"], ["remove", "x"]], "remove_uids": [[1, 2]]}),
        &[
            "OS noop already in hidden OS list, ignoring",
            "OS x not found in hidden OS list, ignoring",
        ],
    )
    .await;
    sets(
        &bench,
        json!({"file_storage_dir": "/srv/f2", "drbd_helper": "/bin/true", "master_netdev": "eth1", "master_netmask": 24}),
        &[
            "Global file storage dir already set to value '/srv/f2'",
            "Cluster DRBD helper already in desired state, not changing",
            "Shutting down master ip on the current netdev (lo)",
            "Changing master_netdev from lo to eth1",
            "Starting the master ip on the new master netdev (eth1)",
            "Changing master IP netmask to 24",
        ],
    )
    .await;
    let text = "User-id range to be removed is not found in the current user-id pool: (1, 2)";
    wrong(&bench, json!({"remove_uids": [[1, 2]]}), text).await;
    let args = json!(["Invalid modification 'attach'"]);
    refuses(&bench, json!({"hidden_os": [["attach", "x"]]}), "ProgrammerError", args).await;
    refuses(&bench, json!({"enabled_data_collectors": {"x": true}}), "OpExecError", json!(["'x'"]))
        .await;
    let text = json!(["Zeroing image must be an absolute path or a URL"]);
    refuses(&bench, json!({"zeroing_image": "z"}), "OpPrereqError", text).await;
}

#[tokio::test]
async fn arguments_are_checked() {
    let (bench, world) = bench(1).await;
    let text = "Lower user-id range boundary value (3) is larger than higher boundary value (2)";
    wrong(&bench, json!({"uid_pool": [[3, 2]]}), text).await;
    wrong(&bench, json!({"mac_prefix": "aa"}), "Invalid MAC address prefix 'aa'").await;
    wrong(&bench, json!({"master_netmask": 33}), "CIDR netmask (33) not valid").await;
    let text = "While verify diskparams options: ('Provided option keys not supported: plain/protocol', 'wrong_input')";
    wrong(&bench, json!({"diskparams": {"plain": {"protocol": "A"}}}), text).await;
    let text = "While verify diskparams options: Invalid value of 'rbd:access': 'x' (expected one of kernelspace, userspace)";
    wrong(&bench, json!({"diskparams": {"rbd": {"access": "x"}}}), text).await;
    let text = json!(["Install image must be an absolute path or a URL"]);
    refuses(&bench, json!({"install_image": "x"}), "OpPrereqError", text).await;
    let text = "Invalid default iallocator script 'x' specified";
    wrong(&bench, json!({"default_iallocator": "x"}), text).await;
    let text = "The tools 'a b' contain illegal characters: only alphanumeric values, dashes, and underscores are allowed";
    wrong(&bench, json!({"compression_tools": ["a b", "gzip"]}), text).await;
    let text =
        "For compatibility reasons, the gzip utility must be present among the compression tools";
    wrong(&bench, json!({"compression_tools": ["lzop"]}), text).await;
    let text = "none is a reserved value used for no compression, and cannot be used as the name of a tool";
    wrong(&bench, json!({"compression_tools": ["gzip", "none"]}), text).await;
    let text = json!(["Unknown parameter 'x'"]);
    for layer in ["beparams", "ndparams", "nicparams"] {
        let wanted = if layer == "nicparams" { json!({"mode": "x"}) } else { json!({"x": 1}) };
        let error = run(&bench, json!({layer: wanted})).await.result.unwrap_err();
        let class =
            if layer == "nicparams" { "ConfigurationError" } else { "TypeEnforcementError" };
        assert_eq!(error.class.as_str(), class);
    }
    refuses(&bench, json!({"hvparams": {"kvm": {"x": 1}}}), "TypeEnforcementError", text).await;
    let text = json!(["Parameter 'acpi' is not supported"]);
    refuses(&bench, json!({"hvparams": {"fake": {"acpi": true}}}), "HypervisorError", text).await;
    let text = json!(["Unknown hypervisor type 'x'"]);
    refuses(&bench, json!({"hvparams": {"x": {}}}), "HypervisorError", text).await;
    let text = "Invalid key in new ipolicy: x";
    wrong(&bench, json!({"ipolicy": {"x": 1}}), text).await;
    let text = "The following disk templates are allowed by the ipolicy, but not enabled on the cluster: rbd";
    wrong(&bench, json!({"ipolicy": {"disk-templates": ["rbd"]}}), text).await;
    wrong(&bench, json!({"hv_state": {"x": {}}}), "Invalid hypervisor(s) in hypervisor state: x")
        .await;
    wrong(&bench, json!({"disk_state": {"x": {}}}), "Invalid storage type(s) in disk state: x")
        .await;
    let error = NodeError::Failed("no file".into());
    let verb = Verb::ValidateHvparams;
    world.node("node1.example.com").inject(node::Fault { verb, instance: None, times: 1, error });
    let text = json!(["Hypervisor parameter validation failed on node node1.example.com: no file"]);
    refuses(&bench, json!({"hvparams": {"kvm": {"acpi": true}}}), "OpExecError", text).await;
}

#[tokio::test]
async fn templates_and_storage_are_checked() {
    let (bench, _world) = bench(1).await;
    let state = async |params: Value, text: &str| {
        refuses(&bench, params, "OpPrereqError", json!([text, "wrong_state"])).await;
    };
    let text = "Cannot unset volume group if lvm-based disk templates are or get enabled.";
    wrong(&bench, json!({"vg_name": ""}), text).await;
    let text = json!([
        "Error on node 'node1.example.com': volume group 'other' missing",
        "environment_error"
    ]);
    refuses(&bench, json!({"vg_name": "other"}), "OpPrereqError", text).await;
    state(json!({"drbd_helper": ""}), "Cannot disable drbd helper while DRBD is enabled.").await;
    let text = "Unsetting the 'file' storage directory while having 'file' storage enabled is not permitted.";
    wrong(&bench, json!({"file_storage_dir": ""}), text).await;
    let enabled = json!({"enabled_disk_templates": ["file", "diskless"], "ipolicy": {"disk-templates": ["file", "diskless"]},
        "vg_name": "", "drbd_helper": ""});
    sets(
        &bench,
        enabled,
        &["Note that you specified a drbd user helper, but did not enable the drbd disk template."],
    )
    .await;
    let config = bench.config();
    assert_eq!(config.cluster.enabled_disk_templates, [DiskTemplate::File, DiskTemplate::Diskless]);
    assert_eq!(
        (&config.cluster.volume_group_name, &config.cluster.drbd_usermode_helper),
        (&None, &None)
    );
    let warning = " - WARNING: Specified a sharedfile storage directory, although sharedfile storage is not enabled.";
    sets(&bench, json!({"shared_file_storage_dir": "/x"}), &[warning]).await;
    let text = "Please specify a volume group when enabling lvm-based disk-templates.";
    wrong(&bench, json!({"enabled_disk_templates": ["plain", "file", "diskless"]}), text).await;
    let drbd = json!({"enabled_disk_templates": ["drbd", "file", "diskless"], "vg_name": "xenvg"});
    state(drbd, "Cannot enable DRBD without a DRBD usermode helper set.").await;
    let text = "The following disk templates are allowed by the ipolicy, but not enabled on the cluster: diskless";
    wrong(&bench, json!({"enabled_disk_templates": ["file"]}), text).await;

    let node = config.cluster.master_node.clone();
    let instance = json!({
        "uuid": "i1", "serial_no": 1, "ctime": 1.0, "mtime": 1.0, "tags": [], "name": "web1", "primary_node": node,
        "os": "", "hypervisor": "fake", "hvparams": {}, "beparams": {}, "osparams": {}, "osparams_private": {},
        "admin_state": "down", "admin_state_source": "admin",
        "nics": [{"uuid": "n", "name": null, "mac": "aa:00:00:00:00:01", "ip": null, "network": null, "nicparams": {}}],
        "disks": [], "disks_active": false, "network_port": null, "forthcoming": false, "disk_template": "diskless",
    });
    let change = bench.shared.config.commit(|draft| {
        draft.put_instance(serde_json::from_value(instance).unwrap());
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
    let text = "Cannot disable disk template 'diskless', because there is at least one instance using it:\n * web1";
    state(json!({"enabled_disk_templates": ["file"]}), text).await;
    let text =
        "Cannot apply the change, errors:\nInstance web1, nic/0: routed NIC with no ip address";
    wrong(&bench, json!({"nicparams": {"mode": "routed"}}), text).await;
    let pair = json!([{
        "min": {"memory-size": 256, "cpu-count": 1, "disk-count": 1, "disk-size": 1024, "nic-count": 1, "spindle-use": 1},
        "max": {"memory-size": 512, "cpu-count": 8, "disk-count": 16, "disk-size": 1_048_576, "nic-count": 8, "spindle-use": 12},
    }]);
    let std = json!({"memory-size": 256});
    let outcome = run(&bench, json!({"ipolicy": {"minmax": pair, "std": std}})).await;
    assert_eq!(outcome.result, Ok(Value::Null));
    let text = " - WARNING: After the ipolicy change the following instances violate them: web1";
    assert_eq!(outcome.log, [text]);
}

#[tokio::test]
async fn a_larger_pool_promotes() {
    let (bench, _world) = bench(3).await;
    let change = bench.shared.config.commit(|draft| {
        let uuids: Vec<_> = draft.nodes.keys().cloned().collect();
        let master = draft.cluster.master_node.clone();
        for uuid in uuids {
            let is_master = uuid == master;
            draft.edit_node(&uuid, |node| node.master_candidate = is_master);
        }
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
    let outcome = run(&bench, json!({"candidate_pool_size": 3})).await;
    assert_eq!(outcome.result, Ok(Value::Null));
    let text = " - INFO: Promoted nodes to master candidate role: ";
    assert!(outcome.log[0].starts_with(text), "{:?}", outcome.log);
    assert!(bench.config().nodes.values().all(|node| node.master_candidate));
    let log = [" - INFO: Note: more nodes are candidates (3) than desired (1)"];
    sets(&bench, json!({"candidate_pool_size": 1}), &log).await;
}

#[tokio::test]
async fn the_communication_network_is_made_and_connected() {
    let (bench, _world) = bench(1).await;
    let outcome = run(&bench, json!({"instance_communication_network": "com"})).await;
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})));
    let text =
        "Changing instance communication network to 'com', only new instances will be affected.";
    assert_eq!(outcome.log, [text]);
    let summaries: Vec<String> =
        outcome.jobs[0].iter().map(|op| op.summary(model::compat::Compat::V31)).collect();
    assert_eq!(summaries, ["NETWORK_ADD(com)", "NETWORK_CONNECT(com)"]);
    let same = "Instance communication network already is 'com', nothing to do.";
    sets(&bench, json!({"instance_communication_network": "com"}), &[same]).await;
    let off = "Disabling instance communication network, only new instances will be affected.";
    sets(&bench, json!({"instance_communication_network": ""}), &[off]).await;
}

#[tokio::test]
async fn redistribution_counts_as_a_change() {
    let (bench, _world) = bench(1).await;
    let before = bench.config().cluster.meta.serial_no;
    let outcome = bench.run(json!({"OP_ID": "OP_CLUSTER_REDIST_CONF"})).await;
    assert_eq!(outcome.result, Ok(Value::Null));
    assert_eq!(bench.config().cluster.meta.serial_no, before + 1);
}

/// Puts a disk of an instance into the configuration.
async fn put_disk(bench: &Bench, template: &str) {
    let node = bench.config().cluster.master_node.clone();
    let meta = json!({"serial_no": 1, "ctime": 1.0, "mtime": 1.0});
    let with = |rest: Value| {
        let mut object = meta.clone();
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    };
    let disk = with(json!({
        "uuid": "d1", "dev_type": template, "logical_id": ["xenvg", "a"], "children": [], "nodes": [node],
        "iv_name": "disk/0", "size_mib": 64, "mode": "rw", "name": null, "spindles": null, "params": {},
    }));
    let instance = with(json!({
        "uuid": "i1", "tags": [], "name": "web1", "primary_node": node, "os": "", "hypervisor": "fake", "hvparams": {},
        "beparams": {}, "osparams": {}, "osparams_private": {}, "admin_state": "down",
        "admin_state_source": "admin", "nics": [], "disks": ["d1"], "disks_active": false, "network_port": null,
        "forthcoming": false, "disk_template": template,
    }));
    let change = bench.shared.config.commit(|draft| {
        draft.put_disk(serde_json::from_value(disk).unwrap(), None);
        draft.put_instance(serde_json::from_value(instance).unwrap());
        Ok::<_, GanetiError>(())
    });
    change.await.unwrap();
}

#[tokio::test]
async fn templates_in_use_stay() {
    let (bench, world) = bench(1).await;
    put_disk(&bench, "plain").await;
    let enabled = json!({"enabled_disk_templates": ["file", "drbd"]});
    let text = "Cannot disable disk template 'plain', because there is at least one disk using it:\n * \
                <LogicalVolume(/dev/xenvg/a, visible as /disk/0, size=64m)> (on web1)";
    refuses(&bench, enabled, "OpPrereqError", json!([text, "wrong_state"])).await;
    edit(&bench, |cluster| {
        cluster.enabled_disk_templates = vec![DiskTemplate::File];
        cluster.ipolicy.insert("disk-templates".into(), json!(["file"]));
    })
    .await;
    let text = "Cannot disable lvm storage while lvm-based instances exist";
    wrong(&bench, json!({"vg_name": ""}), text).await;
    put_disk(&bench, "drbd").await;
    let text = "Cannot disable drbd helper while drbd-based instances exist";
    wrong(&bench, json!({"drbd_helper": ""}), text).await;
    let mut setup = WorldSetup::clone(&world.setup());
    setup.sizes.disk_mib = 1000;
    setup.storage = vec![(model::param::StorageType::LvmVg, "small".into())];
    let small = World::temporary(setup).unwrap();
    let uuid = bench.config().cluster.master_node.clone();
    bench.shared.nodes.insert(uuid, small.node("node1.example.com"));
    let enable = json!({"enabled_disk_templates": ["file", "plain"], "vg_name": "small"});
    let text = "Error on node 'node1.example.com': volume group 'small' too small (20480 MiB required, 1000 MiB found)";
    refuses(&bench, enable, "OpPrereqError", json!([text, "environment_error"])).await;
}

#[tokio::test]
async fn an_unusual_communication_network_is_warned_of() {
    let (bench, _world) = bench(1).await;
    let add = json!({"OP_ID": "OP_NETWORK_ADD", "network_name": "old", "network": "10.0.0.0/24", "gateway": "10.0.0.1"});
    bench.run(add).await.result.unwrap();
    let outcome = run(&bench, json!({"instance_communication_network": "old"})).await;
    let warning = |what: &str, is: &str, should: &str| {
        format!(
            " - WARNING: Supplied instance communication network 'old' {what} '{is}', this might pose a security risk \
             (default is '{should}')."
        )
    };
    assert_eq!(
        outcome.log,
        [
            warning("has an IPv4 gateway", "10.0.0.1", "None"),
            warning("has a non-standard IPv4 network address", "10.0.0.0/24", "169.254.0.0/16"),
            warning("has a non-standard IPv6 network address", "None", "fe80::/10"),
            warning("has a non-standard MAC prefix", "None", "52:54:00"),
            "Changing instance communication network to 'old', only new instances will be affected.".to_owned(),
        ]
    );
    assert_eq!(outcome.result, Ok(json!({"jobs": [[true, 2]]})));
    let outcome = run(&bench, json!({"instance_communication_network": "new"})).await;
    let text = "Previous instance communication network 'old' should be removed manually.";
    assert_eq!(outcome.log[0], text);
}
