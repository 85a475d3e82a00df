//! Score: windows of the input topic become predictions on the output topic and receipts on the ledger.
//!
//! The only room that names ONNX Runtime.

pub mod bind;
mod error;
pub mod features;
pub mod graph;
pub mod model;
pub mod pool;
pub mod predictions;
pub mod runtime;
pub mod scorer;
pub mod window;
pub mod worker;

pub use bind::{Binding, ColumnMap};
pub use error::{Result, ScoreError};
pub use model::Model;
pub use pool::Limits;
pub use runtime::{Candidates, Runtime};
pub use worker::Worker;
