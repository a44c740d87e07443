//! `OP_OS_DIAGNOSE`: which operating system definitions the nodes have, as a table.

use std::collections::{BTreeMap, BTreeSet};

use model::config::Config;
use model::error::{GanetiError, Result};
use model::opcode::OsDiagnose;
use model::param::NonEmpty;
use model::units::natural_cmp;
use node::OsInfo;
use serde_json::{Value, json};

use super::{Cx, Locks, LogicalUnit};

/// The columns that there are (Ganeti 3.0, `query.py`, `_BuildOsFields`).
const FIELDS: &[&str] = &[
    "name",
    "valid",
    "hidden",
    "blacklisted",
    "variants",
    "api_versions",
    "parameters",
    "node_status",
    "os_hvp",
    "osparams",
    "trusted",
];

/// What is known of a definition on all nodes that answered.
struct Os {
    name: String,
    valid: bool,
    hidden: bool,
    blacklisted: bool,
    trusted: bool,
    variants: Vec<String>,
    parameters: Vec<(String, String)>,
    api_versions: Vec<i64>,
    /// Node UUID to what it has of that name, the first of which counts.
    nodes: BTreeMap<String, Vec<OsInfo>>,
    os_hvp: Value,
    osparams: Value,
}

/// What the nodes have, by name of the definition and UUID of the node.
async fn found(cx: &Cx, config: &Config) -> BTreeMap<String, BTreeMap<String, Vec<OsInfo>>> {
    let mut answers = Vec::new();
    for node in config.nodes.values().filter(|node| !node.offline && node.vm_capable) {
        let listed = match cx.node(&node.meta.uuid).await {
            Ok(asked) => asked.list_os().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(listed) => answers.push((node.meta.uuid.to_string(), listed)),
            // A node that does not answer says nothing against a definition.
            Err(error) => tracing::debug!(node.name, %error, "cannot list operating systems"),
        }
    }
    let mut all: BTreeMap<String, BTreeMap<String, Vec<OsInfo>>> = BTreeMap::new();
    let names: BTreeSet<String> =
        answers.iter().flat_map(|(_, listed)| listed).map(|info| info.name.clone()).collect();
    for name in names {
        let of_node = |(uuid, listed): &(String, Vec<OsInfo>)| {
            let own = listed.iter().filter(|info| info.name == name).cloned().collect();
            (uuid.clone(), own)
        };
        let nodes = answers.iter().map(of_node).collect();
        all.insert(name, nodes);
    }
    all
}

/// What all of some lists have, in the order of the first.
fn common<'a, T: Clone + PartialEq + 'a>(mut lists: impl Iterator<Item = &'a Vec<T>>) -> Vec<T> {
    let first = lists.next().cloned().unwrap_or_default();
    lists.fold(first, |mut kept, list| {
        kept.retain(|item| list.contains(item));
        kept
    })
}

impl Os {
    fn new(config: &Config, name: String, nodes: BTreeMap<String, Vec<OsInfo>>) -> Self {
        let cluster = &config.cluster;
        let firsts: Vec<Option<&OsInfo>> = nodes.values().map(|list| list.first()).collect();
        let valid = firsts.iter().all(|first| first.is_some_and(|info| info.valid));
        let firsts: Vec<&OsInfo> =
            if valid { firsts.into_iter().flatten().collect() } else { Vec::new() };
        let mut variants = common(firsts.iter().map(|info| &info.variants));
        variants.sort_by(|a, b| natural_cmp(a, b));
        let mut parameters = common(firsts.iter().map(|info| &info.parameters));
        parameters.sort_by(|a, b| natural_cmp(&a.0, &b.0));
        let mut api_versions = common(firsts.iter().map(|info| &info.api_versions));
        api_versions.sort_unstable();
        // Parameters of the definition itself and of each variant.
        let names: Vec<String> = std::iter::once(name.clone())
            .chain(variants.iter().map(|variant| format!("{name}+{variant}")))
            .collect();
        let of = |dict: &model::param::Dict| {
            let own = names.iter().filter_map(|name| Some((name.clone(), dict.get(name)?.clone())));
            Value::Object(own.collect())
        };
        Self {
            valid,
            hidden: cluster.hidden_os.contains(&name),
            blacklisted: cluster.blacklisted_os.contains(&name),
            trusted: firsts.iter().all(|info| info.trusted),
            os_hvp: of(&cluster.os_hvp),
            osparams: of(&cluster.osparams),
            name,
            variants,
            parameters,
            api_versions,
            nodes,
        }
    }

    fn cell(&self, field: &str) -> Value {
        let info = |info: &OsInfo| {
            json!([
                info.path,
                info.valid,
                info.diagnose,
                info.variants,
                info.parameters,
                info.api_versions,
                info.trusted
            ])
        };
        match field {
            "name" => json!(self.name),
            "valid" => json!(self.valid),
            "hidden" => json!(self.hidden),
            "blacklisted" => json!(self.blacklisted),
            "variants" => json!(self.variants),
            "api_versions" => json!(self.api_versions),
            "parameters" => json!(self.parameters),
            "node_status" => {
                let of = |(uuid, list): (&String, &Vec<OsInfo>)| {
                    (uuid.clone(), list.iter().map(info).collect())
                };
                Value::Object(self.nodes.iter().map(of).collect())
            }
            "os_hvp" => self.os_hvp.clone(),
            "osparams" => self.osparams.clone(),
            "trusted" => json!(self.trusted),
            _ => Value::Null,
        }
    }
}

impl LogicalUnit for OsDiagnose {
    type Plan = ();

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let unknown: Vec<&str> = self
            .output_fields
            .iter()
            .map(NonEmpty::as_str)
            .filter(|field| !FIELDS.contains(field))
            .collect();
        if !unknown.is_empty() {
            let text = format!("Unknown output fields selected: {}", unknown.join(", "));
            return Err(GanetiError::wrong_input(text));
        }
        let config = cx.config();
        let asked = |field: &str| self.output_fields.iter().any(|given| given.as_str() == field);
        // Ganeti: what is hidden, blacklisted or unusable shows only to those who ask for that column.
        let shown = |os: &Os| {
            (self.names.is_empty() || self.names.iter().any(|name| name.as_str() == os.name))
                && (!os.hidden || asked("hidden"))
                && (!os.blacklisted || asked("blacklisted"))
                && (os.valid || asked("valid"))
        };
        let all = found(cx, &config).await.into_iter();
        let mut rows: Vec<Os> =
            all.map(|(name, nodes)| Os::new(&config, name, nodes)).filter(shown).collect();
        rows.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        let row =
            |os: &Os| -> Value { self.output_fields.iter().map(|field| os.cell(field)).collect() };
        Ok(rows.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use node::WorldSetup;
    use serde_json::{Value, json};

    use crate::lu::testing::Bench;

    fn put_os(dir: &Path, name: &str, variants: &str) {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for script in ["create", "export", "import", "rename"] {
            std::fs::write(dir.join(script), "#!/bin/sh\n").unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir.join(script), mode).unwrap();
        }
        std::fs::write(dir.join("ganeti_api_version"), "15\n10\n").unwrap();
        std::fs::write(dir.join("variants.list"), variants).unwrap();
    }

    #[tokio::test]
    async fn definitions_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        put_os(dir.path(), "var", "b10\nb9\n");
        put_os(dir.path(), "noop", "");
        std::fs::create_dir(dir.path().join("broken")).unwrap();
        let setup =
            WorldSetup { os_search_path: vec![dir.path().to_owned()], ..WorldSetup::default() };
        let bench = Bench::new(2);
        bench.world.configure(setup);
        let run = async |fields: Value, names: Value| {
            let op = json!({"OP_ID": "OP_OS_DIAGNOSE", "output_fields": fields, "names": names});
            bench.run(op).await.result.map_err(|error| error.to_value())
        };
        let all = run(json!(["name", "variants"]), json!([])).await;
        assert_eq!(all, Ok(json!([["noop", []], ["var", ["b9", "b10"]]])));
        let one = run(json!(["name", "api_versions", "valid"]), json!(["var"])).await;
        assert_eq!(one, Ok(json!([["var", [10, 15], true]])));
        let broken = run(json!(["name", "valid"]), json!(["broken", "none"])).await;
        assert_eq!(broken, Ok(json!([["broken", false]])));
        let unknown = run(json!(["name", "x"]), json!([])).await;
        let text = "Unknown output fields selected: x";
        assert_eq!(unknown, Err(json!(["OpPrereqError", [text, "wrong_input"]])));
    }
}
