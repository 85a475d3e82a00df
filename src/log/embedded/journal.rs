//! The end of the journal: the segment that is written to.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::io::Errno;

use super::format::Encoded;
use super::segments::{failed, path_of};
use crate::log::{LogError, Result};

/// How many pieces one system call takes (`IOV_MAX`).
const MOST_PIECES: usize = 1024;

/// The end of the journal. Who holds it, alone, may write.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: File,
    /// The number of the segment that is written to.
    segment: u32,
    /// Its length: all below is whole and durable.
    length: u64,
    /// The number of the next batch.
    sequence: u64,
    /// The failure that left the file in an unknown state.
    failure: Option<String>,
}

impl Journal {
    /// The journal that ends with `length` bytes of segment `segment`.
    pub fn new(folder: &Path, segment: u32, length: u64, sequence: u64) -> Result<Self> {
        let path = path_of(folder, segment);
        let file = File::options().write(true).open(&path).map_err(failed("open", &path))?;
        Ok(Self { folder: folder.to_owned(), file, segment, length, sequence, failure: None })
    }

    /// Goes on in a new segment, which is there and begins with a snapshot.
    pub fn move_to(&mut self, file: File, segment: u32, length: u64) {
        self.file = file;
        self.segment = segment;
        self.length = length;
        self.sequence += 1;
    }

    /// The number of the segment that is written to.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// The number of the next batch.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// An error once a failure left the file in an unknown state.
    pub fn usable(&self) -> Result<()> {
        match &self.failure {
            Some(why) => Err(LogError::Poisoned { folder: self.folder.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses all writes from now on.
    pub fn poison(&mut self, what: &str, why: &dyn std::fmt::Display) -> LogError {
        let why = format!("{what}: {why}");
        tracing::error!(folder = %self.folder.display(), %why, "the log takes no more writes");
        self.failure = Some(why.clone());
        LogError::Poisoned { folder: self.folder.clone(), why }
    }

    /// Makes durable what is there already.
    pub fn sync(&self) -> Result<()> {
        let path = path_of(&self.folder, self.segment);
        rustix::fs::fdatasync(&self.file).map_err(|error| failed("sync", &path)(error.into()))
    }

    /// Appends a batch and makes it durable. Returns its first byte's place.
    ///
    /// After [`LogError::Full`] the file is as it was before.
    pub fn append(&mut self, batch: &Encoded) -> Result<u64> {
        let at = self.length;
        if let Err(error) = write_all_at(&self.file, &batch.parts, at) {
            if let Err(again) = self.file.set_len(at) {
                return Err(self.poison("cutting off a batch that could not be written failed", &again));
            }
            if is_full(&error) {
                return Err(LogError::Full { folder: self.folder.clone(), source: error });
            }
            return Err(failed("write to", &path_of(&self.folder, self.segment))(error));
        }
        if let Err(error) = rustix::fs::fdatasync(&self.file) {
            // Nobody can say what is on the disk now, and asking again would answer "all is well".
            // The batch was not acknowledged; cutting it off keeps it from being found in the page
            // cache by the next one who opens the log.
            if let Err(again) = self.file.set_len(at) {
                tracing::error!(error = %again, "cutting off a batch that could not be made durable failed");
            }
            return Err(self.poison("a sync failed", &error));
        }
        self.length += batch.length;
        self.sequence += 1;
        Ok(at)
    }
}

/// Whether an error says that there is no space: on the device, in the user's quota, or under the
/// process's limit for a file's size.
pub fn is_full(error: &io::Error) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
    error.raw_os_error().is_some_and(|code| full.iter().any(|errno| errno.raw_os_error() == code))
}

/// Writes all of `parts` to `file` from byte `at` on.
pub fn write_all_at(file: &File, parts: &[Bytes], mut at: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let most = left.len().min(MOST_PIECES);
        let written = match rustix::io::pwritev(file, &left[..most], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        at += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(device: &str) -> Journal {
        Journal {
            folder: PathBuf::from("folder"),
            file: File::options().write(true).open(device).unwrap(),
            segment: 1,
            length: 0,
            sequence: 1,
            failure: None,
        }
    }

    fn batch() -> Encoded {
        Encoded { parts: vec![Bytes::from_static(b"batch")], length: 5 }
    }

    #[test]
    fn a_failed_sync_poisons() {
        // Writing there succeeds, and syncing does not.
        let mut journal = journal("/dev/null");
        assert!(matches!(journal.append(&batch()), Err(LogError::Poisoned { .. })));
        assert!(matches!(journal.usable(), Err(LogError::Poisoned { .. })));
        assert_eq!((journal.length, journal.sequence), (0, 1));
    }

    #[test]
    fn a_failed_write_that_cannot_be_cut_off_poisons() {
        // Writing there finds no space, and truncating fails.
        let mut journal = journal("/dev/full");
        assert!(matches!(journal.append(&batch()), Err(LogError::Poisoned { .. })));
        assert!(matches!(journal.usable(), Err(LogError::Poisoned { .. })));
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_written() {
        let parts: Vec<Bytes> =
            (0..3 * MOST_PIECES).map(|i| Bytes::from(vec![u8::try_from(i % 251).unwrap(); i % 3])).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        write_all_at(file.as_file(), &parts, 2).unwrap();
        let written = std::fs::read(file.path()).unwrap();
        assert_eq!(written[2..], parts.concat());
    }
}
