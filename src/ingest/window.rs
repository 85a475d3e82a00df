//! A window's frames: parses its rows and encodes them. A pure function of the rows.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use memchr::memchr_iter;

use super::reader::Work;
use super::text::rejected;
use super::text::split::{RowEnd, TextPosition, is_blank, row_end};
use crate::record::frame::{MAX_FRAME_BYTES, Origin, encode_input, encode_rejects};
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{Checksum, FormatError, Frame, RejectedRow, Rows};

/// A window ready to be dealt.
pub struct Window {
    /// Its frames; the last one is marked.
    pub frames: Vec<Frame>,
    /// Its rows, those that cannot be read included.
    pub rows: u64,
    /// The checksum of its rows.
    pub sum: Checksum,
}

impl Window {
    /// Parses and encodes.
    ///
    /// # Errors
    /// None that depends on the rows: those that do not fit a frame are rejected.
    pub fn new(origin: &Origin, work: &Work) -> Result<Self, FormatError> {
        let (rows, mut rejected) = work.parse()?;
        let mut count = rejected.len();
        let mut frames = Vec::new();
        if let Some(rows) = rows {
            count += rows.len();
            let too_large = encode_fitting(origin, &rows, &mut frames)?;
            if !too_large.is_empty() {
                rejected.extend(too_large.iter().map(|row| reject(work, row)));
                rejected.sort_by_key(|row| row.row);
            }
        }
        frames.extend(encode_rejects(origin, &rejected)?);
        if let Some(last) = frames.last_mut() {
            last.header.last = true;
        }
        let sum = frames.iter().fold(Checksum::default(), |sum, frame| sum + frame.header.sum.unwrap_or_default());
        Ok(Self { frames, rows: count as u64, sum })
    }
}

/// Encodes all rows that fit a frame; answers the others, each alone.
fn encode_fitting(origin: &Origin, rows: &Rows, frames: &mut Vec<Frame>) -> Result<Vec<Rows>, FormatError> {
    match encode_input(origin, rows) {
        Ok(all) => {
            frames.extend(all);
            Ok(Vec::new())
        }
        Err(_) if rows.len() == 1 => Ok(vec![rows.clone()]),
        Err(_) => {
            let half = rows.len() / 2;
            let mut unfit = encode_fitting(origin, &rows.slice(0, half, usize::MAX), frames)?;
            unfit.extend(encode_fitting(origin, &rows.slice(half, rows.len() - half, usize::MAX), frames)?);
            Ok(unfit)
        }
    }
}

/// A row that does not fit a frame.
fn reject(work: &Work, row: &Rows) -> RejectedRow {
    let number = row.numbers.first().unwrap_or_default();
    let reason = format!("the row does not fit a message of {} KB", MAX_FRAME_BYTES / 1024);
    if let Work::Text { layout, stretch } = work
        && let Some((at, text)) = find_row(&stretch.text, stretch.at, layout.dialect(), number)
    {
        return rejected(at, &text, reason);
    }
    let raw = Bytes::from(cells_as_json(row));
    let raw_len = raw.len() as u64;
    RejectedRow { row: number, line: None, reason, raw: raw.slice(..raw.len().min(MAX_RAW_BYTES)), raw_len }
}

fn find_row(
    text: &Bytes,
    mut at: TextPosition,
    dialect: super::text::Dialect,
    number: u64,
) -> Option<(TextPosition, Bytes)> {
    let mut from = 0;
    while let RowEnd::At(length) = row_end(&text[from..], dialect, true) {
        let row = &text[from..from + length];
        if !is_blank(row) {
            if at.row == number {
                return Some((at, text.slice_ref(row)));
            }
            at.row += 1;
        }
        at.line += memchr_iter(b'\n', row).count() as u64;
        from += length;
    }
    None
}

/// The cells of a row that has no text of its own.
fn cells_as_json(row: &Rows) -> String {
    let mut cells = serde_json::Map::new();
    let options = FormatOptions::default().with_null("null");
    for (field, column) in row.batch.schema().fields().iter().zip(row.batch.columns()) {
        let text = ArrayFormatter::try_new(column, &options).map(|cell| cell.value(0).to_string());
        cells.insert(field.name().clone(), text.unwrap_or_default().into());
    }
    serde_json::Value::Object(cells).to_string()
}
