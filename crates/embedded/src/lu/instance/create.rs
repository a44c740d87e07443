//! `OP_INSTANCE_CREATE`. Importing is in `import`; this file asks it where the two differ.

use std::path::Path;
use std::sync::Arc;

use model::config::{Config, Disk, Instance, Meta, Nic};
use model::error::{ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{
    AdminState, AdminStateSource, CreateMode, Dict, DiskTemplate, FileDriver, Hypervisor, NicSpec,
    NonEmpty, Private,
};
use model::params;
use node::{DiskSpec, InstanceSpec, NodeError, OsParams};
use placement::picture::{Allocation, Request};
use serde_json::{Value, json};

use super::layout::{self, Layout, NewDisk};
use super::{checks, disks, hook_env, import, mark, nics, spec_of};
use crate::allocate;
use crate::config::Placement;
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand, tags};

/// Hypervisors whose instances get a port for their console.
const NEED_PORT: &[Hypervisor] = &[Hypervisor::Kvm, Hypervisor::XenHvm];
/// Templates that take disks over that are there already, and the one that does nothing else.
const MAY_ADOPT: &[DiskTemplate] = &[DiskTemplate::Plain, DiskTemplate::Blockdev];
/// Where exports lie on a node, as clients are told (Ganeti 3.0, `pathutils.EXPORT_DIR`).
const EXPORT_DIR: &str = "/var/lib/ganeti/export";
/// Where devices that are taken over must lie.
const ADOPTABLE_ROOT: &str = "/dev/disk/";

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
    os_full: Dict,
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

/// The disk template, which [`LogicalUnit::prepare`] has settled.
fn template(op: &InstanceCreate) -> DiskTemplate {
    op.disk_template.unwrap_or(DiskTemplate::Diskless)
}

fn adopts(op: &InstanceCreate) -> bool {
    op.disks.iter().any(|disk| disk.contains_key("adopt"))
}

fn allocator(op: &InstanceCreate) -> Option<&str> {
    op.iallocator.as_deref()
}

fn check_disks(op: &mut InstanceCreate, config: &Config) -> Result<()> {
    let names = op.disks.iter().map(|disk| disk.get("name").and_then(Value::as_str));
    layout::check_names("disk", names, &[])?;
    let template = match op.disk_template {
        Some(template) => template,
        None => *config.cluster.enabled_disk_templates.first().unwrap_or(&DiskTemplate::Diskless),
    };
    op.disk_template = Some(template);
    layout::check_enabled(config, template)?;
    if template != DiskTemplate::Ext {
        for disk in &mut op.disks {
            layout::force(&mut disk.0)?;
        }
    }
    let adopted = op.disks.iter().filter(|disk| disk.contains_key("adopt")).count();
    if adopted > 0 && adopted < op.disks.len() {
        return Err(GanetiError::wrong_input("Either all disks are adopted or none is"));
    }
    if adopted == 0 {
        if template == DiskTemplate::Blockdev {
            return Err(GanetiError::wrong_input(format!(
                "Disk template {template} requires disk adoption, but no 'adopt' parameter given"
            )));
        }
        return Ok(());
    }
    if !MAY_ADOPT.contains(&template) {
        let text = format!("Disk adoption is not supported for the '{template}' disk template");
        return Err(GanetiError::wrong_input(text));
    }
    if op.iallocator.is_some() {
        return Err(GanetiError::wrong_input(
            "Disk adoption not allowed with an iallocator script",
        ));
    }
    if op.mode == CreateMode::Import {
        return Err(GanetiError::wrong_input("Disk adoption not allowed for instance import"));
    }
    Ok(())
}

/// Adds the NIC on the communication network, unless it is there already.
fn add_communication(op: &mut InstanceCreate, config: &Config) {
    let name = format!("ganeti:communication:{}", op.instance_name);
    if op.nics.iter().any(|nic| nic.get("name").and_then(Value::as_str) == Some(&name)) {
        return;
    }
    let network = &config.cluster.instance_communication_network;
    let nic = json!({"name": name, "mac": "generate", "ip": "pool", "network": network});
    if let Value::Object(nic) = nic {
        op.nics.push(NicSpec(nic));
    }
}

/// The opcode as a job shows it, with the place of the export that is imported.
fn shown(op: &InstanceCreate) -> InstanceCreate {
    let mut op = op.clone();
    if op.mode == CreateMode::Import {
        let path = op.src_path.as_deref().unwrap_or(&op.instance_name).to_owned();
        let path = match op.src_node.is_some() && !is_absolute(&path) {
            true => format!("{EXPORT_DIR}/{path}"),
            false => path,
        };
        op.src_path = NonEmpty::new(path);
    }
    op
}

fn check_nics(op: &mut InstanceCreate) -> Result<()> {
    let names = op.nics.iter().map(|nic| nic.get("name").and_then(Value::as_str));
    layout::check_names("NIC", names, &[])?;
    for NicSpec(nic) in &mut op.nics {
        if let Some(vlan) = nic.get("vlan").and_then(Value::as_str) {
            let vlan = params::nic::normalise_vlan(vlan)?;
            nic.insert("vlan".to_owned(), json!(vlan));
        }
    }
    Ok(())
}

/// Either nodes are named, or an allocator is: the cluster's where none is.
fn check_allocator(op: &mut InstanceCreate, cx: &Cx) -> Result<()> {
    op.iallocator = iallocator_or_node(cx, op.iallocator.clone(), op.pnode.is_some())?;
    if op.pnode.is_some() {
        if template(op) == DiskTemplate::Drbd {
            if op.snode.is_none() {
                let text = "The networked disk templates need a mirror node";
                return Err(GanetiError::wrong_input(text));
            }
        } else if op.snode.is_some() {
            cx.warn("Secondary node will be ignored on non-mirrored disk template");
            op.snode = None;
        }
    }
    opportunistic(op.opportunistic_locking, op.iallocator.is_some())
}

fn check_mode(op: &mut InstanceCreate, cx: &Cx) -> Result<()> {
    let image = op.osparams.get("os-image").and_then(Value::as_str);
    match op.mode {
        CreateMode::Create => {
            if let Some(image) = image
                && !(image.starts_with('/') || image.contains("://"))
            {
                return Err(GanetiError::prereq_plain(
                    "OS image must be an absolute path or a URL",
                ));
            }
            let Some(os) = &op.os_type else {
                if image.is_some() {
                    return Ok(());
                }
                return Err(GanetiError::wrong_input("No guest OS or OS image specified"));
            };
            if cx.config().cluster.blacklisted_os.iter().any(|name| name == os.as_str()) {
                let text = format!("Guest OS '{os}' is not allowed for installation");
                return Err(GanetiError::wrong_state(text));
            }
            Ok(())
        }
        CreateMode::Import => {
            // A variant that was forced when it was installed must work again.
            op.force_variant = true;
            if op.no_install == Some(true) {
                cx.info("No-installation mode has no effect during import");
            }
            if image.is_some() {
                cx.info("OS image has no effect during import");
            }
            Ok(())
        }
        CreateMode::RemoteImport => {
            if image.is_some() {
                cx.info("OS image has no effect during import");
            }
            import::check_remote(cx, op)
        }
    }
}

/// Takes the cluster's allocator where neither a node nor an allocator is named (Ganeti 3.0, `CheckIAllocatorOrNode`).
pub(crate) fn iallocator_or_node(
    cx: &Cx,
    named: Option<NonEmpty>,
    node: bool,
) -> Result<Option<NonEmpty>> {
    if node && named.is_some() {
        return Err(GanetiError::wrong_input("Do not specify both, iallocator and node"));
    }
    let is_default = named.as_deref().is_none_or(|name| name == ".");
    if node || !is_default {
        return Ok(named);
    }
    NonEmpty::new(cx.config().cluster.default_iallocator.clone()).map(Some).ok_or_else(|| {
        GanetiError::wrong_input(
            "No iallocator or node given and no cluster-wide default iallocator found; please specify either an iallocator \
             or a node, or set a cluster-wide default iallocator",
        )
    })
}

/// Opportunistic locking is for allocators (Ganeti 3.0, `CheckOpportunisticLocking`).
pub(crate) fn opportunistic(wanted: bool, allocator: bool) -> Result<()> {
    if wanted && !allocator {
        return Err(GanetiError::wrong_input(
            "Opportunistic locking is only available in combination with an instance allocator",
        ));
    }
    Ok(())
}

/// Refuses a name that is taken.
pub(crate) fn check_new_name(config: &Config, name: &str) -> Result<()> {
    if config.instance_by_name(name).is_some() {
        return Err(GanetiError::already_exists(format!(
            "Instance '{name}' is already in the cluster"
        )));
    }
    Ok(())
}

/// A host name as Ganeti keeps it: lower case, of letters, digits, dots, dashes and underscores (3.0,
/// `netutils.Hostname.GetNormalizedName`).
pub(crate) fn normalise_name(name: &str) -> Result<String> {
    let name = name.to_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    let trimmed = name.strip_suffix('.').unwrap_or(&name);
    if name.len() <= 255 && trimmed.split('.').all(label) {
        Ok(trimmed.to_owned())
    } else {
        Err(GanetiError::wrong_input(format!("Invalid hostname '{name}'")))
    }
}

/// Looks a name up and checks that the answer is that name in full (Ganeti 3.0, `CheckHostnameSane`).
pub(crate) async fn resolve(cx: &Cx, name: &str) -> Result<crate::names::Host> {
    let host = cx.names().resolve(name).await?;
    if host.name != name {
        cx.info(&format!("Resolved given name '{name}' to '{}'", host.name));
    }
    if !model::name::matches_dotted_prefix(name, &host.name) {
        return Err(GanetiError::wrong_input(format!(
            "Resolved hostname '{}' does not look the same as given hostname '{name}'",
            host.name
        )));
    }
    Ok(host)
}

/// Refuses an address that somebody answers at.
pub(crate) async fn check_unused(cx: &Cx, host: &crate::names::Host, name: &str) -> Result<()> {
    let config = cx.config();
    let known = config.nodes.values().map(|node| node.primary_ip.clone()).collect::<Vec<_>>();
    if cx.names().answers(host.ip, known.into_iter()).await {
        return Err(GanetiError::prereq(
            format!("IP {} of instance {name} already in use", host.ip),
            ErrorCode::ResourceNotUnique,
        ));
    }
    Ok(())
}

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
        self.instance_name = normalise_name(&self.instance_name)?;
        if self.ip_check && !self.name_check {
            return Err(GanetiError::wrong_input(
                "Cannot do IP address check without a name check",
            ));
        }
        if self.name_check {
            self.instance_name = resolve(cx, &self.instance_name).await?.name;
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
            check_new_name(config, &self.instance_name)?;
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
            check_new_name(&config, &self.instance_name)?;
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
        let told = plan.told(cx, &config, &[], secrets(self));
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
            nics: &told.nics,
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
    /// What nodes are told of the instance while it is being made.
    fn told(&self, _cx: &Cx, config: &Config, disks: &[Disk], _secrets: Dict) -> InstanceSpec {
        let instance = self.instance(&Uuid::default(), None);
        let nic_specs = self.nics.iter().map(|nic| crate::spec::nic(config, nic)).collect();
        InstanceSpec {
            name: self.name.clone(),
            uuid: Uuid::default(),
            ctime: 0.0,
            mtime: 0.0,
            tags: self.tags.clone(),
            primary_node: config.node_name(&self.primary).to_owned(),
            secondary_nodes: self
                .secondary
                .iter()
                .map(|uuid| config.node_name(uuid).to_owned())
                .collect(),
            os: self.os.clone(),
            hypervisor: self.hypervisor,
            hvparams: self.hv_full.clone(),
            beparams: self.be_full.clone(),
            osparams: self.os_full.clone(),
            nics: nic_specs,
            disks: disks.iter().map(|disk| crate::spec::disk(config, &instance, disk)).collect(),
            network_port: None,
        }
    }

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

/// Everything that can be said before nodes are looked at.
async fn settle(
    op: &mut InstanceCreate,
    cx: &Cx,
    config: &Config,
    commit: Option<Arc<Instance>>,
    file_dir: Option<String>,
    source: Option<import::Source>,
) -> Result<Plan> {
    let cluster = &config.cluster;
    let template = template(op);
    if cluster.volume_group_name.is_none() && layout::LVM.contains(&template) {
        return Err(GanetiError::wrong_state("Cluster does not support lvm-based instances"));
    }
    let hypervisor = match op.hypervisor {
        Some(hypervisor) => hypervisor,
        None => *cluster.enabled_hypervisors.first().unwrap_or(&Hypervisor::Fake),
    };
    if !cluster.enabled_hypervisors.contains(&hypervisor) {
        let enabled: Vec<&str> = cluster.enabled_hypervisors.iter().map(|hv| hv.as_str()).collect();
        return Err(GanetiError::wrong_state(format!(
            "Selected hypervisor ({hypervisor}) not enabled in the cluster ({})",
            enabled.join(",")
        )));
    }
    op.hypervisor = Some(hypervisor);
    cx.show(shown(op));
    for tag in &op.tags {
        tags::check_tag(tag)?;
    }
    let os = op.os_type.as_deref().unwrap_or_default().to_owned();
    params::hv::force(&mut op.hvparams, cx.compat(), false)?;
    let hv_full = params::hv::fill(cluster, hypervisor, &os, &op.hvparams, cx.compat());
    params::hv::check_syntax(hypervisor, &hv_full, cx.compat())?;
    params::hv::check_instance_level(&op.hvparams, cx.compat())?;
    let be_full = full_beparams(config, &mut op.beparams);
    cx.show(shown(op));
    let be_full = be_full?;
    let private = op.osparams_private.get_or_insert_default().0.clone();
    op.osparams_secret.get_or_insert_default();
    cx.show(shown(op));
    let os_full = params::os::fill_all(cluster, &os, &op.osparams, &private, &secrets(op))?;
    let mut private = private;
    if op.identify_defaults {
        revert_to_defaults(op, cx, config, hypervisor, &os, &mut private);
    }
    let needs_ip = op.nics.iter().any(|nic| {
        nic.get("ip").and_then(Value::as_str).is_some_and(|ip| ip.eq_ignore_ascii_case("auto"))
    });
    let host = match op.name_check && (op.ip_check || needs_ip) {
        true => Some(cx.names().resolve(&op.instance_name).await?),
        false => None,
    };
    let name_ip = host.as_ref().map(|host| host.ip.to_string());
    let mut made_nics = nics::compute(cx, &op.nics, name_ip.as_deref())?;
    let specs: Vec<Dict> = op.disks.iter().map(|disk| disk.0.clone()).collect();
    let new_disks = layout::compute(&specs, template, cluster.volume_group_name.as_deref())?;
    if let Some(source) = &source {
        source.keep_macs(&op.instance_name, &mut made_nics);
    }
    if let Some(host) = host.filter(|_| op.ip_check) {
        check_unused(cx, &host, &op.instance_name).await?;
    }
    for nic in &mut made_nics {
        if ["auto", "generate"].contains(&nic.mac.as_str()) {
            nic.mac = nics::reserve_mac(cx, None, nic.network.as_ref())?;
        }
    }
    Ok(Plan {
        name: op.instance_name.clone(),
        primary: Uuid::default(),
        secondary: None,
        template,
        file_dir,
        file_driver: op.file_driver.unwrap_or(FileDriver::Loop).as_str().to_owned(),
        disks: new_disks,
        adopt: adopts(op),
        nics: made_nics,
        hypervisor,
        hvparams: op.hvparams.clone(),
        hv_full,
        beparams: op.beparams.clone(),
        be_full,
        os,
        osparams: op.osparams.clone(),
        osparams_private: private,
        os_full,
        tags: op.tags.iter().map(|tag| tag.to_string()).collect(),
        start: op.start,
        commit,
        source,
    })
}

/// Takes out what equals the defaults (`identify_defaults`).
fn revert_to_defaults(
    op: &mut InstanceCreate,
    cx: &Cx,
    config: &Config,
    hypervisor: Hypervisor,
    os: &str,
    private: &mut Dict,
) {
    let cluster = &config.cluster;
    let none = Dict::new();
    let revert = |own: &mut Dict, defaults: &Dict| {
        own.retain(|name, value| defaults.get(name) != Some(value));
    };
    revert(&mut op.hvparams, &params::hv::fill(cluster, hypervisor, os, &none, cx.compat()));
    revert(&mut op.beparams, &params::be::fill(cluster, &none));
    let nic_defaults = params::nic::fill(cluster, &none);
    for NicSpec(nic) in &mut op.nics {
        revert(nic, &nic_defaults);
    }
    revert(&mut op.osparams, &params::os::fill(cluster, os, &none));
    revert(private, &params::os::fill_private(cluster, os, &none));
    op.osparams_private = Some(Private(private.clone()));
}

/// Chooses the nodes and checks them.
async fn check_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    mut plan: Plan,
) -> Result<Plan> {
    let chosen = choose_nodes(op, cx, config, &plan).await?;
    plan.primary = chosen.first().cloned().unwrap_or_default();
    plan.secondary = chosen.get(1).cloned().filter(|_| plan.template == DiskTemplate::Drbd);
    let primary = config.nodes.get(&plan.primary).cloned().ok_or_else(|| {
        GanetiError::exec(format!("Cannot retrieve locked node {}", plan.primary))
    })?;
    if op.iallocator.is_some() {
        let name = |uuid: &Uuid| NonEmpty::new(config.node_name(uuid));
        let secondary = plan.secondary.as_ref();
        cx.show(InstanceCreate {
            pnode: name(&plan.primary),
            pnode_uuid: NonEmpty::new(plan.primary.as_str()),
            snode: secondary.and_then(name),
            snode_uuid: secondary.and_then(|uuid| NonEmpty::new(uuid.as_str())),
            ..shown(op)
        });
    }
    let refusals = [
        (primary.offline, "offline"),
        (primary.drained, "drained"),
        (!primary.vm_capable, "non-vm_capable"),
    ];
    if let Some((_, what)) = refusals.iter().find(|(refused, _)| *refused) {
        let text = format!("Cannot use {what} primary node '{}'", primary.name);
        return Err(GanetiError::wrong_state(text));
    }
    nics::settle(cx, &mut plan.nics, &plan.primary, op.conflicts_check)?;
    if let Some(secondary) = &plan.secondary {
        if *secondary == plan.primary {
            return Err(GanetiError::wrong_input("The secondary node cannot be the primary node"));
        }
        checks::node_online(config, secondary)?;
        checks::node_not_drained(config, secondary)?;
        checks::node_vm_capable(config, secondary)?;
        if config.nodes.get(secondary).is_some_and(|node| node.group != primary.group) {
            cx.warn(
                "The primary and secondary nodes are in two different node groups; the disk parameters from the first \
                 disk's node group will be used",
            );
        }
    }
    let nodes: Vec<Uuid> =
        std::iter::once(plan.primary.clone()).chain(plan.secondary.clone()).collect();
    check_storage(cx, config, &mut plan, &nodes).await?;
    check_policy(op, config, &plan)?;
    check_on_nodes(op, cx, config, &plan, &nodes).await?;
    if op.start {
        let reason = format!("creating instance {}", plan.name);
        let wanted = params::be::number(&plan.be_full, "maxmem");
        checks::free_memory(cx, &plan.primary, &reason, wanted)?;
    }
    Ok(plan)
}

/// The nodes named, those of the forthcoming instance, or an allocator's choice. The choice is made in turn with those of
/// other jobs, and set aside at once.
async fn choose_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    plan: &Plan,
) -> Result<Vec<Uuid>> {
    if let Some(instance) = &plan.commit {
        let nodes = super::nodes_of(config, instance);
        if op.iallocator.is_some() {
            let names: Vec<String> =
                nodes.iter().map(|uuid| model::python::repr_str(config.node_name(uuid))).collect();
            cx.info(&format!("Nodes of instance {}: [{}]", instance.name, names.join(", ")));
        }
        return Ok(nodes);
    }
    let Some(allocator) = allocator(op) else {
        let mut nodes = Vec::new();
        for (name, uuid) in [(&op.pnode, &op.pnode_uuid), (&op.snode, &op.snode_uuid)] {
            if let Some(name) = name {
                nodes.push(expand::node(config, name, uuid.as_deref())?.meta.uuid.clone());
            }
        }
        return Ok(nodes);
    };
    let turn = cx.allocation_turn().await;
    let request = Request::Allocate(allocation(op, plan));
    let reply = allocate::ask(cx, allocator, &request).await?;
    if reply.result.is_none() && op.opportunistic_locking {
        cx.info(&format!(
            "IAllocator '{allocator}' failed on opportunistically acquired nodes: {}",
            reply.info
        ));
    }
    let nodes = allocate::nodes_found(config, allocator, reply)?;
    let total: u64 = plan.disks.iter().map(|disk| disk.size_mib).sum();
    let placement = Placement {
        nodes: nodes.clone(),
        memory_mib: params::be::number(&plan.be_full, "maxmem"),
        disk_mib: if layout::LVM.contains(&plan.template) { total } else { 0 },
        vcpus: params::be::number(&plan.be_full, "vcpus"),
        spindle_use: params::be::number(&plan.be_full, "spindle_use"),
    };
    let job = cx.job_id();
    cx.config_store().reserve(|_, reservations| {
        reservations.of(job).placements.insert(plan.name.clone(), placement);
        Ok(())
    })?;
    drop(turn);
    let names: Vec<&str> = nodes.iter().map(|uuid| config.node_name(uuid)).collect();
    cx.info(&format!(
        "Selected nodes for instance {} via iallocator {allocator}: {}",
        plan.name,
        names.join(", ")
    ));
    // The groups come before the nodes in the order of levels, and nothing above the instance is held yet.
    cx.port().acquire(&lock_nodes(config, Locks::none(), &nodes)).await?;
    Ok(nodes)
}

async fn check_storage(cx: &Cx, config: &Config, plan: &mut Plan, nodes: &[Uuid]) -> Result<()> {
    let exclusive = nodes.iter().any(|uuid| exclusive_storage(config, uuid));
    if exclusive && !matches!(plan.template, DiskTemplate::Plain | DiskTemplate::Diskless) {
        return Err(GanetiError::wrong_state(format!(
            "Disk template {} not supported with exclusive storage",
            plan.template
        )));
    }
    for disk in &plan.disks {
        check_spindles(disk.spindles.is_some(), exclusive)?;
    }
    if plan.adopt {
        check_adoption(cx, plan).await?;
    } else if layout::LVM.contains(&plan.template) {
        let group = config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group));
        let defaults = params::disk::fill_template(
            &config.cluster,
            group.map(|group| &**group),
            DiskTemplate::Drbd,
        );
        let metavg = defaults.get("metavg").and_then(Value::as_str).unwrap_or_default().to_owned();
        let sizes = layout::size_per_vg(plan.template, &plan.disks, &metavg);
        checks::free_space(cx, nodes, &sizes)?;
    }
    Ok(())
}

async fn check_adoption(cx: &Cx, plan: &mut Plan) -> Result<()> {
    let adopted: Vec<String> = plan
        .disks
        .iter()
        .map(|disk| {
            let name = disk.adopt.clone().unwrap_or_default();
            match plan.template {
                DiskTemplate::Plain => {
                    format!("{}/{name}", disk.vg.clone().unwrap_or_default())
                }
                _ => name,
            }
        })
        .collect();
    let mut unique = adopted.clone();
    unique.sort();
    unique.dedup();
    let is_plain = plan.template == DiskTemplate::Plain;
    if unique.len() != adopted.len() {
        let what = if is_plain { "volume" } else { "disk" };
        let text = format!("Duplicate {what} names given for adoption");
        return Err(GanetiError::wrong_input(text));
    }
    if !is_plain {
        let outside: Vec<String> =
            unique.iter().filter(|path| !path.starts_with(ADOPTABLE_ROOT)).cloned().collect();
        if !outside.is_empty() {
            return Err(GanetiError::wrong_input(format!(
                "Device node(s) {} lie outside {ADOPTABLE_ROOT} and cannot be adopted",
                outside.join(", ")
            )));
        }
    }
    let config = cx.config();
    let used = |name: &String| {
        is_plain
            && config.disks.values().any(|disk| {
                let id =
                    |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
                disk.dev_type == DiskTemplate::Plain && format!("{}/{}", id(0), id(1)) == *name
            })
    };
    if let Some(name) = unique.iter().find(|name| used(name)) {
        return Err(GanetiError::prereq(
            format!("LV named {name} used by another instance"),
            ErrorCode::ResourceNotUnique,
        ));
    }
    let node = cx.node(&plan.primary).await.map_err(|error| environment(&error))?;
    let mut missing = Vec::new();
    for disk in &mut plan.disks {
        let mut probe = planned_disk(plan.template, disk);
        let adopt = json!(disk.adopt);
        probe.logical_id =
            if is_plain { vec![json!(disk.vg), adopt] } else { vec![json!("manual"), adopt] };
        match node.disk_size(&probe).await.map_err(|error| environment(&error))? {
            Some(size_mib) => disk.size_mib = size_mib,
            None => missing.push(disk.adopt.clone().unwrap_or_default()),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = if is_plain { "logical volume(s)" } else { "block device(s)" };
    Err(GanetiError::wrong_input(format!("Missing {what}: {}", missing.join(", "))))
}

fn check_policy(op: &InstanceCreate, config: &Config, plan: &Plan) -> Result<()> {
    let Some(group) =
        config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group))
    else {
        return Ok(());
    };
    let policy = params::ipolicy::fill(&config.cluster, group);
    let number = |name: &str| Some(params::be::number(&plan.be_full, name));
    let spec = params::ipolicy::Spec {
        memory_mib: number("maxmem"),
        cpus: number("vcpus"),
        nics: Some(plan.nics.len() as u64),
        spindle_use: number("spindle_use"),
        disk_sizes_mib: plan.disks.iter().map(|disk| disk.size_mib).collect(),
        disk_types: plan.disks.iter().map(|_| plan.template).collect(),
    };
    let violations = params::ipolicy::violations(&policy, &spec);
    if op.ignore_ipolicy || violations.is_empty() {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "Instance allocation to group {} ({}) violates policy: {}",
        group.meta.uuid,
        group.name,
        violations.join(", ")
    )))
}

/// What the nodes themselves say: hypervisor and OS parameters.
async fn check_on_nodes(
    op: &InstanceCreate,
    cx: &Cx,
    config: &Config,
    plan: &Plan,
    nodes: &[Uuid],
) -> Result<()> {
    checks::hvparams(cx, nodes, plan.hypervisor, &plan.hv_full).await?;
    checks::osparams(cx, nodes, &plan.os, &plan.os_full, op.force_variant).await?;
    checks::nic_bridges(cx, &plan.primary, &plan.nics).await?;
    checks::compression(config, &op.compress)
}

/// Makes the disks and writes the instance into the configuration.
async fn add(op: &InstanceCreate, cx: &Cx, plan: &Plan) -> Result<Arc<Instance>> {
    let config = cx.config();
    let uuid = match &plan.commit {
        Some(instance) => instance.meta.uuid.clone(),
        None => cx.env().uuid(),
    };
    let port = match NEED_PORT.contains(&plan.hypervisor) {
        true => Some(layout::reserve_port(cx)?),
        false => None,
    };
    let group = config.nodes.get(&plan.primary).and_then(|node| config.groups.get(&node.group));
    let made = match &plan.commit {
        Some(instance) => {
            config.instance_disks(instance).iter().map(|disk| Disk::clone(disk)).collect()
        }
        None => layout::generate(
            cx,
            &Layout {
                template: plan.template,
                instance: &uuid,
                primary: &plan.primary,
                secondary: plan.secondary.as_ref(),
                disks: &plan.disks,
                file_dir: plan.file_dir.as_deref(),
                file_driver: &plan.file_driver,
                first: 0,
                group: group.map(|group| &**group),
            },
        )?,
    };
    if op.forthcoming {
        cx.log("Instance is forthcoming, not creating disks");
    } else {
        make_disks(cx, plan, &uuid, &made).await?;
    }
    cx.log(&format!("adding instance {} to cluster config", plan.name));
    cx.log("adding disks to cluster config");
    cx.commit(|draft| {
        if plan.commit.is_none() {
            check_new_name(draft, &plan.name)?;
        }
        let mut instance = plan.instance(&uuid, port);
        instance.meta = Meta::new(uuid.clone(), draft.now());
        // Ganeti: each disk that is added counts as a change (3.0, `AddInstanceDisk`).
        instance.meta.serial_no += made.len() as u64;
        instance.forthcoming = op.forthcoming;
        instance.disks = made.iter().map(|disk| disk.meta.uuid.clone()).collect();
        for disk in &made {
            draft.put_disk(disk.clone(), None);
            if disk.dev_type == DiskTemplate::Drbd
                && let Some(port) = disk.logical_id.get(2).and_then(Value::as_u64)
            {
                layout::use_port(draft, u16::try_from(port).unwrap_or_default());
            }
        }
        if let Some(port) = port {
            layout::use_port(draft, port);
        }
        nics::use_addresses(draft, &instance.nics);
        draft.put_instance(instance);
        draft.touch_cluster();
        Ok(())
    })
    .await?;
    super::again(cx, &uuid)
}

/// Makes the disks on all nodes that hold them; what was made is removed again when one fails.
async fn make_disks(cx: &Cx, plan: &Plan, uuid: &Uuid, made: &[Disk]) -> Result<()> {
    if !plan.adopt {
        cx.log("* creating instance disks...");
    }
    let config = cx.config();
    let mut told = plan.told(cx, &config, made, Dict::new());
    told.uuid = uuid.clone();
    let instance = plan.instance(uuid, None);
    let created =
        disks::create(cx, &told, &instance, made, plan.adopt.then_some(&plan.disks[..])).await;
    if created.is_err() && !plan.adopt {
        cx.warn("Device creation failed");
    }
    created
}

async fn wait_for_disks(op: &InstanceCreate, cx: &Cx, uuid: &Uuid) -> Result<()> {
    let instance = super::again(cx, uuid)?;
    let mirrored = super::disk_template(&cx.config(), &instance) == DiskTemplate::Drbd;
    let in_sync = if op.wait_for_sync {
        disks::wait_for_sync(cx, &instance, None, false).await?
    } else if mirrored {
        cx.log("* checking mirrors status");
        disks::wait_for_sync(cx, &instance, None, true).await?
    } else {
        true
    };
    if in_sync { Ok(()) } else { give_up(cx, uuid).await.map(|_: Value| ()) }
}

/// Removes an instance whose disks are no good.
async fn give_up(cx: &Cx, uuid: &Uuid) -> Result<Value> {
    disks::remove_instance(cx, uuid, true).await?;
    Err(GanetiError::exec("There are some degraded disks for this instance"))
}

/// Fills the disks: by the scripts of the operating system, or from an export.
async fn install(op: &InstanceCreate, cx: &Cx, plan: &Plan, uuid: &Uuid) -> Result<()> {
    let instance = super::again(cx, uuid)?;
    if instance.os.is_empty() {
        return Ok(());
    }
    let node =
        cx.node(&plan.primary).await.map_err(|error| GanetiError::exec(error.to_string()))?;
    let known = node.list_os().await.map_err(|error| {
        GanetiError::exec(format!("Failed to get OS '{}': {error}", instance.os))
    })?;
    let wanted = params::os::base_name(&instance.os);
    if !known.iter().any(|os| os.name == wanted) {
        return Err(GanetiError::prereq_plain(format!(
            "OS '{}' is not available in node '{}'",
            instance.os, instance.primary_node
        )));
    }
    if instance.disks.is_empty() || plan.adopt {
        return Ok(());
    }
    let os_params = OsParams { values: params::fill(&plan.os_full, &secrets(op)), debug_level: 0 };
    if let Some(source) = &plan.source {
        return source.run(cx, op, &instance, &os_params).await;
    }
    if op.no_install == Some(true) || plan.osparams.contains_key("os-image") {
        return Ok(());
    }
    cx.log("* running the instance OS create scripts...");
    // Ganeti: they are up from their creation on, and known to be once the instance is started (3.0, instance_create.py).
    let all: Vec<usize> = (0..instance.disks.len()).collect();
    disks::assemble(cx, uuid, Some(&all), false).await?;
    let told = spec_of(cx, &instance);
    let answer = node.create_os(&told, false, &os_params, cx.script_output()).await;
    answer.map_err(|error| {
        GanetiError::exec(format!(
            "Could not add os for instance {} on node {}: {error}",
            instance.name,
            cx.config().node_name(&plan.primary)
        ))
    })
}

async fn power_on(cx: &Cx, uuid: &Uuid) -> Result<()> {
    mark(cx, uuid, AdminState::Up, AdminStateSource::Admin).await?;
    cx.log("* starting instance...");
    disks::assemble(cx, uuid, None, false).await?;
    let instance = super::again(cx, uuid)?;
    let told = spec_of(cx, &instance);
    let started = match cx.node(&instance.primary_node).await {
        Ok(node) => node.start_instance(&told, false).await,
        Err(error) => Err(error),
    };
    started.map_err(|error| GanetiError::exec(format!("Could not start instance: {error}")))
}

/// Filled backend parameters; values of `auto` become the cluster's, and the opcode's own are forced to their types
/// (Ganeti 3.0, `ComputeFullBeParams`).
pub(crate) fn full_beparams(config: &Config, own: &mut Dict) -> Result<Dict> {
    let defaults = params::be::fill(&config.cluster, &Dict::new());
    for (name, value) in own.iter_mut() {
        if value.as_str() == Some("auto") {
            *value = defaults.get(name).cloned().unwrap_or(Value::Null);
        }
    }
    params::be::upgrade(own);
    params::be::force(own, false)?;
    Ok(params::be::fill(&config.cluster, own))
}

/// What an allocator is asked for a new instance.
pub(crate) fn allocation(op: &InstanceCreate, plan: &Plan) -> Allocation {
    allocation_of(op, &plan.disks, &plan.nics, &plan.be_full, plan.hypervisor)
}

/// The same from its parts.
pub(crate) fn allocation_of(
    op: &InstanceCreate,
    disks: &[NewDisk],
    nics: &[Nic],
    be_full: &Dict,
    hypervisor: Hypervisor,
) -> Allocation {
    let number = |name: &str| i64::try_from(params::be::number(be_full, name)).unwrap_or(i64::MAX);
    Allocation {
        name: op.instance_name.clone(),
        disk_template: allocate::template(template(op)),
        group_name: op.group_name.as_ref().map(ToString::to_string),
        tags: op.tags.iter().map(ToString::to_string).collect(),
        os: op.os_type.as_deref().unwrap_or_default().to_owned(),
        memory_mib: number("maxmem"),
        vcpus: number("vcpus"),
        spindle_use: number("spindle_use"),
        disks: disks
            .iter()
            .map(|disk| placement::instance::Disk {
                size_mib: i64::try_from(disk.size_mib).unwrap_or(i64::MAX),
                mode: disk.mode.clone(),
                spindles: disk.spindles.and_then(|count| i64::try_from(count).ok()),
            })
            .collect(),
        nics: nics
            .iter()
            .map(|nic| placement::instance::Nic {
                mac: Some(nic.mac.clone()),
                ip: nic.ip.clone(),
                mode: None,
                link: None,
                network: nic.network.as_ref().map(Uuid::to_string),
            })
            .collect(),
        hypervisor: hypervisor.as_str().to_owned(),
        restrict_to_nodes: None,
    }
}

/// Whether a node's storage is exclusive.
pub(crate) fn exclusive_storage(config: &Config, uuid: &Uuid) -> bool {
    config.nodes.get(uuid).is_some_and(|node| {
        let group = config.groups.get(&node.group);
        let filled = params::nd::fill(&config.cluster, group.map(|group| &**group), node);
        filled.get("exclusive_storage").and_then(Value::as_bool).unwrap_or(false)
    })
}

/// Spindles go with exclusive storage, and are needed there (Ganeti 3.0, `CheckSpindlesExclusiveStorage`).
pub(crate) fn check_spindles(given: bool, exclusive: bool) -> Result<()> {
    match (given, exclusive) {
        (true, false) => Err(GanetiError::wrong_input(
            "Spindles in instance disks cannot be specified when exclusive storage is not active",
        )),
        (false, true) => Err(GanetiError::wrong_input(
            "You must specify spindles in instance disks when exclusive storage is active",
        )),
        _ => Ok(()),
    }
}

fn environment(error: &NodeError) -> GanetiError {
    GanetiError::prereq(error.to_string(), ErrorCode::EnvironmentError)
}

/// Where an export lies, relative to the directory of exports unless it is absolute.
pub(crate) fn is_absolute(path: &str) -> bool {
    Path::new(path).is_absolute()
}

#[cfg(test)]
mod tests {
    use crate::lu::testing::Bench;
    use model::error::GanetiError;
    use model::param::AdminState;
    use serde_json::{Value, json};

    fn create(name: &str, more: &Value) -> Value {
        let mut op = json!({
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": name, "mode": "create", "disks": [], "nics": [],
            "disk_template": "diskless", "os_type": "noop", "no_install": true, "name_check": false,
        });
        let members = op.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        op
    }

    #[tokio::test]
    async fn an_instance_is_created_where_it_is_wanted() {
        let bench = Bench::new(3);
        let os_less = json!({"pnode": "node2", "no_install": null});
        let outcome = bench.run(create("Web1.example.com", &os_less)).await;
        assert_eq!(outcome.result, Ok(json!(["node2.example.com"])));
        let config = bench.config();
        let instance = config.instance_by_name("web1.example.com").unwrap();
        assert_eq!(instance.admin_state, AdminState::Up);
        let node = bench.shared.nodes.get(&instance.primary_node).unwrap();
        assert!(node.state().instances.contains_key("web1.example.com"));
        let texts: Vec<&str> = outcome.log.iter().map(String::as_str).collect();
        assert!(texts.ends_with(&["* starting instance..."]), "{texts:?}");
    }

    #[tokio::test]
    async fn mirrored_disks_get_two_nodes_ports_and_minors() {
        let bench = Bench::new(3);
        let more = json!({
            "disk_template": "drbd", "disks": [{"size": "1g"}, {"size": 512}], "no_install": true,
        });
        let outcome = bench.run(create("db1", &more)).await;
        assert_eq!(
            outcome.result.map(|nodes| nodes.as_array().unwrap().len()),
            Ok(2),
            "{:?}",
            outcome.log
        );
        let config = bench.config();
        let disks = config.instance_disks(config.instance_by_name("db1").unwrap());
        assert_eq!(disks.iter().map(|disk| disk.size_mib).collect::<Vec<_>>(), [1024, 512]);
        assert_ne!(disks[0].logical_id[2], disks[1].logical_id[2]);
        assert_ne!(disks[0].logical_id[3], disks[1].logical_id[3]);
    }

    #[tokio::test]
    async fn refusals_are_ganetis() {
        let bench = Bench::new(2);
        let check = async |more: Value, expected: Value| {
            let outcome = bench.run(create("inst1.example.com", &more)).await;
            assert_eq!(
                outcome.result.map_err(|error: GanetiError| error.to_value()),
                Err(expected)
            );
        };
        let prereq = |text: &str, code: &str| json!(["OpPrereqError", [text, code]]);
        check(
            json!({"pnode": "node1", "iallocator": "hail"}),
            prereq("Do not specify both, iallocator and node", "wrong_input"),
        )
        .await;
        check(json!({"pnode": "nosuch"}), prereq("Node 'nosuch' not known", "unknown_entity"))
            .await;
        check(
            json!({"pnode": "node1", "os_type": null, "no_install": true}),
            prereq("No guest OS or OS image specified", "wrong_input"),
        )
        .await;
        check(
            json!({"pnode": "node1", "disk_template": "rbd", "disks": [{"size": 4}]}),
            json!([
                "OpPrereqError",
                ["Disk template 'rbd' is not enabled in cluster. Enabled disk templates are: \
                drbd,plain,file,sharedfile,diskless,ext"]
            ]),
        )
        .await;
        check(
            json!({"pnode": "node1", "disk_template": "drbd", "disks": [{"size": 4}]}),
            prereq("The networked disk templates need a mirror node", "wrong_input"),
        )
        .await;
        check(
            json!({"pnode": "node1", "nics": [{"mac": "nonsense"}]}),
            prereq("Invalid MAC address 'nonsense'", "wrong_input"),
        )
        .await;
        check(
            json!({"pnode": "node1", "nics": [{"ip": "300.1.1.1"}]}),
            prereq("Invalid IP address '300.1.1.1'", "wrong_input"),
        )
        .await;
        check(
            json!({"pnode": "node1", "nics": [{"network": "nosuch"}]}),
            prereq("Network 'nosuch' not found", "unknown_entity"),
        )
        .await;
        check(
            json!({"pnode": "node1", "hypervisor": "xen-pvm"}),
            prereq(
                "Selected hypervisor (xen-pvm) not enabled in the cluster (fake,kvm)",
                "wrong_state",
            ),
        )
        .await;
    }
}
