//! Device memory: stream-ordered buffers, copies through pinned memory, constants uploaded once.
//!
//! Buffers come from the driver's stream-ordered pool, whose release threshold is raised: what a step
//! frees stays with the process and serves the next step, so that nothing is asked of the system in the
//! steady state.

use std::{
    collections::{HashMap, VecDeque},
    ffi::c_void,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use cudarc::driver::sys::{self as cu, CUresult};

use super::{Cuda, context::check};
use crate::{DType, Error, Result, Tensor, memory, tensor::Stored};

/// Constants kept on the device; the least recently used goes first.
const CONSTANTS: usize = 256;

/// Pinned blocks of one size before a copy waits for the oldest.
const PINNED_BLOCKS: usize = 16;

/// Smallest pinned block, bytes.
const PINNED_MIN: usize = 4 << 10;

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

#[derive(Default)]
struct Constants {
    by_hash: HashMap<u64, Constant>,
    clock: u64,
}

struct Constant {
    content: Vec<i32>,
    address: u64,
    used: u64,
    /// Tensors that look at it; it is not freed before they are gone.
    lease: Arc<()>,
}

/// Host memory that the copy engine reads and writes by itself.
struct Pinned {
    address: *mut c_void,
    bytes: usize,
    /// Recorded behind the last copy that uses it.
    event: cu::CUevent,
}

// SAFETY: a block belongs to one owner at a time; the driver's calls on it are thread-safe.
unsafe impl Send for Pinned {}

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
    fn send<T: Copy>(&self, data: &[T], address: u64) -> Result<()> {
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

    /// A tensor of constant integers: equal content is uploaded once and shared.
    pub(crate) fn constant(self: &Arc<Self>, content: &[i32]) -> Result<Tensor> {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let hash = hasher.finish();
        let mut constants = lock(&self.memory.constants);
        constants.clock += 1;
        let clock = constants.clock;
        let found = match constants.by_hash.get_mut(&hash) {
            Some(found) if found.content == content => {
                found.used = clock;
                Some((found.address, found.lease.clone()))
            }
            _ => None,
        };
        let (address, lease) = match found {
            Some(found) => found,
            None => {
                if constants.by_hash.contains_key(&hash) {
                    // Two contents with one hash: this one is not shared.
                    drop(constants);
                    return self.upload(content, &[content.len()]);
                }
                self.bind()?;
                let address = self.pooled(size_of_val(content).max(16))?;
                self.send(content, address)?;
                let lease = Arc::new(());
                constants.make_room(self.stream());
                let constant = Constant {
                    content: content.to_vec(),
                    address,
                    used: clock,
                    lease: lease.clone(),
                };
                constants.by_hash.insert(hash, constant);
                (address, lease)
            }
        };
        let buffer = DeviceBuffer {
            cuda: self.clone(),
            address,
            bytes: 0,
            len: content.len(),
            dtype: DType::I32,
            origin: Origin::Constant(lease),
        };
        Ok(Tensor::from_device(buffer, &[content.len()]))
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
    fn pinned(&self, bytes: usize) -> Result<Pinned> {
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
    fn give_back(&self, block: Pinned) -> Result<()> {
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

impl Constants {
    /// Frees the least recently used constants that no tensor looks at.
    fn make_room(&mut self, stream: cu::CUstream) {
        if self.by_hash.len() < CONSTANTS {
            return;
        }
        let mut idle: Vec<(u64, u64)> = self
            .by_hash
            .iter()
            .filter(|(_, c)| Arc::strong_count(&c.lease) == 1)
            .map(|(hash, c)| (c.used, *hash))
            .collect();
        idle.sort_unstable();
        for (_, hash) in idle.into_iter().take(CONSTANTS / 4) {
            if let Some(constant) = self.by_hash.remove(&hash) {
                // SAFETY: allocated on this stream, freed once; queued work on it comes first.
                let _ = unsafe { cu::cuMemFreeAsync(constant.address, stream) };
            }
        }
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
