//! Which matrix products of training may be in FP8: those of the language model's layers.
//!
//! The vision tower, the projector, the output layer and adapters stay in bf16: together they are a tenth of
//! the operations, and their values reach further.

use llavar_tensor::{DType, Param};

use crate::{LlavaModel, lora};

/// Both axes of a weight are multiples of it; the products know no other sizes.
const MULTIPLE: usize = 16;

/// Which weights multiply in FP8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fp8Weights {
    /// How many do.
    pub count: usize,
    /// Names of the others in the language model's layers: of 4 bits, or of a size that is no multiple of 16.
    pub others: Vec<String>,
}

/// Whether a weight is one of those that multiply in FP8 where a run asks for it.
pub fn takes_fp8(name: &str, shape: &[usize]) -> bool {
    is_product(name, shape) && shape.iter().all(|n| n.is_multiple_of(MULTIPLE))
}

fn is_product(name: &str, shape: &[usize]) -> bool {
    name.starts_with("model.layers.") && shape.len() == 2 && !lora::is_adapter(name)
}

impl LlavaModel {
    /// Lets the products of the language model's layers be FP8 from now on, forward and backward, or not. It has
    /// an effect in bf16 on a GPU that has such products; see [`Param::set_fp8`].
    pub fn set_fp8(&self, on: bool) -> Fp8Weights {
        let mut weights = Fp8Weights::default();
        for param in self.params() {
            if !is_product(param.name(), param.shape()) {
                continue;
            }
            if takes_fp8(param.name(), param.shape()) && param.dtype() != DType::Nf4 {
                param.set_fp8(on);
                weights.count += 1;
            } else {
                weights.others.push(param.name().to_owned());
            }
        }
        weights
    }

    /// Elements of the weights that multiply in FP8 now.
    pub fn fp8_elements(&self) -> usize {
        let params = self.params();
        let marked = params.iter().filter(|p| p.is_fp8());
        marked.map(Param::numel).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;

    #[test]
    fn the_layers_of_the_language_model_and_nothing_else() {
        let model = LlavaModel::init(Preset::Nano.config(None).unwrap(), 0).unwrap();
        let layers = model.config.llm.num_hidden_layers;
        let all = model.set_fp8(true);
        // q, k, v, o, gate, up, down.
        assert_eq!((all.count, all.others.len()), (7 * layers, 0));
        let mut elements = 0;
        for param in model.params() {
            let is_layer = param.name().starts_with("model.layers.") && param.shape().len() == 2;
            assert_eq!(param.is_fp8(), is_layer, "{}", param.name());
            assert_eq!(takes_fp8(param.name(), param.shape()), is_layer);
            elements += if is_layer { param.numel() } else { 0 };
        }
        assert_eq!(model.fp8_elements(), elements);
        model.set_fp8(false);
        assert_eq!(model.fp8_elements(), 0);
    }

    #[test]
    fn odd_sizes_and_adapters_are_left_out() {
        assert!(takes_fp8("model.layers.0.mlp.up_proj.weight", &[32, 48]));
        assert!(!takes_fp8("model.layers.0.mlp.up_proj.weight", &[32, 40]));
        assert!(!takes_fp8(
            "model.layers.0.mlp.up_proj.lora_A.weight",
            &[16, 48]
        ));
        assert!(!takes_fp8("model.layers.0.input_layernorm.weight", &[32]));
        assert!(!takes_fp8("lm_head.weight", &[32, 48]));
    }
}
