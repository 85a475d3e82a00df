//! What can go wrong at the end of the way.

use std::path::PathBuf;

use crate::log::LogError;
use crate::record::FormatError;

/// A result of the sink.
pub type Result<T, E = SinkError> = std::result::Result<T, E>;

/// Why a run's output could not be written. Each message says what would mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The ledger does not account for each row once.
    #[error(
        "the ledger does not balance: {0}. Nothing was published. This is a fault of the log or of scoreline, not of the data: please report it, and start the run anew with --restart"
    )]
    Ledger(String),
    /// The output exists.
    #[error("{path} exists and holds something else; nothing was overwritten. Choose another --output, or add --overwrite", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// No space: what was committed stays, and the same command goes on from there.
    #[error("no space left for {path} ({source}); free some and run the same command again, it goes on where it was", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A staged file is not what the log says it is.
    #[error("the staged file {path} {why}; start the run anew with --restart", path = path.display())]
    Staged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Parquet refuses the rows.
    #[error("cannot write Parquet: {0}; --format csv takes any rows")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that cannot be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// An error of the file system about `path`.
pub fn io_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> SinkError {
    let path = path.into();
    move |source| match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
            SinkError::Full { path, source }
        }
        _ => SinkError::Io { action, path, source },
    }
}
