//! The vocabulary of the data path, without I/O: what a frame, a window, a receipt and a run are,
//! and how each is written on the log.
//!
//! Guarantee: everything here is a pure function of its arguments, so that ingest, workers and sink,
//! which never call each other, agree on every byte.

pub mod checksum;
pub mod compact;
pub mod dead_letter;
pub mod digest;
pub mod frame;
pub mod ranges;
pub mod receipt;
pub mod rejects;
pub mod run;
pub mod size;
pub mod window;

pub use checksum::Checksum;
pub use dead_letter::DeadLetter;
pub use digest::Digest;
pub use frame::{Frame, FrameHeader, FrameKind};
pub use ranges::RowRanges;
pub use receipt::{Receipt, RowCounts};
pub use rejects::{RejectedRow, Stage};
pub use run::RunId;
pub use size::{ByteSize, MiniBatchSize};
pub use window::{Lines, Rows};

/// A record on the log that is not what its headers say.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct FormatError {
    /// Which kind of record, and which one.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl FormatError {
    /// An error about `what`.
    pub fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}
