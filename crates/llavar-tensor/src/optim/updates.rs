//! Updates of many weights in one step.

use std::marker::PhantomData;

use super::{
    AdamW, Moments, RoundingKey, StepState, rounding,
    step::{CpuStep, Place},
};
use crate::{Error, Param, Result, cuda::ops::DeviceUpdates};

/// Updates of many weights in one step, each as [`AdamW::update`] does it. On the CPU a weight is updated as it is
/// added; on a GPU all that were added are queued by [`Updates::finish`], and none without it. Weights and gradients
/// must stay what they are until then, and what is made from a weight is made anew after it.
#[derive(Debug)]
#[must_use = "on a GPU nothing is updated without `finish`"]
pub struct Updates<'a> {
    adamw: AdamW,
    place: UpdatesOn<'a>,
    /// What is written into a moment before it was updated would be lost.
    moments: PhantomData<&'a mut Moments>,
}

#[derive(Debug)]
enum UpdatesOn<'a> {
    Cpu(&'a CpuStep),
    Cuda(DeviceUpdates<'a>, Vec<Param>),
}

impl<'a> Updates<'a> {
    /// Adds the update of one weight; a weight comes once.
    ///
    /// # Errors
    /// When the moments do not fit the weight, or devices differ.
    pub fn add(
        &mut self,
        param: &Param,
        moments: &'a mut Moments,
        lr: f32,
        weight_decay: f32,
    ) -> Result<()> {
        let key = RoundingKey(rounding::weight_key(self.adamw.seed, param.name()));
        let rates = [lr, weight_decay];
        param.update_tensor(|weight, grad| {
            let kind = moments.kind(param, weight)?;
            let Some(grad) = grad else { return Ok(()) };
            match (&mut self.place, weight.cuda()) {
                (UpdatesOn::Cpu(step), None) => self
                    .adamw
                    .update_on_cpu(kind, weight, grad, moments, rates, step, key),
                (UpdatesOn::Cuda(updates, params), Some(cuda)) if updates.is_on(cuda) => {
                    params.push(param.clone());
                    updates.add(kind, weight, grad, moments, rates, key)
                }
                _ => Err(Error::DeviceMismatch {
                    op: "adamw",
                    expected: "the device of the step".into(),
                    got: weight.device().to_string(),
                }),
            }
        })
    }

    /// Queues what was added.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn finish(self) -> Result<()> {
        match self.place {
            UpdatesOn::Cpu(_) => Ok(()),
            UpdatesOn::Cuda(updates, params) => {
                let done = updates.finish();
                // What somebody made from a value since it was added is made from the old one.
                params.iter().for_each(Param::changed);
                done
            }
        }
    }
}

impl AdamW {
    /// Updates of many weights, which on a GPU go together.
    ///
    /// # Errors
    /// When the step has not begun.
    pub fn updates<'a>(&self, state: &'a StepState) -> Result<Updates<'a>> {
        let place = match state.place()? {
            Place::Cpu(step) => UpdatesOn::Cpu(step),
            Place::Cuda(step) => UpdatesOn::Cuda(DeviceUpdates::new(self, step), Vec::new()),
        };
        Ok(Updates {
            adamw: *self,
            place,
            moments: PhantomData,
        })
    }
}
