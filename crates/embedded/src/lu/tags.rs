//! Tags: labels on the cluster, nodes, node groups, instances and networks.

use imbl::OrdSet;
use model::config::Config;
use model::error::{ErrorClass, GanetiError, Result};
use model::name::Uuid;
use model::opcode::{TagsDel, TagsSearch, TagsSet};
use model::param::TagKind;
use serde_json::{Value, json};

use super::{Cx, Level, Locks, LogicalUnit, expand};
use crate::config::Draft;

/// The longest tag, and the most that one object carries (Ganeti 3.1, `MAX_TAG_LEN`, `MAX_TAGS_PER_OBJ`).
const TAG_LENGTH_MAX: usize = 128;
const TAGS_MAX: usize = 4096;

/// The object that carries the tags.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    kind: TagKind,
    uuid: Uuid,
}

/// Looks the object up and says how to lock it.
fn target(config: &Config, kind: TagKind, name: Option<&str>) -> Result<(Target, Locks)> {
    let name = name.unwrap_or_default();
    let locks = Locks::new();
    let (uuid, locks) = match kind {
        TagKind::Cluster => (Uuid::default(), locks),
        TagKind::Instance => {
            let instance = expand::instance(config, name, None)?;
            (instance.meta.uuid.clone(), locks.exclusive(Level::Instance, &instance.name))
        }
        TagKind::Node => {
            let node = expand::node(config, name, None)?;
            (node.meta.uuid.clone(), locks.exclusive(Level::Node, &node.meta.uuid))
        }
        TagKind::Nodegroup => {
            let group = expand::group(config, name)?;
            (group.meta.uuid.clone(), locks.exclusive(Level::NodeGroup, &group.meta.uuid))
        }
        TagKind::Network => {
            let network = expand::network(config, name)?;
            (network.meta.uuid.clone(), locks.exclusive(Level::Network, &network.meta.uuid))
        }
    };
    Ok((Target { kind, uuid }, locks))
}

/// The tags an object has now.
fn tags_of(config: &Config, target: &Target) -> Option<OrdSet<String>> {
    let uuid = &target.uuid;
    match target.kind {
        TagKind::Cluster => Some(config.cluster.tags.clone()),
        TagKind::Instance => config.instances.get(uuid).map(|object| object.tags.clone()),
        TagKind::Node => config.nodes.get(uuid).map(|object| object.tags.clone()),
        TagKind::Nodegroup => config.groups.get(uuid).map(|object| object.tags.clone()),
        TagKind::Network => config.networks.get(uuid).map(|object| object.tags.clone()),
    }
}

/// Gives an object other tags.
fn set_tags(draft: &mut Draft<'_>, target: &Target, tags: OrdSet<String>) {
    let uuid = &target.uuid;
    match target.kind {
        TagKind::Cluster => draft.edit_cluster(|object| object.tags = tags),
        TagKind::Instance => {
            draft.edit_instance(uuid, |object| object.tags = tags).unwrap_or_default()
        }
        TagKind::Node => draft.edit_node(uuid, |object| object.tags = tags).unwrap_or_default(),
        TagKind::Nodegroup => {
            draft.edit_group(uuid, |object| object.tags = tags).unwrap_or_default()
        }
        TagKind::Network => {
            draft.edit_network(uuid, |object| object.tags = tags).unwrap_or_default()
        }
    }
}

/// Ganeti's rules for a tag (3.1, `objects.TaggableObject.ValidateTag`).
pub(crate) fn check_tag(tag: &str) -> Result<()> {
    let refuse = |text: &str| Err(GanetiError::new(ErrorClass::TagError, text));
    if tag.chars().count() > TAG_LENGTH_MAX {
        return refuse(&format!("Tag too long (>{TAG_LENGTH_MAX} characters)"));
    }
    if tag.is_empty() {
        return refuse("Tags cannot be empty");
    }
    if !tag.chars().all(|c| c.is_ascii_alphanumeric() || ".+*/:@_-".contains(c)) {
        return refuse("Tag contains invalid characters");
    }
    Ok(())
}

impl LogicalUnit for TagsSet {
    type Plan = Target;

    fn locks(&self, config: &Config) -> Result<Locks> {
        target(config, self.kind, self.name.as_deref()).map(|(_, locks)| locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Target> {
        for tag in &self.tags {
            check_tag(tag)?;
        }
        target(&cx.config(), self.kind, self.name.as_deref()).map(|(target, _)| target)
    }

    async fn exec(&self, cx: &Cx, target: Target) -> Result<Value> {
        cx.commit_last(|draft| {
            let mut tags = tags_of(draft, &target).unwrap_or_default();
            tags.extend(self.tags.iter().cloned());
            if tags.len() > TAGS_MAX {
                return Err(GanetiError::exec("Error while setting tag(s): Too many tags"));
            }
            set_tags(draft, &target, tags);
            Ok(Value::Null)
        })
    }
}

impl LogicalUnit for TagsDel {
    type Plan = Target;

    fn locks(&self, config: &Config) -> Result<Locks> {
        target(config, self.kind, self.name.as_deref()).map(|(_, locks)| locks)
    }

    async fn check_prereq(&self, cx: &Cx) -> Result<Target> {
        for tag in &self.tags {
            check_tag(tag)?;
        }
        let config = cx.config();
        let (target, _) = target(&config, self.kind, self.name.as_deref())?;
        let tags = tags_of(&config, &target).unwrap_or_default();
        let mut missing: Vec<String> = self
            .tags
            .iter()
            .filter(|tag| !tags.contains(*tag))
            .map(|tag| format!("'{tag}'"))
            .collect();
        missing.sort();
        missing.dedup();
        if missing.is_empty() {
            Ok(target)
        } else {
            Err(GanetiError::unknown_entity(format!("Tag(s) {} not found", missing.join(", "))))
        }
    }

    async fn exec(&self, cx: &Cx, target: Target) -> Result<Value> {
        cx.commit_last(|draft| {
            let mut tags = tags_of(draft, &target).unwrap_or_default();
            for tag in &self.tags {
                tags.remove(tag);
            }
            set_tags(draft, &target, tags);
            Ok(Value::Null)
        })
    }
}

impl LogicalUnit for TagsSearch {
    type Plan = regex::Regex;

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<regex::Regex> {
        let pattern = self.pattern.as_str();
        regex::Regex::new(pattern).map_err(|error| {
            GanetiError::wrong_input(format!("Invalid search pattern '{pattern}': {error}"))
        })
    }

    async fn exec(&self, cx: &Cx, pattern: regex::Regex) -> Result<Value> {
        let config = cx.config();
        let mut found = Vec::new();
        let mut look = |path: String, tags: &OrdSet<String>| {
            let matching = tags.iter().filter(|tag| pattern.is_match(tag));
            found.extend(matching.map(|tag| json!([path, tag])));
        };
        look("/cluster".to_owned(), &config.cluster.tags);
        for object in config.instances.values() {
            look(format!("/instances/{}", object.name), &object.tags);
        }
        for object in config.nodes.values() {
            look(format!("/nodes/{}", object.name), &object.tags);
        }
        for object in config.groups.values() {
            look(format!("/nodegroup/{}", object.name), &object.tags);
        }
        for object in config.networks.values() {
            look(format!("/network/{}", object.name), &object.tags);
        }
        Ok(Value::Array(found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Bench;
    use serde_json::json;

    #[tokio::test]
    async fn tags_are_searched() {
        let bench = Bench::new(1);
        for (kind, name) in [("cluster", json!(null)), ("node", json!("node1"))] {
            let set =
                json!({"OP_ID": "OP_TAGS_SET", "kind": kind, "name": name, "tags": ["b:1", "c"]});
            assert_eq!(bench.run(set).await.result, Ok(json!(null)));
        }
        let search = async |pattern: &str| {
            bench.run(json!({"OP_ID": "OP_TAGS_SEARCH", "pattern": pattern})).await.result
        };
        let found = json!([["/cluster", "b:1"], ["/nodes/node1.example.com", "b:1"]]);
        assert_eq!(search("^b:").await, Ok(found));
        assert_eq!(search("nothing").await, Ok(json!([])));
        let refused = search("(").await.unwrap_err();
        assert!(refused.to_string().contains("Invalid search pattern '(': "), "{refused}");
        assert_eq!(refused.code(), Some("wrong_input"));
    }

    #[tokio::test]
    async fn tags_come_and_go() {
        let bench = Bench::new(1);
        let set =
            json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "name": null, "tags": ["b", "a"]});
        assert_eq!(bench.run(set).await.result, Ok(json!(null)));
        assert!(bench.config().cluster.tags.iter().eq(["a", "b"]));
        assert_eq!(bench.config().cluster.meta.serial_no, 2);
        let del =
            json!({"OP_ID": "OP_TAGS_DEL", "kind": "cluster", "name": null, "tags": ["x", "a"]});
        let refused = bench.run(del).await.result.unwrap_err();
        assert_eq!(
            refused.to_value(),
            json!(["OpPrereqError", ["Tag(s) 'x' not found", "unknown_entity"]])
        );
    }
}
