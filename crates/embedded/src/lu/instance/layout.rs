//! Disks of new instances: what their descriptions are refused for, and the configuration objects they become (Ganeti 3.0,
//! `ComputeDisks` and `GenerateDiskTemplate`).

use model::config::{Config, Disk, Meta, NodeGroup};
use model::error::{ErrorClass, ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::param::{Dict, DiskTemplate};
use model::params;
use model::python;
use serde_json::{Value, json};

use super::nics::text;
use crate::lu::Cx;

/// What drbd keeps beside each disk, in MiB.
pub(crate) const DRBD_META_MIB: u64 = 128;
/// The last port that is handed out (Ganeti 3.0, `LAST_DRBD_PORT`).
const LAST_PORT: u16 = 14999;
/// Names of a disk's description that are not parameters of external storage.
const KNOWN: &[&str] = &[
    "access", "adopt", "dev_type", "metavg", "mode", "name", "provider", "size", "spindles", "vg",
];

/// Templates whose disks are files below a directory of the cluster.
pub(crate) const FILE_BASED: &[DiskTemplate] =
    &[DiskTemplate::File, DiskTemplate::Sharedfile, DiskTemplate::Gluster];
/// Templates that need a volume group.
pub(crate) const LVM: &[DiskTemplate] = &[DiskTemplate::Plain, DiskTemplate::Drbd];
/// Templates whose disks any node can reach; diskless is taken for one.
pub(crate) const EXTERNALLY_MIRRORED: &[DiskTemplate] = &[
    DiskTemplate::Diskless,
    DiskTemplate::Sharedfile,
    DiskTemplate::Blockdev,
    DiskTemplate::Rbd,
    DiskTemplate::Ext,
    DiskTemplate::Gluster,
];
/// Templates with the parameter `access`.
const HAVE_ACCESS: &[DiskTemplate] = &[DiskTemplate::Rbd, DiskTemplate::Gluster, DiskTemplate::Ext];

/// A disk that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewDisk {
    pub(crate) size_mib: u64,
    pub(crate) mode: String,
    pub(crate) name: Option<String>,
    pub(crate) vg: Option<String>,
    pub(crate) metavg: Option<String>,
    pub(crate) adopt: Option<String>,
    pub(crate) spindles: Option<u64>,
    pub(crate) provider: Option<String>,
    /// `access`, and what external storage is told.
    pub(crate) params: Dict,
}

/// Forces the types of a disk's description, as Ganeti does before anything else: sizes become MiB.
pub(crate) fn force(spec: &mut Dict) -> Result<()> {
    let kind = |name: &str| match name {
        "size" => Some(params::Kind::Size),
        "spindles" => Some(params::Kind::Int),
        "name" => Some(params::Kind::MaybeText),
        other if KNOWN.contains(&other) => Some(params::Kind::Text),
        _ => None,
    };
    params::force_types(spec, kind, &[])
}

/// Refuses templates that the cluster has not enabled.
pub(crate) fn check_enabled(config: &Config, template: DiskTemplate) -> Result<()> {
    let enabled = &config.cluster.enabled_disk_templates;
    if enabled.contains(&template) {
        return Ok(());
    }
    let names: Vec<&str> = enabled.iter().map(|template| template.as_str()).collect();
    Err(GanetiError::prereq_plain(format!(
        "Disk template '{template}' is not enabled in cluster. Enabled disk templates are: {}",
        names.join(",")
    )))
}

/// Reads the descriptions of new disks.
pub(crate) fn compute(
    specs: &[Dict],
    template: DiskTemplate,
    vg: Option<&str>,
) -> Result<Vec<NewDisk>> {
    specs.iter().map(|spec| compute_one(spec, template, vg)).collect()
}

fn compute_one(spec: &Dict, template: DiskTemplate, vg: Option<&str>) -> Result<NewDisk> {
    let given = |name: &str| spec.get(name).filter(|value| !value.is_null());
    let string = |name: &str| given(name).map(python::str);
    let mode = string("mode").unwrap_or_else(|| "rw".to_owned());
    if !["ro", "rw"].contains(&mode.as_str()) {
        return Err(GanetiError::wrong_input(format!("Invalid disk access mode '{mode}'")));
    }
    let size = given("size").ok_or_else(|| GanetiError::wrong_input("Missing disk size"))?;
    let size_mib = size
        .as_u64()
        .or_else(|| python::int(size.as_str()?).and_then(|size| u64::try_from(size).ok()))
        .ok_or_else(|| {
            GanetiError::wrong_input(format!("Invalid disk size '{}'", python::str(size)))
        })?;
    let provider = string("provider");
    check_provider(provider.is_some(), template)?;
    let mut params = Dict::new();
    if HAVE_ACCESS.contains(&template)
        && let Some(access) = given("access")
    {
        params.insert("access".to_owned(), access.clone());
    }
    if template == DiskTemplate::Ext {
        params.insert("provider".to_owned(), json!(provider));
        let own = spec.iter().filter(|(name, _)| !KNOWN.contains(&name.as_str()));
        params.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    Ok(NewDisk {
        size_mib,
        mode,
        name: text(spec, "name").map(str::to_owned),
        vg: string("vg").or_else(|| vg.map(str::to_owned)),
        metavg: string("metavg"),
        adopt: string("adopt"),
        spindles: given("spindles").and_then(Value::as_u64),
        provider,
        params,
    })
}

/// A provider goes with external storage, and with nothing else.
pub(crate) fn check_provider(given: bool, template: DiskTemplate) -> Result<()> {
    match (given, template == DiskTemplate::Ext) {
        (true, false) => Err(GanetiError::wrong_input(format!(
            "The 'provider' option is only valid for the ext disk template, not {template}"
        ))),
        (false, true) => Err(GanetiError::wrong_input("Missing provider for template 'ext'")),
        _ => Ok(()),
    }
}

/// Names of disks or NICs must be no numbers and used once. `names` come in order; what is taken already is in `taken`.
pub(crate) fn check_names<'a>(
    kind: &str,
    names: impl Iterator<Item = Option<&'a str>>,
    taken: &[String],
) -> Result<()> {
    let mut taken: Vec<&str> = taken.iter().map(String::as_str).collect();
    for name in names.flatten() {
        if python::int(name).is_some() {
            return Err(GanetiError::wrong_input(format!(
                "Invalid name '{name}'. Purely numeric {kind} names are not allowed"
            )));
        }
        if name.eq_ignore_ascii_case("none") {
            continue;
        }
        if taken.contains(&name) {
            return Err(GanetiError::prereq(
                format!("{kind} name '{name}' already used"),
                ErrorCode::ResourceNotUnique,
            ));
        }
        taken.push(name);
    }
    Ok(())
}

/// The directory of an instance's file-based disks; `None` for other templates.
pub(crate) fn file_dir(
    config: &Config,
    template: DiskTemplate,
    instance: &str,
    below: Option<&str>,
) -> Result<Option<String>> {
    let cluster = &config.cluster;
    let base = match template {
        DiskTemplate::File => &cluster.file_storage_dir,
        DiskTemplate::Sharedfile => &cluster.shared_file_storage_dir,
        DiskTemplate::Gluster => &cluster.gluster_storage_dir,
        _ => return Ok(None),
    };
    if base.is_empty() {
        return Err(GanetiError::wrong_state(format!(
            "Cluster file storage dir for '{template}' storage type not defined"
        )));
    }
    let mut parts = vec![base.as_str()];
    parts.extend(below);
    if template != DiskTemplate::Gluster {
        parts.push(instance);
    }
    // What is below must stay below (Ganeti 3.0, `utils.PathJoin`).
    if parts[1..]
        .iter()
        .any(|part| part.starts_with('/') || part.split('/').any(|step| step == ".."))
    {
        let text = format!(
            "Error: path joining resulted in different prefix ({base} != {})",
            parts.join("/")
        );
        return Err(GanetiError::exec(text));
    }
    Ok(Some(parts.join("/")))
}

/// What a layout is made from.
pub(crate) struct Layout<'a> {
    pub(crate) template: DiskTemplate,
    pub(crate) instance: &'a Uuid,
    pub(crate) primary: &'a Uuid,
    pub(crate) secondary: Option<&'a Uuid>,
    pub(crate) disks: &'a [NewDisk],
    pub(crate) file_dir: Option<&'a str>,
    pub(crate) file_driver: &'a str,
    /// The index of the first of them.
    pub(crate) first: usize,
    pub(crate) group: Option<&'a NodeGroup>,
}

/// The configuration objects of new disks, told about in the log.
pub(crate) fn generate(cx: &Cx, layout: &Layout<'_>) -> Result<Vec<Disk>> {
    let config = cx.config();
    check_enabled(&config, layout.template)?;
    if layout.template == DiskTemplate::Diskless {
        return Ok(Vec::new());
    }
    let each = layout.disks.iter().enumerate();
    each.map(|(at, disk)| match layout.template {
        DiskTemplate::Drbd => drbd(cx, &config, layout, at + layout.first, disk),
        _ => Ok(simple(cx, &config, layout, at + layout.first, disk)),
    })
    .collect()
}

fn blank(cx: &Cx, template: DiskTemplate, at: usize, disk: &NewDisk) -> Disk {
    Disk {
        meta: Meta::new(cx.env().uuid(), cx.env().now_seconds()),
        dev_type: template,
        logical_id: Vec::new(),
        children: Vec::new(),
        nodes: Vec::new(),
        iv_name: format!("disk/{at}"),
        size_mib: disk.size_mib,
        mode: disk.mode.clone(),
        name: disk.name.clone(),
        spindles: disk.spindles,
        params: disk.params.clone(),
    }
}

fn simple(cx: &Cx, config: &Config, layout: &Layout<'_>, at: usize, disk: &NewDisk) -> Disk {
    let template = layout.template;
    let prefix = match template {
        DiskTemplate::Plain => "",
        DiskTemplate::Rbd => ".rbd",
        DiskTemplate::Ext => ".ext",
        DiskTemplate::File => ".file",
        DiskTemplate::Sharedfile => ".sharedfile",
        _ => ".",
    };
    cx.log(&format!("* disk {at}, size {}", format_mib(disk.size_mib)));
    let name = format!("{}{prefix}.disk{at}", cx.env().uuid());
    let vg = disk.vg.clone().or_else(|| config.cluster.volume_group_name.clone());
    let mut made = blank(cx, template, at, disk);
    made.logical_id = match template {
        DiskTemplate::Plain => vec![json!(vg), json!(name)],
        DiskTemplate::Gluster => {
            vec![json!(layout.file_driver), json!(format!("ganeti/{}.{at}", layout.instance))]
        }
        DiskTemplate::Blockdev => vec![json!("manual"), json!(disk.adopt)],
        DiskTemplate::Rbd => vec![json!("rbd"), json!(name)],
        DiskTemplate::Ext => vec![json!(disk.provider), json!(name)],
        _ => {
            let dir = layout.file_dir.unwrap_or_default();
            vec![json!(layout.file_driver), json!(format!("{dir}/{name}"))]
        }
    };
    if matches!(template, DiskTemplate::Plain | DiskTemplate::File) {
        made.nodes = vec![layout.primary.clone()];
    }
    made
}

fn drbd(cx: &Cx, config: &Config, layout: &Layout<'_>, at: usize, disk: &NewDisk) -> Result<Disk> {
    let secondary = layout.secondary.ok_or_else(|| {
        GanetiError::new(ErrorClass::ProgrammerError, "Wrong template configuration")
    })?;
    let nodes = vec![layout.primary.clone(), secondary.clone()];
    let defaults = params::disk::fill_template(&config.cluster, layout.group, DiskTemplate::Drbd);
    let default_meta = defaults.get("metavg").and_then(Value::as_str).unwrap_or("xenvg").to_owned();
    let vg = disk.vg.clone().or_else(|| config.cluster.volume_group_name.clone());
    let unique = cx.env().uuid();
    let part = |suffix: &str, vg: Option<String>, size_mib: u64| {
        let mut part = blank(cx, DiskTemplate::Plain, at, disk);
        part.iv_name = String::new();
        part.name = None;
        part.size_mib = size_mib;
        part.nodes = nodes.clone();
        part.params = Dict::new();
        part.logical_id = vec![json!(vg), json!(format!("{unique}.disk{at}{suffix}"))];
        part
    };
    let mut made = blank(cx, DiskTemplate::Drbd, at, disk);
    made.children = vec![
        part("_data", vg, disk.size_mib),
        part("_meta", Some(disk.metavg.clone().unwrap_or(default_meta)), DRBD_META_MIB),
    ];
    let port = reserve_port(cx)?;
    let minors = [reserve_minor(cx, layout.primary)?, reserve_minor(cx, secondary)?];
    made.logical_id = drbd_id(layout.primary, secondary, port, minors, &drbd_secret(cx));
    made.nodes = nodes;
    Ok(made)
}

/// The logical id of a drbd disk.
pub(crate) fn drbd_id(
    primary: &Uuid,
    secondary: &Uuid,
    port: u16,
    minors: [u64; 2],
    secret: &str,
) -> Vec<Value> {
    vec![
        Value::from(primary),
        Value::from(secondary),
        json!(port),
        json!(minors[0]),
        json!(minors[1]),
        json!(secret),
    ]
}

/// A new shared secret: 20 random bytes in hexadecimal.
pub(crate) fn drbd_secret(cx: &Cx) -> String {
    let mut bytes = [0; 20];
    cx.env().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reserves a port for a job: the lowest that was given back, else the next that was never used.
pub(crate) fn reserve_port(cx: &Cx) -> Result<u16> {
    let job = cx.job_id();
    cx.config_store().reserve(|config, reservations| {
        let cluster = &config.cluster;
        let returned = cluster.tcpudp_port_pool.iter().copied();
        let fresh = cluster.highest_used_port.saturating_add(1)..=LAST_PORT;
        let port =
            returned.chain(fresh).find(|port| !reservations.has_port(*port)).ok_or_else(|| {
                GanetiError::new(
                    ErrorClass::ConfigurationError,
                    format!("The highest used port is greater than {LAST_PORT}. Aborting."),
                )
            })?;
        reservations.of(job).ports.insert(port);
        Ok(port)
    })
}

/// Notes a reserved port as used: part of the commit that adds who uses it.
pub(crate) fn use_port(draft: &mut crate::config::Draft<'_>, port: u16) {
    draft.edit_cluster(|cluster| {
        if cluster.tcpudp_port_pool.remove(&port).is_none() && port > cluster.highest_used_port {
            // Ports that are skipped because another job has reserved them stay to be used.
            let skipped = cluster.highest_used_port + 1..port;
            cluster.tcpudp_port_pool.extend(skipped);
            cluster.highest_used_port = port;
        }
    });
}

/// Reserves the lowest free drbd minor of a node for a job.
pub(crate) fn reserve_minor(cx: &Cx, node: &Uuid) -> Result<u64> {
    let job = cx.job_id();
    cx.config_store().reserve(|config, reservations| {
        let used = used_minors(config, node);
        let free =
            (0..).find(|minor| !used.contains(minor) && !reservations.has_minor(node, *minor));
        let minor = free.unwrap_or(u64::MAX);
        reservations.of(job).minors.insert((node.clone(), minor));
        Ok(minor)
    })
}

fn used_minors(config: &Config, node: &Uuid) -> std::collections::BTreeSet<u64> {
    let instances = config.primaries(node).chain(config.secondaries(node));
    let disks = instances.flat_map(|instance| config.instance_disks(instance));
    let minors = disks.filter(|disk| disk.dev_type == DiskTemplate::Drbd).filter_map(|disk| {
        let at = if disk.logical_id.first()?.as_str()? == node.as_str() { 3 } else { 4 };
        disk.logical_id.get(at)?.as_u64()
    });
    minors.collect()
}

/// A size for people, as Ganeti writes it: `512M`, `1.5G`.
pub(crate) fn format_mib(mib: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let scaled = |divisor: f64| format!("{:.1}", mib as f64 / divisor);
    match mib {
        0..1024 => format!("{mib}M"),
        1024..0x10_0000 => format!("{}G", scaled(1024.0)),
        _ => format!("{}T", scaled(1024.0 * 1024.0)),
    }
}

/// Space that disks take of each volume group, in MiB (Ganeti 3.0, `ComputeDiskSizePerVG`).
pub(crate) fn size_per_vg(
    template: DiskTemplate,
    disks: &[NewDisk],
    default_metavg: &str,
) -> std::collections::BTreeMap<String, u64> {
    let mut sizes = std::collections::BTreeMap::new();
    for disk in disks {
        let vg = disk.vg.clone().unwrap_or_default();
        match template {
            DiskTemplate::Plain => *sizes.entry(vg).or_insert(0) += disk.size_mib,
            DiskTemplate::Drbd => {
                *sizes.entry(vg).or_insert(0) += disk.size_mib;
                let meta = disk.metavg.clone().unwrap_or_else(|| default_metavg.to_owned());
                *sizes.entry(meta).or_insert(0) += DRBD_META_MIB;
            }
            _ => {}
        }
    }
    sizes
}
