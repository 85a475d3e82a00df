//! A record's body: its bytes in the journal. It says nothing of where it stands, so that a snapshot
//! copies it as it is.

use bytes::Bytes;

use super::gather::{Gather, SHARE_FROM};
use crate::log::Record;

/// Bytes before a body's headers: checksum, timestamp, three lengths.
const FIXED: usize = 4 + 8 + 4 + 4 + 4;

/// The length that says that there is no key, or no value.
const NONE: u32 = u32::MAX;

/// Appends `record`'s body and returns its length.
pub fn encode(record: &Record, out: &mut Gather) -> u32 {
    let shared = record.value.as_ref().filter(|value| value.len() >= SHARE_FROM);
    let before = out.len();
    out.compose(|out| {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&record.timestamp_ms.to_le_bytes());
        out.extend_from_slice(&length_of(record.key.as_ref()).to_le_bytes());
        out.extend_from_slice(&length_of(record.value.as_ref()).to_le_bytes());
        out.extend_from_slice(&length(record.headers.len()).to_le_bytes());
        for (name, value) in &record.headers {
            out.extend_from_slice(&length(name.len()).to_le_bytes());
            out.extend_from_slice(&length(value.len()).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
        out.extend_from_slice(record.key.as_deref().unwrap_or_default());
        if shared.is_none() {
            out.extend_from_slice(record.value.as_deref().unwrap_or_default());
        }
        let mut crc = crc32c::crc32c(&out[start + 4..]);
        if let Some(value) = shared {
            crc = crc32c::crc32c_append(crc, value);
        }
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    });
    if let Some(value) = shared {
        out.push(value);
    }
    u32::try_from(out.len() - before).expect("a record's size is checked before it gets here")
}

/// The record whose body `bytes` is, or `None` where they are none. The record shares the bytes.
pub fn decode(bytes: &Bytes) -> Option<Record> {
    let parts = split(bytes)?;
    let mut headers = Vec::with_capacity(parts.headers);
    let mut at = FIXED;
    for _ in 0..parts.headers {
        let name_length = number(bytes, at)?;
        let value_length = number(bytes, at + 4)?;
        let name = bytes.get(at + 8..(at + 8).checked_add(name_length)?)?;
        at += 8 + name_length;
        bytes.get(at..at.checked_add(value_length)?)?;
        headers.push((std::str::from_utf8(name).ok()?.to_owned(), bytes.slice(at..at + value_length)));
        at += value_length;
    }
    if at != parts.key_at {
        return None;
    }
    Some(Record {
        key: parts.key.map(|length| bytes.slice(parts.key_at..parts.key_at + length)),
        value: parts.value.map(|length| bytes.slice(bytes.len() - length..)),
        headers,
        timestamp_ms: parts.timestamp_ms,
    })
}

/// The key of the record whose body `bytes` is, and whether it has a value; `None` where the bytes
/// are no body or have no key.
pub fn key(bytes: &[u8]) -> Option<(&[u8], bool)> {
    let parts = split(bytes)?;
    let key = &bytes[parts.key_at..parts.key_at + parts.key?];
    Some((key, parts.value.is_some()))
}

/// What the fixed part of a body says.
struct Parts {
    timestamp_ms: i64,
    key: Option<usize>,
    value: Option<usize>,
    headers: usize,
    key_at: usize,
}

/// Checks a body's checksum and lengths.
fn split(bytes: &[u8]) -> Option<Parts> {
    let crc = bytes.get(..4)?;
    if bytes.len() < FIXED || crc32c::crc32c(&bytes[4..]).to_le_bytes() != crc {
        return None;
    }
    let timestamp_ms = i64::from_le_bytes(bytes[4..12].try_into().ok()?);
    let present = |length: usize| (length != NONE as usize).then_some(length);
    let (key, value) = (present(number(bytes, 12)?), present(number(bytes, 16)?));
    let key_at = bytes.len().checked_sub(key.unwrap_or(0))?.checked_sub(value.unwrap_or(0))?;
    let headers = number(bytes, 20)?;
    // Each header takes 8 bytes and more: a number over that is wrong, and must not be reserved for.
    (key_at >= FIXED && headers <= (key_at - FIXED) / 8).then_some(Parts { timestamp_ms, key, value, headers, key_at })
}

/// The little-endian number at `at`.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// A length as it is written down.
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a record's size is checked before it gets here")
}

/// The length of something that may be absent, as it is written down.
fn length_of(bytes: Option<&Bytes>) -> u32 {
    bytes.map_or(NONE, |bytes| length(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(record: &Record) -> Bytes {
        let mut out = Gather::default();
        let length = encode(record, &mut out);
        let bytes = Bytes::from(out.into_parts().concat());
        assert_eq!(bytes.len(), length as usize);
        bytes
    }

    fn records() -> Vec<Record> {
        let header = |name: &str, value: &'static [u8]| (name.to_owned(), Bytes::from_static(value));
        vec![
            Record::default(),
            Record { key: Some(Bytes::new()), value: Some(Bytes::new()), ..Record::default() },
            Record { value: Some(Bytes::from(vec![3; SHARE_FROM + 1])), timestamp_ms: -1, ..Record::default() },
            Record {
                key: Some(Bytes::from_static(b"key")),
                value: Some(Bytes::from_static(b"value")),
                headers: vec![header("", b""), header("a", b"1"), header("a", b"2")],
                timestamp_ms: i64::MAX,
            },
        ]
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for record in records() {
            let bytes = encoded(&record);
            assert_eq!(decode(&bytes).as_ref(), Some(&record));
            let wanted = record.key.as_ref().map(|key| (&key[..], record.value.is_some()));
            assert_eq!(key(&bytes), wanted);
        }
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unseen() {
        for record in records().into_iter().filter(|record| record.size() < 100) {
            let bytes = encoded(&record);
            for cut in 0..bytes.len() {
                assert_eq!(decode(&bytes.slice(..cut)), None);
                let mut flipped = bytes.to_vec();
                flipped[cut] ^= 4;
                assert_eq!(decode(&Bytes::from(flipped)), None);
            }
        }
    }
}
