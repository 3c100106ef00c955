//! Adapters on a built model, and its frozen weights in few bits.

use std::collections::HashMap;

use llavar_tensor::{LoraAdapter, Param, Tensor};

use super::{
    Adapter, Adapters, LoraConfig, TargetError, is_adapter, linear_modules, module_of, names,
    select_targets,
};
use crate::{
    LlavaModel, Result,
    config::Parameter,
    init::{key, lora_a},
    layers::ParamSet,
};

/// The parameters that adapters add to those of a model, by layer: A, B and of a DoRA the magnitude.
///
/// # Errors
/// [`TargetError`] for a pattern that no layer fits.
pub fn adapter_parameters(
    config: &LoraConfig,
    parameters: &[Parameter],
) -> std::result::Result<Vec<Parameter>, TargetError> {
    let modules = select_targets(&linear_modules(parameters), &config.target_modules)?;
    let mut list = Vec::new();
    for parameter in parameters {
        let module = module_of(&parameter.name).filter(|m| modules.iter().any(|own| own == m));
        let (Some(module), &[n, k]) = (module, parameter.shape.as_slice()) else {
            continue;
        };
        let [a, b, m] = names(module);
        list.push(Parameter::new(a, [config.r, k]));
        list.push(Parameter::new(b, [n, config.r]));
        if config.use_dora {
            list.push(Parameter::new(m, [n]));
        }
    }
    Ok(list)
}

impl LlavaModel {
    /// The same model with a new adapter on every layer that `config` names; it computes what it did before
    /// until they are trained. A is drawn as PEFT does (Kaiming, uniform), B is zero, a DoRA's magnitudes are
    /// the norms of the weight's rows. The values depend on `seed` and the names of the layers only.
    ///
    /// # Errors
    /// [`crate::lora::TargetError`] for a pattern that no layer fits.
    pub fn with_lora(self, config: &LoraConfig, seed: u64) -> Result<Self> {
        let parameters = self.parameters();
        let modules = select_targets(&linear_modules(&parameters), &config.target_modules)?;
        let set = ParamSet::new(&self.params());
        let mut by_module = HashMap::new();
        for module in &modules {
            let weight = set.get(&format!("{module}.weight"))?.value();
            let (n, k) = (weight.shape()[0], weight.shape()[1]);
            let [a, b, m] = names(module);
            let magnitude = match config.use_dora {
                true => Some(Param::new(m, weight.row_norms()?)),
                false => None,
            };
            let adapter = LoraAdapter {
                a: Param::new(a.clone(), lora_a(&[config.r, k], seed, &a)?),
                b: Param::new(b, Tensor::zeros(&[n, config.r])),
                magnitude,
                scaling: config.scaling(config.r, config.lora_alpha),
                dropout: config.lora_dropout as f32,
                key: layer_key(module),
            };
            by_module.insert(module.clone(), adapter);
        }
        let config = config.clone();
        self.with_adapter_set(Adapters {
            config,
            by_module,
            modules,
        })
    }

    /// The same model with the adapters of a folder, unmerged: to be trained on.
    pub(crate) fn with_adapter_of(self, adapter: &Adapter) -> Result<Self> {
        let parameters = self.parameters();
        let order = linear_modules(&parameters);
        let mut by_module = HashMap::new();
        for module in adapter.modules() {
            let tensors = adapter.read(module, &parameters)?;
            let [a, b, m] = names(module);
            let lora = LoraAdapter {
                a: Param::new(a, tensors.a),
                b: Param::new(b, tensors.b),
                magnitude: tensors.magnitude.map(|value| Param::new(m, value)),
                scaling: tensors.scaling,
                dropout: adapter.config().lora_dropout as f32,
                key: layer_key(module),
            };
            by_module.insert(module.clone(), lora);
        }
        let modules = order
            .into_iter()
            .filter(|m| by_module.contains_key(m))
            .collect();
        let config = adapter.config().clone();
        self.with_adapter_set(Adapters {
            config,
            by_module,
            modules,
        })
    }

    /// Its own parameters, without those of adapters.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        self.params()
            .iter()
            .filter(|p| !is_adapter(p.name()))
            .map(|p| Parameter::new(p.name(), p.shape()))
            .collect()
    }
}

/// What tells a layer's dropout from that of others: the same in every run.
fn layer_key(module: &str) -> u64 {
    let bytes = key(0, module);
    bytes
        .first_chunk::<8>()
        .map_or(0, |head| u64::from_le_bytes(*head))
}
