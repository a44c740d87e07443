//! `rapid cluster init`, and the cluster that a first start makes by itself.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use embedded::engine::EmbeddedEngine;
use embedded::env::Env;
use embedded::init::{InitOptions, NodeKind, new_cluster};
use model::param::{DiskTemplate, Hypervisor};

use crate::args::ClusterInit;

/// The disk templates that a real node of this release can hold.
const LOCAL_TEMPLATES: &[DiskTemplate] =
    &[DiskTemplate::File, DiskTemplate::Sharedfile, DiskTemplate::Diskless];

/// What instances of this machine's cluster may be: as small as one likes, and otherwise as Ganeti's default has it.
const LOCAL_BOUNDS: &str = "min:disk-size=0,cpu-count=1,disk-count=0,memory-size=1,nic-count=0,spindle-use=0\
    /max:disk-size=1048576,cpu-count=8,disk-count=16,memory-size=32768,nic-count=8,spindle-use=12";
/// A bundled operating system; the kernels and initrds of these are known to the cluster before they are installed.
const TINY: &str = "tiny";

/// Makes a cluster with chosen names.
#[expect(clippy::print_stdout, reason = "a command's answer")]
pub(crate) fn run(args: &ClusterInit) -> Result<()> {
    let nodes = if args.simulate_nodes.is_empty() {
        local_node()
    } else {
        NodeKind::Simulated(args.simulate_nodes.clone())
    };
    let local = matches!(nodes, NodeKind::Local { .. });
    let mut options = InitOptions::new(&args.name, nodes);
    // The file is there only where somebody wants it.
    options.hosts = std::fs::read_to_string(args.data.data_dir.join("hosts")).unwrap_or_default();
    if local {
        settle_local(&mut options, &args.data.data_dir)?;
    }
    fill(&mut options, args)?;
    make(&args.data.data_dir, &options)?;
    println!("made cluster {} in {}", args.name, args.data.data_dir.display());
    Ok(())
}

fn fill(options: &mut InitOptions, args: &ClusterInit) -> Result<()> {
    if !args.enabled_hypervisors.is_empty() {
        options.enabled_hypervisors =
            Some(parse_all(&args.enabled_hypervisors, Hypervisor::parse)?);
    }
    if !args.enabled_disk_templates.is_empty() {
        options.enabled_disk_templates =
            Some(parse_all(&args.enabled_disk_templates, DiskTemplate::parse)?);
    }
    if !args.ipolicy_disk_templates.is_empty() {
        options.ipolicy_disk_templates =
            Some(parse_all(&args.ipolicy_disk_templates, DiskTemplate::parse)?);
    }
    if args.nic_parameters.is_some() {
        options.nic_parameters.clone_from(&args.nic_parameters);
    }
    options.backend_parameters.clone_from(&args.backend_parameters);
    options.hypervisor_parameters.clone_from(&args.hypervisor_parameters);
    options.disk_parameters.clone_from(&args.disk_parameters);
    options.node_parameters.clone_from(&args.node_parameters);
    if args.ipolicy_bounds_specs.is_some() {
        options.ipolicy_bounds_specs.clone_from(&args.ipolicy_bounds_specs);
    }
    options.ipolicy_std_specs.clone_from(&args.ipolicy_std_specs);
    options.ipolicy_vcpu_ratio = args.ipolicy_vcpu_ratio;
    options.ipolicy_spindle_ratio = args.ipolicy_spindle_ratio;
    if args.file_storage_dir.is_some() {
        options.file_storage_dir.clone_from(&args.file_storage_dir);
    }
    if args.shared_file_storage_dir.is_some() {
        options.shared_file_storage_dir.clone_from(&args.shared_file_storage_dir);
    }
    options.gluster_storage_dir.clone_from(&args.gluster_storage_dir);
    options.vg_name.clone_from(&args.vg_name);
    options.drbd_usermode_helper.clone_from(&args.drbd_usermode_helper);
    options.mac_prefix.clone_from(&args.mac_prefix);
    if args.master_netdev.is_some() {
        options.master_netdev.clone_from(&args.master_netdev);
    }
    options.no_etc_hosts = args.no_etc_hosts;
    options.no_ssh_init = args.no_ssh_init;
    options.master_netmask = args.master_netmask;
    options.primary_ip_version = args.primary_ip_version;
    options.candidate_pool_size = args.candidate_pool_size;
    options.default_iallocator.clone_from(&args.default_iallocator);
    options.default_iallocator_params.clone_from(&args.default_iallocator_params);
    options.prealloc_wipe_disks = args.prealloc_wipe_disks.then_some(true);
    options.user_shutdown = args.enabled_user_shutdown.then_some(true);
    options.os_search_path.extend(paths(&args.os_search_path)?);
    options.iallocator_search_path.extend(paths(&args.iallocator_search_path)?);
    Ok(())
}

fn paths(paths: &[std::path::PathBuf]) -> Result<Vec<String>> {
    let text = |path: &std::path::PathBuf| {
        let path = std::path::absolute(path)?;
        path.to_str().map(str::to_owned).with_context(|| format!("{} is no UTF-8", path.display()))
    };
    paths.iter().map(text).collect()
}

fn parse_all<T>(names: &[String], parse: fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let one = |name: &String| parse(name).with_context(|| format!("there is no '{name}'"));
    names.iter().map(one).collect()
}

/// Puts a new cluster into a data directory.
pub(crate) fn make(data_dir: &Path, options: &InitOptions) -> Result<()> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make {}", data_dir.display()))?;
    let mut config = new_cluster(options, &Env::system())?;
    if matches!(options.nodes, NodeKind::Local { .. }) {
        let dir = std::path::absolute(data_dir.join("os"))?;
        let bundled = [
            (TINY, node::tiny::hvparams(&dir)),
            (node::debian::NAME, node::debian::hvparams(&dir)),
        ];
        let os_hvp = &mut Arc::make_mut(&mut config.cluster).os_hvp;
        for (os, hvparams) in bundled {
            let params = model::param::Dict::from_iter([("kvm".to_owned(), hvparams.into())]);
            os_hvp.insert(os.to_owned(), params.into());
        }
    }
    EmbeddedEngine::create(data_dir, &config).with_context(|| format!("in {}", data_dir.display()))
}

/// This machine as a node.
pub(crate) fn local_node() -> NodeKind {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = if model::name::is_name(&name) { name } else { "localhost".to_owned() };
    NodeKind::Local { name, address: IpAddr::from([127, 0, 0, 1]).to_string() }
}

/// What holds for a cluster of this machine unless something else is said: the hypervisors that are here, disks in files
/// below the data directory, NICs without a bridge.
pub(crate) fn settle_local(options: &mut InitOptions, data_dir: &Path) -> Result<()> {
    let hypervisors = node::detect();
    if !hypervisors.contains(&Hypervisor::Kvm) {
        tracing::warn!(
            "there is no QEMU here: instances are only played; install the package qemu-system-x86 for real ones"
        );
    }
    options.enabled_hypervisors = Some(hypervisors);
    options.enabled_disk_templates = Some(LOCAL_TEMPLATES.to_vec());
    options.nic_parameters = Some("mode=user,link=".to_owned());
    let below = |name: &str| -> Result<String> {
        let path = std::path::absolute(data_dir.join(name))?;
        match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => bail!("{} is no UTF-8", path.display()),
        }
    };
    options.file_storage_dir = Some(below("file-storage")?);
    options.shared_file_storage_dir = Some(below("shared-file-storage")?);
    options.os_search_path.push(below("os")?);
    options.ipolicy_bounds_specs = Some(LOCAL_BOUNDS.to_owned());
    options.master_netdev = Some("lo".to_owned());
    Ok(())
}
