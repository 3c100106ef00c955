//! `Tensor`: a shaped, contiguous, shared run of elements.

use std::sync::Arc;

use half::{bf16, f16};

use crate::{
    Device, Error, Result,
    cuda::{Cuda, DeviceBuffer},
    error::ensure_shape,
    memory::{Buffer, Element},
    nf4::Nf4,
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
    /// 4 bits an element with a scale for each 64: frozen weights ([`Tensor::to_nf4`]).
    Nf4,
}

impl DType {
    /// Bytes of one element; of [`DType::Nf4`], whose elements share bytes, 0: ask [`Tensor::bytes`].
    pub fn size(self) -> usize {
        match self {
            Self::Nf4 => 0,
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
            Self::Nf4 => "nf4",
        })
    }
}

#[derive(Debug)]
enum Storage {
    F32(Buffer<f32>),
    BF16(Buffer<bf16>),
    F16(Buffer<f16>),
    I32(Buffer<i32>),
    Nf4(Nf4),
    Cuda(DeviceBuffer),
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
                let len = tensor.numel();
                if Arc::get_mut(&mut tensor.storage).is_none() {
                    // Shared: this view gets a copy of its own elements.
                    let mut own = Buffer::<Self>::unspecified(len);
                    own.copy_from_slice(Self::slice(tensor)?);
                    tensor.storage = Arc::new(Storage::$v(own));
                    tensor.offset = 0;
                }
                let start = tensor.offset;
                match Arc::get_mut(&mut tensor.storage)? {
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

    /// A shape without elements: whoever asks for them gets an error.
    pub(crate) fn hollow(shape: &[usize]) -> Self {
        Self {
            storage: Arc::new(Storage::F32(Vec::new().into())),
            offset: 0,
            shape: shape.to_vec(),
        }
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
            Storage::Nf4(_) => DType::Nf4,
            Storage::Cuda(b) => b.dtype(),
        }
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.cuda()
            .map_or(Device::Cpu, |cuda| Device::Cuda(cuda.clone()))
    }

    /// The same elements on a device; itself where it lives there already.
    ///
    /// # Errors
    /// When the device has no room, or a copy fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        if let Storage::Nf4(nf4) = &*self.storage {
            let moved = Storage::Nf4(nf4.to_device(device)?);
            return Ok(Self {
                storage: Arc::new(moved),
                ..self.clone()
            });
        }
        let host = match self.cuda() {
            None => self.clone(),
            Some(cuda) => match self.dtype() {
                DType::F32 => Self::from_vec(cuda.download::<f32>(self)?, &self.shape)?,
                DType::BF16 => Self::from_vec(cuda.download::<bf16>(self)?, &self.shape)?,
                DType::F16 => Self::from_vec(cuda.download::<f16>(self)?, &self.shape)?,
                // 4 bits went above.
                DType::I32 | DType::Nf4 => {
                    Self::from_vec(cuda.download::<i32>(self)?, &self.shape)?
                }
            },
        };
        let Some(cuda) = device.as_cuda() else {
            return Ok(host);
        };
        match host.dtype() {
            DType::F32 => cuda.upload(host.data::<f32>()?, &self.shape),
            DType::BF16 => cuda.upload(host.data::<bf16>()?, &self.shape),
            DType::F16 => cuda.upload(host.data::<f16>()?, &self.shape),
            DType::I32 | DType::Nf4 => cuda.upload(host.data::<i32>()?, &self.shape),
        }
    }

    /// Weights of 4 bits as a tensor.
    pub(crate) fn from_nf4(nf4: Nf4, shape: &[usize]) -> Self {
        Self {
            storage: Arc::new(Storage::Nf4(nf4)),
            offset: 0,
            shape: shape.to_vec(),
        }
    }

    /// Its codes with the first of its elements in them, where it has 4 bits.
    pub(crate) fn nf4(&self) -> Option<(&Nf4, usize)> {
        match &*self.storage {
            Storage::Nf4(nf4) => Some((nf4, self.offset)),
            _ => None,
        }
    }

    /// Device memory as a tensor.
    pub(crate) fn from_device(buffer: DeviceBuffer, shape: &[usize]) -> Self {
        Self {
            storage: Arc::new(Storage::Cuda(buffer)),
            offset: 0,
            shape: shape.to_vec(),
        }
    }

    /// The GPU that it lives on.
    pub(crate) fn cuda(&self) -> Option<&Arc<Cuda>> {
        match &*self.storage {
            Storage::Cuda(buffer) => Some(buffer.cuda()),
            Storage::Nf4(nf4) => nf4.cuda(),
            _ => None,
        }
    }

    /// Device address of the first element, for reading.
    pub(crate) fn cuda_address(&self) -> Result<u64> {
        match &*self.storage {
            Storage::Cuda(buffer) => Ok(buffer.address(self.offset)),
            _ => Err(Error::DeviceMismatch {
                op: "device address",
                expected: "a GPU".into(),
                got: "cpu".into(),
            }),
        }
    }

    /// Device address of the first element, for writing; shared memory is copied first.
    pub(crate) fn cuda_address_mut(&mut self) -> Result<u64> {
        let writable = match Arc::get_mut(&mut self.storage) {
            Some(Storage::Cuda(buffer)) => !buffer.is_constant(),
            Some(_) => true,
            None => false,
        };
        if let (false, Some(cuda)) = (writable, self.cuda().cloned()) {
            let mut own = cuda.empty(&self.shape, self.dtype())?;
            cuda.copy(self, &mut own)?;
            *self = own;
        }
        self.cuda_address()
    }

    /// The elements.
    ///
    /// # Errors
    /// When the tensor holds another type or lives on a GPU.
    pub fn data<T: Stored>(&self) -> Result<&[T]> {
        T::slice(self).ok_or_else(|| self.no_slice("data", T::DTYPE))
    }

    /// Why there is no slice of `expected` elements.
    fn no_slice(&self, op: &'static str, expected: DType) -> Error {
        if self.cuda().is_some() {
            return Error::DeviceMismatch {
                op,
                expected: "cpu".into(),
                got: self.device().to_string(),
            };
        }
        Error::DTypeMismatch {
            op,
            expected,
            got: self.dtype(),
        }
    }

    /// The elements for writing; a storage shared with other tensors is copied first.
    ///
    /// # Errors
    /// When the tensor holds another type or lives on a GPU.
    pub fn data_mut<T: Stored>(&mut self) -> Result<&mut [T]> {
        let error = self.no_slice("data_mut", T::DTYPE);
        T::slice_mut(self).ok_or(error)
    }

    /// Whether no other tensor shares this memory, so that writing does not copy.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// Whether both are the same elements of the same memory.
    pub fn is_same_memory(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.storage, &other.storage)
            && (self.offset, &self.shape) == (other.offset, &other.shape)
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

    /// The rows of `parts` one behind the other: `[n1, ..], [n2, ..], ..` -> `[n1 + n2 + .., ..]`. One part
    /// alone is not copied.
    ///
    /// # Errors
    /// When there is no part, or they differ in their other axes, element type or device.
    pub fn concat(parts: &[Self]) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::InvalidArgument {
                op: "concat",
                reason: "there is nothing to put together".into(),
            });
        };
        let (mut shape, mut rows) = (first.shape.clone(), 0);
        for part in parts {
            let fits = !shape.is_empty() && shape.get(1..) == part.shape.get(1..);
            ensure_shape(
                "concat",
                fits,
                || format!("like {:?} after the first axis", first.shape),
                &part.shape,
            )?;
            if part.dtype() != first.dtype() {
                return Err(Error::DTypeMismatch {
                    op: "concat",
                    expected: first.dtype(),
                    got: part.dtype(),
                });
            }
            if part.device() != first.device() {
                return Err(Error::DeviceMismatch {
                    op: "concat",
                    expected: first.device().to_string(),
                    got: part.device().to_string(),
                });
            }
            rows += part.shape[0];
        }
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        shape[0] = rows;
        if let Some(cuda) = first.cuda() {
            let parts: Vec<&Self> = parts.iter().collect();
            return crate::cuda::ops::concat(cuda, &parts, &shape);
        }
        fn join<T: Stored>(parts: &[Tensor], shape: &[usize]) -> Result<Tensor> {
            let mut all = Vec::with_capacity(shape.iter().product());
            for part in parts {
                all.extend_from_slice(part.data::<T>()?);
            }
            Tensor::from_vec(all, shape)
        }
        match first.dtype() {
            DType::F32 => join::<f32>(parts, &shape),
            DType::BF16 => join::<bf16>(parts, &shape),
            DType::F16 => join::<f16>(parts, &shape),
            DType::I32 => join::<i32>(parts, &shape),
            DType::Nf4 => Err(parts[0].no_slice("concat", DType::F32)),
        }
    }

    /// A copy in another element type (round to nearest even; to 4 bits as [`Tensor::to_nf4`]); the same tensor if
    /// it has it already.
    ///
    /// # Errors
    /// When it lives on a GPU that has no room.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if let Some(cuda) = self.cuda() {
            return match self.nf4() {
                Some(_) => crate::cuda::ops::widened(cuda, self, dtype),
                None => crate::cuda::ops::cast(cuda, self, dtype),
            };
        }
        let wide = self.to_f32_vec()?.into_iter();
        match dtype {
            DType::F32 => Self::from_vec(wide.collect::<Vec<f32>>(), &self.shape),
            DType::BF16 => {
                Self::from_vec(wide.map(bf16::from_f32).collect::<Vec<_>>(), &self.shape)
            }
            DType::F16 => Self::from_vec(wide.map(f16::from_f32).collect::<Vec<_>>(), &self.shape),
            DType::I32 => Self::from_vec(wide.map(|x| x as i32).collect::<Vec<_>>(), &self.shape),
            DType::Nf4 => self.to_nf4(false),
        }
    }

    /// A copy of the elements as f32, from wherever it lives.
    ///
    /// # Errors
    /// When copying from a GPU fails, or there are no elements.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        if self.cuda().is_some() {
            return self.to_device(&Device::Cpu)?.to_f32_vec();
        }
        Ok(match &*self.storage {
            Storage::F32(_) => self.data::<f32>()?.to_vec(),
            Storage::BF16(_) => self.data::<bf16>()?.iter().map(|x| x.to_f32()).collect(),
            Storage::F16(_) => self.data::<f16>()?.iter().map(|x| x.to_f32()).collect(),
            Storage::I32(_) => self.data::<i32>()?.iter().map(|x| *x as f32).collect(),
            Storage::Nf4(nf4) => {
                let mut values = vec![0.0; self.numel()];
                nf4.decode(self.offset, &mut values)?;
                values
            }
            // It has been fetched above.
            Storage::Cuda(_) => Vec::new(),
        })
    }

    /// Up to `count` elements at even distances, as f32, from wherever it lives.
    ///
    /// # Errors
    /// When copying from a GPU fails.
    pub fn samples(&self, count: usize) -> Result<Vec<f32>> {
        let step = self.numel().div_ceil(count.max(1)).max(1);
        let flat = self.reshape(&[self.numel()])?;
        let places = (0..self.numel()).step_by(step);
        places.map(|at| flat.narrow(at, 1)?.item()).collect()
    }

    /// Adds another tensor of the same shape, type and device to this one, in place where nobody shares its memory.
    ///
    /// # Errors
    /// When they differ.
    pub fn add_assign(&mut self, other: &Self) -> Result<()> {
        ensure_shape(
            "add_assign",
            self.shape == other.shape,
            || format!("{:?}", self.shape),
            &other.shape,
        )?;
        crate::tape::add_assign(self, other)
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
        Ok(self.to_f32_vec()?.first().copied().unwrap_or(f32::NAN))
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
    fn rows_are_put_together() {
        let a = Tensor::from_vec(vec![1.0f32, 2.0], &[1, 2]).unwrap();
        let b = Tensor::from_vec(vec![3.0f32, 4.0, 5.0, 6.0], &[2, 2]).unwrap();
        let all = Tensor::concat(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(all.shape(), [3, 2]);
        assert_eq!(all.data::<f32>().unwrap(), [1., 2., 3., 4., 5., 6.]);
        assert!(Tensor::concat(&[]).is_err() && Tensor::concat(&[Tensor::scalar(1.0)]).is_err());
        assert!(Tensor::concat(&[a.clone(), b.reshape(&[4, 1]).unwrap()]).is_err());
        assert!(Tensor::concat(&[a, b.cast(DType::BF16).unwrap()]).is_err());
    }

    #[test]
    fn casts_round_to_nearest_even() {
        let a = Tensor::from_vec(vec![1.0f32, 1.003_906_2, 65504.0, -0.1], &[4]).unwrap();
        let b = a.cast(DType::BF16).unwrap().cast(DType::F32).unwrap();
        assert_eq!(b.data::<f32>().unwrap()[1], 1.0);
        assert_eq!(
            a.cast(DType::F16)
                .unwrap()
                .cast(DType::F32)
                .unwrap()
                .data::<f32>()
                .unwrap()[2],
            65504.0
        );
    }
}
