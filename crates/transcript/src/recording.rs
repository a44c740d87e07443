//! Recordings: what a daemon answered to a section, one exchange a line, so that a changed answer is a changed line.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One step's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The step's name.
    pub step: String,
    /// The HTTP status; 0 when no answer came.
    pub status: u16,
    /// The Content-Type header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The WWW-Authenticate header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub www_authenticate: Option<String>,
    /// How the body ends, when it is not JSON and one newline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_form: Option<String>,
    /// The body.
    pub body: Value,
    /// Whether the body is the id of a job that was submitted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submitted: bool,
    /// The job when it was final, then those that its result submitted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Value>,
}

/// A recorded section.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Which daemon answered.
    pub header: Header,
    /// What it answered, in the order of the scenario.
    pub exchanges: Vec<Exchange>,
}

/// The first line of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The section's name.
    pub section: String,
    /// The daemon and its version.
    pub daemon: String,
}

/// Why a recording could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file could not be read or written.
    #[error("{path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{path}:{line}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// Why it failed.
        #[source]
        source: serde_json::Error,
    },
}

/// Where a section's recording lies.
pub fn path(dir: &Path, section: &str) -> PathBuf {
    dir.join(format!("{section}.json"))
}

/// Reads a recording: a JSON array with one element a line, the first one its header.
pub fn load(file: &Path) -> Result<Recording, RecordingError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| RecordingError::File { path: file.to_owned(), source })?;
    let bad = |line, source| RecordingError::Line { path: file.to_owned(), line, source };
    let mut header = Header { section: String::new(), daemon: String::new() };
    let mut exchanges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches(',');
        match (index, line) {
            (_, "[" | "]" | "") => {}
            (1, line) => header = serde_json::from_str(line).map_err(|error| bad(2, error))?,
            (index, line) => {
                exchanges.push(serde_json::from_str(line).map_err(|error| bad(index + 1, error))?);
            }
        }
    }
    Ok(Recording { header, exchanges })
}

/// Writes a recording.
pub fn store(file: &Path, recording: &Recording) -> Result<(), RecordingError> {
    let bad = |source| RecordingError::Line { path: file.to_owned(), line: 0, source };
    let mut text = "[\n".to_owned();
    text += &serde_json::to_string(&recording.header).map_err(bad)?;
    for exchange in &recording.exchanges {
        let line = serde_json::to_string(exchange).map_err(bad)?;
        // Writing to a string cannot fail.
        let _ = write!(text, ",\n{line}");
    }
    text += "\n]\n";
    std::fs::write(file, text)
        .map_err(|source| RecordingError::File { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded() {
        let exchange = Exchange {
            step: "anon GET /version".to_owned(),
            status: 200,
            content_type: Some("application/json".to_owned()),
            www_authenticate: None,
            body_form: None,
            body: Value::from(2),
            submitted: false,
            jobs: Vec::new(),
        };
        let header = Header { section: "s".to_owned(), daemon: "ganeti-rapi 3.0.2".to_owned() };
        let recording = Recording { header, exchanges: vec![exchange] };
        let file = std::env::temp_dir().join(format!("transcript-{}.json", std::process::id()));
        store(&file, &recording).unwrap();
        assert_eq!(load(&file).unwrap(), recording);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(serde_json::from_str::<Vec<Value>>(&text).is_ok(), "the file is JSON as a whole");
        std::fs::remove_file(&file).unwrap();
    }
}
