//! AdamW over the trainable weights in their groups, and its state on disk.

mod files;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use llavar_tensor::{
    DType, Device, Param, Tensor,
    collective::Group,
    compact::{Code, is_large, round_weight},
    optim::{AdamW, Moments, Precision, StepLimits, StepReadback, StepState, update_average},
};

use crate::{
    ParamGroup, TrainError, learning_rates::LearningRates, parallel::Piece, recipe::TrainSection,
    stage,
};

/// The optimizer of a run.
#[derive(Debug)]
pub(crate) struct Optimizer {
    adamw: AdamW,
    /// Decay of the moving average of the weights, where one is kept.
    ema_decay: Option<f32>,
    /// Whether the state is saved in the small form.
    compact: bool,
    /// Largest file of the state.
    max_shard_bytes: Option<u64>,
    max_grad_norm: f32,
    precision: Precision,
    entries: Vec<Entry>,
    state: StepState,
    /// Where the weights are pieces: the ranks that hold the others.
    shared: Option<Shared>,
    /// Names of all weights that train, on all ranks.
    trained: HashSet<String>,
}

/// What an optimizer over pieces needs.
#[derive(Debug)]
struct Shared {
    group: Arc<Group>,
    /// Measures the norm of this rank's gradients.
    own: StepState,
    /// A weight whose gradient is the norms of all ranks: its norm is that of all gradients.
    norms: Param,
}

#[derive(Debug)]
struct Entry {
    param: Param,
    /// Shape of the weight and first element in it, where the entry is a piece.
    whole: Vec<usize>,
    start: usize,
    /// Highest learning rate.
    lr: f64,
    weight_decay: f64,
    /// Made with the first gradient: weights that the forward pass does not use never get any.
    moments: Option<Moments>,
    /// The weight in f32 as it was before it was rounded, until `moments` takes it over.
    master: Option<Tensor>,
    /// Moving average of the weight, f32.
    average: Option<Tensor>,
}

impl Optimizer {
    /// An optimizer over those of `params` that ask for gradients. The weights are on the CPU, in f32.
    pub(crate) fn new(
        params: Vec<Param>,
        train: &TrainSection,
        phi3: bool,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let rates = LearningRates::new(train, params.iter().map(Param::name))?;
        let params = params.into_iter().filter(Param::requires_grad);
        let pieces: Vec<Piece> = params.map(Piece::all).collect();
        let trained = pieces.iter().map(|p| p.param.name().to_owned()).collect();
        Self::build(pieces, trained, None, train, &rates, phi3, precision)
    }

    /// An optimizer over this rank's pieces of the weights `trained`; the other ranks have the others. `params`
    /// are all weights of the model.
    pub(crate) fn sharded(
        params: &[Param],
        pieces: Vec<Piece>,
        trained: &[String],
        group: Arc<Group>,
        train: &TrainSection,
        phi3: bool,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let shared = Shared {
            own: StepState::new(&Device::Cpu, 0, &AdamW::default())?,
            norms: Param::new("norms of the ranks", Tensor::zeros(&[group.size()])),
            group,
        };
        let trained = trained.iter().cloned().collect();
        let rates = LearningRates::new(train, params.iter().map(Param::name))?;
        Self::build(
            pieces,
            trained,
            Some(shared),
            train,
            &rates,
            phi3,
            precision,
        )
    }

    fn build(
        pieces: Vec<Piece>,
        trained: HashSet<String>,
        shared: Option<Shared>,
        train: &TrainSection,
        rates: &LearningRates,
        phi3: bool,
        precision: Precision,
    ) -> Result<Self, TrainError> {
        let entries = pieces
            .into_iter()
            .map(|piece| Entry {
                lr: rates.of(piece.param.name()),
                weight_decay: match stage::Group::of(piece.param.name(), phi3).decay {
                    true => train.weight_decay,
                    false => 0.0,
                },
                param: piece.param,
                whole: piece.whole,
                start: piece.start,
                moments: None,
                master: None,
                average: None,
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
            ema_decay: train.ema_decay.map(|decay| decay as f32),
            compact: train.compact_checkpoints,
            max_shard_bytes: train.max_shard_bytes(),
            max_grad_norm: train.max_grad_norm as f32,
            precision,
            entries,
            state: StepState::new(&Device::Cpu, 0, &adamw)?,
            shared,
            trained,
        })
    }

    /// Elements that this rank updates.
    pub(crate) fn numel(&self) -> usize {
        self.entries.iter().map(|e| e.param.numel()).sum()
    }

    /// Takes moments and master weights to the device, tensor by tensor. To be called after what was saved
    /// has been loaded and before the weights themselves go there, where they may be rounded. `updates` have
    /// been done so far.
    pub(crate) fn place_on(&mut self, device: &Device, updates: u64) -> Result<(), TrainError> {
        self.state = StepState::new(device, updates, &self.adamw)?;
        if let Some(shared) = &mut self.shared {
            shared.own = StepState::new(device, 0, &AdamW::default())?;
            shared.norms.to_device(device, DType::F32, DType::F32)?;
        }
        for entry in &mut self.entries {
            let master = match self.precision.has_master() {
                true => Some(entry.param.value().cast(DType::F32)?.to_device(device)?),
                false => None,
            };
            if self.ema_decay.is_some() {
                // A copy, because it takes a way of its own.
                let start =
                    || Tensor::from_vec(entry.param.value().to_f32_vec()?, entry.param.shape());
                let average = entry.average.take().map_or_else(start, Ok)?;
                entry.average = Some(average.to_device(device)?);
            }
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

    /// Updates every weight that has a gradient with `factor` times its highest learning rate, unless their norm
    /// is not finite or `limits` say otherwise. On a GPU this is queued.
    pub(crate) fn step(
        &mut self,
        factor: f64,
        limits: Option<StepLimits<'_>>,
    ) -> Result<StepReadback, TrainError> {
        // Everything that needs memory comes first: a step is done whole or not at all.
        for entry in &mut self.entries {
            if entry.moments.is_none() && entry.param.grad().is_some() {
                let mut moments = Moments::new(&entry.param, self.precision)?;
                moments.master = entry.master.take().or(moments.master);
                entry.moments = Some(moments);
            }
        }
        let params = self.entries.iter().map(|e| &e.param);
        match &mut self.shared {
            None => self
                .state
                .begin_within(params, self.max_grad_norm, limits)?,
            Some(shared) => {
                shared.own.begin(params, 0.0)?;
                // Where one rank's is not finite, none of them updates.
                let norms = shared.group.collective().all_gather(&shared.own.norm()?)?;
                shared.norms.zero_grad();
                shared.norms.add_grad(norms.wait()?)?;
                self.state
                    .begin_within([&shared.norms], self.max_grad_norm, limits)?;
            }
        }
        let mut updates = self.adamw.updates(&self.state)?;
        for entry in &mut self.entries {
            if let Some(moments) = &mut entry.moments {
                let (lr, decay) = ((factor * entry.lr) as f32, entry.weight_decay as f32);
                updates.add(&entry.param, moments, lr, decay)?;
            }
        }
        updates.finish()?;
        let Some(decay) = self.ema_decay else {
            return Ok(self.state.read_back()?);
        };
        for entry in &mut self.entries {
            if let (Some(moments), Some(average)) = (&entry.moments, &mut entry.average) {
                let value = moments.master.clone();
                let value = value.unwrap_or_else(|| entry.param.value());
                update_average(average, &value, decay, &self.state)?;
            }
        }
        Ok(self.state.read_back()?)
    }

    /// Rounds the state to what the small form can hold, the weights too where `weights` says that they are saved in
    /// it. All that was rounded before stays as it is.
    pub(crate) fn round(&mut self, weights: bool) -> Result<(), TrainError> {
        for entry in self.entries.iter_mut().filter(|e| is_large(&e.whole)) {
            if let Some(moments) = &mut entry.moments {
                moments.exp_avg = Code::Signed.round(&moments.exp_avg)?;
                moments.exp_avg_sq = Code::Unsigned.round(&moments.exp_avg_sq)?;
            }
            if let Some(average) = &mut entry.average {
                *average = round_weight(average)?;
            }
            if !weights {
                continue;
            }
            let master = entry.moments.as_mut().and_then(|m| m.master.as_mut());
            match master.or(entry.master.as_mut()) {
                // The weight that the model computes with is the rounded master already.
                Some(master) => *master = round_weight(master)?,
                None => entry.param.set_value(round_weight(&entry.param.value())?)?,
            }
        }
        Ok(())
    }

    /// Lets go of everything that it holds, before another takes its place.
    pub(crate) fn let_go(&mut self) {
        self.entries.clear();
    }

    /// Learning rate and weight decay of every weight that this rank updates, with its elements.
    pub(crate) fn groups(&self) -> Vec<ParamGroup> {
        let mut groups: Vec<ParamGroup> = Vec::new();
        for entry in &self.entries {
            let (learning_rate, weight_decay) = (entry.lr, entry.weight_decay);
            let same = |g: &&mut ParamGroup| {
                (g.learning_rate, g.weight_decay) == (learning_rate, weight_decay)
            };
            let group = match groups.iter_mut().find(same) {
                Some(group) => group,
                None => {
                    groups.push(ParamGroup {
                        learning_rate,
                        weight_decay,
                        ..ParamGroup::default()
                    });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            group.tensors += 1;
            group.elements += entry.param.numel();
        }
        groups
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

    /// Moving averages of the weights by name; `None` where none are kept.
    pub(crate) fn averages(&self) -> Option<HashMap<String, Tensor>> {
        self.ema_decay?;
        let averages = self.entries.iter();
        let averages = averages.filter_map(|e| Some((e.param.name(), e.average.clone()?)));
        Some(
            averages
                .map(|(name, average)| (name.to_owned(), average))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a gradient of zero an update is weight decay alone: by the rate of each weight, and none for norms and
    /// biases.
    #[test]
    fn every_weight_has_the_rate_and_the_decay_of_its_group() {
        let names = [
            ("model.layers.0.mlp.up_proj.weight", 1e-2, 0.5),
            ("model.layers.0.input_layernorm.weight", 1e-2, 0.0),
            ("model.mm_projector.0.weight", 2e-2, 0.5),
            ("model.mm_projector.0.bias", 2e-2, 0.0),
            (
                "model.vision_tower.align_stages.0.fast_proj.weight",
                3e-2,
                0.5,
            ),
            ("lm_head.weight", 0.0, 0.5),
        ];
        let train = TrainSection {
            learning_rate: 1e-2,
            mm_projector_lr: Some(2e-2),
            mm_vision_tower_lr: Some(3e-2),
            learning_rates: [("lm_head.*".to_owned(), 0.0)].into(),
            weight_decay: 0.5,
            ..TrainSection::default()
        };
        let ones = || Tensor::from_vec(vec![1.0; 4], &[4]).unwrap();
        let params: Vec<Param> = names.map(|(name, ..)| Param::new(name, ones())).into();
        for param in &params {
            param.set_requires_grad(true);
            param.accumulate_zero().unwrap();
        }
        let mut optimizer = Optimizer::new(params.clone(), &train, false, Precision::F32).unwrap();
        optimizer.step(0.5, None).unwrap();
        for (param, (name, lr, decay)) in params.iter().zip(names) {
            let got = param.value().to_f32_vec().unwrap()[0];
            let want = (1.0 - 0.5 * lr * decay) as f32;
            assert!((got - want).abs() < 1e-7, "{name}: {got} {want}");
        }
        let groups = optimizer.groups();
        assert_eq!(groups.len(), 6, "{groups:?}");
        assert_eq!(
            (
                groups[3].learning_rate,
                groups[3].tensors,
                groups[3].elements
            ),
            (2e-2, 1, 4)
        );
    }
}
