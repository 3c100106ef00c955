//! The driver's stream-ordered pools that buffers come from: the device's own, and one for small buffers.

use cudarc::driver::sys::{self as cu, CUmemPool_attribute as At, CUresult};

use crate::{Result, cuda::context::check};

/// Bytes up to which a buffer counts as small: losses, norms, statistics, vectors of weights.
const SMALL: usize = 1 << 20;

/// Two pools of one device, both of which keep what is freed.
pub(super) struct Pools {
    large: cu::CUmemoryPool,
    small: cu::CUmemoryPool,
}

impl Pools {
    pub(super) fn new(device: cu::CUdevice) -> Result<Self> {
        let (mut large, mut small) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut keep = u64::MAX;
        // SAFETY: plain data, all zeros is a valid value of it.
        let mut wanted: cu::CUmemPoolProps = unsafe { std::mem::zeroed() };
        wanted.allocType = cu::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        wanted.location.type_ = cu::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        // SAFETY: out-pointers are valid; the description is that of memory of this device; the attribute takes a 64-bit
        // threshold.
        unsafe {
            wanted.location.id = device;
            check(
                cu::cuDeviceGetDefaultMemPool(&mut large, device),
                "memory pool",
            )?;
            check(
                cu::cuMemPoolCreate(&mut small, &wanted),
                "pool of small buffers",
            )?;
            for pool in [large, small] {
                let what = At::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                let set = cu::cuMemPoolSetAttribute(pool, what, (&raw mut keep).cast());
                check(set, "memory pool")?;
            }
        }
        Ok(Self { large, small })
    }

    /// The pool of a buffer of so many bytes.
    pub(super) fn of(&self, bytes: usize) -> cu::CUmemoryPool {
        if bytes <= SMALL {
            self.small
        } else {
            self.large
        }
    }

    /// A counter of both.
    pub(super) fn sum(&self, what: At) -> usize {
        let counter = |pool| {
            let mut value = 0u64;
            // SAFETY: the attributes asked for are 64-bit counters of a live pool.
            let got = unsafe { cu::cuMemPoolGetAttribute(pool, what, (&raw mut value).cast()) };
            if got == CUresult::CUDA_SUCCESS {
                value as usize
            } else {
                0
            }
        };
        counter(self.large) + counter(self.small)
    }

    /// Peaks begin at what is held now.
    pub(super) fn reset_peak(&self) {
        for pool in [self.large, self.small] {
            let (what, mut zero) = (At::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, 0u64);
            // SAFETY: writing 0 resets this 64-bit counter.
            let _ = unsafe { cu::cuMemPoolSetAttribute(pool, what, (&raw mut zero).cast()) };
        }
    }

    /// Gives what is free back to the system.
    pub(super) fn trim(&self) -> Result<()> {
        for pool in [self.large, self.small] {
            // SAFETY: both pools live.
            check(unsafe { cu::cuMemPoolTrimTo(pool, 0) }, "trim")?;
        }
        Ok(())
    }

    /// Ends the pool that is not the device's own, once what came from it is free.
    pub(super) fn release(&self) {
        // SAFETY: made by this type and not used any more; the driver waits for what is still allocated.
        let _ = unsafe { cu::cuMemPoolDestroy(self.small) };
    }
}
