//! Length of a run in optimizer steps, and the learning rate at each of them (spec 6.3).

use crate::recipe::{LrSchedulerType, TrainSection};

/// The learning rate over a run, as transformers computes it.
///
/// With `w = ceil(total * warmup_ratio)` (or `warmup_steps`): step `s` (from 0) has `lr * s / max(1, w)`
/// while `s < w`, then `lr * (1 + cos(pi p)) / 2` with `p = (s - w) / max(1, total - w)` for `cosine`,
/// or `lr * (total - s) / max(1, total - w)` for `linear`. The very first warm-up step has rate 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: LrSchedulerType,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// The schedule of a recipe over `total` steps.
    pub fn new(train: &TrainSection, total: u64) -> Self {
        let warmup = if train.warmup_steps > 0 {
            train.warmup_steps
        } else {
            (total as f64 * train.warmup_ratio).ceil() as u64
        };
        let warmup = match train.lr_scheduler_type {
            LrSchedulerType::Constant => 0,
            _ => warmup,
        };
        Self {
            kind: train.lr_scheduler_type,
            warmup,
            total,
        }
    }

    /// Steps that warm up.
    pub fn warmup(&self) -> u64 {
        self.warmup
    }

    /// Factor on the highest learning rate at `step`, from 0.
    pub fn factor(&self, step: u64) -> f64 {
        let (s, w, total) = (step as f64, self.warmup as f64, self.total as f64);
        if step < self.warmup {
            return s / w.max(1.0);
        }
        match self.kind {
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
            LrSchedulerType::Linear => ((total - s) / (total - w).max(1.0)).max(0.0),
            LrSchedulerType::Cosine => {
                let progress = (s - w) / (total - w).max(1.0);
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

/// Which samples each optimizer step takes.
///
/// Epochs follow each other in one stream of micro-batches; the last of an epoch may be smaller. A step
/// takes `gradient_accumulation_steps` of them, so what an epoch leaves over goes on into the next. Where
/// an epoch has no more micro-batches than one step takes, a step takes the whole epoch.
///
/// # Source
/// The loop of transformers' trainer: steps = epochs * max(1, micro-batches // accumulation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlan {
    samples: usize,
    batch: usize,
    accumulation: usize,
    total: u64,
}

impl StepPlan {
    /// The plan of a recipe over `samples` samples, on one rank.
    pub fn new(train: &TrainSection, samples: usize) -> Self {
        Self::with_micro_batches(train, samples, train.gradient_accumulation_steps)
    }

    /// As [`StepPlan::new`] with `accumulation` micro-batches in a step, those of all ranks together.
    pub fn with_micro_batches(train: &TrainSection, samples: usize, accumulation: usize) -> Self {
        let batch = train.per_device_train_batch_size.max(1);
        let accumulation = accumulation.max(1);
        let batches = samples.div_ceil(batch);
        let per_epoch = (batches / accumulation).max(1) as u64;
        let total = if train.max_steps > 0 {
            train.max_steps
        } else {
            train.num_train_epochs.saturating_mul(per_epoch)
        };
        Self {
            samples,
            batch,
            accumulation,
            total,
        }
    }

    /// Micro-batches that a step asks for; an epoch with fewer has steps with fewer.
    pub fn accumulation(&self) -> usize {
        self.accumulation
    }

    /// In which micro-batch of its step, from 0, the sample at `place` in the stream of all epochs is.
    pub fn part_of(&self, place: u64) -> u64 {
        let (epoch, within) = (
            place / self.samples.max(1) as u64,
            place % self.samples.max(1) as u64,
        );
        let micro = epoch * self.batches() + within / self.batch as u64;
        micro % self.per_step().max(1)
    }

    /// Optimizer steps of the run.
    pub fn total_steps(&self) -> u64 {
        self.total
    }

    /// Micro-batches of an epoch.
    fn batches(&self) -> u64 {
        self.samples.div_ceil(self.batch) as u64
    }

    /// Micro-batches that a step takes.
    fn per_step(&self) -> u64 {
        (self.accumulation as u64).min(self.batches())
    }

    /// First sample of `step` in the stream of all epochs' samples: number `epoch * samples + position`.
    pub fn first_sample(&self, step: u64) -> u64 {
        self.micro_batch_start(step * self.per_step())
    }

    /// Lengths, in samples, of the micro-batches of `step`.
    pub fn micro_batches(&self, step: u64) -> Vec<usize> {
        let first = step * self.per_step();
        (first..first + self.per_step())
            .map(|m| (self.micro_batch_start(m + 1) - self.micro_batch_start(m)) as usize)
            .collect()
    }

    /// Epochs done after `steps` steps, as a fraction.
    pub fn epochs(&self, steps: u64) -> f64 {
        self.first_sample(steps) as f64 / self.samples.max(1) as f64
    }

    fn micro_batch_start(&self, micro: u64) -> u64 {
        let batches = self.batches().max(1);
        let within = (micro % batches) * self.batch as u64;
        micro / batches * self.samples as u64 + within.min(self.samples as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(batch: usize, accumulation: usize, epochs: u64) -> TrainSection {
        TrainSection {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            num_train_epochs: epochs,
            ..TrainSection::default()
        }
    }

    /// `get_cosine_schedule_with_warmup(opt, 1, 8)` on rate 0.005, as PyTorch printed it.
    #[test]
    fn cosine_agrees_with_transformers() {
        let section = TrainSection {
            warmup_ratio: 0.03,
            ..TrainSection::default()
        };
        let schedule = Schedule::new(&section, 8);
        assert_eq!(schedule.warmup(), 1);
        let want = [
            0.0,
            0.005,
            0.004752422169756048,
            0.004058724504646834,
            0.003056302334890786,
            0.001943697665109214,
            0.0009412754953531664,
            0.00024757783024395244,
        ];
        for (step, want) in want.into_iter().enumerate() {
            let got = 0.005 * schedule.factor(step as u64);
            assert!((got - want).abs() < 1e-15, "step {step}: {got} {want}");
        }
        assert!(schedule.factor(8).abs() < 1e-15);
    }

    #[test]
    fn other_shapes() {
        let section = |kind| TrainSection {
            lr_scheduler_type: kind,
            warmup_ratio: 0.2,
            ..TrainSection::default()
        };
        let linear = Schedule::new(&section(LrSchedulerType::Linear), 10);
        let got: Vec<f64> = (0..=10).map(|s| linear.factor(s)).collect();
        assert_eq!(got[..4], [0.0, 0.5, 1.0, 7.0 / 8.0]);
        assert_eq!(got[10], 0.0);
        let constant = Schedule::new(&section(LrSchedulerType::Constant), 10);
        assert_eq!((constant.factor(0), constant.factor(9)), (1.0, 1.0));
        let warm = Schedule::new(&section(LrSchedulerType::ConstantWithWarmup), 10);
        assert_eq!((warm.factor(1), warm.factor(9)), (0.5, 1.0));
    }

    #[test]
    fn every_sample_of_an_epoch_is_taken_once_and_nothing_is_dropped() {
        for (samples, batch, accumulation, epochs) in [
            (10, 2, 2, 3),
            (7, 2, 2, 5),
            (3, 8, 4, 2),
            (16, 4, 4, 2),
            (9, 1, 4, 4),
        ] {
            let plan = StepPlan::new(&train(batch, accumulation, epochs), samples);
            let batches = samples.div_ceil(batch);
            let want = epochs * (batches / accumulation).max(1) as u64;
            assert_eq!(plan.total_steps(), want);
            let mut next = 0;
            for step in 0..plan.total_steps() {
                assert_eq!(plan.first_sample(step), next);
                for (part, len) in plan.micro_batches(step).into_iter().enumerate() {
                    assert!(len > 0 && len <= batch);
                    assert_eq!(plan.part_of(next), part as u64);
                    assert_eq!(plan.part_of(next + len as u64 - 1), part as u64);
                    // A micro-batch never joins samples of two epochs.
                    let (first, last) = (next, next + len as u64 - 1);
                    assert_eq!(first / samples as u64, last / samples as u64);
                    next += len as u64;
                }
            }
            assert!(next <= epochs * samples as u64);
        }
    }

    #[test]
    fn a_step_count_replaces_the_epochs() {
        let section = TrainSection {
            max_steps: 11,
            ..train(4, 1, 1)
        };
        let plan = StepPlan::new(&section, 8);
        assert_eq!((plan.total_steps(), plan.epochs(11)), (11, 5.5));
    }
}
