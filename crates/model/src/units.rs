//! Sizes, times and sort orders.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A moment as Ganeti's jobs carry it: `[seconds, microseconds]` since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub i64, pub u32);

impl Timestamp {
    /// Microseconds since the epoch, cut into the pair.
    pub fn from_micros(micros: i64) -> Self {
        let sub = u32::try_from(micros.rem_euclid(1_000_000)).expect("a remainder below a million");
        Self(micros.div_euclid(1_000_000), sub)
    }

    pub fn as_micros(self) -> i64 {
        self.0 * 1_000_000 + i64::from(self.1)
    }

    /// Nanoseconds since the epoch, as the reason trail counts time.
    pub fn as_nanos(self) -> i64 {
        self.as_micros() * 1000
    }

    /// Seconds since the epoch, as `ctime` and `mtime` count time.
    pub fn as_seconds(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of this era fit 53 bits")]
        let micros = self.as_micros() as f64;
        micros / 1e6
    }

    pub fn to_value(self) -> Value {
        serde_json::json!([self.0, self.1])
    }
}

/// A float as Ganeti prints it: whole numbers without a fraction (its Haskell side writes them so; Go clients rely on it).
pub fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked before")]
    if value.fract() == 0.0 && value.abs() < 9e15 {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

/// Why a size text was refused; the texts are Ganeti's (`UnitParseError`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("Invalid format")]
    Format,
    #[error("Unknown unit: {0}")]
    Unit(String),
}

/// Reads a size in MiB: a number with an optional fraction and unit (`m` the default, `g`, `t`, each with an optional
/// `b` or `ib`), rounded up to the next multiple of 4 as Ganeti's `ParseUnit` does.
pub fn parse_unit(text: &str) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    if amount.is_empty() || amount.starts_with('.') || amount.ends_with('.') {
        return Err(UnitError::Format);
    }
    let value: f64 = amount.parse().map_err(|_| UnitError::Format)?;
    let unit = unit.trim();
    if !unit.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(UnitError::Format);
    }
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1.0,
        "g" | "gb" | "gib" => 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0,
        _ => return Err(UnitError::Unit(unit.to_owned())),
    };
    let mib = value * factor;
    if !(0.0..1e15).contains(&mib) {
        return Err(UnitError::Format);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
    let whole = mib.ceil() as u64;
    Ok(whole.next_multiple_of(4))
}

/// The order of names in Ganeti's lists: runs of digits compare as numbers.
pub fn natural_cmp(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = (left, right);
    loop {
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return left.cmp(right),
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (head_a, rest_a) = chunk(a);
        let (head_b, rest_b) = chunk(b);
        let digits = |head: &str| head.as_bytes()[0].is_ascii_digit();
        let order = if digits(head_a) && digits(head_b) {
            let strip = |head: &'_ str| head.trim_start_matches('0').len();
            strip(head_a)
                .cmp(&strip(head_b))
                .then_with(|| head_a.trim_start_matches('0').cmp(head_b.trim_start_matches('0')))
        } else {
            head_a.cmp(head_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// Cuts the first run of digits or of other characters off a text that is not empty.
fn chunk(text: &str) -> (&str, &str) {
    let digit = text.as_bytes()[0].is_ascii_digit();
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let check = |text, expected| assert_eq!(parse_unit(text), expected, "{text}");
        check("10", Ok(12));
        check("11M", Ok(12));
        check("1g", Ok(1024));
        check("1.5g", Ok(1536));
        check(" 2 GiB ", Ok(2048));
        check("1t", Ok(1_048_576));
        check("x", Err(UnitError::Format));
        check("1k", Err(UnitError::Unit("k".into())));
        check("-1", Err(UnitError::Format));
    }

    #[test]
    fn names_sort_naturally() {
        let mut names = ["node10", "node2", "node1", "a", "node1.b", "node01"];
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, ["a", "node01", "node1", "node1.b", "node2", "node10"]);
    }

    #[test]
    fn whole_floats_are_integers() {
        assert_eq!(number(1.0).to_string(), "1");
        assert_eq!(number(1.5).to_string(), "1.5");
    }
}
