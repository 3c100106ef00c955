//! Exponential moving average of a weight.

use rayon::prelude::*;

use super::{
    StepState,
    adamw::CHUNK,
    step::{CpuStep, Place},
};
use crate::{DType, Error, Result, Tensor, cuda, error::ensure_shape};

/// `average += (1 - decay) (value - average)` in f32, in place and on the device of both; nothing happens where the
/// present step was skipped. On a GPU this is queued.
///
/// # Errors
/// When shapes or devices differ, or the step has not begun.
pub fn update_average(
    average: &mut Tensor,
    value: &Tensor,
    decay: f32,
    state: &StepState,
) -> Result<()> {
    ensure_shape(
        "moving average",
        average.shape() == value.shape(),
        || format!("{:?}", average.shape()),
        value.shape(),
    )?;
    let rate = (1.0 - f64::from(decay)) as f32;
    match (state.place()?, average.cuda().cloned()) {
        (Place::Cpu(CpuStep { skipped: true, .. }), None) => Ok(()),
        (Place::Cpu(_), None) => {
            let value = value.cast(DType::F32)?;
            let values = value.data::<f32>()?.par_chunks(CHUNK);
            let averages = average.data_mut::<f32>()?.par_chunks_mut(CHUNK);
            averages.zip(values).for_each(|(averages, values)| {
                for (average, value) in averages.iter_mut().zip(values) {
                    *average = rate.mul_add(value - *average, *average);
                }
            });
            Ok(())
        }
        (Place::Cuda(step), Some(cuda)) if step.is_on(&cuda) => {
            cuda::ops::update_average(average, value, rate, step)
        }
        _ => Err(Error::DeviceMismatch {
            op: "moving average",
            expected: "the device of the step".into(),
            got: average.device().to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use crate::Device;

    #[test]
    fn averages_follow_the_formula_and_stand_still_where_a_step_is_skipped() {
        crate::optim::testing::averages_agree_with_the_formula(&Device::Cpu);
    }
}
