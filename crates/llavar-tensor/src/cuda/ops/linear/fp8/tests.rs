use std::time::Instant;

use super::*;
use crate::{
    DType, Device,
    cpu::Layout,
    cuda::testing::gpu,
    fp8::reference::{decode, encode, scale},
    memory,
    ops::testing::{Rng, close},
};

/// Random values with a binade of their own for each row, rounded to bf16.
fn values(rng: &mut Rng, rows: usize, columns: usize, power: i32) -> Tensor {
    let mut all = rng.vec(rows * columns);
    for row in all.chunks_exact_mut(columns) {
        let factor = 2f32.powi(power - rng.size(0, 6) as i32);
        row.iter_mut().for_each(|x| *x *= factor);
    }
    let all = Tensor::from_vec(all, &[rows, columns]).unwrap();
    all.cast(DType::BF16).unwrap()
}

fn bytes(words: &Tensor) -> Vec<u8> {
    let words = words.to_device(&Device::Cpu).unwrap();
    let words = words.data::<i32>().unwrap();
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Codes of a tensor, and the number that undoes their scale, by the CPU.
fn coded(x: &Tensor, format: Fp8Format) -> (Vec<u8>, f32) {
    let x = x.to_f32_vec().unwrap();
    let largest = x.iter().fold(0f32, |a, b| a.max(b.abs()));
    let (factor, inverse) = scale(format, largest);
    let codes = x.iter().map(|x| encode(format, x * factor)).collect();
    (codes, inverse)
}

/// What the codes of a tensor stand for.
fn rounded(x: &Tensor, format: Fp8Format) -> Tensor {
    let (codes, inverse) = coded(x, format);
    let values = codes.iter().map(|c| decode(format, *c) * inverse);
    Tensor::from_vec(values.collect(), x.shape()).unwrap()
}

#[test]
#[ignore = "needs a GPU"]
fn fp8_copies_agree_with_the_cpu_to_the_bit() {
    let (device, mut rng) = (gpu(), Rng::new(620));
    let cuda = device.as_cuda().unwrap();
    memory::set_poison(true);
    let mut shapes = vec![
        (1, 16),
        (16, 16),
        (17, 48),
        (128, 128),
        (300, 272),
        (129, 1040),
    ];
    shapes.extend((0..10).map(|_| (rng.size(1, 500), 16 * rng.size(1, 40))));
    for (rows, columns) in shapes {
        for (format, power) in [
            (Fp8Format::E4M3, 3),
            (Fp8Format::E5M2, -20),
            (Fp8Format::E4M3, -110),
        ] {
            let what = format!("{rows} x {columns} in {format}, 2^{power}");
            let x = values(&mut rng, rows, columns, power);
            let there = x.to_device(&device).unwrap();
            let copies = Fp8Copies::of(cuda, &there, columns, format, BOTH).unwrap();
            let (want, inverse) = coded(&x, format);
            let plain = copies.plain().unwrap();
            assert!(bytes(plain.words) == want, "{what}: plain");
            let undo = plain.scale.to_f32_vec().unwrap()[0];
            assert_eq!(undo.to_bits(), inverse.to_bits(), "{what}: scale");
            let turned = bytes(copies.transposed().unwrap().words);
            let padded = padded(rows);
            for (at, code) in turned.iter().enumerate() {
                let (column, row) = (at / padded, at % padded);
                let want = if row < rows {
                    want[row * columns + column]
                } else {
                    0
                };
                assert_eq!(*code, want, "{what}: row {row}, column {column}");
            }
            // One of the two alone is the same.
            for wanted in [(true, false), (false, true)] {
                let (plain, transposed) = wanted;
                let wanted = Wanted { plain, transposed };
                let one = Fp8Copies::of(cuda, &there, columns, format, wanted).unwrap();
                assert_eq!(one.plain().is_some(), plain);
                assert_eq!(one.transposed().is_some(), transposed);
                for (a, b) in [
                    (one.plain(), copies.plain()),
                    (one.transposed(), copies.transposed()),
                ] {
                    if let (Some(a), Some(b)) = (a, b) {
                        assert!(bytes(a.words) == bytes(b.words), "{what}: {wanted:?}");
                    }
                }
            }
        }
    }
    let zeros = Tensor::zeros(&[3, 32]).cast(DType::BF16).unwrap();
    let copies = Fp8Copies::of(
        cuda,
        &zeros.to_device(&device).unwrap(),
        32,
        Fp8Format::E4M3,
        BOTH,
    );
    let copies = copies.unwrap();
    assert!(bytes(copies.plain().unwrap().words).iter().all(|b| *b == 0));
    assert_eq!(
        copies.plain().unwrap().scale.to_f32_vec().unwrap(),
        [1.0, 0.0]
    );
}

#[test]
#[ignore = "needs a GPU"]
fn fp8_products_agree_with_products_of_the_rounded_values() {
    let (device, mut rng) = (gpu(), Rng::new(621));
    let cuda = device.as_cuda().unwrap();
    memory::set_poison(true);
    use Fp8Format::{E4M3, E5M2};
    let mut refused = Vec::new();
    for (m, n, k) in [
        (1, 16, 16),
        (7, 48, 32),
        (33, 64, 80),
        (257, 272, 1024),
        (800, 512, 3072),
    ] {
        for formats in [[E4M3, E4M3], [E5M2, E4M3]] {
            let (a, b) = (values(&mut rng, m, k, 2), values(&mut rng, n, k, -3));
            let copies = |x: &Tensor, format| {
                Fp8Copies::of(cuda, &x.to_device(&device).unwrap(), k, format, BOTH).unwrap()
            };
            let (a8, b8) = (copies(&a, formats[0]), copies(&b, formats[1]));
            let operands = [a8.plain().unwrap(), b8.plain().unwrap()];
            let (x, y) = (rounded(&a, formats[0]), rounded(&b, formats[1]));
            let (x, y) = (x.data::<f32>().unwrap(), y.data::<f32>().unwrap());
            let c = values(&mut rng, m, n, 1);
            let mut want = c.to_f32_vec().unwrap();
            crate::cpu::gemm(Layout::NT, m, n, k, x, y, &mut want, 1.0);
            for fast in [false, true] {
                let what = format!("{m} x {n} x {k} of {formats:?}, fast {fast}");
                // Sums of about 14 bits, still below what rounding the operands costs.
                let exact = if fast { 2e-2 } else { 1e-3 };
                let mut sum = c.cast(DType::F32).unwrap().to_device(&device).unwrap();
                match cuda.gemm_fp8([m, n, k], operands, &mut sum, 1.0, None, fast) {
                    Ok(()) => {
                        let sum = sum.to_f32_vec().unwrap();
                        close(&sum, &want, exact, &format!("{what}: beta"));
                    }
                    // All of them at once, for whoever has another version of the library.
                    Err(error) => refused.push(format!("{what}, beta: {error}")),
                }
                let there = c.to_device(&device).unwrap();
                let mut out = cuda.empty(&[m, n], DType::BF16).unwrap();
                if let Err(error) =
                    cuda.gemm_fp8([m, n, k], operands, &mut out, 0.0, Some(&there), fast)
                {
                    refused.push(format!("{what}, residual: {error}"));
                    continue;
                }
                close(
                    &out.to_f32_vec().unwrap(),
                    &want,
                    exact.max(1e-2),
                    &format!("{what}: residual"),
                );
                let mut again = cuda.empty(&[m, n], DType::BF16).unwrap();
                cuda.gemm_fp8([m, n, k], operands, &mut again, 0.0, Some(&there), fast)
                    .unwrap();
                assert_eq!(
                    again.to_f32_vec().unwrap(),
                    out.to_f32_vec().unwrap(),
                    "{what}: two runs"
                );
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Output, and gradients of input, residual and weight, of a layer with a residual.
fn layer(
    device: &Device,
    [x, r, w, seed]: [&Tensor; 4],
    (fp8, frozen, again): (bool, bool, bool),
) -> Vec<Vec<f32>> {
    let param = Param::new("w", w.clone());
    param.to_device(device, DType::BF16, DType::F32).unwrap();
    param.set_requires_grad(!frozen);
    param.set_fp8(fp8);
    let tape = Tape::training();
    let leaves = [x, r].map(|t| tape.leaf(t.to_device(device).unwrap()));
    let run = {
        let param = param.clone();
        move |tape: &Tape, x: &[Var]| {
            // The first product's output is read again by the second one's gradient.
            let y = tape.linear(&x[0], &param, None)?;
            let y = tape.reshape(&y, x[1].shape())?;
            tape.closing(|tape| tape.linear_residual(&x[0], &param, None, Some(&y)))
                .map(|y| vec![y])
        }
    };
    let inputs: Vec<&Var> = leaves.iter().collect();
    let out = match again {
        true => tape.checkpoint(&inputs, run).unwrap(),
        false => run(&tape, &leaves).unwrap(),
    };
    let out = out.into_iter().next().unwrap();
    let value = out.value().to_f32_vec().unwrap();
    let seed = seed.to_device(device).unwrap();
    let grads = tape.backward_from(vec![(out, seed)], &inputs).unwrap();
    let grads = grads
        .into_iter()
        .map(|g| g.map_or(Vec::new(), |g| g.to_f32_vec().unwrap()));
    let dw = param.grad().map_or(Vec::new(), |g| g.to_f32_vec().unwrap());
    [vec![value], grads.collect(), vec![dw]].concat()
}

#[test]
#[ignore = "needs a GPU"]
fn fp8_layers_are_near_bf16_repeat_and_recompute_to_the_same_bits() {
    let (device, mut rng) = (gpu(), Rng::new(622));
    memory::set_poison(true);
    for (rows, n, k) in [
        (1, 16, 32),
        (100, 64, 48),
        (333, 256, 512),
        (1600, 768, 256),
    ] {
        let x = values(&mut rng, rows, k, 1);
        let r = values(&mut rng, rows, n, 1);
        let w = values(&mut rng, n, k, -2);
        let seed = values(&mut rng, rows, n, -12);
        for frozen in [false, true] {
            let what = format!("{rows} x {n} x {k}, frozen {frozen}");
            let all = [&x, &r, &w, &seed];
            let bf16 = layer(&device, all, (false, frozen, false));
            let fp8 = layer(&device, all, (true, frozen, false));
            for again in [false, true] {
                assert!(
                    fp8 == layer(&device, all, (true, frozen, again)),
                    "{what}, {again}"
                );
            }
            for (i, (got, want)) in fp8.iter().zip(&bf16).enumerate() {
                // Half a step of 2^-3 at most, 2.4 % of a value in the mean, and twice that in E5M2: 3.4 % of an
                // output, 5.4 % of a gradient. A single row may be unlucky.
                let tolerance = if i == 0 { 0.05 } else { 0.08 };
                let tolerance = if rows == 1 {
                    2.0 * tolerance
                } else {
                    tolerance
                };
                close(got, want, tolerance, &format!("{what}, value {i}"));
            }
            assert!(rows == 1 || fp8[0] != bf16[0], "{what}: that was bf16");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn fp8_falls_back_follows_its_weight_and_lets_nan_through() {
    let (device, mut rng) = (gpu(), Rng::new(623));
    // Sizes that are no multiples of 16: the bits of bf16.
    for (n, k) in [(24, 32), (32, 24)] {
        let x = values(&mut rng, 50, k, 0);
        let (r, w) = (values(&mut rng, 50, n, 0), values(&mut rng, n, k, 0));
        let seed = values(&mut rng, 50, n, 0);
        let run = |fp8| layer(&device, [&x, &r, &w, &seed], (fp8, false, false));
        assert!(run(true) == run(false), "{n} x {k}");
    }
    // f32 computes in f32.
    let w = Param::new("w", rng.tensor(&[32, 32]));
    w.to_device(&device, DType::F32, DType::F32).unwrap();
    let x: Var = rng.tensor(&[20, 32]).to_device(&device).unwrap().into();
    let run = |x: &Var, w: &Param| {
        let y = Tape::inference().linear(x, w, None).unwrap();
        y.value().to_f32_vec().unwrap()
    };
    let plain = run(&x, &w);
    w.set_fp8(true);
    assert_eq!(run(&x, &w), plain);
    // A changed weight has new copies.
    w.to_device(&device, DType::BF16, DType::F32).unwrap();
    let x: Var = x.value().cast(DType::BF16).unwrap().into();
    let before = run(&x, &w);
    assert_eq!(run(&x, &w), before);
    let scaled = |x: &[f32], factor: f32| -> Vec<f32> { x.iter().map(|v| factor * v).collect() };
    let doubled = scaled(&w.value().to_f32_vec().unwrap(), 2.0);
    let doubled = Tensor::from_vec(doubled, &[32, 32])
        .unwrap()
        .cast(DType::BF16)
        .unwrap();
    let copies = || w.fp8_copies(|_, _| panic!("there are copies")).unwrap();
    let addresses = |copies: &Fp8Copies| {
        let (plain, turned) = (copies.plain().unwrap(), copies.transposed().unwrap());
        [plain.words, turned.words, plain.scale].map(|t| t.cuda_address().unwrap())
    };
    let first = addresses(&copies());
    w.set_value(doubled.to_device(&device).unwrap()).unwrap();
    assert_eq!(run(&x, &w), scaled(&before, 2.0));
    // In the memory of those before, and with a scale of their own: that of a smaller weight is smaller again.
    assert_eq!(addresses(&copies()), first);
    let quarter = || {
        w.update_tensor(|value, _| {
            let part = scaled(&value.to_f32_vec()?, 0.25);
            let part = Tensor::from_vec(part, value.shape())?.cast(DType::BF16)?;
            *value = part.to_device(&device)?;
            Ok(())
        })
        .unwrap();
    };
    quarter();
    assert_eq!(run(&x, &w), scaled(&before, 0.5));
    assert_eq!(addresses(&copies()), first);
    // Copies that a backward pass still has are not written over.
    let held = copies();
    let words = bytes(held.plain().unwrap().words);
    quarter();
    assert_eq!(run(&x, &w), scaled(&before, 0.125));
    assert!(addresses(&copies()).iter().all(|a| !first.contains(a)));
    let plain = held.plain().unwrap();
    assert!(bytes(plain.words) == words);
    let inverse = coded(&w.value(), Fp8Format::E4M3).1;
    assert_eq!(plain.scale.to_f32_vec().unwrap()[0], 4.0 * inverse);
    // Infinity and NaN are not saturated away: the step that has them is left out.
    for bad in [f32::INFINITY, f32::NAN] {
        let mut with = x.value().to_f32_vec().unwrap();
        with[77] = bad;
        let with = Tensor::from_vec(with, &[20, 32])
            .unwrap()
            .cast(DType::BF16)
            .unwrap();
        let out = run(&with.to_device(&device).unwrap().into(), &w);
        assert!(out.iter().any(|v| !v.is_finite()), "{bad}");
    }
}

/// Rates and errors of the products of a training step of the 3.8B shape, and the copies beside them.
#[test]
#[ignore = "needs a GPU: prints figures"]
fn fp8_figures() {
    let (device, mut rng) = (gpu(), Rng::new(624));
    let cuda = device.as_cuda().unwrap();
    memory::set_poison(false);
    let begin = Instant::now();
    // About normal.
    let mut tensor = |rows: usize, columns: usize, factor: f32| {
        let block = rng.vec(4 << 16);
        let block: Vec<half::bf16> = (0..(1 << 16) - 1)
            .map(|i| half::bf16::from_f32(factor * block[4 * i..4 * i + 4].iter().sum::<f32>()))
            .collect();
        let all: Vec<half::bf16> = block.iter().copied().cycle().take(rows * columns).collect();
        cuda.upload(&all, &[rows, columns]).unwrap()
    };
    let ms = |f: &mut dyn FnMut() -> Result<()>| {
        cuda.time(3, || (0..10).try_for_each(|_| f())).unwrap() / 10.0
    };
    let m = 6400;
    for [n, k] in [[9216, 3072], [3072, 3072], [16_384, 3072], [3072, 8192]] {
        let (x, w, dy) = (tensor(m, k, 1.0), tensor(n, k, 0.02), tensor(m, n, 1e-4));
        let copies =
            |t: &Tensor, columns, format| Fp8Copies::of(cuda, t, columns, format, BOTH).unwrap();
        let (x8, w8) = (
            copies(&x, k, Fp8Format::E4M3),
            copies(&w, k, Fp8Format::E4M3),
        );
        let dy8 = copies(&dy, n, Fp8Format::E5M2);
        let dw = |dtype| {
            let quantised = [dy8.transposed(), x8.transposed()];
            ("dw", Layout::TN, [n, k, m], [&dy, &x], quantised, dtype)
        };
        for (name, layout, sizes, plain, quantised, dtype) in [
            (
                "y",
                Layout::NT,
                [m, n, k],
                [&x, &w],
                [x8.plain(), w8.plain()],
                DType::BF16,
            ),
            (
                "dx",
                Layout::NN,
                [m, k, n],
                [&dy, &w],
                [dy8.plain(), w8.transposed()],
                DType::BF16,
            ),
            dw(DType::BF16),
            dw(DType::F32),
        ] {
            let flops = 2.0 * sizes.iter().map(|s| *s as f64).product::<f64>();
            let quantised = quantised.map(Option::unwrap);
            let mut want = cuda.empty(&sizes[..2], dtype).unwrap();
            let time = ms(&mut || cuda.gemm(layout, sizes, plain[0], plain[1], &mut want, 0.0));
            let part = |t: &Tensor| t.narrow(0, 256).unwrap().to_f32_vec().unwrap();
            let want = part(&want);
            let mut line = format!(
                "FP8 {name} {sizes:?} into {dtype}: bf16 {:.0}",
                flops / time / 1e9
            );
            for fast in [true, false] {
                let mut got = cuda.empty(&sizes[..2], dtype).unwrap();
                let refused = cuda.gemm_fp8(sizes, quantised, &mut got, 0.0, None, fast);
                if let Err(error) = refused {
                    line += &format!(", refused: {error}");
                    continue;
                }
                let first = part(&got);
                let time = ms(&mut || cuda.gemm_fp8(sizes, quantised, &mut got, 0.0, None, fast));
                let got = part(&got);
                assert!(first == got, "{name} {sizes:?} into {dtype}: two runs");
                let (mut norm, mut off) = (0f64, 0f64);
                for (a, b) in got.iter().zip(&want) {
                    norm += f64::from(*b).powi(2);
                    off += (f64::from(*a) - f64::from(*b)).powi(2);
                }
                line += &format!(
                    ", {} {:.0} TFLOP/s off {:.4}",
                    if fast { "fast" } else { "exact" },
                    flops / time / 1e9,
                    (off / norm).sqrt()
                );
            }
            println!("{line}");
        }
        for (name, t, columns) in [("x", &x, k), ("w", &w, k), ("dy", &dy, n)] {
            let mut line = format!("FP8 copies of {name} {:?}:", t.shape());
            for (plain, transposed) in [(true, false), (false, true), (true, true)] {
                let wanted = Wanted { plain, transposed };
                let time = ms(&mut || {
                    Fp8Copies::of(cuda, t, columns, Fp8Format::E4M3, wanted).map(|_| ())
                });
                let bytes = (4 + usize::from(plain) + usize::from(transposed)) * t.numel();
                line += &format!(
                    " plain {plain} transposed {transposed} {:.0} us {:.2} TB/s;",
                    time * 1e3,
                    bytes as f64 / time / 1e9
                );
            }
            println!("{line}");
        }
    }
    println!("FP8 figures took {:.1} s", begin.elapsed().as_secs_f64());
}
