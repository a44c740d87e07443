//! Where an instance goes: a function from a cluster picture to moves. No I/O, no locks, no clock, no randomness: the
//! same picture and request give the same answer, ties are broken by the natural order of names.
//!
//! [`picture::Picture`] is what the caller knows; [`cluster::Cluster`] is the same with indexes, and remembers what was
//! placed, so that each placement sees the ones before it. [`answer::solve`] is the whole of the built-in allocator
//! `hail`; [`iallocator`] speaks Ganeti's JSON both ways, so that a script may answer instead of us, or we instead of
//! a script.
//!
//! The semantics follow Ganeti 3.0.2's `hail`: the same score, the same choices. Different on purpose are:
//!
//! - ties go to the first name (hail: to the last);
//! - the trial whether a group could lose a node ([`picture::Options::capacity_checks`]) looks at the groups one by one
//!   and at memory and disk space alone (hail: at all groups whatever the request, and at the policy's ratios); a group
//!   with one usable node is not tried (hail: refuses everything there);
//! - of many instances those that fit are placed, the others named as failed (hail: refuses all);
//! - a node is never left failing N+1 by a placement on it (hail: allows it on a node that fails already);
//! - exclusive storage is scored like all else (hail: by lost allocations); on KVM the free memory that the node
//!   reports counts (hail: assumes 4096 MiB for the node itself);
//! - location and migration tags, and measured load, are not looked at.

pub mod picture;

pub mod group;

pub mod instance;

pub mod node;

pub mod score;

pub mod cluster;

mod search;

mod redundancy;

pub mod evacuate;

pub mod answer;

pub mod iallocator;

pub mod synthetic;

#[cfg(test)]
mod tests;
