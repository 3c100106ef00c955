//! The last layer on the rows alone whose outputs a loss reads, against all rows.

// The permission for tests does not reach the helpers beside them.
#![allow(clippy::unwrap_used)]

use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_tensor::{Segments, Tape, ops::TokenLoss};
use serde_json::{Value, json};

const VOCAB: usize = 50;

fn model(changes: Value) -> LlavaModel {
    let mut config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512
    });
    let all = config.as_object_mut().unwrap();
    all.extend(changes.as_object().unwrap().clone());
    let config = ModelConfig::from_json("test", &config.to_string()).unwrap();
    let model = LlavaModel::init(config, 5).unwrap();
    let params = model.params();
    params.iter().for_each(|p| p.set_requires_grad(true));
    model
}

/// The loss, that of every row, and the gradient of every weight.
type Outcome = (f32, Vec<f32>, Vec<(String, Vec<f32>)>);

fn outcome(model: &LlavaModel, run: impl FnOnce(&Tape) -> TokenLoss) -> Outcome {
    let params = model.params();
    params.iter().for_each(|p| p.zero_grad());
    let tape = Tape::training();
    let loss = run(&tape);
    let rows = loss.per_token.to_f32_vec().unwrap();
    let sum = loss.sum.value().item().unwrap();
    tape.backward(&loss.sum, 1.0 / loss.count as f32).unwrap();
    let gradient = |p: &llavar_tensor::Param| {
        let gradient = p.grad().map(|g| g.to_f32_vec().unwrap());
        (p.name().to_owned(), gradient.unwrap_or_default())
    };
    (sum, rows, params.iter().map(gradient).collect())
}

fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f32| f64::from(x).powi(2);
    let off: f64 = got.iter().zip(want).map(|(a, b)| square(a - b)).sum();
    let all: f64 = want.iter().map(|x| square(*x)).sum();
    (off / all.max(1e-30)).sqrt()
}

#[test]
fn loss_and_gradients_are_those_of_all_rows() {
    let families = [
        json!({ "num_key_value_heads": 2 }),
        json!({ "tie_word_embeddings": true, "num_hidden_layers": 1 }),
        json!({ "model_type": "phi3", "sliding_window": 7, "original_max_position_embeddings": 512,
                "pad_token_id": 0 }),
    ];
    let lengths = [53, 1, 100, 26];
    let segments = Segments::from_lengths(lengths);
    let total = segments.total();
    let ids: Vec<i32> = (0..total).map(|t| (t * 11 % VOCAB) as i32).collect();
    // Two turns in one sample, none in another, and labels at the beginning, which nobody predicts. So few are read
    // with some of the others.
    let supervised = |t: usize| matches!(t, 0 | 5 | 6 | 51 | 52 | 54 | 130..=133 | 170);
    let labels: Vec<i32> = ids
        .iter()
        .enumerate()
        .map(|(t, id)| if supervised(t) { *id } else { -100 })
        .collect();
    for family in families {
        let model = model(family.clone());
        let read = |checkpoint: bool| {
            outcome(&model, |tape| {
                let loss = model.loss(tape, &ids, &labels, &segments, None, checkpoint);
                loss.unwrap()
            })
        };
        let (sum, rows, gradients) = read(false);
        let (want_sum, want_rows, want_gradients) = outcome(&model, |tape| {
            let hidden = model.hidden(tape, &ids, &segments, None, false).unwrap();
            let language_model = &model.language_model;
            let loss = language_model.loss(tape, &hidden, &labels, &segments);
            loss.unwrap()
        });
        assert!((sum / want_sum - 1.0).abs() < 1e-6, "{family}");
        assert_eq!(rows.len(), total);
        assert!(distance(&rows, &want_rows) < 1e-6, "{family}");
        assert_eq!(rows.iter().filter(|loss| **loss != 0.0).count(), 9);
        for ((name, got), (_, want)) in gradients.iter().zip(&want_gradients) {
            assert!(want.iter().any(|x| *x != 0.0), "{name} of {family}");
            let off = distance(got, want);
            assert!(off < 1e-5, "{name} of {family} is off by {off:e}");
        }
        assert_eq!(read(true), (sum, rows, gradients), "{family}");
    }
}
