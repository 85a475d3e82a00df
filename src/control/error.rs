//! What ends a run before its end.

use std::path::PathBuf;

use crate::ingest::IngestError;
use crate::log::LogError;
use crate::record::FormatError;
use crate::score::ScoreError;
use crate::sink::SinkError;

/// A result of the control room.
pub type Result<T, E = ControlError> = std::result::Result<T, E>;

/// Why a run could not go on. What was committed stays, unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The dataset.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// The model or a worker.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// The output.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that cannot be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An unfinished run stands where this one would.
    #[error(
        "an unfinished run stands in {folder}, and this one differs from it in: {differs}. Add --restart to give the \
         unfinished one up; with the same files and settings as then, it would go on",
        folder = folder.display()
    )]
    OtherRun {
        /// The work folder.
        folder: PathBuf,
        /// What differs.
        differs: String,
    },
    /// A place for the output that cannot be.
    #[error("{0}")]
    Place(String),
    /// A thread of the program ended in a panic.
    #[error(
        "the {0} thread gave up; this is a fault of scoreline, please report it. Run the same command again, it goes on where it was"
    )]
    Panicked(&'static str),
    /// Asked to stop from outside.
    #[error("stopped; run the same command again and it goes on where it was")]
    Interrupted,
}
