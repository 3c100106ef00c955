//! What trains, written as an adapter folder.

use std::path::Path;

use llavar_tensor::{Param, Tensor};

use super::{
    is_adapter, linear_modules, merged, module_of,
    peft::{ADAPTER_CONFIG, ADAPTER_MODEL, OTHERS, config_json, wraps},
};
use crate::{
    LlavaModel, ModelError, Result,
    weights::{Dtype, FolderWriter, SaveError, SaveOptions, TensorSpec},
};

impl LlavaModel {
    /// The value of a weight with the adapter that stands on it.
    pub(crate) fn with_delta(
        &self,
        param: &Param,
        value: &dyn Fn(&Param) -> Tensor,
    ) -> Result<Tensor> {
        let module = module_of(param.name());
        let adapters = self.adapters.as_ref();
        match module.and_then(|m| adapters?.by_module.get(m)) {
            Some(lora) => merged(&value(param), lora, value),
            None => Ok(value(param)),
        }
    }

    /// The adapters by their layers.
    #[cfg(test)]
    pub(crate) fn adapters_of_test(
        &self,
    ) -> std::collections::HashMap<String, llavar_tensor::LoraAdapter> {
        self.adapters
            .clone()
            .map(|a| a.by_module)
            .unwrap_or_default()
    }

    /// Whether adapters (LoRA, DoRA) stand on its layers.
    pub fn has_lora(&self) -> bool {
        self.adapters.is_some()
    }

    /// Writes an adapter folder: `adapter_config.json` and `adapter_model.safetensors` as PEFT has them,
    /// `non_lora_trainables.safetensors` with every other weight that trains and with projector and fusion in any
    /// case, `config.json` and the tokenizer's files. Weights are f32, of the values that `value` gives. `base` is
    /// the folder that holds all others.
    ///
    /// # Errors
    /// As [`LlavaModel::save`]; [`ModelError::Adapter`] without adapters.
    pub fn save_adapter(
        &self,
        folder: &Path,
        base: &str,
        tokenizer_files_from: Option<&Path>,
        value: impl Fn(&Param) -> Tensor,
    ) -> Result<()> {
        let Some(adapters) = &self.adapters else {
            return Err(ModelError::Adapter {
                path: folder.to_owned(),
                reason: "the model has no adapters to save".into(),
            });
        };
        let options = SaveOptions {
            overwrite: true,
            ..Default::default()
        };
        let mut writer = FolderWriter::create(folder, options)?;
        writer.write_config(&self.config_to_save(Dtype::F32)?)?;
        let layers = linear_modules(&self.parameters());
        writer.write_json(ADAPTER_CONFIG, &config_json(adapters, &layers, base))?;
        if let Some(from) = tokenizer_files_from {
            writer.copy_companions(from)?;
        }
        let params = self.params();
        let (own, others): (Vec<&Param>, Vec<&Param>) = params
            .iter()
            .filter(|p| is_adapter(p.name()) || self.belongs_to_adapter(p))
            .partition(|p| is_adapter(p.name()));
        for (name, params) in [(ADAPTER_MODEL, own), (OTHERS, others)] {
            let specs: Vec<TensorSpec> = params
                .iter()
                .map(|p| TensorSpec::new(wraps(p.name()), Dtype::F32, p.shape()))
                .collect();
            writer.write_tensors(name, &specs, |spec, sink| {
                match params.iter().find(|p| wraps(p.name()) == spec.name) {
                    Some(param) => {
                        sink.write_f32(&value(param).to_f32_vec().map_err(SaveError::Tensor)?)
                    }
                    // The list was made from the same parameters.
                    None => Err(SaveError::FileName {
                        name: spec.name.clone(),
                    }),
                }
            })?;
        }
        Ok(writer.finish()?)
    }

    /// Whether an adapter folder holds a weight whole: those that train, and all that a base may lack.
    fn belongs_to_adapter(&self, param: &Param) -> bool {
        let name = param.name();
        param.requires_grad() || name.contains("mm_projector") || name.contains("align_stages")
    }

    /// A fingerprint of the weights that an adapter folder does not hold: a checksum over some values of each.
    ///
    /// # Errors
    /// When copying from a GPU fails.
    pub fn base_fingerprint(&self) -> Result<String> {
        let mut bytes = Vec::new();
        for param in &self.params() {
            if is_adapter(param.name()) || self.belongs_to_adapter(param) {
                continue;
            }
            bytes.extend_from_slice(param.name().as_bytes());
            for value in param.value().samples(64)? {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Ok(format!("{hash:016x}"))
    }
}
