//! Opcodes as they are submitted: as Ganeti's daemon sends them, with what was given and without what is not. The master daemon
//! fills in the rest by its own tables, so that its release decides.

use model::compat::Compat;
use model::opcode::{Audience, COMMON_PARAMS, Op, OpId};
use model::param::Dict;
use serde_json::Value;

/// What an opcode always has on the wire: luxid refuses one without (3.0.2).
const ALWAYS: [&str; 2] = ["OP_ID", "reason"];

/// A job as an argument of a call.
pub(crate) fn job(ops: &[Op], compat: Compat) -> Value {
    ops.iter().map(|op| Value::Object(opcode(op, compat))).collect()
}

fn opcode(op: &Op, compat: Compat) -> Dict {
    let id = op.code.id();
    let mut wire = op.to_wire(Audience::Engine, compat);
    // Ganeti: creations inside a multi-allocation go out whole, and luxid tells a null there from nothing (3.0.2).
    drop_defaults(id, &mut wire, compat);
    wire
}

fn drop_defaults(id: OpId, wire: &mut Dict, compat: Compat) {
    wire.retain(|name, value| {
        if ALWAYS.contains(&name.as_str()) {
            return true;
        }
        let own = id.params(compat).find(|param| param.name == name);
        let param = own.or_else(|| COMMON_PARAMS.iter().find(|param| param.name == name));
        param.and_then(|param| param.default_value(id, compat)).as_ref() != Some(value)
    });
}

#[cfg(test)]
mod tests {
    use model::opcode::{InstanceStartup, TagsSet};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_opcode_goes_out_as_it_was_given() {
        let check = |id: OpId, given: Value, expected: Value| {
            let op = id.read(given.as_object().unwrap(), Compat::V30).unwrap();
            assert_eq!(job(&[op], Compat::V30), json!([expected]));
        };
        check(
            <InstanceStartup as model::opcode::Opcode>::ID,
            json!({"instance_name": "web1", "force": false, "reason": [["a", "b", 1]]}),
            json!({"OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "web1", "reason": [["a", "b", 1]]}),
        );
        check(
            <TagsSet as model::opcode::Opcode>::ID,
            json!({"kind": "cluster", "tags": ["a"], "name": null, "dry_run": false}),
            json!({"OP_ID": "OP_TAGS_SET", "kind": "cluster", "tags": ["a"], "dry_run": false, "reason": []}),
        );
    }

    #[test]
    fn creations_inside_a_multi_allocation_go_out_as_they_are() {
        let given = json!({"iallocator": "hail", "opportunistic_locking": false, "instances": [{
            "OP_ID": "OP_INSTANCE_CREATE", "instance_name": "a", "disks": [], "nics": [{}], "mode": "create",
            "disk_template": "diskless", "start": true, "osparams_private": null,
        }]});
        let op = OpId::InstanceMultiAlloc.read(given.as_object().unwrap(), Compat::V30).unwrap();
        let sent = &job(&[op], Compat::V30)[0];
        assert_eq!(sent.get("opportunistic_locking"), None, "a default is not sent");
        assert_eq!(sent["instances"], given["instances"]);
    }

    #[test]
    fn the_release_decides_what_a_default_is() {
        let create = json!({"instance_name": "a", "disks": [], "nics": [], "mode": "create", "ip_check": true});
        let sent = |compat| {
            let op = OpId::InstanceCreate.read(create.as_object().unwrap(), compat).unwrap();
            job(&[op], compat)[0].get("ip_check").cloned()
        };
        assert_eq!((sent(Compat::V30), sent(Compat::V31)), (None, Some(json!(true))));
    }
}
