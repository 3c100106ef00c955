//! `Segments`: where the samples of a packed token stream begin and end.

use std::ops::Range;

use crate::{Error, Result};

/// Boundaries of the samples in a packed stream, as `cu_seqlens`: `[0, l0, l0 + l1, ..]`.
/// Segments may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments(Vec<i32>);

impl Segments {
    /// From cumulative lengths.
    ///
    /// # Errors
    /// When they do not start at 0 or ever decrease.
    pub fn new(cu_seqlens: Vec<i32>) -> Result<Self> {
        let ok = cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted();
        if !ok {
            return Err(Error::InvalidArgument {
                op: "segments",
                reason: format!(
                    "cu_seqlens must start at 0 and never decrease, got {cu_seqlens:?}"
                ),
            });
        }
        Ok(Self(cu_seqlens))
    }

    /// From lengths.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut cu = vec![0i32];
        let mut end = 0;
        for length in lengths {
            end += length as i32;
            cu.push(end);
        }
        Self(cu)
    }

    /// One segment of `len` tokens.
    pub fn single(len: usize) -> Self {
        Self(vec![0, len as i32])
    }

    /// Number of segments.
    pub fn count(&self) -> usize {
        self.0.len() - 1
    }

    /// Tokens in all segments.
    pub fn total(&self) -> usize {
        self.0.last().map_or(0, |end| *end as usize)
    }

    /// Length of the longest segment.
    pub fn max_len(&self) -> usize {
        self.ranges().map(|r| r.len()).max().unwrap_or(0)
    }

    /// Token ranges, one a segment.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.0.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }

    /// The cumulative lengths.
    pub fn cu_seqlens(&self) -> &[i32] {
        &self.0
    }

    /// Positions 0.. within each segment, concatenated.
    pub fn positions(&self) -> Vec<i32> {
        self.ranges().flat_map(|r| 0..r.len() as i32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_checked_and_lengths_come_back() {
        assert!(Segments::new(vec![1, 2]).is_err() && Segments::new(vec![0, 3, 2]).is_err());
        let s = Segments::from_lengths([3, 0, 2]);
        assert_eq!((s.count(), s.total(), s.max_len()), (3, 5, 3));
        assert_eq!(s.positions(), [0, 1, 2, 0, 1]);
    }
}
