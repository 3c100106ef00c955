//! Three linear layers of one input, as queries, keys and values are.
//!
//! Shapes and gradients: those of [`Tape::linear`], three times. Hopper GPUs make them in one kernel in bf16.

use super::linear::output_shape;
use crate::{Param, Result, Tape, Var, cuda};

impl Tape {
    /// `x W^T + b` for each weight and bias.
    ///
    /// # Shapes
    /// `x [.., K]`, weights `[N, K]`, biases `[N]` -> `[.., N]` each.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_three(&self, x: &Var, layers: [(&Param, Option<&Param>); 3]) -> Result<[Var; 3]> {
        let [first, second, third] = layers;
        if let Some(cuda) = x.value().cuda() {
            let shape = |(weight, bias)| output_shape(x, weight, bias, None);
            let (a, b, c) = (shape(first)?, shape(second)?, shape(third)?);
            if a == b
                && b == c
                && let Some(made) = cuda::ops::linear_three(self, cuda, x, layers, &a)?
            {
                return Ok(made);
            }
        }
        let one = |(weight, bias)| self.linear(x, weight, bias);
        Ok([one(first)?, one(second)?, one(third)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, ops::testing::Rng};

    #[test]
    fn three_layers_are_each_its_own_and_wrong_shapes_are_refused() {
        let mut rng = Rng::new(63);
        let x = Var::constant(rng.tensor(&[2, 3, 5]));
        let weights = [7, 4, 7].map(|n| Param::new("w", rng.tensor(&[n, 5])));
        let bias = Param::new("b", rng.tensor(&[4]));
        let tape = Tape::inference();
        let [w0, w1, w2] = &weights;
        let made = tape
            .linear_three(&x, [(w0, None), (w1, Some(&bias)), (w2, None)])
            .unwrap();
        for (made, (w, b)) in made.iter().zip([(w0, None), (w1, Some(&bias)), (w2, None)]) {
            let alone = tape.linear(&x, w, b).unwrap();
            assert_eq!(made.shape(), alone.shape());
            let values = |v: &Var| v.value().to_f32_vec().unwrap();
            assert_eq!(values(made), values(&alone));
        }
        let narrow = Param::new("w", Tensor::zeros(&[7, 6]));
        let layers = [(w0, None), (w1, None), (&narrow, None)];
        assert!(tape.linear_three(&x, layers).is_err());
    }
}
