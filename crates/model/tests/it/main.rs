//! The nouns against what a real cluster said.

mod defaults;
mod types;
