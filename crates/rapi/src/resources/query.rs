//! The query language: any fields of any objects that pass a filter.

use std::sync::Arc;

use serde_json::{Value, json};

use model::engine::Engine;
use model::query::rows::Rows;
use model::query::{Answer, Cell, FieldDef};

use crate::error::HttpError;
use crate::fill;
use crate::input::Input;
use crate::json::write_bare;
use crate::pieces;
use crate::resources::json;
use crate::route::{Answering, Reply};

fn resource(input: &Input) -> &str {
    input.path_var("resource").unwrap_or_default()
}

/// The fields in the query, with commas between.
fn asked(input: &Input) -> Option<Vec<String>> {
    let fields = input.first("fields")?;
    Some(fields.split(',').map(|field| field.trim().to_owned()).collect())
}

fn required(input: &Input) -> Result<Vec<String>, HttpError> {
    asked(input).ok_or_else(|| HttpError::bad_request("Missing 'fields' query argument"))
}

fn shown(answer: Answer<Rows<Vec<Cell>>>) -> Result<Reply, HttpError> {
    let fields: Value = answer.fields.iter().map(FieldDef::to_value).collect();
    match answer.rows {
        Rows::Made(rows) => {
            let rows = rows.iter().map(|row| row.iter().map(Cell::to_value).collect::<Value>());
            json(json!({"data": rows.collect::<Value>(), "fields": fields}))
        }
        Rows::Text(rows) => {
            let mut tail = b"], \"fields\": ".to_vec();
            write_bare(&mut tail, &fields);
            tail.extend_from_slice(b"}\n");
            pieces::reply(rows, b"{\"data\": [".to_vec(), tail, Value::Array)
        }
    }
}

/// GET: all objects.
pub(crate) fn get<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let fields = required(input)?;
        shown(engine.query(resource(input), &fields, &Value::Null).await?)
    })
}

/// PUT: those that pass a filter.
pub(crate) fn put<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let body = fill::body(input);
        let Value::Object(params) = body else {
            return Err(fill::wrong_type("Body contents", body, "dict"));
        };
        let mut filters = ["qfilter", "filter"].iter().filter_map(|name| params.get(*name));
        let filter = filters.find(|filter| !filter.is_null()).unwrap_or(&Value::Null);
        let fields = match params.get("fields") {
            None => required(input)?,
            Some(given) => field_names(given)
                .map_err(|why| fill::unreadable(&json!([resource(input), given, filter]), why))?,
        };
        shown(engine.query(resource(input), &fields, filter).await?)
    })
}

fn field_names(given: &Value) -> Result<Vec<String>, &'static str> {
    let fields = given.as_array().ok_or("Unable to read list")?;
    let names = fields.iter().map(|field| field.as_str().map(str::to_owned));
    names.collect::<Option<_>>().ok_or("Unable to read String")
}

/// GET of the fields that there are.
pub(crate) fn fields<'a>(engine: &'a Arc<dyn Engine>, input: &'a Input) -> Answering<'a> {
    Box::pin(async move {
        let asked = asked(input);
        let fields = engine.query_fields(resource(input), asked.as_deref()).await?;
        json(json!({"fields": fields.iter().map(FieldDef::to_value).collect::<Value>()}))
    })
}

/// The body of PUT.
pub(crate) fn schema() -> Value {
    json!({"type": "object", "properties": {
        "fields": {"type": "array", "items": {"type": "string"}, "description": "The fields; by default those in the query."},
        "qfilter": {"type": ["array", "null"], "description": "The filter, such as `[\"==\", \"name\", \"node1\"]`; null lets all pass."},
        "filter": {"type": ["array", "null"], "description": "The older name of `qfilter`."},
    }})
}
