//! Tests of the crate as a whole: against recorded answers of Ganeti's own allocator, against a search that tries
//! everything, and against what may never happen.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::answer::Found;
use crate::cluster::Cluster;
use crate::iallocator::{answer, input, parse_input, parse_reply};
use crate::instance::{AdminState, Disk, DiskTemplate, Instance, Load};
use crate::picture::{Allocation, EvacuationMode, Options, Picture, Request};
use crate::synthetic::{synthetic_allocation, synthetic_cluster};

/// Inputs and the answers of `hail` 3.0.2-3 (Debian 12), one per line.
const HAIL: &str = include_str!("../fixtures/hail-3.0.2.jsonl");

/// Where we answer otherwise on purpose: a group of one node is not asked to survive its loss, and of many instances
/// those that fit are placed.
const OTHERWISE: [&str; 5] = [
    "allocate-one-node-plain",
    "allocate-one-node-diskless",
    "allocate-one-node-file",
    "multi-allocate-part",
    "multi-allocate-some",
];

/// The score of the group that was selected.
fn score_of(reply: &Value) -> Option<f64> {
    let info = reply["info"].as_str()?;
    let rest = match info.find("Selected group: ") {
        Some(at) => {
            let name = &info[at + 16..];
            let name = &name[..name.find(',')?];
            &info[info.find(&format!("Group {name} ("))?..]
        }
        None => info,
    };
    let rest = &rest[rest.find("score: ")? + 7..];
    rest[..rest.find(',')?].parse().ok()
}

fn opcodes(reply: &Value) -> Vec<Vec<&str>> {
    let jobs = reply["result"][2].as_array().unwrap();
    jobs.iter()
        .map(|job| job.as_array().unwrap().iter().map(|op| op["OP_ID"].as_str().unwrap()).collect())
        .collect()
}

#[test]
fn answers_are_as_good_as_hails() {
    let mut same = 0;
    for line in HAIL.lines() {
        let fixture: Value = serde_json::from_str(line).unwrap();
        let name = fixture["name"].as_str().unwrap();
        let hail = &fixture["hail"];
        let ours = answer(&fixture["input"], Options::default());
        if OTHERWISE.contains(&name) {
            assert_eq!(
                (&hail["success"], &ours["success"]),
                (&json!(false), &json!(true)),
                "{name}"
            );
            continue;
        }
        // What hail dies of with a word on standard error, we refuse.
        let success = hail.get("success").unwrap_or(&json!(false)).clone();
        assert_eq!(ours["success"], success, "{name}: {ours}");
        same += usize::from(ours["result"] == hail["result"]);
        if success == json!(false) {
            continue;
        }
        match fixture["input"]["request"]["type"].as_str().unwrap() {
            "node-evacuate" | "change-group" => {
                assert_eq!(opcodes(&ours), opcodes(hail), "{name}");
                let failed = |reply: &Value| -> Vec<Value> {
                    let list = reply["result"][1].as_array().unwrap();
                    list.iter().map(|item| item[0].clone()).collect()
                };
                assert_eq!(failed(&ours), failed(hail), "{name}");
            }
            "relocate" | "allocate-secondary" => {
                assert_eq!(ours["result"], hail["result"], "{name}")
            }
            _ => {
                // Exclusive storage has a score of another kind there.
                if let (Some(mine), Some(theirs)) = (score_of(&ours), score_of(hail)) {
                    assert!(mine <= theirs + 1e-6, "{name}: {mine} is worse than {theirs}");
                    // And it is the same number that is compared, up to hail's own sums.
                    assert!((mine - theirs).abs() < 1e-6, "{name}: {mine} is not {theirs}");
                }
            }
        }
    }
    assert!(same >= 40, "only {same} answers are the same to the letter");
}

#[test]
fn refusals_give_the_reasons_of_hail() {
    for line in HAIL.lines() {
        let fixture: Value = serde_json::from_str(line).unwrap();
        let name = fixture["name"].as_str().unwrap();
        // A group that is not redundant refuses all in hail; we say which nodes have no memory anyway.
        if OTHERWISE.contains(&name) || name == "allocate-n1-already" {
            continue;
        }
        let reasons = |reply: &Value| -> Option<String> {
            let info = reply["info"].as_str()?;
            Some(info[info.find("failure reasons: ")?..].to_owned())
        };
        if let Some(theirs) = reasons(&fixture["hail"]) {
            let ours = reasons(&answer(&fixture["input"], Options::default()));
            assert_eq!(ours, Some(theirs), "{name}");
        }
    }
}

#[test]
fn inputs_survive_the_round_trip() {
    for line in HAIL.lines() {
        let fixture: Value = serde_json::from_str(line).unwrap();
        let name = fixture["name"].as_str().unwrap();
        let (picture, request) = parse_input(&fixture["input"]).unwrap();
        let written = input(&picture, &request);
        assert_eq!(parse_input(&written).unwrap(), (picture, request), "{name}");
        for key in ["nodes", "nodegroups", "cluster_tags", "ipolicy", "version"] {
            assert_eq!(written[key], fixture["input"][key], "{name}: {key}");
        }
        let keys = |value: &Value| -> Vec<String> {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&written["request"]), keys(&fixture["input"]["request"]), "{name}");
        for (instance, theirs) in fixture["input"]["instances"].as_object().unwrap() {
            assert_eq!(keys(&written["instances"][instance]), keys(theirs), "{name}");
        }
    }
}

fn drbd_request() -> (Picture, Request) {
    (synthetic_cluster(4, 4, 1), Request::Allocate(synthetic_allocation()))
}

#[test]
fn replies_of_scripts_are_checked() {
    let (picture, allocate) = drbd_request();
    let check = |request: &Request, text: &str, expected: &str| {
        let error = parse_reply(text, &picture, request).unwrap_err();
        assert_eq!(format!("{}: {error}", error.class.as_str()), expected);
    };
    check(&allocate, "[]", "OpExecError: Can't parse iallocator results: not a dict");
    check(
        &allocate,
        r#"{"success": true, "result": []}"#,
        "OpExecError: Can't parse iallocator results: missing key 'info'",
    );
    check(
        &allocate,
        r#"{"success": true, "info": "", "result": "node1"}"#,
        "ResultValidationError: iallocator returned invalid result, expected List, got node1",
    );
    check(
        &allocate,
        r#"{"success": true, "info": "", "nodes": ["a"]}"#,
        "ResultValidationError: iallocator returned invalid number of nodes (1), required 2",
    );
    let secondary = Request::AllocateSecondary { name: "x".to_owned() };
    check(
        &secondary,
        r#"{"success": true, "info": "", "result": ["a"]}"#,
        "ResultValidationError: iallocator returned invalid result, expected String, got ['a']",
    );
    let error = parse_reply("nonsense", &picture, &allocate).unwrap_err();
    assert!(error.to_string().starts_with("Can't parse iallocator results: "));

    let reply =
        parse_reply(r#"{"success": false, "info": "no room", "result": []}"#, &picture, &allocate);
    let reply = reply.unwrap();
    assert_eq!((reply.info.as_str(), reply.result), ("no room", None));
}

#[test]
fn relocations_stay_in_the_group() {
    let (mut picture, _) = drbd_request();
    let mut other = picture.groups[0].clone();
    (other.name, other.uuid) = ("other".to_owned(), "u2".to_owned());
    picture.groups.push(other);
    picture.nodes[3].group = "u2".to_owned();
    let instance = &mut picture.instances[0];
    instance.primary = picture.nodes[0].name.clone();
    instance.secondary = Some(picture.nodes[1].name.clone());
    let request = Request::Relocate {
        name: instance.name.clone(),
        relocate_from: vec![picture.nodes[1].name.clone()],
    };
    let reply = |node: &str| json!({"success": true, "info": "", "result": [node]}).to_string();
    let good = parse_reply(&reply("node3.example.com"), &picture, &request).unwrap();
    assert_eq!(good.result, Some(Found::Nodes(vec!["node3.example.com".to_owned()])));
    let bad = parse_reply(&reply("node4.example.com"), &picture, &request).unwrap_err();
    assert_eq!(
        bad.to_string(),
        "Groups of nodes returned by iallocator (default, other) differ from original groups \
         (default)"
    );
}

#[test]
fn our_own_replies_pass_the_check() {
    for line in HAIL.lines() {
        let fixture: Value = serde_json::from_str(line).unwrap();
        let (picture, request) = parse_input(&fixture["input"]).unwrap();
        let ours = crate::answer::solve(&picture, &request, Options::default());
        let read = parse_reply(&ours.to_value().to_string(), &picture, &request).unwrap();
        assert_eq!(read, ours, "{}", fixture["name"]);
    }
}

#[test]
fn a_thousand_nodes_and_ten_thousand_instances() {
    let picture = synthetic_cluster(1000, 10_000, 7);
    let mut cluster = Cluster::new(&picture, Options::default()).unwrap();
    let start = std::time::Instant::now();
    let placement = cluster.allocate(&synthetic_allocation()).unwrap();
    println!("{:?} for {}", start.elapsed(), placement.info);
    assert_eq!(placement.nodes.len(), 2);
    assert!((placement.score - cluster.score()).abs() < 1e-7);
    // Nothing but ties is no harder.
    let mut empty = Cluster::new(&equal_nodes(1000), Options::default()).unwrap();
    let start = std::time::Instant::now();
    let placement = empty.allocate(&synthetic_allocation()).unwrap();
    println!("{:?} for {}", start.elapsed(), placement.info);
    assert_eq!(placement.nodes, ["node1.example.com", "node2.example.com"]);
}

fn equal_nodes(nodes: usize) -> Picture {
    let mut picture = synthetic_cluster(nodes, 0, 1);
    for node in &mut picture.nodes {
        (node.memory_total_mib, node.memory_free_mib) = (65_536, 64_512);
        (node.disk_total_mib, node.disk_free_mib) = (2_000_000, 2_000_000);
        node.cpus_total = 32;
    }
    picture
}

/// The picture with the allocation's instance on these nodes, as a caller would draw it afresh.
fn with_instance(picture: &Picture, allocation: &Allocation, nodes: &[String]) -> Picture {
    let mut picture = picture.clone();
    let disk: i64 = allocation
        .disks
        .iter()
        .filter(|_| allocation.disk_template.uses_volume_group())
        .map(|disk| allocation.disk_template.space_mib(disk.size_mib))
        .sum();
    for (at, name) in nodes.iter().enumerate() {
        let node = picture.nodes.iter_mut().find(|node| node.name == *name).unwrap();
        node.disk_free_mib -= disk;
        if at == 0 {
            node.memory_free_mib -= allocation.memory_mib;
        }
    }
    picture.instances.push(Instance {
        name: allocation.name.clone(),
        tags: allocation.tags.clone(),
        memory_mib: allocation.memory_mib,
        vcpus: allocation.vcpus,
        spindle_use: allocation.spindle_use,
        disk_template: allocation.disk_template,
        disks: allocation.disks.clone(),
        primary: nodes[0].clone(),
        secondary: nodes.get(1).cloned(),
        auto_balance: true,
        ..Instance::default()
    });
    picture
}

/// The best of all pairs and its score, by trying each on a cluster of its own.
fn best_of_all(picture: &Picture, allocation: &Allocation, options: Options) -> Option<f64> {
    let cluster = Cluster::new(picture, options).unwrap();
    let load = Load::of_allocation(allocation, Vec::new());
    let mut best: Option<f64> = None;
    for (first, one) in cluster.nodes.iter().enumerate() {
        if !one.usable || one.fits_primary(&load, options).is_err() {
            continue;
        }
        for (second, other) in cluster.nodes.iter().enumerate() {
            let after = other.with_secondary(&load, Some(first));
            if first == second
                || !other.usable
                || other.fits_secondary(&load, &after, options).is_err()
            {
                continue;
            }
            let nodes = [one.name.clone(), other.name.clone()];
            let drawn = with_instance(picture, allocation, &nodes);
            let score = Cluster::new(&drawn, options).unwrap().score();
            best = Some(best.map_or(score, |best| best.min(score)));
        }
    }
    best
}

/// A cluster with little memory left on some nodes, some of them out of service.
fn scarce(nodes: usize, instances: usize, seed: u64, equal: bool) -> Picture {
    let mut picture =
        if equal { equal_nodes(nodes) } else { synthetic_cluster(nodes, instances, seed) };
    for (at, node) in picture.nodes.iter_mut().enumerate() {
        let dice = (seed.rotate_left(u32::try_from(at).unwrap()) >> 3) % 16;
        match dice {
            0 => node.offline = true,
            1 => node.drained = true,
            2..=8 if !equal => {
                let spare = node.memory_free_mib - 4096 * i64::try_from(dice).unwrap();
                node.memory_free_mib -= spare;
                node.memory_reserved_mib += spare;
            }
            _ => {}
        }
    }
    picture
}

fn template() -> impl Strategy<Value = DiskTemplate> {
    prop::sample::select(vec![DiskTemplate::Drbd, DiskTemplate::Plain, DiskTemplate::Sharedfile])
}

fn allocation(template: DiskTemplate, memory_mib: i64, vcpus: i64) -> Allocation {
    Allocation {
        disk_template: template,
        memory_mib,
        vcpus,
        disks: vec![Disk { size_mib: 30_000, mode: "rw".to_owned(), spindles: None }],
        ..synthetic_allocation()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_accepted_fits(
        nodes in 1_usize..12, instances in 0_usize..80, seed: u64, template in template(),
        memory in 64_i64..40_000, vcpus in 1_i64..12, capacity_checks: bool,
    ) {
        let options = Options { capacity_checks, ..Options::default() };
        let picture = scarce(nodes, instances, seed, false);
        let allocation = allocation(template, memory, vcpus);
        let mut cluster = Cluster::new(&picture, options).unwrap();
        let Ok(placement) = cluster.allocate(&allocation) else { return Ok(()) };
        let drawn = with_instance(&picture, &allocation, &placement.nodes);
        let fresh = Cluster::new(&drawn, options).unwrap();
        prop_assert!((placement.score - fresh.score()).abs() < 1e-7);
        prop_assert!((cluster.score() - fresh.score()).abs() < 1e-7);
        prop_assert!((128..=32_768).contains(&memory) && vcpus <= 8);
        prop_assert_eq!(placement.nodes.len(), template.nodes_required());
        for state in &fresh.nodes {
            let at = cluster.nodes.iter().position(|other| other.name == state.name).unwrap();
            prop_assert_eq!(state.figures, cluster.nodes[at].figures);
            prop_assert_eq!(&state.reserved_for, &cluster.nodes[at].reserved_for);
            if placement.nodes.contains(&state.name) {
                let figures = state.figures;
                prop_assert!(state.usable && !figures.fails_n1() && figures.disk_free >= 0);
                prop_assert!(figures.memory_free > 0 && figures.memory_free_all > 0
                    || placement.nodes[0] != state.name);
                prop_assert!(placement.nodes[0] != state.name
                    || figures.vcpus as f64 <= state.capacity.vcpus_max);
            }
        }
    }

    #[test]
    fn pruned_search_finds_the_best(
        nodes in 2_usize..30, instances in 0_usize..150, seed: u64, equal: bool,
        memory in 128_i64..20_000,
    ) {
        let options = Options { capacity_checks: false, ..Options::default() };
        let picture = scarce(nodes, instances, seed, equal);
        let allocation = allocation(DiskTemplate::Drbd, memory, 2);
        let mut cluster = Cluster::new(&picture, options).unwrap();
        let found = cluster.allocate(&allocation).ok().map(|placement| placement.score);
        let best = best_of_all(&picture, &allocation, options);
        prop_assert_eq!(found.is_some(), best.is_some());
        if let (Some(found), Some(best)) = (found, best) {
            prop_assert!((found - best).abs() < 1e-7, "{} is not {}", found, best);
        }
    }

    #[test]
    fn counts_cover_all_pairs(
        nodes in 2_usize..25, instances in 0_usize..100, seed: u64, memory in 128_i64..20_000,
    ) {
        let options = Options { capacity_checks: false, ..Options::default() };
        let picture = scarce(nodes, instances, seed, false);
        let usable = picture.nodes.iter().filter(|node| !node.offline && !node.drained).count();
        prop_assume!(usable >= 2);
        let mut cluster = Cluster::new(&picture, options).unwrap();
        if let Ok(placement) = cluster.allocate(&allocation(DiskTemplate::Drbd, memory, 2)) {
            let number = |word: &str| -> usize {
                let rest = &placement.info[placement.info.find(word).unwrap() + word.len()..];
                rest.split([',', ' ']).next().unwrap().parse().unwrap()
            };
            prop_assert_eq!(number("successes ") + number("failures "), usable * (usable - 1));
        }
    }

    #[test]
    fn evacuation_leaves_nothing(
        nodes in 2_usize..10, instances in 1_usize..60, seed: u64, which in 0_usize..10,
        mode in prop::sample::select(vec![
            EvacuationMode::PrimaryOnly, EvacuationMode::SecondaryOnly, EvacuationMode::All,
        ]),
    ) {
        let picture = synthetic_cluster(nodes, instances, seed);
        let node = &picture.nodes[which % nodes].name;
        let leaves = |instance: &&Instance| match mode {
            EvacuationMode::PrimaryOnly => instance.primary == *node,
            EvacuationMode::SecondaryOnly => instance.secondary.as_ref() == Some(node),
            EvacuationMode::All => {
                instance.primary == *node || instance.secondary.as_ref() == Some(node)
            }
        };
        let names: Vec<String> =
            picture.instances.iter().filter(leaves).map(|one| one.name.clone()).collect();
        let mut cluster = Cluster::new(&picture, Options::default()).unwrap();
        let failing: Vec<bool> = cluster.nodes.iter().map(|one| one.figures.fails_n1()).collect();
        let plan = cluster.evacuate(&names, mode).unwrap();
        prop_assert_eq!(plan.moved.len() + plan.failed.len(), names.len());
        prop_assert_eq!(plan.jobs.len(), plan.moved.len());
        let at = cluster.nodes.iter().position(|state| state.name == *node).unwrap();
        for index in cluster.nodes[at].primaries.iter().chain(&cluster.nodes[at].secondaries) {
            let member = &cluster.members[*index];
            let failed = plan.failed.iter().any(|(name, _)| *name == member.name);
            let role_left = match mode {
                EvacuationMode::PrimaryOnly => member.primary == at,
                EvacuationMode::SecondaryOnly => member.secondary == Some(at),
                EvacuationMode::All => true,
            };
            prop_assert!(failed || !role_left, "{} stayed", member.name);
        }
        for (state, failing) in cluster.nodes.iter().zip(failing) {
            prop_assert!(failing || !state.figures.fails_n1(), "{} fails N+1", state.name);
        }
    }

    #[test]
    fn moving_there_and_back_changes_nothing(
        nodes in 3_usize..10, instances in 1_usize..60, seed: u64,
    ) {
        let picture = synthetic_cluster(nodes, instances, seed);
        let fresh = Cluster::new(&picture, Options::default()).unwrap();
        let mut cluster = fresh.clone();
        let home = (cluster.members[0].primary, cluster.members[0].secondary);
        let all: Vec<usize> = (0..nodes).collect();
        let _ = cluster.move_both(0, &all, None); // moved or not, it is put home next
        cluster.put(0, home.0, home.1);
        for (one, other) in cluster.nodes.iter().zip(&fresh.nodes) {
            prop_assert_eq!(one.figures, other.figures);
            prop_assert_eq!(&one.reserved_for, &other.reserved_for);
        }
    }

    #[test]
    fn pictures_survive_the_protocol(nodes in 2_usize..6, instances in 0_usize..10, seed: u64) {
        let mut picture = synthetic_cluster(nodes, instances, seed);
        // What the protocol does not carry.
        picture.nodes.iter_mut().for_each(|node| node.uuid.clear());
        picture.instances.iter_mut().for_each(|instance| instance.uuid.clear());
        let request = Request::Allocate(synthetic_allocation());
        let read = parse_input(&input(&picture, &request)).unwrap();
        prop_assert_eq!(read, (picture, request));
    }
}

#[test]
fn stopped_instances_keep_their_share() {
    let mut picture = equal_nodes(2);
    let template = DiskTemplate::Sharedfile;
    for (state, memory, free_all) in [
        (AdminState::Up, 64_512, 4_512),
        (AdminState::Down, 64_512, 4_512),
        (AdminState::Offline, 64_512, 4_512),
    ] {
        picture.nodes[0].memory_free_mib =
            if state == AdminState::Up { memory - 60_000 } else { memory };
        picture.instances = vec![Instance {
            name: "a".to_owned(),
            admin_state: state,
            memory_mib: 60_000,
            disk_template: template,
            primary: "node1.example.com".to_owned(),
            auto_balance: true,
            ..Instance::default()
        }];
        let options = Options { capacity_checks: false, ..Options::default() };
        let mut cluster = Cluster::new(&picture, options).unwrap();
        assert_eq!(cluster.nodes[0].figures.memory_free_all, free_all);
        let placement = cluster.allocate(&allocation(template, 5000, 1)).unwrap();
        assert_eq!(placement.nodes, ["node2.example.com"]);
    }
}
