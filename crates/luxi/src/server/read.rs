//! Reading arguments as luxid does, with its words for what is something else. Ganeti: 3.0.2, asked.

use model::name::JobId;
use model::param::TagKind;
use model::query::filter::pretty;
use serde_json::Value;

/// A type that an argument can have. What it is not read from is told in luxid's words.
pub(super) trait Read: Sized {
    fn read(value: &Value) -> Result<Self, String>;
}

/// Reads a value as a whole; what is refused is shown together with it.
pub(super) fn convert<T: Read>(value: &Value) -> Result<T, String> {
    T::read(value)
        .map_err(|error| format!("Cannot convert value '{}', error: {error}", pretty(value)))
}

impl Read for Value {
    fn read(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

impl Read for String {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "Unable to read String".to_owned())
    }
}

impl Read for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "Unable to read Bool".to_owned())
    }
}

/// Ganeti: a fraction is rounded where a whole number is read (3.0.2, asked).
#[expect(clippy::cast_possible_truncation, reason = "what is out of range becomes the bound")]
pub(super) fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|float| float.round_ties_even() as i64))
}

impl Read for i64 {
    fn read(value: &Value) -> Result<Self, String> {
        whole(value).ok_or_else(|| "Unable to read Int".to_owned())
    }
}

impl Read for u64 {
    fn read(value: &Value) -> Result<Self, String> {
        let number = i64::read(value)?;
        Self::try_from(number)
            .map_err(|_| format!("Invalid value for non-negative type '{number}'"))
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(value: &Value) -> Result<Self, String> {
        let items = value.as_array().ok_or("Unable to read list")?;
        items.iter().map(T::read).collect()
    }
}

impl<T: Read> Read for Option<T> {
    fn read(value: &Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::read(value).map(Some) }
    }
}

/// Tuples of so many values, and what luxid calls them.
macro_rules! tuples {
    ($($name:literal: $($Type:ident $value:ident),+;)*) => {$(
        impl<$($Type: Read),+> Read for ($($Type,)+) {
            fn read(value: &Value) -> Result<Self, String> {
                match value.as_array().map(Vec::as_slice) {
                    Some([$($value),+]) => Ok(($($Type::read($value)?,)+)),
                    _ => Err(concat!("Unable to read ", $name).to_owned()),
                }
            }
        }
    )*};
}

tuples! {
    "1 tuple": A a;
    "Pair": A a, B b;
    "Triple": A a, B b, C c;
    "Tuple5": A a, B b, C c, D d, E e;
}

impl Read for TagKind {
    fn read(value: &Value) -> Result<Self, String> {
        let text = member("TagKind", value)?;
        Self::parse(text).ok_or_else(|| no_member("TagKind", value))
    }
}

/// The text of a member of a closed set.
pub(super) fn member<'a>(kind: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("Can't parse value for '{kind}': Unable to read String"))
}

/// What is said of a text that is no member of a closed set.
pub(super) fn no_member(kind: &str, value: &Value) -> String {
    format!("Invalid string value for type {kind}: {}", pretty(value))
}

impl Read for JobId {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => {
                let number = text.parse::<i64>();
                job_id(number.map_err(|_| format!("parsing job id: cannot parse string '{text}'"))?)
            }
            Value::Number(number) => match number.as_i64() {
                Some(number) => job_id(number),
                None => Err(format!(
                    "Got fractional job ID from master daemon?! Value:{}",
                    fraction(&number.to_string())
                )),
            },
            other => Err(format!("Wrong type/value for job id: {}", shown(other))),
        }
    }
}

fn job_id(number: i64) -> Result<JobId, String> {
    let id = u64::try_from(number).map_err(|_| format!("Invalid value for job ID ' {number}'"))?;
    Ok(JobId(id))
}

/// A decimal number as the fraction that it is: `3 % 2` for `1.5`.
fn fraction(decimal: &str) -> String {
    let (whole, digits) = decimal.split_once('.').unwrap_or((decimal, ""));
    let places = u32::try_from(digits.len()).unwrap_or(u32::MAX);
    let top = format!("{whole}{digits}").parse::<i128>().ok();
    let Some((top, bottom)) = top.zip(10_i128.checked_pow(places)) else {
        return decimal.to_owned();
    };
    let (mut divisor, mut rest) = (bottom, top.abs());
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    format!("{} % {}", top / divisor, bottom / divisor)
}

/// A value as Haskell's `show` writes it.
fn shown(value: &Value) -> String {
    let all = |items: Vec<String>| items.join(",");
    match value {
        Value::Null => "JSNull".to_owned(),
        Value::Bool(true) => "JSBool True".to_owned(),
        Value::Bool(false) => "JSBool False".to_owned(),
        Value::Number(number) => {
            format!("JSRational False ({})", fraction(&number.to_string()))
        }
        Value::String(text) => format!("JSString (JSONString {{fromJSString = {text:?}}})"),
        Value::Array(items) => format!("JSArray [{}]", all(items.iter().map(shown).collect())),
        Value::Object(map) => {
            let members = map.iter().map(|(key, item)| format!("({key:?},{})", shown(item)));
            format!("JSObject (JSONObject {{fromJSObject = [{}]}})", all(members.collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_luxids() {
        fn check<T: Read>(value: &Value, expected: &str) {
            assert_eq!(convert::<T>(value).err().as_deref(), Some(expected));
        }
        check::<(TagKind, String)>(
            &json!([1, 2]),
            "Cannot convert value '[1, 2]', error: Can't parse value for 'TagKind': Unable to read String",
        );
        check::<Vec<JobId>>(
            &json!([1.5]),
            "Cannot convert value '[1.5]', error: Got fractional job ID from master daemon?! Value:3 % 2",
        );
        check::<(JobId,)>(
            &json!([[1]]),
            "Cannot convert value '[[1]]', error: Wrong type/value for job id: JSArray [JSRational False (1 % 1)]",
        );
        check::<(JobId,)>(
            &json!([{"a": 1}]),
            "Cannot convert value '[{\"a\": 1}]', error: Wrong type/value for job id: \
             JSObject (JSONObject {fromJSObject = [(\"a\",JSRational False (1 % 1))]})",
        );
        check::<Vec<JobId>>(
            &json!([-1]),
            "Cannot convert value '[-1]', error: Invalid value for job ID ' -1'",
        );
        assert_eq!(convert::<(JobId, i64)>(&json!(["7", 1.5])), Ok((JobId(7), 2)));
    }
}
