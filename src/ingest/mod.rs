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
pub mod reader;
pub mod source;
pub mod text;
pub mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde_json::Value;

use crate::log::{Log, Producer, Record, TopicPartition};
use crate::record::FormatError;
use crate::record::frame::Origin;
use crate::record::run::{IngestProgress, RunRecord, key};
use crate::service::{Meters, Stop};

pub use dataset::{Dataset, DatasetOptions, Format};
pub use error::{IngestError, Result};

use reader::{Reader, Work};
use window::Window;

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
            let size = self.run.definition.mini_batch_size;
            let mut reader = Reader::open(&path, self.dataset, size, std::mem::take(&mut resume_at))?;
            while let Some(work) = reader.next_work()? {
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
            let _ = sender.send(Window::new(&origin, &work));
        });
        Ok(InFlight { window, file, resume_at: reader.resume_at()?, bytes_read: reader.bytes_read() })
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
