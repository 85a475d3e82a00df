//! Comma-separated values, as RFC 4180 has them, with any delimiter and quote.
//!
//! A field is quoted only where its first byte is the quote. A row with too few or too many fields, a
//! value that does not fit its column, or bytes that are not UTF-8 reject that row alone.

use std::borrow::Cow;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2};

use super::split::{RowEnd, Stretch, TextPosition, is_blank, row_end};
use super::{Dialect, WindowBuilder, rejected};
use crate::ingest::columns::{ColumnType, leading_decimal};
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
pub fn parse(layout: &CsvLayout, stretch: &Stretch) -> Result<(Rows, Vec<RejectedRow>), ArrowError> {
    let rows = usize::try_from(stretch.rows).unwrap_or(0).min(stretch.text.len());
    let mut parser = Parser {
        layout,
        text: &stretch.text,
        is_utf8: simdutf8::basic::from_utf8(&stretch.text).is_ok(),
        reads_decimals: decimals_are_numbers(layout),
        window: WindowBuilder::new(layout.schema.clone(), rows),
    };
    let (mut from, mut at) = (0, stretch.at);
    while from < stretch.text.len() {
        from = parser.row(from, &mut at);
    }
    parser.window.finish()
}

/// Whether plain decimals in columns of doubles are always numbers of their own: not where one of them means
/// a missing value, nor where the delimiter could be part of one.
fn decimals_are_numbers(layout: &CsvLayout) -> bool {
    let is_part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let is_decimal = |text: &str| leading_decimal(text.as_bytes()).is_some_and(|(_, length)| length == text.len());
    !is_part(layout.dialect.delimiter)
        && !layout.dialect.quote.is_some_and(is_part)
        && !layout.null_values.iter().any(|null| is_decimal(null.trim_ascii()))
}

/// The fields of one row, unquoted.
pub fn fields(row: &[u8], dialect: Dialect) -> Vec<Cow<'_, [u8]>> {
    let (mut fields, mut from) = (Vec::new(), 0);
    loop {
        let cell = Cell::at(row, from, dialect);
        fields.push(cell.text);
        match cell.next {
            Next::Field(next) => from = next,
            Next::Row(_) => return fields,
        }
    }
}

/// Where a cell's successor begins.
#[derive(Clone, Copy)]
enum Next {
    /// The next cell of the row.
    Field(usize),
    /// The next row.
    Row(usize),
}

impl Next {
    /// What comes behind a cell that ends at `at`; `None` where no cell ends there.
    #[inline]
    fn behind(text: &[u8], at: usize, delimiter: u8) -> Option<Self> {
        match text.get(at) {
            Some(byte) if *byte == delimiter => Some(Self::Field(at + 1)),
            Some(b'\n') => Some(Self::Row(at + 1)),
            Some(b'\r') if matches!(text.get(at + 1), None | Some(b'\n')) => Some(Self::Row((at + 2).min(text.len()))),
            None => Some(Self::Row(at)),
            Some(_) => None,
        }
    }
}

/// A cell as it stands in its row.
struct Cell<'a> {
    text: Cow<'a, [u8]>,
    is_quoted: bool,
    next: Next,
}

impl<'a> Cell<'a> {
    /// The cell that begins at `from`.
    fn at(text: &'a [u8], from: usize, dialect: Dialect) -> Self {
        match dialect.quote {
            Some(quote) if text.get(from) == Some(&quote) => Self::quoted(text, from + 1, quote, dialect.delimiter),
            _ => {
                let (end, next) = unquoted_end(text, from, dialect.delimiter);
                Self { text: Cow::Borrowed(&text[from..end]), is_quoted: false, next }
            }
        }
    }

    /// The cell whose content begins at `from`, behind its opening quote.
    fn quoted(text: &'a [u8], from: usize, quote: u8, delimiter: u8) -> Self {
        let close = |from: usize| memchr(quote, &text[from..]).map_or(text.len(), |length| from + length);
        let (mut start, mut end) = (from, close(from));
        let mut parts: Vec<u8> = Vec::new();
        while text.get(end + 1) == Some(&quote) {
            parts.extend_from_slice(&text[start..=end]);
            start = end + 2;
            end = close(start);
        }
        let behind = (end + 1).min(text.len());
        let is_whole = parts.is_empty();
        match Next::behind(text, behind, delimiter) {
            Some(next) if is_whole => Self { text: Cow::Borrowed(&text[start..end]), is_quoted: true, next },
            _ => {
                // Text behind the closing quote belongs to the cell as it stands.
                let (tail_end, next) = unquoted_end(text, behind, delimiter);
                parts.extend_from_slice(&text[start..end]);
                parts.extend_from_slice(&text[behind..tail_end]);
                Self { text: Cow::Owned(parts), is_quoted: true, next }
            }
        }
    }
}

/// Where the unquoted text that begins at `from` ends, and what comes behind it.
fn unquoted_end(text: &[u8], from: usize, delimiter: u8) -> (usize, Next) {
    /// Most cells are so short that a search in bulk would take longer to set up.
    const SHORT: usize = 16;
    let rest = &text[from..];
    let found = rest.iter().take(SHORT).position(|byte| *byte == delimiter || *byte == b'\n');
    let found = found.or_else(|| memchr2(delimiter, b'\n', rest.get(SHORT..)?).map(|length| SHORT + length));
    let end = from + found.unwrap_or(rest.len());
    match text.get(end) {
        Some(byte) if *byte == delimiter => (end, Next::Field(end + 1)),
        line_end => {
            let has_return = end > from && text[end - 1] == b'\r';
            (end - usize::from(has_return), Next::Row(end + usize::from(line_end.is_some())))
        }
    }
}

struct Parser<'a> {
    layout: &'a CsvLayout,
    text: &'a Bytes,
    is_utf8: bool,
    reads_decimals: bool,
    window: WindowBuilder,
}

/// Why a row is rejected.
enum Fault<'a> {
    Fields(usize),
    Cell { field: usize, cell: Cow<'a, [u8]> },
    NotUtf8,
}

impl<'a> Parser<'a> {
    /// Takes the row that begins at `from`, which stands at `at` of the file; answers where it ends.
    #[inline]
    fn row(&mut self, from: usize, at: &mut TextPosition) -> usize {
        if (!self.is_utf8 || matches!(self.text[from], b'\n' | b'\r'))
            && let Some(end) = self.odd_row(from, at)
        {
            return end;
        }
        match self.cells(from) {
            Ok((end, lines)) => {
                self.window.accept(*at);
                at.row += 1;
                at.line += lines;
                end
            }
            Err(fault) => self.reject(&fault, from, at),
        }
    }

    /// Passes a blank line, or a row that is not UTF-8; answers `None` where the row is neither.
    #[cold]
    fn odd_row(&mut self, from: usize, at: &mut TextPosition) -> Option<usize> {
        let end = self.end_of_row(from);
        let row = &self.text[from..end];
        if is_blank(row) {
            at.line += 1;
            return Some(end);
        }
        (!self.is_utf8 && std::str::from_utf8(row).is_err()).then(|| self.reject(&Fault::NotUtf8, from, at))
    }

    fn end_of_row(&self, from: usize) -> usize {
        match row_end(&self.text[from..], self.layout.dialect, true) {
            RowEnd::At(length) => from + length,
            RowEnd::Unknown | RowEnd::InQuote => self.text.len(),
        }
    }

    /// Adds the cells of the row that begins at `from`; answers where it ends and how many lines it takes.
    #[inline]
    fn cells(&mut self, from: usize) -> Result<(usize, u64), Fault<'a>> {
        let text: &'a [u8] = self.text;
        let (mut at, mut field, mut is_quoted) = (from, 0, false);
        loop {
            let next = if let Some(next) = self.decimal(field, at) {
                next
            } else {
                let cell = Cell::at(text, at, self.layout.dialect);
                is_quoted |= cell.is_quoted;
                let next = cell.next;
                self.cell(field, cell)?;
                next
            };
            field += 1;
            match next {
                Next::Field(next) => at = next,
                Next::Row(_) if field != self.layout.fields.len() => return Err(Fault::Fields(field)),
                Next::Row(end) if is_quoted => return Ok((end, memchr_iter(b'\n', &text[from..end]).count() as u64)),
                Next::Row(end) => return Ok((end, 1)),
            }
        }
    }

    /// A plain decimal in a column of doubles, the most frequent kind of cell by far: one pass over its bytes.
    /// Answers `None`, with nothing taken, for any other cell.
    #[inline]
    fn decimal(&mut self, field: usize, at: usize) -> Option<Next> {
        let column = self.layout.fields.get(field).filter(|_| self.reads_decimals)?;
        let cells = self.window.columns[*column].doubles()?;
        let (number, length) = leading_decimal(&self.text[at..])?;
        let next = Next::behind(self.text, at + length, self.layout.dialect.delimiter)?;
        cells.push(number);
        Some(next)
    }

    #[inline]
    fn cell(&mut self, field: usize, cell: Cell<'a>) -> Result<(), Fault<'a>> {
        // Fields beyond the last are counted by the caller.
        let Some(column) = self.layout.fields.get(field).map(|column| &mut self.window.columns[*column]) else {
            return Ok(());
        };
        let is_missing = if column.column_type() == ColumnType::String {
            cell.text.is_empty() && !cell.is_quoted
        } else {
            let trimmed = cell.text.trim_ascii();
            trimmed.is_empty() || self.layout.null_values.iter().any(|null| null.trim_ascii().as_bytes() == trimmed)
        };
        if is_missing {
            column.push_null();
        } else if !column.push(&cell.text) {
            return Err(Fault::Cell { field, cell: cell.text });
        }
        Ok(())
    }

    #[cold]
    fn reject(&mut self, fault: &Fault<'a>, from: usize, at: &mut TextPosition) -> usize {
        let reason = match fault {
            Fault::NotUtf8 => "the row is not UTF-8 text".to_owned(),
            Fault::Fields(found) => {
                let wanted = self.layout.fields.len();
                format!("the row has {found} field{}, {wanted} expected", if *found == 1 { "" } else { "s" })
            }
            Fault::Cell { field, cell } => {
                let column = self.layout.fields[*field];
                let wanted = self.window.columns[column].column_type().wanted();
                let cell = excerpt(&String::from_utf8_lossy(cell));
                format!("column {:?} holds {cell}, not {wanted}", self.window.name(column))
            }
        };
        let row = self.text.slice(from..self.end_of_row(from));
        self.window.reject(rejected(*at, &row, reason));
        at.row += 1;
        at.line += memchr_iter(b'\n', &row).count() as u64;
        from + row.len()
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
