//! Dropout without a generator's state: whether an element is dropped is a hash of seed, layer and place.

use super::{cuda, empty_like};
use crate::{
    Result, Tensor,
    cpu::{self, kernel},
};

/// Which elements are dropped, and what the others are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// Elements whose hash is below it are dropped.
    pub(crate) threshold: u32,
    /// `1 / (1 - p)`.
    pub(crate) factor: f32,
    pub(crate) key: u64,
}

impl Dropout {
    /// Drops a share of `p`, 0 to below 1.
    pub(crate) fn new(p: f32, seed: u64, layer: u64) -> Self {
        Self {
            threshold: (f64::from(p) * 4_294_967_296.0) as u32,
            factor: 1.0 / (1.0 - p),
            key: mix(seed ^ mix(layer)),
        }
    }

    /// `x` with elements dropped, in a tensor of its own; also the gradient of that.
    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        let mut out = empty_like(x, x.shape())?;
        match x.cuda() {
            Some(cuda) => cuda::ops::dropout(cuda, x, &mut out, self)?,
            None => {
                let x = x.data::<f32>()?;
                cpu::par_chunks(out.data_mut::<f32>()?, |first, out| {
                    drop_run(&x[first..first + out.len()], out, first as u64, self);
                });
            }
        }
        Ok(out)
    }
}

/// `x *= factor`.
pub(super) fn scale(x: &mut Tensor, factor: f32) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    match x.cuda().cloned() {
        Some(cuda) => cuda::ops::scale(&cuda, x, factor),
        None => {
            cpu::par_chunks(x.data_mut::<f32>()?, |_, x| {
                x.iter_mut().for_each(|x| *x *= factor);
            });
            Ok(())
        }
    }
}

/// The last steps of splitmix64: every bit of the input changes half of those of the output.
#[inline(always)]
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

kernel! {
    /// `out = x` times the factor, or 0 where the element is dropped. `cuda/kernels/lora.cu` has the same.
    fn drop_run(x: &[f32], out: &mut [f32], first: u64, drop: Dropout) {
        for (i, (x, out)) in x.iter().zip(out).enumerate() {
            let place = (first + i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hash = (mix(drop.key.wrapping_add(place)) >> 32) as u32;
            *out = if hash < drop.threshold { 0.0 } else { drop.factor * x };
        }
    }
}
