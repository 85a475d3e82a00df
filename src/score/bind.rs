//! Which columns feed which model input: by name, or by order where the model has a single tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use arrow::datatypes::{DataType, Schema};

use super::error::{Result, ScoreError};
use super::model::{Element, Input, Model};

/// The columns of one input, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundInput {
    /// The input.
    pub input: Input,
    /// Places of its columns among the dataset's.
    pub columns: Vec<usize>,
}

/// The columns of all inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding(pub Vec<BoundInput>);

/// What the user said with `--map`: for an input, its columns, separated by commas.
pub type ColumnMap = BTreeMap<String, String>;

/// The names of an input's columns in a map's entry.
pub fn mapped_columns(entry: &str) -> impl Iterator<Item = &str> {
    entry.split(',').map(str::trim)
}

/// What the model makes of a column called `column`, before its type is known: the element that it
/// feeds, where names tell.
pub fn wanted_element(model: &Model, map: &ColumnMap, column: &str) -> Option<Element> {
    if let Some((input, _)) = map.iter().find(|(_, columns)| mapped_columns(columns).any(|c| c == column)) {
        return model.inputs.iter().find(|i| i.name == *input).map(|i| i.element);
    }
    if let Some(input) = model.inputs.iter().find(|i| i.name == column) {
        return Some(input.element);
    }
    // By order: any column may be one of a single tensor's.
    match model.inputs.as_slice() {
        [only] if only.width() != Some(1) && map.is_empty() => Some(only.element),
        _ => None,
    }
}

impl Binding {
    /// Finds each input's columns.
    ///
    /// # Errors
    /// One error that lists every input without fitting columns, what the data has, and the nearest names.
    pub fn new(model: &Model, schema: &Schema, map: &ColumnMap) -> Result<Self> {
        let mut faults = Vec::new();
        let mut bound = Vec::new();
        for name in map.keys().filter(|name| !model.inputs.iter().any(|i| i.name == **name)) {
            faults.push(format!("--map names the input {name:?}, which the model does not have"));
        }
        for input in &model.inputs {
            match columns_of(input, model.inputs.len() == 1, schema, map) {
                Ok(columns) => bound.push(BoundInput { input: input.clone(), columns }),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            return Ok(Self(bound));
        }
        Err(ScoreError::Binding(describe(model, schema, &faults)))
    }

    /// The places of all bound columns.
    pub fn columns(&self) -> BTreeSet<usize> {
        self.0.iter().flat_map(|b| b.columns.iter().copied()).collect()
    }
}

fn columns_of(input: &Input, is_only: bool, schema: &Schema, map: &ColumnMap) -> Result<Vec<usize>, String> {
    let width = input.width();
    let columns = if let Some(entry) = map.get(&input.name) {
        let find = |name: &str| {
            schema.index_of(name).map_err(|_| {
                format!(
                    "--map feeds {:?} with column {name:?}, which the data does not have{}",
                    input.name,
                    nearest(name, schema)
                )
            })
        };
        mapped_columns(entry).map(find).collect::<Result<Vec<_>, _>>()?
    } else if let Ok(column) = schema.index_of(&input.name) {
        vec![column]
    } else if is_only && width != Some(1) {
        by_order(input, schema)?
    } else {
        return Err(format!("no column is called {:?}{}", input.name, nearest(&input.name, schema)));
    };
    if let Some(width) = width.filter(|width| *width != columns.len()) {
        return Err(format!("input {:?} takes {width} columns, it would get {}", input.name, columns.len()));
    }
    for column in &columns {
        let field = schema.field(*column);
        if !fits(field.data_type(), input.element) {
            return Err(format!(
                "column {:?} holds {}, input {:?} takes {}",
                field.name(),
                described(field.data_type()),
                input.name,
                input.element.name()
            ));
        }
    }
    Ok(columns)
}

/// All columns where there are as many as the tensor takes, else the columns of its kind where those are as many.
fn by_order(input: &Input, schema: &Schema) -> Result<Vec<usize>, String> {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let of_kind: Vec<usize> = all
        .iter()
        .copied()
        .filter(|c| fits(schema.field(*c).data_type(), input.element) && !is_odd_one(schema, *c, input))
        .collect();
    match input.width() {
        None => Ok(of_kind),
        Some(width) if width == all.len() => Ok(all),
        Some(width) if width == of_kind.len() => Ok(of_kind),
        Some(width) => Err(format!(
            "input {:?} takes {width} columns in order, the data has {} that fit; say which with --map {}=COLUMN,COLUMN,...",
            input.name,
            of_kind.len(),
            input.name
        )),
    }
}

/// Truth values fit an input of numbers when named, but are not taken for one of its columns unasked.
fn is_odd_one(schema: &Schema, column: usize, input: &Input) -> bool {
    schema.field(column).data_type() == &DataType::Boolean && input.element != Element::Bool
}

fn fits(data_type: &DataType, element: Element) -> bool {
    let is_number = data_type.is_numeric() || data_type == &DataType::Null;
    match element {
        Element::String => {
            matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::Null) || data_type.is_integer()
        }
        Element::Bool => data_type == &DataType::Boolean,
        _ => is_number || data_type == &DataType::Boolean,
    }
}

fn described(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The nearest column name, for a message.
fn nearest(name: &str, schema: &Schema) -> String {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-', '.', '(', ')'], "_");
    let best = schema
        .fields()
        .iter()
        .map(|f| (strsim::jaro_winkler(&plain(name), &plain(f.name())), f.name()))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, column)) if likeness > 0.8 => format!(" (nearest: {column:?}; --map {name}={column} takes it)"),
        _ => String::new(),
    }
}

fn describe(model: &Model, schema: &Schema, faults: &[String]) -> String {
    let wants: Vec<String> = model
        .inputs
        .iter()
        .map(|i| match i.width() {
            Some(1) => format!("{} ({})", i.name, i.element.name()),
            Some(width) => format!("{} ({width} columns of {})", i.name, i.element.name()),
            None => format!("{} (columns of {})", i.name, i.element.name()),
        })
        .collect();
    let has: Vec<String> =
        schema.fields().iter().map(|f| format!("{} ({})", f.name(), described(f.data_type()))).collect();
    let mut text = "the data does not fit the model".to_owned();
    for fault in faults {
        let _ = write!(text, "\n  - {fault}");
    }
    let _ = write!(text, "\n  the model wants: {}\n  the data has: {}", wants.join(", "), has.join(", "));
    text
}
