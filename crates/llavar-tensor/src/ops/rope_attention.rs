//! Attention of the heads of a fused projection: [`Tape::split_qkv_rope`], then [`Tape::attention`].
//!
//! Where a device has attention over heads that lie side by side in a row, they are turned there, and neither
//! they nor their gradients are copied. Gradients are those of the two operations.

use std::sync::Arc;

use super::rope::check_positions;
use super::{AttentionSpec, RopeTable, attention::Problem};
use crate::{Error, Result, Tape, Var, cuda, error::ensure_shape};

const OP: &str = "rope_attention";

impl Tape {
    /// Turns the query and key heads of every token by its position, then attention within each sample.
    ///
    /// # Shapes
    /// `qkv [T, (heads + 2 kv_heads) D]` in the order query heads, key heads, value heads, `positions [T]` ->
    /// `[T, heads, D]`.
    ///
    /// # Errors
    /// When the width or the segments do not fit, or a position lies outside the table.
    pub fn rope_attention(
        &self,
        qkv: Var,
        [heads, kv_heads]: [usize; 2],
        (table, positions): (&Arc<RopeTable>, &[i32]),
        spec: &AttentionSpec,
    ) -> Result<Var> {
        let mut qkv = qkv;
        if let Some(cuda) = qkv.value().cuda().cloned() {
            let (rows, dim) = (qkv.value().rows(), table.dim());
            let width = (heads + 2 * kv_heads) * dim;
            ensure_shape(
                OP,
                qkv.shape() == [rows, width],
                || format!("[T, {width}]"),
                qkv.shape(),
            )?;
            check_positions(OP, table, positions, rows)?;
            if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
                return Err(Error::InvalidArgument {
                    op: OP,
                    reason: format!("{heads} query heads cannot share {kv_heads} key heads"),
                });
            }
            // What does not fit is told by the two operations.
            if [&spec.q_segments, &spec.k_segments].map(|s| s.total()) == [rows; 2]
                && spec.q_segments.count() == spec.k_segments.count()
            {
                let problem = Problem::of(spec, heads, kv_heads, dim);
                let angles = cuda::ops::Angles::new(&cuda, table, positions)?;
                match cuda::ops::rope_attention(self, &cuda, qkv, &angles, problem)? {
                    Ok(out) => return Ok(out),
                    Err(back) => qkv = back,
                }
            }
        }
        let (q, k, v) = self.split_qkv_rope(&qkv, heads, kv_heads, table, positions)?;
        self.attention(&q, &k, &v, spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Segments, Tensor,
        cuda::testing::compare,
        ops::testing::{Rng, check_gradients},
    };

    fn table(dim: usize) -> Arc<RopeTable> {
        let inv_freq: Vec<f32> = (0..dim / 2)
            .map(|i| 1e4f32.powf(-2.0 * i as f32 / dim as f32))
            .collect();
        Arc::new(RopeTable::new(&inv_freq, 2100, 1.19))
    }

    #[test]
    fn gradients_agree_with_differences() {
        let mut rng = Rng::new(61);
        let table = table(6);
        let positions = [3, 0, 1, 2, 7];
        let spec = AttentionSpec::within(Segments::from_lengths(vec![3, 0, 2]), true, 6);
        let x = rng.tensor(&[5, 8 * 6]);
        check_gradients(&[x], &[], |tape, x| {
            tape.rope_attention(x[0].clone(), [4, 2], (&table, &positions), &spec)
        });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (tape, table) = (Tape::inference(), table(6));
        let x = || Var::constant(Tensor::zeros(&[3, 8 * 6]));
        let spec = |n| AttentionSpec::within(Segments::from_lengths(vec![n]), true, 6);
        let run = |heads, positions: &[i32], n| {
            let spec = spec(n);
            tape.rope_attention(x(), heads, (&table, positions), &spec)
        };
        assert!(run([4, 2], &[0, 1, 2], 3).is_ok());
        assert!(run([4, 3], &[0, 1, 2], 3).is_err(), "width");
        assert!(run([4, 2], &[0, 1], 3).is_err(), "positions");
        assert!(run([4, 2], &[0, 1, 2100], 3).is_err(), "table");
        assert!(run([4, 2], &[0, 1, 2], 4).is_err(), "segments");
    }

    /// One length and several, with empty samples, heads of their own and shared ones, sizes that cuDNN takes and
    /// others; outputs and gradients in every type, twice with the same bits.
    #[test]
    #[ignore = "needs a GPU"]
    fn cuda_rope_attention_agrees_with_the_cpu() {
        let mut rng = Rng::new(62);
        for (lengths, heads, kv, dim, causal) in [
            (vec![200; 4], 4, 4, 96, true),
            (vec![130, 5, 64, 1], 4, 4, 96, true),
            (vec![130, 0, 64, 33], 4, 1, 128, true),
            (vec![77; 3], 8, 2, 64, false),
            (vec![300, 20], 2, 2, 64, false),
            (vec![40, 3], 4, 2, 10, true),
            (vec![200; 4], 4, 4, 80, true),
            (vec![130, 0, 64, 33], 4, 2, 80, true),
            (vec![1, 1, 1], 4, 4, 96, true),
            (vec![900, 1, 300], 4, 2, 96, true),
            // Groups in cuDNN's backward pass are as large as fit: here several.
            (vec![2048; 3], 1, 1, 64, true),
            (vec![2048; 3], 1, 1, 80, true),
        ] {
            let tokens: usize = lengths.iter().sum();
            let positions: Vec<i32> = (0..tokens).map(|_| rng.size(0, 2099) as i32).collect();
            let table = table(dim);
            let x = rng.tensor(&[tokens, (heads + 2 * kv) * dim]);
            let what = format!("{lengths:?}, {heads} + 2 x {kv} heads of {dim}");
            let spec = AttentionSpec::within(Segments::from_lengths(lengths), causal, dim);
            compare(&what, &[x], &[], |tape, x, _| {
                let at = (&table, positions.as_slice());
                Ok(vec![tape.rope_attention(
                    x[0].clone(),
                    [heads, kv],
                    at,
                    &spec,
                )?])
            });
        }
    }
}
