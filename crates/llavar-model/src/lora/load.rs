//! A base model and an adapter folder read together.

use std::path::Path;

use llavar_tensor::{DType, Device, Param};

use super::{Adapter, Quantization, unquantized};
use crate::{
    LlavaModel, ModelError, Result,
    config::{ModelConfig, parameters},
    weights::{Role, Source, WeightFiles, adapters_present},
};

impl LlavaModel {
    /// Reads a base model with an adapter merged into it, every weight going to `device` in `dtype` as soon as it
    /// is merged.
    ///
    /// # Errors
    /// As [`LlavaModel::load`], and when the adapter was made for another model.
    pub fn load_adapted_on(
        base: &Path,
        adapter: &Adapter,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Self::load_merged(base, adapter, |param| {
            Ok(param.to_device(device, dtype, DType::F32)?)
        })
    }

    /// Reads a base model with an adapter on its layers, f32 on the CPU: to train it further.
    ///
    /// # Errors
    /// As [`LlavaModel::load_adapted_on`].
    pub fn load_unmerged(base: &Path, adapter: &Adapter) -> Result<Self> {
        let model = Self::load_both(base, adapter, None, |_| Ok(()))?;
        adapter.check(&model.parameters())?;
        model.with_adapter_of(adapter)
    }

    pub(crate) fn load_merged(
        base: &Path,
        adapter: &Adapter,
        place: impl Fn(&Param) -> Result<()> + Sync,
    ) -> Result<Self> {
        Self::load_both(base, adapter, Some(adapter), place)
    }

    /// The base's weights with those that the adapter's folder has whole, in 4 bits where they were so in training;
    /// `merge` is added into them.
    fn load_both(
        base: &Path,
        adapter: &Adapter,
        merge: Option<&Adapter>,
        place: impl Fn(&Param) -> Result<()> + Sync,
    ) -> Result<Self> {
        if Adapter::is_at(base) {
            return Err(ModelError::Adapter {
                path: base.to_owned(),
                reason: "it is an adapter itself and cannot be the base of another; merge it first"
                    .into(),
            });
        }
        let config = match adapter.model_config() {
            Some(config) => config.clone(),
            None => ModelConfig::read(base)?,
        };
        let files = WeightFiles::open(base)?;
        let mut sources = vec![Source {
            files: &files,
            role: Role::Model,
        }];
        sources.extend(adapter.sources());
        let latent = sources.iter().any(|s| adapters_present(s.files));
        if merge.is_some() {
            adapter.check(&parameters(&config, latent))?;
        }
        let quantization = Quantization::of(&config)?;
        let config = match merge {
            Some(_) => unquantized(&config),
            None => config,
        };
        let reading = (merge, quantization);
        Self::from_sources_placed(config, latent, &sources, |_| false, 0, reading, place)
    }
}
