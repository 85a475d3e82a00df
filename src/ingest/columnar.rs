//! Parquet and Arrow IPC: rows that are columns already.
//!
//! Their readers can panic on damaged files; here that is an error that names the file.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchReader};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::dataset::{Format, differing_columns};
use super::error::{IngestError, Result};
use super::source::{Counted, ReadCount};
use super::text::split::MAX_WINDOW_BYTES;
use crate::record::MiniBatchSize;
use crate::record::run::InputFile;

const PARQUET_MAGIC: &[u8] = b"PAR1";
const ARROW_MAGIC: &[u8] = b"ARROW1";
const STREAM_MAGIC: &[u8] = &[0xff; 4];
/// A window holds at most this many rows, so that a claim in a file cannot exhaust memory.
const MAX_WINDOW_ROWS: u64 = 1 << 16;

/// Runs code of a reader; a panic becomes an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(ArrowError::IoError(_, error))) => Err(IngestError::read(path, error)),
        Ok(Err(error)) => Err(IngestError::damaged(path, error)),
        Err(_) => Err(IngestError::damaged(path, "its reader gave up")),
    }
}

/// The columns of a file as frames hold them: dictionaries and views of text as plain text.
fn plain_schema(schema: &Schema) -> Schema {
    let plain = |data_type: &DataType| match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let data_type = match plain(field.data_type()) {
                DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
                other => other,
            };
            Field::new(field.name(), data_type, true)
        })
        .collect();
    Schema::new(fields)
}

/// The columns that all files have.
///
/// # Errors
/// Files that are damaged or have other columns than the first.
pub fn common_schema(files: &[InputFile], format: Format) -> Result<Schema> {
    let mut common: Option<Schema> = None;
    for file in files {
        let path = Path::new(&file.path);
        let schema = match format {
            Format::Parquet => plain_schema(parquet_builder(path)?.schema()),
            _ => plain_schema(&open_arrow(path)?.0.schema()),
        };
        match &common {
            None => common = Some(schema),
            Some(first) if *first == schema => {}
            Some(first) => {
                let described = |s: &Schema| {
                    s.fields().iter().map(|f| format!("{} ({})", f.name(), f.data_type())).collect::<Vec<_>>()
                };
                return Err(IngestError::file(path, differing_columns(&described(first), &described(&schema))));
            }
        }
    }
    common.ok_or_else(|| IngestError::NoInput("no file was named".to_owned()))
}

/// Windows of one file, from a row on.
pub struct Batches {
    reader: Box<dyn RecordBatchReader + Send>,
    path: PathBuf,
    schema: SchemaRef,
    /// Rows that were read and belong to the next window.
    pending: Option<RecordBatch>,
    rows_a_window: usize,
    progress: Progress,
}

/// How much of a file was read, for the progress bar.
enum Progress {
    /// So many rows of all rows, which take so many bytes.
    Rows { read: u64, all: u64, bytes: u64 },
    /// As counted.
    Bytes(ReadCount),
}

impl Batches {
    /// Opens a file at row `from`, to be read in windows of `size`.
    ///
    /// # Errors
    /// Where the file cannot be opened or is damaged.
    pub fn open(path: &Path, format: Format, size: MiniBatchSize, schema: SchemaRef, from: u64) -> Result<Self> {
        match format {
            Format::Parquet => Self::open_parquet(path, size, schema, from),
            _ => Self::open_arrow(path, size, schema, from),
        }
    }

    fn open_parquet(path: &Path, size: MiniBatchSize, schema: SchemaRef, from: u64) -> Result<Self> {
        let builder = parquet_builder(path)?;
        let groups = builder.metadata().row_groups();
        let bytes: u64 =
            groups.iter().map(|group| group.total_byte_size().max(0).cast_unsigned()).fold(0, u64::saturating_add);
        let rows = builder.metadata().file_metadata().num_rows().max(0).cast_unsigned();
        let bytes_a_row = bytes.div_ceil(rows.max(1)).max(8 * builder.schema().fields().len() as u64);
        let rows_a_window = rows_a_window(size, bytes_a_row);
        let on_disk = std::fs::metadata(path).map_err(|e| IngestError::read(path, e))?.len();
        let progress = Progress::Rows { read: from, all: rows, bytes: on_disk };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let builder = builder.with_batch_size(rows_a_window).with_offset(from);
        let reader = Box::new(guarded(path, || builder.build().map_err(ArrowError::from))?);
        Ok(Self { reader, path: path.to_owned(), schema, pending: None, rows_a_window, progress })
    }

    fn open_arrow(path: &Path, size: MiniBatchSize, schema: SchemaRef, from: u64) -> Result<Self> {
        let (reader, read) = open_arrow(path)?;
        let (path, progress) = (path.to_owned(), Progress::Bytes(read));
        let mut batches = Self { reader, path, schema, pending: None, rows_a_window: 1, progress };
        let first = batches.next_batch()?;
        batches.rows_a_window = rows_a_window(size, first.as_ref().map_or(1, bytes_a_row));
        batches.pending = first;
        batches.skip(from)?;
        Ok(batches)
    }

    fn skip(&mut self, rows: u64) -> Result<()> {
        let mut left = usize::try_from(rows).unwrap_or(usize::MAX);
        while left > 0
            && let Some(batch) = self.next_batch()?
        {
            let skipped = left.min(batch.num_rows());
            left -= skipped;
            self.pending = Some(batch.slice(skipped, batch.num_rows() - skipped));
        }
        Ok(())
    }

    /// The next window's rows, or `None` at the end.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn next_window(&mut self) -> Result<Option<RecordBatch>> {
        let (mut parts, mut left) = (Vec::new(), self.rows_a_window);
        while left > 0
            && let Some(batch) = self.next_batch()?
        {
            let taken = left.min(batch.num_rows());
            if taken < batch.num_rows() {
                self.pending = Some(batch.slice(taken, batch.num_rows() - taken));
            }
            left -= taken;
            parts.push(batch.slice(0, taken));
        }
        if let Progress::Rows { read, .. } = &mut self.progress {
            *read += (self.rows_a_window - left) as u64;
        }
        match parts.len() {
            0 => Ok(None),
            1 => Ok(parts.pop()),
            _ => concat_batches(&self.schema, &parts).map(Some).map_err(|e| IngestError::file(&self.path, e)),
        }
    }

    /// The next rows, as many as the file happens to hold together.
    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let Self { reader, path, schema, pending, .. } = self;
        loop {
            let batch = match pending.take() {
                Some(batch) => Some(batch),
                None => guarded(path, || reader.next().transpose()?.map(|b| plain_batch(&b, schema)).transpose())?,
            };
            match batch {
                Some(batch) if batch.num_rows() == 0 => {}
                other => return Ok(other),
            }
        }
    }

    /// How many bytes of the file were read, about.
    pub fn bytes_read(&self) -> u64 {
        match &self.progress {
            Progress::Rows { read, all, bytes } => {
                let share = *read as f64 / (*all).max(1) as f64;
                (*bytes as f64 * share.min(1.0)) as u64
            }
            Progress::Bytes(read) => read.bytes(),
        }
    }
}

/// A pure function of the file, so that a run that resumes in its middle cuts it as the first attempt did.
fn rows_a_window(size: MiniBatchSize, bytes_a_row: u64) -> usize {
    let (rows, bytes) = match size {
        MiniBatchSize::Rows(rows) => (rows, MAX_WINDOW_BYTES as u64),
        MiniBatchSize::Bytes(bytes) => (MAX_WINDOW_ROWS, bytes.0.min(MAX_WINDOW_BYTES as u64)),
    };
    let most = (bytes / bytes_a_row.max(1)).clamp(1, MAX_WINDOW_ROWS);
    usize::try_from(rows.min(most)).unwrap_or(1)
}

/// About how many bytes a row takes in memory.
fn bytes_a_row(batch: &RecordBatch) -> u64 {
    // A column whose size is not known counts as numbers.
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(8 * column.len());
    let bytes: usize = batch.columns().iter().map(bytes).sum();
    bytes.div_ceil(batch.num_rows().max(1)) as u64
}

/// The batch with the dataset's columns.
fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError("a batch has other columns than the file's schema".to_owned()));
    }
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => arrow::compute::cast(column, field.data_type()),
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

fn parquet_builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let mut file = File::open(path).map_err(|e| IngestError::read(path, e))?;
    if !starts_with(path, &mut file, PARQUET_MAGIC)? {
        return Err(IngestError::file(path, "it is not a Parquet file"));
    }
    guarded(path, || ParquetRecordBatchReaderBuilder::try_new(file).map_err(ArrowError::from))
}

fn starts_with(path: &Path, file: &mut File, magic: &[u8]) -> Result<bool> {
    let mut first = Vec::new();
    let read = file.take(magic.len() as u64).read_to_end(&mut first);
    read.and_then(|_| file.rewind()).map_err(|e| IngestError::read(path, e))?;
    Ok(first == magic)
}

/// A reader of an Arrow file or stream, and a handle to the number of bytes it read.
fn open_arrow(path: &Path) -> Result<(Box<dyn RecordBatchReader + Send>, ReadCount)> {
    let mut file = File::open(path).map_err(|e| IngestError::read(path, e))?;
    let is_file = starts_with(path, &mut file, ARROW_MAGIC)?;
    if !is_file && !starts_with(path, &mut file, STREAM_MAGIC)? {
        return Err(IngestError::file(path, "it is neither an Arrow file nor an Arrow stream"));
    }
    let (file, read) = Counted::new(file);
    let input = BufReader::new(file);
    let reader = guarded(path, || {
        let reader: Box<dyn RecordBatchReader + Send> = match is_file {
            true => Box::new(FileReader::try_new(input, None)?),
            false => Box::new(StreamReader::try_new(input, None)?),
        };
        Ok(reader)
    })?;
    Ok((reader, read))
}
