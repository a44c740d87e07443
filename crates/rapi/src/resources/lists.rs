//! The lists of instances, nodes, groups and networks, and single ones of them.
//!
//! A list is asked for far more often than it changes. An engine hands out the same row again while nothing in it changed, so
//! the text of each object is kept with the row it was made of, and the text of the whole list with all its rows: a list that
//! did not change costs one comparison of pointers per row, and one that did costs the rendering of the rows that are new.
//! Only the last generation of each list is kept. Of rows that an engine has as text nothing is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use model::compat::Compat;
use model::engine::Engine;
use model::error::ErrorCode;
use model::query::rows::Rows;
use model::query::{Item, Row};

use crate::error::HttpError;
use crate::input::Input;
use crate::json::write_bare;
use crate::pieces;
use crate::resources::zip;
use crate::route::Reply;

const INSTANCE_FIELDS: &[&str] = &[
    "name",
    "admin_state",
    "os",
    "pnode",
    "snodes",
    "disk_template",
    "nic.ips",
    "nic.macs",
    "nic.modes",
    "nic.uuids",
    "nic.names",
    "nic.links",
    "nic.networks",
    "nic.networks.names",
    "nic.bridges",
    "network_port",
    "disk.sizes",
    "disk.spindles",
    "disk_usage",
    "disk.uuids",
    "disk.names",
    "beparams",
    "hvparams",
    "oper_state",
    "oper_ram",
    "oper_vcpus",
    "status",
    "custom_hvparams",
    "custom_beparams",
    "custom_osparams",
    "custom_nicparams",
    "ctime",
    "mtime",
    "uuid",
    "serial_no",
    "tags",
];

/// Without what 3.1 added.
const INSTANCE_FIELDS_30: &[&str] = &[
    "name",
    "admin_state",
    "os",
    "pnode",
    "snodes",
    "disk_template",
    "nic.ips",
    "nic.macs",
    "nic.modes",
    "nic.uuids",
    "nic.names",
    "nic.links",
    "nic.networks",
    "nic.networks.names",
    "nic.bridges",
    "network_port",
    "disk.sizes",
    "disk.spindles",
    "disk_usage",
    "disk.uuids",
    "disk.names",
    "beparams",
    "hvparams",
    "oper_state",
    "oper_ram",
    "oper_vcpus",
    "status",
    "custom_hvparams",
    "custom_beparams",
    "custom_nicparams",
    "ctime",
    "mtime",
    "uuid",
    "serial_no",
    "tags",
];

const NODE_FIELDS: &[&str] = &[
    "name",
    "offline",
    "master_candidate",
    "drained",
    "dtotal",
    "dfree",
    "sptotal",
    "spfree",
    "mtotal",
    "mnode",
    "mfree",
    "pinst_cnt",
    "sinst_cnt",
    "ctotal",
    "cnos",
    "cnodes",
    "csockets",
    "pip",
    "sip",
    "role",
    "pinst_list",
    "sinst_list",
    "master_capable",
    "vm_capable",
    "ndparams",
    "group.uuid",
    "ctime",
    "mtime",
    "uuid",
    "serial_no",
    "tags",
];

const GROUP_FIELDS: &[&str] = &[
    "alloc_policy",
    "name",
    "node_cnt",
    "node_list",
    "ipolicy",
    "custom_ipolicy",
    "diskparams",
    "custom_diskparams",
    "ndparams",
    "custom_ndparams",
    "ctime",
    "mtime",
    "uuid",
    "serial_no",
    "tags",
];

const NETWORK_FIELDS: &[&str] = &[
    "name",
    "network",
    "gateway",
    "network6",
    "gateway6",
    "mac_prefix",
    "free_count",
    "reserved_count",
    "map",
    "group_list",
    "inst_list",
    "external_reservations",
    "ctime",
    "mtime",
    "uuid",
    "serial_no",
    "tags",
];

/// The fields of a whole object, in the order in which it shows them.
pub fn fields(item: Item, compat: Compat) -> &'static [&'static str] {
    match (item, compat) {
        (Item::Instance, Compat::V31) => INSTANCE_FIELDS,
        (Item::Instance, Compat::V30) => INSTANCE_FIELDS_30,
        (Item::Node, _) => NODE_FIELDS,
        (Item::Group, _) => GROUP_FIELDS,
        (Item::Network, _) => NETWORK_FIELDS,
    }
}

/// The path of a list.
fn path(item: Item) -> &'static str {
    match item {
        Item::Instance => "/2/instances",
        Item::Node => "/2/nodes",
        Item::Group => "/2/groups",
        Item::Network => "/2/networks",
    }
}

/// The path variable that names one of them.
fn path_var(item: Item) -> &'static str {
    match item {
        Item::Instance => "instance_name",
        Item::Node => "node_name",
        Item::Group => "group_name",
        Item::Network => "network_name",
    }
}

/// Answers a list: names, or with `bulk` whole objects.
pub(crate) async fn list(
    engine: &Arc<dyn Engine>,
    item: Item,
    input: &Input,
) -> Result<Reply, HttpError> {
    // Ganeti: only the list of instances looks at `lock` (3.0.2, `rapi/rlib2.py`).
    let lock = item == Item::Instance && input.flag("lock")?;
    if input.flag("bulk")? {
        let fields = fields(item, engine.compat());
        let rows = match engine.query_items(item, &[], fields, lock).await? {
            Rows::Made(rows) => rows,
            Rows::Text(rows) => {
                let whole = move |row| object(item, fields, row);
                return pieces::reply(rows, b"[".to_vec(), b"]\n".to_vec(), whole);
            }
        };
        let whole = |row: &Row| object(item, fields, Vec::clone(row));
        Ok(Reply::Text(BULK[index(item)].text(rows, whole, |rows| (0..rows.len()).collect())))
    } else {
        let rows = engine.query_items(item, &[], &["name"], lock).await?.made()?;
        Ok(Reply::Text(PLAIN[index(item)].text(rows, |row| entry(item, row), by_name)))
    }
}

/// Answers one object.
pub(crate) async fn show(
    engine: &Arc<dyn Engine>,
    item: Item,
    input: &Input,
) -> Result<Reply, HttpError> {
    let lock = input.flag("lock")?;
    let name = input.path_var(path_var(item)).unwrap_or_default().to_owned();
    let fields = fields(item, engine.compat());
    let rows = match engine.query_items(item, &[name], fields, lock).await {
        Ok(rows) => rows.made()?,
        Err(error) if error.code() == Some(ErrorCode::UnknownEntity.as_str()) => {
            return Err(HttpError::not_found());
        }
        Err(error) => return Err(error.into()),
    };
    let row = rows.into_iter().next().ok_or_else(HttpError::not_found)?;
    let mut object = object(item, fields, Arc::unwrap_or_clone(row));
    if item == Item::Node
        && let Value::Object(node) = &mut object
        && let Some(sip) = node.get("sip").cloned()
    {
        node.insert("secondary_ip".to_owned(), sip);
    }
    Ok(Reply::Json(object))
}

/// A whole object. Ganeti: an instance's `beparams` still have the `memory` of old (3.0.2, `rapi/rlib2.py`).
fn object(item: Item, fields: &[&str], row: Vec<Value>) -> Value {
    let mut object = zip(fields, row);
    if item == Item::Instance
        && let Some(Value::Object(beparams)) = object.get_mut("beparams")
        && let Some(maxmem) = beparams.get("maxmem").cloned()
    {
        beparams.insert("memory".to_owned(), maxmem);
    }
    object
}

/// What the list of names says of an object: instances have both names that Ganeti's oldest documents and its daemon give.
fn entry(item: Item, row: &Row) -> Value {
    let name = row.first().cloned().unwrap_or_default();
    let uri = format!("{}/{}", path(item), name.as_str().unwrap_or_default());
    match item {
        Item::Instance => json!({"id": name, "name": name, "uri": uri}),
        Item::Node => json!({"id": name, "uri": uri}),
        Item::Group | Item::Network => json!({"name": name, "uri": uri}),
    }
}

/// Ganeti: lists of names are sorted as Python sorts texts, the bulk lists are in the engine's order (3.0.2).
fn by_name(rows: &[Row]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|at| rows[*at].first().and_then(Value::as_str).unwrap_or_default());
    order
}

fn index(item: Item) -> usize {
    match item {
        Item::Instance => 0,
        Item::Node => 1,
        Item::Group => 2,
        Item::Network => 3,
    }
}

static BULK: [Kept; 4] = [const { Kept::new() }; 4];
static PLAIN: [Kept; 4] = [const { Kept::new() }; 4];

/// A list's text, kept until a row is another one.
struct Kept(Mutex<Option<Arc<Generation>>>);

/// A list as it was answered last.
struct Generation {
    rows: Vec<Row>,
    /// The text of each row.
    parts: Vec<Bytes>,
    /// The text of the whole list.
    text: Bytes,
}

impl Kept {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The text of a list. Two requests may render the same new row; neither waits for the other.
    fn text(
        &self,
        rows: Vec<Row>,
        render: impl Fn(&Row) -> Value,
        order: impl Fn(&[Row]) -> Vec<usize>,
    ) -> Bytes {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(last) = &last
            && last.rows.len() == rows.len()
            && last.rows.iter().zip(&rows).all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return last.text.clone();
        }
        let generation = Arc::new(Generation::new(last.as_deref(), rows, render, order));
        let text = generation.text.clone();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(generation);
        text
    }
}

impl Generation {
    fn new(
        last: Option<&Self>,
        rows: Vec<Row>,
        render: impl Fn(&Row) -> Value,
        order: impl Fn(&[Row]) -> Vec<usize>,
    ) -> Self {
        let mut moved: Option<HashMap<*const Vec<Value>, usize>> = None;
        let mut kept = |at: usize, row: &Row| {
            let last = last?;
            if last.rows.get(at).is_some_and(|old| Arc::ptr_eq(old, row)) {
                return Some(last.parts[at].clone());
            }
            let moved = moved.get_or_insert_with(|| {
                last.rows.iter().enumerate().map(|(at, row)| (Arc::as_ptr(row), at)).collect()
            });
            moved.get(&Arc::as_ptr(row)).map(|at| last.parts[*at].clone())
        };
        let mut parts = Vec::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            parts.push(kept(at, row).unwrap_or_else(|| {
                let mut text = Vec::with_capacity(128);
                write_bare(&mut text, &render(row));
                Bytes::from(text)
            }));
        }
        let mut text =
            Vec::with_capacity(parts.iter().map(|part| part.len() + 2).sum::<usize>() + 3);
        text.push(b'[');
        for (place, at) in order(&rows).into_iter().enumerate() {
            if place > 0 {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(&parts[at]);
        }
        text.extend_from_slice(b"]\n");
        Self { rows, parts, text: text.into() }
    }
}

/// A description of a whole object for the OpenAPI document.
pub(crate) fn schema(item: Item, compat: Compat) -> Value {
    let properties: Map<String, Value> =
        fields(item, compat).iter().map(|field| ((*field).to_owned(), json!({}))).collect();
    json!({"type": "object", "properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Arc::new(vec![json!(name)])
    }

    #[test]
    fn only_rows_that_are_new_are_rendered() {
        let kept = Kept::new();
        let rendered = std::cell::Cell::new(0);
        let text = |rows: &[Row]| {
            let render = |row: &Row| {
                rendered.set(rendered.get() + 1);
                row[0].clone()
            };
            let text = kept.text(rows.to_vec(), render, |rows| (0..rows.len()).collect());
            String::from_utf8(text.to_vec()).unwrap()
        };
        let (a, b, c) = (row("a"), row("b"), row("c"));
        assert_eq!(text(&[a.clone(), b.clone()]), "[\"a\", \"b\"]\n");
        assert_eq!(text(&[a.clone(), b.clone()]), "[\"a\", \"b\"]\n");
        assert_eq!(rendered.get(), 2);
        assert_eq!(text(&[c.clone(), a.clone(), b.clone()]), "[\"c\", \"a\", \"b\"]\n");
        assert_eq!(rendered.get(), 3);
        assert_eq!(text(&[a.clone(), row("b"), c]), "[\"a\", \"b\", \"c\"]\n");
        assert_eq!(rendered.get(), 4);
        assert_eq!(text(&[]), "[]\n");
    }

    #[test]
    fn names_are_sorted_as_python_sorts() {
        assert_eq!(by_name(&[row("web2"), row("web10"), row("Web1")]), [2, 1, 0]);
    }

    #[test]
    fn objects_have_the_fields_of_their_release() {
        assert_eq!(fields(Item::Instance, Compat::V31).len(), 36);
        assert_eq!(fields(Item::Instance, Compat::V30).len(), 35);
        assert_eq!(fields(Item::Node, Compat::V31).len(), 31);
        assert_eq!(fields(Item::Group, Compat::V31).len(), 15);
        assert_eq!(fields(Item::Network, Compat::V31).len(), 17);
    }
}
