//! Frames: many rows as one record of the log.
//!
//! A frame's value is an Arrow IPC stream of one record batch with LZ4-compressed buffers (any Arrow reader
//! opens it), its `content-type` is [`ARROW_STREAM`], and its header [`FRAME_HEADER`] is the compact JSON of
//! a [`FrameHeader`]. Key and timestamp are the log's own. A frame is at most [`MAX_FRAME_BYTES`] on the wire,
//! whatever the window: a window is consecutive frames.

use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Checksum, Digest, FormatError, Lines, RejectedRow, RowRanges, Rows, RunId, compact, rejects};

/// The media type of an Arrow IPC stream, as registered with IANA.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";
/// The name of the header that carries a [`FrameHeader`].
pub const FRAME_HEADER: &str = "scoreline";
/// The name of the header that carries the media type.
pub const CONTENT_TYPE: &str = "content-type";
/// The largest frame in bytes, value and headers together.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// What frames of the input topic leave free, so that a row that fits one fits another with its prediction.
const PREDICTION_ROOM: usize = 32 * 1024;
/// A frame's header lists at most this many ranges of rows.
const MAX_RANGES: usize = 256;
/// The rows of a window's first frame, and the most of any.
const PROBE_ROWS: usize = 4096;
const MAX_ROWS: usize = 32 * 1024;
const MAX_PACKED_COLUMNS: usize = 64;
/// Frames are cut to fill about this share of the largest size.
const FILL: f64 = 0.75;
/// The name of the column that holds source lines where they do not follow from row numbers.
const LINE_COLUMN: &str = "scoreline.line";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// Rows of the dataset's columns; in the output topic, with the prediction's columns behind them.
    Rows,
    /// Rows that could not be read ([`super::rejects`]).
    Rejects,
}

/// Where a frame's rows come from, and their checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameHeader {
    /// Version of this header: 1.
    pub v: u8,
    /// The run.
    pub run: RunId,
    /// The window's number within the run, from 0.
    pub window: u64,
    /// What the frame holds.
    pub kind: FrameKind,
    /// Whether this is the window's last frame.
    pub last: bool,
    /// The source file's place in the run's list of inputs, from 0.
    pub file: u32,
    /// The rows' numbers in that file.
    pub rows: RowRanges,
    /// Row `r` stands on line `line + r` of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
    /// In the input topic: the checksum of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<Checksum>,
    /// In the output topic: the digest of the model that scored the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Digest>,
}

/// What all frames of one window have in common.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The run.
    pub run: RunId,
    /// The window's number.
    pub window: u64,
    /// The source file's place in the run's list of inputs.
    pub file: u32,
    /// The model that scored the rows, in the output topic.
    pub model: Option<Digest>,
}

impl Origin {
    fn header(&self, kind: FrameKind) -> FrameHeader {
        FrameHeader {
            v: 1,
            run: self.run.clone(),
            window: self.window,
            kind,
            last: false,
            file: self.file,
            rows: RowRanges::default(),
            line: None,
            sum: None,
            model: self.model,
        }
    }
}

/// A frame ready to be sent: its header is written last, for `last` is known late.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The Arrow IPC stream.
    pub value: Bytes,
}

impl Frame {
    /// The record's headers.
    ///
    /// # Errors
    /// None that depends on the frame.
    pub fn headers(&self) -> Result<Vec<(String, Bytes)>, FormatError> {
        let json = serde_json::to_vec(&self.header).map_err(|e| FormatError::new("a frame's header", e))?;
        Ok(vec![
            (CONTENT_TYPE.to_owned(), Bytes::from_static(ARROW_STREAM.as_bytes())),
            (FRAME_HEADER.to_owned(), Bytes::from(json)),
        ])
    }
}

/// The header of a record, from the bytes of its header [`FRAME_HEADER`].
///
/// # Errors
/// Where they are not the JSON of a [`FrameHeader`].
pub fn decode_header(json: Option<&Bytes>) -> Result<FrameHeader, FormatError> {
    let json = json.ok_or_else(|| FormatError::new("a record", format!("it has no header {FRAME_HEADER:?}")))?;
    serde_json::from_slice(json).map_err(|e| FormatError::new("a frame's header", e))
}

/// Cuts rows of the dataset into frames, with their checksums. The cut depends on nothing but the arguments.
///
/// # Errors
/// A single row that does not fit a frame.
pub fn encode_input(origin: &Origin, rows: &Rows) -> Result<Vec<Frame>, FormatError> {
    encode(origin, rows, PROBE_ROWS)
}

/// Cuts rows with predictions into frames, as few as can be.
///
/// # Errors
/// A single row that does not fit a frame.
pub fn encode_output(origin: &Origin, rows: &Rows) -> Result<Vec<Frame>, FormatError> {
    encode(origin, rows, usize::MAX)
}

fn encode(origin: &Origin, rows: &Rows, first: usize) -> Result<Vec<Frame>, FormatError> {
    let mut frames = Vec::new();
    let (mut from, mut count) = (0, first);
    while from < rows.len() {
        let part = rows.slice(from, count.min(rows.len() - from), MAX_RANGES);
        match encode_part(origin, &part)? {
            Some(frame) => {
                from += part.len();
                let bytes_a_row = (frame.value.len() as f64 / part.len() as f64).max(0.01);
                count = ((MAX_FRAME_BYTES as f64 * FILL / bytes_a_row) as usize).clamp(1, MAX_ROWS);
                frames.push(frame);
            }
            None if part.len() > 1 => count = part.len() / 2,
            None => {
                let columns = part.batch.num_columns();
                let why = format!("with {columns} columns it does not fit a frame of {} KB", MAX_FRAME_BYTES / 1024);
                return Err(FormatError::new(format!("row {}", part.numbers), why));
            }
        }
    }
    Ok(frames)
}

fn encode_part(origin: &Origin, part: &Rows) -> Result<Option<Frame>, FormatError> {
    // A dictionary costs some 300 bytes in each frame: too much where columns are many.
    let is_narrow = part.batch.num_columns() <= MAX_PACKED_COLUMNS;
    let pack = |column: &ArrayRef| if is_narrow { compact::pack(column) } else { ArrayRef::clone(column) };
    let packed: Vec<ArrayRef> = part.batch.columns().iter().map(pack).collect();
    let mut header = origin.header(FrameKind::Rows);
    header.rows = part.numbers.clone();
    header.sum = origin.model.is_none().then(|| super::checksum::of_rows(&part.numbers, &packed));
    let mut fields: Vec<Field> = part
        .batch
        .schema()
        .fields()
        .iter()
        .zip(&packed)
        .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
        .collect();
    let mut columns = packed;
    match &part.lines {
        Lines::None => {}
        Lines::Base(base) => header.line = Some(*base),
        Lines::Listed(lines) => {
            fields.push(Field::new(LINE_COLUMN, DataType::UInt32, true));
            columns.push(Arc::new(lines.clone()));
        }
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(part.len()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .map_err(|e| FormatError::new("a frame", e))?;
    let value = to_stream(&batch)?;
    let most = if origin.model.is_none() { MAX_FRAME_BYTES - PREDICTION_ROOM } else { MAX_FRAME_BYTES };
    Ok((value.len() + header_bytes(&header) <= most).then_some(Frame { header, value }))
}

fn header_bytes(header: &FrameHeader) -> usize {
    // Two numbers of up to 20 digits, dots and a comma a range, and the fixed fields.
    600 + header.run.as_str().len() + header.rows.ranges().len() * 43
}

/// Cuts rejected rows into frames.
///
/// # Errors
/// None that depends on the rows: each is shorter than a frame.
pub fn encode_rejects(origin: &Origin, rejected: &[RejectedRow]) -> Result<Vec<Frame>, FormatError> {
    let mut frames = Vec::new();
    for part in cut_by_size(rejected) {
        let rows = &rejected[part];
        let mut header = origin.header(FrameKind::Rejects);
        rows.iter().for_each(|row| header.rows.push(row.row));
        header.sum = Some(rows.iter().fold(Checksum::default(), |sum, row| sum + row.checksum()));
        frames.push(Frame { header, value: to_stream(&rejects::to_batch(rows)?)? });
    }
    Ok(frames)
}

fn cut_by_size(rejected: &[RejectedRow]) -> Vec<Range<usize>> {
    let (mut cuts, mut start, mut bytes, mut ranges) = (Vec::new(), 0, 0, 0);
    for (i, row) in rejected.iter().enumerate() {
        let is_new_range = i == start || rejected[i - 1].row + 1 != row.row;
        bytes += row.size();
        ranges += usize::from(is_new_range);
        if i > start && (bytes > MAX_FRAME_BYTES * 3 / 4 || ranges > MAX_RANGES) {
            cuts.push(start..i);
            (start, bytes, ranges) = (i, row.size(), 1);
        }
    }
    if start < rejected.len() {
        cuts.push(start..rejected.len());
    }
    cuts
}

fn to_stream(batch: &RecordBatch) -> Result<Bytes, FormatError> {
    let wrong = |e: arrow::error::ArrowError| FormatError::new("a frame", e);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).map_err(wrong)?;
    let mut writer =
        StreamWriter::try_new_with_options(Vec::with_capacity(64 * 1024), &batch.schema(), options).map_err(wrong)?;
    writer.write(batch).map_err(wrong)?;
    writer.into_inner().map(Bytes::from).map_err(wrong)
}

/// The batch of an Arrow IPC stream that holds exactly one.
///
/// # Errors
/// Where the bytes are something else.
pub fn decode_batch(value: Option<&Bytes>) -> Result<RecordBatch, FormatError> {
    let value = value.ok_or_else(|| FormatError::new("a frame", "it has no value"))?;
    let wrong = |e: arrow::error::ArrowError| FormatError::new("a frame's Arrow stream", e);
    let mut reader = StreamReader::try_new(Cursor::new(value.as_ref()), None).map_err(wrong)?;
    match (reader.next(), reader.next()) {
        (Some(batch), None) => batch.map_err(wrong),
        _ => Err(FormatError::new("a frame's Arrow stream", "it does not hold exactly one batch")),
    }
}

/// The rows of a frame of kind [`FrameKind::Rows`].
///
/// # Errors
/// Where the value is no such frame, or has another number of rows than its header.
pub fn decode_rows(header: &FrameHeader, value: Option<&Bytes>) -> Result<Rows, FormatError> {
    let mut batch = decode_batch(value)?;
    if header.rows.len() != batch.num_rows() {
        let why = format!("its header names {} rows, it holds {}", header.rows.len(), batch.num_rows());
        return Err(FormatError::new(format!("a frame of window {}", header.window), why));
    }
    let lines = match (header.line, batch.schema().index_of(LINE_COLUMN)) {
        (Some(base), _) => Lines::Base(base),
        (None, Ok(index)) if batch.column(index).data_type() == &DataType::UInt32 => {
            let lines: UInt32Array = batch.remove_column(index).as_primitive::<UInt32Type>().clone();
            Lines::Listed(lines)
        }
        (None, _) => Lines::None,
    };
    Ok(Rows { batch, numbers: header.rows.clone(), lines })
}
