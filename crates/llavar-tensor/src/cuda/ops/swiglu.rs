//! SwiGLU, gate and up in one tensor or in two: one pass forward, one backward.

use std::sync::Arc;

use super::{
    Before,
    norm::{check_gradient, check_types},
};
use crate::{
    Result, Tape, Tensor, Var,
    cuda::{Arg, Cuda, Grid, Kernel, Source, args},
};

const OP: &str = "swiglu";
pub(in crate::cuda) static SOURCE: Source = Source {
    name: "swiglu",
    code: include_str!("../kernels/swiglu.cu"),
};
const FORWARD: Kernel = SOURCE.kernel("swiglu");
const BACKWARD: Kernel = SOURCE.kernel("swiglu_backward");

/// Most blocks along the second axis of a grid.
const MAX_ROWS: usize = 65_535;

/// Blocks over `[rows, f]`, eight elements a thread.
fn grid(rows: usize, f: usize) -> Grid {
    let vectors = f.div_ceil(8).max(1);
    let threads = vectors.next_multiple_of(32).min(256);
    Grid::cube([vectors.div_ceil(threads), rows.min(MAX_ROWS), 1], threads)
}

/// As [`Tape::swiglu`], with checked shapes.
pub(crate) fn swiglu(tape: &Tape, cuda: &Arc<Cuda>, gate: &Var, up: &Var) -> Result<Var> {
    let (n, dtype) = (gate.value().numel(), gate.value().dtype());
    check_types(OP, gate.value(), &[up.value()])?;
    // Where nothing is side by side, all is one long row.
    let (grid, sizes) = (grid(1, n), [1, n as i64, n as i64].map(Arg::from));
    let mut out = cuda.empty(gate.shape(), dtype)?;
    let tensors = args![gate.value(), up.value(), &mut out];
    cuda.launch(&FORWARD, dtype, grid, &[tensors, &sizes[..]].concat())?;
    Ok(record_swiglu(tape, cuda, gate, up, out))
}

/// `out`, SwiGLU of `gate` and `up`, with its way back.
pub(super) fn record_swiglu(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    gate: &Var,
    up: &Var,
    out: Tensor,
) -> Var {
    if !tape.needs_grad(&[gate, up], &[]) {
        return Var::constant(out);
    }
    let (n, dtype) = (gate.value().numel(), gate.value().dtype());
    let (grid, sizes) = (grid(1, n), [1, n as i64, n as i64].map(Arg::from));
    let (gate, up, cuda) = (gate.clone(), up.clone(), cuda.clone());
    let before = Before::Swiglu(vec![gate.clone(), up.clone()]);
    let y = tape.record(out, move |dy, grads| {
        check_gradient(OP, &dy, gate.shape(), dtype)?;
        let mut dgate = cuda.empty(gate.shape(), dtype)?;
        let mut dup = cuda.empty(up.shape(), dtype)?;
        let tensors = args![gate.value(), up.value(), &dy, &mut dgate, &mut dup];
        cuda.launch(&BACKWARD, dtype, grid, &[tensors, &sizes[..]].concat())?;
        grads.add(&gate, dgate)?;
        grads.add(&up, dup)
    });
    y.behind(before)
}

/// As [`Tape::swiglu_fused`], with checked shapes: `gate_up [.., 2 f]` -> `shape [.., f]`.
pub(crate) fn swiglu_fused(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    gate_up: &Var,
    shape: &[usize],
) -> Result<Var> {
    let (rows, f) = (gate_up.value().rows(), gate_up.value().last_dim() / 2);
    let dtype = gate_up.value().dtype();
    check_types(OP, gate_up.value(), &[])?;
    let (grid, sizes) = (
        grid(rows, f),
        [rows as i64, f as i64, 2 * f as i64].map(Arg::from),
    );
    let mut out = cuda.empty(shape, dtype)?;
    let [gate, up] = halves(gate_up.value(), f)?;
    let tensors = [gate, up, Arg::from(&mut out)];
    cuda.launch(&FORWARD, dtype, grid, &[&tensors[..], &sizes].concat())?;
    Ok(record_swiglu_fused(tape, cuda, gate_up, out))
}

/// `out`, SwiGLU of the halves of `gate_up`, with its way back.
pub(super) fn record_swiglu_fused(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    gate_up: &Var,
    out: Tensor,
) -> Var {
    if !tape.needs_grad(&[gate_up], &[]) {
        return Var::constant(out);
    }
    let (rows, f, dtype) = (out.rows(), out.last_dim(), out.dtype());
    let (grid, sizes) = (
        grid(rows, f),
        [rows as i64, f as i64, 2 * f as i64].map(Arg::from),
    );
    let (gate_up, cuda, shape) = (gate_up.clone(), cuda.clone(), out.shape().to_vec());
    let before = Before::Swiglu(vec![gate_up.clone()]);
    let y = tape.record(out, move |dy, grads| {
        check_gradient(OP, &dy, &shape, dtype)?;
        let dx = cuda.empty(gate_up.shape(), dtype)?;
        let ([gate, up], [dgate, dup]) = (halves(gate_up.value(), f)?, halves(&dx, f)?);
        let tensors = [gate, up, Arg::from(&dy), dgate, dup];
        cuda.launch(&BACKWARD, dtype, grid, &[&tensors[..], &sizes].concat())?;
        grads.add(&gate_up, dx)
    });
    y.behind(before)
}

/// Where the gates and the ups of the first row start. A tensor that is written through it belongs to the
/// caller alone.
fn halves(gate_up: &Tensor, f: usize) -> Result<[Arg; 2]> {
    let start = gate_up.cuda_address()?;
    let half = (f * gate_up.dtype().size()) as u64;
    Ok([Arg::Address(start), Arg::Address(start + half)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cuda::testing::compare, ops::testing::Rng};

    #[test]
    #[ignore = "needs a GPU"]
    fn swiglu_agrees_with_the_cpu() {
        let mut rng = Rng::new(515);
        let mut sizes = vec![
            (0, 8),
            (1, 1),
            (70_000, 8),
            (3, 8192),
            (900, 2064),
            (2, 4100),
        ];
        sizes.extend((0..10).map(|_| (rng.size(1, 200), rng.size(1, 600))));
        sizes.extend((0..10).map(|_| (rng.size(1, 200), 8 * rng.size(1, 600))));
        for (rows, f) in sizes {
            let spread = |x: Tensor| {
                let values = x.to_f32_vec().unwrap().iter().map(|x| 6.0 * x).collect();
                Tensor::from_vec::<f32>(values, x.shape()).unwrap()
            };
            let both = spread(rng.tensor(&[rows, 2 * f]));
            compare(
                &format!("swiglu_fused {rows} x {f}"),
                &[both],
                &[],
                |tape, x, _| Ok(vec![tape.swiglu_fused(&x[0])?]),
            );
            let gate = spread(rng.tensor(&[rows, f]));
            let up = spread(rng.tensor(&[rows, f]));
            compare(
                &format!("swiglu {rows} x {f}"),
                &[gate, up],
                &[],
                |tape, x, _| Ok(vec![tape.swiglu(&x[0], &x[1])?]),
            );
        }
    }
}
