//! AdamW over the trainable weights in their groups, and its state on disk.

use std::path::Path;

use llavar_tensor::{
    Device, Param, Tensor,
    mapped::MappedFile,
    optim::{AdamW, Moments, Precision, StepResult, StepState},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{TrainError, recipe::TrainSection, stage::Group};

/// The optimizer of a run.
#[derive(Debug)]
pub(crate) struct Optimizer {
    adamw: AdamW,
    weight_decay: f64,
    max_grad_norm: f32,
    entries: Vec<Entry>,
    state: StepState,
}

#[derive(Debug)]
struct Entry {
    param: Param,
    group: Group,
    /// Made with the first gradient: weights that the forward pass does not use never get any.
    moments: Option<Moments>,
}

/// Rates of one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Learning rate.
    pub(crate) lr: f64,
    /// Learning rate of the projector.
    pub(crate) projector_lr: f64,
}

impl Optimizer {
    /// An optimizer over those of `params` that ask for gradients.
    pub(crate) fn new(
        params: Vec<Param>,
        train: &TrainSection,
        phi3: bool,
    ) -> Result<Self, TrainError> {
        let entries = params
            .into_iter()
            .filter(Param::requires_grad)
            .map(|param| Entry {
                group: Group::of(param.name(), phi3),
                param,
                moments: None,
            })
            .collect();
        let adamw = AdamW {
            beta1: train.adam_beta1 as f32,
            beta2: train.adam_beta2 as f32,
            eps: train.adam_epsilon as f32,
            seed: train.seed,
        };
        Ok(Self {
            adamw,
            weight_decay: train.weight_decay,
            max_grad_norm: train.max_grad_norm as f32,
            entries,
            state: StepState::new(&Device::Cpu, 0, &adamw)?,
        })
    }

    /// Elements that train.
    pub(crate) fn numel(&self) -> usize {
        self.entries.iter().map(|e| e.param.numel()).sum()
    }

    /// Forgets all gradients.
    pub(crate) fn zero_grad(&self) {
        self.entries.iter().for_each(|e| e.param.zero_grad());
    }

    /// Updates every weight that has a gradient, unless the norm of all is not finite.
    pub(crate) fn step(&mut self, rates: Rates) -> Result<StepResult, TrainError> {
        let params = self.entries.iter().map(|e| &e.param);
        self.state.begin(params, self.max_grad_norm)?;
        for entry in &mut self.entries {
            if entry.param.grad().is_none() {
                continue;
            }
            let lr = if entry.group.projector {
                rates.projector_lr
            } else {
                rates.lr
            };
            let decay = if entry.group.decay {
                self.weight_decay
            } else {
                0.0
            };
            let moments = match &mut entry.moments {
                Some(moments) => moments,
                none => none.insert(Moments::new(&entry.param, Precision::F32)?),
            };
            self.adamw
                .update(&entry.param, moments, lr as f32, decay as f32, &self.state)?;
        }
        Ok(self.state.read_back()?.wait()?)
    }

    /// Writes the moments as `NAME.exp_avg` and `NAME.exp_avg_sq`.
    pub(crate) fn save(&self, path: &Path) -> Result<(), TrainError> {
        let mut tensors = Vec::new();
        for (entry, moments) in self
            .entries
            .iter()
            .filter_map(|e| Some((e, e.moments.as_ref()?)))
        {
            for (suffix, tensor) in [
                ("exp_avg", &moments.exp_avg),
                ("exp_avg_sq", &moments.exp_avg_sq),
            ] {
                let bytes = bytemuck::cast_slice(tensor.data::<f32>()?);
                let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes)
                    .map_err(|e| TrainError::save(path, e))?;
                tensors.push((format!("{}.{suffix}", entry.param.name()), view));
            }
        }
        safetensors::serialize_to_file(tensors, None, path).map_err(|e| TrainError::save(path, e))
    }

    /// Reads what [`Optimizer::save`] wrote after `updates` updates.
    pub(crate) fn load(&mut self, path: &Path, updates: u64) -> Result<(), TrainError> {
        self.state = StepState::new(&Device::Cpu, updates, &self.adamw)?;
        let bad = |reason: String| TrainError::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        let file = MappedFile::open(path).map_err(TrainError::io(path))?;
        let tensors = SafeTensors::deserialize(&file).map_err(|e| bad(e.to_string()))?;
        let mut used = 0;
        for entry in &mut self.entries {
            let mut read = |suffix: &str| -> Result<Option<Tensor>, TrainError> {
                let name = format!("{}.{suffix}", entry.param.name());
                let Ok(view) = tensors.tensor(&name) else {
                    return Ok(None);
                };
                if view.dtype() != Dtype::F32 || view.shape() != entry.param.shape() {
                    return Err(bad(format!(
                        "`{name}` has another type or shape than its weight"
                    )));
                }
                used += 1;
                let values = view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                Ok(Some(Tensor::from_vec::<f32>(values, view.shape())?))
            };
            entry.moments = match (read("exp_avg")?, read("exp_avg_sq")?) {
                (Some(exp_avg), Some(exp_avg_sq)) => Some(Moments {
                    exp_avg,
                    exp_avg_sq,
                    master: None,
                }),
                (None, None) => None,
                _ => {
                    let name = entry.param.name();
                    return Err(bad(format!(
                        "only one of the two moments of `{name}` is there"
                    )));
                }
            };
        }
        if used != tensors.len() {
            return Err(bad(format!(
                "{} of its {} tensors belong to no weight that trains",
                tensors.len() - used,
                tensors.len()
            )));
        }
        Ok(())
    }
}
