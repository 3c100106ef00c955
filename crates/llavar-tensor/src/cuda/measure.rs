//! Time on the device, and its two ceilings: matrix products and copies.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys as cu;

use super::{Cuda, context::check};
use crate::{DType, Error, Result, cpu::Layout};

impl Cuda {
    /// Milliseconds that the device needs for one call of `f`: the median of `runs` after two runs to warm
    /// up, each between two events on the stream.
    ///
    /// # Errors
    /// Those of `f`, and of the device.
    pub fn time<E: From<Error>>(
        &self,
        runs: usize,
        mut f: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<f64, E> {
        for _ in 0..2 {
            f()?;
        }
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs.max(1) {
            let (start, end) = (Event::new(self)?, Event::new(self)?);
            start.record(self.stream())?;
            f()?;
            end.record(self.stream())?;
            times.push(start.milliseconds_until(&end)?);
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
    }

    /// Rate of a bf16 product `[m, k] x [k, n]` on random values, TFLOP/s.
    ///
    /// # Errors
    /// Those of the device.
    pub fn matmul_rate(self: &Arc<Self>, m: usize, n: usize, k: usize) -> Result<f64> {
        let noise = |len: usize, seed: u32| -> Result<_> {
            // A small generator suffices: products on zeros run faster than on real values.
            let mut state = seed;
            let block: Vec<half::bf16> = (0..1 << 16)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    half::bf16::from_f32(f32::from((state >> 16) as i16) / 32768.0)
                })
                .collect();
            let data: Vec<_> = block.iter().copied().cycle().take(len).collect();
            self.upload(&data, &[len])
        };
        let (a, b) = (noise(m * k, 1)?, noise(n * k, 2)?);
        let mut c = self.empty(&[m, n], DType::BF16)?;
        // By cuBLASLt or a kernel of our own, whichever large products take.
        let ms = self.time(10, || self.gemm(Layout::NT, [m, n, k], &a, &b, &mut c, 0.0))?;
        Ok(2.0 * (m * n * k) as f64 / ms / 1e9)
    }

    /// Rate of a copy within the device, bytes read plus bytes written, TB/s.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy_rate(self: &Arc<Self>, bytes: usize) -> Result<f64> {
        let from = self.zeros(&[bytes / 4], DType::F32)?;
        let mut to = self.empty(&[bytes / 4], DType::F32)?;
        let ms = self.time(10, || self.copy(&from, &mut to))?;
        Ok(2.0 * bytes as f64 / ms / 1e9)
    }
}

/// Device time of the work of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Kernel, or product with its sizes.
    pub name: String,
    /// How often it ran.
    pub count: usize,
    /// Milliseconds of all together.
    pub ms: f64,
}

/// Work of a device with its place in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Kernel, product with its sizes, or collective operation.
    pub name: String,
    /// What it ran on.
    pub lane: Lane,
    /// Milliseconds since the beginning of the trace.
    pub start_ms: f64,
    /// Milliseconds since the beginning of the trace.
    pub end_ms: f64,
}

/// A queue of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The stream of all operations.
    Compute,
    /// The stream of the ranks' exchanges.
    Communication,
}

/// Name of the spans in which the stream of all operations did nothing but wait for an exchange.
pub const EXCHANGE_WAIT: &str = "wait for an exchange";

/// A mark behind something that was queued.
struct Mark {
    name: String,
    /// On the stream of exchanges: where it began. On the other stream it began with the mark before.
    exchange: Option<Event>,
    end: Event,
}

/// Marks behind everything that was queued.
#[derive(Default)]
pub(super) struct Profile(Mutex<Option<Vec<Mark>>>);

/// A trace that is being made; see [`Cuda::begin_trace`].
pub struct Trace(Event);

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("trace")
    }
}

impl Cuda {
    /// Runs `f` with a mark behind every kernel and gives the time between marks by name, largest first. The
    /// marks cost little, so the sum is near the true time as long as the device never waits for the host.
    ///
    /// # Errors
    /// Those of `f`, and of the device.
    pub fn profile<E: From<Error>>(
        &self,
        f: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<Share>, E> {
        self.synchronize()?;
        let trace = self.begin_trace()?;
        let done = f();
        let marks = self.take_marks();
        done?;
        let (mut shares, mut last) = (Vec::<Share>::new(), trace.0);
        for Mark { name, end, .. } in marks.into_iter().filter(|m| m.exchange.is_none()) {
            let ms = last.milliseconds_until(&end)?;
            match shares.iter_mut().find(|s| s.name == name) {
                Some(share) => {
                    share.count += 1;
                    share.ms += ms;
                }
                None => shares.push(Share { name, count: 1, ms }),
            }
            last = end;
        }
        shares.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        Ok(shares)
    }

    /// From here on everything that is queued gets a place in time, until [`Cuda::finish_trace`]. Nothing
    /// waits; the marks cost a few microseconds each.
    ///
    /// # Errors
    /// Those of the device.
    pub fn begin_trace(&self) -> Result<Trace> {
        let start = Event::new(self)?;
        start.record(self.stream())?;
        *self.marks() = Some(Vec::new());
        Ok(Trace(start))
    }

    /// Waits for what was queued since the trace began and says when the device did what, in the order in
    /// which it was asked for.
    ///
    /// # Errors
    /// Those of the device.
    pub fn finish_trace(&self, trace: Trace) -> Result<Vec<Span>> {
        let marks = self.take_marks();
        let (mut spans, mut last) = (Vec::with_capacity(marks.len()), 0.0);
        for mark in marks {
            let end_ms = trace.0.milliseconds_until(&mark.end)?;
            let (lane, start_ms) = match &mark.exchange {
                Some(begun) => (Lane::Communication, trace.0.milliseconds_until(begun)?),
                None => (Lane::Compute, std::mem::replace(&mut last, end_ms)),
            };
            spans.push(Span {
                name: mark.name,
                lane,
                start_ms,
                end_ms,
            });
        }
        Ok(spans)
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Option<Vec<Mark>>> {
        let marks = self.profile.0.lock();
        marks.unwrap_or_else(PoisonError::into_inner)
    }

    fn take_marks(&self) -> Vec<Mark> {
        self.marks().take().unwrap_or_default()
    }

    /// Sets a mark behind what was just queued, where a profile or a trace is being made.
    pub(super) fn mark(&self, name: impl FnOnce() -> String) -> Result<()> {
        if let Some(marks) = self.marks().as_mut() {
            let end = Event::new(self)?;
            end.record(self.stream())?;
            marks.push(Mark {
                name: name(),
                exchange: None,
                end,
            });
        }
        Ok(())
    }

    /// Queues an exchange on `stream` with `f`, with marks around it where a trace is being made.
    pub(super) fn mark_exchange<T>(
        &self,
        name: &str,
        stream: cu::CUstream,
        f: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let begun = match self.marks().is_some() {
            true => {
                let event = Event::new(self)?;
                event.record(stream)?;
                Some(event)
            }
            false => None,
        };
        let done = f()?;
        if let (Some(begun), Some(marks)) = (begun, self.marks().as_mut()) {
            let end = Event::new(self)?;
            end.record(stream)?;
            marks.push(Mark {
                name: name.to_owned(),
                exchange: Some(begun),
                end,
            });
        }
        Ok(done)
    }
}

/// A mark on the stream with a time.
struct Event(cu::CUevent);

// SAFETY: events have no thread affinity.
unsafe impl Send for Event {}

impl Event {
    fn new(cuda: &Cuda) -> Result<Self> {
        cuda.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: valid out-pointer.
        check(unsafe { cu::cuEventCreate(&mut event, 0) }, "event")?;
        Ok(Self(event))
    }

    fn record(&self, stream: cu::CUstream) -> Result<()> {
        // SAFETY: event and stream are alive.
        check(unsafe { cu::cuEventRecord(self.0, stream) }, "event")
    }

    /// Waits for `end` and gives the time between the two.
    fn milliseconds_until(&self, end: &Self) -> Result<f64> {
        let mut ms = 0f32;
        // SAFETY: both events were recorded; valid out-pointer.
        unsafe {
            check(cu::cuEventSynchronize(end.0), "event")?;
            check(cu::cuEventElapsedTime_v2(&mut ms, self.0, end.0), "event")?;
        }
        Ok(f64::from(ms))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once.
        let _ = unsafe { cu::cuEventDestroy_v2(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use crate::cuda::testing::gpu;

    #[test]
    #[ignore = "needs a GPU"]
    fn ceilings_are_plausible() {
        let device = gpu();
        let cuda = device.as_cuda().unwrap();
        println!("{:?}", cuda.info());
        let shapes = [
            (8192, 8192, 8192),
            (6400, 9216, 3072),
            (6400, 3072, 3072),
            (6400, 16384, 3072),
            (6400, 3072, 8192),
            (4608, 4096, 1024),
            (4608, 1024, 4096),
            (294_912, 768, 192),
            (294_912, 192, 768),
            (18_432, 3072, 768),
            (18_432, 768, 3072),
        ];
        for (m, n, k) in shapes {
            let rate = cuda.matmul_rate(m, n, k).unwrap();
            println!("matmul {m} x {n} x {k}: {rate:.0} TFLOP/s");
            assert!(rate > 1.0);
        }
        let rate = cuda.copy_rate(2 << 30).unwrap();
        println!("copy: {rate:.2} TB/s");
        assert!(rate > 0.1);
    }
}
