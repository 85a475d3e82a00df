//! Columns with few distinct values as Arrow dictionaries.
//!
//! Within one frame, a column of at most 255 distinct values is held as one byte a row and a table. For
//! such columns (measured ones with a decimal or two, categories, labels) this takes a fourth of the time of
//! compressing the plain values, and readers work on the table instead of the rows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, DictionaryArray, PrimitiveArray, StringArray, UInt8Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowNativeType, DataType, Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type};

/// At most this many values in a dictionary; a key is one byte.
const MOST_VALUES: usize = 255;
/// A column whose first rows show more distinct values than this is not tried further.
const SAMPLE_ROWS: usize = 512;
const MOST_IN_SAMPLE: usize = 160;
/// Shorter columns are left as they are only where the table would be as long as they.
const SLOTS: usize = 1024;

/// The column as a dictionary with one-byte keys where it has few distinct values, else as it is.
pub fn pack(column: &ArrayRef) -> ArrayRef {
    let packed = match column.data_type() {
        DataType::Float64 => pack_primitive::<Float64Type>(column),
        DataType::Float32 => pack_primitive::<Float32Type>(column),
        DataType::Int64 => pack_primitive::<Int64Type>(column),
        DataType::Int32 => pack_primitive::<Int32Type>(column),
        DataType::Utf8 => pack_strings(column),
        _ => None,
    };
    packed.unwrap_or_else(|| Arc::clone(column))
}

/// The type of the values that a column holds, be they in a dictionary or not.
pub fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        plain => plain,
    }
}

/// The column with its values in place: the reverse of [`pack`].
///
/// # Errors
/// Where a key points outside its table.
pub fn unpack(column: &ArrayRef) -> Result<ArrayRef, arrow::error::ArrowError> {
    match column.data_type() {
        DataType::Dictionary(keys, _) if **keys == DataType::UInt8 => {
            let dictionary = column.as_dictionary::<UInt8Type>();
            arrow::compute::take(dictionary.values(), dictionary.keys(), None)
        }
        DataType::Dictionary(_, values) => arrow::compute::cast(column, values),
        _ => Ok(Arc::clone(column)),
    }
}

/// A hash table from a value to its code, open-addressed, at most a quarter full.
struct Codes {
    slots: [u16; SLOTS],
    used: usize,
}

impl Codes {
    fn new() -> Self {
        Self { slots: [0; SLOTS], used: 0 }
    }

    /// The code of the value with this hash, given anew where `is_same` finds none; `None` when full.
    fn code(&mut self, hash: u64, mut is_same: impl FnMut(usize) -> bool) -> Option<(u8, bool)> {
        let mut slot = (hash >> 54) as usize;
        loop {
            match self.slots[slot] {
                0 if self.used == MOST_VALUES => return None,
                0 => {
                    self.slots[slot] = u16::try_from(self.used + 1).ok()?;
                    self.used += 1;
                    return Some((u8::try_from(self.used - 1).ok()?, true));
                }
                code if is_same(usize::from(code) - 1) => return Some((u8::try_from(code - 1).ok()?, false)),
                _ => slot = (slot + 1) % SLOTS,
            }
        }
    }

    fn is_promising(&self, row: usize) -> bool {
        row != SAMPLE_ROWS || self.used <= MOST_IN_SAMPLE
    }
}

fn pack_primitive<T: ArrowPrimitiveType>(column: &ArrayRef) -> Option<ArrayRef>
where
    T::Native: Bits,
{
    let column = column.as_primitive::<T>();
    let (mut codes, mut table, mut keys) = (Codes::new(), Vec::<T::Native>::new(), Vec::with_capacity(column.len()));
    for (row, value) in column.values().iter().enumerate() {
        let bits = value.bits();
        let (code, is_new) = codes.code(bits.wrapping_mul(0x9E37_79B9_7F4A_7C15), |i| table[i].bits() == bits)?;
        if is_new {
            table.push(*value);
        }
        if !codes.is_promising(row) {
            return None;
        }
        keys.push(code);
    }
    let values = PrimitiveArray::<T>::new(table.into(), None).with_data_type(column.data_type().clone());
    Some(dictionary(keys, column.nulls(), Arc::new(values)))
}

fn pack_strings(column: &ArrayRef) -> Option<ArrayRef> {
    let column = column.as_string::<i32>();
    let (mut codes, mut table, mut keys) = (Codes::new(), Vec::<&str>::new(), Vec::with_capacity(column.len()));
    for row in 0..column.len() {
        let value = if column.is_null(row) { "" } else { column.value(row) };
        let hash = twox_hash::XxHash3_64::oneshot(value.as_bytes());
        let (code, is_new) = codes.code(hash, |i| table[i] == value)?;
        if is_new {
            table.push(value);
        }
        if !codes.is_promising(row) {
            return None;
        }
        keys.push(code);
    }
    Some(dictionary(keys, column.nulls(), Arc::new(StringArray::from(table))))
}

fn dictionary(keys: Vec<u8>, nulls: Option<&NullBuffer>, values: ArrayRef) -> ArrayRef {
    let keys = UInt8Array::new(keys.into(), nulls.cloned());
    // Each key was given out as an index of `values`.
    Arc::new(DictionaryArray::<UInt8Type>::new(keys, values))
}

/// A value's bits, so that NaN equals itself and 0.0 differs from -0.0.
trait Bits: ArrowNativeType {
    fn bits(self) -> u64;
}

impl Bits for f64 {
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

impl Bits for f32 {
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Bits for i64 {
    fn bits(self) -> u64 {
        self.cast_unsigned()
    }
}

impl Bits for i32 {
    fn bits(self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array};
    use proptest::prelude::*;

    use super::*;

    fn assert_round_trip(column: ArrayRef) {
        let packed = pack(&column);
        assert_eq!(&unpack(&packed).unwrap(), &column);
    }

    proptest! {
        #[test]
        fn numbers_come_back(values in proptest::collection::vec(proptest::option::of(-300i64..300), 0..2000)) {
            assert_round_trip(Arc::new(Int64Array::from(values.clone())));
            assert_round_trip(Arc::new(values.iter().map(|v| v.map(|v| v as f64 / 10.0)).collect::<Float64Array>()));
        }

        #[test]
        fn strings_come_back(values in proptest::collection::vec(proptest::option::of("[ab]{0,3}"), 0..500)) {
            assert_round_trip(Arc::new(StringArray::from(values)));
        }
    }

    #[test]
    fn many_distinct_values_stay_plain() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..256));
        assert_eq!(pack(&column).data_type(), &DataType::Int64);
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..255));
        assert!(matches!(pack(&column).data_type(), DataType::Dictionary(..)));
    }
}
