//! Fused output layer and cross-entropy: supervised rows alone, logits in chunks.

use std::sync::Arc;

use crate::{
    DType, Param, Result, Tape, Tensor, TokenLoss, Var,
    cpu::Layout,
    cuda::{Cuda, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "cross_entropy",
    code: include_str!("../kernels/cross_entropy.cu"),
};
const GATHER: Kernel = SOURCE.kernel("gather_rows");
const SCATTER: Kernel = SOURCE.kernel("scatter_rows");
const LOSSES: Kernel = SOURCE.kernel("row_losses");
const TOTAL: Kernel = SOURCE.kernel("total");
const GRADIENTS: Kernel = SOURCE.kernel("logit_gradients");

/// Rows of logits that exist at the same time: 262 MB of f32 for a vocabulary of 32,064.
const CHUNK: usize = 2048;

/// Supervised rows: their places in the stream, their labels, their inputs.
struct Rows {
    places: Vec<i32>,
    labels: Vec<i32>,
    vocab: usize,
}

/// As [`Tape::linear_cross_entropy`], with checked shapes and labels; `rows` are the supervised ones.
pub(crate) fn linear_cross_entropy(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    weight: &Param,
    labels: &[i32],
    rows: &[usize],
) -> Result<TokenLoss> {
    let (vocab, count) = (weight.shape().first().copied().unwrap_or(0), rows.len());
    let rows = Rows {
        places: rows.iter().map(|t| *t as i32).collect(),
        labels: rows.iter().map(|t| labels[*t]).collect(),
        vocab,
    };
    let mut per_token = cuda.zeros(&[labels.len()], DType::F32)?;
    let mut sum = cuda.zeros(&[], DType::F32)?;
    if count == 0 {
        return Ok(TokenLoss {
            sum: Var::constant(sum),
            count,
            per_token,
        });
    }
    let w = weight.value();
    let mut lse = Vec::new();
    let mut losses = Vec::new();
    for (places, labels) in rows.chunks() {
        let places = cuda.constant(places)?;
        let labels = cuda.constant(labels)?;
        let logits = rows.logits(cuda, x.value(), &w, &places)?.1;
        let n = places.numel();
        let mut part = cuda.empty(&[n], DType::F32)?;
        let mut loss = cuda.empty(&[n], DType::F32)?;
        let arguments = args![
            &logits,
            &labels,
            &places,
            &mut part,
            &mut loss,
            &mut per_token,
            vocab as i32
        ];
        cuda.launch(&LOSSES, w.dtype(), Grid::new(n, 512), arguments)?;
        lse.push(part);
        losses.push(loss);
    }
    let all = Tensor::concat(&losses)?;
    cuda.launch(
        &TOTAL,
        DType::F32,
        Grid::new(1, 1024),
        args![&all, &mut sum, count as i32],
    )?;
    if !tape.needs_grad(&[x], &[weight]) {
        return Ok(TokenLoss {
            sum: Var::constant(sum),
            count,
            per_token,
        });
    }
    let (cuda, x, weight) = (cuda.clone(), x.clone(), weight.clone());
    let sum = tape.record(sum, move |dy, grads| {
        let d = x.value().last_dim();
        let scale = dy.to_device(&x.value().device())?.cast(DType::F32)?;
        let mut dx = match x.requires_grad() {
            true => Some(cuda.zeros(x.shape(), x.value().dtype())?),
            false => None,
        };
        for ((places, labels), lse) in rows.chunks().zip(&lse) {
            let places = cuda.constant(places)?;
            let labels = cuda.constant(labels)?;
            let n = places.numel();
            let (inputs, logits) = rows.logits(&cuda, x.value(), &w, &places)?;
            let mut dz = cuda.empty(&[n, vocab], w.dtype())?;
            let arguments = args![&logits, &labels, lse, &scale, &mut dz, vocab as i32];
            cuda.launch(&GRADIENTS, w.dtype(), Grid::new(n, 512), arguments)?;
            drop(logits);
            if weight.requires_grad() {
                weight.accumulate_tensor(|dw, beta| {
                    cuda.gemm(Layout::TN, [vocab, d, n], &dz, &inputs, dw, beta)
                })?;
            }
            if let Some(dx) = &mut dx {
                let mut part = cuda.empty(&[n, d], w.dtype())?;
                cuda.gemm(Layout::NN, [n, d, vocab], &dz, &w, &mut part, 0.0)?;
                let arguments = args![&part, &places, dx, d as i32];
                cuda.launch(&SCATTER, w.dtype(), Grid::new(n, 128), arguments)?;
            }
        }
        match dx {
            Some(dx) => grads.add(&x, dx),
            None => Ok(()),
        }
    });
    Ok(TokenLoss {
        sum,
        count,
        per_token,
    })
}

impl Rows {
    fn chunks(&self) -> impl Iterator<Item = (&[i32], &[i32])> {
        self.places.chunks(CHUNK).zip(self.labels.chunks(CHUNK))
    }

    /// The rows of `x` at `places`, and their logits in f32.
    fn logits(
        &self,
        cuda: &Arc<Cuda>,
        x: &Tensor,
        w: &Tensor,
        places: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (n, d) = (places.numel(), x.last_dim());
        let mut inputs = cuda.empty(&[n, d], x.dtype())?;
        let arguments = args![x, places, &mut inputs, d as i32];
        cuda.launch(&GATHER, x.dtype(), Grid::new(n, 128), arguments)?;
        let mut logits = cuda.empty(&[n, self.vocab], DType::F32)?;
        cuda.gemm(Layout::NT, [n, self.vocab, d], &inputs, w, &mut logits, 0.0)?;
        Ok((inputs, logits))
    }
}

#[cfg(test)]
mod tests {
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn cross_entropy_agrees_with_the_cpu() {
        let mut rng = Rng::new(520);
        for (t, d, v) in [(1, 8, 5), (70, 24, 37), (4500, 16, 64), (130, 96, 1003)] {
            let (x, w) = (rng.tensor(&[t, d]), rng.tensor(&[v, d]));
            for every in [1, 3, usize::MAX] {
                let labels: Vec<i32> = (0..t)
                    .map(|i| {
                        if i % every == 0 {
                            (i * 5 % v) as i32
                        } else {
                            -100
                        }
                    })
                    .collect();
                compare(
                    &format!("loss {t} x {d} x {v}, every {every}"),
                    std::slice::from_ref(&x),
                    std::slice::from_ref(&w),
                    |tape, x, p| {
                        let loss = tape.linear_cross_entropy(&x[0], &p[0], &labels)?;
                        Ok(vec![loss.sum, loss.per_token.into()])
                    },
                );
            }
        }
    }
}
