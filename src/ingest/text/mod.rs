//! Text formats: CSV and JSON lines. A file's bytes are cut into whole rows on one thread ([`split`]) and
//! parsed into typed columns on many ([`csv`], [`jsonl`]).

pub mod csv;
pub mod jsonl;
pub mod split;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::columns::{ColumnBuilder, ColumnType};
use crate::record::{Lines, RejectedRow, RowRanges, Rows};

/// How rows and fields are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The byte between two fields.
    pub delimiter: u8,
    /// The byte around fields that hold delimiters or line ends; `None` where a line is always a row.
    pub quote: Option<u8>,
}

impl Dialect {
    /// Each line is a row, whatever is in it: JSON lines.
    pub const LINES: Self = Self { delimiter: b'\n', quote: None };
}

/// The rows of one window under construction.
pub struct WindowBuilder {
    schema: SchemaRef,
    /// The columns, in the schema's order.
    pub columns: Vec<ColumnBuilder>,
    numbers: RowRanges,
    lines: Vec<u64>,
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
        Self { schema, columns, numbers: RowRanges::default(), lines: Vec::new(), rejected: Vec::new() }
    }

    /// The name of a column.
    pub fn name(&self, column: usize) -> &str {
        self.schema.field(column).name()
    }

    /// Takes the row whose cells were just added to all columns.
    pub fn accept(&mut self, row: u64, line: u64) {
        self.numbers.push(row);
        self.lines.push(line);
    }

    /// Drops the cells of the row in hand.
    pub fn drop_row(&mut self) {
        let rows = self.lines.len();
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Drops the cells of the row in hand and keeps its raw bytes.
    pub fn reject(&mut self, rejected: RejectedRow) {
        self.drop_row();
        self.rejected.push(rejected);
    }

    /// The window.
    ///
    /// # Errors
    /// None that depends on the rows.
    pub fn finish(self) -> Result<(Rows, Vec<RejectedRow>), arrow::error::ArrowError> {
        let columns = self.columns.into_iter().map(ColumnBuilder::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let lines = lines_of(&self.numbers, &self.lines);
        Ok((Rows { batch, numbers: self.numbers, lines }, self.rejected))
    }
}

fn lines_of(numbers: &RowRanges, lines: &[u64]) -> Lines {
    let base = |row: u64, line: u64| line.cast_signed() - row.cast_signed();
    let Some(first) = numbers.first().zip(lines.first()).map(|(row, line)| base(row, *line)) else {
        return Lines::Base(1);
    };
    if numbers.iter().zip(lines).all(|(row, line)| base(row, *line) == first) {
        return Lines::Base(first);
    }
    Lines::Listed(lines.iter().map(|line| u32::try_from(*line).ok()).collect())
}
