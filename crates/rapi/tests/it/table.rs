//! Laws of the route table.

use std::collections::BTreeSet;

use model::compat::Compat;
use model::opcode::COMMON_PARAMS;
use rapi::input::Method;
use rapi::route::{Access, Body, find};
use rapi::table::ROUTES;

#[test]
fn every_route_of_ganeti_is_there_with_its_access() {
    let access = |access| match access {
        Access::Open => "open",
        Access::Read => "read",
        Access::Write => "write",
    };
    let ours: BTreeSet<String> = ROUTES
        .iter()
        .map(|route| format!("{} {} {}", route.method.as_str(), route.path, access(route.access)))
        .collect();
    let theirs: BTreeSet<String> =
        include_str!("../fixtures/routes.txt").lines().map(str::to_owned).collect();
    assert_eq!(ours, theirs);
    assert_eq!(ROUTES.len(), 84);
}

#[test]
fn every_row_fills_parameters_that_its_opcode_has() {
    for route in ROUTES {
        let row = format!("{} {}", route.method.as_str(), route.path);
        let Some(op) = route.opcode() else {
            assert!(route.doc.is_some() && route.result.is_some(), "{row} says too little");
            assert!(!matches!(route.body, Body::Params(_)), "{row} has no parameters");
            continue;
        };
        let known = |name: &str| {
            op.params(Compat::V31).any(|param| param.name == name)
                || COMMON_PARAMS.iter().any(|param| param.name == name)
        };
        for param in route.query.iter().filter_map(|arg| arg.fills) {
            assert!(known(param), "{row} fills {param}");
        }
        if let Body::Params(renames) = route.body {
            for (old, new) in renames {
                assert!(known(new) && !known(old), "{row} renames {old} to {new}");
            }
        }
    }
}

#[test]
fn every_row_is_found_by_its_path() {
    for route in ROUTES {
        let path = route.path.replace("{job_id}", "7").replace("{disk_index}", "0");
        let path = path.replace(['{', '}'], "");
        let found = find(&path).unwrap();
        assert!(std::ptr::eq(found.method(route.method).unwrap(), route), "{path}");
        let names: Vec<&str> = found.path_vars.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, route.path_vars().collect::<Vec<_>>());
    }
}

#[test]
fn only_open_rows_need_no_user_and_only_a_wait_waits() {
    for route in ROUTES {
        let row = format!("{} {}", route.method.as_str(), route.path);
        let exempt = route.path.starts_with("/2/query/");
        assert!(route.method == Method::Get || exempt || route.access == Access::Write, "{row}");
        let waits = ["/2/jobs/{job_id}/wait", "/2/os"].contains(&route.path);
        assert_eq!(route.waits, waits, "{row}");
    }
}
