//! Features: a window's columns as the tensors that the model takes, row by row.
//!
//! A value that does not fit its input (a missing whole number, a fraction where a whole number is wanted) fails its
//! row alone, before the model is asked.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt8Type};
use ort::session::SessionInputValue;
use ort::value::{Tensor, TensorRef};

use super::bind::{Binding, BoundInput};
use super::model::Element;
use crate::record::run::Missing;

/// One input's values: `width` values a row, row after row.
#[derive(Debug)]
enum Values {
    Float(Vec<f32>),
    Double(Vec<f64>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

/// One input's values, with its shape.
#[derive(Debug)]
struct Feature {
    name: String,
    values: Values,
    width: usize,
    row_shape: Vec<i64>,
}

/// A window's rows as the model takes them.
#[derive(Debug)]
pub struct Features {
    features: Vec<Feature>,
    rows: usize,
}

/// A row that failed, by its place in the window, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    /// The row's place.
    pub place: usize,
    /// Why, as one sentence.
    pub reason: String,
}

impl Features {
    /// The features of a batch. Rows that fail have placeholders here; they are listed with the reason,
    /// in order, and must not be scored.
    ///
    /// # Errors
    /// A column of another type than when it was bound.
    pub fn new(batch: &RecordBatch, binding: &Binding, missing: Missing) -> Result<(Self, Vec<FailedRow>), String> {
        let rows = batch.num_rows();
        let mut failed = vec![None; rows];
        let features =
            binding.0.iter().map(|bound| feature(batch, bound, missing, &mut failed)).collect::<Result<Vec<_>, _>>()?;
        let failed = failed
            .into_iter()
            .enumerate()
            .filter_map(|(place, reason)| Some(FailedRow { place, reason: reason? }))
            .collect();
        Ok((Self { features, rows }, failed))
    }

    /// Two rows of zeros and empty text, to see what the model answers.
    pub fn placeholders(binding: &Binding) -> Self {
        let feature = |bound: &BoundInput| Feature {
            name: bound.input.name.clone(),
            values: empty(bound.input.element, 2 * bound.columns.len()),
            width: bound.columns.len(),
            row_shape: settled_shape(bound),
        };
        Self { features: binding.0.iter().map(feature).collect(), rows: 2 }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Only the rows at `places`.
    pub fn select(&self, places: &[usize]) -> Self {
        let features = self.features.iter().map(|feature| feature.select(places)).collect();
        Self { features, rows: places.len() }
    }

    /// The model's inputs for the rows `from..to`.
    ///
    /// # Errors
    /// What ONNX Runtime says.
    pub fn inputs(&self, from: usize, to: usize) -> ort::Result<Vec<(&str, SessionInputValue<'_>)>> {
        self.features.iter().map(|f| Ok((f.name.as_str(), f.input(from, to)?))).collect()
    }
}

impl Feature {
    fn select(&self, places: &[usize]) -> Self {
        fn pick<T: Clone>(values: &[T], width: usize, places: &[usize]) -> Vec<T> {
            places.iter().flat_map(|place| values[place * width..(place + 1) * width].iter().cloned()).collect()
        }
        let values = match &self.values {
            Values::Float(v) => Values::Float(pick(v, self.width, places)),
            Values::Double(v) => Values::Double(pick(v, self.width, places)),
            Values::Int32(v) => Values::Int32(pick(v, self.width, places)),
            Values::Int64(v) => Values::Int64(pick(v, self.width, places)),
            Values::Bool(v) => Values::Bool(pick(v, self.width, places)),
            Values::String(v) => Values::String(pick(v, self.width, places)),
        };
        Self { name: self.name.clone(), values, width: self.width, row_shape: self.row_shape.clone() }
    }

    fn input(&self, from: usize, to: usize) -> ort::Result<SessionInputValue<'_>> {
        let cells = from * self.width..to * self.width;
        let rows = i64::try_from(to - from).unwrap_or(i64::MAX);
        let shape: Vec<i64> = std::iter::once(rows).chain(self.row_shape.iter().copied()).collect();
        Ok(match &self.values {
            Values::Float(v) => TensorRef::from_array_view((shape, &v[cells]))?.into(),
            Values::Double(v) => TensorRef::from_array_view((shape, &v[cells]))?.into(),
            Values::Int32(v) => TensorRef::from_array_view((shape, &v[cells]))?.into(),
            Values::Int64(v) => TensorRef::from_array_view((shape, &v[cells]))?.into(),
            Values::Bool(v) => TensorRef::from_array_view((shape, &v[cells]))?.into(),
            Values::String(v) => Tensor::from_string_array((shape, &v[cells]))?.into(),
        })
    }
}

type Failures = [Option<String>];

fn feature(
    batch: &RecordBatch,
    bound: &BoundInput,
    missing: Missing,
    failed: &mut Failures,
) -> Result<Feature, String> {
    let (rows, width) = (batch.num_rows(), bound.columns.len());
    let mut values = empty(bound.input.element, rows * width);
    let schema = batch.schema();
    for (place, column) in bound.columns.iter().enumerate() {
        let name = schema.field(*column).name();
        let target = Target { name, input: &bound.input.name, place, width, missing };
        target.fill(&mut values, batch.column(*column), failed)?;
    }
    let row_shape = settled_shape(bound);
    Ok(Feature { name: bound.input.name.clone(), values, width, row_shape })
}

/// The input's shape behind the rows; a dimension that the model leaves open is settled by the columns.
fn settled_shape(bound: &BoundInput) -> Vec<i64> {
    let shape = &bound.input.row_shape;
    let columns = i64::try_from(bound.columns.len()).unwrap_or(i64::MAX);
    let known: i64 = shape.iter().filter(|dim| **dim > 0).product();
    match shape.iter().filter(|dim| **dim < 0).count() {
        0 => shape.clone(),
        1 => shape.iter().map(|dim| if *dim < 0 { columns / known.max(1) } else { *dim }).collect(),
        _ => vec![columns],
    }
}

fn empty(element: Element, cells: usize) -> Values {
    match element {
        Element::Float => Values::Float(vec![0.0; cells]),
        Element::Double => Values::Double(vec![0.0; cells]),
        Element::Int32 => Values::Int32(vec![0; cells]),
        Element::Int64 => Values::Int64(vec![0; cells]),
        Element::Bool => Values::Bool(vec![false; cells]),
        Element::String => Values::String(vec![String::new(); cells]),
    }
}

/// Where a column's values go.
struct Target<'a> {
    name: &'a str,
    input: &'a str,
    place: usize,
    width: usize,
    missing: Missing,
}

impl Target<'_> {
    fn fill(&self, values: &mut Values, column: &ArrayRef, failed: &mut Failures) -> Result<(), String> {
        match values {
            Values::Float(cells) => self.floats(cells, column, failed, |v| v as f32),
            Values::Double(cells) => self.floats(cells, column, failed, |v| v),
            Values::Int32(cells) => self.wholes(cells, column, failed, |v| i32::try_from(v).ok()),
            Values::Int64(cells) => self.wholes(cells, column, failed, Some),
            Values::Bool(cells) => self.wholes(cells, column, failed, |v| Some(v != 0)),
            Values::String(cells) => self.strings(cells, column),
        }
    }

    fn fail(&self, failed: &mut Failures, row: usize, what: &str) {
        failed[row].get_or_insert_with(|| {
            format!("column {:?} holds {what}, input {:?} does not take that", self.name, self.input)
        });
    }

    /// Numbers; a missing one is not-a-number. Doubles become floats by rounding to the nearest, as in numpy.
    fn floats<T: Copy>(
        &self,
        cells: &mut [T],
        column: &ArrayRef,
        failed: &mut Failures,
        convert: impl Fn(f64) -> T,
    ) -> Result<(), String> {
        let mut slots = cells.iter_mut().skip(self.place).step_by(self.width);
        let nan = convert(f64::NAN);
        if let Some((keys, table)) = dictionary(column) {
            let table = self.doubles(&table)?;
            let table: Vec<T> =
                (0..table.len()).map(|i| if table.is_null(i) { nan } else { convert(table.value(i)) }).collect();
            if keys.null_count() == 0 {
                for (slot, key) in slots.zip(keys.values()) {
                    *slot = table[usize::from(*key)];
                }
                return Ok(());
            }
            for (row, key) in keys.iter().enumerate() {
                let value = key.map(|key| table[usize::from(key)]);
                self.put(slots.next(), value, nan, failed, row);
            }
            return Ok(());
        }
        let numbers = self.doubles(column)?;
        if numbers.null_count() == 0 {
            for (slot, number) in slots.zip(numbers.values()) {
                *slot = convert(*number);
            }
            return Ok(());
        }
        for (row, number) in numbers.iter().enumerate() {
            self.put(slots.next(), number.map(&convert), nan, failed, row);
        }
        Ok(())
    }

    fn put<T>(&self, slot: Option<&mut T>, value: Option<T>, nan: T, failed: &mut Failures, row: usize) {
        if value.is_none() && self.missing == Missing::Fail {
            self.fail(failed, row, "a missing value");
        }
        if let Some(slot) = slot {
            *slot = value.unwrap_or(nan);
        }
    }

    fn doubles(&self, column: &ArrayRef) -> Result<Float64Array, String> {
        Ok(self.cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
    }

    fn cast(&self, column: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
        if column.data_type() == to {
            return Ok(ArrayRef::clone(column));
        }
        let options = CastOptions { safe: true, ..CastOptions::default() };
        cast_with_options(column, to, &options)
            .map_err(|e| format!("column {:?} does not fit input {:?}: {e}", self.name, self.input))
    }

    /// Whole numbers; missing ones and fractions fail their row.
    fn wholes<T>(
        &self,
        cells: &mut [T],
        column: &ArrayRef,
        failed: &mut Failures,
        convert: impl Fn(i64) -> Option<T>,
    ) -> Result<(), String> {
        let is_fractional = matches!(
            crate::record::compact::value_type(column.data_type()),
            DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Decimal128(..)
        );
        let doubles = if is_fractional { Some(self.doubles(column)?) } else { None };
        let wholes: Int64Array = match &doubles {
            Some(doubles) => whole_doubles(doubles),
            None => self.cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
        };
        for (row, slot) in cells.iter_mut().skip(self.place).step_by(self.width).enumerate() {
            match wholes.is_valid(row).then(|| convert(wholes.value(row))).flatten() {
                Some(value) => *slot = value,
                None if column.is_null(row) => self.fail(failed, row, "a missing value"),
                None => match &doubles {
                    Some(doubles) => self.fail(failed, row, &doubles.value(row).to_string()),
                    None => self.fail(failed, row, "a number out of range"),
                },
            }
        }
        Ok(())
    }

    /// Text; a missing value is the empty text.
    fn strings(&self, cells: &mut [String], column: &ArrayRef) -> Result<(), String> {
        let slots = cells.iter_mut().skip(self.place).step_by(self.width);
        let text = self.cast(column, &DataType::Utf8)?;
        let text: &StringArray = text.as_string::<i32>();
        for (row, slot) in slots.enumerate() {
            if text.is_valid(row) {
                text.value(row).clone_into(slot);
            }
        }
        Ok(())
    }
}

fn whole_doubles(doubles: &Float64Array) -> Int64Array {
    // Every double in this range that has no fraction is a 64-bit whole number.
    let limit = 9_007_199_254_740_992.0;
    doubles.iter().map(|d| d.filter(|d| d.fract() == 0.0 && d.abs() <= limit).map(|d| d as i64)).collect()
}

fn dictionary(column: &ArrayRef) -> Option<(&arrow::array::UInt8Array, ArrayRef)> {
    match column.data_type() {
        DataType::Dictionary(keys, _) if **keys == DataType::UInt8 => {
            let dictionary = column.as_dictionary::<UInt8Type>();
            Some((dictionary.keys(), ArrayRef::clone(dictionary.values())))
        }
        _ => None,
    }
}
