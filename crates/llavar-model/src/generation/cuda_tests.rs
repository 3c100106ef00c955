//! Generation on a GPU against the CPU, and against whole passes without a cache. `cargo test --release -p
//! llavar-model -- --ignored cuda` runs these where a GPU is.

use llavar_tensor::{DType, Device};

use super::{
    tests::{
        PROMPT, alike_prompts, alike_variants, greedy, many, many_prompts, model, plain_logits,
        run, same,
    },
    *,
};
use serde_json::{Value, json};

/// The three families, with every way of attention and rotation that they have.
fn variants() -> Vec<Value> {
    let longrope = |window: usize| {
        json!({
            "original_max_position_embeddings": window,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                             "long_factor": [1.0, 3.0, 6.0, 9.0]}
        })
    };
    vec![
        json!({}),
        json!({"sliding_window": 5}),
        longrope(12),
        longrope(4),
        json!({
            "model_type": "llama", "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
        }),
        json!({"model_type": "llama", "tie_word_embeddings": true, "num_key_value_heads": 1}),
        // Heads that the decoding kernels do not take: the pass over one token of each sequence.
        json!({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4,
               "rope_scaling": null}),
    ]
}

fn on_gpu(changes: &Value, dtype: DType) -> LlavaModel {
    let model = model(changes.clone());
    let device = Device::cuda(0).unwrap();
    for param in model.params() {
        param.to_device(&device, dtype, DType::F32).unwrap();
    }
    model
}

#[test]
#[ignore = "needs a GPU"]
fn greedy_answers_are_those_of_the_cpu() {
    llavar_tensor::memory::set_poison(true);
    for changes in variants() {
        let (cpu, gpu) = (model(changes.clone()), on_gpu(&changes, DType::F32));
        let limited = GenerationOptions {
            vocab_limit: Some(33),
            ..greedy(24)
        };
        for options in [&greedy(40), &limited, &greedy(1)] {
            let want = [run(&cpu, &PROMPT, options)];
            let got = [run(&gpu, &PROMPT, options)];
            same(&got, &want, &changes.to_string());
        }
        // Stop ids and callbacks end an answer where they should although a step more is under way.
        let whole = run(&cpu, &PROMPT, &greedy(24)).ids;
        let stopped = GenerationOptions {
            stop_ids: vec![whole[5]],
            ..greedy(24)
        };
        let (got, want) = (run(&gpu, &PROMPT, &stopped), run(&cpu, &PROMPT, &stopped));
        same(&[got], &[want], &changes.to_string());
        let mut left = 7;
        let cut = generate(&gpu, &PROMPT, None, &greedy(24), |_| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert_eq!(cut.unwrap().ids, whole[..7]);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn other_ways_to_choose_are_those_of_the_cpu() {
    let sampled = GenerationOptions {
        temperature: 0.7,
        top_p: Some(0.9),
        seed: 3,
        ..greedy(12)
    };
    let penalised = GenerationOptions {
        repetition_penalty: 1.4,
        ..greedy(20)
    };
    let beams = GenerationOptions {
        num_beams: 3,
        stop_ids: vec![2],
        ..greedy(10)
    };
    for changes in variants() {
        let (cpu, gpu) = (model(changes.clone()), on_gpu(&changes, DType::F32));
        for options in [&sampled, &penalised, &beams] {
            let want = [run(&cpu, &PROMPT, options)];
            let got = [run(&gpu, &PROMPT, options)];
            same(&got, &want, &format!("{changes} {options:?}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn many_answers_are_those_of_one_by_one() {
    let prompts = many_prompts(45);
    for changes in variants() {
        let gpu = on_gpu(&changes, DType::F32);
        let stopped = GenerationOptions {
            stop_ids: vec![3, 11, 19, 26, 33],
            ..greedy(20)
        };
        for options in [&greedy(15), &stopped] {
            let want: Vec<Generation> = prompts.iter().map(|p| run(&gpu, p, options)).collect();
            let what = changes.to_string();
            same(&many(&gpu, &prompts, options), &want, &what);
            same(&many(&gpu, &prompts[..3], options), &want[..3], &what);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn beginnings_that_are_taken_over_change_no_answer() {
    llavar_tensor::memory::set_poison(true);
    let prompts = alike_prompts(80);
    for changes in alike_variants() {
        let gpu = on_gpu(&changes, DType::F32);
        let stopped = GenerationOptions {
            stop_ids: vec![3, 11, 19, 26, 33],
            ..greedy(20)
        };
        for options in [&greedy(10), &stopped] {
            let want: Vec<Generation> = prompts.iter().map(|p| run(&gpu, p, options)).collect();
            same(&many(&gpu, &prompts, options), &want, &changes.to_string());
        }
    }
}

/// How far the logit of `id` is below the best, as a share of all logits' range.
fn below(logits: &[f32], id: usize) -> f32 {
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    let worst = logits.iter().copied().fold(f32::MAX, f32::min);
    (best - logits[id]) / (best - worst)
}

/// In bf16 an id may differ from that of a whole pass only where rounding decides: seen from the logits in
/// f32 the choices of decoding are as good as those of whole passes in bf16.
#[test]
#[ignore = "needs a GPU"]
fn bf16_ids_are_as_good_as_those_of_whole_passes() {
    llavar_tensor::memory::set_poison(true);
    let prompts = many_prompts(6);
    for changes in variants() {
        let (gpu, exact) = (on_gpu(&changes, DType::BF16), on_gpu(&changes, DType::F32));
        let one_by_one: Vec<Generation> =
            prompts.iter().map(|p| run(&gpu, p, &greedy(20))).collect();
        let side_by_side = many(&gpu, &prompts, &greedy(20));
        assert_eq!(
            one_by_one[0],
            run(&gpu, &prompts[0], &greedy(20)),
            "twice the same"
        );
        for (way, answers) in [("one by one", one_by_one), ("side by side", side_by_side)] {
            // Which ids rounding decides is a matter of chance, so sums are compared, not the worst of them.
            let (mut decoded, mut whole, mut count) = (0f32, 0f32, 0);
            for (prompt, answer) in prompts.iter().zip(answers) {
                let mut ids = prompt.clone();
                for id in answer.ids {
                    let truth = plain_logits(&exact, &ids);
                    let pass = plain_logits(&gpu, &ids);
                    let choice = (0..pass.len()).max_by(|&a, &b| pass[a].total_cmp(&pass[b]));
                    let shortfall = below(&truth, id as usize);
                    assert!(
                        shortfall < 0.1,
                        "{changes} {way}: {shortfall} below the best"
                    );
                    decoded += shortfall;
                    whole += below(&truth, choice.unwrap());
                    count += 1;
                    ids.push(id as i32);
                }
            }
            let (decoded, whole) = (decoded / count as f32, whole / count as f32);
            println!("{changes} {way}: {decoded} below the best on average, whole passes {whole}");
            assert!(
                decoded <= 0.002 + 2.0 * whole,
                "{changes} {way}: {decoded} below the best on average, whole passes {whole}"
            );
        }
    }
}
