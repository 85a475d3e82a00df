//! The worker: reads windows, has them scored, and commits what came of them.
//!
//! ```text
//! input topic -> assemble -> [2 windows a thread] -> score -> in order by partition -> one transaction:
//!                                                            output, dead letters, receipts, positions
//! ```
//!
//! Guarantee: a window's output, dead letters, receipt and the input's position are committed in one transaction,
//! windows of a partition in order. A transaction begins only when finished windows wait for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::bind::Binding;
use super::error::{Result, ScoreError};
use super::model::Model;
use super::pool::{Limits, Pool};
use super::window::{RunContext, WindowInput, WindowOutput};
use crate::log::{Consumer, Event, Log, Message, Offset, Position, Producer, Record, StartAt, TopicPartition};
use crate::record::frame::{CONTENT_TYPE, FRAME_HEADER, decode_header};
use crate::record::run::{RunRecord, Topics, Verdict, WORKER_GROUP, key};
use crate::record::{FormatError, FrameHeader, RunId};
use crate::service::{Meters, StateView, Stop, now_ms};

/// Finished windows are committed when their outputs take so many bytes.
const COMMIT_BYTES: usize = 8 << 20;
/// Finished windows are committed when the first has waited so long.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait for something to do.
const IDLE: Duration = Duration::from_millis(20);
const BRIEFLY: Duration = Duration::from_millis(1);

/// What a worker needs.
pub struct Worker<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// Its topics.
    pub topics: &'a Topics,
    /// The model.
    pub model: Arc<Model>,
    /// What bounds the scoring.
    pub limits: Limits,
    /// Ends the worker; what is uncommitted is thrown away.
    pub stop: &'a Stop,
    /// What it counts.
    pub meters: &'a Meters,
}

impl Worker<'_> {
    /// Scores what comes until it is told to stop.
    ///
    /// # Errors
    /// The log's, damaged records, a model that hangs. What was committed before stays, and another worker goes on
    /// from there.
    pub fn run(&self) -> Result<()> {
        let producer = self.log.producer("scoreline-worker-0")?;
        let consumer = self.log.subscribe(WORKER_GROUP, &[&self.topics.input], StartAt::Earliest)?;
        let state = StateView::new(self.log, &self.topics.state)?;
        let mut work = Loop {
            worker: self,
            producer,
            consumer,
            state,
            runs: HashMap::new(),
            pool: None,
            assembling: HashMap::new(),
            waiting: VecDeque::new(),
            next_key: 0,
            flights: BTreeMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            ready_since: None,
        };
        while !self.stop.is_asked() {
            work.turn()?;
        }
        work.producer.abort()?;
        Ok(())
    }
}

/// The windows of one partition on their way, in order.
type Flight = VecDeque<(u64, Arc<WindowInput>, Option<Box<WindowOutput>>)>;

struct Loop<'a> {
    worker: &'a Worker<'a>,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    state: StateView,
    runs: HashMap<RunId, Arc<RunContext>>,
    pool: Option<Pool>,
    /// Frames of a window whose last frame has not come yet, by partition.
    assembling: HashMap<u32, Vec<(FrameHeader, Message)>>,
    /// Whole windows that wait for a place in the pool.
    waiting: VecDeque<WindowInput>,
    next_key: u64,
    flights: BTreeMap<u32, Flight>,
    /// Finished windows that wait for a commit, in order within each partition.
    ready: VecDeque<(Arc<WindowInput>, Box<WindowOutput>)>,
    ready_bytes: usize,
    ready_since: Option<Instant>,
}

impl Loop<'_> {
    fn turn(&mut self) -> Result<()> {
        self.state.refresh()?;
        self.submit();
        let running = self.pool.as_ref().map_or(0, Pool::running);
        if self.waiting.is_empty() {
            let timeout = if running == 0 && self.ready.is_empty() { IDLE } else { Duration::ZERO };
            self.read(timeout)?;
            self.submit();
        }
        self.collect(if running > 0 { BRIEFLY } else { Duration::ZERO })?;
        let is_due = self.ready_since.is_some_and(|since| since.elapsed() >= COMMIT_INTERVAL);
        let is_all = self.flights.values().all(VecDeque::is_empty) && self.waiting.is_empty();
        if is_due || is_all || self.ready_bytes >= COMMIT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn read(&mut self, timeout: Duration) -> Result<()> {
        match self.consumer.poll(timeout)? {
            Event::Records(messages) => messages.into_iter().try_for_each(|message| self.assemble(message)),
            // One member has all partitions of the embedded log, for as long as it lives.
            Event::Assigned(_) | Event::Revoked(_) | Event::Idle => Ok(()),
        }
    }

    fn assemble(&mut self, message: Message) -> Result<()> {
        let header = decode_header(message.record.header(FRAME_HEADER))
            .map_err(|e| FormatError::new(format!("the record at {} offset {}", message.source, message.offset), e))?;
        let partition = message.source.partition;
        let is_last = header.last;
        let frames = self.assembling.entry(partition).or_default();
        frames.push((header, message));
        if !is_last {
            return Ok(());
        }
        let frames = self.assembling.remove(&partition).unwrap_or_default();
        let window = self.window(partition, frames)?;
        self.waiting.push_back(window);
        Ok(())
    }

    fn window(&mut self, partition: u32, frames: Vec<(FrameHeader, Message)>) -> Result<WindowInput> {
        let ends = frames.first().zip(frames.last());
        let ((header, first), (_, last)) = ends.ok_or_else(|| FormatError::new("a window", "it has no frames"))?;
        let (run_id, window) = (header.run.clone(), header.window);
        if frames.iter().any(|(other, _)| other.window != window || other.run != run_id) {
            let why = "its frames do not stand together";
            return Err(
                FormatError::new(format!("window {window} of run {run_id} in partition {partition}"), why).into()
            );
        }
        let (first, next) = (first.offset.0, last.offset.0 + 1);
        let run = self.run(&run_id)?;
        let verdict: Option<Verdict> = self.state.get(&key::verdict(&run_id))?;
        let frames = frames.into_iter().map(|(header, message)| (header, message.record.value)).collect();
        Ok(WindowInput { run, verdict, window, partition, first, next, frames })
    }

    fn run(&mut self, id: &RunId) -> Result<Arc<RunContext>> {
        if let Some(run) = self.runs.get(id) {
            return Ok(Arc::clone(run));
        }
        let record: RunRecord = self.state.get(&key::run(id))?.ok_or_else(|| {
            FormatError::new(
                format!("run {id}"),
                "its frames are on the input topic, its record is not on the state topic",
            )
        })?;
        let model = Arc::clone(&self.worker.model);
        if record.definition.model != model.digest {
            let why = format!("run {id} was begun with another model (SHA-256 {})", record.definition.model);
            return Err(ScoreError::model(&model.path, why));
        }
        let binding = Binding::new(&model, &record.definition.schema, &record.definition.map)?;
        if self.pool.is_none() {
            let pool = Pool::new(Arc::clone(&model), record.definition.probabilities, self.worker.limits)?;
            self.pool = Some(pool);
        }
        let run = Arc::new(RunContext { record, model, binding });
        self.runs.insert(id.clone(), Arc::clone(&run));
        Ok(run)
    }

    /// Gives waiting windows to the pool while it has room.
    fn submit(&mut self) {
        let Some(pool) = &mut self.pool else { return };
        let most = 2 * self.worker.limits.threads.max(1);
        // Finished windows that wait for an earlier one of their partition take memory too.
        let held: usize = self.flights.values().map(VecDeque::len).sum();
        let mut room = most.saturating_sub(pool.running()).min((4 * most).saturating_sub(held));
        while room > 0
            && let Some(window) = self.waiting.pop_front()
        {
            let window = Arc::new(window);
            let flight = self.flights.entry(window.partition).or_default();
            flight.push_back((self.next_key, Arc::clone(&window), None));
            pool.submit(self.next_key, window);
            self.next_key += 1;
            room -= 1;
        }
    }

    /// Takes what the pool finished and puts it in order.
    fn collect(&mut self, timeout: Duration) -> Result<()> {
        let Some(pool) = &mut self.pool else { return Ok(()) };
        let mut timeout = timeout;
        while let Some(finished) = pool.finished(timeout)? {
            timeout = Duration::ZERO;
            let partition = finished.output.receipt.partition;
            let Some(flight) = self.flights.get_mut(&partition) else { continue };
            if let Some(place) = flight.iter_mut().find(|(key, ..)| *key == finished.key) {
                place.2 = Some(finished.output);
            }
            while let Some((_, _, Some(_))) = flight.front() {
                if let Some((_, input, Some(output))) = flight.pop_front() {
                    self.ready_bytes +=
                        output.frames.iter().map(|f| f.value.len()).sum::<usize>() + 512 * (1 + output.dead.len());
                    self.ready_since.get_or_insert_with(Instant::now);
                    self.ready.push_back((input, output));
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let group =
            self.consumer.group_metadata().ok_or_else(|| FormatError::new("the worker", "it is in no group"))?;
        self.producer.begin()?;
        let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
        for (input, output) in &self.ready {
            send(self.producer.as_mut(), self.worker.topics, output)?;
            positions.insert(input.partition, input.next);
        }
        let at = |partition| TopicPartition::new(Arc::clone(&self.worker.topics.input), partition);
        let positions: Vec<_> = positions
            .into_iter()
            .map(|(partition, next)| (at(partition), Position { offset: Offset(next), metadata: String::new() }))
            .collect();
        self.producer.send_positions(&group, &positions)?;
        self.producer.commit()?;
        for (_, output) in self.ready.drain(..) {
            self.worker.meters.rows_scored.add(output.receipt.counts.scored);
            self.worker.meters.rows_dead.add(output.receipt.counts.dead);
        }
        (self.ready_bytes, self.ready_since) = (0, None);
        Ok(())
    }
}

fn send(producer: &mut dyn Producer, topics: &Topics, output: &WindowOutput) -> Result<()> {
    let to = |topic: &Arc<str>| TopicPartition::new(Arc::clone(topic), output.receipt.partition);
    for frame in &output.frames {
        let headers = frame.headers()?;
        producer.send(&to(&topics.output), record(Some(frame.value.clone()), headers))?;
    }
    let json = || vec![(CONTENT_TYPE.to_owned(), Bytes::from_static(b"application/json"))];
    for letter in &output.dead {
        producer.send(&to(&topics.dead_letter), record(Some(letter.encode()?), json()))?;
    }
    producer.send(&to(&topics.ledger), record(Some(output.receipt.encode()?), json()))?;
    Ok(())
}

fn record(value: Option<Bytes>, headers: Vec<(String, Bytes)>) -> Record {
    Record { key: None, value, headers, timestamp_ms: now_ms() }
}
