//! How Hopper's copy unit sees a tensor of bf16 in the card's memory.

use cudarc::driver::sys::{
    self as cu, CUtensorMap, CUtensorMapDataType_enum as Type,
    CUtensorMapFloatOOBfill_enum as Fill, CUtensorMapInterleave_enum as Interleave,
    CUtensorMapL2promotion_enum as Promotion, CUtensorMapSwizzle_enum as Swizzle,
};

use super::context::check;
use crate::Result;

/// A tensor of `AXES` axes, innermost first, and the box that is copied at a time. What lies beyond the
/// tensor is read as 0 and not written.
pub(in crate::cuda) struct TensorMap<const AXES: usize, const OUTER: usize> {
    /// A multiple of 16.
    pub(in crate::cuda) address: u64,
    /// Elements of each axis, none of them 0.
    pub(in crate::cuda) sizes: [u64; AXES],
    /// Bytes from one element of an outer axis to the next, multiples of 16.
    pub(in crate::cuda) strides: [u64; OUTER],
    /// Elements of the box.
    pub(in crate::cuda) shape: [u32; AXES],
    /// Order of 16-byte units in shared memory.
    pub(in crate::cuda) swizzle: Swizzle,
}

impl<const AXES: usize, const OUTER: usize> TensorMap<AXES, OUTER> {
    /// As the driver passes it to a kernel.
    ///
    /// # Errors
    /// When the driver takes no such map.
    pub(in crate::cuda) fn encode(&self) -> Result<CUtensorMap> {
        const { assert!(OUTER + 1 == AXES, "a stride for each outer axis") };
        let steps = [1; AXES];
        // SAFETY: plain data, all zeros is a valid value of it.
        let mut map: CUtensorMap = unsafe { std::mem::zeroed() };
        // SAFETY: arrays of as many entries as there are axes (one stride less), an address of this device;
        // nothing is read.
        check(
            unsafe {
                cu::cuTensorMapEncodeTiled(
                    &mut map,
                    Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                    AXES as u32,
                    self.address as _,
                    self.sizes.as_ptr(),
                    self.strides.as_ptr(),
                    self.shape.as_ptr(),
                    steps.as_ptr(),
                    Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                    self.swizzle,
                    Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                    Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                )
            },
            "tensor map",
        )?;
        Ok(map)
    }
}
