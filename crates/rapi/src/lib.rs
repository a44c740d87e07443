//! rapi
