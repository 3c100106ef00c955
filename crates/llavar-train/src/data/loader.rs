//! `Loader`: worker threads that prepare samples ahead of the training loop, handed out in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Orders, Prepared, SampleSource};
use crate::{TrainError, error::SampleFault, parallel::Share, schedule::StepPlan};

/// How often a waiting consumer looks at the stop flag.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// One place of the stream: the samples of its unit, or why none could stand in, and what was skipped for
/// them.
pub(crate) struct Loaded {
    pub(crate) samples: Result<Vec<Prepared>, TrainError>,
    pub(crate) skipped: Vec<SampleFault>,
}

struct Shared {
    source: Arc<SampleSource>,
    orders: Arc<Orders>,
    /// Bad samples in a row before a place is given up; 0: the first one stops the run.
    most_in_a_row: usize,
    prefetch_bytes: usize,
    /// Which places are this rank's.
    share: (Share, StepPlan),
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    /// Next place that no worker has taken.
    next_job: u64,
    /// Next place that the consumer wants.
    wanted: u64,
    /// First place that is not part of the run any more.
    end: u64,
    ready: BTreeMap<u64, Loaded>,
    bytes: usize,
    closed: bool,
}

/// Prepares the units of a range of places, `epoch * units + position`, ahead of time.
///
/// At most `prefetch_bytes` are held, plus what the workers are at; the sample that the consumer waits
/// for is always let through, however large it is.
pub(crate) struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts `workers` threads (0: samples are prepared when they are asked for) over those of `places` that
    /// are in a micro-batch of `share`.
    pub(crate) fn start(
        source: Arc<SampleSource>,
        orders: Arc<Orders>,
        places: std::ops::Range<u64>,
        workers: usize,
        prefetch_bytes: usize,
        most_in_a_row: usize,
        (share, plan): (Share, StepPlan),
    ) -> Result<Self, TrainError> {
        let first = own_place((share, plan), places.start, places.end);
        let shared = Arc::new(Shared {
            source,
            orders,
            most_in_a_row,
            prefetch_bytes,
            share: (share, plan),
            queue: Mutex::new(Queue {
                next_job: first,
                wanted: first,
                end: places.end,
                ready: BTreeMap::new(),
                bytes: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let mut loader = Self {
            shared,
            workers: Vec::new(),
        };
        for number in 0..workers {
            let shared = Arc::clone(&loader.shared);
            let thread = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || shared.work());
            match thread {
                Ok(thread) => loader.workers.push(thread),
                // Fewer threads than asked for still do the work; without any it is done inline.
                Err(_) => break,
            }
        }
        Ok(loader)
    }

    /// The next place of the stream; `None` when `stop` was set while waiting.
    pub(crate) fn next(&mut self, stop: &AtomicBool) -> Result<Option<Loaded>, TrainError> {
        let mut queue = self.shared.lock();
        let place = queue.wanted;
        if self.workers.is_empty() {
            queue.wanted = own_place(self.shared.share, place + 1, queue.end);
            drop(queue);
            return Ok(Some(self.shared.prepare(place)));
        }
        loop {
            if let Some(loaded) = queue.ready.remove(&place) {
                queue.wanted = own_place(self.shared.share, place + 1, queue.end);
                queue.bytes -= loaded.bytes();
                self.shared.changed.notify_all();
                return Ok(Some(loaded));
            }
            if stop.load(Relaxed) {
                return Ok(None);
            }
            if place >= queue.end || self.workers.iter().all(JoinHandle::is_finished) {
                return Err(TrainError::Workers);
            }
            queue = self
                .shared
                .changed
                .wait_timeout(queue, STOP_CHECK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker cannot fail: what it does to a sample is caught.
            let _ = worker.join();
        }
    }
}

/// The first place of a share from `place` on; `end` where there is none before it.
fn own_place((share, plan): (Share, StepPlan), place: u64, end: u64) -> u64 {
    let mut places = place..end;
    places.find(|p| share.has(plan.part_of(*p))).unwrap_or(end)
}

impl Loaded {
    fn bytes(&self) -> usize {
        let samples = self.samples.as_deref().unwrap_or_default();
        samples.iter().map(Prepared::bytes).sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let place = loop {
                if queue.closed || queue.next_job >= queue.end {
                    return;
                }
                if queue.bytes < self.prefetch_bytes || queue.next_job == queue.wanted {
                    break queue.next_job;
                }
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            queue.next_job = own_place(self.share, place + 1, queue.end);
            drop(queue);
            let loaded = self.prepare(place);
            let mut queue = self.lock();
            queue.bytes += loaded.bytes();
            queue.ready.insert(place, loaded);
            drop(queue);
            self.changed.notify_all();
        }
    }

    /// The samples of a place. For one that cannot be used the next usable one of the same epoch's order
    /// stands in; in a pack, the next that fits.
    fn prepare(&self, place: u64) -> Loaded {
        let mut skipped = Vec::new();
        let samples = self.try_prepare(place, &mut skipped);
        Loaded { samples, skipped }
    }

    fn try_prepare(
        &self,
        place: u64,
        skipped: &mut Vec<SampleFault>,
    ) -> Result<Vec<Prepared>, TrainError> {
        let len = self.orders.epoch_len() as u64;
        let order = self.orders.epoch(place / len)?;
        let position = (place % len) as usize;
        let own = order.get(position).map(|&unit| self.orders.samples(unit));
        let following = || {
            let places = order.iter().cycle().skip(position + 1);
            let units = places.take(order.len().saturating_sub(1));
            units.flat_map(|&unit| self.orders.samples(unit))
        };
        let mut samples = Vec::new();
        for index in own.unwrap_or_default() {
            let mut in_a_row = 0;
            let others = following().filter(|&other| self.orders.may_replace(index, other));
            let mut last = None;
            for candidate in std::iter::once(index).chain(others) {
                match self.source.prepare(candidate) {
                    Ok(sample) => {
                        samples.push(sample);
                        skipped.extend(last.take());
                        break;
                    }
                    Err(fault) => {
                        skipped.extend(last.replace(fault));
                        in_a_row += 1;
                    }
                }
                if in_a_row > self.most_in_a_row {
                    break;
                }
            }
            let Some(fault) = last else {
                continue;
            };
            let source = Box::new(fault);
            return Err(match self.most_in_a_row {
                // Nothing may be skipped.
                0 => TrainError::BadSample { source },
                limit if in_a_row > limit => TrainError::BadSamplesInARow {
                    count: in_a_row,
                    limit,
                    source,
                },
                _ => TrainError::NoUsableSample {
                    count: in_a_row,
                    source,
                },
            });
        }
        if samples.is_empty() {
            return Err(TrainError::Workers);
        }
        Ok(samples)
    }
}
