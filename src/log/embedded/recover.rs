//! Reading a log's folder: all segments in order, every checksum and every number.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use super::body;
use super::format::{self, Change, Frame, HEADER, Key, Kind, MAGIC, NoBatch};
use super::journal::Journal;
use super::segments::{failed, list, path_of, sync_folder};
use super::snapshot;
use super::state::{Place, State};
use crate::log::{Cleanup, LogError, Result};

/// Reads the log in `folder`, or begins one where there is none.
pub fn recover(folder: &Path) -> Result<(Journal, State)> {
    let (numbers, unfinished) = list(folder)?;
    for path in unfinished {
        // Its snapshot may be torn; nothing was written behind it.
        fs::remove_file(&path).map_err(failed("remove", &path))?;
    }
    let Some(last) = numbers.last().copied() else { return begin(folder) };
    let mut scan = Scan { folder, state: State::new(folder), sequence: None, segment: None };
    let mut length = 0;
    for number in numbers {
        length = scan.segment(number, number == last)?;
    }
    scan.all_there()?;
    let sequence = scan.sequence.map_or(1, |sequence| sequence + 1);
    let journal = Journal::new(folder, last, length, sequence)?;
    // What was read may not have been made durable: the process that wrote it may have been killed
    // before it could.
    journal.sync()?;
    sync_folder(folder)?;
    Ok((journal, scan.state))
}

/// Begins a log: a first segment whose snapshot says nothing.
fn begin(folder: &Path) -> Result<(Journal, State)> {
    let mut state = State::new(folder);
    let plan = snapshot::plan(&mut state)?;
    let begun = snapshot::write(folder, 1, 1, plan)?;
    sync_folder(folder)?;
    state.segments.created(1, begun.length);
    Ok((Journal::new(folder, 1, begun.length, 2)?, state))
}

/// Reading in progress.
struct Scan<'a> {
    folder: &'a Path,
    state: State,
    /// The number of the last batch.
    sequence: Option<u64>,
    /// The last segment.
    segment: Option<u32>,
}

impl Scan<'_> {
    /// Reads one segment. Returns its length without a torn end.
    fn segment(&mut self, number: u32, last: bool) -> Result<u64> {
        let path = path_of(self.folder, number);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let mut at = 0;
        while at == 0 || at < bytes.len() {
            let rest = &bytes[at..];
            match format::frame(rest) {
                Ok(frame) => {
                    self.batch(&path, number, at, frame)?;
                    at += frame.bytes.len();
                }
                // A segment gets its name when its snapshot is durable, so that is never torn.
                Err(NoBatch::Broken(why)) if last && at > 0 && !self.any_batch_behind(rest) => {
                    tracing::warn!(
                        file = %path.display(), at, bytes = rest.len(), why,
                        "cut off an unfinished write at the end of the journal",
                    );
                    let cut = File::options().write(true).open(&path);
                    let cut = cut.and_then(|file| file.set_len(at as u64).and_then(|()| file.sync_all()));
                    cut.map_err(failed("cut off the end of", &path))?;
                    break;
                }
                Err(NoBatch::Broken(why)) => return Err(damaged(&path, at, why)),
                Err(NoBatch::Foreign(why)) => return Err(damaged(&path, at, why)),
            }
        }
        self.segment = Some(number);
        Ok(at as u64)
    }

    /// Whether a whole batch that is newer than all that were read begins somewhere behind the first
    /// byte of `rest`: then the batch there was not the last one that was written.
    fn any_batch_behind(&self, rest: &[u8]) -> bool {
        (1..=rest.len().saturating_sub(HEADER)).any(|at| {
            rest[at..].starts_with(&MAGIC)
                && match format::frame(&rest[at..]) {
                    Ok(frame) => self.sequence.is_none_or(|sequence| frame.sequence > sequence),
                    Err(NoBatch::Foreign(_)) => true,
                    Err(NoBatch::Broken(_)) => false,
                }
        })
    }

    /// Takes in the batch at byte `at` of segment `number`.
    fn batch(&mut self, path: &Path, number: u32, at: usize, frame: Frame<'_>) -> Result<()> {
        if (frame.kind == Kind::Snapshot) != (at == 0) {
            return Err(damaged(path, at, "a segment has one snapshot, and begins with it"));
        }
        if let Some(before) = self.sequence {
            // Segments between may be gone, and their batches with them.
            let follows = at > 0 || self.segment.is_some_and(|segment| segment + 1 == number);
            if frame.sequence <= before || follows && frame.sequence != before + 1 {
                let why = format!("batch number {} cannot follow number {before}", frame.sequence);
                return Err(damaged(path, at, why));
            }
        }
        self.sequence = Some(frame.sequence);
        let mut changes = frame.changes().map_err(|inner| damaged(path, at + inner, "it says nothing known"))?;
        let length = frame.bytes.len() as u64;
        let place = Place { segment: number, at: at as u64 };
        let taken = if frame.kind == Kind::Snapshot {
            self.state.segments.found(number, length);
            let compacted: BTreeSet<u32> = changes.iter().filter_map(compacted).collect();
            fill_keys(&mut changes, &frame, |topic| compacted.contains(&topic));
            self.state.restore(changes, place)
        } else {
            self.state.segments.grew(number, length);
            let state = &self.state;
            let is_compacted = |topic| state.topic(topic).is_some_and(|topic| topic.spec.cleanup == Cleanup::Compact);
            fill_keys(&mut changes, &frame, is_compacted);
            changes.into_iter().try_for_each(|change| self.state.apply(change, place))
        };
        taken.map_err(|why| damaged(path, at, why))
    }

    /// Checks that no record is missing that nobody gave up: a segment in between may be lost.
    fn all_there(&self) -> Result<()> {
        for (_, topic) in self.state.topics() {
            for (number, partition) in topic.partitions.iter().enumerate() {
                if let Some((missing, next)) = partition.missing() {
                    let (segment, at) = next.map_or((self.segment, 0), |slot| (Some(slot.segment), slot.position));
                    let path = path_of(self.folder, segment.unwrap_or(0));
                    let at = usize::try_from(at).unwrap_or(0);
                    let (from, to, name) = (missing.start, missing.end, &topic.spec.name);
                    let why = format!("records {from} to {to} of {name}/{number} are missing before it");
                    return Err(damaged(&path, at, why));
                }
            }
        }
        Ok(())
    }
}

/// The number of the topic that a change creates, if it is to be compacted.
fn compacted(change: &Change) -> Option<u32> {
    match change {
        Change::Topic { id, spec } if spec.cleanup == Cleanup::Compact => Some(*id),
        _ => None,
    }
}

/// Fills in the keys of the blocks of compacted topics. A block with a record that has no key gets
/// too few, and that is seen when it is taken in.
fn fill_keys(changes: &mut [Change], frame: &Frame<'_>, is_compacted: impl Fn(u32) -> bool) {
    for change in changes {
        if let Change::Records(block) = change
            && is_compacted(block.topic)
        {
            let keys = frame.bodies(block).map_while(body::key);
            block.keys = keys.map(|(key, value)| Key { key: Box::from(key), tombstone: !value }).collect();
        }
    }
}

/// A file is damaged.
fn damaged(path: &Path, at: usize, why: impl Into<String>) -> LogError {
    LogError::Damaged { file: path.to_owned(), at: at as u64, why: why.into() }
}
