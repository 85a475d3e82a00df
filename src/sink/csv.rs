//! Rows as comma-separated values.
//!
//! Numbers are written in the fewest digits that read back as the same number; text is quoted where it must be
//! (RFC 4180). A missing value is an empty cell; empty text is a quoted empty cell.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema, UInt8Type};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::record::run::is_written_whole;

/// The header line.
pub fn header(schema: &Schema) -> Vec<u8> {
    let mut line = Vec::new();
    for (place, field) in schema.fields().iter().enumerate() {
        if place > 0 {
            line.push(b',');
        }
        write_text(&mut line, field.name(), false);
    }
    line.push(b'\n');
    line
}

/// Appends the batch's rows. Cells that a spreadsheet takes for formulas get a quote before them where
/// `escape_formulas` says so.
///
/// # Errors
/// A column of a type that has no text.
pub fn write_rows(out: &mut Vec<u8>, batch: &RecordBatch, escape_formulas: bool) -> Result<(), ArrowError> {
    let schema = batch.schema();
    let last = batch.num_columns().saturating_sub(1);
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (place, (field, column)) in schema.fields().iter().zip(batch.columns()).enumerate() {
        let end = if place == last { b'\n' } else { b',' };
        columns.push(Cells::new(field, column, end, escape_formulas)?);
    }
    out.reserve(batch.num_rows() * columns.iter().map(Cells::width).sum::<usize>());
    for row in 0..batch.num_rows() {
        for column in &columns {
            column.write(out, row);
        }
    }
    Ok(())
}

/// A column's cells as text, with what stands behind each.
enum Cells {
    /// A table of cells written once, and each row's place in it.
    Table { keys: Vec<u8>, cells: Vec<ShortCell> },
    /// Cells written one after another.
    Written { text: Vec<u8>, ends: Vec<u32> },
}

/// A cell of up to 15 bytes is copied as 16, without a call.
#[derive(Clone)]
enum ShortCell {
    Short([u8; 16], u8),
    Long(Box<[u8]>),
}

impl ShortCell {
    fn new(cell: &[u8]) -> Self {
        match u8::try_from(cell.len()) {
            Ok(length) if length <= 16 => {
                let mut bytes = [0; 16];
                bytes[..cell.len()].copy_from_slice(cell);
                Self::Short(bytes, length)
            }
            _ => Self::Long(cell.into()),
        }
    }
}

impl Cells {
    fn new(field: &Field, column: &ArrayRef, end: u8, escape: bool) -> Result<Self, ArrowError> {
        if let DataType::Dictionary(keys, _) = column.data_type()
            && **keys == DataType::UInt8
        {
            let dictionary = column.as_dictionary::<UInt8Type>();
            let (text, ends) = written(field, dictionary.values(), end, escape)?;
            let mut starts = std::iter::once(0).chain(ends.iter().copied());
            let mut cells: Vec<ShortCell> = ends
                .iter()
                .map(|end| ShortCell::new(&text[starts.next().unwrap_or(0) as usize..*end as usize]))
                .collect();
            // The place behind the table stands for a missing value.
            let missing = u8::try_from(cells.len()).unwrap_or(u8::MAX);
            cells.truncate(255);
            cells.push(ShortCell::new(&[end]));
            let keys = match dictionary.keys().null_count() {
                0 => dictionary.keys().values().to_vec(),
                _ => dictionary.keys().iter().map(|key| key.unwrap_or(missing)).collect(),
            };
            return Ok(Self::Table { keys, cells });
        }
        let (text, ends) = written(field, column, end, escape)?;
        Ok(Self::Written { text, ends })
    }

    fn width(&self) -> usize {
        match self {
            Self::Table { .. } => 6,
            Self::Written { text, ends } => text.len() / ends.len().max(1) + 1,
        }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>, row: usize) {
        match self {
            Self::Table { keys, cells } => match &cells[usize::from(keys[row])] {
                ShortCell::Short(bytes, length) => {
                    let at = out.len();
                    out.extend_from_slice(bytes);
                    out.truncate(at + usize::from(*length));
                }
                ShortCell::Long(cell) => out.extend_from_slice(cell),
            },
            Self::Written { text, ends } => {
                let start = if row == 0 { 0 } else { ends[row - 1] as usize };
                out.extend_from_slice(&text[start..ends[row] as usize]);
            }
        }
    }
}

/// Each cell's text with `end` behind it, and where it ends.
fn written(field: &Field, column: &ArrayRef, end: u8, escape: bool) -> Result<(Vec<u8>, Vec<u32>), ArrowError> {
    let rows = column.len();
    let (mut text, mut ends) = (Vec::with_capacity(rows * 8), Vec::with_capacity(rows));
    let is_whole = is_written_whole(field);
    let mut each = |write: &mut dyn FnMut(&mut Vec<u8>, usize)| {
        for row in 0..rows {
            if column.is_valid(row) {
                write(&mut text, row);
            }
            text.push(end);
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
    };
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            each(&mut |text, row| write_double(text, values[row], is_whole));
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            each(&mut |text, row| write_float(text, values[row]));
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>().values();
            each(&mut |text, row| write_whole(text, values[row]));
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            each(&mut |text, row| write_text(text, values.value(row), escape));
        }
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column, &options)?;
            each(&mut |text, row| write_text(text, &formatter.value(row).to_string(), escape));
        }
    }
    Ok((text, ends))
}

/// Text, quoted where it must be.
fn write_text(out: &mut Vec<u8>, text: &str, escape: bool) {
    let bytes = text.as_bytes();
    let is_formula = escape && matches!(bytes.first(), Some(b'=' | b'+' | b'-' | b'@' | b'\t'));
    let is_plain = !bytes.is_empty() && !bytes.iter().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'));
    if is_plain {
        if is_formula {
            out.push(b'\'');
        }
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    if is_formula {
        out.push(b'\'');
    }
    for byte in bytes {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

fn write_whole(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    write_digits(out, value.unsigned_abs());
}

fn write_digits(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A double in the fewest digits that read back as the same. A decimal of at most 15 digits is the only such one that
/// reads back as its double, so a value with up to three decimals is written as whole thousandths.
fn write_double(out: &mut Vec<u8>, value: f64, is_whole: bool) {
    let size = value.abs();
    let thousandths = (size * 1000.0).round();
    if thousandths < 1e12 && (thousandths / 1000.0).to_bits() == size.to_bits() {
        if value.is_sign_negative() {
            out.push(b'-');
        }
        let thousandths = thousandths as u64;
        write_digits(out, thousandths / 1000);
        return write_fraction(out, (thousandths % 1000) as u32, is_whole);
    }
    write_special_or(out, value.is_nan(), value.is_infinite(), value < 0.0, |out| {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    });
}

fn write_fraction(out: &mut Vec<u8>, thousandths: u32, is_whole: bool) {
    let digit = |n: u32| b'0' + (n % 10) as u8;
    match thousandths {
        0 if is_whole => {}
        n if n.is_multiple_of(100) => out.extend_from_slice(&[b'.', digit(n / 100)]),
        n if n.is_multiple_of(10) => out.extend_from_slice(&[b'.', digit(n / 100), digit(n / 10)]),
        n => out.extend_from_slice(&[b'.', digit(n / 100), digit(n / 10), digit(n)]),
    }
}

fn write_float(out: &mut Vec<u8>, value: f32) {
    write_special_or(out, value.is_nan(), value.is_infinite(), value < 0.0, |out| {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    });
}

fn write_special_or(
    out: &mut Vec<u8>,
    is_nan: bool,
    is_infinite: bool,
    is_negative: bool,
    write: impl FnOnce(&mut Vec<u8>),
) {
    match (is_nan, is_infinite, is_negative) {
        (true, ..) => out.extend_from_slice(b"NaN"),
        (_, true, true) => out.extend_from_slice(b"-inf"),
        (_, true, false) => out.extend_from_slice(b"inf"),
        _ => write(out),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: f64) -> String {
        let mut out = Vec::new();
        write_double(&mut out, value, false);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn doubles_read_back(bits: u64) {
            let value = f64::from_bits(bits);
            let back: f64 = text(value).parse().unwrap();
            prop_assert!(back.to_bits() == bits || (back.is_nan() && value.is_nan()));
        }

        #[test]
        fn decimals_are_written_as_rust_writes_them(thousandths in -10_000_000i64..10_000_000) {
            let value = thousandths as f64 / 1000.0;
            prop_assert_eq!(text(value), format!("{value:?}"));
        }

        #[test]
        fn text_reads_back(cell in "[a\",\n\r =-]{0,8}") {
            let mut out = Vec::new();
            write_text(&mut out, &cell, false);
            out.push(b'\n');
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(out.as_slice());
            let row = reader.records().next().unwrap().unwrap();
            prop_assert_eq!(row.get(0).unwrap(), cell);
        }
    }
}
