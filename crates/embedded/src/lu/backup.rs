//! Exports: an instance's disks and description on a node of this cluster, or its disks to another cluster.

mod describe;
mod dump;

use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::name::{Lookup, Uuid, lookup};
use model::opcode::{BackupExport, BackupPrepare, BackupRemove};
use model::param::{AdminState, ExportMode};
use model::python;
use serde_json::{Value, json};

use super::instance::{checks, disks, find, hook_env, lock_instance, shutdown};
use super::remote::{self, Receivers};
use super::{Cx, Hooks, Level, Locks, LogicalUnit, expand};

impl LogicalUnit for BackupPrepare {
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
        if self.mode == ExportMode::Local {
            return Ok(Value::Null);
        }
        remote::prepare(cx, &instance).await
    }
}

/// What an export will do.
pub(crate) struct ExportPlan {
    instance: Arc<Instance>,
    /// The node that it goes to; of an export to another cluster the one that it comes from.
    target: Uuid,
    remote: Option<Receivers>,
}

impl LogicalUnit for BackupExport {
    type Plan = ExportPlan;

    async fn prepare(&mut self, _cx: &Cx) -> Result<()> {
        if self.mode == ExportMode::Remote {
            if self.x509_key_name.as_deref().is_none_or(<[Value]>::is_empty) {
                return Err(GanetiError::wrong_input("Missing X509 key name for encryption"));
            }
            if self.destination_x509_ca.is_none() {
                return Err(GanetiError::wrong_input("Missing destination X509 CA"));
            }
        }
        if self.zero_free_space && self.compress.is_empty() {
            return Err(GanetiError::prereq_plain(
                "Zeroing free space does not make sense unless compression is used",
            ));
        }
        if self.zero_free_space && !self.shutdown {
            return Err(GanetiError::prereq_plain(
                "Unless the instance is shut down, zeroing cannot be used.",
            ));
        }
        Ok(())
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = lock_instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
        if let Some(name) = self.target_node.as_str().filter(|_| self.mode == ExportMode::Local) {
            let instance =
                expand::instance(config, &self.instance_name, self.instance_uuid.as_deref())?;
            let target = expand::node(config, name, self.target_node_uuid.as_deref())?;
            locks = locks
                .exclusive(Level::Node, &target.meta.uuid)
                .exclusive(Level::Node, &instance.primary_node);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<ExportPlan> {
        let config = cx.config();
        let instance = find(cx, &self.instance_name, self.instance_uuid.as_deref())?;
        checks::node_online(&config, &instance.primary_node)?;
        if self.remove_instance && instance.admin_state == AdminState::Up && !self.shutdown {
            return Err(GanetiError::wrong_state(
                "Can not remove instance without shutting it down before",
            ));
        }
        let (target, remote) = match self.mode {
            ExportMode::Local => {
                let name = python::str(&self.target_node);
                let node = expand::node(&config, &name, self.target_node_uuid.as_deref())?;
                checks::node_online(&config, &node.meta.uuid)?;
                checks::node_not_drained(&config, &node.meta.uuid)?;
                (node.meta.uuid.clone(), None)
            }
            ExportMode::Remote => {
                let receivers = remote::check_export(cx, self, &instance)?;
                (instance.primary_node.clone(), Some(receivers))
            }
        };
        check_zeroing(self, cx, &config, &instance)?;
        if self.long_sleep && !self.shutdown {
            return Err(GanetiError::wrong_input(
                "The long sleep option only makes sense when the instance can be shut down.",
            ));
        }
        checks::compression(&config, &self.compress)?;
        Ok(ExportPlan { instance, target, remote })
    }

    fn hooks(&self, cx: &Cx, plan: &ExportPlan) -> Option<Hooks> {
        let own = [
            ("EXPORT_MODE", json!(self.mode.as_str())),
            ("EXPORT_NODE", self.target_node.0.clone()),
            ("EXPORT_DO_SHUTDOWN", json!(self.shutdown)),
            ("SHUTDOWN_TIMEOUT", json!(self.shutdown_timeout)),
            ("REMOVE_INSTANCE", json!(self.remove_instance)),
        ];
        let mut hooks = hook_env::hooks(cx, &plan.instance, &own);
        let master = cx.config().cluster.master_node.clone();
        let mut nodes = vec![master, plan.instance.primary_node.clone(), plan.target.clone()];
        nodes.sort();
        nodes.dedup();
        hooks.pre_nodes.clone_from(&nodes);
        hooks.post_nodes = nodes;
        Some(hooks)
    }

    async fn exec(&self, cx: &Cx, plan: ExportPlan) -> Result<Value> {
        let uuid = plan.instance.meta.uuid.clone();
        let name = plan.instance.name.clone();
        if self.shutdown {
            cx.log(&format!("Shutting down instance {name}"));
            let node = cx.config().node_name(&plan.instance.primary_node).to_owned();
            let message = format!("Could not shutdown instance {name} on node {node}");
            shutdown::stop(cx, &plan.instance, self.shutdown_timeout, &message).await?;
        }
        let activate = !plan.instance.disks_active;
        if activate {
            cx.log(&format!("Activating disks for {name}"));
            disks::start(cx, &uuid, None).await?;
        }
        let exported = dump::run(self, cx, &plan).await;
        if activate {
            cx.log(&format!("Deactivating disks for {name}"));
            disks::shutdown(cx, &uuid, None, false).await?;
        }
        let (finalized, dumped) = exported?;
        if !finalized || dumped.contains(&false) {
            let mut failures = Vec::new();
            if !finalized {
                failures.push("export finalization".to_owned());
            }
            let bad: Vec<String> =
                (0..dumped.len()).filter(|at| !dumped[*at]).map(|at| at.to_string()).collect();
            if !bad.is_empty() {
                failures.push(format!("disk export: disk(s) {}", bad.join(", ")));
            }
            return Err(GanetiError::exec(format!(
                "Export failed, errors in {}",
                failures.join(", ")
            )));
        }
        if self.remove_instance {
            cx.log(&format!("Removing instance {name}"));
            disks::remove_instance(cx, &uuid, self.ignore_remove_failures).await?;
        }
        if self.mode == ExportMode::Local {
            remove_older(cx, &name, &plan.target).await;
        }
        Ok(json!([finalized, dumped]))
    }
}

fn check_zeroing(op: &BackupExport, cx: &Cx, config: &Config, instance: &Instance) -> Result<()> {
    if !op.zero_free_space {
        if op.zeroing_timeout_fixed.is_some() || op.zeroing_timeout_per_mib.is_some() {
            return Err(GanetiError::wrong_input(
                "Zeroing timeout options can only be used only with the --zero-free-space option",
            ));
        }
        return Ok(());
    }
    let filled = crate::spec::hvparams(config, cx.compat(), instance);
    let is_kvm = instance.hypervisor == model::param::Hypervisor::Kvm;
    if is_kvm && filled.get("user_shutdown").and_then(Value::as_bool) != Some(true) {
        return Err(GanetiError::wrong_input(
            "Instance shutdown detection must be enabled for zeroing to work",
        ));
    }
    if filled.get("boot_order").is_some_and(|order| order != "disk") {
        return Err(GanetiError::wrong_input("Booting from disk must be set for zeroing to work"));
    }
    if config.cluster.zeroing_image.is_empty() {
        return Err(GanetiError::wrong_input("A zeroing image must be set for zeroing to work"));
    }
    Err(GanetiError::wrong_state("Zeroing free space is not supported by this engine yet"))
}

/// Removes exports of the instance from all other nodes; what fails is told.
async fn remove_older(cx: &Cx, instance: &str, target: &Uuid) {
    let config = cx.config();
    let others: Vec<Uuid> = config.nodes.keys().filter(|uuid| *uuid != target).cloned().collect();
    if others.is_empty() {
        return;
    }
    cx.log(&format!("Removing old exports for instance {instance}"));
    for uuid in others {
        // A node that does not answer keeps what it has.
        let Ok(node) = cx.node(&uuid).await else { continue };
        let Ok(exports) = node.list_exports().await else { continue };
        if !exports.iter().any(|name| name == instance) {
            continue;
        }
        if let Err(error) = node.remove_export(instance).await {
            let name = config.node_name(&uuid);
            cx.warn(&format!(
                "Could not remove older export for instance {instance} on node {name}: {error}"
            ));
        }
    }
}

impl LogicalUnit for BackupRemove {
    type Plan = ();

    /// All nodes: nobody knows where exports lie.
    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new().all(Level::Node, crate::locks::Mode::Exclusive))
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, cx: &Cx, (): ()) -> Result<Value> {
        let config = cx.config();
        let names = config.index.instance_by_name.keys().map(String::as_str);
        let known = match lookup(&self.instance_name.to_lowercase(), names) {
            Lookup::Found(name) => Some(name.to_owned()),
            Lookup::Unknown | Lookup::Ambiguous => None,
        };
        let name = known.clone().unwrap_or_else(|| self.instance_name.clone());
        let mut found = false;
        for uuid in config.nodes.keys() {
            let node_name = config.node_name(uuid);
            let exports = match cx.node(uuid).await {
                Ok(node) => node.list_exports().await.map(|exports| (node, exports)),
                Err(error) => Err(error),
            };
            match exports {
                Err(error) => {
                    cx.warn(&format!("Failed to query node {node_name} (continuing): {error}"))
                }
                Ok((node, exports)) if exports.contains(&name) => {
                    found = true;
                    if let Err(error) = node.remove_export(&name).await {
                        cx.warn(&format!(
                            "Could not remove export for instance {name} on node {node_name}: {error}"
                        ));
                    }
                }
                Ok(_) => {}
            }
        }
        if known.is_none() && !found {
            cx.log(
                "Export not found. If trying to remove an export belonging to a deleted instance please use its Fully \
                 Qualified Domain Name.",
            );
        }
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, Outcome};
    use model::error::GanetiError;
    use node::Verb;
    use serde_json::json;

    #[tokio::test]
    async fn an_instance_is_exported_and_comes_back() {
        let bench = Bench::new(2);
        let create = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web1.example.com", "mode": "create",
            "disks": [{"size": 128}], "nics": [{}], "disk_template": "file", "os_type": "noop", "pnode": "node1",
            "start": false, "tags": ["kept"],
        });
        bench.run(create).await.result.unwrap();
        let mac = bench.config().instance_by_name("web1.example.com").unwrap().nics[0].mac.clone();
        let export = json!({
            "OP_ID": "OP_BACKUP_EXPORT", "instance_name": "web1", "target_node": "node2", "remove_instance": true,
        });
        let outcome = bench.run(export).await;
        assert_eq!(outcome.result, Ok(json!([true, [true]])), "{:?}", outcome.log);
        assert!(bench.config().instances.is_empty());
        let import = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web1.example.com", "mode": "import", "disks": [],
            "nics": [], "disk_template": "file", "pnode": "node1", "start": false,
        });
        let outcome = bench.run(import).await;
        assert_eq!(outcome.result, Ok(json!(["node1.example.com"])), "{:?}", outcome.log);
        let config = bench.config();
        let instance = config.instance_by_name("web1.example.com").unwrap();
        assert_eq!(instance.nics[0].mac, mac);
        assert!(instance.tags.contains("kept"));
        let remove = json!({"OP_ID": "OP_BACKUP_REMOVE", "instance_name": "web1.example.com"});
        assert_eq!(bench.run(remove).await.result, Ok(json!(null)));
    }

    #[tokio::test]
    async fn a_running_instance_is_exported_from_copies() {
        let bench = Bench::new(2);
        let disks = json!([{"size": 64, "name": "root"}]);
        let more = json!({"disk_template": "plain", "disks": disks});
        bench.make("web1.example.com", more).await;
        let live = json!({
            "OP_ID": "OP_BACKUP_EXPORT", "instance_name": "web1.example.com", "target_node": "node2", "shutdown": false,
        });
        let outcome = bench.run(live.clone()).await;
        assert_eq!(outcome.result, Ok(json!([true, [true]])), "{:?}", outcome.log);
        assert_eq!(
            outcome.log,
            [
                "Creating a snapshot of disk/0 on node node1.example.com",
                "Exporting snapshot/0 from node1.example.com to node2.example.com",
                "snapshot/0 is now listening, starting export",
                "snapshot/0 finished receiving data",
                "snapshot/0 finished sending data",
                "Removing snapshot of disk/0 on node node1.example.com",
                "Finalizing export on node2.example.com",
                "Removing old exports for instance web1.example.com",
            ]
        );
        // Restarted before its disks are dumped.
        let mut stopped = live.clone();
        stopped["shutdown"] = json!(true);
        let outcome = bench.run(stopped).await;
        assert_eq!(outcome.result, Ok(json!([true, [true]])), "{:?}", outcome.log);
        let at = |text: &str| outcome.log.iter().position(|line| line.starts_with(text)).unwrap();
        assert!(at("Starting instance") < at("Exporting snapshot/0"), "{:?}", outcome.log);

        // Where there are no copies, and where dumping fails.
        bench.fault("web1.example.com", Verb::SnapshotDisks, "no room").await;
        let outcome = bench.run(live.clone()).await;
        let text = "Not all disks could be snapshotted, and you requested a live export; aborting";
        assert_eq!(outcome.result, Err(GanetiError::exec(text)));
        assert_eq!(
            outcome.log,
            [" - WARNING: Could not snapshot disk/0 on node node1.example.com: no room"]
        );
        bench.fault_on("node2.example.com", Verb::ExportDisk, "broken");
        let outcome = bench.run(live).await;
        let text = "Export failed, errors in export finalization, disk export: disk(s) 0";
        assert_eq!(outcome.result, Err(GanetiError::exec(text)));
        let removed = "Removing snapshot of disk/0 on node node1.example.com".to_owned();
        assert_eq!(outcome.log.iter().filter(|line| **line == removed).count(), 1);
    }

    #[tokio::test]
    async fn files_cannot_be_copied_in_a_moment_here() {
        let bench = Bench::new(1);
        let more = json!({"disk_template": "file", "disks": [{"size": 64}]});
        bench.make("web1.example.com", more).await;
        let export = |more: serde_json::Value| {
            let mut op = json!({
                "OP_ID": "OP_BACKUP_EXPORT", "instance_name": "web1.example.com", "target_node": "node1",
            });
            op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            op
        };
        let text = "Not all disks could be snapshotted, and you did not allow the instance to remain offline for a longer \
            time through the --long-sleep option; aborting";
        let outcome = bench.run(export(json!({"shutdown": true}))).await;
        assert_eq!(outcome.result, Err(GanetiError::exec(text)));
        bench.start("web1.example.com").await;
        let outcome = bench.run(export(json!({"shutdown": true, "long_sleep": true}))).await;
        assert_eq!(outcome.result, Ok(json!([true, [true]])), "{:?}", outcome.log);
        let at = |text: &str| outcome.log.iter().position(|line| line.starts_with(text)).unwrap();
        assert!(at("Exporting disk/0") < at("Starting instance"), "{:?}", outcome.log);
    }

    /// Two clusters, and what the receiving one ends with.
    async fn move_over(source: &Bench, target: &Bench, disks: usize) -> (Outcome, Outcome) {
        let prepare =
            json!({"OP_ID": "OP_BACKUP_PREPARE", "instance_name": "web1", "mode": "remote"});
        let told = source.run(prepare).await.result.unwrap();
        let create = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web2.example.com", "mode": "remote-import",
            "disk_template": "file", "disks": vec![json!({"size": 64}); disks], "nics": [], "os_type": "noop",
            "pnode": "node1", "start": false, "name_check": false, "ip_check": false, "compress": "gzip",
            "source_handshake": told["handshake"], "source_x509_ca": told["x509_ca"],
            "source_instance_name": "web1.example.com",
        });
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let import = target.run_telling(create, Some(tx));
        let export = async {
            let Some(waiting) = rx.recv().await else { panic!("nobody says where the disks go") };
            let op = json!({
                "OP_ID": "OP_BACKUP_EXPORT", "instance_name": "web1", "mode": "remote", "shutdown": true,
                "target_node": waiting["disks"], "destination_x509_ca": waiting["x509_ca"],
                "x509_key_name": told["x509_key_name"], "remove_instance": true, "compress": "gzip",
            });
            source.run(op).await
        };
        tokio::join!(export, import)
    }

    #[tokio::test]
    async fn an_instance_goes_from_one_cluster_to_another() {
        let (source, target) = (Bench::today(1), Bench::today(1));
        let more = json!({"disk_template": "file", "disks": [{"size": 64}, {"size": 64}]});
        source.make("web1.example.com", more).await;
        for bench in [&source, &target] {
            crate::secret::renew_domain_secret(bench.dir(), Some("shared")).unwrap();
        }
        let arrived = target.dir().join("arrived");
        source.script("export", "#!/bin/sh\necho disk $EXPORT_INDEX of $INSTANCE_NAME\n");
        let import = format!("#!/bin/sh\ncat > {}.$IMPORT_INDEX\n", arrived.display());
        target.script("import", &import);
        target.script("rename", "#!/bin/sh\necho was $OLD_INSTANCE_NAME\n");
        let (sent, received) = move_over(&source, &target, 2).await;
        assert_eq!(sent.result, Ok(json!([true, [true, true]])), "{:?}", sent.log);
        assert_eq!(received.result, Ok(json!(["node1.example.com"])), "{:?}", received.log);
        assert!(source.config().instances.is_empty());
        for at in 0..2 {
            let text = std::fs::read_to_string(format!("{}.{at}", arrived.display())).unwrap();
            assert_eq!(text, format!("disk {at} of web1.example.com\n"));
        }
        assert!(received.log.contains(&"was web1.example.com".to_owned()), "{:?}", received.log);
        assert!(sent.log.contains(&"Disk 1 finished sending data".to_owned()), "{:?}", sent.log);
    }

    #[tokio::test]
    async fn an_instance_stays_whose_disk_did_not_arrive() {
        let (source, target) = (Bench::today(1), Bench::today(1));
        source
            .make("web1.example.com", json!({"disk_template": "file", "disks": [{"size": 64}]}))
            .await;
        for bench in [&source, &target] {
            crate::secret::renew_domain_secret(bench.dir(), Some("shared")).unwrap();
        }
        target.script("import", "#!/bin/sh\ncat > /dev/null\nexit 1\n");
        let (sent, received) = move_over(&source, &target, 1).await;
        let text = "Export failed, errors in disk export: disk(s) 0";
        assert_eq!(sent.result, Err(GanetiError::exec(text)), "{:?}", sent.log);
        assert_eq!(source.config().instances.len(), 1);
        // Ganeti: the instance is there, with what its disks have (3.0, instance_create.py).
        assert!(received.result.is_ok(), "{:?}", received.log);
        let warned = " - WARNING: Some disks for instance web2.example.com on node node1.example.com were not imported \
            successfully";
        assert!(received.log.contains(&warned.to_owned()), "{:?}", received.log);
    }

    #[tokio::test]
    async fn clusters_without_the_same_secret_are_refused() {
        let (source, target) = (Bench::new(1), Bench::new(1));
        source.make("web1.example.com", json!({})).await;
        for (bench, secret) in [(&source, "one"), (&target, "other")] {
            crate::secret::renew_domain_secret(bench.dir(), Some(secret)).unwrap();
        }
        let prepare =
            json!({"OP_ID": "OP_BACKUP_PREPARE", "instance_name": "web1", "mode": "remote"});
        let told = source.run(prepare).await.result.unwrap();
        let create = |handshake: &serde_json::Value| {
            json!({
                "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web2.example.com", "mode": "remote-import",
                "disk_template": "diskless", "disks": [], "nics": [], "os_type": "noop", "pnode": "node1",
                "name_check": false, "ip_check": false, "source_handshake": handshake,
                "source_x509_ca": told["x509_ca"], "source_instance_name": "web1.example.com",
            })
        };
        let error = target.run(create(&told["handshake"])).await.result.unwrap_err();
        let text =
            "Invalid handshake: Hash didn't match, clusters don't share the same domain secret";
        assert_eq!(error, GanetiError::wrong_input(text));
        crate::secret::renew_domain_secret(source.dir(), Some("other")).unwrap();
        let again =
            json!({"OP_ID": "OP_BACKUP_PREPARE", "instance_name": "web1", "mode": "remote"});
        let fresh = source.run(again).await.result.unwrap();
        let error = target.run(create(&fresh["handshake"])).await.result.unwrap_err();
        let text = "Unable to load source X509 CA (Signature does not match data)";
        assert_eq!(error, GanetiError::wrong_input(text));
        // Its clock is years behind.
        let mut late = create(&fresh["handshake"]);
        late["source_x509_ca"] = fresh["x509_ca"].clone();
        let error = target.run(late).await.result.unwrap_err();
        let text = "Invalid source X509 CA (Certificate not yet valid)";
        assert_eq!(error, GanetiError::wrong_input(text));
    }

    #[tokio::test]
    async fn preparing_signs_what_the_other_side_checks() {
        let bench = Bench::new(1);
        let create = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "web1", "mode": "create", "disks": [], "nics": [],
            "disk_template": "diskless", "os_type": "noop", "pnode": "node1", "start": false,
        });
        bench.run(create).await.result.unwrap();
        let prepare = |mode: &str| json!({"OP_ID": "OP_BACKUP_PREPARE", "instance_name": "web1", "mode": mode});
        assert_eq!(bench.run(prepare("local")).await.result, Ok(json!(null)));
        let result = bench.run(prepare("remote")).await.result.unwrap();
        assert_eq!(result["handshake"][0], json!(0));
        assert!(result["x509_ca"].as_str().unwrap().starts_with("X-Ganeti-Signature: "));
    }
}
