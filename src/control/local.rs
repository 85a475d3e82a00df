//! A run in one process, on the embedded log: ingest, worker, sink and coordinator as threads that meet at topics.
//!
//! The work folder beside the output (`OUTPUT.scoreline/`) holds the log and the staged files while the run lasts.
//! Whatever happens to the process, the same command finds it there and goes on. It is removed when the run has
//! ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::coordinator::Coordinator;
use super::error::{ControlError, Result};
use crate::ingest::source::STDIN;
use crate::ingest::{Dataset, DatasetOptions, Ingest, IngestError};
use crate::log::embedded::{Embedded, Options};
use crate::log::{Cleanup, Log, LogError, TopicPartition, TopicSpec};
use crate::record::run::{
    IngestProgress, InputFile, Outcome, OutputRecord, PublishedFile, RunDefinition, RunRecord, Topics, key,
};
use crate::record::{ByteSize, Digest, RowCounts, RunId};
use crate::score::bind::wanted_element;
use crate::score::scorer::Scorer;
use crate::score::{Binding, Limits, Model, Worker};
use crate::service::{Meters, StateView, Stop, state_record};
use crate::sink::staging::digest_of;
use crate::sink::{Manifest, Names, Sink};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(50);
/// Ingest waits while the log takes more than this, or half the quota: what is further ahead only fills the disk.
const AHEAD_BYTES: u64 = 192 << 20;

/// What a run in one process needs.
pub struct LocalRun {
    /// The model.
    pub model: Arc<Model>,
    /// The inputs as they were named, for the columns to be looked at.
    pub dataset: Dataset,
    /// What decides the run's output.
    pub definition: RunDefinition,
    /// The prediction's columns.
    pub prediction_schema: arrow::datatypes::Schema,
    /// The work folder.
    pub work: PathBuf,
    /// The most disk that the log may take.
    pub log_quota: ByteSize,
    /// What bounds the scoring.
    pub limits: Limits,
    /// Whether files that exist may be replaced.
    pub overwrite: bool,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes of the inputs read.
    pub bytes_read: u64,
    /// Bytes of the inputs in all; 0 where that is not known.
    pub bytes_total: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows written or dead.
    pub rows_done: u64,
    /// Rows that failed.
    pub rows_dead: u64,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed.
    pub reason: Option<String>,
    /// Whether it went on from an earlier process.
    pub resumed: bool,
    /// Whether it had ended before: the same command was run again, and there was nothing to do.
    pub ended_before: bool,
    /// Rows by what became of them.
    #[serde(flatten)]
    pub counts: RowCounts,
    /// Windows.
    pub windows: u64,
    /// Seconds in this process.
    pub elapsed_s: f64,
    /// Rows done in this process per second.
    pub rows_per_s: f64,
    /// The model's name.
    pub model: String,
    /// The model's SHA-256.
    pub model_sha256: Digest,
    /// The output's files.
    pub files: Vec<PublishedFile>,
    /// The manifest.
    pub manifest: PathBuf,
    /// The ledger.
    pub ledger: PublishedFile,
    /// The dead letters.
    pub dead_letters: Option<PublishedFile>,
    /// The first reasons for dead letters.
    pub first_errors: Vec<String>,
    /// The most disk that the log took at once, in bytes.
    pub log_peak_bytes: u64,
    /// What was written to the log in all, in bytes.
    pub log_written_bytes: u64,
}

/// Opens a dataset with the model in view: columns that feed numbers are numbers, however they look at first.
///
/// # Errors
/// Files that cannot be read, columns that do not feed the model.
pub fn open_dataset(
    inputs: &[String],
    options: DatasetOptions,
    model: &Model,
    map: &crate::score::ColumnMap,
) -> Result<(Dataset, Binding)> {
    use crate::ingest::infer::Wanted;
    use crate::score::model::Element;
    let wanted = |column: &str| match wanted_element(model, map, column) {
        None => Wanted::Nothing,
        Some(Element::String) => Wanted::Text,
        Some(_) => Wanted::Number,
    };
    let mut dataset = Dataset::open(inputs, options, &wanted)?;
    let binding = Binding::new(model, &dataset.schema, map)?;
    let floats = binding.0.iter().filter(|b| matches!(b.input.element, Element::Float | Element::Double));
    dataset.widen(floats.flat_map(|b| b.columns.iter().copied()));
    Ok((dataset, binding))
}

/// The prediction's columns of a model.
///
/// # Errors
/// What ONNX Runtime says.
pub fn prediction_schema(
    model: &Arc<Model>,
    binding: &Binding,
    probabilities: bool,
) -> Result<arrow::datatypes::Schema> {
    Ok(Scorer::new(Arc::clone(model), probabilities, 1)?.prediction_schema(binding)?)
}

impl LocalRun {
    /// Runs to the end, or until `interrupt` is asked. `tell` hears of the progress, now and then.
    ///
    /// # Errors
    /// [`ControlError`]; the same call goes on where this one was.
    pub fn run(&self, interrupt: &Stop, tell: &mut dyn FnMut(Progress)) -> Result<RunSummary> {
        let begun = Instant::now();
        let options = Options { quota_bytes: Some(self.log_quota.0), ..Options::default() };
        let log_folder = self.work.join("log");
        if !log_folder.exists() {
            // What a crash left half removed is no unfinished run.
            self.remove_work()?;
            if let Some(manifest) = self.ended_before().filter(|_| !self.overwrite && !self.is_from_stdin()) {
                return Ok(self.summary_of(manifest));
            }
            self.check_place()?;
        }
        let log = Embedded::open(&log_folder, options)?;
        let (record, resumed) = self.begin(&log)?;
        let meters = Meters::default();
        tracing::info!(run = %record.run, resumed, files = record.definition.inputs.len(), model = %record.definition.model.short(), "run begins");
        let output = self.run_services(&log, &record, &meters, interrupt, tell)?;
        let usage = log.disk_usage();
        tracing::info!(run = %record.run, rows = output.counts.rows, scored = output.counts.scored, dead = output.counts.dead, "run ended");
        drop(log);
        self.remove_work()?;
        let elapsed_s = begun.elapsed().as_secs_f64();
        let done = meters.rows_out.get() + meters.rows_dead.get();
        Ok(RunSummary {
            run: record.run,
            outcome: output.outcome,
            reason: output.reason,
            resumed,
            ended_before: false,
            counts: output.counts,
            windows: output.windows,
            elapsed_s,
            rows_per_s: done as f64 / elapsed_s.max(1e-9),
            model: self.model.name.clone(),
            model_sha256: self.model.digest,
            files: output.files,
            manifest: Names::beside(Path::new(&self.definition.output.path)).manifest,
            ledger: output.ledger,
            dead_letters: output.dead_letters,
            first_errors: output.first_errors,
            log_peak_bytes: usage.peak_bytes,
            log_written_bytes: usage.written_bytes,
        })
    }

    /// Removes the work folder; a crash in the middle leaves nothing that looks like an unfinished run.
    fn remove_work(&self) -> Result<()> {
        let mut ended = self.work.as_os_str().to_owned();
        ended.push(".ended");
        let ended = PathBuf::from(ended);
        let renamed = if self.work.exists() { std::fs::rename(&self.work, &ended) } else { Ok(()) };
        let removed = renamed.and_then(|()| if ended.exists() { std::fs::remove_dir_all(&ended) } else { Ok(()) });
        removed.map_err(|e| ControlError::Place(format!("cannot remove the work folder {}: {e}", self.work.display())))
    }

    /// Whether the rows come from standard input, of which one cannot tell whether it is the same again.
    fn is_from_stdin(&self) -> bool {
        self.definition.inputs.iter().any(|file| file.path == STDIN)
    }

    /// The manifest of this very run, where it has ended already: with this definition, and files that are still
    /// what it says. Running it again would write the same bytes.
    pub fn ended_before(&self) -> Option<Manifest> {
        let names = Names::beside(Path::new(&self.definition.output.path));
        let manifest = Manifest::read(&names.manifest)?;
        let is_this = manifest.outcome == Outcome::Finished && manifest.parameters == self.definition;
        let is_whole = |file: &PublishedFile| digest_of(Path::new(&file.path)).is_ok_and(|found| found == file.sha256);
        let beside = std::iter::once(&manifest.ledger).chain(&manifest.dead_letters);
        let is_ended = is_this && manifest.files.iter().chain(beside).all(is_whole);
        is_ended.then_some(manifest)
    }

    /// Removes an unfinished run to the same output, unless another process is at it.
    ///
    /// # Errors
    /// [`LogError::InUse`], or what the system says.
    pub fn give_up_earlier(&self) -> Result<()> {
        let log = self.work.join("log");
        if log.is_dir() {
            // A damaged log is given up like any other; one that is in use is not.
            if let Err(error @ LogError::InUse { .. }) = Embedded::open(&log, Options::default()) {
                return Err(error.into());
            }
        }
        let removed = std::fs::remove_dir_all(&self.work);
        removed.map_err(|e| ControlError::Place(format!("cannot remove {}: {e}", self.work.display())))
    }

    /// Checks that the output can be where it is wanted, before anything is done.
    fn check_place(&self) -> Result<()> {
        let output = Path::new(&self.definition.output.path);
        let names = Names::beside(output);
        let folder = output.parent().unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let why = format!("the folder {} of --output does not exist; create it first", folder.display());
            return Err(ControlError::Place(why));
        }
        let is_parts = self.definition.output.action == crate::record::run::OutputAction::Parts;
        if output.is_dir() && !is_parts {
            return Err(ControlError::Place(format!("--output {} is a folder; name a file", output.display())));
        }
        let is_failed_before = self.is_failed_before();
        let beside = [&names.manifest, &names.ledger, &names.dead_letters];
        let taken = std::iter::once(&names.output).chain(beside.into_iter().filter(|_| !is_failed_before));
        match taken.into_iter().find(|path| path.exists()) {
            Some(path) if !self.overwrite => Err(ControlError::Place(format!(
                "{} exists; choose another --output, or add --overwrite",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether an earlier run to the same place failed: what it left may be replaced.
    fn is_failed_before(&self) -> bool {
        let names = Names::beside(Path::new(&self.definition.output.path));
        Manifest::read(&names.manifest).is_some_and(|manifest| manifest.outcome == Outcome::Failed)
    }

    /// The run's record: the one that stands on the log, or a new one.
    fn begin(&self, log: &Embedded) -> Result<(RunRecord, bool)> {
        let topics = Topics::default();
        let spec = |name: &Arc<str>, partitions, cleanup| TopicSpec { name: Arc::clone(name), partitions, cleanup };
        let state_spec = spec(&topics.state, 1, Cleanup::Compact);
        log.create_topic(&state_spec)?;
        let state = StateView::new(log, &topics.state)?;
        let records = state.keys("run/").into_iter().filter(|key| key.matches('/').count() == 1);
        for run_key in records {
            let Some(record) = state.get::<RunRecord>(&run_key)? else { continue };
            if record.definition == self.definition {
                return Ok((record, true));
            }
            let differs = differences(&record.definition, &self.definition);
            return Err(ControlError::OtherRun { folder: self.work.clone(), differs });
        }
        let partitions = self.definition.partitions;
        for topic in [&topics.input, &topics.output, &topics.dead_letter, &topics.ledger] {
            log.create_topic(&spec(topic, partitions, Cleanup::Delete))?;
        }
        let start = |p| Ok(log.offsets(&TopicPartition::new(Arc::clone(&topics.input), p))?.end.0);
        let now = jiff::Timestamp::now();
        let record = RunRecord {
            run: new_run_id(now),
            created_at: now.to_string(),
            model_name: self.model.name.clone(),
            prediction_schema: self.prediction_schema.clone(),
            definition: self.definition.clone(),
            starts: (0..partitions).map(start).collect::<Result<_>>()?,
            topics,
        };
        let mut producer = log.producer("scoreline-control")?;
        producer.begin()?;
        let at = TopicPartition::new(Arc::clone(&record.topics.state), 0);
        producer.send(&at, state_record(&key::run(&record.run), &record)?)?;
        producer.commit()?;
        Ok((record, false))
    }

    fn run_services(
        &self,
        log: &Embedded,
        record: &RunRecord,
        meters: &Meters,
        interrupt: &Stop,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<OutputRecord> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.limits.threads.max(1))
            .thread_name(|_| "rows".to_owned())
            .build()
            .map_err(|e| ControlError::Place(format!("cannot start threads: {e}")))?;
        let (stop, cut) = (Stop::default(), Stop::default());
        let most = AHEAD_BYTES.min(self.log_quota.0 / 2);
        let has_room = || log.disk_usage().bytes < most;
        let ingested: Option<IngestProgress> =
            StateView::new(log, &record.topics.state)?.get(&key::ingest(&record.run))?;
        let ingest = Ingest {
            log,
            run: record,
            dataset: &self.dataset,
            pool: &pool,
            has_room: &has_room,
            stop: &stop,
            cut: &cut,
            meters,
        };
        let worker = Worker {
            log,
            topics: &record.topics,
            model: Arc::clone(&self.model),
            limits: self.limits,
            stop: &stop,
            meters,
        };
        let sink = Sink {
            log,
            run: record,
            staging: &self.work.join("staging"),
            replace: self.overwrite,
            replace_beside: self.is_failed_before(),
            pool: &pool,
            stop: &stop,
            meters,
        };
        let total: u64 = record.definition.inputs.iter().map(|file| file.bytes).sum();
        std::thread::scope(|scope| {
            let ingest = scope.spawn(|| asking_on_error(&stop, || run_ingest(&ingest, ingested)));
            let worker = scope.spawn(|| asking_on_error(&stop, || Ok(worker.run()?)));
            let sink = scope.spawn(|| {
                let ended = asking_on_error(&stop, || Ok(sink.run()?));
                stop.ask();
                ended
            });
            let watched = asking_on_error(&stop, || watch(log, record, (&stop, &cut, interrupt), meters, total, tell));
            let (ingest, worker, sink) = (join("ingest", ingest), join("worker", worker), join("sink", sink));
            // The cause comes before its consequences.
            ingest?;
            worker?;
            watched?;
            sink?.ok_or(ControlError::Interrupted)
        })
    }

    /// The summary of a run that had ended before this process began.
    fn summary_of(&self, manifest: Manifest) -> RunSummary {
        RunSummary {
            run: manifest.run,
            outcome: manifest.outcome,
            reason: manifest.reason,
            resumed: false,
            ended_before: true,
            counts: manifest.rows,
            windows: manifest.windows,
            elapsed_s: 0.0,
            rows_per_s: 0.0,
            model: manifest.model.name,
            model_sha256: manifest.model.sha256,
            files: manifest.files,
            manifest: Names::beside(Path::new(&self.definition.output.path)).manifest,
            ledger: manifest.ledger,
            dead_letters: manifest.dead_letters,
            first_errors: manifest.first_errors,
            log_peak_bytes: 0,
            log_written_bytes: 0,
        }
    }
}

fn run_ingest(ingest: &Ingest<'_>, progress: Option<IngestProgress>) -> Result<()> {
    match progress {
        Some(progress) if progress.ends.is_some() => Ok(()),
        progress => match ingest.run(progress.unwrap_or_default()) {
            // Whoever asked to stop says why.
            Ok(_) | Err(IngestError::Stopped) => Ok(()),
            Err(error) => Err(error.into()),
        },
    }
}

/// Follows the run until it is told to stop.
fn watch(
    log: &Embedded,
    record: &RunRecord,
    (stop, cut, interrupt): (&Stop, &Stop, &Stop),
    meters: &Meters,
    bytes_total: u64,
    tell: &mut dyn FnMut(Progress),
) -> Result<()> {
    let mut coordinator = Coordinator::open(log, record)?;
    while !stop.is_asked() {
        coordinator.follow(TICK)?;
        if coordinator.verdict().is_some() {
            cut.ask();
        }
        coordinator.trim()?;
        tell(Progress {
            bytes_read: meters.bytes_read.get(),
            bytes_total,
            rows_in: meters.rows_in.get(),
            rows_done: meters.rows_out.get() + meters.rows_dead.get(),
            rows_dead: meters.rows_dead.get(),
        });
        if interrupt.is_asked() {
            stop.ask();
        }
    }
    Ok(())
}

/// Runs a service; when it fails, the others are asked to stop.
fn asking_on_error<T>(stop: &Stop, run: impl FnOnce() -> Result<T>) -> Result<T> {
    // A panic must not leave the others waiting.
    let guard = AskOnDrop(stop, true);
    let result = run();
    let mut guard = guard;
    guard.1 = result.is_err();
    drop(guard);
    result
}

struct AskOnDrop<'a>(&'a Stop, bool);

impl Drop for AskOnDrop<'_> {
    fn drop(&mut self) {
        if self.1 {
            self.0.ask();
        }
    }
}

fn join<T>(name: &'static str, thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or(Err(ControlError::Panicked(name)))
}

fn new_run_id(now: jiff::Timestamp) -> RunId {
    let second = now.strftime("%Y%m%d-%H%M%S");
    RunId::new(&format!("{second}-{:06x}", now.subsec_nanosecond() & 0x00ff_ffff))
}

/// What differs between two definitions, in words.
fn differences(old: &RunDefinition, new: &RunDefinition) -> String {
    let json = |definition: &RunDefinition| match serde_json::to_value(definition) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (old_json, new_json) = (json(old), json(new));
    let mut differs: Vec<String> = new_json
        .iter()
        .filter(|(name, value)| old_json.get(*name) != Some(value))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(place) = differs.iter().position(|name| name == "inputs") {
        let changed = |file: &&InputFile| !old.inputs.contains(file);
        let files: Vec<_> = new.inputs.iter().filter(changed).map(|file| file.path.clone()).collect();
        differs[place] =
            format!("inputs: {} changed", if files.is_empty() { "the list".to_owned() } else { files.join(", ") });
    }
    differs.join(", ")
}
