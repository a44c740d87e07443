//! Transcripts: scenarios of requests, what a real daemon answered to them, and whether another daemon answers the same.
//! The only crate that knows how the answers of two daemons are compared. It depends on nothing of ours, so that what
//! it judges cannot lean on what it is judged by.
//!
//! The scenarios are written for the cluster that `cargo xtask oracle up` makes: four nodes in one group, hypervisors
//! fake and kvm, disk templates diskless, file and sharedfile, OS definitions noop, gl-var and gl-fail, and six users. A
//! daemon that is compared needs a fresh cluster like that one.

pub mod scenario;

pub mod client;

pub mod run;

pub mod recording;

pub mod mask;

pub mod compare;

pub mod report;

pub mod check;
