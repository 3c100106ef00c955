//! What the rows of a stream are to predict.

use std::sync::Arc;

use llavar_tensor::{Segments, ops::IGNORE_INDEX};

use super::check_count;
use crate::Result;

/// The target of every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Targets {
    /// `[T]`: the label after the row, [`IGNORE_INDEX`] where nothing is supervised.
    pub(crate) labels: Vec<i32>,
}

impl Targets {
    /// Of unshifted `labels [T]`: row t predicts `labels[t + 1]`, nothing at the end of a segment.
    ///
    /// # Errors
    /// When `segments` has another number of tokens.
    pub(crate) fn new(labels: &[i32], segments: &Segments) -> Result<Self> {
        check_count("labels", segments.total(), labels.len())?;
        let mut shifted = vec![IGNORE_INDEX; labels.len()];
        for range in segments.ranges().filter(|r| !r.is_empty()) {
            shifted[range.start..range.end - 1]
                .copy_from_slice(&labels[range.start + 1..range.end]);
        }
        Ok(Self { labels: shifted })
    }

    /// The supervised rows, where these are some and not all.
    pub(crate) fn read(&self) -> Option<Arc<[usize]>> {
        let rows = self.labels.iter().enumerate();
        let rows: Arc<[usize]> = rows
            .filter(|(_, label)| **label != IGNORE_INDEX)
            .map(|(row, _)| row)
            .collect();
        (!rows.is_empty() && rows.len() < self.labels.len()).then_some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_do_not_cross_segments() {
        let segments = Segments::from_lengths([3, 0, 2, 1]);
        let targets = Targets::new(&[1, 2, 3, 4, 5, 6], &segments).unwrap();
        assert_eq!(targets.labels, [2, 3, -100, 5, -100, -100]);
        assert_eq!(targets.read().as_deref(), Some(&[0, 1, 3][..]));
        assert!(Targets::new(&[1, 2], &segments).is_err());
    }

    #[test]
    fn none_and_all_are_not_some() {
        let read = |labels: &[i32]| {
            let segments = Segments::from_lengths([labels.len()]);
            Targets::new(labels, &segments).unwrap().read()
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[-100, -100, -100]), None);
        assert_eq!(read(&[7, -100, -100]), None, "nobody predicts the first");
        assert_eq!(read(&[7, 8, 9]).as_deref(), Some(&[0, 1][..]));
    }
}
