//! Staged files: written where nobody looks, synced, and made visible under their name in one step.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest as _, Sha256};

use super::error::{Result, SinkError, io_error};
use crate::record::Digest;

/// A file that grows at its end, with the digest of all that is in it.
pub struct StagedFile {
    path: PathBuf,
    file: File,
    length: u64,
    digest: Sha256,
    is_synced: bool,
}

impl StagedFile {
    /// Opens a staged file with its first `length` bytes; what a crash left behind them is cut off.
    ///
    /// # Errors
    /// A file that is shorter than it was when it was synced.
    pub fn open(path: &Path, length: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(io_error("open", path))?;
        let found = file.metadata().map_err(io_error("look at", path))?.len();
        if found < length {
            let why = format!("has {found} bytes, {length} were synced");
            return Err(SinkError::Staged { path: path.to_owned(), why });
        }
        file.set_len(length).map_err(io_error("cut", path))?;
        let mut digest = Sha256::new();
        hash(&mut file, &mut digest).map_err(io_error("read", path))?;
        file.seek(SeekFrom::Start(length)).map_err(io_error("read", path))?;
        Ok(Self { path: path.to_owned(), file, length, digest, is_synced: false })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`SinkError::Full`] and the like; the next [`Self::open`] cuts off what was written of them.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        self.is_synced = false;
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> Result<()> {
        if !self.is_synced {
            self.file.sync_data().map_err(io_error("sync", &self.path))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// The file's length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of all that is in it.
    pub fn digest(&self) -> Digest {
        Digest::from(self.digest.clone())
    }
}

fn hash(file: &mut File, digest: &mut Sha256) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => digest.update(&buffer[..length]),
        }
    }
}

/// The digest of a whole file.
///
/// # Errors
/// Where it cannot be read.
pub fn digest_of(path: &Path) -> Result<Digest> {
    let mut digest = Sha256::new();
    File::open(path).and_then(|mut file| hash(&mut file, &mut digest)).map_err(io_error("read", path))?;
    Ok(Digest::from(digest))
}

/// Makes a staged and synced file visible under `name`. Doing it again after a crash is no error: where the staged
/// file is gone, or another with the same content stands there, that is success.
///
/// # Errors
/// [`SinkError::Exists`] where another file stands there and `replace` is not said.
pub fn publish(staged: &Path, name: &Path, content: Digest, replace: bool) -> Result<()> {
    if !staged.exists() {
        return match name.is_file() && digest_of(name)? == content {
            true => Ok(()),
            false => Err(SinkError::Staged { path: staged.to_owned(), why: "is gone".to_owned() }),
        };
    }
    if replace {
        std::fs::rename(staged, name).map_err(io_error("write", name))?;
        return sync_folder_of(name);
    }
    match create_only(staged, name) {
        Ok(()) => sync_folder_of(name),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let is_same = name.is_file() && digest_of(name)? == content;
            if is_same { Ok(()) } else { Err(SinkError::Exists { path: name.to_owned() }) }
        }
        Err(error) => Err(io_error("write", name)(error)),
    }
}

/// Renames without replacing anything. Where the file system has no such call, a hard link has the same effect.
fn create_only(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        result => result.map_err(Into::into),
    }
}

/// Makes a name in a folder durable.
///
/// # Errors
/// What the system says.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}
