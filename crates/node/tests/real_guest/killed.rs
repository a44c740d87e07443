//! A server that is killed wherever it touches the world while it makes or takes away NICs: the next one leaves no tap device
//! that no QEMU has, and the same call puts everything right. The server that is killed is this test, started again for one
//! step.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use node::{Device, Hotplug, InstanceSpec, LocalNode, LocalOptions, Node, NodeError};
use serde_json::Value;

use crate::guest::{Clock, Leftovers, STEP, run_state};
use crate::network::{boot, guest, inside, ip, nic, open, run, tap, taps};

const TEST: &str = "killed::a_killed_server_leaves_no_device";
/// What the server that is killed is to do, and where.
const STEP_OF: &str = "RAPID_TEST_STEP";
const ROOT: &str = "RAPID_TEST_ROOT";
/// More places than any step passes.
const PLACES_MAX: usize = 300;

/// Something that the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Start,
    Add,
    Remove,
    Stop,
}

impl Doing {
    const ALL: [Self; 4] = [Self::Add, Self::Remove, Self::Stop, Self::Start];

    fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|step| format!("{step:?}") == name).unwrap()
    }

    async fn run(self, node: &LocalNode, spec: &InstanceSpec) -> Result<(), NodeError> {
        match self {
            Self::Start => node.start_instance(spec, true).await,
            Self::Stop => node.stop_instance(spec, Duration::ZERO, "test").await,
            Self::Add => node.hotplug(spec, Hotplug::Add, &second(), 1).await,
            Self::Remove => node.hotplug(spec, Hotplug::Remove, &second(), 1).await,
        }
    }
}

fn second() -> Device {
    Device::Nic(serde_json::from_value(nic(9, "routed", "100", "198.51.100.9")).unwrap())
}

fn web(options: &LocalOptions, tiny: &Path) -> InstanceSpec {
    let mut spec =
        guest(options, tiny, "web.example.com", 8, &[nic(8, "bridged", "br0", "192.0.2.18")]);
    spec.tags = vec!["mac-filtered".into()];
    spec
}

/// A node that finds nothing to try `/dev/kvm` with.
fn options(root: &Path) -> LocalOptions {
    let mut options = LocalOptions::new("here", root);
    options.os_search_path.clear();
    options.network_script_dirs.clear();
    options
}

/// The NICs that are known of the instance, if it runs.
fn known(root: &Path) -> Option<Vec<String>> {
    let notes = std::fs::read_dir(root.join("run/instances")).unwrap().flatten();
    let note = notes.map(|note| note.path()).find(|path| path.extension().is_some())?;
    let runtime: Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
    let nics = runtime["spec"]["nics"].as_array().unwrap();
    let uuids = nics.iter().map(|nic| nic["uuid"].as_str().unwrap()[..8].to_owned());
    Some(uuids.map(|uuid| tap(uuid.parse().unwrap())).collect())
}

/// Brings the instance to where a step begins.
async fn prepare(step: Doing, node: &LocalNode, spec: &InstanceSpec, root: &Path) {
    let has_second = known(root).is_some_and(|taps| taps.contains(&tap(9)));
    match step {
        Doing::Start => Doing::Stop.run(node, spec).await.unwrap(),
        Doing::Stop if known(root).is_none() => Doing::Start.run(node, spec).await.unwrap(),
        Doing::Add if has_second => Doing::Remove.run(node, spec).await.unwrap(),
        Doing::Remove if !has_second => Doing::Add.run(node, spec).await.unwrap(),
        Doing::Stop | Doing::Add | Doing::Remove => {}
    }
}

/// Does a step in a server that is killed at the place of that number; answers whether it was.
async fn killed(step: Doing, place: usize, root: &Path, tiny: &Path) -> bool {
    let order = root.join("kill-at");
    std::fs::write(&order, place.to_string()).unwrap();
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args([TEST, "--exact", "--nocapture"]).env("RAPID_KILL_AT", &order);
    command.env("RAPID_TEST_TINY", tiny).env(STEP_OF, format!("{step:?}")).env(ROOT, root);
    let status = tokio::time::timeout(STEP, command.kill_on_drop(true).status()).await;
    let status = status.unwrap().unwrap();
    std::fs::remove_file(&order).unwrap();
    assert!(status.success() || status.signal() == Some(9), "{step:?} at {place}: {status}");
    !status.success()
}

#[tokio::test]
async fn a_killed_server_leaves_no_device() {
    if let Some(step) = std::env::var_os(STEP_OF) {
        let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
        let tiny = inside(TEST).await.unwrap();
        let node = LocalNode::open(options(&root)).await.unwrap();
        let spec = web(&options(&root), &tiny);
        Doing::parse(&step.into_string().unwrap()).run(&node, &spec).await.unwrap();
        return;
    }
    let Some(tiny) = inside(TEST).await else { return };
    let mut clock = Clock(Instant::now());
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let _leftovers = Leftovers(root.to_owned());
    let (first, node) = open(root, &tiny).await;
    let spec = web(&first, &tiny);
    // Devices are pulled out of a guest that can hear it only.
    let mut console = boot(&first, &node, &spec).await;
    console.wait("GUEST-UP web.example.com").await;
    drop((node, console));
    clock.lap("a guest was up");
    for step in Doing::ALL {
        let mut place = 1;
        loop {
            let node = LocalNode::open(options(root)).await.unwrap();
            prepare(step, &node, &spec, root).await;
            drop(node);
            if !killed(step, place, root, &tiny).await {
                break;
            }
            let node = LocalNode::open(options(root)).await.unwrap();
            let running = run_state(&node, &spec.name).is_some();
            let known = known(root).unwrap_or_default();
            assert_eq!(running, !known.is_empty(), "{step:?} at {place}");
            assert_eq!(taps(), known, "{step:?} at {place}");
            let after = step.run(&node, &spec).await;
            // What has gone cannot go again.
            let gone = step == Doing::Remove && !known.contains(&tap(9));
            assert_eq!(after.is_err(), gone, "{step:?} at {place}: {after:?}");
            place += 1;
            assert!(place < PLACES_MAX, "{step:?} does not end");
        }
        assert!(place > 10, "{step:?} passes {place} places only");
        clock.lap(&format!("{step:?} was killed at {} places", place - 1));
    }
    let node = LocalNode::open(options(root)).await.unwrap();
    Doing::Stop.run(&node, &spec).await.unwrap();
    assert_eq!(taps(), [""; 0]);
    let rules = ip(&["rule"]);
    assert!(!rules.contains("tap"), "{rules}");
    assert_eq!(run("nft", &["list", "ruleset"]), "");
}
