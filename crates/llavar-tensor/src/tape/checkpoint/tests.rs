use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
};

use super::*;
use crate::{
    AttentionSpec, DType, Error, Param, RopeTable, Segments, cuda::testing::gpu, memory,
    ops::testing::Rng,
};

/// Values of a segment that are kept: how often each was made, and whether they still are somewhere.
#[derive(Clone, Default)]
struct Watch {
    made: Rc<Cell<usize>>,
    values: Rc<RefCell<Vec<Weak<usize>>>>,
}

impl Watch {
    /// A value that says when it was made.
    fn keep(&self, tape: &Tape) -> usize {
        let value = tape.kept(|| {
            self.made.set(self.made.get() + 1);
            let value = Rc::new(self.made.get());
            self.values.borrow_mut().push(Rc::downgrade(&value));
            Ok(value)
        });
        *value.unwrap()
    }

    fn alive(&self) -> usize {
        let values = self.values.borrow();
        values.iter().filter(|v| v.strong_count() > 0).count()
    }
}

fn ones(x: &Var) -> Tensor {
    Tensor::from_vec(vec![1.0f32; x.value().numel()], x.shape()).unwrap()
}

#[test]
fn a_value_is_made_once_taken_over_in_order_and_freed() {
    let (watch, tape) = (Watch::default(), Tape::training());
    let x = tape.leaf(Tensor::zeros(&[2]));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let y = {
        let (watch, seen) = (watch.clone(), seen.clone());
        tape.checkpoint(&[&x], move |tape, x| {
            let y = tape.add(&x[0], &x[0])?;
            let values = [watch.keep(tape), watch.keep(tape)];
            // Of the first two nothing is left where the second run has come to the last.
            let alive = watch.alive();
            seen.borrow_mut().push((values, alive, watch.keep(tape)));
            Ok(vec![y])
        })
    };
    let y = y.unwrap().remove(0);
    assert_eq!((watch.made.get(), watch.alive()), (3, 3));
    let seed = ones(&y);
    tape.backward_from(vec![(y, seed)], &[]).unwrap();
    assert_eq!((watch.made.get(), watch.alive()), (3, 0));
    assert_eq!(*seen.borrow(), [([1, 2], 2, 3), ([1, 2], 1, 3)]);
}

#[test]
fn no_gradient_and_no_backward_pass_free_values_too() {
    for run in [false, true] {
        let (watch, tape) = (Watch::default(), Tape::training());
        let x = tape.leaf(Tensor::zeros(&[2]));
        let (y, other) = (
            {
                let watch = watch.clone();
                tape.checkpoint(&[&x], move |tape, x| {
                    watch.keep(tape);
                    Ok(vec![tape.add(&x[0], &x[0])?])
                })
                .unwrap()
                .remove(0)
            },
            tape.add(&x, &x).unwrap(),
        );
        assert_eq!((watch.made.get(), watch.alive()), (1, 1));
        drop(y);
        match run {
            true => {
                let seed = ones(&other);
                tape.backward_from(vec![(other, seed)], &[]).unwrap();
            }
            false => drop(tape),
        }
        assert_eq!((watch.made.get(), watch.alive()), (1, 0));
    }
}

#[test]
fn an_inference_tape_keeps_nothing() {
    let (watch, tape) = (Watch::default(), Tape::inference());
    let inner = watch.clone();
    let x = Var::constant(Tensor::zeros(&[2]));
    let y = tape.checkpoint(&[&x], move |tape, x| {
        assert!(!tape.is_checkpointed());
        inner.keep(tape);
        Ok(vec![x[0].clone()])
    });
    y.unwrap();
    assert_eq!((watch.made.get(), watch.alive()), (1, 0));
    // Nor does one that records, outside of a checkpoint.
    watch.keep(&Tape::training());
    assert_eq!((watch.made.get(), watch.alive()), (2, 0));
}

#[test]
fn a_checkpoint_inside_of_another_has_its_own_values() {
    let [outer, inner] = [Watch::default(), Watch::default()];
    let tape = Tape::training();
    let x = tape.leaf(Tensor::zeros(&[2]));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let y = {
        let (outer, inner, seen) = (outer.clone(), inner.clone(), seen.clone());
        tape.checkpoint(&[&x], move |tape, x| {
            let first = outer.keep(tape);
            let watch = inner.clone();
            let y = tape.checkpoint(&[&x[0]], move |tape, x| {
                watch.keep(tape);
                Ok(vec![tape.add(&x[0], &x[0])?])
            })?;
            seen.borrow_mut().push((first, outer.keep(tape)));
            Ok(y)
        })
    };
    let y = y.unwrap().remove(0);
    assert_eq!((outer.alive(), inner.alive()), (2, 0));
    let seed = ones(&y);
    let grads = tape.backward_from(vec![(y, seed)], &[&x]).unwrap();
    let grad = grads[0].as_ref().unwrap();
    assert_eq!(grad.to_f32_vec().unwrap(), [2.0, 2.0]);
    assert_eq!((outer.alive(), inner.alive()), (0, 0));
    // The inner one: in the outer first run, which keeps nothing of it, and in its own first run.
    assert_eq!((outer.made.get(), inner.made.get()), (2, 2));
    assert_eq!(*seen.borrow(), [(1, 2), (1, 2)]);
}

#[test]
fn a_value_of_another_type_is_made_anew() {
    let (tape, runs) = (Tape::training(), Cell::new(0));
    let x = tape.leaf(Tensor::zeros(&[2]));
    let y = tape.checkpoint(&[&x], move |tape, x| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            assert_eq!(tape.kept(|| Ok(1u8))?, 1);
        } else {
            assert_eq!(tape.kept(|| Ok(2u16))?, 2);
            assert_eq!(tape.kept(|| Ok(3u8))?, 3);
        }
        let failed = tape.kept(|| Err::<u8, _>(Error::NotRecorded { op: "test" }));
        assert!(failed.is_err());
        Ok(vec![tape.add(&x[0], &x[0])?])
    });
    let y = y.unwrap().remove(0);
    let seed = ones(&y);
    tape.backward_from(vec![(y, seed)], &[]).unwrap();
}

/// Two attentions with a product between and one behind; the second one's keys and values have no gradient, and
/// with `frozen` the first has none at all.
fn attend(tape: &Tape, x: &[Var], w: &Param, frozen: bool) -> Result<Var> {
    let spec = |causal| AttentionSpec::within(Segments::from_lengths([5, 0, 8]), causal, 8);
    let first = if frozen { x[0].detach() } else { x[0].clone() };
    let q = tape.reshape(&first, &[13, 4, 8])?;
    let y = tape.attention(&q, &x[1], &x[1], &spec(true))?;
    let y = tape.linear(&tape.reshape(&y, &[13, 32])?, w, None)?;
    let y = tape.reshape(&y, &[13, 4, 8])?;
    let k = x[1].detach();
    let y = tape.attention(&y, &k, &k, &spec(false))?;
    let y = tape.reshape(&y, &[13, 32])?;
    tape.closing(|tape| tape.linear_residual(&y, w, None, Some(&x[0])))
}

#[test]
fn attention_that_is_kept_gives_the_same_bits() {
    let mut rng = Rng::new(70);
    let (x, k) = (rng.tensor(&[13, 32]), rng.tensor(&[13, 2, 8]));
    let (w, seed) = (rng.tensor(&[32, 32]), rng.tensor(&[13, 32]));
    // Not at all, in one checkpoint, in one within another.
    let run = |depth: usize, frozen: bool| {
        let param = Param::new("w", w.clone());
        param.set_requires_grad(true);
        let tape = Tape::training();
        let leaves = [tape.leaf(x.clone()), tape.leaf(k.clone())];
        let inputs = [&leaves[0], &leaves[1]];
        let weight = param.clone();
        let once = move |tape: &Tape, x: &[Var]| Ok(vec![attend(tape, x, &weight, frozen)?]);
        let out = match depth {
            0 => once(&tape, &leaves),
            1 => tape.checkpoint(&inputs, once),
            _ => tape.checkpoint(&inputs, move |tape, x| {
                tape.checkpoint(&[&x[0], &x[1]], once.clone())
            }),
        };
        let out = out.unwrap().remove(0);
        let value = out.value().to_f32_vec().unwrap();
        let grads = tape.backward_from(vec![(out, seed.clone())], &inputs);
        let mut all = vec![value, param.grad().unwrap().to_f32_vec().unwrap()];
        let grads = grads.unwrap().into_iter();
        all.extend(grads.map(|g| g.map_or(Vec::new(), |g| g.to_f32_vec().unwrap())));
        all
    };
    for frozen in [false, true] {
        let plain = run(0, frozen);
        assert!(plain.iter().flatten().any(|v| *v != 0.0));
        for depth in [1, 2] {
            assert!(plain == run(depth, frozen), "{depth} deep, frozen {frozen}");
        }
    }
}

#[test]
fn the_second_run_takes_attention_over() {
    let mut rng = Rng::new(71);
    let x = rng.tensor(&[13, 4, 8]);
    let spec = AttentionSpec::within(Segments::from_lengths([13]), true, 8);
    let tape = Tape::training();
    let leaf = tape.leaf(x);
    let memory = Rc::new(RefCell::new(Vec::new()));
    let seen = memory.clone();
    let out = tape.checkpoint(&[&leaf], move |tape, x| {
        let y = tape.attention(&x[0], &x[0], &x[0], &spec)?;
        seen.borrow_mut().push(y.value().clone());
        Ok(vec![tape.add(&y, &y)?])
    });
    let out = out.unwrap().remove(0);
    let seed = ones(&out);
    tape.backward_from(vec![(out, seed)], &[]).unwrap();
    let memory = memory.borrow();
    assert!(memory.len() == 2 && memory[0].is_same_memory(&memory[1]));
}

/// Every kind of attention: ours for Hopper, cuDNN's and plain kernels, of heads in a row and of heads apart.
#[test]
#[ignore = "needs a GPU"]
fn cuda_attention_that_is_kept_gives_the_same_bits() {
    let (device, mut rng) = (gpu(), Rng::new(72));
    let cuda = device.as_cuda().unwrap();
    memory::set_poison(true);
    let (tokens, heads, kv) = (211, 4, 2);
    let positions: Vec<i32> = (0..tokens as i32).collect();
    for (dim, causal) in [
        (64, true),
        (96, false),
        (128, true),
        (80, true),
        (10, false),
    ] {
        let width = (heads + 2 * kv) * dim;
        let inv_freq: Vec<f32> = (0..dim / 2).map(|i| 0.9f32.powi(i as i32)).collect();
        let table = Arc::new(RopeTable::new(&inv_freq, tokens, 1.0));
        let spec = AttentionSpec::within(Segments::from_lengths([130, 0, 81]), causal, dim);
        let (x, w) = (rng.tensor(&[tokens, width]), rng.tensor(&[width, width]));
        let seed = rng.tensor(&[tokens, heads * dim]);
        for dtype in [DType::BF16, DType::F32] {
            let place = |t: &Tensor| t.cast(dtype).unwrap().to_device(&device).unwrap();
            let run = |in_row: bool, again: bool| {
                let param = Param::new("w", place(&w));
                param.set_requires_grad(true);
                let tape = Tape::training();
                let leaf = tape.leaf(place(&x));
                let (weight, table, spec) = (param.clone(), table.clone(), spec.clone());
                let positions = positions.clone();
                let segment = move |tape: &Tape, x: &[Var]| {
                    let qkv = tape.linear(&x[0], &weight, None)?;
                    let at = (&table, positions.as_slice());
                    let y = if in_row {
                        tape.rope_attention(qkv, [heads, kv], at, &spec)?
                    } else {
                        let (q, k, v) = tape.split_qkv_rope(&qkv, heads, kv, at.0, at.1)?;
                        tape.attention(&q, &k, &v, &spec)?
                    };
                    Ok(vec![tape.reshape(&y, &[tokens, heads * dim])?])
                };
                let before = cuda.memory().in_use;
                let out = match again {
                    true => tape.checkpoint(&[&leaf], segment),
                    false => segment(&tape, std::slice::from_ref(&leaf)),
                };
                let out = out.unwrap().remove(0);
                let held = cuda.memory().in_use - before;
                let value = out.value().to_f32_vec().unwrap();
                let grads = tape.backward_from(vec![(out, place(&seed))], &[&leaf]);
                let grad = grads.unwrap().remove(0).unwrap();
                let grads = [grad, param.grad().unwrap()].map(|g| g.to_f32_vec().unwrap());
                (value, grads, held)
            };
            for in_row in [true, false] {
                let what = format!("heads of {dim} in {dtype}, in a row {in_row}");
                let (plain, again) = (run(in_row, false), run(in_row, true));
                let finite = |all: &[f32]| all.iter().all(|v| v.is_finite());
                assert!(
                    finite(&plain.0) && plain.1.iter().all(|g| finite(g)),
                    "{what}"
                );
                assert!(plain.0 == again.0, "{what}: values");
                assert!(plain.1 == again.1, "{what}: gradients");
                println!("{what}: {} bytes, kept {}", plain.2, again.2);
                assert!(again.2 < plain.2, "{what}: memory");
            }
        }
    }
}
