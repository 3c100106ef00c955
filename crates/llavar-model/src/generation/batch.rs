//! Many answers side by side in one cache: a sequence that ends makes room for the next prompt.
//!
//! Every answer depends on its own prompt alone. With greedy ids on a GPU a step is queued before the ids of
//! the one before are known; whatever it did to a sequence that turns out to have ended is forgotten.

use std::{collections::VecDeque, ops::ControlFlow};

use llavar_tensor::Device;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Generation, GenerationOptions, Job, Source, StopReason, sampling,
    session::{Next, Session, Text, Want},
    stop::stop_string,
};
use crate::{LlavaModel, Result};

/// Tokens of prompts that are read in one pass, unless one alone has more: on the CPU, where a pass gains nothing
/// from more and the first answers begin sooner, and on a GPU.
const TOKENS_A_PASS: [usize; 2] = [2 << 10, 16 << 10];

/// An answer on its way.
struct Answer {
    ids: Vec<u32>,
    score: f64,
    stop_reason: Option<StopReason>,
    rng: ChaCha8Rng,
}

impl Answer {
    fn new(options: &GenerationOptions) -> Self {
        Self {
            ids: Vec::new(),
            score: 0.0,
            stop_reason: None,
            rng: ChaCha8Rng::seed_from_u64(options.seed),
        }
    }

    /// Takes the next id, and notes whether the answer ends with it.
    fn accept(
        &mut self,
        next: Next,
        job: &Job,
        on_token: impl FnOnce(u32, f32) -> ControlFlow<()>,
    ) {
        let options = &*job.options;
        let (id, log_probability) = match next {
            Next::Picked(id, p) => (id, p),
            Next::Logits(logits) => self.choose(logits, options),
        };
        self.score += f64::from(log_probability);
        if options.stop_ids.contains(&id) {
            self.stop_reason = Some(StopReason::StopId(id));
            return;
        }
        self.ids.push(id);
        self.stop_reason = if on_token(id, log_probability).is_break() {
            Some(StopReason::Callback)
        } else if let Some(text) = stop_string(options, &self.ids) {
            Some(StopReason::StopString(text))
        } else {
            (self.ids.len() >= job.max_new).then(|| job.at_limit.clone())
        };
    }

    /// An id and its log-probability.
    fn choose(&mut self, mut logits: Vec<f32>, options: &GenerationOptions) -> (u32, f32) {
        sampling::mask(&mut logits, options.vocab_limit);
        sampling::penalise(&mut logits, options.repetition_penalty, &self.ids);
        let id = if options.temperature == 0.0 {
            sampling::argmax(&logits)
        } else {
            sampling::sample(&logits, options, &mut self.rng)
        };
        sampling::log_softmax(&mut logits, None);
        (id, logits[id as usize])
    }

    fn is_done(&self) -> bool {
        self.stop_reason.is_some()
    }
}

/// A job in its slot.
struct Running<K> {
    key: K,
    job: Job,
    answer: Answer,
}

impl<K> Running<K> {
    fn is_done(&self) -> bool {
        self.answer.is_done()
    }
}

/// Answers the jobs of a source, without beams, until it has no more. `capacity`: tokens that each of the
/// `slots` sequences can have, as [`Job::capacity`] counts them.
pub(super) fn run<S: Source>(
    model: &LlavaModel,
    (slots, capacity): (usize, usize),
    vocab_limit: Option<usize>,
    source: &mut S,
) -> Result<()> {
    let mut batch = Batch {
        tokens_a_pass: match model.device() {
            Device::Cpu => TOKENS_A_PASS[0],
            Device::Cuda(_) => TOKENS_A_PASS[1],
        },
        session: Session::new(model, slots, capacity, vocab_limit)?,
        source,
        slots: (0..slots).map(|_| None).collect(),
    };
    batch.run()
}

/// Hands back jobs that have nothing to generate, and takes no other.
pub(super) fn answer_nothing<S: Source>(source: &mut S) {
    let _ = next_job(source, true);
}

/// The next job that has anything to generate; those that have not are answered on the way.
fn next_job<S: Source>(source: &mut S, idle: bool) -> Option<(S::Key, Job)> {
    loop {
        let (key, job) = source.next(idle)?;
        if job.max_new > 0 {
            return Some((key, job));
        }
        let nothing = Answer::new(&job.options);
        source.done(key, finish(&job, nothing));
    }
}

struct Batch<'a, S: Source> {
    session: Session<'a>,
    source: &'a mut S,
    slots: Vec<Option<Running<S::Key>>>,
    tokens_a_pass: usize,
}

impl<S: Source> Batch<'_, S> {
    fn run(&mut self) -> Result<()> {
        let mut joined = 0;
        loop {
            self.hand_out();
            // Those that may join at once have joined: a step for all comes first.
            let most = self.source.most_joining();
            let alone = self.slots.iter().all(Option::is_none);
            joined = match joined < most || alone {
                true => self.fill(most),
                false => 0,
            };
            let slots = 0..self.slots.len();
            let open: Vec<usize> = slots.filter(|slot| self.slots[*slot].is_some()).collect();
            if open.is_empty() {
                return Ok(());
            }
            let unread: Vec<usize> = open
                .iter()
                .copied()
                .filter(|slot| self.session.held(*slot) == 0 || self.session.turns(*slot))
                .collect();
            if unread.is_empty() {
                self.decode(&open)?;
            } else {
                self.read(&unread)?;
            }
        }
    }

    /// Gives finished answers to their owner.
    fn hand_out(&mut self) {
        for (slot, running) in self.slots.iter_mut().enumerate() {
            if let Some(done) = running.take_if(|running| running.is_done()) {
                self.session.clear(slot);
                self.source.done(done.key, finish(&done.job, done.answer));
            }
        }
    }

    /// Puts at most so many waiting jobs into free slots; how many there were.
    fn fill(&mut self, most: usize) -> usize {
        let mut joined = 0;
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                continue;
            }
            if joined == most {
                break;
            }
            let idle = self.slots.iter().all(Option::is_none);
            let Some((key, job)) = next_job(self.source, idle) else {
                break;
            };
            let answer = Answer::new(&job.options);
            self.slots[slot] = Some(Running { key, job, answer });
            joined += 1;
        }
        joined
    }

    /// Reads the texts of slots from their beginning.
    fn read(&mut self, unread: &[usize]) -> Result<()> {
        let mut rest = unread;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |slot: &&usize| {
                let length = |r: &Running<_>| r.job.prompt.len() + r.answer.ids.len();
                tokens += self.slots[**slot].as_ref().map_or(0, length);
                tokens <= self.tokens_a_pass
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let text = |slot: &usize| {
                let running = self.slots[*slot].as_ref()?;
                Some(Text {
                    slot: *slot,
                    prompt: &running.job.prompt,
                    features: running.job.features.as_ref(),
                    answer: &running.answer.ids,
                })
            };
            let texts: Vec<Text<'_>> = now.iter().filter_map(text).collect();
            let want = self.want(now);
            let next = self.session.read(&texts, want)?;
            self.accept(now, next);
        }
        Ok(())
    }

    /// Steps of all open sequences until one of them ends or has to be read again, or one that waits can
    /// join them.
    fn decode(&mut self, open: &[usize]) -> Result<()> {
        let rows = open.iter().copied().zip(self.last_ids(open)).collect();
        self.session.begin(rows)?;
        let want = self.want(open);
        let depth = match want {
            Want::Pick => self.session.depth(),
            Want::Logits => 1,
        };
        let room = open.len() < self.slots.len();
        let (mut pending, mut begun) = (VecDeque::new(), false);
        loop {
            // At least one step, whoever waits.
            let goes_on = !(begun && room && self.source.is_waiting())
                && self.of(open).zip(open).all(|(running, slot)| {
                    let length = running.answer.ids.len() + pending.len();
                    !running.is_done() && length < running.job.max_new && !self.session.turns(*slot)
                });
            if goes_on && pending.len() < depth {
                pending.push_back(self.session.step(want)?);
                begun = true;
                continue;
            }
            let Some(oldest) = pending.pop_front() else {
                return Ok(());
            };
            let next = oldest.wait()?;
            self.accept(open, next);
            if want == Want::Logits && self.of(open).all(|running| !running.is_done()) {
                self.session.set_ids(&self.last_ids(open))?;
            }
        }
    }

    fn accept(&mut self, slots: &[usize], next: Vec<Next>) {
        for (slot, next) in slots.iter().zip(next) {
            let Some(running) = &mut self.slots[*slot] else {
                continue;
            };
            if !running.is_done() {
                let (key, source) = (&running.key, &mut *self.source);
                let on_token = |id, log_probability| source.on_token(key, id, log_probability);
                running.answer.accept(next, &running.job, on_token);
            }
        }
    }

    fn of(&self, slots: &[usize]) -> impl Iterator<Item = &Running<S::Key>> {
        slots.iter().filter_map(|slot| self.slots[*slot].as_ref())
    }

    fn last_ids(&self, slots: &[usize]) -> Vec<u32> {
        let last = |running: &Running<_>| running.answer.ids.last().copied().unwrap_or(0);
        self.of(slots).map(last).collect()
    }

    /// What has to be known of the next tokens of all these sequences.
    fn want(&self, slots: &[usize]) -> Want {
        let greedy = |options: &GenerationOptions| {
            options.temperature == 0.0 && options.repetition_penalty == 1.0
        };
        match self.of(slots).all(|running| greedy(&running.job.options)) {
            true => Want::Pick,
            false => Want::Logits,
        }
    }
}

fn finish(job: &Job, answer: Answer) -> Generation {
    Generation {
        ids: answer.ids,
        stop_reason: answer.stop_reason.unwrap_or_else(|| job.at_limit.clone()),
        prompt_tokens: job.prompt.len(),
        score: answer.score,
    }
}
