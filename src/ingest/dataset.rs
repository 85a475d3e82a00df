//! Datasets: which files, in which format, with which columns.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::columnar;
use super::columns::ColumnType;
use super::error::{IngestError, Result};
use super::infer::{self, Wanted};
use super::source::STDIN;
use super::text::csv::CsvLayout;
use crate::record::frame::{Origin, encode_input};
use crate::record::run::{InputFile, written_whole};
use crate::record::{Lines, RowRanges, Rows, RunId};

/// A file's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Delimited text.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, as a file or as a stream.
    Arrow,
}

impl Format {
    /// The format that a file's name tells, compression aside.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "csv" | "tsv" | "tab" | "txt" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Self::Arrow),
            _ => None,
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Ok(Self::Csv),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            "arrow" | "ipc" => Ok(Self::Arrow),
            _ => Err(format!("{text:?} is not a format; there are csv, jsonl, parquet and arrow")),
        }
    }
}

/// How a dataset's files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetOptions {
    /// The format; `None`: by each file's name.
    pub format: Option<Format>,
    /// The byte between two fields; `None`: a tab for `.tsv` and `.tab`, else a comma.
    pub delimiter: Option<u8>,
    /// The byte around fields.
    pub quote: Option<u8>,
    /// Whether the first row of each CSV file names the columns.
    pub header: bool,
    /// Names of the columns, in order, where there is no header.
    pub column_names: Vec<String>,
    /// Types of columns, by name, before any inference.
    pub column_types: Vec<(String, ColumnType)>,
    /// Cells of columns other than text that mean a missing value, besides the empty one.
    pub null_values: Vec<String>,
}

/// A dataset whose files were found and whose columns are known.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The files, in order.
    pub files: Vec<InputFile>,
    /// Each file's format.
    pub format: Format,
    /// The columns.
    pub schema: SchemaRef,
    /// How the files are read.
    pub options: DatasetOptions,
}

/// Finds the files of `inputs`: each a file, a folder, a glob, or `-`.
///
/// # Errors
/// Names each input under which nothing is, and folders that hold nothing of a known format.
pub fn find(inputs: &[String]) -> Result<Vec<InputFile>> {
    let mut files = Vec::new();
    for input in inputs {
        if input == STDIN {
            files.push(InputFile { path: STDIN.to_owned(), bytes: 0, modified_ns: 0 });
            continue;
        }
        let path = Path::new(input);
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => files.extend(in_folder(path)?),
            Ok(_) => files.push(stat(path)?),
            Err(error) if !is_glob(input) => return Err(IngestError::read(path, error)),
            Err(_) => files.extend(in_glob(input)?),
        }
    }
    if files.iter().filter(|f| f.path == STDIN).count() > usize::from(files.len() == 1) {
        return Err(IngestError::Option("standard input (-) must be the only input".to_owned()));
    }
    let mut seen = HashSet::new();
    match files.iter().find(|file| !seen.insert(file.path.as_str())) {
        Some(twice) => Err(IngestError::file(&twice.path, "it is named twice; its rows would be scored twice")),
        None => Ok(files),
    }
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn in_folder(folder: &Path) -> Result<Vec<InputFile>> {
    let entries = std::fs::read_dir(folder).map_err(|e| IngestError::read(folder, e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| IngestError::read(folder, e))?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"_"));
        // A link that leads nowhere is kept here: leaving it out would lose rows in silence.
        if !path.is_dir() && !is_hidden && Format::of_path(&path).is_some() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let why = "the folder holds no .csv, .tsv, .jsonl, .parquet or .arrow file (nor one of them with .gz or .zst)";
        return Err(IngestError::file(folder, why));
    }
    paths.sort();
    paths.iter().map(|path| stat(path)).collect()
}

fn in_glob(pattern: &str) -> Result<Vec<InputFile>> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|e| IngestError::Option(format!("{pattern:?} is not a pattern: {e}")))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| IngestError::read(e.path().to_owned(), e.into()))?;
        if !path.is_dir() {
            files.push(stat(&path)?);
        }
    }
    if files.is_empty() {
        return Err(IngestError::NoInput(format!("no file matches {pattern:?}")));
    }
    Ok(files)
}

/// The file as it is now.
///
/// # Errors
/// Where it cannot be looked at, is a pipe or a device, or its path is not text.
pub fn stat(path: &Path) -> Result<InputFile> {
    let metadata = std::fs::metadata(path).map_err(|e| IngestError::read(path, e))?;
    if !metadata.is_file() && !metadata.is_dir() {
        // It is looked at before it is read, which a pipe allows but once.
        return Err(IngestError::file(path, "it is not a file; pipe it into standard input and name that as -"));
    }
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let text = path.to_str().ok_or_else(|| IngestError::file(path, "the path is not UTF-8 text"))?;
    Ok(InputFile {
        path: text.to_owned(),
        bytes: metadata.len(),
        modified_ns: modified.map_or(0, |since| since.as_nanos().cast_signed()),
    })
}

impl Dataset {
    /// Opens the dataset: settles format and columns by looking at the first rows.
    ///
    /// `wanted` says what the model makes of columns, by name, so that a number column with a bad value
    /// among its first rows is still one.
    ///
    /// # Errors
    /// Options that contradict each other, files of several formats, unreadable or empty files, files with
    /// other columns than the first, columns of which no row fits a frame.
    pub fn open(inputs: &[String], options: DatasetOptions, wanted: &dyn Fn(&str) -> Wanted) -> Result<Self> {
        options.check()?;
        let files = find(inputs)?;
        let first = files.first().ok_or_else(|| IngestError::NoInput("no file was named".to_owned()))?;
        let format = options.format_of(&first.path)?;
        for file in &files {
            if options.format_of(&file.path)? != format {
                let why =
                    format!("it is not of the same format as {}; score files of one format at a time", first.path);
                return Err(IngestError::file(&file.path, why));
            }
        }
        if first.path == STDIN && matches!(format, Format::Parquet | Format::Arrow) {
            let why = "standard input is read as CSV or JSON lines only; save it as a file and name that";
            return Err(IngestError::Option(why.to_owned()));
        }
        let schema = match format {
            Format::Csv | Format::Jsonl => infer::text_schema(&files, format, &options, wanted)?,
            Format::Parquet | Format::Arrow => columnar::common_schema(&files, format)?,
        };
        let schema = SchemaRef::from(schema);
        check_schema(&schema).map_err(|why| IngestError::file(&first.path, why))?;
        Ok(Self { files, format, schema, options })
    }

    /// How the fields of one CSV file become the dataset's columns.
    ///
    /// # Errors
    /// Where the file has other columns than the dataset.
    pub fn csv_layout(&self, path: &Path, header: Option<&[String]>) -> Result<CsvLayout> {
        let width = self.schema.fields().len();
        let fields = match header {
            None => (0..width).collect(),
            Some(names) => names
                .iter()
                .map(|name| self.schema.index_of(name))
                .collect::<Result<Vec<_>, _>>()
                .ok()
                .filter(|fields| fields.len() == width)
                .ok_or_else(|| {
                    let first: Vec<_> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
                    IngestError::file(path, differing_columns(&first, names))
                })?,
        };
        Ok(CsvLayout {
            dialect: self.options.dialect(path),
            schema: self.schema.clone(),
            fields,
            null_values: self.options.null_values.clone(),
        })
    }
}

/// Checks that rows of these columns can be told apart and travel.
fn check_schema(schema: &SchemaRef) -> Result<(), String> {
    if schema.fields().is_empty() {
        return Err("it has no columns".to_owned());
    }
    if let Some(name) = twice(schema.fields().iter().map(|field| field.name().as_str())) {
        return Err(format!("it names the column {name:?} twice"));
    }
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| e.to_string())?;
    let row = Rows { batch, numbers: RowRanges::from_range(0..1), lines: Lines::Base(1) };
    let origin = Origin { run: RunId::new(""), window: 0, file: 0, model: None };
    // The smallest row there is, of missing values.
    match encode_input(&origin, &row) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no row can be put on the log: {error}")),
    }
}

/// The first name that comes up a second time.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// How two files' columns differ, in words.
pub fn differing_columns(first: &[String], other: &[String]) -> String {
    let without = |a: &[String], b: &[String]| {
        let b: HashSet<&String> = b.iter().collect();
        a.iter().filter(|name| !b.contains(name)).cloned().collect::<Vec<_>>().join(", ")
    };
    let (missing, extra) = (without(first, other), without(other, first));
    let part = |what: &str, names: String| if names.is_empty() { String::new() } else { format!("; {what}: {names}") };
    format!(
        "its columns are not those of the first file{}{}",
        part("missing", missing),
        part("not in the first file", extra)
    )
}

impl DatasetOptions {
    /// Checks that the options make sense together.
    ///
    /// # Errors
    /// The first that does not.
    fn check(&self) -> Result<()> {
        let is_odd = |byte: u8| !byte.is_ascii() || matches!(byte, b'\n' | b'\r' | 0);
        let wrong = |why: String| Err(IngestError::Option(why));
        if self.delimiter.is_some_and(is_odd) || self.quote.is_some_and(is_odd) {
            return wrong("a delimiter or a quote is one ASCII character, and no line end".to_owned());
        }
        let is_delimiter = |quote: u8| self.delimiter.map_or(matches!(quote, b',' | b'\t'), |given| given == quote);
        if self.quote.is_some_and(is_delimiter) {
            return wrong("the delimiter and the quote are the same character".to_owned());
        }
        if let Some(name) = twice(self.column_names.iter().map(String::as_str)) {
            return wrong(format!("the column {name:?} is named twice"));
        }
        match twice(self.column_types.iter().map(|(name, _)| name.as_str())) {
            Some(name) => wrong(format!("two types are given for column {name:?}")),
            None => Ok(()),
        }
    }

    /// Whether a cell of a column that is not text means a missing value, though it is not empty.
    pub fn is_null(&self, cell: &str) -> bool {
        self.null_values.iter().any(|null| null.trim_ascii() == cell.trim_ascii())
    }

    /// The format of a file.
    ///
    /// # Errors
    /// Where its name does not tell and no option does.
    pub fn format_of(&self, path: &str) -> Result<Format> {
        let by_name = || match path {
            STDIN => Some(Format::Csv),
            path => Format::of_path(Path::new(path)),
        };
        self.format.or_else(by_name).ok_or_else(|| {
            let why = "its name does not tell its format; say --input-format csv, jsonl, parquet or arrow";
            IngestError::file(path, why)
        })
    }

    /// How the rows and fields of a CSV file are told apart.
    pub fn dialect(&self, path: &Path) -> super::text::Dialect {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let is_tabbed =
            [".tsv", ".tab", ".tsv.gz", ".tab.gz", ".tsv.zst", ".tab.zst"].iter().any(|end| name.ends_with(end));
        super::text::Dialect {
            delimiter: self.delimiter.unwrap_or(if is_tabbed { b'\t' } else { b',' }),
            quote: self.quote,
        }
    }

    /// The type given for a column, if any.
    pub fn given_type(&self, column: &str) -> Option<ColumnType> {
        self.column_types.iter().find(|(name, _)| name == column).map(|(_, t)| *t)
    }
}

/// The names in a CSV file's first row; nameless columns are called by their place.
///
/// # Errors
/// A header that is not text, or names a column twice.
pub fn header_names(path: &Path, fields: &[Cow<'_, [u8]>]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::with_capacity(fields.len());
    for (place, field) in fields.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| {
            IngestError::file(path, "its header is not UTF-8 text; convert the file, for example with iconv -t utf-8")
        })?;
        names.push(if name.trim().is_empty() { column_name(place) } else { name.to_owned() });
    }
    match twice(names.iter().map(String::as_str)) {
        Some(name) => Err(IngestError::file(path, format!("its header names the column {name:?} twice"))),
        None => Ok(names),
    }
}

/// The name of a column that has none.
pub fn column_name(place: usize) -> String {
    format!("column_{}", place + 1)
}

/// A schema of nullable columns.
pub fn schema_of(columns: Vec<(String, ColumnType)>) -> Schema {
    Schema::new(columns.into_iter().map(|(name, t)| Field::new(name, t.arrow(), true)).collect::<Vec<_>>())
}

/// Checks that a file is still the one that was found.
///
/// # Errors
/// [`IngestError::Changed`].
pub fn check_unchanged(file: &InputFile) -> Result<PathBuf> {
    let path = PathBuf::from(&file.path);
    if file.path != STDIN && stat(&path)? != *file {
        return Err(IngestError::Changed { path });
    }
    Ok(path)
}

impl Dataset {
    /// Makes doubles of whole-number columns of a text format: a model takes them for floating-point numbers, so a later
    /// row with a fraction is as good as any. They are written without a fraction where they have none.
    pub fn widen(&mut self, columns: impl Iterator<Item = usize>) {
        if !matches!(self.format, Format::Csv | Format::Jsonl) {
            return;
        }
        let mut fields: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        for column in columns {
            let is_given = self.options.given_type(fields[column].name()).is_some();
            if fields[column].data_type() == &DataType::Int64 && !is_given {
                fields[column] = written_whole(&fields[column]);
            }
        }
        self.schema = Schema::new(fields).into();
    }
}
