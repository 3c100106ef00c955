//! OpenMPI's library, loaded at run time.
//!
//! MPI fixes names, not binary interfaces: in OpenMPI the predefined communicators, types and operations are
//! addresses of data symbols (`ompi_mpi_comm_world`), in MPICH and its relatives they are integers. We speak
//! OpenMPI (3 to 5) and say so where another is found.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::PathBuf,
    ptr,
};

use libloading::Library;

use crate::{Error, Result};

/// An opaque handle of OpenMPI: a pointer.
pub(super) type Handle = *mut c_void;

/// Names under which OpenMPI's library goes.
const FILES: [&str; 5] = [
    "libmpi.so.40",
    "libmpi.so",
    "/usr/lib/x86_64-linux-gnu/libmpi.so.40",
    "/usr/lib/aarch64-linux-gnu/libmpi.so.40",
    "/usr/lib64/openmpi/lib/libmpi.so.40",
];
const ADVICE: &str = "install OpenMPI (Debian: openmpi-bin and libopenmpi3; Fedora: openmpi), or name its \
                      library in LLAVAR_MPI_LIBRARY";
/// `MPI_THREAD_SERIALIZED`: any thread, one at a time.
const SERIALIZED: c_int = 2;
/// Room for an error text, beyond `MPI_MAX_ERROR_STRING` of every version.
const TEXT: usize = 1024;

type Status = *mut c_void;

/// The functions and constants that are used.
pub(super) struct Mpi {
    pub(super) world: Handle,
    pub(super) float: Handle,
    pub(super) int: Handle,
    pub(super) sum: Handle,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) iallreduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        c_int,
        Handle,
        Handle,
        Handle,
        *mut Handle,
    ) -> c_int,
    pub(super) iallgather: unsafe extern "C" fn(
        *const c_void,
        c_int,
        Handle,
        *mut c_void,
        c_int,
        Handle,
        Handle,
        *mut Handle,
    ) -> c_int,
    pub(super) ireduce_scatter_block: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        c_int,
        Handle,
        Handle,
        Handle,
        *mut Handle,
    ) -> c_int,
    pub(super) ibcast:
        unsafe extern "C" fn(*mut c_void, c_int, Handle, c_int, Handle, *mut Handle) -> c_int,
    pub(super) ibarrier: unsafe extern "C" fn(Handle, *mut Handle) -> c_int,
    pub(super) test: unsafe extern "C" fn(*mut Handle, *mut c_int, Status) -> c_int,
    finalize: unsafe extern "C" fn() -> c_int,
    error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
    /// Never unloaded: threads of its own may still run in it.
    _library: std::mem::ManuallyDrop<Library>,
}

// SAFETY: handles are addresses of static objects of the library; calls are serialised by the owner's mutex,
// which the thread level asked for allows from any thread.
unsafe impl Send for Mpi {}

impl Mpi {
    /// Loads the library and starts MPI, which is possible once in a process.
    pub(super) fn start() -> Result<Self> {
        let library = open()?;
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the symbol is the standard's function of this name, whose C signature the field's
                // type repeats; the library stays loaded as long as `self`.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(|e| missing(&e))?
            }};
        }
        let data = |name: &[u8]| -> Result<Handle> {
            // SAFETY: only the address of the object is taken; it is never read here.
            let symbol = unsafe { library.get::<*mut c_void>(name) };
            let symbol = symbol.map_err(|_| {
                missing(&"this MPI has no `ompi_` symbols: it is MPICH, Intel MPI or another relative, which are \
                          not supported")
            })?;
            // SAFETY: the address of a symbol may be looked at in any case.
            Ok(unsafe { symbol.into_raw() }.as_raw_ptr())
        };
        let world = data(b"ompi_mpi_comm_world\0")?;
        let errors_return = data(b"ompi_mpi_errors_return\0")?;
        let init: unsafe extern "C" fn(
            *mut c_int,
            *mut *mut *mut c_char,
            c_int,
            *mut c_int,
        ) -> c_int = function!("MPI_Init_thread");
        let set_errhandler: unsafe extern "C" fn(Handle, Handle) -> c_int =
            function!("MPI_Comm_set_errhandler");
        let comm_rank: unsafe extern "C" fn(Handle, *mut c_int) -> c_int =
            function!("MPI_Comm_rank");
        let comm_size: unsafe extern "C" fn(Handle, *mut c_int) -> c_int =
            function!("MPI_Comm_size");
        let mut mpi = Self {
            world,
            float: data(b"ompi_mpi_float\0")?,
            int: data(b"ompi_mpi_int\0")?,
            sum: data(b"ompi_mpi_op_sum\0")?,
            rank: 0,
            size: 1,
            iallreduce: function!("MPI_Iallreduce"),
            iallgather: function!("MPI_Iallgather"),
            ireduce_scatter_block: function!("MPI_Ireduce_scatter_block"),
            ibcast: function!("MPI_Ibcast"),
            ibarrier: function!("MPI_Ibarrier"),
            test: function!("MPI_Test"),
            finalize: function!("MPI_Finalize"),
            error_string: function!("MPI_Error_string"),
            _library: std::mem::ManuallyDrop::new(library),
        };
        let (mut provided, mut rank, mut size) = (0, 0, 0);
        // SAFETY: called once in a process (the caller sees to it), with null for the arguments of `main`,
        // which the standard allows, and valid out-pointers.
        unsafe {
            mpi.check(
                "start of MPI",
                init(ptr::null_mut(), ptr::null_mut(), SERIALIZED, &mut provided),
            )?;
            mpi.check("MPI's errors", set_errhandler(world, errors_return))?;
            mpi.check("MPI's rank", comm_rank(world, &mut rank))?;
            mpi.check("MPI's size", comm_size(world, &mut size))?;
        }
        if provided < SERIALIZED {
            return Err(missing(&"it was built without support for threads"));
        }
        mpi.rank = usize::try_from(rank).unwrap_or(0);
        mpi.size = usize::try_from(size).unwrap_or(1).max(1);
        Ok(mpi)
    }

    /// Ends MPI: nothing may be asked of it afterwards.
    pub(super) fn finish(&self) -> Result<()> {
        // SAFETY: MPI is running and nothing is under way; the owner calls this once.
        self.check("end of MPI", unsafe { (self.finalize)() })
    }

    /// Turns a result code into an error with MPI's own words.
    pub(super) fn check(&self, op: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let (mut text, mut len) = ([0 as c_char; TEXT], 0);
        // SAFETY: the buffer is longer than any version's longest text, which ends with a zero.
        let words = unsafe {
            match (self.error_string)(code, text.as_mut_ptr(), &mut len) {
                0 => CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
                _ => format!("code {code}"),
            }
        };
        Err(Error::Collective { op, reason: words })
    }
}

fn missing(why: &dyn std::fmt::Display) -> Error {
    Error::Collective {
        op: "MPI",
        reason: format!("{why}; {ADVICE}"),
    }
}

/// Opens the library so that its own modules find its symbols.
#[cfg(unix)]
fn open() -> Result<Library> {
    use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_NOW};
    let given = std::env::var_os("LLAVAR_MPI_LIBRARY").map(PathBuf::from);
    let files = match given {
        Some(path) => vec![path],
        None => FILES.iter().map(PathBuf::from).collect(),
    };
    let mut first = None;
    for file in files {
        // SAFETY: loading an MPI library, whose initialisers have no precondition.
        match unsafe { Unix::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => return Ok(library.into()),
            Err(error) => first.get_or_insert(error),
        };
    }
    let why = first.map_or(String::new(), |e| format!(" ({e})"));
    Err(missing(&format!("libmpi cannot be loaded{why}")))
}

#[cfg(not(unix))]
fn open() -> Result<Library> {
    Err(missing(
        &"MPI is supported on Linux and its relatives alone",
    ))
}
