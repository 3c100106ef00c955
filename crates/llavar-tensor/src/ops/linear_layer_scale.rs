//! Linear layer under a layer scale, with residual: `y = x + gamma (h W^T + b)` (the end of a ConvNeXt
//! block; `gamma` is called `weight` in published checkpoints).
//!
//! Computed as `x + h (gamma W)^T + gamma b`: scaling the weight costs one pass over `[C, K]`, scaling the
//! branch one over `[rows, C]`, and the branch itself need neither be written nor kept.
//!
//! Shapes: `h [.., K]`, `W [C, K]`, `b [C]`, `gamma [C]`, `x`, `y` `[.., C]`. Gradients, with
//! `G = dy^T h [C, K]` and `s = sum over rows of dy`: `dW += gamma G`, `db += gamma s`,
//! `d gamma += sum over k of G W + b s`, `dh = dy (gamma W)`, `dx = dy`.

use super::linear::{column_sums, prefill, widened};
use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, Layout},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

const OP: &str = "linear_layer_scale";

impl Tape {
    /// `x + gamma (h W^T + b)`.
    ///
    /// # Shapes
    /// `x [.., C]`, `h [.., K]`, `weight [C, K]`, `bias [C]`, `gamma [C]` -> `[.., C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_layer_scale(
        &self,
        x: &Var,
        h: &Var,
        weight: &Param,
        bias: &Param,
        gamma: &Param,
    ) -> Result<Var> {
        let c = x.value().last_dim();
        let k = weight.numel() / c.max(1);
        let rows = x.value().rows();
        let fits = c > 0 && weight.shape().first() == Some(&c);
        ensure_shape(OP, fits, || format!("[{c}, ..]"), weight.shape())?;
        let fits = h.value().last_dim() == k && h.value().rows() == rows;
        ensure_shape(OP, fits, || format!("[{rows}, {k}]"), h.shape())?;
        for vector in [bias, gamma] {
            ensure_shape(OP, vector.numel() == c, || format!("[{c}]"), vector.shape())?;
        }
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::linear_layer_scale(self, cuda, x, h, weight, bias, gamma);
        }

        let w = widened(&weight.value())?;
        let (b, g) = (widened(&bias.value())?, widened(&gamma.value())?);
        let (scaled, scaled_bias) = scale(w.data()?, b.data()?, g.data()?);
        let scaled = Tensor::from_buffer(scaled, &[c, k]);
        let scaled_bias = Tensor::from_buffer(scaled_bias, &[c]);
        let mut out = Buffer::<f32>::unspecified(rows * c);
        if self.output_is_read() {
            let beta = prefill(&mut out, c, Some(&scaled_bias), Some(x))?;
            let input = h.value().data::<f32>()?;
            cpu::gemm(
                Layout::NT,
                rows,
                c,
                k,
                input,
                scaled.data()?,
                &mut out,
                beta,
            );
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x, h], &[weight, bias, gamma]) {
            return Ok(Var::constant(out));
        }
        let (x, h) = (x.clone(), h.clone());
        let (weight, bias, gamma) = (weight.clone(), bias.clone(), gamma.clone());
        Ok(self.record(out, move |dy, grads| {
            let d = dy.data::<f32>()?;
            let (wv, bv, gv) = (w.data::<f32>()?, b.data::<f32>()?, g.data::<f32>()?);
            let mut sums = vec![0.0; c];
            column_sums(d, c, &mut sums, 0.0);
            bias.when_trained(|db, beta| {
                for i in 0..c {
                    db[i] = beta * db[i] + gv[i] * sums[i];
                }
            })?;
            if weight.requires_grad() || gamma.requires_grad() {
                let mut product = Buffer::<f32>::unspecified(c * k);
                let input = h.value().data::<f32>()?;
                cpu::gemm(Layout::TN, c, k, rows, d, input, &mut product, 0.0);
                gamma.when_trained(|dg, beta| {
                    for i in 0..c {
                        let at = i * k..(i + 1) * k;
                        let along = cpu::dot(&product[at.clone()], &wv[at]);
                        dg[i] = beta * dg[i] + along + bv[i] * sums[i];
                    }
                })?;
                weight.when_trained(|dw, beta| {
                    cpu::par_rows(dw, k, |first, dw| {
                        for (i, dw) in dw.chunks_exact_mut(k).enumerate() {
                            let row = &product[(first + i) * k..][..k];
                            for (dw, p) in dw.iter_mut().zip(row) {
                                *dw = if beta == 0.0 { 0.0 } else { *dw } + gv[first + i] * p;
                            }
                        }
                    });
                })?;
            }
            if h.requires_grad() {
                let mut dh = Buffer::<f32>::unspecified(rows * k);
                cpu::gemm(Layout::NN, rows, k, c, d, scaled.data()?, &mut dh, 0.0);
                grads.add(&h, Tensor::from_buffer(dh, h.shape()))?;
            }
            grads.add(&x, dy)
        }))
    }
}

impl Param {
    /// [`Param::accumulate`] where the weight trains; `f` cannot fail.
    fn when_trained(&self, f: impl FnOnce(&mut [f32], f32)) -> Result<()> {
        if !self.requires_grad() {
            return Ok(());
        }
        self.accumulate(|grad, beta| {
            if beta == 0.0 {
                grad.fill(0.0);
            }
            f(grad, beta);
            Ok(())
        })
    }
}

/// `gamma W` and `gamma b`.
fn scale(w: &[f32], b: &[f32], gamma: &[f32]) -> (Buffer<f32>, Buffer<f32>) {
    let c = gamma.len();
    let k = w.len() / c.max(1);
    let mut scaled = Buffer::<f32>::unspecified(w.len());
    cpu::par_rows(&mut scaled, k, |first, out| {
        for (i, out) in out.chunks_exact_mut(k).enumerate() {
            let row = &w[(first + i) * k..][..k];
            for (out, w) in out.iter_mut().zip(row) {
                *out = gamma[first + i] * w;
            }
        }
    });
    let mut bias = Buffer::<f32>::unspecified(c);
    for i in 0..c {
        bias[i] = gamma[i] * b[i];
    }
    (scaled, bias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(61);
        for _ in 0..20 {
            let (rows, c, k) = (rng.size(1, 30), rng.size(1, 40), rng.size(1, 50));
            let (x, h) = (rng.tensor(&[rows, c]), rng.tensor(&[rows, k]));
            let w = Param::new("w", rng.tensor(&[c, k]));
            let (b, g) = (
                Param::new("b", rng.tensor(&[c])),
                Param::new("g", rng.tensor(&[c])),
            );
            let y = Tape::inference()
                .linear_layer_scale(&x.clone().into(), &h.clone().into(), &w, &b, &g)
                .unwrap();
            let v = |t: &Tensor| t.to_f32_vec().unwrap();
            let (xv, hv, wv) = (v(&x), v(&h), v(&w.value()));
            let (bv, gv) = (v(&b.value()), v(&g.value()));
            let mut want = Vec::new();
            for i in 0..rows * c {
                let (r, j) = (i / c, i % c);
                let dot: f64 = (0..k)
                    .map(|l| f64::from(hv[r * k + l]) * f64::from(wv[j * k + l]))
                    .sum();
                let branch = dot + f64::from(bv[j]);
                want.push((f64::from(xv[i]) + f64::from(gv[j]) * branch) as f32);
            }
            close(y.value().data().unwrap(), &want, 1e-5, "linear layer scale");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(62);
        let w = Param::new("w", rng.tensor(&[6, 9]));
        let (b, g) = (
            Param::new("b", rng.tensor(&[6])),
            Param::new("g", rng.tensor(&[6])),
        );
        let inputs = [rng.tensor(&[2, 5, 6]), rng.tensor(&[2, 5, 9])];
        check_gradients(&inputs, &[&w, &b, &g], |tape, x| {
            tape.linear_layer_scale(&x[0], &x[1], &w, &b, &g)
        });
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let zeros = |shape: &[usize]| Param::new("z", Tensor::zeros(shape));
        let var = |shape: &[usize]| Var::constant(Tensor::zeros(shape));
        let tape = Tape::inference();
        for (h, w, b) in [
            ([2, 4], [3, 5], [3]),
            ([1, 5], [3, 5], [3]),
            ([2, 5], [4, 5], [3]),
            ([2, 5], [3, 5], [2]),
        ] {
            let y = tape.linear_layer_scale(
                &var(&[2, 3]),
                &var(&h),
                &zeros(&w),
                &zeros(&b),
                &zeros(&[3]),
            );
            assert!(y.is_err(), "{h:?} {w:?} {b:?}");
        }
    }
}
