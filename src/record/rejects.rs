//! Rows that could not be read, on their way to the dead letters.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Checksum, FormatError, checksum};

/// At most this much of a row's raw bytes travels with it; the source file has the rest.
pub const MAX_RAW_BYTES: usize = 64 * 1024;

/// Where on its way a row failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The source row could not be parsed, or a value did not fit its column.
    Read,
    /// A value did not fit the model's input.
    Bind,
    /// The model failed on the row.
    Score,
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Row number in its file, from 0.
    pub row: u64,
    /// Line in its file, from 1, where the file has lines.
    pub line: Option<u64>,
    /// What is wrong with it, as one sentence.
    pub reason: String,
    /// The row as it stands in the file, its first [`MAX_RAW_BYTES`].
    pub raw: Bytes,
    /// The length of the whole row in bytes.
    pub raw_len: u64,
}

impl RejectedRow {
    /// The row's checksum.
    pub fn checksum(&self) -> Checksum {
        checksum::of_raw(self.row, &self.raw)
    }

    /// About how many bytes the row takes in a frame.
    pub fn size(&self) -> usize {
        self.raw.len() + self.reason.len() + 40
    }
}

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("row", DataType::UInt64, false),
        Field::new("line", DataType::UInt64, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("raw", DataType::Binary, false),
        Field::new("raw_len", DataType::UInt64, false),
    ])
}

/// The rows as a batch with the columns `row`, `line`, `reason`, `raw` and `raw_len`.
///
/// # Errors
/// None that depends on the rows.
pub fn to_batch(rows: &[RejectedRow]) -> Result<RecordBatch, FormatError> {
    RecordBatch::try_new(
        Arc::new(schema()),
        vec![
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.row))),
            Arc::new(rows.iter().map(|r| r.line).collect::<UInt64Array>()),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.reason))),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.raw))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.raw_len))),
        ],
    )
    .map_err(|e| FormatError::new("a frame of rejected rows", e))
}

/// The reverse of [`to_batch`].
///
/// # Errors
/// Where the batch has other columns.
pub fn from_batch(batch: &RecordBatch) -> Result<Vec<RejectedRow>, FormatError> {
    let types_match = batch.num_columns() == schema().fields().len()
        && schema().fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type());
    if !types_match {
        return Err(FormatError::new("a frame of rejected rows", "it has other columns"));
    }
    let (row, line) = (batch.column(0).as_primitive::<UInt64Type>(), batch.column(1).as_primitive::<UInt64Type>());
    let (reason, raw) = (batch.column(2).as_string::<i32>(), batch.column(3).as_binary::<i32>());
    let raw_len = batch.column(4).as_primitive::<UInt64Type>();
    Ok((0..batch.num_rows())
        .map(|i| RejectedRow {
            row: row.value(i),
            line: line.is_valid(i).then(|| line.value(i)),
            reason: reason.value(i).to_owned(),
            raw: Bytes::copy_from_slice(raw.value(i)),
            raw_len: raw_len.value(i),
        })
        .collect())
}
