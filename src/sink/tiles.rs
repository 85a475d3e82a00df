//! The ledger's arithmetic: receipts must tile what was ingested.
//!
//! Receipts of a run come in the order of the windows' numbers. Each must begin where the one before it in its
//! partition ended, name the next window's number, and account for each of its rows once, by count and by checksum.

use serde::{Deserialize, Serialize};

use super::error::{Result, SinkError};
use crate::record::run::IngestProgress;
use crate::record::{Checksum, Receipt, RowCounts, RunId};

/// The sum of the receipts so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tiles {
    /// The next window's number.
    pub next_window: u64,
    /// The input offset at which each partition's next receipt must begin.
    pub next_offsets: Vec<u64>,
    /// Rows by what became of them.
    pub counts: RowCounts,
    /// The checksum of the rows read.
    pub sum_in: Checksum,
}

fn unbalanced<T>(why: String) -> Result<T> {
    Err(SinkError::Ledger(why))
}

impl Tiles {
    /// No receipt yet; each partition's range starts at its offset in `starts`.
    pub fn new(starts: &[u64]) -> Self {
        Self {
            next_window: 0,
            next_offsets: starts.to_vec(),
            counts: RowCounts::default(),
            sum_in: Checksum::default(),
        }
    }

    /// The partition that the next window is in.
    pub fn next_partition(&self) -> u32 {
        let partitions = self.next_offsets.len().max(1) as u64;
        u32::try_from(self.next_window % partitions).unwrap_or(0)
    }

    /// Adds the next receipt.
    ///
    /// # Errors
    /// A receipt that is not the next one: a window was lost or doubled.
    pub fn add(&mut self, run: &RunId, receipt: &Receipt) -> Result<()> {
        let (window, partition) = (self.next_window, self.next_partition());
        let expected = &mut self.next_offsets[partition as usize];
        if receipt.run != *run || receipt.partition != partition || receipt.window != window {
            return unbalanced(format!(
                "partition {partition} has a receipt of window {} of run {} where that of window {window} should be",
                receipt.window, receipt.run
            ));
        }
        if receipt.first != *expected {
            let fault = if receipt.first > *expected { "lost" } else { "accounted for twice" };
            return unbalanced(format!(
                "in partition {partition} the receipt of window {window} begins at offset {}, the one before it ended at {expected}: what is between them was {fault}",
                receipt.first
            ));
        }
        *expected = receipt.next;
        self.next_window += 1;
        self.counts += receipt.counts;
        self.sum_in += receipt.sum_in;
        Ok(())
    }

    /// Whether all windows have their receipt.
    ///
    /// # Errors
    /// Where they do, and what they account for is not what was ingested.
    pub fn is_complete(&self, ingested: &IngestProgress) -> Result<bool> {
        let Some(ends) = &ingested.ends else { return Ok(false) };
        if self.next_window < ingested.windows {
            return Ok(false);
        }
        if *ends != self.next_offsets {
            return unbalanced(format!("the receipts end at offsets {:?}, the input at {ends:?}", self.next_offsets));
        }
        if (ingested.windows, ingested.rows) != (self.next_window, self.counts.rows) {
            return unbalanced(format!(
                "{} rows in {} windows were ingested, the receipts account for {} rows in {} windows",
                ingested.rows, ingested.windows, self.counts.rows, self.next_window
            ));
        }
        if ingested.sum != self.sum_in {
            return unbalanced(format!(
                "the checksum of the rows ingested is {}, that of the rows accounted for {}",
                ingested.sum, self.sum_in
            ));
        }
        Ok(true)
    }
}
