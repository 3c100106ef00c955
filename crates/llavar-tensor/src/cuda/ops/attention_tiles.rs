//! Attention without gradients on tensor cores, for what cuDNN has no plan for: texts that share their
//! beginnings, windows, and queries behind keys that were there before.

use std::{ops::Range, sync::Arc};

use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    ops::attention::{PathSpec, Problem},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "attention_tiles",
    code: concat!(
        include_str!("../kernels/mma.cuh"),
        include_str!("../kernels/attention_tiles.cu")
    ),
};
/// By head size.
const KERNELS: [(usize, Kernel); 3] = [
    (64, SOURCE.kernel("attend_tile_64")),
    (96, SOURCE.kernel("attend_tile_96")),
    (128, SOURCE.kernel("attend_tile_128")),
];
/// Queries of a tile and threads of its block, as in the kernel.
const TILE: usize = 64;
const THREADS: usize = 128;

/// Who attends to whom, tile by tile.
#[derive(Debug, Default)]
pub(crate) struct Tiles {
    /// Of every tile: first query, end, first run, end of its runs.
    tiles: Vec<i32>,
    /// First key and end.
    runs: Vec<i32>,
    /// Of every key: the first query that sees it, and the end of those that do.
    seen_by: Vec<i32>,
}

impl Tiles {
    /// Samples next to each other; a tile has queries of one sample, so that it meets no keys of others.
    fn of_segments(problem: &Problem) -> Self {
        let mut new = Self {
            seen_by: problem.seeing_queries(),
            ..Self::default()
        };
        for segment in &problem.segments {
            let n = segment.q.len();
            for from in (0..n).step_by(TILE) {
                let queries = from..(from + TILE).min(n);
                let keys = segment.keys_of_any(queries.clone());
                let start = segment.q.start;
                let keys = keys.start + segment.k.start..keys.end + segment.k.start;
                new.push(
                    start + queries.start..start + queries.end,
                    std::iter::once(keys),
                );
            }
        }
        new
    }

    /// Texts that share their beginnings, where a stretch lies directly before those that go on behind it
    /// and no window hides anything: then what sees a key is one run of queries. Tiles go over the borders
    /// of stretches, since texts behind a picture are short.
    pub(crate) fn of_paths(spec: &PathSpec) -> Option<Self> {
        let ends = spec.nested_ends()?;
        let ranges: Vec<Range<usize>> = spec.stretches.ranges().collect();
        let mut new = Self::default();
        for (range, end) in ranges.iter().zip(ends) {
            new.seen_by
                .extend(range.clone().flat_map(|key| [key as i32, end as i32]));
        }
        let tokens = spec.stretches.total();
        let mut own = 0;
        for from in (0..tokens).step_by(TILE) {
            let to = (from + TILE).min(tokens);
            own += ranges[own..].iter().take_while(|r| r.end <= from).count();
            let before = spec.paths[own].iter().map(|at| ranges[*at].clone());
            let inside = ranges[own..].iter().take_while(|r| r.start < to);
            let inside = inside.map(|r| r.start..r.end.min(to));
            new.push(from..to, before.chain(inside));
        }
        Some(new)
    }

    /// A tile with the keys of its queries in ascending order.
    fn push(&mut self, queries: Range<usize>, keys: impl IntoIterator<Item = Range<usize>>) {
        let first = self.runs.len();
        for run in keys.into_iter().filter(|run| run.start < run.end) {
            match self.runs[first..].last_mut() {
                Some(end) if *end == run.start as i32 => *end = run.end as i32,
                _ => self.runs.extend([run.start as i32, run.end as i32]),
            }
        }
        let numbers = [queries.start, queries.end, first / 2, self.runs.len() / 2];
        self.tiles.extend(numbers.map(|n| n as i32));
    }

    fn count(&self) -> usize {
        self.tiles.len() / 4
    }
}

/// Whether there is a kernel for these tensors.
pub(crate) fn fits(tensors: [&Tensor; 3], dim: usize) -> bool {
    let aligned = |t: &Tensor| t.cuda_address().is_ok_and(|a| a.is_multiple_of(16));
    KERNELS.iter().any(|(size, _)| *size == dim)
        && tensors
            .iter()
            .all(|t| t.dtype() == DType::BF16 && aligned(t))
}

/// The output of a checked problem; `None` where there is no kernel for it.
pub(super) fn forward(
    cuda: &Arc<Cuda>,
    problem: &Problem,
    [q, k, v]: [&Tensor; 3],
) -> Result<Option<Tensor>> {
    if !fits([q, k, v], problem.dim) {
        return Ok(None);
    }
    let tiles = Tiles::of_segments(problem);
    attend(cuda, &tiles, problem.scale, [q, k, v]).map(Some)
}

/// `q [T, Hq, D]`, `k` and `v` `[S, Hkv, D]` -> `[T, Hq, D]` by the tiles, which cover T queries.
pub(crate) fn attend(
    cuda: &Arc<Cuda>,
    tiles: &Tiles,
    scale: f32,
    [q, k, v]: [&Tensor; 3],
) -> Result<Tensor> {
    let (heads, kv_heads, dim) = (q.shape()[1], k.shape()[1], q.shape()[2]);
    if tiles.runs.is_empty() {
        // No query sees a key.
        return cuda.zeros(q.shape(), q.dtype());
    }
    let mut out = cuda.empty(q.shape(), q.dtype())?;
    let [of_tiles, runs, seen_by] = [&tiles.tiles, &tiles.runs, &tiles.seen_by];
    let of_tiles = cuda.constant(of_tiles)?;
    let (runs, seen_by) = (cuda.constant(runs)?, cuda.constant(seen_by)?);
    for (size, kernel) in &KERNELS {
        if *size == dim {
            cuda.launch(
                kernel,
                q.dtype(),
                Grid::cube([tiles.count(), heads, 1], THREADS),
                args![
                    q,
                    k,
                    v,
                    &mut out,
                    &of_tiles,
                    &runs,
                    &seen_by,
                    heads as i32,
                    kv_heads as i32,
                    scale,
                ],
            )?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, Segments, Tape, Var,
        cuda::testing::{TOLERANCE, gpu},
        memory,
        ops::{
            attention::{AttentionSpec, paths::testing::tree},
            testing::{Rng, close},
        },
    };

    /// Keys that each of `queries` queries sees, as the kernel reads the tables.
    fn seen(tiles: &Tiles, queries: usize) -> Vec<Vec<usize>> {
        let mut seen = vec![None; queries];
        for tile in tiles.tiles.chunks_exact(4) {
            let [from, to, first, end] = [0, 1, 2, 3].map(|i| tile[i] as usize);
            assert!(from < to && to - from <= TILE);
            for (query, seen) in seen.iter_mut().enumerate().take(to).skip(from) {
                let runs = tiles.runs[2 * first..2 * end].chunks_exact(2);
                let keys = runs.flat_map(|run| run[0] as usize..run[1] as usize);
                let by = |key: &usize| tiles.seen_by[2 * key]..tiles.seen_by[2 * key + 1];
                let keys = keys.filter(|key| by(key).contains(&(query as i32)));
                assert!(
                    seen.replace(keys.collect()).is_none(),
                    "{query} is in two tiles"
                );
            }
        }
        seen.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn tiles_of_paths_are_the_paths() {
        let mut rng = Rng::new(5);
        for case in 0..100 {
            let longest = if case % 3 == 0 { 200 } else { 12 };
            let spec = tree(&mut rng, 12, longest);
            let tiles = Tiles::of_paths(&spec).unwrap();
            let ranges: Vec<Range<usize>> = spec.stretches.ranges().collect();
            let got = seen(&tiles, spec.stretches.total());
            for (own, path) in ranges.iter().zip(&spec.paths) {
                let before: Vec<usize> = path.iter().flat_map(|at| ranges[*at].clone()).collect();
                for query in own.clone() {
                    let own = own.start..query + 1;
                    let want: Vec<usize> = before.iter().copied().chain(own).collect();
                    assert_eq!(got[query], want, "{spec:?}, query {query}");
                }
            }
        }
    }

    #[test]
    fn tiles_of_segments_are_the_mask() {
        let mut rng = Rng::new(6);
        for case in 0..100 {
            let lengths =
                |rng: &mut Rng| -> Vec<usize> { (0..4).map(|_| rng.size(0, 150)).collect() };
            let spec = AttentionSpec {
                q_segments: Segments::from_lengths(lengths(&mut rng)),
                k_segments: Segments::from_lengths(lengths(&mut rng)),
                causal: case % 4 != 0,
                window: (case % 4 == 1).then(|| rng.size(0, 100)),
                scale: 1.0,
            };
            let problem = Problem::of(&spec, 1, 1, 64);
            let runs = problem.seen_keys();
            for (query, got) in seen(&Tiles::of_segments(&problem), problem.queries())
                .into_iter()
                .enumerate()
            {
                let want = runs[2 * query] as usize..runs[2 * query + 1] as usize;
                assert_eq!(got, want.collect::<Vec<_>>(), "{spec:?}, query {query}");
            }
        }
    }

    /// `run` on the GPU in f32 and bf16 with poisoned memory, twice, against the CPU.
    fn compare(what: &str, inputs: [Tensor; 3], run: impl Fn([Var; 3]) -> Result<Var>) {
        let device = gpu();
        memory::set_poison(true);
        for (dtype, tolerance) in TOLERANCE {
            let rounded = inputs.clone().map(|t| t.cast(dtype).unwrap());
            let on = |device: &Device, dtype: DType| -> Vec<f32> {
                let place = |t: Tensor| t.cast(dtype).unwrap().to_device(device).unwrap();
                let x = rounded.clone().map(|t| Var::constant(place(t)));
                run(x).unwrap().value().to_f32_vec().unwrap()
            };
            let what = format!("{what}, {dtype}");
            let (got, again) = (on(&device, dtype), on(&device, dtype));
            let same = got.iter().zip(&again);
            assert!(
                same.clone().all(|(a, b)| a.to_bits() == b.to_bits()),
                "{what}: two runs differ"
            );
            close(&got, &on(&Device::Cpu, DType::F32), tolerance, &what);
        }
    }

    fn inputs(rng: &mut Rng, [queries, keys]: [usize; 2], shape: [usize; 3]) -> [Tensor; 3] {
        let [heads, kv_heads, dim] = shape;
        [
            rng.tensor(&[queries, heads, dim]),
            rng.tensor(&[keys, kv_heads, dim]),
            rng.tensor(&[keys, kv_heads, dim]),
        ]
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn cuda_paths_agree_with_the_cpu() {
        let mut rng = Rng::new(7);
        // Head sizes with a kernel, then one without.
        for shape in [[4, 4, 96], [8, 2, 128], [4, 1, 64], [2, 2, 32]] {
            for longest in [5, 90, 700] {
                let mut spec = tree(&mut rng, 14, longest);
                spec.scale = 1.0 / (shape[2] as f32).sqrt();
                let tokens = spec.stretches.total();
                for window in [None, Some(longest)] {
                    spec.window = window;
                    let inputs = inputs(&mut rng, [tokens; 2], shape);
                    let what = format!("paths {shape:?}, {spec:?}");
                    compare(&what, inputs, |[q, k, v]| {
                        Tape::inference().path_attention(&q, &k, &v, &spec)
                    });
                }
            }
        }
    }

    /// What cuDNN has no plan for: windows, and queries behind cached keys.
    #[test]
    #[ignore = "needs a GPU"]
    fn cuda_tiles_of_segments_agree_with_the_cpu() {
        let mut rng = Rng::new(8);
        for shape in [[4, 4, 96], [8, 2, 128], [4, 1, 64]] {
            for (q, k, window) in [
                ([3, 0, 40, 1], [700, 9, 40, 65], None),
                ([200, 64, 1, 0], [200, 64, 1, 5], Some(50)),
                ([90, 1, 70, 5], [4, 1, 130, 0], None),
                ([9, 0, 0, 70], [0, 5, 0, 0], None),
            ] {
                let spec = AttentionSpec {
                    q_segments: Segments::from_lengths(q),
                    k_segments: Segments::from_lengths(k),
                    causal: true,
                    window,
                    scale: 1.0 / (shape[2] as f32).sqrt(),
                };
                let tokens = [q.iter().sum(), k.iter().sum()];
                let inputs = inputs(&mut rng, tokens, shape);
                compare(
                    &format!("tiles {shape:?}, {spec:?}"),
                    inputs,
                    |[q, k, v]| Tape::inference().attention(&q, &k, &v, &spec),
                );
            }
        }
    }
}
