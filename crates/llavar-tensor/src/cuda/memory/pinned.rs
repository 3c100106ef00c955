//! Pinned host memory, by way of which copies go, and values on their way to the host.

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::sys::{self as cu, CUresult};

use super::lock;
use crate::{
    DType, Error, Result, Tensor,
    cuda::{Cuda, context::check},
};

/// Pinned blocks of one size before a copy waits for the oldest.
const PINNED_BLOCKS: usize = 16;

/// Smallest pinned block, bytes.
const PINNED_MIN: usize = 4 << 10;

/// Host memory that the copy engine reads and writes by itself.
pub(super) struct Pinned {
    pub(super) address: *mut c_void,
    bytes: usize,
    /// Recorded behind the last copy that uses it.
    pub(super) event: cu::CUevent,
}

// SAFETY: a block belongs to one owner at a time; the driver's calls on it are thread-safe.
unsafe impl Send for Pinned {}

impl Cuda {
    /// Starts copying a small f32 tensor to the host without waiting.
    ///
    /// # Errors
    /// When the tensor is not f32 on this device, or the driver refuses.
    pub fn read_back(self: &Arc<Self>, tensor: &Tensor) -> Result<Readback> {
        if tensor.dtype() != DType::F32 {
            return Err(Error::DTypeMismatch {
                op: "read_back",
                expected: DType::F32,
                got: tensor.dtype(),
            });
        }
        let bytes = tensor.numel() * 4;
        let address = tensor.cuda_address()?;
        let block = self.pinned(bytes)?;
        // SAFETY: the block has at least `bytes` bytes and is read only after its event.
        let copied = unsafe {
            check(
                cu::cuMemcpyDtoHAsync_v2(block.address, address, bytes, self.stream()),
                "copy from the device",
            )
            .and_then(|()| check(cu::cuEventRecord(block.event, self.stream()), "event"))
        };
        let readback = Readback {
            cuda: self.clone(),
            block: Some(block),
            len: tensor.numel(),
        };
        copied.map(|()| readback)
    }

    /// A pinned block of at least this many bytes that no copy uses.
    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        self.bind()?;
        let bytes = bytes.next_power_of_two().max(PINNED_MIN);
        let mut all = lock(&self.memory.pinned);
        let waiting = all.entry(bytes).or_default();
        if let Some(block) = waiting.front() {
            // SAFETY: the event lives with its block.
            let ready = unsafe { cu::cuEventQuery(block.event) } == CUresult::CUDA_SUCCESS;
            let usable = ready || waiting.len() >= PINNED_BLOCKS;
            if let Some(block) = usable.then(|| waiting.pop_front()).flatten() {
                drop(all);
                // SAFETY: as above.
                check(unsafe { cu::cuEventSynchronize(block.event) }, "event")?;
                return Ok(block);
            }
        }
        drop(all);
        let (mut address, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: valid out-pointers.
        unsafe {
            check(
                cu::cuEventCreate(
                    &mut event,
                    cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32,
                ),
                "event",
            )?;
            check(cu::cuMemHostAlloc(&mut address, bytes, 0), "pinned memory")?;
        }
        Ok(Pinned {
            address,
            bytes,
            event,
        })
    }

    /// Returns a block; it is handed out again once everything asked for up to now is done.
    pub(super) fn give_back(&self, block: Pinned) -> Result<()> {
        // SAFETY: event and stream are alive.
        let recorded = check(
            unsafe { cu::cuEventRecord(block.event, self.stream()) },
            "event",
        );
        lock(&self.memory.pinned)
            .entry(block.bytes)
            .or_default()
            .push_back(block);
        recorded
    }
}

/// Values on their way to the host.
pub struct Readback {
    cuda: Arc<Cuda>,
    block: Option<Pinned>,
    len: usize,
}

impl std::fmt::Debug for Readback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readback").field("len", &self.len).finish()
    }
}

impl Readback {
    /// Whether they have arrived.
    pub fn is_ready(&self) -> bool {
        self.block.as_ref().is_none_or(|block| {
            // SAFETY: the event lives with its block.
            unsafe { cu::cuEventQuery(block.event) == CUresult::CUDA_SUCCESS }
        })
    }

    /// The values, waited for.
    ///
    /// # Errors
    /// When the copy or something before it failed on the device.
    pub fn wait(self) -> Result<Vec<f32>> {
        let Some(block) = &self.block else {
            return Ok(Vec::new());
        };
        self.cuda.bind()?;
        // SAFETY: the event stands behind the copy; after it the block holds `len` floats.
        unsafe {
            check(cu::cuEventSynchronize(block.event), "wait for a value")?;
            Ok(std::slice::from_raw_parts(block.address.cast::<f32>(), self.len).to_vec())
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let _ = self.cuda.give_back(block);
        }
    }
}
