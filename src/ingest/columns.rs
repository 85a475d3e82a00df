//! Columns under construction: cells of text become typed Arrow columns.
//!
//! A cell that does not fit its column rejects its row alone: the cells of that row that were
//! taken before are dropped again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use jiff::civil::{Date, DateTime};
use serde::{Deserialize, Serialize};

/// The type of a column of a text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// `true` or `false`.
    Boolean,
    /// Whole numbers of 32 bits.
    Int32,
    /// Whole numbers of 64 bits.
    Int64,
    /// Floating-point numbers of 32 bits.
    Float32,
    /// Floating-point numbers of 64 bits.
    Float64,
    /// Text.
    String,
    /// Days as `2026-01-31`.
    Date,
    /// Points in time without a zone, as `2026-01-31T02:00:00.123456`, to the microsecond.
    Timestamp,
}

const TYPES: [(ColumnType, &str); 8] = [
    (ColumnType::Boolean, "boolean"),
    (ColumnType::Int32, "int32"),
    (ColumnType::Int64, "int64"),
    (ColumnType::Float32, "float32"),
    (ColumnType::Float64, "float64"),
    (ColumnType::String, "string"),
    (ColumnType::Date, "date"),
    (ColumnType::Timestamp, "timestamp"),
];

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TYPES.iter().find(|(t, _)| t == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = TYPES.iter().map(|(_, name)| *name).collect();
        TYPES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text))
            .map(|(t, _)| *t)
            .ok_or_else(|| format!("{text:?} is not a column type; there are {}", names.join(", ")))
    }
}

impl ColumnType {
    /// The Arrow type of such a column.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }

    /// The column type with this Arrow type.
    pub fn from_arrow(data_type: &DataType) -> Option<Self> {
        TYPES.iter().map(|(t, _)| *t).find(|t| t.arrow() == *data_type)
    }

    /// What a cell should have been, for people.
    pub fn wanted(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Int32 => "a whole number (int32)",
            Self::Int64 => "a whole number (int64)",
            Self::Float32 => "a number (float32)",
            Self::Float64 => "a number (float64)",
            Self::String => "text",
            Self::Date => "a date such as 2026-01-31",
            Self::Timestamp => "a time such as 2026-01-31T02:00:00",
        }
    }
}

enum Cells {
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    String { ends: Vec<i32>, text: Vec<u8> },
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
}

/// A column that cells are added to.
pub struct ColumnBuilder {
    column_type: ColumnType,
    cells: Cells,
    nulls: Vec<usize>,
}

impl ColumnBuilder {
    /// An empty column with room for `rows`.
    pub fn new(column_type: ColumnType, rows: usize) -> Self {
        let cells = match column_type {
            ColumnType::Boolean => Cells::Boolean(Vec::with_capacity(rows)),
            ColumnType::Int32 => Cells::Int32(Vec::with_capacity(rows)),
            ColumnType::Int64 => Cells::Int64(Vec::with_capacity(rows)),
            ColumnType::Float32 => Cells::Float32(Vec::with_capacity(rows)),
            ColumnType::Float64 => Cells::Float64(Vec::with_capacity(rows)),
            ColumnType::String => {
                let mut ends = Vec::with_capacity(rows + 1);
                ends.push(0);
                Cells::String { ends, text: Vec::new() }
            }
            ColumnType::Date => Cells::Date(Vec::with_capacity(rows)),
            ColumnType::Timestamp => Cells::Timestamp(Vec::with_capacity(rows)),
        };
        Self { column_type, cells, nulls: Vec::new() }
    }

    /// The column's type.
    pub fn column_type(&self) -> ColumnType {
        self.column_type
    }

    /// The number of cells.
    pub fn len(&self) -> usize {
        match &self.cells {
            Cells::Boolean(v) => v.len(),
            Cells::Int32(v) | Cells::Date(v) => v.len(),
            Cells::Int64(v) | Cells::Timestamp(v) => v.len(),
            Cells::Float32(v) => v.len(),
            Cells::Float64(v) => v.len(),
            Cells::String { ends, .. } => ends.len() - 1,
        }
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the cells from place `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        match &mut self.cells {
            Cells::Boolean(v) => v.truncate(rows),
            Cells::Int32(v) | Cells::Date(v) => v.truncate(rows),
            Cells::Int64(v) | Cells::Timestamp(v) => v.truncate(rows),
            Cells::Float32(v) => v.truncate(rows),
            Cells::Float64(v) => v.truncate(rows),
            Cells::String { ends, text } => {
                ends.truncate(rows + 1);
                text.truncate(ends.last().map_or(0, |end| usize::try_from(*end).unwrap_or(0)));
            }
        }
        while self.nulls.last().is_some_and(|null| *null >= rows) {
            self.nulls.pop();
        }
    }

    /// Adds a missing value.
    pub fn push_null(&mut self) {
        self.nulls.push(self.len());
        match &mut self.cells {
            Cells::Boolean(v) => v.push(false),
            Cells::Int32(v) | Cells::Date(v) => v.push(0),
            Cells::Int64(v) | Cells::Timestamp(v) => v.push(0),
            Cells::Float32(v) => v.push(0.0),
            Cells::Float64(v) => v.push(0.0),
            Cells::String { ends, text } => ends.push(text_end(text)),
        }
    }

    /// The cells of a column of doubles, for the parser's fast path.
    #[inline]
    pub fn doubles(&mut self) -> Option<&mut Vec<f64>> {
        match &mut self.cells {
            Cells::Float64(v) => Some(v),
            _ => None,
        }
    }

    /// Adds the cell that `cell`, which is UTF-8, spells. Answers whether it fits.
    pub fn push(&mut self, cell: &[u8]) -> bool {
        let number = cell.trim_ascii();
        let text = || std::str::from_utf8(number).ok();
        match &mut self.cells {
            Cells::String { ends, text } => {
                text.extend_from_slice(cell);
                ends.push(text_end(text));
                true
            }
            Cells::Float64(v) => push_some(v, parse_f64(number)),
            Cells::Float32(v) => push_some(v, text().and_then(parse_float)),
            Cells::Int64(v) => push_some(v, text().and_then(|text| text.parse().ok())),
            Cells::Int32(v) => push_some(v, text().and_then(|text| text.parse().ok())),
            Cells::Boolean(v) => push_some(v, text().and_then(parse_bool)),
            Cells::Date(v) => push_some(v, text().and_then(parse_date)),
            Cells::Timestamp(v) => push_some(v, text().and_then(parse_timestamp)),
        }
    }

    /// The finished column.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    pub fn finish(self) -> Result<ArrayRef, ArrowError> {
        let rows = self.len();
        let nulls = (!self.nulls.is_empty()).then(|| {
            let mut valid = vec![true; rows];
            self.nulls.iter().for_each(|null| valid[*null] = false);
            NullBuffer::new(BooleanBuffer::from(valid))
        });
        Ok(match self.cells {
            Cells::Boolean(v) => Arc::new(BooleanArray::new(v.into(), nulls)),
            Cells::Int32(v) => Arc::new(Int32Array::new(v.into(), nulls)),
            Cells::Int64(v) => Arc::new(Int64Array::new(v.into(), nulls)),
            Cells::Float32(v) => Arc::new(Float32Array::new(v.into(), nulls)),
            Cells::Float64(v) => Arc::new(Float64Array::new(v.into(), nulls)),
            Cells::Date(v) => Arc::new(Date32Array::new(v.into(), nulls)),
            Cells::Timestamp(v) => Arc::new(TimestampMicrosecondArray::new(v.into(), nulls)),
            Cells::String { ends, text } => {
                Arc::new(StringArray::try_new(OffsetBuffer::new(ends.into()), text.into(), nulls)?)
            }
        })
    }
}

/// Windows hold at most 8 MiB of text, so offsets fit.
fn text_end(text: &[u8]) -> i32 {
    i32::try_from(text.len()).unwrap_or(i32::MAX)
}

fn push_some<T>(cells: &mut Vec<T>, cell: Option<T>) -> bool {
    let fits = cell.is_some();
    cells.extend(cell);
    fits
}

/// `true` or `false`, in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn parse_date(text: &str) -> Option<i32> {
    // jiff would pass over a time of day.
    let is_date = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let date: Date = is_date.then(|| text.parse().ok())??;
    Some(date.since((jiff::Unit::Day, Date::constant(1970, 1, 1))).ok()?.get_days())
}

fn parse_timestamp(text: &str) -> Option<i64> {
    // jiff would pass over a zone.
    let (_, time_of_day) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let is_plain = time_of_day.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b','));
    let time: DateTime = is_plain.then(|| text.parse().ok())??;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The number of a plain decimal of at most 15 digits at the start of `text`, and its length.
/// Such a number is one correctly rounded division of two exact doubles (Clinger 1990).
#[inline]
pub fn leading_decimal(text: &[u8]) -> Option<(f64, usize)> {
    let is_negative = text.first() == Some(&b'-');
    let mut at = usize::from(is_negative);
    let digits_from = at;
    let mut mantissa = 0_u64;
    while let Some(digit) = text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    let mut digits = at - digits_from;
    let mut fraction = 0;
    if text.get(at) == Some(&b'.') {
        at += 1;
        while let Some(digit) = text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            at += 1;
            fraction += 1;
        }
        digits += fraction;
    }
    if digits == 0 || digits > 15 {
        return None;
    }
    let number = mantissa as f64 / POWERS[fraction];
    Some((if is_negative { -number } else { number }, at))
}

/// A number as Rust reads it, decimals fast. Digits that spell a number beyond the largest are none.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    match leading_decimal(text) {
        Some((number, length)) if length == text.len() => Some(number),
        _ => parse_float(std::str::from_utf8(text).ok()?),
    }
}

fn parse_float<T: FromStr + Into<f64> + Copy>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    let is_overflow = number.into().is_infinite() && text.contains(|c: char| c.is_ascii_digit());
    (!is_overflow).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decimals_read_as_rust_reads_them(text in "-?[0-9]{0,9}\\.?[0-9]{0,9}(e[0-9])?") {
            prop_assert_eq!(parse_f64(text.as_bytes()).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits));
        }
    }

    #[test]
    fn numbers_beyond_the_largest_are_not_infinite() {
        for (text, want) in [("1e308", Some(1e308)), ("1e309", None), ("-1e999", None), ("1e-400", Some(0.0))] {
            assert_eq!(parse_f64(text.as_bytes()), want, "{text}");
        }
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"Infinity"), Some(f64::INFINITY));
        assert!(parse_f64(b"NaN").is_some_and(f64::is_nan));
        assert_eq!(parse_float::<f32>("3.5e38"), None);
        assert_eq!(parse_float::<f32>("inf"), Some(f32::INFINITY));
    }

    #[test]
    fn days_and_times_count_from_1970() {
        assert_eq!(parse_date("1970-01-02"), Some(1));
        assert_eq!(parse_date("1969-12-31"), Some(-1));
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.5"), Some(1_500_000));
        assert_eq!(parse_timestamp("2026-02-30T00:00:00"), None);
    }
}
