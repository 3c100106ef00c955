//! AdamW over all weights of a model.

use llavar_model::LlavaModel;
use llavar_tensor::{
    Device, Param,
    optim::{AdamW, Moments, Precision, StepState},
};

use super::Result;

/// The weights with their moments.
pub(super) struct Update {
    params: Vec<Param>,
    moments: Vec<Option<Moments>>,
    state: StepState,
    adamw: AdamW,
    precision: Precision,
}

impl Update {
    /// All weights of a model train from now on.
    pub(super) fn new(device: &Device, model: &LlavaModel, precision: Precision) -> Result<Self> {
        let params = model.params();
        params.iter().for_each(|p| p.set_requires_grad(true));
        let adamw = AdamW::default();
        Ok(Self {
            moments: params.iter().map(|_| None).collect(),
            state: StepState::new(device, 0, &adamw)?,
            params,
            adamw,
            precision,
        })
    }

    /// Forgets all gradients.
    pub(super) fn zero_grad(&self) {
        self.params.iter().for_each(Param::zero_grad);
    }

    /// Clips and updates.
    pub(super) fn step(&mut self) -> Result<()> {
        self.state.begin(&self.params, 1.0)?;
        let mut updates = self.adamw.updates(&self.state)?;
        for (param, moments) in self.params.iter().zip(&mut self.moments) {
            let moments = match moments {
                Some(moments) => moments,
                none => none.insert(Moments::new(param, self.precision)?),
            };
            updates.add(param, moments, 1e-5, 0.0)?;
        }
        updates.finish()?;
        Ok(())
    }
}
