//! docs/api.md: the manual of the remote API for those who write clients, made of the route table and the opcode table.

use std::fmt::Write;

use serde_json::Value;

use model::opcode::COMMON_PARAMS;

use crate::beside::{self, BESIDE};
use crate::input::Method;
use crate::openapi::{
    COMPAT, GROUPS, args, body_schema, free_common, free_params, group, job_result, sample, summary,
};
use crate::route::{Access, ArgKind, Body, QueryArg, Route};
use crate::table::ROUTES;

const PREFACE: &str = r#"# The remote API

This manual is made from the tables that the server runs on; `docs/openapi.json` says the same to programs. It describes
the API of Ganeti 3.1, version 2. Where the server differs from Ganeti's own is said in `compatibility.md`.

## How to speak with it

* **Address.** `https://HOST:5080`. Paths begin with `/2`, apart from `/` and `/version`.
* **Users.** HTTP Basic authentication, realm `Ganeti Remote API`. Each route below says who may call it: *open* is anyone,
  unless the server was started with `--require-authentication`; *read* is a user with the option `read` or `write`; *write*
  is a user with the option `write`. Wrong credentials are refused on open routes too.
* **Requests.** A body is JSON, with `Content-Type: application/json`. No body, an empty one and `null` are the same.
  Arguments of the query that are empty count as absent; of one that is repeated the first counts. A *flag* is an integer, true
  unless it is 0: `?bulk=1`. Words such as `true` are refused.
* **Answers.** Always 200 with JSON when the request was taken, whatever becomes of the job.
* **Errors.** Any other status comes with `{"code": 400, "message": "…", "explain": "…"}`. `message` is HTML-escaped.
  400 is a request that makes no sense, 401 and 403 are about users, 404 is a path or an object that is not there, 415 is a body that is
  not JSON by its type, 500 is any other error, 501 a method that the path does not have, 502 and 504 a cluster that does not
  answer, 503 one that takes no jobs now.
* **Jobs.** What changes something submits a job and answers its id, a bare number. The job may wait for others and may fail:
  look at `/2/jobs/{job_id}` until its `status` is `success`, `error` or `canceled`, or let `/2/jobs/{job_id}/wait` tell you of each change.
  Names are not looked up when a job is submitted: an instance that does not exist is an error of the job.
* **Sizes** are MiB, as integers; those in bodies may be texts with a unit, `"10g"`. Times are seconds since the epoch.

```
$ curl -k -u admin:SECRET -X PUT 'https://localhost:5080/2/instances/web1.example.com/startup'
4711
$ curl -k -u admin:SECRET 'https://localhost:5080/2/jobs/4711'
{"id": 4711, "status": "success", …}
```

### Parameters of every job

"#;

/// The text of docs/api.md.
pub fn manual() -> String {
    let mut out = PREFACE.to_owned();
    out.push_str(
        "Where a body holds parameters, it may hold these too, unless a query argument is there for them. \
         `?reason=TEXT` is taken by all routes that submit a job, and `depends` from any body that is an object.\n\n",
    );
    out.push_str("| member | type | default | meaning |\n|---|---|---|---|\n");
    for param in COMMON_PARAMS.iter().filter(|param| param.name != "reason") {
        let default = param.default.map(|default| default());
        member(&mut out, param.name, &(param.schema)(), default.as_ref(), false, param.doc);
    }
    out.push_str("\n## All routes\n");
    for (name, doc) in GROUPS {
        let _ = write!(out, "\n**[{}](#{name})** {doc}\n\n", title(name)); // writing to a String cannot fail
        for route in ROUTES.iter().filter(|route| group(route) == *name) {
            let (heading, link) = heading(route.method, route.path);
            let _ = writeln!(out, "* [`{heading}`](#{link})");
        }
    }
    let (name, doc) = beside::GROUP;
    let _ = write!(out, "\n**[{}](#{name})** {doc}\n\n", title(name));
    for row in BESIDE {
        let (heading, link) = heading(row.method, row.path);
        let _ = writeln!(out, "* [`{heading}`](#{link})");
    }
    for (name, doc) in GROUPS {
        let _ = write!(out, "\n## {}\n\n{doc}\n", title(name));
        for route in ROUTES.iter().filter(|route| group(route) == *name) {
            chapter(&mut out, route);
        }
    }
    let _ = write!(out, "\n## {}\n\n{}\n", title(beside::GROUP.0), beside::GROUP.1);
    for row in BESIDE {
        let _ = write!(
            out,
            "\n### {}\n\n{}\n\nAccess: *{}*.\n\n**Answer:** {}\n",
            heading(row.method, row.path).0,
            row.doc,
            row.access.as_str(),
            row.result
        );
    }
    out
}

fn title(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A route's heading, and how it is linked to.
fn heading(method: Method, path: &str) -> (String, String) {
    let heading = format!("{} {path}", method.as_str());
    let link = heading.to_lowercase().replace(' ', "-");
    (heading, link.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect())
}

fn chapter(out: &mut String, route: &Route) {
    let access = match route.access {
        Access::Open => "open",
        Access::Read => "read",
        Access::Write => "write",
    };
    let _ = write!(out, "\n### {}\n\n{}\n\n", heading(route.method, route.path).0, summary(route));
    let _ = write!(out, "Access: *{access}*. Since Ganeti {}.", route.since);
    if let Some(op) = route.opcode() {
        let _ = write!(out, " Submits `{}`.", op.as_str());
    }
    out.push('\n');
    arguments(out, &args(route));
    body(out, route);
    let answer = match (route.opcode(), route.result) {
        (Some(op), _) => format!("The job's id. The job's result: {}.", job_result(op)),
        (None, result) => result.unwrap_or_default().to_owned(),
    };
    let _ = write!(out, "\n**Answer:** {answer}\n");
    example(out, route);
}

fn arguments(out: &mut String, args: &[QueryArg]) {
    if args.is_empty() {
        return;
    }
    out.push_str("\n| argument | type | meaning |\n|---|---|---|\n");
    for arg in args {
        let kind = match arg.kind {
            ArgKind::Flag => "flag".to_owned(),
            ArgKind::Text(Some(default)) => format!("text, by default `{default}`"),
            ArgKind::Text(None) if arg.required => "text, required".to_owned(),
            ArgKind::Text(None) => "text".to_owned(),
            ArgKind::Texts => "text, repeatable".to_owned(),
        };
        let _ = writeln!(out, "| `{}` | {kind} | {} |", arg.name, arg.doc);
    }
}

fn body(out: &mut String, route: &Route) {
    match route.body {
        Body::Unused | Body::Depends => {}
        Body::Own(schema) => own_body(out, &schema()),
        Body::Params(renames) => {
            let params = free_params(route);
            let common: Vec<String> =
                free_common(route).iter().map(|param| format!("`{}`", param.name)).collect();
            if params.is_empty() {
                let _ = write!(out, "\n**Body:** an object, or none: {}.\n", common.join(", "));
                return;
            }
            out.push_str("\n**Body:** an object.\n\n| member | type | default | meaning |\n|---|---|---|---|\n");
            if let Some(version) = body_schema(route)
                .and_then(|schema| schema["properties"].get("__version__").cloned())
            {
                member(out, "__version__", &version, None, true, "The form of the request, 1.");
            }
            for param in params {
                let op = route.opcode();
                let default = op.and_then(|op| param.default_value(op, COMPAT));
                let older: Vec<&str> = renames
                    .iter()
                    .filter(|(_, new)| *new == param.name)
                    .map(|(old, _)| *old)
                    .collect();
                let mut doc = param.doc.trim().to_owned();
                for old in older {
                    let _ = write!(doc, " Older name: `{old}`.");
                }
                member(out, param.name, &(param.schema)(), default.as_ref(), param.required, &doc);
            }
            let _ = write!(
                out,
                "\nAnd the [parameters of every job](#parameters-of-every-job): {}.\n",
                common.join(", ")
            );
        }
    }
}

/// A body that is not an opcode's parameters.
fn own_body(out: &mut String, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        let doc = schema["description"].as_str().unwrap_or_default();
        let _ = write!(out, "\n**Body:** {}. {doc}", type_text(schema));
        out.truncate(out.trim_end().len());
        out.push('\n');
        return;
    };
    out.push_str(
        "\n**Body:** an object.\n\n| member | type | default | meaning |\n|---|---|---|---|\n",
    );
    for (name, property) in properties {
        let required =
            schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
        let doc = property["description"].as_str().unwrap_or_default();
        member(out, name, property, property.get("default"), required, doc);
    }
}

fn member(
    out: &mut String,
    name: &str,
    schema: &Value,
    default: Option<&Value>,
    required: bool,
    doc: &str,
) {
    let default = match default {
        _ if required => "**required**".to_owned(),
        None | Some(Value::Null) => String::new(),
        Some(value) => format!("`{value}`"),
    };
    let doc = doc.trim().replace('|', "\\|");
    let _ = writeln!(out, "| `{name}` | {} | {default} | {doc} |", type_text(schema));
}

/// A type in a few words.
fn type_text(schema: &Value) -> String {
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        let kinds = kinds.iter().filter(|kind| kind["type"] != "null").map(type_text);
        return kinds.collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(", ");
    }
    let one = |kind: &str| match kind {
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_text(items)),
            None => "list".to_owned(),
        },
        "string" => "text".to_owned(),
        "boolean" => "bool".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(kind) => one(kind),
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            kinds.map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

fn example(out: &mut String, route: &Route) {
    let sample = sample(route);
    out.push_str("\n```\n$ curl -k");
    if route.access != Access::Open {
        out.push_str(" -u admin:SECRET");
    }
    if route.method != crate::input::Method::Get || route.example.body.is_some() {
        let _ = write!(out, " -X {}", route.method.as_str());
    }
    let _ = write!(out, " 'https://localhost:5080{}'", sample.target);
    if let Some(body) = route.example.body {
        let _ = write!(out, " \\\n    -H 'Content-Type: application/json' -d '{body}'");
    }
    out.push('\n');
    let submits = route.opcode().is_some() || route.path.ends_with("/reinstall");
    match route.example.reply {
        Some(reply) => {
            let _ = writeln!(out, "{reply}");
        }
        None if submits => out.push_str("4711\n"),
        None => {}
    }
    out.push_str("```\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_said_in_few_words() {
        let check = |schema: Value, expected: &str| assert_eq!(type_text(&schema), expected);
        check(serde_json::json!({"type": "array", "items": {"type": "string"}}), "list of text");
        check(serde_json::json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), "integer");
        check(serde_json::json!({"enum": ["a", "b"]}), "`a`, `b`");
        check(serde_json::json!({"type": ["string", "integer"]}), "text or integer");
        check(serde_json::json!({}), "any");
    }

    #[test]
    fn every_route_has_its_chapter_and_a_link_to_it() {
        let manual = manual();
        for route in ROUTES {
            let (heading, link) = heading(route.method, route.path);
            assert!(manual.contains(&format!("\n### {heading}\n")), "{heading}");
            assert!(manual.contains(&format!("](#{link})")), "{link}");
        }
    }
}
