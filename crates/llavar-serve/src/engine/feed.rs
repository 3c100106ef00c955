//! The engine's side of the waiting line: jobs out of requests, tokens to those who wait for them.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::Sender,
    },
    time::Instant,
};

use llavar_assistant::{Assistant, PictureCache, stack};
use llavar_model::generation::{Generation, Job, Room, Source};
use llavar_tensor::Device;

use super::{
    Event, Fault,
    queue::{Pending, Queue, Slot},
};
use crate::metrics::Metrics;

/// Pictures that go through the tower in one pass.
const PICTURES_A_PASS: usize = 4;

/// Requests on their way into the batch.
pub(super) struct Feed<'a> {
    pub(super) assistant: &'a Assistant,
    pub(super) room: Room,
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) pictures: PictureCache,
    /// Ends all answers where they are.
    pub(super) abort: Arc<AtomicBool>,
    /// Told once when the model is ready for its first request.
    pub(super) ready: Option<Sender<()>>,
    /// Requests taken since the model was set up.
    pub(super) taken: usize,
}

/// A request in the batch. Dropped in the middle of an answer it closes its channel, which says that the model
/// failed.
pub(super) struct Running {
    events: Sender<Event>,
    arrived: Instant,
    first_token: std::cell::Cell<Option<Instant>>,
    metrics: Arc<Metrics>,
    /// Given back with this.
    _slot: Slot,
}

impl Running {
    fn new(pending: &Pending, slot: Slot, metrics: &Arc<Metrics>) -> Self {
        metrics.running.fetch_add(1, Relaxed);
        metrics.queue_time.add(pending.submitted.elapsed());
        Self {
            events: pending.events.clone(),
            arrived: pending.arrived,
            first_token: std::cell::Cell::new(None),
            metrics: metrics.clone(),
            _slot: slot,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.metrics.running.fetch_sub(1, Relaxed);
    }
}

impl Feed<'_> {
    /// The job of a request: its pictures go through the tower here.
    fn job(&mut self, pending: &Pending) -> Result<Job, Fault> {
        let features = match pending.pictures.as_slice() {
            [] => None,
            pictures => {
                let seen = self
                    .pictures
                    .see(self.assistant, pictures, PICTURES_A_PASS)?;
                let (counts, bytes) = (self.pictures.counts(), self.pictures.bytes());
                self.metrics.set_pictures(counts, bytes);
                stack(&seen)?
            }
        };
        let model = self.assistant.model();
        let (options, context) = (pending.options.clone(), self.room.context);
        let job = Job::new(model, &pending.prompt, features.as_ref(), options, context);
        Ok(job.map_err(llavar_assistant::Error::from)?)
    }
}

impl Source for Feed<'_> {
    type Key = Running;

    fn next(&mut self, idle: bool) -> Option<(Running, Job)> {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(());
        }
        loop {
            let (pending, slot) = self.queue.take(idle)?;
            self.taken += 1;
            if self.abort.load(Relaxed) {
                // Its channel closes.
                continue;
            }
            let running = Running::new(&pending, slot, &self.metrics);
            match self.job(&pending) {
                Ok(job) => {
                    let tokens = job.prompt_tokens();
                    self.metrics.prompt_tokens.fetch_add(tokens as u64, Relaxed);
                    if pending.events.send(Event::Begun(tokens)).is_ok() {
                        return Some((running, job));
                    }
                }
                Err(fault) => {
                    let _ = pending.events.send(Event::Failed(fault));
                }
            }
        }
    }

    fn is_waiting(&self) -> bool {
        self.queue.is_waiting()
    }

    fn most_joining(&self) -> usize {
        // On the CPU a picture and its prompt take as long as a hundred steps, however many come together.
        match self.assistant.model().device() {
            Device::Cpu => 1,
            Device::Cuda(_) => usize::MAX,
        }
    }

    fn on_token(&mut self, running: &Running, id: u32, log_probability: f32) -> ControlFlow<()> {
        if running.first_token.get().is_none() {
            running.first_token.set(Some(Instant::now()));
            self.metrics.first_token.add(running.arrived.elapsed());
        }
        self.metrics.generation_tokens.fetch_add(1, Relaxed);
        let sent = running.events.send(Event::Token(id, log_probability));
        // Nobody waits for the rest where the other end is gone.
        match sent.is_err() || self.abort.load(Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn done(&mut self, running: Running, answer: Generation) {
        let steps = answer.ids.len().saturating_sub(1) as u32;
        if let Some(first) = running.first_token.get()
            && steps > 0
        {
            self.metrics.per_token.add(first.elapsed() / steps);
        }
        self.metrics.whole.add(running.arrived.elapsed());
        if !self.abort.load(Relaxed) {
            let _ = running.events.send(Event::Done(answer));
        }
    }
}
