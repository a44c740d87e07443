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
    /// What to speak with a cluster of a release such as 3.0.2: the newest that is not newer, else the oldest there is.
    pub fn of_release(version: &str) -> Self {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) >= (3, 1) => Self::V31,
            _ => Self::V30,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_spoken_as_the_newest_known_one_before_it() {
        let check = |version, expected| assert_eq!(Compat::of_release(version), expected);
        check("3.0.2", Compat::V30);
        check("3.1.1", Compat::V31);
        check("3.2.0~alpha1", Compat::V31);
        check("4.0.0", Compat::V31);
        check("2.16.0", Compat::V30);
        check("", Compat::V30);
    }
}
