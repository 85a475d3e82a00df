//! The embedded message log: a journal in a folder, for one process at a time.
//!
//! Role: [`Log`] without a server. What the journal's files say is rebuilt in memory when the log is
//! opened; from then on memory answers where a record lies, and the files are read only for records.
//!
//! # Contract
//! - One transaction, or one administrative change, is one *batch*: appended with one contiguous
//!   write and made durable with one `fdatasync` before it is acknowledged and before anybody sees
//!   it. So atomicity, isolation and durability hold by construction, and there are no aborted
//!   records. Offsets are dense, and given at commit.
//! - What an open transaction holds is in memory only; values are neither copied nor encoded again.
//! - A lack of space is no harm: the file is cut back to its last whole batch, nothing else changes,
//!   and the log goes on when there is space again. A failed sync leaves the file's state unknown:
//!   the log then takes no more writes. (A limit for the size of files, `RLIMIT_FSIZE`, is a lack of
//!   space like others, but only in a process that ignores the signal `SIGXFSZ`: it ends all others.)
//! - A trim gives files back as soon as nothing else is in them. To write it down takes some bytes:
//!   on a disk without a single free block the files stay until there is one.
//! - A torn write at the very end of the journal, which nobody acknowledged, is cut off when the log
//!   is opened. Anything else that is not as it was written is [`LogError::Damaged`].
//! - Trims are remembered in memory at once and written with the next batch, or when they let a file
//!   go. A trim that a crash forgets is no harm: its records are there again.
//! - One handle has a folder open at a time, in this process and in all others. It is given up when
//!   the last clone of [`Embedded`] and the last producer and consumer are gone.
//! - A producer's id shuts out older producers of the same open log. It needs no more than that: a
//!   producer does not outlive the process, and so neither do ids.
//!
//! # Files
//! `LOCK` is locked with `flock` while the log is open, and holds the id of the process as decimal
//! digits. All others are the journal's *segments*: `00000000000000000001.log` and so on, with rising
//! numbers; a segment whose snapshot is still being written has `.new` behind that name. A segment
//! is a sequence of batches; the first one is a snapshot and no other one is. All numbers are little
//! endian. A text is its length in bytes (`u32`) and its UTF-8 bytes.
//!
//! A batch:
//!
//! | bytes   | what |
//! |---------|------|
//! | 0..4    | `SLJB` |
//! | 4       | version of the format, 1 |
//! | 5       | kind: 1 change, 2 snapshot |
//! | 6..8    | 0 |
//! | 8..16   | length of the batch in bytes, these 32 included |
//! | 16..24  | sequence number: one more than that of the batch before it |
//! | 24..28  | number of changes |
//! | 28..32  | CRC-32C of all bytes of the batch but these four |
//! | 32..    | the changes |
//!
//! A change is one byte that says which, and then:
//!
//! | first | what | rest |
//! |-------|------|------|
//! | 1     | a topic is created | number `u32` (never used again), partitions `u32`, cleanup `u8` (0 delete, 1 compact), name text |
//! | 2     | a topic is deleted | number `u32` |
//! | 3     | a partition is trimmed | topic `u32`, partition `u32`, first offset that is left `u64` |
//! | 4     | a group's position | topic `u32`, partition `u32`, offset `u64`, group text, metadata text |
//! | 5     | records | topic `u32`, partition `u32`, base offset `u64`, count `u32`, bytes of the bodies `u64`; for each record its offset less the base `u32` and its body's length `u32`; then the bodies |
//! | 6     | a partition's range | topic `u32`, partition `u32`, start `u64`, end `u64` |
//! | 7     | the next topic's number | `u32` |
//!
//! 6 and 7 are only in snapshots. A snapshot says all topics, ranges and positions, and the newest
//! record of each key of the compacted topics with its own offset; keys that were deleted are not
//! said. So a segment can go when no record of an ordinary topic that is in it is left.
//!
//! Compacted topics are meant for tables that fit into memory: each snapshot copies all they hold.
//!
//! A record's body: CRC-32C of the rest of the body `u32`, timestamp `i64`, length of the key `u32`
//! (2^32-1: none), length of the value `u32` (2^32-1: none), number of headers `u32`; for each header
//! the lengths of name and value, `u32` each, and their bytes; the key; the value. The checksum of its
//! own lets a record be checked whenever it is read, and not only when the log is opened.

mod body;
mod consumer;
mod format;
mod gather;
mod index;
mod journal;
mod lock;
mod producer;
mod read;
mod recover;
mod segments;
mod shared;
mod snapshot;
mod state;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use consumer::EmbeddedConsumer;
use format::Change;
use lock::FolderLock;
use producer::EmbeddedProducer;
use segments::{failed, sync_folder};
use shared::{Quota, Shared};

use super::{
    Cleanup, Consumer, Log, LogError, Offset, OffsetRange, Position, Producer, Result, StartAt, TopicPartition,
    TopicSpec,
};

/// The most partitions of a topic: each takes memory whether it is used or not.
const MAX_PARTITIONS: u32 = 10_000;

/// The longest name of a topic.
const MAX_NAME_BYTES: usize = 249;

/// How a log is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment with this many bytes is followed by a new one; with more where its snapshot is large,
    /// four times as many as that has, so that snapshots are a small part of what is written.
    pub segment_bytes: u64,
    /// The most bytes that the segments may take together: records and topics that would take them
    /// over it are refused. Positions, trims and deleted topics are not, and neither are snapshots:
    /// they take little and are what lets space come back.
    pub quota_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 16 * 1024 * 1024, quota_bytes: None }
    }
}

/// The space that a log takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of all segments now.
    pub bytes: u64,
    /// The most that `bytes` was since the log was opened.
    pub peak_bytes: u64,
    /// Bytes that were written since the log was opened.
    pub written_bytes: u64,
}

/// The embedded message log. Clones are handles of the same open log.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

impl Embedded {
    /// Opens the log in `folder`, which is created where there is none.
    ///
    /// # Errors
    /// [`LogError::InUse`], [`LogError::Damaged`], and any failure of the file system.
    pub fn open(folder: &Path, options: Options) -> Result<Self> {
        create_folder(folder)?;
        let lock = FolderLock::take(folder)?;
        let (journal, state) = recover::recover(folder)?;
        let shared = Shared::new(folder.to_owned(), options, journal, state, lock);
        // What a crash kept from being removed.
        shared.reclaim()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The space that the log takes.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        self.shared.usage()
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl Log for Embedded {
    fn create_topic(&self, spec: &TopicSpec) -> Result<()> {
        check_spec(spec)?;
        let mut journal = self.shared.journal()?;
        let state = self.shared.state();
        if let Some(topic) = state.topic_id(&spec.name).and_then(|id| state.topic(id)) {
            if topic.spec == *spec {
                return Ok(());
            }
            return Err(LogError::TopicDiffers {
                topic: spec.name.to_string(),
                found: describe(&topic.spec),
                wanted: describe(spec),
            });
        }
        let id = state.next_topic();
        drop(state);
        self.shared.write(&mut journal, vec![Change::Topic { id, spec: spec.clone() }], Quota::Holds)
    }

    fn delete_topic(&self, name: &str) -> Result<()> {
        let mut journal = self.shared.journal()?;
        let Some(id) = self.shared.state().topic_id(name) else { return Ok(()) };
        self.shared.write(&mut journal, vec![Change::TopicDeleted { id }], Quota::Waived)?;
        drop(journal);
        self.shared.reclaim()
    }

    fn topic(&self, name: &str) -> Result<Option<TopicSpec>> {
        let state = self.shared.state();
        Ok(state.topic_id(name).and_then(|id| state.topic(id)).map(|topic| topic.spec.clone()))
    }

    fn topics(&self) -> Result<Vec<TopicSpec>> {
        Ok(self.shared.state().topics().map(|(_, topic)| topic.spec.clone()).collect())
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange> {
        let state = self.shared.state();
        let (_, partition) = state.find(at)?;
        Ok(OffsetRange { start: Offset(partition.start()), end: Offset(partition.end()) })
    }

    fn position(&self, group: &str, at: &TopicPartition) -> Result<Option<Position>> {
        let state = self.shared.state();
        let (topic, _) = state.find(at)?;
        Ok(state.position(group, topic, at.partition).cloned())
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(EmbeddedProducer::open(Arc::clone(&self.shared), transactional_id)?))
    }

    fn subscribe(&self, group: &str, topics: &[&str], start: StartAt) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(EmbeddedConsumer::subscribe(Arc::clone(&self.shared), group, topics, start)?))
    }

    fn reader(&self, from: &[(TopicPartition, Offset)]) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(EmbeddedConsumer::reader(Arc::clone(&self.shared), from)?))
    }

    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<()> {
        let mut state = self.shared.state();
        let (topic, _) = state.find(at)?;
        state.trim(topic, at.partition, before.0);
        drop(state);
        self.shared.reclaim()
    }
}

/// Creates a folder and those that it is in, durably: what a log acknowledges is worth nothing if its
/// folder is gone after a crash.
fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", folder)(error)),
        _ => sync_folder(parent),
    }
}

/// Refuses a definition that no topic can have.
fn check_spec(spec: &TopicSpec) -> Result<()> {
    let name = &*spec.name;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && name != "." && name != "..";
    if !fits || !name.bytes().all(allowed) {
        return Err(LogError::InvalidTopic { name: name.to_owned() });
    }
    if !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
        let (topic, partitions) = (name.to_owned(), spec.partitions);
        return Err(LogError::InvalidPartitionCount { topic, partitions, most: MAX_PARTITIONS });
    }
    Ok(())
}

/// A definition in words.
fn describe(spec: &TopicSpec) -> String {
    let cleanup = match spec.cleanup {
        Cleanup::Delete => "trimmed",
        Cleanup::Compact => "compacted",
    };
    let s = if spec.partitions == 1 { "" } else { "s" };
    format!("{} partition{s} and is {cleanup}", spec.partitions)
}
