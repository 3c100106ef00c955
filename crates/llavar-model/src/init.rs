//! Values of untrained parameters.
//!
//! | part | weights | biases |
//! |---|---|---|
//! | language model | normal, `initializer_range` (0.02) | none |
//! | CLIP | normal; attention `d^-1/2 (2 layers)^-1/2` (out `d^-1/2`), fc1 `(2d)^-1/2`, fc2 as attention, class `d^-1/2`, patches and positions 0.02 | 0 |
//! | ConvNeXt | truncated normal 0.02, or as a PyTorch linear layer where `convnext_config.initializer` is `fan_in` (narrow towers: 0.02 suits widths of hundreds); layer scale `convnext_config.layer_scale_init_value` (1e-6) | 0 |
//! | adapters | `*_conv` Xavier-uniform, `*_proj` zero, gate as a PyTorch linear layer | 0 |
//! | fusion, projector | PyTorch linear layer: uniform within `fan_in^-1/2` | the same |
//!
//! Norms are 1 and 0. Every tensor draws from its own stream, keyed by the seed and its name, in chunks
//! with streams of their own: the values depend on nothing else.
//!
//! # Source
//! transformers (Llama, Phi-3, CLIP), timm (ConvNeXt), LLaVA-HR (adapters), PyTorch.

use std::collections::HashMap;

use llavar_tensor::Tensor;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::prelude::*;
use serde_json::Value;

use crate::{
    Result,
    config::{ModelConfig, Parameter, VisionConfig},
};

/// Values drawn from one stream.
const CHUNK: usize = 1 << 14;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Law {
    Constant(f32),
    Normal(f64),
    /// Normal, drawn again beyond two standard deviations.
    TruncatedNormal(f64),
    /// Uniform between minus and plus this.
    Uniform(f64),
}

/// Draws the values of a model's parameters.
#[derive(Debug)]
pub(crate) struct Initializer {
    shapes: HashMap<String, Vec<usize>>,
    seed: u64,
    initializer_range: f64,
    layer_scale: f32,
    convnext_fan_in: bool,
    clip_width: f64,
    clip_layers: f64,
}

impl Initializer {
    pub(crate) fn new(config: &ModelConfig, parameters: &[Parameter], seed: u64) -> Self {
        let number = |value: Option<&Value>, default: f64| {
            value
                .and_then(Value::as_f64)
                .filter(|x| x.is_finite() && *x >= 0.0)
                .unwrap_or(default)
        };
        let json = config.as_json();
        let convnext = json.get("convnext_config");
        let clip = config
            .vision
            .as_ref()
            .and_then(VisionConfig::clip)
            .map(|clip| (clip.hidden_size, clip.num_hidden_layers));
        let (width, layers) = clip.unwrap_or((1, 1));
        Self {
            shapes: parameters
                .iter()
                .map(|p| (p.name.clone(), p.shape.clone()))
                .collect(),
            seed,
            initializer_range: number(json.get("initializer_range"), 0.02),
            layer_scale: number(convnext.and_then(|c| c.get("layer_scale_init_value")), 1e-6)
                as f32,
            convnext_fan_in: convnext
                .and_then(|c| c.get("initializer"))
                .and_then(Value::as_str)
                == Some("fan_in"),
            clip_width: width as f64,
            clip_layers: layers as f64,
        }
    }

    /// The value of one parameter.
    pub(crate) fn value(&self, parameter: &Parameter) -> Result<Tensor> {
        let mut value = Tensor::zeros(&parameter.shape);
        fill(
            value.data_mut::<f32>()?,
            self.law(&parameter.name),
            self.seed,
            &parameter.name,
        );
        Ok(value)
    }

    fn law(&self, name: &str) -> Law {
        let is_bias = name.ends_with(".bias");
        if name.contains(".align_stages_latent.") {
            return self.adapter(name, is_bias);
        }
        if name.contains(".align_stages.") || name.contains("mm_projector") {
            return self.torch_linear(name);
        }
        if name.contains("vision_model.") {
            return self.clip(name, is_bias);
        }
        if name.contains("vision_tower.") {
            return self.convnext(name, is_bias);
        }
        if name.ends_with("norm.weight") {
            Law::Constant(1.0)
        } else {
            Law::Normal(self.initializer_range)
        }
    }

    fn clip(&self, name: &str, is_bias: bool) -> Law {
        let (width, depth) = (
            self.clip_width.powf(-0.5),
            (2.0 * self.clip_layers).powf(-0.5),
        );
        if is_bias {
            return Law::Constant(0.0);
        }
        if name.contains("layer_norm") || name.contains("layrnorm") {
            return Law::Constant(1.0);
        }
        match name {
            _ if name.ends_with("class_embedding") => Law::Normal(width),
            _ if name.contains("out_proj") => Law::Normal(width),
            _ if name.contains("self_attn") || name.contains("fc2") => Law::Normal(width * depth),
            _ if name.contains("fc1") => Law::Normal((2.0 * self.clip_width).powf(-0.5)),
            _ => Law::Normal(0.02),
        }
    }

    fn convnext(&self, name: &str, is_bias: bool) -> Law {
        // Norms and the layer scale are the vectors; every other weight has two axes or four.
        let is_vector = self.shapes.get(name).is_none_or(|shape| shape.len() == 1);
        match (is_bias, is_vector) {
            (true, _) => Law::Constant(0.0),
            (false, false) if self.convnext_fan_in => self.torch_linear(name),
            (false, false) => Law::TruncatedNormal(0.02),
            (false, true) if is_layer_scale(name) => Law::Constant(self.layer_scale),
            (false, true) => Law::Constant(1.0),
        }
    }

    fn adapter(&self, name: &str, is_bias: bool) -> Law {
        if name.contains(".gate.") {
            return self.torch_linear(name);
        }
        if is_bias || name.contains("_proj.") {
            return Law::Constant(0.0);
        }
        let shape = self.shapes.get(name).map_or(&[1, 1][..], Vec::as_slice);
        let window: usize = shape.iter().skip(2).product();
        let fans = (shape.first().unwrap_or(&1) + shape.get(1).unwrap_or(&1)) * window;
        Law::Uniform((6.0 / fans as f64).sqrt())
    }

    /// A linear layer as PyTorch makes it; the bias has the bound of its weight.
    fn torch_linear(&self, name: &str) -> Law {
        let weight = match name.strip_suffix(".bias") {
            Some(layer) => format!("{layer}.weight"),
            None => name.to_owned(),
        };
        let fan_in: usize = self
            .shapes
            .get(&weight)
            .map_or(1, |shape| shape.iter().skip(1).product());
        Law::Uniform((fan_in.max(1) as f64).powf(-0.5))
    }
}

/// A new adapter's A as PEFT makes it: uniform within the root of one over the inputs.
pub(crate) fn lora_a(shape: &[usize], seed: u64, name: &str) -> Result<Tensor> {
    let bound = (shape.last().copied().unwrap_or(1).max(1) as f64).powf(-0.5);
    let mut value = Tensor::zeros(shape);
    fill(value.data_mut::<f32>()?, Law::Uniform(bound), seed, name);
    Ok(value)
}

/// `stages.i.blocks.j.weight`.
fn is_layer_scale(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    parts.next() == Some("weight")
        && parts.next().is_some_and(|n| n.parse::<usize>().is_ok())
        && parts.next() == Some("blocks")
}

fn fill(values: &mut [f32], law: Law, seed: u64, name: &str) {
    let key = key(seed, name);
    values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(stream, values)| {
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_stream(stream as u64);
            values.iter_mut().for_each(|value| {
                *value = match law {
                    Law::Constant(x) => x,
                    Law::Normal(std) => (std * normal(&mut rng)) as f32,
                    Law::TruncatedNormal(std) => loop {
                        let x = normal(&mut rng);
                        if x.abs() <= 2.0 {
                            break (std * x) as f32;
                        }
                    },
                    Law::Uniform(bound) => (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32,
                }
            });
        });
}

/// Standard normal (Box and Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    // 1 - u lies in (0, 1], so the logarithm is finite.
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A 256-bit key from the seed and the name: four FNV-1a hashes with different starts.
pub(crate) fn key(seed: u64, name: &str) -> [u8; 32] {
    let mut key = [0; 32];
    for (n, part) in key.chunks_exact_mut(8).enumerate() {
        let start = 0xcbf2_9ce4_8422_2325 ^ (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
        let hash = bytes.fold(start, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        part.copy_from_slice(&hash.to_le_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LlavaModel, config::Preset};

    fn deviation(values: &[f32]) -> f64 {
        (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn values_follow_the_table_and_depend_on_seed_and_name_only() {
        let config = Preset::Nano.config(Some(300)).unwrap();
        let build = |seed, threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| LlavaModel::init(config.clone(), seed).unwrap())
        };
        let (one, two, other) = (build(7, 1), build(7, 2), build(8, 2));
        let mut differ = 0;
        for ((a, b), c) in one.params().iter().zip(two.params()).zip(other.params()) {
            let values = a.value().to_f32_vec().unwrap();
            assert_eq!(values, b.value().to_f32_vec().unwrap(), "{}", a.name());
            differ += usize::from(values != c.value().to_f32_vec().unwrap());
            let std = deviation(&values);
            let near = |want: f64| {
                assert!(
                    (std / want - 1.0).abs() < 0.1,
                    "{}: {std} for {want}",
                    a.name()
                )
            };
            match a.name() {
                "model.embed_tokens.weight" | "lm_head.weight" => near(0.02),
                "model.norm.weight" => near(1.0),
                // Uniform within a: a / sqrt(3).
                "model.mm_projector.0.weight" => near((1.0 / 192.0f64).sqrt() / 3f64.sqrt()),
                "model.vision_tower.align_stages_latent.1.slow_conv.weight" => {
                    near((6.0 / 768.0f64).sqrt() / 3f64.sqrt())
                }
                "model.vision_tower.align_stages_latent.2.fast_proj.weight" => assert_eq!(std, 0.0),
                // `fan_in`, as the preset says: uniform within 192^-1/2.
                name if name.ends_with("stages.2.blocks.3.mlp.fc1.weight") => {
                    near((1.0 / 192.0f64).sqrt() / 3f64.sqrt())
                }
                name if name.ends_with("layers.0.mlp.fc1.weight") => {
                    near((2.0 * 192.0f64).powf(-0.5))
                }
                name if is_layer_scale(name) => near(0.1),
                name if name.ends_with("layer_norm1.bias") => assert_eq!(std, 0.0),
                _ => {}
            }
        }
        assert!(differ > 50, "another seed gives other values");
        assert!(one.vision_tower.as_ref().unwrap().has_adapters());
    }

    #[test]
    fn without_a_word_convnext_starts_as_timm_has_it() {
        let nano = Preset::Nano.config(Some(300)).unwrap();
        let convnext = serde_json::json!({ "depths": [1, 1, 1, 1], "dims": [24, 48, 96, 192] });
        let config = nano
            .with([("convnext_config".to_owned(), convnext)])
            .unwrap();
        let model = LlavaModel::init(config, 7).unwrap();
        let slow = "model.vision_tower.slow_vision_tower.vision_tower.stages.3.blocks.0";
        let std = |name: String| {
            let params = model.params();
            let found = params.iter().find(|p| p.name() == name).unwrap();
            deviation(&found.value().to_f32_vec().unwrap())
        };
        // Cut at two deviations, a normal keeps 0.88 of its deviation.
        assert!((std(format!("{slow}.mlp.fc1.weight")) / (0.02 * 0.88) - 1.0).abs() < 0.05);
        assert!(
            (std(format!("{slow}.weight")) / 1e-6 - 1.0).abs() < 1e-3,
            "layer scale"
        );
    }

    #[test]
    fn layer_scales_are_told_from_norms() {
        assert!(is_layer_scale("x.stages.0.blocks.2.weight"));
        assert!(
            !is_layer_scale("x.stages.0.blocks.2.norm.weight")
                && !is_layer_scale("x.stem.1.weight")
        );
    }
}
