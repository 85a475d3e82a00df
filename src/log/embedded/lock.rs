//! The lock of a log's folder: one process, and one handle in it, has the log open.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::segments::failed;
use crate::log::{LogError, Result};

/// The name of the file that is locked.
const NAME: &str = "LOCK";

/// A locked folder. The system drops the lock when the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Locks `folder`, and writes this process's id into the lock file.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(&path).unwrap_or_default();
                let pid = pid.trim().parse::<u32>().map_or_else(|_| "?".to_owned(), |pid| pid.to_string());
                return Err(LogError::InUse { folder: folder.to_owned(), pid });
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        let write = |mut file: &File| file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = write(&file) {
            // The id is a help to people only, and a full disk may lack the space for it.
            tracing::warn!(path = %path.display(), %error, "cannot write the process id into the lock file");
        }
        Ok(Self { file })
    }
}

impl Drop for FolderLock {
    /// Unlocks: closing the file would not be enough while a child process that is just being
    /// started still has a copy of it.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock the log's folder");
        }
    }
}
