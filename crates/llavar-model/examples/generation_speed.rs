//! Times reading and writing of a model of the 3.8B Phi-3 shape with random weights:
//! `cargo run --release -p llavar-model --example generation_speed -- [cuda|cpu] [layers]`.
//!
//! Prefill: 16 prompts of 660 tokens, their first ids. Decode: what further ids of 1 to 32 answers take.

use std::{ops::ControlFlow, time::Instant};

use llavar_model::{
    LlavaModel,
    config::ModelConfig,
    generation::{GenerationOptions, Prompt, generate_many},
};
use llavar_tensor::{DType, Device};

const PROMPT: usize = 660;

/// Seconds for answers of `new` ids to `count` prompts, the fastest of some runs.
fn seconds(model: &LlavaModel, count: usize, new: usize, runs: usize) -> llavar_model::Result<f64> {
    let ids: Vec<Vec<i32>> = (0..count)
        .map(|i| {
            (0..PROMPT)
                .map(|j| ((i * 7919 + j * 104_729) % 32_000) as i32)
                .collect()
        })
        .collect();
    let prompts: Vec<Prompt<'_>> = ids
        .iter()
        .map(|ids| Prompt {
            ids,
            features: None,
        })
        .collect();
    let options = GenerationOptions {
        max_new_tokens: new,
        ..Default::default()
    };
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        let answers = generate_many(model, &prompts, &options, |_, _| ControlFlow::Continue(()))?;
        best = best.min(start.elapsed().as_secs_f64());
        assert!(answers.iter().all(|answer| answer.ids.len() == new));
    }
    Ok(best)
}

fn main() -> llavar_model::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let on_gpu = arguments.next().as_deref() != Some("cpu");
    let layers: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(32);
    let config = format!(
        r#"{{"model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": {layers}, "num_attention_heads": 32, "num_key_value_heads": 32,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "sliding_window": 2047,
            "eos_token_id": 32000}}"#
    );
    let model = LlavaModel::init(ModelConfig::from_json("speed", &config)?, 1)?;
    let mut batches = vec![1];
    if on_gpu {
        let device = Device::cuda(0)?;
        for param in model.params() {
            param.to_device(&device, DType::BF16, DType::BF16)?;
        }
        batches.extend([2, 4, 8, 16, 32]);
    }
    let bytes: usize =
        model.params().iter().map(|p| p.numel()).sum::<usize>() * model.dtype().size();
    println!(
        "{layers} layers, {:.2} GB of {} weights",
        bytes as f64 / 1e9,
        model.dtype()
    );
    let (count, runs, steps) = if on_gpu { (16, 4, 128) } else { (1, 1, 8) };
    seconds(&model, count, 2, 1)?;
    let prefill = seconds(&model, count, 1, runs)?;
    let rate = (count * PROMPT) as f64 / prefill;
    println!(
        "prefill {count} x {PROMPT}: {:.1} ms, {rate:.0} tokens/s",
        prefill * 1e3
    );
    for count in batches {
        seconds(&model, count, 8, 1)?;
        let short = seconds(&model, count, 1, runs)?;
        let long = seconds(&model, count, 1 + steps, runs)?;
        let step = (long - short) / steps as f64;
        println!(
            "decode x {count}: {:.3} ms a step, {:.0} tokens/s",
            step * 1e3,
            count as f64 / step
        );
    }
    Ok(())
}
