//! A NIC of a real guest on a switch of Open vSwitch, in a network namespace of the test's own, with daemons and a database of
//! its own. It needs root and Debian's package `openvswitch-switch`; the packets go by the datapath that needs nothing of
//! the kernel's.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use node::{Hotplug, Node};
use serde_json::json;

use crate::guest::{Clock, Leftovers};
use crate::network::{PINGS, boot, guest, inside, ip, nic, open, plug, run, tap};

/// A daemon that ends with the test.
struct Daemon(Child);

impl Daemon {
    fn start(program: &str, args: &[&str], dir: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("OVS_LOGDIR", dir).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}: is it installed?")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where Open vSwitch's programs find each other. What is mounted there is seen by the test alone.
const RUN: &str = "/run/openvswitch";

fn vsctl(args: &str) -> String {
    let args: Vec<&str> = ["--retry", "--timeout=30"].into_iter().chain(args.split(' ')).collect();
    run("ovs-vsctl", &args)
}

#[tokio::test]
async fn a_switch_tells_vlans_apart() {
    let Some(tiny) = inside("switch::a_switch_tells_vlans_apart").await else { return };
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let _leftovers = Leftovers(root.path().to_owned());
    std::fs::create_dir_all(RUN).unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", RUN]);
    let database = root.path().join("conf.db").display().to_string();
    run("ovsdb-tool", &["create", &database, "/usr/share/openvswitch/vswitch.ovsschema"]);
    let remote = format!("--remote=punix:{RUN}/db.sock");
    let _database = Daemon::start("ovsdb-server", &[&database, &remote], root.path());
    vsctl("--no-wait init");
    let _switch = Daemon::start("ovs-vswitchd", &[], root.path());
    vsctl("add-br sw0 -- set bridge sw0 datapath_type=netdev");
    vsctl("add-port sw0 lan10 tag=10 -- set interface lan10 type=internal");
    ip(&["addr", "add", "198.51.100.1/24", "dev", "lan10"]);
    ip(&["link", "set", "lan10", "up"]);
    clock.lap("a switch was up");

    let (options, node) = open(root.path(), &tiny).await;
    let mut on_switch = nic(6, "openvswitch", "sw0", "198.51.100.6");
    on_switch["vlan"] = json!(".10");
    let web = guest(&options, &tiny, "web.example.com", 6, &[on_switch.clone()]);
    let mut console = boot(&options, &node, &web).await;
    console.wait("GUEST-UP web.example.com address=198.51.100.6/24").await;
    console.wait("# ").await;
    clock.lap("a guest was up");
    console.run(&format!("{PINGS} 198.51.100.1"), "3 packets received").await;

    // On another VLAN it reaches nobody; with both, its own is the untagged one.
    let set = "for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done; \
               ip addr add 198.51.100.6/24 dev eth0; ip link set eth0 up; echo set-$((1 + 1))";
    for (vlan, seen) in [(".20", "100% packet loss"), (".10:20", "3 packets received")] {
        on_switch["vlan"] = json!(vlan);
        plug(&node, &web, Hotplug::Modify, &on_switch).await.unwrap();
        console.run(set, "set-2").await;
        console.run("ping -q -c 3 -W 2 -w 8 198.51.100.1", seen).await;
    }
    assert!(vsctl("list-ports sw0").contains(&tap(6)));
    clock.lap("VLANs were told apart");
    node.stop_instance(&web, Duration::ZERO, "test").await.unwrap();
    assert_eq!(vsctl("list-ports sw0"), "lan10\n");
}
