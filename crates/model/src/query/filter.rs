//! The filter language of queries: JSON arrays such as `["&", ["==", "name", "web1"], ["?", "master"]]`.
//!
//! Reading refuses what Ganeti's master daemon refuses, in its words (3.0.2, asked); so does comparing values of different
//! types. A cell without data passes. Patterns are those of the `regex` crate: what it cannot do is refused by name.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

use super::Cell;
use crate::error::{ErrorClass, GanetiError, Result};
use crate::name::matches_dotted_prefix;

/// How deep filters may be nested.
pub const DEPTH_MAX: usize = 100;
/// How much memory a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// How a field's values compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As they are.
    #[default]
    Plain,
    /// A name: equal to what it starts with, up to a dot.
    Hostname,
    /// `[seconds, microseconds]`: by the seconds.
    Timestamp,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterValue {
    Text(String),
    Number(i128),
}

impl FilterValue {
    /// As Ganeti's error texts show it.
    fn show(&self) -> String {
        match self {
            Self::Text(text) => format!("QuotedString {}", show_string(text)),
            Self::Number(number) if *number < 0 => format!("NumericValue ({number})"),
            Self::Number(number) => format!("NumericValue {number}"),
        }
    }
}

/// A pattern to search for.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Pattern {
    /// Compiles a pattern; a text says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let compiled = regex::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        compiled.map(Self).map_err(|error| {
            // The last line of a syntax error says what, those before it draw where.
            let text = error.to_string();
            let what = text.lines().last().unwrap_or_default();
            let what = what.trim_start_matches("error: ");
            format!("unsupported regular expression '{pattern}': {what}")
        })
    }

    /// Whether the pattern is found in a text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// A filter over fields of type `F`: names as it was read, or whatever they were looked up as.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter<F = String> {
    /// Everything.
    All,
    And(Vec<Filter<F>>),
    Or(Vec<Filter<F>>),
    Not(Box<Filter<F>>),
    /// A boolean field is true.
    True(F),
    Compare(F, Comparison, FilterValue),
    Matches(F, Pattern),
    /// A list contains a value.
    Contains(F, FilterValue),
}

/// Reads the filter of a query on `resource` for `fields`, as LUXI's request carries the three.
pub fn parse(resource: &str, fields: &[String], filter: &Value) -> Result<Filter> {
    read(filter, 0).map_err(|what| {
        let request = serde_json::json!([resource, fields, filter]);
        GanetiError::new(
            ErrorClass::RequestError,
            format!(
                "Failed to parse request: Cannot convert value '{}', error: {what}",
                pretty(&request)
            ),
        )
    })
}

fn read(filter: &Value, depth: usize) -> Result<Filter, String> {
    if depth > DEPTH_MAX {
        return Err(format!("filters are nested deeper than {DEPTH_MAX}"));
    }
    if filter.is_null() {
        return Ok(Filter::All);
    }
    let Some([Value::String(operator), operands @ ..]) = filter.as_array().map(Vec::as_slice)
    else {
        return Err(format!(
            "Cannot deserialise filter: expected array [string, args], got {}",
            pretty(filter)
        ));
    };
    let several =
        || operands.iter().map(|operand| read(operand, depth + 1)).collect::<Result<Vec<_>, _>>();
    let compare = |comparison| {
        let (field, value) = field_and_value(operands)?;
        Ok(Filter::Compare(read_field(field)?, comparison, read_value(value)?))
    };
    match operator.as_str() {
        "&" => several().map(Filter::And),
        "|" => several().map(Filter::Or),
        "!" => match operands {
            [operand] => Ok(Filter::Not(Box::new(read(operand, depth + 1)?))),
            _ => Err(format!(
                "Cannot deserialise field, expected [filter] but got {}",
                pretty_all(operands)
            )),
        },
        "?" => match operands {
            [field] => Ok(Filter::True(read_field(field)?)),
            _ => Err(format!(
                "Cannot deserialise field, expected [fieldname] but got {}",
                pretty_all(operands)
            )),
        },
        "==" | "=" => compare(Comparison::Equal),
        "!=" => Ok(Filter::Not(Box::new(compare(Comparison::Equal)?))),
        "<" => compare(Comparison::Less),
        "<=" => compare(Comparison::LessOrEqual),
        ">" => compare(Comparison::Greater),
        ">=" => compare(Comparison::GreaterOrEqual),
        "=~" => {
            let (field, pattern) = field_and_value(operands)?;
            let pattern = pattern.as_str().ok_or("Unable to read String")?;
            Ok(Filter::Matches(read_field(field)?, Pattern::new(pattern)?))
        }
        "=[]" => {
            let (field, value) = field_and_value(operands)?;
            Ok(Filter::Contains(read_field(field)?, read_value(value)?))
        }
        other => Err(format!("Unknown filter operand '{other}'")),
    }
}

fn field_and_value(operands: &[Value]) -> Result<(&Value, &Value), String> {
    match operands {
        [field, value] => Ok((field, value)),
        _ => Err(format!(
            "Cannot deserialise field/value pair, expected [fieldname, value] but got {}",
            pretty_all(operands)
        )),
    }
}

fn read_field(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "Unable to read String".to_owned())
}

fn read_value(value: &Value) -> Result<FilterValue, String> {
    match value {
        Value::String(text) => Ok(FilterValue::Text(text.clone())),
        Value::Number(number) => match to_integer(number) {
            Some(integer) => Ok(FilterValue::Number(integer)),
            None => Err(format!(
                "Cannot deserialise numeric filter value, expecting integral but got a fractional value: {}",
                ratio(&number.to_string())
            )),
        },
        other => Err(format!(
            "Cannot deserialise filter value, expecting string or integer, got {}",
            pretty(other)
        )),
    }
}

fn to_integer(number: &serde_json::Number) -> Option<i128> {
    if let Some(integer) = number.as_i64() {
        return Some(integer.into());
    }
    if let Some(integer) = number.as_u64() {
        return Some(integer.into());
    }
    let float = number.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (float.fract() == 0.0 && float.abs() < 1e38).then_some(float as i128)
}

/// A decimal number as a reduced fraction, as Haskell shows one: `3 % 2`.
fn ratio(decimal: &str) -> String {
    let exact = || {
        let (mantissa, exponent) = decimal.split_once(['e', 'E']).unwrap_or((decimal, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut numerator: i128 = format!("{whole}{fraction}").parse().ok()?;
        let mut denominator: i128 = 1;
        let shift = exponent.parse::<i64>().ok()? - i64::try_from(fraction.len()).ok()?;
        let power = 10i128.checked_pow(u32::try_from(shift.unsigned_abs()).ok()?)?;
        if shift < 0 {
            denominator = power;
        } else {
            numerator = numerator.checked_mul(power)?;
        }
        let (mut a, mut b) = (numerator.abs(), denominator);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let (numerator, denominator) = (numerator / a.max(1), denominator / a.max(1));
        Some(match numerator {
            negative if negative < 0 => format!("({negative}) % {denominator}"),
            other => format!("{other} % {denominator}"),
        })
    };
    exact().unwrap_or_else(|| decimal.to_owned())
}

impl<F> Filter<F> {
    /// Looks every field up. The first that is not known decides the error.
    pub fn resolve<G>(&self, lookup: &impl Fn(&F) -> Result<G>) -> Result<Filter<G>> {
        let several = |filters: &[Filter<F>]| {
            filters.iter().map(|filter| filter.resolve(lookup)).collect::<Result<Vec<_>>>()
        };
        Ok(match self {
            Self::All => Filter::All,
            Self::And(filters) => Filter::And(several(filters)?),
            Self::Or(filters) => Filter::Or(several(filters)?),
            Self::Not(filter) => Filter::Not(Box::new(filter.resolve(lookup)?)),
            Self::True(field) => Filter::True(lookup(field)?),
            Self::Compare(field, comparison, value) => {
                Filter::Compare(lookup(field)?, *comparison, value.clone())
            }
            Self::Matches(field, pattern) => Filter::Matches(lookup(field)?, pattern.clone()),
            Self::Contains(field, value) => Filter::Contains(lookup(field)?, value.clone()),
        })
    }

    /// Whether a row passes; `cell` answers a field's cell and how it compares.
    pub fn passes(&self, cell: &impl Fn(&F) -> (Cell, Mode)) -> Result<bool> {
        let leaf = |field: &F, test: &dyn Fn(&Value, Mode) -> Result<bool>| match cell(field) {
            (Cell::Normal(value), Mode::Timestamp) => {
                match value.get(0).filter(|s| s.is_number()) {
                    Some(seconds) => test(seconds, Mode::Plain),
                    None => Err(GanetiError::new(
                        ErrorClass::ProgrammerError,
                        "Internal error: Getter returned non-timestamp for QffTimestamp",
                    )),
                }
            }
            (Cell::Normal(value), mode) => test(&value, mode),
            (Cell::Unknown | Cell::NoData | Cell::Unavailable | Cell::Offline, _) => Ok(true),
        };
        match self {
            Self::All => Ok(true),
            Self::And(filters) => {
                for filter in filters {
                    if !filter.passes(cell)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Or(filters) => {
                for filter in filters {
                    if filter.passes(cell)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(filter) => Ok(!filter.passes(cell)?),
            Self::True(field) => leaf(field, &|value, _| is_true(value)),
            Self::Compare(field, comparison, wanted) => {
                leaf(field, &|value, mode| compare(value, mode, *comparison, wanted))
            }
            Self::Matches(field, pattern) => leaf(field, &|value, _| matches(value, pattern)),
            Self::Contains(field, wanted) => leaf(field, &|value, _| contains(value, wanted)),
        }
    }
}

impl Filter {
    /// The names asked for, when the filter asks for nothing but names: an equality of `name_field`, or any of several.
    /// Everything is the empty list.
    pub fn names(&self, name_field: &str) -> Option<Vec<&FilterValue>> {
        match self {
            Self::All => Some(Vec::new()),
            Self::Or(filters) => {
                let each: Option<Vec<_>> =
                    filters.iter().map(|filter| filter.names(name_field)).collect();
                Some(each?.into_iter().flatten().collect())
            }
            Self::Compare(field, Comparison::Equal, value) if field == name_field => {
                Some(vec![value])
            }
            _ => None,
        }
    }

    /// Whether a field occurs.
    pub fn mentions(&self, name: &str) -> bool {
        match self {
            Self::All => false,
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().any(|filter| filter.mentions(name))
            }
            Self::Not(filter) => filter.mentions(name),
            Self::True(field)
            | Self::Compare(field, ..)
            | Self::Matches(field, _)
            | Self::Contains(field, _) => field == name,
        }
    }
}

fn parameter_error<T>(text: String) -> Result<T> {
    Err(GanetiError::new(ErrorClass::ParameterError, text))
}

fn is_true(value: &Value) -> Result<bool> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        other => {
            parameter_error(format!("Unexpected value '{}' in boolean context", pretty(other)))
        }
    }
}

fn compare(
    value: &Value,
    mode: Mode,
    comparison: Comparison,
    wanted: &FilterValue,
) -> Result<bool> {
    match (value, wanted) {
        (Value::String(text), FilterValue::Text(wanted)) => {
            if mode == Mode::Hostname && comparison == Comparison::Equal {
                return Ok(matches_dotted_prefix(wanted, text));
            }
            Ok(comparison.holds(Some(text.cmp(wanted))))
        }
        (Value::Number(number), FilterValue::Number(wanted)) => {
            let order = match to_integer(number) {
                Some(integer) => Some(integer.cmp(wanted)),
                #[expect(clippy::cast_precision_loss, reason = "a fraction decides before that")]
                None => number.as_f64().and_then(|float| float.partial_cmp(&(*wanted as f64))),
            };
            Ok(comparison.holds(order))
        }
        _ => parameter_error(format!(
            "Invalid types in comparison, trying to compare {} with '{}'",
            pretty(value),
            wanted.show()
        )),
    }
}

fn matches(value: &Value, pattern: &Pattern) -> Result<bool> {
    match value {
        Value::String(text) => Ok(pattern.is_match(text)),
        other => parameter_error(format!(
            "Invalid field value used in regexp matching, expecting string but got '{}'",
            pretty(other)
        )),
    }
}

fn contains(value: &Value, wanted: &FilterValue) -> Result<bool> {
    let refuse = |what: &str| {
        Err(GanetiError::new(
            ErrorClass::GenericError,
            format!("Cannot convert value '{}', error: {what}", pretty(value)),
        ))
    };
    let Value::Array(items) = value else { return refuse("Unable to read list") };
    // Ganeti: the whole list must be of the wanted value's type (3.0, JSON decoding of the list).
    match wanted {
        FilterValue::Text(wanted) => {
            if items.iter().any(|item| !item.is_string()) {
                return refuse("Unable to read String");
            }
            Ok(items.iter().any(|item| item == wanted.as_str()))
        }
        FilterValue::Number(wanted) => {
            let integers: Option<Vec<i128>> =
                items.iter().map(|item| item.as_number().and_then(to_integer)).collect();
            match integers {
                Some(integers) => Ok(integers.contains(wanted)),
                None => refuse("Unable to read Integer"),
            }
        }
    }
}

/// JSON as Ganeti's master daemon prints it in texts, on one line: a blank after commas and colons.
pub fn pretty(value: &Value) -> String {
    match value {
        Value::Array(items) => pretty_all(items),
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, item)| format!("{}: {}", Value::from(key.as_str()), pretty(item)))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

fn pretty_all(items: &[Value]) -> String {
    let items: Vec<String> = items.iter().map(pretty).collect();
    format!("[{}]", items.join(", "))
}

/// A text as Haskell's `show` writes it.
fn show_string(text: &str) -> String {
    let mut out = String::from("\"");
    let mut after_number = false;
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            ' '..='~' => {
                if after_number && c.is_ascii_digit() {
                    out.push_str("\\&");
                }
                out.push(c);
            }
            other => {
                out.push('\\');
                out.push_str(&u32::from(other).to_string());
                after_number = true;
                continue;
            }
        }
        after_number = false;
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn row(field: &str) -> Option<(Cell, Mode)> {
        Some(match field {
            "name" => (Cell::Normal(json!("web1.example.com")), Mode::Hostname),
            "count" => (Cell::Normal(json!(2)), Mode::Plain),
            "ratio" => (Cell::Normal(json!(2.5)), Mode::Plain),
            "up" => (Cell::Normal(json!(true)), Mode::Plain),
            "tags" => (Cell::Normal(json!(["a", "b"])), Mode::Plain),
            "sizes" => (Cell::Normal(json!([16, 20])), Mode::Plain),
            "mixed" => (Cell::Normal(json!([null, "a"])), Mode::Plain),
            "end" => (Cell::Normal(json!([100, 999_999])), Mode::Timestamp),
            "gone" => (Cell::Unavailable, Mode::Plain),
            _ => return None,
        })
    }

    fn answer(filter: &Value) -> Result<bool> {
        let filter = parse("instance", &["name".to_owned()], filter)?;
        let resolved = filter.resolve(&|name: &String| {
            row(name).ok_or_else(|| {
                GanetiError::new(
                    ErrorClass::ParameterError,
                    format!("Can't find field named '{name}'"),
                )
            })
        })?;
        resolved.passes(&|field: &(Cell, Mode)| field.clone())
    }

    #[test]
    fn filters_decide() {
        let check =
            |filter: Value, expected: bool| assert_eq!(answer(&filter), Ok(expected), "{filter}");
        check(json!(null), true);
        check(json!(["&"]), true);
        check(json!(["|"]), false);
        check(json!(["|", null]), true);
        check(json!(["==", "name", "web1"]), true);
        check(json!(["=", "name", "web1.example"]), true);
        check(json!(["==", "name", "web"]), false);
        check(json!(["!=", "name", "web1"]), false);
        check(json!(["<", "name", "web1"]), false);
        check(json!([">=", "count", 2]), true);
        check(json!([">", "count", 2.0]), false);
        check(json!([">", "ratio", 2]), true);
        check(json!(["?", "up"]), true);
        check(json!(["!", ["?", "up"]]), false);
        check(json!(["=~", "name", "^web.*\\.com$"]), true);
        check(json!(["=[]", "tags", "a"]), true);
        check(json!(["=[]", "sizes", 16]), true);
        check(json!(["=[]", "sizes", 17]), false);
        check(json!(["==", "end", 100]), true);
        check(json!(["==", "gone", "x"]), true);
        check(json!(["!", ["==", "gone", "x"]]), false);
    }

    #[test]
    fn types_do_not_mix() {
        let check = |filter: Value, text: &str| {
            assert_eq!(answer(&filter).unwrap_err().to_string(), text, "{filter}");
        };
        check(
            json!(["==", "name", 5]),
            "Invalid types in comparison, trying to compare \"web1.example.com\" with 'NumericValue 5'",
        );
        check(
            json!(["<", "count", "a\"b"]),
            "Invalid types in comparison, trying to compare 2 with 'QuotedString \"a\\\"b\"'",
        );
        check(json!(["?", "name"]), "Unexpected value '\"web1.example.com\"' in boolean context");
        check(
            json!(["=~", "count", "1"]),
            "Invalid field value used in regexp matching, expecting string but got '2'",
        );
        check(
            json!(["=[]", "sizes", "x"]),
            "Cannot convert value '[16, 20]', error: Unable to read String",
        );
        check(
            json!(["=[]", "name", "x"]),
            "Cannot convert value '\"web1.example.com\"', error: Unable to read list",
        );
        check(
            json!(["=[]", "mixed", "a"]),
            "Cannot convert value '[null, \"a\"]', error: Unable to read String",
        );
        check(
            json!(["=[]", "tags", 5]),
            "Cannot convert value '[\"a\", \"b\"]', error: Unable to read Integer",
        );
        check(json!(["?", "nosuch"]), "Can't find field named 'nosuch'");
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let check = |filter: Value, what: &str| {
            let error = answer(&filter).unwrap_err();
            let text = format!(
                "Failed to parse request: Cannot convert value '[\"instance\", [\"name\"], {}]', error: {what}",
                pretty(&filter)
            );
            assert_eq!(error, GanetiError::new(ErrorClass::RequestError, text));
        };
        check(json!([]), "Cannot deserialise filter: expected array [string, args], got []");
        check(
            json!({"a": 1}),
            "Cannot deserialise filter: expected array [string, args], got {\"a\": 1}",
        );
        check(json!(["&", 5]), "Cannot deserialise filter: expected array [string, args], got 5");
        check(json!(["~", "name", "a"]), "Unknown filter operand '~'");
        check(
            json!(["==", "name"]),
            "Cannot deserialise field/value pair, expected [fieldname, value] but got [\"name\"]",
        );
        check(
            json!(["==", "name", 1.5]),
            "Cannot deserialise numeric filter value, expecting integral but got a fractional value: 3 % 2",
        );
        check(
            json!(["==", "name", -0.1]),
            "Cannot deserialise numeric filter value, expecting integral but got a fractional value: (-1) % 10",
        );
        check(
            json!(["==", "name", true]),
            "Cannot deserialise filter value, expecting string or integer, got true",
        );
        check(json!(["==", 1, "a"]), "Unable to read String");
        check(json!(["!"]), "Cannot deserialise field, expected [filter] but got []");
        check(json!(["?"]), "Cannot deserialise field, expected [fieldname] but got []");
        check(json!(["=~", "name", 1]), "Unable to read String");
        check(
            json!(["=~", "name", "(?<=a)r"]),
            "unsupported regular expression '(?<=a)r': look-around, including look-ahead and look-behind, is not \
             supported",
        );
        check(json!(["=~", "name", "("]), "unsupported regular expression '(': unclosed group");
    }

    #[test]
    fn nesting_has_an_end() {
        let mut filter = json!(["?", "up"]);
        for _ in 0..=DEPTH_MAX {
            filter = json!(["!", filter]);
        }
        let error = answer(&filter).unwrap_err();
        assert!(error.to_string().ends_with("error: filters are nested deeper than 100"));
    }

    #[test]
    fn plain_names_are_recognised() {
        let check = |filter: Value, expected: Option<usize>| {
            let filter = parse("instance", &[], &filter).unwrap();
            assert_eq!(filter.names("name").map(|names| names.len()), expected);
        };
        check(json!(null), Some(0));
        check(json!(["==", "name", "a"]), Some(1));
        check(json!(["|", ["==", "name", "a"], ["=", "name", "b"]]), Some(2));
        check(json!(["|", ["==", "name", "a"], ["==", "uuid", "b"]]), None);
        check(json!(["&", ["==", "name", "a"]]), None);
        check(json!(["!=", "name", "a"]), None);
    }

    /// JSON that is a filter now and then.
    fn some_filter() -> impl Strategy<Value = Value> {
        let field = prop::sample::select(vec![
            "name", "count", "ratio", "up", "tags", "sizes", "mixed", "end", "gone", "nosuch",
        ]);
        let value = prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z.(]{0,6}".prop_map(Value::from),
            Just(Value::Null),
        ];
        let operator = prop::sample::select(vec![
            "==", "=", "!=", "<", "<=", ">", ">=", "=~", "=[]", "?", "!", "&", "|", "~",
        ]);
        let leaf = prop_oneof![
            4 => (operator.clone(), field.clone(), value.clone()).prop_map(|(o, f, v)| json!([o, f, v])),
            1 => field.prop_map(|f| json!(["?", f])),
            1 => value,
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            (operator.clone(), prop::collection::vec(inner, 0..4)).prop_map(
                |(operator, operands)| {
                    let mut filter = vec![json!(operator)];
                    filter.extend(operands);
                    Value::Array(filter)
                },
            )
        })
    }

    proptest! {
        #[test]
        fn nothing_panics(filter in some_filter()) {
            let _ = answer(&filter); // an error is an answer too
        }

        #[test]
        fn two_negations_are_none(filter in some_filter()) {
            prop_assert_eq!(answer(&json!(["!", ["!", filter.clone()]])).ok(), answer(&filter).ok());
        }

        #[test]
        fn de_morgan(a in some_filter(), b in some_filter()) {
            if let (Ok(_), Ok(_)) = (answer(&a), answer(&b)) {
                let left = answer(&json!(["!", ["&", a.clone(), b.clone()]]));
                let right = answer(&json!(["|", ["!", a], ["!", b]]));
                prop_assert_eq!(left, right);
            }
        }

        #[test]
        fn orders_agree(wanted in any::<i64>()) {
            let ask = |operator: &str| answer(&json!([operator, "ratio", wanted])).unwrap();
            prop_assert_eq!(ask("<="), ask("<") || ask("=="));
            prop_assert_eq!(ask("!="), !ask("=="));
            prop_assert_eq!(ask(">"), !ask("<="));
        }
    }
}
