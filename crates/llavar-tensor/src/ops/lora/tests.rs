use super::*;
use crate::ops::testing::{Rng, check_gradients, close};

struct Layer {
    weight: Param,
    bias: Param,
    lora: LoraAdapter,
}

fn layer(rng: &mut Rng, n: usize, k: usize, rank: usize, dora: bool, dropout: f32) -> Layer {
    let mut param = |name: &str, shape: &[usize]| Param::new(name, rng.tensor(shape));
    Layer {
        weight: param("w", &[n, k]),
        bias: param("bias", &[n]),
        lora: LoraAdapter {
            a: param("a", &[rank, k]),
            b: param("b", &[n, rank]),
            magnitude: dora.then(|| param("m", &[n])),
            scaling: 0.5,
            dropout,
            key: 11,
        },
    }
}

/// The formula of the file's head in f64, one element after the other; `keep` says what `d` does.
fn plain(layer: &Layer, x: &[f32], r: &[f32], keep: impl Fn(usize) -> f64) -> Vec<f32> {
    let get = |p: &Param| -> Vec<f64> {
        let values = p.value().to_f32_vec().unwrap();
        values.into_iter().map(f64::from).collect()
    };
    let (w, bias, a, b) = (
        get(&layer.weight),
        get(&layer.bias),
        get(&layer.lora.a),
        get(&layer.lora.b),
    );
    let ([rank, k], n) = (
        [layer.lora.a.shape()[0], layer.lora.a.shape()[1]],
        bias.len(),
    );
    let s = f64::from(layer.lora.scaling);
    let delta = |j: usize, l: usize| -> f64 {
        s * (0..rank)
            .map(|i| b[j * rank + i] * a[i * k + l])
            .sum::<f64>()
    };
    let magnitude = layer.lora.magnitude.as_ref().map(get);
    let mut y = Vec::new();
    for t in 0..x.len() / k {
        for j in 0..n {
            let mut z = 0.0;
            for l in 0..k {
                let x = f64::from(x[t * k + l]);
                z += w[j * k + l] * x + delta(j, l) * x * keep(t * k + l);
            }
            if let Some(m) = &magnitude {
                let square: f64 = (0..k).map(|l| (w[j * k + l] + delta(j, l)).powi(2)).sum();
                z *= m[j] / square.sqrt();
            }
            y.push((z + bias[j] + f64::from(r[t * n + j])) as f32);
        }
    }
    y
}

#[test]
fn forward_agrees_with_a_plain_loop() {
    let mut rng = Rng::new(31);
    for round in 0..24 {
        let (rows, n, k) = (rng.size(1, 20), rng.size(1, 30), rng.size(1, 30));
        let (rank, dora) = (rng.size(1, 9), round % 2 == 1);
        let dropout = if round % 4 < 2 { 0.0 } else { 0.4 };
        let layer = layer(&mut rng, n, k, rank, dora, dropout);
        let (x, r) = (rng.tensor(&[rows, k]), rng.tensor(&[rows, n]));
        let run = |tape: Tape| {
            let (x, r): (Var, Var) = (x.clone().into(), r.clone().into());
            let bias = Some(&layer.bias);
            tape.lora_linear(&x, &layer.weight, bias, Some(&r), &layer.lora)
                .unwrap()
        };
        let (data, residual) = (x.to_f32_vec().unwrap(), r.to_f32_vec().unwrap());
        let want = plain(&layer, &data, &residual, |_| 1.0);
        close(
            run(Tape::inference()).value().data().unwrap(),
            &want,
            1e-5,
            "lora",
        );
        // With a seed the elements are those that `Dropout` says.
        let mask = Tensor::from_vec(vec![1.0f32; rows * k], &[rows, k]).unwrap();
        let mask = Dropout::new(dropout, 5, 11)
            .apply(&mask)
            .unwrap()
            .to_f32_vec()
            .unwrap();
        let want = plain(&layer, &data, &residual, |i| f64::from(mask[i]));
        let seeded = run(Tape::training().with_dropout(5));
        close(
            seeded.value().data().unwrap(),
            &want,
            1e-5,
            "lora with dropout",
        );
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut rng = Rng::new(32);
    for (dora, dropout) in [(false, 0.0), (false, 0.3)] {
        let Layer { weight, bias, lora } = layer(&mut rng, 5, 6, 3, dora, dropout);
        let inputs = [rng.tensor(&[2, 4, 6]), rng.tensor(&[2, 4, 5])];
        check_gradients(&inputs, &[&weight, &bias, &lora.a, &lora.b], |tape, x| {
            tape.lora_linear(&x[0], &weight, Some(&bias), Some(&x[1]), &lora)
        });
    }
}

/// The norm counts as a constant, so differences are those of the layer with its norm held.
#[test]
fn gradients_of_a_dora_hold_the_norm() {
    let mut rng = Rng::new(33);
    for dropout in [0.0, 0.3] {
        let Layer { weight, bias, lora } = layer(&mut rng, 5, 6, 3, true, dropout);
        let magnitude = lora.magnitude.clone().unwrap();
        let norm = magnitude::row_norms(&weight.value(), &lora).unwrap();
        let held = |tape: &Tape, x: &[Var]| {
            let low = tape.low_rank(&x[0], None, &lora)?;
            let z = tape.linear_residual(&x[0], &weight, None, Some(&low))?;
            tape.scale_rows_to(&z, &magnitude, &norm, Some(&bias), Some(&x[1]))
        };
        let inputs = [rng.tensor(&[7, 6]), rng.tensor(&[7, 5])];
        let params = [&weight, &bias, &lora.a, &lora.b, &magnitude];
        check_gradients(&inputs, &params, held);
        // And the whole operation's gradients are those.
        let grads = |f: &dyn Fn(&Tape, &[Var]) -> Result<Var>| -> Vec<Vec<f32>> {
            params.iter().for_each(|p| p.zero_grad());
            let tape = Tape::training().with_dropout(3);
            let x: Vec<Var> = inputs.iter().map(|t| tape.leaf(t.clone())).collect();
            let y = f(&tape, &x).unwrap();
            let seed = Tensor::from_vec(vec![1.0f32; 35], &[7, 5]).unwrap();
            let dx = tape.backward_from(vec![(y, seed)], &[&x[0]]).unwrap();
            let dx = dx[0].as_ref().unwrap().to_f32_vec().unwrap();
            let params = params
                .iter()
                .map(|p| p.grad().unwrap().to_f32_vec().unwrap());
            params.chain([dx]).collect()
        };
        let whole = |tape: &Tape, x: &[Var]| {
            tape.lora_linear(&x[0], &weight, Some(&bias), Some(&x[1]), &lora)
        };
        assert_eq!(grads(&held), grads(&whole));
    }
}

#[test]
fn a_recomputed_segment_drops_the_same_and_writes_no_output() {
    let mut rng = Rng::new(34);
    for dora in [false, true] {
        let Layer { weight, bias, lora } = layer(&mut rng, 6, 6, 2, dora, 0.4);
        let params: Vec<Param> = lora.params().cloned().collect();
        params.iter().for_each(|p| p.set_requires_grad(true));
        let x = rng.tensor(&[9, 6]);
        let run = |checkpoint: bool| -> Vec<Vec<f32>> {
            params.iter().for_each(Param::zero_grad);
            let tape = Tape::training().with_dropout(8);
            let leaf = tape.leaf(x.clone());
            let (w, b, adapter) = (weight.clone(), bias.clone(), lora.clone());
            let segment = move |tape: &Tape, x: &[Var]| {
                let y = tape.lora_linear(&x[0], &w, Some(&b), None, &adapter)?;
                let last = |tape: &Tape| tape.lora_linear(&y, &w, Some(&b), Some(&x[0]), &adapter);
                Ok(vec![tape.closing(last)?])
            };
            let y = match checkpoint {
                true => tape.checkpoint(&[&leaf], segment).unwrap(),
                false => segment(&tape, std::slice::from_ref(&leaf)).unwrap(),
            };
            let value = y[0].value().to_f32_vec().unwrap();
            let seed = Tensor::from_vec(vec![0.5f32; 54], &[9, 6]).unwrap();
            let dx = tape
                .backward_from(vec![(y[0].clone(), seed)], &[&leaf])
                .unwrap();
            let grads = params
                .iter()
                .map(|p| p.grad().unwrap().to_f32_vec().unwrap());
            let dx = dx[0].as_ref().unwrap().to_f32_vec().unwrap();
            grads.chain([value, dx]).collect()
        };
        assert_eq!(run(true), run(false), "dora {dora}");
    }
}

#[test]
fn dropout_drops_its_share_and_differs_by_seed_layer_and_place() {
    let ones = Tensor::from_vec(vec![1.0f32; 40_000], &[200, 200]).unwrap();
    let dropped = |p: f32, seed: u64, layer: u64| {
        let out = Dropout::new(p, seed, layer).apply(&ones).unwrap();
        out.to_f32_vec().unwrap()
    };
    for p in [0.05f32, 0.3, 0.9] {
        let out = dropped(p, 1, 2);
        let share = out.iter().filter(|x| **x == 0.0).count() as f64 / 40_000.0;
        // Four standard deviations of a share.
        let allowed = 4.0 * (f64::from(p * (1.0 - p)) / 40_000.0).sqrt();
        assert!((share - f64::from(p)).abs() < allowed, "{p}: {share}");
        let kept = 1.0 / (1.0 - p);
        assert!(out.iter().all(|x| *x == 0.0 || (*x - kept).abs() < 1e-6));
        assert_eq!(out, dropped(p, 1, 2));
    }
    let (a, b, c) = (dropped(0.5, 1, 2), dropped(0.5, 3, 2), dropped(0.5, 1, 4));
    for (x, y) in [(&a, &b), (&a, &c), (&b, &c)] {
        let same = x.iter().zip(y).filter(|(x, y)| x == y).count() as f64 / 40_000.0;
        assert!((same - 0.5).abs() < 0.02, "{same}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    let mut rng = Rng::new(35);
    let Layer {
        weight, mut lora, ..
    } = layer(&mut rng, 5, 6, 3, false, 0.0);
    lora.b = Param::new("b", Tensor::zeros(&[5, 2]));
    let x = Tensor::zeros(&[2, 6]).into();
    let error = Tape::inference()
        .lora_linear(&x, &weight, None, None, &lora)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "lora B: expected shape [5, 3], got [5, 2]"
    );
}

#[test]
fn a_merged_weight_computes_the_same() {
    let mut rng = Rng::new(36);
    for dora in [false, true] {
        let Layer { weight, bias, lora } = layer(&mut rng, 7, 9, 3, dora, 0.4);
        let magnitude = lora.magnitude.as_ref().map(Param::value);
        let before = weight.value().to_f32_vec().unwrap();
        let (a, b) = (lora.a.value(), lora.b.value());
        let merged = weight
            .value()
            .merge_lora(&a, &b, magnitude.as_ref(), lora.scaling)
            .unwrap();
        assert_eq!(
            weight.value().to_f32_vec().unwrap(),
            before,
            "the weight is untouched"
        );
        let merged = Param::new("merged", merged);
        let x: Var = rng.tensor(&[11, 9]).into();
        let tape = Tape::inference();
        let want = tape
            .lora_linear(&x, &weight, Some(&bias), None, &lora)
            .unwrap();
        let got = tape.linear(&x, &merged, Some(&bias)).unwrap();
        let (got, want) = (got.value().data().unwrap(), want.value().data().unwrap());
        close(got, want, 1e-6, "merged");
    }
    let wrong = Tensor::zeros(&[2, 2]).merge_lora(
        &Tensor::zeros(&[1, 3]),
        &Tensor::zeros(&[2, 1]),
        None,
        1.0,
    );
    assert!(wrong.is_err());
}
