//! The rows of an answer, in whichever form an engine has them: as values, or as the text in which they came. A long list that is
//! text stays one until it is sent, row by row.

use std::ops::Range;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use crate::error::{ErrorClass, GanetiError, Result};

/// What stands for a row that there is none of.
const NONE: &str = "null";

/// Rows of an answer.
#[derive(Clone, Debug)]
pub enum Rows<T> {
    Made(Vec<T>),
    Text(TextRows),
}

impl<T: DeserializeOwned> Rows<T> {
    /// All of them as values.
    pub fn made(self) -> Result<Vec<T>> {
        match self {
            Self::Made(rows) => Ok(rows),
            Self::Text(text) => text.iter().map(read).collect(),
        }
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self::Made(rows)
    }
}

/// Rows as JSON text: one allocation, and where in it each row is.
#[derive(Clone, Debug)]
pub struct TextRows {
    text: Bytes,
    rows: Vec<Range<usize>>,
}

impl TextRows {
    /// Finds the rows in a message: `list` is the part of it that is an array of rows. Each must have `cells` cells, or be null.
    pub fn find(message: &Bytes, list: &RawValue, cells: usize) -> Result<Self> {
        let rows: Vec<&RawValue> = read(list.get())?;
        let start = message.as_ptr() as usize;
        let place = |row: &RawValue| {
            let text = row.get();
            if text != NONE && read::<Vec<IgnoredAny>>(text)?.len() != cells {
                // Ganeti: said where rows and names of fields are put together (3.0.2, `rapi/baserlib.py`).
                let text = "Names and data must have the same length";
                return Err(GanetiError::new(ErrorClass::ProgrammerError, text));
            }
            let at = (text.as_ptr() as usize).wrapping_sub(start);
            Ok(at..at + text.len())
        };
        let rows: Vec<_> = rows.into_iter().map(place).collect::<Result<_>>()?;
        assert!(
            rows.last().is_none_or(|last| last.end <= message.len()),
            "a list of another message"
        );
        Ok(Self { text: message.clone(), rows })
    }

    /// The text of each row, null where there is none.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.rows.iter().map(|row| std::str::from_utf8(&self.text[row.clone()]).unwrap_or(NONE))
    }

    /// The text of a row that there is; `None` at the end, and for null.
    pub fn get(&self, at: usize) -> Option<&str> {
        let text = std::str::from_utf8(&self.text[self.rows.get(at)?.clone()]).ok()?;
        (text != NONE).then_some(text)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn read<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let text = format!("Error while deserializing response: {error}");
        GanetiError::new(ErrorClass::ProtocolError, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn find(message: &Bytes, cells: usize) -> Result<TextRows> {
        TextRows::find(message, serde_json::from_slice(message).unwrap(), cells)
    }

    #[test]
    fn rows_are_parts_of_the_message() {
        let message = Bytes::from_static(b" [ [1, \"]\\\"[\"], null ,[{\"a\":[]},\"\xc3\xa4\"] ]");
        let rows = find(&message, 2).unwrap();
        assert_eq!(
            rows.iter().collect::<Vec<_>>(),
            ["[1, \"]\\\"[\"]", "null", "[{\"a\":[]},\"\u{e4}\"]"]
        );
        assert_eq!((rows.get(1), rows.get(3), rows.len()), (None, None, 3));
        let made = Rows::<Option<Vec<Value>>>::Text(rows).made().unwrap();
        let expected = [
            Some(vec![json!(1), json!("]\"[")]),
            None,
            Some(vec![json!({"a": []}), json!("\u{e4}")]),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        let check = |message: &'static str, class: ErrorClass| {
            assert_eq!(find(&Bytes::from(message), 2).unwrap_err().class, class, "{message}");
        };
        check("[[1]]", ErrorClass::ProgrammerError);
        check("[[1, 2, 3]]", ErrorClass::ProgrammerError);
        check("[{}]", ErrorClass::ProtocolError);
        check("{}", ErrorClass::ProtocolError);
        check("5", ErrorClass::ProtocolError);
        assert!(find(&Bytes::from_static(b"[]"), 2).unwrap().is_empty());
    }
}
