//! Runs: a dataset to score, with a beginning, an end and an error budget.
//!
//! What is known of a run stands in the compacted state topic, under keys of its own, each written by one
//! room alone: `run/ID` by the coordinator, `run/ID/ingest` by ingest (in the transactions that carry its
//! frames), `run/ID/verdict` by the coordinator, `run/ID/sink` (its checkpoint) and `run/ID/output` by the sink.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use super::{Checksum, Digest, MiniBatchSize, RowCounts};

/// A run's name: letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Arc<str>);

impl RunId {
    /// The run called `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The topics of the data path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topics {
    /// Rows.
    pub input: Arc<str>,
    /// Rows with predictions.
    pub output: Arc<str>,
    /// Rows that could not be scored.
    pub dead_letter: Arc<str>,
    /// Receipts.
    pub ledger: Arc<str>,
    /// What is known of runs; compacted, one partition.
    pub state: Arc<str>,
}

impl Default for Topics {
    fn default() -> Self {
        let name = |last: &str| format!("scoreline.{last}").into();
        Self {
            input: name("input"),
            output: name("output"),
            dead_letter: name("dead-letter"),
            ledger: name("ledger"),
            state: name("state"),
        }
    }
}

/// A source file as it was when the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Its path; `-` for standard input.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970; 0 where that is not known.
    pub modified_ns: i128,
}

/// What a missing value means to a model input of floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// Not-a-number goes into the model.
    Nan,
    /// The row becomes a dead letter.
    Fail,
}

/// How the output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Comma-separated values with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// What comes out of a run, by `ParallelRunStep`'s names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputAction {
    /// One file, in the input's order.
    AppendRow,
    /// A folder of files, cut by rows, whose names have the input's order.
    Parts,
    /// No rows: only the manifest, the ledger and the dead letters.
    SummaryOnly,
}

/// Where and how the output is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// The file or, for [`OutputAction::Parts`], the folder. An absolute path.
    pub path: String,
    /// How it is written.
    pub format: OutputFormat,
    /// What comes out.
    pub action: OutputAction,
    /// Rows of a Parquet row group.
    pub row_group_rows: u64,
    /// Rows of a part file, counted in whole windows.
    pub part_rows: u64,
    /// Whether cells that a spreadsheet would take for formulas are written with a quote before them.
    pub escape_formulas: bool,
}

/// All that decides what a run's output is. Two runs with equal definitions have equal outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDefinition {
    /// The model's digest.
    pub model: Digest,
    /// The source files, in order.
    pub inputs: Vec<InputFile>,
    /// How the source files are read, as the dataset room has it.
    pub dataset: serde_json::Value,
    /// The dataset's columns.
    pub schema: Schema,
    /// Rows or bytes of a window.
    pub mini_batch_size: MiniBatchSize,
    /// Partitions of the input topic.
    pub partitions: u32,
    /// Which column feeds which model input.
    pub map: BTreeMap<String, String>,
    /// What a missing value means.
    pub missing: Missing,
    /// Whether the output has a column for each class's probability.
    pub probabilities: bool,
    /// Rows that may fail before the run does; -1: any number.
    pub error_threshold: i64,
    /// The output.
    pub output: OutputSpec,
}

/// A run as the coordinator wrote it down before the first frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run.
    pub run: RunId,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// The model's name.
    pub model_name: String,
    /// The output's columns that come behind the dataset's.
    pub prediction_schema: Schema,
    /// What decides its output.
    pub definition: RunDefinition,
    /// The topics.
    pub topics: Topics,
    /// The input offset at which each partition's range starts.
    pub starts: Vec<u64>,
}

/// How far ingest is, committed with its frames.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IngestProgress {
    /// The file being read.
    pub file: u32,
    /// Where in that file reading goes on, as the format's reader has it; null at its beginning.
    pub resume_at: serde_json::Value,
    /// Windows dealt so far: also the number of the next.
    pub windows: u64,
    /// Rows dealt so far, unreadable ones included.
    pub rows: u64,
    /// Bytes of the inputs read so far, as they lie on disk.
    pub bytes: u64,
    /// The checksum of all rows dealt.
    pub sum: Checksum,
    /// The input offset behind the last frame of each partition; only when done.
    pub ends: Option<Vec<u64>>,
}

/// The verdict over a run that must not go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Why, as one sentence.
    pub reason: String,
}

/// A file that a run published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Its path: absolute, and in the manifest's file from the manifest's folder.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every row was scored or is a dead letter within the error threshold.
    Finished,
    /// It was given up.
    Failed,
}

/// What the sink published, once per run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// How the run ended.
    pub outcome: Outcome,
    /// Why it failed.
    pub reason: Option<String>,
    /// Rows by what became of them.
    pub counts: RowCounts,
    /// Windows.
    pub windows: u64,
    /// The files of rows.
    pub files: Vec<PublishedFile>,
    /// The ledger's file.
    pub ledger: PublishedFile,
    /// The file of dead letters, where there are some.
    pub dead_letters: Option<PublishedFile>,
    /// The first reasons for dead letters, at most ten.
    pub first_errors: Vec<String>,
}

/// Keys in the state topic.
pub mod key {
    use super::RunId;

    /// The key of a [`super::RunRecord`].
    pub fn run(run: &RunId) -> String {
        format!("run/{run}")
    }

    /// The key of an [`super::IngestProgress`].
    pub fn ingest(run: &RunId) -> String {
        format!("run/{run}/ingest")
    }

    /// The key of a [`super::Verdict`].
    pub fn verdict(run: &RunId) -> String {
        format!("run/{run}/verdict")
    }

    /// The key of an [`super::OutputRecord`].
    pub fn output(run: &RunId) -> String {
        format!("run/{run}/output")
    }
}

/// The consumer group of all workers.
pub const WORKER_GROUP: &str = "scoreline.workers";

const WRITTEN: &str = "scoreline.written";
const WHOLE: &str = "whole";

/// A column of doubles whose values were whole numbers in text as far as one looked: they are written without
/// a fraction again.
pub fn written_whole(field: &Field) -> Field {
    let metadata = std::collections::HashMap::from([(WRITTEN.to_owned(), WHOLE.to_owned())]);
    Field::new(field.name(), DataType::Float64, true).with_metadata(metadata)
}

/// Whether the column is one of [`written_whole`].
pub fn is_written_whole(field: &Field) -> bool {
    field.metadata().get(WRITTEN).is_some_and(|how| how == WHOLE)
}

impl RunDefinition {
    /// The verdict over a run with these counts: more dead rows than it may have are its end. It is the same whoever
    /// asks, be it the coordinator while the run goes on or the sink when all receipts are in.
    pub fn verdict(&self, counts: &RowCounts) -> Option<Verdict> {
        let most = u64::try_from(self.error_threshold).ok().filter(|most| counts.dead > *most)?;
        let reason = format!(
            "{} rows failed, more than the error threshold of {most} allows (of {} rows read so far)",
            counts.dead, counts.rows
        );
        Some(Verdict { reason })
    }
}

impl RunRecord {
    /// The output's columns: the dataset's, then the prediction's.
    pub fn output_schema(&self) -> Schema {
        let dataset = self.definition.schema.fields().iter();
        Schema::new(dataset.chain(self.prediction_schema.fields()).cloned().collect::<Vec<_>>())
    }
}
