//! `Cuda`: one GPU, its stream, and the libraries' handles.

use std::{
    collections::HashMap,
    ffi::CStr,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use cudarc::{
    cublaslt::sys as lt,
    driver::sys::{self as cu, CUresult},
};

use super::{gemm::Gemm, kernel::Kernels, libraries, measure::Profile, memory::Memory};
use crate::{DType, Error, Result};

/// Oldest driver interface that has everything used here (stream-ordered memory, CUDA 11.4 and later).
const MIN_DRIVER: i32 = 11_040;

/// One GPU. All of its work runs in order on one stream.
pub struct Cuda {
    ordinal: usize,
    device: cu::CUdevice,
    context: cu::CUcontext,
    stream: cu::CUstream,
    info: DeviceInfo,
    pub(super) memory: Memory,
    pub(super) kernels: Kernels,
    pub(super) gemm: Gemm,
    pub(super) profile: Profile,
    /// State of single operations (cached plans, tables), by its type.
    extensions: Mutex<HashMap<std::any::TypeId, Arc<dyn std::any::Any + Send + Sync>>>,
}

// SAFETY: the handles are used under the libraries' own rules: CUDA's driver interface is thread-safe, the
// context is made current on every thread before use, and cuBLASLt and cuDNN handles are only used with
// their owner's mutex held.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

/// Shared memory that the system takes for each block, bytes.
pub(crate) const SHARED_OF_THE_SYSTEM: usize = 1 << 10;

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Product name.
    pub name: String,
    /// Compute capability, for example (9, 0).
    pub capability: (i32, i32),
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory of a multiprocessor, bytes.
    pub shared_memory: usize,
    /// Memory of the card, bytes.
    pub memory: usize,
    /// Driver interface, for example 13000 for CUDA 13.0.
    pub driver: i32,
    /// cuBLASLt, as the library counts its versions.
    pub cublaslt: usize,
    /// NVRTC, major and minor.
    pub nvrtc: (i32, i32),
    /// cuDNN, as the library counts its versions; absent where it cannot be loaded.
    pub cudnn: Option<usize>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("ordinal", &self.ordinal)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Cuda {
    /// The GPU of this number; opened once, then shared.
    ///
    /// # Errors
    /// [`Error::NoDevice`] that says what is missing.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        static OPEN: OnceLock<Mutex<HashMap<usize, Weak<Cuda>>>> = OnceLock::new();
        let mut open = OPEN
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(cuda) = open.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(cuda);
        }
        let cuda = Arc::new(Self::new(ordinal)?);
        open.insert(ordinal, Arc::downgrade(&cuda));
        Ok(cuda)
    }

    fn new(ordinal: usize) -> Result<Self> {
        libraries::require()?;
        let none = |reason: String| Error::NoDevice { reason };
        let ok = |result: CUresult, what: &str| {
            check(result, "cuda").map_err(|e| none(format!("{what}: {e}")))
        };
        let (mut driver, mut count) = (0, 0);
        // SAFETY: plain queries with valid out-pointers; cuInit may be called any number of times.
        unsafe {
            ok(cu::cuInit(0), "the driver does not start")?;
            ok(cu::cuDriverGetVersion(&mut driver), "driver version")?;
            ok(cu::cuDeviceGetCount(&mut count), "device count")?;
        }
        if driver < MIN_DRIVER {
            return Err(none(format!(
                "the driver speaks CUDA {}.{}, too old; 11.4 is the least",
                driver / 1000,
                driver % 1000 / 10
            )));
        }
        if ordinal >= count as usize {
            return Err(none(format!(
                "there is no GPU {ordinal}; this machine has {count}"
            )));
        }
        let (mut device, mut context, mut stream) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: out-pointers are valid; the primary context is retained once here and released on drop.
        unsafe {
            ok(cu::cuDeviceGet(&mut device, ordinal as i32), "device")?;
            ok(
                cu::cuDevicePrimaryCtxRetain(&mut context, device),
                "the GPU cannot be used",
            )?;
            ok(cu::cuCtxSetCurrent(context), "context")?;
            ok(
                cu::cuStreamCreate(
                    &mut stream,
                    cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32,
                ),
                "stream",
            )?;
        }
        let info = DeviceInfo::read(device, driver)?;
        let kernels = Kernels::new(info.capability, info.nvrtc);
        Ok(Self {
            ordinal,
            device,
            context,
            stream,
            memory: Memory::new(device, info.memory)?,
            kernels,
            gemm: Gemm::new()?,
            profile: Profile::default(),
            info,
            extensions: Mutex::default(),
        })
    }

    /// Its number among the GPUs of this machine.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Whether its units compute in bf16 (Ampere and later).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names the GPU and what to use instead.
    pub fn check_dtype(&self, dtype: DType) -> Result<()> {
        if dtype == DType::BF16 && self.info.capability.0 < 8 {
            return Err(Error::InvalidArgument {
                op: "dtype",
                reason: format!(
                    "{} (compute capability {}.{}) has no bf16; use --dtype f32",
                    self.info.name, self.info.capability.0, self.info.capability.1
                ),
            });
        }
        Ok(())
    }

    /// Whether its units multiply in FP8 (Ada, Hopper and later).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names the GPU.
    pub fn check_fp8(&self) -> Result<()> {
        if self.info.capability < (8, 9) {
            return Err(Error::InvalidArgument {
                op: "fp8",
                reason: format!(
                    "{} (compute capability {}.{}) has no FP8 products: they need 8.9 (Ada) or 9.0 (Hopper) and later",
                    self.info.name, self.info.capability.0, self.info.capability.1
                ),
            });
        }
        Ok(())
    }

    /// Waits until everything on the stream is done.
    ///
    /// # Errors
    /// When an operation failed on the device.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check(
            unsafe { cu::cuStreamSynchronize(self.stream) },
            "synchronize",
        )
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<()> {
        thread_local! {
            static CURRENT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
        }
        if CURRENT.get() == self.context as usize {
            return Ok(());
        }
        // SAFETY: the context is retained as long as `self` lives.
        check(unsafe { cu::cuCtxSetCurrent(self.context) }, "context")?;
        CURRENT.set(self.context as usize);
        Ok(())
    }

    /// The stream that everything runs on; while this thread records a graph, the one that takes it down.
    pub(super) fn stream(&self) -> cu::CUstream {
        super::graph::recording().unwrap_or(self.stream)
    }

    /// State of type `T` that belongs to this device, made by `make` on first use.
    pub(crate) fn extension<T: Send + Sync + 'static>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut all = self
            .extensions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = std::any::TypeId::of::<T>();
        if let Some(Ok(found)) = all.get(&key).map(|any| any.clone().downcast::<T>()) {
            return Ok(found);
        }
        let made = Arc::new(make()?);
        all.insert(key, made.clone());
        Ok(made)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: no tensor of this device is left (each holds an `Arc` of it), and the handles are not
        // used again. Errors at this point have no one to go to.
        unsafe {
            if cu::cuCtxSetCurrent(self.context) == CUresult::CUDA_SUCCESS {
                let _ = cu::cuStreamSynchronize(self.stream);
            }
        }
        self.extensions
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.memory.release(self.stream);
        // SAFETY: as above.
        unsafe {
            let _ = cu::cuStreamDestroy_v2(self.stream);
            let _ = cu::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl DeviceInfo {
    /// Whether our kernels for Hopper run here: the card, and a driver and a compiler that know its copies and
    /// products (CUDA 12.0).
    pub(crate) fn is_hopper(&self) -> bool {
        self.capability == (9, 0) && self.driver >= 12_000 && self.nvrtc >= (12, 0)
    }

    fn read(device: cu::CUdevice, driver: i32) -> Result<Self> {
        use cu::CUdevice_attribute_enum as At;
        let attribute = |what| -> Result<i32> {
            let mut value = 0;
            // SAFETY: a query with a valid out-pointer.
            let result = unsafe { cu::cuDeviceGetAttribute(&mut value, what, device) };
            check(result, "device attribute").map(|()| value)
        };
        let (mut name, mut memory, mut nvrtc) = ([0i8; 256], 0, (0, 0));
        // SAFETY: the buffers are as long as stated and the out-pointers valid.
        let cublaslt = unsafe {
            check(
                cu::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device),
                "device name",
            )?;
            check(
                cu::cuDeviceTotalMem_v2(&mut memory, device),
                "device memory",
            )?;
            let _ = cudarc::nvrtc::sys::nvrtcVersion(&mut nvrtc.0, &mut nvrtc.1);
            lt::cublasLtGetVersion()
        };
        // SAFETY: the driver writes a terminated string.
        let name = unsafe { CStr::from_ptr(name.as_ptr().cast()) };
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            capability: (
                attribute(At::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(At::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(At::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared_memory: attribute(At::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?
                as usize,
            memory,
            driver,
            cublaslt,
            nvrtc,
            // SAFETY: called only where the library is loaded.
            cudnn: libraries::cudnn().then(|| unsafe { cudarc::cudnn::sys::cudnnGetVersion() }),
        })
    }
}

/// Turns a driver result into an error with the driver's own words.
pub(super) fn check(result: CUresult, op: &'static str) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: the driver sets the pointer to a static string, or leaves it null.
    let words = unsafe {
        let _ = cu::cuGetErrorString(result, &mut text);
        if text.is_null() {
            "unknown error".into()
        } else {
            CStr::from_ptr(text).to_string_lossy()
        }
    };
    Err(Error::Cuda {
        op,
        reason: format!("{words} ({result:?})"),
    })
}
