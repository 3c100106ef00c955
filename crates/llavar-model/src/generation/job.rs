//! What is asked of a batch, and where it comes from.

use std::{ops::ControlFlow, sync::Arc};

use llavar_tensor::{Device, Tensor};

use super::{Generation, GenerationOptions, StopReason, batch};
use crate::{
    LlavaModel, ModelError, Result, language_model::KvCache, memory::available_bytes,
    model::expand_image_tokens,
};

/// Sequences side by side, at most: on the CPU, where products gain little from more rows, and on a GPU.
const SLOTS: [usize; 2] = [8, 32];

/// A prompt that has been checked, and how it is answered.
#[derive(Debug, Clone)]
pub struct Job {
    /// One negative id for each image position.
    pub(super) prompt: Vec<i32>,
    pub(super) features: Option<Tensor>,
    pub(super) options: Arc<GenerationOptions>,
    /// Longest answer.
    pub(super) max_new: usize,
    /// Why an answer of that length ends.
    pub(super) at_limit: StopReason,
}

impl Job {
    /// A prompt with the features of its pictures, as [`generate`] takes them, for a text of at most `context`
    /// tokens, prompt and answer together; the model's own limit holds too.
    ///
    /// # Errors
    /// As [`generate`].
    ///
    /// [`generate`]: super::generate
    pub fn new(
        model: &LlavaModel,
        prompt: &[i32],
        features: Option<&Tensor>,
        options: Arc<GenerationOptions>,
        context: usize,
    ) -> Result<Self> {
        options.check()?;
        let prompt = fit_to_features(model, prompt, features)?;
        let context = context.min(model.context_length());
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if prompt.len() >= context {
            let prompt = prompt.len();
            return Err(ModelError::PromptTooLong { prompt, context });
        }
        let room = context - prompt.len();
        let (max_new, at_limit) = match options.max_new_tokens <= room {
            true => (options.max_new_tokens, StopReason::MaxNewTokens),
            false => (room, StopReason::ContextFull),
        };
        Ok(Self {
            prompt,
            features: features.cloned(),
            options,
            max_new,
            at_limit,
        })
    }

    /// Tokens of the prompt, image positions included.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Tokens that the cache has to hold: the last id of an answer is never read.
    pub(super) fn capacity(&self) -> usize {
        self.prompt.len() + self.max_new.saturating_sub(1)
    }
}

/// Where jobs come from and answers go. All is called between steps on the thread that generates, so whoever
/// takes long there keeps every answer waiting.
pub trait Source {
    /// What a job is known by to its owner. It is dropped without [`Source::done`] only where the model fails.
    type Key;

    /// The next job, made for the context of the [`Room`]. With `idle` nothing else is being answered: this may wait, and `None`
    /// ends the work. Otherwise `None` says that nothing waits now.
    fn next(&mut self, idle: bool) -> Option<(Self::Key, Job)>;

    /// Whether [`Source::next`] has something that could join the answers under way.
    fn is_waiting(&self) -> bool;

    /// Jobs that may join the answers under way between two steps. Each keeps them waiting while it is taken and
    /// its prompt is read; all at once are read in fewer passes.
    fn most_joining(&self) -> usize {
        usize::MAX
    }

    /// Takes an id of an answer and its log-probability, natural logarithm; a break ends the answer with it.
    fn on_token(&mut self, key: &Self::Key, id: u32, log_probability: f32) -> ControlFlow<()>;

    /// Takes a finished answer. Its room is free already.
    fn done(&mut self, key: Self::Key, answer: Generation);
}

/// How many answers are generated side by side, and how long a text can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Sequences side by side.
    pub slots: usize,
    /// Tokens of a sequence, prompt and answer together.
    pub context: usize,
}

impl Room {
    /// What a model can have: `slots` sequences (as many as are worth it by default) of `context` tokens (the
    /// model's own limit by default, and at most), no more than half of the free memory holds.
    pub fn of(model: &LlavaModel, slots: Option<usize>, context: Option<usize>) -> Self {
        let most = model.context_length();
        let context = context.unwrap_or(most).clamp(2, most.max(2));
        let wanted = slots.unwrap_or(match model.device() {
            Device::Cpu => SLOTS[0],
            Device::Cuda(_) => SLOTS[1],
        });
        let slots = wanted.clamp(1, fitting(model, context).unwrap_or(usize::MAX).max(1));
        Self { slots, context }
    }

    /// Bytes of keys and values.
    pub fn bytes(&self, model: &LlavaModel) -> usize {
        self.slots * slot_bytes(model, self.context)
    }
}

/// Answers the jobs of `source` as they come, each as [`generate`] answers it alone: a job joins the others at
/// the next step after it came, and an answer that ends makes room at once. Beams are not searched for.
///
/// # Errors
/// When the model fails; faults of single jobs are found by [`Job::new`].
///
/// [`generate`]: super::generate
pub fn generate_as_they_come<S: Source>(
    model: &LlavaModel,
    room: Room,
    vocab_limit: Option<usize>,
    source: &mut S,
) -> Result<()> {
    // The last id of an answer is never read.
    let capacity = room.context - 1;
    batch::run(model, (room.slots, capacity), vocab_limit, source)
}

/// Sequences side by side for jobs that are all there.
pub(super) fn slots(model: &LlavaModel, wanted: usize, capacity: usize) -> usize {
    let most = match model.device() {
        Device::Cpu => SLOTS[0],
        Device::Cuda(_) => {
            let fitting = fitting(model, capacity).unwrap_or(SLOTS[1]);
            fitting.clamp(1, SLOTS[1])
        }
    };
    wanted.clamp(1, most)
}

/// Sequences whose keys and values fill half of the free memory, where the system tells how much that is.
fn fitting(model: &LlavaModel, capacity: usize) -> Option<usize> {
    let free = match model.device() {
        Device::Cpu => available_bytes()?,
        Device::Cuda(cuda) => {
            let memory = cuda.memory();
            memory.total.saturating_sub(memory.in_use)
        }
    };
    Some(free / 2 / slot_bytes(model, capacity).max(1))
}

fn slot_bytes(model: &LlavaModel, capacity: usize) -> usize {
    let config = model.language_model.config();
    KvCache::bytes(config, capacity, model.activation_dtype())
}

/// The prompt with one negative id for each image position.
fn fit_to_features(
    model: &LlavaModel,
    prompt: &[i32],
    features: Option<&Tensor>,
) -> Result<Vec<i32>> {
    let negative = prompt.iter().filter(|id| **id < 0).count();
    let rows = features.map_or(0, Tensor::rows);
    if negative == rows {
        return Ok(prompt.to_vec());
    }
    let tokens_per_image = model.tokens_per_image().unwrap_or(0);
    if tokens_per_image > 0 && negative * tokens_per_image == rows {
        return Ok(expand_image_tokens(prompt, tokens_per_image));
    }
    Err(ModelError::ImagePositions {
        expected: rows,
        got: negative,
        tokens_per_image,
    })
}
