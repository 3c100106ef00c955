//! Whether the kernels for Hopper compute here what they should.
//!
//! Their first operands of products stay in registers through a loop, and a release of NVIDIA's compiler (13.0.88) was
//! seen to give such registers to something else, silently. So a head size is computed once both ways, on a small
//! problem, before it is relied on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{heads_of, heads_to, plain};
use crate::{
    AttentionSpec, DType, Error, Result, Segments, Tensor,
    cuda::{Cuda, attention_hopper as hopper},
    ops::attention::Problem,
};

/// Relative L2 distance of two results that are rounded to bf16 on the way; what a lost register gives is 0.2 and more.
const TOLERANCE: f64 = 0.02;

/// By head size.
#[derive(Default)]
struct Trusted(Mutex<HashMap<usize, bool>>);

/// Whether both ways agree for this head size, found out on first use.
pub(super) fn trusted(cuda: &Arc<Cuda>, dim: usize) -> Result<bool> {
    let all = cuda.extension(|| Ok(Trusted::default()))?;
    let mut all = all.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(&dim) {
        return Ok(*known);
    }
    let agrees = [true, false].into_iter().try_fold(true, |all, causal| {
        Ok::<_, Error>(all && agrees(cuda, dim, causal)?)
    });
    if std::env::var_os("LLAVAR_CUDA_LOG").is_some() && !matches!(agrees, Ok(true)) {
        eprintln!("attention without our kernels for Hopper, heads of {dim}: {agrees:?}");
    }
    let agrees = match agrees {
        // That says nothing about the kernels.
        Err(Error::OutOfMemory { .. }) => return agrees,
        // They cannot be compiled or launched here.
        other => other.unwrap_or(false),
    };
    all.insert(dim, agrees);
    Ok(agrees)
}

/// Two query heads that share a key head, two samples of several blocks.
fn agrees(cuda: &Arc<Cuda>, dim: usize, causal: bool) -> Result<bool> {
    let spec = AttentionSpec::within(Segments::from_lengths(vec![200, 70]), causal, dim);
    let problem = Problem::of(&spec, 2, 1, dim);
    let tokens = problem.queries();
    let mut state = 1u32;
    let mut random = |heads: usize| -> Result<Tensor> {
        let values: Vec<f32> = std::iter::repeat_with(|| {
            // Numerical Recipes' generator: what matters is that no two rows are alike.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(tokens * heads * dim)
        .collect();
        cuda.upload(&values, &[tokens, heads, dim])?
            .cast(DType::BF16)
    };
    let (q, k, v, dout) = (random(2)?, random(1)?, random(1)?, random(2)?);
    let inputs = [&q, &k, &v];
    let (out, lse) = plain::forward(cuda, &problem, inputs)?;
    let [dq, dk, dv] = plain::backward(cuda, &problem, &lse, [&q, &k, &v, &out, &dout])?;
    let heads = heads_of(inputs)?;
    let (ours, statistics) = hopper::forward(cuda, &problem, heads)?;
    let [to_q, to_k, to_v] = inputs.map(|t| cuda.zeros(t.shape(), DType::BF16));
    let mut grads = [to_q?, to_k?, to_v?];
    let to = heads_to(&mut grads)?;
    let outputs = [&ours, &dout];
    hopper::backward(cuda, &problem, &statistics, heads, outputs, to, None)?;
    let [to_q, to_k, to_v] = &grads;
    for (ours, plain) in [(&ours, &out), (to_q, &dq), (to_k, &dk), (to_v, &dv)] {
        let (ours, plain) = (ours.to_f32_vec()?, plain.to_f32_vec()?);
        let square = |x: f32| f64::from(x) * f64::from(x);
        let apart: f64 = ours.iter().zip(&plain).map(|(a, b)| square(a - b)).sum();
        let all: f64 = plain.iter().map(|b| square(*b)).sum();
        // Not a number is no agreement.
        let near = apart <= TOLERANCE * TOLERANCE * all;
        if !near {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::testing::gpu;

    #[test]
    #[ignore = "needs a GPU"]
    fn this_compiler_is_trusted_on_hopper() {
        let tensor = Tensor::zeros(&[1]).to_device(&gpu()).unwrap();
        let cuda = tensor.cuda().unwrap();
        for dim in [64, 96, 128] {
            let hopper = cuda.info().is_hopper();
            assert_eq!(trusted(cuda, dim).unwrap(), hopper, "heads of {dim}");
        }
    }
}
