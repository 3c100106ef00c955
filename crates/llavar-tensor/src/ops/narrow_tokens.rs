//! A run of the tokens of every picture: `y[b, t] = x[b, start + t]`; `dx` is `dy` there and 0 elsewhere.
//!
//! Shapes: `x [B, N, C]` -> `[B, len, C]`. Plain LLaVA drops CLIP's class token so.

use crate::{Result, Tape, Tensor, Var, cuda, error::ensure_shape, memory::Buffer};

impl Tape {
    /// Tokens `start..start + len` of every picture.
    ///
    /// # Shapes
    /// `x [B, N, C]` -> `[B, len, C]`.
    ///
    /// # Errors
    /// When `x` has not three axes or the range leaves the second.
    pub fn narrow_tokens(&self, x: &Var, start: usize, len: usize) -> Result<Var> {
        let (b, n, c) = match *x.shape() {
            [b, n, c] => (b, n, c),
            _ => (0, 0, 0),
        };
        let fits = x.shape().len() == 3 && start.checked_add(len).is_some_and(|end| end <= n);
        ensure_shape(
            "narrow_tokens",
            fits,
            || format!("[B, >= {}, C]", start.saturating_add(len)),
            x.shape(),
        )?;
        let span = Span {
            b,
            n,
            c,
            start,
            len,
        };
        let out = match x.value().cuda() {
            Some(cuda) => cuda::ops::narrow_tokens(cuda, x.value(), span)?,
            None => {
                let mut out = Buffer::<f32>::unspecified(b * len * c);
                let from = x.value().data::<f32>()?;
                for (to, from) in pairs(&mut out, from, len * c, n * c) {
                    to.copy_from_slice(&from[start * c..(start + len) * c]);
                }
                Tensor::from_buffer(out, &[b, len, c])
            }
        };
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let x = x.without_value();
        Ok(self.record(out, move |dy, grads| {
            let dx = match dy.cuda() {
                Some(cuda) => cuda::ops::widen_tokens(cuda, &dy, span)?,
                None => {
                    let mut dx = Buffer::<f32>::zeros(b * n * c);
                    for (to, from) in pairs(&mut dx, dy.data::<f32>()?, n * c, len * c) {
                        to[start * c..(start + len) * c].copy_from_slice(from);
                    }
                    Tensor::from_buffer(dx, &[b, n, c])
                }
            };
            grads.add(&x, dx)
        }))
    }
}

/// Which tokens of `[b, n, c]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) b: usize,
    pub(crate) n: usize,
    pub(crate) c: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// The pictures of two batches side by side; nothing where one of them has no elements.
fn pairs<'a>(
    to: &'a mut [f32],
    from: &'a [f32],
    to_size: usize,
    from_size: usize,
) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
    to.chunks_exact_mut(to_size.max(1))
        .zip(from.chunks_exact(from_size.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn values_and_gradients() {
        let mut rng = Rng::new(61);
        let x = rng.tensor(&[3, 5, 2]);
        let y = Tape::inference()
            .narrow_tokens(&x.clone().into(), 1, 4)
            .unwrap();
        assert_eq!(y.shape(), [3, 4, 2]);
        let (x_data, y_data) = (x.data::<f32>().unwrap(), y.value().data::<f32>().unwrap());
        assert_eq!(y_data[8..16], x_data[12..20]);
        check_gradients(std::slice::from_ref(&x), &[], |tape, x| {
            tape.narrow_tokens(&x[0], 1, 3)
        });
        let tape = Tape::inference();
        assert_eq!(
            tape.narrow_tokens(&x.clone().into(), 5, 0).unwrap().shape(),
            [3, 0, 2]
        );
        assert!(tape.narrow_tokens(&x.clone().into(), 3, 3).is_err());
        assert!(
            tape.narrow_tokens(&x.reshape(&[15, 2]).unwrap().into(), 0, 1)
                .is_err()
        );
    }
}
