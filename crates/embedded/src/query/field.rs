//! What a field is, and tables of them.

use std::collections::HashMap;
use std::sync::Arc;

use model::config::Meta;
use model::error::{ErrorClass, GanetiError, Result};
use model::query::filter::{Filter, Mode};
use model::query::{Cell, FieldDef, FieldKind, Row};
use model::units::{natural_cmp, number};
use serde_json::Value;

/// A kind of thing that has fields.
pub(super) trait Subject: 'static {
    /// One of them, with what its fields are computed from.
    type Cx<'a>;
}

/// What beside the object itself and what it shares with all others a field is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reads {
    Config,
    /// Its disks.
    Disks,
    /// The nodes' states.
    Live,
    /// A node's say: nothing tells when it changes.
    Node,
}

type Get<S> = Arc<dyn for<'a> Fn(&<S as Subject>::Cx<'a>) -> Cell + Send + Sync>;

/// A field: how it is described, how it compares, and how a cell is computed.
pub(super) struct Field<S: Subject> {
    pub(super) def: FieldDef,
    pub(super) mode: Mode,
    pub(super) reads: Reads,
    get: Get<S>,
}

impl<S: Subject> Field<S> {
    pub(super) fn new(name: &str, title: &str, kind: FieldKind, doc: &str, get: Get<S>) -> Self {
        let def =
            FieldDef { name: name.to_owned(), title: title.to_owned(), kind, doc: doc.to_owned() };
        Self { def, mode: Mode::Plain, reads: Reads::Config, get }
    }

    pub(super) fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// The same field under another name.
    fn alias(&self, name: &str) -> Self {
        let def = FieldDef { name: name.to_owned(), ..self.def.clone() };
        Self { def, mode: self.mode, reads: self.reads, get: self.get.clone() }
    }

    pub(super) fn cell(&self, cx: &S::Cx<'_>) -> Cell {
        (self.get)(cx)
    }
}

/// The fields of a kind of thing.
pub(super) struct Table<S: Subject> {
    /// In natural order of their names.
    fields: Vec<Field<S>>,
    by_name: HashMap<String, usize>,
}

impl<S: Subject> Table<S> {
    pub(super) fn new(mut fields: Vec<Field<S>>, aliases: &[(&str, &str)]) -> Self {
        for (alias, name) in aliases {
            let found =
                fields.iter().find(|field| field.def.name == *name).map(|field| field.alias(alias));
            fields.extend(found);
        }
        fields.sort_by(|a, b| natural_cmp(&a.def.name, &b.def.name));
        let by_name =
            fields.iter().enumerate().map(|(at, field)| (field.def.name.clone(), at)).collect();
        Self { fields, by_name }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Field<S>> {
        self.by_name.get(name).map(|at| &self.fields[*at])
    }

    /// The descriptions of fields; of those that do not exist too.
    pub(super) fn describe(&self, names: Option<&[String]>) -> Vec<FieldDef> {
        let one = |name: &String| match self.get(name) {
            Some(field) => field.def.clone(),
            None => FieldDef::unknown(name),
        };
        match names {
            Some(names) => names.iter().map(one).collect(),
            None => self.fields.iter().map(|field| field.def.clone()).collect(),
        }
    }

    /// The fields of those names, all of which must exist.
    pub(super) fn select(&self, names: &[&str]) -> Result<Vec<&Field<S>>> {
        let unknown: Vec<&str> =
            names.iter().copied().filter(|name| !self.by_name.contains_key(*name)).collect();
        if !unknown.is_empty() {
            let text = format!("Unknown output fields selected: {}", unknown.join(", "));
            return Err(GanetiError::wrong_input(text));
        }
        Ok(names.iter().filter_map(|name| self.get(name)).collect())
    }

    /// A filter's fields, looked up.
    pub(super) fn resolve(&self, filter: &Filter) -> Result<Filter<&Field<S>>> {
        filter.resolve(&|name: &String| {
            self.get(name).ok_or_else(|| {
                let text = format!("Can't find field named '{name}'");
                GanetiError::new(ErrorClass::ParameterError, text)
            })
        })
    }
}

/// A row of plain values.
pub(super) fn plain_row<S: Subject>(fields: &[&Field<S>], cx: &S::Cx<'_>) -> Row {
    Arc::new(fields.iter().map(|field| field.cell(cx).into_plain()).collect())
}

/// A cell with a value.
pub(super) fn normal(value: impl Into<Value>) -> Cell {
    Cell::Normal(value.into())
}

/// A cell whose value may not apply.
pub(super) fn or_unavailable<T: Into<Value>>(value: Option<T>) -> Cell {
    value.map_or(Cell::Unavailable, normal)
}

/// A cell whose value may be missing.
pub(super) fn or_no_data<T: Into<Value>>(value: Option<T>) -> Cell {
    value.map_or(Cell::NoData, normal)
}

/// The values of all items, null where one has none.
pub(super) fn list<T, V: Into<Value>>(
    items: impl IntoIterator<Item = T>,
    value: impl Fn(T) -> V,
) -> Cell {
    Cell::Normal(items.into_iter().map(|item| value(item).into()).collect())
}

/// A row of [`META`].
type MetaRow = (&'static str, &'static str, FieldKind, &'static str, fn(&Meta) -> Value);

/// The rows that every object with a UUID has: `(name, title, kind, description, value)`; `%` in the description stands for
/// the kind of object.
pub(super) const META: &[MetaRow] = &[
    ("ctime", "CTime", FieldKind::Timestamp, "Creation timestamp", |meta| number(meta.ctime)),
    ("mtime", "MTime", FieldKind::Timestamp, "Modification timestamp", |meta| number(meta.mtime)),
    ("uuid", "UUID", FieldKind::Text, "% UUID", |meta| Value::from(&meta.uuid)),
    (
        "serial_no",
        "SerialNo",
        FieldKind::Number,
        "% object serial number, incremented on each modification",
        |meta| Value::from(meta.serial_no),
    ),
];

/// Declares a noun's `row` function and `table`: the rows come from the function named, aliases follow.
macro_rules! subject {
    ($(#[doc = $doc:literal])* $Subject:ident, $Cx:ty, $rows:expr, $aliases:expr) => {
        $(#[doc = $doc])*
        pub(super) struct $Subject;

        impl $crate::query::field::Subject for $Subject {
            type Cx<'a> = $Cx;
        }

        type Field = $crate::query::field::Field<$Subject>;

        fn row(
            name: &str,
            title: &str,
            kind: model::query::FieldKind,
            doc: &str,
            get: impl for<'a> Fn(&$Cx) -> model::query::Cell + Send + Sync + 'static,
        ) -> Field {
            Field::new(name, title, kind, doc, std::sync::Arc::new(get))
        }

        /// All its fields.
        pub(super) fn table() -> &'static $crate::query::field::Table<$Subject> {
            static TABLE: std::sync::LazyLock<$crate::query::field::Table<$Subject>> =
                std::sync::LazyLock::new(|| $crate::query::field::Table::new($rows(), $aliases));
            &TABLE
        }
    };
}
pub(super) use subject;
