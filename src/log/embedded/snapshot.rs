//! Snapshots: the first batch of each segment. They say all small state and all live records of
//! compacted topics, so that nothing but the records of ordinary topics needs the older segments.

use std::fs::{self, File};
use std::path::Path;

use bytes::Bytes;

use super::body;
use super::format::{self, Block, Change, Entry, Kind};
use super::index::Slot;
use super::journal::{is_full, write_all_at};
use super::read;
use super::segments::{failed, new_path_of, path_of};
use super::state::State;
use crate::log::{LogError, Result};

/// A new segment that holds its snapshot.
#[derive(Debug)]
pub struct Begun {
    /// The file, open for writing.
    pub file: File,
    /// The snapshot's length.
    pub length: u64,
    /// Where the live records of compacted topics lie now.
    pub blocks: Vec<Block>,
    /// Where each partition starts, as the snapshot says: topic, partition, offset.
    pub starts: Vec<(u32, u32, u64)>,
}

/// What a snapshot will say; the bodies of the records are still to be read.
#[derive(Debug)]
pub struct Plan {
    changes: Vec<Change>,
    live: Vec<Live>,
    starts: Vec<(u32, u32, u64)>,
}

/// The live records of a compacted topic's partition.
#[derive(Debug)]
struct Live {
    topic: u32,
    partition: u32,
    slots: Vec<(u64, Slot)>,
    runs: Vec<read::Run>,
}

/// Collects what a snapshot of `state` says. Opens the files that are to be read, so that the state
/// need not be held while they are.
pub fn plan(state: &mut State) -> Result<Plan> {
    let mut changes = vec![Change::NextTopic { id: state.next_topic() }];
    let (mut live, mut starts) = (Vec::new(), Vec::new());
    for (id, topic) in state.topics() {
        changes.push(Change::Topic { id, spec: topic.spec.clone() });
        for (number, partition) in (0..).zip(&topic.partitions) {
            let (start, end) = (partition.start(), partition.end());
            changes.push(Change::Range { topic: id, partition: number, start, end });
            starts.push((id, number, start));
            let slots = partition.live();
            if !slots.is_empty() {
                live.push(Live { topic: id, partition: number, slots, runs: Vec::new() });
            }
        }
    }
    for live in &mut live {
        live.runs = read::runs(live.slots.iter().map(|(_, slot)| *slot), &mut state.segments)?;
    }
    changes.extend(state.positions().map(|(group, topic, partition, position)| Change::Position {
        group: group.to_owned(),
        topic,
        partition,
        position: position.clone(),
    }));
    Ok(Plan { changes, live, starts })
}

/// Writes segment `number`, which begins with the snapshot, and makes it durable; its name is left to
/// the caller to make durable. The file gets that name when all of it is durable: a segment is there
/// with its whole snapshot, or it is not there. So after an error it is not there.
pub fn write(folder: &Path, number: u32, sequence: u64, mut plan: Plan) -> Result<Begun> {
    for live in &plan.live {
        plan.changes.extend(blocks(folder, live)?.into_iter().map(Change::Records));
    }
    let batch = format::encode(&mut plan.changes).seal(Kind::Snapshot, sequence);
    let (new, path) = (new_path_of(folder, number), path_of(folder, number));
    let written = File::create(&new)
        .and_then(|file| write_all_at(&file, &batch.parts, 0).map(|()| file))
        .and_then(|file| file.sync_all().map(|()| file))
        .and_then(|file| fs::rename(&new, &path).map(|()| file));
    let file = match written {
        Ok(file) => file,
        Err(error) => {
            if let Err(again) = fs::remove_file(&new) {
                tracing::warn!(path = %new.display(), error = %again, "cannot remove a segment that was not begun");
            }
            if is_full(&error) {
                return Err(LogError::Full { folder: folder.to_owned(), source: error });
            }
            return Err(failed("write", &new)(error));
        }
    };
    let blocks = plan.changes.into_iter().filter_map(|change| match change {
        Change::Records(block) => Some(block),
        _ => None,
    });
    Ok(Begun { file, length: batch.length, blocks: blocks.collect(), starts: plan.starts })
}

/// Reads the live records of one partition and makes blocks of them.
fn blocks(folder: &Path, live: &Live) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut slots = live.slots.iter();
    for run in &live.runs {
        let bytes = run.read(folder)?;
        for (offset, slot) in slots.by_ref().take(run.count()) {
            let body = run.body(&bytes, slot);
            // A record that went bad on the disk must not get a fresh checksum with its batch.
            if body::key(&body).is_none() {
                return Err(read::damaged(folder, slot));
            }
            push(&mut blocks, live, *offset, &body);
        }
    }
    Ok(blocks)
}

/// Adds a record to the last block, or to a new one where the last one cannot say its offset.
fn push(blocks: &mut Vec<Block>, live: &Live, offset: u64, body: &Bytes) {
    let delta = blocks.last().and_then(|block| u32::try_from(offset - block.base).ok());
    let delta = delta.unwrap_or_else(|| {
        let (topic, partition) = (live.topic, live.partition);
        blocks.push(Block { topic, partition, base: offset, ..Block::default() });
        0
    });
    if let Some(block) = blocks.last_mut() {
        let length = u32::try_from(body.len()).expect("a slot's length is a u32");
        block.entries.push(Entry { delta, length });
        block.bodies.push(body);
    }
}
