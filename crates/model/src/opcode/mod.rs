//! The opcodes: one table, one parameter struct per row.
//!
//! An opcode is declared once, in the file of its noun: its id, hooks path, summary and parameters with their types, defaults
//! and meaning. To add one, declare it there and give it a row in [`for_each_opcode!`](crate::for_each_opcode). The wire
//! form, the checks, the schemas and the executor's dispatch follow from that.

use serde_json::{Value, json};

use crate::compat::Compat;
use crate::error::GanetiError;
use crate::job::{Depend, ReasonEntry};
use crate::param::{Dict, Hidden, Param};
use crate::python;

/// One parameter of an opcode, as the table declares it.
#[derive(Clone, Copy)]
pub struct ParamDef {
    pub name: &'static str,
    /// What it means, in one or two sentences.
    pub doc: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// Its value when it is not given; `None` for one that must be.
    pub default: Option<fn() -> Value>,
    /// Whether a value is of the parameter's type.
    pub check: fn(&Value) -> bool,
    /// The JSON Schema of its values.
    pub schema: fn() -> Value,
    /// How far its value may travel.
    pub hidden: Hidden,
}

/// What the table says of one opcode.
pub struct OpDef {
    /// The id on the wire, `OP_INSTANCE_CREATE`.
    pub id: &'static str,
    /// The name of the struct, `InstanceCreate`; Ganeti's class has `Op` before it.
    pub name: &'static str,
    pub doc: &'static str,
    /// The directory of its hooks, where it has any.
    pub hooks: Option<&'static str>,
    /// The parameter that its summary shows in brackets.
    pub summary: Option<&'static str>,
    pub params: &'static [ParamDef],
}

/// A parameter struct of the table.
pub trait Opcode: Sized {
    const ID: OpId;
    const DEF: &'static OpDef;

    /// Reads the opcode's own parameters; those not given have their defaults.
    fn read(params: &Dict, compat: Compat) -> Result<Self, ParamError>;

    /// Writes all of them, in the order of the table; what is hidden from `audience` is `null`.
    fn write(&self, audience: Audience) -> Dict;
}

/// Who will see an opcode that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    /// The engine itself, in memory.
    Engine,
    /// The job store: no secrets.
    Store,
    /// Clients: no private values either.
    Client,
}

impl Audience {
    /// Whether a parameter's value may be seen.
    pub fn sees(self, hidden: Hidden) -> bool {
        match hidden {
            Hidden::No => true,
            Hidden::Shown => self < Self::Client,
            Hidden::Stored => self < Self::Store,
        }
    }

    /// What is written of a value that may not be seen. The store keeps which secrets there were, so that a job that lost
    /// them is not run without.
    pub fn hide(self, value: &Value) -> Value {
        match value.as_object() {
            // What is empty gives nothing away.
            Some(empty) if empty.is_empty() => json!({}),
            Some(params) if self == Self::Store => {
                params.keys().map(|name| (name.clone(), json!(REDACTED))).collect()
            }
            _ => Value::Null,
        }
    }
}

/// What stands for a secret that is not kept.
const REDACTED: &str = "<redacted>";

/// Why parameters were refused; the texts are Ganeti's (3.1, `opcodes_base.py`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    #[error("Object Op{op} doesn't support the parameter '{param}'")]
    Unknown { op: &'static str, param: String },
    #[error("('Parameter '{id}.{param}' fails validation', 'wrong_input')")]
    Invalid { id: &'static str, param: &'static str },
    #[error("Unknown opcode '{0}'")]
    UnknownOpcode(String),
}

impl ParamError {
    /// The message with its tuple written as Python writes it: the inner quotes make the text a double-quoted one.
    pub fn python_text(&self) -> String {
        match self {
            Self::Invalid { id, param } => {
                let text = format!("Parameter '{id}.{param}' fails validation");
                GanetiError::wrong_input(text).to_string()
            }
            Self::Unknown { .. } | Self::UnknownOpcode(_) => self.to_string(),
        }
    }
}

/// Hands every row of the opcode table to the macro named by the caller.
#[macro_export]
macro_rules! for_each_opcode {
    ($callback:ident) => {
        $callback! {
            // parameters                in the file
            ClusterRedistConf            cluster,
            ClusterRepairDiskSizes       cluster,
            ClusterSetParams             cluster,
            ClusterVerify                cluster,
            ClusterVerifyConfig          cluster,
            ClusterVerifyDisks           cluster,
            ClusterVerifyGroup           cluster,
            ExtStorageDiagnose           cluster,
            OsDiagnose                   cluster,
            GroupAdd                     group,
            GroupAssignNodes             group,
            GroupEvacuate                group,
            GroupRemove                  group,
            GroupRename                  group,
            GroupSetParams               group,
            GroupVerifyDisks             group,
            NodeEvacuate                 node,
            NodeMigrate                  node,
            NodeModifyStorage            node,
            NodePowercycle               node,
            NodeQueryStorage             node,
            NodeQueryvols                node,
            NodeSetParams                node,
            RepairNodeStorage            node,
            InstanceActivateDisks        instance,
            InstanceChangeGroup          instance,
            InstanceCreate               instance,
            InstanceDeactivateDisks      instance,
            InstanceFailover             instance,
            InstanceGrowDisk             instance,
            InstanceMigrate              instance,
            InstanceMultiAlloc           instance,
            InstanceQueryData            instance,
            InstanceReboot               instance,
            InstanceRecreateDisks        instance,
            InstanceReinstall            instance,
            InstanceRemove               instance,
            InstanceRename               instance,
            InstanceReplaceDisks         instance,
            InstanceSetParams            instance,
            InstanceShutdown             instance,
            InstanceStartup              instance,
            BackupExport                 backup,
            BackupPrepare                backup,
            BackupRemove                 backup,
            NetworkAdd                   network,
            NetworkConnect               network,
            NetworkDisconnect            network,
            NetworkRemove                network,
            NetworkRename                network,
            NetworkSetParams             network,
            TagsDel                      tags,
            TagsSearch                   tags,
            TagsSet                      tags,
            TestDelay                    test,
        }
    };
}

/// Declares the opcodes of one noun: a struct each, and what the table says of it.
macro_rules! opcodes {
    ($(
        #[doc = $doc:literal]
        $Op:ident $id:literal hooks($($hooks:literal)?) summary($($summary:ident)?) {
            $( $(#[doc = $pdoc:literal])+ $param:ident : $Type:ty $(= $default:expr)?, )*
        }
    )*) => {$(
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Op { $( $(#[doc = $pdoc])+ pub $param: $Type, )* }

        impl $crate::opcode::Opcode for $Op {
            const ID: $crate::opcode::OpId = $crate::opcode::OpId::$Op;
            const DEF: &'static $crate::opcode::OpDef = &$crate::opcode::OpDef {
                id: $id,
                name: stringify!($Op),
                doc: $doc,
                hooks: opcodes!(@some $($hooks)?),
                summary: opcodes!(@some $($crate::opcode::plain(stringify!($summary)))?),
                params: &[$( $crate::opcode::ParamDef {
                    name: $crate::opcode::plain(stringify!($param)),
                    doc: concat!($($pdoc),+),
                    required: opcodes!(@required $($default)?),
                    default: opcodes!(@default $Type $(, $default)?),
                    check: |value| <$Type as $crate::param::Param>::read(value).is_some(),
                    schema: <$Type as $crate::param::Param>::schema,
                    hidden: <$Type as $crate::param::Param>::HIDDEN,
                }, )*],
            };

            fn read(
                params: &$crate::param::Dict,
                compat: $crate::compat::Compat,
            ) -> Result<Self, $crate::opcode::ParamError> {
                let _ = (params, compat); // an opcode may have no parameters
                Ok(Self { $(
                    $param: $crate::opcode::read_param::<$Type>(Self::ID, params, compat, $crate::opcode::plain(stringify!($param)))?,
                )* })
            }

            fn write(&self, audience: $crate::opcode::Audience) -> $crate::param::Dict {
                let _ = audience; // an opcode may have no parameters
                #[allow(unused_mut, clippy::allow_attributes, reason = "an opcode may have no parameters")]
                let mut dict = $crate::param::Dict::new();
                $(
                    let seen = audience.sees(<$Type as $crate::param::Param>::HIDDEN);
                    let value = $crate::param::Param::write(&self.$param);
                    let value = if seen { value } else { audience.hide(&value) };
                    dict.insert($crate::opcode::plain(stringify!($param)).to_owned(), value);
                )*
                dict
            }
        }
    )*};
    (@some) => { None };
    (@some $value:expr) => { Some($value) };
    (@required) => { true };
    (@required $default:expr) => { false };
    (@default $Type:ty) => { None };
    (@default $Type:ty, $default:expr) => {
        Some(|| { let value: $Type = $default; $crate::param::Param::write(&value) })
    };
}

pub mod backup;
pub mod cluster;
pub mod group;
pub mod instance;
pub mod network;
pub mod node;
pub mod tags;
pub mod test;

macro_rules! define_opcodes {
    ($($Op:ident $noun:ident,)*) => {
        $(pub use $noun::$Op;)*

        /// An opcode with its own parameters.
        #[derive(Clone, Debug, PartialEq)]
        pub enum OpCode { $(#[doc = concat!("See [`", stringify!($Op), "`].")] $Op(Box<$Op>),)* }

        /// The name of an opcode.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum OpId { $(#[doc = concat!("See [`", stringify!($Op), "`].")] $Op,)* }

        impl OpId {
            pub const ALL: &'static [Self] = &[$(Self::$Op,)*];

            /// What the table says of it.
            pub fn def(self) -> &'static OpDef {
                match self { $(Self::$Op => <$Op as Opcode>::DEF,)* }
            }

            fn read_own(self, params: &Dict, compat: Compat) -> Result<OpCode, ParamError> {
                match self { $(Self::$Op => <$Op as Opcode>::read(params, compat).map(|op| OpCode::$Op(Box::new(op))),)* }
            }
        }

        impl OpCode {
            pub fn id(&self) -> OpId {
                match self { $(Self::$Op(_) => OpId::$Op,)* }
            }

            fn write_own(&self, audience: Audience) -> Dict {
                match self { $(Self::$Op(op) => op.write(audience),)* }
            }
        }

        $(impl From<$Op> for OpCode {
            fn from(op: $Op) -> Self { Self::$Op(Box::new(op)) }
        })*
    };
}
for_each_opcode!(define_opcodes);

/// Defaults that an older release had: opcode, parameter, the older value (opcodes.json, "3.0->3.1").
const DEFAULTS_30: &[(OpId, &str, bool)] = &[
    (OpId::InstanceCreate, "name_check", true),
    (OpId::InstanceCreate, "ip_check", true),
    (OpId::InstanceRename, "name_check", true),
    (OpId::InstanceRename, "ip_check", true),
    (OpId::InstanceSetParams, "hotplug", false),
];

/// Parameters that only one release has.
const ONLY_IN: &[(Compat, OpId, &str)] = &[
    (Compat::V30, OpId::InstanceSetParams, "hotplug_if_possible"),
    (Compat::V31, OpId::ClusterVerifyDisks, "is_strict"),
    (Compat::V31, OpId::GroupVerifyDisks, "is_strict"),
];

/// Whether an opcode has a parameter in a release.
fn exists_in(compat: Compat, id: OpId, name: &str) -> bool {
    !ONLY_IN.iter().any(|(only, op, param)| *op == id && *param == name && *only != compat)
}

impl ParamDef {
    /// The value when none is given, in the release that is spoken.
    pub fn default_value(&self, id: OpId, compat: Compat) -> Option<Value> {
        if compat == Compat::V30
            && let Some((_, _, value)) =
                DEFAULTS_30.iter().find(|(op, name, _)| *op == id && *name == self.name)
        {
            return Some(json!(value));
        }
        self.default.map(|default| default())
    }
}

impl OpId {
    /// The opcode of a wire id.
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.def().id == id)
    }

    pub fn as_str(self) -> &'static str {
        self.def().id
    }

    /// The parameters that exist in the release that is spoken.
    pub fn params(self, compat: Compat) -> impl Iterator<Item = &'static ParamDef> {
        self.def().params.iter().filter(move |param| exists_in(compat, self, param.name))
    }

    /// Reads an opcode from its parameters and the common ones, in Ganeti's order of checks: unknown names, then each own
    /// parameter in the table's order, then the common ones.
    pub fn read(self, params: &Dict, compat: Compat) -> Result<Op, ParamError> {
        let known = |key: &str| {
            COMMON_PARAMS.iter().any(|param| param.name == key)
                || self.params(compat).any(|param| param.name == key)
        };
        if let Some(key) = params.keys().find(|key| !known(key)) {
            return Err(ParamError::Unknown { op: self.def().name, param: key.clone() });
        }
        let code = self.read_own(params, compat)?;
        Ok(Op { code, common: Common::read(self, params)? })
    }
}

/// A field's name without the mark that lets a keyword be one (`r#static`).
pub(crate) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

fn read_param<T: Param>(
    id: OpId,
    params: &Dict,
    compat: Compat,
    name: &'static str,
) -> Result<T, ParamError> {
    let invalid = ParamError::Invalid { id: id.as_str(), param: name };
    match params.get(name) {
        Some(value) => T::read(value).ok_or(invalid),
        None => {
            let def = id.def().params.iter().find(|param| param.name == name);
            let default = def.and_then(|def| def.default_value(id, compat));
            default.as_ref().and_then(T::read).ok_or(invalid)
        }
    }
}

/// The parameters that every opcode has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Common {
    /// Whether to check only, and run the pre hooks.
    pub dry_run: Option<bool>,
    pub debug_level: Option<u64>,
    /// -10 high, 0 normal, 10 low; a running job's may drift down to -20.
    pub priority: i64,
    /// Jobs that must have ended before, and how.
    pub depends: Option<Vec<Depend>>,
    pub comment: Option<String>,
    /// Who asked for it and why, from the outermost to the innermost.
    pub reason: Vec<ReasonEntry>,
}

macro_rules! common_params {
    ($($(#[doc = $doc:literal])+ $param:ident : $Type:ty = $default:expr,)*) => {
        /// The parameters that every opcode has, in the order in which they are checked.
        pub static COMMON_PARAMS: &[ParamDef] = &[$( ParamDef {
            name: stringify!($param),
            doc: concat!($($doc),+),
            required: false,
            default: Some(|| { let value: $Type = $default; Param::write(&value) }),
            check: |value| <$Type as Param>::read(value).is_some(),
            schema: <$Type as Param>::schema,
            hidden: Hidden::No,
        }, )*];

        impl Common {
            /// Reads them from an opcode's parameters.
            pub fn read(id: OpId, params: &Dict) -> Result<Self, ParamError> {
                $(
                    let $param = match params.get(stringify!($param)) {
                        None => $default,
                        Some(value) => <$Type as Param>::read(value)
                            .ok_or(ParamError::Invalid { id: id.as_str(), param: stringify!($param) })?,
                    };
                )*
                Ok(Self::from_parts($($param),*))
            }

            fn write_into(&self, dict: &mut Dict) {
                $( dict.insert(stringify!($param).to_owned(), Param::write(&self.$param.clone())); )*
            }
        }
    };
}

/// A priority that a submission may ask for.
struct SubmitPriority;

impl SubmitPriority {
    fn allows(priority: i64) -> bool {
        [-10, 0, 10].contains(&priority)
    }
}

common_params! {
    /// Whether to check only, and run the pre hooks.
    dry_run: Option<bool> = None,
    /// How talkative the job is; kept, without effect.
    debug_level: Option<u64> = None,
    /// -10 high, 0 normal, 10 low.
    priority: i64 = 0,
    /// Jobs that must have ended before: `[[job id, [statuses]], …]`; a negative id counts back from the job's own.
    depends: Option<Vec<Depend>> = None,
    /// A text that stays with the job.
    comment: Option<String> = None,
    /// Who asked for it and why: `[[source, text, nanoseconds], …]`.
    reason: Vec<ReasonEntry> = Vec::new(),
}

impl Common {
    fn from_parts(
        dry_run: Option<bool>,
        debug_level: Option<u64>,
        priority: i64,
        depends: Option<Vec<Depend>>,
        comment: Option<String>,
        reason: Vec<ReasonEntry>,
    ) -> Self {
        Self { dry_run, debug_level, priority, depends, comment, reason }
    }
}

/// Drops what has no value from the settings in lists of changes, as Ganeti does where it types them (3.0, `INicParams`).
fn drop_nulls(dict: &mut Dict, lists: &[&str]) {
    for name in lists {
        let changes = dict.get_mut(*name).and_then(Value::as_array_mut).into_iter().flatten();
        for settings in changes.filter_map(|change| change.get_mut(2)?.as_object_mut()) {
            settings.retain(|_, value| !value.is_null());
        }
    }
}

/// Hides what the creations inside an opcode hold and `audience` may not see.
fn hide_in_creations(dict: &mut Dict, audience: Audience) {
    let instances = dict.get_mut("instances").and_then(Value::as_array_mut);
    let creations = instances.into_iter().flatten().filter_map(Value::as_object_mut);
    for creation in creations {
        for param in InstanceCreate::DEF.params.iter().filter(|param| !audience.sees(param.hidden))
        {
            if let Some(value) = creation.get_mut(param.name) {
                let hidden = audience.hide(value);
                *value = if hidden.is_null() { Value::Object(Dict::new()) } else { hidden };
            }
        }
    }
}

/// A number as Haskell's `show` writes it.
fn show_seconds(seconds: f64) -> String {
    if (0.1..1e7).contains(&seconds) || seconds == 0.0 {
        return format!("{seconds:?}");
    }
    let shown = format!("{seconds:e}");
    let (digits, power) = shown.split_once('e').unwrap_or((&shown, "0"));
    if digits.contains('.') { shown } else { format!("{digits}.0e{power}") }
}

/// An opcode as it is submitted: its own parameters and the common ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub code: OpCode,
    pub common: Common,
}

impl<T: Into<OpCode>> From<T> for Op {
    fn from(code: T) -> Self {
        Self { code: code.into(), common: Common::default() }
    }
}

impl Op {
    /// Reads the wire form, an object with `OP_ID`.
    pub fn from_wire(mut params: Dict, compat: Compat) -> Result<Self, ParamError> {
        let id = params.remove("OP_ID").unwrap_or_default();
        let id = id
            .as_str()
            .and_then(OpId::parse)
            .ok_or_else(|| ParamError::UnknownOpcode(python::str(&id)))?;
        let op = id.read(&params, compat)?;
        if !SubmitPriority::allows(op.common.priority) {
            return Err(ParamError::Invalid { id: id.as_str(), param: "priority" });
        }
        Ok(op)
    }

    /// The wire form for an audience. Parameters that the release spoken does not have are left out.
    pub fn to_wire(&self, audience: Audience, compat: Compat) -> Dict {
        let id = self.code.id();
        let mut dict = Dict::new();
        dict.insert("OP_ID".to_owned(), json!(id.as_str()));
        dict.extend(self.code.write_own(audience));
        if id == OpId::InstanceMultiAlloc {
            hide_in_creations(&mut dict, audience);
        }
        dict.retain(|name, _| exists_in(compat, id, name));
        self.common.write_into(&mut dict);
        // Ganeti 3.0 shows an optional parameter that is not given in no way, except these two (`OpCodes.hs`).
        if audience == Audience::Client {
            dict.retain(|name, value| {
                !value.is_null() || ["depends", "comment"].contains(&name.as_str())
            });
            if id == OpId::InstanceSetParams {
                drop_nulls(&mut dict, &["nics", "disks"]);
            }
        }
        dict
    }

    /// Whether it came from a store that did not keep its secrets.
    pub fn has_lost_secrets(&self) -> bool {
        let lost = |params: &Dict, def: &OpDef| {
            let mut secrets = def.params.iter().filter(|param| !Audience::Store.sees(param.hidden));
            secrets.any(|param| {
                let values = params.get(param.name).and_then(Value::as_object);
                values.is_some_and(|values| values.values().any(|value| value == REDACTED))
            })
        };
        let own = self.code.write_own(Audience::Engine);
        let creations = own.get("instances").and_then(Value::as_array).into_iter().flatten();
        let mut creations = creations.filter_map(Value::as_object);
        lost(&own, self.code.id().def())
            || creations.any(|creation| lost(creation, InstanceCreate::DEF))
    }

    /// The summary shown in job lists: `INSTANCE_CREATE(web1.example.com)`.
    pub fn summary(&self, compat: Compat) -> String {
        let def = self.code.id().def();
        let name = def.id.strip_prefix("OP_").unwrap_or(def.id);
        let shown = def.summary.and_then(|param| {
            let value = self.code.write_own(Audience::Client).remove(param)?;
            match (self.code.id(), value) {
                (_, Value::Null) => Some("None".to_owned()),
                // Ganeti 3.1 (OpCodes.hs) counts the delay in nanoseconds here, 3.0.2 in seconds.
                (OpId::TestDelay, Value::Number(seconds)) => {
                    let seconds = seconds.as_f64().unwrap_or_default();
                    Some(match compat {
                        Compat::V30 => show_seconds(seconds),
                        Compat::V31 => format!("{:.0} ns", seconds * 1e9),
                    })
                }
                (_, Value::String(text)) => Some(text),
                (_, other) => Some(other.to_string()),
            }
        });
        match shown {
            Some(shown) => format!("{name}({shown})"),
            None => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(value: impl std::borrow::Borrow<Value>) -> Dict {
        value.borrow().as_object().unwrap().clone()
    }

    #[test]
    fn wire_forms_come_back() {
        let wire = dict(json!({
            "OP_ID": "OP_INSTANCE_STARTUP", "instance_name": "web1", "force": true, "priority": -10,
            "depends": [[5, ["success"]], [-1, []]], "reason": [["gnt:user", "test", 5]],
        }));
        let op = Op::from_wire(wire, Compat::V31).unwrap();
        assert_eq!(op.summary(Compat::V31), "INSTANCE_STARTUP(web1)");
        let full = op.to_wire(Audience::Client, Compat::V31);
        assert_eq!(full["no_remember"], json!(false));
        assert_eq!(full["depends"], json!([[5, ["success"]], [-1, []]]));
        assert_eq!(Op::from_wire(full, Compat::V31).unwrap(), op);
    }

    #[test]
    fn delays_are_summed_up_as_each_release_does() {
        let check = |duration: f64, expected: &str| {
            let op = OpId::TestDelay.read(&dict(json!({"duration": duration})), Compat::V30);
            assert_eq!(op.unwrap().summary(Compat::V30), format!("TEST_DELAY({expected})"));
        };
        check(3.0, "3.0");
        check(0.1, "0.1");
        check(0.05, "5.0e-2");
        check(1.25e7, "1.25e7");
    }

    #[test]
    fn refusals_speak_as_ganeti_does() {
        let check = |id: OpId, params: Value, expected: &str| {
            let error = id.read(&dict(params), Compat::V31).unwrap_err();
            assert_eq!(error.python_text(), expected);
        };
        check(
            OpId::InstanceStartup,
            json!({"instance_name": "a", "bogus": 1}),
            "Object OpInstanceStartup doesn't support the parameter 'bogus'",
        );
        check(
            OpId::InstanceStartup,
            json!({}),
            "(\"Parameter 'OP_INSTANCE_STARTUP.instance_name' fails validation\", 'wrong_input')",
        );
        check(
            OpId::TagsSet,
            json!({"kind": "cluster", "tags": [], "name": null, "depends": 5}),
            "(\"Parameter 'OP_TAGS_SET.depends' fails validation\", 'wrong_input')",
        );
    }

    #[test]
    fn older_defaults_hold_where_the_older_release_is_spoken() {
        let create = json!({"instance_name": "a", "disks": [], "nics": [], "mode": "create"});
        let name_check = |compat| {
            let op = OpId::InstanceCreate.read(&dict(create.clone()), compat).unwrap();
            op.to_wire(Audience::Client, compat)["name_check"].clone()
        };
        assert_eq!((name_check(Compat::V30), name_check(Compat::V31)), (json!(true), json!(false)));
        let hotplug = json!({"instance_name": "a", "hotplug_if_possible": true});
        assert!(OpId::InstanceSetParams.read(&dict(hotplug.clone()), Compat::V30).is_ok());
        assert!(OpId::InstanceSetParams.read(&dict(hotplug), Compat::V31).is_err());
    }

    #[test]
    fn secrets_stay_where_they_may() {
        let op = OpId::InstanceReinstall.read(
            &dict(json!({"instance_name": "a", "osparams_private": {"p": "1"}, "osparams_secret": {"s": "2"}})),
            Compat::V31,
        );
        let op = op.unwrap();
        let shown = |audience, private: &Value, secret: &Value| {
            let wire = op.to_wire(audience, Compat::V31);
            let shown = |name: &str| wire.get(name).cloned().unwrap_or_default();
            assert_eq!((&shown("osparams_private"), &shown("osparams_secret")), (private, secret));
        };
        let (private, secret) = (json!({"p": "1"}), json!({"s": "2"}));
        let kept = json!({"s": "<redacted>"});
        shown(Audience::Engine, &private, &secret);
        shown(Audience::Store, &private, &kept);
        shown(Audience::Client, &Value::Null, &Value::Null);
        assert!(!op.has_lost_secrets());
        let stored = op.to_wire(Audience::Store, Compat::V31);
        assert!(Op::from_wire(stored, Compat::V31).unwrap().has_lost_secrets());
    }

    #[test]
    fn secrets_of_several_creations_stay_where_they_may() {
        let instance = json!({"instance_name": "a", "osparams_private": {"p": "1"}, "osparams_secret": {"s": "2"}});
        let op =
            OpId::InstanceMultiAlloc.read(&dict(json!({"instances": [instance]})), Compat::V31);
        let op = op.unwrap();
        let shown = |audience, private: &Value, secret: &Value| {
            let instance = op.to_wire(audience, Compat::V31)["instances"][0].clone();
            let shown = (&instance["osparams_private"], &instance["osparams_secret"]);
            assert_eq!(shown, (private, secret));
        };
        let (private, secret) = (json!({"p": "1"}), json!({"s": "2"}));
        let kept = json!({"s": "<redacted>"});
        shown(Audience::Engine, &private, &secret);
        shown(Audience::Store, &private, &kept);
        shown(Audience::Client, &json!({}), &json!({}));
        let stored = op.to_wire(Audience::Store, Compat::V31);
        assert!(Op::from_wire(stored, Compat::V31).unwrap().has_lost_secrets());
    }

    #[test]
    fn each_id_is_declared_once() {
        for id in OpId::ALL {
            assert_eq!(OpId::parse(id.as_str()), Some(*id));
            for param in id.def().params {
                let is_fine = param.default.is_none_or(|default| (param.check)(&default()));
                assert!(is_fine, "{}.{} has a default of another type", id.as_str(), param.name);
            }
        }
    }
}
