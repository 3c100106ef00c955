//! Global gradient norm and the clip factor.

use super::{AdamW, StepState, adamw::CHUNK};
use crate::{
    Device, Param, Result,
    cpu::{dot, par_reduce},
};

/// L2 norm of all accumulated gradients together (0 where there are none). Not finite when any
/// gradient is not. On a GPU this waits for the result; [`StepState`] does not.
///
/// # Errors
/// When the gradients live on different devices.
pub fn global_grad_norm<'a>(params: impl IntoIterator<Item = &'a Param>) -> Result<f32> {
    let with_grad: Vec<&Param> = params.into_iter().filter(|p| p.grad().is_some()).collect();
    let device = with_grad
        .first()
        .map_or(Device::Cpu, |p| p.value().device());
    let mut state = StepState::new(&device, 0, &AdamW::default())?;
    state.begin(with_grad, 0.0)?;
    Ok(state.read_back()?.wait()?.norm)
}

/// Norm of gradients on the CPU.
pub(super) fn norm_on_cpu<'a>(params: impl IntoIterator<Item = &'a Param>) -> Result<f32> {
    let mut total = 0.0f64;
    for grad in params.into_iter().filter_map(Param::grad) {
        total += squared_norm(grad.data::<f32>()?);
    }
    Ok(total.sqrt() as f32)
}

/// Sum of squares, in a partition that depends on the length alone.
fn squared_norm(x: &[f32]) -> f64 {
    let rows = x.len().div_ceil(CHUNK);
    // Each part adds its chunks up in f32 lanes of at most 1,024 terms, then in f64 held as two f32.
    let parts = par_reduce(rows, 2, |range, acc| {
        let mut sum = 0.0f64;
        for chunk in x[range.start * CHUNK..(range.end * CHUNK).min(x.len())].chunks(CHUNK) {
            sum += f64::from(dot(chunk, chunk));
        }
        acc[0] = sum as f32;
        acc[1] = (sum - f64::from(acc[0])) as f32;
    });
    f64::from(parts[0]) + f64::from(parts[1])
}

/// Factor that brings a gradient of norm `norm` down to at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_` has it; 1 where `max_norm` is 0 (no clipping).
pub fn clip_factor(norm: f32, max_norm: f32) -> f32 {
    if max_norm > 0.0 {
        (max_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn norm_is_exact_and_shows_bad_values() {
        let a = Param::new("a", Tensor::zeros(&[3 * CHUNK + 5]));
        let b = Param::new("b", Tensor::zeros(&[2]));
        let none = Param::new("none", Tensor::zeros(&[2]));
        for (param, value) in [(&a, 0.5f32), (&b, 3.0)] {
            param
                .accumulate(|g, _| {
                    g.fill(value);
                    Ok(())
                })
                .unwrap();
        }
        let want = (0.25 * (3 * CHUNK + 5) as f64 + 18.0).sqrt() as f32;
        assert_eq!(global_grad_norm([&a, &b, &none]).unwrap(), want);
        assert_eq!(global_grad_norm([&none]).unwrap(), 0.0);
        b.accumulate(|g, _| {
            g[1] = f32::INFINITY;
            Ok(())
        })
        .unwrap();
        assert!(!global_grad_norm([&a, &b]).unwrap().is_finite());
        assert_eq!((clip_factor(0.5, 1.0), clip_factor(9.0, 0.0)), (1.0, 1.0));
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
