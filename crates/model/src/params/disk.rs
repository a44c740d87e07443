//! Disk parameters: how disks of a template are made. Layers: cluster, node group; per template.

use serde_json::Value;

use super::{Kind, Lit, Row, defaults as table_defaults, force_types, overlay};
use crate::config::{Cluster, NodeGroup};
use crate::error::{GanetiError, Result};
use crate::param::{Dict, DiskTemplate};
use crate::python;

const ACCESS: Row = Row::new(
    "access",
    Kind::Text,
    Lit::Text("kernelspace"),
    "Whether the kernel or the hypervisor talks to the storage: kernelspace, userspace",
);

const DRBD: &[Row] = &[
    Row::new("c-delay-target", Kind::Int, Lit::Int(1), "Dynamic resync: delay aimed at, 0.1 s"),
    Row::new(
        "c-fill-target",
        Kind::Int,
        Lit::Int(0),
        "Dynamic resync: data in flight aimed at, sectors",
    ),
    Row::new("c-max-rate", Kind::Int, Lit::Int(61440), "Dynamic resync: highest rate, KiB/s"),
    Row::new("c-min-rate", Kind::Int, Lit::Int(4096), "Dynamic resync: lowest rate, KiB/s"),
    Row::new("c-plan-ahead", Kind::Int, Lit::Int(20), "Dynamic resync: how far it plans, 0.1 s"),
    Row::new("data-stripes", Kind::Int, Lit::Int(1), "Stripes of the data volume"),
    Row::new(
        "disk-barriers",
        Kind::Text,
        Lit::Text("n"),
        "Barriers not used: any of b, f, d, or n",
    ),
    Row::new("disk-custom", Kind::Text, Lit::Text(""), "Further options for the disk section"),
    Row::new("dynamic-resync", Kind::Bool, Lit::Bool(false), "Whether the resync rate adapts"),
    Row::new(
        "meta-barriers",
        Kind::Bool,
        Lit::Bool(false),
        "Whether meta data goes without barriers",
    ),
    Row::new("meta-stripes", Kind::Int, Lit::Int(1), "Stripes of the meta data volume"),
    Row::new("metavg", Kind::Text, Lit::Text("xenvg"), "Volume group of the meta data"),
    Row::new("net-custom", Kind::Text, Lit::Text(""), "Further options for the net section"),
    Row::new("protocol", Kind::Text, Lit::Text("C"), "Replication protocol"),
    Row::new("resync-rate", Kind::Int, Lit::Int(61440), "Static resync rate, KiB/s"),
];

const PLAIN: &[Row] = &[Row::new("stripes", Kind::Int, Lit::Int(1), "Stripes of a volume")];

const RBD: &[Row] =
    &[ACCESS, Row::new("pool", Kind::Text, Lit::Text("rbd"), "Pool of the volumes")];

const EXT: &[Row] = &[ACCESS];

const GLUSTER: &[Row] = &[
    ACCESS,
    Row::new("host", Kind::Text, Lit::Text("127.0.0.1"), "Server of the volume"),
    Row::new("port", Kind::Int, Lit::Int(24007), "Port of the server"),
    Row::new("volume", Kind::Text, Lit::Text("gv0"), "Name of the volume"),
];

/// The templates whose disks can be reached in more than one way.
pub const HAVE_ACCESS: &[DiskTemplate] = &[DiskTemplate::Gluster, DiskTemplate::Rbd];

/// The parameters of a template, sorted by name.
pub fn table(template: DiskTemplate) -> &'static [Row] {
    match template {
        DiskTemplate::Drbd => DRBD,
        DiskTemplate::Plain => PLAIN,
        DiskTemplate::Rbd => RBD,
        DiskTemplate::Ext => EXT,
        DiskTemplate::Gluster => GLUSTER,
        DiskTemplate::Blockdev
        | DiskTemplate::Diskless
        | DiskTemplate::File
        | DiskTemplate::Sharedfile => &[],
    }
}

/// The built-in defaults: by template, all templates.
pub fn defaults() -> Dict {
    let each = |template: &DiskTemplate| {
        (template.as_str().to_owned(), Value::Object(table_defaults(table(*template))))
    };
    DiskTemplate::ALL.iter().map(each).collect()
}

/// Cluster < group, by template, all templates (Ganeti 3.0, `objects.py` `FillDiskParams`).
pub fn fill(cluster: &Cluster, group: Option<&NodeGroup>) -> Dict {
    let each = |template: &DiskTemplate| {
        (template.as_str().to_owned(), Value::Object(fill_template(cluster, group, *template)))
    };
    DiskTemplate::ALL.iter().map(each).collect()
}

/// Cluster < group, of one template.
pub fn fill_template(cluster: &Cluster, group: Option<&NodeGroup>, template: DiskTemplate) -> Dict {
    let mut filled = table_defaults(table(template));
    overlay(&mut filled, &cluster.diskparams, template.as_str());
    if let Some(group) = group {
        overlay(&mut filled, &group.diskparams, template.as_str());
    }
    filled
}

/// Forces types of parameters by template. As in Ganeti the type goes by the name alone, whatever the template
/// (3.0, `constants.DISK_DT_TYPES`).
pub fn force(params: &mut Dict, allow_default: bool) -> Result<()> {
    let kind = |name: &str| {
        let all = DiskTemplate::ALL.iter().flat_map(|template| table(*template));
        all.into_iter().find(|row| row.name == name).map(|row| row.kind)
    };
    let allowed: &[&str] = if allow_default { &[super::VALUE_DEFAULT] } else { &[] };
    for value in params.values_mut() {
        if let Value::Object(of_template) = value {
            force_types(of_template, kind, allowed)?;
        }
    }
    Ok(())
}

/// Checks parameters by template after their types were forced: names belong to the template, access modes are known
/// (Ganeti 3.0, `utils.VerifyDictOptions` and `cmdlib/common.py` `CheckDiskAccessModeValidity`). Without `access`, the mode is
/// not looked at, as when a group is made.
pub fn check(params: &Dict, access: bool) -> Result<()> {
    let mut unknown = Vec::new();
    for (name, of_template) in params {
        let Some(template) = DiskTemplate::parse(name) else {
            unknown.push(name.clone());
            continue;
        };
        for key in of_template.as_object().into_iter().flat_map(Dict::keys) {
            if super::row(table(template), key).is_none() {
                unknown.push(format!("{name}/{key}"));
            }
        }
    }
    let wrap = |error: GanetiError| {
        GanetiError::wrong_input(format!("While verify diskparams options: {error}"))
    };
    if !unknown.is_empty() {
        let text = format!("Provided option keys not supported: {}", unknown.join(", "));
        return Err(wrap(GanetiError::wrong_input(text)));
    }
    if access { check_access(params).map_err(wrap) } else { Ok(()) }
}

/// Checks the access modes alone.
pub fn check_access(params: &Dict) -> Result<()> {
    for (template, of_template) in params {
        let Some(access) = of_template.get("access") else { continue };
        if access != "kernelspace" && access != "userspace" {
            return Err(GanetiError::prereq_plain(format!(
                "Invalid value of '{template}:access': '{}' (expected one of kernelspace, userspace)",
                python::str(access)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_belong_to_templates() {
        let check_text = |params: Value, expected: Result<(), &str>| {
            let got = check(params.as_object().unwrap(), true);
            assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
        };
        check_text(json!({"drbd": {"protocol": "A"}, "rbd": {"access": "userspace"}}), Ok(()));
        check_text(
            json!({"plain": {"protocol": "A"}}),
            Err(
                "(\"While verify diskparams options: ('Provided option keys not supported: plain/protocol', \
                 'wrong_input')\", 'wrong_input')",
            ),
        );
        check_text(
            json!({"rbd": {"access": "pink bunny"}}),
            Err(
                "(\"While verify diskparams options: Invalid value of 'rbd:access': 'pink bunny' (expected one of \
                 kernelspace, userspace)\", 'wrong_input')",
            ),
        );
    }
}
