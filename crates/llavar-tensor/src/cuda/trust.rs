//! Whether kernels for Hopper compute here what they should.
//!
//! First operands of their products stay in registers while others run, and a release of NVIDIA's compiler (13.0.88) was
//! seen to give such registers to something else, silently. So each kernel is computed once beside plainer ones, on a
//! small problem, before it is relied on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Cuda;
use crate::{DType, Error, Result, Tensor};

/// Relative L2 distance of two results that are rounded to bf16 on the way; what a lost register gives is 0.2 and more.
const TOLERANCE: f64 = 0.02;

/// A kernel, and the size that it is compiled for.
type Kernel = (&'static str, usize);

#[derive(Default)]
struct Trusted(Mutex<HashMap<Kernel, bool>>);

/// Whether a kernel agrees with the plainer ones, found out on first use by `agrees`.
///
/// # Errors
/// Where there is no memory to find out.
pub(super) fn trusted(
    cuda: &Arc<Cuda>,
    kernel: Kernel,
    agrees: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    let all = cuda.extension(|| Ok(Trusted::default()))?;
    let known = || all.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Not held while it is found out: the plainer kernels may ask about others. Threads that meet here find the same.
    let before = known().get(&kernel).copied();
    if let Some(before) = before {
        return Ok(before);
    }
    let agrees = agrees();
    if std::env::var_os("LLAVAR_CUDA_LOG").is_some() && !matches!(agrees, Ok(true)) {
        let (name, size) = kernel;
        eprintln!("{name} of size {size} without our kernel for Hopper: {agrees:?}");
    }
    let agrees = match agrees {
        // That says nothing about the kernels.
        Err(Error::OutOfMemory { .. }) => return agrees,
        // They cannot be compiled or launched here.
        other => other.unwrap_or(false),
    };
    known().insert(kernel, agrees);
    Ok(agrees)
}

/// Whether two results are one but for their rounding.
///
/// # Errors
/// Those of the device.
pub(super) fn near(ours: &Tensor, plain: &Tensor) -> Result<bool> {
    let (ours, plain) = (ours.to_f32_vec()?, plain.to_f32_vec()?);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let apart: f64 = ours.iter().zip(&plain).map(|(a, b)| square(a - b)).sum();
    let all: f64 = plain.iter().map(|b| square(*b)).sum();
    // Not a number is no agreement.
    Ok(apart <= TOLERANCE * TOLERANCE * all)
}

/// Numbers between -1 and 1: what matters is that no two rows are alike.
#[derive(Default)]
pub(super) struct Noise(u32);

impl Noise {
    /// Some of them in bf16.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn tensor(&mut self, cuda: &Arc<Cuda>, shape: &[usize]) -> Result<Tensor> {
        let next = || {
            // Numerical Recipes' generator.
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = std::iter::repeat_with(next)
            .take(shape.iter().product())
            .collect();
        cuda.upload(&values, shape)?.cast(DType::BF16)
    }
}
