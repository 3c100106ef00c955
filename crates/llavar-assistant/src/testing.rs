//! A tiny random model that answers, for tests of this and other crates.
#![allow(clippy::unwrap_used)]

use llavar_data::{
    Tokenizer,
    tokenizer::{BpeOptions, train_bpe},
};
use llavar_image::RgbImage;
use llavar_model::{
    LlavaModel,
    config::{ModelConfig, Preset},
};
use serde_json::{Value, json};

use crate::Assistant;

/// A model with two layers, pictures of 64 px, and weights large enough that answers differ.
pub fn assistant() -> Assistant {
    with(Vec::new())
}

/// The same with other values in its configuration.
pub fn with(mut other: Vec<(String, Value)>) -> Assistant {
    let text = ["USER: what is the total of it ASSISTANT: the total is 7"; 4];
    let (tokenizer, settings) = train_bpe(text.iter(), &BpeOptions::new(280)).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let tokenizer = Tokenizer::from_json(&tokenizer, &settings).unwrap();
    other.insert(0, ("initializer_range".to_owned(), json!(0.3)));
    let model = LlavaModel::init(config(tokenizer.vocab_len(), other), 3).unwrap();
    Assistant::new(model, tokenizer, None, None)
}

/// The architecture of `nano` at a fraction of its size, with other values where they are given.
pub fn config(vocab: usize, other: Vec<(String, Value)>) -> ModelConfig {
    let base = Preset::Nano.config(Some(vocab)).unwrap();
    let mut clip = base.as_json()["clip_vision_config"].clone();
    for (key, value) in [
        ("hidden_size", 16),
        ("intermediate_size", 24),
        ("num_hidden_layers", 4),
        ("num_attention_heads", 2),
    ] {
        clip[key] = value.into();
    }
    let mut convnext = base.as_json()["convnext_config"].clone();
    convnext["dims"] = json!([4, 8, 8, 8]);
    convnext["depths"] = json!([1, 1, 1, 1]);
    let changes = [
        ("hidden_size", json!(64)),
        ("intermediate_size", json!(96)),
        ("num_hidden_layers", json!(2)),
        ("num_attention_heads", json!(4)),
        ("num_key_value_heads", json!(2)),
        ("input_image_size", json!(64)),
        ("mm_hidden_size", json!(16)),
        ("clip_vision_config", clip),
        ("convnext_config", convnext),
    ];
    let changes = changes.map(|(key, value)| (key.to_owned(), value));
    base.with(changes.into_iter().chain(other).collect::<Vec<_>>())
        .unwrap()
}

/// A picture that depends on every argument.
pub fn picture(width: usize, height: usize, seed: usize) -> RgbImage {
    let data = (0..width * height * 3)
        .map(|i| ((i * (7 + seed) + i / (width * 3) * 13 + seed * 31) % 251) as u8)
        .collect();
    RgbImage::new(width, height, data).unwrap()
}
