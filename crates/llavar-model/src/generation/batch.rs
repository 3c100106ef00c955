//! Many answers side by side in one cache: a sequence that ends makes room for the next prompt.
//!
//! Every answer depends on its own prompt alone. With greedy ids on a GPU a step is queued before the ids of
//! the one before are known; whatever it did to a sequence that turns out to have ended is forgotten.

use std::{collections::VecDeque, ops::ControlFlow};

use llavar_tensor::{Device, Tensor};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Generation, GenerationOptions, StopReason, sampling,
    session::{Next, Session, Text, Want},
    stop::stop_string,
};
use crate::{LlavaModel, ModelError, Result, language_model::KvCache};

/// Sequences side by side, at most: on the CPU, where products gain little from more rows, and on a GPU.
const SLOTS: [usize; 2] = [8, 32];

/// Tokens of prompts that are read in one pass, unless one alone has more.
const TOKENS_A_PASS: usize = 16 << 10;

/// A prompt that has been checked, and how long its answer may be.
pub(super) struct Job<'a> {
    pub(super) prompt: Vec<i32>,
    pub(super) features: Option<&'a Tensor>,
    pub(super) max_new: usize,
    pub(super) at_limit: StopReason,
}

impl Job<'_> {
    /// Tokens that the cache has to hold: the last id of an answer is never read.
    pub(super) fn capacity(&self) -> usize {
        self.prompt.len() + self.max_new.saturating_sub(1)
    }
}

/// An answer on its way.
struct Answer {
    ids: Vec<u32>,
    score: f64,
    stop_reason: Option<StopReason>,
    rng: ChaCha8Rng,
}

impl Answer {
    fn new(job: &Job<'_>, options: &GenerationOptions) -> Self {
        Self {
            ids: Vec::new(),
            score: 0.0,
            stop_reason: (job.max_new == 0).then(|| job.at_limit.clone()),
            rng: ChaCha8Rng::seed_from_u64(options.seed),
        }
    }

    /// Takes the next id, and notes whether the answer ends with it.
    fn accept(
        &mut self,
        next: Next,
        job: &Job<'_>,
        options: &GenerationOptions,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) {
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
        self.stop_reason = if on_token(id).is_break() {
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

/// Answers to all jobs, without beams.
pub(super) fn run(
    model: &LlavaModel,
    jobs: &[Job<'_>],
    options: &GenerationOptions,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let answers: Vec<Answer> = jobs.iter().map(|job| Answer::new(job, options)).collect();
    let waiting: VecDeque<usize> = (0..jobs.len()).filter(|i| !answers[*i].is_done()).collect();
    if !waiting.is_empty() {
        let open = waiting.iter().map(|i| &jobs[*i]);
        let capacity = open.map(Job::capacity).max().unwrap_or(0);
        let slots = slots(model, waiting.len(), capacity);
        let greedy = options.temperature == 0.0 && options.repetition_penalty == 1.0;
        let mut batch = Batch {
            session: Session::new(model, slots, capacity, options.vocab_limit)?,
            jobs,
            answers,
            options,
            on_token,
            in_slot: vec![None; slots],
            waiting,
            want: if greedy { Want::Pick } else { Want::Logits },
        };
        batch.run()?;
        return Ok(finish(jobs, batch.answers));
    }
    Ok(finish(jobs, answers))
}

fn finish(jobs: &[Job<'_>], answers: Vec<Answer>) -> Vec<Generation> {
    let both = jobs.iter().zip(answers);
    both.map(|(job, answer)| Generation {
        ids: answer.ids,
        stop_reason: answer.stop_reason.unwrap_or_else(|| job.at_limit.clone()),
        prompt_tokens: job.prompt.len(),
        score: answer.score,
    })
    .collect()
}

/// Sequences side by side: no more than fit half of the free memory of a GPU.
fn slots(model: &LlavaModel, wanted: usize, capacity: usize) -> usize {
    let config = model.language_model.config();
    let bytes = KvCache::bytes(config, capacity, model.activation_dtype());
    let most = match model.device() {
        Device::Cpu => SLOTS[0],
        Device::Cuda(cuda) => {
            let memory = cuda.memory();
            let free = memory.total.saturating_sub(memory.in_use) / 2;
            (free / bytes.max(1)).clamp(1, SLOTS[1])
        }
    };
    wanted.clamp(1, most)
}

struct Batch<'a, 'b> {
    session: Session<'a>,
    jobs: &'a [Job<'b>],
    answers: Vec<Answer>,
    options: &'a GenerationOptions,
    on_token: &'a mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    /// Which job each slot works on.
    in_slot: Vec<Option<usize>>,
    waiting: VecDeque<usize>,
    want: Want,
}

impl Batch<'_, '_> {
    fn run(&mut self) -> Result<()> {
        loop {
            for slot in 0..self.in_slot.len() {
                if self.in_slot[slot].is_some_and(|i| self.answers[i].is_done()) {
                    self.in_slot[slot] = None;
                }
                if self.in_slot[slot].is_none() {
                    self.session.clear(slot);
                    self.in_slot[slot] = self.waiting.pop_front();
                }
            }
            let open = self.in_slot.iter().enumerate();
            let open: Vec<(usize, usize)> = open.filter_map(|(s, i)| Some((s, (*i)?))).collect();
            if open.is_empty() {
                return Ok(());
            }
            let unread: Vec<(usize, usize)> = open
                .iter()
                .copied()
                .filter(|(slot, _)| self.session.held(*slot) == 0 || self.session.turns(*slot))
                .collect();
            if unread.is_empty() {
                self.decode(&open)?;
            } else {
                self.read(&unread)?;
            }
        }
    }

    /// Reads the texts of slots from their beginning.
    fn read(&mut self, unread: &[(usize, usize)]) -> Result<()> {
        let mut rest = unread;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |(_, i): &&(usize, usize)| {
                tokens += self.jobs[*i].prompt.len() + self.answers[*i].ids.len();
                tokens <= TOKENS_A_PASS
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let texts: Vec<Text<'_>> = now
                .iter()
                .map(|(slot, i)| Text {
                    slot: *slot,
                    prompt: &self.jobs[*i].prompt,
                    features: self.jobs[*i].features,
                    answer: &self.answers[*i].ids,
                })
                .collect();
            for (slot, _) in now {
                self.session.clear(*slot);
            }
            let next = self.session.read(&texts, self.want)?;
            self.accept(now, next);
        }
        Ok(())
    }

    /// Steps of all open sequences until one of them ends or has to be read again.
    fn decode(&mut self, open: &[(usize, usize)]) -> Result<()> {
        let last_ids = |answers: &[Answer]| -> Vec<u32> {
            let last = open.iter().map(|(_, i)| answers[*i].ids.last());
            last.map(|id| id.copied().unwrap_or(0)).collect()
        };
        let slots = open.iter().map(|(slot, _)| *slot);
        self.session
            .begin(slots.zip(last_ids(&self.answers)).collect())?;
        let depth = match self.want {
            Want::Pick => self.session.depth(),
            Want::Logits => 1,
        };
        let mut pending = VecDeque::new();
        loop {
            let goes_on = open.iter().all(|(slot, i)| {
                let (answer, job) = (&self.answers[*i], &self.jobs[*i]);
                !answer.is_done()
                    && answer.ids.len() + pending.len() < job.max_new
                    && !self.session.turns(*slot)
            });
            if goes_on && pending.len() < depth {
                pending.push_back(self.session.step(self.want)?);
                continue;
            }
            let Some(oldest) = pending.pop_front() else {
                return Ok(());
            };
            let next = oldest.wait()?;
            self.accept(open, next);
            let all_open = open.iter().all(|(_, i)| !self.answers[*i].is_done());
            if self.want == Want::Logits && all_open {
                self.session.set_ids(&last_ids(&self.answers))?;
            }
        }
    }

    fn accept(&mut self, of: &[(usize, usize)], next: Vec<Next>) {
        for ((_, i), next) in of.iter().zip(next) {
            let answer = &mut self.answers[*i];
            if !answer.is_done() {
                let on_token = &mut *self.on_token;
                let mut on_token = |id| on_token(*i, id);
                answer.accept(next, &self.jobs[*i], self.options, &mut on_token);
            }
        }
    }
}

/// The checks that every job passes.
pub(super) fn check(prompt: &[i32], context: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    if prompt.len() >= context {
        return Err(ModelError::PromptTooLong {
            prompt: prompt.len(),
            context,
        });
    }
    Ok(())
}
