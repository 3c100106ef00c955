//! A model of ours as an [`Answerer`].

use super::{AnswerError, Answerer, Ask, Replies, Reply, RunError, model_hash, model_id};
use crate::results::{DecodeSettings, ModelInfo};
use crate::tasks::chain;
use llavar_assistant::{Answer, Assistant, Part, PictureCache, PictureCounts, Question, user_turn};
use llavar_data::Message;
use llavar_model::generation::{GenerationOptions, StopReason};
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How much is done at once. Nothing here changes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOptions {
    /// Questions that are answered side by side.
    pub batch: usize,
    /// Pictures of one pass of the vision tower.
    pub pictures: usize,
    /// Bytes of picture features that are kept.
    pub cache: usize,
}

impl LocalOptions {
    /// What suits the device of a model.
    pub fn for_device(assistant: &Assistant) -> Self {
        let cuda = assistant.model().device().is_cuda();
        Self {
            batch: if cuda { 64 } else { 8 },
            // A CPU is busy with one, and features alone do not depend on what else is asked.
            pictures: if cuda { 16 } else { 1 },
            cache: 512 << 20,
        }
    }
}

/// A model folder that answers batches.
#[derive(Debug)]
pub struct LocalModel<'a> {
    assistant: &'a Assistant,
    info: ModelInfo,
    options: LocalOptions,
    pictures: PictureCache,
}

impl<'a> LocalModel<'a> {
    /// The model `assistant` that was loaded from `folder`.
    ///
    /// # Errors
    /// [`RunError::Model`] where the folder cannot be read, [`RunError::Answer`] where the model takes no
    /// pictures.
    pub fn new(
        assistant: &'a Assistant,
        folder: &Path,
        options: LocalOptions,
    ) -> Result<Self, RunError> {
        let model = assistant.model();
        if model.image_size().is_none() {
            let none = llavar_assistant::Error::from(llavar_model::ModelError::NoVisionTower);
            return Err(AnswerError::from(none).into());
        }
        let info = ModelInfo {
            id: model_id(folder),
            hash: Some(model_hash(folder)?),
            dtype: Some(model.activation_dtype().to_string()),
            template: Some(assistant.template().name().as_str().to_owned()),
            endpoint: None,
        };
        Ok(Self {
            assistant,
            info,
            options,
            pictures: PictureCache::new(options.cache),
        })
    }

    /// What the cache of picture features has done.
    pub fn pictures(&self) -> PictureCounts {
        self.pictures.counts()
    }

    fn generation(&self, decode: &DecodeSettings) -> GenerationOptions {
        GenerationOptions {
            max_new_tokens: decode.max_new_tokens,
            temperature: decode.temperature,
            top_p: decode.top_p,
            top_k: decode.top_k,
            num_beams: decode.num_beams,
            repetition_penalty: decode.repetition_penalty,
            seed: decode.seed,
            ..self.assistant.defaults()
        }
    }
}

impl LocalModel<'_> {
    /// Asks again about both halves of the pictures whose answers are unsure, and leaves the surest. An answer
    /// that the stop cuts short here was cut short.
    fn look_closer(
        &mut self,
        asks: &[Ask<'_>],
        messages: &[[Message; 1]],
        options: &GenerationOptions,
        stop: &AtomicBool,
        answers: &mut [(usize, Result<Answer, llavar_assistant::Error>)],
    ) -> Result<(), AnswerError> {
        let unsure: Vec<usize> = (0..answers.len())
            .filter(|at| {
                let cut = |answer: &Answer| answer.stop_reason == StopReason::Callback;
                matches!(&answers[*at].1, Ok(answer) if answer.is_unsure() && !cut(answer))
            })
            .collect();
        let halves = [Part::First, Part::Second];
        let parts: Vec<(&Path, Part)> = unsure
            .iter()
            .flat_map(|at| halves.map(|half| (asks[answers[*at].0].image, half)))
            .collect();
        let seen = self
            .pictures
            .see_parts(self.assistant, &parts, self.options.pictures)?;
        let (mut whose, mut questions) = (Vec::new(), Vec::new());
        for (at, seen) in unsure.iter().flat_map(|at| [at, at]).zip(&seen) {
            // The whole picture was read: so were its halves, or the answer stays as it is.
            if let Ok(features) = seen {
                whose.push(*at);
                questions.push(Question {
                    messages: &messages[answers[*at].0],
                    features: Some(features),
                });
            }
        }
        for (whose, questions) in whose
            .chunks(self.options.batch)
            .zip(questions.chunks(self.options.batch))
        {
            let closer = self
                .assistant
                .answer_many(questions, options, until(stop))?;
            for (at, closer) in whose.iter().zip(closer) {
                let (Ok(first), Ok(closer)) = (&answers[*at].1, closer) else {
                    continue;
                };
                let cut = closer.stop_reason == StopReason::Callback;
                answers[*at].1 = Ok(match cut {
                    true => closer,
                    false if first.stop_reason == StopReason::Callback => first.clone(),
                    false => first.clone().or_surer(closer),
                });
            }
        }
        Ok(())
    }
}

impl Answerer for LocalModel<'_> {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn at_once(&self) -> usize {
        self.options.batch
    }

    fn repetition_penalty(&self) -> f32 {
        self.assistant.defaults().repetition_penalty
    }

    fn check(&self, decode: &DecodeSettings) -> Result<(), AnswerError> {
        let checked = self.generation(decode).check();
        Ok(checked.map_err(llavar_assistant::Error::from)?)
    }

    fn answer(
        &mut self,
        asks: &[Ask<'_>],
        decode: &DecodeSettings,
        stop: &AtomicBool,
        deliver: &mut dyn FnMut(Replies) -> ControlFlow<()>,
    ) -> Result<(), AnswerError> {
        let paths: Vec<&Path> = asks.iter().map(|ask| ask.image).collect();
        let seen = self
            .pictures
            .see_files(self.assistant, &paths, self.options.pictures)?;
        let messages: Vec<[Message; 1]> =
            asks.iter().map(|ask| [user_turn(1, &ask.prompt)]).collect();
        let mut replies = Replies::new();
        let (mut numbers, mut questions) = (Vec::new(), Vec::new());
        for (number, (seen, messages)) in seen.iter().zip(&messages).enumerate() {
            match seen {
                Ok(features) => {
                    numbers.push(number);
                    questions.push(Question {
                        messages,
                        features: Some(features),
                    });
                }
                Err(error) => replies.push((number, Err(chain(&**error)))),
            }
        }
        let options = self.generation(decode);
        let answers = self
            .assistant
            .answer_many(&questions, &options, until(stop))?;
        let mut answers: Vec<(usize, Result<Answer, _>)> =
            numbers.into_iter().zip(answers).collect();
        if decode.closer {
            self.look_closer(asks, &messages, &options, stop, &mut answers)?;
        }
        for (number, answer) in answers {
            match answer {
                // It was cut short by the stop: asked again next time.
                Ok(answer) if answer.stop_reason == StopReason::Callback => {}
                Ok(answer) => replies.push((number, Ok(reply(answer)))),
                Err(error) => replies.push((number, Err(chain(&error)))),
            }
        }
        replies.sort_by_key(|(number, _)| *number);
        let _ = deliver(replies);
        Ok(())
    }

    fn summary(&self) -> Option<String> {
        let counts = self.pictures.counts();
        Some(format!(
            "{} pictures encoded for {} questions ({} reused, {} let go), {:.1} MiB of features kept",
            counts.encoded,
            counts.asked,
            counts.asked - counts.failed - counts.encoded,
            counts.dropped,
            self.pictures.bytes() as f64 / f64::from(1 << 20),
        ))
    }
}

/// Goes on until somebody stops it.
fn until(stop: &AtomicBool) -> impl FnMut() -> ControlFlow<()> {
    || match stop.load(Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

fn reply(answer: Answer) -> Reply {
    let mut metadata = Map::new();
    let mut add = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    add("prompt_tokens", answer.prompt_tokens.into());
    add("new_tokens", answer.new_tokens.into());
    add("stop_reason", answer.stop_reason.name().into());
    // Nats, as far as sums in another order leave them alone.
    add("score", ((answer.score * 1e3).round() / 1e3).into());
    Reply {
        text: answer.text,
        metadata,
    }
}
