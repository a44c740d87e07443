//! Which values each parameter takes, against what Ganeti 3.0.2's own checks say of the same values (`ht.py`).
//!
//! The first line of the fixture is the values; each further one is an opcode, a parameter and a verdict on each value: `1` is taken,
//! `0` is not, `u` stops Python's check with "unhashable type", which is a refusal too; `x` stops it with another exception.

use serde_json::Value;

use model::opcode::{COMMON_PARAMS, OpId, ParamDef};

/// Parameters that are of another type here, and why.
fn is_other_here(op: &str, name: &str, value: &Value) -> bool {
    match (op, name) {
        // Filled by the door and by nobody else.
        ("COMMON", "reason") | ("OP_INSTANCE_MULTI_ALLOC", "instances") => true,
        // Checked apart, because an opcode's own priority may drift away from these while it waits.
        ("COMMON", "priority") => true,
        // Ganeti wraps the values before it checks them, which the fixture does not.
        (_, "osparams_private" | "osparams_secret" | "osparams_private_cluster") => true,
        // Whole numbers are as good.
        (_, "duration" | "zeroing_timeout_per_mib") => value.is_i64(),
        // A disk template that does not exist is refused by the job here.
        (_, "diskparams") => true,
        // A mode of our own.
        (_, "network_mode") => value == "user",
        // Ganeti takes an address for a network of one host, which the job then finds too small.
        (_, "network" | "network6") => value.as_str().is_some_and(|text| !text.contains('/')),
        _ => false,
    }
}

#[test]
fn parameters_take_what_ganeti_takes() {
    let mut lines = include_str!("../fixtures/types.txt").lines();
    let values: Vec<Value> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let mut wrong = Vec::new();
    for line in lines {
        let [op, name, verdicts] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let params: &[ParamDef] =
            if op == "COMMON" { COMMON_PARAMS } else { OpId::parse(op).unwrap().def().params };
        let Some(param) = params.iter().find(|param| param.name == name) else {
            wrong.push(format!("{op}.{name} is missing"));
            continue;
        };
        for (value, verdict) in values.iter().zip(verdicts.chars()) {
            let same = (param.check)(value) == (verdict == '1');
            if verdict != 'x' && !same && !is_other_here(op, name, value) {
                wrong.push(format!("{op}.{name}: {value} is {verdict} there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
