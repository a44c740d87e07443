//! `OP_INSTANCE_RENAME`.

use std::path::Path;
use std::sync::Arc;

use model::config::{Config, Disk, Instance};
use model::error::{GanetiError, Result};
use model::opcode::InstanceRename;
use model::param::{Dict, DiskTemplate, NonEmpty};
use node::DiskSpec;
use serde_json::{Value, json};

use super::{again, checks, disks, find, hook_env, layout, naming, nodes_of, os_params, spec_of};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};
use crate::spec;

/// Templates whose files lie in a directory that is called as the instance.
const NAMED_FILES: &[DiskTemplate] = &[DiskTemplate::File, DiskTemplate::Sharedfile];

impl LogicalUnit for InstanceRename {
    type Plan = Arc<Instance>;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        if self.ip_check && !self.name_check {
            return Err(GanetiError::wrong_input("IP address check requires a name check"));
        }
        if self.name_check {
            // A name that is not known is refused before the new one is looked up.
            let found = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
            self.instance_uuid = NonEmpty::new(found.meta.uuid.as_str());
            let host = naming::resolve(cx, &self.new_name).await?;
            if self.ip_check {
                naming::check_unused(cx, &host, &host.name).await?;
            }
            if let Some(name) = NonEmpty::new(host.name) {
                self.new_name = name;
            }
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let instance =
            expand::instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
        let locks = Locks::new().exclusive(Level::Instance, &instance.name);
        if *self.new_name == *instance.name {
            return Ok(locks);
        }
        naming::check_new_name(config, &self.new_name)?;
        Ok(locks.exclusive(Level::Instance, self.new_name.as_str()))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Arc<Instance>> {
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        let config = cx.config();
        let moves = *self.new_name != *instance.name;
        for disk in config.instance_disks(&instance) {
            if moves && layout::FILE_BASED.contains(&disk.dev_type) {
                layout::check_enabled(&config, disk.dev_type)?;
            }
        }
        checks::node_online(&config, &instance.primary_node)?;
        checks::state(cx, &instance, checks::NOT_RUNNING, Some("cannot rename"))?;
        if moves {
            naming::check_new_name(&config, &self.new_name)?;
        }
        Ok(instance)
    }

    fn hooks(&self, cx: &Cx, instance: &Arc<Instance>) -> Option<Hooks> {
        let own = [("INSTANCE_NEW_NAME", json!(self.new_name.as_str()))];
        Some(hook_env::hooks(cx, instance, &own))
    }

    async fn exec(&self, cx: &Cx, instance: Arc<Instance>) -> Result<Value> {
        let uuid = &instance.meta.uuid;
        let moved = write(cx, &instance, &self.new_name).await?;
        let renamed = again(cx, uuid)?;
        if instance.forthcoming {
            return Ok(json!(renamed.name));
        }
        move_files(cx, &renamed, &moved).await?;
        disks::start(cx, uuid, None).await?;
        note_owner(cx, &renamed).await;
        run_script(cx, &renamed, &instance.name).await;
        disks::shutdown(cx, uuid, None, false).await?;
        Ok(json!(renamed.name))
    }
}

/// Writes the new name, and the new paths of files in the instance's directory. Answers the disks that thereby moved, as they
/// were and as they are.
async fn write(cx: &Cx, instance: &Instance, new_name: &str) -> Result<Vec<(DiskSpec, DiskSpec)>> {
    let before = cx.config();
    let uuid = &instance.meta.uuid;
    let named: Vec<Arc<Disk>> = before
        .instance_disks(instance)
        .into_iter()
        .filter(|disk| NAMED_FILES.contains(&disk.dev_type))
        .collect();
    cx.commit(|draft| {
        draft.rename_instance(uuid, new_name);
        if new_name != instance.name {
            for disk in &named {
                draft.edit_disk(&disk.meta.uuid, uuid, |disk| rename_path(disk, new_name));
            }
        }
        draft.touch_cluster();
        Ok(())
    })
    .await?;
    if new_name == instance.name {
        return Ok(Vec::new());
    }
    let after = cx.config();
    let pair = |disk: Arc<Disk>| {
        let now = after.disks.get(&disk.meta.uuid)?;
        Some((spec::disk(&before, instance, &disk), spec::disk(&after, instance, now)))
    };
    Ok(named.into_iter().filter_map(pair).collect())
}

/// Puts the file of a disk into the directory of another name beside its own.
fn rename_path(disk: &mut Disk, name: &str) {
    let Some(path) = disk.logical_id.get(1).and_then(Value::as_str).map(Path::new) else { return };
    let (Some(base), Some(file)) = (path.parent().and_then(Path::parent), path.file_name()) else {
        return;
    };
    let path = base.join(name).join(file);
    disk.logical_id[1] = json!(path.to_string_lossy());
}

async fn move_files(cx: &Cx, instance: &Instance, moved: &[(DiskSpec, DiskSpec)]) -> Result<()> {
    for (from, to) in moved {
        let renamed = match cx.node(&instance.primary_node).await {
            Ok(node) => node.rename_disk(from, to).await,
            Err(error) => Err(error),
        };
        renamed.map_err(|error| {
            let config = cx.config();
            GanetiError::exec(format!(
                "Could not rename on node {} directory '{}' to '{}' (but the instance has been renamed in Ganeti): {error}",
                config.node_name(&instance.primary_node),
                directory(from),
                directory(to)
            ))
        })?;
    }
    Ok(())
}

fn directory(disk: &DiskSpec) -> String {
    let path = disk.logical_id.get(1).and_then(Value::as_str).map(Path::new);
    path.and_then(Path::parent).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Has the disks themselves say whose they are now; a failure is only told.
async fn note_owner(cx: &Cx, instance: &Instance) {
    let config = cx.config();
    let told = spec_of(cx, instance);
    for (at, disk) in told.disks.iter().enumerate() {
        for uuid in nodes_of(&config, instance) {
            let noted = match cx.node(&uuid).await {
                Ok(node) => node.set_disk_owner(&told, disk).await,
                Err(error) => Err(error),
            };
            if let Err(error) = noted {
                let name = config.node_name(&uuid);
                cx.warn(&format!("Error setting info on node {name} for disk {at}: {error}"));
            }
        }
    }
}

/// Runs the rename script of the instance's operating system; its failure is only told.
async fn run_script(cx: &Cx, instance: &Instance, old_name: &str) {
    let config = cx.config();
    let os_params =
        os_params(cx, &instance.os, &instance.osparams, &instance.osparams_private, &Dict::new());
    let told = spec_of(cx, instance);
    let failure = match (os_params, cx.node(&instance.primary_node).await) {
        (Ok(os_params), Ok(node)) => {
            let ran = node.rename_os(&told, old_name, &os_params, cx.script_output()).await;
            ran.err().map(|error| error.to_string())
        }
        (Err(error), _) => Some(error.to_string()),
        (_, Err(error)) => Some(error.to_string()),
    };
    if let Some(failure) = failure {
        cx.warn(&format!(
            "Could not run OS rename script for instance {} on node {} (but the instance has been renamed in Ganeti): {failure}",
            instance.name,
            config.node_name(&instance.primary_node)
        ));
    }
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use node::{Fault, NodeError, Verb};
    use serde_json::{Value, json};

    fn rename(name: &str, new_name: &str, more: &Value) -> Value {
        let mut op =
            json!({"OP_ID": "OP_INSTANCE_RENAME", "instance_name": name, "new_name": new_name});
        op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        op
    }

    async fn bench() -> Bench {
        let bench = Bench::new(2);
        let disk = json!([{"size": 1024}]);
        bench
            .make(
                "web1.example.com",
                json!({"disk_template": "file", "disks": disk, "start": false}),
            )
            .await;
        bench.make("web2.example.com", json!({})).await;
        bench
    }

    #[tokio::test]
    async fn the_name_the_files_and_the_answer_change() {
        let bench = bench().await;
        let serial = bench.config().cluster.meta.serial_no;
        let outcome = bench.run(rename("web1", "web9.example.com", &json!({}))).await;
        assert_eq!(outcome.result, Ok(json!("web9.example.com")));
        assert_eq!(outcome.log, Vec::<String>::new());
        let config = bench.config();
        assert!(config.instance_by_name("web1.example.com").is_none());
        let instance = config.instance_by_name("web9.example.com").unwrap();
        assert!(!instance.disks_active);
        let disk = &config.instance_disks(instance)[0];
        let path = disk.logical_id[1].as_str().unwrap();
        assert!(path.contains("/web9.example.com/") && !path.contains("web1"), "{path}");
        assert_eq!(config.cluster.meta.serial_no, serial + 1);
        let started = json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "web9.example.com"});
        assert_eq!(bench.run(started).await.result, Ok(json!(null)));
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing() {
        let bench = bench().await;
        let outcome =
            bench.run(rename("web1", "web9.example.com", &json!({"dry_run": true}))).await;
        assert_eq!(outcome.result, Ok(json!(null)));
        assert!(bench.config().instance_by_name("web1.example.com").is_some());
    }

    #[tokio::test]
    async fn a_script_that_fails_is_only_told() {
        let bench = bench().await;
        bench.fault("web1.example.com", Verb::RenameOs, "no").await;
        let outcome = bench.run(rename("web1", "web9.example.com", &json!({}))).await;
        assert_eq!(outcome.result, Ok(json!("web9.example.com")));
        assert_eq!(
            outcome.log,
            [
                " - WARNING: Could not run OS rename script for instance web9.example.com on node node1.example.com (but \
              the instance has been renamed in Ganeti): no"
            ]
        );
    }

    #[tokio::test]
    async fn files_that_stay_fail_it() {
        let bench = bench().await;
        bench.world.node("node1.example.com").inject(Fault {
            verb: Verb::RenameDisk,
            instance: None,
            times: 1,
            error: NodeError::Failed("busy".to_owned()),
        });
        let outcome = bench.run(rename("web1", "web9.example.com", &json!({}))).await;
        let text = outcome.result.unwrap_err().to_string();
        assert!(
            text.starts_with("Could not rename on node node1.example.com directory '"),
            "{text}"
        );
        assert!(text.ends_with("(but the instance has been renamed in Ganeti): busy"), "{text}");
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = bench().await;
        let check = async |op: Value, text: &str, code: &str| {
            let refused = bench.run(op).await.result.map_err(|error: GanetiError| error.to_value());
            assert_eq!(refused, Err(json!(["OpPrereqError", [text, code]])));
        };
        check(
            rename("web1", "x", &json!({"ip_check": true})),
            "IP address check requires a name check",
            "wrong_input",
        )
        .await;
        check(rename("nosuch", "x", &json!({})), "Instance 'nosuch' not known", "unknown_entity")
            .await;
        check(
            rename("web1", "web2.example.com", &json!({})),
            "Instance 'web2.example.com' is already in the cluster",
            "already_exists",
        )
        .await;
        check(
            rename("web2", "web9.example.com", &json!({})),
            "Instance 'web2.example.com' is marked to be up, cannot rename",
            "wrong_state",
        )
        .await;
        check(
            rename("web1", "nosuch.invalid", &json!({"name_check": true})),
            "The given name (nosuch.invalid) does not resolve: Name or service not known",
            "resolver_error",
        )
        .await;
    }
}
