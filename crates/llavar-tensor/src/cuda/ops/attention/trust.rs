//! Whether the kernels of attention for Hopper compute here what they should: each head size once both ways.

use std::sync::Arc;

use super::{heads_of, heads_to, plain};
use crate::{
    AttentionSpec, DType, Result, Segments,
    cuda::{
        Cuda, attention_hopper as hopper,
        trust::{self, Noise, near},
    },
    ops::attention::Problem,
};

/// Whether both ways agree for this head size, found out on first use.
pub(super) fn trusted(cuda: &Arc<Cuda>, dim: usize) -> Result<bool> {
    trust::trusted(cuda, ("attention", dim), || {
        Ok(agrees(cuda, dim, true)? && agrees(cuda, dim, false)?)
    })
}

/// Two query heads that share a key head, two samples of several blocks.
fn agrees(cuda: &Arc<Cuda>, dim: usize, causal: bool) -> Result<bool> {
    let spec = AttentionSpec::within(Segments::from_lengths(vec![200, 70]), causal, dim);
    let problem = Problem::of(&spec, 2, 1, dim);
    let tokens = problem.queries();
    let mut noise = Noise::default();
    let mut random = |heads: usize| noise.tensor(cuda, &[tokens, heads, dim]);
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
        if !near(ours, plain)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, cuda::testing::gpu};

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
