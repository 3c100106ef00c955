//! The tape as a whole: checkpointing, accumulation, determinism, memory.
//!
//! One test function: the byte counts are those of the process, and other tests would disturb them.

#![allow(clippy::unwrap_used)]

use llavar_tensor::{Activation, Param, Result, Tape, Tensor, Var, memory};

const WIDTH: usize = 256;
const ROWS: usize = 512;
const LAYERS: usize = 8;

fn pseudo_random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1
        })
        .collect()
}

fn layers() -> Vec<(Param, Param)> {
    (0..LAYERS as u32)
        .map(|i| {
            let make = |name: &str, seed| {
                let p = Param::new(
                    name,
                    Tensor::from_vec(pseudo_random(WIDTH * WIDTH * 4, seed), &[WIDTH * 4, WIDTH])
                        .unwrap(),
                );
                p.set_requires_grad(true);
                p
            };
            let up = make("up", 2 * i + 1);
            let down = Param::new(
                "down",
                make("", 2 * i + 2)
                    .value()
                    .reshape(&[WIDTH, WIDTH * 4])
                    .unwrap(),
            );
            down.set_requires_grad(true);
            (up, down)
        })
        .collect()
}

fn block(tape: &Tape, x: &Var, up: &Param, down: &Param) -> Result<Var> {
    let h = tape.linear(x, up, None)?;
    let h = tape.activation(&h, Activation::Gelu)?;
    tape.linear_residual(&h, down, None, Some(x))
}

/// One step; returns all gradients and the peak of tensor memory above the start (bytes).
fn step(layers: &[(Param, Param)], checkpoint: bool) -> (Vec<Vec<f32>>, usize) {
    let tape = Tape::training();
    let x = Tensor::from_vec(pseudo_random(ROWS * WIDTH, 77), &[ROWS, WIDTH]).unwrap();
    memory::reset_peak();
    let start = memory::stats().in_use;
    let mut h = tape.leaf(x);
    for (up, down) in layers {
        h = if checkpoint {
            let (up, down) = (up.clone(), down.clone());
            tape.checkpoint(&[&h], move |tape, x| {
                Ok(vec![block(tape, &x[0], &up, &down)?])
            })
            .unwrap()
            .remove(0)
        } else {
            block(&tape, &h, up, down).unwrap()
        };
    }
    let seed = h.value().clone();
    tape.backward_from(vec![(h, seed)], &[]).unwrap();
    let peak = memory::stats().peak - start;
    let grads = layers
        .iter()
        .flat_map(|(u, d)| [u, d])
        .map(|p| p.grad().unwrap().to_f32_vec().unwrap())
        .collect();
    (grads, peak)
}

#[test]
fn checkpointing_gives_the_same_gradients_in_less_memory() {
    memory::set_poison(true);
    let layers = layers();
    let zero = || {
        layers
            .iter()
            .for_each(|(u, d)| [u, d].into_iter().for_each(Param::zero_grad))
    };
    step(&layers, false); // makes the gradient buffers, which stay
    zero();
    let (plain, plain_peak) = step(&layers, false);
    zero();
    let (recomputed, peak) = step(&layers, true);
    assert_eq!(plain, recomputed, "recomputation is the same arithmetic");

    // Kept: the input of every layer and the output (one block input is the output of the one before),
    // the seed shares the output. One block alive in the backward pass: up-projection and its GELU
    // (4 x width each), their gradient (one buffer, rewritten in place), the incoming and outgoing
    // gradients and the block's recomputed output. 12.5 % is what size classes may add.
    let row = ROWS * WIDTH * size_of::<f32>();
    let budget = ((LAYERS + 1) * row + 3 * 4 * row + 4 * row) * 9 / 8;
    assert!(
        peak <= budget,
        "peak {peak} bytes is above the budget of {budget} bytes"
    );
    assert!(
        plain_peak > 2 * peak,
        "without checkpointing {plain_peak}, with it {peak} bytes"
    );

    // A second backward pass without zeroing adds up in place.
    let (twice, _) = step(&layers, true);
    for (a, b) in twice.iter().flatten().zip(recomputed.iter().flatten()) {
        assert!(
            (a - 2.0 * b).abs() <= 1e-5 * b.abs().max(1e-3),
            "{a} is not twice {b}"
        );
    }

    // Memory is flat over many steps, and the gradients stay bit-equal.
    let (in_use, cached) = (memory::stats().in_use, memory::stats().cached);
    for _ in 0..20 {
        zero();
        assert_eq!(step(&layers, true).0, recomputed, "two runs differ");
        assert_eq!(memory::stats().in_use, in_use, "a step left tensors behind");
    }
    assert!(
        memory::stats().cached <= cached + row,
        "the cache grew from {cached} to {}",
        memory::stats().cached
    );
}
