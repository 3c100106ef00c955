//! Some rows of a matrix: `y[i] = x[rows[i]]`; `dx` is `dy[i]` at `rows[i]` and 0 elsewhere.
//!
//! Shapes: `x [N, ..]`, `rows [n]`, all different -> `[n, ..]`. The last decoder layer so goes on with the rows
//! alone whose outputs are read.

use std::sync::Arc;

use crate::{Result, Tape, Tensor, Var};

impl Tape {
    /// The rows with these numbers, all different.
    ///
    /// # Shapes
    /// `x [N, ..]`, `rows [n]` -> `[n, ..]`.
    ///
    /// # Errors
    /// When a number is outside the first axis.
    pub fn gather_rows(&self, x: &Var, rows: &Arc<[usize]>) -> Result<Var> {
        let value = x.value();
        let out = value.gather_rows(rows)?;
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let (x, rows, device) = (x.without_value(), rows.clone(), value.device());
        Ok(self.record(out, move |dy, grads| {
            let mut dx = Tensor::zeros_on(x.shape(), dy.dtype(), &device)?;
            dx.scatter_rows(&rows, &dy)?;
            grads.add(&x, dx)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn values_and_gradients() {
        let mut rng = Rng::new(62);
        let x = rng.tensor(&[6, 2, 3]);
        let rows: Arc<[usize]> = Arc::from([4, 0, 5]);
        let y = Tape::inference()
            .gather_rows(&x.clone().into(), &rows)
            .unwrap();
        assert_eq!(y.shape(), [3, 2, 3]);
        let (from, to) = (x.data::<f32>().unwrap(), y.value().data::<f32>().unwrap());
        assert_eq!(to[..6], from[24..30]);
        check_gradients(std::slice::from_ref(&x), &[], |tape, x| {
            tape.gather_rows(&x[0], &rows)
        });
        let none: Arc<[usize]> = Arc::from([]);
        let y = Tape::inference().gather_rows(&x.clone().into(), &none);
        assert_eq!(y.unwrap().shape(), [0, 2, 3]);
        let outside: Arc<[usize]> = Arc::from([6]);
        assert!(Tape::inference().gather_rows(&x.into(), &outside).is_err());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn it_agrees_with_the_cpu_on_a_gpu() {
        let mut rng = Rng::new(63);
        for (n, width, step) in [(1, 1, 1), (9, 7, 2), (700, 3072, 7), (3, 64, 1)] {
            let rows: Arc<[usize]> = (0..n).rev().step_by(step).collect();
            crate::cuda::testing::compare(
                &format!("one of {step} of {n} rows of {width}"),
                &[rng.tensor(&[n, width])],
                &[],
                |tape, x, _| Ok(vec![tape.gather_rows(&x[0], &rows)?]),
            );
        }
    }
}
