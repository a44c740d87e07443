//! What lies or runs on a node, looks like ours and belongs to no instance that is known there. It is told, and left alone.

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrayKind {
    /// A process that runs an instance; the name is the instance's.
    Process,
    /// A file or directory.
    File,
    /// A control group.
    Cgroup,
    /// A network device.
    Device,
}

/// One such thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    pub kind: StrayKind,
    pub name: String,
    /// What it is, as a sentence without its end.
    pub text: String,
}
