//! The opcodes on the cluster as a whole.

pub(crate) mod disks;
pub(crate) mod set_params;
pub(crate) mod templates;
mod verify;
pub(crate) mod verify_group;

use model::config::Config;
use model::error::Result;
use model::opcode::ClusterRedistConf;
use serde_json::Value;

use super::{Cx, Level, Locks, LogicalUnit, shared_checks};

impl LogicalUnit for ClusterRedistConf {
    type Plan = ();

    fn locks(&self, config: &Config) -> Result<Locks> {
        let shared = |locks: Locks, uuid| locks.shared(Level::Node, uuid);
        Ok(config.nodes.keys().fold(Locks::new(), shared))
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    /// There is one configuration, which all nodes are told from: what is left of distributing it is that it counts as
    /// written anew.
    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        cx.commit(|draft| {
            draft.touch_cluster();
            Ok(())
        })
        .await?;
        shared_checks::tell_shortage(cx);
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests;
