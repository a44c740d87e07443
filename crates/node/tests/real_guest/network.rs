//! NICs of real guests on real bridges and routes, in a network namespace of the test's own: the test starts itself again
//! inside it. It needs root, iproute2 and nftables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use node::{
    Device, Hotplug, InstanceSpec, LocalNode, LocalOptions, Node, OsParams, RunState, StrayKind,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::guest::{Clock, Leftovers, STEP, Viewer, run_state, spec, tiny_dir};

/// Where the test that runs inside the namespace finds `tiny`.
const INSIDE: &str = "RAPID_TEST_TINY";
/// Whatever is pinged from inside a guest is asked so often.
pub(crate) const PINGS: &str = "ping -q -c 3 -W 2 -w 20";

/// A network namespace that ends with the test.
struct Namespace(String);

impl Namespace {
    fn make() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("rapid-nics-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

/// Runs a command of the node's and answers what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}: is it installed?"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

pub(crate) fn ip(args: &[&str]) -> String {
    run("ip", args)
}

pub(crate) fn taps() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("tap")).collect();
    names.sort();
    names
}

pub(crate) fn nic(number: u64, mode: &str, link: &str, address: &str) -> Value {
    json!({
        "uuid": format!("{number:08}-aaaa-4000-8000-000000000001"), "name": null,
        "mac": format!("aa:00:00:00:00:{number:02}"), "ip": address, "mode": mode, "link": link,
        "vlan": "", "network": null,
    })
}

pub(crate) fn tap(number: u64) -> String {
    format!("tap{number:08}aaaa")
}

/// Starts a test again, as root of a network namespace of its own, with a system to boot.
pub(crate) async fn inside(test: &str) -> Option<PathBuf> {
    if let Some(tiny) = std::env::var_os(INSIDE) {
        return Some(tiny.into());
    }
    let tiny = tiny_dir().await;
    let namespace = Namespace::make();
    let me = std::env::current_exe().unwrap();
    let mut command = tokio::process::Command::new("ip");
    command.args(["netns", "exec", &namespace.0]).arg(me).args([test, "--exact", "--nocapture"]);
    let status = command.env(INSIDE, tiny).kill_on_drop(true).status();
    let status = tokio::time::timeout(4 * STEP, status).await.unwrap().unwrap();
    assert!(status.success(), "inside the namespace: {status}");
    None
}

/// A node with two bridges, which are its own too.
pub(crate) async fn open(root: &Path, tiny: &Path) -> (LocalOptions, LocalNode) {
    ip(&["link", "set", "lo", "up"]);
    for (bridge, address) in [("br0", "192.0.2.1/24"), ("br1", "203.0.113.1/24")] {
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["addr", "add", address, "dev", bridge]);
        ip(&["link", "set", bridge, "up", "mtu", "1400"]);
    }
    let mut options = LocalOptions::new("here", root);
    options.os_search_path.insert(0, tiny.to_owned());
    options.network_script_dirs = vec![root.join("scripts")];
    let node = LocalNode::open(options.clone()).await.unwrap();
    (options, node)
}

pub(crate) fn guest(
    options: &LocalOptions,
    tiny: &Path,
    name: &str,
    number: u64,
    nics: &[Value],
) -> InstanceSpec {
    let mut spec = spec(options, name, &format!("{number:08}-0000-4000-8000-00000000a1c0"));
    spec.hvparams.extend(node::tiny::hvparams(tiny));
    // As in a new cluster; the first is left out where the kernel has none.
    spec.hvparams.insert("vhost_net".into(), json!(true));
    spec.hvparams.insert("vnet_hdr".into(), json!(true));
    spec.hvparams.insert("user_shutdown".into(), json!(true));
    spec.nics = serde_json::from_value(json!(nics)).unwrap();
    spec
}

pub(crate) async fn boot(options: &LocalOptions, node: &LocalNode, spec: &InstanceSpec) -> Viewer {
    node.create_disk(spec, &spec.disks[0]).await.unwrap();
    node.create_os(spec, false, &OsParams::default(), std::sync::Arc::new(|_| {})).await.unwrap();
    node.start_instance(spec, false).await.unwrap();
    Viewer::connect(&options.data_dir, &spec.name).await
}

pub(crate) async fn plug(
    node: &LocalNode,
    spec: &InstanceSpec,
    action: Hotplug,
    nic: &Value,
) -> Result<(), String> {
    let begun = Instant::now();
    let device = Device::Nic(serde_json::from_value(nic.clone()).unwrap());
    let done = node.hotplug(spec, action, &device, 1).await;
    println!("{:6.3}s {action:?} of a NIC", begun.elapsed().as_secs_f64());
    done.map_err(|error| error.to_string())
}

/// Waits until an instance is no longer said to run.
async fn ended(node: &LocalNode, name: &str) {
    let mut changes = node.changes();
    let ended = async {
        while run_state(node, name) == Some(RunState::Running) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(STEP, ended).await.unwrap();
}

fn pid(options: &LocalOptions, spec: &InstanceSpec) -> Pid {
    let note = options.run_dir.join("instances").join(format!("{}.json", spec.uuid));
    let runtime: Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
    Pid::from_raw(runtime["process"]["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
}

#[tokio::test]
async fn guests_reach_each_other_and_spoof_nothing() {
    let Some(tiny) = inside("network::guests_reach_each_other_and_spoof_nothing").await else {
        return;
    };
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let (options, node) = open(root.path(), &tiny).await;

    // Two guests on a bridge; what the first may send is filtered, by a tag of its network.
    let mut first = nic(1, "bridged", "br0", "192.0.2.11");
    first["network"] = json!({
        "uuid": "0e700000-0000-4000-8000-000000000000", "name": "lab", "subnet": "192.0.2.0/24",
        "gateway": "192.0.2.1", "subnet6": null, "gateway6": null, "mac_prefix": null,
        "tags": ["ip-filtered"],
    });
    let held = guest(&options, &tiny, "held.example.com", 1, &[first]);
    let free =
        guest(&options, &tiny, "free.example.com", 2, &[nic(2, "bridged", "br0", "192.0.2.12")]);
    assert_eq!(node.missing_bridges(&["br0".into(), "br7".into()], &[]).await.unwrap(), ["br7"]);
    let (mut held_console, mut free_console) =
        tokio::join!(boot(&options, &node, &held), boot(&options, &node, &free));
    assert_eq!(taps(), [tap(1), tap(2)]);
    let link = ip(&["-o", "link", "show", "dev", &tap(1)]);
    assert!(link.contains(" mtu 1400 ") && link.contains(" master br0 "), "{link}");
    assert!(link.contains("fe:00:00:00:00:01"), "{link}");
    assert!(link.contains(": nic 0 of instance held.example.com"), "{link}");
    held_console.wait("GUEST-UP held.example.com address=192.0.2.11/24").await;
    free_console.wait("GUEST-UP free.example.com address=192.0.2.12/24").await;
    held_console.wait("# ").await;
    free_console.wait("# ").await;
    clock.lap("two guests were up");

    for (console, other) in [(&mut held_console, "192.0.2.12"), (&mut free_console, "192.0.2.11")] {
        console.run(&format!("{PINGS} {other}"), "3 packets transmitted, 3 packets received").await;
        console
            .run(&format!("{PINGS} 192.0.2.1"), "3 packets transmitted, 3 packets received")
            .await;
    }
    clock.lap("they reached each other and the node");

    // Another address: nothing gets through from the filtered one, everything from the other.
    held_console.line("ip addr add 192.0.2.66/24 dev eth0").await;
    let spoofed = "ping -q -c 3 -W 1 -w 6 -I";
    held_console.run(&format!("{spoofed} 192.0.2.66 192.0.2.12"), "100% packet loss").await;
    free_console.line("ip addr add 192.0.2.77/24 dev eth0").await;
    free_console.run(&format!("{PINGS} -I 192.0.2.77 192.0.2.11"), "3 packets received").await;
    let counted = |table: &str| {
        let rules = run("nft", &["list", "table", "netdev", table]);
        let dropped = |rule: &str| {
            let line = rules.lines().find(|line| line.trim().starts_with(rule)).unwrap();
            let words = line.split("packets ").nth(1).unwrap();
            words.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        (dropped("ether saddr !="), dropped("counter packets"))
    };
    let table = format!("rapid-{}", tap(1));
    let (by_mac, by_rest) = counted(&table);
    assert_eq!(by_mac, 0);
    assert!(by_rest > 0, "nothing was dropped");
    let other_mac = |mac: &str| {
        format!(
            "ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up; echo set-$((1 + 1))"
        )
    };
    held_console.run(&other_mac("02:00:00:00:00:66"), "set-2").await;
    held_console.run(&format!("{spoofed} 192.0.2.11 192.0.2.12"), "100% packet loss").await;
    assert!(counted(&table).0 > 0, "nothing was dropped");
    free_console.run(&other_mac("02:00:00:00:00:77"), "set-2").await;
    free_console.run(&format!("{PINGS} 192.0.2.1"), "3 packets received").await;
    held_console.run(&other_mac("aa:00:00:00:00:01"), "set-2").await;
    held_console.run(&format!("{PINGS} -I 192.0.2.11 192.0.2.12"), "3 packets received").await;
    clock.lap("the filtered one spoofed nothing");

    // One powers itself off, the other crashes: nothing stays, be it watched or found by the next server.
    free_console.line("poweroff").await;
    ended(&node, "free.example.com").await;
    assert_eq!(taps(), [tap(1)]);
    kill_process(pid(&options, &held), Signal::KILL).unwrap();
    ended(&node, "held.example.com").await;
    assert_eq!(taps(), [""; 0]);
    assert_eq!(run("nft", &["list", "ruleset"]), "");
    node.start_instance(&held, true).await.unwrap();
    let started = pid(&options, &held);
    drop(node);
    kill_process(started, Signal::KILL).unwrap();
    assert_eq!(taps(), [tap(1)]);
    let gone = async {
        while Path::new(&format!("/proc/{}/exe", started.as_raw_nonzero())).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(STEP, gone).await.unwrap();
    // One that nobody knows is told of, and left alone; what looks otherwise is somebody else's.
    let alias = link.split("alias ").nth(1).unwrap().trim();
    for (name, alias) in [("gntstray", alias), ("gntother", "nic 0 of instance x")] {
        ip(&["tuntap", "add", "dev", name, "mode", "tap"]);
        ip(&["link", "set", "dev", name, "alias", alias]);
    }
    let node = LocalNode::open(options.clone()).await.unwrap();
    let strays = node.strays();
    let strays: Vec<(StrayKind, &str)> =
        strays.iter().map(|stray| (stray.kind, stray.name.as_str())).collect();
    assert_eq!(strays, [(StrayKind::Device, "gntstray")]);
    assert_eq!(taps(), [""; 0]);

    // A start that fails leaves nothing either.
    let mut astray = held.clone();
    astray.nics[0].link = "br7".into();
    let error = node.start_instance(&astray, true).await.unwrap_err().to_string();
    assert!(
        error.ends_with(&format!(
            "Failed to configure interface {}: there is no bridge br7",
            tap(1)
        )),
        "{error}"
    );
    assert_eq!(taps(), [""; 0]);
    assert_eq!(run("nft", &["list", "ruleset"]), "");
    clock.lap("nothing was left of any of them");
}

#[tokio::test]
async fn nics_come_and_go_while_a_guest_runs() {
    let Some(tiny) = inside("network::nics_come_and_go_while_a_guest_runs").await else { return };
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    let (options, node) = open(root.path(), &tiny).await;
    let user = json!({"uuid": "00000003-aaaa-4000-8000-000000000001", "name": null, "mac": "aa:00:00:00:00:03",
        "ip": null, "mode": "user", "link": "", "vlan": "", "network": null});
    let web = guest(&options, &tiny, "web.example.com", 3, &[user]);
    let mut console = boot(&options, &node, &web).await;
    console.wait("GUEST-UP web.example.com address=10.0.2.15").await;
    console.wait("# ").await;
    clock.lap("a guest was up");
    let wait = |want: &str| {
        format!(
            "for i in $(seq 100); do [ -e /sys/class/net/eth1 ] && there=yes || there=no; [ $there = {want} ] && break; sleep 0.1; done; echo eth1=$there"
        )
    };
    let set = |address: &str| {
        format!("ip addr add {address} dev eth1; ip link set eth1 up; echo set-$((1 + 1))")
    };

    // A NIC on a bridge; then it is put on another.
    let bridged = nic(4, "bridged", "br0", "192.0.2.14");
    plug(&node, &web, Hotplug::Add, &bridged).await.unwrap();
    assert_eq!(taps(), [tap(4)]);
    console.run(&wait("yes"), "eth1=yes").await;
    console.run(&set("192.0.2.14/24"), "set-2").await;
    console.run(&format!("{PINGS} 192.0.2.1"), "3 packets received").await;
    let moved = nic(4, "bridged", "br1", "203.0.113.14");
    plug(&node, &web, Hotplug::Modify, &moved).await.unwrap();
    assert!(ip(&["-o", "link", "show", "dev", &tap(4)]).contains(" master br1 "));
    console.run(&wait("yes"), "eth1=yes").await;
    console.run(&set("203.0.113.14/24"), "set-2").await;
    console.run(&format!("{PINGS} 203.0.113.1"), "3 packets received").await;
    clock.lap("a NIC came and was moved to another bridge");

    // The next server knows of it, and takes it out.
    drop(node);
    let node = LocalNode::open(options.clone()).await.unwrap();
    plug(&node, &web, Hotplug::Remove, &moved).await.unwrap();
    assert_eq!(taps(), [""; 0]);
    console = Viewer::connect(&options.data_dir, &web.name).await;
    console.run(&wait("no"), "eth1=no").await;
    let error = plug(&node, &web, Hotplug::Remove, &moved).await.unwrap_err();
    assert!(error.contains("Cannot find runtime info for nic with UUID"), "{error}");
    let astray = nic(4, "bridged", "br7", "192.0.2.14");
    let error = plug(&node, &web, Hotplug::Add, &astray).await.unwrap_err();
    assert!(error.ends_with("there is no bridge br7"), "{error}");
    assert_eq!(taps(), [""; 0]);
    clock.lap("it went");

    // Routed, by the main table and by one of its own.
    for link in ["", "100"] {
        let routed = nic(5, "routed", link, "198.51.100.5");
        plug(&node, &web, Hotplug::Add, &routed).await.unwrap();
        let table = if link.is_empty() { "main" } else { link };
        let route = ip(&["route", "show", "table", table, "198.51.100.5"]);
        assert!(route.contains(&format!("dev {} proto static", tap(5))), "{route}");
        let rules = ip(&["rule"]);
        assert_eq!(rules.contains(&format!("iif {} lookup 100", tap(5))), link == "100", "{rules}");
        for setting in ["proxy_arp", "forwarding"] {
            let path = format!("/proc/sys/net/ipv4/conf/{}/{setting}", tap(5));
            assert_eq!(std::fs::read_to_string(path).unwrap(), "1\n");
        }
        console.run(&wait("yes"), "eth1=yes").await;
        if link.is_empty() {
            console.run(&set("198.51.100.5/32"), "set-2").await;
            console.run("ip route add 192.0.2.0/24 dev eth1; echo ro-$((1 + 1))", "ro-2").await;
            console.run(&format!("{PINGS} 192.0.2.1"), "3 packets received").await;
        }
        plug(&node, &web, Hotplug::Remove, &routed).await.unwrap();
        console.run(&wait("no"), "eth1=no").await;
        assert!(!ip(&["rule"]).contains(&tap(5)));
        assert_eq!(taps(), [""; 0]);
    }
    let unaddressed = nic(5, "routed", "", "");
    let error = plug(&node, &web, Hotplug::Add, &unaddressed).await.unwrap_err();
    assert!(error.ends_with("Routed NIC but no IP address specified"), "{error}");
    clock.lap("it was routed");

    // Scripts of the administrator's do it in place of the node, and are told what they need.
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = root.path().join("scripts").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    };
    let log = root.path().join("told");
    let note = format!(
        "echo \"$0 $1 $INSTANCE $MODE $LINK $BRIDGE $IP $MAC $INTERFACE $INTERFACE_INDEX\" >> {}\n",
        log.display()
    );
    script("kvm-vif-bridge", &format!("{note}ip link set dev $INTERFACE master br1 up\n"));
    script(
        "kvm-ifdown-custom",
        &format!("{note}test -e /sys/class/net/$INTERFACE && echo there >> {}\n", log.display()),
    );
    plug(&node, &web, Hotplug::Add, &bridged).await.unwrap();
    assert!(ip(&["-o", "link", "show", "dev", &tap(4)]).contains(" master br1 "));
    plug(&node, &web, Hotplug::Remove, &bridged).await.unwrap();
    let told = std::fs::read_to_string(&log).unwrap();
    let scripts = root.path().join("scripts");
    let line = |name: &str| {
        let script = scripts.join(name);
        let tap = tap(4);
        format!(
            "{} {tap} web.example.com bridged br0 br0 192.0.2.14 aa:00:00:00:00:04 {tap} 1\n",
            script.display()
        )
    };
    assert_eq!(told, format!("{}{}there\n", line("kvm-vif-bridge"), line("kvm-ifdown-custom")));
    script("kvm-vif-bridge", "echo no such luck; exit 3\n");
    let error = plug(&node, &web, Hotplug::Add, &bridged).await.unwrap_err();
    let expected = format!(
        "Error while executing backend function: Failed to configure interface {}: exited with exit code 3; network configuration script output: no such luck ({})",
        tap(4),
        scripts.join("kvm-vif-bridge").display()
    );
    assert_eq!(error, expected);
    assert_eq!(taps(), [""; 0]);
    clock.lap("scripts did it");
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
}
