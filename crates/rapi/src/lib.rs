//! The HTTP door: Ganeti's remote API over an [`Engine`](model::engine::Engine).

pub mod serve;

mod door;

mod cors;
mod request;

pub mod input;

pub mod route;

pub mod table;

pub mod beside;

pub mod fill;

pub mod resources;

pub mod openapi;

pub mod manual;

pub mod client;

pub mod error;

pub mod json;

pub mod users;

pub mod users_file;

pub mod tls;

pub mod metrics;

pub mod limits;

pub mod pieces;
mod replace;
mod stream;
