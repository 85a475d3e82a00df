//! Column types of text formats, inferred from the first rows.
//!
//! A type is inferred only where all values of the sample read back as they were written: `007` stays text.
//! The sample is the first 4 MiB of the first file and the first 64 KiB of up to 15 others; of the rest only
//! the header is looked at.

use std::borrow::Cow;
use std::path::Path;

use arrow::datatypes::Schema;
use memchr::{memchr, memchr_iter};

use super::columns::{ColumnType, parse_f64};
use super::dataset::{DatasetOptions, Format, column_name, differing_columns, header_names, schema_of};
use super::error::{IngestError, Result};
use super::source;
use super::text::Dialect;
use super::text::csv::{excerpt, fields};
use super::text::jsonl::each_field;
use super::text::split::{MAX_ROW_BYTES, RowEnd, TextPosition, is_blank, row_end};
use crate::record::run::InputFile;

const FIRST_FILE_BYTES: u64 = 4 << 20;
const OTHER_FILE_BYTES: u64 = 64 << 10;
const OTHER_FILES: usize = 15;
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// What a model makes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A number: the column is one as long as most of its values are.
    Number,
    /// Text, whatever the values look like.
    Text,
    /// Nothing: the column passes through.
    Nothing,
}

/// What was seen of one column.
struct Seen {
    name: String,
    is_int: bool,
    is_float: bool,
    is_bool: bool,
    wholes: usize,
    numbers: usize,
    values: usize,
}

impl Seen {
    fn new(name: String) -> Self {
        Self { name, is_int: true, is_float: true, is_bool: true, wholes: 0, numbers: 0, values: 0 }
    }

    fn value(&mut self, text: &str) {
        let text = text.trim_ascii();
        let is_number = parse_f64(text.as_bytes()).is_some();
        let reads_back = is_number && !has_leading_zero(text);
        let whole = text.parse::<i64>().ok();
        let looks_whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        self.values += 1;
        self.numbers += usize::from(is_number);
        let is_int = reads_back && whole.is_some_and(|n| text.starts_with('-') == (n < 0));
        self.wholes += usize::from(is_int);
        self.is_int &= is_int;
        // A double holds whole numbers up to 2^53 exactly.
        self.is_float &= reads_back && (!looks_whole || whole.is_some_and(|n| n.unsigned_abs() <= 1 << 53));
        self.is_bool &= matches!(text, "true" | "false");
    }

    fn text(&mut self) {
        self.values += 1;
        (self.is_int, self.is_float, self.is_bool) = (false, false, false);
    }

    fn conclude(&self, wanted: Wanted) -> ColumnType {
        let mostly_numbers = self.numbers * 2 > self.values;
        match wanted {
            Wanted::Text => ColumnType::String,
            _ if self.values == 0 && wanted == Wanted::Number => ColumnType::Float64,
            _ if self.values == 0 => ColumnType::String,
            _ if self.is_bool => ColumnType::Boolean,
            Wanted::Number if mostly_numbers && self.wholes < self.numbers => ColumnType::Float64,
            Wanted::Number if mostly_numbers => ColumnType::Int64,
            _ if self.is_int => ColumnType::Int64,
            _ if self.is_float => ColumnType::Float64,
            _ => ColumnType::String,
        }
    }
}

fn has_leading_zero(number: &str) -> bool {
    let digits = number.trim_start_matches(['-', '+']).as_bytes();
    number.starts_with('+') || (digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit())
}

/// The columns of text files.
///
/// # Errors
/// Files that are empty, not text, or have other columns than the first; given types of columns that are not there.
pub fn text_schema(
    files: &[InputFile],
    format: Format,
    options: &DatasetOptions,
    wanted: &dyn Fn(&str) -> Wanted,
) -> Result<Schema> {
    let step = files.len().div_ceil(OTHER_FILES).max(1);
    let mut columns: Vec<Seen> = Vec::new();
    for (place, file) in files.iter().enumerate() {
        let path = Path::new(&file.path);
        let budget = match place {
            0 => FIRST_FILE_BYTES,
            _ if place % step == 0 => OTHER_FILE_BYTES,
            _ => 0,
        };
        match format {
            Format::Jsonl => look_at_json(path, budget, &mut columns)?,
            _ => look_at_csv(path, budget, place == 0, options, &mut columns)?,
        }
    }
    check_given_types(options, &columns)?;
    let typed = columns
        .iter()
        .map(|seen| {
            let given = options.given_type(&seen.name);
            (seen.name.clone(), given.unwrap_or_else(|| seen.conclude(wanted(&seen.name))))
        })
        .collect();
    Ok(schema_of(typed))
}

fn check_given_types(options: &DatasetOptions, columns: &[Seen]) -> Result<()> {
    match options.column_types.iter().find(|(name, _)| !columns.iter().any(|seen| seen.name == *name)) {
        None => Ok(()),
        Some((name, _)) => {
            let names: Vec<_> = columns.iter().map(|seen| seen.name.as_str()).collect();
            Err(IngestError::Option(format!(
                "a type is given for column {name:?}, which the data does not have; its columns are {}",
                names.join(", ")
            )))
        }
    }
}

/// The beginning of a file.
struct Beginning {
    /// Its text, without a byte order mark.
    text: Vec<u8>,
    /// The length of that mark.
    mark: usize,
    /// Whether that is the whole file.
    is_whole: bool,
}

struct FirstRow<'a> {
    cells: Vec<Cow<'a, [u8]>>,
    /// The place behind it.
    end: usize,
}

impl Beginning {
    fn read(path: &Path, bytes: u64) -> Result<Self> {
        let (mut text, is_whole) = source::sample(path, bytes).map_err(|e| IngestError::read(path, e))?;
        let mark = byte_order_mark(path, &text)?;
        text.drain(..mark);
        Ok(Self { text, mark, is_whole })
    }

    /// The first row that is not blank; `None` where it goes on behind this text.
    fn first_row(&self, path: &Path, dialect: Dialect) -> Result<Option<FirstRow<'_>>> {
        let mut at = 0;
        loop {
            let rest = &self.text[at..];
            match row_end(rest, dialect, self.is_whole) {
                RowEnd::At(length) if is_blank(&rest[..length]) => at += length,
                RowEnd::At(length) => {
                    return Ok(Some(FirstRow { cells: fields(&rest[..length], dialect), end: at + length }));
                }
                _ if !self.is_whole => return Ok(None),
                RowEnd::InQuote => return Err(IngestError::file(path, "a quote in its first row is not closed")),
                RowEnd::Unknown => return Err(IngestError::file(path, "it is empty: not even a header is there")),
            }
        }
    }

    /// The rows behind the first `skip` bytes, as far as they are whole. Those that will be rejected for having
    /// no end are passed over.
    fn rows(&self, skip: usize, dialect: Dialect) -> impl Iterator<Item = &[u8]> {
        let mut at = skip.min(self.text.len());
        std::iter::from_fn(move || {
            loop {
                let rest = &self.text[at..];
                let seen = &rest[..rest.len().min(MAX_ROW_BYTES)];
                let is_cut = seen.len() < rest.len();
                match row_end(seen, dialect, self.is_whole && !is_cut) {
                    RowEnd::At(length) => {
                        at += length;
                        return Some(&rest[..length]);
                    }
                    _ if rest.is_empty() || !(self.is_whole || is_cut) => return None,
                    _ => at += memchr(b'\n', rest).map_or(rest.len(), |end| end + 1),
                }
            }
        })
    }
}

/// The length of a UTF-8 byte order mark at the beginning of a file.
///
/// # Errors
/// A mark of another encoding, and files that are no text.
fn byte_order_mark(path: &Path, text: &[u8]) -> Result<usize> {
    let kind = match text {
        [0xef, 0xbb, 0xbf, ..] => return Ok(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            let why = "it is UTF-16 text; convert it first, for example with iconv -f utf-16 -t utf-8";
            return Err(IngestError::file(path, why));
        }
        [0, ..] | [_, 0, ..] => {
            let why = "it begins with zero bytes, as UTF-16 text does and UTF-8 text does not; convert it first, for \
                       example with iconv -f utf-16le -t utf-8";
            return Err(IngestError::file(path, why));
        }
        [b'P', b'A', b'R', b'1', ..] => "a Parquet file; say --input-format parquet",
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => "an Arrow file; say --input-format arrow",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            "compressed with xz, of which nothing is known here; decompress it first"
        }
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..] => {
            "compressed with bzip2, of which nothing is known here; decompress it first"
        }
        [b'P', b'K', 3, 4, ..] => "a zip archive; unpack it first",
        _ => return Ok(0),
    };
    Err(IngestError::file(path, format!("it is no text but {kind}")))
}

/// How a CSV file begins.
pub struct CsvStart {
    /// The names in its header, where it has one.
    pub names: Option<Vec<String>>,
    /// Where its first row begins.
    pub first_row: TextPosition,
}

/// Looks at the header of a CSV file.
///
/// # Errors
/// An empty file, a header that is not text, a header over 1 MiB.
pub fn csv_start(path: &Path, options: &DatasetOptions) -> Result<CsvStart> {
    let head = Beginning::read(path, OTHER_FILE_BYTES)?;
    match csv_start_of(path, &head, options)? {
        Some(start) => Ok(start),
        None => long_csv_start(path, options).map(|(start, _)| start),
    }
}

fn long_csv_start(path: &Path, options: &DatasetOptions) -> Result<(CsvStart, Beginning)> {
    let head = Beginning::read(path, MAX_HEADER_BYTES)?;
    let start = csv_start_of(path, &head, options)?.ok_or_else(|| endless_header(path))?;
    Ok((start, head))
}

fn endless_header(path: &Path) -> IngestError {
    let why = "its first row, the header, has no end within 1 MiB; does it hold a quote that is not closed?";
    IngestError::file(path, why)
}

/// `None` where the header goes on behind `head`.
fn csv_start_of(path: &Path, head: &Beginning, options: &DatasetOptions) -> Result<Option<CsvStart>> {
    let start = |names, length: usize| {
        let line = 1 + memchr_iter(b'\n', &head.text[..length]).count() as u64;
        CsvStart { names, first_row: TextPosition { offset: (head.mark + length) as u64, row: 0, line } }
    };
    let mut returns = memchr_iter(b'\r', &head.text);
    if returns.any(|at| at + 1 < head.text.len()) && !head.text.contains(&b'\n') {
        let why = "its lines end with carriage returns alone; convert it first, for example with tr '\\r' '\\n'";
        return Err(IngestError::file(path, why));
    }
    if !options.header {
        return Ok(Some(start(None, 0)));
    }
    let Some(FirstRow { cells: header, end }) = head.first_row(path, options.dialect(path))? else { return Ok(None) };
    if end as u64 > MAX_HEADER_BYTES {
        return Err(endless_header(path));
    }
    Ok(Some(start(Some(header_names(path, &header)?), end)))
}

/// The length of a text file's byte order mark.
///
/// # Errors
/// A file that cannot be read, or a mark of another encoding than UTF-8.
pub fn mark_length(path: &Path) -> Result<u64> {
    Ok(Beginning::read(path, 64)?.mark as u64)
}

fn look_at_csv(
    path: &Path,
    budget: u64,
    is_first: bool,
    options: &DatasetOptions,
    columns: &mut Vec<Seen>,
) -> Result<()> {
    let dialect = options.dialect(path);
    let head = Beginning::read(path, budget.max(OTHER_FILE_BYTES))?;
    let (start, head) = match csv_start_of(path, &head, options)? {
        Some(start) => (start, head),
        None => long_csv_start(path, options)?,
    };
    let names = match start.names {
        Some(names) => names,
        None => names_by_place(path, &head, options)?,
    };
    if is_first {
        columns.extend(names.iter().cloned().map(Seen::new));
    }
    let known: Vec<String> = columns.iter().map(|seen| seen.name.clone()).collect();
    let places: Vec<usize> = names.iter().filter_map(|name| known.iter().position(|k| k == name)).collect();
    if names.len() != known.len() || places.len() != known.len() {
        return Err(IngestError::file(path, differing_columns(&known, &names)));
    }
    if budget == 0 {
        return Ok(());
    }
    let skip = usize::try_from(start.first_row.offset).unwrap_or(usize::MAX).saturating_sub(head.mark);
    for row in head.rows(skip, dialect).map(|row| fields(row, dialect)).filter(|row| row.len() == places.len()) {
        for (place, cell) in places.iter().zip(&row) {
            if let Ok(cell) = std::str::from_utf8(cell)
                && !cell.trim_ascii().is_empty()
                && !options.is_null(cell)
            {
                columns[*place].value(cell);
            }
        }
    }
    Ok(())
}

/// The names of the columns of a file without a header.
fn names_by_place(path: &Path, head: &Beginning, options: &DatasetOptions) -> Result<Vec<String>> {
    let dialect = options.dialect(path);
    let too_long = || IngestError::file(path, "its first row has no end within 64 KiB");
    let first = head.first_row(path, dialect)?.ok_or_else(too_long)?.cells;
    let names = &options.column_names;
    if names.is_empty() {
        return Ok((0..first.len()).map(column_name).collect());
    }
    let fits = head.rows(0, dialect).any(|row| fields(row, dialect).len() == names.len());
    if !fits {
        let why = format!("{} columns are named, its first row has {} fields", names.len(), first.len());
        return Err(IngestError::file(path, why));
    }
    Ok(names.clone())
}

fn look_at_json(path: &Path, budget: u64, columns: &mut Vec<Seen>) -> Result<()> {
    let head = Beginning::read(path, budget.max(64))?;
    if head.text.is_empty() {
        return Err(IngestError::file(path, "it is empty"));
    }
    if budget == 0 {
        return Ok(());
    }
    let mut broken = None;
    for line in head.rows(0, Dialect::LINES).filter(|line| !is_blank(line)) {
        let mut fields = Vec::new();
        match each_field(line, |name, value| fields.push((name.to_owned(), value.to_owned()))) {
            Ok(()) => fields.iter().for_each(|(name, value)| look_at_json_value(columns, name, value)),
            Err(error) => {
                broken.get_or_insert_with(|| format!("{} ({error})", excerpt(&String::from_utf8_lossy(line))));
            }
        }
    }
    match broken {
        Some(broken) if columns.is_empty() => {
            Err(IngestError::file(path, format!("it holds no JSON object a line, but {broken}")))
        }
        _ => Ok(()),
    }
}

fn look_at_json_value(columns: &mut Vec<Seen>, name: &str, value: &str) {
    let place = columns.iter().position(|seen| seen.name == name).unwrap_or_else(|| {
        columns.push(Seen::new(name.to_owned()));
        columns.len() - 1
    });
    match value.as_bytes().first() {
        Some(b'n') => {}
        Some(b'"' | b'{' | b'[') => columns[place].text(),
        _ => columns[place].value(value),
    }
}
