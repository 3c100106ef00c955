//! The language model's frozen linear layers in 4 bits (QLoRA).

use llavar_tensor::{Param, Tensor, nf4_bytes};
use serde_json::{Value, json};

use super::targets::is_language;
use crate::{
    LlavaModel, ModelError, Result,
    config::{ModelConfig, Parameter},
    int8,
};

pub(crate) const KEY: &str = "quantization_config";

/// NF4 for the weights of the language model's linear layers. Vision tower, projector, embeddings and `lm_head`
/// keep their 16 or 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Whether the scales are coded too, in 8 bits.
    pub double: bool,
}

impl Quantization {
    /// Whether it is for this weight.
    pub(crate) fn covers(name: &str) -> bool {
        name.ends_with("_proj.weight") && is_language(name)
    }

    /// A weight's value as it is stored, if it is one of those.
    pub(crate) fn apply(self, name: &str, value: Tensor) -> Result<Tensor> {
        match Self::covers(name) {
            true => Ok(value.to_nf4(self.double)?),
            false => Ok(value),
        }
    }

    /// Bytes of a weight as it is stored, if it is one of those.
    pub fn bytes(self, parameter: &Parameter) -> Option<usize> {
        Self::covers(&parameter.name).then(|| nf4_bytes(parameter.numel(), self.double))
    }

    /// What a configuration says under transformers' key; `None` where it says nothing.
    ///
    /// # Errors
    /// [`ModelError::Quantization`] for another kind.
    pub fn of(config: &ModelConfig) -> Result<Option<Self>> {
        let Some(found) = config.as_json().get(KEY).filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        // Codes of 8 bits are a form of storage and widened where they are read.
        if int8::says_so(found) {
            return Ok(None);
        }
        let flag = |key: &str| found.get(key).and_then(Value::as_bool).unwrap_or(false);
        let kind = found.get("bnb_4bit_quant_type").and_then(Value::as_str);
        match flag("load_in_4bit") && kind == Some("nf4") {
            true => Ok(Some(Self {
                double: flag("bnb_4bit_use_double_quant"),
            })),
            false => Err(ModelError::Quantization {
                found: found.to_string(),
            }),
        }
    }

    /// The configuration with this under transformers' key.
    ///
    /// # Errors
    /// None that a valid configuration can give.
    pub fn written_in(self, config: &ModelConfig) -> Result<ModelConfig> {
        let value = json!({
            "quant_method": "bitsandbytes",
            "load_in_4bit": true,
            "load_in_8bit": false,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": self.double,
            "bnb_4bit_compute_dtype": "bfloat16",
            "llm_int8_skip_modules": ["lm_head", "vision_tower", "mm_projector"],
        });
        Ok(config.with([(KEY.to_owned(), value)])?)
    }
}

/// The configuration of a model whose weights have all their bits.
pub(crate) fn unquantized(config: &ModelConfig) -> ModelConfig {
    config.without(KEY)
}

impl LlavaModel {
    /// Rounds the language model's linear layers, one after the other; a model that is so already stays as it is.
    /// On the CPU.
    ///
    /// # Errors
    /// When the weights are on a GPU.
    pub fn quantize(&mut self, quantization: Quantization) -> Result<()> {
        for param in self
            .params()
            .iter()
            .filter(|p| Quantization::covers(p.name()))
        {
            if param.dtype() != llavar_tensor::DType::Nf4 {
                param.set_value(quantization.apply(param.name(), param.value())?)?;
            }
        }
        self.config = quantization.written_in(&self.config)?;
        Ok(())
    }

    /// Weights that are stored in 4 bits: their number and the bytes that they take.
    pub fn quantized(&self) -> (usize, usize) {
        let params = self.params();
        let coded = params
            .iter()
            .filter(|p| p.dtype() == llavar_tensor::DType::Nf4);
        coded.fold((0, 0), |(count, bytes), p: &Param| {
            (count + p.numel(), bytes + p.value().bytes())
        })
    }
}
