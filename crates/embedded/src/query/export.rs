//! The fields of exports.

use model::query::filter::Mode;
use model::query::{Cell, FieldKind};

use super::field::{normal, subject};

/// What one node said of its exports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeExports {
    pub(crate) node: String,
    /// `None` when it does not answer.
    pub(crate) exports: Option<Vec<String>>,
    /// Whether it is marked offline, and so was not asked.
    pub(crate) offline: bool,
}

impl NodeExports {
    /// One row per export; a node that did not answer has one without.
    pub(super) fn rows(&self) -> Vec<Cx<'_>> {
        match &self.exports {
            Some(exports) => {
                exports.iter().map(|export| Cx { of: self, export: Some(export) }).collect()
            }
            None => vec![Cx { of: self, export: None }],
        }
    }
}

/// An export on a node.
pub(super) struct Cx<'a> {
    of: &'a NodeExports,
    export: Option<&'a str>,
}

subject!(
    /// Exports.
    Exports, Cx<'a>, rows, &[]
);

#[rustfmt::skip]
fn rows() -> Vec<Field> {
    vec![
        row("node", "Node", FieldKind::Text, "Node name", |cx| normal(cx.of.node.as_str())).mode(Mode::Hostname),
        row("export", "Export", FieldKind::Text, "Export name", |cx| match cx.export {
            Some(export) => normal(export),
            None if cx.of.offline => Cell::Offline,
            None => Cell::NoData,
        }),
    ]
}
