//! Column types of text formats, inferred from the first rows.
//!
//! A type is inferred only where all values of the sample read back as they were written: `007` stays text.
//! The sample is the first 4 MiB of the first file and the first 64 KiB of up to 15 others.

use std::path::Path;

use arrow::datatypes::Schema;

use super::columns::{ColumnType, parse_f64};
use super::dataset::{DatasetOptions, Format, column_name, differing_columns, header_names, schema_of};
use super::error::{IngestError, Result};
use super::source;
use super::text::csv::fields;
use super::text::split::{RowEnd, is_blank, row_end};
use super::text::{Dialect, csv::excerpt};
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
    numbers: usize,
    wholes: usize,
    values: usize,
}

impl Seen {
    fn new(name: String) -> Self {
        Self { name, is_int: true, is_float: true, is_bool: true, numbers: 0, wholes: 0, values: 0 }
    }

    fn value(&mut self, text: &str) {
        let is_number = parse_f64(text.trim_ascii().as_bytes()).is_some();
        let round_trips = is_number && !has_leading_zero(text);
        self.values += 1;
        self.numbers += usize::from(is_number);
        let is_whole = round_trips && text.parse::<i64>().is_ok_and(|n| text.starts_with('-') == (n < 0));
        self.wholes += usize::from(is_whole);
        self.is_int &= is_whole;
        self.is_float &= round_trips && (text.len() <= 17 || text.contains(['.', 'e', 'E']));
        self.is_bool &= matches!(text, "true" | "false");
    }

    fn conclude(&self, wanted: Wanted) -> ColumnType {
        let mostly_numbers = self.numbers * 2 > self.values;
        match wanted {
            Wanted::Text => ColumnType::String,
            _ if self.values == 0 && wanted == Wanted::Number => ColumnType::Float64,
            _ if self.values == 0 => ColumnType::String,
            _ if self.is_bool => ColumnType::Boolean,
            Wanted::Number if mostly_numbers && self.wholes == self.numbers => ColumnType::Int64,
            Wanted::Number if mostly_numbers => ColumnType::Float64,
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

fn beginning(path: &Path, bytes: u64) -> Result<Beginning> {
    let (mut text, is_whole) = source::sample(path, bytes).map_err(|e| IngestError::read(path, e))?;
    let mark = byte_order_mark(path, &text)?;
    text.drain(..mark);
    Ok(Beginning { text, mark, is_whole })
}

/// The length of a UTF-8 byte order mark at the beginning of a file.
///
/// # Errors
/// A mark of another encoding.
pub fn byte_order_mark(path: &Path, text: &[u8]) -> Result<usize> {
    match text {
        [0xef, 0xbb, 0xbf, ..] => Ok(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            let why = "it is UTF-16 text; convert it first, for example with iconv -f utf-16 -t utf-8";
            Err(IngestError::file(path, why))
        }
        [0, ..] | [_, 0, ..] => {
            let why = "it begins with zero bytes, as UTF-16 text does and UTF-8 text does not; convert it first, for \
                       example with iconv -f utf-16le -t utf-8";
            Err(IngestError::file(path, why))
        }
        _ => Ok(0),
    }
}

/// The names in a CSV file's header and the length of the bytes before its first row.
///
/// # Errors
/// An empty file, a header that is not text, a header over 1 MiB.
pub fn csv_header(path: &Path, options: &DatasetOptions) -> Result<(Option<Vec<String>>, u64, u64)> {
    let Beginning { text, mark, is_whole } = beginning(path, MAX_HEADER_BYTES)?;
    let mark = mark as u64;
    if !options.header {
        return Ok((None, mark, 1));
    }
    let (header, end) = first_row(path, &text, options.dialect(path), is_whole)?;
    let lines = memchr::memchr_iter(b'\n', &text[..end]).count() as u64;
    Ok((Some(header_names(path, header)?), mark + end as u64, 1 + lines))
}

/// The length of a text file's byte order mark.
///
/// # Errors
/// A file that cannot be read, or a mark of another encoding than UTF-8.
pub fn mark_length(path: &Path) -> Result<u64> {
    Ok(beginning(path, 4)?.mark as u64)
}

fn first_row(path: &Path, text: &[u8], dialect: Dialect, is_whole: bool) -> Result<(Vec<Vec<u8>>, usize)> {
    let mut at = 0;
    loop {
        match row_end(&text[at..], dialect, is_whole) {
            RowEnd::At(length) if is_blank(&text[at..at + length]) => at += length,
            RowEnd::At(length) => return Ok((fields(&text[at..at + length], dialect), at + length)),
            _ if at == text.len() => {
                return Err(IngestError::file(path, "it is empty: not even a header is there"));
            }
            _ => return Err(IngestError::file(path, "its first row, the header, has no end within 1 MiB")),
        }
    }
}

fn look_at_csv(
    path: &Path,
    budget: u64,
    is_first: bool,
    options: &DatasetOptions,
    columns: &mut Vec<Seen>,
) -> Result<()> {
    let (header, skip, _) = csv_header(path, options)?;
    let dialect = options.dialect(path);
    let Beginning { text, mark, is_whole } = beginning(path, budget.max(64))?;
    let mut at = usize::try_from(skip).unwrap_or(usize::MAX).saturating_sub(mark).min(text.len());
    let names = match header {
        Some(names) => names,
        None if !options.column_names.is_empty() => options.column_names.clone(),
        None => {
            let first = beginning(path, MAX_HEADER_BYTES)?;
            let width = first_row(path, &first.text, dialect, first.is_whole)?.0.len();
            (0..width).map(column_name).collect()
        }
    };
    if is_first {
        columns.extend(names.iter().cloned().map(Seen::new));
    }
    let known: Vec<String> = columns.iter().map(|seen| seen.name.clone()).collect();
    if names.len() != known.len() || !names.iter().all(|name| known.contains(name)) {
        return Err(IngestError::file(path, differing_columns(&known, &names)));
    }
    let places: Vec<usize> = names.iter().filter_map(|name| known.iter().position(|k| k == name)).collect();
    while let RowEnd::At(length) = row_end(&text[at..], dialect, is_whole) {
        let row = fields(&text[at..at + length], dialect);
        at += length;
        if row.len() != places.len() {
            continue;
        }
        for (place, cell) in places.iter().zip(&row) {
            if let Ok(cell) = std::str::from_utf8(cell)
                && !cell.is_empty()
                && !options.null_values.iter().any(|null| null == cell)
            {
                columns[*place].value(cell);
            }
        }
    }
    Ok(())
}

fn look_at_json(path: &Path, budget: u64, columns: &mut Vec<Seen>) -> Result<()> {
    let Beginning { text, is_whole, .. } = beginning(path, budget)?;
    if text.is_empty() && budget > 0 {
        return Err(IngestError::file(path, "it is empty"));
    }
    let mut at = 0;
    let mut broken = None;
    while let RowEnd::At(length) = row_end(&text[at..], Dialect::LINES, is_whole) {
        let line = &text[at..at + length];
        at += length;
        match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line) {
            Ok(object) => {
                for (name, value) in object {
                    look_at_json_value(columns, &name, &value);
                }
            }
            Err(_) if is_blank(line) => {}
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

fn look_at_json_value(columns: &mut Vec<Seen>, name: &str, value: &serde_json::Value) {
    let place = columns.iter().position(|seen| seen.name == name).unwrap_or_else(|| {
        columns.push(Seen::new(name.to_owned()));
        columns.len() - 1
    });
    let seen = &mut columns[place];
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Number(number) => seen.value(&number.to_string()),
        serde_json::Value::Bool(truth) => seen.value(&truth.to_string()),
        _ => {
            seen.values += 1;
            (seen.is_int, seen.is_float, seen.is_bool) = (false, false, false);
        }
    }
}
