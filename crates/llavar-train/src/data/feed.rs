//! `Feed`: micro-batches made ready ahead of the step that takes them.
//!
//! Samples come from the [`Loader`]'s workers; one more thread puts those of a step together, so that the
//! thread that drives the device only uploads. It is at most two micro-batches ahead.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Batch, Loader, Prepared, SampleSource, cuts, split_by_tokens};
use crate::{TrainError, error::SampleFault, parallel::Share, recipe::Layout, schedule::StepPlan};

/// What the step thread receives, in order: the head of a step, then its micro-batches.
pub(crate) enum Item {
    /// A step begins.
    Step(Box<StepHead>),
    /// One of its micro-batches.
    Micro(Box<Batch>),
}

/// What is known of a step before its first micro-batch.
pub(crate) struct StepHead {
    /// Samples that could not be used and for which others stand in.
    pub(crate) faults: Vec<SampleFault>,
    /// Samples that were cut to fit.
    pub(crate) cuts: Vec<cuts::Cut>,
    /// Why the step cannot be done, where a place of it has no usable sample.
    pub(crate) failed: Option<TrainError>,
    /// Tokens of this rank's part of the step whose prediction counts.
    pub(crate) supervised: usize,
    /// Tokens of it, images counted in full.
    pub(crate) tokens: usize,
    /// Pictures of it.
    pub(crate) images: usize,
    /// For each micro-batch that follows, whether there are pictures in it.
    pub(crate) with_images: Vec<bool>,
}

/// How samples become micro-batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Which units (samples or packs) each step takes.
    pub(crate) plan: StepPlan,
    /// Which of its micro-batches are this rank's.
    pub(crate) share: Share,
    /// How they lie in memory.
    pub(crate) layout: Layout,
    /// Most tokens of a micro-batch; 0: the plan's number of units.
    pub(crate) max_tokens: usize,
    /// Positions of a picture.
    pub(crate) image_tokens: usize,
}

/// Micro-batches in order.
pub(crate) struct Feed(Source);

enum Source {
    /// Made when they are asked for.
    Inline(Box<Producer>),
    Thread {
        /// Absent once the feed is being dropped.
        items: Option<Receiver<Result<Item, TrainError>>>,
        closed: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

impl Feed {
    /// Begins with `step`. With `ahead`, a thread of its own works in front of the consumer.
    pub(crate) fn start(
        loader: Loader,
        source: Arc<SampleSource>,
        cut: Cut,
        step: u64,
        ahead: bool,
    ) -> Self {
        let producer = Box::new(Producer {
            loader,
            source,
            cut,
            step,
            parts: VecDeque::new(),
        });
        if !ahead {
            return Self(Source::Inline(producer));
        }
        let closed = Arc::new(AtomicBool::new(false));
        let (sender, items) = sync_channel(1);
        let seen = Arc::clone(&closed);
        let work = move || {
            let mut producer = producer;
            loop {
                let item = match producer.next(&seen) {
                    Ok(Some(item)) => Ok(item),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let last = item.is_err();
                if sender.send(item).is_err() || last {
                    return;
                }
            }
        };
        // Without a thread nothing arrives, which the consumer reports.
        let thread = std::thread::Builder::new()
            .name("batches".into())
            .spawn(work)
            .ok();
        Self(Source::Thread {
            items: Some(items),
            closed,
            thread,
        })
    }

    /// Whether it works on its own, so that waiting for it a little at a time makes sense.
    pub(crate) fn is_ahead(&self) -> bool {
        matches!(self.0, Source::Thread { .. })
    }

    /// The next item; `None` where there is none within `patience`, or `stop` was set. A feed without
    /// thread makes it however long that takes.
    pub(crate) fn next(
        &mut self,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<Option<Item>, TrainError> {
        match &mut self.0 {
            Source::Inline(producer) => producer.next(stop),
            Source::Thread { items, .. } => {
                let items = items.as_ref().ok_or(TrainError::Workers)?;
                match items.recv_timeout(patience) {
                    Ok(item) => item.map(Some),
                    Err(RecvTimeoutError::Timeout) => Ok(None),
                    Err(RecvTimeoutError::Disconnected) => Err(TrainError::Workers),
                }
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Source::Thread {
            items,
            closed,
            thread,
        } = &mut self.0
        {
            closed.store(true, Relaxed);
            // Lets go a thread that waits for room.
            drop(items.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

struct Producer {
    loader: Loader,
    source: Arc<SampleSource>,
    cut: Cut,
    /// The next step to begin.
    step: u64,
    /// Micro-batches of the present step that are still to be made.
    parts: VecDeque<Vec<Prepared>>,
}

impl Producer {
    /// The next item; `None` when `stop` was set.
    fn next(&mut self, stop: &AtomicBool) -> Result<Option<Item>, TrainError> {
        if let Some(part) = self.parts.pop_front() {
            let (tokenizer, processor) = (self.source.tokenizer(), self.source.processor());
            let Cut {
                layout,
                image_tokens,
                ..
            } = self.cut;
            let batch = Batch::new(&part, layout, image_tokens, tokenizer, processor)?;
            return Ok(Some(Item::Micro(Box::new(batch))));
        }
        let counts: Vec<usize> = (0..)
            .zip(self.cut.plan.micro_batches(self.step))
            .filter_map(|(part, count)| self.cut.share.has(part).then_some(count))
            .collect();
        let wanted: usize = counts.iter().sum();
        let (mut units, mut faults, mut failed) = (Vec::with_capacity(wanted), Vec::new(), None);
        let mut cuts = Vec::new();
        while units.len() < wanted {
            let Some(loaded) = self.loader.next(stop)? else {
                return Ok(None);
            };
            faults.extend(loaded.skipped);
            match loaded.samples {
                Ok(mut unit) => {
                    cuts.extend(unit.iter_mut().filter_map(|sample| sample.cut.take()));
                    units.push(unit);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.step += 1;
        let samples = || units.iter().flatten();
        let supervised = samples().map(Prepared::supervised).sum();
        let length = |s: &Prepared| s.encoded.expanded_len(self.cut.image_tokens);
        let tokens = samples().map(length).sum();
        let images = samples().map(|s| s.images.len()).sum();
        if failed.is_none() {
            self.parts = self.split(units, &counts);
        }
        Ok(Some(Item::Step(Box::new(StepHead {
            faults,
            cuts,
            failed,
            supervised,
            tokens,
            images,
            with_images: self
                .parts
                .iter()
                .map(|part| part.iter().any(|s| !s.images.is_empty()))
                .collect(),
        }))))
    }

    /// Cuts the units of a step into micro-batches.
    fn split(&self, units: Vec<Vec<Prepared>>, counts: &[usize]) -> VecDeque<Vec<Prepared>> {
        if self.cut.max_tokens == 0 {
            let mut rest = units.into_iter();
            let part = |&count| rest.by_ref().take(count).flatten().collect();
            return counts.iter().map(part).collect();
        }
        let samples: Vec<Prepared> = units.into_iter().flatten().collect();
        let length = |s: &Prepared| s.encoded.expanded_len(self.cut.image_tokens);
        let lengths: Vec<usize> = samples.iter().map(length).collect();
        let mut rest = samples.into_iter();
        split_by_tokens(&lengths, self.cut.max_tokens)
            .into_iter()
            .map(|count| rest.by_ref().take(count).collect())
            .collect()
    }
}
