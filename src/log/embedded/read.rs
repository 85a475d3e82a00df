//! Reading records' bodies: adjacent ones with one call.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::index::Slot;
use super::segments::{Segments, failed, path_of};
use crate::log::{LogError, Result};

/// The most bytes that one call reads, but for a single record that is larger. A record shares the
/// bytes that were read with it, and keeps them in memory.
const MOST_BYTES: u64 = 1024 * 1024;

/// Bodies that lie side by side in one segment.
#[derive(Debug)]
pub struct Run {
    segment: u32,
    file: Arc<File>,
    start: u64,
    end: u64,
    count: usize,
}

/// Puts slots together into runs, in order, and opens their files.
pub fn runs(slots: impl Iterator<Item = Slot>, segments: &mut Segments) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for Slot { position, segment, length } in slots {
        let length = u64::from(length);
        match runs.last_mut() {
            Some(run)
                if run.segment == segment && run.end == position && run.end - run.start + length <= MOST_BYTES =>
            {
                run.end += length;
                run.count += 1;
            }
            _ => runs.push(Run {
                segment,
                file: segments.open(segment)?,
                start: position,
                end: position + length,
                count: 1,
            }),
        }
    }
    Ok(runs)
}

impl Run {
    /// The number of bodies.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads the run.
    pub fn read(&self, folder: &Path) -> Result<Bytes> {
        let path = path_of(folder, self.segment);
        let length = usize::try_from(self.end - self.start).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = self.start + bytes.len() as u64;
            let room = length - bytes.len();
            let read = rustix::io::pread(&*self.file, rustix::buffer::spare_capacity(&mut bytes), at);
            match read {
                Ok(0) => {
                    let why = format!("the file ends {room} bytes before the records do that were read");
                    return Err(LogError::Damaged { file: path, at, why });
                }
                Ok(_) => bytes.truncate(length),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("read", &path)(io::Error::from(error))),
            }
        }
        Ok(Bytes::from(bytes))
    }

    /// The body at `slot`, of which `bytes` of this run were read.
    pub fn body(&self, bytes: &Bytes, slot: &Slot) -> Bytes {
        let from = usize::try_from(slot.position - self.start).unwrap_or(usize::MAX);
        bytes.slice(from..from + slot.length as usize)
    }
}

/// A record cannot be read.
pub fn damaged(folder: &Path, slot: &Slot) -> LogError {
    let why = "the record there is not as it was written".to_owned();
    LogError::Damaged { file: path_of(folder, slot.segment), at: slot.position, why }
}
