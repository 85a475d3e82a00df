//! Batches as bytes. The layout is described at the head of [`super`].

use std::sync::Arc;

use bytes::Bytes;

use super::gather::Gather;
use crate::log::{Cleanup, Offset, Position, TopicSpec};

/// The first bytes of each batch.
pub const MAGIC: [u8; 4] = *b"SLJB";

/// Bytes before a batch's first change.
pub const HEADER: usize = 32;

/// The version of the format that is written, and the only one that is read.
const VERSION: u8 = 1;

/// Where the checksum stands in the header. It covers all bytes of the batch but its own four.
const CRC_AT: usize = 28;

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One transaction or one administrative change.
    Change = 1,
    /// All small state: the first batch of each segment, and only that.
    Snapshot = 2,
}

/// One thing that a batch says.
#[derive(Debug)]
pub enum Change {
    /// There is a topic.
    Topic {
        /// Its number, never used again.
        id: u32,
        /// Its definition.
        spec: TopicSpec,
    },
    /// A topic was deleted.
    TopicDeleted {
        /// Its number.
        id: u32,
    },
    /// A partition's records below an offset were given up.
    Trim {
        /// The topic's number.
        topic: u32,
        /// The partition.
        partition: u32,
        /// The first offset that is left.
        start: u64,
    },
    /// A group's position.
    Position {
        /// The group.
        group: String,
        /// The topic's number.
        topic: u32,
        /// The partition.
        partition: u32,
        /// The position.
        position: Position,
    },
    /// Records of one partition.
    Records(Block),
    /// A partition's readable range; only in a snapshot.
    Range {
        /// The topic's number.
        topic: u32,
        /// The partition.
        partition: u32,
        /// The first offset that is left.
        start: u64,
        /// The offset that the next record will get.
        end: u64,
    },
    /// The number of the next topic; only in a snapshot.
    NextTopic {
        /// The number.
        id: u32,
    },
}

/// Records of one partition, side by side in one batch.
#[derive(Debug, Default)]
pub struct Block {
    /// The topic's number.
    pub topic: u32,
    /// The partition.
    pub partition: u32,
    /// What the records' offsets are counted from.
    pub base: u64,
    /// One entry for each record, in order.
    pub entries: Vec<Entry>,
    /// The records' keys, in order: only in memory, and only for a compacted topic.
    pub keys: Vec<Key>,
    /// Where the first record's body lies, counted from the start of the batch.
    /// Known once the batch was encoded or decoded.
    pub bodies_at: u64,
    /// The records' bodies; empty once the batch was encoded or decoded.
    pub bodies: Gather,
}

/// A record's line in its block's table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The record's offset less the block's base.
    pub delta: u32,
    /// The length of its body.
    pub length: u32,
}

/// What a compacted topic needs to know of a record.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key.
    pub key: Box<[u8]>,
    /// Whether the record deletes its key.
    pub tombstone: bool,
}

/// A batch, ready to be written.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes.
    pub parts: Vec<Bytes>,
    /// Their number.
    pub length: u64,
}

/// Writes `changes` one after the other. Takes the bodies out of their blocks and notes where they
/// will lie.
pub fn encode(changes: &mut [Change]) -> Draft {
    let mut body = Gather::default();
    for change in changes.iter_mut() {
        encode_change(change, &mut body);
    }
    Draft { body, changes: count(changes.len()) }
}

/// A batch without its head.
#[derive(Debug)]
pub struct Draft {
    body: Gather,
    changes: u32,
}

impl Draft {
    /// The length of the batch that it will be.
    pub fn length(&self) -> u64 {
        HEADER as u64 + self.body.len()
    }

    /// The batch.
    pub fn seal(self, kind: Kind, sequence: u64) -> Encoded {
        let length = self.length();
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = VERSION;
        header[5] = kind as u8;
        header[8..16].copy_from_slice(&length.to_le_bytes());
        header[16..24].copy_from_slice(&sequence.to_le_bytes());
        header[24..28].copy_from_slice(&self.changes.to_le_bytes());
        let mut parts = self.body.into_parts();
        let crc = parts.iter().fold(crc32c::crc32c(&header[..CRC_AT]), |crc, part| crc32c::crc32c_append(crc, part));
        header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        parts.insert(0, Bytes::copy_from_slice(&header));
        Encoded { parts, length }
    }
}

/// Appends one change.
fn encode_change(change: &mut Change, out: &mut Gather) {
    match change {
        Change::Topic { id, spec } => out.compose(|out| {
            out.push(1);
            put_u32(out, *id);
            put_u32(out, spec.partitions);
            out.push(match spec.cleanup {
                Cleanup::Delete => 0,
                Cleanup::Compact => 1,
            });
            put_text(out, &spec.name);
        }),
        Change::TopicDeleted { id } => out.compose(|out| {
            out.push(2);
            put_u32(out, *id);
        }),
        Change::Trim { topic, partition, start } => out.compose(|out| {
            out.push(3);
            put_u32(out, *topic);
            put_u32(out, *partition);
            put_u64(out, *start);
        }),
        Change::Position { group, topic, partition, position } => out.compose(|out| {
            out.push(4);
            put_u32(out, *topic);
            put_u32(out, *partition);
            put_u64(out, position.offset.0);
            put_text(out, group);
            put_text(out, &position.metadata);
        }),
        Change::Records(block) => encode_block(block, out),
        Change::Range { topic, partition, start, end } => out.compose(|out| {
            out.push(6);
            put_u32(out, *topic);
            put_u32(out, *partition);
            put_u64(out, *start);
            put_u64(out, *end);
        }),
        Change::NextTopic { id } => out.compose(|out| {
            out.push(7);
            put_u32(out, *id);
        }),
    }
}

/// Appends a block of records.
fn encode_block(block: &mut Block, out: &mut Gather) {
    out.compose(|out| {
        out.reserve(29 + 8 * block.entries.len());
        out.push(5);
        put_u32(out, block.topic);
        put_u32(out, block.partition);
        put_u64(out, block.base);
        put_u32(out, count(block.entries.len()));
        put_u64(out, block.bodies.len());
        for entry in &block.entries {
            put_u32(out, entry.delta);
            put_u32(out, entry.length);
        }
    });
    block.bodies_at = HEADER as u64 + out.len();
    out.append(std::mem::take(&mut block.bodies));
}

/// A batch as it lies in a file, whole and with the right checksum.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub sequence: u64,
    /// All its bytes.
    pub bytes: &'a [u8],
    /// How many changes it holds.
    changes: u32,
}

/// Why there is no batch to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoBatch {
    /// The bytes are not those of a batch that was written to its end.
    Broken(&'static str),
    /// The batch is whole, but nothing that this version can read.
    Foreign(String),
}

/// The batch at the start of `bytes`.
pub fn frame(bytes: &[u8]) -> Result<Frame<'_>, NoBatch> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(NoBatch::Broken("the file ends within the head of a batch"));
    };
    if header[..4] != MAGIC {
        return Err(NoBatch::Broken("no batch begins there"));
    }
    let mut head = Reader { bytes: &header[8..], at: 0 };
    let (Some(length), Some(sequence), Some(changes), Some(crc)) = (head.u64(), head.u64(), head.u32(), head.u32())
    else {
        unreachable!("the header has these bytes");
    };
    let bytes = usize::try_from(length).ok().filter(|length| *length >= HEADER).and_then(|length| bytes.get(..length));
    let Some(bytes) = bytes else {
        return Err(NoBatch::Broken("the file ends within a batch"));
    };
    if crc32c::crc32c_append(crc32c::crc32c(&header[..CRC_AT]), &bytes[HEADER..]) != crc {
        return Err(NoBatch::Broken("the checksum is wrong"));
    }
    let kind = match (header[4], header[5]) {
        (VERSION, 1) => Kind::Change,
        (VERSION, 2) => Kind::Snapshot,
        (VERSION, kind) => return Err(NoBatch::Foreign(format!("a batch of the unknown kind {kind}"))),
        (version, _) => return Err(NoBatch::Foreign(format!("format version {version} is not known"))),
    };
    Ok(Frame { kind, sequence, bytes, changes })
}

impl Frame<'_> {
    /// What the batch says, or where in it something cannot be read.
    pub fn changes(&self) -> Result<Vec<Change>, usize> {
        let mut reader = Reader { bytes: self.bytes, at: HEADER };
        let mut changes = Vec::new();
        for _ in 0..self.changes {
            let at = reader.at;
            changes.push(reader.change().ok_or(at)?);
        }
        if reader.at == self.bytes.len() { Ok(changes) } else { Err(reader.at) }
    }

    /// The bodies of a block of this batch, in order.
    pub fn bodies<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut at = usize::try_from(block.bodies_at).unwrap_or(usize::MAX);
        block.entries.iter().map(move |entry| {
            let from = at;
            at = at.saturating_add(entry.length as usize);
            self.bytes.get(from..at).unwrap_or_default()
        })
    }
}

/// Reads a batch piece by piece.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()?;
        std::str::from_utf8(self.take(length as usize)?).ok()
    }

    fn change(&mut self) -> Option<Change> {
        Some(match self.u8()? {
            1 => {
                let (id, partitions) = (self.u32()?, self.u32()?);
                let cleanup = match self.u8()? {
                    0 => Cleanup::Delete,
                    1 => Cleanup::Compact,
                    _ => return None,
                };
                Change::Topic { id, spec: TopicSpec { name: Arc::from(self.text()?), partitions, cleanup } }
            }
            2 => Change::TopicDeleted { id: self.u32()? },
            3 => Change::Trim { topic: self.u32()?, partition: self.u32()?, start: self.u64()? },
            4 => {
                let (topic, partition, offset) = (self.u32()?, self.u32()?, Offset(self.u64()?));
                let group = self.text()?.to_owned();
                let metadata = self.text()?.to_owned();
                Change::Position { group, topic, partition, position: Position { offset, metadata } }
            }
            5 => Change::Records(self.block()?),
            6 => Change::Range { topic: self.u32()?, partition: self.u32()?, start: self.u64()?, end: self.u64()? },
            7 => Change::NextTopic { id: self.u32()? },
            _ => return None,
        })
    }

    fn block(&mut self) -> Option<Block> {
        let (topic, partition, base) = (self.u32()?, self.u32()?, self.u64()?);
        let count = self.u32()? as usize;
        let length = self.u64()?;
        let table = self.take(count.checked_mul(8)?)?;
        let mut table = Reader { bytes: table, at: 0 };
        let mut entries = Vec::with_capacity(count);
        let mut sum = 0_u64;
        for _ in 0..count {
            let entry = Entry { delta: table.u32()?, length: table.u32()? };
            sum += u64::from(entry.length);
            entries.push(entry);
        }
        let bodies_at = self.at as u64;
        self.take(usize::try_from(length).ok()?)?;
        let block = Block { topic, partition, base, entries, bodies_at, ..Block::default() };
        (sum == length).then_some(block)
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, count(text.len()));
    out.extend_from_slice(text.as_bytes());
}

/// A number of things in one batch, as it is written down.
fn count(count: usize) -> u32 {
    u32::try_from(count).expect("a batch lies in memory, and 2^32 of anything in it would not")
}
