//! The calls of LUXI, declared once.

use std::fmt;

macro_rules! methods {
    ($($(#[doc = $doc:literal])* $Method:ident,)*) => {
        /// A call. Ganeti: `luxi.REQ_ALL` (3.0.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method { $($(#[doc = $doc])* $Method,)* }

        impl Method {
            pub const ALL: &'static [Self] = &[$(Self::$Method,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$Method => stringify!($Method),)* }
            }

            /// The call of that name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($Method) => Some(Self::$Method),)* _ => None }
            }
        }
    };
}

methods! {
    /// `[[opcode, …]]` → job id
    SubmitJob,
    /// `[[opcode, …]]` → job id, also while the queue is drained
    SubmitJobToDrainedQueue,
    /// `[[[opcode, …], …]]` → `[[true, id] | [false, text], …]`
    SubmitManyJobs,
    /// `[id]`; never answered: it is for use within a cluster
    PickupJob,
    /// `[id, fields, previous values, previous serial, time-out in seconds]` → `[values, log entries]`
    WaitForJobChange,
    /// `[id]` or `[id, kill]` → `[done, text]`
    CancelJob,
    /// `[id, priority]` → `[done, text]`
    ChangeJobPriority,
    /// `[id]` → done
    ArchiveJob,
    /// `[age in seconds, time-out in seconds]` → `[archived, left]`; age -1 stands for all
    AutoArchiveJobs,
    /// `[ids or null, fields]` → rows
    QueryJobs,
    /// `[resource, fields, filter or null]` → `{"fields", "data"}`
    Query,
    /// `[resource, fields or null]` → `{"fields"}`
    QueryFields,
    /// `[names, fields, lock]` → rows
    QueryNodes,
    /// `[names, fields, lock]` → rows
    QueryInstances,
    /// `[names, fields, lock]` → rows
    QueryGroups,
    /// `[names, fields, lock]` → rows
    QueryNetworks,
    /// `[nodes, lock]` → `[[node, export], …]`
    QueryExports,
    /// `[uuids or null, fields]` → rows
    QueryFilters,
    /// `[uuid or null, priority, predicates, action, reason]` → uuid
    ReplaceFilter,
    /// `[uuid]` → null
    DeleteFilter,
    /// `[kind, name]` → tags
    QueryTags,
    /// `[]` → the cluster's description
    QueryClusterInfo,
    /// `[names]` → values
    QueryConfigValues,
    /// `[drained]` → true
    SetDrainFlag,
    /// `[time in seconds or null]` → that time or null
    SetWatcherPause,
}

impl Method {
    /// Whether calling it once more than wanted does no harm: such a call may be repeated after a broken connection. The
    /// others could have been carried out before it broke.
    pub fn is_repeatable(self) -> bool {
        match self {
            Self::SubmitJob
            | Self::SubmitJobToDrainedQueue
            | Self::SubmitManyJobs
            | Self::PickupJob
            | Self::CancelJob
            | Self::ChangeJobPriority
            | Self::ArchiveJob
            | Self::AutoArchiveJobs
            | Self::ReplaceFilter
            | Self::DeleteFilter
            | Self::SetDrainFlag
            | Self::SetWatcherPause => false,
            Self::WaitForJobChange
            | Self::QueryJobs
            | Self::Query
            | Self::QueryFields
            | Self::QueryNodes
            | Self::QueryInstances
            | Self::QueryGroups
            | Self::QueryNetworks
            | Self::QueryExports
            | Self::QueryFilters
            | Self::QueryTags
            | Self::QueryClusterInfo
            | Self::QueryConfigValues => true,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
