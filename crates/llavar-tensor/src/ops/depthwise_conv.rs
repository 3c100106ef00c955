//! Depthwise convolution: one k x k filter a channel, stride 1, zero padding k / 2 ("same").
//!
//! Shapes: `x`, `y` `[B, H, W, C]`, `weight` `[C, 1, k, k]` (the layout of a published state dict),
//! `bias` `[C]`, k odd.
//! `y[b, i, j, c] = bias[c] + sum over ky, kx of x[b, i + ky - k/2, j + kx - k/2, c] w[c, ky, kx]`.
//! Gradients: `dx` = the same operation on `dy` with the filter turned by 180 degrees,
//! `dw[c, ky, kx] += sum over b, i, j of dy[b, i, j, c] x[b, i + ky - k/2, j + kx - k/2, c]`,
//! `db += sum over b, i, j of dy`.

mod kernel;

use super::linear::{widened, write_back};
use crate::{Param, Result, Tape, Tensor, Var, cuda, error::ensure_shape, memory::Buffer};
use kernel::Geometry;

impl Tape {
    /// Depthwise convolution with zero padding that keeps the size.
    ///
    /// # Shapes
    /// `x [B, H, W, C]`, `weight [C, 1, k, k]` with odd k, `bias [C]` -> `[B, H, W, C]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn depthwise_conv(&self, x: &Var, weight: &Param, bias: Option<&Param>) -> Result<Var> {
        let shape = x.shape().to_vec();
        let c = x.value().last_dim();
        let k = weight.shape().last().copied().unwrap_or(0);
        ensure_shape(
            "depthwise_conv",
            shape.len() == 4 && c > 0,
            || "[B, H, W, C >= 1]".into(),
            &shape,
        )?;
        ensure_shape(
            "depthwise_conv weight",
            weight.shape() == [c, 1, k, k] && k % 2 == 1,
            || format!("[{c}, 1, k, k] with odd k"),
            weight.shape(),
        )?;
        if let Some(b) = bias {
            ensure_shape(
                "depthwise_conv bias",
                b.numel() == c,
                || format!("[{c}]"),
                b.shape(),
            )?;
        }
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::depthwise_conv(self, cuda, x, weight, bias, k);
        }
        let geometry = Geometry {
            rows: shape[0] * shape[1],
            h: shape[1],
            w: shape[2],
            c,
            k,
        };
        let w = widened(&weight.value())?;
        let b = bias.map(|b| widened(&b.value())).transpose()?;
        let mut out = Buffer::<f32>::unspecified(x.value().numel());
        kernel::correlate(
            geometry,
            x.value().data()?,
            &geometry.pack(w.data()?, false),
            b.as_ref().map(|b| b.data()).transpose()?,
            &mut out,
        );
        let out = Tensor::from_buffer(out, &shape);
        let params: Vec<&Param> = std::iter::once(weight).chain(bias).collect();
        if !self.needs_grad(&[x], &params) {
            return Ok(Var::constant(out));
        }
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.cloned());
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            let bias = bias.filter(Param::requires_grad);
            if weight.requires_grad() || bias.is_some() {
                let (dw, db) = kernel::weight_gradient(geometry, x.value().data()?, g);
                let targets = [
                    (weight.requires_grad().then_some(&weight), dw),
                    (bias.as_ref(), db),
                ];
                for (param, sums) in targets {
                    if let Some(param) = param {
                        param.accumulate(|out, beta| {
                            write_back(&sums, out, beta);
                            Ok(())
                        })?;
                    }
                }
            }
            if x.requires_grad() {
                let mut dx = Buffer::<f32>::unspecified(g.len());
                let turned = geometry.pack(w.data()?, true);
                kernel::correlate(geometry, g, &turned, None, &mut dx);
                grads.add(&x, Tensor::from_buffer(dx, x.shape()))?;
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(42);
        for _ in 0..60 {
            let (b, h, w) = (rng.size(1, 2), rng.size(1, 18), rng.size(1, 22));
            let (c, k) = (rng.size(1, 40), 2 * rng.size(0, 4) + 1);
            let x = rng.tensor(&[b, h, w, c]);
            let weight = Param::new("w", rng.tensor(&[c, 1, k, k]));
            let bias = Param::new("b", rng.tensor(&[c]));
            let y = Tape::inference()
                .depthwise_conv(&x.clone().into(), &weight, Some(&bias))
                .unwrap();
            let (xv, wv, bv) = (
                x.to_f32_vec().unwrap(),
                weight.value().to_f32_vec().unwrap(),
                bias.value().to_f32_vec().unwrap(),
            );
            let mut want = Vec::with_capacity(xv.len());
            for i in 0..b * h * w * c {
                let (ch, ox, oy, bi) = (i % c, i / c % w, i / (c * w) % h, i / (c * w * h));
                let mut sum = f64::from(bv[ch]);
                for ky in 0..k {
                    for kx in 0..k {
                        let (iy, ix) = (oy + ky, ox + kx);
                        if (k / 2..h + k / 2).contains(&iy) && (k / 2..w + k / 2).contains(&ix) {
                            let at = ((bi * h + iy - k / 2) * w + ix - k / 2) * c + ch;
                            sum += f64::from(xv[at]) * f64::from(wv[(ch * k + ky) * k + kx]);
                        }
                    }
                }
                want.push(sum as f32);
            }
            let what = format!("depthwise {b}x{h}x{w}x{c} k {k}");
            close(y.value().data().unwrap(), &want, 1e-5, &what);
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(43);
        for (h, w, c, k) in [(5, 9, 19, 7), (12, 11, 16, 7), (3, 2, 5, 9), (4, 7, 3, 3)] {
            let weight = Param::new("w", rng.tensor(&[c, 1, k, k]));
            let bias = Param::new("b", rng.tensor(&[c]));
            check_gradients(
                &[rng.tensor(&[2, h, w, c])],
                &[&weight, &bias],
                |tape, x| tape.depthwise_conv(&x[0], &weight, Some(&bias)),
            );
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let mut rng = Rng::new(44);
        let x = rng.tensor(&[2, 33, 21, 40]);
        let weight = Param::new("w", rng.tensor(&[40, 1, 7, 7]));
        weight.set_requires_grad(true);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                weight.zero_grad();
                let tape = Tape::training();
                let y = tape
                    .depthwise_conv(&tape.leaf(x.clone()), &weight, None)
                    .unwrap();
                let value = y.value().clone();
                tape.backward_from(vec![(y, value.clone())], &[]).unwrap();
                (
                    value.to_f32_vec().unwrap(),
                    weight.grad().unwrap().to_f32_vec().unwrap(),
                )
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let x = Var::constant(Tensor::zeros(&[1, 4, 4, 6]));
        for shape in [[6, 1, 4, 4], [5, 1, 3, 3], [6, 1, 3, 5], [6, 2, 3, 3]] {
            let w = Param::new("w", Tensor::zeros(&shape));
            assert!(
                Tape::inference().depthwise_conv(&x, &w, None).is_err(),
                "{shape:?}"
            );
        }
    }
}
