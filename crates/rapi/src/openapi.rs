//! What the route table says, for programs: the OpenAPI document, and the list of who may call what. The manual for people is
//! made in [`crate::manual`] of the same.

use serde_json::{Map, Value, json};

use model::compat::Compat;
use model::opcode::{COMMON_PARAMS, OpId, ParamDef};
use model::query::Resource;

use crate::beside::{self, BESIDE, Beside};
use crate::fill;
use crate::input::Input;
use crate::resources::lists;
use crate::route::{Access, Action, ArgKind, Body, QueryArg, Route, find};
use crate::table::ROUTES;

/// The release that is described; what only the older one has is not.
pub(crate) const COMPAT: Compat = Compat::V31;

/// The argument that every route has which fills an opcode.
const REASON: QueryArg = QueryArg {
    name: "reason",
    doc: "Why; kept with the job.",
    kind: ArgKind::Text(None),
    fills: None,
    required: false,
};

/// docs/access.txt: a line for each route, so that a change of rights is a change of a line.
pub fn access() -> String {
    let line = |route: &Route| {
        format!("{:<6} {:<5} {}\n", route.method.as_str(), route.access.as_str(), route.path)
    };
    let ours = |row: &Beside| {
        format!("{:<6} {:<5} {}\n", row.method.as_str(), row.access.as_str(), row.path)
    };
    ROUTES.iter().map(line).chain(BESIDE.iter().map(ours)).collect()
}

/// docs/openapi.json: the OpenAPI document of the whole remote API.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let item =
            paths.entry(route.path).or_insert_with(|| json!({"parameters": path_params(route)}));
        if let Value::Object(item) = item {
            item.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
        }
    }
    beside::describe(&mut paths);
    let groups = GROUPS.iter().chain([&beside::GROUP]);
    let tags = groups.map(|(name, doc)| json!({"name": name, "description": doc}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ganeti remote API",
            "version": "2",
            "summary": "The remote API of a Ganeti cluster, as Rapid serves it.",
            "description": "Requests that change something submit a job and answer its id; ask /2/jobs/{job_id} what became of it. \
                            Operations that need a user with an option name it as x-access.",
            "license": {"name": "BSD-2-Clause", "identifier": "BSD-2-Clause"},
        },
        "servers": [{"url": "https://localhost:5080"}],
        "tags": tags.collect::<Value>(),
        "paths": paths,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["code", "message", "explain"],
                    "properties": {
                        "code": {"type": "integer", "description": "The HTTP status."},
                        "message": {"type": "string", "description": "What is wrong, HTML-escaped."},
                        "explain": {"type": "string", "description": "What the status means."},
                    },
                },
                "InstanceCreate": object(&params(OpId::InstanceCreate, &[]), &CREATE_RENAMES),
                "JobId": {"type": "integer", "minimum": 1},
            },
            "responses": {
                "Error": {
                    "description": "The request was refused.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        },
    })
}

const CREATE_RENAMES: [(&str, &str); 2] = [("os", "os_type"), ("name", "instance_name")];

/// The chapters of manual and document.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("server", "What the server is and can."),
    ("cluster", "The cluster as a whole."),
    ("instances", "Instances: their life, disks, NICs and parameters."),
    ("nodes", "Nodes: roles, storage, and moving instances away."),
    ("groups", "Node groups."),
    ("networks", "Networks and their connections to node groups."),
    ("jobs", "Jobs: what becomes of what was submitted."),
    ("query", "Any fields of any objects that pass a filter."),
    ("filters", "Rules that hold jobs back, refuse them or let them pass."),
];

/// The chapter that a route is in.
pub(crate) fn group(route: &Route) -> &'static str {
    match route.path.split('/').nth(2) {
        None | Some("features") => "server",
        Some("instances-multi-alloc") => "instances",
        Some(word) => {
            GROUPS.iter().map(|(name, _)| *name).find(|name| *name == word).unwrap_or("cluster")
        }
    }
}

/// What a route does, in a sentence.
pub(crate) fn summary(route: &Route) -> &'static str {
    route.doc.or(route.opcode().map(|op| op.def().doc.trim())).unwrap_or_default()
}

/// The query arguments of a route, the common one included.
pub(crate) fn args(route: &Route) -> Vec<QueryArg> {
    let mut args = route.query.to_vec();
    if route.opcode().is_some() {
        args.push(REASON);
    }
    args
}

/// A request to a route as its example shows it.
pub(crate) fn sample(route: &Route) -> Input {
    let mut path = route.path.to_owned();
    for name in route.path_vars() {
        path = path.replace(&format!("{{{name}}}"), example_of(name));
    }
    let query = route.example.query.unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Input {
        method: route.method,
        path_vars: find(&path).map(|found| found.path_vars).unwrap_or_default(),
        target: if query.is_empty() { path.clone() } else { format!("{path}?{query}") },
        path,
        query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: route.example.body.and_then(|body| serde_json::from_str(body).ok()),
        user: None,
        now_nanos: 0,
    }
}

fn example_of(path_var: &str) -> &'static str {
    match path_var {
        "instance_name" => "web1.example.com",
        "node_name" => "node1.example.com",
        "group_name" => "default",
        "network_name" => "lan",
        "job_id" => "4711",
        "disk_index" => "0",
        "filter_uuid" => "5f2b1a7e-1c60-4c37-9d53-0c1d6c1b1b0e",
        _ => "instance",
    }
}

/// The parameters that a client may choose in the body of a route, the common ones apart.
pub(crate) fn free_params(route: &Route) -> Vec<&'static ParamDef> {
    let Some(op) = route.opcode() else { return Vec::new() };
    let taken = fixed_names(route);
    params(op, &taken)
}

/// The common parameters that a client may choose in the body of a route.
pub(crate) fn free_common(route: &Route) -> Vec<&'static ParamDef> {
    let taken = fixed_names(route);
    COMMON_PARAMS
        .iter()
        .filter(|param| param.name != "reason" && !taken.contains(&param.name))
        .collect()
}

fn params(op: OpId, taken: &[&str]) -> Vec<&'static ParamDef> {
    op.params(COMPAT)
        .filter(|param| !taken.contains(&param.name) && param.name != "compression_tools")
        .collect()
}

/// What path and query fix, found out by filling the example.
fn fixed_names(route: &Route) -> Vec<&'static str> {
    let sample = sample(route);
    let fixed = match route.action {
        Action::Build(_, build) => build(&sample, COMPAT).map(|filling| filling.fixed),
        Action::Submit(_) | Action::List(_) | Action::Show(_) | Action::Call(_) => {
            fill::fixed(route, &sample)
        }
    };
    fixed.unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}

/// The JSON Schema of a body of parameters.
fn object(params: &[&'static ParamDef], renames: &[(&str, &str)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for param in params {
        properties.insert(param.name.to_owned(), property(param));
        // A name that has an older one may be missing.
        if param.required && !renames.iter().any(|(_, new)| *new == param.name) {
            required.push(param.name);
        }
    }
    for (old, new) in renames {
        let doc = format!("The older name of `{new}`.");
        properties.insert((*old).to_owned(), json!({"deprecated": true, "description": doc}));
    }
    let mut object =
        json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn property(param: &ParamDef) -> Value {
    let mut schema = (param.schema)();
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(param.doc.trim()));
        if let Some(default) = param.default.map(|default| default()) {
            schema.insert("default".to_owned(), default);
        }
    }
    schema
}

/// The JSON Schema of the body of a route; `None` when it takes none.
pub(crate) fn body_schema(route: &Route) -> Option<Value> {
    match route.body {
        Body::Unused => None,
        Body::Depends => {
            let depends = COMMON_PARAMS.iter().filter(|param| param.name == "depends");
            let properties: Map<String, Value> =
                depends.map(|param| (param.name.to_owned(), property(param))).collect();
            Some(json!({"type": "object", "properties": properties}))
        }
        Body::Own(schema) => Some(schema()),
        Body::Params(renames) => {
            let mut params = free_params(route);
            params.extend(free_common(route));
            let mut schema = object(&params, renames);
            if route.path == "/2/instances" {
                schema["properties"]["__version__"] =
                    json!({"const": 1, "description": "The form of the request."});
                let required = schema["required"].as_array().into_iter().flatten().cloned();
                schema["required"] =
                    std::iter::once(json!("__version__")).chain(required).collect();
            }
            if route.path == "/2/instances-multi-alloc" {
                schema["properties"]["instances"]["items"] =
                    json!({"$ref": "#/components/schemas/InstanceCreate"});
                schema["required"] = json!(["instances"]);
            }
            Some(schema)
        }
    }
}

fn operation(route: &Route) -> Value {
    let mut operation = Map::new();
    let mut set = |name: &str, value: Value| {
        operation.insert(name.to_owned(), value);
    };
    set("operationId", json!(operation_id(route)));
    set("summary", json!(summary(route).trim_end_matches('.')));
    set("tags", json!([group(route)]));
    if let Some(op) = route.opcode() {
        set(
            "description",
            json!(format!("Submits {}. Since Ganeti {}.", op.as_str(), route.since)),
        );
    } else {
        set("description", json!(format!("Since Ganeti {}.", route.since)));
    }
    set("x-access", json!(route.access.as_str()));
    set(
        "security",
        match route.access {
            Access::Open => json!([{}, {"basic": []}]),
            Access::Read | Access::Write => json!([{"basic": []}]),
        },
    );
    let args = args(route);
    if !args.is_empty() {
        set("parameters", args.iter().map(query_param).collect());
    }
    if let Some(schema) = body_schema(route) {
        let mut content = json!({"schema": schema});
        if let Some(example) = sample(route).body {
            content["example"] = example;
        }
        set("requestBody", json!({"content": {"application/json": content}}));
    }
    let (doc, schema) = reply(route);
    let ok = json!({"description": doc, "content": {"application/json": {"schema": schema}}});
    set("responses", json!({"200": ok, "default": {"$ref": "#/components/responses/Error"}}));
    Value::Object(operation)
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split('/').filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_matches(['{', '}']).replace('-', "_"));
    let words: Vec<String> = words.filter(|word| word != "2" || route.path == "/2").collect();
    let name = if words.is_empty() { "root".to_owned() } else { words.join("_") };
    format!("{}_{name}", route.method.as_str().to_ascii_lowercase())
}

/// What a route answers, in words and as a schema.
fn reply(route: &Route) -> (String, Value) {
    if let Some(op) = route.opcode() {
        let doc = format!("The job's id. Its result: {}.", job_result(op));
        return (doc, json!({"$ref": "#/components/schemas/JobId"}));
    }
    let doc = route.result.unwrap_or_default().to_owned();
    let schema = match route.action {
        Action::Show(item) => lists::schema(item, COMPAT),
        Action::List(item) => json!({"type": "array", "items": {"anyOf": [
            {"type": "object", "properties": {"id": {}, "name": {}, "uri": {"type": "string"}}},
            lists::schema(item, COMPAT),
        ]}}),
        Action::Submit(_) | Action::Build(..) | Action::Call(_) => json!({}),
    };
    (doc, schema)
}

fn path_params(route: &Route) -> Value {
    let param = |name: &str| {
        let schema = match name {
            "job_id" => json!({"type": "integer", "minimum": 1}),
            "disk_index" => json!({"type": "integer", "minimum": 0, "maximum": 15}),
            "resource" => {
                let names = Resource::ALL.iter().map(|resource| resource.as_str());
                json!({"type": "string", "enum": names.collect::<Vec<_>>()})
            }
            _ => json!({"type": "string", "pattern": r"^[\w._-]+$"}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    };
    route.path_vars().map(param).collect()
}

fn query_param(arg: &QueryArg) -> Value {
    let schema = match arg.kind {
        ArgKind::Flag => json!({"type": "integer", "default": 0}),
        ArgKind::Text(Some(default)) => json!({"type": "string", "default": default}),
        ArgKind::Text(None) => json!({"type": "string"}),
        ArgKind::Texts => json!({"type": "array", "items": {"type": "string"}}),
    };
    json!({
        "name": arg.name,
        "in": "query",
        "required": arg.required,
        "description": arg.doc,
        "schema": schema,
    })
}

/// What a job's opcode gives when it succeeds.
pub(crate) fn job_result(op: OpId) -> &'static str {
    match op {
        OpId::BackupExport => "`[whether it was finished, [whether each disk was exported]]`",
        OpId::BackupPrepare => {
            "null for a local export; for a remote one `{handshake, x509_key_name, x509_ca}`"
        }
        OpId::ClusterSetParams | OpId::GroupAdd => {
            "null, or `{jobs: [[whether submitted, id or error]]}` when jobs connect the communication network"
        }
        OpId::GroupRename | OpId::InstanceRename | OpId::NetworkRename => "the new name",
        OpId::GroupSetParams | OpId::InstanceSetParams | OpId::NodeSetParams => {
            "a list of `[what changed, its new value]`"
        }
        OpId::InstanceActivateDisks => "a list of `[node, disk, device path or null]`",
        OpId::InstanceCreate => "the names of its nodes, the primary one first",
        OpId::InstanceMultiAlloc => {
            "`{jobs: [[whether submitted, id or error]], allocatable: [name], failed: [name]}`"
        }
        OpId::InstanceQueryData => "`{instance name: all about it}`",
        OpId::ClusterVerify
        | OpId::ClusterVerifyDisks
        | OpId::GroupEvacuate
        | OpId::InstanceChangeGroup
        | OpId::NodeEvacuate
        | OpId::NodeMigrate => "`{jobs: [[whether submitted, id or error]]}`",
        OpId::ClusterVerifyConfig | OpId::ClusterVerifyGroup => "whether all is well",
        OpId::ClusterRepairDiskSizes => "a list of `[instance, disk, what changed, its new value]`",
        OpId::GroupVerifyDisks => {
            "`[{node UUID: error}, [instance], {instance: [[node UUID, volume]]}]`"
        }
        OpId::TagsSearch => "a list of `[path, tag]`",
        OpId::NodePowercycle => "null, or what the hypervisor says",
        OpId::ExtStorageDiagnose
        | OpId::NodeQueryStorage
        | OpId::NodeQueryvols
        | OpId::OsDiagnose => "a list of rows, with the columns of `output_fields`",
        OpId::BackupRemove
        | OpId::ClusterRedistConf
        | OpId::GroupAssignNodes
        | OpId::GroupRemove
        | OpId::InstanceDeactivateDisks
        | OpId::InstanceFailover
        | OpId::InstanceGrowDisk
        | OpId::InstanceMigrate
        | OpId::InstanceReboot
        | OpId::InstanceRecreateDisks
        | OpId::InstanceReinstall
        | OpId::InstanceRemove
        | OpId::InstanceReplaceDisks
        | OpId::InstanceShutdown
        | OpId::InstanceStartup
        | OpId::NetworkAdd
        | OpId::NetworkConnect
        | OpId::NetworkDisconnect
        | OpId::NetworkRemove
        | OpId::NetworkSetParams
        | OpId::NodeModifyStorage
        | OpId::RepairNodeStorage
        | OpId::TagsDel
        | OpId::TagsSet
        | OpId::TestDelay => "null",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::input::Method;

    #[test]
    fn every_example_fills_its_opcode() {
        for route in ROUTES {
            let sample = sample(route);
            assert_eq!(sample.body.is_some(), route.example.body.is_some(), "{}", sample.target);
            assert!(find(&sample.path).is_some(), "{}", sample.path);
            if let Some(op) = route.opcode() {
                let filled = fill::fill(route, op, &sample, COMPAT);
                assert!(filled.is_ok(), "{} {}: {filled:?}", route.method.as_str(), sample.target);
            }
        }
    }

    #[test]
    fn the_document_names_each_operation_once() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let mut ids = BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} of {path} is there twice");
                assert!(!operation["summary"].as_str().unwrap().is_empty(), "{id} has no summary");
            }
        }
        assert_eq!(ids.len(), ROUTES.len() + BESIDE.len());
    }

    #[test]
    fn what_is_fixed_is_not_in_the_body() {
        let names = |path: &str, method| {
            let found = find(path).unwrap().method(method).unwrap();
            body_schema(found).unwrap()["properties"].as_object().unwrap().clone()
        };
        let reboot = names("/2/instances/a/reboot", Method::Post);
        assert!(!reboot.contains_key("reboot_type") && reboot.contains_key("shutdown_timeout"));
        let create = names("/2/instances", Method::Post);
        assert!(!create.contains_key("dry_run") && create.contains_key("name"));
        assert!(create.contains_key("__version__") && create.contains_key("depends"));
        assert!(!names("/2/modify", Method::Put).contains_key("compression_tools"));
    }
}
