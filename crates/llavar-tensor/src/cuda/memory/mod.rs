//! Device memory: stream-ordered buffers, copies through pinned memory, constants uploaded once.
//!
//! Buffers come from the driver's stream-ordered pool, whose release threshold is raised: what a step
//! frees stays with the process and serves the next step, so that nothing is asked of the system in the
//! steady state.

mod constants;
mod copies;
mod pinned;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use cudarc::driver::sys::{self as cu, CUresult};

use super::{Cuda, context::check};
use crate::{DType, Error, Result, Tensor, memory};
use constants::Constants;
use pinned::Pinned;

pub use pinned::Readback;

/// Byte counts of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes held by live tensors.
    pub in_use: usize,
    /// Largest `in_use` since the start or the last [`Cuda::reset_peak`].
    pub peak: usize,
    /// Bytes that the pool has taken from the card, used or waiting for reuse.
    pub reserved: usize,
    /// Largest `reserved` since the start or the last [`Cuda::reset_peak`].
    pub reserved_peak: usize,
    /// Bytes of the card.
    pub total: usize,
}

/// Memory of a device: pool, counters, pinned blocks, constants.
pub(super) struct Memory {
    pool: cu::CUmemoryPool,
    total: usize,
    in_use: AtomicUsize,
    peak: AtomicUsize,
    pinned: Mutex<HashMap<usize, VecDeque<Pinned>>>,
    constants: Mutex<Constants>,
}

/// A run of device memory.
pub(crate) struct DeviceBuffer {
    cuda: Arc<Cuda>,
    address: u64,
    bytes: usize,
    len: usize,
    dtype: DType,
    origin: Origin,
}

enum Origin {
    Pool,
    /// Shared content that nothing may write.
    Constant(#[allow(dead_code, reason = "held, not read")] Arc<()>),
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} x {} on cuda:{}",
            self.len,
            self.dtype,
            self.cuda.ordinal()
        )
    }
}

impl DeviceBuffer {
    /// The device that holds it.
    pub(crate) fn cuda(&self) -> &Arc<Cuda> {
        &self.cuda
    }

    /// Address of element `offset`.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.address + (offset * self.dtype.size()) as u64
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether its content belongs to everybody.
    pub(crate) fn is_constant(&self) -> bool {
        matches!(self.origin, Origin::Constant(_))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let memory = &self.cuda.memory;
        match self.origin {
            Origin::Constant(_) => return,
            Origin::Pool => {
                if self.address != 0 && self.cuda.bind().is_ok() {
                    // SAFETY: allocated by `cuMemAllocAsync` on the same stream and freed once; work on it
                    // that is still queued comes first on that stream.
                    let _ = unsafe { cu::cuMemFreeAsync(self.address, self.cuda.stream()) };
                }
            }
        }
        memory.in_use.fetch_sub(self.bytes, Relaxed);
    }
}

impl Memory {
    pub(super) fn new(device: cu::CUdevice, total: usize) -> Result<Self> {
        let mut pool = std::ptr::null_mut();
        let mut keep = u64::MAX;
        // SAFETY: out-pointers are valid; the attribute takes a 64-bit threshold.
        unsafe {
            check(
                cu::cuDeviceGetDefaultMemPool(&mut pool, device),
                "memory pool",
            )?;
            check(
                cu::cuMemPoolSetAttribute(
                    pool,
                    cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                    (&raw mut keep).cast(),
                ),
                "memory pool",
            )?;
        }
        Ok(Self {
            pool,
            total,
            in_use: 0.into(),
            peak: 0.into(),
            pinned: Mutex::default(),
            constants: Mutex::default(),
        })
    }

    /// Frees what is not a tensor. The stream is idle.
    pub(super) fn release(&mut self, stream: cu::CUstream) {
        let constants = std::mem::take(
            self.constants
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let pinned = std::mem::take(
            self.pinned
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        // SAFETY: each address was allocated by the matching call and is freed once; nothing uses it.
        unsafe {
            for constant in constants.by_hash.into_values() {
                let _ = cu::cuMemFreeAsync(constant.address, stream);
            }
            for block in pinned.into_values().flatten() {
                let _ = cu::cuEventDestroy_v2(block.event);
                let _ = cu::cuMemFreeHost(block.address);
            }
        }
    }

    fn attribute(&self, what: cu::CUmemPool_attribute) -> usize {
        let mut value = 0u64;
        // SAFETY: these attributes are 64-bit counters.
        let result = unsafe { cu::cuMemPoolGetAttribute(self.pool, what, (&raw mut value).cast()) };
        if result == CUresult::CUDA_SUCCESS {
            value as usize
        } else {
            0
        }
    }
}

impl Cuda {
    /// Byte counts of this device.
    pub fn memory(&self) -> DeviceMemory {
        use cu::CUmemPool_attribute as At;
        DeviceMemory {
            in_use: self.memory.in_use.load(Relaxed),
            peak: self.memory.peak.load(Relaxed),
            reserved: self
                .memory
                .attribute(At::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT),
            reserved_peak: self.memory.attribute(At::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH),
            total: self.memory.total,
        }
    }

    /// Starts a new measurement of the peaks at the present use.
    pub fn reset_peak(&self) {
        self.memory
            .peak
            .store(self.memory.in_use.load(Relaxed), Relaxed);
        let mut zero = 0u64;
        // SAFETY: writing 0 resets this 64-bit counter.
        unsafe {
            let _ = cu::cuMemPoolSetAttribute(
                self.memory.pool,
                cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH,
                (&raw mut zero).cast(),
            );
        }
    }

    /// A buffer of unspecified content, NaN where poisoning is on.
    fn buffer(self: &Arc<Self>, len: usize, dtype: DType) -> Result<DeviceBuffer> {
        self.bind()?;
        let bytes = (len * dtype.size()).next_multiple_of(512).max(512);
        let address = self.pooled(bytes)?;
        let now = self.memory.in_use.fetch_add(bytes, Relaxed) + bytes;
        self.memory.peak.fetch_max(now, Relaxed);
        let buffer = DeviceBuffer {
            cuda: self.clone(),
            address,
            bytes,
            len,
            dtype,
            origin: Origin::Pool,
        };
        if memory::is_poisoned() {
            // SAFETY: the buffer has this many bytes.
            let filled = unsafe { cu::cuMemsetD8Async(address, 0xff, bytes, self.stream()) };
            check(filled, "poison")?;
        }
        Ok(buffer)
    }

    /// Memory from the stream-ordered pool.
    fn pooled(&self, bytes: usize) -> Result<u64> {
        let mut address = 0;
        for last in [false, true] {
            // SAFETY: valid out-pointer and a live stream.
            match unsafe { cu::cuMemAllocAsync(&mut address, bytes, self.stream()) } {
                CUresult::CUDA_SUCCESS => return Ok(address),
                CUresult::CUDA_ERROR_OUT_OF_MEMORY if !last => {
                    // Unused parts of the pool may be in pieces: give them back and try once more.
                    self.synchronize()?;
                    // SAFETY: the pool is the device's own.
                    check(unsafe { cu::cuMemPoolTrimTo(self.memory.pool, 0) }, "trim")?;
                }
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => break,
                other => check(other, "allocate")?,
            }
        }
        Err(Error::OutOfMemory {
            device: format!("cuda:{}", self.ordinal()),
            requested: bytes,
            in_use: self.memory.in_use.load(Relaxed),
            total: self.memory.total,
        })
    }

    /// A tensor of unspecified content, for outputs that are written in full.
    pub(crate) fn empty(self: &Arc<Self>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let buffer = self.buffer(shape.iter().product(), dtype)?;
        Ok(Tensor::from_device(buffer, shape))
    }

    /// A tensor of zeros.
    pub(crate) fn zeros(self: &Arc<Self>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let mut tensor = self.empty(shape, dtype)?;
        self.clear(&mut tensor)?;
        Ok(tensor)
    }

    /// Overwrites a tensor with zeros.
    pub(crate) fn clear(self: &Arc<Self>, tensor: &mut Tensor) -> Result<()> {
        let bytes = tensor.numel() * tensor.dtype().size();
        if bytes == 0 {
            return Ok(());
        }
        let address = tensor.cuda_address_mut()?;
        self.bind()?;
        // SAFETY: the tensor has this many bytes from this address on.
        let done = unsafe { cu::cuMemsetD8Async(address, 0, bytes, self.stream()) };
        check(done, "fill with zeros")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
