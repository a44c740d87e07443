//! `OP_INSTANCE_STARTUP`.

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::opcode::InstanceStartup;
use model::param::{AdminState, AdminStateSource, Dict};
use model::params;
use serde_json::{Value, json};

use super::{checks, disks, find, hook_env, lock_with_resources, mark, shutdown, spec_of};
use crate::lu::{Cx, Hooks, Locks, LogicalUnit};

pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// Its primary node is offline: it is only marked.
    only_mark: bool,
    /// Its guest powered itself off: what is left of it goes first.
    cleanup: bool,
    /// What holds for this start alone.
    hvparams: Dict,
    beparams: Dict,
}

impl LogicalUnit for InstanceStartup {
    type Plan = Plan;

    fn locks(&self, config: &Config) -> Result<Locks> {
        lock_with_resources(config, &self.instance_name, self.instance_uuid.as_deref(), true)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let mut beparams = self.beparams.clone();
        params::be::upgrade(&mut beparams);
        params::be::force(&mut beparams, false)?;
        let mut hvparams = self.hvparams.clone();
        params::hv::force(&mut hvparams, cx.compat(), false)?;
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let told = spec_of(cx, &instance);
        if !hvparams.is_empty() {
            let filled = params::fill(&told.hvparams, &hvparams);
            params::hv::check_syntax(instance.hypervisor, &filled, cx.compat())?;
        }
        checks::state(cx, &instance, checks::ONLINE, None)?;
        let offline = config.nodes.get(&instance.primary_node).is_some_and(|node| node.offline);
        if offline && self.ignore_offline_nodes {
            cx.warn("Ignoring offline primary node");
            if !hvparams.is_empty() || !beparams.is_empty() {
                cx.warn("Overridden parameters are ignored");
            }
            return Ok(Plan { instance, only_mark: true, cleanup: false, hvparams, beparams });
        }
        checks::node_online(&config, &instance.primary_node)?;
        checks::nic_bridges(cx, &instance.primary_node, &instance.nics).await?;
        let run = checks::running(cx, &instance)?;
        let cleanup = checks::user_down(cx, &instance, run.as_ref());
        if run.is_none() {
            let memory = params::fill(&told.beparams, &beparams);
            let reason = format!("starting instance {}", instance.name);
            checks::free_memory(
                cx,
                &instance.primary_node,
                &reason,
                params::be::number(&memory, "minmem"),
            )?;
        }
        Ok(Plan { instance, only_mark: false, cleanup, hvparams, beparams })
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        Some(hook_env::hooks(cx, &plan.instance, &[("FORCE", json!(self.force))]))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let uuid = &plan.instance.meta.uuid;
        if !self.no_remember {
            mark(cx, uuid, AdminState::Up, AdminStateSource::Admin).await?;
        }
        if plan.only_mark {
            cx.info("Primary node offline, marked instance as started");
            return Ok(Value::Null);
        }
        if plan.cleanup {
            let message = format!("Could not shutdown instance '{}'", plan.instance.name);
            shutdown::stop(cx, &plan.instance, self.shutdown_timeout, &message).await?;
            disks::shutdown(cx, uuid, None, false).await?;
        }
        disks::start(cx, uuid, Some(self.force)).await?;
        let mut told = spec_of(cx, &plan.instance);
        told.hvparams = params::fill(&told.hvparams, &plan.hvparams);
        told.beparams = params::fill(&told.beparams, &plan.beparams);
        let started = match cx.node(&plan.instance.primary_node).await {
            Ok(node) => node.start_instance(&told, self.startup_paused).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            disks::shutdown(cx, uuid, None, false).await?;
            let text = format!("Could not start instance '{}': {error}", plan.instance.name);
            return Err(GanetiError::exec(text));
        }
        Ok(Value::Null)
    }
}
