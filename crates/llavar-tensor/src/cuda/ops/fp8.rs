//! FP8 copies of bf16 tensors, as cuBLASLt's products take them: the summed axis innermost in both operands.
//!
//! So a tensor is copied as it lies, transposed, or both in one pass over it. Its scale is that of this very
//! tensor (no history), so passes repeat bit by bit and a resumed run needs nothing saved.

use std::sync::Arc;

use super::rows::expect_dtype;
use crate::{
    DType, Result, Tensor,
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
        expect_dtype("fp8", DType::BF16, x)?;
        let rows = x.numel() / columns.max(1);
        let padded = padded(rows);
        let buffer = |wanted: bool, bytes: usize| {
            wanted
                .then(|| cuda.empty(&[bytes / 4], DType::I32))
                .transpose()
        };
        let mut scale = cuda.zeros(&[2], DType::F32)?;
        let mut plain = buffer(wanted.plain, rows * columns)?;
        let mut transposed = buffer(wanted.transposed, padded * columns)?;
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

/// Length of a row of a transposed copy: zeros fill it up to what a product can sum over.
pub(crate) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(16)
}
