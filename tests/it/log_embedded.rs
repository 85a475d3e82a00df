//! What the embedded log promises beyond the contract of every log, and what it does when the
//! machine misbehaves.

mod crash;
mod model;
mod space;
mod torn;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use scoreline::log::embedded::{Embedded, Options};
use scoreline::log::{
    Cleanup, Event, GroupMetadata, Log, LogError, Message, Offset, Record, StartAt, TopicPartition, TopicSpec,
};

use crate::log_conformance::{PATIENCE, commit, join, keyed, numbers, position, read, texts, value};

/// Says to a test that it runs as a child process, and on which folder.
const CHILD: &str = "SCORELINE_TEST_CHILD";

/// Opens a log with small segments.
fn open(folder: &Path) -> Embedded {
    Embedded::open(folder, Options { segment_bytes: 2000, ..Options::default() }).unwrap()
}

/// Creates a topic and returns its first partition.
fn create(log: &Embedded, name: &str, partitions: u32, cleanup: Cleanup) -> TopicPartition {
    log.create_topic(&TopicSpec { name: name.into(), partitions, cleanup }).unwrap();
    TopicPartition::new(name, 0)
}

/// Sends values `range` to `to` in one transaction.
fn fill(log: &Embedded, to: &TopicPartition, range: std::ops::Range<u32>) {
    commit(&mut *log.producer("filler").unwrap(), range.map(|i| (to.clone(), value(i))));
}

/// All records of the given partitions.
fn all(log: &Embedded, of: &[TopicPartition]) -> Vec<Message> {
    let from: Vec<_> = of.iter().map(|at| (at.clone(), log.offsets(at).unwrap().start)).collect();
    let mut reader = log.reader(&from).unwrap();
    let mut messages = Vec::new();
    // What was committed is there at once.
    while let Event::Records(records) = reader.poll(Duration::ZERO).unwrap() {
        messages.extend(records);
    }
    messages
}

/// The segment files of a log, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|suffix| suffix == "log")).collect();
    segments.sort();
    segments
}

/// Copies the files of a log as they are now: what a crash leaves, as far as the files go.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A call of this program that runs the test `name` of the module `module`, and only that, as a child.
fn child(module: &str, name: &str, folder: &Path) -> Command {
    let (_, module) = module.split_once("::").unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{name}"), "--nocapture", "--test-threads=1"]).env(CHILD, folder);
    command
}

/// The folder that a test runs on as a child process; `None` where it is one test among others.
fn child_folder() -> Option<PathBuf> {
    env::var_os(CHILD).map(PathBuf::from)
}

/// Says something to the parent process. Not with `println!`, which the test framework may hold back.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n> {line}").and_then(|()| out.flush()).unwrap();
}

/// What a child process says, line by line.
fn said(out: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(out).lines().map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("> ")?.to_owned()))
}

#[test]
fn a_second_open_names_the_process_that_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let again = Embedded::open(folder.path(), Options::default()).unwrap_err();
    match &again {
        LogError::InUse { folder: named, pid } => {
            assert_eq!((named.as_path(), pid), (folder.path(), &std::process::id().to_string()));
        }
        other => panic!("{other:?}"),
    }
    assert!(!again.is_retriable());

    // The folder is held as long as anybody can use the log.
    let producer = log.producer("producer").unwrap();
    drop(log);
    assert!(matches!(Embedded::open(folder.path(), Options::default()), Err(LogError::InUse { .. })));
    drop(producer);
    open(folder.path());
}

#[test]
fn child_holder() {
    let Some(folder) = child_folder() else { return };
    let _log = open(&folder);
    say("open");
    // Until the parent goes, or ends this.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_second_open_is_refused_across_processes_until_the_first_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child(module_path!(), "child_holder", folder.path());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(said(child.stdout.take().unwrap()).next().as_deref(), Some("open"));
    match Embedded::open(folder.path(), Options::default()) {
        Err(LogError::InUse { pid, .. }) => assert_eq!(pid, child.id().to_string()),
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    open(folder.path());
}

#[test]
fn folders_are_created_with_those_that_they_are_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/c");
    create(&open(&path), "topic", 1, Cleanup::Delete);
    assert!(open(&path).topic("topic").unwrap().is_some());
}

#[test]
fn a_newer_member_takes_the_group_over() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = create(&log, "topic", 1, Cleanup::Delete);
    fill(&log, &at, 0..3);
    let replaced = |result: Result<(), LogError>| match result {
        Err(LogError::MemberReplaced { group }) => assert_eq!(group, "group"),
        other => panic!("{other:?}"),
    };
    let (mut older, _) = join(&log, "group", &["topic"], StartAt::Earliest);
    read(&mut *older, 3);
    let old = older.group_metadata().unwrap();
    let mut producer = log.producer("producer").unwrap();
    producer.begin().unwrap();
    producer.send_positions(&old, &[(at.clone(), position(3))]).unwrap();
    producer.send(&at, value("with the older one's position")).unwrap();

    let (mut newer, assigned) = join(&log, "group", &["topic"], StartAt::Earliest);
    assert_eq!(assigned, [(at.clone(), Offset(0))]);
    replaced(older.poll(PATIENCE).map(|_| ()));
    replaced(producer.commit());
    producer.begin().unwrap();
    replaced(producer.send_positions(&old, &[(at.clone(), position(3))]));
    replaced(
        producer
            .send_positions(&GroupMetadata { group: "group".to_owned(), generation: 0 }, &[(at.clone(), position(3))]),
    );
    assert_eq!(log.position("group", &at).unwrap(), None);
    let new = newer.group_metadata().unwrap();
    assert!(new.generation > old.generation);
    producer.send_positions(&new, &[(at.clone(), position(2))]).unwrap();
    producer.commit().unwrap();
    assert_eq!(log.position("group", &at).unwrap(), Some(position(2)));
    assert_eq!(texts(&read(&mut *newer, 3)), numbers(0..3));
}

#[test]
fn a_waiting_poll_hears_that_it_was_replaced_and_that_its_topic_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    create(&log, "topic", 1, Cleanup::Delete);
    let started = Instant::now();
    let (mut older, _) = join(&log, "group", &["topic"], StartAt::Earliest);
    // Often enough that the older one is really waiting in one of the rounds.
    for _ in 0..50 {
        let waiting = thread::spawn(move || older.poll(PATIENCE));
        thread::yield_now();
        let (newer, _) = join(&log, "group", &["topic"], StartAt::Earliest);
        assert!(matches!(waiting.join().unwrap(), Err(LogError::MemberReplaced { .. })));
        assert!(started.elapsed() < PATIENCE, "a poll was not woken up");
        older = newer;
    }
    let waiting = thread::spawn(move || older.poll(PATIENCE));
    log.delete_topic("topic").unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(LogError::UnknownTopic { topic }) if topic == "topic"));
    assert!(started.elapsed() < PATIENCE, "a poll was not woken up");
}

#[test]
fn a_topic_deleted_within_a_transaction_fails_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let (at, other) = (create(&log, "topic", 1, Cleanup::Delete), create(&log, "other", 1, Cleanup::Delete));
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    for positions_only in [false, true] {
        let mut producer = log.producer("producer").unwrap();
        producer.begin().unwrap();
        producer.send(&other, value(1)).unwrap();
        if positions_only {
            producer.send_positions(&member, &[(at.clone(), position(0))]).unwrap();
        } else {
            producer.send(&at, value(1)).unwrap();
        }
        log.delete_topic("topic").unwrap();
        // One of the same name is another topic.
        create(&log, "topic", 1, Cleanup::Delete);
        assert!(matches!(producer.commit(), Err(LogError::UnknownTopic { topic }) if topic == "topic"));
        assert!(all(&log, &[at.clone(), other.clone()]).is_empty());
        assert_eq!(log.position("group", &at).unwrap(), None);
    }
}

#[test]
fn partitions_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options::default()).unwrap();
    let first = create(&log, "topic", 4, Cleanup::Delete);
    let partition = |number| TopicPartition::new(Arc::clone(&first.topic), number);
    let mut producer = log.producer("producer").unwrap();
    let large = |size| Record { value: Some(Bytes::from(vec![1; size])), ..Record::default() };
    for _ in 0..4 {
        // Partition 0 holds many small records, 1 a few large ones; 2 holds next to nothing.
        commit(&mut *producer, (0..4000).map(|_| (partition(0), large(1000))));
        commit(&mut *producer, (0..8).map(|_| (partition(1), large(500_000))));
    }
    commit(&mut *producer, [(partition(2), large(10))]);
    let from: Vec<_> = (0..4).map(|number| (partition(number), Offset(0))).collect();
    let mut reader = log.reader(&from).unwrap();
    let mut taken = [0; 4];
    while taken[0] < 16_000_000 || taken[1] < 16_000_000 {
        let Event::Records(records) = reader.poll(PATIENCE).unwrap() else { panic!("there is more") };
        for message in &records {
            taken[message.source.partition as usize] += message.record.size();
        }
        assert_eq!(taken[2], 10, "the partition with one record is served in the first answer");
        assert!(taken[0].abs_diff(taken[1]) < 1_000_000, "one ran ahead: {taken:?}");
        if taken[0] == taken[1] {
            // A partition that gets records late comes first.
            commit(&mut *producer, [(partition(3), large(10))]);
        }
    }
    assert_eq!(taken, [16_000_000, 16_000_000, 10, taken[3]]);
}

#[test]
fn the_partition_that_waited_longest_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options::default()).unwrap();
    let first = create(&log, "topic", 3, Cleanup::Delete);
    let partition = |number| TopicPartition::new(Arc::clone(&first.topic), number);
    let mut reader = log.reader(&[0, 1, 2].map(|number| (partition(number), Offset(0)))).unwrap();
    let mut producer = log.producer("producer").unwrap();
    let mut order = |wanted: &[u32], sent: &[u32]| {
        commit(&mut *producer, sent.iter().map(|number| (partition(*number), value("x"))));
        let sources: Vec<_> = read(&mut *reader, sent.len()).iter().map(|message| message.source.partition).collect();
        assert_eq!(sources, wanted);
    };
    order(&[1], &[1]);
    order(&[0, 2, 1], &[0, 1, 2]);
    order(&[0], &[0]);
    order(&[2, 1, 0], &[0, 1, 2]);
}

#[test]
fn a_record_that_goes_bad_on_the_disk_is_not_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options::default()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    commit(&mut *log.producer("producer").unwrap(), ["first", "needle", "last"].map(|text| (at.clone(), value(text))));
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let needle = bytes.windows(6).position(|window| window == b"needle").unwrap();
    bytes[needle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut reader = log.reader(&[(at.clone(), Offset(0))]).unwrap();
    match reader.poll(PATIENCE) {
        Err(LogError::Damaged { file, at, .. }) => {
            assert_eq!(file, path);
            assert!(at < needle as u64 && needle as u64 - at < 100);
        }
        other => panic!("{other:?}"),
    }
    reader.seek(&at, Offset(2)).unwrap();
    assert_eq!(texts(&read(&mut *reader, 1)), ["last"]);
}

#[test]
fn a_compacted_record_that_goes_bad_does_not_get_into_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = create(&log, "table", 1, Cleanup::Compact);
    commit(&mut *log.producer("producer").unwrap(), [(at.clone(), keyed("key", Some("needle")))]);
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let needle = bytes.windows(6).position(|window| window == b"needle").unwrap();
    bytes[needle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut producer = log.producer("producer").unwrap();
    let mut fail = || -> Result<(), LogError> {
        for _ in 0..100 {
            producer.begin()?;
            producer.send(&at, keyed("other", Some(&"x".repeat(100))))?;
            producer.commit()?;
        }
        Ok(())
    };
    assert!(matches!(fail(), Err(LogError::Damaged { file, .. }) if file == path));
}

/// How many transactions each writer of [`many_threads_at_once`] commits.
const ROUNDS: u32 = 60;

#[test]
fn many_threads_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = create(&log, "topic", 4, Cleanup::Delete);
    let partition = |number| TopicPartition::new(Arc::clone(&at.topic), number);
    thread::scope(|scope| {
        for writer in 0..3 {
            let log = &log;
            scope.spawn(move || {
                let mut producer = log.producer(&format!("producer {writer}")).unwrap();
                for round in 0..ROUNDS {
                    commit(&mut *producer, (0..4).map(|i| (partition(i), value(format!("{writer} {round}")))));
                }
            });
        }
        // A reader that gives up what it has read, and the writers' segments go under its feet.
        let mut reader = log.reader(&[0, 1, 2, 3].map(|number| (partition(number), Offset(0)))).unwrap();
        let mut seen = vec![Vec::new(); 4];
        while seen.iter().map(Vec::len).sum::<usize>() < (3 * 4 * ROUNDS) as usize {
            if let Event::Records(records) = reader.poll(Duration::from_secs(10)).unwrap() {
                for message in records {
                    let number = message.source.partition;
                    assert_eq!(message.offset.0, seen[number as usize].len() as u64);
                    log.trim(&message.source, Offset(message.offset.0 + 1)).unwrap();
                    seen[number as usize].extend(texts(&[message]));
                }
            }
        }
        // Each transaction wrote to all partitions, so all have the same order.
        assert!(seen.iter().all(|texts| *texts == seen[0]));
        for writer in 0..3 {
            let prefix = format!("{writer} ");
            let own: Vec<_> = seen[0].iter().filter(|text| text.starts_with(&prefix)).cloned().collect();
            assert_eq!(own, (0..ROUNDS).map(|round| format!("{writer} {round}")).collect::<Vec<_>>());
        }
    });
    assert!(log.disk_usage().bytes < 8000, "{:?}", log.disk_usage());
}

#[test]
fn a_topic_of_the_same_name_is_another_topic_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    // A record of another topic keeps the old segments there.
    let other = create(&log, "other", 1, Cleanup::Delete);
    fill(&log, &other, 0..1);
    let at = create(&log, "topic", 1, Cleanup::Delete);
    fill(&log, &at, 0..100);
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    let mut producer = log.producer("producer").unwrap();
    producer.begin().unwrap();
    producer.send_positions(&member, &[(at.clone(), position(7))]).unwrap();
    producer.commit().unwrap();
    drop(producer);
    log.delete_topic("topic").unwrap();
    for round in 0..3 {
        // With a snapshot that knows of neither topic, and then with one that knows of the second.
        fill(&log, &other, 100 * round + 1..100 * round + 101);
        drop(log);
        log = open(folder.path());
        create(&log, "topic", 1, Cleanup::Delete);
        assert_eq!(texts(&all(&log, std::slice::from_ref(&at))), numbers(0..round));
        assert_eq!(log.position("group", &at).unwrap(), None);
        fill(&log, &at, round..round + 1);
        assert_eq!(texts(&all(&log, std::slice::from_ref(&other))), numbers(0..100 * round + 101));
    }
}

#[test]
fn the_number_of_a_deleted_topic_is_not_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let churned = create(&log, "churned", 1, Cleanup::Delete);
    // Lets go all segments before the last one.
    let churn = |log: &Embedded| {
        for _ in 0..5 {
            fill(log, &churned, 0..100);
            log.trim(&churned, log.offsets(&churned).unwrap().end).unwrap();
        }
    };
    let at = create(&log, "topic", 1, Cleanup::Delete);
    fill(&log, &at, 0..100);
    let before = tempfile::tempdir().unwrap();
    copy(folder.path(), before.path());
    log.delete_topic("topic").unwrap();
    churn(&log);
    drop(log);
    let log = open(folder.path());
    create(&log, "topic", 1, Cleanup::Delete);
    churn(&log);
    fill(&log, &at, 0..3);
    drop(log);
    // A crash undoes the removal of the files that have the deleted topic's records.
    for file in segments(before.path()) {
        let file = file.file_name().unwrap();
        assert!(!folder.path().join(file).exists());
        fs::copy(before.path().join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(texts(&all(&open(folder.path()), &[at])), numbers(0..3));
}

#[test]
fn a_backlog_of_many_segments_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options { segment_bytes: 0, ..Options::default() }).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    for i in 0..150 {
        fill(&log, &at, 20 * i..20 * (i + 1));
    }
    // More than are held open at a time.
    assert!(segments(folder.path()).len() > 100);
    assert_eq!(texts(&all(&log, std::slice::from_ref(&at))), numbers(0..3000));
    drop(log);
    assert_eq!(texts(&all(&open(folder.path()), &[at])), numbers(0..3000));
}
