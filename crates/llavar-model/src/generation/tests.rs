//! Generation on tiny random models, against plain re-computation without a cache.

use std::{ops::ControlFlow, sync::Arc};

use llavar_tensor::{Segments, Tape};
use serde_json::{Value, json};

use super::*;
use crate::config::ModelConfig;

/// A random language model with weights large enough that its answers vary.
pub(super) fn model(changes: Value) -> LlavaModel {
    let mut config = json!({
        "model_type": "phi3", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "initializer_range": 0.4, "eos_token_id": 2
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    let config = ModelConfig::from_json("test", &config.to_string()).unwrap();
    LlavaModel::init(config, 11).unwrap()
}

/// Log-probabilities of what follows `ids`, by one pass over the whole text.
pub(super) fn plain_logits(model: &LlavaModel, ids: &[i32]) -> Vec<f32> {
    let tape = Tape::inference();
    let hidden = model
        .hidden(&tape, ids, &Segments::single(ids.len()), None, false)
        .unwrap();
    let logits = model.logits(&tape, &hidden).unwrap();
    let vocab = model.config.llm.vocab_size;
    logits.value().to_f32_vec().unwrap()[(ids.len() - 1) * vocab..].to_vec()
}

fn plain_greedy(model: &LlavaModel, prompt: &[i32], n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        ids.push(sampling::argmax(&plain_logits(model, &ids)) as i32);
    }
    ids[prompt.len()..].iter().map(|id| *id as u32).collect()
}

pub(super) fn run(model: &LlavaModel, prompt: &[i32], options: &GenerationOptions) -> Generation {
    generate(model, prompt, None, options, |_| ControlFlow::Continue(())).unwrap()
}

pub(super) fn greedy(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions {
        max_new_tokens,
        ..Default::default()
    }
}

pub(super) const PROMPT: [i32; 4] = [5, 9, 31, 17];

#[test]
fn the_cache_changes_nothing_in_any_family() {
    let longrope = json!({
        "original_max_position_embeddings": 12,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                         "long_factor": [1.0, 3.0, 6.0, 9.0]}
    });
    let llama3 = json!({
        "model_type": "llama", "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    });
    let variants = [
        json!({}),
        json!({"sliding_window": 5}),
        longrope,
        llama3,
        json!({"model_type": "llama", "tie_word_embeddings": true}),
    ];
    for changes in variants {
        let model = model(changes.clone());
        // With longrope the answer crosses the original window of 12 tokens.
        let want = plain_greedy(&model, &PROMPT, 24);
        let got = run(&model, &PROMPT, &greedy(24));
        assert_eq!(got.ids, want, "{changes}");
        assert_eq!(
            (got.stop_reason, got.prompt_tokens),
            (StopReason::MaxNewTokens, 4)
        );
        let different = want.iter().collect::<std::collections::HashSet<_>>().len();
        assert!(different > 2, "a constant answer shows nothing: {want:?}");
    }
}

#[test]
fn short_and_long_texts_side_by_side_keep_their_own_factors() {
    let model = model(json!({
        "original_max_position_embeddings": 12,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                         "long_factor": [1.0, 3.0, 6.0, 9.0]}
    }));
    let texts: [Vec<i32>; 3] = [(0..7).collect(), (3..23).collect(), (8..20).collect()];
    let packed: Vec<i32> = texts.concat();
    let segments = Segments::from_lengths(texts.iter().map(Vec::len));
    let tape = Tape::inference();
    let together = model
        .hidden(&tape, &packed, &segments, None, false)
        .unwrap();
    let together = together.value().data::<f32>().unwrap();
    for (text, range) in texts.iter().zip(segments.ranges()) {
        let alone = model
            .hidden(&tape, text, &Segments::single(text.len()), None, false)
            .unwrap();
        let part = &together[range.start * 32..range.end * 32];
        for (a, b) in part.iter().zip(alone.value().data::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
}

/// Beam search written down without cache, by whole passes.
fn plain_beams(
    model: &LlavaModel,
    width: usize,
    stops: &[u32],
    max_new: usize,
    penalty: f64,
) -> Vec<u32> {
    let log_probs = |ids: &[u32]| -> Vec<f64> {
        let all: Vec<i32> = PROMPT
            .iter()
            .copied()
            .chain(ids.iter().map(|id| *id as i32))
            .collect();
        let mut logits = plain_logits(model, &all);
        sampling::log_softmax(&mut logits, None);
        logits.into_iter().map(f64::from).collect()
    };
    let mut beams: Vec<(Vec<u32>, f64)> = vec![(Vec::new(), 0.0)];
    let mut finished: Vec<(Vec<u32>, f64)> = Vec::new();
    let mut done = false;
    for length in 1..=max_new {
        let mut all: Vec<(Vec<u32>, f64)> = Vec::new();
        for (ids, sum) in &beams {
            for (id, p) in log_probs(ids).iter().enumerate() {
                all.push(([ids.as_slice(), &[id as u32]].concat(), sum + p));
            }
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate((1 + stops.len()).max(2) * width);
        beams.clear();
        for (rank, (ids, sum)) in all.iter().enumerate() {
            if ids.last().is_some_and(|id| stops.contains(id)) {
                if rank < width {
                    let text = ids[..ids.len() - 1].to_vec();
                    finished.push((text, sum / (length as f64).powf(penalty)));
                }
            } else if beams.len() < width {
                beams.push((ids.clone(), *sum));
            }
        }
        finished.sort_by(|a, b| b.1.total_cmp(&a.1));
        finished.truncate(width);
        if finished.len() == width
            && finished[width - 1].1 >= all[0].1 / (length as f64).powf(penalty)
        {
            done = true;
            break;
        }
    }
    if !done {
        for (ids, sum) in beams {
            let score = sum / (ids.len() as f64).powf(penalty);
            finished.push((ids, score));
        }
        finished.sort_by(|a, b| b.1.total_cmp(&a.1));
    }
    finished.swap_remove(0).0
}

#[test]
fn beams_agree_with_a_search_by_whole_passes() {
    let mut ended = 0;
    for (range, penalty) in [(0.1, 1.0), (0.15, 0.0), (0.2, 0.4), (0.2, 2.0)] {
        let model = model(json!({ "initializer_range": range }));
        for width in [2, 3, 5] {
            for stops in [vec![7], vec![28], vec![4, 10, 13, 15, 23, 28]] {
                let want = plain_beams(&model, width, &stops, 10, penalty);
                let options = GenerationOptions {
                    num_beams: width,
                    stop_ids: stops.clone(),
                    length_penalty: penalty as f32,
                    ..greedy(10)
                };
                let got = run(&model, &PROMPT, &options);
                assert_eq!(got.ids, want, "range {range} width {width} stop {stops:?}");
                ended += usize::from(matches!(got.stop_reason, StopReason::StopId(_)));
            }
        }
    }
    assert!(ended > 3, "some answers end before the limit: {ended}");
}

#[test]
fn beams_cross_the_original_window() {
    let model = model(json!({
        "initializer_range": 0.2, "original_max_position_embeddings": 8,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                         "long_factor": [1.0, 3.0, 6.0, 9.0]}
    }));
    let options = GenerationOptions {
        num_beams: 3,
        stop_ids: vec![2],
        ..greedy(10)
    };
    assert_eq!(
        run(&model, &PROMPT, &options).ids,
        plain_beams(&model, 3, &[2], 10, 1.0)
    );
}

#[test]
fn answers_end_where_they_are_told_to() {
    let model = model(json!({}));
    let whole = plain_greedy(&model, &PROMPT, 60);
    let stop = whole[5];
    let first = whole.iter().position(|id| *id == stop).unwrap();
    let got = run(
        &model,
        &PROMPT,
        &GenerationOptions {
            stop_ids: vec![stop],
            ..greedy(24)
        },
    );
    assert_eq!(
        (got.ids.as_slice(), got.stop_reason),
        (&whole[..first], StopReason::StopId(stop))
    );

    let text = |ids: &[u32]| ids.iter().map(|id| format!("<{id}>")).collect::<String>();
    let wanted = text(&whole[3..5]);
    let options = GenerationOptions {
        stop_strings: vec!["never".to_owned(), wanted.clone()],
        decode: Some(Arc::new(text)),
        ..greedy(24)
    };
    let got = run(&model, &PROMPT, &options);
    assert_eq!(
        (got.ids.as_slice(), got.stop_reason),
        (&whole[..5], StopReason::StopString(wanted))
    );

    let mut left = 3;
    let got = generate(&model, &PROMPT, None, &greedy(24), |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .unwrap();
    assert_eq!(
        (got.ids.as_slice(), got.stop_reason),
        (&whole[..3], StopReason::Callback)
    );

    // The context of 64 tokens has room for 60.
    let got = run(&model, &PROMPT, &greedy(1000));
    assert_eq!(
        (got.ids.as_slice(), got.stop_reason),
        (whole.as_slice(), StopReason::ContextFull)
    );
    assert!(run(&model, &PROMPT, &greedy(0)).ids.is_empty());
}

#[test]
fn masked_ids_never_come_and_a_seed_is_an_answer() {
    let model = model(json!({}));
    let sampled = |seed, limit| {
        let options = GenerationOptions {
            temperature: 2.0,
            seed,
            vocab_limit: Some(limit),
            ..greedy(40)
        };
        run(&model, &PROMPT, &options).ids
    };
    assert!(sampled(1, 10).iter().all(|id| *id < 10));
    assert_eq!(sampled(1, 40), sampled(1, 40));
    assert_ne!(sampled(1, 40), sampled(2, 40));
    for num_beams in [1, 4] {
        let options = GenerationOptions {
            num_beams,
            vocab_limit: Some(3),
            ..greedy(20)
        };
        assert!(run(&model, &PROMPT, &options).ids.iter().all(|id| *id < 3));
    }
}

#[test]
fn impossible_requests_are_named() {
    let model = model(json!({}));
    let fails = |prompt: &[i32], options: &GenerationOptions| {
        generate(&model, prompt, None, options, |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
    };
    assert!(fails(&[], &greedy(4)).contains("empty"));
    let long = vec![1; 64];
    assert!(fails(&long, &greedy(4)).contains("64 tokens (pictures included)"));
    assert!(fails(&[1, -200], &greedy(4)).contains("1 image positions"));
    assert!(fails(&[1, 40], &greedy(4)).contains("index 40"));
    let hot_beams = GenerationOptions {
        num_beams: 2,
        temperature: 1.0,
        ..greedy(4)
    };
    assert!(fails(&[1], &hot_beams).contains("num_beams = 2"));
    let undecoded = GenerationOptions {
        stop_strings: vec!["x".to_owned()],
        ..greedy(4)
    };
    assert!(fails(&[1], &undecoded).contains("stop_strings"));
}

/// Prompts of different lengths, more than fit side by side.
pub(super) fn many_prompts(count: usize) -> Vec<Vec<i32>> {
    (0..count as i32)
        .map(|i| (0..2 + i % 7).map(|j| (i * 13 + j * 7) % 40).collect())
        .collect()
}

/// Prompts that begin as others do, in mixed order: 90 or 70 tokens of three beginnings, then a few own.
pub(super) fn alike_prompts(count: usize) -> Vec<Vec<i32>> {
    (0..count)
        .map(|i| {
            let (kind, own) = (i * 7 % 3, 1 + i % 5);
            let begin = (0..90 - 10 * kind).map(|j| (j * 5 + kind * j * j) as i32 % 40);
            begin
                .chain((0..own).map(|j| (i * 3 + j * 11) as i32 % 40))
                .collect()
        })
        .collect()
}

/// Models for [`alike_prompts`]: some of the texts, or all of an answer, lie beyond a window.
pub(super) fn alike_variants() -> Vec<Value> {
    let longrope = json!({
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 96,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                         "long_factor": [1.0, 3.0, 6.0, 9.0]}
    });
    vec![
        json!({"max_position_embeddings": 256}),
        json!({"max_position_embeddings": 256, "sliding_window": 20}),
        longrope,
        json!({"model_type": "llama", "max_position_embeddings": 256, "num_key_value_heads": 1}),
    ]
}

pub(super) fn many(
    model: &LlavaModel,
    prompts: &[Vec<i32>],
    options: &GenerationOptions,
) -> Vec<Generation> {
    let prompts: Vec<Prompt<'_>> = prompts
        .iter()
        .map(|ids| Prompt {
            ids,
            features: None,
        })
        .collect();
    generate_many(model, &prompts, options, |_, _| ControlFlow::Continue(())).unwrap()
}

pub(super) fn same(got: &[Generation], want: &[Generation], what: &str) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.ids, want.ids, "{what}");
        assert_eq!(got.stop_reason, want.stop_reason, "{what}");
        assert_eq!(got.prompt_tokens, want.prompt_tokens, "{what}");
        assert!((got.score - want.score).abs() < 1e-3, "{what}");
    }
}

#[test]
fn beginnings_that_are_taken_over_change_no_answer() {
    let prompts = alike_prompts(40);
    for changes in alike_variants() {
        let model = model(changes.clone());
        let stopped = GenerationOptions {
            stop_ids: vec![3, 11, 19, 26, 33],
            ..greedy(20)
        };
        let beams = GenerationOptions {
            num_beams: 3,
            ..greedy(4)
        };
        for (options, count) in [(&greedy(10), 40), (&stopped, 40), (&beams, 3)] {
            let prompts = &prompts[..count];
            let want: Vec<Generation> = prompts.iter().map(|p| run(&model, p, options)).collect();
            same(&many(&model, prompts, options), &want, &changes.to_string());
        }
    }
}

#[test]
fn many_answers_are_those_of_one_by_one() {
    let longrope = json!({
        "original_max_position_embeddings": 12,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                         "long_factor": [1.0, 3.0, 6.0, 9.0]}
    });
    let prompts = many_prompts(21);
    let sampled = GenerationOptions {
        temperature: 1.5,
        seed: 3,
        ..greedy(12)
    };
    let penalised = GenerationOptions {
        repetition_penalty: 1.4,
        vocab_limit: Some(30),
        ..greedy(12)
    };
    let stopped = GenerationOptions {
        stop_ids: vec![3, 11, 19, 26, 33],
        ..greedy(17)
    };
    let beams = GenerationOptions {
        num_beams: 2,
        ..greedy(4)
    };
    for changes in [
        json!({}),
        longrope,
        json!({"model_type": "llama", "sliding_window": null}),
    ] {
        let model = model(changes.clone());
        let mut early = 0;
        for options in [
            &greedy(15),
            &sampled,
            &penalised,
            &stopped,
            &beams,
            &greedy(0),
        ] {
            let want: Vec<Generation> = prompts.iter().map(|p| run(&model, p, options)).collect();
            let got = many(&model, &prompts, options);
            same(&got, &want, &format!("{changes} {options:?}"));
            let ended = |g: &&Generation| matches!(g.stop_reason, StopReason::StopId(_));
            early += got.iter().filter(ended).count();
        }
        assert!(early > 3, "some answers end before others: {early}");
    }
}

#[test]
fn callbacks_know_their_prompt() {
    let model = model(json!({}));
    let prompts = many_prompts(11);
    let asked: Vec<Prompt<'_>> = prompts
        .iter()
        .map(|ids| Prompt {
            ids,
            features: None,
        })
        .collect();
    let mut seen = vec![Vec::new(); prompts.len()];
    let answers = generate_many(&model, &asked, &greedy(9), |i, id| {
        seen[i].push(id);
        match seen[i].len() > i {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
    .unwrap();
    for (i, (answer, seen)) in answers.iter().zip(&seen).enumerate() {
        assert_eq!(&answer.ids, seen);
        assert_eq!(answer.ids.len(), (i + 1).min(9));
        assert_eq!(answer.stop_reason == StopReason::Callback, i < 9);
    }
    let none = generate_many(&model, &[], &greedy(4), |_, _| ControlFlow::Continue(()));
    assert!(none.unwrap().is_empty());
    let bad = [
        asked[0],
        Prompt {
            ids: &[],
            features: None,
        },
    ];
    let error = generate_many(&model, &bad, &greedy(4), |_, _| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().contains("empty"));
}
