//! A scorer: one session and the rules for calling it.
//!
//! A row's prediction must not depend on the rows beside it. ONNX Runtime takes other paths for a single row, and for
//! the last value of an odd number of doubles; so every call has an even number of rows, at most [`CALL_ROWS`], and an
//! odd rest is padded with a copy of its last row. (Measured on 24 models: calls of 2 to 4,096 rows were then
//! bit-identical, row by row, with one thread a session.)
//!
//! A call that fails is split in halves until the failing rows stand alone; the others are scored as if
//! nothing had happened.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Schema};
use ort::session::{RunOptions, Session};

use super::bind::Binding;
use super::error::{Result, ScoreError};
use super::features::{FailedRow, Features};
use super::model::Model;
use super::predictions::{Predictions, plain_schema};

/// The most rows of one call. An even number: see above.
pub const CALL_ROWS: usize = 1024;

/// Watches and bounds the calls of a scorer.
pub trait CallGuard {
    /// The calls that follow are over the next frame of the window: their rows count from 0 again.
    fn next_frame(&self) {}

    /// A call over the rows `from..to` is about to begin; answers the options to run it with, or `None` where such
    /// a call is known to hang and must not be tried.
    fn begin(&self, from: usize, to: usize) -> Option<Arc<RunOptions>>;

    /// Whether the call that just failed was interrupted, and if so, whether the whole window is to be given up.
    fn interruption(&self) -> Interruption;
}

/// Whether a call was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// It failed by itself.
    None,
    /// It took too long; halves of it may do.
    Call,
    /// The window took too long and is to be tried anew.
    Window,
}

/// The rows of a window, scored.
#[derive(Debug)]
pub struct Scored {
    /// The prediction's columns for the rows that did not fail, in order.
    pub columns: Vec<(Field, ArrayRef)>,
    /// The rows that failed, in order.
    pub failed: Vec<FailedRow>,
    /// The most tries that a row needed.
    pub tries: u32,
}

/// The window took too long and is to be tried anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp;

/// One session, called by one thread.
pub struct Scorer {
    session: Session,
    model: Arc<Model>,
    probabilities: bool,
    max_try: u32,
}

struct Progress<'a> {
    features: &'a Features,
    guard: &'a dyn CallGuard,
    predictions: Predictions,
    failed: Vec<FailedRow>,
    tries: u32,
}

impl Scorer {
    /// A scorer with a session of its own.
    ///
    /// # Errors
    /// What ONNX Runtime says of the model.
    pub fn new(model: Arc<Model>, probabilities: bool, max_try: u32) -> Result<Self> {
        Ok(Self { session: model.open_session()?, model, probabilities, max_try: max_try.max(1) })
    }

    /// Scores all rows of `features`.
    ///
    /// # Errors
    /// [`GivenUp`] where the guard says so.
    pub fn score(&mut self, features: &Features, guard: &dyn CallGuard) -> Result<Scored, GivenUp> {
        let predictions = Predictions::new(&self.model, self.probabilities);
        let mut progress = Progress { features, guard, predictions, failed: Vec::new(), tries: 1 };
        for from in (0..features.len()).step_by(CALL_ROWS) {
            let to = features.len().min(from + CALL_ROWS);
            self.score_range(&mut progress, from, to)?;
        }
        let columns = progress.predictions.finish(&self.model);
        Ok(Scored { columns, failed: progress.failed, tries: progress.tries })
    }

    fn score_range(&mut self, progress: &mut Progress<'_>, from: usize, to: usize) -> Result<(), GivenUp> {
        let mut reason = String::new();
        // Rows together are tried once, for their halves are tried again; a row alone as often as was said.
        let tries = if to - from == 1 { self.max_try } else { 1 };
        for attempt in 1..=tries {
            progress.tries = progress.tries.max(attempt);
            let Some(options) = progress.guard.begin(from, to) else {
                "the model did not answer in time".clone_into(&mut reason);
                break;
            };
            match self.call(progress, from, to, &options) {
                Ok(()) => return Ok(()),
                Err(said) => reason = said,
            }
            match progress.guard.interruption() {
                Interruption::Window => return Err(GivenUp),
                Interruption::Call => {
                    "the model did not answer in time".clone_into(&mut reason);
                    break;
                }
                Interruption::None => {}
            }
        }
        if to - from == 1 {
            progress.failed.push(FailedRow { place: from, reason });
            return Ok(());
        }
        let middle = from + (to - from) / 2;
        self.score_range(progress, from, middle)?;
        self.score_range(progress, middle, to)
    }

    fn call(
        &mut self,
        progress: &mut Progress<'_>,
        from: usize,
        to: usize,
        options: &RunOptions,
    ) -> Result<(), String> {
        let rows = to - from;
        let padded;
        let (features, from, to) = if rows.is_multiple_of(2) {
            (progress.features, from, to)
        } else {
            let places: Vec<usize> = (from..to).chain(std::iter::once(to - 1)).collect();
            padded = progress.features.select(&places);
            (&padded, 0, rows + 1)
        };
        let said = |e: ort::Error| format!("the model failed on the row: {}", one_line(&e.to_string()));
        let inputs = features.inputs(from, to).map_err(said)?;
        let outputs = self.session.run_with_options(inputs, options).map_err(said)?;
        progress.predictions.add(&outputs, rows, to - from)
    }

    /// The prediction's columns, found by scoring placeholders.
    ///
    /// # Errors
    /// Where the model does not score placeholders either.
    pub fn prediction_schema(&mut self, binding: &Binding) -> Result<Schema> {
        let features = Features::placeholders(binding);
        match self.score(&features, &Unguarded::new()?) {
            Ok(scored) if scored.failed.is_empty() => Ok(plain_schema(&scored.columns)),
            Ok(scored) => {
                let why = scored.failed.first().map(|f| f.reason.clone()).unwrap_or_default();
                tracing::debug!(why, "the model does not take placeholders, its declared outputs are believed");
                Ok(Predictions::declared_schema(&self.model, self.probabilities))
            }
            Err(GivenUp) => Ok(Predictions::declared_schema(&self.model, self.probabilities)),
        }
    }
}

/// ONNX Runtime's messages run over lines and end in paths of its own sources.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A guard that lets every call take its time.
pub struct Unguarded(Arc<RunOptions>);

impl Unguarded {
    /// Options for calls without a bound.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub fn new() -> Result<Self> {
        let options = RunOptions::new().map_err(|e| ScoreError::Runtime(e.to_string()))?;
        Ok(Self(Arc::new(options)))
    }
}

impl CallGuard for Unguarded {
    fn begin(&self, _from: usize, _to: usize) -> Option<Arc<RunOptions>> {
        Some(Arc::clone(&self.0))
    }

    fn interruption(&self) -> Interruption {
        Interruption::None
    }
}
