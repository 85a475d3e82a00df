//! Comma-separated values, as RFC 4180 has them, with any delimiter and quote.
//!
//! A field is quoted only where its first byte is the quote. A row with too few or too many fields, a
//! value that does not fit its column, or bytes that are not UTF-8 reject that row alone.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::split::{MAX_ROW_BYTES, RowEnd, is_blank, long_row_reason, row_end, trim_line_end};
use super::{Dialect, WindowBuilder};
use crate::ingest::columns::{ColumnType, leading_decimal, parse_f64};
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{RejectedRow, Rows};

/// How one file's rows become columns.
#[derive(Clone, Debug)]
pub struct CsvLayout {
    /// How fields are told apart.
    pub dialect: Dialect,
    /// The dataset's columns.
    pub schema: SchemaRef,
    /// For each field of the file, in order, the column it belongs to.
    pub fields: Vec<usize>,
    /// Cells of columns other than text that mean a missing value, besides the empty one.
    pub null_values: Vec<String>,
}

/// Parses whole rows.
///
/// # Errors
/// None that depends on the rows.
pub fn parse(
    layout: &CsvLayout,
    text: &Bytes,
    first_row: u64,
    first_line: u64,
) -> Result<(Rows, Vec<RejectedRow>), arrow::error::ArrowError> {
    let is_utf8 = simdutf8::basic::from_utf8(text).is_ok();
    let mut parser = Parser {
        layout,
        window: WindowBuilder::new(layout.schema.clone(), text.len() / 16),
        text,
        is_utf8,
        // A number that means "missing" must not slip through as a number.
        has_plain_rows: !layout.null_values.iter().any(|null| parse_f64(null.as_bytes()).is_some()),
        scratch: Vec::new(),
    };
    let (mut at, mut row, mut line) = (0, first_row, first_line);
    while at < text.len() {
        let (end, lines) = parser.row(at, row, line);
        row += u64::from(!is_blank(&text[at..end]));
        (at, line) = (end, line + lines);
    }
    parser.window.finish()
}

/// The fields of one row, unquoted.
pub fn fields(row: &[u8], dialect: Dialect) -> Vec<Vec<u8>> {
    let row = trim_line_end(row);
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let (field, next) = quoted_field(row, at, dialect, &mut Vec::new());
        fields.push(field);
        match next {
            Some(next) => at = next,
            None => return fields,
        }
    }
}

/// The field at `at` of a row without its line end, and the place behind its delimiter; `None` after the last.
fn quoted_field(row: &[u8], at: usize, dialect: Dialect, field: &mut Vec<u8>) -> (Vec<u8>, Option<usize>) {
    field.clear();
    let mut at = at;
    if let Some(quote) = dialect.quote
        && row.get(at) == Some(&quote)
    {
        at += 1;
        while let Some(close) = memchr(quote, &row[at..]) {
            field.extend_from_slice(&row[at..at + close]);
            at += close + 1;
            if row.get(at) != Some(&quote) {
                break;
            }
            field.push(quote);
            at += 1;
        }
    }
    let end = memchr(dialect.delimiter, &row[at..]).map(|length| at + length);
    field.extend_from_slice(&row[at..end.unwrap_or(row.len())]);
    (std::mem::take(field), end.map(|end| end + 1))
}

struct Parser<'a> {
    layout: &'a CsvLayout,
    window: WindowBuilder,
    text: &'a Bytes,
    is_utf8: bool,
    has_plain_rows: bool,
    scratch: Vec<u8>,
}

/// Why a row is rejected.
enum Fault {
    Fields(usize),
    Cell { field: usize, cell: String },
    NotUtf8,
    Long,
}

impl Parser<'_> {
    /// Takes the row at `at`; answers where it ends and how many lines it takes.
    fn row(&mut self, at: usize, row: u64, line: u64) -> (usize, u64) {
        if let Some(end) = self.plain_row(at) {
            self.window.accept(row, line);
            return (end, 1);
        }
        let end = match row_end(&self.text[at..], self.layout.dialect, true) {
            RowEnd::At(length) => at + length,
            RowEnd::Unknown | RowEnd::InQuote => self.text.len(),
        };
        let raw = &self.text[at..end];
        let lines = memchr::memchr_iter(b'\n', raw).count() as u64;
        if !is_blank(raw) {
            match self.careful_row(raw) {
                Ok(()) => self.window.accept(row, line),
                Err(fault) => self.reject(&fault, at..end, row, line),
            }
        }
        (end, lines)
    }

    /// A row of plain decimals in columns of doubles, the most frequent kind by far: one pass over its bytes.
    /// Answers `None`, with nothing taken, for any other row.
    #[inline]
    fn plain_row(&mut self, at: usize) -> Option<usize> {
        if !self.has_plain_rows {
            return None;
        }
        let text: &[u8] = self.text;
        let (mut at, start, last) = (at, at, self.layout.fields.len() - 1);
        for (field, column) in self.layout.fields.iter().enumerate() {
            let taken = self.window.columns[*column].doubles().and_then(|cells| {
                let (number, length) = leading_decimal(&text[at..])?;
                let behind = *text.get(at + length)?;
                let is_end = field == last && behind == b'\n';
                (is_end || (field != last && behind == self.layout.dialect.delimiter)).then(|| {
                    cells.push(number);
                    at + length + 1
                })
            });
            match taken {
                Some(next) if next - start <= MAX_ROW_BYTES => at = next,
                _ => {
                    self.window.drop_row();
                    return None;
                }
            }
        }
        Some(at)
    }

    fn careful_row(&mut self, raw: &[u8]) -> Result<(), Fault> {
        if raw.len() > MAX_ROW_BYTES {
            return Err(Fault::Long);
        }
        let row = trim_line_end(raw);
        if !self.is_utf8 && std::str::from_utf8(row).is_err() {
            return Err(Fault::NotUtf8);
        }
        let dialect = self.layout.dialect;
        let (mut at, mut field) = (Some(0), 0);
        while let Some(start) = at {
            let is_quoted = dialect.quote.is_some_and(|quote| row.get(start) == Some(&quote));
            let fits = if is_quoted {
                let mut scratch = std::mem::take(&mut self.scratch);
                let (cell, next) = quoted_field(row, start, dialect, &mut scratch);
                at = next;
                let fits = self.cell(field, &cell, true);
                self.scratch = cell;
                fits
            } else {
                let end = memchr2(dialect.delimiter, b'\n', &row[start..]).map(|length| start + length);
                at = end.map(|end| end + 1);
                self.cell(field, &row[start..end.unwrap_or(row.len())], false)
            };
            fits?;
            field += 1;
        }
        if field == self.layout.fields.len() { Ok(()) } else { Err(Fault::Fields(field)) }
    }

    fn cell(&mut self, field: usize, cell: &[u8], is_quoted: bool) -> Result<(), Fault> {
        // Fields beyond the last are counted by the caller.
        let Some(column) = self.layout.fields.get(field).map(|column| &mut self.window.columns[*column]) else {
            return Ok(());
        };
        let text = std::str::from_utf8(cell).map_err(|_| Fault::NotUtf8)?;
        let is_text = column.column_type() == ColumnType::String;
        let is_missing = (text.is_empty() && !is_quoted)
            || (!is_text && (text.trim_ascii().is_empty() || self.layout.null_values.iter().any(|null| null == text)));
        if is_missing {
            column.push_null();
        } else if !column.push_text(text) {
            return Err(Fault::Cell { field, cell: text.to_owned() });
        }
        Ok(())
    }

    fn reject(&mut self, fault: &Fault, at: std::ops::Range<usize>, row: u64, line: u64) {
        let raw = self.text.slice(at);
        let reason = match fault {
            Fault::Long => long_row_reason(raw.len() as u64),
            Fault::NotUtf8 => "the row is not UTF-8 text".to_owned(),
            Fault::Fields(found) => {
                let wanted = self.layout.fields.len();
                format!("the row has {found} field{}, {wanted} expected", if *found == 1 { "" } else { "s" })
            }
            Fault::Cell { field, cell } => {
                let column = self.layout.fields[*field];
                let wanted = self.window.columns[column].column_type().wanted();
                format!("column {:?} holds {}, not {wanted}", self.window.name(column), excerpt(cell))
            }
        };
        let kept = trim_line_end(&raw);
        let kept = raw.slice(..kept.len().min(MAX_RAW_BYTES));
        self.window.reject(RejectedRow { row, line: Some(line), reason, raw_len: raw.len() as u64, raw: kept });
    }
}

/// A cell for a message: quoted, and no longer than a line.
pub fn excerpt(cell: &str) -> String {
    const MOST: usize = 60;
    match cell.char_indices().nth(MOST) {
        None => format!("{cell:?}"),
        Some((end, _)) => format!("{:?}…", &cell[..end]),
    }
}
