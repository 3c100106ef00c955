//! Copies to the device, from it and on it.

use std::sync::Arc;

use cudarc::driver::sys as cu;

use crate::{
    DType, Error, Result, Tensor,
    cuda::{Cuda, context::check},
    tensor::Stored,
};

impl Cuda {
    /// Copies a slice to the device. The host does not wait; the slice may be changed at once.
    pub(crate) fn upload<T: Stored>(
        self: &Arc<Self>,
        data: &[T],
        shape: &[usize],
    ) -> Result<Tensor> {
        let mut tensor = self.empty(shape, T::DTYPE)?;
        self.upload_into(data, &mut tensor)?;
        Ok(tensor)
    }

    /// Copies a slice into a tensor of as many elements of the same type.
    pub(crate) fn upload_into<T: Stored>(
        self: &Arc<Self>,
        data: &[T],
        to: &mut Tensor,
    ) -> Result<()> {
        if to.dtype() != T::DTYPE || to.numel() != data.len() {
            return Err(Error::InvalidArgument {
                op: "upload",
                reason: format!("{} elements do not fit {:?}", data.len(), to.shape()),
            });
        }
        let address = to.cuda_address_mut()?;
        self.send(data, address)
    }

    /// Copies bytes to the device, in a tensor of whole words; the bytes beyond the last are unspecified.
    pub(crate) fn upload_bytes(self: &Arc<Self>, data: &[u8]) -> Result<Tensor> {
        let mut tensor = self.empty(&[data.len().div_ceil(4)], DType::I32)?;
        let address = tensor.cuda_address_mut()?;
        self.send(data, address)?;
        Ok(tensor)
    }

    /// Copies a slice to an address with room for it, by way of pinned memory.
    pub(super) fn send<T: Copy>(&self, data: &[T], address: u64) -> Result<()> {
        let bytes = size_of_val(data);
        if bytes == 0 {
            return Ok(());
        }
        let block = self.pinned(bytes)?;
        // SAFETY: the block has at least `bytes` bytes, nothing else uses it (its event has passed), and it
        // returns to the pool with an event behind the copy; callers vouch for the address.
        let copied = unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr().cast(), block.address.cast::<u8>(), bytes);
            cu::cuMemcpyHtoDAsync_v2(address, block.address, bytes, self.stream())
        };
        self.give_back(block)?;
        check(copied, "copy to the device")
    }

    /// Copies a tensor to the host and waits for it.
    pub(crate) fn download<T: Stored>(self: &Arc<Self>, tensor: &Tensor) -> Result<Vec<T>> {
        let mut out = vec![T::ZERO; tensor.numel()];
        let bytes = size_of_val(out.as_slice());
        if bytes > 0 {
            let address = tensor.cuda_address()?;
            self.bind()?;
            // SAFETY: both sides have this many bytes; the stream is waited for before `out` is read.
            let copied = unsafe {
                cu::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), address, bytes, self.stream())
            };
            check(copied, "copy from the device")?;
        }
        self.synchronize()?;
        Ok(out)
    }

    /// Copies between tensors of this device with as many bytes.
    pub(crate) fn copy(self: &Arc<Self>, from: &Tensor, to: &mut Tensor) -> Result<()> {
        let bytes = from.numel() * from.dtype().size();
        if from.dtype() != to.dtype() || from.numel() != to.numel() {
            return Err(Error::InvalidArgument {
                op: "copy",
                reason: format!("{:?} does not fit {:?}", from.shape(), to.shape()),
            });
        }
        if bytes == 0 {
            return Ok(());
        }
        let (source, target) = (from.cuda_address()?, to.cuda_address_mut()?);
        self.bind()?;
        // SAFETY: both tensors have this many bytes on this device.
        let done = unsafe { cu::cuMemcpyDtoDAsync_v2(target, source, bytes, self.stream()) };
        check(done, "copy on the device")
    }

    /// As [`crate::collective::flatten`], with tensors of this device that fit.
    pub(crate) fn flatten(
        self: &Arc<Self>,
        parts: &[(usize, Tensor)],
        len: usize,
        dtype: DType,
    ) -> Result<Tensor> {
        let mut run = self.zeros(&[len], dtype)?;
        let target = run.cuda_address_mut()?;
        for (offset, part) in parts.iter().filter(|(_, part)| part.numel() > 0) {
            let (at, bytes) = (offset * dtype.size(), part.numel() * dtype.size());
            let source = part.cuda_address()?;
            // SAFETY: the caller has checked that the part fits behind its offset; both are of this device.
            let done = unsafe {
                cu::cuMemcpyDtoDAsync_v2(target + at as u64, source, bytes, self.stream())
            };
            check(done, "copy on the device")?;
        }
        Ok(run)
    }
}
