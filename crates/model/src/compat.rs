//! Which Ganeti release's fields and defaults are spoken.

use std::str::FromStr;

/// The Ganeti release whose answers are given. 3.1 is the default; 3.0 is what Debian 12 ships.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compat {
    V30,
    #[default]
    V31,
}

impl Compat {
    /// The text of `software_version` in `/2/info` and of the `Server` header.
    pub fn software_version(self) -> &'static str {
        match self {
            Self::V30 => "3.0.2",
            Self::V31 => "3.1.1",
        }
    }

    /// `protocol_version` and `config_version`: 1000000 * major + 10000 * minor.
    pub fn protocol_version(self) -> u32 {
        match self {
            Self::V30 => 3_000_000,
            Self::V31 => 3_010_000,
        }
    }
}

impl FromStr for Compat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "3.0" => Ok(Self::V30),
            "3.1" => Ok(Self::V31),
            _ => Err(format!("unknown release '{text}', known are 3.0 and 3.1")),
        }
    }
}
