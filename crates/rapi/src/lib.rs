//! The HTTP door: Ganeti's remote API over an [`Engine`](model::engine::Engine).

pub mod error;
pub mod input;
pub mod json;
