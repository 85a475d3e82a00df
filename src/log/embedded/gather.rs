//! Bytes in the making: small pieces are copied together, large ones are kept as they are, so that
//! a transaction of large values is written without having been copied.

use bytes::Bytes;

/// From this size on a piece is shared and not copied.
pub const SHARE_FROM: usize = 4096;

/// The copied pieces are cut into chunks of about this size, so that a growing buffer is not copied
/// over and over.
const CHUNK: usize = 256 * 1024;

/// A growing list of pieces.
#[derive(Debug, Default)]
pub struct Gather {
    parts: Vec<Bytes>,
    /// The piece in the making, not yet in `parts`.
    tail: Vec<u8>,
    length: u64,
}

impl Gather {
    /// The number of bytes in it.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Appends bytes by copying them.
    pub fn copy(&mut self, bytes: &[u8]) {
        if self.tail.len() >= CHUNK {
            self.cut();
        }
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
    }

    /// Appends bytes, shared where they are many.
    pub fn push(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARE_FROM {
            self.copy(bytes);
        } else {
            self.cut();
            self.length += bytes.len() as u64;
            self.parts.push(bytes.clone());
        }
    }

    /// Appends what `write` writes as one piece, which later pieces may follow in the same chunk.
    pub fn compose(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.tail.len() >= CHUNK {
            self.cut();
        }
        let before = self.tail.len();
        write(&mut self.tail);
        self.length += (self.tail.len() - before) as u64;
    }

    /// Moves all of `other` to the end of this.
    pub fn append(&mut self, mut other: Self) {
        other.cut();
        self.cut();
        self.length += other.length;
        self.parts.append(&mut other.parts);
    }

    /// The pieces, in order.
    pub fn into_parts(mut self) -> Vec<Bytes> {
        self.cut();
        self.parts
    }

    /// Ends the piece in the making.
    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_and_large_ones_are_not_copied() {
        let large = Bytes::from(vec![7; SHARE_FROM]);
        let mut first = Gather::default();
        first.copy(b"a");
        first.push(&Bytes::from_static(b"b"));
        let mut second = Gather::default();
        second.compose(|out| out.extend_from_slice(b"c"));
        second.push(&large);
        second.copy(b"d");
        first.append(second);
        assert_eq!(first.len(), 4 + SHARE_FROM as u64);

        let parts = first.into_parts();
        assert_eq!(parts.concat(), [b"abc", &large[..], b"d"].concat());
        assert!(parts.iter().any(|part| part.as_ptr() == large.as_ptr()));
    }

    #[test]
    fn small_pieces_are_cut_into_chunks() {
        let mut gather = Gather::default();
        for _ in 0..3 * CHUNK / 1000 {
            gather.copy(&[1; 1000]);
        }
        let parts = gather.into_parts();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < CHUNK + 1000));
    }
}
