//! Random calls against a simple model: lists in memory.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use scoreline::log::embedded::{Embedded, Options};
use scoreline::log::{
    Cleanup, Consumer, Event, GroupMetadata, Log, LogError, Message, Offset, Position, Producer, Record,
    TopicPartition, TopicSpec,
};
use tempfile::TempDir;

use super::{all, copy};
use crate::log_conformance::PATIENCE;

/// The topics that there may be: name, partitions, cleanup.
const TOPICS: [(&str, u32, Cleanup); 3] =
    [("a", 2, Cleanup::Delete), ("b", 1, Cleanup::Delete), ("table", 2, Cleanup::Compact)];

const GROUP: &str = "group";

/// One call.
#[derive(Clone, Debug)]
enum Call {
    Send {
        producer: usize,
        to: usize,
        key: u8,
        size: usize,
        tombstone: bool,
    },
    Position {
        producer: usize,
        to: usize,
        offset: u64,
    },
    Commit {
        producer: usize,
    },
    Abort {
        producer: usize,
    },
    /// Opens the producer anew while the older one is still there.
    Fence {
        producer: usize,
    },
    Trim {
        to: usize,
        tenths: u64,
    },
    Delete {
        topic: usize,
    },
    /// Reads on with the reader that is there all along.
    Read {
        to: usize,
    },
    Reopen,
    /// Goes on with a copy of the files as they are, and so without what closing writes.
    Crash,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let (producer, to) = (0..2_usize, 0..5_usize);
    let send = (producer.clone(), to.clone(), 0..6_u8, 0..600_usize, prop::bool::weighted(0.2));
    let call = prop_oneof![
        40 => send.prop_map(|(producer, to, key, size, tombstone)| Call::Send { producer, to, key, size, tombstone }),
        6 => (producer.clone(), to.clone(), 0..100_u64)
            .prop_map(|(producer, to, offset)| Call::Position { producer, to, offset }),
        20 => producer.clone().prop_map(|producer| Call::Commit { producer }),
        3 => producer.clone().prop_map(|producer| Call::Abort { producer }),
        2 => producer.prop_map(|producer| Call::Fence { producer }),
        10 => (to.clone(), 0..=11_u64).prop_map(|(to, tenths)| Call::Trim { to, tenths }),
        1 => (0..3_usize).prop_map(|topic| Call::Delete { topic }),
        6 => to.prop_map(|to| Call::Read { to }),
        3 => Just(Call::Reopen),
        3 => Just(Call::Crash),
    ];
    prop::collection::vec(call, 1..120)
}

/// A partition: all records that it ever had, and the first that counts.
#[derive(Clone, Debug, Default)]
struct Partition {
    start: u64,
    records: Vec<Record>,
}

/// An open transaction.
#[derive(Default)]
struct Transaction {
    records: Vec<(TopicPartition, u32, Record)>,
    positions: Vec<(TopicPartition, u32, Position)>,
}

/// The log under test, and what it should hold.
struct World {
    folder: TempDir,
    generation: u32,
    options: Options,
    log: Option<Embedded>,
    producers: Vec<(Box<dyn Producer>, Option<Transaction>)>,
    readers: HashMap<TopicPartition, (Box<dyn Consumer>, u64)>,
    /// How often each topic was created, and its partitions.
    topics: BTreeMap<&'static str, (u32, Vec<Partition>)>,
    positions: BTreeMap<TopicPartition, Position>,
}

fn partitions() -> Vec<TopicPartition> {
    TOPICS.iter().flat_map(|(name, count, _)| (0..*count).map(|number| TopicPartition::new(*name, number))).collect()
}

/// An offset as a place in the list of all records.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn is_compacted(at: &TopicPartition) -> bool {
    &*at.topic == "table"
}

impl World {
    fn new(segment_bytes: u64) -> Self {
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            generation: 0,
            options: Options { segment_bytes, ..Options::default() },
            log: None,
            producers: Vec::new(),
            readers: HashMap::new(),
            topics: BTreeMap::new(),
            positions: BTreeMap::new(),
        };
        world.open();
        (0..TOPICS.len()).for_each(|topic| world.create(topic));
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.generation.to_string())
    }

    fn log(&self) -> &Embedded {
        self.log.as_ref().unwrap()
    }

    fn open(&mut self) {
        let log = Embedded::open(&self.path(), self.options.clone()).unwrap();
        self.producers = (0..2).map(|number| (log.producer(&format!("{number}")).unwrap(), None)).collect();
        self.log = Some(log);
    }

    fn close(&mut self) {
        self.producers.clear();
        self.readers.clear();
        self.log = None;
    }

    fn create(&mut self, topic: usize) {
        let (name, partitions, cleanup) = TOPICS[topic];
        self.log().create_topic(&TopicSpec { name: name.into(), partitions, cleanup }).unwrap();
        let (times, parts) = self.topics.entry(name).or_default();
        *times += 1;
        *parts = vec![Partition::default(); partitions as usize];
    }

    fn partition(&mut self, at: &TopicPartition) -> &mut Partition {
        &mut self.topics.get_mut(&*at.topic).unwrap().1[at.partition as usize]
    }

    fn times(&self, at: &TopicPartition) -> u32 {
        self.topics[&*at.topic].0
    }

    fn transaction(&mut self, producer: usize) -> (&mut dyn Producer, &mut Transaction) {
        let (handle, open) = &mut self.producers[producer];
        if open.is_none() {
            handle.begin().unwrap();
        }
        (&mut **handle, open.get_or_insert_default())
    }

    fn call(&mut self, call: &Call) {
        let at = partitions();
        match call {
            Call::Send { producer, to, key, size, tombstone } => {
                let to = at[*to].clone();
                let record = Record {
                    key: (is_compacted(&to) || *key > 3).then(|| Bytes::from(vec![*key])),
                    value: (!tombstone).then(|| Bytes::from(vec![*key; *size])),
                    headers: vec![("size".to_owned(), Bytes::from(size.to_string())); size % 3],
                    timestamp_ms: i64::from(*key) - 2,
                };
                let times = self.times(&to);
                let (handle, transaction) = self.transaction(*producer);
                handle.send(&to, record.clone()).unwrap();
                transaction.records.push((to, times, record));
            }
            Call::Position { producer, to, offset } => {
                let to = at[*to].clone();
                let position = Position { offset: Offset(*offset), metadata: format!("m{offset}") };
                let member = GroupMetadata { group: GROUP.to_owned(), generation: 0 };
                let times = self.times(&to);
                let (handle, transaction) = self.transaction(*producer);
                handle.send_positions(&member, &[(to.clone(), position.clone())]).unwrap();
                transaction.positions.push((to, times, position));
            }
            Call::Commit { producer } => self.commit(*producer),
            Call::Abort { producer } => {
                let (handle, open) = &mut self.producers[*producer];
                handle.abort().unwrap();
                *open = None;
            }
            Call::Fence { producer } => {
                let newer = self.log().producer(&producer.to_string()).unwrap();
                let (mut older, _) = std::mem::replace(&mut self.producers[*producer], (newer, None));
                assert!(matches!(older.commit(), Err(LogError::Fenced { .. })));
            }
            Call::Trim { to, tenths } => {
                let partition = self.partition(&at[*to]);
                let end = partition.records.len() as u64;
                let before = end * tenths / 10;
                partition.start = partition.start.max(before.min(end));
                self.log().trim(&at[*to], Offset(before)).unwrap();
            }
            Call::Delete { topic } => {
                let name = TOPICS[*topic].0;
                self.log().delete_topic(name).unwrap();
                self.positions.retain(|at, _| &*at.topic != name);
                self.readers.retain(|at, _| &*at.topic != name);
                self.create(*topic);
            }
            Call::Read { to } => self.read(&at[*to]),
            Call::Reopen => {
                self.close();
                self.open();
            }
            Call::Crash => {
                let from = self.path();
                self.generation += 1;
                copy(&from, &self.path());
                self.close();
                self.open();
                self.forget_trims();
            }
        }
    }

    fn commit(&mut self, producer: usize) {
        self.transaction(producer);
        let (handle, open) = &mut self.producers[producer];
        let outcome = handle.commit();
        let Transaction { records, positions } = open.take().unwrap();
        let mut touched = records.iter().map(|(at, times, _)| (at, times));
        let mut told = positions.iter().map(|(at, times, _)| (at, times));
        let current = |(at, times): (&TopicPartition, &u32)| self.topics[&*at.topic].0 == *times;
        if !touched.all(current) || !told.all(current) {
            assert!(matches!(outcome, Err(LogError::UnknownTopic { .. })));
            return;
        }
        outcome.unwrap();
        for (at, _, record) in records {
            self.partition(&at).records.push(record);
        }
        self.positions.extend(positions.into_iter().map(|(at, _, position)| (at, position)));
    }

    /// A crash may forget trims: the records are there again, and nothing else differs.
    fn forget_trims(&mut self) {
        for at in partitions() {
            let start = self.log().offsets(&at).unwrap().start.0;
            let partition = self.partition(&at);
            assert!(start <= partition.start);
            partition.start = start;
        }
    }

    /// Reads on where the reader of a partition stood.
    fn read(&mut self, at: &TopicPartition) {
        let log = self.log.clone().unwrap();
        let Partition { start, records } = self.partition(at).clone();
        let (reader, next) = self
            .readers
            .entry(at.clone())
            .or_insert_with(|| (log.reader(&[(at.clone(), Offset(start))]).unwrap(), start));
        if *next < start {
            assert!(matches!(reader.poll(PATIENCE), Err(LogError::OffsetOutOfRange { .. })));
            reader.seek(at, Offset(start)).unwrap();
            *next = start;
        }
        while let Event::Records(messages) = reader.poll(std::time::Duration::ZERO).unwrap() {
            for Message { offset, record, .. } in messages {
                assert!(offset.0 == *next || is_compacted(at) && offset.0 > *next);
                assert_eq!(record, records[index(offset.0)]);
                *next = offset.0 + 1;
            }
        }
        assert!(*next == records.len() as u64 || is_compacted(at));
    }

    fn check(&self) {
        let names: Vec<_> = self.log().topics().unwrap().into_iter().map(|spec| spec.name).collect();
        assert_eq!(names, TOPICS.map(|(name, ..)| Arc::from(name)));
        for at in partitions() {
            let Partition { start, records } = &self.topics[&*at.topic].1[at.partition as usize];
            let range = self.log().offsets(&at).unwrap();
            assert_eq!((range.start.0, range.end.0), (*start, records.len() as u64), "{at}");
            let found = all(self.log(), std::slice::from_ref(&at));
            for message in &found {
                assert_eq!(message.record, records[index(message.offset.0)]);
            }
            let found: Vec<_> = found.into_iter().map(|message| message.offset.0).collect();
            if is_compacted(&at) {
                let mut newest = BTreeMap::new();
                for (offset, record) in records.iter().enumerate() {
                    newest.insert(record.key.clone(), (offset as u64, record.value.is_some()));
                }
                let wanted = newest.into_values().filter(|(offset, live)| *live && offset >= start);
                for (offset, _) in wanted {
                    assert!(found.contains(&offset), "{at}: {offset} of {found:?}");
                }
                // What is deleted may be seen as deleted, and never as it was.
                let seen: BTreeMap<_, _> = found.iter().map(|offset| (&records[index(*offset)].key, *offset)).collect();
                for (key, offset) in seen {
                    let last = records.iter().rposition(|record| record.key == *key).unwrap() as u64;
                    assert!(offset == last, "{at}: a superseded record is the last one of its key");
                }
            } else {
                assert_eq!(found, (*start..records.len() as u64).collect::<Vec<_>>(), "{at}");
            }
            assert_eq!(self.log().position(GROUP, &at).unwrap().as_ref(), self.positions.get(&at));
        }
        let on_disk: u64 = super::segments(&self.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(self.log().disk_usage().bytes, on_disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_simple_model_does(segment_bytes in 0..6000_u64, calls in calls()) {
        let mut world = World::new(segment_bytes);
        for call in &calls {
            world.call(call);
            if matches!(call, Call::Reopen | Call::Crash | Call::Trim { .. } | Call::Delete { .. } | Call::Commit { .. }) {
                world.check();
            }
        }
        world.call(&Call::Crash);
        world.check();
    }
}
