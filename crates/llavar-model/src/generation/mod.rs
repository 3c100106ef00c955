//! Answers from a model: greedy, sampled or by beam search, with a cache of keys and values.

mod batch;
mod beam;
mod job;
mod options;
mod prefix;
mod sampling;
mod session;
mod stop;

#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

use llavar_tensor::Tensor;

pub use job::{Job, Room, Source, generate_as_they_come};
pub use options::{Decode, GenerationOptions};
pub use stop::StopReason;

use crate::{LlavaModel, ModelError, Result};

/// A generated answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new ids, without the stop id.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Tokens of the prompt, image positions included.
    pub prompt_tokens: usize,
    /// Sum of the log-probabilities of `ids` (and the stop id), natural logarithm, under the unsharpened
    /// distribution; for beams divided by the length to the power of the penalty.
    pub score: f64,
}

/// Generates an answer to a prompt.
///
/// `prompt` may have one negative id for each picture or one for each image position. `features` are the
/// projected features of its pictures, as [`LlavaModel::encode_images`] gives them. `on_token` is called
/// with each id as it comes (after the search for beams) and may end the answer; a stop id is not shown.
///
/// # Errors
/// An impossible option, an empty prompt, a prompt that does not fit the context
/// ([`ModelError::PromptTooLong`]), image positions that do not fit the features, or an id outside the
/// vocabulary.
pub fn generate(
    model: &LlavaModel,
    prompt: &[i32],
    features: Option<&Tensor>,
    options: &GenerationOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generation> {
    let prompt = Prompt {
        ids: prompt,
        features,
    };
    let mut all = generate_many(model, &[prompt], options, |_, id| on_token(id))?;
    all.pop().ok_or(ModelError::EmptyPrompt)
}

/// A prompt with the projected features of its pictures, as [`generate`] takes them.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// Ids, negative where pictures stand.
    pub ids: &'a [i32],
    /// Features of its pictures.
    pub features: Option<&'a Tensor>,
}

/// Answers to many prompts, the same ones that [`generate`] gives for each (on a GPU up to the rounding of
/// sums whose order depends on the number of rows). Several are decoded side by side, which takes little
/// longer than one; beams are searched one prompt after the other. `on_token` is called with the number of
/// a prompt and an id of its answer.
///
/// # Errors
/// As [`generate`], for the first prompt that cannot be answered, before any is.
pub fn generate_many(
    model: &LlavaModel,
    prompts: &[Prompt<'_>],
    options: &GenerationOptions,
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    options.check()?;
    let shared = Arc::new(options.clone());
    let context = model.context_length();
    let jobs = prompts
        .iter()
        .map(|prompt| Job::new(model, prompt.ids, prompt.features, shared.clone(), context))
        .collect::<Result<Vec<_>>>()?;
    if options.num_beams == 1 {
        let answers = Many::answer(model, jobs, options.vocab_limit, &mut on_token)?;
        return Ok(answers.into_iter().flatten().collect());
    }
    let mut answers = Vec::with_capacity(jobs.len());
    for (i, job) in jobs.iter().enumerate() {
        let best = beam::search(model, job, options)?;
        let (mut ids, mut stop_reason) = (best.ids, best.stop_reason);
        if let Some(n) = ids.iter().position(|id| on_token(i, *id).is_break()) {
            ids.truncate(n + 1);
            stop_reason = StopReason::Callback;
        }
        answers.push(Generation {
            ids,
            stop_reason,
            prompt_tokens: job.prompt_tokens(),
            score: best.score,
        });
    }
    Ok(answers)
}

/// Jobs that are all there, known by their number.
struct Many<'a> {
    waiting: VecDeque<(usize, Job)>,
    answers: Vec<Option<Generation>>,
    on_token: &'a mut dyn FnMut(usize, u32) -> ControlFlow<()>,
}

impl<'a> Many<'a> {
    fn answer(
        model: &LlavaModel,
        jobs: Vec<Job>,
        vocab_limit: Option<usize>,
        on_token: &'a mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Option<Generation>>> {
        let open = || jobs.iter().filter(|job| job.max_new > 0);
        let capacity = open().map(Job::capacity).max().unwrap_or(0);
        let slots = job::slots(model, open().count(), capacity);
        let mut many = Self {
            answers: jobs.iter().map(|_| None).collect(),
            waiting: jobs.into_iter().enumerate().collect(),
            on_token,
        };
        // A model is not set up for nothing.
        match capacity {
            0 => batch::answer_nothing(&mut many),
            _ => batch::run(model, (slots, capacity), vocab_limit, &mut many)?,
        }
        Ok(many.answers)
    }
}

impl Source for Many<'_> {
    type Key = usize;

    fn next(&mut self, _idle: bool) -> Option<(usize, Job)> {
        self.waiting.pop_front()
    }

    fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn on_token(&mut self, number: &usize, id: u32, _: f32) -> ControlFlow<()> {
        (self.on_token)(*number, id)
    }

    fn done(&mut self, number: usize, answer: Generation) {
        self.answers[number] = Some(answer);
    }
}
