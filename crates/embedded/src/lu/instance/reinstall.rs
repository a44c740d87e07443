//! `OP_INSTANCE_REINSTALL`.

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::opcode::InstanceReinstall;
use model::param::Dict;
use model::params;
use node::OsParams;
use serde_json::Value;

use super::{again, checks, disks, find, hook_env, nodes_of, os_params, real, spec_of, wipe};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit};

pub(crate) struct Plan {
    instance: Arc<Instance>,
    /// All parameters of the operating system, for this run.
    os_params: OsParams,
}

impl LogicalUnit for InstanceReinstall {
    type Plan = Plan;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        checks::os_image(self.osparams.as_ref()).map(drop)
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance = real(config, &self.instance_name, self.instance_uuid.as_deref())?;
        Ok(Locks::new().exclusive(Level::Instance, &instance.name))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        checks::node_online_for(
            &config,
            &instance.primary_node,
            "Instance primary node offline, cannot reinstall",
        )?;
        if instance.disks.is_empty() {
            let text = format!("Instance '{}' has no disks", instance.name);
            return Err(GanetiError::wrong_input(text));
        }
        checks::state(cx, &instance, checks::DOWN, Some("cannot reinstall"))?;
        cx.show(Self {
            osparams: Some(self.osparams.clone().unwrap_or_default()),
            osparams_private: Some(self.osparams_private.clone().unwrap_or_default()),
            osparams_secret: Some(self.osparams_secret.clone().unwrap_or_default()),
            ..self.clone()
        });
        let none = Dict::new();
        let public = self.osparams.as_ref().unwrap_or(&none);
        let private = self.osparams_private.as_ref().map_or(&none, |params| &params.0);
        let secret = self.osparams_secret.as_ref().map_or(&none, |params| &params.0);
        let os = self.os_type.as_deref().unwrap_or(&instance.os);
        let os_params = os_params(
            cx,
            os,
            &params::updated(&instance.osparams, public, true, false),
            &params::updated(&instance.osparams_private, private, true, false),
            secret,
        )?;
        let nodes = nodes_of(&config, &instance);
        checks::osparams(cx, &nodes, os, &os_params, self.force_variant).await?;
        Ok(Plan { instance, os_params })
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        Some(hook_env::hooks(cx, &plan.instance, &[]))
    }

    fn post_env(&self, cx: &Cx) -> Option<hook_env::Env> {
        hook_env::after(cx, &self.instance_name, &[])
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let uuid = &plan.instance.meta.uuid;
        let image = match checks::os_image(self.osparams.as_ref())? {
            Some(image) => {
                cx.log(&format!("Using OS image '{image}'"));
                Some(image)
            }
            None => checks::os_image(Some(&plan.instance.osparams))?,
        };
        if let Some(os) = &self.os_type {
            cx.log(&format!("Changing OS scripts to '{os}'..."));
            cx.commit(|draft| {
                draft.edit_instance(uuid, |instance| instance.os = os.to_string());
                Ok(())
            })
            .await?;
        }
        if image.is_none() && again(cx, uuid)?.os.is_empty() {
            cx.info(
                "No OS scripts or OS image specified or found in the instance's configuration, nothing to install",
            );
            return Ok(Value::Null);
        }
        // Ganeti: what is stored is replaced by what is given, also where nothing is (3.0, cmdlib/instance_operation.py
        // `_MergeValidateOsParams` makes an empty dictionary of none).
        cx.commit(|draft| {
            draft.edit_instance(uuid, |instance| {
                instance.osparams = self.osparams.clone().unwrap_or_default();
                instance.osparams_private =
                    self.osparams_private.clone().map(|params| params.0).unwrap_or_default();
            });
            Ok(())
        })
        .await?;
        disks::start(cx, uuid, None).await?;
        let instance = again(cx, uuid)?;
        let installed = install(cx, &instance, image, &plan.os_params).await;
        disks::shutdown(cx, uuid, None, false).await?;
        installed.map(|()| Value::Null)
    }
}

/// Writes the image, and runs the create script.
async fn install(
    cx: &Cx,
    instance: &Instance,
    image: Option<&str>,
    os_params: &OsParams,
) -> Result<()> {
    if let Some(image) = image {
        wipe::image(cx, &instance.meta.uuid, image).await?;
    }
    if instance.os.is_empty() {
        return Ok(());
    }
    cx.info("Running instance OS create scripts...");
    let told = spec_of(cx, instance);
    let installed = match cx.node(&instance.primary_node).await {
        Ok(node) => node.create_os(&told, true, os_params, cx.script_output()).await,
        Err(error) => Err(error),
    };
    installed.map_err(|error| {
        GanetiError::exec(format!(
            "Could not install OS for instance '{}' on node '{}': {error}",
            instance.name,
            cx.config().node_name(&instance.primary_node)
        ))
    })
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use node::Verb;
    use serde_json::{Value, json};

    fn reinstall(name: &str, more: &Value) -> Value {
        let mut op = json!({"OP_ID": "OP_INSTANCE_REINSTALL", "instance_name": name});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    async fn bench() -> Bench {
        let bench = Bench::new(2);
        bench.os_parameters(&["a", "b"]);
        let disk = json!([{"size": 1024}]);
        let plain = json!({"disk_template": "plain", "disks": disk, "start": false});
        bench.make("web1.example.com", plain).await;
        bench.make("web2.example.com", json!({"start": false})).await;
        bench
    }

    #[tokio::test]
    async fn scripts_run_on_disks_that_are_up_for_that_time() {
        let bench = bench().await;
        let outcome = bench.run(reinstall("web1", &json!({}))).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert_eq!(outcome.log, [" - INFO: Running instance OS create scripts..."]);
        assert!(!bench.config().instance_by_name("web1.example.com").unwrap().disks_active);
    }

    #[tokio::test]
    async fn the_operating_system_and_its_parameters_change() {
        let bench = bench().await;
        let more =
            json!({"os_type": "noop", "osparams": {"a": "1"}, "osparams_private": {"b": "2"}});
        let outcome = bench.run(reinstall("web1", &more)).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert_eq!(
            outcome.log,
            ["Changing OS scripts to 'noop'...", " - INFO: Running instance OS create scripts..."]
        );
        let config = bench.config();
        let instance = config.instance_by_name("web1.example.com").unwrap();
        assert_eq!(Value::Object(instance.osparams.clone()), json!({"a": "1"}));
        assert_eq!(Value::Object(instance.osparams_private.clone()), json!({"b": "2"}));
        assert_eq!(bench.run(reinstall("web1", &json!({}))).await.result, Ok(json!(null)));
        let config = bench.config();
        assert!(config.instance_by_name("web1.example.com").unwrap().osparams.is_empty());
    }

    #[tokio::test]
    async fn a_script_that_fails_fails_it() {
        let bench = bench().await;
        bench.fault("web1.example.com", Verb::CreateOs, "OS create script failed").await;
        let error = bench.run(reinstall("web1", &json!({}))).await.result.unwrap_err();
        assert_eq!(
            error,
            GanetiError::exec(
                "Could not install OS for instance 'web1.example.com' on node 'node1.example.com': OS create script failed"
            )
        );
        assert!(!bench.config().instance_by_name("web1.example.com").unwrap().disks_active);
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench().await;
        let check = async |op: Value, expected: Value| {
            let refused = bench.run(op).await.result.map_err(|error: GanetiError| error.to_value());
            assert_eq!(refused, Err(expected));
        };
        check(
            reinstall("web2", &json!({})),
            json!(["OpPrereqError", ["Instance 'web2.example.com' has no disks", "wrong_input"]]),
        )
        .await;
        check(
            reinstall("web1", &json!({"osparams": {"os-image": "x"}})),
            json!(["OpPrereqError", ["OS image must be an absolute path or a URL"]]),
        )
        .await;
        check(
            reinstall("web1", &json!({"os_type": "nosuch"})),
            json!(["OpExecError", ["OS Parameters validation failed on node node1.example.com: Directory for OS nosuch \
                not found in search path"]]),
        )
        .await;
        bench.start("web1.example.com").await;
        check(
            reinstall("web1", &json!({})),
            json!([
                "OpPrereqError",
                ["Instance 'web1.example.com' is marked to be up, cannot reinstall", "wrong_state"]
            ]),
        )
        .await;
        bench.set_offline("node1.example.com", true).await;
        check(
            reinstall("web1", &json!({})),
            json!([
                "OpPrereqError",
                [
                    "Instance primary node offline, cannot reinstall: node1.example.com",
                    "wrong_state"
                ]
            ]),
        )
        .await;
    }
}
