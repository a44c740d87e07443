//! Where the contents of a new instance come from when it is imported: an export on a node of this cluster. Its description
//! gives the defaults of what the opcode leaves open (Ganeti 3.0, `_ReadExportInfo`, `_ReadExportParams`; the file's layout
//! is what `FinalizeExport` writes).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::config::{Config, Instance, Nic};
use model::error::{ErrorClass, ErrorCode, GanetiError, Result};
use model::name::Uuid;
use model::opcode::InstanceCreate;
use model::param::{
    CreateMode, Dict, DiskSpec, DiskTemplate, Hypervisor, NicSpec, NonEmpty, Private,
};
use node::{Node, OsParams};
use serde_json::json;

use super::{checks, disks, spec_of};
use crate::lu::{Cx, expand};

/// The version of exports that is written and read.
pub(crate) const EXPORT_VERSION: &str = "0";
/// The most disks and NICs an instance has.
const MAX_DISKS: usize = 16;
const MAX_NICS: usize = 8;

/// An export that is there.
pub(crate) struct Source {
    node: Uuid,
    path: String,
    /// The instance's name when it was exported.
    old_name: String,
    /// For each disk its dump; `None` where the export has none.
    images: Vec<Option<String>>,
    info: Ini,
}

/// A file of sections with options, in Python's `configparser` format.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ini(BTreeMap<String, BTreeMap<String, String>>);

impl Ini {
    /// Reads a text; lines that are no options are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut section = String::new();
        let mut last: Option<String> = None;
        for line in text.lines() {
            let is_more = line.starts_with([' ', '\t']);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            // A value of several lines.
            if let (true, Some(name)) = (is_more, &last) {
                let options = sections.entry(section.clone()).or_default();
                let value = options.entry(name.clone()).or_default();
                value.push('\n');
                value.push_str(line);
                continue;
            }
            last = None;
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
                sections.entry(section.clone()).or_default();
            } else if let Some((name, value)) = line.split_once('=') {
                let options = sections.entry(section.clone()).or_default();
                options.insert(name.trim().to_owned(), value.trim().to_owned());
                last = Some(name.trim().to_owned());
            }
        }
        Self(sections)
    }

    pub(crate) fn set(&mut self, section: &str, name: &str, value: impl Into<String>) {
        self.0.entry(section.to_owned()).or_default().insert(name.to_owned(), value.into());
    }

    /// A section that is there even if it has no options.
    pub(crate) fn section(&mut self, section: &str) {
        self.0.entry(section.to_owned()).or_default();
    }

    pub(crate) fn get(&self, section: &str, name: &str) -> Option<&str> {
        self.0.get(section)?.get(name).map(String::as_str)
    }

    fn options(&self, section: &str) -> Option<&BTreeMap<String, String>> {
        self.0.get(section)
    }

    /// The text, sections and options in the order of names.
    pub(crate) fn render(&self) -> String {
        let section = |(name, options): (&String, &BTreeMap<String, String>)| {
            let line = |(name, value): (&String, &String)| {
                format!("{name} = {}\n", value.replace('\n', "\n\t"))
            };
            let lines: String = options.iter().map(line).collect();
            format!("[{name}]\n{lines}\n")
        };
        self.0.iter().map(section).collect()
    }
}

/// Finds and reads the export that an opcode names, and fills in what the opcode leaves open; `None` when nothing is
/// imported.
pub(crate) async fn read(cx: &Cx, op: &mut InstanceCreate) -> Result<Option<Source>> {
    if op.mode != CreateMode::Import {
        return Ok(None);
    }
    let path = op.src_path.as_deref().unwrap_or(&op.instance_name).to_owned();
    let config = cx.config();
    let node = match &op.src_node {
        Some(name) => expand::node(&config, name, op.src_node_uuid.as_deref())?.meta.uuid.clone(),
        None if Path::new(&path).is_absolute() => {
            let text = "Importing an instance from a path requires a source node option";
            return Err(GanetiError::wrong_input(text));
        }
        None => find(cx, &config, &path).await?,
    };
    checks::node_online(&config, &node)?;
    let name = config.node_name(&node).to_owned();
    let told = match cx.node(&node).await {
        Ok(found) => found.export_info(&path).await,
        Err(error) => Err(error),
    };
    let text = told.map_err(|error| {
        GanetiError::exec(format!(
            "No export or invalid export found in dir {path} on node {name}: {error}"
        ))
    })?;
    let info = Ini::parse(&text);
    let version = info
        .get("export", "version")
        .ok_or_else(|| GanetiError::new(ErrorClass::ProgrammerError, "Corrupted export config"))?;
    if version != EXPORT_VERSION {
        return Err(GanetiError::prereq(
            format!("Wrong export version {version} (wanted {EXPORT_VERSION})"),
            ErrorCode::EnvironmentError,
        ));
    }
    defaults(&info, op)?;
    let images = (0..op.disks.len()).map(|at| {
        let dump = info.get("instance", &format!("disk{at}_dump"))?;
        Some(format!("{path}/{dump}"))
    });
    let images = images.collect();
    let old_name = info.get("instance", "name").unwrap_or_default().to_owned();
    Ok(Some(Source { node, path, old_name, images, info }))
}

/// The node that has an export of that name.
async fn find(cx: &Cx, config: &Config, name: &str) -> Result<Uuid> {
    for uuid in config.nodes.keys() {
        // A node that does not answer has none that could be used.
        let Ok(node) = cx.node(uuid).await else { continue };
        let exports = node.list_exports().await.unwrap_or_default();
        if exports.iter().any(|export| export == name) {
            return Ok(uuid.clone());
        }
    }
    Err(GanetiError::wrong_input(format!("No export found for relative path {name}")))
}

fn defaults(info: &Ini, op: &mut InstanceCreate) -> Result<()> {
    op.os_type = info.get("export", "os").and_then(NonEmpty::new);
    if op.disks.is_empty() {
        op.disks = exported_disks(info);
        if op.disks.is_empty() && op.disk_template != Some(DiskTemplate::Diskless) {
            return Err(GanetiError::wrong_input(
                "No disk info specified and the export is missing the disk information",
            ));
        }
    }
    if op.nics.is_empty() {
        op.nics = exported_nics(info);
    }
    if op.tags.is_empty() {
        let tags = info.get("instance", "tags").unwrap_or_default();
        op.tags = tags.split_whitespace().filter_map(NonEmpty::new).collect();
    }
    if op.hypervisor.is_none() {
        op.hypervisor = info.get("instance", "hypervisor").and_then(Hypervisor::parse);
    }
    let lay_under = |own: &mut Dict, section: &str| {
        for (name, value) in info.options(section).into_iter().flatten() {
            own.entry(name.clone()).or_insert_with(|| json!(value));
        }
    };
    lay_under(&mut op.hvparams, "hypervisor");
    lay_under(&mut op.beparams, "backend");
    old_memory(info, &mut op.beparams);
    lay_under(&mut op.osparams, "os");
    let mut private = op.osparams_private.take().unwrap_or_default();
    lay_under(&mut private.0, "os_private");
    op.osparams_private = Some(Private(private.0));
    Ok(())
}

/// Exports of old releases have one memory size, and no section for backend parameters.
fn old_memory(info: &Ini, beparams: &mut Dict) {
    let old = beparams.remove("memory");
    let old = old.or_else(|| info.get("instance", "memory").map(|value| json!(value)));
    for (name, old) in [("maxmem", &old), ("minmem", &old), ("vcpus", &None)] {
        let value = info.get("instance", name).map(|value| json!(value)).or_else(|| old.clone());
        if let (false, Some(value)) = (beparams.contains_key(name), value) {
            beparams.insert(name.to_owned(), value);
        }
    }
}

fn exported_disks(info: &Ini) -> Vec<DiskSpec> {
    let disk = |at: usize| {
        let size: u64 = info.get("instance", &format!("disk{at}_size"))?.parse().ok()?;
        let mut spec = Dict::new();
        spec.insert("size".to_owned(), json!(size));
        // Ganeti writes, and takes, the name None for disks without one.
        let name = info.get("instance", &format!("disk{at}_name"));
        if let Some(name) = name.filter(|name| !["", "None", "none"].contains(name)) {
            spec.insert("name".to_owned(), json!(name));
        }
        Some(DiskSpec(spec))
    };
    (0..MAX_DISKS).filter_map(disk).collect()
}

fn exported_nics(info: &Ini) -> Vec<NicSpec> {
    let nic = |at: usize| {
        let option = |name: &str| {
            let value = info.get("instance", &format!("nic{at}_{name}"));
            value.filter(|value| !["", "None"].contains(value))
        };
        option("mac")?;
        let mut spec = Dict::new();
        // A NIC on a network takes mode, link and VLAN from the network's connection.
        let names: &[&str] = match option("network") {
            Some(_) => &["ip", "mac", "name", "network"],
            None => &["ip", "mac", "name", "mode", "link", "vlan"],
        };
        for name in names {
            if let Some(value) = option(name) {
                spec.insert((*name).to_owned(), json!(value));
            }
        }
        Some(NicSpec(spec))
    };
    (0..MAX_NICS).map_while(nic).collect()
}

impl Source {
    /// NICs whose MAC address is left open keep that of the export, if the instance comes back under its name.
    pub(crate) fn keep_macs(&self, name: &str, nics: &mut [Nic]) {
        if self.old_name != name {
            return;
        }
        for (at, nic) in nics.iter_mut().enumerate().filter(|(_, nic)| nic.mac == "auto") {
            if let Some(mac) = self.info.get("instance", &format!("nic{at}_mac")) {
                nic.mac = mac.to_owned();
            }
        }
    }

    /// What hooks are told of it.
    pub(crate) fn hook_env(&self, config: &Config) -> BTreeMap<String, String> {
        let images: Vec<&str> = self.images.iter().flatten().map(String::as_str).collect();
        BTreeMap::from([
            ("SRC_NODE".to_owned(), config.node_name(&self.node).to_owned()),
            ("SRC_PATH".to_owned(), self.path.clone()),
            ("SRC_IMAGES".to_owned(), images.join(" ")),
        ])
    }

    /// Fills the disks from the export and runs the rename script.
    pub(crate) async fn run(
        &self,
        cx: &Cx,
        instance: &Arc<Instance>,
        params: &OsParams,
    ) -> Result<()> {
        cx.log("* running the instance OS import scripts...");
        let node = cx.node(&instance.primary_node).await;
        let node = node.map_err(|error| GanetiError::exec(error.to_string()))?;
        let name = cx.config().node_name(&instance.primary_node).to_owned();
        let all: Vec<usize> = (0..instance.disks.len()).collect();
        disks::assemble(cx, &instance.meta.uuid, Some(&all), false).await?;
        let source = cx.config().node_name(&self.node).to_owned();
        let told = spec_of(cx, instance);
        let mut all_well = true;
        for (at, image) in self.images.iter().enumerate() {
            let Some(image) = image else { continue };
            cx.log(&format!("Exporting disk/{at} from {source} to {name}"));
            cx.log(&format!("disk/{at} is now listening, starting export"));
            // The way of compression is that of a transfer between nodes; here there is none.
            let answer = node.import_disk(&told, at, image, params, cx.script_output()).await;
            match answer {
                Ok(()) => {
                    cx.log(&format!("disk/{at} finished receiving data"));
                    cx.log(&format!("disk/{at} finished sending data"));
                }
                Err(error) => {
                    cx.warn(&format!("import disk/{at} failed: {error}"));
                    all_well = false;
                }
            }
        }
        if !all_well {
            cx.warn(&format!(
                "Some disks for instance {} on node {name} were not imported successfully",
                instance.name
            ));
        }
        if !instance.os.is_empty() {
            rename(cx, node.as_ref(), instance, &self.old_name, params).await;
        }
        Ok(())
    }
}

/// Runs the rename script of what was imported; its failure is only told.
pub(crate) async fn rename(
    cx: &Cx,
    node: &dyn Node,
    instance: &Instance,
    old_name: &str,
    params: &OsParams,
) {
    let name = &instance.name;
    cx.log(&format!("Running rename script for {name}"));
    let told = spec_of(cx, instance);
    if let Err(error) = node.rename_os(&told, old_name, params, cx.script_output()).await {
        let node = node.name();
        cx.warn(&format!("Failed to run rename script for {name} on node {node}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_come_back() {
        let mut ini = Ini::default();
        ini.set("export", "version", "0");
        ini.set("instance", "disk0_size", "128");
        ini.section("os");
        ini.set("instance", "disk0_name", "None");
        ini.set("os_private", "key", "-----BEGIN KEY-----\nAA==\n-----END KEY-----");
        assert_eq!(Ini::parse(&ini.render()), ini);
        let disks = exported_disks(&ini);
        assert_eq!((disks.len(), disks[0].contains_key("name")), (1, false));
    }

    #[test]
    fn old_exports_have_one_memory_size() {
        let check = |text: &str, expected: serde_json::Value| {
            let mut own = Dict::new();
            old_memory(&Ini::parse(text), &mut own);
            assert_eq!(serde_json::Value::Object(own), expected);
        };
        check(
            "[instance]\nmemory = 64\nvcpus = 2\n",
            json!({"maxmem": "64", "minmem": "64", "vcpus": "2"}),
        );
        check("[instance]\nmaxmem = 64\nminmem = 32\n", json!({"maxmem": "64", "minmem": "32"}));
        check("[instance]\n", json!({}));
    }
}
