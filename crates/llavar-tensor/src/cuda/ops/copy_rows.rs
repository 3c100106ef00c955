//! Copies of rows by lists of row numbers.

use std::sync::Arc;

use crate::{
    DType, Error, Result, Tensor,
    cuda::{Cuda, Grid, Kernel, Source, args},
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "copy_rows",
    code: include_str!("../kernels/copy_rows.cu"),
};
const COPY_ROWS: Kernel = SOURCE.kernel("copy_rows");

/// `to[to_rows[i]] = from[from_rows[i]]` for `i < count`, rows of `width` elements; without a list, row `i`.
/// The lists (i32) are checked by the caller; no row is written twice.
pub(crate) fn copy_rows(
    cuda: &Arc<Cuda>,
    from: &Tensor,
    from_rows: Option<&Tensor>,
    to: &mut Tensor,
    to_rows: Option<&Tensor>,
    count: usize,
    width: usize,
) -> Result<()> {
    if from.dtype() != to.dtype() {
        return Err(Error::DTypeMismatch {
            op: "copy of rows",
            expected: to.dtype(),
            got: from.dtype(),
        });
    }
    // In units of two bytes, which every type is made of.
    let width = width * (from.dtype().size() / 2);
    if width == 0 {
        return Ok(());
    }
    cuda.launch(
        &COPY_ROWS,
        DType::F32,
        Grid::new(count, 128),
        args![from, from_rows, to, to_rows, width as i64],
    )
}
