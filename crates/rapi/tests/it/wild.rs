//! Whatever a body holds, a route answers or refuses, and never panics.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use model::compat::Compat;
use rapi::route::Body;
use rapi::table::ROUTES;

use crate::fake::{FakeEngine, ask};

/// JSON of a few levels whose objects have keys that mean something often enough.
fn wild_json(keys: Vec<&'static str>) -> impl Strategy<Value = Value> {
    let texts = ["", "a", "1", "0,1", "create", "live", "10.0.0.0/8", "10.0.0.1", "secondary-only"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..20).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        let key = prop_oneof![
            4 => prop::sample::select(keys.clone()).prop_map(str::to_owned),
            1 => "[a-z_]{1,8}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// The names that any route takes in its body.
fn keys() -> Vec<&'static str> {
    let mut keys = vec![
        "__version__",
        "depends",
        "reason",
        "dry_run",
        "priority",
        "usb_devices",
        "fields",
        "qfilter",
        "filter",
        "previous_job_info",
        "previous_log_serial",
        "predicates",
        "action",
        "os",
        "start",
        "osparams",
        "compression_tools",
    ];
    for route in ROUTES {
        keys.extend(
            route.opcode().into_iter().flat_map(|op| op.params(Compat::V31)).map(|p| p.name),
        );
        if let Body::Params(renames) = route.body {
            keys.extend(renames.iter().map(|(old, _)| *old));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_body_is_answered_or_refused(
        body in wild_json(keys()),
        argument in prop::sample::select(vec![
            "", "bulk", "lock", "dry-run", "force", "live", "mode", "os", "disks", "tag", "name",
            "storage_type", "output_fields", "fields", "reason", "iallocator", "static", "type",
        ]),
        value in prop_oneof![Just("1".to_owned()), Just("-1_0".to_owned()), "[ -~&&[^&%+]]{0,6}"],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let change = model::engine::JobChange {
            job_info: vec![json!("success"), json!([[["tiny", []]]])],
            log_entries: vec![],
        };
        let engine = Arc::new(FakeEngine { change: Some(change), ..FakeEngine::default() });
        for route in ROUTES {
            let path = route.path.replace("{job_id}", "7").replace("{disk_index}", "0");
            let target = format!("{}?{argument}={value}", path.replace(['{', '}'], ""));
            let answer = runtime.block_on(ask(&engine, route.method, &target, Some(body.clone())));
            if let Err(error) = answer {
                prop_assert!((400..600).contains(&error.status), "{target}: {error:?}");
                let document: Value = serde_json::from_str(&error.document()).unwrap();
                prop_assert_eq!(&document["code"], &json!(error.status));
            }
        }
    }
}
