//! What can be asked of the cluster: the query language over all its fields, the classic lists, cluster information, tags.
//!
//! A field is one row of its noun's table: name, title, kind, description, getter. Nothing here waits or writes: everything
//! is computed from a snapshot of the configuration and from what the nodes' states say at this moment ([`Live`]); what
//! only others know (jobs, locks, exports) is handed in. Nothing is asked of a node.

mod cluster;
mod export;
mod field;
mod filter_rule;
mod group;
mod instance;
mod job;
mod list;
mod lock;
mod lookup;
mod network;
mod node;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::node::{Console, NodeState};
use model::compat::Compat;
use model::config::{Config, Instance};
use model::error::{ErrorClass, GanetiError, Result};
use model::job::Job;
use model::name::{JobId, Uuid};
use model::query::filter::{self, Filter};
use model::query::{Answer, Cell, FieldDef, Item, Resource, Row};
use serde_json::Value;

pub(crate) use cluster::{cluster_info, config_value, tags};
pub(crate) use export::NodeExports;
use field::{Field, Subject, Table};
pub(crate) use instance::instance_status;
pub(crate) use job::JobsWanted;
pub(crate) use lock::LockRow;
use lookup::Noun;

/// What fields are computed from.
pub(crate) struct Live<'a> {
    pub(crate) config: &'a Config,
    /// What is known about a node now; `None` when there is no such node to ask.
    pub(crate) nodes: &'a dyn Fn(&Uuid) -> Option<Arc<NodeState>>,
    /// How to reach an instance's console; `None` when its node cannot say.
    pub(crate) console: &'a dyn Fn(&Instance) -> Option<Console>,
    pub(crate) compat: Compat,
}

impl Live<'_> {
    /// The state of a node that is asked and answers.
    fn state(&self, uuid: &Uuid) -> Option<Arc<NodeState>> {
        let node = self.config.nodes.get(uuid)?;
        if node.offline { None } else { (self.nodes)(uuid).filter(|state| state.reachable) }
    }
}

/// A query that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) resource: Resource,
    pub(crate) fields: Vec<String>,
    pub(crate) filter: Filter,
}

impl Request {
    /// Reads a query; what is no query is refused as the master daemon refuses it.
    pub(crate) fn parse(resource: &str, fields: &[String], filter: &Value) -> Result<Self> {
        let Some(known) = Resource::parse(resource) else {
            let request = serde_json::json!([resource, fields, filter]);
            return Err(unknown_resource("Query", resource, &request));
        };
        let filter = filter::parse(resource, fields, filter)?;
        Ok(Self { resource: known, fields: fields.to_vec(), filter })
    }
}

fn unknown_resource(call: &str, resource: &str, request: &Value) -> GanetiError {
    // Ganeti: resources that only its command line asks for are told apart (3.0, Query/Server.hs).
    if let Some(known) = match resource {
        "cluster" => Some("QRCluster"),
        "os" => Some("QROs"),
        _ => None,
    } {
        let text = format!("{call} 'ItemTypeOpCode {known}' not supported");
        return GanetiError::new(ErrorClass::GenericError, text);
    }
    // Ganeti: the missing blank is its own (3.0.2, asked).
    let text = format!(
        "Failed to parse request: Cannot convert value '{}', error: Can't parse value '{resource}' as \
         neitherQueryTypeLuxi nor QueryTypeOp",
        filter::pretty(request)
    );
    GanetiError::new(ErrorClass::RequestError, text)
}

/// The answers that are kept between requests: see [`list`].
#[derive(Default)]
pub(crate) struct Queries {
    lists: list::Lists,
}

impl Queries {
    /// Answers a query on what the configuration holds: instances, nodes, groups, networks, filter rules. The others have
    /// functions of their own, since what they read is not here.
    pub(crate) fn query(&self, live: &Live<'_>, request: &Request) -> Result<Answer> {
        let Request { resource, fields, filter } = request;
        match resource {
            Resource::Instance => {
                let table = instance::table();
                let found = lookup::select(live.config, Noun::Instance, filter, "name")?;
                let items = match found {
                    Some(uuids) => lookup::objects(&live.config.instances, &uuids),
                    None => self.lists.instances(live),
                };
                answer(
                    table,
                    fields,
                    filter,
                    items.iter().map(|item| instance::Cx::new(live, item)),
                )
            }
            Resource::Node => {
                let items = lookup::nodes(live.config, filter, "name")?;
                answer(
                    node::table(),
                    fields,
                    filter,
                    items.iter().map(|item| node::Cx::new(live, item)),
                )
            }
            Resource::Group => {
                let items = lookup::groups(live.config, filter)?;
                answer(
                    group::table(),
                    fields,
                    filter,
                    items.iter().map(|item| group::Cx::new(live, item)),
                )
            }
            Resource::Network => {
                let items = lookup::networks(live.config, filter)?;
                let items = items.iter().map(|item| network::Cx::new(live, item));
                answer(network::table(), fields, filter, items)
            }
            Resource::Filter => {
                let items = lookup::all_filters(live.config).into_iter();
                answer(filter_rule::table(), fields, filter, items)
            }
            Resource::Job | Resource::Lock | Resource::Export => Err(GanetiError::new(
                ErrorClass::ProgrammerError,
                format!("query of {} without its data", resource.as_str()),
            )),
        }
    }

    /// A classic list: plain values, in natural order; with names, those objects that there are. Rows in which nothing
    /// changed are the same allocation as before.
    pub(crate) fn items(
        &self,
        live: &Live<'_>,
        item: Item,
        names: &[String],
        fields: &[&str],
    ) -> Result<Vec<Row>> {
        if names.is_empty() {
            return self.lists.all(live, item, fields);
        }
        let found = |noun| lookup::known(live.config, noun, names);
        match item {
            Item::Instance => {
                let items = lookup::objects(&live.config.instances, &found(Noun::Instance));
                rows(
                    instance::table(),
                    fields,
                    items.iter().map(|item| instance::Cx::new(live, item)),
                )
            }
            Item::Node => {
                let items = lookup::objects(&live.config.nodes, &found(Noun::Node));
                rows(node::table(), fields, items.iter().map(|item| node::Cx::new(live, item)))
            }
            Item::Group => {
                let items = lookup::objects(&live.config.groups, &found(Noun::Group));
                rows(group::table(), fields, items.iter().map(|item| group::Cx::new(live, item)))
            }
            Item::Network => {
                let items = lookup::objects(&live.config.networks, &found(Noun::Network));
                rows(
                    network::table(),
                    fields,
                    items.iter().map(|item| network::Cx::new(live, item)),
                )
            }
        }
    }
}

/// Answers a query on jobs; `jobs` are those that [`JobsWanted::of`] names, in that order, `None` for unknown ones.
pub(crate) fn query_jobs(
    request: &Request,
    jobs: &[(JobId, Option<Arc<Job>>)],
    compat: Compat,
) -> Result<Answer> {
    let items = jobs.iter().map(|(id, job)| job::Cx::new(*id, job.as_deref(), compat));
    answer(job::table(), &request.fields, &request.filter, items)
}

/// The values of a job, for the classic job list and for waiting.
pub(crate) fn job_values(job: &Job, fields: &[&str], compat: Compat) -> Result<Vec<Value>> {
    let selected = job::table().select(fields)?;
    let cx = job::Cx::new(job.id, Some(job), compat);
    Ok(selected.iter().map(|field| field.cell(&cx).into_plain()).collect())
}

/// The same for waiting, where all values are null as soon as one field does not exist (Ganeti 3.0.2, asked).
pub(crate) fn job_values_seen(job: &Job, fields: &[&str], compat: Compat) -> Vec<Value> {
    let table = job::table();
    let cx = job::Cx::new(job.id, Some(job), compat);
    let value = |name: &&str| table.get(name).map(|row| row.cell(&cx).into_plain());
    let values: Option<Vec<Value>> = fields.iter().map(value).collect();
    values.unwrap_or_else(|| vec![Value::Null; fields.len()])
}

/// Answers a query on locks, all of which are handed in: those held and those waited for.
pub(crate) fn query_locks(request: &Request, locks: &[LockRow]) -> Result<Answer> {
    let mut locks: Vec<&LockRow> = locks.iter().collect();
    locks.sort_by(|a, b| model::units::natural_cmp(&a.name, &b.name));
    answer(lock::table(), &request.fields, &request.filter, locks.into_iter())
}

/// The nodes whose exports a query on exports needs, in the order of its rows.
pub(crate) fn export_nodes(config: &Config, request: &Request) -> Result<Vec<Uuid>> {
    let nodes = lookup::nodes(config, &request.filter, "node")?;
    Ok(nodes.iter().map(|node| node.meta.uuid.clone()).collect())
}

/// Answers a query on exports; `exports` are those of the nodes that [`export_nodes`] names.
pub(crate) fn query_exports(request: &Request, exports: &[NodeExports]) -> Result<Answer> {
    let items: Vec<_> = exports.iter().flat_map(NodeExports::rows).collect();
    answer(export::table(), &request.fields, &request.filter, items.into_iter())
}

/// Filter rules as plain rows, by UUID; unknown ones give none.
pub(crate) fn filter_rows(
    config: &Config,
    uuids: Option<&[String]>,
    fields: &[&str],
) -> Result<Vec<Row>> {
    let wanted = |uuid: &str| uuids.is_none_or(|uuids| uuids.iter().any(|known| known == uuid));
    let rules = lookup::all_filters(config).into_iter().filter(|rule| wanted(rule.uuid.as_str()));
    rows(filter_rule::table(), fields, rules)
}

/// The descriptions of a resource's fields: those asked for, or all in natural order.
pub(crate) fn fields(resource: &str, names: Option<&[String]>) -> Result<Vec<FieldDef>> {
    let Some(known) = Resource::parse(resource) else {
        let request = serde_json::json!([resource, names]);
        return Err(unknown_resource("QueryFields", resource, &request));
    };
    Ok(match known {
        Resource::Instance => instance::table().describe(names),
        Resource::Node => node::table().describe(names),
        Resource::Group => group::table().describe(names),
        Resource::Network => network::table().describe(names),
        Resource::Job => job::table().describe(names),
        Resource::Lock => lock::table().describe(names),
        Resource::Export => export::table().describe(names),
        Resource::Filter => filter_rule::table().describe(names),
    })
}

/// What is said to a query that asks for locks (Ganeti takes none for queries any more).
pub(crate) fn locked_queries_refused() -> GanetiError {
    GanetiError::wrong_input("Sync queries are not allowed")
}

/// Filters items and computes the fields asked for.
fn answer<'a, S: Subject>(
    table: &'static Table<S>,
    fields: &[String],
    filter: &Filter,
    items: impl Iterator<Item = S::Cx<'a>>,
) -> Result<Answer> {
    let filter = table.resolve(filter)?;
    let columns: Vec<_> = fields.iter().map(|name| table.get(name)).collect();
    let mut rows = Vec::new();
    for item in items {
        if filter.passes(&|field| (field.cell(&item), field.mode))? {
            let cell = |column: &Option<&Field<S>>| {
                column.map_or(Cell::Unknown, |field| field.cell(&item))
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    Ok(Answer { fields: table.describe(Some(fields)), rows })
}

/// The plain rows of items.
fn rows<'a, S: Subject>(
    table: &'static Table<S>,
    fields: &[&str],
    items: impl Iterator<Item = S::Cx<'a>>,
) -> Result<Vec<Row>> {
    let selected = table.select(fields)?;
    Ok(items.map(|item| field::plain_row(&selected, &item)).collect())
}
