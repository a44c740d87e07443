//! LUXI, the protocol between Ganeti's tools and its master daemon: JSON messages over a UNIX socket, each ended by one byte.
//!
//! [`frame`] cuts the stream into messages, [`message`] says what is in one, [`method`] names the calls. What speaks the
//! protocol in either direction is built of these: [`client`] is a real cluster as an engine.

pub mod client;
pub mod frame;
pub mod message;
pub mod method;
pub mod server;
