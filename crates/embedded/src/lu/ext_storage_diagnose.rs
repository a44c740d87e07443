//! `OP_EXT_STORAGE_DIAGNOSE`: which providers of external storage the nodes have, as a table (Ganeti 3.0,
//! `cmdlib/misc.py` `ExtStorageQuery`).

use std::collections::BTreeMap;

use model::config::Config;
use model::error::{GanetiError, Result};
use model::name::Uuid;
use model::opcode::ExtStorageDiagnose;
use model::param::NonEmpty;
use model::units::natural_cmp;
use node::ExtProviderInfo;
use serde_json::{Value, json};

use super::{Cx, Locks, LogicalUnit};

/// The columns that there are (Ganeti 3.0, `query.py`, `_BuildExtStorageFields`).
const FIELDS: &[&str] = &["name", "node_status", "nodegroup_status", "parameters"];

/// What each node that answered has of one name; the first of them counts.
type OfNodes = BTreeMap<Uuid, Vec<ExtProviderInfo>>;

/// What the nodes have, by the provider's name.
async fn found(cx: &Cx, config: &Config) -> BTreeMap<String, OfNodes> {
    let mut answers = Vec::new();
    for node in config.nodes.values().filter(|node| !node.offline && node.vm_capable) {
        let listed = match cx.node(&node.meta.uuid).await {
            Ok(asked) => asked.ext_providers().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(listed) => answers.push((node.meta.uuid.clone(), listed)),
            // A node that does not answer says nothing against a provider.
            Err(error) => tracing::debug!(node.name, %error, "cannot list storage providers"),
        }
    }
    let mut all: BTreeMap<String, OfNodes> = BTreeMap::new();
    for name in answers.iter().flat_map(|(_, listed)| listed).map(|info| &info.name) {
        let of_node = |(uuid, listed): &(Uuid, Vec<ExtProviderInfo>)| {
            let own = listed.iter().filter(|info| info.name == *name).cloned().collect();
            (uuid.clone(), own)
        };
        all.entry(name.clone()).or_insert_with(|| answers.iter().map(of_node).collect());
    }
    all
}

/// Whether a node can use a provider.
fn is_valid(of_node: &[ExtProviderInfo]) -> bool {
    of_node.first().is_some_and(|info| info.valid)
}

fn cell(config: &Config, field: &str, name: &str, nodes: &OfNodes) -> Value {
    match field {
        "name" => json!(name),
        "node_status" => {
            let info = |info: &ExtProviderInfo| {
                json!([info.path, info.valid, info.diagnose, info.parameters])
            };
            let of = |(uuid, list): (&Uuid, &Vec<ExtProviderInfo>)| {
                (uuid.to_string(), list.iter().map(info).collect())
            };
            Value::Object(nodes.iter().map(of).collect())
        }
        "nodegroup_status" => {
            let valid = |uuid: &Uuid| {
                let members = config.members(uuid);
                members.filter_map(|node| nodes.get(&node.meta.uuid)).all(|own| is_valid(own))
            };
            let groups = config.groups.iter();
            Value::Object(
                groups.map(|(uuid, group)| (group.name.clone(), json!(valid(uuid)))).collect(),
            )
        }
        "parameters" => json!(common_parameters(nodes)),
        _ => Value::Null,
    }
}

/// The parameters that a provider has on all nodes, up to the first node that cannot use it.
fn common_parameters(nodes: &OfNodes) -> Vec<(String, String)> {
    let mut usable = nodes.values().take_while(|own| is_valid(own)).filter_map(|own| own.first());
    let first = usable.next().map(|info| info.parameters.clone()).unwrap_or_default();
    usable.fold(first, |mut kept, info| {
        kept.retain(|parameter| info.parameters.contains(parameter));
        kept
    })
}

impl LogicalUnit for ExtStorageDiagnose {
    type Plan = ();

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        let given = self.output_fields.iter().map(NonEmpty::as_str);
        let unknown: Vec<&str> = given.filter(|field| !FIELDS.contains(field)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let text = format!("Unknown output fields selected: {}", unknown.join(", "));
        Err(GanetiError::wrong_input(text))
    }

    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let config = cx.config();
        let wanted = |name: &String| {
            self.names.is_empty() || self.names.iter().any(|given| given.as_str() == name)
        };
        let mut rows: Vec<(String, OfNodes)> =
            found(cx, &config).await.into_iter().filter(|(name, _)| wanted(name)).collect();
        rows.sort_by(|a, b| natural_cmp(&a.0, &b.0));
        let row = |(name, nodes): &(String, OfNodes)| -> Value {
            let fields = self.output_fields.iter();
            fields.map(|field| cell(&config, field.as_str(), name, nodes)).collect()
        };
        Ok(rows.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use node::WorldSetup;
    use serde_json::{Value, json};

    use crate::lu::testing::Bench;

    #[tokio::test]
    async fn providers_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("shelf");
        std::fs::create_dir_all(&good).unwrap();
        std::fs::create_dir_all(dir.path().join("broken")).unwrap();
        for script in ["create", "remove", "grow", "attach", "detach", "setinfo", "verify"] {
            std::fs::write(good.join(script), "#!/bin/sh\n").unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(good.join(script), mode).unwrap();
        }
        std::fs::write(good.join("parameters.list"), "pool where\n").unwrap();
        let bench = Bench::new(2);
        let ext_search_path = vec![dir.path().to_owned()];
        bench.world.configure(WorldSetup { ext_search_path, ..WorldSetup::default() });
        let run = async |fields: Value, names: Value| {
            let op = json!({"OP_ID": "OP_EXT_STORAGE_DIAGNOSE", "output_fields": fields, "names": names});
            bench.run(op).await.result.map_err(|error| error.to_value())
        };
        let all = run(json!(["name", "nodegroup_status", "parameters"]), json!([])).await;
        let expected = json!([
            ["broken", {"default": false}, []],
            ["shelf", {"default": true}, [["pool", "where"]]],
        ]);
        assert_eq!(all, Ok(expected));
        let one = run(json!(["node_status"]), json!(["broken"])).await.unwrap();
        let status = one[0][0].as_object().unwrap().values().next().unwrap();
        let diagnose = status[0][2].as_str().unwrap();
        assert!(diagnose.ends_with("is missing (ENOENT)"), "{diagnose}");
        let unknown = run(json!(["x"]), json!([])).await;
        let text = "Unknown output fields selected: x";
        assert_eq!(unknown, Err(json!(["OpPrereqError", [text, "wrong_input"]])));
    }
}
