//! What the routes that submit nothing ask the engine, and what they make of its answers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use std::sync::Arc;

use serde_json::{Value, json};

use model::engine::{CONNECT_TIMED_OUT, JobChange};
use model::error::{ErrorClass, GanetiError};
use model::opcode::Audience;
use model::param::{Dict, TagKind};
use model::query::Item;
use rapi::error::HttpError;
use rapi::input::Method::{Delete, Get, Post, Put};

use crate::fake::{Asked, FakeEngine, NOW, ask};

fn dict(value: Value) -> Dict {
    match value {
        Value::Object(dict) => dict,
        other => panic!("{other} is no object"),
    }
}

fn fake() -> FakeEngine {
    FakeEngine::default()
}

fn with_items() -> Arc<FakeEngine> {
    let items = vec![
        (Item::Instance, dict(json!({"name": "web2", "beparams": {"maxmem": 512}}))),
        (
            Item::Instance,
            dict(json!({"name": "web10", "beparams": {"maxmem": 1}, "oper_state": true,
            "console": {"instance": "web10", "kind": "ssh", "host": null}})),
        ),
        (Item::Node, dict(json!({"name": "node1", "sip": "192.0.2.1", "role": "M"}))),
        (Item::Group, dict(json!({"name": "default"}))),
        (Item::Network, dict(json!({"name": "lan"}))),
    ];
    Arc::new(FakeEngine { items, ..fake() })
}

fn refusal(status: u16, message: &str) -> Result<Value, HttpError> {
    Err(HttpError::new(status, message))
}

#[tokio::test]
async fn the_top_lists_what_is_mapped() {
    let engine = Arc::new(fake());
    let root = ask(&engine, Get, "/", None).await.unwrap();
    assert_eq!(root, json!([{"name": "2", "uri": "/2"}, {"name": "version", "uri": "/version"}]));
    let two = ask(&engine, Get, "/2", None).await.unwrap();
    let names: Vec<&str> =
        two.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "features",
            "filters",
            "groups",
            "info",
            "instances",
            "instances-multi-alloc",
            "jobs",
            "modify",
            "networks",
            "nodes",
            "os",
            "query",
            "redistribute-config",
            "tags",
        ]
    );
    assert_eq!(two[0]["uri"], "/2/features");
    assert_eq!(ask(&engine, Get, "/version", None).await, Ok(json!(2)));
}

#[tokio::test]
async fn information_has_its_aliases() {
    let info = ask(&Arc::new(fake()), Get, "/2/info", None).await.unwrap();
    assert_eq!((&info["vg_name"], &info["drbd_helper"]), (&json!("xenvg"), &Value::Null));
    assert!(info.as_object().unwrap().contains_key("drbd_helper"));
}

#[tokio::test]
async fn lists_name_their_objects() {
    let engine = with_items();
    let list = ask(&engine, Get, "/2/instances", None).await.unwrap();
    let entry =
        |name: &str| json!({"id": name, "name": name, "uri": format!("/2/instances/{name}")});
    assert_eq!(list, json!([entry("web10"), entry("web2")]));
    let list = ask(&engine, Get, "/2/nodes", None).await.unwrap();
    assert_eq!(list, json!([{"id": "node1", "uri": "/2/nodes/node1"}]));
    let list = ask(&engine, Get, "/2/groups", None).await.unwrap();
    assert_eq!(list, json!([{"name": "default", "uri": "/2/groups/default"}]));
    let list = ask(&engine, Get, "/2/networks?bulk=0", None).await.unwrap();
    assert_eq!(list, json!([{"name": "lan", "uri": "/2/networks/lan"}]));
}

#[tokio::test]
async fn whole_objects_have_their_aliases() {
    let engine = with_items();
    let list = ask(&engine, Get, "/2/instances?bulk=1", None).await.unwrap();
    assert_eq!(list[0]["beparams"], json!({"maxmem": 512, "memory": 512}));
    assert_eq!(list[0].as_object().unwrap().len(), 36);
    let one = ask(&engine, Get, "/2/instances/web10", None).await.unwrap();
    assert_eq!(one, list[1]);
    let node = ask(&engine, Get, "/2/nodes/node1", None).await.unwrap();
    assert_eq!(node["secondary_ip"], "192.0.2.1");
    assert_eq!(node.as_object().unwrap().len(), 32);
    assert_eq!(
        ask(&engine, Get, "/2/nodes?bulk=1&lock=1", None).await.unwrap()[0]["name"],
        "node1"
    );
}

#[tokio::test]
async fn locks_are_for_nobody() {
    let refused = refusal(500, "('Sync queries are not allowed', 'wrong_input')");
    for target in ["/2/instances?lock=1", "/2/instances?bulk=1&lock=1", "/2/nodes/node1?lock=1"] {
        assert_eq!(ask(&with_items(), Get, target, None).await, refused, "{target}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_not_found() {
    let engine = with_items();
    for target in ["/2/instances/x", "/2/nodes/x", "/2/groups/x", "/2/networks/x", "/2/filters/x"] {
        assert_eq!(ask(&engine, Get, target, None).await, Err(HttpError::not_found()), "{target}");
    }
    let error = GanetiError::unknown_entity("Instance 'x' not known");
    let engine = Arc::new(FakeEngine { refuse: Some(error), ..fake() });
    assert_eq!(ask(&engine, Get, "/2/instances/x", None).await, Err(HttpError::not_found()));
    let tags = ask(&engine, Get, "/2/instances/x/tags", None).await;
    assert_eq!(tags, refusal(500, "(\"Instance 'x' not known\", 'unknown_entity')"));
}

#[tokio::test]
async fn roles_are_words_and_consoles_lose_their_nulls() {
    let engine = with_items();
    assert_eq!(ask(&engine, Get, "/2/nodes/node1/role", None).await, Ok(json!("master")));
    let console = ask(&engine, Get, "/2/instances/web10/console", None).await;
    assert_eq!(console, Ok(json!({"instance": "web10", "kind": "ssh"})));
    let stopped = ask(&engine, Get, "/2/instances/web2/console", None).await;
    assert_eq!(stopped, refusal(503, "Instance console unavailable"));
    // A master daemon may not be able to read what a node says of a console.
    let running = dict(json!({"name": "web3", "oper_state": true, "console": null}));
    let engine = Arc::new(FakeEngine { items: vec![(Item::Instance, running)], ..fake() });
    let unread = ask(&engine, Get, "/2/instances/web3/console", None).await;
    assert_eq!(unread, Err(HttpError::plain(500)));
}

#[tokio::test]
async fn jobs_are_shown_listed_and_cancelled() {
    let jobs = vec![dict(json!({"id": 12, "status": "success"})), dict(json!({"id": 7}))];
    let engine = Arc::new(FakeEngine { jobs, ..fake() });
    let list = ask(&engine, Get, "/2/jobs", None).await;
    assert_eq!(list, Ok(json!([{"id": 7, "uri": "/2/jobs/7"}, {"id": 12, "uri": "/2/jobs/12"}])));
    let bulk = ask(&engine, Get, "/2/jobs?bulk=1", None).await.unwrap();
    assert_eq!(bulk[0].as_object().unwrap().len(), 8);
    assert_eq!(ask(&engine, Get, "/2/jobs/12", None).await.unwrap()["status"], "success");
    let unknown = ask(&engine, Get, "/2/jobs/007", None).await.unwrap();
    assert_eq!(unknown["id"], 7);
    let unknown = ask(&engine, Get, "/2/jobs/999999", None).await.unwrap();
    assert_eq!((&unknown["id"], &unknown["opresult"]), (&json!(999_999), &Value::Null));
    assert_eq!(unknown.as_object().unwrap().len(), 10);
    let cancelled = ask(&engine, Delete, "/2/jobs/5", None).await;
    assert_eq!(cancelled, Ok(json!([false, "Job 5 not found in queue"])));
}

#[tokio::test]
async fn waiting_tells_what_was_seen() {
    let engine = Arc::new(fake());
    let body =
        json!({"fields": ["status"], "previous_job_info": ["running"], "previous_log_serial": 3});
    assert_eq!(ask(&engine, Get, "/2/jobs/5/wait", Some(body)).await, Ok(Value::Null));
    let asked = Asked::Wait(5, vec!["status".into()], Some(vec![json!("running")]), Some(3));
    assert_eq!(*engine.asked.lock().unwrap(), [asked]);
    let change = JobChange { job_info: vec![json!("success")], log_entries: vec![] };
    let engine = Arc::new(FakeEngine { change: Some(change), ..fake() });
    let answer = ask(&engine, Get, "/2/jobs/5/wait", Some(json!({"fields": ["status"]}))).await;
    assert_eq!(answer, Ok(json!({"job_info": ["success"], "log_entries": []})));
}

#[tokio::test]
async fn queries_take_their_filter_and_fields_from_either_place() {
    let check = async |method,
                       target: &str,
                       body: Option<Value>,
                       fields: &[&str],
                       filter: Value| {
        let engine = Arc::new(fake());
        ask(&engine, method, target, body).await.unwrap();
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        assert_eq!(*engine.asked.lock().unwrap(), [Asked::Query("node".into(), fields, filter)]);
    };
    check(Get, "/2/query/node?fields=name,%20role", None, &["name", "role"], json!(null)).await;
    let body = json!({"fields": ["a b"], "filter": ["?", "x"]});
    check(Put, "/2/query/node", Some(body), &["a b"], json!(["?", "x"])).await;
    let body = json!({"qfilter": ["?", "y"], "filter": ["?", "x"]});
    check(Put, "/2/query/node?fields=name", Some(body), &["name"], json!(["?", "y"])).await;
}

#[tokio::test]
async fn rules_are_added_and_replaced() {
    let rules = vec![dict(json!({"uuid": "b", "priority": 1})), dict(json!({"uuid": "a"}))];
    let engine = Arc::new(FakeEngine { rules, ..fake() });
    let list = ask(&engine, Get, "/2/filters", None).await;
    assert_eq!(
        list,
        Ok(json!([{"uuid": "a", "uri": "/2/filters/a"}, {"uuid": "b", "uri": "/2/filters/b"}]))
    );
    assert_eq!(ask(&engine, Get, "/2/filters/b", None).await.unwrap()["priority"], 1);
    ask(&engine, Post, "/2/filters", Some(json!({}))).await.unwrap();
    let body = json!({"priority": 5, "action": "PAUSE"});
    ask(&engine, Put, "/2/filters/b", Some(body)).await.unwrap();
    let replace = |uuid: Option<&str>, priority, action| {
        Asked::Replace(uuid.map(str::to_owned), priority, json!([]), json!(action), json!([]))
    };
    let expected = [replace(None, 0, "CONTINUE"), replace(Some("b"), 5, "PAUSE")];
    assert_eq!(*engine.asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn tags_are_asked_by_kind() {
    let engine = Arc::new(fake());
    for target in ["/2/tags", "/2/groups/g/tags", "/2/nodes/n/tags", "/2/networks/w/tags"] {
        assert_eq!(ask(&engine, Get, target, None).await, Ok(json!(["a", "b"])));
    }
    let asked = |kind, name: &str| Asked::Tags(kind, name.to_owned());
    let expected = [
        asked(TagKind::Cluster, ""),
        asked(TagKind::Nodegroup, "g"),
        asked(TagKind::Node, "n"),
        asked(TagKind::Network, "w"),
    ];
    assert_eq!(*engine.asked.lock().unwrap(), expected);
}

/// The opcodes that a request submits, in the form that clients see.
async fn ops(method: rapi::input::Method, target: &str, body: Option<Value>) -> Vec<Dict> {
    let engine = Arc::new(fake());
    assert_eq!(ask(&engine, method, target, body).await, Ok(json!(1)), "{target}");
    let submitted = engine.submitted.lock().unwrap();
    submitted[0].iter().map(|op| op.to_wire(Audience::Engine, engine.compat)).collect()
}

#[tokio::test]
async fn tags_come_from_query_and_body() {
    let op = &ops(Put, "/2/nodes/n/tags?tag=a&tag=b", Some(json!(["c"]))).await[0];
    assert_eq!(
        (&op["tags"], &op["kind"], &op["name"]),
        (&json!(["a", "b", "c"]), &json!("node"), &json!("n"))
    );
    let op = &ops(Delete, "/2/tags?tag=a", Some(json!(["c"]))).await[0];
    assert_eq!((&op["tags"], &op["name"]), (&json!(["a"]), &Value::Null));
    let refused = ask(&Arc::new(fake()), Put, "/2/tags", Some(json!([1]))).await;
    let text = "Invalid body parameters: (\"Parameter 'OP_TAGS_SET.tags' fails validation\", 'wrong_input')";
    assert_eq!(refused, refusal(400, text));
}

#[tokio::test]
async fn reasons_trail_and_dependencies_are_taken_from_any_object() {
    let body = json!({"depends": [[-1, ["success"]]], "other": 1});
    let op = &ops(Put, "/2/instances/web/startup?reason=because&force=1", Some(body)).await[0];
    assert_eq!(
        op["reason"],
        json!([
            ["gnt:user", "because", NOW],
            ["gnt:library:rlib2:instances_name_startup", "", NOW]
        ])
    );
    assert_eq!((&op["depends"], &op["force"]), (&json!([[-1, ["success"]]]), &json!(true)));
}

#[tokio::test]
async fn the_older_forms_work() {
    let op = &ops(Post, "/2/nodes/n/evacuate?iallocator=hail", None).await[0];
    assert_eq!((&op["mode"], &op["iallocator"]), (&json!("secondary-only"), &json!("hail")));
    let op =
        &ops(Post, "/2/nodes/n/evacuate?remote_node=m&early_release=1&dry-run=1", Some(json!({})))
            .await[0];
    assert_eq!(
        (&op["remote_node"], &op["early_release"], &op["dry_run"]),
        (&json!("m"), &json!(true), &json!(true))
    );
    for (query, mode) in [("live=1", "live"), ("live=0", "non-live"), ("mode=live", "live")] {
        let op =
            &ops(Post, &format!("/2/nodes/n/migrate?{query}"), Some(json!({"mode": 5}))).await[0];
        assert_eq!(op["mode"], json!(mode));
    }
    let target = "/2/instances/web/replace-disks?mode=replace_on_primary&disks=0,%201";
    let op = &ops(Post, target, None).await[0];
    assert_eq!((&op["mode"], &op["disks"]), (&json!("replace_on_primary"), &json!([0, 1])));
    let both = ops(Post, "/2/instances/web/reinstall?os=tiny&nostartup=1", None).await;
    assert_eq!(both.len(), 2);
    assert_eq!(
        (&both[0]["OP_ID"], &both[1]["os_type"]),
        (&json!("OP_INSTANCE_SHUTDOWN"), &json!("tiny"))
    );
    assert_eq!(ops(Post, "/2/instances/web/reinstall", Some(json!({"os": "tiny"}))).await.len(), 3);
}

#[tokio::test]
async fn creation_is_of_version_1() {
    let mut body = json!({"name": "web", "os": "tiny", "disks": [], "nics": [], "mode": "create",
        "hvparams": {"usb_devices": "a b"}});
    let refused = ask(&Arc::new(fake()), Post, "/2/instances", Some(body.clone())).await;
    let text = refused.unwrap_err().message.unwrap();
    assert!(text.starts_with("Instance creation request version 0 is no longer supported"));
    assert!(text.contains("'__version__': 1"), "{text}");
    body["__version__"] = json!(1);
    let op = &ops(Post, "/2/instances?dry-run=1", Some(body)).await[0];
    assert_eq!(
        (&op["instance_name"], &op["os_type"], &op["dry_run"], &op["hvparams"]),
        (&json!("web"), &json!("tiny"), &json!(true), &json!({"usb_devices": "a,b"}))
    );
}

#[tokio::test]
async fn several_creations_are_opcodes_in_an_opcode() {
    let one = json!({"name": "web", "os": "tiny", "disks": [], "nics": [], "mode": "create"});
    let body = json!({"iallocator": "hail", "instances": [one]});
    let op = &ops(Post, "/2/instances-multi-alloc", Some(body)).await[0];
    let inner = &op["instances"][0];
    assert_eq!(
        (&inner["OP_ID"], &inner["instance_name"], &inner["reason"]),
        (&json!("OP_INSTANCE_CREATE"), &json!("web"), &json!([]))
    );
}

#[tokio::test]
async fn operating_systems_are_named_with_their_variants() {
    let rows = json!([["tiny", []], ["debian", ["minimal", "default"]]]);
    let change = JobChange { job_info: vec![json!("success"), json!([rows])], log_entries: vec![] };
    let engine = Arc::new(FakeEngine { change: Some(change), ..fake() });
    let names = ask(&engine, Get, "/2/os", None).await;
    assert_eq!(names, Ok(json!(["tiny", "debian+minimal", "debian+default"])));
    assert!(engine.submitted.lock().unwrap()[0][0].common.reason.is_empty());
    let job = |status: &str, result: Value| {
        let change = JobChange { job_info: vec![json!(status), result], log_entries: vec![] };
        Arc::new(FakeEngine { change: Some(change), ..fake() })
    };
    let odd = ask(&job("success", json!([null])), Get, "/2/os", None).await;
    assert_eq!(odd, refusal(502, "Can't get OS list"));
    let failed = job("error", json!([["OpExecError", ["no node answers"]]]));
    assert_eq!(ask(&failed, Get, "/2/os", None).await, refusal(500, "no node answers"));
}

#[tokio::test]
async fn a_closed_queue_has_its_own_words() {
    let check = async |class, status, text: &str| {
        let engine = Arc::new(FakeEngine { refuse: Some(GanetiError::new(class, "x")), ..fake() });
        assert_eq!(ask(&engine, Put, "/2/tags?tag=a", None).await, refusal(status, text));
    };
    check(ErrorClass::JobQueueFull, 503, "Job queue is full, needs archiving").await;
    check(ErrorClass::JobQueueDrainError, 503, "Job queue is drained, cannot submit").await;
    check(ErrorClass::NoMasterError, 502, "Can't connect to master daemon: x").await;
    check(ErrorClass::TimeoutError, 504, "Timeout while talking to the master daemon: x").await;
    check(ErrorClass::GenericError, 500, "x").await;
    // Who does not even get through to the master daemon has not begun to submit.
    let refuse = Some(GanetiError::new(ErrorClass::TimeoutError, CONNECT_TIMED_OUT));
    let answer = ask(&Arc::new(FakeEngine { refuse, ..fake() }), Put, "/2/tags?tag=a", None).await;
    assert_eq!(answer, Err(HttpError::plain(504)));
}

#[tokio::test]
async fn rows_that_come_as_text_are_answered_as_those_that_are_values() {
    let object = |at: usize| {
        let names = (0..30).map(|tag| format!("t\u{e4}g{tag}"));
        let dict = json!({"name": format!("web{at}"), "beparams": {"maxmem": at}, "sip": "192.0.2.1",
            "tags": names.collect::<Vec<_>>(), "ctime": 1.5, "status": "running"});
        dict.as_object().unwrap().clone()
    };
    let engine = |text| {
        let kinds = [Item::Instance, Item::Node, Item::Group, Item::Network];
        let items = kinds.iter().flat_map(|item| (0..900).map(|at| (*item, object(at)))).collect();
        let job = |id| json!({"id": id, "status": "success"}).as_object().unwrap().clone();
        let jobs = (1..1200).map(job).collect();
        Arc::new(FakeEngine { items, jobs, text, ..FakeEngine::default() })
    };
    let (values, text) = (engine(false), engine(true));
    for target in [
        "/2/instances?bulk=1",
        "/2/instances",
        "/2/instances/web5",
        "/2/instances/nosuch",
        "/2/nodes?bulk=1",
        "/2/nodes/web7",
        "/2/nodes",
        "/2/groups?bulk=1",
        "/2/networks?bulk=1",
        "/2/networks",
        "/2/jobs?bulk=1",
        "/2/jobs",
        "/2/jobs/5",
        "/2/jobs/99999",
        "/2/query/node?fields=name",
    ] {
        let asked = |engine| async move { ask(engine, Get, target, None).await };
        assert_eq!(asked(&text).await, asked(&values).await, "{target}");
    }
}
