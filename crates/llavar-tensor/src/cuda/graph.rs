//! Work that is recorded once and queued again with one call.

use std::sync::Arc;

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

impl Cuda {
    /// Records what `f` asks for on this thread instead of doing it. `f` must not allocate, wait or read
    /// back, so it has to have run once before: kernels are then loaded and plans of products made.
    ///
    /// # Errors
    /// Those of `f`, or when something in it cannot be recorded.
    pub(crate) fn capture(self: &Arc<Self>, f: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.bind()?;
        let mode = cu::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let (mut graph, mut run) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is alive; a capture that has begun is ended whatever `f` returns.
        let recorded = unsafe {
            check(
                cu::cuStreamBeginCapture_v2(self.stream(), mode),
                "begin a graph",
            )?;
            let asked = f();
            let ended = check(
                cu::cuStreamEndCapture(self.stream(), &mut graph),
                "end a graph",
            );
            asked.and(ended)
        };
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
        // SAFETY: made by `capture`; its owner keeps what it touches.
        check(
            unsafe { cu::cuGraphLaunch(self.run, self.cuda.stream()) },
            "launch a graph",
        )
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
