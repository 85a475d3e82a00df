//! Where rows end: cuts a byte stream into windows of whole rows, without parsing them.
//!
//! This runs on one thread, before the parsing that runs on many, so it looks at bytes in bulk: a
//! stretch without quotes is cut at its last line feed. The cut is a pure function of the file's content
//! and the window's size, so a run that resumes in mid-file cuts as the first attempt did.

use std::io::Read;

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2, memmem, memrchr};

use super::Dialect;
use crate::record::rejects::MAX_RAW_BYTES;
use crate::record::{MiniBatchSize, RejectedRow};

/// Longer rows are rejected: a row and its prediction must fit a frame.
pub const MAX_ROW_BYTES: usize = 128 * 1024;
/// Windows hold at most this many bytes, whatever the mini-batch size, so that memory stays flat.
pub const MAX_WINDOW_BYTES: usize = 8 << 20;
const READ_BYTES: usize = 256 * 1024;

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

/// What the splitter yields.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Whole rows, line ends included.
    Rows(Bytes),
    /// A row whose end cannot be found, or is too far off.
    Reject(RejectedRow),
}

/// Cuts one file's text, from a position on.
pub struct Splitter<R> {
    source: R,
    dialect: Dialect,
    size: MiniBatchSize,
    buffer: Vec<u8>,
    start: usize,
    at_end: bool,
    position: TextPosition,
}

impl<R: Read> Splitter<R> {
    /// A splitter over `source`, which stands at `position` of the file.
    pub fn new(source: R, dialect: Dialect, size: MiniBatchSize, position: TextPosition) -> Self {
        Self { source, dialect, size, buffer: Vec::new(), start: 0, at_end: false, position }
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
        let (most_bytes, most_rows) = match self.size {
            MiniBatchSize::Rows(rows) => (MAX_WINDOW_BYTES, rows),
            MiniBatchSize::Bytes(bytes) => {
                (usize::try_from(bytes.0).unwrap_or(usize::MAX).min(MAX_WINDOW_BYTES), u64::MAX)
            }
        };
        loop {
            self.fill(most_bytes)?;
            let (mut bytes, mut rows) = self.cut_quickly(most_bytes, most_rows);
            if bytes == 0 {
                (bytes, rows) = self.cut_row_by_row(most_bytes, most_rows)?;
            }
            if bytes == 0 {
                break;
            }
            let piece = self.take(bytes, rows);
            // A stretch of blank lines is no window.
            if rows > 0 {
                return Ok(Some(piece));
            }
        }
        if self.start == self.buffer.len() {
            return Ok(None);
        }
        self.take_unending_row().map(Some)
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads until `wanted` bytes are buffered or the source ends.
    fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        if self.at_end || self.rest().len() >= wanted {
            return Ok(());
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve(wanted.saturating_sub(self.buffer.len()) + READ_BYTES);
        while !self.at_end && self.buffer.len() < wanted {
            let missing = (wanted - self.buffer.len()).max(READ_BYTES) as u64;
            self.at_end = self.source.by_ref().take(missing).read_to_end(&mut self.buffer)? == 0;
        }
        Ok(())
    }

    /// A stretch without quotes: the last line feed within the size. Answers (0, 0) where that does not do.
    fn cut_quickly(&self, most_bytes: usize, most_rows: u64) -> (usize, u64) {
        let rest = self.rest();
        let stretch = &rest[..rest.len().min(most_bytes)];
        if self.dialect.quote.is_some_and(|quote| memchr(quote, stretch).is_some()) {
            return (0, 0);
        }
        if most_rows == u64::MAX {
            return memrchr(b'\n', stretch).map_or((0, 0), |at| (at + 1, count_rows(&stretch[..=at])));
        }
        let (mut end, mut rows) = (0, 0);
        for at in memchr_iter(b'\n', stretch) {
            rows += u64::from(!is_blank(&stretch[end..at]));
            end = at + 1;
            if rows == most_rows {
                break;
            }
        }
        (end, rows)
    }

    fn cut_row_by_row(&mut self, most_bytes: usize, most_rows: u64) -> std::io::Result<(usize, u64)> {
        let (mut end, mut rows) = (0, 0);
        while rows < most_rows {
            self.fill((end + MAX_ROW_BYTES).max(most_bytes))?;
            let RowEnd::At(length) = self.row_end(end) else { break };
            if end > 0 && end + length > most_bytes {
                break;
            }
            rows += u64::from(!is_blank(&self.rest()[end..end + length]));
            end += length;
        }
        Ok((end, rows))
    }

    /// Where the row that begins at `from` ends. Looks at no more than [`MAX_ROW_BYTES`] of it, so that the
    /// answer does not depend on how much happens to be buffered.
    fn row_end(&self, from: usize) -> RowEnd {
        let row = &self.rest()[from..];
        let seen = row.len().min(MAX_ROW_BYTES);
        row_end(&row[..seen], self.dialect, self.at_end && seen == row.len())
    }

    fn take(&mut self, bytes: usize, rows: u64) -> Piece {
        let taken = Bytes::copy_from_slice(&self.rest()[..bytes]);
        self.start += bytes;
        self.position.offset += bytes as u64;
        self.position.row += rows;
        self.position.line += memchr_iter(b'\n', &taken).count() as u64;
        Piece::Rows(taken)
    }

    /// A row that has no end within [`MAX_ROW_BYTES`]. If an open quote is the cause, the row ends with
    /// its first line, so that one stray quote does not swallow the file.
    fn take_unending_row(&mut self) -> std::io::Result<Piece> {
        let at_first = self.position;
        let seen = self.rest().len().min(MAX_ROW_BYTES);
        let (reason, raw, raw_len) = match (self.row_end(0), memchr(b'\n', &self.rest()[..seen])) {
            (RowEnd::InQuote, Some(line_end)) => {
                let raw = self.discard(line_end + 1, Vec::new());
                ("a quote is opened on this line and not closed".to_owned(), raw, line_end as u64 + 1)
            }
            _ => self.take_long_line()?,
        };
        self.position.row += 1;
        self.position.offset += raw_len;
        Ok(Piece::Reject(RejectedRow {
            row: at_first.row,
            line: Some(at_first.line),
            reason,
            raw: Bytes::copy_from_slice(trim_line_end(&raw)),
            raw_len,
        }))
    }

    fn take_long_line(&mut self) -> std::io::Result<(String, Vec<u8>, u64)> {
        let (mut raw, mut length) = (Vec::new(), 0_u64);
        loop {
            let end = memchr(b'\n', self.rest()).map(|at| at + 1);
            let taken = end.unwrap_or(self.rest().len());
            length += taken as u64;
            raw = self.discard(taken, raw);
            if end.is_some() || (self.at_end && self.rest().is_empty()) {
                return Ok((long_row_reason(length), raw, length));
            }
            self.fill(READ_BYTES)?;
        }
    }

    /// Drops bytes from the buffer's front, adding them to `kept` up to its limit; counts lines.
    fn discard(&mut self, bytes: usize, mut kept: Vec<u8>) -> Vec<u8> {
        let dropped = &self.buffer[self.start..self.start + bytes];
        self.position.line += memchr_iter(b'\n', dropped).count() as u64;
        kept.extend_from_slice(&dropped[..bytes.min(MAX_RAW_BYTES.saturating_sub(kept.len()))]);
        self.start += bytes;
        kept
    }
}

/// Why a row of `length` bytes is rejected.
pub fn long_row_reason(length: u64) -> String {
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

/// Rows in a stretch of whole lines without quotes.
fn count_rows(lines: &[u8]) -> u64 {
    let all = memchr_iter(b'\n', lines).count();
    let blank_at_start = usize::from(lines.starts_with(b"\n") || lines.starts_with(b"\r\n"));
    // Overlapping matches count: three line feeds in a row are two blank lines.
    let count = |needle: &[u8]| {
        let finder = memmem::Finder::new(needle);
        let (mut from, mut n) = (0, 0);
        while let Some(at) = finder.find(&lines[from..]) {
            n += 1;
            from += at + 1;
        }
        n
    };
    (all - blank_at_start - count(b"\n\n") - count(b"\n\r\n")) as u64
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
    let line = memchr(b'\n', text);
    let Some(quote) = dialect.quote else { return unquoted_end(line, text, at_end) };
    if memchr(quote, &text[..line.unwrap_or(text.len())]).is_none() {
        return unquoted_end(line, text, at_end);
    }
    let mut at = 0;
    loop {
        if text.get(at) == Some(&quote) {
            match quoted_end(text, at + 1, quote, at_end) {
                Some(end) => at = end,
                None => return RowEnd::InQuote,
            }
        }
        match memchr2(dialect.delimiter, b'\n', &text[at..]) {
            None => return unquoted_end(None, text, at_end),
            Some(found) if text[at + found] == b'\n' => return RowEnd::At(at + found + 1),
            Some(found) => at += found + 1,
        }
    }
}

fn unquoted_end(line: Option<usize>, text: &[u8], at_end: bool) -> RowEnd {
    match line {
        Some(at) => RowEnd::At(at + 1),
        None if at_end && !text.is_empty() => RowEnd::At(text.len()),
        None => RowEnd::Unknown,
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
