//! JSON lines: one object a line.
//!
//! A line that is no object, a field that is no column, or a value that does not fit its column rejects that
//! row alone. A field that is not there is a missing value. Nested values are text columns of JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use memchr::memchr;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::csv::excerpt;
use super::split::{Stretch, is_blank, trim_line_end};
use super::{WindowBuilder, rejected};
use crate::ingest::columns::ColumnType;
use crate::record::{RejectedRow, Rows};

/// Parses whole lines into the schema's columns.
///
/// # Errors
/// None that depends on the rows.
pub fn parse(schema: &SchemaRef, stretch: &Stretch) -> Result<(Rows, Vec<RejectedRow>), ArrowError> {
    let text = &stretch.text;
    let rows = usize::try_from(stretch.rows).unwrap_or(0).min(text.len());
    let mut parser = Parser::new(schema, rows);
    let (mut from, mut at) = (0, stretch.at);
    while from < text.len() {
        let end = memchr(b'\n', &text[from..]).map_or(text.len(), |length| from + length + 1);
        let line = &text[from..end];
        if !is_blank(line) {
            match parser.line(line) {
                Ok(()) => parser.window.accept(at),
                Err(reason) => parser.window.reject(rejected(at, &text.slice(from..end), reason)),
            }
            at.row += 1;
        }
        at.line += 1;
        from = end;
    }
    parser.window.finish()
}

struct Parser<'a> {
    schema: &'a SchemaRef,
    places: HashMap<&'a str, usize>,
    window: WindowBuilder,
    /// For each column, whether the line in hand has it.
    is_there: Vec<bool>,
}

impl<'a> Parser<'a> {
    fn new(schema: &'a SchemaRef, rows: usize) -> Self {
        let places = schema.fields().iter().enumerate().map(|(place, field)| (field.name().as_str(), place)).collect();
        let window = WindowBuilder::new(schema.clone(), rows);
        Self { schema, places, window, is_there: vec![false; schema.fields().len()] }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        self.is_there.fill(false);
        let (mut taken, mut expected) = (Ok(()), 0);
        // The whole line is read even after a fault, so that broken JSON is always reported as such.
        each_field(line, |name, value| {
            if taken.is_ok() {
                taken = self.field(expected, name, value);
                expected += 1;
            }
        })?;
        taken?;
        for (column, _) in self.is_there.iter().enumerate().filter(|(_, is_there)| !**is_there) {
            self.window.columns[column].push_null();
        }
        Ok(())
    }

    /// Takes a field, which is likely to be the column `expected`.
    fn field(&mut self, expected: usize, name: &str, value: &str) -> Result<(), String> {
        let is_as_expected = self.schema.fields().get(expected).is_some_and(|field| field.name() == name);
        let place = if is_as_expected { Some(expected) } else { self.places.get(name).copied() };
        match place {
            None => Err(format!("the row has a field {}, which is no column of the dataset", excerpt(name))),
            Some(column) if self.is_there[column] => Err(format!("the row has the field {} twice", excerpt(name))),
            Some(column) => {
                self.is_there[column] = true;
                take_value(&mut self.window, column, value)
            }
        }
    }
}

/// Calls `take` with the name and the JSON of each field of the object that `line` holds.
///
/// # Errors
/// A line that is not an object, with the fault as one sentence; some of its fields may have been taken.
pub fn each_field(line: &[u8], take: impl FnMut(&str, &str)) -> Result<(), String> {
    let text = std::str::from_utf8(trim_line_end(line)).map_err(|_| "the row is not UTF-8 text".to_owned())?;
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Fields(take)).and_then(|()| json.end()).map_err(|error| {
        // serde_json counts lines from the row's own beginning.
        let said = error.to_string();
        let said = said.split(" at line").next().unwrap_or_default();
        format!("the row is not a JSON object: {said} (column {})", error.column())
    })
}

struct Fields<F>(F);

/// A field's name, borrowed where it holds no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, F: FnMut(&str, &str)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'_>>()? {
            let value: &RawValue = map.next_value()?;
            (self.0)(&name.0, value.get());
        }
        Ok(())
    }
}

fn take_value(window: &mut WindowBuilder, place: usize, json: &str) -> Result<(), String> {
    let column = &mut window.columns[place];
    let wanted = column.column_type();
    let fits = match json.as_bytes().first() {
        Some(b'n') => {
            column.push_null();
            true
        }
        Some(b'"') => {
            let is_textual = matches!(wanted, ColumnType::String | ColumnType::Date | ColumnType::Timestamp);
            is_textual && serde_json::from_str::<String>(json).is_ok_and(|text| column.push(text.as_bytes()))
        }
        Some(b't' | b'f') => matches!(wanted, ColumnType::Boolean | ColumnType::String) && column.push(json.as_bytes()),
        Some(b'{' | b'[') => wanted == ColumnType::String && column.push(json.as_bytes()),
        _ => column.push(json.as_bytes()),
    };
    if fits {
        return Ok(());
    }
    Err(format!("column {:?} holds {}, not {}", window.name(place), excerpt(json), wanted.wanted()))
}
