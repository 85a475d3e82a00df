//! One window's way through the sink: its output records are checked against its receipt and formatted.

use arrow::array::RecordBatch;

use super::csv;
use super::error::{Result, SinkError};
use super::rows::Chunk;
use crate::log::Message;
use crate::record::frame::{FRAME_HEADER, decode_header, decode_rows};
use crate::record::run::{OutputAction, OutputFormat, OutputSpec};
use crate::record::{Checksum, FormatError, Receipt, checksum, compact};

/// A window that is what its receipt says.
pub struct Checked {
    /// Its rows, ready to be written.
    pub chunk: Chunk,
    /// About how many bytes they will take.
    pub bytes: u64,
    /// How many bytes they took on the output topic.
    pub wire_bytes: u64,
}

/// Checks a window's output records against its receipt: the run, the window, the number of rows, and the checksum
/// of the dataset's columns, which are the first `columns`.
///
/// # Errors
/// [`SinkError::Ledger`] where they differ.
pub fn check(
    receipt: &Receipt,
    records: &[Message],
    columns: usize,
    spec: &OutputSpec,
    is_failed: bool,
) -> Result<Checked> {
    let (mut rows, mut sum) = (0, Checksum::default());
    let wire_bytes = records.iter().map(|message| message.record.size() as u64).sum();
    let mut batches = Vec::with_capacity(records.len());
    for message in records {
        let header = decode_header(message.record.header(FRAME_HEADER))?;
        if header.run != receipt.run || header.window != receipt.window {
            return Err(SinkError::Ledger(format!(
                "the output record at {} offset {} is of window {} of run {}, the receipt is of window {}",
                message.source, message.offset, header.window, header.run, receipt.window
            )));
        }
        let frame = decode_rows(&header, message.record.value.as_ref())?;
        let cells = frame.batch.columns();
        rows += frame.len() as u64;
        sum += checksum::of_rows(&header.rows, &cells[..columns.min(cells.len())]);
        batches.push(frame.batch);
    }
    if rows != receipt.counts.scored || sum != receipt.sum_scored {
        return Err(SinkError::Ledger(format!(
            "the output of window {} holds {rows} rows with checksum {sum}, its receipt says {} rows with checksum {}",
            receipt.window, receipt.counts.scored, receipt.sum_scored
        )));
    }
    // A run that has failed publishes no rows.
    if is_failed || spec.action == OutputAction::SummaryOnly {
        return Ok(Checked { chunk: Chunk::Nothing, bytes: rows, wire_bytes });
    }
    match spec.format {
        OutputFormat::Csv => {
            let mut text = Vec::new();
            for batch in &batches {
                csv::write_rows(&mut text, batch, spec.escape_formulas)
                    .map_err(|e| FormatError::new("a row of the output", e))?;
            }
            Ok(Checked { bytes: text.len() as u64, chunk: Chunk::Text(text), wire_bytes })
        }
        OutputFormat::Parquet => {
            let plain = batches.iter().map(unpacked).collect::<Result<Vec<_>>>()?;
            let bytes = plain.iter().map(|b| b.get_array_memory_size() as u64).sum();
            Ok(Checked { chunk: Chunk::Batches(plain), bytes, wire_bytes })
        }
    }
}

fn unpacked(batch: &RecordBatch) -> Result<RecordBatch> {
    let wrong = |e| FormatError::new("a frame of the output", e);
    let columns = batch.columns().iter().map(compact::unpack).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let schema = batch.schema();
    let fields = schema.fields().iter().zip(&columns);
    let fields: Vec<_> = fields.map(|(f, c)| f.as_ref().clone().with_data_type(c.data_type().clone())).collect();
    Ok(RecordBatch::try_new(std::sync::Arc::new(arrow::datatypes::Schema::new(fields)), columns).map_err(wrong)?)
}
