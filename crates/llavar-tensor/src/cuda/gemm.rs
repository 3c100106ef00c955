//! Matrix products by cuBLASLt, plans cached by shape; where tiles of our own fill the card better, by those
//! (`product_wide`).
//!
//! Everything here is row-major; cuBLASLt counts by columns, so it computes the transposed product with
//! the operands exchanged. Products accumulate in f32. Algorithms that add up partial results in an
//! order of chance are excluded, so that results are the same in every run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::cublaslt::{
    result as lt,
    sys::{
        self as ls, cublasLtEpilogue_t as Epi, cublasLtMatmulDescAttributes_t as Desc,
        cublasLtMatmulPreferenceAttributes_t as Pref,
    },
};

mod fp8;
mod proposals;

use super::Cuda;
use crate::{DType, Error, Result, Tensor, cpu::Layout, fp8::Fp8Format};

/// Scratch memory of the products, bytes.
static WORKSPACE: usize = 64 << 20;

/// No reduction in place: its order depends on timing (bit 1 of the mask).
static REDUCTIONS: u32 = 0b110;

/// What is added to a product.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// `[n]`, added to every row, of the output's type.
    pub(crate) bias: Option<&'a Tensor>,
    /// `[m, n]`, added to the product.
    pub(crate) residual: Option<&'a Tensor>,
}

/// What a product does beside multiplying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Extra {
    None,
    /// Adds a vector to every row.
    Bias,
    /// Sums the first operand of a weight gradient over its rows.
    Sums,
}

/// Element types of both operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operands {
    Both(DType),
    /// Of a and b, with a scale each; `fast` sums in the tensor cores without leaving them for full f32.
    Fp8 {
        formats: [Fp8Format; 2],
        fast: bool,
    },
}

impl std::fmt::Display for Operands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Both(dtype) => write!(f, "{dtype}"),
            Self::Fp8 {
                formats: [a, b], ..
            } => write!(f, "{a} and {b}"),
        }
    }
}

impl Operands {
    /// As the library calls them.
    fn kinds(self) -> Result<[ls::cudaDataType; 2]> {
        Ok(match self {
            Self::Both(dtype) => [data_type(dtype)?; 2],
            Self::Fp8 { formats, .. } => formats.map(|format| match format {
                Fp8Format::E4M3 => ls::cudaDataType::CUDA_R_8F_E4M3,
                Fp8Format::E5M2 => ls::cudaDataType::CUDA_R_8F_E5M2,
            }),
        })
    }
}

/// Everything that a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    layout: Layout,
    sizes: [usize; 3],
    input: Operands,
    output: DType,
    extra: Extra,
    added: bool,
    /// Largest power of two (up to 256) that divides the addresses of a, b, c and d.
    alignment: [u32; 4],
}

#[derive(Clone, Copy)]
struct Plan {
    desc: ls::cublasLtMatmulDesc_t,
    a: ls::cublasLtMatrixLayout_t,
    b: ls::cublasLtMatrixLayout_t,
    c: ls::cublasLtMatrixLayout_t,
    algo: ls::cublasLtMatmulAlgo_t,
}

/// Handle, scratch memory and plans.
pub(super) struct Gemm {
    handle: ls::cublasLtHandle_t,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: the library has no algorithm for it.
    plans: HashMap<Key, Option<Plan>>,
    workspace: u64,
}

impl Gemm {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            handle: lt::create_handle().map_err(|e| Error::NoDevice {
                reason: format!("cuBLASLt does not start: {e:?}"),
            })?,
            state: Mutex::default(),
        })
    }
}

impl Cuda {
    /// `c = a b (+ beta c)` in the given layout, with sizes as [`crate::cpu::gemm`] takes them. `beta` is 0
    /// or 1.
    pub(crate) fn gemm(
        self: &Arc<Self>,
        layout: Layout,
        [m, n, k]: [usize; 3],
        a: &Tensor,
        b: &Tensor,
        c: &mut Tensor,
        beta: f32,
    ) -> Result<()> {
        self.gemm_epilogue(layout, [m, n, k], a, b, c, beta, Epilogue::default())
    }

    /// As [`Cuda::gemm`], with a bias or a residual (not together with `beta = 1`).
    pub(crate) fn gemm_epilogue(
        self: &Arc<Self>,
        layout: Layout,
        [m, n, k]: [usize; 3],
        a: &Tensor,
        b: &Tensor,
        c: &mut Tensor,
        beta: f32,
        epilogue: Epilogue<'_>,
    ) -> Result<()> {
        if a.numel() < m * k || b.numel() < k * n || c.numel() < m * n || a.dtype() != b.dtype() {
            return Err(Error::InvalidArgument {
                op: "matrix product",
                reason: format!(
                    "{:?} {} times {:?} {} into {:?} is no [{m}, {k}] times [{k}, {n}]",
                    a.shape(),
                    a.dtype(),
                    b.shape(),
                    b.dtype(),
                    c.shape()
                ),
            });
        }
        if m * n == 0 {
            return Ok(());
        }
        if k == 0 && beta == 0.0 {
            self.clear(c)?;
        }
        if k == 0 {
            return Ok(());
        }
        if self.product_wide(layout, [m, n, k], [a, b], c, beta, epilogue)? {
            return Ok(());
        }
        let (pa, pb, pd) = (a.cuda_address()?, b.cuda_address()?, c.cuda_address_mut()?);
        let pc = match epilogue.residual {
            Some(residual) => residual.cuda_address()?,
            None => pd,
        };
        let beta = if epilogue.residual.is_some() {
            1.0
        } else {
            beta
        };
        let key = Key {
            layout,
            sizes: [m, n, k],
            input: Operands::Both(a.dtype()),
            output: c.dtype(),
            extra: match epilogue.bias {
                Some(_) => Extra::Bias,
                None => Extra::None,
            },
            added: beta != 0.0,
            alignment: [align(pa), align(pb), align(pc), align(pd)],
        };
        let bias = match epilogue.bias {
            Some(bias) => bias.cuda_address()?,
            None => 0,
        };
        let operands = [pa, pb, pc, pd];
        let plan = self.plan(key)?;
        let plan = plan.ok_or_else(|| failed(key, "no algorithm".into()))?;
        self.run(key, plan, operands, bias, [0; 2], beta)
    }

    /// `c = a^T b + beta c` and `sums = sum over rows of a`, with `a [k, m]`, `b [k, n]`, `sums [m]` of the
    /// type of `c`. Whether the library can; nothing is done where it cannot.
    pub(crate) fn gemm_with_sums(
        self: &Arc<Self>,
        [m, n, k]: [usize; 3],
        a: &Tensor,
        b: &Tensor,
        c: &mut Tensor,
        beta: f32,
        sums: &mut Tensor,
    ) -> Result<bool> {
        let fits = a.numel() == m * k
            && b.numel() == k * n
            && c.numel() == m * n
            && sums.numel() == m
            && a.dtype() == b.dtype()
            && c.dtype() == sums.dtype();
        if !fits || m * n * k == 0 || a.dtype() != DType::BF16 {
            return Ok(false);
        }
        let (pa, pb, pd) = (a.cuda_address()?, b.cuda_address()?, c.cuda_address_mut()?);
        let sums = sums.cuda_address_mut()?;
        let key = Key {
            layout: Layout::TN,
            sizes: [m, n, k],
            input: Operands::Both(a.dtype()),
            output: c.dtype(),
            extra: Extra::Sums,
            added: beta != 0.0,
            alignment: [align(pa), align(pb), align(pd), align(pd)],
        };
        let Some(plan) = self.plan(key)? else {
            return Ok(false);
        };
        self.run(key, plan, [pa, pb, pd, pd], sums, [0; 2], beta)?;
        Ok(true)
    }

    /// The plan for a shape, made on first use.
    fn plan(&self, key: Key) -> Result<Option<Plan>> {
        self.bind()?;
        let mut state = self.gemm.lock();
        if state.workspace == 0 {
            // Taken for good, outside of pool and arenas: captured graphs hold its address.
            // SAFETY: valid out-pointer.
            super::context::check(
                unsafe { cudarc::driver::sys::cuMemAlloc_v2(&mut state.workspace, WORKSPACE) },
                "workspace of the matrix products",
            )?;
        }
        if let Some(plan) = state.plans.get(&key) {
            return Ok(*plan);
        }
        drop(state);
        let plan = match self.gemm.plan(key, self.info().is_hopper()) {
            Ok(plan) => Some(plan),
            // There are other ways to a sum.
            Err(_) if key.extra == Extra::Sums => None,
            Err(error) => return Err(error),
        };
        self.gemm.lock().plans.insert(key, plan);
        Ok(plan)
    }

    /// Queues a product; `vector` is the bias or takes the sums, `scales` are those of FP8 operands.
    fn run(
        &self,
        key: Key,
        plan: Plan,
        [pa, pb, pc, pd]: [u64; 4],
        vector: u64,
        scales: [u64; 2],
        beta: f32,
    ) -> Result<()> {
        let state = self.gemm.lock();
        let one = 1.0f32;
        // SAFETY: the plan describes exactly these operands, whose sizes were checked; the lock is held
        // because the addresses of vector and scales are part of the shared description.
        unsafe {
            if key.extra != Extra::None {
                set_desc(plan.desc, Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &vector)?;
            }
            if matches!(key.input, Operands::Fp8 { .. }) {
                set_scales(plan.desc, scales)?;
            }
            lt::matmul(
                self.gemm.handle,
                plan.desc,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pb as _,
                plan.a,
                pa as _,
                plan.b,
                pc as _,
                plan.c,
                pd as _,
                plan.c,
                &plan.algo,
                state.workspace as _,
                WORKSPACE,
                self.stream().cast(),
            )
        }
        .map_err(|e| failed(key, format!("{e:?}")))?;
        let [m, n, k] = key.sizes;
        self.mark(|| {
            format!(
                "product {:?} {m} x {n} x {k} of {} into {}",
                key.layout, key.input, key.output
            )
        })
    }
}

/// Largest power of two up to 256 that divides an address.
fn align(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Gemm {
    /// Queues work that has products of its own. One product may be two kernels, which hand sums over in the
    /// workspace of all products: nothing else that writes there may come between them, whatever thread asks.
    pub(super) fn between_products<R>(&self, queue: impl FnOnce() -> R) -> R {
        let _held = self.lock();
        queue()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan for a shape. Timing several algorithms would stop the stream for every new number of tokens.
    fn plan(&self, key: Key, hopper: bool) -> Result<Plan> {
        let [m, n, k] = key.sizes;
        // As columns: D [n, m] = op(B) [n, k] op(A) [k, m].
        let (b_shape, b_transposed) = match key.layout {
            Layout::NT => ((k, n), true),
            Layout::NN | Layout::TN => ((n, k), false),
        };
        let (a_shape, a_transposed) = match key.layout {
            Layout::TN => ((m, k), true),
            Layout::NT | Layout::NN => ((k, m), false),
        };
        let error = |e: &dyn std::fmt::Debug| failed(key, format!("{e:?}"));
        // SAFETY: descriptors live as long as the plan, that is for good; attribute sizes are those of the
        // values given.
        unsafe {
            let desc = lt::create_matmul_desc(
                ls::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                ls::cudaDataType::CUDA_R_32F,
            )
            .map_err(|e| error(&e))?;
            set_desc(
                desc,
                Desc::CUBLASLT_MATMUL_DESC_TRANSA,
                &i32::from(b_transposed),
            )?;
            set_desc(
                desc,
                Desc::CUBLASLT_MATMUL_DESC_TRANSB,
                &i32::from(a_transposed),
            )?;
            if key.extra != Extra::None {
                let epilogue = match key.extra {
                    Extra::Sums => Epi::CUBLASLT_EPILOGUE_BGRADB,
                    _ => Epi::CUBLASLT_EPILOGUE_BIAS,
                };
                set_desc(desc, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
                let kind = data_type(key.output)?;
                set_desc(desc, Desc::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &kind)?;
            }
            if let Operands::Fp8 { fast, .. } = key.input {
                let fast = i8::from(fast);
                set_desc(desc, Desc::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast)?;
                // There is a scale; where it is each call says.
                set_scales(desc, [self.lock().workspace; 2])?;
            }
            let matrix = |kind, (rows, columns): (usize, usize)| {
                lt::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64)
                    .map_err(|e| failed(key, format!("{e:?}")))
            };
            let [of_a, of_b] = key.input.kinds()?;
            let (a, b) = (matrix(of_b, b_shape)?, matrix(of_a, a_shape)?);
            let c = matrix(data_type(key.output)?, (n, m))?;
            let preference = lt::create_matmul_pref().map_err(|e| error(&e))?;
            let set = |what, value: *const std::ffi::c_void, size| {
                lt::set_matmul_pref_attribute(preference, what, value, size)
                    .map_err(|e| failed(key, format!("{e:?}")))
            };
            set(
                Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const WORKSPACE).cast(),
                8,
            )?;
            set(
                Pref::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (&raw const REDUCTIONS).cast(),
                4,
            )?;
            let [of_a, of_b, of_c, of_d] = key.alignment;
            for (what, bytes) in [
                (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_b),
                (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_a),
                (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_c),
                (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_d),
            ] {
                set(what, (&raw const bytes).cast(), 4)?;
            }
            let measured = hopper && key.input == Operands::Both(DType::BF16);
            let found = proposals::algorithm(self.handle, desc, [a, b, c], preference, measured)
                .map_err(|e| failed(key, format!("no algorithm: {e:?}")));
            let _ = lt::destroy_matmul_pref(preference);
            let algo = found?;
            Ok(Plan {
                desc,
                a,
                b,
                c,
                algo,
            })
        }
    }
}

/// Sets where the scales of FP8 operands are, `[a, b]` as we count them.
///
/// # Safety
/// `desc` is alive.
unsafe fn set_scales(desc: ls::cublasLtMatmulDesc_t, [a, b]: [u64; 2]) -> Result<()> {
    // SAFETY: the caller's promise; both attributes are addresses. The library has the operands exchanged.
    unsafe {
        set_desc(desc, Desc::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &b)?;
        set_desc(desc, Desc::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a)
    }
}

/// Sets one attribute of a product.
///
/// # Safety
/// `desc` is alive and `value` has the type that the library documents for `what`.
unsafe fn set_desc<T>(desc: ls::cublasLtMatmulDesc_t, what: Desc, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { lt::set_matmul_desc_attribute(desc, what, (value as *const T).cast(), size_of::<T>()) }
        .map_err(|e| Error::Cuda {
            op: "matrix product",
            reason: format!("{what:?}: {e:?}"),
        })
}

fn data_type(dtype: DType) -> Result<ls::cudaDataType> {
    match dtype {
        DType::F32 => Ok(ls::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(ls::cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(ls::cudaDataType::CUDA_R_16F),
        DType::I32 | DType::Nf4 => Err(Error::DTypeMismatch {
            op: "matrix product",
            expected: DType::F32,
            got: dtype,
        }),
    }
}

fn failed(key: Key, reason: String) -> Error {
    let [m, n, k] = key.sizes;
    Error::Cuda {
        op: "matrix product",
        reason: format!(
            "[{m}, {k}] times [{k}, {n}] ({:?}) of {} into {}: {reason}",
            key.layout, key.input, key.output
        ),
    }
}
