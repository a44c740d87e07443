//! `OP_CLUSTER_SET_PARAMS`: everything about the cluster that can be changed. Checks come in Ganeti's order and leave the new
//! settings in the plan; the work writes them down.

use std::collections::BTreeMap;
use std::path::Path;

use model::config::{Cluster, Config};
use model::error::{ErrorClass, GanetiError, Result};
use model::opcode::{ClusterSetParams, NetworkAdd, Op};
use model::param::{Dict, DiskTemplate, Hypervisor, NonEmpty};
use model::{params, python};
use node::OsParams;
use serde_json::{Value, json};

use super::templates::Templates;
use crate::allocate;
use crate::lu::group::connect_communication_network;
use crate::lu::instance::checks;
use crate::lu::shared_checks::{
    self, disk_access, merge_disk_state, merge_hv_state, new_violations, osparams_on_node,
};
use crate::lu::{Cx, Hooks, Level, Locks, LogicalUnit, expand, plain_hooks};

/// The compression that must be among the tools, and the name that means none.
const GZIP: &str = "gzip";
const NO_COMPRESSION: &str = "none";

/// The settings that the checks worked out; `None` stays as it is.
#[derive(Default)]
pub(crate) struct Plan {
    beparams: Option<Dict>,
    ndparams: Option<Dict>,
    nicparams: Option<Dict>,
    hv_state: Option<Dict>,
    disk_state: Option<Dict>,
    ipolicy: Option<Dict>,
    hvparams: Option<Dict>,
    os_hvp: Option<Dict>,
    diskparams: Option<Dict>,
    osparams: Option<Dict>,
    osparams_private: Option<Dict>,
}

// Checks of the parameters by themselves

fn check_uids(ranges: Option<&Vec<model::param::UidRange>>) -> Result<()> {
    const HIGHEST: i64 = (1 << 32) - 1;
    for range in ranges.into_iter().flatten() {
        let (low, high) = range.0;
        if low > high {
            return Err(GanetiError::wrong_input(format!(
                "Lower user-id range boundary value ({low}) is larger than higher boundary value ({high})"
            )));
        }
        if low < 0 {
            return Err(GanetiError::wrong_input(format!(
                "Lower user-id range boundary value ({low}) is smaller than UIDPOOL_UID_MIN (0)."
            )));
        }
        if high > HIGHEST {
            return Err(GanetiError::wrong_input(format!(
                "Higher user-id boundary value ({high}) is larger than UIDPOOL_UID_MAX ({HIGHEST})."
            )));
        }
    }
    Ok(())
}

fn check_netmask(cluster: &Cluster, netmask: u64) -> Result<()> {
    let longest = if cluster.primary_ip_version == 6 { 128 } else { 32 };
    if (1..=longest).contains(&netmask) {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!("CIDR netmask ({netmask}) not valid")))
}

/// Refuses what is neither a URL nor an absolute path.
fn check_image(image: &str, text: &str) -> Result<()> {
    let url = ["http://", "https://", "ftp://"].iter().any(|scheme| image.starts_with(scheme));
    if url || image.starts_with('/') { Ok(()) } else { Err(GanetiError::prereq_plain(text)) }
}

fn check_compression_tools(tools: &[NonEmpty]) -> Result<()> {
    let is_plain =
        |tool: &NonEmpty| tool.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let illegal: Vec<&str> =
        tools.iter().filter(|tool| !is_plain(tool)).map(NonEmpty::as_str).collect();
    if !illegal.is_empty() {
        return Err(GanetiError::wrong_input(format!(
            "The tools '{}' contain illegal characters: only alphanumeric values, dashes, and underscores are allowed",
            illegal.join(", ")
        )));
    }
    let has = |name: &str| tools.iter().any(|tool| tool.as_str() == name);
    if !has(GZIP) {
        return Err(GanetiError::wrong_input(format!(
            "For compatibility reasons, the {GZIP} utility must be present among the compression tools"
        )));
    }
    if has(NO_COMPRESSION) {
        return Err(GanetiError::wrong_input(format!(
            "{NO_COMPRESSION} is a reserved value used for no compression, and cannot be used as the name of a tool"
        )));
    }
    Ok(())
}

fn as_dict(map: &BTreeMap<String, Dict>) -> Dict {
    map.iter().map(|(name, dict)| (name.clone(), Value::Object(dict.clone()))).collect()
}

// Checks against the configuration

/// Lays changes of inner dictionaries over a dictionary of dictionaries.
fn merged(old: &Dict, changes: &Dict) -> Dict {
    let mut new = old.clone();
    for (name, change) in changes {
        match (new.get_mut(name).and_then(Value::as_object_mut), change.as_object()) {
            (Some(below), Some(change)) => {
                below.extend(change.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            _ => {
                new.insert(name.clone(), change.clone());
            }
        }
    }
    new
}

fn new_ipolicy(
    op: &ClusterSetParams,
    cx: &Cx,
    config: &Config,
    enabled: &[DiskTemplate],
) -> Result<Option<Dict>> {
    let cluster = &config.cluster;
    let Some(changes) = op.ipolicy.as_ref().filter(|policy| !policy.is_empty()) else {
        params::ipolicy::check_templates_enabled(&cluster.ipolicy, enabled)?;
        return Ok(None);
    };
    let new = params::ipolicy::updated(&params::ipolicy::fill_cluster(cluster), changes, false)?;
    params::ipolicy::check_templates_enabled(&new, enabled)?;
    let mut broken = std::collections::BTreeSet::new();
    for group in config.groups.values() {
        let filled = params::ipolicy::fill_over(&new, &group.ipolicy);
        let old = params::ipolicy::fill(cluster, group);
        let instances = shared_checks::instances_of_group(config, &group.meta.uuid);
        broken.extend(new_violations(config, &old, &filled, instances));
    }
    if !broken.is_empty() {
        let mut names: Vec<&str> = broken.iter().map(String::as_str).collect();
        names.sort_by(|a, b| model::units::natural_cmp(a, b));
        cx.warn(&format!(
            "After the ipolicy change the following instances violate them: {}",
            names.join(", ")
        ));
    }
    Ok(Some(new))
}

fn new_nicparams(op: &ClusterSetParams, config: &Config) -> Result<Option<Dict>> {
    let Some(given) = op.nicparams.as_ref().filter(|given| !given.is_empty()) else {
        return Ok(None);
    };
    let mut changes = given.0.clone();
    params::nic::force(&mut changes, false)?;
    let new = params::nic::fill(&config.cluster, &changes);
    params::nic::check_syntax(&new)?;
    let mut errors = Vec::new();
    for instance in config.instances.values() {
        for (at, nic) in instance.nics.iter().enumerate() {
            let filled = params::fill(&new, &nic.nicparams);
            let name = &instance.name;
            if let Err(error) = params::nic::check_syntax(&filled) {
                errors.push(format!("Instance {name}, nic/{at}: {error}"));
            }
            if filled.get("mode").is_some_and(|mode| mode == "routed") && nic.ip.is_none() {
                errors.push(format!("Instance {name}, nic/{at}: routed NIC with no ip address"));
            }
        }
    }
    if errors.is_empty() {
        return Ok(Some(new));
    }
    let text = format!("Cannot apply the change, errors:\n{}", errors.join("\n"));
    Err(GanetiError::wrong_input(text))
}

fn known_hypervisor(name: &str) -> Result<Hypervisor> {
    Hypervisor::parse(name).ok_or_else(|| {
        GanetiError::new(ErrorClass::HypervisorError, format!("Unknown hypervisor type '{name}'"))
    })
}

/// The hypervisor parameters after the change, checked on the nodes where they concern hypervisors that were named.
async fn new_hvparams(op: &ClusterSetParams, cx: &Cx, config: &Config) -> Result<Dict> {
    let changes = op.hvparams.as_ref().map(as_dict).unwrap_or_default();
    let mut new = merged(&config.cluster.hvparams, &changes);
    let enabled = op.enabled_hypervisors.clone().unwrap_or_default();
    let nodes: Vec<_> = config.nodes.keys().cloned().collect();
    let mut named: Vec<String> = enabled.iter().map(|hv| hv.as_str().to_owned()).collect();
    named.extend(changes.keys().filter(|name| !named.contains(name)).cloned().collect::<Vec<_>>());
    for name in named {
        let hypervisor = known_hypervisor(&name)?;
        let own = new.entry(name).or_insert_with(|| json!({}));
        let Value::Object(own) = own else { continue };
        params::hv::force(own, cx.compat(), false)?;
        let filled = params::fill(&params::hv::defaults(hypervisor, cx.compat()), own);
        params::hv::check_syntax(hypervisor, &filled, cx.compat())?;
        checks::hvparams(cx, &nodes, hypervisor, &filled).await?;
    }
    Ok(new)
}

/// The parameters by operating system and hypervisor after the change.
async fn new_os_hvp(
    op: &ClusterSetParams,
    cx: &Cx,
    config: &Config,
    hvparams: &Dict,
) -> Result<Option<Dict>> {
    let Some(changes) = op.os_hvp.as_ref().filter(|changes| !changes.is_empty()) else {
        return Ok(None);
    };
    let mut new = config.cluster.os_hvp.clone();
    for (os, hypervisors) in changes {
        let mut own = params::inner(&new, os).cloned().unwrap_or_default();
        for (hypervisor, change) in hypervisors {
            if change.is_null() {
                own.shift_remove(hypervisor);
            } else {
                let change = Dict::from_iter([(hypervisor.clone(), change.clone())]);
                own = merged(&own, &change);
            }
        }
        new.insert(os.clone(), Value::Object(own));
    }
    new.retain(|_, own| own.as_object().is_some_and(|own| !own.is_empty()));
    let nodes: Vec<_> = config.nodes.keys().cloned().collect();
    for own in new.values_mut().filter_map(Value::as_object_mut) {
        for (name, own) in own.iter_mut() {
            let hypervisor = known_hypervisor(name)?;
            let Value::Object(own) = own else { continue };
            params::hv::force(own, cx.compat(), false)?;
            let below = params::hv::defaults(hypervisor, cx.compat());
            let below = match params::inner(hvparams, name) {
                Some(cluster) => params::fill(&below, cluster),
                None => below,
            };
            let filled = params::fill(&below, own);
            params::hv::check_syntax(hypervisor, &filled, cx.compat())?;
            checks::hvparams(cx, &nodes, hypervisor, &filled).await?;
        }
    }
    Ok(Some(new))
}

/// Changes parameters by operating system; one without any left goes.
fn new_os_values(old: &Dict, changes: impl Iterator<Item = (String, Dict)>) -> Dict {
    let none = Dict::new();
    let mut new = old.clone();
    for (os, change) in changes {
        let below = params::inner(&new, &os).unwrap_or(&none);
        let updated = params::updated(below, &change, true, true);
        if updated.is_empty() {
            new.shift_remove(&os);
        } else {
            new.insert(os, Value::Object(updated));
        }
    }
    new
}

async fn new_osparams(
    op: &ClusterSetParams,
    cx: &Cx,
    config: &Config,
) -> Result<(Option<Dict>, Option<Dict>)> {
    let cluster = &config.cluster;
    let public =
        op.osparams.clone().map(|changes| new_os_values(&cluster.osparams, changes.into_iter()));
    let private = op.osparams_private_cluster.clone().map(|changes| {
        let each = changes.0.into_iter();
        let each = each.filter_map(|(os, change)| Some((os, change.as_object()?.clone())));
        new_os_values(&cluster.osparams_private_cluster, each)
    });
    let shown_public = public.as_ref().unwrap_or(&cluster.osparams);
    let shown_private = private.as_ref().unwrap_or(&cluster.osparams_private_cluster);
    let mut names: Vec<&String> = shown_public.keys().chain(shown_private.keys()).collect();
    names.sort();
    names.dedup();
    for os in names {
        let none = Dict::new();
        let own = |dict: &Dict| params::inner(dict, os).cloned().unwrap_or_default();
        let (public, private) = (own(shown_public), own(shown_private));
        let values = params::os::fill_all(cluster, os, &public, &private, &none)?;
        let hidden = private.values().map(python::str).collect();
        let filled = OsParams { values, hidden, ..OsParams::default() };
        osparams_on_node(cx, &cluster.master_node, os, &filled).await?;
    }
    Ok((public, private))
}

/// Refuses a default allocator that is not there.
fn check_iallocator(op: &ClusterSetParams, cluster: &Cluster) -> Result<()> {
    let Some(name) = op.default_iallocator.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let plain = !name.contains('/');
    let found = |dir: &String| Path::new(dir).join(name).is_file();
    if name == allocate::BUILT_IN || (plain && cluster.iallocator_search_path.iter().any(found)) {
        return Ok(());
    }
    let text = format!("Invalid default iallocator script '{name}' specified");
    Err(GanetiError::wrong_input(text))
}

/// Warns of a network for instance communication that is not as Ganeti would make it.
fn check_communication_network(op: &ClusterSetParams, cx: &Cx, config: &Config) {
    let Some(name) = op.instance_communication_network.as_deref().filter(|n| !n.is_empty()) else {
        return;
    };
    let Ok(network) = expand::network(config, name) else { return };
    let warn = |what: &str, value: Option<&str>, expected: Option<&str>| {
        if value != expected {
            cx.warn(&format!(
                "Supplied instance communication network '{}' {what} '{}', this might pose a security risk (default is \
                 '{}').",
                network.name,
                value.unwrap_or("None"),
                expected.unwrap_or("None")
            ));
        }
    };
    warn("has an IPv4 gateway", network.gateway.as_deref(), None);
    warn("has a non-standard IPv4 network address", Some(&network.network), Some(COMMUNICATION_4));
    warn("has an IPv6 gateway", network.gateway6.as_deref(), None);
    let (net6, prefix) = (network.network6.as_deref(), network.mac_prefix.as_deref());
    warn("has a non-standard IPv6 network address", net6, Some(COMMUNICATION_6));
    warn("has a non-standard MAC prefix", prefix, Some(COMMUNICATION_MAC));
}

/// The network by which instances reach the metadata daemon, as Ganeti makes it.
const COMMUNICATION_4: &str = "169.254.0.0/16";
const COMMUNICATION_6: &str = "fe80::/10";
const COMMUNICATION_MAC: &str = "52:54:00";

impl LogicalUnit for ClusterSetParams {
    type Plan = Plan;

    async fn prepare(&mut self, cx: &Cx) -> Result<()> {
        check_uids(self.uid_pool.as_ref())?;
        check_uids(self.add_uids.as_ref())?;
        check_uids(self.remove_uids.as_ref())?;
        if let Some(prefix) = &self.mac_prefix {
            self.mac_prefix = NonEmpty::new(shared_checks::mac_prefix(prefix)?);
        }
        if let Some(netmask) = self.master_netmask {
            check_netmask(&cx.config().cluster, netmask)?;
        }
        if let Some(diskparams) = &mut self.diskparams {
            let mut given = as_dict(diskparams);
            params::disk::force(&mut given, false)?;
            params::disk::check(&given, true)?;
            for (name, forced) in given {
                let forced = forced.as_object().cloned().unwrap_or_default();
                diskparams.0.insert(name, forced);
            }
        }
        match &self.install_image {
            Some(image) => check_image(image, "Install image must be an absolute path or a URL"),
            None => Ok(()),
        }
    }

    fn locks(&self, config: &Config) -> Result<Locks> {
        let mut locks = Locks::new();
        for instance in config.instances.values() {
            locks = locks.shared(Level::Instance, &instance.name);
        }
        for group in config.groups.keys() {
            locks = locks.shared(Level::NodeGroup, group);
        }
        for node in config.nodes.keys() {
            locks = locks.shared(Level::Node, node);
        }
        Ok(locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Plan> {
        let config = cx.config();
        let cluster = &config.cluster;
        let templates = Templates::new(self, &config);
        templates.check_dropped(&config)?;
        templates.check_volume_group(self, cx)?;
        templates.check_directory(cx, self.file_storage_dir.as_deref(), DiskTemplate::File)?;
        let shared = self.shared_file_storage_dir.as_deref();
        templates.check_directory(cx, shared, DiskTemplate::Sharedfile)?;
        templates.check_drbd_helper(self, &config)?;
        if self.diskparams.as_ref().is_some_and(|given| given.contains_key("drbd")) {
            cx.warn(
                "Changing DRBD parameters only affects devices created in the future, not existing ones",
            );
            cx.warn(
                "You need to shutdown and start (not reboot!) existing instances to adopt the changes",
            );
            cx.warn(
                "Alternatively you can swap the secondary node by running `gnt-instance replace-disks \
                 --new-secondary $instance`",
            );
        }
        let given = |dict: &Option<Dict>| dict.clone().filter(|dict| !dict.is_empty());
        let mut plan = Plan::default();
        if let Some(mut changes) = given(&self.beparams) {
            params::be::upgrade(&mut changes);
            cx.show(Self { beparams: Some(changes.clone()), ..self.clone() });
            params::be::force(&mut changes, false)?;
            plan.beparams = Some(params::be::fill(cluster, &changes));
        }
        if let Some(mut changes) = given(&self.ndparams) {
            params::nd::force(&mut changes, false)?;
            plan.ndparams = Some(params::fill(&params::nd::fill_cluster(cluster), &changes));
        }
        plan.hv_state = given(&self.hv_state)
            .map(|changes| merge_hv_state(&cluster.hv_state_static, &changes))
            .transpose()?;
        plan.disk_state = given(&self.disk_state)
            .map(|changes| merge_disk_state(&cluster.disk_state_static, &changes))
            .transpose()?;
        plan.ipolicy = new_ipolicy(self, cx, &config, &templates.enabled)?;
        plan.nicparams = new_nicparams(self, &config)?;
        if let Some(diskparams) = self.diskparams.as_ref().filter(|given| !given.is_empty()) {
            let changes = as_dict(diskparams);
            disk_access(&config, &changes, None)?;
            plan.diskparams = Some(merged(&cluster.diskparams, &changes));
        }
        (plan.osparams, plan.osparams_private) = new_osparams(self, cx, &config).await?;
        let hvparams = new_hvparams(self, cx, &config).await?;
        plan.os_hvp = new_os_hvp(self, cx, &config, &hvparams).await?;
        let changes_hv = self.hvparams.as_ref().is_some_and(|given| !given.is_empty());
        if changes_hv || self.enabled_hypervisors.is_some() {
            plan.hvparams = Some(hvparams);
        }
        check_iallocator(self, cluster)?;
        check_communication_network(self, cx, &config);
        if let Some(tools) = self.compression_tools.as_ref().filter(|tools| !tools.is_empty()) {
            check_compression_tools(tools)?;
        }
        Ok(plan)
    }

    fn hooks(&self, cx: &Cx, _plan: &Plan) -> Option<Hooks> {
        let config = cx.config();
        let env = [("NEW_VG_NAME", self.vg_name.clone().unwrap_or_else(|| "None".to_owned()))];
        let nodes = plain_hooks::on_master(&config);
        Some(plain_hooks::hooks("CLUSTER", &config.cluster.cluster_name, env, nodes))
    }

    async fn exec(&self, cx: &Cx, plan: Plan) -> Result<Value> {
        let said = cx
            .commit(|draft| {
                let mut cluster = Cluster::clone(&draft.cluster);
                let said = apply(self, plan, &mut cluster)?;
                draft.edit_cluster(|stored| *stored = cluster);
                Ok(said)
            })
            .await?;
        cx.nodes().follow(&cx.config());
        for text in said {
            cx.log(&text);
        }
        if self.candidate_pool_size.is_some() {
            shared_checks::fill_candidate_pool(cx, &[]).await?;
        }
        shared_checks::tell_shortage(cx);
        match &self.instance_communication_network {
            Some(name) => change_communication_network(cx, name).await,
            None => Ok(Value::Null),
        }
    }
}

// The work

/// Writes the change into the cluster's settings; answers what is said about it.
fn apply(op: &ClusterSetParams, plan: Plan, cluster: &mut Cluster) -> Result<Vec<String>> {
    let mut said = Vec::new();
    if let Some(templates) = op.enabled_disk_templates.as_ref().filter(|list| !list.is_empty()) {
        cluster.enabled_disk_templates.clone_from(templates);
    }
    apply_storage(op, cluster, &mut said);
    for (name, active) in op.enabled_data_collectors.iter().flatten() {
        collector(cluster, name)?.insert("active".to_owned(), json!(active));
    }
    for (name, interval) in op.data_collector_interval.iter().flatten() {
        collector(cluster, name)?.insert("interval".to_owned(), json!(interval));
    }
    let set = |stored: &mut Dict, new: Option<Dict>| {
        if let Some(new) = new {
            *stored = new;
        }
    };
    set(&mut cluster.hvparams, plan.hvparams);
    set(&mut cluster.os_hvp, plan.os_hvp);
    set(&mut cluster.beparams, plan.beparams.map(params::cluster::grouped));
    set(&mut cluster.nicparams, plan.nicparams.map(params::cluster::grouped));
    set(&mut cluster.ipolicy, plan.ipolicy);
    set(&mut cluster.osparams, plan.osparams);
    set(&mut cluster.osparams_private_cluster, plan.osparams_private);
    set(&mut cluster.ndparams, plan.ndparams);
    set(&mut cluster.diskparams, plan.diskparams);
    set(&mut cluster.hv_state_static, plan.hv_state);
    set(&mut cluster.disk_state_static, plan.disk_state);
    set(&mut cluster.default_iallocator_params, op.default_iallocator_params.clone());
    if let Some(hypervisors) = &op.enabled_hypervisors {
        cluster.enabled_hypervisors.clone_from(hypervisors);
    }
    apply_plain(op, cluster);
    apply_uids(op, cluster)?;
    os_list(&mut cluster.hidden_os, op.hidden_os.as_ref(), "hidden", &mut said)?;
    os_list(&mut cluster.blacklisted_os, op.blacklisted_os.as_ref(), "blacklisted", &mut said)?;
    apply_master(op, cluster, &mut said);
    if let Some(image) = op.install_image.as_ref().filter(|image| !image.is_empty()) {
        cluster.install_image.clone_from(image);
    }
    if let Some(image) = &op.zeroing_image {
        check_image(image, "Zeroing image must be an absolute path or a URL")?;
        cluster.zeroing_image.clone_from(image);
    }
    Ok(said)
}

fn apply_storage(op: &ClusterSetParams, cluster: &mut Cluster, said: &mut Vec<String>) {
    let text = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
    if let Some(name) = &op.vg_name {
        if cluster.volume_group_name == text(name) {
            let same = "Cluster LVM configuration already in desired state, not changing";
            said.push(same.to_owned());
        }
        cluster.volume_group_name = text(name);
    }
    let mut directory = |given: &Option<String>, stored: &mut String, what: &str| {
        let Some(given) = given else { return };
        if stored == given {
            said.push(format!("Global {what} storage dir already set to value '{stored}'"));
        }
        stored.clone_from(given);
    };
    directory(&op.file_storage_dir, &mut cluster.file_storage_dir, "file");
    directory(&op.shared_file_storage_dir, &mut cluster.shared_file_storage_dir, "shared file");
    // Ganeti: `gluster_storage_dir` is taken and not looked at (3.0, cmdlib/cluster/__init__.py).
    if let Some(helper) = &op.drbd_helper {
        if !cluster.enabled_disk_templates.contains(&DiskTemplate::Drbd) {
            said.push(
                "Note that you specified a drbd user helper, but did not enable the drbd disk template."
                    .to_owned(),
            );
        }
        if cluster.drbd_usermode_helper == text(helper) {
            said.push("Cluster DRBD helper already in desired state, not changing".to_owned());
        }
        cluster.drbd_usermode_helper = text(helper);
    }
}

fn collector<'a>(cluster: &'a mut Cluster, name: &str) -> Result<&'a mut Dict> {
    let found = cluster.data_collectors.get_mut(name).and_then(Value::as_object_mut);
    // Ganeti: the text of Python's `KeyError` (3.0, cmdlib/cluster/__init__.py).
    found.ok_or_else(|| GanetiError::exec(model::python::repr_str(name)))
}

/// Settings that are simply replaced.
fn apply_plain(op: &ClusterSetParams, cluster: &mut Cluster) {
    macro_rules! replace {
        ($($name:ident),* $(,)?) => {$(
            if let Some(value) = &op.$name {
                cluster.$name.clone_from(value);
            }
        )*};
    }
    replace!(
        maintain_node_health,
        modify_etc_hosts,
        prealloc_wipe_disks,
        default_iallocator,
        use_external_mip_script,
        enabled_user_shutdown,
    );
    if let Some(size) = op.candidate_pool_size {
        cluster.candidate_pool_size = size.get();
    }
    if let Some(jobs) = op.max_running_jobs {
        cluster.max_running_jobs = jobs.get();
    }
    if let Some(jobs) = op.max_tracked_jobs {
        cluster.max_tracked_jobs = jobs.get();
    }
    if let Some(prefix) = &op.mac_prefix {
        cluster.mac_prefix = prefix.to_string();
    }
    let texts = |list: &Vec<NonEmpty>| list.iter().map(ToString::to_string).collect();
    if let Some(patterns) = &op.reserved_lvs {
        cluster.reserved_lvs = texts(patterns);
    }
    if let Some(tools) = &op.compression_tools {
        cluster.compression_tools = texts(tools);
    }
}

fn apply_uids(op: &ClusterSetParams, cluster: &mut Cluster) -> Result<()> {
    let pool = &mut cluster.uid_pool;
    for range in op.add_uids.iter().flatten() {
        if !pool.contains(&range.0) {
            pool.push(range.0);
        }
    }
    if op.add_uids.is_some() {
        pool.sort_unstable();
    }
    for range in op.remove_uids.iter().flatten() {
        let at = pool.iter().position(|known| *known == range.0).ok_or_else(|| {
            GanetiError::wrong_input(format!(
                "User-id range to be removed is not found in the current user-id pool: {:?}",
                range.0
            ))
        })?;
        pool.remove(at);
    }
    if let Some(ranges) = &op.uid_pool {
        *pool = ranges.iter().map(|range| range.0).collect();
    }
    Ok(())
}

/// Adds to and takes from a list of operating systems.
fn os_list(
    list: &mut Vec<String>,
    changes: Option<&Vec<model::param::OsListChange>>,
    what: &str,
    said: &mut Vec<String>,
) -> Result<()> {
    for change in changes.into_iter().flatten() {
        let (action, os) = &change.0;
        let at = list.iter().position(|known| known == os);
        match (action.as_str(), at) {
            ("add", None) => list.push(os.clone()),
            ("add", Some(_)) => said.push(format!("OS {os} already in {what} OS list, ignoring")),
            ("remove", Some(at)) => {
                list.remove(at);
            }
            ("remove", None) => said.push(format!("OS {os} not found in {what} OS list, ignoring")),
            _ => {
                let text = format!("Invalid modification '{action}'");
                return Err(GanetiError::new(ErrorClass::ProgrammerError, text));
            }
        }
    }
    Ok(())
}

/// The cluster's own address: there is nothing to set up, for no node answers at it.
fn apply_master(op: &ClusterSetParams, cluster: &mut Cluster, said: &mut Vec<String>) {
    if let Some(device) = op.master_netdev.as_ref().filter(|device| !device.is_empty()) {
        let old = &cluster.master_netdev;
        said.push(format!("Shutting down master ip on the current netdev ({old})"));
        said.push(format!("Changing master_netdev from {old} to {device}"));
        said.push(format!("Starting the master ip on the new master netdev ({device})"));
        cluster.master_netdev.clone_from(device);
    }
    if let Some(netmask) = op.master_netmask {
        said.push(format!("Changing master IP netmask to {netmask}"));
        cluster.master_netmask = netmask;
    }
}

/// Changes the network by which instances reach the metadata daemon; answers the jobs that make and connect it.
async fn change_communication_network(cx: &Cx, name: &str) -> Result<Value> {
    let config = cx.config();
    let old = &config.cluster.instance_communication_network;
    if old == name {
        cx.log(&format!("Instance communication network already is '{name}', nothing to do."));
        return Ok(Value::Null);
    }
    if expand::network(&config, old).is_ok() {
        cx.log(&format!(
            "Previous instance communication network '{old}' should be removed manually."
        ));
    }
    if name.is_empty() {
        cx.log("Disabling instance communication network, only new instances will be affected.");
    } else {
        cx.log(&format!(
            "Changing instance communication network to '{name}', only new instances will be affected."
        ));
    }
    cx.commit(|draft| {
        draft.edit_cluster(|cluster| cluster.instance_communication_network = name.to_owned());
        Ok(())
    })
    .await?;
    let mut job: Vec<Op> = Vec::new();
    let network = expand::network(&config, name).ok().map(|network| network.meta.uuid.clone());
    if name.is_empty() {
        return Ok(Value::Null);
    }
    if network.is_none() {
        job.extend(add_communication_network(name).map(Op::from));
    }
    for group in config.groups.values() {
        let connected = network.as_ref().is_some_and(|uuid| group.networks.contains_key(uuid));
        if !connected {
            job.extend(connect_communication_network(&group.meta.uuid, name).map(Op::from));
        }
    }
    if job.is_empty() { Ok(Value::Null) } else { Ok(json!({"jobs": cx.submit(vec![job]).await?})) }
}

fn add_communication_network(name: &str) -> Option<NetworkAdd> {
    Some(NetworkAdd {
        network_name: NonEmpty::new(name)?,
        network: model::param::Net4::new(COMMUNICATION_4)?,
        gateway: None,
        network6: model::param::Net6::new(COMMUNICATION_6),
        gateway6: None,
        mac_prefix: NonEmpty::new(COMMUNICATION_MAC),
        add_reserved_ips: None,
        conflicts_check: true,
        tags: Vec::new(),
    })
}
