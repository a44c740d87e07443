//! The types that parameters of opcodes have: how each is read from JSON, written back, and described in a schema.
//!
//! Reading is Ganeti's type check (3.1, `ht.py`): a value of the wrong type "fails validation" as a whole; an integer is
//! accepted where a float is wanted, a boolean is never taken for an integer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;
use std::ops::Deref;

use serde_json::{Map, Value, json};

/// A JSON object, in the order its members were given.
pub type Dict = Map<String, Value>;

/// A type that a parameter can have.
pub trait Param: Sized {
    /// Reads a value; `None` when it is not of this type.
    fn read(value: &Value) -> Option<Self>;

    /// Writes the value as it goes over the wire.
    fn write(&self) -> Value;

    /// The JSON Schema of the values that [`Param::read`] takes.
    fn schema() -> Value;

    /// Whether the value must not be shown to clients ([`Private`], [`Secret`]).
    const HIDDEN: Hidden = Hidden::No;
}

/// How far a parameter's value may travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Anywhere.
    No,
    /// Stored, but shown to nobody.
    Shown,
    /// Neither stored nor shown.
    Stored,
}

impl Param for String {
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
    fn write(&self) -> Value {
        json!(self)
    }
    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Param for bool {
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Value {
        json!(self)
    }
    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

impl Param for i64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_i64()
    }
    fn write(&self) -> Value {
        json!(self)
    }
    fn schema() -> Value {
        json!({"type": "integer"})
    }
}

impl Param for u64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()
    }
    fn write(&self) -> Value {
        json!(self)
    }
    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0})
    }
}

impl Param for NonZeroU64 {
    fn read(value: &Value) -> Option<Self> {
        Self::new(value.as_u64()?)
    }
    fn write(&self) -> Value {
        json!(self.get())
    }
    fn schema() -> Value {
        json!({"type": "integer", "minimum": 1})
    }
}

impl Param for f64 {
    fn read(value: &Value) -> Option<Self> {
        value.as_f64()
    }
    fn write(&self) -> Value {
        crate::units::number(*self)
    }
    fn schema() -> Value {
        json!({"type": "number"})
    }
}

impl Param for Value {
    fn read(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
    fn write(&self) -> Value {
        self.clone()
    }
    fn schema() -> Value {
        json!({})
    }
}

impl Param for Dict {
    fn read(value: &Value) -> Option<Self> {
        value.as_object().cloned()
    }
    fn write(&self) -> Value {
        Value::Object(self.clone())
    }
    fn schema() -> Value {
        json!({"type": "object"})
    }
}

impl<T: Param> Param for Option<T> {
    fn read(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value).map(Some) }
    }
    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }
    fn schema() -> Value {
        json!({"anyOf": [T::schema(), {"type": "null"}]})
    }
    const HIDDEN: Hidden = T::HIDDEN;
}

impl<T: Param> Param for Vec<T> {
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(T::read).collect()
    }
    fn write(&self) -> Value {
        self.iter().map(T::write).collect()
    }
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl<T: Param> Param for BTreeMap<String, T> {
    fn read(value: &Value) -> Option<Self> {
        value.as_object()?.iter().map(|(key, item)| Some((key.clone(), T::read(item)?))).collect()
    }
    fn write(&self) -> Value {
        Value::Object(self.iter().map(|(key, item)| (key.clone(), item.write())).collect())
    }
    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// Declares a text type with a check: `name, what the schema says, the check`.
macro_rules! text_params {
    ($($(#[doc = $doc:literal])* $Name:ident, $schema:expr, $check:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(String);

        impl $Name {
            /// Takes the text if it passes the check.
            pub fn new(text: impl Into<String>) -> Option<Self> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                check(&text).then_some(Self(text))
            }

            pub fn as_str(&self) -> &str { &self.0 }

            pub fn into_string(self) -> String { self.0 }
        }

        impl Deref for $Name {
            type Target = str;
            fn deref(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }

        impl Param for $Name {
            fn read(value: &Value) -> Option<Self> { Self::new(value.as_str()?) }
            fn write(&self) -> Value { json!(self.0) }
            fn schema() -> Value { $schema }
        }
    )*};
}

/// Splits `address/length` and checks the length against the family's bits. Ganeti: an address alone is a network of one
/// (3.0, `ht.py`).
fn is_network<T: std::str::FromStr>(text: &str, bits: u8) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    address.parse::<T>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= bits)
}

text_params! {
    /// A text that is not empty.
    NonEmpty, json!({"type": "string", "minLength": 1}), |text| !text.is_empty();
    /// An IPv4 address.
    Ip4, json!({"type": "string", "format": "ipv4"}), |text| text.parse::<Ipv4Addr>().is_ok();
    /// An IPv6 address.
    Ip6, json!({"type": "string", "format": "ipv6"}), |text| text.parse::<Ipv6Addr>().is_ok();
    /// An IPv4 network, `address/length`.
    Net4, json!({"type": "string", "pattern": "^[0-9.]+/[0-9]+$"}), |text| is_network::<Ipv4Addr>(text, 32);
    /// An IPv6 network, `address/length`.
    Net6, json!({"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]+$"}), |text| is_network::<Ipv6Addr>(text, 128);
}

/// Declares an enum whose members are texts on the wire.
macro_rules! param_enums {
    ($($(#[doc = $doc:literal])* $Name:ident { $($(#[doc = $mdoc:literal])* $Member:ident = $text:literal,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $Name { $($(#[doc = $mdoc])* #[serde(rename = $text)] $Member,)* }

        impl $Name {
            pub const ALL: &'static [Self] = &[$(Self::$Member,)*];

            /// The text on the wire.
            pub fn as_str(self) -> &'static str { match self { $(Self::$Member => $text,)* } }

            /// The member of that text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$Member),)* _ => None }
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl Param for $Name {
            fn read(value: &Value) -> Option<Self> { Self::parse(value.as_str()?) }
            fn write(&self) -> Value { json!(self.as_str()) }
            fn schema() -> Value { json!({"type": "string", "enum": [$($text,)*]}) }
        }
    )*};
}

param_enums! {
    /// Where an instance's disks live.
    DiskTemplate {
        Blockdev = "blockdev", Diskless = "diskless", Drbd = "drbd", Ext = "ext", File = "file",
        Gluster = "gluster", Plain = "plain", Rbd = "rbd", Sharedfile = "sharedfile",
    }
    /// What runs an instance.
    Hypervisor {
        Chroot = "chroot", Fake = "fake", Kvm = "kvm", Lxc = "lxc", XenHvm = "xen-hvm", XenPvm = "xen-pvm",
    }
    /// How a file-based disk is handed to the hypervisor.
    FileDriver { Blktap = "blktap", Blktap2 = "blktap2", Loop = "loop", }
    /// Where the contents of a new instance come from.
    CreateMode { Create = "create", Import = "import", RemoteImport = "remote-import", }
    /// Whether an export stays in this cluster.
    ExportMode { Local = "local", Remote = "remote", }
    /// Whether the instance runs on during a migration.
    MigrationMode { Live = "live", NonLive = "non-live", }
    /// How hard a reboot is: by the guest, by the hypervisor, or with its disks taken down in between.
    RebootType { Full = "full", Hard = "hard", Soft = "soft", }
    /// Which disks of a mirrored instance are replaced.
    ReplaceMode {
        Auto = "replace_auto", NewSecondary = "replace_new_secondary",
        OnPrimary = "replace_on_primary", OnSecondary = "replace_on_secondary",
    }
    /// Which instances leave a node.
    EvacuateMode { All = "all", PrimaryOnly = "primary-only", SecondaryOnly = "secondary-only", }
    /// Who changed an instance's desired state last.
    AdminStateSource { Admin = "admin", User = "user", }
    /// What an instance is meant to be.
    AdminState { Up = "up", Down = "down", Offline = "offline", }
    /// Whether new instances may go to a group.
    AllocPolicy { LastResort = "last_resort", Preferred = "preferred", Unallocable = "unallocable", }
    /// How a NIC is connected.
    NicMode { Bridged = "bridged", Openvswitch = "openvswitch", Pool = "pool", Routed = "routed", User = "user", }
    /// What kind of object carries a tag.
    TagKind {
        Cluster = "cluster", Instance = "instance", Network = "network", Node = "node", Nodegroup = "nodegroup",
    }
    /// Kinds of storage that a node reports on.
    StorageType {
        Blockdev = "blockdev", Diskless = "diskless", Ext = "ext", File = "file", Gluster = "gluster",
        LvmPv = "lvm-pv", LvmVg = "lvm-vg", Rados = "rados", Sharedfile = "sharedfile",
    }
    /// A check of the cluster that may be left out.
    VerifyCheck { HvparamAssessment = "hvparam_assessment", NPlusOneMem = "nplusone_mem", }
    /// Adds to or removes from a list of operating systems.
    ListChange { Add = "add", Attach = "attach", Detach = "detach", Remove = "remove", }
}

/// Declares a wrapper around another type with a check of its own.
macro_rules! checked_params {
    ($($(#[doc = $doc:literal])* $Name:ident($Inner:ty), $schema:expr, $hidden:expr, $read:expr;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $Name(pub $Inner);

        impl Deref for $Name {
            type Target = $Inner;
            fn deref(&self) -> &$Inner { &self.0 }
        }

        impl Param for $Name {
            fn read(value: &Value) -> Option<Self> {
                let read: fn(&Value) -> Option<$Inner> = $read;
                read(value).map(Self)
            }
            fn write(&self) -> Value { Param::write(&self.0) }
            fn schema() -> Value { $schema }
            const HIDDEN: Hidden = $hidden;
        }
    )*};
}

/// The keys of a NIC's description.
const NIC_KEYS: &[&str] = &["bridge", "ip", "link", "mac", "mode", "name", "network", "vlan"];

/// Ganeti: any key is taken here, and the job refuses those that the disk template does not know (3.0.2, `ht.py`).
fn read_disk(value: &Value) -> Option<Dict> {
    let dict = value.as_object()?;
    let plain = dict.iter().all(|(key, item)| {
        let text = item.as_str().is_some_and(|text| !text.is_empty());
        !key.is_empty() && (text || item.is_i64() || item.is_u64())
    });
    plain.then(|| dict.clone())
}

fn read_nic(value: &Value) -> Option<Dict> {
    let dict = value.as_object()?;
    let fits = dict.iter().all(|(key, item)| {
        NIC_KEYS.contains(&key.as_str()) && (item.is_string() || item.is_null())
    });
    fits.then(|| dict.clone())
}

fn object_of(keys: &[&str], item: &Value) -> Value {
    let properties: Dict = keys.iter().map(|key| ((*key).to_owned(), item.clone())).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

checked_params! {
    /// Parameters that are stored and never shown.
    Private(Dict), json!({"type": "object", "writeOnly": true}), Hidden::Shown, |value| value.as_object().cloned();
    /// Parameters that are neither stored nor shown.
    Secret(Dict), json!({"type": "object", "writeOnly": true}), Hidden::Stored, |value| value.as_object().cloned();
    /// The description of a disk: `size` in MiB or with a unit, `mode`, `name`, `vg`, `adopt`, …
    DiskSpec(Dict),
        json!({"type": "object", "additionalProperties": {"type": ["string", "integer"]}}), Hidden::No, read_disk;
    /// The description of a NIC: `mac`, `ip`, `mode`, `link`, `vlan`, `network`, `name`, `bridge`.
    NicSpec(Dict), object_of(NIC_KEYS, &json!({"type": ["string", "null"]})), Hidden::No, read_nic;
    /// Disk parameters, by disk template.
    DiskParams(BTreeMap<String, Dict>),
        json!({"type": "object", "propertyNames": DiskTemplate::schema(), "additionalProperties": {"type": "object"}}),
        Hidden::No, |value| {
            let known = value.as_object()?.keys().all(|name| DiskTemplate::parse(name).is_some());
            if known { Param::read(value) } else { None }
        };
    /// An instance policy or the part of one that changes; the job refuses keys that it does not have.
    IPolicySpec(Dict), json!({"type": "object", "properties": {
        "minmax": {"type": "array", "items": {"type": "object"}},
        "std": {"type": "object"},
        "disk-templates": {"type": "array", "items": DiskTemplate::schema()},
        "vcpu-ratio": {"type": "number"},
        "spindle-ratio": {"type": "number"},
    }}), Hidden::No, |value| value.as_object().cloned();
    /// Where an export goes: a node, or for a remote export the receiving end of each disk.
    ExportTarget(Value), json!({"anyOf": [{"type": "string", "minLength": 1}, {"type": "array"}]}), Hidden::No, |value| {
        let fits = value.is_array() || value.as_str().is_some_and(|node| !node.is_empty());
        fits.then(|| value.clone())
    };
    /// The index of a disk, 0 to 15.
    DiskIndex(u64), json!({"type": "integer", "minimum": 0, "maximum": 15}), Hidden::No,
        |value| value.as_u64().filter(|index| *index < 16);
    /// A range of user ids, `[low, high]`.
    UidRange((i64, i64)), json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        Hidden::No, |value| match value.as_array()?.as_slice() {
            [low, high] => Some((low.as_i64()?, high.as_i64()?)),
            _ => None,
        };
    /// A change of a list of operating systems, `["add", NAME]` or `["remove", NAME]`.
    OsListChange((String, String)), json!({"type": "array", "minItems": 2, "maxItems": 2}), Hidden::No,
        |value| match value.as_array()?.as_slice() {
            [change, name] => Some((
                ListChange::parse(change.as_str()?)?.as_str().to_owned(),
                name.as_str().filter(|name| !name.is_empty())?.to_owned(),
            )),
            _ => None,
        };
    /// Changes of an instance's disks: `[action, index or name, description]`, or the older `[action or index, description]`.
    DiskChanges(Vec<ItemChange>), ItemChange::schema(), Hidden::No, |value| read_changes(value, read_disk);
    /// Changes of an instance's NICs, in the same forms.
    NicChanges(Vec<ItemChange>), ItemChange::schema(), Hidden::No, |value| read_changes(value, read_nic);
    /// The disks to make again: indices, or `[index, {size, mode, spindles}]` each; none means all.
    RecreateDisks(Vec<(u64, Dict)>), json!({"type": "array"}), Hidden::No, read_recreate;
}

impl Param for (i64, i64) {
    fn read(value: &Value) -> Option<Self> {
        UidRange::read(value).map(|range| range.0)
    }
    fn write(&self) -> Value {
        json!([self.0, self.1])
    }
    fn schema() -> Value {
        UidRange::schema()
    }
}

impl Param for (String, String) {
    fn read(value: &Value) -> Option<Self> {
        OsListChange::read(value).map(|change| change.0)
    }
    fn write(&self) -> Value {
        json!([self.0, self.1])
    }
    fn schema() -> Value {
        OsListChange::schema()
    }
}

impl Param for (u64, Dict) {
    fn read(value: &Value) -> Option<Self> {
        match value.as_array()?.as_slice() {
            [index, changes] => Some((index.as_u64()?, changes.as_object()?.clone())),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        json!([self.0, self.1])
    }
    fn schema() -> Value {
        json!({"type": "array"})
    }
}

fn read_recreate(value: &Value) -> Option<Vec<(u64, Dict)>> {
    let items = value.as_array()?;
    if items.first().is_some_and(Value::is_u64) {
        // Ganeti: a list of indices stands for the set of them (3.0, cmdlib/instance_storage.py).
        let indices: Option<std::collections::BTreeSet<u64>> =
            items.iter().map(Value::as_u64).collect();
        return Some(indices?.into_iter().map(|index| (index, Dict::new())).collect());
    }
    let item = |item: &Value| match item.as_u64() {
        Some(index) => Some((index, Dict::new())),
        None => <(u64, Dict)>::read(item),
    };
    items.iter().map(item).collect()
}

/// One change of a list of disks or NICs.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemChange {
    /// `add`, `modify`, `remove`, `attach` or `detach`; in the older form perhaps an index, which means modify.
    pub action: String,
    /// An index (-1 is the last), a name or a UUID.
    pub identifier: Value,
    pub params: Dict,
    /// Whether it came in the older form of two elements.
    pub legacy: bool,
}

impl Param for ItemChange {
    fn read(value: &Value) -> Option<Self> {
        read_change(value, |params| params.as_object().cloned())
    }
    fn write(&self) -> Value {
        if self.legacy {
            match &self.identifier {
                Value::Number(index) if self.action == "modify" => json!([index, self.params]),
                _ => json!([self.action, self.params]),
            }
        } else {
            json!([self.action, self.identifier, self.params])
        }
    }
    fn schema() -> Value {
        json!({"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 3}})
    }
}

fn read_change(value: &Value, read: fn(&Value) -> Option<Dict>) -> Option<ItemChange> {
    match value.as_array()?.as_slice() {
        [action, identifier, params] => {
            let action = action.as_str()?;
            let known = ["add", "modify", "remove", "attach", "detach"].contains(&action);
            (known && (identifier.is_i64() || identifier.is_u64() || identifier.is_string()))
                .then_some(())?;
            Some(ItemChange {
                action: action.to_owned(),
                identifier: identifier.clone(),
                params: read(params)?,
                legacy: false,
            })
        }
        [first, params] => {
            let (action, identifier) = match first {
                Value::String(action) if action != "modify" => {
                    ["add", "remove", "attach", "detach"]
                        .contains(&action.as_str())
                        .then_some(())?;
                    (action.clone(), json!(-1))
                }
                Value::Number(index) if index.is_u64() => ("modify".to_owned(), first.clone()),
                _ => return None,
            };
            Some(ItemChange { action, identifier, params: read(params)?, legacy: true })
        }
        _ => None,
    }
}

fn read_changes(value: &Value, read: fn(&Value) -> Option<Dict>) -> Option<Vec<ItemChange>> {
    value.as_array()?.iter().map(|item| read_change(item, read)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_as_strict_as_pythons() {
        assert_eq!(u64::read(&json!(true)), None);
        assert_eq!(f64::read(&json!(1)), Some(1.0));
        assert_eq!(i64::read(&json!(1.0)), None);
        assert_eq!(NonEmpty::read(&json!("")), None);
        assert_eq!(Option::<u64>::read(&Value::Null), Some(None));
        assert_eq!(DiskIndex::read(&json!(16)), None);
        assert!(Net4::read(&json!("10.0.0.0/33")).is_none());
    }

    #[test]
    fn changes_have_two_forms() {
        let check = |value: Value| {
            let read = DiskChanges::read(&value).unwrap();
            assert_eq!(read.write(), value);
        };
        check(json!([["add", -1, {"size": 1024}], ["remove", "data", {}]]));
        check(json!([["add", {"size": "1g"}], [0, {"mode": "ro"}]]));
        assert!(DiskChanges::read(&json!([["modify", {"size": 1}]])).is_none());
        assert!(NicChanges::read(&json!([["add", 0, {"size": "1"}]])).is_none());
    }
}
