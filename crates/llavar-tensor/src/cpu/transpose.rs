//! Matrix transposition.

use super::{kernel, par_rows};

/// Elements of a cache line.
const LINE: usize = 16;

/// `out[cols, rows] = x[rows, cols]^T`, added to what is there when `add` is set.
pub(crate) fn transpose(rows: usize, cols: usize, x: &[f32], out: &mut [f32], add: bool) {
    assert!(
        x.len() >= rows * cols && out.len() >= rows * cols,
        "transpose: slices shorter than their shapes"
    );
    par_rows(&mut out[..rows * cols], rows, |first, out| {
        run(x, cols, first, out, rows, add);
    });
}

kernel! {
    /// Rows of the result from `first` on: four rows of one cache line each become 16 columns of four.
    fn run(x: &[f32], cols: usize, first: usize, out: &mut [f32], rows: usize, add: bool) {
        let mut turned = [[0.0f32; 4]; LINE];
        for (strip, out) in out.chunks_mut(LINE * rows).enumerate() {
            let (from, wide) = (first + strip * LINE, out.len() / rows);
            for r in (0..rows).step_by(4) {
                let tall = 4.min(rows - r);
                if tall == 4 && wide == LINE {
                    let line = |i: usize| x[(r + i) * cols + from..].first_chunk::<LINE>();
                    if let (Some(a), Some(b), Some(c), Some(d)) = (line(0), line(1), line(2), line(3)) {
                        for j in 0..LINE {
                            turned[j] = [a[j], b[j], c[j], d[j]];
                        }
                    }
                } else {
                    for i in 0..tall {
                        for j in 0..wide {
                            turned[j][i] = x[(r + i) * cols + from + j];
                        }
                    }
                }
                for j in 0..wide {
                    let out = &mut out[j * rows + r..][..tall];
                    if add {
                        for i in 0..tall {
                            out[i] += turned[j][i];
                        }
                    } else if let Some(out) = out.first_chunk_mut::<4>() {
                        *out = turned[j];
                    } else {
                        out.copy_from_slice(&turned[j][..tall]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_agrees_with_a_plain_loop() {
        for (rows, cols) in [(1, 1), (16, 16), (17, 3), (5, 40), (48, 33), (200, 301)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            let mut out = vec![1.0; rows * cols];
            for add in [false, true] {
                transpose(rows, cols, &x, &mut out, add);
                let times = if add { 2.0 } else { 1.0 };
                for i in 0..rows * cols {
                    assert_eq!(
                        out[i],
                        times * x[i % rows * cols + i / rows],
                        "{rows}x{cols} at {i}, add {add}"
                    );
                }
            }
        }
    }
}
