//! Answers of the query language as the master daemon writes them.

use model::query::{Answer, Cell, FieldDef, FieldKind};
use serde::Deserialize;
use serde_json::Value;

/// A field's description.
#[derive(Deserialize)]
struct Field {
    name: String,
    title: String,
    kind: String,
    doc: String,
}

/// An answer to `QueryFields`.
#[derive(Deserialize)]
pub(crate) struct QueryFields {
    fields: Vec<Field>,
}

/// An answer to `Query`: cells are `[status, value]`.
#[derive(Deserialize)]
pub(crate) struct QueryAnswer {
    fields: Vec<Field>,
    data: Vec<Vec<(u8, Value)>>,
}

impl From<Field> for FieldDef {
    fn from(field: Field) -> Self {
        let Field { name, title, kind, doc } = field;
        // A kind that a later release may add is shown as one that says nothing of its values.
        Self { name, title, kind: FieldKind::parse(&kind).unwrap_or(FieldKind::Other), doc }
    }
}

impl From<QueryFields> for Vec<FieldDef> {
    fn from(answer: QueryFields) -> Self {
        answer.fields.into_iter().map(FieldDef::from).collect()
    }
}

impl From<QueryAnswer> for Answer {
    fn from(answer: QueryAnswer) -> Self {
        let fields = answer.fields.into_iter().map(FieldDef::from).collect();
        let row = |row: Vec<(u8, Value)>| row.into_iter().map(cell).collect();
        Self { fields, rows: answer.data.into_iter().map(row).collect() }
    }
}

/// Ganeti: `constants.RS_*` (3.0.2).
fn cell((status, value): (u8, Value)) -> Cell {
    match status {
        0 => Cell::Normal(value),
        1 => Cell::Unknown,
        3 => Cell::Unavailable,
        4 => Cell::Offline,
        _ => Cell::NoData,
    }
}
