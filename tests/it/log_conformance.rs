//! What every message log keeps to, as cases that run against any implementation: see [`Harness`] and
//! [`conformance`]. Nothing here knows an implementation: offsets need not be dense, and a log may take
//! its time to hand out partitions.

mod reading;
mod topics;
mod transactions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use scoreline::log::embedded::{Embedded, Options};
use scoreline::log::{
    Cleanup, Consumer, Event, Header, Log, LogError, MAX_RECORD_BYTES, Message, Offset, Position, Producer, Record,
    StartAt, TopicPartition, TopicSpec,
};

/// An implementation to be tested, with a log of its own.
pub trait Harness {
    /// The log.
    fn log(&self) -> Arc<dyn Log>;

    /// Closes the log and opens it again. Nobody holds the log, a producer or a consumer.
    fn reopen(&mut self);

    /// A name that no other topic, group or producer has.
    fn fresh(&mut self, hint: &str) -> String;
}

/// Generates the module `$name` with one test for each case, each with its own `$harness`.
macro_rules! conformance {
    ($name:ident, $harness:expr) => {
        mod $name {
            $crate::log_conformance::conformance!(@cases $harness;
                records_are_read_in_the_order_in_which_they_were_sent,
                each_partition_has_its_own_order,
                interleaved_producers_keep_their_order,
                a_transaction_over_topics_and_positions_is_visible_as_a_whole,
                open_and_aborted_transactions_are_not_seen,
                a_dropped_producer_leaves_nothing,
                a_consumer_resumes_at_its_groups_positions,
                groups_do_not_share_positions,
                a_group_without_positions_starts_where_it_is_told,
                a_seek_goes_back_and_forth,
                an_offset_outside_the_range_is_an_error_until_somebody_seeks,
                a_newer_producer_fences_the_older_one,
                nothing_of_a_fenced_producer_comes_once_its_successor_is_open,
                producers_with_other_ids_are_not_fenced,
                calls_that_the_transactions_state_does_not_allow,
                the_newest_record_of_each_key_survives,
                a_tombstone_deletes_its_key,
                trimmed_records_are_gone,
                trimming_all_leaves_an_empty_range,
                a_deleted_topic_takes_its_records_and_positions_along,
                creating_a_topic_again_does_nothing_or_is_an_error,
                names_that_no_topic_can_have,
                what_is_not_there_is_named,
                a_record_that_is_too_large_leaves_the_transaction_open,
                a_compacted_topic_needs_keys,
                metadata_has_a_limit,
                records_are_kept_exactly,
                an_empty_transaction_commits,
                a_reader_is_no_member_of_a_group,
                a_reader_reads_only_what_it_was_given,
                nothing_new_is_idle,
                a_commit_wakes_a_waiting_poll,
                an_answer_is_bounded,
                all_is_there_after_reopening,
            );
        }
    };
    (@cases $harness:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::log_conformance::$case(&mut $harness);
            }
        )*
    };
}
#[allow(unused_imports, reason = "for the other implementations' tests")]
pub(crate) use conformance;

pub use reading::*;
pub use topics::*;
pub use transactions::*;

/// How long an implementation may take for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long to look for records that must not come.
const GLANCE: Duration = Duration::from_millis(200);

/// The embedded log in a folder that goes when the test ends.
pub struct EmbeddedHarness {
    log: Option<Arc<Embedded>>,
    folder: tempfile::TempDir,
    names: u32,
}

impl EmbeddedHarness {
    /// A new log, with segments so small that most cases use several.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut harness = Self { log: None, folder, names: 0 };
        harness.reopen();
        harness
    }

    /// The log's folder.
    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Harness for EmbeddedHarness {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(self.log.as_ref().unwrap()) as Arc<dyn Log>
    }

    fn reopen(&mut self) {
        self.log = None;
        let options = Options { segment_bytes: 2000, ..Options::default() };
        self.log = Some(Arc::new(Embedded::open(&self.path(), options).unwrap()));
    }

    fn fresh(&mut self, hint: &str) -> String {
        self.names += 1;
        format!("{hint}-{}", self.names)
    }
}

conformance!(embedded, crate::log_conformance::EmbeddedHarness::new());

/// Creates a topic and returns its partitions.
fn topic(harness: &mut dyn Harness, partitions: u32, cleanup: Cleanup) -> Vec<TopicPartition> {
    let name: Arc<str> = harness.fresh("topic").into();
    harness.log().create_topic(&TopicSpec { name: Arc::clone(&name), partitions, cleanup }).unwrap();
    (0..partitions).map(|partition| TopicPartition::new(Arc::clone(&name), partition)).collect()
}

/// Creates an ordinary topic with one partition.
fn one(harness: &mut dyn Harness) -> TopicPartition {
    topic(harness, 1, Cleanup::Delete).remove(0)
}

/// A record with a value.
#[allow(clippy::needless_pass_by_value, reason = "numbers and texts alike")]
pub fn value(text: impl ToString) -> Record {
    Record { value: Some(Bytes::from(text.to_string())), timestamp_ms: 1, ..Record::default() }
}

/// A record with a key and perhaps a value.
pub fn keyed(key: &str, text: Option<&str>) -> Record {
    let key = Some(Bytes::from(key.to_owned()));
    Record { key, value: text.map(|text| Bytes::from(text.to_owned())), timestamp_ms: 1, ..Record::default() }
}

/// A record's value as text.
pub fn text(message: &Message) -> String {
    String::from_utf8(message.record.value.as_ref().unwrap().to_vec()).unwrap()
}

/// Records' values as texts.
pub fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(text).collect()
}

/// A position without metadata.
pub fn position(offset: u64) -> Position {
    Position { offset: Offset(offset), metadata: String::new() }
}

/// Sends records in one transaction.
pub fn commit(producer: &mut dyn Producer, records: impl IntoIterator<Item = (TopicPartition, Record)>) {
    producer.begin().unwrap();
    for (to, record) in records {
        producer.send(&to, record).unwrap();
    }
    producer.commit().unwrap();
}

/// Sends values `range` to `to` in one transaction of a producer of its own.
fn fill(harness: &mut dyn Harness, to: &TopicPartition, range: std::ops::Range<u32>) {
    let id = harness.fresh("filler");
    let mut producer = harness.log().producer(&id).unwrap();
    commit(&mut *producer, range.map(|i| (to.clone(), value(i))));
}

/// Reads until there are `count` records, and not more.
pub fn read(consumer: &mut dyn Consumer, count: usize) -> Vec<Message> {
    let deadline = Instant::now() + PATIENCE;
    let mut messages = Vec::new();
    while messages.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", messages.len());
        match consumer.poll(deadline.saturating_duration_since(Instant::now())).unwrap() {
            Event::Records(records) => {
                assert!(!records.is_empty());
                messages.extend(records);
            }
            Event::Idle => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages.len(), count);
    messages
}

/// Checks that nothing comes.
pub fn nothing_comes(consumer: &mut dyn Consumer) {
    assert_eq!(consumer.poll(GLANCE).unwrap(), Event::Idle);
}

/// Joins a group and waits for its partitions.
pub fn join(
    log: &dyn Log,
    group: &str,
    topics: &[&str],
    start: StartAt,
) -> (Box<dyn Consumer>, Vec<(TopicPartition, Offset)>) {
    let mut consumer = log.subscribe(group, topics, start).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no partitions were handed out");
        match consumer.poll(PATIENCE).unwrap() {
            Event::Assigned(partitions) => return (consumer, partitions),
            Event::Idle => {}
            other => panic!("{other:?}"),
        }
    }
}

/// All records of the given partitions, read by a new reader. Superseded records may be missing.
pub fn all(log: &dyn Log, of: &[TopicPartition]) -> Vec<Message> {
    let ranges: Vec<_> = of.iter().map(|at| (at.clone(), log.offsets(at).unwrap())).collect();
    let from: Vec<_> = ranges.iter().map(|(at, range)| (at.clone(), range.start)).collect();
    let mut reader = log.reader(&from).unwrap();
    let mut messages = Vec::new();
    loop {
        match reader.poll(GLANCE).unwrap() {
            Event::Records(records) => messages.extend(records),
            Event::Idle => return messages,
            other => panic!("{other:?}"),
        }
    }
}

/// The numbers `range` as texts.
pub fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| i.to_string()).collect()
}

/// What a reader of a compacted topic makes of its records.
pub fn table(messages: &[Message]) -> BTreeMap<String, String> {
    assert!(messages.is_sorted_by(|a, b| a.offset < b.offset));
    let mut table = BTreeMap::new();
    for message in messages {
        let key = String::from_utf8(message.record.key.as_ref().unwrap().to_vec()).unwrap();
        match &message.record.value {
            Some(_) => table.insert(key, text(message)),
            None => table.remove(&key),
        };
    }
    table
}
