//! Exports: an instance's disks and description on a node of this cluster, or the preparation to send them to another.

use std::path::Path;
use std::sync::Arc;

use model::config::{Config, Instance};
use model::error::{GanetiError, Result};
use model::name::{Lookup, Uuid, lookup};
use model::opcode::{BackupExport, BackupPrepare, BackupRemove};
use model::param::{AdminState, DiskTemplate, ExportMode};
use model::{params, python};
use node::OsParams;
use serde_json::{Value, json};

use super::instance::import::{EXPORT_VERSION, Ini};
use super::instance::{again, checks, disks, find, hook_env, lock_instance, shutdown, spec_of};
use super::{Cx, Hooks, Level, Locks, LogicalUnit, cx::exec_error, expand};
use crate::secret;

/// How long a certificate made for an export holds, in hours (Ganeti 3.0, `RIE_CERT_VALIDITY`).
const CERTIFICATE_HOURS: i64 = 24;
/// Templates whose disks can be copied while the instance runs on.
const SNAPSHOTS: &[DiskTemplate] = &[DiskTemplate::Plain, DiskTemplate::Drbd, DiskTemplate::Ext];

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
        let dir = Path::new(cx.data_dir());
        let domain = secret::domain_secret(dir, cx.env())?;
        let salt = secret::generate(cx.env(), 8);
        let node = cx.config().node_name(&instance.primary_node).to_owned();
        cx.log(&format!("Generating X509 certificate on {node}"));
        let (name, pem) = make_certificate(dir, &node, cx).map_err(|error| {
            GanetiError::exec(format!("Can't create X509 key and certificate on {node}: {error}"))
        })?;
        Ok(json!({
            "handshake": secret::handshake(&domain, cx.env()),
            "x509_key_name": [name, secret::sign(&domain, &name, &salt), salt],
            "x509_ca": secret::sign_certificate(&domain, &pem, &salt),
        }))
    }
}

/// Makes a key and a certificate for one transfer and keeps them under a name of their own; answers name and certificate.
fn make_certificate(
    dir: &Path,
    host: &str,
    cx: &Cx,
) -> std::result::Result<(String, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = rcgen::KeyPair::generate().map_err(text)?;
    let mut wanted = rcgen::CertificateParams::new(vec![host.to_owned()]).map_err(text)?;
    let seconds = cx.env().now().0;
    let now =
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    wanted.not_before = now.into();
    wanted.not_after = (now
        + std::time::Duration::from_secs(u64::try_from(CERTIFICATE_HOURS * 3600).unwrap_or(0)))
    .into();
    let certificate = wanted.self_signed(&key).map_err(text)?;
    let name = format!("x509-{seconds}-{}", secret::generate(cx.env(), 4));
    let place = dir.join("crypto").join(&name);
    let io = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&place).map_err(io)?;
    let write = |file: &str, text: &str| {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = place.join(file);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    write("key", &key.serialize_pem()).map_err(io)?;
    let pem = certificate.pem();
    write("cert", &pem).map_err(io)?;
    Ok((name, pem))
}

/// What an export will do.
pub(crate) struct ExportPlan {
    instance: Arc<Instance>,
    /// Where it goes.
    target: Uuid,
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
        let target = match self.mode {
            ExportMode::Local => {
                let name = python::str(&self.target_node);
                let node = expand::node(&config, &name, self.target_node_uuid.as_deref())?;
                checks::node_online(&config, &node.meta.uuid)?;
                checks::node_not_drained(&config, &node.meta.uuid)?;
                node.meta.uuid.clone()
            }
            ExportMode::Remote => {
                check_remote(self, cx, &instance)?;
                instance.primary_node.clone()
            }
        };
        check_zeroing(self, cx, &config, &instance)?;
        if self.long_sleep && !self.shutdown {
            return Err(GanetiError::wrong_input(
                "The long sleep option only makes sense when the instance can be shut down.",
            ));
        }
        checks::compression(&config, &self.compress)?;
        Ok(ExportPlan { instance, target })
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
        let mut nodes =
            vec![cx.config().cluster.master_node.clone(), plan.instance.primary_node.clone()];
        nodes.push(plan.target.clone());
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
        let exported = export(self, cx, &plan).await;
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
        remove_older(cx, &name, &plan.target).await;
        Ok(json!([finalized, dumped]))
    }
}

/// What a remote export is refused for. The signatures are checked as Ganeti checks them.
fn check_remote(op: &BackupExport, cx: &Cx, instance: &Instance) -> Result<()> {
    let disks = op.target_node.as_array().map_or(0, Vec::len);
    if disks != instance.disks.len() {
        return Err(GanetiError::wrong_input(format!(
            "Received destination information for {disks} disks, but instance {} has {} disks",
            op.instance_name,
            instance.disks.len()
        )));
    }
    let domain = secret::domain_secret(Path::new(cx.data_dir()), cx.env())?;
    let key = op.x509_key_name.clone().unwrap_or_default();
    let [name, digest, salt] = key.as_slice() else {
        return Err(GanetiError::wrong_input(format!(
            "Invalid data for X509 key name: not enough values to unpack (expected 3, got {})",
            key.len()
        )));
    };
    let text = |value: &Value| python::str(value);
    if !secret::verify(&domain, &text(name), &text(digest), &text(salt)) {
        return Err(GanetiError::wrong_input("HMAC for X509 key name is wrong"));
    }
    let ca = op.destination_x509_ca.as_deref().unwrap_or_default();
    secret::signed_certificate(&domain, ca).map_err(|error| {
        GanetiError::wrong_input(format!("Unable to load destination X509 CA ({error})"))
    })?;
    for (at, disk) in op.target_node.as_array().into_iter().flatten().enumerate() {
        let refuse =
            |why: &str| Err(GanetiError::wrong_input(format!("Target info for disk {at}: {why}")));
        let Some([host, port, magic, digest, salt]) = disk.as_array().map(Vec::as_slice) else {
            return refuse("Invalid data: not enough values to unpack");
        };
        if [host, port, magic].into_iter().any(|part| !python::truthy(part)) {
            return refuse("Missing destination host, port or magic");
        }
        let message = format!("{at}:{}:{}:{}", text(host), text(port), text(magic));
        if !secret::verify(&domain, &message, &text(digest), &text(salt)) {
            return refuse("HMAC is wrong");
        }
    }
    Err(GanetiError::wrong_state("Exports to another cluster are not supported by this engine yet"))
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

/// Dumps the disks and writes the description: whether that was written, and for each disk whether it was dumped.
async fn export(op: &BackupExport, cx: &Cx, plan: &ExportPlan) -> Result<(bool, Vec<bool>)> {
    let config = cx.config();
    let instance = again(cx, &plan.instance.meta.uuid)?;
    let was_up = plan.instance.admin_state == AdminState::Up;
    let all = config.instance_disks(&instance);
    // A running instance can be exported from snapshots; here its disks are dumped as they are, which needs it stopped.
    if was_up && !op.remove_instance {
        let could = all.iter().all(|disk| SNAPSHOTS.contains(&disk.dev_type));
        if !op.shutdown {
            return Err(GanetiError::exec(
                "Not all disks could be snapshotted, and you requested a live export; aborting",
            ));
        }
        if !could && !op.long_sleep && !all.is_empty() {
            return Err(GanetiError::exec(
                "Not all disks could be snapshotted, and you did not allow the instance to remain offline for a longer time \
                 through the --long-sleep option; aborting",
            ));
        }
    }
    let told = spec_of(cx, &instance);
    let source = config.node_name(&instance.primary_node).to_owned();
    let target_name = config.node_name(&plan.target).to_owned();
    let target = cx.node(&plan.target).await.map_err(|error| exec_error(&error))?;
    let values = params::os::fill_all(
        &config.cluster,
        &instance.os,
        &instance.osparams,
        &instance.osparams_private,
        &model::param::Dict::new(),
    )?;
    let os_params = OsParams { values, debug_level: 0 };
    let mut dumped = Vec::new();
    for at in 0..all.len() {
        cx.log(&format!("Exporting disk/{at} from {source} to {target_name}"));
        cx.log(&format!("disk/{at} is now listening, starting export"));
        let answer = target
            .export_disk(&told, at, &instance.name, &op.compress, &os_params, cx.script_output())
            .await;
        match &answer {
            Ok(()) => {
                cx.log(&format!("disk/{at} finished receiving data"));
                cx.log(&format!("disk/{at} finished sending data"));
            }
            Err(error) => cx.log(&format!("disk/{at} failed to send data: {error}")),
        }
        dumped.push(answer.is_ok());
    }
    cx.log(&format!("Finalizing export on {target_name}"));
    let description = describe(cx, &config, &instance).render();
    let finalized = match target.finalize_export(&told, &instance.name, &description).await {
        Ok(()) => true,
        Err(error) => {
            cx.warn(&format!(
                "Could not finalize export for instance {} on node {target_name}: {error}",
                instance.name
            ));
            false
        }
    };
    if op.shutdown && was_up && !op.remove_instance {
        cx.log(&format!("Starting instance {}", instance.name));
        let started = match cx.node(&instance.primary_node).await {
            Ok(node) => node.start_instance(&told, false).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            cx.log(&format!("Failed to start instance: {error}"));
            disks::shutdown(cx, &instance.meta.uuid, None, false).await?;
            return Err(GanetiError::exec(format!("Could not start instance: {error}")));
        }
    }
    Ok((finalized, dumped))
}

/// The description that goes with an export (Ganeti 3.0, `backend.FinalizeExport`).
fn describe(cx: &Cx, config: &Config, instance: &Instance) -> Ini {
    let told = spec_of(cx, instance);
    let mut ini = Ini::default();
    let mut set = |section: &str, name: &str, value: String| ini.set(section, name, value);
    set("export", "version", EXPORT_VERSION.to_owned());
    set("export", "timestamp", cx.env().now().0.to_string());
    set("export", "source", instance.primary_node.to_string());
    set("export", "os", instance.os.clone());
    set("export", "compression", "none".to_owned());
    let be = |name: &str| params::be::number(&told.beparams, name).to_string();
    set("instance", "name", instance.name.clone());
    set("instance", "maxmem", be("maxmem"));
    set("instance", "minmem", be("minmem"));
    set("instance", "memory", be("maxmem"));
    set("instance", "vcpus", be("vcpus"));
    set("instance", "disk_template", super::instance::disk_template(config, instance).to_string());
    set("instance", "hypervisor", instance.hypervisor.to_string());
    set("instance", "tags", told.tags.join(" "));
    let none = || "None".to_owned();
    for (at, nic) in told.nics.iter().enumerate() {
        set("instance", &format!("nic{at}_mac"), nic.mac.clone());
        set("instance", &format!("nic{at}_ip"), nic.ip.clone().unwrap_or_else(none));
        let network = nic.network.as_ref().map(|network| network.uuid.to_string());
        set("instance", &format!("nic{at}_network"), network.unwrap_or_default());
        set("instance", &format!("nic{at}_name"), nic.name.clone().unwrap_or_else(none));
        set("instance", &format!("nic{at}_mode"), nic.mode.clone());
        set("instance", &format!("nic{at}_link"), nic.link.clone());
        set("instance", &format!("nic{at}_vlan"), nic.vlan.clone());
    }
    set("instance", "nic_count", told.nics.len().to_string());
    for (at, disk) in told.disks.iter().enumerate() {
        set("instance", &format!("disk{at}_ivname"), disk.iv_name.clone());
        set("instance", &format!("disk{at}_dump"), disk.uuid.to_string());
        set("instance", &format!("disk{at}_size"), disk.size_mib.to_string());
        set("instance", &format!("disk{at}_name"), disk.name.clone().unwrap_or_default());
    }
    set("instance", "disk_count", told.disks.len().to_string());
    let globals = params::hv::globals(cx.compat());
    for (name, value) in told.hvparams.iter().filter(|(name, _)| !globals.contains(&name.as_str()))
    {
        set("hypervisor", name, python::str(value));
    }
    for (name, value) in &told.beparams {
        set("backend", name, python::str(value));
    }
    for (name, value) in &told.osparams {
        set("os", name, python::str(value));
    }
    let private =
        params::os::fill_private(&config.cluster, &instance.os, &instance.osparams_private);
    for (name, value) in &private {
        set("os_private", name, python::str(value));
    }
    for section in ["hypervisor", "backend", "os", "os_private"] {
        ini.section(section);
    }
    ini
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
    use super::super::testing::Bench;
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
