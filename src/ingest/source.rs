//! Bytes of a text file, decompressed, from any place on; counted as they lie on disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The name of standard input.
pub const STDIN: &str = "-";

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    fn of(first_bytes: &[u8]) -> Self {
        match first_bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What was read of standard input to look at its columns, and whether that was all of it.
static STDIN_SAMPLE: OnceLock<(Vec<u8>, bool)> = OnceLock::new();
const STDIN_SAMPLE_BYTES: u64 = 4 << 20;

fn stdin_sample() -> io::Result<&'static (Vec<u8>, bool)> {
    if STDIN_SAMPLE.get().is_none() {
        let mut bytes = Vec::new();
        io::stdin().lock().take(STDIN_SAMPLE_BYTES).read_to_end(&mut bytes)?;
        let is_all = (bytes.len() as u64) < STDIN_SAMPLE_BYTES;
        let _ = STDIN_SAMPLE.set((bytes, is_all));
    }
    STDIN_SAMPLE.get().ok_or_else(|| io::Error::other("standard input was not sampled"))
}

/// The first uncompressed bytes of a file or of standard input, at most `bytes`, and whether that is all.
/// Standard input is only looked at: reading it starts at its beginning all the same.
///
/// # Errors
/// Where it cannot be read.
pub fn sample(path: &Path, bytes: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    if path != Path::new(STDIN) {
        Source::open(path, 0)?.take(bytes).read_to_end(&mut text)?;
        let is_whole = (text.len() as u64) < bytes;
        return Ok((text, is_whole));
    }
    let (raw, is_all) = stdin_sample()?;
    let read = Source::decompressed(raw.as_slice(), Arc::default())?.take(bytes).read_to_end(&mut text);
    match read {
        // The sample of a compressed stream ends in its middle.
        Err(error) if *is_all => Err(error),
        _ => {
            let is_whole = (text.len() as u64) < bytes && *is_all;
            Ok((text, is_whole))
        }
    }
}

/// A file's uncompressed bytes, and how many bytes of it were read so far.
pub struct Source {
    reader: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Source {
    /// Opens `path` (or standard input) at byte `offset` of its uncompressed content.
    ///
    /// # Errors
    /// Where it cannot be opened, or ends before `offset`.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        if path == Path::new(STDIN) {
            let whole = stdin_sample()?.0.as_slice().chain(io::stdin());
            let counted = Counted { inner: whole, read: Arc::clone(&read) };
            return Self::decompressed(BufReader::with_capacity(1 << 20, counted), read)?.skip(offset);
        }
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let mut first = Vec::new();
        file.by_ref().take(4).read_to_end(&mut first)?;
        if Compression::of(&first) == Compression::None {
            if file.metadata()?.len() < offset {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            file.seek(SeekFrom::Start(offset))?;
            read.store(offset, Ordering::Relaxed);
            return Ok(Self { reader: Box::new(Counted { inner: file, read: Arc::clone(&read) }), read });
        }
        file.rewind()?;
        let counted = Counted { inner: file, read: Arc::clone(&read) };
        Self::decompressed(BufReader::with_capacity(256 * 1024, counted), read)?.skip(offset)
    }

    /// The same without its first bytes.
    fn skip(mut self, bytes: u64) -> io::Result<Self> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(self) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    }

    fn decompressed(mut inner: impl io::BufRead + Send + 'static, read: Arc<AtomicU64>) -> io::Result<Self> {
        let reader: Box<dyn Read + Send> = match Compression::of(inner.fill_buf()?) {
            Compression::None => Box::new(inner),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(inner)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(inner)?),
        };
        Ok(Self { reader, read })
    }

    /// A handle to the number of bytes read so far, as they lie on disk.
    pub fn read_count(&self) -> ReadCount {
        ReadCount(Arc::clone(&self.read))
    }
}

/// How many bytes of a file were read so far, as they lie on disk.
#[derive(Clone, Debug)]
pub struct ReadCount(Arc<AtomicU64>);

impl ReadCount {
    /// The number.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// A reader whose bytes are counted.
pub struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    /// `inner`, and a handle to the number of bytes read of it.
    pub fn new(inner: R) -> (Self, ReadCount) {
        let read = Arc::new(AtomicU64::new(0));
        (Self { inner, read: Arc::clone(&read) }, ReadCount(read))
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl<R: Seek> Seek for Counted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
