//! How products are cut up, and their results against plain loops.

use std::collections::BTreeMap;

use super::*;
use crate::{
    Device, Param, Tensor,
    cuda::{
        decode::products::{Launcher, Way},
        testing::gpu,
    },
    memory,
    ops::testing::{Rng, close},
};

/// Tensor and parameter of random values as bf16, and the values that came of it.
fn random(device: &Device, rng: &mut Rng, shape: &[usize], scale: f32) -> (Param, Vec<f32>) {
    let values = rng.vec(shape.iter().product());
    let values: Vec<f32> = values.into_iter().map(|v| v * scale).collect();
    let rounded = Tensor::from_vec(values, shape).unwrap();
    let rounded = rounded.cast(DType::BF16).unwrap().to_f32_vec().unwrap();
    let param = Param::new("w", Tensor::from_vec(rounded.clone(), shape).unwrap());
    param.to_device(device, DType::BF16, DType::F32).unwrap();
    (param, rounded)
}

/// Rows after the norm, rounded as the kernel rounds them.
fn normed(x: &[f32], gain: Option<&[f32]>, k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks_exact(k) {
        let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / k as f64;
        let inverse = (mean + 1e-5).sqrt().recip();
        y.extend(row.iter().enumerate().map(|(i, v)| match gain {
            Some(gain) => {
                let v = f64::from(*v) * inverse * f64::from(gain[i]);
                half::bf16::from_f64(v).to_f64()
            }
            None => f64::from(*v),
        }));
    }
    y
}

fn products(x: &[f64], w: &[f32], k: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks_exact(k) {
        let dot = |w: &[f32]| row.iter().zip(w).map(|(a, b)| a * f64::from(*b)).sum();
        y.extend(w.chunks_exact(k).map::<f64, _>(dot));
    }
    y
}

/// What a way looks like, to see that all have been met.
fn name(wide: &Wide, is_gate: bool) -> String {
    let Wide {
        eights,
        depth,
        in_pairs,
        ..
    } = wide;
    format!("{eights} {depth} pairs {in_pairs} gate {is_gate}")
}

#[test]
#[ignore = "needs a GPU"]
fn products_of_up_to_sixteen_rows_agree_with_plain_loops() {
    let device = gpu();
    let cuda = device.as_cuda().unwrap();
    memory::set_poison(true);
    let mut rng = Rng::new(77);
    let launcher = Launcher {
        cuda: cuda.clone(),
        dtype: DType::BF16,
    };
    // Lines that are not whole, tiles that end early, more tiles than multiprocessors, an x that two blocks share.
    let sizes = [
        (9, 8),
        (40, 72),
        (64, 320),
        (1300, 200),
        (3000, 1032),
        (512, 3072),
        (96, 4096),
        (264, 8192),
    ];
    let mut met = BTreeMap::new();
    for (n, k) in sizes {
        for rows in [2, 3, 8, 9, 16] {
            let (x, x_) = random(&device, &mut rng, &[rows, k], 1.0);
            let scale = (k as f32).sqrt().recip();
            let (w0, w0_) = random(&device, &mut rng, &[n, k], scale);
            let (w1, w1_) = random(&device, &mut rng, &[n, k], scale);
            let (gain, gain_) = random(&device, &mut rng, &[k], 1.0);
            let (old, old_) = random(&device, &mut rng, &[rows, n], 1.0);
            let (x, one, both) = (x.value(), [w0.clone()], [w0, w1]);
            let joined: Vec<f32> = w0_.iter().chain(&w1_).copied().collect();
            for with_norm in [false, true] {
                let norm = with_norm.then_some((&gain, 1e-5));
                let x_ = normed(&x_, with_norm.then_some(&gain_[..]), k);
                let what = format!("{rows} x {n} x {k}, norm {with_norm}");
                let input = |n, is_gate| Input {
                    x: &x,
                    norm,
                    rows,
                    k,
                    n,
                    is_gate,
                };
                let mut takes = |input: Input<'_>| match input.way() {
                    Some(Way::Wide(wide)) => {
                        *met.entry(name(&wide, input.is_gate)).or_insert(0) += 1;
                        true
                    }
                    _ => false,
                };
                let check = |y: &Tensor, want: Vec<f64>, tolerance: f64, kind: &str| {
                    let want: Vec<f32> = want.into_iter().map(|v| v as f32).collect();
                    let what = format!("{kind} {what}");
                    close(&y.to_f32_vec().unwrap(), &want, tolerance, &what);
                };
                let empty = |n: usize, dtype| cuda.empty(&[rows, n], dtype).unwrap();
                if takes(input(2 * n, false)) {
                    let mut y = empty(2 * n, DType::BF16);
                    let input = input(2 * n, false);
                    assert!(launcher.streamed(input, &both, &mut y, false).unwrap());
                    check(&y, products(&x_, &joined, k), 1e-2, "two weights,");
                }
                if takes(input(n, false)) {
                    let mut y = empty(n, DType::BF16);
                    cuda.copy(&old.value(), &mut y).unwrap();
                    let of = input(n, false);
                    assert!(launcher.streamed(of, &one, &mut y, true).unwrap());
                    let plain = products(&x_, &w0_, k);
                    let added = plain.iter().zip(&old_).map(|(v, old)| v + f64::from(*old));
                    check(&y, added.collect(), 1e-2, "added,");
                    let mut y = empty(n, DType::F32);
                    assert!(launcher.streamed(of, &one, &mut y, false).unwrap());
                    check(&y, plain, 2e-3, "logits,");
                }
                if takes(input(2 * n, true)) {
                    let mut y = empty(n, DType::BF16);
                    let of = input(2 * n, true);
                    assert!(launcher.streamed_gate(of, &both, &mut y).unwrap());
                    let (gate, up) = (products(&x_, &w0_, k), products(&x_, &w1_, k));
                    let gated = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u);
                    check(&y, gated.collect(), 1e-2, "gated,");
                }
            }
        }
    }
    println!("{met:?}");
    if cuda.info().shared_memory >= 228 << 10 && cuda.info().capability.0 >= 9 {
        for way in [
            "1 4 pairs false gate false",
            "2 4 pairs false gate false",
            "2 4 pairs true gate false",
            "1 4 pairs false gate true",
            "2 4 pairs false gate true",
            "2 3 pairs false gate true",
        ] {
            assert!(met.contains_key(way), "{way} not met: {met:?}");
        }
    }
}

#[test]
fn products_are_cut_up_to_fit_the_card() {
    let x = Tensor::zeros(&[16, 8]);
    let gain = Param::new("gain", Tensor::zeros(&[8]));
    let input = |rows, [n, k]: [usize; 2], norm: bool, is_gate| Input {
        x: &x,
        norm: norm.then_some((&gain, 1e-5)),
        rows,
        k,
        n,
        is_gate,
    };
    let on = |card, input: &Input<'_>| Wide::fitting(input, card, true);
    // An H100: 132 multiprocessors, 227 KiB for a block.
    let h100 = [132, 227 << 10];
    let blocks = |input: Input<'_>| on(h100, &input).map(|w| (w.depth, w.in_pairs, w.blocks));
    // Phi-3.5.
    assert_eq!(
        blocks(input(16, [9216, 3072], true, false)),
        Some((4, false, 132))
    );
    assert_eq!(
        blocks(input(16, [16384, 3072], true, true)),
        Some((4, false, 132))
    );
    assert_eq!(
        blocks(input(16, [3072, 8192], false, false)),
        Some((4, true, 132))
    );
    assert_eq!(
        blocks(input(8, [3072, 8192], false, false)),
        Some((4, false, 132))
    );
    // A small model leaves multiprocessors without a tile.
    assert_eq!(
        blocks(input(16, [1024, 320], true, true)),
        Some((4, false, 64))
    );
    assert_eq!(
        blocks(input(16, [320, 320], true, false)),
        Some((4, false, 40))
    );
    // Llama 7B: less under way for gate and up; its 11,008 elements fit eight rows alone.
    assert_eq!(
        blocks(input(16, [22016, 4096], true, true)),
        Some((3, false, 132))
    );
    assert_eq!(
        blocks(input(8, [4096, 11008], false, false)),
        Some((4, true, 132))
    );
    assert_eq!(blocks(input(16, [4096, 11008], false, false)), None);
    // Too many tiles for the sums of a pair of blocks.
    assert_eq!(blocks(input(16, [16384, 8192], false, false)), None);
    // A card with 99 KiB.
    assert_eq!(
        on([128, 99 << 10], &input(8, [3072, 3072], false, false)),
        None
    );
    assert!(on([128, 99 << 10], &input(8, [768, 768], false, false)).is_some());
}
