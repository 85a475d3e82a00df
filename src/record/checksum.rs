//! The checksum that proves that rows were neither lost, doubled, altered nor moved.
//!
//! Each row has a 64-bit hash over its row number and its cells; a set of rows has the wrapping sum of
//! its rows' hashes. So checksums of disjoint sets add up in any order: what a window took in must equal
//! what was scored plus what became a dead letter, and the sink computes the scored part again from
//! the rows that it writes. It guards against faults of programs and disks, not against an adversary.
//!
//! A cell's hash depends on its value and its place among the columns, never on how Arrow holds it:
//! a dictionary-encoded column hashes as a plain one.

use std::fmt;
use std::ops::{Add, AddAssign};

use arrow::array::{Array, ArrayRef, AsArray, UInt8Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, UInt8Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::RowRanges;

/// The checksum of a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum(pub u64);

impl Add for Checksum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Checksum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a checksum: 16 hexadecimal digits"))
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

/// An odd constant with well-mixed bits: 2^64 divided by the golden ratio.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
const NULL: u64 = 0x5bd1_e995_97f4_a7c1;

/// The checksum of the rows `rows`, whose cells are the values of `columns` in the same order.
pub fn of_rows(rows: &RowRanges, columns: &[ArrayRef]) -> Checksum {
    hashes(rows, columns).into_iter().fold(Checksum::default(), |sum, hash| sum + Checksum(hash))
}

/// The checksum of a row that could not be read.
pub fn of_raw(row: u64, raw: &[u8]) -> Checksum {
    Checksum(finish(step(seed(row), hash_bytes(raw))))
}

/// One hash a row, in order.
pub fn hashes(rows: &RowRanges, columns: &[ArrayRef]) -> Vec<u64> {
    let mut hashes: Vec<u64> = rows.iter().map(seed).collect();
    for column in columns {
        add_column(&mut hashes, column);
    }
    hashes.iter_mut().for_each(|hash| *hash = finish(*hash));
    hashes
}

fn seed(row: u64) -> u64 {
    row.wrapping_add(1).wrapping_mul(MIX)
}

fn step(hash: u64, cell: u64) -> u64 {
    (hash.rotate_left(23) ^ cell).wrapping_mul(MIX)
}

fn finish(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 32)).wrapping_mul(MIX);
    hash ^ (hash >> 29)
}

fn hash_bits(bits: u64) -> u64 {
    let hash = bits.wrapping_mul(MIX);
    hash ^ (hash >> 32)
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

fn add_column(hashes: &mut [u64], column: &ArrayRef) {
    if let DataType::Dictionary(keys, _) = column.data_type()
        && **keys == DataType::UInt8
    {
        let dictionary = column.as_dictionary::<UInt8Type>();
        let mut table = [NULL; 256];
        let cells = cell_hashes(dictionary.values());
        table[..cells.len().min(256)].copy_from_slice(&cells[..cells.len().min(256)]);
        return add_keys(hashes, dictionary.keys(), &table);
    }
    for (hash, cell) in hashes.iter_mut().zip(cell_hashes(column)) {
        *hash = step(*hash, cell);
    }
}

fn add_keys(hashes: &mut [u64], keys: &UInt8Array, table: &[u64; 256]) {
    match keys.nulls() {
        None => {
            for (hash, key) in hashes.iter_mut().zip(keys.values()) {
                *hash = step(*hash, table[usize::from(*key)]);
            }
        }
        Some(_) => {
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = step(*hash, key.map_or(NULL, |key| table[usize::from(key)]));
            }
        }
    }
}

/// The hash of each cell of a column.
fn cell_hashes(column: &ArrayRef) -> Vec<u64> {
    use arrow::datatypes as t;
    macro_rules! bits {
        ($type:ty, $value:ident => $bits:expr) => {
            with_nulls(
                column.as_primitive::<$type>().values().iter().map(|$value| hash_bits($bits)).collect(),
                column.nulls(),
            )
        };
    }
    match column.data_type() {
        DataType::Float64 => bits!(t::Float64Type, v => v.to_bits()),
        DataType::Float32 => bits!(t::Float32Type, v => u64::from(v.to_bits())),
        DataType::Int64 => bits!(t::Int64Type, v => v.cast_unsigned()),
        DataType::Int32 => bits!(t::Int32Type, v => u64::from(v.cast_unsigned())),
        DataType::Utf8 => {
            let strings = column.as_string::<i32>();
            (0..strings.len())
                .map(|i| if strings.is_null(i) { NULL } else { hash_bytes(strings.value(i).as_bytes()) })
                .collect()
        }
        _ => text_hashes(column),
    }
}

fn with_nulls(mut cells: Vec<u64>, nulls: Option<&NullBuffer>) -> Vec<u64> {
    if let Some(nulls) = nulls {
        for (cell, valid) in cells.iter_mut().zip(nulls) {
            if !valid {
                *cell = NULL;
            }
        }
    }
    cells
}

/// Any other type: the hash of the cell's text.
fn text_hashes(column: &ArrayRef) -> Vec<u64> {
    let options = FormatOptions::default().with_null("\u{0}");
    match ArrayFormatter::try_new(column, &options) {
        Ok(formatter) => (0..column.len()).map(|i| hash_bytes(formatter.value(i).to_string().as_bytes())).collect(),
        // A type that Arrow cannot print still counts as a column of equal cells.
        Err(_) => vec![NULL; column.len()],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};

    use super::*;
    use crate::record::compact;

    fn columns() -> Vec<ArrayRef> {
        vec![
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(1.5), Some(-0.1)])),
            Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("a")])),
        ]
    }

    #[test]
    fn dictionary_and_plain_columns_hash_alike() {
        let rows = RowRanges::from_range(5..9);
        let packed: Vec<ArrayRef> = columns().iter().map(compact::pack).collect();
        assert!(packed.iter().all(|c| matches!(c.data_type(), DataType::Dictionary(..))));
        assert_eq!(hashes(&rows, &packed), hashes(&rows, &columns()));
    }

    #[test]
    fn a_lost_doubled_moved_or_altered_row_shows() {
        let all = hashes(&RowRanges::from_range(0..4), &columns());
        let sum = |hashes: &[u64]| hashes.iter().fold(0u64, |a, h| a.wrapping_add(*h));
        let whole = of_rows(&RowRanges::from_range(0..4), &columns()).0;
        assert_eq!(whole, sum(&all));
        assert_ne!(whole, sum(&[all[0], all[1], all[2]]));
        assert_ne!(whole, sum(&[all[0], all[1], all[2], all[2]]));
        let swapped: Vec<ArrayRef> = columns()
            .iter()
            .map(|c| arrow::compute::take(c, &UInt8Array::from(vec![3, 1, 2, 0]), None).unwrap())
            .collect();
        assert_ne!(whole, of_rows(&RowRanges::from_range(0..4), &swapped).0);
        let null_is_not_empty = [columns()[1].slice(1, 1)];
        let other = [columns()[1].slice(2, 1)];
        assert_ne!(
            hashes(&RowRanges::from_range(0..1), &null_is_not_empty),
            hashes(&RowRanges::from_range(0..1), &other)
        );
    }
}
