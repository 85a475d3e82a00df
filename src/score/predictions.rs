//! Predictions: a model's outputs as Arrow columns.
//!
//! The output's values are believed, not their declared shapes: some converters declare wrong ones.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float32Array, Float64Array, Int64Array, StringArray, UInt8Array, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, UInt8Type};
use ort::session::SessionOutputs;
use ort::value::{DynValue, TensorElementType, ValueType};

use super::model::{Model, Output, Role};

/// The name of the column that holds the prediction.
pub const PREDICTION: &str = "Prediction";

/// One output's values so far: `width` values a row.
#[derive(Debug)]
enum Column {
    Unknown,
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Text { codes: Vec<u32>, values: Vec<String>, index: HashMap<String, u32> },
}

/// The outputs of several calls, one after another.
#[derive(Debug)]
pub struct Predictions {
    columns: Vec<(Output, Column, usize)>,
}

impl Predictions {
    /// No rows yet. Probabilities are kept only where they are wanted.
    pub fn new(model: &Model, probabilities: bool) -> Self {
        let is_kept =
            |output: &&Output| probabilities || !matches!(output.role, Role::Probabilities | Role::ClassProbability);
        Self { columns: model.outputs.iter().filter(is_kept).map(|o| (o.clone(), Column::Unknown, 1)).collect() }
    }

    /// The columns as the model declares its outputs: right for most models, and all there is for one that
    /// does not score placeholders.
    pub fn declared_schema(model: &Model, probabilities: bool) -> Schema {
        let mut empty = Self::new(model, probabilities);
        for (output, column, width) in &mut empty.columns {
            *column = match output.element {
                TensorElementType::Float64 => Column::Double(Vec::new()),
                TensorElementType::Int64 | TensorElementType::Int32 | TensorElementType::Bool => {
                    Column::Int64(Vec::new())
                }
                TensorElementType::String => {
                    Column::Text { codes: Vec::new(), values: Vec::new(), index: HashMap::new() }
                }
                _ => Column::Float(Vec::new()),
            };
            *width = match (output.role, &model.classes) {
                (Role::Probabilities | Role::Values, _) if output.columns > 1 => output.columns,
                (Role::Probabilities, Some(classes)) => classes.0.len(),
                _ => 1,
            };
        }
        plain_schema(&empty.finish(model))
    }

    /// Adds the first `rows` rows of a call's outputs; `called` is how many rows the call had.
    ///
    /// # Errors
    /// An output that does not hold one row for each row of the call. Nothing was added then.
    pub fn add(&mut self, outputs: &SessionOutputs<'_>, rows: usize, called: usize) -> Result<(), String> {
        let value = |output: &Output| {
            outputs.get(output.name.as_str()).ok_or_else(|| format!("output {:?} is not there", output.name))
        };
        let mut found = Vec::with_capacity(self.columns.len());
        for (output, column, width) in &self.columns {
            let values = values_a_row(value(output)?, called).map_err(|e| format!("output {:?} {e}", output.name))?;
            if values != *width && !matches!(column, Column::Unknown) {
                return Err(format!("output {:?} has {values} values a row, {width} before", output.name));
            }
            found.push(values);
        }
        for ((output, column, width), found) in self.columns.iter_mut().zip(found) {
            column.add(value(output)?, found * rows).map_err(|e| format!("output {:?} {e}", output.name))?;
            *width = found;
        }
        Ok(())
    }

    /// The columns, in the order of the output's schema: the prediction, then the rest.
    pub fn finish(self, model: &Model) -> Vec<(Field, ArrayRef)> {
        let mut finished = Vec::new();
        let single = self.columns.iter().filter(|(o, ..)| o.role == Role::ClassProbability).count();
        let mut named = model.classes.iter().filter(|classes| classes.0.len() == single).flat_map(|c| c.0.clone());
        for (output, column, width) in self.columns {
            match output.role {
                Role::Prediction => finished.push((PREDICTION.to_owned(), column.whole())),
                Role::ClassProbability => {
                    let class = named.next().unwrap_or_else(|| output.name.clone());
                    finished.push((probability_name(&class), column.whole()));
                }
                Role::Probabilities => {
                    let names = class_names(model, width);
                    finished.extend(column.split(width).into_iter().zip(names).map(|(c, n)| (probability_name(&n), c)));
                }
                Role::Values => {
                    let columns = column.split(width).into_iter().enumerate();
                    finished.extend(columns.map(|(i, c)| (format!("{PREDICTION}_{}", i + 1), c)));
                }
                Role::Scores => finished.push((PREDICTION.to_owned(), column.arg_max(width))),
            }
        }
        finished.into_iter().map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array)).collect()
    }
}

fn probability_name(class: &str) -> String {
    format!("Probability_{class}")
}

fn class_names(model: &Model, width: usize) -> Vec<String> {
    match &model.classes {
        Some(classes) if classes.0.len() == width => classes.0.clone(),
        _ => (0..width).map(|class| class.to_string()).collect(),
    }
}

/// The columns' fields with the values' types, dictionaries aside.
pub fn plain_schema(columns: &[(Field, ArrayRef)]) -> Schema {
    let plain =
        |field: &Field| field.clone().with_data_type(crate::record::compact::value_type(field.data_type()).clone());
    Schema::new(columns.iter().map(|(field, _)| plain(field)).collect::<Vec<_>>())
}

/// How many values a tensor has for each row of the call.
fn values_a_row(value: &DynValue, called: usize) -> Result<usize, String> {
    use TensorElementType::{Bool, Float32, Float64, Int32, Int64, String};
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(format!("is {}, not a tensor", value.dtype()));
    };
    if !matches!(ty, Int64 | Int32 | Bool | Float32 | Float64 | String) {
        return Err(format!("holds {ty}, which is neither a number nor text"));
    }
    let values = shape.num_elements();
    if values < called || values % called.max(1) != 0 || shape.first().is_none_or(|n| usize::try_from(*n) != Ok(called))
    {
        return Err(format!("has shape {shape:?} for {called} rows"));
    }
    Ok(values / called.max(1))
}

impl Column {
    /// Adds the first `taken` values of a tensor.
    fn add(&mut self, value: &DynValue, taken: usize) -> Result<(), String> {
        let ty = value.dtype().tensor_type().ok_or_else(|| format!("is {}, not a tensor", value.dtype()))?;
        let said = |e: ort::Error| e.to_string();
        match ty {
            TensorElementType::Int64 => {
                self.int64s().extend_from_slice(&value.try_extract_tensor::<i64>().map_err(said)?.1[..taken]);
            }
            TensorElementType::Int32 => {
                let values = value.try_extract_tensor::<i32>().map_err(said)?.1;
                self.int64s().extend(values[..taken].iter().map(|v| i64::from(*v)));
            }
            TensorElementType::Bool => {
                let values = value.try_extract_tensor::<bool>().map_err(said)?.1;
                self.int64s().extend(values[..taken].iter().map(|v| i64::from(*v)));
            }
            TensorElementType::Float32 => {
                if !matches!(self, Self::Float(_)) {
                    *self = Self::Float(Vec::new());
                }
                if let Self::Float(column) = self {
                    column.extend_from_slice(&value.try_extract_tensor::<f32>().map_err(said)?.1[..taken]);
                }
            }
            TensorElementType::Float64 => {
                if !matches!(self, Self::Double(_)) {
                    *self = Self::Double(Vec::new());
                }
                if let Self::Double(column) = self {
                    column.extend_from_slice(&value.try_extract_tensor::<f64>().map_err(said)?.1[..taken]);
                }
            }
            TensorElementType::String => self.add_text(value.try_extract_strings().map_err(said)?.1, taken),
            other => return Err(format!("holds {other}, which is neither a number nor text")),
        }
        Ok(())
    }

    fn int64s(&mut self) -> &mut Vec<i64> {
        if !matches!(self, Self::Int64(_)) {
            *self = Self::Int64(Vec::new());
        }
        match self {
            Self::Int64(column) => column,
            _ => unreachable!("the column was just made one of whole numbers"),
        }
    }

    fn add_text(&mut self, texts: Vec<String>, taken: usize) {
        if !matches!(self, Self::Text { .. }) {
            *self = Self::Text { codes: Vec::new(), values: Vec::new(), index: HashMap::new() };
        }
        let Self::Text { codes, values, index } = self else { return };
        for text in texts.into_iter().take(taken) {
            // Labels are few, and the same one often comes again.
            let last = codes.last().copied().filter(|code| values[*code as usize] == text);
            let known = last.or_else(|| index.get(&text).copied());
            codes.push(known.unwrap_or_else(|| {
                let code = u32::try_from(values.len()).unwrap_or(u32::MAX);
                values.push(text.clone());
                index.insert(text, code);
                code
            }));
        }
    }

    /// All values as one column.
    fn whole(self) -> ArrayRef {
        match self {
            Self::Unknown => Arc::new(Float32Array::from(Vec::<f32>::new())),
            Self::Int64(values) => Arc::new(Int64Array::from(values)),
            Self::Float(values) => Arc::new(Float32Array::from(values)),
            Self::Double(values) => Arc::new(Float64Array::from(values)),
            Self::Text { codes, values, .. } => text_column(&codes, values),
        }
    }

    /// Each of `width` values a row as a column.
    fn split(self, width: usize) -> Vec<ArrayRef> {
        fn pick<T: Copy>(values: &[T], place: usize, width: usize) -> Vec<T> {
            values.iter().skip(place).step_by(width).copied().collect()
        }
        if width <= 1 {
            return vec![self.whole()];
        }
        (0..width)
            .map(|place| match &self {
                Self::Float(v) => Self::Float(pick(v, place, width)).whole(),
                Self::Double(v) => Self::Double(pick(v, place, width)).whole(),
                Self::Int64(v) => Self::Int64(pick(v, place, width)).whole(),
                Self::Unknown | Self::Text { .. } => Self::Unknown.whole(),
            })
            .collect()
    }

    /// The place of the greatest of each row's values, the first of equal ones.
    fn arg_max(self, width: usize) -> ArrayRef {
        fn places<T: Copy + PartialOrd>(values: &[T], width: usize) -> Vec<i64> {
            values
                .chunks_exact(width.max(1))
                .map(|row| {
                    let greatest = row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best });
                    i64::try_from(greatest).unwrap_or(i64::MAX)
                })
                .collect()
        }
        match self {
            Self::Float(values) => Self::Int64(places(&values, width)).whole(),
            Self::Double(values) => Self::Int64(places(&values, width)).whole(),
            other => other.whole(),
        }
    }
}

fn text_column(codes: &[u32], values: Vec<String>) -> ArrayRef {
    let values = StringArray::from(values);
    let keys: Option<Vec<u8>> = codes.iter().map(|code| u8::try_from(*code).ok()).collect();
    match keys {
        Some(keys) => Arc::new(DictionaryArray::<UInt8Type>::new(UInt8Array::from(keys), Arc::new(values))),
        None => {
            let picked = arrow::compute::take(&values, &UInt32Array::from(codes.to_vec()), None);
            picked.unwrap_or_else(|_| arrow::array::new_null_array(&DataType::Utf8, codes.len()))
        }
    }
}
