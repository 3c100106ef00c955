//! Attention of a step by itself: against plain loops, and with runs of every length.

use super::*;
use crate::{
    RopeTable,
    cuda::testing::{TOLERANCE, gpu},
    memory,
    ops::testing::{Rng, close},
};

/// Positions of the rows: chunks that have just begun, that are full, a row that is out of use, and a text of more
/// chunks than there are units.
const POSITIONS: [i32; 10] = [0, 63, 64, 5, 700, -1, 1023, 128, 9000, 333];

struct Case {
    shape: DecodeShape,
    rope: DecodeRope,
    capacity: usize,
    positions: Vec<i32>,
    /// `[rows, q + 2 kv]`.
    qkv: Vec<f32>,
    /// Keys and values, `[rows * capacity, kv]`.
    cache: [Vec<f32>; 2],
}

impl Case {
    fn new(
        rng: &mut Rng,
        [head_dim, kv_heads, group]: [usize; 3],
        window: Option<usize>,
        long: bool,
    ) -> Self {
        let positions: Vec<i32> = POSITIONS
            .iter()
            .copied()
            .filter(|p| long || *p < 2000)
            .collect();
        let capacity = positions.iter().max().map_or(1, |p| *p as usize + 2);
        let shape = DecodeShape {
            hidden: 8,
            heads: kv_heads * group,
            kv_heads,
            head_dim,
            intermediate: 8,
            vocab: 8,
            eps: 1e-5,
            window,
            scale: 2.0 * (head_dim as f32).sqrt().recip(),
        };
        let half = head_dim / 2;
        let table = |theta: f32| {
            let inv_freq: Vec<f32> = (0..half)
                .map(|i| theta.powf(-(i as f32) / half as f32))
                .collect();
            Arc::new(RopeTable::new(&inv_freq, capacity, 1.0))
        };
        let (rows, q, kv) = (positions.len(), shape.q_width(), shape.kv_width());
        Self {
            rope: DecodeRope {
                short: table(1e4),
                long: table(3e5),
                switch_at: Some(600),
            },
            qkv: rng.vec(rows * (q + 2 * kv)),
            cache: [rng.vec(rows * capacity * kv), rng.vec(rows * capacity * kv)],
            shape,
            capacity,
            positions,
        }
    }

    /// Values as the type holds them.
    fn rounded(mut self, dtype: DType) -> Self {
        for values in [&mut self.qkv].into_iter().chain(&mut self.cache) {
            let tensor = Tensor::from_vec(values.clone(), &[values.len()]).unwrap();
            let tensor = tensor.cast(dtype).unwrap();
            *values = tensor.to_f32_vec().unwrap();
        }
        self
    }

    /// Rows lie in the slots from the last to the first.
    fn slot(&self, row: usize) -> usize {
        self.positions.len() - 1 - row
    }

    /// A row without the others.
    fn alone(&self, row: usize) -> Self {
        let (own, kv) = (self.qkv.len() / self.positions.len(), self.shape.kv_width());
        let (text, slot) = (self.capacity * kv, self.slot(row));
        let side = |side: usize| self.cache[side][slot * text..][..text].to_vec();
        Self {
            shape: self.shape.clone(),
            rope: self.rope.clone(),
            capacity: self.capacity,
            positions: vec![self.positions[row]],
            qkv: self.qkv[row * own..][..own].to_vec(),
            cache: [side(0), side(1)],
        }
    }

    /// The output of a row by plain loops, and its new key.
    fn plain(&self, row: usize) -> (Vec<f32>, Vec<f32>) {
        let DecodeShape {
            head_dim: dim,
            kv_heads,
            heads,
            ..
        } = self.shape;
        let (q, kv) = (self.shape.q_width(), self.shape.kv_width());
        let Ok(pos) = usize::try_from(self.positions[row]) else {
            return (vec![0.0; q], Vec::new());
        };
        let table = match pos + 1 > 600 {
            true => &self.rope.long,
            false => &self.rope.short,
        };
        let (cos, sin) = table.angles();
        let half = dim / 2;
        let turn = |x: &[f32]| -> Vec<f32> {
            let mut x = x.to_vec();
            for head in x.chunks_exact_mut(dim) {
                for i in 0..half {
                    let (c, s) = (cos[pos * half + i], sin[pos * half + i]);
                    let (a, b) = (head[i], head[i + half]);
                    (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
                }
            }
            x
        };
        let own = &self.qkv[row * (q + 2 * kv)..][..q + 2 * kv];
        let (queries, key) = (turn(&own[..q]), turn(&own[q..q + kv]));
        let at = |side: usize, j: usize, head: usize| -> &[f32] {
            let all = match (j == pos, side) {
                (true, 0) => &key[..],
                (true, _) => &own[q + kv..],
                _ => &self.cache[side][(self.slot(row) * self.capacity + j) * kv..][..kv],
            };
            &all[head * dim..][..dim]
        };
        let first = self.shape.window.map_or(0, |w| pos.saturating_sub(w));
        let mut out = vec![0.0; q];
        for (h, out) in out.chunks_exact_mut(dim).enumerate() {
            let (query, head) = (&queries[h * dim..][..dim], h / (heads / kv_heads));
            let scores: Vec<f64> = (first..=pos)
                .map(|j| {
                    let products = query
                        .iter()
                        .zip(at(0, j, head))
                        .map(|(a, b)| f64::from(a * b));
                    products.sum::<f64>() * f64::from(self.shape.scale)
                })
                .collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let mut exact = vec![0.0; dim];
            for (score, j) in scores.iter().zip(first..) {
                let p = (score - top).exp() / sum;
                for (o, v) in exact.iter_mut().zip(at(1, j, head)) {
                    *o += p * f64::from(*v);
                }
            }
            out.iter_mut().zip(exact).for_each(|(o, x)| *o = x as f32);
        }
        (out, key)
    }

    /// The same on the GPU with so many blocks for the units of a row: output `[rows, q]` and keys of the cache.
    fn on_gpu(&self, dtype: DType, parts: usize) -> [Vec<f32>; 2] {
        let device = gpu();
        let cuda = device.as_cuda().unwrap();
        memory::set_poison(true);
        let (rows, q, kv) = (
            self.positions.len(),
            self.shape.q_width(),
            self.shape.kv_width(),
        );
        let place = |values: &[f32]| {
            let tensor = Tensor::from_vec(values.to_vec(), &[values.len()]).unwrap();
            tensor.cast(dtype).unwrap().to_device(&device).unwrap()
        };
        let (mut keys, mut values) = (place(&self.cache[0]), place(&self.cache[1]));
        let cache = [
            keys.cuda_address_mut().unwrap(),
            values.cuda_address_mut().unwrap(),
        ];
        let qkv = place(&self.qkv);
        let at = |column: usize| qkv.cuda_address().unwrap() + (column * dtype.size()) as u64;
        let slots: Vec<i32> = (0..rows).map(|row| self.slot(row) as i32).collect();
        let positions = cuda.upload(&self.positions, &[rows]).unwrap();
        let slots = cuda.upload(&slots, &[rows]).unwrap();
        let mut attention =
            Attention::new(cuda, &self.shape, &self.rope, rows, self.capacity).unwrap();
        let (_, blocks) = heads_of_a_block(&self.shape);
        let (blocks, units) = (self.shape.kv_heads * blocks, units(self.capacity));
        attention.at_once = blocks * rows * parts;
        assert_eq!(
            blocks_of_a_row(attention.at_once, blocks, rows, units),
            parts
        );
        let launcher = Launcher {
            cuda: cuda.clone(),
            dtype,
        };
        let mut out = cuda.empty(&[rows, q], dtype).unwrap();
        // Twice: counters are as they were, and the cache is written as before.
        for _ in 0..2 {
            attention
                .run(
                    &launcher,
                    &self.shape,
                    Projected {
                        q: at(0),
                        k: at(q),
                        v: at(q + kv),
                        q_stride: q + 2 * kv,
                        kv_stride: q + 2 * kv,
                    },
                    cache,
                    Rows {
                        positions: &positions,
                        slots: &slots,
                        count: rows,
                        span: self.capacity,
                    },
                    self.capacity,
                    &mut out,
                )
                .unwrap();
        }
        [out.to_f32_vec().unwrap(), keys.to_f32_vec().unwrap()]
    }
}

#[test]
#[ignore = "needs a GPU"]
fn every_number_of_blocks_gives_the_same_bits_and_agrees_with_plain_loops() {
    let mut rng = Rng::new(611);
    let sizes = [
        ([96, 3, 1], None, false),
        ([64, 2, 2], Some(100), false),
        ([128, 2, 4], None, false),
        ([40, 1, 3], Some(64), false),
        ([256, 1, 8], None, false),
        ([8, 2, 1], None, true),
        ([96, 1, 4], None, true),
        ([96, 2, 1], Some(100), false),
        ([96, 1, 1], None, true),
        ([64, 2, 1], None, false),
        ([128, 1, 1], Some(300), false),
        ([40, 2, 1], Some(64), false),
        ([256, 1, 1], None, false),
    ];
    for (size, window, long) in sizes {
        for (dtype, tolerance) in TOLERANCE {
            let case = Case::new(&mut rng, size, window, long).rounded(dtype);
            let what = format!("{size:?}, window {window:?}, {dtype}");
            let most = units(case.capacity);
            let [out, keys] = case.on_gpu(dtype, most);
            let (q, kv) = (case.shape.q_width(), case.shape.kv_width());
            for row in 0..case.positions.len() {
                let (want, key) = case.plain(row);
                let what = format!("{what}, position {}", case.positions[row]);
                close(&out[row * q..][..q], &want, tolerance, &what);
                if let Ok(pos) = usize::try_from(case.positions[row]) {
                    let at = (case.slot(row) * case.capacity + pos) * kv;
                    close(&keys[at..][..kv], &key, tolerance, &format!("{what}, key"));
                }
            }
            let row = case.positions.iter().position(|p| *p == 700).unwrap();
            for parts in [1, most] {
                let [alone, _] = case.alone(row).on_gpu(dtype, parts);
                let same = alone
                    .iter()
                    .zip(&out[row * q..])
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}: a row alone with {parts} blocks differs");
            }
            for parts in [1, 2, 3, most.div_ceil(2), most - 1] {
                let [other, _] = case.on_gpu(dtype, parts);
                let same = out
                    .iter()
                    .zip(&other)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}: {parts} blocks a row differ from one a unit");
            }
        }
    }
}

#[test]
fn rows_share_the_card() {
    // Phi-3.5: 24 KiB of keys and values a chunk, one of them a warp.
    assert_eq!(shared(96, 1), [48 << 10, 1556]);
    let own = |head_dim| blocks_at_once(head_dim, 1, 228 << 10);
    assert_eq!([8, 64, 96, 128, 256].map(own), [8, 6, 4, 3, 1]);
    // Two of them a block of heads that share keys.
    assert_eq!(shared(96, 4)[0], 48 << 10);
    assert_eq!(blocks_at_once(128, 4, 228 << 10), 2);
    assert_eq!(blocks_at_once(256, 4, 228 << 10), 1);
    // A card with less has room for none.
    assert_eq!(blocks_at_once(256, 4, 100 << 10), 0);
    // 132 multiprocessors, 32 heads, up to 1,024 tokens: one row takes a chunk a block, 16 rows the whole text.
    let parts = |rows| blocks_of_a_row(4 * 132, 32, rows, units(1024));
    assert_eq!([1, 2, 4, 8].map(parts), [16, 8, 4, 2]);
    assert_eq!([9, 16, 64].map(parts), [1; 3]);
    // Heads that share keys have fewer blocks.
    assert_eq!(blocks_of_a_row(2 * 132, 4, 16, 16), 4);
    assert_eq!(blocks_of_a_row(0, 32, 16, 16), 16);
}
