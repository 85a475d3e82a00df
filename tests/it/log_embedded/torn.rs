//! Torn writes, and files that are not as they were written.

use std::fs;
use std::path::Path;

use scoreline::log::embedded::{Embedded, Options};
use scoreline::log::{Cleanup, GroupMetadata, Log, LogError, Offset, Position, Result, TopicPartition};

use super::{all, copy, create, fill, open, segments};
use crate::log_conformance::{commit, keyed, numbers, position, texts, value};

/// Opens a log with the usual segments, which the logs here never fill.
fn try_open(folder: &Path) -> Result<Embedded> {
    Embedded::open(folder, Options::default())
}

/// What a log holds, after transaction number `count` of [`written`].
#[derive(Debug, PartialEq)]
struct Content {
    records: Vec<String>,
    others: Vec<String>,
    position: Option<Position>,
}

fn content(log: &Embedded) -> Content {
    let (topic, other) = (TopicPartition::new("topic", 0), TopicPartition::new("other", 0));
    let records = texts(&all(log, std::slice::from_ref(&topic)));
    let position = log.position("group", &topic).unwrap();
    Content { records, others: texts(&all(log, &[other])), position }
}

fn content_after(count: u32) -> Content {
    let position = (count > 0).then(|| position(u64::from(count)));
    Content { records: numbers(0..count), others: numbers(0..count), position }
}

/// Writes transaction number `number`.
fn write(log: &Embedded, number: u32) {
    let (topic, other) = (TopicPartition::new("topic", 0), TopicPartition::new("other", 0));
    let mut producer = log.producer("producer").unwrap();
    producer.begin().unwrap();
    producer.send(&topic, value(number)).unwrap();
    producer.send(&other, value(number)).unwrap();
    let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
    producer.send_positions(&member, &[(topic, position(u64::from(number) + 1))]).unwrap();
    producer.commit().unwrap();
}

/// A log with five transactions in one segment, and where in the file each of them ends.
fn written(folder: &Path) -> Vec<usize> {
    let log = try_open(folder).unwrap();
    create(&log, "topic", 1, Cleanup::Delete);
    create(&log, "other", 1, Cleanup::Delete);
    let mut ends = Vec::new();
    for number in 0..5 {
        write(&log, number);
        ends.push(usize::try_from(log.disk_usage().bytes).unwrap());
    }
    ends
}

/// Checks that a log whose last writes were lost holds `count` transactions, and goes on from there.
fn holds(folder: &Path, count: u32) {
    let log = try_open(folder).unwrap();
    assert_eq!(content(&log), content_after(count));
    let length: u64 = segments(folder).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(log.disk_usage().bytes, length, "nothing is left of what was cut off");
    write(&log, count);
    drop(log);
    assert_eq!(content(&try_open(folder).unwrap()), content_after(count + 1));
}

/// Checks that a log cannot be opened, and that the file and the byte are named.
fn is_damaged(folder: &Path, file: &Path, byte: usize) {
    match try_open(folder) {
        Err(LogError::Damaged { file: named, at, .. }) => assert_eq!((named.as_path(), at), (file, byte as u64)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cut_at_any_byte_loses_nothing_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path());
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    assert_eq!(whole.len(), ends[4]);
    let other = tempfile::tempdir().unwrap();
    copy(folder.path(), other.path());
    let file = segments(other.path()).remove(0);
    for cut in ends[2]..=ends[4] {
        fs::write(&file, &whole[..cut]).unwrap();
        let count = ends.iter().filter(|end| **end <= cut).count();
        holds(other.path(), u32::try_from(count).unwrap());
    }
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_a_torn_write_and_before_it_damage() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path());
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    let other = tempfile::tempdir().unwrap();
    copy(folder.path(), other.path());
    let file = segments(other.path()).remove(0);
    for at in 0..ends[4] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&file, &bytes).unwrap();
        if at >= ends[3] {
            holds(other.path(), 4);
        } else if at >= ends[2] {
            is_damaged(other.path(), &file, ends[2]);
        } else {
            assert!(matches!(try_open(other.path()), Err(LogError::Damaged { file: named, .. }) if named == file));
        }
        if at < ends[3] {
            assert_eq!(fs::read(&file).unwrap(), bytes, "a damaged file is left as it is");
        }
    }
}

#[test]
fn what_is_no_batch_behind_the_end_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path());
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    let last = &whole[ends[3]..];
    // An older batch in a value is no sign of damage: it has an older number.
    let older = &whole[ends[1]..ends[2]];
    let tails = [vec![0; 1], vec![0; 5000], b"SLJB".repeat(100), last[..last.len() - 1].to_vec(), older[1..].to_vec()];
    let other = tempfile::tempdir().unwrap();
    copy(folder.path(), other.path());
    let file = segments(other.path()).remove(0);
    for tail in tails {
        fs::write(&file, [&whole[..], &tail].concat()).unwrap();
        holds(other.path(), 5);
    }
    let torn = [&[0; 50], older, &[0; 50]].concat();
    fs::write(&file, [&whole[..], &torn].concat()).unwrap();
    holds(other.path(), 5);
}

#[test]
fn a_batch_that_cannot_follow_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path());
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    let (before, file) = (&whole[..ends[4]], segments(folder.path()).remove(0));
    // Twice the same, one left out, and a second snapshot.
    for (bytes, at) in [
        ([before, &whole[ends[3]..]].concat(), ends[4]),
        ([&whole[..ends[2]], &whole[ends[3]..]].concat(), ends[2]),
        ([before, &whole[..ends[0]]].concat(), ends[4]),
    ] {
        fs::write(&file, bytes).unwrap();
        is_damaged(folder.path(), &file, at);
    }
}

#[test]
fn a_batch_without_records_that_is_left_out_or_comes_twice_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let log = try_open(folder.path()).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    let mut ends = Vec::new();
    let mut producer = log.producer("producer").unwrap();
    for offset in 0..3 {
        producer.begin().unwrap();
        let member = GroupMetadata { group: "group".to_owned(), generation: 0 };
        producer.send_positions(&member, &[(at.clone(), position(offset))]).unwrap();
        producer.commit().unwrap();
        ends.push(usize::try_from(log.disk_usage().bytes).unwrap());
    }
    drop((producer, log));
    let file = segments(folder.path()).remove(0);
    let whole = fs::read(&file).unwrap();
    for (bytes, at) in [
        ([&whole[..ends[0]], &whole[ends[1]..]].concat(), ends[0]),
        ([&whole[..], &whole[ends[1]..]].concat(), ends[2]),
        ([&whole[..], &whole[ends[0]..ends[1]]].concat(), ends[2]),
    ] {
        fs::write(&file, bytes).unwrap();
        is_damaged(folder.path(), &file, at);
    }
}

/// The same batch with other bytes in its head, and with the checksum that goes with them.
fn with_head(batch: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at] = byte;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&batch[..28]), &batch[32..]);
    batch[28..32].copy_from_slice(&crc.to_le_bytes());
    batch
}

#[test]
fn a_batch_of_another_version_is_never_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path());
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    let file = segments(folder.path()).remove(0);
    for (at, byte) in [(4, 2), (5, 3)] {
        let bytes = [&whole[..ends[3]], &with_head(&whole[ends[3]..], at, byte)].concat();
        fs::write(&file, &bytes).unwrap();
        is_damaged(folder.path(), &file, ends[3]);
        // Behind a torn batch too.
        let bytes = [&whole[..ends[3]], &[0; 10], &with_head(&whole[ends[3]..], at, byte)].concat();
        fs::write(&file, &bytes).unwrap();
        is_damaged(folder.path(), &file, ends[3]);
    }
    fs::write(&file, [&whole[..ends[3]], &with_head(&whole[ends[3]..], 4, 1)].concat()).unwrap();
    holds(folder.path(), 5);
}

/// A log with several segments, all of which hold records; returns the expected records' number.
fn several(folder: &Path) -> u32 {
    let log = open(folder);
    let at = create(&log, "topic", 1, Cleanup::Delete);
    for i in 0..20 {
        fill(&log, &at, 20 * i..20 * (i + 1));
    }
    assert!(segments(folder).len() >= 4);
    400
}

#[test]
fn damage_in_an_older_segment_is_named() {
    let folder = tempfile::tempdir().unwrap();
    several(folder.path());
    let files = segments(folder.path());
    for file in &files[..files.len() - 1] {
        let whole = fs::read(file).unwrap();
        let mut cuts: Vec<_> = [0, 1, whole.len() / 2, whole.len() - 1].map(|cut| whole[..cut].to_vec()).into();
        cuts.push([&whole[..], b"x"].concat());
        for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[at] ^= 16;
            cuts.push(bytes);
        }
        for bytes in cuts {
            fs::write(file, &bytes).unwrap();
            match open_small(folder.path()) {
                Err(LogError::Damaged { file: named, .. }) => assert_eq!(named, *file),
                other => panic!("{other:?}"),
            }
        }
        fs::write(file, &whole).unwrap();
    }
    open_small(folder.path()).unwrap();
}

fn open_small(folder: &Path) -> Result<Embedded> {
    Embedded::open(folder, Options { segment_bytes: 2000, ..Options::default() })
}

#[test]
fn a_lost_segment_is_seen_where_its_records_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    several(folder.path());
    let files = segments(folder.path());
    for file in &files[..files.len() - 1] {
        let whole = fs::read(file).unwrap();
        fs::remove_file(file).unwrap();
        assert!(matches!(open_small(folder.path()), Err(LogError::Damaged { .. })));
        fs::write(file, &whole).unwrap();
    }
    // Two at once, and swapped ones.
    let other = tempfile::tempdir().unwrap();
    copy(folder.path(), other.path());
    let copies = segments(other.path());
    copies[1..3].iter().for_each(|file| fs::remove_file(file).unwrap());
    assert!(matches!(open_small(other.path()), Err(LogError::Damaged { .. })));
    fs::copy(&files[1], &copies[2]).unwrap();
    fs::copy(&files[2], &copies[1]).unwrap();
    assert!(matches!(open_small(other.path()), Err(LogError::Damaged { .. })));
    open_small(folder.path()).unwrap();
}

#[test]
fn the_snapshot_of_the_last_segment_is_never_taken_for_a_torn_write() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path(), Options { segment_bytes: 0, ..Options::default() }).unwrap();
    let at = create(&log, "topic", 1, Cleanup::Delete);
    fill(&log, &at, 0..100);
    log.trim(&at, Offset(100)).unwrap();
    drop(log);
    let file = segments(folder.path()).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).unwrap();
        if let Ok(log) = try_open(folder.path()) {
            // Only batches behind the snapshot may go.
            assert_eq!(log.offsets(&at).unwrap().end, Offset(100), "cut at {cut}");
        }
    }
    fs::write(&file, "").unwrap();
    is_damaged(folder.path(), &file, 0);
}

#[test]
fn a_crash_while_a_segment_is_begun_is_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let count = several(folder.path());
    let files = segments(folder.path());
    let last = files.last().unwrap();
    let number: u32 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let new = folder.path().join(format!("{:020}.log.new", number + 1));
    let snapshot = fs::read(&files[1]).unwrap();
    for length in [0, 1, 40, snapshot.len()] {
        fs::write(&new, &snapshot[..length]).unwrap();
        let log = open(folder.path());
        assert!(!new.exists());
        assert_eq!(texts(&all(&log, &[TopicPartition::new("topic", 0)])), numbers(0..count));
    }
}

#[test]
fn a_segment_whose_removal_a_crash_undid_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    several(folder.path());
    let before = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let at = TopicPartition::new("topic", 0);
    let table = create(&log, "table", 1, Cleanup::Compact);
    let mut producer = log.producer("producer").unwrap();
    commit(&mut *producer, [(table.clone(), keyed("a", Some("old"))), (table.clone(), keyed("b", Some("old")))]);
    copy(folder.path(), before.path());
    commit(&mut *producer, [(table.clone(), keyed("a", Some("new"))), (table.clone(), keyed("b", None))]);
    log.trim(&at, Offset(1000)).unwrap();
    fill(&log, &at, 400..401);
    drop((producer, log));
    let kept = segments(folder.path());
    let gone: Vec<_> = segments(before.path())
        .into_iter()
        .filter(|file| !kept.iter().any(|kept| kept.file_name() == file.file_name()))
        .collect();
    assert!(gone.len() >= 3);
    // All, the first, one in the middle, every other one.
    let ways: [&dyn Fn(usize) -> bool; 4] = [&|_| true, &|i| i == 0, &|i| i == 1, &|i| i % 2 == 0];
    for way in ways {
        for (_, file) in gone.iter().enumerate().filter(|(i, _)| way(*i)) {
            fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        let log = open(folder.path());
        assert_eq!(texts(&all(&log, std::slice::from_ref(&at))), ["400"]);
        let found = all(&log, std::slice::from_ref(&table));
        assert_eq!(
            texts(&found.into_iter().filter(|message| message.record.value.is_some()).collect::<Vec<_>>()),
            ["new"]
        );
        assert!(segments(folder.path()).len() <= kept.len(), "they are removed again");
    }
}
