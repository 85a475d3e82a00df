//! Ingest: datasets become frames on the input topic.
//!
//! One thread reads a file and cuts it into windows of whole rows; a pool parses the windows and encodes
//! their frames; the first thread deals them to the partitions in turn and commits.
//!
//! ```text
//! file -> cut ->(2 a thread)-> parse, encode ->(in order)-> deal -> commit every 8 MiB
//! ```
//!
//! Guarantee: frames and ingest's own progress ([`IngestProgress`]) are committed together, under a
//! transactional id that belongs to the run. So a crash anywhere resumes with no row twice and none left out.

pub mod columnar;
pub mod columns;
pub mod dataset;
mod error;
pub mod infer;
pub mod source;
pub mod text;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::log::{Log, Producer, Record, TopicPartition};
use crate::record::frame::{Origin, encode_input, encode_rejects};
use crate::record::run::{IngestProgress, RunRecord, key};
use crate::record::{Checksum, FormatError, Frame, Lines, MiniBatchSize, RejectedRow, RowRanges, Rows};
use crate::service::{Meters, Stop};

pub use dataset::{Dataset, DatasetOptions, Format};
pub use error::{IngestError, Result};

use text::csv::CsvLayout;
use text::split::{Piece, Splitter, TextPosition};
use text::{Dialect, csv, jsonl};

/// Frames are committed when so many bytes of them wait.
const COMMIT_BYTES: usize = 8 << 20;
/// Frames are committed when the first of them has waited so long.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait before asking again whether there is room on the log.
const ROOM_INTERVAL: Duration = Duration::from_millis(2);

/// What an ingest needs.
pub struct Ingest<'a> {
    /// Where frames go.
    pub log: &'a dyn Log,
    /// The run.
    pub run: &'a RunRecord,
    /// Its dataset.
    pub dataset: &'a Dataset,
    /// Parses and encodes.
    pub pool: &'a rayon::ThreadPool,
    /// Whether the log has room for more frames now.
    pub has_room: &'a (dyn Fn() -> bool + Sync),
    /// Ends the ingest at the next window, to go on another time.
    pub stop: &'a Stop,
    /// Ends the run's input at the next window: the run has failed, its other rows will not be read.
    pub cut: &'a Stop,
    /// What it counts.
    pub meters: &'a Meters,
}

/// Rows to be parsed, cut from a file.
enum Work {
    Csv { layout: CsvLayout, bytes: Bytes, at: TextPosition },
    Jsonl { schema: arrow::datatypes::SchemaRef, bytes: Bytes, at: TextPosition },
    Columns { batch: RecordBatch, first_row: u64 },
    Reject(RejectedRow),
}

/// A parsed window.
struct Window {
    frames: Vec<Frame>,
    rows: u64,
    sum: Checksum,
}

/// A window on its way through the pool.
struct InFlight {
    window: Receiver<Result<Window, FormatError>>,
    file: u32,
    resume_at: Value,
    bytes_read: u64,
}

impl Ingest<'_> {
    /// Puts the dataset's rows on the input topic, from `progress` on, to the end.
    /// Returns the final progress.
    ///
    /// # Errors
    /// Files that cannot be read or changed since the run began; the log's own; [`IngestError::Stopped`].
    /// What was committed before stays, and the next attempt goes on from there.
    pub fn run(&self, progress: IngestProgress) -> Result<IngestProgress> {
        let producer = self.log.producer(&format!("{}-ingest", self.run.run))?;
        let mut dealer = Dealer::new(self, producer, progress);
        let (first, mut resume_at) = (dealer.progress.file, dealer.progress.resume_at.clone());
        for (place, file) in self.dataset.files.iter().enumerate().skip(first as usize) {
            let path = dataset::check_unchanged(file)?;
            let place = u32::try_from(place).map_err(|_| IngestError::Option("there are too many files".to_owned()))?;
            let mut reader = Reader::open(&path, self, std::mem::take(&mut resume_at))?;
            while let Some(work) = reader.next_work(&path)? {
                if self.cut.is_asked() {
                    dealer.settle(0)?;
                    return dealer.finish();
                }
                self.wait_for_room(&mut dealer)?;
                let in_flight = self.spawn(work, place, &mut dealer, &reader)?;
                dealer.queue.push_back(in_flight);
                dealer.settle(2 * self.pool.current_num_threads())?;
            }
            dealer.settle(0)?;
            dealer.end_file(file.bytes);
            // Rows that were read while somebody changed the file belong to neither version.
            dataset::check_unchanged(file)?;
        }
        dealer.finish()
    }

    fn wait_for_room(&self, dealer: &mut Dealer<'_>) -> Result<()> {
        if (self.has_room)() && !self.stop.is_asked() {
            return Ok(());
        }
        // Room comes from others' progress, for which they need what was dealt so far.
        dealer.settle(0)?;
        dealer.commit()?;
        while !(self.has_room)() && !self.cut.is_asked() {
            if self.stop.is_asked() {
                return Err(IngestError::Stopped);
            }
            std::thread::sleep(ROOM_INTERVAL);
        }
        if self.stop.is_asked() { Err(IngestError::Stopped) } else { Ok(()) }
    }

    fn spawn(&self, work: Work, file: u32, dealer: &mut Dealer<'_>, reader: &Reader) -> Result<InFlight> {
        let (sender, window) = crossbeam_channel::bounded(1);
        let origin = Origin { run: self.run.run.clone(), window: dealer.next_window, file, model: None };
        dealer.next_window += 1;
        self.pool.spawn(move || {
            // The receiver is gone only when the ingest was given up.
            let _ = sender.send(encode(&origin, work));
        });
        Ok(InFlight { window, file, resume_at: reader.resume_at()?, bytes_read: reader.bytes_read() })
    }
}

fn encode(origin: &Origin, work: Work) -> Result<Window, FormatError> {
    let wrong = |e| FormatError::new("rows of a window", e);
    let (rows, rejected) = match work {
        Work::Csv { layout, bytes, at } => csv::parse(&layout, &bytes, at.row, at.line).map_err(wrong)?,
        Work::Jsonl { schema, bytes, at } => jsonl::parse(&schema, &bytes, at.row, at.line).map_err(wrong)?,
        Work::Columns { batch, first_row } => {
            let numbers = RowRanges::from_range(first_row..first_row + batch.num_rows() as u64);
            (Rows { batch, numbers, lines: Lines::None }, Vec::new())
        }
        Work::Reject(row) => {
            let window = Window { rows: 1, sum: row.checksum(), frames: encode_rejects(origin, &[row])? };
            return Ok(with_last(window));
        }
    };
    let mut frames = encode_input(origin, &rows)?;
    frames.extend(encode_rejects(origin, &rejected)?);
    let sum = frames.iter().fold(Checksum::default(), |sum, frame| sum + frame.header.sum.unwrap_or_default());
    Ok(with_last(Window { frames, rows: (rows.len() + rejected.len()) as u64, sum }))
}

fn with_last(mut window: Window) -> Window {
    if let Some(last) = window.frames.last_mut() {
        last.header.last = true;
    }
    window
}

/// Reads one file as windows.
enum Reader {
    Csv { splitter: Splitter<source::Source>, layout: CsvLayout, read: source::ReadCount },
    Jsonl { splitter: Splitter<source::Source>, schema: arrow::datatypes::SchemaRef, read: source::ReadCount },
    Columns { batches: columnar::Batches, position: ColumnarPosition, bytes: u64, rows_in_file: u64 },
}

/// Where in a columnar file the next row begins.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct ColumnarPosition {
    row: u64,
}

impl Reader {
    fn open(path: &Path, ingest: &Ingest<'_>, resume_at: Value) -> Result<Self> {
        let (dataset, size) = (ingest.dataset, ingest.run.definition.mini_batch_size);
        match dataset.format {
            Format::Csv | Format::Jsonl => Self::open_text(path, dataset, size, resume_at),
            Format::Parquet | Format::Arrow => {
                let position: ColumnarPosition = or_default(resume_at)?;
                let schema = dataset.schema.clone();
                let batches = columnar::Batches::open(path, dataset.format, size, schema, position.row)?;
                let bytes = dataset::stat(path)?.bytes;
                let rows_in_file = columnar::rows(path, dataset.format)?;
                Ok(Self::Columns { batches, position, bytes, rows_in_file })
            }
        }
    }

    fn open_text(path: &Path, dataset: &Dataset, size: MiniBatchSize, resume_at: Value) -> Result<Self> {
        let is_csv = dataset.format == Format::Csv;
        let (header, offset, line) = match is_csv {
            true => infer::csv_header(path, &dataset.options)?,
            false => (None, infer::mark_length(path)?, 1),
        };
        let start = match resume_at {
            Value::Null => TextPosition { offset, row: 0, line },
            position => or_default(position)?,
        };
        let source = source::Source::open(path, start.offset).map_err(|e| IngestError::read(path, e))?;
        let read = source.read_count();
        if is_csv {
            let layout = dataset.csv_layout(path, header.as_deref())?;
            Ok(Self::Csv { splitter: Splitter::new(source, layout.dialect, size, start), layout, read })
        } else {
            let schema = dataset.schema.clone();
            Ok(Self::Jsonl { splitter: Splitter::new(source, Dialect::LINES, size, start), schema, read })
        }
    }

    fn next_work(&mut self, path: &Path) -> Result<Option<Work>> {
        let wrong = |e| IngestError::read(path, e);
        match self {
            Self::Csv { splitter, layout, .. } => {
                let at = splitter.position();
                Ok(splitter.next_piece().map_err(wrong)?.map(|piece| match piece {
                    Piece::Rows(bytes) => Work::Csv { layout: layout.clone(), bytes, at },
                    Piece::Reject(row) => Work::Reject(row),
                }))
            }
            Self::Jsonl { splitter, schema, .. } => {
                let at = splitter.position();
                Ok(splitter.next_piece().map_err(wrong)?.map(|piece| match piece {
                    Piece::Rows(bytes) => Work::Jsonl { schema: schema.clone(), bytes, at },
                    Piece::Reject(row) => Work::Reject(row),
                }))
            }
            Self::Columns { batches, position, .. } => Ok(batches.next_window()?.map(|batch| {
                let first_row = position.row;
                position.row += batch.num_rows() as u64;
                Work::Columns { batch, first_row }
            })),
        }
    }

    fn resume_at(&self) -> Result<Value> {
        let json = match self {
            Self::Csv { splitter, .. } | Self::Jsonl { splitter, .. } => serde_json::to_value(splitter.position()),
            Self::Columns { position, .. } => serde_json::to_value(position),
        };
        json.map_err(|e| FormatError::new("a position in a file", e).into())
    }

    fn bytes_read(&self) -> u64 {
        match self {
            Self::Csv { read, .. } | Self::Jsonl { read, .. } => read.bytes(),
            Self::Columns { position, bytes, rows_in_file, .. } => {
                let share = position.row as f64 / (*rows_in_file).max(1) as f64;
                (*bytes as f64 * share) as u64
            }
        }
    }
}

fn or_default<T: Default + serde::de::DeserializeOwned>(json: Value) -> Result<T> {
    match json {
        Value::Null => Ok(T::default()),
        json => serde_json::from_value(json).map_err(|e| FormatError::new("a position in a file", e).into()),
    }
}

/// Deals windows to partitions in turn, and commits them with the progress.
struct Dealer<'a> {
    ingest: &'a Ingest<'a>,
    producer: Box<dyn Producer>,
    queue: VecDeque<InFlight>,
    progress: IngestProgress,
    /// The number that the next window cut from a file will have.
    next_window: u64,
    bytes_before: u64,
    waiting_bytes: usize,
    first_waits_since: Option<Instant>,
}

impl<'a> Dealer<'a> {
    fn new(ingest: &'a Ingest<'a>, producer: Box<dyn Producer>, progress: IngestProgress) -> Self {
        let files = &ingest.dataset.files[..(progress.file as usize).min(ingest.dataset.files.len())];
        Self {
            ingest,
            producer,
            queue: VecDeque::new(),
            next_window: progress.windows,
            bytes_before: files.iter().map(|f| f.bytes).sum(),
            progress,
            waiting_bytes: 0,
            first_waits_since: None,
        }
    }

    /// Deals finished windows until at most `most` are in flight.
    fn settle(&mut self, most: usize) -> Result<()> {
        while self.queue.len() > most {
            let Some(in_flight) = self.queue.pop_front() else { break };
            let window = in_flight.window.recv().map_err(|_| {
                IngestError::Option(
                    "a parser thread gave up; this is a fault of scoreline, please report it".to_owned(),
                )
            })??;
            self.deal(&window)?;
            self.progress.file = in_flight.file;
            self.progress.resume_at = in_flight.resume_at;
            self.progress.bytes = self.bytes_before + in_flight.bytes_read;
            if self.waiting_bytes >= COMMIT_BYTES
                || self.first_waits_since.is_some_and(|since| since.elapsed() >= COMMIT_INTERVAL)
            {
                self.commit()?;
            }
        }
        Ok(())
    }

    fn deal(&mut self, window: &Window) -> Result<()> {
        self.begin()?;
        let partition =
            u32::try_from(self.progress.windows % u64::from(self.ingest.run.definition.partitions)).unwrap_or(0);
        let to = TopicPartition::new(self.ingest.run.topics.input.clone(), partition);
        for frame in &window.frames {
            let record = Record {
                value: Some(frame.value.clone()),
                headers: frame.headers()?,
                timestamp_ms: crate::service::now_ms(),
                ..Record::default()
            };
            self.waiting_bytes += record.size();
            self.producer.send(&to, record)?;
        }
        self.progress.windows += 1;
        self.progress.rows += window.rows;
        self.progress.sum += window.sum;
        self.ingest.meters.rows_in.add(window.rows);
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        if self.first_waits_since.is_none() {
            self.producer.begin()?;
            self.first_waits_since = Some(Instant::now());
        }
        Ok(())
    }

    fn end_file(&mut self, bytes: u64) {
        self.bytes_before += bytes;
        self.progress.file += 1;
        self.progress.resume_at = Value::Null;
        self.progress.bytes = self.bytes_before;
    }

    fn commit(&mut self) -> Result<()> {
        self.ingest.meters.bytes_read.set(self.progress.bytes);
        if self.first_waits_since.is_none() {
            return Ok(());
        }
        let record = crate::service::state_record(&key::ingest(&self.ingest.run.run), &self.progress)?;
        self.producer.send(&TopicPartition::new(self.ingest.run.topics.state.clone(), 0), record)?;
        self.producer.commit()?;
        (self.first_waits_since, self.waiting_bytes) = (None, 0);
        Ok(())
    }

    /// Commits what waits, then the ends of the run's ranges.
    fn finish(mut self) -> Result<IngestProgress> {
        self.commit()?;
        let topics = &self.ingest.run.topics;
        let ends: Result<Vec<u64>> = (0..self.ingest.run.definition.partitions)
            .map(|p| Ok(self.ingest.log.offsets(&TopicPartition::new(topics.input.clone(), p))?.end.0))
            .collect();
        self.progress.ends = Some(ends?);
        tracing::info!(rows = self.progress.rows, windows = self.progress.windows, "all rows are on the input topic");
        self.begin()?;
        self.commit()?;
        Ok(self.progress)
    }
}
