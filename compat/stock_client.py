#!/usr/bin/python3
"""Drives a server with Ganeti's own Python client (Debian's python3-ganeti-rapi), unmodified.

Every public method of the client is called, and what it does to the cluster is asserted: results of jobs, changed objects,
lists, values. A method that was not called fails the run, so none is left out. The server has five simulated nodes and
the disk templates drbd, plain, file, sharedfile and diskless: see xtask/src/system/client.rs.

    stock_client.py https://127.0.0.1:5080 USER PASSWORD
"""

import inspect
import sys
import time
import urllib.parse

from ganeti.rapi import client as rapi

JOB_LIMIT = 60.0
NODES = ["node%d.example.com" % at for at in range(1, 6)]


def methods():
    names = [name for name, _ in inspect.getmembers(rapi.GanetiRapiClient, callable)]
    return sorted(name for name in names if not name.startswith("_"))


class Recorder:
    """The client, and which of its methods were called."""

    def __init__(self, client):
        self.client = client
        self.called = set()

    def __getattr__(self, name):
        method = getattr(self.client, name)
        self.called.add(name)
        return method


class Failed(Exception):
    """A job or an expectation failed."""


def same(got, wanted, what=""):
    if got != wanted:
        raise Failed("%s: %r instead of %r" % (what, got, wanted))


def true(value, what):
    if not value:
        raise Failed(what)


def refused(code, call, *args, **kwargs):
    try:
        got = call(*args, **kwargs)
    except rapi.GanetiApiError as error:
        same(error.code, code, "%s: status" % call.__name__)
        return error
    raise Failed("%s%r: %r instead of a refusal" % (call.__name__, args, got))


def ended(job):
    """Waits for a job's end by WaitForJobChange, and gives the job."""
    if not isinstance(job, (int, str)):
        raise Failed("%r is no job id" % (job,))
    seen, serial, end = None, None, time.monotonic() + JOB_LIMIT
    while time.monotonic() < end:
        change = c.WaitForJobChange(job, ["status"], seen, serial)
        if change is None:
            continue
        seen = change["job_info"]
        if change["log_entries"]:
            serial = max(entry[0] for entry in change["log_entries"])
        if seen[0] in ("success", "error", "canceled"):
            status = c.GetJobStatus(job)
            same(status["status"], seen[0], "job %s" % job)
            return status
    raise Failed("job %s does not end" % job)


def run(job):
    """Waits for a job that succeeds, and gives its results; those of the jobs that it submitted are awaited too."""
    job = ended(job)
    if job["status"] != "success":
        raise Failed("job %s %s: %s %r" % (job["id"], job["summary"], job["status"], job["opresult"]))
    for result in job["opresult"]:
        if isinstance(result, dict) and "jobs" in result:
            for accepted, inner in result["jobs"]:
                true(accepted, "a further job was refused: %r" % (inner,))
                run(inner)
    return job["opresult"]


def fails(job, text):
    job = ended(job)
    same(job["status"], "error", "job %s" % job["id"])
    true(text in repr(job["opresult"]), "%r is not in %r" % (text, job["opresult"]))


def cluster():
    same(c.GetVersion(), 2, "version")
    true({"instance-create-reqv1", "instance-reinstall-reqv1", "node-migrate-reqv1", "node-evac-res1"}
         <= set(c.GetFeatures()), "features")
    info = c.GetInfo()
    same(info["name"], "cluster.example.com")
    same(info["master"], NODES[0])
    same(info["enabled_hypervisors"], ["kvm", "fake"])
    true("noop+default" in c.GetOperatingSystems(), "operating systems")
    run(c.RedistributeConfig())
    run(c.ModifyCluster(candidate_pool_size=3, reason="a smaller pool"))
    same(c.GetInfo()["candidate_pool_size"], 3)
    run(c.ModifyCluster(beparams={"vcpus": 2}))
    same(c.GetInfo()["beparams"]["default"]["vcpus"], 2)
    tags(c.GetClusterTags, c.AddClusterTags, c.DeleteClusterTags)
    error = refused(404, c.client.GetInstance, "nosuch.example.com")
    same(str(error), "404 Not Found: Nothing matches the given URI")


def tags(get, add, delete, *name):
    same(get(*name), [], "tags before")
    same(run(add(*name, ["a", "b:c", "d"], dry_run=True)), [None], "dry run")
    same(get(*name), [], "tags after a dry run")
    run(add(*name, ["a", "b:c", "d"]))
    same(sorted(get(*name)), ["a", "b:c", "d"])
    run(delete(*name, ["a", "d"], reason="not needed"))
    same(get(*name), ["b:c"])
    fails(delete(*name, ["a"]), "Tag(s) 'a' not found")
    run(delete(*name, ["b:c"]))
    same(get(*name), [])


def nodes():
    same(c.GetNodes(), NODES)
    bulk = c.GetNodes(bulk=True)
    same([node["name"] for node in bulk], NODES)
    true(all(node["mtotal"] > 0 and node["role"] in "MCRDO" for node in bulk), "sizes and roles")
    node = c.GetNode(NODES[4])
    same((node["name"], node["offline"], node["pinst_cnt"]), (NODES[4], False, 0))
    tags(c.GetNodeTags, c.AddNodeTags, c.DeleteNodeTags, NODES[1])
    same(c.GetNodeRole(NODES[0]), "master")
    run(c.SetNodeRole(NODES[4], "drained", force=True))
    same(c.GetNodeRole(NODES[4]), "drained")
    run(c.SetNodeRole(NODES[4], "regular", auto_promote=False))
    true(c.GetNodeRole(NODES[4]) in ("regular", "candidate"), "role")
    run(c.ModifyNode(NODES[4], offline=True))
    same(c.GetNode(NODES[4])["offline"], True)
    run(c.ModifyNode(NODES[4], offline=False))
    same(c.GetNode(NODES[4])["offline"], False)
    rows = run(c.GetNodeStorageUnits(NODES[0], "lvm-pv", "name,size,free,allocatable"))[0]
    same(len(rows), 1, "physical volumes")
    name, size, free, allocatable = rows[0]
    true(size > 0 and 0 <= free <= size and allocatable is True, "a physical volume: %r" % rows)
    run(c.ModifyNodeStorageUnits(NODES[0], "lvm-pv", name, allocatable=False))
    same(run(c.GetNodeStorageUnits(NODES[0], "lvm-pv", "allocatable"))[0], [[False]])
    run(c.ModifyNodeStorageUnits(NODES[0], "lvm-pv", name, allocatable=True))
    group = run(c.GetNodeStorageUnits(NODES[0], "lvm-vg", "name"))[0][0][0]
    run(c.RepairNodeStorageUnits(NODES[0], "lvm-vg", group))
    run(c.PowercycleNode(NODES[4], force=True))
    fails(c.PowercycleNode(NODES[0]), "The node is the master")


def groups():
    same(c.GetGroups(), ["default"])
    run(c.CreateGroup("second", alloc_policy="last_resort"))
    same(sorted(c.GetGroups()), ["default", "second"])
    same(c.GetGroup("second")["alloc_policy"], "last_resort")
    run(c.AssignGroupNodes("second", [NODES[4]]))
    same(c.GetGroup("second")["node_list"], [NODES[4]])
    run(c.ModifyGroup("second", alloc_policy="preferred"))
    same(c.GetGroup("second")["alloc_policy"], "preferred")
    same(run(c.RenameGroup("second", "other")), ["other"])
    same(sorted(group["name"] for group in c.GetGroups(bulk=True)), ["default", "other"])
    tags(c.GetGroupTags, c.AddGroupTags, c.DeleteGroupTags, "other")
    fails(c.DeleteGroup("other"), "node")
    run(c.AssignGroupNodes("default", [NODES[4]]))
    run(c.DeleteGroup("other"))
    same(c.GetGroups(), ["default"])
    refused(404, c.client.GetGroup, "other")


def networks():
    same(c.GetNetworks(), [])
    run(c.CreateNetwork("lan", "10.99.0.0/28", gateway="10.99.0.1", add_reserved_ips="10.99.0.9", tags="inner"))
    same(c.GetNetworks(), ["lan"])
    network = c.GetNetwork("lan")
    same((network["network"], network["gateway"], network["tags"]), ("10.99.0.0/28", "10.99.0.1", ["inner"]))
    same(network["map"], "XX.......X.....X")
    run(c.ModifyNetwork("lan", gateway="10.99.0.2"))
    same(c.GetNetworks(bulk=True)[0]["gateway"], "10.99.0.2")
    run(c.DeleteNetworkTags("lan", ["inner"]))
    tags(c.GetNetworkTags, c.AddNetworkTags, c.DeleteNetworkTags, "lan")
    run(c.ConnectNetwork("lan", "default", "bridged", "br1"))
    same([group[:3] for group in c.GetNetwork("lan")["group_list"]], [["default", "bridged", "br1"]])


def without_network():
    run(c.DisconnectNetwork("lan", "default"))
    same(c.GetNetwork("lan")["group_list"], [])
    run(c.DeleteNetwork("lan"))
    same(c.GetNetworks(), [])


def create():
    common = {"os": "noop+default", "ip_check": False, "beparams": {"maxmem": 256, "minmem": 128}}
    plan = c.CreateInstance("create", "plain.example.com", "plain", [{"size": 1024}], [{}], dry_run=True,
                            pnode=NODES[0], **common)
    run(plan)
    same(c.GetInstances(), [], "instances after a dry run")
    same(run(c.CreateInstance("create", "plain.example.com", "plain", [{"size": 1024}], [{}], pnode=NODES[0], **common)),
         [[NODES[0]]])
    same(run(c.CreateInstance("create", "drbd.example.com", "drbd", [{"size": 1024}, {"size": 2048}],
                              [{"network": "lan", "ip": "10.99.0.5"}], pnode=NODES[0], snode=NODES[1], **common)),
         [[NODES[0], NODES[1]]])
    same(c.GetNetwork("lan")["map"], "X.X..X...X.....X")
    run(c.CreateInstance("create", "file.example.com", "file", [{"size": 2048}], [{}], pnode=NODES[2], start=False, **common))
    run(c.CreateInstance("create", "shared.example.com", "sharedfile", [{"size": 2048}], [{}], pnode=NODES[2], **common))
    run(c.CreateInstance("create", "less.example.com", "diskless", [], [{}], iallocator="hail", **common))
    allocations = [c.InstanceAllocation("create", "%s.example.com" % name, "drbd", [{"size": 1024}], [{}], **common)
                   for name in ("one", "two")]
    same((allocations[0]["mode"], allocations[1]["name"]), ("create", "two.example.com"))
    result = run(c.InstancesMultiAlloc(allocations, iallocator="hail"))[0]
    same(sorted(result.get("allocatable", [])), ["one.example.com", "two.example.com"])
    same(result.get("failed", []), [])
    names = ["%s.example.com" % name for name in ("drbd", "file", "less", "one", "plain", "shared", "two")]
    same(sorted(c.GetInstances()), names)
    bulk = {instance["name"]: instance for instance in c.GetInstances(bulk=True)}
    same(sorted(bulk), names)
    same([bulk[name]["status"] for name in names],
         ["running", "ADMIN_down", "running", "running", "running", "running", "running"])
    fails(c.CreateInstance("create", "plain.example.com", "diskless", [], [], pnode=NODES[0], **common), "already")


def life():
    name = "plain.example.com"
    instance = c.GetInstance(name)
    same((instance["pnode"], instance["disk.sizes"], instance["beparams"]["maxmem"]), (NODES[0], [1024], 256))
    same(instance["nic.macs"][0][:9], "aa:00:00:")
    static = run(c.GetInstanceInfo(name, static=1))[0][name]
    same((static["run_state"], static["pnode"]), (None, NODES[0]))
    same(run(c.GetInstanceInfo(name))[0][name]["run_state"], "up")
    console = c.GetInstanceConsole(name)
    true(console["kind"] in ("ssh", "vnc", "spice", "msg"), "a console: %r" % console)
    same(console["instance"], name)
    tags(c.GetInstanceTags, c.AddInstanceTags, c.DeleteInstanceTags, name)
    run(c.ModifyInstance(name, beparams={"maxmem": 512}, reason="more memory"))
    same(c.GetInstance(name)["beparams"]["maxmem"], 512)
    run(c.RebootInstance(name, reboot_type="hard", ignore_secondaries=0, reason="why not"))
    same(c.GetInstance(name)["status"], "running")
    run(c.GrowInstanceDisk(name, 0, 128, wait_for_sync=True))
    same(c.GetInstance(name)["disk.sizes"], [1152])
    fails(c.DeactivateInstanceDisks(name), "is marked to be up")
    run(c.ShutdownInstance(name, timeout=5))
    same((c.GetInstance(name)["status"], c.GetInstance(name)["admin_state"]), ("ADMIN_down", "down"))
    refused(503, c.client.GetInstanceConsole, name)
    same(len(run(c.ActivateInstanceDisks(name, ignore_size=True))[0]), 1)
    run(c.DeactivateInstanceDisks(name, force=True))
    run(c.ReinstallInstance(name, os="noop+default", no_startup=True, osparams={"size": "5"}))
    same((c.GetInstance(name)["os"], c.GetInstance(name)["status"]), ("noop+default", "ADMIN_down"))
    run(c.RecreateInstanceDisks(name, nodes=[NODES[3]]))
    same(c.GetInstance(name)["pnode"], NODES[3])
    same(run(c.RenameInstance(name, "moved.example.com", ip_check=False, name_check=True)), ["moved.example.com"])
    refused(404, c.client.GetInstance, name)
    true(c.WaitForJobCompletion(c.StartupInstance("moved.example.com"), period=0.05, retries=600), "start")
    same(c.GetInstance("moved.example.com")["status"], "running")


def moves():
    name = "drbd.example.com"

    def lies_on(primary, secondary):
        instance = c.GetInstance(name)
        same((instance["pnode"], instance["snodes"], instance["status"]), (primary, [secondary], "running"))

    run(c.MigrateInstance(name, mode="live"))
    lies_on(NODES[1], NODES[0])
    run(c.FailoverInstance(name, ignore_consistency=False))
    lies_on(NODES[0], NODES[1])
    run(c.ReplaceInstanceDisks(name, mode="replace_new_secondary", remote_node=NODES[2]))
    lies_on(NODES[0], NODES[2])
    run(c.ReplaceInstanceDisks(name, disks=[1], mode="replace_on_secondary"))
    lies_on(NODES[0], NODES[2])
    run(c.MigrateNode(NODES[0], mode="non-live"))
    lies_on(NODES[2], NODES[0])
    run(c.EvacuateNode(NODES[0], mode="secondary-only", remote_node=NODES[3]))
    lies_on(NODES[2], NODES[3])
    same([one for one in c.GetInstances(bulk=True) if NODES[0] in [one["pnode"]] + one["snodes"]
          and one["disk_template"] == "drbd" and one["pnode"] != NODES[0]], [], "secondaries after the evacuation")


def exports():
    prepared = run(c.PrepareExport("moved.example.com", "remote"))[0]
    same(sorted(prepared), ["handshake", "x509_ca", "x509_key_name"])
    same(run(c.PrepareExport("moved.example.com", "local")), [None])
    run(c.ShutdownInstance("moved.example.com", timeout=0))
    result = run(c.ExportInstance("moved.example.com", "local", NODES[1], shutdown=False))[0]
    same(result[0], True, "the export")
    rows = c.Query("export", ["node", "export"])["data"]
    same([[cell[1] for cell in row] for row in rows if row[1][1] is not None], [[NODES[1], "moved.example.com"]])


def queries():
    answer = c.Query("instance", ["name", "status"], ["=", "name", "drbd.example.com"])
    same([field["name"] for field in answer["fields"]], ["name", "status"])
    same(answer["data"], [[[0, "drbd.example.com"], [0, "running"]]])
    same(len(c.Query("node", ["name"])["data"]), 5)
    fields = c.QueryFields("node")["fields"]
    true(len(fields) > 30 and all(field["title"] and field["doc"] for field in fields), "fields of nodes")
    same([field["name"] for field in c.QueryFields("job", fields=["id", "status"])["fields"]], ["id", "status"])


def jobs():
    ids = c.GetJobs()
    true(len(ids) > 50, "jobs")
    bulk = c.GetJobs(bulk=True)
    true({job["id"] for job in bulk} >= set(int(job) for job in ids), "jobs with all their fields")
    true(all(job["summary"] and job["received_ts"] for job in bulk), "summaries")
    same(c.GetFilters(), [])
    rule = c.AddFilter(10, [["jobid", [">", "id", "watermark"]]], "PAUSE")
    same(c.GetFilters(), [rule])
    rules = c.GetFilters(bulk=True)
    same([(rule["uuid"], rule["priority"], rule["action"]) for rule in rules], [(rule, 10, "PAUSE")])
    held = c.AddClusterTags(["held"])
    freed = c.AddClusterTags(["freed"])
    same(c.GetJobStatus(held)["status"], "queued")
    same(c.CancelJob(held)[0], True)
    same(ended(held)["status"], "canceled")
    same(c.GetJobStatus(freed)["status"], "queued")
    same(c.ReplaceFilter(rule, 20, [["jobid", ["<", "id", 0]]], "ACCEPT"), rule)
    same((c.GetFilter(rule)["priority"], c.GetFilter(rule)["action"]), (20, "ACCEPT"))
    run(freed)
    same(c.GetClusterTags(), ["freed"])
    same(c.CancelJob(freed)[0], False)
    c.DeleteFilter(rule)
    same(c.GetFilters(), [])
    refused(404, c.client.GetFilter, rule)
    run(c.DeleteClusterTags(["freed"]))


def remove():
    for name in c.GetInstances():
        run(c.DeleteInstance(name, dry_run=True))
        true(name in c.GetInstances(), "%s after a dry run" % name)
        run(c.DeleteInstance(name, shutdown_timeout=0, reason="the end"))
        true(name not in c.GetInstances(), "%s is removed" % name)
    same(c.GetInstances(), [])
    same(c.GetNetwork("lan")["map"], "X.X......X.....X")
    same([node["pinst_cnt"] + node["sinst_cnt"] for node in c.GetNodes(bulk=True)], [0] * 5)


address, user, password = sys.argv[1:]
address = urllib.parse.urlsplit(address)
client = rapi.GanetiRapiClient(address.hostname, port=address.port, username=user, password=password)
c = Recorder(client)
for step in (cluster, nodes, groups, networks, create, life, moves, exports, queries, jobs, remove, without_network):
    begun = time.monotonic()
    try:
        step()
    except Exception:
        print("%s failed after %d of %d methods" % (step.__name__, len(c.called), len(methods())), flush=True)
        raise
    print("%-16s ok %6.1f s" % (step.__name__.replace("_", " "), time.monotonic() - begun), flush=True)
missing = set(methods()) - c.called
if missing:
    sys.exit("never called: %s" % ", ".join(sorted(missing)))
print("all %d methods of the stock client were called" % len(methods()))
