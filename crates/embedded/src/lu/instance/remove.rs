//! `OP_INSTANCE_REMOVE`.

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::Result;
use model::opcode::InstanceRemove;
use serde_json::{Value, json};

use super::{disks, find, hook_env, lock_with_resources, shutdown};
use crate::lu::{Cx, Hooks, Locks, LogicalUnit};

impl LogicalUnit for InstanceRemove {
    type Plan = Arc<Instance>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_with_resources(config, &self.instance_name, self.instance_uuid.as_deref(), false)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Arc<Instance>> {
        find(cx, &self.instance_name, self.instance_uuid.as_deref())
    }

    fn hooks(&self, cx: &Cx, instance: &Arc<Instance>) -> Option<Hooks> {
        let mut hooks =
            hook_env::hooks(cx, instance, &[("SHUTDOWN_TIMEOUT", json!(self.shutdown_timeout))]);
        hooks.pre_nodes.truncate(1); // the master
        Some(hooks)
    }

    async fn exec(&self, cx: &Cx, instance: Arc<Instance>) -> Result<Value> {
        if !instance.forthcoming {
            let node = cx.config().node_name(&instance.primary_node).to_owned();
            let message =
                format!("Could not shutdown instance '{}' on node '{node}'", instance.name);
            let stopped = shutdown::stop(cx, &instance, self.shutdown_timeout, &message).await;
            if let Err(error) = stopped {
                if !self.ignore_failures {
                    return Err(error);
                }
                cx.log(&format!("Warning: can't shutdown instance: {error}"));
            }
        }
        disks::remove_instance(cx, &instance.meta.uuid, self.ignore_failures).await?;
        Ok(Value::Null)
    }
}
