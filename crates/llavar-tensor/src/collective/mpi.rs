//! `MpiCollective`: OpenMPI on CPUs, for f32 (and 32-bit integers where nothing is summed).
//!
//! Every operation is started without blocking and waited for with an eye on the other ranks, so that one
//! that is gone ends the wait.

use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Collective, Pending, Watch, check_root,
    mpi_library::{Handle, Mpi},
    part_len,
};
use crate::{DType, Device, Error, Result, Tensor, memory::Buffer};

/// Tests of a request before the wait lets others have the processor.
const SPINS: usize = 50;
const PAUSE: Duration = Duration::from_micros(20);
/// How long ranks may be apart while all of them live.
const PATIENCE: Duration = Duration::from_secs(1800);

/// All ranks that `mpirun` or `srun` started.
pub(super) struct MpiCollective {
    mpi: Mutex<Mpi>,
    rank: usize,
    size: usize,
    watch: Watch,
}

impl std::fmt::Debug for MpiCollective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mpi rank {} of {}", self.rank, self.size)
    }
}

impl MpiCollective {
    /// Starts MPI. Possible once in a process.
    pub(super) fn start() -> Result<Self> {
        static STARTED: Mutex<bool> = Mutex::new(false);
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Err(Error::Collective {
                op: "start of MPI",
                reason: "MPI can be started once in a process, and was".into(),
            });
        }
        *started = true;
        let mpi = Mpi::start()?;
        Ok(Self {
            rank: mpi.rank,
            size: mpi.size,
            mpi: Mutex::new(mpi),
            watch: Watch::none(),
        })
    }

    /// Lets waits end when a rank is lost.
    pub(super) fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Starts an operation and waits for it. `tensors` are those that it reads or writes.
    fn run(
        &self,
        op: &'static str,
        tensors: &[&Tensor],
        start: impl FnOnce(&Mpi, *mut Handle) -> c_int,
    ) -> Result<()> {
        self.watch.check()?;
        let mpi = self.mpi.lock().unwrap_or_else(PoisonError::into_inner);
        let mut request: Handle = ptr::null_mut();
        mpi.check(op, start(&mpi, &mut request))?;
        let waited = self.wait(op, &mpi, &mut request);
        if waited.is_err() {
            // MPI may still write there, so the memory is never given to anybody else.
            tensors.iter().for_each(|t| std::mem::forget((*t).clone()));
        }
        waited
    }

    fn wait(&self, op: &'static str, mpi: &Mpi, request: &mut Handle) -> Result<()> {
        let (begun, mut tests) = (Instant::now(), 0usize);
        loop {
            let mut done: c_int = 0;
            // SAFETY: the request was started and is not finished; a null status means that none is wanted.
            let code = unsafe { (mpi.test)(request, &mut done, ptr::null_mut()) };
            mpi.check(op, code)?;
            if done != 0 {
                return Ok(());
            }
            tests += 1;
            if tests < SPINS {
                std::thread::yield_now();
                continue;
            }
            self.watch.check()?;
            if begun.elapsed() > PATIENCE {
                return Err(Error::Collective {
                    op,
                    reason: format!(
                        "rank {} waited {} s for the others, which live but do not come",
                        self.rank,
                        PATIENCE.as_secs()
                    ),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// MPI's name of a tensor's type, and its length.
    fn typed(&self, op: &'static str, tensor: &Tensor, sums: bool) -> Result<(bool, c_int)> {
        let is_float = match tensor.dtype() {
            DType::F32 => true,
            DType::I32 if !sums => false,
            got => {
                return Err(Error::DTypeMismatch {
                    op,
                    expected: DType::F32,
                    got,
                });
            }
        };
        let count = c_int::try_from(tensor.numel()).map_err(|_| Error::InvalidArgument {
            op,
            reason: format!("{} elements are more than MPI counts", tensor.numel()),
        })?;
        Ok((is_float, count))
    }
}

/// Address of the elements, for reading.
fn address(tensor: &Tensor) -> Result<*const c_void> {
    Ok(match tensor.dtype() {
        DType::I32 => tensor.data::<i32>()?.as_ptr().cast(),
        _ => tensor.data::<f32>()?.as_ptr().cast(),
    })
}

/// Address of the elements, for writing; shared ones are copied first.
fn address_mut(tensor: &mut Tensor) -> Result<*mut c_void> {
    Ok(match tensor.dtype() {
        DType::I32 => tensor.data_mut::<i32>()?.as_mut_ptr().cast(),
        _ => tensor.data_mut::<f32>()?.as_mut_ptr().cast(),
    })
}

impl Collective for MpiCollective {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn backend(&self) -> &'static str {
        "mpi"
    }
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        const OP: &str = "all_reduce";
        let (_, count) = self.typed(OP, tensor, true)?;
        let source = tensor.clone();
        let mut result =
            Tensor::from_buffer(Buffer::<f32>::unspecified(tensor.numel()), tensor.shape());
        let (from, to) = (address(&source)?, address_mut(&mut result)?);
        self.run(OP, &[&source, &result], |mpi, request| {
            // SAFETY: both tensors have `count` floats and stay where they are until the request is done.
            unsafe { (mpi.iallreduce)(from, to, count, mpi.float, mpi.sum, mpi.world, request) }
        })?;
        *tensor = result;
        Ok(())
    }

    fn all_gather(&self, part: &Tensor) -> Result<Pending> {
        const OP: &str = "all_gather";
        let (is_float, count) = self.typed(OP, part, false)?;
        let len = self.size * part.numel();
        let mut whole = match is_float {
            true => Tensor::from_buffer(Buffer::<f32>::unspecified(len), &[len]),
            false => Tensor::from_buffer(Buffer::<i32>::unspecified(len), &[len]),
        };
        let (from, to) = (address(part)?, address_mut(&mut whole)?);
        self.run(OP, &[part, &whole], |mpi, request| {
            let kind = if is_float { mpi.float } else { mpi.int };
            // SAFETY: the source has `count` elements and the result that many for every rank; both stay
            // where they are until the request is done.
            unsafe { (mpi.iallgather)(from, count, kind, to, count, kind, mpi.world, request) }
        })?;
        Ok(Pending::ready(whole))
    }

    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending> {
        const OP: &str = "reduce_scatter";
        let len = part_len(&whole, self.size)?;
        self.typed(OP, &whole, true)?;
        let mut part = Tensor::from_buffer(Buffer::<f32>::unspecified(len), &[len]);
        let (_, count) = self.typed(OP, &part, true)?;
        let (from, to) = (address(&whole)?, address_mut(&mut part)?);
        self.run(OP, &[&whole, &part], |mpi, request| {
            // SAFETY: the result has `count` floats and the source that many for every rank; both stay where
            // they are until the request is done.
            unsafe {
                (mpi.ireduce_scatter_block)(from, to, count, mpi.float, mpi.sum, mpi.world, request)
            }
        })?;
        Ok(Pending::ready(part))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        const OP: &str = "broadcast";
        check_root(root, self.size)?;
        let (is_float, count) = self.typed(OP, tensor, false)?;
        let to = address_mut(tensor)?;
        self.run(OP, &[tensor], |mpi, request| {
            let kind = if is_float { mpi.float } else { mpi.int };
            // SAFETY: the tensor has `count` elements and stays where it is until the request is done.
            unsafe { (mpi.ibcast)(to, count, kind, root as c_int, mpi.world, request) }
        })
    }

    fn barrier(&self) -> Result<()> {
        self.run("barrier", &[], |mpi, request| {
            // SAFETY: the communicator is the library's own.
            unsafe { (mpi.ibarrier)(mpi.world, request) }
        })
    }

    fn close(&self) -> Result<()> {
        self.barrier()?;
        let mpi = self.mpi.lock().unwrap_or_else(PoisonError::into_inner);
        mpi.finish()
    }
}
