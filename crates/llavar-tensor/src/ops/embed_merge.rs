//! Embedding look-up with image features merged in: the input of the language model.
//!
//! `y[t] = E[id[t]]` where `id[t] >= 0`, else the next row of the image features, in order.
//!
//! Shapes: `E [V, D]`, `ids [T]` (negative: image token), `features [M, D]` with M the number of
//! negative ids -> `[T, D]`.
//! Gradients: `dE[id[t]] += dy[t]`, `d features[m] = dy[t_m]`.

use crate::{
    Error, Param, Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer,
    ops::linear::widened,
};

impl Tape {
    /// Embeddings of `ids`, with the rows of `features` at the negative ones.
    ///
    /// # Shapes
    /// `embedding [V, D]`, `ids [T]`, `features [M, D]` (or anything that has M rows of D) -> `[T, D]`.
    ///
    /// # Errors
    /// When an id is outside the table, or the number of negative ids is not M.
    pub fn embed_merge(
        &self,
        embedding: &Param,
        ids: &[i32],
        features: Option<&Var>,
    ) -> Result<Var> {
        let (v, d) = (
            embedding.shape().first().copied().unwrap_or(0),
            embedding.shape().last().copied().unwrap_or(1),
        );
        if let Some(bad) = ids.iter().find(|id| **id >= 0 && **id as usize >= v) {
            return Err(Error::IndexOutOfRange {
                op: "embedding",
                index: i64::from(*bad),
                len: v,
            });
        }
        let slots: Vec<usize> = (0..ids.len()).filter(|t| ids[*t] < 0).collect();
        let feature_rows = features.map_or(0, |f| f.value().numel() / d);
        let fits =
            slots.len() == feature_rows && features.is_none_or(|f| f.value().last_dim() == d);
        let got = features.map_or(vec![0, d], |f| f.shape().to_vec());
        ensure_shape(
            "token merge",
            fits,
            || format!("[{}, {d}] (one row per image token)", slots.len()),
            &got,
        )?;

        let table = embedding.value();
        if let Some(cuda) = table.cuda() {
            return cuda::ops::embed_merge(self, cuda, embedding, ids, &slots, features);
        }
        let mut out = Buffer::<f32>::unspecified(ids.len() * d);
        {
            // Only the rows in use are widened, so a bf16 table of a large vocabulary stays as it is.
            let wide = if table.dtype() == crate::DType::F32 {
                Some(widened(&table)?)
            } else {
                None
            };
            let wide = wide.as_ref().map(|w| w.data::<f32>()).transpose()?;
            let features = features
                .map(|f| f.value().data::<f32>())
                .transpose()?
                .unwrap_or(&[]);
            let mut next = features.chunks_exact(d);
            for (row, id) in out.chunks_exact_mut(d).zip(ids) {
                match (usize::try_from(*id), wide) {
                    (Ok(id), Some(wide)) => row.copy_from_slice(&wide[id * d..(id + 1) * d]),
                    (Ok(id), None) => row.copy_from_slice(&table.narrow(id, 1)?.to_f32_vec()?),
                    (Err(_), _) => {
                        if let Some(feature) = next.next() {
                            row.copy_from_slice(feature);
                        }
                    }
                }
            }
        }
        let out = Tensor::from_buffer(out, &[ids.len(), d]);
        let inputs: Vec<&Var> = features.into_iter().collect();
        if !self.needs_grad(&inputs, &[embedding]) {
            return Ok(Var::constant(out));
        }
        let (embedding, features, ids) = (embedding.clone(), features.cloned(), ids.to_vec());
        Ok(self.record(out, move |dy, grads| {
            let dy = dy.data::<f32>()?;
            if embedding.requires_grad() {
                embedding.accumulate(|de, beta| {
                    if beta == 0.0 {
                        cpu::par_chunks(de, |_, de| de.fill(0.0));
                    }
                    // One thread, in order: equal ids add up the same way in every run.
                    for (row, id) in dy.chunks_exact(d).zip(&ids) {
                        if let Ok(id) = usize::try_from(*id) {
                            cpu::add_to(&mut de[id * d..(id + 1) * d], row);
                        }
                    }
                    Ok(())
                })?;
            }
            let Some(features) = features.filter(Var::requires_grad) else {
                return Ok(());
            };
            let mut df = Buffer::<f32>::unspecified(slots.len() * d);
            for (row, t) in df.chunks_exact_mut(d).zip(&slots) {
                row.copy_from_slice(&dy[t * d..(t + 1) * d]);
            }
            grads.add(&features, Tensor::from_buffer(df, features.shape()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients};

    #[test]
    fn rows_come_from_the_right_place() {
        let table = Param::new(
            "e",
            Tensor::from_vec(vec![0., 1., 10., 11., 20., 21.], &[3, 2]).unwrap(),
        );
        for dtype in [crate::DType::F32, crate::DType::BF16] {
            table.set_value(table.value().cast(dtype).unwrap()).unwrap();
            let features = Tensor::from_vec(vec![-1.0f32, -2.0, -3.0, -4.0], &[2, 2]).unwrap();
            let y = Tape::inference()
                .embed_merge(&table, &[2, -200, 0, -200], Some(&features.into()))
                .unwrap();
            assert_eq!(
                y.value().data::<f32>().unwrap(),
                &[20., 21., -1., -2., 0., 1., -3., -4.]
            );
        }
        let tape = Tape::inference();
        assert!(matches!(
            tape.embed_merge(&table, &[3], None),
            Err(Error::IndexOutOfRange {
                index: 3,
                len: 3,
                ..
            })
        ));
        assert!(matches!(
            tape.embed_merge(&table, &[0, -200], None),
            Err(Error::ShapeMismatch { .. })
        ));
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(13);
        let table = Param::new("e", rng.tensor(&[4, 3]));
        check_gradients(&[rng.tensor(&[2, 3])], &[&table], |tape, x| {
            tape.embed_merge(&table, &[1, -200, 1, 3, -200], Some(&x[0]))
        });
    }
}
