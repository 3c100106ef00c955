//! SwiGLU: `y = silu(gate) * up`, `silu(x) = x sigmoid(x)`.
//!
//! Shapes: `gate`, `up`, `y` `[.., F]`; the fused form takes `[.., 2F]` with the gate first, as Phi-3
//! stores `gate_up_proj`.
//! Gradients: `d up = dy silu(gate)`, `d gate = dy up s (1 + gate (1 - s))` with `s = sigmoid(gate)`.

use crate::{
    Result, Tape, Tensor, Var,
    cpu::{self, kernel},
    cuda,
    error::ensure_shape,
    memory::Buffer,
};

kernel! {
    /// `y = silu(gate) up`, element by element.
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        forward_row(gate, up, y);
    }
}

kernel! {
    /// Gradients of [`forward`].
    fn backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        backward_row(gate, up, dy, dgate, dup);
    }
}

kernel! {
    /// As [`forward`] over rows of gate and up side by side.
    fn forward_fused(gate_up: &[f32], f: usize, y: &mut [f32]) {
        for (row, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
            let (gate, up) = row.split_at(f);
            forward_row(gate, up, y);
        }
    }
}

kernel! {
    /// As [`backward`] over rows of gate and up side by side.
    fn backward_fused(gate_up: &[f32], f: usize, dy: &[f32], dx: &mut [f32]) {
        let rows = gate_up.chunks_exact(2 * f).zip(dy.chunks_exact(f));
        for ((row, dy), dx) in rows.zip(dx.chunks_exact_mut(2 * f)) {
            let ((gate, up), (dgate, dup)) = (row.split_at(f), dx.split_at_mut(f));
            backward_row(gate, up, dy, dgate, dup);
        }
    }
}

#[inline(always)]
fn forward_row(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let n = y.len();
    let (gate, up) = (&gate[..n], &up[..n]);
    for i in 0..n {
        y[i] = gate[i] * cpu::sigmoid(gate[i]) * up[i];
    }
}

#[inline(always)]
fn backward_row(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = dy.len();
    let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
    for i in 0..n {
        let s = cpu::sigmoid(gate[i]);
        dup[i] = dy[i] * gate[i] * s;
        dgate[i] = dy[i] * up[i] * s * gate[i].mul_add(1.0 - s, 1.0);
    }
}

impl Tape {
    /// `silu(gate) * up`.
    ///
    /// # Shapes
    /// All `[.., F]`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn swiglu(&self, gate: &Var, up: &Var) -> Result<Var> {
        ensure_shape(
            "swiglu",
            gate.shape() == up.shape(),
            || format!("{:?}", gate.shape()),
            up.shape(),
        )?;
        if let Some(cuda) = gate.value().cuda() {
            return cuda::ops::swiglu(self, cuda, gate, up);
        }
        let f = gate.value().last_dim();
        let mut out = Buffer::<f32>::unspecified(gate.value().numel());
        {
            let (g, u) = (gate.value().data::<f32>()?, up.value().data::<f32>()?);
            cpu::par_rows(&mut out, f, |first, y| {
                let at = first * f..first * f + y.len();
                forward(&g[at.clone()], &u[at], y);
            });
        }
        let out = Tensor::from_buffer(out, gate.shape());
        if !self.needs_grad(&[gate, up], &[]) {
            return Ok(Var::constant(out));
        }
        let (gate, up) = (gate.clone(), up.clone());
        Ok(self.record(out, move |dy, grads| {
            let (g, u, dy) = (
                gate.value().data::<f32>()?,
                up.value().data::<f32>()?,
                dy.data::<f32>()?,
            );
            let mut dgate = Buffer::<f32>::unspecified(dy.len());
            let mut dup = Buffer::<f32>::unspecified(dy.len());
            cpu::par_rows2(&mut dgate, f, &mut dup, f, |first, dg, du| {
                let at = first * f..first * f + dg.len();
                backward(&g[at.clone()], &u[at.clone()], &dy[at], dg, du);
            });
            grads.add(&gate, Tensor::from_buffer(dgate, gate.shape()))?;
            grads.add(&up, Tensor::from_buffer(dup, up.shape()))
        }))
    }

    /// `silu(first half) * second half` of every row.
    ///
    /// # Shapes
    /// `gate_up [.., 2F]` -> `[.., F]`.
    ///
    /// # Errors
    /// When the last axis is odd.
    pub fn swiglu_fused(&self, gate_up: &Var) -> Result<Var> {
        let width = gate_up.value().last_dim();
        ensure_shape(
            "swiglu",
            width.is_multiple_of(2),
            || "[.., even]".into(),
            gate_up.shape(),
        )?;
        let f = width / 2;
        let mut shape = gate_up.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = f;
        }
        if let Some(cuda) = gate_up.value().cuda() {
            return cuda::ops::swiglu_fused(self, cuda, gate_up, &shape);
        }
        let mut out = Buffer::<f32>::unspecified(gate_up.value().numel() / 2);
        {
            let x = gate_up.value().data::<f32>()?;
            cpu::par_rows(&mut out, f, |first, y| {
                forward_fused(&x[first * width..], f, y);
            });
        }
        let out = Tensor::from_buffer(out, &shape);
        if !self.needs_grad(&[gate_up], &[]) {
            return Ok(Var::constant(out));
        }
        let gate_up = gate_up.clone();
        Ok(self.record(out, move |dy, grads| {
            let (x, dy) = (gate_up.value().data::<f32>()?, dy.data::<f32>()?);
            let mut dx = Buffer::<f32>::unspecified(x.len());
            cpu::par_rows(&mut dx, width, |first, dx| {
                backward_fused(&x[first * width..], f, &dy[first * f..], dx);
            });
            grads.add(&gate_up, Tensor::from_buffer(dx, gate_up.shape()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Rng, check_gradients, close};

    #[test]
    fn both_forms_agree_with_a_plain_loop() {
        let mut rng = Rng::new(6);
        let (rows, f) = (7, 33);
        let x = rng.tensor(&[rows, 2 * f]);
        let v = x.to_f32_vec().unwrap();
        let part = |at: usize| {
            let data = v
                .chunks(2 * f)
                .flat_map(|r| r[at..at + f].to_vec())
                .collect::<Vec<_>>();
            Var::constant(Tensor::from_vec(data, &[rows, f]).unwrap())
        };
        let want: Vec<f32> = v
            .chunks(2 * f)
            .flat_map(|r| {
                (0..f)
                    .map(|i| r[i] / (1.0 + (-r[i]).exp()) * r[f + i])
                    .collect::<Vec<_>>()
            })
            .collect();
        let tape = Tape::inference();
        close(
            tape.swiglu_fused(&x.into())
                .unwrap()
                .value()
                .data()
                .unwrap(),
            &want,
            1e-6,
            "fused",
        );
        close(
            tape.swiglu(&part(0), &part(f))
                .unwrap()
                .value()
                .data()
                .unwrap(),
            &want,
            1e-6,
            "two inputs",
        );
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let mut rng = Rng::new(7);
        check_gradients(&[rng.tensor(&[5, 18])], &[], |tape, x| {
            tape.swiglu_fused(&x[0])
        });
        check_gradients(
            &[rng.tensor(&[5, 9]), rng.tensor(&[5, 9])],
            &[],
            |tape, x| tape.swiglu(&x[0], &x[1]),
        );
    }
}
