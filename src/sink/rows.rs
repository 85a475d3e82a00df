//! Where rows are written: one CSV file, Parquet row groups that become one file, a folder of parts, or nowhere.
//!
//! All are staged. What is staged at a checkpoint is synced, and a crash goes back to the last checkpoint; so the
//! final files are the same bytes however often the sink was killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};

use super::csv;
use super::error::{Result, io_error};
use super::staging::{StagedFile, digest_of};
use crate::record::run::{OutputAction, OutputFormat, OutputSpec, PublishedFile, RunRecord};

/// One window's rows, ready to be written.
pub enum Chunk {
    /// CSV lines.
    Text(Vec<u8>),
    /// Arrow batches without dictionaries.
    Batches(Vec<RecordBatch>),
    /// Checked, and not written.
    Nothing,
}

/// A staged file that is whole, or the one that grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedPart {
    /// Its name in the staging folder.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its length in bytes when it was synced.
    pub bytes: u64,
}

/// What was staged up to a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedRows {
    /// Files that are whole.
    pub done: Vec<StagedPart>,
    /// The CSV file that grows, in [`OutputAction::AppendRow`].
    pub open: Option<StagedPart>,
}

/// Writes rows in the order in which they come.
pub struct RowWriter {
    folder: PathBuf,
    spec: OutputSpec,
    schema: SchemaRef,
    staged: StagedRows,
    csv: Option<StagedFile>,
    /// The part or row group that grows.
    part: Option<Part>,
}

struct Part {
    path: PathBuf,
    rows: u64,
    wire_bytes: u64,
    first_window: u64,
    next_window: u64,
    file: PartFile,
}

enum PartFile {
    Csv(Box<StagedFile>),
    Parquet(Box<ArrowWriter<File>>),
}

/// The name of the staged file of [`OutputAction::AppendRow`].
const WHOLE: &str = "rows";
const OPEN_PART: &str = "part.open";
/// A part or row group ends at the latest when its rows took so much on the log, which must keep them until then:
/// less than what ingest may be ahead by with the smallest quota, or each would wait for the other.
const PART_WIRE_BYTES: u64 = 12 << 20;

impl RowWriter {
    /// Goes on where `staged` was synced.
    ///
    /// # Errors
    /// Staged files that are gone or too short.
    pub fn open(folder: &Path, run: &RunRecord, staged: StagedRows) -> Result<Self> {
        let spec = run.definition.output.clone();
        let is_csv_file = spec.action == OutputAction::AppendRow && spec.format == OutputFormat::Csv;
        let schema: SchemaRef = Arc::new(run.output_schema());
        let mut writer = Self { folder: folder.to_owned(), csv: None, part: None, spec, schema, staged };
        if is_csv_file {
            let open = writer
                .staged
                .open
                .get_or_insert_with(|| StagedPart { name: WHOLE.to_owned(), ..StagedPart::default() });
            let mut file = StagedFile::open(&folder.join(&open.name), open.bytes)?;
            if file.length() == 0 {
                file.append(&csv::header(&writer.schema))?;
            }
            writer.csv = Some(file);
        }
        Ok(writer)
    }

    /// Adds a window's rows, which took `wire_bytes` on the output topic.
    ///
    /// # Errors
    /// [`super::SinkError::Full`] and the like.
    pub fn write(&mut self, window: u64, rows: u64, wire_bytes: u64, chunk: &Chunk) -> Result<()> {
        match (&mut self.csv, chunk) {
            (_, Chunk::Nothing) => Ok(()),
            (Some(file), Chunk::Text(text)) => {
                file.append(text)?;
                if let Some(open) = &mut self.staged.open {
                    open.rows += rows;
                }
                Ok(())
            }
            (_, chunk) => self.write_part(window, rows, wire_bytes, chunk),
        }
    }

    fn write_part(&mut self, window: u64, rows: u64, wire_bytes: u64, chunk: &Chunk) -> Result<()> {
        let part = match &mut self.part {
            Some(part) => part,
            empty => empty.insert(Part::create(&self.folder, &self.spec, &self.schema, window)?),
        };
        part.write(chunk)?;
        part.rows += rows;
        part.wire_bytes += wire_bytes;
        part.next_window = window + 1;
        let most = match self.spec.action {
            OutputAction::Parts => self.spec.part_rows,
            _ => self.spec.row_group_rows,
        };
        if part.rows >= most || part.wire_bytes >= PART_WIRE_BYTES { self.close_part() } else { Ok(()) }
    }

    /// Whether a crash now would go back no further than the last window: nothing is open that is not a text file.
    pub fn is_at_boundary(&self) -> bool {
        self.part.is_none()
    }

    /// Makes all that was written durable and says what it is.
    ///
    /// # Errors
    /// What the system says.
    pub fn checkpoint(&mut self) -> Result<StagedRows> {
        if let (Some(file), Some(open)) = (&mut self.csv, &mut self.staged.open) {
            file.sync()?;
            open.bytes = file.length();
        }
        Ok(self.staged.clone())
    }

    /// Ends the part that is open.
    fn close_part(&mut self) -> Result<()> {
        if let Some(part) = self.part.take() {
            self.staged.done.push(part.finish(&self.folder)?);
        }
        Ok(())
    }

    /// The final files, staged and synced: where each lies, and what it will be called.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(&mut self) -> Result<Vec<(PathBuf, PublishedFile)>> {
        self.close_part()?;
        match (self.spec.action, self.csv.take()) {
            (OutputAction::SummaryOnly, _) => Ok(Vec::new()),
            (_, Some(mut file)) => {
                file.sync()?;
                let rows = self.staged.open.as_ref().map_or(0, |open| open.rows);
                let published =
                    PublishedFile { path: self.spec.path.clone(), rows, bytes: file.length(), sha256: file.digest() };
                Ok(vec![(file.path().to_owned(), published)])
            }
            (OutputAction::AppendRow, None) => {
                let path = self.folder.join(WHOLE);
                let rows = splice(&path, &self.folder, &self.schema, &self.staged.done)?;
                Ok(vec![whole_file(&path, self.spec.path.clone(), rows)?])
            }
            (OutputAction::Parts, None) => {
                let folder = Path::new(&self.spec.path);
                let done = self.staged.done.iter();
                done.map(|part| {
                    let name = folder.join(&part.name).to_string_lossy().into_owned();
                    whole_file(&self.folder.join(&part.name), name, part.rows)
                })
                .collect()
            }
        }
    }
}

/// Removes the parts of an earlier run that is replaced: beside those of this one they would be rows twice. Files that
/// are not called as parts are stay.
///
/// # Errors
/// What the system says.
pub fn remove_other_parts(folder: &Path, parts: &[PublishedFile]) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(io_error("read", folder))? {
        let path = entry.map_err(io_error("read", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_part = name.starts_with("part-") && [".csv", ".parquet"].iter().any(|end| name.ends_with(end));
        if is_part && !parts.iter().any(|part| Path::new(&part.path) == path) {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// A staged file as it will be published.
fn whole_file(staged: &Path, path: String, rows: u64) -> Result<(PathBuf, PublishedFile)> {
    let bytes = std::fs::metadata(staged).map_err(io_error("look at", staged))?.len();
    Ok((staged.to_owned(), PublishedFile { path, rows, bytes, sha256: digest_of(staged)? }))
}

impl Part {
    fn create(folder: &Path, spec: &OutputSpec, schema: &SchemaRef, window: u64) -> Result<Self> {
        let path = folder.join(OPEN_PART);
        if path.exists() {
            // A crash left it; its windows come again.
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        let file = match spec.format {
            OutputFormat::Csv => {
                let mut file = StagedFile::open(&path, 0)?;
                file.append(&csv::header(schema))?;
                PartFile::Csv(Box::new(file))
            }
            OutputFormat::Parquet => {
                let file = File::create(&path).map_err(io_error("write", &path))?;
                PartFile::Parquet(Box::new(ArrowWriter::try_new(file, Arc::clone(schema), Some(properties(spec)))?))
            }
        };
        Ok(Self { path, rows: 0, wire_bytes: 0, first_window: window, next_window: window, file })
    }

    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        match (&mut self.file, chunk) {
            (PartFile::Csv(file), Chunk::Text(text)) => file.append(text),
            (PartFile::Parquet(writer), Chunk::Batches(batches)) => {
                batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|e| storage_error(e, &self.path))
            }
            // Chunks are made for the format that parts are in.
            _ => Ok(()),
        }
    }

    /// Syncs the part and names it after its windows, so that the parts' names have the input's order.
    fn finish(self, folder: &Path) -> Result<StagedPart> {
        let extension = match self.file {
            PartFile::Csv(mut file) => {
                file.sync()?;
                "csv"
            }
            PartFile::Parquet(writer) => {
                let file = writer.into_inner().map_err(|e| storage_error(e, &self.path))?;
                file.sync_data().map_err(io_error("sync", &self.path))?;
                "parquet"
            }
        };
        let name = format!("part-{:010}-{:010}.{extension}", self.first_window, self.next_window);
        let path = folder.join(&name);
        std::fs::rename(&self.path, &path).map_err(io_error("write", &path))?;
        let bytes = std::fs::metadata(&path).map_err(io_error("look at", &path))?.len();
        Ok(StagedPart { name, rows: self.rows, bytes })
    }
}

fn properties(spec: &OutputSpec) -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    // A group ends where we say, after whole windows.
    let rows = usize::try_from(spec.row_group_rows.saturating_mul(4)).unwrap_or(usize::MAX);
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(rows.max(1)))
        .set_created_by(format!("scoreline {}", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Writing Parquet wraps the system's errors; a full disk must still be told as one.
fn storage_error(error: parquet::errors::ParquetError, path: &Path) -> super::SinkError {
    match error {
        parquet::errors::ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(source) => io_error("write", path)(*source),
            Err(inner) => parquet::errors::ParquetError::External(inner).into(),
        },
        other => other.into(),
    }
}

/// Joins staged files of one row group each into one file, without decoding them. Answers its rows.
fn splice(path: &Path, folder: &Path, schema: &Schema, groups: &[StagedPart]) -> Result<u64> {
    let file = File::create(path).map_err(io_error("write", path))?;
    // The schema, and the Arrow schema beside it, are what an empty file of the same columns has.
    let spec_properties: WriterPropertiesPtr = Arc::new(properties_of_whole());
    let empty =
        ArrowWriter::try_new(Vec::new(), Arc::new(schema.clone()), Some(properties_of_whole()))?.into_inner()?;
    let empty = bytes::Bytes::from(empty);
    let metadata = ArrowReaderMetadata::load(&empty, ArrowReaderOptions::default())?;
    let root = metadata.metadata().file_metadata().schema_descr().root_schema_ptr();
    let mut writer = SerializedFileWriter::new(file, root, spec_properties)?;
    for pair in metadata.metadata().file_metadata().key_value_metadata().into_iter().flatten() {
        writer.append_key_value_metadata(pair.clone());
    }
    let mut rows = 0;
    for group in groups {
        rows += splice_one(&mut writer, &folder.join(&group.name))?;
    }
    writer.finish().map_err(|e| storage_error(e, path))?;
    writer.inner().sync_data().map_err(io_error("sync", path))?;
    Ok(rows)
}

fn properties_of_whole() -> WriterProperties {
    WriterProperties::builder().set_created_by(format!("scoreline {}", env!("CARGO_PKG_VERSION"))).build()
}

fn splice_one(writer: &mut SerializedFileWriter<File>, path: &Path) -> Result<u64> {
    let source = File::open(path).map_err(io_error("read", path))?;
    let metadata = ArrowReaderMetadata::load(&source, ArrowReaderOptions::default())?;
    let mut rows = 0;
    for group in metadata.metadata().row_groups() {
        let mut target = writer.next_row_group()?;
        for column in group.columns() {
            let close = ColumnCloseResult {
                bytes_written: column.compressed_size().max(0).cast_unsigned(),
                rows_written: group.num_rows().max(0).cast_unsigned(),
                metadata: column.clone(),
                bloom_filter: None,
                column_index: None,
                offset_index: None,
            };
            target.append_column(&source, close).map_err(|e| storage_error(e, path))?;
        }
        target.close()?;
        rows += group.num_rows().max(0).cast_unsigned();
    }
    Ok(rows)
}
