//! Peak memory of a training step through checkpointed decoder layers, against an analytic budget.
//!
//! Alone in its file, because the byte counts are those of the whole process.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_tensor::{Segments, Tape, memory};

const TOKENS: usize = 1024;
const WIDTH: usize = 128;
const FFN: usize = 384;
const VOCAB: usize = 64;
const HEADS: usize = 4;

/// Bytes at the peak of one forward and backward pass beyond what the model, with its gradients, holds.
fn step_peak(layers: usize, checkpoint: bool) -> usize {
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": FFN,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "max_position_embeddings": TOKENS
    });
    let config = ModelConfig::from_json("test", &config.to_string()).unwrap();
    let model = LlavaModel::init(config, 1).unwrap();
    model
        .params()
        .iter()
        .for_each(|p| p.set_requires_grad(true));
    let ids: Vec<i32> = (0..TOKENS).map(|t| (t * 7 % VOCAB) as i32).collect();
    let segments = Segments::from_lengths([TOKENS / 2; 2]);
    let mut peak = 0;
    // The second pass finds the gradient buffers in place.
    for _ in 0..2 {
        model.params().iter().for_each(|p| p.zero_grad());
        let before = memory::stats().in_use;
        memory::reset_peak();
        let tape = Tape::training();
        let loss = model
            .loss(&tape, &ids, &ids, &segments, None, checkpoint)
            .unwrap();
        tape.backward(&loss.sum, 1.0 / loss.count as f32).unwrap();
        peak = memory::stats().peak - before;
    }
    peak
}

#[test]
fn a_checkpointed_stack_keeps_three_rows_a_layer() {
    let (row, ffn) = (TOKENS * WIDTH * 4, TOKENS * FFN * 4);
    // Between the halves of layers: the residual stream, twice a layer and around the final norm. Of each layer the
    // attention's output and log-sum-exps, which are not computed again.
    let kept = row + TOKENS * HEADS * 4;
    let stream = |layers: usize| (2 * layers + 3) * row + layers * kept;
    // Inside one layer, at the backward pass of its MLP: the normed input, gradients of the output and of the
    // input; gate, up, their gradients and the product's.
    let layer = 3 * row + 5 * ffn;
    // Small change: the gathered rows and logits of one chunk, weight gradients of norms.
    let rest = row / 2;
    for layers in [4, 16] {
        let budget = stream(layers) + layer + rest;
        let peak = step_peak(layers, true);
        println!(
            "{layers} layers: {:.2} MB of {:.2} MB",
            peak as f64 / 1e6,
            budget as f64 / 1e6
        );
        assert!(
            peak <= budget,
            "{layers} layers: {peak} bytes above {budget}"
        );
        // The budget is not idle: what is kept between the layers alone is most of a deep stack.
        assert!(
            peak >= 3 * layers * row,
            "{layers} layers: {peak} bytes are too few to be all"
        );
    }
    // Twelve more layers cost three more rows and log-sum-exps each and nothing else.
    let growth = step_peak(16, true) - step_peak(4, true);
    assert!(
        growth <= 12 * (2 * row + kept) * 33 / 32 + row,
        "{growth} bytes for 12 layers"
    );
    // Without checkpoints all activations are kept.
    let (with, without) = (step_peak(16, true), step_peak(16, false));
    println!(
        "16 layers: {:.2} MB, without checkpoints {:.2} MB",
        with as f64 / 1e6,
        without as f64 / 1e6
    );
    assert!(
        without > 3 * with,
        "{without} bytes without, {with} with checkpoints"
    );
}
