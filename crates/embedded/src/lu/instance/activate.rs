//! `OP_INSTANCE_ACTIVATE_DISKS` and `OP_INSTANCE_DEACTIVATE_DISKS`.

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::opcode::{InstanceActivateDisks, InstanceDeactivateDisks};
use serde_json::{Value, json};

use super::{checks, disks, find, lock_instance};
use crate::lu::{Cx, Locks, LogicalUnit};

impl LogicalUnit for InstanceActivateDisks {
    type Plan = Arc<Instance>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_instance(config, &self.instance_name, self.instance_uuid.as_deref())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Arc<Instance>> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        checks::node_online(&cx.config(), &instance.primary_node)?;
        Ok(instance)
    }

    async fn exec(&self, cx: &Cx, instance: Arc<Instance>) -> Result<Value> {
        let (all_well, mapping) = disks::assemble(cx, &instance.meta.uuid, None, false).await?;
        if !all_well {
            return Err(GanetiError::exec("Cannot activate block devices"));
        }
        Ok(mapping.into_iter().map(|(node, name, device)| json!([node, name, device])).collect())
    }
}

impl LogicalUnit for InstanceDeactivateDisks {
    type Plan = Arc<Instance>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_instance(config, &self.instance_name, self.instance_uuid.as_deref())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Arc<Instance>> {
        find(cx, &self.instance_name, self.instance_uuid.as_deref())
    }

    async fn exec(&self, cx: &Cx, instance: Arc<Instance>) -> Result<Value> {
        if !self.force {
            checks::state(cx, &instance, checks::DOWN, Some("cannot shutdown disks"))?;
        }
        disks::shutdown(cx, &instance.meta.uuid, None, false).await?;
        Ok(Value::Null)
    }
}
