//! `OP_NODE_MIGRATE`: submits a migration of each instance that runs on a node.

use model::config::Config;
use model::error::Result;
use model::name::Uuid;
use model::opcode::{NodeMigrate, Op, OpId};
use model::param::{Dict, NonEmpty, Param};
use model::units::natural_cmp;
use serde_json::{Value, json};

use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks};

impl LogicalUnit for NodeMigrate {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        let node = expand::node(config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(Locks::new().shared(Level::Node, &node.meta.uuid))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        let node = expand::node(&config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(node.meta.uuid.clone())
    }

    fn hooks(&self, cx: &Cx, node: &Uuid) -> Option<Hooks> {
        let config = cx.config();
        let runtime = if self.allow_runtime_changes { "True" } else { "False" };
        let env = [
            ("NODE_NAME", config.node_name(node).to_owned()),
            ("ALLOW_RUNTIME_CHANGES", runtime.to_owned()),
        ];
        Some(plain_hooks::hooks("NODE", "", env, plain_hooks::on_master(&config)))
    }

    async fn exec(&self, cx: &Cx, node: Uuid) -> Result<Value> {
        let config = cx.config();
        let mut names: Vec<&str> = config.primaries(&node).map(|i| i.name.as_str()).collect();
        names.sort_by(|a, b| natural_cmp(a, b));
        let jobs = names.into_iter().map(|name| Ok(vec![migration(self, cx, name)?]));
        let jobs = jobs.collect::<Result<Vec<_>>>()?;
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

/// The migration of one instance, with what the node's says.
fn migration(op: &NodeMigrate, cx: &Cx, instance: &str) -> Result<Op> {
    let mut params = Dict::new();
    params.insert("instance_name".to_owned(), json!(instance));
    let name = |name: &Option<NonEmpty>| name.write();
    params.insert("mode".to_owned(), op.mode.write());
    params.insert("live".to_owned(), op.live.write());
    params.insert("iallocator".to_owned(), name(&op.iallocator));
    params.insert("target_node".to_owned(), name(&op.target_node));
    params.insert("allow_runtime_changes".to_owned(), json!(op.allow_runtime_changes));
    params.insert("ignore_ipolicy".to_owned(), json!(op.ignore_ipolicy));
    super::evacuate::read_op(OpId::InstanceMigrate, &params, cx.compat())
}
