//! `OP_NODE_POWERCYCLE`: a last resort, so it takes no locks.

use model::config::Config;
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::NodePowercycle;
use model::param::Hypervisor;
use serde_json::{Value, json};

use crate::lu::{Cx, Locks, LogicalUnit, expand};

impl LogicalUnit for NodePowercycle {
    type Plan = Uuid;

    fn locks(&self, config: &Config) -> Result<Locks> {
        expand::node(config, &self.node_name, self.node_uuid.as_deref())?;
        Ok(Locks::new())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Uuid> {
        let config = cx.config();
        let node = expand::node(&config, &self.node_name, self.node_uuid.as_deref())?;
        if node.meta.uuid == config.cluster.master_node && !self.force {
            let text = "The node is the master and the force parameter was not set";
            return Err(GanetiError::wrong_input(text));
        }
        Ok(node.meta.uuid.clone())
    }

    async fn exec(&self, cx: &Cx, uuid: Uuid) -> Result<Value> {
        let default = cx.config().cluster.enabled_hypervisors.first().copied();
        let hypervisor = default.unwrap_or(Hypervisor::Fake);
        let said = match cx.node(&uuid).await {
            Ok(node) => node.powercycle(hypervisor).await,
            Err(error) => Err(error),
        };
        let failed = |error| GanetiError::exec(format!("Failed to schedule the reboot: {error}"));
        said.map(|text| json!(text)).map_err(failed)
    }
}
