//! JSON lines: one object a line.
//!
//! A line that is no object, a field that is no column, or a value that does not fit its column rejects that
//! row alone. A field that is not there is a missing value. Nested values are text columns of JSON.

use std::collections::HashMap;
use std::fmt;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use memchr::memchr;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::WindowBuilder;
use super::csv::excerpt;
use super::split::{MAX_ROW_BYTES, is_blank, long_row_reason, trim_line_end};
use crate::ingest::columns::ColumnType;
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{RejectedRow, Rows};

/// Parses whole lines into the schema's columns.
///
/// # Errors
/// None that depends on the rows.
pub fn parse(
    schema: &SchemaRef,
    text: &Bytes,
    first_row: u64,
    first_line: u64,
) -> Result<(Rows, Vec<RejectedRow>), arrow::error::ArrowError> {
    let places: HashMap<&str, usize> =
        schema.fields().iter().enumerate().map(|(place, field)| (field.name().as_str(), place)).collect();
    let mut window = WindowBuilder::new(schema.clone(), text.len() / 64);
    let mut seen = vec![false; schema.fields().len()];
    let (mut at, mut row, mut line) = (0, first_row, first_line);
    while at < text.len() {
        let end = memchr(b'\n', &text[at..]).map_or(text.len(), |length| at + length + 1);
        let raw = &text[at..end];
        if !is_blank(raw) {
            seen.fill(false);
            match take_line(&mut window, &places, &mut seen, raw) {
                Ok(()) => window.accept(row, line),
                Err(reason) => {
                    let kept = trim_line_end(raw).len().min(MAX_RAW_BYTES);
                    let raw_len = raw.len() as u64;
                    let raw = text.slice(at..at + kept);
                    window.reject(RejectedRow { row, line: Some(line), reason, raw, raw_len });
                }
            }
            row += 1;
        }
        (at, line) = (end, line + 1);
    }
    window.finish()
}

fn take_line(
    window: &mut WindowBuilder,
    places: &HashMap<&str, usize>,
    seen: &mut [bool],
    raw: &[u8],
) -> Result<(), String> {
    if raw.len() > MAX_ROW_BYTES {
        return Err(long_row_reason(raw.len() as u64));
    }
    let text = std::str::from_utf8(trim_line_end(raw)).map_err(|_| "the row is not UTF-8 text".to_owned())?;
    let mut json = serde_json::Deserializer::from_str(text);
    let taken = ObjectSeed { window, places, seen }.deserialize(&mut json).map_err(|e| said(&e))?;
    json.end().map_err(|e| said(&e))?;
    taken?;
    for (column, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        window.columns[column].push_null();
    }
    Ok(())
}

fn said(error: &serde_json::Error) -> String {
    // serde_json counts lines from the row's own beginning.
    let text = error.to_string();
    let text = text.split(" at line").next().unwrap_or_default();
    format!("the row is not a JSON object: {text} (column {})", error.column())
}

struct ObjectSeed<'a> {
    window: &'a mut WindowBuilder,
    places: &'a HashMap<&'a str, usize>,
    seen: &'a mut [bool],
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Result<(), String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Result<(), String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // The whole object is read even after a fault, so that broken JSON is always reported as such.
        let mut result = Ok(());
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let value: &RawValue = map.next_value()?;
            if result.is_ok() {
                result = match self.places.get(name.as_ref()) {
                    None => Err(format!("the row has a field {name:?}, which is no column of the dataset")),
                    Some(column) if self.seen[*column] => Err(format!("the row has the field {name:?} twice")),
                    Some(column) => {
                        self.seen[*column] = true;
                        take_value(self.window, *column, value.get())
                    }
                };
            }
        }
        Ok(result)
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
            is_textual && serde_json::from_str::<String>(json).is_ok_and(|text| column.push_text(&text))
        }
        Some(b't' | b'f') => matches!(wanted, ColumnType::Boolean | ColumnType::String) && column.push_text(json),
        Some(b'{' | b'[') => wanted == ColumnType::String && column.push_text(json),
        _ => column.push_text(json),
    };
    if fits {
        return Ok(());
    }
    Err(format!("column {:?} holds {}, not {}", window.name(place), excerpt(json), wanted.wanted()))
}
