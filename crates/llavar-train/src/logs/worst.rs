//! `Worst`: the samples whose loss stands highest above that of their step.
//!
//! A sample's loss is the mean over its own supervised tokens, taken from the losses of the rows that the loss of
//! the step is the sum of: nothing is computed for it. On a GPU the rows come back with the loss, one step late.
//! Samples are ranked by what their loss is above the loss of their step, because early steps are high throughout.

use llavar_data::IGNORE_INDEX;
use llavar_tensor::{Segments, Tensor, cuda::Readback};
use serde::{Deserialize, Serialize};

use crate::{TrainError, data::Batch};

/// A sample as it was when it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WorstSample {
    /// Its number over all data files, from 0.
    pub index: usize,
    /// The step that saw it, this one included.
    pub step: u64,
    /// Mean loss of its supervised tokens before the update, nats a token.
    pub loss: f32,
    /// That minus the loss of the step.
    pub excess: f32,
    /// Its supervised tokens.
    pub tokens: usize,
}

/// Losses of the rows of a micro-batch, known or on their way.
#[derive(Debug)]
pub(crate) struct SampleLosses {
    rows: Rows,
    segments: Segments,
    /// Number and supervised tokens of the sample in each segment.
    samples: Vec<(usize, usize)>,
}

#[derive(Debug)]
enum Rows {
    Known(Vec<f32>),
    Coming(Readback),
}

impl SampleLosses {
    /// Asks for the losses of a batch's rows.
    pub(crate) fn of(batch: &Batch, per_token: &Tensor) -> Result<Self, TrainError> {
        let rows = match per_token.device().as_cuda() {
            Some(cuda) => Rows::Coming(cuda.read_back(per_token)?),
            None => Rows::Known(per_token.to_f32_vec()?),
        };
        let supervised = batch.segments.ranges().map(|range| {
            let labels = batch.labels.get(range).unwrap_or_default();
            let counts = |label: &&i32| i64::from(**label) != IGNORE_INDEX;
            labels.iter().filter(counts).count()
        });
        Ok(Self {
            rows,
            samples: batch.samples.iter().copied().zip(supervised).collect(),
            segments: batch.segments.clone(),
        })
    }
}

/// The list, of at most so many.
#[derive(Debug, Clone)]
pub(crate) struct Worst {
    limit: usize,
    samples: Vec<WorstSample>,
}

impl Worst {
    /// A list that goes on with those of a checkpoint.
    pub(crate) fn new(limit: usize, samples: Vec<WorstSample>) -> Self {
        let mut worst = Self {
            limit,
            samples: Vec::new(),
        };
        samples.into_iter().for_each(|sample| worst.add(sample));
        worst
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// The samples, the worst first.
    pub(crate) fn samples(&self) -> &[WorstSample] {
        &self.samples
    }

    /// Takes in the samples of a step whose loss was `mean`.
    pub(crate) fn observe(
        &mut self,
        step: u64,
        mean: f64,
        losses: Vec<SampleLosses>,
    ) -> Result<(), TrainError> {
        for losses in losses {
            let rows = match losses.rows {
                Rows::Known(rows) => rows,
                Rows::Coming(readback) => readback.wait()?,
            };
            for (range, (index, tokens)) in losses.segments.ranges().zip(losses.samples) {
                let rows = rows.get(range).unwrap_or_default();
                let sum: f64 = rows.iter().copied().map(f64::from).sum();
                let loss = sum / tokens.max(1) as f64;
                self.add(WorstSample {
                    index,
                    step,
                    loss: loss as f32,
                    excess: (loss - mean) as f32,
                    tokens,
                });
            }
        }
        Ok(())
    }

    /// Takes in one sample; of two of the same number the later counts.
    pub(crate) fn add(&mut self, sample: WorstSample) {
        let same = self.samples.iter().position(|s| s.index == sample.index);
        if let Some(at) = same {
            if self.samples[at].step > sample.step {
                return;
            }
            self.samples.remove(at);
        }
        if !sample.excess.is_finite() {
            return;
        }
        let before = |s: &WorstSample| (s.excess, sample.index) >= (sample.excess, s.index);
        let at = self.samples.partition_point(before);
        if at < self.limit {
            self.samples.insert(at, sample);
            self.samples.truncate(self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(index: usize, step: u64, excess: f32) -> WorstSample {
        WorstSample {
            index,
            step,
            loss: 1.0 + excess,
            excess,
            tokens: 3,
        }
    }

    #[test]
    fn the_highest_are_kept_in_order_and_each_once_as_last_seen() {
        let mut worst = Worst::new(3, vec![sample(9, 1, 0.5)]);
        for (index, step, excess) in [
            (1, 1, 1.0),
            (2, 1, 3.0),
            (3, 1, 2.0),
            (4, 1, f32::NAN),
            (5, 1, 2.0),
            (2, 2, 0.1),
            (3, 1, 2.5),
            (6, 2, -1.0),
        ] {
            worst.add(sample(index, step, excess));
        }
        let got: Vec<_> = worst
            .samples()
            .iter()
            .map(|s| (s.index, s.excess))
            .collect();
        assert_eq!(got, [(3, 2.5), (5, 2.0), (2, 0.1)]);
        assert!(!Worst::new(0, vec![sample(1, 1, 1.0)]).is_on());
    }

    /// Two samples in one pack: each has the mean of its own rows.
    #[test]
    fn losses_of_a_pack_are_those_of_its_samples() {
        let batch = Batch {
            ids: vec![1; 6],
            labels: vec![-100, 5, 5, -100, -100, 7],
            segments: Segments::from_lengths([3, 3]),
            pictures: None,
            supervised: 3,
            samples: vec![40, 41],
        };
        // Row t predicts token t + 1.
        let rows = Tensor::from_vec(vec![1.0, 2.0, 0.0, 0.0, 6.0, 0.0], &[6]).unwrap();
        let losses = SampleLosses::of(&batch, &rows).unwrap();
        let mut worst = Worst::new(8, Vec::new());
        worst.observe(7, 3.0, vec![losses]).unwrap();
        let got: Vec<_> = worst
            .samples()
            .iter()
            .map(|s| (s.index, s.step, s.loss, s.excess, s.tokens))
            .collect();
        assert_eq!(got, [(41, 7, 6.0, 3.0, 1), (40, 7, 1.5, -1.5, 2)]);
    }
}
