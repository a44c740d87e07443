//! Where an instance goes: a function from a cluster picture to moves. No I/O, no locks, no clock, no randomness: the
//! same picture and request give the same answer, ties are broken by the natural order of names.
//!
//! [`picture::Picture`] is what the caller knows; [`cluster::Cluster`] is the same with indexes, and remembers what was
//! placed, so that each placement sees the ones before it. [`answer::solve`] is the whole of the built-in allocator
//! `hail`; [`iallocator`] speaks Ganeti's JSON both ways, so that a script may answer instead of us, or we instead of
//! a script. The semantics follow Ganeti 3.0.2's `hail`; what is different on purpose is said where it is.

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
