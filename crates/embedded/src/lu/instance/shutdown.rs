//! `OP_INSTANCE_SHUTDOWN`.

use std::sync::Arc;
use std::time::Duration;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::opcode::InstanceShutdown;
use model::param::{AdminState, AdminStateSource};
use serde_json::{Value, json};

use super::{checks, disks, find, hook_env, lock_instance, mark, spec_of};
use crate::lu::{Cx, Hooks, Locks, LogicalUnit};

pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// Its primary node is offline: it is only marked.
    only_mark: bool,
}

impl LogicalUnit for InstanceShutdown {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        if self.no_remember && self.admin_state_source.is_some() {
            cx.warn(
                "Parameter 'admin_state_source' has no effect if used with parameter 'no_remember'",
            );
        }
        self.admin_state_source.get_or_insert(AdminStateSource::Admin);
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_instance(config, &self.instance_name, self.instance_uuid.as_deref())
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        if self.force {
            cx.warn("Ignoring offline instance check");
        } else {
            checks::state(cx, &instance, checks::ONLINE, None)?;
        }
        let config = cx.config();
        let offline = config.nodes.get(&instance.primary_node).is_some_and(|node| node.offline);
        let only_mark = offline && self.ignore_offline_nodes;
        if only_mark {
            cx.warn("Ignoring offline primary node");
        } else {
            checks::node_online(&config, &instance.primary_node)?;
        }
        if self.admin_state_source == Some(AdminStateSource::User) {
            let run = checks::running(cx, &instance)?;
            if !checks::user_down(cx, &instance, run.as_ref()) {
                let text = format!("Instance '{}' was not shutdown by the user", instance.name);
                return Err(GanetiError::prereq_plain(text));
            }
        }
        Ok(Plan { instance, only_mark })
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        Some(hook_env::hooks(cx, &plan.instance, &[("TIMEOUT", json!(self.timeout))]))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let instance = &plan.instance;
        // An instance that is marked offline stays so.
        if !self.no_remember && checks::ONLINE.contains(&instance.admin_state) {
            let source = self.admin_state_source.unwrap_or(AdminStateSource::Admin);
            mark(cx, &instance.meta.uuid, AdminState::Down, source).await?;
        }
        if plan.only_mark {
            cx.info("Primary node offline, marked instance as stopped");
            return Ok(Value::Null);
        }
        stop(
            cx,
            instance,
            self.timeout,
            &format!("Could not shutdown instance '{}'", instance.name),
        )
        .await?;
        disks::shutdown(cx, &instance.meta.uuid, None, false).await?;
        Ok(Value::Null)
    }
}

/// Stops an instance on its primary node; `message` begins the text of a failure.
pub(crate) async fn stop(
    cx: &Cx,
    instance: &Instance,
    timeout_s: u64,
    message: &str,
) -> Result<()> {
    let told = spec_of(cx, instance);
    let reason = cx.reason().last().map(|entry| entry.0.clone()).unwrap_or_default();
    let stopped = match cx.node(&instance.primary_node).await {
        Ok(node) => node.stop_instance(&told, Duration::from_secs(timeout_s), &reason).await,
        Err(error) => Err(error),
    };
    stopped.map_err(|error| GanetiError::exec(format!("{message}: {error}")))
}
