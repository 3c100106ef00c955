//! The last step of reductions over rows: sums of parts, many with one launch.

use std::sync::Arc;

use crate::{
    DType, Error, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    error::ensure_shape,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "sum_parts",
    code: include_str!("../kernels/sum_parts.cu"),
};
const SUM_PARTS: Kernel = SOURCE.kernel("sum_parts");

const OP: &str = "sum of parts";
const THREADS: usize = 1024;

/// Words of eight bytes of `struct Sum` of the kernel.
const WORDS: usize = 6;

/// Sums that are queued with one launch. The list is an argument of the kernel, so that nothing is copied to the
/// device for it.
pub(crate) struct PartSums {
    cuda: Arc<Cuda>,
    words: Vec<u64>,
    blocks: usize,
}

impl PartSums {
    /// The most sums of one list: arguments have 4 KiB.
    pub(crate) const MOST: usize = 48;

    pub(crate) fn new(cuda: &Arc<Cuda>) -> Self {
        Self {
            cuda: cuda.clone(),
            words: Vec::with_capacity(Self::MOST * WORDS),
            blocks: 0,
        }
    }

    /// Adds `out = beta out + sum over parts of part [parts, n]` in an order fixed by `parts`; f32 or bf16. Both
    /// tensors stay until [`PartSums::launch`], and no other sum of the list has this output.
    pub(crate) fn push(
        &mut self,
        part: &Tensor,
        parts: usize,
        out: &mut Tensor,
        beta: f32,
    ) -> Result<()> {
        let n = out.numel();
        let is_bf16 = match out.dtype() {
            DType::F32 => 0,
            DType::BF16 => 1,
            got => return Err(wrong_type(got)),
        };
        if part.dtype() != DType::F32 {
            return Err(wrong_type(part.dtype()));
        }
        let fits = part.numel() == parts * n;
        ensure_shape(OP, fits, || format!("[{parts}, {n}]"), part.shape())?;
        for tensor in [part, &*out] {
            if !tensor.cuda().is_some_and(|c| Arc::ptr_eq(c, &self.cuda)) {
                return Err(Error::DeviceMismatch {
                    op: OP,
                    expected: format!("cuda:{}", self.cuda.ordinal()),
                    got: tensor.device().to_string(),
                });
            }
        }
        if self.count() == Self::MOST {
            return Err(Error::InvalidArgument {
                op: OP,
                reason: format!("more than {} sums", Self::MOST),
            });
        }
        // So many warps add up one column, each every so-manieth part.
        let groups = parts.next_power_of_two().min(32);
        let pair = |low: usize, high: usize| u64::from(low as u32) | (high as u64) << 32;
        self.words.extend([
            part.cuda_address()?,
            out.cuda_address_mut()?,
            n as u64,
            pair(parts, groups),
            pair(self.blocks, is_bf16),
            u64::from(beta.to_bits()),
        ]);
        self.blocks += n.div_ceil(THREADS / groups);
        Ok(())
    }

    fn count(&self) -> usize {
        self.words.len() / WORDS
    }

    /// Queues the sums.
    pub(crate) fn launch(mut self) -> Result<()> {
        let count = self.count() as i32;
        self.words.resize(Self::MOST * WORDS, 0);
        let grid = Grid::new(self.blocks, THREADS);
        self.cuda
            .launch(&SUM_PARTS, DType::F32, grid, args![self.words, count])
    }
}

/// `out = beta out + sum over parts of part [parts, n]` at once, for what is no weight's gradient.
pub(super) fn sum_parts(
    cuda: &Arc<Cuda>,
    part: &Tensor,
    parts: usize,
    out: &mut Tensor,
    beta: f32,
) -> Result<()> {
    let mut sums = PartSums::new(cuda);
    sums.push(part, parts, out, beta)?;
    sums.launch()
}

fn wrong_type(got: DType) -> Error {
    Error::DTypeMismatch {
        op: OP,
        expected: DType::F32,
        got,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, Param, Tape,
        cuda::testing::gpu,
        memory,
        ops::testing::{Rng, close},
        optim::global_grad_norm,
    };

    /// Sizes of gradients and the numbers of their parts: every kind beside every other, more than a list holds.
    fn sizes() -> Vec<[usize; 2]> {
        let all = [0, 1, 2, 3, 17, 33, 264]
            .map(|parts| [1, 7, 0, 768, 3072, 5000, 33, 1024, 1025].map(|n| [parts, n]));
        all.concat()
    }

    /// A weight on the GPU that trains.
    fn param(device: &Device, n: usize, grad: DType) -> Param {
        let param = Param::new(format!("{n}"), Tensor::zeros(&[n]));
        param.to_device(device, DType::BF16, grad).unwrap();
        param.set_requires_grad(true);
        param
    }

    /// What the kernel does, in its order.
    fn in_order(part: &[f32], [parts, n]: [usize; 2]) -> Vec<f32> {
        let groups = parts.next_power_of_two().min(32);
        let column = |c: usize| {
            let group = |g: usize| {
                let own = (g..parts).step_by(groups);
                own.fold(0.0f32, |sum, p| sum + part[p * n + c])
            };
            (1..groups).fold(group(0), |sum, g| sum + group(g))
        };
        (0..n).map(column).collect()
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn sums_in_lists_are_those_one_by_one_to_the_bit() {
        memory::set_poison(true);
        let (device, mut rng) = (gpu(), Rng::new(570));
        let sizes = sizes();
        assert!(sizes.len() > PartSums::MOST);
        let random: Vec<_> = sizes
            .iter()
            .map(|&[parts, n]| [0; 2].map(|_| rng.tensor(&[parts, n])))
            .collect();
        let host = |p: &Param| p.grad().unwrap().to_f32_vec().unwrap();
        let place = |t: &Tensor| t.to_device(&device).unwrap();
        let types = [DType::F32, DType::BF16];
        let make = || -> Vec<Param> {
            let types = types.into_iter().cycle();
            let all = sizes.iter().zip(types);
            all.map(|(&[_, n], dtype)| param(&device, n, dtype))
                .collect()
        };
        let (alone, together) = (make(), make());
        for pass in 0..2 {
            for (i, [parts, _]) in sizes.iter().enumerate() {
                let part = &random[i][pass];
                alone[i].accumulate_parts(place(part), *parts).unwrap();
                together[i].accumulate_parts(place(part), *parts).unwrap();
                // Reading sums this one alone.
                let got = host(&alone[i]);
                if pass == 0 {
                    let want = in_order(part.data().unwrap(), sizes[i]);
                    let want = Tensor::from_vec(want, &[sizes[i][1]]).unwrap();
                    let want = want.cast(types[i % 2]).unwrap().to_f32_vec().unwrap();
                    assert_eq!(got, want, "{:?}", sizes[i]);
                }
            }
            // Each twice, and those that have nothing to sum among them.
            Param::sum_grads(together.iter().chain(&together).chain(&alone)).unwrap();
            for (i, size) in sizes.iter().enumerate() {
                assert!(!together[i].waits(), "{size:?}");
                let [a, b] = [&alone[i], &together[i]].map(host);
                let same = a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same && a.len() == size[1], "{size:?} in pass {pass}");
            }
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn parts_that_wait_are_part_of_the_gradient() {
        memory::set_poison(true);
        let (device, mut rng) = (gpu(), Rng::new(571));
        let [parts, n] = [33, 771];
        let random = [0; 3].map(|_| rng.tensor(&[parts, n]));
        let sums = |which: &[usize]| -> Vec<f32> {
            let all: Vec<&[f32]> = which.iter().map(|i| random[*i].data().unwrap()).collect();
            let column = |c: usize| {
                let values = all.iter().flat_map(|part| part[c..].iter().step_by(n));
                values.map(|x| f64::from(*x)).sum::<f64>() as f32
            };
            (0..n).map(column).collect()
        };
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2)] {
            let param = param(&device, n, dtype);
            let add = |i: usize| {
                let part = random[i].to_device(&device).unwrap();
                param.accumulate_parts(part, parts).unwrap();
                assert!(param.waits());
            };
            let check = |grad: Option<Tensor>, which: &[usize]| {
                let got = grad.unwrap().to_f32_vec().unwrap();
                close(
                    &got,
                    &sums(which),
                    tolerance,
                    &format!("{which:?}, {dtype}"),
                );
            };
            add(0);
            add(1);
            check(param.grad(), &[0, 1]);
            // What was read stays what it was.
            let before = param.grad();
            add(2);
            check(param.grad(), &[0, 1, 2]);
            check(before, &[0, 1]);
            add(0);
            param.zero_grad();
            assert!(param.grad().is_none() && !param.waits());
            add(1);
            check(param.measured_grad().map(|(grad, _)| grad), &[1]);
            let other = Tensor::from_vec(sums(&[0]), &[n]).unwrap();
            let other = other.cast(dtype).unwrap().to_device(&device).unwrap();
            param.add_grad(other).unwrap();
            check(param.grad(), &[1, 0]);
            param.zero_grad();
            add(2);
            param
                .accumulate_tensor(|_, beta| {
                    assert_eq!(beta, 1.0);
                    Ok(())
                })
                .unwrap();
            check(param.grad(), &[2]);
            param.zero_grad();
            add(0);
            param
                .update_tensor(|_, grad| {
                    check(grad.cloned(), &[0]);
                    Ok(())
                })
                .unwrap();
            add(1);
            check(param.take_grad(), &[0, 1]);
            assert!(param.grad().is_none());
            // The norm of a step has them.
            add(1);
            let norm = f64::from(global_grad_norm([&param]).unwrap());
            let want = sums(&[1])
                .iter()
                .map(|x| f64::from(*x).powi(2))
                .sum::<f64>();
            assert!((norm / want.sqrt() - 1.0).abs() < tolerance, "{norm}");
        }
    }

    /// Nothing waits behind a backward pass, of a checkpointed segment either, and weights that are used twice have
    /// both their gradients.
    #[test]
    #[ignore = "needs a GPU"]
    fn nothing_waits_behind_a_backward_pass() {
        memory::set_poison(true);
        let (device, mut rng) = (gpu(), Rng::new(572));
        let [rows, n] = [100, 64];
        let x = rng.tensor(&[rows, n]).cast(DType::BF16).unwrap();
        let seed = rng.tensor(&[rows, n]).cast(DType::BF16).unwrap();
        let run = |segments: bool| -> Vec<Vec<f32>> {
            let params: Vec<Param> = (0..PartSums::MOST)
                .map(|_| param(&device, n, DType::BF16))
                .collect();
            for p in &params {
                let ones = Tensor::from_vec(vec![1.0; n], &[n]).unwrap();
                let ones = ones.cast(DType::BF16).unwrap();
                p.set_value(ones.to_device(&device).unwrap()).unwrap();
            }
            let tape = Tape::training();
            let mut y = tape.leaf(x.to_device(&device).unwrap());
            for two in params.chunks(2).chain(params.chunks(2)) {
                let [a, b] = [two[0].clone(), two[1].clone()];
                let segment = move |tape: &Tape, x: &[crate::Var]| {
                    let y = tape.rms_norm(&x[0], &a, 1e-6)?;
                    Ok(vec![tape.rms_norm(&y, &b, 1e-6)?])
                };
                y = match segments {
                    true => tape.checkpoint(&[&y], segment).unwrap().swap_remove(0),
                    false => segment(&tape, &[y]).unwrap().swap_remove(0),
                };
            }
            let seed = seed.to_device(&device).unwrap();
            tape.backward_from(vec![(y, seed)], &[]).unwrap();
            assert!(params.iter().all(|p| !p.waits()));
            let grads = params.iter().map(|p| p.grad().unwrap());
            grads.map(|g| g.to_f32_vec().unwrap()).collect()
        };
        let got = run(false);
        assert!(got.iter().flatten().all(|g| g.is_finite()));
        assert_eq!(got, run(true));
    }
}
