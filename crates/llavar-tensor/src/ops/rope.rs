//! Rotary position embedding, rotate-half form (Su et al. 2021, as in Llama and Phi-3).
//!
//! With the halves `a = x[..D/2]`, `b = x[D/2..]` of a head, position p and angle
//! `t_i = p inv_freq_i`: `y = [a cos t - b sin t, b cos t + a sin t]`. The gradient is the transposed
//! (inverse) rotation. `attention_factor` multiplies cosine and sine (longrope).
//!
//! Shapes: `x`, `y` `[T, H, D]`, one position a token. Nothing but the positions is saved.

use std::sync::Arc;

use crate::{Error, Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer};

/// Cosines and sines of every position, computed once a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// `[positions, half]` each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    positions: usize,
    on_devices: cuda::ops::DeviceTables,
}

impl RopeTable {
    /// Angles `position * inv_freq` for positions `0..positions`, in f64; cosine and sine are both
    /// multiplied by `attention_factor` (1 unless the model's scaling says otherwise).
    ///
    /// # Shapes
    /// `inv_freq [D/2]`, radians a position.
    pub fn new(inv_freq: &[f32], positions: usize, attention_factor: f32) -> Self {
        let half = inv_freq.len();
        let factor = f64::from(attention_factor);
        let (cos, sin) = (0..positions)
            .flat_map(|p| inv_freq.iter().map(move |f| p as f64 * f64::from(*f)))
            .map(|t| ((t.cos() * factor) as f32, (t.sin() * factor) as f32))
            .unzip();
        Self {
            cos,
            sin,
            half,
            positions,
            on_devices: cuda::ops::DeviceTables::default(),
        }
    }

    /// The head dimension D that it rotates.
    pub fn dim(&self) -> usize {
        2 * self.half
    }

    /// Number of positions it holds.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Cosines and sines, `[positions, D / 2]` each.
    pub(crate) fn angles(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Where devices keep their copies.
    pub(crate) fn device_tables(&self) -> &cuda::ops::DeviceTables {
        &self.on_devices
    }

    /// Cosines and sines of one position that [`check_positions`] has let through.
    #[inline(always)]
    fn at(&self, position: i32) -> (&[f32], &[f32]) {
        let from = position as usize * self.half;
        let range = from..from + self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates every head of a row by the angles of one position; `sign` -1 rotates back.
#[inline(always)]
fn rotate(x: &[f32], y: &mut [f32], (cos, sin): (&[f32], &[f32]), sign: f32) {
    let half = cos.len();
    let sin = &sin[..half];
    for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
        let (a, b) = x.split_at(half);
        let (ya, yb) = y.split_at_mut(half);
        for i in 0..half {
            let s = sign * sin[i];
            ya[i] = a[i] * cos[i] - b[i] * s;
            yb[i] = b[i] * cos[i] + a[i] * s;
        }
    }
}

/// Rotates `out.len() / width` rows; row `i` is read at `x[i * stride + offset..]`.
fn rotate_rows(
    x: &[f32],
    (stride, offset): (usize, usize),
    out: &mut [f32],
    width: usize,
    table: &RopeTable,
    positions: &[i32],
    sign: f32,
) {
    cpu::par_rows(out, width, |first, y| {
        cpu::simd_kernel(RotateRows {
            x: &x[first * stride..],
            stride,
            offset,
            y,
            width,
            table,
            positions: &positions[first..],
            sign,
        });
    });
}

/// Arguments of [`rotate_rows`] for a run of rows.
struct RotateRows<'a> {
    x: &'a [f32],
    stride: usize,
    offset: usize,
    y: &'a mut [f32],
    width: usize,
    table: &'a RopeTable,
    positions: &'a [i32],
    sign: f32,
}

impl cpu::Kernel for RotateRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let rows = self.y.chunks_exact_mut(self.width).zip(self.positions);
        for (i, (y, position)) in rows.enumerate() {
            let x = &self.x[i * self.stride + self.offset..][..self.width];
            rotate(x, y, self.table.at(*position), self.sign);
        }
    }
}

/// One position a token, all inside the table.
pub(super) fn check_positions(
    op: &'static str,
    table: &RopeTable,
    positions: &[i32],
    tokens: usize,
) -> Result<()> {
    ensure_shape(
        op,
        positions.len() == tokens,
        || format!("positions [{tokens}]"),
        &[positions.len()],
    )?;
    let outside = |p: &&i32| **p < 0 || **p as usize >= table.positions;
    match positions.iter().find(outside) {
        Some(p) => Err(Error::IndexOutOfRange {
            op,
            index: i64::from(*p),
            len: table.positions,
        }),
        None => Ok(()),
    }
}

impl Tape {
    /// Rotates every head of every token by its position.
    ///
    /// # Shapes
    /// `x [T, H, D]`, `positions [T]` -> `[T, H, D]`.
    ///
    /// # Errors
    /// When D is not the table's, or a position lies outside the table.
    pub fn rope(&self, x: &Var, table: &Arc<RopeTable>, positions: &[i32]) -> Result<Var> {
        let dim = table.dim();
        let &[tokens, heads, d] = x.shape() else {
            return ensure_shape("rope", false, || format!("[T, H, {dim}]"), x.shape())
                .map(|()| x.clone());
        };
        ensure_shape("rope", d == dim, || format!("[T, H, {dim}]"), x.shape())?;
        check_positions("rope", table, positions, tokens)?;
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::rope(self, cuda, x, table, positions);
        }
        let width = heads * d;
        let mut out = Buffer::<f32>::unspecified(tokens * width);
        let input = x.value().data::<f32>()?;
        rotate_rows(input, (width, 0), &mut out, width, table, positions, 1.0);
        let out = Tensor::from_buffer(out, x.shape());
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(out));
        }
        let (x, table, positions) = (x.without_value(), table.clone(), positions.to_vec());
        Ok(self.record(out, move |dy, grads| {
            let mut dx = Buffer::<f32>::unspecified(tokens * width);
            let dy = dy.data::<f32>()?;
            rotate_rows(dy, (width, 0), &mut dx, width, &table, &positions, -1.0);
            grads.add(&x, Tensor::from_buffer(dx, x.shape()))
        }))
    }

    /// Cuts a fused projection into queries, keys and values and rotates the first two.
    ///
    /// # Shapes
    /// `qkv [T, (heads + 2 kv_heads) D]` in the order query heads, key heads, value heads ->
    /// `[T, heads, D]`, `[T, kv_heads, D]`, `[T, kv_heads, D]`; `positions [T]`.
    ///
    /// # Errors
    /// When the width does not fit, or a position lies outside the table.
    pub fn split_qkv_rope(
        &self,
        qkv: &Var,
        heads: usize,
        kv_heads: usize,
        table: &Arc<RopeTable>,
        positions: &[i32],
    ) -> Result<(Var, Var, Var)> {
        const OP: &str = "split_qkv_rope";
        let dim = table.dim();
        let (q_width, kv_width) = (heads * dim, kv_heads * dim);
        let width = q_width + 2 * kv_width;
        let fits = qkv.shape().len() == 2 && qkv.value().last_dim() == width;
        ensure_shape(OP, fits, || format!("[T, {width}]"), qkv.shape())?;
        let tokens = qkv.value().rows();
        check_positions(OP, table, positions, tokens)?;
        if let Some(cuda) = qkv.value().cuda() {
            return cuda::ops::split_qkv_rope(self, cuda, qkv, [heads, kv_heads], table, positions);
        }

        let x = qkv.value().data::<f32>()?;
        let mut q = Buffer::<f32>::unspecified(tokens * q_width);
        let mut k = Buffer::<f32>::unspecified(tokens * kv_width);
        let mut v = Buffer::<f32>::unspecified(tokens * kv_width);
        rotate_rows(x, (width, 0), &mut q, q_width, table, positions, 1.0);
        rotate_rows(x, (width, q_width), &mut k, kv_width, table, positions, 1.0);
        cpu::par_rows(&mut v, kv_width, |first, v| {
            for (i, v) in v.chunks_exact_mut(kv_width).enumerate() {
                v.copy_from_slice(&x[(first + i + 1) * width - kv_width..][..kv_width]);
            }
        });
        let outputs = [(q, heads), (k, kv_heads), (v, kv_heads)]
            .map(|(buffer, heads)| Tensor::from_buffer(buffer, &[tokens, heads, dim]));
        if !self.needs_grad(&[qkv], &[]) {
            let [q, k, v] = outputs.map(Var::constant);
            return Ok((q, k, v));
        }
        let (qkv, table, positions) = (qkv.without_value(), table.clone(), positions.to_vec());
        let vars = self.record_many(outputs.to_vec(), move |incoming, grads| {
            // An output that nobody used has no gradient: its part is zero.
            let mut parts = [None; 3];
            for (part, grad) in parts.iter_mut().zip(&incoming) {
                *part = grad.as_ref().map(Tensor::data::<f32>).transpose()?;
            }
            let mut dx = Buffer::<f32>::unspecified(tokens * width);
            cpu::par_rows(&mut dx, width, |first, dx| {
                for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                    let t = first + i;
                    let (dq, rest) = dx.split_at_mut(q_width);
                    let (dk, dv) = rest.split_at_mut(kv_width);
                    for (dy, to, sign) in [
                        (parts[0], dq, -1.0),
                        (parts[1], dk, -1.0),
                        (parts[2], dv, 0.0),
                    ] {
                        let row = t * to.len()..(t + 1) * to.len();
                        match dy {
                            None => to.fill(0.0),
                            Some(dy) if sign == 0.0 => to.copy_from_slice(&dy[row]),
                            Some(dy) => cpu::simd_kernel(RotateRows {
                                x: &dy[row],
                                stride: to.len(),
                                offset: 0,
                                width: to.len(),
                                y: to,
                                table: &table,
                                positions: &positions[t..=t],
                                sign,
                            }),
                        }
                    }
                }
            });
            grads.add(&qkv, Tensor::from_buffer(dx, qkv.shape()))
        });
        let mut vars = vars.into_iter();
        match (vars.next(), vars.next(), vars.next()) {
            (Some(q), Some(k), Some(v)) => Ok((q, k, v)),
            _ => Err(Error::NotRecorded { op: OP }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, check_gradients_many, close};

    fn table(dim: usize, factor: f32) -> (Vec<f32>, Arc<RopeTable>) {
        let inv_freq: Vec<f32> = (0..dim / 2)
            .map(|i| 1e4f32.powf(-2.0 * i as f32 / dim as f32))
            .collect();
        let table = Arc::new(RopeTable::new(&inv_freq, 50, factor));
        (inv_freq, table)
    }

    #[test]
    fn agrees_with_complex_rotation() {
        let mut rng = Rng::new(41);
        for _ in 0..20 {
            let (tokens, heads, half) = (rng.size(0, 20), rng.size(1, 4), rng.size(1, 20));
            let dim = 2 * half;
            let (inv_freq, table) = table(dim, 1.19);
            let positions: Vec<i32> = (0..tokens).map(|_| rng.size(0, 49) as i32).collect();
            let x = rng.tensor(&[tokens, heads, dim]);
            let v = x.to_f32_vec().unwrap();
            let y = Tape::inference()
                .rope(&x.into(), &table, &positions)
                .unwrap();
            let mut want = vec![0.0; v.len()];
            for t in 0..tokens {
                for h in 0..heads {
                    for i in 0..half {
                        // (a + ib) e^(i angle)
                        let at = (t * heads + h) * dim + i;
                        let (s, c) = (f64::from(positions[t]) * f64::from(inv_freq[i])).sin_cos();
                        let (a, b) = (f64::from(v[at]), f64::from(v[at + half]));
                        want[at] = (1.19 * (a * c - b * s)) as f32;
                        want[at + half] = (1.19 * (a * s + b * c)) as f32;
                    }
                }
            }
            close(y.value().data().unwrap(), &want, 1e-6, "rope");
        }
    }

    #[test]
    fn split_equals_three_slices_and_rope() {
        let mut rng = Rng::new(42);
        let (tokens, heads, kv_heads, dim) = (9, 4, 2, 6);
        let (_, table) = table(dim, 1.0);
        let positions: Vec<i32> = (0..tokens as i32).rev().collect();
        let width = (heads + 2 * kv_heads) * dim;
        let x = rng.tensor(&[tokens, width]);
        let slice = |from: usize, heads: usize| {
            let rows = x.to_f32_vec().unwrap();
            let data = rows
                .chunks(width)
                .flat_map(|r| r[from..from + heads * dim].to_vec())
                .collect();
            Var::constant(Tensor::from_vec::<f32>(data, &[tokens, heads, dim]).unwrap())
        };
        let tape = Tape::inference();
        let (q, k, v) = tape
            .split_qkv_rope(&x.clone().into(), heads, kv_heads, &table, &positions)
            .unwrap();
        let want_q = tape.rope(&slice(0, heads), &table, &positions).unwrap();
        let want_k = tape
            .rope(&slice(heads * dim, kv_heads), &table, &positions)
            .unwrap();
        let want_v = slice((heads + kv_heads) * dim, kv_heads);
        for (got, want) in [(q, want_q), (k, want_k), (v, want_v)] {
            assert_eq!(got.shape(), want.shape());
            assert_eq!(
                got.value().to_f32_vec().unwrap(),
                want.value().to_f32_vec().unwrap()
            );
        }
    }

    #[test]
    fn bad_positions_and_shapes_are_errors() {
        let (_, table) = table(4, 1.0);
        let x = Var::constant(Tensor::zeros(&[2, 1, 4]));
        let tape = Tape::inference();
        for positions in [&[0, 50][..], &[-1, 0], &[0]] {
            assert!(tape.rope(&x, &table, positions).is_err(), "{positions:?}");
        }
        let x = Var::constant(Tensor::zeros(&[2, 1, 6]));
        assert!(tape.rope(&x, &table, &[0, 1]).is_err());
        let x = Var::constant(Tensor::zeros(&[2, 17]));
        assert!(tape.split_qkv_rope(&x, 2, 1, &table, &[0, 1]).is_err());
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(43);
        let (_, table) = table(6, 1.1);
        let positions = [3, 0, 7, 7, 20];
        check_gradients(&[rng.tensor(&[5, 2, 6])], &[], |tape, x| {
            tape.rope(&x[0], &table, &positions)
        });
        check_gradients_many(&[rng.tensor(&[5, 48])], &[], |tape, x| {
            let (q, k, v) = tape.split_qkv_rope(&x[0], 4, 2, &table, &positions)?;
            Ok(vec![q, k, v])
        });
    }
}
