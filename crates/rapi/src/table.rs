//! The route table: the whole remote API. Router, access check, filling, the OpenAPI document, docs/api.md, docs/access.txt
//! and the client read it. A row that only fills an opcode says so; the few that do more name the function that does.

use model::opcode::OpId;
use model::query::Item;

use crate::input::Method::{Delete, Post, Put};
use crate::resources::{cluster, filters, instances, jobs, nodes, query, tags};
use crate::route::Access::{Read, Write};
use crate::route::Action::{Build, Call, List, Show};
use crate::route::{Body, QueryArg, Route, flag, text};

const BULK: QueryArg =
    flag("bulk", "Whether to answer whole objects instead of their names.").read_by_route();
const LOCK: QueryArg =
    flag("lock", "Refused when true: queries take no locks in Ganeti 3.").read_by_route();
const DRY_RUN: QueryArg =
    flag("dry-run", "Whether to check only, and run the pre hooks.").fills("dry_run");
const FORCE: QueryArg = flag("force", "Whether to go on where a check would refuse.");
const NO_REMEMBER: QueryArg =
    flag("no_remember", "Whether the instance's desired state stays as it is.");
const TAG: QueryArg = text("tag", "A tag; to be given once for each.").read_by_route().repeated();
const FIELDS: QueryArg = text("fields", "Names of fields, with commas between.").read_by_route();
const STORAGE_TYPE: QueryArg =
    text("storage_type", "The kind of storage: file, lvm-pv, lvm-vg, …").read_by_route();
const STORAGE_NAME: QueryArg =
    text("name", "The name of the storage unit.").read_by_route().required();

const TAG_LIST: &str = "The tags, a list of texts.";
const NAMES: &str = "A list of `{name, uri}`; with `bulk` a list of whole objects.";
const OBJECT: &str = "The object, with the fields that the bulk list has; 404 when there is none.";

/// All routes, in the order of the manual.
#[rustfmt::skip]
pub static ROUTES: &[Route] = &[
    // The server
    Route::get("/", Call(cluster::root)).since("1.2")
        .doc("Lists the resources below this one.").result("A list of `{name, uri}`.")
        .answering(r#"[{"name": "2", "uri": "/2"}, {"name": "version", "uri": "/version"}]"#),
    Route::get("/2", Call(cluster::root_2))
        .doc("Lists the resources below this one.").result("A list of `{name, uri}`.")
        .answering(r#"[{"name": "features", "uri": "/2/features"}, {"name": "filters", "uri": "/2/filters"}, …]"#),
    Route::get("/version", Call(cluster::version)).since("1.2")
        .doc("Tells the version of the remote API. Monitoring takes any answer for a sign of life.").result("The number 2.")
        .answering("2"),
    Route::get("/2/features", Call(cluster::features)).since("2.1.3")
        .doc("Lists the optional features, by which clients choose the form of their requests.").result("A list of texts.")
        .answering(r#"["instance-create-reqv1", "instance-reinstall-reqv1", "node-migrate-reqv1", "node-evac-res1"]"#),

    // The cluster
    Route::get("/2/info", Call(cluster::info))
        .doc("Shows the cluster: versions, name, master node, and the default parameters of everything.")
        .result("An object; `vg_name` and `drbd_helper` repeat `volume_group_name` and `drbd_usermode_helper`."),
    Route::get("/2/os", Call(cluster::os)).waits()
        .doc("Lists the operating systems that can be installed. A job finds them out; the request waits for it.")
        .result("A list of names, one for each variant: `name+variant`. Hidden, blacklisted and invalid ones are left out.")
        .answering(r#"["debian+minimal", "debian+default", "tiny"]"#),
    Route::put("/2/modify", OpId::ClusterSetParams).since("2.4").params().builds(cluster::modify)
        .sending(r#"{"candidate_pool_size": 5}"#),
    Route::put("/2/redistribute-config", OpId::ClusterRedistConf).since("2.1").params(),
    Route::get("/2/tags", Call(tags::get)).doc("Lists the cluster's tags.").result(TAG_LIST)
        .answering(r#"["env:test", "owner:admins"]"#),
    Route::put("/2/tags", OpId::TagsSet).query(&[TAG, DRY_RUN]).builds(tags::set).body(Body::Own(tags::schema))
        .asking("tag=env:test"),
    Route::delete("/2/tags", OpId::TagsDel).query(&[TAG, DRY_RUN]).builds(tags::delete)
        .asking("tag=env:test"),

    // Instances
    Route::get("/2/instances", List(Item::Instance)).query(&[BULK, LOCK])
        .doc("Lists the instances.").result("A list of `{id, name, uri}`; with `bulk` a list of whole objects.")
        .answering(r#"[{"id": "web1.example.com", "name": "web1.example.com", "uri": "/2/instances/web1.example.com"}]"#),
    Route::post("/2/instances", OpId::InstanceCreate).query(&[DRY_RUN]).builds(instances::create)
        .renamed(&[("os", "os_type"), ("name", "instance_name")])
        .sending(r#"{"__version__": 1, "mode": "create", "instance_name": "web1.example.com", "disk_template": "file", "disks": [{"size": "4g"}], "nics": [{}], "os_type": "debian+default", "beparams": {"maxmem": 512, "minmem": 512}}"#),
    Route::post("/2/instances-multi-alloc", OpId::InstanceMultiAlloc).since("2.7").query(&[DRY_RUN]).params()
        .builds(instances::multi_alloc)
        .sending(r#"{"iallocator": "hail", "instances": [{"mode": "create", "instance_name": "web1.example.com", "disk_template": "drbd", "disks": [{"size": 1024}], "nics": [{}], "os_type": "debian+default"}]}"#),
    Route::get("/2/instances/{instance_name}", Show(Item::Instance)).query(&[LOCK])
        .doc("Shows an instance.").result(OBJECT),
    Route::delete("/2/instances/{instance_name}", OpId::InstanceRemove).query(&[DRY_RUN]).params()
        .builds(instances::remove),
    Route::get("/2/instances/{instance_name}/info", Build(OpId::InstanceQueryData, instances::info)).since("2.1").body(Body::Depends)
        .query(&[flag("static", "Whether to answer from the configuration alone.")]),
    Route::post("/2/instances/{instance_name}/reboot", OpId::InstanceReboot).params()
        .query(&[text("type", "How hard: soft, hard or full.").fills("reboot_type").or("hard"),
                 flag("ignore_secondaries", "Whether to go on when disks fail on secondary nodes."), DRY_RUN])
        .asking("type=soft"),
    Route::put("/2/instances/{instance_name}/startup", OpId::InstanceStartup).query(&[FORCE, DRY_RUN, NO_REMEMBER]),
    Route::put("/2/instances/{instance_name}/shutdown", OpId::InstanceShutdown).query(&[NO_REMEMBER, DRY_RUN]).params()
        .sending(r#"{"timeout": 60}"#),
    Route::writes(Post, "/2/instances/{instance_name}/reinstall", Call(instances::reinstall)).since("2.1")
        .doc("Stops an instance, runs the create scripts of an operating system on its disks again, and starts it.")
        .result("The job's id; its opcodes are `OP_INSTANCE_SHUTDOWN`, `OP_INSTANCE_REINSTALL` and, unless told otherwise, `OP_INSTANCE_STARTUP`.")
        .query(&[text("os", "The operating system; the older form, without a body.").read_by_route(),
                 flag("nostartup", "Whether the instance stays stopped; the older form, without a body.").read_by_route()])
        .body(Body::Own(instances::reinstall_schema)).sending(r#"{"os": "debian+default", "start": true}"#),
    Route::post("/2/instances/{instance_name}/replace-disks", OpId::InstanceReplaceDisks).since("2.1").params()
        .builds(instances::replace_disks)
        .query(&[text("mode", "The older form, without a body: as in the body.").read_by_route(),
                 text("disks", "The older form, without a body: indices with commas between.").read_by_route(),
                 text("remote_node", "The older form, without a body: as in the body.").read_by_route(),
                 text("iallocator", "The older form, without a body: as in the body.").read_by_route()])
        .sending(r#"{"mode": "replace_auto", "disks": [0]}"#),
    Route::put("/2/instances/{instance_name}/activate-disks", OpId::InstanceActivateDisks).since("2.1.3")
        .query(&[flag("ignore_size", "Whether recorded disk sizes are ignored.")]),
    Route::put("/2/instances/{instance_name}/deactivate-disks", OpId::InstanceDeactivateDisks).since("2.1.3").query(&[FORCE]),
    Route::post("/2/instances/{instance_name}/recreate-disks", OpId::InstanceRecreateDisks).since("2.6").params()
        .sending(r#"{"disks": [0], "nodes": ["node1.example.com"]}"#),
    Route::post("/2/instances/{instance_name}/disk/{disk_index}/grow", OpId::InstanceGrowDisk).since("2.4").params()
        .sending(r#"{"amount": 1024}"#),
    Route::put("/2/instances/{instance_name}/prepare-export", OpId::BackupPrepare).since("2.2")
        .query(&[text("mode", "Whether the export stays here: local or remote.").required()]).asking("mode=remote"),
    Route::put("/2/instances/{instance_name}/export", OpId::BackupExport).since("2.2").renamed(&[("destination", "target_node")])
        .sending(r#"{"destination": "node2.example.com", "shutdown": true}"#),
    Route::delete("/2/instances/{instance_name}/export", OpId::BackupRemove).since("3.2").new_in_31().params(),
    Route::put("/2/instances/{instance_name}/migrate", OpId::InstanceMigrate).since("2.2").params()
        .sending(r#"{"mode": "live"}"#),
    Route::put("/2/instances/{instance_name}/failover", OpId::InstanceFailover).since("2.5").params()
        .sending(r#"{"ignore_consistency": false}"#),
    Route::put("/2/instances/{instance_name}/rename", OpId::InstanceRename).since("2.2").params()
        .sending(r#"{"new_name": "web2.example.com"}"#),
    Route::put("/2/instances/{instance_name}/modify", OpId::InstanceSetParams).since("2.2")
        .renamed(&[("custom_beparams", "beparams"), ("custom_hvparams", "hvparams")])
        .builds(instances::modify)
        .sending(r#"{"beparams": {"maxmem": 1024}, "nics": [["add", -1, {"link": "br0"}]]}"#),
    Route::get("/2/instances/{instance_name}/console", Call(instances::console)).since("2.4").access(Read)
        .doc("Tells how to reach an instance's console.").result("An object; which members it has depends on `kind`: ssh, vnc, spice or msg.")
        .answering(r#"{"instance": "web1.example.com", "kind": "vnc", "host": "192.0.2.1", "port": 11000, "display": 5100}"#),
    Route::get("/2/instances/{instance_name}/tags", Call(tags::get)).doc("Lists an instance's tags.").result(TAG_LIST),
    Route::put("/2/instances/{instance_name}/tags", OpId::TagsSet).query(&[TAG, DRY_RUN])
        .builds(tags::set).body(Body::Own(tags::schema)).asking("tag=web&tag=env:test"),
    Route::delete("/2/instances/{instance_name}/tags", OpId::TagsDel).query(&[TAG, DRY_RUN])
        .builds(tags::delete).asking("tag=web"),

    // Nodes
    Route::get("/2/nodes", List(Item::Node)).query(&[BULK])
        .doc("Lists the nodes.").result("A list of `{id, uri}`; with `bulk` a list of whole objects.")
        .answering(r#"[{"id": "node1.example.com", "uri": "/2/nodes/node1.example.com"}]"#),
    Route::get("/2/nodes/{node_name}", Show(Item::Node)).query(&[LOCK]).doc("Shows a node.").result(OBJECT),
    Route::get("/2/nodes/{node_name}/role", Call(nodes::role)).since("2.1").query(&[LOCK])
        .doc("Tells a node's role.").result("One of `master`, `master-candidate`, `drained`, `offline`, `regular`.").answering(r#""regular""#),
    Route::put("/2/nodes/{node_name}/role", OpId::NodeSetParams).since("2.1").builds(nodes::set_role)
        .doc("Gives a node another role.").body(Body::Own(nodes::role_schema))
        .query(&[FORCE, flag("auto-promote", "Whether other nodes are promoted when too few master candidates would remain.").fills("auto_promote")])
        .sending(r#""drained""#),
    Route::post("/2/nodes/{node_name}/powercycle", OpId::NodePowercycle).since("2.6").query(&[FORCE]).params(),
    Route::post("/2/nodes/{node_name}/evacuate", OpId::NodeEvacuate).since("2.1").params()
        .builds(nodes::evacuate)
        .query(&[DRY_RUN,
                 text("iallocator", "The older form, without a body: moves the secondaries as this allocator says.").read_by_route(),
                 text("remote_node", "The older form, without a body: moves the secondaries to this node.").read_by_route(),
                 flag("early_release", "The older form, without a body: as in the body.").read_by_route()])
        .sending(r#"{"mode": "secondary-only", "iallocator": "hail"}"#),
    Route::post("/2/nodes/{node_name}/migrate", OpId::NodeMigrate).since("2.1").params()
        .builds(nodes::migrate)
        .query(&[text("mode", "The older form, without a body: live or non-live.").read_by_route(),
                 flag("live", "The oldest form, without a body: 1 is live, 0 is non-live.").read_by_route()])
        .sending(r#"{"mode": "live"}"#),
    Route::post("/2/nodes/{node_name}/modify", OpId::NodeSetParams).since("2.6").params()
        .sending(r#"{"vm_capable": false}"#),
    Route::get("/2/nodes/{node_name}/storage", Build(OpId::NodeQueryStorage, nodes::storage)).since("2.1").access(Write).body(Body::Depends)
        .query(&[STORAGE_TYPE, text("output_fields", "The columns, with commas between: node, type, name, size, used, free, allocatable.").read_by_route().required()])
        .asking("storage_type=lvm-vg&output_fields=name,size,free"),
    Route::put("/2/nodes/{node_name}/storage/modify", OpId::NodeModifyStorage).since("2.1")
        .builds(nodes::storage_modify)
        .query(&[STORAGE_TYPE, STORAGE_NAME, flag("allocatable", "Whether the unit takes new disks.").read_by_route()])
        .asking("storage_type=lvm-pv&name=/dev/sdb1&allocatable=0"),
    Route::put("/2/nodes/{node_name}/storage/repair", OpId::RepairNodeStorage).since("2.1")
        .builds(nodes::storage_repair).query(&[STORAGE_TYPE, STORAGE_NAME])
        .asking("storage_type=lvm-vg&name=xenvg"),
    Route::get("/2/nodes/{node_name}/tags", Call(tags::get)).doc("Lists a node's tags.").result(TAG_LIST),
    Route::put("/2/nodes/{node_name}/tags", OpId::TagsSet).query(&[TAG, DRY_RUN])
        .builds(tags::set).body(Body::Own(tags::schema)).asking("tag=rack:a1"),
    Route::delete("/2/nodes/{node_name}/tags", OpId::TagsDel).query(&[TAG, DRY_RUN])
        .builds(tags::delete).asking("tag=rack:a1"),

    // Node groups
    Route::get("/2/groups", List(Item::Group)).since("2.4").query(&[BULK]).doc("Lists the node groups.").result(NAMES)
        .answering(r#"[{"name": "default", "uri": "/2/groups/default"}]"#),
    Route::post("/2/groups", OpId::GroupAdd).since("2.4").query(&[DRY_RUN]).renamed(&[("name", "group_name")])
        .sending(r#"{"group_name": "rack2", "alloc_policy": "preferred"}"#),
    Route::get("/2/groups/{group_name}", Show(Item::Group)).since("2.4").query(&[LOCK]).doc("Shows a node group.").result(OBJECT),
    Route::delete("/2/groups/{group_name}", OpId::GroupRemove).since("2.4").query(&[DRY_RUN]),
    Route::put("/2/groups/{group_name}/modify", OpId::GroupSetParams).since("2.4")
        .renamed(&[("custom_ndparams", "ndparams"), ("custom_ipolicy", "ipolicy"), ("custom_diskparams", "diskparams")])
        .sending(r#"{"alloc_policy": "unallocable"}"#),
    Route::put("/2/groups/{group_name}/rename", OpId::GroupRename).since("2.4").query(&[DRY_RUN]).params()
        .sending(r#"{"new_name": "rack3"}"#),
    Route::put("/2/groups/{group_name}/assign-nodes", OpId::GroupAssignNodes).since("2.4").query(&[DRY_RUN, FORCE]).params()
        .sending(r#"{"nodes": ["node3.example.com"]}"#),
    Route::get("/2/groups/{group_name}/tags", Call(tags::get)).since("2.5").doc("Lists a node group's tags.").result(TAG_LIST),
    Route::put("/2/groups/{group_name}/tags", OpId::TagsSet).since("2.5").query(&[TAG, DRY_RUN])
        .builds(tags::set).body(Body::Own(tags::schema)).asking("tag=site:b"),
    Route::delete("/2/groups/{group_name}/tags", OpId::TagsDel).since("2.5").query(&[TAG, DRY_RUN])
        .builds(tags::delete).asking("tag=site:b"),

    // Networks
    Route::get("/2/networks", List(Item::Network)).since("2.7").query(&[BULK]).doc("Lists the networks.").result(NAMES)
        .answering(r#"[{"name": "lan", "uri": "/2/networks/lan"}]"#),
    Route::post("/2/networks", OpId::NetworkAdd).since("2.7").query(&[DRY_RUN]).renamed(&[("name", "network_name")])
        .sending(r#"{"network_name": "lan", "network": "192.0.2.0/24", "gateway": "192.0.2.1"}"#),
    Route::get("/2/networks/{network_name}", Show(Item::Network)).since("2.7").query(&[LOCK]).doc("Shows a network.").result(OBJECT),
    Route::delete("/2/networks/{network_name}", OpId::NetworkRemove).since("2.7").query(&[DRY_RUN]).params(),
    Route::put("/2/networks/{network_name}/connect", OpId::NetworkConnect).since("2.7").query(&[DRY_RUN]).params()
        .sending(r#"{"group_name": "default", "network_mode": "bridged", "network_link": "br0"}"#),
    Route::put("/2/networks/{network_name}/disconnect", OpId::NetworkDisconnect).since("2.7").query(&[DRY_RUN]).params()
        .sending(r#"{"group_name": "default"}"#),
    Route::put("/2/networks/{network_name}/modify", OpId::NetworkSetParams).since("2.7").params()
        .sending(r#"{"add_reserved_ips": ["192.0.2.5"]}"#),
    Route::put("/2/networks/{network_name}/rename", OpId::NetworkRename).since("3.1").new_in_31().query(&[DRY_RUN]).params()
        .sending(r#"{"new_name": "lan2"}"#),
    Route::get("/2/networks/{network_name}/tags", Call(tags::get)).since("2.7").doc("Lists a network's tags.").result(TAG_LIST),
    Route::put("/2/networks/{network_name}/tags", OpId::TagsSet).since("2.7").query(&[TAG, DRY_RUN])
        .builds(tags::set).body(Body::Own(tags::schema)).asking("tag=dmz"),
    Route::delete("/2/networks/{network_name}/tags", OpId::TagsDel).since("2.7").query(&[TAG, DRY_RUN])
        .builds(tags::delete).asking("tag=dmz"),

    // Jobs
    Route::get("/2/jobs", Call(jobs::list)).query(&[BULK]).doc("Lists the jobs that are not archived.")
        .result("A list of `{id, uri}`; with `bulk` a list of objects without logs and results.")
        .answering(r#"[{"id": 4711, "uri": "/2/jobs/4711"}]"#),
    Route::get("/2/jobs/{job_id}", Call(jobs::show)).doc("Shows a job: its opcodes, how far they are, their logs and results.")
        .result("An object. A job that is not known has null for everything but `id`.")
        .answering(r#"{"id": 4711, "ops": [{"OP_ID": "OP_INSTANCE_STARTUP", …}], "status": "success", "summary": ["INSTANCE_STARTUP(web1.example.com)"], "opstatus": ["success"], "received_ts": [1700000000, 125000], "start_ts": [1700000000, 130000], "end_ts": [1700000002, 40000], "oplog": [[]], "opresult": [null]}"#),
    Route::writes(Delete, "/2/jobs/{job_id}", Call(jobs::cancel)).doc("Cancels a job that does not run yet.")
        .result("`[whether it worked, a text]`.").answering(r#"[true, "Dequeued job 4711"]"#),
    Route::get("/2/jobs/{job_id}/wait", Call(jobs::wait)).since("2.1.3").access(Write).waits().body(Body::Own(jobs::wait_schema))
        .doc("Waits for at most ten seconds until a job differs from what the client saw. The arguments are the body of this GET.")
        .result("`{job_info, log_entries}`: the values of the fields asked for, and the log entries that are new; null when nothing changed.")
        .sending(r#"{"fields": ["status"], "previous_job_info": ["running"], "previous_log_serial": 3}"#)
        .answering(r#"{"job_info": ["success"], "log_entries": [[4, [1700000002, 40000], "message", "done"]]}"#),

    // Queries
    Route::get("/2/query/{resource}", Call(query::get)).since("2.5").access(Read).query(&[FIELDS.required()])
        .doc("Asks the query language for some fields of all objects of a kind: instance, node, group, network, job, lock, export or filter.")
        .result("`{data, fields}`: rows of `[status, value]` cells, and what each column is. Status 0 is a value, 1 an unknown field, 2 no data, 3 not applicable, 4 an offline node.")
        .asking("fields=name,status").answering(r#"{"data": [[[0, "web1.example.com"], [0, "running"]]], "fields": [{"name": "name", "title": "Instance", "kind": "text", "doc": "Instance name"}, …]}"#),
    Route::writes(Put, "/2/query/{resource}", Call(query::put)).since("2.5").access(Read).query(&[FIELDS]).body(Body::Own(query::schema))
        .doc("Asks the query language for some fields of the objects that pass a filter.").result("As for GET.")
        .sending(r#"{"fields": ["name", "status"], "qfilter": ["==", "pnode", "node1.example.com"]}"#),
    Route::get("/2/query/{resource}/fields", Call(query::fields)).since("2.5").query(&[FIELDS])
        .doc("Lists the fields that a kind of object has in the query language.").result("`{fields}`: name, title, kind and meaning of each."),

    // Job filters
    Route::get("/2/filters", Call(filters::list)).since("2.13").query(&[BULK])
        .doc("Lists the rules that hold jobs back, refuse them or let them pass.").result("A list of `{uuid, uri}`; with `bulk` a list of whole objects."),
    Route::writes(Post, "/2/filters", Call(filters::add)).since("2.13").body(Body::Own(filters::schema))
        .doc("Adds a rule.").result("The rule's UUID.")
        .sending(r#"{"priority": 10, "predicates": [["opcode", ["=", "OP_ID", "OP_INSTANCE_CREATE"]]], "action": "REJECT", "reason": []}"#),
    Route::get("/2/filters/{filter_uuid}", Call(filters::show)).since("2.13").doc("Shows a rule.").result(OBJECT),
    Route::writes(Put, "/2/filters/{filter_uuid}", Call(filters::replace)).since("2.13").body(Body::Own(filters::schema))
        .doc("Replaces a rule, or adds it with this UUID.").result("The rule's UUID.")
        .sending(r#"{"priority": 0, "predicates": [["jobid", [">", "id", "watermark"]]], "action": "PAUSE", "reason": []}"#),
    Route::writes(Delete, "/2/filters/{filter_uuid}", Call(filters::delete)).since("2.13").doc("Removes a rule.").result("Null."),
];
