//! Queries: what can be asked for, how a field is described, what a cell says. The filter language is in [`filter`], rows that stay text in [`rows`].

pub mod filter;
pub mod rows;

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::query::rows::Rows;

/// What the query language knows (`/2/query/{resource}`; LUXI's `Query`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Export,
    Filter,
    Group,
    Instance,
    Job,
    Lock,
    Network,
    Node,
}

impl Resource {
    pub const ALL: &'static [Self] = &[
        Self::Export,
        Self::Filter,
        Self::Group,
        Self::Instance,
        Self::Job,
        Self::Lock,
        Self::Network,
        Self::Node,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Filter => "filter",
            Self::Group => "group",
            Self::Instance => "instance",
            Self::Job => "job",
            Self::Lock => "lock",
            Self::Network => "network",
            Self::Node => "node",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|resource| resource.as_str() == text)
    }
}

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// The field does not exist.
    Unknown,
    Text,
    Bool,
    Number,
    Float,
    /// A size in MiB.
    Unit,
    Timestamp,
    Other,
}

impl FieldKind {
    pub const ALL: &'static [Self] = &[
        Self::Unknown,
        Self::Text,
        Self::Bool,
        Self::Number,
        Self::Float,
        Self::Unit,
        Self::Timestamp,
        Self::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Float => "float",
            Self::Unit => "unit",
            Self::Timestamp => "timestamp",
            Self::Other => "other",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }
}

/// The description of a field that goes with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDef {
    pub name: String,
    /// A column heading.
    pub title: String,
    pub kind: FieldKind,
    pub doc: String,
}

impl FieldDef {
    /// What is said of a field that does not exist.
    pub fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: name.to_owned(),
            kind: FieldKind::Unknown,
            doc: format!("Unknown field '{name}'"),
        }
    }

    pub fn to_value(&self) -> Value {
        json!({"name": self.name, "title": self.title, "kind": self.kind.as_str(), "doc": self.doc})
    }
}

/// One cell of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// There is a value.
    Normal(Value),
    /// The field does not exist.
    Unknown,
    /// There is no data: the node did not answer.
    NoData,
    /// The value does not apply to this object.
    Unavailable,
    /// The node is marked offline.
    Offline,
}

impl Cell {
    /// `[status, value]`.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Normal(value) => json!([0, value]),
            Self::Unknown => json!([1, null]),
            Self::NoData => json!([2, null]),
            Self::Unavailable => json!([3, null]),
            Self::Offline => json!([4, null]),
        }
    }

    /// The plain value; null for anything but a normal cell, as the lists show it.
    pub fn into_plain(self) -> Value {
        match self {
            Self::Normal(value) => value,
            Self::Unknown | Self::NoData | Self::Unavailable | Self::Offline => Value::Null,
        }
    }
}

/// Reads `[status, value]`; a status that is not known says that there is no data. Ganeti: `constants.RS_*` (3.0.2).
impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (status, value) = <(u8, Value)>::deserialize(deserializer)?;
        Ok(match status {
            0 => Self::Normal(value),
            1 => Self::Unknown,
            3 => Self::Unavailable,
            4 => Self::Offline,
            _ => Self::NoData,
        })
    }
}

/// An answer of the query language. How its rows are kept is for each engine to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<R = Vec<Vec<Cell>>> {
    pub fields: Vec<FieldDef>,
    pub rows: R,
}

impl Answer<Rows<Vec<Cell>>> {
    /// The same with all rows as values.
    pub fn made(self) -> crate::error::Result<Answer> {
        Ok(Answer { fields: self.fields, rows: self.rows.made()? })
    }
}

impl From<Answer> for Answer<Rows<Vec<Cell>>> {
    fn from(answer: Answer) -> Self {
        Self { fields: answer.fields, rows: answer.rows.into() }
    }
}

/// The lists of the remote API and of LUXI's older calls: plain values, null where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    Instance,
    Node,
    Group,
    Network,
}

impl Item {
    pub fn resource(self) -> Resource {
        match self {
            Self::Instance => Resource::Instance,
            Self::Node => Resource::Node,
            Self::Group => Resource::Group,
            Self::Network => Resource::Network,
        }
    }
}

/// A row of plain values in the order of the fields asked for. Two rows that are the same allocation are equal: an engine
/// hands out the same one again while nothing in it changed, so what was made of it can be kept.
pub type Row = Arc<Vec<Value>>;
