//! The ledger's promise: a window or a row that was lost, doubled, moved or altered between ingest and the output is
//! caught by the sink, and nothing is published.
//!
//! A run is ingested and scored for real; then its output and its ledger are copied to another log with one fault each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt64Array};
use bytes::Bytes;
use scoreline::control::local::{open_dataset, prediction_schema};
use scoreline::ingest::{Dataset, DatasetOptions, Ingest};
use scoreline::log::embedded::{Embedded, Options};
use scoreline::log::{Cleanup, Event, Log, Offset, Position, Record, StartAt, TopicPartition, TopicSpec};
use scoreline::record::frame::{FRAME_HEADER, Origin, decode_header, decode_rows, encode_output};
use scoreline::record::run::{
    IngestProgress, Missing, OutputAction, OutputFormat, OutputRecord, OutputSpec, RunDefinition, RunRecord, Topics,
    WORKER_GROUP, key,
};
use scoreline::record::{Lines, MiniBatchSize, Receipt, Rows, RunId};
use scoreline::score::{Limits, Model, Worker};
use scoreline::service::{Meters, Stop, state_record};
use scoreline::sink::{Sink, SinkError};

use crate::support::{fixture, folder, model, runtime};

const PARTITIONS: u32 = 3;

/// A run that was ingested and scored, and not yet written.
struct Scored {
    folder: tempfile::TempDir,
    log: Embedded,
    run: RunRecord,
    ingested: IngestProgress,
}

/// A window as it stands on the ledger and the output topic.
#[derive(Clone)]
struct WindowRecords {
    receipt: Receipt,
    output: Vec<Record>,
}

fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap()
}

fn definition(dataset: &Dataset, model: &Model, output: &Path) -> RunDefinition {
    RunDefinition {
        model: model.digest,
        inputs: dataset.files.clone(),
        dataset: serde_json::to_value(&dataset.options).unwrap(),
        schema: dataset.schema.as_ref().clone(),
        mini_batch_size: MiniBatchSize::Rows(10),
        partitions: PARTITIONS,
        map: BTreeMap::new(),
        missing: Missing::Nan,
        probabilities: false,
        error_threshold: -1,
        output: OutputSpec {
            path: output.to_str().unwrap().to_owned(),
            format: OutputFormat::Csv,
            action: OutputAction::AppendRow,
            row_group_rows: 1000,
            part_rows: 1000,
            escape_formulas: false,
        },
    }
}

fn create_topics(log: &Embedded, topics: &Topics) {
    let create = |name: &Arc<str>, partitions, cleanup| {
        log.create_topic(&TopicSpec { name: Arc::clone(name), partitions, cleanup }).unwrap();
    };
    create(&topics.state, 1, Cleanup::Compact);
    for name in [&topics.input, &topics.output, &topics.dead_letter, &topics.ledger] {
        create(name, PARTITIONS, Cleanup::Delete);
    }
}

/// Ingests and scores the Iris data in windows of ten rows.
fn scored() -> Scored {
    let folder = folder();
    let log = Embedded::open(&folder.path().join("log"), Options::default()).unwrap();
    let model = Arc::new(Model::load(&model("iris_lr_tensor_float"), &runtime()).unwrap());
    let options = DatasetOptions { header: true, quote: Some(b'"'), ..DatasetOptions::default() };
    let inputs = [fixture("data/iris.csv").to_str().unwrap().to_owned()];
    let (dataset, binding) = open_dataset(&inputs, options, &model, &BTreeMap::new()).unwrap();
    let run = RunRecord {
        run: RunId::new("run-1"),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        model_name: model.name.clone(),
        prediction_schema: prediction_schema(&model, &binding, false).unwrap(),
        definition: definition(&dataset, &model, &folder.path().join("scored.csv")),
        topics: Topics::default(),
        starts: vec![0; PARTITIONS as usize],
    };
    create_topics(&log, &run.topics);
    put(&log, &run, &key::run(&run.run), &run);
    let (stop, cut, meters) = (Stop::default(), Stop::default(), Meters::default());
    let ingest = Ingest {
        log: &log,
        run: &run,
        dataset: &dataset,
        pool: &pool(),
        has_room: &|| true,
        stop: &stop,
        cut: &cut,
        meters: &meters,
    };
    let ingested = ingest.run(IngestProgress::default()).unwrap();
    let limits = Limits { threads: 2, max_try: 3, timeout: Duration::from_mins(1) };
    let worker = Worker { log: &log, topics: &run.topics, model, limits, stop: &stop, meters: &meters };
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| worker.run());
        let mut ledger = log.reader(&partitions(&run.topics.ledger)).unwrap();
        let mut receipts = 0;
        while receipts < ingested.windows {
            if let Event::Records(messages) = ledger.poll(Duration::from_millis(50)).unwrap() {
                receipts += messages.len() as u64;
            }
        }
        stop.ask();
        worker.join().unwrap().unwrap();
    });
    Scored { folder, log, run, ingested }
}

fn partitions(topic: &Arc<str>) -> Vec<(TopicPartition, Offset)> {
    (0..PARTITIONS).map(|p| (TopicPartition::new(Arc::clone(topic), p), Offset(0))).collect()
}

fn put<T: serde::Serialize>(log: &Embedded, run: &RunRecord, key: &str, value: &T) {
    let mut producer = log.producer("test").unwrap();
    producer.begin().unwrap();
    producer.send(&TopicPartition::new(Arc::clone(&run.topics.state), 0), state_record(key, value).unwrap()).unwrap();
    producer.commit().unwrap();
}

fn read_all(log: &Embedded, topic: &Arc<str>, partition: u32) -> Vec<Record> {
    let from = [(TopicPartition::new(Arc::clone(topic), partition), Offset(0))];
    let mut reader = log.reader(&from).unwrap();
    let mut records = Vec::new();
    while let Event::Records(messages) = reader.poll(Duration::ZERO).unwrap() {
        records.extend(messages.into_iter().map(|message| message.record));
    }
    records
}

impl Scored {
    /// The windows by number.
    fn windows(&self) -> Vec<WindowRecords> {
        let mut windows = Vec::new();
        for partition in 0..PARTITIONS {
            let mut output = read_all(&self.log, &self.run.topics.output, partition).into_iter();
            for record in read_all(&self.log, &self.run.topics.ledger, partition) {
                let receipt = Receipt::decode(record.value.as_ref()).unwrap();
                let output = output.by_ref().take(receipt.output_records as usize).collect();
                windows.push(WindowRecords { receipt, output });
            }
        }
        windows.sort_by_key(|window| window.receipt.window);
        windows
    }

    /// Has the sink write these windows from a log of their own.
    fn sink(&self, name: &str, windows: &[WindowRecords]) -> Result<Option<OutputRecord>, SinkError> {
        let log = Embedded::open(&self.folder.path().join(name), Options::default()).unwrap();
        let topics = &self.run.topics;
        create_topics(&log, topics);
        put(&log, &self.run, &key::run(&self.run.run), &self.run);
        put(&log, &self.run, &key::ingest(&self.run.run), &self.ingested);
        let mut member = log.subscribe(WORKER_GROUP, &[&topics.input], StartAt::Earliest).unwrap();
        member.poll(Duration::ZERO).unwrap();
        let mut producer = log.producer("test").unwrap();
        producer.begin().unwrap();
        let mut ends = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let input = TopicPartition::new(Arc::clone(&topics.input), partition);
            for record in read_all(&self.log, &topics.input, partition) {
                producer.send(&input, record).unwrap();
            }
            let offset = Offset(self.ingested.ends.as_ref().unwrap()[partition as usize]);
            ends.insert(input, Position { offset, metadata: String::new() });
        }
        producer.commit().unwrap();
        producer.begin().unwrap();
        for window in windows {
            let to = |topic: &Arc<str>| TopicPartition::new(Arc::clone(topic), window.receipt.partition);
            for record in &window.output {
                producer.send(&to(&topics.output), record.clone()).unwrap();
            }
            let value = Some(window.receipt.encode().unwrap());
            producer.send(&to(&topics.ledger), Record { value, ..Record::default() }).unwrap();
        }
        let positions: Vec<_> = ends.into_iter().collect();
        producer.send_positions(&member.group_metadata().unwrap(), &positions).unwrap();
        producer.commit().unwrap();
        let (stop, meters) = (Stop::default(), Meters::default());
        let sink = Sink {
            log: &log,
            run: &self.run,
            staging: &self.folder.path().join(format!("{name}-staging")),
            replace: false,
            replace_beside: false,
            pool: &pool(),
            stop: &stop,
            meters: &meters,
        };
        sink.run()
    }

    fn output(&self) -> PathBuf {
        PathBuf::from(&self.run.definition.output.path)
    }

    #[track_caller]
    fn assert_caught(&self, name: &str, windows: &[WindowRecords]) {
        match self.sink(name, windows) {
            Err(SinkError::Ledger(why)) => println!("{name}: {why}"),
            other => panic!("{name} was not caught: {other:?}"),
        }
        assert!(!self.output().exists(), "{name}: something was published");
    }
}

/// A window's first output record with its rows changed by `change`, its header untouched.
fn with_rows(window: &WindowRecords, change: impl Fn(&RecordBatch) -> RecordBatch) -> WindowRecords {
    let mut changed = window.clone();
    let record = &mut changed.output[0];
    let header = decode_header(record.header(FRAME_HEADER)).unwrap();
    let rows = decode_rows(&header, record.value.as_ref()).unwrap();
    let origin = Origin { run: header.run.clone(), window: header.window, file: header.file, model: header.model };
    let batch = change(&rows.batch);
    let frames = encode_output(&origin, &Rows { batch, numbers: header.rows.clone(), lines: Lines::None }).unwrap();
    assert_eq!(frames.len(), 1);
    record.value = Some(frames[0].value.clone());
    changed
}

/// The batch with its rows in the order of `places`.
fn picked(batch: &RecordBatch, places: &[u64]) -> RecordBatch {
    arrow::compute::take_record_batch(batch, &UInt64Array::from(places.to_vec())).unwrap()
}

#[test]
fn an_untouched_run_is_published() {
    let scored = scored();
    let output = scored.sink("whole", &scored.windows()).unwrap().unwrap();
    assert_eq!((output.counts.rows, output.counts.scored, output.windows), (150, 150, 15));
    assert_eq!(std::fs::read_to_string(scored.output()).unwrap().lines().count(), 151);
}

#[test]
fn lost_and_doubled_windows_are_caught() {
    let scored = scored();
    let windows = scored.windows();
    for (name, at) in [("first", 0), ("middle", 7), ("last", windows.len() - 1)] {
        let mut lost = windows.clone();
        lost.remove(at);
        scored.assert_caught(&format!("lost-{name}"), &lost);
        let mut doubled = windows.clone();
        doubled.insert(at, windows[at].clone());
        scored.assert_caught(&format!("doubled-{name}"), &doubled);
    }
    let mut lost_and_doubled = windows.clone();
    lost_and_doubled[4] = windows[7].clone();
    scored.assert_caught("one-lost-another-doubled", &lost_and_doubled);
    let mut no_output = windows.clone();
    no_output[3].output.clear();
    scored.assert_caught("output-lost", &no_output);
}

#[test]
fn a_row_lost_while_another_is_doubled_is_caught() {
    let scored = scored();
    let windows = scored.windows();
    let all: Vec<u64> = (0..10).collect();
    let with = |change: &[(usize, u64)]| {
        let mut places = all.clone();
        change.iter().for_each(|(at, place)| places[*at] = *place);
        places
    };
    for (name, places) in [
        ("row-lost-and-doubled", with(&[(2, 6)])),
        ("rows-swapped", with(&[(2, 6), (6, 2)])),
        ("neighbours-swapped", with(&[(0, 1), (1, 0)])),
    ] {
        let mut changed = windows.clone();
        changed[5] = with_rows(&windows[5], |batch| picked(batch, &places));
        scored.assert_caught(name, &changed);
    }
    let mut swapped = windows.clone();
    (swapped[2].output, swapped[5].output) = (windows[5].output.clone(), windows[2].output.clone());
    scored.assert_caught("outputs-of-two-windows-swapped", &swapped);
}

#[test]
fn receipts_that_tell_other_numbers_are_caught() {
    let scored = scored();
    let windows = scored.windows();
    let mut fewer = windows.clone();
    (fewer[1].receipt.counts.rows, fewer[1].receipt.counts.scored) = (9, 9);
    scored.assert_caught("fewer-rows", &fewer);
    let mut dead = windows.clone();
    (dead[1].receipt.counts.scored, dead[1].receipt.counts.dead) = (9, 1);
    scored.assert_caught("a-row-said-to-be-dead", &dead);
    let mut offsets = windows.clone();
    offsets[1].receipt.first += 1;
    scored.assert_caught("a-gap", &offsets);
    let mut other_run = windows;
    other_run[1].receipt.run = RunId::new("run-2");
    scored.assert_caught("another-run", &other_run);
}

#[test]
fn a_receipt_that_does_not_add_up_is_refused() {
    let scored = scored();
    let mut receipt = scored.windows()[0].receipt.clone();
    receipt.counts.dead += 1;
    assert!(Receipt::decode(Some(&receipt.encode().unwrap())).is_err());
    assert!(Receipt::decode(Some(&Bytes::from_static(b"{}"))).is_err());
    assert!(Receipt::decode(None).is_err());
}
