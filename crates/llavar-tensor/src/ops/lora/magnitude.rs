//! The part of a DoRA that a LoRA does not have: norms of the rows, and the rows scaled to a magnitude.

use super::{cuda, empty_like, product};
use crate::{
    DType, Grads, Param, Result, Tape, Tensor, Var,
    cpu::{self, Layout, kernel},
    memory::Buffer,
    ops::{
        LoraAdapter,
        linear::{column_sums, widened},
    },
};

/// `|W + s B A|` of each row, f32, without the sum itself: with `P = W A^T` and `Q = B A A^T` it is the root
/// of `|w|^2 + 2 s b p + s^2 b q`.
///
/// # Shapes
/// `weight [N, K]` -> `[N]`.
///
/// # Errors
/// When the device has no room.
pub(super) fn row_norms(weight: &Tensor, lora: &LoraAdapter) -> Result<Tensor> {
    let (a, b) = (lora.a.value(), lora.b.value());
    let ([rank, k], n) = ([a.shape()[0], a.shape()[1]], b.shape()[0]);
    let w = dense(weight, &a)?;
    let mut p = wide(&a, &[n, rank])?;
    product(Layout::NT, [n, rank, k], &w, &a, &mut p, 0.0)?;
    let mut gram = empty_like(&a, &[rank, rank])?;
    product(Layout::NT, [rank, rank, k], &a, &a, &mut gram, 0.0)?;
    let mut q = wide(&a, &[n, rank])?;
    product(Layout::NN, [n, rank, rank], &b, &gram, &mut q, 0.0)?;
    let mut norms = wide(&a, &[n])?;
    if let Some(cuda) = a.cuda() {
        cuda::ops::row_norms(cuda, [&w, &b, &p, &q], lora.scaling, &mut norms)?;
        return Ok(norms);
    }
    let (w, b) = (w.data::<f32>()?, b.data::<f32>()?);
    let (p, q, s) = (p.data::<f32>()?, q.data::<f32>()?, lora.scaling);
    cpu::par_items(norms.data_mut::<f32>()?, k + 2 * rank, |first, norms| {
        for (row, norm) in (first..).zip(norms) {
            let low = row * rank..(row + 1) * rank;
            let w = &w[row * k..(row + 1) * k];
            let (b, p, q) = (&b[low.clone()], &p[low.clone()], &q[low]);
            let square = cpu::dot(w, w) + 2.0 * s * cpu::dot(b, p) + s * s * cpu::dot(b, q);
            *norm = square.max(0.0).sqrt();
        }
    });
    Ok(norms)
}

/// The weight as products take it beside `like`.
fn dense(weight: &Tensor, like: &Tensor) -> Result<Tensor> {
    match like.cuda() {
        Some(cuda) => cuda::ops::widened(cuda, weight, like.dtype()),
        None => widened(weight),
    }
}

fn wide(like: &Tensor, shape: &[usize]) -> Result<Tensor> {
    match like.cuda() {
        Some(cuda) => cuda.empty(shape, DType::F32),
        None => empty_like(like, shape),
    }
}

impl Tape {
    /// `m / norm * z + bias (+ residual)`, the norm a constant.
    ///
    /// # Shapes
    /// `z [.., N]`, `magnitude`, `norm`, `bias [N]`, `residual [.., N]` -> `[.., N]`.
    pub(super) fn scale_rows_to(
        &self,
        z: &Var,
        magnitude: &Param,
        norm: &Tensor,
        bias: Option<&Param>,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let (n, m) = (norm.numel(), magnitude.value());
        let mut out = empty_like(z.value(), z.shape())?;
        let b = bias.map(Param::value);
        if self.output_is_read() {
            let r = residual.map(Var::value);
            match z.value().cuda() {
                Some(cuda) => {
                    cuda::ops::scale_to(cuda, z.value(), [&m, norm], b.as_ref(), r, &mut out)?;
                }
                None => {
                    let g = gain(&m, norm)?;
                    let bias = b.as_ref().map(widened).transpose()?;
                    let bias = bias.as_ref().map(|b| b.data::<f32>()).transpose()?;
                    let r = r.map(|r| r.data::<f32>()).transpose()?;
                    let z = z.value().data::<f32>()?;
                    cpu::par_rows(out.data_mut::<f32>()?, n, |first, out| {
                        let range = first * n..first * n + out.len();
                        times_columns(&z[range.clone()], &g, out);
                        if let Some(bias) = bias {
                            out.chunks_exact_mut(n)
                                .for_each(|row| cpu::add_assign(row, bias));
                        }
                        if let Some(r) = r {
                            cpu::add_assign(out, &r[range]);
                        }
                    });
                }
            }
        }
        let mut inputs = vec![z];
        inputs.extend(residual);
        let params: Vec<&Param> = std::iter::once(magnitude).chain(bias).collect();
        if !self.needs_grad(&inputs, &params) {
            return Ok(Var::constant(out));
        }
        let (z, norm, magnitude) = (z.clone(), norm.clone(), magnitude.clone());
        let (bias, residual) = (bias.cloned(), residual.map(Var::without_value));
        Ok(self.record(out, move |dy, grads| {
            if let Some(bias) = bias.filter(Param::requires_grad) {
                add_sums(&dy, n, &bias, grads)?;
            }
            let mut dz = empty_like(&dy, z.shape())?;
            let mut slope = empty_like(&dy, z.shape())?;
            match dy.cuda() {
                Some(cuda) => {
                    let inputs = [&dy, z.value(), &m, &norm];
                    cuda::ops::scale_to_backward(cuda, inputs, [&mut dz, &mut slope])?;
                }
                None => {
                    let g = gain(&m, &norm)?;
                    let (norm, z) = (norm.data::<f32>()?, z.value().data::<f32>()?);
                    let dy = dy.data::<f32>()?;
                    let (dz, slope) = (dz.data_mut::<f32>()?, slope.data_mut::<f32>()?);
                    cpu::par_rows2(dz, n, slope, n, |first, dz, slope| {
                        let range = first * n..first * n + dz.len();
                        let (dy, z) = (&dy[range.clone()], &z[range]);
                        times_columns(dy, &g, dz);
                        slopes(dy, z, norm, slope);
                    });
                }
            }
            if magnitude.requires_grad() {
                add_sums(&slope, n, &magnitude, grads)?;
            }
            grads.add(&z, dz)?;
            match residual {
                Some(r) => grads.add(&r, dy.reshape(r.shape())?),
                None => Ok(()),
            }
        }))
    }
}

/// `m / norm`.
fn gain(m: &Tensor, norm: &Tensor) -> Result<Buffer<f32>> {
    let (m, norm) = (m.data::<f32>()?, norm.data::<f32>()?);
    let mut gain = Buffer::<f32>::unspecified(norm.len());
    for ((gain, m), norm) in gain.iter_mut().zip(m).zip(norm) {
        *gain = m / norm.max(f32::MIN_POSITIVE);
    }
    Ok(gain)
}

/// Adds the sums over rows of `x [rows, n]` to the gradient of a weight.
fn add_sums(x: &Tensor, n: usize, param: &Param, grads: &mut Grads) -> Result<()> {
    match x.cuda() {
        Some(cuda) => cuda::ops::add_column_sums(cuda, x, n, param, grads),
        None => param.accumulate(|out, beta| {
            column_sums(x.data()?, n, out, beta);
            Ok(())
        }),
    }
}

kernel! {
    /// `out = x g`, a factor for each column.
    fn times_columns(x: &[f32], g: &[f32], out: &mut [f32]) {
        let n = g.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            for i in 0..n {
                out[i] = x[i] * g[i];
            }
        }
    }
}

kernel! {
    /// `out = dy z / norm`.
    fn slopes(dy: &[f32], z: &[f32], norm: &[f32], out: &mut [f32]) {
        let n = norm.len();
        let rows = dy.chunks_exact(n).zip(z.chunks_exact(n)).zip(out.chunks_exact_mut(n));
        for ((dy, z), out) in rows {
            for i in 0..n {
                out[i] = dy[i] * z[i] / norm[i].max(f32::MIN_POSITIVE);
            }
        }
    }
}
