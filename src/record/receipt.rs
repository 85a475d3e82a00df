//! Receipts: what became of each window, written in the transaction that carries its outputs.
//!
//! A receipt is a JSON record of the ledger topic, in the partition that has the number of the input's.
//! Receipts tile the input: within a run and partition each begins at the input offset at which the one
//! before it ended. A gap or an overlap is a lost or doubled window, and is seen.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Checksum, Digest, FormatError, RunId};

/// Numbers of rows by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowCounts {
    /// Rows read: `scored + dead + skipped`.
    pub rows: u64,
    /// Rows with a prediction.
    pub scored: u64,
    /// Rows that became dead letters.
    pub dead: u64,
    /// Rows left alone, for the run had failed or was cancelled.
    pub skipped: u64,
}

impl std::ops::AddAssign for RowCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.scored += other.scored;
        self.dead += other.dead;
        self.skipped += other.skipped;
    }
}

/// What became of one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of this format: 1.
    pub v: u8,
    /// The run.
    pub run: RunId,
    /// The window's number within the run.
    pub window: u64,
    /// The partition, of the input as of the output.
    pub partition: u32,
    /// The offset of the window's first input record.
    pub first: u64,
    /// The offset behind its last one.
    pub next: u64,
    /// The source file's place in the run's list of inputs.
    pub file: u32,
    /// Rows by what became of them.
    #[serde(flatten)]
    pub counts: RowCounts,
    /// Records written to the output topic.
    pub output_records: u32,
    /// Records written to the dead-letter topic.
    pub dead_letters: u32,
    /// The checksum of the rows read.
    pub sum_in: Checksum,
    /// The checksum of the rows with a prediction.
    pub sum_scored: Checksum,
    /// The model that scored the window.
    pub model: Digest,
    /// How many times the window was tried, at least 1.
    pub tries: u32,
}

impl Receipt {
    /// The record's value.
    ///
    /// # Errors
    /// None that depends on the receipt.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|e| FormatError::new("a receipt", e))
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// Where the value is no receipt, or its counts do not add up.
    pub fn decode(value: Option<&Bytes>) -> Result<Self, FormatError> {
        let value = value.ok_or_else(|| FormatError::new("a receipt", "it has no value"))?;
        let receipt: Self = serde_json::from_slice(value).map_err(|e| FormatError::new("a receipt", e))?;
        let counts = receipt.counts;
        if counts.rows != counts.scored + counts.dead + counts.skipped || receipt.next < receipt.first {
            return Err(FormatError::new(
                format!("the receipt of window {}", receipt.window),
                "its counts do not add up",
            ));
        }
        Ok(receipt)
    }
}
