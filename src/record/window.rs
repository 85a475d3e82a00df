//! A window: the rows that are scored, acknowledged and accounted for together.
//!
//! Ingest cuts a source file into windows of `mini_batch_size`, never across the file's end, and deals
//! them to the input topic's partitions in turn: window `n` of a run goes to partition
//! `n % partitions`, as consecutive frames. So the order of the input is the order of the windows' numbers.

use arrow::array::{Array, RecordBatch, UInt32Array};

use super::{Checksum, RowRanges, checksum};

/// The source line of each row, where the source has lines. Lines count from 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Lines {
    /// The source has no lines (Parquet, Arrow).
    None,
    /// Row number `r` stands on line `base + r`: each record takes one line.
    Base(i64),
    /// Some records take more or less than one line: the line of each row.
    Listed(UInt32Array),
}

impl Lines {
    /// The line of the row at place `index`, whose row number is `row`.
    pub fn line(&self, index: usize, row: u64) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Base(base) => row.checked_add_signed(*base),
            Self::Listed(lines) => lines.is_valid(index).then(|| u64::from(lines.value(index))),
        }
    }

    fn slice(&self, from: usize, count: usize) -> Self {
        match self {
            Self::Listed(lines) => Self::Listed(lines.slice(from, count)),
            simple => simple.clone(),
        }
    }
}

/// Rows of one source file as Arrow columns, with their row numbers and lines.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The cells; columns may be dictionary-encoded ([`super::compact`]).
    pub batch: RecordBatch,
    /// The row number of each row, in order.
    pub numbers: RowRanges,
    /// The line of each row.
    pub lines: Lines,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `count` rows from place `from`, in at most `ranges` ranges of row numbers.
    pub fn slice(&self, from: usize, count: usize, ranges: usize) -> Self {
        let (numbers, count) = self.numbers.slice(from, count, ranges);
        Self { batch: self.batch.slice(from, count), numbers, lines: self.lines.slice(from, count) }
    }

    /// The checksum of the rows.
    pub fn checksum(&self) -> Checksum {
        checksum::of_rows(&self.numbers, self.batch.columns())
    }
}
