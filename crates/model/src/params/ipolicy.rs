//! Instance policies: the bounds that instances of a group must keep to. Layers: cluster, node group, key by key.

use serde_json::{Value, json};

use super::{
    Kind, Lit, Row, VALUE_DEFAULT, as_float, defaults as table_defaults, fill as lay, force_types,
    row,
};
use crate::config::{Cluster, NodeGroup};
use crate::error::{ErrorClass, GanetiError, Result};
use crate::param::{Dict, DiskTemplate};
use crate::python;
use crate::units::number;

/// What a specification says, with the standard values.
pub const SPECS: &[Row] = &[
    Row::new("memory-size", Kind::Int, Lit::Int(128), "Memory, in MiB"),
    Row::new("cpu-count", Kind::Int, Lit::Int(1), "Virtual CPUs"),
    Row::new("disk-count", Kind::Int, Lit::Int(1), "Disks"),
    Row::new("disk-size", Kind::Int, Lit::Int(1024), "Size of each disk, in MiB"),
    Row::new("nic-count", Kind::Int, Lit::Int(1), "NICs"),
    Row::new("spindle-use", Kind::Int, Lit::Int(1), "Disk spindles kept busy"),
];

const MAXIMA: &[(&str, i64)] = &[
    ("memory-size", 32768),
    ("cpu-count", 8),
    ("disk-count", 16),
    ("disk-size", 1_048_576),
    ("nic-count", 8),
    ("spindle-use", 12),
];

/// The keys of a policy, in the order in which they are shown.
pub const KEYS: &[&str] = &["minmax", "std", "spindle-ratio", "vcpu-ratio", "disk-templates"];
/// Those whose value is a number.
const RATIOS: &[&str] = &["spindle-ratio", "vcpu-ratio"];

/// The built-in policy.
pub fn defaults() -> Dict {
    let max: Dict = MAXIMA.iter().map(|(name, max)| ((*name).to_owned(), json!(max))).collect();
    let templates: Vec<&str> = DiskTemplate::ALL.iter().map(|template| template.as_str()).collect();
    let policy = [
        ("minmax", json!([{"min": table_defaults(SPECS), "max": max}])),
        ("std", Value::Object(table_defaults(SPECS))),
        ("spindle-ratio", number(32.0)),
        ("vcpu-ratio", number(4.0)),
        ("disk-templates", json!(templates)),
    ];
    policy.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Cluster < group: key by key, and `std` specification by specification (Ganeti 3.0, `objects.py` `FillIPolicy`).
pub fn fill(cluster: &Cluster, group: &NodeGroup) -> Dict {
    fill_over(&fill_cluster(cluster), &group.ipolicy)
}

/// Built-in < cluster.
pub fn fill_cluster(cluster: &Cluster) -> Dict {
    fill_over(&defaults(), &cluster.ipolicy)
}

/// Lays a policy over another that is whole.
pub fn fill_over(base: &Dict, over: &Dict) -> Dict {
    let each = |(key, below): (&String, &Value)| {
        let value = match (key.as_str(), below, over.get(key)) {
            ("std", Value::Object(below), Some(Value::Object(over))) => {
                Value::Object(lay(below, over))
            }
            (_, _, Some(over)) => over.clone(),
            (_, below, None) => below.clone(),
        };
        (key.clone(), value)
    };
    base.iter().map(each).collect()
}

/// Forces the types of the specifications in a policy.
pub fn force_specs(spec: &mut Dict) -> Result<()> {
    force_types(spec, |name| row(SPECS, name).map(|row| row.kind), &[])
}

/// Changes the overrides of a policy and checks the outcome (Ganeti 3.0, `cmdlib/common.py` `GetUpdatedIPolicy`). A group's
/// values can be unset, with `default`, `["default"]` or anything empty; and a group has no `std`.
pub fn updated(old: &Dict, changes: &Dict, of_group: bool) -> Result<Dict> {
    let mut policy = old.clone();
    for (key, value) in changes {
        if !KEYS.contains(&key.as_str()) {
            return Err(GanetiError::wrong_input(format!("Invalid key in new ipolicy: {key}")));
        }
        let unset =
            !python::truthy(value) || *value == VALUE_DEFAULT || *value == json!([VALUE_DEFAULT]);
        if unset {
            if !of_group {
                // Ganeti: the stray quote is its own (3.0, cmdlib/common.py).
                return Err(GanetiError::wrong_input(format!(
                    "Can't unset ipolicy attribute '{key}' on the cluster'"
                )));
            }
            policy.shift_remove(key);
            continue;
        }
        let new = updated_value(old, key, value, of_group)?;
        policy.insert(key.clone(), new);
    }
    check_syntax(&policy, !of_group)
        .map_err(|error| GanetiError::wrong_input(format!("Invalid instance policy: {error}")))?;
    Ok(policy)
}

fn updated_value(old: &Dict, key: &str, value: &Value, of_group: bool) -> Result<Value> {
    if RATIOS.contains(&key) {
        return as_float(value).map(number).ok_or_else(|| {
            GanetiError::wrong_input(format!(
                "Invalid value for attribute '{key}': '{}', error: {}",
                python::str(value),
                not_a_float(value)
            ))
        });
    }
    match key {
        "minmax" => {
            let mut value = value.clone();
            for pair in value.as_array_mut().into_iter().flatten() {
                for spec in pair.as_object_mut().into_iter().flat_map(Dict::values_mut) {
                    if let Value::Object(spec) = spec {
                        force_specs(spec)?;
                    }
                }
            }
            Ok(value)
        }
        "std" if of_group => {
            Err(GanetiError::wrong_input(format!("{key} cannot appear in group instance specs")))
        }
        "std" => {
            let mut spec = super::inner(old, key).cloned().unwrap_or_default();
            spec.extend(value.as_object().cloned().unwrap_or_default());
            force_specs(&mut spec)?;
            Ok(Value::Object(spec))
        }
        _ => Ok(value.clone()),
    }
}

/// Why Python's `float` refuses a value.
fn not_a_float(value: &Value) -> String {
    match value {
        Value::String(text) => {
            format!("could not convert string to float: {}", python::repr_str(text))
        }
        other => format!(
            "float() argument must be a string or a real number, not '{}'",
            python::type_name(other)
        ),
    }
}

fn refuse<T>(text: impl Into<String>) -> Result<T> {
    Err(GanetiError::new(ErrorClass::ConfigurationError, text))
}

/// Checks a policy (Ganeti 3.0, `objects.py` `InstancePolicy.CheckParameterSyntax`); `with_std` for a whole one, where the
/// standard specification must be there and fit.
pub fn check_syntax(policy: &Dict, with_std: bool) -> Result<()> {
    check_specs(policy, with_std)?;
    if let Some(templates) = policy.get("disk-templates") {
        let templates = templates.as_array().map(Vec::as_slice).unwrap_or_default();
        if templates.is_empty() {
            return refuse("Instance policy must contain at least one disk template");
        }
        let wrong: Vec<String> = templates
            .iter()
            .filter(|name| name.as_str().and_then(DiskTemplate::parse).is_none())
            .map(python::str)
            .collect();
        if !wrong.is_empty() {
            return refuse(format!("Invalid disk template(s) {}", wrong.join(", ")));
        }
    }
    for key in RATIOS {
        if let Some(value) = policy.get(*key)
            && as_float(value).is_none()
        {
            return refuse(format!(
                "Invalid value for key '{key}': '{}', error: {}",
                python::str(value),
                not_a_float(value)
            ));
        }
    }
    let wrong: Vec<&str> =
        policy.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
    if !wrong.is_empty() {
        return refuse(format!("Invalid keys in ipolicy: {}", wrong.join(", ")));
    }
    Ok(())
}

fn check_complete(spec: &Dict, key: &str) -> Result<()> {
    let missing: Vec<&str> =
        SPECS.iter().map(|row| row.name).filter(|name| !spec.contains_key(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    refuse(format!("Missing instance specs parameters for {key}: {}", missing.join(", ")))
}

fn check_specs(policy: &Dict, with_std: bool) -> Result<()> {
    let Some(pairs) = policy.get("minmax") else { return Ok(()) };
    let std = super::inner(policy, "std");
    if with_std {
        match std {
            None => return refuse("Missing key in ipolicy: std"),
            Some(std) => check_complete(std, "std")?,
        }
    }
    let pairs = pairs.as_array().map(Vec::as_slice).unwrap_or_default();
    if pairs.is_empty() {
        return refuse("Empty minmax specifications");
    }
    let empty = Dict::new();
    let mut std_fits_one = false;
    for pair in pairs {
        let pair = pair.as_object().unwrap_or(&empty);
        let missing: Vec<&str> =
            ["max", "min"].into_iter().filter(|key| !pair.contains_key(*key)).collect();
        if !missing.is_empty() {
            return refuse(format!("Missing instance specification: {}", missing.join(", ")));
        }
        for (key, spec) in pair {
            check_complete(spec.as_object().unwrap_or(&empty), key)?;
        }
        let value =
            |key: &str, name: &str| pair[key].get(name).and_then(Value::as_i64).unwrap_or(0);
        let mut fits = true;
        for Row { name, .. } in SPECS {
            let (min, max) = (value("min", name), value("max", name));
            if min > max {
                return refuse(format!(
                    "Invalid specification of min/max values for {name}: {min}/{max}"
                ));
            }
            let std = std.and_then(|std| std.get(*name)).and_then(Value::as_i64).unwrap_or(min);
            fits &= !with_std || (min..=max).contains(&std);
        }
        std_fits_one |= fits;
    }
    if std_fits_one { Ok(()) } else { refuse("Invalid std specifications") }
}

/// Refuses a policy that allows disk templates which the cluster has not enabled (Ganeti 3.0, `cmdlib/common.py`
/// `CheckIpolicyVsDiskTemplates`).
pub fn check_templates_enabled(policy: &Dict, enabled: &[DiskTemplate]) -> Result<()> {
    let allowed = policy.get("disk-templates").and_then(Value::as_array);
    let wrong: Vec<&str> = allowed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|name| !enabled.iter().any(|template| template.as_str() == *name))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(GanetiError::wrong_input(format!(
        "The following disk templates are allowed by the ipolicy, but not enabled on the cluster: {}",
        wrong.join(", ")
    )))
}

/// What an instance needs, as a policy measures it; what is `None` is not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    pub memory_mib: Option<u64>,
    pub cpus: Option<u64>,
    pub nics: Option<u64>,
    pub spindle_use: Option<u64>,
    /// Of each disk.
    pub disk_sizes_mib: Vec<u64>,
    /// Of each disk.
    pub disk_types: Vec<DiskTemplate>,
}

/// How an instance breaks a filled policy, in Ganeti's words; nothing when it keeps to it (3.0, `cmdlib/common.py`
/// `ComputeIPolicySpecViolation`): the disk template, then the bounds of the min/max pair that is broken least.
pub fn violations(policy: &Dict, spec: &Spec) -> Vec<String> {
    let disk_count = spec.disk_sizes_mib.len() as u64;
    let mut tests: Vec<(&str, Option<usize>, Option<u64>)> = vec![
        ("memory-size", None, spec.memory_mib),
        ("cpu-count", None, spec.cpus),
        ("nic-count", None, spec.nics),
        ("spindle-use", None, spec.spindle_use),
    ];
    let disks = spec.disk_sizes_mib.iter().enumerate();
    tests.extend(disks.map(|(at, size)| ("disk-size", Some(at), Some(*size))));

    let allowed: Vec<&str> = policy
        .get("disk-templates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut found = Vec::new();
    if disk_count > 0 {
        tests.push(("disk-count", None, Some(disk_count)));
    } else if !allowed.contains(&DiskTemplate::Diskless.as_str()) {
        // Ganeti: this text has no colon, the next has (3.0, cmdlib/common.py).
        found.push(format!(
            "Disk template diskless is not allowed (allowed templates {})",
            allowed.join(", ")
        ));
    }
    let mut forbidden: Vec<&str> =
        spec.disk_types.iter().map(|template| template.as_str()).collect();
    forbidden.retain(|name| !allowed.contains(name));
    forbidden.sort_unstable();
    forbidden.dedup();
    if !forbidden.is_empty() {
        found.push(format!(
            "Disk template {} is not allowed (allowed templates: {})",
            forbidden.join(", "),
            allowed.join(", ")
        ));
    }
    let pairs = policy.get("minmax").and_then(Value::as_array).into_iter().flatten();
    let least = pairs
        .map(|pair| tests.iter().filter_map(|test| out_of_range(pair, *test)).collect::<Vec<_>>())
        .min_by_key(Vec::len);
    found.extend(least.unwrap_or_default());
    found
}

fn out_of_range(
    pair: &Value,
    (name, index, value): (&str, Option<usize>, Option<u64>),
) -> Option<String> {
    let value = i64::try_from(value?).unwrap_or(i64::MAX);
    let bound = |key: &str| {
        pair.get(key).and_then(|spec| spec.get(name)).and_then(Value::as_i64).unwrap_or(value)
    };
    let (min, max) = (bound("min"), bound("max"));
    if (min..=max).contains(&value) {
        return None;
    }
    let qualifier = index.map(|index| format!("/{index}")).unwrap_or_default();
    Some(format!("{name}{qualifier} value {value} is not in range [{min}, {max}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(value: Value) -> Dict {
        match value {
            Value::Object(dict) => dict,
            other => panic!("{other}"),
        }
    }

    fn small() -> Spec {
        Spec {
            memory_mib: Some(128),
            cpus: Some(1),
            nics: Some(1),
            spindle_use: Some(1),
            disk_sizes_mib: vec![1024],
            disk_types: vec![DiskTemplate::Plain],
        }
    }

    #[test]
    fn bounds_are_named_when_they_are_broken() {
        let check = |spec: Spec, expected: &[&str]| {
            assert_eq!(violations(&defaults(), &spec), expected);
        };
        check(small(), &[]);
        check(
            Spec { memory_mib: Some(64), disk_sizes_mib: vec![1024, 512], ..small() },
            &[
                "memory-size value 64 is not in range [128, 32768]",
                "disk-size/1 value 512 is not in range [1024, 1048576]",
            ],
        );
        check(Spec { disk_sizes_mib: vec![], disk_types: vec![], ..small() }, &[]);
        let only_plain = fill_over(&defaults(), &dict(json!({"disk-templates": ["plain"]})));
        assert_eq!(
            violations(&only_plain, &Spec { disk_types: vec![DiskTemplate::File], ..small() }),
            ["Disk template file is not allowed (allowed templates: plain)"]
        );
        assert_eq!(
            violations(
                &only_plain,
                &Spec { disk_sizes_mib: vec![], disk_types: vec![], ..small() }
            ),
            ["Disk template diskless is not allowed (allowed templates plain)"]
        );
    }

    #[test]
    fn one_pair_that_fits_is_enough() {
        let mut policy = defaults();
        let mut pair = policy["minmax"][0].clone();
        pair["min"]["memory-size"] = json!(32769);
        pair["max"]["memory-size"] = json!(65536);
        policy["minmax"] = json!([policy["minmax"][0], pair]);
        assert!(violations(&policy, &Spec { memory_mib: Some(40000), ..small() }).is_empty());
    }

    #[test]
    fn changes_are_checked() {
        let check = |changes: Value, of_group: bool, expected: Result<Value, &str>| {
            let old = if of_group { Dict::new() } else { defaults() };
            match (updated(&old, &dict(changes), of_group), expected) {
                (Ok(new), Ok(expected)) => {
                    for (key, value) in dict(expected) {
                        assert_eq!(new[&key], value);
                    }
                }
                (got, Err(text)) => assert_eq!(got.unwrap_err().args[0], json!(text)),
                (got, Ok(_)) => panic!("{got:?}"),
            }
        };
        check(json!({"bogus": 1}), false, Err("Invalid key in new ipolicy: bogus"));
        check(json!({"vcpu-ratio": "2.5"}), false, Ok(json!({"vcpu-ratio": 2.5})));
        check(
            json!({"vcpu-ratio": "x"}),
            false,
            Err(
                "Invalid value for attribute 'vcpu-ratio': 'x', error: could not convert string to float: 'x'",
            ),
        );
        check(
            json!({"vcpu-ratio": "default"}),
            false,
            Err("Can't unset ipolicy attribute 'vcpu-ratio' on the cluster'"),
        );
        check(json!({"vcpu-ratio": "default"}), true, Ok(json!({})));
        check(
            json!({"std": {"cpu-count": 1}}),
            true,
            Err("std cannot appear in group instance specs"),
        );
        check(json!({"std": {"cpu-count": "2"}}), false, Ok(json!({})));
        check(
            json!({"std": {"cpu-count": 20}}),
            false,
            Err("Invalid instance policy: Invalid std specifications"),
        );
        check(
            json!({"disk-templates": ["tape"]}),
            true,
            Err("Invalid instance policy: Invalid disk template(s) tape"),
        );
        check(
            json!({"minmax": [{"min": table_defaults(SPECS)}]}),
            true,
            Err("Invalid instance policy: Missing instance specification: max"),
        );
        let mut turned = defaults()["minmax"].clone();
        turned[0]["min"]["cpu-count"] = json!(9);
        check(
            json!({"minmax": turned}),
            true,
            Err(
                "Invalid instance policy: Invalid specification of min/max values for cpu-count: 9/8",
            ),
        );
    }

    #[test]
    fn std_is_filled_value_by_value() {
        let filled =
            fill_over(&defaults(), &dict(json!({"std": {"cpu-count": 4}, "vcpu-ratio": 2})));
        assert_eq!(filled["std"]["cpu-count"], 4);
        assert_eq!(filled["std"]["memory-size"], 128);
        assert_eq!(filled["vcpu-ratio"], 2);
        assert_eq!(filled["spindle-ratio"], 32);
    }
}
