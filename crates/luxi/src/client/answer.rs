//! Answers of the query language as the master daemon writes them.

use model::query::{FieldDef, FieldKind};
use serde::Deserialize;
use serde_json::value::RawValue;

/// A field's description.
#[derive(Deserialize)]
pub(crate) struct Field {
    name: String,
    title: String,
    kind: String,
    doc: String,
}

/// An answer to `QueryFields`.
#[derive(Deserialize)]
pub(crate) struct QueryFields {
    pub(crate) fields: Vec<Field>,
}

/// An answer to `Query`.
#[derive(Deserialize)]
pub(crate) struct QueryAnswer<'a> {
    pub(crate) fields: Vec<Field>,
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

impl From<Field> for FieldDef {
    fn from(field: Field) -> Self {
        let Field { name, title, kind, doc } = field;
        // A kind that a later release may add is shown as one that says nothing of its values.
        Self { name, title, kind: FieldKind::parse(&kind).unwrap_or(FieldKind::Other), doc }
    }
}
