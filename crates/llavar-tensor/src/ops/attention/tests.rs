//! Tests against a plain loop in f64.

use super::*;
use crate::ops::testing::{Rng, check_gradients, close};

/// `softmax(scale q k^T + mask) v` by its definition.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Vec<f32> {
    let (heads, dim, kv_heads) = (q.shape()[1], q.shape()[2], k.shape()[1]);
    let (q, k, v) = (
        q.to_f32_vec().unwrap(),
        k.to_f32_vec().unwrap(),
        v.to_f32_vec().unwrap(),
    );
    let mut out = vec![0.0; q.len()];
    for (qs, ks) in spec.q_segments.ranges().zip(spec.k_segments.ranges()) {
        for i in 0..qs.len() {
            let position = (ks.len() + i) as i64 - qs.len() as i64;
            let seen: Vec<usize> = (0..ks.len())
                .filter(|j| {
                    let j = *j as i64;
                    let in_window = spec.window.is_none_or(|w| j >= position - w as i64);
                    !spec.causal || (j <= position && in_window)
                })
                .collect();
            for h in 0..heads {
                let q_at = ((qs.start + i) * heads + h) * dim;
                let k_at = |j: usize| ((ks.start + j) * kv_heads + h / (heads / kv_heads)) * dim;
                let weights: Vec<f64> = seen
                    .iter()
                    .map(|j| {
                        let dot: f64 = (0..dim)
                            .map(|d| f64::from(q[q_at + d]) * f64::from(k[k_at(*j) + d]))
                            .sum();
                        (dot * f64::from(spec.scale)).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let y: f64 = seen
                        .iter()
                        .zip(&weights)
                        .map(|(j, w)| w / total * f64::from(v[k_at(*j) + d]))
                        .sum();
                    out[q_at + d] = y as f32;
                }
            }
        }
    }
    out
}

/// Random lengths (0 included) and masks. `single` makes every query segment at most one long.
fn random_case(rng: &mut Rng, longest: usize, single: bool) -> ([Tensor; 3], AttentionSpec) {
    let segments = rng.size(1, 4);
    let lengths = |rng: &mut Rng, longest: usize| {
        Segments::from_lengths(
            (0..segments)
                .map(|_| rng.size(0, longest))
                .collect::<Vec<_>>(),
        )
    };
    let q_segments = lengths(rng, if single { 1 } else { longest });
    let k_segments = match rng.size(0, 2) {
        0 if !single => q_segments.clone(),
        _ => lengths(rng, longest),
    };
    let (kv_heads, group, dim) = (rng.size(1, 3), rng.size(1, 3), rng.size(1, 40));
    let causal = rng.size(0, 2) > 0;
    let window = (causal && rng.size(0, 1) == 1).then(|| rng.size(0, longest));
    let q = rng.tensor(&[q_segments.total(), kv_heads * group, dim]);
    let k = rng.tensor(&[k_segments.total(), kv_heads, dim]);
    let v = rng.tensor(&[k_segments.total(), kv_heads, dim]);
    let spec = AttentionSpec {
        q_segments,
        k_segments,
        causal,
        window,
        scale: 0.7,
    };
    ([q, k, v], spec)
}

fn vars(tensors: &[Tensor; 3]) -> [Var; 3] {
    tensors.clone().map(Var::constant)
}

#[test]
fn forward_agrees_with_a_plain_loop() {
    let mut rng = Rng::new(51);
    for case in 0..60 {
        let longest = if case % 4 == 0 { 400 } else { 40 };
        let (tensors, spec) = random_case(&mut rng, longest, case % 3 == 0);
        let [q, k, v] = vars(&tensors);
        let got = Tape::inference().attention(&q, &k, &v, &spec).unwrap();
        let want = plain(&tensors[0], &tensors[1], &tensors[2], &spec);
        close(
            got.value().data().unwrap(),
            &want,
            2e-6,
            &format!("case {case}: {spec:?}"),
        );
    }
}

#[test]
fn huge_scores_neither_overflow_nor_vanish() {
    let mut rng = Rng::new(52);
    for n in [1, 200] {
        let spec = AttentionSpec {
            scale: 300.0,
            ..AttentionSpec::within(Segments::single(n), true, 8)
        };
        let x = Var::constant(rng.tensor(&[n, 2, 8]));
        let y = Tape::inference().attention(&x, &x, &x, &spec).unwrap();
        assert!(
            y.value()
                .to_f32_vec()
                .unwrap()
                .iter()
                .all(|y| y.abs() <= 1.0)
        );
    }
}

#[test]
fn decoding_step_by_step_equals_the_full_pass() {
    let mut rng = Rng::new(53);
    let (n, heads, kv_heads, dim) = (70, 4, 2, 16);
    for window in [None, Some(9)] {
        let spec = AttentionSpec {
            window,
            ..AttentionSpec::within(Segments::single(n), true, dim)
        };
        let q = rng.tensor(&[n, heads, dim]);
        let (k, v) = (
            rng.tensor(&[n, kv_heads, dim]),
            rng.tensor(&[n, kv_heads, dim]),
        );
        let tape = Tape::inference();
        let [qv, kv, vv] = vars(&[q.clone(), k.clone(), v.clone()]);
        let full = tape.attention(&qv, &kv, &vv, &spec).unwrap();
        for i in 0..n {
            let step = AttentionSpec {
                q_segments: Segments::single(1),
                k_segments: Segments::single(i + 1),
                ..spec.clone()
            };
            let part = |x: &Tensor, from, len| Var::constant(x.narrow(from, len).unwrap());
            let y = tape
                .attention(
                    &part(&q, i, 1),
                    &part(&k, 0, i + 1),
                    &part(&v, 0, i + 1),
                    &step,
                )
                .unwrap();
            let want = full.value().narrow(i, 1).unwrap();
            close(
                y.value().data().unwrap(),
                want.data().unwrap(),
                1e-5,
                "decoding step",
            );
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut rng = Rng::new(54);
    for case in 0..24 {
        let longest = if case % 6 == 0 { 200 } else { 12 };
        let (tensors, spec) = random_case(&mut rng, longest, case % 4 == 3);
        if tensors.iter().any(|t| t.numel() == 0) {
            continue;
        }
        check_gradients(&tensors, &[], |tape, x| {
            tape.attention(&x[0], &x[1], &x[2], &spec)
        });
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut rng = Rng::new(55);
    let spec = AttentionSpec::within(Segments::from_lengths([150, 0, 90]), true, 24);
    let tensors = [
        rng.tensor(&[240, 6, 24]),
        rng.tensor(&[240, 2, 24]),
        rng.tensor(&[240, 2, 24]),
    ];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let tape = Tape::training();
            let [q, k, v] = tensors.clone().map(|t| tape.leaf(t));
            let y = tape.attention(&q, &k, &v, &spec).unwrap();
            let seed = y.value().clone();
            let mut all = vec![y.value().to_f32_vec().unwrap()];
            let grads = tape.backward_from(vec![(y, seed)], &[&q, &k, &v]).unwrap();
            all.extend(grads.into_iter().map(|g| g.unwrap().to_f32_vec().unwrap()));
            all
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert!(
            one == run(threads),
            "{threads} threads give other bits than one"
        );
    }
}

#[test]
fn bad_arguments_are_errors() {
    let tape = Tape::inference();
    let zeros = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
    let good = AttentionSpec::within(Segments::single(4), false, 8);
    let x = zeros(&[4, 2, 8]);
    assert!(tape.attention(&x, &x, &x, &good).is_ok());
    for (q, k, v) in [
        (zeros(&[4, 16]), x.clone(), x.clone()),
        (x.clone(), zeros(&[4, 2, 7]), x.clone()),
        (x.clone(), x.clone(), zeros(&[3, 2, 8])),
        (zeros(&[4, 3, 8]), x.clone(), x.clone()),
        (zeros(&[5, 2, 8]), x.clone(), x.clone()),
        (x.clone(), zeros(&[4, 0, 8]), zeros(&[4, 0, 8])),
    ] {
        assert!(
            tape.attention(&q, &k, &v, &good).is_err(),
            "{:?} {:?}",
            q.shape(),
            k.shape()
        );
    }
    let windowed = AttentionSpec {
        window: Some(2),
        ..good.clone()
    };
    assert!(tape.attention(&x, &x, &x, &windowed).is_err());
    let uneven = AttentionSpec {
        k_segments: Segments::from_lengths([2, 2]),
        ..good
    };
    assert!(tape.attention(&x, &x, &x, &uneven).is_err());
}

/// The runs that kernels without mask arithmetic take are the mask itself.
#[test]
fn runs_of_keys_and_queries_are_the_mask() {
    let mut rng = Rng::new(77);
    for _ in 0..200 {
        let (_, spec) = random_case(&mut rng, 12, false);
        let problem = Problem::of(&spec, 1, 1, 1);
        let (seen, by) = (problem.seen_keys(), problem.seeing_queries());
        assert_eq!(
            (seen.len(), by.len()),
            (2 * problem.queries(), 2 * problem.keys())
        );
        for t in 0..problem.queries() {
            for s in 0..problem.keys() {
                let inside = |run: &[i32], i: usize, x: usize| {
                    (run[2 * i]..run[2 * i + 1]).contains(&(x as i32))
                };
                assert_eq!(inside(&seen, t, s), inside(&by, s, t), "{spec:?} {t} {s}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn cuda_attention_agrees_with_the_cpu() {
    use crate::cuda::testing::compare;
    let mut rng = Rng::new(78);
    let mut run = |what: &str, q: &[usize], k: &[usize], shape: [usize; 3], causal, window| {
        let [heads, kv_heads, dim] = shape;
        let (queries, keys) = (q.iter().sum::<usize>(), k.iter().sum::<usize>());
        let spec = AttentionSpec {
            q_segments: Segments::from_lengths(q.to_vec()),
            k_segments: Segments::from_lengths(k.to_vec()),
            causal,
            window,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let inputs = [
            rng.tensor(&[queries, heads, dim]),
            rng.tensor(&[keys, kv_heads, dim]),
            rng.tensor(&[keys, kv_heads, dim]),
        ];
        compare(&format!("attention, {what}"), &inputs, &[], |tape, x, _| {
            Ok(vec![tape.attention(&x[0], &x[1], &x[2], &spec)?])
        });
    };
    let packed = [5, 64, 130, 1, 0, 33];
    run("packed causal", &packed, &packed, [4, 4, 96], true, None);
    run(
        "packed causal grouped",
        &packed,
        &packed,
        [8, 2, 128],
        true,
        None,
    );
    run("packed full", &packed, &packed, [2, 2, 64], false, None);
    run("fixed full", &[65; 3], &[65; 3], [3, 3, 64], false, None);
    // Sizes that our kernels for Hopper do not take and cuDNN does.
    run(
        "packed causal of 80",
        &packed,
        &packed,
        [4, 2, 80],
        true,
        None,
    );
    run(
        "packed full of 32",
        &packed,
        &packed,
        [2, 2, 32],
        false,
        None,
    );
    run(
        "fixed full of 80",
        &[65; 3],
        &[65; 3],
        [3, 3, 80],
        false,
        None,
    );
    // Whole tiles, whole blocks, and one token more.
    let ends = [128, 192, 129, 193, 256];
    run("ends of tiles", &ends, &ends, [3, 1, 96], true, None);
    run("ends of tiles full", &ends, &ends, [3, 1, 64], false, None);
    run("fixed causal", &[128; 2], &[128; 2], [4, 1, 96], true, None);
    run("odd heads", &[7, 20], &[7, 20], [3, 1, 20], true, None);
    run("odd size", &[7, 20], &[7, 20], [2, 2, 5], false, None);
    run("large head", &[40], &[40], [1, 1, 256], true, None);
    run("window", &packed, &packed, [2, 2, 64], true, Some(7));
    run(
        "wide window",
        &packed,
        &packed,
        [2, 2, 64],
        true,
        Some(4096),
    );
    run(
        "longer keys",
        &[3, 1, 40],
        &[70, 9, 40],
        [4, 2, 64],
        true,
        None,
    );
    run("longer queries", &[9], &[4], [2, 2, 32], true, None);
    run("short", &[1, 2], &[1, 2], [2, 2, 64], true, None);
}

/// Many blocks of queries add to one gradient of the queries: they must do it in a fixed order.
#[test]
#[ignore = "needs a GPU"]
fn cuda_attention_of_long_samples_agrees_and_repeats() {
    use crate::cuda::testing::{compare, gpu};
    let mut rng = Rng::new(79);
    for (lengths, [heads, kv_heads, dim], causal) in [
        (vec![1500, 33, 700], [4, 2, 96], true),
        (vec![800; 3], [4, 4, 96], true),
        (vec![576; 2], [4, 4, 64], false),
        (vec![2047, 1], [4, 1, 128], true),
        (vec![800; 2], [4, 4, 80], true),
        (vec![700, 300], [4, 2, 32], false),
    ] {
        let tokens: usize = lengths.iter().sum();
        let segments = Segments::from_lengths(lengths.clone());
        let spec = AttentionSpec {
            q_segments: segments.clone(),
            k_segments: segments,
            causal,
            window: None,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let mut inputs = |copies: usize| {
            [heads, kv_heads, kv_heads].map(|h| rng.tensor(&[copies * tokens, h, dim]))
        };
        let what = format!("attention of long samples {lengths:?}");
        compare(&what, &inputs(1), &[], |tape, x, _| {
            Ok(vec![tape.attention(&x[0], &x[1], &x[2], &spec)?])
        });
        // More blocks than the card runs at once, so that their order is one of chance.
        let many = Segments::from_lengths(lengths.repeat(16));
        let spec = AttentionSpec {
            q_segments: many.clone(),
            k_segments: many,
            ..spec
        };
        let device = gpu();
        let inputs = inputs(16).map(|t| {
            let t = t.cast(crate::DType::BF16).unwrap();
            t.to_device(&device).unwrap()
        });
        let run = || -> Vec<Vec<f32>> {
            let tape = Tape::training();
            let x = inputs.clone().map(|t| tape.leaf(t));
            let y = tape.attention(&x[0], &x[1], &x[2], &spec).unwrap();
            let wanted: Vec<&Var> = x.iter().collect();
            let seed = inputs[0].clone();
            let grads = tape.backward_from(vec![(y, seed)], &wanted).unwrap();
            let grads = grads.into_iter().map(|g| g.unwrap().to_f32_vec().unwrap());
            grads.collect()
        };
        let first = run();
        for _ in 0..4 {
            assert!(run() == first, "{what}: two runs differ");
        }
    }
}
