//! Non-overlapping patches as rows, in the element order of a convolution weight.
//!
//! Shapes: `x` `[B, H, W, C]` -> `y` `[B, H/p, W/p, C*p*p]`,
//! `y[b, i, j, (c p + ky) p + kx] = x[b, i p + ky, j p + kx, c]`. A convolution of kernel and stride `p`
//! (CLIP's patch embedding, ConvNeXt's stem and downsampling) is then `linear` with its weight
//! `[N, C, p, p]` as it is. Gradient: the inverse permutation.

use crate::{Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer};

impl Tape {
    /// Patches of `patch` x `patch` pixels, channels-first inside a patch.
    ///
    /// # Shapes
    /// `x [B, H, W, C]` -> `[B, H/patch, W/patch, C*patch*patch]`.
    ///
    /// # Errors
    /// When `x` has not four axes, or `patch` does not divide its height and width.
    pub fn patchify(&self, x: &Var, patch: usize) -> Result<Var> {
        let shape = x.shape();
        let ok = shape.len() == 4
            && patch > 0
            && shape[1].is_multiple_of(patch)
            && shape[2].is_multiple_of(patch);
        ensure_shape(
            "patchify",
            ok,
            || format!("[B, H, W, C], H and W multiples of {patch}"),
            shape,
        )?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::patchify(self, cuda, x, patch);
        }
        let grid = Grid {
            width: shape[2],
            channels: shape[3],
            patch,
        };
        let row = grid.row();
        let mut out = Buffer::<f32>::unspecified(x.value().numel());
        {
            let x = x.value().data::<f32>()?;
            cpu::par_rows(&mut out, row, |first, out| {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let x = &x[(first + i) * row..(first + i + 1) * row];
                    grid.walk(|packed, plain| out[packed] = x[plain]);
                }
            });
        }
        let out_shape = [
            shape[0],
            shape[1] / patch,
            shape[2] / patch,
            shape[3] * patch * patch,
        ];
        let out = Tensor::from_buffer(out, &out_shape);
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.without_value();
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            let mut dx = Buffer::<f32>::unspecified(g.len());
            cpu::par_rows(&mut dx, row, |first, dx| {
                for (i, dx) in dx.chunks_exact_mut(row).enumerate() {
                    let g = &g[(first + i) * row..(first + i + 1) * row];
                    grid.walk(|packed, plain| dx[plain] = g[packed]);
                }
            });
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
    }
}

/// One row of patches: `patch` image rows, permuted among themselves.
#[derive(Clone, Copy)]
struct Grid {
    width: usize,
    channels: usize,
    patch: usize,
}

impl Grid {
    /// Elements of one row of patches.
    fn row(&self) -> usize {
        self.patch * self.width * self.channels
    }

    /// Calls `f(packed, plain)` for every element: its index among the patches, and in the image.
    #[inline(always)]
    fn walk(&self, mut f: impl FnMut(usize, usize)) {
        let Self {
            width,
            channels,
            patch,
        } = *self;
        for px in 0..width / patch {
            for c in 0..channels {
                for ky in 0..patch {
                    let packed = ((px * channels + c) * patch + ky) * patch;
                    let plain = (ky * width + px * patch) * channels + c;
                    for kx in 0..patch {
                        f(packed + kx, plain + kx * channels);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn forward_agrees_with_a_plain_loop() {
        let mut rng = Rng::new(40);
        for _ in 0..30 {
            let (b, p, c) = (rng.size(1, 3), rng.size(1, 5), rng.size(1, 20));
            let (gh, gw) = (rng.size(1, 4), rng.size(1, 4));
            let (h, w) = (gh * p, gw * p);
            let x = rng.tensor(&[b, h, w, c]);
            let y = Tape::inference().patchify(&x.clone().into(), p).unwrap();
            assert_eq!(y.shape(), &[b, gh, gw, c * p * p]);
            let (xv, yv) = (x.to_f32_vec().unwrap(), y.value().to_f32_vec().unwrap());
            for (i, got) in yv.iter().enumerate() {
                let (patch, within) = (i / (c * p * p), i % (c * p * p));
                let (ch, ky, kx) = (within / (p * p), within / p % p, within % p);
                let (bi, gy, gx) = (patch / (gh * gw), patch / gw % gh, patch % gw);
                let at = ((bi * h + gy * p + ky) * w + gx * p + kx) * c + ch;
                assert_eq!(*got, xv[at], "element {i} of {:?}", y.shape());
            }
        }
        let odd = Tensor::zeros(&[1, 5, 4, 3]).into();
        assert!(Tape::inference().patchify(&odd, 2).is_err());
        assert!(Tape::inference().patchify(&odd, 0).is_err());
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(41);
        check_gradients(&[rng.tensor(&[2, 4, 6, 3])], &[], |tape, x| {
            tape.patchify(&x[0], 2)
        });
    }
}
