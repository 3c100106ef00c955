//! Attention by the kernels that read and write heads where they lie: ours for Hopper, and cuDNN's.

use std::sync::Arc;

use super::trust;
use crate::{
    DType, Result, Tensor,
    cuda::{
        Cuda,
        attention_hopper::{self as hopper, Heads},
        cudnn,
        ops::Angles,
    },
    ops::attention::Problem,
};

/// Which kernels take a problem.
pub(super) enum Way {
    Hopper,
    Cudnn(cudnn::Fit),
}

/// What the backward pass needs of a forward pass beside its inputs and output.
pub(super) enum Statistics {
    Hopper(hopper::Statistics),
    Cudnn(cudnn::Statistics),
}

impl Way {
    /// For queries, keys and values that are `inputs`, or lie side by side in the rows of the only one, with their
    /// heads at `heads`; for the backward pass too where `wants_grad`.
    pub(super) fn of(
        cuda: &Arc<Cuda>,
        problem: &Problem,
        inputs: &[&Tensor],
        heads: [Heads; 3],
        wants_grad: bool,
    ) -> Result<Option<Self>> {
        let bf16 = inputs.iter().all(|t| t.dtype() == DType::BF16);
        if bf16 && hopper::fits(cuda, problem, heads) && trust::trusted(cuda, problem.dim)? {
            return Ok(Some(Self::Hopper));
        }
        Ok(cudnn::fit(cuda, problem, inputs, wants_grad)?.map(Self::Cudnn))
    }

    /// Output `[T, Hq, D]`, and statistics for the backward pass.
    pub(super) fn forward(
        self,
        cuda: &Arc<Cuda>,
        problem: &Problem,
        heads: [Heads; 3],
    ) -> Result<(Tensor, Statistics)> {
        match self {
            Self::Hopper => {
                let (out, statistics) = hopper::forward(cuda, problem, heads)?;
                Ok((out, Statistics::Hopper(statistics)))
            }
            Self::Cudnn(fit) => {
                let heads = heads.map(|h| h.address);
                let (out, statistics) = cudnn::forward(cuda, problem, fit, heads)?;
                Ok((out, Statistics::Cudnn(statistics)))
            }
        }
    }
}

impl Statistics {
    /// Writes the gradients of queries, keys and values to `to`; `outputs` are o and do. Says whether those of queries
    /// and keys are of what they were before they were turned by `angles`; otherwise they are of what they are.
    pub(super) fn backward(
        &self,
        cuda: &Arc<Cuda>,
        problem: &Problem,
        heads: [Heads; 3],
        outputs: [&Tensor; 2],
        to: [Heads; 3],
        angles: Option<&Angles>,
    ) -> Result<bool> {
        match self {
            Self::Hopper(statistics) => {
                hopper::backward(cuda, problem, statistics, heads, outputs, to, angles)?;
                Ok(angles.is_some())
            }
            Self::Cudnn(statistics) => {
                let (heads, to) = (heads.map(|h| h.address), to.map(|h| h.address));
                cudnn::backward(cuda, problem, statistics, heads, outputs, to)?;
                Ok(false)
            }
        }
    }
}

/// Where the heads of tensors `[T, heads, D]` lie.
pub(super) fn heads_of(tensors: [&Tensor; 3]) -> Result<[Heads; 3]> {
    let [q, k, v] = tensors.map(|t| Ok::<_, crate::Error>(heads_at(t.cuda_address()?, t)));
    Ok([q?, k?, v?])
}

/// The same of tensors that are written.
pub(super) fn heads_to(tensors: &mut [Tensor; 3]) -> Result<[Heads; 3]> {
    let [q, k, v] = tensors.each_mut().map(|t| {
        let address = t.cuda_address_mut()?;
        Ok::<_, crate::Error>(heads_at(address, t))
    });
    Ok([q?, k?, v?])
}

fn heads_at(address: u64, tensor: &Tensor) -> Heads {
    let stride = tensor.shape().iter().skip(1).product();
    Heads { address, stride }
}

/// Where query, key and value heads lie that are side by side in the rows at an address.
pub(super) fn heads_of_rows(rows: u64, problem: &Problem) -> [Heads; 3] {
    let stride = (problem.heads + 2 * problem.kv_heads) * problem.dim;
    cudnn::heads_of_rows(rows, problem).map(|address| Heads { address, stride })
}
