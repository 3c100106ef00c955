//! AdamW over the trainable weights in their groups, and its state on disk.

use std::{collections::HashMap, path::Path};

use half::bf16;
use llavar_tensor::{
    DType, Device, Param, Tensor,
    mapped::MappedFile,
    optim::{AdamW, Moments, Precision, StepReadback, StepState},
};
use safetensors::{Dtype, SafeTensors};

use crate::{TrainError, lazy::write_tensors, recipe::TrainSection, stage::Group};

/// The optimizer of a run.
#[derive(Debug)]
pub(crate) struct Optimizer {
    adamw: AdamW,
    weight_decay: f64,
    max_grad_norm: f32,
    precision: Precision,
    entries: Vec<Entry>,
    state: StepState,
}

#[derive(Debug)]
struct Entry {
    param: Param,
    group: Group,
    /// Made with the first gradient: weights that the forward pass does not use never get any.
    moments: Option<Moments>,
    /// The weight in f32 as it was before it was rounded, until `moments` takes it over.
    master: Option<Tensor>,
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
    /// An optimizer over those of `params` that ask for gradients. The weights are on the CPU, in f32.
    pub(crate) fn new(
        params: Vec<Param>,
        train: &TrainSection,
        phi3: bool,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let entries = params
            .into_iter()
            .filter(Param::requires_grad)
            .map(|param| Entry {
                group: Group::of(param.name(), phi3),
                param,
                moments: None,
                master: None,
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
            precision,
            entries,
            state: StepState::new(&Device::Cpu, 0, &adamw)?,
        })
    }

    /// Elements that train.
    pub(crate) fn numel(&self) -> usize {
        self.entries.iter().map(|e| e.param.numel()).sum()
    }

    /// Takes moments and master weights to the device, tensor by tensor. To be called after what was saved
    /// has been loaded and before the weights themselves go there, where they may be rounded. `updates` have
    /// been done so far.
    pub(crate) fn place_on(&mut self, device: &Device, updates: u64) -> Result<(), TrainError> {
        self.state = StepState::new(device, updates, &self.adamw)?;
        for entry in &mut self.entries {
            let master = match self.precision.has_master() {
                true => Some(entry.param.value().cast(DType::F32)?.to_device(device)?),
                false => None,
            };
            match &mut entry.moments {
                Some(moments) => {
                    moments.exp_avg = moments.exp_avg.to_device(device)?;
                    moments.exp_avg_sq = moments.exp_avg_sq.to_device(device)?;
                    moments.master = master;
                }
                None => entry.master = master,
            }
        }
        Ok(())
    }

    /// Forgets all gradients.
    pub(crate) fn zero_grad(&self) {
        self.entries.iter().for_each(|e| e.param.zero_grad());
    }

    /// Updates every weight that has a gradient, unless their norm is not finite. On a GPU this is queued.
    pub(crate) fn step(&mut self, rates: Rates) -> Result<StepReadback, TrainError> {
        // Everything that needs memory comes first: a step is done whole or not at all.
        for entry in &mut self.entries {
            if entry.moments.is_none() && entry.param.grad().is_some() {
                let mut moments = Moments::new(&entry.param, self.precision)?;
                moments.master = entry.master.take().or(moments.master);
                entry.moments = Some(moments);
            }
        }
        let params = self.entries.iter().map(|e| &e.param);
        self.state.begin(params, self.max_grad_norm)?;
        for entry in &mut self.entries {
            let Some(moments) = &mut entry.moments else {
                continue;
            };
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
            let (lr, decay) = (lr as f32, decay as f32);
            self.adamw
                .update(&entry.param, moments, lr, decay, &self.state)?;
        }
        Ok(self.state.read_back()?)
    }

    /// Master weights by name, which are what is saved of a model that computes with rounded ones.
    pub(crate) fn masters(&self) -> HashMap<String, Tensor> {
        self.entries
            .iter()
            .filter_map(|e| {
                let moments = e.moments.as_ref().and_then(|m| m.master.as_ref());
                let master = moments.or(e.master.as_ref())?;
                Some((e.param.name().to_owned(), master.clone()))
            })
            .collect()
    }

    /// Writes the moments as `NAME.exp_avg` and `NAME.exp_avg_sq` in their element type.
    pub(crate) fn save(&self, path: &Path) -> Result<(), TrainError> {
        let tensors = self
            .entries
            .iter()
            .filter_map(|e| Some((e.param.name(), e.moments.as_ref()?)))
            .flat_map(|(name, moments)| {
                [
                    (format!("{name}.exp_avg"), moments.exp_avg.clone()),
                    (format!("{name}.exp_avg_sq"), moments.exp_avg_sq.clone()),
                ]
            })
            .collect();
        write_tensors(path, tensors)
    }

    /// Reads what [`Optimizer::save`] wrote, into main memory. Moments of another precision are converted.
    pub(crate) fn load(&mut self, path: &Path) -> Result<(), TrainError> {
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
                let known = matches!(view.dtype(), Dtype::F32 | Dtype::BF16);
                if !known || view.shape() != entry.param.shape() {
                    return Err(bad(format!(
                        "`{name}` has another type or shape than its weight"
                    )));
                }
                used += 1;
                let tensor = match view.dtype() {
                    Dtype::BF16 => {
                        let values = view.data().chunks_exact(2);
                        let values = values.map(|b| bf16::from_le_bytes([b[0], b[1]]));
                        Tensor::from_vec(values.collect(), view.shape())?
                    }
                    _ => {
                        let values = view.data().chunks_exact(4);
                        let values = values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                        Tensor::from_vec(values.collect(), view.shape())?
                    }
                };
                Ok(Some(tensor.cast(self.precision.states())?))
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
