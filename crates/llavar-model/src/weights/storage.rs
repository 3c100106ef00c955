//! Where a tensor's elements lie in a mapped file.

use std::{borrow::Cow, ops::Range};

use super::{TensorEntry, dtype::Dtype};

/// A tensor in a file. Checked when made: every element lies within `bytes`, and `bytes` within the file.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) entry: TensorEntry,
    /// The bytes that belong to it: exactly the tensor when contiguous, else from its first element to
    /// the end of its storage.
    pub(crate) bytes: Range<usize>,
    /// Strides in elements; `None` when the elements lie in row-major order without gaps.
    strides: Option<Vec<usize>>,
}

/// A view that repeats elements (stride 0) may be larger than the file. Real ones are tiny (position
/// ids); this keeps a few bytes of pickle from asking for gigabytes.
const MAX_EXPANDED: usize = 64 << 20;

impl Stored {
    pub(crate) fn contiguous(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Range<usize>,
    ) -> Self {
        Self {
            entry: TensorEntry { name, dtype, shape },
            bytes,
            strides: None,
        }
    }

    /// A strided view of a storage; `None` when an element would lie outside of it, when the numbers
    /// overflow, or when the view repeats elements to more than [`MAX_EXPANDED`] bytes.
    pub(crate) fn view(
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Range<usize>,
    ) -> Option<Self> {
        let numel = super::dtype::byte_len(&shape, dtype)? / dtype.size();
        if strides.len() != shape.len() {
            return None;
        }
        if numel == 0 {
            return Some(Self::contiguous(
                name,
                dtype,
                shape,
                storage.start..storage.start,
            ));
        }
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&d, &s)| {
                at.checked_add((d - 1).checked_mul(s)?)
            })?;
        let end = last.checked_add(1)?.checked_mul(dtype.size())?;
        if end > storage.len() {
            return None;
        }
        let start = storage.start + offset * dtype.size();
        let mut expected = 1;
        let row_major = shape.iter().zip(&strides).rev().all(|(&d, &s)| {
            let ok = d == 1 || s == expected;
            expected *= d;
            ok
        });
        if row_major {
            return Some(Self::contiguous(
                name,
                dtype,
                shape,
                start..start + numel * dtype.size(),
            ));
        }
        // The stride of a dimension of one element is never used and may be any number in the file.
        let strides = shape
            .iter()
            .zip(&strides)
            .map(|(&d, &s)| if d == 1 { 0 } else { s })
            .collect();
        let bytes = start..storage.start + end;
        if numel * dtype.size() > bytes.len().max(MAX_EXPANDED) {
            return None;
        }
        Some(Self {
            entry: TensorEntry { name, dtype, shape },
            bytes,
            strides: Some(strides),
        })
    }

    /// The elements in row-major order: borrowed when they lie so in the file.
    pub(crate) fn data<'a>(&self, file: &'a [u8]) -> Cow<'a, [u8]> {
        // The range was checked against the same mapping; an empty slice would only show up if not.
        let bytes = file.get(self.bytes.clone()).unwrap_or_default();
        let Some(strides) = &self.strides else {
            return Cow::Borrowed(bytes);
        };
        let size = self.entry.dtype.size();
        let shape = &self.entry.shape;
        let numel: usize = shape.iter().product();
        let mut out = Vec::with_capacity(numel * size);
        let mut index = vec![0; shape.len()];
        let mut at = 0;
        for _ in 0..numel {
            out.extend_from_slice(bytes.get(at * size..(at + 1) * size).unwrap_or_default());
            // Count up like an odometer, the last dimension fastest.
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                at += strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                at -= shape[axis] * strides[axis];
                index[axis] = 0;
            }
        }
        Cow::Owned(out)
    }
}
