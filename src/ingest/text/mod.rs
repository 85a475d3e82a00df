//! Text formats: CSV and JSON lines. A file's bytes are cut into whole rows on one thread ([`split`]) and
//! parsed into typed columns on many ([`csv`], [`jsonl`]).

pub mod csv;
pub mod jsonl;
pub mod split;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;

use self::split::{TextPosition, trim_line_end};
use super::columns::{ColumnBuilder, ColumnType};
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{Lines, RejectedRow, RowRanges, Rows};

/// Reasons are cut to so many bytes: some quote the data.
const MAX_REASON_BYTES: usize = 1024;

/// How rows and fields are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The byte between two fields, an ASCII one.
    pub delimiter: u8,
    /// The byte around fields that hold delimiters or line ends; `None` where a line is always a row.
    pub quote: Option<u8>,
}

impl Dialect {
    /// Each line is a row, whatever is in it: JSON lines.
    pub const LINES: Self = Self { delimiter: b'\n', quote: None };
}

/// A row that is rejected; `text` is the row as it stands in the file, line end included.
pub fn rejected(at: TextPosition, text: &Bytes, mut reason: String) -> RejectedRow {
    let length = trim_line_end(text).len();
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    let raw = text.slice(..length.min(MAX_RAW_BYTES));
    RejectedRow { row: at.row, line: Some(at.line), reason, raw, raw_len: length as u64 }
}

/// The rows of one window under construction.
pub struct WindowBuilder {
    schema: SchemaRef,
    /// The columns, in the schema's order.
    pub columns: Vec<ColumnBuilder>,
    numbers: RowRanges,
    lines: LineLog,
    rows: usize,
    rejected: Vec<RejectedRow>,
}

impl WindowBuilder {
    /// An empty window with columns of the schema's types and room for `rows`.
    pub fn new(schema: SchemaRef, rows: usize) -> Self {
        let columns = schema
            .fields()
            .iter()
            .map(|f| ColumnBuilder::new(ColumnType::from_arrow(f.data_type()).unwrap_or(ColumnType::String), rows))
            .collect();
        let (numbers, lines) = (RowRanges::default(), LineLog::Base(None));
        Self { schema, columns, numbers, lines, rows: 0, rejected: Vec::new() }
    }

    /// The name of a column.
    pub fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    /// Takes the row whose cells were just added to all columns.
    pub fn accept(&mut self, at: TextPosition) {
        self.lines.push(&self.numbers, at);
        self.numbers.push(at.row);
        self.rows += 1;
    }

    /// Drops the cells of the row in hand and keeps its raw bytes.
    pub fn reject(&mut self, rejected: RejectedRow) {
        let rows = self.rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rejected.push(rejected);
    }

    /// The window.
    ///
    /// # Errors
    /// None that depends on the rows.
    pub fn finish(self) -> Result<(Rows, Vec<RejectedRow>), ArrowError> {
        let columns: Result<Vec<ArrayRef>, _> = self.columns.into_iter().map(ColumnBuilder::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns?)?;
        Ok((Rows { batch, numbers: self.numbers, lines: self.lines.finish() }, self.rejected))
    }
}

/// The lines of the rows so far: nothing but their distance from the row numbers as long as that is the same.
enum LineLog {
    Base(Option<i64>),
    Listed(Vec<u64>),
}

impl LineLog {
    /// Adds the line of the row that comes behind `numbers`.
    fn push(&mut self, numbers: &RowRanges, at: TextPosition) {
        let distance = at.line.cast_signed() - at.row.cast_signed();
        match self {
            Self::Base(Some(base)) if *base == distance => {}
            Self::Base(base @ None) => *base = Some(distance),
            Self::Base(Some(base)) => {
                let before = numbers.iter().map(|row| row.wrapping_add_signed(*base));
                *self = Self::Listed(before.chain([at.line]).collect());
            }
            Self::Listed(lines) => lines.push(at.line),
        }
    }

    fn finish(self) -> Lines {
        match self {
            Self::Base(base) => Lines::Base(base.unwrap_or(1)),
            Self::Listed(lines) => Lines::Listed(lines.into_iter().map(|line| u32::try_from(line).ok()).collect()),
        }
    }
}
