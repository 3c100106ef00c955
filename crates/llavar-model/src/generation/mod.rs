//! Answers from a model: greedy, sampled or by beam search, with a cache of keys and values.

mod beam;
mod options;
mod sampling;
mod session;
mod stop;

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use llavar_tensor::Tensor;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub use options::{Decode, GenerationOptions};
pub use stop::StopReason;

use crate::{LlavaModel, ModelError, Result, model::expand_image_tokens};
use session::Session;
use stop::stop_string;

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
    options.check()?;
    let prompt = fit_to_features(model, prompt, features)?;
    if prompt.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    let context = model.context_length();
    if prompt.len() >= context {
        return Err(ModelError::PromptTooLong {
            prompt: prompt.len(),
            context,
        });
    }
    let room = context - prompt.len();
    let (max_new, at_limit) = if options.max_new_tokens <= room {
        (options.max_new_tokens, StopReason::MaxNewTokens)
    } else {
        (room, StopReason::ContextFull)
    };
    // The last id of an answer is never read.
    let capacity = prompt.len() + max_new.saturating_sub(1);
    let mut session = Session::new(model, options.num_beams, capacity, &prompt, features);
    let prompt_tokens = prompt.len();
    if options.num_beams > 1 {
        let best = beam::search(&mut session, options, max_new, at_limit)?;
        let (mut ids, mut stop_reason) = (best.ids, best.stop_reason);
        if let Some(n) = ids.iter().position(|id| on_token(*id).is_break()) {
            ids.truncate(n + 1);
            stop_reason = StopReason::Callback;
        }
        return Ok(Generation {
            ids,
            stop_reason,
            prompt_tokens,
            score: best.score,
        });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let (mut ids, mut score) = (Vec::new(), 0.0);
    let done = |ids, stop_reason, score| {
        Ok(Generation {
            ids,
            stop_reason,
            prompt_tokens,
            score,
        })
    };
    if max_new == 0 {
        return done(ids, at_limit, score);
    }
    let mut logits = session.start()?;
    loop {
        sampling::mask(&mut logits, options.vocab_limit);
        sampling::penalise(&mut logits, options.repetition_penalty, &ids);
        let id = if options.temperature == 0.0 {
            sampling::argmax(&logits)
        } else {
            sampling::sample(&logits, options, &mut rng)
        };
        sampling::log_softmax(&mut logits, None);
        score += f64::from(logits[id as usize]);
        if options.stop_ids.contains(&id) {
            return done(ids, StopReason::StopId(id), score);
        }
        ids.push(id);
        if on_token(id).is_break() {
            return done(ids, StopReason::Callback, score);
        }
        if let Some(text) = stop_string(options, &ids) {
            return done(ids, StopReason::StopString(text), score);
        }
        if ids.len() >= max_new {
            return done(ids, at_limit, score);
        }
        logits = session.step(&[&ids])?.swap_remove(0);
    }
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
