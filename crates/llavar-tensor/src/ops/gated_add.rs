//! Gated sum of the MR-Adapter: `y = u + tanh(logit) * h`, one gate a picture.
//!
//! Shapes: `u`, `h`, `y` `[B, N, C]`, `logit` `[B, 1]`. Gradients, with `g = tanh(logit)`:
//! `du = dy`, `dh = g dy`, `d logit = (1 - g^2) sum(dy h)`.

use crate::{
    Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

impl Tape {
    /// `u + tanh(logit) * h`.
    ///
    /// # Shapes
    /// `u`, `h` `[B, N, C]`, `logit [B, 1]` -> `[B, N, C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gated_add(&self, u: &Var, h: &Var, logit: &Var) -> Result<Var> {
        let batch = u.shape().first().copied().unwrap_or(1);
        ensure_shape(
            "gated_add h",
            h.shape() == u.shape(),
            || format!("{:?}", u.shape()),
            h.shape(),
        )?;
        ensure_shape(
            "gated_add logit",
            logit.value().numel() == batch,
            || format!("[{batch}, 1]"),
            logit.shape(),
        )?;
        if let Some(cuda) = u.value().cuda() {
            return cuda::ops::gated_add(self, cuda, u, h, logit);
        }
        let gates: Vec<f32> = logit
            .value()
            .data::<f32>()?
            .iter()
            .map(|l| cpu::tanh(*l))
            .collect();
        let each = u.value().numel() / batch.max(1);
        let mut out = Buffer::<f32>::unspecified(u.value().numel());
        {
            let (u, h) = (u.value().data::<f32>()?, h.value().data::<f32>()?);
            for (b, out) in out.chunks_exact_mut(each.max(1)).enumerate() {
                let (u, h) = (&u[b * each..(b + 1) * each], &h[b * each..(b + 1) * each]);
                let gate = gates[b];
                cpu::par_chunks(out, |first, out| {
                    let range = first..first + out.len();
                    scale_add(&u[range.clone()], &h[range], gate, out);
                });
            }
        }
        let out = Tensor::from_buffer(out, u.shape());
        if !self.needs_grad(&[u, h, logit], &[]) {
            return Ok(Var::constant(out));
        }
        let (u, h, logit) = (u.clone(), h.clone(), logit.clone());
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            if logit.requires_grad() {
                let input = h.value().data::<f32>()?;
                let slopes = gates.iter().enumerate().map(|(b, gate)| {
                    let range = b * each..(b + 1) * each;
                    (1.0 - gate * gate) * dot_in_parts(&g[range.clone()], &input[range])
                });
                grads.add(&logit, Tensor::from_vec(slopes.collect(), logit.shape())?)?;
            }
            if h.requires_grad() {
                let mut dh = Buffer::<f32>::unspecified(g.len());
                for (b, dh) in dh.chunks_exact_mut(each.max(1)).enumerate() {
                    let (g, gate) = (&g[b * each..(b + 1) * each], gates[b]);
                    cpu::par_chunks(dh, |first, dh| {
                        scale(&g[first..first + dh.len()], gate, dh);
                    });
                }
                grads.add(&h, Tensor::from_buffer(dh, h.shape()))?;
            }
            grads.add(&u, dy)
        }))
    }
}

/// Dot product over a partition fixed by the length, so that threads do not change it.
fn dot_in_parts(x: &[f32], y: &[f32]) -> f32 {
    let total = cpu::par_reduce(x.len(), 1, |range, acc| {
        acc[0] += cpu::dot(&x[range.clone()], &y[range]);
    });
    total.iter().sum()
}

kernel! {
    /// `out = u + gate h`.
    fn scale_add(u: &[f32], h: &[f32], gate: f32, out: &mut [f32]) {
        for ((out, u), h) in out.iter_mut().zip(u).zip(h) {
            *out = h.mul_add(gate, *u);
        }
    }
}

kernel! {
    /// `out = gate g`.
    fn scale(g: &[f32], gate: f32, out: &mut [f32]) {
        for (out, g) in out.iter_mut().zip(g) {
            *out = g * gate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(33);
        for _ in 0..20 {
            let (b, n, c) = (rng.size(1, 4), rng.size(1, 30), rng.size(1, 40));
            let (u, h) = (rng.tensor(&[b, n, c]), rng.tensor(&[b, n, c]));
            let logit = rng.tensor(&[b, 1]);
            let y = Tape::inference()
                .gated_add(&u.clone().into(), &h.clone().into(), &logit.clone().into())
                .unwrap();
            let (uv, hv, lv) = (
                u.to_f32_vec().unwrap(),
                h.to_f32_vec().unwrap(),
                logit.to_f32_vec().unwrap(),
            );
            let want: Vec<f32> = (0..b * n * c)
                .map(|i| uv[i] + lv[i / (n * c)].tanh() * hv[i])
                .collect();
            close(y.value().data().unwrap(), &want, 1e-6, "gated add");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(34);
        check_gradients(
            &[
                rng.tensor(&[3, 5, 7]),
                rng.tensor(&[3, 5, 7]),
                rng.tensor(&[3, 1]),
            ],
            &[],
            |tape, x| tape.gated_add(&x[0], &x[1], &x[2]),
        );
    }

    #[test]
    fn long_dot_products_are_summed_whole() {
        let mut rng = Rng::new(35);
        let n = 3 * (1 << 14) + 17;
        let (x, y) = (rng.vec(n), rng.vec(n));
        let want: f64 = x
            .iter()
            .zip(&y)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        assert!((f64::from(dot_in_parts(&x, &y)) - want).abs() < 1e-2);
    }
}
