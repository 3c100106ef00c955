//! Answers from a model: greedy, sampled or by beam search, with a cache of keys and values.

mod batch;
mod beam;
mod options;
mod prefix;
mod sampling;
mod session;
mod stop;

#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use llavar_tensor::Tensor;
pub use options::{Decode, GenerationOptions};
pub use stop::StopReason;

use crate::{LlavaModel, ModelError, Result, model::expand_image_tokens};
use batch::Job;

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
    let context = model.context_length();
    let jobs = prompts
        .iter()
        .map(|prompt| {
            let ids = fit_to_features(model, prompt.ids, prompt.features)?;
            batch::check(&ids, context)?;
            let room = context - ids.len();
            let (max_new, at_limit) = if options.max_new_tokens <= room {
                (options.max_new_tokens, StopReason::MaxNewTokens)
            } else {
                (room, StopReason::ContextFull)
            };
            Ok(Job {
                prompt: ids,
                features: prompt.features,
                max_new,
                at_limit,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    if options.num_beams == 1 {
        return batch::run(model, &jobs, options, &mut on_token);
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
            prompt_tokens: job.prompt.len(),
            score: best.score,
        });
    }
    Ok(answers)
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
