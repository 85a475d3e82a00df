//! One window's way through a scoring thread: decode, score, encode. A pure function of the window and the model.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;

use super::bind::Binding;
use super::features::{FailedRow, Features};
use super::model::Model;
use super::scorer::{CallGuard, GivenUp, Scored, Scorer};
use crate::record::dead_letter::raw_text;
use crate::record::frame::{self, Origin, decode_batch, decode_rows};
use crate::record::rejects::{self, RejectedRow};
use crate::record::run::{RunRecord, Verdict};
use crate::record::{
    Checksum, DeadLetter, FormatError, Frame, FrameHeader, FrameKind, Receipt, RowCounts, RowRanges, Rows, Stage,
    checksum,
};

/// What a worker knows of a run.
pub struct RunContext {
    /// The run.
    pub record: RunRecord,
    /// Its model.
    pub model: Arc<Model>,
    /// Which columns feed it.
    pub binding: Binding,
}

/// A window as it came from the input topic.
pub struct WindowInput {
    /// Its run.
    pub run: Arc<RunContext>,
    /// The verdict over its run, if there was one: its rows are left alone then.
    pub verdict: Option<Verdict>,
    /// Its number.
    pub window: u64,
    /// The partition.
    pub partition: u32,
    /// The offset of its first frame.
    pub first: u64,
    /// The offset behind its last frame.
    pub next: u64,
    /// Its frames.
    pub frames: Vec<(FrameHeader, Option<Bytes>)>,
}

/// What a window became.
pub struct WindowOutput {
    /// Rows with predictions.
    pub frames: Vec<Frame>,
    /// Rows that failed.
    pub dead: Vec<DeadLetter>,
    /// The receipt.
    pub receipt: Receipt,
}

/// Why a window has no output.
pub enum WindowFault {
    /// It took too long.
    GivenUp,
    /// Its frames are not what they should be.
    Format(FormatError),
}

impl From<FormatError> for WindowFault {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl WindowInput {
    /// Scores the window. `tries` is how many times it was given up before.
    ///
    /// # Errors
    /// [`WindowFault`].
    pub fn score(&self, scorer: &mut Scorer, guard: &dyn CallGuard, tries: u32) -> Result<WindowOutput, WindowFault> {
        let mut work = Work::new(self);
        for (header, value) in &self.frames {
            if self.verdict.is_some() {
                work.skip(header);
                continue;
            }
            match header.kind {
                FrameKind::Rejects => work.reject(header, &rejects::from_batch(&decode_batch(value.as_ref())?)?),
                FrameKind::Rows => work.score(header, &decode_rows(header, value.as_ref())?, scorer, guard)?,
            }
        }
        Ok(work.finish(tries))
    }
}

struct Work<'a> {
    input: &'a WindowInput,
    counts: RowCounts,
    sum_in: Checksum,
    sum_scored: Checksum,
    frames: Vec<Frame>,
    dead: Vec<DeadLetter>,
    tries: u32,
}

impl<'a> Work<'a> {
    fn new(input: &'a WindowInput) -> Self {
        let (sum_in, sum_scored) = (Checksum::default(), Checksum::default());
        Self { input, counts: RowCounts::default(), sum_in, sum_scored, frames: Vec::new(), dead: Vec::new(), tries: 1 }
    }

    fn took(&mut self, header: &FrameHeader) -> u64 {
        let rows = header.rows.len() as u64;
        self.counts.rows += rows;
        self.sum_in += header.sum.unwrap_or_default();
        rows
    }

    fn skip(&mut self, header: &FrameHeader) {
        self.counts.skipped += self.took(header);
    }

    fn reject(&mut self, header: &FrameHeader, rows: &[RejectedRow]) {
        self.counts.dead += self.took(header);
        for row in rows {
            let (raw, raw_hex) = raw_text(&row.raw);
            let is_cut = row.raw.len() == rejects::MAX_RAW_BYTES && row.raw_len > row.raw.len() as u64;
            self.dead.push(DeadLetter {
                run: self.input.run.record.run.clone(),
                file: self.file(header),
                line: row.line,
                row: row.row,
                stage: Stage::Read,
                reason: row.reason.clone(),
                raw,
                raw_hex,
                cut_from: is_cut.then_some(row.raw_len),
            });
        }
    }

    fn file(&self, header: &FrameHeader) -> String {
        let inputs = &self.input.run.record.definition.inputs;
        inputs.get(header.file as usize).map(|file| file.path.clone()).unwrap_or_default()
    }

    fn score(
        &mut self,
        header: &FrameHeader,
        rows: &Rows,
        scorer: &mut Scorer,
        guard: &dyn CallGuard,
    ) -> Result<(), WindowFault> {
        guard.next_frame();
        let run = &self.input.run;
        let unfit = |e: String| FormatError::new(format!("window {}", self.input.window), e);
        let (features, unbound) =
            Features::new(&rows.batch, &run.binding, run.record.definition.missing).map_err(unfit)?;
        let scored = if unbound.is_empty() {
            scorer.score(&features, guard)
        } else {
            score_others(&features, &unbound, scorer, guard)
        };
        let scored = scored.map_err(|GivenUp| WindowFault::GivenUp)?;
        self.tries = self.tries.max(scored.tries);
        let mut failed: Vec<(FailedRow, Stage)> = unbound.into_iter().map(|row| (row, Stage::Bind)).collect();
        failed.extend(scored.failed.iter().cloned().map(|row| (row, Stage::Score)));
        failed.sort_by_key(|(row, _)| row.place);
        self.took(header);
        self.sum_scored += header.sum.unwrap_or_default();
        self.bury(header, rows, &failed);
        self.publish(rows, &scored, &failed)?;
        Ok(())
    }

    /// Makes dead letters of the rows that failed.
    fn bury(&mut self, header: &FrameHeader, rows: &Rows, failed: &[(FailedRow, Stage)]) {
        if failed.is_empty() {
            return;
        }
        let numbers: Vec<u64> = rows.numbers.iter().collect();
        let hashes = checksum::hashes(&rows.numbers, rows.batch.columns());
        for (row, stage) in failed {
            let number = numbers[row.place];
            let (raw, cut_from) = cut(row_json(&rows.batch, row.place));
            self.sum_scored = Checksum(self.sum_scored.0.wrapping_sub(hashes[row.place]));
            self.dead.push(DeadLetter {
                run: self.input.run.record.run.clone(),
                file: self.file(header),
                line: rows.lines.line(row.place, number),
                row: number,
                stage: *stage,
                reason: cut(row.reason.clone()).0,
                raw,
                raw_hex: None,
                cut_from,
            });
        }
        self.counts.dead += failed.len() as u64;
    }

    /// Makes frames of the rows that did not fail.
    fn publish(&mut self, rows: &Rows, scored: &Scored, failed: &[(FailedRow, Stage)]) -> Result<(), FormatError> {
        let alive = rows.len() - failed.len();
        if alive == 0 {
            return Ok(());
        }
        let (columns, numbers) = match failed.is_empty() {
            true => (rows.batch.columns().to_vec(), rows.numbers.clone()),
            false => without(rows, failed)?,
        };
        let mut fields: Vec<Field> = rows.batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut columns = columns;
        let wanted = &self.input.run.record.prediction_schema;
        for field in wanted.fields() {
            let column = scored.columns.iter().find(|(f, _)| f.name() == field.name()).map(|(_, column)| column);
            let column = fitting(column, field, alive)?;
            fields.push(field.as_ref().clone().with_data_type(column.data_type().clone()));
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(alive));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|e| FormatError::new(format!("the output of window {}", self.input.window), e))?;
        let origin = Origin {
            run: self.input.run.record.run.clone(),
            window: self.input.window,
            file: self.input.frames.first().map_or(0, |(header, _)| header.file),
            model: Some(self.input.run.model.digest),
        };
        let rows = Rows { batch, numbers, lines: crate::record::Lines::None };
        self.frames.extend(frame::encode_output(&origin, &rows)?);
        self.counts.scored += alive as u64;
        Ok(())
    }

    fn finish(mut self, given_up: u32) -> WindowOutput {
        if let Some(last) = self.frames.last_mut() {
            last.header.last = true;
        }
        self.dead.sort_by_key(|letter| letter.row);
        let input = self.input;
        let receipt = Receipt {
            v: 1,
            run: input.run.record.run.clone(),
            window: input.window,
            partition: input.partition,
            first: input.first,
            next: input.next,
            file: input.frames.first().map_or(0, |(header, _)| header.file),
            counts: self.counts,
            output_records: u32::try_from(self.frames.len()).unwrap_or(u32::MAX),
            dead_letters: u32::try_from(self.dead.len()).unwrap_or(u32::MAX),
            sum_in: self.sum_in,
            sum_scored: self.sum_scored,
            model: input.run.model.digest,
            tries: self.tries + given_up,
        };
        WindowOutput { frames: self.frames, dead: self.dead, receipt }
    }
}

/// Scores the rows that are not in `unbound`.
fn score_others(
    features: &Features,
    unbound: &[FailedRow],
    scorer: &mut Scorer,
    guard: &dyn CallGuard,
) -> Result<Scored, GivenUp> {
    let mut bad = unbound.iter().map(|row| row.place).peekable();
    let places: Vec<usize> = (0..features.len()).filter(|place| bad.next_if_eq(place).is_none()).collect();
    let mut scored = scorer.score(&features.select(&places), guard)?;
    scored.failed.iter_mut().for_each(|row| row.place = places[row.place]);
    Ok(scored)
}

fn without(rows: &Rows, failed: &[(FailedRow, Stage)]) -> Result<(Vec<ArrayRef>, RowRanges), FormatError> {
    let mut is_alive = vec![true; rows.len()];
    failed.iter().for_each(|(row, _)| is_alive[row.place] = false);
    let mut numbers = RowRanges::default();
    rows.numbers.iter().zip(&is_alive).filter(|(_, alive)| **alive).for_each(|(number, _)| numbers.push(number));
    let mask = BooleanArray::from(is_alive);
    let columns = rows.batch.columns().iter().map(|column| filter(column, &mask));
    let columns =
        columns.collect::<Result<Vec<_>, _>>().map_err(|e| FormatError::new("rows without the failed ones", e))?;
    Ok((columns, numbers))
}

/// A prediction's column with the type that the run's record names, in a dictionary or not.
fn fitting(column: Option<&ArrayRef>, field: &Field, rows: usize) -> Result<ArrayRef, FormatError> {
    let wrong = |why: String| FormatError::new(format!("the model's output {:?}", field.name()), why);
    let column = column.ok_or_else(|| wrong("it is not there".to_owned()))?;
    if column.len() != rows {
        return Err(wrong(format!("it has {} values for {rows} rows", column.len())));
    }
    if crate::record::compact::value_type(column.data_type()) == field.data_type() {
        return Ok(ArrayRef::clone(column));
    }
    arrow::compute::cast(column, field.data_type()).map_err(|e| wrong(e.to_string()))
}

/// The beginning of a text, and the length of the whole where that is longer: a dead letter must fit a record of the
/// log, and one long row must not end the run. The source has the rest.
fn cut(mut text: String) -> (String, Option<u64>) {
    let whole = text.len();
    if whole <= rejects::MAX_RAW_BYTES {
        return (text, None);
    }
    text.truncate(text.floor_char_boundary(rejects::MAX_RAW_BYTES));
    (text, Some(whole as u64))
}

/// A row's cells as a JSON object.
fn row_json(batch: &RecordBatch, row: usize) -> String {
    let mut cells = serde_json::Map::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        cells.insert(field.name().clone(), cell_json(column, row));
    }
    serde_json::Value::Object(cells).to_string()
}

fn cell_json(column: &ArrayRef, row: usize) -> serde_json::Value {
    use serde_json::Value;
    if column.is_null(row) {
        return Value::Null;
    }
    let options = FormatOptions::default();
    let text = match ArrayFormatter::try_new(column, &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(_) => return Value::Null,
    };
    match crate::record::compact::value_type(column.data_type()) {
        DataType::Boolean => Value::Bool(text == "true"),
        data_type if data_type.is_numeric() => text.parse().map_or(Value::String(text), Value::Number),
        _ => Value::String(text),
    }
}
