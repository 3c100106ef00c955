//! Linear layer with a low-rank adapter (LoRA), with a magnitude a row where it is a DoRA.
//!
//! LoRA: `y = W x + b + s B A d(x) (+ residual)`; DoRA: `y = g (W x + s B A d(x)) + b (+ residual)` with
//! `g = m / |W + s B A|`, the norm taken of each row. `d` is dropout, the identity outside of training.
//!
//! Shapes: `x [.., K]`, `W [N, K]`, `A [R, K]`, `B [N, R]`, `m [N]`, `b [N]`, `y [.., N]`.
//! Gradients: with `u = s A d(x)` and `dz = g dy` (LoRA: `dz = dy`): `dB += dz^T u`,
//! `dA += s (dz B)^T d(x)`, `dx = dz W + s d'(dz B A)`, `dm += sum over rows of dy z / |..|`, where
//! `z = W x + s B A d(x)`. As in the DoRA paper (4.3) the norm counts as a constant.
//!
//! What dropout drops is a function of the tape's seed, the layer and the place in `x`
//! ([`Tape::with_dropout`]), so a recomputed segment and a resumed run drop the same, and nothing is kept
//! for the backward pass but `x` and `u`. In a DoRA dropout acts on the low-rank path alone; PEFT computes the
//! frozen product a second time, of dropped inputs. Without dropout both are the same.

mod dropout;
mod magnitude;
mod merge;
#[cfg(test)]
mod tests;

pub(crate) use dropout::Dropout;

use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, Layout},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

/// The low-rank adapter of one linear layer. Cloning shares its weights.
#[derive(Debug, Clone)]
pub struct LoraAdapter {
    /// `A [R, K]`.
    pub a: Param,
    /// `B [N, R]`.
    pub b: Param,
    /// `m [N]` of a DoRA.
    pub magnitude: Option<Param>,
    /// `s`.
    pub scaling: f32,
    /// Share of the inputs that are dropped in training, 0 to below 1.
    pub dropout: f32,
    /// What tells this layer's dropout from that of others.
    pub key: u64,
}

impl LoraAdapter {
    /// Its weights.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }
}

impl Tape {
    /// [`Tape::linear_residual`] with an adapter; see the file's head for the formula.
    ///
    /// # Shapes
    /// `x [.., K]`, `weight [N, K]`, `bias [N]`, `residual [.., N]` -> `[.., N]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn lora_linear(
        &self,
        x: &Var,
        weight: &Param,
        bias: Option<&Param>,
        residual: Option<&Var>,
        lora: &LoraAdapter,
    ) -> Result<Var> {
        check_shapes(weight, lora)?;
        // Two gradients meet at x; before an activation they would be one more pass and two more sums.
        let x = &x.without_before();
        let Some(magnitude) = &lora.magnitude else {
            // The low-rank part enters the large product as its residual.
            let low = self.low_rank(x, residual, lora)?;
            return self.linear_residual(x, weight, bias, Some(&low));
        };
        // The backward pass reads what stands before the last operation.
        let z = self.reading(|tape| {
            let low = tape.low_rank(x, None, lora)?;
            tape.linear_residual(x, weight, None, Some(&low))
        })?;
        let norm = magnitude::row_norms(&weight.value(), lora)?;
        self.scale_rows_to(&z, magnitude, &norm, bias, residual)
    }

    /// `residual + s B A d(x)`.
    fn low_rank(&self, x: &Var, residual: Option<&Var>, lora: &LoraAdapter) -> Result<Var> {
        let (rank, k) = (lora.a.shape()[0], lora.a.shape()[1]);
        let (rows, n) = (x.value().rows(), lora.b.shape()[0]);
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        let drop = self
            .dropout_seed()
            .filter(|_| lora.dropout > 0.0)
            .map(|seed| Dropout::new(lora.dropout, seed, lora.key));
        let (a, b) = (lora.a.value(), lora.b.value());
        let mut u = empty_like(x.value(), &[rows, rank])?;
        {
            let dropped = drop.map(|d| d.apply(x.value())).transpose()?;
            let x = dropped.as_ref().unwrap_or(x.value());
            product(Layout::NT, [rows, rank, k], x, &a, &mut u, 0.0)?;
        }
        dropout::scale(&mut u, lora.scaling)?;
        let mut out = empty_like(x.value(), &shape)?;
        if self.output_is_read() {
            if let Some(r) = residual {
                copy(r.value(), &mut out)?;
            }
            let beta = if residual.is_some() { 1.0 } else { 0.0 };
            product(Layout::NT, [rows, n, rank], &u, &b, &mut out, beta)?;
        }
        let mut inputs = vec![x];
        inputs.extend(residual);
        if !self.needs_grad(&inputs, &[&lora.a, &lora.b]) {
            return Ok(Var::constant(out));
        }
        let (x, residual) = (x.clone(), residual.map(Var::without_value));
        let (a_param, b_param, scaling) = (lora.a.clone(), lora.b.clone(), lora.scaling);
        Ok(self.record(out, move |dy, grads| {
            if b_param.requires_grad() {
                b_param.accumulate_tensor(|db, beta| {
                    product(Layout::TN, [n, rank, rows], &dy, &u, db, beta)
                })?;
            }
            let mut du = empty_like(&dy, &[rows, rank])?;
            product(Layout::NN, [rows, rank, n], &dy, &b, &mut du, 0.0)?;
            dropout::scale(&mut du, scaling)?;
            if a_param.requires_grad() {
                let dropped = drop.map(|d| d.apply(x.value())).transpose()?;
                let x = dropped.as_ref().unwrap_or(x.value());
                a_param.accumulate_tensor(|da, beta| {
                    product(Layout::TN, [rank, k, rows], &du, x, da, beta)
                })?;
            }
            if x.requires_grad() {
                let mut dx = empty_like(&dy, x.shape())?;
                product(Layout::NN, [rows, k, rank], &du, &a, &mut dx, 0.0)?;
                let dx = match drop {
                    Some(drop) => drop.apply(&dx)?,
                    None => dx,
                };
                grads.add(&x, dx)?;
            }
            match residual {
                Some(r) => grads.add(&r, dy.reshape(r.shape())?),
                None => Ok(()),
            }
        }))
    }
}

fn check_shapes(weight: &Param, lora: &LoraAdapter) -> Result<()> {
    let n = weight.shape().first().copied().unwrap_or(1);
    let k = weight.numel() / n.max(1);
    let rank = lora.a.shape().first().copied().unwrap_or(0);
    for (op, param, want) in [
        ("lora A", Some(&lora.a), vec![rank, k]),
        ("lora B", Some(&lora.b), vec![n, rank]),
        ("lora magnitude", lora.magnitude.as_ref(), vec![n]),
    ] {
        if let Some(param) = param {
            ensure_shape(
                op,
                param.shape() == want,
                || format!("{want:?}"),
                param.shape(),
            )?;
        }
    }
    Ok(())
}

/// An unwritten tensor where another lives, in its element type.
pub(super) fn empty_like(like: &Tensor, shape: &[usize]) -> Result<Tensor> {
    match like.cuda() {
        Some(cuda) => cuda.empty(shape, like.dtype()),
        None => Ok(Tensor::from_buffer(
            Buffer::<f32>::unspecified(shape.iter().product()),
            shape,
        )),
    }
}

/// `out = beta out + a b` where the tensors live.
pub(super) fn product(
    layout: Layout,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    out: &mut Tensor,
    beta: f32,
) -> Result<()> {
    match out.cuda().cloned() {
        Some(cuda) => cuda.gemm(layout, [m, n, k], a, b, out, beta),
        None => {
            cpu::gemm(layout, m, n, k, a.data()?, b.data()?, out.data_mut()?, beta);
            Ok(())
        }
    }
}

/// Copies elements between tensors of one size.
fn copy(from: &Tensor, into: &mut Tensor) -> Result<()> {
    match from.cuda() {
        Some(cuda) => cuda.copy(from, into),
        None => {
            let from = from.data::<f32>()?;
            cpu::par_chunks(into.data_mut::<f32>()?, |first, out| {
                out.copy_from_slice(&from[first..first + out.len()]);
            });
            Ok(())
        }
    }
}
