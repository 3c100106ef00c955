//! `NcclCollective`: NCCL between GPUs, on a stream of its own.
//!
//! An operation waits (on the device) for what was queued before it, and what is queued after
//! [`Pending::wait`] waits for the operation; in between both go on side by side.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cudarc::driver::sys::{self as cu};
use libloading::Library;

use super::{Cuda, context::check, libraries, measure::EXCHANGE_WAIT};
use crate::{
    DType, Device, Error, Result, Tensor,
    collective::{Collective, Fence, Launch, Pending, Watch},
};

type Comm = *mut c_void;
type Stream = cu::CUstream;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; 128]);

/// `ncclSum`.
const SUM: c_int = 0;

/// The functions that are used; their signatures have not changed since NCCL 2.10.
struct Functions {
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    comm_init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    comm_abort: unsafe extern "C" fn(Comm) -> c_int,
    comm_destroy: unsafe extern "C" fn(Comm) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Comm,
        Stream,
    ) -> c_int,
    all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> c_int,
    reduce_scatter: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Comm,
        Stream,
    ) -> c_int,
    broadcast: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        Comm,
        Stream,
    ) -> c_int,
    /// Never unloaded: threads of its own may still run in it.
    _library: std::mem::ManuallyDrop<Library>,
}

/// A communicator, aborted or destroyed once.
struct Handle {
    nccl: Functions,
    comm: Mutex<Option<Comm>>,
    /// The communicator as a number, for the operations, which do not take the lock: an abort must be
    /// possible while one of them waits.
    address: usize,
    /// Whether the communicator is given up; no operation begins any more.
    is_given_up: AtomicBool,
    /// Whether an operation is being queued.
    in_call: AtomicBool,
}

/// How long an abort waits for an operation that is being queued; one that blocks comes free by the abort alone.
const LAST_CALL: Duration = Duration::from_millis(100);

// SAFETY: NCCL allows calls on one communicator from several threads as long as one at a time queues
// operations, which `NcclCollective::queue` sees to; an abort is allowed while one is under way, and none begins
// after it (`Handle::call`).
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// All ranks, each with its GPU.
pub(crate) struct NcclCollective {
    cuda: Arc<Cuda>,
    handle: Arc<Handle>,
    stream: CommStream,
    queue: Mutex<()>,
    rank: usize,
    size: usize,
    watch: Watch,
}

/// The stream that operations run on.
struct CommStream(Stream);

// SAFETY: the driver's calls on a stream are thread-safe.
unsafe impl Send for CommStream {}
// SAFETY: as above.
unsafe impl Sync for CommStream {}

impl std::fmt::Debug for NcclCollective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nccl rank {} of {}", self.rank, self.size)
    }
}

impl Functions {
    fn load() -> Result<Self> {
        let library = libraries::nccl()?;
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the symbol is NCCL's function of this name, whose C signature the field's type
                // repeats; the library stays loaded as long as `self`.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(|e| {
                    Error::Collective {
                        op: "NCCL",
                        reason: format!("{e}; NCCL 2.10 or later is needed"),
                    }
                })?
            }};
        }
        Ok(Self {
            get_unique_id: function!("ncclGetUniqueId"),
            comm_init_rank: function!("ncclCommInitRank"),
            comm_abort: function!("ncclCommAbort"),
            comm_destroy: function!("ncclCommDestroy"),
            get_error_string: function!("ncclGetErrorString"),
            all_reduce: function!("ncclAllReduce"),
            all_gather: function!("ncclAllGather"),
            reduce_scatter: function!("ncclReduceScatter"),
            broadcast: function!("ncclBroadcast"),
            _library: std::mem::ManuallyDrop::new(library),
        })
    }

    fn check(&self, op: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NCCL returns a static string for every code.
        let words = unsafe { CStr::from_ptr((self.get_error_string)(code)) };
        Err(Error::Collective {
            op,
            reason: format!(
                "{} (NCCL code {code}; NCCL_DEBUG=WARN tells more)",
                words.to_string_lossy()
            ),
        })
    }
}

impl Handle {
    /// Ends all operations that are under way, so that nobody waits for them.
    fn abort(&self) {
        let taken = self
            .comm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(comm) = taken {
            self.is_given_up.store(true, SeqCst);
            let end = Instant::now() + LAST_CALL;
            while self.in_call.load(SeqCst) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            // SAFETY: made by `ncclCommInitRank`, given up once.
            let _ = unsafe { (self.nccl.comm_abort)(comm) };
        }
    }
}

impl Handle {
    /// Calls `f`, unless the communicator is given up. One thread at a time.
    fn call(&self, op: &'static str, f: impl FnOnce(&Functions, Comm) -> c_int) -> Result<()> {
        // In this order on both sides: either this sees the abort, or the abort sees this call.
        self.in_call.store(true, SeqCst);
        let done = match self.is_given_up.load(SeqCst) {
            false => self.nccl.check(op, f(&self.nccl, self.address as Comm)),
            true => Err(Error::Collective {
                op,
                reason: "the ranks have parted".into(),
            }),
        };
        self.in_call.store(false, SeqCst);
        done
    }
}

impl NcclCollective {
    /// Comes together with the other ranks; `share` gives every rank what rank 0 gave.
    pub(crate) fn join(
        cuda: &Arc<Cuda>,
        launch: &Launch,
        share: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
        watch: Watch,
    ) -> Result<Self> {
        let nccl = Functions::load()?;
        let mut id = UniqueId([0; 128]);
        if launch.rank == 0 {
            // SAFETY: valid out-pointer.
            nccl.check("NCCL id", unsafe { (nccl.get_unique_id)(&mut id) })?;
        }
        let shared = share(&id.0.map(|c| c as u8))?;
        for (own, byte) in id.0.iter_mut().zip(shared) {
            *own = byte as c_char;
        }
        cuda.bind()?;
        let (mut comm, mut stream) = (ptr::null_mut(), ptr::null_mut());
        let kind = cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: valid out-pointers; the context is current; every rank makes this call with its number.
        unsafe {
            check(cu::cuStreamCreate(&mut stream, kind), "stream")?;
            let (size, rank) = (launch.size as c_int, launch.rank as c_int);
            nccl.check(
                "NCCL start",
                (nccl.comm_init_rank)(&mut comm, size, id, rank),
            )?;
        }
        let handle = Arc::new(Handle {
            nccl,
            comm: Mutex::new(Some(comm)),
            address: comm as usize,
            is_given_up: AtomicBool::new(false),
            in_call: AtomicBool::new(false),
        });
        let victim = Arc::clone(&handle);
        watch.on_loss(move |_| victim.abort());
        Ok(Self {
            cuda: cuda.clone(),
            handle,
            stream: CommStream(stream),
            queue: Mutex::new(()),
            rank: launch.rank,
            size: launch.size,
            watch,
        })
    }

    /// Queues `f` behind what the device has been asked for; the fence stands behind it.
    fn run(
        &self,
        op: &'static str,
        f: impl FnOnce(&Functions, Comm, Stream) -> c_int,
    ) -> Result<Box<dyn Fence>> {
        self.watch.check()?;
        self.cuda.bind()?;
        let _one = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Event::record(&self.cuda, self.cuda.stream())?;
        before.hold(self.stream.0)?;
        let called = self.cuda.mark_exchange(op, self.stream.0, || {
            self.handle
                .call(op, |nccl, comm| f(nccl, comm, self.stream.0))
        });
        // A lost rank is the better reason.
        called.or_else(|error| self.watch.check().and(Err(error)))?;
        Ok(Box::new(Event::record(&self.cuda, self.stream.0)?))
    }

    fn typed(&self, op: &'static str, tensor: &Tensor) -> Result<c_int> {
        if tensor.device() != Device::Cuda(self.cuda.clone()) {
            return Err(Error::DeviceMismatch {
                op,
                expected: format!("cuda:{}", self.cuda.ordinal()),
                got: tensor.device().to_string(),
            });
        }
        Ok(match tensor.dtype() {
            DType::I32 => 2,
            DType::F16 => 6,
            DType::F32 => 7,
            DType::BF16 => 9,
            DType::Nf4 => {
                return Err(Error::DTypeMismatch {
                    op,
                    expected: DType::F32,
                    got: DType::Nf4,
                });
            }
        })
    }
}

impl Collective for NcclCollective {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn backend(&self) -> &'static str {
        "nccl"
    }
    fn device(&self) -> Device {
        Device::Cuda(self.cuda.clone())
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()> {
        const OP: &str = "all_reduce";
        let (kind, count) = (self.typed(OP, tensor)?, tensor.numel());
        let address = tensor.cuda_address_mut()?;
        let (from, to) = (address as *const c_void, address as *mut c_void);
        let mut fence = self.run(OP, |nccl, comm, stream| {
            // SAFETY: the tensor has `count` elements of this type on this device; NCCL works in place, and the
            // fence below keeps later work of the device behind it.
            unsafe { (nccl.all_reduce)(from, to, count, kind, SUM, comm, stream) }
        })?;
        fence.pass()
    }

    fn all_gather(&self, part: &Tensor) -> Result<Pending> {
        const OP: &str = "all_gather";
        let (kind, count) = (self.typed(OP, part)?, part.numel());
        let mut whole = self.cuda.empty(&[self.size * count], part.dtype())?;
        let (from, to) = (part.cuda_address()?, whole.cuda_address_mut()?);
        let fence = self.run(OP, |nccl, comm, stream| {
            // SAFETY: the source has `count` elements and the result that many for every rank; `Pending` keeps
            // both until the operation is over.
            unsafe {
                (nccl.all_gather)(
                    from as *const c_void,
                    to as *mut c_void,
                    count,
                    kind,
                    comm,
                    stream,
                )
            }
        })?;
        Ok(Pending::behind(whole, part.clone(), fence))
    }

    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending> {
        const OP: &str = "reduce_scatter";
        let count = crate::collective::part_len(&whole, self.size)?;
        let kind = self.typed(OP, &whole)?;
        let mut part = self.cuda.empty(&[count], whole.dtype())?;
        let (from, to) = (whole.cuda_address()?, part.cuda_address_mut()?);
        let fence = self.run(OP, |nccl, comm, stream| {
            // SAFETY: the result has `count` elements and the source that many for every rank; `Pending` keeps
            // both until the operation is over.
            unsafe {
                let (from, to) = (from as *const c_void, to as *mut c_void);
                (nccl.reduce_scatter)(from, to, count, kind, SUM, comm, stream)
            }
        })?;
        Ok(Pending::behind(part, whole, fence))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        const OP: &str = "broadcast";
        crate::collective::check_root(root, self.size)?;
        let (kind, count) = (self.typed(OP, tensor)?, tensor.numel());
        let address = tensor.cuda_address_mut()?;
        let mut fence = self.run(OP, |nccl, comm, stream| {
            let (from, to) = (address as *const c_void, address as *mut c_void);
            // SAFETY: as for `all_reduce`.
            unsafe { (nccl.broadcast)(from, to, count, kind, root as c_int, comm, stream) }
        })?;
        fence.pass()
    }

    fn barrier(&self) -> Result<()> {
        let mut one = self.cuda.zeros(&[1], DType::F32)?;
        self.all_reduce(&mut one)?;
        let waited = self.cuda.synchronize();
        // A lost rank aborts the operation, which then looks done.
        self.watch.check()?;
        waited
    }

    fn close(&self) -> Result<()> {
        self.barrier()
    }
}

impl Drop for NcclCollective {
    fn drop(&mut self) {
        let taken = self
            .handle
            .comm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if self.cuda.bind().is_err() {
            return;
        }
        // SAFETY: communicator and stream were made by `join` and are given up once. After a loss the other
        // side will not take part in an orderly end.
        unsafe {
            if let Some(comm) = taken {
                let _ = match self.watch.check() {
                    Ok(()) => (self.handle.nccl.comm_destroy)(comm),
                    Err(_) => (self.handle.nccl.comm_abort)(comm),
                };
            }
            let _ = cu::cuStreamDestroy_v2(self.stream.0);
        }
    }
}

/// A point in a stream.
struct Event {
    cuda: Arc<Cuda>,
    event: cu::CUevent,
}

// SAFETY: the driver's calls on an event are thread-safe.
unsafe impl Send for Event {}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("event")
    }
}

impl Event {
    /// Behind everything that `stream` has been asked for.
    fn record(cuda: &Arc<Cuda>, stream: Stream) -> Result<Self> {
        let mut event = ptr::null_mut();
        let flags = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: valid out-pointer, a live stream, and the caller has made the context current.
        unsafe {
            check(cu::cuEventCreate(&mut event, flags), "event")?;
            let made = Self {
                cuda: cuda.clone(),
                event,
            };
            check(cu::cuEventRecord(event, stream), "event")?;
            Ok(made)
        }
    }

    /// Lets `stream` wait for it.
    fn hold(&self, stream: Stream) -> Result<()> {
        // SAFETY: event and stream are alive.
        check(
            unsafe { cu::cuStreamWaitEvent(stream, self.event, 0) },
            "event",
        )
    }
}

impl Fence for Event {
    fn pass(&mut self) -> Result<()> {
        self.cuda.bind()?;
        self.hold(self.cuda.stream())?;
        self.cuda.mark(|| EXCHANGE_WAIT.to_owned())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `record`, destroyed once; the driver keeps it until it has happened.
        let _ = unsafe { cu::cuEventDestroy_v2(self.event) };
    }
}
