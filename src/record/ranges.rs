//! Sets of row numbers as ranges: `0..6554,6555..7000`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Rising, disjoint, half-open ranges of row numbers. Row numbers count from 0 within a source file,
/// rows that could not be read included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowRanges(Vec<Range<u64>>);

impl RowRanges {
    /// The rows `range`.
    pub fn from_range(range: Range<u64>) -> Self {
        Self(if range.is_empty() { Vec::new() } else { vec![range] })
    }

    /// Adds one row, which must be above all that are there.
    pub fn push(&mut self, row: u64) {
        match self.0.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => self.0.push(row..row + 1),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.iter().map(|r| usize::try_from(r.end - r.start).unwrap_or(usize::MAX)).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first row.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|r| r.start)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// The row numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().cloned().flatten()
    }

    /// The rows at places `[from, from + count)` of this set, cut short after `most` ranges.
    /// Returns them with their count.
    pub fn slice(&self, from: usize, count: usize, most: usize) -> (Self, usize) {
        let (mut skip, mut left) = (from as u64, count as u64);
        let mut ranges = Vec::new();
        for range in &self.0 {
            let length = range.end - range.start;
            if skip >= length {
                skip -= length;
                continue;
            }
            if left == 0 || ranges.len() == most {
                break;
            }
            let start = range.start + skip;
            let taken = left.min(range.end - start);
            ranges.push(start..start + taken);
            skip = 0;
            left -= taken;
        }
        (Self(ranges), count - usize::try_from(left).unwrap_or(0))
    }
}

impl fmt::Display for RowRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}..{}", range.start, range.end)?;
        }
        Ok(())
    }
}

impl FromStr for RowRanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let range = part
                .split_once("..")
                .and_then(|(start, end)| Some(start.parse::<u64>().ok()?..end.parse::<u64>().ok()?))
                .filter(|r| r.start < r.end && ranges.last().is_none_or(|last| last.end < r.start))
                .ok_or_else(|| format!("{text:?} is not a list of row ranges such as 0..100,101..200"))?;
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

impl TryFrom<String> for RowRanges {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RowRanges> for String {
    fn from(ranges: RowRanges) -> Self {
        ranges.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows_from(numbers: &std::collections::BTreeSet<u64>) -> RowRanges {
        let mut rows = RowRanges::default();
        numbers.iter().for_each(|n| rows.push(*n));
        rows
    }

    proptest! {
        #[test]
        fn text_and_slices_keep_every_row(numbers in proptest::collection::btree_set(0u64..200, 0..80), cut in 0usize..90) {
            let rows = rows_from(&numbers);
            prop_assert_eq!(rows.to_string().parse::<RowRanges>().unwrap(), rows.clone());
            prop_assert_eq!(rows.len(), numbers.len());
            let cut = cut.min(rows.len());
            let (head, n) = rows.slice(0, cut, usize::MAX);
            prop_assert_eq!(n, cut);
            let (tail, _) = rows.slice(cut, rows.len() - cut, usize::MAX);
            prop_assert_eq!(head.iter().chain(tail.iter()).collect::<Vec<_>>(), numbers.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_slice_stops_after_the_ranges_allowed(numbers in proptest::collection::btree_set(0u64..200, 1..80), most in 1usize..5) {
            let rows = rows_from(&numbers);
            let (head, n) = rows.slice(0, rows.len(), most);
            prop_assert!(head.ranges().len() <= most && n >= 1);
            prop_assert_eq!(head.iter().collect::<Vec<_>>(), numbers.into_iter().take(n).collect::<Vec<_>>());
        }
    }
}
