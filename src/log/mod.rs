//! The message log: the one room that knows what a topic, a partition, an offset, a transaction
//! and a consumer group are.
//!
//! Contract, held by one conformance suite (`tests/it/log_conformance.rs`) for every implementation:
//! - **Order.** Records of one partition are read in the order in which they were sent, at strictly
//!   rising offsets. Offsets need not be dense.
//! - **Atomicity.** All records and positions of a transaction become visible and durable together
//!   at [`Producer::commit`], or never.
//! - **Isolation.** A reader never sees a record of an open or an aborted transaction.
//! - **Durability.** What a commit acknowledged is there after `kill -9` and after a loss of power.
//! - **Fencing.** Opening a producer with a transactional id shuts out the older one with that id:
//!   its open transaction is aborted, and its every later call answers [`LogError::Fenced`].
//! - **Resume.** A consumer that subscribes starts at its group's committed positions.
//!
//! Everything here blocks: a caller owns a thread, and nothing needs a runtime.

pub mod embedded;
mod error;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use error::{LogError, Result};

/// A position in a partition: the number of a record, or of the record that will come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: u32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What becomes of a topic's old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Kept until somebody trims them ([`Log::trim`]).
    Delete,
    /// The newest record of each key is kept for ever; older ones may go. A record without a value
    /// deletes its key. Every record needs a key.
    Compact,
}

/// A topic's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name: 1 to 249 characters of `[A-Za-z0-9._-]`, as Kafka has it.
    pub name: Arc<str>,
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// What becomes of old records.
    pub cleanup: Cleanup,
}

/// A header of a record: a name and bytes.
pub type Header = (String, Bytes);

/// What a producer sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Key, if any.
    pub key: Option<Bytes>,
    /// Value; `None` deletes the key in a compacted topic.
    pub value: Option<Bytes>,
    /// Headers, in the order given; names may repeat.
    pub headers: Vec<Header>,
    /// Milliseconds since 1970-01-01T00:00Z.
    pub timestamp_ms: i64,
}

impl Record {
    /// The first header called `name`.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Bytes of key, value and headers together.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// What a consumer reads: a record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic and partition.
    pub source: TopicPartition,
    /// The record's offset.
    pub offset: Offset,
    /// The record.
    pub record: Record,
}

/// A consumer group's committed position in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The offset to read next.
    pub offset: Offset,
    /// Free text committed beside it, at most 4,096 bytes (Kafka's own limit).
    pub metadata: String,
}

/// The readable range of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first offset that has not been trimmed.
    pub start: Offset,
    /// The offset that the next committed record will get.
    pub end: Offset,
}

/// Proof of membership in a consumer group, taken afresh from the consumer for each transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group's name.
    pub group: String,
    /// Which member of the group, by its generation: an older member's positions are refused.
    pub generation: u64,
}

/// What [`Consumer::poll`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Partitions were handed to this consumer, each with the offset at which reading starts.
    Assigned(Vec<(TopicPartition, Offset)>),
    /// Partitions were taken away: abort what is open for them.
    Revoked(Vec<TopicPartition>),
    /// Records, in order within each partition; never empty.
    Records(Vec<Message>),
    /// Nothing came within the time given.
    Idle,
}

/// Where a consumer starts in a partition for which its group has no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last committed record.
    Latest,
}

/// A message log.
pub trait Log: Send + Sync {
    /// Creates a topic. Succeeds without effect where it exists with the same definition.
    ///
    /// # Errors
    /// [`LogError::TopicDiffers`] where it exists with another definition.
    fn create_topic(&self, spec: &TopicSpec) -> Result<()>;

    /// Deletes a topic with its records and every group's positions in it; no error where there is none.
    ///
    /// # Errors
    /// Any failure of the log.
    fn delete_topic(&self, name: &str) -> Result<()>;

    /// The topic's definition, or `None`.
    ///
    /// # Errors
    /// Any failure of the log.
    fn topic(&self, name: &str) -> Result<Option<TopicSpec>>;

    /// All topics, by name.
    ///
    /// # Errors
    /// Any failure of the log.
    fn topics(&self) -> Result<Vec<TopicSpec>>;

    /// The partition's readable range.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`].
    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange>;

    /// The position that `group` committed in the partition, or `None`.
    ///
    /// # Errors
    /// Any failure of the log.
    fn position(&self, group: &str, at: &TopicPartition) -> Result<Option<Position>>;

    /// Opens a transactional producer, shutting out an older one with the same id.
    ///
    /// # Errors
    /// Any failure of the log.
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>>;

    /// Joins `group` as a consumer of `topics`. The first poll answers [`Event::Assigned`].
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`].
    fn subscribe(&self, group: &str, topics: &[&str], start: StartAt) -> Result<Box<dyn Consumer>>;

    /// Reads the given partitions from the given offsets, outside any group.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`].
    fn reader(&self, from: &[(TopicPartition, Offset)]) -> Result<Box<dyn Consumer>>;

    /// Gives up the records before `before`: they may be deleted and are not read again.
    /// An offset behind the end trims up to the end.
    ///
    /// # Errors
    /// [`LogError::UnknownTopic`], [`LogError::UnknownPartition`].
    fn trim(&self, at: &TopicPartition, before: Offset) -> Result<()>;
}

/// A transactional producer. One transaction is open at a time.
pub trait Producer: Send {
    /// Opens a transaction.
    ///
    /// # Errors
    /// [`LogError::TransactionState`] where one is open.
    fn begin(&mut self) -> Result<()>;

    /// Adds a record to the open transaction.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] over [`MAX_RECORD_BYTES`]; [`LogError::KeyMissing`] in a compacted topic.
    /// The transaction stays open after either.
    fn send(&mut self, to: &TopicPartition, record: Record) -> Result<()>;

    /// Adds the group's positions to the open transaction.
    ///
    /// # Errors
    /// [`LogError::MetadataTooLarge`], [`LogError::MemberReplaced`], [`LogError::Fenced`].
    fn send_positions(&mut self, group: &GroupMetadata, positions: &[(TopicPartition, Position)]) -> Result<()>;

    /// Makes the open transaction visible and durable, all of it. After an error the transaction is
    /// over: nothing of it is visible, unless the error says that the outcome is unknown.
    ///
    /// # Errors
    /// [`LogError::Full`] and [`LogError::QuotaExceeded`], after which the same records may be sent again;
    /// [`LogError::Fenced`], [`LogError::MemberReplaced`], and any other failure of the log.
    fn commit(&mut self) -> Result<()>;

    /// Throws the open transaction away; no error where none is open.
    ///
    /// # Errors
    /// [`LogError::Fenced`].
    fn abort(&mut self) -> Result<()>;
}

/// A reader of partitions: a member of a group, or on its own.
pub trait Consumer: Send {
    /// Waits up to `timeout` for the next event. An answer holds at most about 4 MiB of records
    /// (always at least one record, however large), taken in turn from the partitions that have some,
    /// the partition that has waited longest first.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`], [`LogError::MemberReplaced`], and any failure of the log.
    fn poll(&mut self, timeout: Duration) -> Result<Event>;

    /// The offset that will be read next, or `None` where the partition is not assigned.
    fn next_offset(&self, at: &TopicPartition) -> Option<Offset>;

    /// Goes on reading at `offset`.
    ///
    /// # Errors
    /// [`LogError::NotAssigned`]. An offset outside the readable range is an error of the next poll
    /// ([`LogError::OffsetOutOfRange`]): never a silent jump.
    fn seek(&mut self, at: &TopicPartition, offset: Offset) -> Result<()>;

    /// The group membership to commit positions with; `None` outside a group.
    fn group_metadata(&self) -> Option<GroupMetadata>;
}

/// The largest record that a log takes: key, value and headers together. Kafka's clients refuse
/// more than 1,000,000 bytes by default; this leaves room for the protocol's own.
pub const MAX_RECORD_BYTES: usize = 900 * 1024;
