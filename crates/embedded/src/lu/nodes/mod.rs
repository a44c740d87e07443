//! The opcodes on nodes: their role and parameters, emptying them, their storage, and turning them off and on.

pub(crate) mod evacuate;
pub(crate) mod migrate;
pub(crate) mod powercycle;
pub(crate) mod set_params;
pub(crate) mod storage;
pub(crate) mod volumes;

#[cfg(test)]
mod tests;
