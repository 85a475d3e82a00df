//! Sizes as people write them: `1024`, `64KB`, `10MB`, `1GB`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. `KB`, `MB` and `GB` are powers of 1,024, as in `ParallelRunStep`'s `mini_batch_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 4] = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) =
            UNITS.into_iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let (digits, factor) = UNITS
            .into_iter()
            .find_map(|(unit, factor)| upper.strip_suffix(unit).map(|digits| (digits.trim_end(), factor)))
            .unwrap_or((upper.as_str(), 1));
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("{text:?} is not a size: write a whole number and B, KB, MB or GB, such as 10MB"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

/// How much one window holds: so many rows (`1024`) or so many bytes of input (`1MB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MiniBatchSize {
    /// That many rows; the last window of a file may hold fewer.
    Rows(u64),
    /// As many rows as fit in so many bytes of the uncompressed input, at least one.
    Bytes(ByteSize),
}

impl fmt::Display for MiniBatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => rows.fmt(f),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl FromStr for MiniBatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let size = if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
            trimmed.parse().map(Self::Rows).map_err(|_| format!("{text:?} is too large"))?
        } else {
            Self::Bytes(trimmed.parse().map_err(|_| {
                format!(
                    "{text:?} is not a mini-batch size: write rows such as 1024, or bytes such as 1024KB, 10MB or 1GB"
                )
            })?)
        };
        match size {
            Self::Rows(0) | Self::Bytes(ByteSize(0)) => Err("a mini-batch needs at least one row or byte".to_owned()),
            size => Ok(size),
        }
    }
}

impl TryFrom<String> for MiniBatchSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MiniBatchSize> for String {
    fn from(size: MiniBatchSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, want) in [
            ("1024", MiniBatchSize::Rows(1024)),
            ("1024KB", MiniBatchSize::Bytes(ByteSize(1 << 20))),
            ("10mb", MiniBatchSize::Bytes(ByteSize(10 << 20))),
            (" 1 GB ", MiniBatchSize::Bytes(ByteSize(1 << 30))),
            ("7B", MiniBatchSize::Bytes(ByteSize(7))),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in ["", "MB", "-1", "1.5MB", "10 rows", "0", "0KB", "99999999999GB"] {
            assert!(text.parse::<MiniBatchSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_printed_size_reads_back() {
        for bytes in [1, 1023, 1024, 1536, 1 << 20, (1 << 30) + 1] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }
}
