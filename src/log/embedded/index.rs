//! Where the records of one partition lie: 16 bytes of memory for a record of an ordinary topic,
//! and the key besides for one of a compacted topic.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::format::{Block, Key};
use super::segments::Segments;
use crate::log::Cleanup;

/// Where a record's body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The byte of the segment's file.
    pub position: u64,
    /// The segment's number.
    pub segment: u32,
    /// The body's length in bytes.
    pub length: u32,
}

/// One partition.
#[derive(Debug)]
pub struct Partition {
    start: u64,
    end: u64,
    records: Records,
}

/// The records that are there.
#[derive(Debug)]
enum Records {
    /// All of an ordinary topic's, with dense offsets that end before `Partition::end`.
    All(VecDeque<Slot>),
    /// The newest of each key of a compacted topic.
    Newest { by_offset: BTreeMap<u64, Newest>, by_key: HashMap<Box<[u8]>, u64> },
}

/// A record of a compacted topic.
#[derive(Clone, Copy, Debug)]
struct Newest {
    slot: Slot,
    tombstone: bool,
}

impl Partition {
    /// A partition without records.
    pub fn new(cleanup: Cleanup) -> Self {
        let records = match cleanup {
            Cleanup::Delete => Records::All(VecDeque::new()),
            Cleanup::Compact => Records::Newest { by_offset: BTreeMap::new(), by_key: HashMap::new() },
        };
        Self { start: 0, end: 0, records }
    }

    /// The first offset that has not been trimmed.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The offset that the next record will get.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The records that are missing between the partition's start and the first one that is there,
    /// and where that one lies. None ever are but while segments are read one after the other.
    pub fn missing(&self) -> Option<(std::ops::Range<u64>, Option<Slot>)> {
        match &self.records {
            Records::All(slots) => {
                let first = self.end - slots.len() as u64;
                (self.start < first).then(|| (self.start..first, slots.front().copied()))
            }
            Records::Newest { .. } => None,
        }
    }

    /// The records from `offset` on, with their offsets.
    pub fn records(&self, offset: u64) -> Box<dyn Iterator<Item = (u64, Slot)> + '_> {
        match &self.records {
            Records::All(slots) => {
                let first = self.end - slots.len() as u64;
                let skip = usize::try_from(offset.saturating_sub(first)).unwrap_or(usize::MAX).min(slots.len());
                Box::new((first + skip as u64..).zip(slots.range(skip..).copied()))
            }
            Records::Newest { by_offset, .. } => {
                Box::new(by_offset.range(offset..).map(|(offset, newest)| (*offset, newest.slot)))
            }
        }
    }

    /// The live records of a compacted topic without the tombstones; nothing for an ordinary topic.
    pub fn live(&self) -> Vec<(u64, Slot)> {
        match &self.records {
            Records::All(_) => Vec::new(),
            Records::Newest { by_offset, .. } => {
                let live = by_offset.iter().filter(|(_, newest)| !newest.tombstone);
                live.map(|(offset, newest)| (*offset, newest.slot)).collect()
            }
        }
    }

    /// Adds a block of new records, whose bodies lie at `at` of `segment`.
    pub fn append(&mut self, block: &Block, segment: u32, at: u64, segments: &mut Segments) -> Result<(), String> {
        if block.base != self.end {
            return Err(format!("the records begin at offset {} and not at {}", block.base, self.end));
        }
        self.end += block.entries.len() as u64;
        match &mut self.records {
            Records::All(slots) => {
                slots.extend(slots_of(block, segment, at).map(|(_, slot)| slot));
                segments.add_live(segment, block.entries.len() as u64);
            }
            Records::Newest { by_offset, by_key } => {
                insert_newest(by_offset, by_key, block, slots_of(block, segment, at))?;
            }
        }
        Ok(())
    }

    /// Takes a compacted topic's live records as a snapshot has them.
    pub fn restore_live(&mut self, block: &Block, segment: u32, at: u64) -> Result<(), String> {
        match &mut self.records {
            Records::All(_) => Err("a snapshot holds records of a topic that is not compacted".to_owned()),
            Records::Newest { by_offset, by_key } => {
                insert_newest(by_offset, by_key, block, slots_of(block, segment, at))
            }
        }
    }

    /// Takes the range that a snapshot has. Records that should be there and are not become
    /// [`Partition::missing`].
    pub fn restore_range(&mut self, start: u64, end: u64, segments: &mut Segments) -> Result<(), String> {
        if start > end || end < self.end {
            return Err(format!("the range {start}..{end} cannot follow {}..{}", self.start, self.end));
        }
        match &mut self.records {
            Records::All(slots) if end > self.end => release(slots.drain(..), segments),
            Records::All(_) => {}
            Records::Newest { by_offset, by_key } => {
                by_offset.clear();
                by_key.clear();
            }
        }
        self.end = end;
        self.trim(start, segments);
        Ok(())
    }

    /// Gives up the records below `start`. Returns whether that changes anything.
    pub fn trim(&mut self, start: u64, segments: &mut Segments) -> bool {
        let start = start.min(self.end);
        let changes = start > self.start;
        self.start = self.start.max(start);
        match &mut self.records {
            Records::All(slots) => {
                let first = self.end - slots.len() as u64;
                let gone = usize::try_from(self.start.saturating_sub(first)).unwrap_or(usize::MAX);
                release(slots.drain(..gone.min(slots.len())), segments);
                if slots.capacity() > 1024 && slots.capacity() / 4 > slots.len() {
                    slots.shrink_to(slots.len() * 2);
                }
            }
            Records::Newest { by_offset, by_key } => {
                if by_offset.first_key_value().is_some_and(|(first, _)| *first < self.start) {
                    *by_offset = by_offset.split_off(&self.start);
                    by_key.retain(|_, offset| *offset >= self.start);
                }
            }
        }
        changes
    }

    /// Gives up all records, as the topic goes.
    pub fn clear(&mut self, segments: &mut Segments) {
        match &mut self.records {
            Records::All(slots) => release(slots.drain(..), segments),
            Records::Newest { by_offset, by_key } => {
                by_offset.clear();
                by_key.clear();
            }
        }
    }

    /// Notes that a compacted topic's record was copied to another place.
    pub fn relocate(&mut self, block: &Block, segment: u32, at: u64) {
        if let Records::Newest { by_offset, .. } = &mut self.records {
            for (offset, slot) in slots_of(block, segment, at) {
                if let Some(newest) = by_offset.get_mut(&offset) {
                    newest.slot = slot;
                }
            }
        }
    }

    /// Forgets the deleted keys of a compacted topic, which the newest snapshot does not have either.
    pub fn drop_tombstones(&mut self) {
        if let Records::Newest { by_offset, by_key } = &mut self.records {
            by_offset.retain(|_, newest| !newest.tombstone);
            by_key.retain(|_, offset| by_offset.contains_key(offset));
        }
    }
}

/// The records of a block whose bodies begin at `at`: offsets and places.
fn slots_of(block: &Block, segment: u32, at: u64) -> impl Iterator<Item = (u64, Slot)> + '_ {
    let mut position = at;
    block.entries.iter().map(move |entry| {
        let slot = Slot { position, segment, length: entry.length };
        position += u64::from(entry.length);
        (block.base + u64::from(entry.delta), slot)
    })
}

/// Adds a block's records to a compacted topic's, each in the place of the older one with its key.
fn insert_newest(
    by_offset: &mut BTreeMap<u64, Newest>,
    by_key: &mut HashMap<Box<[u8]>, u64>,
    block: &Block,
    slots: impl Iterator<Item = (u64, Slot)>,
) -> Result<(), String> {
    if block.keys.len() != block.entries.len() {
        return Err("a record of a compacted topic has no key".to_owned());
    }
    for (Key { key, tombstone }, (offset, slot)) in block.keys.iter().zip(slots) {
        if let Some(older) = by_key.insert(key.clone(), offset) {
            by_offset.remove(&older);
        }
        by_offset.insert(offset, Newest { slot, tombstone: *tombstone });
    }
    Ok(())
}

/// Counts records as gone from their segments.
fn release(slots: impl Iterator<Item = Slot>, segments: &mut Segments) {
    let mut run: Option<(u32, u64)> = None;
    for slot in slots {
        match &mut run {
            Some((segment, count)) if *segment == slot.segment => *count += 1,
            _ => {
                if let Some((segment, count)) = run.replace((slot.segment, 1)) {
                    segments.remove_live(segment, count);
                }
            }
        }
    }
    if let Some((segment, count)) = run {
        segments.remove_live(segment, count);
    }
}
