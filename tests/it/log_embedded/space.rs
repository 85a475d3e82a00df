//! Disk space: given back, limited, and not there.

use std::env;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scoreline::log::embedded::{DiskUsage, Embedded, Options};
use scoreline::log::{Cleanup, GroupMetadata, Log, LogError, Offset, Producer, Record, Result, TopicPartition};

use super::{all, child, child_folder, copy, create, fill, open, segments};
use crate::log_conformance::{commit, keyed, position, table, texts, value};

/// The bytes of a log's segments, as the file system says.
fn bytes_on_disk(folder: &Path) -> u64 {
    segments(folder).iter().map(|path| path.metadata().unwrap().len()).sum()
}

/// A record with `size` bytes, which begin with `number`.
fn sized(number: u32, size: usize) -> Record {
    let mut value = vec![b'x'; size];
    value[..4].copy_from_slice(&number.to_le_bytes());
    Record { value: Some(Bytes::from(value)), timestamp_ms: 1, ..Record::default() }
}

/// Sends one record in one transaction.
fn try_commit(producer: &mut dyn Producer, to: &TopicPartition, record: Record) -> Result<()> {
    producer.begin()?;
    producer.send(to, record)?;
    producer.commit()
}

/// Checks that the records `0..count` are there, whole and alone, but for the first `trimmed`.
fn holds(log: &Embedded, at: &TopicPartition, trimmed: u32, count: u32, size: usize) {
    let records = all(log, std::slice::from_ref(at));
    let numbers = records.iter().map(|message| message.record.value.as_ref().unwrap());
    let numbers = numbers.inspect(|value| assert_eq!(value.len(), size));
    let numbers: Vec<_> = numbers.map(|value| u32::from_le_bytes(value[..4].try_into().unwrap())).collect();
    assert_eq!(numbers, (trimmed..count).collect::<Vec<_>>());
}

#[test]
fn trimmed_segments_are_given_back_and_small_state_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (at, compacted) = (TopicPartition::new("topic", 1), TopicPartition::new("table", 0));
    let mut log = open(folder.path());
    create(&log, "topic", 2, Cleanup::Delete);
    create(&log, "table", 1, Cleanup::Compact);
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    let mut producer = log.producer("producer").unwrap();
    commit(
        &mut *producer,
        [(compacted.clone(), keyed("early", Some("1"))), (compacted.clone(), keyed("gone", Some("1")))],
    );
    producer.begin().unwrap();
    producer.send_positions(&member, &[(at.clone(), position(17))]).unwrap();
    producer.commit().unwrap();
    commit(&mut *producer, [(compacted.clone(), keyed("gone", None))]);
    for i in 0..50 {
        fill(&log, &at, 20 * i..20 * (i + 1));
    }
    let before = log.disk_usage();
    assert!(segments(folder.path()).len() > 5);
    assert_eq!(before.bytes, bytes_on_disk(folder.path()));

    // In the middle of a segment: what lies wholly before goes.
    log.trim(&at, Offset(500)).unwrap();
    let half = log.disk_usage();
    assert!(half.bytes < before.bytes * 6 / 10, "{before:?} {half:?}");
    assert_eq!(half.bytes, bytes_on_disk(folder.path()));
    log.trim(&at, Offset(1000)).unwrap();
    assert!(segments(folder.path()).len() <= 2);
    for round in 0..3 {
        let usage = log.disk_usage();
        assert!(usage.bytes < 3000, "{usage:?}");
        assert_eq!(usage.bytes, bytes_on_disk(folder.path()));
        assert_eq!(usage.peak_bytes >= before.bytes, round == 0);
        assert_eq!(table(&all(&log, std::slice::from_ref(&compacted))).len(), 1);
        assert_eq!(log.position("group", &at).unwrap(), Some(position(17)));
        assert_eq!((log.offsets(&at).unwrap().start, log.offsets(&at).unwrap().end), (Offset(1000), Offset(1000)));
        assert_eq!(log.topics().unwrap().len(), 2);
        drop((producer, log));
        log = open(folder.path());
        producer = log.producer("producer").unwrap();
    }
    fill(&log, &at, 0..1);
    assert_eq!(all(&log, &[at])[0].offset, Offset(1000));
}

#[test]
fn a_deleted_topic_gives_its_segments_back() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = create(&log, "topic", 1, Cleanup::Delete);
    for i in 0..50 {
        fill(&log, &at, 20 * i..20 * (i + 1));
    }
    // A trim that no batch has said must not be said of a topic that is gone.
    log.trim(&at, Offset(1)).unwrap();
    log.delete_topic("topic").unwrap();
    assert!(log.disk_usage().bytes < 3000);
    drop(log);
    assert!(open(folder.path()).topics().unwrap().is_empty());
}

#[test]
fn the_active_segment_is_given_back_early() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options::default()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let mut producer = log.producer("producer").unwrap();
    for round in 0..20 {
        commit(&mut *producer, [0, 1, 2].map(|i| (at.clone(), sized(i, 500_000))));
        log.trim(&at, Offset(3 * round + 2)).unwrap();
        assert!(log.disk_usage().bytes > 1_500_000, "a record is left");
        log.trim(&at, Offset(3 * round + 3)).unwrap();
        assert!(log.disk_usage().bytes < 1000);
    }
    assert!(log.disk_usage().peak_bytes < 1_600_000);
    assert!(log.disk_usage().written_bytes > 30_000_000);
}

#[test]
fn a_compacted_topic_does_not_grow_with_its_updates() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let at = create(&log, "table", 1, Cleanup::Compact);
    let mut producer = log.producer("producer").unwrap();
    let large = "x".repeat(1000);
    for i in 0..500 {
        if i == 250 {
            drop((producer, log));
            log = open(folder.path());
            producer = log.producer("producer").unwrap();
        }
        commit(&mut *producer, [(at.clone(), keyed(&(i % 10).to_string(), Some(&large)))]);
        commit(&mut *producer, [(at.clone(), keyed(&format!("deleted {i}"), None))]);
    }
    // Ten live records of 1,000 bytes: a snapshot of 10,000, and four times that behind it.
    let DiskUsage { peak_bytes, written_bytes, .. } = log.disk_usage();
    assert!(peak_bytes < 70_000, "{peak_bytes}");
    assert!(written_bytes < 500_000, "snapshots dominate: {written_bytes}");
    assert_eq!(table(&all(&log, std::slice::from_ref(&at))).len(), 10);

    // Deleted keys are forgotten, also those that were deleted before the log was opened.
    let other = create(&log, "topic", 1, Cleanup::Delete);
    commit(&mut *producer, [(at.clone(), keyed("deleted last", None))]);
    drop((producer, log));
    let log = open(folder.path());
    for i in 0..10 {
        fill(&log, &other, 200 * i..200 * (i + 1));
        log.trim(&other, Offset(u64::from(200 * (i + 1)))).unwrap();
    }
    assert_eq!(all(&log, &[at]).len(), 10);
}

#[test]
fn the_quota_refuses_records_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 20_000, quota_bytes: Some(100_000) };
    let log = Embedded::open(folder.path(), options.clone()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let mut producer = log.producer("producer").unwrap();
    let mut count = 0;
    let error = loop {
        match try_commit(&mut *producer, &at, sized(count, 5000)) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(log.disk_usage().bytes <= 100_000);
    };
    assert!(error.is_retriable() && error.to_string().contains("raise the quota"));
    match error {
        LogError::QuotaExceeded { folder: named, quota, used, wanted } => {
            assert_eq!((named.as_path(), quota, used), (folder.path(), 100_000, log.disk_usage().bytes));
            assert!(wanted > 5000 && used + wanted > quota);
        }
        other => panic!("{other:?}"),
    }
    assert!((17..20).contains(&count), "{count}");
    holds(&log, &at, 0, count, 5000);
    // Consumers can still say how far they are, or nothing could ever be trimmed.
    producer.begin().unwrap();
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    for _ in 0..200 {
        producer.send_positions(&member, &[(at.clone(), position(7))]).unwrap();
    }
    producer.commit().unwrap();
    assert!(matches!(try_commit(&mut *producer, &at, sized(count, 5000)), Err(LogError::QuotaExceeded { .. })));
    log.trim(&at, Offset(5)).unwrap();
    try_commit(&mut *producer, &at, sized(count, 5000)).unwrap();
    holds(&log, &at, 5, count + 1, 5000);
    drop((producer, log));
    let log = Embedded::open(folder.path(), options).unwrap();
    holds(&log, &at, 5, count + 1, 5000);
    assert_eq!(log.position("group", &at).unwrap(), Some(position(7)));
}

#[test]
fn a_quota_smaller_than_a_segment_is_enough_for_what_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { quota_bytes: Some(50_000), ..Options::default() };
    let log = Embedded::open(folder.path(), options).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let mut producer = log.producer("producer").unwrap();
    for i in 0..100 {
        try_commit(&mut *producer, &at, sized(i, 10_000)).unwrap();
        log.trim(&at, Offset(u64::from(i) + 1)).unwrap();
    }
    assert!(log.disk_usage().peak_bytes <= 50_000);
}

#[test]
fn positions_alone_do_not_fill_a_log_that_is_at_its_quota() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 20_000, quota_bytes: Some(30_000) };
    let log = Embedded::open(folder.path(), options).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let mut producer = log.producer("producer").unwrap();
    try_commit(&mut *producer, &at, sized(0, 29_000)).unwrap();
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    for i in 0..1000 {
        producer.begin().unwrap();
        producer.send_positions(&member, &[(at.clone(), position(i))]).unwrap();
        producer.commit().unwrap();
    }
    assert!(log.disk_usage().peak_bytes < 60_000, "{:?}", log.disk_usage());
}

/// Runs a test of this module as a child whose folder is a file system of 8 MiB of its own, where
/// this machine can do that.
fn on_small_disk(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let in_namespace = |way: &[&str], script: &str| {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).args(["--", "sh", "-c", script]).arg(folder.path());
        command
    };
    let mount = r#"mount -t tmpfs -o size=8m tmpfs "$0""#;
    let can = |way: &[&str]| {
        let mut command = in_namespace(way, mount);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let ways: [&[&str]; 3] = [&["unshare", "-rm"], &["unshare", "-m"], &["sudo", "-n", "unshare", "-m"]];
    let Some(way) = ways.into_iter().find(|way| can(way)) else {
        assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "this machine cannot mount a small disk");
        eprintln!(
            "\n*** SKIPPED {name}: this machine cannot mount a small disk (neither root nor user namespaces) ***\n"
        );
        return;
    };
    let test = child(module_path!(), name, folder.path());
    let mut command = in_namespace(way, &format!(r#"{mount} && exec "$@""#));
    // Not as variables of the command itself: they may not get through all of these.
    command.arg("env").args(test.get_envs().map(|(name, value)| {
        let mut variable = name.to_owned();
        variable.push("=");
        variable.push(value.unwrap_or_default());
        variable
    }));
    passes(command.arg(test.get_program()).args(test.get_args()));
}

/// Runs a child that is one test, and checks that it ran and passed.
fn passes(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Fills a log until it says that there is no space. Returns how many records it took.
fn until_full(log: &Embedded, at: &TopicPartition, first: u32, size: usize) -> u32 {
    let mut producer = log.producer("producer").unwrap();
    for number in first..first + 1000 {
        match try_commit(&mut *producer, at, sized(number, size)) {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error, LogError::Full { .. }) && error.is_retriable(), "{error:?}");
                return number;
            }
        }
    }
    panic!("the disk is not as small as that");
}

#[test]
fn child_full_disk() {
    const SIZE: usize = 200_000;
    let Some(folder) = child_folder() else { return };
    let filler = folder.join("filler");
    fs::write(&filler, vec![1; 2_000_000]).unwrap();
    let path = folder.join("log");
    let log = Embedded::open(&path, Options { segment_bytes: 1 << 20, ..Options::default() }).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    create(&log, "side", 3, Cleanup::Delete);
    let side = [0, 1, 2].map(|number| TopicPartition::new("side", number));
    commit(&mut *log.producer("producer").unwrap(), side.iter().map(|at| (at.clone(), value("x"))));
    let count = until_full(&log, &at, 0, SIZE);
    assert!(count > 20);
    holds(&log, &at, 0, count, SIZE);
    assert_eq!(bytes_on_disk(&path), log.disk_usage().bytes, "nothing of the failed transaction is left");

    // Space is freed: the same transaction goes through.
    fs::remove_file(&filler).unwrap();
    let mut producer = log.producer("other").unwrap();
    try_commit(&mut *producer, &at, sized(count, SIZE)).unwrap();
    holds(&log, &at, 0, count + 1, SIZE);
    let count = until_full(&log, &at, count + 1, SIZE);

    // Without any space not even a trim can be written; until then the trimmed files stay.
    let (mut rest, mut length) = (fs::File::create(&filler).unwrap(), SIZE);
    while length > 0 {
        length = rest.write(&vec![1; length]).unwrap_or_default();
    }
    let member = GroupMetadata { group: String::new(), generation: 0 };
    let mut tell = || {
        producer.begin().unwrap();
        producer.send_positions(&member, &[(at.clone(), position(1))]).unwrap();
        producer.commit()
    };
    // The end of a block that the file has already takes small batches for a while.
    while tell().is_ok() {}
    let before = segments(&path);
    for at in &side {
        log.trim(at, Offset(1)).unwrap();
    }
    log.trim(&at, Offset(9)).unwrap();
    assert_eq!(segments(&path), before);
    let crashed = tempfile::tempdir().unwrap();
    copy(&path, crashed.path());
    holds(&open(crashed.path()), &at, 0, count, SIZE);
    rest.set_len(4096).unwrap();

    // When the log itself gives space back, it goes on too.
    log.trim(&at, Offset(10)).unwrap();
    try_commit(&mut *producer, &at, sized(count, SIZE)).unwrap();
    let count = until_full(&log, &at, count + 1, SIZE);
    holds(&log, &at, 10, count, SIZE);
    drop((producer, log));
    // What is there can be opened on the full disk, and emptied.
    let log = Embedded::open(&path, Options::default()).unwrap();
    holds(&log, &at, 10, count, SIZE);
    log.trim(&at, Offset(u64::from(count))).unwrap();
    assert!(bytes_on_disk(&path) < 2_000_000);
    fill(&log, &at, 0..1);
}

#[test]
fn a_full_disk_loses_nothing_and_is_survived() {
    on_small_disk("child_full_disk");
}

#[test]
fn child_file_limit() {
    let Some(folder) = child_folder() else { return };
    let log = Embedded::open(&folder, Options::default()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let full = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(300_000), ..full }).unwrap();
    let count = until_full(&log, &at, 0, 70_000);
    assert_eq!(count, 4);
    holds(&log, &at, 0, count, 70_000);
    // Nothing of a transaction that failed is there, positions neither.
    let mut producer = log.producer("producer").unwrap();
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    producer.begin().unwrap();
    producer.send(&at, sized(count, 70_000)).unwrap();
    producer.send_positions(&member, &[(at.clone(), position(1))]).unwrap();
    assert!(matches!(producer.commit(), Err(LogError::Full { .. })));
    assert!(matches!(producer.commit(), Err(LogError::TransactionState { .. })));
    assert_eq!(log.position("group", &at).unwrap(), None);
    holds(&log, &at, 0, count, 70_000);
    assert_eq!(bytes_on_disk(&folder), log.disk_usage().bytes);
    setrlimit(Resource::Fsize, full).unwrap();
    try_commit(&mut *producer, &at, sized(count, 70_000)).unwrap();
    drop((producer, log));
    holds(&Embedded::open(&folder, Options::default()).unwrap(), &at, 0, count + 1, 70_000);
}

#[test]
fn a_limit_for_the_size_of_files_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let test = child(module_path!(), "child_file_limit", folder.path());
    // The signal that comes with the error would end the process; that it is ignored is inherited.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ && exec "$0" "$@""#]).arg(test.get_program()).args(test.get_args());
    command.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    passes(&mut command);
}

#[test]
fn values_are_written_whole_over_many_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options::default()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let records = (0..3000).map(|i| (at.clone(), if i % 2 == 0 { sized(i, 5000) } else { value(i) }));
    commit(&mut *log.producer("producer").unwrap(), records);
    drop(log);
    let log = open(folder.path());
    let found = all(&log, &[at]);
    assert_eq!(found.len(), 3000);
    for (i, message) in (0..).zip(found) {
        if i % 2 == 0 {
            assert_eq!(message.record, sized(i, 5000));
        } else {
            assert_eq!(texts(&[message]), [i.to_string()]);
        }
    }
}
