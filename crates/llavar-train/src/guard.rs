//! `SpikeGuard`: steps whose loss or gradient norm stands far above those before them.
//!
//! A step is judged by mean and standard deviation of the last `spike_window` steps that end *two* steps before
//! it: on a GPU the numbers of the last step are still on their way when the next one is queued, and nothing waits
//! for them. The limits that follow go to the device with the step, which compares them with loss and norm there
//! and leaves weights and moments as they are where the recipe says so. On every device and number of ranks the
//! decision is the same function of the same numbers.
//!
//! A spike enters the window as the largest value that would have been none, so that one spike does not hide the
//! next, and a level that has changed for good is accepted after a while. Values that are not finite stay out.
//!
//! # Source
//! The z-scores of llm.c's `OutlierDetector`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::recipe::{OnSpike, TrainSection};

/// What the guard remembers; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardState {
    /// Losses of the steps in the window, the oldest first, nats a token.
    pub losses: VecDeque<f32>,
    /// Their gradient norms.
    pub grad_norms: VecDeque<f32>,
    /// The newest step, which judges none before the one after the next.
    pub newest: Option<Seen>,
    /// Spikes so far.
    pub spikes: u64,
    /// Times that the run went back to a checkpoint.
    pub rollbacks: u32,
    /// Steps whose data were passed over when the run went back: the data of step `s` are those of step
    /// `s + passed_steps` of a run without rollback.
    pub passed_steps: u64,
}

/// Loss and norm of a step, as they enter the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Steps done, this one included.
    pub step: u64,
    /// Its loss, nats a token.
    pub loss: f32,
    /// Its gradient norm.
    pub grad_norm: f32,
}

/// The guard of a recipe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpikeGuard {
    window: usize,
    z_loss: f64,
    z_norm: f64,
    pub(crate) on_spike: OnSpike,
}

/// What is usual before a step, and what is too much.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usual {
    loss: Option<Spread>,
    norm: Option<Spread>,
}

/// Mean and standard deviation of a window, and the largest value that is no spike.
#[derive(Debug, Clone, Copy)]
struct Spread {
    mean: f64,
    deviation: f64,
    limit: f32,
}

/// Deviations from the mean.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Scores {
    pub(crate) loss: Option<f64>,
    pub(crate) norm: Option<f64>,
}

impl SpikeGuard {
    /// The guard of a recipe; `None` where it judges nothing.
    pub(crate) fn new(train: &TrainSection) -> Option<Self> {
        let guard = Self {
            window: train.spike_window,
            z_loss: train.spike_z_loss,
            z_norm: train.spike_z_grad_norm,
            on_spike: train.on_spike,
        };
        (guard.z_loss > 0.0 || guard.z_norm > 0.0).then_some(guard)
    }

    /// What is usual before `step` (steps done with it included). Nothing is before the window is full.
    pub(crate) fn before(self, state: &GuardState, step: u64) -> Usual {
        let newest = state.newest.filter(|seen| seen.step + 2 <= step);
        let spread = |values: &VecDeque<f32>, last: Option<f32>, z: f64| {
            let drop = (values.len() + usize::from(last.is_some())).checked_sub(self.window)?;
            let all = || values.iter().copied().chain(last).skip(drop).map(f64::from);
            let n = self.window as f64;
            let mean = all().sum::<f64>() / n;
            let variance = all().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            // A curve that stands still is not judged by its rounding noise.
            let deviation = variance.sqrt().max(1e-3 * mean.abs()).max(1e-12);
            let limit = if z > 0.0 {
                (mean + z * deviation) as f32
            } else {
                f32::INFINITY
            };
            Some(Spread {
                mean,
                deviation,
                limit,
            })
        };
        Usual {
            loss: spread(&state.losses, newest.map(|seen| seen.loss), self.z_loss),
            norm: spread(
                &state.grad_norms,
                newest.map(|seen| seen.grad_norm),
                self.z_norm,
            ),
        }
    }

    /// Takes in a step that `usual` has judged.
    pub(crate) fn observe(
        self,
        state: &mut GuardState,
        usual: Usual,
        step: u64,
        loss: f64,
        grad_norm: f32,
    ) {
        if let Some(seen) = state.newest.take() {
            for (values, value) in [
                (&mut state.losses, seen.loss),
                (&mut state.grad_norms, seen.grad_norm),
            ] {
                values.push_back(value);
                while values.len() > self.window {
                    values.pop_front();
                }
            }
        }
        if !loss.is_finite() || !grad_norm.is_finite() {
            return;
        }
        let [loss_limit, norm_limit] = usual.limits();
        state.newest = Some(Seen {
            step,
            loss: (loss as f32).min(loss_limit),
            grad_norm: grad_norm.min(norm_limit),
        });
    }
}

impl Usual {
    /// Largest loss and norm that are no spikes.
    pub(crate) fn limits(self) -> [f32; 2] {
        [self.loss, self.norm].map(|spread| spread.map_or(f32::INFINITY, |s| s.limit))
    }

    /// How far a step is from what is usual.
    pub(crate) fn scores(self, loss: f64, grad_norm: f32) -> Scores {
        let score = |spread: Option<Spread>, value: f64| {
            let z = spread.map(|s| (value - s.mean) / s.deviation);
            z.filter(|z| z.is_finite())
        };
        Scores {
            loss: score(self.loss, loss),
            norm: score(self.norm, grad_norm.into()),
        }
    }

    /// A spike in words.
    pub(crate) fn describe(self, loss: f64, grad_norm: f32, spikes: [bool; 2]) -> String {
        let part = |what: &str, value: f64, spread: Option<Spread>| {
            let s = spread?;
            let z = (value - s.mean) / s.deviation;
            Some(format!(
                "{what} {value:.4} is {z:.1} standard deviations above the {:.4} of the steps before",
                s.mean
            ))
        };
        let loss = spikes[0].then(|| part("loss", loss, self.loss));
        let norm = spikes[1].then(|| part("gradient norm", grad_norm.into(), self.norm));
        let parts: Vec<String> = [loss, norm].into_iter().flatten().flatten().collect();
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(window: usize) -> SpikeGuard {
        SpikeGuard::new(&TrainSection {
            spike_window: window,
            spike_z_loss: 4.0,
            ..TrainSection::default()
        })
        .unwrap()
    }

    /// Feeds losses; gives back which of them are beyond their limit.
    fn spikes(guard: SpikeGuard, state: &mut GuardState, losses: &[f64]) -> Vec<u64> {
        let mut found = Vec::new();
        for (step, loss) in (state.newest.map_or(1, |s| s.step + 1)..).zip(losses) {
            let usual = guard.before(state, step);
            if *loss as f32 > usual.limits()[0] {
                found.push(step);
            }
            guard.observe(state, usual, step, *loss, 1.0);
        }
        found
    }

    fn wavy(n: usize) -> Vec<f64> {
        (0..n).map(|i| 2.0 + 0.1 * (i as f64).sin()).collect()
    }

    #[test]
    fn nothing_is_judged_before_the_window_is_full_and_a_spike_after_it_is() {
        let mut early = wavy(20);
        early[8] = 9.0;
        assert_eq!(
            spikes(guard(16), &mut GuardState::default(), &early),
            [0; 0]
        );
        let mut late = wavy(40);
        late[30] = 3.0;
        assert_eq!(spikes(guard(16), &mut GuardState::default(), &late), [31]);
        // A fall is none.
        late[30] = 0.1;
        assert_eq!(spikes(guard(16), &mut GuardState::default(), &late), [0; 0]);
    }

    #[test]
    fn one_spike_does_not_hide_the_next_and_a_lasting_change_is_accepted() {
        let mut losses = wavy(60);
        (losses[30], losses[34]) = (5.0, 5.0);
        assert_eq!(
            spikes(guard(16), &mut GuardState::default(), &losses),
            [31, 35]
        );
        let mut level = wavy(400);
        for loss in &mut level[30..] {
            *loss += 1.0;
        }
        let found = spikes(guard(16), &mut GuardState::default(), &level);
        assert!(found.len() >= 2 && found.len() < 20, "{found:?}");
        assert!(*found.last().unwrap() < 60, "{found:?}");
    }

    /// The last step's numbers may not have arrived when a step is judged, and it makes no difference.
    #[test]
    fn the_step_before_does_not_judge() {
        let guard = guard(4);
        let mut state = GuardState::default();
        for step in 1..=5 {
            let usual = guard.before(&state, step);
            guard.observe(&mut state, usual, step, 2.0 + 0.1 * step as f64, 1.0);
        }
        // Step 7 sees steps 2 to 5 whether step 6 has been taken in or not.
        let without = guard.before(&state, 7).limits();
        let usual = guard.before(&state, 6);
        guard.observe(&mut state, usual, 6, 2.3, 1.0);
        assert_eq!(without, guard.before(&state, 7).limits());
        let mean = 2.0 + 0.1 * 3.5;
        let deviation = 0.1 * 1.25f64.sqrt();
        assert!((f64::from(without[0]) - mean - 4.0 * deviation).abs() < 1e-5);
    }

    #[test]
    fn what_is_not_finite_stays_out_and_the_state_survives_a_file() {
        let guard = guard(8);
        let mut state = GuardState::default();
        let mut losses = wavy(24);
        losses[12] = f64::NAN;
        spikes(guard, &mut state, &losses);
        assert!(state.losses.iter().all(|x| x.is_finite()));
        let text = serde_json::to_string(&state).unwrap();
        let again: GuardState = serde_json::from_str(&text).unwrap();
        assert_eq!(state, again);
        let bits = |s: &GuardState| s.losses.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&state), bits(&again));
        // A run without the guard leaves nothing in the file's way.
        let empty: GuardState = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, GuardState::default());
    }

    #[test]
    fn a_curve_that_stands_still_is_not_judged_by_rounding() {
        let mut losses = vec![2.0; 60];
        losses[40] = 2.0001;
        let mut state = GuardState::default();
        assert_eq!(spikes(guard(16), &mut state, &losses), [0; 0]);
        losses[40] = 2.1;
        let mut state = GuardState::default();
        assert_eq!(spikes(guard(16), &mut state, &losses), [41]);
    }
}
