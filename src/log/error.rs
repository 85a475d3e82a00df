//! What can go wrong with a log, and whether trying again can help.

use std::io;
use std::path::PathBuf;

use super::{Offset, TopicPartition};

/// A result of the log.
pub type Result<T, E = LogError> = std::result::Result<T, E>;

/// An error of the log. Each message is one sentence that names what it speaks of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process has the folder open.
    #[error(
        "the log in {folder} is in use by process {pid}; wait until it has ended, or give this one a folder of its own",
        folder = folder.display()
    )]
    InUse {
        /// The log's folder.
        folder: PathBuf,
        /// The other process's id as it wrote it down, `?` where it cannot be read.
        pid: String,
    },
    /// No space: nothing was committed, nothing was lost, and the same call may succeed later.
    #[error("no space left for the log in {folder} ({source}); free some, nothing committed was lost", folder = folder.display())]
    Full {
        /// The log's folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The quota: nothing was committed, nothing was lost, and the same call may succeed later.
    #[error(
        "the log in {folder} may take {quota} bytes and holds {used}, so {wanted} more do not fit; raise the quota, or let the log's readers catch up",
        folder = folder.display()
    )]
    QuotaExceeded {
        /// The log's folder.
        folder: PathBuf,
        /// The bytes that the log may take.
        quota: u64,
        /// The bytes that it takes now.
        used: u64,
        /// The bytes that the refused commit would have added.
        wanted: u64,
    },
    /// A newer producer with the same transactional id was opened.
    #[error("producer {transactional_id:?} was fenced: a newer one with the same id took over")]
    Fenced {
        /// The id.
        transactional_id: String,
    },
    /// A newer member took the group over.
    #[error("this member of consumer group {group:?} was replaced by a newer one")]
    MemberReplaced {
        /// The group.
        group: String,
    },
    /// No such topic.
    #[error("there is no topic {topic:?}")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("topic {:?} has no partition {}", at.topic, at.partition)]
    UnknownPartition {
        /// What was asked for.
        at: TopicPartition,
    },
    /// The name is none.
    #[error("{name:?} cannot name a topic: 1 to 249 characters of A-Z a-z 0-9 . _ -")]
    InvalidTopic {
        /// The name.
        name: String,
    },
    /// The topic cannot have so many partitions, or so few.
    #[error("topic {topic:?} cannot have {partitions} partitions: 1 to {most}")]
    InvalidPartitionCount {
        /// The topic.
        topic: String,
        /// The number asked for.
        partitions: u32,
        /// The most that are possible.
        most: u32,
    },
    /// The topic exists with another definition.
    #[error("topic {topic:?} exists with another definition: it has {found}, wanted is {wanted}")]
    TopicDiffers {
        /// The topic.
        topic: String,
        /// What exists.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The offset is not there (trimmed, or behind the end).
    #[error("offset {offset} of {at} is not there: it holds {start} up to {end}")]
    OffsetOutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The offset asked for.
        offset: Offset,
        /// The first offset there.
        start: Offset,
        /// The end.
        end: Offset,
    },
    /// The consumer does not hold the partition.
    #[error("{at} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        at: TopicPartition,
    },
    /// A record over the limit.
    #[error("a record of {size} bytes for {at} is over the limit of {limit} bytes")]
    RecordTooLarge {
        /// Where it was to go.
        at: TopicPartition,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A record without a key for a compacted topic.
    #[error("a record for the compacted topic {topic:?} needs a key")]
    KeyMissing {
        /// The topic.
        topic: String,
    },
    /// Metadata over the limit.
    #[error("position metadata of {size} bytes is over the limit of 4096 bytes")]
    MetadataTooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// A call that the producer's state does not allow.
    #[error("{call} is not allowed: {state}")]
    TransactionState {
        /// The call.
        call: &'static str,
        /// The state.
        state: &'static str,
    },
    /// A file of the log is damaged in a place that a torn last write cannot explain.
    #[error("the log file {file} is damaged at byte {at}: {why}; restore it from a copy, or remove the log's folder and run again", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The byte.
        at: u64,
        /// What is wrong there.
        why: String,
    },
    /// An earlier write or sync failed in a way that leaves the file's state unknown.
    #[error("the log in {folder} failed earlier and takes no more writes ({why}); start again", folder = folder.display())]
    Poisoned {
        /// The log's folder.
        folder: PathBuf,
        /// The first failure.
        why: String,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LogError {
    /// Whether the same call may succeed later without anybody changing anything but the machine's state.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::QuotaExceeded { .. })
    }
}
