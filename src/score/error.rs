//! What can go wrong with a model or a worker as a whole. Faults of single rows are dead letters.

use std::path::PathBuf;

use crate::log::LogError;
use crate::record::FormatError;

/// A result of the score room.
pub type Result<T, E = ScoreError> = std::result::Result<T, E>;

/// A model or a worker that cannot go on. Each message says what would mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The ONNX Runtime library is not there, or is not one.
    #[error("{0}")]
    Runtime(String),
    /// A model that cannot be used.
    #[error("model {path}: {why}", path = path.display())]
    Model {
        /// The model's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Columns that do not feed the model.
    #[error("{0}")]
    Binding(String),
    /// The model hung on too many calls.
    #[error(
        "the model hung: {hung} calls did not end within {timeout_s} s each and could not be interrupted; raise --run-invocation-timeout, or mend the model"
    )]
    Hung {
        /// How many threads were given up.
        hung: usize,
        /// The time that each was given.
        timeout_s: u64,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record that cannot be written or read.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl ScoreError {
    /// A fault of the model's file.
    pub fn model(path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self::Model { path: path.into(), why: why.to_string() }
    }
}
