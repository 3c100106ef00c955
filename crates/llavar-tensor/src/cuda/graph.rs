//! Work that is recorded once and queued again with one call.

use std::{cell::Cell, sync::Arc};

use cudarc::driver::sys as cu;

use super::{Cuda, context::check};
use crate::Result;

/// A recorded run of kernels and copies, with the addresses that they had.
///
/// Whoever keeps it keeps everything that the run touches in place: a tensor that is freed or moves in
/// memory makes it useless.
pub(crate) struct Graph {
    cuda: Arc<Cuda>,
    run: cu::CUgraphExec,
    nodes: usize,
}

// SAFETY: the driver's calls on a graph are thread-safe as long as one thread at a time launches it, which
// `&mut self` of its owners sees to.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.nodes).finish()
    }
}

thread_local! {
    /// The stream that this thread records on.
    static RECORDING: Cell<Option<cu::CUstream>> = const { Cell::new(None) };
}

/// The stream that takes this thread's work while it records.
pub(super) fn recording() -> Option<cu::CUstream> {
    RECORDING.get()
}

/// A stream for one recording. Other threads go on with the device's own, so that nothing of theirs gets
/// into the graph.
struct Recording(cu::CUstream);

impl Recording {
    fn new() -> Result<Self> {
        let mut stream = std::ptr::null_mut();
        let kind = cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: valid out-pointer; the caller has made the context current.
        check(unsafe { cu::cuStreamCreate(&mut stream, kind) }, "stream")?;
        RECORDING.set(Some(stream));
        Ok(Self(stream))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDING.set(None);
        // SAFETY: made by `new`, destroyed once, after the recording has ended.
        let _ = unsafe { cu::cuStreamDestroy_v2(self.0) };
    }
}

impl Cuda {
    /// Records what `f` asks for on this thread instead of doing it. `f` must not allocate, wait or read
    /// back, so it has to have run once before: kernels are then loaded and plans of products made.
    ///
    /// # Errors
    /// Those of `f`, or when something in it cannot be recorded.
    pub(crate) fn capture(self: &Arc<Self>, f: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.bind()?;
        let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let stream = Recording::new()?;
        let (mut graph, mut run) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is alive; a capture that has begun is ended whatever `f` returns.
        let recorded = unsafe {
            check(cu::cuStreamBeginCapture_v2(stream.0, mode), "begin a graph")?;
            let asked = f();
            let ended = check(cu::cuStreamEndCapture(stream.0, &mut graph), "end a graph");
            asked.and(ended)
        };
        drop(stream);
        let mut nodes = 0;
        // SAFETY: `graph` is null or a graph of our own, destroyed once; the runnable form does not need it.
        let made = unsafe {
            let made = recorded.and_then(|()| {
                check(
                    cu::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes),
                    "graph",
                )?;
                check(
                    cu::cuGraphInstantiateWithFlags(&mut run, graph, 0),
                    "make a graph",
                )
            });
            if !graph.is_null() {
                let _ = cu::cuGraphDestroy(graph);
            }
            made
        };
        made.map(|()| Graph {
            cuda: self.clone(),
            run,
            nodes,
        })
    }
}

impl Graph {
    /// Queues the recorded run.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.cuda.bind()?;
        let stream = self.cuda.stream();
        self.cuda.gemm.between_products(|| {
            // SAFETY: made by `capture`; its owner keeps what it touches.
            check(
                unsafe { cu::cuGraphLaunch(self.run, stream) },
                "launch a graph",
            )
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: destroyed once; the driver keeps it until queued launches are done.
            let _ = unsafe { cu::cuGraphExecDestroy(self.run) };
        }
    }
}
