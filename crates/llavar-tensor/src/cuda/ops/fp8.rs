//! FP8 copies of bf16 tensors, as cuBLASLt's products take them: the summed axis innermost in both operands.
//!
//! So a tensor is copied as it lies, transposed, or both in one pass over it. Its scale is that of this very
//! tensor (no history), so passes repeat bit by bit and a resumed run needs nothing saved.

use std::sync::Arc;

use super::rows::expect_dtype;
use crate::{
    DType, Device, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
    fp8::Fp8Format,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "fp8",
    code: include_str!("../kernels/fp8.cu"),
};
const LARGEST: Kernel = SOURCE.kernel("fp8_largest");
const COPIES: Kernel = SOURCE.kernel("fp8_copies");

/// Rows and columns of a tile of the kernel.
const TILE: usize = 128;

/// An FP8 matrix on the GPU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fp8Matrix<'a> {
    pub(crate) format: Fp8Format,
    /// Four elements a word.
    pub(crate) words: &'a Tensor,
    /// f32: what a product is multiplied by, and the largest magnitude. In this order, because cuBLASLt (13.1, H100)
    /// refuses every product whose scales lie four bytes behind the start of a tensor.
    pub(crate) scale: &'a Tensor,
}

/// Which copies are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) plain: bool,
    pub(crate) transposed: bool,
}

/// Copies of a matrix `[rows, columns]` under one scale. Cloning shares their memory.
#[derive(Debug, Clone)]
pub(crate) struct Fp8Copies {
    format: Fp8Format,
    scale: Tensor,
    plain: Option<Tensor>,
    transposed: Option<Tensor>,
}

impl Fp8Copies {
    /// Whether a tensor of `columns` can be copied: whole runs of 16 bytes in both directions.
    pub(crate) fn can(x: &Tensor, columns: usize) -> bool {
        let aligned = x
            .cuda_address()
            .is_ok_and(|address| address.is_multiple_of(16));
        let rows = x.numel() / columns.max(1);
        x.dtype() == DType::BF16 && columns > 0 && columns.is_multiple_of(16) && rows > 0 && aligned
    }

    /// Copies `x [.., columns]`.
    pub(crate) fn of(
        cuda: &Arc<Cuda>,
        x: &Tensor,
        columns: usize,
        format: Fp8Format,
        wanted: Wanted,
    ) -> Result<Self> {
        Self::renewed(None, cuda, x, columns, format, wanted)
    }

    /// As [`Fp8Copies::of`], in the memory of `old` ones where that fits and nobody else has it.
    pub(crate) fn renewed(
        old: Option<Self>,
        cuda: &Arc<Cuda>,
        x: &Tensor,
        columns: usize,
        format: Fp8Format,
        wanted: Wanted,
    ) -> Result<Self> {
        expect_dtype("fp8", DType::BF16, x)?;
        let rows = x.numel() / columns.max(1);
        let padded = padded(rows);
        let (scale, plain, transposed) = match old {
            Some(old) => (Some(old.scale), old.plain, old.transposed),
            None => (None, None, None),
        };
        let device = Device::Cuda(cuda.clone());
        let room = |old, len, dtype| match reusable(old, &device, &[len], dtype) {
            Some(room) => Ok(room),
            None => cuda.empty(&[len], dtype),
        };
        let buffer = |old, wanted: bool, bytes: usize| {
            let room = || room(old, bytes / 4, DType::I32);
            wanted.then(room).transpose()
        };
        let mut scale = room(scale, 2, DType::F32)?;
        // A maximum is taken into it.
        cuda.clear(&mut scale)?;
        let mut plain = buffer(plain, wanted.plain, rows * columns)?;
        let mut transposed = buffer(transposed, wanted.transposed, padded * columns)?;
        let n = x.numel();
        cuda.launch(
            &LARGEST,
            DType::BF16,
            Grid::items(n / 8),
            args![x, &mut scale, n as i64],
        )?;
        let blocks = [columns.div_ceil(TILE), padded.div_ceil(TILE), 1];
        let wide = i32::from(format == Fp8Format::E5M2);
        cuda.launch(
            &COPIES,
            DType::BF16,
            Grid::cube(blocks, 256),
            args![
                x,
                plain.as_mut(),
                transposed.as_mut(),
                &mut scale,
                rows as i32,
                columns as i32,
                padded as i32,
                wide
            ],
        )?;
        Ok(Self {
            format,
            scale,
            plain,
            transposed,
        })
    }

    /// `[rows, columns]`, where it was wanted.
    pub(crate) fn plain(&self) -> Option<Fp8Matrix<'_>> {
        self.matrix(self.plain.as_ref())
    }

    /// `[columns, padded(rows)]`, where it was wanted.
    pub(crate) fn transposed(&self) -> Option<Fp8Matrix<'_>> {
        self.matrix(self.transposed.as_ref())
    }

    /// Whether all that is wanted is there.
    pub(crate) fn has(&self, wanted: Wanted) -> bool {
        (self.plain.is_some() || !wanted.plain) && (self.transposed.is_some() || !wanted.transposed)
    }

    /// Without the plain copy.
    pub(crate) fn without_plain(self) -> Self {
        Self {
            plain: None,
            ..self
        }
    }

    fn matrix<'a>(&'a self, words: Option<&'a Tensor>) -> Option<Fp8Matrix<'a>> {
        Some(Fp8Matrix {
            format: self.format,
            words: words?,
            scale: &self.scale,
        })
    }
}

/// A tensor that nobody else has, where it is such a one.
pub(super) fn reusable(
    old: Option<Tensor>,
    device: &Device,
    shape: &[usize],
    dtype: DType,
) -> Option<Tensor> {
    old.filter(|t| {
        t.is_unique() && t.shape() == shape && t.dtype() == dtype && t.device() == *device
    })
}

/// Length of a row of a transposed copy: zeros fill it up to what a product can sum over.
pub(crate) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Param;

    fn copies() -> Fp8Copies {
        Fp8Copies {
            format: Fp8Format::E4M3,
            scale: Tensor::zeros(&[2]),
            plain: Some(Tensor::zeros(&[64])),
            transposed: Some(Tensor::zeros(&[64])),
        }
    }

    #[test]
    fn memory_serves_again_where_it_is_unshared_and_fits() {
        let of = |t: &Tensor, shape: &[usize], dtype| {
            let own = Tensor::from_vec(t.to_f32_vec().unwrap(), t.shape()).unwrap();
            reusable(Some(own), &Device::Cpu, shape, dtype).is_some()
        };
        let t = Tensor::zeros(&[2]);
        assert!(of(&t, &[2], DType::F32));
        assert!(!of(&t, &[3], DType::F32) && !of(&t, &[2], DType::I32));
        let other = t.clone();
        assert!(reusable(Some(t), &Device::Cpu, &[2], DType::F32).is_none());
        assert!(reusable(Some(other), &Device::Cpu, &[2], DType::F32).is_some());
        assert!(reusable(None, &Device::Cpu, &[2], DType::F32).is_none());
    }

    #[test]
    fn a_changed_weight_gives_its_copies_to_the_next_ones() {
        let value = || Tensor::zeros(&[16, 16]);
        let w = Param::new("w", value());
        // What `make` is given: nothing, copies of its own, or it is not asked.
        let given = || {
            let mut given = None;
            let made = w.fp8_copies(|_, old| {
                given = Some(old.as_ref().map(|old| old.scale.is_unique()));
                Ok(old.unwrap_or_else(copies))
            });
            drop(made.unwrap());
            given
        };
        assert_eq!((given(), given()), (Some(None), None));
        let changes: [&dyn Fn(); 3] = [
            &|| w.update(|_, _| Ok(())).unwrap(),
            &|| w.set_value(value()).unwrap(),
            &|| w.changed(),
        ];
        for change in changes {
            change();
            assert_eq!((given(), given()), (Some(Some(true)), None));
        }
        // Who still multiplies with the old ones keeps them.
        let held = w.fp8_copies(|_, _| Ok(copies())).unwrap();
        w.changed();
        assert_eq!(given(), Some(Some(false)));
        drop(held);
        let release: [&dyn Fn(); 4] = [
            &|| w.set_fp8(false),
            &|| {
                w.release();
                w.set_value(value()).unwrap();
            },
            &|| {
                w.release_to(&Device::Cpu, DType::F32, DType::F32);
                w.set_value(value()).unwrap();
            },
            &|| w.to_device(&Device::Cpu, DType::BF16, DType::F32).unwrap(),
        ];
        for release in release {
            release();
            assert_eq!((given(), given()), (Some(None), None));
        }
    }
}
