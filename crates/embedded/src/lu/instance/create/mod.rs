//! `OP_INSTANCE_CREATE`. What is asked is checked by itself (`arguments`), settled into a plan (`settle`) and carried out (`run`).
//! Importing is in `import`, which is asked where the two differ.

pub(super) mod allocation;
mod arguments;
mod run;
mod settle;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use model::config::{Config, Instance, Meta, Nic};
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{
    AdminState, AdminStateSource, CreateMode, Dict, DiskTemplate, FileDriver, Hypervisor,
};
use node::{DiskSpec, OsParams};
use serde_json::{Value, json};

use self::arguments::{
    add_communication, check_allocator, check_disks, check_mode, check_nics, shown, template,
};
use self::run::{add, give_up, install, power_on, wait_for_disks};
use self::settle::{check_nodes, settle};
use super::layout::{self, NewDisk};
use super::{hook_env, import, naming};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand};

/// What creation needs to know.
pub(crate) struct Plan {
    name: String,
    primary: Uuid,
    secondary: Option<Uuid>,
    template: DiskTemplate,
    file_dir: Option<String>,
    file_driver: String,
    disks: Vec<NewDisk>,
    adopt: bool,
    nics: Vec<Nic>,
    hypervisor: Hypervisor,
    hvparams: Dict,
    hv_full: Dict,
    beparams: Dict,
    be_full: Dict,
    os: String,
    osparams: Dict,
    osparams_private: Dict,
    os_params: OsParams,
    tags: Vec<String>,
    start: bool,
    /// The forthcoming instance that becomes a real one.
    commit: Option<Arc<Instance>>,
    /// Where the contents come from, unless from the OS scripts.
    source: Option<import::Source>,
}

/// How long a helper instance may take to start and to stop, in seconds (Ganeti 3.0, `HELPER_VM_STARTUP`, `HELPER_VM_SHUTDOWN`).
const HELPER_STARTUP: i64 = 300;
const HELPER_SHUTDOWN: i64 = 7200;

impl LogicalUnit for InstanceCreate {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        if self.forthcoming && self.commit {
            let text = "Forthcoming generation and commiting are mutually exclusive";
            return Err(GanetiError::wrong_input(text));
        }
        if self.no_install == Some(true) && self.start {
            cx.info("No-installation mode selected, disabling startup");
            self.start = false;
        }
        self.instance_name = naming::normalise_name(&self.instance_name)?;
        if self.ip_check && !self.name_check {
            return Err(GanetiError::wrong_input(
                "Cannot do IP address check without a name check",
            ));
        }
        if self.name_check {
            self.instance_name = naming::resolve(cx, &self.instance_name).await?.name;
        }
        if self.instance_communication {
            add_communication(self, &cx.config());
        }
        self.helper_startup_timeout.get_or_insert(HELPER_STARTUP);
        self.helper_shutdown_timeout.get_or_insert(HELPER_SHUTDOWN);
        check_nics(self)?;
        check_disks(self, &cx.config())?;
        if self.file_driver.is_none() && layout::FILE_BASED.contains(&template(self)) {
            self.file_driver = Some(FileDriver::Loop);
        }
        check_allocator(self, cx)?;
        check_mode(self, cx)
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = Locks::new();
        let mut nodes = Vec::new();
        if self.commit {
            let instance = expand::instance(config, &self.instance_name, None).map_err(|_| {
                GanetiError::wrong_input(format!("Instance {} unknown", self.instance_name))
            })?;
            if !instance.forthcoming {
                return Err(GanetiError::wrong_state(format!(
                    "Instance {} (with uuid {}) not forthcoming but --commit was passed.",
                    instance.name, instance.meta.uuid
                )));
            }
            nodes.extend(super::nodes_of(config, instance));
        } else {
            naming::check_new_name(config, &self.instance_name)?;
        }
        locks = locks.exclusive(Level::Instance, &self.instance_name);
        // With an allocator the nodes are chosen in view of what other jobs have set aside, and locked then: creations do
        // not wait for each other, as they do in Ganeti, which locks all nodes.
        if self.iallocator.is_none() && !self.commit {
            let named = [(&self.pnode, &self.pnode_uuid), (&self.snode, &self.snode_uuid)];
            for (name, uuid) in named {
                if let Some(name) = name {
                    let node = expand::node(config, name, uuid.as_deref())?;
                    nodes.push(node.meta.uuid.clone());
                }
            }
        }
        if self.mode == CreateMode::Import
            && let Some(name) = &self.src_node
        {
            nodes
                .push(expand::node(config, name, self.src_node_uuid.as_deref())?.meta.uuid.clone());
        }
        Ok(lock_nodes(config, locks, &nodes))
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let config = cx.config();
        let commit = if self.commit {
            let instance = expand::instance(&config, &self.instance_name, None)?;
            if !instance.forthcoming {
                return Err(GanetiError::wrong_state(format!(
                    "Instance {} (with uuid {}) is no longer forthcoming",
                    instance.name, instance.meta.uuid
                )));
            }
            Some(instance.clone())
        } else {
            naming::check_new_name(&config, &self.instance_name)?;
            None
        };
        let template = template(self);
        let file_dir = layout::file_dir(
            &config,
            template,
            &self.instance_name,
            self.file_storage_dir.as_deref(),
        )?;
        let mut op = self.clone();
        if op.mode == CreateMode::Import {
            cx.show(shown(&op));
        }
        let source = import::read(cx, &mut op).await?;
        let plan = settle(&mut op, cx, &config, commit, file_dir, source).await?;
        check_nodes(&op, cx, &config, plan).await
    }

    fn hooks(&self, cx: &Cx, plan: &Plan) -> Option<Hooks> {
        let config = cx.config();
        let nics: Vec<node::NicSpec> =
            plan.nics.iter().map(|nic| crate::spec::nic(&config, nic)).collect();
        let secondaries: Vec<String> =
            plan.secondary.iter().map(|uuid| config.node_name(uuid).to_owned()).collect();
        let disks: Vec<DiskSpec> =
            plan.disks.iter().map(|disk| planned_disk(plan.template, disk)).collect();
        let mut env = hook_env::describe(&hook_env::Described {
            name: &plan.name,
            primary: config.node_name(&plan.primary),
            secondaries: &secondaries,
            os: &plan.os,
            status: if plan.start { "True" } else { "False" },
            disk_template: plan.template.as_str(),
            hypervisor: plan.hypervisor.as_str(),
            nics: &nics,
            disks: &disks,
            beparams: &plan.be_full,
            hvparams: &plan.hv_full,
            tags: &plan.tags,
        });
        env.insert("ADD_MODE".to_owned(), self.mode.as_str().to_owned());
        if let Some(source) = &plan.source {
            env.extend(source.hook_env(&config));
        }
        let mut nodes = vec![config.cluster.master_node.clone(), plan.primary.clone()];
        nodes.extend(plan.secondary.clone());
        nodes.dedup();
        Some(Hooks { post_env: env.clone(), env, pre_nodes: nodes.clone(), post_nodes: nodes })
    }

    /// The names of the nodes. Ganeti answers their UUIDs here and names when it is no dry run; the older documents say names.
    fn dry_run(&self, cx: &Cx, plan: &Plan) -> Value {
        let config = cx.config();
        let nodes = std::iter::once(&plan.primary).chain(&plan.secondary);
        nodes.map(|uuid| json!(config.node_name(uuid))).collect()
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let instance = add(self, cx, &plan).await?;
        let names = || -> Value {
            let config = cx.config();
            let nodes = std::iter::once(&plan.primary).chain(&plan.secondary);
            nodes.map(|uuid| json!(config.node_name(uuid))).collect()
        };
        if self.forthcoming {
            cx.log("Instance is forthcoming; not creating the actual instance");
            return Ok(names());
        }
        let uuid = instance.meta.uuid.clone();
        if !plan.adopt && cx.config().cluster.prealloc_wipe_disks {
            cx.log("* wiping instance disks...");
            if let Err(error) = super::wipe::all(cx, &uuid).await {
                cx.warn(&format!("Wiping instance disks failed ({error})"));
                return give_up(cx, &uuid).await;
            }
        }
        wait_for_disks(self, cx, &uuid).await?;
        if let Some(image) = plan.osparams.get("os-image").and_then(Value::as_str)
            && !plan.adopt
        {
            cx.log("* imaging instance disks...");
            if let Err(error) = super::wipe::image(cx, &uuid, image).await {
                cx.warn(&format!("Imaging instance disks failed ({error})"));
                return give_up(cx, &uuid).await;
            }
        }
        // Ganeti waits twice: after wiping, and after imaging.
        wait_for_disks(self, cx, &uuid).await?;
        install(self, cx, &plan, &uuid).await?;
        if plan.start {
            power_on(cx, &uuid).await?;
        }
        Ok(names())
    }
}

/// The nodes and their resources exclusively, their groups shared.
fn lock_nodes(config: &Config, mut locks: Locks, nodes: &[Uuid]) -> Locks {
    for uuid in nodes {
        locks = locks.exclusive(Level::Node, uuid).exclusive(Level::NodeRes, uuid);
        if let Some(node) = config.nodes.get(uuid) {
            locks = locks.shared(Level::NodeGroup, &node.group);
        }
    }
    locks
}

/// A disk that is only planned, as hooks are told of it.
fn planned_disk(template: DiskTemplate, disk: &NewDisk) -> DiskSpec {
    DiskSpec {
        uuid: Uuid::default(),
        name: disk.name.clone(),
        iv_name: String::new(),
        dev_type: template,
        logical_id: Vec::new(),
        size_mib: disk.size_mib,
        mode: disk.mode.clone(),
        spindles: disk.spindles,
        nodes: Vec::new(),
        params: disk.params.clone(),
        children: Vec::new(),
    }
}

impl Plan {
    /// The configuration object, without disks yet.
    fn instance(&self, uuid: &Uuid, port: Option<u16>) -> Instance {
        Instance {
            meta: Meta::new(uuid.clone(), 0.0),
            tags: self.tags.iter().cloned().collect(),
            name: self.name.clone(),
            primary_node: self.primary.clone(),
            os: self.os.clone(),
            hypervisor: self.hypervisor,
            hvparams: self.hvparams.clone(),
            beparams: self.beparams.clone(),
            osparams: self.osparams.clone(),
            osparams_private: self.osparams_private.clone(),
            admin_state: AdminState::Down,
            admin_state_source: AdminStateSource::Admin,
            nics: self.nics.clone(),
            disks: Vec::new(),
            disks_active: false,
            network_port: port,
            forthcoming: false,
            disk_template: self.template,
        }
    }
}

fn secrets(op: &InstanceCreate) -> Dict {
    op.osparams_secret.as_ref().map(|secret| secret.0.clone()).unwrap_or_default()
}
