//! The HTTP door: Ganeti's remote API over an [`Engine`](model::engine::Engine).

pub mod client;
pub mod error;
pub mod fill;
pub mod input;
pub mod json;
pub mod manual;
pub mod openapi;
pub mod resources;
pub mod route;
pub mod table;
