//! The system tests: the built program as a whole.

pub(crate) mod backup;
pub(crate) mod client;
pub(crate) mod crash;
pub(crate) mod daemon;
pub(crate) mod deb;
pub(crate) mod debian;
pub(crate) mod differential;
pub(crate) mod disks;
pub(crate) mod guest;
pub(crate) mod impexp;
pub(crate) mod killed;
pub(crate) mod life;
pub(crate) mod network;
pub(crate) mod tools;
pub(crate) mod transcripts;
