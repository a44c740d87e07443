//! Backend parameters: what an instance gets of its node. Layers: cluster, instance.

use serde_json::Value;

use super::{Kind, Lit, Row, defaults as table_defaults, fill as lay, force_types, overlay, row};
use crate::config::Cluster;
use crate::error::Result;
use crate::param::Dict;

/// The parameters, in the order in which they are shown.
pub const TABLE: &[Row] = &[
    Row::new("minmem", Kind::Size, Lit::Int(128), "Memory it must have to start, in MiB"),
    Row::new("maxmem", Kind::Size, Lit::Int(128), "Memory it gets if there is enough, in MiB"),
    Row::new("vcpus", Kind::Int, Lit::Int(1), "Number of virtual CPUs"),
    Row::new(
        "auto_balance",
        Kind::Bool,
        Lit::Bool(true),
        "Whether its secondary node keeps memory free for it",
    ),
    Row::new(
        "always_failover",
        Kind::Bool,
        Lit::Bool(false),
        "Whether it is stopped and started elsewhere instead of migrated",
    ),
    Row::new("spindle_use", Kind::Int, Lit::Int(1), "How many disk spindles it keeps busy"),
];

/// The built-in defaults.
pub fn defaults() -> Dict {
    table_defaults(TABLE)
}

/// Cluster < instance (Ganeti 3.0, `objects.py` `Cluster.SimpleFillBE`).
pub fn fill(cluster: &Cluster, overrides: &Dict) -> Dict {
    let mut filled = defaults();
    overlay(&mut filled, &cluster.beparams, super::VALUE_DEFAULT);
    lay(&filled, overrides)
}

/// Turns the older `memory` into `minmem` and `maxmem` (Ganeti 3.0, `objects.py` `UpgradeBeParams`).
pub fn upgrade(params: &mut Dict) {
    if let Some(memory) = params.shift_remove("memory") {
        params.insert("maxmem".to_owned(), memory.clone());
        params.insert("minmem".to_owned(), memory);
    }
}

/// Forces types; `memory` is known too. With `allow_default`, values of `default` stay.
pub fn force(params: &mut Dict, allow_default: bool) -> Result<()> {
    let kind = |name: &str| match name {
        "memory" => Some(Kind::Size),
        other => row(TABLE, other).map(|row| row.kind),
    };
    let allowed: &[&str] = if allow_default { &[super::VALUE_DEFAULT] } else { &[] };
    force_types(params, kind, allowed)
}

/// A number among filled parameters; 0 when it is not there.
pub fn number(filled: &Dict, name: &str) -> u64 {
    filled.get(name).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_means_both_bounds() {
        let mut params = json!({"memory": "1g", "vcpus": "2"}).as_object().unwrap().clone();
        force(&mut params, false).unwrap();
        upgrade(&mut params);
        assert_eq!(Value::Object(params), json!({"vcpus": 2, "maxmem": 1024, "minmem": 1024}));
    }
}
