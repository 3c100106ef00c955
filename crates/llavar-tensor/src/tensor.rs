//! `Tensor`: a shaped, contiguous, shared run of elements.

use std::sync::Arc;

use half::{bf16, f16};

use crate::{
    Error, Result,
    error::ensure_shape,
    memory::{Buffer, Element},
};

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// Brain float: 8 exponent bits, 7 mantissa bits.
    BF16,
    /// IEEE half precision.
    F16,
    /// 32-bit integers: token ids, labels, positions.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
        })
    }
}

#[derive(Debug, Clone)]
enum Storage {
    F32(Buffer<f32>),
    BF16(Buffer<bf16>),
    F16(Buffer<f16>),
    I32(Buffer<i32>),
}

/// A contiguous row-major tensor. Cloning shares the memory; writing to a shared one copies first.
#[derive(Debug, Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    /// First element of this view in the storage.
    offset: usize,
    shape: Vec<usize>,
}

/// Conversion between a typed buffer and the storage enum.
pub trait Stored: Element {
    #[doc(hidden)]
    fn wrap(buffer: Buffer<Self>, shape: Vec<usize>) -> Tensor;
    #[doc(hidden)]
    fn slice(tensor: &Tensor) -> Option<&[Self]>;
    #[doc(hidden)]
    fn slice_mut(tensor: &mut Tensor) -> Option<&mut [Self]>;
}

macro_rules! stored {
    ($t:ty, $v:ident) => {
        impl Stored for $t {
            fn wrap(buffer: Buffer<Self>, shape: Vec<usize>) -> Tensor {
                debug_assert_eq!(buffer.len(), shape.iter().product::<usize>());
                Tensor {
                    storage: Arc::new(Storage::$v(buffer)),
                    offset: 0,
                    shape,
                }
            }
            fn slice(tensor: &Tensor) -> Option<&[Self]> {
                match &*tensor.storage {
                    Storage::$v(b) => b.get(tensor.offset..tensor.offset + tensor.numel()),
                    _ => None,
                }
            }
            fn slice_mut(tensor: &mut Tensor) -> Option<&mut [Self]> {
                let (start, len) = (tensor.offset, tensor.numel());
                match Arc::make_mut(&mut tensor.storage) {
                    Storage::$v(b) => b.get_mut(start..start + len),
                    _ => None,
                }
            }
        }
    };
}
stored!(f32, F32);
stored!(bf16, BF16);
stored!(f16, F16);
stored!(i32, I32);

impl Tensor {
    /// Takes over `data`.
    ///
    /// # Errors
    /// When `shape` does not hold exactly `data.len()` elements.
    pub fn from_vec<T: Stored>(data: Vec<T>, shape: &[usize]) -> Result<Self> {
        let numel = shape.iter().product::<usize>();
        ensure_shape(
            "from_vec",
            numel == data.len(),
            || format!("of {} elements", data.len()),
            shape,
        )?;
        Ok(T::wrap(data.into(), shape.to_vec()))
    }

    /// A buffer of the right length as a tensor.
    pub(crate) fn from_buffer<T: Stored>(buffer: Buffer<T>, shape: &[usize]) -> Self {
        T::wrap(buffer, shape.to_vec())
    }

    /// All zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        f32::wrap(Buffer::zeros(shape.iter().product()), shape.to_vec())
    }

    /// One f32 value.
    pub fn scalar(value: f32) -> Self {
        f32::wrap(vec![value].into(), Vec::new())
    }

    /// Shape, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last axis (1 for a scalar).
    pub fn last_dim(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows when seen as a matrix `[rows, last_dim]`.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match &*self.storage {
            Storage::F32(_) => DType::F32,
            Storage::BF16(_) => DType::BF16,
            Storage::F16(_) => DType::F16,
            Storage::I32(_) => DType::I32,
        }
    }

    /// The elements.
    ///
    /// # Errors
    /// When the tensor holds another type.
    pub fn data<T: Stored>(&self) -> Result<&[T]> {
        T::slice(self).ok_or(Error::DTypeMismatch {
            op: "data",
            expected: T::DTYPE,
            got: self.dtype(),
        })
    }

    /// The elements for writing; a storage shared with other tensors is copied first.
    ///
    /// # Errors
    /// When the tensor holds another type.
    pub fn data_mut<T: Stored>(&mut self) -> Result<&mut [T]> {
        let got = self.dtype();
        T::slice_mut(self).ok_or(Error::DTypeMismatch {
            op: "data_mut",
            expected: T::DTYPE,
            got,
        })
    }

    /// Whether no other tensor shares this memory, so that writing does not copy.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let same = shape.iter().product::<usize>() == self.numel();
        ensure_shape(
            "reshape",
            same,
            || format!("of {} elements", self.numel()),
            shape,
        )?;
        Ok(Self {
            storage: self.storage.clone(),
            offset: self.offset,
            shape: shape.to_vec(),
        })
    }

    /// Entries `start..start + len` of the first axis, without copying.
    ///
    /// # Errors
    /// When the range leaves the axis.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let first = self.shape.first().copied().unwrap_or(0);
        let ok = start.checked_add(len).is_some_and(|end| end <= first);
        ensure_shape(
            "narrow",
            ok,
            || format!("[>= {}, ..]", start.saturating_add(len)),
            &self.shape,
        )?;
        let stride: usize = self.shape.iter().skip(1).product();
        let mut shape = self.shape.clone();
        if let Some(axis) = shape.first_mut() {
            *axis = len;
        }
        Ok(Self {
            storage: self.storage.clone(),
            offset: self.offset + start * stride,
            shape,
        })
    }

    /// A copy in another element type (round to nearest even); the same tensor if it has it already.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        let wide = self.to_f32_vec();
        match dtype {
            DType::F32 => f32::wrap(wide.into(), self.shape.clone()),
            DType::BF16 => bf16::wrap(
                wide.into_iter()
                    .map(bf16::from_f32)
                    .collect::<Vec<_>>()
                    .into(),
                self.shape.clone(),
            ),
            DType::F16 => f16::wrap(
                wide.into_iter()
                    .map(f16::from_f32)
                    .collect::<Vec<_>>()
                    .into(),
                self.shape.clone(),
            ),
            DType::I32 => i32::wrap(
                wide.into_iter()
                    .map(|x| x as i32)
                    .collect::<Vec<_>>()
                    .into(),
                self.shape.clone(),
            ),
        }
    }

    /// A copy of the elements as f32.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let range = self.offset..self.offset + self.numel();
        match &*self.storage {
            Storage::F32(b) => b[range].to_vec(),
            Storage::BF16(b) => b[range].iter().map(|x| x.to_f32()).collect(),
            Storage::F16(b) => b[range].iter().map(|x| x.to_f32()).collect(),
            Storage::I32(b) => b[range].iter().map(|x| *x as f32).collect(),
        }
    }

    /// The only element of a one-element tensor, as f32.
    ///
    /// # Errors
    /// When there is not exactly one element.
    pub fn item(&self) -> Result<f32> {
        ensure_shape(
            "item",
            self.numel() == 1,
            || "of 1 element".into(),
            &self.shape,
        )?;
        Ok(self.to_f32_vec().first().copied().unwrap_or(f32::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_share_and_writes_copy() {
        let a = Tensor::from_vec((0..12).map(|x| x as f32).collect(), &[4, 3]).unwrap();
        let mut row = a.narrow(1, 2).unwrap();
        assert_eq!(row.data::<f32>().unwrap(), &[3., 4., 5., 6., 7., 8.]);
        row.data_mut::<f32>().unwrap()[0] = -1.0;
        assert_eq!(
            a.data::<f32>().unwrap()[3],
            3.0,
            "a shared storage is not written through"
        );
        assert!(a.narrow(3, 2).is_err() && a.reshape(&[5]).is_err() && a.data::<i32>().is_err());
    }

    #[test]
    fn casts_round_to_nearest_even() {
        let a = Tensor::from_vec(vec![1.0f32, 1.003_906_2, 65504.0, -0.1], &[4]).unwrap();
        let b = a.cast(DType::BF16).cast(DType::F32);
        assert_eq!(b.data::<f32>().unwrap()[1], 1.0);
        assert_eq!(
            a.cast(DType::F16).cast(DType::F32).data::<f32>().unwrap()[2],
            65504.0
        );
    }
}
