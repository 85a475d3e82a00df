//! What the handles of one open log share, and the way a change takes: journal first, state after.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::format::{self, Change, Kind};
use super::journal::Journal;
use super::lock::FolderLock;
use super::segments::{path_of, sync_folder};
use super::snapshot;
use super::state::{Place, State};
use super::{DiskUsage, Options};
use crate::log::{LogError, Result};

/// From this many bytes on, a segment of which everything was trimmed is given up before it is full.
const EARLY_ROLL_BYTES: u64 = 1024 * 1024;

/// A snapshot is followed by at least so many times its own length before the next one is written.
const SNAPSHOT_SHARE: u64 = 4;

/// One open log. Where both are held, the journal was taken before the state.
#[derive(Debug)]
pub struct Shared {
    /// The folder.
    pub folder: PathBuf,
    options: Options,
    /// Who waits for the journal first stands here, one at a time: a lock lets the thread that gave it
    /// up have it again at once, and one that writes without a pause would keep all others out.
    next: Mutex<()>,
    journal: Mutex<Journal>,
    state: Mutex<State>,
    /// Signalled whenever a waiting consumer may have something to do.
    changed: Condvar,
    /// Keeps other processes out. The last field, so that it is given up last.
    _lock: FolderLock,
}

/// Who may go over the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Nobody: new records, new topics.
    Holds,
    /// Changes that take next to nothing and let space come back: positions, trims, deleted topics.
    /// If they were refused, a full log could not be emptied.
    Waived,
}

impl Shared {
    /// A log that was read from `folder`.
    pub fn new(folder: PathBuf, options: Options, journal: Journal, state: State, lock: FolderLock) -> Self {
        let (journal, state) = (Mutex::new(journal), Mutex::new(state));
        Self { folder, options, next: Mutex::new(()), journal, state, changed: Condvar::new(), _lock: lock }
    }

    /// Takes the journal: whoever has it is the only one who changes anything but by trimming.
    pub fn journal(&self) -> Result<MutexGuard<'_, Journal>> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.journal.lock().map_err(|_| LogError::Poisoned {
            folder: self.folder.clone(),
            why: "a thread panicked while it was writing".to_owned(),
        })
    }

    /// Takes the state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // Changes to the state do not stop half-way: a panic of a thread that read it leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until `deadline`. Returns the state again, and whether time is left.
    pub fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<std::time::Instant>,
    ) -> (MutexGuard<'a, State>, bool) {
        let Some(deadline) = deadline else {
            return (self.changed.wait(state).unwrap_or_else(PoisonError::into_inner), true);
        };
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return (state, false);
        }
        let (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        (state, true)
    }

    /// Wakes up all who wait for a change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Appends one batch that says `changes`, makes it durable and then visible. The caller has
    /// checked that the changes fit the state.
    pub fn write(&self, journal: &mut Journal, new: Vec<Change>, quota: Quota) -> Result<()> {
        journal.usable()?;
        if self.roll_due() {
            self.roll(journal)?;
        }
        // Trims first: the topic of one may be deleted by what follows.
        let mut changes: Vec<Change> = self.state().untold_trims().collect();
        changes.extend(new);
        if changes.is_empty() {
            return Ok(());
        }
        let draft = format::encode(&mut changes);
        if quota == Quota::Holds {
            self.hold_quota(journal, draft.length())?;
        }
        let batch = draft.seal(Kind::Change, journal.sequence());
        let place = Place { segment: journal.segment(), at: journal.append(&batch)? };
        let mut state = self.state();
        state.segments.appended(place.segment, batch.length);
        for change in changes {
            if let Err(why) = state.apply(change, place) {
                return Err(journal.poison("a batch that was written cannot be taken in", &why));
            }
        }
        drop(state);
        self.notify();
        self.remove_dead();
        Ok(())
    }

    /// Gives disk space back if trims or deleted topics made that possible.
    pub fn reclaim(&self) -> Result<()> {
        if !self.can_give_back(&self.state()) {
            return Ok(());
        }
        let mut journal = self.journal()?;
        journal.usable()?;
        let outcome = if roll_is_early(&self.state(), &self.options) {
            self.roll(&mut journal)
        } else if self.state().has_untold_trims() {
            self.write(&mut journal, Vec::new(), Quota::Waived)
        } else {
            Ok(())
        };
        self.remove_dead();
        match outcome {
            // The next batch tries again.
            Err(LogError::Full { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    /// The space that the log takes.
    pub fn usage(&self) -> DiskUsage {
        self.state().segments.usage()
    }

    /// Whether [`Shared::reclaim`] would give space back.
    fn can_give_back(&self, state: &State) -> bool {
        state.segments.dead().next().is_some() || roll_is_early(state, &self.options)
    }

    /// Whether the next batch should begin a new segment.
    fn roll_due(&self) -> bool {
        let state = self.state();
        let active = state.segments.active();
        roll_is_early(&state, &self.options)
            || active.since_snapshot > self.options.segment_bytes.max(SNAPSHOT_SHARE * active.snapshot)
    }

    /// Goes on in a new segment. Where there is no space for its snapshot, stays in the old one.
    fn roll(&self, journal: &mut Journal) -> Result<()> {
        let plan = snapshot::plan(&mut self.state())?;
        let Some(number) = journal.segment().checked_add(1) else {
            return Err(journal.poison("a new segment", &"the numbers are used up"));
        };
        let begun = match snapshot::write(&self.folder, number, journal.sequence(), plan) {
            Ok(begun) => begun,
            Err(LogError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Err(error) = sync_folder(&self.folder) {
            // After a crash the segment may be there or not: nothing can be written in either case.
            return Err(journal.poison("a new segment", &error));
        }
        journal.move_to(begun.file, number, begun.length);
        let mut state = self.state();
        state.segments.created(number, begun.length);
        state.relocate(&begun.blocks, number);
        begun.starts.iter().for_each(|(topic, partition, start)| state.told_trim(*topic, *partition, *start));
        drop(state);
        self.remove_dead();
        Ok(())
    }

    /// Refuses a batch of `wanted` bytes that would take the log over its quota, after having tried
    /// to make room.
    fn hold_quota(&self, journal: &mut Journal, wanted: u64) -> Result<()> {
        let Some(quota) = self.options.quota_bytes else { return Ok(()) };
        let over = || self.usage().bytes.saturating_add(wanted) > quota;
        let active = self.state().segments.active();
        if over() && active.dead && active.since_snapshot > active.snapshot {
            self.roll(journal)?;
        }
        if over() {
            let used = self.usage().bytes;
            return Err(LogError::QuotaExceeded { folder: self.folder.clone(), quota, used, wanted });
        }
        Ok(())
    }

    /// Removes the files that nothing needs any more. A file that comes back in a crash, as its
    /// removal was not made durable, holds nothing that a later segment does not overrule: so that is
    /// not waited for. What cannot be removed now is tried again.
    fn remove_dead(&self) {
        let state = self.state();
        if state.has_untold_trims() {
            // The file would be gone and the trim might be forgotten: records would be missing.
            return;
        }
        let dead: Vec<u32> = state.segments.dead().collect();
        drop(state);
        for number in dead {
            let path = path_of(&self.folder, number);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a segment that nothing needs");
                }
                _ => self.state().segments.removed(number),
            }
        }
    }
}

/// Whether a new segment would let the whole of the active one go.
fn roll_is_early(state: &State, options: &Options) -> bool {
    let active = state.segments.active();
    let least = options.segment_bytes.min(EARLY_ROLL_BYTES).max(SNAPSHOT_SHARE * active.snapshot);
    active.dead && active.since_snapshot > least
}

impl Drop for Shared {
    /// Says the trims that no batch has said. That it may fail is no harm: they are forgotten then.
    fn drop(&mut self) {
        let untold = self.state().has_untold_trims();
        let Ok(mut journal) = self.journal() else { return };
        if untold && let Err(error) = self.write(&mut journal, Vec::new(), Quota::Waived) {
            tracing::debug!(folder = %self.folder.display(), %error, "the last trims were not written");
        }
    }
}
