//! Bytes of pictures to normalised values: see [`Tensor::from_rgb`].

use std::sync::Arc;

use crate::{
    DType, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    pixels::PixelLevels,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "pixels",
    code: include_str!("../kernels/pixels.cu"),
};
const PIXELS: Kernel = SOURCE.kernel("pixels");

/// `rgb` looked up in `levels`.
pub(crate) fn from_rgb(
    cuda: &Arc<Cuda>,
    rgb: &[u8],
    shape: &[usize],
    levels: &PixelLevels,
    dtype: DType,
) -> Result<Tensor> {
    let table: Vec<i32> = levels
        .iter()
        .flatten()
        .map(|value| value.to_bits() as i32)
        .collect();
    let table = cuda.constant(&table)?;
    let bytes = cuda.upload_bytes(rgb)?;
    let mut out = cuda.empty(shape, dtype)?;
    let n = rgb.len();
    // Four pixels a thread: three words of bytes.
    cuda.launch(
        &PIXELS,
        dtype,
        Grid::items(n.div_ceil(12)),
        args![&bytes, &table, &mut out, n as i64],
    )?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, cuda::testing::gpu};

    #[test]
    #[ignore = "needs a GPU"]
    fn pixels_agree_with_the_cpu() {
        let device = gpu();
        let levels: PixelLevels =
            std::array::from_fn(|c| std::array::from_fn(|v| v as f32 / (37.0 + c as f32) - 1.5));
        for [b, s] in [[0, 4], [1, 1], [1, 3], [2, 16], [3, 65], [8, 256]] {
            let shape = [b, s, s, 3];
            let n: usize = shape.iter().product();
            let rgb: Vec<u8> = (0..n).map(|i| (i * 7 + i / 251) as u8).collect();
            let want = Tensor::from_rgb(&rgb, &shape, &levels, &Device::Cpu, DType::F32).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let got = Tensor::from_rgb(&rgb, &shape, &levels, &device, dtype).unwrap();
                let want = want.cast(dtype).unwrap().to_f32_vec().unwrap();
                assert_eq!(got.to_f32_vec().unwrap(), want, "{shape:?} {dtype}");
            }
        }
    }
}
