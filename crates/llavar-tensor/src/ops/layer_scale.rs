//! Residual with layer scale: `y = x + gamma * branch`, `gamma` one factor a channel (ConvNeXt).
//!
//! Shapes: `x`, `branch`, `y` `[.., C]`, `gamma` `[C]` (timm's `gamma`, called `weight` in published
//! checkpoints). Gradients: `dx = dy`, `d branch = gamma dy`, `d gamma += sum over rows of dy branch`.

use super::linear::{widened, write_back};
use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

impl Tape {
    /// `x + gamma * branch`.
    ///
    /// # Shapes
    /// `x`, `branch` `[.., C]`, `gamma [C]` -> `[.., C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn layer_scale_residual(&self, x: &Var, branch: &Var, gamma: &Param) -> Result<Var> {
        let c = x.value().last_dim();
        ensure_shape(
            "layer_scale_residual branch",
            branch.shape() == x.shape(),
            || format!("{:?}", x.shape()),
            branch.shape(),
        )?;
        ensure_shape(
            "layer_scale_residual gamma",
            c > 0 && gamma.numel() == c,
            || format!("[{c}]"),
            gamma.shape(),
        )?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::layer_scale_residual(self, cuda, x, branch, gamma);
        }
        let scale = widened(&gamma.value())?;
        let mut out = Buffer::<f32>::unspecified(x.value().numel());
        {
            let (x, h) = (x.value().data::<f32>()?, branch.value().data::<f32>()?);
            let scale = scale.data::<f32>()?;
            cpu::par_rows(&mut out, c, |first, out| {
                let range = first * c..first * c + out.len();
                scale_add(&x[range.clone()], &h[range], scale, out);
            });
        }
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x, branch], &[gamma]) {
            return Ok(Var::constant(out));
        }
        let (x, branch, gamma) = (x.clone(), branch.clone(), gamma.clone());
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            if gamma.requires_grad() {
                let h = branch.value().data::<f32>()?;
                let sums = cpu::par_reduce(dy.rows(), c, |rows, acc| {
                    let range = rows.start * c..rows.end * c;
                    products(&g[range.clone()], &h[range], acc);
                });
                gamma.accumulate(|out, beta| {
                    write_back(&sums, out, beta);
                    Ok(())
                })?;
            }
            if branch.requires_grad() {
                let scale = scale.data::<f32>()?;
                let mut dh = Buffer::<f32>::unspecified(g.len());
                cpu::par_rows(&mut dh, c, |first, dh| {
                    scale_rows(&g[first * c..first * c + dh.len()], scale, dh);
                });
                grads.add(&branch, Tensor::from_buffer(dh, branch.shape()))?;
            }
            grads.add(&x, dy)
        }))
    }
}

kernel! {
    /// `out = x + scale h`, row by row.
    fn scale_add(x: &[f32], h: &[f32], scale: &[f32], out: &mut [f32]) {
        let c = scale.len();
        let rows = x.chunks_exact(c).zip(h.chunks_exact(c));
        for ((x, h), out) in rows.zip(out.chunks_exact_mut(c)) {
            for j in 0..c {
                out[j] = h[j].mul_add(scale[j], x[j]);
            }
        }
    }
}

kernel! {
    /// `acc += sum over rows of g h`.
    fn products(g: &[f32], h: &[f32], acc: &mut [f32]) {
        let c = acc.len();
        for (g, h) in g.chunks_exact(c).zip(h.chunks_exact(c)) {
            for j in 0..c {
                acc[j] = g[j].mul_add(h[j], acc[j]);
            }
        }
    }
}

kernel! {
    /// `out = scale g`, row by row.
    fn scale_rows(g: &[f32], scale: &[f32], out: &mut [f32]) {
        let c = scale.len();
        for (g, out) in g.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
            for j in 0..c {
                out[j] = g[j] * scale[j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(31);
        for _ in 0..20 {
            let (rows, c) = (rng.size(1, 30), rng.size(1, 70));
            let (x, h) = (rng.tensor(&[rows, c]), rng.tensor(&[rows, c]));
            let gamma = Param::new("gamma", rng.tensor(&[c]));
            let y = Tape::inference()
                .layer_scale_residual(&x.clone().into(), &h.clone().into(), &gamma)
                .unwrap();
            let (xv, hv, gv) = (
                x.to_f32_vec().unwrap(),
                h.to_f32_vec().unwrap(),
                gamma.value().to_f32_vec().unwrap(),
            );
            let want: Vec<f32> = (0..rows * c).map(|i| gv[i % c] * hv[i] + xv[i]).collect();
            close(y.value().data().unwrap(), &want, 1e-6, "layer scale");
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(32);
        let gamma = Param::new("gamma", rng.tensor(&[19]));
        check_gradients(
            &[rng.tensor(&[2, 3, 19]), rng.tensor(&[2, 3, 19])],
            &[&gamma],
            |tape, x| tape.layer_scale_residual(&x[0], &x[1], &gamma),
        );
    }

    #[test]
    fn wrong_shapes_are_named() {
        let gamma = Param::new("gamma", Tensor::zeros(&[3]));
        let x = Var::constant(Tensor::zeros(&[2, 4]));
        assert!(
            Tape::inference()
                .layer_scale_residual(&x, &x, &gamma)
                .is_err()
        );
    }
}
