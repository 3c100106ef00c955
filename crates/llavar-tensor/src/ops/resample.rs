//! Resizing of feature maps as two sparse linear maps, one an axis: rows first, then columns.
//!
//! Shapes: `x` `[B, H, W, C]` -> `[B, H', W', C]`; `y = R x C^T` with `R [H', H]`, `C [W', W]` holding a
//! short run of weights a row. Gradient: the transposed maps. Weights are made in f64 and applied in f32.
//! The three kinds are those of `torch.nn.functional`: `interpolate(mode="bilinear",
//! align_corners=True)`, `interpolate(mode="bicubic", antialias=True, align_corners=False)` and
//! `avg_pool2d(kernel = stride = factor)`.

use std::sync::Arc;

use crate::{Error, Result, Tape, Tensor, Var, cpu, cuda, error::ensure_shape, memory::Buffer};

/// A resizing from one fixed grid to another: build it once, share it between steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Resample {
    from: (usize, usize),
    to: (usize, usize),
    /// Rows, columns; `None` where nothing changes.
    axes: [Option<Axis>; 2],
}

/// The map of one axis and its transpose.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    pub(crate) forward: Taps,
    pub(crate) backward: Taps,
}

/// For every output index a run of weights over neighbouring inputs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taps {
    runs: Vec<Run>,
    pub(crate) on_gpu: cuda::ops::TapsOnGpu,
}

#[derive(Debug, Clone, PartialEq)]
struct Run {
    /// First input.
    start: usize,
    weights: Vec<f32>,
}

impl Resample {
    /// Bilinear, corner pixels of both grids aligned, no antialiasing. Sizes are `(height, width)`.
    pub fn bilinear_align_corners(from: (usize, usize), to: (usize, usize)) -> Self {
        Self::build(from, to, |from, to, i| {
            // Multiplied before dividing: exact at both corners.
            let at = if to > 1 {
                (i * (from - 1)) as f64 / (to - 1) as f64
            } else {
                0.0
            };
            let start = (at as usize).min(from - 1);
            let part = at - start as f64;
            (start, vec![1.0 - part, part])
        })
    }

    /// Bicubic (a = -0.5), pixel centres aligned, the kernel widened by the scale when shrinking and
    /// its weights normalised over the pixels inside the image. Sizes are `(height, width)`.
    pub fn bicubic_antialias(from: (usize, usize), to: (usize, usize)) -> Self {
        Self::build(from, to, |from, to, i| {
            let scale = from as f64 / to as f64;
            let stretch = scale.max(1.0);
            let support = 2.0 * stretch;
            let centre = scale * (i as f64 + 0.5);
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights = (start..end)
                .map(|j| cubic((j as f64 - centre + 0.5) / stretch))
                .collect::<Vec<_>>();
            let total: f64 = weights.iter().sum();
            (start, weights.into_iter().map(|w| w / total).collect())
        })
    }

    /// Mean over `factor` x `factor` squares; rows and columns that fill no whole square are dropped.
    /// `from` is `(height, width)`.
    pub fn avg_pool(from: (usize, usize), factor: usize) -> Self {
        let to = |n: usize| n.checked_div(factor).unwrap_or(0);
        Self::build(from, (to(from.0), to(from.1)), |_, _, i| {
            (i * factor, vec![1.0 / factor as f64; factor])
        })
    }

    /// Grid that it reads, `(height, width)`.
    pub fn from(&self) -> (usize, usize) {
        self.from
    }

    /// Grid that it makes, `(height, width)`.
    pub fn to(&self) -> (usize, usize) {
        self.to
    }

    /// The maps of rows and columns; `None` where nothing changes.
    pub(crate) fn axes(&self) -> &[Option<Axis>; 2] {
        &self.axes
    }

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        self.from == self.to && self.axes.iter().all(Option::is_none)
    }

    /// `f(from, to, i)` gives start and weights of output `i`.
    fn build(
        from: (usize, usize),
        to: (usize, usize),
        f: impl Fn(usize, usize, usize) -> (usize, Vec<f64>),
    ) -> Self {
        let axis = |from: usize, to: usize| {
            // An empty grid is refused when it is used.
            (from != to && from > 0 && to > 0)
                .then(|| Axis::new(from, (0..to).map(|i| f(from, to, i))))
        };
        Self {
            from,
            to,
            axes: [axis(from.0, to.0), axis(from.1, to.1)],
        }
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

impl Axis {
    fn new(from: usize, outputs: impl Iterator<Item = (usize, Vec<f64>)>) -> Self {
        let mut forward = Vec::new();
        let mut backward: Vec<Run> = vec![
            Run {
                start: 0,
                weights: Vec::new()
            };
            from
        ];
        for (i, (start, weights)) in outputs.enumerate() {
            let mut run = Run {
                start,
                weights: Vec::new(),
            };
            for (j, weight) in weights.into_iter().enumerate() {
                let weight = weight as f32;
                // Weights behind the last pixel are zero (bilinear at the corner).
                let Some(transposed) = backward.get_mut(start + j) else {
                    break;
                };
                run.weights.push(weight);
                if transposed.weights.is_empty() {
                    transposed.start = i;
                }
                transposed.weights.resize(i - transposed.start, 0.0);
                transposed.weights.push(weight);
            }
            forward.push(run);
        }
        Self {
            forward: Taps::new(forward),
            backward: Taps::new(backward),
        }
    }
}

impl Taps {
    fn new(runs: Vec<Run>) -> Self {
        Self {
            runs,
            on_gpu: cuda::ops::TapsOnGpu::default(),
        }
    }

    /// Length of the axis that it makes.
    pub(crate) fn outputs(&self) -> usize {
        self.runs.len()
    }

    /// The first input of every output, then where each one's weights begin, and the end; the weights.
    pub(crate) fn packed(&self) -> (Vec<i32>, Vec<f32>) {
        let mut index: Vec<i32> = self.runs.iter().map(|run| run.start as i32).collect();
        let mut weights = Vec::new();
        index.push(0);
        for run in &self.runs {
            weights.extend_from_slice(&run.weights);
            index.push(weights.len() as i32);
        }
        (index, weights)
    }

    /// `x [outer, inputs, inner]` -> `[outer, outputs, inner]`.
    fn apply(&self, x: &[f32], inputs: usize, outer: usize, inner: usize) -> Buffer<f32> {
        let outputs = self.runs.len();
        let mut out = Buffer::<f32>::unspecified(outer * outputs * inner);
        cpu::par_rows(&mut out, inner, |first, out| {
            cpu::simd_kernel(Apply {
                taps: &self.runs,
                x,
                inputs,
                inner,
                first,
                out,
            });
        });
        out
    }
}

/// A run of rows of the result, compiled for the processor's vectors.
struct Apply<'a> {
    taps: &'a [Run],
    x: &'a [f32],
    inputs: usize,
    inner: usize,
    first: usize,
    out: &'a mut [f32],
}

impl cpu::Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (outputs, inner) = (self.taps.len(), self.inner);
        for (i, out) in self.out.chunks_exact_mut(inner).enumerate() {
            let (o, run) = (
                (self.first + i) / outputs,
                &self.taps[(self.first + i) % outputs],
            );
            let from = (o * self.inputs + run.start) * inner;
            let mut x = self.x[from..].chunks_exact(inner);
            let mut taps = run.weights.iter().zip(&mut x);
            match taps.next() {
                None => out.fill(0.0),
                Some((w, x)) => out.iter_mut().zip(x).for_each(|(o, x)| *o = w * x),
            }
            taps.for_each(|(w, x)| cpu::axpy(out, *w, x));
        }
    }
}

impl Tape {
    /// Resizes the two middle axes; a plan that changes nothing returns `x` itself.
    ///
    /// # Shapes
    /// `x [B, H, W, C]` with `(H, W) = plan.from()` -> `[B, H', W', C]` with `(H', W') = plan.to()`.
    ///
    /// # Errors
    /// When `x` is not on the plan's grid, or a grid of the plan is empty.
    pub fn resample(&self, x: &Var, plan: &Arc<Resample>) -> Result<Var> {
        let ((h, w), (to_h, to_w)) = (plan.from, plan.to);
        let &[batch, x_h, x_w, c] = x.shape() else {
            return Err(Error::ShapeMismatch {
                op: "resample",
                expected: format!("[B, {h}, {w}, C]"),
                got: x.shape().to_vec(),
            });
        };
        ensure_shape(
            "resample",
            (x_h, x_w) == (h, w),
            || format!("[B, {h}, {w}, C]"),
            x.shape(),
        )?;
        if [h, w, to_h, to_w].contains(&0) {
            return Err(Error::InvalidArgument {
                op: "resample",
                reason: format!("cannot resize {h}x{w} to {to_h}x{to_w}: a grid is empty"),
            });
        }
        if plan.is_identity() {
            return Ok(x.clone());
        }
        if let Some(cuda) = x.value().cuda() {
            return cuda::ops::resample(self, cuda, x, plan);
        }
        let [rows, columns] = &plan.axes;
        let mut now = x.value().clone();
        if let Some(rows) = rows {
            let out = rows.forward.apply(now.data()?, h, batch, w * c);
            now = Tensor::from_buffer(out, &[batch, to_h, w, c]);
        }
        if let Some(columns) = columns {
            let out = columns.forward.apply(now.data()?, w, batch * to_h, c);
            now = Tensor::from_buffer(out, &[batch, to_h, to_w, c]);
        }
        if !self.needs_grad(&[x], &[]) {
            return Ok(Var::constant(now));
        }
        let (x, plan) = (x.without_value(), plan.clone());
        Ok(self.record(now, move |dy, grads| {
            let [rows, columns] = &plan.axes;
            let mut now = dy;
            if let Some(columns) = columns {
                let out = columns.backward.apply(now.data()?, to_w, batch * to_h, c);
                now = Tensor::from_buffer(out, &[batch, to_h, w, c]);
            }
            if let Some(rows) = rows {
                let out = rows.backward.apply(now.data()?, to_h, batch, w * c);
                now = Tensor::from_buffer(out, &[batch, h, w, c]);
            }
            grads.add(&x, now)
        }))
    }
}

#[cfg(test)]
#[path = "resample_tests.rs"]
mod tests;
