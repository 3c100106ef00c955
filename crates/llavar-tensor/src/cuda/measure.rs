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
            start.record(self)?;
            f()?;
            end.record(self)?;
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

/// Marks behind everything that was queued.
#[derive(Default)]
pub(super) struct Profile(Mutex<Option<Vec<(String, Event)>>>);

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
        let start = Event::new(self)?;
        start.record(self)?;
        *self
            .profile
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        let done = f();
        let marks = self
            .profile
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        done?;
        let (mut shares, mut last) = (Vec::<Share>::new(), start);
        for (name, mark) in marks.into_iter().flatten() {
            let ms = last.milliseconds_until(&mark)?;
            match shares.iter_mut().find(|s| s.name == name) {
                Some(share) => {
                    share.count += 1;
                    share.ms += ms;
                }
                None => shares.push(Share { name, count: 1, ms }),
            }
            last = mark;
        }
        shares.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        Ok(shares)
    }

    /// Sets a mark behind what was just queued, where a profile is being made.
    pub(super) fn mark(&self, name: impl FnOnce() -> String) -> Result<()> {
        let mut marks = self
            .profile
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(marks) = marks.as_mut() {
            let event = Event::new(self)?;
            event.record(self)?;
            marks.push((name(), event));
        }
        Ok(())
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

    fn record(&self, cuda: &Cuda) -> Result<()> {
        // SAFETY: event and stream are alive.
        check(unsafe { cu::cuEventRecord(self.0, cuda.stream()) }, "event")
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
