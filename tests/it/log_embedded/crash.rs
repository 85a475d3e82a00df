//! `kill -9` at random moments.

use std::env;
use std::hint;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use scoreline::log::embedded::Embedded;
use scoreline::log::{Cleanup, GroupMetadata, Log, Offset, Record, TopicPartition};

use super::{all, child, child_folder, create, open, said, say};
use crate::log_conformance::{keyed, position, table, text};

/// How often the child is killed.
const KILLS: u32 = 30;

/// The records that a transaction sends to each partition.
const RECORDS: u64 = 3;

/// Random numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    /// One below `limit`.
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(limit)).unwrap()
    }
}

fn partitions() -> [TopicPartition; 3] {
    [TopicPartition::new("first", 0), TopicPartition::new("first", 1), TopicPartition::new("second", 0)]
}

fn counter() -> TopicPartition {
    TopicPartition::new("table", 0)
}

/// The number of whole transactions in the log. Checks that none is there in part, and that all which
/// have not been trimmed are there.
fn whole_transactions(log: &Embedded) -> u64 {
    let end = log.offsets(&partitions()[0]).unwrap().end.0;
    assert_eq!(end % RECORDS, 0);
    let count = end / RECORDS;
    for at in partitions() {
        let range = log.offsets(&at).unwrap();
        assert_eq!(range.end.0, end);
        let records = all(log, std::slice::from_ref(&at));
        assert_eq!(records.len() as u64, range.end.0 - range.start.0);
        for (offset, message) in (range.start.0..).zip(&records) {
            assert_eq!(message.offset, Offset(offset));
            let value = message.record.value.as_ref().unwrap();
            assert!(value.starts_with(format!("{} of {at} ", offset / RECORDS).as_bytes()));
        }
        let committed = log.position("group", &at).unwrap().map_or(0, |position| position.offset.0);
        assert_eq!(committed, count);
    }
    let found = table(&all(log, &[counter()]));
    assert_eq!(found.get("count").map_or(0, |count| count.parse::<u64>().unwrap()), count);
    assert_eq!(found.len() as u64, if count == 0 { 0 } else { 1 + count.min(5) });
    count
}

/// Writes transaction number `number`, after having trimmed what is old.
fn write(log: &Embedded, number: u64, random: &mut Random) {
    let mut producer = log.producer("producer").unwrap();
    producer.begin().unwrap();
    let positions = partitions().map(|at| (at, position(number + 1)));
    for (at, _) in &positions {
        log.trim(at, Offset(number.saturating_sub(30) * RECORDS)).unwrap();
        for _ in 0..RECORDS {
            let padding = "x".repeat(random.below(3000) as usize);
            let value = Some(Bytes::from(format!("{number} of {at} {padding}")));
            producer.send(at, Record { value, timestamp_ms: 1, ..Record::default() }).unwrap();
        }
    }
    producer.send(&counter(), keyed("count", Some(&(number + 1).to_string()))).unwrap();
    producer.send(&counter(), keyed(&(number % 5).to_string(), Some("x"))).unwrap();
    producer.send_positions(&GroupMetadata { group: "group".to_owned(), generation: 0 }, &positions).unwrap();
    producer.commit().unwrap();
}

#[test]
fn child_writer() {
    let Some(folder) = child_folder() else { return };
    let log = open(&folder);
    create(&log, "first", 2, Cleanup::Delete);
    create(&log, "second", 1, Cleanup::Delete);
    create(&log, "table", 1, Cleanup::Compact);
    let first = whole_transactions(&log);
    let mut random = Random(first);
    say("ready");
    for number in first.. {
        write(&log, number, &mut random);
        say(&(number + 1).to_string());
    }
}

/// Lets a child write until it has acknowledged about `count` transactions, and kills it `delay`
/// later. Returns how many it acknowledged in all, those of earlier children included.
fn kill_after(folder: &Path, count: u32, delay: Duration) -> Option<u64> {
    let mut child = child(module_path!(), "child_writer", folder);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = said(child.stdout.take().unwrap());
    assert_eq!(lines.next().as_deref(), Some("ready"));
    let mut acknowledged: Option<u64> = None;
    for line in lines.by_ref().take(count as usize) {
        acknowledged = Some(line.parse().unwrap());
    }
    // A moment within the next transaction; nothing waits for this.
    let moment = Instant::now() + delay;
    while Instant::now() < moment {
        hint::spin_loop();
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    for line in lines {
        // The last line may be torn.
        acknowledged = acknowledged.max(line.parse().ok());
    }
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert!(!complaints.contains("panicked"), "{complaints}");
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = env::var("SCORELINE_TEST_SEED").map_or(now.into(), |seed| seed.parse().unwrap());
    println!("SCORELINE_TEST_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    let mut unacknowledged = 0;
    for _ in 0..KILLS {
        let delay = Duration::from_micros(random.below(3000).into());
        let acknowledged = kill_after(folder.path(), random.below(12), delay).unwrap_or(before);
        let log = open(folder.path());
        let count = whole_transactions(&log);
        assert!(count == acknowledged || count == acknowledged + 1, "{acknowledged} acknowledged, {count} there");
        unacknowledged += count - acknowledged;
        before = count;
    }
    let log = open(folder.path());
    assert_eq!(texts_of_last(&log), before.checked_sub(1));
    println!("{before} transactions, {unacknowledged} of them there without having been acknowledged");
}

/// The number of the last transaction, as its records say it.
fn texts_of_last(log: &Embedded) -> Option<u64> {
    let last = all(log, &partitions()[..1]).pop()?;
    text(&last).split(' ').next()?.parse().ok()
}
