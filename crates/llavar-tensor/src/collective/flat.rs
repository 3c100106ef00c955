//! Many tensors as one run of elements, for one collective operation instead of many.

use crate::{DType, Device, Error, Result, Tensor};

/// Elements from one tensor's start to the next that keep every start at a multiple of 256 bytes, as matrix
/// products on GPUs want it.
pub const ALIGNMENT: usize = 128;

/// A run of `len` elements on `device` that holds each tensor from its offset on, and zeros between them.
///
/// # Errors
/// When a tensor has another type or device, or does not fit.
pub fn flatten(
    parts: &[(usize, Tensor)],
    len: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    for (offset, part) in parts {
        if part.dtype() != dtype {
            return Err(Error::DTypeMismatch {
                op: "flatten",
                expected: dtype,
                got: part.dtype(),
            });
        }
        if part.device() != *device {
            return Err(Error::DeviceMismatch {
                op: "flatten",
                expected: device.to_string(),
                got: part.device().to_string(),
            });
        }
        if offset.checked_add(part.numel()).is_none_or(|end| end > len) {
            return Err(Error::InvalidArgument {
                op: "flatten",
                reason: format!(
                    "{} elements from {offset} on leave a run of {len}",
                    part.numel()
                ),
            });
        }
    }
    if let Some(cuda) = device.as_cuda() {
        return cuda.flatten(parts, len, dtype);
    }
    if dtype != DType::F32 {
        return Err(Error::DTypeMismatch {
            op: "flatten on the CPU",
            expected: DType::F32,
            got: dtype,
        });
    }
    let mut run = Tensor::zeros(&[len]);
    let to = run.data_mut::<f32>()?;
    for (offset, part) in parts {
        to[*offset..offset + part.numel()].copy_from_slice(part.data::<f32>()?);
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lie_where_they_are_put() {
        let part = |x: f32| Tensor::from_vec(vec![x; 2], &[2]).unwrap();
        let run = flatten(
            &[(1, part(1.0)), (4, part(2.0))],
            7,
            DType::F32,
            &Device::Cpu,
        )
        .unwrap();
        assert_eq!(run.to_f32_vec().unwrap(), [0., 1., 1., 0., 2., 2., 0.]);
        assert!(flatten(&[(6, part(1.0))], 7, DType::F32, &Device::Cpu).is_err());
        let narrow = part(1.0).cast(DType::BF16).unwrap();
        assert!(flatten(&[(0, narrow)], 7, DType::F32, &Device::Cpu).is_err());
    }
}
