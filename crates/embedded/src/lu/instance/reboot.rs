//! `OP_INSTANCE_REBOOT`.

use std::sync::Arc;
use std::time::Duration;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::opcode::InstanceReboot;
use model::param::{AdminState, AdminStateSource, RebootType};
use serde_json::{Value, json};

use super::{checks, disks, find, hook_env, lock_instance, mark, shutdown, spec_of};
use crate::lu::{Cx, Hooks, Locks, LogicalUnit};

impl LogicalUnit for InstanceReboot {
    type Plan = Arc<Instance>;

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_instance(config, &self.instance_name, self.instance_uuid.as_deref())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Arc<Instance>> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        checks::state(cx, &instance, checks::ONLINE, None)?;
        checks::node_online(&cx.config(), &instance.primary_node)?;
        Ok(instance)
    }

    fn hooks(&self, cx: &Cx, instance: &Arc<Instance>) -> Option<Hooks> {
        let own = [
            ("IGNORE_SECONDARIES", json!(self.ignore_secondaries)),
            ("REBOOT_TYPE", json!(self.reboot_type.as_str())),
            ("SHUTDOWN_TIMEOUT", json!(self.shutdown_timeout)),
        ];
        Some(hook_env::hooks(cx, instance, &own))
    }

    async fn exec(&self, cx: &Cx, instance: Arc<Instance>) -> Result<Value> {
        let uuid = &instance.meta.uuid;
        let running = checks::running(cx, &instance)?.is_some();
        if running && self.reboot_type != RebootType::Full {
            let told = spec_of(cx, &instance);
            let timeout = Duration::from_secs(self.shutdown_timeout);
            let rebooted = match cx.node(&instance.primary_node).await {
                Ok(node) => node.reboot_instance(&told, self.reboot_type, timeout).await,
                Err(error) => Err(error),
            };
            rebooted.map_err(|error| {
                GanetiError::exec(format!("Could not reboot instance: {error}"))
            })?;
        } else {
            if running {
                let message = "Could not shutdown instance for full reboot";
                shutdown::stop(cx, &instance, self.shutdown_timeout, message).await?;
                disks::shutdown(cx, uuid, None, false).await?;
            } else {
                cx.info(&format!("Instance {} was already stopped, starting now", instance.name));
            }
            disks::start(cx, uuid, Some(self.ignore_secondaries)).await?;
            let told = spec_of(cx, &instance);
            let started = match cx.node(&instance.primary_node).await {
                Ok(node) => node.start_instance(&told, false).await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                disks::shutdown(cx, uuid, None, false).await?;
                let text = format!("Could not start instance for full reboot: {error}");
                return Err(GanetiError::exec(text));
            }
        }
        mark(cx, uuid, AdminState::Up, AdminStateSource::Admin).await?;
        Ok(Value::Null)
    }
}
