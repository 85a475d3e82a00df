//! Where rows end: cuts a byte stream into stretches of whole rows, without parsing them.
//!
//! This runs on one thread, before the parsing that runs on many, so it looks at bytes in bulk: lines without
//! quotes are taken many at a time, and a stretch shares the memory that it was read into.
//!
//! Guarantee: a row's beginning, end and fate are a function of the file's content alone, never of the
//! mini-batch size or of how much happens to be buffered; and a splitter that starts at a position which
//! another one reported cuts from there on as that one does.

use std::io::{ErrorKind, Read};

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2, memmem, memrchr};

use super::{Dialect, rejected};
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{MiniBatchSize, RejectedRow};

/// Longer rows are rejected: a row and its prediction must fit a frame.
pub const MAX_ROW_BYTES: usize = 128 * 1024;
/// Windows hold at most this many bytes, whatever the mini-batch size, so that memory stays flat.
pub const MAX_WINDOW_BYTES: usize = 8 << 20;
/// Read at least so much at a time.
const READ_BYTES: usize = 256 * 1024;
/// What is buffered beyond a window's size, to see the end of the row that no longer fits.
const BEYOND: usize = 4 * 1024;
/// Lines are taken in steps that start with so many bytes and double, so that small windows cost little.
const FIRST_STEP: usize = 4 * 1024;

/// Where in a text file the next row begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TextPosition {
    /// Byte of the uncompressed file.
    pub offset: u64,
    /// Row number, from 0, the header not counted.
    pub row: u64,
    /// Line, from 1.
    pub line: u64,
}

/// Whole rows, each at most [`MAX_ROW_BYTES`] long, line ends and blank lines included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Their text.
    pub text: Bytes,
    /// Where in the file they begin.
    pub at: TextPosition,
    /// How many rows they are, blank lines not counted.
    pub rows: u64,
}

/// What the splitter yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Rows to parse.
    Rows(Stretch),
    /// A row whose end cannot be found, or is too far off.
    Reject(RejectedRow),
}

/// Cuts one file's text, from a position on.
pub struct Splitter<R> {
    source: R,
    dialect: Dialect,
    most_bytes: usize,
    most_rows: u64,
    /// What is buffered when reading starts anew.
    chunk: usize,
    buffer: Bytes,
    at_end: bool,
    position: TextPosition,
}

/// Rows at the buffer's front that were found to belong to the next stretch.
#[derive(Default)]
struct Cut {
    bytes: usize,
    rows: u64,
    lines: u64,
}

impl<R: Read> Splitter<R> {
    /// A splitter over `source`, which stands at `position` of the file.
    pub fn new(source: R, dialect: Dialect, size: MiniBatchSize, position: TextPosition) -> Self {
        let (most_bytes, most_rows, chunk) = match size {
            MiniBatchSize::Rows(rows) => (MAX_WINDOW_BYTES, rows, 4 * READ_BYTES),
            MiniBatchSize::Bytes(bytes) => {
                let most = usize::try_from(bytes.0).unwrap_or(usize::MAX).min(MAX_WINDOW_BYTES);
                (most, u64::MAX, (most + BEYOND).max(READ_BYTES))
            }
        };
        Self { source, dialect, most_bytes, most_rows, chunk, buffer: Bytes::new(), at_end: false, position }
    }

    /// Where the next row begins.
    pub fn position(&self) -> TextPosition {
        self.position
    }

    /// The next rows, or `None` at the end.
    ///
    /// # Errors
    /// What reading the source says.
    pub fn next_piece(&mut self) -> std::io::Result<Option<Piece>> {
        loop {
            let cut = self.cut()?;
            if cut.bytes == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { self.take_unending_row().map(Some) };
            }
            let (at, rows) = (self.position, cut.rows);
            let text = self.buffer.split_to(cut.bytes);
            self.advance(cut.bytes, rows, cut.lines);
            // Blank lines alone are no window.
            if rows > 0 {
                return Ok(Some(Piece::Rows(Stretch { text, at, rows })));
            }
        }
    }

    fn advance(&mut self, bytes: usize, rows: u64, lines: u64) {
        self.position.offset += bytes as u64;
        self.position.row += rows;
        self.position.line += lines;
    }

    /// Reads until `wanted` bytes are buffered or the source ends.
    fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        let kept = self.buffer.len();
        if self.at_end || kept >= wanted {
            return Ok(());
        }
        let size = self.chunk.max((2 * kept).min(self.most_bytes + BEYOND)).max(wanted);
        let mut next = vec![0; size];
        next[..kept].copy_from_slice(&self.buffer);
        let mut filled = kept;
        while filled < size {
            match self.source.read(&mut next[filled..]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        next.truncate(filled);
        self.buffer = next.into();
        Ok(())
    }

    /// The most rows that one stretch may hold.
    fn cut(&mut self) -> std::io::Result<Cut> {
        let (mut cut, mut step) = (Cut::default(), FIRST_STEP);
        while cut.rows < self.most_rows {
            if self.add_lines(&mut cut, step)? {
                step = (2 * step).min(MAX_ROW_BYTES);
            } else if !self.add_row(&mut cut)? {
                break;
            }
        }
        Ok(cut)
    }

    /// Adds lines without quotes from the next `step` bytes. Answers whether there was one that fits.
    fn add_lines(&mut self, cut: &mut Cut, step: usize) -> std::io::Result<bool> {
        let end = (cut.bytes + step).min(self.most_bytes);
        if end <= cut.bytes {
            return Ok(false);
        }
        self.fill(end)?;
        // No line among them is longer than a row may be, for the step is not.
        let lines = &self.buffer[cut.bytes.min(self.buffer.len())..end.min(self.buffer.len())];
        let quote = self.dialect.quote.and_then(|quote| memchr(quote, lines));
        let lines = &lines[..quote.unwrap_or(lines.len())];
        let Some(last) = memrchr(b'\n', lines) else { return Ok(false) };
        let found = up_to(&lines[..=last], self.most_rows - cut.rows);
        cut.bytes += found.bytes;
        cut.rows += found.rows;
        cut.lines += found.lines;
        Ok(true)
    }

    /// Adds one row. Answers whether there was one that fits.
    fn add_row(&mut self, cut: &mut Cut) -> std::io::Result<bool> {
        let RowEnd::At(length) = self.row_end(cut.bytes)? else { return Ok(false) };
        if cut.bytes > 0 && cut.bytes + length > self.most_bytes {
            return Ok(false);
        }
        let row = &self.buffer[cut.bytes..cut.bytes + length];
        cut.rows += u64::from(!is_blank(row));
        cut.lines += memchr_iter(b'\n', row).count() as u64;
        cut.bytes += length;
        Ok(true)
    }

    /// Where the row that begins at `from` ends. Looks at no more than [`MAX_ROW_BYTES`] of it, so that the
    /// answer does not depend on how much happens to be buffered.
    fn row_end(&mut self, from: usize) -> std::io::Result<RowEnd> {
        loop {
            let row = &self.buffer[from..];
            let seen = row.len().min(MAX_ROW_BYTES);
            let end = row_end(&row[..seen], self.dialect, self.at_end && seen == row.len());
            let is_too_long_to_add = from > 0 && from + row.len() > self.most_bytes;
            if matches!(end, RowEnd::At(_)) || row.len() > MAX_ROW_BYTES || self.at_end || is_too_long_to_add {
                return Ok(end);
            }
            self.fill(from + (2 * seen + FIRST_STEP).min(MAX_ROW_BYTES + 1))?;
        }
    }

    /// A row that has no end within [`MAX_ROW_BYTES`] or the file. If an open quote is the cause, the row ends
    /// with its first line, so that one stray quote does not swallow the file.
    fn take_unending_row(&mut self) -> std::io::Result<Piece> {
        let end = self.row_end(0)?;
        let seen = &self.buffer[..self.buffer.len().min(MAX_ROW_BYTES)];
        let is_long = self.buffer.len() > MAX_ROW_BYTES;
        let length = match memchr(b'\n', seen) {
            Some(line_end) if end == RowEnd::InQuote => line_end + 1,
            None if !is_long => seen.len(),
            _ => return self.take_long_row(),
        };
        let line = self.buffer.split_to(length);
        let at = self.position;
        self.advance(length, 1, 1);
        Ok(Piece::Reject(rejected(at, &line, "a quote is opened in this row and not closed".to_owned())))
    }

    /// A row that is too long: it ends with the first line feed behind the limit.
    fn take_long_row(&mut self) -> std::io::Result<Piece> {
        let at = self.position;
        let start = self.buffer.slice(..MAX_RAW_BYTES);
        let mut skipped = MAX_ROW_BYTES;
        let (mut length, mut last_byte, mut lines) = (0_u64, 0_u8, 0_u64);
        loop {
            let end = memchr(b'\n', &self.buffer[skipped..]).map(|at| skipped + at + 1);
            let taken = self.buffer.split_to(end.unwrap_or(self.buffer.len()));
            let line = trim_line_end(&taken);
            // The carriage return may have come with the bytes before.
            let trimmed = taken.len() - line.len() + usize::from(taken.as_ref() == b"\n" && last_byte == b'\r');
            length += taken.len() as u64;
            lines += memchr_iter(b'\n', &taken).count() as u64;
            last_byte = taken.last().copied().unwrap_or(last_byte);
            if end.is_none() {
                self.fill(READ_BYTES)?;
            }
            if end.is_some() || self.buffer.is_empty() {
                self.position.offset += length;
                self.position.row += 1;
                self.position.line += lines;
                let raw_len = length - trimmed as u64;
                let (row, line) = (at.row, Some(at.line));
                return Ok(Piece::Reject(RejectedRow {
                    row,
                    line,
                    reason: long_row_reason(length),
                    raw: start,
                    raw_len,
                }));
            }
            skipped = 0;
        }
    }
}

/// The lines at the beginning of `lines` that hold at most `most_rows` rows, which is at least one line.
fn up_to(lines: &[u8], most_rows: u64) -> Cut {
    let (all, blank) = count_lines(lines);
    let rows = all - blank;
    if rows <= most_rows {
        return Cut { bytes: lines.len(), rows, lines: all };
    }
    let mut cut = Cut::default();
    for at in memchr_iter(b'\n', lines) {
        cut.rows += u64::from(!is_blank(&lines[cut.bytes..at]));
        cut.lines += 1;
        cut.bytes = at + 1;
        if cut.rows == most_rows {
            break;
        }
    }
    cut
}

/// How many whole lines these are, and how many of them are blank.
fn count_lines(lines: &[u8]) -> (u64, u64) {
    let ends = || memchr_iter(b'\n', lines);
    let has = |pair: &[u8]| memmem::find(lines, pair).is_some();
    if !matches!(lines.first(), Some(b'\n' | b'\r')) && !has(b"\n\n") && !has(b"\n\r") {
        return (ends().count() as u64, 0);
    }
    let (mut start, mut all, mut blank) = (0, 0, 0);
    for end in ends() {
        all += 1;
        blank += u64::from(is_blank(&lines[start..end]));
        start = end + 1;
    }
    (all, blank)
}

/// Why a row of `length` bytes is rejected.
fn long_row_reason(length: u64) -> String {
    format!("the row has {length} bytes, over the limit of {}KB a row", MAX_ROW_BYTES / 1024)
}

/// The line without its line feed, or carriage return and line feed.
pub fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a line holds nothing: such lines are no rows.
pub fn is_blank(line: &[u8]) -> bool {
    matches!(line, b"" | b"\n" | b"\r" | b"\r\n")
}

/// Where a row ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEnd {
    /// Behind this many bytes, its line end included.
    At(usize),
    /// Not among the bytes given.
    Unknown,
    /// Not among the bytes given, for a quote is open.
    InQuote,
}

/// Finds the end of the row with which `text` begins. A quote opens only at the start of a field.
pub fn row_end(text: &[u8], dialect: Dialect, at_end: bool) -> RowEnd {
    let mut at = 0;
    loop {
        // Outside of quotes: the next byte that matters.
        let found = match dialect.quote {
            Some(quote) => memchr2(quote, b'\n', &text[at..]),
            None => memchr(b'\n', &text[at..]),
        };
        let Some(found) = found.map(|found| at + found) else {
            return if at_end && !text.is_empty() { RowEnd::At(text.len()) } else { RowEnd::Unknown };
        };
        if text[found] == b'\n' {
            return RowEnd::At(found + 1);
        }
        at = found + 1;
        if found == 0 || text[found - 1] == dialect.delimiter {
            match quoted_end(text, at, text[found], at_end) {
                Some(end) => at = end,
                None => return RowEnd::InQuote,
            }
        }
    }
}

/// The place behind the closing quote of a field whose content begins at `at`.
fn quoted_end(text: &[u8], mut at: usize, quote: u8, at_end: bool) -> Option<usize> {
    loop {
        let close = at + memchr(quote, &text[at..])?;
        match text.get(close + 1) {
            Some(next) if *next == quote => at = close + 2,
            None if !at_end => return None,
            _ => return Some(close + 1),
        }
    }
}
