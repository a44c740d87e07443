//! Lists that come as text: each row is read, shaped and written when its turn comes, so that a list of any length costs one piece of
//! memory beside the text in which it came.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use model::query::rows::TextRows;

use crate::error::HttpError;
use crate::json::write_bare;
use crate::limits;
use crate::route::Reply;

/// The pieces of a text, each of which is made when it is asked for. One that cannot be made is the last.
pub struct Pieces(Box<dyn Iterator<Item = Result<Bytes, serde_json::Error>> + Send>);

impl Iterator for Pieces {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

/// A list that is being written.
struct Listing<F> {
    rows: TextRows,
    /// The row that is next.
    at: usize,
    /// Whether a row was written, so that the next needs a comma before it.
    any: bool,
    /// What is before the first row; gone once it was sent.
    head: Option<Vec<u8>>,
    /// What is after the last; gone once it was sent.
    tail: Option<Vec<u8>>,
    shape: F,
}

/// Answers rows, each in the shape that is wanted, between `head` and `tail`. A list that fits into one piece is answered as such,
/// so that its length is known.
pub(crate) fn reply(
    rows: TextRows,
    head: Vec<u8>,
    tail: Vec<u8>,
    shape: impl Fn(Vec<Value>) -> Value + Send + 'static,
) -> Result<Reply, HttpError> {
    let unreadable =
        |error| HttpError::new(502, format!("Error while deserializing response: {error}"));
    let mut listing =
        Listing { rows, at: 0, any: false, head: Some(head), tail: Some(tail), shape };
    let first = listing.next().transpose().map_err(unreadable)?.unwrap_or_default();
    if listing.tail.is_none() {
        return Ok(Reply::Text(first));
    }
    Ok(Reply::Pieces(Pieces(Box::new(std::iter::once(Ok(first)).chain(listing)))))
}

impl<F: Fn(Vec<Value>) -> Value> Listing<F> {
    fn write_row(&mut self, piece: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        // A row that there is none of is not shown.
        if let Some(text) = self.rows.get(self.at) {
            let row = serde_json::from_str(text)?;
            if std::mem::replace(&mut self.any, true) {
                piece.extend_from_slice(b", ");
            }
            write_bare(piece, &(self.shape)(row));
        }
        self.at += 1;
        Ok(())
    }
}

impl<F: Fn(Vec<Value>) -> Value> Iterator for Listing<F> {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.tail.as_ref()?;
        let mut piece = self.head.take().unwrap_or_default();
        while piece.len() < limits::PIECE_BYTES && self.at < self.rows.len() {
            if let Err(error) = self.write_row(&mut piece) {
                self.tail = None;
                return Some(Err(error));
            }
        }
        if self.at == self.rows.len() {
            piece.extend(self.tail.take().unwrap_or_default());
        }
        Some(Ok(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(text: String) -> Reply {
        let text = Bytes::from(text);
        let cells = 2;
        let rows = TextRows::find(&text, serde_json::from_slice(&text).unwrap(), cells).unwrap();
        let shape = |row: Vec<Value>| json!({"row": row});
        reply(rows, b"{\"data\": [".to_vec(), b"]}\n".to_vec(), shape).unwrap()
    }

    fn short(text: &str) -> Bytes {
        let Reply::Text(text) = list(text.to_owned()) else { panic!("it is in pieces") };
        text
    }

    #[test]
    fn a_short_list_is_one_text() {
        assert_eq!(short("[]"), "{\"data\": []}\n");
        let expected = "{\"data\": [{\"row\": [1, \"\\u00e4\"]}, {\"row\": [2, null]}]}\n";
        assert_eq!(short("[null,[1,\"\u{e4}\"],null,[2,null]]"), expected);
    }

    #[test]
    fn a_long_list_comes_in_pieces_of_a_size() {
        let rows: Value = (0..20_000).map(|at| json!([at, "x".repeat(40)])).collect();
        let Reply::Pieces(pieces) = list(rows.to_string()) else { panic!("it is one text") };
        let pieces: Vec<Bytes> = pieces.collect::<Result<_, _>>().unwrap();
        assert!(pieces.len() > 10, "{}", pieces.len());
        assert!(pieces.iter().all(|piece| piece.len() < limits::PIECE_BYTES + 100));
        let whole: Value = serde_json::from_slice(&pieces.concat()).unwrap();
        let expected = rows.as_array().unwrap().iter().map(|row| json!({"row": row}));
        assert_eq!(whole["data"], expected.collect::<Value>());
    }

    #[test]
    fn a_row_that_cannot_be_read_ends_the_text() {
        let mut rows = "[1,2],".repeat(20_000);
        rows.push_str("[1e999,2]");
        let Reply::Pieces(pieces) = list(format!("[{rows}]")) else { panic!("it is one text") };
        let pieces: Vec<_> = pieces.collect();
        assert!(pieces.last().unwrap().is_err());
        assert!(pieces.iter().rev().skip(1).all(Result::is_ok));
    }
}
