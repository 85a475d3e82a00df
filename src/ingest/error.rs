//! What can go wrong with a dataset as a whole. Faults of single rows are no errors: they are rejected rows.

use std::path::PathBuf;

use crate::log::LogError;
use crate::record::FormatError;

/// A result of ingest.
pub type Result<T, E = IngestError> = std::result::Result<T, E>;

/// A dataset that cannot be read. Each message names the file and what would mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Nothing is there under the name.
    #[error("no input: {0}")]
    NoInput(String),
    /// A file could not be opened or read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would mend it.
        why: String,
    },
    /// A file changed while it was read, or between a run's two halves.
    #[error("{path} changed since the run began; start the run anew with --restart", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An option that does not fit the data.
    #[error("{0}")]
    Option(String),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that cannot be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The run was stopped from outside.
    #[error("stopped")]
    Stopped,
}

impl IngestError {
    /// A fault of the file as a whole.
    pub fn file(path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self::File { path: path.into(), why: why.to_string() }
    }

    /// A file that cannot be read.
    pub fn read(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        match source.kind() {
            UnexpectedEof | InvalidData | InvalidInput => Self::damaged(path, source),
            _ => Self::Read { path: path.into(), source },
        }
    }

    /// A file whose content is broken.
    pub fn damaged(path: impl Into<PathBuf>, why: impl ToString) -> Self {
        let why = why.to_string();
        Self::file(path, format!("it is damaged or cut off ({why}); copy it or write it anew"))
    }
}
