//! Rotary position embedding: heads cut out of a row, rotated and put back, in one pass each way.

use std::sync::{Arc, Mutex, PoisonError};

use super::norm::{check_gradient, check_types};
use crate::{
    Error, Result, RopeTable, Tape, Tensor, Var,
    cuda::{Arg, Cuda, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "rope",
    code: include_str!("../kernels/rope.cu"),
};
/// Row to heads; by runs of eight elements and by single ones.
const SPLIT: [Kernel; 2] = [SOURCE.kernel("split_8"), SOURCE.kernel("split_1")];
/// Heads to row, rotated back.
const MERGE: [Kernel; 2] = [SOURCE.kernel("merge_8"), SOURCE.kernel("merge_1")];

/// Heads of a row where they lie.
const TURN: [Kernel; 2] = [SOURCE.kernel("turn_8"), SOURCE.kernel("turn_1")];

/// Most threads of a block.
const THREADS: usize = 256;

/// Copies of a table on the devices that used it, kept inside the table.
#[derive(Debug, Default)]
pub(crate) struct DeviceTables(Mutex<Vec<Tensor>>);

impl Clone for DeviceTables {
    /// A copy of a table starts without them.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for DeviceTables {
    /// Tables are equal by their content, wherever they were used.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl DeviceTables {
    /// The values on this device, four bytes each. They are kept as a constant, because they outlive a
    /// captured graph.
    fn get(&self, cuda: &Arc<Cuda>, values: impl Iterator<Item = f32>) -> Result<Tensor> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |t: &&Tensor| t.cuda().is_some_and(|other| Arc::ptr_eq(other, cuda));
        if let Some(found) = all.iter().find(here) {
            return Ok(found.clone());
        }
        let bits: Vec<i32> = values.map(|v| v.to_bits() as i32).collect();
        let table = cuda.constant(&bits)?;
        all.push(table.clone());
        Ok(table)
    }
}

/// What a kernel needs besides the heads.
#[derive(Clone)]
pub(crate) struct Angles {
    /// `[2, positions, half]`: cosines, then sines.
    table: Tensor,
    /// `[T]`
    positions: Tensor,
    entries: usize,
    half: usize,
}

impl Angles {
    pub(crate) fn new(cuda: &Arc<Cuda>, table: &RopeTable, positions: &[i32]) -> Result<Self> {
        let (cos, sin) = table.angles();
        Ok(Self {
            table: table
                .device_tables()
                .get(cuda, cos.iter().chain(sin).copied())?,
            positions: cuda.constant(positions)?,
            entries: cos.len(),
            half: table.dim() / 2,
        })
    }

    /// As a kernel takes them: table, positions, entries of a half of the table.
    pub(crate) fn arguments(&self) -> [Arg; 3] {
        let entries = self.entries as i64;
        [
            (&self.table).into(),
            (&self.positions).into(),
            entries.into(),
        ]
    }

    /// Queues a kernel over `parts` = row, queries, keys, values; `heads` query heads and `kv` key heads.
    fn launch(
        &self,
        cuda: &Arc<Cuda>,
        [runs, singles]: &[Kernel; 2],
        whole: &Tensor,
        parts: [Arg; 4],
        [heads, kv]: [usize; 2],
    ) -> Result<()> {
        let half = self.half;
        if whole.numel() == 0 {
            return Ok(());
        }
        let aligned = parts.iter().all(|part| match part {
            Arg::Address(address) => address.is_multiple_of(16),
            _ => true,
        });
        let (in_runs, parts_a_head, threads) = self.threads(aligned, heads + 2 * kv);
        let kernel = if in_runs { runs } else { singles };
        let numbers = args![heads as i32, kv as i32, half as i32, parts_a_head as i32];
        cuda.launch(
            kernel,
            whole.dtype(),
            Grid::new(self.positions.numel(), threads),
            &[&parts[..], &self.arguments(), numbers].concat(),
        )
    }
}

impl Angles {
    /// Whether heads are taken in runs of eight elements, the threads of a head, and those of a block that works
    /// on so many heads.
    fn threads(&self, aligned: bool, heads: usize) -> (bool, usize, usize) {
        let half = self.half;
        let in_runs = aligned && half.is_multiple_of(8) && half / 8 <= THREADS;
        let parts_a_head = if in_runs { half / 8 } else { half };
        // As few rounds over the heads as a block allows, and no thread without work in the last.
        let threads = if parts_a_head >= THREADS {
            THREADS
        } else {
            let rounds = heads.div_ceil(THREADS / parts_a_head);
            parts_a_head * heads.div_ceil(rounds)
        };
        (in_runs, parts_a_head, threads)
    }

    /// Turns the first `turned` of `all` heads of every row where they lie, by the angles times `sign`.
    pub(crate) fn turn(
        &self,
        cuda: &Arc<Cuda>,
        rows: &mut Tensor,
        [turned, all]: [usize; 2],
        sign: f32,
    ) -> Result<()> {
        if rows.numel() == 0 {
            return Ok(());
        }
        let aligned = rows.cuda_address_mut()?.is_multiple_of(16);
        let (in_runs, parts_a_head, threads) = self.threads(aligned, turned);
        let numbers = args![
            turned as i32,
            all as i32,
            self.half as i32,
            parts_a_head as i32,
            sign
        ];
        let dtype = rows.dtype();
        cuda.launch(
            &TURN[usize::from(!in_runs)],
            dtype,
            Grid::new(self.positions.numel(), threads),
            &[args![rows], &self.arguments()[..], numbers].concat(),
        )
    }
}

/// As [`Tape::rope`], with checked shapes and positions.
pub(crate) fn rope(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    x: &Var,
    table: &RopeTable,
    positions: &[i32],
) -> Result<Var> {
    const OP: &str = "rope";
    let dtype = x.value().dtype();
    check_types(OP, x.value(), &[])?;
    // A row that has query heads alone.
    let heads = [x.shape().get(1).copied().unwrap_or(0), 0];
    let none = Arg::Address(0);
    let angles = Angles::new(cuda, table, positions)?;
    let mut out = cuda.empty(x.shape(), dtype)?;
    let parts = [
        x.value().into(),
        Arg::from(&mut out),
        none.clone(),
        none.clone(),
    ];
    angles.launch(cuda, &SPLIT, x.value(), parts, heads)?;
    if !tape.needs_grad(&[x], &[]) {
        return Ok(Var::constant(out));
    }
    let (x, cuda) = (x.without_value(), cuda.clone());
    Ok(tape.record(out, move |dy, grads| {
        check_gradient(OP, &dy, x.shape(), dtype)?;
        let mut dx = cuda.empty(x.shape(), dtype)?;
        let parts = [Arg::from(&mut dx), Arg::from(&dy), none.clone(), none];
        angles.launch(&cuda, &MERGE, &dx, parts, heads)?;
        grads.add(&x, dx)
    }))
}

/// As [`Tape::split_qkv_rope`], with checked shapes and positions.
pub(crate) fn split_qkv_rope(
    tape: &Tape,
    cuda: &Arc<Cuda>,
    qkv: &Var,
    [heads, kv]: [usize; 2],
    table: &RopeTable,
    positions: &[i32],
) -> Result<(Var, Var, Var)> {
    const OP: &str = "split_qkv_rope";
    let (tokens, dtype) = (positions.len(), qkv.value().dtype());
    check_types(OP, qkv.value(), &[])?;
    let angles = Angles::new(cuda, table, positions)?;
    let part = |heads| cuda.empty(&[tokens, heads, table.dim()], dtype);
    let (mut q, mut k, mut v) = (part(heads)?, part(kv)?, part(kv)?);
    let parts = [
        Arg::from(qkv.value()),
        Arg::from(&mut q),
        Arg::from(&mut k),
        Arg::from(&mut v),
    ];
    angles.launch(cuda, &SPLIT, qkv.value(), parts, [heads, kv])?;
    if !tape.needs_grad(&[qkv], &[]) {
        return Ok((Var::constant(q), Var::constant(k), Var::constant(v)));
    }
    let shapes = [&q, &k, &v].map(|part| part.shape().to_vec());
    let (qkv, cuda) = (qkv.without_value(), cuda.clone());
    let vars = tape.record_many(vec![q, k, v], move |incoming, grads| {
        let mut dx = cuda.empty(qkv.shape(), dtype)?;
        // An output that nobody used has no gradient: the kernel takes null as zeros.
        let mut parts = [const { Arg::Address(0) }; 4];
        parts[0] = Arg::from(&mut dx);
        for ((arg, dy), shape) in parts[1..].iter_mut().zip(&incoming).zip(&shapes) {
            if let Some(dy) = dy {
                check_gradient(OP, dy, shape, dtype)?;
            }
            *arg = Arg::from(dy.as_ref());
        }
        angles.launch(&cuda, &MERGE, &dx, parts, [heads, kv])?;
        grads.add(&qkv, dx)
    });
    let mut vars = vars.into_iter();
    match (vars.next(), vars.next(), vars.next()) {
        (Some(q), Some(k), Some(v)) => Ok((q, k, v)),
        _ => Err(Error::NotRecorded { op: OP }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cuda::testing::compare, ops::testing::Rng};

    fn table(dim: usize, factor: f32) -> Arc<RopeTable> {
        let inv_freq: Vec<f32> = (0..dim / 2)
            .map(|i| 1e4f32.powf(-2.0 * i as f32 / dim as f32))
            .collect();
        Arc::new(RopeTable::new(&inv_freq, 600, factor))
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn rope_agrees_with_the_cpu() {
        let mut rng = Rng::new(516);
        // Runs of eight, single elements, heads wider than a block, one head, many rounds.
        let mut sizes = vec![
            (500, 32, 96),
            (9, 40, 128),
            (7, 1, 16),
            (5, 3, 2),
            (3, 2, 600),
            (3, 2, 1048),
            (2, 1, 4112),
            (0, 2, 8),
        ];
        sizes.extend((0..10).map(|_| (rng.size(1, 60), rng.size(1, 40), 2 * rng.size(1, 100))));
        for (tokens, heads, dim) in sizes {
            let table = table(dim, 1.19);
            let positions: Vec<i32> = (0..tokens).map(|_| rng.size(0, 599) as i32).collect();
            let x = rng.tensor(&[tokens, heads, dim]);
            compare(
                &format!("rope {tokens} x {heads} x {dim}"),
                &[x],
                &[],
                |tape, x, _| Ok(vec![tape.rope(&x[0], &table, &positions)?]),
            );
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn split_qkv_rope_agrees_with_the_cpu() {
        let mut rng = Rng::new(517);
        let mut sizes = vec![
            (600, 32, 32, 96),
            (9, 32, 8, 128),
            (5, 4, 2, 6),
            (0, 2, 1, 8),
        ];
        sizes.extend((0..8).map(|_| {
            let kv = rng.size(1, 8);
            (
                rng.size(1, 60),
                kv * rng.size(1, 5),
                kv,
                2 * rng.size(1, 70),
            )
        }));
        for (tokens, heads, kv, dim) in sizes {
            let table = table(dim, 1.0);
            let positions: Vec<i32> = (0..tokens as i32).rev().collect();
            let x = rng.tensor(&[tokens, (heads + 2 * kv) * dim]);
            // All outputs, then each without the others, whose gradients are then missing.
            for used in [&[0, 1, 2][..], &[0], &[1], &[2]] {
                let what = format!("split {tokens} x {heads} + 2 x {kv}, {dim}, used {used:?}");
                compare(&what, std::slice::from_ref(&x), &[], |tape, x, _| {
                    let (q, k, v) = tape.split_qkv_rope(&x[0], heads, kv, &table, &positions)?;
                    let all = [q, k, v];
                    Ok(used.iter().map(|i| all[*i].clone()).collect())
                });
            }
        }
    }
}
