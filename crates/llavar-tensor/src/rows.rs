//! Rows of a tensor by number, on any device: what a cache of keys and values is written and reordered
//! with.

use half::{bf16, f16};

use crate::{
    DType, Device, Error, Result, Stored, Tensor, cuda::ops::copy_rows, error::ensure_shape,
    memory::Buffer,
};

impl Tensor {
    /// All zeros, in an element type and on a device.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros_on(shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match device {
            Device::Cuda(cuda) => cuda.zeros(shape, dtype),
            Device::Cpu => Self::zeros(shape).cast(dtype),
        }
    }

    /// Copies of the rows with these numbers, in this order; a row is what follows the first axis.
    ///
    /// # Shapes
    /// `[N, ..]`, `rows [n]` -> `[n, ..]`.
    ///
    /// # Errors
    /// When a number is outside the first axis, or the device has no room.
    pub fn gather_rows(&self, rows: &[usize]) -> Result<Self> {
        let (count, width) = self.check_rows("gather of rows", rows)?;
        let mut shape = self.shape().to_vec();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        if let Some(cuda) = self.cuda() {
            let mut out = cuda.empty(&shape, self.dtype())?;
            let from = cuda.upload(&integers(rows), &[rows.len()])?;
            copy_rows(cuda, self, Some(&from), &mut out, None, rows.len(), width)?;
            return Ok(out);
        }
        fn gather<T: Stored>(
            from: &Tensor,
            rows: &[usize],
            width: usize,
            shape: &[usize],
        ) -> Result<Tensor> {
            let data = from.data::<T>()?;
            let mut out = Buffer::<T>::unspecified(rows.len() * width);
            for (to, row) in out.chunks_exact_mut(width.max(1)).zip(rows) {
                to.copy_from_slice(&data[row * width..(row + 1) * width]);
            }
            Ok(Tensor::from_buffer(out, shape))
        }
        debug_assert!(rows.iter().all(|row| *row < count));
        match self.dtype() {
            DType::F32 => gather::<f32>(self, rows, width, &shape),
            DType::BF16 => gather::<bf16>(self, rows, width, &shape),
            DType::F16 => gather::<f16>(self, rows, width, &shape),
            DType::I32 => gather::<i32>(self, rows, width, &shape),
            // The error says what it is.
            DType::Nf4 => gather::<f32>(self, rows, width, &shape),
        }
    }

    /// Overwrites the rows with these numbers, all different, in place (a tensor that shares its memory is
    /// copied first).
    ///
    /// # Shapes
    /// `self [N, ..]`, `rows [n]`, `from [n, ..]`.
    ///
    /// # Errors
    /// When a number is outside the first axis, or `from` differs in its other axes, element type or
    /// device.
    pub fn scatter_rows(&mut self, rows: &[usize], from: &Self) -> Result<()> {
        const OP: &str = "scatter of rows";
        let (_, width) = self.check_rows(OP, rows)?;
        let expected = || format!("[{}, .. {width} in all]", rows.len());
        ensure_shape(
            OP,
            from.numel() == rows.len() * width,
            expected,
            from.shape(),
        )?;
        if from.device() != self.device() {
            return Err(Error::DeviceMismatch {
                op: OP,
                expected: self.device().to_string(),
                got: from.device().to_string(),
            });
        }
        if from.dtype() != self.dtype() {
            return Err(Error::DTypeMismatch {
                op: OP,
                expected: self.dtype(),
                got: from.dtype(),
            });
        }
        if let Some(cuda) = self.cuda().cloned() {
            // Every layer of a pass writes to the same rows.
            let to = cuda.constant(&integers(rows))?;
            return copy_rows(&cuda, from, None, self, Some(&to), rows.len(), width);
        }
        fn scatter<T: Stored>(
            to: &mut Tensor,
            rows: &[usize],
            from: &Tensor,
            width: usize,
        ) -> Result<()> {
            let (data, from) = (to.data_mut::<T>()?, from.data::<T>()?);
            for (row, values) in rows.iter().zip(from.chunks_exact(width.max(1))) {
                data[row * width..(row + 1) * width].copy_from_slice(values);
            }
            Ok(())
        }
        match self.dtype() {
            DType::F32 => scatter::<f32>(self, rows, from, width),
            DType::BF16 => scatter::<bf16>(self, rows, from, width),
            DType::F16 => scatter::<f16>(self, rows, from, width),
            DType::I32 => scatter::<i32>(self, rows, from, width),
            DType::Nf4 => scatter::<f32>(self, rows, from, width),
        }
    }

    /// Number of rows and elements of one.
    fn check_rows(&self, op: &'static str, rows: &[usize]) -> Result<(usize, usize)> {
        let count = self.shape().first().copied().unwrap_or(0);
        match rows.iter().find(|row| **row >= count) {
            Some(row) => Err(Error::IndexOutOfRange {
                op,
                index: *row as i64,
                len: count,
            }),
            None => Ok((count, self.shape().iter().skip(1).product())),
        }
    }
}

fn integers(rows: &[usize]) -> Vec<i32> {
    rows.iter().map(|row| *row as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_go_where_they_are_sent(device: &Device) {
        for (width, dtype) in [
            (8, DType::F32),
            (3, DType::F32),
            (8, DType::BF16),
            (3, DType::BF16),
        ] {
            let data: Vec<f32> = (0..5 * width).map(|i| i as f32).collect();
            let x = Tensor::from_vec(data, &[5, width]).unwrap();
            let x = x.cast(dtype).unwrap().to_device(device).unwrap();
            let picked = x.gather_rows(&[4, 0, 4]).unwrap();
            assert_eq!(picked.shape(), [3, width]);
            let values = picked.to_f32_vec().unwrap();
            assert_eq!(values[0], 4.0 * width as f32);
            assert_eq!(values[width + 1], 1.0);
            assert_eq!(values[..width], values[2 * width..]);

            let mut to = Tensor::zeros_on(&[6, width], dtype, device).unwrap();
            let other = to.clone();
            to.scatter_rows(&[5, 1, 2], &picked).unwrap();
            let written = to.to_f32_vec().unwrap();
            assert_eq!(written[5 * width..], values[..width]);
            assert_eq!(written[width..3 * width], values[width..]);
            assert!(written[..width].iter().all(|v| *v == 0.0));
            assert!(
                other.to_f32_vec().unwrap().iter().all(|v| *v == 0.0),
                "not through"
            );
            assert!(x.gather_rows(&[5]).is_err());
            assert!(to.scatter_rows(&[0], &picked).is_err());
            assert!(to.scatter_rows(&[6, 0, 1], &picked).is_err());
            assert_eq!(x.gather_rows(&[]).unwrap().shape(), [0, width]);
        }
    }

    #[test]
    fn rows_by_number() {
        rows_go_where_they_are_sent(&Device::Cpu);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn cuda_rows_by_number() {
        rows_go_where_they_are_sent(&crate::cuda::testing::gpu());
    }
}
