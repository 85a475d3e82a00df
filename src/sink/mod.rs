//! Sink: the output topic and the ledger become files.
//!
//! ```text
//! ledger -> next receipt -> its records of the output topic ->[2 a thread]-> check, format ->(in order)-> stage
//!        -> checkpoint -> ... -> all receipts tile the input -> publish rows, ledger, dead letters, manifest
//! ```
//!
//! The sink works from receipts alone: a receipt says how many records of the output and the dead-letter topic belong
//! to its window. It computes the checksum of the rows that it writes itself, and stops where that, or the
//! receipts' own arithmetic ([`tiles`]), does not balance.
//!
//! Guarantee: what is published is whole, is published create-only, and is the same bytes however often the sink was
//! killed. The sink has no clock that shows in a file.

pub mod csv;
mod error;
pub mod manifest;
pub mod rows;
pub mod staging;
pub mod tiles;
mod window;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};

use crate::log::{Consumer, Event, Log, Message, Offset, Producer, TopicPartition};
use crate::record::frame::{FRAME_HEADER, decode_header};
use crate::record::run::{IngestProgress, Outcome, OutputRecord, PublishedFile, RunRecord, Verdict, WORKER_GROUP, key};
use crate::record::{DeadLetter, FormatError, Receipt, RowCounts};
use crate::service::{Meters, StateView, Stop, state_record};

pub use error::{Result, SinkError};
pub use manifest::{Manifest, Names};
pub use tiles::Tiles;

use error::io_error;
use rows::{RowWriter, StagedRows};
use staging::{StagedFile, digest_of, publish, sync_folder_of};
use window::{Checked, check};

/// What is staged is synced and the log's records given up when so many bytes came since.
const CHECKPOINT_BYTES: u64 = 48 << 20;
/// Or when what came took so many bytes of the log.
const CHECKPOINT_WIRE_BYTES: u64 = 8 << 20;
/// Or so much time went by.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for a receipt before looking whether the run is over.
const IDLE: Duration = Duration::from_millis(10);
const FIRST_ERRORS: usize = 10;

/// What a sink needs.
pub struct Sink<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// The run.
    pub run: &'a RunRecord,
    /// Where files are staged: on the output's file system.
    pub staging: &'a Path,
    /// Whether files that exist may be replaced.
    pub replace: bool,
    /// Whether the files beside the output may be replaced: an earlier run that failed left them.
    pub replace_beside: bool,
    /// Checks and formats.
    pub pool: &'a rayon::ThreadPool,
    /// Ends the sink at the next window.
    pub stop: &'a Stop,
    /// What it counts.
    pub meters: &'a Meters,
}

/// How far the sink is: a record of the state topic, `run/ID/sink`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Checkpoint {
    tiles: Tiles,
    /// The next offset of the ledger, the output and the dead-letter topic, by partition.
    ledger: Vec<u64>,
    output: Vec<u64>,
    dead_letter: Vec<u64>,
    rows: StagedRows,
    ledger_bytes: u64,
    dead_letter_bytes: u64,
    first_errors: Vec<String>,
    /// What is about to be published, once all is staged: where it lies and what it is called.
    publishing: Option<Publishing>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Publishing {
    rows: Vec<(PathBuf, PublishedFile)>,
    output: OutputRecord,
}

/// The state topic's key of the sink's checkpoint.
fn checkpoint_key(run: &RunRecord) -> String {
    format!("run/{}/sink", run.run)
}

/// What was staged for good: rows by what became of them, and each ledger partition's next offset.
///
/// # Errors
/// The log's.
pub fn staged_so_far(state: &StateView, run: &RunRecord) -> Result<Option<(RowCounts, Vec<u64>)>> {
    let checkpoint = state.get::<Checkpoint>(&checkpoint_key(run))?;
    Ok(checkpoint.map(|checkpoint| (checkpoint.tiles.counts, checkpoint.ledger)))
}

/// The offsets below which the sink does not need records any more, by topic and partition.
///
/// # Errors
/// The log's.
pub fn least_needed(state: &StateView, run: &RunRecord) -> Result<Vec<(TopicPartition, Offset)>> {
    let Some(checkpoint) = state.get::<Checkpoint>(&checkpoint_key(run))? else { return Ok(Vec::new()) };
    let of = |topic: &Arc<str>, offsets: &[u64]| {
        let at = |(partition, offset): (usize, &u64)| {
            (TopicPartition::new(Arc::clone(topic), u32::try_from(partition).unwrap_or(u32::MAX)), Offset(*offset))
        };
        offsets.iter().enumerate().map(at).collect::<Vec<_>>()
    };
    let topics = &run.topics;
    Ok([
        of(&topics.ledger, &checkpoint.ledger),
        of(&topics.output, &checkpoint.output),
        of(&topics.dead_letter, &checkpoint.dead_letter),
    ]
    .concat())
}

/// A window between the topics and the staged files.
struct InFlight {
    receipt: Receipt,
    dead: Vec<Message>,
    /// The offsets behind its records, of the ledger, the output and the dead-letter topic.
    next_offsets: (u64, u64, u64),
    checked: Receiver<Result<Checked>>,
}

struct Loop<'a> {
    sink: &'a Sink<'a>,
    producer: Box<dyn Producer>,
    state: StateView,
    at: Checkpoint,
    /// Receipts read so far; `at.tiles` is what was staged.
    read: Tiles,
    ledger: Vec<Partition>,
    output: Vec<Partition>,
    dead_letter: Vec<Partition>,
    rows: RowWriter,
    ledger_file: StagedFile,
    dead_letter_file: StagedFile,
    queue: VecDeque<InFlight>,
    bytes_since: u64,
    wire_bytes_since: u64,
    checkpoint_at: Instant,
}

impl Sink<'_> {
    /// Writes the run's output. Returns `None` where it was told to stop before the end.
    ///
    /// # Errors
    /// A ledger that does not balance, files that cannot be written, the log's. The same call goes on from the last
    /// checkpoint.
    pub fn run(&self) -> Result<Option<OutputRecord>> {
        let state = StateView::new(self.log, &self.run.topics.state)?;
        if let Some(done) = state.get(&key::output(&self.run.run))? {
            return Ok(Some(done));
        }
        std::fs::create_dir_all(self.staging).map_err(io_error("create", self.staging))?;
        let mut work = Loop::open(self, state)?;
        if work.at.publishing.is_none() {
            while !work.is_complete()? {
                if self.stop.is_asked() {
                    work.settle(0)?;
                    work.checkpoint()?;
                    return Ok(None);
                }
                work.turn()?;
            }
            work.settle(0)?;
            work.check_nothing_behind()?;
            work.stage_all()?;
        }
        work.publish().map(Some)
    }
}

impl<'a> Loop<'a> {
    fn open(sink: &'a Sink<'a>, state: StateView) -> Result<Self> {
        let run = sink.run;
        let at = match state.get::<Checkpoint>(&checkpoint_key(run))? {
            Some(checkpoint) => checkpoint,
            None => first_checkpoint(sink)?,
        };
        let readers = |topic: &Arc<str>, offsets: &[u64]| {
            (0_u32..)
                .zip(offsets)
                .map(|(p, offset)| Partition::open(sink.log, topic, p, *offset))
                .collect::<Result<Vec<_>>>()
        };
        // What is staged and about to be published is not opened any more.
        let (rows, ledger_bytes, dead_bytes) = match at.publishing {
            None => (at.rows.clone(), at.ledger_bytes, at.dead_letter_bytes),
            Some(_) => (StagedRows::default(), 0, 0),
        };
        let scratch = if at.publishing.is_some() { sink.staging.join("published") } else { sink.staging.to_owned() };
        std::fs::create_dir_all(&scratch).map_err(io_error("create", &scratch))?;
        Ok(Self {
            producer: sink.log.producer(&format!("{}-sink", run.run))?,
            ledger: readers(&run.topics.ledger, &at.ledger)?,
            output: readers(&run.topics.output, &at.output)?,
            dead_letter: readers(&run.topics.dead_letter, &at.dead_letter)?,
            rows: RowWriter::open(&scratch, run, rows)?,
            ledger_file: StagedFile::open(&scratch.join("ledger.jsonl"), ledger_bytes)?,
            dead_letter_file: StagedFile::open(&scratch.join("dead-letters.jsonl"), dead_bytes)?,
            read: at.tiles.clone(),
            at,
            sink,
            state,
            queue: VecDeque::new(),
            bytes_since: 0,
            wire_bytes_since: 0,
            checkpoint_at: Instant::now(),
        })
    }

    fn verdict(&self) -> Result<Option<Verdict>> {
        Ok(self.state.get(&key::verdict(&self.sink.run.run))?)
    }

    /// The verdict once all receipts are in: the coordinator may not have come to the last of them.
    fn last_verdict(&self) -> Result<Option<Verdict>> {
        let given = self.verdict()?;
        Ok(given.or_else(|| self.sink.run.definition.verdict(&self.at.tiles.counts)))
    }

    /// Whether all receipts were read and balance.
    fn is_complete(&mut self) -> Result<bool> {
        self.state.refresh()?;
        let ingested: Option<IngestProgress> = self.state.get(&key::ingest(&self.sink.run.run))?;
        ingested.map_or(Ok(false), |ingested| self.read.is_complete(&ingested))
    }

    fn turn(&mut self) -> Result<()> {
        let partition = self.read.next_partition() as usize;
        let timeout = if self.queue.is_empty() { IDLE } else { Duration::ZERO };
        match self.ledger[partition].next(timeout)? {
            Some(message) => {
                let receipt = Receipt::decode(message.record.value.as_ref())?;
                self.read.add(&self.sink.run.run, &receipt)?;
                self.start(receipt)?;
                self.settle(2 * self.sink.pool.current_num_threads())?;
            }
            None if self.queue.is_empty() => self.check_not_lost(partition)?,
            None => self.settle(self.queue.len() - 1)?,
        }
        self.checkpoint_where_due()
    }

    /// Parts and row groups can be gone back to only where one ends, so this is asked after each window.
    fn checkpoint_where_due(&mut self) -> Result<()> {
        let is_due = self.bytes_since > 0 && self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL;
        let is_much = self.bytes_since >= CHECKPOINT_BYTES || self.wire_bytes_since >= CHECKPOINT_WIRE_BYTES;
        if self.rows.is_at_boundary() && (is_due || is_much) { self.checkpoint() } else { Ok(()) }
    }

    /// A window that workers are past, and of which there is no receipt, will never have one.
    fn check_not_lost(&mut self, partition: usize) -> Result<()> {
        let topics = &self.sink.run.topics;
        let input = TopicPartition::new(Arc::clone(&topics.input), u32::try_from(partition).unwrap_or(u32::MAX));
        let ours = self.read.next_offsets[partition];
        let position = self.sink.log.position(WORKER_GROUP, &input)?.map_or(0, |p| p.offset.0);
        let at = TopicPartition::new(Arc::clone(&topics.ledger), input.partition);
        // The position is read first: receipts are committed with it.
        let is_read = self.sink.log.offsets(&at)?.end.0 <= self.ledger[partition].offset;
        if position > ours && is_read {
            return Err(SinkError::Ledger(format!(
                "in {input} the workers are at offset {position}, and there is no receipt for offset {ours}: window {} was lost",
                self.read.next_window
            )));
        }
        Ok(())
    }

    /// Behind the last window's records there must be no more of this run: they would be rows scored twice.
    fn check_nothing_behind(&mut self) -> Result<()> {
        let run = &self.sink.run.run;
        let behind = |at: &TopicPartition| {
            SinkError::Ledger(format!("{at} holds records of run {run} behind those of its last window"))
        };
        for partition in &mut self.ledger {
            while let Some(message) = partition.next(Duration::ZERO)? {
                if Receipt::decode(message.record.value.as_ref())?.run == *run {
                    return Err(behind(&partition.at));
                }
            }
        }
        for partition in &mut self.output {
            while let Some(message) = partition.next(Duration::ZERO)? {
                if decode_header(message.record.header(FRAME_HEADER))?.run == *run {
                    return Err(behind(&partition.at));
                }
            }
        }
        for partition in &mut self.dead_letter {
            while let Some(message) = partition.next(Duration::ZERO)? {
                if DeadLetter::decode(message.record.value.as_ref())?.run == *run {
                    return Err(behind(&partition.at));
                }
            }
        }
        Ok(())
    }

    /// Gives a window to the pool.
    fn start(&mut self, receipt: Receipt) -> Result<()> {
        let partition = receipt.partition as usize;
        let records = self.output[partition].take(receipt.output_records, &receipt)?;
        let dead = self.dead_letter[partition].take(receipt.dead_letters, &receipt)?;
        let (sender, checked) = crossbeam_channel::bounded(1);
        let (spec, columns) = (self.sink.run.definition.output.clone(), self.sink.run.definition.schema.fields().len());
        let is_failed = self.verdict()?.is_some();
        let for_pool = receipt.clone();
        self.sink.pool.spawn(move || {
            // The receiver is gone only when the sink was given up.
            let _ = sender.send(check(&for_pool, &records, columns, &spec, is_failed));
        });
        let next_offsets =
            (self.ledger[partition].offset, self.output[partition].offset, self.dead_letter[partition].offset);
        self.queue.push_back(InFlight { receipt, dead, next_offsets, checked });
        Ok(())
    }

    /// Stages checked windows until at most `most` are in flight.
    fn settle(&mut self, most: usize) -> Result<()> {
        while self.queue.len() > most {
            let Some(in_flight) = self.queue.pop_front() else { break };
            let gone = || {
                FormatError::new("a formatting thread", "it gave up; this is a fault of scoreline, please report it")
            };
            let checked = in_flight.checked.recv().map_err(|_| gone())??;
            self.stage(&in_flight, &checked)?;
        }
        Ok(())
    }

    fn stage(&mut self, window: &InFlight, checked: &Checked) -> Result<()> {
        let receipt = &window.receipt;
        self.rows.write(receipt.window, receipt.counts.scored, checked.wire_bytes, &checked.chunk)?;
        let mut line = receipt.encode()?.to_vec();
        line.push(b'\n');
        self.ledger_file.append(&line)?;
        for message in &window.dead {
            let letter = DeadLetter::decode(message.record.value.as_ref())?;
            if self.at.first_errors.len() < FIRST_ERRORS {
                self.at.first_errors.push(in_words(&letter));
            }
            let mut line = message.record.value.clone().unwrap_or_default().to_vec();
            line.push(b'\n');
            self.dead_letter_file.append(&line)?;
        }
        self.at.tiles.add(&self.sink.run.run, receipt)?;
        let partition = receipt.partition as usize;
        (self.at.ledger[partition], self.at.output[partition], self.at.dead_letter[partition]) = window.next_offsets;
        self.bytes_since += checked.bytes + line.len() as u64;
        self.wire_bytes_since += checked.wire_bytes;
        self.sink.meters.rows_out.add(receipt.counts.scored);
        self.checkpoint_where_due()
    }

    /// Makes what was staged durable, then commits where it ends.
    fn checkpoint(&mut self) -> Result<()> {
        if !self.rows.is_at_boundary() && self.at.publishing.is_none() {
            return Ok(());
        }
        self.at.rows = self.rows.checkpoint()?;
        self.ledger_file.sync()?;
        self.dead_letter_file.sync()?;
        (self.at.ledger_bytes, self.at.dead_letter_bytes) = (self.ledger_file.length(), self.dead_letter_file.length());
        let at = self.at.clone();
        self.put(&checkpoint_key(self.sink.run), &at)?;
        (self.bytes_since, self.wire_bytes_since, self.checkpoint_at) = (0, 0, Instant::now());
        tracing::debug!(windows = self.at.tiles.next_window, "checkpoint");
        Ok(())
    }

    fn put<T: Serialize>(&mut self, key: &str, value: &T) -> Result<()> {
        let state = TopicPartition::new(Arc::clone(&self.sink.run.topics.state), 0);
        self.producer.begin()?;
        self.producer.send(&state, state_record(key, value)?)?;
        Ok(self.producer.commit()?)
    }

    /// Ends the staged files, and writes down what is about to be published.
    fn stage_all(&mut self) -> Result<()> {
        let verdict = self.last_verdict()?;
        let run = self.sink.run;
        let names = Names::beside(Path::new(&run.definition.output.path));
        // A run that has failed publishes no rows.
        let rows = if verdict.is_none() { self.rows.finish()? } else { Vec::new() };
        self.ledger_file.sync()?;
        self.dead_letter_file.sync()?;
        let staged = |file: &StagedFile, name: &Path, rows: u64| PublishedFile {
            path: name.to_string_lossy().into_owned(),
            rows,
            bytes: file.length(),
            sha256: file.digest(),
        };
        let counts = self.at.tiles.counts;
        let dead = (counts.dead > 0).then(|| staged(&self.dead_letter_file, &names.dead_letters, counts.dead));
        let output = OutputRecord {
            outcome: if verdict.is_some() { Outcome::Failed } else { Outcome::Finished },
            reason: verdict.map(|verdict| verdict.reason),
            counts,
            windows: self.at.tiles.next_window,
            files: rows.iter().map(|(_, file)| file.clone()).collect(),
            ledger: staged(&self.ledger_file, &names.ledger, self.at.tiles.next_window),
            dead_letters: dead,
            first_errors: self.at.first_errors.clone(),
        };
        self.at.publishing = Some(Publishing { rows, output });
        let at = self.at.clone();
        self.put(&checkpoint_key(run), &at)
    }

    /// Publishes what is staged, the manifest last; then says so.
    fn publish(&mut self) -> Result<OutputRecord> {
        let Some(publishing) = self.at.publishing.clone() else {
            return Err(FormatError::new("the sink", "nothing is staged").into());
        };
        let (sink, output) = (self.sink, &publishing.output);
        let names = Names::beside(Path::new(&sink.run.definition.output.path));
        let beside = sink.replace || sink.replace_beside;
        if sink.run.definition.output.action == crate::record::run::OutputAction::Parts
            && output.outcome == Outcome::Finished
        {
            std::fs::create_dir_all(&names.output).map_err(io_error("create", &names.output))?;
            if sink.replace {
                rows::remove_other_parts(&names.output, &output.files)?;
            }
        }
        for (staged, file) in &publishing.rows {
            publish(staged, Path::new(&file.path), file.sha256, sink.replace)?;
        }
        if let Some(dead) = &output.dead_letters {
            publish(&sink.staging.join("dead-letters.jsonl"), &names.dead_letters, dead.sha256, beside)?;
        } else if beside && names.dead_letters.exists() {
            std::fs::remove_file(&names.dead_letters).map_err(io_error("remove", &names.dead_letters))?;
        }
        publish(&sink.staging.join("ledger.jsonl"), &names.ledger, output.ledger.sha256, beside)?;
        self.publish_manifest(&names.manifest, output, beside)?;
        self.put(&key::output(&sink.run.run), output)?;
        Ok(publishing.output)
    }

    fn publish_manifest(&self, name: &Path, output: &OutputRecord, replace: bool) -> Result<()> {
        let manifest = Manifest::new(self.sink.run, output, self.at.tiles.sum_in);
        let json = manifest.encode(name).map_err(|e| FormatError::new("the manifest", e))?;
        let staged = self.sink.staging.join("manifest.json");
        let mut file = StagedFile::open(&staged, 0)?;
        file.append(&json)?;
        file.sync()?;
        sync_folder_of(&staged)?;
        publish(&staged, name, digest_of(&staged)?, replace)
    }
}

fn first_checkpoint(sink: &Sink<'_>) -> Result<Checkpoint> {
    let starts = |topic: &Arc<str>| -> Result<Vec<u64>> {
        let offset = |p| Ok(sink.log.offsets(&TopicPartition::new(Arc::clone(topic), p))?.start.0);
        (0..sink.run.definition.partitions).map(offset).collect()
    };
    let topics = &sink.run.topics;
    Ok(Checkpoint {
        tiles: Tiles::new(&sink.run.starts),
        ledger: starts(&topics.ledger)?,
        output: starts(&topics.output)?,
        dead_letter: starts(&topics.dead_letter)?,
        rows: StagedRows::default(),
        ledger_bytes: 0,
        dead_letter_bytes: 0,
        first_errors: Vec::new(),
        publishing: None,
    })
}

fn in_words(letter: &DeadLetter) -> String {
    let at = letter.line.map_or_else(|| format!("row {}", letter.row), |line| format!("line {line}"));
    format!("{} {at}: {}", letter.file, letter.reason)
}

/// Reads one partition of one topic, record by record.
struct Partition {
    reader: Box<dyn Consumer>,
    at: TopicPartition,
    offset: u64,
    fetched: VecDeque<Message>,
}

impl Partition {
    fn open(log: &dyn Log, topic: &Arc<str>, partition: u32, offset: u64) -> Result<Self> {
        let at = TopicPartition::new(Arc::clone(topic), partition);
        let reader = log.reader(&[(at.clone(), Offset(offset))])?;
        Ok(Self { reader, at, offset, fetched: VecDeque::new() })
    }

    fn next(&mut self, timeout: Duration) -> Result<Option<Message>> {
        if self.fetched.is_empty()
            && let Event::Records(messages) = self.reader.poll(timeout)?
        {
            self.fetched.extend(messages);
        }
        let message = self.fetched.pop_front();
        if let Some(message) = &message {
            self.offset = message.offset.0 + 1;
        }
        Ok(message)
    }

    /// The next `count` records, which were committed with the receipt and so must be there.
    fn take(&mut self, count: u32, receipt: &Receipt) -> Result<Vec<Message>> {
        let mut messages = Vec::with_capacity(count as usize);
        while messages.len() < count as usize {
            let Some(message) = self.next(Duration::ZERO)? else {
                return Err(SinkError::Ledger(format!(
                    "the receipt of window {} speaks of {count} records in {}, {} are there",
                    receipt.window,
                    self.at,
                    messages.len()
                )));
            };
            messages.push(message);
        }
        Ok(messages)
    }
}
