//! Checkpointing: a segment runs once without keeping its activations, and again for its backward pass.
//!
//! What costs too much to compute twice is kept ([`Tape::kept`]), and what nobody reads the second time is not
//! computed ([`Tape::closing`]).

use std::{any::Any, cell::RefCell, collections::VecDeque};

use super::Tape;
use crate::{Result, Tensor, Var};

/// Values that the first run of one segment leaves to its second, in the order in which both come to them.
type Kept = RefCell<VecDeque<Box<dyn Any>>>;

/// Which run of a checkpointed segment a tape is for. A segment inside of a first run is one of no checkpoint, so
/// that each queue is that of one segment alone.
#[derive(Default)]
pub(super) enum Run {
    /// It belongs to no checkpoint that a backward pass will come to.
    #[default]
    Only,
    /// The first, which records nothing.
    First(Kept),
    /// The second, which records.
    Second(Kept),
}

impl Tape {
    /// The last operation of a segment that may be checkpointed. When the segment runs again for its
    /// backward pass, nobody reads its outputs: a linear layer then leaves its own unwritten, which saves
    /// its product.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn closing(&self, f: impl FnOnce(&Self) -> Result<Var>) -> Result<Var> {
        self.unread.set(matches!(self.run, Run::Second(_)));
        let output = f(self);
        self.unread.set(false);
        output
    }

    /// Operations whose outputs are read by what follows, inside of [`Tape::closing`] too.
    pub(crate) fn reading(&self, f: impl FnOnce(&Self) -> Result<Var>) -> Result<Var> {
        let unread = self.unread.replace(false);
        let output = f(self);
        self.unread.set(unread);
        output
    }

    /// Whether somebody reads the output of the operation at hand.
    pub(crate) fn output_is_read(&self) -> bool {
        !self.unread.get()
    }

    /// Whether it runs a segment whose backward pass will come, the first time or the second: what a backward
    /// pass needs is then computed although the first run records nothing.
    pub(crate) fn is_checkpointed(&self) -> bool {
        !matches!(self.run, Run::Only)
    }

    /// A value that a checkpointed segment does not compute twice: `make` runs in its first run, the second takes
    /// over what that left. An operation must come here in both runs, whether it needs a gradient or not, and equally
    /// often: not inside of [`Tape::by_rows`], which has rows in parts where nothing is recorded.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn kept<T: Clone + 'static>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.run {
            Run::Only => make(),
            Run::First(kept) => {
                let value = make()?;
                kept.borrow_mut().push_back(Box::new(value.clone()));
                Ok(value)
            }
            Run::Second(kept) => {
                let first = kept.borrow_mut().pop_front();
                match first.and_then(|value| value.downcast().ok()) {
                    Some(value) => Ok(*value),
                    // A segment that is no pure function.
                    None => make(),
                }
            }
        }
    }

    /// Runs `segment` without keeping its activations; the backward pass runs it again.
    ///
    /// Memory falls from all activations of the segment to its inputs and, of each attention in it, the output
    /// with its statistics, for one more forward pass of everything else. A checkpoint inside of another keeps
    /// nothing before the other one runs again. `segment` must be a pure function of its inputs and of weights.
    ///
    /// # Errors
    /// Those of `segment`.
    pub fn checkpoint(
        &self,
        inputs: &[&Var],
        segment: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>> + 'static,
    ) -> Result<Vec<Var>> {
        let detached: Vec<Var> = inputs.iter().map(|v| v.detach()).collect();
        let dropout = self.dropout;
        let first = Tape {
            run: match self.is_recording() {
                true => Run::First(Kept::default()),
                false => Run::Only,
            },
            dropout,
            ..Tape::inference()
        };
        let outputs = segment(&first, &detached)?;
        let Run::First(kept) = first.run else {
            return Ok(outputs);
        };
        let inputs: Vec<Var> = inputs.iter().map(|v| (*v).clone()).collect();
        let values = outputs.into_iter().map(|v| v.value).collect();
        Ok(self.record_many(values, move |grads, sink| {
            let tape = Tape {
                run: Run::Second(kept),
                dropout,
                ..Tape::training()
            };
            let leaves: Vec<Var> = inputs
                .iter()
                .map(|v| {
                    if v.requires_grad() {
                        tape.leaf(v.value.clone())
                    } else {
                        v.detach()
                    }
                })
                .collect();
            let outputs = segment(&tape, &leaves)?;
            let seeds: Vec<(Var, Tensor)> = outputs
                .into_iter()
                .zip(grads)
                .filter_map(|(var, grad)| Some((var, grad?)))
                .collect();
            let wanted: Vec<&Var> = leaves.iter().collect();
            let made = tape.play_back(seeds, &wanted, &mut sink.waiting)?;
            for (input, grad) in inputs.iter().zip(made) {
                if let Some(grad) = grad {
                    sink.add(input, grad)?;
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests;
