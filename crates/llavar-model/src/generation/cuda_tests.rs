//! Generation on a GPU against the CPU, and against whole passes without a cache. `cargo test --release -p
//! llavar-model -- --ignored cuda` runs these where a GPU is.

use llavar_tensor::{DType, Device};

use super::{
    source_tests,
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

/// Recorded steps of one thread between the products of another: both use the workspace of all products.
#[test]
#[ignore = "needs a GPU"]
fn threads_that_share_a_device_do_not_disturb_each_other() {
    let prompts = alike_prompts(40);
    let gpu = on_gpu(&alike_variants()[1], DType::F32);
    let options = greedy(20);
    let want: Vec<Generation> = prompts.iter().map(|p| run(&gpu, p, &options)).collect();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (gpu, prompts, want, options) = (&gpu, &prompts, &want, &options);
            scope.spawn(move || {
                for round in 0..10 {
                    let what = format!("thread {thread}, round {round}");
                    same(&many(gpu, prompts, options), want, &what);
                }
            });
        }
    });
}

#[test]
#[ignore = "needs a GPU"]
fn jobs_that_come_and_go_do_not_change_each_others_answers() {
    llavar_tensor::memory::set_poison(true);
    for changes in source_tests::variants() {
        for most_joining in [1, usize::MAX] {
            let gpu = on_gpu(&changes, DType::F32);
            source_tests::come_and_go(&gpu, most_joining, &changes.to_string());
        }
    }
}

/// Log-probability of `id`, natural logarithm.
fn log_probability(logits: &[f32], id: usize) -> f64 {
    let best = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - best).exp()).sum();
    f64::from(logits[id]) - best - sum.ln()
}

/// In bf16 an id may differ from that of a whole pass where rounding decides, so the log-probabilities of
/// the chosen ids are compared: decoding is as near to f32 as whole passes in bf16 are.
#[test]
#[ignore = "needs a GPU"]
fn bf16_ids_are_as_good_as_those_of_whole_passes() {
    const LENGTH: usize = 20;
    llavar_tensor::memory::set_poison(true);
    let prompts = many_prompts(6);
    let mut worse = Vec::new();
    for changes in variants() {
        let (gpu, exact) = (on_gpu(&changes, DType::BF16), on_gpu(&changes, DType::F32));
        let one_by_one = |n: usize| -> Vec<Generation> {
            prompts.iter().map(|p| run(&gpu, p, &greedy(n))).collect()
        };
        let side_by_side = |n: usize| many(&gpu, &prompts, &greedy(n));
        type Way<'a> = (&'a str, &'a dyn Fn(usize) -> Vec<Generation>);
        let ways: [Way<'_>; 2] = [("one by one", &one_by_one), ("side by side", &side_by_side)];
        for (way, answers) in ways {
            let by_length: Vec<Vec<Generation>> = (1..=LENGTH).map(answers).collect();
            assert_eq!(by_length[LENGTH - 1], answers(LENGTH), "twice the same");
            let (mut decoded, mut whole, mut count) = (0.0, 0.0, 0.0);
            for (i, prompt) in prompts.iter().enumerate() {
                let mut ids = prompt.clone();
                let mut before = 0.0;
                for answers in &by_length {
                    let answer = &answers[i];
                    let known = ids.len() - prompt.len();
                    let Some(&id) = answer.ids.get(known) else {
                        break;
                    };
                    // A sequence that is read again ends later than the others, and fewer rows have other
                    // kernels: where rounding decides, a longer answer may part from a shorter one.
                    if answer.ids[..known]
                        .iter()
                        .zip(&ids[prompt.len()..])
                        .any(|(&a, &b)| a as i32 != b)
                    {
                        break;
                    }
                    let truth = log_probability(&plain_logits(&exact, &ids), id as usize);
                    let pass = log_probability(&plain_logits(&gpu, &ids), id as usize);
                    decoded += (answer.score - before - truth).powi(2);
                    whole += (pass - truth).powi(2);
                    count += 1.0;
                    before = answer.score;
                    ids.push(id as i32);
                }
            }
            let rms = |sum: f64| (sum / count).sqrt();
            let (decoded, whole) = (rms(decoded), rms(whole));
            let line = format!("{changes} {way}: error {decoded:.5} nats, whole passes {whole:.5}");
            println!("{line}");
            if decoded > 1e-4 + 1.5 * whole {
                worse.push(line);
            }
        }
    }
    assert!(worse.is_empty(), "{worse:#?}");
}
