//! Parquet and Arrow IPC: rows that are columns already.
//!
//! Their readers can panic on damaged files; here that is an error that names the file.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchReader};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::dataset::{Format, differing_columns};
use super::error::{IngestError, Result};
use super::text::split::MAX_WINDOW_BYTES;
use crate::record::MiniBatchSize;
use crate::record::run::InputFile;

const PARQUET_MAGIC: &[u8] = b"PAR1";
const ARROW_MAGIC: &[u8] = b"ARROW1";
/// A row of the input may take at most this much, so that a claim in a file cannot exhaust memory.
const MAX_BATCH_ROWS: u64 = 1 << 16;

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
        let schema = plain_schema(&open(path, format, 1, 0)?.schema());
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

/// Batches of one file, from a row on.
pub struct Batches {
    reader: Box<dyn RecordBatchReader + Send>,
    path: std::path::PathBuf,
    schema: SchemaRef,
    pending: Option<RecordBatch>,
    rows_a_window: usize,
}

impl Batches {
    /// Opens a file at row `from`, to be read in windows of `size`.
    ///
    /// # Errors
    /// Where the file cannot be opened or is damaged.
    pub fn open(path: &Path, format: Format, size: MiniBatchSize, schema: SchemaRef, from: u64) -> Result<Self> {
        let rows_a_window = match size {
            MiniBatchSize::Rows(rows) => rows.min(MAX_BATCH_ROWS),
            MiniBatchSize::Bytes(bytes) => {
                (bytes.0.min(MAX_WINDOW_BYTES as u64) / bytes_a_row(path, format)?).clamp(1, MAX_BATCH_ROWS)
            }
        };
        let rows_a_window = usize::try_from(rows_a_window).unwrap_or(1);
        let reader = open(path, format, rows_a_window, from)?;
        Ok(Self { reader, path: path.to_owned(), schema, pending: None, rows_a_window })
    }

    /// The next window's rows, or `None` at the end.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn next_window(&mut self) -> Result<Option<RecordBatch>> {
        let batch = match self.pending.take() {
            Some(batch) => batch,
            None => match guarded(&self.path, || self.reader.next().transpose())? {
                None => return Ok(None),
                Some(batch) => plain_batch(&self.path, &batch, &self.schema)?,
            },
        };
        if batch.num_rows() <= self.rows_a_window {
            return if batch.num_rows() == 0 { self.next_window() } else { Ok(Some(batch)) };
        }
        let rest = batch.num_rows() - self.rows_a_window;
        self.pending = Some(batch.slice(self.rows_a_window, rest));
        Ok(Some(batch.slice(0, self.rows_a_window)))
    }
}

fn plain_batch(path: &Path, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let same_width = batch.num_columns() == schema.fields().len();
    let columns: Result<Vec<ArrayRef>, ArrowError> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => arrow::compute::cast(column, field.data_type()),
        })
        .collect();
    let columns = columns.map_err(|e| IngestError::file(path, e))?;
    if !same_width {
        return Err(IngestError::file(path, "a batch has other columns than the file's schema"));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| IngestError::file(path, e))
}

/// About how many bytes a row takes in memory, so that a window of so many bytes has so many rows; a pure
/// function of the file.
fn bytes_a_row(path: &Path, format: Format) -> Result<u64> {
    match format {
        Format::Parquet => {
            let builder = parquet_builder(path)?;
            let metadata = builder.metadata();
            let bytes: u64 = metadata.row_groups().iter().map(|g| g.total_byte_size().max(0).cast_unsigned()).sum();
            let rows = metadata.file_metadata().num_rows().max(1).cast_unsigned();
            Ok(bytes.div_ceil(rows).max(8 * builder.schema().fields().len() as u64))
        }
        _ => {
            let first = guarded(path, || open_arrow(path, 0)?.next().transpose())?;
            let first = first.filter(|batch| batch.num_rows() > 0);
            Ok(first.map_or(8, |b| b.get_array_memory_size().div_ceil(b.num_rows()) as u64).max(1))
        }
    }
}

/// About how many rows a file has, for the progress bar; 0 where that is not known.
///
/// # Errors
/// Where the file is damaged.
pub fn rows(path: &Path, format: Format) -> Result<u64> {
    match format {
        Format::Parquet => Ok(parquet_builder(path)?.metadata().file_metadata().num_rows().max(0).cast_unsigned()),
        _ => Ok(0),
    }
}

fn parquet_builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = open_file(path, PARQUET_MAGIC, "Parquet")?;
    guarded(path, || ParquetRecordBatchReaderBuilder::try_new(file).map_err(ArrowError::from))
}

fn open(path: &Path, format: Format, batch_rows: usize, from: u64) -> Result<Box<dyn RecordBatchReader + Send>> {
    if format != Format::Parquet {
        return guarded(path, || open_arrow(path, from));
    }
    let offset = usize::try_from(from).unwrap_or(usize::MAX);
    let builder = parquet_builder(path)?.with_batch_size(batch_rows).with_offset(offset);
    guarded(path, || Ok(Box::new(builder.build().map_err(ArrowError::from)?) as Box<dyn RecordBatchReader + Send>))
}

fn open_file(path: &Path, magic: &[u8], format: &str) -> Result<File> {
    let wrong = |e| IngestError::read(path, e);
    let mut file = File::open(path).map_err(wrong)?;
    let mut first = vec![0; magic.len()];
    if file.read_exact(&mut first).is_err() || first != magic {
        return Err(IngestError::file(path, format!("it is not a {format} file")));
    }
    file.rewind().map_err(wrong)?;
    Ok(file)
}

fn open_arrow(path: &Path, from: u64) -> Result<Box<dyn RecordBatchReader + Send>, ArrowError> {
    let is_file = open_file(path, ARROW_MAGIC, "Arrow").is_ok();
    let input = BufReader::new(File::open(path)?);
    let mut reader: Box<dyn RecordBatchReader + Send> = if is_file {
        Box::new(FileReader::try_new(input, None)?)
    } else {
        Box::new(StreamReader::try_new(input, None)?)
    };
    if from == 0 {
        return Ok(reader);
    }
    let mut left = usize::try_from(from).unwrap_or(usize::MAX);
    let schema = reader.schema();
    for batch in reader.by_ref() {
        let batch = batch?;
        if batch.num_rows() > left {
            let rest = batch.slice(left, batch.num_rows() - left);
            return Ok(Box::new(Chained { first: Some(rest), rest: reader, schema }));
        }
        left -= batch.num_rows();
        if left == 0 {
            break;
        }
    }
    Ok(reader)
}

/// The rest of a batch, then the batches behind it.
struct Chained {
    first: Option<RecordBatch>,
    rest: Box<dyn RecordBatchReader + Send>,
    schema: SchemaRef,
}

impl Iterator for Chained {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.first.take().map(Ok).or_else(|| self.rest.next())
    }
}

impl RecordBatchReader for Chained {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
