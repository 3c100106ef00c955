//! Adapters added into the weight that they stand on; in f32 on the CPU.

use super::{Layout, product};
use crate::{Result, Tensor, cpu, error::ensure_shape, ops::linear::widened};

impl Tensor {
    /// Norm of each row.
    ///
    /// # Shapes
    /// `[N, K]` on the CPU, of any float type -> `[N]`, f32.
    ///
    /// # Errors
    /// When it lives on a GPU.
    pub fn row_norms(&self) -> Result<Self> {
        let (wide, k) = (widened(self)?, self.last_dim());
        let values = wide.data::<f32>()?;
        let norms = (0..self.rows()).map(|row| {
            let row = &values[row * k..(row + 1) * k];
            cpu::dot(row, row).sqrt()
        });
        Self::from_vec(norms.collect(), &[self.rows()])
    }

    /// `W + s B A`, each row then scaled to its magnitude where there is one (DoRA).
    ///
    /// # Shapes
    /// `self [N, K]`, `a [R, K]`, `b [N, R]`, `magnitude [N]`, on the CPU -> `[N, K]`, f32.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn merge_lora(
        &self,
        a: &Self,
        b: &Self,
        magnitude: Option<&Self>,
        scaling: f32,
    ) -> Result<Self> {
        let (n, k, rank) = (self.rows(), self.last_dim(), b.last_dim());
        let fits = a.shape() == [rank, k] && b.shape() == [n, rank];
        ensure_shape(
            "merge lora",
            fits,
            || format!("A [{rank}, {k}], B [{n}, {rank}]"),
            a.shape(),
        )?;
        let mut b = widened(b)?;
        super::dropout::scale(&mut b, scaling)?;
        let mut out = widened(self)?;
        // A copy of its own: the weight itself stays as it is.
        out.data_mut::<f32>()?;
        product(Layout::NN, [n, k, rank], &b, &widened(a)?, &mut out, 1.0)?;
        if let Some(m) = magnitude {
            ensure_shape(
                "merge lora magnitude",
                m.numel() == n,
                || format!("[{n}]"),
                m.shape(),
            )?;
            let (m, norms) = (m.to_f32_vec()?, out.row_norms()?.to_f32_vec()?);
            let rows = out.data_mut::<f32>()?.chunks_exact_mut(k.max(1));
            for ((row, m), norm) in rows.zip(m).zip(norms) {
                let gain = m / norm.max(f32::MIN_POSITIVE);
                row.iter_mut().for_each(|x| *x *= gain);
            }
        }
        Ok(out)
    }
}
