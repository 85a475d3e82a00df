//! The segment files: their names, what each still holds, and open handles for reading.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DiskUsage;
use crate::log::{LogError, Result};

/// What the name of a segment ends with.
const SUFFIX: &str = ".log";

/// What the name of a segment ends with that has not got its whole snapshot yet.
const NEW_SUFFIX: &str = ".log.new";

/// How many files are held open for reading: far fewer than a process may open by default, 1,024,
/// as a long backlog has more segments than that.
const OPEN_FILES: usize = 64;

/// The path of segment `number`.
pub fn path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:020}{SUFFIX}"))
}

/// The path of segment `number` while its snapshot is being written.
pub fn new_path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:020}{NEW_SUFFIX}"))
}

/// The numbers of the segments in `folder`, rising, and the paths of those that were not begun to
/// the end. Files with other names are not looked at.
pub fn list(folder: &Path) -> Result<(Vec<u32>, Vec<PathBuf>)> {
    let (mut numbers, mut unfinished) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let name = entry.map_err(failed("read", folder))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = |suffix: &str| {
            let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 20)?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        if let Some(number) = number(SUFFIX) {
            numbers.push(number);
        } else if number(NEW_SUFFIX).is_some() {
            unfinished.push(folder.join(name));
        }
    }
    numbers.sort_unstable();
    Ok((numbers, unfinished))
}

/// Makes the names in `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Makes an error of the file system one of the log.
pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// All segments of a log.
#[derive(Debug)]
pub struct Segments {
    folder: PathBuf,
    all: BTreeMap<u32, Segment>,
    open: HashMap<u32, Opened>,
    /// Counts the uses of open files.
    clock: u64,
    usage: DiskUsage,
}

/// One segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    length: u64,
    /// The length of the snapshot at its start.
    snapshot: u64,
    /// How many records of ordinary topics lie in it and have not been trimmed.
    live: u64,
}

/// What decides whether to go on in a new segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Active {
    /// The bytes that follow the snapshot.
    pub since_snapshot: u64,
    /// The length of the snapshot.
    pub snapshot: u64,
    /// Whether the segment holds no record of an ordinary topic any more.
    pub dead: bool,
}

/// A file that is open for reading.
#[derive(Debug)]
struct Opened {
    file: Arc<File>,
    used: u64,
}

impl Segments {
    /// No segments, in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            all: BTreeMap::new(),
            open: HashMap::new(),
            clock: 0,
            usage: DiskUsage::default(),
        }
    }

    /// The space that they take.
    pub fn usage(&self) -> DiskUsage {
        self.usage
    }

    /// Adds a segment that is there and begins with `snapshot` bytes of snapshot.
    pub fn found(&mut self, number: u32, snapshot: u64) {
        self.all.insert(number, Segment { length: 0, snapshot, live: 0 });
        self.grew(number, snapshot);
    }

    /// Counts `length` more bytes that segment `number` has.
    pub fn grew(&mut self, number: u32, length: u64) {
        if let Some(segment) = self.all.get_mut(&number) {
            segment.length += length;
            self.usage.bytes += length;
            self.usage.peak_bytes = self.usage.peak_bytes.max(self.usage.bytes);
        }
    }

    /// Adds a segment that was written just now and holds only its snapshot.
    pub fn created(&mut self, number: u32, snapshot: u64) {
        self.found(number, snapshot);
        self.usage.written_bytes += snapshot;
    }

    /// Notes that `length` bytes were appended to segment `number` just now.
    pub fn appended(&mut self, number: u32, length: u64) {
        self.grew(number, length);
        self.usage.written_bytes += length;
    }

    /// Takes a segment out whose file is gone.
    pub fn removed(&mut self, number: u32) {
        self.open.remove(&number);
        if let Some(segment) = self.all.remove(&number) {
            self.usage.bytes -= segment.length;
        }
    }

    /// Counts `count` more records as living in segment `number`.
    pub fn add_live(&mut self, number: u32, count: u64) {
        if let Some(segment) = self.all.get_mut(&number) {
            segment.live += count;
        }
    }

    /// Counts `count` records as gone from segment `number`.
    pub fn remove_live(&mut self, number: u32, count: u64) {
        if let Some(segment) = self.all.get_mut(&number) {
            segment.live -= count;
        }
    }

    /// The segment that is written to.
    pub fn active(&self) -> Active {
        let last = self.all.last_key_value().map(|(_, segment)| *segment);
        last.map_or(Active::default(), |Segment { length, snapshot, live }| Active {
            since_snapshot: length - snapshot,
            snapshot,
            dead: live == 0,
        })
    }

    /// The segments before the active one that hold no record of an ordinary topic any more.
    pub fn dead(&self) -> impl Iterator<Item = u32> {
        let active = self.all.last_key_value().map_or(0, |(number, _)| *number);
        self.all.range(..active).filter(|(_, segment)| segment.live == 0).map(|(number, _)| *number)
    }

    /// Segment `number`, open for reading. Only to be asked for one that holds a record.
    pub fn open(&mut self, number: u32) -> Result<Arc<File>> {
        self.clock += 1;
        if let Some(opened) = self.open.get_mut(&number) {
            opened.used = self.clock;
            return Ok(Arc::clone(&opened.file));
        }
        if self.open.len() >= OPEN_FILES
            && let Some(oldest) = self.open.iter().min_by_key(|(_, opened)| opened.used).map(|(number, _)| *number)
        {
            self.open.remove(&oldest);
        }
        let path = path_of(&self.folder, number);
        let file = Arc::new(File::open(&path).map_err(failed("open", &path))?);
        self.open.insert(number, Opened { file: Arc::clone(&file), used: self.clock });
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bounded_number_of_files_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::new(folder.path());
        for number in 0..u32::try_from(3 * OPEN_FILES).unwrap() {
            fs::write(path_of(folder.path(), number), [0]).unwrap();
            segments.created(number, 1);
            segments.open(number).unwrap();
            segments.open(0).unwrap();
        }
        assert!(segments.open.len() <= OPEN_FILES);
        assert!(segments.open.contains_key(&0), "the file in use stays open");
    }

    #[test]
    fn only_whole_names_are_segments() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["LOCK", "1.log", "00000000000000000007.log", "00000000000000000008.log.new", "x0000000000000000009.log"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let (numbers, unfinished) = list(folder.path()).unwrap();
        assert_eq!(numbers, [7]);
        assert_eq!(unfinished, [new_path_of(folder.path(), 8)]);
    }
}
