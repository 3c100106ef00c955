//! Linear layer: `y = x W^T + b (+ residual)`.
//!
//! Shapes: `x [.., K]`, `W [N, K]` (trailing axes are flattened, so a 1x1 or patch convolution's
//! weight `[N, C, kh, kw]` serves as it is), `b [N]`, `residual` and `y` `[.., N]`.
//! Gradients: `dx = dy W`, `dW += dy^T x`, `db += sum over rows of dy`, `d residual = dy`.
//! Weights may be stored as bf16, f16 or in 4 bits; they are widened for the product, in the backward pass again.

use crate::{
    Param, Result, Tape, Tensor, Var,
    cpu::{self, Layout, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

impl Tape {
    /// `x W^T + b`.
    ///
    /// # Shapes
    /// `x [.., K]`, `weight [N, K]`, `bias [N]` -> `[.., N]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear(&self, x: &Var, weight: &Param, bias: Option<&Param>) -> Result<Var> {
        self.linear_residual(x, weight, bias, None)
    }

    /// `x W^T + b + residual`, the sum made inside the product.
    ///
    /// # Shapes
    /// As [`Tape::linear`]; `residual [.., N]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear_residual(
        &self,
        x: &Var,
        weight: &Param,
        bias: Option<&Param>,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let shape = output_shape(x, weight, bias, residual)?;
        let (rows, n, k) = (
            x.value().rows(),
            shape.last().copied().unwrap_or(1),
            x.value().last_dim(),
        );
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::linear(self, cuda, x, weight, bias, residual, &shape);
        }
        let biases: Vec<&Param> = bias.into_iter().collect();
        let mut inputs = vec![x];
        inputs.extend(residual);
        let needs_grad = self.needs_grad(&inputs, &[&[weight], &biases[..]].concat());

        let w = weight.value();
        let b = bias.map(|b| widened(&b.value())).transpose()?;
        let mut out = Buffer::<f32>::unspecified(rows * n);
        let beta = match self.output_is_read() {
            true => prefill(&mut out, n, b.as_ref(), residual)?,
            false => 0.0,
        };
        let input = x.value().data::<f32>()?;
        if rows == 1 && w.dtype() == crate::DType::BF16 && !needs_grad {
            // One token: time is that of reading the weight, so it is read as it lies.
            cpu::gemv_bf16(n, k, input, w.data()?, &mut out, beta);
            return Ok(Var::constant(Tensor::from_buffer(out, &shape)));
        }
        if self.output_is_read() {
            let w = widened(&w)?;
            cpu::gemm(Layout::NT, rows, n, k, input, w.data()?, &mut out, beta);
        }
        let out = Tensor::from_buffer(out, &shape);
        if !needs_grad {
            return Ok(Var::constant(out));
        }
        // A frozen weight needs no gradient, and its input is not kept for one.
        let x = if weight.requires_grad() {
            x.clone()
        } else {
            x.without_value()
        };
        let (weight, bias) = (weight.clone(), bias.cloned());
        let residual = residual.map(Var::without_value);
        Ok(self.record(out, move |dy, grads| {
            let g = dy.data::<f32>()?;
            if let Some(bias) = bias.filter(Param::requires_grad) {
                bias.accumulate(|db, beta| {
                    column_sums(g, n, db, beta);
                    Ok(())
                })?;
            }
            if weight.requires_grad() {
                let x = x.value().data::<f32>()?;
                weight.accumulate(|dw, beta| {
                    cpu::gemm(Layout::TN, n, k, rows, g, x, dw, beta);
                    Ok(())
                })?;
            }
            if x.requires_grad() {
                let mut dx = Buffer::<f32>::unspecified(rows * k);
                // Widened again: a frozen weight in few bits is not to be kept in many until here.
                let w = widened(&w)?;
                cpu::gemm(Layout::NN, rows, k, n, g, w.data()?, &mut dx, 0.0);
                grads.add(&x, Tensor::from_buffer(dx, x.shape()))?;
            }
            match residual {
                Some(r) => {
                    let shape = r.shape().to_vec();
                    grads.add(&r, dy.reshape(&shape)?)
                }
                None => Ok(()),
            }
        }))
    }
}

/// Shape of a linear layer's output; an error where the shapes do not fit.
pub(super) fn output_shape(
    x: &Var,
    weight: &Param,
    bias: Option<&Param>,
    residual: Option<&Var>,
) -> Result<Vec<usize>> {
    let n = weight.shape().first().copied().unwrap_or(1);
    let k = weight.numel() / n.max(1);
    ensure_shape(
        "linear",
        x.value().last_dim() == k,
        || format!("[.., {k}]"),
        x.shape(),
    )?;
    if let Some(b) = bias {
        ensure_shape(
            "linear bias",
            b.numel() == n,
            || format!("[{n}]"),
            b.shape(),
        )?;
    }
    let rows = x.value().rows();
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    if let Some(r) = residual {
        ensure_shape(
            "linear residual",
            r.value().numel() == rows * n,
            || format!("{shape:?}"),
            r.shape(),
        )?;
    }
    Ok(shape)
}

/// Writes `residual + bias` into `out` and returns 1, or returns 0 where there is neither.
pub(super) fn prefill(
    out: &mut [f32],
    n: usize,
    bias: Option<&Tensor>,
    residual: Option<&Var>,
) -> Result<f32> {
    let bias = bias.map(|b| b.data::<f32>()).transpose()?;
    let residual = residual.map(|r| r.value().data::<f32>()).transpose()?;
    match (bias, residual) {
        (None, None) => return Ok(0.0),
        (Some(b), None) => cpu::par_rows(out, n, |_, rows| {
            rows.chunks_exact_mut(n)
                .for_each(|row| row.copy_from_slice(b));
        }),
        (None, Some(r)) => cpu::par_rows(out, n, |first, rows| {
            rows.copy_from_slice(&r[first * n..first * n + rows.len()]);
        }),
        (Some(b), Some(r)) => cpu::par_rows(out, n, |first, rows| {
            add_to_rows(&r[first * n..first * n + rows.len()], b, rows);
        }),
    }
    Ok(1.0)
}

/// `out = beta out + sum over rows of x [rows, n]`.
pub(super) fn column_sums(x: &[f32], n: usize, out: &mut [f32], beta: f32) {
    let total = cpu::par_reduce(x.len() / n.max(1), n, |rows, acc| {
        add_rows(&x[rows.start * n..rows.end * n], acc);
    });
    write_back(&total, out, beta);
}

kernel! {
    /// `out = x + y` for every row of `x`.
    fn add_to_rows(x: &[f32], y: &[f32], out: &mut [f32]) {
        let n = y.len();
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            for i in 0..n {
                out[i] = x[i] + y[i];
            }
        }
    }
}

kernel! {
    /// `acc += sum over rows of x`, four rows at a time.
    fn add_rows(x: &[f32], acc: &mut [f32]) {
        let n = acc.len();
        let mut fours = x.chunks_exact(4 * n);
        for rows in &mut fours {
            let ((a, b), (c, d)) = {
                let (ab, cd) = rows.split_at(2 * n);
                (ab.split_at(n), cd.split_at(n))
            };
            let (b, d) = (&b[..n], &d[..n]);
            for i in 0..n {
                acc[i] += (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
        for row in fours.remainder().chunks_exact(n) {
            cpu::axpy(acc, 1.0, row);
        }
    }
}

kernel! {
    /// A bf16 is the upper half of an f32.
    fn widen_bf16(x: &[half::bf16], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

/// `out = beta out + total`.
pub(super) fn write_back(total: &[f32], out: &mut [f32], beta: f32) {
    if beta == 0.0 {
        out.copy_from_slice(total);
    } else {
        cpu::add_assign(out, total);
    }
}

/// The weight as f32 (itself, if it is stored so).
pub(super) fn widened(weight: &Tensor) -> Result<Tensor> {
    if weight.dtype() == crate::DType::F32 {
        return Ok(weight.clone());
    }
    let mut wide = Buffer::<f32>::unspecified(weight.numel());
    match weight.dtype() {
        crate::DType::BF16 => {
            let w = weight.data::<half::bf16>()?;
            cpu::par_chunks(&mut wide, |first, out| {
                widen_bf16(&w[first..first + out.len()], out);
            });
        }
        crate::DType::Nf4 => {
            if let Some((nf4, offset)) = weight.nf4() {
                // An error would be that codes are on a GPU; the caller has looked where the weight is.
                let failed = std::sync::Mutex::new(None);
                cpu::par_chunks(&mut wide, |first, out| {
                    if let Err(error) = nf4.decode(offset + first, out)
                        && let Ok(mut failed) = failed.lock()
                    {
                        *failed = Some(error);
                    }
                });
                if let Some(error) = failed
                    .into_inner()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                {
                    return Err(error);
                }
            }
        }
        _ => {
            let w = weight.data::<half::f16>()?;
            cpu::par_chunks(&mut wide, |first, out| {
                half::slice::HalfFloatSliceExt::convert_to_f32_slice(
                    &w[first..first + out.len()],
                    out,
                );
            });
        }
    }
    Ok(Tensor::from_buffer(wide, weight.shape()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    fn plain(
        x: &[f32],
        w: &[f32],
        b: &[f32],
        r: &[f32],
        rows: usize,
        n: usize,
        k: usize,
    ) -> Vec<f32> {
        let mut y = vec![0.0; rows * n];
        for i in 0..rows {
            for j in 0..n {
                let dot: f64 = (0..k)
                    .map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l]))
                    .sum();
                y[i * n + j] = (dot + f64::from(b[j]) + f64::from(r[i * n + j])) as f32;
            }
        }
        y
    }

    #[test]
    fn forward_agrees_with_a_plain_loop_in_every_weight_type() {
        let mut rng = Rng::new(3);
        for _ in 0..20 {
            let (rows, n, k) = (rng.size(1, 40), rng.size(1, 50), rng.size(1, 60));
            for dtype in [crate::DType::F32, crate::DType::BF16, crate::DType::F16] {
                let (x, r) = (rng.tensor(&[rows, k]), rng.tensor(&[rows, n]));
                let w = Param::new("w", rng.tensor(&[n, k]).cast(dtype).unwrap());
                let b = Param::new("b", rng.tensor(&[n]));
                let y = Tape::inference()
                    .linear_residual(&x.clone().into(), &w, Some(&b), Some(&r.clone().into()))
                    .unwrap();
                let want = plain(
                    &x.to_f32_vec().unwrap(),
                    &w.value().to_f32_vec().unwrap(),
                    &b.value().to_f32_vec().unwrap(),
                    &r.to_f32_vec().unwrap(),
                    rows,
                    n,
                    k,
                );
                close(y.value().data().unwrap(), &want, 1e-5, "linear");
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(4);
        let w = Param::new("w", rng.tensor(&[5, 2, 3]));
        let b = Param::new("b", rng.tensor(&[5]));
        check_gradients(
            &[rng.tensor(&[2, 4, 6]), rng.tensor(&[2, 4, 5])],
            &[&w, &b],
            |tape, x| tape.linear_residual(&x[0], &w, Some(&b), Some(&x[1])),
        );
    }

    #[test]
    fn wrong_shapes_are_named() {
        let w = Param::new("w", Tensor::zeros(&[3, 4]));
        let err = Tape::inference()
            .linear(&Tensor::zeros(&[2, 5]).into(), &w, None)
            .unwrap_err();
        assert_eq!(
            err.to_string(),
            "linear: expected shape [.., 4], got [2, 5]"
        );
    }
}
