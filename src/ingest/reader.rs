//! One file as windows, from its beginning or from where an earlier attempt stopped.
//!
//! Guarantee: windows are a function of the file, the dataset and the mini-batch size alone; a reader that is
//! opened at what [`Reader::resume_at`] said goes on with the windows that the first reader would have read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::columnar::Batches;
use super::dataset::{Dataset, Format};
use super::error::{IngestError, Result};
use super::infer::{self, CsvStart};
use super::source::{ReadCount, Source};
use super::text::csv::{self, CsvLayout};
use super::text::split::{Piece, Splitter, Stretch, TextPosition};
use super::text::{Dialect, jsonl};
use crate::record::{FormatError, Lines, MiniBatchSize, RejectedRow, RowRanges, Rows};

/// How text becomes rows.
#[derive(Clone, Debug)]
pub enum TextLayout {
    /// Comma-separated values.
    Csv(Arc<CsvLayout>),
    /// JSON lines.
    Jsonl(SchemaRef),
}

impl TextLayout {
    /// How its rows are told apart.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Csv(layout) => layout.dialect,
            Self::Jsonl(_) => Dialect::LINES,
        }
    }

    /// Parses whole rows.
    ///
    /// # Errors
    /// None that depends on the rows.
    pub fn parse(&self, stretch: &Stretch) -> Result<(Rows, Vec<RejectedRow>), FormatError> {
        let parsed = match self {
            Self::Csv(layout) => csv::parse(layout, stretch),
            Self::Jsonl(schema) => jsonl::parse(schema, stretch),
        };
        parsed.map_err(|e| FormatError::new("rows of a window", e))
    }
}

/// The rows of one window, as they were cut from a file.
#[derive(Clone, Debug)]
pub enum Work {
    /// Text to parse.
    Text {
        /// How.
        layout: TextLayout,
        /// The rows.
        stretch: Stretch,
    },
    /// Rows that are columns already.
    Columns {
        /// The rows.
        batch: RecordBatch,
        /// The number of the first.
        first_row: u64,
    },
    /// A row that has no end.
    Reject(RejectedRow),
}

impl Work {
    /// The rows, and those that cannot be read.
    ///
    /// # Errors
    /// None that depends on the rows.
    pub fn parse(&self) -> Result<(Option<Rows>, Vec<RejectedRow>), FormatError> {
        match self {
            Self::Text { layout, stretch } => layout.parse(stretch).map(|(rows, rejected)| (Some(rows), rejected)),
            Self::Columns { batch, first_row } => {
                let numbers = RowRanges::from_range(*first_row..first_row + batch.num_rows() as u64);
                Ok((Some(Rows { batch: batch.clone(), numbers, lines: Lines::None }), Vec::new()))
            }
            Self::Reject(row) => Ok((None, vec![row.clone()])),
        }
    }
}

/// Reads one file as windows.
pub struct Reader {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Text { splitter: Splitter<Source>, layout: TextLayout, read: ReadCount },
    Columns { batches: Batches, position: ColumnarPosition },
}

/// Where in a columnar file the next row begins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct ColumnarPosition {
    row: u64,
}

impl Reader {
    /// Opens a file of `dataset` to be read in windows of `size`, at what an earlier reader's
    /// [`Self::resume_at`] said, or at its beginning where that is null.
    ///
    /// # Errors
    /// Where it cannot be read, or has other columns than the dataset.
    pub fn open(path: &Path, dataset: &Dataset, size: MiniBatchSize, resume_at: Value) -> Result<Self> {
        let kind = match dataset.format {
            Format::Csv | Format::Jsonl => Self::open_text(path, dataset, size, resume_at)?,
            Format::Parquet | Format::Arrow => {
                let position: ColumnarPosition = position(resume_at)?.unwrap_or_default();
                let batches = Batches::open(path, dataset.format, size, dataset.schema.clone(), position.row)?;
                Kind::Columns { batches, position }
            }
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    fn open_text(path: &Path, dataset: &Dataset, size: MiniBatchSize, resume_at: Value) -> Result<Kind> {
        let (layout, first_row) = if dataset.format == Format::Csv {
            let CsvStart { names, first_row } = infer::csv_start(path, &dataset.options)?;
            (TextLayout::Csv(Arc::new(dataset.csv_layout(path, names.as_deref())?)), first_row)
        } else {
            let first_row = TextPosition { offset: infer::mark_length(path)?, row: 0, line: 1 };
            (TextLayout::Jsonl(dataset.schema.clone()), first_row)
        };
        let start = position(resume_at)?.unwrap_or(first_row);
        let source = Source::open(path, start.offset).map_err(|e| IngestError::read(path, e))?;
        let read = source.read_count();
        let splitter = Splitter::new(source, layout.dialect(), size, start);
        Ok(Kind::Text { splitter, layout, read })
    }

    /// The next window, or `None` at the end.
    ///
    /// # Errors
    /// Where the file cannot be read further, or is damaged.
    pub fn next_work(&mut self) -> Result<Option<Work>> {
        match &mut self.kind {
            Kind::Text { splitter, layout, .. } => {
                let piece = splitter.next_piece().map_err(|e| IngestError::read(&self.path, e))?;
                Ok(piece.map(|piece| match piece {
                    Piece::Rows(stretch) => Work::Text { layout: layout.clone(), stretch },
                    Piece::Reject(row) => Work::Reject(row),
                }))
            }
            Kind::Columns { batches, position } => Ok(batches.next_window()?.map(|batch| {
                let first_row = position.row;
                position.row += batch.num_rows() as u64;
                Work::Columns { batch, first_row }
            })),
        }
    }

    /// Where to go on behind the window that was read last.
    ///
    /// # Errors
    /// None that depends on the file.
    pub fn resume_at(&self) -> Result<Value> {
        let json = match &self.kind {
            Kind::Text { splitter, .. } => serde_json::to_value(splitter.position()),
            Kind::Columns { position, .. } => serde_json::to_value(position),
        };
        json.map_err(|e| FormatError::new("a position in a file", e).into())
    }

    /// How many bytes of the file, as they lie on disk, were read.
    pub fn bytes_read(&self) -> u64 {
        match &self.kind {
            Kind::Text { read, .. } => read.bytes(),
            Kind::Columns { batches, .. } => batches.bytes_read(),
        }
    }
}

fn position<T: DeserializeOwned>(json: Value) -> Result<Option<T>> {
    serde_json::from_value(json).map_err(|e| FormatError::new("a position in a file", e).into())
}
