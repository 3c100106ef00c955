//! Texts that share their beginnings give what each gives alone.
#![allow(clippy::unwrap_used)]

use llavar_model::{LlavaModel, SharedPrefixes, config::ModelConfig};
use llavar_tensor::{Segments, Tape};
use serde_json::json;

fn model(window: Option<usize>) -> LlavaModel {
    let mut config = json!({
        "model_type": "phi3", "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "original_max_position_embeddings": 64,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": vec![1.0; 4], "long_factor": vec![1.3; 4]
        }
    });
    if let Some(window) = window {
        config["sliding_window"] = window.into();
    }
    let config = ModelConfig::from_json("test", &config.to_string()).unwrap();
    LlavaModel::init(config, 3).unwrap()
}

#[test]
fn every_text_has_the_hidden_states_that_it_has_alone() {
    for window in [None, Some(9)] {
        let model = model(window);
        let language_model = &model.language_model;
        let start: Vec<i32> = (0..30).map(|i| (i * 7 + 3) % 60).collect();
        let with = |tail: &[i32]| [&start[..], tail].concat();
        let longer = with(&[5, 6, 7, 8, 9, 10, 11, 12, 13]);
        let texts = [
            with(&[1, 2, 3]),
            longer.clone(),
            start[..20].to_vec(),
            [&longer[..], &[4, 4, 2]].concat(),
            vec![9, 8, 7],
            // Beyond the original window: other rotations, so nothing is shared.
            with(&(0..50).collect::<Vec<i32>>()),
        ];
        let mut shared = SharedPrefixes::new();
        for text in &texts {
            shared.push(text, language_model.is_long(text.len()));
        }
        assert_eq!(shared.tokens(), 33 + 9 + 3 + 3 + 80);
        let tape = Tape::inference();
        let x = language_model.embed(&tape, &shared.ids(), None).unwrap();
        // All rows of all texts, one behind the other: what they share more than once.
        let rows: Vec<usize> = shared.all_rows().concat();
        let hidden = language_model.forward_shared(&x, &shared, rows.into());
        let hidden = hidden.unwrap().value().to_f32_vec().unwrap();
        let mut rest = hidden.as_slice();
        for (i, text) in texts.iter().enumerate() {
            let alone = model
                .hidden(&tape, text, &Segments::single(text.len()), None, false)
                .unwrap();
            let alone = alone.value().to_f32_vec().unwrap();
            let (together, behind) = rest.split_at(alone.len());
            rest = behind;
            let worst = alone.iter().zip(together).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0f32, f32::max);
            assert!(worst < 1e-5, "window {window:?}, text {i}: {worst}");
        }
    }
}
