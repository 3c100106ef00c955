//! What the rows of a stream are to predict.

use std::sync::Arc;

use llavar_tensor::{Segments, ops::IGNORE_INDEX};

use super::check_count;
use crate::Result;

/// What the number of rows that are read is a multiple of.
const RUN: usize = 64;

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

    /// The supervised rows in rising order, where these are some and not nearly all: with the first of the others
    /// among them as many as a multiple of [`RUN`], so that products have few shapes.
    pub(crate) fn read(&self) -> Option<Arc<[usize]>> {
        let supervised = |row: &usize| self.labels[*row] != IGNORE_INDEX;
        let all = 0..self.labels.len();
        let count = all.clone().filter(supervised).count();
        let wanted = count.next_multiple_of(RUN);
        if count == 0 || wanted >= all.len() {
            return None;
        }
        let mut spare = wanted - count;
        let mut takes = |row: &usize| {
            let more = !supervised(row) && spare > 0;
            spare -= usize::from(more);
            more || supervised(row)
        };
        Some(all.filter(|row| takes(row)).collect())
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
        assert!(Targets::new(&[1, 2], &segments).is_err());
    }

    #[test]
    fn supervised_rows_are_read_in_runs() {
        let read = |total: usize, supervised: &[usize]| {
            let mut labels = vec![IGNORE_INDEX; total];
            supervised.iter().for_each(|row| labels[row + 1] = 7);
            let segments = Segments::from_lengths([total]);
            Targets::new(&labels, &segments).unwrap().read()
        };
        assert_eq!(read(0, &[]), None);
        assert_eq!(read(200, &[]), None);
        // With the first 62 of the others.
        let rows = read(200, &[30, 150]).unwrap();
        let want: Vec<usize> = (0..63).chain([150]).collect();
        assert_eq!(*rows, want);
        let all: Vec<usize> = (70..134).collect();
        assert_eq!(*read(200, &all).unwrap(), all);
        // Nearly all.
        assert_eq!(read(64, &[5]), None);
        assert_eq!(read(65, &[5]).unwrap().len(), RUN);
    }
}
