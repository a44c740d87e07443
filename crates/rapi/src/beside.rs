//! What is served beside Ganeti's API, under `/rapid/1/`. The program has the handlers; manual, OpenAPI document and
//! docs/access.txt read this table.

use serde_json::{Map, Value, json};

use crate::input::Method;
use crate::route::Access;

/// A route of ours.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub doc: &'static str,
    /// What it answers.
    pub result: &'static str,
    /// The media type of the answer.
    pub media: &'static str,
}

/// Its chapter.
pub(crate) const GROUP: (&str, &str) = ("beside", "What Ganeti's API lacks.");

const JSON: &str = "application/json";

const fn row(
    method: Method,
    path: &'static str,
    access: Access,
    doc: &'static str,
    result: &'static str,
) -> Beside {
    Beside { method, path, access, doc, result, media: JSON }
}

/// All of them, in the order of the manual.
#[rustfmt::skip]
pub static BESIDE: &[Beside] = &[
    row(Method::Get, "/rapid/1/about", Access::Read, "Tells what the server is, and as whom it knows the caller.",
        "`{name, version, ganeti_version, user}`."),
    Beside {
        media: "image/png",
        ..row(Method::Get, "/rapid/1/instances/{instance_name}/screenshot", Access::Read,
            "Shows what an instance has on its screen now. It needs the same right as the console.",
            "A PNG. 404 when there is no such instance, 503 when it does not run, 501 when it has no screen: simulated \
             instances, and those of a real Ganeti cluster, have none that can be shown.")
    },
    row(Method::Get, "/rapid/1/queue/drain", Access::Read, "Tells whether the queue is closed for submissions.", "A boolean."),
    row(Method::Put, "/rapid/1/queue/drain", Access::Write, "Closes the queue for submissions.", "True."),
    row(Method::Delete, "/rapid/1/queue/drain", Access::Write, "Opens the queue for submissions.", "False."),
    row(Method::Post, "/rapid/1/jobs/archive", Access::Write,
        "Archives jobs that ended: all, or with `?age=SECONDS` those that ended longer ago.", "`{archived, left}`: how many."),
    row(Method::Post, "/rapid/1/jobs/{job_id}/archive", Access::Write, "Archives a job that has ended.",
        "Whether it was archived."),
    row(Method::Put, "/rapid/1/jobs/{job_id}/priority", Access::Write,
        "Changes the priority of what a job has not done yet; the body is a number from -20 to 19.",
        "`[whether it worked, a text]`."),
];

/// Its operation in the OpenAPI document.
pub(crate) fn operation(row: &Beside) -> Value {
    let words = row.path.split(['/', '{', '}']).filter(|word| !["", "rapid", "1"].contains(word));
    let mut id = row.method.as_str().to_ascii_lowercase();
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    json!({
        "operationId": format!("rapid_{id}"),
        "summary": row.doc,
        "tags": ["beside"],
        "x-access": row.access.as_str(),
        "security": [{"basic": []}],
        "responses": {
            "200": {"description": row.result, "content": {row.media: {}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    })
}

/// The parameters in its path.
pub(crate) fn path_params(row: &Beside) -> Value {
    let names = row.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let param = |name: &str| {
        let kind = if name == "job_id" { "integer" } else { "string" };
        json!({"name": name, "in": "path", "required": true, "schema": {"type": kind}})
    };
    names.map(param).collect()
}

/// Puts all of them into the paths of the OpenAPI document.
pub(crate) fn describe(paths: &mut Map<String, Value>) {
    for row in BESIDE {
        let item = paths.entry(row.path).or_insert_with(|| json!({"parameters": path_params(row)}));
        if let Value::Object(item) = item {
            item.insert(row.method.as_str().to_ascii_lowercase(), operation(row));
        }
    }
}
