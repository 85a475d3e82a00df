//! Control: runs, from their beginning to their end.
//!
//! This room starts the data path's services and watches over a run; it moves no row itself.

pub mod coordinator;
mod error;
pub mod local;

pub use error::{ControlError, Result};
pub use local::{LocalRun, Progress, RunSummary};
