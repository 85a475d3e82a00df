//! Dead letters: rows that could not be scored, as they stand in the dead-letter topic and file.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{FormatError, RunId, Stage};

/// A row that could not be scored, and why. A JSON record in the dead-letter topic, a line of JSON in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// The run.
    pub run: RunId,
    /// The source file as the run names it.
    pub file: String,
    /// The line of the file on which the row begins, from 1, where the file has lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The row's number in the file, from 0, unreadable rows included.
    pub row: u64,
    /// Where on its way the row failed.
    pub stage: Stage,
    /// What was wrong, as one sentence.
    pub reason: String,
    /// The row: as it stands in the file where it could not be read, else its cells as a JSON object.
    /// Bytes that are not UTF-8 are shown as U+FFFD here and are whole in `raw_hex`.
    pub raw: String,
    /// The row's bytes in hexadecimal, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_hex: Option<String>,
    /// The length of the whole in bytes, of the row as it stands in the file or of its JSON, where `raw` holds only the
    /// beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_from: Option<u64>,
}

impl DeadLetter {
    /// The record's value, or the file's line without its end.
    ///
    /// # Errors
    /// None that depends on the row.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|e| FormatError::new("a dead letter", e))
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// Where the value is no dead letter.
    pub fn decode(value: Option<&Bytes>) -> Result<Self, FormatError> {
        let value = value.ok_or_else(|| FormatError::new("a dead letter", "it has no value"))?;
        serde_json::from_slice(value).map_err(|e| FormatError::new("a dead letter", e))
    }
}

/// Raw bytes as text, with the bytes in hexadecimal where they are not UTF-8.
pub fn raw_text(raw: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(raw) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => {
            let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
            let hex = raw.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            (String::from_utf8_lossy(raw).into_owned(), Some(hex))
        }
    }
}
