//! Fused output layer and cross-entropy: `loss = sum over supervised t of -log softmax(x_t W^T)[label_t]`.
//!
//! Shapes: `x [T, D]`, `W [V, D]`, `labels [T]` (already shifted: row t predicts `labels[t]`;
//! [`IGNORE_INDEX`] where nothing is supervised).
//! Only supervised rows are computed, in chunks of [`CHUNK`] rows, so that at most `CHUNK x V` logits
//! exist at a time. The forward pass keeps the log-sum-exp of each row; the backward pass computes the
//! logits again: `d logits = (softmax - onehot) dloss`, `dx = d logits W`, `dW += d logits^T x`.

use crate::{
    Error, Param, Result, Tape, Tensor, Var,
    cpu::{self, Layout, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
    ops::linear::widened,
};

/// Label of positions that carry no loss.
pub const IGNORE_INDEX: i32 = -100;

/// Rows of logits that exist at the same time.
const CHUNK: usize = 256;

/// Result of [`Tape::linear_cross_entropy`].
#[derive(Debug, Clone)]
pub struct TokenLoss {
    /// Sum of the losses over the supervised tokens (nats), a scalar.
    pub sum: Var,
    /// Number of supervised tokens.
    pub count: usize,
    /// Loss of every row (nats), f32 `[T]`; 0 where nothing is supervised.
    pub per_token: Tensor,
}

impl Tape {
    /// Cross-entropy of `softmax(x W^T)` against `labels`, logits never held whole. Ids from
    /// `valid_vocab` on (rows of `W` beyond the tokenizer) are part of the softmax, as in training by
    /// the reference.
    ///
    /// # Shapes
    /// `x [T, D]`, `weight [V, D]`, `labels [T]`.
    ///
    /// # Errors
    /// When the shapes do not fit or a label is outside the vocabulary.
    pub fn linear_cross_entropy(
        &self,
        x: &Var,
        weight: &Param,
        labels: &[i32],
    ) -> Result<TokenLoss> {
        let (v, d) = (
            weight.shape().first().copied().unwrap_or(0),
            weight.shape().last().copied().unwrap_or(1),
        );
        let fits = x.value().last_dim() == d && x.value().rows() == labels.len();
        ensure_shape(
            "linear_cross_entropy",
            fits,
            || format!("[{}, {d}]", labels.len()),
            x.shape(),
        )?;
        let rows: Vec<usize> = (0..labels.len())
            .filter(|t| labels[*t] != IGNORE_INDEX)
            .collect();
        if let Some(t) = rows
            .iter()
            .find(|t| labels[**t] < 0 || labels[**t] as usize >= v)
        {
            return Err(Error::IndexOutOfRange {
                op: "cross_entropy label",
                index: i64::from(labels[*t]),
                len: v,
            });
        }
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::linear_cross_entropy(self, cuda, x, weight, labels, &rows);
        }
        let head = Head {
            w: widened(&weight.value())?,
            v,
            d,
        };
        let (mut per_token, mut log_sum) = (vec![0.0; labels.len()], vec![0.0; rows.len()]);
        let mut total = 0.0f64;
        for (c, chunk) in rows.chunks(CHUNK).enumerate() {
            let (_, logits) = head.logits(x.value(), chunk)?;
            let lse = &mut log_sum[c * CHUNK..c * CHUNK + chunk.len()];
            cpu::par_items(lse, v, |first, lse| {
                for (i, lse) in lse.iter_mut().enumerate() {
                    *lse = log_sum_exp(&logits[(first + i) * v..(first + i + 1) * v]);
                }
            });
            for (i, t) in chunk.iter().enumerate() {
                per_token[*t] = lse[i] - logits[i * v + labels[*t] as usize];
                total += f64::from(per_token[*t]);
            }
        }
        let per_token = Tensor::from_vec(per_token, &[labels.len()])?;
        let count = rows.len();
        let sum = Tensor::scalar(total as f32);
        if !self.needs_grad(&[x], &[weight]) || count == 0 {
            return Ok(TokenLoss {
                sum: Var::constant(sum),
                count,
                per_token,
            });
        }
        let (x, weight, labels) = (x.clone(), weight.clone(), labels.to_vec());
        let sum = self.record(sum, move |dy, grads| {
            let scale = dy.item()?;
            let mut dx = Buffer::<f32>::zeros(x.value().numel());
            for (c, chunk) in rows.chunks(CHUNK).enumerate() {
                let (xs, mut logits) = head.logits(x.value(), chunk)?;
                cpu::par_rows(&mut logits, v, |first, logits| {
                    for (i, row) in logits.chunks_exact_mut(v).enumerate() {
                        let lse = log_sum[c * CHUNK + first + i];
                        softmax(row, lse, scale);
                        row[labels[chunk[first + i]] as usize] -= scale;
                    }
                });
                if weight.requires_grad() {
                    weight.accumulate(|dw, beta| {
                        cpu::gemm(Layout::TN, v, d, chunk.len(), &logits, &xs, dw, beta);
                        Ok(())
                    })?;
                }
                if x.requires_grad() {
                    let mut part = Buffer::<f32>::unspecified(chunk.len() * d);
                    cpu::gemm(
                        Layout::NN,
                        chunk.len(),
                        d,
                        v,
                        &logits,
                        head.w.data()?,
                        &mut part,
                        0.0,
                    );
                    for (row, t) in part.chunks_exact(d).zip(chunk) {
                        dx[t * d..(t + 1) * d].copy_from_slice(row);
                    }
                }
            }
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        });
        Ok(TokenLoss {
            sum,
            count,
            per_token,
        })
    }
}

struct Head {
    w: Tensor,
    v: usize,
    d: usize,
}

impl Head {
    /// The given rows of `x`, gathered, and their logits.
    fn logits(&self, x: &Tensor, rows: &[usize]) -> Result<(Buffer<f32>, Buffer<f32>)> {
        let (x, d) = (x.data::<f32>()?, self.d);
        let mut gathered = Buffer::<f32>::unspecified(rows.len() * d);
        for (to, t) in gathered.chunks_exact_mut(d).zip(rows) {
            to.copy_from_slice(&x[t * d..(t + 1) * d]);
        }
        let mut logits = Buffer::<f32>::unspecified(rows.len() * self.v);
        cpu::gemm(
            Layout::NT,
            rows.len(),
            self.v,
            d,
            &gathered,
            self.w.data()?,
            &mut logits,
            0.0,
        );
        Ok((gathered, logits))
    }
}

kernel! {
    /// `ln sum e^z`, safe against overflow.
    fn log_sum_exp(z: &[f32]) -> f32 {
        let max = cpu::max(z);
        // The exponentials of a block are written down, so that they can be added up as vectors.
        let (mut block, mut total) = ([0.0f32; 1024], 0.0);
        for z in z.chunks(block.len()) {
            let e = &mut block[..z.len()];
            for (e, z) in e.iter_mut().zip(z) {
                *e = cpu::exp(z - max);
            }
            total += cpu::sum(e);
        }
        max + total.ln()
    }
}

kernel! {
    /// `z = scale e^(z - lse)`.
    fn softmax(z: &mut [f32], lse: f32, scale: f32) {
        for z in z {
            *z = cpu::exp(*z - lse) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn loss_agrees_with_a_plain_loop_and_large_logits_are_safe() {
        let mut rng = Rng::new(14);
        for scale in [1.0f32, 300.0] {
            // More rows than one chunk, with gaps.
            let (t, d, v) = (600, 5, 37);
            let x = rng.tensor(&[t, d]);
            let w = Param::new("w", rng.tensor(&[v, d]));
            let wv: Vec<f32> = w
                .value()
                .to_f32_vec()
                .unwrap()
                .iter()
                .map(|x| x * scale)
                .collect();
            w.set_value(Tensor::from_vec(wv.clone(), &[v, d]).unwrap())
                .unwrap();
            let labels: Vec<i32> = (0..t)
                .map(|i| if i % 7 == 0 { -100 } else { (i * 5 % v) as i32 })
                .collect();
            let loss = Tape::inference()
                .linear_cross_entropy(&x.clone().into(), &w, &labels)
                .unwrap();
            let xv = x.to_f32_vec().unwrap();
            let per_token = loss.per_token.to_f32_vec().unwrap();
            let mut want = 0.0;
            for i in (0..t).filter(|i| i % 7 != 0) {
                let z: Vec<f64> = (0..v)
                    .map(|j| {
                        (0..d)
                            .map(|l| f64::from(xv[i * d + l] * wv[j * d + l]))
                            .sum()
                    })
                    .collect();
                let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
                let nll = lse - z[labels[i] as usize];
                assert!(
                    (f64::from(per_token[i]) - nll).abs() < 1e-4 * f64::from(scale),
                    "row {i}"
                );
                want += nll;
            }
            assert_eq!(loss.count, t - t.div_ceil(7));
            assert!((f64::from(loss.sum.value().item().unwrap()) - want).abs() < 1e-5 * want);
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(15);
        let w = Param::new("w", rng.tensor(&[11, 6]));
        let labels = [3, -100, 0, 10, -100, 3, 7];
        check_gradients(&[rng.tensor(&[7, 6])], &[&w], |tape, x| {
            Ok(tape.linear_cross_entropy(&x[0], &w, &labels)?.sum)
        });
    }

    #[test]
    fn nothing_supervised_is_a_zero_without_gradient() {
        let w = Param::new("w", Tensor::zeros(&[4, 2]));
        w.set_requires_grad(true);
        let loss = Tape::training()
            .linear_cross_entropy(&Tensor::zeros(&[3, 2]).into(), &w, &[-100; 3])
            .unwrap();
        assert_eq!((loss.count, loss.sum.value().item().unwrap()), (0, 0.0));
        let out = Tape::training().linear_cross_entropy(&Tensor::zeros(&[1, 2]).into(), &w, &[4]);
        assert!(matches!(
            out,
            Err(Error::IndexOutOfRange {
                index: 4,
                len: 4,
                ..
            })
        ));
    }
}
