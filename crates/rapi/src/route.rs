//! What a row of the route table can say: what it answers to, who may call it, which arguments and body it takes, and what
//! it does. The rows themselves are in [`crate::table`].

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;

use model::compat::Compat;
use model::engine::Engine;
use model::opcode::OpId;
use model::query::Item;

use crate::error::HttpError;
use crate::fill::Filling;
use crate::input::{Input, Method};
use crate::pieces::Pieces;
use crate::table::ROUTES;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, unless the server wants everybody to authenticate.
    Open,
    /// Users with the option `read` or `write`.
    Read,
    /// Users with the option `write`.
    Write,
}

impl Access {
    /// The word in docs/access.txt.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A query argument.
#[derive(Clone, Copy, Debug)]
pub struct QueryArg {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: ArgKind,
    /// The opcode parameter that it fixes; `None` when the route reads it itself.
    pub fills: Option<&'static str>,
    pub required: bool,
}

/// What values a query argument has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// An integer, true unless zero; absent is false.
    Flag,
    /// A text, and what it is when absent.
    Text(Option<&'static str>),
    /// A text that may be repeated.
    Texts,
}

/// An integer argument that is true unless it is zero, and fixes the parameter of the same name.
pub const fn flag(name: &'static str, doc: &'static str) -> QueryArg {
    QueryArg { name, doc, kind: ArgKind::Flag, fills: Some(name), required: false }
}

/// A text argument that fixes the parameter of the same name.
pub const fn text(name: &'static str, doc: &'static str) -> QueryArg {
    QueryArg { name, doc, kind: ArgKind::Text(None), fills: Some(name), required: false }
}

impl QueryArg {
    /// It fixes a parameter of another name.
    pub const fn fills(self, param: &'static str) -> Self {
        Self { fills: Some(param), ..self }
    }

    /// The route reads it itself.
    pub const fn read_by_route(self) -> Self {
        Self { fills: None, ..self }
    }

    /// Its text when it is absent.
    pub const fn or(self, default: &'static str) -> Self {
        Self { kind: ArgKind::Text(Some(default)), ..self }
    }

    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// It may be given several times.
    pub const fn repeated(self) -> Self {
        Self { kind: ArgKind::Texts, ..self }
    }
}

/// What a route makes of a request's body.
#[derive(Clone, Copy)]
pub enum Body {
    /// Nothing.
    Unused,
    /// Nothing but a `depends` in it.
    Depends,
    /// The parameters of the opcode; the pairs are older names and what they stand for.
    Params(&'static [(&'static str, &'static str)]),
    /// Something of its own, described by a JSON Schema.
    Own(fn() -> Value),
}

/// What answering may give, and the time it takes.
pub type Answering<'a> = BoxFuture<'a, Result<Reply, HttpError>>;

/// Says what is fixed and what is free in the opcode of a request.
pub type BuildFn = fn(&Input, Compat) -> Result<Filling, HttpError>;

/// What a route does.
#[derive(Clone, Copy)]
pub enum Action {
    /// Fills the opcode from path, query and body, submits it, answers the job's id.
    Submit(OpId),
    /// Does the same, where what is fixed and what is free is not plainly in the row.
    Build(OpId, BuildFn),
    /// Lists objects: their names, or all of each with `bulk`.
    List(Item),
    /// Shows one object.
    Show(Item),
    /// Anything else.
    Call(for<'a> fn(&'a Arc<dyn Engine>, &'a Input) -> Answering<'a>),
}

/// One row of the table.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// Whether a request only waits for something to happen, and so is not at work.
    pub waits: bool,
    pub action: Action,
    pub query: &'static [QueryArg],
    pub body: Body,
    /// What it does, when that is not what its opcode does.
    pub doc: Option<&'static str>,
    /// What it answers, when that is not a job's id.
    pub result: Option<&'static str>,
    /// The release of Ganeti that had it first.
    pub since: &'static str,
    /// The oldest release that is spoken here and has it.
    pub first: Compat,
    /// A body and, for what is not a job, an answer that show its use.
    pub example: Example,
}

/// What is sent and answered, as the manual shows it.
#[derive(Clone, Copy, Default)]
pub struct Example {
    pub query: Option<&'static str>,
    pub body: Option<&'static str>,
    pub reply: Option<&'static str>,
}

impl Route {
    const fn new(method: Method, path: &'static str, access: Access, action: Action) -> Self {
        Self {
            method,
            path,
            access,
            waits: false,
            action,
            query: &[],
            body: Body::Unused,
            doc: None,
            result: None,
            since: "2.0",
            first: Compat::V30,
            example: Example { query: None, body: None, reply: None },
        }
    }

    /// A row that anyone may read.
    pub const fn get(path: &'static str, action: Action) -> Self {
        Self::new(Method::Get, path, Access::Open, action)
    }

    /// A row that submits an opcode on PUT.
    pub const fn put(path: &'static str, op: OpId) -> Self {
        Self::submits(Method::Put, path, op)
    }

    /// A row that submits an opcode on POST.
    pub const fn post(path: &'static str, op: OpId) -> Self {
        Self::submits(Method::Post, path, op)
    }

    /// A row that submits an opcode on DELETE.
    pub const fn delete(path: &'static str, op: OpId) -> Self {
        Self::submits(Method::Delete, path, op)
    }

    /// A row that writes in a way of its own.
    pub const fn writes(method: Method, path: &'static str, action: Action) -> Self {
        Self::new(method, path, Access::Write, action)
    }

    const fn submits(method: Method, path: &'static str, op: OpId) -> Self {
        Self::new(method, path, Access::Write, Action::Submit(op)).body(Body::Depends)
    }

    pub const fn query(self, query: &'static [QueryArg]) -> Self {
        Self { query, ..self }
    }

    pub const fn body(self, body: Body) -> Self {
        Self { body, ..self }
    }

    /// The body holds the opcode's parameters.
    pub const fn params(self) -> Self {
        self.body(Body::Params(&[]))
    }

    /// The body holds the opcode's parameters, some of which have an older name too.
    pub const fn renamed(self, renames: &'static [(&'static str, &'static str)]) -> Self {
        self.body(Body::Params(renames))
    }

    /// A function says what is fixed and what is free in the opcode.
    pub const fn builds(self, build: BuildFn) -> Self {
        let action = match self.action {
            Action::Submit(op) | Action::Build(op, _) => Action::Build(op, build),
            Action::List(_) | Action::Show(_) | Action::Call(_) => self.action,
        };
        Self { action, ..self }
    }

    pub const fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    pub const fn waits(self) -> Self {
        Self { waits: true, ..self }
    }

    pub const fn doc(self, doc: &'static str) -> Self {
        Self { doc: Some(doc), ..self }
    }

    pub const fn result(self, result: &'static str) -> Self {
        Self { result: Some(result), ..self }
    }

    pub const fn since(self, since: &'static str) -> Self {
        Self { since, ..self }
    }

    /// Only the newer release has it.
    pub const fn new_in_31(self) -> Self {
        Self { first: Compat::V31, ..self }
    }

    /// The manual shows this query.
    pub const fn asking(self, query: &'static str) -> Self {
        Self { example: Example { query: Some(query), ..self.example }, ..self }
    }

    /// The manual shows this body.
    pub const fn sending(self, body: &'static str) -> Self {
        Self { example: Example { body: Some(body), ..self.example }, ..self }
    }

    /// The manual shows this answer.
    pub const fn answering(self, reply: &'static str) -> Self {
        Self { example: Example { reply: Some(reply), ..self.example }, ..self }
    }

    /// The opcode that it submits by filling it.
    pub fn opcode(&self) -> Option<OpId> {
        match self.action {
            Action::Submit(op) | Action::Build(op, _) => Some(op),
            Action::List(_) | Action::Show(_) | Action::Call(_) => None,
        }
    }

    /// The name of the resource in reason trails: `instances_name_startup`.
    /// Ganeti: that of the Python class that serves it (3.0.2, `rapi/rlib2.py`), so two do not follow their paths.
    pub fn resource(&self) -> String {
        match self.path {
            "/2/modify" => return "cluster_modify".to_owned(),
            "/2/redistribute-config" => return "redist_config".to_owned(),
            _ => {}
        }
        let parts = self.path.split('/').skip(2).filter(|part| *part != "{disk_index}");
        let words = parts.map(|part| if part.starts_with('{') { "name" } else { part });
        words.collect::<Vec<_>>().join("_").replace('-', "_")
    }

    /// The names between braces in the path.
    pub fn path_vars(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// What a request is answered with when it is not refused.
#[derive(Debug)]
pub enum Reply {
    Json(Value),
    /// JSON text with its line end, ready to be sent.
    Text(Bytes),
    /// Such a text in pieces, each of which is made when it is to be sent.
    Pieces(Pieces),
}

/// A path of the table with all its methods.
struct Resource {
    parts: Vec<Part>,
    routes: Vec<&'static Route>,
}

/// A piece of a path between two slashes.
enum Part {
    Word(&'static str),
    /// A variable, and whether it is a number.
    Var(&'static str, bool),
}

/// The table, by path.
static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut resources: Vec<Resource> = Vec::new();
    for route in ROUTES {
        match resources.iter_mut().find(|resource| resource.routes[0].path == route.path) {
            Some(resource) => resource.routes.push(route),
            None => resources.push(Resource { parts: parts(route.path), routes: vec![route] }),
        }
    }
    resources
});

fn parts(path: &'static str) -> Vec<Part> {
    let part = |text: &'static str| match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        Some(name) => Part::Var(name, matches!(name, "job_id" | "disk_index")),
        None => Part::Word(text),
    };
    path.split('/').map(part).collect()
}

/// A path that the table has, with what its variables stand for.
pub struct Found {
    /// In the order of the path.
    pub path_vars: Vec<(&'static str, String)>,
    routes: &'static [&'static Route],
    compat: Compat,
}

impl Found {
    /// The row for a method.
    pub fn method(&self, method: Method) -> Option<&'static Route> {
        let mut routes = self.routes.iter().filter(|route| route.first <= self.compat);
        routes.find(|route| route.method == method).copied()
    }
}

/// Finds a path, which is decoded and without its query, among those that any release has.
pub fn find(path: &str) -> Option<Found> {
    find_in(path, Compat::V31)
}

/// Finds a path among those that a release has.
pub fn find_in(path: &str, compat: Compat) -> Option<Found> {
    RESOURCES.iter().find_map(|resource| {
        let path_vars = match_path(&resource.parts, path)?;
        let known = resource.routes.iter().any(|route| route.first <= compat);
        known.then_some(Found { path_vars, routes: &resource.routes, compat })
    })
}

fn match_path(parts: &[Part], path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut vars = Vec::new();
    let mut given = path.split('/');
    for part in parts {
        let text = given.next()?;
        match part {
            Part::Word(word) if *word == text => {}
            Part::Var(name, true) if is_number(text) => vars.push((*name, text.to_owned())),
            Part::Var(name, false) if is_name(text) => vars.push((*name, text.to_owned())),
            Part::Word(_) | Part::Var(..) => return None,
        }
    }
    given.next().is_none().then_some(vars)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Python's `[\w._-]+`.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_as_they_are_written() {
        let check = |path: &str, expected: Option<&[(&str, &str)]>| {
            let found = find(path).map(|found| found.path_vars);
            let expected = expected.map(|vars| {
                vars.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
            });
            let found = found.map(|vars| vars.into_iter().collect::<Vec<(&str, String)>>());
            assert_eq!(found, expected, "{path}");
        };
        check("/", Some(&[]));
        check("/2", Some(&[]));
        check("/2/", None);
        check("//2", None);
        check("", None);
        check("/2/info/", None);
        check("/2/INFO", None);
        check("/2/instances/web1.example.com", Some(&[("instance_name", "web1.example.com")]));
        check("/2/instances/m\u{fc}nchen_1", Some(&[("instance_name", "m\u{fc}nchen_1")]));
        check("/2/instances/a*b", None);
        check("/2/instances/bad name", None);
        check("/2/instances/a/b/c", None);
        check("/2/jobs/12/wait", Some(&[("job_id", "12")]));
        check("/2/jobs/-1", None);
        check("/2/jobs/abc", None);
        check("/2/instances/a/disk/0/grow", Some(&[("instance_name", "a"), ("disk_index", "0")]));
    }

    #[test]
    fn the_older_release_lacks_what_it_lacks() {
        assert!(find_in("/2/networks/a/rename", Compat::V30).is_none());
        assert!(find("/2/networks/a/rename").is_some());
        let export = find_in("/2/instances/a/export", Compat::V30).unwrap();
        assert!(export.method(Method::Delete).is_none() && export.method(Method::Put).is_some());
        assert!(find("/2/instances/a/export").unwrap().method(Method::Delete).is_some());
    }

    #[test]
    fn resources_are_named_as_ganetis_classes() {
        let check = |path: &str, method: Method, expected: &str| {
            assert_eq!(find(path).unwrap().method(method).unwrap().resource(), expected);
        };
        check("/2/instances", Method::Post, "instances");
        check("/2/instances/a/startup", Method::Put, "instances_name_startup");
        check("/2/instances/a/disk/0/grow", Method::Post, "instances_name_disk_grow");
        check("/2/instances/a/replace-disks", Method::Post, "instances_name_replace_disks");
        check("/2/instances-multi-alloc", Method::Post, "instances_multi_alloc");
        check("/2/nodes/a/storage/modify", Method::Put, "nodes_name_storage_modify");
        check("/2/modify", Method::Put, "cluster_modify");
        check("/2/redistribute-config", Method::Put, "redist_config");
        check("/2/tags", Method::Put, "tags");
    }
}
