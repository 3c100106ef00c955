//! Pictures as bytes to the normalised values that a vision tower takes, on the device that it is on.

use crate::{DType, Device, Error, Result, Tensor, cuda, error::ensure_shape};

/// The value of every level of R, G and B.
pub type PixelLevels = [[f32; 256]; 3];

impl Tensor {
    /// Bytes of pictures, RGB, to `levels[channel][byte]` in `dtype` on `device`. To a GPU go the bytes, by
    /// way of pinned memory and without waiting; the values are looked up there.
    ///
    /// # Shapes
    /// `rgb`: `[.., 3]` as `shape` says, whose last axis is 3.
    ///
    /// # Errors
    /// When `shape` does not hold `rgb`, or the device has no room. On the CPU `dtype` is f32.
    pub fn from_rgb(
        rgb: &[u8],
        shape: &[usize],
        levels: &PixelLevels,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let fits = shape.last() == Some(&3) && shape.iter().product::<usize>() == rgb.len();
        ensure_shape(
            "from_rgb",
            fits,
            || format!("[.., 3] of {} bytes", rgb.len()),
            shape,
        )?;
        if let Some(cuda) = device.as_cuda() {
            return cuda::ops::from_rgb(cuda, rgb, shape, levels, dtype);
        }
        if dtype != DType::F32 {
            return Err(Error::DTypeMismatch {
                op: "from_rgb",
                expected: DType::F32,
                got: dtype,
            });
        }
        let [red, green, blue] = levels;
        let mut out = Self::zeros(shape);
        for (to, from) in out
            .data_mut::<f32>()?
            .chunks_exact_mut(3)
            .zip(rgb.chunks_exact(3))
        {
            to[0] = red[usize::from(from[0])];
            to[1] = green[usize::from(from[1])];
            to[2] = blue[usize::from(from[2])];
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_its_own_levels() {
        let levels: PixelLevels =
            std::array::from_fn(|c| std::array::from_fn(|v| (c * 1000 + v) as f32));
        let rgb = [0, 1, 2, 255, 254, 253];
        let got = Tensor::from_rgb(&rgb, &[1, 2, 3], &levels, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(
            got.data::<f32>().unwrap(),
            [0.0, 1001.0, 2002.0, 255.0, 1254.0, 2253.0]
        );
        for (shape, dtype) in [
            (&[6][..], DType::F32),
            (&[1, 3], DType::F32),
            (&[2, 3], DType::BF16),
        ] {
            assert!(Tensor::from_rgb(&rgb, shape, &levels, &Device::Cpu, dtype).is_err());
        }
    }
}
