//! What the updates of one optimizer step have in common: norm, clip factor, bias corrections.

use super::{AdamW, clip::norm_on_cpu, clip_factor};
use crate::{
    DType, Device, Error, Param, Result, Tensor,
    cuda::{Readback, ops::DeviceStep},
    error::ensure_shape,
};

/// Norm, clip factor and bias corrections of the present step, and the number of updates so far, of one
/// optimizer. On a GPU they live there: nothing is waited for before [`StepReadback::wait`].
#[derive(Debug)]
pub struct StepState {
    place: Place,
    begun: bool,
}

#[derive(Debug)]
pub(super) enum Place {
    Cpu(CpuStep),
    Cuda(DeviceStep),
}

/// The scalars of a step on the CPU.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuStep {
    adamw: AdamW,
    norm: f32,
    /// Updates done, the present one included unless it is skipped.
    pub(super) updates: u64,
    /// Factor on the gradients, from clipping.
    pub(super) scale: f32,
    /// Whether the gradient was not finite or beyond its limits: nothing is updated.
    pub(super) skipped: bool,
    loss_spike: bool,
    norm_spike: bool,
    /// `1 - beta1^updates`.
    pub(super) correction1: f64,
    /// `1 - beta2^updates`.
    pub(super) correction2: f64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    /// Norm of all gradients together, before clipping.
    pub norm: f32,
    /// Updates done so far, this one included unless it was skipped.
    pub updates: u64,
    /// Whether weights and moments stayed as they were: the norm was not finite, or a limit said so.
    pub skipped: bool,
    /// Whether the loss was beyond [`StepLimits::loss`]; false where the norm was not finite.
    pub loss_spike: bool,
    /// Whether the norm was beyond [`StepLimits::norm`]; false where it was not finite.
    pub norm_spike: bool,
}

/// What loss and norm of a step must not exceed.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits<'a> {
    /// Pairs of a summed loss and its weight, f32 `[2 n]`, where the step is; the loss of the step is the sum of
    /// the pairs' products.
    pub losses: &'a Tensor,
    /// Largest loss that is no spike; infinite where any is allowed.
    pub loss: f32,
    /// Largest norm that is no spike.
    pub norm: f32,
    /// Whether nothing is updated beyond a limit; else that is only told.
    pub skip: bool,
}

/// A [`StepResult`] on its way to the host.
#[derive(Debug)]
pub struct StepReadback(Pending);

#[derive(Debug)]
enum Pending {
    Here(StepResult),
    Coming(Readback),
}

impl StepState {
    /// The state of an optimizer that has done `updates` updates and whose weights live on `device`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(device: &Device, updates: u64, adamw: &AdamW) -> Result<Self> {
        let place = match device {
            Device::Cpu => Place::Cpu(CpuStep {
                adamw: *adamw,
                norm: 0.0,
                updates,
                scale: 1.0,
                skipped: true,
                loss_spike: false,
                norm_spike: false,
                correction1: 1.0,
                correction2: 1.0,
            }),
            Device::Cuda(cuda) => Place::Cuda(DeviceStep::new(cuda, updates, adamw)?),
        };
        Ok(Self {
            place,
            begun: false,
        })
    }

    /// Begins a step: measures the norm of all gradients of `params` together (0 where there are none),
    /// derives the factor that clips it to `max_norm` ([`clip_factor`]; 0 does not clip) and counts the
    /// update if the norm is finite. Weights without a gradient count for nothing.
    ///
    /// # Errors
    /// When a gradient lives on another device than this state.
    pub fn begin<'a>(
        &mut self,
        params: impl IntoIterator<Item = &'a Param>,
        max_norm: f32,
    ) -> Result<()> {
        self.begin_within(params, max_norm, None)
    }

    /// As [`StepState::begin`] with limits, which are looked at where the step is: nothing waits for them.
    ///
    /// # Errors
    /// As [`StepState::begin`], and when the losses are not pairs of f32.
    pub fn begin_within<'a>(
        &mut self,
        params: impl IntoIterator<Item = &'a Param>,
        max_norm: f32,
        limits: Option<StepLimits<'_>>,
    ) -> Result<()> {
        if let Some(limits) = limits {
            let losses = limits.losses;
            let pairs = losses.dtype() == DType::F32 && losses.numel().is_multiple_of(2);
            ensure_shape(
                "step limits",
                pairs,
                || "pairs of f32".into(),
                losses.shape(),
            )?;
        }
        match &mut self.place {
            Place::Cpu(step) => step.begin(norm_on_cpu(params)?, max_norm, limits)?,
            Place::Cuda(step) => step.begin(params, max_norm, limits)?,
        }
        self.begun = true;
        Ok(())
    }

    /// Asks for what the present step does; on a GPU without waiting for it.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn read_back(&self) -> Result<StepReadback> {
        Ok(StepReadback(match &self.place {
            Place::Cpu(step) => Pending::Here(StepResult {
                norm: step.norm,
                updates: step.updates,
                skipped: step.skipped,
                loss_spike: step.loss_spike,
                norm_spike: step.norm_spike,
            }),
            Place::Cuda(step) => Pending::Coming(step.read_back()?),
        }))
    }

    /// The norm of the present step where it was measured, `[1]`, f32.
    ///
    /// # Errors
    /// None that a step which has begun can give.
    pub fn norm(&self) -> Result<Tensor> {
        match &self.place {
            Place::Cpu(step) => Tensor::from_vec(vec![step.norm], &[1]),
            Place::Cuda(step) => step.norm(),
        }
    }

    /// The scalars, for an update.
    pub(super) fn place(&self) -> Result<&Place> {
        if self.begun {
            Ok(&self.place)
        } else {
            Err(Error::InvalidArgument {
                op: "adamw",
                reason: "an update before the step has begun".into(),
            })
        }
    }
}

impl CpuStep {
    fn begin(&mut self, norm: f32, max_norm: f32, limits: Option<StepLimits<'_>>) -> Result<()> {
        self.norm = norm;
        self.skipped = !norm.is_finite();
        (self.loss_spike, self.norm_spike) = (false, false);
        if self.skipped {
            return Ok(());
        }
        if let Some(limits) = limits {
            let pairs = limits.losses.data::<f32>()?.chunks_exact(2);
            let products = pairs.map(|pair| f64::from(pair[0]) * f64::from(pair[1]));
            self.loss_spike = products.sum::<f64>() > f64::from(limits.loss);
            self.norm_spike = norm > limits.norm;
            self.skipped = limits.skip && (self.loss_spike || self.norm_spike);
            if self.skipped {
                return Ok(());
            }
        }
        self.updates += 1;
        self.scale = clip_factor(norm, max_norm);
        // In f64, as torch computes them in Python floats.
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.updates as f64);
        self.correction1 = correction(self.adamw.beta1);
        self.correction2 = correction(self.adamw.beta2);
        Ok(())
    }
}

impl StepReadback {
    /// Whether the values have arrived.
    pub fn is_ready(&self) -> bool {
        match &self.0 {
            Pending::Here(_) => true,
            Pending::Coming(readback) => readback.is_ready(),
        }
    }

    /// The result, waited for.
    ///
    /// # Errors
    /// When something before it failed on the device.
    pub fn wait(self) -> Result<StepResult> {
        match self.0 {
            Pending::Here(result) => Ok(result),
            Pending::Coming(readback) => DeviceStep::result(&readback.wait()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing_and_is_not_counted() {
        crate::optim::testing::bad_gradients_change_nothing(&Device::Cpu);
    }

    #[test]
    fn steps_beyond_their_limits_are_told_or_skipped() {
        crate::optim::testing::limits_are_kept(&Device::Cpu);
    }
}
