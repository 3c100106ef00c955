//! Our own kernels: sources, compilation by NVRTC, launches.
//!
//! Every source is compiled once for each element type of its activations (`T` is `float` or bf16, see
//! `kernels/prelude.cuh`). The machine code is kept in the user's cache folder under a hash of source,
//! options, architecture and compiler.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::{CString, c_void},
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::{
    driver::sys::{self as cu, CUtensorMap},
    nvrtc::sys::{self as nvrtc, nvrtcResult},
};

use super::{Cuda, context::check};
use crate::{DType, Error, Result, Tensor};

/// What every source begins with.
const PRELUDE: &str = include_str!("kernels/prelude.cuh");

/// A file of kernels.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) code: &'static str,
}

/// One kernel of a file.
pub(crate) struct Kernel {
    pub(crate) source: &'static Source,
    pub(crate) name: &'static str,
}

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    blocks: [u32; 3],
    threads: u32,
    shared: u32,
    overlap: bool,
}

impl Grid {
    /// `blocks` blocks of `threads` threads.
    pub(crate) fn new(blocks: usize, threads: usize) -> Self {
        Self::cube([blocks, 1, 1], threads)
    }

    /// Blocks along three axes.
    pub(crate) fn cube(blocks: [usize; 3], threads: usize) -> Self {
        Self {
            blocks: blocks.map(|b| b as u32),
            threads: threads as u32,
            shared: 0,
            overlap: false,
        }
    }

    /// For a loop over `n` items, each thread one item at a time in strides of the whole grid.
    pub(crate) fn items(n: usize) -> Self {
        Self::new(n.div_ceil(256).clamp(1, 132 * 16), 256)
    }

    /// With this many bytes of dynamic shared memory.
    pub(crate) fn shared(self, bytes: usize) -> Self {
        Self {
            shared: bytes as u32,
            ..self
        }
    }

    /// Lets it start before the kernel in front has ended; it must wait for it by itself
    /// (`griddepcontrol.wait`) before it reads what that one wrote.
    pub(crate) fn overlapping(self) -> Self {
        Self {
            overlap: true,
            ..self
        }
    }
}

/// An argument of a launch.
#[derive(Debug, Clone)]
pub(crate) enum Arg {
    Address(u64),
    I32(i32),
    I64(i64),
    F32(f32),
    Map(CUtensorMap),
    /// A structure by value, as words of eight bytes.
    Words(Vec<u64>),
    Bad(Error),
}

impl From<&Tensor> for Arg {
    fn from(tensor: &Tensor) -> Self {
        tensor.cuda_address().map_or_else(Self::Bad, Self::Address)
    }
}

impl From<&mut Tensor> for Arg {
    fn from(tensor: &mut Tensor) -> Self {
        tensor
            .cuda_address_mut()
            .map_or_else(Self::Bad, Self::Address)
    }
}

impl From<Option<&Tensor>> for Arg {
    fn from(tensor: Option<&Tensor>) -> Self {
        tensor.map_or(Self::Address(0), Self::from)
    }
}

impl From<Option<&mut Tensor>> for Arg {
    fn from(tensor: Option<&mut Tensor>) -> Self {
        tensor.map_or(Self::Address(0), Self::from)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<CUtensorMap> for Arg {
    fn from(map: CUtensorMap) -> Self {
        Self::Map(map)
    }
}

impl From<Vec<u64>> for Arg {
    fn from(words: Vec<u64>) -> Self {
        Self::Words(words)
    }
}

/// Arguments of a launch: tensors by reference (`&mut` for what is written), numbers by value; a `usize`
/// has to say whether the kernel takes `int` or `long long`.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$($crate::cuda::Arg::from($arg)),*] };
}
pub(crate) use args;

/// Compiled kernels of a device.
pub(super) struct Kernels {
    architecture: String,
    compiler: (i32, i32),
    modules: Mutex<HashMap<(&'static str, DType), Module>>,
}

#[derive(Clone)]
struct Module {
    module: cu::CUmodule,
    functions: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: cu::CUfunction,
    /// The most dynamic shared memory that a launch has asked for.
    shared: u32,
}

impl Kernels {
    pub(super) fn new(capability: (i32, i32), compiler: (i32, i32)) -> Self {
        Self {
            architecture: format!("sm_{}{}", capability.0, capability.1),
            compiler,
            modules: Mutex::default(),
        }
    }
}

impl Cuda {
    /// Queues a kernel compiled for activations of type `dtype`.
    ///
    /// Kernels address memory by the sizes that they are given; callers derive those from the very
    /// tensors that they pass.
    pub(crate) fn launch(
        self: &Arc<Self>,
        kernel: &Kernel,
        dtype: DType,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        if !matches!(dtype, DType::F32 | DType::BF16) {
            // Kernels exist for these two; another type's elements have another size.
            return Err(Error::DTypeMismatch {
                op: kernel.name,
                expected: DType::F32,
                got: dtype,
            });
        }
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let function = self.function(kernel, dtype, grid.shared)?;
        // Every argument in eight bytes of its own; a kernel reads the first of them that it declares.
        let mut values = [0u64; 32];
        let mut pointers = [std::ptr::null_mut::<c_void>(); 32];
        if args.len() > values.len() {
            return Err(Error::InvalidArgument {
                op: kernel.name,
                reason: format!("{} arguments", args.len()),
            });
        }
        for ((value, pointer), arg) in values.iter_mut().zip(&mut pointers).zip(args) {
            *pointer = (value as *mut u64).cast();
            *value = match arg {
                Arg::Address(address) => *address,
                Arg::I32(v) => u64::from(*v as u32),
                Arg::I64(v) => *v as u64,
                Arg::F32(v) => u64::from(v.to_bits()),
                Arg::Map(map) => {
                    // The driver copies it while it queues the launch.
                    *pointer = (&raw const *map).cast_mut().cast();
                    continue;
                }
                Arg::Words(words) => {
                    *pointer = words.as_ptr().cast_mut().cast();
                    continue;
                }
                Arg::Bad(error) => return Err(error.clone()),
            };
        }
        // SAFETY: plain data, all zeros is a valid value of it.
        let mut attribute: cu::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        attribute.id =
            cu::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attribute.value.programmaticStreamSerializationAllowed = 1;
        let config = cu::CUlaunchConfig {
            gridDimX: grid.blocks[0],
            gridDimY: grid.blocks[1],
            gridDimZ: grid.blocks[2],
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared,
            hStream: self.stream(),
            attrs: &mut attribute,
            numAttrs: u32::from(grid.overlap),
        };
        // SAFETY: the function belongs to this context; `pointers` has an entry for each argument, words as many
        // as the structure has, and the kernels of this crate stay inside the sizes that they are given (tested
        // with poisoned outputs and under a memory checker).
        unsafe {
            check(
                cu::cuLaunchKernelEx(
                    &config,
                    function,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                ),
                kernel.name,
            )
        }?;
        self.mark(|| kernel.name.to_owned())
    }

    /// Loads a kernel, so that a launch of it cannot fail for that.
    pub(crate) fn load(&self, kernel: &Kernel, dtype: DType) -> Result<()> {
        self.bind()?;
        self.function(kernel, dtype, 0).map(|_| ())
    }

    /// The kernel, with room for so much dynamic shared memory. Limits are never lowered: launches of other threads
    /// may need what they are.
    fn function(&self, kernel: &Kernel, dtype: DType, shared: u32) -> Result<cu::CUfunction> {
        let mut modules = self
            .kernels
            .modules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (kernel.source.name, dtype);
        let module = match modules.entry(key) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let image = self.kernels.image(kernel.source, dtype)?;
                let mut module = std::ptr::null_mut();
                // SAFETY: a complete image made by NVRTC for this architecture.
                check(
                    unsafe { cu::cuModuleLoadData(&mut module, image.as_ptr().cast()) },
                    "load kernels",
                )?;
                let functions = HashMap::new();
                place.insert(Module { module, functions })
            }
        };
        let missing = || Error::Cuda {
            op: kernel.name,
            reason: "no such kernel".into(),
        };
        if let Some(function) = module.functions.get_mut(kernel.name) {
            function.make_room(shared, kernel.name)?;
            return Ok(function.handle);
        }
        let name = CString::new(kernel.name).map_err(|_| missing())?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: module and name are alive, the out-pointer is valid.
        check(
            unsafe { cu::cuModuleGetFunction(&mut handle, module.module, name.as_ptr()) },
            kernel.name,
        )?;
        let mut function = Function { handle, shared: 0 };
        function.make_room(shared, kernel.name)?;
        module.functions.insert(kernel.name, function);
        Ok(handle)
    }
}

impl Function {
    fn make_room(&mut self, shared: u32, name: &'static str) -> Result<()> {
        use cu::CUfunction_attribute as Attribute;
        if shared <= self.shared {
            return Ok(());
        }
        let set = |attribute, value: u32| {
            // SAFETY: a function of the context that is current.
            let done = unsafe { cu::cuFuncSetAttribute(self.handle, attribute, value as i32) };
            check(done, name)
        };
        // Static shared memory counts too, so the limit is raised well before the default of 48 KiB.
        if shared > 16 << 10 {
            set(
                Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                shared,
            )?;
        }
        // More than one such block is to fit on a multiprocessor.
        if shared > 32 << 10 {
            set(
                Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                100,
            )?;
        }
        self.shared = shared;
        Ok(())
    }
}

impl Source {
    /// A kernel of this file.
    pub(crate) const fn kernel(&'static self, name: &'static str) -> Kernel {
        Kernel { source: self, name }
    }

    /// What it is compiled for: a source that asks for what Hopper alone has gets it there.
    fn architecture<'a>(&self, card: &'a str) -> &'a str {
        match card {
            "sm_90" if self.code.contains("__CUDA_ARCH_FEAT_SM90_ALL") => "sm_90a",
            card => card,
        }
    }
}

impl Kernels {
    /// Machine code of a source, from the cache folder if it is there.
    fn image(&self, source: &Source, dtype: DType) -> Result<Vec<u8>> {
        let mut hasher = DefaultHasher::new();
        (
            PRELUDE,
            source.code,
            dtype,
            &self.architecture,
            self.compiler,
        )
            .hash(&mut hasher);
        let file = cache_folder()
            .map(|folder| folder.join("kernels"))
            .map(|folder| {
                let name = format!("{}-{dtype}-{:016x}.cubin", source.name, hasher.finish());
                folder.join(name)
            });
        if let Some(image) = file.as_ref().and_then(|file| std::fs::read(file).ok()) {
            // Files are put in place whole by renaming; an empty one is not ours.
            if image.starts_with(b"\x7fELF") {
                return Ok(image);
            }
        }
        let image = compile(source, dtype, &self.architecture)?;
        if let Some(file) = file {
            // The cache is a convenience: a folder that cannot be written costs time at the next start.
            let _ = store(&file, &image);
        }
        Ok(image)
    }
}

/// `$LLAVAR_CACHE`, `$XDG_CACHE_HOME/llavar` or `~/.cache/llavar`.
fn cache_folder() -> Option<PathBuf> {
    let root = if let Some(path) = std::env::var_os("LLAVAR_CACHE") {
        PathBuf::from(path)
    } else if let Some(path) = std::env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(path).join("llavar")
    } else {
        PathBuf::from(std::env::var_os("HOME")?).join(".cache/llavar")
    };
    Some(root)
}

fn store(file: &std::path::Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let aside = file.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&aside, image)?;
    std::fs::rename(&aside, file)
}

/// Compiles a source for activations of type `dtype`.
fn compile(source: &Source, dtype: DType, architecture: &str) -> Result<Vec<u8>> {
    let failed = |reason: String| Error::Cuda {
        op: "compile kernels",
        reason: format!("{}.cu for {dtype}: {reason}", source.name),
    };
    let text = format!(
        "{}{PRELUDE}\n#line 1 \"{}.cu\"\n{}",
        match dtype {
            DType::BF16 => "#define T_IS_BF16 1\n",
            _ => "#define T_IS_BF16 0\n",
        },
        source.name,
        source.code
    );
    let c_string = |text: String| CString::new(text).map_err(|e| failed(e.to_string()));
    let (text, name) = (c_string(text)?, c_string(format!("{}.cu", source.name))?);
    let options = [
        c_string(format!(
            "--gpu-architecture={}",
            source.architecture(architecture)
        ))?,
        c_string("--std=c++17".into())?,
        c_string("--extra-device-vectorization".into())?,
    ];
    let options: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
    let mut program = std::ptr::null_mut();
    // SAFETY: strings are terminated and alive; sizes come from the library; the program is destroyed once.
    unsafe {
        let ok = |result: nvrtcResult| {
            if result == nvrtcResult::NVRTC_SUCCESS {
                Ok(())
            } else {
                Err(failed(format!("{result:?}")))
            }
        };
        ok(nvrtc::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            name.as_ptr(),
            0,
            std::ptr::null(),
            std::ptr::null(),
        ))?;
        let result = nvrtc::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let image = if result == nvrtcResult::NVRTC_SUCCESS {
            let mut size = 0;
            ok(nvrtc::nvrtcGetCUBINSize(program, &mut size)).and_then(|()| {
                let mut image = vec![0u8; size];
                ok(nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast())).map(|()| image)
            })
        } else {
            let mut size = 0;
            let _ = nvrtc::nvrtcGetProgramLogSize(program, &mut size);
            let mut log = vec![0u8; size.max(1)];
            let _ = nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
            let log = String::from_utf8_lossy(&log);
            Err(failed(log.trim_end_matches('\0').to_owned()))
        };
        let _ = nvrtc::nvrtcDestroyProgram(&mut program);
        image
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// NVRTC needs no GPU, so every machine that has the library checks every kernel.
    #[test]
    fn every_kernel_compiles() {
        if !super::super::libraries::nvrtc() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED every_kernel_compiles: it needs NVRTC (LLAVAR_CUDA_PATH)"
            );
            return;
        }
        let sources = super::super::ops::SOURCES.iter().copied();
        let products = [
            &super::super::product::SOURCE,
            &super::super::product_slope::SOURCE,
            &super::super::product_slope::SWIGLU_SOURCE,
            &super::super::product_swiglu::SOURCE,
            &super::super::product_weight::SOURCE,
            &super::super::product_wide::SOURCE,
            &super::super::convnext_mlp::SOURCE,
        ];
        for source in sources
            .chain(super::super::decode::sources())
            .chain(products)
            .chain(
                super::super::attention_hopper::SOURCES
                    .into_iter()
                    .flatten(),
            )
        {
            for dtype in [DType::F32, DType::BF16] {
                for architecture in ["sm_80", "sm_90"] {
                    compile(source, dtype, architecture).unwrap();
                }
            }
        }
    }
}
